//! A run whose parts are on several devices, each by the thread of its device.
//!
//! The caller's thread gives out what is ready, and sleeps until something is done: values are its
//! alone, and a device that does not answer before the deadline is waited for no longer. Values
//! stay until the run ends.
//!
//! What a device fails at, or hangs in, is done by the host where the part has a spare for it; the
//! device is then left alone for a while, longer each time, and tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hetra_device::Room;
use hetra_ir::ValueId;
use hetra_ops::{NodeError, OpError};
use hetra_plan::{Plan, Step};
use hetra_tensor::Value;

use crate::engine::Engine;
use crate::lane::Lane;
use crate::run::{self, Arguments, RunContext};
use crate::spare::Spare;
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
    /// The flow of a plan whose steps are all parts, on several devices, where two of them can run
    /// at once or the host can do what a device hangs in, and wherever a device has processors of
    /// its own; `None` for the others, which are run step by step on the thread of the caller.
    pub(crate) fn of(engine: &Engine, plan: &Plan) -> Option<Flow> {
        // Described devices take what their model says, and run one after the other, so that what
        // the host does meanwhile is timed by itself; unless one is watched for hanging.
        if engine.lanes.is_empty() || (engine.is_simulated() && engine.hang_after.is_none()) {
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
        let guarded = !engine.spares.is_empty();
        let watched = guarded && engine.hang_after.is_some();
        let alone = (one && !watched) || (chain && !guarded);
        if alone && lanes.iter().all(|lane| lane.cores.is_empty()) {
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
type Made = Result<(Vec<Value>, Option<StepTime>), NodeError>;

/// A step, by whom it was done, and what came of it.
struct Done {
    step: usize,
    by: By,
    made: Made,
}

/// Who does a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Device,
    /// In the place of the device.
    Host,
}

/// A step that is being done.
struct Out {
    by: By,
    ticket: Arc<Ticket>,
    /// What its device failed with, where the host does it now: the device's fault, if the host
    /// does not fail, too.
    failed: Option<NodeError>,
    /// From when on the time is counted after which its device is given up on.
    since: Instant,
}

/// What a run and the device's thread know of each other's doings.
#[derive(Default)]
struct Ticket {
    begun: OnceLock<Instant>,
    state: AtomicU8,
}

/// States of a ticket: nobody has begun it; the device has; the run waits for it no longer; done.
const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;
const DONE: u8 = 3;

impl Ticket {
    /// Whether the device may begin.
    fn begin(&self) -> bool {
        self.begun.get_or_init(Instant::now);
        let moved = self.state.compare_exchange(WAITING, BEGUN, Ordering::SeqCst, Ordering::SeqCst);
        moved.is_ok()
    }

    /// The run waits no longer; gives the state that it was in.
    fn give_up(&self) -> u8 {
        self.state.swap(GIVEN_UP, Ordering::SeqCst)
    }
}

/// A run in progress.
struct Running<'a> {
    engine: &'a Arc<Engine>,
    plan: &'a Arc<Plan>,
    flow: &'a Flow,
    context: RunContext<'a>,
    env: Vec<Option<Value>>,
    waits: Vec<usize>,
    times: Vec<StepTime>,
    /// Steps that are being done.
    out: BTreeMap<usize, Out>,
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
        out: BTreeMap::new(),
        sender,
        done,
    };
    running.all()?;
    let values = plan.outputs.iter().map(|&id| running.output(id)).collect::<Result<_, _>>()?;
    let mut times = std::mem::take(&mut running.times);
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
            let Some(Done { step, by, made }) = self.next()? else { continue };
            // From a device that was given up on.
            if self.out.get(&step).is_none_or(|out| out.by != by) {
                continue;
            }
            let lane = &self.flow.lanes[step];
            let (values, time) = match made {
                Ok(made) => made,
                Err(fault) if by == By::Device && self.guards(step, &fault) => {
                    self.replace(step, &format!("failed ({})", fault.source), Some(fault))?;
                    continue;
                }
                Err(fault) => {
                    let first = self.out.remove(&step).and_then(|out| out.failed);
                    return Err(first.unwrap_or(fault));
                }
            };
            let out = self.out.remove(&step);
            if by == By::Device {
                lane.works();
            } else if let Some(fault) = out.and_then(|out| out.failed)
                && run::may_be_the_device(&fault.source)
            {
                lane.failed();
            }
            left -= 1;
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

    /// The part for the host, where there is one and it is allowed.
    fn spare(&self, step: usize) -> Option<Arc<Spare>> {
        let node = self.plan.steps[step].node;
        let spare = self.engine.spares.get(node.index()).and_then(Option::as_ref);
        spare.filter(|_| !self.context.options.no_fallback).cloned()
    }

    /// Whether the host does a step that failed so.
    fn guards(&self, step: usize, fault: &NodeError) -> bool {
        !fault.source.is_stop() && self.spare(step).is_some()
    }

    /// Waits for the next step that is done, as long as the run may go on; nothing where it looked
    /// only whether it may.
    fn next(&mut self) -> Result<Option<Done>, NodeError> {
        let options = self.context.options;
        let some = self.out.keys().next().copied().unwrap_or(0);
        options.check().map_err(|stop| self.fault(some, stop))?;
        let now = Instant::now();
        let left = options.deadline.map(|at| at.saturating_duration_since(now));
        let poll = options.cancel.as_ref().map(|_| CANCEL_EVERY);
        let hangs = self.first_to_hang().map(|(_, at)| at.saturating_duration_since(now));
        let wait = left.into_iter().chain(poll).chain(hangs).min();
        let done = match wait {
            Some(wait) => self.done.recv_timeout(wait),
            None => self.done.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match done {
            Ok(done) => return Ok(Some(done)),
            Err(RecvTimeoutError::Timeout) => {}
            // It holds a sender itself, so this is not; it must not wait for ever all the same.
            Err(RecvTimeoutError::Disconnected) => {
                return Err(self.fault(some, OpError::invalid("no device answers")));
            }
        }
        self.give_up()?;
        Ok(None)
    }

    /// How long a device is waited for that began at `since`: as long as the engine says, and no
    /// longer than half of what is left of the deadline, so that the host can do it in the rest;
    /// but a tenth of the limit at least, in which a device that is well answers.
    fn patience(&self, limit: Duration, since: Instant) -> Duration {
        let left = self.context.options.deadline.map(|at| at.saturating_duration_since(since));
        left.map_or(limit, |left| limit.min((left / 2).max(limit / 10)))
    }

    /// The step whose device is given up on first, and when.
    fn first_to_hang(&self) -> Option<(usize, Instant)> {
        let limit = self.engine.hang_after?;
        let guarded =
            |(step, out): &(&usize, &Out)| out.by == By::Device && self.spare(**step).is_some();
        let device = self.out.iter().filter(guarded);
        let since = |out: &Out| out.ticket.begun.get().copied().unwrap_or(out.since);
        let until = |out: &Out| since(out) + self.patience(limit, since(out));
        device.map(|(&step, out)| (step, until(out))).min_by_key(|(_, at)| *at)
    }

    /// Gives up on the device of the step that takes longest, if its time is over.
    fn give_up(&mut self) -> Result<(), NodeError> {
        let now = Instant::now();
        let Some((step, _)) = self.first_to_hang().filter(|(_, at)| *at <= now) else {
            return Ok(());
        };
        let lane = self.flow.lanes[step].clone();
        let Some(out) = self.out.get_mut(&step) else { return Ok(()) };
        if out.ticket.begun.get().is_none() && !lane.is_out(self.engine.hang_after) {
            // It waits behind others, who are not slow.
            out.since = now;
            return Ok(());
        }
        let what = match out.ticket.give_up() {
            // Its answer is on the way.
            DONE => return Ok(()),
            BEGUN => {
                // A deadline that is near is no fault of the device.
                let since = out.ticket.begun.get().copied().unwrap_or(out.since);
                if self.engine.hang_after.is_some_and(|limit| now - since >= limit) {
                    lane.failed();
                }
                "hangs"
            }
            _ => "waits behind what hangs",
        };
        self.replace(step, what, None)
    }

    /// Has the host do what a device did not, and writes that down.
    fn replace(
        &mut self,
        step: usize,
        what: &str,
        failed: Option<NodeError>,
    ) -> Result<(), NodeError> {
        if let Some(recorder) = self.context.recorder {
            let node = self.engine.graph.node(self.plan.steps[step].node);
            let device = &self.flow.lanes[step].device.info().id;
            recorder.event(device, node.label(&self.engine.graph), what);
        }
        self.start_by(step, By::Host, failed)
    }

    /// Gives a step, whose inputs are there, to its device; to the host where that is left alone.
    fn start(&mut self, step: usize) -> Result<(), NodeError> {
        let out = self.flow.lanes[step].is_out(self.engine.hang_after);
        match out && self.spare(step).is_some() {
            true => self.replace(step, "is left alone after it failed", None),
            false => self.start_by(step, By::Device, None),
        }
    }

    fn start_by(
        &mut self,
        step: usize,
        by: By,
        failed: Option<NodeError>,
    ) -> Result<(), NodeError> {
        let inputs = self.inputs(step)?;
        let (engine, plan) = (self.engine.clone(), self.plan.clone());
        let options = self.context.options.clone();
        // Each thread writes down for itself, by the clock of the run.
        let recorder = self.context.recorder.map(Recorder::beside);
        let reply = Reply { step, by, sender: self.sender.clone(), sent: false };
        let spare = self.spare(step).filter(|_| by == By::Host);
        let lane = match &spare {
            Some(spare) => spare.host().clone(),
            None => self.flow.lanes[step].clone(),
        };
        let (own, ticket) = (lane.clone(), Arc::new(Ticket::default()));
        let of_device = ticket.clone();
        let job = Box::new(move || {
            if !of_device.begin() {
                // It was given up on before its turn.
                return reply.never();
            }
            let _busy = own.busy();
            let context = RunContext { options: &options, recorder: recorder.as_ref() };
            let made = match &spare {
                Some(spare) => by_host(&engine, &plan, step, spare, inputs, context),
                None => one(&engine, &plan, step, inputs, context),
            };
            of_device.state.swap(DONE, Ordering::SeqCst);
            reply.send(made);
        });
        self.out.insert(step, Out { by, ticket, failed, since: Instant::now() });
        if lane.submit(job).is_ok() {
            return Ok(());
        }
        match by == By::Device && self.spare(step).is_some() {
            true => self.replace(step, "takes no more jobs", None),
            false => Err(self.fault(step, OpError::invalid("its device takes no more jobs"))),
        }
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

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // What no device has begun need not be done any more.
        for out in self.out.values() {
            out.ticket.give_up();
        }
    }
}

/// The answer of a device's thread: one comes, whatever becomes of the job.
struct Reply {
    step: usize,
    by: By,
    sender: Sender<Done>,
    sent: bool,
}

impl Reply {
    /// Nobody waits for it.
    fn never(mut self) {
        self.sent = true;
    }

    fn send(mut self, made: Made) {
        self.sent = true;
        // A run that waits no longer has no ear for it.
        let _ = self.sender.send(Done { step: self.step, by: self.by, made });
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.sent {
            let source = OpError::invalid("its device's thread has panicked");
            let fault = NodeError { node: String::new(), op: "part".to_string(), source };
            let _ = self.sender.send(Done { step: self.step, by: self.by, made: Err(fault) });
        }
    }
}

/// Runs one step on the host in the place of its device.
fn by_host(
    engine: &Engine,
    plan: &Plan,
    step: usize,
    spare: &Spare,
    inputs: Vec<Option<Value>>,
    context: RunContext<'_>,
) -> Made {
    let step = &plan.steps[step];
    let fault = |source: OpError| run::fault(engine, engine.graph.node(step.node), source);
    context.options.check().map_err(fault)?;
    let _turn = spare.host().turn();
    let start_ns = context.recorder.map(Recorder::now_ns);
    let inputs = inputs.into_iter().flatten().collect();
    let (values, inner) = spare.run(inputs, context).map_err(fault)?;
    let time = start_ns.zip(context.recorder).map(|(start_ns, recorder)| {
        let took = recorder.now_ns() - start_ns;
        let did = run::Did { inner, by_spare: true, ..run::Did::default() };
        run::time(engine, plan, step, did, (start_ns, took))
    });
    Ok((values, time))
}

/// Runs one step.
fn one(
    engine: &Engine,
    plan: &Plan,
    step: usize,
    mut inputs: Vec<Option<Value>>,
    context: RunContext<'_>,
) -> Made {
    let step = &plan.steps[step];
    let node = engine.graph.node(step.node);
    context.options.check().map_err(|stop| run::fault(engine, node, stop))?;
    let mut rooms: Vec<Room> = node.outputs.iter().map(|_| Room::default()).collect();
    let start_ns = context.recorder.map(Recorder::now_ns);
    let arguments =
        Arguments { inputs: &mut inputs, in_place: None, rooms: &mut rooms, outer: &|_| None };
    let (values, did) = run::execute(engine, step, arguments, context, false)?;
    let time = start_ns.zip(context.recorder).map(|(start_ns, recorder)| {
        let took = recorder.now_ns() - start_ns;
        let kernels: Vec<Option<u64>> = did.inner.iter().map(|step| step.kernel_ns).collect();
        let kernel_ns = kernels.iter().flatten().copied().reduce(|sum, one| sum + one);
        StepTime { kernel_ns, ..run::time(engine, plan, step, did, (start_ns, took)) }
    });
    Ok((values.into_iter().collect(), time))
}
