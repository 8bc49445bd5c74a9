//! Convolution: Conv and its fused form.

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{Axes, DType, Shape, Tensor, element_count};
use smallvec::smallvec;

use crate::compute::Compute;
use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::error::OpError;
use crate::fused_activation::{Epilogue, conclude};
use crate::real::{Real, at_least_rank, elements_as, narrow, with_real};
use crate::window::{Window, advance};
use crate::work::{Work, elements};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&CONV, &FUSED_CONV];

static CONV: OpDef = OpDef {
    name: "Conv",
    doc: "Convolution of any number of spatial axes, in groups.",
    onnx: &[onnx("", "Conv", 22)],
    inputs: Arity::between(2, 3),
    kind: Kind::Heavy,
    infer: infer_conv,
    work: conv_work,
    eval: |ctx| Ok(vec![with_real!(0, ctx.tensor(0)?.dtype(), T => eval_conv::<T>(ctx))?.into()]),
    ..OpDef::DEFAULT
};

static FUSED_CONV: OpDef = OpDef {
    name: "com.microsoft.FusedConv",
    doc: "Convolution, plus bias, plus a residual, then an activation.",
    onnx: &[onnx("com.microsoft", "FusedConv", 1)],
    inputs: Arity::between(2, 4),
    ..CONV
};

/// Everything a convolution kernel needs to know, resolved once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Images.
    pub batch: usize,
    /// Channels of the input.
    pub channels_in: usize,
    /// Channels of the output.
    pub channels_out: usize,
    /// Groups that the channels are split into.
    pub groups: usize,
    /// Spatial extents of the input.
    pub input: Axes,
    /// Spatial extents of the output.
    pub output: Axes,
    /// The window; for a transposed convolution it slides over the output.
    pub window: Window,
}

impl ConvGeometry {
    /// Reads the attributes of a Conv whose input and weights have these shapes.
    ///
    /// # Errors
    /// Shapes or attributes that do not fit together.
    pub fn resolve(attrs: &Attrs, x: &[usize], w: &[usize]) -> Result<ConvGeometry, OpError> {
        at_least_rank(0, x.len(), 2)?;
        if w.len() != x.len() {
            return Err(OpError::input(1, format!("rank {}", x.len()), format!("{w:?}")));
        }
        let groups = groups(attrs)?;
        let window = Window::of(attrs, &x[2..], &w[2..])?;
        if w[1].checked_mul(groups) != Some(x[1]) {
            let wanted = format!("{} input channels in {groups} groups", x[1]);
            return Err(OpError::input(1, wanted, format!("{w:?}")));
        }
        if !w[0].is_multiple_of(groups) {
            let wanted = format!("output channels in {groups} groups");
            return Err(OpError::input(1, wanted, format!("{w:?}")));
        }
        let output = window.output_extents(&x[2..])?;
        Ok(ConvGeometry {
            batch: x[0],
            channels_in: x[1],
            channels_out: w[0],
            groups,
            input: x[2..].into(),
            output,
            window,
        })
    }

    /// Shape of the output.
    pub fn output_shape(&self) -> Shape {
        [self.batch, self.channels_out].into_iter().chain(self.output.iter().copied()).collect()
    }

    /// Input channels that each output channel reads.
    pub fn group_in(&self) -> usize {
        self.channels_in / self.groups
    }

    /// Output channels of one group.
    pub fn group_out(&self) -> usize {
        self.channels_out / self.groups
    }

    /// Whether each output element reads just the input element at its place (a product of
    /// matrices): one tap, no steps, no padding.
    pub fn is_pointwise(&self) -> bool {
        let one = |values: &[usize]| values.iter().all(|&value| value == 1);
        let zero = |values: &[usize]| values.iter().all(|&value| value == 0);
        one(&self.window.kernel)
            && one(&self.window.strides)
            && zero(&self.window.pads_begin)
            && zero(&self.window.pads_end)
    }

    /// The same convolution with as few axes as possible: one when it is pointwise. Never none.
    fn flattened(&self) -> Result<ConvGeometry, OpError> {
        let mut flat = self.clone();
        if self.is_pointwise() || self.window.rank() == 0 {
            flat.input = smallvec![element_count(&self.input)?];
            flat.output = flat.input.clone();
            flat.window = Window {
                kernel: smallvec![1],
                strides: smallvec![1],
                dilations: smallvec![1],
                pads_begin: smallvec![0],
                pads_end: smallvec![0],
                ceil: false,
            };
        }
        Ok(flat)
    }
}

/// The attribute `group`.
pub(crate) fn groups(attrs: &Attrs) -> Result<usize, OpError> {
    let groups = attrs.int_or("group", 1)?;
    usize::try_from(groups)
        .ok()
        .filter(|&groups| groups > 0)
        .ok_or_else(|| OpError::invalid(format!("group is {groups}")))
}

fn eval_conv<T: Real>(ctx: &EvalCtx<'_>) -> Result<Tensor, OpError> {
    let (x, w) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let geometry = ConvGeometry::resolve(ctx.attrs(), x.shape(), w.shape())?;
    let bias = bias_of::<T>(ctx, geometry.channels_out)?;
    let mut out = Tensor::zeros(T::DTYPE, &geometry.output_shape())?;
    let compute = Compute::of(ctx.attrs())?;
    let (left, right) = (compute.operand::<T>(0, x)?, compute.operand::<T>(1, w)?);
    convolve(&geometry.flattened()?, &left, &right, &bias, out.as_mut_slice::<T>()?)?;
    if let Some(residual) = ctx.tensor_opt(3) {
        if residual.shape() != out.shape() {
            return Err(OpError::input(3, out.describe(), residual.describe()));
        }
        let residual = elements_as::<T>(3, residual)?;
        let sums = out.as_mut_slice::<T>()?.iter_mut().zip(residual.iter());
        sums.for_each(|(value, &more)| *value = value.plus(more));
    }
    conclude::<T>(Epilogue::of(ctx.node)?, &mut out)?;
    narrow(out, x.dtype())
}

/// The bias at input 2, zeros when it is left out.
pub(crate) fn bias_of<T: Real>(ctx: &EvalCtx<'_>, channels: usize) -> Result<Vec<T>, OpError> {
    let Some(bias) = ctx.tensor_opt(2) else { return Ok(vec![T::default(); channels]) };
    if bias.len() != channels {
        return Err(OpError::input(2, format!("{channels} numbers"), bias.describe()));
    }
    Ok(elements_as::<T>(2, bias)?.into_owned())
}

/// x is (N, C, spatial), w is (M, C/groups, taps), out is (N, M, spatial). Each output plane is
/// the sum, over input channels and taps, of a shifted input plane times one weight.
fn convolve<T: Real>(
    g: &ConvGeometry,
    x: &[T],
    w: &[T],
    bias: &[T],
    out: &mut [T],
) -> Result<(), OpError> {
    let (plane_in, plane_out) = (element_count(&g.input)?, element_count(&g.output)?);
    let taps = element_count(&g.window.kernel)?;
    if plane_out == 0 || out.is_empty() {
        return Ok(());
    }
    for (index, plane) in out.chunks_exact_mut(plane_out).enumerate() {
        let (image, channel) = (index / g.channels_out, index % g.channels_out);
        plane.fill(bias[channel]);
        let group = channel / g.group_out();
        for c in 0..g.group_in() {
            let from = (image * g.channels_in + group * g.group_in() + c) * plane_in;
            let weights = (channel * g.group_in() + c) * taps;
            let input = &x[from..from + plane_in];
            add_plane(g, input, &w[weights..weights + taps], plane);
        }
    }
    Ok(())
}

/// Adds to `plane` the convolution of one input plane.
fn add_plane<T: Real>(g: &ConvGeometry, input: &[T], weights: &[T], plane: &mut [T]) {
    let outer = g.window.rank() - 1;
    let mut tap = vec![0; g.window.rank()];
    let mut at = vec![0; outer];
    let (row_in, row_out) = (g.input[outer], g.output[outer]);
    for &weight in weights {
        let columns = g.window.outputs_inside(outer, tap[outer], row_in, row_out);
        at.fill(0);
        for (row, target) in plane.chunks_exact_mut(row_out).enumerate() {
            if row > 0 {
                advance(&mut at, &g.output[..outer]);
            }
            if columns.is_empty() {
                break;
            }
            let Some(start) = row_start(g, &at, &tap) else { continue };
            let source = &input[start..start + row_in];
            let first = g.window.position(outer, columns.start, tap[outer]);
            let target = &mut target[columns.clone()];
            if g.window.strides[outer] == 1 {
                for (sum, &value) in target.iter_mut().zip(&source[first..]) {
                    *sum = sum.add_mul(weight, value);
                }
            } else {
                let values = source[first..].iter().step_by(g.window.strides[outer]);
                for (sum, &value) in target.iter_mut().zip(values) {
                    *sum = sum.add_mul(weight, value);
                }
            }
        }
        advance(&mut tap, &g.window.kernel);
    }
}

/// Where the input row begins that tap `tap` of output row `at` reads; `None` in the padding.
fn row_start(g: &ConvGeometry, at: &[usize], tap: &[usize]) -> Option<usize> {
    let mut start = 0;
    for (axis, &output) in at.iter().enumerate() {
        let shifted = output * g.window.strides[axis] + tap[axis] * g.window.dilations[axis];
        let position = shifted.checked_sub(g.window.pads_begin[axis])?;
        if position >= g.input[axis] {
            return None;
        }
        start = start * g.input[axis] + position;
    }
    Some(start * g.input[at.len()])
}

fn infer_conv(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = float_dtype(ctx)?;
    let (Some(x), Some(w)) = (ctx.dims(0), ctx.dims(1)) else {
        let rank = ctx.rank(0).or(ctx.rank(1));
        return Ok(vec![InferCtx::make(dtype, rank.map(|rank| vec![Dim::Unknown; rank]))]);
    };
    at_least_rank(0, x.len(), 2)?;
    if w.len() != x.len() {
        return Err(OpError::input(1, format!("rank {}", x.len()), format!("rank {}", w.len())));
    }
    if let (Some(x), Some(w)) = (ctx.ty(0)?.known_shape(), ctx.ty(1)?.known_shape()) {
        let geometry = ConvGeometry::resolve(ctx.attrs(), &x, &w)?;
        let dims = geometry.output_shape().into_iter().map(Dim::Known).collect();
        return Ok(vec![InferCtx::make(dtype, Some(dims))]);
    }
    let mut dims = vec![x[0].clone(), w[0].clone()];
    match known_kernel(ctx, &w[2..])? {
        Some(kernel) => dims.extend(Window::output_dims(ctx.attrs(), &x[2..], &kernel)?),
        None => dims.resize(x.len(), Dim::Unknown),
    }
    Ok(vec![InferCtx::make(dtype, Some(dims))])
}

/// The taps of a convolution, from the type of its weights or from `kernel_shape`.
pub(crate) fn known_kernel(ctx: &InferCtx<'_>, weights: &[Dim]) -> Result<Option<Axes>, OpError> {
    if let Some(kernel) = weights.iter().map(Dim::known).collect() {
        return Ok(Some(kernel));
    }
    if ctx.attrs().has("kernel_shape") {
        let kernel = crate::window::kernel_shape(ctx.attrs())?;
        return Ok((kernel.len() == weights.len()).then_some(kernel));
    }
    Ok(None)
}

/// The dtype of the first input, which must be a float, and that of the second, if known.
pub(crate) fn float_dtype(ctx: &InferCtx<'_>) -> Result<Option<DType>, OpError> {
    for index in 0..2 {
        if let Some(dtype) = ctx.dtype_opt(index)
            && !dtype.is_float()
        {
            return Err(OpError::input(index, "floats", dtype.name()));
        }
    }
    Ok(ctx.dtype_opt(0).or(ctx.dtype_opt(1)))
}

/// One multiply-add for each output element and weight of its channel.
pub(crate) fn conv_work(ctx: &InferCtx<'_>, outputs: &[Type]) -> Work {
    let weights = ctx.ty_opt(1).and_then(Type::known_shape).unwrap_or_default();
    let per_output: f64 = weights.iter().skip(1).map(|&extent| extent as f64).product();
    Work::macs(outputs.first().map_or(0.0, elements) * per_output)
}

#[cfg(test)]
mod tests {
    use hetra_ir::Node;

    use super::*;
    use crate::case::{floats, iota, node, run};

    #[test]
    fn pads_strides_and_groups() {
        let x = iota(&[1, 1, 5, 5]);
        let ones = floats(&[1, 1, 3, 3], &[1.0; 9]);
        let same = node("Conv", 1).with("auto_pad", "SAME_LOWER").with("strides", vec![2, 2]);
        let y = run(same, &[x.clone(), ones.clone()]).unwrap().remove(0);
        assert_eq!(y.shape(), [1, 1, 3, 3]);
        let wanted = [12.0, 27.0, 24.0, 63.0, 108.0, 81.0, 72.0, 117.0, 84.0];
        assert_eq!(y.as_slice::<f32>().unwrap(), wanted);

        let grouped = node("Conv", 1).with("group", 2);
        let w = floats(&[2, 1, 1], &[2.0, 3.0]);
        let y = run(grouped, &[iota(&[1, 2, 2]), w, floats(&[2], &[0.5, 0.0])]).unwrap().remove(0);
        assert_eq!(y.as_slice::<f32>().unwrap(), [0.5, 2.5, 6.0, 9.0]);
    }

    #[test]
    fn fused_adds_the_residual_before_the_activation() {
        let fused = node("com.microsoft.FusedConv", 1).with("activation", "Relu");
        let inputs = [
            floats(&[1, 1, 3], &[1.0, -2.0, 3.0]),
            floats(&[1, 1, 1], &[1.0]),
            None,
            floats(&[1, 1, 3], &[-4.0, 4.0, 0.0]),
        ];
        let y = run(fused, &inputs).unwrap().remove(0);
        assert_eq!(y.as_slice::<f32>().unwrap(), [0.0, 2.0, 3.0]);
    }

    #[test]
    fn dilation_in_three_axes_and_halves() {
        let x = iota(&[1, 1, 3, 3, 3]);
        let w = floats(&[1, 1, 2, 2, 2], &[1.0; 8]);
        let dilated = node("Conv", 1).with("dilations", vec![2, 2, 2]);
        let y = run(dilated, &[x.clone(), w.clone()]).unwrap().remove(0);
        assert_eq!(y.as_slice::<f32>().unwrap(), [104.0]);
        let half = |t: Option<Tensor>| Some(narrow(t.unwrap(), DType::F16).unwrap());
        let y = run(node("Conv", 1), &[half(x), half(w)]).unwrap().remove(0);
        assert_eq!(hetra_tensor::to_f64(&y).unwrap()[0], 52.0);
    }

    #[test]
    fn wrong_arguments_are_errors() {
        let check = |node: Node, x: &[usize], w: &[usize]| {
            assert!(run(node.clone(), &[iota(x), iota(w)]).is_err(), "{node:?} {x:?} {w:?}");
        };
        check(node("Conv", 1), &[1, 2, 3], &[1, 1, 1]);
        check(node("Conv", 1), &[1], &[1]);
        check(node("Conv", 1), &[1, 1, 3], &[1, 1, 1, 1]);
        check(node("Conv", 1), &[1, 1, 3], &[1, 1, 5]);
        check(node("Conv", 1).with("group", 0), &[1, 1, 3], &[1, 1, 1]);
        check(node("Conv", 1).with("group", -1), &[1, 1, 3], &[1, 1, 1]);
        check(node("Conv", 1).with("pads", vec![i64::MAX, 0]), &[1, 1, 3], &[1, 1, 1]);
    }
}
