//! How operators that work in any order of axes take over the order in which their inputs are
//! stored: `f(transpose(x, p)) == transpose(g(x), p)`, where `g` is `f` with its axes renamed.

use hetra_ir::{Attr, Dim, Node, ValueId};
use hetra_ops::{Kind, find};
use hetra_tensor::{DType, Tensor, from_f64};

use crate::channels::{Affine, normalisation};
use crate::channels_last::{Stored, inverse, is_identity};
use crate::editor::Editor;
use crate::regroup::regroup;

/// Elementwise on codes; scales and zero points are single numbers.
const CODEWISE: &[&str] = &[
    "com.microsoft.QLinearAdd",
    "com.microsoft.QLinearMul",
    "com.microsoft.QLinearSigmoid",
    "com.microsoft.QLinearLeakyRelu",
];

/// Lets the node at `at` work on its inputs as they are stored; false when it needs ONNX's order.
pub(crate) fn follow(ed: &mut Editor<'_>, stored: &mut Stored, at: usize) -> bool {
    let node = ed.node(at);
    let Some(perm) = node.uses().find_map(|id| stored.order(id)).map(<[usize]>::to_vec) else {
        return false;
    };
    let elementwise = find(&node.op).is_some_and(|def| def.kind == Kind::Elementwise)
        || CODEWISE.contains(&node.op.as_str());
    let views = ["Reshape", "Flatten", "Squeeze", "Unsqueeze"];
    match node.op.as_str() {
        "Transpose" => transposed(ed, stored, at),
        "Shape" => shape(ed, stored, at, &perm),
        "BatchNormalization" => normalised(ed, stored, at, &perm),
        op if views.contains(&op) => reshaped(ed, stored, at, &perm),
        _ if elementwise => spread(ed, stored, at, &perm),
        _ => renamed(ed, stored, at, &perm).is_some(),
    }
}

/// A transpose of what is stored in another order is another order of the same.
fn transposed(ed: &mut Editor<'_>, stored: &mut Stored, at: usize) -> bool {
    let (Some(x), Some(y)) = (ed.input(at, 0), ed.node(at).output(0)) else { return false };
    let Some(made) = stored.order(x).map(<[usize]>::to_vec) else { return false };
    let Ok(perm) = ed.node(at).attrs.ints_opt("perm") else { return false };
    let perm: Vec<usize> = match perm {
        Some(perm) => perm.iter().map(|&axis| axis as usize).collect(),
        None => (0..made.len()).rev().collect(),
    };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if perm.len() != made.len() || !is_identity(&sorted) {
        return false;
    }
    // Axis i of the result is axis perm[i] of x.
    let place = inverse(&perm);
    let order: Vec<usize> = made.iter().map(|&axis| place[axis]).collect();
    let copy = stored.get(ed, x, &made, at);
    if is_identity(&order) {
        return ed.bypass(at, copy);
    }
    ed.remove(at);
    stored.is(y, &order, copy);
    true
}

/// The shape of what is stored in another order, put in ONNX's.
fn shape(ed: &mut Editor<'_>, stored: &mut Stored, at: usize, perm: &[usize]) -> bool {
    let (Some(x), Some(y)) = (ed.input(at, 0), ed.node(at).output(0)) else { return false };
    if ed.node(at).attrs.has("start") || ed.node(at).attrs.has("end") {
        return false;
    }
    let copy = stored.get(ed, x, perm, at);
    let of_copy = ed.value("", ed.ty(y).clone());
    ed.insert(at, Node::new("Shape", &[copy], &[of_copy]));
    let place: Vec<i64> = inverse(perm).iter().map(|&axis| axis as i64).collect();
    let place = ed.add_constant("order", Tensor::vector(&place));
    ed.set(at, Node::new("Gather", &[of_copy, place], &[y]));
    true
}

/// A normalisation by constants, as a product and a sum: ONNX's operator has the channels second.
fn normalised(ed: &mut Editor<'_>, stored: &mut Stored, at: usize, perm: &[usize]) -> bool {
    let (Some(x), Some(y)) = (ed.input(at, 0), ed.sole_output(at)) else { return false };
    let Some(place) = perm.iter().position(|&axis| axis == 1) else { return false };
    if ed.rank(y) != Some(perm.len()) || ed.dtype(x) != Some(DType::F32) {
        return false;
    }
    let Ok(Affine { scale, shift }) = normalisation(ed, at) else { return false };
    let mut shape = vec![1; perm.len()];
    shape[place] = scale.len();
    let tensors = [&scale, &shift].map(|numbers| from_f64(DType::F32, &shape, numbers));
    let [Ok(scale), Ok(shift)] = tensors else { return false };
    let name = ed.node(at).name.clone();
    let from = stored.get(ed, x, perm, at);
    let [scale, shift] = [("scale", scale), ("shift", shift)].map(|(n, t)| ed.add_constant(n, t));
    let out = stored.stand_in(ed, y, perm);
    let scaled = ed.value("", ed.ty(out).clone());
    ed.insert(at, Node::new("Mul", &[from, scale], &[scaled]));
    ed.set(at, Node { name, ..Node::new("Add", &[scaled, shift], &[out]) });
    true
}

/// A change of shape that keeps, splits or joins axes which lie side by side.
fn reshaped(ed: &mut Editor<'_>, stored: &mut Stored, at: usize, perm: &[usize]) -> bool {
    let (Some(x), Some(y)) = (ed.input(at, 0), ed.node(at).output(0)) else { return false };
    let (Some(before), Some(after)) = (ed.ty(x).dims(), ed.ty(y).dims()) else { return false };
    if stored.order(x).is_none() {
        return false;
    }
    let plan = regroup(before, after, perm);
    let dims: Vec<Dim> = plan.to.iter().map(|&axis| after[axis].clone()).collect();
    let open = dims.iter().filter(|dim| dim.known().is_none()).count();
    if is_identity(&plan.from) || open > 1 || dims.contains(&Dim::Known(0)) {
        return false;
    }
    let extents: Vec<i64> =
        dims.iter().map(|dim| dim.known().map_or(-1, |extent| extent as i64)).collect();
    let from = stored.get(ed, x, &plan.from, at);
    let wanted = ed.add_constant("shape", Tensor::vector(&extents));
    let y = match is_identity(&plan.to) {
        true => y,
        false => stored.stand_in(ed, y, &plan.to),
    };
    let name = ed.node(at).name.clone();
    ed.set(at, Node { name, ..Node::new("Reshape", &[from, wanted], &[y]) });
    true
}

/// Elementwise, with broadcasting: all operands in one order.
fn spread(ed: &mut Editor<'_>, stored: &mut Stored, at: usize, perm: &[usize]) -> bool {
    let Some(y) = ed.sole_output(at) else { return false };
    if ed.rank(y) != Some(perm.len()) || ed.node(at).attrs.has("axis") {
        return false;
    }
    let inputs = ed.node(at).inputs.clone();
    let fits = |ed: &Editor<'_>, id: ValueId| {
        let Some(dims) = ed.ty(id).dims() else { return false };
        let flat = dims.iter().all(|dim| *dim == Dim::Known(1));
        dims.len() == perm.len() || (dims.len() < perm.len() && (flat || ed.constant(id).is_some()))
    };
    if !inputs.iter().flatten().all(|&id| fits(ed, id)) {
        return false;
    }
    let mut node = ed.node(at).clone();
    for id in node.inputs.iter_mut().flatten() {
        *id = operand(ed, stored, *id, perm, at);
    }
    node.outputs = vec![Some(stored.stand_in(ed, y, perm))];
    ed.set(at, node);
    true
}

/// An operand of as many axes as the result, or a constant of fewer, or one number.
fn operand(
    ed: &mut Editor<'_>,
    stored: &mut Stored,
    id: ValueId,
    perm: &[usize],
    at: usize,
) -> ValueId {
    let rank = ed.rank(id).unwrap_or(perm.len());
    let ones = |ed: &Editor<'_>| {
        ed.ty(id).dims().is_some_and(|dims| dims.iter().all(|dim| *dim == Dim::Known(1)))
    };
    if rank == perm.len() && !(ed.constant(id).is_some() && ones(ed)) {
        return stored.get(ed, id, perm, at);
    }
    if ones(ed) {
        return id;
    }
    let wide = ed.constant(id).and_then(|tensor| {
        let shape = [&vec![1; perm.len() - rank][..], tensor.shape()].concat();
        let wide = tensor.reshape(&shape).ok()?;
        wide.view().permute(perm).ok()?.to_tensor().ok()
    });
    let name = format!("{}.last", ed.graph().value(id).name);
    wide.map_or(id, |tensor| ed.add_constant(&name, tensor))
}

/// Operators that name axes: the names change.
fn renamed(ed: &mut Editor<'_>, stored: &mut Stored, at: usize, perm: &[usize]) -> Option<()> {
    let mut node = ed.node(at).clone();
    let rank = perm.len();
    let place = inverse(perm);
    let axis_of = |axis: i64| -> Option<usize> {
        let axis = if axis < 0 { axis + rank as i64 } else { axis };
        place.get(usize::try_from(axis).ok()?).copied()
    };
    // The inputs that are stored in this order; the others stay as they are.
    let mut operands = vec![0];
    let mut order = perm.to_vec();
    match node.op.as_str() {
        "Concat" | "hetra.GatherConcat" | "com.microsoft.QLinearConcat" => {
            // In turn codes, scale and zero point, behind those of the output.
            let codes = node.op == "com.microsoft.QLinearConcat";
            let (first, step) = if codes { (2, 3) } else { (0, 1) };
            operands = (first..node.inputs.len()).step_by(step).collect();
            let axis = axis_of(*node.attrs.int_opt("axis").ok()??)?;
            node.attrs.set("axis", axis as i64);
        }
        // Before version 13 all axes from the one named are one.
        "Softmax" | "LogSoftmax" | "Hardmax" if node.version < 13 => return None,
        "Split" | "Softmax" | "LogSoftmax" | "Hardmax" => {
            let default = if node.op == "Split" { 0 } else { -1 };
            let axis = axis_of(node.attrs.int_or("axis", default).ok()?)?;
            node.attrs.set("axis", axis as i64);
        }
        // Its table stays as it is.
        "hetra.CodeTable" => {}
        "Slice" => slice(ed, &mut node, rank, axis_of)?,
        "Pad" => pad(ed, &mut node, perm)?,
        "Resize" => resize(ed, &mut node, perm)?,
        "QuantizeLinear" | "DequantizeLinear" => {
            let scale = node.input(1)?;
            let one = ed.ty(scale).known_shape()?.iter().product::<usize>() == 1;
            if node.attrs.int_or("block_size", 0).ok()? != 0 {
                return None;
            }
            if !one {
                let axis = axis_of(node.attrs.int_or("axis", 1).ok()?)?;
                node.attrs.set("axis", axis as i64);
            }
        }
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL2" | "ReduceProd" => {
            order = reduce(ed, &mut node, perm, axis_of)?;
        }
        _ => return None,
    }
    let inputs: Vec<ValueId> =
        operands.iter().map(|&index| node.input(index)).collect::<Option<_>>()?;
    let there = inputs.iter().filter(|id| stored.order(**id) == Some(perm)).count();
    let fits = inputs.iter().all(|&id| ed.rank(id) == Some(rank));
    if !fits || 2 * there < inputs.len() || there == 0 {
        return None;
    }
    let outputs: Vec<ValueId> = node.outputs.iter().copied().collect::<Option<_>>()?;
    // Asked of a node that is there in type only.
    let mut asked = node.clone();
    for (&index, &id) in operands.iter().zip(&inputs) {
        asked.inputs[index] = Some(ed.value("", crate::channels_last::turned(ed.ty(id), perm)));
    }
    if ed.unclaimed(&asked, &[at]).is_some() {
        return None;
    }
    for (&index, &id) in operands.iter().zip(&inputs) {
        node.inputs[index] = Some(stored.get(ed, id, perm, at));
    }
    let identity = is_identity(&order);
    node.outputs = outputs
        .into_iter()
        .map(|y| Some(if identity { y } else { stored.stand_in(ed, y, &order) }))
        .collect();
    ed.set(at, node);
    Some(())
}

fn slice(
    ed: &mut Editor<'_>,
    node: &mut Node,
    rank: usize,
    axis_of: impl Fn(i64) -> Option<usize>,
) -> Option<()> {
    let axes = match node.input(3) {
        Some(axes) => ed.ints(axes)?,
        None => {
            let count = ed.ty(node.input(1)?).known_shape()?;
            (0..*count.first()? as i64).collect()
        }
    };
    if axes.len() > rank {
        return None;
    }
    let axes: Vec<i64> = axes
        .into_iter()
        .map(|axis| axis_of(axis).map(|axis| axis as i64))
        .collect::<Option<_>>()?;
    node.inputs.resize(node.inputs.len().max(4), None);
    node.inputs[3] = Some(ed.add_constant("axes", Tensor::vector(&axes)));
    Some(())
}

fn pad(ed: &mut Editor<'_>, node: &mut Node, perm: &[usize]) -> Option<()> {
    if node.input(3).is_some() {
        return None;
    }
    let pads = ed.ints(node.input(1)?)?;
    let rank = perm.len();
    if pads.len() != 2 * rank {
        return None;
    }
    let turned: Vec<i64> = (0..2 * rank).map(|i| pads[i / rank * rank + perm[i % rank]]).collect();
    node.inputs[1] = Some(ed.add_constant("pads", Tensor::vector(&turned)));
    Some(())
}

/// Scales or sizes along each axis.
fn resize(ed: &mut Editor<'_>, node: &mut Node, perm: &[usize]) -> Option<()> {
    if node.attrs.has("axes")
        || node.attrs.str_or("coordinate_transformation_mode", "").ok()? == "tf_crop_and_resize"
    {
        return None;
    }
    // The region of interest is read in that mode only.
    if let Some(roi) = node.inputs.get_mut(1) {
        *roi = None;
    }
    for index in [2, 3] {
        let Some(id) = node.input(index) else { continue };
        match ed.constant(id).cloned() {
            Some(tensor) if tensor.shape() == [perm.len()] => {
                let order: Vec<i64> = perm.iter().map(|&axis| axis as i64).collect();
                let turned = gathered(&tensor, &order)?;
                node.inputs[index] = Some(ed.add_constant("extents", turned));
            }
            Some(tensor) if tensor.is_empty() => node.inputs[index] = None,
            Some(_) => return None,
            None => {
                let (dtype, at) = (ed.dtype(id)?, ed.producer(id));
                let anchor = at?;
                let order: Vec<i64> = perm.iter().map(|&axis| axis as i64).collect();
                let order = ed.add_constant("order", Tensor::vector(&order));
                let ty = hetra_ir::Type::tensor(dtype, &[perm.len()]);
                let turned = ed.value("", ty);
                ed.insert(anchor, Node::new("Gather", &[id, order], &[turned]));
                node.inputs[index] = Some(turned);
            }
        }
    }
    Some(())
}

/// The elements of a vector at these places.
fn gathered(tensor: &Tensor, order: &[i64]) -> Option<Tensor> {
    let values = hetra_tensor::to_f64(tensor).ok()?;
    let turned: Vec<f64> = order.iter().map(|&at| values[at as usize]).collect();
    hetra_tensor::from_f64(tensor.dtype(), tensor.shape(), &turned).ok()
}

/// Gives the order of the axes that are left.
fn reduce(
    ed: &mut Editor<'_>,
    node: &mut Node,
    perm: &[usize],
    axis_of: impl Fn(i64) -> Option<usize>,
) -> Option<Vec<usize>> {
    let axes = ed.ints(node.input(1)?)?;
    if axes.is_empty() {
        return None;
    }
    let keep = node.attrs.flag_or("keepdims", true).ok()?;
    let mut axes: Vec<i64> = axes
        .into_iter()
        .map(|axis| axis_of(axis).map(|axis| axis as i64))
        .collect::<Option<_>>()?;
    axes.sort_unstable();
    node.inputs[1] = Some(ed.add_constant("axes", Tensor::vector(&axes)));
    node.attrs.0.insert("keepdims".to_string(), Attr::Int(i64::from(keep)));
    if keep {
        return Some(perm.to_vec());
    }
    // Axes that are left, renumbered.
    let gone = |place: usize| axes.contains(&(place as i64));
    let left: Vec<usize> = (0..perm.len()).filter(|&i| !gone(i)).map(|i| perm[i]).collect();
    Some(left.iter().map(|axis| left.iter().filter(|other| *other < axis).count()).collect())
}
