//! Search for a schedule: measure few, guess the rest.
//!
//! The default is measured first, then points that are spread out, then batch by batch those that
//! a model ([`surrogate`]) of the measurements so far holds for the fastest. It chooses among all
//! points where the space is small, else among random points and the offspring of the best
//! (mutations, crossovers), bred over a few generations with the model as fitness. A part of each
//! batch is left to chance, because a model only knows what it has seen. Nothing is measured twice.
//!
//! The same space, task, rows, seed and measurements give the same search. What it finds is the
//! fastest of single measurements and so flattered by noise: [`crate::confirm`] decides whether it
//! replaces the default.

mod candidates;
mod surrogate;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hetra_device::{Random, Schedule, Space, Task};

use surrogate::Surrogate;

/// Spaces of at most this size are measured to the end: there is no telling from fewer points
/// that the rest brings nothing.
const SMALL: u64 = 48;

/// What is known already of a schedule of some task.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The task.
    pub task: Task,
    /// The schedule.
    pub schedule: Schedule,
    /// Its time; `None` when it failed.
    pub seconds: Option<f64>,
}

/// How long a search may go on. Nothing set: until it converges.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget<'a> {
    /// When no further measurement is begun.
    pub until: Option<Instant>,
    /// Most measurements, those of earlier searches not counted.
    pub trials: Option<usize>,
    /// May be set at any time, such as by a signal handler: the search ends before its next
    /// measurement.
    pub stop: Option<&'a AtomicBool>,
}

impl Budget<'_> {
    fn stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }
}

/// How a search goes about it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Measurements between two fits of the model, at least 1.
    pub batch: usize,
    /// The part of a batch that is left to chance.
    pub chance: f64,
    /// How many batches may bring less than `gain_min` before the search ends.
    pub patience: usize,
    /// What part of its time the best must lose for a batch to count.
    pub gain_min: f64,
    /// Fixes every choice that is left to chance.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { batch: 6, chance: 0.2, patience: 10, gain_min: 0.01, seed: 0 }
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// What was measured.
    pub schedule: Schedule,
    /// Seconds, or why there are none.
    pub result: Result<f64, String>,
}

/// What a search tells after each measurement: enough to store it and to show how far it is.
#[derive(Debug)]
pub struct Progress<'a> {
    /// The measurement.
    pub trial: &'a Trial,
    /// Measurements so far, this one included.
    pub trials: usize,
    /// Most measurements that can come, from the budget and what is left of the space.
    pub trials_max: u64,
    /// Seconds of the default.
    pub default_seconds: f64,
    /// The fastest so far, and its seconds.
    pub best: (&'a Schedule, f64),
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every schedule has been measured.
    Exhausted,
    /// The last batches brought too little.
    Converged,
    /// Time or trials are used up.
    Budget,
    /// The flag was set.
    Stopped,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The schedule that stands when nobody tunes, and its seconds.
    pub default: (Schedule, f64),
    /// The fastest, perhaps the default, and its seconds.
    pub best: (Schedule, f64),
    /// What was measured, in order; without what was known before.
    pub trials: Vec<Trial>,
    /// All schedules with a time, known before or measured, fastest first.
    pub ranked: Vec<(Schedule, f64)>,
    /// Why it ended.
    pub end: End,
}

/// Why there is no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum SearchError {
    #[error("the default schedule `{schedule}` of {task} cannot be measured: {reason}")]
    Default { task: String, schedule: Schedule, reason: String },
    #[error("stopped before the default was measured")]
    Stopped,
}

/// Searches `space` for the fastest schedule of `task`.
///
/// `prior` is what earlier searches measured on this device: rows of this task are not measured
/// again, rows of others teach the model. `measure` gives seconds; where it fails, the schedule is
/// passed over. `progress` is told of every measurement. What ends the search early loses nothing:
/// the outcome is what there is so far.
///
/// # Errors
/// When the default cannot be measured, or the search is stopped before it was.
pub fn search<E: Display>(
    space: &Space,
    task: &Task,
    prior: &[Row],
    options: &Options,
    budget: Budget<'_>,
    measure: &mut dyn FnMut(&Schedule) -> Result<f64, E>,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> Result<Outcome, SearchError> {
    let mut measure = |schedule: &Schedule| match measure(schedule) {
        Ok(seconds) if seconds.is_finite() && seconds > 0.0 => Ok(seconds),
        Ok(seconds) => Err(format!("{seconds} is no time")),
        Err(error) => Err(error.to_string()),
    };
    let known = known(space, task, prior);
    let mut run =
        Run { space, task, budget, known, trials: Vec::new(), measure: &mut measure, progress };
    let default = space.default_point();
    run.default()?;
    let mut random = Random::new(options.seed);
    let mut surrogate = Surrogate::new(space, task, prior, options.seed);
    let batch = options.batch.max(1);
    let mut next = candidates::first(space, &surrogate, &run.known, batch, &mut random);
    let mut idle = 0;
    let end = loop {
        let before = run.best().1;
        if let Some(end) = run.batch(&next) {
            break end;
        }
        if run.known.len() as u64 == space.size() {
            break End::Exhausted;
        }
        idle = if run.best().1 < before * (1.0 - options.gain_min) { 0 } else { idle + 1 };
        if idle >= options.patience && space.size() > SMALL {
            break End::Converged;
        }
        surrogate.learn(space, &run.logs());
        next = candidates::next(space, &surrogate, &run.known, options, &mut random);
    };
    let schedule = |point| space.nth(point).unwrap_or_default();
    let ranked = run.ranked().into_iter().map(|(point, s)| (schedule(point), s)).collect();
    let (best, seconds) = run.best();
    Ok(Outcome {
        default: (schedule(default), run.seconds(default)),
        best: (schedule(best), seconds),
        ranked,
        trials: run.trials,
        end,
    })
}

/// What is known of the points of a space: seconds, or `None` for those that fail.
type Known = BTreeMap<u64, Option<f64>>;

fn known(space: &Space, task: &Task, prior: &[Row]) -> Known {
    let time = |seconds: &f64| seconds.is_finite() && *seconds > 0.0;
    let own = prior.iter().filter(|row| row.task.key() == task.key());
    own.filter_map(|row| Some((space.point(&row.schedule)?, row.seconds.filter(time)))).collect()
}

/// A search under way.
struct Run<'a> {
    space: &'a Space,
    task: &'a Task,
    budget: Budget<'a>,
    known: Known,
    trials: Vec<Trial>,
    measure: &'a mut dyn FnMut(&Schedule) -> Result<f64, String>,
    progress: &'a mut dyn FnMut(&Progress<'_>),
}

impl Run<'_> {
    /// Measures the default. What was measured before, perhaps when the machine had other things
    /// to do, counts by how it compared with the default then.
    fn default(&mut self) -> Result<(), SearchError> {
        let point = self.space.default_point();
        let before = self.known.get(&point).copied().flatten();
        if self.budget.stopped() {
            return Err(SearchError::Stopped);
        }
        let schedule = self.space.nth(point).unwrap_or_default();
        match (self.measure)(&schedule) {
            Ok(seconds) => {
                if let Some(before) = before {
                    let others = self.known.values_mut().flatten();
                    others.for_each(|other| *other *= seconds / before);
                }
                self.add(point, schedule, Ok(seconds));
            }
            Err(reason) => {
                let task = self.task.key().to_string();
                return Err(SearchError::Default { task, schedule, reason });
            }
        }
        Ok(())
    }

    /// Measures points that are not known; says why it ended before the last.
    fn batch(&mut self, points: &[u64]) -> Option<End> {
        for &point in points {
            if self.known.contains_key(&point) {
                continue;
            }
            if self.budget.stopped() {
                return Some(End::Stopped);
            }
            let late = self.budget.until.is_some_and(|until| Instant::now() >= until);
            if late || self.budget.trials.is_some_and(|most| self.trials.len() >= most) {
                return Some(End::Budget);
            }
            let schedule = self.space.nth(point).unwrap_or_default();
            let result = (self.measure)(&schedule);
            self.add(point, schedule, result);
        }
        None
    }

    fn add(&mut self, point: u64, schedule: Schedule, result: Result<f64, String>) {
        self.known.insert(point, result.as_ref().ok().copied());
        self.trials.push(Trial { schedule, result });
        let Some(trial) = self.trials.last() else { return };
        let (best, seconds) = self.best();
        let best = self.space.nth(best).unwrap_or_default();
        let trials = self.trials.len();
        let rest = self.space.size() - self.known.len() as u64;
        let most = self.budget.trials.map_or(u64::MAX, |most| most as u64);
        let progress = Progress {
            trial,
            trials,
            trials_max: (trials as u64 + rest).min(most.max(trials as u64)),
            default_seconds: self.seconds(self.space.default_point()),
            best: (&best, seconds),
        };
        (self.progress)(&progress);
    }

    /// The seconds of a point that has some; infinite for one that has none.
    fn seconds(&self, point: u64) -> f64 {
        self.known.get(&point).copied().flatten().unwrap_or(f64::INFINITY)
    }

    /// Points with a time, fastest first; the first of equal ones.
    fn ranked(&self) -> Vec<(u64, f64)> {
        ranked(&self.known)
    }

    /// The fastest point; the default where another is only as fast.
    fn best(&self) -> (u64, f64) {
        let default = self.space.default_point();
        let start = (default, self.seconds(default));
        let timed = self.known.iter().filter_map(|(&point, &seconds)| Some((point, seconds?)));
        timed.fold(start, |best, other| if other.1 < best.1 { other } else { best })
    }

    /// What the model learns: for each point the logarithm of its time over that of the default.
    /// What failed is as slow as the slowest, so that its like is not proposed.
    fn logs(&self) -> Vec<(u64, f64)> {
        let base = self.seconds(self.space.default_point());
        let worst = self.known.values().flatten().fold(base, |worst, &seconds| worst.max(seconds));
        let log = |(&point, seconds): (&u64, &Option<f64>)| {
            (point, (seconds.unwrap_or(worst) / base).ln())
        };
        self.known.iter().map(log).collect()
    }
}

/// Points with a time, fastest first.
fn ranked(known: &Known) -> Vec<(u64, f64)> {
    let mut all: Vec<(u64, f64)> =
        known.iter().filter_map(|(&point, &seconds)| Some((point, seconds?))).collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    all
}
