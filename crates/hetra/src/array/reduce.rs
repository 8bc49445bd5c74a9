//! Along axes: sums, means, extremes, running sums.

use hetra_tensor::{DType, Shape};

use super::call::Op;
use super::movement::{axes_of, axis_of, signed};
use super::promote::{float_of, sum_of};
use super::{Array, ArrayError, Result, Scalar};

/// How elements along axes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is its own description")]
pub enum Reduction {
    Sum,
    Prod,
    Mean,
    Max,
    Min,
    Any,
    All,
}

impl Reduction {
    /// The name that it is called by.
    pub fn name(self) -> &'static str {
        match self {
            Reduction::Sum => "sum",
            Reduction::Prod => "prod",
            Reduction::Mean => "mean",
            Reduction::Max => "max",
            Reduction::Min => "min",
            Reduction::Any => "any",
            Reduction::All => "all",
        }
    }

    fn op(self) -> &'static str {
        match self {
            Reduction::Sum => "ReduceSum",
            Reduction::Prod => "ReduceProd",
            Reduction::Mean => "ReduceMean",
            Reduction::Max | Reduction::Any => "ReduceMax",
            Reduction::Min | Reduction::All => "ReduceMin",
        }
    }
}

/// What axes leave of a shape.
fn left(shape: &[usize], axes: &[usize], keep: bool) -> Shape {
    let extent = |(axis, &extent): (usize, &usize)| match axes.contains(&axis) {
        true if keep => Some(1),
        true => None,
        false => Some(extent),
    };
    shape.iter().enumerate().filter_map(extent).collect()
}

impl Array {
    /// The axes that are meant: all where none are said.
    fn axes(&self, axes: Option<&[i64]>) -> Result<Vec<usize>> {
        axes.map_or_else(|| Ok((0..self.rank()).collect()), |axes| axes_of(axes, self.rank()))
    }

    /// Reduces along axes, or along all. Sums and products of integers have 64 bits, a mean is of
    /// floats.
    ///
    /// # Errors
    /// When an axis is not there or twice, and for the extreme of nothing.
    pub fn reduce(&self, how: Reduction, axes: Option<&[i64]>, keep: bool) -> Result<Array> {
        let axes = self.axes(axes)?;
        let own = self.dtype();
        if own.is_complex() {
            return self.reduce_complex(how, &axes, keep);
        }
        let dtype = match how {
            Reduction::Sum | Reduction::Prod => sum_of(own),
            Reduction::Mean => float_of(own),
            Reduction::Any | Reduction::All => DType::U8,
            Reduction::Max | Reduction::Min if own == DType::Bool => DType::U8,
            Reduction::Max | Reduction::Min => own,
        };
        let nothing = axes.iter().any(|&axis| self.shape()[axis] == 0);
        if nothing && matches!(how, Reduction::Max | Reduction::Min) {
            return Err(ArrayError::shape(how.name(), "nothing has no extreme"));
        }
        let boolean = matches!(how, Reduction::Any | Reduction::All);
        let x = if boolean { self.cast(DType::Bool)?.cast(dtype)? } else { self.cast(dtype)? };
        let shape = left(self.shape(), &axes, keep);
        let result = match boolean && nothing {
            // The least and the greatest of u8.
            true => Array::full(&shape, how == Reduction::All, DType::Bool, &self.device_handle())?,
            false if axes.is_empty() => x,
            false => {
                let list = signed(&axes);
                let op = Op::new(how.op()).attr("keepdims", i64::from(keep)).on(&x).ints(&list);
                op.typed(dtype, shape)?
            }
        };
        let back = boolean || own == DType::Bool && dtype == DType::U8;
        if back { result.cast(DType::Bool) } else { Ok(result) }
    }

    /// Sums by parts, products one after the other.
    fn reduce_complex(&self, how: Reduction, axes: &[usize], keep: bool) -> Result<Array> {
        let list = signed(axes);
        match how {
            Reduction::Sum | Reduction::Mean => {
                let part = |part: Array| part.reduce(how, Some(&list), keep);
                Array::complex(&part(self.real()?)?, &part(self.imag()?)?)
            }
            Reduction::Any | Reduction::All => {
                self.cast(DType::Bool)?.reduce(how, Some(&list), keep)
            }
            Reduction::Max | Reduction::Min => {
                Err(ArrayError::dtype(how.name(), "real numbers", self.dtype()))
            }
            Reduction::Prod => {
                let shape = left(self.shape(), axes, keep);
                let count: usize = axes.iter().map(|&axis| self.shape()[axis]).product();
                if count == 0 || self.size() == 0 {
                    return Array::full(&shape, 1i64, self.dtype(), &self.device_handle());
                }
                let places: Vec<i64> = (-(axes.len() as i64)..0).collect();
                let moved = self.move_axes(&list, &places)?.reshape(&[-1, count as i64])?;
                let all = moved.cumulative(true, 1)?;
                let last = all.slice_axis(1, count as i64 - 1, count as i64)?;
                last.reshaped(&shape)
            }
        }
    }

    /// The sum along axes, or of all.
    ///
    /// # Errors
    /// As [`Array::reduce`].
    pub fn sum(&self, axes: Option<&[i64]>, keep: bool) -> Result<Array> {
        self.reduce(Reduction::Sum, axes, keep)
    }

    /// The mean along axes, or of all.
    ///
    /// # Errors
    /// As [`Array::reduce`].
    pub fn mean(&self, axes: Option<&[i64]>, keep: bool) -> Result<Array> {
        self.reduce(Reduction::Mean, axes, keep)
    }

    /// The mean square of the distance from the mean; `correction` is taken off the count.
    ///
    /// # Errors
    /// As [`Array::reduce`].
    pub fn var(&self, axes: Option<&[i64]>, correction: f64, keep: bool) -> Result<Array> {
        // Squares and counts leave the range of 16 bits.
        let own = float_of(self.dtype());
        let x = self.cast(if own.bits() == 16 { DType::F32 } else { own })?;
        let count: usize = self.axes(axes)?.iter().map(|&axis| self.shape()[axis]).product();
        let distance = x.subtract(&x.mean(axes, true)?)?;
        let distance = if own.is_complex() { distance.abs()? } else { distance };
        let squares = distance.square()?.sum(axes, keep)?;
        let divisor = (count as f64 - correction).max(0.0);
        let result = squares.binary_scalar(super::Binary::Divide, divisor, false)?;
        if own.bits() == 16 { result.cast(own) } else { Ok(result) }
    }

    /// The place of the greatest (or, `least`, of the least) element along an axis, or of all in
    /// order; the first of equal ones.
    ///
    /// # Errors
    /// When the axis is not there, or nothing is along it.
    pub fn arg_extreme(&self, least: bool, axis: Option<i64>, keep: bool) -> Result<Array> {
        let name = if least { "argmin" } else { "argmax" };
        let x = if self.dtype() == DType::Bool { self.cast(DType::U8)? } else { self.clone() };
        let Some(axis) = axis else {
            let flat = x.reshape(&[-1])?.arg_extreme(least, Some(0), false)?;
            return if keep { flat.reshape(&vec![1; self.rank()]) } else { Ok(flat) };
        };
        let axis = axis_of(axis, self.rank())?;
        if self.shape()[axis] == 0 {
            return Err(ArrayError::shape(name, "nothing has no extreme"));
        }
        let op = Op::new(if least { "ArgMin" } else { "ArgMax" }).attr("axis", axis as i64);
        let op = op.attr("keepdims", i64::from(keep)).on(&x);
        op.typed(DType::I64, left(self.shape(), &[axis], keep))
    }

    /// Sums (or, `product`, products) of all elements so far along an axis.
    ///
    /// # Errors
    /// When the axis is not there.
    pub fn cumulative(&self, product: bool, axis: i64) -> Result<Array> {
        let axis = axis_of(axis, self.rank())?;
        if self.dtype().is_complex() {
            if product {
                let op = Op::new("hetra.ComplexCumProd").attr("axis", axis as i64).on(self);
                return op.typed(self.dtype(), self.shape().into());
            }
            let part = |part: Array| part.cumulative(false, axis as i64);
            return Array::complex(&part(self.real()?)?, &part(self.imag()?)?);
        }
        let dtype = sum_of(self.dtype());
        let op = Op::new(if product { "CumProd" } else { "CumSum" }).on(&self.cast(dtype)?);
        op.int(axis as i64).typed(dtype, self.shape().into())
    }

    /// How many elements are not 0.
    ///
    /// # Errors
    /// As [`Array::reduce`].
    pub fn count_nonzero(&self, axes: Option<&[i64]>, keep: bool) -> Result<Array> {
        self.cast(DType::Bool)?.sum(axes, keep)
    }

    /// The difference of neighbours along an axis, so often.
    ///
    /// # Errors
    /// When the axis is not there.
    pub fn diff(&self, times: usize, axis: i64) -> Result<Array> {
        let axis = axis_of(axis, self.rank())?;
        let mut x = self.clone();
        for _ in 0..times {
            let extent = x.shape()[axis] as i64;
            if extent == 0 {
                break;
            }
            let (after, before) =
                (x.slice_axis(axis, 1, extent)?, x.slice_axis(axis, 0, extent - 1)?);
            x = match self.dtype() {
                DType::Bool => after.logical_xor(&before)?,
                _ => after.subtract(&before)?,
            };
        }
        Ok(x)
    }

    /// A number as an array beside this one.
    pub(crate) fn number(&self, value: impl Into<Scalar>) -> Result<Array> {
        Array::scalar(value.into(), self.dtype(), self.place())
    }
}
