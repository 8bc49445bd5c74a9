//! The tables of the store, and how an older file becomes a newer one.

use rusqlite::{Connection, Transaction};

/// The form that this code reads and writes: how many of [`STEPS`] a file has seen.
pub(super) const VERSION: i64 = STEPS.len() as i64;

/// Marks a file as ours ("HTRA"), so that another program's database is never touched.
const APPLICATION: i64 = 0x4854_5241;

/// What makes each form from the one before. A step that was released is never edited: a new form
/// is a new step.
pub(super) const STEPS: [&str; 3] = [
    "
    CREATE TABLE device (
        id INTEGER PRIMARY KEY,
        device TEXT NOT NULL,
        driver TEXT NOT NULL,
        version TEXT NOT NULL,
        UNIQUE (device, driver, version)
    ) STRICT;
    CREATE TABLE task (
        id INTEGER PRIMARY KEY,
        device INTEGER NOT NULL REFERENCES device (id),
        key TEXT NOT NULL,
        features TEXT NOT NULL,
        UNIQUE (device, key)
    ) STRICT;
    CREATE TABLE measured (
        task INTEGER NOT NULL REFERENCES task (id),
        schedule TEXT NOT NULL,
        seconds REAL,
        error TEXT,
        spread REAL NOT NULL,
        samples INTEGER NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (task, schedule)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX measured_at ON measured (at);
    CREATE TABLE choice (
        task INTEGER PRIMARY KEY REFERENCES task (id),
        schedule TEXT NOT NULL,
        seconds REAL NOT NULL,
        default_seconds REAL NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
",
    "
    ALTER TABLE choice ADD COLUMN finished INTEGER NOT NULL DEFAULT 1;
",
    "
    CREATE TABLE cost (
        device INTEGER NOT NULL REFERENCES device (id),
        part TEXT NOT NULL,
        kernels TEXT NOT NULL,
        seconds REAL NOT NULL,
        spread REAL NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (device, part)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX cost_at ON cost (at);
",
];

/// What a file is, after [`migrate`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Of the newest form.
    Ready,
    /// Of a form that is not known here.
    Newer(i64),
    /// Not ours.
    Foreign,
}

/// [`stamps`] and [`is_empty`], as they were at one time.
pub(super) fn look(connection: &Connection) -> rusqlite::Result<(bool, i64, bool)> {
    let transaction = connection.unchecked_transaction()?;
    let (ours, version) = stamps(&transaction)?;
    Ok((ours, version, is_empty(&transaction)?))
}

/// Whether a file says that it is ours, and its form; 0 for one without tables.
pub(super) fn stamps(connection: &Connection) -> rusqlite::Result<(bool, i64)> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok((pragma("application_id")? == APPLICATION, pragma("user_version")?))
}

/// Whether a file has no tables.
pub(super) fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

/// Takes the steps that a file has not seen. It is all in one transaction: a step that fails
/// leaves the file as it was.
pub(super) fn migrate(transaction: &Transaction<'_>, steps: &[&str]) -> rusqlite::Result<State> {
    let (ours, version) = stamps(transaction)?;
    let fresh = version == 0 && is_empty(transaction)?;
    if !ours && !fresh {
        return Ok(State::Foreign);
    }
    let newest = steps.len() as i64;
    let Some(rest) = usize::try_from(version).ok().and_then(|seen| steps.get(seen..)) else {
        return Ok(State::Newer(version));
    };
    if rest.is_empty() {
        return Ok(State::Ready);
    }
    for step in rest {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", newest)?;
    Ok(State::Ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Migrates and returns the state and the form after it.
    fn check(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<(State, i64)> {
        let transaction = connection.transaction()?;
        let state = migrate(&transaction, steps)?;
        transaction.commit()?;
        Ok((state, stamps(connection)?.1))
    }

    #[test]
    fn a_file_takes_the_steps_that_it_has_not_seen() {
        let mut file = Connection::open_in_memory().unwrap();
        let steps = ["CREATE TABLE a (x)", "INSERT INTO a VALUES (1)", "ALTER TABLE a ADD y"];
        assert_eq!(check(&mut file, &steps[..1]).unwrap(), (State::Ready, 1));
        assert_eq!(check(&mut file, &steps).unwrap(), (State::Ready, 3));
        assert_eq!(check(&mut file, &steps).unwrap(), (State::Ready, 3));
        let count: i64 =
            file.query_row("SELECT count(y IS NULL) FROM a", [], |r| r.get(0)).unwrap();
        assert_eq!(count, 1);
        // One that has seen more is left alone.
        assert_eq!(check(&mut file, &steps[..2]).unwrap(), (State::Newer(3), 3));
    }

    #[test]
    fn a_step_that_fails_leaves_the_file_as_it_was() {
        let mut file = Connection::open_in_memory().unwrap();
        assert!(check(&mut file, &["CREATE TABLE a (x)", "no SQL"]).is_err());
        assert_eq!(stamps(&file).unwrap(), (false, 0));
        assert!(is_empty(&file).unwrap());
    }

    #[test]
    fn what_is_not_ours_is_not_touched() {
        let mut file = Connection::open_in_memory().unwrap();
        file.execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert_eq!(check(&mut file, &["CREATE TABLE a (x)"]).unwrap(), (State::Foreign, 0));
        file.pragma_update(None, "user_version", 1).unwrap();
        assert_eq!(check(&mut file, &["CREATE TABLE a (x)"]).unwrap(), (State::Foreign, 1));
    }
}
