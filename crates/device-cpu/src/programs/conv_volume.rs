//! Convolution of volumes: packs constant weights once; they do not depend on the padding.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::ConvGeometry;
use hetra_tensor::{DType, Tensor};

use super::conv::{activation, attrs, join, window_fits};
use super::{Outcome, one, program};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::conv::ConvShape;
use hetra_cpu_kernels::conv_volume::{Depth, PackedVolume, VolumeConv, conv_volume};

/// Most taps in depth, and the largest step between windows there.
const DEPTH_MAX: usize = 1 << 16;

pub(super) fn compile(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let act = activation(node)?;
    let groups = usize::try_from(node.attrs.int_or("group", 1).ok()?).ok()?;
    let weights = part.constant(node, 1);
    let packed = weights.and_then(|weights| pack(weights, groups));
    let name = match node.input(1).and_then(|id| part.types[id.index()].known_shape()).as_deref() {
        Some([_, _, kernel @ ..]) => format!("conv {}", join(kernel)),
        _ => "conv".to_string(),
    };
    program(&name, move |call| run(call, packed.as_ref(), act))
}

fn pack(weights: &Tensor, groups: usize) -> Option<PackedVolume> {
    let (m, values) = (*weights.shape().first()?, weights.as_slice::<f32>().ok()?);
    let fits = groups > 0 && !values.is_empty() && m.is_multiple_of(groups);
    fits.then(|| PackedVolume::new(isa(), values, m, groups))
}

/// The kernel's form of a convolution of three spatial axes.
fn form_of(g: &ConvGeometry) -> Option<(Depth, ConvShape)> {
    let w = &g.window;
    let three = |list: &[usize]| <[usize; 3]>::try_from(list).ok();
    let (kernel, stride, dilation) = (three(&w.kernel)?, three(&w.strides)?, three(&w.dilations)?);
    let (begin, end) = (three(&w.pads_begin)?, three(&w.pads_end)?);
    let depth = Depth {
        kernel: kernel[0],
        stride: stride[0],
        dilation: dilation[0],
        pads: [begin[0], end[0]],
    };
    let plane = ConvShape {
        c: g.channels_in,
        m: g.channels_out,
        kh: kernel[1],
        kw: kernel[2],
        stride: [stride[1], stride[2]],
        dilation: [dilation[1], dilation[2]],
        pads: [begin[1], begin[2], end[1], end[2]],
        groups: g.groups,
    };
    Some((depth, plane))
}

/// Whether the padded copy of a volume is within the limit for scratch.
fn fits(depth: &Depth, plane: &ConvShape, [d, h, w]: [usize; 3]) -> bool {
    let planes = d.checked_add(depth.pads[0]).and_then(|d| d.checked_add(depth.pads[1]));
    let planes = planes.and_then(|planes| planes.checked_mul(plane.per_group().0));
    let small = depth.kernel <= DEPTH_MAX && depth.stride <= DEPTH_MAX;
    let out = plane.out(h, w);
    small && planes.zip(out).is_some_and(|(planes, out)| window_fits(plane, planes, out))
}

fn run(call: &mut Call<'_>, packed: Option<&PackedVolume>, act: Activation) -> Outcome {
    let (x, w) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let (bias, residual) = (call.tensor_opt(2).cloned(), call.tensor_opt(3).cloned());
    let floats = [Some(&x), Some(&w), bias.as_ref(), residual.as_ref()];
    if floats.into_iter().flatten().any(|t| t.dtype() != DType::F32) || x.is_empty() {
        return Ok(None);
    }
    let geometry = ConvGeometry::resolve(attrs(call), x.shape(), w.shape())?;
    let (Some((depth, plane)), &[d, h, width]) = (form_of(&geometry), &geometry.input[..]) else {
        return Ok(None);
    };
    let output = geometry.output_shape();
    let makes = match (depth.out(d), plane.out(h, width)) {
        (Some(od), Some((oh, ow))) => [od, oh, ow] == geometry.output[..] && !output.contains(&0),
        _ => false,
    };
    if !makes
        || !fits(&depth, &plane, [d, h, width])
        || bias.as_ref().is_some_and(|bias| bias.len() != plane.m)
        || residual.as_ref().is_some_and(|z| *z.shape() != *output)
    {
        return Ok(None);
    }
    let live = match packed {
        Some(_) => None,
        None => pack(&w, plane.groups),
    };
    let Some(weights) = packed.or(live.as_ref()) else { return Ok(None) };
    let conv = VolumeConv {
        plane,
        depth,
        bias: bias.as_ref().map(Tensor::as_slice::<f32>).transpose()?,
        residual: residual.as_ref().map(Tensor::as_slice::<f32>).transpose()?,
        act,
    };
    let mut out = call.output(0, DType::F32, &output)?;
    let size = (geometry.batch, [d, h, width]);
    conv_volume(weights, &conv, x.as_slice()?, size, out.as_mut_slice()?);
    one(out)
}
