//! Sessions of one model share what was made of it: weights, packed or not, and programs.
//!
//! Whoever builds a second session of the same file or bytes, in the same way, while the first one
//! lives, gets the first one's graph and programs with plans and memories of its own: nothing is
//! imported, optimised or packed again. A model that was imported or built by the caller is not
//! looked for: to compare graphs would take as long as to compile them.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use hetra_device::{HostThreads, ScheduleTable};
use hetra_tensor::Blob;

use crate::session::Inner;

/// Most sessions that are remembered; the oldest goes first.
const ENTRIES_MAX: usize = 32;

/// A file that was written so short a time ago may be written again with the same time on it.
const SETTLED: Duration = Duration::from_secs(2);

/// What a session was made of.
#[derive(Clone, PartialEq)]
pub(crate) struct Recipe {
    pub(crate) device: String,
    /// Its address, where the caller gave it; a session keeps it alive.
    pub(crate) given: Option<usize>,
    pub(crate) threads: HostThreads,
    pub(crate) schedules: ScheduleTable,
    pub(crate) passes_off: BTreeSet<String>,
    pub(crate) fix_defaults: bool,
    pub(crate) bf16: bool,
    pub(crate) quantisable: bool,
}

/// The model of a session.
#[derive(Clone)]
pub(crate) enum Origin {
    /// The file, and those of external data.
    Files(Vec<(PathBuf, Identity)>),
    Bytes(Blob),
}

/// What tells a file from another one, or from itself before it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Identity {
    len: u64,
    modified: SystemTime,
    /// The device and the number of a file on it, where there are such.
    place: Option<(u64, u64)>,
}

impl Identity {
    fn of(path: &Path) -> Option<Identity> {
        let meta = std::fs::metadata(path).ok()?;
        let (len, modified) = (meta.len(), meta.modified().ok()?);
        Some(Identity { len, modified, place: place(&meta) })
    }

    /// Whether a later write would show.
    fn is_settled(&self) -> bool {
        self.modified.elapsed().is_ok_and(|age| age > SETTLED)
    }
}

#[cfg(unix)]
fn place(meta: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((meta.dev(), meta.ino()))
}

#[cfg(not(unix))]
fn place(_: &Metadata) -> Option<(u64, u64)> {
    None
}

impl Origin {
    /// A model's file as it is now, before it is read; `None` where it cannot be told from what it
    /// may be in a moment.
    pub(crate) fn file(path: &Path) -> Option<Origin> {
        Some(Origin::Files(vec![identified(path)?]))
    }

    /// The same with the files of external data that were read.
    pub(crate) fn with_data(mut self, paths: &[PathBuf]) -> Option<Origin> {
        if let Origin::Files(files) = &mut self {
            for path in paths {
                files.push(identified(path)?);
            }
        }
        Some(self)
    }

    /// Whether a session of `self` is one of what is asked for. Of the files of `wanted` the first
    /// is known; the others are found by reading it.
    fn serves(&self, wanted: &Origin) -> bool {
        match (self, wanted) {
            (Origin::Files(all), Origin::Files(wanted)) => {
                let same = |(path, identity): &(PathBuf, Identity)| {
                    Identity::of(path).as_ref() == Some(identity)
                };
                all.first() == wanted.first() && all.iter().all(same)
            }
            (Origin::Bytes(a), Origin::Bytes(b)) => a.bytes() == b.bytes(),
            _ => false,
        }
    }
}

fn identified(path: &Path) -> Option<(PathBuf, Identity)> {
    let path = path.canonicalize().ok()?;
    let identity = Identity::of(&path).filter(Identity::is_settled)?;
    Some((path, identity))
}

/// A session that others may share.
struct Entry {
    origin: Origin,
    recipe: Recipe,
    session: Weak<Inner>,
}

static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

fn entries() -> MutexGuard<'static, Vec<Entry>> {
    let mut entries = ENTRIES.lock().unwrap_or_else(PoisonError::into_inner);
    entries.retain(|entry| entry.session.strong_count() > 0);
    entries
}

/// Lets go of what is kept of sessions that are no more.
pub(crate) fn forget() {
    drop(entries());
}

/// A living session of this model that was made in this way.
pub(crate) fn find(origin: &Origin, recipe: &Recipe) -> Option<Arc<Inner>> {
    let entries = entries();
    let fits = |entry: &&Entry| entry.recipe == *recipe && entry.origin.serves(origin);
    entries.iter().find(fits)?.session.upgrade()
}

/// Lets others share a session while it lives.
pub(crate) fn offer(origin: Origin, recipe: Recipe, session: &Arc<Inner>) {
    let mut entries = entries();
    if entries.len() >= ENTRIES_MAX {
        entries.remove(0);
    }
    entries.push(Entry { origin, recipe, session: Arc::downgrade(session) });
}
