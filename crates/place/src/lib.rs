//! Where each task of a graph runs.
//!
//! A [`Problem`] says what there is to place, on what, and what each task and each copy takes. A
//! [`Policy`] makes a [`Placement`] of it; [`place`] runs the policies and gives what they found,
//! the best first; [`bound`] says how much better any placement could be at most.
//!
//! Pure: no clock, thread or device handle. How much time is spent on a search is told by whoever
//! calls it.

mod anneal;
mod bound;
mod coarsen;
mod goal;
mod load;
mod policies;
mod problem;
mod schedule;
mod table;
mod timing;

pub use anneal::Budget;
pub use bound::{Bound, bound};
pub use coarsen::{Fine, coarsen};
pub use goal::Goal;
pub use policies::{Candidate, Found, POLICIES, Policy, PolicyKind, Rule, place};
pub use problem::{Device, Id, Line, PlaceError, Problem, Task, Unit, Value};
pub use schedule::{Metrics, Placement, Schedule, fault, loads, measure, schedule};
