//! Regions of images: RoiAlign, MaxRoiPool, NonMaxSuppression.

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{DType, Tensor, Value, to_f64};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, OpDef, onnx};
use crate::dims::{check_ints, dims_of_rank, shape_from};
use crate::elements::{float_buffer, volume};
use crate::error::OpError;
use crate::gather::resolve_index;
use crate::work::{per_input_element, per_output_element};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&ROI_ALIGN, &MAX_ROI_POOL, &NON_MAX_SUPPRESSION];

static ROI_ALIGN: OpDef = OpDef {
    name: "RoiAlign",
    doc: "Pools each region to one size, sampling between the places of the image.",
    onnx: &[onnx("", "RoiAlign", 22)],
    inputs: Arity::exactly(3),
    upgrade: Some(|up| {
        // Before opset 16 there was only one mode, which is not the default of now.
        if up.node.version < 16 {
            up.node.attrs.set("coordinate_transformation_mode", "output_half_pixel");
        }
        Ok(())
    }),
    infer: infer_roi_align,
    work: per_output_element,
    eval: eval_roi_align,
    ..OpDef::DEFAULT
};

static MAX_ROI_POOL: OpDef = OpDef {
    name: "MaxRoiPool",
    doc: "The maxima of each region on a grid of one size.",
    onnx: &[onnx("", "MaxRoiPool", 22)],
    inputs: Arity::exactly(2),
    infer: infer_max_roi_pool,
    work: per_output_element,
    eval: eval_max_roi_pool,
    ..OpDef::DEFAULT
};

static NON_MAX_SUPPRESSION: OpDef = OpDef {
    name: "NonMaxSuppression",
    doc: "The best boxes of each class that do not overlap a better one too much: rows of batch, \
          class and box.",
    onnx: &[onnx("", "NonMaxSuppression", 11)],
    inputs: Arity::between(2, 5),
    infer: |ctx| {
        dims_of_rank(ctx, 0, 3)?;
        dims_of_rank(ctx, 1, 3)?;
        Ok(vec![Type::shaped(DType::I64, vec![Dim::Unknown, Dim::Known(3)])])
    },
    work: per_input_element,
    eval: eval_suppression,
    ..OpDef::DEFAULT
};

/// An attribute that is an extent of the output.
fn output_extent(attrs: &Attrs, name: &str) -> Result<usize, OpError> {
    let extent = attrs.int_or(name, 1)?;
    usize::try_from(extent).map_err(|_| OpError::invalid(format!("`{name}` is {extent}")))
}

fn infer_roi_align(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 2)?;
    let channels = dims_of_rank(ctx, 0, 4)?.map_or(Dim::Unknown, |dims| dims[1].clone());
    let (rois, indices) = (dims_of_rank(ctx, 1, 2)?, dims_of_rank(ctx, 2, 1)?);
    let count = match (rois.map(|dims| &dims[0]), indices.map(|dims| &dims[0])) {
        (Some(Dim::Known(a)), Some(Dim::Known(b))) if a != b => {
            return Err(OpError::input(2, format!("{a} indices"), b.to_string()));
        }
        (Some(dim), None) | (None, Some(dim)) => dim.clone(),
        (Some(dim), Some(other)) => if dim.known().is_some() { dim } else { other }.clone(),
        (None, None) => Dim::Unknown,
    };
    if let Some(Dim::Known(columns)) = rois.map(|dims| &dims[1])
        && *columns != 4
    {
        return Err(OpError::input(1, "4 coordinates per region", columns.to_string()));
    }
    let height = output_extent(ctx.attrs(), "output_height")?;
    let width = output_extent(ctx.attrs(), "output_width")?;
    let dims = vec![count, channels, height.into(), width.into()];
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), Some(dims))])
}

/// A sample between four places of a plane, with their weights.
#[derive(Clone, Copy, Default)]
struct Sample {
    places: [usize; 4],
    weights: [f64; 4],
}

/// The two places of an axis around `at`, and how far after the first it lies; `None` when more
/// than one place outside. `extent` is not 0.
fn between(at: f64, extent: usize) -> Option<(usize, usize, f64)> {
    if !(-1.0..=extent as f64).contains(&at) {
        return None;
    }
    let at = at.max(0.0);
    let low = at as usize;
    match low >= extent - 1 {
        true => Some((extent - 1, extent - 1, 0.0)),
        false => Some((low, low + 1, at - low as f64)),
    }
}

/// One axis of a region: its start, the extent of a bin and the samples in it.
struct Bins {
    start: f64,
    size: f64,
    samples: usize,
}

/// Most samples along an axis of a bin: coordinates come from data, so there is a limit.
const SAMPLES_MAX: f64 = 1024.0;

impl Bins {
    fn of(start: f64, end: f64, bins: usize, ratio: i64, half_pixel: bool) -> Bins {
        let extent = if half_pixel { end - start } else { (end - start).max(1.0) };
        let size = extent / bins as f64;
        let samples = if ratio > 0 { ratio as f64 } else { size.ceil() };
        // A NaN becomes 0.
        Bins { start, size, samples: samples.clamp(0.0, SAMPLES_MAX) as usize }
    }

    fn at(&self, bin: usize, sample: usize) -> f64 {
        let inside = (sample as f64 + 0.5) / self.samples as f64;
        self.start + (bin as f64 + inside) * self.size
    }
}

/// The samples of one bin, in a plane of this shape.
fn bin_samples(
    (rows, columns): (&Bins, &Bins),
    (row, column): (usize, usize),
    (height, width): (usize, usize),
    samples: &mut Vec<Sample>,
) {
    samples.clear();
    for y in 0..rows.samples {
        let vertical = between(rows.at(row, y), height);
        for x in 0..columns.samples {
            let horizontal = between(columns.at(column, x), width);
            let sample =
                vertical.zip(horizontal).map(|((top, bottom, down), (left, right, over))| {
                    let places = [(top, left), (top, right), (bottom, left), (bottom, right)];
                    let (up, back) = (1.0 - down, 1.0 - over);
                    Sample {
                        places: places.map(|(y, x)| y * width + x),
                        weights: [up * back, up * over, down * back, down * over],
                    }
                });
            // Outside the image a sample counts as 0.
            samples.push(sample.unwrap_or_default());
        }
    }
}

/// The mean, or the maximum (of the weighted places, as ONNX has it), of samples of a plane.
fn pool(samples: &[Sample], plane: &[f64], max: bool) -> f64 {
    let parts = |sample: &Sample| {
        let mut parts = [0.0; 4];
        for (at, part) in parts.iter_mut().enumerate() {
            *part = sample.weights[at] * plane[sample.places[at]];
        }
        parts
    };
    if max {
        let largest = |sample| parts(sample).into_iter().fold(f64::NEG_INFINITY, f64::max);
        return samples.iter().map(largest).reduce(f64::max).unwrap_or(0.0);
    }
    let sum: f64 = samples.iter().map(|sample| parts(sample).iter().sum::<f64>()).sum();
    sum / samples.len().max(1) as f64
}

fn eval_roi_align(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (image, attrs) = (ctx.tensor(0)?, ctx.attrs());
    let shape = shape_from(ctx, infer_roi_align)?;
    let &[batches, channels, height, width] = image.shape() else {
        return Err(OpError::input(0, "a tensor of rank 4", image.describe()));
    };
    let (rois, indices) = (ctx.reals(1)?, ctx.ints(2)?);
    let (values, scale) = (to_f64(image)?, f64::from(attrs.float_or("spatial_scale", 1.0)?));
    let ratio = attrs.int_or("sampling_ratio", 0)?;
    let half_pixel = match attrs.str_or("coordinate_transformation_mode", "half_pixel")? {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => return Err(OpError::invalid(format!("a coordinate mode `{other}`"))),
    };
    let max = match attrs.str_or("mode", "avg")? {
        "avg" => false,
        "max" => true,
        other => return Err(OpError::invalid(format!("`mode` is `{other}`"))),
    };
    let mut slots = float_buffer(&shape)?;
    let (bins_high, bins_wide, plane) = (shape[2], shape[3], volume(&[height, width]));
    let mut samples = Vec::new();
    if plane > 0 && !slots.is_empty() {
        for (region, (roi, &batch)) in rois.chunks_exact(4).zip(&indices).enumerate() {
            let batch = resolve_index(batch, batches, 2)?;
            let place = |at: usize| roi[at] * scale - if half_pixel { 0.5 } else { 0.0 };
            let rows = Bins::of(place(1), place(3), bins_high, ratio, half_pixel);
            let columns = Bins::of(place(0), place(2), bins_wide, ratio, half_pixel);
            for bin in 0..bins_high * bins_wide {
                let at = (bin / bins_wide, bin % bins_wide);
                bin_samples((&rows, &columns), at, (height, width), &mut samples);
                for channel in 0..channels {
                    let start = (batch * channels + channel) * plane;
                    let slot = (region * channels + channel) * bins_high * bins_wide + bin;
                    slots[slot] = pool(&samples, &values[start..start + plane], max);
                }
            }
        }
    }
    Ok(vec![hetra_tensor::from_f64(image.dtype(), &shape, &slots)?.into()])
}

fn pooled_shape(attrs: &Attrs) -> Result<[usize; 2], OpError> {
    let shape = attrs.ints("pooled_shape")?;
    match shape[..] {
        [height, width] if height > 0 && width > 0 => Ok([height as usize, width as usize]),
        _ => Err(OpError::invalid(format!("`pooled_shape` is {shape:?}"))),
    }
}

fn infer_max_roi_pool(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let channels = dims_of_rank(ctx, 0, 4)?.map_or(Dim::Unknown, |dims| dims[1].clone());
    let rois = dims_of_rank(ctx, 1, 2)?;
    if let Some(Dim::Known(columns)) = rois.map(|dims| &dims[1])
        && *columns != 5
    {
        return Err(OpError::input(1, "5 numbers per region", columns.to_string()));
    }
    let count = rois.map_or(Dim::Unknown, |dims| dims[0].clone());
    let [height, width] = pooled_shape(ctx.attrs())?;
    let dims = vec![count, channels, height.into(), width.into()];
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), Some(dims))])
}

/// The places of one bin of an axis: bins overlap where they do not divide the region.
fn bin_range(start: i64, size: f64, bin: usize, extent: usize) -> std::ops::Range<usize> {
    let clamp = |at: f64| ((at as i64).saturating_add(start)).clamp(0, extent as i64) as usize;
    clamp((bin as f64 * size).floor())..clamp(((bin + 1) as f64 * size).ceil())
}

fn eval_max_roi_pool(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let image = ctx.tensor(0)?;
    let shape = shape_from(ctx, infer_max_roi_pool)?;
    let &[batches, channels, height, width] = image.shape() else {
        return Err(OpError::input(0, "a tensor of rank 4", image.describe()));
    };
    let (values, rois) = (to_f64(image)?, ctx.reals(1)?);
    let scale = f64::from(ctx.attrs().float_or("spatial_scale", 1.0)?);
    let [bins_high, bins_wide] = pooled_shape(ctx.attrs())?;
    let mut out = float_buffer(&shape)?;
    if out.is_empty() {
        return Ok(vec![Tensor::zeros(image.dtype(), &shape)?.into()]);
    }
    let mut slots = out.iter_mut();
    for roi in rois.chunks_exact(5) {
        let batch = resolve_index(roi[0] as i64, batches, 1)?;
        let place = |at: usize| (roi[at] * scale).round() as i64;
        let bin_size = |low: i64, high: i64, bins: usize| {
            high.saturating_sub(low).saturating_add(1).max(1) as f64 / bins as f64
        };
        let size_high = bin_size(place(2), place(4), bins_high);
        let size_wide = bin_size(place(1), place(3), bins_wide);
        for channel in 0..channels {
            let start = (batch * channels + channel) * volume(&[height, width]);
            for bin in 0..bins_high * bins_wide {
                let rows = bin_range(place(2), size_high, bin / bins_wide, height);
                let columns = bin_range(place(1), size_wide, bin % bins_wide, width);
                let mut best: Option<f64> = None;
                for row in rows {
                    for column in columns.clone() {
                        let value = values[start + row * width + column];
                        best = Some(best.map_or(value, |best| best.max(value)));
                    }
                }
                // An empty bin is 0.
                if let Some(slot) = slots.next() {
                    *slot = best.unwrap_or(0.0);
                }
            }
        }
    }
    Ok(vec![hetra_tensor::from_f64(image.dtype(), &shape, &out)?.into()])
}

/// A box by its corners, lower ones first.
#[derive(Clone, Copy)]
struct Corners {
    low: [f64; 2],
    high: [f64; 2],
}

impl Corners {
    /// From two opposite corners, or from `center` and size; the order of the axes is the same
    /// for all boxes, so it does not matter.
    fn of(numbers: &[f64], center: bool) -> Corners {
        let axis = |at: usize| {
            let (a, b) = (numbers[at], numbers[at + 2]);
            if center { (a - b / 2.0, a + b / 2.0) } else { (a.min(b), a.max(b)) }
        };
        let ((low0, high0), (low1, high1)) = (axis(0), axis(1));
        Corners { low: [low0, low1], high: [high0, high1] }
    }

    fn area(&self) -> f64 {
        (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])
    }

    /// Whether the common area over the joint one is above `limit`.
    fn overlaps(&self, other: &Corners, limit: f64) -> bool {
        let common =
            |at: usize| self.high[at].min(other.high[at]) - self.low[at].max(other.low[at]);
        let (a, b) = (common(0), common(1));
        if a <= 0.0 || b <= 0.0 || self.area() <= 0.0 || other.area() <= 0.0 {
            return false;
        }
        let joint = self.area() + other.area() - a * b;
        joint > 0.0 && a * b / joint > limit
    }
}

/// The first number of an optional input.
fn first_real(ctx: &EvalCtx<'_>, index: usize) -> Result<Option<f64>, OpError> {
    Ok(match ctx.tensor_opt(index) {
        Some(tensor) => to_f64(tensor)?.first().copied(),
        None => None,
    })
}

fn eval_suppression(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (boxes, scores) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let &[batches, count, 4] = boxes.shape() else {
        return Err(OpError::input(0, "boxes of shape batch, count, 4", boxes.describe()));
    };
    let &[same, classes, scored] = scores.shape() else {
        return Err(OpError::input(1, "scores of shape batch, class, box", scores.describe()));
    };
    if same != batches || scored != count {
        return Err(OpError::input(1, format!("{batches} batches of {count}"), scores.describe()));
    }
    let wanted = ctx.ints_opt(2)?.and_then(|count| count.first().copied()).unwrap_or(0);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let limit = first_real(ctx, 3)?.unwrap_or(0.0);
    let threshold = first_real(ctx, 4)?;
    let center = ctx.attrs().int_or("center_point_box", 0)? != 0;
    let (numbers, values) = (to_f64(boxes)?, to_f64(scores)?);
    let corners: Vec<Corners> = numbers.chunks_exact(4).map(|n| Corners::of(n, center)).collect();
    let mut rows: Vec<i64> = Vec::new();
    let mut order: Vec<usize> = Vec::with_capacity(if scores.is_empty() { 0 } else { count });
    // Without scores there may be any number of batches and classes.
    for lane in 0..if scores.is_empty() { 0 } else { batches * classes } {
        let scores = &values[lane * count..(lane + 1) * count];
        let (batch, class) = (lane / classes, lane % classes);
        let corners = &corners[batch * count..(batch + 1) * count];
        order.clear();
        order.extend((0..count).filter(|&at| threshold.is_none_or(|limit| scores[at] > limit)));
        // Stable: of equal scores the first box comes first.
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut kept: Vec<usize> = Vec::new();
        for &at in &order {
            if kept.len() >= wanted {
                break;
            }
            if !kept.iter().any(|&better| corners[at].overlaps(&corners[better], limit)) {
                kept.push(at);
                rows.extend([batch as i64, class as i64, at as i64]);
            }
        }
    }
    Ok(vec![Tensor::from_slice(&[rows.len() / 3, 3], &rows)?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_overlap_by_area() {
        let a = Corners::of(&[0.0, 0.0, 1.0, 1.0], false);
        let flipped = Corners::of(&[1.0, 1.0, 0.0, 0.0], false);
        let half = Corners::of(&[0.5, 0.25, 1.0, 0.5], true);
        assert!(a.overlaps(&flipped, 0.99));
        assert!(a.overlaps(&half, 0.49) && !a.overlaps(&half, 0.5));
        assert!(!a.overlaps(&Corners::of(&[2.0, 2.0, 3.0, 3.0], false), 0.0));
    }

    #[test]
    fn places_around_a_coordinate() {
        assert_eq!(between(-1.1, 4), None);
        assert_eq!(between(-0.5, 4), Some((0, 1, 0.0)));
        assert_eq!(between(1.25, 4), Some((1, 2, 0.25)));
        assert_eq!(between(4.0, 4), Some((3, 3, 0.0)));
        assert_eq!(between(f64::NAN, 4), None);
    }

    #[test]
    fn maxima_of_bins() {
        use crate::case::{Case, check};
        let image: Vec<f32> = (0..16).map(|at| at as f32).collect();
        let image = Tensor::from_slice(&[1, 1, 4, 4], &image).unwrap();
        let rois = Tensor::from_slice(&[1, 5], &[0f32, 0.0, 0.0, 3.0, 3.0]).unwrap();
        let case = Case::new("MaxRoiPool").tensor(&image).tensor(&rois);
        check(&case.attr("pooled_shape", vec![2, 2]), 0, &[1, 1, 2, 2], &[5.0, 7.0, 13.0, 15.0]);
        assert!(case.attr("pooled_shape", vec![0, 2]).eval().is_err());
    }
}
