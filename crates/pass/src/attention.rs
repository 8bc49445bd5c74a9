//! `softmax(s * q kᵀ + mask) v == Attention(q, k, v, mask)`, for queries of four axes
//! (batch, head, row, feature). Where the mask closes every key of a query, Softmax gives NaN and
//! Attention 0.

use hetra_ir::{Dim, Node, Type, ValueId};
use hetra_tensor::DType;

use crate::editor::{Editor, broadcasts_to};
use crate::optimise::Pass;

pub(crate) static ATTENTION: Pass = Pass {
    name: "attention",
    doc: "Makes Attention out of the two products and the Softmax between them.",
    run: |ed| ed.sweep(attention),
};

/// What stands before the Softmax.
struct Scores {
    query: ValueId,
    /// Keys with their last two axes exchanged.
    turned_keys: ValueId,
    scale: f64,
    mask: Option<ValueId>,
    nodes: Vec<usize>,
}

fn attention(ed: &mut Editor<'_>, at: usize) -> bool {
    if !ed.is(at, "MatMul") {
        return false;
    }
    let (Some(weights), Some(values)) = (ed.input(at, 0), ed.input(at, 1)) else { return false };
    let Some(softmax) = ed.made_by(weights, "Softmax").filter(|&at| over_last(ed, at)) else {
        return false;
    };
    let Some(scores) = scores(ed, softmax) else { return false };
    let nodes: Vec<usize> = scores.nodes.iter().copied().chain([softmax, at]).collect();
    let why = ed.leak(at, &nodes).or_else(|| fits(ed, &scores, values).err());
    if let Some(why) = why {
        ed.miss(at, &format!("attention: {why}"));
        return false;
    }
    let Some((keys, turn)) = keys(ed, scores.turned_keys) else {
        ed.miss(at, "attention: the keys are not made by a Transpose");
        return false;
    };
    let mut node = Node::new("Attention", &[scores.query, keys, values], &[]);
    node.inputs.extend(scores.mask.map(Some));
    node.attrs.set("scale", scores.scale as f32);
    node.name = ed.node(at).name.clone();
    node.outputs = vec![ed.node(at).output(0)];
    if let Some(turn) = turn.filter(|_| ed.unclaimed(&node, &nodes).is_none()) {
        ed.insert(at, turn);
    }
    ed.fuse(at, node, &nodes, "attention")
}

/// Whether a Softmax is over the last of its four axes.
fn over_last(ed: &Editor<'_>, at: usize) -> bool {
    let node = ed.node(at);
    // Before opset 13 the axis was 1 when not said, and over all axes from there on.
    let default = if node.version >= 13 { -1 } else { 1 };
    matches!(node.attrs.int_or("axis", default), Ok(-1 | 3))
        && node.input(0).and_then(|x| ed.rank(x)) == Some(4)
}

fn scores(ed: &Editor<'_>, softmax: usize) -> Option<Scores> {
    let top = ed.input(softmax, 0)?;
    let product_of = |value: ValueId| {
        let (inner, scale, mut nodes) = ed.scaled(value);
        let product = ed.made_by(inner, "MatMul")?;
        nodes.push(product);
        Some((product, scale, nodes))
    };
    let mut mask = None;
    let mut found = product_of(top);
    if let (None, Some(add)) = (&found, ed.made_by(top, "Add")) {
        let (a, b) = (ed.input(add, 0)?, ed.input(add, 1)?);
        let (inner, other) = if product_of(a).is_some() { (a, b) } else { (b, a) };
        found = product_of(inner);
        mask = Some(other);
        found.iter_mut().for_each(|(_, _, nodes)| nodes.push(add));
    }
    let (product, mut scale, mut nodes) = found?;
    let query = ed.input(product, 0)?;
    let turned_keys = ed.input(product, 1)?;
    let mut operand = |value| {
        let (inner, factor, scaling) = ed.scaled(value);
        scale *= factor;
        nodes.extend(scaling);
        inner
    };
    let (query, turned_keys) = (operand(query), operand(turned_keys));
    Some(Scores { query, turned_keys, scale, mask, nodes })
}

/// Axes must agree one by one, where MatMul would also stretch them.
fn fits(ed: &Editor<'_>, scores: &Scores, values: ValueId) -> Result<(), String> {
    let dims = |value: ValueId| ed.ty(value).dims().filter(|dims| dims.len() == 4);
    let (Some(q), Some(k), Some(v)) = (dims(scores.query), dims(scores.turned_keys), dims(values))
    else {
        return Err("queries, keys and values do not all have four axes".to_string());
    };
    if q[..2] != k[..2] || q[..2] != v[..2] || q[..2].contains(&Dim::Unknown) {
        return Err("batches and heads may differ".to_string());
    }
    if !matches!(ed.dtype(scores.query), Some(DType::F32 | DType::F16 | DType::BF16)) {
        return Err("its dtype is not f32, f16 or bf16".to_string());
    }
    let Some(mask) = scores.mask else { return Ok(()) };
    let wanted = [&q[..3], &k[3..]].concat();
    let m = ed.ty(mask).dims().unwrap_or_default();
    // A mask that is short along the keys means something else to Attention.
    let last = m.last().is_some_and(|last| *last == wanted[3] && *last != Dim::Unknown);
    if !last || !broadcasts_to(m, &wanted) || m.len() < 2 {
        return Err("the mask may not fit the scores".to_string());
    }
    Ok(())
}

/// The keys as they are before their last axes are exchanged, and the Transpose that makes them
/// from what the file transposes, if one is left.
fn keys(ed: &mut Editor<'_>, turned: ValueId) -> Option<(ValueId, Option<Node>)> {
    let at = ed.made_by(turned, "Transpose")?;
    let source = ed.input(at, 0)?;
    let mut perm = ed.node(at).attrs.ints("perm").ok()?.clone();
    if perm.len() != 4 {
        return None;
    }
    perm.swap(2, 3);
    if perm == [0, 1, 2, 3] {
        return Some((source, None));
    }
    let dims = ed.ty(turned).dims()?;
    let dims = vec![dims[0].clone(), dims[1].clone(), dims[3].clone(), dims[2].clone()];
    let keys = ed.value("", Type::shaped(ed.dtype(turned)?, dims));
    let node = Node::new("Transpose", &[source], &[keys]).with("perm", perm);
    Some((keys, Some(node)))
}
