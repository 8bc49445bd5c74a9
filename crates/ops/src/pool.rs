//! Pooling over sliding windows: MaxPool, AveragePool, LpPool.

use hetra_ir::{Attr, Attrs, Dim, Type};
use hetra_tensor::{Axes, DType, Element, Tensor, Value, element_count};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, Upgrade, onnx};
use crate::dispatch::dispatch;
use crate::error::OpError;
use crate::real::{Real, at_least_rank, elements_as, narrow, with_real};
use crate::window::{Window, advance, kernel_shape};
use crate::work::{Work, elements};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&MAX_POOL, &NHWC_MAX_POOL, &AVERAGE_POOL, &LP_POOL];

const POOL: OpDef =
    OpDef { kind: Kind::Heavy, infer: infer_pool, work: pool_work, ..OpDef::DEFAULT };

static MAX_POOL: OpDef = OpDef {
    name: "MaxPool",
    doc: "Maximum of each window, and where it lies.",
    onnx: &[onnx("", "MaxPool", 22)],
    outputs: Arity::between(1, 2),
    eval: |ctx| eval_max_pool(ctx, ctx.tensor(0)?),
    gradient: Some(|tape| {
        let x = tape.x(0)?;
        let node = tape.node().with("storage_order", 0i64);
        let places = tape.call(node, &[Some(x)], 2)[1];
        Ok(vec![Some(tape.dy(0).scatter_to(places, x))])
    }),
    ..POOL
};

static NHWC_MAX_POOL: OpDef = OpDef {
    name: "com.microsoft.NhwcMaxPool",
    doc: "MaxPool of 8-bit integers with the channels last.",
    onnx: &[onnx("com.microsoft", "NhwcMaxPool", 1)],
    infer: infer_nhwc,
    eval: eval_nhwc,
    ..POOL
};

static AVERAGE_POOL: OpDef = OpDef {
    name: "AveragePool",
    doc: "Mean of each window, with or without the padding.",
    onnx: &[onnx("", "AveragePool", 22)],
    eval: |ctx| {
        let padded = ctx.attrs().flag_or("count_include_pad", false)?;
        with_real!(0, ctx.tensor(0)?.dtype(), T => {
            map_windows::<T>(ctx, padded, |values, taps| {
                let sum: f64 = values.map(Real::wide).sum();
                sum / taps as f64
            })
        })
    },
    ..POOL
};

static LP_POOL: OpDef = OpDef {
    name: "LpPool",
    doc: "Lp norm of each window.",
    onnx: &[onnx("", "LpPool", 22)],
    upgrade: Some(upgrade_order),
    eval: |ctx| {
        let order = order(ctx.attrs())?;
        with_real!(0, ctx.tensor(0)?.dtype(), T => {
            map_windows::<T>(ctx, false, |values, _| norm(values.map(Real::wide), order))
        })
    },
    ..POOL
};

/// In opset 1 the order of the norm was a float.
pub(crate) fn upgrade_order(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    if let Some(Attr::Float(order)) = up.node.attrs.0.get("p").cloned() {
        up.node.attrs.set("p", order.round() as i64);
    }
    Ok(())
}

/// The order of an Lp norm.
pub(crate) fn order(attrs: &Attrs) -> Result<i64, OpError> {
    let order = attrs.int_or("p", 2)?;
    if order >= 1 {
        return Ok(order);
    }
    Err(OpError::invalid(format!("p is {order}, wanted at least 1")))
}

/// (sum of |x|^p)^(1/p).
pub(crate) fn norm(values: impl Iterator<Item = f64>, order: i64) -> f64 {
    match order {
        1 => values.map(f64::abs).sum(),
        2 => values.map(|value| value * value).sum::<f64>().sqrt(),
        _ => {
            values.map(|value| value.abs().powf(order as f64)).sum::<f64>().powf(1.0 / order as f64)
        }
    }
}

/// Everything a pooling kernel needs to know, resolved once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolGeometry {
    /// Images times channels.
    pub planes: usize,
    /// Spatial extents of the input.
    pub input: Axes,
    /// Spatial extents of the output.
    pub output: Axes,
    /// The window.
    pub window: Window,
}

impl PoolGeometry {
    /// Reads the attributes of a pooling node whose input is (N, C, spatial).
    ///
    /// # Errors
    /// Shapes or attributes that do not fit together.
    pub fn resolve(attrs: &Attrs, shape: &[usize]) -> Result<PoolGeometry, OpError> {
        at_least_rank(0, shape.len(), 2)?;
        let window = Window::of(attrs, &shape[2..], &kernel_shape(attrs)?)?;
        let output = window.pooled_extents(&shape[2..])?;
        Ok(PoolGeometry {
            planes: element_count(&shape[..2])?,
            input: shape[2..].into(),
            output,
            window,
        })
    }

    fn output_shape(&self, shape: &[usize]) -> Vec<usize> {
        [&shape[..2], self.output.as_slice()].concat()
    }

    /// Calls `visit` for each window of a plane with its number of taps in the input (and, if
    /// `padded`, in the padding), having filled `places` with the offsets of those in the input.
    fn for_each_window(
        &self,
        padded: bool,
        mut visit: impl FnMut(usize, &[usize], usize),
    ) -> Result<(), OpError> {
        let rank = self.window.rank();
        let windows = element_count(&self.output)?;
        let mut at = vec![0; rank];
        let mut places = Vec::new();
        for index in 0..windows {
            let mut taps = 1;
            places.clear();
            places.push(0);
            for (axis, &place) in at.iter().enumerate() {
                let inside = self.window.taps_inside(axis, place, self.input[axis]);
                let counted = match padded {
                    true => self.window.taps_padded(axis, place, self.input[axis]).len(),
                    false => inside.len(),
                };
                taps = usize::saturating_mul(taps, counted);
                self.refine(axis, place, inside, &mut places);
            }
            visit(index, &places, taps);
            advance(&mut at, &self.output);
        }
        Ok(())
    }

    /// Replaces each place by those of its taps along one more axis.
    fn refine(
        &self,
        axis: usize,
        output: usize,
        taps: std::ops::Range<usize>,
        places: &mut Vec<usize>,
    ) {
        let known = places.len();
        for index in 0..known {
            let base = places[index] * self.input[axis];
            for tap in taps.clone() {
                places.push(base + self.window.position(axis, output, tap));
            }
        }
        places.drain(..known);
    }
}

fn eval_max_pool(ctx: &EvalCtx<'_>, x: &Tensor) -> Result<Vec<Value>, OpError> {
    let geometry = PoolGeometry::resolve(ctx.attrs(), x.shape())?;
    let column_major = ctx.attrs().int_or("storage_order", 0)? == 1;
    let wants_indices = ctx.wants(1);
    let (values, indices) = dispatch!(x.dtype(), T in [f32, f64, f16, bf16, i8, u8] => {
        max_pool::<T>(x, &geometry, wants_indices)
    })?;
    let Some(mut indices) = indices else { return Ok(vec![values.into()]) };
    if column_major {
        let plane = element_count(&geometry.input)?;
        for index in indices.as_mut_slice::<i64>()? {
            *index = to_column_major(*index as usize, plane, &geometry.input) as i64;
        }
    }
    Ok(vec![values.into(), indices.into()])
}

/// The index of the same element when the first spatial axis is the fastest.
fn to_column_major(index: usize, plane: usize, extents: &[usize]) -> usize {
    let mut rest = index % plane;
    let mut turned = 0;
    let mut step = plane;
    // From the last axis to the first: the last has the largest step.
    for &extent in extents.iter().rev() {
        step /= extent;
        turned += rest % extent * step;
        rest /= extent;
    }
    index / plane * plane + turned
}

/// What no number of a type is below: the maximum of no numbers.
trait Lowest: Element + PartialOrd {
    const LOWEST: Self;
}

macro_rules! lowest {
    ($($number:ty: $lowest:ident),*) => {$(
        impl Lowest for $number {
            const LOWEST: Self = <$number>::$lowest;
        }
    )*};
}

lowest!(f32: NEG_INFINITY, f64: NEG_INFINITY, half::f16: NEG_INFINITY, half::bf16: NEG_INFINITY);
lowest!(i8: MIN, u8: MIN);

/// The maxima, and their indices in all of `x`, row-major. NaN is no number: a window of padding
/// and NaN only gives the lowest one.
fn max_pool<T: Lowest>(
    x: &Tensor,
    g: &PoolGeometry,
    wants_indices: bool,
) -> Result<(Tensor, Option<Tensor>), OpError> {
    let shape = g.output_shape(x.shape());
    let mut values = Tensor::zeros(x.dtype(), &shape)?;
    let mut indices = wants_indices.then(|| Tensor::zeros(DType::I64, &shape)).transpose()?;
    if values.is_empty() {
        return Ok((values, indices));
    }
    let (plane_in, plane_out) = (element_count(&g.input)?, element_count(&g.output)?);
    let source = x.as_slice::<T>()?;
    let targets = values.as_mut_slice::<T>()?;
    let mut slots = match &mut indices {
        Some(indices) => Some(indices.as_mut_slice::<i64>()?),
        None => None,
    };
    g.for_each_window(false, |index, places, _| {
        for plane in 0..g.planes {
            let input = &source[plane * plane_in..(plane + 1) * plane_in];
            let mut best: Option<(T, usize)> = None;
            for &place in places {
                let value = input[place];
                let is_number = value.partial_cmp(&value).is_some();
                if is_number && best.is_none_or(|(top, _)| value > top) {
                    best = Some((value, place));
                }
            }
            let first = places.first().copied().unwrap_or(0);
            let (value, place) = best.unwrap_or((T::LOWEST, first));
            targets[plane * plane_out + index] = value;
            if let Some(slots) = &mut slots {
                slots[plane * plane_out + index] = (plane * plane_in + place) as i64;
            }
        }
    })?;
    Ok((values, indices))
}

/// One number for each window, from its elements and the number of taps that count.
fn map_windows<T: Real>(
    ctx: &EvalCtx<'_>,
    padded: bool,
    rule: impl Fn(&mut dyn Iterator<Item = T>, usize) -> f64,
) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let g = PoolGeometry::resolve(ctx.attrs(), x.shape())?;
    let mut out = Tensor::zeros(T::DTYPE, &g.output_shape(x.shape()))?;
    if !out.is_empty() {
        let (plane_in, plane_out) = (element_count(&g.input)?, element_count(&g.output)?);
        let source = elements_as::<T>(0, x)?;
        let targets = out.as_mut_slice::<T>()?;
        g.for_each_window(padded, |index, places, taps| {
            for plane in 0..g.planes {
                let input = &source[plane * plane_in..(plane + 1) * plane_in];
                let value = rule(&mut places.iter().map(|&place| input[place]), taps);
                targets[plane * plane_out + index] = T::of(value);
            }
        })?;
    }
    Ok(vec![narrow(out, x.dtype())?.into()])
}

fn eval_nhwc(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    at_least_rank(0, x.rank(), 3)?;
    let rank = x.rank();
    let first: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    let planar = x.view().permute(&first)?.to_tensor()?;
    let pooled = eval_max_pool(ctx, &planar)?;
    let last: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
    let Some(pooled) = pooled.first().and_then(Value::as_tensor) else { return Ok(vec![]) };
    Ok(vec![pooled.view().permute(&last)?.to_tensor()?.into()])
}

fn pooled_dims(ctx: &InferCtx<'_>, spatial: &[Dim]) -> Result<Vec<Dim>, OpError> {
    let kernel = kernel_shape(ctx.attrs())?;
    if kernel.len() != spatial.len() {
        let wanted = format!("{} spatial axes", kernel.len());
        return Err(OpError::input(0, wanted, format!("{}", spatial.len())));
    }
    let known: Option<Vec<usize>> = spatial.iter().map(Dim::known).collect();
    match known {
        Some(input) => {
            let window = Window::of(ctx.attrs(), &input, &kernel)?;
            Ok(window.pooled_extents(&input)?.into_iter().map(Dim::Known).collect())
        }
        // An extent of 0 may be 1: see `Window::pooled_extents`.
        None => {
            let dims = Window::output_dims(ctx.attrs(), spatial, &kernel)?;
            let open = |dim| if dim == Dim::Known(0) { Dim::Unknown } else { dim };
            Ok(dims.into_iter().map(open).collect())
        }
    }
}

fn infer_pool(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dims = match ctx.dims(0) {
        None => None,
        Some(dims) => {
            at_least_rank(0, dims.len(), 2)?;
            Some([&dims[..2], pooled_dims(ctx, &dims[2..])?.as_slice()].concat())
        }
    };
    let indices = InferCtx::make(Some(DType::I64), dims.clone());
    let mut types = vec![InferCtx::make(ctx.dtype_opt(0), dims), indices];
    types.truncate(ctx.node.outputs.len().max(1));
    Ok(types)
}

fn infer_nhwc(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let Some(dims) = ctx.dims(0) else {
        return Ok(vec![InferCtx::make(ctx.dtype_opt(0), None)]);
    };
    at_least_rank(0, dims.len(), 3)?;
    let last = dims.len() - 1;
    let mut pooled = vec![dims[0].clone()];
    pooled.extend(pooled_dims(ctx, &dims[1..last])?);
    pooled.push(dims[last].clone());
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), Some(pooled))])
}

/// One operation for each tap.
fn pool_work(ctx: &InferCtx<'_>, outputs: &[Type]) -> Work {
    let taps: f64 = kernel_shape(ctx.attrs())
        .map_or(0.0, |kernel| kernel.iter().map(|&taps| taps as f64).product());
    Work::ops(outputs.first().map_or(0.0, elements) * taps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{floats, iota, node, run};

    #[test]
    fn maxima_and_their_places() {
        let op = |kernel: &[i64], strides: &[i64]| {
            let node = node("MaxPool", 2).with("kernel_shape", kernel.to_vec());
            node.with("strides", strides.to_vec())
        };
        let y = run(op(&[2, 2], &[2, 2]), &[iota(&[1, 2, 4, 4])]).unwrap();
        assert_eq!(y[0].as_slice::<f32>().unwrap()[..4], [5.0, 7.0, 13.0, 15.0]);
        assert_eq!(y[1].as_slice::<i64>().unwrap()[4..], [21, 23, 29, 31]);
        let turned = op(&[2, 2], &[2, 2]).with("storage_order", 1);
        let y = run(turned, &[iota(&[1, 2, 2, 3])]).unwrap();
        assert_eq!(y[1].as_slice::<i64>().unwrap(), [3, 9]);
        let ceil = op(&[3], &[2]).with("ceil_mode", 1).with("pads", vec![1, 1]);
        let y = run(ceil, &[iota(&[1, 1, 4])]).unwrap();
        assert_eq!(y[0].as_slice::<f32>().unwrap(), [1.0, 3.0, 3.0]);
        let padding = op(&[1], &[1]).with("pads", vec![1, 0]);
        let x = Some(Tensor::from_slice(&[1, 1, 1], &[5i8]).unwrap());
        let y = run(padding, &[x]).unwrap();
        assert_eq!(y[0].as_slice::<i8>().unwrap(), [i8::MIN, 5]);
        let nan = floats(&[1, 1, 4], &[f32::NAN, 1.0, f32::NAN, f32::NAN]);
        let y = run(op(&[2], &[1]), &[nan]).unwrap();
        assert_eq!(y[0].as_slice::<f32>().unwrap(), [1.0, 1.0, f32::NEG_INFINITY]);
        assert_eq!(y[1].as_slice::<i64>().unwrap(), [1, 1, 2]);
    }

    #[test]
    fn means_with_and_without_padding() {
        let check = |count: i64, ceil: i64, wanted: &[f32]| {
            let node = node("AveragePool", 1)
                .with("kernel_shape", vec![2])
                .with("strides", vec![2])
                .with("pads", vec![1, 0])
                .with("ceil_mode", ceil)
                .with("count_include_pad", count);
            let y = run(node, &[floats(&[1, 1, 4], &[2.0, 4.0, 6.0, 8.0])]).unwrap();
            assert_eq!(y[0].as_slice::<f32>().unwrap(), wanted);
        };
        check(0, 0, &[2.0, 5.0]);
        check(1, 0, &[1.0, 5.0]);
        check(1, 1, &[1.0, 5.0, 8.0]);
    }

    #[test]
    fn channels_last_and_norms() {
        let x = Some(Tensor::from_slice(&[1, 2, 2, 2], &[1u8, 8, 2, 7, 3, 6, 4, 5]).unwrap());
        let nhwc = node("com.microsoft.NhwcMaxPool", 1).with("kernel_shape", vec![2, 2]);
        let y = run(nhwc, &[x]).unwrap();
        assert_eq!(y[0].as_slice::<u8>().unwrap(), [4, 8]);
        let lp = node("LpPool", 1).with("kernel_shape", vec![2]).with("p", 2);
        let y = run(lp, &[floats(&[1, 1, 2], &[3.0, 4.0])]).unwrap();
        assert_eq!(y[0].as_slice::<f32>().unwrap(), [5.0]);
    }

    #[test]
    fn wrong_arguments_are_errors() {
        let op = || node("MaxPool", 1);
        assert!(run(op(), &[iota(&[1, 1, 4])]).is_err());
        assert!(run(op().with("kernel_shape", vec![2, 2]), &[iota(&[1, 1, 4])]).is_err());
        assert!(run(op().with("kernel_shape", vec![0]), &[iota(&[1, 1, 4])]).is_err());
        assert!(run(op().with("kernel_shape", vec![9]), &[iota(&[1, 1, 4])]).is_err());
        assert!(run(op().with("kernel_shape", vec![1]), &[iota(&[4])]).is_err());
        let lp = node("LpPool", 1).with("kernel_shape", vec![2]).with("p", 0);
        assert!(run(lp, &[iota(&[1, 1, 4])]).is_err());
    }
}
