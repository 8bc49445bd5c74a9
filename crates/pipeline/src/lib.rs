//! Several models, and what stands before, between and behind them, as one graph.
//!
//! A pipeline is a TOML file of steps: each reads what steps before it made and gives its values a
//! name. A step is a model (an ONNX file) or a row of [`STEPS`]. What comes of it is one
//! [`hetra_ir::Graph`] from a picture to results, made of operators that any session runs: it is
//! placed, planned, traced and guarded as a single model is. Nothing is run here but by a
//! [`Runner`], which whoever has devices gives.

mod batch;
mod boxes;
mod faces;
mod file;
mod join;
mod lines;
mod objects;
mod pictures;
mod steps;

pub use batch::{Run, Runner};
pub use file::{Gallery, Pipeline, PipelineError};
pub use steps::{STEPS, StepRow};

pub(crate) use file::Params;
pub(crate) use join::Joiner;
