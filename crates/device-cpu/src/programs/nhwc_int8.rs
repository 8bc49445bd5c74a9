//! Convolution of 8-bit images with their channels last.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::ConvGeometry;
use hetra_tensor::DType;

use super::conv::{makes, scratch_fits, shape_of};
use super::extents::pair;
use super::int8_conv::IntConv;
use super::nhwc::{channels_first, channels_last, fills_vectors};
use super::quantised::bytes;
use super::{Compile, Form, Outcome, one, program};
use hetra_cpu_kernels::nhwc_int8::{CodesOut, PackedNhwcInt8};

pub(super) static OPS: &[(&str, Compile)] = &[("hetra.QLinearConvLast", compile)];

pub(super) fn takes(form: &Form<'_>) -> bool {
    let (part, node) = (form.part, form.node);
    let pad = node.attrs.str_or("auto_pad", "NOTSET");
    let first = node.attrs.flag_or("channels_last", false).is_ok_and(|last| !last);
    let constant = part.constant(node, 5).is_some();
    let rank = form.rank(0).is_none_or(|rank| (3..=4).contains(&rank));
    let fills = fills_vectors(form, 3).unwrap_or(false);
    first && rank && constant && fills && pad.is_ok_and(|pad| pad == "NOTSET")
}

fn compile(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let kept = IntConv::of(part, node, PackedNhwcInt8::new);
    program("conv int8 nhwc", move |call| conv(call, &kept))
}

fn conv(call: &mut Call<'_>, kept: &IntConv<PackedNhwcInt8>) -> Outcome {
    let (x, w) = (call.tensor(0)?.clone(), call.tensor(3)?.clone());
    if x.rank() < 3 {
        return Ok(None);
    }
    let geometry = ConvGeometry::resolve(&call.node.attrs, &channels_first(x.shape()), w.shape())?;
    let (Some(shape), Some([h, width])) = (shape_of(&geometry), pair(&geometry.input, 1)) else {
        return Ok(None);
    };
    let (Some(packed), Some(source), Some(terms)) =
        (kept.weights(call, &w, shape), bytes(&x), kept.terms(call, x.dtype(), shape.m))
    else {
        return Ok(None);
    };
    let size = (geometry.batch, h, width);
    // Of what is no number the reference makes the zero point.
    if !terms.factors.iter().all(|factor| factor.is_finite()) {
        return Ok(None);
    }
    let scratch = packed.scratch(size).is_some_and(|bytes| scratch_fits(&[bytes.div_ceil(4)]));
    if !scratch || !makes(&geometry, shape.out(h, width)) {
        return Ok(None);
    }
    let mut out = call.output(0, terms.dtype, &channels_last(&geometry.output_shape()))?;
    let mut sink = match terms.dtype {
        DType::U8 => CodesOut::U8(out.as_mut_slice()?, terms.y_zero),
        _ => CodesOut::I8(out.as_mut_slice()?, terms.y_zero),
    };
    packed.run(source, terms.x_zero, size, (terms.bias()?, &terms.factors), &mut sink);
    one(out)
}
