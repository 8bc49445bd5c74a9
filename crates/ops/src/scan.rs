//! Scan: a body over the slices of tensors, with carried state and stacked outputs.
//!
//! In opset 8 all tensors have a batch axis in front, over which the scan runs one by one, and
//! the first input holds the lengths of the sequences; `node.version` tells.

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{Tensor, Value};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::control::{Roles, Stacks, infer_turns, output_type, stack};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::error::OpError;
use crate::slice::{Steps, take};
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&SCAN];

static SCAN: OpDef = OpDef {
    name: "Scan",
    doc: "Runs a body for each slice of tensors; state is carried from turn to turn, further \
          outputs of the body are stacked.",
    onnx: &[onnx("", "Scan", 25)],
    inputs: Arity::at_least(1),
    outputs: Arity::at_least(1),
    kind: Kind::Control,
    infer: |ctx| if batched(ctx.node) { infer_batched(ctx) } else { infer(ctx) },
    work: none,
    eval: |ctx| if batched(ctx.node) { eval_batched(ctx) } else { eval(ctx) },
    ..OpDef::DEFAULT
};

fn batched(node: &hetra_ir::Node) -> bool {
    node.version < 9
}

/// The `index`th of integers that may be left out.
fn at(attrs: &Attrs, name: &str, index: usize) -> Result<i64, OpError> {
    Ok(attrs.ints_opt(name)?.and_then(|all| all.get(index).copied()).unwrap_or(0))
}

/// How many of `inputs` inputs are carried and how many scanned.
fn counts(attrs: &Attrs, inputs: usize) -> Result<Roles, OpError> {
    let wanted = *attrs.int("num_scan_inputs")?;
    let tail = usize::try_from(wanted).ok().filter(|tail| (1..=inputs).contains(tail));
    let tail = tail.ok_or_else(|| OpError::invalid(format!("`num_scan_inputs` is {wanted}")))?;
    Ok(Roles { lead: 0, carried: inputs - tail, tail })
}

/// A tensor whose slices along `axis` the body gets, back to front when `reverse`.
struct Scanned {
    tensor: Tensor,
    axis: usize,
    reverse: bool,
}

impl Scanned {
    fn slice(&self, turn: usize, turns: usize) -> Result<Tensor, OpError> {
        let place = if self.reverse { turns - 1 - turn } else { turn };
        let steps = Steps { axis: self.axis, start: place as isize, step: 1, count: 1 };
        let mut shape = self.tensor.shape().to_vec();
        shape.remove(self.axis);
        Ok(take(&self.tensor, &[steps])?.reshape(&shape)?)
    }
}

/// The final state, and the stacked outputs turn by turn.
fn scan(
    ctx: &EvalCtx<'_>,
    mut state: Vec<Value>,
    scanned: &[Scanned],
    turns: usize,
) -> Result<(Vec<Value>, Vec<Vec<Tensor>>), OpError> {
    let body = ctx.attrs().graph("body")?;
    let carried = state.len();
    let mut stacks = Stacks::new(Roles { lead: 0, carried, tail: scanned.len() }.stacked(body)?);
    for turn in 0..turns {
        for scanned in scanned {
            state.push(scanned.slice(turn, turns)?.into());
        }
        let outputs = ctx.runner.run(body, std::mem::take(&mut state), ctx.outer)?;
        if outputs.len() != body.outputs.len() {
            return Err(OpError::invalid("its body gave another number of outputs"));
        }
        let mut outputs = outputs.into_iter();
        state.extend(outputs.by_ref().take(carried));
        stacks.push(outputs)?;
    }
    Ok((state, stacks.into_parts()))
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let roles = counts(ctx.attrs(), ctx.inputs.len())?;
    let body = ctx.attrs().graph("body")?;
    let mut state = Vec::with_capacity(roles.carried);
    for index in 0..roles.carried {
        state.push(ctx.value(index)?.clone());
    }
    let mut scanned: Vec<Scanned> = Vec::with_capacity(roles.tail);
    for index in 0..roles.tail {
        let tensor = ctx.tensor(roles.carried + index)?.clone();
        let axis = resolve_axis(at(ctx.attrs(), "scan_input_axes", index)?, tensor.rank())?;
        let reverse = at(ctx.attrs(), "scan_input_directions", index)? != 0;
        scanned.push(Scanned { tensor, axis, reverse });
    }
    let turns = scanned.first().map_or(0, |first| first.tensor.shape()[first.axis]);
    let odd = scanned.iter().position(|scanned| scanned.tensor.shape()[scanned.axis] != turns);
    if let Some(odd) = odd {
        let got = scanned[odd].tensor.describe();
        return Err(OpError::input(roles.carried + odd, format!("{turns} slices"), got));
    }
    let (mut outputs, stacks) = scan(ctx, state, &scanned, turns)?;
    for (index, mut parts) in stacks.into_iter().enumerate() {
        if at(ctx.attrs(), "scan_output_directions", index)? != 0 {
            parts.reverse();
        }
        let axis = at(ctx.attrs(), "scan_output_axes", index)?;
        let ty = output_type(body, roles.carried + index);
        outputs.push(stack(&parts, axis, ty)?.into());
    }
    Ok(outputs)
}

fn infer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let roles = counts(ctx.attrs(), ctx.len())?;
    let body = ctx.attrs().graph("body")?;
    let ty = |index: usize| ctx.ty_opt(index).cloned().unwrap_or(Type::Unknown);
    let carried = (0..roles.carried).map(ty).collect();
    let mut turns = Dim::Unknown;
    let mut slices = Vec::with_capacity(roles.tail);
    for index in 0..roles.tail {
        let mut dims = ctx.dims(roles.carried + index).map(<[Dim]>::to_vec);
        if let Some(dims) = &mut dims {
            let axis = resolve_axis(at(ctx.attrs(), "scan_input_axes", index)?, dims.len())?;
            let extent = dims.remove(axis);
            if turns.known().is_none() && extent != Dim::Unknown {
                turns = extent;
            }
        }
        slices.push(InferCtx::make(ctx.dtype_opt(roles.carried + index), dims));
    }
    let mut types = infer_turns(ctx, body, &[], carried, &slices)?;
    for (index, ty) in types.iter_mut().skip(roles.carried).enumerate() {
        let mut dims = ty.dims().map(<[Dim]>::to_vec);
        if let Some(dims) = &mut dims {
            let axis = at(ctx.attrs(), "scan_output_axes", index)?;
            dims.insert(resolve_axis(axis, dims.len() + 1)?, turns.clone());
        }
        *ty = InferCtx::make(ty.dtype(), dims);
    }
    Ok(types)
}

/// One item of a batch.
fn item(tensor: &Tensor, index: usize) -> Result<Tensor, OpError> {
    Scanned { tensor: tensor.clone(), axis: 0, reverse: false }.slice(index, index + 1)
}

fn eval_batched(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let inputs = ctx.inputs.len().saturating_sub(1);
    let roles = counts(ctx.attrs(), inputs)?;
    let body = ctx.attrs().graph("body")?;
    let first = ctx.tensor(1 + roles.carried)?;
    let &[batch, steps, ..] = first.shape() else {
        return Err(OpError::input(1 + roles.carried, "batch and time axes", first.describe()));
    };
    for index in 1..ctx.inputs.len() {
        let (tensor, scanned) = (ctx.tensor(index)?, index > roles.carried);
        let fits = tensor.shape().first() == Some(&batch)
            && (!scanned || tensor.shape().get(1) == Some(&steps));
        if !fits {
            let wanted = format!("a batch of {batch} with {steps} steps");
            return Err(OpError::input(index, wanted, tensor.describe()));
        }
    }
    let lens = ctx.ints_opt(0)?.unwrap_or_else(|| vec![steps as i64; batch]);
    if lens.len() != batch || lens.iter().any(|&len| len < 0 || len > steps as i64) {
        return Err(OpError::input(
            0,
            format!("{batch} lengths up to {steps}"),
            format!("{lens:?}"),
        ));
    }
    let mut columns: Vec<Vec<Tensor>> = vec![Vec::with_capacity(batch); body.outputs.len()];
    for (index, &len) in lens.iter().enumerate() {
        let mut state = Vec::with_capacity(roles.carried);
        for carried in 0..roles.carried {
            state.push(item(ctx.tensor(1 + carried)?, index)?.into());
        }
        let mut scanned = Vec::with_capacity(roles.tail);
        for tail in 0..roles.tail {
            let tensor = item(ctx.tensor(1 + roles.carried + tail)?, index)?;
            let reverse = at(ctx.attrs(), "directions", tail)? != 0;
            scanned.push(Scanned { tensor, axis: 0, reverse });
        }
        let (state, stacks) = scan(ctx, state, &scanned, len as usize)?;
        for (value, column) in state.iter().zip(&mut columns) {
            let tensor =
                value.as_tensor().ok_or_else(|| OpError::invalid("a state is no tensor"))?;
            column.push(tensor.clone());
        }
        for (stacked, parts) in stacks.iter().enumerate() {
            let ty = output_type(body, roles.carried + stacked);
            let padded = pad_steps(stack(parts, 0, ty)?, steps)?;
            columns[roles.carried + stacked].push(padded);
        }
    }
    let stacked = |(index, column): (usize, &Vec<Tensor>)| {
        stack(column, 0, output_type(body, index)).map(Value::from)
    };
    columns.iter().enumerate().map(stacked).collect()
}

/// Zeros after the steps of a shorter sequence.
fn pad_steps(tensor: Tensor, steps: usize) -> Result<Tensor, OpError> {
    let mut shape = tensor.shape().to_vec();
    match shape.first_mut() {
        Some(extent) if *extent < steps => *extent = steps - *extent,
        _ => return Ok(tensor),
    }
    let zeros = Tensor::zeros(tensor.dtype(), &shape)?;
    crate::movement::concat(&[&tensor, &zeros], 0)
}

fn infer_batched(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let roles = counts(ctx.attrs(), ctx.len().saturating_sub(1))?;
    let body = ctx.attrs().graph("body")?;
    let inner = |index: usize, dropped: usize| {
        let dims = ctx.dims(index).and_then(|dims| dims.get(dropped..)).map(<[Dim]>::to_vec);
        InferCtx::make(ctx.dtype_opt(index), dims)
    };
    let carried: Vec<Type> = (0..roles.carried).map(|at| inner(1 + at, 1)).collect();
    let slices: Vec<Type> = (0..roles.tail).map(|at| inner(1 + roles.carried + at, 2)).collect();
    let outer = match ctx.dims(1 + roles.carried) {
        Some([batch, steps, ..]) => [batch.clone(), steps.clone()],
        _ => [Dim::Unknown, Dim::Unknown],
    };
    let mut types = infer_turns(ctx, body, &[], carried, &slices)?;
    for (index, ty) in types.iter_mut().enumerate() {
        let lead = if index < roles.carried { &outer[..1] } else { &outer[..] };
        *ty = InferCtx::make(ty.dtype(), ty.dims().map(|dims| [lead, dims].concat()));
    }
    Ok(types)
}
