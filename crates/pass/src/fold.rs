//! `op(constants) == constant`: evaluates by the reference what does not depend on the inputs.

use hetra_ir::{Node, ValueId};
use hetra_ops::{EvalCtx, Interpreter, OpDef, find};
use hetra_tensor::{DType, Value};

use crate::editor::Editor;
use crate::infer::infer;
use crate::optimise::Pass;
use crate::work::work_of;

pub(crate) static FOLD: Pass = Pass {
    name: "fold",
    doc: "Evaluates nodes whose inputs are all constant, unless the result would be large.",
    run,
};

/// Most bytes of all results of one node.
const BYTES_MAX: usize = 64 << 20;

/// Most bytes of all constants of a graph: weights made by `ConstantOfShape` are worth keeping (a
/// device packs constant weights once), a file that asks for many of them is not.
const TOTAL_BYTES_MAX: usize = 512 << 20;

/// Most arithmetic operations of one node: folding runs by the reference.
const WORK_MAX: f64 = 2e8;

/// Results below this size, in bytes, never matter.
const SMALL_BYTES: usize = 4096;

fn run(ed: &mut Editor<'_>) {
    known_from_types(ed);
    ed.sweep(fold);
}

/// Values that follow from types, such as the shape of an input.
fn known_from_types(ed: &mut Editor<'_>) {
    let graph = ed.graph();
    let types =
        |ids: &mut dyn Iterator<Item = ValueId>| ids.map(|id| graph.ty(id).clone()).collect();
    let inputs: Vec<_> = types(&mut graph.inputs.iter().copied());
    let captures: Vec<_> = types(&mut graph.captures.iter().map(|capture| capture.inner));
    let Ok(inferred) = infer(graph, &inputs, &captures) else { return };
    for at in ed.live() {
        let known = |id: ValueId| inferred.known.get(&id).cloned();
        let values: Option<Vec<Value>> = ed.node(at).defs().map(known).collect();
        // Large ones are left to `fold`, which weighs what they are made from.
        let small =
            |values: &Vec<Value>| values.iter().map(Value::byte_len).sum::<usize>() <= SMALL_BYTES;
        if let Some(values) = values.filter(small) {
            settle(ed, at, values);
        }
    }
}

fn fold(ed: &mut Editor<'_>, at: usize) -> bool {
    let node = ed.node(at);
    let Some(def) = find(&node.op) else { return false };
    let constant = |id: ValueId| ed.graph().constants.get(&id).filter(|_| !ed.is_input(id));
    let inputs: Option<Vec<Option<Value>>> = node
        .inputs
        .iter()
        .map(|input| input.map_or(Some(None), |id| constant(id).cloned().map(Some)))
        .collect();
    let Some(inputs) = inputs else { return false };
    if !def.pure || node.attrs.graphs().next().is_some() || node.outputs.is_empty() {
        return false;
    }
    let Some(made) = bytes_made(ed, node) else { return false };
    let held = || ed.graph().constants.values().map(Value::byte_len).sum::<usize>();
    if made > BYTES_MAX || (made > SMALL_BYTES && held().saturating_add(made) > TOTAL_BYTES_MAX) {
        let op = ed.node(at).op.clone();
        ed.miss(at, &format!("{op} of constants would add {made} bytes"));
        return false;
    }
    if work_of(ed.node(at), |id| ed.ty(id).clone(), |id| ed.constant(id).cloned()).ops > WORK_MAX {
        let op = ed.node(at).op.clone();
        ed.miss(at, &format!("{op} of constants is too much work to do before a run"));
        return false;
    }
    match eval(ed.node(at), def, &inputs) {
        Ok(values) => settle(ed, at, values),
        Err(error) => {
            // The node reports the fault itself if it ever runs: it may stand in a dead branch.
            ed.miss(at, &error);
            false
        }
    }
}

/// Bytes of all outputs, if inference knows them.
fn bytes_made(ed: &Editor<'_>, node: &Node) -> Option<usize> {
    node.defs().try_fold(0usize, |sum, id| {
        let ty = ed.ty(id);
        let count = hetra_tensor::element_count(&ty.known_shape()?).ok()?;
        let bytes = match ty.dtype()? {
            DType::String => count.checked_mul(size_of::<String>())?,
            dtype => dtype.bytes(count)?,
        };
        sum.checked_add(bytes)
    })
}

/// Runs a node that has no bodies by its reference.
pub(crate) fn eval(
    node: &Node,
    def: &OpDef,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let outer = |_| None;
    let ctx = EvalCtx { node, inputs, outer: &outer, runner: &Interpreter };
    (def.eval)(&ctx).map_err(|error| error.to_string())
}

/// Puts constants in the place of a node. What a graph gives out stays a node: outputs are made
/// by nodes, so that every runner may treat them alike.
fn settle(ed: &mut Editor<'_>, at: usize, values: Vec<Value>) -> bool {
    let outputs = ed.node(at).outputs.clone();
    if outputs.iter().flatten().any(|&id| ed.is_output(id)) || values.len() < outputs.len() {
        return false;
    }
    let label = ed.label(at);
    let op = ed.node(at).op.clone();
    ed.remove(at);
    for (id, value) in outputs.into_iter().zip(values) {
        if let Some(id) = id {
            ed.define(id, value);
        }
    }
    ed.note(format!("folded {op} at {label}"));
    true
}
