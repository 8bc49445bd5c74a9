//! A run, by ONNX Runtime's own interface: on memory of ours, for every dtype.

use std::ffi::CString;
use std::ptr;

use hetra_tensor::{DType, Tensor};
use ort::AsPointer;
use ort::memory::MemoryInfo;
use ort::session::Session;
use ort::sys::{ONNXTensorElementDataType as Element, OrtValue};

/// A value of the library's, freed when this is dropped.
struct Owned(*mut OrtValue);

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it was given to us, and is freed once, here.
            unsafe { (ort::api().ReleaseValue)(self.0) }
        }
    }
}

/// The dtypes that cross the border, with the library's names for them.
const ELEMENTS: [(DType, Element); 13] = [
    (DType::F32, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT),
    (DType::F64, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE),
    (DType::F16, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16),
    (DType::BF16, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16),
    (DType::I8, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8),
    (DType::I16, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16),
    (DType::I32, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32),
    (DType::I64, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64),
    (DType::U8, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8),
    (DType::U16, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16),
    (DType::U32, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32),
    (DType::U64, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64),
    (DType::Bool, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL),
];

fn element(dtype: DType) -> Option<Element> {
    ELEMENTS.iter().find(|(known, _)| *known == dtype).map(|(_, element)| *element)
}

/// Whether tensors of a dtype can be handed over.
pub(crate) fn takes(dtype: DType) -> bool {
    element(dtype).is_some()
}

/// A value over memory of ours.
///
/// # Safety
/// The memory is valid as long as the value is used; where it is an output, nobody else uses it
/// meanwhile.
unsafe fn wrap(
    dtype: DType,
    shape: &[usize],
    data: *mut u8,
    bytes: usize,
) -> Result<Owned, String> {
    let element = element(dtype).ok_or_else(|| format!("ONNX Runtime is given no {dtype}"))?;
    let dims: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
    let memory = MemoryInfo::default();
    let mut value = ptr::null_mut();
    // SAFETY: memory info and extents live until the call has returned; the data is by the caller.
    let status = unsafe {
        (ort::api().CreateTensorWithDataAsOrtValue)(
            memory.ptr(),
            data.cast(),
            bytes,
            dims.as_ptr(),
            dims.len(),
            element,
            &raw mut value,
        )
    };
    // SAFETY: the status is the call's own.
    unsafe { ort::Error::result_from_status(status) }.map_err(|error| error.to_string())?;
    Ok(Owned(value))
}

/// Runs a session; `given` is the memory of outputs whose shapes are known.
///
/// ONNX Runtime's documentation has `Run` called on one session by several threads at once, which
/// the crate's own `run` does not allow.
pub(crate) fn run(
    session: &Session,
    names: (&[CString], &[CString]),
    inputs: &[&Tensor],
    given: Vec<Option<Tensor>>,
) -> Result<Vec<Tensor>, String> {
    if (names.0.len(), names.1.len()) != (inputs.len(), given.len()) {
        let (inputs, outputs) = (inputs.len(), given.len());
        return Err(format!("{inputs} inputs and {outputs} outputs do not fit the file's names"));
    }
    let mut values = Vec::with_capacity(inputs.len());
    for tensor in inputs {
        let bytes = tensor.bytes();
        // SAFETY: the tensor outlives the run, and inputs are only read.
        let value =
            unsafe { wrap(tensor.dtype(), tensor.shape(), bytes.as_ptr().cast_mut(), bytes.len()) };
        values.push(value?);
    }
    let mut outputs = given;
    let mut places = Vec::with_capacity(outputs.len());
    for output in &mut outputs {
        let Some(tensor) = output else {
            places.push(Owned(ptr::null_mut()));
            continue;
        };
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        let bytes = tensor.bytes_mut().map_err(|error| error.to_string())?;
        // SAFETY: the tensor is nobody else's (`bytes_mut`), and lives in `outputs` until the run
        // has ended; nobody reads it before.
        places.push(unsafe { wrap(dtype, &shape, bytes.as_mut_ptr(), bytes.len()) }?);
    }
    let name = |name: &CString| name.as_ptr();
    let input_names: Vec<_> = names.0.iter().map(name).collect();
    let output_names: Vec<_> = names.1.iter().map(name).collect();
    let input_values: Vec<*const OrtValue> =
        values.iter().map(|value| value.0.cast_const()).collect();
    let mut output_values: Vec<*mut OrtValue> = places.iter().map(|place| place.0).collect();
    // SAFETY: the session is alive; there are as many names as values; all live until the call has
    // returned. A value that is null is made by the library.
    let status = unsafe {
        (ort::api().Run)(
            session.ptr().cast_mut(),
            ptr::null(),
            input_names.as_ptr(),
            input_values.as_ptr(),
            input_values.len(),
            output_names.as_ptr(),
            output_names.len(),
            output_values.as_mut_ptr(),
        )
    };
    // What the library has made is ours to free, whatever came of the run.
    for (place, value) in places.iter_mut().zip(&output_values) {
        place.0 = *value;
    }
    // SAFETY: the status is the call's own.
    unsafe { ort::Error::result_from_status(status) }.map_err(|error| error.to_string())?;
    // Of booleans any byte but 0 is true to it.
    outputs.iter_mut().flatten().for_each(hetra_device::normalise);
    let made = outputs.into_iter().zip(&places);
    made.map(|(output, place)| output.map_or_else(|| copied(place), Ok)).collect()
}

/// Copies what the library has made.
fn copied(value: &Owned) -> Result<Tensor, String> {
    let api = ort::api();
    // SAFETY: statuses are the calls' own.
    let check =
        |status| unsafe { ort::Error::result_from_status(status) }.map_err(|e| e.to_string());
    if value.0.is_null() {
        return Err("an output was not made".to_string());
    }
    let mut is_tensor = 0;
    // SAFETY: the value is alive, if there is one; what is asked has a place.
    check(unsafe { (api.IsTensor)(value.0, &raw mut is_tensor) })?;
    if is_tensor == 0 {
        return Err("an output is no tensor".to_string());
    }
    let mut info = ptr::null_mut();
    // SAFETY: the value is alive and a tensor.
    check(unsafe { (api.GetTensorTypeAndShape)(value.0, &raw mut info) })?;
    let mut kind = Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    let (mut rank, mut data) = (0, ptr::null_mut());
    // SAFETY: value and info are alive; the info is freed once, after it was asked; so many
    // extents have a place.
    let extents = unsafe {
        let first = check((api.GetTensorElementType)(info, &raw mut kind));
        let second = check((api.GetDimensionsCount)(info, &raw mut rank));
        let mut extents = vec![0i64; rank];
        let third = check((api.GetDimensions)(info, extents.as_mut_ptr(), rank));
        (api.ReleaseTensorTypeAndShapeInfo)(info);
        first.and(second).and(third).map(|()| extents)
    }?;
    let known = ELEMENTS.iter().find(|(_, element)| *element == kind).map(|(dtype, _)| *dtype);
    let dtype = known.ok_or_else(|| format!("an output is {kind:?}"))?;
    let extents: Vec<usize> = extents.into_iter().map(|extent| extent as usize).collect();
    let count = hetra_tensor::element_count(&extents).map_err(|error| error.to_string())?;
    let bytes = dtype.bytes(count).ok_or_else(|| "an output is too large".to_string())?;
    // SAFETY: the value is alive and has so many bytes, which nobody writes any more.
    let copied = unsafe {
        check((api.GetTensorMutableData)(value.0, &raw mut data))?;
        match bytes {
            0 => Tensor::from_bytes(dtype, &extents, &[]),
            _ => {
                let bytes = std::slice::from_raw_parts(data.cast::<u8>(), bytes);
                Tensor::from_bytes(dtype, &extents, bytes)
            }
        }
    };
    copied.map_err(|error| error.to_string())
}
