//! Arrays of others and ours for others without a copy, as the DLPack protocol lays them out.
//!
//! A producer hands out a capsule with a `DLManagedTensor`; the consumer renames it and calls its
//! deleter when it is done. Only memory of the host is taken and given.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};
use std::slice;

use hetra::{Array, DType, Tensor};
use hetra_tensor::Blob;
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyCapsuleMethods};

use crate::error::of_array;

/// `kDLCPU`, and pinned memory of CUDA (`kDLCUDAHost`), which the host reads as well.
const HOSTS: [c_int; 2] = [1, 3];
/// The name of a capsule that nobody has taken.
const NAME: &CStr = c"dltensor";
/// The name of one that was taken.
const USED: &CStr = c"used_dltensor";
/// Most axes that are taken: a producer says any number.
const AXES_MAX: usize = 64;

#[repr(C)]
#[derive(Clone, Copy)]
struct DLDevice {
    kind: c_int,
    id: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DLDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DLTensor {
    data: *mut c_void,
    device: DLDevice,
    ndim: c_int,
    dtype: DLDataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct DLManagedTensor {
    tensor: DLTensor,
    manager: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

/// Kinds of numbers, as `DLDataTypeCode` counts them.
const CODES: &[(DType, u8)] = &[
    (DType::I8, 0),
    (DType::I16, 0),
    (DType::I32, 0),
    (DType::I64, 0),
    (DType::U8, 1),
    (DType::U16, 1),
    (DType::U32, 1),
    (DType::U64, 1),
    (DType::F16, 2),
    (DType::F32, 2),
    (DType::F64, 2),
    (DType::BF16, 4),
    (DType::C64, 5),
    (DType::C128, 5),
    (DType::Bool, 6),
];

/// Memory of somebody else, given back when it is dropped.
struct Taken {
    managed: NonNull<DLManagedTensor>,
    data: *const u8,
    bytes: usize,
}

// SAFETY: the protocol lets any thread read the memory and call the deleter; those of NumPy and
// PyTorch take the interpreter's lock themselves.
unsafe impl Send for Taken {}
// SAFETY: as above; nothing here changes.
unsafe impl Sync for Taken {}

impl AsRef<[u8]> for Taken {
    fn as_ref(&self) -> &[u8] {
        if self.bytes == 0 {
            return &[];
        }
        // SAFETY: `take` worked out from shape and strides that so many bytes are there; they stay
        // until the deleter is called. That the producer does not write while they are read is its
        // user's part of the bargain, as everywhere in this protocol.
        unsafe { slice::from_raw_parts(self.data, self.bytes) }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // SAFETY: the capsule was renamed when it was taken, so that this is the only call.
        unsafe { delete(self.managed) };
    }
}

/// # Safety
/// Once for each managed tensor, which nobody uses after that.
unsafe fn delete(managed: NonNull<DLManagedTensor>) {
    // SAFETY: it lives until now, by the caller's promise.
    if let Some(deleter) = unsafe { managed.as_ref() }.deleter {
        // SAFETY: the producer's own function, for what it made.
        unsafe { deleter(managed.as_ptr()) };
    }
}

/// The tensor in a capsule; its elements stay where they are unless `copy`, or unless they are not
/// one after the other.
pub(crate) fn take(capsule: &Bound<'_, PyCapsule>, copy: Option<bool>) -> PyResult<Tensor> {
    let pointer = capsule.pointer_checked(Some(NAME)).map_err(|_| {
        PyValueError::new_err("the capsule is of another protocol, or was taken before")
    })?;
    let managed = pointer.cast::<DLManagedTensor>();
    // SAFETY: a capsule of this name holds such a structure, which lives as long as it does.
    let tensor = unsafe { &managed.as_ref().tensor };
    // What is refused stays in its capsule, which deletes it.
    let found = Found::of(tensor)?;
    if copy == Some(false) && !found.dense {
        return Err(PyBufferError::new_err("the elements are not one after the other: copy"));
    }
    // Booleans of others may be any byte: ours are 0 or 1.
    if copy == Some(true) || !found.dense || found.dtype == DType::Bool {
        return found.copied();
    }
    // SAFETY: renames it: from now on the deleter is this side's to call. The name is static.
    let renamed = unsafe { pyo3::ffi::PyCapsule_SetName(capsule.as_ptr(), USED.as_ptr()) };
    if renamed != 0 {
        return Err(PyErr::fetch(capsule.py()));
    }
    let taken = Taken { managed, data: found.data, bytes: found.bytes };
    let tensor = Tensor::from_blob(found.dtype, &found.shape, Blob::owned(taken));
    tensor.map_err(|error| of_array(error.into()))
}

/// What a tensor of somebody else says of itself, checked.
struct Found {
    dtype: DType,
    shape: Vec<usize>,
    strides: Vec<isize>,
    data: *const u8,
    bytes: usize,
    dense: bool,
}

impl Found {
    fn of(tensor: &DLTensor) -> PyResult<Found> {
        if !HOSTS.contains(&tensor.device.kind) {
            let kind = tensor.device.kind;
            let text =
                format!("its memory is of another device (DLPack kind {kind}): copy it first");
            return Err(PyBufferError::new_err(text));
        }
        let DLDataType { code, bits, lanes } = tensor.dtype;
        let same = |(dtype, own): &&(DType, u8)| *own == code && dtype.bits() == usize::from(bits);
        let found = CODES.iter().find(same).filter(|_| lanes == 1);
        let &(dtype, _) = found.ok_or_else(|| {
            PyTypeError::new_err(format!("arrays have no dtype of DLPack code {code}, {bits} bits"))
        })?;
        let rank = usize::try_from(tensor.ndim).ok().filter(|&rank| rank <= AXES_MAX);
        let rank = rank.ok_or_else(|| PyValueError::new_err("it has too many axes"))?;
        let list = |pointer: *const i64| match rank {
            0 => &[][..],
            // SAFETY: the protocol: so many numbers are there when it is not null.
            _ => unsafe { slice::from_raw_parts(pointer, rank) },
        };
        if rank > 0 && tensor.shape.is_null() {
            return Err(PyValueError::new_err("it has no shape"));
        }
        let shape: Option<Vec<usize>> =
            list(tensor.shape).iter().map(|&extent| usize::try_from(extent).ok()).collect();
        let shape = shape.ok_or_else(|| PyValueError::new_err("an extent is below 0"))?;
        let count = hetra_tensor::element_count(&shape);
        let count = count.map_err(|error| PyValueError::new_err(error.to_string()))?;
        let plain = hetra_tensor::strides_of(&shape).iter().map(|&step| step as isize).collect();
        let strides: Vec<isize> = match tensor.strides.is_null() {
            true => plain,
            false => list(tensor.strides).iter().map(|&step| step as isize).collect(),
        };
        let own: Vec<usize> = hetra_tensor::strides_of(&shape).to_vec();
        let mut axes = shape.iter().zip(strides.iter().zip(&own));
        let dense = count == 0 || axes.all(|(&e, (&a, &b))| e == 1 || a == b as isize);
        let bytes = dtype.bytes(count).filter(|&bytes| isize::try_from(bytes).is_ok());
        let bytes = bytes.ok_or_else(|| PyValueError::new_err("it is too large"))?;
        if tensor.data.is_null() && bytes > 0 {
            return Err(PyValueError::new_err("it has no memory"));
        }
        let offset = usize::try_from(tensor.byte_offset).unwrap_or(usize::MAX);
        let data = tensor.data.cast::<u8>().cast_const().wrapping_add(offset);
        Ok(Found { dtype, shape, strides, data, bytes, dense })
    }

    /// The elements in row-major order, in memory of ours.
    fn copied(&self) -> PyResult<Tensor> {
        let fault = |error: hetra::TensorError| of_array(error.into());
        let mut out = Tensor::zeros(self.dtype, &self.shape).map_err(fault)?;
        let width = self.dtype.bits() / 8;
        let count = out.len();
        let to = out.bytes_mut().map_err(fault)?;
        if self.dense {
            if self.bytes > 0 {
                // SAFETY: as in `Taken`: dense, so that `bytes` of them follow `data`.
                to.copy_from_slice(unsafe { slice::from_raw_parts(self.data, self.bytes) });
            }
            self.normalise(to);
            return Ok(out);
        }
        let mut index = vec![0usize; self.shape.len()];
        let mut at = 0isize;
        for place in 0..count {
            let from = self.data.wrapping_offset(at * width as isize);
            // SAFETY: by shape and strides the producer has an element there.
            let element = unsafe { slice::from_raw_parts(from, width) };
            to[place * width..][..width].copy_from_slice(element);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis] as isize;
                index[axis] = 0;
            }
        }
        self.normalise(to);
        Ok(out)
    }

    /// Booleans are 0 or 1.
    fn normalise(&self, bytes: &mut [u8]) {
        if self.dtype == DType::Bool {
            bytes.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
        }
    }
}

/// The form of version 1, which says what a consumer may do.
#[repr(C)]
struct DLManagedTensorVersioned {
    major: u32,
    minor: u32,
    manager: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    flags: u64,
    tensor: DLTensor,
}

/// The name of a capsule of version 1 that nobody has taken.
const NAME_VERSIONED: &CStr = c"dltensor_versioned";
/// `DLPACK_FLAG_BITMASK_READ_ONLY`.
const READ_ONLY: u64 = 1;
/// `DLPACK_FLAG_BITMASK_IS_COPIED`.
const COPIED: u64 = 2;

/// What keeps a tensor that is given away: what a consumer sees of it, and its memory.
struct Given<T> {
    seen: T,
    shape: Vec<i64>,
    /// Holds the memory.
    _tensor: Tensor,
}

/// A capsule of the array's value on the host, in the array's memory unless `copy`. The versioned
/// form marks that as read-only; whoever takes the old one without a copy promises not to write.
pub(crate) fn give<'py>(
    py: Python<'py>,
    array: &Array,
    versioned: bool,
    copy: bool,
) -> PyResult<Bound<'py, PyCapsule>> {
    let tensor = py.detach(|| array.to_host()).map_err(of_array)?;
    let row = CODES.iter().find(|(dtype, _)| *dtype == tensor.dtype());
    let &(dtype, code) =
        row.ok_or_else(|| PyTypeError::new_err(format!("DLPack has no {}", tensor.dtype())))?;
    let tensor = match copy {
        false => tensor,
        true => Tensor::from_bytes(tensor.dtype(), tensor.shape(), tensor.bytes())
            .map_err(|error| of_array(error.into()))?,
    };
    let shape: Vec<i64> = tensor.shape().iter().map(|&extent| extent as i64).collect();
    let seen = DLTensor {
        data: tensor.bytes().as_ptr().cast_mut().cast::<c_void>(),
        device: DLDevice { kind: HOSTS[0], id: 0 },
        ndim: shape.len() as c_int,
        dtype: DLDataType { code, bits: dtype.bits() as u8, lanes: 1 },
        shape: ptr::null_mut(),
        strides: ptr::null_mut(),
        byte_offset: 0,
    };
    if versioned {
        let seen = DLManagedTensorVersioned {
            major: 1,
            minor: 0,
            manager: ptr::null_mut(),
            deleter: Some(delete_versioned),
            flags: if copy { COPIED } else { READ_ONLY },
            tensor: seen,
        };
        let whole = Box::into_raw(Box::new(Given { seen, shape, _tensor: tensor }));
        // SAFETY: just made, and nobody else's; only through this pointer from now on.
        let seen = unsafe {
            (*whole).seen.tensor.shape = (*whole).shape.as_mut_ptr();
            (*whole).seen.manager = whole.cast();
            &raw mut (*whole).seen
        };
        return capsule(py, seen, NAME_VERSIONED, destroy_versioned, whole);
    }
    let seen =
        DLManagedTensor { tensor: seen, manager: ptr::null_mut(), deleter: Some(delete_given) };
    let whole = Box::into_raw(Box::new(Given { seen, shape, _tensor: tensor }));
    // SAFETY: as above.
    let seen = unsafe {
        (*whole).seen.tensor.shape = (*whole).shape.as_mut_ptr();
        (*whole).seen.manager = whole.cast();
        &raw mut (*whole).seen
    };
    capsule(py, seen, NAME, destroy, whole)
}

/// A capsule of what a consumer sees, which frees the whole if nobody takes it.
fn capsule<'py, T>(
    py: Python<'py>,
    seen: *mut T,
    name: &'static CStr,
    destroy: unsafe extern "C" fn(*mut pyo3::ffi::PyObject),
    whole: *mut Given<T>,
) -> PyResult<Bound<'py, PyCapsule>> {
    let made = match NonNull::new(seen.cast::<c_void>()) {
        // SAFETY: the pointer is of what `destroy` frees, once: the consumer does, or the capsule.
        Some(seen) => unsafe {
            PyCapsule::new_with_pointer_and_destructor(py, seen, name, Some(destroy))
        },
        None => Err(PyValueError::new_err("there is nothing to give")),
    };
    if made.is_err() {
        // SAFETY: it was leaked by the caller, and no capsule has it.
        drop(unsafe { Box::from_raw(whole) });
    }
    made
}

unsafe extern "C" fn delete_given(seen: *mut DLManagedTensor) {
    if !seen.is_null() {
        // SAFETY: `give` made it, `manager` is its box, and the protocol has this called once.
        drop(unsafe { Box::from_raw((*seen).manager.cast::<Given<DLManagedTensor>>()) });
    }
}

unsafe extern "C" fn delete_versioned(seen: *mut DLManagedTensorVersioned) {
    if !seen.is_null() {
        // SAFETY: as in `delete_given`.
        drop(unsafe { Box::from_raw((*seen).manager.cast::<Given<DLManagedTensorVersioned>>()) });
    }
}

/// What a capsule of this name holds; `None` when it was taken, and so renamed.
///
/// # Safety
/// `capsule` is a capsule.
unsafe fn untaken<T>(capsule: *mut pyo3::ffi::PyObject, name: &CStr) -> Option<*mut T> {
    // SAFETY: by the caller's promise.
    unsafe {
        (pyo3::ffi::PyCapsule_IsValid(capsule, name.as_ptr()) == 1)
            .then(|| pyo3::ffi::PyCapsule_GetPointer(capsule, name.as_ptr()).cast::<T>())
    }
}

unsafe extern "C" fn destroy(capsule: *mut pyo3::ffi::PyObject) {
    // SAFETY: Python calls it with the capsule that `give` made.
    unsafe {
        if let Some(seen) = untaken::<DLManagedTensor>(capsule, NAME) {
            delete_given(seen);
        }
    }
}

unsafe extern "C" fn destroy_versioned(capsule: *mut pyo3::ffi::PyObject) {
    // SAFETY: as in `destroy`.
    unsafe {
        if let Some(seen) = untaken::<DLManagedTensorVersioned>(capsule, NAME_VERSIONED) {
            delete_versioned(seen);
        }
    }
}
