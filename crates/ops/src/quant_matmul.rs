//! Matrix products of 8-bit integers: MatMulInteger, QLinearMatMul and those of com.microsoft.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Rounding, Shape, Tensor, TensorError, Value, broadcast, cast};

use crate::context::{EvalCtx, InferCtx, broadcast_dims};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dense::{bounded, expect_shape, floats, product, product_int, result};
use crate::error::OpError;
use crate::quant_form::{QuantParams, integers, pack, round_to};
use crate::quantize::dynamic_params;
use crate::work::Work;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] =
    &[&MATMUL_INTEGER, &QLINEAR_MATMUL, &INTEGER_TO_FLOAT, &DYNAMIC_MATMUL];

static MATMUL_INTEGER: OpDef = OpDef {
    name: "MatMulInteger",
    doc: "Matrix product of 8-bit integers less their zero points, in 32 bits.",
    onnx: &[onnx("", "MatMulInteger", 10)],
    inputs: Arity::between(2, 4),
    kind: Kind::Heavy,
    infer: |ctx| infer_product(ctx, 0, 1, Some(DType::I32)),
    work: |ctx, outputs| product_work(ctx, outputs, 0),
    eval: |ctx| {
        let (a, b) = (centred(ctx, 0, 2, true)?, centred(ctx, 1, 3, false)?);
        let (acc, shape) = integer_product(&a, &b)?;
        Ok(vec![Tensor::from_slice(&shape.out, &acc)?.into()])
    },
    ..OpDef::DEFAULT
};

static QLINEAR_MATMUL: OpDef = OpDef {
    name: "QLinearMatMul",
    doc: "Matrix product of quantised matrices, quantised again.",
    onnx: &[onnx("", "QLinearMatMul", 21)],
    inputs: Arity::exactly(8),
    kind: Kind::Heavy,
    infer: |ctx| infer_product(ctx, 0, 3, ctx.dtype_opt(7)),
    work: |ctx, outputs| product_work(ctx, outputs, 0),
    eval: eval_qlinear,
    ..OpDef::DEFAULT
};

static INTEGER_TO_FLOAT: OpDef = OpDef {
    name: "com.microsoft.MatMulIntegerToFloat",
    doc: "Matrix product of 8-bit integers, scaled to floats, plus a bias.",
    onnx: &[onnx("com.microsoft", "MatMulIntegerToFloat", 1)],
    inputs: Arity::between(4, 7),
    kind: Kind::Heavy,
    infer: |ctx| infer_product(ctx, 0, 1, ctx.dtype_opt(3)),
    work: |ctx, outputs| product_work(ctx, outputs, 0),
    eval: |ctx| {
        let (a, b) = (centred(ctx, 0, 4, true)?, centred(ctx, 1, 5, false)?);
        let (acc, shape) = integer_product(&a, &b)?;
        let scales = [spread(ctx, 2, &shape, true)?, spread(ctx, 3, &shape, false)?];
        to_floats(ctx, &acc, &shape, scales, 6, ctx.tensor(3)?.dtype())
    },
    ..OpDef::DEFAULT
};

static DYNAMIC_MATMUL: OpDef = OpDef {
    name: "com.microsoft.DynamicQuantizeMatMul",
    doc: "Quantises the left matrix by its range, then multiplies as MatMulIntegerToFloat.",
    onnx: &[onnx("com.microsoft", "DynamicQuantizeMatMul", 1)],
    inputs: Arity::between(3, 5),
    kind: Kind::Heavy,
    infer: |ctx| infer_product(ctx, 0, 1, ctx.dtype_opt(0)),
    work: |ctx, outputs| product_work(ctx, outputs, 0),
    eval: |ctx| {
        let a = floats::<f32>(ctx, 0)?;
        let (codes, scale) = dynamic_centred(a.as_slice()?);
        let a = Tensor::from_slice(a.shape(), &codes)?;
        let (acc, shape) = integer_product(&a, &centred(ctx, 1, 3, false)?)?;
        let scales = [Scales::One(scale), spread(ctx, 2, &shape, false)?];
        to_floats(ctx, &acc, &shape, scales, 4, ctx.tensor(0)?.dtype())
    },
    ..OpDef::DEFAULT
};

/// Quantises by range; the codes less their zero point, and the scale.
pub(crate) fn dynamic_centred(values: &[f32]) -> (Vec<i32>, f32) {
    let (scale, zero) = dynamic_params(values);
    let zero = i32::from(zero);
    let params = QuantParams::single(scale, zero);
    let mut codes = params.quantize(values, &[values.len()], DType::U8);
    codes.iter_mut().for_each(|code| *code -= zero);
    (codes, scale)
}

/// Extents of a product as numpy's matmul has them.
pub(crate) struct ProductShape {
    /// Shape of the result.
    pub(crate) out: Shape,
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
    /// Which matrix of the left and right input each result takes.
    pub(crate) pairs: Vec<(usize, usize)>,
}

impl ProductShape {
    pub(crate) fn of(a: &[usize], b: &[usize]) -> Result<ProductShape, OpError> {
        let split = |shape: &[usize], index: usize, vector_is_row: bool| match shape {
            [] => Err(OpError::input(index, "a vector or matrices", "a scalar")),
            [k] if vector_is_row => Ok((Vec::new(), 1, *k)),
            [k] => Ok((Vec::new(), *k, 1)),
            [outer @ .., rows, columns] => Ok((outer.to_vec(), *rows, *columns)),
        };
        let (outer_a, m, k) = split(a, 0, true)?;
        let (outer_b, k_of_b, n) = split(b, 1, false)?;
        if k != k_of_b {
            return Err(OpError::input(1, format!("{k} rows"), format!("shape {b:?}")));
        }
        let outer = broadcast(&outer_a, &outer_b)?;
        bounded(&outer)?;
        let matrices = |shape: &[usize]| -> Result<Vec<i32>, OpError> {
            let ids: Vec<i32> = (0..).take(shape.iter().product()).collect();
            let ids = Tensor::from_slice(shape, &ids)?;
            Ok(ids.view().broadcast_to(&outer)?.to_vec()?)
        };
        let (left, right) = (matrices(&outer_a)?, matrices(&outer_b)?);
        let pairs = left.iter().zip(&right).map(|(&i, &j)| (i as usize, j as usize)).collect();
        let mut out = outer;
        if a.len() > 1 {
            out.push(m);
        }
        if b.len() > 1 {
            out.push(n);
        }
        Ok(ProductShape { out, m, k, n, pairs })
    }
}

/// The product of two tensors of i32; wraps.
fn integer_product(a: &Tensor, b: &Tensor) -> Result<(Vec<i32>, ProductShape), OpError> {
    let shape = ProductShape::of(a.shape(), b.shape())?;
    let (left, right) = (a.as_slice::<i32>()?, b.as_slice::<i32>()?);
    let mut out = Tensor::zeros(DType::I32, &shape.out)?;
    let (m, k, n) = (shape.m, shape.k, shape.n);
    let slots = out.as_mut_slice::<i32>()?;
    for (place, &(i, j)) in shape.pairs.iter().enumerate() {
        let slots = &mut slots[place * m * n..][..m * n];
        product_int(&left[i * m * k..][..m * k], &right[j * k * n..][..k * n], k, n, slots);
    }
    Ok((out.as_slice::<i32>()?.to_vec(), shape))
}

/// As [`integer_product`], of floats.
fn float_product(a: &Tensor, b: &Tensor) -> Result<(Vec<f32>, ProductShape), OpError> {
    let shape = ProductShape::of(a.shape(), b.shape())?;
    let (left, right) = (a.as_slice::<f32>()?, b.as_slice::<f32>()?);
    let mut out = crate::dense::zeros::<f32>(&shape.out)?;
    let (m, k, n) = (shape.m, shape.k, shape.n);
    for (place, &(i, j)) in shape.pairs.iter().enumerate() {
        let slots = &mut out[place * m * n..][..m * n];
        product(&left[i * m * k..][..m * k], &right[j * k * n..][..k * n], k, n, slots);
    }
    Ok((out, shape))
}

/// Shape under which a parameter of the left (by row) or right (by column) matrix broadcasts to
/// the matrix: a vector for rows becomes a column.
fn parameter_shape(shape: &[usize], by_row: bool, rows: Option<usize>) -> Vec<usize> {
    match *shape {
        [1] => Vec::new(),
        [length] if by_row && rows.is_none_or(|rows| rows == length) => vec![length, 1],
        _ => shape.to_vec(),
    }
}

/// The integers at `index` less the zero points at `zero`, which are per tensor, row or column.
pub(crate) fn centred(
    ctx: &EvalCtx<'_>,
    index: usize,
    zero: usize,
    by_row: bool,
) -> Result<Tensor, OpError> {
    let tensor = ctx.tensor(index)?;
    let mut values = integers(tensor, index)?;
    let Some(zeros) = ctx.tensor_opt(zero) else { return Ok(values) };
    if zeros.dtype() != tensor.dtype() {
        return Err(OpError::input(zero, tensor.dtype().name(), zeros.describe()));
    }
    let rows = tensor.rank().checked_sub(2).map(|axis| tensor.shape()[axis]);
    let zeros = integers(zeros, zero)?;
    let zeros = zeros.reshape(&parameter_shape(zeros.shape(), by_row, rows))?;
    let fault = |error: TensorError| OpError::input(zero, "zero points", error.to_string());
    let spread = zeros.view().broadcast_to(values.shape()).map_err(fault)?.to_vec::<i32>()?;
    values.as_mut_slice::<i32>()?.iter_mut().zip(&spread).for_each(|(value, zero)| {
        *value = value.wrapping_sub(*zero);
    });
    Ok(values)
}

/// Scales of a product's elements.
pub(crate) enum Scales {
    One(f32),
    Each(Vec<f32>),
}

impl Scales {
    fn at(&self, index: usize) -> f32 {
        match self {
            Scales::One(scale) => *scale,
            Scales::Each(scales) => scales[index],
        }
    }
}

/// The scales at `index`, spread over the result of a product.
fn spread(
    ctx: &EvalCtx<'_>,
    index: usize,
    shape: &ProductShape,
    by_row: bool,
) -> Result<Scales, OpError> {
    let scales = floats::<f32>(ctx, index)?;
    if let [scale] = *scales.as_slice::<f32>()? {
        return Ok(Scales::One(scale));
    }
    let scales = scales.reshape(&parameter_shape(scales.shape(), by_row, Some(shape.m)))?;
    let fault = |error: TensorError| OpError::input(index, "scales", error.to_string());
    let spread = scales.view().broadcast_to(&shape.out).map_err(fault)?;
    Ok(Scales::Each(spread.to_vec()?))
}

fn to_floats(
    ctx: &EvalCtx<'_>,
    acc: &[i32],
    shape: &ProductShape,
    [of_a, of_b]: [Scales; 2],
    bias: usize,
    dtype: DType,
) -> Result<Vec<Value>, OpError> {
    let scaled = |(at, &sum): (usize, &i32)| sum as f32 * (of_a.at(at) * of_b.at(at));
    let mut out: Vec<f32> = acc.iter().enumerate().map(scaled).collect();
    if let Some(given) = crate::dense::floats_opt::<f32>(ctx, bias)? {
        expect_shape(&given, bias, &[shape.n])?;
        for row in out.chunks_exact_mut(shape.n.max(1)) {
            row.iter_mut().zip(given.as_slice::<f32>()?).for_each(|(sum, bias)| *sum += bias);
        }
    }
    Ok(vec![result(dtype, &shape.out, &out)?.into()])
}

fn eval_qlinear(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let dtype = ctx.tensor(7)?.dtype();
    if ctx.tensor(0)?.dtype().is_float() {
        return eval_qlinear_floats(ctx, dtype);
    }
    let (a, b) = (centred(ctx, 0, 2, true)?, centred(ctx, 3, 5, false)?);
    let (acc, shape) = integer_product(&a, &b)?;
    let (of_a, of_b) = (spread(ctx, 1, &shape, true)?, spread(ctx, 4, &shape, false)?);
    let of_y = spread(ctx, 6, &shape, true)?;
    let zeros = integers(ctx.tensor(7)?, 7)?;
    let zeros = zeros.reshape(&parameter_shape(zeros.shape(), true, Some(shape.m)))?;
    let zeros = zeros.view().broadcast_to(&shape.out)?.to_vec::<i32>()?;
    let values: Vec<i32> = acc
        .iter()
        .zip(&zeros)
        .enumerate()
        .map(|(at, (&sum, &zero))| {
            let scale = of_a.at(at) * of_b.at(at) / of_y.at(at);
            round_to(sum as f32 * scale, zero, dtype)
        })
        .collect();
    Ok(vec![pack(dtype, &shape.out, &values)?.into()])
}

/// Of 8-bit floats, whose zero points are 0.
fn eval_qlinear_floats(ctx: &EvalCtx<'_>, dtype: DType) -> Result<Vec<Value>, OpError> {
    let (a, b) = (floats::<f32>(ctx, 0)?, floats::<f32>(ctx, 3)?);
    let (mut sums, shape) = float_product(&a, &b)?;
    let (of_a, of_b) = (spread(ctx, 1, &shape, true)?, spread(ctx, 4, &shape, false)?);
    let of_y = spread(ctx, 6, &shape, true)?;
    for (at, sum) in sums.iter_mut().enumerate() {
        *sum *= of_a.at(at) * of_b.at(at) / of_y.at(at);
    }
    let wide = Tensor::from_slice(&shape.out, &sums)?;
    Ok(vec![cast(&wide, dtype, true, Rounding::NearestEven)?.into()])
}

/// Dims of a product of the inputs at `a` and `b`.
pub(crate) fn infer_product(
    ctx: &InferCtx<'_>,
    a: usize,
    b: usize,
    dtype: Option<DType>,
) -> Result<Vec<Type>, OpError> {
    let (Some(left), Some(right)) = (ctx.dims(a), ctx.dims(b)) else {
        return Ok(vec![InferCtx::make(dtype, None)]);
    };
    for (index, dims) in [(a, left), (b, right)] {
        if dims.is_empty() {
            return Err(OpError::input(index, "a vector or matrices", "a scalar"));
        }
    }
    let (k, rows) = (&left[left.len() - 1], &right[right.len().saturating_sub(2)]);
    if let (Dim::Known(k), Dim::Known(rows)) = (k, rows)
        && k != rows
    {
        return Err(OpError::input(b, format!("{k} rows"), rows.to_string()));
    }
    let outer = |dims: &[Dim]| dims[..dims.len().saturating_sub(2)].to_vec();
    let Some(mut dims) = broadcast_dims(Some(&outer(left)), Some(&outer(right)))? else {
        return Ok(vec![InferCtx::make(dtype, None)]);
    };
    if left.len() > 1 {
        dims.push(left[left.len() - 2].clone());
    }
    if right.len() > 1 {
        dims.push(right[right.len() - 1].clone());
    }
    Ok(vec![InferCtx::make(dtype, Some(dims))])
}

/// A multiply-add for each output element and place of the last axis of the input at `a`.
pub(crate) fn product_work(ctx: &InferCtx<'_>, outputs: &[Type], a: usize) -> Work {
    let k = ctx.dims(a).and_then(|dims| dims.last()?.known()).unwrap_or(0);
    Work::macs(outputs.first().map_or(0.0, crate::work::elements) * k as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    fn bytes(shape: &[usize], values: &[u8]) -> Tensor {
        Tensor::from_slice(shape, values).unwrap()
    }

    #[test]
    fn zero_points_by_row_and_column() {
        let a = bytes(&[2, 2], &[11, 7, 3, 10]);
        let b = Tensor::from_slice(&[2, 2], &[1i8, 4, 2, 5]).unwrap();
        let case = Case::new("MatMulInteger").tensor(&a).tensor(&b);
        check(&case, 0, &[2, 2], &[25.0, 79.0, 23.0, 62.0]);
        let rows = case.with_input(2, &Tensor::vector(&[1u8, 3]));
        check(&rows, 0, &[2, 2], &[22.0, 70.0, 14.0, 35.0]);
        let columns = case.with_input(3, &Tensor::vector(&[1i8, 4]));
        check(&columns, 0, &[2, 2], &[7.0, 7.0, 10.0, 10.0]);
        let vector = case.with_input(0, &bytes(&[2], &[1, 2]));
        check(&vector, 0, &[2], &[5.0, 14.0]);
        assert!(case.with_input(2, &Tensor::vector(&[1u8, 3, 4])).eval().is_err());
        assert!(case.with_input(0, &bytes(&[1, 3], &[1, 2, 3])).eval().is_err());
        assert!(case.with_input(2, &Tensor::scalar(1i8)).eval().is_err());
    }

    #[test]
    fn batches_broadcast() {
        let a = bytes(&[2, 1, 1, 2], &[1, 2, 3, 4]);
        let b = bytes(&[2, 2, 1], &[1, 1, 2, 0]);
        let case = Case::new("MatMulInteger").tensor(&a).tensor(&b);
        check(&case, 0, &[2, 2, 1, 1], &[3.0, 2.0, 7.0, 6.0]);
    }

    // The numbers are those of onnxruntime 1.32.
    #[test]
    fn as_onnxruntime() {
        let a = Tensor::from_slice(&[1, 3], &[0.5f32, -1.0, 2.0]).unwrap();
        let b = Tensor::from_slice(&[3, 2], &[10i8, -20, 30, 40, -50, 60]).unwrap();
        let case = Case::new("com.microsoft.DynamicQuantizeMatMul").tensor(&a).tensor(&b);
        let case = case.tensor(&Tensor::vector(&[0.1f32, 0.2])).none();
        let case = case.tensor(&Tensor::vector(&[1f32, -1.0]));
        check(&case, 0, &[1, 2], DYNAMIC_WANTED);
        let case = Case::new("QLinearMatMul").tensor(&bytes(&[1, 2], &[208, 236]));
        let case = case.tensor(&Tensor::scalar(0.0066f32)).tensor(&Tensor::scalar(113u8));
        let case = case.tensor(&bytes(&[2, 2], &[152, 51, 60, 26]));
        let case = case.tensor(&Tensor::scalar(0.00705f32)).tensor(&Tensor::scalar(114u8));
        let case = case.tensor(&Tensor::scalar(0.0107f32)).tensor(&Tensor::scalar(118u8));
        check(&case, 0, &[1, 2], QLINEAR_WANTED);
    }

    const DYNAMIC_WANTED: &[f64] = &[-11.505883, 13.02353];
    const QLINEAR_WANTED: &[f64] = &[105.0, 45.0];
}
