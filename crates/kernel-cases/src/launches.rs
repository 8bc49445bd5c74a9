//! What every launcher must do, as tests of devices call it. All of it panics where it is not so.

use std::sync::Arc;

use hetra_device::{DeviceError, Launch, LaunchArg, Launcher, is_required};
use hetra_kernel::{Literal, Scalar, Source, f16, kernel};
use hetra_tensor::Held;

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
    let y = |bytes, scalar| [LaunchArg::Memory { memory: &memory, scalar, from: 0, bytes }];
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

/// A device of which all memory is taken says so, and goes on when it is given back; `other` goes
/// on meanwhile.
///
/// # Panics
/// Where it is not so.
pub fn check_exhaustion(device: &dyn Launcher, other: &dyn Launcher) {
    let block = device.limits().bytes_max.min(2 << 30);
    let mut taken = Vec::new();
    let error = loop {
        assert!(taken.len() < 1 << 16, "no end of memory");
        match device.alloc(block) {
            Ok(memory) => taken.push(memory),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, DeviceError::Memory { .. }), "{error}");
    for device in [other, device] {
        let memory = device.alloc(1024).unwrap_or_else(|_| {
            taken.clear();
            device.alloc(1024).expect("memory that was given back")
        });
        device.write(&*memory, &[7; 1024]).expect("writes");
        let mut bytes = [0; 1024];
        memory.read(&mut bytes).expect("reads");
        assert_eq!(bytes, [7; 1024]);
    }
}

#[kernel(group = [16])]
fn counted(n: u32, x: &[u32], counts: &[Atomic<u32>], least: &[Atomic<i32>]) {
    let i = global_id(0);
    if i < n {
        counts.fetch_add(x[i] % 4, 1);
        counts.fetch_or(4, 1 << (x[i] % 8));
        least.fetch_min(0, 5 - (x[i] as i32));
        least.fetch_max(1, x[i] as i32);
    }
}

#[kernel(group = [16])]
fn of_halves(x: &[f16], y: &mut [f16], z: &mut [f32]) {
    let i = global_id(0);
    let third = x[i] / (3.0 as f16);
    y[i] = third * x[i] + (i as f16);
    z[i] = third as f32;
}

#[kernel(group = [32])]
fn together(x: &[u32], sums: &mut [u32], most: &mut [u32]) {
    let i = global_id(0);
    sums[i] = subgroup_add(x[i]);
    most[i] = subgroup_max(x[i]);
}

/// Atomics, halves where the device has them, and subgroups.
///
/// # Panics
/// Where they are not what they should be.
pub fn check_language(device: &dyn Launcher) {
    let memory = |words: &[u32]| {
        let memory = device.alloc(words.len() * 4).expect("some memory");
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        device.write(&*memory, &bytes).expect("writes");
        memory
    };
    let read = |memory: &Arc<dyn Held>, count: usize| -> Vec<u32> {
        let mut bytes = vec![0; count * 4];
        memory.read(&mut bytes).expect("reads");
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let all = |memory: &'_ Arc<dyn Held>, scalar, bytes| (memory.clone(), Some(scalar), bytes);
    let run = |source: &Source, groups: u32, given: &[Given]| {
        let args: Vec<LaunchArg<'_>> = given.iter().map(Given::arg).collect();
        let launch = Launch::of(source, [groups, 1, 1], &args).expect("a kernel");
        device.launch(&launch).expect("is launched");
    };
    let x: Vec<u32> = (0..100).map(|i| (i * i + 3) % 41).collect();
    let from = memory(&x);
    let (counts, least) = (memory(&[0; 5]), memory(&[0; 2]));
    run(
        &counted(),
        7,
        &[
            Given::Count(100),
            Given::Memory(all(&from, Scalar::U32, 400)),
            Given::Memory(all(&counts, Scalar::U32, 20)),
            Given::Memory(all(&least, Scalar::I32, 8)),
        ],
    );
    let mut wanted = vec![0; 5];
    x.iter().for_each(|value| {
        wanted[(value % 4) as usize] += 1;
        wanted[4] |= 1 << (value % 8);
    });
    assert_eq!(read(&counts, 5), wanted);
    let most = x.iter().max().copied().unwrap_or(0);
    assert_eq!(read(&least, 2), [(5 - most as i32) as u32, most]);
    let (sums, greatest) = (memory(&[0; 64]), memory(&[0; 64]));
    let words = |memory| Given::Memory(all(memory, Scalar::U32, 256));
    run(&together(), 2, &[words(&from), words(&sums), words(&greatest)]);
    let (sums, greatest) = (read(&sums, 64), read(&greatest, 64));
    // Subgroups are neighbours, of one size; how many a device says only within bounds.
    let fits = |size: usize| {
        x[..64].chunks(size).zip(sums.chunks(size)).zip(greatest.chunks(size)).all(
            |((x, sums), greatest)| {
                let (sum, most) = (x.iter().sum(), x.iter().max().copied().unwrap_or(0));
                sums.iter().all(|own| *own == sum) && greatest.iter().all(|own| *own == most)
            },
        )
    };
    let sizes: Vec<usize> = [1, 2, 4, 8, 16, 32].into_iter().filter(|&size| fits(size)).collect();
    assert!(!sizes.is_empty(), "{sums:?} {greatest:?}");
    assert!(device.limits().subgroups || sizes == [1], "{sizes:?}");
    if device.limits().f16 {
        halves(device);
    }
}

/// An argument that the caller keeps.
enum Given {
    Count(u32),
    Memory((Arc<dyn Held>, Option<Scalar>, usize)),
}

impl Given {
    fn arg(&self) -> LaunchArg<'_> {
        match self {
            Given::Count(count) => LaunchArg::Value(Literal::new(*count)),
            Given::Memory((memory, scalar, bytes)) => {
                LaunchArg::Memory { memory, scalar: *scalar, from: 0, bytes: *bytes }
            }
        }
    }
}

fn halves(device: &dyn Launcher) {
    let x: Vec<f16> = (0..32).map(|i| f16::from_f32(i as f32 * 0.37 - 4.0)).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|half| half.to_le_bytes()).collect();
    let [from, y] = [(); 2].map(|()| device.alloc(64).expect("some memory"));
    let z = device.alloc(128).expect("some memory");
    device.write(&*from, &bytes).expect("writes");
    let memory =
        |memory, scalar, bytes| LaunchArg::Memory { memory, scalar: Some(scalar), from: 0, bytes };
    let args =
        [memory(&from, Scalar::F16, 64), memory(&y, Scalar::F16, 64), memory(&z, Scalar::F32, 128)];
    let source = of_halves();
    device.launch(&Launch::of(&source, [2, 1, 1], &args).expect("a kernel")).expect("is launched");
    let mut got = [0; 64];
    y.read(&mut got).expect("reads");
    for (i, (bytes, x)) in got.chunks_exact(2).zip(&x).enumerate() {
        let got = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        let third = f16::from_f32(x.to_f32() / 3.0).to_f32();
        let wanted = third * x.to_f32() + i as f32;
        // A quotient, a product and a sum, each rounded, or the last two once.
        assert!((got - wanted).abs() <= 3e-3 * wanted.abs().max(1.0), "{i}: {got}, {wanted}");
    }
    let mut got = [0; 128];
    z.read(&mut got).expect("reads");
    for (bytes, x) in got.chunks_exact(4).zip(&x) {
        let got = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        assert!((got - x.to_f32() / 3.0).abs() <= 2e-3, "{got} of {x}");
    }
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
            LaunchArg::Memory { memory: &x, scalar, from: 0, bytes: 80 },
            LaunchArg::Memory { memory: &y, scalar, from: 0, bytes: len * 4 },
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
    let args = [LaunchArg::Memory { memory: &y, scalar, from: 0, bytes: 28 }];
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
    let args = [LaunchArg::Memory { memory: &memory, scalar: None, from: 0, bytes: 36 }];
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
