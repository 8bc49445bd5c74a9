//! How a device holds the elements of a tensor.
//!
//! Kernels know numbers of 32 bits and, on some devices, `f16`; where they do not, its numbers are
//! held as `f32`, and rounded where the host reads them. Smaller whole numbers and `bool` take a
//! word each; those of 64 bits are cut to 32, which is refused where one does not fit.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use half::f16;
use hetra_device::Launcher;
use hetra_kernel::Scalar;
use hetra_tensor::{DType, Held, Shape, Tensor, TensorError, Value};
use smallvec::smallvec;

/// A tensor in a device's memory.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) memory: Arc<dyn Held>,
    /// The byte where it begins; 0 but for a part, which is no value by itself.
    pub(crate) from: usize,
    pub(crate) scalar: Scalar,
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
}

/// What a tensor of the host refers to: the elements, whatever its shape is now.
struct Holder {
    stored: Stored,
    count: usize,
    /// Whose memory it is.
    owner: Arc<dyn Launcher>,
}

/// The scalar that elements are held as; `None` where kernels do not know them.
pub(crate) fn scalar_of(dtype: DType, f16: bool) -> Option<Scalar> {
    Some(match dtype {
        DType::F32 => Scalar::F32,
        DType::F16 if f16 => Scalar::F16,
        DType::F16 => Scalar::F32,
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => Scalar::I32,
        DType::U8 | DType::U16 | DType::U32 => Scalar::U32,
        DType::Bool => Scalar::Bool,
        _ => return None,
    })
}

impl Stored {
    /// Elements.
    pub(crate) fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes that they take on the device.
    pub(crate) fn bytes(&self) -> usize {
        self.count() * self.scalar.bytes()
    }

    /// A part of it, as a row of elements.
    pub(crate) fn part(&self, first: usize, count: usize) -> Stored {
        let from = self.from + first * self.scalar.bytes();
        Stored { from, shape: smallvec![count], ..self.clone() }
    }

    /// The same elements in another shape of as many.
    pub(crate) fn reshaped(&self, shape: &[usize]) -> Stored {
        Stored { shape: shape.into(), ..self.clone() }
    }

    /// As a tensor that the device holds.
    pub(crate) fn into_value(self, owner: &Arc<dyn Launcher>) -> Result<Value, TensorError> {
        debug_assert_eq!(self.from, 0, "a part is no value");
        let (dtype, shape, count) = (self.dtype, self.shape.clone(), self.count());
        let holder = Holder { stored: self, count, owner: owner.clone() };
        Ok(Value::Tensor(Tensor::held(dtype, &shape, Arc::new(holder))?))
    }

    /// What a tensor is on a device, if this one holds it.
    pub(crate) fn of(tensor: &Tensor, owner: &Arc<dyn Launcher>) -> Option<Stored> {
        let holder = tensor.holder()?.as_any().downcast_ref::<Holder>()?;
        let same = holder.stored.dtype == tensor.dtype() && holder.count == tensor.len();
        let same = same && Arc::ptr_eq(&holder.owner, owner);
        same.then(|| holder.stored.reshaped(tensor.shape()))
    }
}

impl Held for Holder {
    fn read(&self, into: &mut [u8]) -> Result<(), TensorError> {
        let Stored { memory, scalar, dtype, .. } = &self.stored;
        if dtype.bytes(1) == Some(scalar.bytes()) {
            return memory.read(into);
        }
        let bytes = self.count * scalar.bytes();
        let mut words = Vec::new();
        words.try_reserve_exact(bytes).map_err(|_| TensorError::Memory { bytes })?;
        words.resize(bytes, 0);
        memory.read(&mut words)?;
        let words = words.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        match dtype {
            DType::I64 => {
                for (to, word) in into.chunks_exact_mut(8).zip(words) {
                    to.copy_from_slice(&i64::from(word as i32).to_le_bytes());
                }
            }
            DType::F16 => {
                for (to, word) in into.chunks_exact_mut(2).zip(words) {
                    to.copy_from_slice(&f16::from_f32(f32::from_bits(word)).to_le_bytes());
                }
            }
            DType::I16 | DType::U16 => {
                for (to, word) in into.chunks_exact_mut(2).zip(words) {
                    to.copy_from_slice(&(word as u16).to_le_bytes());
                }
            }
            _ => into.iter_mut().zip(words).for_each(|(to, word)| *to = word as u8),
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The bytes of a host's tensor as a device holds them; `None` where a number does not fit, kernels
/// do not know the dtype, or the host has no room for them.
pub(crate) fn bytes_of(tensor: &Tensor, f16: bool) -> Option<Cow<'_, [u8]>> {
    let scalar = scalar_of(tensor.dtype(), f16)?;
    if tensor.dtype().bytes(1) == Some(scalar.bytes()) {
        return Some(Cow::Borrowed(tensor.bytes()));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(tensor.len().checked_mul(scalar.bytes())?).ok()?;
    let words = |words: &mut dyn Iterator<Item = u32>| {
        words.for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes
    };
    Some(Cow::Owned(match tensor.dtype() {
        DType::I64 => {
            let values = tensor.as_slice::<i64>().ok()?;
            values.iter().all(|&value| i32::try_from(value).is_ok()).then_some(())?;
            words(&mut values.iter().map(|&value| value as i32 as u32))
        }
        DType::I8 => words(&mut tensor.bytes().iter().map(|&b| i32::from(b as i8) as u32)),
        DType::U8 | DType::Bool => words(&mut tensor.bytes().iter().map(|&b| u32::from(b))),
        DType::I16 => {
            words(&mut tensor.as_slice::<i16>().ok()?.iter().map(|&v| i32::from(v) as u32))
        }
        DType::F16 => {
            words(&mut tensor.as_slice::<f16>().ok()?.iter().map(|&v| f32::from(v).to_bits()))
        }
        DType::U16 => words(&mut tensor.as_slice::<u16>().ok()?.iter().map(|&v| u32::from(v))),
        other => {
            debug_assert!(false, "{other:?} is held as it is");
            return None;
        }
    }))
}

/// The bytes of floats, as memory of `scalar`.
pub(crate) fn floats(values: &[f32], scalar: Scalar) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * scalar.bytes());
    match scalar {
        Scalar::F16 => values
            .iter()
            .for_each(|&value| bytes.extend_from_slice(&f16::from_f32(value).to_le_bytes())),
        _ => values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes())),
    }
    bytes
}
