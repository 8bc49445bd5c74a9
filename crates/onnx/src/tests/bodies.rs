//! Bodies of control-flow nodes.

use super::*;
use crate::proto::TensorProto;
use crate::{ExportOptions, export, same_graph};

fn truth(name: &str, value: bool) -> TensorProto {
    tensors::to_proto(name, &Tensor::from_bools(&[], &[value]).unwrap())
}

fn branches(node: NodeProto, then: GraphProto, other: GraphProto) -> NodeProto {
    node.with(body("then_branch", then)).with(body("else_branch", other))
}

/// An `If` in an `If`; the inner one reads `x` and `k` of the model and `b` of the outer body,
/// and hands `x` through in one branch. The file has the nodes in reverse order.
fn nested() -> ModelProto {
    let deep = graph("", "r", vec![node("Add: b k -> t"), node("Mul: t x -> r")]);
    let inner = branches(node("If: yes -> p"), deep, graph("", "x", vec![]));
    let outer = graph("", "p", vec![inner, node("Add: x x -> b")]);
    let plain = graph("", "q", vec![node("Add: x k -> q")]);
    let nodes = vec![branches(node("If: yes -> y"), outer, plain), node("Add: w w -> k")];
    let mut proto = graph("x", "y", nodes);
    proto.initializer = vec![truth("yes", true), constant("w", &[5.0])];
    model(proto)
}

#[test]
fn bodies_capture_through_each_level() {
    assert_eq!(run(&nested(), &[&[1.0, 2.0]]), [[12.0, 28.0]]);
    let graph = read(&nested()).unwrap();
    let outer = graph.nodes[1].attrs.graph("then_branch").unwrap();
    let captured: Vec<&str> =
        outer.captures.iter().map(|capture| graph.value(capture.outer).name.as_str()).collect();
    assert_eq!(captured, ["x", "yes", "k"], "each once, though read twice");
    let deep = outer.nodes[1].attrs.graph("then_branch").unwrap();
    assert_eq!(deep.captures.len(), 3);
}

#[test]
fn bodies_come_back_from_a_file() {
    let graph = read(&nested()).unwrap();
    let bytes = export(&graph, &ExportOptions::default()).unwrap();
    let options = ImportOptions { allow_unknown_ops: true, ..ImportOptions::default() };
    let again = import(&bytes, &options).unwrap();
    let inner = |graph: &Graph| {
        let outer = graph.nodes[1].attrs.graph("then_branch").unwrap().clone();
        outer.nodes[1].attrs.graph("else_branch").unwrap().clone()
    };
    // What the branch hands through takes a copy.
    assert_eq!(inner(&graph).nodes.len(), 0);
    assert_eq!(inner(&again).nodes[0].op, "Identity");
    assert!(same_graph(&graph, &again).is_err());
    assert!(same_graph(&graph, &read(&nested()).unwrap()).is_ok());
}

#[test]
fn inner_names_hide_outer_ones() {
    let then = graph("", "x", vec![node("Add: k k -> x")]);
    let nodes = vec![branches(node("If: yes -> y"), then.clone(), then)];
    let mut proto = graph("x k", "y", nodes);
    proto.initializer = vec![truth("yes", true)];
    assert_eq!(run(&model(proto), &[&[1.0], &[4.0]]), [[8.0]]);
}

#[test]
fn a_body_that_reads_its_own_node_is_a_cycle() {
    let then = graph("", "r", vec![node("Add: y y -> r")]);
    let nodes = vec![branches(node("If: yes -> y"), then.clone(), then)];
    let mut proto = graph("", "y", nodes);
    proto.initializer = vec![truth("yes", true)];
    assert!(matches!(read(&model(proto)), Err(ImportError::Cycle { .. })));
}

#[test]
fn bodies_cannot_nest_without_end() {
    let mut inner = graph("", "r", vec![node("Add: x x -> r")]);
    for _ in 0..40 {
        let node = branches(node("If: yes -> r"), inner, graph("", "x", vec![]));
        inner = graph("", "r", vec![node]);
    }
    inner.input = vec![value("x"), value("yes")];
    // The wire format has a limit of its own, below ours.
    assert!(matches!(read(&model(inner)), Err(ImportError::Decode(_))));
}
