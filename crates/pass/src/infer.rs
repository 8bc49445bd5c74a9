//! Types of all values, and the values that can be known before a run.
//!
//! Shape arithmetic (`Shape -> Gather -> Concat -> Reshape`) is ordinary nodes on small tensors:
//! when the extents are known, those nodes are evaluated here by their reference, so that shapes
//! follow from shapes without a second definition of any operator.

use std::collections::BTreeMap;

use hetra_ir::{Graph, Node, Type, ValueId};
use hetra_ops::{EvalCtx, InferCtx, Interpreter, NodeError, OpDef, OpError, find};
use hetra_tensor::{Tensor, Value};

/// Most elements of a value that inference computes: shapes are small, activations are not.
const FOLD_ELEMENTS_MAX: usize = 4096;

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
    let mut state = State {
        graph,
        inferred: Inferred {
            types: vec![Type::Unknown; graph.values.len()],
            known: BTreeMap::new(),
        },
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

/// Output types of a body, given its input types and a look-up for what it captures.
///
/// # Errors
/// As [`infer`].
pub fn infer_body(
    body: &Graph,
    inputs: &[Type],
    outer: &dyn Fn(ValueId) -> Type,
) -> Result<Vec<Type>, NodeError> {
    let mut types: Vec<Type> = body.inputs.iter().map(|&id| body.ty(id).clone()).collect();
    for (slot, ty) in types.iter_mut().zip(inputs) {
        if *ty != Type::Unknown {
            *slot = ty.clone();
        }
    }
    let captures: Vec<Type> = body.captures.iter().map(|capture| outer(capture.outer)).collect();
    let inferred = infer(body, &types, &captures)?;
    Ok(body.outputs.iter().map(|&id| inferred.types[id.index()].clone()).collect())
}

struct State<'a> {
    graph: &'a Graph,
    inferred: Inferred,
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
        let body = |graph: &Graph, inputs: &[Type]| {
            infer_body(graph, inputs, &|id| types[id.index()].clone()).map_err(OpError::from)
        };
        let ctx = InferCtx { node, inputs: &inputs, known: &known, body: &body };
        if let Some(tensor) = def.from_types.and_then(|from_types| from_types(&ctx)) {
            self.learn(node, vec![tensor.into()]);
            return Ok(());
        }
        let outputs = (def.infer)(&ctx)?;
        if self.foldable(node, def, &outputs)
            && let Some(values) = self.fold(node, def)
        {
            self.learn(node, values);
            return Ok(());
        }
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
