//! Dynamic programming over paths.

use crate::goal::Goal;
use crate::policies::single::by_group;
use crate::problem::Id;
use crate::schedule::Placement;
use crate::table::{Read, Table};

/// The devices for which the longest path is shortest, each path taken by itself: from the first
/// tasks on, each where the table of tails says that the least is left. Exact for a chain of tasks
/// that no memory bounds; elsewhere tasks may get in each other's way.
pub(crate) fn chain(table: &Table<'_>, _: &Goal) -> Option<Placement> {
    let tails = table.tails();
    let mut chosen: Vec<Option<Id>> = vec![None; table.members.len()];
    let mut device = vec![0; table.tasks()];
    let mut finish = vec![0.0; table.tasks()];
    for task in 0..table.tasks() {
        let group = table.group_of[task];
        let end = |on: Id| {
            let arrival = |read: &Read| {
                finish[read.from] + table.problem.copy_time(read.bytes, device[read.from], on)
            };
            let ready = table.reads.at(task).iter().map(arrival).fold(0.0, f64::max);
            ready + table.time(task, on)
        };
        let left = |on: Id| end(on) + tails[task * table.devices + on];
        let best = || {
            let allowed = table.allowed.at(group).iter().copied();
            allowed.min_by(|&a, &b| left(a).total_cmp(&left(b)))
        };
        let on = chosen[group].or_else(best)?;
        let ended = end(on);
        chosen[group] = Some(on);
        (device[task], finish[task]) = (on, ended);
    }
    by_group(table, chosen.into_iter().collect::<Option<Vec<Id>>>()?)
}
