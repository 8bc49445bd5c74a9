//! Where a program finds the schedule of a task.

use std::sync::Arc;

use hetra_device::{Schedule, ScheduleTable, Space, Task};

/// The schedules that a program works by.
#[derive(Clone, Debug)]
pub(crate) enum Schedules {
    /// Those that were found for this device.
    Table(Arc<ScheduleTable>),
    /// One for every task whose space has it: it is being measured.
    One(Schedule),
}

impl Default for Schedules {
    /// None: kernels choose.
    fn default() -> Schedules {
        Schedules::Table(Arc::default())
    }
}

impl Schedules {
    /// Whether there is no schedule for any task.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Schedules::Table(table) if table.is_empty())
    }

    /// The schedule of a task, if there is one of its space: a table comes from a file.
    pub(super) fn find(&self, task: &Task, space: &Space) -> Option<&Schedule> {
        let schedule = match self {
            Schedules::Table(table) => table.get(task.key()),
            Schedules::One(schedule) => Some(schedule),
        };
        schedule.filter(|schedule| space.contains(schedule))
    }
}
