//! Plan and devices to trace.
//!
//! An [`Engine`] holds a graph compiled for a device. Shapes may differ from run to run: each set
//! of input types gets its own plan, kept in a bounded cache. Runs may overlap: each takes a
//! memory of its own from a bounded pool. Bodies of control-flow nodes are engines too.
//!
//! Parts of a placed graph (`hetra.Part`) run on the devices that they name, one part at a time on
//! each; those that do not wait for each other run at once.
//!
//! What can be tuned of a graph comes out as [`Alone`]: a node that runs by itself.
//!
//! The crate does not know why a plan is as it is.

mod alone;
mod concurrent;
mod engine;
mod lane;
mod options;
mod run;
mod simulated;
mod spare;
mod trace;
mod turns;

pub use alone::Alone;
pub use engine::{Engine, ExecError, Stop};
pub use lane::Seat;
pub use options::{Cancel, RunOptions};
pub use simulated::Simulated;
pub use trace::{Event, StepTime, Trace};
pub use turns::{Turn, Turns};
