//! QGemm of com.microsoft: a quantised product with transposes, a bias and either kind of output.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dense::{product_int, swap_outer};
use crate::error::OpError;
use crate::quant_form::{integers, pack, round_to, scales, single_params, zero_points};
use crate::work::Work;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&QGEMM];

static QGEMM: OpDef = OpDef {
    name: "com.microsoft.QGemm",
    doc: "Quantised matrix product plus a bias, quantised again or as floats.",
    onnx: &[onnx("com.microsoft", "QGemm", 1)],
    inputs: Arity::between(6, 9),
    kind: Kind::Heavy,
    infer: infer_qgemm,
    work: |ctx, outputs| {
        let axis = usize::from(!ctx.attrs().flag_or("transA", false).unwrap_or(false));
        let k = ctx.dims(0).and_then(|dims| dims.get(axis)?.known()).unwrap_or(0);
        Work::macs(outputs.first().map_or(0.0, crate::work::elements) * k as f64)
    },
    eval: eval_qgemm,
    ..OpDef::DEFAULT
};

const BIAS: usize = 6;
const Y_SCALE: usize = 7;
const Y_ZERO: usize = 8;

/// A matrix of i32 after its transpose, with its extents.
fn matrix(
    tensor: &Tensor,
    index: usize,
    transposed: bool,
) -> Result<(Vec<i32>, usize, usize), OpError> {
    let [rows, columns] = crate::dense::shape_of_rank::<2>(tensor, index)?;
    let values = integers(tensor, index)?;
    let values = values.as_slice::<i32>()?;
    if transposed {
        return Ok((swap_outer(values, [rows, columns, 1]), columns, rows));
    }
    Ok((values.to_vec(), rows, columns))
}

fn eval_qgemm(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let attrs = ctx.attrs();
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(3)?);
    let (mut left, m, k) = matrix(a, 0, attrs.flag_or("transA", false)?)?;
    let (mut right, k_of_b, n) = matrix(b, 3, attrs.flag_or("transB", false)?)?;
    if k != k_of_b {
        return Err(OpError::input(3, format!("{k} rows"), k_of_b.to_string()));
    }
    let of_a = single_params(ctx, 1, a.dtype())?;
    let zero = of_a.zeros.first().map_or(0, |zero| *zero);
    left.iter_mut().for_each(|code| *code -= zero);
    let (b_scales, b_zeros) = (scales(ctx, 4)?, zero_points(ctx, 5, Some(b.dtype()))?);
    for (index, count) in [(4, b_scales.len()), (5, b_zeros.len())] {
        if count > 1 && count != n || index == 4 && count == 0 {
            return Err(OpError::input(index, format!("1 or {n} of them"), count.to_string()));
        }
    }
    let per_column = |list_len: usize, column: usize| if list_len == 1 { 0 } else { column };
    if !b_zeros.is_empty() {
        for (at, code) in right.iter_mut().enumerate() {
            *code -= b_zeros[per_column(b_zeros.len(), at % n)];
        }
    }
    let mut acc = Tensor::zeros(DType::I32, &[m, n])?;
    if let Some(bias) = ctx.tensor_opt(BIAS) {
        let bias = integers(bias, BIAS)?;
        let spread = bias.view().broadcast_to(&[m, n])?.to_vec::<i32>()?;
        acc.as_mut_slice::<i32>()?.copy_from_slice(&spread);
    }
    product_int(&left, &right, k, n, acc.as_mut_slice::<i32>()?);
    let alpha = attrs.float_or("alpha", 1.0)?;
    let acc = acc.as_slice::<i32>()?;
    let scale = |at: usize| alpha * of_a.scales[0] * b_scales[per_column(b_scales.len(), at % n)];
    if ctx.tensor_opt(Y_SCALE).is_none() {
        let out: Vec<f32> =
            acc.iter().enumerate().map(|(at, &sum)| sum as f32 * scale(at)).collect();
        return Ok(vec![Tensor::from_slice(&[m, n], &out)?.into()]);
    }
    let dtype = ctx.tensor_opt(Y_ZERO).map_or(a.dtype(), Tensor::dtype);
    let of_y = single_params(ctx, Y_SCALE, dtype)?;
    let zero = of_y.zeros.first().map_or(0, |zero| *zero);
    let code = |(at, &sum): (usize, &i32)| {
        round_to(sum as f32 * (scale(at) / of_y.scales[0]), zero, dtype)
    };
    let codes: Vec<i32> = acc.iter().enumerate().map(code).collect();
    Ok(vec![pack(dtype, &[m, n], &codes)?.into()])
}

fn infer_qgemm(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = if ctx.has(Y_SCALE) {
        ctx.dtype_opt(Y_ZERO).or_else(|| ctx.dtype_opt(0).filter(|_| !ctx.has(Y_ZERO)))
    } else {
        Some(DType::F32)
    };
    let side = |index: usize, attr: &str, axis: usize| -> Result<Dim, OpError> {
        let axis = if ctx.attrs().flag_or(attr, false)? { 1 - axis } else { axis };
        match ctx.dims(index) {
            None => Ok(Dim::Unknown),
            Some(dims @ [_, _]) => Ok(dims[axis].clone()),
            Some(_) => Err(OpError::input(index, "a matrix", ctx.ty(index)?.to_string())),
        }
    };
    let dims = vec![side(0, "transA", 0)?, side(3, "transB", 1)?];
    Ok(vec![InferCtx::make(dtype, Some(dims))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    // The numbers are those of onnxruntime 1.32.
    #[test]
    fn as_onnxruntime() {
        let a = Tensor::from_slice(&[2, 2], &[10u8, 200, 30, 140]).unwrap();
        let b = Tensor::from_slice(&[2, 2], &[5i8, -60, 70, 80]).unwrap();
        let case = Case::new("com.microsoft.QGemm").tensor(&a);
        let case = case.tensor(&Tensor::scalar(0.02f32)).tensor(&Tensor::scalar(128u8));
        let case = case.tensor(&b).tensor(&Tensor::vector(&[0.01f32, 0.02]));
        let case = case.tensor(&Tensor::vector(&[0i8, 1]));
        let case = case.tensor(&Tensor::vector(&[100i32, -50]));
        let case = case.attr("transB", 1i64).attr("alpha", 2f32);
        check(&case, 0, &[2, 2], &FLOATS);
        let y = case.with_input(Y_SCALE, &Tensor::scalar(0.1f32));
        let y = y.with_input(Y_ZERO, &Tensor::scalar(128u8));
        check(&y, 0, &[2, 2], &CODES);
        assert!(case.with_input(3, &Tensor::vector(&[1i8])).eval().is_err());
        assert!(case.with_input(4, &Tensor::vector(&[1f32; 3])).eval().is_err());
    }

    const FLOATS: [f64; 4] = [-1.9239999, -2.0032, -0.444, -4.6912];
    const CODES: [f64; 4] = [109.0, 108.0, 124.0, 81.0];
}
