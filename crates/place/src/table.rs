//! A problem as arrays, for whoever evaluates it many times.

use crate::problem::{Id, PlaceError, Problem};

/// A list for each of many, in one block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lists<T> {
    starts: Vec<u32>,
    items: Vec<T>,
}

impl<T> Lists<T> {
    pub(crate) fn of(lists: Vec<Vec<T>>) -> Lists<T> {
        let mut starts = vec![0];
        let mut items = Vec::new();
        for list in lists {
            items.extend(list);
            starts.push(items.len() as u32);
        }
        Lists { starts, items }
    }

    #[inline]
    pub(crate) fn at(&self, index: usize) -> &[T] {
        &self.items[self.starts[index] as usize..self.starts[index + 1] as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }
}

/// One value that a task reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) from: Id,
    pub(crate) bytes: f64,
}

/// The arrays.
pub(crate) struct Table<'a> {
    pub(crate) problem: &'a Problem,
    pub(crate) devices: usize,
    /// Time of a task on a device, at `task * devices + device`; infinite where it is not done.
    times: Vec<f64>,
    pub(crate) reads: Lists<Read>,
    /// Who reads what a task makes, and how large it is.
    pub(crate) readers: Lists<Read>,
    /// The values of a task: those it makes, then those it reads.
    pub(crate) values: Lists<Id>,
    /// The group of each task; every task has one here.
    pub(crate) group_of: Vec<Id>,
    pub(crate) members: Lists<Id>,
    /// Devices that run all of a group.
    pub(crate) allowed: Lists<Id>,
    pub(crate) group_memory: Vec<f64>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(problem: &'a Problem) -> Result<Table<'a>, PlaceError> {
        problem.check()?;
        let devices = problem.devices.len();
        let infinite = |time: &Option<f64>| time.unwrap_or(f64::INFINITY);
        let times: Vec<f64> =
            problem.tasks.iter().flat_map(|t| t.times.iter().map(infinite)).collect();
        let count = problem.tasks.len();
        let mut reads = vec![Vec::new(); count];
        let mut readers = vec![Vec::new(); count];
        let mut values = vec![Vec::new(); count];
        for (index, value) in problem.values.iter().enumerate() {
            values[value.from].push(index);
            for &to in &value.to {
                reads[to].push(Read { from: value.from, bytes: value.bytes });
                readers[value.from].push(Read { from: to, bytes: value.bytes });
                values[to].push(index);
            }
        }
        let (group_of, members) = groups(problem);
        let mut allowed = Vec::new();
        for tasks in &members {
            let fits =
                |&device: &Id| tasks.iter().all(|&task| times[task * devices + device].is_finite());
            let found: Vec<Id> = (0..devices).filter(fits).collect();
            if found.is_empty() {
                let group = if tasks.len() > 1 { " together with its group" } else { "" };
                let task = problem.tasks[tasks[0]].name.clone();
                return Err(PlaceError::NoDevice { task, group });
            }
            allowed.push(found);
        }
        let memory = |tasks: &Vec<Id>| tasks.iter().map(|&task| problem.tasks[task].memory).sum();
        let group_memory = members.iter().map(memory).collect();
        Ok(Table {
            problem,
            devices,
            times,
            reads: Lists::of(reads),
            readers: Lists::of(readers),
            values: Lists::of(values),
            group_of,
            members: Lists::of(members),
            allowed: Lists::of(allowed),
            group_memory,
        })
    }

    #[inline]
    pub(crate) fn time(&self, task: Id, device: Id) -> f64 {
        self.times[task * self.devices + device]
    }

    pub(crate) fn tasks(&self) -> usize {
        self.group_of.len()
    }

    pub(crate) fn memory_max(&self, device: Id) -> f64 {
        self.problem.devices[device].memory_max.unwrap_or(f64::INFINITY)
    }

    /// The least time from the end of a task on a device to the end of all that reads of it, at
    /// `task * devices + device`: each path is followed by itself, over the best device of each
    /// step, with the copies that this takes. A lower bound.
    pub(crate) fn tails(&self) -> Vec<f64> {
        let devices = self.devices;
        let mut tails = vec![0.0; self.tasks() * devices];
        for task in (0..self.tasks()).rev() {
            for device in 0..devices {
                let least = |read: &Read| self.least_after(&tails, read, device);
                let most = self.readers.at(task).iter().map(least).fold(0.0, f64::max);
                tails[task * devices + device] = most;
            }
        }
        tails
    }

    /// The least time from where a value lies on `device` to the end of what reads it.
    fn least_after(&self, tails: &[f64], read: &Read, device: Id) -> f64 {
        let path = |&to: &Id| {
            self.problem.copy_time(read.bytes, device, to)
                + self.time(read.from, to)
                + tails[read.from * self.devices + to]
        };
        self.allowed.at(self.group_of[read.from]).iter().map(path).fold(f64::INFINITY, f64::min)
    }
}

/// The group of each task, and the tasks of each group, groups in the order of their first tasks.
fn groups(problem: &Problem) -> (Vec<Id>, Vec<Vec<Id>>) {
    let mut known = std::collections::BTreeMap::new();
    let mut members: Vec<Vec<Id>> = Vec::new();
    let mut group_of = Vec::new();
    for (index, task) in problem.tasks.iter().enumerate() {
        let next = members.len();
        let group = match task.group {
            Some(name) => *known.entry(name).or_insert(next),
            None => next,
        };
        if group == next {
            members.push(Vec::new());
        }
        members[group].push(index);
        group_of.push(group);
    }
    (group_of, members)
}
