//! Any number of operands with broadcasting: Min, Max, Sum, Mean.

use hetra_ir::Type;
use hetra_tensor::{DType, Tensor, Value};

use crate::context::{EvalCtx, InferCtx, infer_broadcast};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dispatch::dispatch;
use crate::elementwise::{Accepts, from_f32, map_float, map2, map2_float, to_f32, upgrade_unary};
use crate::error::OpError;
use crate::tape::{Gradients, Tape, Var, op};
use crate::work::{Work, per_output_element};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&MIN, &MAX, &SUM, &MEAN];

const VARIADIC: OpDef = OpDef {
    inputs: Arity::at_least(1),
    kind: Kind::Elementwise,
    infer: |ctx| infer_variadic(ctx, Accepts::Numbers),
    // Older versions did not broadcast: what they accept means the same now.
    upgrade: Some(upgrade_unary),
    work: |ctx, outputs| {
        let steps = ctx.len().saturating_sub(1).max(1) as f64;
        Work::ops(per_output_element(ctx, outputs).ops * steps)
    },
    ..OpDef::DEFAULT
};

/// `eval` of a choice between two; `$first` says when floats take the first.
macro_rules! choice {
    ($first:tt, $T:ident => $int:expr) => {
        |ctx| {
            if ctx.tensor(0)?.dtype().is_float() {
                // NaN wins: it is taken when first, and fails the comparison when second.
                let narrow = |x: f32, y: f32| if x.is_nan() || x $first y { x } else { y };
                let wide = |x: f64, y: f64| if x.is_nan() || x $first y { x } else { y };
                return fold(ctx, |a, b| map2_float(a, b, narrow, wide));
            }
            dispatch!(ctx.tensor(0)?.dtype(), $T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
                fold(ctx, |a, b| map2::<$T, $T>(a, b, $int))
            })
        }
    };
}

static MIN: OpDef = OpDef {
    name: "Min",
    doc: "The least of all inputs, with broadcasting; NaN wins.",
    onnx: &[onnx("", "Min", 13)],
    eval: choice!(<, T => Ord::min),
    gradient: Some(chosen),
    ..VARIADIC
};

static MAX: OpDef = OpDef {
    name: "Max",
    doc: "The greatest of all inputs, with broadcasting; NaN wins.",
    onnx: &[onnx("", "Max", 13)],
    eval: choice!(>, T => Ord::max),
    gradient: Some(chosen),
    ..VARIADIC
};

static SUM: OpDef = OpDef {
    name: "Sum",
    doc: "The sum of all inputs, with broadcasting.",
    onnx: &[onnx("", "Sum", 13)],
    infer: |ctx| infer_variadic(ctx, Accepts::Floats),
    eval: |ctx| sum(ctx, 1.0),
    gradient: Some(|tape| summed(tape, 1.0)),
    ..VARIADIC
};

static MEAN: OpDef = OpDef {
    name: "Mean",
    doc: "The mean of all inputs, with broadcasting.",
    onnx: &[onnx("", "Mean", 13)],
    infer: |ctx| infer_variadic(ctx, Accepts::Floats),
    eval: |ctx| sum(ctx, ctx.inputs.len() as f64),
    gradient: Some(|tape| summed(tape, tape.xs().len() as f64)),
    ..VARIADIC
};

/// What was chosen gets the gradient; equals share it.
fn chosen<'a>(tape: &'a Tape) -> Gradients<'a> {
    let (y, dy) = (tape.y(0), tape.dy(0));
    let xs: Vec<_> = tape.xs().into_iter().flatten().collect();
    let share = |x: &Var<'a>| y.number(1.0).only(x.with("Equal", y));
    let shares: Vec<_> = xs.iter().map(share).collect();
    let count = tape.op(op("Sum"), &shares);
    let dx = |(x, share): (&Var<'a>, &Var<'a>)| Some((dy * *share / count).sum_to(*x));
    Ok(xs.iter().zip(&shares).map(dx).collect())
}

fn summed(tape: &Tape, count: f64) -> Gradients<'_> {
    let dy = tape.dy(0) / count;
    Ok(tape.xs().into_iter().map(|x| Some(dy.sum_to(x?))).collect())
}

fn infer_variadic(ctx: &InferCtx<'_>, set: Accepts) -> Result<Vec<Type>, OpError> {
    for index in 0..ctx.len() {
        set.check(ctx, index)?;
        if let (Some(first), Some(other)) = (ctx.dtype_opt(0), ctx.dtype_opt(index))
            && first != other
        {
            return Err(OpError::input(index, first.name(), other.name()));
        }
    }
    infer_broadcast(ctx)
}

fn fold(
    ctx: &EvalCtx<'_>,
    step: impl Fn(&Tensor, &Tensor) -> Result<Tensor, OpError>,
) -> Result<Vec<Value>, OpError> {
    let mut result = ctx.tensor(0)?.clone();
    for index in 1..ctx.inputs.len() {
        result = step(&result, ctx.tensor(index)?)?;
    }
    Ok(vec![result.into()])
}

/// The sum divided by `count`. The halves add up in f32 and round once.
fn sum(ctx: &EvalCtx<'_>, count: f64) -> Result<Vec<Value>, OpError> {
    let dtype = ctx.tensor(0)?.dtype();
    let half = matches!(dtype, DType::F16 | DType::BF16);
    let operand = |index: usize| {
        let tensor = ctx.tensor(index)?;
        match tensor.dtype() == dtype {
            true if half => to_f32(tensor),
            true => Ok(tensor.clone()),
            false => Err(OpError::input(index, dtype.name(), tensor.describe())),
        }
    };
    let mut total = operand(0)?;
    Accepts::Floats.check_tensor(0, &total)?;
    for index in 1..ctx.inputs.len() {
        total = map2_float(&total, &operand(index)?, |x, y| x + y, |x, y| x + y)?;
    }
    if count != 1.0 {
        total = map_float(&total, |x| x / count)?;
    }
    Ok(vec![if half { from_f32(dtype, &total)? } else { total }.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::outputs;
    use hetra_ir::Node;
    use hetra_tensor::to_f64;

    #[test]
    fn operands_fold_from_the_left() {
        let check = |op: &str, inputs: &[Tensor], wanted: &[f64]| {
            let node = Node::new(op, &[], &[]);
            let out = outputs(&node, inputs).unwrap();
            let got = to_f64(&out[0]).unwrap();
            let same = got.iter().zip(wanted).all(|(a, b)| a == b || a.is_nan() && b.is_nan());
            assert!(same && got.len() == wanted.len(), "{op}: {got:?}, not {wanted:?}");
        };
        let (a, b) = (Tensor::vector(&[1f32, f32::NAN, 3.0]), Tensor::scalar(2f32));
        check("Max", &[a.clone(), b.clone()], &[2.0, f64::NAN, 3.0]);
        check("Min", &[b.clone(), a.clone(), b.clone()], &[1.0, f64::NAN, 2.0]);
        check("Sum", &[a.clone(), b.clone(), b.clone()], &[5.0, f64::NAN, 7.0]);
        check("Mean", &[b.clone(), Tensor::scalar(3f32)], &[2.5]);
        check("Mean", std::slice::from_ref(&b), &[2.0]);
        let half = Tensor::scalar(half::f16::from_f32(2048.0));
        let one = Tensor::scalar(half::f16::from_f32(1.0));
        check("Sum", &[half, one.clone(), one], &[2050.0]);
        check(
            "Max",
            &[Tensor::vector(&[1u64, u64::MAX]), Tensor::scalar(3u64)],
            &[3.0, u64::MAX as f64],
        );
        assert!(outputs(&Node::new("Max", &[], &[]), &[a, Tensor::scalar(1i32)]).is_err());
        assert!(outputs(&Node::new("Sum", &[], &[]), &[Tensor::scalar(1i32)]).is_err());
    }
}
