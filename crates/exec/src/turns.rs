//! One after the other, in the order in which they came.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A queue, of any length: whoever stands in it is a thread that waits.
#[derive(Debug, Default)]
pub struct Turns {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The number of who comes next.
    next: u64,
    /// The number of whose turn it is.
    now: u64,
}

/// Held while it is one's turn.
#[must_use]
pub struct Turn<'a>(&'a Turns);

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all that came before.
    pub fn wait(&self) -> Turn<'_> {
        let mut state = self.lock();
        let own = state.next;
        state.next += 1;
        while state.now != own {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().now += 1;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_in_order() {
        let (turns, inside) = (Turns::default(), AtomicUsize::new(0));
        let order = Mutex::new(Vec::new());
        let first = turns.wait();
        std::thread::scope(|scope| {
            for number in 0..8u64 {
                let (turns, inside, order) = (&turns, &inside, &order);
                scope.spawn(move || {
                    let _turn = turns.wait();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    order.lock().unwrap().push(number);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
                // It stands in the queue before the next one comes.
                while turns.lock().next != number + 2 {
                    std::thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(order.into_inner().unwrap(), (0..8).collect::<Vec<u64>>());
    }

    #[test]
    fn one_that_panics_gives_its_turn_away() {
        let turns = Turns::default();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _turn = turns.wait();
            std::panic::resume_unwind(Box::new("gone"));
        }));
        assert!(caught.is_err());
        drop(turns.wait());
    }
}
