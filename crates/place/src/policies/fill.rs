//! Device after device, in the order of tasks.

use crate::goal::Goal;
use crate::policies::single::by_group;
use crate::problem::Id;
use crate::schedule::Placement;
use crate::table::Table;

/// Fills the fastest device with tasks in their order until its memory is full, then the next one;
/// what no device with bounds has room for stands on the fastest one without.
pub(crate) fn fill(table: &Table<'_>, goal: &Goal) -> Option<Placement> {
    let mut devices: Vec<Id> = (0..table.devices).collect();
    let total = |device: Id| -> f64 {
        let time = |task: Id| Some(table.time(task, device)).filter(|time| time.is_finite());
        // What a device does not do counts as done by the host, tenfold.
        let host = |task: Id| time(task).unwrap_or_else(|| 10.0 * table.time(task, 0).min(1e30));
        (0..table.tasks()).map(host).sum()
    };
    devices.sort_by(|&a, &b| total(a).total_cmp(&total(b)));
    let unbounded = |&&device: &&Id| table.memory_max(device).is_infinite();
    let last = devices.iter().find(unbounded).copied();
    let mut room: Vec<f64> = (0..table.devices).map(|device| table.memory_max(device)).collect();
    let mut filled = 0;
    let mut chosen = Vec::new();
    for group in 0..table.members.len() {
        let allowed = table.allowed.at(group);
        let memory = table.group_memory[group];
        let fits = |&&device: &&Id| allowed.contains(&device) && room[device] >= memory;
        let next = devices[filled..].iter().find(fits).copied();
        let device = next.or_else(|| last.filter(|last| allowed.contains(last)))?;
        // A device that had no room for this is full; one that does not do it is not.
        while devices[filled] != device && allowed.contains(&devices[filled]) {
            filled += 1;
        }
        room[device] -= memory;
        chosen.push(device);
    }
    let _ = goal;
    by_group(table, chosen)
}
