//! Writes elements by index into a copy: ScatterElements (and Scatter), ScatterND, TensorScatter.

use hetra_ir::{Dim, Type};
use hetra_tensor::{Tensor, Value};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dims::{check_ints, check_same_dtype, types_from};
use crate::elements::{assemble, volume};
use crate::error::OpError;
use crate::gather::{block_starts, check_element_indices, element_places};
use crate::tape::op;
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&SCATTER_ELEMENTS, &SCATTER_ND, &TENSOR_SCATTER];

const MOVE: OpDef =
    OpDef { inputs: Arity::exactly(3), kind: Kind::Move, work: none, ..OpDef::DEFAULT };

static SCATTER_ELEMENTS: OpDef = OpDef {
    name: "ScatterElements",
    doc: "Each update goes to its place, but to its index along the axis; see `reduction`.",
    onnx: &[onnx("", "ScatterElements", 18), onnx("", "Scatter", 11)],
    infer: infer_elements,
    eval: |ctx| {
        types_from(ctx, infer_elements)?;
        let (data, indices, updates) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
        if updates.is_empty() {
            return Ok(vec![data.clone().into()]);
        }
        let axis = resolve_axis(ctx.attrs().int_or("axis", 0)?, data.rank())?;
        let starts = element_places(data.shape(), indices, axis)?;
        scatter(data, updates, Blocks { starts, len: 1 }, Reduction::of(ctx.attrs())?)
    },
    gradient: Some(|tape| match tape.attrs().str_or("reduction", "none")? {
        "add" => {
            let node = op("GatherElements").with("axis", tape.attrs().int_or("axis", 0)?);
            let updates = tape.op(node, &[tape.dy(0), tape.x(1)?]);
            Ok(vec![Some(tape.dy(0)), None, Some(updates)])
        }
        other => Err(OpError::unsupported(format!("the gradient of `reduction` {other}"))),
    }),
    ..MOVE
};

static SCATTER_ND: OpDef = OpDef {
    name: "ScatterND",
    doc: "Each block of updates goes to the tuple of indices that stands for it.",
    onnx: &[onnx("", "ScatterND", 18)],
    infer: infer_nd,
    eval: |ctx| {
        types_from(ctx, infer_nd)?;
        let (data, indices, updates) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
        if updates.is_empty() {
            return Ok(vec![data.clone().into()]);
        }
        let depth = indices.shape().last().copied().unwrap_or(0);
        let len = volume(&data.shape()[depth..]);
        let starts = block_starts(data.shape(), indices, 0)?;
        scatter(data, updates, Blocks { starts, len }, Reduction::of(ctx.attrs())?)
    },
    ..MOVE
};

static TENSOR_SCATTER: OpDef = OpDef {
    name: "TensorScatter",
    doc: "Writes a run of updates into each sequence of a cache, from its write index on.",
    onnx: &[onnx("", "TensorScatter", 24)],
    inputs: Arity::between(2, 3),
    infer: infer_cache,
    eval: eval_cache,
    ..MOVE
};

/// What becomes of an element that is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reduction {
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

impl Reduction {
    fn of(attrs: &hetra_ir::Attrs) -> Result<Reduction, OpError> {
        Ok(match attrs.str_or("reduction", "none")? {
            "none" => Reduction::Replace,
            "add" => Reduction::Add,
            "mul" => Reduction::Mul,
            "max" => Reduction::Max,
            "min" => Reduction::Min,
            other => return Err(OpError::invalid(format!("`reduction` is `{other}`"))),
        })
    }

    fn floats(self, old: f64, new: f64) -> f64 {
        match self {
            Reduction::Replace => new,
            Reduction::Add => old + new,
            Reduction::Mul => old * new,
            // As numpy: a NaN stays one.
            _ if old.is_nan() || new.is_nan() => f64::NAN,
            Reduction::Max => old.max(new),
            Reduction::Min => old.min(new),
        }
    }

    /// `unsigned`: the values are the bits of `u64`s.
    fn ints(self, old: i64, new: i64, unsigned: bool) -> i64 {
        match self {
            Reduction::Replace => new,
            Reduction::Add => old.wrapping_add(new),
            Reduction::Mul => old.wrapping_mul(new),
            Reduction::Max if unsigned => (old as u64).max(new as u64) as i64,
            Reduction::Min if unsigned => (old as u64).min(new as u64) as i64,
            Reduction::Max => old.max(new),
            Reduction::Min => old.min(new),
        }
    }
}

/// Where each block of `len` updates goes.
struct Blocks {
    starts: Vec<usize>,
    len: usize,
}

fn scatter(
    data: &Tensor,
    updates: &Tensor,
    blocks: Blocks,
    reduction: Reduction,
) -> Result<Vec<Value>, OpError> {
    let len = blocks.len;
    if updates.len() != blocks.starts.len() * len {
        let wanted = format!("{} elements", blocks.starts.len() * len);
        return Err(OpError::input(2, wanted, updates.describe()));
    }
    let dtype = data.dtype();
    if updates.dtype() != dtype {
        return Err(OpError::input(2, dtype.name(), updates.describe()));
    }
    if reduction == Reduction::Replace {
        let out = assemble(dtype, data.shape(), &[data, updates], |runs| {
            runs.copy(0, 0, 0, data.len());
            for (block, &start) in blocks.starts.iter().enumerate() {
                runs.copy(1, block * len, start, len);
            }
        })?;
        return Ok(vec![out.into()]);
    }
    let each = |write: &mut dyn FnMut(usize, usize)| {
        for (block, &start) in blocks.starts.iter().enumerate() {
            (0..len).for_each(|at| write(start + at, block * len + at));
        }
    };
    let out = if dtype.is_float() {
        let (mut old, new) = (hetra_tensor::to_f64(data)?, hetra_tensor::to_f64(updates)?);
        each(&mut |to, from| old[to] = reduction.floats(old[to], new[from]));
        hetra_tensor::from_f64(dtype, data.shape(), &old)?
    } else {
        let (mut old, new) = (hetra_tensor::to_i64(data)?, hetra_tensor::to_i64(updates)?);
        let unsigned = dtype == hetra_tensor::DType::U64;
        each(&mut |to, from| old[to] = reduction.ints(old[to], new[from], unsigned));
        hetra_tensor::from_i64(dtype, data.shape(), &old)?
    };
    Ok(vec![out.into()])
}

fn infer_elements(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    check_same_dtype(ctx, 2)?;
    check_element_indices(ctx, 1)?;
    if let (Some(indices), Some(updates)) = (ctx.dims(1), ctx.dims(2)) {
        check_dims(ctx, 2, indices, updates)?;
    }
    Ok(vec![ctx.ty(0)?.clone()])
}

fn infer_nd(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    check_same_dtype(ctx, 2)?;
    if let (Some(data), Some(indices)) = (ctx.dims(0), ctx.dims(1)) {
        let fault =
            || OpError::input(1, "tuples of indices that fit the data", format!("{indices:?}"));
        let (last, tuples) = indices.split_last().ok_or_else(fault)?;
        if let Some(depth) = last.known() {
            let block = data.get(depth..).ok_or_else(fault)?;
            if let Some(updates) = ctx.dims(2) {
                check_dims(ctx, 2, &[tuples, block].concat(), updates)?;
            }
        }
    }
    Ok(vec![ctx.ty(0)?.clone()])
}

fn check_dims(
    ctx: &InferCtx<'_>,
    index: usize,
    wanted: &[Dim],
    got: &[Dim],
) -> Result<(), OpError> {
    let differ = |(a, b): (&Dim, &Dim)| matches!((a, b), (Dim::Known(a), Dim::Known(b)) if a != b);
    if wanted.len() != got.len() || wanted.iter().zip(got).any(differ) {
        return Err(OpError::input(index, format!("dims {wanted:?}"), ctx.ty(index)?.to_string()));
    }
    Ok(())
}

/// The sequence axis: not the first one, which is the batch.
fn cache_axis(attrs: &hetra_ir::Attrs, rank: usize) -> Result<usize, OpError> {
    let axis = resolve_axis(attrs.int_or("axis", -2)?, rank)?;
    match axis {
        0 => Err(OpError::invalid("`axis` is the batch axis")),
        axis => Ok(axis),
    }
}

fn infer_cache(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_same_dtype(ctx, 1)?;
    check_ints(ctx, 2)?;
    if let (Some(cache), Some(update)) = (ctx.dims(0), ctx.dims(1)) {
        let axis = cache_axis(ctx.attrs(), cache.len())?;
        let mut wanted = cache.to_vec();
        wanted[axis] = Dim::Unknown;
        check_dims(ctx, 1, &wanted, update)?;
        if let (Some(room), Some(steps)) = (cache[axis].known(), update[axis].known())
            && steps > room
        {
            return Err(OpError::input(1, format!("at most {room} steps"), steps.to_string()));
        }
        if let Some(indices) = ctx.dims(2) {
            check_dims(ctx, 2, &cache[..1], indices)?;
        }
    }
    Ok(vec![ctx.ty(0)?.clone()])
}

fn eval_cache(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    types_from(ctx, infer_cache)?;
    let (cache, update) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let axis = cache_axis(ctx.attrs(), cache.rank())?;
    let circular = match ctx.attrs().str_or("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        mode => return Err(OpError::invalid(format!("`mode` is `{mode}`"))),
    };
    if update.is_empty() {
        return Ok(vec![cache.clone().into()]);
    }
    let batch = cache.shape()[0];
    let (room, steps) = (cache.shape()[axis], update.shape()[axis]);
    let firsts = ctx.ints_opt(2)?.unwrap_or_else(|| vec![0; batch]);
    let last = |first: &i64| first.checked_add(steps as i64).is_some_and(|end| end <= room as i64);
    if firsts.iter().any(|first| *first < 0 || !(circular || last(first))) {
        let wanted = format!("write indices with {steps} steps of room among {room}");
        return Err(OpError::input(2, wanted, format!("{firsts:?}")));
    }
    let prefixes: usize = volume(&cache.shape()[..axis]);
    let len: usize = volume(&cache.shape()[axis + 1..]);
    let per_batch = prefixes.checked_div(batch).unwrap_or(0).max(1);
    let mut starts = Vec::with_capacity(prefixes * steps);
    for prefix in 0..prefixes {
        let first = firsts[prefix / per_batch] as usize % room.max(1);
        for step in 0..steps {
            starts.push((prefix * room + (first + step) % room) * len);
        }
    }
    scatter(cache, update, Blocks { starts, len }, Reduction::Replace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    #[test]
    fn updates_replace_or_reduce() {
        let data = Tensor::vector(&[1f32, 2.0, 3.0]);
        let indices = Tensor::vector(&[0i64, -1, 0]);
        let case = Case::new("ScatterElements").tensor(&data).tensor(&indices);
        let case = case.tensor(&Tensor::vector(&[10f32, 20.0, 30.0]));
        check(&case, 0, &[3], &[30.0, 2.0, 20.0]);
        check(&case.attr("reduction", "add"), 0, &[3], &[41.0, 2.0, 23.0]);
        check(&case.attr("reduction", "mul"), 0, &[3], &[300.0, 2.0, 60.0]);
        check(&case.attr("reduction", "min"), 0, &[3], &[1.0, 2.0, 3.0]);
        assert!(case.attr("reduction", "most").eval().is_err());
        assert!(case.with_input(1, &Tensor::vector(&[0i64, 3, 0])).eval().is_err());
        assert!(case.with_input(2, &Tensor::vector(&[1f32])).eval().is_err());
        assert!(case.with_input(2, &Tensor::vector(&[1i32, 1, 1])).eval().is_err());
    }

    #[test]
    fn caches_go_round() {
        let cache = Tensor::from_slice(&[1, 3, 1], &[1i32, 2, 3]).unwrap();
        let update = Tensor::from_slice(&[1, 2, 1], &[8i32, 9]).unwrap();
        let case = Case::new("TensorScatter").tensor(&cache).tensor(&update);
        check(&case, 0, &[1, 3, 1], &[8.0, 9.0, 3.0]);
        let late = case.with_input(2, &Tensor::vector(&[2i64]));
        assert!(late.eval().is_err());
        check(&late.attr("mode", "circular"), 0, &[1, 3, 1], &[9.0, 2.0, 8.0]);
        assert!(case.attr("axis", 0i64).eval().is_err());
    }
}
