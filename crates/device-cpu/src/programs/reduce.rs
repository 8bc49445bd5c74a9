//! Reductions along axes that lie side by side.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_tensor::{DType, to_i64};

use super::extents::{axis_of, product};
use super::{Compile, Outcome, program};
use crate::kernels::isa::isa;
use crate::kernels::norm::{Reduce, reduce};

pub(super) static OPS: &[(&str, Compile)] = &[
    ("ReduceSum", compile),
    ("ReduceMean", compile),
    ("ReduceMax", compile),
    ("ReduceMin", compile),
    ("ReduceSumSquare", compile),
    ("ReduceL1", compile),
];

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let op = match node.op.as_str() {
        "ReduceSum" => Reduce::Sum,
        "ReduceMean" => Reduce::Mean,
        "ReduceMax" => Reduce::Max,
        "ReduceMin" => Reduce::Min,
        "ReduceSumSquare" => Reduce::SumSquare,
        "ReduceL1" => Reduce::SumAbs,
        _ => return None,
    };
    let keep = node.attrs.flag_or("keepdims", true).ok()?;
    program("reduce", &[], move |call| run(call, op, keep))
}

/// The axes as flags; `None` when they are all by default or malformed, which is the reference's
/// business.
fn axes(call: &Call<'_>, rank: usize) -> Option<Vec<bool>> {
    let listed = to_i64(call.tensor_opt(1)?).ok().filter(|axes| !axes.is_empty())?;
    let mut chosen = vec![false; rank];
    for axis in listed {
        chosen[axis_of(axis, rank)?] = true;
    }
    Some(chosen)
}

fn run(call: &mut Call<'_>, op: Reduce, keep: bool) -> Outcome {
    let x = call.tensor(0)?.clone();
    if x.dtype() != DType::F32 || x.is_empty() {
        return Ok(None);
    }
    let Some(chosen) = axes(call, x.rank()) else { return Ok(None) };
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
    Ok(Some(vec![out.into()]))
}
