//! A run whose parts are on several devices and do not all wait for each other.
//!
//! One thread for each device takes that device's parts as what they read comes to be there, and
//! sleeps meanwhile. Values stay until the run ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use hetra_device::Room;
use hetra_ir::ValueId;
use hetra_ops::{NodeError, OpError};
use hetra_plan::Plan;
use hetra_tensor::Value;

use crate::engine::Engine;
use crate::lane::Lane;
use crate::run::{self, Arguments, RunContext};
use crate::trace::{Recorder, StepTime};

/// Which steps wait for which.
pub(crate) struct Flow {
    /// How many others each step waits for.
    waits: Vec<usize>,
    /// The steps that wait for each.
    readers: Vec<BTreeSet<usize>>,
    /// The steps of each device, in order; the engine's own device first.
    lanes: Vec<(Arc<Lane>, Vec<usize>)>,
}

impl Flow {
    /// The flow of a plan whose steps are all parts, two of which can run at once; `None` for the
    /// others, which are run step by step.
    pub(crate) fn of(engine: &Engine, plan: &Plan) -> Option<Flow> {
        if engine.lanes.is_empty() || plan.steps.len() < 2 {
            return None;
        }
        let mut lanes: Vec<(Arc<Lane>, Vec<usize>)> = Vec::new();
        for (index, step) in plan.steps.iter().enumerate() {
            let lane = engine.lanes.get(step.node.index())?.as_ref()?;
            match lanes.iter_mut().find(|(other, _)| Arc::ptr_eq(other, lane)) {
                Some((_, steps)) => steps.push(index),
                None => lanes.push((lane.clone(), vec![index])),
            }
        }
        lanes.sort_by_key(|(lane, _)| !Arc::ptr_eq(&lane.device, &engine.device));
        let mut maker = BTreeMap::new();
        for (index, step) in plan.steps.iter().enumerate() {
            maker.extend(engine.graph.node(step.node).defs().map(|value| (value, index)));
        }
        let reads = |step: &hetra_plan::Step| -> BTreeSet<usize> {
            engine.graph.node(step.node).uses().filter_map(|id| maker.get(&id).copied()).collect()
        };
        let reads: Vec<BTreeSet<usize>> = plan.steps.iter().map(reads).collect();
        // Steps stand in order, so all is a chain where each reads of the one before.
        let chain = reads.iter().enumerate().skip(1).all(|(at, reads)| reads.contains(&(at - 1)));
        if chain || lanes.len() < 2 {
            return None;
        }
        let mut readers = vec![BTreeSet::new(); reads.len()];
        for (index, reads) in reads.iter().enumerate() {
            for &from in reads {
                readers[from].insert(index);
            }
        }
        let waits = reads.iter().map(BTreeSet::len).collect();
        Some(Flow { waits, readers, lanes })
    }
}

struct State {
    env: Vec<Option<Value>>,
    waits: Vec<usize>,
    times: Vec<StepTime>,
    fault: Option<NodeError>,
}

struct Shared<'a> {
    engine: &'a Engine,
    plan: &'a Plan,
    flow: &'a Flow,
    options: &'a crate::options::RunOptions,
    state: Mutex<State>,
    done: Condvar,
}

/// Runs a plan, several parts at a time.
pub(crate) fn run(
    engine: &Engine,
    plan: &Plan,
    flow: &Flow,
    inputs: Vec<Value>,
    context: RunContext<'_>,
) -> Result<(Vec<Value>, Vec<StepTime>), NodeError> {
    let mut env = vec![None; engine.graph.values.len()];
    for (&id, value) in engine.graph.inputs.iter().zip(inputs) {
        env[id.index()] = Some(value);
    }
    let state = State { env, waits: flow.waits.clone(), times: Vec::new(), fault: None };
    let shared = Shared {
        engine,
        plan,
        flow,
        options: context.options,
        state: Mutex::new(state),
        done: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for (lane, steps) in flow.lanes.iter().skip(1) {
            // Each thread writes down for itself, by the clock of the run.
            let (shared, mut recorder) = (&shared, context.recorder.map(Recorder::beside));
            scope.spawn(move || {
                lane.device.scope(&mut || shared.work(steps, recorder.take().as_ref()));
            });
        }
        if let Some((_, steps)) = flow.lanes.first() {
            shared.work(steps, context.recorder);
        }
    });
    let state = shared.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(fault) = state.fault {
        return Err(fault);
    }
    let value = |&id: &ValueId| {
        let known = || plan.known.get(&id).or_else(|| engine.graph.constants.get(&id));
        let found = state.env[id.index()].as_ref().or_else(known).cloned();
        found.ok_or_else(|| NodeError {
            node: engine.graph.value(id).name.clone(),
            op: "output".to_string(),
            source: OpError::invalid("no node gives this value"),
        })
    };
    let values = plan.outputs.iter().map(value).collect::<Result<Vec<Value>, NodeError>>()?;
    let mut times = state.times;
    times.sort_by_key(|time| time.start_ns);
    Ok((values, times))
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the steps of one device, each when what it reads is there.
    fn work(&self, steps: &[usize], recorder: Option<&Recorder>) {
        // A step that panics must not leave the others waiting for it.
        struct Leave<'a, 'b>(&'a Shared<'b>, bool);
        impl Drop for Leave<'_, '_> {
            fn drop(&mut self) {
                if !self.1 {
                    let mut state = self.0.lock();
                    state.fault.get_or_insert_with(|| NodeError {
                        node: String::new(),
                        op: "part".to_string(),
                        source: OpError::invalid("its thread has died"),
                    });
                    self.0.done.notify_all();
                }
            }
        }
        let mut leave = Leave(self, false);
        let mut left: Vec<usize> = steps.to_vec();
        while !left.is_empty() {
            let mut state = self.lock();
            let next = loop {
                if state.fault.is_some() {
                    leave.1 = true;
                    return;
                }
                match left.iter().position(|&step| state.waits[step] == 0) {
                    Some(at) => break left.remove(at),
                    None => state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            let result = self.inputs(&state, next);
            drop(state);
            let result = result.and_then(|inputs| self.step(next, inputs, recorder));
            let mut state = self.lock();
            match result {
                Ok((values, time)) => {
                    let node = self.engine.graph.node(self.plan.steps[next].node);
                    for (id, value) in node.outputs.iter().zip(values) {
                        if let Some(id) = id {
                            state.env[id.index()] = Some(value);
                        }
                    }
                    state.times.extend(time);
                    self.flow.readers[next].iter().for_each(|&reader| state.waits[reader] -= 1);
                }
                Err(fault) => drop(state.fault.get_or_insert(fault)),
            }
            drop(state);
            self.done.notify_all();
        }
        leave.1 = true;
    }

    fn inputs(&self, state: &State, step: usize) -> Result<Vec<Option<Value>>, NodeError> {
        let node = self.engine.graph.node(self.plan.steps[step].node);
        let find = |(index, id): (usize, &Option<ValueId>)| {
            let Some(id) = id else { return Ok(None) };
            let constants = &self.engine.graph.constants;
            let known = || self.plan.known.get(id).or_else(|| constants.get(id));
            let value = state.env[id.index()].as_ref().or_else(known).cloned();
            let missing = || run::fault(self.engine, node, OpError::MissingInput { index });
            value.map(Some).ok_or_else(missing)
        };
        node.inputs.iter().enumerate().map(find).collect()
    }

    fn step(
        &self,
        step: usize,
        mut inputs: Vec<Option<Value>>,
        recorder: Option<&Recorder>,
    ) -> Result<(Vec<Value>, Option<StepTime>), NodeError> {
        let (engine, step) = (self.engine, &self.plan.steps[step]);
        let node = engine.graph.node(step.node);
        self.options.check().map_err(|stop| run::fault(engine, node, stop))?;
        let mut rooms: Vec<Room> = node.outputs.iter().map(|_| Room::default()).collect();
        let start_ns = recorder.map(Recorder::now_ns);
        let context = RunContext { options: self.options, recorder };
        let arguments =
            Arguments { inputs: &mut inputs, in_place: None, rooms: &mut rooms, outer: &|_| None };
        let (values, did) = run::execute(engine, step, arguments, context)?;
        let time = start_ns.zip(recorder).map(|(start_ns, recorder)| {
            let took = recorder.now_ns() - start_ns;
            let kernels: Vec<Option<u64>> = did.inner.iter().map(|step| step.kernel_ns).collect();
            let kernel_ns = kernels.iter().flatten().copied().reduce(|sum, one| sum + one);
            let time = run::time(engine, self.plan, step, did, (start_ns, took));
            StepTime { kernel_ns, ..time }
        });
        Ok((values.into_iter().collect(), time))
    }
}
