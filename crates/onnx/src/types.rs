//! Types of values, between their ONNX messages and ours.

use hetra_ir::{Dim, TensorType, Type};

use crate::proto::{
    DimKind, DimensionProto, ElementTypeProto, TensorShapeProto, TensorTypeProto, TypeKind,
    TypeProto,
};
use crate::tensors::{RANK_MAX, dtype_of};

/// Our type for a message; `Unknown` for what we have no type for (maps, opaque and sparse
/// types): whoever needs such a value will say so. `symbols`: keep the names of dims.
pub(crate) fn from_proto(proto: &TypeProto, symbols: bool) -> Type {
    match &proto.value {
        Some(TypeKind::Tensor(tensor)) => match dtype_of(tensor.elem_type) {
            Ok(dtype) => {
                // No tensor that we read has more axes; a type is copied wherever its value goes.
                let shape = tensor.shape.as_ref().filter(|shape| shape.dim.len() <= RANK_MAX);
                let dims = shape.map(|shape| {
                    shape.dim.iter().map(|dim| dim_from_proto(dim, symbols)).collect()
                });
                Type::Tensor(TensorType { dtype, shape: dims })
            }
            Err(_) => Type::Unknown,
        },
        Some(TypeKind::Sequence(item)) => Type::Sequence(Box::new(element(item, symbols))),
        Some(TypeKind::Optional(item)) => Type::Optional(Box::new(element(item, symbols))),
        _ => Type::Unknown,
    }
}

fn element(proto: &ElementTypeProto, symbols: bool) -> Type {
    proto.elem_type.as_ref().map_or(Type::Unknown, |item| from_proto(item, symbols))
}

fn dim_from_proto(proto: &DimensionProto, symbols: bool) -> Dim {
    match &proto.value {
        // Some exporters write -1 for an unknown extent.
        Some(DimKind::Value(extent)) => usize::try_from(*extent).map_or(Dim::Unknown, Dim::Known),
        // `?` is what some write for an extent without a name, on axes that are not alike.
        Some(DimKind::Param(name)) if symbols && !matches!(name.as_str(), "" | "?") => {
            Dim::Sym(name.as_str().into())
        }
        _ => Dim::Unknown,
    }
}

/// The message of a type; `None` when nothing is known.
pub(crate) fn to_proto(ty: &Type) -> Option<TypeProto> {
    let kind = match ty {
        Type::Unknown => return None,
        Type::Tensor(tensor) => {
            let shape = tensor
                .shape
                .as_ref()
                .map(|dims| TensorShapeProto { dim: dims.iter().map(dim_to_proto).collect() });
            TypeKind::Tensor(TensorTypeProto { elem_type: tensor.dtype.onnx(), shape })
        }
        Type::Sequence(item) => TypeKind::Sequence(Box::new(element_to_proto(item))),
        Type::Optional(item) => TypeKind::Optional(Box::new(element_to_proto(item))),
    };
    Some(TypeProto { value: Some(kind) })
}

fn element_to_proto(ty: &Type) -> ElementTypeProto {
    ElementTypeProto { elem_type: to_proto(ty).map(Box::new) }
}

fn dim_to_proto(dim: &Dim) -> DimensionProto {
    let value = match dim {
        Dim::Known(extent) => i64::try_from(*extent).ok().map(DimKind::Value),
        Dim::Sym(name) => Some(DimKind::Param(name.to_string())),
        Dim::Unknown => None,
    };
    DimensionProto { value }
}
