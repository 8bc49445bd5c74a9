//! The device passes the conformance suite of every device, with every index checked.
use std::sync::Arc;

use hetra_device::conformance::suite;
use hetra_device::{Driver, HostThreads, ScheduleTable};
use hetra_device_cpu::CpuDriver;
use hetra_device_kernels::{KernelDevice, OPEN};
use hetra_kernel_cases::opened;

#[test]
fn every_claimed_operator_agrees_with_its_reference() {
    let Some(launcher) = opened("wgpu", hetra_device_wgpu::open("wgpu")) else { return };
    let host = CpuDriver.open("cpu", HostThreads::default(), ScheduleTable::default()).unwrap();
    let info = launcher.info().clone();
    let device =
        KernelDevice::new(info, Arc::new(launcher), host, ScheduleTable::default()).checked();
    let kinds = suite(&device, (1, 6), 3e-5, OPEN).unwrap_or_else(|failures| panic!("{failures}"));
    assert!(kinds > 40, "{kinds}");
}
