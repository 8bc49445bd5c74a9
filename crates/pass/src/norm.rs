//! Normalisations that files spell out become one operator each. With `d = x - mean(x)`:
//! `d / sqrt(mean(d * d) + e) * g + b == LayerNormalization(x, g, b)`, without the mean
//! `x / sqrt(mean(x * x) + e) * g == RMSNormalization(x, g)`, and the sum before one goes into
//! `SkipLayerNormalization`.

use hetra_ir::{Dim, Node, ValueId};
use hetra_ops::resolve_axis;
use hetra_tensor::{DType, Tensor, from_f64};

use crate::editor::Editor;
use crate::optimise::Pass;
use crate::pattern::{Match, Pat, inverse, op, scalar, x};

pub(crate) static LAYER_NORM: Pass = Pass {
    name: "layer_norm",
    doc: "Makes LayerNormalization and RMSNormalization out of the arithmetic that spells them.",
    run: |ed| ed.sweep(layer_norm),
};

pub(crate) static SKIP_LAYER_NORM: Pass = Pass {
    name: "skip_layer_norm",
    doc: "Joins the sum of two values of one shape and the normalisation behind it.",
    run: |ed| ed.sweep(skip),
};

fn mean(of: Pat, name: &'static str) -> Pat {
    op("ReduceMean", [of]).node(name)
}

fn layer_norm(ed: &mut Editor<'_>, at: usize) -> bool {
    if !ed.is(at, "Div") && !ed.is(at, "Mul") {
        return false;
    }
    let d = || op("Sub", [x(), mean(x(), "mean")]);
    let deviation = || op("Sqrt", [mean(d() * d(), "variance") + scalar("epsilon")]);
    if let Some(found) = ed.find(at, &(d() * inverse(deviation()))) {
        return normalise(ed, at, found, "LayerNormalization", &["mean", "variance"]);
    }
    let root = op("Sqrt", [mean(x() * x(), "variance") + scalar("epsilon")]);
    match ed.find(at, &(x() * inverse(root))) {
        Some(found) => normalise(ed, at, found, "RMSNormalization", &["variance"]),
        None => false,
    }
}

/// Number of trailing axes that a ReduceMean reduces and keeps as ones, if it is such.
fn trailing_axes(ed: &Editor<'_>, at: usize) -> Option<usize> {
    let node = ed.node(at);
    let rank = ed.rank(node.input(0)?)?;
    let axes = match node.input(1) {
        Some(axes) => ed.ints(axes)?,
        None => node.attrs.ints_opt("axes").ok()??.clone(),
    };
    let mut axes: Vec<usize> =
        axes.iter().map(|&axis| resolve_axis(axis, rank).ok()).collect::<Option<_>>()?;
    axes.sort_unstable();
    let first = rank.checked_sub(axes.len())?;
    let trailing = !axes.is_empty() && axes.iter().copied().eq(first..rank);
    let keeps = node.attrs.flag_or("keepdims", true).ok()?;
    (trailing && keeps).then_some(axes.len())
}

fn normalise(ed: &mut Editor<'_>, at: usize, mut found: Match, op: &str, means: &[&str]) -> bool {
    let x = found.value("x");
    let counts: Vec<_> = means.iter().map(|name| trailing_axes(ed, found.node(name))).collect();
    let Some(count) = counts[0].filter(|_| counts.iter().all(|count| *count == counts[0])) else {
        ed.miss(at, &format!("{op}: its means are not over the last axes"));
        return false;
    };
    if let Some(why) = ed.leak(at, &found.nodes) {
        ed.miss(at, &format!("{op}: {why}"));
        return false;
    }
    let Some(epsilon) = ed.reals(found.value("epsilon")).map(|values| values[0]) else {
        return false;
    };
    // Scale and bias stand behind, each used on its own.
    let mut root = at;
    let scale = operand_behind(ed, &mut root, &mut found, "Mul", x, count);
    let bias = match op {
        "LayerNormalization" if scale.is_some() => {
            operand_behind(ed, &mut root, &mut found, "Add", x, count)
        }
        _ => None,
    };
    let Some(scale) = scale.or_else(|| ones(ed, x, count)) else {
        ed.miss(at, &format!("{op}: it has no scale, and its axes are not known"));
        return false;
    };
    let mut node = Node::new(op, &[x, scale], &[]);
    node.inputs.extend(bias.map(Some));
    node.attrs.set("axis", -(count as i64));
    node.attrs.set("epsilon", epsilon as f32);
    node.name = ed.node(root).name.clone();
    ed.fuse(root, node, &found.nodes, op)
}

/// The other operand of the only node behind `root`, when it is of this operator and the operand
/// has exactly the normalised axes (ones before them, in a constant, are taken off).
fn operand_behind(
    ed: &mut Editor<'_>,
    root: &mut usize,
    found: &mut Match,
    op: &str,
    x: ValueId,
    count: usize,
) -> Option<ValueId> {
    let value = ed.sole_output(*root)?;
    let next = ed.only_user(value).filter(|&next| ed.is(next, op))?;
    let (a, b) = (ed.input(next, 0)?, ed.input(next, 1)?);
    let other = if a == value { b } else { a };
    let wanted = trailing(ed, x, count)?;
    let dims = ed.ty(other).dims()?.to_vec();
    let lead = dims.len().checked_sub(count)?;
    if dims[lead..] != wanted[..] || wanted.contains(&Dim::Unknown) {
        return None;
    }
    let operand = if lead == 0 {
        other
    } else {
        let shape = wanted.iter().map(Dim::known).collect::<Option<Vec<usize>>>()?;
        // More axes than x would stretch it.
        let flat = ed.constant(other).filter(|_| ed.rank(x) >= Some(dims.len()))?.reshape(&shape);
        let name = ed.graph().value(other).name.clone();
        ed.add_constant(&name, flat.ok()?)
    };
    found.nodes.push(*root);
    *root = next;
    Some(operand)
}

fn trailing(ed: &Editor<'_>, x: ValueId, count: usize) -> Option<Vec<Dim>> {
    let dims = ed.ty(x).dims()?;
    Some(dims[dims.len().checked_sub(count)?..].to_vec())
}

fn ones(ed: &mut Editor<'_>, x: ValueId, count: usize) -> Option<ValueId> {
    let shape: Vec<usize> =
        trailing(ed, x, count)?.iter().map(Dim::known).collect::<Option<_>>()?;
    let elements = hetra_tensor::element_count(&shape).ok()?;
    let dtype: DType = ed.dtype(x)?;
    let tensor: Tensor = from_f64(dtype, &shape, &vec![1.0; elements]).ok()?;
    Some(ed.add_constant("ones", tensor))
}

fn skip(ed: &mut Editor<'_>, at: usize) -> bool {
    let fused = match ed.node(at).op.as_str() {
        "LayerNormalization" => "com.microsoft.SkipLayerNormalization",
        "RMSNormalization" => "com.microsoft.SkipSimplifiedLayerNormalization",
        _ => return false,
    };
    let Some(sum) = ed.input(at, 0) else { return false };
    let (Some(add), Some(y)) = (ed.made_by(sum, "Add"), ed.sole_output(at)) else { return false };
    let (Some(a), Some(b)) = (ed.input(add, 0), ed.input(add, 1)) else { return false };
    let old = ed.node(at).clone();
    let axis = old.attrs.int_or("axis", -1).unwrap_or(0);
    let rank = ed.rank(sum).unwrap_or(0);
    let last = axis == -1 || (axis >= 0 && axis + 1 == rank as i64);
    // The operator is for batches of rows.
    if !last || !(2..=3).contains(&rank) || !ed.same_dims(a, b) {
        ed.miss(at, &format!("Add + {}: not the sum of two values of one shape", old.op));
        return false;
    }
    let mut node = Node::new(fused, &[a, b], &[]);
    node.inputs.extend(old.inputs.iter().skip(1).copied());
    node.attrs.set("epsilon", old.attrs.float_or("epsilon", 1e-5).unwrap_or(1e-5));
    node.name = old.name.clone();
    node.outputs = vec![Some(y)];
    if ed.users(sum).iter().any(|&user| user != at) || ed.is_output(sum) {
        // What else reads the sum finds it in the fourth output.
        node.outputs.extend([None, None, Some(sum)]);
    }
    if let Some(why) = ed.unclaimed(&node, &[add, at]) {
        ed.miss(at, &format!("Add + {}: {why}", old.op));
        return false;
    }
    let label = ed.label(at);
    ed.remove(add);
    ed.set(at, node);
    ed.note(format!("fused Add + {} at {label}", old.op));
    true
}
