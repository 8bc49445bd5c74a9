//! Convolution of 8-bit images with their channels last.

use std::sync::{Arc, OnceLock};

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::ConvGeometry;
use hetra_tensor::{DType, Tensor};

use super::conv::{fixed_by, makes, scratch_fits, shape_of, window_taken};
use super::extents::pair;
use super::nhwc::{channels_first, channels_last, fills_vectors};
use super::quantised::{KeptTerms, bytes, zeros};
use super::{Compile, Form, Outcome, one, program};
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::conv::ConvShape;
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
    let (packed, terms) = (OnceLock::new(), KeptTerms::new(part, node));
    let constants = part.constant(node, 3).zip(part.constant(node, 5));
    if let Some((w, zero)) = constants
        && let Some(shape) = fixed_by(node, w.shape())
    {
        let _ = packed.set(pack(shape, w, Some(zero)));
    }
    program("conv int8 nhwc", move |call| conv(call, &terms, &packed))
}

/// `None` for weights that the kernel does not take.
fn pack(shape: ConvShape, w: &Tensor, zero: Option<&Tensor>) -> Option<PackedNhwcInt8> {
    let zero = zeros(zero, w.dtype())?;
    let zeros_fit = zero.len() == 1 || zero.len() == shape.m;
    // Without weights nothing bounds what a file says of groups and channels.
    let fits = zeros_fit && !w.is_empty() && window_taken(&shape);
    fits.then(|| Some(PackedNhwcInt8::new(isa(), shape, bytes(w)?, &zero)))?
}

/// A convolution with fixed weights: packed at the first run at the latest, when the input's rank
/// is known.
fn conv(
    call: &mut Call<'_>,
    terms: &KeptTerms,
    packed: &OnceLock<Option<PackedNhwcInt8>>,
) -> Outcome {
    let (x, w) = (call.tensor(0)?.clone(), call.tensor(3)?.clone());
    if x.rank() < 3 {
        return Ok(None);
    }
    let geometry = ConvGeometry::resolve(&call.node.attrs, &channels_first(x.shape()), w.shape())?;
    let (Some(shape), Some([h, width])) = (shape_of(&geometry), pair(&geometry.input, 1)) else {
        return Ok(None);
    };
    // Packing is parallel: a thread that waits in it may take up another run, which comes here
    // again, so it is not done inside `get_or_init`.
    if packed.get().is_none() {
        // Another run may have been first; both packings are the same.
        let _ = packed.set(pack(shape, &w, call.tensor_opt(5)));
    }
    let packed = packed.get().and_then(Option::as_ref).filter(|packed| *packed.shape() == shape);
    let (Some(packed), Some(source), Some(terms)) =
        (packed, bytes(&x), terms.get(call, x.dtype(), shape.m))
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
