//! Tries schedules where they are to work: in the model.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hetra_device::Schedule;
use hetra_exec::{Engine, RunOptions, Trace};
use hetra_tensor::Value;
use hetra_tune::{Rule, Verdict};

use super::job::Job;
use crate::error::Error;
use crate::session::Session;

/// Pairs of runs: as many as a verdict needs at least, and as many as the time allows at most.
const PAIRS_MIN: usize = 9;
const PAIRS_MAX: usize = 31;

/// A model with its inputs.
pub(super) struct Contest<'a> {
    session: &'a Session,
    inputs: Vec<Option<Value>>,
}

impl<'a> Contest<'a> {
    pub(super) fn new(session: &'a Session, inputs: &[(String, Value)]) -> Contest<'a> {
        let graph = session.graph();
        let named = |name: &str| inputs.iter().find(|(known, _)| known == name);
        let names = graph.inputs.iter().map(|&id| graph.value(id).name.as_str());
        let inputs = names.map(|name| named(name).map(|(_, value)| value.clone())).collect();
        Contest { session, inputs }
    }

    /// Runs the model as it is and with the schedules of all entries (a job, and what is tried for
    /// it), in turn. Gives a verdict for each entry, of the time of its own nodes; it is lost where
    /// `stop` is set before there are enough pairs.
    pub(super) fn run(
        &self,
        jobs: &[Job],
        entries: &[(usize, Schedule)],
        until: Instant,
        stop: &AtomicBool,
    ) -> Result<Vec<Verdict>, Error> {
        let mut programs = Vec::new();
        for (index, schedule) in entries {
            for alone in &jobs[*index].nodes {
                programs.push((alone.node(), alone.compile(schedule)?));
            }
        }
        let old = self.session.engine();
        let new = old.with_programs(programs);
        let labels: Vec<Vec<String>> = entries
            .iter()
            .map(|(index, _)| jobs[*index].nodes.iter().map(|alone| alone.label()).collect())
            .collect();
        let time = |engine: &Engine| -> Result<Vec<f64>, Error> {
            let mut trace = Trace::default();
            let outputs = &engine.graph().outputs;
            let options = RunOptions::default();
            engine.run(self.inputs.clone(), outputs, &options, Some(&mut trace))?;
            Ok(labels.iter().map(|labels| seconds(&trace, labels)).collect())
        };
        // Plans and memory.
        time(old)?;
        time(&new)?;
        let mut pairs: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
        while pairs.len() < PAIRS_MIN || (pairs.len() < PAIRS_MAX && Instant::now() < until) {
            if stop.load(Ordering::Relaxed) && !pairs.is_empty() {
                break;
            }
            // Whatever the first of a pair does to the second happens to both.
            pairs.push(if pairs.len().is_multiple_of(2) {
                let first = time(old)?;
                (first, time(&new)?)
            } else {
                let first = time(&new)?;
                (time(old)?, first)
            });
        }
        let enough = pairs.len() >= PAIRS_MIN;
        let verdict = |entry: usize| {
            let of = |(old, new): &(Vec<f64>, Vec<f64>)| (old[entry], new[entry]);
            let (old, new): (Vec<f64>, Vec<f64>) = pairs.iter().map(of).unzip();
            let verdict = Rule::default().judge(&old, &new);
            Verdict { wins: verdict.wins && enough, ..verdict }
        };
        Ok((0..entries.len()).map(verdict).collect())
    }
}

/// Seconds of the steps of these nodes.
fn seconds(trace: &Trace, labels: &[String]) -> f64 {
    let own = trace.steps.iter().filter(|step| labels.contains(&step.node));
    own.map(|step| step.duration_ns as f64 / 1e9).sum()
}
