//! A part to compile, and one call of the compiled program.

use std::cell::Cell;
use std::sync::Arc;

use hetra_ir::{Graph, Node, NodeId, Type, ValueId};
use hetra_kernel::KernelError;
use hetra_ops::{EvalCtx, OpError, Outer, Runner};
use hetra_tensor::{Buffer, DType, Tensor, TensorError, Value, element_count};
use serde::Serialize;
use smallvec::SmallVec;

/// Why a device cannot do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum DeviceError {
    #[error("there is no device `{id}`; found: {found}")]
    NoDevice { id: String, found: String },
    #[error("device {device} does not run node `{node}` ({op}): {reason}")]
    Unsupported { device: String, node: String, op: String, reason: String },
    #[error("{name}={value}: wanted one of {choices}")]
    Setting { name: &'static str, value: String, choices: String },
    #[error("device {device}: {reason}")]
    Failed { device: String, reason: String },
    #[error("device {device} has no memory for {bytes} bytes{at_most}")]
    Memory { device: String, bytes: usize, at_most: String },
    #[error("device {device} is lost: {reason}")]
    Lost { device: String, reason: String },
    #[error("device {device} was given memory of another device")]
    Foreign { device: String },
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl From<DeviceError> for TensorError {
    fn from(error: DeviceError) -> TensorError {
        TensorError::Device { reason: error.to_string() }
    }
}

/// The nodes of a graph that one device compiles together.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The graph that holds them.
    pub graph: &'a Graph,
    /// The nodes, in order.
    pub nodes: &'a [NodeId],
    /// What is known of the graph's values, by `ValueId`; extents may be open.
    pub types: &'a [Type],
}

impl<'a> Part<'a> {
    /// The constant tensor behind an input of a node, unless callers may replace it.
    pub fn constant(&self, node: &Node, input: usize) -> Option<&'a Tensor> {
        let id: ValueId = node.input(input)?;
        if self.graph.inputs.contains(&id) {
            return None;
        }
        self.graph.constant(id)
    }
}

/// What a program gives: as a rule one tensor, which then takes no memory but that of its elements.
pub type Values = SmallVec<[Value; 1]>;

/// A compiled part.
pub trait Program: Send + Sync {
    /// Runs on host values; returns the part's outputs in order.
    ///
    /// # Errors
    /// When the arguments contradict the operator, or memory runs out.
    fn run(&self, call: Call<'_>) -> Result<Values, OpError>;

    /// Name of the kernel, for traces: `gemm avx512`, `reference`.
    fn kernel(&self) -> &str;

    /// Whether it leaves the node to something slower than kernels of the device: to a reference,
    /// or to the host.
    fn falls_back(&self) -> bool {
        false
    }

    /// Whether the host does it, for a device that is another: traces say so.
    fn by_host(&self) -> bool {
        self.falls_back()
    }

    /// Whether output 0 will be written over input `index`, where `types` are those of the inputs
    /// and nobody else needs that one. The planner then has no other memory for the output.
    fn in_place(&self, index: usize, types: &[Option<&Type>]) -> bool {
        let _ = (index, types);
        false
    }
}

/// The planner's memory for one output.
#[derive(Default)]
pub struct Room {
    /// The block, which may hold old data; made when it is first asked for.
    pub block: Option<Arc<Buffer>>,
    /// Bytes that a new block gets at least: it will hold larger values of other steps, too.
    pub bytes: usize,
}

impl Room {
    /// The block for an output of `bytes`: the one there is, or a new one.
    fn take(&mut self, bytes: usize) -> Result<Arc<Buffer>, TensorError> {
        match self.block.take() {
            Some(block) if block.capacity() >= bytes => Ok(block),
            // It is given away, and comes back when its user is done.
            _ if self.bytes == 0 => Ok(Arc::new(Buffer::used(bytes)?)),
            _ => Ok(Arc::new(Buffer::zeroed(bytes.max(self.bytes))?)),
        }
    }
}

/// The arguments of one run of a program.
pub struct Call<'a> {
    /// The node that the part was made of (the last one of a larger part).
    pub node: &'a Node,
    /// Inputs; an input that dies here is the last reference to its tensor.
    pub inputs: &'a mut [Option<Value>],
    /// The planner's leave to write output 0 over this input.
    pub in_place: Option<usize>,
    /// Memory for each output. Blocks that are not taken stay the caller's.
    pub rooms: &'a mut [Room],
    /// Finds what bodies capture.
    pub outer: Outer<'a>,
    /// Runs bodies.
    pub runner: &'a dyn Runner,
    /// Set by a program whose kernel did not do these arguments, so that the reference ran.
    pub fell_back: &'a Cell<bool>,
    /// Set by a program of a device that is only described: what the run would take there.
    pub modelled: &'a Cell<Option<Modelled>>,
}

/// What a run takes on hardware that is not there, by a model of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Modelled {
    /// Seconds.
    pub seconds: f64,
    /// Joules of the device; none where its power is not known.
    pub joules: Option<f64>,
}

impl Call<'_> {
    /// The tensor at `index`.
    ///
    /// # Errors
    /// When it is not given or not a tensor.
    pub fn tensor(&self, index: usize) -> Result<&Tensor, OpError> {
        let value = self.inputs.get(index).and_then(Option::as_ref);
        let value = value.ok_or(OpError::MissingInput { index })?;
        value.as_tensor().ok_or_else(|| OpError::input(index, "a tensor", value.describe()))
    }

    /// The tensor at `index`, if it is given.
    pub fn tensor_opt(&self, index: usize) -> Option<&Tensor> {
        self.inputs.get(index).and_then(Option::as_ref).and_then(Value::as_tensor)
    }

    /// A tensor for output `index`, in the planner's block where there is one. It may hold old
    /// data: the kernel writes every element.
    ///
    /// # Errors
    /// `TooLarge` when there is no memory for it.
    pub fn output(
        &mut self,
        index: usize,
        dtype: DType,
        shape: &[usize],
    ) -> Result<Tensor, TensorError> {
        let bytes = element_count(shape).ok().and_then(|count| dtype.bytes(count));
        match (self.rooms.get_mut(index), bytes) {
            (Some(room), Some(bytes)) if dtype != DType::String => {
                Tensor::in_buffer(dtype, shape, room.take(bytes)?)
            }
            _ => Tensor::zeros(dtype, shape),
        }
    }

    /// Takes the input that output 0 may be written over, if the planner allows it and nobody
    /// else holds it.
    pub fn take_in_place(&mut self, index: usize) -> Option<Tensor> {
        if self.in_place != Some(index) {
            return None;
        }
        match self.inputs[index].take() {
            Some(Value::Tensor(tensor)) if tensor.is_unique() => Some(tensor),
            other => {
                self.inputs[index] = other;
                None
            }
        }
    }

    /// Runs the operator's reference on these arguments.
    ///
    /// # Errors
    /// As the operator's `eval`.
    pub fn reference(&self) -> Result<Values, OpError> {
        let def = hetra_ops::find(&self.node.op)
            .ok_or_else(|| OpError::unsupported("unknown operator"))?;
        Ok((def.eval)(&self.context())?.into())
    }

    /// The arguments in the form that the rows of operators take.
    pub fn context(&self) -> EvalCtx<'_> {
        EvalCtx { node: self.node, inputs: self.inputs, outer: self.outer, runner: self.runner }
    }
}
