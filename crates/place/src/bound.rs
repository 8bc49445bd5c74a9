//! How good any placement can be at most.

use crate::goal::Goal;
use crate::problem::{Id, PlaceError, Problem};
use crate::table::Table;

/// Steps of the ascent of [`work`].
const STEPS: usize = 300;

/// A score that no placement is below, and what says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// In the unit of scores.
    pub score: f64,
    /// `path`, `work` or `exact`.
    pub by: &'static str,
}

/// The greatest bound that is known for a goal; 0 where nothing is.
///
/// `path`: the longest way through the graph, if each task on it were on the device that suits the
/// way best, copies counted. `work`: what must be computed, spread over the units as a linear
/// programme would, memory counted, copies not.
///
/// # Errors
/// When the problem is malformed.
pub fn bound(problem: &Problem, goal: &Goal) -> Result<Bound, PlaceError> {
    let table = Table::new(problem)?;
    let work = work(&table);
    let spent = spent(&table);
    let path = path(&table);
    let latency = if path > work { Bound { score: path, by: "path" } } else { by_work(work) };
    let rest = goal.load * work + goal.spent * spent;
    let by = if goal.latency > 0.0 { latency.by } else { "work" };
    Ok(Bound { score: goal.latency * latency.score + rest, by })
}

fn by_work(score: f64) -> Bound {
    Bound { score, by: "work" }
}

/// The least that can be spent: each group on its cheapest device.
fn spent(table: &Table<'_>) -> f64 {
    let cost = |group: Id| {
        let on = |&device: &Id| {
            let rate = table.problem.devices[device].rate;
            table.members.at(group).iter().map(|&task| table.time(task, device) * rate).sum::<f64>()
        };
        table.allowed.at(group).iter().map(on).fold(f64::INFINITY, f64::min)
    };
    (0..table.members.len()).map(cost).sum()
}

/// The longest path, each step on the best device for it.
fn path(table: &Table<'_>) -> f64 {
    let tails = table.tails();
    let from = |task: Id| {
        let on = |&device: &Id| table.time(task, device) + tails[task * table.devices + device];
        table.allowed.at(table.group_of[task]).iter().map(on).fold(f64::INFINITY, f64::min)
    };
    (0..table.tasks()).map(from).fold(0.0, f64::max)
}

/// The least load of the busiest unit, by Lagrangian duality: for weights of the units that sum to
/// 1 and prices of the devices' memory, no placement has a load below the sum of the least weighted
/// costs of the groups, less what the memory there is would fetch. Weights and prices follow the
/// subgradient; whatever they are, the bound holds.
fn work(table: &Table<'_>) -> f64 {
    let units = table.problem.units.len();
    let mut weights = vec![1.0 / units as f64; units];
    let mut prices = vec![0.0; table.devices];
    let mut best: f64 = 0.0;
    for step in 0..STEPS {
        let mut loads = vec![0.0; units];
        let mut memory = vec![0.0; table.devices];
        let mut value = 0.0;
        for group in 0..table.members.len() {
            let time = |device: Id| -> f64 {
                let slots = table.problem.units[table.problem.devices[device].unit].slots as f64;
                let members = table.members.at(group).iter();
                members.map(|&task| table.time(task, device)).sum::<f64>() / slots
            };
            let cost = |device: Id| {
                let unit = table.problem.devices[device].unit;
                weights[unit] * time(device) + prices[device] * table.group_memory[group]
            };
            let allowed = table.allowed.at(group).iter().copied();
            let least = allowed.min_by(|&a, &b| cost(a).total_cmp(&cost(b)));
            let Some(device) = least else { continue };
            value += cost(device);
            loads[table.problem.devices[device].unit] += time(device);
            memory[device] += table.group_memory[group];
        }
        for (device, price) in prices.iter().enumerate() {
            let most = table.memory_max(device);
            value -= if most.is_finite() { price * most } else { 0.0 };
        }
        best = best.max(value);
        climb(table, step, &loads, &memory, &mut weights, &mut prices);
    }
    best
}

/// One step: units that are busier than the mean weigh more, memory that is short costs more.
fn climb(
    table: &Table<'_>,
    step: usize,
    loads: &[f64],
    memory: &[f64],
    weights: &mut [f64],
    prices: &mut [f64],
) {
    let stride = 1.0 / (1.0 + step as f64).sqrt();
    let total: f64 = loads.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    for (weight, load) in weights.iter_mut().zip(loads) {
        *weight *= (stride * load / total).exp();
    }
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
    let mean = total / loads.len() as f64;
    for (device, price) in prices.iter_mut().enumerate() {
        let most = table.memory_max(device);
        if most.is_finite() && most > 0.0 {
            let over = memory[device] / most - 1.0;
            *price = (*price + stride * over * mean / most).max(0.0);
        }
    }
}
