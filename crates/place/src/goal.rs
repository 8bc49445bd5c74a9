//! What makes one placement better than another.

use crate::schedule::Metrics;

/// How much worse a placement counts that is past a bound, for each time that it is.
const PENALTY: f64 = 100.0;

/// A weighted sum to be made small, and bounds to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Goal {
    /// Weight of the time of one run.
    pub latency: f64,
    /// Weight of the load of what is busiest.
    pub load: f64,
    /// Weight of what is spent.
    pub spent: f64,
    /// Most time of one run.
    pub makespan_max: Option<f64>,
    /// Most load.
    pub load_max: Option<f64>,
    /// Most that is spent.
    pub spent_max: Option<f64>,
}

impl Goal {
    /// The least time for one run.
    pub const LATENCY: Goal = Goal {
        latency: 1.0,
        load: 0.0,
        spent: 0.0,
        makespan_max: None,
        load_max: None,
        spent_max: None,
    };
    /// The most runs in a time, when they overlap.
    pub const THROUGHPUT: Goal = Goal { latency: 0.0, load: 1.0, ..Goal::LATENCY };

    /// What is made small. Past a bound it rises steeply, so that a search finds its way back.
    pub fn score(&self, metrics: &Metrics) -> f64 {
        self.of(metrics.makespan, metrics.load, metrics.spent)
    }

    /// The bounds that these numbers are past, by name, with the number and the most.
    pub fn broken(&self, metrics: &Metrics) -> Vec<(&'static str, f64, f64)> {
        let bounds = [
            ("latency", metrics.makespan, self.makespan_max),
            ("load", metrics.load, self.load_max),
            ("spent", metrics.spent, self.spent_max),
        ];
        let past = |(name, got, most): (&'static str, f64, Option<f64>)| {
            most.filter(|&most| got > most).map(|most| (name, got, most))
        };
        bounds.into_iter().filter_map(past).collect()
    }

    /// Whether a score depends on when tasks run.
    pub(crate) fn needs_times(&self) -> bool {
        self.latency > 0.0 || self.makespan_max.is_some()
    }

    /// Whether a score depends on loads.
    pub(crate) fn needs_loads(&self) -> bool {
        self.load > 0.0 || self.load_max.is_some()
    }

    pub(crate) fn of(&self, makespan: f64, load: f64, spent: f64) -> f64 {
        let sum = self.latency * makespan + self.load * load + self.spent * spent;
        let past = |got: f64, most: Option<f64>| {
            most.map_or(0.0, |most| (got / most.max(f64::MIN_POSITIVE) - 1.0).max(0.0))
        };
        let past = past(makespan, self.makespan_max)
            + past(load, self.load_max)
            + past(spent, self.spent_max);
        if past > 0.0 { sum * (1.0 + PENALTY * past) } else { sum }
    }

    /// The makespan from which on a score is above `limit` for certain.
    pub(crate) fn makespan_within(&self, limit: f64, load: f64, spent: f64) -> f64 {
        if self.latency <= 0.0 {
            return f64::INFINITY;
        }
        (limit - self.load * load - self.spent * spent) / self.latency
    }
}
