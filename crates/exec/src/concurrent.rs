//! A run whose parts are on several devices, each by the thread of its device.
//!
//! The caller's thread gives out what is ready, and sleeps until something is done: values are its
//! alone, and a device that does not answer before the deadline is waited for no longer. Values
//! stay until the run ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use hetra_device::Room;
use hetra_ir::ValueId;
use hetra_ops::{NodeError, OpError};
use hetra_plan::{Plan, Step};
use hetra_tensor::Value;

use crate::engine::Engine;
use crate::lane::Lane;
use crate::run::{self, Arguments, RunContext};
use crate::trace::{Recorder, StepTime};

/// How often a run that can be cancelled looks whether it is.
const CANCEL_EVERY: Duration = Duration::from_millis(10);

/// Which steps wait for which.
pub(crate) struct Flow {
    /// How many others each step waits for.
    waits: Vec<usize>,
    /// The steps that wait for each.
    readers: Vec<BTreeSet<usize>>,
    /// The device of each step.
    lanes: Vec<Arc<Lane>>,
}

impl Flow {
    /// The flow of a plan whose steps are all parts, where two of them can run at once or a device
    /// has processors of its own; `None` for the others, which are run step by step on the thread
    /// of the caller.
    pub(crate) fn of(engine: &Engine, plan: &Plan) -> Option<Flow> {
        if engine.lanes.is_empty() {
            return None;
        }
        let lane = |step: &Step| engine.lanes.get(step.node.index())?.clone();
        let lanes: Vec<Arc<Lane>> = plan.steps.iter().map(lane).collect::<Option<_>>()?;
        let mut maker = BTreeMap::new();
        for (index, step) in plan.steps.iter().enumerate() {
            maker.extend(engine.graph.node(step.node).defs().map(|value| (value, index)));
        }
        let reads = |step: &Step| -> BTreeSet<usize> {
            engine.graph.node(step.node).uses().filter_map(|id| maker.get(&id).copied()).collect()
        };
        let reads: Vec<BTreeSet<usize>> = plan.steps.iter().map(reads).collect();
        // Steps stand in order, so all is a chain where each reads of the one before.
        let chain = reads.iter().enumerate().skip(1).all(|(at, reads)| reads.contains(&(at - 1)));
        let one = lanes.iter().all(|lane| Arc::ptr_eq(lane, &lanes[0]));
        if (chain || one) && lanes.iter().all(|lane| lane.cores.is_empty()) {
            return None;
        }
        let mut readers = vec![BTreeSet::new(); reads.len()];
        for (index, reads) in reads.iter().enumerate() {
            for &from in reads {
                readers[from].insert(index);
            }
        }
        Some(Flow { waits: reads.iter().map(BTreeSet::len).collect(), readers, lanes })
    }
}

/// What came of a step.
type Done = (usize, Result<(Vec<Value>, Option<StepTime>), NodeError>);

/// A run in progress.
struct Running<'a> {
    engine: &'a Arc<Engine>,
    plan: &'a Arc<Plan>,
    flow: &'a Flow,
    context: RunContext<'a>,
    env: Vec<Option<Value>>,
    waits: Vec<usize>,
    times: Vec<StepTime>,
    /// Steps that devices have.
    out: BTreeSet<usize>,
    sender: Sender<Done>,
    done: Receiver<Done>,
}

/// Runs a plan, each part by the thread of its device.
pub(crate) fn run(
    engine: &Arc<Engine>,
    plan: &Arc<Plan>,
    flow: &Flow,
    inputs: Vec<Value>,
    context: RunContext<'_>,
) -> Result<(Vec<Value>, Vec<StepTime>), NodeError> {
    let mut env = vec![None; engine.graph.values.len()];
    for (&id, value) in engine.graph.inputs.iter().zip(inputs) {
        env[id.index()] = Some(value);
    }
    let (sender, done) = channel();
    let mut running = Running {
        engine,
        plan,
        flow,
        context,
        env,
        waits: flow.waits.clone(),
        times: Vec::new(),
        out: BTreeSet::new(),
        sender,
        done,
    };
    running.all()?;
    let values = plan.outputs.iter().map(|&id| running.output(id)).collect::<Result<_, _>>()?;
    let mut times = running.times;
    times.sort_by_key(|time| time.start_ns);
    Ok((values, times))
}

impl Running<'_> {
    fn all(&mut self) -> Result<(), NodeError> {
        let ready = (0..self.waits.len()).filter(|&step| self.waits[step] == 0);
        for step in ready.collect::<Vec<_>>() {
            self.start(step)?;
        }
        let mut left = self.plan.steps.len();
        while left > 0 {
            let (step, result) = self.next()?;
            self.out.remove(&step);
            left -= 1;
            let (values, time) = result?;
            let node = self.engine.graph.node(self.plan.steps[step].node);
            for (id, value) in node.outputs.iter().zip(values) {
                if let Some(id) = id {
                    self.env[id.index()] = Some(value);
                }
            }
            self.times.extend(time);
            for &reader in &self.flow.readers[step] {
                self.waits[reader] -= 1;
                if self.waits[reader] == 0 {
                    self.start(reader)?;
                }
            }
        }
        Ok(())
    }

    fn fault(&self, step: usize, source: OpError) -> NodeError {
        run::fault(self.engine, self.engine.graph.node(self.plan.steps[step].node), source)
    }

    /// Waits for the next step that is done, as long as the run may go on.
    fn next(&mut self) -> Result<Done, NodeError> {
        loop {
            let options = self.context.options;
            let some = self.out.first().copied().unwrap_or(0);
            options.check().map_err(|stop| self.fault(some, stop))?;
            let left = options.deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let poll = options.cancel.as_ref().map(|_| CANCEL_EVERY);
            let wait = left.into_iter().chain(poll).min();
            let done = match wait {
                Some(wait) => self.done.recv_timeout(wait),
                None => self.done.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match done {
                Ok(done) => return Ok(done),
                Err(RecvTimeoutError::Timeout) => {}
                // It holds a sender itself, so this is not; it must not wait for ever all the same.
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.fault(some, OpError::invalid("no device answers")));
                }
            }
        }
    }

    /// Gives a step, whose inputs are there, to its device.
    fn start(&mut self, step: usize) -> Result<(), NodeError> {
        let inputs = self.inputs(step)?;
        let (engine, plan) = (self.engine.clone(), self.plan.clone());
        let options = self.context.options.clone();
        // Each thread writes down for itself, by the clock of the run.
        let recorder = self.context.recorder.map(Recorder::beside);
        let reply = Reply { step, sender: self.sender.clone(), sent: false };
        let job = Box::new(move || {
            let context = RunContext { options: &options, recorder: recorder.as_ref() };
            let result = one(&engine, &plan, step, inputs, context);
            reply.send(result);
        });
        self.out.insert(step);
        let no_thread = |_| self.fault(step, OpError::invalid("its device has no thread"));
        self.flow.lanes[step].submit(job).map_err(no_thread)
    }

    fn inputs(&self, step: usize) -> Result<Vec<Option<Value>>, NodeError> {
        let node = self.engine.graph.node(self.plan.steps[step].node);
        let find = |(index, id): (usize, &Option<ValueId>)| {
            let Some(id) = id else { return Ok(None) };
            let value = self.value(*id).map(Some);
            value.ok_or_else(|| self.fault(step, OpError::MissingInput { index }))
        };
        node.inputs.iter().enumerate().map(find).collect()
    }

    fn value(&self, id: ValueId) -> Option<Value> {
        let constants = &self.engine.graph.constants;
        let known = || self.plan.known.get(&id).or_else(|| constants.get(&id));
        self.env[id.index()].as_ref().or_else(known).cloned()
    }

    fn output(&self, id: ValueId) -> Result<Value, NodeError> {
        self.value(id).ok_or_else(|| NodeError {
            node: self.engine.graph.value(id).name.clone(),
            op: "output".to_string(),
            source: OpError::invalid("no node gives this value"),
        })
    }
}

/// The answer of a device's thread: one comes, whatever becomes of the job.
struct Reply {
    step: usize,
    sender: Sender<Done>,
    sent: bool,
}

impl Reply {
    fn send(mut self, result: Result<(Vec<Value>, Option<StepTime>), NodeError>) {
        self.sent = true;
        // A run that waits no longer has no ear for it.
        let _ = self.sender.send((self.step, result));
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.sent {
            let source = OpError::invalid("its device's thread has panicked");
            let fault = NodeError { node: String::new(), op: "part".to_string(), source };
            let _ = self.sender.send((self.step, Err(fault)));
        }
    }
}

/// Runs one step.
fn one(
    engine: &Engine,
    plan: &Plan,
    step: usize,
    mut inputs: Vec<Option<Value>>,
    context: RunContext<'_>,
) -> Result<(Vec<Value>, Option<StepTime>), NodeError> {
    let step = &plan.steps[step];
    let node = engine.graph.node(step.node);
    context.options.check().map_err(|stop| run::fault(engine, node, stop))?;
    let mut rooms: Vec<Room> = node.outputs.iter().map(|_| Room::default()).collect();
    let start_ns = context.recorder.map(Recorder::now_ns);
    let arguments =
        Arguments { inputs: &mut inputs, in_place: None, rooms: &mut rooms, outer: &|_| None };
    let (values, did) = run::execute(engine, step, arguments, context)?;
    let time = start_ns.zip(context.recorder).map(|(start_ns, recorder)| {
        let took = recorder.now_ns() - start_ns;
        let kernels: Vec<Option<u64>> = did.inner.iter().map(|step| step.kernel_ns).collect();
        let kernel_ns = kernels.iter().flatten().copied().reduce(|sum, one| sum + one);
        StepTime { kernel_ns, ..run::time(engine, plan, step, did, (start_ns, took)) }
    });
    Ok((values.into_iter().collect(), time))
}
