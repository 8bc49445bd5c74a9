//! What every launcher must do, on a device that is here.

use hetra_device_wgpu::open;
use hetra_kernel_cases::{
    check_clock, check_faults, check_generated, check_language, check_spans, opened,
};

#[test]
fn generated_kernels_run_as_the_interpreter_says() {
    if let Some(device) = opened("wgpu", open("wgpu")) {
        check_generated(&device);
    }
}

#[test]
fn faults_are_errors_and_the_device_goes_on() {
    let devices = opened("wgpu", open("wgpu")).zip(opened("wgpu", open("wgpu")));
    if let Some((device, other)) = devices {
        check_faults(&device, &other);
    }
}

#[test]
fn vectors_begin_at_any_element() {
    if let Some(device) = opened("wgpu", open("wgpu")) {
        check_spans(&device);
    }
}

#[test]
fn kernels_are_timed_by_the_devices_clock() {
    if let Some(device) = opened("wgpu", open("wgpu")) {
        check_clock("wgpu", &device);
    }
}

#[test]
fn atomics_halves_and_subgroups_do_what_they_should() {
    if let Some(device) = opened("wgpu", open("wgpu")) {
        check_language(&device);
    }
}
