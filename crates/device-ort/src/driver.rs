//! The driver.

use std::sync::Arc;

use hetra_device::{
    DelegateDevice, Device, DeviceError, DeviceInfo, Driver, DriverState, Export, Found,
    HostThreads, ScheduleTable,
};

use crate::delegate::{Options, Provider};
use crate::library::{Library, VARIABLE, library};

/// Finds ONNX Runtime's execution providers.
pub struct OrtDriver {
    /// Writes graphs as ONNX Runtime reads them.
    pub export: Export,
}

/// The provider that every library has.
const OWN: &str = "CPUExecutionProvider";
/// Sends what it is given over a network: no device.
const REMOTE: &str = "AzureExecutionProvider";

/// Providers that are opened by their names and options, with the names that this takes. The others
/// (CUDA, TensorRT, MIGraphX, CANN, ..) have calls of their own, which are not made here.
const BY_NAME: [(&str, &str); 10] = [
    ("coreml", "CoreML"),
    ("dml", "DML"),
    ("js", "JS"),
    ("openvino", "OpenVINO"),
    ("qnn", "QNN"),
    ("snpe", "SNPE"),
    ("vitisai", "VitisAI"),
    ("webgpu", "WebGPU"),
    ("webnn", "WEBNN"),
    ("xnnpack", "XNNPACK"),
];

/// The name that opens a provider; none where it is not opened so.
fn short_name(provider: &str) -> Option<&'static str> {
    let name = provider.strip_suffix("ExecutionProvider")?.to_lowercase();
    BY_NAME.iter().find(|(known, _)| *known == name).map(|(_, short)| *short)
}

/// Why a provider is not opened.
const NOT_BY_NAME: &str =
    "ONNX Runtime opens this provider by a call of its own, which Hetra does not make yet";

/// What we call a provider.
fn id(provider: &str) -> String {
    match provider.strip_suffix("ExecutionProvider") {
        Some("CPU") => "ort".to_string(),
        Some(name) => format!("ort:{}", name.to_lowercase()),
        None => format!("ort:{provider}"),
    }
}

fn info(library: &Library, provider: &str) -> DeviceInfo {
    DeviceInfo {
        id: id(provider),
        name: format!("ONNX Runtime, {provider}"),
        driver: "ort".to_string(),
        version: library.version.clone(),
        dtypes: vec!["f32".to_string()],
        takes_parts: true,
        ..DeviceInfo::of_driver("ort")
    }
}

fn devices(library: &Library) -> impl Iterator<Item = &String> {
    library.providers.iter().filter(|provider| *provider != REMOTE)
}

/// `ort:qnn?a=b&c=d` in an id and options.
fn parsed(id: &str) -> Result<(&str, Options), String> {
    let Some((id, query)) = id.split_once('?') else { return Ok((id, Vec::new())) };
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) => Ok((key.to_string(), value.to_string())),
        None => Err(format!("`{pair}` after the question mark is not of the form key=value")),
    };
    Ok((id, query.split('&').map(pair).collect::<Result<_, _>>()?))
}

impl Driver for OrtDriver {
    fn name(&self) -> &'static str {
        "ort"
    }

    fn discover(&self) -> Vec<Found> {
        let library = match library() {
            Ok(library) => library,
            Err(none) => {
                let install = format!(
                    "install ONNX Runtime (the Python package `onnxruntime`), or set {VARIABLE} to \
                     its libonnxruntime.so"
                );
                return vec![none.found("ort", &install)];
            }
        };
        let found = |provider: &String| {
            let opened = provider == OWN || short_name(provider).is_some();
            let (state, hint) = match opened {
                true => (DriverState::Found, String::new()),
                false => (DriverState::Missing, NOT_BY_NAME.to_string()),
            };
            Found { info: info(library, provider), state, hint }
        };
        // Its own kernels first, as the device that is meant without a name.
        let mut found: Vec<Found> = devices(library).map(found).collect();
        found.sort_by_key(|found| found.info.id != "ort");
        found
    }

    fn opens(&self, id: &str) -> bool {
        id == "ort" || id.starts_with("ort:") || id.starts_with("ort?")
    }

    fn open(
        &self,
        id: &str,
        threads: HostThreads,
        _: ScheduleTable,
    ) -> Result<Arc<dyn Device>, DeviceError> {
        let failed = |reason: String| DeviceError::Failed { device: id.to_string(), reason };
        let (wanted, options) = parsed(id).map_err(failed)?;
        let library = library().map_err(|none| none.refuse(id))?;
        let wanted = if wanted == "ort:cpu" { "ort" } else { wanted };
        // The processor's provider has one id, whatever it was called by.
        let id = if wanted == "ort" { "ort" } else { id };
        let Some(provider) = devices(library).find(|provider| self::id(provider) == wanted) else {
            let found = devices(library).map(|provider| self::id(provider)).collect::<Vec<_>>();
            return Err(DeviceError::NoDevice { id: id.to_string(), found: found.join(", ") });
        };
        let info = DeviceInfo {
            id: id.to_string(),
            threads: threads.count.unwrap_or(0),
            ..info(library, provider)
        };
        let provider = match provider == OWN {
            true => None,
            false => Some(short_name(provider).ok_or_else(|| failed(NOT_BY_NAME.to_string()))?),
        };
        let delegate = Provider { library, provider, options, info, threads };
        Ok(Arc::new(DelegateDevice::new(delegate, self.export)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_behind_a_question_mark() {
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(parsed("ort"), Ok(("ort", vec![])));
        assert_eq!(
            parsed("ort:qnn?backend_path=a.so&x=1"),
            Ok(("ort:qnn", vec![pair("backend_path", "a.so"), pair("x", "1")]))
        );
        assert!(parsed("ort?x").unwrap_err().contains("key=value"));
        assert_eq!(id("CPUExecutionProvider"), "ort");
        assert_eq!(id("TensorrtExecutionProvider"), "ort:tensorrt");
        assert_eq!(short_name("XnnpackExecutionProvider"), Some("XNNPACK"));
        assert_eq!(short_name("CANNExecutionProvider"), None);
    }
}
