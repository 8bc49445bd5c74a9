//! How many runs of a session go on at one time, and the threads of those in the background.
//!
//! Runs share the threads of the device, where one may be taken up while another waits for its
//! parts: each run more is a deeper stack and another set of intermediate values. So both are
//! bounded: [`Gate`] lets so many runs in, and [`Workers`] are as many threads with one queue.

use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Error;

/// Most runs of a session at one time, unless the builder says otherwise.
pub(crate) const RUNS_MAX: usize = 8;

/// Most runs in the background that wait for a thread: each holds its inputs.
const QUEUE_MAX: usize = 256;

/// Counts and queues stay whole through a panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets a number of runs in at one time; the others wait.
pub(crate) struct Gate {
    free: Mutex<usize>,
    freed: Condvar,
}

thread_local! {
    /// Permits that this thread holds, of whatever gates.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Leave to run, until it is dropped by the thread that got it.
pub(crate) struct Permit<'a> {
    /// `None` for a run within a run.
    gate: Option<&'a Gate>,
    here: PhantomData<*const ()>,
}

impl Gate {
    pub(crate) fn new(runs: usize) -> Gate {
        Gate { free: Mutex::new(runs), freed: Condvar::new() }
    }

    /// A thread of someone's pool that waits for its run may take up work of that pool, which may
    /// be another run: it would wait for a permit that it may itself hold, or that a thread holds
    /// which waits for one of its. So a run within a run does not wait.
    pub(crate) fn enter(&self) -> Permit<'_> {
        let within = HELD.get() > 0;
        if !within {
            let free = lock(&self.free);
            let wait = self.freed.wait_while(free, |free| *free == 0);
            *wait.unwrap_or_else(PoisonError::into_inner) -= 1;
        }
        HELD.set(HELD.get() + 1);
        Permit { gate: (!within).then_some(self), here: PhantomData }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        if let Some(gate) = self.gate {
            *lock(&gate.free) += 1;
            gate.freed.notify_one();
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that work off one queue; started when there is work, gone with the session.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads_max: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Workers {
    pub(crate) fn new(threads_max: usize) -> Workers {
        Workers { shared: Arc::default(), threads_max }
    }

    /// Queues a job.
    ///
    /// # Errors
    /// `Busy` when the queue is full, `Thread` when there is no thread to work it off.
    pub(crate) fn start(&self, job: Job) -> Result<(), Error> {
        let mut queue = lock(&self.shared.queue);
        // An idle thread takes a job each; only what is beyond those waits.
        if queue.jobs.len() >= QUEUE_MAX + queue.idle {
            return Err(Error::Busy { waiting: QUEUE_MAX });
        }
        if queue.jobs.len() >= queue.idle && queue.threads < self.threads_max {
            match self.spawn() {
                Ok(()) => queue.threads += 1,
                Err(error) if queue.threads == 0 => return Err(Error::Thread(error)),
                // The threads that are there will come to it.
                Err(_) => {}
            }
        }
        queue.jobs.push_back(job);
        self.shared.changed.notify_one();
        Ok(())
    }

    fn spawn(&self) -> std::io::Result<()> {
        let shared = self.shared.clone();
        let builder = std::thread::Builder::new().name("hetra-run".to_string());
        builder.spawn(move || shared.work()).map(drop)
    }
}

impl Drop for Workers {
    /// Every job holds the session, so none is left. The threads are not waited for: the last
    /// holder of the session may be one of them.
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next() {
            // A run that panics drops its promise, which reports it lost; the thread goes on.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue.idle += 1;
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Waiting would be for ever: the thread holds what it waits for.
    #[test]
    fn a_run_within_a_run_does_not_wait() {
        let (one, other) = (Gate::new(1), Gate::new(1));
        let outer = one.enter();
        let inner = (one.enter(), other.enter());
        drop(inner);
        assert_eq!(*lock(&one.free), 0, "the inner run gave back what it had not taken");
        drop(outer);
        assert_eq!((*lock(&one.free), *lock(&other.free)), (1, 1));
    }

    #[test]
    fn a_full_queue_is_an_error_and_works_off() {
        let workers = Workers::new(2);
        let (ready, begun) = channel();
        let gate = Arc::new(Gate::new(1));
        let held = gate.enter();
        let (done, ended) = channel();
        let start = || {
            let (ready, gate, done) = (ready.clone(), gate.clone(), done.clone());
            workers.start(Box::new(move || {
                let _ = ready.send(());
                let _permit = gate.enter();
                let _ = done.send(());
            }))
        };
        for _ in 0..2 {
            start().unwrap();
            begun.recv_timeout(LONG).unwrap();
        }
        for _ in 0..QUEUE_MAX {
            start().unwrap();
        }
        assert!(matches!(start(), Err(Error::Busy { waiting: QUEUE_MAX })));
        assert_eq!(lock(&workers.shared.queue).threads, 2);
        drop(held);
        for _ in 0..QUEUE_MAX + 2 {
            ended.recv_timeout(LONG).unwrap();
        }
        start().unwrap();
        ended.recv_timeout(LONG).unwrap();
    }

    #[test]
    fn a_thread_outlives_a_panic_and_ends_with_the_workers() {
        let workers = Workers::new(1);
        workers.start(Box::new(|| panic!("a run that panics"))).unwrap();
        let (done, ended) = channel();
        workers.start(Box::new(move || done.send(()).unwrap())).unwrap();
        ended.recv_timeout(LONG).unwrap();
        let shared = workers.shared.clone();
        drop(workers);
        for _ in 0..2000 {
            if Arc::strong_count(&shared) == 1 {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the thread goes on");
    }
}
