//! One run of a plan.

use std::cell::{Cell, RefCell};

use hetra_device::{Call, DeviceError, Modelled, Room, Values};
use hetra_ir::{Node, ValueId};
use hetra_ops::{Compute, NodeError, OpError, Outer, multiplied};
use hetra_pass::{traffic, work_of};
use hetra_plan::{Plan, Step};
use hetra_tensor::{DType, Value, element_count};

use crate::engine::{Bodies, Engine, Memory};
use crate::options::RunOptions;
use crate::trace::{Recorder, StepTime};

/// What a run and the bodies in it share.
#[derive(Clone, Copy)]
pub(crate) struct RunContext<'a> {
    pub(crate) options: &'a RunOptions,
    /// Where times are wanted.
    pub(crate) recorder: Option<&'a Recorder>,
}

/// The values that are alive.
struct Frame<'a> {
    engine: &'a Engine,
    plan: &'a Plan,
    memory: &'a mut Memory,
    context: RunContext<'a>,
    env: Vec<Option<Value>>,
}

pub(crate) fn run(
    engine: &Engine,
    plan: &Plan,
    memory: &mut Memory,
    inputs: Vec<Value>,
    captured: Vec<Option<Value>>,
    context: RunContext<'_>,
) -> Result<(Vec<Value>, Vec<StepTime>), NodeError> {
    let graph = &engine.graph;
    let mut env = std::mem::take(&mut memory.env);
    env.resize(graph.values.len(), None);
    for (&id, value) in graph.inputs.iter().zip(inputs) {
        env[id.index()] = Some(value);
    }
    for (capture, value) in graph.captures.iter().zip(captured) {
        env[capture.inner.index()] = value;
    }
    let mut frame = Frame { engine, plan, memory, context, env };
    let mut times = Vec::new();
    for step in &plan.steps {
        let start_ns = context.recorder.map(Recorder::now_ns);
        let did = frame.step(step)?;
        let done_ns = frame.settle(step)?;
        if let Some((start_ns, (end_ns, own_ns))) = start_ns.zip(done_ns) {
            // The steps of bodies have asked for their own.
            let inner: u64 = did.inner.iter().filter_map(|step| step.kernel_ns).sum();
            let time = time(engine, plan, step, did, (start_ns, end_ns - start_ns));
            times.push(StepTime { kernel_ns: own_ns.map(|own| own + inner), ..time });
        }
    }
    let outputs = frame.outputs()?;
    let Frame { mut env, memory, .. } = frame;
    env.clear();
    memory.env = env;
    Ok((outputs, times))
}

/// What became of a step.
#[derive(Default)]
pub(crate) struct Did {
    /// Its kernel left the work to the reference.
    pub(crate) fell_back: bool,
    /// What it would take on its device, where that is only described.
    pub(crate) modelled: Option<Modelled>,
    /// The host did it in the place of the device.
    pub(crate) by_spare: bool,
    /// The steps of its bodies.
    pub(crate) inner: Vec<StepTime>,
}

/// What a step works on.
pub(crate) struct Arguments<'a> {
    pub(crate) inputs: &'a mut [Option<Value>],
    pub(crate) in_place: Option<usize>,
    pub(crate) rooms: &'a mut [Room],
    pub(crate) outer: Outer<'a>,
}

pub(crate) fn fault(engine: &Engine, node: &Node, source: OpError) -> NodeError {
    NodeError { node: node.label(&engine.graph), op: node.op.clone(), source }
}

/// Runs the program of a step, where it is a part when its device's turn has come. What the device
/// of a part fails at the host does, if it can and `guarded` says so.
pub(crate) fn execute(
    engine: &Engine,
    step: &Step,
    arguments: Arguments<'_>,
    context: RunContext<'_>,
    guarded: bool,
) -> Result<(Values, Did), NodeError> {
    let lane = engine.lanes.get(step.node.index()).and_then(Option::as_ref);
    let spare = engine.spares.get(step.node.index()).and_then(Option::as_ref);
    let spare = spare.filter(|_| guarded && !context.options.no_fallback);
    let (Some(lane), Some(spare)) = (lane, spare) else {
        return by_device(engine, step, arguments, context);
    };
    let node = engine.graph.node(step.node);
    let inputs: Vec<Value> = arguments.inputs.iter().flatten().cloned().collect();
    let instead = |what: &str| {
        if let Some(recorder) = context.recorder {
            recorder.event(&lane.device.info().id, node.label(&engine.graph), what);
        }
        let (values, inner) =
            spare.run(inputs, context).map_err(|source| fault(engine, node, source))?;
        Ok((values.into_iter().collect(), Did { inner, by_spare: true, ..Did::default() }))
    };
    if lane.is_out(engine.hang_after) {
        return instead("is left alone after it failed");
    }
    match by_device(engine, step, arguments, context) {
        Ok(done) => {
            if lane.failures() > 0 {
                lane.works();
            }
            Ok(done)
        }
        Err(error) if error.source.is_stop() => Err(error),
        Err(error) => match instead(&format!("failed ({})", error.source)) {
            Ok(done) => {
                if may_be_the_device(&error.source) {
                    lane.failed();
                }
                Ok(done)
            }
            // Neither can do it: it was not the device.
            Err(_) => Err(error),
        },
    }
}

/// Whether an error may be a device's fault: not where it does not take the inputs.
pub(crate) fn may_be_the_device(source: &OpError) -> bool {
    !matches!(source, OpError::Input { .. } | OpError::MissingInput { .. })
}

/// Runs the program of a step by the device that it is compiled for.
fn by_device(
    engine: &Engine,
    step: &Step,
    arguments: Arguments<'_>,
    context: RunContext<'_>,
) -> Result<(Values, Did), NodeError> {
    let node = engine.graph.node(step.node);
    let fault = |source: OpError| fault(engine, node, source);
    let lane = engine.lanes.get(step.node.index()).and_then(Option::as_ref);
    // The error of a step that fell back where that is not allowed.
    let refused = || {
        let device = &lane.map_or(&engine.device, |lane| &lane.device).info().id;
        let reason = format!("{device} has no kernel for it, and fallback is off");
        fault(OpError::unsupported(reason))
    };
    let fell_back = Cell::new(false);
    let runner = Bodies { engine, context, steps: RefCell::default() };
    let Arguments { inputs, in_place, rooms, outer } = arguments;
    let modelled = Cell::new(None);
    let call = Call {
        node,
        inputs,
        in_place,
        rooms,
        outer,
        runner: &runner,
        fell_back: &fell_back,
        modelled: &modelled,
    };
    let program = &engine.programs[step.node.index()];
    let strict = context.options.no_fallback;
    if strict && program.falls_back() {
        return Err(refused());
    }
    let turn = lane.map(|lane| lane.turn());
    let values = program.run(call).map_err(fault)?;
    drop(turn);
    if strict && fell_back.get() {
        return Err(refused());
    }
    let (fell_back, modelled) = (fell_back.get(), modelled.get());
    let inner = runner.steps.take();
    Ok((values, Did { fell_back, modelled, inner, ..Did::default() }))
}

impl Frame<'_> {
    fn fault(&self, node: &Node, source: OpError) -> NodeError {
        fault(self.engine, node, source)
    }

    /// A value: computed, known before the run, or a constant of the graph.
    fn value(&self, id: ValueId) -> Option<Value> {
        let computed = self.env[id.index()].as_ref();
        let known = || self.plan.known.get(&id).or_else(|| self.engine.graph.constants.get(&id));
        computed.or_else(known).cloned()
    }

    fn step(&mut self, step: &Step) -> Result<Did, NodeError> {
        let node = self.engine.graph.node(step.node);
        self.context.options.check().map_err(|stop| self.fault(node, stop))?;
        // After a failure they are gone; the next run makes new ones.
        let mut inputs = std::mem::take(&mut self.memory.inputs);
        let mut rooms = std::mem::take(&mut self.memory.rooms);
        for (index, input) in node.inputs.iter().enumerate() {
            let Some(id) = *input else {
                inputs.push(None);
                continue;
            };
            // The last reader of an overwritten input takes it, so that nobody else holds it.
            let value = if step.in_place == Some(index) {
                self.env[id.index()].take().or_else(|| self.value(id))
            } else {
                self.value(id)
            };
            if value.is_none() {
                return Err(self.fault(node, OpError::MissingInput { index }));
            }
            inputs.push(value);
        }
        let room = |slot: &Option<usize>| match *slot {
            Some(slot) => {
                Room { block: self.memory.blocks[slot].take(), bytes: self.plan.slots[slot] }
            }
            None => Room::default(),
        };
        rooms.extend(step.slots.iter().map(room));
        let outer = |id: ValueId| self.value(id);
        let arguments = Arguments {
            inputs: &mut inputs,
            in_place: step.in_place,
            rooms: &mut rooms,
            outer: &outer,
        };
        let result = execute(self.engine, step, arguments, self.context, true);
        inputs.clear();
        let (values, did) = result?;
        for (id, value) in node.outputs.iter().zip(values) {
            if let Some(id) = id {
                self.env[id.index()] = Some(value);
            }
        }
        // A program that made its outputs elsewhere (a reference does) has left its blocks.
        for (slot, room) in step.slots.iter().zip(rooms.drain(..)) {
            if let (Some(slot), Some(block)) = (slot, room.block) {
                self.memory.blocks[*slot] = Some(block);
            }
        }
        self.memory.inputs = inputs;
        self.memory.rooms = rooms;
        self.release(step);
        Ok(did)
    }

    /// Where times are wanted, waits until the device has done the step. Gives when that was, and
    /// what its kernels took.
    fn settle(&self, step: &Step) -> Result<Option<(u64, Option<u64>)>, NodeError> {
        let Some(recorder) = self.context.recorder else { return Ok(None) };
        let Some(launcher) = self.engine.device.launcher() else {
            return Ok(Some((recorder.now_ns(), None)));
        };
        let fault = |error: DeviceError| {
            let node = self.engine.graph.node(step.node);
            self.fault(node, OpError::Tensor(error.into()))
        };
        launcher.wait().map_err(fault)?;
        let end_ns = recorder.now_ns();
        Ok(Some((end_ns, launcher.kernel_ns().map_err(fault)?)))
    }

    /// Drops what nobody reads any more; the last holder of a block gives it back to its slot.
    fn release(&mut self, step: &Step) {
        for &id in &step.release {
            let value = self.env[id.index()].take();
            let (Some(Value::Tensor(tensor)), Some(slot)) = (value, self.plan.home[id.index()])
            else {
                continue;
            };
            if self.memory.blocks[slot].is_none() {
                self.memory.blocks[slot] = tensor.into_buffer();
            }
        }
    }

    fn outputs(&mut self) -> Result<Vec<Value>, NodeError> {
        let graph = &self.engine.graph;
        let find = |&id: &ValueId| {
            self.value(id).ok_or_else(|| NodeError {
                node: graph.value(id).name.clone(),
                op: "output".to_string(),
                source: OpError::invalid("no node gives this value"),
            })
        };
        self.plan.outputs.iter().map(find).collect()
    }
}

/// What a trace says of a step.
pub(crate) fn time(
    engine: &Engine,
    plan: &Plan,
    step: &Step,
    did: Did,
    (start_ns, duration_ns): (u64, u64),
) -> StepTime {
    let graph = &engine.graph;
    let node = graph.node(step.node);
    let output = node.defs().next();
    let (ops, bytes) = work(engine, plan, node);
    let program = &engine.programs[step.node.index()];
    // What a device leaves to the host is the host's step.
    let lane = engine.lanes.get(step.node.index()).and_then(Option::as_ref);
    let device = lane.map_or(&engine.device, |lane| &lane.device);
    let left = did.fell_back || program.by_host();
    let by = device.host().filter(|_| left).unwrap_or_else(|| device.info());
    let spare = engine.spares.get(step.node.index()).and_then(Option::as_ref);
    let by = match spare.filter(|_| did.by_spare) {
        Some(spare) => spare.host().device.info(),
        None => by,
    };
    StepTime {
        index: step.node.index(),
        node: node.label(graph),
        op: node.op.clone(),
        device: by.id.clone(),
        kernel: match (did.by_spare, did.fell_back) {
            (true, _) => "spare".to_string(),
            (_, true) => "reference".to_string(),
            _ => program.kernel().to_string(),
        },
        output: output.map_or(String::new(), |id| plan.types[id.index()].to_string()),
        ops,
        numbers: multiplied(node, |id| plan.types[id.index()].dtype()),
        bytes,
        start_ns,
        duration_ns,
        kernel_ns: None,
        modelled: did.modelled,
        inner: did.inner,
    }
}

/// Operations of a node, and bytes that it reads and writes, as its types tell.
fn work(engine: &Engine, plan: &Plan, node: &Node) -> (f64, u64) {
    let graph = &engine.graph;
    let value = |id: ValueId| plan.known.get(&id).or_else(|| graph.constants.get(&id));
    let known = |id: ValueId| value(id)?.as_tensor().cloned();
    let work = work_of(node, |id| plan.types[id.index()].clone(), known);
    let low = Compute::of(&node.attrs).is_ok_and(|compute| compute == Compute::Bf16);
    let bytes = |id: ValueId| {
        let ty = &plan.types[id.index()];
        let elements = element_count(&ty.known_shape()?).ok()?;
        // Weights were rounded when they were packed.
        let rounded = low && ty.dtype()? == DType::F32 && graph.constants.contains_key(&id);
        let dtype = if rounded { DType::BF16 } else { ty.dtype()? };
        u64::try_from(dtype.bytes(elements)?).ok()
    };
    (work.ops, traffic(node, |id| bytes(id).unwrap_or(0)))
}
