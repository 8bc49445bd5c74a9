//! Pooling over windows on planes. Whole planes are rows (`rows.rs`).

use hetra_device::Part;
use hetra_ir::Node;
use hetra_kernel::kernel;
use hetra_ops::PoolGeometry;
use hetra_tensor::{DType, Shape};
use smallvec::{SmallVec, smallvec};

use crate::context::{A, Gpu, LINE, Outcome, Run, Stop};
use crate::conv::{Plane, pair};
use crate::program::Work;
use crate::table::{Form, Row};

pub(crate) const ROWS: &[Row] = &[Row {
    ops: &["MaxPool", "AveragePool"],
    kernel: "pool",
    on_device: &[],
    takes: |form: &Form<'_>| {
        let node = form.node;
        // Windows that hang over the padding are counted in ways of their own.
        let ceil = node.attrs.flag_or("ceil_mode", false).is_ok_and(|ceil| ceil);
        let plain = node.output(1).is_none() && (node.op == "MaxPool" || !ceil);
        plain && form.is_f32(0) && form.rank(0).is_none_or(|rank| (3..=4).contains(&rank))
    },
    compile,
}];

#[kernel(group = [64])]
fn pooled(
    height: u32,
    width: u32,
    out_width: u32,
    out_places: u32,
    taps_y: u32,
    taps_x: u32,
    stride_y: u32,
    stride_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    pad_y: u32,
    pad_x: u32,
    mean: u32,
    count_all: u32,
    x: &[f32],
    y: &mut [f32],
) {
    let place = global_id(0);
    if place >= out_places {
        return;
    }
    let plane = group_id(1);
    let top = (place / out_width) * stride_y;
    let left = (place % out_width) * stride_x;
    let source = plane * height * width;
    // A number that is none counts for nothing.
    let mut greatest = f32::NEG_INFINITY;
    let mut sum = 0.0;
    let mut count = 0u32;
    for ty in 0..taps_y {
        let row = top + ty * dilation_y - pad_y;
        for tx in 0..taps_x {
            let column = left + tx * dilation_x - pad_x;
            if row < height && column < width {
                let value = x[source + row * width + column];
                greatest = if value > greatest { value } else { greatest };
                sum += value;
                count += 1;
            }
        }
    }
    if count_all != 0 {
        count = taps_y * taps_x;
    }
    y[plane * out_places + place] = if mean != 0 { sum / (count as f32) } else { greatest };
}

fn compile(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let mean = node.op == "AveragePool";
    let all = node.attrs.flag_or("count_include_pad", false).ok()?;
    let node = node.clone();
    Some(Box::new(move |run| pool(run, &node, mean, all)))
}

/// Whether a window reaches beyond the padding, where its taps count differently.
fn hangs_over(geometry: &PoolGeometry) -> bool {
    let w = &geometry.window;
    (0..w.rank()).any(|axis| {
        let span = (w.kernel[axis] - 1) * w.dilations[axis] + 1;
        let last = geometry.output[axis].saturating_sub(1) * w.strides[axis] + span;
        last > geometry.input[axis] + w.pads_begin[axis] + w.pads_end[axis]
    })
}

fn pool(run: &Run<'_, '_>, node: &Node, mean: bool, all: bool) -> Outcome {
    let x = run.input(0)?;
    let geometry = PoolGeometry::resolve(&node.attrs, &x.shape)?;
    let plane = Plane::of(&geometry.window).ok_or(Stop::Host)?;
    let [height, width] = pair(&geometry.input, 1).ok_or(Stop::Host)?;
    let [_, out_width] = pair(&geometry.output, 1).ok_or(Stop::Host)?;
    let places: usize = geometry.output.iter().product();
    let shape: Shape = x.shape[..2].iter().chain(&geometry.output).copied().collect();
    let out = run.gpu.room(DType::F32, &shape)?;
    let turns = plane.taps.iter().product::<usize>().saturating_mul(2);
    let few = turns <= run.gpu.limits().turns_max;
    if out.count() == 0 || x.dtype != DType::F32 || plane.taps.contains(&0) || !few {
        return Err(Stop::Host);
    }
    if all && hangs_over(&geometry) {
        return Err(Stop::Host);
    }
    let mut args: SmallVec<[A<'_>; 32]> =
        smallvec![A::U(height), A::U(width), A::U(out_width), A::U(places)];
    args.extend(plane.args());
    args.extend([A::U(usize::from(mean)), A::U(usize::from(all)), A::M(&x), A::M(&out)]);
    let kernel = run.gpu.kernel("pooled", || pooled::with(&[]))?;
    let groups = [places.div_ceil(LINE as usize), geometry.planes, 1];
    run.gpu.launch(&kernel, groups, &args)?;
    drop(args);
    Ok(smallvec![out])
}
