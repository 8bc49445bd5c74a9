//! The CPU device passes the conformance suite of every device.

use std::collections::BTreeSet;

use hetra_device::conformance::{Outcome, cases, check};
use hetra_device::{Device, Support};
use hetra_device_cpu::CpuDevice;
use hetra_ops::interpret;

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
    // Kinds of cases of which some is claimed, and those whose kernel ran in some case.
    let (mut claimed, mut ran) = (BTreeSet::new(), BTreeSet::new());
    let mut failures = Vec::new();
    for case in &cases(20_261_124, 12) {
        let node = &case.graph.nodes[0];
        let claims = device.supports(node, &case.graph) == Support::Kernel;
        if claims {
            claimed.insert((node.op.clone(), case.name.clone()));
        }
        match check(&device, case, FLOAT) {
            Outcome::Passed { kernel, .. } if kernel != "reference" => {
                ran.insert((node.op.clone(), case.name.clone()));
            }
            Outcome::Passed { .. } if claims && !OPEN.contains(&node.op.as_str()) => {
                // An error is the reference's to report, and what is empty is its to make.
                let want = interpret(&case.graph, case.inputs.clone(), &|_| None);
                if want.is_ok_and(|want| want.iter().all(|value| value.byte_len() > 0)) {
                    let types = case.graph.values.iter().map(|value| value.ty.to_string());
                    let types = types.collect::<Vec<_>>().join(" ");
                    failures.push(format!("{} fell back: {:?} {types}", case.name, node.attrs));
                }
            }
            Outcome::Passed { .. } | Outcome::Refused(_) => {}
            Outcome::Failed(reason) => {
                let inputs = format!("{:?} {:?}", node.attrs, case.inputs);
                failures.push(format!("{}: {reason}\n  {inputs}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    let never: Vec<_> = claimed.difference(&ran).collect();
    assert!(never.is_empty(), "the kernels of these never ran: {never:?}");
}
