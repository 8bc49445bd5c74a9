//! What follows a convolution element by element is done while its result is at hand:
//! `act(conv(x, w) + b + z) == FusedConv(x, w, b, z)`.

use hetra_ops::FusedActivation;

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static CONV_RESIDUAL: Pass = Pass {
    name: "conv_residual",
    doc: "Joins a Conv and the sum with a value of its shape into FusedConv.",
    run: |ed| ed.sweep(residual),
};

pub(crate) static CONV_ACTIVATION: Pass = Pass {
    name: "conv_activation",
    doc: "Joins a Conv and the activation behind it into FusedConv.",
    run: |ed| ed.sweep(activation),
};

const FUSED: &str = "com.microsoft.FusedConv";

/// Whether the node at this place is a convolution without an activation yet.
fn is_open(ed: &Editor<'_>, at: usize) -> bool {
    (ed.is(at, "Conv") || ed.is(at, FUSED)) && !ed.node(at).attrs.has("activation")
}

fn residual(ed: &mut Editor<'_>, at: usize) -> bool {
    if !ed.is(at, "Add") {
        return false;
    }
    let (Some(a), Some(b)) = (ed.input(at, 0), ed.input(at, 1)) else { return false };
    let conv_of = |value| {
        let maker = ed.producer(value)?;
        (is_open(ed, maker) && ed.input(maker, 3).is_none()).then_some(maker)
    };
    // Of two convolutions the later one takes the other's result.
    let candidates = [(conv_of(a), a, b), (conv_of(b), b, a)];
    let mut found: Vec<_> = candidates
        .into_iter()
        .filter_map(|(conv, own, z)| conv.map(|conv| (conv, own, z)))
        .collect();
    found.sort_by_key(|(conv, ..)| std::cmp::Reverse(*conv));
    let mut why = None;
    for (conv, own, z) in found {
        if let Some(reason) = ed.kept(own) {
            why = Some(reason);
        } else if !ed.same_dims(own, z) {
            why = Some("the residual may have another shape".to_string());
        } else {
            let mut node = ed.node(conv).clone();
            let what = format!("{} + Add", node.op);
            node.op = FUSED.to_string();
            node.inputs.resize(4, None);
            node.inputs[3] = Some(z);
            return ed.fuse(at, node, &[conv], &what);
        }
    }
    if let Some(why) = why {
        ed.miss(at, &format!("Conv + Add: {why}"));
    }
    false
}

fn activation(ed: &mut Editor<'_>, at: usize) -> bool {
    let Some(activation) = activation_of(ed, at) else { return false };
    let Some(x) = ed.input(at, 0) else { return false };
    let Some(conv) = ed.producer(x).filter(|&conv| is_open(ed, conv)) else { return false };
    let mut node = ed.node(conv).clone();
    let what = format!("{} + {}", node.op, ed.node(at).op);
    if let Some(why) = ed.kept(x) {
        ed.miss(at, &format!("{what}: {why}"));
        return false;
    }
    node.op = FUSED.to_string();
    activation.set(&mut node);
    ed.fuse(at, node, &[conv], &what)
}

/// The activation that a node applies to its first input, if a fused operator can apply it.
pub(crate) fn activation_of(ed: &Editor<'_>, at: usize) -> Option<FusedActivation> {
    let node = ed.node(at);
    let float = |name: &str, default: f32| node.attrs.float_or(name, default).ok();
    if !ed.is_float(node.input(0)?) {
        return None;
    }
    // A bound of a Clip that is not given does not bound.
    let bound = |index: usize, open: f32| match node.input(index) {
        None => Some(open),
        Some(bound) => match ed.reals(bound)?[..] {
            [bound] if f64::from(bound as f32) == bound => Some(bound as f32),
            _ => None,
        },
    };
    Some(match node.op.as_str() {
        "Relu" => FusedActivation::Relu,
        "LeakyRelu" => FusedActivation::LeakyRelu { alpha: float("alpha", 0.01)? },
        "Sigmoid" => FusedActivation::Sigmoid,
        "Tanh" => FusedActivation::Tanh,
        "Clip" => FusedActivation::Clip {
            min: bound(1, f32::NEG_INFINITY)?,
            max: bound(2, f32::INFINITY)?,
        },
        "HardSigmoid" => {
            FusedActivation::HardSigmoid { alpha: float("alpha", 0.2)?, beta: float("beta", 0.5)? }
        }
        "HardSwish" => FusedActivation::HardSwish,
        "Swish" if float("alpha", 1.0)? == 1.0 => FusedActivation::Silu,
        "Gelu" if node.attrs.str_or("approximate", "none").ok()? == "none" => FusedActivation::Gelu,
        "com.microsoft.Gelu" => FusedActivation::Gelu,
        _ => return None,
    })
}
