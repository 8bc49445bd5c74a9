//! Convolution and pooling of images with their channels last.

use std::sync::Arc;

use half::bf16;
use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::{Compute, ConvGeometry, FIRST_INPUT_PLAIN, OpError, PoolGeometry, stored};
use hetra_tensor::{DType, Shape, Tensor};
use smallvec::smallvec;

use super::conv::{
    activation, fixed_shape, kernel_name, makes, rounding_name, shape_of, window_taken,
};
use super::extents::{chained, pair};
use super::nhwc_conv::{Forms, Images};
use super::pool::planar;
use super::{Compile, Form, Outcome, Schedules, one, program};
use hetra_cpu_base::isa::isa;
use hetra_cpu_base::numbers::{Numbers, NumbersOut};
use hetra_cpu_kernels::bf16::{Operands, operands};
use hetra_cpu_kernels::nhwc::{by_planes, copies_fit, groups_round, pieces_fit, reads_whole_rows};
use hetra_cpu_kernels::nhwc_pool::pool_nhwc;
use hetra_cpu_kernels::pool::{Pool, PoolKind};
use hetra_cpu_rows::norm::{Reduce, reduce};

pub(super) static OPS: &[(&str, Compile)] = &[
    ("hetra.ConvLast", conv),
    ("hetra.MaxPoolLast", window),
    ("hetra.AveragePoolLast", window),
    ("hetra.GlobalAveragePoolLast", |_, node| {
        program(&pool_name(node), |call| run_global(call, Reduce::Mean))
    }),
    ("hetra.GlobalMaxPoolLast", |_, node| {
        program(&pool_name(node), |call| run_global(call, Reduce::MaxNumber))
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
    let (Ok(compute), Ok(stored)) = (Compute::of(&node.attrs), stored(&node.attrs)) else {
        return false;
    };
    if !takes_dtypes(form, compute, stored) {
        return false;
    }
    match node.op.as_str() {
        "hetra.ConvLast" if plain && !reads_planes(form).unwrap_or(false) => false,
        "hetra.ConvLast" => {
            let rounds = compute == Compute::F32 || takes_rounded(form, plain).unwrap_or(false);
            rounds && activation(node).is_some() && fills_vectors(form, 1).unwrap_or(false)
        }
        // Where a window hangs over the padding, counting differs: the reference does it.
        "hetra.AveragePoolLast" => node.attrs.flag_or("ceil_mode", false).is_ok_and(|ceil| !ceil),
        _ => node.output(1).is_none(),
    }
}

/// Whether images and other inputs may be of types that kernels read, and are `stored` as one that
/// they write.
fn takes_dtypes(form: &Form<'_>, compute: Compute, stored: Option<DType>) -> bool {
    let (f32, either) = (&[DType::F32][..], &[DType::F32, DType::BF16][..]);
    let conv = form.node.op == "hetra.ConvLast";
    let others = (1..3).all(|index| form.may_be(index, f32));
    let (x, residual, fits) = match stored {
        None => (f32, f32, true),
        Some(_) if conv && compute == Compute::Bf16 => (either, either, stores_rounded()),
        Some(_) if conv && is_depthwise(form).unwrap_or(false) => (either, f32, true),
        Some(_) if conv => (f32, either, stores_rounded()),
        // Pools write what they read.
        Some(DType::BF16) => (&either[1..], f32, true),
        Some(_) => (f32, f32, true),
    };
    let x = if form.node.attrs.has(FIRST_INPUT_PLAIN) { f32 } else { x };
    fits && others && form.may_be(0, x) && form.may_be(3, residual)
}

fn is_depthwise(form: &Form<'_>) -> Option<bool> {
    let groups = usize::try_from(form.node.attrs.int_or("group", 1).ok()?).ok()?;
    let &[m, in_group, _, ..] = form.part.constant(form.node, 1)?.shape() else { return None };
    Some(groups > 1 && in_group == 1 && m == groups)
}

/// Whether products are done by matrix registers, which read and write bf16 as well as f32.
pub(super) fn has_tiles() -> bool {
    operands(isa()) == Operands::Tiles
}

/// Whether rounded products gain where images are stored as bf16, too.
fn stores_rounded() -> bool {
    matches!(operands(isa()), Operands::Tiles | Operands::Pairs)
}

/// Fewer input channels than these are no long sums: without matrix registers, it is better to take
/// whole rows of taps, as kernels for f32 do.
const CHANNELS_MIN: usize = 16;

/// Whether a convolution with operands that are rounded is worth it, or known at all.
fn takes_rounded(form: &Form<'_>, plain: bool) -> Option<bool> {
    let channels = *form.part.constant(form.node, 1)?.shape().get(1)?;
    let one = form.node.attrs.int_or("group", 1).ok()? == 1;
    if has_tiles() {
        return Some(one && channels > 0);
    }
    if one && !plain {
        return Some(channels >= CHANNELS_MIN);
    }
    let shape = fixed_shape(form.part, form.node)?;
    let pairs = operands(isa()) == Operands::Pairs;
    Some(match plain {
        true => pairs && by_planes(&shape),
        false => pairs && groups_round(&shape, Operands::Pairs) && channels >= CHANNELS_MIN,
    })
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
pub(super) fn channels_first(shape: &[usize]) -> Shape {
    match shape {
        [n, spatial @ .., c] => chained([&[*n, *c], spatial]),
        _ => shape.into(),
    }
}

/// A shape with its channels put last.
pub(super) fn channels_last(shape: &[usize]) -> Shape {
    match shape {
        [n, c, spatial @ ..] => chained([&[*n], spatial, &[*c]]),
        _ => shape.into(),
    }
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
    let compute = Compute::of(&node.attrs).ok()?;
    let name = rounding_name(&name, compute);
    program(&name, move |call| run_conv(call, &forms, compute))
}

fn run_conv(call: &mut Call<'_>, forms: &Forms, compute: Compute) -> Outcome {
    let (x, w) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let bias = call.tensor_opt(2).cloned();
    let residual = call.tensor_opt(3).cloned();
    let stored = stored(&call.node.attrs)?;
    let floats = [Some(&w), bias.as_ref()];
    if floats.into_iter().flatten().any(|t| t.dtype() != DType::F32) || x.rank() < 3 {
        return Ok(None);
    }
    let planes = call.node.attrs.flag_or(FIRST_INPUT_PLAIN, false)?;
    let from = stored.filter(|_| !planes);
    let (Some(pixels), added) = (numbers(&x, from)?, residual.as_ref()) else { return Ok(None) };
    let added = added.map(|residual| numbers(residual, stored)).transpose()?;
    let Some(added) = added.map_or(Some(None), |added| added.map(Some)) else { return Ok(None) };
    let image = if planes { x.shape().into() } else { channels_first(x.shape()) };
    let geometry = ConvGeometry::resolve(&call.node.attrs, &image, w.shape())?;
    let (Some(shape), Some([h, w_in])) = (shape_of(&geometry), pair(&geometry.input, 1)) else {
        return Ok(None);
    };
    let output = channels_last(&geometry.output_shape());
    let misfit = bias.as_ref().is_some_and(|bias| bias.len() != shape.m)
        || residual.as_ref().is_some_and(|z| *z.shape() != *output);
    let direct = match compute {
        Compute::Bf16 if has_tiles() => pieces_fit(&shape),
        _ => !planes || copies_fit(&shape, w_in),
    };
    let direct = direct && (!planes || reads_whole_rows(&shape));
    if misfit || !direct || !window_taken(&shape) || !makes(&geometry, shape.out(h, w_in)) {
        return Ok(None);
    }
    let mut out = call.output(0, stored.unwrap_or(DType::F32), &output)?;
    let size = (geometry.batch, h, w_in);
    let images = Images { x: pixels, planes, size, residual: added };
    let sink = match stored {
        Some(DType::BF16) => NumbersOut::Bf16(out.as_mut_slice()?),
        _ => NumbersOut::F32(out.as_mut_slice()?),
    };
    forms.run(&shape, (&w, bias.as_ref()), &images, sink)?;
    one(out)
}

/// The numbers of an image, or `None` where they are others than kernels read.
fn numbers(x: &Tensor, stored: Option<DType>) -> Result<Option<Numbers<'_>>, OpError> {
    Ok(match x.dtype() {
        DType::F32 => Some(Numbers::F32(x.as_slice()?)),
        DType::BF16 if stored.is_some() => Some(Numbers::Bf16(x.as_slice()?)),
        _ => None,
    })
}

/// What pools are called in profiles.
fn pool_name(node: &Node) -> String {
    match stored(&node.attrs) {
        Ok(Some(DType::BF16)) => "pool nhwc bf16".to_string(),
        _ => "pool nhwc".to_string(),
    }
}

fn window(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let kind = match node.op.as_str() {
        "hetra.MaxPoolLast" => PoolKind::Max,
        _ => PoolKind::Average {
            count_include_pad: node.attrs.flag_or("count_include_pad", false).ok()?,
        },
    };
    program(&pool_name(node), move |call| run_window(call, kind))
}

fn run_window(call: &mut Call<'_>, kind: PoolKind) -> Outcome {
    let x = call.tensor(0)?.clone();
    let stored = stored(&call.node.attrs)?.unwrap_or(DType::F32);
    if x.dtype() != stored || x.is_empty() || x.rank() < 3 {
        return Ok(None);
    }
    let first = channels_first(x.shape());
    let geometry = PoolGeometry::resolve(&call.node.attrs, &first)?;
    let shape = channels_last(&chained([&first[..2], &geometry.output]));
    let (Some(form), Some([h, w]), Some(size)) =
        (planar(&geometry.window, kind), pair(&geometry.input, 1), pair(&geometry.output, 1))
    else {
        return Ok(None);
    };
    if shape.contains(&0) || !window_taken(&form.window()) {
        return Ok(None);
    }
    let images = (first[0], h, w, first[1]);
    pooled(call, &form, (&x, images), (&shape, size.into()))
}

/// Pools an image of f32 or bf16 to one of the same.
fn pooled(
    call: &mut Call<'_>,
    form: &Pool,
    (x, images): (&Tensor, (usize, usize, usize, usize)),
    (shape, size): (&[usize], (usize, usize)),
) -> Outcome {
    let mut out = call.output(0, x.dtype(), shape)?;
    match x.dtype() {
        DType::F32 => {
            pool_nhwc::<f32>(isa(), form, x.as_slice()?, images, size, out.as_mut_slice()?);
        }
        DType::BF16 => {
            pool_nhwc::<bf16>(isa(), form, x.as_slice()?, images, size, out.as_mut_slice()?);
        }
        _ => return Ok(None),
    }
    one(out)
}

fn run_global(call: &mut Call<'_>, op: Reduce) -> Outcome {
    let x = call.tensor(0)?.clone();
    let stored = stored(&call.node.attrs)?.unwrap_or(DType::F32);
    if x.dtype() != stored || x.rank() < 3 || x.is_empty() {
        return Ok(None);
    }
    let (n, c) = (x.shape()[0], x.shape()[x.rank() - 1]);
    let mut shape: Shape = smallvec![1; x.rank()];
    (shape[0], shape[x.rank() - 1]) = (n, c);
    let pixels = x.len() / (n * c);
    if stored == DType::BF16 {
        let kind = match op {
            Reduce::Mean => PoolKind::Average { count_include_pad: false },
            _ => PoolKind::Max,
        };
        // One window for all pixels.
        let (kernel, one) = ([1, pixels], [1; 2]);
        let form = Pool { kind, kernel, stride: one, dilation: one, pads: [0; 4] };
        return pooled(call, &form, (&x, (n, 1, pixels, c)), (&shape, (1, 1)));
    }
    let mut out = call.output(0, DType::F32, &shape)?;
    reduce(isa(), op, x.as_slice()?, [n, pixels, c], out.as_mut_slice()?);
    one(out)
}
