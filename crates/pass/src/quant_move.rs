//! Brings quantised operators together: `op(dq(x)) == dq(op(x))` for operators that only move
//! elements, `q(dq(x)) == x` for one scale, and `q(clip(x)) == q(x)` where the quantised range
//! ends before the clip does, as it saturates.

use hetra_ir::{Node, Type, ValueId};

use crate::editor::Editor;
use crate::optimise::Pass;
use crate::quant::{Quantised, quantiser, single};

pub(crate) static QUANT_MOVE: Pass = Pass {
    name: "quant_move",
    doc: "Moves DequantizeLinear behind operators that only move elements, and removes pairs and \
          clips that quantisation makes idle.",
    run: |ed| {
        ed.sweep(unclip);
        ed.sweep(move_behind);
        ed.sweep(cancel);
    },
};

/// Operators whose output holds elements of their first input only, whatever these mean.
pub(crate) const MOVES: &[&str] =
    &["Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather"];

/// Longest chain of movers between two quantised operators.
const CHAIN_MAX: usize = 8;

/// Whether a node may change places with a quantiser. MaxPool may as quantisation keeps the order.
fn is_mover(ed: &Editor<'_>, at: usize) -> bool {
    let moves = MOVES.contains(&ed.node(at).op.as_str()) || ed.is(at, "MaxPool");
    moves && ed.sole_output(at).is_some()
}

/// Whether all that reads a value quantises it, perhaps behind more movers.
fn leads_to_quantiser(ed: &Editor<'_>, value: ValueId, depth: usize) -> bool {
    let quantises = |&at: &usize| {
        ed.is(at, "QuantizeLinear")
            || (is_mover(ed, at)
                && ed.input(at, 0) == Some(value)
                && ed.node(at).output(0).is_some_and(|y| leads_to_quantiser(ed, y, depth + 1)))
    };
    let users = ed.users(value);
    depth < CHAIN_MAX && !users.is_empty() && !ed.is_output(value) && users.iter().all(quantises)
}

fn move_behind(ed: &mut Editor<'_>, at: usize) -> bool {
    if !is_mover(ed, at) {
        return false;
    }
    let (Some(real), Some(y)) = (ed.input(at, 0), ed.node(at).output(0)) else { return false };
    let Some(found) = single(ed, real) else { return false };
    // Elsewhere the float form is as good, and more devices have it.
    if ed.constant(found.codes).is_none() && !leads_to_quantiser(ed, y, 0) {
        return false;
    }
    let Some(dequantiser) = ed.producer(real).map(|at| ed.node(at).clone()) else { return false };
    let ty = match (ed.dtype(found.codes), ed.ty(y).dims()) {
        (Some(dtype), Some(dims)) => Type::shaped(dtype, dims.to_vec()),
        _ => Type::Unknown,
    };
    let mut moved = ed.node(at).clone();
    moved.inputs[0] = Some(found.codes);
    if let Some(why) = ed.unclaimed(&moved, &[at]) {
        ed.miss(at, &format!("{} of DequantizeLinear: {why}", moved.op));
        return false;
    }
    let codes = ed.value("", ty);
    moved.outputs = vec![Some(codes)];
    let what = format!("DequantizeLinear behind {}", moved.op);
    let mut behind = Node { name: String::new(), ..dequantiser };
    behind.inputs[0] = Some(codes);
    ed.insert(at, moved);
    ed.fuse(at, behind, &[], &what)
}

/// `q(dq(x)) == x`: what a code stands for is quantised to that code.
fn cancel(ed: &mut Editor<'_>, at: usize) -> bool {
    let Some(to) = quantiser(ed, at) else { return false };
    let Some(from) = ed.input(at, 0).and_then(|real| single(ed, real)) else { return false };
    let normal = from.scale.is_normal();
    let same = (from.scale, from.zero, from.dtype) == (to.scale, to.zero, to.dtype);
    if !same || !normal {
        return false;
    }
    let label = ed.label(at);
    let done = ed.bypass(at, from.codes);
    if done {
        ed.note(format!("removed DequantizeLinear + QuantizeLinear at {label}"));
    }
    done
}

/// A Relu or Clip before a quantiser that saturates no later than it does.
fn unclip(ed: &mut Editor<'_>, at: usize) -> bool {
    let Some(to) = quantiser(ed, at) else { return false };
    let Some(real) = ed.input(at, 0) else { return false };
    let Some(clip) = ed.producer(real) else { return false };
    let bound = |index: usize, open: f64| match ed.input(clip, index) {
        None => Some(open),
        Some(bound) => ed.reals(bound).filter(|values| values.len() == 1).map(|v| v[0]),
    };
    let range = match ed.node(clip).op.as_str() {
        "Relu" => Some((0.0, f64::INFINITY)),
        "Clip" => bound(1, f64::NEG_INFINITY).zip(bound(2, f64::INFINITY)),
        _ => return false,
    };
    let (Some((low, high)), Some(x)) = (range, ed.input(clip, 0)) else { return false };
    let what = format!("{} + QuantizeLinear", ed.node(clip).op);
    if !saturates_within(&to, low, high) {
        ed.miss(at, &format!("{what}: the quantised range goes beyond the clip"));
        return false;
    }
    if let Some(why) = ed.kept(real) {
        ed.miss(at, &format!("{what}: {why}"));
        return false;
    }
    let mut node = ed.node(at).clone();
    node.inputs[0] = Some(x);
    ed.fuse(at, node, &[clip], &what)
}

/// Whether the ends of the clip are quantised to the ends of the codes.
fn saturates_within(to: &Quantised, low: f64, high: f64) -> bool {
    let Some((least, most)) = to.dtype.int_range() else { return false };
    let code = |real: f64| (real / f64::from(to.scale)).round_ties_even() + to.zero as f64;
    to.scale > 0.0 && low <= high && code(low) <= least as f64 && code(high) >= most as f64
}
