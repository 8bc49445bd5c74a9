//! The tasks that a graph is placed by.

use std::collections::BTreeSet;

use hetra_ir::{Graph, NodeId, Type, ValueId};
use hetra_pass::{Extract, extract, infer, leaving, work_of};
use hetra_place::{Fine, coarsen};
use hetra_tensor::element_count;

use crate::error::Error;

/// Operations and bytes per second that the weights of nodes are reckoned with, and seconds for
/// each node: they only say which nodes are worth a task of their own.
const OPS_PER_S: f64 = 1e11;
const BYTES_PER_S: f64 = 1e10;
const NODE_S: f64 = 1e-6;

/// A graph in tasks.
pub(crate) struct Tasks {
    /// The task of each node.
    pub(crate) of: Vec<usize>,
    /// Nodes, graph and borders of each task.
    pub(crate) all: Vec<Task>,
    /// Bytes of each value of the graph; 0 where its shape is not known before a run.
    pub(crate) bytes: Vec<u64>,
    /// Types of values, as far as they are known before a run.
    pub(crate) types: Vec<Type>,
}

/// Nodes that are placed together.
pub(crate) struct Task {
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) extract: Extract,
    pub(crate) ops: f64,
}

/// Joins the nodes of a graph to about so many tasks, for inputs of these types.
///
/// # Errors
/// When the types contradict an operator.
pub(crate) fn tasks(
    graph: &Graph,
    inputs: &[Type],
    tasks_max: usize,
    kinds: Vec<usize>,
) -> Result<Tasks, Error> {
    let inferred = infer(graph, inputs, &[]).map_err(hetra_exec::ExecError::from)?;
    let size = |ty: &Type| {
        let elements = element_count(&ty.known_shape()?).ok()?;
        u64::try_from(ty.dtype()?.bytes(elements)?).ok()
    };
    let bytes: Vec<u64> = inferred.types.iter().map(|ty| size(ty).unwrap_or(0)).collect();
    let known = |id: ValueId| {
        let value = inferred.known.get(&id).or_else(|| graph.constants.get(&id));
        value.and_then(|value| value.as_tensor().cloned())
    };
    let ops = |node| work_of(node, |id| inferred.types[id.index()].clone(), known).ops;
    let ops: Vec<f64> = graph.nodes.iter().map(ops).collect();
    let moved = |values: &mut dyn Iterator<Item = ValueId>| -> f64 {
        values.map(|id| bytes[id.index()] as f64).sum()
    };
    let weight = graph.nodes.iter().zip(&ops).map(|(node, ops)| {
        let moved = moved(&mut node.uses()) + moved(&mut node.defs());
        NODE_S + ops / OPS_PER_S + moved / BYTES_PER_S
    });
    let producers = graph.producers();
    let edges = graph.nodes().flat_map(|(to, node)| {
        let from = |value: ValueId| Some((producers[value.index()]?.index(), value));
        let edges: Vec<_> = node.uses().filter_map(from).collect();
        edges.into_iter().map(move |(from, value)| (from, to.index(), value))
    });
    let edges = edges.map(|(from, to, value)| (from, to, bytes[value.index()].max(1) as f64));
    // What is kept to some devices drags nothing along.
    let (weight, edges) = (weight.collect(), edges.collect());
    let of = coarsen(&Fine { weight, edges, kinds, fused: fused(graph) }, tasks_max);
    let count = of.iter().max().map_or(0, |most| most + 1);
    let wanted = leaving(graph, &of);
    let task = |index: usize| {
        let nodes = graph.nodes().map(|(id, _)| id).filter(|id| of[id.index()] == index);
        let nodes: Vec<NodeId> = nodes.collect();
        let ops = nodes.iter().map(|id| ops[id.index()]).sum();
        Task { extract: extract(graph, &nodes, &wanted), nodes, ops }
    };
    let all = (0..count).map(task).collect();
    Ok(Tasks { of, all, bytes, types: inferred.types })
}

/// Makers and readers of values that are gone when the graph is optimised: what a good runtime runs
/// as one kernel, or works out before the run.
fn fused(graph: &Graph) -> Vec<(usize, usize)> {
    let name = |index: usize| format!("value {index}");
    let mut named = graph.clone();
    named.values.iter_mut().enumerate().for_each(|(at, value)| value.name = name(at));
    let joined = hetra_cost::joined(&named);
    let stored: BTreeSet<&str> = joined
        .nodes
        .iter()
        .flat_map(|node| node.defs().chain(node.uses()))
        .map(|id| joined.value(id).name.as_str())
        .collect();
    let producers = graph.producers();
    let pairs = graph.nodes().flat_map(|(to, node)| {
        let from = |id: ValueId| Some((producers[id.index()]?.index(), id));
        let gone = |id: ValueId| !stored.contains(name(id.index()).as_str());
        let pairs: Vec<_> = node.uses().filter(|id| gone(*id)).filter_map(from).collect();
        pairs.into_iter().map(move |(from, _)| (from, to.index()))
    });
    pairs.collect()
}
