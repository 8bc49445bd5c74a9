//! Arrays as NumPy has them, on any device.
//!
//! Calls on an [`Array`] only note what is to be computed, after shapes and dtypes were checked.
//! When a value is asked for, all that it needs becomes one [`hetra_ir::Graph`], the same as an
//! ONNX file gives, and goes the same way: passes fuse, the device compiles, the engine runs. What
//! was compiled is kept by its structure, so that a loop compiles once.
//!
//! Arrays do not change: what NumPy does in place gives a new array here (and the Python face puts
//! it in the old one's place), so that slices are copies, not windows.

mod call;
mod create;
mod elementwise;
mod error;
mod evaluate;
mod index;
mod launch;
mod linalg;
mod movement;
mod place;
mod promote;
mod random;
mod reduce;
mod search;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hetra_tensor::{DType, Element, Shape, Tensor, TensorError, element_count};

pub use create::Device;
pub use elementwise::{Binary, Unary};
pub use error::{ArrayError, Class};
pub use evaluate::traced;
pub use hetra_device::KernelArg;
pub use index::Pick;
pub use launch::launch;
pub use promote::{DTYPES, Scalar, promote};
pub use random::Random;
pub use reduce::Reduction;

use call::Call;
use place::Place;

/// Most axes of an array: as many as NumPy's have.
pub const RANK_MAX: usize = 64;

/// Results of this module.
pub type Result<T> = std::result::Result<T, ArrayError>;

/// An array of one dtype on one device: a value, or what gives it. Clones are of one array.
#[derive(Clone)]
pub struct Array(Arc<Inner>);

struct Inner {
    dtype: DType,
    shape: Shape,
    place: Arc<Place>,
    /// Calls between this one and values, when it was made.
    depth: u32,
    state: Mutex<State>,
}

#[derive(Clone)]
enum State {
    Ready(Tensor),
    /// The output at this index of a call.
    Pending(Arc<Call>, usize),
}

impl Array {
    /// An array of a value on a device.
    pub(crate) fn ready(tensor: Tensor, place: Arc<Place>) -> Array {
        let (dtype, shape) = (tensor.dtype(), tensor.shape().into());
        let state = Mutex::new(State::Ready(tensor));
        Array(Arc::new(Inner { dtype, shape, place, depth: 0, state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // One assignment changes it: whole after a panic elsewhere.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn place(&self) -> &Arc<Place> {
        &self.0.place
    }

    /// Calls that are to be made for this array, one after another; 0 for a value.
    fn depth(&self) -> u32 {
        match *self.state() {
            State::Ready(_) => 0,
            State::Pending(..) => self.0.depth,
        }
    }

    /// Whether two handles are of one array.
    pub fn is_same(&self, other: &Array) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The dtype of the elements.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.0.shape.len()
    }

    /// The number of elements.
    pub fn size(&self) -> usize {
        // It was counted without overflow when the array was made; next to a 0 there may be
        // extents that overflow.
        if self.0.shape.contains(&0) { 0 } else { self.0.shape.iter().product() }
    }

    /// The id of the device, such as `cpu` or `wgpu:0`.
    pub fn device(&self) -> &str {
        self.0.place.id()
    }

    /// Whether its value was computed.
    pub fn is_ready(&self) -> bool {
        matches!(*self.state(), State::Ready(_))
    }

    /// Computes it, if that was not done, and leaves it where it is.
    ///
    /// # Errors
    /// When a device fails or has no memory.
    pub fn eval(&self) -> Result<&Array> {
        evaluate::evaluate(&[self])?;
        Ok(self)
    }

    /// Computes several arrays: those of one device together, in one run.
    ///
    /// # Errors
    /// As [`Array::eval`].
    pub fn eval_all(arrays: &[Array]) -> Result<()> {
        evaluate::evaluate(&arrays.iter().collect::<Vec<_>>())
    }

    /// The value, on the host.
    ///
    /// # Errors
    /// As [`Array::eval`].
    pub fn to_host(&self) -> Result<Tensor> {
        let tensor = self.value()?;
        tensor.fetch()?;
        Ok(tensor)
    }

    /// The value, where the device has it.
    pub(crate) fn value(&self) -> Result<Tensor> {
        self.eval()?;
        match &*self.state() {
            State::Ready(tensor) => Ok(tensor.clone()),
            State::Pending(..) => Err(ArrayError::Invalid("the array was not computed".into())),
        }
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// As [`Array::eval`], and for another dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        Ok(self.to_host()?.as_slice::<T>()?.to_vec())
    }

    /// The one element, as a number of the host.
    ///
    /// # Errors
    /// As [`Array::eval`], and when there is not exactly one.
    pub fn item(&self) -> Result<Scalar> {
        if self.size() != 1 {
            return Err(ArrayError::NotScalar { shape: self.shape().into() });
        }
        let tensor = self.to_host()?;
        let fault = || ArrayError::NotScalar { shape: self.shape().into() };
        Ok(match tensor.dtype() {
            DType::Bool => Scalar::Bool(tensor.bytes().first() != Some(&0)),
            DType::U64 => {
                Scalar::Int(i128::from(*tensor.as_slice::<u64>()?.first().ok_or_else(fault)?))
            }
            dtype if dtype.is_int() => {
                let values = hetra_tensor::to_i64(&tensor)?;
                Scalar::Int(i128::from(*values.first().ok_or_else(fault)?))
            }
            dtype if dtype.is_complex() => {
                let parts = Tensor::from_bytes(promote::part_of(dtype), &[2], tensor.bytes())?;
                let parts = hetra_tensor::to_f64(&parts)?;
                Scalar::Complex(parts[0], parts[1])
            }
            _ => Scalar::Float(*hetra_tensor::to_f64(&tensor)?.first().ok_or_else(fault)?),
        })
    }

    /// The same array on another device; it is copied when it is used there.
    ///
    /// # Errors
    /// When there is no such device, and as [`Array::eval`].
    pub fn to(&self, device: &str) -> Result<Array> {
        let place = Place::named(device)?;
        if Arc::ptr_eq(&place, &self.0.place) {
            return Ok(self.clone());
        }
        let value =
            if place.device().launcher().is_some() { self.value()? } else { self.to_host()? };
        Ok(Array::ready(value, place))
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dtype, shape) = (self.dtype(), self.shape());
        write!(f, "Array({dtype}{shape:?} on {}", self.device())?;
        if !self.is_ready() {
            f.write_str(", not computed")?;
        }
        f.write_str(")")
    }
}

/// Checks that there may be such an array at all.
fn checked(dtype: DType, shape: &[usize]) -> Result<()> {
    if shape.len() > RANK_MAX {
        let reason = format!("an array has {RANK_MAX} axes at most, got {}", shape.len());
        return Err(ArrayError::Invalid(reason));
    }
    let bytes = element_count(shape).ok().and_then(|count| dtype.bytes(count));
    match bytes {
        Some(bytes) if bytes <= hetra_tensor::bytes_max() => Ok(()),
        bytes => {
            let bytes = bytes.map_or(u128::MAX, |bytes| bytes as u128);
            Err(TensorError::TooLarge { bytes }.into())
        }
    }
}
