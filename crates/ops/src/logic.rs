//! Truth and bits: comparisons, boolean and bitwise operators, IsNaN, IsInf, Where.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value, broadcast, to_f64};

use crate::context::{EvalCtx, InferCtx, broadcast_dims, same_shape};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dispatch::dispatch;
use crate::elementwise::{
    Accepts, Walk, infer_pair, infer_unary, map1, map2, pair, same_dtype, test2, upgrade_pair,
    upgrade_unary, walk2, zip,
};
use crate::error::OpError;
use crate::tape::flat;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[
    &EQUAL,
    &GREATER,
    &LESS,
    &GREATER_OR_EQUAL,
    &LESS_OR_EQUAL,
    &AND,
    &OR,
    &XOR,
    &NOT,
    &BITWISE_AND,
    &BITWISE_OR,
    &BITWISE_XOR,
    &BITWISE_NOT,
    &BIT_SHIFT,
    &IS_NAN,
    &IS_INF,
    &WHERE,
];

const BINARY: OpDef = OpDef {
    gradient: Some(flat),
    inputs: Arity::exactly(2),
    kind: Kind::Elementwise,
    upgrade: Some(upgrade_pair),
    ..OpDef::DEFAULT
};

const COMPARE: OpDef = OpDef { infer: |ctx| as_bool(infer_pair(ctx, Accepts::Numbers)?), ..BINARY };

fn as_bool(types: Vec<Type>) -> Result<Vec<Type>, OpError> {
    let truth = |ty: Type| InferCtx::make(Some(DType::Bool), ty.dims().map(<[Dim]>::to_vec));
    Ok(types.into_iter().map(truth).collect())
}

/// `eval` of a comparison of numbers.
macro_rules! compare {
    ($op:tt) => {
        |ctx| {
            let (a, b) = pair(ctx)?;
            compare_numbers!(a, b, $op)
        }
    };
}

macro_rules! compare_numbers {
    ($a:ident, $b:ident, $op:tt) => {
        dispatch!($a.dtype(), T in [f32, f64, f16, bf16, i8, i16, i32, i64, u8, u16, u32, u64] => {
            test2::<T>(&$a, &$b, |x, y| x $op y).map(|tensor| vec![tensor.into()])
        })
    };
}

static EQUAL: OpDef = OpDef {
    name: "Equal",
    doc: "Whether two elements are equal, with broadcasting.",
    onnx: &[onnx("", "Equal", 19)],
    infer: |ctx| as_bool(crate::elementwise::infer_binary(ctx)?),
    eval: eval_equal,
    ..COMPARE
};

static GREATER: OpDef = OpDef {
    name: "Greater",
    doc: "Whether a > b, with broadcasting.",
    onnx: &[onnx("", "Greater", 13)],
    eval: compare!(>),
    ..COMPARE
};

static LESS: OpDef = OpDef {
    name: "Less",
    doc: "Whether a < b, with broadcasting.",
    onnx: &[onnx("", "Less", 13)],
    eval: compare!(<),
    ..COMPARE
};

static GREATER_OR_EQUAL: OpDef = OpDef {
    name: "GreaterOrEqual",
    doc: "Whether a >= b, with broadcasting.",
    onnx: &[onnx("", "GreaterOrEqual", 16)],
    eval: compare!(>=),
    ..COMPARE
};

static LESS_OR_EQUAL: OpDef = OpDef {
    name: "LessOrEqual",
    doc: "Whether a <= b, with broadcasting.",
    onnx: &[onnx("", "LessOrEqual", 16)],
    eval: compare!(<=),
    ..COMPARE
};

const BOOLEAN: OpDef = OpDef { infer: |ctx| infer_pair(ctx, Accepts::Bools), ..BINARY };

static AND: OpDef = OpDef {
    name: "And",
    doc: "Both, with broadcasting.",
    onnx: &[onnx("", "And", 7)],
    eval: |ctx| boolean(ctx, |x, y| x & y),
    ..BOOLEAN
};

static OR: OpDef = OpDef {
    name: "Or",
    doc: "Either or both, with broadcasting.",
    onnx: &[onnx("", "Or", 7)],
    eval: |ctx| boolean(ctx, |x, y| x | y),
    ..BOOLEAN
};

static XOR: OpDef = OpDef {
    name: "Xor",
    doc: "Exactly one of two, with broadcasting.",
    onnx: &[onnx("", "Xor", 7)],
    eval: |ctx| boolean(ctx, |x, y| x ^ y),
    ..BOOLEAN
};

static NOT: OpDef = OpDef {
    name: "Not",
    doc: "The opposite.",
    onnx: &[onnx("", "Not", 1)],
    kind: Kind::Elementwise,
    infer: |ctx| infer_unary(ctx, Accepts::Bools),
    eval: |ctx| {
        let tensor = ctx.tensor(0)?;
        let values: Vec<u8> = tensor.as_bools()?.iter().map(|x| 1 - x).collect();
        Ok(vec![Tensor::from_bytes(DType::Bool, tensor.shape(), &values)?.into()])
    },
    gradient: Some(flat),
    ..OpDef::DEFAULT
};

const BITS: OpDef = OpDef { infer: |ctx| infer_pair(ctx, Accepts::Ints), upgrade: None, ..BINARY };

/// `eval` of an operator on the bits of two integers.
macro_rules! bitwise {
    ($op:tt) => {
        |ctx| {
            let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
            dispatch!(a.dtype(), T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
                map2::<T, T>(a, b, |x, y| x $op y).map(|tensor| vec![tensor.into()])
            })
        }
    };
}

static BITWISE_AND: OpDef = OpDef {
    name: "BitwiseAnd",
    doc: "Bits set in both, with broadcasting.",
    onnx: &[onnx("", "BitwiseAnd", 18)],
    eval: bitwise!(&),
    ..BITS
};

static BITWISE_OR: OpDef = OpDef {
    name: "BitwiseOr",
    doc: "Bits set in either, with broadcasting.",
    onnx: &[onnx("", "BitwiseOr", 18)],
    eval: bitwise!(|),
    ..BITS
};

static BITWISE_XOR: OpDef = OpDef {
    name: "BitwiseXor",
    doc: "Bits that differ, with broadcasting.",
    onnx: &[onnx("", "BitwiseXor", 18)],
    eval: bitwise!(^),
    ..BITS
};

static BITWISE_NOT: OpDef = OpDef {
    name: "BitwiseNot",
    doc: "All bits flipped.",
    onnx: &[onnx("", "BitwiseNot", 18)],
    kind: Kind::Elementwise,
    infer: |ctx| infer_unary(ctx, Accepts::Ints),
    eval: |ctx| {
        let tensor = ctx.tensor(0)?;
        dispatch!(tensor.dtype(), T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
            map1::<T>(tensor, |x| !x).map(|tensor| vec![tensor.into()])
        })
    },
    gradient: Some(flat),
    ..OpDef::DEFAULT
};

static BIT_SHIFT: OpDef = OpDef {
    name: "BitShift",
    doc: "Shifts bits in `direction`; a shift by the width or more gives 0.",
    onnx: &[onnx("", "BitShift", 11)],
    infer: |ctx| infer_pair(ctx, Accepts::Unsigned),
    eval: eval_bit_shift,
    ..BITS
};

static IS_NAN: OpDef = OpDef {
    name: "IsNaN",
    doc: "Whether an element is not a number.",
    onnx: &[onnx("", "IsNaN", 20)],
    eval: |ctx| test_float(ctx, f64::is_nan),
    ..TEST
};

static IS_INF: OpDef = OpDef {
    name: "IsInf",
    doc: "Whether an element is infinite, of the signs asked for.",
    onnx: &[onnx("", "IsInf", 20)],
    eval: |ctx| {
        let negative = ctx.attrs().flag_or("detect_negative", true)?;
        let positive = ctx.attrs().flag_or("detect_positive", true)?;
        test_float(ctx, |x| x.is_infinite() && if x < 0.0 { negative } else { positive })
    },
    ..TEST
};

const TEST: OpDef = OpDef {
    gradient: Some(flat),
    kind: Kind::Elementwise,
    infer: infer_test,
    upgrade: Some(upgrade_unary),
    ..OpDef::DEFAULT
};

static WHERE: OpDef = OpDef {
    name: "Where",
    doc: "Takes elements of the second or the third input by a condition, with broadcasting.",
    onnx: &[onnx("", "Where", 16)],
    inputs: Arity::exactly(3),
    kind: Kind::Elementwise,
    infer: infer_where,
    eval: eval_where,
    gradient: Some(|tape| {
        let (holds, a, b, dy) = (tape.x(0)?, tape.x(1)?, tape.x(2)?, tape.dy(0));
        let (yes, no) = (dy.only(holds), dy.only(holds.apply("Not")));
        Ok(vec![None, Some(yes.sum_to(a)), Some(no.sum_to(b))])
    }),
    ..OpDef::DEFAULT
};

fn eval_equal(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (a, b) = pair(ctx)?;
    match a.dtype() {
        DType::String => {
            same_dtype(&a, &b)?;
            let (shape, walk) = walk2(&a, &b)?;
            let mut out = Tensor::zeros(DType::Bool, &shape)?;
            let left: Vec<&str> = a.as_strings()?.iter().map(String::as_str).collect();
            let right: Vec<&str> = b.as_strings()?.iter().map(String::as_str).collect();
            zip(&walk, (&left[..], &right[..]), out.bytes_mut()?, |x, y| u8::from(x == y));
            Ok(vec![out.into()])
        }
        DType::Bool => boolean(ctx, |x, y| 1 - (x ^ y)),
        _ => compare_numbers!(a, b, ==),
    }
}

fn boolean(ctx: &EvalCtx<'_>, f: impl Fn(u8, u8) -> u8) -> Result<Vec<Value>, OpError> {
    let (a, b) = pair(ctx)?;
    let (shape, walk) = walk2(&a, &b)?;
    let mut out = Tensor::zeros(DType::Bool, &shape)?;
    zip(&walk, (a.as_bools()?, b.as_bools()?), out.bytes_mut()?, f);
    Ok(vec![out.into()])
}

#[allow(clippy::unnecessary_cast, reason = "one of the types is u32")]
fn eval_bit_shift(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let left = match ctx.attrs().str("direction")?.as_str() {
        "LEFT" => true,
        "RIGHT" => false,
        other => return Err(OpError::invalid(format!("`direction` is `{other}`"))),
    };
    dispatch!(a.dtype(), T in [u8, u16, u32, u64] => {
        let shift = |x: T, by: T| {
            let by = by.min(64) as u32;
            if left { x.checked_shl(by) } else { x.checked_shr(by) }.unwrap_or(0)
        };
        map2::<T, T>(a, b, shift).map(|tensor| vec![tensor.into()])
    })
}

fn infer_test(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    if let Some(dtype) = ctx.dtype_opt(0)
        && !dtype.is_float()
    {
        return Err(OpError::input(0, "a float", dtype.name()));
    }
    same_shape(ctx, DType::Bool)
}

fn test_float(ctx: &EvalCtx<'_>, f: impl Fn(f64) -> bool) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    if !tensor.dtype().is_float() {
        return Err(OpError::input(0, "a float", tensor.describe()));
    }
    let values: Vec<u8> = to_f64(tensor)?.into_iter().map(|x| u8::from(f(x))).collect();
    Ok(vec![Tensor::from_bytes(DType::Bool, tensor.shape(), &values)?.into()])
}

fn infer_where(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    Accepts::Bools.check(ctx, 0)?;
    if let (Some(x), Some(y)) = (ctx.dtype_opt(1), ctx.dtype_opt(2))
        && x != y
    {
        return Err(OpError::input(2, x.name(), y.name()));
    }
    let dims = broadcast_dims(ctx.dims(0), ctx.dims(1))?;
    let dims = broadcast_dims(dims.as_deref(), ctx.dims(2))?;
    Ok(vec![InferCtx::make(ctx.dtype_opt(1).or(ctx.dtype_opt(2)), dims)])
}

fn eval_where(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (condition, x, y) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
    if x.dtype() != y.dtype() {
        return Err(OpError::input(2, x.dtype().name(), y.describe()));
    }
    let shape = broadcast(&broadcast(condition.shape(), x.shape())?, y.shape())?;
    let walk = Walk::new(&shape, [condition.shape(), x.shape(), y.shape()]);
    let condition = condition.as_bools()?;
    // Checks the size before anything of it is allocated.
    let mut out = Tensor::zeros(x.dtype(), &shape)?;
    if x.dtype() == DType::String {
        let mut values = vec![""; out.len()];
        let texts = |t: &'_ Tensor| t.as_strings().map(|s| s.to_vec());
        let (x, y) = (texts(x)?, texts(y)?);
        let left: Vec<&str> = x.iter().map(String::as_str).collect();
        let right: Vec<&str> = y.iter().map(String::as_str).collect();
        select(&walk, condition, (&left, &right), &mut values);
        let values = values.into_iter().map(str::to_string).collect();
        return Ok(vec![Tensor::from_strings(&shape, values)?.into()]);
    }
    // Only the width of an element matters.
    let bits = match x.dtype().bits() {
        8 => DType::U8,
        16 => DType::U16,
        32 => DType::U32,
        64 => DType::U64,
        _ => return Err(OpError::input(1, "a dtype of 8 to 64 bits", x.describe())),
    };
    let (x, y, dtype) = (x.bit_cast(bits)?, y.bit_cast(bits)?, x.dtype());
    out = out.bit_cast(bits)?;
    dispatch!(bits, T in [u8, u16, u32, u64] => {
        let operands = (x.as_slice::<T>()?, y.as_slice::<T>()?);
        select(&walk, condition, operands, out.as_mut_slice::<T>()?);
        Ok::<_, OpError>(())
    })?;
    Ok(vec![out.bit_cast(dtype)?.into()])
}

fn select<T: Copy>(walk: &Walk<3>, condition: &[u8], (x, y): (&[T], &[T]), out: &mut [T]) {
    let (len, [by, left, right]) = walk.run();
    let mut rows = out.chunks_exact_mut(len.max(1));
    walk.for_each_run(|[c, i, j]| {
        let Some(row) = rows.next() else { return };
        for (k, slot) in row.iter_mut().enumerate() {
            let taken = condition[c + k * by] != 0;
            *slot = if taken { x[i + k * left] } else { y[j + k * right] };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::outputs;
    use hetra_ir::Node;

    fn op(name: &str) -> Node {
        Node::new(name, &[], &[])
    }

    fn check(node: Node, inputs: &[Tensor], wanted: &[i64]) {
        let out = outputs(&node, inputs).unwrap();
        assert_eq!(hetra_tensor::to_i64(&out[0]).unwrap(), wanted, "{}", node.op);
    }

    #[test]
    fn comparisons_and_booleans() {
        let nan = [Tensor::vector(&[1f32, f32::NAN]), Tensor::scalar(1f32)];
        check(op("Equal"), &nan, &[1, 0]);
        check(op("GreaterOrEqual"), &nan, &[1, 0]);
        check(op("Less"), &[Tensor::vector(&[1u64, u64::MAX]), Tensor::scalar(5u64)], &[1, 0]);
        let truth = |values: &[bool]| Tensor::from_bools(&[values.len()], values).unwrap();
        let pair = [truth(&[true, false]), truth(&[true])];
        check(op("Equal"), &pair, &[1, 0]);
        check(op("Xor"), &pair, &[0, 1]);
        check(op("Not"), &pair[..1], &[0, 1]);
        let texts = |values: &[&str]| {
            let values = values.iter().map(ToString::to_string).collect();
            Tensor::from_strings(&[2], values).unwrap()
        };
        check(op("Equal"), &[texts(&["a", "b"]), texts(&["a", "c"])], &[1, 0]);
        let choice = [truth(&[true, false]), texts(&["a", "b"]), texts(&["x", "y"])];
        let out = outputs(&op("Where"), &choice).unwrap();
        assert_eq!(out[0].as_strings().unwrap(), ["a", "y"]);
        assert!(outputs(&op("And"), &nan).is_err());
        assert!(outputs(&op("Less"), &pair).is_err());
    }

    #[test]
    fn bits() {
        let bytes = [Tensor::vector(&[0b1100u8, 255]), Tensor::vector(&[0b1010u8, 9])];
        check(op("BitwiseXor"), &bytes, &[0b0110, 246]);
        check(op("BitwiseNot"), &bytes[..1], &[0b1111_0011, 0]);
        check(op("BitShift").with("direction", "LEFT"), &bytes, &[0, 0]);
        let by = [Tensor::vector(&[16u64]), Tensor::vector(&[2u64, 64, u64::MAX])];
        check(op("BitShift").with("direction", "RIGHT"), &by, &[4, 0, 0]);
        assert!(outputs(&op("BitShift").with("direction", "UP"), &by).is_err());
    }

    #[test]
    fn where_broadcasts_three_ways() {
        let condition = Tensor::from_bools(&[2, 1], &[true, false]).unwrap();
        let x = Tensor::vector(&[1i16, 2, 3]);
        check(
            op("Where"),
            &[condition.clone(), x.clone(), Tensor::scalar(0i16)],
            &[1, 2, 3, 0, 0, 0],
        );
        assert!(outputs(&op("Where"), &[condition, x, Tensor::scalar(0i32)]).is_err());
    }

    #[test]
    fn odd_floats() {
        let x = [Tensor::vector(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0])];
        check(op("IsNaN"), &x, &[1, 0, 0, 0]);
        check(op("IsInf"), &x, &[0, 1, 1, 0]);
        check(op("IsInf").with("detect_negative", 0i64), &x, &[0, 1, 0, 0]);
    }
}
