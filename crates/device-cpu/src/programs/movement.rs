//! Moves elements of any dtype of whole bytes: transpose, concatenate, split, gather, repeat.

use std::sync::Arc;

use half::bf16;
use hetra_device::{Call, Part, Program, Values};
use hetra_ir::Node;
use hetra_ops::{OpError, SliceForm, resolve_indices};
use hetra_tensor::{Axes, DType, Shape, Tensor, TensorError, broadcast, to_i64};
use smallvec::{SmallVec, smallvec};

use super::extents::{Join, axis_of, chained, product};
use super::{Compile, Form, Outcome, one, program};
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::layout::{Blocks, Item, copy_blocks, copy_strided, gather, transpose};
use hetra_cpu_rows::broadcast::broadcast_strides;
use hetra_cpu_rows::gather_concat::{Arrays, gather_concat, pick_concat};

pub(super) static OPS: &[(&str, Compile)] = &[
    ("Transpose", compile_transpose),
    ("Concat", compile_concat),
    ("Split", compile_split),
    ("Gather", compile_gather),
    ("Slice", compile_slice),
    ("hetra.GatherConcat", compile_gather_concat),
    ("Expand", |_, _| program("move", expand)),
    ("Tile", |_, _| program("move", tile)),
];

/// Elements that are not whole bytes, or more than a word, are the reference's.
pub(super) fn takes(form: &Form<'_>) -> bool {
    let width = form.ty(form.node.input(0)).dtype().map(DType::bits);
    width.is_none_or(|bits| matches!(bits, 8 | 16 | 32 | 64))
}

/// Runs `$body` with `$T` bound to the unsigned integer as wide as the dtype's elements.
macro_rules! by_width {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype.bits() {
            8 => {
                type $T = u8;
                $body
            }
            16 => {
                type $T = u16;
                $body
            }
            32 => {
                type $T = u32;
                $body
            }
            64 => {
                type $T = u64;
                $body
            }
            _ => return Ok(None),
        }
    };
}

pub(super) use by_width;

pub(super) fn items<T: Item>(tensor: &Tensor) -> &[T] {
    bytemuck::cast_slice(tensor.bytes())
}

pub(super) fn items_mut<T: Item>(tensor: &mut Tensor) -> Result<&mut [T], TensorError> {
    Ok(bytemuck::cast_slice_mut(tensor.bytes_mut()?))
}

/// All inputs of a call.
pub(super) fn tensors(call: &Call<'_>) -> Result<SmallVec<[Tensor; 4]>, OpError> {
    (0..call.inputs.len()).map(|index| call.tensor(index).cloned()).collect()
}

fn compile_transpose(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    program("move", |call| {
        let x = call.tensor(0)?.clone();
        let rank = x.rank();
        let perm: Axes = match call.node.attrs.ints_opt("perm")? {
            Some(perm) => perm.iter().filter_map(|&axis| usize::try_from(axis).ok()).collect(),
            None => (0..rank).rev().collect(),
        };
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        if x.is_empty() || !sorted.iter().copied().eq(0..rank) {
            return Ok(None);
        }
        let shape: Shape = perm.iter().map(|&axis| x.shape()[axis]).collect();
        by_width!(x.dtype(), T => {
            let mut out = call.output(0, x.dtype(), &shape)?;
            transpose::<T>(items(&x), x.shape(), &perm, items_mut(&mut out)?);
            one(out)
        })
    })
}

fn compile_concat(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let axis = *node.attrs.int("axis").ok()?;
    program("move", move |call| run_concat(call, axis))
}

fn run_concat(call: &mut Call<'_>, axis: i64) -> Outcome {
    let parts = tensors(call)?;
    let Some(join) = Join::of(&parts, axis) else { return Ok(None) };
    let dtype = parts[0].dtype();
    by_width!(dtype, T => {
        let mut out = call.output(0, dtype, &join.shape)?;
        let mut at = 0;
        for part in &parts {
            let len = join.part(part);
            let blocks = Blocks { count: join.count, len, src: (0, len), dst: (at, join.block()) };
            copy_blocks::<T>(items(part), items_mut(&mut out)?, &blocks);
            at += len;
        }
        one(out)
    })
}

fn compile_gather_concat(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let axis = *node.attrs.int("axis").ok()?;
    let indices = node.attrs.ints("indices").ok()?.to_vec();
    program("move", move |call| run_gather_concat(call, axis, &indices))
}

fn run_gather_concat(call: &mut Call<'_>, axis: i64, indices: &[i64]) -> Outcome {
    let parts = tensors(call)?;
    let Some(join) = Join::of(&parts, axis) else { return Ok(None) };
    let extents: Axes = parts.iter().map(|part| part.shape()[join.axis]).collect();
    let mut picks = Vec::with_capacity(indices.len());
    for mut at in resolve_indices(indices, join.shape[join.axis], 0)? {
        let mut part = 0;
        while at >= extents[part] {
            (at, part) = (at - extents[part], part + 1);
        }
        picks.push((part, at));
    }
    let (mut shape, sizes) = (join.shape, (join.count, join.inner));
    shape[join.axis] = picks.len();
    let dtype = parts[0].dtype();
    let mut out = call.output(0, dtype, &shape)?;
    /// The parts as numbers or as words of their size.
    macro_rules! arrays {
        ($T:ident) => {{
            let parts = parts.iter().zip(&extents);
            &parts.map(|(x, &n)| (items::<$T>(x), n)).collect::<Axes<_>>()[..]
        }};
    }
    let (single, isa) = (sizes.1 == 1, isa());
    let done = match dtype {
        DType::BF16 if single => {
            let arrays = Arrays { parts: arrays!(bf16), sizes };
            pick_concat(isa, &arrays, &picks, items_mut(&mut out)?)
        }
        dtype if single && dtype.bits() == 32 => {
            let arrays = Arrays { parts: arrays!(f32), sizes };
            pick_concat(isa, &arrays, &picks, items_mut(&mut out)?)
        }
        _ => false,
    };
    if !done {
        by_width!(dtype, T => {
            let arrays = Arrays { parts: arrays!(T), sizes };
            gather_concat(&arrays, &picks, items_mut(&mut out)?);
        });
    }
    one(out)
}

fn compile_split(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let axis = node.attrs.int_or("axis", 0).ok()?;
    let lengths = part.constant(node, 1).and_then(whole_numbers);
    program("move", move |call| run_split(call, axis, lengths.as_ref()))
}

/// Numbers that are extents.
fn whole_numbers(tensor: &Tensor) -> Option<Axes> {
    to_i64(tensor).ok()?.into_iter().map(|n| usize::try_from(n).ok()).collect()
}

/// Lengths of the parts; `None` for forms that the reference checks.
fn split_lengths(call: &Call<'_>, extent: usize, known: Option<&Axes>) -> Option<Axes> {
    let count = call.node.outputs.len();
    if let Some(lengths) = call.tensor_opt(1) {
        let lengths = known.cloned().or_else(|| whole_numbers(lengths))?;
        let total = lengths.iter().try_fold(0usize, |sum, &n| sum.checked_add(n))?;
        return (lengths.len() == count && total == extent).then_some(lengths);
    }
    (count > 0 && extent.is_multiple_of(count)).then(|| smallvec![extent / count; count])
}

fn run_split(call: &mut Call<'_>, axis: i64, known: Option<&Axes>) -> Outcome {
    let x = call.tensor(0)?.clone();
    let Some(axis) = axis_of(axis, x.rank()) else { return Ok(None) };
    let Some(lengths) = split_lengths(call, x.shape()[axis], known) else { return Ok(None) };
    let (count, inner) = (product(&x.shape()[..axis]), product(&x.shape()[axis + 1..]));
    let row = x.shape()[axis] * inner;
    by_width!(x.dtype(), T => {
        let mut at = 0;
        let mut parts = Values::with_capacity(lengths.len());
        for (index, length) in lengths.into_iter().enumerate() {
            let mut shape = Shape::from_slice(x.shape());
            shape[axis] = length;
            let len = length * inner;
            let mut out = call.output(index, x.dtype(), &shape)?;
            let blocks = Blocks { count, len, src: (at, row), dst: (0, len) };
            copy_blocks::<T>(items(&x), items_mut(&mut out)?, &blocks);
            parts.push(out.into());
            at += len;
        }
        Ok(Some(parts))
    })
}

fn compile_gather(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let axis = node.attrs.int_or("axis", 0).ok()?;
    program("move", move |call| run_gather(call, axis))
}

fn run_gather(call: &mut Call<'_>, axis: i64) -> Outcome {
    let (x, indices) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let Some(axis) = axis_of(axis, x.rank()) else { return Ok(None) };
    if !matches!(indices.dtype(), DType::I32 | DType::I64) {
        return Ok(None);
    }
    let extent = x.shape()[axis];
    let chosen: Option<Vec<usize>> =
        to_i64(&indices)?.into_iter().map(|index| axis_of(index, extent)).collect();
    let Some(chosen) = chosen else { return Ok(None) };
    let (before, after) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
    let shape = chained([before, indices.shape(), after]);
    let sizes = [product(before), extent, product(after)];
    by_width!(x.dtype(), T => {
        let mut out = call.output(0, x.dtype(), &shape)?;
        gather::<T>(items(&x), sizes, &chosen, items_mut(&mut out)?);
        one(out)
    })
}

fn compile_slice(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    program("move", |call| {
        let x = call.tensor(0)?.clone();
        let form = SliceForm::resolve(&call.context())?;
        if form.shape.contains(&0) {
            return Ok(None);
        }
        by_width!(x.dtype(), T => {
            let mut out = call.output(0, x.dtype(), &form.shape)?;
            let target = items_mut(&mut out)?;
            copy_strided::<T>(items(&x), form.offset, &form.shape, &form.strides, target);
            one(out)
        })
    })
}

/// A shape or counts at input 1, if they are none below 0.
fn extents(call: &Call<'_>) -> Option<Vec<usize>> {
    let given = to_i64(call.tensor(1).ok().filter(|given| given.rank() == 1)?).ok()?;
    given.into_iter().map(|extent| usize::try_from(extent).ok()).collect()
}

fn expand(call: &mut Call<'_>) -> Outcome {
    let x = call.tensor(0)?.clone();
    let Some(shape) = extents(call).and_then(|given| broadcast(x.shape(), &given).ok()) else {
        return Ok(None);
    };
    let Some(strides) = broadcast_strides(x.shape(), &shape) else { return Ok(None) };
    let strides: Vec<isize> = strides.into_iter().map(|stride| stride as isize).collect();
    repeat(call, &x, &shape, (&shape, &strides))
}

fn tile(call: &mut Call<'_>) -> Outcome {
    let x = call.tensor(0)?.clone();
    let Some(counts) = extents(call).filter(|counts| counts.len() == x.rank()) else {
        return Ok(None);
    };
    let sizes = x.shape().iter().zip(&counts);
    let Some(shape) = sizes.map(|(&n, &times)| n.checked_mul(times)).collect::<Option<Vec<_>>>()
    else {
        return Ok(None);
    };
    // An axis that counts the repetitions before each axis.
    let (mut walk, mut strides, mut stride) = (Vec::new(), Vec::new(), 1);
    for (&extent, &count) in x.shape().iter().zip(&counts).rev() {
        walk.splice(0..0, [count, extent]);
        strides.splice(0..0, [0, stride]);
        stride *= extent as isize;
    }
    repeat(call, &x, &shape, (&walk, &strides))
}

/// `x` walked by sizes and strides. What is empty is the reference's.
fn repeat(
    call: &mut Call<'_>,
    x: &Tensor,
    shape: &[usize],
    (walk, strides): (&[usize], &[isize]),
) -> Outcome {
    if shape.contains(&0) {
        return Ok(None);
    }
    by_width!(x.dtype(), T => {
        let mut out = call.output(0, x.dtype(), shape)?;
        copy_strided::<T>(items(x), 0, walk, strides, items_mut(&mut out)?);
        one(out)
    })
}
