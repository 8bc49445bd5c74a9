//! What NumPy and the Python array API have as functions of their own and ONNX has not: exact near
//! zero (Expm1, Log1p), by sign and place (CopySign, NextAfter), and the like. Written as other
//! operators they would be less exact, or wrong at infinities.

use hetra_tensor::Value;

use crate::arithmetic::map2;
use crate::context::EvalCtx;
use crate::def::{Arity, Kind, OpDef};
use crate::dispatch::dispatch;
use crate::elementwise::{Accepts, infer_float, infer_pair, map2_f64, same_dtype, unary};
use crate::error::OpError;

/// A row per line: name, what it is, the function on f64.
macro_rules! rows {
    (
        one: $($name:literal $doc:literal $f:expr;)*
        two: $($name2:literal $doc2:literal $f2:expr;)*
    ) => {
        /// The operators of this file.
        pub(crate) static OPS: &[&OpDef] = &[&FLOOR_DIVIDE, &NEXT_AFTER, $(&OpDef {
            name: $name,
            doc: $doc,
            kind: Kind::Elementwise,
            infer: infer_float,
            eval: |ctx| unary(ctx, $f),
            ..OpDef::DEFAULT
        },)* $(&OpDef {
            name: $name2,
            doc: $doc2,
            eval: |ctx| Ok(vec![map2_f64(ctx.tensor(0)?, ctx.tensor(1)?, $f2)?.into()]),
            ..BINARY
        },)*];
    };
}

const BINARY: OpDef = OpDef {
    inputs: Arity::exactly(2),
    kind: Kind::Elementwise,
    infer: |ctx| infer_pair(ctx, Accepts::Floats),
    ..OpDef::DEFAULT
};

rows! {
    one:
    "hetra.Expm1" "exp(x) - 1, exact near 0." f64::exp_m1;
    "hetra.Log1p" "log(1 + x), exact near 0." f64::ln_1p;
    "hetra.Log2" "Logarithm to base 2." f64::log2;
    "hetra.Log10" "Logarithm to base 10." f64::log10;
    "hetra.Trunc" "The integer next to x towards 0." f64::trunc;
    two:
    "hetra.Atan2" "The angle of the point (x2, x1), from -pi to pi." f64::atan2;
    "hetra.Hypot" "sqrt(x1 * x1 + x2 * x2), without overflow on the way." f64::hypot;
    "hetra.CopySign" "The magnitude of x1 with the sign of x2." f64::copysign;
    "hetra.LogAddExp" "log(exp(x1) + exp(x2)), without overflow on the way." log_add_exp;
}

static FLOOR_DIVIDE: OpDef = OpDef {
    name: "hetra.FloorDivide",
    doc: "The quotient rounded towards minus infinity; of integers by 0 it is 0.",
    infer: |ctx| infer_pair(ctx, Accepts::Numbers),
    eval: floor_divide,
    ..BINARY
};

static NEXT_AFTER: OpDef = OpDef {
    name: "hetra.NextAfter",
    doc: "The number next to x1 of its dtype (f32, f64), towards x2.",
    eval: |ctx| {
        let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
        same_dtype(a, b)?;
        dispatch!(a.dtype(), T in [f32, f64] => {
            let next = |x: T, y: T| match x.partial_cmp(&y) {
                None => x + y,
                Some(std::cmp::Ordering::Equal) => y,
                Some(std::cmp::Ordering::Less) => x.next_up(),
                Some(std::cmp::Ordering::Greater) => x.next_down(),
            };
            map2::<T, T>(a, b, next).map(|tensor| vec![tensor.into()])
        })
    },
    ..BINARY
};

fn log_add_exp(x: f64, y: f64) -> f64 {
    // Equal infinities have no difference.
    if x == y {
        return x + std::f64::consts::LN_2;
    }
    let (low, high) = (x.min(y), x.max(y));
    if x.is_nan() || y.is_nan() { f64::NAN } else { high + (low - high).exp().ln_1p() }
}

fn floor_divide(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    same_dtype(a, b)?;
    if a.dtype().is_float() {
        // As Python has it: of the exact remainder, so that it agrees with it.
        let quotient = |x: f64, y: f64| {
            if y == 0.0 || !x.is_finite() || !y.is_finite() {
                return (x / y).floor();
            }
            let rest = x % y;
            let whole = (x - rest) / y;
            let whole = if rest != 0.0 && (rest < 0.0) != (y < 0.0) { whole - 1.0 } else { whole };
            if whole == 0.0 { 0f64.copysign(x / y) } else { whole.round() }
        };
        return Ok(vec![map2_f64(a, b, quotient)?.into()]);
    }
    if Accepts::Unsigned.has(a.dtype()) {
        return dispatch!(a.dtype(), T in [u8, u16, u32, u64] => {
            map2::<T, T>(a, b, |x, y| x.checked_div(y).unwrap_or(0)).map(|t| vec![t.into()])
        });
    }
    dispatch!(a.dtype(), T in [i8, i16, i32, i64] => {
        let quotient = |x: T, y: T| {
            if y == 0 {
                return 0;
            }
            let (whole, rest) = (x.wrapping_div(y), x.wrapping_rem(y));
            if rest != 0 && (rest < 0) != (y < 0) { whole - 1 } else { whole }
        };
        map2::<T, T>(a, b, quotient).map(|t| vec![t.into()])
    })
}

#[cfg(test)]
mod tests {
    use crate::case::{Case, check};
    use hetra_tensor::{DType, Tensor};

    fn two(op: &str, a: &[f64], b: &[f64]) -> Case {
        Case::new(op).tensor(&Tensor::vector(a)).tensor(&Tensor::vector(b))
    }

    #[test]
    fn quotients_round_down() {
        let (a, b) = ([7.0, -7.0, 7.0, -7.0, 1.0], [2.0, 2.0, -2.0, -2.0, 0.1]);
        check(&two("hetra.FloorDivide", &a, &b), 0, &[5], &[3.0, -4.0, -4.0, 3.0, 9.0]);
        let ints = Case::new("hetra.FloorDivide");
        let ints = ints.tensor(&Tensor::vector(&[7i32, -7, i32::MIN, 1]));
        let ints = ints.tensor(&Tensor::vector(&[-2i32, 2, -1, 0]));
        check(&ints, 0, &[4], &[-4.0, -4.0, f64::from(i32::MIN), 0.0]);
    }

    #[test]
    fn nothing_is_lost_at_the_edges() {
        let tiny =
            Case::new("hetra.Expm1").tensor(&Tensor::vector(&[1e-300f64, f64::NEG_INFINITY]));
        check(&tiny, 0, &[2], &[1e-300, -1.0]);
        let inf = f64::INFINITY;
        check(
            &two("hetra.LogAddExp", &[-inf, 1000.0, inf], &[-inf, 0.0, inf]),
            0,
            &[3],
            &[-inf, 1000.0, inf],
        );
        check(&two("hetra.Hypot", &[3e200], &[4e200]), 0, &[1], &[5e200]);
        check(&two("hetra.CopySign", &[1.0, 2.0], &[-0.0, 0.0]), 0, &[2], &[-1.0, 2.0]);
        check(
            &two("hetra.NextAfter", &[1.0, 0.0], &[2.0, -1.0]),
            0,
            &[2],
            &[1.0 + f64::EPSILON, -f64::from_bits(1)],
        );
        let half = two("hetra.Atan2", &[0.0, -0.0], &[-1.0, -1.0]);
        check(&half, 0, &[2], &[std::f64::consts::PI, -std::f64::consts::PI]);
    }

    #[test]
    fn dtypes_are_checked() {
        let wrong = Case::new("hetra.Log2").tensor(&Tensor::vector(&[1i32]));
        assert!(wrong.eval().is_err());
        let halves = Tensor::from_bytes(DType::F16, &[1], &[0, 0]).unwrap();
        assert!(Case::new("hetra.NextAfter").tensor(&halves).tensor(&halves).eval().is_err());
    }
}
