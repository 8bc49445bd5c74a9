//! A run that goes on in the background.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::{Error, Outputs};

#[derive(Default)]
struct Slot {
    result: Option<Result<Outputs, Error>>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Shared {
    slot: Mutex<Slot>,
    done: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run in the background: await it, or wait for it. Tied to no async runtime.
pub struct Pending(Arc<Shared>);

/// The other end, held by the run. Dropping it unfinished reports a lost run.
pub(crate) struct Promise(Option<Arc<Shared>>);

pub(crate) fn pending() -> (Promise, Pending) {
    let shared = Arc::new(Shared::default());
    (Promise(Some(shared.clone())), Pending(shared))
}

impl Promise {
    pub(crate) fn finish(mut self, result: Result<Outputs, Error>) {
        self.set(result);
    }

    fn set(&mut self, result: Result<Outputs, Error>) {
        let Some(shared) = self.0.take() else { return };
        let mut slot = shared.lock();
        slot.result = Some(result);
        let waker = slot.waker.take();
        drop(slot);
        shared.done.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.set(Err(Error::Lost));
    }
}

impl Pending {
    /// Blocks until the run is over.
    ///
    /// # Errors
    /// As [`crate::Session::run`].
    pub fn wait(self) -> Result<Outputs, Error> {
        let mut slot = self.0.lock();
        loop {
            if let Some(result) = slot.result.take() {
                return result;
            }
            slot = self.0.done.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Future for Pending {
    type Output = Result<Outputs, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.lock();
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
