//! Simulated annealing over devices and order.
//!
//! A step moves one task, a connected blob of tasks or a stretch of the order to another device,
//! lets two blobs change places, or begins a task earlier or later. How far a score may rise is
//! drawn before the step is tried (the acceptance rule of Kirkpatrick, Gelatt and Vecchi, 1983,
//! turned round), so that the trial can end as soon as it is past that.

use fastrand::Rng;

use crate::goal::Goal;
use crate::load::Loads;
use crate::problem::Id;
use crate::schedule::Placement;
use crate::table::Table;
use crate::timing::Timing;

/// How long a search may go on.
#[derive(Clone, Copy)]
pub struct Budget<'a> {
    /// Most steps that are tried.
    pub steps: u64,
    /// Says how much of the time is spent, from 0 to 1, for whoever bounds that. A search by steps
    /// alone gives the same placement each time.
    pub spent: Option<&'a (dyn Fn() -> f64 + Sync)>,
    /// Seed of its random numbers.
    pub seed: u64,
}

impl Budget<'_> {
    fn fraction(&self, steps: u64) -> f64 {
        let by_steps = steps as f64 / self.steps.max(1) as f64;
        by_steps.max(self.spent.map_or(0.0, |spent| spent())).min(1.0)
    }
}

/// Steps between two looks at the clock.
const LOOK_EVERY: u64 = 32;
/// Where rounds end, of the whole search: each begins hot, from the best placement so far.
const ROUNDS: [f64; 4] = [0.08, 0.25, 0.55, 1.0];
/// Temperature at the beginning and end of a round, of the score.
const HOT: [f64; 4] = [0.03, 0.02, 0.015, 0.01];
const COLD: f64 = 1e-5;
/// Loads are summed anew after so many steps that were kept: rounding adds up.
const SUM_EVERY: u64 = 1 << 14;

/// Shares of steps: that turn the order; of the others those that move a stretch of it, up to
/// here those that move one group; those that swap; targets that are a neighbour's device.
const TURNS: f64 = 0.15;
const STRETCHES: f64 = 0.12;
const SINGLES: f64 = 0.45;
const SWAPS: f64 = 0.1;
const NEIGHBOURS: f64 = 0.6;

pub(crate) struct Annealing<'a> {
    table: &'a Table<'a>,
    goal: &'a Goal,
    rng: Rng,
    device: Vec<Id>,
    memory: Vec<f64>,
    timing: Option<Timing>,
    loads: Option<Loads>,
    spent: f64,
    score: f64,
    best: Placement,
    best_score: f64,
    /// Groups that the step moves, with where they were.
    moved: Vec<(Id, Id)>,
    blob: Vec<Id>,
    stamp: Vec<u32>,
    now: u32,
    kept: u64,
    /// Neighbours of a group: who makes what it reads, who reads what it makes.
    near: crate::table::Lists<Id>,
}

impl<'a> Annealing<'a> {
    pub(crate) fn new(
        table: &'a Table<'a>,
        goal: &'a Goal,
        start: &Placement,
        seed: u64,
    ) -> Annealing<'a> {
        let timing = goal.needs_times().then(|| Timing::new(table, &start.device, &start.order));
        let loads = goal.needs_loads().then(|| Loads::new(table, &start.device));
        let mut search = Annealing {
            table,
            goal,
            rng: Rng::with_seed(seed),
            device: start.device.clone(),
            memory: Vec::new(),
            timing,
            loads,
            spent: 0.0,
            score: 0.0,
            best: start.clone(),
            best_score: f64::INFINITY,
            moved: Vec::new(),
            blob: Vec::new(),
            stamp: vec![0; table.members.len()],
            now: 0,
            kept: 0,
            near: near(table),
        };
        search.sum();
        search.best_score = search.score;
        search
    }

    /// Sums memory, what is spent and loads anew.
    fn sum(&mut self) {
        let table = self.table;
        self.memory = vec![0.0; table.devices];
        self.spent = 0.0;
        for group in 0..table.members.len() {
            let task = table.members.at(group)[0];
            self.memory[self.device[task]] += table.group_memory[group];
        }
        for (task, &on) in self.device.iter().enumerate() {
            self.spent += table.time(task, on) * table.problem.devices[on].rate;
        }
        if self.loads.is_some() {
            self.loads = Some(Loads::new(table, &self.device));
        }
        let makespan = self.timing.as_ref().map_or(0.0, Timing::makespan);
        self.score = self.goal.of(makespan, self.load(), self.spent);
    }

    /// The largest load, and a little of the others, so that evening them out counts.
    fn load(&self) -> f64 {
        let Some(loads) = &self.loads else { return 0.0 };
        let (mut sum, mut squares) = (0.0, 0.0);
        for load in &loads.loads {
            sum += load;
            squares += load * load;
        }
        loads.most() + 0.02 * squares / sum.max(f64::MIN_POSITIVE)
    }

    /// Searches, and gives the best placement found.
    pub(crate) fn run(mut self, budget: &Budget<'_>) -> Placement {
        let mut begun = 0.0;
        let mut steps = 0u64;
        for (end, hot) in ROUNDS.into_iter().zip(HOT) {
            self.again();
            let hot = hot * self.best_score;
            let cold = COLD * self.best_score;
            let mut warmth = hot;
            loop {
                if steps.is_multiple_of(LOOK_EVERY) {
                    let spent = budget.fraction(steps);
                    if spent >= end {
                        break;
                    }
                    let part = ((spent - begun) / (end - begun)).clamp(0.0, 1.0);
                    warmth = hot * (cold / hot).powf(part);
                }
                steps += 1;
                let rise = -warmth * self.rng.f64().max(f64::MIN_POSITIVE).ln();
                self.step(self.score + rise);
            }
            begun = end;
        }
        self.best
    }

    /// Goes back to the best placement.
    fn again(&mut self) {
        self.device.copy_from_slice(&self.best.device);
        if let Some(timing) = &mut self.timing {
            timing.reset(self.table, &self.device, &self.best.order);
        }
        self.sum();
    }

    /// Tries one step, and keeps it where the score is not above `limit`.
    fn step(&mut self, limit: f64) {
        self.moved.clear();
        let turn = if self.timing.is_some() && self.rng.f64() < TURNS { self.turn() } else { None };
        let first = match turn {
            Some((from, to)) => from.min(to),
            None => {
                if !self.choose() || !self.fits() {
                    return;
                }
                self.shift()
            }
        };
        let load = self.load();
        let most = self.goal.makespan_within(limit, load, self.spent);
        let makespan = match &mut self.timing {
            Some(timing) => timing.run(self.table, &self.device, first, most),
            None => Some(0.0),
        };
        let score = makespan.map(|makespan| self.goal.of(makespan, load, self.spent));
        match score {
            Some(score) if score <= limit => self.keep(score),
            _ => self.undo(turn),
        }
    }

    fn keep(&mut self, score: f64) {
        self.score = score;
        if let Some(timing) = &mut self.timing {
            timing.keep();
        }
        self.kept += 1;
        if self.kept.is_multiple_of(SUM_EVERY) {
            self.sum();
        }
        if self.score < self.best_score {
            self.best_score = self.score;
            self.best.device.copy_from_slice(&self.device);
            if let Some(timing) = &self.timing {
                self.best.order.copy_from_slice(&timing.order);
            }
        }
    }

    fn undo(&mut self, turn: Option<(usize, usize)>) {
        if let Some(timing) = &mut self.timing {
            timing.drop_trial();
            if let Some((from, to)) = turn {
                timing.turn(to, from);
            }
        }
        // What was moved remembers where it was; moving it there once more is the undoing.
        self.moved.reverse();
        self.shift();
    }

    /// Moves a task in the order: to anywhere between what it reads and what reads it.
    fn turn(&mut self) -> Option<(usize, usize)> {
        let timing = self.timing.as_mut()?;
        let from = self.rng.usize(0..timing.order.len());
        let task = timing.order[from];
        let place = |read: &crate::table::Read| timing.place[read.from];
        let least = self.table.reads.at(task).iter().map(place).max().map_or(0, |at| at + 1);
        let readers = self.table.readers.at(task).iter().map(place).min();
        let most = readers.unwrap_or(timing.order.len());
        if most - least < 2 {
            return None;
        }
        let to = self.rng.usize(least..most);
        if to == from {
            return None;
        }
        timing.turn(from, to);
        Some((from, to))
    }

    /// Chooses groups to move, and where to; they come to stand in `moved`.
    fn choose(&mut self) -> bool {
        let groups = self.table.members.len();
        let seed = self.rng.usize(0..groups);
        let home = self.home(seed);
        let draw = self.rng.f64();
        self.now += 1;
        if draw < STRETCHES && self.timing.is_some() {
            self.stretch(seed);
        } else {
            let most = if draw < SINGLES { 1 } else { self.size(groups) };
            self.grow(seed, most);
        }
        let Some(to) = self.target() else { return false };
        for &group in &self.blob {
            self.moved.push((group, to));
        }
        if self.rng.f64() < SWAPS {
            let there = self.rng.usize(0..groups);
            if self.home(there) == to {
                let most = self.blob.len();
                self.grow(there, most);
                for &group in &self.blob {
                    self.moved.push((group, home));
                }
            }
        }
        let allowed = &self.table.allowed;
        self.moved.iter().all(|(group, to)| allowed.at(*group).contains(to))
    }

    fn home(&self, group: Id) -> Id {
        self.device[self.table.members.at(group)[0]]
    }

    /// A number of groups, small ones more often.
    fn size(&mut self, groups: usize) -> usize {
        let octaves = (groups as f64 / 2.0).max(2.0).log2();
        (self.rng.f64() * octaves).exp2() as usize + 1
    }

    /// Neighbours around a group that are where it is, breadth first.
    fn grow(&mut self, seed: Id, most: usize) {
        let home = self.home(seed);
        self.blob.clear();
        self.blob.push(seed);
        self.stamp[seed] = self.now;
        let mut at = 0;
        while at < self.blob.len() && self.blob.len() < most {
            for &other in self.near.at(self.blob[at]) {
                let fresh = self.stamp[other] != self.now;
                if fresh && self.blob.len() < most && self.home(other) == home {
                    self.stamp[other] = self.now;
                    self.blob.push(other);
                }
            }
            at += 1;
        }
    }

    /// What stands behind a group's first task in the order and is where it is.
    fn stretch(&mut self, seed: Id) {
        let most = self.size(self.table.members.len());
        let home = self.home(seed);
        self.blob.clear();
        let Some(timing) = &self.timing else { return };
        let from = timing.place[self.table.members.at(seed)[0]];
        for &task in &timing.order[from..(from + most).min(timing.order.len())] {
            let group = self.table.group_of[task];
            if self.stamp[group] != self.now && self.device[task] == home {
                self.stamp[group] = self.now;
                self.blob.push(group);
            }
        }
    }

    /// Another device for the blob: one of a neighbour, or any.
    fn target(&mut self) -> Option<Id> {
        let seed = self.blob[0];
        let home = self.home(seed);
        if self.rng.f64() < NEIGHBOURS {
            let member = self.blob[self.rng.usize(0..self.blob.len())];
            let near = self.near.at(member);
            if !near.is_empty() {
                let chosen = near[self.rng.usize(0..near.len())];
                let to = self.home(chosen);
                if to != home {
                    return Some(to);
                }
            }
        }
        let allowed = self.table.allowed.at(seed);
        let to = allowed[self.rng.usize(0..allowed.len())];
        (to != home).then_some(to)
    }

    /// Whether the devices have memory for what is moved to them.
    fn fits(&self) -> bool {
        let over = |device: Id| {
            let most = self.table.memory_max(device);
            if most.is_infinite() {
                return false;
            }
            let change = |&(group, to): &(Id, Id)| {
                let memory = self.table.group_memory[group];
                let into = if to == device { memory } else { 0.0 };
                into - if self.home(group) == device { memory } else { 0.0 }
            };
            let change: f64 = self.moved.iter().map(change).sum();
            change > 0.0 && self.memory[device] + change > most
        };
        let mut devices = [usize::MAX; 2];
        for (_, to) in &self.moved {
            if devices[0] == usize::MAX || devices[0] == *to {
                devices[0] = *to;
            } else {
                devices[1] = *to;
            }
        }
        devices.into_iter().filter(|&device| device != usize::MAX).all(|device| !over(device))
    }

    /// Moves what is in `moved`, where then stands where it was. Gives the first changed place of
    /// the order.
    fn shift(&mut self) -> usize {
        let table = self.table;
        let mut first = usize::MAX;
        for index in 0..self.moved.len() {
            let (group, to) = self.moved[index];
            let from = self.home(group);
            self.moved[index].1 = from;
            self.memory[from] -= table.group_memory[group];
            self.memory[to] += table.group_memory[group];
            for &task in table.members.at(group) {
                if let Some(loads) = &mut self.loads {
                    loads.shift(table, &self.device, task, to);
                }
                let rate = |device: Id| table.problem.devices[device].rate;
                self.spent += table.time(task, to) * rate(to) - table.time(task, from) * rate(from);
                self.device[task] = to;
                if let Some(timing) = &self.timing {
                    first = first.min(timing.place[task]);
                }
            }
        }
        first
    }
}

fn near(table: &Table<'_>) -> crate::table::Lists<Id> {
    let mut near = vec![Vec::new(); table.members.len()];
    for value in &table.problem.values {
        let from = table.group_of[value.from];
        for &to in &value.to {
            let to = table.group_of[to];
            if from != to {
                near[from].push(to);
                near[to].push(from);
            }
        }
    }
    for list in &mut near {
        list.sort_unstable();
        list.dedup();
    }
    crate::table::Lists::of(near)
}
