//! Sliding windows over quantised tensors: ConvInteger, QLinearConv, QLinearAveragePool.

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::context::{EvalCtx, InferCtx};
use crate::conv::{ConvGeometry, conv_work, known_kernel};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::error::OpError;
use crate::quant_elementwise::{quantized, real};
use crate::quant_form::{integers, pack, round_to, scales, single_params, zero_points};
use crate::window::{Window, advance, kernel_shape};
use crate::work::Work;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&CONV_INTEGER, &QLINEAR_CONV, &AVERAGE_POOL];

static CONV_INTEGER: OpDef = OpDef {
    name: "ConvInteger",
    doc: "Convolution of 8-bit integers less their zero points, in 32 bits.",
    onnx: &[onnx("", "ConvInteger", 10)],
    inputs: Arity::between(2, 4),
    kind: Kind::Heavy,
    infer: |ctx| infer_conv(ctx, 1, Some(DType::I32)),
    work: conv_work,
    eval: |ctx| {
        let (x, w) = (ctx.tensor(0)?, ctx.tensor(1)?);
        let zeros = [zero_points(ctx, 2, Some(x.dtype()))?, zero_points(ctx, 3, Some(w.dtype()))?];
        Ok(vec![accumulate(ctx, [(x, 0), (w, 1)], zeros, None)?.into()])
    },
    ..OpDef::DEFAULT
};

static QLINEAR_CONV: OpDef = OpDef {
    name: "QLinearConv",
    doc: "Convolution of a quantised tensor with quantised weights, quantised again.",
    onnx: &[onnx("", "QLinearConv", 10), onnx("com.microsoft", "QLinearConv", 1)],
    inputs: Arity::between(8, 9),
    kind: Kind::Heavy,
    infer: |ctx| infer_conv(ctx, 3, ctx.dtype_opt(7)),
    work: |ctx, outputs| {
        let weights = ctx.ty_opt(3).and_then(Type::known_shape).unwrap_or_default();
        let each: f64 = weights.iter().skip(1).map(|&extent| extent as f64).product();
        Work::macs(outputs.first().map_or(0.0, crate::work::elements) * each)
    },
    eval: eval_qlinear_conv,
    ..OpDef::DEFAULT
};

static AVERAGE_POOL: OpDef = OpDef {
    name: "com.microsoft.QLinearAveragePool",
    doc: "Mean of each window of a quantised tensor.",
    onnx: &[onnx("com.microsoft", "QLinearAveragePool", 1)],
    inputs: Arity::between(4, 5),
    kind: Kind::Reduce,
    infer: infer_pool,
    work: |ctx, outputs| {
        let taps = kernel_shape(ctx.attrs()).unwrap_or_default();
        let taps: f64 = taps.iter().map(|&extent| extent as f64).product();
        Work::ops(outputs.first().map_or(0.0, crate::work::elements) * taps)
    },
    eval: eval_pool,
    ..OpDef::DEFAULT
};

fn channels_last(attrs: &Attrs) -> Result<bool, OpError> {
    Ok(attrs.flag_or("channels_last", false)?)
}

/// Axes that bring the channels from the end to place 1, or back.
fn turn(rank: usize, to_first: bool) -> Vec<usize> {
    if to_first {
        [0, rank - 1].into_iter().chain(1..rank - 1).collect()
    } else {
        [0].into_iter().chain(2..rank).chain([1]).collect()
    }
}

/// With the channels in place 1 (`to_first`) or at the end.
fn turned(tensor: &Tensor, to_first: bool) -> Result<Tensor, OpError> {
    if tensor.rank() < 2 {
        return Err(OpError::input(0, "2 axes or more", tensor.describe()));
    }
    Ok(tensor.view().permute(&turn(tensor.rank(), to_first))?.to_tensor()?)
}

/// The convolution in i32 of tensor and weights, each with its input index.
fn accumulate(
    ctx: &EvalCtx<'_>,
    [(x, x_index), (w, w_index)]: [(&Tensor, usize); 2],
    [x_zeros, w_zeros]: [Vec<i32>; 2],
    bias: Option<&[i32]>,
) -> Result<Tensor, OpError> {
    let geometry = ConvGeometry::resolve(ctx.attrs(), x.shape(), w.shape())?;
    let (mut x, mut w) = (integers(x, x_index)?, integers(w, w_index)?);
    if x_zeros.len() > 1 {
        return Err(OpError::input(x_index, "one zero point", x_zeros.len().to_string()));
    }
    let zero = x_zeros.first().map_or(0, |zero| *zero);
    // Padding stands for the zero point, so that it adds nothing once that is subtracted.
    x.as_mut_slice::<i32>()?.iter_mut().for_each(|code| *code -= zero);
    let channels = geometry.channels_out;
    if w_zeros.len() > 1 && w_zeros.len() != channels {
        let wanted = format!("zero points of {channels} channels");
        return Err(OpError::input(w_index, wanted, w_zeros.len().to_string()));
    }
    let each = (w.len() / channels.max(1)).max(1);
    for (channel, taps) in w.as_mut_slice::<i32>()?.chunks_exact_mut(each).enumerate() {
        let zero = if w_zeros.len() > 1 { Some(&w_zeros[channel]) } else { w_zeros.first() };
        let zero = zero.copied().unwrap_or(0);
        taps.iter_mut().for_each(|code| *code -= zero);
    }
    let mut out = Tensor::zeros(DType::I32, &geometry.output_shape())?;
    convolve(&geometry, x.as_slice()?, w.as_slice()?, bias, out.as_mut_slice::<i32>()?);
    Ok(out)
}

/// x is (N, C, spatial), w is (M, C/groups, taps), out is (N, M, spatial). What one tap reads in
/// one input channel is gathered once and added to all output channels of the group.
fn convolve(g: &ConvGeometry, x: &[i32], w: &[i32], bias: Option<&[i32]>, out: &mut [i32]) {
    let (plane_in, plane_out) = (g.input.iter().product::<usize>(), g.output.iter().product());
    let taps: usize = g.window.kernel.iter().product();
    let (group_in, group_out) = (g.group_in(), g.group_out());
    if out.is_empty() {
        return;
    }
    for (index, plane) in out.chunks_exact_mut(plane_out).enumerate() {
        plane.fill(bias.map_or(0, |bias| bias[index % g.channels_out]));
    }
    let mut line = vec![0; plane_out];
    for channel in 0..g.batch * g.channels_in {
        let (image, place) = (channel / g.channels_in, channel % g.channels_in);
        let first = place / group_in * group_out;
        let source = &x[channel * plane_in..][..plane_in];
        let mut tap = vec![0; g.window.rank()];
        for flat_tap in 0..taps {
            gather(g, source, &tap, &mut line);
            advance(&mut tap, &g.window.kernel);
            for m in first..first + group_out {
                let weight = w[(m * group_in + place % group_in) * taps + flat_tap];
                let sums = &mut out[(image * g.channels_out + m) * plane_out..][..plane_out];
                for (sum, &value) in sums.iter_mut().zip(&line) {
                    *sum = sum.wrapping_add(weight.wrapping_mul(value));
                }
            }
        }
    }
}

/// What `tap` reads for each output place; 0 in the padding.
fn gather(g: &ConvGeometry, source: &[i32], tap: &[usize], line: &mut [i32]) {
    let axes = 0..g.window.rank();
    let inside: Vec<_> = axes
        .clone()
        .map(|axis| g.window.outputs_inside(axis, tap[axis], g.input[axis], g.output[axis]))
        .collect();
    let mut at = vec![0; g.window.rank()];
    for slot in line {
        let reads = axes.clone().all(|axis| inside[axis].contains(&at[axis]));
        *slot = if reads {
            let step = |place, axis: usize| {
                place * g.input[axis] + g.window.position(axis, at[axis], tap[axis])
            };
            source[axes.clone().fold(0, step)]
        } else {
            0
        };
        advance(&mut at, &g.output);
    }
}

fn eval_qlinear_conv(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (x, w) = (ctx.tensor(0)?, ctx.tensor(3)?);
    let last = channels_last(ctx.attrs())?;
    let x = if last { turned(x, true)? } else { x.clone() };
    let channels = w.shape().first().copied().unwrap_or(0);
    let of_x = single_params(ctx, 1, x.dtype())?;
    let of_w = scales(ctx, 4)?;
    if of_w.len() != 1 && of_w.len() != channels {
        let wanted = format!("one scale or {channels}");
        return Err(OpError::input(4, wanted, of_w.len().to_string()));
    }
    let bias = ctx.tensor_opt(8).map(|tensor| integers(tensor, 8)).transpose()?;
    if let Some(bias) = &bias {
        crate::dense::expect_shape(bias, 8, &[channels])?;
    }
    let bias = bias.as_ref().map(Tensor::as_slice::<i32>).transpose()?;
    let w_zeros = zero_points(ctx, 5, Some(w.dtype()))?;
    let acc = accumulate(ctx, [(&x, 0), (w, 3)], [of_x.zeros, w_zeros], bias)?;
    let dtype = ctx.tensor(7)?.dtype();
    let of_y = single_params(ctx, 6, dtype)?;
    let zero = of_y.zeros.first().map_or(0, |zero| *zero);
    let plane: usize = acc.shape()[2..].iter().product();
    let mut codes = acc.as_slice::<i32>()?.to_vec();
    for (index, values) in codes.chunks_exact_mut(plane.max(1)).enumerate() {
        let channel = if of_w.len() == 1 { 0 } else { index % channels };
        let scale = of_x.scales[0] * of_w[channel] / of_y.scales[0];
        values.iter_mut().for_each(|v| *v = round_to(*v as f32 * scale, zero, dtype));
    }
    let y = pack(dtype, acc.shape(), &codes)?;
    Ok(vec![if last { turned(&y, false)? } else { y }.into()])
}

/// Dims with the channels in place 1, or back at the end.
fn turned_dims(dims: &[Dim], to_first: bool) -> Result<Vec<Dim>, OpError> {
    if dims.len() < 2 {
        return Err(OpError::input(0, "2 axes or more", format!("rank {}", dims.len())));
    }
    Ok(turn(dims.len(), to_first).iter().map(|&axis| dims[axis].clone()).collect())
}

fn infer_conv(
    ctx: &InferCtx<'_>,
    weights: usize,
    dtype: Option<DType>,
) -> Result<Vec<Type>, OpError> {
    let (Some(x), Some(w)) = (ctx.dims(0), ctx.dims(weights)) else {
        return Ok(vec![InferCtx::make(dtype, None)]);
    };
    if w.len() != x.len() || x.len() < 2 {
        let wanted = format!("rank {}", x.len().max(2));
        return Err(OpError::input(weights, wanted, format!("rank {}", w.len())));
    }
    let last = channels_last(ctx.attrs())?;
    let x = if last { turned_dims(x, true)? } else { x.to_vec() };
    let mut dims = vec![x[0].clone(), w[0].clone()];
    match known_kernel(ctx, &w[2..])? {
        Some(kernel) => dims.extend(Window::output_dims(ctx.attrs(), &x[2..], &kernel)?),
        None => dims.resize(x.len(), Dim::Unknown),
    }
    let dims = if last { turned_dims(&dims, false)? } else { dims };
    Ok(vec![InferCtx::make(dtype, Some(dims))])
}

fn infer_pool(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(4).or(ctx.dtype_opt(0));
    let Some(x) = ctx.dims(0) else { return Ok(vec![InferCtx::make(dtype, None)]) };
    let last = channels_last(ctx.attrs())?;
    let x = if last { turned_dims(x, true)? } else { x.to_vec() };
    let kernel = kernel_shape(ctx.attrs())?;
    if x.len() != kernel.len() + 2 {
        let wanted = format!("{} axes", kernel.len() + 2);
        return Err(OpError::input(0, wanted, x.len().to_string()));
    }
    let mut dims = x[..2].to_vec();
    dims.extend(Window::output_dims(ctx.attrs(), &x[2..], &kernel)?);
    let dims = if last { turned_dims(&dims, false)? } else { dims };
    Ok(vec![InferCtx::make(dtype, Some(dims))])
}

fn eval_pool(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = Tensor::from_slice(ctx.tensor(0)?.shape(), &real(ctx, 0)?)?;
    let last = channels_last(ctx.attrs())?;
    let x = if last { turned(&x, true)? } else { x };
    let kernel = kernel_shape(ctx.attrs())?;
    if x.rank() != kernel.len() + 2 {
        return Err(OpError::input(0, format!("{} axes", kernel.len() + 2), x.describe()));
    }
    let input = &x.shape()[2..];
    let window = Window::of(ctx.attrs(), input, &kernel)?;
    let output = window.output_extents(input)?;
    let padded = ctx.attrs().flag_or("count_include_pad", false)?;
    let mut shape = x.shape()[..2].to_vec();
    shape.extend(&output);
    let mut means = crate::dense::zeros::<f32>(&shape)?;
    let (plane_in, plane_out) = (input.iter().product::<usize>(), output.iter().product::<usize>());
    let values = x.as_slice::<f32>()?;
    let mut at = vec![0; output.len()];
    for (index, slot) in means.iter_mut().enumerate() {
        let plane = &values[index / plane_out * plane_in..][..plane_in];
        *slot = window_mean(&window, input, &at, plane, padded);
        advance(&mut at, &output);
    }
    let means = Tensor::from_slice(&shape, &means)?;
    let means = if last { turned(&means, false)? } else { means };
    quantized(ctx, 3, means.shape(), means.as_slice()?)
}

/// Mean of the window at `at`; 0 of a window that lies in the padding.
fn window_mean(window: &Window, input: &[usize], at: &[usize], plane: &[f32], padded: bool) -> f32 {
    let axes = 0..input.len();
    let taps: Vec<_> =
        axes.clone().map(|axis| window.taps_inside(axis, at[axis], input[axis])).collect();
    let extents: Vec<usize> = taps.iter().map(ExactSizeIterator::len).collect();
    let inside: usize = extents.iter().product();
    let count = match padded {
        true => axes
            .clone()
            .map(|axis| window.taps_padded(axis, at[axis], input[axis]).len())
            .product::<usize>(),
        false => inside,
    };
    let mut sum = 0f32;
    let mut tap = vec![0; input.len()];
    for _ in 0..inside {
        let place = axes.clone().fold(0, |place, axis| {
            let position = window.position(axis, at[axis], taps[axis].start + tap[axis]);
            place * input[axis] + position
        });
        sum += plane[place];
        advance(&mut tap, &extents);
    }
    if count == 0 { 0.0 } else { sum / count as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    fn bytes(shape: &[usize], values: &[u8]) -> Tensor {
        Tensor::from_slice(shape, values).unwrap()
    }

    fn conv() -> Case {
        let x: Vec<u8> = (0..32).map(|at| (at * 29 % 256) as u8).collect();
        let w: Vec<i8> = (0..16).map(|at| (at * 23 % 100) as i8 - 50).collect();
        let case = Case::new("QLinearConv").tensor(&bytes(&[1, 2, 4, 4], &x));
        let case = case.tensor(&Tensor::scalar(0.02f32)).tensor(&Tensor::scalar(120u8));
        let case = case.tensor(&Tensor::from_slice(&[2, 2, 2, 2], &w).unwrap());
        let case = case.tensor(&Tensor::vector(&[0.01f32, 0.03]));
        let case = case.tensor(&Tensor::vector(&[0i8, 0]));
        let case = case.tensor(&Tensor::scalar(0.05f32)).tensor(&Tensor::scalar(100u8));
        let case = case.tensor(&Tensor::vector(&[1000i32, -200]));
        case.attr("pads", vec![1i64, 0, 0, 1]).attr("strides", vec![2i64, 2])
    }

    // The numbers are those of onnxruntime 1.32.
    #[test]
    fn as_onnxruntime() {
        check(&conv(), 0, &[1, 2, 2, 2], &CONV);
        let x: Vec<u8> = (0..16).map(|at| (at * 29 % 256) as u8).collect();
        let pool = Case::new("com.microsoft.QLinearAveragePool");
        let pool = pool.tensor(&bytes(&[1, 1, 4, 4], &x)).tensor(&Tensor::scalar(0.02f32));
        let pool = pool.tensor(&Tensor::scalar(120u8)).tensor(&Tensor::scalar(0.03f32));
        let pool = pool.tensor(&Tensor::scalar(110u8)).attr("kernel_shape", vec![3i64, 3]);
        let pool = pool.attr("pads", vec![1i64; 4]).attr("strides", vec![2i64, 2]);
        check(&pool, 0, &[1, 1, 2, 2], &POOL);
        check(&pool.attr("count_include_pad", 1i64), 0, &[1, 1, 2, 2], &POOL_PADDED);
    }

    #[test]
    fn channels_last_is_a_turn() {
        let plain = conv().eval().unwrap();
        let plain = turned(plain[0].as_tensor().unwrap(), false).unwrap();
        let x: Vec<u8> = (0..32).map(|at| (at * 29 % 256) as u8).collect();
        let x = turned(&bytes(&[1, 2, 4, 4], &x), false).unwrap();
        let other = conv().with_input(0, &x).attr("channels_last", 1i64).eval().unwrap();
        assert_eq!(other[0], Value::from(plain));
    }

    #[test]
    fn faults() {
        let good = conv();
        assert!(good.with_input(4, &Tensor::vector(&[1f32; 3])).eval().is_err());
        assert!(good.with_input(5, &Tensor::vector(&[1i8; 3])).eval().is_err());
        assert!(good.with_input(8, &Tensor::vector(&[1i32; 3])).eval().is_err());
        assert!(good.with_input(0, &bytes(&[4], &[1; 4])).eval().is_err());
        assert!(good.attr("group", 2i64).eval().is_err());
    }

    const CONV: [f64; 8] = [100.0, 104.0, 87.0, 67.0, 87.0, 153.0, 0.0, 83.0];
    const POOL: [f64; 4] = [78.0, 107.0, 109.0, 110.0];
    const POOL_PADDED: [f64; 4] = [96.0, 108.0, 109.0, 110.0];
}
