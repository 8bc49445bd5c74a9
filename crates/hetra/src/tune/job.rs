//! A task of a model, and the search for its schedule.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hetra_device::{Program, Schedule};
use hetra_exec::{Alone, ExecError};
use hetra_ir::{Type, ValueId};
use hetra_ops::OpError;
use hetra_tensor::Value;
use hetra_tune::store::{DeviceKey, Measured, Store, StoreError};
use hetra_tune::{Budget, End, Options, Outcome, Progress, SearchError, Verdict, search};

use super::{Stand, TuneOptions, TunedOp, now};
use crate::error::Error;
use crate::session::Session;

/// Runs with a trace that tell where the time goes.
const TRACES: usize = 3;
/// Measurements that the time of a task should allow, at least.
const TRIALS_WANTED: u32 = 60;
/// How long a schedule is measured at least, and at most, unless three runs take longer.
const MEASURE_MIN: Duration = Duration::from_millis(1);
const MEASURE_MAX: Duration = Duration::from_millis(10);
/// Rows of other tasks that a search learns from.
const OTHERS_MAX: usize = 2000;

/// A task, and what is known of it.
pub(super) struct Job {
    /// Its nodes, at least one. The first is measured for all.
    pub(super) nodes: Vec<Alone>,
    pub(super) op: TunedOp,
    /// What the session works by now.
    pub(super) incumbent: Schedule,
    /// What was chosen before.
    pub(super) known: Option<Schedule>,
    /// Whether there is something left to search.
    pub(super) wanted: bool,
    /// What the search found, if it was not stopped.
    pub(super) outcome: Option<Outcome>,
    /// Of the last try in the model.
    pub(super) verdict: Option<Verdict>,
}

/// The tasks of a session, those of the largest part of its time first.
pub(super) fn jobs(session: &Session, inputs: &[(String, Value)]) -> Result<Vec<Job>, Error> {
    let graph = session.graph();
    let given = |id: ValueId| inputs.iter().find(|(name, _)| *name == graph.value(id).name);
    let types: Vec<Type> = graph
        .inputs
        .iter()
        .map(|&id| {
            let value = given(id).map(|(_, value)| value).or_else(|| graph.constants.get(&id));
            value.map_or_else(|| graph.ty(id).clone(), Type::of)
        })
        .collect();
    let times = times(session, inputs)?;
    let total: f64 = times.values().sum();
    let mut jobs: Vec<Job> = Vec::new();
    for alone in session.engine().tunable(&types).map_err(ExecError::from)? {
        let share = times.get(&alone.node().index()).copied().unwrap_or(0.0) / total.max(1e-12);
        let same = jobs.iter_mut().find(|job| job.op.task.key() == alone.task().key());
        match same {
            Some(job) => job.add(alone, share),
            None => jobs.push(Job::new(alone, share)),
        }
    }
    jobs.sort_by(|a, b| b.op.share.total_cmp(&a.op.share));
    Ok(jobs)
}

/// Seconds of each step of a run, by the places of their nodes: the least of a few.
fn times(session: &Session, inputs: &[(String, Value)]) -> Result<BTreeMap<usize, f64>, Error> {
    session.warm_up(inputs.to_vec(), 1)?;
    let mut least = BTreeMap::new();
    for _ in 0..TRACES {
        let (_, trace) = session.trace(inputs.to_vec())?;
        for step in trace.steps {
            let seconds = step.duration_ns as f64 / 1e9;
            let entry = least.entry(step.index).or_insert(f64::INFINITY);
            *entry = entry.min(seconds);
        }
    }
    Ok(least)
}

impl Job {
    fn new(alone: Alone, share: f64) -> Job {
        let op = TunedOp {
            task: alone.task().clone(),
            op: alone.op().to_string(),
            output: alone.output(),
            node: alone.label(),
            nodes: 1,
            share,
            stand: Stand::Open,
            default_seconds: None,
            seconds: None,
            schedule: None,
            trials: 0,
            finished: false,
        };
        let incumbent = Schedule::default();
        let (known, wanted) = (None, true);
        Job { nodes: vec![alone], op, incumbent, known, wanted, outcome: None, verdict: None }
    }

    fn add(&mut self, alone: Alone, share: f64) {
        self.nodes.push(alone);
        self.op.nodes += 1;
        self.op.share += share;
    }

    pub(super) fn alone(&self) -> &Alone {
        &self.nodes[0]
    }

    /// The schedule that stands when nobody tuned.
    pub(super) fn default(&self) -> Schedule {
        let space = self.alone().space();
        space.nth(space.default_point()).unwrap_or_default()
    }

    /// What is to be tried in the model in this round: what was chosen before, then those that were
    /// faster than the default, by themselves, the fastest first.
    pub(super) fn candidate(&self, round: usize) -> Option<Schedule> {
        let outcome = self.outcome.as_ref()?;
        let better = outcome.ranked.iter().filter(|(_, seconds)| *seconds < outcome.default.1);
        let better =
            better.map(|(schedule, _)| schedule).filter(|s| Some(*s) != self.known.as_ref());
        let mut all = self.known.iter().chain(better).filter(|s| **s != self.incumbent);
        all.nth(round).cloned()
    }

    /// Searches for so long, and stores every measurement.
    pub(super) fn search(
        &mut self,
        store: &mut Store,
        key: &DeviceKey,
        options: &TuneOptions<'_>,
        part: Duration,
        tell: &mut dyn FnMut(usize, f64, f64),
    ) -> Result<(), StoreError> {
        let (task, space) = (self.op.task.clone(), self.alone().space().clone());
        let length = (part / TRIALS_WANTED).clamp(MEASURE_MIN, MEASURE_MAX);
        let bench = match self.alone().arguments() {
            Ok(arguments) => Bench { alone: self.alone(), arguments, length },
            Err(error) => {
                self.op.stand = Stand::Failed(error.to_string());
                return Ok(());
            }
        };
        let last = Cell::new((0.0, 0));
        let mut measure = |schedule: &Schedule| {
            let (seconds, spread, samples) = bench.measure(schedule)?;
            last.set((spread, samples));
            Ok::<f64, Error>(seconds)
        };
        let prior = store.rows(key, task.key(), OTHERS_MAX)?;
        let mut fault = None;
        let mut keep = |progress: &Progress<'_>| {
            let (spread, samples) = last.take();
            let result = progress.trial.result.clone();
            let row = Measured { result, spread, samples, at: now() };
            let kept = store.record(key, &task, &progress.trial.schedule, &row);
            fault = fault.take().or(kept.err());
            tell(progress.trials, progress.default_seconds, progress.best.1);
        };
        let budget =
            Budget { until: Some(Instant::now() + part), trials: None, stop: Some(options.stop) };
        let plan = Options::default();
        let found = search(&space, &task, &prior, &plan, budget, &mut measure, &mut keep);
        fault.map_or(Ok(()), Err)?;
        match found {
            Ok(outcome) => {
                self.op.trials = outcome.trials.len();
                let stopped = outcome.end == End::Stopped || options.stop.load(Ordering::Relaxed);
                self.outcome = Some(outcome).filter(|_| !stopped);
            }
            Err(SearchError::Stopped) => {}
            Err(error) => self.op.stand = Stand::Failed(error.to_string()),
        }
        Ok(())
    }
}

/// Measures the schedules of a node.
struct Bench<'a> {
    alone: &'a Alone,
    arguments: Vec<Option<Value>>,
    length: Duration,
}

impl Bench<'_> {
    /// The median of the seconds, their spread (between the quartiles, as a part of the median)
    /// and their number.
    fn measure(&self, schedule: &Schedule) -> Result<(f64, f64, u32), Error> {
        let program: Arc<dyn Program> = self.alone.compile(schedule)?;
        let samples = self.alone.time(&*program, &self.arguments, self.length);
        let mut samples = samples.map_err(|source| self.fault(source))?;
        samples.sort_by(f64::total_cmp);
        let at = |quarters: usize| samples[(samples.len() - 1) * quarters / 4];
        Ok((at(2), (at(3) - at(1)) / at(2).max(1e-12), samples.len() as u32))
    }

    fn fault(&self, source: OpError) -> Error {
        let (node, op) = (self.alone.label(), self.alone.op().to_string());
        ExecError::Node(hetra_ops::NodeError { node, op, source }).into()
    }
}
