//! Between real and quantised numbers: QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear.

use hetra_ir::Type;
use hetra_tensor::{DType, Rounding, Tensor, Value, cast, from_f64, to_f64};

use crate::context::{EvalCtx, InferCtx, same_shape};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dense::{bounded, floats};
use crate::error::OpError;
use crate::quant_form::{QuantAxis, QuantParams, integers, pack, round_to, scales, zero_points};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&QUANTIZE, &DEQUANTIZE, &DYNAMIC];

static QUANTIZE: OpDef = OpDef {
    name: "QuantizeLinear",
    doc: "Divides by a scale, rounds half to even and adds a zero point, saturating.",
    onnx: &[onnx("", "QuantizeLinear", 25), onnx("com.microsoft", "QuantizeLinear", 1)],
    inputs: Arity::between(2, 3),
    kind: Kind::Opaque,
    infer: infer_quantize,
    eval: eval_quantize,
    ..OpDef::DEFAULT
};

static DEQUANTIZE: OpDef = OpDef {
    name: "DequantizeLinear",
    doc: "Subtracts a zero point and multiplies by a scale.",
    onnx: &[onnx("", "DequantizeLinear", 25), onnx("com.microsoft", "DequantizeLinear", 1)],
    inputs: Arity::between(2, 3),
    kind: Kind::Opaque,
    infer: infer_dequantize,
    eval: eval_dequantize,
    ..OpDef::DEFAULT
};

static DYNAMIC: OpDef = OpDef {
    name: "DynamicQuantizeLinear",
    doc: "Quantises to u8 by the range of the values, which is widened to hold 0.",
    onnx: &[onnx("", "DynamicQuantizeLinear", 11)],
    outputs: Arity::exactly(3),
    infer: |ctx| {
        let scalar = |dtype| Type::tensor(dtype, &[]);
        let mut types = same_shape(ctx, DType::U8)?;
        types.extend([scalar(DType::F32), scalar(DType::U8)]);
        Ok(types)
    },
    eval: eval_dynamic,
    ..OpDef::DEFAULT
};

const ZERO: usize = 2;

/// The dtype that an attribute names, if it names one (0 names none).
fn dtype_attr(node: &hetra_ir::Node, name: &str) -> Result<Option<DType>, OpError> {
    match node.attrs.int_or(name, 0)? {
        0 => Ok(None),
        code => {
            let dtype = i32::try_from(code).ok().and_then(DType::from_onnx);
            let fault = || OpError::invalid(format!("{name} {code} is not a data type"));
            dtype.map(Some).ok_or_else(fault)
        }
    }
}

/// The dtype of the quantised output, given that of the zero point.
fn quantized_dtype(node: &hetra_ir::Node, zero: Option<DType>) -> Result<DType, OpError> {
    let asked = dtype_attr(node, "output_dtype")?;
    let dtype = match (asked, zero) {
        (Some(asked), Some(zero)) if asked != zero => {
            return Err(OpError::input(ZERO, asked.name(), zero.name()));
        }
        (asked, zero) => asked.or(zero).unwrap_or(DType::U8),
    };
    let narrow_float = dtype.is_float() && dtype.bits() <= 8 && dtype != DType::F8E8M0;
    let narrow_int = dtype.is_int() && dtype.bits() <= 16;
    if !(narrow_float || narrow_int) {
        return Err(OpError::invalid(format!("{dtype} is not a quantised type")));
    }
    Ok(dtype)
}

fn infer_quantize(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let given = ctx.dtype_opt(ZERO);
    let asked = dtype_attr(ctx.node, "output_dtype")?;
    if ctx.has(ZERO) && given.is_none() && asked.is_none() {
        return Ok(vec![Type::Unknown]);
    }
    same_shape(ctx, quantized_dtype(ctx.node, given)?)
}

fn eval_quantize(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (x, scale) = (ctx.tensor(0)?, ctx.tensor(1)?);
    bounded(x.shape())?;
    let zero = ctx.tensor_opt(ZERO);
    let dtype = quantized_dtype(ctx.node, zero.map(Tensor::dtype))?;
    if let Some(zero) = zero {
        // Zero points have the shape of the scales, but one of one element is taken as a scalar.
        if zero.shape() != scale.shape() && (zero.len() != 1 || scale.len() != 1) {
            return Err(OpError::input(ZERO, format!("{:?}", scale.shape()), zero.describe()));
        }
    }
    let axis = QuantAxis::of(ctx.attrs(), x.shape(), scale.shape())?;
    let precision = dtype_attr(ctx.node, "precision")?.unwrap_or(scale.dtype());
    let plain = |t: &Tensor| t.dtype() == DType::F32;
    if plain(x) && plain(scale) && precision == DType::F32 && dtype.is_int() {
        let zeros = zero_points(ctx, ZERO, None)?;
        let params = QuantParams { axis, scales: scales(ctx, 1)?, zeros };
        let values = params.quantize(x.as_slice()?, x.shape(), dtype);
        return Ok(vec![pack(dtype, x.shape(), &values)?.into()]);
    }
    let quotients = quotients(x, scale, axis, precision)?;
    let zeros = zero.map(to_f64).transpose()?.unwrap_or_default();
    let zero_at = |place: usize| zeros.get(place).copied().unwrap_or(0.0);
    if dtype.is_int() {
        let mut out = vec![0i32; quotients.len()];
        axis.runs(x.shape(), |run, first, step| {
            for (at, index) in run.enumerate() {
                // Rounded before it is narrowed: exact within the range of every quantised type.
                let rounded = quotients[index].round_ties_even() as f32;
                out[index] = round_to(rounded, zero_at(first + at * step) as i32, dtype);
            }
        });
        return Ok(vec![pack(dtype, x.shape(), &out)?.into()]);
    }
    let mut moved = quotients;
    axis.runs(x.shape(), |run, first, step| {
        for (at, index) in run.enumerate() {
            moved[index] += zero_at(first + at * step);
        }
    });
    let wide = Tensor::from_slice(x.shape(), &moved)?;
    let saturate = ctx.attrs().flag_or("saturate", true)?;
    Ok(vec![cast(&wide, dtype, saturate, Rounding::NearestEven)?.into()])
}

/// `x / scale`, rounded to the precision asked for.
fn quotients(
    x: &Tensor,
    scale: &Tensor,
    axis: QuantAxis,
    precision: DType,
) -> Result<Vec<f64>, OpError> {
    let (values, scales) = (to_f64(x)?, to_f64(scale)?);
    let mut out = vec![0f64; values.len()];
    axis.runs(x.shape(), |run, first, step| {
        for (at, index) in run.enumerate() {
            out[index] = values[index] / scales[first + at * step];
        }
    });
    match precision {
        // The quotient of two numbers of one of these types is rounded right by way of f64.
        DType::F32 | DType::F16 | DType::BF16 => {
            Ok(to_f64(&from_f64(precision, &[out.len()], &out)?)?)
        }
        _ => Ok(out),
    }
}

fn infer_dequantize(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let asked = dtype_attr(ctx.node, "output_dtype")?;
    match asked.or(ctx.dtype_opt(1)) {
        Some(dtype) => same_shape(ctx, dtype),
        None => Ok(vec![Type::Unknown]),
    }
}

fn eval_dequantize(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (x, scale) = (ctx.tensor(0)?, ctx.tensor(1)?);
    bounded(x.shape())?;
    let dtype = dtype_attr(ctx.node, "output_dtype")?.unwrap_or(scale.dtype());
    if let Some(zero) = ctx.tensor_opt(ZERO) {
        if zero.dtype() != x.dtype() {
            return Err(OpError::input(ZERO, x.dtype().name(), zero.describe()));
        }
        if zero.shape() != scale.shape() && (zero.len() != 1 || scale.len() != 1) {
            return Err(OpError::input(ZERO, format!("{:?}", scale.shape()), zero.describe()));
        }
    }
    let axis = QuantAxis::of(ctx.attrs(), x.shape(), scale.shape())?;
    let scales = scales(ctx, 1)?;
    let real = if x.dtype().is_int() {
        let params = QuantParams { axis, scales, zeros: zero_points(ctx, ZERO, None)? };
        params.dequantize(integers(x, 0)?.as_slice()?, x.shape())
    } else {
        let values = floats::<f32>(ctx, 0)?;
        let zeros = ctx.tensor_opt(ZERO).map(to_f64).transpose()?.unwrap_or_default();
        let mut out = values.as_slice::<f32>()?.to_vec();
        axis.runs(x.shape(), |run, first, step| {
            for (at, slot) in out[run].iter_mut().enumerate() {
                let place = first + at * step;
                let zero = zeros.get(place).copied().unwrap_or(0.0) as f32;
                *slot = (*slot - zero) * scales[place];
            }
        });
        out
    };
    Ok(vec![crate::dense::result(dtype, x.shape(), &real)?.into()])
}

/// The scale and zero point of u8 that cover these values and 0.
pub fn dynamic_params(values: &[f32]) -> (f32, u8) {
    let lowest = values.iter().copied().fold(0f32, f32::min);
    let highest = values.iter().copied().fold(0f32, f32::max);
    let scale = if lowest == highest { 1.0 } else { (highest - lowest) / 255.0 };
    let zero = (-lowest / scale).clamp(0.0, 255.0).round_ties_even();
    (scale, zero as u8)
}

fn eval_dynamic(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let values = x.as_slice::<f32>().map_err(|_| OpError::input(0, "f32", x.describe()))?;
    let (scale, zero) = dynamic_params(values);
    let params = QuantParams::single(scale, i32::from(zero));
    let codes = params.quantize(values, x.shape(), DType::U8);
    let y = pack(DType::U8, x.shape(), &codes)?;
    Ok(vec![y.into(), Tensor::scalar(scale).into(), Tensor::scalar(zero).into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    #[test]
    fn quantize_per_tensor_axis_and_block() {
        let x = Tensor::from_slice(&[2, 3], &[-1f32, 0.25, 300.0, 1.0, 2.5, -7.0]).unwrap();
        let case = Case::new("QuantizeLinear").tensor(&x).tensor(&Tensor::scalar(0.5f32));
        check(&case, 0, &[2, 3], &[0.0, 0.0, 255.0, 2.0, 5.0, 0.0]);
        let int4 = case.attr("output_dtype", i64::from(DType::I4.onnx()));
        check(&int4, 0, &[2, 3], &[-2.0, 0.0, 7.0, 2.0, 5.0, -8.0]);
        let axis = case.with_input(1, &Tensor::vector(&[1f32, 0.5])).attr("axis", 0i64);
        let axis = axis.with_input(2, &Tensor::vector(&[1i8, -3]));
        check(&axis, 0, &[2, 3], &[0.0, 1.0, 127.0, -1.0, 2.0, -17.0]);
        let scale = Tensor::from_slice(&[2, 2], &[1f32, 100.0, 0.5, 7.0]).unwrap();
        let block = case.with_input(1, &scale).attr("block_size", 2i64);
        check(&block, 0, &[2, 3], &[0.0, 0.0, 3.0, 2.0, 5.0, 0.0]);
        assert!(block.attr("block_size", 3i64).eval().is_err());
        let other = case.with_input(2, &Tensor::scalar(0i16));
        assert!(other.attr("output_dtype", i64::from(DType::I4.onnx())).eval().is_err());
    }

    #[test]
    fn quantize_to_small_floats() {
        let x = Tensor::vector(&[0f32, 1.3, 1e9, -3.0]);
        let case = Case::new("QuantizeLinear").tensor(&x).tensor(&Tensor::scalar(2f32));
        let e4m3 = case.attr("output_dtype", i64::from(DType::F8E4M3FN.onnx()));
        check(&e4m3, 0, &[4], &[0.0, 0.625, 448.0, -1.5]);
        let fp4 = case.attr("output_dtype", i64::from(DType::F4E2M1.onnx()));
        check(&fp4, 0, &[4], &[0.0, 0.5, 6.0, -1.5]);
    }

    #[test]
    fn dequantize() {
        let x = Tensor::from_slice(&[2, 2], &[0u8, 3, 128, 255]).unwrap();
        let case = Case::new("DequantizeLinear").tensor(&x).tensor(&Tensor::scalar(2f32));
        let case = case.tensor(&Tensor::scalar(128u8));
        check(&case, 0, &[2, 2], &[-256.0, -250.0, 0.0, 254.0]);
        let half = case.attr("output_dtype", i64::from(DType::F16.onnx()));
        check(&half, 0, &[2, 2], &[-256.0, -250.0, 0.0, 254.0]);
        assert!(case.with_input(2, &Tensor::scalar(1i8)).eval().is_err());
        let wide = Tensor::vector(&[i32::MIN, 5]);
        let wide = Case::new("DequantizeLinear").tensor(&wide).tensor(&Tensor::scalar(0.5f32));
        check(&wide, 0, &[2], &[-1073741824.0, 2.5]);
    }

    #[test]
    fn dynamic() {
        let x = Tensor::vector(&[0f32, 2.0, -3.0, -2.5, 1.34, 0.5]);
        let case = Case::new("DynamicQuantizeLinear").tensor(&x).outputs(3);
        check(&case, 0, &[6], &[153.0, 255.0, 0.0, 26.0, 221.0, 179.0]);
        check(&case, 1, &[], &[0.019607844]);
        check(&case, 2, &[], &[153.0]);
        let empty = Case::new("DynamicQuantizeLinear").tensor(&Tensor::vector::<f32>(&[]));
        check(&empty.outputs(3), 1, &[], &[1.0]);
    }
}
