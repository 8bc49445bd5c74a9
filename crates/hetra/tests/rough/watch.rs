//! Runs what may panic or hang: a panic becomes a text with its place, a hang ends the process
//! and leaves the culprit in a file.

#![allow(clippy::print_stderr, reason = "the last words before the process ends")]

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Longest that one piece of work may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Messages of panics and where they were raised, the newest last.
static PLACES: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
/// Most of them that are kept.
const PLACES_MAX: usize = 256;

thread_local! {
    /// Whether what this thread does is watched: its panics are reported, not told.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a thread is at: since when, and what leads there again.
type Task = Option<(Instant, Vec<u8>)>;

/// Watches one thread.
pub(crate) struct Watch {
    task: Arc<Mutex<Task>>,
}

impl Watch {
    /// Watches from now on; `name` is that of the file of a culprit.
    pub(crate) fn new(name: &'static str) -> Watch {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                let place = info.location().map_or(String::new(), ToString::to_string);
                let mut places = lock(&PLACES);
                if places.len() < PLACES_MAX {
                    places.push((text_of(info.payload()), place));
                }
                drop(places);
                // A failed assertion of the test itself is told as always.
                let ours = |name: &str| name.starts_with("hetra");
                if !WATCHED.get() && !thread::current().name().is_some_and(ours) {
                    usual(info);
                }
            }));
        });
        let task: Arc<Mutex<Task>> = Arc::default();
        let watched = Arc::downgrade(&task);
        thread::spawn(move || {
            while let Some(task) = watched.upgrade() {
                if let Some((since, culprit)) = &*lock(&task)
                    && since.elapsed() > LIMIT
                {
                    let path = save(name, culprit);
                    eprintln!("not done after {LIMIT:?}: see {}", path.display());
                    std::process::abort();
                }
                drop(task);
                thread::sleep(Duration::from_millis(100));
            }
        });
        Watch { task }
    }

    /// Runs something that `culprit` leads to again.
    ///
    /// # Errors
    /// The message of a panic, and where it was raised.
    pub(crate) fn run<T>(&self, culprit: Vec<u8>, work: impl FnOnce() -> T) -> Result<T, String> {
        *lock(&self.task) = Some((Instant::now(), culprit));
        WATCHED.set(true);
        let result = catch_unwind(AssertUnwindSafe(work));
        WATCHED.set(false);
        *lock(&self.task) = None;
        result.map_err(|payload| {
            let message = text_of(&*payload);
            let mut places = lock(&PLACES);
            let found = places.iter().rposition(|(said, _)| *said == message);
            let place = found.map_or(String::new(), |index| places.remove(index).1);
            format!("{place}: {message}")
        })
    }
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_string()
}

/// Writes bytes in hexadecimal into the target folder.
pub(crate) fn save(name: &str, bytes: &[u8]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.hex"));
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if let Err(error) = std::fs::write(&path, digits) {
        eprintln!("{}: {error}", path.display());
    }
    path
}
