//! Arithmetic on two numbers with broadcasting: Add, Sub, Mul, Div, Pow, Mod.

use hetra_ir::Type;
use hetra_tensor::{DType, Rounding, Tensor, Value, cast, from_i64, to_i64};

use crate::context::{EvalCtx, InferCtx, infer_broadcast};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dispatch::dispatch;
use crate::elementwise::{Accepts, infer_pair, map2_float, pair, upgrade_pair, walk2, widen, zip};
use crate::error::OpError;
use crate::tape::{Gradients, Tape};

pub(crate) use crate::elementwise::map2;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&ADD, &SUB, &MUL, &DIV, &POW, &MOD];

const BINARY: OpDef = OpDef {
    inputs: Arity::exactly(2),
    kind: Kind::Elementwise,
    infer: |ctx| infer_pair(ctx, Accepts::Numbers),
    upgrade: Some(upgrade_pair),
    ..OpDef::DEFAULT
};

/// `eval` of an operator that floats have, and integers as a function of the two.
macro_rules! arithmetic {
    ($float:tt, $T:ident => $int:expr) => {
        |ctx| {
            let (a, b) = pair(ctx)?;
            if a.dtype().is_float() {
                let narrow = |x: f32, y: f32| x $float y;
                return Ok(vec![map2_float(&a, &b, narrow, |x, y| x $float y)?.into()]);
            }
            dispatch!(a.dtype(), $T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
                map2::<$T, $T>(&a, &b, $int).map(|tensor| vec![tensor.into()])
            })
        }
    };
}

static ADD: OpDef = OpDef {
    name: "Add",
    doc: "Sum, with broadcasting; integers wrap.",
    onnx: &[onnx("", "Add", 14)],
    eval: arithmetic!(+, T => T::wrapping_add),
    gradient: Some(|tape| tape.binary(|_, _, y| (y.number(1.0), y.number(1.0)))),
    ..BINARY
};

static SUB: OpDef = OpDef {
    name: "Sub",
    doc: "Difference, with broadcasting; integers wrap.",
    onnx: &[onnx("", "Sub", 14)],
    eval: arithmetic!(-, T => T::wrapping_sub),
    gradient: Some(|tape| tape.binary(|_, _, y| (y.number(1.0), y.number(-1.0)))),
    ..BINARY
};

static MUL: OpDef = OpDef {
    name: "Mul",
    doc: "Product, with broadcasting; integers wrap.",
    onnx: &[onnx("", "Mul", 14)],
    eval: arithmetic!(*, T => T::wrapping_mul),
    gradient: Some(|tape| tape.binary(|a, b, _| (b, a))),
    ..BINARY
};

static DIV: OpDef = OpDef {
    name: "Div",
    doc: "Quotient, with broadcasting; integers truncate, and division by 0 gives 0.",
    onnx: &[onnx("", "Div", 14)],
    eval: arithmetic!(/, T => |x, y| if y == 0 { 0 } else { x.wrapping_div(y) }),
    gradient: Some(|tape| tape.binary(|_, b, y| (1.0 / b, -y / b))),
    ..BINARY
};

static POW: OpDef = OpDef {
    name: "Pow",
    doc: "Power, in the dtype of the base, with broadcasting.",
    onnx: &[onnx("", "Pow", 15)],
    infer: infer_pow,
    eval: eval_pow,
    gradient: Some(pow_gradient),
    ..BINARY
};

static MOD: OpDef = OpDef {
    name: "Mod",
    doc: "Remainder with the sign of the divisor or, with `fmod`, of the dividend.",
    onnx: &[onnx("", "Mod", 13)],
    upgrade: None,
    eval: eval_mod,
    ..BINARY
};

fn infer_pow(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    Accepts::Numbers.check(ctx, 0)?;
    Accepts::Numbers.check(ctx, 1)?;
    if ctx.attrs().has("axis") {
        return infer_pair(ctx, Accepts::Floats);
    }
    infer_broadcast(ctx)
}

fn eval_pow(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (base, exponent) = pair(ctx)?;
    Accepts::Numbers.check_tensor(0, &base)?;
    Accepts::Numbers.check_tensor(1, &exponent)?;
    let dtype = base.dtype();
    if dtype == DType::F32 && exponent.dtype() == DType::F32 {
        let power = |x: f32, y: f32| f64::from(x).powf(f64::from(y)) as f32;
        return Ok(vec![map2(&base, &exponent, power)?.into()]);
    }
    let (shape, walk) = walk2(&base, &exponent)?;
    if dtype.is_int() && exponent.dtype().is_int() {
        let mut out = Tensor::zeros(DType::I64, &shape)?;
        let wide = exponent.dtype() == DType::U64;
        let operands = (&to_i64(&base)?[..], &to_i64(&exponent)?[..]);
        zip(&walk, operands, out.as_mut_slice::<i64>()?, |x, y| int_power(x, y, wide));
        return Ok(vec![from_i64(dtype, &shape, out.as_slice::<i64>()?)?.into()]);
    }
    let wide = map2::<f64, f64>(&widen(&base)?, &widen(&exponent)?, f64::powf)?;
    Ok(vec![cast(&wide, dtype, true, Rounding::NearestEven)?.into()])
}

/// With respect to the base 0 where the exponent is, with respect to the exponent 0 where the base
/// is not above 0: there the function or its logarithm ends.
fn pow_gradient(tape: &Tape) -> Gradients<'_> {
    let exponent = tape.x(1)?;
    let dxs = tape.binary(|base, b, y| {
        let b = b.with("CastLike", base);
        let by_base =
            (b * base.with("Pow", b - 1.0)).only(b.with("Equal", b.number(0.0)).apply("Not"));
        (by_base, (y * base.apply("Log")).only(base.above(0.0)))
    })?;
    Ok(vec![dxs[0], dxs[1].map(|dx| dx.with("CastLike", exponent))])
}

/// Wraps; a negative exponent gives the reciprocal, truncated. `wide`: the exponent is a `u64`.
fn int_power(base: i64, exponent: i64, wide: bool) -> i64 {
    if exponent < 0 && !wide {
        return match base {
            1 => 1,
            -1 if exponent % 2 == 0 => 1,
            -1 => -1,
            _ => 0,
        };
    }
    let (mut result, mut square, mut left) = (1i64, base, exponent as u64);
    while left > 0 {
        if left & 1 == 1 {
            result = result.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        left >>= 1;
    }
    result
}

fn eval_mod(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let dividend_sign = ctx.attrs().flag_or("fmod", false)?;
    if a.dtype().is_float() {
        // Sign of the dividend: exact in any precision. Sign of the divisor: as Python has it.
        let floor = |x: f64, y: f64| {
            let rest = x % y;
            match rest {
                0.0 => 0f64.copysign(y),
                _ if (rest < 0.0) != (y < 0.0) => rest + y,
                _ => rest,
            }
        };
        let modulo = |x, y| if dividend_sign { x % y } else { floor(x, y) };
        return Ok(vec![crate::elementwise::map2_f64(a, b, modulo)?.into()]);
    }
    if Accepts::Unsigned.has(a.dtype()) {
        return dispatch!(a.dtype(), T in [u8, u16, u32, u64] => {
            map2::<T, T>(a, b, |x, y| x.checked_rem(y).unwrap_or(0)).map(|t| vec![t.into()])
        });
    }
    dispatch!(a.dtype(), T in [i8, i16, i32, i64] => {
        let modulo = |x: T, y: T| {
            if y == 0 {
                return 0;
            }
            let rest = x.wrapping_rem(y);
            let other_side = rest != 0 && (rest < 0) != (y < 0);
            if other_side && !dividend_sign { rest + y } else { rest }
        };
        map2::<T, T>(a, b, modulo).map(|t| vec![t.into()])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::outputs;
    use hetra_ir::Node;

    fn ints(op: Node, dtype: DType, a: &[i64], b: &[i64], wanted: &[i64]) {
        let make = |values: &[i64]| from_i64(dtype, &[values.len()], values).unwrap();
        let inputs = [make(a), make(b)];
        let out = outputs(&op, &inputs).unwrap();
        assert_eq!(to_i64(&out[0]).unwrap(), wanted, "{} {dtype}", op.op);
    }

    fn node(op: &str) -> Node {
        Node::new(op, &[], &[])
    }

    #[test]
    fn integers_wrap_and_divide_by_zero() {
        ints(node("Add"), DType::U8, &[250, 1], &[10], &[4, 11]);
        ints(node("Sub"), DType::U64, &[0, 5], &[1, 2], &[-1, 3]);
        ints(node("Mul"), DType::I8, &[100], &[2, -1], &[-56, -100]);
        ints(
            node("Div"),
            DType::I32,
            &[7, -7, 1, i64::from(i32::MIN)],
            &[2, 2, 0, -1],
            &[3, -3, 0, i64::from(i32::MIN)],
        );
        ints(node("Mod"), DType::I32, &[-4, 7, 5, 3], &[3, -3, 8, 0], &[2, -2, 5, 0]);
        ints(node("Mod").with("fmod", 1), DType::I64, &[-4, 7], &[3, -3], &[-1, 1]);
        ints(node("Mod"), DType::U8, &[200, 7], &[3, 0], &[2, 0]);
        ints(node("Pow"), DType::I32, &[2, -3, 2, -1], &[10, 3, -1, -3], &[1024, -27, 0, -1]);
    }

    #[test]
    fn mixed_powers_keep_the_base() {
        let (base, exponent) = (Tensor::vector(&[1i32, 2, 3]), Tensor::vector(&[4f32, 0.5, 2.0]));
        let out = outputs(&node("Pow"), &[base.clone(), exponent.clone()]).unwrap();
        assert_eq!(out[0].as_slice::<i32>().unwrap(), [1, 1, 9]);
        let out = outputs(&node("Pow"), &[exponent, base]).unwrap();
        assert_eq!(out[0].as_slice::<f32>().unwrap(), [4.0, 0.25, 8.0]);
    }

    #[test]
    fn the_old_axis_aligns_the_second_input() {
        let a = Tensor::zeros(DType::F32, &[2, 3, 4]).unwrap();
        let b = Tensor::vector(&[1f32, 2.0, 3.0]);
        let op = node("Add").with("axis", 1);
        let out = outputs(&op, &[a.clone(), b.clone()]).unwrap();
        assert_eq!(out[0].as_slice::<f32>().unwrap()[..5], [1.0, 1.0, 1.0, 1.0, 2.0]);
        for axis in [3, -4, i64::MIN, i64::MAX] {
            assert!(outputs(&node("Add").with("axis", axis), &[a.clone(), b.clone()]).is_err());
        }
        assert!(outputs(&node("Add"), &[a.clone(), b]).is_err());
        assert!(outputs(&node("Add"), &[a, Tensor::scalar(1i64)]).is_err());
    }
}
