//! One kernel source for every device.
//!
//! A kernel is an ordinary Rust function under [`kernel`]. rustc compiles it for the host's
//! processor ([`native`]), and it becomes data ([`Kernel`]), of which [`emit`] makes WGSL, OpenCL C
//! and CUDA C; [`interpret`] is the plain reference, and checks bounds and races. What generates
//! kernels at run time writes the same data by [`Trace`]: there is one emitter per target.
//!
//! The crate knows no graph, no operator and no driver.

// The macros name this crate as its users do.
extern crate self as hetra_kernel;

mod emit;
mod error;
mod function;
mod interpret;
mod ir;
mod launch;
pub mod native;
mod scalar;
mod source;
mod trace;
mod types;
mod verify;

pub use emit::{FAULT_WORDS, Options, Target, Words, emit, entry, fault, words};
pub use error::KernelError;
pub use function::{
    Binary, Cast, Compare, Float, Function, Group, Integer, Number, Signed, Turned, Unary,
};
pub use half::f16;
pub use hetra_kernel_macros::{kernel, kernel_fn};
pub use interpret::{Limits, interpret};
pub use ir::{
    Access, Array, ArrayId, Atomic, Block, Expr, ExprId, Id, Kernel, Op, Param, ParamId, ParamKind,
    Place, Space, Stmt, VarId, each_stmt,
};
pub use launch::{Arg, GROUPS_MAX, Given, run_native};
pub use native::Native;
pub use source::{Source, constants};
pub use trace::{AtomicBuffer, Compared, E, Grid, Input, Output, Row, Trace, Var};
pub use types::{Element, LANES_MAX, Lanes, Literal, Scalar, Type, Word};
pub use verify::{GROUP_ITEMS_MAX, SHARED_BYTES_MAX};
