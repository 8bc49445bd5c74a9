//! Tunes what a model is made of: measures the schedules of its nodes, and keeps the fastest in a
//! store, where later sessions find them ([`crate::Tuned`]).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hetra_device::{Schedule, Task};
use hetra_exec::{Alone, ExecError};
use hetra_ir::Type;
use hetra_ops::OpError;
use hetra_tensor::Value;
use hetra_tune::store::{Choice, DeviceKey, Measured, Store, StoreError};
use hetra_tune::{Budget, End, Options, Progress, Rule, search, settle};

use crate::error::Error;
use crate::session::Session;
use crate::tuned::device_key;

/// Runs with a trace that tell where the time goes.
const TRACES: usize = 3;
/// The part of a task's time that is for the search; the rest is for confirming what it found.
const SEARCH_PART: f64 = 0.75;
/// Measurements that the time of a task should allow, at least.
const TRIALS_WANTED: u32 = 60;
/// How long a schedule is measured at least, and at most, unless three runs take longer.
const MEASURE_MIN: Duration = Duration::from_millis(1);
const MEASURE_MAX: Duration = Duration::from_millis(10);
/// Programs of one task that stay compiled: the default and what is compared with it.
const PROGRAMS_MAX: usize = 4;
/// Schedules of a search that may be confirmed, one after another.
const TRIES: usize = 3;
/// Rows of other tasks that a search learns from.
const OTHERS_MAX: usize = 2000;

/// How a model is tuned.
#[derive(Clone, Copy, Debug)]
pub struct TuneOptions<'a> {
    /// The store to keep everything in.
    pub store: &'a Path,
    /// How long it may take, about: tasks get parts of it by their part of the model's time.
    pub budget: Duration,
    /// Tune again what is tuned already, with new measurements.
    pub fresh: bool,
    /// May be set at any time: it ends after the measurement under way. Measurements are kept,
    /// and the next call goes on from there.
    pub stop: &'a AtomicBool,
}

/// How far the tuning is.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The task under way, from 0, and how many there are.
    pub task: (usize, usize),
    /// Its operator and output.
    pub op: &'a str,
    /// Measurements of it so far.
    pub trials: usize,
    /// Seconds of the default, and of the best so far.
    pub default_seconds: f64,
    /// See `default_seconds`.
    pub best_seconds: f64,
    /// Time since the beginning, and the budget.
    pub elapsed: Duration,
    /// See `elapsed`.
    pub budget: Duration,
}

/// What became of a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Stand {
    /// Tuned now; the schedule is perhaps the default.
    Tuned,
    /// Tuned before.
    Known,
    /// There was no time for it, or it was stopped.
    Open,
    /// It could not be measured, and why.
    Failed(String),
}

/// A task of a model: nodes that do the same at the same sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct TunedOp {
    /// What was tuned.
    pub task: Task,
    /// The operator, the type of its output, and the first of its nodes.
    pub op: String,
    /// See `op`.
    pub output: String,
    /// See `op`.
    pub node: String,
    /// How many nodes it stands for.
    pub nodes: usize,
    /// Their part of the model's time, 0 to 1.
    pub share: f64,
    /// What became of it.
    pub stand: Stand,
    /// Seconds of the default schedule, where they are known.
    pub default_seconds: Option<f64>,
    /// Seconds of the schedule that sessions use now, measured in turn with the default.
    pub seconds: Option<f64>,
    /// That schedule, where one was chosen.
    pub schedule: Option<Schedule>,
    /// Measurements of the search.
    pub trials: usize,
}

/// Tunes the nodes of a session that have knobs, for these inputs, those that take the most time
/// first. What sessions use is changed in the store only: build another one to see it.
///
/// # Errors
/// When the model does not run on the inputs, or the store cannot be used. A task that cannot be
/// measured is no error.
pub fn tune(
    session: &Session,
    inputs: &[(String, Value)],
    options: &TuneOptions<'_>,
    progress: &mut dyn FnMut(&Moment<'_>),
) -> Result<Vec<TunedOp>, Error> {
    let begun = Instant::now();
    let mut store = Store::open(options.store)?;
    let key = device_key(session.device());
    let jobs = jobs(session, inputs)?;
    let mut all = Vec::with_capacity(jobs.len());
    let mut open: f64 = jobs.iter().map(|job| job.op.share).sum();
    for (index, job) in jobs.iter().enumerate() {
        let left = (begun + options.budget).saturating_duration_since(Instant::now());
        let part = left.mul_f64((job.op.share / open.max(1e-12)).clamp(0.0, 1.0));
        open -= job.op.share;
        let mut tell = |trials, default_seconds, best_seconds| {
            progress(&Moment {
                task: (index, jobs.len()),
                op: &job.op.op,
                trials,
                default_seconds,
                best_seconds,
                elapsed: begun.elapsed(),
                budget: options.budget,
            });
        };
        all.push(job.run(&mut store, &key, options, part, &mut tell)?);
    }
    Ok(all)
}

/// A task, and a node to measure it with.
struct Job {
    alone: Alone,
    op: TunedOp,
}

/// The tasks of a session, those of the largest part of its time first.
fn jobs(session: &Session, inputs: &[(String, Value)]) -> Result<Vec<Job>, Error> {
    let graph = session.graph();
    let given = |id| inputs.iter().find(|(name, _)| *name == graph.value(id).name);
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
        let share = times.get(&alone.label()).copied().unwrap_or(0.0) / total.max(1e-12);
        let same = jobs.iter_mut().find(|job| job.alone.task().key() == alone.task().key());
        if let Some(job) = same {
            job.op.nodes += 1;
            job.op.share += share;
            continue;
        }
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
        };
        jobs.push(Job { alone, op });
    }
    jobs.sort_by(|a, b| b.op.share.total_cmp(&a.op.share));
    Ok(jobs)
}

/// Seconds of each step of a run, by the names of their nodes: the least of a few.
fn times(session: &Session, inputs: &[(String, Value)]) -> Result<BTreeMap<String, f64>, Error> {
    session.warm_up(inputs.to_vec(), 1)?;
    let mut least = BTreeMap::new();
    for _ in 0..TRACES {
        let (_, trace) = session.trace(inputs.to_vec())?;
        for step in trace.steps {
            let seconds = step.duration_ns as f64 / 1e9;
            let entry = least.entry(step.node).or_insert(f64::INFINITY);
            *entry = entry.min(seconds);
        }
    }
    Ok(least)
}

impl Job {
    /// Searches for so long, confirms, and stores.
    fn run(
        &self,
        store: &mut Store,
        key: &DeviceKey,
        options: &TuneOptions<'_>,
        part: Duration,
        tell: &mut dyn FnMut(usize, f64, f64),
    ) -> Result<TunedOp, StoreError> {
        let (mut op, task, space) = (self.op.clone(), self.alone.task(), self.alone.space());
        let known = store.best(key, task.key())?.filter(|_| !options.fresh);
        if let Some(choice) = known.filter(|choice| space.contains(&choice.schedule)) {
            op.chosen(Stand::Known, choice);
            return Ok(op);
        }
        if part.is_zero() || options.stop.load(Ordering::Relaxed) {
            return Ok(op);
        }
        let mut bench = match Bench::new(&self.alone, part) {
            Ok(bench) => bench,
            Err(error) => return Ok(op.failed(&error)),
        };
        let last = Cell::new((0.0, 0));
        let mut measure = |schedule: &Schedule| {
            let (seconds, spread, samples) = bench.measure(schedule)?;
            last.set((spread, samples));
            Ok::<f64, Error>(seconds)
        };
        let mut prior = store.rows(key, task.key(), OTHERS_MAX)?;
        prior.retain(|row| !options.fresh || row.task.key() != task.key());
        let mut fault = None;
        let mut keep = |progress: &Progress<'_>| {
            let (spread, samples) = last.take();
            let result = progress.trial.result.clone();
            let row = Measured { result, spread, samples, at: now() };
            fault = fault.take().or(store.record(key, task, &progress.trial.schedule, &row).err());
            tell(progress.trials, progress.default_seconds, progress.best.1);
        };
        let until = Some(Instant::now() + part.mul_f64(SEARCH_PART));
        let budget = Budget { until, trials: None, stop: Some(options.stop) };
        let found =
            search(space, task, &prior, &Options::default(), budget, &mut measure, &mut keep);
        fault.map_or(Ok(()), Err)?;
        let outcome = match found {
            Ok(outcome) => outcome,
            Err(hetra_tune::SearchError::Stopped) => return Ok(op),
            Err(error) => return Ok(op.failed(&error)),
        };
        op.trials = outcome.trials.len();
        op.default_seconds = Some(outcome.default.1);
        if outcome.end == End::Stopped {
            return Ok(op);
        }
        let (schedule, verdict) =
            match settle(&outcome, TRIES, Rule::default(), options.stop, &mut measure) {
                Ok(settled) => settled,
                Err(error) => return Ok(op.failed(&error)),
            };
        if options.stop.load(Ordering::Relaxed) {
            return Ok(op);
        }
        let default_seconds = verdict.as_ref().map_or(outcome.default.1, |v| v.default_seconds);
        let won = verdict.filter(|verdict| verdict.wins);
        let seconds = won.map_or(default_seconds, |verdict| verdict.candidate_seconds);
        let choice = Choice { schedule, seconds, default_seconds, at: now() };
        store.choose(key, task, &choice)?;
        op.chosen(Stand::Tuned, choice);
        Ok(op)
    }
}

impl TunedOp {
    fn chosen(&mut self, stand: Stand, choice: Choice) {
        self.stand = stand;
        self.default_seconds = Some(choice.default_seconds);
        self.seconds = Some(choice.seconds);
        self.schedule = Some(choice.schedule);
    }

    fn failed(mut self, error: &dyn Display) -> TunedOp {
        self.stand = Stand::Failed(error.to_string());
        self
    }
}

/// Measures the schedules of a node.
struct Bench<'a> {
    alone: &'a Alone,
    arguments: Vec<Option<Value>>,
    length: Duration,
    /// The last programs that were compiled, the newest last.
    programs: Vec<(Schedule, Arc<dyn hetra_device::Program>)>,
}

impl Bench<'_> {
    fn new(alone: &Alone, part: Duration) -> Result<Bench<'_>, OpError> {
        let length = (part / TRIALS_WANTED).clamp(MEASURE_MIN, MEASURE_MAX);
        Ok(Bench { alone, arguments: alone.arguments()?, length, programs: Vec::new() })
    }

    /// The median of the seconds, their spread (between the quartiles, as a part of the median)
    /// and their number.
    fn measure(&mut self, schedule: &Schedule) -> Result<(f64, f64, u32), Error> {
        let known = self.programs.iter().position(|(known, _)| known == schedule);
        let entry = match known {
            Some(at) => self.programs.remove(at),
            None => (schedule.clone(), self.alone.compile(schedule)?),
        };
        let program = entry.1.clone();
        if self.programs.len() == PROGRAMS_MAX {
            self.programs.remove(0);
        }
        self.programs.push(entry);
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

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
