//! Unit tests' way to run one operator and compare, with inference checked on the side.

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

    /// Runs the reference and checks that inference says what came out.
    pub(crate) fn eval(&self) -> Result<Vec<Value>, OpError> {
        let def = find(&self.node.op).expect("an operator of the table");
        let mut node = self.node.clone();
        node.inputs =
            self.inputs.iter().zip(0..).map(|(v, at)| v.as_ref().map(|_| ValueId(at))).collect();
        let inputs: Vec<_> = self.inputs.iter().map(|v| v.clone().map(Value::Tensor)).collect();
        let ctx = EvalCtx { node: &node, inputs: &inputs, outer: &|_| None, runner: &Interpreter };
        let outputs = (def.eval)(&ctx)?;
        let types: Vec<_> = inputs.iter().map(|v| v.as_ref().map(Type::of)).collect();
        let body = |_: &hetra_ir::Graph, _: &[Type]| Ok(Vec::new());
        let infer = InferCtx { node: &node, inputs: &types, known: &self.inputs, body: &body };
        let inferred = (def.infer)(&infer).expect("inference takes what the reference takes");
        let work = (def.work)(&infer, &inferred);
        assert!(work.ops >= 0.0 && work.macs >= 0.0);
        for (ty, value) in inferred.iter().zip(&outputs) {
            assert_eq!(*ty, Type::of(value), "inference of {}", node.op);
        }
        assert!(inferred.len() >= outputs.len().min(node.outputs.len()));
        Ok(outputs)
    }
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
