//! The tuner: finds fast schedules by measurement, and remembers them.
//!
//! A kernel declares a [`hetra_device::Space`]; [`search`] measures a few of its schedules, led by
//! a learned model ([`boost`]); [`Rule`] lets the winner replace the default only when it wins
//! again, in turn with it ([`Pairs`]); [`store::Store`] keeps what was measured and what was
//! chosen, and gives a session its [`hetra_device::ScheduleTable`].
//!
//! The crate knows no kernel, no graph and no device: how a schedule is measured is a closure. It
//! has a clock only to know when its time is up.

pub mod boost;
mod correction;
mod pairs;
mod search;
pub mod store;

pub use correction::{Correction, CostExample, CostPart, EXAMPLES_MAX, EXAMPLES_MIN};
pub use pairs::{Pairs, Rule, Verdict, quantile};
pub use search::{Budget, End, Options, Outcome, Progress, Row, SearchError, Trial, search};
