//! The CPU device passes the conformance suite of every device.

use hetra_device::conformance::{Outcome, cases, check};
use hetra_device::{Device, Support};
use hetra_device_cpu::CpuDevice;
use hetra_tensor::DType;

/// f32 kernels round in another order than the reference.
const FLOAT: f64 = 2e-5;
/// Where the real value lies on the edge between two steps, one step of 255 may differ.
const QUANTISED: f64 = 1.01 / 100.0;

#[test]
fn every_claimed_operator_agrees_with_its_reference() {
    let device = CpuDevice::new(Some(2)).unwrap();
    let (mut by_kernel, mut failures) = (0, Vec::new());
    let all = cases(20_261_124, 12);
    for case in &all {
        let node = &case.graph.nodes[0];
        by_kernel += usize::from(device.supports(node, &case.graph) == Support::Kernel);
        let quantised = case.name.starts_with("Q") || case.inputs[0].dtype() == Some(DType::U8);
        let tolerance = if quantised { QUANTISED } else { FLOAT };
        if let Outcome::Failed(reason) = check(&device, case, tolerance) {
            failures.push(format!("{}: {reason}\n  {:?} {:?}", case.name, node.attrs, case.inputs));
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(by_kernel * 3 > all.len(), "only {by_kernel} of {} ran by a kernel", all.len());
}
