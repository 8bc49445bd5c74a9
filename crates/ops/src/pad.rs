//! Wider or narrower at the edges: Pad, CenterCropPad.

use hetra_ir::{Attr, Dim, Type};
use hetra_tensor::{Rounding, Tensor, Value};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, Upgrade, onnx};
use crate::dims::{check_ints, extent, map_dim, resolve_axes, same_rank, shape_from};
use crate::error::OpError;
use crate::pick::{OUTSIDE, check_size, pick};
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&PAD, &CENTER_CROP_PAD];

static PAD: OpDef = OpDef {
    name: "Pad",
    doc: "Adds places before and after axes (drops them when negative): a constant, the edge, a \
          reflection without the edge, or the other end.",
    onnx: &[onnx("", "Pad", 25)],
    inputs: Arity::between(2, 4),
    kind: Kind::Move,
    upgrade: Some(upgrade_pad),
    infer: infer_pad,
    work: none,
    eval: eval_pad,
    gradient: Some(|tape| {
        let (x, dy, fill) = (tape.x(0)?, tape.dy(0), tape.x_opt(2));
        let mut inputs = tape.xs();
        inputs.resize(inputs.len().max(3), None);
        // What is not from the tensor comes from beyond its last place.
        (inputs[0], inputs[2]) = (Some(x.places()), Some(x.size()));
        let from = tape.call(tape.node(), &inputs, 1)[0];
        let fill = fill.map(|fill| dy.only(from.with("Equal", x.size())).sum_to(fill));
        Ok(vec![Some(dy.scatter_to(from, x)), None, fill])
    }),
    ..OpDef::DEFAULT
};

static CENTER_CROP_PAD: OpDef = OpDef {
    name: "CenterCropPad",
    doc: "Crops or pads axes around their centre to the given extents.",
    onnx: &[onnx("", "CenterCropPad", 18)],
    inputs: Arity::exactly(2),
    kind: Kind::Move,
    infer: infer_center,
    work: none,
    eval: eval_center,
    ..OpDef::DEFAULT
};

/// Opset 1 said `paddings`; up to opset 10 pads and value were attributes.
fn upgrade_pad(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    if let Some(paddings) = up.node.attrs.take("paddings") {
        up.node.attrs.set("pads", paddings);
    }
    let legacy = up.node.attrs.has("pads");
    up.attr_to_input("pads", 1)?;
    match up.node.attrs.0.get("value") {
        // Zero is the default; a constant of f32 would not fit data of another type.
        Some(Attr::Float(value)) if *value == 0.0 || !legacy => drop(up.node.attrs.take("value")),
        _ => up.attr_to_input("value", 2)?,
    }
    Ok(())
}

/// Pads before and after each axis.
fn pads_of(pads: &[i64], axes: Option<&[i64]>, rank: usize) -> Result<Vec<(i64, i64)>, OpError> {
    let axes = match axes {
        Some(axes) => resolve_axes(axes, rank)?,
        None => (0..rank).collect(),
    };
    if pads.len() != axes.len() * 2 {
        let wanted = format!("{} pads, two per axis", axes.len() * 2);
        return Err(OpError::input(1, wanted, pads.len().to_string()));
    }
    let mut result = vec![(0, 0); rank];
    for (at, &axis) in axes.iter().enumerate() {
        result[axis] = (pads[at], pads[axes.len() + at]);
    }
    Ok(result)
}

fn padded(extent: usize, (before, after): (i64, i64)) -> Result<usize, OpError> {
    let padded = extent as i128 + i128::from(before) + i128::from(after);
    usize::try_from(padded)
        .map_err(|_| OpError::input(1, "pads that leave an axis", format!("{before} and {after}")))
}

fn infer_pad(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    check_ints(ctx, 3)?;
    let (pads, axes) = (ctx.known_ints(1), ctx.known_ints(3));
    let (Some(dims), Some(pads), true) = (ctx.dims(0), pads, axes.is_some() == ctx.has(3)) else {
        return Ok(vec![same_rank(ctx)]);
    };
    let pads = pads_of(&pads, axes.as_deref(), dims.len())?;
    let pad = |(dim, &pads): (&Dim, &(i64, i64))| match pads {
        (0, 0) => Ok(dim.clone()),
        pads => map_dim(dim, |extent| padded(extent, pads)),
    };
    let dims = dims.iter().zip(&pads).map(pad).collect::<Result<_, OpError>>()?;
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), Some(dims))])
}

/// Where each place of a padded axis comes from.
fn padded_places(extent: usize, pads: (i64, i64), mode: &str) -> Result<Vec<usize>, OpError> {
    let count = padded(extent, pads)?;
    // What a negative pad drops is dropped first: nothing is taken from there.
    let dropped = |pad: i64| pad.saturating_neg().max(0);
    let first = dropped(pads.0);
    let last = (extent as i64 - 1).saturating_sub(first).saturating_sub(dropped(pads.1));
    if last < 0 && count > 0 && mode != "constant" {
        return Err(OpError::input(0, "elements on each padded axis", "none"));
    }
    let place = |at: usize| -> usize {
        // In range: the count of places is within the memory limit. Counted from `first` on.
        let at = (at as i64).saturating_sub(pads.0.max(0));
        let kept = match mode {
            "constant" if at < 0 || at > last => return OUTSIDE,
            "constant" => at,
            "edge" => at.clamp(0, last),
            "wrap" => at.rem_euclid(last + 1),
            _ if last == 0 => 0,
            _ => {
                let turned = at.rem_euclid(2 * last);
                turned.min(2 * last - turned)
            }
        };
        (first + kept) as usize
    };
    Ok((0..count).map(place).collect())
}

fn eval_pad(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    let shape = shape_from(ctx, infer_pad)?;
    let mode = ctx.attrs().str_or("mode", "constant")?;
    if !["constant", "edge", "reflect", "wrap"].contains(&mode) {
        return Err(OpError::invalid(format!("`mode` is `{mode}`")));
    }
    if !check_size(tensor, &shape)? {
        return Ok(vec![Tensor::zeros(tensor.dtype(), &shape)?.into()]);
    }
    let pads = pads_of(&ctx.ints(1)?, ctx.ints_opt(3)?.as_deref(), tensor.rank())?;
    let places: Vec<Vec<usize>> = tensor
        .shape()
        .iter()
        .zip(pads)
        .map(|(&extent, pads)| padded_places(extent, pads, mode))
        .collect::<Result<_, _>>()?;
    let fill = match ctx.tensor_opt(2) {
        Some(fill) if fill.len() == 1 => {
            Some(hetra_tensor::cast(fill, tensor.dtype(), true, Rounding::NearestEven)?)
        }
        Some(fill) => return Err(OpError::input(2, "one element", fill.describe())),
        None => None,
    };
    Ok(vec![pick(tensor, &places, fill.as_ref())?.into()])
}

/// The extent that each axis is cropped or padded to.
fn center_targets(
    attrs: &hetra_ir::Attrs,
    shape: &[i64],
    rank: usize,
) -> Result<Vec<Option<usize>>, OpError> {
    let axes = match attrs.ints_opt("axes")? {
        Some(axes) => resolve_axes(axes, rank)?,
        None => (0..rank).collect(),
    };
    if shape.len() != axes.len() {
        return Err(OpError::input(1, format!("{} extents", axes.len()), format!("{shape:?}")));
    }
    let mut targets = vec![None; rank];
    for (&axis, &wanted) in axes.iter().zip(shape) {
        targets[axis] = Some(extent(wanted, 1)?);
    }
    Ok(targets)
}

fn infer_center(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    let Some(dims) = ctx.dims(0) else { return Ok(vec![same_rank(ctx)]) };
    let mut result = dims.to_vec();
    match (ctx.known_ints(1), ctx.attrs().ints_opt("axes")?) {
        (Some(shape), _) => {
            let targets = center_targets(ctx.attrs(), &shape, dims.len())?;
            for (dim, target) in result.iter_mut().zip(targets) {
                if let Some(target) = target {
                    *dim = Dim::Known(target);
                }
            }
        }
        (None, Some(axes)) => {
            for axis in resolve_axes(axes, dims.len())? {
                result[axis] = Dim::Unknown;
            }
        }
        (None, None) => result.fill(Dim::Unknown),
    }
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), Some(result))])
}

fn eval_center(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    let shape = shape_from(ctx, infer_center)?;
    if !check_size(tensor, &shape)? {
        return Ok(vec![Tensor::zeros(tensor.dtype(), &shape)?.into()]);
    }
    let places = |(&from, &to): (&usize, &usize)| -> Vec<usize> {
        match from.checked_sub(to) {
            Some(cropped) => (0..to).map(|at| at + cropped / 2).collect(),
            None => {
                let before = (to - from) / 2;
                let inside = |at: usize| at.checked_sub(before).filter(|&at| at < from);
                (0..to).map(|at| inside(at).unwrap_or(OUTSIDE)).collect()
            }
        }
    };
    let places: Vec<Vec<usize>> = tensor.shape().iter().zip(&shape).map(places).collect();
    Ok(vec![pick(tensor, &places, None)?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_choose_places() {
        let check = |extent, pads, mode, wanted: &[usize]| {
            assert_eq!(padded_places(extent, pads, mode).unwrap(), wanted, "{mode} {pads:?}");
        };
        check(3, (2, 1), "constant", &[OUTSIDE, OUTSIDE, 0, 1, 2, OUTSIDE]);
        check(3, (-1, 1), "constant", &[1, 2, OUTSIDE]);
        check(3, (2, 1), "edge", &[0, 0, 0, 1, 2, 2]);
        check(3, (4, 3), "reflect", &[0, 1, 2, 1, 0, 1, 2, 1, 0, 1]);
        check(1, (1, 1), "reflect", &[0, 0, 0]);
        check(3, (4, 1), "wrap", &[2, 0, 1, 2, 0, 1, 2, 0]);
        check(0, (1, 0), "constant", &[OUTSIDE]);
        // Cropped first, as in onnxruntime.
        check(5, (2, -1), "wrap", &[2, 3, 0, 1, 2, 3]);
        check(5, (-1, 2), "wrap", &[1, 2, 3, 4, 1, 2]);
        check(5, (-1, 2), "reflect", &[1, 2, 3, 4, 3, 2]);
        check(5, (2, -2), "edge", &[0, 0, 0, 1, 2]);
        check(5, (-2, 1), "constant", &[2, 3, 4, OUTSIDE]);
        check(3, (-4, 2), "constant", &[OUTSIDE]);
        assert!(padded_places(3, (-4, 2), "edge").is_err());
        assert!(padded_places(3, (-4, 0), "edge").is_err());
        assert!(padded_places(0, (1, 0), "edge").is_err());
    }
}
