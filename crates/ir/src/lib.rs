//! The graph language: what a model is, as plain data.
//!
//! A [`Graph`] holds values and nodes in vectors and refers to them by typed ids. Nodes stand in
//! execution order. Subgraphs (the bodies of `If`, `Loop`, `Scan`) are attributes that hold a
//! graph; what a body takes from outside is written down as its `captures`, so that data flow is
//! never hidden in a name.
//!
//! [`print`] and [`parse`] are its text form and back; [`verify`] checks what each graph promises.
//!
//! This crate knows no operator: what a node means is in `hetra-ops`.

mod attr;
mod builder;
mod graph;
mod nearest;
mod parse;
mod text;
mod types;
mod verify;

pub use attr::{Attr, AttrError, Attrs};
pub use builder::Builder;
pub use graph::{Capture, Graph, Node, NodeId, ValueId, ValueInfo};
pub use nearest::nearest;
pub use parse::{ParseError, parse};
pub use text::{outline, print};
pub use types::{Dim, TensorType, Type};
pub use verify::{DEPTH_MAX, Place, VerifyError, VerifyFault, verify};
