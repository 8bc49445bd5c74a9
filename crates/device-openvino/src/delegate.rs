//! A device of OpenVINO's, and models on it.

use std::sync::{Mutex, PoisonError};

use hetra_device::{Delegate, DeviceError, DeviceInfo, HostThreads, Loaded, Names};
use hetra_ops::OpError;
use hetra_tensor::{DType, Tensor};

use crate::call::{Compiled, Core, Fault, OvError, Request, element};
use crate::library::one_at_a_time;

/// Most requests that are kept for later runs.
const REQUESTS_MAX: usize = 8;

/// A device.
pub(crate) struct OpenVino {
    pub(crate) core: &'static Core,
    /// OpenVINO's name for it.
    pub(crate) device: String,
    pub(crate) info: DeviceInfo,
    pub(crate) threads: HostThreads,
}

impl OpenVino {
    /// How it is to compute. What a device does not know of is not said to it.
    fn properties(&self) -> Vec<(&'static str, String)> {
        let mut properties = vec![
            ("PERFORMANCE_HINT", "LATENCY".to_string()),
            ("INFERENCE_PRECISION_HINT", "f32".to_string()),
        ];
        if self.device == "CPU" {
            let pin = if self.threads.pin { "YES" } else { "NO" };
            properties.push(("ENABLE_CPU_PINNING", pin.to_string()));
            if let Some(count) = self.threads.count {
                properties.push(("INFERENCE_NUM_THREADS", count.to_string()));
            }
        }
        if self.device.starts_with("NPU") {
            // It knows f16 and integers only.
            properties.retain(|(key, _)| *key != "INFERENCE_PRECISION_HINT");
        }
        properties
    }
}

impl Delegate for OpenVino {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn refuses(&self, dtype: DType) -> Option<String> {
        match dtype {
            DType::F64 => Some("OpenVINO would compute f64 in f32".to_string()),
            // Constants of 4 bits are unpacked by it; they never are inputs.
            DType::I4 | DType::U4 => None,
            dtype if element(dtype).is_some() => None,
            dtype => Some(format!("OpenVINO takes no {dtype}")),
        }
    }

    fn load(&self, onnx: Vec<u8>, names: Names) -> Result<Box<dyn Loaded>, DeviceError> {
        let failed = |error: OvError| DeviceError::Failed {
            device: self.info.id.clone(),
            reason: error.to_string(),
        };
        one_at_a_time(|| {
            let model = self.core.read(&onnx).map_err(failed)?;
            drop(onnx);
            let compiled = self.core.compile(&model, &self.device, &self.properties());
            let compiled = compiled.map_err(failed)?;
            let found = compiled.ports().map_err(failed)?;
            let wanted = (names.inputs.len(), names.outputs.len());
            if found != wanted {
                let reason = format!("it has inputs and outputs {found:?}, for {wanted:?}");
                return Err(DeviceError::Failed { device: self.info.id.clone(), reason });
            }
            let ready = Ready {
                compiled,
                requests: Mutex::default(),
                device: self.info.id.clone(),
                keeps: self.device == "CPU",
                may_fail: model.is_dynamic(),
            };
            // Made now, so that a device that has no memory for it says so here.
            let request = ready.compiled.request().map_err(failed)?;
            ready.put(request);
            Ok(Box::new(ready) as Box<dyn Loaded>)
        })
    }
}

struct Ready {
    compiled: Compiled,
    /// Those that no run has.
    requests: Mutex<Vec<Request>>,
    device: String,
    /// Whether requests are used again.
    keeps: bool,
    /// Whether shapes are known only in a run, and may not fit then. With one thread 2026.4 tells
    /// nobody of an error in a run that the caller's thread does: outputs stay as they were, and
    /// models that are made later crash.
    may_fail: bool,
}

impl Ready {
    fn put(&self, request: Request) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() < REQUESTS_MAX {
            requests.push(request);
        }
    }

    fn fault(&self, fault: Fault) -> OpError {
        let reason = match fault {
            Fault::Library(error) => error.to_string(),
            Fault::Ours(reason) => reason,
        };
        OpError::unsupported(format!("device {}: {reason}", self.device))
    }
}

/// Integers of 64 bits are cut to 32 by it.
fn fits(tensor: &Tensor) -> bool {
    match tensor.as_slice::<i64>() {
        Ok(numbers) => numbers.iter().all(|&number| i32::try_from(number).is_ok()),
        Err(_) => true,
    }
}

impl Loaded for Ready {
    fn run(&self, inputs: &[&Tensor], given: Vec<Option<Tensor>>) -> Result<Vec<Tensor>, OpError> {
        if let Some(index) = inputs.iter().position(|tensor| !fits(tensor)) {
            let wanted = "integers of 32 bits: OpenVINO would cut these";
            return Err(OpError::input(index, wanted, "a larger one".to_string()));
        }
        let kept = self.requests.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let request = match kept {
            Some(request) => Ok(request),
            None => one_at_a_time(|| self.compiled.request()),
        };
        let mut request = request.map_err(|error| self.fault(error.into()))?;
        let result = request.run(inputs, given, self.may_fail).map_err(|fault| self.fault(fault));
        // After a fault it may run on tensors that are gone; and what other plugins than the
        // processor's keep of tensors between runs nobody says.
        if result.is_ok() && self.keeps {
            self.put(request);
        }
        result
    }
}
