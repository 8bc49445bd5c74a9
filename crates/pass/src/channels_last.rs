//! Stores images with their channels last where the device has kernels for that.
//!
//! `conv(x) == channels_first(conv_last(channels_last(x)))`. Most of the transposes that this law
//! adds are never made: a value is kept in the order of axes in which its node makes it, and what
//! comes after reads it in that order as far as it can (`follow`). Only where a node needs ONNX's
//! order, or a graph gives it out, a transpose brings it back.

use std::collections::{HashMap, HashSet};

use hetra_ir::{Dim, Node, Type, ValueId};
use hetra_ops::{ChannelsLast, FIRST_INPUT_PLAIN, channels_last_perm};
use hetra_tensor::Tensor;

use crate::editor::Editor;
use crate::follow::follow;
use crate::optimise::{Claim, Pass};

pub(crate) static CHANNELS_LAST: Pass = Pass {
    name: "channels_last",
    doc: "Stores images with their channels last where the device has kernels for it, and carries \
          that order through the operators around them.",
    run,
};

/// Axes of the images that are turned: one or two spatial ones.
const RANKS: std::ops::RangeInclusive<usize> = 3..=4;

fn run(ed: &mut Editor<'_>) {
    let mut stored = Stored::default();
    for at in ed.live() {
        if !image(ed, &mut stored, at) && !follow(ed, &mut stored, at) {
            for value in ed.node(at).uses().collect::<Vec<_>>() {
                stored.plain(ed, value, at);
            }
        }
    }
    let last = ed.live().last().copied();
    for value in ed.graph().outputs.clone() {
        stored.plain(ed, value, last.unwrap_or(0));
    }
}

/// In which orders of axes values are there. Axis `i` of what is stored is axis `perm[i]` of the
/// value.
#[derive(Default)]
pub(crate) struct Stored {
    /// Every copy of a value that is there, other than the value itself.
    copies: HashMap<(ValueId, Vec<usize>), ValueId>,
    /// The order in which its node makes it.
    made: HashMap<ValueId, Vec<usize>>,
    /// Of those, the values that are there in ONNX's order, too.
    plain: HashSet<ValueId>,
}

pub(crate) fn is_identity(perm: &[usize]) -> bool {
    perm.iter().enumerate().all(|(i, &axis)| i == axis)
}

pub(crate) fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, &axis)| inverse[axis] = i);
    inverse
}

/// The type of a value with its axes in this order.
pub(crate) fn turned(ty: &Type, perm: &[usize]) -> Type {
    match (ty.dtype(), ty.dims()) {
        (Some(dtype), Some(dims)) if dims.len() == perm.len() => {
            Type::shaped(dtype, perm.iter().map(|&axis| dims[axis].clone()).collect())
        }
        (Some(dtype), _) => Type::unranked(dtype),
        _ => Type::Unknown,
    }
}

/// Puts the axes of `x` in the order `perm`, to be `y`. Where only axes of extent 1 move, nothing
/// has to.
fn transpose(ed: &mut Editor<'_>, x: ValueId, perm: &[usize], y: ValueId) -> Node {
    if let Some(dims) = ed.ty(x).dims() {
        let long: Vec<usize> =
            perm.iter().copied().filter(|&axis| dims[axis] != Dim::Known(1)).collect();
        let extents: Option<Vec<i64>> =
            perm.iter().map(|&axis| dims[axis].known().map(|extent| extent as i64)).collect();
        if long.is_sorted()
            && let Some(extents) = extents
        {
            let shape = ed.add_constant("shape", Tensor::vector(&extents));
            return Node::new("Reshape", &[x, shape], &[y]);
        }
    }
    let perm: Vec<i64> = perm.iter().map(|&axis| axis as i64).collect();
    Node::new("Transpose", &[x], &[y]).with("perm", perm)
}

impl Stored {
    /// The order in which a value is there and ONNX's is not, if it is another.
    pub(crate) fn order(&self, value: ValueId) -> Option<&[usize]> {
        self.made.get(&value).filter(|_| !self.plain.contains(&value)).map(Vec::as_slice)
    }

    /// The value in this order of axes, for the node at `before`.
    pub(crate) fn get(
        &mut self,
        ed: &mut Editor<'_>,
        value: ValueId,
        perm: &[usize],
        before: usize,
    ) -> ValueId {
        if is_identity(perm) {
            self.plain(ed, value, before);
            return value;
        }
        let key = (value, perm.to_vec());
        if let Some(&copy) = self.copies.get(&key) {
            return copy;
        }
        let constant = ed.constant(value).cloned();
        let constant = constant.and_then(|c| c.view().permute(perm).ok()?.to_tensor().ok());
        let name = ed.graph().value(value).name.clone();
        let copy = match constant {
            Some(tensor) => ed.add_constant(&format!("{name}.last"), tensor),
            None => {
                let copy = ed.value("", turned(ed.ty(value), perm));
                let (from, perm) = match self.made.get(&value) {
                    Some(made) => {
                        let place = inverse(made);
                        let perm = perm.iter().map(|&axis| place[axis]).collect();
                        (self.copies[&(value, made.clone())], perm)
                    }
                    None => (value, perm.to_vec()),
                };
                let node = transpose(ed, from, &perm, copy);
                ed.insert(before, node);
                copy
            }
        };
        self.copies.insert(key, copy);
        copy
    }

    /// Sees to it that a value is there in ONNX's order, for the node at `before`.
    pub(crate) fn plain(&mut self, ed: &mut Editor<'_>, value: ValueId, before: usize) {
        let Some(made) = self.made.get(&value) else { return };
        if self.plain.insert(value) {
            let from = self.copies[&(value, made.clone())];
            let node = transpose(ed, from, &inverse(made), value);
            ed.insert(before, node);
        }
    }

    /// A new value that stands for `value` in this order, to be made by a node.
    pub(crate) fn stand_in(
        &mut self,
        ed: &mut Editor<'_>,
        value: ValueId,
        perm: &[usize],
    ) -> ValueId {
        let copy = ed.value("", turned(ed.ty(value), perm));
        self.is(value, perm, copy);
        copy
    }

    /// `copy` is `value` in this order, which is not ONNX's.
    pub(crate) fn is(&mut self, value: ValueId, perm: &[usize], copy: ValueId) {
        self.copies.insert((value, perm.to_vec()), copy);
        self.made.insert(value, perm.to_vec());
    }

    /// A node that makes these in place of its outputs was not taken after all.
    fn forget(&mut self, value: ValueId) {
        if let Some(made) = self.made.remove(&value) {
            self.copies.remove(&(value, made));
        }
    }
}

/// Puts the form with channels last in the place of an operator that has one.
fn image(ed: &mut Editor<'_>, stored: &mut Stored, at: usize) -> bool {
    let Some(form) = ChannelsLast::of(&ed.node(at).op) else { return false };
    let (Some(x), Some(y)) = (ed.input(at, 0), ed.sole_output(at)) else { return false };
    let Some(rank) = ed.rank(x).filter(|rank| RANKS.contains(rank)) else { return false };
    let perm = channels_last_perm(rank);
    let mut node = Node { op: form.op.to_string(), ..ed.node(at).clone() };
    node.outputs.truncate(1);
    let mut inputs = form.images(&node).filter_map(|index| node.input(index));
    if inputs.any(|value| ed.rank(value) != Some(rank)) {
        return false;
    }
    let stand_in = stored.stand_in(ed, y, &perm);
    node.outputs[0] = Some(stand_in);
    // A kernel may turn an image that it reads, which saves a pass over it.
    let plain = Node { attrs: node.attrs.clone(), ..node.clone() }.with(FIRST_INPUT_PLAIN, 1);
    let here = stored.order(x).is_none() && ed.constant(x).is_none();
    if here && claimed(ed, form, &plain, &perm) {
        node = plain;
    } else if !claimed(ed, form, &node, &perm) {
        stored.forget(y);
        return false;
    }
    for index in form.images(&node) {
        let Some(value) = node.input(index) else { continue };
        node.inputs[index] = Some(stored.get(ed, value, &perm, at));
    }
    let label = ed.label(at);
    ed.set(at, node);
    ed.note(format!("channels last at {label}"));
    true
}

/// Whether the device has a kernel for a node whose images are yet to be turned. It is asked of a
/// node whose values are there in type only, before any transpose is made.
fn claimed(ed: &mut Editor<'_>, form: &ChannelsLast, node: &Node, perm: &[usize]) -> bool {
    let mut asked = node.clone();
    for index in form.images(node) {
        if let Some(value) = node.input(index) {
            asked.inputs[index] = Some(ed.value("", turned(ed.ty(value), perm)));
        }
    }
    ed.claim(&asked) == Claim::Kernel
}
