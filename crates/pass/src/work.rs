//! The work of every node, read from the rows of the operators.

use std::collections::BTreeMap;

use hetra_ir::{Graph, Node, Type, ValueId};
use hetra_ops::{InferCtx, OpError, Work, find};
use hetra_tensor::{Tensor, Value};

/// The work of each node, by `NodeId`, given the types and known values of the graph's values.
/// Nodes that run bodies count as no work: how often a body runs is not known.
pub fn work(graph: &Graph, types: &[Type], known: &BTreeMap<ValueId, Value>) -> Vec<Work> {
    let value = |id: ValueId| known.get(&id).or_else(|| graph.constants.get(&id));
    let tensor = |id: ValueId| -> Option<Tensor> { value(id)?.as_tensor().cloned() };
    graph.nodes.iter().map(|node| work_of(node, |id| types[id.index()].clone(), tensor)).collect()
}

/// The work of one node.
pub(crate) fn work_of(
    node: &Node,
    ty: impl Fn(ValueId) -> Type,
    known: impl Fn(ValueId) -> Option<Tensor>,
) -> Work {
    let Some(def) = find(&node.op) else { return Work::default() };
    let inputs: Vec<_> = node.inputs.iter().map(|input| input.map(&ty)).collect();
    let known: Vec<_> = node.inputs.iter().map(|input| input.and_then(&known)).collect();
    let outputs: Vec<_> =
        node.outputs.iter().map(|output| output.map_or(Type::Unknown, &ty)).collect();
    let body = |_: &Graph, _: &[Type]| Err(OpError::invalid("bodies are not counted"));
    (def.work)(&InferCtx { node, inputs: &inputs, known: &known, body: &body }, &outputs)
}
