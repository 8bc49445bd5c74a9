//! Devices that parts are placed on, each doing one at a time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use hetra_device::Device;

/// A device of an engine, and whose turn it is. Runs that overlap use it in the order in which they
/// came, so that a stream of them goes through the devices as through a pipeline.
pub(crate) struct Lane {
    pub(crate) device: Arc<dyn Device>,
    turns: Mutex<Turns>,
    ended: Condvar,
}

#[derive(Default)]
struct Turns {
    /// The number that the next one draws.
    next: u64,
    /// The number whose turn it is.
    now: u64,
}

/// The turn of whoever holds it.
pub(crate) struct Turn<'a>(&'a Lane);

impl Lane {
    pub(crate) fn new(device: Arc<dyn Device>) -> Lane {
        Lane { device, turns: Mutex::default(), ended: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all that came before have had their turn.
    pub(crate) fn turn(&self) -> Turn<'_> {
        let mut turns = self.lock();
        let mine = turns.next;
        turns.next += 1;
        while turns.now != mine {
            turns = self.ended.wait(turns).unwrap_or_else(PoisonError::into_inner);
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

    use hetra_device::NullDevice;

    use super::*;

    #[test]
    fn one_at_a_time_in_the_order_of_coming() {
        let lane = Lane::new(Arc::new(NullDevice::default()));
        let inside = AtomicUsize::new(0);
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let first = lane.turn();
            for index in 0..4 {
                let (lane, inside, order) = (&lane, &inside, &order);
                scope.spawn(move || {
                    let _turn = lane.turn();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    order.lock().unwrap().push(index);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
                // Each waits before the next one comes.
                while lane.lock().next != index + 2 {
                    std::thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
    }
}
