//! The same elements under another dtype: Cast, CastLike, BitCast; and Identity.

use hetra_ir::{Attr, Type};
use hetra_tensor::{DType, Rounding, Value, cast};

use crate::context::{EvalCtx, InferCtx, infer_same, same_shape};
use crate::def::{Arity, Kind, OpDef, Upgrade, onnx};
use crate::elementwise::upgrade_unary;
use crate::error::OpError;
use crate::tape::flat;
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&CAST, &CAST_LIKE, &BIT_CAST, &IDENTITY];

static CAST: OpDef = OpDef {
    name: "Cast",
    doc: "Elements as the dtype `to`.",
    onnx: &[onnx("", "Cast", 25)],
    kind: Kind::Elementwise,
    infer: |ctx| convertible(ctx, dtype_attr(ctx.attrs(), "to")?),
    upgrade: Some(upgrade_cast),
    eval: |ctx| eval_cast(ctx, dtype_attr(ctx.attrs(), "to")?),
    // To integers it rounds.
    gradient: Some(|tape| match dtype_attr(&tape.attrs(), "to")?.is_float() {
        true => Ok(vec![Some(tape.dy(0).with("CastLike", tape.x(0)?))]),
        false => flat(tape),
    }),
    ..OpDef::DEFAULT
};

static CAST_LIKE: OpDef = OpDef {
    name: "CastLike",
    doc: "Elements as the dtype of the second input.",
    onnx: &[onnx("", "CastLike", 25)],
    inputs: Arity::exactly(2),
    infer: |ctx| match ctx.dtype_opt(1) {
        Some(dtype) => convertible(ctx, dtype),
        None => Ok(vec![Type::Unknown]),
    },
    // The dtype of the second input is enough.
    from_types: Some(|ctx| {
        let (tensor, dtype) = (ctx.known.first()?.as_ref()?, ctx.dtype_opt(1)?);
        cast(tensor, dtype, true, Rounding::NearestEven).ok()
    }),
    eval: |ctx| eval_cast(ctx, ctx.tensor(1)?.dtype()),
    gradient: Some(|tape| Ok(vec![Some(tape.dy(0).with("CastLike", tape.x(0)?)), None])),
    ..OpDef::DEFAULT
};

static BIT_CAST: OpDef = OpDef {
    name: "BitCast",
    doc: "The same bits read as another dtype of the same width.",
    onnx: &[onnx("", "BitCast", 26)],
    infer: |ctx| {
        let to = dtype_attr(ctx.attrs(), "to")?;
        if let Some(from) = ctx.dtype_opt(0)
            && (from.bits() != to.bits() || to == DType::String)
        {
            return Err(OpError::input(0, format!("{} bits", to.bits()), from.name()));
        }
        same_shape(ctx, to)
    },
    work: none,
    eval: |ctx| Ok(vec![ctx.tensor(0)?.bit_cast(dtype_attr(ctx.attrs(), "to")?)?.into()]),
    ..OpDef::DEFAULT
};

static IDENTITY: OpDef = OpDef {
    name: "Identity",
    doc: "The input, of any kind.",
    onnx: &[onnx("", "Identity", 25)],
    kind: Kind::View,
    infer: infer_same,
    upgrade: Some(upgrade_unary),
    work: none,
    eval: |ctx| Ok(vec![ctx.value(0)?.clone()]),
    gradient: Some(|tape| Ok(vec![Some(tape.dy(0))])),
    ..OpDef::DEFAULT
};

/// The dtype that an attribute names by ONNX's number.
pub(crate) fn dtype_attr(attrs: &hetra_ir::Attrs, name: &str) -> Result<DType, OpError> {
    dtype_of(*attrs.int(name)?)
}

/// The dtype of an optional attribute.
pub(crate) fn dtype_attr_opt(
    attrs: &hetra_ir::Attrs,
    name: &str,
) -> Result<Option<DType>, OpError> {
    attrs.int_opt(name)?.map(|&code| dtype_of(code)).transpose()
}

fn dtype_of(code: i64) -> Result<DType, OpError> {
    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx);
    dtype.ok_or_else(|| OpError::invalid(format!("{code} is not the number of a dtype")))
}

fn convertible(ctx: &InferCtx<'_>, to: DType) -> Result<Vec<Type>, OpError> {
    if let Some(from) = ctx.dtype_opt(0)
        && from.is_complex() != to.is_complex()
    {
        return Err(OpError::input(0, format!("what casts to {to}"), from.name()));
    }
    same_shape(ctx, to)
}

fn eval_cast(ctx: &EvalCtx<'_>, to: DType) -> Result<Vec<Value>, OpError> {
    let rounding = match ctx.attrs().str_or("round_mode", "up")? {
        "up" => Rounding::Up,
        "down" => Rounding::Down,
        "nearest" => Rounding::NearestEven,
        other => return Err(OpError::invalid(format!("`round_mode` is `{other}`"))),
    };
    let saturate = ctx.attrs().flag_or("saturate", true)?;
    Ok(vec![cast(ctx.tensor(0)?, to, saturate, rounding)?.into()])
}

/// Opset 1 wrote the dtype as a text.
fn upgrade_cast(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    let Some(Attr::Str(name)) = up.node.attrs.0.get("to") else { return Ok(()) };
    let code = match name.to_ascii_uppercase().as_str() {
        "FLOAT" => DType::F32,
        "DOUBLE" => DType::F64,
        "FLOAT16" => DType::F16,
        "INT8" => DType::I8,
        "INT16" => DType::I16,
        "INT32" => DType::I32,
        "INT64" => DType::I64,
        "UINT8" => DType::U8,
        "UINT16" => DType::U16,
        "UINT32" => DType::U32,
        "UINT64" => DType::U64,
        "BOOL" => DType::Bool,
        "STRING" => DType::String,
        other => return Err(OpError::invalid(format!("`{other}` is not a dtype"))),
    };
    up.node.attrs.set("to", i64::from(code.onnx()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::outputs;
    use hetra_ir::Node;
    use hetra_tensor::{Tensor, to_i64};

    #[test]
    fn casts() {
        let check = |node: Node, inputs: &[Tensor], dtype: DType, wanted: &[i64]| {
            let out = outputs(&node, inputs).unwrap();
            assert_eq!((out[0].dtype(), to_i64(&out[0]).unwrap()), (dtype, wanted.to_vec()));
        };
        let x = Tensor::vector(&[1.5f32, -2.7]);
        let to = |dtype: DType| Node::new("Cast", &[], &[]).with("to", i64::from(dtype.onnx()));
        let x = [x];
        check(to(DType::I8), &x, DType::I8, &[1, -2]);
        let like = [x[0].clone(), Tensor::scalar(0u16)];
        check(Node::new("CastLike", &[], &[]), &like, DType::U16, &[1, 65534]);
        let bits = Node::new("BitCast", &[], &[]).with("to", i64::from(DType::U32.onnx()));
        check(bits, &[Tensor::vector(&[1f32])], DType::U32, &[0x3f80_0000]);
        assert!(outputs(&Node::new("Cast", &[], &[]).with("to", 99i64), &x).is_err());
        assert!(outputs(&to(DType::C64), &x).is_err());
    }

    #[test]
    fn opset_1_names_the_dtype() {
        let mut node = Node::new("Cast", &[], &[]).with("to", "INT64");
        let mut constant = |_| hetra_ir::ValueId(0);
        upgrade_cast(&mut Upgrade { node: &mut node, constant: &mut constant }).unwrap();
        assert_eq!(node.attrs.int("to"), Ok(&7));
    }
}
