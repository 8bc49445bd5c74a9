//! `op(half) == round(op(wide))`: what the device has no kernel for in floats of 16 bits is
//! computed in f32, and with it what stands between such nodes. Results are rounded where a node
//! that stays, or the user, reads them: between nodes of f32 they keep their digits, and numbers
//! beyond those of 16 bits do not overflow.

use std::collections::BTreeMap;

use hetra_ir::{Node, Type, ValueId};
use hetra_ops::{InferCtx, Kind, OpError, find};
use hetra_tensor::{DType, Rounding, cast};

use crate::editor::Editor;
use crate::optimise::{Claim, Pass};

pub(crate) static WIDEN: Pass = Pass {
    name: "widen",
    doc: "Computes in f32 what the device has no kernel for in floats of 16 bits.",
    run,
};

fn run(ed: &mut Editor<'_>) {
    // What each value of 16 bits is in f32.
    let mut wide = BTreeMap::new();
    for at in ed.live() {
        if !widen(ed, at, &mut wide).unwrap_or(false) {
            continue;
        }
        let label = ed.label(at);
        ed.note(format!("f32 for {label}"));
    }
}

/// Whether a value is of floats of 16 bits.
fn is_half(ty: &Type) -> bool {
    ty.as_tensor().is_some() && matches!(ty.dtype(), Some(DType::F16 | DType::BF16))
}

/// The same type, of f32.
fn widened(ty: &Type) -> Type {
    match ty.dims() {
        Some(dims) => Type::shaped(DType::F32, dims.to_vec()),
        None => Type::unranked(DType::F32),
    }
}

/// Whether the node at this place is one of f32 now.
fn widen(ed: &mut Editor<'_>, at: usize, wide: &mut BTreeMap<ValueId, ValueId>) -> Option<bool> {
    let node = ed.node(at).clone();
    let def = find(&node.op).filter(|def| def.pure && def.kind != Kind::Control)?;
    let halves: Vec<ValueId> =
        node.inputs.iter().flatten().copied().filter(|id| is_half(ed.ty(*id))).collect();
    // A cast from 16 bits is what is put around others.
    if halves.is_empty() || node.op == "Cast" {
        return None;
    }
    let joins = halves.iter().any(|id| wide.contains_key(id) && ed.constant(*id).is_none());
    if !joins && ed.claim(&node) == Claim::Kernel {
        return None;
    }
    let outputs = infer_wide(ed, &node, def.infer)?;
    let mut new = node.clone();
    let mut casts = Vec::new();
    for slot in &mut new.inputs {
        let Some(id) = slot.filter(|id| is_half(ed.ty(*id))) else { continue };
        *slot = Some(match (wide.get(&id), ed.constant(id)) {
            (Some(&twin), _) => twin,
            (None, Some(tensor)) => {
                let twin = cast(tensor, DType::F32, true, Rounding::NearestEven).ok()?;
                let name = ed.graph().value(id).name.clone();
                let twin = ed.add_constant(&name, twin);
                wide.insert(id, twin);
                twin
            }
            (None, None) => {
                let twin = twin_of(ed, id);
                wide.insert(id, twin);
                casts.push((id, twin));
                twin
            }
        });
    }
    let mut narrow = Vec::new();
    for (slot, ty) in new.outputs.iter_mut().zip(outputs) {
        let Some(id) = slot.filter(|_| ty) else { continue };
        let twin = twin_of(ed, id);
        narrow.push((id, twin));
        *slot = Some(twin);
    }
    if ed.claim(&new) != Claim::Kernel {
        for (id, _) in &casts {
            wide.remove(id);
        }
        return None;
    }
    for (id, twin) in casts {
        ed.insert(at, to(id, twin, DType::F32));
    }
    ed.set(at, new);
    for (id, twin) in narrow {
        let dtype = ed.dtype(id)?;
        ed.insert(at, to(twin, id, dtype));
        wide.insert(id, twin);
    }
    Some(true)
}

/// A value of f32 beside one of 16 bits.
fn twin_of(ed: &mut Editor<'_>, id: ValueId) -> ValueId {
    let name = ed.graph().value(id).name.clone();
    let ty = widened(ed.ty(id));
    ed.value(&name, ty)
}

fn to(from: ValueId, into: ValueId, dtype: DType) -> Node {
    Node::new("Cast", &[from], &[into]).with("to", i64::from(dtype.onnx()))
}

/// Of each output, whether it is of f32 where the inputs are; `None` where the node would be
/// another one: its results have to be the same, but for those of 16 bits, and tensors.
fn infer_wide(
    ed: &Editor<'_>,
    node: &Node,
    infer: fn(&InferCtx<'_>) -> Result<Vec<Type>, OpError>,
) -> Option<Vec<bool>> {
    let wide = |ty: &Type| if is_half(ty) { widened(ty) } else { ty.clone() };
    let inputs: Vec<Option<Type>> =
        node.inputs.iter().map(|input| input.map(|id| wide(ed.ty(id)))).collect();
    let known: Vec<_> = node.inputs.iter().map(|input| ed.constant((*input)?).cloned()).collect();
    // What is known is of the old dtype: only whole numbers, such as shapes, are looked at.
    let known: Vec<_> =
        known.into_iter().map(|known| known.filter(|tensor| tensor.dtype().is_int())).collect();
    let body = |_: &hetra_ir::Graph, _: &[Type]| Err(OpError::unsupported("a body"));
    let ctx = InferCtx { node, inputs: &inputs, known: &known, body: &body };
    let types = infer(&ctx).ok()?;
    let fits = |(id, ty): (&Option<ValueId>, &Type)| {
        let Some(id) = id else { return Some(false) };
        let old = ed.ty(*id);
        let half = is_half(old);
        let same = ty.as_tensor().is_some()
            && ty.dtype() == if half { Some(DType::F32) } else { old.dtype() };
        same.then_some(half)
    };
    if types.len() < node.outputs.len() {
        return None;
    }
    node.outputs.iter().zip(&types).map(fits).collect()
}
