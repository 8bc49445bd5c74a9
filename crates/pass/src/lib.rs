//! Graph to graph.
//!
//! [`infer`] tells the type of every value, and the values that can be known before a run.
//! Everything here is a pure function of its arguments.

mod infer;
mod work;

pub use infer::{Inferred, infer, infer_body};
pub use work::work;
