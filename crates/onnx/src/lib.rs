//! ONNX files to graphs and back.
//!
//! [`import`] turns the bytes of a model into a [`hetra_ir::Graph`]: nodes in execution order and
//! in the form of the newest operator set, constants folded in, functions inlined, what bodies
//! take from outside written down. A file is not trusted: whatever is wrong with it is an
//! [`ImportError`] that says where.

#![deny(clippy::as_conversions)]

mod attributes;
mod call;
mod compare;
mod error;
mod export;
mod external;
mod gradient;
mod import;
mod proto;
mod reader;
mod same;
mod scope;
mod sort;
mod tensors;
#[cfg(test)]
mod tests;
mod types;

pub use compare::compare;
pub use error::{ImportError, TensorFault};
pub use export::{ExportError, ExportOptions, OPSET, export, opset_of};
pub use import::{ImportOptions, Model, ModelInfo, import, import_blob, import_file, import_model};
pub use same::same_graph;
pub use tensors::{External, tensor_from_bytes, tensor_to_bytes, value_from_pb};
