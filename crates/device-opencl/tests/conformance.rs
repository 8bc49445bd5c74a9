//! The device passes the conformance suite of every device, with every index checked.
#![allow(clippy::print_stderr, reason = "says what is left out")]

use std::sync::Arc;

use hetra_device::conformance::suite;
use hetra_device::{Driver, HostThreads, ScheduleTable, is_required};
use hetra_device_cpu::CpuDriver;
use hetra_device_kernels::{KernelDevice, OPEN};

#[test]
fn every_claimed_operator_agrees_with_its_reference() {
    let launcher = match hetra_device_opencl::open("opencl") {
        Ok(launcher) => launcher,
        Err(error) if is_required("opencl") => panic!("{error}"),
        Err(error) => return eprintln!("left out: {error}"),
    };
    let host = CpuDriver.open("cpu", HostThreads::default(), ScheduleTable::default()).unwrap();
    let info = launcher.info().clone();
    let device = KernelDevice::new(info, Arc::new(launcher), host).checked();
    let kinds = suite(&device, (1, 6), 3e-5, OPEN).unwrap_or_else(|failures| panic!("{failures}"));
    assert!(kinds > 40, "{kinds}");
}
