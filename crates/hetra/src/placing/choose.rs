//! Which placements are worth a try.

use std::time::Duration;

use hetra_place::{Bound, Budget, Candidate, Goal, Metrics, PlaceError, Problem};

use crate::error::Error;
use crate::placing::accept::Sample;
use crate::placing::file::Frontier;
use crate::placing::goal::{Figures, PlanGoal};
use crate::placing::measure::Ready;
use crate::placing::planner::Planner;
use crate::placing::tasks::Tasks;
use crate::placing::trial::Single;

/// A mix that is not expected to be better by so much, in parts, is not tried.
const PROMISE_MIN: f64 = 0.01;
/// Steps of the search, and the fewest for one set of devices.
const STEPS: u64 = 200_000;
const STEPS_MIN: u64 = 20_000;
/// Of so many devices beside the host all sets are looked at; of more, those of one and of two.
const ALL_SETS_MAX: usize = 4;
/// Most plans of a frontier.
const FRONTIER_MAX: usize = 32;

/// A placement, and what it should take.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub(super) candidate: Candidate,
    pub(super) figures: Figures,
    /// By the goal.
    pub(super) score: f64,
}

/// What came of placing.
pub(super) struct Placed {
    /// The best first.
    pub(super) promises: Vec<Promise>,
    /// Where time alone is sought.
    pub(super) bound: Option<Bound>,
    pub(super) frontier: Vec<Frontier>,
}

impl Planner<'_> {
    /// What a placement takes: its devices, and the host's, are there for all of its time.
    fn promised(&self, metrics: &Metrics, devices: &[usize]) -> Figures {
        let mut used = vec![false; self.devices.len()];
        used[0] = true;
        devices.iter().for_each(|&device| used[device] = true);
        let time = if self.options.goal.overlaps() { metrics.load } else { metrics.makespan };
        let idle = |(device, used): (usize, &bool)| {
            used.then(|| self.gauge.rates[device].watts.map(|(idle, _)| idle))
        };
        let idle: Option<f64> = used.iter().enumerate().filter_map(idle).sum();
        Figures {
            latency_s: metrics.makespan,
            interval_s: metrics.load,
            joules: idle.map(|watts| watts * time + metrics.spent).filter(|_| self.gauge.counts),
            dollars: self.gauge.dollars(&used, time).filter(|_| self.gauge.counts),
        }
    }

    /// The goal of a search over some devices, which are paid for and powered for all its time.
    fn goal_on(&self, goal: &PlanGoal, devices: &[usize], host: &Figures) -> Goal {
        let unit = |of: f64| if goal.is_pure() { 1.0 } else { of.max(f64::MIN_POSITIVE) };
        let rates = || devices.iter().chain([&0]).map(|&device| self.gauge.rates[device]);
        let idle: f64 = rates().filter_map(|rates| Some(rates.watts?.0)).sum();
        let dollars: f64 = rates().filter_map(|rates| rates.dollars_s).sum();
        let energy = goal.energy / unit(host.joules.unwrap_or(1.0));
        let cost = goal.cost / unit(host.dollars.unwrap_or(1.0));
        let of_time = energy * idle + cost * dollars;
        let overlaps = goal.overlaps();
        let bounds = &self.options.bounds;
        Goal {
            latency: goal.latency / unit(host.latency_s) + if overlaps { 0.0 } else { of_time },
            load: goal.throughput / unit(host.interval_s) + if overlaps { of_time } else { 0.0 },
            spent: energy,
            makespan_max: bounds.latency_s,
            load_max: bounds.per_second.map(|least| 1.0 / least),
            spent_max: bounds.joules,
        }
    }

    /// The sets of devices beside the host that are looked at.
    fn sets(&self) -> Vec<Vec<usize>> {
        let others: Vec<usize> = (1..self.devices.len()).collect();
        let plain = self.options.goal.is_time() && self.options.bounds.is_none();
        if plain && !self.options.frontier {
            return vec![others];
        }
        let count = others.len();
        if count <= ALL_SETS_MAX {
            let set = |bits: usize| {
                others.iter().copied().filter(|device| bits >> (device - 1) & 1 == 1).collect()
            };
            return (0..1 << count).rev().map(set).collect();
        }
        let mut sets = vec![others.clone(), Vec::new()];
        for (at, &first) in others.iter().enumerate() {
            sets.push(vec![first]);
            sets.extend(others[at + 1..].iter().map(|&second| vec![first, second]));
        }
        sets
    }

    /// What the policies find on each set of devices.
    pub(super) fn place(&self, problem: &Problem, host: &Figures) -> Result<Placed, PlaceError> {
        let wanted: Vec<&str> = self.options.policies.iter().map(String::as_str).collect();
        let sets = self.sets();
        let steps = (STEPS / sets.len() as u64).max(STEPS_MIN);
        let budget = Budget { steps, spent: None, seed: self.options.seed };
        let goal = self.options.goal;
        let mut goals = vec![goal];
        if self.options.frontier {
            let rates = &self.gauge.rates;
            let powered = rates.iter().all(|rates| rates.watts.is_some());
            let priced = rates.iter().all(|rates| rates.dollars_s.is_some());
            let all = [
                (PlanGoal::LATENCY, true),
                (PlanGoal::THROUGHPUT, true),
                (PlanGoal::ENERGY, powered),
                (PlanGoal::COST, priced),
            ];
            let others = all.into_iter().filter(|(other, known)| *known && *other != goal);
            goals.extend(others.map(|(other, _)| other));
        }
        let (mut promises, mut bound, mut fault) = (Vec::new(), None, None);
        let mut all: Vec<(Vec<usize>, Figures)> = Vec::new();
        for set in &sets {
            let restricted = restricted(problem, set);
            for (index, goal) in goals.iter().enumerate() {
                let on = self.goal_on(goal, set, host);
                let found = match hetra_place::place(&restricted, &on, &wanted, &budget) {
                    Ok(found) => found,
                    // Fewer devices may not do all tasks.
                    Err(error) => {
                        fault.get_or_insert(error);
                        continue;
                    }
                };
                if goal.is_time() && set.len() + 1 == self.devices.len() && index == 0 {
                    bound = Some(found.bound);
                }
                for candidate in found.candidates {
                    let used = self.used_by(&candidate);
                    let figures = self.promised(&candidate.metrics, &used);
                    all.push((used, figures));
                    let score = self.options.goal.score(&figures, host);
                    promises.push(Promise { candidate, figures, score });
                }
            }
        }
        if promises.is_empty()
            && let Some(fault) = fault
        {
            return Err(fault);
        }
        promises.sort_by(|a, b| a.score.total_cmp(&b.score));
        let frontier = if self.options.frontier { self.frontier(all) } else { Vec::new() };
        Ok(Placed { promises, bound, frontier })
    }

    /// The devices of the tasks, borders aside, each once.
    fn used_by(&self, candidate: &Candidate) -> Vec<usize> {
        let device = &candidate.placement.device;
        let mut used: Vec<usize> = device[1..device.len() - 1].to_vec();
        used.sort_unstable();
        used.dedup();
        used
    }

    /// Those of which none is better than another in every respect, the quickest first.
    fn frontier(&self, mut all: Vec<(Vec<usize>, Figures)>) -> Vec<Frontier> {
        let respects = |figures: &Figures| {
            let Figures { latency_s, interval_s, joules, dollars } = figures;
            [Some(*latency_s), Some(*interval_s), *joules, *dollars]
        };
        // What is not known is no better than what is.
        let at_most = |other: Option<f64>, own: Option<f64>, times: f64| match (other, own) {
            (Some(other), Some(own)) => other <= own * times,
            (None, Some(_)) => false,
            _ => true,
        };
        all.sort_by(|a, b| a.1.latency_s.total_cmp(&b.1.latency_s));
        let mut kept: Vec<(Vec<usize>, Figures)> = Vec::new();
        for (used, figures) in &all {
            // As good as another one to a part in a thousand is not another plan.
            let better = |(_, other): &(Vec<usize>, Figures)| {
                let pairs = respects(other).into_iter().zip(respects(figures));
                pairs.into_iter().all(|(other, own)| at_most(other, own, 1.001))
            };
            let dominated = all.iter().any(|other| {
                let pairs = respects(&other.1).into_iter().zip(respects(figures));
                better(other)
                    && pairs.into_iter().any(|(o, own)| o.is_some() && at_most(o, own, 0.999))
            });
            if !dominated && !kept.iter().any(better) {
                kept.push((used.clone(), *figures));
            }
        }
        // The ends are the most telling.
        let (count, last) = (kept.len(), kept.last().cloned());
        if count > FRONTIER_MAX {
            let step = count.div_ceil(FRONTIER_MAX - 1);
            kept = kept.into_iter().step_by(step).collect();
            kept.extend(last);
            kept.dedup();
        }
        let named = |(used, figures): (Vec<usize>, Figures)| Frontier {
            devices: used.into_iter().map(|device| self.id(device).to_string()).collect(),
            figures,
        };
        kept.into_iter().map(named).collect()
    }

    /// The placement on several devices that promises to be better than one: the best by its score,
    /// or, for runs that overlap, stages of a pipeline where these are measured to be faster.
    pub(super) fn mix(
        &self,
        problem: &Problem,
        placed: &Placed,
        single: Option<&Single>,
        tasks: &Tasks,
        host: &Figures,
    ) -> Option<Promise> {
        let alone = single.and_then(|single| self.alone(problem, single.device));
        let alone = alone.map(|figures| self.options.goal.score(&figures, host));
        let overlaps = self.options.goal.overlaps();
        let promises = |promise: &&Promise| {
            let keeps = self.options.bounds.broken(&promise.figures, overlaps).is_empty();
            let better = alone.is_none_or(|alone| promise.score < alone * (1.0 - PROMISE_MIN));
            self.used_by(&promise.candidate).len() > 1 && keeps && better
        };
        let mixes = || placed.promises.iter().filter(promises);
        let best = mixes().next()?;
        let staged = mixes().find(|promise| promise.candidate.policy == "pipeline");
        let placement = |promise: &Promise| promise.candidate.placement.device.clone();
        let staged = staged.filter(|staged| placement(staged) != placement(best));
        let Some(staged) = staged.filter(|_| self.options.goal.is_time()) else {
            return Some(best.clone());
        };
        let time = |promise: &Promise| self.tried(&choice_of(tasks, &promise.candidate)).ok();
        let faster = match (time(best), time(staged)) {
            (Some(best), Some(staged)) => staged <= best,
            (best, _) => best.is_none(),
        };
        Some(if faster { staged } else { best }.clone())
    }

    /// Seconds of a placement, measured a few times.
    fn tried(&self, choice: &[usize]) -> Result<f64, Error> {
        let ready = Ready::placed(&self.graph, choice, self.inputs.clone(), self.devices)?;
        let alone = ready.sample(Duration::ZERO)?.median;
        let together = self.together(ready.parts());
        let score = || self.gauge.score(&ready, together, alone, &Figures::default());
        Ok(Sample::of((0..3).map(|_| score()).collect::<Result<_, _>>()?).median)
    }

    /// What is predicted where one device does all tasks; none where it does not do them.
    pub(super) fn alone(&self, problem: &Problem, device: usize) -> Option<Figures> {
        let count = problem.tasks.len();
        let mut on = vec![device; count];
        (on[0], on[count - 1]) = (0, 0);
        let placement = hetra_place::Placement { device: on, order: (0..count).collect() };
        let fits = hetra_place::fault(problem, &placement).is_none();
        fits.then(|| self.promised(&hetra_place::measure(problem, &placement), &[device]))
    }
}

/// The device of each node, by a placement of tasks behind that of the inputs.
pub(super) fn choice_of(tasks: &Tasks, candidate: &Candidate) -> Vec<usize> {
    tasks.of.iter().map(|&task| candidate.placement.device[task + 1]).collect()
}

/// The same with tasks on the host and on these devices only.
fn restricted(problem: &Problem, set: &[usize]) -> Problem {
    let mut problem = problem.clone();
    for task in &mut problem.tasks {
        for (device, time) in task.times.iter_mut().enumerate() {
            *time = time.filter(|_| device == 0 || set.contains(&device));
        }
    }
    problem
}
