//! Reductions. Axes that do not lie side by side are moved to the end first.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::OpError;
use hetra_tensor::{Axes, DType, Shape, Tensor, to_i64};
use smallvec::smallvec;

use super::conv::scratch_fits;
use super::extents::{axis_of, chained, product};
use super::{Compile, one, program};
use hetra_cpu_base::isa::isa;
use hetra_cpu_base::math::{Func, map_in_place};
use hetra_cpu_base::scratch::lend;
use hetra_cpu_kernels::layout::transpose;
use hetra_cpu_rows::arg::{AXIS_MAX, Extreme, arg_extreme};
use hetra_cpu_rows::norm::{Reduce, reduce};

pub(super) static OPS: &[(&str, Compile)] = &[
    ("ReduceSum", compile),
    ("ReduceMean", compile),
    ("ReduceMax", compile),
    ("ReduceMin", compile),
    ("ReduceSumSquare", compile),
    ("ReduceL1", compile),
    ("ReduceL2", compile),
    ("ArgMax", compile_arg),
    ("ArgMin", compile_arg),
];

/// Sums of squares below this may have lost digits, or be 0 of numbers that are not.
const SQUARES_MIN: f32 = 1e-30;

/// The kernel's reduction for an operator that is no more than that.
pub(super) fn op_of(op: &str) -> Option<Reduce> {
    Some(match op {
        "ReduceSum" => Reduce::Sum,
        "ReduceMean" => Reduce::Mean,
        "ReduceMax" => Reduce::Max,
        "ReduceMin" => Reduce::Min,
        _ => return None,
    })
}

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let op = match node.op.as_str() {
        "ReduceSumSquare" | "ReduceL2" => Reduce::SumSquare,
        "ReduceL1" => Reduce::SumAbs,
        op => op_of(op)?,
    };
    let keep = node.attrs.flag_or("keepdims", true).ok()?;
    let noop = node.attrs.flag_or("noop_with_empty_axes", false).ok()?;
    let root = node.op == "ReduceL2";
    program("reduce", move |call| {
        let Some(mut out) = run(call, op, keep, noop)? else { return Ok(None) };
        if root {
            // Squares leave the range of f32 where their root does not: the reference has f64.
            let lost = |sum: &f32| sum.is_infinite() || *sum < SQUARES_MIN;
            if out.as_slice::<f32>()?.iter().any(lost) {
                return Ok(None);
            }
            map_in_place(isa(), Func::Sqrt, out.as_mut_slice()?);
        }
        one(out)
    })
}

/// The axes as flags: when none is listed, all or (`noop`) none. `None` when they are malformed,
/// which is the reference's business.
fn axes(call: &Call<'_>, rank: usize, noop: bool) -> Option<Axes<bool>> {
    let listed = match call.tensor_opt(1) {
        Some(axes) => to_i64(axes).ok()?,
        None => Vec::new(),
    };
    let mut chosen: Axes<bool> = smallvec![listed.is_empty() && !noop; rank];
    for axis in listed {
        chosen[axis_of(axis, rank)?] = true;
    }
    Some(chosen)
}

/// What lies before, along and behind the chosen axes, if they lie side by side. An axis of one
/// index lies anywhere.
fn side_by_side(shape: &[usize], chosen: &[bool]) -> Option<[usize; 3]> {
    let wide = |at: &usize| chosen[*at] && shape[*at] != 1;
    let first = (0..shape.len()).find(wide).unwrap_or(0);
    let end = (0..shape.len()).rfind(wide).map_or(first, |last| last + 1);
    let gap = (first..end).any(|at| !chosen[at] && shape[at] != 1);
    let (before, rest) = shape.split_at(first);
    let (along, behind) = rest.split_at(end - first);
    (!gap).then(|| [before, along, behind].map(product))
}

fn run(call: &mut Call<'_>, op: Reduce, keep: bool, noop: bool) -> Result<Option<Tensor>, OpError> {
    let x = call.tensor(0)?.clone();
    if x.dtype() != DType::F32 || x.is_empty() {
        return Ok(None);
    }
    let Some(chosen) = axes(call, x.rank(), noop) else { return Ok(None) };
    let sizes = side_by_side(x.shape(), &chosen);
    if sizes.is_none() && !scratch_fits(x.shape()) {
        return Ok(None);
    }
    let kept = x.shape().iter().zip(&chosen);
    let shape: Shape = if keep {
        kept.map(|(&extent, &gone)| if gone { 1 } else { extent }).collect()
    } else {
        kept.filter(|(_, gone)| !**gone).map(|(&extent, _)| extent).collect()
    };
    let mut out = call.output(0, DType::F32, &shape)?;
    let (values, target) = (x.as_slice::<f32>()?, out.as_mut_slice()?);
    if let Some(sizes) = sizes {
        reduce(isa(), op, values, sizes, target);
        return Ok(Some(out));
    }
    let mut order: Axes = (0..x.rank()).collect();
    order.sort_by_key(|&axis| chosen[axis]);
    let mut moved = lend(x.len());
    transpose(values, x.shape(), &order, &mut moved);
    reduce(isa(), op, &moved, [target.len(), x.len() / target.len(), 1], target);
    Ok(Some(out))
}

fn compile_arg(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let axis = node.attrs.int_or("axis", 0).ok()?;
    let keep = node.attrs.flag_or("keepdims", true).ok()?;
    let pick = Extreme {
        least: node.op == "ArgMin",
        last: node.attrs.flag_or("select_last_index", false).ok()?,
    };
    program("arg", move |call| {
        let x = call.tensor(0)?.clone();
        let Some(axis) = axis_of(axis, x.rank()) else { return Ok(None) };
        if x.dtype() != DType::F32 || x.is_empty() {
            return Ok(None);
        }
        if x.shape()[axis] > AXIS_MAX {
            return Ok(None);
        }
        let (before, after) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
        let shape = match keep {
            true => chained([before, &[1], after]),
            false => chained([before, after]),
        };
        let sizes = [product(before), x.shape()[axis], product(after)];
        let mut out = call.output(0, DType::I64, &shape)?;
        arg_extreme(isa(), pick, x.as_slice()?, sizes, out.as_mut_slice()?);
        one(out)
    })
}
