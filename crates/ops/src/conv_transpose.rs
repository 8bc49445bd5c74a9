//! Transposed convolution: each input element adds a scaled kernel to the output.

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{Axes, Tensor, element_count};
use smallvec::smallvec;

use crate::context::{EvalCtx, InferCtx};
use crate::conv::{ConvGeometry, bias_of, float_dtype, groups, known_kernel};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::error::OpError;
use crate::real::{Real, at_least_rank, elements_as, narrow, with_real};
use crate::window::{AutoPad, Window, advance, per_axis};
use crate::work::{Work, elements};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&CONV_TRANSPOSE];

static CONV_TRANSPOSE: OpDef = OpDef {
    name: "ConvTranspose",
    doc: "Transposed convolution of any number of spatial axes, in groups.",
    onnx: &[onnx("", "ConvTranspose", 22)],
    inputs: Arity::between(2, 3),
    kind: Kind::Heavy,
    infer: infer_transpose,
    work: transpose_work,
    eval: |ctx| {
        Ok(vec![with_real!(0, ctx.tensor(0)?.dtype(), T => eval_transpose::<T>(ctx))?.into()])
    },
    ..OpDef::DEFAULT
};

impl ConvGeometry {
    /// Reads the attributes of a ConvTranspose whose input is (N, C, spatial) and whose weights
    /// are (C, M/groups, taps). The window slides over the output: input element `i` meets output
    /// element `i * stride + tap * dilation - pads_begin`.
    ///
    /// # Errors
    /// Shapes or attributes that do not fit together.
    pub fn resolve_transposed(
        attrs: &Attrs,
        x: &[usize],
        w: &[usize],
    ) -> Result<ConvGeometry, OpError> {
        at_least_rank(0, x.len(), 2)?;
        if w.len() != x.len() || w[0] != x[1] {
            let wanted = format!("rank {} and {} input channels", x.len(), x[1]);
            return Err(OpError::input(1, wanted, format!("{w:?}")));
        }
        let groups = groups(attrs)?;
        let channels_out = w[1].checked_mul(groups).filter(|_| x[1].is_multiple_of(groups));
        let channels_out = channels_out.ok_or_else(|| {
            OpError::input(1, format!("{} channels in {groups} groups", x[1]), format!("{w:?}"))
        })?;
        let (window, output) = transposed_window(attrs, &x[2..], &w[2..])?;
        Ok(ConvGeometry {
            batch: x[0],
            channels_in: x[1],
            channels_out,
            groups,
            input: x[2..].into(),
            output,
            window,
        })
    }
}

/// The window and the spatial extents of the output.
fn transposed_window(
    attrs: &Attrs,
    input: &[usize],
    kernel: &[usize],
) -> Result<(Window, Axes), OpError> {
    let rank = kernel.len();
    let (mut window, auto) = Window::unpadded(attrs, kernel)?;
    let extra = per_axis(attrs, "output_padding", rank, 0, 0)?;
    let wanted = match attrs.ints_opt("output_shape")? {
        // Some files give all extents, some the spatial ones only.
        Some(shape) if shape.len() == rank || shape.len() == rank + 2 => {
            Some(&shape[shape.len() - rank..])
        }
        Some(shape) if !shape.is_empty() => {
            return Err(OpError::invalid(format!("output_shape {shape:?}, {rank} spatial axes")));
        }
        _ => None,
    };
    let mut output: Axes = smallvec![0; rank];
    for axis in 0..rank {
        let stride = window.strides[axis] as i128;
        let span = (kernel[axis] as i128 - 1) * window.dilations[axis] as i128 + 1;
        let full = stride * (input[axis] as i128 - 1) + extra[axis] as i128 + span;
        let target = match (wanted, auto) {
            (Some(shape), _) => Some(i128::from(shape[axis])),
            (None, AutoPad::SameUpper | AutoPad::SameLower) => Some(stride * input[axis] as i128),
            _ => None,
        };
        let extent = match target {
            Some(target) => {
                let total = usize::try_from((full - target).max(0)).unwrap_or(0);
                let (less, more) = (total / 2, total - total / 2);
                let upper = auto == AutoPad::SameUpper;
                window.pads_begin[axis] = if upper { less } else { more };
                window.pads_end[axis] = if upper { more } else { less };
                target
            }
            None => full - window.pads_begin[axis] as i128 - window.pads_end[axis] as i128,
        };
        output[axis] = usize::try_from(extent)
            .map_err(|_| OpError::invalid(format!("axis {axis}: an output extent of {extent}")))?;
    }
    Ok((window, output))
}

fn eval_transpose<T: Real>(ctx: &EvalCtx<'_>) -> Result<Tensor, OpError> {
    let (x, w) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let g = ConvGeometry::resolve_transposed(ctx.attrs(), x.shape(), w.shape())?;
    let bias = bias_of::<T>(ctx, g.channels_out)?;
    let mut out = Tensor::zeros(T::DTYPE, &g.output_shape())?;
    let (input, weights) = (elements_as::<T>(0, x)?, elements_as::<T>(1, w)?);
    let (plane_in, plane_out) = (element_count(&g.input)?, element_count(&g.output)?);
    let taps = element_count(&g.window.kernel)?;
    if !out.is_empty() {
        for (index, plane) in out.as_mut_slice::<T>()?.chunks_exact_mut(plane_out).enumerate() {
            let (image, channel) = (index / g.channels_out, index % g.channels_out);
            plane.fill(bias[channel]);
            let group = channel / g.group_out();
            for c in group * g.group_in()..(group + 1) * g.group_in() {
                let from = (image * g.channels_in + c) * plane_in;
                let kernel = (c * g.group_out() + channel % g.group_out()) * taps;
                let source = &input[from..from + plane_in];
                scatter_plane(&g, source, &weights[kernel..kernel + taps], plane);
            }
        }
    }
    narrow(out, x.dtype())
}

/// Adds to `plane` what one input plane gives, row by row of the input.
fn scatter_plane<T: Real>(g: &ConvGeometry, input: &[T], weights: &[T], plane: &mut [T]) {
    let rank = g.window.rank();
    if input.is_empty() {
        return;
    }
    if rank == 0 {
        plane[0] = plane[0].add_mul(input[0], weights[0]);
        return;
    }
    let outer = rank - 1;
    let (row_in, row_out) = (g.input[outer], g.output[outer]);
    let mut tap = vec![0; rank];
    let mut at = vec![0; outer];
    for &weight in weights {
        // Which input columns land inside the output row: the roles are those of a convolution
        // with input and output exchanged.
        let columns = g.window.outputs_inside(outer, tap[outer], row_out, row_in);
        at.fill(0);
        for (row, source) in input.chunks_exact(row_in).enumerate() {
            if row > 0 {
                advance(&mut at, &g.input[..outer]);
            }
            if columns.is_empty() {
                break;
            }
            let Some(start) = target_row(g, &at, &tap) else { continue };
            let first = g.window.position(outer, columns.start, tap[outer]);
            let targets = plane[start + first..start + row_out].iter_mut();
            let sums = targets.step_by(g.window.strides[outer]).zip(&source[columns.clone()]);
            sums.for_each(|(sum, &value)| *sum = sum.add_mul(weight, value));
        }
        advance(&mut tap, &g.window.kernel);
    }
}

/// Where the output row begins that input row `at` meets through `tap`; `None` when outside.
fn target_row(g: &ConvGeometry, at: &[usize], tap: &[usize]) -> Option<usize> {
    let mut start = 0;
    for (axis, &index) in at.iter().enumerate() {
        let shifted = index * g.window.strides[axis] + tap[axis] * g.window.dilations[axis];
        let position = shifted.checked_sub(g.window.pads_begin[axis])?;
        if position >= g.output[axis] {
            return None;
        }
        start = start * g.output[axis] + position;
    }
    Some(start * g.output[at.len()])
}

fn infer_transpose(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = float_dtype(ctx)?;
    let (Some(x), Some(w)) = (ctx.dims(0), ctx.dims(1)) else {
        let rank = ctx.rank(0).or(ctx.rank(1));
        return Ok(vec![InferCtx::make(dtype, rank.map(|rank| vec![Dim::Unknown; rank]))]);
    };
    if let (Some(x), Some(w)) = (ctx.ty(0)?.known_shape(), ctx.ty(1)?.known_shape()) {
        let geometry = ConvGeometry::resolve_transposed(ctx.attrs(), &x, &w)?;
        let dims = geometry.output_shape().into_iter().map(Dim::Known).collect();
        return Ok(vec![InferCtx::make(dtype, Some(dims))]);
    }
    at_least_rank(0, x.len(), 2)?;
    if w.len() != x.len() {
        return Err(OpError::input(1, format!("rank {}", x.len()), format!("rank {}", w.len())));
    }
    let groups = groups(ctx.attrs())?;
    let channels = w[1].known().and_then(|channels| channels.checked_mul(groups));
    let mut dims = vec![x[0].clone(), channels.map_or(Dim::Unknown, Dim::Known)];
    let kernel = known_kernel(ctx, &w[2..])?;
    for (axis, dim) in x[2..].iter().enumerate() {
        let extent = match (&kernel, dim.known()) {
            (Some(kernel), Some(extent)) => {
                // Axes are independent: the other extents may be anything.
                let mut extents = vec![1; kernel.len()];
                extents[axis] = extent;
                transposed_window(ctx.attrs(), &extents, kernel)
                    .map_or(Dim::Unknown, |(_, output)| Dim::Known(output[axis]))
            }
            _ => Dim::Unknown,
        };
        dims.push(extent);
    }
    Ok(vec![InferCtx::make(dtype, Some(dims))])
}

/// One multiply-add for each input element and weight of its channel.
fn transpose_work(ctx: &InferCtx<'_>, _: &[Type]) -> Work {
    let weights = ctx.ty_opt(1).and_then(Type::known_shape).unwrap_or_default();
    let per_input: f64 = weights.iter().skip(1).map(|&extent| extent as f64).product();
    Work::macs(ctx.ty_opt(0).map_or(0.0, elements) * per_input)
}

#[cfg(test)]
mod tests {
    use crate::case::{floats, iota, node, run};

    #[test]
    fn shapes_and_sums() {
        let check = |node, x: &[usize], w: &[usize], shape: &[usize], sum: f32| {
            let ones = floats(w, &vec![1.0; w.iter().product()]);
            let y = run(node, &[iota(x), ones]).unwrap().remove(0);
            assert_eq!(y.shape(), shape);
            assert_eq!(y.as_slice::<f32>().unwrap().iter().sum::<f32>(), sum);
        };
        let op = || node("ConvTranspose", 1);
        check(op(), &[1, 1, 3, 3], &[1, 2, 3, 3], &[1, 2, 5, 5], 648.0);
        let same = op().with("auto_pad", "SAME_UPPER").with("strides", vec![2, 2]);
        check(same, &[1, 1, 3, 3], &[1, 2, 3, 3], &[1, 2, 6, 6], 448.0);
        let shaped = op().with("output_shape", vec![10, 8]).with("strides", vec![3, 2]);
        check(shaped, &[1, 1, 3, 3], &[1, 2, 3, 3], &[1, 2, 10, 8], 648.0);
        check(op().with("group", 2), &[3, 2, 3], &[2, 1, 2], &[3, 2, 4], 306.0);
        let pads = op().with("pads", vec![1, 2, 1, 2]).with("strides", vec![3, 2]);
        check(pads, &[1, 1, 3, 3], &[1, 2, 3, 3], &[1, 2, 7, 3], 280.0);
    }

    #[test]
    fn wrong_arguments_are_errors() {
        let check = |node: hetra_ir::Node, x: &[usize], w: &[usize]| {
            assert!(run(node.clone(), &[iota(x), iota(w)]).is_err(), "{node:?} {x:?} {w:?}");
        };
        let op = || node("ConvTranspose", 1);
        check(op(), &[1, 2, 3], &[1, 1, 1]);
        check(op().with("pads", vec![9, 9]), &[1, 1, 3], &[1, 1, 1]);
        check(op().with("output_shape", vec![-4]), &[1, 1, 3], &[1, 1, 1]);
        check(op().with("output_shape", vec![1 << 50]), &[1, 1, 3], &[1, 1, 1]);
        check(op().with("group", 2), &[1, 1, 3], &[1, 1, 1]);
    }
}
