//! Transposed convolutions on planes: each output place gathers the taps that reach it.

use hetra_device::Part;
use hetra_ir::Node;
use hetra_kernel::kernel;
use hetra_ops::ConvGeometry;
use hetra_tensor::DType;
use smallvec::{SmallVec, smallvec};

use crate::context::{A, Gpu, LINE, Outcome, Run, Stop};
use crate::conv::{Plane, is_bias, pair};
use crate::program::Work;
use crate::table::{Form, Row};

pub(crate) const ROWS: &[Row] = &[Row {
    ops: &["ConvTranspose"],
    kernel: "conv transposed",
    on_device: &[1, 2],
    takes: |form: &Form<'_>| {
        let fits = form.rank(0).is_none_or(|rank| (3..=4).contains(&rank));
        fits && (0..3).all(|index| form.is_f32(index))
    },
    compile,
}];

#[kernel(group = [64])]
fn gathered(
    channels_in: u32,
    channels_out: u32,
    height: u32,
    width: u32,
    out_width: u32,
    out_places: u32,
    group_in: u32,
    group_out: u32,
    taps_y: u32,
    taps_x: u32,
    stride_y: u32,
    stride_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    pad_y: u32,
    pad_x: u32,
    has_bias: u32,
    x: &[f32],
    w: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let place = global_id(0);
    if place >= out_places {
        return;
    }
    let channel = group_id(1);
    let image = group_id(2);
    let first = (channel / group_out) * group_in;
    let column = place % out_width + pad_x;
    let row = place / out_width + pad_y;
    let plane = height * width;
    let taps = taps_y * taps_x;
    let mut sum = 0.0;
    for ty in 0..taps_y {
        // What lies before the first row wraps and is beyond the last one.
        let from_y = row - ty * dilation_y;
        let source_y = from_y / stride_y;
        if from_y % stride_y == 0 && source_y < height {
            for tx in 0..taps_x {
                let from_x = column - tx * dilation_x;
                let source_x = from_x / stride_x;
                if from_x % stride_x == 0 && source_x < width {
                    let mut at =
                        (image * channels_in + first) * plane + source_y * width + source_x;
                    let mut weight =
                        (first * group_out + channel % group_out) * taps + ty * taps_x + tx;
                    for _ in 0..group_in {
                        sum += x[at] * w[weight];
                        at += plane;
                        weight += group_out * taps;
                    }
                }
            }
        }
    }
    if has_bias != 0 {
        sum += bias[channel];
    }
    y[(image * channels_out + channel) * out_places + place] = sum;
}

fn compile(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let node = node.clone();
    Some(Box::new(move |run| transposed(run, &node)))
}

fn transposed(run: &Run<'_, '_>, node: &Node) -> Outcome {
    let (x, w, bias) = (run.input(0)?, run.input(1)?, run.optional(2)?);
    let geometry = ConvGeometry::resolve_transposed(&node.attrs, &x.shape, &w.shape)?;
    let plane = Plane::of(&geometry.window).ok_or(Stop::Host)?;
    let [height, width] = pair(&geometry.input, 1).ok_or(Stop::Host)?;
    let [_, out_width] = pair(&geometry.output, 1).ok_or(Stop::Host)?;
    let places: usize = geometry.output.iter().product();
    let out = run.gpu.room(DType::F32, &geometry.output_shape())?;
    let turns = plane.taps.iter().product::<usize>().saturating_mul(3 * geometry.group_in());
    let few = turns <= run.gpu.limits().turns_max;
    let floats = x.dtype == DType::F32 && w.dtype == DType::F32 && few;
    let bias_fits = bias.as_ref().is_none_or(|bias| is_bias(bias, geometry.channels_out));
    if out.count() == 0 || geometry.group_in() == 0 || !floats || !bias_fits {
        return Err(Stop::Host);
    }
    let mut args: SmallVec<[A<'_>; 32]> = smallvec![
        A::U(geometry.channels_in),
        A::U(geometry.channels_out),
        A::U(height),
        A::U(width),
        A::U(out_width),
        A::U(places),
        A::U(geometry.group_in()),
        A::U(geometry.group_out()),
    ];
    args.extend(plane.args());
    args.push(A::U(usize::from(bias.is_some())));
    args.extend([A::M(&x), A::M(&w), A::M(bias.as_ref().unwrap_or(&w)), A::M(&out)]);
    let kernel = run.gpu.kernel("gathered", || gathered::with(&[]))?;
    let lines = places.div_ceil(LINE as usize);
    run.gpu.launch(&kernel, [lines, geometry.channels_out, geometry.batch], &args)?;
    drop(args);
    Ok(smallvec![out])
}
