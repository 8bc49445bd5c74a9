//! Single elements by index, of any dtype of whole bytes.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_tensor::{DType, to_i64};
use smallvec::smallvec;

use super::extents::axis_of;
use super::{Compile, Outcome, program};
use hetra_cpu_kernels::elements::gather_elements;
use hetra_cpu_kernels::layout::Item;

pub(super) static OPS: &[(&str, Compile)] = &[("GatherElements", compile)];

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let axis = node.attrs.int_or("axis", 0).ok()?;
    program("gather", move |call| match call.tensor(0)?.dtype().bits() {
        8 => run::<u8>(call, axis),
        16 => run::<u16>(call, axis),
        32 => run::<u32>(call, axis),
        64 => run::<u64>(call, axis),
        _ => Ok(None),
    })
}

fn run<T: Item>(call: &mut Call<'_>, axis: i64) -> Outcome {
    let (x, indices) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let Some(axis) = axis_of(axis, x.rank()) else { return Ok(None) };
    let (shape, extents) = (x.shape(), indices.shape());
    let fits = |at: usize| at == axis || extents[at] <= shape[at];
    let ints = matches!(indices.dtype(), DType::I32 | DType::I64);
    if !ints || extents.len() != shape.len() || !(0..shape.len()).all(fits) {
        return Ok(None);
    }
    let widened;
    let chosen = match indices.dtype() {
        DType::I64 => indices.as_slice::<i64>()?,
        _ => {
            widened = to_i64(&indices)?;
            &widened
        }
    };
    let mut out = call.output(0, x.dtype(), extents)?;
    let source = (bytemuck::cast_slice::<u8, T>(x.bytes()), shape);
    let target = bytemuck::cast_slice_mut::<u8, T>(out.bytes_mut()?);
    // An index outside is the reference's to report.
    Ok(gather_elements(source, axis, (chosen, extents), target).then(|| smallvec![out.into()]))
}
