//! Threads that stay on their processors, where the system can do that (Linux).
//!
//! Of the processors that this process may use, the first is for a caller, and those behind it are
//! for the workers in order. A second caller at the same time takes the last, as its worker is the
//! one that is least used, a third the one before that. So two pinned callers never share one.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::threads::THREADS_MAX;

thread_local! {
    /// Whether this thread is bound already.
    static BOUND: Cell<bool> = const { Cell::new(false) };
}

/// Places of processors that callers have.
static TAKEN: [AtomicBool; THREADS_MAX] = [const { AtomicBool::new(false) }; THREADS_MAX];

/// Whether threads can be bound here.
///
/// # Errors
/// Why not.
pub fn check() -> Result<(), String> {
    system::check()
}

/// Binds the worker of this number.
pub(crate) fn bind_worker(index: usize) {
    let all = system::places();
    if all > 0 {
        system::bind((index + 1) % all);
    }
}

/// A thread that is bound until this is dropped, by the same thread.
pub(crate) struct Bound {
    place: Option<usize>,
    /// Where the thread could run before.
    before: system::Affinity,
    here: PhantomData<*const ()>,
}

/// Binds this thread to a processor that no other caller has; does nothing to one that is bound.
pub(crate) fn bind_caller() -> Bound {
    let free = |place: &usize| !TAKEN[*place].swap(true, Ordering::Relaxed);
    let all = system::places().min(THREADS_MAX);
    let place = match BOUND.get() {
        true => None,
        false => std::iter::once(0).chain((1..all).rev()).filter(|place| *place < all).find(free),
    };
    let before = system::affinity();
    if let Some(place) = place {
        BOUND.set(true);
        system::bind(place);
    }
    Bound { place, before, here: PhantomData }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            system::restore(&self.before);
            BOUND.set(false);
            TAKEN[place].store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::sync::OnceLock;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// The processors that the main thread may use, as they were when this was first asked for: a
    /// caller may itself be bound to fewer.
    fn usable() -> &'static [usize] {
        static USABLE: OnceLock<Vec<usize>> = OnceLock::new();
        USABLE.get_or_init(|| {
            let main = Some(rustix::process::getpid());
            let set = sched_getaffinity(main).or_else(|_| sched_getaffinity(None));
            let set = set.unwrap_or_else(|_| CpuSet::new());
            (0..CpuSet::MAX_CPU).filter(|&processor| set.is_set(processor)).collect()
        })
    }

    pub(super) fn places() -> usize {
        usable().len()
    }

    /// Binds this thread; where the system refuses, it stays as it is.
    pub(super) fn bind(place: usize) {
        let mut set = CpuSet::new();
        set.set(usable()[place]);
        let _ = sched_setaffinity(None, &set);
    }

    /// Processors that a thread may use; `None` where the system does not tell.
    pub(super) type Affinity = Option<CpuSet>;

    /// That of this thread.
    pub(super) fn affinity() -> Affinity {
        sched_getaffinity(None).ok()
    }

    pub(super) fn restore(before: &Affinity) {
        if let Some(set) = before {
            let _ = sched_setaffinity(None, set);
        }
    }

    /// Sets what is set already: refused where a thread may not be bound.
    pub(super) fn check() -> Result<(), String> {
        let set = sched_getaffinity(None).map_err(|error| error.to_string())?;
        sched_setaffinity(None, &set).map_err(|error| error.to_string())
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) fn places() -> usize {
        0
    }

    pub(super) fn bind(_: usize) {}

    pub(super) type Affinity = ();

    pub(super) fn affinity() -> Affinity {}

    pub(super) fn restore(_: &Affinity) {}

    pub(super) fn check() -> Result<(), String> {
        Err("this system binds no threads".to_string())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::thread::sched_getaffinity;

    use crate::threads::{for_each, processors, with_pinned};

    fn width() -> usize {
        sched_getaffinity(None).map_or(0, |set| set.count() as usize)
    }

    #[test]
    fn threads_are_bound_inside_and_the_caller_is_free_behind() {
        let all = processors();
        super::check().unwrap();
        let free = width();
        with_pinned(all, || {
            assert_eq!(width(), 1);
            for_each(64, true, |_| assert_eq!(width(), 1));
            // A run within a run, as bodies are.
            with_pinned(all, || assert_eq!(width(), 1));
            assert_eq!(width(), 1);
        });
        assert_eq!(width(), free);
    }

    #[test]
    fn callers_at_one_time_have_processors_of_their_own_while_there_are_some() {
        let both = std::sync::Barrier::new(2);
        let call = || {
            with_pinned(1, || {
                both.wait();
                let mine = sched_getaffinity(None).unwrap();
                both.wait();
                (0..rustix::thread::CpuSet::MAX_CPU).filter(|&i| mine.is_set(i)).collect::<Vec<_>>()
            })
        };
        let found = std::thread::scope(|scope| {
            let other = scope.spawn(call);
            [call(), other.join().unwrap()]
        });
        // The other test may hold one of them.
        if processors() > 2 {
            assert_ne!(found[0], found[1]);
        }
    }
}
