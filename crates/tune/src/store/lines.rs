//! Choices as lines of JSON: how they go from one machine to another, and into the table that is
//! shipped with Hetra.

use std::io::{BufRead, Read, Write};

use hetra_device::{ScheduleTable, Task};
use serde::{Deserialize, Serialize};

use super::{CHOICES_MAX, Choice, DeviceKey, Store, StoreError, best, set_choice};

/// Most bytes of a line.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// One line.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    device: DeviceKey,
    task: Task,
    #[serde(flatten)]
    choice: Choice,
}

impl Line {
    fn parse(text: &str, line: usize) -> Result<Line, StoreError> {
        let reason =
            |error: &dyn std::fmt::Display| StoreError::Line { line, reason: error.to_string() };
        let parsed: Line = serde_json::from_str(text).map_err(|error| reason(&error))?;
        parsed.device.check().map_err(|error| reason(&error))?;
        Ok(parsed)
    }
}

/// Writes the choices of a device, a line each, by the task's key.
///
/// # Errors
/// When the store cannot be read or `out` not written.
pub fn export(store: &Store, device: &DeviceKey, out: &mut dyn Write) -> Result<(), StoreError> {
    let failed = |reason: String| StoreError::Failed { path: store.path.clone(), reason };
    for (task, choice) in store.choices(device)? {
        let line = Line { device: device.clone(), task, choice };
        let text = serde_json::to_string(&line).map_err(|error| failed(error.to_string()))?;
        writeln!(out, "{text}").map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

/// Reads lines that [`export`] wrote into a store, all or nothing. A choice that the store has
/// already stays where it is newer. Returns how many lines there were.
///
/// # Errors
/// When a line is no choice or too long, there are more than [`CHOICES_MAX`], or the store cannot
/// be written.
pub fn import(store: &mut Store, input: &mut dyn BufRead) -> Result<usize, StoreError> {
    let lines = read(input)?;
    store.write(|transaction| {
        lines.iter().try_for_each(|Line { device, task, choice }| {
            match best(transaction, device, task.key())? {
                Some(old) if old.at > choice.at => Ok(()),
                _ => set_choice(transaction, device, task, choice),
            }
        })
    })?;
    Ok(lines.len())
}

/// The table of lines that [`export`] wrote, for the devices that `accepts` takes. Of several lines
/// for one task, the last counts. This is how a table that is compiled into a program is read.
///
/// # Errors
/// When a line is no choice or too long, or there are more than [`CHOICES_MAX`].
pub fn table_of_lines(
    text: &str,
    accepts: &dyn Fn(&DeviceKey) -> bool,
) -> Result<ScheduleTable, StoreError> {
    let mut table = ScheduleTable::default();
    for line in read(&mut text.as_bytes())? {
        if accepts(&line.device) {
            table.insert(line.task.key().to_string(), line.choice.schedule);
        }
    }
    Ok(table)
}

/// All lines but empty ones.
fn read(input: &mut dyn BufRead) -> Result<Vec<Line>, StoreError> {
    let mut lines = Vec::new();
    for number in 1.. {
        let reason = |reason: String| StoreError::Line { line: number, reason };
        let mut text = String::new();
        // One byte more than a line may have tells that it is too long.
        let count = input.take(LINE_BYTES_MAX + 1).read_line(&mut text);
        match count.map_err(|error| reason(error.to_string()))? as u64 {
            0 => break,
            count if count > LINE_BYTES_MAX => {
                return Err(reason(format!("more than {LINE_BYTES_MAX} bytes")));
            }
            _ if text.trim().is_empty() => {}
            _ if lines.len() as u64 == CHOICES_MAX => {
                return Err(reason(format!("more than {CHOICES_MAX} choices")));
            }
            _ => lines.push(Line::parse(&text, number)?),
        }
    }
    Ok(lines)
}
