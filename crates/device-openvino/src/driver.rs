//! The driver.

use std::sync::Arc;

use hetra_device::{
    DelegateDevice, Device, DeviceError, DeviceInfo, Driver, DriverState, Export, Found,
    HostThreads, NoLibrary, ScheduleTable,
};

use crate::call::{self, Core};
use crate::delegate::OpenVino;
use crate::library::{VARIABLE, core, one_at_a_time};

/// Finds OpenVINO's devices.
pub struct OpenVinoDriver {
    /// Writes graphs as OpenVINO reads them.
    pub export: Export,
}

/// What we call OpenVINO's processor plugin, and devices of its.
fn id(device: &str) -> String {
    match device {
        "CPU" => "openvino".to_string(),
        other => format!("openvino:{}", other.to_lowercase()),
    }
}

fn info(core: &Core, device: &str) -> DeviceInfo {
    let property = |key: &str| core.property(device, key).unwrap_or_default();
    let words = |text: &str| text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>();
    DeviceInfo {
        id: id(device),
        name: property("FULL_DEVICE_NAME"),
        driver: "openvino".to_string(),
        version: call::version(),
        features: words(&property("OPTIMIZATION_CAPABILITIES")),
        dtypes: vec!["f32".to_string()],
        takes_parts: true,
        // A processor is what it says it is.
        ..DeviceInfo::of_driver("openvino")
    }
}

fn found() -> Result<Vec<DeviceInfo>, NoLibrary> {
    let core = core()?;
    one_at_a_time(|| {
        let devices = core.devices().map_err(|error| NoLibrary::Broken(error.to_string()))?;
        Ok(devices.iter().map(|device| info(core, device)).collect())
    })
}

impl Driver for OpenVinoDriver {
    fn name(&self) -> &'static str {
        "openvino"
    }

    fn discover(&self) -> Vec<Found> {
        let infos = match found() {
            Ok(infos) => infos,
            Err(none) => {
                let install = format!(
                    "install OpenVINO (the Python package `openvino`), or set {VARIABLE} to its \
                     libopenvino_c.so"
                );
                return vec![none.found("openvino", &install)];
            }
        };
        if infos.is_empty() {
            return vec![NoLibrary::Missing.found("openvino", "OpenVINO has no device here")];
        }
        let found = |info| Found { info, state: DriverState::Found, hint: String::new() };
        infos.into_iter().map(found).collect()
    }

    fn opens(&self, id: &str) -> bool {
        id == "openvino" || id.starts_with("openvino:")
    }

    fn open(
        &self,
        id: &str,
        threads: HostThreads,
        _: ScheduleTable,
    ) -> Result<Arc<dyn Device>, DeviceError> {
        let refused = |none: NoLibrary| none.refuse(id);
        let (core, infos) = (core().map_err(refused)?, found().map_err(refused)?);
        let all = || infos.iter().map(|info| info.id.as_str()).collect::<Vec<_>>().join(", ");
        // `openvino:cpu` is the same as `openvino`.
        let wanted = if id == "openvino:cpu" { "openvino" } else { id };
        let Some(info) = infos.iter().find(|info| info.id == wanted) else {
            return Err(DeviceError::NoDevice { id: id.to_string(), found: all() });
        };
        let device = match wanted.strip_prefix("openvino:") {
            Some(name) => name.to_uppercase(),
            None => "CPU".to_string(),
        };
        let info = DeviceInfo { threads: threads.count.unwrap_or(0), ..info.clone() };
        let delegate = OpenVino { core, device, info, threads };
        Ok(Arc::new(DelegateDevice::new(delegate, self.export)))
    }
}
