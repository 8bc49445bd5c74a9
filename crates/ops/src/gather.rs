//! Takes elements by index: Gather, GatherElements, GatherND, Compress.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dims::{check_dtype, check_ints, shape_from};
use crate::elements::{Walk, assemble, volume};
use crate::error::OpError;
use crate::pick::check_size;
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&GATHER, &GATHER_ELEMENTS, &GATHER_ND, &COMPRESS];

const MOVE: OpDef = OpDef {
    inputs: Arity::exactly(2),
    kind: Kind::Move,
    work: none,
    gradient: Some(|tape| tape.moved()),
    ..OpDef::DEFAULT
};

static GATHER: OpDef = OpDef {
    name: "Gather",
    doc: "Replaces an axis by the axes of the indices, which pick along it.",
    onnx: &[onnx("", "Gather", 13)],
    infer: infer_gather,
    eval: eval_gather,
    ..MOVE
};

static GATHER_ELEMENTS: OpDef = OpDef {
    name: "GatherElements",
    doc: "For each index the element at its place, but at that index along the axis.",
    onnx: &[onnx("", "GatherElements", 13)],
    infer: infer_gather_elements,
    eval: eval_gather_elements,
    ..MOVE
};

static GATHER_ND: OpDef = OpDef {
    name: "GatherND",
    doc: "Takes the block at each tuple of indices in the last axis of the second input.",
    onnx: &[onnx("", "GatherND", 13)],
    infer: infer_gather_nd,
    eval: eval_gather_nd,
    ..MOVE
};

static COMPRESS: OpDef = OpDef {
    name: "Compress",
    doc: "Takes the places of an axis (or of all elements in order) where a condition is true.",
    onnx: &[onnx("", "Compress", 11)],
    infer: infer_compress,
    eval: eval_compress,
    ..MOVE
};

/// An index into an axis, counted from either end; the fault names input `input`.
#[inline]
pub(crate) fn resolve_index(index: i64, extent: usize, input: usize) -> Result<usize, OpError> {
    let at = if index < 0 { index.saturating_add(extent as i64) } else { index };
    if at < 0 || at >= extent as i64 {
        return Err(OpError::input(
            input,
            format!("indices of {extent} places"),
            index.to_string(),
        ));
    }
    Ok(at as usize)
}

/// The places that indices name, counted from either end of `extent` of them; `input` is where the
/// indices come from.
///
/// # Errors
/// For an index outside.
pub fn resolve_indices(
    indices: &[i64],
    extent: usize,
    input: usize,
) -> Result<Vec<usize>, OpError> {
    indices.iter().map(|&index| resolve_index(index, extent, input)).collect()
}

fn infer_gather(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    let dtype = ctx.dtype_opt(0);
    let axis = ctx.attrs().int_or("axis", 0)?;
    let Some(data) = ctx.dims(0) else { return Ok(vec![InferCtx::make(dtype, None)]) };
    let axis = resolve_axis(axis, data.len())?;
    let dims = ctx.dims(1).map(|indices| [&data[..axis], indices, &data[axis + 1..]].concat());
    Ok(vec![InferCtx::make(dtype, dims)])
}

fn eval_gather(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (tensor, indices) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let shape = shape_from(ctx, infer_gather)?;
    let axis = resolve_axis(ctx.attrs().int_or("axis", 0)?, tensor.rank())?;
    let places = resolve_indices(&hetra_tensor::to_i64(indices)?, tensor.shape()[axis], 1)?;
    Ok(vec![take(tensor, axis, &places, &shape)?.into()])
}

/// The slices of a tensor at these places along an axis, as a tensor of this shape.
pub(crate) fn take(
    tensor: &Tensor,
    axis: usize,
    places: &[usize],
    shape: &[usize],
) -> Result<Tensor, OpError> {
    let (outer, extent) = (&tensor.shape()[..axis], tensor.shape()[axis]);
    let inner: usize = volume(&tensor.shape()[axis + 1..]);
    assemble(tensor.dtype(), shape, &[tensor], |runs| {
        let mut to = 0;
        for row in 0..volume(outer) {
            for place in places {
                runs.copy(0, (row * extent + place) * inner, to, inner);
                to += inner;
            }
        }
    })
}

fn infer_gather_elements(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    check_element_indices(ctx, 1)?;
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), ctx.dims(1).map(<[Dim]>::to_vec))])
}

/// Indices of the rank of the data, and not larger than it on the other axes.
pub(crate) fn check_element_indices(ctx: &InferCtx<'_>, index: usize) -> Result<(), OpError> {
    let axis = ctx.attrs().int_or("axis", 0)?;
    let (Some(data), Some(indices)) = (ctx.dims(0), ctx.dims(index)) else { return Ok(()) };
    let axis = resolve_axis(axis, data.len())?;
    let fits = |(at, (a, b)): (usize, (&Dim, &Dim))| match (a, b) {
        (Dim::Known(a), Dim::Known(b)) => at == axis || b <= a,
        _ => true,
    };
    if indices.len() != data.len() || !data.iter().zip(indices).enumerate().all(fits) {
        let wanted = format!("indices that fit in {}", ctx.ty(0)?);
        return Err(OpError::input(index, wanted, ctx.ty(index)?.to_string()));
    }
    Ok(())
}

/// For each index in order its place in a tensor of shape `shape`: where it stands itself, but
/// `index` along `axis`.
pub(crate) fn element_places(
    shape: &[usize],
    indices: &Tensor,
    axis: usize,
) -> Result<Vec<usize>, OpError> {
    let values = hetra_tensor::to_i64(indices)?;
    let mut walk = Walk::dense(shape);
    let stride = std::mem::replace(&mut walk.strides[axis], 0) as usize;
    walk.shape = indices.shape().to_vec();
    let mut places = Vec::with_capacity(values.len());
    let mut fault = None;
    walk.for_each_row(|from, step, extent| {
        for at in 0..extent {
            let Some(&index) = values.get(places.len()) else { return };
            match resolve_index(index, shape[axis], 1) {
                Ok(index) => places.push((from + step * at as isize) as usize + index * stride),
                Err(error) => fault = Some(error),
            }
        }
    });
    fault.map_or(Ok(places), Err)
}

fn eval_gather_elements(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (tensor, indices) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let shape = shape_from(ctx, infer_gather_elements)?;
    let axis = resolve_axis(ctx.attrs().int_or("axis", 0)?, tensor.rank())?;
    let places = element_places(tensor.shape(), indices, axis)?;
    let out = assemble(tensor.dtype(), &shape, &[tensor], |runs| {
        places.iter().enumerate().for_each(|(to, &from)| runs.copy(0, from, to, 1));
    })?;
    Ok(vec![out.into()])
}

fn infer_gather_nd(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    let batch = batch_dims(ctx.attrs())?;
    let dtype = ctx.dtype_opt(0);
    let (Some(data), Some(indices)) = (ctx.dims(0), ctx.dims(1)) else {
        return Ok(vec![InferCtx::make(dtype, None)]);
    };
    let fault = || {
        let got = format!("{data:?} and {indices:?}");
        OpError::input(1, "tuples of indices that fit the data", got)
    };
    if batch >= data.len().min(indices.len()) {
        return Err(fault());
    }
    let differ = |(a, b): (&Dim, &Dim)| matches!((a, b), (Dim::Known(a), Dim::Known(b)) if a != b);
    if data[..batch].iter().zip(indices).any(differ) {
        return Err(fault());
    }
    let (last, tuples) = indices.split_last().ok_or_else(fault)?;
    let Some(depth) = last.known() else { return Ok(vec![InferCtx::make(dtype, None)]) };
    let block = data[batch..].get(depth..).ok_or_else(fault)?;
    Ok(vec![InferCtx::make(dtype, Some([tuples, block].concat()))])
}

fn batch_dims(attrs: &hetra_ir::Attrs) -> Result<usize, OpError> {
    let batch = attrs.int_or("batch_dims", 0)?;
    usize::try_from(batch).map_err(|_| OpError::invalid(format!("`batch_dims` is {batch}")))
}

/// For each tuple of indices (their last axis) the start of its block in a tensor of `shape`.
pub(crate) fn block_starts(
    shape: &[usize],
    indices: &Tensor,
    batch: usize,
) -> Result<Vec<usize>, OpError> {
    let depth = indices.shape().last().copied().unwrap_or(0);
    let tuples: usize = volume(&indices.shape()[..indices.rank().saturating_sub(1)]);
    let batches: usize = volume(&shape[..batch]);
    let strides = hetra_tensor::strides_of(shape);
    let batch_size: usize = volume(&shape[batch..]);
    let values = hetra_tensor::to_i64(indices)?;
    let per_batch = tuples.checked_div(batches).unwrap_or(0).max(1);
    let mut starts = Vec::with_capacity(tuples);
    for tuple in 0..tuples {
        let mut start = tuple / per_batch * batch_size;
        for (axis, &index) in values[tuple * depth..(tuple + 1) * depth].iter().enumerate() {
            start += resolve_index(index, shape[batch + axis], 1)? * strides[batch + axis];
        }
        starts.push(start);
    }
    Ok(starts)
}

fn eval_gather_nd(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (tensor, indices) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let shape = shape_from(ctx, infer_gather_nd)?;
    let batch = batch_dims(ctx.attrs())?;
    let depth = indices.shape().last().copied().unwrap_or(0);
    let len: usize = volume(&tensor.shape()[batch + depth..]);
    // Without elements there may be any number of tuples, so nothing is made of them.
    if !check_size(tensor, &shape)? {
        return Ok(vec![Tensor::zeros(tensor.dtype(), &shape)?.into()]);
    }
    let starts = block_starts(tensor.shape(), indices, batch)?;
    let out = assemble(tensor.dtype(), &shape, &[tensor], |runs| {
        starts.iter().enumerate().for_each(|(at, &from)| runs.copy(0, from, at * len, len));
    })?;
    Ok(vec![out.into()])
}

fn infer_compress(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_dtype(ctx, 1, DType::Bool)?;
    let Some(&axis) = ctx.attrs().int_opt("axis")? else {
        return Ok(vec![InferCtx::make(ctx.dtype_opt(0), Some(vec![Dim::Unknown]))]);
    };
    let mut dims = ctx.dims(0).map(<[Dim]>::to_vec);
    if let Some(dims) = &mut dims {
        let axis = resolve_axis(axis, dims.len())?;
        dims[axis] = Dim::Unknown;
        if let Some(condition) = ctx.known_ints(1)
            && condition.iter().all(|&take| take == 0)
        {
            dims[axis] = Dim::Known(0);
        }
    }
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), dims)])
}

fn eval_compress(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    let condition = ctx.tensor(1)?.as_bools()?;
    let (tensor, axis) = match ctx.attrs().int_opt("axis")? {
        Some(&axis) => (tensor.clone(), resolve_axis(axis, tensor.rank())?),
        None => (tensor.reshape(&[tensor.len()])?, 0),
    };
    let extent = tensor.shape()[axis];
    let taken = |(place, take): (usize, &u8)| (*take != 0).then_some(place);
    let places: Vec<usize> = condition.iter().enumerate().filter_map(taken).collect();
    if places.last().is_some_and(|&place| place >= extent) {
        let wanted = format!("a condition for {extent} places");
        return Err(OpError::input(1, wanted, format!("{} of them", condition.len())));
    }
    let outer: usize = volume(&tensor.shape()[..axis]);
    let inner: usize = volume(&tensor.shape()[axis + 1..]);
    let mut shape = tensor.shape().to_vec();
    shape[axis] = places.len();
    let out = assemble(tensor.dtype(), &shape, &[&tensor], |runs| {
        for row in 0..outer {
            for (at, place) in places.iter().enumerate() {
                let to = (row * places.len() + at) * inner;
                runs.copy(0, (row * extent + place) * inner, to, inner);
            }
        }
    })?;
    Ok(vec![out.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    fn data() -> Tensor {
        Tensor::from_slice(&[2, 3], &[0i32, 1, 2, 3, 4, 5]).unwrap()
    }

    fn ints(shape: &[usize], values: &[i64]) -> Tensor {
        Tensor::from_slice(shape, values).unwrap()
    }

    #[test]
    fn indices_pick_along_an_axis() {
        let case = Case::new("Gather").tensor(&data());
        check(
            &case.with_input(1, &ints(&[2], &[1, -2])),
            0,
            &[2, 3],
            &[3.0, 4.0, 5.0, 0.0, 1.0, 2.0],
        );
        let column = case.with_input(1, &ints(&[], &[-1])).attr("axis", 1i64);
        check(&column, 0, &[2], &[2.0, 5.0]);
        check(&case.with_input(1, &ints(&[0, 2], &[])), 0, &[0, 2, 3], &[]);
        assert!(case.with_input(1, &ints(&[1], &[2])).eval().is_err());
        assert!(case.with_input(1, &ints(&[1], &[i64::MIN])).eval().is_err());
        assert!(case.with_input(1, &data().bit_cast(DType::F32).unwrap()).eval().is_err());
    }

    #[test]
    fn elements_and_tuples() {
        let case = Case::new("GatherElements").tensor(&data()).attr("axis", 1i64);
        check(&case.with_input(1, &ints(&[2, 1], &[2, -3])), 0, &[2, 1], &[2.0, 3.0]);
        assert!(case.with_input(1, &ints(&[3, 1], &[0, 0, 0])).eval().is_err());
        assert!(case.with_input(1, &ints(&[2], &[0, 0])).eval().is_err());
        let case = Case::new("GatherND").tensor(&data());
        check(
            &case.with_input(1, &ints(&[2, 1], &[1, 0])),
            0,
            &[2, 3],
            &[3.0, 4.0, 5.0, 0.0, 1.0, 2.0],
        );
        check(&case.with_input(1, &ints(&[2, 2], &[0, 1, -1, -1])), 0, &[2], &[1.0, 5.0]);
        let batch = case.with_input(1, &ints(&[2, 1], &[1, 0])).attr("batch_dims", 1i64);
        check(&batch, 0, &[2], &[1.0, 3.0]);
        assert!(case.with_input(1, &ints(&[1, 3], &[0, 0, 0])).eval().is_err());
        assert!(batch.attr("batch_dims", -1i64).eval().is_err());
        assert!(batch.attr("batch_dims", 2i64).eval().is_err());
    }
}
