//! The driver.

use std::sync::Arc;

use hetra_device::{
    Device, DeviceError, DeviceInfo, Driver, DriverState, Found, HostThreads, ScheduleTable,
};
use hetra_device_cpu::CpuDriver;
use hetra_device_kernels::KernelDevice;

use crate::find::{all, open};

/// Finds GPUs, and what behaves like one.
pub struct WgpuDriver;

const INSTALL: &str = "install the Vulkan driver of the GPU's vendor, or a software one \
    (Debian: mesa-vulkan-drivers libvulkan1); where one is installed, VK_LOADER_DEBUG=error says \
    why it does not load";

impl Driver for WgpuDriver {
    fn name(&self) -> &'static str {
        "wgpu"
    }

    fn discover(&self) -> Vec<Found> {
        let adapters = all();
        if adapters.is_empty() {
            let info = DeviceInfo::of_driver("wgpu");
            return vec![Found { info, state: DriverState::Missing, hint: INSTALL.to_string() }];
        }
        let found = |adapter: crate::Adapter| Found {
            info: adapter.info,
            state: DriverState::Found,
            hint: String::new(),
        };
        adapters.into_iter().map(found).collect()
    }

    fn opens(&self, id: &str) -> bool {
        id == "wgpu" || id.starts_with("wgpu:")
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
