//! What nobody reads is not computed.

use hetra_ir::{Attr, Capture, Graph, Node, ValueId};

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static DEAD_CODE: Pass = Pass {
    name: "dead_code",
    doc: "Removes nodes, optional outputs, constants and captures that nothing reads.",
    run,
};

/// Operators whose outputs after the first may be left out.
const OPTIONAL_OUTPUTS: &[&str] = &[
    "Dropout",
    "BatchNormalization",
    "LayerNormalization",
    "MaxPool",
    "LSTM",
    "GRU",
    "RNN",
    "Attention",
    "com.microsoft.SkipLayerNormalization",
];

fn run(ed: &mut Editor<'_>) {
    // Backwards, so that what fed a dead node is found dead in the same walk.
    for at in ed.live().into_iter().rev() {
        let unread = |id: ValueId| ed.users(id).is_empty() && !ed.is_output(id);
        if ed.node(at).defs().all(unread) {
            let label = ed.label(at);
            ed.remove(at);
            ed.note(format!("removed {label}: nothing reads it"));
        } else if OPTIONAL_OUTPUTS.contains(&ed.node(at).op.as_str()) {
            let mut node = ed.node(at).clone();
            let rest = node.outputs.iter_mut().skip(1);
            rest.filter(|output| output.is_some_and(unread)).for_each(|output| *output = None);
            while node.outputs.last() == Some(&None) {
                node.outputs.pop();
            }
            if node != *ed.node(at) {
                let label = ed.label(at);
                ed.set(at, node);
                ed.note(format!("left out outputs of {label}: nothing reads them"));
            }
        }
    }
    unread_constants(ed);
    unread_captures(ed);
}

fn unread_constants(ed: &mut Editor<'_>) {
    let unread = |id: ValueId| ed.users(id).is_empty() && !ed.is_output(id) && !ed.is_input(id);
    let ids: Vec<ValueId> = ed.graph().constants.keys().copied().filter(|&id| unread(id)).collect();
    for id in &ids {
        ed.graph_mut().constants.remove(id);
    }
    if !ids.is_empty() {
        ed.note(format!("removed {} constants: nothing reads them", ids.len()));
    }
}

fn unread_captures(ed: &mut Editor<'_>) {
    let unread = |c: &Capture| ed.users(c.inner).is_empty() && !ed.is_output(c.inner);
    let kept: Vec<Capture> = ed.graph().captures.iter().copied().filter(|c| !unread(c)).collect();
    let gone = ed.graph().captures.len() - kept.len();
    if gone > 0 {
        ed.graph_mut().captures = kept;
        ed.note(format!("removed {gone} captures: nothing reads them"));
    }
}

/// The same graph without the values that nothing defines, ids counting up in the order of
/// definition; bodies too.
pub fn compact(graph: &Graph) -> Graph {
    let given = graph.inputs.iter().copied();
    let given = given.chain(graph.captures.iter().map(|capture| capture.inner));
    let given = given.chain(graph.constants.keys().copied());
    let made = graph.nodes.iter().flat_map(Node::defs);
    let mut new_ids: Vec<Option<ValueId>> = vec![None; graph.values.len()];
    let mut values = Vec::new();
    // What is read without being defined is a fault; it is kept so that `verify` can name it.
    for id in given.chain(made).chain(graph.nodes.iter().flat_map(Node::uses)) {
        if new_ids[id.index()].is_none() {
            new_ids[id.index()] = Some(ValueId(values.len() as u32));
            values.push(graph.value(id).clone());
        }
    }
    let map = |id: ValueId| new_ids[id.index()].unwrap_or(id);
    let mut nodes = graph.nodes.clone();
    for node in &mut nodes {
        node.map_uses(map);
        node.outputs.iter_mut().flatten().for_each(|id| *id = map(*id));
        for attr in node.attrs.0.values_mut() {
            let bodies = match attr {
                Attr::Graph(body) => std::slice::from_mut(body),
                Attr::Graphs(bodies) => bodies.as_mut_slice(),
                _ => continue,
            };
            bodies.iter_mut().for_each(|body| *body = compact(body).into());
        }
    }
    let captures = graph.captures.iter();
    Graph {
        name: graph.name.clone(),
        values,
        nodes,
        inputs: graph.inputs.iter().map(|&id| map(id)).collect(),
        outputs: graph.outputs.iter().map(|&id| map(id)).collect(),
        captures: captures.map(|c| Capture { outer: c.outer, inner: map(c.inner) }).collect(),
        constants: graph.constants.iter().map(|(&id, value)| (map(id), value.clone())).collect(),
    }
}
