//! How scales and zero points spread over a tensor, and the two conversions themselves.

use std::ops::Range;

use hetra_ir::Attrs;
use hetra_tensor::{DType, Rounding, Tensor, cast};

use crate::context::{EvalCtx, resolve_axis};
use crate::error::OpError;

/// Which elements share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantAxis {
    /// All of them.
    Tensor,
    /// Those at one place of an axis.
    Axis(usize),
    /// Those of a block along an axis, at one place of all other axes.
    Blocks {
        /// The axis.
        axis: usize,
        /// Extent of a block; the last one may be shorter.
        size: usize,
    },
}

impl QuantAxis {
    /// Reads `axis` and `block_size` and checks the shape of the scale (input 1) against them.
    ///
    /// # Errors
    /// When the scale does not fit the tensor.
    pub fn of(attrs: &Attrs, shape: &[usize], scale: &[usize]) -> Result<QuantAxis, OpError> {
        // A single scale is one for the whole tensor whatever its rank (unless blocked).
        let block = attrs.int_or("block_size", 0)?;
        if scale.iter().all(|&extent| extent == 1) && (block == 0 || scale.is_empty()) {
            return Ok(QuantAxis::Tensor);
        }
        let axis = resolve_axis(attrs.int_or("axis", 1)?, shape.len())?;
        let fault = |wanted: &str| OpError::input(1, wanted, format!("shape {scale:?}"));
        if block == 0 {
            let [extent] = *scale else { return Err(fault("a scalar or vector")) };
            if extent != shape[axis] {
                return Err(fault(&format!("{} scales for axis {axis}", shape[axis])));
            }
            return Ok(QuantAxis::Axis(axis));
        }
        let size = usize::try_from(block)
            .map_err(|_| OpError::invalid(format!("block_size {block} is negative")))?;
        let mut wanted = shape.to_vec();
        wanted[axis] = shape[axis].div_ceil(size);
        if scale != wanted {
            return Err(fault(&format!("shape {wanted:?}")));
        }
        Ok(QuantAxis::Blocks { axis, size })
    }

    /// Calls `visit` for runs of elements, in order: element `run.start + i` has the scale at
    /// `scale + i * step`, `step` being 0 or 1.
    pub(crate) fn runs(self, shape: &[usize], mut visit: impl FnMut(Range<usize>, usize, usize)) {
        let count: usize = shape.iter().product();
        let (axis, size) = match self {
            QuantAxis::Tensor => return visit(0..count, 0, 0),
            QuantAxis::Axis(axis) => (axis, None),
            QuantAxis::Blocks { axis, size } => (axis, Some(size)),
        };
        if count == 0 {
            return;
        }
        let (extent, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
        for row in 0..count / inner {
            let (outer, at) = (row / extent, row % extent);
            let run = row * inner..(row + 1) * inner;
            match size {
                None => visit(run, at, 0),
                Some(size) => {
                    visit(run, (outer * extent.div_ceil(size) + at / size) * inner, 1);
                }
            }
        }
    }
}

/// Scales and zero points of one tensor.
pub(crate) struct QuantParams {
    pub(crate) axis: QuantAxis,
    pub(crate) scales: Vec<f32>,
    /// Integers; empty when all are 0.
    pub(crate) zeros: Vec<i32>,
}

impl QuantParams {
    /// One scale and zero point for all.
    pub(crate) fn single(scale: f32, zero: i32) -> QuantParams {
        QuantParams { axis: QuantAxis::Tensor, scales: vec![scale], zeros: vec![zero] }
    }

    fn zero(&self, at: usize) -> i32 {
        self.zeros.get(at).copied().unwrap_or(0)
    }

    /// `(x - zero) * scale` of each element.
    pub(crate) fn dequantize(&self, values: &[i32], shape: &[usize]) -> Vec<f32> {
        let mut out = vec![0f32; values.len()];
        self.axis.runs(shape, |run, first, step| {
            let pairs = out[run.clone()].iter_mut().zip(&values[run]);
            for (at, (slot, &value)) in pairs.enumerate() {
                let place = first + at * step;
                let distance = i64::from(value) - i64::from(self.zero(place));
                *slot = distance as f32 * self.scales[place];
            }
        });
        out
    }

    /// `rint(x / scale) + zero` of each element, within the range of `dtype`.
    pub(crate) fn quantize(&self, values: &[f32], shape: &[usize], dtype: DType) -> Vec<i32> {
        let mut out = vec![0i32; values.len()];
        self.axis.runs(shape, |run, first, step| {
            let pairs = out[run.clone()].iter_mut().zip(&values[run]);
            for (at, (slot, &value)) in pairs.enumerate() {
                let place = first + at * step;
                *slot = round_to(value / self.scales[place], self.zero(place), dtype);
            }
        });
        out
    }
}

/// The nearest integer, half to even, moved by the zero point, within the range of `dtype`.
pub(crate) fn round_to(value: f32, zero: i32, dtype: DType) -> i32 {
    let (lowest, highest) = dtype.int_range().unwrap_or((0, 0));
    // The cast saturates and takes NaN for 0; all ranges here fit into 32 bits.
    let rounded = value.round_ties_even() as i64;
    (rounded.saturating_add(i64::from(zero))).clamp(lowest as i64, highest as i64) as i32
}

/// The integers of a tensor of at most 32 bits.
pub(crate) fn integers(tensor: &Tensor, index: usize) -> Result<Tensor, OpError> {
    if !tensor.dtype().is_int() || matches!(tensor.dtype(), DType::I64 | DType::U64 | DType::U32) {
        return Err(OpError::input(index, "integers of at most 32 bits", tensor.describe()));
    }
    crate::dense::bounded(tensor.shape())?;
    Ok(cast(tensor, DType::I32, true, Rounding::NearestEven)?)
}

/// Integers, all in the range of `dtype`, as a tensor of it.
pub(crate) fn pack(dtype: DType, shape: &[usize], values: &[i32]) -> Result<Tensor, OpError> {
    let tensor = Tensor::from_slice(shape, values)?;
    Ok(cast(&tensor, dtype, true, Rounding::NearestEven)?)
}

/// The one scale and zero point at `index` and `index + 1`; the zero point may be left out.
pub(crate) fn single_params(
    ctx: &EvalCtx<'_>,
    index: usize,
    dtype: DType,
) -> Result<QuantParams, OpError> {
    let scale = scales(ctx, index)?;
    let [scale] = scale[..] else {
        return Err(OpError::input(index, "one scale", ctx.tensor(index)?.describe()));
    };
    let zero = zero_points(ctx, index + 1, Some(dtype))?;
    match zero[..] {
        [] => Ok(QuantParams::single(scale, 0)),
        [zero] => Ok(QuantParams::single(scale, zero)),
        _ => Err(OpError::input(index + 1, "one zero point", format!("{}", zero.len()))),
    }
}

/// The floats at `index` as f32.
pub(crate) fn scales(ctx: &EvalCtx<'_>, index: usize) -> Result<Vec<f32>, OpError> {
    Ok(crate::dense::floats::<f32>(ctx, index)?.as_slice::<f32>()?.to_vec())
}

/// The zero points at `index`, empty when left out; of `dtype` when that is given.
pub(crate) fn zero_points(
    ctx: &EvalCtx<'_>,
    index: usize,
    dtype: Option<DType>,
) -> Result<Vec<i32>, OpError> {
    let Some(tensor) = ctx.tensor_opt(index) else { return Ok(Vec::new()) };
    if let Some(dtype) = dtype
        && tensor.dtype() != dtype
    {
        return Err(OpError::input(index, dtype.name(), tensor.describe()));
    }
    Ok(integers(tensor, index)?.as_slice::<i32>()?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra_ir::Attrs;

    #[test]
    fn rounding_is_half_to_even_and_saturates() {
        let check = |value: f32, zero: i32, dtype: DType, wanted: i32| {
            assert_eq!(round_to(value, zero, dtype), wanted, "{value} + {zero} as {dtype}");
        };
        check(0.5, 1, DType::U8, 1);
        check(1.5, 1, DType::U8, 3);
        check(-2.5, 128, DType::U8, 126);
        check(1e30, -5, DType::I8, 127);
        check(-1e30, 5, DType::I4, -8);
        check(f32::NAN, 7, DType::U8, 7);
        check(9.0, 0, DType::U2, 3);
    }

    #[test]
    fn scales_fit_or_fail() {
        let attrs = |axis: i64, block: i64| {
            let mut attrs = Attrs::default();
            attrs.set("axis", axis);
            attrs.set("block_size", block);
            attrs
        };
        let check = |axis, block, scale: &[usize], wanted: Option<QuantAxis>| {
            assert_eq!(QuantAxis::of(&attrs(axis, block), &[2, 5], scale).ok(), wanted);
        };
        check(1, 0, &[], Some(QuantAxis::Tensor));
        check(7, 0, &[1], Some(QuantAxis::Tensor));
        check(-1, 0, &[5], Some(QuantAxis::Axis(1)));
        check(0, 0, &[5], None);
        check(2, 0, &[5], None);
        check(1, 2, &[2, 3], Some(QuantAxis::Blocks { axis: 1, size: 2 }));
        check(1, 5, &[2, 1], Some(QuantAxis::Blocks { axis: 1, size: 5 }));
        check(1, 2, &[2, 2], None);
        check(1, -2, &[2, 3], None);
        check(0, 0, &[2, 5], None);
    }

    #[test]
    fn runs_of_blocks() {
        let mut seen = Vec::new();
        let blocks = QuantAxis::Blocks { axis: 1, size: 2 };
        blocks.runs(&[2, 3, 2], |run, first, step| seen.push((run.start, first, step)));
        assert_eq!(seen, [(0, 0, 1), (2, 0, 1), (4, 2, 1), (6, 4, 1), (8, 4, 1), (10, 6, 1)]);
    }
}
