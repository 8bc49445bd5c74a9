//! Picks and masks by place: NonZero, OneHot, Trilu.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dims::{check_ints, extent, shape_from};
use crate::elements::{assemble, volume};
use crate::error::OpError;
use crate::tape::flat;
use crate::work::{none, per_input_element};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&NON_ZERO, &ONE_HOT, &TRILU];

static NON_ZERO: OpDef = OpDef {
    name: "NonZero",
    doc: "The indices of the elements that are not zero, a row per axis, in order.",
    onnx: &[onnx("", "NonZero", 13)],
    infer: |ctx| {
        let rank = ctx.rank(0).map_or(Dim::Unknown, Dim::Known);
        let count = match ctx.known(0) {
            Some(tensor) => Dim::Known(full_places(tensor)?.len()),
            None => Dim::Unknown,
        };
        Ok(vec![Type::shaped(DType::I64, vec![rank, count])])
    },
    work: per_input_element,
    eval: eval_non_zero,
    gradient: Some(flat),
    ..OpDef::DEFAULT
};

static ONE_HOT: OpDef = OpDef {
    name: "OneHot",
    doc: "A new axis that is `values[1]` at the index and `values[0]` elsewhere.",
    onnx: &[onnx("", "OneHot", 11)],
    inputs: Arity::exactly(3),
    infer: infer_one_hot,
    work: none,
    eval: eval_one_hot,
    ..OpDef::DEFAULT
};

static TRILU: OpDef = OpDef {
    name: "Trilu",
    doc: "Keeps the upper or lower triangle of each matrix; zeros elsewhere.",
    onnx: &[onnx("", "Trilu", 14)],
    inputs: Arity::between(1, 2),
    kind: Kind::Move,
    infer: |ctx| {
        check_ints(ctx, 1)?;
        match ctx.rank(0) {
            Some(rank) if rank < 2 => {
                Err(OpError::input(0, "rank 2 or more", ctx.ty(0)?.to_string()))
            }
            _ => Ok(vec![ctx.ty(0)?.clone()]),
        }
    },
    work: none,
    eval: eval_trilu,
    gradient: Some(|tape| {
        let mut inputs = tape.xs();
        inputs[0] = Some(tape.dy(0));
        Ok(vec![Some(tape.call(tape.node(), &inputs, 1)[0])])
    }),
    ..OpDef::DEFAULT
};

/// The places, counted through all axes, of what is not zero.
fn full_places(tensor: &Tensor) -> Result<Vec<usize>, OpError> {
    let at = |(at, full): (usize, bool)| full.then_some(at);
    Ok(match tensor.dtype() {
        DType::String => {
            let full = tensor.as_strings()?.iter().map(|text| !text.is_empty());
            full.enumerate().filter_map(at).collect()
        }
        dtype if dtype.is_complex() => {
            // Two floats: clear but for a sign.
            let real = if dtype == DType::C64 { DType::F32 } else { DType::F64 };
            let parts = Tensor::from_bytes(real, &[tensor.len() * 2], tensor.bytes())?;
            let parts = hetra_tensor::to_f64(&parts)?;
            let full = parts.chunks_exact(2).map(|pair| pair[0] != 0.0 || pair[1] != 0.0);
            full.enumerate().filter_map(at).collect()
        }
        dtype if dtype.is_float() => {
            let full = hetra_tensor::to_f64(tensor)?.into_iter().map(|value| value != 0.0);
            full.enumerate().filter_map(at).collect()
        }
        _ => {
            let full = hetra_tensor::to_i64(tensor)?.into_iter().map(|value| value != 0);
            full.enumerate().filter_map(at).collect()
        }
    })
}

fn eval_non_zero(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    let places = full_places(tensor)?;
    let strides = hetra_tensor::strides_of(tensor.shape());
    let mut out = Tensor::zeros(DType::I64, &[tensor.rank(), places.len()])?;
    if !places.is_empty() {
        let rows = out.as_mut_slice::<i64>()?.chunks_exact_mut(places.len());
        for ((row, &stride), &extent) in rows.zip(&strides).zip(tensor.shape()) {
            let slots = row.iter_mut().zip(&places);
            slots.for_each(|(slot, place)| *slot = (place / stride % extent) as i64);
        }
    }
    Ok(vec![out.into()])
}

/// The new axis, among one more than the indices have.
fn one_hot_axis(attrs: &hetra_ir::Attrs, rank: usize) -> Result<usize, OpError> {
    resolve_axis(attrs.int_or("axis", -1)?, rank + 1)
}

fn infer_one_hot(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(2);
    let Some(indices) = ctx.dims(0) else { return Ok(vec![InferCtx::make(dtype, None)]) };
    let axis = one_hot_axis(ctx.attrs(), indices.len())?;
    let depth = match ctx.known_ints(1) {
        Some(depth) => match depth[..] {
            [depth] => Dim::Known(extent(depth, 1)?),
            _ => return Err(OpError::input(1, "one depth", format!("{depth:?}"))),
        },
        None => Dim::Unknown,
    };
    let mut dims = indices.to_vec();
    dims.insert(axis, depth);
    Ok(vec![InferCtx::make(dtype, Some(dims))])
}

fn eval_one_hot(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (indices, values) = (ctx.tensor(0)?, ctx.tensor(2)?);
    let shape = shape_from(ctx, infer_one_hot)?;
    let axis = one_hot_axis(ctx.attrs(), indices.rank())?;
    if values.len() != 2 {
        return Err(OpError::input(2, "two values", values.describe()));
    }
    let depth = shape[axis];
    let inner: usize = volume(&indices.shape()[axis..]);
    let hot = hetra_tensor::to_i64(indices)?;
    let out = assemble(values.dtype(), &shape, &[values], |runs| {
        runs.fill(0, 0, 0, hot.len() * depth);
        for (at, &index) in hot.iter().enumerate() {
            // An index out of range leaves its axis off.
            if let Ok(index) = crate::gather::resolve_index(index, depth, 0) {
                let (outer, rest) = (at / inner, at % inner);
                runs.copy(0, 1, (outer * depth + index) * inner + rest, 1);
            }
        }
    })?;
    Ok(vec![out.into()])
}

fn eval_trilu(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    let &[.., rows, columns] = tensor.shape() else {
        return Err(OpError::input(0, "rank 2 or more", tensor.describe()));
    };
    let upper = ctx.attrs().flag_or("upper", true)?;
    let diagonal = if ctx.tensor_opt(1).is_some() { ctx.int(1)? } else { 0 };
    let matrices: usize = volume(&tensor.shape()[..tensor.rank() - 2]);
    let out = assemble(tensor.dtype(), tensor.shape(), &[tensor], |runs| {
        for row in 0..matrices * rows {
            let start = row * columns;
            // The first column on or right of the diagonal; the lower triangle holds it too.
            let edge = diagonal.saturating_add((row % rows) as i64);
            let kept = if upper {
                edge.clamp(0, columns as i64) as usize..columns
            } else {
                0..edge.saturating_add(1).clamp(0, columns as i64) as usize
            };
            runs.copy(0, start + kept.start, start + kept.start, kept.len());
        }
    })?;
    Ok(vec![out.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    #[test]
    fn triangles() {
        let data = Tensor::from_slice(&[2, 3], &[1i32, 2, 3, 4, 5, 6]).unwrap();
        let case = Case::new("Trilu").tensor(&data);
        check(&case, 0, &[2, 3], &[1.0, 2.0, 3.0, 0.0, 5.0, 6.0]);
        check(&case.attr("upper", 0i64), 0, &[2, 3], &[1.0, 0.0, 0.0, 4.0, 5.0, 0.0]);
        let far = case.with_input(1, &Tensor::scalar(i64::MAX));
        check(&far, 0, &[2, 3], &[0.0; 6]);
        check(&far.attr("upper", 0i64), 0, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let below = case.with_input(1, &Tensor::scalar(i64::MIN));
        check(&below.attr("upper", 0i64), 0, &[2, 3], &[0.0; 6]);
        assert!(Case::new("Trilu").tensor(&Tensor::vector(&[1i32])).eval().is_err());
    }

    #[test]
    fn one_hot_ignores_what_is_out_of_range() {
        let case = Case::new("OneHot").tensor(&Tensor::vector(&[1i64, -1, 7]));
        let case = case.tensor(&Tensor::scalar(3i64)).tensor(&Tensor::vector(&[5f32, 6.0]));
        check(&case, 0, &[3, 3], &[5.0, 6.0, 5.0, 5.0, 5.0, 6.0, 5.0, 5.0, 5.0]);
        let first = case.attr("axis", 0i64);
        check(&first, 0, &[3, 3], &[5.0, 5.0, 5.0, 6.0, 5.0, 5.0, 5.0, 6.0, 5.0]);
        assert!(case.with_input(1, &Tensor::scalar(-1i64)).eval().is_err());
        assert!(case.with_input(2, &Tensor::vector(&[5f32])).eval().is_err());
    }
}
