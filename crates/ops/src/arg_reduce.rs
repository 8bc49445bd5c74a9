//! Where the extreme element lies along an axis: ArgMax, ArgMin.

use std::cmp::Ordering;

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Element, Tensor};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::def::{Kind, OpDef, onnx};
use crate::dispatch::dispatch;
use crate::error::OpError;
use crate::reduce::{reduced_shape, rows_along};
use crate::tape::flat;
use crate::work::per_input_element;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&ARG_MAX, &ARG_MIN];

const ARG: OpDef = OpDef {
    kind: Kind::Reduce,
    infer: infer_arg,
    work: per_input_element,
    gradient: Some(flat),
    ..OpDef::DEFAULT
};

static ARG_MAX: OpDef = OpDef {
    name: "ArgMax",
    doc: "Index of the largest element along an axis.",
    onnx: &[onnx("", "ArgMax", 13)],
    eval: |ctx| Ok(vec![eval_arg(ctx, Ordering::Greater)?.into()]),
    ..ARG
};

static ARG_MIN: OpDef = OpDef {
    name: "ArgMin",
    doc: "Index of the smallest element along an axis.",
    onnx: &[onnx("", "ArgMin", 13)],
    eval: |ctx| Ok(vec![eval_arg(ctx, Ordering::Less)?.into()]),
    ..ARG
};

fn eval_arg(ctx: &EvalCtx<'_>, wanted: Ordering) -> Result<Tensor, OpError> {
    let tensor = ctx.tensor(0)?;
    let axis = resolve_axis(ctx.attrs().int_or("axis", 0)?, tensor.rank())?;
    let keep = ctx.attrs().flag_or("keepdims", true)?;
    let last = ctx.attrs().flag_or("select_last_index", false)?;
    let shape = reduced_shape(tensor.shape(), &[axis], keep, 1);
    let (laid, length) = rows_along(tensor, &[axis])?;
    let mut out = Tensor::zeros(DType::I64, &shape)?;
    if length == 0 && !out.is_empty() {
        return Err(OpError::input(0, format!("elements along axis {axis}"), tensor.describe()));
    }
    let slots = out.as_mut_slice::<i64>()?;
    dispatch!(tensor.dtype(), T in [f32, f64, f16, bf16, i8, i16, i32, i64, u8, u16, u32, u64] => {
        let values = laid.as_slice::<T>()?;
        for (index, slot) in slots.iter_mut().enumerate() {
            *slot = extreme(&values[index * length..(index + 1) * length], wanted, last);
        }
        Ok(out)
    })
}

/// The first (or last) extreme of a row that is not empty. NaN is more extreme than any number.
fn extreme<T: Element>(row: &[T], wanted: Ordering, last: bool) -> i64 {
    let is_nan = |value: &T| value.partial_cmp(value).is_none();
    let mut best = 0;
    for (index, value) in row.iter().enumerate().skip(1) {
        let taken = match value.partial_cmp(&row[best]) {
            Some(Ordering::Equal) => last,
            Some(order) => order == wanted,
            None => is_nan(value) && (last || !is_nan(&row[best])),
        };
        if taken {
            best = index;
        }
    }
    best as i64
}

fn infer_arg(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let Some(dims) = ctx.dims(0) else { return Ok(vec![Type::unranked(DType::I64)]) };
    let axis = resolve_axis(ctx.attrs().int_or("axis", 0)?, dims.len())?;
    let keep = ctx.attrs().flag_or("keepdims", true)?;
    Ok(vec![Type::shaped(DType::I64, reduced_shape(dims, &[axis], keep, Dim::Known(1)))])
}

#[cfg(test)]
mod tests {
    use crate::case::{floats, iota, node, run};

    #[test]
    fn first_or_last() {
        let x = floats(&[2, 3], &[2.0, 2.0, 1.0, 0.0, f32::NAN, 9.0]);
        let check = |op: &str, axis: i64, last: i64, wanted: &[i64]| {
            let node = node(op, 1).with("axis", axis).with("select_last_index", last);
            let y = run(node.with("keepdims", 0), std::slice::from_ref(&x)).unwrap().remove(0);
            assert_eq!(y.as_slice::<i64>().unwrap(), wanted, "{op} {axis} {last}");
        };
        check("ArgMax", -1, 0, &[0, 1]);
        check("ArgMax", 1, 1, &[1, 1]);
        check("ArgMin", 0, 0, &[1, 1, 0]);
        assert!(run(node("ArgMax", 1), &[iota(&[0, 2])]).is_err());
        assert!(run(node("ArgMax", 1), &[iota(&[])]).is_err());
    }
}
