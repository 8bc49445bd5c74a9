//! Reductions along axes.
//!
//! The tensor is first laid out so that what is reduced together is contiguous; then each row
//! gives one number. Floats reduce in f64 and round once; integers reduce in i128 and wrap.

use hetra_ir::{Dim, Node, Type};
use hetra_tensor::{DType, Element, Tensor, from_f64, to_f64};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::def::{Arity, Kind, OpDef, Upgrade, onnx};
use crate::dispatch::dispatch;
use crate::error::OpError;
use crate::tape::{Gradients, Tape, Var};
use crate::work::per_input_element;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] =
    &[&SUM, &MEAN, &MAX, &MIN, &PROD, &L1, &L2, &LOG_SUM, &LOG_SUM_EXP, &SUM_SQUARE];

const REDUCE: OpDef = OpDef {
    inputs: Arity::between(1, 2),
    kind: Kind::Reduce,
    infer: infer_reduce,
    work: per_input_element,
    upgrade: Some(|up: &mut Upgrade<'_>| up.attr_to_input("axes", 1)),
    ..OpDef::DEFAULT
};

/// How one row becomes one number.
struct Rule {
    float: fn(&[f64]) -> f64,
    int: fn(&mut dyn Iterator<Item = i128>, usize) -> i128,
    /// The result of an empty row of integers.
    empty: Empty,
}

#[derive(Clone, Copy, PartialEq)]
enum Empty {
    AsComputed,
    Lowest,
    Highest,
}

macro_rules! reduction {
    ($row:ident, $name:literal, $version:literal, $doc:literal, $rule:expr, $gradient:expr) => {
        static $row: OpDef = OpDef {
            name: $name,
            doc: $doc,
            onnx: &[onnx("", $name, $version)],
            eval: |ctx| Ok(vec![eval_reduce(ctx, &$rule)?.into()]),
            gradient: $gradient,
            ..REDUCE
        };
    };
}

reduction!(
    SUM,
    "ReduceSum",
    13,
    "Sum along axes.",
    Rule {
        float: |row| row.iter().sum::<f64>() + 0.0,
        int: |row, _| row.fold(0, i128::wrapping_add),
        empty: Empty::AsComputed,
    },
    Some(|tape| reduced(tape, |r| r.dy.with("Expand", r.x.shape())))
);
reduction!(
    MEAN,
    "ReduceMean",
    18,
    "Mean along axes; integers truncate, no elements give NaN or 0.",
    Rule {
        float: |row| row.iter().sum::<f64>() / row.len() as f64,
        int: |row, count| row.fold(0, i128::wrapping_add) / (count.max(1) as i128),
        empty: Empty::AsComputed,
    },
    Some(|tape| { reduced(tape, |r| { (r.dy * r.y.share_of(r.x)).with("Expand", r.x.shape()) }) })
);
reduction!(
    MAX,
    "ReduceMax",
    20,
    "Maximum along axes; no elements give the least value.",
    Rule {
        float: |row| row.iter().copied().fold(f64::NEG_INFINITY, larger),
        int: |row, _| row.max().unwrap_or(0),
        empty: Empty::Lowest,
    },
    Some(extreme_gradient)
);
reduction!(
    MIN,
    "ReduceMin",
    20,
    "Minimum along axes; no elements give the greatest value.",
    Rule {
        float: |row| -row.iter().map(|value| -value).fold(f64::NEG_INFINITY, larger),
        int: |row, _| row.min().unwrap_or(0),
        empty: Empty::Highest,
    },
    Some(extreme_gradient)
);
reduction!(
    PROD,
    "ReduceProd",
    18,
    "Product along axes.",
    Rule {
        float: |row| row.iter().product(),
        int: |row, _| row.fold(1, wrapping_product),
        empty: Empty::AsComputed,
    },
    None
);
reduction!(
    L1,
    "ReduceL1",
    18,
    "Sum of magnitudes along axes.",
    Rule {
        float: |row| row.iter().map(|value| value.abs()).sum::<f64>() + 0.0,
        int: |row, _| row.map(i128::abs).fold(0, i128::wrapping_add),
        empty: Empty::AsComputed,
    },
    Some(|tape| reduced(tape, |r| r.dy * r.x.apply("Sign")))
);
reduction!(
    L2,
    "ReduceL2",
    18,
    "Root of the sum of squares along axes.",
    Rule {
        float: |row| (sum_of_squares(row)).sqrt(),
        int: |row, _| (row.map(|value| (value as f64).powi(2)).sum::<f64>()).sqrt() as i128,
        empty: Empty::AsComputed,
    },
    // Of zeros it is a corner, as Abs has one at 0.
    Some(|tape| {
        reduced(tape, |r| {
            let corner = r.y.with("Equal", r.y.number(0.0));
            r.dy * (r.x / r.y).only(corner.apply("Not"))
        })
    })
);
reduction!(
    LOG_SUM,
    "ReduceLogSum",
    18,
    "Logarithm of the sum along axes.",
    Rule {
        float: |row| (row.iter().sum::<f64>() + 0.0).ln(),
        int: |row, _| (row.map(|value| value as f64).sum::<f64>() + 0.0).ln() as i128,
        empty: Empty::AsComputed,
    },
    Some(|tape| reduced(tape, |r| (r.dy * (-r.y).apply("Exp")).with("Expand", r.x.shape())))
);
reduction!(
    LOG_SUM_EXP,
    "ReduceLogSumExp",
    18,
    "Logarithm of the sum of exponentials along axes.",
    Rule {
        float: log_sum_exp,
        int: |row, _| log_sum_exp(&row.map(|value| value as f64).collect::<Vec<_>>()) as i128,
        empty: Empty::AsComputed,
    },
    Some(|tape| reduced(tape, |r| r.dy * (r.x - r.y).apply("Exp")))
);
reduction!(
    SUM_SQUARE,
    "ReduceSumSquare",
    18,
    "Sum of squares along axes.",
    Rule {
        float: sum_of_squares,
        int: |row, _| row.map(|value| wrapping_product(value, value)).fold(0, i128::wrapping_add),
        empty: Empty::AsComputed,
    },
    Some(|tape| reduced(tape, |r| r.dy * r.x * 2.0))
);

/// What a rule of differentiation of a reduction sees; the reduced axes of `y` and of the gradient
/// `dy` by it have extent 1.
struct Reduced<'a> {
    tape: &'a Tape,
    x: Var<'a>,
    y: Var<'a>,
    dy: Var<'a>,
}

impl<'a> Reduced<'a> {
    /// Another reduction of a tensor of x's shape, along the same axes.
    fn again(tape: &'a Tape, name: &str, x: Var<'a>) -> Var<'a> {
        let mut inputs = tape.xs();
        inputs[0] = Some(x);
        let node = Node { op: name.to_string(), ..tape.node() };
        tape.call(node.with("keepdims", 1i64), &inputs, 1)[0]
    }
}

fn reduced<'a>(tape: &'a Tape, dx: impl FnOnce(Reduced<'a>) -> Var<'a>) -> Gradients<'a> {
    let x = tape.x(0)?;
    let y = Reduced::again(tape, &tape.node().op, x);
    let dy = tape.dy(0).reshape_as(y);
    Ok(vec![Some(dx(Reduced { tape, x, y, dy }))])
}

/// What was chosen gets the gradient; equals share it.
fn extreme_gradient(tape: &Tape) -> Gradients<'_> {
    reduced(tape, |r| {
        let share = r.x.number(1.0).only(r.x.with("Equal", r.y));
        r.dy * share / Reduced::again(r.tape, "ReduceSum", share)
    })
}

/// The larger number, or NaN when either is.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// A product that is right in its low 64 bits, whatever the factors so far.
fn wrapping_product(a: i128, b: i128) -> i128 {
    a.wrapping_mul(b)
}

fn sum_of_squares(row: &[f64]) -> f64 {
    row.iter().map(|value| value * value).sum::<f64>() + 0.0
}

/// Shifted by the maximum, so that nothing overflows.
pub(crate) fn log_sum_exp(row: &[f64]) -> f64 {
    let peak = row.iter().copied().fold(f64::NEG_INFINITY, larger);
    if peak.is_infinite() || row.is_empty() {
        // All are -inf (or there are none), or one is +inf: that is the answer.
        return peak;
    }
    peak + row.iter().map(|value| (value - peak).exp()).sum::<f64>().ln()
}

/// Which axes a reduction reduces: sorted, each once. `None` where the list is not known.
pub(crate) fn reduced_axes(
    axes: Option<&[i64]>,
    noop: bool,
    rank: usize,
) -> Result<Vec<usize>, OpError> {
    let axes = match axes {
        Some(axes) if !axes.is_empty() => axes,
        _ if noop => return Ok(vec![]),
        _ => return Ok((0..rank).collect()),
    };
    let mut resolved =
        axes.iter().map(|&axis| resolve_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
    resolved.sort_unstable();
    resolved.dedup();
    Ok(resolved)
}

/// The tensor with `axes` moved last, and how many elements they hold together.
pub(crate) fn rows_along(tensor: &Tensor, axes: &[usize]) -> Result<(Tensor, usize), OpError> {
    let extents: Vec<usize> = axes.iter().map(|&axis| tensor.shape()[axis]).collect();
    let length = hetra_tensor::element_count(&extents)?;
    let kept = (0..tensor.rank()).filter(|axis| !axes.contains(axis));
    let order: Vec<usize> = kept.chain(axes.iter().copied()).collect();
    if order.is_sorted() {
        return Ok((tensor.clone(), length));
    }
    Ok((tensor.view().permute(&order)?.to_tensor()?, length))
}

/// The shape after a reduction.
pub(crate) fn reduced_shape<D: Clone>(shape: &[D], axes: &[usize], keep: bool, one: D) -> Vec<D> {
    let extent = |(axis, extent): (usize, &D)| match (axes.contains(&axis), keep) {
        (false, _) => Some(extent.clone()),
        (true, true) => Some(one.clone()),
        (true, false) => None,
    };
    shape.iter().enumerate().filter_map(extent).collect()
}

fn eval_reduce(ctx: &EvalCtx<'_>, rule: &Rule) -> Result<Tensor, OpError> {
    let tensor = ctx.tensor(0)?;
    let noop = ctx.attrs().flag_or("noop_with_empty_axes", false)?;
    let axes = reduced_axes(ctx.ints_opt(1)?.as_deref(), noop, tensor.rank())?;
    let keep = ctx.attrs().flag_or("keepdims", true)?;
    let shape = reduced_shape(tensor.shape(), &axes, keep, 1);
    let (laid, length) = rows_along(tensor, &axes)?;
    let rows = hetra_tensor::element_count(&shape)?;
    let dtype = tensor.dtype();
    if dtype.is_float() {
        // The output is checked against the memory limit before anything of its size is made.
        Tensor::zeros(dtype, &shape)?;
        let values = to_f64(&laid)?;
        let row = |index: usize| &values[index * length..(index + 1) * length];
        let results: Vec<f64> = (0..rows).map(|index| (rule.float)(row(index))).collect();
        return Ok(from_f64(dtype, &shape, &results)?);
    }
    if dtype == DType::Bool {
        let bytes = Tensor::from_slice(laid.shape(), laid.as_bools()?)?;
        let range = (0, 1);
        let reduced = reduce_ints::<u8>(&bytes, &shape, length, rule, range)?;
        return Ok(reduced.bit_cast(DType::Bool)?);
    }
    let range = dtype.int_range().unwrap_or((0, 0));
    dispatch!(dtype, T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
        reduce_ints::<T>(&laid, &shape, length, rule, range)
    })
}

/// An integer that i128 holds.
trait Int: Element + Copy + Into<i128> {
    fn wrapped(value: i128) -> Self;
}

macro_rules! ints {
    ($($int:ident),*) => {
        $(impl Int for $int { fn wrapped(value: i128) -> $int { value as $int } })*
    };
}

ints!(i8, i16, i32, i64, u8, u16, u32, u64);

fn reduce_ints<T: Int>(
    laid: &Tensor,
    shape: &[usize],
    length: usize,
    rule: &Rule,
    range: (i128, i128),
) -> Result<Tensor, OpError> {
    let mut out = Tensor::zeros(T::DTYPE, shape)?;
    let values = laid.as_slice::<T>()?;
    for (index, slot) in out.as_mut_slice::<T>()?.iter_mut().enumerate() {
        let row = &values[index * length..(index + 1) * length];
        *slot = T::wrapped(match rule.empty {
            Empty::Lowest if row.is_empty() => range.0,
            Empty::Highest if row.is_empty() => range.1,
            _ => (rule.int)(&mut row.iter().map(|&value| value.into()), length),
        });
    }
    Ok(out)
}

fn infer_reduce(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(0);
    if let Some(dtype) = dtype
        && (dtype == DType::String || dtype.is_complex())
    {
        return Err(OpError::input(0, "real numbers", dtype.name()));
    }
    let keep = ctx.attrs().flag_or("keepdims", true)?;
    let Some(dims) = ctx.dims(0) else { return Ok(vec![InferCtx::make(dtype, None)]) };
    let axes = ctx.known_ints(1);
    if ctx.has(1) && axes.is_none() {
        let dims = keep.then(|| vec![Dim::Unknown; dims.len()]);
        return Ok(vec![InferCtx::make(dtype, dims)]);
    }
    let noop = ctx.attrs().flag_or("noop_with_empty_axes", false)?;
    let axes = reduced_axes(axes.as_deref(), noop, dims.len())?;
    Ok(vec![InferCtx::make(dtype, Some(reduced_shape(dims, &axes, keep, Dim::Known(1))))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{floats, iota, node, run};

    fn axes(list: &[i64]) -> Option<Tensor> {
        Some(Tensor::vector(list))
    }

    #[test]
    fn reductions_of_floats() {
        let check = |op: &str, axis: &[i64], keep: i64, wanted: &[f32]| {
            let node = node(op, 1).with("keepdims", keep);
            let y = run(node, &[iota(&[2, 3]), axes(axis)]).unwrap().remove(0);
            for (got, wanted) in y.as_slice::<f32>().unwrap().iter().zip(wanted) {
                assert!((got - wanted).abs() < 1e-6, "{op}: {got}, wanted {wanted}");
            }
            assert_eq!(y.len(), wanted.len());
        };
        check("ReduceSum", &[0], 1, &[3.0, 5.0, 7.0]);
        check("ReduceMean", &[-1], 0, &[1.0, 4.0]);
        check("ReduceMax", &[], 1, &[5.0]);
        check("ReduceMin", &[1, 0], 0, &[0.0]);
        check("ReduceProd", &[1], 1, &[0.0, 60.0]);
        check("ReduceL1", &[0], 1, &[3.0, 5.0, 7.0]);
        check("ReduceL2", &[0], 1, &[3.0, 17f32.sqrt(), 29f32.sqrt()]);
        check("ReduceLogSum", &[1], 1, &[3f32.ln(), 12f32.ln()]);
        check("ReduceLogSumExp", &[1], 1, &[2.407_606, 5.407_606]);
        check("ReduceSumSquare", &[1], 1, &[5.0, 50.0]);
    }

    #[test]
    fn empty_sets_and_empty_axes() {
        let check = |op: &str, wanted: f32| {
            let empty = floats(&[2, 0], &[]);
            let y = run(node(op, 1), &[empty, axes(&[1])]).unwrap().remove(0);
            let got = y.as_slice::<f32>().unwrap()[0];
            assert!(got == wanted && got.is_sign_negative() == wanted.is_sign_negative(), "{op}");
        };
        check("ReduceSum", 0.0);
        check("ReduceProd", 1.0);
        check("ReduceMax", f32::NEG_INFINITY);
        check("ReduceMin", f32::INFINITY);
        check("ReduceLogSum", f32::NEG_INFINITY);
        check("ReduceLogSumExp", f32::NEG_INFINITY);
        let noop = node("ReduceSumSquare", 1).with("noop_with_empty_axes", 1);
        let y = run(noop, &[iota(&[2, 2]), axes(&[])]).unwrap().remove(0);
        assert_eq!(y.as_slice::<f32>().unwrap(), [0.0, 1.0, 4.0, 9.0]);
        let lowest = Some(Tensor::zeros(DType::I8, &[0]).unwrap());
        let y = run(node("ReduceMax", 1), &[lowest]).unwrap().remove(0);
        assert_eq!(y.as_slice::<i8>().unwrap(), [i8::MIN]);
    }

    #[test]
    fn integers_and_booleans() {
        let big = Some(Tensor::vector(&[u64::MAX, 1, 5]));
        let check = |op: &str, wanted: u64| {
            let y = run(node(op, 1), std::slice::from_ref(&big)).unwrap().remove(0);
            assert_eq!(y.as_slice::<u64>().unwrap(), [wanted], "{op}");
        };
        check("ReduceSum", 5);
        check("ReduceMax", u64::MAX);
        check("ReduceMin", 1);
        check("ReduceProd", u64::MAX - 4);
        let flags = Some(Tensor::from_bools(&[2, 2], &[true, false, false, false]).unwrap());
        let y = run(node("ReduceMax", 1), &[flags, axes(&[1])]).unwrap().remove(0);
        assert_eq!(y.as_bools().unwrap(), [1, 0]);
        assert!(run(node("ReduceSum", 1), &[iota(&[2]), axes(&[1])]).is_err());
    }
}
