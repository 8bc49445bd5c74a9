//! What each operator means.
//!
//! An operator is one [`OpDef`] row in one file of this crate: its ONNX names, how older versions
//! turn into the newest form, shape and dtype inference, the work it does, and a plain reference
//! [`OpDef::eval`] that is obviously right and runs anywhere. Everything generic (import, passes,
//! planning, devices, docs, tests) is read from that row. [`ALL_OPS`] is the table.
//!
//! The crate knows no device, thread or file format.

mod context;
mod control;
mod def;
mod dispatch;
mod error;
mod interpret;
mod table;
mod work;

mod arithmetic;

pub use context::{EvalCtx, InferBody, InferCtx, Outer, Runner};
pub use def::{Arity, Kind, OnnxName, OpDef, Upgrade, onnx};
pub use error::{NodeError, OpError};
pub use interpret::{Interpreter, interpret};
pub use table::{ALL_OPS, find, find_onnx};
pub use work::Work;
