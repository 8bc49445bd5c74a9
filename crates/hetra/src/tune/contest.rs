//! Tries schedules where they are to work: in the model.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use hetra_device::Schedule;
use hetra_exec::{Engine, RunOptions, Trace};
use hetra_tensor::Value;
use hetra_tune::{Pairs, Rule, Verdict};

use super::job::Job;
use crate::error::Error;
use crate::session::Session;

/// Pairs of runs: as many as a verdict needs at least, and as many as the time allows at most.
const PAIRS_MIN: usize = 9;
const PAIRS_MAX: usize = 31;
/// What a schedule has to gain. What wins is tried again together with all others that won.
const RULE: Rule = Rule { margin: 0.015, chance: 0.05 };

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
    /// it), in turn. Gives a verdict for each entry, of the time of its own nodes, and one of all
    /// steps; they are lost where `stop` is set before there are enough pairs.
    pub(super) fn run(
        &self,
        jobs: &[Job],
        entries: &[(usize, Schedule)],
        until: Instant,
        stop: &AtomicBool,
    ) -> Result<(Vec<Verdict>, Verdict), Error> {
        let mut programs = Vec::new();
        for (index, schedule) in entries {
            for alone in &jobs[*index].nodes {
                programs.push((alone.node(), alone.compile(schedule)?));
            }
        }
        let old = self.session.engine();
        let new = old.with_programs(programs);
        // For each step's node the entry that it is of.
        let of = |(entry, (index, _)): (usize, &(usize, Schedule))| {
            let nodes = jobs[*index].nodes.iter();
            nodes.map(move |alone| (alone.node().index(), entry)).collect::<Vec<_>>()
        };
        let owners: HashMap<usize, usize> = entries.iter().enumerate().flat_map(of).collect();
        // Seconds of each entry, and of all steps behind them.
        let time = |engine: &Engine| -> Result<Vec<f64>, Error> {
            let mut trace = Trace::default();
            let outputs = &engine.graph().outputs;
            let options = RunOptions::default();
            engine.run(self.inputs.clone(), outputs, &options, Some(&mut trace))?;
            let mut seconds = vec![0.0; entries.len() + 1];
            for step in &trace.steps {
                let own = step.duration_ns as f64 / 1e9;
                seconds[entries.len()] += own;
                if let Some(&entry) = owners.get(&step.index) {
                    seconds[entry] += own;
                }
            }
            Ok(seconds)
        };
        // Plans and memory.
        time(old)?;
        time(&new)?;
        let pairs = Pairs { least: PAIRS_MIN, most: PAIRS_MAX, until, stop: Some(stop) };
        let pairs = pairs.measure(&mut || time(old), &mut || time(&new))?;
        let verdict = |entry: usize| {
            let of = |(old, new): &(Vec<f64>, Vec<f64>)| (old[entry], new[entry]);
            let verdict = RULE.judge(&pairs.iter().map(of).collect::<Vec<_>>());
            Verdict { wins: verdict.wins && pairs.len() >= PAIRS_MIN, ..verdict }
        };
        Ok(((0..entries.len()).map(verdict).collect(), verdict(entries.len())))
    }
}
