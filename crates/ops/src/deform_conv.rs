//! DeformConv: a convolution whose taps are moved by offsets and weighed by a mask.

use hetra_ir::{Dim, Type};
use hetra_tensor::{Tensor, Value, element_count, to_f64};

use crate::context::{EvalCtx, InferCtx};
use crate::conv::{ConvGeometry, conv_work, float_dtype, known_kernel};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::error::OpError;
use crate::real::at_least_rank;
use crate::window::{Window, advance};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&DEFORM_CONV];

static DEFORM_CONV: OpDef = OpDef {
    name: "DeformConv",
    doc: "Convolution whose taps are moved by offsets and weighed by a mask.",
    onnx: &[onnx("", "DeformConv", 22)],
    inputs: Arity::between(3, 5),
    kind: Kind::Heavy,
    infer: infer_deform,
    work: conv_work,
    eval: eval_deform,
    ..OpDef::DEFAULT
};

/// A deformable convolution: offsets are (N, offset groups, taps, axes, output), masks
/// (N, offset groups, taps, output).
struct Deform {
    conv: ConvGeometry,
    offset_groups: usize,
    taps: usize,
    plane_in: usize,
    plane_out: usize,
}

impl Deform {
    fn resolve(ctx: &EvalCtx<'_>) -> Result<Deform, OpError> {
        let (x, w, offset) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
        let conv = ConvGeometry::resolve(ctx.attrs(), x.shape(), w.shape())?;
        let groups = ctx.attrs().int_or("offset_group", 1)?;
        let offset_groups = usize::try_from(groups)
            .ok()
            .filter(|&groups| groups > 0 && conv.channels_in.is_multiple_of(groups))
            .ok_or_else(|| OpError::invalid(format!("offset_group is {groups}")))?;
        let taps = element_count(&conv.window.kernel)?;
        let shape = |channels: usize| [&[conv.batch, channels], conv.output.as_slice()].concat();
        let wanted = shape(element_count(&[offset_groups, taps, conv.window.rank()])?);
        if offset.shape() != wanted {
            return Err(OpError::input(2, format!("shape {wanted:?}"), offset.describe()));
        }
        let wanted = shape(element_count(&[offset_groups, taps])?);
        if let Some(mask) = ctx.tensor_opt(4)
            && mask.shape() != wanted
        {
            return Err(OpError::input(4, format!("shape {wanted:?}"), mask.describe()));
        }
        let (plane_in, plane_out) = (element_count(&conv.input)?, element_count(&conv.output)?);
        Ok(Deform { conv, offset_groups, taps, plane_in, plane_out })
    }

    /// Input elements that a tap reads, with their weights: the corners about a point between
    /// them, each weighed by its nearness. Corners outside count as 0.
    fn corners(&self, point: &[f64], corners: &mut Vec<(usize, f64)>) {
        corners.clear();
        corners.push((0, 1.0));
        for (axis, &at) in point.iter().enumerate() {
            let extent = self.conv.input[axis];
            let low = at.floor();
            let known = corners.len();
            for (position, near) in [(low, 1.0 - (at - low)), (low + 1.0, at - low)] {
                // Also false for NaN, and exact: extents are far below 2^53.
                if !(position >= 0.0 && position < extent as f64) || near == 0.0 {
                    continue;
                }
                for index in 0..known {
                    let (place, weight) = corners[index];
                    corners.push((place * extent + position as usize, weight * near));
                }
            }
            corners.drain(..known);
        }
    }
}

fn eval_deform(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    for index in 0..5 {
        if let Some(tensor) = ctx.tensor_opt(index)
            && !tensor.dtype().is_float()
        {
            return Err(OpError::input(index, "floats", tensor.describe()));
        }
    }
    let deform = Deform::resolve(ctx)?;
    let g = &deform.conv;
    let shape = g.output_shape();
    let empty = Tensor::zeros(x.dtype(), &shape)?;
    if empty.is_empty() {
        return Ok(vec![empty.into()]);
    }
    let mut out = vec![0f64; empty.len()];
    if let Some(bias) = ctx.tensor_opt(3) {
        if bias.len() != g.channels_out {
            let wanted = format!("{} numbers", g.channels_out);
            return Err(OpError::input(3, wanted, bias.describe()));
        }
        let bias = to_f64(bias)?;
        for (index, plane) in out.chunks_mut(deform.plane_out.max(1)).enumerate() {
            plane.fill(bias[index % g.channels_out]);
        }
    }
    let values = Values {
        x: to_f64(x)?,
        w: to_f64(ctx.tensor(1)?)?,
        offsets: to_f64(ctx.tensor(2)?)?,
        mask: ctx.tensor_opt(4).map(to_f64).transpose()?,
    };
    for image in 0..g.batch {
        for group in 0..deform.offset_groups {
            add_group(&deform, image, group, &values, &mut out);
        }
    }
    Ok(vec![hetra_tensor::from_f64(x.dtype(), &shape, &out)?.into()])
}

struct Values {
    x: Vec<f64>,
    w: Vec<f64>,
    offsets: Vec<f64>,
    mask: Option<Vec<f64>>,
}

/// Adds what the input channels of one offset group give: their taps read the same places.
fn add_group(deform: &Deform, image: usize, group: usize, values: &Values, out: &mut [f64]) {
    let g = &deform.conv;
    let rank = g.window.rank();
    let channels = g.channels_in / deform.offset_groups;
    let slot = image * deform.offset_groups + group;
    let mut point = vec![0f64; rank];
    let mut corners = Vec::new();
    let mut at = vec![0; rank];
    let mut tap = vec![0; rank];
    for place in 0..deform.plane_out {
        for index in 0..deform.taps {
            for axis in 0..rank {
                let channel = (slot * deform.taps + index) * rank + axis;
                let start =
                    at[axis] * g.window.strides[axis] + tap[axis] * g.window.dilations[axis];
                let start = start as f64 - g.window.pads_begin[axis] as f64;
                point[axis] = start + values.offsets[channel * deform.plane_out + place];
            }
            deform.corners(&point, &mut corners);
            let mask = values
                .mask
                .as_ref()
                .map_or(1.0, |mask| mask[(slot * deform.taps + index) * deform.plane_out + place]);
            for c in group * channels..(group + 1) * channels {
                let plane = (image * g.channels_in + c) * deform.plane_in;
                let sample: f64 =
                    corners.iter().map(|(at, near)| values.x[plane + at] * near).sum();
                let (own, inside) = (c / g.group_in(), c % g.group_in());
                for m in own * g.group_out()..(own + 1) * g.group_out() {
                    let weight = values.w[(m * g.group_in() + inside) * deform.taps + index];
                    let target = (image * g.channels_out + m) * deform.plane_out + place;
                    out[target] += sample * mask * weight;
                }
            }
            advance(&mut tap, &g.window.kernel);
        }
        advance(&mut at, &g.output);
    }
}

fn infer_deform(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = float_dtype(ctx)?;
    let (Some(x), Some(w)) = (ctx.dims(0), ctx.dims(1)) else {
        let rank = ctx.rank(0).or(ctx.rank(1)).or(ctx.rank(2));
        return Ok(vec![InferCtx::make(dtype, rank.map(|rank| vec![Dim::Unknown; rank]))]);
    };
    at_least_rank(0, x.len(), 2)?;
    if w.len() != x.len() {
        return Err(OpError::input(1, format!("rank {}", x.len()), format!("rank {}", w.len())));
    }
    let mut dims = vec![x[0].clone(), w[0].clone()];
    match known_kernel(ctx, &w[2..])? {
        Some(kernel) => dims.extend(Window::output_dims(ctx.attrs(), &x[2..], &kernel)?),
        None => dims.resize(x.len(), Dim::Unknown),
    }
    Ok(vec![InferCtx::make(dtype, Some(dims))])
}

#[cfg(test)]
mod tests {
    use crate::case::{floats, iota, node, run};

    #[test]
    fn taps_move_between_elements() {
        let x = iota(&[1, 1, 4]);
        let w = floats(&[1, 1, 2], &[1.0, 1.0]);
        let offsets = floats(&[1, 2, 3], &[0.5, 0.0, 0.0, 0.0, 0.0, 0.5]);
        let y = run(node("DeformConv", 1), &[x.clone(), w.clone(), offsets.clone()]).unwrap();
        assert_eq!(y[0].as_slice::<f32>().unwrap(), [1.5, 3.0, 3.5]);
        let mask = floats(&[1, 2, 3], &[1.0, 1.0, 1.0, 0.0, 1.0, 2.0]);
        let inputs = [x.clone(), w.clone(), offsets, floats(&[1], &[1.0]), mask];
        let y = run(node("DeformConv", 1), &inputs).unwrap();
        assert_eq!(y[0].as_slice::<f32>().unwrap(), [1.5, 4.0, 6.0]);
        assert!(run(node("DeformConv", 1), &[x, w, iota(&[1, 2, 2])]).is_err());
    }
}
