//! One node of a graph by itself, for whoever measures its schedules.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetra_device::{Call, Device, DeviceError, Part, Program, Random, Room, Schedule, Space, Task};
use hetra_ir::{Graph, NodeId, Type, ValueId};
use hetra_ops::{Interpreter, NodeError, OpError};
use hetra_tensor::{DType, Tensor, Value, element_count, from_f64};

use crate::engine::Engine;

/// Bytes that are read between two samples, so that weights are as far away as in a model, where
/// other nodes ran since they were used: more than the second cache level has.
const SWEEP_BYTES: usize = 4 << 20;
/// Fewest samples of a measurement, and most.
const SAMPLES_MIN: usize = 3;
const SAMPLES_MAX: usize = 1000;

/// A node that can be tuned, at known sizes.
pub struct Alone {
    graph: Arc<Graph>,
    device: Arc<dyn Device>,
    types: Arc<Vec<Type>>,
    node: NodeId,
    task: Task,
    space: Space,
}

impl Engine {
    /// The nodes that can be tuned for inputs of these types, in order. Those in bodies are not
    /// among them.
    ///
    /// # Errors
    /// The first node whose arguments contradict its operator.
    pub fn tunable(&self, inputs: &[Type]) -> Result<Vec<Alone>, NodeError> {
        let types = Arc::new(hetra_pass::infer(&self.graph, inputs, &[])?.types);
        let alone = |(node, _): (NodeId, _)| {
            let part = Part { graph: &self.graph, nodes: &[node], types: &types };
            let (task, space) = self.device.tunes(&part)?;
            let (graph, device) = (self.graph.clone(), self.device.clone());
            Some(Alone { graph, device, types: types.clone(), node, task, space })
        };
        Ok(self.graph.nodes().filter_map(alone).collect())
    }
}

impl Alone {
    /// What is tuned.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The schedules that there are.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The node's name, as in a trace.
    pub fn label(&self) -> String {
        self.graph.node(self.node).label(&self.graph)
    }

    /// Which it is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Its operator.
    pub fn op(&self) -> &str {
        &self.graph.node(self.node).op
    }

    /// The type of its first output.
    pub fn output(&self) -> String {
        let output = self.graph.node(self.node).defs().next();
        output.map_or(String::new(), |id| self.types[id.index()].to_string())
    }

    /// Compiles it by a schedule.
    ///
    /// # Errors
    /// As [`Device::compile_with`].
    pub fn compile(&self, schedule: &Schedule) -> Result<Arc<dyn Program>, DeviceError> {
        let part = Part { graph: &self.graph, nodes: &[self.node], types: &self.types };
        self.device.compile_with(&part, schedule)
    }

    /// Its arguments: the graph's constants, and random numbers from -1 to 1 for the rest.
    ///
    /// # Errors
    /// When an argument is neither f32 nor bf16 of a known shape.
    pub fn arguments(&self) -> Result<Vec<Option<Value>>, OpError> {
        let mut random = Random::new(1);
        let node = self.graph.node(self.node);
        let mut one = |(index, id): (usize, ValueId)| -> Result<Value, OpError> {
            let ty = &self.types[id.index()];
            let constant = self.graph.constants.get(&id);
            if let Some(value) = constant.filter(|_| !self.graph.inputs.contains(&id)) {
                return Ok(value.clone());
            }
            let fault = || OpError::input(index, "f32 or bf16 of a known shape", ty.to_string());
            // Images between nodes may be stored as bf16.
            let dtype = ty.dtype().filter(|dtype| [DType::F32, DType::BF16].contains(dtype));
            let (shape, dtype) = ty.known_shape().zip(dtype).ok_or_else(fault)?;
            let numbers: Vec<f64> =
                (0..element_count(&shape)?).map(|_| 2.0 * random.unit() - 1.0).collect();
            Ok(Value::from(from_f64(dtype, &shape, &numbers)?))
        };
        let ids = node.inputs.iter().enumerate();
        let arguments: Vec<Option<Value>> = ids
            .map(|(index, id)| id.map(|id| one((index, id))).transpose())
            .collect::<Result<_, _>>()?;
        Ok(arguments.into_iter().map(|value| value.map(|value| self.placed(value))).collect())
    }

    /// A value where the device has it in the midst of a model.
    fn placed(&self, value: Value) -> Value {
        // What cannot be placed now is copied in each run, as it would be then.
        let held = value.as_tensor().and_then(|tensor| self.device.place(tensor).ok().flatten());
        held.map_or(value, Value::from)
    }

    /// Runs a program of it again and again for so long, at least three times, after a run that
    /// does not count. Gives the seconds of each run. The caches of the calling thread hold the
    /// arguments that are not constant, as if a node before had just made them, and not the rest.
    ///
    /// # Errors
    /// The error of a run, or that it was left to the reference, which has no schedules.
    pub fn time(
        &self,
        program: &dyn Program,
        arguments: &[Option<Value>],
        length: Duration,
    ) -> Result<Vec<f64>, OpError> {
        let mut samples = Ok(Vec::new());
        self.device.scope(&mut || samples = self.time_here(program, arguments, length));
        samples
    }

    /// The arguments that are no constants.
    fn computed<'a>(&'a self, arguments: &'a [Option<Value>]) -> impl Iterator<Item = &'a Tensor> {
        let inputs = self.graph.node(self.node).inputs.iter().zip(arguments);
        let open =
            inputs.filter(|(id, _)| id.is_none_or(|id| !self.graph.constants.contains_key(&id)));
        open.filter_map(|(_, value)| value.as_ref()?.as_tensor())
    }

    fn time_here(
        &self,
        program: &dyn Program,
        arguments: &[Option<Value>],
        length: Duration,
    ) -> Result<Vec<f64>, OpError> {
        let node = self.graph.node(self.node);
        let mut rooms: Vec<Room> = node.outputs.iter().map(|_| Room::default()).collect();
        let mut samples = Vec::new();
        let sweep = vec![1u8; SWEEP_BYTES];
        let begun = Instant::now();
        for run in 0.. {
            let enough = samples.len() >= SAMPLES_MIN && begun.elapsed() >= length;
            if enough || samples.len() == SAMPLES_MAX {
                break;
            }
            read(&sweep);
            if self.device.launcher().is_none() {
                self.computed(arguments).for_each(|tensor| read(tensor.bytes()));
            }
            let fell_back = Cell::new(false);
            let mut inputs = arguments.to_vec();
            let call = Call {
                node,
                inputs: &mut inputs,
                in_place: None,
                rooms: &mut rooms,
                outer: &|_| None,
                runner: &Interpreter,
                fell_back: &fell_back,
                modelled: &Cell::new(None),
            };
            let started = Instant::now();
            let outputs = program.run(call)?;
            if let Some(launcher) = self.device.launcher() {
                launcher.wait().map_err(|error| OpError::Tensor(error.into()))?;
            }
            let seconds = started.elapsed().as_secs_f64();
            if fell_back.get() {
                return Err(OpError::unsupported("a kernel that takes these arguments"));
            }
            if run > 0 {
                samples.push(seconds);
            }
            // As in a run of the whole: the memory of the output is there already.
            let room = |value: Value| match value {
                Value::Tensor(tensor) => Room { block: tensor.into_buffer(), bytes: 0 },
                _ => Room::default(),
            };
            rooms = outputs.into_iter().map(room).collect();
        }
        Ok(samples)
    }
}

/// Reads a byte of each line of the cache.
fn read(bytes: &[u8]) {
    std::hint::black_box(bytes.iter().step_by(64).fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
}
