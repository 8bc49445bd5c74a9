//! What is placed, and on what.

/// A number of a task, of a device, of a unit, of a value: its place in the problem's list.
pub type Id = usize;

/// What computes: the cores of a host, a GPU. Devices on one unit take turns on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// How many tasks it runs at one time, each as fast as alone.
    pub slots: usize,
}

/// One direction of a device's link to the memory of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Line {
    /// Time before the first byte.
    pub latency: f64,
    /// Time for each byte.
    pub per_byte: f64,
}

impl Line {
    /// The time of a copy.
    pub fn time(&self, bytes: f64) -> f64 {
        self.latency + bytes * self.per_byte
    }
}

/// What tasks are placed on.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name, such as `cpu`.
    pub name: String,
    /// What it computes with.
    pub unit: Id,
    /// Most memory of the tasks on it together; none where only the host's memory bounds it.
    pub memory_max: Option<f64>,
    /// From the host's memory to its own; zero where it works in the host's.
    pub into: Line,
    /// From its own memory to the host's.
    pub out: Line,
    /// Whether its unit is busy while it copies; else copies overlap with what it computes.
    pub copies_occupy: bool,
    /// Whether copies in and out wait for each other, where they do not occupy the unit.
    pub half_duplex: bool,
    /// What it costs beside time, for each unit of time that it computes: watts where energy is
    /// sought, a price where money is.
    pub rate: f64,
}

/// What runs on one device in one go.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Its time on each device, by device; none where the device does not do it or must not.
    pub times: Vec<Option<f64>>,
    /// What it holds of a device's memory for good: weights.
    pub memory: f64,
    /// Tasks of one group stand on one device.
    pub group: Option<u32>,
}

/// What one task makes and others read.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Who makes it.
    pub from: Id,
    /// Who reads it; no task twice.
    pub to: Vec<Id>,
    /// Its size.
    pub bytes: f64,
}

/// Tasks to place on devices. Times are in one unit, whichever; Hetra's own are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problem {
    /// What computes.
    pub units: Vec<Unit>,
    /// What tasks are placed on. The first one is the host's.
    pub devices: Vec<Device>,
    /// What is placed; a task stands behind those whose values it reads.
    pub tasks: Vec<Task>,
    /// What is read.
    pub values: Vec<Value>,
}

/// Why a problem has no placement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum PlaceError {
    #[error("there is no device to place on")]
    NoDevices,
    #[error("{what} {index} names {of} {got}; there are {count}")]
    Range { what: &'static str, index: usize, of: &'static str, got: usize, count: usize },
    #[error("task `{task}` stands before `{before}`, whose value it reads")]
    Order { task: String, before: String },
    #[error("task `{task}` has {got} times for {wanted} devices")]
    Times { task: String, wanted: usize, got: usize },
    #[error("{what}: {got} is no time, size or rate")]
    Number { what: String, got: String },
    #[error("no device runs task `{task}`{group}")]
    NoDevice { task: String, group: &'static str },
    #[error("unit `{unit}` has no slot")]
    NoSlot { unit: String },
    #[error("no placement was found that fits the memory of the devices")]
    Memory,
    #[error(
        "of the policies that may choose ({0}) none is for this goal and so many tasks and devices"
    )]
    NotApplicable(String),
}

impl Problem {
    /// Checks what all policies rely on.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), PlaceError> {
        self.check_devices()?;
        let number = |what: &str, got: f64| {
            let fine = got.is_finite() && got >= 0.0;
            let (what, got) = (what.to_string(), got.to_string());
            if fine { Ok(()) } else { Err(PlaceError::Number { what, got }) }
        };
        for task in &self.tasks {
            let (wanted, got) = (self.devices.len(), task.times.len());
            if wanted != got {
                return Err(PlaceError::Times { task: task.name.clone(), wanted, got });
            }
            number(&task.name, task.memory)?;
            task.times.iter().flatten().try_for_each(|&time| number(&task.name, time))?;
        }
        for (index, value) in self.values.iter().enumerate() {
            number("a value", value.bytes)?;
            self.within("value", index, "task", value.from, self.tasks.len())?;
            for &to in &value.to {
                self.within("value", index, "task", to, self.tasks.len())?;
                if to <= value.from {
                    let name = |task: Id| self.tasks[task].name.clone();
                    return Err(PlaceError::Order { task: name(to), before: name(value.from) });
                }
            }
        }
        Ok(())
    }

    fn check_devices(&self) -> Result<(), PlaceError> {
        if self.devices.is_empty() {
            return Err(PlaceError::NoDevices);
        }
        if let Some(unit) = self.units.iter().find(|unit| unit.slots == 0) {
            return Err(PlaceError::NoSlot { unit: unit.name.clone() });
        }
        for (index, device) in self.devices.iter().enumerate() {
            self.within("device", index, "unit", device.unit, self.units.len())?;
            let Device { into, out, rate, .. } = device;
            let most = device.memory_max.unwrap_or(0.0);
            let numbers = [into.latency, into.per_byte, out.latency, out.per_byte, *rate, most];
            if let Some(got) = numbers.into_iter().find(|got| !got.is_finite() || *got < 0.0) {
                let (what, got) = (device.name.clone(), got.to_string());
                return Err(PlaceError::Number { what, got });
            }
        }
        Ok(())
    }

    fn within(
        &self,
        what: &'static str,
        index: usize,
        of: &'static str,
        got: usize,
        count: usize,
    ) -> Result<(), PlaceError> {
        if got < count { Ok(()) } else { Err(PlaceError::Range { what, index, of, got, count }) }
    }

    /// The time that a value of so many bytes takes from one device to another.
    pub fn copy_time(&self, bytes: f64, from: Id, to: Id) -> f64 {
        if from == to {
            return 0.0;
        }
        self.devices[from].out.time(bytes) + self.devices[to].into.time(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(unit: Id) -> Device {
        let line = Line { latency: 1.0, per_byte: 2.0 };
        Device {
            name: "d".to_string(),
            unit,
            memory_max: None,
            into: line,
            out: Line { per_byte: 1.0, ..line },
            copies_occupy: false,
            half_duplex: false,
            rate: 0.0,
        }
    }

    fn problem() -> Problem {
        let task = |name: &str| Task {
            name: name.to_string(),
            times: vec![Some(1.0), None],
            memory: 0.0,
            group: None,
        };
        Problem {
            units: vec![Unit { name: "u".to_string(), slots: 1 }],
            devices: vec![device(0), device(0)],
            tasks: vec![task("a"), task("b")],
            values: vec![Value { from: 0, to: vec![1], bytes: 4.0 }],
        }
    }

    #[test]
    fn copies_go_through_the_host() {
        assert_eq!(problem().copy_time(4.0, 0, 1), 1.0 + 4.0 + 1.0 + 8.0);
        assert_eq!(problem().copy_time(4.0, 1, 1), 0.0);
    }

    #[test]
    fn faults_are_named() {
        let fault = |change: &dyn Fn(&mut Problem)| {
            let mut problem = problem();
            change(&mut problem);
            problem.check().unwrap_err().to_string()
        };
        assert_eq!(problem().check(), Ok(()));
        assert_eq!(
            fault(&|p| p.values[0].to = vec![0]),
            "task `a` stands before `a`, whose value it reads"
        );
        assert_eq!(fault(&|p| p.values[0].to = vec![9]), "value 0 names task 9; there are 2");
        assert_eq!(fault(&|p| p.devices[1].unit = 7), "device 1 names unit 7; there are 1");
        assert_eq!(fault(&|p| p.units[0].slots = 0), "unit `u` has no slot");
        assert_eq!(fault(&|p| p.tasks[1].times = vec![]), "task `b` has 0 times for 2 devices");
        assert_eq!(
            fault(&|p| p.tasks[1].times[0] = Some(f64::NAN)),
            "b: NaN is no time, size or rate"
        );
        assert_eq!(fault(&|p| p.devices.clear()), "there is no device to place on");
    }
}
