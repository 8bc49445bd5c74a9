//! Branch and bound, for small problems.
//!
//! For the time of one run a node of the tree is a schedule of some tasks: it is continued by each
//! task whose inputs are there, on each device, in the order in which tasks start. For loads a node
//! is a device for each of the first groups. Both are cut where what is there already, and the
//! least that must follow, is no better than the best placement known.

use crate::anneal::Budget;
use crate::goal::Goal;
use crate::problem::Id;
use crate::schedule::{Placement, best_slot};
use crate::table::{Read, Table};

/// Most tasks and devices that it tries.
const TASKS_MAX: usize = 40;
const DEVICES_MAX: usize = 4;
/// Most nodes of a tree that it looks at.
const NODES_MAX: u64 = 400_000;
/// A placement that is better by less counts as no better.
const BETTER: f64 = 1.0 - 1e-9;

/// What came of it.
pub(crate) struct Exact {
    /// One that is better than the start, if there is any.
    pub(crate) placement: Option<Placement>,
    /// Whether nothing is better than that, or than the start where there is none.
    pub(crate) proven: bool,
}

/// Looks for a better placement than `start`; none for goals and sizes that it does not do.
pub(crate) fn exact(
    table: &Table<'_>,
    goal: &Goal,
    start: &Placement,
    budget: &Budget<'_>,
) -> Option<Exact> {
    let small = table.tasks() <= TASKS_MAX && table.devices <= DEVICES_MAX;
    if !small || (*goal != Goal::LATENCY && *goal != Goal::THROUGHPUT) {
        return None;
    }
    let mut search = Search {
        table,
        twins: twins(table),
        best: goal.score(&crate::measure(table.problem, start)),
        found: None,
        nodes: NODES_MAX.min(budget.steps),
        device: vec![None; table.tasks()],
        room: (0..table.devices).map(|device| table.memory_max(device)).collect(),
    };
    if *goal == Goal::LATENCY {
        search.by_time();
    } else {
        search.by_load(0, &mut vec![0.0; table.problem.units.len() + 2 * table.devices]);
    }
    Some(Exact { placement: search.found, proven: search.nodes > 0 })
}

/// For each device the one before it that is alike, of those on units of their own.
fn twins(table: &Table<'_>) -> Vec<Option<Id>> {
    let problem = table.problem;
    let alone = |unit: Id| problem.devices.iter().filter(|device| device.unit == unit).count() == 1;
    let alike = |a: Id, b: Id| {
        let (one, other) = (&problem.devices[a], &problem.devices[b]);
        let same = |device: &crate::Device| {
            let crate::Device { memory_max, into, out, copies_occupy, half_duplex, rate, .. } =
                device;
            (*memory_max, *into, *out, (*copies_occupy, *half_duplex), *rate)
        };
        let slots = |device: &crate::Device| problem.units[device.unit].slots;
        let times = (0..table.tasks()).all(|task| table.time(task, a) == table.time(task, b));
        let alone = alone(one.unit) && alone(other.unit);
        alone && same(one) == same(other) && slots(one) == slots(other) && times
    };
    (0..table.devices).map(|device| (0..device).rev().find(|&other| alike(device, other))).collect()
}

struct Search<'a> {
    table: &'a Table<'a>,
    twins: Vec<Option<Id>>,
    best: f64,
    found: Option<Placement>,
    /// That may yet be looked at.
    nodes: u64,
    device: Vec<Option<Id>>,
    room: Vec<f64>,
}

/// A schedule of some of the tasks.
struct Part {
    finish: Vec<f64>,
    free: Vec<Vec<f64>>,
    waits: Vec<usize>,
    ready: Vec<Id>,
    order: Vec<Id>,
    tails: Vec<f64>,
    makespan: f64,
    begun: f64,
}

/// One way to go on: a task on a slot of a device.
struct Next {
    bound: f64,
    task: Id,
    device: Id,
    slot: usize,
    start: f64,
}

impl Search<'_> {
    /// Whether a group may stand on a device: it is run there, in a place by itself or where the
    /// group is already, and not on one of two empty devices that are alike but the first.
    fn may(&self, group: Id, device: Id) -> bool {
        let mut members = self.table.members.at(group).iter();
        if let Some(given) = members.find_map(|&task| self.device[task]) {
            return given == device;
        }
        let empty = |device: Id| !self.device.contains(&Some(device));
        let twin = self.twins[device].is_some_and(|twin| empty(twin) && empty(device));
        !twin && self.room[device] >= self.table.group_memory[group]
    }

    fn by_time(&mut self) {
        let table = self.table;
        let waits: Vec<usize> = (0..table.tasks()).map(|task| table.reads.at(task).len()).collect();
        let ready = (0..table.tasks()).filter(|&task| waits[task] == 0).collect();
        let units = &table.problem.units;
        let mut part = Part {
            finish: vec![0.0; table.tasks()],
            free: units.iter().map(|unit| vec![0.0; unit.slots]).collect(),
            waits,
            ready,
            order: Vec::new(),
            tails: table.tails(),
            makespan: 0.0,
            begun: 0.0,
        };
        self.grow(&mut part);
    }

    /// The ways to go on from a schedule, the best bound first; none where a task that is ready has
    /// no way that is good enough.
    fn ways(&self, part: &Part) -> Vec<Next> {
        let table = self.table;
        let mut ways = Vec::new();
        for &task in &part.ready {
            let mut least = f64::INFINITY;
            for &device in table.allowed.at(table.group_of[task]) {
                if !self.may(table.group_of[task], device) {
                    continue;
                }
                let arrival = |read: &Read| {
                    let from = self.device[read.from].unwrap_or(device);
                    part.finish[read.from] + table.problem.copy_time(read.bytes, from, device)
                };
                let ready = table.reads.at(task).iter().map(arrival).fold(0.0, f64::max);
                let free = &part.free[table.problem.devices[device].unit];
                let slot = best_slot(free, ready);
                let start = ready.max(free[slot]);
                let tail = part.tails[task * table.devices + device];
                let bound = start + table.time(task, device) + tail;
                least = least.min(bound);
                if bound < self.best * BETTER && start >= part.begun {
                    ways.push(Next { bound, task, device, slot, start });
                }
            }
            if least >= self.best * BETTER {
                return Vec::new();
            }
        }
        ways.sort_by(|a, b| a.bound.total_cmp(&b.bound).then(a.start.total_cmp(&b.start)));
        ways
    }

    fn grow(&mut self, part: &mut Part) {
        if part.order.len() == self.table.tasks() {
            if part.makespan < self.best * BETTER {
                self.best = part.makespan;
                let device = self.device.iter().map(|device| device.unwrap_or(0)).collect();
                self.found = Some(Placement { device, order: part.order.clone() });
            }
            return;
        }
        for way in self.ways(part) {
            if self.nodes == 0 {
                return;
            }
            self.nodes -= 1;
            if way.bound < self.best * BETTER {
                self.go(part, &way);
            }
        }
    }

    /// Does one task, all that follows, and undoes it.
    fn go(&mut self, part: &mut Part, way: &Next) {
        let &Next { task, device, slot, start, .. } = way;
        let table = self.table;
        let group = table.group_of[task];
        let first = table.members.at(group).iter().all(|&task| self.device[task].is_none());
        let memory = if first { table.group_memory[group] } else { 0.0 };
        let unit = table.problem.devices[device].unit;
        let finish = start + table.time(task, device);
        let (makespan, begun, ready) = (part.makespan, part.begun, part.ready.clone());
        self.device[task] = Some(device);
        self.room[device] -= memory;
        part.finish[task] = finish;
        let free = std::mem::replace(&mut part.free[unit][slot], finish);
        part.ready.retain(|&other| other != task);
        for read in table.readers.at(task) {
            part.waits[read.from] -= 1;
            if part.waits[read.from] == 0 {
                part.ready.push(read.from);
            }
        }
        part.order.push(task);
        (part.makespan, part.begun) = (makespan.max(finish), start);
        self.grow(part);
        part.order.pop();
        table.readers.at(task).iter().for_each(|read| part.waits[read.from] += 1);
        (part.makespan, part.begun, part.ready) = (makespan, begun, ready);
        part.free[unit][slot] = free;
        self.room[device] += memory;
        self.device[task] = None;
    }

    /// Places group after group; `loads` are those of what is placed.
    fn by_load(&mut self, group: Id, loads: &mut [f64]) {
        let table = self.table;
        if group == table.members.len() {
            let most = loads.iter().copied().fold(0.0, f64::max);
            if most < self.best * BETTER {
                self.best = most;
                let device = self.device.iter().map(|device| device.unwrap_or(0)).collect();
                self.found = Some(Placement { device, order: (0..table.tasks()).collect() });
            }
            return;
        }
        let mut ways: Vec<(f64, Id, Vec<f64>)> = Vec::new();
        for &device in table.allowed.at(group) {
            if self.may(group, device) {
                let with = self.with(group, device, loads);
                let most = with.iter().copied().fold(0.0, f64::max);
                ways.push((most.max(self.even(group + 1, &with)), device, with));
            }
        }
        ways.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (bound, device, mut with) in ways {
            if self.nodes == 0 {
                return;
            }
            self.nodes -= 1;
            if bound >= self.best * BETTER {
                continue;
            }
            let members = table.members.at(group);
            members.iter().for_each(|&task| self.device[task] = Some(device));
            self.room[device] -= table.group_memory[group];
            self.by_load(group + 1, &mut with);
            self.room[device] += table.group_memory[group];
            members.iter().for_each(|&task| self.device[task] = None);
        }
    }

    /// The load of each unit if what is left were spread evenly, each task at its best time.
    fn even(&self, group: Id, loads: &[f64]) -> f64 {
        let table = self.table;
        let units = &table.problem.units;
        let slots = |unit: Id| units[unit].slots as f64;
        let done: f64 = (0..units.len()).map(|unit| loads[unit] * slots(unit)).sum();
        let least = |group: Id| {
            let time = |&device: &Id| -> f64 {
                table.members.at(group).iter().map(|&task| table.time(task, device)).sum()
            };
            table.allowed.at(group).iter().map(time).fold(f64::INFINITY, f64::min)
        };
        let left: f64 = (group..table.members.len()).map(least).sum();
        (done + left) / (0..units.len()).map(slots).sum::<f64>()
    }

    /// Loads with one group more: its tasks, and the copies between it and what is placed.
    fn with(&self, group: Id, device: Id, loads: &[f64]) -> Vec<f64> {
        let table = self.table;
        let mut loads = loads.to_vec();
        let unit = table.problem.devices[device].unit;
        let slots = table.problem.units[unit].slots as f64;
        let members = table.members.at(group);
        let mut values: Vec<Id> = Vec::new();
        for &task in members {
            loads[unit] += table.time(task, device) / slots;
            values.extend(table.values.at(task));
        }
        values.sort_unstable();
        values.dedup();
        let before = |task: Id| self.device[task];
        let after =
            |task: Id| if table.group_of[task] == group { Some(device) } else { before(task) };
        for value in values {
            self.copies(value, &before, -1.0, &mut loads);
            self.copies(value, &after, 1.0, &mut loads);
        }
        loads
    }

    /// Adds the copies of a value to loads, of those tasks that stand somewhere.
    fn copies(&self, value: Id, on: &dyn Fn(Id) -> Option<Id>, sign: f64, loads: &mut [f64]) {
        let problem = self.table.problem;
        let value = &problem.values[value];
        let Some(from) = on(value.from) else { return };
        let mut others: Vec<Id> = value.to.iter().filter_map(|&to| on(to)).collect();
        others.retain(|&to| to != from);
        others.sort_unstable();
        others.dedup();
        let line = |device: Id, out: bool| crate::schedule::line_of(problem, device, out);
        if !others.is_empty() {
            loads[line(from, true)] += sign * problem.devices[from].out.time(value.bytes);
        }
        for to in others {
            loads[line(to, false)] += sign * problem.devices[to].into.time(value.bytes);
        }
    }
}
