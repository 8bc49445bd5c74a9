//! Whether runs take what they should.

use std::sync::{Mutex, PoisonError};

/// Runs whose median is looked at.
const WINDOW: usize = 21;
/// Times that are further from what is expected, in parts, are a drift; it ends when they are as
/// near as this again.
const LEAVES: f64 = 0.15;
const RETURNS: f64 = 0.07;

/// Runs that do not take what they should.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// Seconds of a run that were expected.
    pub expected_s: f64,
    /// The median of the last runs.
    pub observed_s: f64,
}

impl Drift {
    /// What was observed over what was expected.
    pub fn ratio(&self) -> f64 {
        self.observed_s / self.expected_s
    }
}

/// The last runs of a plan.
pub(super) struct Watch {
    expected_s: f64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order in which they came, the oldest overwritten first.
    last: Vec<f64>,
    next: usize,
    drifted: bool,
}

impl Watch {
    pub(super) fn new(expected_s: f64) -> Watch {
        Watch { expected_s, state: Mutex::default() }
    }

    /// A run took so long. Gives the drift when one begins.
    pub(super) fn saw(&self, seconds: f64) -> Option<Drift> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { last, next, .. } = &mut *state;
        match last.len() < WINDOW {
            true => last.push(seconds),
            false => last[*next] = seconds,
        }
        *next = (*next + 1) % WINDOW;
        if last.len() < WINDOW || self.expected_s <= 0.0 {
            return None;
        }
        let mut sorted = last.clone();
        sorted.sort_by(f64::total_cmp);
        let drift = Drift { expected_s: self.expected_s, observed_s: sorted[WINDOW / 2] };
        let off = drift.ratio().max(1.0 / drift.ratio()) - 1.0;
        let was = state.drifted;
        state.drifted = off > if was { RETURNS } else { LEAVES };
        (state.drifted && !was).then_some(drift)
    }

    /// What comes now is looked at anew.
    pub(super) fn forget(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(watch: &Watch, seconds: f64, runs: usize) -> Vec<Drift> {
        (0..runs).filter_map(|_| watch.saw(seconds)).collect()
    }

    #[test]
    fn a_drift_is_told_once_and_ends_nearer_than_it_began() {
        let watch = Watch::new(1.0);
        assert_eq!(feed(&watch, 1.1, 100), []);
        let drifts = feed(&watch, 1.3, 100);
        assert_eq!(drifts, [Drift { expected_s: 1.0, observed_s: 1.3 }]);
        // Between both bounds it goes on; another one begins only behind its end.
        assert_eq!(feed(&watch, 1.1, 50), []);
        assert_eq!(feed(&watch, 1.3, 50), []);
        assert_eq!(feed(&watch, 1.0, 50), []);
        assert_eq!(feed(&watch, 0.5, 50).len(), 1);
    }

    #[test]
    fn single_slow_runs_are_no_drift() {
        let watch = Watch::new(1.0);
        let told = (0..200).filter_map(|run| watch.saw(if run % 3 == 0 { 9.0 } else { 1.0 }));
        assert_eq!(told.count(), 0);
        watch.forget();
        assert_eq!(feed(&watch, 2.0, WINDOW - 1), []);
        assert_eq!(feed(&watch, 2.0, 1).len(), 1);
    }
}
