//! An execution provider, and models on it.

use std::ffi::CString;

use hetra_device::{Delegate, DeviceError, DeviceInfo, HostThreads, Loaded, Names};
use hetra_ops::OpError;
use hetra_tensor::{DType, Tensor};
use ort::AsPointer;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use crate::library::Library;
use crate::run;

/// Options of a provider, as keys and values.
pub(crate) type Options = Vec<(String, String)>;

/// A device.
pub(crate) struct Provider {
    pub(crate) library: &'static Library,
    /// The name that opens it; none for the library's own kernels.
    pub(crate) provider: Option<&'static str>,
    /// For the provider, as they are.
    pub(crate) options: Options,
    pub(crate) info: DeviceInfo,
    pub(crate) threads: HostThreads,
}

impl Provider {
    fn session(&self, onnx: &[u8]) -> ort::Result<Session> {
        let mut builder = Session::builder(&self.library.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            // Threads that wait by turning take the processors from other devices.
            .with_intra_op_spinning(false)?
            // What goes wrong is told in results.
            .with_log_level(LogLevel::Fatal)?;
        if let Some(count) = self.threads.count {
            builder = builder.with_intra_threads(count)?;
        }
        if let Some(provider) = &self.provider {
            append(&mut builder, provider, &self.options)?;
            // What it does not do is to be an error, not a surprise.
            builder = builder.with_config_entry("session.disable_cpu_ep_fallback", "1")?;
        }
        builder.commit_from_memory(onnx)
    }
}

/// Adds an execution provider by its name.
fn append(
    builder: &mut SessionBuilder,
    provider: &str,
    options: &[(String, String)],
) -> ort::Result<()> {
    let text = |text: &str| CString::new(text.replace('\0', "")).unwrap_or_default();
    let name = text(provider);
    let texts: Vec<(CString, CString)> =
        options.iter().map(|(key, value)| (text(key), text(value))).collect();
    let keys: Vec<_> = texts.iter().map(|(key, _)| key.as_ptr()).collect();
    let values: Vec<_> = texts.iter().map(|(_, value)| value.as_ptr()).collect();
    // SAFETY: the options of the builder are alive; so are strings and lists until the call has
    // returned, as many keys as values. The status is the call's own.
    unsafe {
        let status = (ort::api().SessionOptionsAppendExecutionProvider)(
            builder.ptr_mut(),
            name.as_ptr(),
            keys.as_ptr(),
            values.as_ptr(),
            keys.len(),
        );
        ort::Error::result_from_status(status)
    }
}

impl Delegate for Provider {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn refuses(&self, dtype: DType) -> Option<String> {
        // Constants of 4 bits are unpacked by it; they never are inputs.
        let fine = run::takes(dtype) || matches!(dtype, DType::I4 | DType::U4);
        (!fine).then(|| format!("ONNX Runtime is given no {dtype}"))
    }

    fn load(&self, onnx: Vec<u8>, names: Names) -> Result<Box<dyn Loaded>, DeviceError> {
        let failed = |reason: String| DeviceError::Failed { device: self.info.id.clone(), reason };
        let session = self.session(&onnx).map_err(|error| failed(error.to_string()))?;
        let texts = |names: Vec<String>| -> Result<Vec<CString>, DeviceError> {
            let text = |name| CString::new(name).map_err(|error| failed(error.to_string()));
            names.into_iter().map(text).collect()
        };
        let names = (texts(names.inputs)?, texts(names.outputs)?);
        Ok(Box::new(Ready { session, names, device: self.info.id.clone() }))
    }
}

struct Ready {
    session: Session,
    names: (Vec<CString>, Vec<CString>),
    device: String,
}

impl Loaded for Ready {
    fn run(&self, inputs: &[&Tensor], given: Vec<Option<Tensor>>) -> Result<Vec<Tensor>, OpError> {
        let names = (&self.names.0[..], &self.names.1[..]);
        run::run(&self.session, names, inputs, given)
            .map_err(|reason| OpError::unsupported(format!("device {}: {reason}", self.device)))
    }
}
