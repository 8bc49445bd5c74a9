//! The CPU device passes the conformance suite of every device.

use hetra_device::conformance::suite;
use hetra_device_cpu::CpuDevice;

/// f32 kernels round in another order than the reference.
const FLOAT: f64 = 2e-5;

/// What is claimed and may still fall back, as the reason shows at run time only: products that are
/// too small, the shape of an output that nobody inferred, sums beyond f32, places in an image,
/// lengths that do not fit.
const OPEN: &[&str] = &[
    "Einsum",
    "Gemm",
    "ReduceL2",
    "Resize",
    "com.microsoft.BiasGelu",
    "com.microsoft.FastGelu",
    "com.microsoft.FusedMatMul",
];

#[test]
fn every_claimed_operator_agrees_with_its_reference() {
    let device = CpuDevice::new(Some(2)).unwrap();
    suite(&device, (20_261_124, 12), FLOAT, OPEN).unwrap_or_else(|failures| panic!("{failures}"));
}
