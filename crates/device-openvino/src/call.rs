//! OpenVINO's C interface, as far as it is used, with owners for what it gives.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::ptr;

use hetra_tensor::{DType, Tensor};
use openvino_sys as sys;
use openvino_sys::ov_element_type_e as Element;

/// What it says against a call.
#[derive(Clone, Debug)]
pub(crate) struct OvError {
    status: sys::ov_status_e,
    message: String,
}

impl fmt::Display for OvError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its messages begin with the place in its sources, and go on for many lines.
        let told = self.message.lines().map(str::trim).filter(|line| !line.is_empty());
        let told: Vec<&str> = told.filter(|line| !line.starts_with("Exception from")).collect();
        match told.is_empty() {
            true => write!(out, "{:?}", self.status),
            false => out.write_str(&told.join(" ")),
        }
    }
}

type Result<T> = std::result::Result<T, OvError>;

/// Checks a call that has just been made.
fn check(status: sys::ov_status_e) -> Result<()> {
    if status == sys::ov_status_e::OK {
        return Ok(());
    }
    // For a parameter that is none it keeps the text of an earlier error.
    let stale = status == sys::ov_status_e::INVALID_C_PARAM;
    // SAFETY: it gives a string of its own, or null.
    let text = if stale { ptr::null() } else { unsafe { sys::ov_get_last_err_msg() } };
    if text.is_null() {
        return Err(OvError { status, message: String::new() });
    }
    // SAFETY: `text` is a string that ends with a zero, which nobody else has; it is copied before
    // it is given back.
    let message = unsafe {
        let message = CStr::from_ptr(text).to_string_lossy().into_owned();
        sys::ov_free(text.cast_mut().cast());
        message
    };
    Err(OvError { status, message })
}

fn text(from: &str) -> CString {
    // What is in the way of a string in C is not in any of ours: keys, devices, names of files.
    CString::new(from.replace('\0', "")).unwrap_or_default()
}

/// Copies a string of the library's and gives it back.
///
/// # Safety
/// `from` is a string that the library has given to the caller.
unsafe fn taken(from: *mut c_char) -> String {
    // SAFETY: by the caller.
    unsafe {
        let text = CStr::from_ptr(from).to_string_lossy().into_owned();
        sys::ov_free(from.cast());
        text
    }
}

macro_rules! owner {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $free:path) => {
        $(#[$doc])*
        pub(crate) struct $name(*mut $raw);

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: it was made by the library, and is freed once, here.
                unsafe { $free(self.0) }
            }
        }
    };
}

owner!(
    /// What compiles.
    Core, sys::ov_core_t, sys::ov_core_free
);
owner!(
    /// A model that was read.
    Model, sys::ov_model_t, sys::ov_model_free
);
owner!(
    /// A model that was compiled.
    Compiled, sys::ov_compiled_model_t, sys::ov_compiled_model_free
);
owner!(
    /// One run after the other of a compiled model.
    Request, sys::ov_infer_request_t, sys::ov_infer_request_free
);
owner!(Wrapped, sys::ov_tensor_t, sys::ov_tensor_free);

// SAFETY: OpenVINO's documentation has `Core` and compiled models used by several threads at once.
unsafe impl Send for Core {}
// SAFETY: as above.
unsafe impl Sync for Core {}
// SAFETY: as above.
unsafe impl Send for Compiled {}
// SAFETY: as above.
unsafe impl Sync for Compiled {}
// SAFETY: a request is used by one thread at a time, whichever (`&mut`).
unsafe impl Send for Request {}

impl Core {
    pub(crate) fn new() -> Result<Core> {
        let mut core = ptr::null_mut();
        // SAFETY: `core` is a place for a pointer.
        check(unsafe { sys::ov_core_create(&raw mut core) })?;
        Ok(Core(core))
    }

    /// The devices that there are, such as `CPU`.
    pub(crate) fn devices(&self) -> Result<Vec<String>> {
        let mut list = sys::ov_available_devices_t { devices: ptr::null_mut(), size: 0 };
        // SAFETY: `self` is alive; `list` is a place for the list.
        check(unsafe { sys::ov_core_get_available_devices(self.0, &raw mut list) })?;
        // SAFETY: the list has `size` strings.
        let name = |at: usize| unsafe { CStr::from_ptr(*list.devices.add(at)) };
        let names = (0..list.size).map(|at| name(at).to_string_lossy().into_owned()).collect();
        // SAFETY: the list is the caller's, and freed once.
        unsafe { sys::ov_available_devices_free(&raw mut list) };
        Ok(names)
    }

    pub(crate) fn property(&self, device: &str, key: &str) -> Result<String> {
        let (device, key) = (text(device), text(key));
        let mut value: *mut c_char = ptr::null_mut();
        // SAFETY: the strings live until the call has returned; `value` is a place for a pointer.
        let status = unsafe {
            sys::ov_core_get_property(self.0, device.as_ptr(), key.as_ptr(), &raw mut value)
        };
        check(status)?;
        // SAFETY: the call has given the string.
        Ok(unsafe { taken(value) })
    }

    pub(crate) fn read(&self, onnx: &[u8]) -> Result<Model> {
        let mut model = ptr::null_mut();
        // SAFETY: the bytes live until the call has returned; a model keeps none of them.
        let status = unsafe {
            sys::ov_core_read_model_from_memory_buffer(
                self.0,
                onnx.as_ptr().cast(),
                onnx.len(),
                ptr::null(),
                &raw mut model,
            )
        };
        check(status)?;
        Ok(Model(model))
    }

    pub(crate) fn compile(
        &self,
        model: &Model,
        device: &str,
        properties: &[(&str, String)],
    ) -> Result<Compiled> {
        let texts: Vec<(CString, CString)> =
            properties.iter().map(|(key, value)| (text(key), text(value))).collect();
        let list: Vec<sys::ov_property_t> = texts
            .iter()
            .map(|(key, value)| sys::ov_property_t {
                key: key.as_ptr(),
                value: value.as_ptr().cast::<c_void>(),
            })
            .collect();
        let device = text(device);
        let mut compiled = ptr::null_mut();
        // SAFETY: model, strings and list live until the call has returned.
        let status = unsafe {
            sys::ov_core_compile_model_props(
                self.0,
                model.0,
                device.as_ptr(),
                list.len(),
                list.as_ptr(),
                &raw mut compiled,
            )
        };
        check(status)?;
        Ok(Compiled(compiled))
    }
}

/// The library's version; it is loaded.
pub(crate) fn version() -> String {
    let mut version = sys::ov_version { buildNumber: ptr::null(), description: ptr::null() };
    // SAFETY: `version` is a place for two strings, which are freed once, after they are copied.
    unsafe {
        if check(sys::ov_get_openvino_version(&raw mut version)).is_err() {
            return String::new();
        }
        let build = CStr::from_ptr(version.buildNumber).to_string_lossy().into_owned();
        sys::ov_version_free(&raw mut version);
        build.split('-').next().unwrap_or_default().to_string()
    }
}

impl Model {
    /// Whether an extent of it is known only in a run.
    pub(crate) fn is_dynamic(&self) -> bool {
        // SAFETY: `self` is alive, and only read.
        unsafe { sys::ov_model_is_dynamic(self.0) }
    }
}

impl Compiled {
    pub(crate) fn request(&self) -> Result<Request> {
        let mut request = ptr::null_mut();
        // SAFETY: `self` is alive, and requests keep what they need of it.
        check(unsafe { sys::ov_compiled_model_create_infer_request(self.0, &raw mut request) })?;
        Ok(Request(request))
    }

    /// How many inputs and outputs it has.
    pub(crate) fn ports(&self) -> Result<(usize, usize)> {
        let (mut inputs, mut outputs) = (0, 0);
        // SAFETY: `self` is alive; both are places for a number.
        unsafe {
            check(sys::ov_compiled_model_inputs_size(self.0, &raw mut inputs))?;
            check(sys::ov_compiled_model_outputs_size(self.0, &raw mut outputs))?;
        }
        Ok((inputs, outputs))
    }
}

/// The dtypes that cross the border, with its names for them: not what it has no tensors of, or
/// does not keep whole.
const ELEMENTS: [(DType, Element); 11] = [
    (DType::F32, Element::F32),
    (DType::F16, Element::F16),
    (DType::BF16, Element::BF16),
    (DType::I8, Element::I8),
    (DType::I16, Element::I16),
    (DType::I32, Element::I32),
    (DType::I64, Element::I64),
    (DType::U8, Element::U8),
    (DType::U16, Element::U16),
    (DType::U32, Element::U32),
    (DType::Bool, Element::OV_BOOLEAN),
];

pub(crate) fn element(dtype: DType) -> Option<Element> {
    ELEMENTS.iter().find(|(known, _)| *known == dtype).map(|(_, element)| *element)
}

fn dtype(element: Element) -> Option<DType> {
    ELEMENTS.iter().find(|(_, known)| *known == element).map(|(dtype, _)| *dtype)
}

/// A tensor over memory of ours.
///
/// # Safety
/// The memory has room for the shape and is valid while a request runs that the tensor is set on;
/// where it is an output, nobody else uses it meanwhile. A request keeps the tensor after its run,
/// and must not run again before all of its tensors are set anew, or be dropped: its processor
/// plugin looks at none in between (others are given a request for each run).
unsafe fn wrap(element: Element, shape: &[usize], data: *mut u8) -> Result<Wrapped> {
    let mut dims: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
    let shape = sys::ov_shape_t { rank: dims.len() as i64, dims: dims.as_mut_ptr() };
    let mut tensor = ptr::null_mut();
    // SAFETY: the shape is read only, until the call has returned; the memory is by the caller.
    let status = unsafe {
        sys::ov_tensor_create_from_host_ptr(element, shape, data.cast(), &raw mut tensor)
    };
    check(status)?;
    Ok(Wrapped(tensor))
}

fn shape_of(tensor: &Wrapped) -> Result<Vec<usize>> {
    let mut shape = sys::ov_shape_t { rank: 0, dims: ptr::null_mut() };
    // SAFETY: the tensor is alive; `shape` is a place for its shape.
    check(unsafe { sys::ov_tensor_get_shape(tensor.0, &raw mut shape) })?;
    let rank = usize::try_from(shape.rank).unwrap_or(0);
    // SAFETY: the shape has `rank` extents; it is freed once, after they are copied.
    Ok(unsafe {
        let extents = (0..rank).map(|axis| *shape.dims.add(axis) as usize).collect();
        sys::ov_shape_free(&raw mut shape);
        extents
    })
}

/// Why a run has no result.
pub(crate) enum Fault {
    Library(OvError),
    Ours(String),
}

impl From<OvError> for Fault {
    fn from(error: OvError) -> Fault {
        Fault::Library(error)
    }
}

impl Request {
    /// Runs on these inputs; outputs come into what is given, else into new tensors. The work is
    /// done by the caller's thread, or by one of the library's.
    pub(crate) fn run(
        &mut self,
        inputs: &[&Tensor],
        given: Vec<Option<Tensor>>,
        by_library_thread: bool,
    ) -> std::result::Result<Vec<Tensor>, Fault> {
        // They live until the run has ended.
        let mut wrapped = Vec::with_capacity(inputs.len() + given.len());
        for (index, tensor) in inputs.iter().enumerate() {
            let kind = self::element(tensor.dtype());
            let kind =
                kind.ok_or_else(|| Fault::Ours(format!("input {index} is {}", tensor.describe())))?;
            let data = tensor.bytes().as_ptr().cast_mut();
            // SAFETY: the tensor outlives the run, and inputs are only read.
            let tensor = unsafe { wrap(kind, tensor.shape(), data) }?;
            // SAFETY: request and tensor are alive.
            check(unsafe {
                sys::ov_infer_request_set_input_tensor_by_index(self.0, index, tensor.0)
            })?;
            wrapped.push(tensor);
        }
        let mut outputs = given;
        for (index, output) in outputs.iter_mut().enumerate() {
            let Some(tensor) = output else { continue };
            let kind = self::element(tensor.dtype());
            let kind = kind
                .ok_or_else(|| Fault::Ours(format!("output {index} is {}", tensor.describe())))?;
            let shape = tensor.shape().to_vec();
            let bytes = tensor.bytes_mut().map_err(|error| Fault::Ours(error.to_string()))?;
            // SAFETY: the tensor is nobody else's (`bytes_mut`), and lives in `outputs` until the
            // run has ended; nobody reads it before.
            let tensor = unsafe { wrap(kind, &shape, bytes.as_mut_ptr()) }?;
            // SAFETY: request and tensor are alive.
            check(unsafe {
                sys::ov_infer_request_set_output_tensor_by_index(self.0, index, tensor.0)
            })?;
            wrapped.push(tensor);
        }
        // SAFETY: the request is alive, and nobody else uses it (`&mut`).
        check(unsafe {
            match by_library_thread {
                true => sys::ov_infer_request_start_async(self.0),
                false => sys::ov_infer_request_infer(self.0),
            }
        })?;
        if by_library_thread {
            // SAFETY: as above; nothing returns between the start and this, while the buffers are
            // borrowed.
            check(unsafe { sys::ov_infer_request_wait(self.0) })?;
        }
        let wrapped = wrapped.split_off(inputs.len());
        let placed = outputs.iter_mut().flatten();
        for (tensor, output) in wrapped.iter().zip(placed) {
            if shape_of(tensor)? != output.shape() {
                return Err(Fault::Ours(format!("an output is not {}", output.describe())));
            }
            hetra_device::normalise(output);
        }
        drop(wrapped);
        let made = outputs.into_iter().enumerate();
        made.map(|(index, output)| output.map_or_else(|| self.output(index), Ok)).collect()
    }

    /// Copies an output, whose memory is the request's.
    fn output(&self, index: usize) -> std::result::Result<Tensor, Fault> {
        let mut tensor = ptr::null_mut();
        // SAFETY: the request is alive; `tensor` is a place for a pointer.
        check(unsafe {
            sys::ov_infer_request_get_output_tensor_by_index(self.0, index, &raw mut tensor)
        })?;
        let tensor = Wrapped(tensor);
        let mut kind = Element::DYNAMIC;
        let (mut bytes, mut data) = (0, ptr::null_mut());
        // SAFETY: the tensor is alive; the others are places for what is asked.
        unsafe {
            check(sys::ov_tensor_get_element_type(tensor.0, &raw mut kind))?;
            check(sys::ov_tensor_get_byte_size(tensor.0, &raw mut bytes))?;
        }
        let extents = shape_of(&tensor)?;
        let dtype =
            dtype(kind).ok_or_else(|| Fault::Ours(format!("output {index} is {kind:?}")))?;
        let copied = if bytes == 0 {
            Tensor::from_bytes(dtype, &extents, &[])
        } else {
            // SAFETY: the tensor is alive and has so many bytes, which nobody writes: the request
            // runs only under `&mut`.
            let bytes = unsafe {
                check(sys::ov_tensor_data(tensor.0, &raw mut data))?;
                std::slice::from_raw_parts(data.cast::<u8>(), bytes)
            };
            Tensor::from_bytes(dtype, &extents, bytes)
        };
        copied.map_err(|error| Fault::Ours(error.to_string()))
    }
}
