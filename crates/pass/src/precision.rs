//! Lets products round their operands.
//!
//! No pass of [`crate::PASSES`]: those keep what a graph computes, up to rounding in f32. Which
//! nodes are lowered is for the caller to say, who knows what an error may cost.

use std::collections::BTreeSet;

use hetra_ir::{Graph, Node, NodeId, ValueId};
use hetra_ops::Compute;
use hetra_tensor::DType;

use crate::optimise::Claim;

/// Nodes of a graph, bodies aside, whose operands may be rounded to bf16: products and convolutions
/// by constant f32 weights that the device has a kernel for in that form.
pub fn can_lower(graph: &Graph, claims: &dyn Fn(&Node, &Graph) -> Claim) -> Vec<NodeId> {
    let fits = |node: &Node| {
        is_product(graph, node).unwrap_or(false) && claims(&lowered(node), graph) == Claim::Kernel
    };
    graph.nodes().filter(|(_, node)| fits(node)).map(|(id, _)| id).collect()
}

/// The same graph with the operands of these nodes rounded to bf16, and of no others.
pub fn lower(graph: &Graph, nodes: &BTreeSet<NodeId>) -> Graph {
    let mut graph = graph.clone();
    for (index, node) in graph.nodes.iter_mut().enumerate() {
        match nodes.contains(&NodeId(index as u32)) {
            true => Compute::Bf16.set(node),
            false => Compute::F32.set(node),
        }
    }
    graph
}

/// Fewer input channels than these are no long sums: kernels for f32 take whole rows of taps then.
const CHANNELS_MIN: usize = 16;

fn lowered(node: &Node) -> Node {
    let mut node = node.clone();
    Compute::Bf16.set(&mut node);
    node
}

/// Whether a node is a product of f32 by weights that never change, in a form that one kernel does
/// as a whole.
fn is_product(graph: &Graph, node: &Node) -> Option<bool> {
    let f32 = |id: ValueId| graph.ty(id).dtype() == Some(DType::F32);
    let weights = node.input(1)?;
    let constant = graph.constants.get(&weights)?.as_tensor()?;
    let fixed = !graph.inputs.contains(&weights) && f32(node.input(0)?) && f32(weights);
    let plain = |flag: &str| node.attrs.flag_or(flag, false).is_ok_and(|flag| !flag);
    let form = match node.op.as_str() {
        "hetra.ConvLast" => {
            let channels = constant.shape().get(1).is_some_and(|&c| c >= CHANNELS_MIN);
            channels && node.attrs.int_or("group", 1).ok()? == 1
        }
        "MatMul" | "com.microsoft.FusedMatMul" => {
            let turned = ["transA", "transBatchA", "transBatchB"].into_iter().any(|f| !plain(f));
            // A vector on the left is no matrix of rows.
            constant.rank() == 2 && !turned && graph.ty(node.input(0)?).dims()?.len() > 1
        }
        "Gemm" | "com.microsoft.FusedGemm" => true,
        _ => false,
    };
    Some(fixed && form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra_ir::{Builder, Dim, Type};
    use hetra_tensor::Tensor;

    fn products() -> Graph {
        let mut b = Builder::new("products");
        let x = b.input("x", DType::F32, vec![Dim::Known(4), Dim::Known(4)]);
        let w = b.constant("w", Tensor::zeros(DType::F32, &[4, 4]).unwrap());
        let by_weights = b.op("MatMul", &[x, w]);
        let by_itself = b.op("MatMul", &[by_weights, x]);
        let turned =
            Node::new("com.microsoft.FusedMatMul", &[by_itself, w], &[]).with("transA", 1i64);
        let turned = b.node(turned, 1)[0];
        let y = b.op("Gemm", &[turned, w]);
        let y = b.op("Relu", &[y]);
        b.output(y);
        let mut graph = b.finish();
        for value in &mut graph.values {
            value.ty = Type::tensor(DType::F32, &[4, 4]);
        }
        graph
    }

    #[test]
    fn only_products_by_weights_that_have_a_kernel() {
        let graph = products();
        let all = can_lower(&graph, &|_, _| Claim::Kernel);
        assert_eq!(all, [NodeId(0), NodeId(3)]);
        let no_gemm = |node: &Node, _: &Graph| match node.op.as_str() {
            "Gemm" => Claim::Reference,
            _ => Claim::Kernel,
        };
        assert_eq!(can_lower(&graph, &no_gemm), [NodeId(0)]);
    }

    #[test]
    fn only_what_is_asked_for_is_lowered() {
        let graph = products();
        let low = lower(&graph, &BTreeSet::from([NodeId(3)]));
        let rounds = |graph: &Graph, at: usize| {
            Compute::of(&graph.nodes[at].attrs).unwrap() == Compute::Bf16
        };
        assert_eq!([0, 3].map(|at| rounds(&low, at)), [false, true]);
        assert!(!rounds(&graph, 3));
    }
}
