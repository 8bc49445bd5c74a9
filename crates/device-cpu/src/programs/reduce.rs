//! Reductions along axes that lie side by side.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::OpError;
use hetra_tensor::{DType, Tensor, to_i64};

use super::extents::{axis_of, product};
use super::{Compile, program};
use hetra_cpu_kernels::arg::{AXIS_MAX, Extreme, arg_extreme};
use hetra_cpu_kernels::isa::isa;
use hetra_cpu_kernels::math::{Func, map_in_place};
use hetra_cpu_kernels::norm::{Reduce, reduce};

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

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let op = match node.op.as_str() {
        "ReduceSum" => Reduce::Sum,
        "ReduceMean" => Reduce::Mean,
        "ReduceMax" => Reduce::Max,
        "ReduceMin" => Reduce::Min,
        "ReduceSumSquare" | "ReduceL2" => Reduce::SumSquare,
        "ReduceL1" => Reduce::SumAbs,
        _ => return None,
    };
    let keep = node.attrs.flag_or("keepdims", true).ok()?;
    let noop = node.attrs.flag_or("noop_with_empty_axes", false).ok()?;
    let root = node.op == "ReduceL2";
    program("reduce", &[], move |call| {
        let Some(mut out) = run(call, op, keep, noop)? else { return Ok(None) };
        if root {
            // Squares leave the range of f32 where their root does not: the reference has f64.
            let lost = |sum: &f32| sum.is_infinite() || *sum < SQUARES_MIN;
            if out.as_slice::<f32>()?.iter().any(lost) {
                return Ok(None);
            }
            map_in_place(isa(), Func::Sqrt, out.as_mut_slice()?);
        }
        Ok(Some(vec![out.into()]))
    })
}

/// The axes as flags, all when none is listed; `None` when that means none, or when they are
/// malformed, which is the reference's business.
fn axes(call: &Call<'_>, rank: usize, noop: bool) -> Option<Vec<bool>> {
    let listed = match call.tensor_opt(1) {
        Some(axes) => to_i64(axes).ok()?,
        None => Vec::new(),
    };
    if listed.is_empty() {
        return (!noop && rank > 0).then(|| vec![true; rank]);
    }
    let mut chosen = vec![false; rank];
    for axis in listed {
        chosen[axis_of(axis, rank)?] = true;
    }
    Some(chosen)
}

fn run(call: &mut Call<'_>, op: Reduce, keep: bool, noop: bool) -> Result<Option<Tensor>, OpError> {
    let x = call.tensor(0)?.clone();
    if x.dtype() != DType::F32 || x.is_empty() {
        return Ok(None);
    }
    let Some(chosen) = axes(call, x.rank(), noop) else { return Ok(None) };
    let first = chosen.iter().position(|&c| c).unwrap_or(0);
    let last = chosen.iter().rposition(|&c| c).unwrap_or(0);
    if chosen[first..=last].contains(&false) {
        return Ok(None);
    }
    let sizes = [
        product(&x.shape()[..first]),
        product(&x.shape()[first..=last]),
        product(&x.shape()[last + 1..]),
    ];
    let kept = x.shape().iter().zip(&chosen);
    let shape: Vec<usize> = if keep {
        kept.map(|(&extent, &gone)| if gone { 1 } else { extent }).collect()
    } else {
        kept.filter(|(_, gone)| !**gone).map(|(&extent, _)| extent).collect()
    };
    let mut out = call.output(0, DType::F32, &shape)?;
    reduce(isa(), op, x.as_slice()?, sizes, out.as_mut_slice()?);
    Ok(Some(out))
}

fn compile_arg(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let axis = node.attrs.int_or("axis", 0).ok()?;
    let keep = node.attrs.flag_or("keepdims", true).ok()?;
    let pick = Extreme {
        least: node.op == "ArgMin",
        last: node.attrs.flag_or("select_last_index", false).ok()?,
    };
    program("arg", &[], move |call| {
        let x = call.tensor(0)?.clone();
        let Some(axis) = axis_of(axis, x.rank()) else { return Ok(None) };
        if x.dtype() != DType::F32 || x.is_empty() {
            return Ok(None);
        }
        if x.shape()[axis] > AXIS_MAX {
            return Ok(None);
        }
        let (before, after) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
        let shape: Vec<usize> = match keep {
            true => [before, &[1], after].concat(),
            false => [before, after].concat(),
        };
        let sizes = [product(before), x.shape()[axis], product(after)];
        let mut out = call.output(0, DType::I64, &shape)?;
        arg_extreme(isa(), pick, x.as_slice()?, sizes, out.as_mut_slice()?);
        Ok(Some(vec![out.into()]))
    })
}
