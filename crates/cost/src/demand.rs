//! What the kernels of a graph ask of a device.

use std::collections::BTreeMap;

use hetra_ir::{Graph, Node, Type, ValueId};
use hetra_ops::{Kind, NodeError, find};
use hetra_pass::{Inferred, Options, infer, optimise, traffic, work_of};
use hetra_tensor::{DType, Tensor, element_count};

/// Passes for the layouts of our own kernels: what a device that is described does is not said.
const OWN: [&str; 2] = ["channels_last", "space_to_depth"];

/// What one kernel asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Operations of multiply-adds, each counted as two: what matrix units do.
    pub products: f64,
    /// All other operations.
    pub others: f64,
    /// Bytes that it reads and writes.
    pub bytes: f64,
}

/// What the kernels of a graph ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demands {
    /// One for each node that does something, in order.
    pub kernels: Vec<Demand>,
    /// The most bytes that its constants and the values that are alive take at one time.
    pub memory: f64,
}

/// A graph as any good runtime would run it: products with what stands behind them, chains of
/// elementwise operators, normalisations and attention in one kernel each.
pub fn joined(graph: &Graph) -> Graph {
    let off = OWN.iter().map(|name| name.to_string()).collect();
    optimise(graph, &Options { off, ..Options::default() }).0
}

/// What a graph asks for, given the types of its inputs, on a device that holds a float in `bits`.
/// Bodies are not looked into; what depends on shapes that only a run knows counts nothing.
///
/// # Errors
/// The first node whose arguments contradict its operator.
pub fn demands(graph: &Graph, inputs: &[Type], bits: u32) -> Result<Demands, NodeError> {
    let inferred = infer(graph, inputs, &[])?;
    let computed = graph.nodes.iter().filter(|node| is_computed(node, &inferred));
    let kernels = computed.map(|node| demand_of(graph, node, &inferred, bits)).collect();
    let bytes = |id: ValueId| bytes(&inferred.types[id.index()], bits);
    Ok(Demands { kernels, memory: memory(graph, &bytes) })
}

/// Whether a run does something for a node: its results are not known before, nor are they what it
/// is given under another shape.
pub(crate) fn is_computed(node: &Node, inferred: &Inferred) -> bool {
    let is_view = find(&node.op).is_some_and(|def| def.kind == Kind::View);
    !is_view && !node.defs().all(|id| inferred.known.contains_key(&id))
}

/// What a node asks for.
pub(crate) fn demand_of(graph: &Graph, node: &Node, inferred: &Inferred, bits: u32) -> Demand {
    let known = |id: ValueId| -> Option<Tensor> {
        let value = inferred.known.get(&id).or_else(|| graph.constants.get(&id));
        value?.as_tensor().cloned()
    };
    let work = work_of(node, |id| inferred.types[id.index()].clone(), known);
    let products = 2.0 * work.macs;
    let bytes = traffic(node, |id: ValueId| bytes(&inferred.types[id.index()], bits)) as f64;
    Demand { products, others: (work.ops - products).max(0.0), bytes }
}

/// Bytes of a value, floats being of `bits`; 0 where its shape is not known.
pub(crate) fn bytes(ty: &Type, bits: u32) -> u64 {
    let of = || {
        let (dtype, elements) = (ty.dtype()?, element_count(&ty.known_shape()?).ok()?);
        let dtype_bytes = || u64::try_from(dtype.bytes(elements)?).ok();
        match dtype.is_float() && dtype != DType::F64 {
            true => Some((elements as u64).saturating_mul(u64::from(bits)).div_ceil(8)),
            false => dtype_bytes(),
        }
    };
    of().unwrap_or(0)
}

/// Constants and the most of what is alive, when nodes run in order.
fn memory(graph: &Graph, bytes: &dyn Fn(ValueId) -> u64) -> f64 {
    let mut last = BTreeMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        last.extend(node.uses().map(|id| (id, index)));
    }
    last.extend(graph.outputs.iter().map(|&id| (id, graph.nodes.len())));
    let size = |id: ValueId| bytes(id) as f64;
    let constants: f64 = graph.constants.keys().map(|&id| size(id)).sum();
    let mut alive: f64 = graph.inputs.iter().map(|&id| size(id)).sum();
    let mut most = alive;
    for (index, node) in graph.nodes.iter().enumerate() {
        alive += node.defs().map(size).sum::<f64>();
        most = most.max(alive);
        let mut read: Vec<ValueId> = node.uses().chain(node.defs()).collect();
        read.sort_unstable();
        read.dedup();
        let done = |id: &ValueId| {
            !graph.constants.contains_key(id) && last.get(id).is_none_or(|&at| at == index)
        };
        alive -= read.into_iter().filter(done).map(size).sum::<f64>();
    }
    constants + most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(text: &str) -> (Graph, Vec<Type>) {
        let graph = hetra_ir::parse(text).unwrap();
        let types = graph.inputs.iter().map(|&id| graph.ty(id).clone()).collect();
        (graph, types)
    }

    #[test]
    fn products_bytes_and_views() {
        let (graph, types) = graph(
            "graph \"g\" (%x: f32[2,3], %w: f32[3,4]) {
               %y = MatMul(%x, %w)
               %z = Relu(%y)
               %f = Flatten(%z) {axis = 1}
               return (%f)
             }",
        );
        let found = demands(&graph, &types, 16).unwrap();
        let product = Demand { products: 48.0, others: 0.0, bytes: 2.0 * 26.0 };
        let relu = Demand { products: 0.0, others: 8.0, bytes: 2.0 * 16.0 };
        assert_eq!(found.kernels, [product, relu]);
        // Joined, the activation is the product's.
        let joined = demands(&joined(&graph), &types, 16).unwrap();
        assert_eq!(joined.kernels.len(), 1);
        assert_eq!((joined.kernels[0].products, joined.kernels[0].bytes), (48.0, 52.0));
    }

    #[test]
    fn memory_is_what_is_alive() {
        let (graph, types) = graph(
            "graph \"g\" (%x: f32[100]) {
               %a = Relu(%x)
               %b = Relu(%a)
               %c = Add(%b, %x)
               return (%c)
             }",
        );
        // x, and two of a, b and c.
        assert_eq!(demands(&graph, &types, 32).unwrap().memory, 1200.0);
        assert_eq!(demands(&graph, &types, 8).unwrap().memory, 300.0);
    }
}
