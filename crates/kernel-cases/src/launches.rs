//! What every launcher must do, as tests of devices call it. All of it panics where it is not so.

use std::sync::Arc;

use hetra_device::{DeviceError, Launch, LaunchArg, Launcher, is_required};
use hetra_kernel::{Literal, Scalar, kernel};

use crate::run::{cases, interpreted, on, same};

/// A device that was opened; `None`, and a word about it, where it is not here and not required.
///
/// # Panics
/// Where it is required.
#[allow(clippy::print_stderr, reason = "says what a test leaves out")]
pub fn opened<T>(driver: &str, device: Result<T, DeviceError>) -> Option<T> {
    match device {
        Ok(device) => Some(device),
        Err(error) if is_required(driver) => panic!("{error}"),
        Err(error) => {
            eprintln!("left out: {error}");
            None
        }
    }
}

/// Generated kernels run as the interpreter says.
///
/// # Panics
/// With the first that does not.
pub fn check_generated(device: &dyn Launcher) {
    for (number, case) in cases().iter().enumerate() {
        let wanted = interpreted(case).expect("the interpreter runs all cases");
        let got = on(device, case).unwrap_or_else(|error| panic!("{number}: {error}"));
        assert!(same(&wanted, &got), "{number}: {wanted:?} {got:?}");
    }
}

#[kernel(group = [8])]
fn beyond(y: &mut [f32]) {
    y[global_id(0) + 1] = 1.0;
}

/// What is wrong with a launch is an error, and the device goes on; `other` is another one.
///
/// # Panics
/// Where it is not.
pub fn check_faults(device: &dyn Launcher, other: &dyn Launcher) {
    let memory = device.alloc(32).expect("some memory");
    device.write(&*memory, &[0; 32]).expect("writes");
    let source = beyond();
    let y = |bytes, scalar| [LaunchArg::Memory { memory: &memory, scalar, bytes }];
    let launch = |device: &dyn Launcher, args: &[LaunchArg<'_>]| {
        device.launch(&Launch::of(&source, [1, 1, 1], args).expect("a kernel"))
    };
    launch(device, &y(32, Some(Scalar::F32))).expect("is launched");
    let fault = device.wait().expect_err("one item is beyond").to_string();
    assert_eq!(fault, "kernel `beyond`: index 8 of `y`, which has 8 elements");
    let mut bytes = [0; 32];
    memory.read(&mut bytes).expect("reads on");
    let floats: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    assert_eq!(floats, [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    let error = launch(device, &y(32, Some(Scalar::I32))).expect_err("of another type");
    assert!(matches!(error, DeviceError::Kernel(_)), "{error}");
    let error = launch(device, &y(1 << 20, None)).expect_err("larger than it is");
    assert!(error.to_string().contains("smaller memory"), "{error}");
    let huge: Result<Arc<_>, _> = device.alloc(usize::MAX / 2);
    assert!(matches!(huge, Err(DeviceError::Memory { .. })));
    let error = launch(other, &y(32, None)).expect_err("of another device");
    assert!(matches!(error, DeviceError::Foreign { .. }), "{error}");
    device.wait().expect("goes on");
}

#[kernel(group = [2])]
fn spans(from: u32, x: &[f32], y: &mut [f32]) {
    let i = global_id(0);
    let mut own = [0.0; 12];
    own.set_vector(i * 3 + 1, x.vector::<4>(from + i * 8) * splat(2.0));
    let two = own.vector::<2>(i * 3 + 1);
    y.set_vector(i * 4 + 1, lanes([two[0], two[1]]) + own.vector::<2>(i * 3 + 3));
}

#[kernel(group = [1])]
fn past_an_array(y: &mut [f32]) {
    let mut own = [1.0; 4];
    own.set_vector(1, splat::<4>(2.0));
    let part = shared::<[f32; 4]>();
    part[0] = own[1];
    barrier();
    y.set_vector(0, part.vector::<4>(2));
}

/// Vectors begin at any element, and one that does not end inside is a fault.
///
/// # Panics
/// Where it is not.
pub fn check_spans(device: &dyn Launcher) {
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let memory = |values: &[f32]| {
        let memory = device.alloc(values.len() * 4).expect("some memory");
        device.write(&*memory, &bytes(values)).expect("writes");
        memory
    };
    let x = memory(&std::array::from_fn::<f32, 20, _>(|i| i as f32));
    let y = memory(&[-1.0; 7]);
    let scalar = Some(Scalar::F32);
    let run = |from: u32, len: usize| {
        let args = [
            LaunchArg::Value(Literal::new(from)),
            LaunchArg::Memory { memory: &x, scalar, bytes: 80 },
            LaunchArg::Memory { memory: &y, scalar, bytes: len * 4 },
        ];
        device.run(&Launch::of(&spans(), [1, 1, 1], &args).expect("a kernel"))
    };
    run(3, 7).expect("all is inside");
    let mut got = [0; 28];
    y.read(&mut got).expect("reads");
    assert_eq!(got[..], bytes(&[-1.0, 16.0, 20.0, -1.0, -1.0, 48.0, 52.0]));
    for (from, len, wanted) in [(9, 7, "20 of `x`"), (4, 6, "6 of `y`"), (u32::MAX, 7, "of `x`")] {
        let said = run(from, len).expect_err("not inside").to_string();
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    // An index that is a constant, too, of an array.
    let args = [LaunchArg::Memory { memory: &y, scalar, bytes: 28 }];
    let past = past_an_array();
    let said = device.run(&Launch::of(&past, [1, 1, 1], &args).expect("a kernel"));
    let said = said.expect_err("not inside").to_string();
    assert!(said.contains("which has 4 elements"), "{said}");
}

/// Kernels are timed by the device's own clock while somebody wants it, and not else.
///
/// # Panics
/// Where they are not.
#[allow(clippy::print_stderr, reason = "says what a test leaves out")]
pub fn check_clock(driver: &str, device: &dyn Launcher) {
    let memory = device.alloc(36).expect("some memory");
    let args = [LaunchArg::Memory { memory: &memory, scalar: None, bytes: 36 }];
    let run = || device.run(&Launch::of(&beyond(), [1, 1, 1], &args).expect("a kernel"));
    run().expect("runs");
    assert_eq!(device.kernel_ns().expect("is there"), None);
    device.time_kernels(true);
    run().expect("runs");
    let ns = device.kernel_ns().expect("is there");
    if ns.is_none() && !is_required(driver) {
        return eprintln!("left out: {driver} has no clock");
    }
    assert!(ns.is_some_and(|ns| ns < 10_000_000_000), "{ns:?}");
    assert_eq!(device.kernel_ns().expect("is there"), Some(0));
    // With two it is not known whose times they are.
    device.time_kernels(true);
    assert_eq!(device.kernel_ns().expect("is there"), None);
    device.time_kernels(false);
    device.time_kernels(false);
    assert_eq!(device.kernel_ns().expect("is there"), None);
}
