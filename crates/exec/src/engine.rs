//! A graph compiled for a device, with its plans.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hetra_device::{Device, DeviceError, DeviceInfo, Launcher, Part, Program, Room, Support};
use hetra_ir::{Graph, Node, NodeId, Type, ValueId};
use hetra_ops::{NodeError, OpError, Outer, PART, PART_DEVICE, Runner};
use hetra_pass::PART_SPARE;
use hetra_plan::{Hints, Plan};
use hetra_tensor::{Buffer, Tensor, Value};

use crate::concurrent::{self, Flow};
use crate::lane::{Lane, Seat};
use crate::options::RunOptions;
use crate::run::{self, RunContext};
use crate::simulated;
use crate::spare::Spare;
use crate::trace::{Recorded, Recorder, StepTime, Trace};

/// Most plans that an engine keeps: one for each set of input types and of wanted outputs.
const PLANS_MAX: usize = 32;
/// Most idle memories that an engine keeps: one for each overlapping run.
const MEMORIES_MAX: usize = 8;

/// Why a run or a compilation failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum ExecError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("input `{name}`: wanted {wanted}, got {got}")]
    Input { name: String, wanted: String, got: String },
    #[error("{got} inputs are given, the model has {wanted}")]
    Count { wanted: usize, got: usize },
    /// By [`RunOptions`]; the node is the one that was not run any more.
    #[error(transparent)]
    Stopped(NodeError),
    #[error("the run was lost: {0}")]
    Lost(String),
}

impl ExecError {
    fn of(error: NodeError) -> ExecError {
        if error.source.is_stop() { ExecError::Stopped(error) } else { ExecError::Node(error) }
    }
}

/// A node that the kernels of its device do not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Its name, or its operator and first output.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// What does it instead: a kernel of the host, or `reference`.
    pub by: String,
}

/// A graph compiled for a device; parts of it for others, where it has `hetra.Part` nodes.
pub struct Engine {
    pub(crate) graph: Arc<Graph>,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) programs: Vec<Arc<dyn Program>>,
    /// The device of each node that is a part; empty where none is.
    pub(crate) lanes: Vec<Option<Arc<Lane>>>,
    /// Engines of the bodies, by the address of the body, which `graph` keeps alive.
    bodies: Arc<HashMap<usize, Engine>>,
    /// The same of each node that the host can do in the place of its device; empty where none is.
    pub(crate) spares: Vec<Option<Arc<Spare>>>,
    /// How long a part may take before its device is given up on.
    pub(crate) hang_after: Option<Duration>,
    /// The same for the threads of devices, once they are used.
    shared: OnceLock<Arc<Engine>>,
    /// The types of the inputs and captures, and the plan, which says what it gives.
    plans: Mutex<Vec<(Vec<Type>, Arc<Plan>)>>,
    memories: Mutex<Vec<Memory>>,
}

/// What one run needs beside its values, kept for the next, which then allocates nothing.
#[derive(Default)]
pub(crate) struct Memory {
    /// The block of each slot, while no value has it.
    pub(crate) blocks: Vec<Option<Arc<Buffer>>>,
    /// Empty lists, for the values that are alive and for the arguments of a step.
    pub(crate) env: Vec<Option<Value>>,
    pub(crate) inputs: Vec<Option<Value>>,
    pub(crate) rooms: Vec<Room>,
}

/// A cache stays usable after a panic elsewhere: its entries are whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct ProgramHints<'a>(&'a [Arc<dyn Program>]);

impl Hints for ProgramHints<'_> {
    fn in_place(&self, node: NodeId, index: usize, types: &[Option<&Type>]) -> bool {
        self.0[node.index()].in_place(index, types)
    }
}

impl Engine {
    /// Compiles every node of a graph, and of its bodies, for a device.
    ///
    /// # Errors
    /// The first node that the device refuses.
    pub fn compile(graph: Arc<Graph>, device: Arc<dyn Device>) -> Result<Engine, ExecError> {
        Engine::compile_on(graph, vec![device.into()])
    }

    /// As [`Engine::compile`], for several devices: parts (`hetra.Part`) for the one that they
    /// name, everything else for the first. Bodies of parts are compiled as they are.
    ///
    /// # Errors
    /// The first node that its device refuses, or a part for a device that is not given.
    ///
    /// # Panics
    /// Without a device.
    pub fn compile_on(graph: Arc<Graph>, seats: Vec<Seat>) -> Result<Engine, ExecError> {
        // On the caller's thread, not in `Device::scope`: the passes ran here, and what they freed
        // is used again for packed weights (measured: 100 MiB of peak for a model of 100 MiB).
        let lanes: Vec<Arc<Lane>> =
            seats.into_iter().map(|seat| Arc::new(Lane::new(seat))).collect();
        Engine::compile_here(graph, &lanes, lanes[0].device.clone(), false)
    }

    fn compile_here(
        mut graph: Arc<Graph>,
        lanes: &[Arc<Lane>],
        device: Arc<dyn Device>,
        body: bool,
    ) -> Result<Engine, ExecError> {
        let declared: Vec<Type> =
            graph.inputs.iter().map(|&input| graph.ty(input).clone()).collect();
        let captured: Vec<Type> =
            graph.captures.iter().map(|capture| graph.ty(capture.inner).clone()).collect();
        let types = match hetra_pass::infer(&graph, &declared, &captured) {
            Ok(inferred) => inferred.types,
            // A body that contradicts itself may be a branch that is never taken; its plan says so
            // if it is.
            Err(_) if body => graph.values.iter().map(|value| value.ty.clone()).collect(),
            Err(error) => return Err(error.into()),
        };
        let mut programs = Vec::with_capacity(graph.nodes.len());
        let mut bodies = HashMap::new();
        let mut placed = Vec::new();
        let mut spares = Vec::new();
        // Bodies are known by their address, so they stay as they are.
        let read_last = if body { HashMap::new() } else { read_last(&graph) };
        for id in (0..graph.nodes.len()).map(|index| NodeId(index as u32)) {
            let node = graph.node(id);
            let lane = lane_of(&graph, node, lanes, body)?;
            let on = lane.map_or(&device, |lane| &lane.device);
            if let Support::No(reason) = on.supports(node, &graph) {
                return Err(ExecError::Device(DeviceError::Unsupported {
                    device: on.info().id.clone(),
                    node: node.label(&graph),
                    op: node.op.clone(),
                    reason,
                }));
            }
            // A part that its device does not take whole is run by us, body by body.
            let whole = lane.is_some_and(|lane| lane.device.info().takes_parts);
            let by = if whole { on } else { &device };
            let part = Part { graph: &graph, nodes: &[id], types: &types };
            let program = match lane {
                Some(lane) => lane.on_cores(|| by.compile(&part)),
                None => by.compile(&part),
            };
            programs.push(program?);
            let bodies_of = node.attrs.graphs().filter(|(name, _)| *name != PART_SPARE);
            for (_, body) in bodies_of.filter(|_| !whole) {
                let engine = Engine::compile_here(body.clone(), lanes, on.clone(), true)?;
                bodies.insert(Arc::as_ptr(body) as usize, engine);
            }
            if let (Some(_), Ok(spare)) = (lane, node.attrs.graph(PART_SPARE)) {
                let (graph_of, host) = (spare.clone(), lanes[0].clone());
                let spare = Spare::new(graph_of, host);
                spares.resize(graph.nodes.len(), None);
                spares[id.index()] = Some(Arc::new(spare));
            }
            if let Some(lane) = lane {
                placed.resize(graph.nodes.len(), None);
                placed[id.index()] = Some(lane.clone());
            }
            unload(&mut graph, read_last.get(&id).map_or(&[], Vec::as_slice));
        }
        Ok(Engine {
            graph,
            device,
            programs,
            lanes: placed,
            spares,
            hang_after: None,
            bodies: Arc::new(bodies),
            shared: OnceLock::new(),
            plans: Mutex::default(),
            memories: Mutex::default(),
        })
    }

    /// The same with other programs for some of its nodes, and with plans and memories of its own.
    #[must_use]
    pub fn with_programs(&self, others: Vec<(NodeId, Arc<dyn Program>)>) -> Engine {
        let mut engine = self.on(self.device.clone());
        for (node, program) in others {
            engine.programs[node.index()] = program;
        }
        engine
    }

    /// The same graph and programs, on a device that was opened as this one was; with plans and
    /// memories of its own.
    #[must_use]
    pub fn on(&self, device: Arc<dyn Device>) -> Engine {
        Engine {
            graph: self.graph.clone(),
            device,
            programs: self.programs.clone(),
            lanes: self.lanes.clone(),
            spares: self.spares.clone(),
            hang_after: self.hang_after,
            bodies: self.bodies.clone(),
            shared: OnceLock::new(),
            plans: Mutex::default(),
            memories: Mutex::default(),
        }
    }

    /// The same, that gives up on a device which takes longer for a part, where the host can do it.
    #[must_use]
    pub fn giving_up_after(mut self, limit: Duration) -> Engine {
        self.hang_after = Some(limit);
        self
    }

    /// The devices of its parts, or its one device; each once.
    pub fn devices(&self) -> Vec<&DeviceInfo> {
        let mut infos: Vec<&DeviceInfo> = Vec::new();
        let own = self.lanes.is_empty().then(|| self.device.info());
        for info in self.lanes.iter().flatten().map(|lane| lane.device.info()).chain(own) {
            if !infos.iter().any(|other| other.id == info.id) {
                infos.push(info);
            }
        }
        infos
    }

    /// The devices of its parts that have failed and not done what they should since, with how
    /// often.
    pub fn failing(&self) -> Vec<(String, u32)> {
        let mut failing: Vec<(String, u32)> = Vec::new();
        for lane in self.lanes.iter().flatten().filter(|lane| lane.failures() > 0) {
            let id = &lane.device.info().id;
            if !failing.iter().any(|(other, _)| other == id) {
                failing.push((id.clone(), lane.failures()));
            }
        }
        failing
    }

    /// Whether a device of its parts is only described.
    pub fn is_simulated(&self) -> bool {
        self.lanes.iter().flatten().any(|lane| lane.device.info().simulated.is_some())
    }

    /// The same graph and programs, for threads that may outlive a run.
    fn handle(&self) -> Arc<Engine> {
        self.shared.get_or_init(|| Arc::new(self.on(self.device.clone()))).clone()
    }

    /// Bytes that are kept for later runs.
    pub fn idle_bytes(&self) -> usize {
        let blocks = |memory: &Memory| -> usize {
            memory.blocks.iter().flatten().map(|block| block.capacity()).sum()
        };
        lock(&self.memories).iter().map(blocks).sum()
    }

    /// Gives back what is kept for later runs.
    pub fn forget_memories(&self) {
        let memories = std::mem::take(&mut *lock(&self.memories));
        drop(memories);
    }

    /// The graph.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Name of the kernel of each node.
    pub fn kernels(&self) -> Vec<&str> {
        self.programs.iter().map(|program| program.kernel()).collect()
    }

    /// The nodes that the device's kernels do not do, in order, those of bodies included, and how
    /// many nodes there are. More may turn out when it runs, for shapes that are not known yet.
    pub fn stops(&self) -> (Vec<Stop>, usize) {
        let (mut stops, mut nodes) = (Vec::new(), self.programs.len());
        for (program, node) in self.programs.iter().zip(&self.graph.nodes) {
            if program.falls_back() {
                let (node, op) = (node.label(&self.graph), node.op.clone());
                stops.push(Stop { node, op, by: program.kernel().to_string() });
            }
            for (_, body) in node.attrs.graphs() {
                let Some(engine) = self.bodies.get(&(Arc::as_ptr(body) as usize)) else { continue };
                let (inner, count) = engine.stops();
                stops.extend(inner);
                nodes += count;
            }
        }
        (stops, nodes)
    }

    /// The plan that makes `outputs` from inputs (then captures) of these types, made now or taken
    /// from the cache.
    ///
    /// # Errors
    /// The first node whose arguments contradict its operator.
    pub fn plan(&self, types: &[Type], outputs: &[ValueId]) -> Result<Arc<Plan>, NodeError> {
        let same = |(key, plan): &&(Vec<Type>, Arc<Plan>)| key == types && plan.outputs == outputs;
        if let Some((_, plan)) = lock(&self.plans).iter().find(same) {
            return Ok(plan.clone());
        }
        let (inputs, captures) = types.split_at(self.graph.inputs.len().min(types.len()));
        let hints = ProgramHints(&self.programs);
        let plan = Arc::new(hetra_plan::build(&self.graph, inputs, captures, outputs, &hints)?);
        let mut plans = lock(&self.plans);
        if plans.len() >= PLANS_MAX {
            plans.remove(0);
        }
        plans.push((types.to_vec(), plan.clone()));
        Ok(plan)
    }

    /// The plan for these values. Their types are only written out for a new one.
    fn plan_for(
        &self,
        inputs: &[Value],
        captured: &[Option<Value>],
        outputs: &[ValueId],
    ) -> Result<Arc<Plan>, NodeError> {
        let given = || inputs.iter().map(Some).chain(captured.iter().map(Option::as_ref));
        let of = |(ty, value): (&Type, Option<&Value>)| match value {
            Some(value) => ty.is_of(value),
            None => *ty == Type::Unknown,
        };
        let same = |(key, plan): &&(Vec<Type>, Arc<Plan>)| {
            key.len() == inputs.len() + captured.len()
                && plan.outputs == outputs
                && key.iter().zip(given()).all(of)
        };
        if let Some((_, plan)) = lock(&self.plans).iter().find(same) {
            return Ok(plan.clone());
        }
        let types: Vec<Type> = given().map(|v| v.map_or(Type::Unknown, Type::of)).collect();
        self.plan(&types, outputs)
    }

    /// Runs on inputs in the order of the graph's; `None` takes the default of an input that has
    /// one. Gives `outputs`, of those of the graph, and runs only what they depend on. Times of
    /// each step go to `trace` where it is given.
    ///
    /// # Errors
    /// An input that does not fit, the node that failed, or the one that `options` kept from
    /// running.
    pub fn run(
        &self,
        inputs: Vec<Option<Value>>,
        outputs: &[ValueId],
        options: &RunOptions,
        trace: Option<&mut Trace>,
    ) -> Result<Vec<Value>, ExecError> {
        let inputs = self.check_inputs(inputs)?;
        if !self.lanes.is_empty() {
            let plan = self.plan_for(&inputs, &[], outputs)?;
            if let Some(flow) = Flow::of(self, &plan) {
                return self.run_flow(&plan, &flow, inputs, options, trace);
            }
        }
        let mut result = Err(ExecError::Lost("the device did not run".to_string()));
        let mut arguments = Some((inputs, trace));
        self.device.scope(&mut || {
            if let Some((inputs, trace)) = arguments.take() {
                let recorder = trace.is_some().then(Recorder::start);
                let timed = self.timed(recorder.is_some());
                let context = RunContext { options, recorder: recorder.as_ref() };
                let ran = self.run_here(inputs, outputs, &NoOuter, context);
                let ran = ran.and_then(|(values, part)| {
                    if !options.on_device {
                        self.fetch(outputs, &values)?;
                    }
                    Ok((values, part))
                });
                drop(timed);
                result = ran.map_err(ExecError::of).map(|(values, part)| {
                    if let (Some(trace), Some(recorder)) = (trace, &recorder) {
                        *trace = recorder.trace(part);
                    }
                    values
                });
            }
        });
        result
    }

    /// Runs by the threads of the devices. Not in the scope of the host's device: this thread works
    /// on nothing itself.
    fn run_flow(
        &self,
        plan: &Arc<Plan>,
        flow: &Flow,
        inputs: Vec<Value>,
        options: &RunOptions,
        trace: Option<&mut Trace>,
    ) -> Result<Vec<Value>, ExecError> {
        let recorder = trace.is_some().then(Recorder::start);
        let timed = self.timed(recorder.is_some());
        let context = RunContext { options, recorder: recorder.as_ref() };
        let ran = concurrent::run(&self.handle(), plan, flow, inputs, context);
        drop(timed);
        let (values, mut steps) = ran.map_err(ExecError::of)?;
        if !options.on_device {
            self.fetch(&plan.outputs, &values)?;
        }
        if let (Some(trace), Some(recorder)) = (trace, &recorder) {
            let simulated = simulated::simulate(self, plan, &mut steps);
            let slot_bytes = plan.slot_bytes();
            *trace = recorder.trace(Recorded { steps, plan_ns: 0, slot_bytes, simulated });
        }
        Ok(values)
    }

    /// Lets all devices of the engine time their kernels, where times are wanted.
    fn timed(&self, wanted: bool) -> Vec<Timed<'_>> {
        let mut devices: Vec<&Arc<dyn Device>> = vec![&self.device];
        for lane in self.lanes.iter().flatten() {
            if !devices.iter().any(|device| Arc::ptr_eq(device, &lane.device)) {
                devices.push(&lane.device);
            }
        }
        devices.retain(|_| wanted);
        devices.into_iter().filter_map(|device| Timed::begin(device.as_ref())).collect()
    }

    /// Copies what a device holds of outputs to the host, so that reading them cannot fail.
    fn fetch(&self, outputs: &[ValueId], values: &[Value]) -> Result<(), NodeError> {
        for (&id, value) in outputs.iter().zip(values) {
            let fetched = value.as_tensor().map_or(Ok(()), Tensor::fetch);
            fetched.map_err(|error| NodeError {
                node: self.graph.value(id).name.clone(),
                op: "output".to_string(),
                source: OpError::Tensor(error),
            })?;
        }
        Ok(())
    }

    fn check_inputs(&self, inputs: Vec<Option<Value>>) -> Result<Vec<Value>, ExecError> {
        let (wanted, got) = (self.graph.inputs.len(), inputs.len());
        if got > wanted {
            return Err(ExecError::Count { wanted, got });
        }
        let mut given = inputs.into_iter();
        let mut checked = Vec::with_capacity(self.graph.inputs.len());
        for &id in &self.graph.inputs {
            let info = self.graph.value(id);
            let fault = |got: String| ExecError::Input {
                name: info.name.clone(),
                wanted: info.ty.to_string(),
                got,
            };
            let value = given.next().flatten();
            let value = value.or_else(|| self.graph.constants.get(&id).cloned());
            let value = value.ok_or_else(|| fault("nothing".to_string()))?;
            if let Some(got) = info.ty.misfit(&value) {
                return Err(fault(got));
            }
            checked.push(value);
        }
        Ok(checked)
    }

    /// Runs on the current thread.
    pub(crate) fn run_here(
        &self,
        inputs: Vec<Value>,
        outputs: &[ValueId],
        outer: &(dyn OuterValues + Sync),
        context: RunContext<'_>,
    ) -> Result<(Vec<Value>, Recorded), NodeError> {
        let started = context.recorder.map(|_| Instant::now());
        let captured: Vec<Option<Value>> =
            self.graph.captures.iter().map(|capture| outer.find(capture.outer)).collect();
        let plan = self.plan_for(&inputs, &captured, outputs)?;
        let plan_ns = started.map_or(0, |started| started.elapsed().as_nanos() as u64);
        let mut memory = lock(&self.memories).pop().unwrap_or_default();
        memory.blocks.resize_with(plan.slots.len(), || None);
        let result = run::run(self, &plan, &mut memory, inputs, captured, context);
        let mut memories = lock(&self.memories);
        if memories.len() < MEMORIES_MAX {
            memories.push(memory);
        }
        let (values, mut steps) = result?;
        let simulated = simulated::simulate(self, &plan, &mut steps);
        Ok((values, Recorded { steps, plan_ns, slot_bytes: plan.slot_bytes(), simulated }))
    }
}

/// The device that a node names, if it is a part. A part inside of another is that one's.
fn lane_of<'a>(
    graph: &Graph,
    node: &Node,
    lanes: &'a [Arc<Lane>],
    body: bool,
) -> Result<Option<&'a Arc<Lane>>, ExecError> {
    if node.op != PART || body {
        return Ok(None);
    }
    let id = node.attrs.str_or(PART_DEVICE, "").unwrap_or_default().to_string();
    let lane = lanes.iter().find(|lane| lane.device.info().id == id);
    lane.map(Some).ok_or_else(|| {
        let given: Vec<&str> = lanes.iter().map(|lane| lane.device.info().id.as_str()).collect();
        ExecError::Device(DeviceError::Unsupported {
            device: id,
            node: node.label(graph),
            op: node.op.clone(),
            reason: format!("it is not one of those of the session: {}", given.join(", ")),
        })
    })
}

/// Constants of fewer bytes stay loaded.
const UNLOADED_BYTES_MIN: usize = 64 << 10;

/// The large constants that each node is the last to read.
fn read_last(graph: &Graph) -> HashMap<NodeId, Vec<ValueId>> {
    let mut last = HashMap::new();
    for (id, node) in graph.nodes() {
        last.extend(node.uses().map(|value| (value, id)));
    }
    let mut values: HashMap<NodeId, Vec<ValueId>> = HashMap::new();
    for (&id, value) in &graph.constants {
        let large = value.byte_len() >= UNLOADED_BYTES_MIN;
        if let Some(&node) = last.get(&id).filter(|_| large) {
            values.entry(node).or_default().push(id);
        }
    }
    values
}

/// Lets go of what was loaded of constants to compile their nodes: a program has packed what it
/// needs, and what is read all the same is loaded again.
fn unload(graph: &mut Arc<Graph>, values: &[ValueId]) {
    for id in values {
        let tensor = graph.constants.get(id).and_then(Value::as_tensor);
        if let Some(unloaded) = tensor.and_then(Tensor::unloaded) {
            Arc::make_mut(graph).constants.insert(*id, unloaded.into());
        }
    }
}

/// Finds values of the graph around a body.
pub(crate) trait OuterValues {
    fn find(&self, id: ValueId) -> Option<Value>;
}

pub(crate) struct NoOuter;

impl OuterValues for NoOuter {
    fn find(&self, _: ValueId) -> Option<Value> {
        None
    }
}

/// Runs the bodies of a step by their engines; a graph that is not a body of this engine is
/// interpreted.
pub(crate) struct Bodies<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) context: RunContext<'a>,
    /// The steps of the bodies, in the order they ran.
    pub(crate) steps: RefCell<Vec<StepTime>>,
}

impl Runner for Bodies<'_> {
    fn run(
        &self,
        body: &Arc<Graph>,
        inputs: Vec<Value>,
        outer: Outer<'_>,
    ) -> Result<Vec<Value>, OpError> {
        // A body may have no steps, and yet be run for ever.
        self.context.options.check()?;
        let Some(engine) = self.engine.bodies.get(&(Arc::as_ptr(body) as usize)) else {
            return hetra_ops::Interpreter.run(body, inputs, outer);
        };
        // What a body captures is copied (by reference count) so that it does not borrow the
        // frame around, which its engine may run on other threads.
        let captured: HashMap<_, _> = engine
            .graph
            .captures
            .iter()
            .filter_map(|capture| Some((capture.outer, outer(capture.outer)?)))
            .collect();
        let outputs = &engine.graph.outputs;
        let recorder = self.context.recorder.filter(|recorder| recorder.begin_body());
        let context = RunContext { recorder, ..self.context };
        let (values, part) = engine.run_here(inputs, outputs, &Captured(captured), context)?;
        if let Some(recorder) = recorder {
            recorder.end_body(part.steps.len());
            self.steps.borrow_mut().extend(part.steps);
        }
        // Loops read whether they go on, and stack what their turns give.
        for tensor in values.iter().filter_map(Value::as_tensor) {
            tensor.fetch()?;
        }
        Ok(values)
    }
}

struct Captured(HashMap<ValueId, Value>);

impl OuterValues for Captured {
    fn find(&self, id: ValueId) -> Option<Value> {
        self.0.get(&id).cloned()
    }
}

/// A device that times its kernels until this is dropped, also where a run fails.
struct Timed<'a>(&'a dyn Launcher);

impl<'a> Timed<'a> {
    fn begin(device: &'a dyn Device) -> Option<Timed<'a>> {
        let launcher = &**device.launcher()?;
        launcher.time_kernels(true);
        Some(Timed(launcher))
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.0.time_kernels(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra_device::NullDevice;
    use hetra_ir::{Builder, Dim};
    use hetra_tensor::{DType, Tensor};

    #[test]
    fn inputs_are_counted_and_checked() {
        let mut b = Builder::new("same");
        let x = b.input("x", DType::F32, vec![Dim::Unknown]);
        let y = b.op("Identity", &[x]);
        b.output(y);
        let device = Arc::new(NullDevice::default());
        let engine = Engine::compile(Arc::new(b.finish()), device).unwrap();
        let run = |inputs: &[Value]| {
            let inputs = inputs.iter().cloned().map(Some).collect();
            let outputs = engine.run(inputs, &engine.graph.outputs, &RunOptions::default(), None);
            outputs.map_err(|error| error.to_string())
        };
        let value = Value::from(Tensor::vector(&[1f32, 2.0]));
        assert_eq!(run(std::slice::from_ref(&value)), Ok(vec![value.clone()]));
        let check = |inputs: &[Value], wanted: &str| assert_eq!(run(inputs).unwrap_err(), wanted);
        check(&[value.clone(), value.clone()], "2 inputs are given, the model has 1");
        check(&[], "input `x`: wanted f32[?], got nothing");
        check(&[Value::Sequence(vec![value])], "input `x`: wanted f32[?], got sequence of 1");
    }
}
