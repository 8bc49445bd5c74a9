//! What can go wrong with arrays.

use hetra_exec::ExecError;
use hetra_ops::OpError;
use hetra_tensor::{DType, Shape, TensorError};

use crate::error::Error;

/// Why an array could not be made or computed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum ArrayError {
    #[error("{op}: {source}")]
    Op { op: &'static str, source: OpError },
    #[error("{op}: wanted {wanted}, got {got}")]
    DType { op: &'static str, wanted: String, got: String },
    #[error("{op}: there is no dtype for both {left} and {right}")]
    Promotion { op: &'static str, left: DType, right: DType },
    #[error("{op}: {reason}")]
    Shape { op: &'static str, reason: String },
    #[error("axis {axis} is out of range for an array of {rank} axes")]
    Axis { axis: i64, rank: usize },
    #[error("axis {axis} is named twice")]
    AxisTwice { axis: i64 },
    #[error("{0}")]
    Index(String),
    #[error("arrays are on {left} and on {right}: copy one with `to`")]
    Devices { left: String, right: String },
    #[error("{what} is out of the range of {dtype}")]
    Range { what: String, dtype: DType },
    #[error("an array of shape {shape:?} is no single number")]
    NotScalar { shape: Shape },
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(transparent)]
    Run(#[from] Error),
}

impl ArrayError {
    pub(crate) fn shape(op: &'static str, reason: impl Into<String>) -> ArrayError {
        ArrayError::Shape { op, reason: reason.into() }
    }

    pub(crate) fn dtype(op: &'static str, wanted: &str, got: DType) -> ArrayError {
        ArrayError::DType { op, wanted: wanted.to_string(), got: got.to_string() }
    }

    /// What was wrong, as it is sorted by languages that have such classes.
    pub fn class(&self) -> Class {
        match self {
            ArrayError::DType { .. } | ArrayError::Promotion { .. } => Class::Type,
            ArrayError::Index(_) | ArrayError::Axis { .. } => Class::Index,
            ArrayError::Tensor(TensorError::Memory { .. } | TensorError::TooLarge { .. }) => {
                Class::Memory
            }
            ArrayError::Op { source: OpError::Tensor(error), .. } if is_memory(error) => {
                Class::Memory
            }
            ArrayError::Run(error) if picks_outside(error) => Class::Index,
            ArrayError::Run(error) if no_room(error) => Class::Memory,
            ArrayError::Range { .. } => Class::Range,
            ArrayError::Run(_) => Class::Run,
            _ => Class::Value,
        }
    }
}

/// Whether a run ended for want of memory.
fn no_room(error: &Error) -> bool {
    let Error::Exec(ExecError::Node(node)) = error else { return false };
    matches!(&node.source, OpError::Tensor(error) if is_memory(error))
}

fn is_memory(error: &TensorError) -> bool {
    matches!(error, TensorError::Memory { .. } | TensorError::TooLarge { .. })
}

/// Whether an index that is data was out of range.
fn picks_outside(error: &Error) -> bool {
    let Error::Exec(ExecError::Node(node)) = error else { return false };
    let picks = node.op.starts_with("Gather") || node.op.starts_with("Scatter");
    picks && matches!(node.source, OpError::Input { .. })
}

/// Kinds of [`ArrayError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A wrong dtype.
    Type,
    /// An index or axis that is not there.
    Index,
    /// Too large.
    Memory,
    /// A number that a dtype does not hold.
    Range,
    /// Any other wrong argument.
    Value,
    /// The device, or the run.
    Run,
}
