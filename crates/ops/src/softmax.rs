//! Softmax, LogSoftmax and Hardmax.
//!
//! From opset 13 they run along one axis, by default the last. Before, the tensor was seen as a
//! matrix whose rows hold all axes from `axis` on, by default 1; no form of the newest version
//! expresses that, so the rows here look at `node.version`.

use hetra_ir::{Node, Type};
use hetra_tensor::Tensor;

use crate::context::{EvalCtx, InferCtx, infer_same};
use crate::def::{Kind, OpDef, onnx};
use crate::error::OpError;
use crate::real::{Real, elements_as, narrow, with_real};
use crate::reduce::log_sum_exp;
use crate::tape::{Tape, Var, flat};
use crate::work::{Work, elements};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&SOFTMAX, &LOG_SOFTMAX, &HARDMAX];

const ALONG: OpDef =
    OpDef { kind: Kind::Reduce, infer: infer_along, work: along_work, ..OpDef::DEFAULT };

static SOFTMAX: OpDef = OpDef {
    name: "Softmax",
    doc: "Exponentials over their sum along an axis.",
    onnx: &[onnx("", "Softmax", 13)],
    eval: |ctx| eval_rows(ctx, softmax),
    gradient: Some(|tape| {
        let (y, dy) = (tape.y(0), tape.dy(0));
        let mean = (dy * y).reduce("ReduceSum", row_axes(tape)?);
        Ok(vec![Some(y * (dy - mean))])
    }),
    ..ALONG
};

static LOG_SOFTMAX: OpDef = OpDef {
    name: "LogSoftmax",
    doc: "Logarithm of Softmax.",
    onnx: &[onnx("", "LogSoftmax", 13)],
    eval: |ctx| eval_rows(ctx, log_softmax),
    gradient: Some(|tape| {
        let (y, dy) = (tape.y(0), tape.dy(0));
        let sum = dy.reduce("ReduceSum", row_axes(tape)?);
        Ok(vec![Some(dy - y.apply("Exp") * sum)])
    }),
    ..ALONG
};

static HARDMAX: OpDef = OpDef {
    name: "Hardmax",
    doc: "1 at the first maximum along an axis, 0 elsewhere.",
    onnx: &[onnx("", "Hardmax", 13)],
    eval: |ctx| eval_rows(ctx, hardmax),
    gradient: Some(flat),
    ..ALONG
};

/// The axes of a row.
fn row_axes(tape: &Tape) -> Result<Var<'_>, OpError> {
    let attrs = tape.attrs();
    Ok(match tape.node().version < 13 {
        true => tape.y(0).axes_from(attrs.int_or("axis", 1)?),
        false => tape.ints(&[attrs.int_or("axis", -1)?]),
    })
}

/// What Softmax and its like run over, resolved once: element `i` of a row is at
/// `(outer * length + i) * inner + rest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftmaxForm {
    /// Product of the extents before the axis.
    pub outer: usize,
    /// Elements of one row.
    pub length: usize,
    /// Product of the extents after the axis.
    pub inner: usize,
}

impl SoftmaxForm {
    /// Reads a node whose input has this shape.
    ///
    /// # Errors
    /// When the axis is out of range.
    pub fn resolve(node: &Node, shape: &[usize]) -> Result<SoftmaxForm, OpError> {
        let axis = axis_of(node, shape.len())?;
        let product = |extents: &[usize]| hetra_tensor::element_count(extents);
        let outer = product(&shape[..axis])?;
        if is_matrix(node) {
            return Ok(SoftmaxForm { outer, length: product(&shape[axis..])?, inner: 1 });
        }
        // A scalar is a row of one.
        let length = shape.get(axis).copied().unwrap_or(1);
        let inner = shape.get(axis + 1..).map_or(Ok(1), product)?;
        Ok(SoftmaxForm { outer, length, inner })
    }
}

/// Whether the node is of the old kind that sees a matrix.
fn is_matrix(node: &Node) -> bool {
    node.version < 13
}

fn axis_of(node: &Node, rank: usize) -> Result<usize, OpError> {
    let axis = node.attrs.int_or("axis", if is_matrix(node) { 1 } else { -1 })?;
    // The old kind may split after the last axis; a scalar has one row.
    let split_after_last = is_matrix(node) && axis == rank as i64;
    if split_after_last || (rank == 0 && (axis == 0 || axis == -1)) {
        return Ok(rank);
    }
    crate::context::resolve_axis(axis, rank)
}

fn eval_rows(ctx: &EvalCtx<'_>, rule: fn(&mut [f64])) -> Result<Vec<hetra_tensor::Value>, OpError> {
    let x = ctx.tensor(0)?;
    let form = SoftmaxForm::resolve(ctx.node, x.shape())?;
    let out = with_real!(0, x.dtype(), T => map_rows::<T>(x, form, rule))?;
    Ok(vec![out.into()])
}

fn map_rows<T: Real>(
    x: &Tensor,
    form: SoftmaxForm,
    rule: fn(&mut [f64]),
) -> Result<Tensor, OpError> {
    let source = elements_as::<T>(0, x)?;
    let mut out = Tensor::zeros(T::DTYPE, x.shape())?;
    if out.is_empty() {
        return narrow(out, x.dtype());
    }
    let target = out.as_mut_slice::<T>()?;
    let mut row = vec![0f64; form.length];
    for outer in 0..form.outer {
        for rest in 0..form.inner {
            let start = outer * form.length * form.inner + rest;
            let values = source[start..].iter().step_by(form.inner);
            row.iter_mut().zip(values).for_each(|(slot, value)| *slot = value.wide());
            rule(&mut row);
            let slots = target[start..].iter_mut().step_by(form.inner);
            slots.zip(&row).for_each(|(slot, &value)| *slot = T::of(value));
        }
    }
    narrow(out, x.dtype())
}

fn peak(row: &[f64]) -> f64 {
    row.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// Softmax of one row in place, shifted by the maximum so that nothing overflows.
pub(crate) fn softmax(row: &mut [f64]) {
    let peak = peak(row);
    row.iter_mut().for_each(|value| *value = (*value - peak).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|value| *value /= sum);
}

/// Logarithm of softmax of one row in place.
pub(crate) fn log_softmax(row: &mut [f64]) {
    let total = log_sum_exp(row);
    row.iter_mut().for_each(|value| *value -= total);
}

fn hardmax(row: &mut [f64]) {
    let peak = peak(row);
    let first = row.iter().position(|&value| value == peak);
    row.fill(0.0);
    if let Some(slot) = first.and_then(|first| row.get_mut(first)) {
        *slot = 1.0;
    }
}

fn infer_along(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    if let Some(dtype) = ctx.dtype_opt(0)
        && !dtype.is_float()
    {
        return Err(OpError::input(0, "floats", dtype.name()));
    }
    if let Some(rank) = ctx.rank(0) {
        axis_of(ctx.node, rank)?;
    }
    infer_same(ctx)
}

/// Maximum, difference, exponential, sum and quotient.
fn along_work(_: &InferCtx<'_>, outputs: &[Type]) -> Work {
    Work::ops(5.0 * outputs.first().map_or(0.0, elements))
}

#[cfg(test)]
mod tests {
    use hetra_ir::Node;

    use super::*;
    use crate::case::{floats, iota, node, run};

    #[test]
    fn axes_by_version() {
        let check = |version: u32, axis: Option<i64>, wanted: (usize, usize, usize)| {
            let mut node = Node::new("Softmax", &[], &[]);
            node.version = version;
            if let Some(axis) = axis {
                node.attrs.set("axis", axis);
            }
            let form = SoftmaxForm::resolve(&node, &[2, 3, 4]).unwrap();
            assert_eq!((form.outer, form.length, form.inner), wanted, "{version} {axis:?}");
        };
        check(13, None, (6, 4, 1));
        check(u32::MAX, Some(1), (2, 3, 4));
        check(11, None, (2, 12, 1));
        check(12, Some(-1), (6, 4, 1));
        check(12, Some(3), (24, 1, 1));
    }

    #[test]
    fn values() {
        let check = |op: &str, wanted: [f32; 3]| {
            let x = floats(&[3], &[0.0, 1000.0, 1000.0]);
            let y = run(node(op, 1), &[x]).unwrap().remove(0);
            assert_eq!(y.as_slice::<f32>().unwrap(), wanted, "{op}");
        };
        let ln2 = std::f32::consts::LN_2;
        check("Softmax", [0.0, 0.5, 0.5]);
        check("LogSoftmax", [-1000.0 - ln2, -ln2, -ln2]);
        check("Hardmax", [0.0, 1.0, 0.0]);
        let y = run(node("Softmax", 1).with("axis", 0), &[iota(&[2, 2])]).unwrap().remove(0);
        assert!((y.as_slice::<f32>().unwrap()[3] - 0.880_797).abs() < 1e-6);
        assert_eq!(run(node("Softmax", 1), &[iota(&[])]).unwrap()[0].len(), 1);
        assert!(run(node("Softmax", 1).with("axis", 2), &[iota(&[2])]).is_err());
        assert!(run(node("Softmax", 1), &[iota(&[2, 0])]).unwrap()[0].is_empty());
    }
}
