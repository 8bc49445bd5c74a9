//! Generated kernels, and what is wrong with a launch, on a device that is here.
#![allow(clippy::print_stderr, reason = "says what is left out")]

use std::sync::Arc;

use hetra_device::{DeviceError, Launch, LaunchArg, Launcher, is_required};
use hetra_device_wgpu::open;
use hetra_kernel::{Scalar, kernel};
use hetra_kernel_cases::{cases, interpreted, on, same};

/// The device; `None` where there is none and none is required.
fn device() -> Option<Arc<dyn Launcher>> {
    match open("wgpu") {
        Ok(device) => Some(Arc::new(device)),
        Err(error) if is_required("wgpu") => panic!("{error}"),
        Err(error) => {
            eprintln!("left out: {error}");
            None
        }
    }
}

#[test]
fn generated_kernels_run_as_the_interpreter_says() {
    let Some(device) = device() else { return };
    for (number, case) in cases().iter().enumerate() {
        let wanted = interpreted(case).unwrap();
        let got = on(&*device, case).unwrap();
        assert!(same(&wanted, &got), "{number}: {wanted:?} {got:?}");
    }
}

#[kernel(group = [8])]
fn beyond(y: &mut [f32]) {
    y[global_id(0) + 1] = 1.0;
}

#[test]
fn faults_are_errors_and_the_device_goes_on() {
    let Some(device) = device() else { return };
    let memory = device.alloc(32).unwrap();
    device.write(&*memory, &[0; 32]).unwrap();
    let source = beyond();
    let y = |bytes, scalar| [LaunchArg::Memory { memory: &memory, scalar, bytes }];
    let args = y(32, Some(Scalar::F32));
    device.launch(&Launch::of(&source, [1, 1, 1], &args).unwrap()).unwrap();
    let fault = device.wait().unwrap_err().to_string();
    assert_eq!(fault, "kernel `beyond`: index 8 of `y`, which has 8 elements");
    let mut bytes = [0; 32];
    memory.read(&mut bytes).unwrap();
    let floats: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    assert_eq!(floats, [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    let wrong = y(32, Some(Scalar::I32));
    let error = device.launch(&Launch::of(&source, [1, 1, 1], &wrong).unwrap()).unwrap_err();
    assert!(matches!(error, DeviceError::Kernel(_)), "{error}");
    let large = y(1 << 20, None);
    let error = device.launch(&Launch::of(&source, [1, 1, 1], &large).unwrap()).unwrap_err();
    assert!(error.to_string().contains("smaller memory"), "{error}");
    let huge = device.alloc(usize::MAX / 2);
    assert!(matches!(huge, Err(DeviceError::Memory { .. })));
    let Some(other) = self::device() else { return };
    let args = y(32, None);
    let error = other.launch(&Launch::of(&source, [1, 1, 1], &args).unwrap()).unwrap_err();
    assert!(matches!(error, DeviceError::Foreign { .. }), "{error}");
    device.wait().unwrap();
}
