//! What can go wrong with an operator.

use hetra_ir::AttrError;
use hetra_tensor::TensorError;

/// A fault in the arguments of one node.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum OpError {
    #[error("input {index} is missing")]
    MissingInput { index: usize },
    #[error("input {index}: wanted {wanted}, got {got}")]
    Input { index: usize, wanted: String, got: String },
    #[error(transparent)]
    Attr(#[from] AttrError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("not supported: {0}")]
    Unsupported(String),
    #[error("{0}")]
    Invalid(String),
    /// Nothing is wrong, but the run is to end here.
    #[error("the run was stopped: {0}")]
    Stopped(&'static str),
    #[error("in its body: {0}")]
    Body(Box<NodeError>),
}

impl OpError {
    /// Whether the run was stopped, be it in a body.
    pub fn is_stop(&self) -> bool {
        match self {
            OpError::Stopped(_) => true,
            OpError::Body(inner) => inner.source.is_stop(),
            _ => false,
        }
    }

    /// A fault of the input at `index`.
    pub fn input(index: usize, wanted: impl Into<String>, got: impl Into<String>) -> OpError {
        OpError::Input { index, wanted: wanted.into(), got: got.into() }
    }

    /// Any other fault of the arguments.
    pub fn invalid(message: impl Into<String>) -> OpError {
        OpError::Invalid(message.into())
    }

    /// Something that Hetra does not do.
    pub fn unsupported(what: impl Into<String>) -> OpError {
        OpError::Unsupported(what.into())
    }
}

/// A fault of a node, with the name of the node.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("node `{node}` ({op}): {source}")]
pub struct NodeError {
    /// Name of the node, or of its first output.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// What is wrong.
    pub source: OpError,
}

impl From<NodeError> for OpError {
    fn from(error: NodeError) -> OpError {
        OpError::Body(Box::new(error))
    }
}
