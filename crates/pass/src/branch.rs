//! Decides at once what is decided already: an If whose condition is constant becomes the branch
//! it takes, and what a body captures of constants becomes its own.

use std::collections::HashMap;
use std::sync::Arc;

use hetra_ir::{Attr, Graph, Node, ValueId};

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static BRANCH: Pass = Pass {
    name: "branch",
    doc: "Inlines an If whose condition is constant, and gives bodies the constants they capture.",
    run: |ed| {
        ed.sweep(own_constants);
        ed.sweep(inline);
    },
};

/// Moves captured constants into the bodies of a node. The storage is shared.
fn own_constants(ed: &mut Editor<'_>, at: usize) -> bool {
    let captures = |body: &Arc<Graph>| body.captures.clone();
    let captured: Vec<_> =
        ed.node(at).attrs.graphs().flat_map(|(_, body)| captures(body)).collect();
    let known = |id: ValueId| ed.graph().constants.get(&id).filter(|_| !ed.is_input(id)).cloned();
    let values: HashMap<ValueId, _> =
        captured.iter().filter_map(|c| known(c.outer).map(|value| (c.outer, value))).collect();
    if values.is_empty() {
        return false;
    }
    let label = ed.label(at);
    let mut node = ed.node(at).clone();
    for attr in node.attrs.0.values_mut() {
        let bodies = match attr {
            Attr::Graph(body) => std::slice::from_mut(body),
            Attr::Graphs(bodies) => bodies.as_mut_slice(),
            _ => continue,
        };
        for body in bodies {
            let body = Arc::make_mut(body);
            let taken: Vec<_> =
                body.captures.iter().copied().filter(|c| values.contains_key(&c.outer)).collect();
            // A body that gives a capture straight out keeps it: outputs are not constants.
            for capture in taken.into_iter().filter(|c| !body.outputs.contains(&c.inner)) {
                body.captures.retain(|other| other.inner != capture.inner);
                body.constants.insert(capture.inner, values[&capture.outer].clone());
            }
        }
    }
    if node == *ed.node(at) {
        return false;
    }
    ed.set(at, node);
    ed.note(format!("gave the bodies of {label} {} constants", values.len()));
    true
}

/// `If(true, a, b) == a`.
fn inline(ed: &mut Editor<'_>, at: usize) -> bool {
    if !ed.is(at, "If") {
        return false;
    }
    let taken = ed.input(at, 0).and_then(|id| ed.constant(id)).and_then(|condition| {
        condition.as_bools().ok().and_then(|bools| bools.first().map(|&bool| bool != 0))
    });
    let Some(taken) = taken else { return false };
    let name = if taken { "then_branch" } else { "else_branch" };
    let Ok(body) = ed.node(at).attrs.graph(name).cloned() else { return false };
    let node = ed.node(at).clone();
    if node.outputs.len() != body.outputs.len() {
        return false;
    }
    let label = ed.label(at);
    splice(ed, at, &node, &body);
    ed.note(format!("inlined `{name}` of {label}"));
    true
}

/// Puts the nodes of a body in the place of the node at `at`.
fn splice(ed: &mut Editor<'_>, at: usize, node: &Node, body: &Graph) {
    let mut ids: HashMap<ValueId, ValueId> =
        body.captures.iter().map(|capture| (capture.inner, capture.outer)).collect();
    for (&id, value) in &body.constants {
        let new = ed.value(&body.value(id).name, body.ty(id).clone());
        ed.define(new, value.clone());
        ids.insert(id, new);
    }
    for inner in &body.nodes {
        for id in inner.defs() {
            let new = ed.value(&body.value(id).name, body.ty(id).clone());
            ids.insert(id, new);
        }
    }
    let map = |id: ValueId| ids.get(&id).copied().unwrap_or(id);
    for inner in &body.nodes {
        let mut inner = inner.clone();
        inner.map_uses(map);
        inner.outputs.iter_mut().flatten().for_each(|id| *id = map(*id));
        ed.insert(at, inner);
    }
    // Each output is handed over by an Identity, which the pass for those takes out where it can.
    let pairs: Vec<(ValueId, ValueId)> = node
        .outputs
        .iter()
        .zip(&body.outputs)
        .filter_map(|(outer, &inner)| outer.map(|outer| (outer, map(inner))))
        .collect();
    let mut last = None;
    for (outer, inner) in pairs {
        let identity = Node::new("Identity", &[inner], &[outer]);
        match last {
            None => ed.set(at, identity),
            Some(_) => {
                ed.insert(at, identity);
            }
        }
        last = Some(outer);
    }
    if last.is_none() {
        ed.remove(at);
    }
}
