//! What flows along an edge of a graph.

use crate::dtype::DType;
use crate::tensor::Tensor;

/// A tensor, a sequence of values or an optional value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A dense tensor.
    Tensor(Tensor),
    /// A list of values of one type.
    Sequence(Vec<Value>),
    /// A value that may be absent.
    Optional(Option<Box<Value>>),
}

impl Value {
    /// The tensor, if this is one (an optional that holds a tensor counts).
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Value::Tensor(tensor) => Some(tensor),
            Value::Optional(Some(inner)) => inner.as_tensor(),
            _ => None,
        }
    }

    /// The items, if this is a sequence (an optional that holds one counts).
    pub fn as_sequence(&self) -> Option<&[Value]> {
        match self {
            Value::Sequence(items) => Some(items),
            Value::Optional(Some(inner)) => inner.as_sequence(),
            _ => None,
        }
    }

    /// A short description, such as `f32[2,3]` or `sequence of 2`.
    pub fn describe(&self) -> String {
        match self {
            Value::Tensor(tensor) => tensor.describe(),
            Value::Sequence(items) => format!("sequence of {}", items.len()),
            Value::Optional(None) => "empty optional".to_string(),
            Value::Optional(Some(inner)) => format!("optional {}", inner.describe()),
        }
    }

    /// Bytes of all tensors inside.
    pub fn byte_len(&self) -> usize {
        match self {
            Value::Tensor(tensor) => tensor.byte_len(),
            Value::Sequence(items) => items.iter().map(Value::byte_len).sum(),
            Value::Optional(inner) => inner.as_ref().map_or(0, |inner| inner.byte_len()),
        }
    }

    /// The dtype of the tensor inside, if it is one.
    pub fn dtype(&self) -> Option<DType> {
        self.as_tensor().map(Tensor::dtype)
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Value {
        Value::Tensor(tensor)
    }
}
