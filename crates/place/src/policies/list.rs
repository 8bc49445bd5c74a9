//! List scheduling: HEFT and PEFT.
//!
//! Both take tasks by a rank and put each where a measure of its end is least, into a gap between
//! tasks that stand there already where there is one. A task of a group stands where the first of
//! the group was put.

use crate::goal::Goal;
use crate::problem::Id;
use crate::schedule::Placement;
use crate::table::{Read, Table};

/// By upward rank: the mean time of a task, and the longest way from it to the end.
pub(crate) fn heft(table: &Table<'_>, _: &Goal) -> Option<Placement> {
    let mut rank = vec![0.0; table.tasks()];
    for task in (0..table.tasks()).rev() {
        let after = |read: &Read| mean_copy(table, read.bytes) + rank[read.from];
        let after = table.readers.at(task).iter().map(after).fold(0.0, f64::max);
        rank[task] = mean(table, task) + after;
    }
    list(table, &rank, |_, _| 0.0)
}

/// By the mean of the optimistic costs: the least time that is left behind a task on a device.
pub(crate) fn peft(table: &Table<'_>, _: &Goal) -> Option<Placement> {
    let mut costs = vec![0.0; table.tasks() * table.devices];
    for task in (0..table.tasks()).rev() {
        for device in 0..table.devices {
            let after = |read: &Read| {
                let next = |&to: &Id| {
                    let copy = if to == device { 0.0 } else { mean_copy(table, read.bytes) };
                    costs[read.from * table.devices + to] + table.time(read.from, to) + copy
                };
                let allowed = table.allowed.at(table.group_of[read.from]);
                allowed.iter().map(next).fold(f64::INFINITY, f64::min)
            };
            let most = table.readers.at(task).iter().map(after).fold(0.0, f64::max);
            costs[task * table.devices + device] = most;
        }
    }
    let row = |task: Id| &costs[task * table.devices..(task + 1) * table.devices];
    let rank: Vec<f64> = (0..table.tasks())
        .map(|task| row(task).iter().sum::<f64>() / table.devices as f64)
        .collect();
    list(table, &rank, |task, device| costs[task * table.devices + device])
}

fn mean(table: &Table<'_>, task: Id) -> f64 {
    let allowed = table.allowed.at(table.group_of[task]);
    allowed.iter().map(|&device| table.time(task, device)).sum::<f64>() / allowed.len() as f64
}

/// The mean time of a copy, over all pairs of different devices.
fn mean_copy(table: &Table<'_>, bytes: f64) -> f64 {
    // Each pair is a line out and a line in, and each device is in as many pairs as any other.
    let lines = |device: &crate::Device| device.out.time(bytes) + device.into.time(bytes);
    if table.devices < 2 {
        return 0.0;
    }
    table.problem.devices.iter().map(lines).sum::<f64>() / table.devices as f64
}

/// What is busy when, in order.
type Busy = Vec<(f64, f64)>;

/// The earliest time from `ready` on at which a slot is free for so long.
fn gap(busy: &Busy, ready: f64, time: f64) -> f64 {
    let behind = busy.partition_point(|&(_, end)| end <= ready);
    let mut start = ready;
    for &(from, to) in &busy[behind..] {
        if start + time <= from {
            break;
        }
        start = start.max(to);
    }
    start
}

/// Puts tasks one by one, of those whose inputs are there the one of the highest rank, where its
/// end and `ahead` are least together.
fn list(table: &Table<'_>, rank: &[f64], ahead: impl Fn(Id, Id) -> f64) -> Option<Placement> {
    let problem = table.problem;
    let mut busy: Vec<Vec<Busy>> =
        problem.units.iter().map(|unit| vec![Busy::new(); unit.slots]).collect();
    let mut room: Vec<f64> = (0..table.devices).map(|device| table.memory_max(device)).collect();
    let mut of_group: Vec<Option<Id>> = vec![None; table.members.len()];
    let mut device = vec![0; table.tasks()];
    let (mut start, mut finish) = (vec![0.0; table.tasks()], vec![0.0; table.tasks()]);
    let mut waits: Vec<usize> = (0..table.tasks()).map(|task| table.reads.at(task).len()).collect();
    let mut ready: Vec<Id> = (0..table.tasks()).filter(|&task| waits[task] == 0).collect();
    while !ready.is_empty() {
        let highest = |a: &usize, b: &usize| {
            let by_rank = rank[ready[*a]].total_cmp(&rank[ready[*b]]);
            by_rank.then(ready[*b].cmp(&ready[*a]))
        };
        let task = ready.swap_remove((0..ready.len()).max_by(highest)?);
        let group = table.group_of[task];
        let mut best: Option<(f64, f64, Id, usize)> = None;
        for &on in table.allowed.at(group) {
            match of_group[group] {
                Some(given) if given != on => continue,
                None if room[on] < table.group_memory[group] => continue,
                _ => {}
            }
            let arrival = |read: &Read| {
                finish[read.from] + problem.copy_time(read.bytes, device[read.from], on)
            };
            let arrived = table.reads.at(task).iter().map(arrival).fold(0.0, f64::max);
            let time = table.time(task, on);
            for (slot, busy) in busy[problem.devices[on].unit].iter().enumerate() {
                let begin = gap(busy, arrived, time);
                let cost = begin + time + ahead(task, on);
                if best.is_none_or(|(least, ..)| cost < least) {
                    best = Some((cost, begin, on, slot));
                }
            }
        }
        let (_, begin, on, slot) = best?;
        if of_group[group].is_none() {
            of_group[group] = Some(on);
            room[on] -= table.group_memory[group];
        }
        (device[task], start[task]) = (on, begin);
        finish[task] = begin + table.time(task, on);
        let busy = &mut busy[problem.devices[on].unit][slot];
        let at = busy.partition_point(|&(from, to)| (from, to) < (begin, finish[task]));
        busy.insert(at, (begin, finish[task]));
        for read in table.readers.at(task) {
            waits[read.from] -= 1;
            if waits[read.from] == 0 {
                ready.push(read.from);
            }
        }
    }
    Some(Placement { device, order: in_time(&start, &finish) })
}

/// Tasks by their start; of those that start at one time those that end first, then as they stand.
pub(crate) fn in_time(start: &[f64], finish: &[f64]) -> Vec<Id> {
    let mut order: Vec<Id> = (0..start.len()).collect();
    order.sort_by(|&a, &b| {
        start[a].total_cmp(&start[b]).then(finish[a].total_cmp(&finish[b])).then(a.cmp(&b))
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found() {
        let busy = vec![(1.0, 2.0), (4.0, 5.0)];
        assert_eq!(gap(&busy, 0.0, 1.0), 0.0);
        assert_eq!(gap(&busy, 0.0, 2.0), 2.0);
        assert_eq!(gap(&busy, 1.5, 3.0), 5.0);
        assert_eq!(gap(&busy, 9.0, 3.0), 9.0);
    }
}
