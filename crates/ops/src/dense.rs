//! Matrix products on slices, for the references of attention, recurrent and quantised operators.
//!
//! Plain loops over contiguous rows. They accumulate into their output, so that a bias may stand
//! there first. Callers have checked that the slices are of the sizes they name.

use std::borrow::Cow;

use hetra_tensor::{DType, Rounding, Tensor, cast};

use crate::context::EvalCtx;
use crate::error::OpError;
use crate::real::Real;

/// Products that run side by side, so that the compiler may use vector instructions.
const LANES: usize = 8;

/// Sum of the products of two rows of one length.
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::default(); LANES];
    let (chunks_a, chunks_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = chunks_a.remainder().iter().zip(chunks_b.remainder());
    let mut sum = T::default();
    rest.for_each(|(x, y)| sum += *x * *y);
    for (x, y) in chunks_a.zip(chunks_b) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().for_each(|lane| sum += *lane);
    sum
}

/// `out[m,n] += a[m,k] · b[n,k]ᵀ`.
pub(crate) fn product_transposed<T: Real>(a: &[T], b: &[T], k: usize, n: usize, out: &mut [T]) {
    if n == 0 || k == 0 {
        return;
    }
    for (row, sums) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (column, sum) in b.chunks_exact(k).zip(sums) {
            *sum += dot(row, column);
        }
    }
}

/// `out[m,n] += a[m,k] · b[k,n]`.
pub(crate) fn product<T: Real>(a: &[T], b: &[T], k: usize, n: usize, out: &mut [T]) {
    if n == 0 || k == 0 {
        return;
    }
    for (row, sums) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (factor, line) in row.iter().zip(b.chunks_exact(n)) {
            sums.iter_mut().zip(line).for_each(|(sum, value)| *sum += *factor * *value);
        }
    }
}

/// As [`product`], of integers that stand for 8-bit ones less their zero points; wraps.
pub(crate) fn product_int(a: &[i32], b: &[i32], k: usize, n: usize, out: &mut [i32]) {
    if n == 0 || k == 0 {
        return;
    }
    for (row, sums) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (&factor, line) in row.iter().zip(b.chunks_exact(n)) {
            for (sum, &value) in sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(factor.wrapping_mul(value));
            }
        }
    }
}

/// The floats at `index` in the type to compute in.
pub(crate) fn floats<T: Real>(ctx: &EvalCtx<'_>, index: usize) -> Result<Tensor, OpError> {
    to_real::<T>(ctx.tensor(index)?, index)
}

/// As [`floats`], if the input is given.
pub(crate) fn floats_opt<T: Real>(
    ctx: &EvalCtx<'_>,
    index: usize,
) -> Result<Option<Tensor>, OpError> {
    ctx.tensor_opt(index).map(|tensor| to_real::<T>(tensor, index)).transpose()
}

fn to_real<T: Real>(tensor: &Tensor, index: usize) -> Result<Tensor, OpError> {
    if !tensor.dtype().is_float() {
        return Err(OpError::input(index, "floats", tensor.describe()));
    }
    bounded(tensor.shape())?;
    Ok(cast(tensor, T::DTYPE, true, Rounding::NearestEven)?)
}

/// Refuses empty tensors whose other extents are absurd: loops over those would never end.
pub(crate) fn bounded(shape: &[usize]) -> Result<(), OpError> {
    let filled: Vec<usize> = shape.iter().map(|&extent| extent.max(1)).collect();
    let count = hetra_tensor::element_count(&filled)?;
    if count > hetra_tensor::bytes_max() {
        return Err(hetra_tensor::TensorError::TooLarge { bytes: count as u128 }.into());
    }
    Ok(())
}

/// A computed result in the dtype of the output: the one rounding.
pub(crate) fn result<T: Real>(
    dtype: DType,
    shape: &[usize],
    values: &[T],
) -> Result<Tensor, OpError> {
    let tensor = Tensor::from_slice(shape, values)?;
    Ok(cast(&tensor, dtype, true, Rounding::NearestEven)?)
}

/// A buffer of `shape` in zeros, within the limit on memory.
pub(crate) fn zeros<T: Real>(shape: &[usize]) -> Result<Vec<T>, OpError> {
    let count = hetra_tensor::element_count(shape)?;
    let bytes = count as u128 * size_of::<T>() as u128;
    if bytes > hetra_tensor::bytes_max() as u128 {
        return Err(hetra_tensor::TensorError::TooLarge { bytes }.into());
    }
    Ok(vec![T::default(); count])
}

/// The tensor must have exactly this shape.
pub(crate) fn expect_shape(tensor: &Tensor, index: usize, shape: &[usize]) -> Result<(), OpError> {
    if tensor.shape() == shape {
        return Ok(());
    }
    Err(OpError::input(index, format!("shape {shape:?}"), tensor.describe()))
}

/// The shape of a tensor of this rank.
pub(crate) fn shape_of_rank<const R: usize>(
    tensor: &Tensor,
    index: usize,
) -> Result<[usize; R], OpError> {
    <[usize; R]>::try_from(tensor.shape())
        .map_err(|_| OpError::input(index, format!("{R} axes"), tensor.describe()))
}

/// `[a,b,c]` turned to `[b,a,c]`, where rows of `c` stay whole.
pub(crate) fn swap_outer<T: Copy>(values: &[T], [a, b, c]: [usize; 3]) -> Vec<T> {
    let mut out = Vec::with_capacity(values.len());
    for j in 0..b {
        for i in 0..a {
            out.extend_from_slice(&values[(i * b + j) * c..][..c]);
        }
    }
    out
}

/// As [`swap_outer`], borrowing when nothing moves.
pub(crate) fn swap_outer_if<T: Copy>(
    swap: bool,
    values: &[T],
    extents: [usize; 3],
) -> Cow<'_, [T]> {
    if swap { Cow::Owned(swap_outer(values, extents)) } else { Cow::Borrowed(values) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_agree_and_accumulate() {
        let a: Vec<f32> = (0..2 * 19).map(|x| (x % 7) as f32 - 3.0).collect();
        let b: Vec<f32> = (0..19 * 3).map(|x| (x % 5) as f32 - 2.0).collect();
        let turned = swap_outer(&b, [19, 3, 1]);
        let (mut plain, mut other) = (vec![1f32; 6], vec![1f32; 6]);
        product(&a, &b, 19, 3, &mut plain);
        product_transposed(&a, &turned, 19, 3, &mut other);
        assert_eq!(plain, other);
        let ints = |v: &[f32]| v.iter().map(|&x| x as i32).collect::<Vec<_>>();
        let mut sums = vec![1i32; 6];
        product_int(&ints(&a), &ints(&b), 19, 3, &mut sums);
        assert_eq!(sums, ints(&plain));
    }
}
