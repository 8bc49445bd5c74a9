//! Unit tests' way to run one operator and compare, with inference checked on the side.

use std::borrow::Borrow;

use hetra_ir::{Attr, Node, Type, ValueId};
use hetra_tensor::{Tensor, Value, to_f64};

use crate::context::{EvalCtx, InferCtx};
use crate::error::OpError;
use crate::{Interpreter, find};

/// A node with its inputs.
#[derive(Clone)]
pub(crate) struct Case {
    node: Node,
    inputs: Vec<Option<Tensor>>,
}

impl Case {
    pub(crate) fn new(op: &str) -> Case {
        Case { node: Node::new(op, &[], &[ValueId(1000)]), inputs: Vec::new() }
    }

    pub(crate) fn tensor(mut self, tensor: &Tensor) -> Case {
        self.inputs.push(Some(tensor.clone()));
        self
    }

    pub(crate) fn none(mut self) -> Case {
        self.inputs.push(None);
        self
    }

    pub(crate) fn attr(&self, name: &str, attr: impl Into<Attr>) -> Case {
        let mut case = self.clone();
        case.node.attrs.set(name, attr);
        case
    }

    pub(crate) fn outputs(mut self, count: u32) -> Case {
        self.node.outputs = (0..count).map(|at| Some(ValueId(1000 + at))).collect();
        self
    }

    pub(crate) fn with_input(&self, index: usize, tensor: &Tensor) -> Case {
        let mut case = self.clone();
        case.inputs.resize(case.inputs.len().max(index + 1), None);
        case.inputs[index] = Some(tensor.clone());
        case
    }

    /// As [`values`].
    pub(crate) fn eval(&self) -> Result<Vec<Value>, OpError> {
        values(&self.node, &self.inputs)
    }
}

/// Operators with extents that no inference knows: what is in their inputs decides them.
const DATA_DECIDES: [&str; 3] = ["StringNormalizer", "StringSplit", "hetra.LineBoxes"];

/// Runs a node, given by its operator and attributes, by the reference, and checks that inference
/// says what came out.
pub(crate) fn values(op: &Node, inputs: &[Option<Tensor>]) -> Result<Vec<Value>, OpError> {
    let def = find(&op.op).expect("an operator of the table");
    let mut node = op.clone();
    node.inputs = inputs.iter().zip(0..).map(|(v, at)| v.as_ref().map(|_| ValueId(at))).collect();
    if node.outputs.is_empty() {
        node.outputs = vec![Some(ValueId(1000))];
    }
    let values: Vec<_> = inputs.iter().map(|v| v.clone().map(Value::Tensor)).collect();
    let ctx = EvalCtx { node: &node, inputs: &values, outer: &|_| None, runner: &Interpreter };
    let outputs = (def.eval)(&ctx)?;
    let types: Vec<_> = values.iter().map(|v| v.as_ref().map(Type::of)).collect();
    let body = |_: &hetra_ir::Graph, _: &[Type]| Ok(Vec::new());
    let infer = InferCtx { node: &node, inputs: &types, known: inputs, body: &body };
    let inferred = (def.infer)(&infer).expect("inference takes what the reference takes");
    let work = (def.work)(&infer, &inferred);
    assert!(work.ops >= 0.0 && work.macs >= 0.0);
    for (ty, value) in inferred.iter().zip(&outputs) {
        let got = Type::of(value);
        if DATA_DECIDES.contains(&node.op.as_str()) {
            let rank = |ty: &Type| ty.dims().map(<[_]>::len);
            assert_eq!((ty.dtype(), rank(ty)), (got.dtype(), rank(&got)), "{}", node.op);
        } else {
            assert_eq!(*ty, got, "inference of {}", node.op);
        }
    }
    assert!(inferred.len() >= outputs.len().min(node.outputs.len()));
    Ok(outputs)
}

/// As [`values`], of an operator whose outputs are tensors.
pub(crate) fn run(
    op: impl Borrow<Node>,
    inputs: &[Option<Tensor>],
) -> Result<Vec<Tensor>, OpError> {
    let outputs = values(op.borrow(), inputs)?;
    Ok(outputs.iter().map(|value| value.as_tensor().expect("a tensor").clone()).collect())
}

/// As [`run`], with every input given.
pub(crate) fn outputs(op: &Node, inputs: &[Tensor]) -> Result<Vec<Tensor>, OpError> {
    let inputs: Vec<_> = inputs.iter().cloned().map(Some).collect();
    run(op, &inputs)
}

/// A node of which `outputs` outputs are wanted.
pub(crate) fn node(op: &str, outputs: u32) -> Node {
    let ids: Vec<_> = (0..outputs).map(|at| ValueId(1000 + at)).collect();
    Node::new(op, &[], &ids)
}

/// An input of these floats.
pub(crate) fn floats(shape: &[usize], values: &[f32]) -> Option<Tensor> {
    Some(Tensor::from_slice(shape, values).unwrap())
}

/// An input that counts from 0.
pub(crate) fn iota(shape: &[usize]) -> Option<Tensor> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
    floats(shape, &values)
}

/// The output at `index` has this shape and, closely, these values.
pub(crate) fn check(case: &Case, index: usize, shape: &[usize], wanted: &[f64]) {
    let outputs = case.eval().expect("the case runs");
    let tensor = outputs[index].as_tensor().expect("a tensor");
    assert_eq!(tensor.shape(), shape);
    let got = to_f64(tensor).expect("numbers");
    assert_eq!(got.len(), wanted.len());
    for (a, b) in got.iter().zip(wanted) {
        assert!((a - b).abs() <= 2e-6 + 2e-6 * b.abs() || a == b, "{got:?} is not {wanted:?}");
    }
}
