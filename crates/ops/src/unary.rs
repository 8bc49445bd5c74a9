//! Functions of one number without attributes, one line each.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use hetra_tensor::Value;

use crate::context::EvalCtx;
use crate::def::{Kind, OpDef, onnx};
use crate::dispatch::dispatch;
use crate::elementwise::{
    infer_float, infer_number, infer_signed, map_float, map1, unary, upgrade_unary,
};
use crate::erf::erf;
use crate::error::OpError;
use crate::tape::flat;

const FLOAT: OpDef = OpDef {
    kind: Kind::Elementwise,
    infer: infer_float,
    upgrade: Some(upgrade_unary),
    ..OpDef::DEFAULT
};

/// A row per line: name, newest version, what it is, the function on f64, its rule of
/// differentiation.
macro_rules! floats {
    ($($name:literal $version:literal $doc:literal $f:expr, $gradient:expr;)*) => {
        &[&ABS, &NEG, &SIGN, &RELU, $(&OpDef {
            name: $name,
            doc: $doc,
            onnx: &[onnx("", $name, $version)],
            eval: |ctx| unary(ctx, $f),
            gradient: Some($gradient),
            ..FLOAT
        }),*]
    };
}

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = floats! {
    "Floor" 13 "The integer at or below." f64::floor, flat;
    "Ceil" 13 "The integer at or above." f64::ceil, flat;
    "Round" 22 "The nearest integer; halves go to the even one." f64::round_ties_even, flat;
    "Reciprocal" 13 "One over x." |x| 1.0 / x,
        |t| t.unary(|_, y| -y * y);
    "Sqrt" 13 "Square root." f64::sqrt,
        |t| t.unary(|_, y| 0.5 / y);
    "Exp" 13 "Exponential function." f64::exp,
        |t| t.unary(|_, y| y);
    "Log" 13 "Natural logarithm." f64::ln,
        |t| t.unary(|x, _| 1.0 / x);
    "Sin" 22 "Sine." f64::sin,
        |t| t.unary(|x, _| x.apply("Cos"));
    "Cos" 22 "Cosine." f64::cos,
        |t| t.unary(|x, _| -x.apply("Sin"));
    "Tan" 22 "Tangent." f64::tan,
        |t| t.unary(|_, y| y * y + 1.0);
    "Asin" 22 "Inverse sine." f64::asin,
        |t| t.unary(|x, _| 1.0 / (1.0 - x * x).apply("Sqrt"));
    "Acos" 22 "Inverse cosine." f64::acos,
        |t| t.unary(|x, _| -1.0 / (1.0 - x * x).apply("Sqrt"));
    "Atan" 22 "Inverse tangent." f64::atan,
        |t| t.unary(|x, _| 1.0 / (x * x + 1.0));
    "Sinh" 22 "Hyperbolic sine." f64::sinh,
        |t| t.unary(|x, _| x.apply("Cosh"));
    "Cosh" 22 "Hyperbolic cosine." f64::cosh,
        |t| t.unary(|x, _| x.apply("Sinh"));
    "Tanh" 13 "Hyperbolic tangent." f64::tanh,
        |t| t.unary(|_, y| 1.0 - y * y);
    "Asinh" 22 "Inverse hyperbolic sine." f64::asinh,
        |t| t.unary(|x, _| 1.0 / (x * x + 1.0).apply("Sqrt"));
    "Acosh" 22 "Inverse hyperbolic cosine." f64::acosh,
        |t| t.unary(|x, _| 1.0 / (x * x - 1.0).apply("Sqrt"));
    "Atanh" 22 "Inverse hyperbolic tangent." f64::atanh,
        |t| t.unary(|x, _| 1.0 / (1.0 - x * x));
    "Erf" 13 "Error function." erf,
        |t| t.unary(|x, _| (-x * x).apply("Exp") * FRAC_2_SQRT_PI);
    "Sigmoid" 13 "Logistic function, 1 / (1 + exp(-x))." sigmoid,
        |t| t.unary(|_, y| y * (1.0 - y));
    "Softplus" 22 "Smooth ramp, log(1 + exp(x))." softplus,
        |t| t.unary(|x, _| x.apply("Sigmoid"));
    "Softsign" 22 "Soft step, x / (1 + |x|)." |x| x / (1.0 + x.abs()),
        |t| t.unary(|x, _| {
            let slope = 1.0 / (x.apply("Abs") + 1.0);
            slope * slope
        });
    "HardSwish" 22 "Piecewise swish, x * clamp(x / 6 + 1/2, 0, 1)."
        |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        |t| t.unary(|x, _| {
            let slope = x.below(3.0).choose(x / 3.0 + 0.5, x.number(1.0));
            slope.only(x.above(-3.0))
        });
    "Mish" 22 "Smooth ramp, x * tanh(softplus(x))." |x| x * softplus(x).tanh(),
        |t| t.unary(|x, _| {
            let gate = x.apply("Softplus").apply("Tanh");
            gate + x * (1.0 - gate * gate) * x.apply("Sigmoid")
        });
};

static ABS: OpDef = OpDef {
    name: "Abs",
    doc: "Absolute value; the smallest integer of a signed dtype wraps to itself.",
    onnx: &[onnx("", "Abs", 13)],
    infer: infer_number,
    eval: |ctx| signed(ctx, f64::abs, i64::wrapping_abs),
    gradient: Some(|tape| tape.unary(|x, _| x.apply("Sign"))),
    ..FLOAT
};

static NEG: OpDef = OpDef {
    name: "Neg",
    doc: "Minus x; integers wrap.",
    onnx: &[onnx("", "Neg", 13)],
    infer: infer_signed,
    eval: |ctx| signed(ctx, |x| -x, i64::wrapping_neg),
    gradient: Some(|tape| tape.unary(|x, _| x.number(-1.0))),
    ..FLOAT
};

static SIGN: OpDef = OpDef {
    name: "Sign",
    doc: "-1, 0 or 1.",
    onnx: &[onnx("", "Sign", 13)],
    infer: infer_number,
    eval: |ctx| {
        // NaN and zeros stay what they are.
        signed(ctx, |x| if x == 0.0 || x.is_nan() { x } else { 1f64.copysign(x) }, i64::signum)
    },
    gradient: Some(flat),
    ..FLOAT
};

static RELU: OpDef = OpDef {
    name: "Relu",
    doc: "Ramp, max(x, 0).",
    onnx: &[onnx("", "Relu", 14)],
    infer: infer_number,
    eval: |ctx| signed(ctx, |x| if x < 0.0 { 0.0 } else { x }, |x| x.max(0)),
    gradient: Some(|tape| Ok(vec![Some(tape.dy(0).only(tape.x(0)?.above(0.0)))])),
    ..FLOAT
};

/// Floats through `float`, integers through `int` with wrapping. An unsigned 64-bit integer that
/// `int` would take for negative is clamped first: the functions here only look at its sign.
#[allow(clippy::useless_conversion, reason = "one of the types is i64")]
fn signed(
    ctx: &EvalCtx<'_>,
    float: impl Fn(f64) -> f64,
    int: impl Fn(i64) -> i64,
) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    if tensor.dtype().is_float() {
        return Ok(vec![map_float(tensor, float)?.into()]);
    }
    if tensor.dtype() == hetra_tensor::DType::U64 {
        let unsigned = |x: u64| i64::try_from(x).map_or_else(|_| large(x, &int), |x| int(x) as u64);
        return Ok(vec![map1(tensor, unsigned)?.into()]);
    }
    dispatch!(tensor.dtype(), T in [i8, i16, i32, i64, u8, u16, u32] => {
        map1::<T>(tensor, |x| int(i64::from(x)) as T).map(|tensor| vec![tensor.into()])
    })
}

/// A value over `i64::MAX`: what `int` leaves alone stays, else it is as the largest positive.
fn large(x: u64, int: &impl Fn(i64) -> i64) -> u64 {
    match int(i64::MAX) {
        i64::MAX => x,
        other => other as u64,
    }
}

/// 1 / (1 + exp(-x)); exp overflows to infinity for very negative x, which gives the right 0.
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// log(1 + exp(x)) without overflow.
pub(crate) fn softplus(x: f64) -> f64 {
    // `x * 0` keeps NaN, which max would drop.
    x.max(0.0) + (-x.abs()).exp().ln_1p() + if x.is_nan() { x } else { 0.0 }
}

/// The Gaussian error linear unit, exact.
pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// The Gaussian error linear unit, by its tanh formula.
pub(crate) fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

#[cfg(test)]
mod tests {
    use crate::case::outputs;
    use hetra_ir::Node;
    use hetra_tensor::{DType, Tensor, from_f64, to_f64};

    fn check(op: &str, dtype: DType, x: &[f64], wanted: &[f64]) {
        let node = Node::new(op, &[], &[]);
        let input = [from_f64(dtype, &[x.len(), 1], x).unwrap()];
        let out = outputs(&node, &input).unwrap();
        let got = to_f64(&out[0]).unwrap();
        let same = got.iter().zip(wanted).all(|(a, b)| a == b || a.is_nan() && b.is_nan());
        assert!(same && got.len() == wanted.len(), "{op} {dtype}: {got:?}, not {wanted:?}");
    }

    #[test]
    fn edge_cases() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
            check("Round", dtype, &[0.5, 1.5, 2.5, -0.5, -1.5], &[0.0, 2.0, 2.0, -0.0, -2.0]);
            check("Sign", dtype, &[-2.0, 0.0, nan, inf], &[-1.0, 0.0, nan, 1.0]);
            check("Relu", dtype, &[-2.0, nan, 3.0], &[0.0, nan, 3.0]);
            check("Softplus", dtype, &[-inf, nan, inf, 200.0], &[0.0, nan, inf, 200.0]);
            check("Sigmoid", dtype, &[-inf, 0.0, inf, -1e4], &[0.0, 0.5, 1.0, 0.0]);
            check("Reciprocal", dtype, &[0.0, 4.0], &[inf, 0.25]);
            check("Erf", dtype, &[0.0, inf, nan], &[0.0, 1.0, nan]);
        }
        check("Neg", DType::I8, &[-128.0, 5.0], &[-128.0, -5.0]);
        check("Abs", DType::I16, &[-300.0, 5.0], &[300.0, 5.0]);
        check("Sign", DType::U8, &[0.0, 5.0], &[0.0, 1.0]);
        let large = Tensor::vector(&[u64::MAX, 7, 0]);
        for (op, wanted) in [("Abs", [u64::MAX, 7, 0]), ("Sign", [1, 1, 0])] {
            let out = outputs(&Node::new(op, &[], &[]), std::slice::from_ref(&large)).unwrap();
            assert_eq!(out[0].as_slice::<u64>().unwrap(), wanted);
        }
        assert!(outputs(&Node::new("Sqrt", &[], &[]), &[large]).is_err());
    }
}
