//! Arrays of others and ours for others without a copy, as the DLPack protocol lays them out.
//!
//! A producer hands out a capsule with a `DLManagedTensor`; the consumer renames it and calls its
//! deleter when it is done. Only memory of the host is taken and given.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::slice;

use hetra::{Array, DType, Tensor};
use hetra_tensor::Blob;
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyCapsuleMethods};

/// `kDLCPU`, and pinned memory of CUDA (`kDLCUDAHost`), which the host reads as well.
const HOSTS: [c_int; 2] = [1, 3];
/// The name of a capsule that nobody has taken.
const NAME: &std::ffi::CStr = c"dltensor";
/// The name of one that was taken.
const USED: &std::ffi::CStr = c"used_dltensor";
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
    if copy == Some(true) || !found.dense {
        return found.copied();
    }
    // SAFETY: renames it: from now on the deleter is this side's to call. The name is static.
    let renamed = unsafe { pyo3::ffi::PyCapsule_SetName(capsule.as_ptr(), USED.as_ptr()) };
    if renamed != 0 {
        return Err(PyErr::fetch(capsule.py()));
    }
    let taken = Taken { managed, data: found.data, bytes: found.bytes };
    let tensor = Tensor::from_blob(found.dtype, &found.shape, Blob::owned(taken));
    tensor.map_err(|error| PyValueError::new_err(error.to_string()))
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
        let fault = |error: hetra::TensorError| PyValueError::new_err(error.to_string());
        let mut out = Tensor::zeros(self.dtype, &self.shape).map_err(fault)?;
        let width = self.dtype.bits() / 8;
        let count = out.len();
        let to = out.bytes_mut().map_err(fault)?;
        if self.dense {
            if self.bytes > 0 {
                // SAFETY: as in `Taken`: dense, so that `bytes` of them follow `data`.
                to.copy_from_slice(unsafe { slice::from_raw_parts(self.data, self.bytes) });
            }
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
        Ok(out)
    }
}

/// What keeps a tensor that is given away.
struct Given {
    managed: DLManagedTensor,
    shape: Vec<i64>,
    /// Holds the memory.
    _tensor: Tensor,
}

/// A capsule of the array's value on the host, whose memory stays the array's.
pub(crate) fn give<'py>(py: Python<'py>, array: &Array) -> PyResult<Bound<'py, PyCapsule>> {
    let tensor = py.detach(|| array.to_host()).map_err(crate::error::of_array)?;
    let row = CODES.iter().find(|(dtype, _)| *dtype == tensor.dtype());
    let &(dtype, code) =
        row.ok_or_else(|| PyTypeError::new_err(format!("DLPack has no {}", tensor.dtype())))?;
    let shape: Vec<i64> = tensor.shape().iter().map(|&extent| extent as i64).collect();
    let data = tensor.bytes().as_ptr().cast_mut().cast::<c_void>();
    let managed = DLManagedTensor {
        tensor: DLTensor {
            data,
            device: DLDevice { kind: HOSTS[0], id: 0 },
            ndim: shape.len() as c_int,
            dtype: DLDataType { code, bits: dtype.bits() as u8, lanes: 1 },
            shape: std::ptr::null_mut(),
            strides: std::ptr::null_mut(),
            byte_offset: 0,
        },
        manager: std::ptr::null_mut(),
        deleter: Some(deleter),
    };
    let given = Box::leak(Box::new(Given { managed, shape, _tensor: tensor }));
    given.managed.tensor.shape = given.shape.as_mut_ptr();
    let whole: *mut Given = given;
    given.managed.manager = whole.cast();
    let pointer = NonNull::from(&mut given.managed).cast::<c_void>();
    // SAFETY: the pointer is of what `deleter` frees, once: by the consumer, or by the capsule.
    unsafe { PyCapsule::new_with_pointer_and_destructor(py, pointer, NAME, Some(destructor)) }
}

unsafe extern "C" fn deleter(managed: *mut DLManagedTensor) {
    if managed.is_null() {
        return;
    }
    // SAFETY: `give` made it, and the protocol has this called once.
    let whole = unsafe { (*managed).manager.cast::<Given>() };
    // SAFETY: `manager` is the box that `give` leaked.
    drop(unsafe { Box::from_raw(whole) });
}

unsafe extern "C" fn destructor(capsule: *mut pyo3::ffi::PyObject) {
    // SAFETY: Python calls it with the capsule; a name that is not ours says that it was taken.
    unsafe {
        if pyo3::ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 1 {
            let pointer = pyo3::ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr());
            if let Some(managed) = NonNull::new(pointer.cast::<DLManagedTensor>()) {
                delete(managed);
            }
        }
    }
}
