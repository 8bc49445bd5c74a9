//! Convolution and pooling of images with their channels last.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::{Compute, ConvGeometry, FIRST_INPUT_PLAIN, PoolGeometry, channels_last_perm};
use hetra_tensor::{DType, Tensor};

use super::conv::{
    activation, fixed_shape, kernel_name, makes, rounding_name, shape_of, window_taken,
};
use super::extents::pair;
use super::nhwc_conv::{Forms, Images};
use super::pool::planar;
use super::{Compile, Form, Outcome, Schedules, program};
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::nhwc::{copies_fit, reads_whole_rows};
use hetra_cpu_kernels::nhwc_pool::pool_nhwc;
use hetra_cpu_kernels::norm::{Reduce, reduce};
use hetra_cpu_kernels::pool::PoolKind;

pub(super) static OPS: &[(&str, Compile)] = &[
    ("hetra.ConvLast", conv),
    ("hetra.MaxPoolLast", window),
    ("hetra.AveragePoolLast", window),
    ("hetra.GlobalAveragePoolLast", |_, _| {
        program("pool nhwc", &[], |call| run_global(call, Reduce::Mean))
    }),
    ("hetra.GlobalMaxPoolLast", |_, _| {
        program("pool nhwc", &[], |call| run_global(call, Reduce::MaxNumber))
    }),
];

/// Fewer output channels of a group than this leave most lanes of a vector empty.
const GROUP_MIN: usize = 8;

pub(super) fn takes(form: &Form<'_>) -> bool {
    let node = form.node;
    if form.rank(0).is_some_and(|rank| !(3..=4).contains(&rank)) {
        return false;
    }
    let plain = node.attrs.has(FIRST_INPUT_PLAIN);
    match node.op.as_str() {
        "hetra.ConvLast" if plain && !reads_planes(form).unwrap_or(false) => false,
        "hetra.ConvLast" => {
            let groups = node.attrs.int_or("group", 1);
            let rounded = match Compute::of(&node.attrs) {
                Ok(Compute::F32) => true,
                Ok(Compute::Bf16) => !plain && groups.is_ok_and(|groups| groups == 1),
                Err(_) => false,
            };
            rounded && activation(node).is_some() && fills_vectors(form, 1).unwrap_or(false)
        }
        // Where a window hangs over the padding, counting differs: the reference does it.
        "hetra.AveragePoolLast" => node.attrs.flag_or("ceil_mode", false).is_ok_and(|ceil| !ceil),
        _ => node.output(1).is_none(),
    }
}

/// Whether constant weights, input `index`, have enough output channels in each group, or one for
/// each group.
pub(super) fn fills_vectors(form: &Form<'_>, index: usize) -> Option<bool> {
    let weights = form.part.constant(form.node, index)?;
    let groups = usize::try_from(form.node.attrs.int_or("group", 1).ok()?).ok()?;
    let &[m, in_group, _, ..] = weights.shape() else { return None };
    let ranks = form.rank(0).is_none_or(|rank| rank == weights.rank());
    let depthwise = in_group == 1 && m == groups;
    Some(ranks && (groups == 1 || depthwise || m.checked_div(groups)? >= GROUP_MIN))
}

/// Whether the kernel for a convolution with these weights turns images itself.
fn reads_planes(form: &Form<'_>) -> Option<bool> {
    fixed_shape(form.part, form.node).map(|shape| reads_whole_rows(&shape))
}

/// A shape with its channels put first, behind the batch.
pub(super) fn channels_first(shape: &[usize]) -> Vec<usize> {
    match shape {
        [n, spatial @ .., c] => [&[*n, *c], spatial].concat(),
        _ => shape.to_vec(),
    }
}

/// A shape with its channels put last.
pub(super) fn channels_last(shape: &[usize]) -> Vec<usize> {
    channels_last_perm(shape.len()).into_iter().map(|axis| shape[axis]).collect()
}

fn conv(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    conv_by(part, node, &Schedules::default())
}

pub(super) fn conv_by(
    part: &Part<'_>,
    node: &Node,
    schedules: &Schedules,
) -> Option<Arc<dyn Program>> {
    let forms = Forms::of(part, node, schedules)?;
    let name = format!("{} nhwc", kernel_name(part, node));
    let name = rounding_name(&name, Compute::of(&node.attrs).ok()?);
    program(&name, &[], move |call| run_conv(call, &forms))
}

fn run_conv(call: &mut Call<'_>, forms: &Forms) -> Outcome {
    let (x, w) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let bias = call.tensor_opt(2).cloned();
    let residual = call.tensor_opt(3).cloned();
    let floats = [Some(&x), Some(&w), bias.as_ref(), residual.as_ref()];
    if floats.into_iter().flatten().any(|t| t.dtype() != DType::F32) || x.rank() < 3 {
        return Ok(None);
    }
    let planes = call.node.attrs.flag_or(FIRST_INPUT_PLAIN, false)?;
    let image = if planes { x.shape().to_vec() } else { channels_first(x.shape()) };
    let geometry = ConvGeometry::resolve(&call.node.attrs, &image, w.shape())?;
    let (Some(shape), Some([h, w_in])) = (shape_of(&geometry), pair(&geometry.input, 1)) else {
        return Ok(None);
    };
    let output = channels_last(&geometry.output_shape());
    let misfit = bias.as_ref().is_some_and(|bias| bias.len() != shape.m)
        || residual.as_ref().is_some_and(|z| z.shape() != output);
    let direct = !planes || reads_whole_rows(&shape) && copies_fit(&shape, w_in);
    if misfit || !direct || !window_taken(&shape) || !makes(&geometry, shape.out(h, w_in)) {
        return Ok(None);
    }
    let mut out = call.output(0, DType::F32, &output)?;
    let residual = residual.as_ref().map(Tensor::as_slice::<f32>).transpose()?;
    let images = Images { x: x.as_slice()?, planes, size: (geometry.batch, h, w_in), residual };
    forms.run(&shape, (&w, bias.as_ref()), &images, out.as_mut_slice()?)?;
    Ok(Some(vec![out.into()]))
}

fn window(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let kind = match node.op.as_str() {
        "hetra.MaxPoolLast" => PoolKind::Max,
        _ => PoolKind::Average {
            count_include_pad: node.attrs.flag_or("count_include_pad", false).ok()?,
        },
    };
    program("pool nhwc", &[], move |call| run_window(call, kind))
}

fn run_window(call: &mut Call<'_>, kind: PoolKind) -> Outcome {
    let x = call.tensor(0)?.clone();
    if x.dtype() != DType::F32 || x.is_empty() || x.rank() < 3 {
        return Ok(None);
    }
    let first = channels_first(x.shape());
    let geometry = PoolGeometry::resolve(&call.node.attrs, &first)?;
    let shape = channels_last(&[&first[..2], geometry.output.as_slice()].concat());
    let (Some(form), Some([h, w]), Some(size)) =
        (planar(&geometry.window, kind), pair(&geometry.input, 1), pair(&geometry.output, 1))
    else {
        return Ok(None);
    };
    if shape.contains(&0) || !window_taken(&form.window()) {
        return Ok(None);
    }
    let mut out = call.output(0, DType::F32, &shape)?;
    let images = (first[0], h, w, first[1]);
    pool_nhwc(isa(), &form, x.as_slice()?, images, size.into(), out.as_mut_slice()?);
    Ok(Some(vec![out.into()]))
}

fn run_global(call: &mut Call<'_>, op: Reduce) -> Outcome {
    let x = call.tensor(0)?.clone();
    if x.dtype() != DType::F32 || x.rank() < 3 || x.is_empty() {
        return Ok(None);
    }
    let (n, c) = (x.shape()[0], x.shape()[x.rank() - 1]);
    let mut shape = vec![1; x.rank()];
    (shape[0], shape[x.rank() - 1]) = (n, c);
    let mut out = call.output(0, DType::F32, &shape)?;
    reduce(isa(), op, x.as_slice()?, [n, x.len() / (n * c), c], out.as_mut_slice()?);
    Ok(Some(vec![out.into()]))
}
