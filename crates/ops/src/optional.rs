//! Values that may be absent: Optional, OptionalHasElement, OptionalGetElement.

use hetra_ir::Type;
use hetra_tensor::{DType, Tensor, Value};

use crate::def::{Arity, OpDef, onnx};
use crate::error::OpError;
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&OPTIONAL, &HAS_ELEMENT, &GET_ELEMENT];

static OPTIONAL: OpDef = OpDef {
    name: "Optional",
    doc: "An optional that holds the input, or an empty one of type `type`.",
    onnx: &[onnx("", "Optional", 15)],
    inputs: Arity::between(0, 1),
    infer: |ctx| {
        let inner = match ctx.ty_opt(0) {
            Some(ty) => ty.clone(),
            None => ctx.attrs().ty_opt("type")?.cloned().unwrap_or(Type::Unknown),
        };
        Ok(vec![Type::Optional(Box::new(inner))])
    },
    work: none,
    eval: |ctx| Ok(vec![Value::Optional(ctx.value_opt(0).cloned().map(Box::new))]),
    ..OpDef::DEFAULT
};

static HAS_ELEMENT: OpDef = OpDef {
    name: "OptionalHasElement",
    doc: "Whether the optional holds a value: what is no optional does, what is missing does not.",
    onnx: &[onnx("", "OptionalHasElement", 18)],
    inputs: Arity::between(0, 1),
    infer: |_| Ok(vec![Type::tensor(DType::Bool, &[])]),
    work: none,
    eval: |ctx| {
        let has = !matches!(ctx.value_opt(0), None | Some(Value::Optional(None)));
        Ok(vec![Tensor::from_bools(&[], &[has])?.into()])
    },
    ..OpDef::DEFAULT
};

static GET_ELEMENT: OpDef = OpDef {
    name: "OptionalGetElement",
    doc: "The value that the optional holds.",
    onnx: &[onnx("", "OptionalGetElement", 18)],
    infer: |ctx| {
        Ok(vec![match ctx.ty(0)? {
            Type::Optional(inner) => (**inner).clone(),
            other => other.clone(),
        }])
    },
    work: none,
    eval: |ctx| match ctx.value(0)? {
        Value::Optional(None) => Err(OpError::input(0, "a value", "an empty optional")),
        Value::Optional(Some(inner)) => Ok(vec![(**inner).clone()]),
        other => Ok(vec![other.clone()]),
    },
    ..OpDef::DEFAULT
};
