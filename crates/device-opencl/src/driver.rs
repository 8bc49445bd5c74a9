//! The driver.

use std::sync::Arc;

use hetra_device::{
    Device, DeviceError, DeviceInfo, Driver, DriverState, Found, HostThreads, ScheduleTable,
};
use hetra_device_cpu::CpuDriver;
use hetra_device_kernels::KernelDevice;

use crate::find::{OpenClDevice, all, open};

/// Finds OpenCL devices.
pub struct OpenClDriver;

impl Driver for OpenClDriver {
    fn name(&self) -> &'static str {
        "opencl"
    }

    fn discover(&self) -> Vec<Found> {
        match all() {
            Ok(devices) => devices.into_iter().map(found).collect(),
            Err((missing, hint)) => {
                let state = if missing { DriverState::Missing } else { DriverState::Broken };
                vec![Found { info: DeviceInfo::of_driver("opencl"), state, hint }]
            }
        }
    }

    fn opens(&self, id: &str) -> bool {
        id == "opencl" || id.starts_with("opencl:")
    }

    fn open(
        &self,
        id: &str,
        threads: HostThreads,
        schedules: ScheduleTable,
    ) -> Result<Arc<dyn Device>, DeviceError> {
        let device = open(id)?;
        let info = device.info().clone();
        let host = CpuDriver.open("cpu", threads, ScheduleTable::default())?;
        Ok(Arc::new(KernelDevice::new(info, Arc::new(device), host, schedules)))
    }
}

fn found(device: OpenClDevice) -> Found {
    Found { info: device.info, state: DriverState::Found, hint: String::new() }
}
