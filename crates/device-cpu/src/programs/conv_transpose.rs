//! Transposed convolution with constant weights.

use std::sync::{Arc, OnceLock};

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::ConvGeometry;
use hetra_tensor::{DType, Tensor};

use super::conv::{makes, scratch_fits, shape_of, window_taken};
use super::extents::pair;
use super::{Compile, Form, Outcome, one, program};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::conv_transpose::PackedConvTranspose;

pub(super) static OPS: &[(&str, Compile)] = &[("ConvTranspose", compile)];

pub(super) fn takes(Form { part, node, .. }: &Form<'_>) -> bool {
    let constant = [1, 2]
        .into_iter()
        .all(|index| node.input(index).is_none() || part.constant(node, index).is_some());
    // Where the padding follows from the wanted output, it depends on the size of the input.
    let fixed = node.attrs.str_or("auto_pad", "NOTSET").is_ok_and(|pad| pad == "NOTSET")
        && !node.attrs.has("output_shape");
    let planar = part.constant(node, 1).is_some_and(|w| (3..=4).contains(&w.rank()));
    constant && planar && fixed
}

fn compile(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    let packed = OnceLock::new();
    program("conv transposed", move |call| run(call, &packed))
}

fn output_padding(call: &Call<'_>) -> Option<[usize; 2]> {
    let listed = call.node.attrs.ints_opt("output_padding").ok()?;
    match listed.map(Vec::as_slice) {
        None => Some([0, 0]),
        Some(&[w]) => Some([0, usize::try_from(w).ok()?]),
        Some(&[h, w]) => Some([usize::try_from(h).ok()?, usize::try_from(w).ok()?]),
        Some(_) => None,
    }
}

fn run(call: &mut Call<'_>, packed: &OnceLock<Option<PackedConvTranspose>>) -> Outcome {
    let (x, w) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let bias = call.tensor_opt(2).cloned();
    let floats = [Some(&x), Some(&w), bias.as_ref()];
    if floats.into_iter().flatten().any(|t| t.dtype() != DType::F32) {
        return Ok(None);
    }
    let geometry = ConvGeometry::resolve_transposed(&call.node.attrs, x.shape(), w.shape())?;
    let bias = bias.as_ref().map(Tensor::as_slice::<f32>).transpose()?;
    if bias.is_some_and(|bias| bias.len() != geometry.channels_out) {
        return Ok(None);
    }
    let pack = || {
        let (shape, padding) = (shape_of(&geometry)?, output_padding(call)?);
        // The packing is kept, so what is read for it need not be.
        let own = w.unloaded();
        let weights = own.as_ref().unwrap_or(&w).as_slice::<f32>().ok()?;
        let act = Activation::None;
        let packed = PackedConvTranspose::new(isa(), shape, padding, weights, bias, act);
        own.iter().for_each(Tensor::release);
        Some(packed)
    };
    // Packing is parallel: a thread that waits in it may take up another run, which comes here
    // again, so it is not done inside `get_or_init`.
    if packed.get().is_none() {
        // Another run may have been first; both packings are the same.
        let _ = packed.set(pack());
    }
    let Some(Some(packed)) = packed.get() else { return Ok(None) };
    let Some([h, width]) = pair(&geometry.input, 1) else { return Ok(None) };
    let s = packed.shape();
    let columns = [s.m / s.groups.max(1), s.kh, s.kw, h, width];
    if !scratch_fits(&columns) || !window_taken(s) {
        return Ok(None);
    }
    if !makes(&geometry, packed.out(h, width)) {
        return Ok(None);
    }
    let mut out = call.output(0, DType::F32, &geometry.output_shape())?;
    packed.run(x.as_slice()?, (geometry.batch, h, width), out.as_mut_slice()?);
    one(out)
}
