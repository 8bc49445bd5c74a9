//! Arithmetic types of the heavy references: which Rust type a dtype computes in.
//!
//! f64 computes in f64, every other float in f32; results are rounded to the dtype once, at the
//! end. Products of matrices also run on integers, which wrap.

use std::borrow::Cow;
use std::ops::{Add, AddAssign, Mul};

use hetra_tensor::{DType, Element, Rounding, Tensor, cast};

use crate::error::OpError;

/// A number that products and sums are made of; integers wrap.
pub(crate) trait Ring: Element + Copy + Default {
    /// `self + a * b`.
    fn add_mul(self, a: Self, b: Self) -> Self;
    /// `self + a`.
    fn plus(self, a: Self) -> Self;
    /// `self * factor`, truncated for integers.
    fn scaled(self, factor: f64) -> Self;
}

/// f32 or f64.
pub(crate) trait Real: Ring + Add<Output = Self> + Mul<Output = Self> + AddAssign {
    /// Rounded from f64.
    fn of(value: f64) -> Self;
    /// Widened to f64.
    fn wide(self) -> f64;
}

macro_rules! reals {
    ($($float:ident),*) => {$(
        impl Ring for $float {
            fn add_mul(self, a: Self, b: Self) -> Self {
                self + a * b
            }
            fn plus(self, a: Self) -> Self {
                self + a
            }
            fn scaled(self, factor: f64) -> Self {
                self * factor as $float
            }
        }
        impl Real for $float {
            fn of(value: f64) -> Self {
                value as $float
            }
            fn wide(self) -> f64 {
                f64::from(self)
            }
        }
    )*};
}

macro_rules! rings {
    ($($int:ident),*) => {$(
        impl Ring for $int {
            fn add_mul(self, a: Self, b: Self) -> Self {
                self.wrapping_add(a.wrapping_mul(b))
            }
            fn plus(self, a: Self) -> Self {
                self.wrapping_add(a)
            }
            fn scaled(self, factor: f64) -> Self {
                if factor == 1.0 { self } else { (self as f64 * factor) as $int }
            }
        }
    )*};
}

reals!(f32, f64);
rings!(i8, i16, i32, i64, u8, u16, u32, u64);

/// Runs `$body` with `$T` bound to the type that the float `$dtype` computes in; any other dtype
/// is a fault of input `$index`.
macro_rules! with_real {
    ($index:expr, $dtype:expr, $T:ident => $body:expr) => {{
        let dtype: hetra_tensor::DType = $dtype;
        match dtype {
            hetra_tensor::DType::F64 => {
                type $T = f64;
                $body
            }
            hetra_tensor::DType::F32 | hetra_tensor::DType::F16 | hetra_tensor::DType::BF16 => {
                type $T = f32;
                $body
            }
            other => Err($crate::error::OpError::input($index, "floats", other.name())),
        }
    }};
}

pub(crate) use with_real;

/// The elements as `T`, borrowed when they are stored so.
pub(crate) fn elements_as<T: Element>(
    index: usize,
    tensor: &Tensor,
) -> Result<Cow<'_, [T]>, OpError> {
    if tensor.dtype() == T::DTYPE {
        return Ok(Cow::Borrowed(tensor.as_slice::<T>()?));
    }
    if !tensor.dtype().is_float() {
        return Err(OpError::input(index, T::DTYPE.name(), tensor.describe()));
    }
    let wide = cast(tensor, T::DTYPE, true, Rounding::Up)?;
    Ok(Cow::Owned(wide.as_slice::<T>()?.to_vec()))
}

/// Rounds a result to the dtype of the output.
pub(crate) fn narrow(tensor: Tensor, dtype: DType) -> Result<Tensor, OpError> {
    Ok(cast(&tensor, dtype, true, Rounding::Up)?)
}

/// An input must have at least `rank` axes.
pub(crate) fn at_least_rank(index: usize, got: usize, rank: usize) -> Result<(), OpError> {
    if got >= rank {
        return Ok(());
    }
    Err(OpError::input(index, format!("at least {rank} axes"), format!("{got}")))
}
