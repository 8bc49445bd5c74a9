//! Equal nodes are computed once, equal constants are kept once.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use hetra_ir::{Node, ValueId};
use hetra_ops::find;
use hetra_tensor::{DType, Tensor, Value};

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static CSE: Pass = Pass {
    name: "cse",
    doc: "Merges pure nodes of equal operator, attributes and inputs, and equal constants.",
    run,
};

/// Bytes of a constant that its hash looks at; equality looks at all of them.
const HASHED_BYTES: usize = 4096;

fn run(ed: &mut Editor<'_>) {
    constants(ed);
    let mut seen: HashMap<u64, Vec<usize>> = HashMap::new();
    for at in ed.live() {
        let node = ed.node(at);
        let pure = find(&node.op).is_some_and(|def| def.pure);
        if !pure || node.attrs.graphs().next().is_some() {
            continue;
        }
        let alike = seen.entry(key(node)).or_default();
        match alike.iter().copied().find(|&other| same(ed.node(other), ed.node(at))) {
            Some(other) => merge(ed, other, at),
            None => alike.push(at),
        }
    }
}

fn key(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&node.op, &node.inputs, node.outputs.len()).hash(&mut hasher);
    hasher.finish()
}

/// Whether two nodes compute the same. Attributes that hold a NaN are equal to nothing.
fn same(a: &Node, b: &Node) -> bool {
    let wanted = |node: &Node| node.outputs.iter().map(Option::is_some).collect::<Vec<_>>();
    a.op == b.op
        && a.version == b.version
        && a.inputs == b.inputs
        && a.attrs == b.attrs
        && wanted(a) == wanted(b)
}

fn merge(ed: &mut Editor<'_>, first: usize, second: usize) {
    let pairs: Vec<(ValueId, ValueId)> =
        ed.node(second).defs().zip(ed.node(first).defs()).collect();
    // Two outputs of a graph need two values.
    if pairs.iter().any(|&(old, _)| ed.is_output(old)) {
        return;
    }
    let (kept, gone) = (ed.label(first), ed.label(second));
    ed.remove(second);
    for (old, new) in pairs {
        ed.redirect(old, new);
    }
    ed.note(format!("merged {gone} into {kept}"));
}

fn constants(ed: &mut Editor<'_>) {
    let mut seen: HashMap<u64, Vec<ValueId>> = HashMap::new();
    let inner = |id: &ValueId| !ed.is_input(*id) && !ed.is_output(*id);
    let ids: Vec<ValueId> = ed.graph().constants.keys().copied().filter(inner).collect();
    let mut merged = 0;
    for id in ids {
        let constants = &ed.graph().constants;
        let Some(Value::Tensor(tensor)) = constants.get(&id) else { continue };
        // Large weights that a pass made are not made just to be compared.
        if tensor.raw_bytes().is_none() {
            continue;
        }
        let alike = seen.entry(tensor_key(tensor)).or_default();
        let equal = |other: &&ValueId| constants.get(other) == Some(&Value::Tensor(tensor.clone()));
        match alike.iter().find(equal).copied() {
            Some(other) if !ed.users(id).is_empty() => {
                ed.redirect(id, other);
                merged += 1;
            }
            Some(_) => {}
            None => alike.push(id),
        }
    }
    if merged > 0 {
        ed.note(format!("merged {merged} equal constants"));
    }
}

fn tensor_key(tensor: &Tensor) -> u64 {
    let mut hasher = DefaultHasher::new();
    (tensor.dtype(), tensor.shape()).hash(&mut hasher);
    if tensor.dtype() == DType::String {
        tensor.as_strings().unwrap_or_default().hash(&mut hasher);
    } else {
        let bytes = tensor.raw_bytes().unwrap_or_default();
        bytes[..bytes.len().min(HASHED_BYTES)].hash(&mut hasher);
    }
    hasher.finish()
}
