//! Schedules as data: how a kernel does its work, never what it computes.
//!
//! A [`Schedule`] gives numbers to the knobs of a kernel (rows of a register tile, terms of a
//! block, tasks of a thread). A kernel declares which numbers it takes ([`crate::Space`]); a
//! [`Task`] says for what they were found; a [`ScheduleTable`] is what a device looks them up in.
//! How they are found is not known here.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most knobs of a schedule.
pub(crate) const KNOBS_MAX: usize = 16;

/// Most bytes of a knob's name.
const KNOB_NAME_BYTES_MAX: usize = 32;

/// Most bytes of a task's key.
const TASK_KEY_BYTES_MAX: usize = 512;

/// Most features of a task.
const FEATURES_MAX: usize = 64;

/// Why something is no schedule or no task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum ScheduleError {
    #[error("`{word}` in a schedule: wanted KNOB=INTEGER")]
    Word { word: String },
    #[error(
        "`{name}` is no name of a knob: wanted a-z, 0-9 and _, a letter first, at most {} bytes",
        KNOB_NAME_BYTES_MAX
    )]
    Name { name: String },
    #[error("knob `{name}` is given twice")]
    Twice { name: String },
    #[error("a schedule has at most {} knobs", KNOBS_MAX)]
    Many,
    #[error("a task's key has 1 to {} bytes and no control characters", TASK_KEY_BYTES_MAX)]
    Key,
    #[error("a task has at most {} features, each a finite number", FEATURES_MAX)]
    Features,
}

/// The numbers that knobs are set to, by name. A knob that is not named is the kernel's to choose;
/// the empty schedule leaves it everything.
///
/// Its text form is `mr=6 nr=2`, names in order, so that equal schedules have equal texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Schedule(BTreeMap<String, i64>);

impl Schedule {
    /// The schedule that leaves everything to the kernel.
    pub fn new() -> Schedule {
        Schedule::default()
    }

    /// Adds a knob.
    ///
    /// # Errors
    /// When the name is not one, stands there already, or there are too many.
    pub fn with(mut self, name: &str, value: i64) -> Result<Schedule, ScheduleError> {
        check_name(name)?;
        if self.0.contains_key(name) {
            return Err(ScheduleError::Twice { name: name.to_string() });
        }
        if self.0.len() == KNOBS_MAX {
            return Err(ScheduleError::Many);
        }
        self.0.insert(name.to_string(), value);
        Ok(self)
    }

    /// The number of a knob; `None` where the kernel chooses.
    pub fn get(&self, name: &str) -> Option<i64> {
        self.0.get(name).copied()
    }

    /// Knobs and their numbers, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, &value)| (name.as_str(), value))
    }

    /// How many knobs are set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether everything is left to the kernel.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
        }
        Ok(())
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Schedule, ScheduleError> {
        text.split_whitespace().try_fold(Schedule::new(), |schedule, word| {
            let parts = word.split_once('=').and_then(|(name, n)| Some((name, n.parse().ok()?)));
            let fault = || ScheduleError::Word { word: excerpt(word) };
            let (name, value) = parts.ok_or_else(fault)?;
            schedule.with(name, value)
        })
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> String {
        schedule.to_string()
    }
}

impl TryFrom<String> for Schedule {
    type Error = ScheduleError;

    fn try_from(text: String) -> Result<Schedule, ScheduleError> {
        text.parse()
    }
}

/// Refuses what is no name of a knob.
pub(crate) fn check_name(name: &str) -> Result<(), ScheduleError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let fine = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= KNOB_NAME_BYTES_MAX
        && name.chars().all(plain);
    if fine { Ok(()) } else { Err(ScheduleError::Name { name: excerpt(name) }) }
}

/// The start of a text from outside, short enough for a message.
fn excerpt(text: &str) -> String {
    text.chars().take(2 * KNOB_NAME_BYTES_MAX).collect()
}

/// What a schedule is for: one kernel at one set of sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "RawTask", try_from = "RawTask")]
pub struct Task {
    key: String,
    features: Vec<(String, f64)>,
}

/// A task as it is written, before it is checked.
#[derive(Serialize, Deserialize)]
struct RawTask {
    key: String,
    features: Vec<(String, f64)>,
}

impl Task {
    /// A task. The key names all that the best schedule depends on, but the device: operator,
    /// dtype, shapes, attributes, threads, such as `ConvLast f32 1x112x112x32 w64x32x3x3 s1 p1 t2`.
    /// Features say the same in numbers, so that a model can learn from one task for another; tasks
    /// of one kernel have the same features in the same order.
    ///
    /// # Errors
    /// When the key is empty, too long or has control characters; when there are too many
    /// features, or one is not finite.
    pub fn new(
        key: impl Into<String>,
        features: Vec<(String, f64)>,
    ) -> Result<Task, ScheduleError> {
        let key = key.into();
        if key.is_empty() || key.len() > TASK_KEY_BYTES_MAX || key.chars().any(char::is_control) {
            return Err(ScheduleError::Key);
        }
        if features.len() > FEATURES_MAX || features.iter().any(|(_, value)| !value.is_finite()) {
            return Err(ScheduleError::Features);
        }
        for (name, _) in &features {
            check_name(name)?;
        }
        Ok(Task { key, features })
    }

    /// What names it.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Numbers that describe it.
    pub fn features(&self) -> &[(String, f64)] {
        &self.features
    }
}

impl From<Task> for RawTask {
    fn from(task: Task) -> RawTask {
        RawTask { key: task.key, features: task.features }
    }
}

impl TryFrom<RawTask> for Task {
    type Error = ScheduleError;

    fn try_from(raw: RawTask) -> Result<Task, ScheduleError> {
        Task::new(raw.key, raw.features)
    }
}

/// The schedules of a device, by the keys of their tasks. Made once when a session starts, then
/// only read: a look-up is a look into memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScheduleTable(HashMap<String, Schedule>);

impl ScheduleTable {
    /// The schedule of a task; `None` where there is none and the kernel chooses.
    pub fn get(&self, key: &str) -> Option<&Schedule> {
        self.0.get(key)
    }

    /// Sets the schedule of a task.
    pub fn insert(&mut self, key: String, schedule: Schedule) {
        self.0.insert(key, schedule);
    }

    /// This table, and what `other` has for tasks that this one lacks.
    #[must_use]
    pub fn over(mut self, other: ScheduleTable) -> ScheduleTable {
        let mut all = other;
        all.0.extend(self.0.drain());
        all
    }

    /// How many tasks it knows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Schedule, ScheduleError> {
        text.parse()
    }

    #[test]
    fn a_schedule_is_its_text() {
        let schedule = parse("  nr=2 mr=6\tshift=-3 ").unwrap();
        assert_eq!(schedule.to_string(), "mr=6 nr=2 shift=-3");
        assert_eq!(parse(&schedule.to_string()).unwrap(), schedule);
        assert_eq!((schedule.get("mr"), schedule.get("kc"), schedule.len()), (Some(6), None, 3));
        assert_eq!(parse("").unwrap(), Schedule::new());
        assert_eq!(Schedule::new().to_string(), "");
        let json = serde_json::to_string(&schedule).unwrap();
        assert_eq!(json, r#""mr=6 nr=2 shift=-3""#);
        assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
        assert!(serde_json::from_str::<Schedule>(r#""mr=6 mr=7""#).is_err());
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        let word = |word: &str| ScheduleError::Word { word: word.to_string() };
        for bad in ["mr", "mr=", "mr=x", "mr=1.5", "mr=9223372036854775808"] {
            assert_eq!(parse(bad), Err(word(bad)));
        }
        let long = "a".repeat(KNOB_NAME_BYTES_MAX + 1);
        for name in ["", "Mr", "6r", "m-r", "_m", &long] {
            let refused = Err(ScheduleError::Name { name: name.to_string() });
            assert_eq!(parse(&format!("{name}=1")), refused);
        }
        assert_eq!(parse("mr=1 mr=1"), Err(ScheduleError::Twice { name: "mr".to_string() }));
        let many = |count| (0..count).map(|i| format!("k{i}=1 ")).collect::<String>();
        assert_eq!(parse(&many(KNOBS_MAX)).unwrap().len(), KNOBS_MAX);
        assert_eq!(parse(&many(KNOBS_MAX + 1)), Err(ScheduleError::Many));
        // A message does not carry a megabyte.
        assert!(parse(&"x".repeat(1 << 20)).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn a_task_is_checked_wherever_it_comes_from() {
        let task = Task::new("MatMul f32 8x8 t2", vec![("m".to_string(), 8.0)]).unwrap();
        let json = serde_json::to_string(&task).unwrap();
        assert_eq!(json, r#"{"key":"MatMul f32 8x8 t2","features":[["m",8.0]]}"#);
        assert_eq!(serde_json::from_str::<Task>(&json).unwrap(), task);
        assert!(serde_json::from_str::<Task>(r#"{"key":"","features":[]}"#).is_err());
        for key in ["", "a\nb", &"k".repeat(TASK_KEY_BYTES_MAX + 1)] {
            assert_eq!(Task::new(key, Vec::new()), Err(ScheduleError::Key));
        }
        let features = |count, value| vec![("m".to_string(), value); count];
        for bad in [features(1, f64::NAN), features(FEATURES_MAX + 1, 1.0)] {
            assert_eq!(Task::new("k", bad), Err(ScheduleError::Features));
        }
        assert!(Task::new("k", vec![("M".to_string(), 1.0)]).is_err());
    }

    #[test]
    fn the_upper_table_wins() {
        let table = |rows: &[(&str, &str)]| {
            let mut table = ScheduleTable::default();
            for (key, schedule) in rows {
                table.insert(key.to_string(), schedule.parse().unwrap());
            }
            table
        };
        let all = table(&[("a", "mr=1")]).over(table(&[("a", "mr=2"), ("b", "mr=3")]));
        assert_eq!(all, table(&[("a", "mr=1"), ("b", "mr=3")]));
        assert_eq!(all.get("b").map(ToString::to_string).as_deref(), Some("mr=3"));
        assert_eq!(all.get("c"), None);
    }
}
