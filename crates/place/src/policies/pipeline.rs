//! Stretches of the tasks' order, one for each device: stages of a pipeline.

use crate::goal::Goal;
use crate::policies::single::by_group;
use crate::problem::Id;
use crate::schedule::Placement;
use crate::table::Table;

/// Most groups and devices that it tries: it looks at all stretches, for all orders of devices.
const GROUPS_MAX: usize = 128;
const DEVICES_MAX: usize = 4;

/// The stages, each a stretch of the order on a device of its own, whose busiest one is least so;
/// found by dynamic programming over where a stage ends, for each order of devices. Copies into and
/// out of a stage are part of its load. What takes no time and can be on one device only, such as
/// the inputs, is on that one and in no stage.
pub(crate) fn pipeline(table: &Table<'_>, goal: &Goal) -> Option<Placement> {
    if !goal.needs_loads() || table.devices > DEVICES_MAX || table.members.len() > GROUPS_MAX {
        return None;
    }
    let fixed = |&group: &Id| {
        let allowed = table.allowed.at(group);
        let idle = table.members.at(group).iter().all(|&task| table.time(task, allowed[0]) == 0.0);
        allowed.len() == 1 && idle
    };
    let line: Vec<Id> = (0..table.members.len()).filter(|group| !fixed(group)).collect();
    let costs: Vec<Vec<Vec<f64>>> =
        (0..table.devices).map(|device| stages(table, &line, device)).collect();
    let mut best: Option<(f64, Vec<Id>)> = None;
    for order in orders(table.devices) {
        let found = cut(&costs, &order, line.len());
        if let Some((most, devices)) = found
            && best.as_ref().is_none_or(|(least, _)| most < *least)
        {
            best = Some((most, devices));
        }
    }
    let (_, devices) = best?;
    let mut chosen: Vec<Id> =
        (0..table.members.len()).map(|group| table.allowed.at(group)[0]).collect();
    line.iter().zip(devices).for_each(|(&group, device)| chosen[group] = device);
    by_group(table, chosen)
}

/// The load of a device with the stretch from the first number to before the second.
fn stages(table: &Table<'_>, line: &[Id], device: Id) -> Vec<Vec<f64>> {
    let problem = table.problem;
    let count = line.len();
    let mut place = vec![usize::MAX; table.members.len()];
    line.iter().enumerate().for_each(|(at, &group)| place[group] = at);
    let slots = problem.units[problem.devices[device].unit].slots as f64;
    let time = |group: Id| -> f64 {
        table.members.at(group).iter().map(|&task| table.time(task, device)).sum::<f64>() / slots
    };
    let times: Vec<f64> = line.iter().map(|&group| time(group)).collect();
    let mut costs = vec![vec![f64::INFINITY; count + 1]; count + 1];
    for (from, row) in costs.iter_mut().enumerate() {
        row[from] = 0.0;
        let (mut sum, mut memory) = (0.0, 0.0);
        for to in from + 1..=count {
            sum += times[to - 1];
            memory += table.group_memory[line[to - 1]];
            if !sum.is_finite() || memory > table.memory_max(device) {
                break;
            }
            let inside = |task: Id| (from..to).contains(&place[table.group_of[task]]);
            let mut copies = 0.0;
            for value in &problem.values {
                let made = inside(value.from);
                let read = value.to.iter().any(|&reader| inside(reader));
                let abroad = value.to.iter().any(|&reader| !inside(reader));
                if made && abroad {
                    copies += problem.devices[device].out.time(value.bytes);
                } else if !made && read {
                    copies += problem.devices[device].into.time(value.bytes);
                }
            }
            row[to] = sum + copies;
        }
    }
    costs
}

/// All orders of some of so many devices.
fn orders(devices: usize) -> Vec<Vec<Id>> {
    let mut orders: Vec<Vec<Id>> = vec![Vec::new()];
    let mut at = 0;
    while at < orders.len() {
        for device in 0..devices {
            if !orders[at].contains(&device) {
                let longer = [orders[at].as_slice(), &[device]].concat();
                orders.push(longer);
            }
        }
        at += 1;
    }
    orders
}

/// Where stages end for devices in this order, so that the busiest is least so: its load, and the
/// device of each place.
fn cut(costs: &[Vec<Vec<f64>>], order: &[Id], count: usize) -> Option<(f64, Vec<Id>)> {
    // least[stage][to]: of the first stages, which hold the places before `to`.
    let mut least = vec![vec![f64::INFINITY; count + 1]; order.len() + 1];
    let mut began = vec![vec![0; count + 1]; order.len() + 1];
    least[0][0] = 0.0;
    for (stage, &device) in order.iter().enumerate() {
        for to in 0..=count {
            for from in 0..=to {
                let most = least[stage][from].max(costs[device][from][to]);
                if most < least[stage + 1][to] {
                    (least[stage + 1][to], began[stage + 1][to]) = (most, from);
                }
            }
        }
    }
    let most = least[order.len()][count];
    if !most.is_finite() {
        return None;
    }
    let mut devices = vec![0; count];
    let mut to = count;
    for (stage, &device) in order.iter().enumerate().rev() {
        let from = began[stage + 1][to];
        devices[from..to].fill(device);
        to = from;
    }
    Some((most, devices))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_all_there_are() {
        assert_eq!(orders(2), [vec![], vec![0], vec![1], vec![0, 1], vec![1, 0]]);
        assert_eq!(orders(3).len(), 1 + 3 + 6 + 6);
    }

    #[test]
    fn stages_are_even() {
        // Four places of 1 on the first device, of 2 on the second.
        let line = |time: f64| {
            let cost = |from: usize, to: usize| {
                if to < from { f64::INFINITY } else { (to - from) as f64 * time }
            };
            (0..5).map(|from| (0..5).map(|to| cost(from, to)).collect()).collect::<Vec<Vec<f64>>>()
        };
        let costs = vec![line(1.0), line(2.0)];
        assert_eq!(cut(&costs, &[0], 4), Some((4.0, vec![0; 4])));
        assert_eq!(cut(&costs, &[0, 1], 4), Some((3.0, vec![0, 0, 0, 1])));
        assert_eq!(cut(&costs, &[1, 0], 4), Some((3.0, vec![1, 0, 0, 0])));
    }
}
