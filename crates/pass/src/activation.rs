//! Activations that files spell out become one operator each:
//! `x * sigmoid(a * x) == Swish(x)`, `x * clip(x + 3, 0, 6) / 6 == HardSwish(x)`,
//! `x * (erf(x / sqrt(2)) + 1) / 2 == Gelu(x)`.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

use hetra_ir::{Node, ValueId};
use hetra_tensor::DType;

use crate::editor::Editor;
use crate::optimise::Pass;
use crate::pattern::{Match, Pat, any, op, x};

pub(crate) static ACTIVATION: Pass = Pass {
    name: "activation",
    doc: "Makes Swish, HardSwish and Gelu out of the arithmetic that spells them.",
    run: |ed| ed.sweep(activation),
};

fn activation(ed: &mut Editor<'_>, at: usize) -> bool {
    // All of them end in a product or a quotient.
    if !ed.is(at, "Mul") && !ed.is(at, "Div") {
        return false;
    }
    swish(ed, at) || hard_swish(ed, at) || gelu(ed, at)
}

/// Whether the activation has the shape of its input: a constant in the formula may have axes
/// of its own.
fn fits(ed: &Editor<'_>, at: usize, x: ValueId) -> bool {
    let y = ed.node(at).output(0);
    ed.is_float(x) && ed.rank(x).is_some() && y.is_some_and(|y| ed.rank(y) == ed.rank(x))
}

fn make(ed: &mut Editor<'_>, at: usize, found: &Match, node: Node, what: &str) -> bool {
    if !fits(ed, at, found.value("x")) {
        return false;
    }
    let mut node = node;
    node.name = ed.node(at).name.clone();
    ed.fuse(at, node, &found.nodes, what)
}

fn swish(ed: &mut Editor<'_>, at: usize) -> bool {
    let what = "x * Sigmoid(x)";
    let pattern = x() * op("Sigmoid", [any("inner")]).node("sigmoid");
    let Some(mut found) = ed.find(at, &pattern) else { return false };
    let (value, alpha, scaling) = ed.scaled(found.value("inner"));
    // Unless both are the same x, this is a gate and no activation.
    if value != found.value("x") {
        return false;
    }
    found.nodes.extend(scaling);
    if let Some(why) = ed.leak(at, &found.nodes) {
        ed.miss(at, &format!("{what}: {why}"));
        return false;
    }
    let mut node = Node::new("Swish", &[value], &[]);
    // An attribute is an f32: wider numbers would lose digits.
    if ed.dtype(value) == Some(DType::F64) && f64::from(alpha as f32) != alpha {
        return false;
    }
    if alpha != 1.0 {
        node.attrs.set("alpha", alpha as f32);
    }
    make(ed, at, &found, node, what)
}

fn hard_swish(ed: &mut Editor<'_>, at: usize) -> bool {
    let clip = op("Clip", [x() + 3.0, Pat::Num(0.0), Pat::Num(6.0)]);
    let spelt = x() * clip / 6.0;
    if let Some(found) = ed.find_closed(at, &spelt, "x * Clip(x + 3, 0, 6) / 6") {
        let node = Node::new("HardSwish", &[found.value("x")], &[]);
        return make(ed, at, &found, node, "x * Clip(x + 3, 0, 6) / 6");
    }
    let gated = x() * op("HardSigmoid", [x()]).node("gate");
    let Some(found) = ed.find(at, &gated) else { return false };
    let gate = ed.node(found.node("gate"));
    let about = |name: &str, default: f32, wanted: f32| {
        gate.attrs.float_or(name, default).is_ok_and(|value| (value - wanted).abs() < 1e-6)
    };
    if !about("alpha", 0.2, 1.0 / 6.0) || !about("beta", 0.5, 0.5) {
        return false;
    }
    let Some(found) = ed.find_closed(at, &gated, "x * HardSigmoid(x)") else { return false };
    let node = Node::new("HardSwish", &[found.value("x")], &[]);
    make(ed, at, &found, node, "x * HardSigmoid(x)")
}

fn gelu(ed: &mut Editor<'_>, at: usize) -> bool {
    let exact = x() * (op("Erf", [x() * FRAC_1_SQRT_2]) + 1.0) * 0.5;
    if let Some(found) = ed.find_closed(at, &exact, "Gelu") {
        let node = Node::new("Gelu", &[found.value("x")], &[]);
        return make(ed, at, &found, node, "x * (Erf(x / sqrt 2) + 1) / 2");
    }
    // sqrt(2 / pi), and times the cubic term's factor.
    let root = FRAC_2_SQRT_PI / SQRT_2;
    let cube = || x() * x() * x() * 0.044715;
    let factored = x() * (x() * x() * 0.044715 + 1.0) * root;
    for inner in [(x() + cube()) * root, factored] {
        let tanh = x() * (op("Tanh", [inner]) + 1.0) * 0.5;
        if let Some(found) = ed.find_closed(at, &tanh, "Gelu by Tanh") {
            let node = Node::new("Gelu", &[found.value("x")], &[]).with("approximate", "tanh");
            return make(ed, at, &found, node, "x * (Tanh(..) + 1) / 2");
        }
    }
    false
}
