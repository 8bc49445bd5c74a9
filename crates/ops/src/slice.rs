//! Slice: parts of axes, with steps of either sign.

use hetra_ir::{Dim, Type};
use hetra_tensor::{Tensor, Value};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, Upgrade, onnx};
use crate::dims::{check_ints, count_of, resolve_axes};
use crate::elements::Walk;
use crate::error::OpError;
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&SLICE];

static SLICE: OpDef = OpDef {
    name: "Slice",
    doc: "Takes elements from `starts` up to `ends` (exclusive) along axes, `steps` apart.",
    onnx: &[onnx("", "Slice", 13)],
    inputs: Arity::between(3, 5),
    kind: Kind::Move,
    upgrade: Some(upgrade),
    infer,
    work: none,
    eval,
    gradient: Some(|tape| tape.moved()),
    ..OpDef::DEFAULT
};

/// Before opset 10 all arguments were attributes.
fn upgrade(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    up.attr_to_input("starts", 1)?;
    up.attr_to_input("ends", 2)?;
    up.attr_to_input("axes", 3)
}

/// `count` elements of an axis from `start`, `step` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) axis: usize,
    pub(crate) start: isize,
    pub(crate) step: isize,
    pub(crate) count: usize,
}

/// What a slice takes of an axis: ends count from the back when negative and clamp to the axis.
pub(crate) fn steps_of(axis: usize, extent: usize, start: i64, end: i64, step: i64) -> Steps {
    let extent = extent as i64;
    let from_back = |at: i64| if at < 0 { at.saturating_add(extent) } else { at };
    let (start, distance) = if step > 0 {
        let (start, end) = (from_back(start).clamp(0, extent), from_back(end).clamp(0, extent));
        (start, end - start)
    } else {
        // One before the first element is a valid end here; an empty axis has no valid start.
        let start = from_back(start).clamp(0.min(extent - 1), extent - 1);
        let end = from_back(end).clamp(-1, extent - 1);
        (start, start - end)
    };
    let size = step.unsigned_abs();
    let count = if distance > 0 { (distance as u64).div_ceil(size) as usize } else { 0 };
    Steps { axis, start: start.max(0) as isize, step: step as isize, count }
}

/// The elements at `steps` of each axis that they name; every step must lie inside the tensor.
pub(crate) fn take(tensor: &Tensor, steps: &[Steps]) -> Result<Tensor, OpError> {
    let mut walk = Walk::dense(tensor.shape());
    for steps in steps {
        walk.shape[steps.axis] = steps.count;
        // A start beyond an empty range is never visited.
        let offset = steps.start.saturating_mul(walk.strides[steps.axis]);
        walk.offset = walk.offset.saturating_add(offset);
        walk.strides[steps.axis] = walk.strides[steps.axis].saturating_mul(steps.step);
    }
    walk.copy(tensor, &walk.shape)
}

/// The axes, starts, ends and steps of a slice, one tuple per axis.
fn ranges(
    (starts, ends): (&[i64], &[i64]),
    axes: Option<&[i64]>,
    steps: Option<&[i64]>,
    rank: usize,
) -> Result<Vec<(usize, i64, i64, i64)>, OpError> {
    let count = starts.len();
    let fault = |index: usize, got: usize| {
        OpError::input(index, format!("as many integers as starts, {count}"), got.to_string())
    };
    if ends.len() != count {
        return Err(fault(2, ends.len()));
    }
    if let Some(axes) = axes.filter(|axes| axes.len() != count) {
        return Err(fault(3, axes.len()));
    }
    if let Some(steps) = steps.filter(|steps| steps.len() != count || steps.contains(&0)) {
        return Err(OpError::input(
            4,
            format!("{count} steps, none of them 0"),
            format!("{steps:?}"),
        ));
    }
    let axes = match axes {
        Some(axes) => resolve_axes(axes, rank)?,
        None if count <= rank => (0..count).collect(),
        None => return Err(OpError::input(1, format!("at most {rank} starts"), count.to_string())),
    };
    let step = |at: usize| steps.map_or(1, |steps| steps[at]);
    Ok((0..count).map(|at| (axes[at], starts[at], ends[at], step(at))).collect())
}

fn infer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    (1..5).try_for_each(|index| check_ints(ctx, index))?;
    let dtype = ctx.dtype_opt(0);
    let Some(dims) = ctx.dims(0) else { return Ok(vec![InferCtx::make(dtype, None)]) };
    let mut result = dims.to_vec();
    let (starts, ends) = (ctx.known_ints(1), ctx.known_ints(2));
    let (axes, steps) = (ctx.known_ints(3), ctx.known_ints(4));
    let clear = axes.is_some() == ctx.has(3) && steps.is_some() == ctx.has(4);
    if let (Some(starts), Some(ends), true) = (&starts, &ends, clear) {
        let ranges = ranges((starts, ends), axes.as_deref(), steps.as_deref(), dims.len())?;
        for (axis, start, end, step) in ranges {
            result[axis] = match &dims[axis] {
                Dim::Known(extent) => Dim::Known(steps_of(axis, *extent, start, end, step).count),
                // All of an axis, whatever it is.
                dim if start == 0 && end >= i64::from(i32::MAX) && step == 1 => dim.clone(),
                _ => Dim::Unknown,
            };
        }
        return Ok(vec![InferCtx::make(dtype, Some(result))]);
    }
    let touched = match (&axes, ctx.has(3)) {
        (Some(axes), _) => resolve_axes(axes, dims.len())?,
        (None, true) => (0..dims.len()).collect(),
        (None, false) => {
            let count = count_of(ctx, 1)?.unwrap_or(dims.len());
            (0..count.min(dims.len())).collect()
        }
    };
    touched.into_iter().for_each(|axis| result[axis] = Dim::Unknown);
    Ok(vec![InferCtx::make(dtype, Some(result))])
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    let (starts, ends) = (ctx.ints(1)?, ctx.ints(2)?);
    let (axes, steps) = (ctx.ints_opt(3)?, ctx.ints_opt(4)?);
    let ranges = ranges((&starts, &ends), axes.as_deref(), steps.as_deref(), tensor.rank())?;
    let steps = ranges
        .into_iter()
        .map(|(axis, start, end, step)| steps_of(axis, tensor.shape()[axis], start, end, step));
    Ok(vec![take(tensor, &steps.collect::<Vec<_>>())?.into()])
}

/// What a Slice takes of a tensor in memory: where it starts and how it walks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceForm {
    /// The first element taken.
    pub offset: usize,
    /// Extents of the result.
    pub shape: Vec<usize>,
    /// Steps between neighbours of the result, in elements of the input.
    pub strides: Vec<isize>,
}

impl SliceForm {
    /// Reads a Slice with its inputs.
    ///
    /// # Errors
    /// Starts, ends, axes or steps that do not fit the tensor.
    pub fn resolve(ctx: &EvalCtx<'_>) -> Result<SliceForm, OpError> {
        let tensor = ctx.tensor(0)?;
        let (starts, ends) = (ctx.ints(1)?, ctx.ints(2)?);
        let (axes, steps) = (ctx.ints_opt(3)?, ctx.ints_opt(4)?);
        let ranges = ranges((&starts, &ends), axes.as_deref(), steps.as_deref(), tensor.rank())?;
        let dense = hetra_tensor::strides_of(tensor.shape());
        let mut form = SliceForm {
            offset: 0,
            shape: tensor.shape().to_vec(),
            strides: dense.iter().map(|&stride| stride as isize).collect(),
        };
        for (axis, start, end, step) in ranges {
            let taken = steps_of(axis, tensor.shape()[axis], start, end, step);
            form.shape[axis] = taken.count;
            form.strides[axis] = (dense[axis] as isize).saturating_mul(taken.step);
            form.offset += taken.start.unsigned_abs() * dense[axis];
        }
        Ok(form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_clamp_as_numpys() {
        let check = |extent, start, end, step, wanted: &[i64]| {
            let steps = steps_of(0, extent, start, end, step);
            let range: Vec<i64> = (0..extent as i64).collect();
            let tensor = Tensor::vector(&range);
            let taken = take(&tensor, &[steps]).unwrap();
            assert_eq!(taken.as_slice::<i64>().unwrap(), wanted, "{extent} {start}:{end}:{step}");
        };
        check(5, 1, 4, 1, &[1, 2, 3]);
        check(5, 0, i64::MAX, 2, &[0, 2, 4]);
        check(5, -1, i64::MIN, -1, &[4, 3, 2, 1, 0]);
        check(5, 10, -100, -2, &[4, 2, 0]);
        check(5, i64::MAX, 0, -1, &[4, 3, 2, 1]);
        check(5, 3, 3, 1, &[]);
        check(5, 7, 9, 1, &[]);
        check(5, -100, 2, 1, &[0, 1]);
        check(5, 4, 0, i64::MIN, &[4]);
        check(5, 0, 5, i64::MAX, &[0]);
        check(0, 0, 5, -1, &[]);
        check(0, 0, 5, 1, &[]);
    }
}
