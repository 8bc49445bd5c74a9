//! The work of every node, read from the rows of the operators.

use hetra_ir::{Graph, Node, Type, ValueId};
use hetra_ops::{InferCtx, Kind, NodeError, OpError, Work, find};
use hetra_tensor::Tensor;

use crate::infer::infer_everywhere;

/// The work of each node, given the types of the inputs, by operator. A body counts as if it ran
/// once: how often it does is not known. Of both branches of an `If` each counts, unless it is
/// known which is taken.
///
/// # Errors
/// The first node whose arguments contradict its operator.
pub fn work(graph: &Graph, inputs: &[Type]) -> Result<Vec<(String, Work)>, NodeError> {
    let mut all = Vec::new();
    infer_everywhere(graph, inputs)?.for_each(&mut |graph, inferred| {
        let value = |id: ValueId| inferred.known.get(&id).or_else(|| graph.constants.get(&id));
        let tensor = |id: ValueId| -> Option<Tensor> { value(id)?.as_tensor().cloned() };
        let ty = |id: ValueId| inferred.types[id.index()].clone();
        all.extend(graph.nodes.iter().map(|node| (node.op.clone(), work_of(node, ty, tensor))));
    });
    Ok(all)
}

/// The work of one node.
pub fn work_of(
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

/// Bytes that a node reads and writes: those of its inputs and outputs, of what it moves as many as
/// it writes (a gather does not read all of its table), and none for a view. `bytes` gives those
/// of a value, 0 where its shape is not known.
pub fn traffic(node: &Node, bytes: impl Fn(ValueId) -> u64) -> u64 {
    let written: u64 = node.defs().map(&bytes).sum();
    let read: u64 = match find(&node.op).map(|def| def.kind) {
        Some(Kind::View) => return 0,
        Some(Kind::Move) => node.uses().map(|id| bytes(id).min(written)).sum(),
        _ => node.uses().map(&bytes).sum(),
    };
    read + written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_counts_once() {
        let graph = hetra_ir::parse(
            "graph \"g\" (%c: bool[], %x: f32[2,3], %w: f32[3,4], %t: i64[]) {
               %y = MatMul(%x, %w)
               %z = Loop(%t, _, %x) {body = graph \"b\" (%i: i64[], %go: bool[], %v: f32[2,3])
                   captures (%d = %c, %u = %w) {
                 %r = MatMul(%v, %u)
                 %s = If(%d) {
                   else_branch = graph \"e\" () captures (%f = %v, %k = %u) {
                     %q = MatMul(%f, %k)
                     return (%f)
                   },
                   then_branch = graph \"t\" () captures (%p = %v) { return (%p) }}
                 return (%go, %s)
               }}
               return (%y, %z)
             }",
        );
        let graph = graph.unwrap();
        let types: Vec<Type> = graph.inputs.iter().map(|&id| graph.ty(id).clone()).collect();
        let work = work(&graph, &types).unwrap();
        let macs: Vec<f64> =
            work.iter().filter(|(op, _)| op == "MatMul").map(|(_, work)| work.macs).collect();
        assert_eq!(macs, [24.0; 3]);
    }
}
