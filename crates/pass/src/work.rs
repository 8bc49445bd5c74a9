//! The work of every node, read from the rows of the operators.

use std::collections::BTreeMap;

use hetra_ir::{Graph, Type, ValueId};
use hetra_ops::{InferCtx, OpError, Work, find};
use hetra_tensor::{Tensor, Value};

/// The work of each node, by `NodeId`, given the types and known values of the graph's values.
/// Nodes that run bodies count as no work: how often a body runs is not known.
pub fn work(graph: &Graph, types: &[Type], known: &BTreeMap<ValueId, Value>) -> Vec<Work> {
    let value = |id: ValueId| known.get(&id).or_else(|| graph.constants.get(&id));
    let tensor = |id: ValueId| -> Option<Tensor> { value(id)?.as_tensor().cloned() };
    let body = |_: &Graph, _: &[Type]| Err(OpError::invalid("bodies are not counted"));
    let one = |node: &hetra_ir::Node| {
        let Some(def) = find(&node.op) else { return Work::default() };
        let inputs: Vec<_> =
            node.inputs.iter().map(|input| input.map(|id| types[id.index()].clone())).collect();
        let values: Vec<_> = node.inputs.iter().map(|input| input.and_then(tensor)).collect();
        let ctx = InferCtx { node, inputs: &inputs, known: &values, body: &body };
        let outputs: Vec<Type> = node
            .outputs
            .iter()
            .map(|o| o.map_or(Type::Unknown, |id| types[id.index()].clone()))
            .collect();
        (def.work)(&ctx, &outputs)
    };
    graph.nodes.iter().map(one).collect()
}
