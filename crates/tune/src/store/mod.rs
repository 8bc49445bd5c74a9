//! What was measured, kept in one SQLite file: rows for the next search, choices for the next
//! session.
//!
//! Everything stands under a [`DeviceKey`]: what was found for one device, driver or version says
//! nothing of another. A *row* is one measurement of a search; a *choice* is a schedule that was
//! confirmed against the default (perhaps the default itself), and only choices reach a session.
//!
//! Processes may share the file: SQLite locks it, writers wait some seconds for each other, and
//! each write is one transaction. The journal is the old one that is rolled back, not a write-ahead
//! log, so that the file can be read where it cannot be written. Where the file lies is the
//! caller's business.

mod costs;
mod lines;
mod schema;
#[cfg(test)]
mod tests;

pub use costs::Cost;
pub use lines::{export, import, table_of_lines};

use std::path::{Path, PathBuf};

use hetra_device::{Schedule, ScheduleError, ScheduleTable, Task};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::search::Row;
use schema::State;

/// Milliseconds that a process waits for another one to finish its write.
const BUSY_MS: u64 = 5_000;

/// Most rows of a store; when it is opened for writing, the oldest beyond it go.
pub const ROWS_MAX: u64 = 200_000;

/// Most choices of a store, likewise.
pub const CHOICES_MAX: u64 = 50_000;

/// Most bytes of one value that is read from a file; ours have a few thousand.
const VALUE_BYTES_MAX: i32 = 1 << 20;

/// Most bytes of the text of an error.
const ERROR_BYTES_MAX: usize = 300;

/// Most bytes of a part of a device's key.
const NAME_BYTES_MAX: usize = 200;

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum StoreError {
    #[error(
        "{path}: not a store of measurements, or damaged ({reason}); move it away to begin anew"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("{path}: written by a newer Hetra (form {found}, this one knows {known})")]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{path}: another process has been writing for {} s", BUSY_MS / 1000)]
    Busy { path: PathBuf },
    #[error("{path}: {reason}")]
    Failed { path: PathBuf, reason: String },
    #[error("line {line}: {reason}")]
    Line { line: usize, reason: String },
    #[error("{name} of a device has 1 to {NAME_BYTES_MAX} bytes and no control characters")]
    Device { name: &'static str },
}

/// What measurements depend on besides the task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeviceKey {
    /// The device, such as the processor's model name and the instruction set of the kernels.
    pub device: String,
    /// The driver and its version.
    pub driver: String,
    /// The version of Hetra, whose kernels were measured.
    pub version: String,
}

impl DeviceKey {
    fn check(&self) -> Result<(), StoreError> {
        let parts = [("name", &self.device), ("driver", &self.driver), ("version", &self.version)];
        let fine = |text: &str| {
            (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
        };
        let wrong = parts.into_iter().find(|(_, text)| !fine(text));
        wrong.map_or(Ok(()), |(name, _)| Err(StoreError::Device { name }))
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Median seconds, or why there are none.
    pub result: Result<f64, String>,
    /// How far apart the samples lie, as a part of the median.
    pub spread: f64,
    /// Samples behind the median.
    pub samples: u32,
    /// When, in seconds since 1970.
    pub at: i64,
}

/// The schedule that a session uses for a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The schedule, perhaps the default.
    pub schedule: Schedule,
    /// Its seconds, for one node.
    pub seconds: f64,
    /// Seconds of the default, measured in turn with it.
    pub default_seconds: f64,
    /// When it was chosen, in seconds since 1970.
    pub at: i64,
    /// Whether the search came to its end: else another one goes on from what was measured.
    #[serde(default = "finished")]
    pub finished: bool,
}

fn finished() -> bool {
    true
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Connection,
}

impl Store {
    /// Opens the store in this file for reading and writing; makes it, and its folder, where there
    /// is none. Brings an older form up to date and removes the oldest beyond [`ROWS_MAX`] and
    /// [`CHOICES_MAX`].
    ///
    /// # Errors
    /// When the file is no store, is damaged or newer, or cannot be written.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        if let Some(folder) = path.parent() {
            let failed = |error: std::io::Error| StoreError::Failed {
                path: path.to_path_buf(),
                reason: error.to_string(),
            };
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut store = Store::connect(path, flags)?;
        match store.write(|transaction| schema::migrate(transaction, &schema::STEPS))? {
            State::Ready => {}
            State::Newer(found) => return Err(store.newer(found)),
            State::Foreign => return Err(store.foreign()),
        }
        store.prune(ROWS_MAX, CHOICES_MAX, costs::COSTS_MAX)?;
        Ok(store)
    }

    /// Opens the store in this file for reading only; `None` where there is no file, or nothing in
    /// it yet.
    ///
    /// # Errors
    /// When the file is no store, is damaged or newer, or cannot be read.
    pub fn open_to_read(path: &Path) -> Result<Option<Store>, StoreError> {
        if !path.exists() {
            return Ok(None);
        }
        let store = Store::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let (ours, version, empty) = match schema::look(&store.connection) {
            Ok(found) => found,
            // A writer was killed in the midst of a transaction, which whoever may write undoes.
            Err(error) if is_half_written(&error) => return Store::open(path).map(Some),
            Err(error) => return Err(store.fault(error)),
        };
        match version {
            0 if empty => Ok(None),
            _ if !ours => Err(store.foreign()),
            schema::VERSION => Ok(Some(store)),
            found if found > schema::VERSION => Err(store.newer(found)),
            // An older form is brought up to date by whoever may write.
            _ => Store::open(path).map(Some),
        }
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Store, StoreError> {
        // A connection stays on the thread that has it: no lock of SQLite's own is needed.
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let failed = |error| fault(path, error);
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        let wait = std::time::Duration::from_millis(BUSY_MS);
        connection.busy_timeout(wait).map_err(failed)?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX).map_err(failed)?;
        let settings = "PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; \
                        PRAGMA trusted_schema = OFF; \
                        PRAGMA cell_size_check = ON;";
        connection.execute_batch(settings).map_err(failed)?;
        Ok(Store { path: path.to_path_buf(), connection })
    }

    fn fault(&self, error: rusqlite::Error) -> StoreError {
        fault(&self.path, error)
    }

    fn foreign(&self) -> StoreError {
        let reason = "another program's database".to_string();
        StoreError::Damaged { path: self.path.clone(), reason }
    }

    fn newer(&self, found: i64) -> StoreError {
        StoreError::Newer { path: self.path.clone(), found, known: schema::VERSION }
    }

    /// One transaction that has the right to write from its beginning: it waits for others before
    /// it reads, so that nothing changes in between.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let path = self.path.clone();
        let behavior = rusqlite::TransactionBehavior::Immediate;
        let all = || {
            let transaction = self.connection.transaction_with_behavior(behavior)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        all().map_err(|error| fault(&path, error))
    }

    /// Keeps a measurement. It replaces an older one of the same schedule.
    ///
    /// # Errors
    /// When the file cannot be written, or the device's key is none.
    pub fn record(
        &mut self,
        device: &DeviceKey,
        task: &Task,
        schedule: &Schedule,
        measured: &Measured,
    ) -> Result<(), StoreError> {
        device.check()?;
        let (seconds, error) = match &measured.result {
            Ok(seconds) if seconds.is_finite() => (Some(*seconds), None),
            Ok(_) => (None, Some("no time")),
            Err(error) => (None, Some(cut(error, ERROR_BYTES_MAX))),
        };
        self.write(|transaction| {
            let task = task_id(transaction, device, task)?;
            let sql = "INSERT OR REPLACE INTO measured \
                       (task, schedule, seconds, error, spread, samples, at) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let Measured { spread, samples, at, .. } = measured;
            let text = schedule.to_string();
            let row = params![task, text, seconds, error, spread, samples, at];
            transaction.prepare(sql)?.execute(row).map(|_| ())
        })
    }

    /// Sets what sessions use for a task.
    ///
    /// # Errors
    /// When the file cannot be written, or the device's key is none.
    pub fn choose(
        &mut self,
        device: &DeviceKey,
        task: &Task,
        choice: &Choice,
    ) -> Result<(), StoreError> {
        device.check()?;
        self.write(|transaction| set_choice(transaction, device, task, choice))
    }

    /// Forgets what was measured of a task, so that its next search begins anew. What sessions use
    /// stays until then.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn reopen(&mut self, device: &DeviceKey, task: &str) -> Result<(), StoreError> {
        let DeviceKey { device, driver, version } = device;
        let of_task = "task = (SELECT task.id FROM task JOIN device ON device.id = task.device \
                       WHERE device.device = ?1 AND device.driver = ?2 AND device.version = ?3 \
                       AND task.key = ?4)";
        self.write(|transaction| {
            let values = params![device, driver, version, task];
            transaction.execute(&format!("DELETE FROM measured WHERE {of_task}"), values)?;
            let sql = format!("UPDATE choice SET finished = 0 WHERE {of_task}");
            transaction.execute(&sql, values).map(|_| ())
        })
    }

    /// What sessions use for a task; `None` where nobody tuned it.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn best(&self, device: &DeviceKey, task: &str) -> Result<Option<Choice>, StoreError> {
        best(&self.connection, device, task).map_err(|error| self.fault(error))
    }

    /// Everything that sessions use on a device, by the task's key.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn choices(&self, device: &DeviceKey) -> Result<Vec<(Task, Choice)>, StoreError> {
        let DeviceKey { device, driver, version } = device;
        let sql = format!("{CHOICES} ORDER BY task.key");
        self.list(&sql, params![device, driver, version], choice)
    }

    /// The same as a session keeps it. Made once, when it starts.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn table(&self, device: &DeviceKey) -> Result<ScheduleTable, StoreError> {
        let mut table = ScheduleTable::default();
        for (task, choice) in self.choices(device)? {
            table.insert(task.key().to_string(), choice.schedule);
        }
        Ok(table)
    }

    /// What a search for `task` begins with: all its rows, then the newest `others` of other tasks
    /// of the device.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn rows(
        &self,
        device: &DeviceKey,
        task: &str,
        others: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let DeviceKey { device, driver, version } = device;
        let limit = i64::try_from(others).unwrap_or(i64::MAX);
        let own = format!("{ROWS} AND task.key = ?4 ORDER BY measured.at, measured.schedule");
        let mut all = self.list(&own, params![device, driver, version, task], row)?;
        let rest = format!(
            "{ROWS} AND task.key <> ?4 \
             ORDER BY measured.at DESC, task.key, measured.schedule LIMIT ?5"
        );
        all.extend(self.list(&rest, params![device, driver, version, task, limit], row)?);
        Ok(all)
    }

    fn list<T>(
        &self,
        sql: &str,
        values: &[&dyn rusqlite::ToSql],
        read: fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let all = || {
            let mut statement = self.connection.prepare(sql)?;
            let found = statement.query_map(values, read)?;
            found.collect::<rusqlite::Result<Vec<T>>>()
        };
        all().map_err(|error| self.fault(error))
    }

    /// Removes the oldest rows beyond `rows_max`, the oldest choices beyond `choices_max`, the
    /// oldest costs beyond `costs_max`, and tasks of which nothing is left. Returns how many went.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn prune(
        &mut self,
        rows_max: u64,
        choices_max: u64,
        costs_max: u64,
    ) -> Result<usize, StoreError> {
        self.write(|transaction| {
            let most = |max: u64| i64::try_from(max).unwrap_or(i64::MAX);
            let rows = "DELETE FROM measured WHERE (task, schedule) IN \
                        (SELECT task, schedule FROM measured ORDER BY at, task, schedule \
                         LIMIT max(0, (SELECT count(*) FROM measured) - ?1))";
            let choices = "DELETE FROM choice WHERE task IN \
                           (SELECT task FROM choice ORDER BY at, task \
                            LIMIT max(0, (SELECT count(*) FROM choice) - ?1))";
            let costs = "DELETE FROM cost WHERE (device, part) IN \
                         (SELECT device, part FROM cost ORDER BY at, device, part \
                          LIMIT max(0, (SELECT count(*) FROM cost) - ?1))";
            let gone = transaction.execute(rows, [most(rows_max)])?
                + transaction.execute(choices, [most(choices_max)])?
                + transaction.execute(costs, [most(costs_max)])?;
            if gone > 0 {
                transaction.execute_batch(
                    "DELETE FROM task WHERE id NOT IN (SELECT task FROM measured) \
                     AND id NOT IN (SELECT task FROM choice); \
                     DELETE FROM device WHERE id NOT IN (SELECT device FROM task) \
                     AND id NOT IN (SELECT device FROM cost);",
                )?;
            }
            Ok(gone)
        })
    }
}

fn best(
    connection: &Connection,
    device: &DeviceKey,
    task: &str,
) -> rusqlite::Result<Option<Choice>> {
    let sql = format!("{CHOICES} AND task.key = ?4");
    let DeviceKey { device, driver, version } = device;
    let found = connection.query_row(&sql, params![device, driver, version, task], choice);
    Ok(found.optional()?.map(|(_, choice)| choice))
}

/// Choices of a device, each with its task.
const CHOICES: &str = "SELECT task.key, task.features, choice.schedule, choice.seconds, \
     choice.default_seconds, choice.at, choice.finished FROM choice JOIN task ON task.id = choice.task \
     JOIN device ON device.id = task.device \
     WHERE device.device = ?1 AND device.driver = ?2 AND device.version = ?3";

/// Measurements of a device, each with its task.
const ROWS: &str = "SELECT task.key, task.features, measured.schedule, measured.seconds \
     FROM measured JOIN task ON task.id = measured.task JOIN device ON device.id = task.device \
     WHERE device.device = ?1 AND device.driver = ?2 AND device.version = ?3";

fn choice(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Task, Choice)> {
    let (task, schedule) = (task(row)?, schedule(row)?);
    let (seconds, default_seconds, at) = (row.get(3)?, row.get(4)?, row.get(5)?);
    Ok((task, Choice { schedule, seconds, default_seconds, at, finished: row.get(6)? }))
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row { task: task(row)?, schedule: schedule(row)?, seconds: row.get(3)? })
}

fn task(row: &rusqlite::Row<'_>) -> rusqlite::Result<Task> {
    let features = row.get_ref(1)?.as_str()?;
    let features = serde_json::from_str(features).map_err(|error| unread(1, error))?;
    Task::new(row.get::<_, String>(0)?, features).map_err(|error| unread(0, error))
}

fn schedule(row: &rusqlite::Row<'_>) -> rusqlite::Result<Schedule> {
    row.get_ref(2)?.as_str()?.parse().map_err(|error: ScheduleError| unread(2, error))
}

/// A text in the file that is not what we write.
fn unread(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    let kind = rusqlite::types::Type::Text;
    rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
}

/// The id of a device, which is added where it is new.
fn device_id(transaction: &Transaction<'_>, device: &DeviceKey) -> rusqlite::Result<i64> {
    let DeviceKey { device, driver, version } = device;
    let key = params![device, driver, version];
    transaction
        .prepare("INSERT OR IGNORE INTO device (device, driver, version) VALUES (?1, ?2, ?3)")?
        .execute(key)?;
    transaction
        .prepare("SELECT id FROM device WHERE device = ?1 AND driver = ?2 AND version = ?3")?
        .query_row(key, |row| row.get(0))
}

/// The id of a task of a device; both are added where they are new.
fn task_id(
    transaction: &Transaction<'_>,
    device: &DeviceKey,
    task: &Task,
) -> rusqlite::Result<i64> {
    let id = device_id(transaction, device)?;
    let features = serde_json::to_string(task.features())
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let sql = "INSERT INTO task (device, key, features) VALUES (?1, ?2, ?3) \
               ON CONFLICT (device, key) DO UPDATE SET features = excluded.features RETURNING id";
    let values = params![id, task.key(), features];
    transaction.prepare(sql)?.query_row(values, |row| row.get(0))
}

/// Sets a choice.
fn set_choice(
    transaction: &Transaction<'_>,
    device: &DeviceKey,
    task: &Task,
    choice: &Choice,
) -> rusqlite::Result<()> {
    let task = task_id(transaction, device, task)?;
    let sql = "INSERT OR REPLACE INTO choice \
               (task, schedule, seconds, default_seconds, at, finished) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let Choice { schedule, seconds, default_seconds, at, finished } = choice;
    let row = params![task, schedule.to_string(), seconds, default_seconds, at, finished];
    transaction.prepare(sql)?.execute(row).map(|_| ())
}

/// The start of a text, at most so many bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Whether reading needs a transaction to be undone first.
fn is_half_written(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    code == Some(rusqlite::ffi::SQLITE_READONLY_ROLLBACK)
}

/// What an error of SQLite means to a user.
fn fault(path: &Path, error: rusqlite::Error) -> StoreError {
    use rusqlite::Error;
    let path = path.to_path_buf();
    let reason = error.to_string();
    match (error.sqlite_error_code(), error) {
        (Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked), _) => StoreError::Busy { path },
        (Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::TooBig), _)
        | (
            _,
            Error::FromSqlConversionFailure(..)
            | Error::InvalidColumnType(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..),
        ) => StoreError::Damaged { path, reason },
        _ => StoreError::Failed { path, reason },
    }
}
