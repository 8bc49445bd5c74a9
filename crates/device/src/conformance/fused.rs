//! Cases of elementwise operators in one node.

use std::sync::Arc;

use hetra_ir::{Builder, Dim, Graph, Node, Type};
use hetra_tensor::{DType, Tensor};

use super::Case;
use super::random::{Random, live, node};

/// Chains of an array, another one of its shape and a number; a reduction of the last axes, or of
/// all, behind some.
pub(super) fn fused(random: &Random, cases: &mut Vec<Case>) {
    for reduced in [None, Some(1), Some(2), Some(3)] {
        let shape = [random.pick(&[1, 2, 3]), random.pick(&[1, 5]), random.pick(&[7, 64, 301])];
        let keep = random.below(2) == 1;
        let body = body(random, &shape, reduced, keep);
        let number = random.floats(&[1]);
        let inputs = vec![
            live(random.floats(&shape)),
            live(random.floats(&shape)),
            live(number.reshape(&[]).unwrap_or(number)),
        ];
        let op = node("hetra.Fused").with("body", Arc::new(body));
        let name = format!("Fused of {shape:?} along {reduced:?}");
        cases.push(Case::new(&name, op, inputs, 1));
    }
}

fn body(random: &Random, shape: &[usize], reduced: Option<usize>, keep: bool) -> Graph {
    let mut b = Builder::new("fused");
    let dims = || shape.iter().map(|&extent| Dim::Known(extent)).collect::<Vec<_>>();
    let x = b.input("x", DType::F32, dims());
    let y = b.input("y", DType::F32, dims());
    let s = b.input("s", DType::F32, vec![]);
    let first = b.op(random.pick(&["Sub", "Add", "Min"]), &[x, s]);
    let square = b.op("Mul", &[first, first]);
    let curve = b.op(random.pick(&["Tanh", "Sigmoid", "Abs"]), &[square]);
    let sum = b.op(random.pick(&["Add", "Max"]), &[y, curve]);
    let inner = [first, square, curve, sum];
    let Some(axes) = reduced else {
        b.output(sum);
        return typed(b.finish(), &inner, shape);
    };
    let last: Vec<i64> = (shape.len() - axes..shape.len()).map(|axis| axis as i64).collect();
    let axes = b.constant("axes", Tensor::vector(&last));
    let op = random.pick(&["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"]);
    let reduce = Node::new(op, &[sum, axes], &[]).with("keepdims", i64::from(keep));
    let result = b.node(reduce, 1)[0];
    b.output(result);
    let mut graph = typed(b.finish(), &inner, shape);
    let left = &shape[..shape.len() - last.len()];
    let mut extents = left.to_vec();
    extents.resize(if keep { shape.len() } else { left.len() }, 1);
    graph.values[result.index()].ty = Type::tensor(DType::F32, &extents);
    graph
}

/// The same body, whose values have their types, as passes give it.
fn typed(mut graph: Graph, values: &[hetra_ir::ValueId], shape: &[usize]) -> Graph {
    for value in values {
        graph.values[value.index()].ty = Type::tensor(DType::F32, shape);
    }
    graph
}
