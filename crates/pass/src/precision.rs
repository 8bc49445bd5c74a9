//! Lets products round their operands.
//!
//! No pass of [`crate::PASSES`]: those keep what a graph computes, up to rounding in f32. Which
//! nodes are lowered is for the caller to say, who knows what an error may cost.

use std::collections::BTreeSet;

use hetra_ir::{Graph, Node, NodeId, Type, ValueId};
use hetra_ops::{ChannelsLast, Compute, set_stored, stored};
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

/// The same graph with the operands of these nodes rounded to bf16, and of no others. Images
/// between them are stored as bf16 where the device has kernels that read and write them so.
pub fn lower(
    graph: &Graph,
    nodes: &BTreeSet<NodeId>,
    claims: &dyn Fn(&Node, &Graph) -> Claim,
) -> Graph {
    let mut graph = as_f32(graph.clone());
    for (index, node) in graph.nodes.iter_mut().enumerate() {
        match nodes.contains(&NodeId(index as u32)) {
            true => Compute::Bf16.set(node),
            false => Compute::F32.set(node),
        }
    }
    store_images(graph, claims)
}

/// The graph as it was before images were stored as bf16.
fn as_f32(mut graph: Graph) -> Graph {
    let mut images = BTreeSet::new();
    for node in &mut graph.nodes {
        // What a node of another kind moves is stored as what it reads.
        let low = match stored(&node.attrs) {
            Ok(Some(dtype)) => dtype == DType::BF16,
            _ => image_inputs(node)
                .iter()
                .any(|&i| node.input(i).is_some_and(|v| images.contains(&v))),
        };
        if low {
            images.extend(node.outputs.iter().copied().flatten());
        }
        set_stored(node, None);
    }
    for value in images {
        graph.values[value.index()].ty = of_dtype(graph.ty(value), DType::F32);
    }
    graph
}

/// Stores as bf16 what is written and read by convolutions that round their operands, and by nodes
/// between them that write what they read.
fn store_images(mut graph: Graph, claims: &dyn Fn(&Node, &Graph) -> Claim) -> Graph {
    let mut images = images(&graph);
    if images.is_empty() || !graph.nodes.iter().any(rounds) {
        return graph;
    }
    for value in &images {
        graph.values[value.index()].ty = of_dtype(graph.ty(*value), DType::BF16);
    }
    loop {
        let mut refused = BTreeSet::new();
        for node in &graph.nodes {
            let all = image_values(node);
            let stored: Vec<ValueId> =
                all.iter().copied().filter(|value| images.contains(value)).collect();
            // A convolution rounds what it writes, whatever it reads.
            let same = node.op == "hetra.ConvLast" || stored.len() == all.len();
            let fits = || claims(&storing(node, &images), &graph) == Claim::Kernel;
            if stored.is_empty() || same && fits() {
                continue;
            }
            // It may write what it cannot read.
            let written = |value: &ValueId| node.outputs.contains(&Some(*value));
            match stored.iter().all(written) {
                true => refused.extend(stored),
                false => refused.extend(stored.into_iter().filter(|value| !written(value))),
            }
        }
        for value in &refused {
            images.remove(value);
            graph.values[value.index()].ty = of_dtype(graph.ty(*value), DType::F32);
        }
        if refused.is_empty() {
            break;
        }
    }
    let nodes = graph.nodes.iter().map(|node| storing(node, &images)).collect();
    Graph { nodes, ..graph }
}

fn rounds(node: &Node) -> bool {
    Compute::of(&node.attrs).is_ok_and(|compute| compute == Compute::Bf16)
}

/// The inputs of a node that are images with their channels last, or numbers that it moves, adds or
/// multiplies as they are: their type is that of the output.
fn image_inputs(node: &Node) -> Vec<usize> {
    if let Some(form) = ChannelsLast::named(&node.op) {
        return form.images(node).collect();
    }
    match node.op.as_str() {
        "Add" | "Mul" | "Concat" | "hetra.GatherConcat" => (0..node.inputs.len()).collect(),
        "Transpose" | "Slice" | "Split" | "Gather" | "Expand" | "Tile" | "Resize" => vec![0],
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => vec![0],
        _ => Vec::new(),
    }
}

/// The values that these inputs are, and what is made of them.
fn image_values(node: &Node) -> Vec<ValueId> {
    let read: Vec<usize> = image_inputs(node);
    let outputs = node.outputs.iter().flatten().filter(|_| !read.is_empty());
    read.iter().filter_map(|&index| node.input(index)).chain(outputs.copied()).collect()
}

/// A node that reads and writes these images as bf16.
fn storing(node: &Node, images: &BTreeSet<ValueId>) -> Node {
    let mut node = node.clone();
    let writes = node.output(0).is_some_and(|value| images.contains(&value));
    let form = ChannelsLast::named(&node.op).is_some();
    if form && (writes || image_values(&node).iter().any(|value| images.contains(value))) {
        set_stored(&mut node, Some(if writes { DType::BF16 } else { DType::F32 }));
    }
    node
}

/// Values of f32 that only nodes write and read for which they are images.
fn images(graph: &Graph) -> BTreeSet<ValueId> {
    let mut images: BTreeSet<ValueId> = BTreeSet::new();
    let f32 = |value: &ValueId| graph.ty(*value).dtype() == Some(DType::F32);
    let known = |value: &ValueId| graph.ty(*value).dims().is_some();
    let written = graph.nodes.iter().filter(|node| !image_inputs(node).is_empty());
    let written = written.flat_map(|node| node.outputs.iter().copied().flatten());
    images.extend(written.filter(|id| f32(id) && known(id)));
    let mut others: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    for node in &graph.nodes {
        let read = image_inputs(node);
        let plain = node.inputs.iter().enumerate().filter(|(index, _)| !read.contains(index));
        others.extend(plain.filter_map(|(_, value)| *value));
        others.extend(node.attrs.graphs().flat_map(|(_, body)| &body.captures).map(|c| c.outer));
    }
    images.retain(|value| !others.contains(value));
    images
}

fn of_dtype(ty: &Type, dtype: DType) -> Type {
    match ty.dims() {
        Some(dims) => Type::shaped(dtype, dims.to_vec()),
        None => ty.clone(),
    }
}

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
        "hetra.ConvLast" => true,
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
        let low = lower(&graph, &BTreeSet::from([NodeId(3)]), &|_, _| Claim::Kernel);
        let rounds = |graph: &Graph, at: usize| {
            Compute::of(&graph.nodes[at].attrs).unwrap() == Compute::Bf16
        };
        assert_eq!([0, 3].map(|at| rounds(&low, at)), [false, true]);
        assert!(!rounds(&graph, 3));
    }

    /// Convolutions one behind the other, with a sum and a copy between them and what is no image.
    fn images() -> Graph {
        let mut b = Builder::new("images");
        let x = b.input("x", DType::F32, vec![Dim::Known(4); 4]);
        let w = b.constant("w", Tensor::zeros(DType::F32, &[4, 4, 1, 1]).unwrap());
        let first = b.op("hetra.ConvLast", &[x, w]);
        let pooled = b.op("hetra.MaxPoolLast", &[first]);
        let second = b.op("hetra.ConvLast", &[pooled, w]);
        let sum = b.op("Add", &[pooled, second]);
        let third = b.op("hetra.ConvLast", &[sum, w, second]);
        let root = b.op("Sqrt", &[third]);
        let fourth = b.op("hetra.ConvLast", &[root, w]);
        b.output(fourth);
        let mut graph = b.finish();
        for value in &mut graph.values {
            value.ty = Type::tensor(DType::F32, &[4; 4]);
        }
        graph
    }

    fn dtypes(graph: &Graph) -> String {
        let told = |node: &Node| match graph.ty(node.output(0).unwrap()).dtype() {
            Some(DType::BF16) => 'b',
            Some(DType::F32) => 'f',
            _ => '?',
        };
        graph.nodes.iter().map(told).collect()
    }

    #[test]
    fn images_between_rounded_convolutions_are_stored_as_they_are_read() {
        let graph = images();
        let kernel = |_: &Node, _: &Graph| Claim::Kernel;
        let convs = can_lower(&graph, &kernel);
        let all: BTreeSet<NodeId> = convs.iter().copied().collect();
        // The second convolution is a bias of the third, too: that is no image.
        let low = lower(&graph, &all, &kernel);
        assert_eq!(dtypes(&low), "fffffff");
        assert_eq!(dtypes(&lower(&graph, &BTreeSet::new(), &kernel)), "fffffff");
        let mut graph = graph;
        graph.nodes[4].inputs.truncate(2);
        let low = lower(&graph, &all, &kernel);
        assert_eq!(dtypes(&low), "bbbbfff");
        let told: Vec<_> =
            low.nodes.iter().map(|node| hetra_ops::stored(&node.attrs).unwrap()).collect();
        let (f32, bf16) = (Some(DType::F32), Some(DType::BF16));
        assert_eq!(told, [bf16, bf16, bf16, None, f32, None, None]);
        let again = lower(&low, &BTreeSet::new(), &kernel);
        assert_eq!(dtypes(&again), "fffffff");
        assert_eq!(again.nodes, lower(&graph, &BTreeSet::new(), &kernel).nodes);
        // Without a kernel for the sum, all that meets in it stays as it was.
        let no_sum = |node: &Node, graph: &Graph| match node.op.as_str() {
            "Add" if graph.ty(node.output(0).unwrap()).dtype() == Some(DType::BF16) => {
                Claim::Reference
            }
            _ => Claim::Kernel,
        };
        assert_eq!(dtypes(&lower(&graph, &all, &no_sum)), "fffffff");
        // A convolution that is not rounded writes what it reads.
        let some = BTreeSet::from([convs[0], convs[2]]);
        assert_eq!(dtypes(&lower(&graph, &some, &kernel)), "bbbbfff");
    }
}
