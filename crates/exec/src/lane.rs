//! Devices that parts are placed on, each doing one at a time.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hetra_device::Device;

use crate::turns::{Turn, Turns};

/// Most jobs that wait for a device; what comes then is refused.
const JOBS_MAX: usize = 1024;

/// A device that parts are placed on.
#[derive(Clone)]
pub struct Seat {
    /// The device.
    pub device: Arc<dyn Device>,
    /// Processors of the host that the device's thread, and those that it makes, stay on; all of
    /// them where there is none.
    pub cores: Vec<usize>,
}

impl From<Arc<dyn Device>> for Seat {
    fn from(device: Arc<dyn Device>) -> Seat {
        Seat { device, cores: Vec::new() }
    }
}

/// What a device's thread is given.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// A device of an engine, and whose turn it is. Runs that overlap use it in the order in which they
/// came, so that a stream of them goes through the devices as through a pipeline.
pub(crate) struct Lane {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) cores: Vec<usize>,
    turns: Turns,
    /// To the thread of the device, once there is one.
    jobs: OnceLock<Option<SyncSender<Job>>>,
    health: Mutex<Health>,
}

/// How long a device that failed is left alone, at first; twice as long each time, up to a limit.
const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(30);

/// What is known of a device that failed.
#[derive(Clone, Copy, Debug, Default)]
struct Health {
    /// Failures since it last did what it should.
    failures: u32,
    /// When it may be tried again.
    rests_until: Option<Instant>,
    /// Since when its thread is at its present job.
    busy_since: Option<Instant>,
}

impl Lane {
    pub(crate) fn new(seat: Seat) -> Lane {
        let Seat { device, cores } = seat;
        let (turns, jobs) = (Turns::default(), OnceLock::new());
        Lane { device, cores, turns, jobs, health: Mutex::default() }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is left alone now: it failed a short time ago, or its thread is at one job for
    /// longer than `limit`.
    pub(crate) fn is_out(&self, limit: Option<Duration>) -> bool {
        let (health, now) = (self.health(), Instant::now());
        let hangs = limit.zip(health.busy_since).is_some_and(|(limit, at)| now - at >= limit);
        hangs || health.rests_until.is_some_and(|until| now < until)
    }

    /// It failed at a part. What fails while it rests was begun before: that is one failure.
    pub(crate) fn failed(&self) {
        let mut health = self.health();
        if health.rests_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        health.failures = health.failures.saturating_add(1);
        let doubled = REST_MIN.saturating_mul(1 << (health.failures - 1).min(16));
        health.rests_until = Some(Instant::now() + doubled.min(REST_MAX));
    }

    /// Its thread is at a job, until what this gives is dropped.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.health().busy_since = Some(Instant::now());
        Busy(self)
    }

    /// It did what it should.
    pub(crate) fn works(&self) {
        let mut health = self.health();
        (health.failures, health.rests_until) = (0, None);
    }

    /// Failures since it last did what it should.
    pub(crate) fn failures(&self) -> u32 {
        self.health().failures
    }

    /// Gives the device's thread a job; gives it back where there is no thread to be had, or too
    /// many jobs wait for it.
    pub(crate) fn submit(&self, job: Job) -> Result<(), Job> {
        let jobs = self.jobs.get_or_init(|| {
            let (sender, receiver) = sync_channel(JOBS_MAX);
            let (device, cores) = (self.device.clone(), self.cores.clone());
            let name = format!("hetra {}", device.info().id);
            let thread = std::thread::Builder::new().name(name);
            // It ends when nobody can give it jobs any more, and nobody waits for that: a device
            // may hang.
            thread.spawn(move || work(device.as_ref(), &cores, &receiver)).ok().map(|_| sender)
        });
        match jobs {
            Some(jobs) => jobs.try_send(job).map_err(|refused| match refused {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }),
            None => Err(job),
        }
    }

    /// Runs something on the device's processors, as what makes threads of its own must be.
    pub(crate) fn on_cores<R: Send>(&self, make: impl FnOnce() -> R + Send) -> R {
        if self.cores.is_empty() {
            return make();
        }
        let bound = || {
            bind(&self.cores);
            make()
        };
        let made = std::thread::scope(|scope| scope.spawn(bound).join());
        made.unwrap_or_else(|panic: Box<dyn Any + Send>| std::panic::resume_unwind(panic))
    }

    /// Waits until all that came before have had their turn.
    pub(crate) fn turn(&self) -> Turn<'_> {
        self.turns.wait()
    }
}

/// A job that a device's thread is at.
pub(crate) struct Busy<'a>(&'a Lane);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.health().busy_since = None;
    }
}

/// What the thread of a device does.
fn work(device: &dyn Device, cores: &[usize], jobs: &Receiver<Job>) {
    bind(cores);
    while let Ok(job) = jobs.recv() {
        let mut job = Some(job);
        device.scope(&mut || {
            // A job that panics sends no result, which its run sees; the next one is another's.
            let job = job.take();
            let _ = catch_unwind(AssertUnwindSafe(|| job.into_iter().for_each(|job| job())));
        });
    }
}

/// Keeps this thread on some processors; where the system does not allow it, it runs anywhere.
fn bind(cores: &[usize]) {
    #[cfg(target_os = "linux")]
    if !cores.is_empty() {
        let mut set = rustix::thread::CpuSet::new();
        cores
            .iter()
            .filter(|&&core| core < rustix::thread::CpuSet::MAX_CPU)
            .for_each(|&c| set.set(c));
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = cores;
}

#[cfg(test)]
mod tests {
    use hetra_device::NullDevice;

    use super::*;

    #[test]
    fn failures_at_one_time_are_one() {
        let device: Arc<dyn Device> = Arc::new(NullDevice::default());
        let lane = Lane::new(device.into());
        (0..9).for_each(|_| lane.failed());
        assert!(lane.failures() == 1 && lane.is_out(None));
        std::thread::sleep(REST_MIN + Duration::from_millis(20));
        assert!(!lane.is_out(None));
        lane.failed();
        assert!(lane.failures() == 2 && lane.is_out(None));
        lane.works();
        assert!(lane.failures() == 0 && !lane.is_out(None));
    }
}
