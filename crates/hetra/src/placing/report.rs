//! What a plan says of itself.

use std::collections::BTreeMap;

use hetra_exec::Seat;
use hetra_ir::Type;

use crate::placing::accept::Certificate;
use crate::placing::choose::Placed;
use crate::placing::file::{
    Bounded, FORMAT, Left, PlanDevice, PlanFile, PlanPart, PlanTask, ranges,
};
use crate::placing::fingerprint;
use crate::placing::goal::Figures;
use crate::placing::planner::{Cost, MIX, Planner};
use crate::placing::tasks::Tasks;

impl Planner<'_> {
    pub(super) fn file(
        &mut self,
        tasks: &Tasks,
        costs: &[Vec<Cost>],
        choice: &[usize],
        placed: Option<Placed>,
        certificate: Option<Certificate>,
    ) -> PlanFile {
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
        considered.sort_by(|a, b| a.predicted.total_cmp(&b.predicted));
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
            parts: self.parts(tasks, costs, &on),
            chosen,
            predicted_s,
            considered,
            refused: std::mem::take(&mut self.refused),
            tasks: self.tasks(tasks, costs, &on),
            bound: placed
                .as_ref()
                .and_then(|placed| placed.bound.as_ref())
                .map(|bound| Bounded { score: bound.score, by: bound.by.to_string() }),
            frontier: placed.map(|placed| placed.frontier).unwrap_or_default(),
            certificate,
        }
    }

    /// Tasks that follow each other on one device, as parts.
    fn parts(&self, tasks: &Tasks, costs: &[Vec<Cost>], on: &[usize]) -> Vec<PlanPart> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for task in 0..on.len() {
            match groups.last_mut() {
                Some(group) if on[group[0]] == on[task] => group.push(task),
                _ => groups.push(vec![task]),
            }
        }
        let part = |group: Vec<usize>| {
            let mut nodes: Vec<usize> = group
                .iter()
                .flat_map(|&task| tasks.all[task].nodes.iter().map(|id| id.index()))
                .collect();
            nodes.sort_unstable();
            let label = |node: usize| self.graph.nodes[node].label(&self.graph);
            let (first, last) = (nodes.first().copied(), nodes.last().copied());
            PlanPart {
                device: self.id(on[group[0]]).to_string(),
                first: first.map(label).unwrap_or_default(),
                last: last.map(label).unwrap_or_default(),
                cause: self.cause(&group, costs, on[group[0]]),
                nodes: ranges(nodes.into_iter()),
            }
        };
        groups.into_iter().map(part).collect()
    }

    /// Why tasks stand on a device: what they take there and on the next best one.
    fn cause(&self, group: &[usize], costs: &[Vec<Cost>], on: usize) -> String {
        let total = |device: usize| -> Option<f64> {
            group.iter().map(|&task| costs[task][device].as_ref().ok().copied()).sum()
        };
        let Some(own) = total(on) else { return "pinned, or nothing else does it".to_string() };
        let others = (0..self.devices.len()).filter(|&device| device != on);
        let timed = others.filter_map(|device| Some((device, total(device)?)));
        let ms = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
        match timed.min_by(|a, b| a.1.total_cmp(&b.1)) {
            None => format!("{}: no other device does all of it", ms(own)),
            Some((device, other)) if other >= own => {
                format!("{}, fastest here; {} takes {}", ms(own), self.id(device), ms(other))
            }
            Some((device, other)) => format!(
                "{}; {} takes {} by itself, which another copy or the rest of the model costs again",
                ms(own),
                self.id(device),
                ms(other)
            ),
        }
    }

    fn tasks(&self, tasks: &Tasks, costs: &[Vec<Cost>], on: &[usize]) -> Vec<PlanTask> {
        let task = |index: usize| {
            let task = &tasks.all[index];
            let devices = costs[index].iter().enumerate();
            let mut left = Vec::new();
            let mut seconds = BTreeMap::new();
            for (device, cost) in devices {
                let device = self.id(device).to_string();
                match cost {
                    Ok(cost) => drop(seconds.insert(device, *cost)),
                    Err(reason) => left.push(Left { device, reason: reason.clone() }),
                }
            }
            PlanTask {
                first: self.graph.node(task.nodes[0]).label(&self.graph),
                nodes: task.nodes.len(),
                ops: task.ops,
                out_bytes: task.extract.outputs.iter().map(|id| tasks.bytes[id.index()]).sum(),
                seconds,
                left,
                device: self.id(on[index]).to_string(),
            }
        };
        (0..tasks.all.len()).map(task).collect()
    }
}

fn described(seat: &Seat) -> PlanDevice {
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
