//! One model over several devices: measured, placed, checked.
//!
//! [`plan`] measures what parts of a model take on each device, lets the policies choose, checks
//! the results against those of the processor in f32, and then measures the chosen plan beside the
//! best single device, pair by pair: what loses is not taken. [`PlanFile`] is what came of it, and
//! what a session is built from ([`crate::Builder::plan`]).

mod accept;
mod build;
mod choose;
mod file;
mod fingerprint;
mod gate;
mod gauge;
mod goal;
mod measure;
mod meter;
mod pattern;
mod planner;
mod problem;
mod report;
mod rules;
mod tasks;
mod trial;
mod units;

pub use accept::{Certificate, Sample};
pub use file::{
    Bounded, Considered, Frontier, Left, PlanDevice, PlanError, PlanFile, PlanPart, PlanTask,
    Refused,
};
pub use goal::{Figures, GOALS, PlanBounds, PlanGoal};
pub use planner::{PlanMoment, PlanOptions, plan};

/// The graph whose nodes plans speak of: a model's without what no device need do.
pub fn placed_graph(graph: &hetra_ir::Graph) -> hetra_ir::Graph {
    hetra_pass::portable(graph)
}

pub(crate) use build::{choice, compile, open, patience, seated};
