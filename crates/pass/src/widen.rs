//! `op(half) == round(op(wide))`: what the device has no kernel for in floats of 16 bits is
//! computed in f32, and with it what stands between such nodes. Results are rounded where a node
//! that stays, one whose result jumps, or the user reads them: between other nodes of f32 they keep
//! their digits, and numbers beyond those of 16 bits do not overflow.

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
    let awaited = awaited(ed);
    let mut twins = Twins::default();
    for at in ed.live() {
        if widen(ed, at, &awaited, &mut twins).unwrap_or(false) {
            let label = ed.label(at);
            ed.note(format!("f32 for {label}"));
        }
    }
}

/// What values of 16 bits are in f32.
#[derive(Default)]
struct Twins {
    /// As they were computed.
    wide: BTreeMap<ValueId, ValueId>,
    /// As they are when they were rounded.
    rounded: BTreeMap<ValueId, ValueId>,
}

/// Operators whose results jump where a number is another in its last digits: they read what the
/// model has there, with 16 bits.
const JUMPS: &[&str] = &[
    "ArgMax",
    "ArgMin",
    "CastLike",
    "Ceil",
    "Equal",
    "Floor",
    "Greater",
    "GreaterOrEqual",
    "Hardmax",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "Mod",
    "NonZero",
    "QuantizeLinear",
    "Round",
    "Sign",
    "TopK",
    "Unique",
];

/// Whether each value is read, at last, by a node that will be one of f32: what stands before it
/// had better be, too.
fn awaited(ed: &Editor<'_>) -> Vec<bool> {
    let mut awaited = vec![false; ed.graph().values.len()];
    for at in ed.live().into_iter().rev() {
        let node = ed.node(at);
        let halves = || node.inputs.iter().flatten().filter(|id| is_half(ed.ty(**id)));
        if node.op == "Cast" || halves().next().is_none() {
            continue;
        }
        let behind = node.defs().any(|id| awaited[id.index()]);
        if behind || ed.claim(node) != Claim::Kernel {
            halves().for_each(|id| awaited[id.index()] = true);
        }
    }
    awaited
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
fn widen(ed: &mut Editor<'_>, at: usize, awaited: &[bool], twins: &mut Twins) -> Option<bool> {
    let node = ed.node(at).clone();
    let def = find(&node.op).filter(|def| def.pure && def.kind != Kind::Control)?;
    let halves: Vec<ValueId> =
        node.inputs.iter().flatten().copied().filter(|id| is_half(ed.ty(*id))).collect();
    // A cast from 16 bits is what is put around others.
    if halves.is_empty() || node.op == "Cast" {
        return None;
    }
    let made = |id: &ValueId| twins.wide.contains_key(id) && ed.constant(*id).is_none();
    let between =
        halves.iter().any(made) && node.defs().any(|id| awaited.get(id.index()) == Some(&true));
    if !between && ed.claim(&node) == Claim::Kernel {
        return None;
    }
    let jumps = JUMPS.contains(&node.op.as_str());
    let outputs = infer_wide(ed, &node, def.infer)?;
    let mut new = node.clone();
    let (mut casts, mut constants) = (Vec::new(), Vec::new());
    for slot in &mut new.inputs {
        let Some(id) = slot.filter(|id| is_half(ed.ty(*id))) else { continue };
        let exact = jumps && ed.constant(id).is_none();
        let known = if exact { &mut twins.rounded } else { &mut twins.wide };
        *slot = Some(match (known.get(&id), ed.constant(id)) {
            (Some(&twin), _) => twin,
            (None, Some(tensor)) => {
                let twin = cast(tensor, DType::F32, true, Rounding::NearestEven).ok()?;
                let name = ed.graph().value(id).name.clone();
                let twin = ed.add_constant(&name, twin);
                known.insert(id, twin);
                constants.push((id, twin));
                twin
            }
            (None, None) => {
                let twin = twin_of(ed, id);
                known.insert(id, twin);
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
        let known = if jumps { &mut twins.rounded } else { &mut twins.wide };
        casts.iter().for_each(|(id, _)| _ = known.remove(id));
        for (id, twin) in constants {
            twins.wide.remove(&id);
            ed.graph_mut().constants.remove(&twin);
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
        twins.wide.insert(id, twin);
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
