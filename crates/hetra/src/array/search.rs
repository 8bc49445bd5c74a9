//! By value: sorting, finding, sets.

use hetra_tensor::DType;

use super::call::Op;
use super::movement::axis_of;
use super::{Array, ArrayError, Result};

impl Array {
    /// The elements in order along an axis, and the places that they come from; equal ones keep
    /// their order.
    ///
    /// # Errors
    /// When the axis is not there.
    pub fn sorted(&self, axis: i64, descending: bool) -> Result<(Array, Array)> {
        let axis = axis_of(axis, self.rank())?;
        if self.dtype().is_complex() {
            // By the real part, and by the imaginary one where those are equal.
            let at = axis as i64;
            let by_imag = self.imag()?.sorted(at, descending)?.1;
            let by_real = self.real()?.take_along(&by_imag, at)?.sorted(at, descending)?.1;
            let places = by_imag.take_along(&by_real, at)?;
            return Ok((self.take_along(&places, at)?, places));
        }
        let boolean = self.dtype() == DType::Bool;
        let x = if boolean { self.cast(DType::U8)? } else { self.clone() };
        let op = Op::new("TopK").attr("axis", axis as i64);
        let op = op.attr("largest", i64::from(descending)).attr("sorted", 1i64);
        let mut both = op.on(&x).ints(&[self.shape()[axis] as i64]).many(2)?;
        let (Some(places), Some(values)) = (both.pop(), both.pop()) else {
            return Err(ArrayError::Invalid("sort gives two arrays".to_string()));
        };
        let values = if boolean { values.cast(DType::Bool)? } else { values };
        Ok((values, places))
    }

    /// The places that are not 0, an array for each axis. It is computed at once, since how many
    /// there are depends on the values.
    ///
    /// # Errors
    /// For an array without axes, and as [`Array::eval`].
    pub fn nonzero(&self) -> Result<Vec<Array>> {
        if self.rank() == 0 {
            return Err(ArrayError::shape("nonzero", "wanted an axis or more"));
        }
        let all = Op::new("NonZero").on(self).now(1)?.remove(0);
        let count = all.shape()[1] as i64;
        (0..self.rank())
            .map(|axis| all.slice_axis(0, axis as i64, axis as i64 + 1)?.reshape(&[count]))
            .collect()
    }

    /// The different elements in order: values, where each is first, which of them each element is
    /// (in the shape of this array), and how often each is there. NaN is not equal to itself.
    ///
    /// # Errors
    /// As [`Array::eval`].
    pub fn unique(&self) -> Result<[Array; 4]> {
        let boolean = self.dtype() == DType::Bool;
        let x = if boolean { self.cast(DType::U8)? } else { self.clone() };
        let (sorted, places) = x.reshape(&[-1])?.sorted(0, false)?;
        let count = self.size() as i64;
        let device = self.device_handle();
        // A new one begins where it differs from the one before.
        let starts = if count == 0 {
            Array::full(&[0], false, DType::Bool, &device)?
        } else {
            let (after, before) =
                (sorted.slice_axis(0, 1, count)?, sorted.slice_axis(0, 0, count - 1)?);
            let first = Array::full(&[1], true, DType::Bool, &device)?;
            Array::concat(&[first, after.not_equal(&before)?], 0)?
        };
        let at = starts.nonzero()?.remove(0);
        let values = sorted.take(&at, 0)?;
        let ends = {
            let end = Array::full(&[1], count, DType::I64, &device)?;
            Array::concat(&[at.clone(), end], 0)?
        };
        let counts = ends.diff(1, 0)?;
        let which = starts.cast(DType::I64)?.cumulative(false, 0)?;
        let which = which.subtract(&which.number(1i64)?)?;
        let flat = Array::full(&[self.size()], 0i64, DType::I64, &device)?;
        let op = Op::new("ScatterElements").attr("axis", 0i64).on(&flat).on(&places).on(&which);
        let inverse = op.typed(DType::I64, flat.shape().into())?;
        let values = if boolean { values.cast(DType::Bool)? } else { values };
        Ok([values, places.take(&at, 0)?, inverse.reshaped(self.shape())?, counts])
    }

    /// Where each of `values` belongs in this sorted vector: before (or, `right`, after) those that
    /// are equal.
    ///
    /// # Errors
    /// When this is no vector.
    pub fn search_sorted(&self, values: &Array, right: bool) -> Result<Array> {
        if self.rank() != 1 {
            return Err(ArrayError::shape("searchsorted", "wanted a vector to search"));
        }
        // By halves: as many steps as the length has bits.
        let length = self.size() as i64;
        let zeros = Array::full(values.shape(), 0i64, DType::I64, &self.device_handle())?;
        let (mut low, mut high) = (zeros.clone(), zeros.full_like(length)?);
        if length == 0 {
            return Ok(low);
        }
        let (one, last) = (zeros.number(1i64)?, zeros.number(length - 1)?);
        for _ in 0..=(length as u64).ilog2() {
            let middle = low.add(&high)?.bitwise_right_shift(&one)?;
            let element = self.take(&middle.minimum(&last)?, 0)?;
            let goes_on = low.less(&high)?;
            let below = if right { element.less_equal(values)? } else { element.less(values)? };
            // NaN is above all numbers.
            let below = if self.dtype().is_float() && values.dtype().is_float() {
                let above = values.isnan()?;
                let above = if right {
                    above
                } else {
                    above.logical_and(&element.isnan()?.logical_not()?)?
                };
                below.logical_or(&above)?
            } else {
                below
            };
            let up = goes_on.logical_and(&below)?;
            let down = goes_on.logical_and(&below.logical_not()?)?;
            low = up.select(&middle.add(&one)?, &low)?;
            high = down.select(&middle, &high)?;
        }
        Ok(low)
    }

    /// Whether each element is among `others`.
    ///
    /// # Errors
    /// As [`Array::binary`].
    pub fn is_in(&self, others: &Array) -> Result<Array> {
        let others = others.reshape(&[-1])?;
        if others.size() == 0 {
            return Array::full(self.shape(), false, DType::Bool, &self.device_handle());
        }
        let dtype = super::promote(self.dtype(), others.dtype());
        let dtype = dtype.ok_or(ArrayError::Promotion {
            op: "isin",
            left: self.dtype(),
            right: others.dtype(),
        })?;
        let wide = |array: &Array| match dtype {
            DType::Bool => array.cast(DType::U8),
            dtype => array.cast(dtype),
        };
        let (x, others) = (wide(self)?, wide(&others)?.sorted(0, false)?.0);
        let at = others.search_sorted(&x, false)?;
        let last = at.number(others.size() as i64 - 1)?;
        others.take(&at.minimum(&last)?, 0)?.equal(&x)
    }
}
