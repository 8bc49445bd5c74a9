//! What can be tuned of operators, and what a schedule says of it.

use hetra_device::{Knob, Schedule, Space, Task};

/// A knob of a kernel, as its operator declares it.
pub(crate) struct Dial {
    pub(crate) name: &'static str,
    pub(crate) choices: &'static [i64],
    /// What it is where nobody tuned.
    pub(crate) usual: usize,
}

impl Dial {
    /// What a schedule sets it to.
    pub(crate) fn of(&self, schedule: &Schedule) -> usize {
        // A schedule may be of another form, whose knobs have the same names.
        let set = schedule.get(self.name).filter(|value| self.choices.contains(value));
        set.and_then(|value| usize::try_from(value).ok()).unwrap_or(self.usual)
    }
}

/// A task and its space; `None` where a number makes none. The key is the first word and what
/// `sizes` say.
pub(crate) fn task(
    op: &str,
    sizes: &[(&'static str, usize)],
    dials: &[&Dial],
) -> Option<(Task, Space)> {
    let words: Vec<String> = sizes.iter().map(|(name, size)| format!("{name}{size}")).collect();
    let features = sizes.iter().map(|&(name, size)| (name.to_string(), size as f64));
    let task = Task::new(format!("{op} f32 {}", words.join(" ")), features.collect()).ok()?;
    let knob = |dial: &&Dial| Knob::new(dial.name, dial.choices, dial.usual as i64).ok();
    let space = Space::new(dials.iter().map(knob).collect::<Option<_>>()?).ok()?;
    Some((task, space))
}
