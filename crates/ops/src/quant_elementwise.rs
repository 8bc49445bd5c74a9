//! Quantised operators of com.microsoft that work on real values element by element or by row:
//! each dequantises, computes in f32 and quantises again.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value, broadcast};

use crate::attention_core::softmax;
use crate::context::{EvalCtx, InferCtx, broadcast_dims, infer_same, resolve_axis};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::error::OpError;
use crate::quant_form::{integers, pack, round_to, single_params};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] =
    &[&ADD, &MUL, &SIGMOID, &LEAKY_RELU, &SOFTMAX, &CONCAT, &GLOBAL_AVERAGE, &CODE_TABLE];

const BINARY: OpDef = OpDef {
    inputs: Arity::between(7, 8),
    infer: |ctx| {
        let dims = broadcast_dims(ctx.dims(0), ctx.dims(3))?;
        Ok(vec![InferCtx::make(ctx.dtype_opt(0), dims)])
    },
    ..OpDef::DEFAULT
};

static ADD: OpDef = OpDef {
    name: "com.microsoft.QLinearAdd",
    doc: "Sum of quantised tensors, with broadcasting.",
    onnx: &[onnx("com.microsoft", "QLinearAdd", 1)],
    eval: eval_add,
    ..BINARY
};

static MUL: OpDef = OpDef {
    name: "com.microsoft.QLinearMul",
    doc: "Product of quantised tensors, with broadcasting.",
    onnx: &[onnx("com.microsoft", "QLinearMul", 1)],
    eval: eval_mul,
    ..BINARY
};

const UNARY: OpDef = OpDef { inputs: Arity::between(4, 5), infer: infer_same, ..OpDef::DEFAULT };

static SIGMOID: OpDef = OpDef {
    name: "com.microsoft.QLinearSigmoid",
    doc: "Logistic function of a quantised tensor.",
    onnx: &[onnx("com.microsoft", "QLinearSigmoid", 1)],
    eval: |ctx| unary(ctx, |x| 1.0 / (1.0 + (-x).exp())),
    ..UNARY
};

static LEAKY_RELU: OpDef = OpDef {
    name: "com.microsoft.QLinearLeakyRelu",
    doc: "Leaky rectifier of a quantised tensor.",
    onnx: &[onnx("com.microsoft", "QLinearLeakyRelu", 1)],
    eval: |ctx| {
        let alpha = ctx.attrs().float_or("alpha", 0.01)?;
        unary(ctx, |x| if x >= 0.0 { x } else { alpha * x })
    },
    ..UNARY
};

static SOFTMAX: OpDef = OpDef {
    name: "com.microsoft.QLinearSoftmax",
    doc: "Softmax of a quantised tensor along an axis, or all axes from it on before opset 13.",
    onnx: &[onnx("com.microsoft", "QLinearSoftmax", 1)],
    inputs: Arity::exactly(5),
    infer: infer_same,
    eval: eval_softmax,
    ..OpDef::DEFAULT
};

static CONCAT: OpDef = OpDef {
    name: "com.microsoft.QLinearConcat",
    doc: "Joins quantised tensors along an axis, brought to one scale.",
    onnx: &[onnx("com.microsoft", "QLinearConcat", 1)],
    inputs: Arity::at_least(5),
    kind: Kind::Opaque,
    infer: infer_concat,
    eval: eval_concat,
    ..OpDef::DEFAULT
};

static GLOBAL_AVERAGE: OpDef = OpDef {
    name: "com.microsoft.QLinearGlobalAveragePool",
    doc: "Mean of each channel of a quantised tensor.",
    onnx: &[onnx("com.microsoft", "QLinearGlobalAveragePool", 1)],
    inputs: Arity::exactly(5),
    kind: Kind::Reduce,
    infer: infer_global,
    work: crate::work::per_input_element,
    eval: eval_global,
    ..OpDef::DEFAULT
};

static CODE_TABLE: OpDef = OpDef {
    name: "hetra.CodeTable",
    doc: "What a table of 256 entries has for each 8-bit code, read as an unsigned number.",
    inputs: Arity::exactly(2),
    infer: |ctx| {
        let dims = ctx.dims(0).map(<[Dim]>::to_vec);
        Ok(vec![InferCtx::make(ctx.dtype_opt(1), dims)])
    },
    eval: eval_table,
    ..OpDef::DEFAULT
};

fn eval_table(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (x, table) = (ctx.tensor(0)?, ctx.tensor(1)?);
    for (index, tensor) in [(0, x), (1, table)] {
        if !matches!(tensor.dtype(), DType::U8 | DType::I8) {
            return Err(OpError::input(index, "8-bit codes", tensor.describe()));
        }
    }
    if table.shape() != [256] {
        return Err(OpError::input(1, "256 entries", table.describe()));
    }
    let mut y = Tensor::zeros(table.dtype(), x.shape())?;
    for (y, &code) in y.bytes_mut()?.iter_mut().zip(x.bytes()) {
        *y = table.bytes()[usize::from(code)];
    }
    Ok(vec![y.into()])
}

/// The real values of the quantised tensor at `index`, whose scale and zero point follow it.
pub(crate) fn real(ctx: &EvalCtx<'_>, index: usize) -> Result<Vec<f32>, OpError> {
    let tensor = ctx.tensor(index)?;
    let codes = integers(tensor, index)?;
    let params = single_params(ctx, index + 1, tensor.dtype())?;
    Ok(params.dequantize(codes.as_slice()?, tensor.shape()))
}

/// Real values quantised by the scale and zero point at `index` and after.
pub(crate) fn quantized(
    ctx: &EvalCtx<'_>,
    index: usize,
    shape: &[usize],
    values: &[f32],
) -> Result<Vec<Value>, OpError> {
    let dtype = match ctx.tensor_opt(index + 1) {
        Some(zero) => zero.dtype(),
        None => ctx.tensor(0)?.dtype(),
    };
    let params = single_params(ctx, index, dtype)?;
    let codes = params.quantize(values, shape, dtype);
    Ok(vec![pack(dtype, shape, &codes)?.into()])
}

/// The sum of two quantised numbers as one affine function of their codes.
///
/// Rounding to the output's steps makes the order of the float operations visible. This is the
/// order of onnxruntime, so that both give the same codes: the zero points go into one constant,
/// then a fused multiply-add for each code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantSum {
    /// Step of the first operand over that of the output.
    pub ratio_a: f32,
    /// Step of the second operand over that of the output.
    pub ratio_b: f32,
    /// The sum of two codes of 0.
    pub fixed: f32,
}

impl QuantSum {
    /// From scale and zero point of both operands and the output.
    pub fn new(a: (f32, i32), b: (f32, i32), y: (f32, i32)) -> QuantSum {
        let (ratio_a, ratio_b) = (a.0 / y.0, b.0 / y.0);
        let fixed = y.1 as f32 - ratio_b.mul_add(b.1 as f32, ratio_a * a.1 as f32);
        QuantSum { ratio_a, ratio_b, fixed }
    }

    /// The sum of two codes, before it is rounded and saturated.
    #[inline]
    pub fn apply(self, a: f32, b: f32) -> f32 {
        self.ratio_b.mul_add(b, self.ratio_a.mul_add(a, self.fixed))
    }
}

/// The product of two quantised numbers from their codes, in the order of onnxruntime.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantProduct {
    /// Product of the steps of the operands over that of the output.
    pub factor: f32,
    /// Zero points of the operands and the output.
    pub zeros: [f32; 3],
}

impl QuantProduct {
    /// From scale and zero point of both operands and the output.
    pub fn new(a: (f32, i32), b: (f32, i32), y: (f32, i32)) -> QuantProduct {
        QuantProduct { factor: a.0 * b.0 / y.0, zeros: [a.1, b.1, y.1].map(|zero| zero as f32) }
    }

    /// The product of two codes, before it is rounded and saturated.
    #[inline]
    pub fn apply(self, a: f32, b: f32) -> f32 {
        let [za, zb, zy] = self.zeros;
        ((a - za) * (b - zb)) * self.factor + zy
    }
}

/// Scale and zero point at `index` and `index + 1`.
fn params(ctx: &EvalCtx<'_>, index: usize) -> Result<(f32, i32), OpError> {
    let params = single_params(ctx, index, ctx.tensor(0)?.dtype())?;
    Ok((params.scales[0], params.zeros.first().copied().unwrap_or(0)))
}

fn eval_add(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let sum = QuantSum::new(params(ctx, 1)?, params(ctx, 4)?, params(ctx, 6)?);
    on_codes(ctx, |a, b| sum.apply(a, b))
}

fn eval_mul(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let product = QuantProduct::new(params(ctx, 1)?, params(ctx, 4)?, params(ctx, 6)?);
    on_codes(ctx, |a, b| product.apply(a, b))
}

/// Rounds and saturates a function of the codes of two broadcast tensors.
fn on_codes(ctx: &EvalCtx<'_>, f: impl Fn(f32, f32) -> f32) -> Result<Vec<Value>, OpError> {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(3)?);
    let dtype = a.dtype();
    let shape = broadcast(a.shape(), b.shape())?;
    let spread = |tensor: &Tensor, index: usize| -> Result<Vec<i32>, OpError> {
        Ok(integers(tensor, index)?.view().broadcast_to(&shape)?.to_vec()?)
    };
    let (left, right) = (spread(a, 0)?, spread(b, 3)?);
    let code = |(&x, &y): (&i32, &i32)| round_to(f(x as f32, y as f32), 0, dtype);
    let codes: Vec<i32> = left.iter().zip(&right).map(code).collect();
    Ok(vec![pack(dtype, &shape, &codes)?.into()])
}

fn unary(ctx: &EvalCtx<'_>, f: impl Fn(f32) -> f32) -> Result<Vec<Value>, OpError> {
    let values: Vec<f32> = real(ctx, 0)?.into_iter().map(f).collect();
    quantized(ctx, 3, ctx.tensor(0)?.shape(), &values)
}

fn eval_softmax(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let shape = ctx.tensor(0)?.shape();
    let axis = resolve_axis(ctx.attrs().int_or("axis", -1)?, shape.len())?;
    let mut values = real(ctx, 0)?;
    let (extent, inner) = match *ctx.attrs().int("opset")? {
        ..13 => (shape[axis..].iter().product::<usize>(), 1),
        _ => (shape[axis], shape[axis + 1..].iter().product::<usize>()),
    };
    let mut lane = vec![0f32; extent];
    for block in values.chunks_exact_mut((extent * inner).max(1)) {
        for at in 0..inner {
            lane.iter_mut().enumerate().for_each(|(i, slot)| *slot = block[i * inner + at]);
            softmax(&mut lane);
            lane.iter().enumerate().for_each(|(i, value)| block[i * inner + at] = *value);
        }
    }
    // A whole number of steps makes 1, as in onnxruntime: 1/255 in f32 would give one step less.
    let dtype = ctx.tensor(0)?.dtype();
    let (scale, zero) = params(ctx, 3)?;
    let steps = (1.0 / scale).floor();
    let codes: Vec<i32> = values.iter().map(|v| round_to(v * steps, zero, dtype)).collect();
    Ok(vec![pack(dtype, shape, &codes)?.into()])
}

/// First input of each joined tensor.
fn joined(count: usize) -> Result<impl Iterator<Item = usize> + Clone, OpError> {
    if count < 5 || !(count - 2).is_multiple_of(3) {
        return Err(OpError::invalid("wanted a tensor, a scale and a zero point of each part"));
    }
    Ok((2..count).step_by(3))
}

fn infer_concat(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let parts = joined(ctx.len())?;
    let Some(first) = ctx.dims(2) else {
        return Ok(vec![InferCtx::make(ctx.dtype_opt(1), None)]);
    };
    let axis = resolve_axis(*ctx.attrs().int("axis")?, first.len())?;
    let mut dims = first.to_vec();
    let mut total = Some(0usize);
    for part in parts {
        let extent = ctx.dims(part).and_then(|dims| dims.get(axis)?.known());
        total = total.zip(extent).and_then(|(total, extent)| total.checked_add(extent));
    }
    dims[axis] = total.map_or(Dim::Unknown, Dim::Known);
    Ok(vec![InferCtx::make(ctx.dtype_opt(1), Some(dims))])
}

fn eval_concat(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let parts = joined(ctx.inputs.len())?;
    let dtype = ctx.tensor(1)?.dtype();
    let to = single_params(ctx, 0, dtype)?;
    let mut shape = ctx.tensor(2)?.shape().to_vec();
    let axis = resolve_axis(*ctx.attrs().int("axis")?, shape.len())?;
    shape[axis] = 0;
    let mut codes = Vec::new();
    for part in parts {
        let tensor = ctx.tensor(part)?;
        let mut wanted = shape.clone();
        wanted[axis] = tensor.shape().get(axis).copied().unwrap_or(0);
        crate::dense::expect_shape(tensor, part, &wanted)?;
        let fault = || OpError::invalid("the joined axis is too long");
        shape[axis] = shape[axis].checked_add(wanted[axis]).ok_or_else(fault)?;
        let from = single_params(ctx, part + 1, tensor.dtype())?;
        let values = integers(tensor, part)?;
        let same = tensor.dtype() == dtype && from.scales == to.scales && from.zeros == to.zeros;
        let values = values.as_slice::<i32>()?;
        codes.push(if same {
            values.to_vec()
        } else {
            to.quantize(&from.dequantize(values, &wanted), &wanted, dtype)
        });
    }
    let mut out = Vec::new();
    for row in 0..shape[..axis].iter().product() {
        for part in &codes {
            // Every part has the same number of rows before the axis.
            let each = part.len() / shape[..axis].iter().product::<usize>().max(1);
            out.extend_from_slice(&part[row * each..][..each]);
        }
    }
    Ok(vec![pack(dtype, &shape, &out)?.into()])
}

/// Axis of the channels.
fn channel_axis(last: bool, rank: usize) -> Result<usize, OpError> {
    match rank {
        0..3 => Err(OpError::input(0, "3 axes or more", format!("rank {rank}"))),
        _ => Ok(if last { rank - 1 } else { 1 }),
    }
}

fn infer_global(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(4).or(ctx.dtype_opt(0));
    let Some(dims) = ctx.dims(0) else { return Ok(vec![InferCtx::make(dtype, None)]) };
    let axis = channel_axis(ctx.attrs().flag_or("channels_last", false)?, dims.len())?;
    let keep = |(at, dim): (usize, &Dim)| {
        if at == 0 || at == axis { dim.clone() } else { Dim::Known(1) }
    };
    Ok(vec![InferCtx::make(dtype, Some(dims.iter().enumerate().map(keep).collect()))])
}

fn eval_global(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let codes = integers(x, 0)?;
    let axis = channel_axis(ctx.attrs().flag_or("channels_last", false)?, x.rank())?;
    let (batch, channels) = (x.shape()[0], x.shape()[axis]);
    let mut shape = vec![1; x.rank()];
    (shape[0], shape[axis]) = (batch, channels);
    let mut sums = vec![0i64; hetra_tensor::element_count(&[batch, channels])?];
    let each = codes.len() / (batch * channels).max(1);
    for (at, &code) in codes.as_slice::<i32>()?.iter().enumerate() {
        let (item, place) = (at / (each * channels), at % (each * channels));
        let channel = if axis == 1 { place / each } else { place % channels };
        sums[item * channels + channel] += i64::from(code);
    }
    let from = single_params(ctx, 1, x.dtype())?;
    let dtype = ctx.tensor(4)?.dtype();
    let to = single_params(ctx, 3, dtype)?;
    let zero = |params: &crate::quant_form::QuantParams| params.zeros.first().map_or(0, |z| *z);
    // One factor for the mean and both scales, as in onnxruntime.
    let factor = from.scales[0] / (to.scales[0] * each as f32);
    let mean = |&sum: &i64| {
        let centred = sum - i64::from(zero(&from)) * each as i64;
        round_to(centred as f32 * factor, zero(&to), dtype)
    };
    let values: Vec<i32> = sums.iter().map(mean).collect();
    Ok(vec![pack(dtype, &shape, &values)?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    fn with_params(case: Case, scale: f32, zero: u8) -> Case {
        case.tensor(&Tensor::scalar(scale)).tensor(&Tensor::scalar(zero))
    }

    fn bytes(shape: &[usize], values: &[u8]) -> Tensor {
        Tensor::from_slice(shape, values).unwrap()
    }

    // The numbers are those of onnxruntime 1.32.
    #[test]
    fn as_onnxruntime() {
        let (a, b) = (bytes(&[2, 2], &[0, 100, 200, 255]), bytes(&[2], &[10, 240]));
        let pair = |op: &str| {
            let case = with_params(Case::new(op).tensor(&a), 0.02, 128).tensor(&b);
            with_params(with_params(case, 0.015, 100), 0.03, 120)
        };
        check(&pair("com.microsoft.QLinearAdd"), 0, &[2, 2], &ADDED);
        check(&pair("com.microsoft.QLinearMul"), 0, &[2, 2], &MULTIPLIED);
        let one = |op: &str, scale: f32, zero: u8| {
            with_params(with_params(Case::new(op).tensor(&a), 0.02, 128), scale, zero)
        };
        check(&one("com.microsoft.QLinearSigmoid", 1.0 / 256.0, 0), 0, &[2, 2], &SIGMOIDS);
        let leaky = one("com.microsoft.QLinearLeakyRelu", 0.02, 100).attr("alpha", 0.1f32);
        check(&leaky, 0, &[2, 2], &LEAKY);
        let soft = one("com.microsoft.QLinearSoftmax", 1.0 / 256.0, 0).attr("opset", 13i64);
        check(&soft.attr("axis", 1i64), 0, &[2, 2], &SOFT);
        let old = soft.attr("axis", 0i64).attr("opset", 12i64);
        check(&old, 0, &[2, 2], &SOFT_ALL);
        let x = bytes(&[1, 2, 1, 3], &[0, 10, 21, 200, 100, 255]);
        let pool = Case::new("com.microsoft.QLinearGlobalAveragePool").tensor(&x);
        let pool = with_params(with_params(pool, 0.02, 128), 0.01, 100);
        check(&pool, 0, &[1, 2, 1, 1], &POOLED);
        check(&pool.attr("channels_last", 1i64), 0, &[1, 1, 1, 3], &POOLED_LAST);
        let concat = with_params(Case::new("com.microsoft.QLinearConcat"), 0.02, 128);
        let concat = with_params(concat.tensor(&a), 0.02, 128);
        let concat = with_params(concat.tensor(&bytes(&[2, 1], &[7, 250])), 0.03, 100);
        check(&concat.attr("axis", 1i64), 0, &[2, 3], &JOINED);
    }

    #[test]
    fn faults() {
        let x = bytes(&[2, 2], &[1, 2, 3, 4]);
        let pool = Case::new("com.microsoft.QLinearGlobalAveragePool").tensor(&x);
        let pool = with_params(with_params(pool, 0.02, 128), 0.01, 100);
        assert!(pool.eval().is_err(), "no spatial axes");
        let concat = with_params(Case::new("com.microsoft.QLinearConcat"), 0.02, 128);
        let concat = with_params(concat.tensor(&x), 0.02, 128);
        assert!(concat.attr("axis", 2i64).eval().is_err());
        assert!(concat.tensor(&x).attr("axis", 0i64).eval().is_err(), "half a part");
    }

    const ADDED: [f64; 4] = [0.0, 171.0, 123.0, 255.0];
    const MULTIPLIED: [f64; 4] = [235.0, 81.0, 55.0, 255.0];
    const SIGMOIDS: [f64; 4] = [18.0, 93.0, 207.0, 237.0];
    const LEAKY: [f64; 4] = [87.0, 97.0, 172.0, 227.0];
    const SOFT: [f64; 4] = [31.0, 225.0, 64.0, 192.0];
    const SOFT_ALL: [f64; 4] = [1.0, 8.0, 62.0, 185.0];
    const POOLED: [f64; 2] = [0.0, 214.0];
    const POOLED_LAST: [f64; 3] = [44.0, 0.0, 120.0];
    const JOINED: [f64; 6] = [0.0, 100.0, 0.0, 200.0, 255.0, 255.0];
}
