//! Types of all values, and the values that can be known before a run.
//!
//! Shape arithmetic (`Shape -> Gather -> Concat -> Reshape`) is ordinary nodes on small tensors:
//! when the extents are known, those nodes are evaluated here by their reference, so that shapes
//! follow from shapes without a second definition of any operator.
//!
//! The body of a loop is inferred again until its types hold for every turn. For loops in loops
//! that would be exponential in their depth, so what a body was found to take on an earlier visit
//! is remembered ([`Visits`]): its inputs only ever widen, and a visit that changes nothing is
//! free.

use std::cell::RefCell;
use std::collections::BTreeMap;

use hetra_ir::{Dim, Graph, Node, Type, ValueId};
use hetra_ops::{
    EvalCtx, InferCtx, Interpreter, NodeError, OpDef, OpError, find, meet, without_shape,
};
use hetra_tensor::{Tensor, Value};

use crate::extents;

/// Most elements of a value that inference computes: shapes are small, activations are not.
const FOLD_ELEMENTS_MAX: usize = 4096;

/// Visits after which nothing is believed of a body's inputs. What a body captures may change with
/// each visit of the body around it, so at depth `d` a body is inferred at most `d` times as often.
const VISITS_MAX: usize = 64;

/// What is known of a graph's values before a run.
#[derive(Clone, Debug, Default)]
pub struct Inferred {
    /// Type of each value, by `ValueId`.
    pub types: Vec<Type>,
    /// Values that are known and are not constants of the graph.
    pub known: BTreeMap<ValueId, Value>,
}

/// Infers all types from the types of the inputs (and of the captures, for a body).
///
/// # Errors
/// The first node whose arguments contradict its operator.
pub fn infer(graph: &Graph, inputs: &[Type], captures: &[Type]) -> Result<Inferred, NodeError> {
    infer_graph(graph, inputs, captures, &Visits::default())
}

/// What was inferred of a graph and of each body in it, where its inference ended.
pub(crate) struct Everywhere<'a> {
    graph: &'a Graph,
    pub(crate) inferred: Inferred,
    visits: Visits,
}

/// As [`infer`], with what is needed to look into the bodies.
///
/// # Errors
/// As [`infer`].
pub(crate) fn infer_everywhere<'a>(
    graph: &'a Graph,
    inputs: &[Type],
) -> Result<Everywhere<'a>, NodeError> {
    let visits = Visits::default();
    Ok(Everywhere { graph, inferred: infer_graph(graph, inputs, &[], &visits)?, visits })
}

impl Everywhere<'_> {
    /// Calls `look` with the graph and each body that inference came to, and what is known of it.
    pub(crate) fn for_each(&self, look: &mut dyn FnMut(&Graph, &Inferred)) {
        look(self.graph, &self.inferred);
        self.for_each_body(self.graph, look);
    }

    fn for_each_body(&self, graph: &Graph, look: &mut dyn FnMut(&Graph, &Inferred)) {
        for node in &graph.nodes {
            for (_, body) in node.attrs.graphs() {
                let key = (std::ptr::from_ref(node).addr(), std::ptr::from_ref(&**body).addr());
                let types = |visit: &Visit| (visit.types(body), visit.captures.clone());
                let visit = self.visits.0.borrow().get(&key).map(types);
                // A branch that is not taken has not been visited; what lies in a body has been, by
                // the same types, so that this is not another inference of all of it.
                let Some((inputs, captures)) = visit else { continue };
                if let Ok(inferred) = infer_graph(body, &inputs, &captures, &self.visits) {
                    look(body, &inferred);
                    self.for_each_body(body, look);
                }
            }
        }
    }
}

fn infer_graph(
    graph: &Graph,
    inputs: &[Type],
    captures: &[Type],
    visits: &Visits,
) -> Result<Inferred, NodeError> {
    let mut state = State {
        graph,
        visits,
        inferred: Inferred {
            types: vec![Type::Unknown; graph.values.len()],
            known: BTreeMap::new(),
        },
        extents: BTreeMap::new(),
    };
    for (id, value) in &graph.constants {
        state.inferred.types[id.index()] = Type::of(value);
    }
    for (&id, ty) in graph.inputs.iter().zip(inputs) {
        state.inferred.types[id.index()] = ty.clone();
    }
    for (capture, ty) in graph.captures.iter().zip(captures) {
        state.inferred.types[capture.inner.index()] = ty.clone();
    }
    for node in &graph.nodes {
        state.node(node).map_err(|source| NodeError {
            node: node.label(graph),
            op: node.op.clone(),
            source,
        })?;
    }
    Ok(state.inferred)
}

/// The bodies that one inference has seen, by the addresses of the node and the body: both stay
/// where they are, since the graph around is borrowed.
#[derive(Default)]
struct Visits(RefCell<BTreeMap<(usize, usize), Visit>>);

/// The last visit of a body.
struct Visit {
    /// What all visits had in common.
    inputs: Vec<Type>,
    captures: Vec<Type>,
    outputs: Vec<Type>,
    count: usize,
}

impl Visits {
    /// Output types of a body, from the types of its inputs and captures.
    fn body(
        &self,
        node: &Node,
        body: &Graph,
        inputs: &[Type],
        captures: Vec<Type>,
    ) -> Result<Vec<Type>, NodeError> {
        let key = (std::ptr::from_ref(node).addr(), std::ptr::from_ref(body).addr());
        let mut inputs = inputs.to_vec();
        let mut count = 1;
        if let Some(last) = self.0.borrow().get(&key) {
            count += last.count;
            match count > VISITS_MAX {
                true => inputs.iter_mut().for_each(|ty| *ty = without_shape(ty)),
                false => inputs.iter_mut().zip(&last.inputs).for_each(|(a, b)| *a = meet(a, b)),
            }
            if last.inputs == inputs && last.captures == captures {
                return Ok(last.outputs.clone());
            }
        }
        let mut visit = Visit { inputs, captures, outputs: Vec::new(), count };
        let inferred = infer_graph(body, &visit.types(body), &visit.captures, self)?;
        let output = |id: &ValueId| inferred.types[id.index()].clone();
        let outputs: Vec<Type> = body.outputs.iter().map(output).collect();
        visit.outputs.clone_from(&outputs);
        self.0.borrow_mut().insert(key, visit);
        Ok(outputs)
    }
}

impl Visit {
    /// The types of the inputs of the body: as it is called, else as it declares them.
    fn types(&self, body: &Graph) -> Vec<Type> {
        let declared = |(&id, given): (&ValueId, &Type)| match given {
            Type::Unknown => body.ty(id).clone(),
            given => given.clone(),
        };
        let given = self.inputs.iter().chain(std::iter::repeat(&Type::Unknown));
        body.inputs.iter().zip(given).map(declared).collect()
    }
}

struct State<'a> {
    graph: &'a Graph,
    visits: &'a Visits,
    inferred: Inferred,
    /// Elements of small tensors, where some are symbols.
    extents: BTreeMap<ValueId, Vec<Dim>>,
}

impl State<'_> {
    fn node(&mut self, node: &Node) -> Result<(), OpError> {
        let def = find(&node.op).ok_or_else(|| OpError::unsupported("unknown operator"))?;
        let inputs: Vec<Option<Type>> = node
            .inputs
            .iter()
            .map(|input| input.map(|id| self.inferred.types[id.index()].clone()))
            .collect();
        let known: Vec<Option<Tensor>> =
            node.inputs.iter().map(|input| input.and_then(|id| self.small_value(id))).collect();
        let types = &self.inferred.types;
        let body = |body: &Graph, inputs: &[Type]| {
            let outer = body.captures.iter().map(|capture| types[capture.outer.index()].clone());
            let outputs = self.visits.body(node, body, inputs, outer.collect());
            outputs.map_err(OpError::from)
        };
        let ctx = InferCtx { node, inputs: &inputs, known: &known, body: &body };
        if let Some(tensor) = def.from_types.and_then(|from_types| from_types(&ctx)) {
            self.learn(node, vec![tensor.into()]);
            return Ok(());
        }
        let mut outputs = (def.infer)(&ctx)?;
        if self.foldable(node, def, &outputs)
            && let Some(values) = self.fold(node, def)
        {
            self.learn(node, values);
            return Ok(());
        }
        self.follow(node, &inputs, &known, &mut outputs);
        for (id, ty) in node.outputs.iter().zip(outputs) {
            if let Some(id) = id {
                // What the file declares stands where inference knows nothing of the value.
                let declared = &self.graph.ty(*id);
                let ty = if ty == Type::Unknown { declared_dtype(declared) } else { ty };
                self.inferred.types[id.index()] = ty;
            }
        }
        Ok(())
    }

    /// Follows extents that are symbols through tensors that hold them, into `outputs`.
    fn follow(
        &mut self,
        node: &Node,
        types: &[Option<Type>],
        known: &[Option<Tensor>],
        outputs: &mut [Type],
    ) {
        let followed: Vec<Option<Vec<Dim>>> = node
            .inputs
            .iter()
            .map(|input| input.and_then(|id| self.extents.get(&id).cloned()))
            .collect();
        let inputs = extents::Inputs { node, types, known, followed: &followed };
        if let (Some(shape), Some(Type::Tensor(ty))) = (inputs.shape(), outputs.first_mut()) {
            ty.shape = Some(shape);
        }
        let small = outputs.first().and_then(Type::dims).is_some_and(|dims| dims.len() <= 1);
        if let (true, Some(id), Some(dims)) = (small, node.output(0), inputs.follow()) {
            self.extents.insert(id, dims);
        }
    }

    fn value(&self, id: ValueId) -> Option<&Value> {
        self.graph
            .constants
            .get(&id)
            .filter(|_| !self.graph.inputs.contains(&id))
            .or_else(|| self.inferred.known.get(&id))
    }

    fn small_value(&self, id: ValueId) -> Option<Tensor> {
        let tensor = self.value(id)?.as_tensor()?;
        (tensor.len() <= FOLD_ELEMENTS_MAX).then(|| tensor.clone())
    }

    /// All inputs are known, and inputs and outputs are small.
    fn foldable(&self, node: &Node, def: &OpDef, outputs: &[Type]) -> bool {
        let small = |ty: &Type| match ty.known_shape() {
            Some(shape) => {
                hetra_tensor::element_count(&shape).is_ok_and(|count| count <= FOLD_ELEMENTS_MAX)
            }
            // The size is not known: fold only if the inputs are tiny and nothing can blow up.
            None => false,
        };
        def.pure
            && node.attrs.graphs().next().is_none()
            && !node.inputs.is_empty()
            && node.inputs.iter().flatten().all(|&id| self.small_value(id).is_some())
            && outputs.iter().all(small)
    }

    fn fold(&self, node: &Node, def: &OpDef) -> Option<Vec<Value>> {
        let inputs: Vec<Option<Value>> =
            node.inputs.iter().map(|input| input.and_then(|id| self.value(id).cloned())).collect();
        let outer = |_| None;
        let ctx = EvalCtx { node, inputs: &inputs, outer: &outer, runner: &Interpreter };
        // A fault here is reported when the node runs, if it ever does.
        (def.eval)(&ctx).ok()
    }

    fn learn(&mut self, node: &Node, values: Vec<Value>) {
        for (id, value) in node.outputs.iter().zip(values) {
            if let Some(id) = id {
                self.inferred.types[id.index()] = Type::of(&value);
                self.inferred.known.insert(*id, value);
            }
        }
    }
}

/// A declared type with its shape forgotten: files declare wrong shapes more often than dtypes.
fn declared_dtype(declared: &Type) -> Type {
    declared.dtype().map_or(Type::Unknown, Type::unranked)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hetra_tensor::DType;

    use super::*;

    /// The body of a loop that carries `carried` values and holds `inner`, a loop that carries them
    /// too. Each turn makes value `i + 1` longer by value `i`, and value 0 by itself, so that their
    /// types give way one after another.
    fn body(carried: usize, inner: Option<Graph>) -> Graph {
        let mut body = Graph::default();
        for name in ["turn", "go"] {
            let id = body.add_value(name, Type::Unknown);
            body.inputs.push(id);
        }
        let vector = Type::tensor(DType::F32, &[2]);
        let values: Vec<ValueId> =
            (0..carried).map(|at| body.add_value(&format!("x{at}"), Type::Unknown)).collect();
        body.inputs.extend(&values);
        let mut passed = values.clone();
        if let Some(inner) = inner {
            let made: Vec<ValueId> =
                (0..carried).map(|at| body.add_value(&format!("l{at}"), vector.clone())).collect();
            // Its own values start from types that are known again in each turn.
            let start = body.add_value("start", vector.clone());
            body.constants.insert(start, Tensor::vector(&[0f32, 0.0]).into());
            let mut inputs = vec![None, None];
            inputs.extend(passed.iter().map(|&id| Some(id)));
            inputs[carried + 1] = Some(start);
            let mut node = Node::new("Loop", &[], &made);
            node.inputs = inputs;
            node.attrs.set("body", Arc::new(inner));
            body.nodes.push(node);
            passed = made;
        }
        body.outputs.push(body.inputs[1]);
        for (at, &value) in passed.iter().enumerate() {
            let longer = body.add_value(&format!("y{at}"), Type::Unknown);
            let by = values[at.saturating_sub(1)];
            let mut node = Node::new("Concat", &[value, by], &[longer]);
            node.attrs.set("axis", 0i64);
            body.nodes.push(node);
            body.outputs.push(longer);
        }
        body
    }

    /// Types of the outputs of `depth` loops in one another.
    fn nested(depth: usize, carried: usize) -> Vec<Type> {
        let mut innermost = body(carried, None);
        for _ in 1..depth {
            innermost = body(carried, Some(innermost));
        }
        let mut graph = body(carried, Some(innermost));
        graph.inputs.remove(1);
        graph.inputs.remove(0);
        graph.outputs.remove(0);
        let inputs = vec![Type::tensor(DType::F32, &[2]); carried];
        let inferred = infer(&graph, &inputs, &[]).unwrap();
        graph.outputs.iter().map(|id| inferred.types[id.index()].clone()).collect()
    }

    #[test]
    fn loops_in_loops_are_inferred_right() {
        for depth in 1..4 {
            assert_eq!(nested(depth, 1), [Type::ranked(DType::F32, 1)], "depth {depth}");
        }
    }

    /// A file may declare what it likes of the values of a body: more values than there are rounds
    /// change one after another, and the one that never changes keeps its own type.
    #[test]
    fn a_settled_value_keeps_its_type_while_others_change() {
        let (changing, vector) = (12, |len: usize| Type::tensor(DType::F32, &[len]));
        let mut inner = body(changing, None);
        let settled = inner.add_value("s", vector(3));
        let other = inner.add_value("c", vector(4));
        let sum = inner.add_value("t", Type::Unknown);
        inner.inputs.push(settled);
        inner.constants.insert(other, Tensor::vector(&[0f32; 4]).into());
        inner.nodes.push(Node::new("Add", &[settled, other], &[sum]));
        inner.outputs.push(sum);
        let mut graph = Graph::default();
        let mut values = |kind: &str, ty: &dyn Fn(usize) -> Type| -> Vec<ValueId> {
            (0..=changing).map(|at| graph.add_value(&format!("{kind}{at}"), ty(at))).collect()
        };
        let inputs = values("i", &|at| vector(if at == changing { 4 } else { 2 }));
        let outputs = values("o", &|_| Type::Unknown);
        let mut node = Node::new("Loop", &[], &outputs);
        node.inputs = [None, None].into_iter().chain(inputs.iter().copied().map(Some)).collect();
        node.attrs.set("body", Arc::new(inner));
        graph.nodes.push(node);
        let types: Vec<Type> = inputs.iter().map(|id| graph.ty(*id).clone()).collect();
        (graph.inputs, graph.outputs) = (inputs, outputs);
        let inferred = infer(&graph, &types, &[]).unwrap();
        assert_eq!(inferred.types[graph.outputs[changing].index()], vector(4));
    }

    /// Each of these is beyond any time there is if a body may be inferred anew in each round.
    #[test]
    fn loops_in_loops_to_any_depth_are_answered() {
        for carried in [1, 4, 12] {
            for ty in nested(31, carried) {
                assert_eq!(ty.dtype(), Some(DType::F32), "{carried} values");
            }
        }
    }
}
