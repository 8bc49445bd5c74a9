//! How elementwise operators walk their operands: broadcasting without copies, and the float
//! types behind one function.
//!
//! A [`Walk`] merges the axes of a broadcast into as few as possible and hands out the innermost
//! one as runs, so that the common cases (equal shapes, a scalar, a bias) are plain loops over
//! slices. `f16` and `bf16` compute in `f32` or `f64` and round once.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Element, Rounding, Shape, Tensor, Value, broadcast, cast, strides_of};

use crate::context::{EvalCtx, InferCtx, broadcast_dims, infer_broadcast};
use crate::def::Upgrade;
use crate::error::OpError;

/// The runs of `N` operands that broadcast to one shape.
pub(crate) struct Walk<const N: usize> {
    /// Extent and steps of the merged axes, innermost first; never empty.
    axes: Vec<(usize, [usize; N])>,
    empty: bool,
}

impl<const N: usize> Walk<N> {
    /// The walk over `shape`, to which each operand (given by its shape) broadcasts.
    pub(crate) fn new(shape: &[usize], operands: [&[usize]; N]) -> Walk<N> {
        let strides = operands.map(strides_of);
        let step = |operand: usize, axis: usize| {
            let extents = operands[operand];
            let own = (axis + extents.len()).checked_sub(shape.len());
            own.map_or(0, |own| if extents[own] == 1 { 0 } else { strides[operand][own] })
        };
        let mut axes: Vec<(usize, [usize; N])> = Vec::with_capacity(shape.len());
        for axis in (0..shape.len()).rev().filter(|&axis| shape[axis] != 1) {
            let steps: [usize; N] = std::array::from_fn(|operand| step(operand, axis));
            if let Some((extent, inner)) = axes.last_mut()
                && (0..N).all(|i| steps[i] == inner[i].saturating_mul(*extent))
            {
                *extent = extent.saturating_mul(shape[axis]);
            } else {
                axes.push((shape[axis], steps));
            }
        }
        if axes.is_empty() {
            axes.push((1, [0; N]));
        }
        Walk { axes, empty: shape.contains(&0) }
    }

    /// Length of a run, and the step of each operand in it (0 or 1).
    pub(crate) fn run(&self) -> (usize, [usize; N]) {
        self.axes[0]
    }

    /// Calls `visit` with the offset of each operand at the start of each run.
    pub(crate) fn for_each_run(&self, mut visit: impl FnMut([usize; N])) {
        if self.empty {
            return;
        }
        let outer = &self.axes[1..];
        let mut index = vec![0usize; outer.len()];
        let mut at = [0usize; N];
        loop {
            visit(at);
            let mut axis = 0;
            loop {
                let Some((extent, steps)) = outer.get(axis) else { return };
                index[axis] += 1;
                if index[axis] < *extent {
                    (0..N).for_each(|i| at[i] += steps[i]);
                    break;
                }
                (0..N).for_each(|i| at[i] -= steps[i] * (extent - 1));
                index[axis] = 0;
                axis += 1;
            }
        }
    }
}

/// `out[i] = f(a[i], b[i])` along the walk; `out` is dense.
pub(crate) fn zip<A: Copy, B: Copy, R: Copy>(
    walk: &Walk<2>,
    (a, b): (&[A], &[B]),
    out: &mut [R],
    f: impl Fn(A, B) -> R,
) {
    let (len, steps) = walk.run();
    let mut rows = out.chunks_exact_mut(len.max(1));
    walk.for_each_run(|[i, j]| {
        let Some(row) = rows.next() else { return };
        match steps {
            [0, 0] => row.fill(f(a[i], b[j])),
            [0, _] => {
                let x = a[i];
                row.iter_mut().zip(&b[j..j + len]).for_each(|(slot, y)| *slot = f(x, *y));
            }
            [_, 0] => {
                let y = b[j];
                row.iter_mut().zip(&a[i..i + len]).for_each(|(slot, x)| *slot = f(*x, y));
            }
            _ => {
                let pairs = a[i..i + len].iter().zip(&b[j..j + len]);
                row.iter_mut().zip(pairs).for_each(|(slot, (x, y))| *slot = f(*x, *y));
            }
        }
    });
}

/// The shape that two tensors broadcast to, and the walk over it.
pub(crate) fn walk2(a: &Tensor, b: &Tensor) -> Result<(Shape, Walk<2>), OpError> {
    let shape = broadcast(a.shape(), b.shape())?;
    let walk = Walk::new(&shape, [a.shape(), b.shape()]);
    Ok((shape, walk))
}

/// Maps two broadcast tensors of one dtype, element by element.
pub(crate) fn map2<T: Element, R: Element>(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(T, T) -> R,
) -> Result<Tensor, OpError> {
    same_dtype(a, b)?;
    let (shape, walk) = walk2(a, b)?;
    let mut out = Tensor::zeros(R::DTYPE, &shape)?;
    zip(&walk, (a.as_slice::<T>()?, b.as_slice::<T>()?), out.as_mut_slice::<R>()?, f);
    Ok(out)
}

/// Asks a question of two broadcast tensors of one dtype, element by element.
pub(crate) fn test2<T: Element>(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(T, T) -> bool,
) -> Result<Tensor, OpError> {
    same_dtype(a, b)?;
    let (shape, walk) = walk2(a, b)?;
    let mut out = Tensor::zeros(DType::Bool, &shape)?;
    let operands = (a.as_slice::<T>()?, b.as_slice::<T>()?);
    zip(&walk, operands, out.bytes_mut()?, |x, y| u8::from(f(x, y)));
    Ok(out)
}

/// Maps two broadcast float tensors of one dtype; `narrow` serves `f32` and the halves (whose
/// result is rounded once more).
pub(crate) fn map2_float(
    a: &Tensor,
    b: &Tensor,
    narrow: impl Fn(f32, f32) -> f32,
    wide: impl Fn(f64, f64) -> f64,
) -> Result<Tensor, OpError> {
    same_dtype(a, b)?;
    match a.dtype() {
        DType::F32 => map2(a, b, narrow),
        DType::F64 => map2(a, b, wide),
        DType::F16 | DType::BF16 => from_f32(a.dtype(), &map2(&to_f32(a)?, &to_f32(b)?, narrow)?),
        other => Err(OpError::input(0, "a float", other.name())),
    }
}

/// Maps two broadcast tensors of one float dtype through f64.
pub(crate) fn map2_f64(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(f64, f64) -> f64,
) -> Result<Tensor, OpError> {
    same_dtype(a, b)?;
    match a.dtype() {
        DType::F32 => map2(a, b, |x: f32, y: f32| f(f64::from(x), f64::from(y)) as f32),
        DType::F64 => map2(a, b, f),
        dtype if dtype.is_float() => {
            let wide = map2::<f64, f64>(&widen(a)?, &widen(b)?, f)?;
            Ok(hetra_tensor::from_f64(dtype, wide.shape(), wide.as_slice::<f64>()?)?)
        }
        other => Err(OpError::input(0, "a float", other.name())),
    }
}

/// Maps a tensor of any Rust element type to the same type.
pub(crate) fn map1<T: Element>(tensor: &Tensor, f: impl Fn(T) -> T) -> Result<Tensor, OpError> {
    let mut out = Tensor::zeros(T::DTYPE, tensor.shape())?;
    let slots = out.as_mut_slice::<T>()?.iter_mut();
    slots.zip(tensor.as_slice::<T>()?).for_each(|(slot, x)| *slot = f(*x));
    Ok(out)
}

/// Maps a float tensor through f64: one rounding at the end.
pub(crate) fn map_float(tensor: &Tensor, f: impl Fn(f64) -> f64) -> Result<Tensor, OpError> {
    match tensor.dtype() {
        DType::F32 => map1(tensor, |x: f32| f(f64::from(x)) as f32),
        DType::F64 => map1(tensor, f),
        dtype if dtype.is_float() => {
            let mut values = hetra_tensor::to_f64(tensor)?;
            values.iter_mut().for_each(|x| *x = f(*x));
            Ok(hetra_tensor::from_f64(dtype, tensor.shape(), &values)?)
        }
        other => Err(OpError::input(0, "a float", other.name())),
    }
}

/// `eval` of a function of one float.
pub(crate) fn unary(ctx: &EvalCtx<'_>, f: impl Fn(f64) -> f64) -> Result<Vec<Value>, OpError> {
    Ok(vec![map_float(ctx.tensor(0)?, f)?.into()])
}

/// The same numbers as f32.
pub(crate) fn to_f32(tensor: &Tensor) -> Result<Tensor, OpError> {
    Ok(cast(tensor, DType::F32, true, Rounding::NearestEven)?)
}

/// Numbers of `f32` as `dtype`.
pub(crate) fn from_f32(dtype: DType, tensor: &Tensor) -> Result<Tensor, OpError> {
    Ok(cast(tensor, dtype, true, Rounding::NearestEven)?)
}

/// The same numbers as f64.
pub(crate) fn widen(tensor: &Tensor) -> Result<Tensor, OpError> {
    Ok(cast(tensor, DType::F64, true, Rounding::NearestEven)?)
}

/// Both inputs must be of one dtype.
pub(crate) fn same_dtype(a: &Tensor, b: &Tensor) -> Result<(), OpError> {
    if a.dtype() == b.dtype() {
        return Ok(());
    }
    Err(OpError::input(1, a.dtype().name(), b.describe()))
}

/// Sets of dtypes that operators accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepts {
    /// f16, bf16, f32, f64.
    Floats,
    /// Integers of 8 bits and more.
    Ints,
    /// Unsigned integers of 8 bits and more.
    Unsigned,
    /// Floats of 16 bits and more, and signed integers of 8 bits and more.
    Signed,
    /// Floats of 16 bits and more, and integers of 8 bits and more.
    Numbers,
    /// Booleans.
    Bools,
    /// Strings.
    Strings,
}

impl Accepts {
    /// Whether `dtype` is in the set.
    pub(crate) fn has(self, dtype: DType) -> bool {
        let float = dtype.is_float() && dtype.bits() >= 16;
        let int = dtype.is_int() && dtype.bits() >= 8;
        match self {
            Accepts::Floats => float,
            Accepts::Ints => int,
            Accepts::Unsigned => int && !dtype.is_signed_int(),
            Accepts::Signed => float || int && dtype.is_signed_int(),
            Accepts::Numbers => float || int,
            Accepts::Bools => dtype == DType::Bool,
            Accepts::Strings => dtype == DType::String,
        }
    }

    /// What the set is called in a message.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Accepts::Floats => "a float",
            Accepts::Ints => "an integer",
            Accepts::Unsigned => "an unsigned integer",
            Accepts::Signed => "a signed number",
            Accepts::Numbers => "a number",
            Accepts::Bools => "a boolean",
            Accepts::Strings => "a string",
        }
    }

    /// The dtype of an input must be in the set, if it is known.
    pub(crate) fn check(self, ctx: &InferCtx<'_>, index: usize) -> Result<(), OpError> {
        match ctx.dtype_opt(index) {
            Some(dtype) if !self.has(dtype) => {
                Err(OpError::input(index, self.name(), dtype.name()))
            }
            _ => Ok(()),
        }
    }

    /// The dtype of an input at run time must be in the set.
    pub(crate) fn check_tensor(self, index: usize, tensor: &Tensor) -> Result<(), OpError> {
        match self.has(tensor.dtype()) {
            true => Ok(()),
            false => Err(OpError::input(index, self.name(), tensor.describe())),
        }
    }
}

/// The type of the first input, which must be a tensor of the set.
pub(crate) fn infer_unary(ctx: &InferCtx<'_>, set: Accepts) -> Result<Vec<Type>, OpError> {
    set.check(ctx, 0)?;
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), ctx.dims(0).map(<[Dim]>::to_vec))])
}

/// A function of one float.
pub(crate) fn infer_float(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    infer_unary(ctx, Accepts::Floats)
}

/// A function of one number.
pub(crate) fn infer_number(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    infer_unary(ctx, Accepts::Numbers)
}

/// A function of one signed number.
pub(crate) fn infer_signed(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    infer_unary(ctx, Accepts::Signed)
}

/// Two inputs of one dtype of the set, broadcast (see [`pair`] for the attribute `axis`).
pub(crate) fn infer_pair(ctx: &InferCtx<'_>, set: Accepts) -> Result<Vec<Type>, OpError> {
    set.check(ctx, 0)?;
    infer_binary(ctx)
}

/// Two inputs of one dtype, broadcast.
pub(crate) fn infer_binary(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    if let (Some(a), Some(b)) = (ctx.dtype_opt(0), ctx.dtype_opt(1))
        && a != b
    {
        return Err(OpError::input(1, a.name(), b.name()));
    }
    let Some(&axis) = ctx.attrs().int_opt("axis")? else { return infer_broadcast(ctx) };
    let (Some(left), Some(right)) = (ctx.dims(0), ctx.dims(1)) else {
        return Ok(vec![InferCtx::make(ctx.dtype_opt(0), None)]);
    };
    let mut right = right.to_vec();
    let trailing = trailing_axes(axis, left.len(), right.len())?;
    right.resize(right.len() + trailing, Dim::Known(1));
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), broadcast_dims(Some(left), Some(&right))?)])
}

/// The two operands. Before opset 7 an attribute `axis` said at which axis of the first the second
/// starts; `upgrade` keeps it, and here it becomes trailing axes of extent 1.
pub(crate) fn pair(ctx: &EvalCtx<'_>) -> Result<(Tensor, Tensor), OpError> {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let Some(&axis) = ctx.attrs().int_opt("axis")? else { return Ok((a.clone(), b.clone())) };
    let mut shape = b.shape().to_vec();
    shape.resize(shape.len() + trailing_axes(axis, a.rank(), b.rank())?, 1);
    Ok((a.clone(), b.reshape(&shape)?))
}

fn trailing_axes(axis: i64, left: usize, right: usize) -> Result<usize, OpError> {
    let axis = if axis < 0 { axis.saturating_add(left as i64) } else { axis };
    let start = usize::try_from(axis).ok();
    start
        .and_then(|start| left.checked_sub(start)?.checked_sub(right))
        .ok_or_else(|| OpError::invalid(format!("rank {right} at axis {axis} of rank {left}")))
}

/// Before opset 7, broadcasting was asked for by `broadcast = 1`, aligned at `axis` when given
/// and at the last axes otherwise.
pub(crate) fn upgrade_pair(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    if up.node.version < 7 {
        up.node.attrs.take("consumed_inputs");
        let wanted = up.node.attrs.flag_or("broadcast", false)?;
        up.node.attrs.take("broadcast");
        if !wanted {
            up.node.attrs.take("axis");
        }
    }
    Ok(())
}

/// Opset 1 marked inputs that may be overwritten.
pub(crate) fn upgrade_unary(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    if up.node.version < 6 {
        up.node.attrs.take("consumed_inputs");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_agree_with_views() {
        let check = |a: &[usize], b: &[usize]| {
            let numbers = |shape: &[usize]| {
                let count: usize = shape.iter().product();
                let values: Vec<i64> = (1..=count as i64).collect();
                Tensor::from_slice(shape, &values).unwrap()
            };
            let (a, b) = (numbers(a), numbers(b));
            let sum = map2::<i64, i64>(&a, &b, |x, y| 1000 * x + y).unwrap();
            let left = a.view().broadcast_to(sum.shape()).unwrap().to_vec::<i64>().unwrap();
            let right = b.view().broadcast_to(sum.shape()).unwrap().to_vec::<i64>().unwrap();
            let wanted: Vec<i64> = left.iter().zip(&right).map(|(x, y)| 1000 * x + y).collect();
            assert_eq!(sum.as_slice::<i64>().unwrap(), wanted);
        };
        check(&[2, 3], &[2, 3]);
        check(&[], &[]);
        check(&[2, 3, 4], &[]);
        check(&[1, 1], &[2, 3, 4]);
        check(&[2, 3, 4, 5], &[3, 1, 1]);
        check(&[2, 1, 4], &[3, 1]);
        check(&[4, 1], &[1, 3]);
        check(&[2, 0, 3], &[1, 3]);
        check(&[2, 1, 3, 1, 2], &[1, 4, 1, 5, 1]);
    }
}
