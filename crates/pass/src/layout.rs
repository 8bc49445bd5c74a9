//! Chains of transposes and reshapes: `transpose(transpose(x, p), q) == transpose(x, p[q])`,
//! `reshape(reshape(x)) == reshape(x)`, and a chain that ends in the shape it began with is
//! nothing at all.

use hetra_ir::{Dim, Node, ValueId};
use hetra_ops::{Kind, find};

use crate::editor::Editor;
use crate::noop::same_shape;
use crate::optimise::Pass;

pub(crate) static LAYOUT: Pass = Pass {
    name: "layout",
    doc: "Composes transposes, also across an elementwise operator between two of them, and \
          shortens chains of reshapes.",
    run: |ed| {
        ed.sweep(transpose);
        ed.sweep(reshape);
    },
};

/// The permutation of a Transpose.
fn perm_of(ed: &Editor<'_>, at: usize) -> Option<Vec<usize>> {
    let node = ed.node(at);
    match node.attrs.ints_opt("perm").ok()? {
        Some(perm) => perm.iter().map(|&axis| usize::try_from(axis).ok()).collect(),
        None => Some((0..ed.rank(node.input(0)?)?).rev().collect()),
    }
}

fn transpose(ed: &mut Editor<'_>, at: usize) -> bool {
    if !ed.is(at, "Transpose") {
        return false;
    }
    let (Some(inner), Some(outer_perm)) = (ed.input(at, 0), perm_of(ed, at)) else { return false };
    let Some(maker) = ed.producer(inner) else { return false };
    if ed.is(maker, "Transpose") {
        let (Some(x), Some(perm)) = (ed.input(maker, 0), composed(ed, maker, &outer_perm)) else {
            return false;
        };
        let node = Node { name: ed.node(at).name.clone(), ..turned(x, perm) };
        return ed.fuse(at, node, &[], "Transpose + Transpose");
    }
    across(ed, at, maker, &outer_perm)
}

/// Axis `i` of the result is axis `q[i]` between, which is axis `p[q[i]]` of the source.
fn composed(ed: &Editor<'_>, inner: usize, q: &[usize]) -> Option<Vec<i64>> {
    let p = perm_of(ed, inner)?;
    q.iter().map(|&axis| p.get(axis).map(|&axis| axis as i64)).collect()
}

fn turned(x: ValueId, perm: Vec<i64>) -> Node {
    Node::new("Transpose", &[x], &[]).with("perm", perm)
}

/// `transpose(f(transpose(x, p)), q) == transpose(f(x), p[q])` for `f` on each element.
fn across(ed: &mut Editor<'_>, at: usize, unary: usize, q: &[usize]) -> bool {
    let node = ed.node(unary).clone();
    let elementwise = find(&node.op).is_some_and(|def| def.kind == Kind::Elementwise);
    let (true, [Some(middle)], [Some(result)]) = (elementwise, &node.inputs[..], &node.outputs[..])
    else {
        return false;
    };
    let (middle, result) = (*middle, *result);
    let Some(first) = ed.made_by(middle, "Transpose") else { return false };
    if ed.kept(middle).is_some() || ed.kept(result).is_some() {
        return false;
    }
    let (Some(x), Some(perm)) = (ed.input(first, 0), composed(ed, first, q)) else { return false };
    let what = format!("Transpose + {} + Transpose", node.op);
    let ty = match (ed.dtype(result), ed.ty(x).dims()) {
        (Some(dtype), Some(dims)) => hetra_ir::Type::shaped(dtype, dims.to_vec()),
        _ => hetra_ir::Type::Unknown,
    };
    let moved = ed.value("", ty);
    let inner = Node { inputs: vec![Some(x)], outputs: vec![Some(moved)], ..node };
    ed.insert(at, inner);
    let outer = Node { name: ed.node(at).name.clone(), ..turned(moved, perm) };
    ed.fuse(at, outer, &[unary, first], &what)
}

/// Operators that change the shape only.
fn is_view(ed: &Editor<'_>, at: usize) -> bool {
    ["Reshape", "Flatten", "Squeeze", "Unsqueeze"].contains(&ed.node(at).op.as_str())
}

fn reshape(ed: &mut Editor<'_>, at: usize) -> bool {
    if !is_view(ed, at) {
        return false;
    }
    let Some(inner) = ed.input(at, 0) else { return false };
    let Some(maker) = ed.producer(inner).filter(|&maker| is_view(ed, maker)) else { return false };
    let (Some(source), Some(y)) = (ed.input(maker, 0), ed.node(at).output(0)) else { return false };
    let what = format!("{} + {}", ed.node(maker).op, ed.node(at).op);
    if same_shape(ed, source, y) {
        let label = ed.label(at);
        let done = ed.bypass(at, source);
        if done {
            ed.note(format!("removed {what} at {label}"));
        }
        return done;
    }
    // The shape that is asked for must not depend on the shape between: a 0 copies an extent.
    let shape = match ed.is(at, "Reshape") {
        true => ed.input(at, 1).and_then(|shape| ed.ints(shape)).filter(|s| !s.contains(&0)),
        false => shape_of(ed, y),
    };
    let Some(shape) = shape else { return false };
    let shape = ed.add_constant("shape", hetra_tensor::Tensor::vector(&shape));
    let node =
        Node { name: ed.node(at).name.clone(), ..Node::new("Reshape", &[source, shape], &[]) };
    ed.fuse(at, node, &[], &what)
}

/// A shape to ask for: known extents, and at most one that follows from the others.
fn shape_of(ed: &Editor<'_>, value: ValueId) -> Option<Vec<i64>> {
    let dims = ed.ty(value).dims()?;
    let open = dims.iter().filter(|dim| dim.known().is_none()).count();
    let zero = dims.contains(&Dim::Known(0));
    let extent = |dim: &Dim| dim.known().map_or(-1, |extent| extent as i64);
    (open <= 1 && !zero).then(|| dims.iter().map(extent).collect())
}
