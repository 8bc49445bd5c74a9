//! The loads of a placement that is changed again and again; the same as [`crate::loads`]'.

use crate::problem::Id;
use crate::schedule::line_of;
use crate::table::Table;

pub(crate) struct Loads {
    pub(crate) loads: Vec<f64>,
    /// How many tasks on a device read a value, at `value * devices + device`.
    readers: Vec<u32>,
    /// How many tasks on other devices than the maker's read a value.
    abroad: Vec<u32>,
    lines: Vec<[usize; 2]>,
}

impl Loads {
    pub(crate) fn new(table: &Table<'_>, device: &[Id]) -> Loads {
        let problem = table.problem;
        let mut readers = vec![0; problem.values.len() * table.devices];
        let mut abroad = vec![0; problem.values.len()];
        for (index, value) in problem.values.iter().enumerate() {
            for &to in &value.to {
                readers[index * table.devices + device[to]] += 1;
                abroad[index] += u32::from(device[to] != device[value.from]);
            }
        }
        let line = |device: Id| [line_of(problem, device, false), line_of(problem, device, true)];
        Loads {
            loads: crate::schedule::loads(problem, device),
            readers,
            abroad,
            lines: (0..table.devices).map(line).collect(),
        }
    }

    pub(crate) fn most(&self) -> f64 {
        self.loads.iter().copied().fold(0.0, f64::max)
    }

    /// Moves a task; `device` is as it was before.
    pub(crate) fn shift(&mut self, table: &Table<'_>, device: &[Id], task: Id, to: Id) {
        let from = device[task];
        if from == to {
            return;
        }
        for (on, sign) in [(from, -1.0), (to, 1.0)] {
            let unit = table.problem.devices[on].unit;
            let slots = table.problem.units[unit].slots as f64;
            self.loads[unit] += sign * table.time(task, on) / slots;
        }
        for &value in table.values.at(task) {
            if table.problem.values[value].from == task {
                self.shift_maker(table, value, from, to);
            } else {
                self.shift_reader(table, device, value, from, to);
            }
        }
    }

    fn add(&mut self, table: &Table<'_>, value: Id, device: Id, out: bool, sign: f64) {
        let of = &table.problem.devices[device];
        let line = if out { &of.out } else { &of.into };
        let time = line.time(table.problem.values[value].bytes);
        self.loads[self.lines[device][usize::from(out)]] += sign * time;
    }

    fn shift_maker(&mut self, table: &Table<'_>, value: Id, from: Id, to: Id) {
        let count = |device: Id| value * table.devices + device;
        if self.abroad[value] > 0 {
            self.add(table, value, from, true, -1.0);
        }
        let (at_home, there) = (self.readers[count(from)], self.readers[count(to)]);
        self.abroad[value] = self.abroad[value] + at_home - there;
        if at_home > 0 {
            self.add(table, value, from, false, 1.0);
        }
        if there > 0 {
            self.add(table, value, to, false, -1.0);
        }
        if self.abroad[value] > 0 {
            self.add(table, value, to, true, 1.0);
        }
    }

    fn shift_reader(&mut self, table: &Table<'_>, device: &[Id], value: Id, from: Id, to: Id) {
        let home = device[table.problem.values[value].from];
        let count = |device: Id| value * table.devices + device;
        let was_abroad = self.abroad[value] > 0;
        self.readers[count(from)] -= 1;
        if from != home {
            self.abroad[value] -= 1;
            if self.readers[count(from)] == 0 {
                self.add(table, value, from, false, -1.0);
            }
        }
        if to != home {
            self.abroad[value] += 1;
            if self.readers[count(to)] == 0 {
                self.add(table, value, to, false, 1.0);
            }
        }
        self.readers[count(to)] += 1;
        match (was_abroad, self.abroad[value] > 0) {
            (true, false) => self.add(table, value, home, true, -1.0),
            (false, true) => self.add(table, value, home, true, 1.0),
            _ => {}
        }
    }
}
