//! Where a program finds the schedule of a task.

use std::sync::Arc;

use crate::{Schedule, ScheduleTable, Space, Task};

/// The schedules that a program works by.
#[derive(Clone, Debug)]
pub enum Schedules {
    /// Those that were found for this device.
    Table(Arc<ScheduleTable>),
    /// One for every task whose space has it: it is being measured.
    One(Schedule),
}

impl From<ScheduleTable> for Schedules {
    fn from(table: ScheduleTable) -> Schedules {
        Schedules::Table(Arc::new(table))
    }
}

impl Default for Schedules {
    /// None: kernels choose.
    fn default() -> Schedules {
        Schedules::Table(Arc::default())
    }
}

impl Schedules {
    /// Whether there is no schedule for any task.
    pub fn is_empty(&self) -> bool {
        matches!(self, Schedules::Table(table) if table.is_empty())
    }

    /// The schedule of a task, if there is one of its space: a table comes from a file.
    pub fn find(&self, task: &Task, space: &Space) -> Option<&Schedule> {
        let schedule = match self {
            Schedules::Table(table) => table.get(task.key()),
            Schedules::One(schedule) => Some(schedule),
        };
        schedule.filter(|schedule| space.contains(schedule))
    }
}
