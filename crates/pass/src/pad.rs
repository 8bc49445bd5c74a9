//! Zeros around an image are added by the operator that reads them:
//! `conv(pad(x, p), q) == conv(x, p + q)`, and the same of a mean that counts them.

use hetra_ir::{Attr, Node};

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static PAD: Pass = Pass {
    name: "pad",
    doc: "Joins a Pad of zeros and the Conv or AveragePool behind it.",
    run: |ed| ed.sweep(join),
};

fn join(ed: &mut Editor<'_>, at: usize) -> bool {
    let op = ed.node(at).op.clone();
    let average = op == "AveragePool";
    if !average && op != "Conv" && op != "com.microsoft.FusedConv" {
        return false;
    }
    let Some(padded) = ed.input(at, 0) else { return false };
    let Some(pad) = ed.made_by(padded, "Pad") else { return false };
    let Some(mut node) = joined(ed, at, pad, average) else { return false };
    let what = format!("Pad + {op}");
    if let Some(why) = ed.kept(padded) {
        ed.miss(at, &format!("{what}: {why}"));
        return false;
    }
    node.inputs[0] = ed.input(pad, 0);
    ed.fuse(at, node, &[pad], &what)
}

/// The node at `at` with what a Pad adds among its own pads, if it means the same.
fn joined(ed: &Editor<'_>, at: usize, pad: usize, average: bool) -> Option<Node> {
    let mut node = ed.node(at).clone();
    let rank = ed.rank(ed.input(pad, 0)?)?;
    let [begin, end] = zeros(ed, pad, rank)?;
    let spatial = rank.checked_sub(2)?;
    let own = match node.attrs.str_or("auto_pad", "NOTSET").ok()? {
        "NOTSET" | "" => node.attrs.ints_opt("pads").ok()?.cloned(),
        "VALID" => None,
        _ => return None,
    };
    let own = own.unwrap_or_else(|| vec![0; 2 * spatial]);
    if average {
        let counts = node.attrs.flag_or("count_include_pad", false).ok()?;
        let ceil = node.attrs.flag_or("ceil_mode", false).ok()?;
        // What lies beyond the pads is never counted, and what is beyond them would be another.
        if ceil || !counts && own.iter().any(|&pad| pad != 0) {
            return None;
        }
        node.attrs.set("count_include_pad", 1i64);
    }
    let more = [&begin[2..], &end[2..]].concat();
    let inner = begin[..2].iter().chain(&end[..2]).all(|&pad| pad == 0);
    if own.len() != more.len() || !inner || more.iter().any(|&pad| pad < 0) {
        return None;
    }
    let sums = own.iter().zip(&more).map(|(a, b)| a.checked_add(*b)).collect::<Option<Vec<_>>>()?;
    drop(node.attrs.take("auto_pad"));
    node.attrs.set("pads", Attr::Ints(sums));
    Some(node)
}

/// How many zeros a Pad puts before and behind each axis, if it does that.
fn zeros(ed: &Editor<'_>, pad: usize, rank: usize) -> Option<[Vec<i64>; 2]> {
    let node = ed.node(pad);
    if node.attrs.str_or("mode", "constant").ok()? != "constant" {
        return None;
    }
    let value = node.input(2).map_or(Some(vec![0.0]), |value| ed.reals(value))?;
    if value.iter().any(|&value| value != 0.0) {
        return None;
    }
    let given = ed.ints(node.input(1)?)?;
    let axes = match node.input(3) {
        Some(axes) => ed.ints(axes)?,
        None => (0..rank as i64).collect(),
    };
    if given.len() != 2 * axes.len() || rank < 2 {
        return None;
    }
    let mut pads = [vec![0; rank], vec![0; rank]];
    for (i, &axis) in axes.iter().enumerate() {
        let axis = hetra_ops::resolve_axis(axis, rank).ok()?;
        (pads[0][axis], pads[1][axis]) = (given[i], given[axes.len() + i]);
    }
    Some(pads)
}
