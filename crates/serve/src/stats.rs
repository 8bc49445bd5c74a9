//! What a model has done, as statistics and metrics tell it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::wire::{BatchStatistics, InferStatistics, ModelStatistics, Took};

impl Took {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.ns += took.as_nanos() as u64;
    }
}

/// Times of one run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) input: Duration,
    pub(crate) infer: Duration,
    pub(crate) output: Duration,
}

/// What a model has done since it was loaded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    inferences: u64,
    executions: u64,
    last_ms: u64,
    all: InferStatistics,
    batches: BTreeMap<u64, BatchStatistics>,
    /// Requests that were not taken, or not in time.
    pub(crate) shed: u64,
}

impl Stats {
    /// A run of so many rows.
    pub(crate) fn ran(&mut self, rows: usize, times: Times) {
        self.executions += 1;
        self.inferences += rows as u64;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_ms = since.as_millis() as u64;
        let batch = self.batches.entry(rows as u64).or_default();
        batch.batch_size = rows as u64;
        batch.compute_input.add(times.input);
        batch.compute_infer.add(times.infer);
        batch.compute_output.add(times.output);
    }

    /// A request of a run that succeeded.
    pub(crate) fn answered(&mut self, queued: Duration, times: Times) {
        self.all.queue.add(queued);
        self.all.compute_input.add(times.input);
        self.all.compute_infer.add(times.infer);
        self.all.compute_output.add(times.output);
        self.all.success.add(queued + times.input + times.infer + times.output);
    }

    /// A request that failed after so long.
    pub(crate) fn failed(&mut self, after: Duration) {
        self.all.fail.add(after);
    }

    /// All of it, under a name.
    pub(crate) fn told(&self, name: &str, version: u64) -> ModelStatistics {
        ModelStatistics {
            name: name.to_string(),
            version: version.to_string(),
            last_inference: self.last_ms,
            inference_count: self.inferences,
            execution_count: self.executions,
            inference_stats: self.all,
            batch_stats: self.batches.values().copied().collect(),
        }
    }
}
