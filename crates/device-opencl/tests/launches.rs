//! What every launcher must do, on a device that is here.

use hetra_device::Launcher;
use hetra_device_opencl::open;
use hetra_kernel_cases::{
    check_clock, check_exhaustion, check_faults, check_generated, check_language, check_spans,
    opened,
};

#[test]
fn generated_kernels_run_as_the_interpreter_says() {
    if let Some(device) = opened("opencl", open("opencl")) {
        check_generated(&device);
    }
}

#[test]
fn faults_are_errors_and_the_device_goes_on() {
    let devices = opened("opencl", open("opencl")).zip(opened("opencl", open("opencl")));
    if let Some((device, other)) = devices {
        check_faults(&device, &other);
    }
}

#[test]
fn vectors_begin_at_any_element() {
    if let Some(device) = opened("opencl", open("opencl")) {
        check_spans(&device);
    }
}

#[test]
fn copies_through_memory_that_does_not_move_are_the_same() {
    let Some(device) = opened("opencl", open("opencl")) else { return };
    let device = device.with_pinned_copies();
    // One block, and more than two of them with a rest.
    for bytes in [100_000, (9 << 20) + 12_345] {
        let sent: Vec<u8> = (0..bytes).map(|i: usize| ((i * i) >> 7) as u8).collect();
        let memory = device.alloc(bytes).unwrap();
        device.write(&*memory, &sent).unwrap();
        let mut got = vec![0; bytes];
        memory.read(&mut got).unwrap();
        assert!(sent == got, "{bytes} bytes");
    }
}

#[test]
fn kernels_are_timed_by_the_devices_clock() {
    if let Some(device) = opened("opencl", open("opencl")) {
        check_clock("opencl", &device);
    }
}

#[test]
fn atomics_halves_and_subgroups_do_what_they_should() {
    if let Some(device) = opened("opencl", open("opencl")) {
        check_language(&device);
    }
}

#[test]
fn a_device_without_memory_says_so_and_goes_on() {
    let devices = opened("opencl", open("opencl")).zip(opened("opencl", open("opencl")));
    if let Some((device, other)) = devices {
        check_exhaustion(&device, &other);
    }
}

#[test]
fn a_part_of_a_device_is_a_device() {
    let Some(whole) = opened("opencl", open("opencl")) else { return };
    match open("opencl:0.0") {
        Ok(part) => {
            assert!(part.limits().units <= whole.limits().units);
            check_language(&part);
        }
        // Not every driver divides its devices; PoCL, which tests have, does.
        Err(error) => assert!(!whole.info().name.contains("pthread"), "{error}"),
    }
}
