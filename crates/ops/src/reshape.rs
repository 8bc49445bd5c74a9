//! The same elements under another shape, and shapes as values: Reshape, Squeeze, Unsqueeze,
//! Flatten, Shape, Size, Expand.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::context::{EvalCtx, InferCtx, broadcast_dims, resolve_axis};
use crate::def::{Arity, Kind, OpDef, Upgrade, onnx};
use crate::dims::{check_ints, count_of, extent, product, resolve_axes, shape_from};
use crate::elements::Walk;
use crate::error::OpError;
use crate::tape::flat;
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] =
    &[&RESHAPE, &SQUEEZE, &UNSQUEEZE, &FLATTEN, &SHAPE, &SIZE, &EXPAND];

const VIEW: OpDef =
    OpDef { kind: Kind::View, work: none, gradient: Some(|tape| tape.view()), ..OpDef::DEFAULT };

static RESHAPE: OpDef = OpDef {
    name: "Reshape",
    doc: "The elements of the first input under the shape that the second one holds.",
    onnx: &[onnx("", "Reshape", 25)],
    inputs: Arity::exactly(2),
    upgrade: Some(|up| {
        up.node.attrs.take("consumed_inputs");
        up.attr_to_input("shape", 1)
    }),
    infer: infer_reshape,
    eval: |ctx| eval_view(ctx, infer_reshape),
    ..VIEW
};

static SQUEEZE: OpDef = OpDef {
    name: "Squeeze",
    doc: "Drops axes of extent 1: those listed, or all.",
    onnx: &[onnx("", "Squeeze", 25)],
    inputs: Arity::between(1, 2),
    upgrade: Some(axes_to_input),
    infer: infer_squeeze,
    eval: |ctx| eval_view(ctx, infer_squeeze),
    ..VIEW
};

static UNSQUEEZE: OpDef = OpDef {
    name: "Unsqueeze",
    doc: "Inserts axes of extent 1 at the listed places of the result.",
    onnx: &[onnx("", "Unsqueeze", 25)],
    inputs: Arity::exactly(2),
    upgrade: Some(axes_to_input),
    infer: infer_unsqueeze,
    eval: |ctx| eval_view(ctx, infer_unsqueeze),
    ..VIEW
};

static FLATTEN: OpDef = OpDef {
    name: "Flatten",
    doc: "Two axes: the product of the extents before `axis`, and of the others.",
    onnx: &[onnx("", "Flatten", 25)],
    infer: infer_flatten,
    eval: |ctx| eval_view(ctx, infer_flatten),
    ..VIEW
};

static SHAPE: OpDef = OpDef {
    name: "Shape",
    doc: "The extents of the axes from `start` to `end`.",
    onnx: &[onnx("", "Shape", 25)],
    infer: infer_shape,
    from_types: Some(shape_value),
    work: none,
    eval: |ctx| {
        let tensor = ctx.tensor(0)?;
        let range = shape_range(ctx.attrs(), tensor.rank())?;
        let extents: Vec<i64> = tensor.shape()[range].iter().map(|&extent| extent as i64).collect();
        Ok(vec![Tensor::vector(&extents).into()])
    },
    gradient: Some(flat),
    ..OpDef::DEFAULT
};

static SIZE: OpDef = OpDef {
    name: "Size",
    doc: "The number of elements.",
    onnx: &[onnx("", "Size", 25)],
    infer: |_| Ok(vec![Type::tensor(DType::I64, &[])]),
    from_types: Some(|ctx| match product(ctx.dims(0)?) {
        Dim::Known(count) => Some(Tensor::scalar(i64::try_from(count).ok()?)),
        _ => None,
    }),
    work: none,
    eval: |ctx| Ok(vec![Tensor::scalar(ctx.tensor(0)?.len() as i64).into()]),
    gradient: Some(flat),
    ..OpDef::DEFAULT
};

static EXPAND: OpDef = OpDef {
    name: "Expand",
    doc: "Repeats the first input to the shape that it and the second one broadcast to.",
    onnx: &[onnx("", "Expand", 13)],
    inputs: Arity::exactly(2),
    kind: Kind::Move,
    infer: infer_expand,
    work: none,
    eval: |ctx| {
        let shape = shape_from(ctx, infer_expand)?;
        Ok(vec![expand(ctx.tensor(0)?, &shape)?.into()])
    },
    gradient: Some(|tape| Ok(vec![Some(tape.dy(0).sum_to(tape.x(0)?))])),
    ..OpDef::DEFAULT
};

/// From opset 13 on the axes are an input.
pub(crate) fn axes_to_input(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    up.attr_to_input("axes", 1)
}

type Infer = fn(&InferCtx<'_>) -> Result<Vec<Type>, OpError>;

fn eval_view(ctx: &EvalCtx<'_>, infer: Infer) -> Result<Vec<Value>, OpError> {
    let shape = shape_from(ctx, infer)?;
    Ok(vec![ctx.tensor(0)?.reshape(&shape)?.into()])
}

/// The tensor repeated along axes of extent 1 to `shape`.
pub(crate) fn expand(tensor: &Tensor, shape: &[usize]) -> Result<Tensor, OpError> {
    // Checks the shapes; the strides of the view are those of the walk.
    let view = tensor.view().broadcast_to(shape)?;
    let walk = Walk { shape: shape.to_vec(), strides: view.strides().to_vec(), offset: 0 };
    walk.copy(tensor, shape)
}

fn infer_reshape(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    let allow_zero = ctx.attrs().flag_or("allowzero", false)?;
    let dims = match ctx.known_ints(1) {
        Some(target) => Some(reshape_dims(ctx.dims(0), &target, allow_zero)?),
        None => count_of(ctx, 1)?.map(|rank| vec![Dim::Unknown; rank]),
    };
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), dims)])
}

/// The dims that `target` asks for: 0 copies an extent (unless `allow_zero`), -1 is what is left.
pub(crate) fn reshape_dims(
    input: Option<&[Dim]>,
    target: &[i64],
    allow_zero: bool,
) -> Result<Vec<Dim>, OpError> {
    let mut dims = Vec::with_capacity(target.len());
    let mut rest = None;
    for (axis, &wanted) in target.iter().enumerate() {
        dims.push(match wanted {
            -1 if rest.replace(axis).is_some() => {
                return Err(OpError::input(1, "at most one -1", format!("{target:?}")));
            }
            -1 => Dim::Unknown,
            0 if !allow_zero => match input.map(|dims| dims.get(axis)) {
                Some(Some(dim)) => dim.clone(),
                Some(None) => {
                    let rank = input.map_or(0, <[Dim]>::len);
                    let wanted = format!("a 0 (the extent as it is) on the first {rank} axes only");
                    return Err(OpError::input(1, wanted, format!("{target:?}")));
                }
                None => Dim::Unknown,
            },
            _ => Dim::Known(extent(wanted, 1)?),
        });
    }
    let Some(input) = input else { return Ok(dims) };
    let others: Vec<Dim> = dims
        .iter()
        .enumerate()
        .filter(|(at, _)| Some(*at) != rest)
        .map(|(_, d)| d.clone())
        .collect();
    let quotient = divide(input, &others);
    let mismatch = || {
        OpError::input(1, format!("a shape for {} elements", product(input)), format!("{target:?}"))
    };
    match (rest, quotient) {
        (Some(axis), Quotient::Dim(dim)) => dims[axis] = dim,
        (None, _) if product(input) == Dim::Known(0) && others.contains(&Dim::Known(0)) => {}
        (None, Quotient::Dim(Dim::Known(1)) | Quotient::Unclear) | (Some(_), Quotient::Unclear) => {
        }
        // One symbol stands alone for what must be 1: we trust the model.
        (None, Quotient::Dim(Dim::Sym(_) | Dim::Unknown)) => {}
        _ => return Err(mismatch()),
    }
    Ok(dims)
}

enum Quotient {
    Dim(Dim),
    Unclear,
    Wrong,
}

/// The product of `dims` over that of `parts`, symbols cancelling.
fn divide(dims: &[Dim], parts: &[Dim]) -> Quotient {
    let mut symbols: Vec<&Dim> = dims.iter().filter(|dim| dim.known().is_none()).collect();
    for part in parts.iter().filter(|dim| dim.known().is_none()) {
        match symbols.iter().position(|dim| *dim == part && *part != Dim::Unknown) {
            Some(at) => drop(symbols.swap_remove(at)),
            None => return Quotient::Unclear,
        }
    }
    let known = |dims: &[Dim]| {
        let extents: Vec<usize> = dims.iter().filter_map(Dim::known).collect();
        hetra_tensor::element_count(&extents).ok()
    };
    let (Some(whole), Some(part)) = (known(dims), known(parts)) else { return Quotient::Unclear };
    match (&symbols[..], whole, part) {
        // 0 of 0: any extent fits; a -1 takes what the other axes leave.
        ([], 0, 0) if dims.contains(&Dim::Known(0)) => {
            let nonzero = |dims: &[Dim]| -> Vec<Dim> {
                dims.iter().filter(|dim| **dim != Dim::Known(0)).cloned().collect()
            };
            divide(&nonzero(dims), &nonzero(parts))
        }
        ([], _, 0) => Quotient::Wrong,
        ([], whole, part) if whole % part == 0 => Quotient::Dim(Dim::Known(whole / part)),
        ([], ..) => Quotient::Wrong,
        ([symbol], whole, part) if whole == part && whole != 0 => Quotient::Dim((*symbol).clone()),
        _ => Quotient::Unclear,
    }
}

fn infer_squeeze(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(0);
    let Some(dims) = ctx.dims(0) else { return Ok(vec![InferCtx::make(dtype, None)]) };
    if ctx.has(1) {
        check_ints(ctx, 1)?;
        let Some(axes) = ctx.known_ints(1) else {
            let rank = count_of(ctx, 1)?.and_then(|count| dims.len().checked_sub(count));
            return Ok(vec![InferCtx::make(dtype, rank.map(|rank| vec![Dim::Unknown; rank]))]);
        };
        let axes = resolve_axes(&axes, dims.len())?;
        if let Some(axis) = axes.iter().find(|&&axis| dims[axis].known().is_some_and(|e| e != 1)) {
            return Err(OpError::input(
                0,
                format!("extent 1 on axis {axis}"),
                ctx.ty(0)?.to_string(),
            ));
        }
        let left = dims.iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
        return Ok(vec![InferCtx::make(dtype, Some(left.map(|(_, dim)| dim.clone()).collect()))]);
    }
    if dims.iter().any(|dim| dim.known().is_none()) {
        return Ok(vec![InferCtx::make(dtype, None)]);
    }
    let left = dims.iter().filter(|dim| **dim != Dim::Known(1)).cloned().collect();
    Ok(vec![InferCtx::make(dtype, Some(left))])
}

fn infer_unsqueeze(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    let dtype = ctx.dtype_opt(0);
    let Some(dims) = ctx.dims(0) else { return Ok(vec![InferCtx::make(dtype, None)]) };
    let Some(axes) = ctx.known_ints(1) else {
        let rank = count_of(ctx, 1)?.map(|count| dims.len().saturating_add(count));
        return Ok(vec![InferCtx::make(dtype, rank.map(|rank| vec![Dim::Unknown; rank]))]);
    };
    let axes = resolve_axes(&axes, dims.len() + axes.len())?;
    let mut rest = dims.iter().cloned();
    let result = (0..dims.len() + axes.len()).filter_map(|axis| match axes.contains(&axis) {
        true => Some(Dim::Known(1)),
        false => rest.next(),
    });
    Ok(vec![InferCtx::make(dtype, Some(result.collect()))])
}

fn infer_flatten(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(0);
    let axis = ctx.attrs().int_or("axis", 1)?;
    let Some(dims) = ctx.dims(0) else {
        return Ok(vec![InferCtx::make(dtype, Some(vec![Dim::Unknown; 2]))]);
    };
    // Unlike elsewhere the rank itself is a valid axis.
    let axis = match usize::try_from(axis) {
        Ok(axis) if axis == dims.len() => axis,
        _ => resolve_axis(axis, dims.len())?,
    };
    let (before, after) = dims.split_at(axis);
    Ok(vec![InferCtx::make(dtype, Some(vec![product(before), product(after)]))])
}

/// Both ends clamp to the rank, as slices of numpy do.
fn shape_range(attrs: &hetra_ir::Attrs, rank: usize) -> Result<std::ops::Range<usize>, OpError> {
    let clamp = |axis: i64| {
        let from_front = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
        from_front.clamp(0, rank as i64) as usize
    };
    let start = clamp(attrs.int_or("start", 0)?);
    let end = clamp(attrs.int_or("end", i64::MAX)?);
    Ok(start..end.max(start))
}

fn infer_shape(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dim = match ctx.rank(0) {
        Some(rank) => Dim::Known(shape_range(ctx.attrs(), rank)?.len()),
        None => Dim::Unknown,
    };
    Ok(vec![Type::shaped(DType::I64, vec![dim])])
}

fn shape_value(ctx: &InferCtx<'_>) -> Option<Tensor> {
    let dims = ctx.dims(0)?;
    let range = shape_range(ctx.attrs(), dims.len()).ok()?;
    let extents: Option<Vec<i64>> =
        dims[range].iter().map(|dim| i64::try_from(dim.known()?).ok()).collect();
    Some(Tensor::vector(&extents?))
}

fn infer_expand(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    let dims = match ctx.known_ints(1) {
        Some(target) => {
            let target: Vec<Dim> = target
                .into_iter()
                .map(|wanted| extent(wanted, 1).map(Dim::Known))
                .collect::<Result<_, _>>()?;
            broadcast_dims(ctx.dims(0), Some(&target))?
        }
        None => match (ctx.rank(0), count_of(ctx, 1)?) {
            (Some(a), Some(b)) => Some(vec![Dim::Unknown; a.max(b)]),
            _ => None,
        },
    };
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), dims)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sym(name: &str) -> Dim {
        Dim::Sym(name.into())
    }

    #[test]
    fn reshape_solves_for_the_rest() {
        let n = || sym("n");
        let check = |input: &[Dim], target: &[i64], wanted: &[Dim]| {
            assert_eq!(reshape_dims(Some(input), target, false).unwrap(), wanted, "{target:?}");
        };
        check(&[n(), 12.into(), 4.into()], &[0, -1], &[n(), 48.into()]);
        check(&[n(), 12.into()], &[-1, 3, 4], &[n(), 3.into(), 4.into()]);
        check(&[n(), 12.into()], &[-1, 3], &[Dim::Unknown, 3.into()]);
        check(&[6.into()], &[2, -1], &[2.into(), 3.into()]);
        check(&[0.into(), 3.into()], &[3, -1], &[3.into(), 0.into()]);
        check(&[], &[1, -1], &[1.into(), 1.into()]);
        assert!(reshape_dims(Some(&[6.into()]), &[4, -1], false).is_err());
        assert!(reshape_dims(Some(&[6.into()]), &[7], false).is_err());
        assert!(reshape_dims(Some(&[6.into()]), &[-1, -1], false).is_err());
        assert!(reshape_dims(Some(&[6.into()]), &[6, 0], false).is_err());
        assert!(reshape_dims(Some(&[6.into()]), &[-2, 3], false).is_err());
        let kept = reshape_dims(Some(&[0.into(), 5.into()]), &[7, 0], true).unwrap();
        assert_eq!(kept, [Dim::Known(7), Dim::Known(0)]);
    }
}
