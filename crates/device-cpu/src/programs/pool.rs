//! Pooling over windows and over whole planes.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::{PoolGeometry, Window};
use hetra_tensor::{DType, Shape};
use smallvec::smallvec;

use super::conv::{scratch_fits, window_fits};
use super::extents::{chained, pair};
use super::{Compile, Form, Outcome, one, program};
use hetra_cpu_base::isa::isa;
use hetra_cpu_base::scratch::lend;
use hetra_cpu_kernels::pool::{Pool, PoolKind, pool};
use hetra_cpu_rows::norm::{Reduce, reduce};

pub(super) static OPS: &[(&str, Compile)] = &[
    ("MaxPool", compile),
    ("AveragePool", compile),
    ("GlobalAveragePool", |_, _| program("pool", |call| run_global(call, Reduce::Mean))),
    ("GlobalMaxPool", |_, _| program("pool", |call| run_global(call, Reduce::MaxNumber))),
];

pub(super) fn takes(form: &Form<'_>) -> bool {
    let node = form.node;
    match node.op.as_str() {
        "MaxPool" | "AveragePool" if form.rank(0).is_some_and(|rank| !(3..=5).contains(&rank)) => {
            false
        }
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
    program("pool", move |call| run(call, kind))
}

/// Windows on planes, from lists of two entries each.
pub(super) fn planar(w: &Window, kind: PoolKind) -> Option<Pool> {
    let (begin, end) = (pair(&w.pads_begin, 0)?, pair(&w.pads_end, 0)?);
    Some(Pool {
        kind,
        kernel: pair(&w.kernel, 1)?,
        stride: pair(&w.strides, 1)?,
        dilation: pair(&w.dilations, 1)?,
        pads: [begin[0], begin[1], end[0], end[1]],
    })
}

/// A window of three axes as one in depth, for planes whose rows are whole planes, and one on
/// planes: the greatest of the greatest, and the mean of means since counts multiply.
fn stages(w: &Window, kind: PoolKind) -> Option<[Pool; 2]> {
    if w.kernel.len() != 3 {
        return None;
    }
    let axes = |from: usize, to: usize| Window {
        kernel: w.kernel[from..to].into(),
        strides: w.strides[from..to].into(),
        dilations: w.dilations[from..to].into(),
        pads_begin: w.pads_begin[from..to].into(),
        pads_end: w.pads_end[from..to].into(),
        ceil: w.ceil,
    };
    // A single axis is taken for the width.
    let depth = planar(&axes(0, 1), kind)?;
    let turned = |[one, depth]: [usize; 2]| [depth, one];
    let [top, left, bottom, right] = depth.pads;
    let depth = Pool {
        kernel: turned(depth.kernel),
        stride: turned(depth.stride),
        dilation: turned(depth.dilation),
        pads: [left, top, right, bottom],
        ..depth
    };
    Some([depth, planar(&axes(1, 3), kind)?])
}

fn run(call: &mut Call<'_>, kind: PoolKind) -> Outcome {
    let x = call.tensor(0)?.clone();
    if x.dtype() != DType::F32 || x.is_empty() {
        return Ok(None);
    }
    let geometry = PoolGeometry::resolve(&call.node.attrs, x.shape())?;
    let shape = chained([&x.shape()[..2], &geometry.output]);
    let fits = |form: &Pool, out: (usize, usize)| window_fits(&form.window(), 1, out);
    if shape.contains(&0) {
        return Ok(None);
    }
    let (planes, source) = (geometry.planes, x.as_slice::<f32>()?);
    if let (Some([depth, plane]), &[d, h, w], &[od, oh, ow]) =
        (stages(&geometry.window, kind), &geometry.input[..], &geometry.output[..])
    {
        let row = oh.saturating_mul(ow);
        if !fits(&plane, (oh, ow)) || !fits(&depth, (od, row)) || !scratch_fits(&[planes, d, row]) {
            return Ok(None);
        }
        let mut out = call.output(0, DType::F32, &shape)?;
        let mut pooled = lend(planes * d * row);
        pool(isa(), &plane, source, (planes * d, h, w), (oh, ow), &mut pooled);
        pool(isa(), &depth, &pooled, (planes, d, row), (od, row), out.as_mut_slice()?);
        return one(out);
    }
    let (Some(form), Some([h, w]), Some(size)) =
        (planar(&geometry.window, kind), pair(&geometry.input, 1), pair(&geometry.output, 1))
    else {
        return Ok(None);
    };
    if !fits(&form, size.into()) {
        return Ok(None);
    }
    let mut out = call.output(0, DType::F32, &shape)?;
    pool(isa(), &form, source, (planes, h, w), size.into(), out.as_mut_slice()?);
    one(out)
}

fn run_global(call: &mut Call<'_>, op: Reduce) -> Outcome {
    let x = call.tensor(0)?.clone();
    if x.dtype() != DType::F32 || x.rank() < 3 || x.is_empty() {
        return Ok(None);
    }
    let planes = x.shape()[0] * x.shape()[1];
    let mut shape: Shape = smallvec![1; x.rank()];
    shape[..2].copy_from_slice(&x.shape()[..2]);
    let mut out = call.output(0, DType::F32, &shape)?;
    reduce(isa(), op, x.as_slice()?, [planes, x.len() / planes, 1], out.as_mut_slice()?);
    one(out)
}
