//! Arrays from nothing, from numbers and from tensors.

use std::sync::Arc;

use hetra_ir::Attr;
use hetra_tensor::{DType, Element, Rounding, Shape, Tensor, cast, from_f64};

use super::call::Op;
use super::movement::signed;
use super::place::Place;
use super::promote::part_of;
use super::{Array, ArrayError, Result, Scalar};

/// Where new arrays go.
#[derive(Clone)]
pub struct Device(Arc<Place>);

impl Device {
    /// The device of this id, such as `cpu`, `opencl` or `wgpu:0`. It is opened at the first time.
    ///
    /// # Errors
    /// When there is none, with those that there are.
    pub fn named(id: &str) -> Result<Device> {
        Ok(Device(Place::named(id)?))
    }

    /// The CPU.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn host() -> Result<Device> {
        Ok(Device(Place::host()?))
    }

    /// Its id.
    pub fn id(&self) -> &str {
        self.0.id()
    }

    /// Waits until what was launched there is done: arrays that are computed (`eval`) may be under
    /// way on a device with memory of its own.
    ///
    /// # Errors
    /// When the device is gone, or a kernel of a user went out of bounds since the last wait.
    pub fn wait(&self) -> Result<()> {
        let launcher = self.0.device().launcher();
        Ok(launcher.map_or(Ok(()), |launcher| launcher.wait()).map_err(crate::Error::from)?)
    }
}

impl Array {
    /// An array of the tensor's elements, which are not copied before a device needs them.
    pub fn from_tensor(tensor: Tensor, device: &Device) -> Array {
        Array::ready(tensor, device.0.clone())
    }

    /// A vector on the CPU.
    ///
    /// # Errors
    /// When it is too large.
    pub fn vector<T: Element>(values: &[T]) -> Result<Array> {
        Array::from_slice(&[values.len()], values)
    }

    /// An array on the CPU, of elements in row-major order.
    ///
    /// # Errors
    /// When they are not as many as the shape says.
    pub fn from_slice<T: Element>(shape: &[usize], values: &[T]) -> Result<Array> {
        Ok(Array::ready(Tensor::from_slice(shape, values)?, Place::host()?))
    }

    /// An array of one number in every place.
    ///
    /// # Errors
    /// When the dtype does not hold the number.
    pub fn full(
        shape: &[usize],
        value: impl Into<Scalar>,
        dtype: DType,
        device: &Device,
    ) -> Result<Array> {
        let value = one(value.into(), dtype)?;
        if shape.is_empty() {
            return Ok(Array::ready(value, device.0.clone()));
        }
        // One element is kept whatever the shape: it is written out where it is used.
        let value = value.reshape(&[1])?;
        if dtype.is_complex() {
            return Array::ready(value, device.0.clone()).broadcast_to(shape);
        }
        let op = Op::new("ConstantOfShape").attr("value", Attr::Tensor(value)).ints(&signed(shape));
        op.typed_on(dtype, shape.into(), device.0.clone())
    }

    /// An array without axes, of one number.
    pub(crate) fn scalar(value: Scalar, dtype: DType, place: &Arc<Place>) -> Result<Array> {
        Ok(Array::ready(one(value, dtype)?, place.clone()))
    }

    /// One number in every place of an array like this one.
    ///
    /// # Errors
    /// As [`Array::full`].
    pub fn full_like(&self, value: impl Into<Scalar>) -> Result<Array> {
        Array::full(self.shape(), value, self.dtype(), &Device(self.place().clone()))
    }

    /// The numbers from `start` up to `stop`, which is not among them, `step` apart.
    ///
    /// # Errors
    /// For a step of 0, and where a number does not fit the dtype.
    pub fn arange(
        start: Scalar,
        stop: Scalar,
        step: Scalar,
        dtype: DType,
        device: &Device,
    ) -> Result<Array> {
        real("arange", &[start, stop, step])?;
        let (from, to, by) = (start.as_f64(), stop.as_f64(), step.as_f64());
        if by == 0.0 || !(from.is_finite() && to.is_finite() && by.is_finite()) {
            let reason = format!("arange: from {from} to {to} by {by} has no end");
            return Err(ArrayError::Invalid(reason));
        }
        let whole = match (start, stop, step) {
            (Scalar::Int(a), Scalar::Int(b), Scalar::Int(by)) => Some((a, b, by)),
            _ => None,
        };
        let count = match whole {
            Some((a, b, by)) => {
                let (low, high) = if by > 0 { (a, b) } else { (b, a) };
                let distance = high.checked_sub(low).unwrap_or(i128::MAX).max(0).unsigned_abs();
                usize::try_from(distance.div_ceil(by.unsigned_abs())).unwrap_or(usize::MAX)
            }
            // A cast of what is too large sticks to the end of the range.
            None => ((to - from) / by).ceil().max(0.0) as usize,
        };
        // Before there is memory for it.
        super::checked(DType::F64, &[count])?;
        let tensor = match whole {
            Some((a, _, by)) if dtype.is_int() => {
                // The last is the one furthest out; each between fits if both ends do.
                let last = a + by * (count.max(1) as i128 - 1);
                let (low, high) = dtype.int_range().unwrap_or((0, 0));
                if let Some(far) =
                    [a, last].into_iter().find(|&n| count > 0 && (n < low || n > high))
                {
                    return Err(ArrayError::Range { what: far.to_string(), dtype });
                }
                let mut tensor = Tensor::zeros(dtype, &[count])?;
                let width = dtype.bits() / 8;
                for (at, slot) in tensor.bytes_mut()?.chunks_exact_mut(width).enumerate() {
                    slot.copy_from_slice(&(a + by * at as i128).to_le_bytes()[..width]);
                }
                tensor
            }
            _ => {
                let mut values = Tensor::zeros(DType::F64, &[count])?;
                for (at, value) in values.as_mut_slice::<f64>()?.iter_mut().enumerate() {
                    *value = from + at as f64 * by;
                }
                real_as(values.as_slice::<f64>()?, dtype)?
            }
        };
        Ok(Array::ready(tensor, device.0.clone()))
    }

    /// `count` numbers from `start` to `stop`, evenly apart; the last is `stop` unless `endpoint`
    /// is false.
    ///
    /// # Errors
    /// When they take too much memory.
    pub fn linspace(
        start: Scalar,
        stop: Scalar,
        count: usize,
        endpoint: bool,
        dtype: DType,
        device: &Device,
    ) -> Result<Array> {
        real("linspace", &[start, stop])?;
        let (start, stop) = (start.as_f64(), stop.as_f64());
        let mut room = Tensor::zeros(DType::F64, &[count])?;
        let steps = if endpoint { count.saturating_sub(1) } else { count };
        let step = if steps == 0 { 0.0 } else { (stop - start) / steps as f64 };
        let values = room.as_mut_slice::<f64>()?;
        for (i, value) in values.iter_mut().enumerate() {
            *value = start + i as f64 * step;
        }
        if let (true, Some(last)) = (endpoint && count > 1, values.last_mut()) {
            *last = stop;
        }
        let tensor = match dtype.is_complex() {
            true => real_as(room.as_slice::<f64>()?, dtype)?,
            false => cast(&room, dtype, false, Rounding::NearestEven)?,
        };
        Ok(Array::ready(tensor, device.0.clone()))
    }

    /// Ones where the column is the row and `k` more, zeros elsewhere.
    ///
    /// # Errors
    /// When it is too large.
    pub fn eye(
        rows: usize,
        columns: usize,
        k: i64,
        dtype: DType,
        device: &Device,
    ) -> Result<Array> {
        super::checked(dtype, &[rows, columns])?;
        let at = |count: usize, from: i64| {
            let (start, stop) = (Scalar::from(from), Scalar::Int(from as i128 + count as i128));
            Array::arange(start, stop, Scalar::from(1i64), DType::I64, device)
        };
        let row = at(rows, k)?.reshape(&[rows as i64, 1])?;
        row.equal(&at(columns, 0)?)?.cast(dtype)
    }

    /// The same numbers as another dtype; floats are cut towards 0.
    ///
    /// # Errors
    /// For a dtype that arrays do not have.
    pub fn cast(&self, dtype: DType) -> Result<Array> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        if !super::DTYPES.contains(&dtype) {
            return Err(ArrayError::dtype("cast", "a dtype of arrays", dtype));
        }
        if self.dtype().is_complex() {
            return self.complex_as(dtype);
        }
        if dtype.is_complex() {
            let re = self.cast(part_of(dtype))?;
            let im = re.full_like(0.0)?;
            return Array::complex(&re, &im);
        }
        let op = Op::new("Cast").attr("to", i64::from(dtype.onnx())).on(self);
        op.typed(dtype, self.shape().into())
    }
}

impl Array {
    /// Complex numbers as another dtype.
    fn complex_as(&self, dtype: DType) -> Result<Array> {
        match dtype {
            DType::Bool => {
                self.real()?.cast(DType::Bool)?.logical_or(&self.imag()?.cast(DType::Bool)?)
            }
            _ if dtype.is_complex() => {
                let part = part_of(dtype);
                Array::complex(&self.real()?.cast(part)?, &self.imag()?.cast(part)?)
            }
            _ => Err(ArrayError::dtype("cast", "real numbers", self.dtype())),
        }
    }
}

/// A tensor without axes.
fn one(value: Scalar, dtype: DType) -> Result<Tensor> {
    if dtype.is_complex() {
        let (re, im) = match value {
            Scalar::Complex(re, im) => (re, im),
            other => (other.as_f64(), 0.0),
        };
        let parts = from_f64(part_of(dtype), &[2], &[re, im])?;
        return Ok(Tensor::from_bytes(dtype, &Shape::new(), parts.bytes())?);
    }
    let tensor = match value {
        Scalar::Complex(..) => return Err(ArrayError::dtype("full", "a real number", DType::C128)),
        Scalar::Int(value) if dtype.is_int() => whole(std::iter::once(value), dtype)?,
        Scalar::Bool(value) if dtype == DType::Bool => Tensor::from_bools(&[1], &[value])?,
        _ if dtype == DType::Bool => Tensor::from_bools(&[1], &[value.as_f64() != 0.0])?,
        _ if dtype.is_int() => {
            let number = value.as_f64();
            if !number.is_finite() {
                return Err(ArrayError::Range { what: number.to_string(), dtype });
            }
            whole(std::iter::once(number.trunc() as i128), dtype)?
        }
        _ => from_f64(dtype, &[1], &[value.as_f64()])?,
    };
    Ok(tensor.reshape(&Shape::new())?)
}

/// Refuses complex numbers.
fn real(op: &'static str, numbers: &[Scalar]) -> Result<()> {
    match numbers.iter().any(|number| matches!(number, Scalar::Complex(..))) {
        true => Err(ArrayError::dtype(op, "real numbers", DType::C128)),
        false => Ok(()),
    }
}

/// Real numbers as a dtype, which may be complex.
fn real_as(values: &[f64], dtype: DType) -> Result<Tensor> {
    if !dtype.is_complex() {
        return Ok(from_f64(dtype, &[values.len()], values)?);
    }
    let parts: Vec<f64> = values.iter().flat_map(|&value| [value, 0.0]).collect();
    let parts = from_f64(part_of(dtype), &[parts.len()], &parts)?;
    Ok(Tensor::from_bytes(dtype, &[values.len()], parts.bytes())?)
}

/// Whole numbers, each of which the dtype must hold.
fn whole(values: impl Iterator<Item = i128>, dtype: DType) -> Result<Tensor> {
    let Some((low, high)) = dtype.int_range() else {
        let values: Vec<f64> = values.map(|value| value as f64).collect();
        return real_as(&values, dtype);
    };
    let mut bytes = Vec::new();
    let mut count = 0;
    for value in values {
        if value < low || value > high {
            return Err(ArrayError::Range { what: value.to_string(), dtype });
        }
        bytes.extend(&value.to_le_bytes()[..dtype.bits() / 8]);
        count += 1;
    }
    Ok(Tensor::from_bytes(dtype, &[count], &bytes)?)
}

impl Device {
    /// What it is to engines.
    pub(crate) fn opened(&self) -> &Arc<dyn hetra_device::Device> {
        self.0.device()
    }

    pub(crate) fn of(place: Arc<Place>) -> Device {
        Device(place)
    }
}
