//! What may end a run early.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hetra_ops::OpError;

/// A handle to stop runs with, from any thread; clones are of one handle.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the runs that have this handle, for good.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What may end a run early. It is looked at before each step, those of bodies included: a step
/// that has begun is finished.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// When the run must have ended.
    pub deadline: Option<Instant>,
    /// The handle to stop it with.
    pub cancel: Option<Cancel>,
    /// A step that the device leaves to something slower than kernels of its own ends the run with
    /// an error.
    pub no_fallback: bool,
    /// Outputs stay where the device has them: they are copied to the host when they are read,
    /// which may fail then.
    pub on_device: bool,
}

impl RunOptions {
    /// # Errors
    /// `Stopped` when the run is to go no further.
    pub(crate) fn check(&self) -> Result<(), OpError> {
        if self.cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            return Err(OpError::Stopped("it was cancelled"));
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(OpError::Stopped("it is past its deadline"));
        }
        Ok(())
    }
}
