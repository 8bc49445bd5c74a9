//! Why parts are where they are.

use std::collections::BTreeSet;

use hetra_device::Wire;
use hetra_ir::ValueId;

use crate::placing::costs::CostSource;
use crate::placing::file::{Blocked, Copies, NextBest, PlanPart, ranges};
use crate::placing::planner::{Cost, Planner};
use crate::placing::tasks::Tasks;

/// What was measured to place tasks by.
pub(super) struct Timed {
    pub(super) tasks: Tasks,
    /// By task and device.
    pub(super) costs: Vec<Vec<Cost>>,
    /// Where they come from, likewise.
    pub(super) sources: Vec<Vec<CostSource>>,
    /// Into each device, and out of it.
    pub(super) lines: Vec<(Wire, Wire)>,
    /// Watts of each device at work, beside those of idling.
    pub(super) watts: Vec<f64>,
}

impl Timed {
    /// Seconds of tasks on a device; none where it does not do one of them.
    fn total(&self, group: &[usize], device: usize) -> Option<f64> {
        group.iter().map(|&task| self.costs[task][device].as_ref().ok().copied()).sum()
    }
}

impl Planner<'_> {
    /// Tasks that follow each other on one device, `on` being the device of each task.
    pub(super) fn part(&self, timed: &Timed, group: &[usize], on: &[usize]) -> PlanPart {
        let device = on[group[0]];
        let nodes = group.iter().flat_map(|&task| &timed.tasks.all[task].nodes);
        let mut nodes: Vec<usize> = nodes.map(|id| id.index()).collect();
        nodes.sort_unstable();
        let label = |node: usize| self.graph.nodes[node].label(&self.graph);
        let (first, last) = (nodes.first().copied(), nodes.last().copied());
        let predicted_s = timed.total(group, device);
        let next = self.next(timed, group, device);
        let idle = self.gauge.rates[device].watts.map(|(idle, _)| idle);
        let joules = |seconds: f64| idle.map(|idle| (idle + timed.watts[device]) * seconds);
        PlanPart {
            device: self.id(device).to_string(),
            first: first.map(label).unwrap_or_default(),
            last: last.map(label).unwrap_or_default(),
            cause: self.cause(predicted_s, next.as_ref()),
            predicted_s,
            joules: predicted_s.and_then(joules),
            copies_in: self.copies(timed, group, on, true),
            copies_out: self.copies(timed, group, on, false),
            blocked: self.blocked(timed, group, device),
            next,
            nodes: ranges(nodes.into_iter()),
        }
    }

    /// The next best device that does all of it.
    fn next(&self, timed: &Timed, group: &[usize], device: usize) -> Option<NextBest> {
        let others = (0..self.devices.len()).filter(|&other| other != device);
        let all = others.filter_map(|other| Some((other, timed.total(group, other)?)));
        let (other, seconds) = all.min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(NextBest { device: self.id(other).to_string(), seconds })
    }

    /// In words: what it takes there, and on the next best device.
    fn cause(&self, own: Option<f64>, next: Option<&NextBest>) -> String {
        let ms = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
        let Some(own) = own else { return "pinned, or nothing else does it".to_string() };
        match next {
            None => format!("{}: no other device does all of it", ms(own)),
            Some(NextBest { device, seconds }) if *seconds >= own => {
                format!("{}, fastest here; {device} takes {}", ms(own), ms(*seconds))
            }
            Some(NextBest { device, seconds }) => format!(
                "{}; {device} takes {} by itself, which another copy or the rest of the model costs again",
                ms(own),
                ms(*seconds)
            ),
        }
    }

    /// Values that tasks read from other devices, or make for them; inputs and outputs of the model
    /// are the host's.
    fn copies(&self, timed: &Timed, group: &[usize], on: &[usize], into: bool) -> Copies {
        let device = on[group[0]];
        let tasks = &timed.tasks.all;
        let reads = |task: usize| tasks[task].extract.inputs.iter().copied();
        let makes = |task: usize| tasks[task].extract.outputs.iter().copied();
        let maker = |id: ValueId| (0..tasks.len()).find(|&task| makes(task).any(|made| made == id));
        let crosses_in = |id: &ValueId| maker(*id).map_or(0, |task| on[task]) != device;
        let crosses_out = |id: &ValueId| {
            let read = (0..tasks.len()).filter(|&task| reads(task).any(|read| read == *id));
            let outside = self.graph.outputs.contains(id).then_some(0);
            read.map(|task| on[task]).chain(outside).any(|reader| reader != device)
        };
        let values: BTreeSet<ValueId> = match into {
            true => group.iter().flat_map(|&task| reads(task)).filter(crosses_in).collect(),
            false => group.iter().flat_map(|&task| makes(task)).filter(crosses_out).collect(),
        };
        let bytes = |id: &ValueId| timed.tasks.bytes[id.index()];
        let line = if into { timed.lines[device].0 } else { timed.lines[device].1 };
        let seconds = |id: &ValueId| line.seconds(bytes(id) as f64);
        Copies {
            values: values.len(),
            bytes: values.iter().map(bytes).sum(),
            seconds: values.iter().map(seconds).sum(),
        }
    }

    /// Devices that would do it faster if they did what they do not, in proportion to the rest.
    fn blocked(&self, timed: &Timed, group: &[usize], device: usize) -> Vec<Blocked> {
        let others = (0..self.devices.len()).filter(|&other| other != device);
        let blocked = |other: usize| {
            let cost = |task: usize, on: usize| timed.costs[task][on].as_ref();
            let (by, reason) =
                group.iter().find_map(|&task| Some((task, cost(task, other).err()?)))?;
            let both = group
                .iter()
                .filter_map(|&task| Some((cost(task, device).ok()?, cost(task, other).ok()?)));
            let (own, there) = both.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            let all = timed.total(group, device)?;
            let gain_s = if own > 0.0 { all * (1.0 - there / own) } else { 0.0 };
            (gain_s > 0.0).then(|| Blocked {
                device: self.id(other).to_string(),
                by: self.graph.node(timed.tasks.all[by].nodes[0]).label(&self.graph),
                reason: reason.clone(),
                gain_s,
            })
        };
        others.filter_map(blocked).collect()
    }
}
