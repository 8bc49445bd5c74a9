//! Pooling over windows and over whole planes.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::PoolGeometry;
use hetra_tensor::DType;

use super::conv::window_fits;
use super::extents::pair;
use super::{Compile, Form, Outcome, program};
use crate::kernels::isa::isa;
use crate::kernels::norm::{Reduce, reduce};
use crate::kernels::pool::{Pool, PoolKind, pool};

pub(super) static OPS: &[(&str, Compile)] = &[
    ("MaxPool", compile),
    ("AveragePool", compile),
    ("GlobalAveragePool", |_, _| program("pool", &[], |call| run_global(call, Reduce::Mean))),
    ("GlobalMaxPool", |_, _| program("pool", &[], |call| run_global(call, Reduce::MaxNumber))),
];

pub(super) fn takes(Form { node, .. }: &Form<'_>) -> bool {
    match node.op.as_str() {
        // The indices of the greatest elements are the reference's business.
        "MaxPool" => node.output(1).is_none(),
        // Where a window hangs over the padding, counting differs: the reference does it.
        "AveragePool" => node.attrs.flag_or("ceil_mode", false).is_ok_and(|ceil| !ceil),
        _ => true,
    }
}

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let kind = match node.op.as_str() {
        "MaxPool" => PoolKind::Max,
        _ => PoolKind::Average {
            count_include_pad: node.attrs.flag_or("count_include_pad", false).ok()?,
        },
    };
    program("pool", &[], move |call| run(call, kind))
}

/// The kernel's form of a 1-D or 2-D pooling.
fn form_of(geometry: &PoolGeometry, kind: PoolKind) -> Option<Pool> {
    let w = &geometry.window;
    let (begin, end) = (pair(&w.pads_begin, 0)?, pair(&w.pads_end, 0)?);
    Some(Pool {
        kind,
        kernel: pair(&w.kernel, 1)?,
        stride: pair(&w.strides, 1)?,
        dilation: pair(&w.dilations, 1)?,
        pads: [begin[0], begin[1], end[0], end[1]],
    })
}

fn run(call: &mut Call<'_>, kind: PoolKind) -> Outcome {
    let x = call.tensor(0)?.clone();
    if x.dtype() != DType::F32 || x.is_empty() {
        return Ok(None);
    }
    let geometry = PoolGeometry::resolve(&call.node.attrs, x.shape())?;
    let (Some(form), Some([h, w]), Some([oh, ow])) =
        (form_of(&geometry, kind), pair(&geometry.input, 1), pair(&geometry.output, 1))
    else {
        return Ok(None);
    };
    let shape = [&x.shape()[..2], geometry.output.as_slice()].concat();
    let fits = window_fits((form.kernel, form.stride), form.pads, [1, h, w]);
    if oh * ow == 0 || !fits {
        return Ok(None);
    }
    let mut out = call.output(0, DType::F32, &shape)?;
    let size = (geometry.planes, h, w);
    pool(isa(), &form, x.as_slice()?, size, (oh, ow), out.as_mut_slice()?);
    Ok(Some(vec![out.into()]))
}

fn run_global(call: &mut Call<'_>, op: Reduce) -> Outcome {
    let x = call.tensor(0)?.clone();
    if x.dtype() != DType::F32 || x.rank() < 3 || x.is_empty() {
        return Ok(None);
    }
    let planes = x.shape()[0] * x.shape()[1];
    let mut shape = vec![1; x.rank()];
    shape[..2].copy_from_slice(&x.shape()[..2]);
    let mut out = call.output(0, DType::F32, &shape)?;
    reduce(isa(), op, x.as_slice()?, [planes, x.len() / planes, 1], out.as_mut_slice()?);
    Ok(Some(vec![out.into()]))
}
