//! What a plan says of itself.

use std::collections::BTreeMap;

use hetra_exec::Seat;
use hetra_ir::Type;

use crate::placing::accept::Certificate;
use crate::placing::choose::Placed;
use crate::placing::explain::Timed;
use crate::placing::file::{
    Bounded, Considered, FORMAT, Left, PlanDevice, PlanFile, PlanPart, PlanStep, PlanTask,
};
use crate::placing::fingerprint;
use crate::placing::goal::Figures;
use crate::placing::measure::Ready;
use crate::placing::planner::{MIX, Planner};

impl Planner<'_> {
    pub(super) fn file(
        &mut self,
        timed: &Timed,
        choice: &[usize],
        placed: Option<Placed>,
        certificate: Option<Certificate>,
    ) -> PlanFile {
        let tasks = &timed.tasks;
        let on: Vec<usize> = tasks.all.iter().map(|task| choice[task.nodes[0].index()]).collect();
        let first = on.first().copied().unwrap_or(0);
        let mixed = on.iter().any(|&device| device != first);
        let chosen = if mixed { MIX } else { self.id(first) }.to_string();
        let promised = placed.iter().flat_map(|placed| &placed.promises).find(|promise| {
            let device = &promise.candidate.placement.device;
            device[1..device.len() - 1] == on[..]
        });
        let overlaps = self.options.goal.overlaps();
        let seconds = |figures: &Figures| match overlaps {
            true => figures.interval_s,
            false => figures.latency_s,
        };
        let predicted_s = promised.map(|promise| seconds(&promise.figures));
        let measured = self.considered.iter().find(|row| row.name == chosen);
        let measured = measured.and_then(|row| row.figures.as_ref().map(seconds));
        let predicted_s = predicted_s.or(measured).unwrap_or(0.0);
        let mut considered = std::mem::take(&mut self.considered);
        let order = |row: &Considered| row.predicted.unwrap_or(f64::INFINITY);
        considered.sort_by(|a, b| order(a).total_cmp(&order(b)));
        let mut used: Vec<usize> = on.clone();
        used.push(0);
        used.sort_unstable();
        used.dedup();
        let named = self.graph.inputs.iter().zip(&self.inputs);
        let inputs = named
            .map(|(&id, value)| (self.graph.value(id).name.clone(), Type::of(value).to_string()));
        PlanFile {
            format: FORMAT,
            model: fingerprint::of(&self.graph),
            goal: self.options.goal.name().to_string(),
            inputs: inputs.collect(),
            devices: used.iter().map(|&device| described(&self.devices[device])).collect(),
            parts: self.parts(timed, &on),
            chosen,
            predicted_s,
            considered,
            refused: std::mem::take(&mut self.refused),
            warnings: std::mem::take(&mut self.warnings),
            learned_spread: self.learned_spread(),
            tasks: self.tasks(timed, &on),
            timeline: self.timeline(choice),
            bound: placed
                .as_ref()
                .and_then(|placed| placed.bound.as_ref())
                .map(|bound| Bounded { score: bound.score, by: bound.by.to_string() }),
            frontier: placed.map(|placed| placed.frontier).unwrap_or_default(),
            certificate,
        }
    }

    fn learned_spread(&self) -> BTreeMap<String, f64> {
        let spreads = self.ledger.spreads().into_iter().enumerate();
        spreads
            .filter_map(|(device, spread)| Some((self.id(device).to_string(), spread?)))
            .collect()
    }

    /// Tasks that follow each other on one device, as parts.
    fn parts(&self, timed: &Timed, on: &[usize]) -> Vec<PlanPart> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for task in 0..on.len() {
            match groups.last_mut() {
                Some(group) if on[group[0]] == on[task] => group.push(task),
                _ => groups.push(vec![task]),
            }
        }
        groups.into_iter().map(|group| self.part(timed, &group, on)).collect()
    }

    /// Steps of a run of a plan: that of the median of a few; none where it fails now.
    fn timeline(&self, choice: &[usize]) -> Vec<PlanStep> {
        let ready = Ready::placed(&self.graph, choice, self.inputs.clone(), self.devices);
        let steps = ready.and_then(|ready| ready.timeline());
        steps.unwrap_or_default()
    }

    fn tasks(&self, timed: &Timed, on: &[usize]) -> Vec<PlanTask> {
        let Timed { tasks, costs, sources, .. } = timed;
        let makes = |id: &hetra_ir::ValueId| {
            tasks.all.iter().position(|task| task.extract.outputs.contains(id))
        };
        let task = |index: usize| {
            let task = &tasks.all[index];
            let devices = costs[index].iter().enumerate();
            let mut left = Vec::new();
            let (mut seconds, mut from) = (BTreeMap::new(), BTreeMap::new());
            for (at, cost) in devices {
                let device = self.id(at).to_string();
                match cost {
                    Ok(cost) => {
                        from.insert(device.clone(), sources[index][at]);
                        seconds.insert(device, *cost);
                    }
                    Err(reason) => left.push(Left { device, reason: reason.clone() }),
                }
            }
            PlanTask {
                first: self.graph.node(task.nodes[0]).label(&self.graph),
                nodes: task.nodes.len(),
                ops: task.ops,
                out_bytes: task.extract.outputs.iter().map(|id| tasks.bytes[id.index()]).sum(),
                seconds,
                from,
                left,
                device: self.id(on[index]).to_string(),
                reads: reads(
                    task.extract.inputs.iter().map(|id| (makes(id), tasks.bytes[id.index()])),
                ),
            }
        };
        (0..tasks.all.len()).map(task).collect()
    }
}

/// Bytes by the task that they are read of.
fn reads(values: impl Iterator<Item = (Option<usize>, u64)>) -> Vec<(usize, u64)> {
    let mut sums = BTreeMap::new();
    for (from, bytes) in values {
        if let Some(from) = from {
            *sums.entry(from).or_default() += bytes;
        }
    }
    sums.into_iter().collect()
}

pub(super) fn described(seat: &Seat) -> PlanDevice {
    let info = seat.device.info();
    PlanDevice {
        id: info.id.clone(),
        name: info.name.clone(),
        version: info.version.clone(),
        threads: info.threads,
        software: info.software,
        cores: seat.cores.clone(),
    }
}
