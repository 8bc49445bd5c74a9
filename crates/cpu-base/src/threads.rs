//! The worker threads of the process, and how work is split over them.
//!
//! A call of [`for_each`] is a fork and a join: the caller takes tasks itself, and idle workers
//! that it finds take some of them off it. Nobody waits for a worker that has not begun: what was
//! offered to it is withdrawn. A worker that has nothing to do looks for work for [`SPIN`], as the
//! next task of a model mostly comes within microseconds, and then sleeps.
//!
//! All callers share the workers, and get some only as far as the threads of all of them are fewer
//! than the processors (or than the caller asked for): with two sessions at work on two processors,
//! neither gets a worker.
//!
//! A caller may ask that threads stay on their processors ([`with_pinned`]): then workers are
//! bound, for good, and the caller is as long as it is inside.
//!
//! What a fork costs, and how that compares with rayon, is in docs/ARCHITECTURE.md.

use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::pin;

/// Most threads of one call, the caller among them.
pub const THREADS_MAX: usize = 1024;

/// How long an idle worker looks for work before it sleeps.
const SPIN: Duration = Duration::from_micros(300);

/// How long of that it keeps the processor. Then it yields between looks: it may stand in the way
/// of the caller itself, where the system has put both on one processor.
const HARD_SPIN: Duration = Duration::from_micros(10);

/// Looks between two readings of the clock.
const LOOKS: usize = 32;

/// Most parts that the tasks of a call are cut into.
const SHARES_MAX: usize = 16;

/// Neighbouring tasks that nobody has taken: the first one, and the one past the last one in the
/// upper half. On a line of its own, which others write only when they have none of their own left.
#[repr(align(64))]
struct Share(AtomicU64);

impl Share {
    fn new(tasks: Range<usize>) -> Share {
        Share(AtomicU64::new((tasks.end as u64) << 32 | tasks.start as u64))
    }

    /// Takes the first task or, for another thread, the last one: its owner goes on with what it
    /// has near.
    fn take(&self, first: bool) -> Option<usize> {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |range| {
            let (start, end) = (range & u64::from(u32::MAX), range >> 32);
            let left = |start: u64, end: u64| Some(end << 32 | start);
            match first {
                _ if start >= end => None,
                true => left(start + 1, end),
                false => left(start, end - 1),
            }
        });
        let range = taken.ok()?;
        Some(if first { range & u64::from(u32::MAX) } else { (range >> 32) - 1 } as usize)
    }
}

/// The tasks of one call, on the stack of its caller.
struct Job<'a> {
    body: &'a (dyn Fn(usize) + Sync),
    /// A thread begins with the share of its number: in each call with the same part of the work,
    /// as far as there are as many, so that it finds in its caches what it wrote in the last one.
    shares: [Share; SHARES_MAX],
    /// Shares that have tasks in the beginning.
    count: usize,
    /// Workers that it is offered to and that have not finished.
    open: AtomicUsize,
    /// A bit for each worker that was offered the job: set before it can take it.
    offered: [AtomicU64; THREADS_MAX / 64],
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl<'a> Job<'a> {
    /// The caller has made sure that `tasks` fits into 32 bits.
    fn new(body: &'a (dyn Fn(usize) + Sync), tasks: usize, threads: usize) -> Job<'a> {
        let count = threads.clamp(1, SHARES_MAX);
        let cut = |i: usize| tasks * i.min(count) / count;
        let shares = std::array::from_fn(|i| Share::new(cut(i)..cut(i + 1)));
        let offered = [const { AtomicU64::new(0) }; THREADS_MAX / 64];
        Job { body, shares, count, open: AtomicUsize::new(0), offered, panic: Mutex::new(None) }
    }

    /// The number of a worker among those that were offered the job, from 1 on: the caller is 0.
    /// Workers are asked in order, so that it is settled when one of them takes the offer.
    fn number(&self, index: usize) -> usize {
        let bits = |word: usize| self.offered[word].load(Ordering::Relaxed);
        let before: u32 = (0..index / 64).map(|word| bits(word).count_ones()).sum();
        let below = bits(index / 64) & ((1u64 << (index % 64)) - 1);
        1 + (before + below.count_ones()) as usize
    }

    /// Takes tasks until there are none left; `own` is the number of the thread.
    fn work(&self, own: usize) {
        let run = || {
            for turn in 0..self.count {
                let share = &self.shares[(own + turn) % self.count];
                while let Some(task) = share.take(turn == 0) {
                    (self.body)(task);
                }
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            // The others stop; the caller panics in turn.
            self.shares.iter().for_each(|share| share.0.store(0, Ordering::Relaxed));
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            // To drop a payload may panic in turn, and nothing may unwind from here: the others
            // hold the job.
            match &*first {
                None => *first = Some(panic),
                Some(_) => std::mem::forget(panic),
            }
        }
    }
}

/// A worker, as callers see it. `offer` is null while it looks for work, [`asleep`], [`busy`], or
/// the job that it is offered.
struct Worker {
    offer: AtomicPtr<Job<'static>>,
    thread: Thread,
}

fn asleep() -> *mut Job<'static> {
    ptr::without_provenance_mut(1)
}

fn busy() -> *mut Job<'static> {
    ptr::without_provenance_mut(2)
}

impl Worker {
    /// Offers a job, and tells whether the worker was idle.
    fn offer(&self, job: *mut Job<'static>) -> bool {
        // Twice, as it may fall asleep in between.
        for _ in 0..2 {
            let old = self.offer.load(Ordering::Relaxed);
            if !old.is_null() && old != asleep() {
                return false;
            }
            let done = self.offer.compare_exchange(old, job, Ordering::AcqRel, Ordering::Relaxed);
            if done.is_ok() {
                if old == asleep() {
                    self.thread.unpark();
                }
                return true;
            }
        }
        false
    }

    /// Takes an offer back, unless the worker has taken it.
    fn withdraw(&self, job: *mut Job<'static>) -> bool {
        let none = ptr::null_mut();
        self.offer.compare_exchange(job, none, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn run(&self, index: usize) {
        IN_TASK.set(true);
        let mut idle_since = Instant::now();
        let mut looks = 0usize;
        let mut bound = false;
        loop {
            let offer = self.offer.load(Ordering::Relaxed);
            if offer == asleep() {
                std::thread::park();
                idle_since = Instant::now();
                continue;
            }
            if offer.is_null() {
                looks += 1;
                std::hint::spin_loop();
                if looks.is_multiple_of(LOOKS) {
                    self.pause(idle_since.elapsed());
                }
                continue;
            }
            let taken =
                self.offer.compare_exchange(offer, busy(), Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_ok() {
                RUNNING.fetch_add(1, Ordering::Relaxed);
                if !bound && PINNED.load(Ordering::Relaxed) {
                    pin::bind_worker(index);
                    bound = true;
                }
                // SAFETY: the caller that made the job keeps it until `open` is 0, which counts
                // this worker: only what was not taken is withdrawn. The reference ends before
                // the count goes down.
                let job = unsafe { &*offer };
                job.work(job.number(index));
                RUNNING.fetch_sub(1, Ordering::Relaxed);
                // Before its caller goes on, which mostly has the next job at once.
                self.offer.store(ptr::null_mut(), Ordering::Release);
                // SAFETY: as above; the last use of the job.
                unsafe { &(*offer).open }.fetch_sub(1, Ordering::Release);
                idle_since = Instant::now();
            }
        }
    }

    /// Lets others run, or goes to sleep, after so long without work.
    fn pause(&self, idle: Duration) {
        if idle > SPIN {
            let (none, asleep) = (ptr::null_mut(), asleep());
            // An offer that came meanwhile is found in the next look.
            let _ = self.offer.compare_exchange(none, asleep, Ordering::AcqRel, Ordering::Relaxed);
        } else if idle > HARD_SPIN {
            std::thread::yield_now();
        }
    }
}

/// The workers, in the order of their making; there are never fewer.
static WORKERS: [OnceLock<Option<Worker>>; THREADS_MAX] = [const { OnceLock::new() }; THREADS_MAX];

/// Threads that run kernels: callers inside [`with`], and workers at work.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Whether a caller has asked for threads that stay on their processors.
static PINNED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Threads that calls of this one may use; 0 where nothing is said.
    static LIMIT: Cell<usize> = const { Cell::new(0) };
    /// Whether a task runs on this thread: what it calls stays on it.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is a task of a [`for_each`]: what is within runs on this thread.
pub fn in_task() -> bool {
    IN_TASK.get()
}

/// The worker of this number, which is started when it is first asked for; `None` when the system
/// gave no thread.
fn worker(index: usize) -> Option<&'static Worker> {
    let start = || {
        let name = format!("hetra-cpu-{}", index + 1);
        let run = move || {
            // `get` is set right after the thread is made.
            let me = loop {
                match WORKERS[index].get() {
                    Some(me) => break me.as_ref(),
                    None => std::thread::yield_now(),
                }
            };
            if let Some(me) = me {
                me.run(index);
            }
        };
        let handle = std::thread::Builder::new().name(name).spawn(run).ok()?;
        Some(Worker { offer: AtomicPtr::new(ptr::null_mut()), thread: handle.thread().clone() })
    };
    WORKERS[index].get_or_init(start).as_ref()
}

/// Processors that this process may use.
pub fn processors() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, |count| count.get()))
}

/// Threads that a call from here may use.
pub fn threads() -> usize {
    match LIMIT.get() {
        0 => processors().min(THREADS_MAX),
        limit => limit,
    }
}

/// Runs `work`, whose calls may use `limit` threads, this one among them.
pub fn with<R>(limit: usize, work: impl FnOnce() -> R) -> R {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            LIMIT.set(self.0);
            RUNNING.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let limit = limit.clamp(1, THREADS_MAX);
    let running = RUNNING.fetch_add(1, Ordering::Relaxed) + 1;
    let _restore = Restore(LIMIT.replace(limit));
    // Those that sleep take a while to come; the first kernel finds them awake.
    for index in 0..helpers(limit, running) {
        if let Some(worker) = worker(index)
            && worker.withdraw(asleep())
        {
            worker.thread.unpark();
        }
    }
    work()
}

/// As [`with`], on threads that stay on their processors: this one for the time of the call, on one
/// that no other such caller has, workers from now on, each on one of its own. Where the system
/// does not allow it, they run where it puts them; [`pin::check`] tells.
pub fn with_pinned<R>(limit: usize, work: impl FnOnce() -> R) -> R {
    // Before this thread is bound: a bound thread sees one processor.
    let _ = processors();
    PINNED.store(true, Ordering::Relaxed);
    let _bound = pin::bind_caller();
    with(limit, work)
}

/// How many workers a caller may have beside itself.
fn helpers(limit: usize, running: usize) -> usize {
    (limit - 1).min(processors().max(limit).saturating_sub(running))
}

/// Runs `f(i)` for each `i < n`, in parallel if `parallel` holds and there is more than one.
///
/// # Panics
/// When a task does, after all have ended.
pub fn for_each(n: usize, parallel: bool, f: impl Fn(usize) + Sync + Send) {
    let limit = threads();
    if !parallel || n < 2 || limit < 2 || IN_TASK.get() || u32::try_from(n).is_err() {
        return (0..n).for_each(f);
    }
    let running = RUNNING.load(Ordering::Relaxed).max(1);
    match helpers(limit, running).min(n - 1) {
        0 => (0..n).for_each(f),
        helpers => fork(n, helpers, &f),
    }
}

fn fork(tasks: usize, helpers: usize, body: &(dyn Fn(usize) + Sync)) {
    let job = Job::new(body, tasks, helpers + 1);
    let shared = ptr::from_ref(&job).cast_mut().cast::<Job<'static>>();
    let mut left = helpers;
    for (index, slot) in WORKERS.iter().enumerate() {
        // Past those that it may have itself there are others' workers.
        if left == 0 || (index >= helpers && slot.get().is_none()) {
            break;
        }
        let Some(worker) = worker(index) else { break };
        job.open.fetch_add(1, Ordering::Relaxed);
        let (word, bit) = (&job.offered[index / 64], 1u64 << (index % 64));
        word.fetch_or(bit, Ordering::Relaxed);
        if worker.offer(shared) {
            left -= 1;
        } else {
            word.fetch_and(!bit, Ordering::Relaxed);
            job.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
    IN_TASK.set(true);
    job.work(0);
    IN_TASK.set(false);
    for (word, bits) in job.offered.iter().enumerate() {
        let mut bits = bits.load(Ordering::Relaxed);
        while bits != 0 {
            let index = word * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            if worker(index).is_some_and(|worker| worker.withdraw(shared)) {
                job.open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
    let mut looks = 0usize;
    while job.open.load(Ordering::Acquire) != 0 {
        looks += 1;
        std::hint::spin_loop();
        // On a crowded machine the worker may wait for this thread's processor.
        if looks.is_multiple_of(LOOKS) {
            std::thread::yield_now();
        }
    }
    if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
}

/// Runs `f(start, len)` over `0..n` cut into pieces of about `grain`.
pub fn for_ranges(n: usize, grain: usize, f: impl Fn(usize, usize) + Sync + Send) {
    let grain = grain.max(1);
    for_each(n.div_ceil(grain), true, |i| {
        let start = i * grain;
        f(start, grain.min(n - start));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn sum(n: usize) -> usize {
        let sum = AtomicUsize::new(0);
        for_each(n, true, |i| {
            sum.fetch_add(i + 1, Ordering::Relaxed);
        });
        sum.into_inner()
    }

    #[test]
    fn every_task_runs_once_whoever_calls() {
        let call = |seed: usize| {
            with(1 + seed % 4, || {
                for n in 0..400 {
                    assert_eq!(sum(n), n * (n + 1) / 2);
                    if n % 100 == seed {
                        // Long enough for workers to sleep.
                        std::thread::sleep(SPIN * 3);
                    }
                }
            });
        };
        std::thread::scope(|scope| {
            for seed in 0..6 {
                scope.spawn(move || call(seed));
            }
        });
    }

    #[test]
    fn a_call_uses_as_many_threads_as_it_may() {
        let used = |limit: usize| {
            let ids = Mutex::new(HashSet::new());
            let task = |_| {
                ids.lock().unwrap().insert(std::thread::current().id());
                std::thread::sleep(Duration::from_millis(2));
            };
            with(limit, || for_each(16, true, task));
            ids.into_inner().unwrap().len()
        };
        assert_eq!(used(1), 1);
        // Others' calls may hold the workers.
        assert!((1..=3).contains(&used(3)));
        assert!((0..200).any(|_| used(2) == 2), "no worker ever came");
    }

    #[test]
    fn tasks_of_tasks_stay_on_their_thread() {
        with(4, || {
            for_each(8, true, |_| {
                let here = std::thread::current().id();
                for_each(8, true, |_| assert_eq!(std::thread::current().id(), here));
            });
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_workers_live_on() {
        for at in 0..20 {
            let run = || with(3, || for_each(20, true, |i| assert_ne!(i, at, "task {i}")));
            assert!(catch_unwind(run).is_err());
            assert_eq!(with(3, || sum(50)), 1275);
        }
        assert_eq!(LIMIT.get(), 0);
    }

    #[test]
    fn panics_of_several_threads_whose_payloads_panic_too() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let both = || {
            let begun = AtomicUsize::new(0);
            let run = |_| {
                begun.fetch_add(1, Ordering::Relaxed);
                let start = Instant::now();
                while begun.load(Ordering::Relaxed) < 2 && start.elapsed() < SPIN {
                    std::thread::yield_now();
                }
                std::panic::panic_any(Bomb);
            };
            // With room for a worker beside other tests' threads.
            let caught = catch_unwind(AssertUnwindSafe(|| with(16, || for_each(2, true, run))));
            assert!(caught.is_err_and(|bomb| {
                let is_bomb = bomb.is::<Bomb>();
                std::mem::forget(bomb);
                is_bomb
            }));
            begun.into_inner() == 2
        };
        assert!((0..1000).filter(|_| both()).nth(4).is_some(), "no worker ever came");
        assert_eq!(with(2, || sum(50)), 1275);
    }

    /// Not an assertion on time: `HETRA_BENCH=1 cargo test --release fork_speed -- --nocapture`.
    #[test]
    fn fork_speed() {
        if std::env::var("HETRA_BENCH").is_err() {
            return;
        }
        let spin = |length: Duration| {
            let start = Instant::now();
            while start.elapsed() < length {
                std::hint::spin_loop();
            }
        };
        for (micros, pause) in
            [(0, 0), (1, 0), (2, 0), (5, 0), (20, 0), (5, 20), (5, 200), (5, 1000)]
        {
            let (task, pause) = (Duration::from_micros(micros), Duration::from_micros(pause));
            let mut times: Vec<Duration> = with(2, || {
                let run = |_| {
                    spin(pause);
                    let start = Instant::now();
                    for_each(2, true, |_| spin(task));
                    start.elapsed()
                };
                (0..2000).map(run).collect()
            });
            times.sort_unstable();
            let (median, most) = (times[1000], times[1900]);
            #[expect(clippy::print_stdout, reason = "a measurement for a person")]
            {
                println!("2 tasks of {task:?} after {pause:?}: median {median:?}, p95 {most:?}");
            }
        }
    }
}
