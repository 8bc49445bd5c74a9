//! A scale and a shift behind an activation are done while the result is at hand:
//! `a * act(conv(x, w)) + b` is one node, with the attributes of [`Epilogue`].

use hetra_ir::ValueId;
use hetra_ops::Epilogue;
use hetra_tensor::DType;

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static ACTIVATION_SCALE: Pass = Pass {
    name: "activation_scale",
    doc: "Joins a fused activation and the multiplication or sum with a constant number behind it.",
    run: |ed| ed.sweep(scale),
};

/// Operators that may end in an activation.
const FUSED: [&str; 3] =
    ["com.microsoft.FusedConv", "com.microsoft.FusedGemm", "com.microsoft.FusedMatMul"];

fn scale(ed: &mut Editor<'_>, at: usize) -> bool {
    let Some((x, a, b)) = affine(ed, at) else { return false };
    let fused = |&maker: &usize| {
        FUSED.iter().any(|op| ed.is(maker, op)) && ed.node(maker).attrs.has("activation")
    };
    let Some(maker) = ed.producer(x).filter(fused) else { return false };
    let mut node = ed.node(maker).clone();
    let Ok(old) = Epilogue::of(&node) else { return false };
    // The attributes are f32.
    if ed.dtype(x) != Some(DType::F32) {
        return false;
    }
    let what = format!("{} + {}", node.op, ed.node(at).op);
    if let Some(why) = ed.kept(x) {
        ed.miss(at, &format!("{what}: {why}"));
        return false;
    }
    let (scale, shift) = (f64::from(old.scale) * a, f64::from(old.shift) * a + b);
    if !(scale as f32).is_finite() || !(shift as f32).is_finite() {
        return false;
    }
    Epilogue::set_affine(&mut node, scale as f32, shift as f32);
    ed.fuse(at, node, &[maker], &what)
}

/// What a node computes, as `a * x + b` of one of its inputs.
fn affine(ed: &Editor<'_>, at: usize) -> Option<(ValueId, f64, f64)> {
    let (x, y) = (ed.input(at, 0)?, ed.input(at, 1)?);
    let op = ed.node(at).op.as_str();
    if let Some(c) = ed.scalar(y, x) {
        return match op {
            "Mul" => Some((x, c, 0.0)),
            "Div" if c != 0.0 => Some((x, 1.0 / c, 0.0)),
            "Add" => Some((x, 1.0, c)),
            "Sub" => Some((x, 1.0, -c)),
            _ => None,
        };
    }
    let c = ed.scalar(x, y)?;
    match op {
        "Mul" => Some((y, c, 0.0)),
        "Add" => Some((y, 1.0, c)),
        "Sub" => Some((y, -1.0, c)),
        _ => None,
    }
}
