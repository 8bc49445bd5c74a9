//! Arithmetic on two numbers with broadcasting: Add, Sub, Mul, Div.

use hetra_ir::Type;
use hetra_tensor::{Element, Tensor, Value, broadcast};

use crate::context::{EvalCtx, InferCtx, infer_broadcast};
use crate::def::{Arity, Kind, OpDef, Upgrade, onnx};
use crate::dispatch::dispatch;
use crate::error::OpError;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&ADD, &SUB, &MUL, &DIV];

const BINARY: OpDef = OpDef {
    inputs: Arity::exactly(2),
    kind: Kind::Elementwise,
    infer: infer_binary,
    upgrade: Some(upgrade_legacy_broadcast),
    ..OpDef::DEFAULT
};

static ADD: OpDef = OpDef {
    name: "Add",
    doc: "Sum, with broadcasting.",
    onnx: &[onnx("", "Add", 14)],
    eval: |ctx| arithmetic(ctx, Arithmetic { float: |a, b| a + b, int: i64::wrapping_add }),
    ..BINARY
};

static SUB: OpDef = OpDef {
    name: "Sub",
    doc: "Difference, with broadcasting.",
    onnx: &[onnx("", "Sub", 14)],
    eval: |ctx| arithmetic(ctx, Arithmetic { float: |a, b| a - b, int: i64::wrapping_sub }),
    ..BINARY
};

static MUL: OpDef = OpDef {
    name: "Mul",
    doc: "Product, with broadcasting.",
    onnx: &[onnx("", "Mul", 14)],
    eval: |ctx| arithmetic(ctx, Arithmetic { float: |a, b| a * b, int: i64::wrapping_mul }),
    ..BINARY
};

static DIV: OpDef = OpDef {
    name: "Div",
    doc: "Quotient, with broadcasting; integers truncate, and division by 0 gives 0.",
    onnx: &[onnx("", "Div", 14)],
    eval: |ctx| {
        let int = |a: i64, b: i64| a.checked_div(b).unwrap_or(0);
        arithmetic(ctx, Arithmetic { float: |a, b| a / b, int })
    },
    ..BINARY
};

/// One operation on both kinds of numbers. Floats compute in f64 and round once, which is the
/// correctly rounded result for f32 and narrower; integers compute in i64 and wrap.
struct Arithmetic {
    float: fn(f64, f64) -> f64,
    int: fn(i64, i64) -> i64,
}

fn arithmetic(ctx: &EvalCtx<'_>, op: Arithmetic) -> Result<Vec<Value>, OpError> {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    if a.dtype() == hetra_tensor::DType::U64 {
        return Err(OpError::unsupported("u64 arithmetic (to be widened by the helper)"));
    }
    let float = |x: f64, y: f64| (op.float)(x, y);
    if a.dtype().is_float() {
        return Ok(vec![map2_f64(a, b, float)?.into()]);
    }
    let int = op.int;
    dispatch!(a.dtype(), T in [i8, i16, i32, i64, u8, u16, u32] => {
        map2::<T, T>(a, b, |x, y| int(i64::from(x), i64::from(y)) as T).map(|t| vec![t.into()])
    })
}

/// Maps two broadcast tensors of one dtype, element by element.
pub(crate) fn map2<T: Element, R: Element>(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(T, T) -> R,
) -> Result<Tensor, OpError> {
    same_dtype(a, b)?;
    let shape = broadcast(a.shape(), b.shape())?;
    let left = a.view().broadcast_to(&shape)?.to_vec::<T>()?;
    let right = b.view().broadcast_to(&shape)?.to_vec::<T>()?;
    let values: Vec<R> = left.into_iter().zip(right).map(|(x, y)| f(x, y)).collect();
    Ok(Tensor::from_slice(&shape, &values)?)
}

/// Maps two broadcast tensors of one float dtype through f64.
pub(crate) fn map2_f64(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(f64, f64) -> f64,
) -> Result<Tensor, OpError> {
    same_dtype(a, b)?;
    let dtype = a.dtype();
    let wide_a = Tensor::from_slice(a.shape(), &hetra_tensor::to_f64(a)?)?;
    let wide_b = Tensor::from_slice(b.shape(), &hetra_tensor::to_f64(b)?)?;
    let wide = map2::<f64, f64>(&wide_a, &wide_b, f)?;
    Ok(hetra_tensor::from_f64(dtype, wide.shape(), wide.as_slice::<f64>()?)?)
}

/// Both inputs must be of one dtype.
pub(crate) fn same_dtype(a: &Tensor, b: &Tensor) -> Result<(), OpError> {
    if a.dtype() == b.dtype() {
        return Ok(());
    }
    Err(OpError::input(1, a.dtype().name(), b.describe()))
}

pub(crate) fn infer_binary(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    if let (Some(a), Some(b)) = (ctx.dtype_opt(0), ctx.dtype_opt(1))
        && a != b
    {
        return Err(OpError::input(1, a.name(), b.name()));
    }
    infer_broadcast(ctx)
}

/// Before opset 7, broadcasting was asked for by `broadcast = 1` and `axis`. Axis alignment needs
/// the rank of the inputs, which the importer does not know: only trailing alignment is taken.
fn upgrade_legacy_broadcast(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    up.node.attrs.take("consumed_inputs");
    up.node.attrs.take("broadcast");
    Ok(())
}
