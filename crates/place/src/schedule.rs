//! When each task runs, if tasks are begun in a given order; and what that comes to.

use crate::problem::{Id, Problem};

/// A device for each task, and the order in which tasks are begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// By task.
    pub device: Vec<Id>,
    /// Every task once, none before one whose values it reads.
    pub order: Vec<Id>,
}

/// When each task runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// By task.
    pub start: Vec<f64>,
    /// By task.
    pub finish: Vec<f64>,
    /// Which slot of its device's unit a task runs on.
    pub slot: Vec<usize>,
}

/// What a placement comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// From the first task's start to the last one's end.
    pub makespan: f64,
    /// How long the busiest unit or link works for one run: runs that overlap end so far apart.
    pub load: f64,
    /// What is spent beside time: the sum of task times and rates of their devices.
    pub spent: f64,
    /// Memory of each device.
    pub memory: Vec<f64>,
}

impl Schedule {
    /// From the start to the end of the last task.
    pub fn makespan(&self) -> f64 {
        self.finish.iter().copied().fold(0.0, f64::max)
    }
}

/// Runs the tasks in the placement's order: each as early as what it reads is on its device and a
/// slot of its unit is free behind the tasks that stand before it. Copies overlap with everything.
pub fn schedule(problem: &Problem, placement: &Placement) -> Schedule {
    let count = problem.tasks.len();
    let mut made =
        Schedule { start: vec![0.0; count], finish: vec![0.0; count], slot: vec![0; count] };
    let mut free: Vec<Vec<f64>> = problem.units.iter().map(|unit| vec![0.0; unit.slots]).collect();
    let mut reads = vec![Vec::new(); count];
    for value in &problem.values {
        value.to.iter().for_each(|&to| reads[to].push((value.from, value.bytes)));
    }
    for &task in &placement.order {
        let device = placement.device[task];
        let arrival = |&(from, bytes): &(Id, f64)| {
            made.finish[from] + problem.copy_time(bytes, placement.device[from], device)
        };
        let ready = reads[task].iter().map(arrival).fold(0.0, f64::max);
        let free = &mut free[problem.devices[device].unit];
        let slot = best_slot(free, ready);
        let start = ready.max(free[slot]);
        let finish = start + problem.tasks[task].times[device].unwrap_or(f64::INFINITY);
        free[slot] = finish;
        (made.start[task], made.finish[task], made.slot[task]) = (start, finish, slot);
    }
    made
}

/// The slot that waits least: of those that are free at `ready` the last one to become so, else
/// the first to become so.
#[inline]
pub(crate) fn best_slot(free: &[f64], ready: f64) -> usize {
    let mut best = 0;
    for (slot, &at) in free.iter().enumerate().skip(1) {
        let better = match (at <= ready, free[best] <= ready) {
            (true, true) => at > free[best],
            (true, false) => true,
            (false, true) => false,
            (false, false) => at < free[best],
        };
        if better {
            best = slot;
        }
    }
    best
}

/// Measures a placement.
pub fn measure(problem: &Problem, placement: &Placement) -> Metrics {
    let mut memory = vec![0.0; problem.devices.len()];
    let mut spent = 0.0;
    for (task, &device) in problem.tasks.iter().zip(&placement.device) {
        memory[device] += task.memory;
        spent += problem.devices[device].rate * task.times[device].unwrap_or(f64::INFINITY);
    }
    let makespan = schedule(problem, placement).makespan();
    let load = loads(problem, &placement.device).into_iter().fold(0.0, f64::max);
    Metrics { makespan, load, spent, memory }
}

/// The place of a device's line in [`loads`]: its unit where copies occupy that.
pub(crate) fn line_of(problem: &Problem, device: Id, out: bool) -> usize {
    let of = &problem.devices[device];
    let way = usize::from(out && !of.half_duplex);
    if of.copies_occupy { of.unit } else { problem.units.len() + 2 * device + way }
}

/// How long each unit works for one run, then each device's line in and line out (the first for
/// both of half duplex) where copies do not occupy its unit. A value goes out of a device once, and
/// into each other one that reads it once.
pub fn loads(problem: &Problem, device: &[Id]) -> Vec<f64> {
    let mut loads = vec![0.0; problem.units.len() + 2 * problem.devices.len()];
    for (task, &on) in problem.tasks.iter().zip(device) {
        let unit = problem.devices[on].unit;
        let time = task.times[on].unwrap_or(f64::INFINITY);
        loads[unit] += time / problem.units[unit].slots as f64;
    }
    for value in &problem.values {
        let from = device[value.from];
        let mut others: Vec<Id> = value.to.iter().map(|&to| device[to]).collect();
        others.retain(|&to| to != from);
        others.sort_unstable();
        others.dedup();
        if !others.is_empty() {
            let time = problem.devices[from].out.time(value.bytes);
            loads[line_of(problem, from, true)] += time;
        }
        for to in others {
            let time = problem.devices[to].into.time(value.bytes);
            loads[line_of(problem, to, false)] += time;
        }
    }
    loads
}

/// What is wrong with a placement, if anything: tasks on devices that do not run them, groups that
/// are torn, an order that is none, memory beyond a device's.
pub fn fault(problem: &Problem, placement: &Placement) -> Option<String> {
    let count = problem.tasks.len();
    let mut seen = vec![false; count];
    if placement.device.len() != count || placement.order.len() != count {
        return Some(format!("{} devices for {count} tasks", placement.device.len()));
    }
    let mut by_group = std::collections::BTreeMap::new();
    for (task, &device) in problem.tasks.iter().zip(&placement.device) {
        if task.times.get(device).copied().flatten().is_none() {
            return Some(format!("device {device} does not run `{}`", task.name));
        }
        if let Some(group) = task.group
            && *by_group.entry(group).or_insert(device) != device
        {
            return Some(format!("`{}` stands apart from its group", task.name));
        }
    }
    let mut reads = vec![Vec::new(); count];
    for value in &problem.values {
        value.to.iter().for_each(|&to| reads[to].push(value.from));
    }
    for &task in &placement.order {
        if task >= count || seen[task] || reads[task].iter().any(|&from| !seen[from]) {
            return Some(format!("task {task} is out of order"));
        }
        seen[task] = true;
    }
    let mut memory = vec![0.0; problem.devices.len()];
    let placed = problem.tasks.iter().zip(&placement.device);
    placed.for_each(|(task, &device)| memory[device] += task.memory);
    let over = |(device, used): (&crate::Device, &f64)| {
        device.memory_max.is_some_and(|most| *used > most * (1.0 + 1e-9)).then(|| {
            format!("{}: {used} of memory, of {}", device.name, device.memory_max.unwrap_or(0.0))
        })
    };
    problem.devices.iter().zip(&memory).find_map(over)
}
