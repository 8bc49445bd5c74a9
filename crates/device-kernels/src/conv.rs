//! Convolutions on planes (and lines, which are planes of one row).
//!
//! An item has one place of the output and a block of its channels, so that an element of the input
//! is read once for all of them.

use std::sync::Arc;

use hetra_device::{Part, Schedule, Space, Task};
use hetra_ir::Node;
use hetra_kernel::{Kernel, Scalar, kernel};
use hetra_ops::{Compute, ConvGeometry, Window};
use hetra_tensor::{Axes, DType, Tensor};
use smallvec::{SmallVec, smallvec};

use crate::activation::Activate;
use crate::context::{A, Gpu, LINE, Outcome, Run, Stop};
use crate::conv_lanes;
use crate::conv_shared::convolve_shared;
use crate::conv_way::{self, Sizes, Way};
use crate::cut::Cut;
use crate::finish::Parts;
use crate::math::activate;
use crate::program::Work;
use crate::stored::{Stored, floats};
use crate::table::{Form, Row, Tuned};

pub(crate) const ROWS: &[Row] = &[Row {
    ops: &["Conv", "com.microsoft.FusedConv"],
    kernel: "conv",
    on_device: &[2],
    takes: |form: &Form<'_>| {
        let f32 = Compute::of(&form.node.attrs).is_ok_and(|compute| compute == Compute::F32);
        let fits = form.rank(0).is_none_or(|rank| (3..=4).contains(&rank));
        let three = form.node.input(3).is_none();
        f32 && fits && three && Activate::of(form.node).is_some() && (0..3).all(|i| form.is_f32(i))
    },
    compile: |gpu, part, node| compile(gpu, part, node, &Schedule::new()),
}];

pub(crate) const TUNED: Tuned = Tuned { ops: ROWS[0].ops, tunes, compile };

#[kernel(group = [64])]
fn convolve<const B: usize>(
    channels_in: u32,
    height: u32,
    width: u32,
    out_width: u32,
    out_places: u32,
    group_in: u32,
    group_out: u32,
    blocks: u32,
    taps_y: u32,
    taps_x: u32,
    stride_y: u32,
    stride_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    pad_y: u32,
    pad_x: u32,
    has_bias: u32,
    code: u32,
    act_a: f32,
    act_b: f32,
    scale: f32,
    shift: f32,
    x: &[f32],
    w: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let place = global_id(0);
    if place >= out_places {
        return;
    }
    // A block of channels, counted through all groups.
    let group = group_id(1) / blocks;
    let first = (group_id(1) % blocks) * B;
    let image = group_id(2);
    let groups = channels_in / group_in;
    let top = (place / out_width) * stride_y;
    let left = (place % out_width) * stride_x;
    let plane = height * width;
    let source = (image * channels_in + group * group_in) * plane;
    let mut sums = [0.0; B];
    let mut weights = group_id(1) * taps_y * taps_x * group_in * B;
    for ty in 0..taps_y {
        // What lies in the padding wraps and is beyond the last row.
        let row = top + ty * dilation_y - pad_y;
        for tx in 0..taps_x {
            let column = left + tx * dilation_x - pad_x;
            if row < height && column < width {
                let mut at = source + row * width + column;
                for c in 0..group_in {
                    let value = x[at];
                    at += plane;
                    for o in 0..B {
                        sums[o] += value * w[weights + c * B + o];
                    }
                }
            }
            weights += group_in * B;
        }
    }
    let channel = group * group_out + first;
    for o in 0..B {
        if first + o < group_out {
            let mut sum = sums[o];
            if has_bias != 0 {
                sum += bias[channel + o];
            }
            y[(image * (groups * group_out) + channel + o) * out_places + place] =
                activate(sum, code, act_a, act_b, scale, shift);
        }
    }
}

/// A window on a plane.
#[derive(Clone, Copy)]
pub(crate) struct Plane {
    pub(crate) taps: [usize; 2],
    pub(crate) strides: [usize; 2],
    pub(crate) dilations: [usize; 2],
    pub(crate) pads: [usize; 2],
}

/// Two numbers of a list of one or two; a line has the first of a plane be `one`.
pub(crate) fn pair(list: &[usize], one: usize) -> Option<[usize; 2]> {
    match *list {
        [x] => Some([one, x]),
        [y, x] => Some([y, x]),
        _ => None,
    }
}

impl Plane {
    /// The arguments of a kernel: taps, strides, dilations, padding.
    pub(crate) fn args<'a>(&self) -> impl Iterator<Item = A<'a>> {
        [self.taps, self.strides, self.dilations, self.pads].into_iter().flatten().map(A::U)
    }

    /// The window on a plane; `None` where there are more axes.
    pub(crate) fn of(window: &Window) -> Option<Plane> {
        Some(Plane {
            taps: pair(&window.kernel, 1)?,
            strides: pair(&window.strides, 1)?,
            dilations: pair(&window.dilations, 1)?,
            pads: pair(&window.pads_begin, 0)?,
        })
    }
}

/// Whether a bias has a float for each channel: a kernel reads as many.
pub(crate) fn is_bias(bias: &Stored, channels: usize) -> bool {
    bias.count() == channels && bias.dtype == DType::F32
}

/// Weights in the order in which `convolve` reads them: blocks of channels, taps, input channels.
fn packed(weights: &[f32], shape: &[usize], groups: usize, block: usize) -> Vec<f32> {
    let group_in = shape[1];
    let taps: usize = shape[2..].iter().product();
    let group_out = shape[0] / groups;
    let blocks = group_out.div_ceil(block);
    let mut all = vec![0.0; groups * blocks * taps * group_in * block];
    for channel in 0..shape[0] {
        let (group, o) = (channel / group_out, channel % group_out);
        let at = group * blocks + o / block;
        for c in 0..group_in {
            for tap in 0..taps {
                let to = ((at * taps + tap) * group_in + c) * block + o % block;
                all[to] = weights[(channel * group_in + c) * taps + tap];
            }
        }
    }
    all
}

/// Weights on the device as the kernels read them, in blocks of so many channels.
fn weights(gpu: &Gpu, w: &Tensor, groups: usize, block: usize) -> Result<Stored, Stop> {
    let values = packed(w.as_slice::<f32>()?, w.shape(), groups, block);
    let bytes = floats(&values, Scalar::F32);
    let memory = gpu.filled(&bytes).map_err(hetra_tensor::TensorError::from)?;
    Ok(Stored {
        memory,
        from: 0,
        scalar: Scalar::F32,
        dtype: DType::F32,
        shape: smallvec![values.len()],
    })
}

fn groups_of(node: &Node) -> Option<usize> {
    usize::try_from(node.attrs.int_or("group", 1).ok()?).ok().filter(|&groups| groups > 0)
}

/// What is known of a convolution by weights of this shape.
fn sizes(part: &Part<'_>, node: &Node, w: &[usize], groups: usize) -> Sizes {
    let x = node.input(0).and_then(|x| part.types[x.index()].known_shape());
    let geometry = x.and_then(|x| ConvGeometry::resolve(&node.attrs, &x, w).ok());
    geometry.map_or_else(
        || {
            let (group_out, terms) = (w[0] / groups, w[1..].iter().product());
            Sizes { products: groups, places: None, group_out, terms }
        },
        |geometry| Sizes::of(&geometry),
    )
}

fn tunes(gpu: &Gpu, part: &Part<'_>, node: &Node) -> Option<(Task, Space)> {
    let shape = |index: usize| part.types[node.input(index)?.index()].known_shape();
    let (x, w) = (shape(0)?, shape(1)?);
    // Weights that the run gives are packed anew each time.
    part.constant(node, 1)?;
    conv_way::tunes(gpu.limits(), &ConvGeometry::resolve(&node.attrs, &x, &w).ok()?)
}

fn compile(gpu: &Gpu, part: &Part<'_>, node: &Node, schedule: &Schedule) -> Option<Work> {
    let (act, groups, node) = (Activate::of(node)?, groups_of(node)?, node.clone());
    let constant = part.constant(&node, 1).filter(|w| {
        w.dtype() == DType::F32
            && w.rank() >= 3
            && w.shape()[0].is_multiple_of(groups)
            && !w.is_empty()
    });
    // Whether the way is one for sizes that nobody knew.
    let mut guessed = false;
    let known = match constant {
        Some(w) => {
            let sizes = sizes(part, &node, w.shape(), groups);
            let way = Way::of(gpu.limits(), &sizes, schedule);
            guessed = sizes.places.is_none();
            Some((way, weights(gpu, w, groups, way.block()).ok()?))
        }
        None => None,
    };
    Some(Box::new(move |run| {
        let (x, w_shape) = (run.input(0)?, run.shape(1)?);
        if run.call.tensor(1)?.dtype() != DType::F32 {
            return Err(Stop::Host);
        }
        let geometry = ConvGeometry::resolve(&node.attrs, &x.shape, w_shape)?;
        let (way, w) = match &known {
            Some((way, w)) if guessed => {
                (way.resized(run.gpu.limits(), &Sizes::of(&geometry)), w.clone())
            }
            Some(known) => known.clone(),
            None => {
                let sizes = Sizes::of(&geometry);
                let way = Way::of(run.gpu.limits(), &sizes, &Schedule::new());
                let host = run.on_host(1)?.ok_or(Stop::Host)?;
                (way, weights(run.gpu, host, groups, way.block())?)
            }
        };
        convolution(run, (way, act), &geometry, &x, &w)
    }))
}

fn convolution(
    run: &Run<'_, '_>,
    (way, act): (Way, Activate),
    geometry: &ConvGeometry,
    x: &Stored,
    w: &Stored,
) -> Outcome {
    let plane = Plane::of(&geometry.window).ok_or(Stop::Host)?;
    let input: Axes = geometry.input.clone();
    let [height, width] = pair(&input, 1).ok_or(Stop::Host)?;
    let [out_height, out_width] = pair(&geometry.output, 1).ok_or(Stop::Host)?;
    let places: usize = geometry.output.iter().product();
    let out = run.gpu.room(DType::F32, &geometry.output_shape())?;
    let turns = plane.taps.iter().product::<usize>().saturating_mul(3 * geometry.group_in());
    let fits = x.dtype == DType::F32 && turns <= run.gpu.limits().turns_max;
    if out.count() == 0 || geometry.group_in() == 0 || !fits {
        return Err(Stop::Host);
    }
    let bias = run.optional(2)?;
    if bias.as_ref().is_some_and(|bias| !is_bias(bias, geometry.channels_out)) {
        return Err(Stop::Host);
    }
    if let Way::Lanes { tile, work } = way {
        let memories = [Some(x), Some(w), bias.as_ref(), Some(&out)];
        let extents = ([height, width], [out_height, out_width]);
        let shape = (geometry, &plane);
        if conv_lanes::convolve(run.gpu, (tile, work), act, shape, extents, memories)? {
            return Ok(smallvec![out]);
        }
    }
    let blocks = geometry.group_out().div_ceil(way.block());
    // Without room for the parts, sums are not cut.
    let cut_in = |cut: Cut| match run.gpu.room(DType::F32, &[cut.parts, out.count()]) {
        Err(Stop::Host) => Ok(None),
        room => room.map(Some),
    };
    let (way, partial) = match way {
        Way::Shared(cut) if cut.parts > 1 => match cut_in(cut)? {
            Some(partial) => (way, Some((cut.parts, partial))),
            None => (Way::Shared(Cut { parts: 1, ..cut }), None),
        },
        _ => (way, None),
    };
    let mut args: SmallVec<[A<'_>; 32]> = SmallVec::new();
    if let Way::Shared(cut) = way {
        let terms = plane.taps.iter().product::<usize>() * geometry.group_in();
        args.extend([A::U(geometry.batch), A::U(cut.steps(terms))]);
    }
    let extents = [geometry.channels_in, height, width, out_width, places];
    let groups = [geometry.group_in(), geometry.group_out(), blocks];
    args.extend(extents.into_iter().chain(groups).map(A::U));
    args.extend(plane.args());
    let (now, to) = match &partial {
        Some((_, sums)) => (Activate::nothing(), sums),
        None => (act, &out),
    };
    args.push(A::U(usize::from(bias.is_some() && partial.is_none())));
    args.extend(now.args());
    args.extend([A::M(x), A::M(w), A::M(bias.as_ref().unwrap_or(w)), A::M(to)]);
    let (kernel, lines) = kernel(run.gpu, way, places)?;
    let parts = partial.as_ref().map_or(1, |(parts, _)| *parts);
    let groups = [lines, geometry.groups * blocks, geometry.batch * parts];
    run.gpu.launch(&kernel, groups, &args)?;
    drop(args);
    if let Some((count, sums)) = &partial {
        let (m, n, products) = (geometry.channels_out, places, geometry.batch);
        let parts = Parts { count: *count, products, m, n, row: n };
        let beta = if bias.is_some() { 1.0 } else { 0.0 };
        let tail = [A::F(1.0), A::F(beta), A::U(1), A::U(0), A::U(n), A::U(0)];
        let tail = tail.into_iter().chain(act.args());
        parts.finish(run.gpu, tail, [sums, bias.as_ref().unwrap_or(w), &out])?;
    }
    Ok(smallvec![out])
}

/// The kernel of a way, and its groups along the places.
fn kernel(gpu: &Gpu, way: Way, places: usize) -> Result<(Arc<Kernel>, usize), Stop> {
    if let Way::Shared(cut) = way {
        let own = cut.constants();
        let make = || convolve_shared::with(&own);
        let kernel = gpu.kernel(&format!("convolve shared {own:?}"), make)?;
        return Ok((kernel, places.div_ceil(cut.side * cut.columns)));
    }
    let block = way.block();
    let kernel = gpu.kernel(&format!("convolve {block}"), || convolve::with(&[block as u32]))?;
    Ok((kernel, places.div_ceil(LINE as usize)))
}
