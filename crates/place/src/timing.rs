//! The makespan of a placement that is changed again and again.
//!
//! The same schedule as [`crate::schedule`]'s. What stands before the first change in the order
//! keeps its times, and a trial ends as soon as it is certain to be too slow.

use crate::problem::Id;
use crate::schedule::best_slot;
use crate::table::Table;

/// Positions of the order between two copies of the slots' state.
const STRIDE: usize = 16;

pub(crate) struct Timing {
    pub(crate) order: Vec<Id>,
    /// Where a task stands in the order.
    pub(crate) place: Vec<usize>,
    finish: Vec<f64>,
    /// Former finish times of what the trial went through, with the task.
    log: Vec<(Id, f64)>,
    slots: Slots,
    /// State before each `STRIDE`th position, then the same of the trial.
    kept: Vec<Point>,
    tried: Vec<(usize, Point)>,
    tails: Vec<f64>,
    makespan: f64,
}

/// When each slot is free, and the makespan so far.
#[derive(Clone, Default)]
struct Point {
    free: Vec<f64>,
    makespan: f64,
}

/// Where the slots of each unit stand.
struct Slots {
    from: Vec<usize>,
    count: usize,
}

impl Timing {
    pub(crate) fn new(table: &Table<'_>, device: &[Id], order: &[Id]) -> Timing {
        let mut from = vec![0];
        for unit in &table.problem.units {
            from.push(from[from.len() - 1] + unit.slots);
        }
        let count = from[from.len() - 1];
        let points = order.len() / STRIDE + 1;
        let mut timing = Timing {
            order: order.to_vec(),
            place: vec![0; order.len()],
            finish: vec![0.0; order.len()],
            log: Vec::new(),
            slots: Slots { from, count },
            kept: vec![Point { free: vec![0.0; count], makespan: 0.0 }; points],
            tried: Vec::new(),
            tails: table.tails(),
            makespan: 0.0,
        };
        timing.reset(table, device, order);
        timing
    }

    pub(crate) fn makespan(&self) -> f64 {
        self.makespan
    }

    /// Begins again from another placement.
    pub(crate) fn reset(&mut self, table: &Table<'_>, device: &[Id], order: &[Id]) {
        self.order.copy_from_slice(order);
        for (at, &task) in order.iter().enumerate() {
            self.place[task] = at;
        }
        self.run(table, device, 0, f64::INFINITY);
        self.keep();
    }

    /// Moves what stands at `from` in the order to `to`.
    pub(crate) fn turn(&mut self, from: usize, to: usize) {
        if from < to {
            self.order[from..=to].rotate_left(1);
        } else {
            self.order[to..=from].rotate_right(1);
        }
        for at in from.min(to)..=from.max(to) {
            self.place[self.order[at]] = at;
        }
    }

    /// The makespan with these devices, where what stands before `first` is as it was; none where
    /// it is above `limit`. To be followed by [`Timing::keep`] or [`Timing::drop_trial`].
    pub(crate) fn run(
        &mut self,
        table: &Table<'_>,
        device: &[Id],
        first: usize,
        limit: f64,
    ) -> Option<f64> {
        self.log.clear();
        self.tried.clear();
        let point = first / STRIDE;
        let mut now = self.kept[point].clone();
        let devices = table.devices;
        for at in point * STRIDE..self.order.len() {
            if at.is_multiple_of(STRIDE) && at > point * STRIDE {
                self.tried.push((at / STRIDE, now.clone()));
            }
            let task = self.order[at];
            let on = device[task];
            let unit = table.problem.devices[on].unit;
            let mut ready = 0.0f64;
            for read in table.reads.at(task) {
                let from = device[read.from];
                let mut arrival = self.finish[read.from];
                if from != on {
                    arrival += table.problem.copy_time(read.bytes, from, on);
                }
                ready = ready.max(arrival);
            }
            let free = &mut now.free[self.slots.from[unit]..self.slots.from[unit + 1]];
            let slot = if free.len() == 1 { 0 } else { best_slot(free, ready) };
            let finish = ready.max(free[slot]) + table.time(task, on);
            free[slot] = finish;
            self.log.push((task, std::mem::replace(&mut self.finish[task], finish)));
            now.makespan = now.makespan.max(finish);
            if finish + self.tails[task * devices + on] > limit {
                return None;
            }
        }
        debug_assert_eq!(now.free.len(), self.slots.count);
        let makespan = now.makespan;
        self.tried.push((usize::MAX, now));
        Some(makespan)
    }

    /// What was tried last is what is.
    pub(crate) fn keep(&mut self) {
        for (at, point) in self.tried.drain(..) {
            if at == usize::MAX {
                self.makespan = point.makespan;
            } else {
                self.kept[at] = point;
            }
        }
        self.log.clear();
    }

    /// What was tried last is not.
    pub(crate) fn drop_trial(&mut self) {
        while let Some((task, finish)) = self.log.pop() {
            self.finish[task] = finish;
        }
        self.tried.clear();
    }
}
