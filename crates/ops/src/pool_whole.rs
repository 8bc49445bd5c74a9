//! Pooling over whole planes (the Global operators), and MaxUnpool, the way back from MaxPool.

use hetra_ir::{Dim, Type};
use hetra_tensor::{Element, Tensor, Value, element_count};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dispatch::dispatch;
use crate::error::OpError;
use crate::pool::{norm, order, upgrade_order};
use crate::real::at_least_rank;
use crate::window::{Window, kernel_shape};
use crate::work::per_input_element;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&GLOBAL_AVERAGE, &GLOBAL_MAX, &GLOBAL_LP, &MAX_UNPOOL];

const GLOBAL: OpDef =
    OpDef { kind: Kind::Reduce, infer: infer_global, work: per_input_element, ..OpDef::DEFAULT };

static GLOBAL_AVERAGE: OpDef = OpDef {
    name: "GlobalAveragePool",
    doc: "Mean of each channel.",
    onnx: &[onnx("", "GlobalAveragePool", 22)],
    eval: |ctx| eval_global(ctx, |plane| plane.iter().sum::<f64>() / plane.len() as f64),
    gradient: Some(|tape| {
        let (x, y) = (tape.x(0)?, tape.y(0));
        let share = tape.dy(0) * y.share_of(x);
        Ok(vec![Some(share.with("Expand", x.shape()))])
    }),
    ..GLOBAL
};

static GLOBAL_MAX: OpDef = OpDef {
    name: "GlobalMaxPool",
    doc: "Maximum of each channel.",
    onnx: &[onnx("", "GlobalMaxPool", 22)],
    eval: |ctx| eval_global(ctx, |plane| plane.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
    ..GLOBAL
};

static GLOBAL_LP: OpDef = OpDef {
    name: "GlobalLpPool",
    doc: "Lp norm of each channel.",
    onnx: &[onnx("", "GlobalLpPool", 22)],
    upgrade: Some(upgrade_order),
    eval: |ctx| {
        let order = order(ctx.attrs())?;
        eval_global(ctx, |plane| norm(plane.iter().copied(), order))
    },
    ..GLOBAL
};

static MAX_UNPOOL: OpDef = OpDef {
    name: "MaxUnpool",
    doc: "Puts elements where MaxPool took them from, and zeros elsewhere.",
    onnx: &[onnx("", "MaxUnpool", 22)],
    inputs: Arity::between(2, 3),
    infer: infer_unpool,
    eval: eval_unpool,
    ..OpDef::DEFAULT
};

fn eval_global(ctx: &EvalCtx<'_>, rule: impl Fn(&[f64]) -> f64) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    if !x.dtype().is_float() {
        return Err(OpError::input(0, "floats", x.describe()));
    }
    at_least_rank(0, x.rank(), 2)?;
    let mut shape = x.shape().to_vec();
    shape[2..].fill(1);
    let values = hetra_tensor::to_f64(x)?;
    let plane = element_count(&x.shape()[2..])?;
    let planes = element_count(&shape)?;
    if plane == 0 && planes > 0 {
        return Err(OpError::input(0, "planes with elements", x.describe()));
    }
    let results: Vec<f64> =
        (0..planes).map(|index| rule(&values[index * plane..(index + 1) * plane])).collect();
    Ok(vec![hetra_tensor::from_f64(x.dtype(), &shape, &results)?.into()])
}

fn infer_global(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dims = match ctx.dims(0) {
        None => None,
        Some(dims) => {
            at_least_rank(0, dims.len(), 2)?;
            let mut kept = dims[..2].to_vec();
            kept.resize(dims.len(), Dim::Known(1));
            Some(kept)
        }
    };
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), dims)])
}

/// The extents along which indices count, by the attributes alone.
fn unpooled_extents(window: &Window, input: &[usize]) -> Result<Vec<usize>, OpError> {
    let extent = |(axis, &extent): (usize, &usize)| {
        let full = (extent as i128 - 1) * window.strides[axis] as i128
            + window.kernel[axis] as i128
            - window.pads_begin[axis] as i128
            - window.pads_end[axis] as i128;
        usize::try_from(full)
            .map_err(|_| OpError::invalid(format!("axis {axis}: an output extent of {full}")))
    };
    input.iter().enumerate().map(extent).collect()
}

/// The shape of the output, and the shape that indices count in: they differ when `output_shape`
/// is given, and then the second is put into the corner of the first.
fn unpooled_shapes(
    attrs: &hetra_ir::Attrs,
    shape: &[usize],
    wanted: Option<&[i64]>,
) -> Result<(Vec<usize>, Vec<usize>), OpError> {
    at_least_rank(0, shape.len(), 2)?;
    let kernel = kernel_shape(attrs)?;
    if kernel.len() != shape.len() - 2 {
        let wanted = format!("{} spatial axes", kernel.len());
        return Err(OpError::input(0, wanted, format!("{shape:?}")));
    }
    let (window, _) = Window::unpadded(attrs, &kernel)?;
    let inferred = [&shape[..2], unpooled_extents(&window, &shape[2..])?.as_slice()].concat();
    let Some(wanted) = wanted else { return Ok((inferred.clone(), inferred)) };
    let fits = |(&extent, &least): (&i64, &usize)| {
        usize::try_from(extent).ok().filter(|&extent| extent >= least)
    };
    let output = wanted.iter().zip(&inferred).map(fits).collect::<Option<Vec<_>>>();
    let output = output.filter(|_| wanted.len() == inferred.len());
    let output = output.ok_or_else(|| {
        OpError::input(2, format!("at least {inferred:?}"), format!("{wanted:?}"))
    })?;
    Ok((output, inferred))
}

fn eval_unpool(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (x, indices) = (ctx.tensor(0)?, ctx.ints(1)?);
    if indices.len() != x.len() {
        return Err(OpError::input(
            1,
            format!("{} indices", x.len()),
            format!("{}", indices.len()),
        ));
    }
    let wanted = ctx.ints_opt(2)?;
    let (shape, inner) = unpooled_shapes(ctx.attrs(), x.shape(), wanted.as_deref())?;
    let out = dispatch!(x.dtype(), T in [f32, f64, f16, bf16, i8, u8] => {
        unpool::<T>(x, &indices, &shape, &inner)
    })?;
    Ok(vec![out.into()])
}

fn unpool<T: Element>(
    x: &Tensor,
    indices: &[i64],
    shape: &[usize],
    inner: &[usize],
) -> Result<Tensor, OpError> {
    let mut out = Tensor::zeros(x.dtype(), shape)?;
    let limit = element_count(inner)?;
    let targets = out.as_mut_slice::<T>()?;
    for (&value, &index) in x.as_slice::<T>()?.iter().zip(indices) {
        let mut rest =
            usize::try_from(index).ok().filter(|&index| index < limit).ok_or_else(|| {
                OpError::input(1, format!("indices below {limit}"), format!("{index}"))
            })?;
        let (mut place, mut step) = (0, 1);
        for (&extent, &outer) in inner.iter().zip(shape).rev() {
            place += rest % extent * step;
            rest /= extent;
            step *= outer;
        }
        targets[place] = value;
    }
    Ok(out)
}

fn infer_unpool(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(0);
    let wanted = ctx.known_ints(2);
    if let Some(shape) = ctx.ty(0)?.known_shape()
        && (wanted.is_some() || !ctx.has(2))
    {
        let (output, _) = unpooled_shapes(ctx.attrs(), &shape, wanted.as_deref())?;
        let dims = output.into_iter().map(Dim::Known).collect();
        return Ok(vec![InferCtx::make(dtype, Some(dims))]);
    }
    Ok(vec![InferCtx::make(dtype, ctx.rank(0).map(|rank| vec![Dim::Unknown; rank]))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{floats, iota, node, run};

    #[test]
    fn global_pools() {
        let check = |op: &str, wanted: &[f32]| {
            let y = run(node(op, 1), &[floats(&[1, 2, 2], &[3.0, 4.0, 0.0, -2.0])]).unwrap();
            assert_eq!(y[0].as_slice::<f32>().unwrap(), wanted, "{op}");
            assert!(run(node(op, 1), &[iota(&[3])]).is_err());
            assert!(run(node(op, 1), &[iota(&[1, 1, 0])]).is_err());
        };
        check("GlobalAveragePool", &[3.5, -1.0]);
        check("GlobalMaxPool", &[4.0, 0.0]);
        check("GlobalLpPool", &[5.0, 2.0]);
    }

    #[test]
    fn unpool_puts_back() {
        let op = || {
            let node = node("MaxUnpool", 1).with("kernel_shape", vec![2]);
            node.with("strides", vec![2])
        };
        let x = floats(&[1, 1, 2], &[7.0, 8.0]);
        let at = |values: &[i64]| Some(Tensor::from_slice(&[1, 1, 2], values).unwrap());
        let y = run(op(), &[x.clone(), at(&[1, 2])]).unwrap();
        assert_eq!(y[0].as_slice::<f32>().unwrap(), [0.0, 7.0, 8.0, 0.0]);
        let shape = Some(Tensor::vector(&[1i64, 1, 5]));
        let y = run(op(), &[x.clone(), at(&[0, 3]), shape]).unwrap();
        assert_eq!(y[0].as_slice::<f32>().unwrap(), [7.0, 0.0, 0.0, 8.0, 0.0]);
        assert!(run(op(), &[x.clone(), at(&[0, 4])]).is_err());
        assert!(run(op(), &[x.clone(), at(&[0, -1])]).is_err());
        let small = Some(Tensor::vector(&[1i64, 1, 3]));
        assert!(run(op(), &[x, at(&[0, 3]), small]).is_err());
    }
}
