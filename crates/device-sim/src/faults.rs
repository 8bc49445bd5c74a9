//! What goes wrong, and when.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hetra_device::DeviceError;
use hetra_ops::OpError;

/// What goes wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call fails, once.
    Fail,
    /// The device is lost: this call fails, and all behind it.
    Lose,
    /// A call does not answer for a while, once, and fails then.
    Hang,
    /// It throttles: from here on it takes longer.
    Slow,
}

/// When something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// In the call in which the device's clock comes to this.
    Time(Duration),
    /// In this call, the first one being 1.
    Call(u64),
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) at: At,
}

/// All that goes wrong with a device: nothing, unless told.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    pub(crate) list: Vec<Fault>,
    /// One call in so many fails.
    pub(crate) fail_every: Option<u64>,
    /// How long a call hangs.
    pub(crate) hang_for: Duration,
    /// How many times as long it takes when it throttles.
    pub(crate) slow_by: f64,
}

impl Default for Faults {
    fn default() -> Faults {
        let (list, hang_for) = (Vec::new(), Duration::from_secs(2));
        Faults { list, fail_every: None, hang_for, slow_by: 4.0 }
    }
}

impl Faults {
    /// Reads faults as they stand in an id: `fail_at=3ms&hang_at=7&hang_for=1s`.
    ///
    /// # Errors
    /// What is none.
    pub fn parse(query: &str) -> Result<Faults, String> {
        crate::options::faults(query)
    }
}

/// What a call meets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Strike {
    /// It goes well, and takes so many times as long.
    Well(f64),
    Fail,
    Lost,
    Hang(Duration),
}

/// Faults, and how far a device has come in them.
pub(crate) struct Fate(Mutex<Now>);

#[derive(Clone, Default)]
struct Now {
    faults: Faults,
    clock: Duration,
    calls: u64,
    lost: bool,
}

impl Fate {
    pub(crate) fn new(faults: Faults) -> Fate {
        Fate(Mutex::new(Now { faults, ..Now::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Begins anew, but for the clock.
    pub(crate) fn begin(&self, faults: Faults) {
        let mut now = self.lock();
        *now = Now { faults, clock: now.clock, ..Now::default() };
    }

    /// What a call meets that takes so long by the device's clock.
    pub(crate) fn after(&self, length: Duration) -> Strike {
        self.next(|clock| clock.saturating_add(length))
    }

    /// What a call meets that comes when the device's clock is at `to`: whatever was due since the
    /// last one.
    pub(crate) fn until(&self, to: Duration) -> Strike {
        self.next(|clock| clock.max(to))
    }

    fn next(&self, to: impl FnOnce(Duration) -> Duration) -> Strike {
        let mut guard = self.lock();
        let now = &mut *guard;
        let (from, to, call) = (now.clock, to(now.clock), now.calls + 1);
        (now.clock, now.calls) = (to, call);
        if now.lost {
            return Strike::Lost;
        }
        let is_now = |at: At| match at {
            At::Time(time) => from <= time && time < to,
            At::Call(number) => number == call,
        };
        let is_past = |at: At| match at {
            At::Time(time) => time < to,
            At::Call(number) => number <= call,
        };
        let comes =
            |kind: Kind| now.faults.list.iter().any(|fault| fault.kind == kind && is_now(fault.at));
        let (lose, hang) = (comes(Kind::Lose), comes(Kind::Hang));
        let fail =
            comes(Kind::Fail) || now.faults.fail_every.is_some_and(|every| call % every == 0);
        let slow = |fault: &Fault| fault.kind == Kind::Slow && is_past(fault.at);
        let slow = now.faults.list.iter().any(slow);
        match (lose, hang, fail) {
            (true, ..) => {
                now.lost = true;
                Strike::Lost
            }
            (_, true, _) => Strike::Hang(now.faults.hang_for),
            (.., true) => Strike::Fail,
            _ => Strike::Well(if slow { now.faults.slow_by } else { 1.0 }),
        }
    }
}

impl Strike {
    /// How many times as long a call takes that goes well; waits where it hangs.
    ///
    /// # Errors
    /// For one that does not.
    pub(crate) fn times(self, device: &str) -> Result<f64, OpError> {
        let failed = |reason: &str| {
            let (device, reason) = (device.to_string(), reason.to_string());
            Err(OpError::Tensor(DeviceError::Failed { device, reason }.into()))
        };
        match self {
            Strike::Well(times) => Ok(times),
            Strike::Fail => failed("a fault that was asked for"),
            Strike::Hang(time) => {
                std::thread::sleep(time);
                failed("it hung, as was asked for")
            }
            Strike::Lost => {
                let reason = "as was asked for".to_string();
                let device = device.to_string();
                Err(OpError::Tensor(DeviceError::Lost { device, reason }.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(query: &str) -> Fate {
        Fate::new(Faults::parse(query).unwrap())
    }

    /// Calls of a millisecond each, one behind the other.
    fn strikes(query: &str, count: u64) -> Vec<Strike> {
        let fate = fate(query);
        (0..count).map(|_| fate.after(Duration::from_millis(1))).collect()
    }

    const WELL: Strike = Strike::Well(1.0);

    #[test]
    fn faults_come_when_they_are_due() {
        assert_eq!(strikes("", 2), [WELL, WELL]);
        assert_eq!(strikes("fail_at=2", 3), [WELL, Strike::Fail, WELL]);
        assert_eq!(strikes("fail_at=1.5ms", 3), [WELL, Strike::Fail, WELL]);
        assert_eq!(strikes("fail_every=2", 4), [WELL, Strike::Fail, WELL, Strike::Fail]);
        assert_eq!(strikes("lose_at=2", 3), [WELL, Strike::Lost, Strike::Lost]);
        let slow = Strike::Well(8.0);
        assert_eq!(strikes("slow_at=1ms&slow_by=8", 3), [WELL, slow, slow]);
        // What was due before a call strikes in it.
        let late = fate("fail_at=2ms");
        assert_eq!(late.until(Duration::from_millis(1)), WELL);
        assert_eq!(late.until(Duration::from_millis(9)), Strike::Fail);
        let hang = Strike::Hang(Duration::from_millis(5));
        assert_eq!(strikes("hang_at=1&hang_for=5ms", 2), [hang, WELL]);
    }

    #[test]
    fn a_strike_is_an_error_that_says_so() {
        let text = |strike: Strike| strike.times("gpu").unwrap_err().to_string();
        assert_eq!(Strike::Well(2.0).times("gpu").unwrap(), 2.0);
        assert!(text(Strike::Fail).contains("gpu: a fault that was asked for"));
        assert!(text(Strike::Lost).contains("gpu is lost"));
        assert!(text(Strike::Hang(Duration::ZERO)).contains("it hung"));
    }
}
