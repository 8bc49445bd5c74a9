//! Control flow: If and Loop. Scan has a file of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hetra_ir::{Dim, Graph, Type};
use hetra_tensor::{DType, Tensor, TensorError, Value, bytes_max};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::error::OpError;
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&IF, &LOOP];

static IF: OpDef = OpDef {
    name: "If",
    doc: "Runs one of two bodies.",
    onnx: &[onnx("", "If", 25)],
    outputs: Arity::at_least(1),
    kind: Kind::Control,
    infer: infer_if,
    work: none,
    eval: eval_if,
    ..OpDef::DEFAULT
};

static LOOP: OpDef = OpDef {
    name: "Loop",
    doc: "Runs a body up to a number of times and while a condition holds; values are carried \
          from turn to turn, further outputs of the body are stacked.",
    onnx: &[onnx("", "Loop", 25)],
    // Both may be left out, and nothing need be carried.
    inputs: Arity::at_least(0),
    outputs: Arity::at_least(1),
    kind: Kind::Control,
    infer: infer_loop,
    work: none,
    eval: eval_loop,
    ..OpDef::DEFAULT
};

fn eval_if(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let taken = condition(ctx.tensor(0)?)?;
    ctx.run_body(if taken { "then_branch" } else { "else_branch" }, vec![])
}

fn condition(tensor: &Tensor) -> Result<bool, OpError> {
    match tensor.as_bools()? {
        [one] => Ok(*one != 0),
        _ => Err(OpError::input(0, "one boolean", tensor.describe())),
    }
}

/// What both branches agree on; the shape where they do not is unknown.
fn infer_if(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let count = ctx.node.outputs.len();
    let branch = |name: &str| {
        let types = (ctx.body)(ctx.attrs().graph(name)?, &[])?;
        match types.len() == count {
            true => Ok(types),
            false => Err(OpError::invalid(format!("`{name}` gives {} outputs", types.len()))),
        }
    };
    match ctx.known(0).map(condition).transpose()? {
        Some(true) => branch("then_branch"),
        Some(false) => branch("else_branch"),
        // These types may contradict the branch that is not taken: often that is what it is for.
        None => match (branch("then_branch"), branch("else_branch")) {
            (Ok(then), Ok(other)) => then.iter().zip(&other).map(|(a, b)| agree(a, b)).collect(),
            (Ok(types), Err(_)) | (Err(_), Ok(types)) => Ok(types),
            (Err(fault), Err(_)) => Err(fault),
        },
    }
}

/// What both branches give; their shapes may differ, but not their dtypes.
fn agree(then: &Type, other: &Type) -> Result<Type, OpError> {
    match (then.dtype(), other.dtype()) {
        (Some(a), Some(b)) if a != b => {
            Err(OpError::invalid(format!("its branches give {a} and {b} as the same output")))
        }
        _ => Ok(meet(then, other)),
    }
}

/// What two types have in common.
pub fn meet(a: &Type, b: &Type) -> Type {
    match (a, b) {
        (Type::Tensor(x), Type::Tensor(y)) if x.dtype == y.dtype => {
            let dims = match (&x.shape, &y.shape) {
                (Some(p), Some(q)) if p.len() == q.len() => Some(
                    p.iter().zip(q).map(|(m, n)| if m == n { m.clone() } else { Dim::Unknown }),
                ),
                _ => None,
            };
            InferCtx::make(Some(x.dtype), dims.map(Iterator::collect))
        }
        (Type::Sequence(x), Type::Sequence(y)) => Type::Sequence(Box::new(meet(x, y))),
        (Type::Optional(x), Type::Optional(y)) => Type::Optional(Box::new(meet(x, y))),
        _ => Type::Unknown,
    }
}

/// A type of which only the kind of element is believed. Not `Unknown`, in whose place stands what
/// a file declares.
pub fn without_shape(ty: &Type) -> Type {
    ty.dtype().filter(|_| matches!(ty, Type::Tensor(_))).map_or(Type::Unknown, Type::unranked)
}

/// How many inputs and outputs of a loop body are what.
pub(crate) struct Roles {
    /// Inputs before the carried ones; the outputs have half as many (the condition).
    pub(crate) lead: usize,
    pub(crate) carried: usize,
    /// Inputs after the carried ones.
    pub(crate) tail: usize,
}

impl Roles {
    /// The number of stacked outputs; checks the body against the roles.
    pub(crate) fn stacked(&self, body: &Graph) -> Result<usize, OpError> {
        let wanted = self.lead + self.carried + self.tail;
        let stacked = body.outputs.len().checked_sub(self.lead / 2 + self.carried);
        match stacked {
            Some(stacked) if body.inputs.len() == wanted => Ok(stacked),
            _ => Err(OpError::invalid(format!(
                "its body has {} inputs and {} outputs, but {} values are carried",
                body.inputs.len(),
                body.outputs.len(),
                self.carried
            ))),
        }
    }
}

/// Collects the stacked outputs of a body, within the memory limit.
pub(crate) struct Stacks {
    parts: Vec<Vec<Tensor>>,
    bytes: usize,
}

impl Stacks {
    pub(crate) fn new(count: usize) -> Stacks {
        Stacks { parts: vec![Vec::new(); count], bytes: 0 }
    }

    /// Adds the outputs of one turn.
    pub(crate) fn push(&mut self, outputs: impl Iterator<Item = Value>) -> Result<(), OpError> {
        for (parts, output) in self.parts.iter_mut().zip(outputs) {
            let tensor = match output {
                Value::Tensor(tensor) => tensor,
                other => {
                    let got = other.describe();
                    return Err(OpError::invalid(format!("its body stacks a {got}")));
                }
            };
            self.bytes = self.bytes.saturating_add(tensor.byte_len());
            if self.bytes > bytes_max() {
                return Err(TensorError::TooLarge { bytes: self.bytes as u128 }.into());
            }
            parts.push(tensor);
        }
        Ok(())
    }

    /// The tensors of each output, in the order of the turns.
    pub(crate) fn into_parts(self) -> Vec<Vec<Tensor>> {
        self.parts
    }
}

/// Tensors of one shape along a new axis; without any, the extents that `ty` leaves open are 0.
pub(crate) fn stack(parts: &[Tensor], axis: i64, ty: &Type) -> Result<Tensor, OpError> {
    let Some(first) = parts.first() else {
        let dtype = ty.dtype().ok_or_else(|| {
            OpError::unsupported("no turn was made, and its body does not tell the output type")
        })?;
        let extents = ty.dims().unwrap_or_default().iter().map(|dim| dim.known().unwrap_or(0));
        let mut shape: Vec<usize> = extents.collect();
        shape.insert(crate::context::resolve_axis(axis, shape.len() + 1)?, 0);
        return Ok(Tensor::zeros(dtype, &shape)?);
    };
    let axis = crate::context::resolve_axis(axis, first.rank() + 1)?;
    let slices = parts.iter().map(|part| {
        let mut shape = part.shape().to_vec();
        shape.insert(axis.min(shape.len()), 1);
        part.reshape(&shape)
    });
    let slices: Vec<Tensor> = slices.collect::<Result<_, _>>()?;
    crate::movement::concat(&slices.iter().collect::<Vec<_>>(), axis as i64)
}

/// The type of a body's output, as the graph says.
pub(crate) fn output_type(body: &Graph, index: usize) -> &Type {
    body.outputs.get(index).map_or(&Type::Unknown, |&id| body.ty(id))
}

/// Most turns of one loop: a file can ask for an endless one.
static TURNS_MAX: AtomicI64 = AtomicI64::new(100_000_000);

/// The current limit on the turns of one loop.
pub fn turns_max() -> i64 {
    TURNS_MAX.load(Ordering::Relaxed)
}

/// Sets the limit on the turns of one loop, for the whole process.
pub fn set_turns_max(turns: i64) {
    TURNS_MAX.store(turns, Ordering::Relaxed);
}

/// Turns between two looks at how much the carried values take: the look is linear in them.
const TURNS_PER_CHECK: i64 = 1024;

fn eval_loop(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let body = ctx.attrs().graph("body")?;
    let carried = ctx.inputs.len().saturating_sub(2);
    let stacked = Roles { lead: 2, carried, tail: 0 }.stacked(body)?;
    let trips = if ctx.value_opt(0).is_some() { ctx.int(0)? } else { i64::MAX };
    // Without a condition at the start, the ones that the body gives are not looked at.
    let first = ctx.value_opt(1).map(|_| condition(ctx.tensor(1)?)).transpose()?;
    let mut go = first.unwrap_or(true);
    let mut state: Vec<Value> = Vec::with_capacity(carried);
    for index in 2..ctx.inputs.len() {
        state.push(ctx.value(index)?.clone());
    }
    let mut stacks = Stacks::new(stacked);
    let mut turn = 0;
    let turns_max = turns_max();
    while go && turn < trips {
        if turn >= turns_max {
            return Err(OpError::invalid(format!("more than {turns_max} turns, the limit")));
        }
        let mut inputs = Vec::with_capacity(carried + 2);
        inputs.push(Tensor::scalar(turn).into());
        inputs.push(Tensor::from_bools(&[], &[go])?.into());
        inputs.append(&mut state);
        let outputs = ctx.runner.run(body, inputs, ctx.outer)?;
        if outputs.len() != body.outputs.len() {
            return Err(OpError::invalid("its body gave another number of outputs"));
        }
        let mut outputs = outputs.into_iter();
        let next = outputs.next();
        if first.is_some() {
            let next = next.as_ref().and_then(Value::as_tensor);
            go = condition(next.ok_or_else(|| OpError::invalid("its body gives no condition"))?)?;
        }
        state.extend(outputs.by_ref().take(carried));
        stacks.push(outputs)?;
        turn += 1;
        if turn % TURNS_PER_CHECK == 0 {
            check_memory(&state)?;
        }
    }
    for (index, parts) in stacks.into_parts().iter().enumerate() {
        state.push(stack(parts, 0, output_type(body, 1 + carried + index))?.into());
    }
    Ok(state)
}

fn check_memory(state: &[Value]) -> Result<(), OpError> {
    let bytes = state.iter().fold(0usize, |sum, value| sum.saturating_add(value.byte_len()));
    match bytes > bytes_max() {
        true => Err(TensorError::TooLarge { bytes: bytes as u128 }.into()),
        false => Ok(()),
    }
}

/// Rounds after which carried types that still change are given up.
const ROUNDS_MAX: usize = 8;

/// The body's output types, with carried types that hold before and after every turn.
pub(crate) fn infer_turns(
    ctx: &InferCtx<'_>,
    body: &Graph,
    lead: &[Type],
    mut carried: Vec<Type>,
    tail: &[Type],
) -> Result<Vec<Type>, OpError> {
    let roles = Roles { lead: lead.len(), carried: carried.len(), tail: tail.len() };
    roles.stacked(body)?;
    let first = lead.len() / 2;
    for round in 0.. {
        let inputs = [lead, &carried, tail].concat();
        let mut outputs = (ctx.body)(body, &inputs)?;
        if outputs.len() != body.outputs.len() {
            return Err(OpError::invalid("its body gives another number of outputs"));
        }
        let after = &outputs[first..first + carried.len()];
        let met: Vec<Type> = carried.iter().zip(after).map(|(a, b)| meet(a, b)).collect();
        if met == carried {
            outputs.splice(first..first + carried.len(), met);
            return Ok(outputs);
        }
        // What still changes loses its shape; what has settled keeps it.
        let widen = |(met, before): (Type, &Type)| match round < ROUNDS_MAX || met == *before {
            true => met,
            false => without_shape(&met),
        };
        carried = met.into_iter().zip(&carried).map(widen).collect();
    }
    Ok(vec![Type::Unknown; body.outputs.len()])
}

fn infer_loop(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let body = ctx.attrs().graph("body")?;
    let lead = [Type::tensor(DType::I64, &[]), Type::tensor(DType::Bool, &[])];
    let carried: Vec<Type> =
        (2..ctx.len()).map(|at| ctx.ty_opt(at).cloned().unwrap_or(Type::Unknown)).collect();
    let count = carried.len();
    let mut types = infer_turns(ctx, body, &lead, carried, &[])?;
    types.remove(0);
    let turns = turns_of(ctx, body);
    for ty in types.iter_mut().skip(count) {
        *ty = match ty.dims() {
            Some(dims) => {
                let dims = std::iter::once(turns.clone()).chain(dims.iter().cloned()).collect();
                InferCtx::make(ty.dtype(), Some(dims))
            }
            None => InferCtx::make(ty.dtype(), None),
        };
    }
    Ok(types)
}

/// The number of turns, where nothing but the trip count ends the loop.
fn turns_of(ctx: &InferCtx<'_>, body: &Arc<Graph>) -> Dim {
    let trips = ctx.known_ints(0).and_then(|trips| trips.first().copied());
    let starts = !ctx.has(1) || ctx.known_ints(1).is_some_and(|first| first == [1]);
    match (trips, ctx.known_ints(1).as_deref()) {
        (Some(trips), _) if starts && (!ctx.has(1) || never_stops(body)) => {
            Dim::Known(usize::try_from(trips).unwrap_or(0))
        }
        (_, Some([0])) => Dim::Known(0),
        _ => Dim::Unknown,
    }
}

/// The condition that the body gives is the one it got, or true.
fn never_stops(body: &Graph) -> bool {
    let Some(&(mut id)) = body.outputs.first() else { return false };
    // Follows at most one step per node, so that a malformed graph cannot hold us.
    for _ in 0..=body.nodes.len() {
        if body.inputs.get(1) == Some(&id) {
            return true;
        }
        if let Some(value) = body.constant(id) {
            return condition(value).unwrap_or(false);
        }
        let source =
            body.nodes.iter().find(|node| node.op == "Identity" && node.output(0) == Some(id));
        match source.and_then(|node| node.input(0)) {
            Some(from) => id = from,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra_ir::{Node, ValueId};

    /// Adds the carried value to itself, stacks it, and goes on while it is below a limit.
    fn doubling(limit: f32) -> Graph {
        let mut body = Graph::default();
        let mut value = |name: &str, ty: Type| body.add_value(name, ty);
        let (turn, go) = (value("turn", Type::Unknown), value("go", Type::Unknown));
        let x = value("x", Type::tensor(DType::F32, &[]));
        let double = value("double", Type::tensor(DType::F32, &[]));
        let cond = value("cond", Type::Unknown);
        body.inputs = vec![turn, go, x];
        body.outputs = vec![cond, double, double];
        body.nodes.push(Node::new("Add", &[x, x], &[double]));
        let on = Tensor::from_bools(&[], &[limit > 0.0]).unwrap();
        body.constants.insert(cond, on.into());
        body
    }

    fn run(trips: Option<i64>, first: Option<bool>, limit: f32) -> Vec<Value> {
        let ids: Vec<ValueId> = (0..3).map(ValueId).collect();
        let mut node = Node::new("Loop", &ids, &[ValueId(3), ValueId(4)]);
        node.attrs.set("body", Arc::new(doubling(limit)));
        let first = first.map(|on| Tensor::from_bools(&[1], &[on]).unwrap().into());
        let trips = trips.map(|trips| Tensor::scalar(trips).into());
        let inputs = [trips, first, Some(Tensor::scalar(1f32).into())];
        let outer = |_: ValueId| None;
        let runner = &crate::Interpreter;
        eval_loop(&EvalCtx { node: &node, inputs: &inputs, outer: &outer, runner }).unwrap()
    }

    #[test]
    fn loops_end_as_they_should() {
        let check = |trips, first, limit, wanted: &[f32]| {
            let outputs = run(trips, first, limit);
            let last = outputs[0].as_tensor().unwrap().as_slice::<f32>().unwrap()[0];
            let stacked = outputs[1].as_tensor().unwrap();
            assert_eq!(stacked.as_slice::<f32>().unwrap(), wanted);
            assert_eq!(stacked.shape(), [wanted.len()]);
            assert_eq!(last, wanted.last().copied().unwrap_or(1.0));
        };
        check(Some(3), Some(true), 1.0, &[2.0, 4.0, 8.0]);
        check(Some(3), None, 0.0, &[2.0, 4.0, 8.0]);
        check(None, Some(true), 0.0, &[2.0]);
        check(Some(3), Some(false), 1.0, &[]);
        check(Some(0), None, 1.0, &[]);
        check(Some(-1), Some(true), 1.0, &[]);
    }

    #[test]
    fn a_body_that_never_stops_is_known() {
        assert!(never_stops(&doubling(1.0)));
        assert!(!never_stops(&doubling(0.0)));
    }
}
