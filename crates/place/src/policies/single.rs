//! One device for all, as far as it goes.

use crate::goal::Goal;
use crate::problem::Id;
use crate::schedule::Placement;
use crate::table::Table;

/// Everything that it can do on the first device.
pub(crate) fn host(table: &Table<'_>, _: &Goal) -> Option<Placement> {
    on(table, 0)
}

/// As [`host`], on the device for which the goal is met best.
pub(crate) fn best(table: &Table<'_>, goal: &Goal) -> Option<Placement> {
    let all = (0..table.devices).filter_map(|device| on(table, device));
    let judged =
        all.map(|placement| (goal.score(&crate::measure(table.problem, &placement)), placement));
    judged.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, placement)| placement)
}

/// Everything on one device; what that does not do, on the first device that does it. None where
/// memory does not suffice.
fn on(table: &Table<'_>, device: Id) -> Option<Placement> {
    let choose = |group: Id| {
        let allowed = table.allowed.at(group);
        if allowed.contains(&device) { device } else { allowed[0] }
    };
    by_group(table, (0..table.members.len()).map(choose).collect())
}

/// A placement from the device of each group, in the given order of tasks; none where memory does
/// not suffice.
pub(crate) fn by_group(table: &Table<'_>, groups: Vec<Id>) -> Option<Placement> {
    let mut memory = vec![0.0; table.devices];
    for (group, &device) in groups.iter().enumerate() {
        memory[device] += table.group_memory[group];
    }
    let over = |device: Id| memory[device] > table.memory_max(device);
    if (0..table.devices).any(over) {
        return None;
    }
    let device = table.group_of.iter().map(|&group| groups[group]).collect();
    Some(Placement { device, order: (0..table.tasks()).collect() })
}
