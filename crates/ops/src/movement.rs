//! Moves whole blocks of elements: Transpose, Concat, Split, Slice, Tile, DepthToSpace,
//! SpaceToDepth, ReverseSequence.

use hetra_ir::{Dim, Type};
use hetra_tensor::{Tensor, Value};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dims::{
    check_ints, check_same_dtype, count_of, dims_of_rank, extent, map_dim, resolve_axes, same_rank,
    shape_from, types_from,
};
use crate::elements::{Walk, assemble, volume};
use crate::error::OpError;
use crate::slice::Steps;
use crate::tape::{Gradients, Tape, op};
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] =
    &[&TRANSPOSE, &CONCAT, &SPLIT, &TILE, &DEPTH_TO_SPACE, &SPACE_TO_DEPTH, &REVERSE_SEQUENCE];

const MOVE: OpDef =
    OpDef { kind: Kind::Move, work: none, gradient: Some(|tape| tape.moved()), ..OpDef::DEFAULT };

static TRANSPOSE: OpDef = OpDef {
    name: "Transpose",
    doc: "Reorders the axes; without `perm` it reverses them.",
    onnx: &[onnx("", "Transpose", 25)],
    infer: |ctx| {
        let dims = match ctx.dims(0) {
            Some(dims) => {
                let perm = permutation(ctx.attrs(), dims.len())?;
                Some(perm.into_iter().map(|axis| dims[axis].clone()).collect())
            }
            None => ctx.attrs().ints_opt("perm")?.map(|perm| vec![Dim::Unknown; perm.len()]),
        };
        Ok(vec![InferCtx::make(ctx.dtype_opt(0), dims)])
    },
    eval: |ctx| {
        let tensor = ctx.tensor(0)?;
        let perm = permutation(ctx.attrs(), tensor.rank())?;
        let walk = Walk::dense(tensor.shape()).permuted(&perm);
        Ok(vec![walk.copy(tensor, &walk.shape)?.into()])
    },
    gradient: Some(transpose_gradient),
    ..MOVE
};

static CONCAT: OpDef = OpDef {
    name: "Concat",
    doc: "Joins tensors along an axis.",
    onnx: &[onnx("", "Concat", 13)],
    inputs: Arity::at_least(1),
    upgrade: Some(|up| {
        // Before opset 4 the axis had a default.
        if !up.node.attrs.has("axis") && up.node.version < 4 {
            up.node.attrs.set("axis", 1i64);
        }
        Ok(())
    }),
    infer: infer_concat,
    eval: |ctx| {
        let tensors: Vec<&Tensor> =
            (0..ctx.inputs.len()).map(|index| ctx.tensor(index)).collect::<Result<_, _>>()?;
        Ok(vec![concat(&tensors, *ctx.attrs().int("axis")?)?.into()])
    },
    gradient: Some(concat_gradient),
    ..MOVE
};

static SPLIT: OpDef = OpDef {
    name: "Split",
    doc: "Cuts a tensor along an axis, into the given extents or into equal ones.",
    onnx: &[onnx("", "Split", 18)],
    inputs: Arity::between(1, 2),
    outputs: Arity::at_least(1),
    upgrade: Some(|up| up.attr_to_input("split", 1)),
    infer: infer_split,
    eval: |ctx| {
        let tensor = ctx.tensor(0)?;
        let axis = resolve_axis(ctx.attrs().int_or("axis", 0)?, tensor.rank())?;
        let types = types_from(ctx, infer_split)?;
        let shapes: Option<Vec<Vec<usize>>> = types.iter().map(Type::known_shape).collect();
        let shapes = shapes.ok_or_else(|| OpError::invalid("its parts are unclear"))?;
        let extents: Vec<usize> = shapes.iter().map(|shape| shape[axis]).collect();
        Ok(split(tensor, axis, &extents)?.into_iter().map(Value::from).collect())
    },
    gradient: Some(|tape| {
        let dys: Vec<_> = (0..tape.outputs()).map(|index| tape.dy(index)).collect();
        let node = op("Concat").with("axis", tape.attrs().int_or("axis", 0)?);
        Ok(vec![Some(tape.op(node, &dys))])
    }),
    ..MOVE
};

static TILE: OpDef = OpDef {
    name: "Tile",
    doc: "Repeats a tensor along each axis.",
    onnx: &[onnx("", "Tile", 13)],
    inputs: Arity::between(2, 3),
    infer: infer_tile,
    eval: |ctx| {
        let tensor = ctx.tensor(0)?;
        let shape = shape_from(ctx, infer_tile)?;
        let once = Walk::dense(tensor.shape());
        let mut walk = Walk { shape: vec![], strides: vec![], offset: 0 };
        for (axis, &extent) in tensor.shape().iter().enumerate() {
            // Extents of 0 give no elements, whatever the count.
            walk.shape.extend([shape[axis] / extent.max(1), extent]);
            walk.strides.extend([0, once.strides[axis]]);
        }
        Ok(vec![walk.copy(tensor, &shape)?.into()])
    },
    ..MOVE
};

/// Back by the inverse order.
fn transpose_gradient(tape: &Tape) -> Gradients<'_> {
    let mut node = op("Transpose");
    if let Some(perm) = tape.attrs().ints_opt("perm")? {
        let perm = permutation(&tape.attrs(), perm.len())?;
        let mut inverse = vec![0i64; perm.len()];
        perm.iter().zip(0..).for_each(|(&from, to)| inverse[from] = to);
        node = node.with("perm", inverse);
    }
    Ok(vec![Some(tape.op(node, &[tape.dy(0)]))])
}

/// Each operand gets its part.
fn concat_gradient(tape: &Tape) -> Gradients<'_> {
    let axis = *tape.attrs().int("axis")?;
    let at = tape.ints(&[axis]);
    let xs: Vec<_> = tape.xs().into_iter().flatten().collect();
    let extents: Vec<_> = xs.iter().map(|x| x.shape().with("Gather", at)).collect();
    let node = op("Split").with("axis", axis);
    let inputs = [Some(tape.dy(0)), Some(tape.concat(&extents))];
    Ok(tape.call(node, &inputs, xs.len()).into_iter().map(Some).collect())
}

static DEPTH_TO_SPACE: OpDef = OpDef {
    name: "DepthToSpace",
    doc: "Moves blocks of channels (DCR: the outer part of the axis, CRD: the inner) into space.",
    onnx: &[onnx("", "DepthToSpace", 13)],
    infer: |ctx| {
        let block = block_size(ctx.attrs())?;
        infer_blocks(ctx, |c| exact(c, block * block), |e| e.checked_mul(block))
    },
    eval: |ctx| {
        let (tensor, block) = (ctx.tensor(0)?, block_size(ctx.attrs())?);
        let &[n, c, h, w] = tensor.shape() else { return Err(not_4d(tensor)) };
        let depth = exact(c, block * block).ok_or_else(|| not_multiple(tensor))?;
        let (inner, perm) = match ctx.attrs().str_or("mode", "DCR")? {
            "DCR" => ([block, block, depth], [0, 3, 4, 1, 5, 2]),
            "CRD" => ([depth, block, block], [0, 1, 4, 2, 5, 3]),
            mode => return Err(OpError::invalid(format!("mode `{mode}`"))),
        };
        let walk = Walk::dense(&[n, inner[0], inner[1], inner[2], h, w]).permuted(&perm);
        let shape = shape_from(ctx, DEPTH_TO_SPACE.infer)?;
        Ok(vec![walk.copy(tensor, &shape)?.into()])
    },
    ..MOVE
};

static SPACE_TO_DEPTH: OpDef = OpDef {
    name: "SpaceToDepth",
    doc: "Moves blocks of space into channels.",
    onnx: &[onnx("", "SpaceToDepth", 13)],
    infer: |ctx| {
        let block = block_size(ctx.attrs())?;
        infer_blocks(ctx, |c| c.checked_mul(block * block), |e| exact(e, block))
    },
    eval: |ctx| {
        let (tensor, block) = (ctx.tensor(0)?, block_size(ctx.attrs())?);
        let &[n, c, h, w] = tensor.shape() else { return Err(not_4d(tensor)) };
        let (Some(rows), Some(columns)) = (exact(h, block), exact(w, block)) else {
            return Err(not_multiple(tensor));
        };
        let shape = shape_from(ctx, SPACE_TO_DEPTH.infer)?;
        let walk = Walk::dense(&[n, c, rows, block, columns, block]).permuted(&[0, 3, 5, 1, 2, 4]);
        Ok(vec![walk.copy(tensor, &shape)?.into()])
    },
    ..MOVE
};

static REVERSE_SEQUENCE: OpDef = OpDef {
    name: "ReverseSequence",
    doc: "Reverses the first `sequence_lens[b]` steps of each sequence `b` of the batch.",
    onnx: &[onnx("", "ReverseSequence", 10)],
    inputs: Arity::exactly(2),
    infer: |ctx| {
        check_ints(ctx, 1)?;
        reverse_axes(ctx.attrs(), ctx.rank(0).unwrap_or(2))?;
        Ok(vec![ctx.ty(0)?.clone()])
    },
    eval: eval_reverse_sequence,
    ..MOVE
};

fn permutation(attrs: &hetra_ir::Attrs, rank: usize) -> Result<Vec<usize>, OpError> {
    let Some(perm) = attrs.ints_opt("perm")? else { return Ok((0..rank).rev().collect()) };
    if perm.len() != rank {
        return Err(OpError::input(
            0,
            format!("rank {} as `perm` has", perm.len()),
            rank.to_string(),
        ));
    }
    resolve_axes(perm, rank)
}

pub(crate) fn infer_concat(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = (0..ctx.len()).find_map(|index| ctx.dtype_opt(index));
    let axis = *ctx.attrs().int("axis")?;
    let Some((first, rank)) = (0..ctx.len()).find_map(|at| Some((at, ctx.rank(at)?))) else {
        return Ok(vec![InferCtx::make(dtype, None)]);
    };
    let axis = resolve_axis(axis, rank)?;
    let mut dims = ctx.dims(first).unwrap_or_default().to_vec();
    let mut total = Some(0usize);
    for index in 0..ctx.len() {
        check_same_dtype(ctx, index)?;
        let Some(input) = dims_of_rank(ctx, index, rank)? else {
            total = None;
            continue;
        };
        let grown = |sum: usize| input[axis].known().and_then(|extent| sum.checked_add(extent));
        total = total.and_then(grown);
        for (at, (dim, other)) in dims.iter_mut().zip(input).enumerate() {
            match (&*dim, other) {
                (Dim::Known(a), Dim::Known(b)) if a != b && at != axis => {
                    let wanted = format!("extent {a} on axis {at}");
                    return Err(OpError::input(index, wanted, ctx.ty(index)?.to_string()));
                }
                (Dim::Known(_), _) => {}
                // A known extent is what all must have; a symbol says more than nothing.
                (_, Dim::Known(_)) | (Dim::Unknown, _) => *dim = other.clone(),
                _ => {}
            }
        }
    }
    dims[axis] = match (total, ctx.len()) {
        (Some(total), _) => Dim::Known(total),
        (None, 1) => dims[axis].clone(),
        (None, _) => Dim::Unknown,
    };
    Ok(vec![InferCtx::make(dtype, Some(dims))])
}

/// Tensors of one dtype and rank joined along `axis`.
pub(crate) fn concat(tensors: &[&Tensor], axis: i64) -> Result<Tensor, OpError> {
    let first = tensors.first().ok_or(OpError::MissingInput { index: 0 })?;
    let axis = resolve_axis(axis, first.rank())?;
    let mut shape = first.shape().to_vec();
    shape[axis] = 0;
    for (index, tensor) in tensors.iter().enumerate() {
        let other = tensor.shape();
        let fits = other.len() == shape.len()
            && (0..shape.len()).all(|at| at == axis || other[at] == shape[at]);
        let sum = fits.then(|| shape[axis].checked_add(other[axis])).flatten();
        let wanted = || format!("a shape as {}, but for axis {axis}", first.describe());
        shape[axis] = sum.ok_or_else(|| OpError::input(index, wanted(), tensor.describe()))?;
    }
    let outer: usize = volume(&shape[..axis]);
    assemble(first.dtype(), &shape, tensors, |runs| {
        let mut to = 0;
        for row in 0..outer {
            for (source, tensor) in tensors.iter().enumerate() {
                let len: usize = volume(&tensor.shape()[axis..]);
                runs.copy(source, row * len, to, len);
                to += len;
            }
        }
    })
}

fn infer_split(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let count = ctx.node.outputs.len();
    let dtype = ctx.dtype_opt(0);
    if let Some(&wanted) = ctx.attrs().int_opt("num_outputs")?
        && usize::try_from(wanted).ok() != Some(count)
    {
        return Err(OpError::invalid(format!("`num_outputs` is {wanted}, but it has {count}")));
    }
    let axis = ctx.attrs().int_or("axis", 0)?;
    let Some(dims) = ctx.dims(0) else { return Ok(vec![InferCtx::make(dtype, None); count]) };
    let axis = resolve_axis(axis, dims.len())?;
    let sizes: Vec<Dim> = match (ctx.has(1), ctx.known_ints(1), &dims[axis]) {
        (true, Some(sizes), dim) => {
            let sizes: Vec<usize> =
                sizes.into_iter().map(|size| extent(size, 1)).collect::<Result<_, _>>()?;
            let sum = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
            if sizes.len() != count || dim.known().is_some_and(|extent| Some(extent) != sum) {
                let wanted = format!("{count} extents that add up to {dim}");
                return Err(OpError::input(1, wanted, format!("{sizes:?}")));
            }
            sizes.into_iter().map(Dim::Known).collect()
        }
        (false, _, Dim::Known(extent)) => {
            let part = extent.div_ceil(count.max(1));
            (0..count).map(|at| Dim::Known(part.min(extent.saturating_sub(at * part)))).collect()
        }
        (false, _, dim) if count == 1 => vec![dim.clone()],
        _ => vec![Dim::Unknown; count],
    };
    let part = |size| {
        let mut dims = dims.to_vec();
        dims[axis] = size;
        InferCtx::make(dtype, Some(dims))
    };
    Ok(sizes.into_iter().map(part).collect())
}

/// Consecutive parts of a tensor along `axis`; the extents must fit in it.
pub(crate) fn split(
    tensor: &Tensor,
    axis: usize,
    extents: &[usize],
) -> Result<Vec<Tensor>, OpError> {
    let mut start = 0;
    let mut parts = Vec::with_capacity(extents.len());
    for &count in extents {
        let steps = Steps { axis, start: start as isize, step: 1, count };
        parts.push(crate::slice::take(tensor, &[steps])?);
        start += count;
    }
    Ok(parts)
}

fn infer_tile(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let Some(dims) = ctx.dims(0) else {
        let rank = count_of(ctx, 1)?.filter(|_| ctx.len() == 2);
        let dims = rank.map(|rank| vec![Dim::Unknown; rank]);
        return Ok(vec![InferCtx::make(ctx.dtype_opt(0), dims)]);
    };
    let Some(repeats) = ctx.known_ints(1) else { return Ok(vec![same_rank(ctx)]) };
    // Before opset 6: one count, and the axis as a third input.
    let repeats = match (ctx.has(2), &repeats[..], ctx.known_ints(2).as_deref()) {
        (false, ..) => repeats,
        (true, [count], Some([axis])) => {
            let mut repeats = vec![1; dims.len()];
            repeats[resolve_axis(*axis, dims.len())?] = *count;
            repeats
        }
        (true, _, None) => return Ok(vec![same_rank(ctx)]),
        _ => return Err(OpError::input(1, "one count of repeats", format!("{repeats:?}"))),
    };
    if repeats.len() != dims.len() {
        return Err(OpError::input(1, format!("{} counts", dims.len()), format!("{repeats:?}")));
    }
    let repeat = |(dim, &count): (&Dim, &i64)| match extent(count, 1)? {
        0 => Ok(Dim::Known(0)),
        1 => Ok(dim.clone()),
        count => map_dim(dim, |extent| {
            extent.checked_mul(count).ok_or_else(|| OpError::invalid("too many repeats"))
        }),
    };
    let dims = dims.iter().zip(&repeats).map(repeat).collect::<Result<_, OpError>>()?;
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), Some(dims))])
}

fn exact(extent: usize, parts: usize) -> Option<usize> {
    extent.is_multiple_of(parts).then(|| extent / parts)
}

fn not_4d(tensor: &Tensor) -> OpError {
    OpError::input(0, "a tensor of rank 4", tensor.describe())
}

fn not_multiple(tensor: &Tensor) -> OpError {
    OpError::input(0, "extents that are multiples of the block", tensor.describe())
}

fn block_size(attrs: &hetra_ir::Attrs) -> Result<usize, OpError> {
    let block = *attrs.int("blocksize")?;
    // The bound keeps the square of it in range.
    let valid = usize::try_from(block).ok().filter(|block| (1..=65_536).contains(block));
    valid.ok_or_else(|| OpError::invalid(format!("`blocksize` is {block}")))
}

fn infer_blocks(
    ctx: &InferCtx<'_>,
    channels: impl Fn(usize) -> Option<usize>,
    space: impl Fn(usize) -> Option<usize>,
) -> Result<Vec<Type>, OpError> {
    let dims = match dims_of_rank(ctx, 0, 4)? {
        Some(dims) => {
            let fault = || OpError::invalid("its extents are no multiples of the block");
            let mut result = vec![dims[0].clone()];
            result.push(map_dim(&dims[1], |extent| channels(extent).ok_or_else(fault))?);
            for dim in &dims[2..] {
                result.push(map_dim(dim, |extent| space(extent).ok_or_else(fault))?);
            }
            result
        }
        None => vec![Dim::Unknown; 4],
    };
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), Some(dims))])
}

/// Time axis and batch axis: the two first ones, in either order.
fn reverse_axes(attrs: &hetra_ir::Attrs, rank: usize) -> Result<(usize, usize), OpError> {
    let time = resolve_axis(attrs.int_or("time_axis", 0)?, rank)?;
    let batch = resolve_axis(attrs.int_or("batch_axis", 1)?, rank)?;
    if time == batch || time > 1 || batch > 1 {
        return Err(OpError::invalid("`time_axis` and `batch_axis` must be 0 and 1"));
    }
    Ok((time, batch))
}

fn eval_reverse_sequence(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    let (time, batch) = reverse_axes(ctx.attrs(), tensor.rank())?;
    let (steps, sequences) = (tensor.shape()[time], tensor.shape()[batch]);
    let lens = ctx.ints(1)?;
    if lens.len() != sequences || lens.iter().any(|&len| len < 0 || len > steps as i64) {
        let wanted = format!("{sequences} lengths from 0 to {steps}");
        return Err(OpError::input(1, wanted, format!("{lens:?}")));
    }
    let inner: usize = volume(&tensor.shape()[2..]);
    let strides = if time == 0 { (sequences, 1) } else { (1, steps) };
    let out = assemble(tensor.dtype(), tensor.shape(), &[tensor], |runs| {
        for (sequence, &len) in lens.iter().enumerate() {
            for step in 0..steps {
                let from = if step < len as usize { len as usize - 1 - step } else { step };
                let block = |step| (step * strides.0 + sequence * strides.1) * inner;
                runs.copy(0, block(from), block(step), inner);
            }
        }
    })?;
    Ok(vec![out.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};
    use hetra_tensor::DType;

    fn numbers(shape: &[usize]) -> Tensor {
        let values: Vec<i32> = (0..volume(shape) as i32).collect();
        Tensor::from_slice(shape, &values).unwrap()
    }

    fn ints(values: &[i64]) -> Tensor {
        Tensor::vector(values)
    }

    #[test]
    fn axes_are_reordered_and_joined() {
        let turn = Case::new("Transpose").tensor(&numbers(&[2, 3]));
        check(&turn, 0, &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        check(&turn.attr("perm", vec![0, 1]), 0, &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!(turn.attr("perm", vec![0, 0]).eval().is_err());
        assert!(turn.attr("perm", vec![0]).eval().is_err());
        let join = Case::new("Concat").tensor(&numbers(&[2, 1])).tensor(&numbers(&[2, 2]));
        check(&join.attr("axis", -1i64), 0, &[2, 3], &[0.0, 0.0, 1.0, 1.0, 2.0, 3.0]);
        assert!(join.attr("axis", 0i64).eval().is_err());
        assert!(join.attr("axis", 2i64).eval().is_err());
        assert!(join.eval().is_err());
    }

    #[test]
    fn parts_add_up() {
        let split = Case::new("Split").tensor(&numbers(&[5])).outputs(2);
        check(&split, 0, &[3], &[0.0, 1.0, 2.0]);
        check(&split, 1, &[2], &[3.0, 4.0]);
        check(&split.with_input(1, &ints(&[0, 5])), 0, &[0], &[]);
        check(&split.with_input(1, &ints(&[0, 5])), 1, &[5], &[0.0, 1.0, 2.0, 3.0, 4.0]);
        assert!(split.with_input(1, &ints(&[-1, 6])).eval().is_err());
        assert!(split.with_input(1, &ints(&[i64::MAX, i64::MAX])).eval().is_err());
        assert!(split.attr("num_outputs", 3i64).eval().is_err());
    }

    #[test]
    fn tiles_and_their_old_form() {
        let tile = Case::new("Tile").tensor(&numbers(&[2, 1]));
        let twice = tile.with_input(1, &ints(&[2, 2]));
        check(&twice, 0, &[4, 2], &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        check(&tile.with_input(1, &ints(&[0, 3])), 0, &[0, 3], &[]);
        let old = tile.with_input(1, &ints(&[2])).with_input(2, &ints(&[1]));
        check(&old, 0, &[2, 2], &[0.0, 0.0, 1.0, 1.0]);
        assert!(tile.with_input(1, &ints(&[i64::MAX, 2])).eval().is_err());
        assert!(tile.with_input(1, &ints(&[2])).eval().is_err());
        assert!(tile.with_input(1, &ints(&[2, -1])).eval().is_err());
    }

    #[test]
    fn blocks_go_there_and_back() {
        let image = numbers(&[1, 8, 2, 3]);
        let deep = Case::new("DepthToSpace").tensor(&image).attr("blocksize", 2i64);
        let wide = deep.eval().unwrap()[0].as_tensor().unwrap().clone();
        assert_eq!(wide.shape(), [1, 2, 4, 6]);
        let back = Case::new("SpaceToDepth").tensor(&wide).attr("blocksize", 2i64);
        assert!(back.eval().unwrap()[0].as_tensor().unwrap() == &image);
        assert!(deep.attr("blocksize", 0i64).eval().is_err());
        assert!(deep.attr("blocksize", 3i64).eval().is_err());
    }

    #[test]
    fn sequences_turn_around() {
        let case = Case::new("ReverseSequence").tensor(&numbers(&[3, 2]));
        let case = case.tensor(&ints(&[3, 1]));
        check(&case, 0, &[3, 2], &[4.0, 1.0, 2.0, 3.0, 0.0, 5.0]);
        assert!(case.with_input(1, &ints(&[4, 1])).eval().is_err());
        assert!(case.attr("time_axis", 1i64).eval().is_err());
    }

    #[test]
    fn extents_of_nothing_may_be_huge() {
        let huge = Tensor::zeros(DType::F32, &[1 << 40, 1 << 40, 0]).unwrap();
        let shape = |case: &Case| {
            let outputs = case.eval().unwrap();
            outputs[0].as_tensor().unwrap().shape().to_vec()
        };
        assert_eq!(shape(&Case::new("Transpose").tensor(&huge)), [0, 1 << 40, 1 << 40]);
        let join = Case::new("Concat").tensor(&huge).tensor(&huge).attr("axis", 2i64);
        assert_eq!(shape(&join), [1 << 40, 1 << 40, 0]);
        let gather = Case::new("Gather").tensor(&huge).tensor(&ints(&[5]));
        assert_eq!(shape(&gather), [1, 1 << 40, 0]);
        let slice = Case::new("Slice").tensor(&huge).tensor(&ints(&[1 << 39, 7]));
        let slice = slice.tensor(&ints(&[i64::MAX, 8]));
        assert_eq!(shape(&slice), [1 << 39, 1, 0]);
        let expand = Case::new("Expand").tensor(&numbers(&[1])).tensor(&ints(&[1 << 40, 1 << 40]));
        assert!(expand.eval().is_err());
        let tuples = Tensor::zeros(DType::I64, &[1 << 40, 1 << 30, 0]).unwrap();
        let nd = Case::new("GatherND").tensor(&numbers(&[2])).tensor(&tuples);
        assert!(nd.eval().is_err());
        assert!(Case::new("Unique").tensor(&huge).attr("axis", 0i64).eval().is_err());
        let best = Case::new("TopK").tensor(&huge).tensor(&ints(&[1])).attr("axis", 0i64);
        assert_eq!(shape(&best.outputs(2)), [1, 1 << 40, 0]);
    }
}
