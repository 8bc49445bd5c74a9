//! Types of values: dtype and symbolic shape.

use std::fmt;
use std::sync::Arc;

use hetra_tensor::{DType, Tensor, Value};

/// The extent of one axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Known now.
    Known(usize),
    /// The same unknown wherever the same name stands.
    Sym(Arc<str>),
    /// Nothing is known.
    Unknown,
}

impl Dim {
    /// The extent if it is known.
    pub fn known(&self) -> Option<usize> {
        match self {
            Dim::Known(extent) => Some(*extent),
            _ => None,
        }
    }

    /// The name that stands for one extent wherever it occurs. `?` is no such name: exporters
    /// write it for every axis of which they know nothing.
    pub fn symbol(&self) -> Option<&str> {
        match self {
            Dim::Sym(name) if **name != *"?" => Some(name),
            _ => None,
        }
    }
}

impl From<usize> for Dim {
    fn from(extent: usize) -> Dim {
        Dim::Known(extent)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(extent) => write!(f, "{extent}"),
            Dim::Sym(name) => f.write_str(name),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// dtype and shape of a tensor; `shape` is `None` when even the rank is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Option<Vec<Dim>>,
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A dense tensor.
    Tensor(TensorType),
    /// A list of values of one type.
    Sequence(Box<Type>),
    /// A value that may be absent.
    Optional(Box<Type>),
    /// Nothing is known yet.
    Unknown,
}

impl Type {
    /// A tensor type with known extents.
    pub fn tensor(dtype: DType, shape: &[usize]) -> Type {
        let shape = shape.iter().map(|&extent| Dim::Known(extent)).collect();
        Type::Tensor(TensorType { dtype, shape: Some(shape) })
    }

    /// A tensor type from dims.
    pub fn shaped(dtype: DType, shape: Vec<Dim>) -> Type {
        Type::Tensor(TensorType { dtype, shape: Some(shape) })
    }

    /// A tensor type of which only the rank is known.
    pub fn ranked(dtype: DType, rank: usize) -> Type {
        Type::Tensor(TensorType { dtype, shape: Some(vec![Dim::Unknown; rank]) })
    }

    /// A tensor type of unknown rank.
    pub fn unranked(dtype: DType) -> Type {
        Type::Tensor(TensorType { dtype, shape: None })
    }

    /// The type of a value that is there.
    pub fn of(value: &Value) -> Type {
        match value {
            Value::Tensor(tensor) => Type::tensor(tensor.dtype(), tensor.shape()),
            Value::Sequence(items) => {
                Type::Sequence(Box::new(items.first().map_or(Type::Unknown, |item| {
                    // Items may differ in shape: only the dtype is common to all.
                    item.dtype().map_or(Type::Unknown, Type::unranked)
                })))
            }
            Value::Optional(inner) => {
                Type::Optional(Box::new(inner.as_ref().map_or(Type::Unknown, |v| Type::of(v))))
            }
        }
    }

    /// Whether it is what [`Type::of`] gives for this value.
    pub fn is_of(&self, value: &Value) -> bool {
        match (self, value) {
            (Type::Tensor(ty), Value::Tensor(tensor)) => {
                let known = |(dim, extent): (&Dim, &usize)| dim.known() == Some(*extent);
                let dims = ty.shape.as_deref();
                ty.dtype == tensor.dtype()
                    && dims.is_some_and(|dims| {
                        dims.len() == tensor.rank() && dims.iter().zip(tensor.shape()).all(known)
                    })
            }
            (_, Value::Tensor(_)) => false,
            _ => *self == Type::of(value),
        }
    }

    /// The tensor type, if this is one.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// The dtype, if this is a tensor.
    pub fn dtype(&self) -> Option<DType> {
        self.as_tensor().map(|tensor| tensor.dtype)
    }

    /// The dims, if this is a tensor of known rank.
    pub fn dims(&self) -> Option<&[Dim]> {
        self.as_tensor().and_then(|tensor| tensor.shape.as_deref())
    }

    /// The shape, if this is a tensor and every extent is known.
    pub fn known_shape(&self) -> Option<Vec<usize>> {
        self.dims()?.iter().map(Dim::known).collect()
    }

    /// What there is in the place of this type, when a value does not fit it. An optional takes
    /// the bare value, too.
    pub fn misfit(&self, value: &Value) -> Option<String> {
        match (self, value) {
            (Type::Unknown, _) | (Type::Optional(_), Value::Optional(None)) => None,
            (Type::Tensor(wanted), Value::Tensor(tensor)) if wanted.accepts(tensor) => None,
            (Type::Sequence(wanted), Value::Sequence(items)) => {
                items.iter().enumerate().find_map(|(index, item)| {
                    Some(format!("a sequence whose item {index} is {}", wanted.misfit(item)?))
                })
            }
            (Type::Optional(wanted), Value::Optional(Some(inner))) => {
                Some(format!("an optional that holds {}", wanted.misfit(inner)?))
            }
            (Type::Optional(wanted), bare) => wanted.misfit(bare),
            (_, other) => Some(other.describe()),
        }
    }
}

impl TensorType {
    /// Whether a tensor fits: same dtype, same rank, same known extents.
    fn accepts(&self, tensor: &Tensor) -> bool {
        self.dtype == tensor.dtype() && self.allows(tensor.shape())
    }

    /// Whether a shape fits: same rank, same known extents.
    pub fn allows(&self, shape: &[usize]) -> bool {
        let fits = |(dim, extent): (&Dim, &usize)| dim.known().is_none_or(|known| known == *extent);
        let dims = self.shape.as_ref();
        dims.is_none_or(|dims| dims.len() == shape.len() && dims.iter().zip(shape).all(fits))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(TensorType { dtype, shape: None }) => write!(f, "{dtype}[..]"),
            Type::Tensor(TensorType { dtype, shape: Some(dims) }) => {
                write!(f, "{dtype}[")?;
                for (axis, dim) in dims.iter().enumerate() {
                    let comma = if axis > 0 { "," } else { "" };
                    write!(f, "{comma}{dim}")?;
                }
                f.write_str("]")
            }
            Type::Sequence(item) => write!(f, "seq<{item}>"),
            Type::Optional(item) => write!(f, "opt<{item}>"),
            Type::Unknown => f.write_str("_"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misfit_is_named_where_it_lies() {
        let tensor = |shape: &[usize]| Value::Tensor(Tensor::zeros(DType::F32, shape).unwrap());
        let ty = Type::shaped(DType::F32, vec![Dim::Sym("n".into()), Dim::Known(2)]);
        let seq = Type::Sequence(Box::new(ty.clone()));
        let opt = Type::Optional(Box::new(seq.clone()));
        let some = |value: Value| Value::Optional(Some(Box::new(value)));
        let list = |shapes: &[&[usize]]| {
            Value::Sequence(shapes.iter().map(|shape| tensor(shape)).collect())
        };
        let check = |ty: &Type, value: Value, wanted: Option<&str>| {
            assert_eq!(ty.misfit(&value).as_deref(), wanted, "{ty}");
        };
        check(&ty, tensor(&[7, 2]), None);
        check(&ty, tensor(&[7, 3]), Some("f32[7,3]"));
        check(&ty, tensor(&[2]), Some("f32[2]"));
        check(&ty, some(tensor(&[7, 2])), Some("optional f32[7,2]"));
        check(&ty, Tensor::scalar(1i64).into(), Some("i64[]"));
        check(&seq, list(&[]), None);
        check(&seq, list(&[&[1, 2], &[3, 2]]), None);
        check(&seq, list(&[&[1, 2], &[3]]), Some("a sequence whose item 1 is f32[3]"));
        check(&seq, tensor(&[1, 2]), Some("f32[1,2]"));
        check(&opt, Value::Optional(None), None);
        check(&opt, list(&[&[1, 2]]), None);
        check(&opt, some(list(&[&[1, 2]])), None);
        let bad = "an optional that holds a sequence whose item 0 is f32[1]";
        check(&opt, some(list(&[&[1]])), Some(bad));
        check(&opt, tensor(&[1, 2]), Some("f32[1,2]"));
        check(&Type::Unknown, some(list(&[])), None);
    }
}
