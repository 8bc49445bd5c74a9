//! The device passes the conformance suite of every device, with every index checked.
use std::sync::Arc;

use hetra_device::conformance::suite;
use hetra_device::{
    DeviceError, DeviceInfo, Driver, HostThreads, Launch, LaunchLimits, Launcher, ScheduleTable,
};
use hetra_device_cpu::CpuDriver;
use hetra_device_kernels::{KernelDevice, OPEN};
use hetra_device_wgpu::Wgpu;
use hetra_kernel_cases::opened;
use hetra_tensor::Held;

/// A device that says that barriers cost little, as GPUs do: operators then choose other kernels.
struct AsGpu {
    device: Wgpu,
    limits: LaunchLimits,
}

impl Launcher for AsGpu {
    fn limits(&self) -> &LaunchLimits {
        &self.limits
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Held>, DeviceError> {
        self.device.alloc(bytes)
    }

    fn write(&self, memory: &dyn Held, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.write(memory, bytes)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        self.device.launch(launch)
    }

    fn run(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        self.device.run(launch)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.device.wait()
    }
}

fn check(info: DeviceInfo, launcher: Arc<dyn Launcher>) {
    let host = CpuDriver.open("cpu", HostThreads::default(), ScheduleTable::default()).unwrap();
    let device = KernelDevice::new(info, launcher, host, ScheduleTable::default()).checked();
    let kinds = suite(&device, (1, 6), 3e-5, OPEN).unwrap_or_else(|failures| panic!("{failures}"));
    assert!(kinds > 40, "{kinds}");
}

#[test]
fn every_claimed_operator_agrees_by_the_kernels_of_gpus() {
    let Some(device) = opened("wgpu", hetra_device_wgpu::open("wgpu")) else { return };
    let limits = LaunchLimits { cheap_barriers: true, ..device.limits().clone() };
    check(device.info().clone(), Arc::new(AsGpu { device, limits }));
}

#[test]
fn every_claimed_operator_agrees_with_its_reference() {
    let Some(device) = opened("wgpu", hetra_device_wgpu::open("wgpu")) else { return };
    check(device.info().clone(), Arc::new(device));
}
