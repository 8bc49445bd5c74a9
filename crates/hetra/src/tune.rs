//! Tunes what a model is made of: measures the schedules of its nodes, and keeps the fastest in a
//! store, where later sessions find them ([`crate::Tuned`]).
//!
//! Nodes are searched one by one, each measured alone ([`job`]): that is quick, and says little of
//! what the caches hold in the midst of a model. So what a search found is then tried in the model,
//! all tasks at once, in turn with the model as it was ([`contest`]), and only what wins there, and
//! again beside all else that won, is chosen.

mod contest;
mod job;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hetra_device::{Schedule, Task};
use hetra_tensor::Value;
use hetra_tune::End;
use hetra_tune::store::{Choice, DeviceKey, Store};

use crate::error::Error;
use crate::session::Session;
use crate::tuned::{Tuned, device_key, table};
use contest::Contest;
use job::{Job, jobs};

/// The part of the budget that is for the searches; the rest is for trying in the model.
const SEARCH_PART: f64 = 0.8;
/// Schedules of a task that are tried in the model, one after another.
const TRIES: usize = 3;

/// How a model is tuned.
#[derive(Clone, Copy, Debug)]
pub struct TuneOptions<'a> {
    /// The store to keep everything in.
    pub store: &'a Path,
    /// How long it may take, about: tasks get parts of it by their part of the model's time.
    pub budget: Duration,
    /// Forget what was measured, and tune again what is tuned already.
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
    /// Tuned before; a search that had no time to end may go on the next time.
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
    /// Seconds of the default schedule, of all its nodes together: in the model, or by itself where
    /// nothing was faster by itself.
    pub default_seconds: Option<f64>,
    /// Seconds of the schedule that sessions use now, measured in turn with the default.
    pub seconds: Option<f64>,
    /// That schedule, where one was chosen.
    pub schedule: Option<Schedule>,
    /// Measurements of the search, in this call.
    pub trials: usize,
    /// Whether the search came to its end: else another call goes on.
    pub finished: bool,
}

/// Tunes the nodes of a session that have knobs, for these inputs, those that take the most time
/// first. The session has to work by [`Tuned::Shipped`]: what it does is what others are compared
/// with. What sessions do is changed in the store only: build another one to see it.
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
    let key = device_key(session.device());
    let mut tuner = Tuner { store: Store::open(options.store)?, key, options, jobs: Vec::new() };
    tuner.jobs = jobs(session, inputs)?;
    let (shipped, _) = table(session.device(), &Tuned::Shipped);
    for job in &mut tuner.jobs {
        job.incumbent = shipped.get(job.op.task.key()).cloned().unwrap_or(job.default());
    }
    tuner.search(begun, progress)?;
    tuner.settle(&Contest::new(session, inputs), begun + options.budget)?;
    Ok(tuner.jobs.into_iter().map(|job| job.op).collect())
}

/// A tuning under way.
struct Tuner<'a> {
    store: Store,
    key: DeviceKey,
    options: &'a TuneOptions<'a>,
    jobs: Vec<Job>,
}

impl Tuner<'_> {
    fn stopped(&self) -> bool {
        self.options.stop.load(Ordering::Relaxed)
    }

    /// Searches for each task that has something left to search.
    fn search(
        &mut self,
        begun: Instant,
        progress: &mut dyn FnMut(&Moment<'_>),
    ) -> Result<(), Error> {
        let (options, count) = (self.options, self.jobs.len());
        let until = begun + options.budget.mul_f64(SEARCH_PART);
        let mut open = 0.0;
        for job in &mut self.jobs {
            if options.fresh {
                self.store.reopen(&self.key, job.op.task.key())?;
            }
            let known = self.store.best(&self.key, job.op.task.key())?;
            if let Some(choice) = known.filter(|c| job.alone().space().contains(&c.schedule)) {
                (job.wanted, job.known) = (!choice.finished, Some(choice.schedule.clone()));
                job.op.chosen(Stand::Known, choice);
            }
            open += if job.wanted { job.op.share } else { 0.0 };
        }
        for (index, job) in self.jobs.iter_mut().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            let stop = options.stop.load(Ordering::Relaxed);
            if !job.wanted || left.is_zero() || stop {
                continue;
            }
            let part = left.mul_f64((job.op.share / f64::max(open, 1e-12)).clamp(0.0, 1.0));
            open -= job.op.share;
            let op = job.op.op.clone();
            let mut tell = |trials, default_seconds, best_seconds| {
                progress(&Moment {
                    task: (index, count),
                    op: &op,
                    trials,
                    default_seconds,
                    best_seconds,
                    elapsed: begun.elapsed(),
                    budget: options.budget,
                });
            };
            job.search(&mut self.store, &self.key, options, part, &mut tell)?;
        }
        Ok(())
    }

    /// Tries what was found in the model, and chooses.
    fn settle(&mut self, contest: &Contest<'_>, until: Instant) -> Result<(), Error> {
        let mut won: BTreeMap<usize, Schedule> = BTreeMap::new();
        for round in 0..TRIES {
            if self.stopped() || (round > 0 && Instant::now() >= until) {
                break;
            }
            let entries: Vec<(usize, Schedule)> = (self.jobs.iter().enumerate())
                .filter(|(index, _)| !won.contains_key(index))
                .filter_map(|(index, job)| Some((index, job.candidate(round)?)))
                .collect();
            if entries.is_empty() {
                break;
            }
            let (verdicts, _) = contest.run(&self.jobs, &entries, until, self.options.stop)?;
            for ((index, schedule), verdict) in entries.into_iter().zip(verdicts) {
                if verdict.wins {
                    won.insert(index, schedule);
                }
                self.jobs[index].verdict = Some(verdict);
            }
        }
        self.validate(contest, until, &mut won)?;
        if self.stopped() {
            return Ok(());
        }
        // Tasks whose search came to nothing stay as they are, and so do those that lost.
        for index in 0..self.jobs.len() {
            let schedule = won.remove(&index).unwrap_or(self.jobs[index].incumbent.clone());
            if self.jobs[index].outcome.is_some() {
                self.choose(index, schedule)?;
            }
        }
        Ok(())
    }

    /// Runs the model with all that won, and with what was chosen before, by pairs that chose
    /// nothing: what is told of them is what these say. What does not win again is taken out, and
    /// so is all of it where the model as a whole is no faster.
    fn validate(
        &mut self,
        contest: &Contest<'_>,
        until: Instant,
        won: &mut BTreeMap<usize, Schedule>,
    ) -> Result<(), Error> {
        let before = |(index, job): (usize, &Job)| {
            let known = job.known.clone().filter(|_| job.outcome.is_none());
            Some((index, known.filter(|schedule| *schedule != job.incumbent)?))
        };
        let mut entries: Vec<(usize, Schedule)> =
            self.jobs.iter().enumerate().filter_map(before).collect();
        entries.extend(won.clone());
        if entries.is_empty() || self.stopped() {
            return Ok(());
        }
        let (verdicts, whole) = contest.run(&self.jobs, &entries, until, self.options.stop)?;
        for ((index, _), verdict) in entries.into_iter().zip(verdicts) {
            if !verdict.wins || whole.ratio >= 1.0 {
                won.remove(&index);
            }
            let job = &mut self.jobs[index];
            job.op.default_seconds = Some(verdict.default_seconds);
            job.op.seconds = Some(verdict.candidate_seconds);
            job.verdict = Some(verdict);
        }
        Ok(())
    }

    /// Keeps a schedule for the sessions to come, with what was measured of it last.
    fn choose(&mut self, index: usize, schedule: Schedule) -> Result<(), Error> {
        let job = &mut self.jobs[index];
        let Some(outcome) = &job.outcome else { return Ok(()) };
        let nodes = job.op.nodes as f64;
        // By itself, where nothing was tried in the model.
        let default_seconds =
            job.verdict.as_ref().map_or(outcome.default.1, |v| v.default_seconds / nodes);
        let new = job.verdict.as_ref().filter(|_| schedule != job.incumbent);
        let choice = Choice {
            schedule,
            seconds: new.map_or(default_seconds, |verdict| verdict.candidate_seconds / nodes),
            default_seconds,
            at: now(),
            finished: outcome.end != End::Budget,
        };
        self.store.choose(&self.key, &job.op.task, &choice)?;
        job.op.chosen(Stand::Tuned, choice);
        Ok(())
    }
}

impl TunedOp {
    fn chosen(&mut self, stand: Stand, choice: Choice) {
        self.stand = stand;
        self.finished = choice.finished;
        self.default_seconds = Some(choice.default_seconds * self.nodes as f64);
        self.seconds = Some(choice.seconds * self.nodes as f64);
        self.schedule = Some(choice.schedule);
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
