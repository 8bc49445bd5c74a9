//! Convolutions on planes (and lines, which are planes of one row).
//!
//! An item has one place of the output and a block of its channels, so that an element of the input
//! is read once for all of them.

use hetra_device::{Part, Schedule, Space, Task};
use hetra_ir::Node;
use hetra_kernel::{Scalar, kernel};
use hetra_ops::{Compute, ConvGeometry, Window};
use hetra_tensor::{Axes, DType, Tensor};
use smallvec::{SmallVec, smallvec};

use crate::activation::Activate;
use crate::context::{A, Gpu, LINE, Outcome, Run, Stop};
use crate::conv_lanes;
use crate::conv_shared::convolve_shared;
use crate::conv_way::{self, Way};
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
    Ok(Stored { memory, scalar: Scalar::F32, dtype: DType::F32, shape: smallvec![values.len()] })
}

fn groups_of(node: &Node) -> Option<usize> {
    usize::try_from(node.attrs.int_or("group", 1).ok()?).ok().filter(|&groups| groups > 0)
}

/// How a convolution with weights of this shape is done.
fn way(gpu: &Gpu, w: &[usize], groups: usize, schedule: &Schedule) -> Way {
    Way::of(gpu.limits(), (w[0] / groups, w[1..].iter().product()), schedule)
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
    let known = match constant {
        Some(w) => {
            let way = way(gpu, w.shape(), groups, schedule);
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
            Some(known) => known.clone(),
            None => {
                let way = way(run.gpu, w_shape, groups, &Schedule::new());
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
    if out.count() == 0 || geometry.group_in() == 0 || x.dtype != DType::F32 {
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
    let block = way.block();
    let blocks = geometry.group_out().div_ceil(block);
    let mut args: SmallVec<[A<'_>; 32]> = smallvec![
        A::U(geometry.channels_in),
        A::U(height),
        A::U(width),
        A::U(out_width),
        A::U(places),
        A::U(geometry.group_in()),
        A::U(geometry.group_out()),
        A::U(blocks),
    ];
    args.extend(plane.args());
    args.push(A::U(usize::from(bias.is_some())));
    args.extend(act.args());
    args.extend([A::M(x), A::M(w), A::M(bias.as_ref().unwrap_or(w)), A::M(&out)]);
    let (kernel, lines) = match way {
        Way::Shared { rows, columns, side } => {
            let own = [rows, columns, side, side * rows, side * columns].map(|n| n as u32);
            let make = || convolve_shared::with(&own);
            let kernel = run.gpu.kernel(&format!("convolve shared {own:?}"), make)?;
            (kernel, places.div_ceil(side * columns))
        }
        Way::Lanes { .. } | Way::Direct { .. } => {
            let make = || convolve::with(&[block as u32]);
            let kernel = run.gpu.kernel(&format!("convolve {block}"), make)?;
            (kernel, places.div_ceil(LINE as usize))
        }
    };
    run.gpu.launch(&kernel, [lines, geometry.groups * blocks, geometry.batch], &args)?;
    drop(args);
    Ok(smallvec![out])
}
