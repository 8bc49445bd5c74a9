//! The graph language: what a model is, as plain data.
//!
//! A [`Graph`] holds values and nodes in vectors and refers to them by typed ids. Nodes stand in
//! execution order. Subgraphs (the bodies of `If`, `Loop`, `Scan`) are attributes that hold a
//! graph; what a body takes from outside is written down as its `captures`, so that data flow is
//! never hidden in a name.
//!
//! This crate knows no operator: what a node means is in `hetra-ops`.

mod attr;
mod builder;
mod graph;
mod types;

pub use attr::{Attr, AttrError, Attrs};
pub use builder::Builder;
pub use graph::{Capture, Graph, Node, NodeId, ValueId, ValueInfo};
pub use types::{Dim, TensorType, Type};
