//! One model over several devices: measured, placed, checked.
//!
//! [`plan`] measures what parts of a model take on each device, lets the policies choose, checks
//! the results against those of the processor in f32, and then measures the chosen plan beside the
//! best single device, pair by pair: what loses is not taken. [`PlanFile`] is what came of it, and
//! what a session is built from ([`crate::Builder::plan`]).

mod accept;
mod adaptive;
mod build;
mod cache;
mod choose;
mod corpus;
mod costs;
mod explain;
mod file;
mod fingerprint;
mod gate;
mod gauge;
mod goal;
pub(crate) mod measure;
mod meter;
mod nvml;
mod pattern;
mod picture;
mod planner;
mod problem;
mod report;
mod rules;
mod seams;
mod survey;
mod tasks;
mod trial;
mod units;
mod watch;

pub use accept::{Certificate, Sample};
pub use adaptive::{Adaptive, Replan};
pub use cache::{keep_plan, kept_plan, plan_key, plans_folder};
pub use costs::{CostSource, Costing};
pub use file::{
    Blocked, Bounded, Considered, Copies, Frontier, Left, NextBest, PlanDevice, PlanError,
    PlanFile, PlanPart, PlanStep, PlanTask, Refused,
};
pub use goal::{Figures, GOALS, PlanBounds, PlanGoal};
pub use hetra_tune::{Correction, CostExample, CostPart};
pub use planner::{PlanMoment, PlanOptions, plan};
pub use survey::{Survey, Surveyed, keep_costs, practice, survey};
pub use watch::Drift;

/// The graph whose nodes plans speak of: a model's without what no device need do.
pub fn placed_graph(graph: &hetra_ir::Graph) -> hetra_ir::Graph {
    hetra_pass::portable(graph)
}

pub(crate) use accept::compare;
pub(crate) use build::{choice, compile, open, patience, seated};
pub(crate) use gate::error as gate_error;
pub(crate) use units::on_host;
