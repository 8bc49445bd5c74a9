//! The greatest elements of an axis.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_tensor::{DType, to_i64};
use smallvec::smallvec;

use super::extents::{axis_of, product};
use super::{Compile, Outcome, program};
use hetra_cpu_rows::top::{Top, top};

pub(super) static OPS: &[(&str, Compile)] = &[("TopK", compile)];

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let axis = node.attrs.int_or("axis", -1).ok()?;
    let largest = node.attrs.flag_or("largest", true).ok()?;
    program("select", move |call| run(call, axis, largest))
}

fn run(call: &mut Call<'_>, axis: i64, largest: bool) -> Outcome {
    let (x, wanted) = (call.tensor(0)?.clone(), call.tensor(1)?);
    let Some(axis) = axis_of(axis, x.rank()) else { return Ok(None) };
    let count = match to_i64(wanted).as_deref() {
        Ok(&[count]) => usize::try_from(count).unwrap_or(0),
        _ => 0,
    };
    let extent = x.shape()[axis];
    let fits = (1..=extent).contains(&count) && u32::try_from(extent).is_ok();
    if x.dtype() != DType::F32 || x.is_empty() || !fits {
        return Ok(None);
    }
    let mut shape = x.shape().to_vec();
    shape[axis] = count;
    let form = Top {
        outer: product(&shape[..axis]),
        axis: extent,
        inner: product(&shape[axis + 1..]),
        count,
        largest,
    };
    let mut values = call.output(0, DType::F32, &shape)?;
    let mut places = call.output(1, DType::I64, &shape)?;
    top(&form, x.as_slice()?, values.as_mut_slice()?, places.as_mut_slice()?);
    Ok(Some(smallvec![values.into(), places.into()]))
}
