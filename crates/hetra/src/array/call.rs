//! Calls of operators: what an array is to be computed from.

use std::sync::{Arc, Mutex};

use hetra_ir::{Attr, Attrs, Dim, Node, Type, ValueId};
use hetra_ops::{InferCtx, OpError, find};
use hetra_tensor::{DType, Shape, Tensor, broadcast};
use smallvec::SmallVec;

use super::evaluate::evaluate;
use super::place::Place;
use super::{Array, ArrayError, Inner, Result, State, checked};

/// Most calls one after another that are put off: then what they start from is computed. It bounds
/// the memory that waits, and how deep what refers to it is nested.
const DEPTH_MAX: u32 = 64;

/// An operator with its arguments.
pub(crate) struct Call {
    pub(crate) op: &'static str,
    pub(crate) attrs: Attrs,
    pub(crate) args: SmallVec<[Arg; 2]>,
    pub(crate) outputs: usize,
}

/// An argument.
#[derive(Clone)]
pub(crate) enum Arg {
    Array(Array),
    /// A constant that belongs to what is done, as axes do.
    Param(Tensor),
}

/// A call in the making.
pub(crate) struct Op {
    call: Call,
}

impl Op {
    pub(crate) fn new(op: &'static str) -> Op {
        Op { call: Call { op, attrs: Attrs::default(), args: SmallVec::new(), outputs: 1 } }
    }

    pub(crate) fn attr(mut self, name: &str, attr: impl Into<Attr>) -> Op {
        self.call.attrs.set(name, attr);
        self
    }

    pub(crate) fn on(mut self, array: &Array) -> Op {
        self.call.args.push(Arg::Array(array.clone()));
        self
    }

    pub(crate) fn ints(mut self, values: &[i64]) -> Op {
        self.call.args.push(Arg::Param(Tensor::vector(values)));
        self
    }

    pub(crate) fn int(mut self, value: i64) -> Op {
        self.call.args.push(Arg::Param(Tensor::scalar(value)));
        self
    }

    fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.call.args.iter().filter_map(|arg| match arg {
            Arg::Array(array) => Some(array),
            Arg::Param(_) => None,
        })
    }

    /// The device of the operands.
    fn place(&self) -> Result<Arc<Place>> {
        let mut arrays = self.arrays();
        let Some(first) = arrays.next() else { return Ok(Place::host()?) };
        for other in arrays {
            if !Arc::ptr_eq(first.place(), other.place()) {
                let (left, right) = (first.device().to_string(), other.device().to_string());
                return Err(ArrayError::Devices { left, right });
            }
        }
        Ok(first.place().clone())
    }

    /// The one output, whose type is known.
    pub(crate) fn typed(self, dtype: DType, shape: Shape) -> Result<Array> {
        let place = self.place()?;
        self.typed_on(dtype, shape, place)
    }

    /// As [`Op::typed`], for a call that has no operands.
    pub(crate) fn typed_on(self, dtype: DType, shape: Shape, place: Arc<Place>) -> Result<Array> {
        checked(dtype, &shape)?;
        let mut depth = 0;
        for array in self.arrays() {
            let mut own = array.depth();
            if own >= DEPTH_MAX {
                evaluate(&[array])?;
                own = 0;
            }
            depth = depth.max(own);
        }
        let state = Mutex::new(State::Pending(Arc::new(self.call), 0));
        Ok(Array(Arc::new(Inner { dtype, shape, place, depth: depth + 1, state })))
    }

    /// The one output; its type is what the operator's rule says.
    pub(crate) fn one(self) -> Result<Array> {
        let (dtype, shape) = self.infer()?.pop().ok_or_else(|| self.unknown())?;
        self.typed(dtype, shape)
    }

    /// So many outputs.
    pub(crate) fn many(mut self, outputs: usize) -> Result<Vec<Array>> {
        self.call.outputs = outputs;
        let types = self.infer()?;
        let place = self.place()?;
        for array in self.arrays() {
            if array.depth() >= DEPTH_MAX {
                evaluate(&[array])?;
            }
        }
        let depth = 1 + self.arrays().map(Array::depth).max().unwrap_or(0);
        let call = Arc::new(self.call);
        let outputs = types.into_iter().enumerate().map(|(index, (dtype, shape))| {
            checked(dtype, &shape)?;
            let state = Mutex::new(State::Pending(call.clone(), index));
            Ok(Array(Arc::new(Inner { dtype, shape, place: place.clone(), depth, state })))
        });
        outputs.collect()
    }

    /// The outputs, computed now: their shapes depend on values.
    pub(crate) fn now(mut self, outputs: usize) -> Result<Vec<Array>> {
        self.call.outputs = outputs;
        let place = self.place()?;
        let op = self.call.op;
        let mut inputs = Vec::new();
        for arg in &self.call.args {
            inputs.push(match arg {
                Arg::Array(array) => Some(array.to_host()?.into()),
                Arg::Param(tensor) => Some(tensor.clone().into()),
            });
        }
        let node = self.call.node(|index| ValueId(index as u32));
        let node =
            Node { outputs: (0..outputs).map(|i| Some(ValueId(i as u32))).collect(), ..node };
        let runner = &hetra_ops::Interpreter;
        let ctx = hetra_ops::EvalCtx { node: &node, inputs: &inputs, outer: &|_| None, runner };
        let def = find(op).ok_or_else(|| self.unknown())?;
        let values = (def.eval)(&ctx).map_err(|source| ArrayError::Op { op, source })?;
        let tensors = values.iter().filter_map(|value| value.as_tensor());
        Ok(tensors.map(|tensor| Array::ready(tensor.clone(), place.clone())).collect())
    }

    fn unknown(&self) -> ArrayError {
        let source = OpError::invalid("the shape of its output depends on values");
        ArrayError::Op { op: self.call.op, source }
    }

    /// The types of the outputs.
    fn infer(&self) -> Result<Vec<(DType, Shape)>> {
        let op = self.call.op;
        let fault = |source| ArrayError::Op { op, source };
        let def = find(op).ok_or_else(|| fault(OpError::unsupported("no such operator")))?;
        let types: Vec<Option<Type>> = self.call.args.iter().map(Arg::ty).collect();
        let known: Vec<Option<Tensor>> = self.call.args.iter().map(Arg::known).collect();
        let mut node = self.call.node(|index| ValueId(index as u32));
        node.outputs = (0..self.call.outputs).map(|i| Some(ValueId(i as u32))).collect();
        let body = |_: &hetra_ir::Graph, _: &[Type]| Ok(Vec::new());
        let ctx = InferCtx { node: &node, inputs: &types, known: &known, body: &body };
        let outputs = (def.infer)(&ctx).map_err(fault)?;
        let known = outputs.into_iter().map(|ty| {
            let shape = ty.known_shape().zip(ty.dtype());
            shape.map(|(shape, dtype)| (dtype, shape.into())).ok_or_else(|| self.unknown())
        });
        known.collect()
    }
}

impl Arg {
    fn ty(&self) -> Option<Type> {
        match self {
            Arg::Array(array) => Some(array.ty()),
            Arg::Param(tensor) => Some(Type::tensor(tensor.dtype(), tensor.shape())),
        }
    }

    fn known(&self) -> Option<Tensor> {
        match self {
            Arg::Param(tensor) => Some(tensor.clone()),
            Arg::Array(_) => None,
        }
    }
}

impl Array {
    fn ty(&self) -> Type {
        Type::shaped(self.dtype(), self.shape().iter().map(|&extent| Dim::Known(extent)).collect())
    }
}

impl Call {
    /// The node; `value` is the value of the argument at an index. It has no outputs yet.
    pub(crate) fn node(&self, value: impl Fn(usize) -> ValueId) -> Node {
        let inputs = (0..self.args.len()).map(|index| Some(value(index)));
        Node { attrs: self.attrs.clone(), inputs: inputs.collect(), ..Node::new(self.op, &[], &[]) }
    }
}

/// The shape that arrays broadcast to.
pub(crate) fn broadcast_of(op: &'static str, arrays: &[&Array]) -> Result<Shape> {
    let mut shape = Shape::new();
    for array in arrays {
        shape = broadcast(&shape, array.shape())
            .map_err(|error| ArrayError::shape(op, error.to_string()))?;
    }
    Ok(shape)
}
