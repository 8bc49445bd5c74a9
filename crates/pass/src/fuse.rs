//! Elementwise operators on large arrays become one node, so that what is between them stays in
//! caches or registers; a reduction behind them takes their result at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use hetra_ir::{Builder, Dim, Graph, Node, Type, ValueId};
use hetra_ops::{Kind, find};
use hetra_tensor::DType;

use crate::editor::Editor;
use crate::optimise::{Claim, Pass};

pub(crate) static FUSE: Pass = Pass {
    name: "fuse",
    doc: "Does elementwise operators on large arrays, and a reduction behind them, as one.",
    run: |ed| {
        // From the back, so that a chain is found whole.
        for at in ed.live().into_iter().rev() {
            fuse(ed, at);
        }
    },
};

/// Smaller arrays stay in caches anyway.
const ELEMENTS_MIN: usize = 64 << 10;

/// Most inputs of a fused node: a kernel of any device has so many buffers.
const INPUTS_MAX: usize = 7;

/// Most nodes of one.
const NODES_MAX: usize = 32;

const REDUCTIONS: [&str; 4] = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"];

fn fuse(ed: &mut Editor<'_>, root: usize) {
    // It may be part of another by now.
    if !ed.is_live(root) {
        return;
    }
    let reduces = REDUCTIONS.iter().any(|op| ed.is(root, op));
    let start = if reduces { ed.input(root, 0) } else { ed.sole_output(root) };
    let Some(shape) = start.and_then(|value| large(ed, value)) else { return };
    let mut group = BTreeSet::from([root]);
    if !reduces && !joins(ed, root, &shape) {
        return;
    }
    // A node joins when all that reads it has joined.
    while group.len() < NODES_MAX {
        let feeds = group.iter().flat_map(|&at| ed.node(at).uses().collect::<Vec<_>>());
        let next =
            feeds.filter_map(|value| Some((value, ed.producer(value)?))).find(|&(value, at)| {
                !group.contains(&at)
                    && !ed.is_output(value)
                    && ed.users(value).iter().all(|user| group.contains(user))
                    && joins(ed, at, &shape)
            });
        let Some((_, at)) = next else { break };
        group.insert(at);
    }
    if group.len() < 2 {
        return;
    }
    let Some((inputs, body)) = body(ed, &group, root, &shape) else { return };
    if inputs.len() > INPUTS_MAX {
        return;
    }
    let what = format!("{} elementwise operators", group.len());
    let node = Node::new("hetra.Fused", &inputs, &[]).with("body", Arc::new(body));
    let absorbed: Vec<usize> = group.iter().copied().filter(|&at| at != root).collect();
    ed.fuse(root, node, &absorbed, &what);
}

/// The shape of a value, if it is of `f32` and has many elements for certain.
fn large(ed: &Editor<'_>, value: ValueId) -> Option<Vec<usize>> {
    let shape = ed.ty(value).known_shape()?;
    let count = shape.iter().try_fold(1usize, |all, &extent| all.checked_mul(extent))?;
    (ed.dtype(value) == Some(DType::F32) && count >= ELEMENTS_MIN).then_some(shape)
}

/// Whether a node gives an element for each of this shape, of `f32` alone, by a kernel.
fn joins(ed: &Editor<'_>, at: usize, shape: &[usize]) -> bool {
    let node = ed.node(at);
    let elementwise = find(&node.op).is_some_and(|def| def.kind == Kind::Elementwise && def.pure);
    let own = ed.sole_output(at).and_then(|value| large(ed, value));
    elementwise
        && own.as_deref() == Some(shape)
        && node.inputs.iter().all(|input| input.is_some_and(|value| operand(ed, value, shape)))
        && ed.claim(node) == Claim::Kernel
}

/// Whether a value is of this shape, or one number.
fn operand(ed: &Editor<'_>, value: ValueId, shape: &[usize]) -> bool {
    let own = ed.ty(value).known_shape();
    let one = |own: &[usize]| own.len() <= shape.len() && own.iter().all(|&extent| extent == 1);
    ed.dtype(value) == Some(DType::F32) && own.is_some_and(|own| own == shape || one(&own))
}

/// The nodes as a graph of their own, and what it reads.
fn body(
    ed: &Editor<'_>,
    group: &BTreeSet<usize>,
    root: usize,
    shape: &[usize],
) -> Option<(Vec<ValueId>, Graph)> {
    let mut builder = Builder::new("fused");
    let mut inputs: Vec<ValueId> = Vec::new();
    let mut known: Vec<(ValueId, ValueId)> = Vec::new();
    let mut left: Vec<usize> = group.iter().copied().collect();
    while !left.is_empty() {
        // Nodes that came to their places late stand behind what reads them.
        let ready = |&at: &usize| {
            let mut feeds = ed.node(at).uses().filter_map(|value| ed.producer(value));
            feeds.all(|feed| !left.contains(&feed))
        };
        let place = left.iter().position(ready)?;
        let at = left.remove(place);
        let node = ed.node(at);
        let mut own = Vec::new();
        for (index, &value) in node.inputs.iter().enumerate() {
            let value = value?;
            if let Some((_, inside)) = known.iter().find(|(outside, _)| *outside == value) {
                own.push(*inside);
                continue;
            }
            // The axes of a reduction belong to it.
            let constant = if at == root && index > 0 { ed.constant(value) } else { None };
            let inside = match constant {
                Some(tensor) if !operand(ed, value, shape) => builder.constant("", tensor.clone()),
                _ if at == root && index > 0 && !operand(ed, value, shape) => return None,
                _ => {
                    let dims = ed.ty(value).known_shape()?.into_iter().map(Dim::Known).collect();
                    inputs.push(value);
                    builder.input(&format!("x{}", inputs.len() - 1), DType::F32, dims)
                }
            };
            known.push((value, inside));
            own.push(inside);
        }
        let made = Node { inputs: own.into_iter().map(Some).collect(), ..node.clone() };
        let output = builder.node(Node { outputs: vec![], ..made }, 1)[0];
        known.push((node.output(0)?, output));
        if at == root {
            builder.output(output);
        }
    }
    let mut graph = builder.finish();
    // Devices look at the types of what is between the nodes.
    for (outside, inside) in known {
        graph.values[inside.index()].ty = ed.ty(outside).clone();
    }
    debug_assert!(graph.outputs.iter().all(|&value| *graph.ty(value) != Type::Unknown));
    Some((inputs, graph))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimise::{Options, optimise};

    fn chain(count: usize) -> Graph {
        let mut b = Builder::new("chain");
        let x = b.input("x", DType::F32, vec![Dim::Known(count)]);
        let y = b.input("y", DType::F32, vec![]);
        let d = b.op("Sub", &[x, y]);
        let square = b.op("Mul", &[d, d]);
        let exp = b.op("Exp", &[square]);
        let axes = b.constant("axes", hetra_tensor::Tensor::vector(&[0i64]));
        let sum = b.node(Node::new("ReduceSum", &[exp, axes], &[]).with("keepdims", 0i64), 1)[0];
        b.output(sum);
        b.finish()
    }

    #[test]
    fn a_chain_with_its_reduction_is_one_node() {
        let (graph, report) = optimise(&chain(ELEMENTS_MIN), &Options::default());
        let ops: Vec<&str> = graph.nodes.iter().map(|node| node.op.as_str()).collect();
        assert_eq!(ops, ["hetra.Fused"]);
        let body = graph.nodes[0].attrs.graph("body").unwrap();
        assert_eq!((body.nodes.len(), body.inputs.len()), (4, 2));
        assert_eq!(report.pass("fuse").unwrap().rewrites.len(), 1);
        assert!(hetra_ir::verify(&graph).is_ok());
    }

    #[test]
    fn small_arrays_and_values_that_others_read_stay() {
        let (graph, _) = optimise(&chain(ELEMENTS_MIN - 1), &Options::default());
        assert_eq!(graph.nodes.len(), 4);
        let mut shown = chain(ELEMENTS_MIN);
        let square = shown.nodes[1].output(0).unwrap();
        shown.outputs.push(square);
        let (graph, _) = optimise(&shown, &Options::default());
        let ops: Vec<&str> = graph.nodes.iter().map(|node| node.op.as_str()).collect();
        assert_eq!(ops, ["hetra.Fused", "hetra.Fused"]);
    }
}
