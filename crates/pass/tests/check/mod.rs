//! What all tests of passes do: run the graph before and after, compare, print.

#![allow(dead_code, reason = "not every test file uses all of it")]

use std::collections::BTreeSet;

use expect_test::Expect;
use hetra_ir::{Dim, Graph, Node, outline, parse, print, verify};
use hetra_ops::interpret;
use hetra_pass::{Claim, Options, Report, optimise};
use hetra_tensor::{DType, Tensor, Value, from_f64};

/// Extent of axes that have only a name.
const OPEN_EXTENT: usize = 3;

/// How far results may lie apart, relative to the largest one.
const TOLERANCE: f64 = 2e-5;

pub(crate) fn graph(text: &str) -> Graph {
    let graph = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    verify(&graph).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
    graph
}

/// Optimises with all passes; the graph after and the report are as expected; results agree; and
/// with `pass` off, `pass` does nothing.
pub(crate) fn check(pass: &str, text: &str, expect: Expect) {
    checked(pass, text, expect, &Options { claims: &first, ..Options::default() });
}

/// The same, for a device that has kernels for images with their channels last.
pub(crate) fn check_last(pass: &str, text: &str, expect: Expect) {
    checked(pass, text, expect, &Options::default());
}

/// The same, for a device that claims what `claims` says.
pub(crate) fn check_by(
    pass: &str,
    claims: &dyn Fn(&Node, &Graph) -> Claim,
    text: &str,
    expect: Expect,
) {
    checked(pass, text, expect, &Options { claims, ..Options::default() });
}

/// A device that has kernels for everything but images with their channels last.
fn first(node: &Node, _: &Graph) -> Claim {
    if node.op.starts_with("hetra.") { Claim::Reference } else { Claim::Kernel }
}

fn checked(pass: &str, text: &str, expect: Expect, options: &Options<'_>) {
    let before = graph(text);
    let (after, report) = optimise(&before, options);
    let mut shown = outline(&after);
    let own = report.pass(pass).unwrap_or_else(|| panic!("no pass `{pass}`"));
    for line in &own.rewrites {
        shown.push_str(&format!("{pass}: {line}\n"));
    }
    for line in &own.misses {
        shown.push_str(&format!("{pass}: not: {line}\n"));
    }
    expect.assert_eq(&shown);
    same_results(&before, &after);
    let off = Options { off: BTreeSet::from([pass.to_string()]), ..options.clone() };
    let (without, report) = optimise(&before, &off);
    assert!(report.pass(pass).is_none(), "`{pass}` is off");
    same_results(&before, &without);
}

/// Optimises for a device that does not claim `op`: nothing makes that operator.
pub(crate) fn check_unclaimed(text: &str, op: &str) {
    let before = graph(text);
    let claims = |node: &Node, _: &Graph| match node.op == op {
        true => Claim::No,
        false => Claim::Kernel,
    };
    let (after, report) = optimise(&before, &Options { claims: &claims, ..Options::default() });
    assert!(after.nodes.iter().all(|node| node.op != op), "{}", print(&after));
    let says = report.to_string().contains(&format!("does not claim {op}"));
    assert!(says, "{report}");
    same_results(&before, &after);
}

/// Optimises for a device that runs `op` by the reference only: it is made out of what the
/// reference would run, too, and not out of what the device has kernels for.
pub(crate) fn check_reference(text: &str, op: &str) {
    let before = graph(text);
    let made = |others: Claim| {
        let claims = |node: &Node, _: &Graph| match node.op == op {
            true => Claim::Reference,
            false => others,
        };
        let options = Options { claims: &claims, ..Options::default() };
        let (after, report) = optimise(&before, &options);
        same_results(&before, &after);
        let made = after.nodes.iter().any(|node| node.op == op);
        let says = report.to_string().contains(&format!("none for this form of {op}"));
        assert_ne!(made, says, "{report}");
        // What was made on the way to a fusion that is not done is gone.
        let used: BTreeSet<_> = after.nodes.iter().flat_map(Node::uses).collect();
        let stray = after.constants.keys().find(|id| !used.contains(id));
        assert_eq!(stray, None, "{}", print(&after));
        made
    };
    assert!(made(Claim::Reference), "{op} is not made where the reference runs all");
    assert!(!made(Claim::Kernel), "{op} is made in the place of kernels");
}

/// Optimises; for tests that look at the result themselves.
pub(crate) fn optimised(text: &str) -> (Graph, Report) {
    let before = graph(text);
    let (after, report) = optimise(&before, &Options { claims: &first, ..Options::default() });
    same_results(&before, &after);
    (after, report)
}

fn same_results(before: &Graph, after: &Graph) {
    verify(after).unwrap_or_else(|errors| panic!("{errors:?}\n{}", print(after)));
    assert_eq!(before.inputs.len(), after.inputs.len());
    for (index, &id) in before.outputs.iter().enumerate() {
        assert_eq!(before.value(id).name, after.value(after.outputs[index]).name);
    }
    for seed in 1..4 {
        let inputs: Vec<Value> =
            before.inputs.iter().map(|&id| input(before, id, seed).into()).collect();
        let run = |graph: &Graph| {
            interpret(graph, inputs.clone(), &|_| None)
                .unwrap_or_else(|error| panic!("{error}\n{}", print(graph)))
        };
        for (index, (a, b)) in run(before).iter().zip(&run(after)).enumerate() {
            close(a, b, &format!("output {index}\n{}", outline(after)));
        }
    }
}

/// A tensor of small numbers that fits the declared type.
fn input(graph: &Graph, id: hetra_ir::ValueId, seed: u64) -> Tensor {
    let ty = graph.ty(id).as_tensor().expect("inputs are tensors");
    let extent = |dim: &Dim| dim.known().unwrap_or(OPEN_EXTENT);
    let shape: Vec<usize> = ty.shape.as_ref().expect("of known rank").iter().map(extent).collect();
    let count = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(id.0);
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f64 / (1u64 << 23) as f64 - 1.0) * 3.0
    };
    let wide = matches!(ty.dtype, DType::U8 | DType::I8 | DType::I32);
    let scale = if wide { 40.0 } else { 1.0 };
    let values: Vec<f64> = (0..count).map(|_| next() * scale).collect();
    from_f64(ty.dtype, &shape, &values).expect("a dtype of numbers")
}

fn close(a: &Value, b: &Value, what: &str) {
    let (Some(a), Some(b)) = (a.as_tensor(), b.as_tensor()) else { return assert_eq!(a, b) };
    assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()), "{what}");
    let (p, q) = (hetra_tensor::to_f64(a).unwrap(), hetra_tensor::to_f64(b).unwrap());
    let size = p.iter().fold(1.0f64, |size, x| size.max(x.abs()));
    let step = match a.dtype() {
        // A quantised result may fall to the other side of a half.
        dtype if dtype.is_int() => 1.0,
        // One rounding in the place of some.
        DType::F16 => size * 2e-3,
        DType::BF16 => size * 2e-2,
        _ => size * TOLERANCE,
    };
    for (index, (x, y)) in p.iter().zip(&q).enumerate() {
        assert!((x - y).abs() <= step, "{what}: element {index} is {x}, then {y}");
    }
}
