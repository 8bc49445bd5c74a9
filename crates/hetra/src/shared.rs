//! Sessions of one model share what was made of it: weights, packed or not, and programs.
//!
//! Whoever builds a second session of the same file or bytes, in the same way, while the first one
//! lives, gets the first one's graph and programs with plans and memories of its own: nothing is
//! imported, optimised or packed again. Not so a model with files of external data beside it. A
//! model that was imported or built by the caller is not looked for: to compare graphs would take
//! as long as to compile them.

use std::collections::BTreeSet;
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
/// The same of the time of the last change, which the system's own clock gives: longer than it
/// takes to tick.
const TICK: Duration = Duration::from_millis(100);

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
    /// A file that holds all of it.
    File(PathBuf, Identity),
    Bytes(Blob),
}

/// What tells a file from another one, or from itself before it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Identity {
    len: u64,
    modified: SystemTime,
    /// The device, the number of the file on it, and when either of its content, name or owner
    /// changed: unlike the time of writing, nobody sets that one.
    place: (u64, u64, i64, i64),
}

impl Identity {
    #[cfg(unix)]
    fn of(path: &Path) -> Option<Identity> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(path).ok()?;
        let place = (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec());
        Some(Identity { len: meta.len(), modified: meta.modified().ok()?, place })
    }

    /// Nothing tells files apart for sure.
    #[cfg(not(unix))]
    fn of(_: &Path) -> Option<Identity> {
        None
    }

    /// Whether a later write would show.
    fn is_settled(&self) -> bool {
        let (_, _, seconds, nanos) = self.place;
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u32::try_from(nanos)) else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
        let older = |time: SystemTime, than| time.elapsed().is_ok_and(|age| age > than);
        older(self.modified, SETTLED) && changed.is_some_and(|changed| older(changed, TICK))
    }
}

impl Origin {
    /// A model's file as it is now, before it is read; `None` where it cannot be told from what it
    /// may be in a moment.
    pub(crate) fn file(path: &Path) -> Option<Origin> {
        let path = path.canonicalize().ok()?;
        let identity = Identity::of(&path).filter(Identity::is_settled)?;
        Some(Origin::File(path, identity))
    }

    /// The same, unless the model has files beside it: which these are depends on the links that
    /// led to the model, and they may be replaced while it is read.
    pub(crate) fn alone(self, data_files: &[PathBuf]) -> Option<Origin> {
        Some(self).filter(|_| data_files.is_empty())
    }

    /// Whether a session of `self` is one of what is asked for, which was just looked at.
    fn serves(&self, wanted: &Origin) -> bool {
        match (self, wanted) {
            (Origin::File(path, identity), Origin::File(asked, now)) => {
                path == asked && identity == now
            }
            (Origin::Bytes(a), Origin::Bytes(b)) => a.bytes() == b.bytes(),
            _ => false,
        }
    }
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

/// A living session of this model that was made in this way, and what it was found by: whoever
/// shares it keeps that, and not its own bytes of the model.
pub(crate) fn find(origin: &Origin, recipe: &Recipe) -> Option<(Arc<Inner>, Origin)> {
    let entries = entries();
    let fits = |entry: &&Entry| entry.recipe == *recipe && entry.origin.serves(origin);
    let entry = entries.iter().find(fits)?;
    Some((entry.session.upgrade()?, entry.origin.clone()))
}

/// Lets others share a session while it lives.
pub(crate) fn offer(origin: Origin, recipe: Recipe, session: &Arc<Inner>) {
    let mut entries = entries();
    if entries.len() >= ENTRIES_MAX {
        entries.remove(0);
    }
    entries.push(Entry { origin, recipe, session: Arc::downgrade(session) });
}
