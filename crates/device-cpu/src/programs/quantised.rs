//! Integer convolution and products, and the conversions around them.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::{ConvGeometry, MatMulForm, QuantAxis, dynamic_params};
use hetra_tensor::{DType, Tensor, to_i64};
use smallvec::smallvec;

use super::conv::{self, shape_of};
use super::extents::{pair, product};
use super::int8_conv::IntConv;
use super::{Compile, Form, Outcome, one, program};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::int8::{
    IntLhs, IntMat, IntOut, IntRhs, IntTerms, PackedIntB, Per, gemm_int8,
};
use hetra_cpu_kernels::int8_conv::{Bytes, PackedIntConv};
use hetra_cpu_kernels::quant::{Scales, dequantize_linear, quantize_linear};
use hetra_cpu_rows::norm::{Reduce, reduce};

pub(super) static OPS: &[(&str, Compile)] = &[
    ("QLinearConv", compile_conv),
    ("QLinearMatMul", compile_matmul),
    ("MatMulInteger", compile_matmul_integer),
    ("com.microsoft.QGemm", compile_gemm),
    ("QuantizeLinear", compile_quantize),
    ("DequantizeLinear", compile_dequantize),
    ("DynamicQuantizeLinear", compile_dynamic),
];

pub(super) fn bytes(tensor: &Tensor) -> Option<Bytes<'_>> {
    match tensor.dtype() {
        DType::U8 => tensor.as_slice().ok().map(Bytes::U8),
        DType::I8 => tensor.as_slice().ok().map(Bytes::I8),
        _ => None,
    }
}

/// Zero points of codes of this type as i32; a missing one is 0. Those of another type are the
/// reference's business.
pub(super) fn zeros(tensor: Option<&Tensor>, dtype: DType) -> Option<Vec<i32>> {
    let Some(tensor) = tensor else { return Some(vec![0]) };
    if tensor.is_empty() || tensor.dtype() != dtype {
        return None;
    }
    to_i64(tensor).ok()?.into_iter().map(|zero| i32::try_from(zero).ok()).collect()
}

/// The one value of a scale or zero point of the whole tensor.
pub(super) fn single<T: Copy>(values: &[T]) -> Option<T> {
    if let [value] = values { Some(*value) } else { None }
}

pub(super) fn scales(tensor: &Tensor) -> Option<&[f32]> {
    tensor.as_slice::<f32>().ok().filter(|scales| !scales.is_empty())
}

/// Clones the inputs of a call, so that outputs can be allocated while they are read.
pub(super) fn inputs(call: &Call<'_>) -> Vec<Option<Tensor>> {
    (0..call.inputs.len()).map(|index| call.tensor_opt(index).cloned()).collect()
}

pub(super) fn at(inputs: &[Option<Tensor>], index: usize) -> Option<&Tensor> {
    inputs.get(index).and_then(Option::as_ref)
}

/// What the kernels take for codes.
pub(super) const CODES: &[DType] = &[DType::U8, DType::I8];

pub(super) fn takes(form: &Form<'_>) -> bool {
    let Form { part, node, .. } = form;
    let whole = node.attrs.int_or("block_size", 0).is_ok_and(|size| size == 0);
    let floats = |index: usize| form.may_be(index, &[DType::F32]);
    let set = |name: &str| node.attrs.flag_or(name, false).unwrap_or(true);
    match node.op.as_str() {
        "QLinearConv" => {
            let constant = [3, 5].iter().all(|&i| part.constant(node, i).is_some());
            let pad = node.attrs.str_or("auto_pad", "NOTSET");
            let planar = part.constant(node, 3).is_some_and(|w| (3..=4).contains(&w.rank()));
            planar && constant && !set("channels_last") && pad.is_ok_and(|pad| pad == "NOTSET")
        }
        "QLinearMatMul" => is_by_column(part, node, (3, &[4, 5])),
        "MatMulInteger" => is_by_column(part, node, (1, &[3])),
        "com.microsoft.QGemm" => [0, 3].iter().all(|&index| form.may_be(index, CODES)),
        "QuantizeLinear" => {
            let codes = match node.input(2) {
                Some(_) => form.may_be(2, CODES),
                None => asked(node).is_some_and(|dtype| CODES.contains(&dtype)),
            };
            codes && whole && floats(0) && floats(1) && !set("precision")
        }
        "DequantizeLinear" => {
            let wide = [CODES, &[DType::I32]].concat();
            form.may_be(0, &wide) && whole && floats(1) && gives_floats(node)
        }
        _ => true,
    }
}

fn compile_conv(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let kept = IntConv::of(part, node, PackedIntConv::new);
    program("conv int8", move |call| conv(call, &kept))
}

fn conv(call: &mut Call<'_>, kept: &IntConv<PackedIntConv>) -> Outcome {
    let (x, w) = (call.tensor(0)?.clone(), call.tensor(3)?.clone());
    let geometry = ConvGeometry::resolve(&call.node.attrs, x.shape(), w.shape())?;
    let Some(shape) = shape_of(&geometry) else { return Ok(None) };
    let (Some(packed), Some(source), Some(terms)) =
        (kept.weights(call, &w, shape), bytes(&x), kept.terms(call, x.dtype(), shape.m))
    else {
        return Ok(None);
    };
    let Some([h, width]) = pair(&geometry.input, 1) else { return Ok(None) };
    let makes = conv::makes(&geometry, shape.out(h, width));
    if *packed.shape() != shape || !makes || !conv::fits(&shape, h, width) {
        return Ok(None);
    }
    let factors = single(&terms.factors).map_or(Per::Row(&terms.factors), Per::All);
    let mut out = call.output(0, terms.dtype, &geometry.output_shape())?;
    let mut sink = match terms.dtype {
        DType::U8 => IntOut::U8(out.as_mut_slice()?, factors, terms.y_zero),
        _ => IntOut::I8(out.as_mut_slice()?, factors, terms.y_zero),
    };
    packed.run(source, terms.x_zero, (geometry.batch, h, width), terms.bias()?, &mut sink);
    one(out)
}

pub(super) fn matrix(
    tensor: &Tensor,
    rows: usize,
    cols: usize,
    strides: (usize, usize),
) -> Option<IntMat<'_>> {
    match tensor.dtype() {
        DType::U8 => Some(IntMat::u8(tensor.as_slice().ok()?, rows, cols, strides)),
        DType::I8 => Some(IntMat::i8(tensor.as_slice().ok()?, rows, cols, strides)),
        _ => None,
    }
}

/// A constant right operand of rank 2.
fn weights<'a>(part: &Part<'a>, node: &Node, index: usize) -> Option<IntMat<'a>> {
    let weights = part.constant(node, index).filter(|weights| !weights.is_empty())?;
    let &[k, n] = weights.shape() else { return None };
    matrix(weights, k, n, (n, 1))
}

pub(super) fn pack(part: &Part<'_>, node: &Node, index: usize) -> Option<PackedIntB> {
    weights(part, node, index).map(|weights| PackedIntB::new(isa(), weights))
}

/// Whether a scale or zero point is one for all, or one for each of `n` columns.
fn is_row(tensor: Option<&Tensor>, n: usize) -> bool {
    tensor.is_none_or(|tensor| match tensor.shape() {
        [lead @ .., cols] => *cols == n && product(lead) == 1 || tensor.len() == 1,
        [] => true,
    })
}

/// Whether an input is weights, and others are one number or one for each column, as far as they
/// are known.
fn is_by_column(part: &Part<'_>, node: &Node, (index, others): (usize, &[usize])) -> bool {
    let rows = |n: usize| others.iter().all(|&other| is_row(part.constant(node, other), n));
    weights(part, node, index).is_some_and(|weights| rows(weights.cols()))
}

/// Rows, terms and columns of a product whose right operand is one matrix.
fn tall(a: &Tensor, b: &Tensor) -> Option<(MatMulForm, usize)> {
    if a.rank() < 2 || b.rank() != 2 || a.is_empty() || b.is_empty() {
        return None;
    }
    let form = MatMulForm::resolve(&hetra_ir::Attrs::default(), a.shape(), b.shape()).ok()?;
    let rows = a.len() / form.k;
    Some((form, rows))
}

fn compile_matmul(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let packed = pack(part, node, 3)?;
    program("gemm int8", move |call| {
        let inputs = inputs(call);
        let (a, b) = (call.tensor(0)?.clone(), call.tensor(3)?.clone());
        let Some((form, rows)) = tall(&a, &b) else { return Ok(None) };
        let scale = |index: usize| at(&inputs, index).and_then(scales).and_then(single);
        let (Some(of_a), Some(of_b), Some(of_y)) =
            (scale(1), at(&inputs, 4).and_then(scales), scale(6))
        else {
            return Ok(None);
        };
        let Some(output) = at(&inputs, 7) else { return Ok(None) };
        let zero = |index, dtype| zeros(at(&inputs, index), dtype).as_deref().and_then(single);
        let (Some(a_zero), Some(b_zero), Some(y_zero)) =
            (zero(2, a.dtype()), zeros(at(&inputs, 5), b.dtype()), zero(7, output.dtype()))
        else {
            return Ok(None);
        };
        let Some(left) = matrix(&a, rows, form.k, (form.k, 1)) else { return Ok(None) };
        let rows = [4, 5].iter().all(|&index| is_row(at(&inputs, index), form.n));
        if !rows || !CODES.contains(&output.dtype()) {
            return Ok(None);
        }
        let factors: Vec<f32> = of_b.iter().map(|b| of_a * b / of_y).collect();
        let factors = single(&factors).map_or(Per::Col(&factors), Per::All);
        let terms = IntTerms {
            a_zero: Per::All(a_zero),
            b_zero: single(&b_zero).map_or(Per::Col(&b_zero), Per::All),
            ..IntTerms::default()
        };
        let mut out = call.output(0, output.dtype(), &form.output)?;
        let mut sink = match output.dtype() {
            DType::U8 => IntOut::U8(out.as_mut_slice()?, factors, y_zero),
            DType::I8 => IntOut::I8(out.as_mut_slice()?, factors, y_zero),
            _ => return Ok(None),
        };
        gemm_int8(isa(), IntLhs::View(left), IntRhs::Packed(&packed), &terms, &mut sink);
        one(out)
    })
}

fn compile_matmul_integer(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let packed = pack(part, node, 1)?;
    program("gemm int8", move |call| run_matmul_integer(call, &packed))
}

fn run_matmul_integer(call: &mut Call<'_>, packed: &PackedIntB) -> Outcome {
    let inputs = inputs(call);
    let (a, b) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let Some((form, rows)) = tall(&a, &b) else { return Ok(None) };
    let a_zero = zeros(at(&inputs, 2), a.dtype());
    let (Some(a_zero), Some(b_zero)) =
        (a_zero.as_deref().and_then(single), zeros(at(&inputs, 3), b.dtype()))
    else {
        return Ok(None);
    };
    let Some(left) = matrix(&a, rows, form.k, (form.k, 1)) else { return Ok(None) };
    if !is_row(at(&inputs, 3), form.n) {
        return Ok(None);
    }
    let terms = IntTerms {
        a_zero: Per::All(a_zero),
        b_zero: single(&b_zero).map_or(Per::Col(&b_zero), Per::All),
        ..IntTerms::default()
    };
    let mut out = call.output(0, DType::I32, &form.output)?;
    let mut sink = IntOut::I32(out.as_mut_slice()?);
    gemm_int8(isa(), IntLhs::View(left), IntRhs::Packed(packed), &terms, &mut sink);
    one(out)
}

/// The middle axis along which scales go; `None` for blocks.
fn spread(call: &Call<'_>, shape: &[usize], scale: &Tensor) -> Option<[usize; 3]> {
    match QuantAxis::of(&call.node.attrs, shape, scale.shape()).ok()? {
        QuantAxis::Tensor => Some([1, 1, product(shape)]),
        QuantAxis::Axis(axis) => {
            Some([product(&shape[..axis]), shape[axis], product(&shape[axis + 1..])])
        }
        QuantAxis::Blocks { .. } => None,
    }
}

/// Whether there is one scale, or one for each index of the axis, and as many zero points (a
/// missing one is one).
fn is_spread(form: &Scales<'_>) -> bool {
    let (scales, zeros) = (form.scale.len(), form.zero.len());
    (scales == 1 || scales == form.shape[1]) && (zeros == scales || form.zero == [0])
}

/// The dtype of codes that a node asks for: u8 unless it says so.
fn asked(node: &Node) -> Option<DType> {
    match node.attrs.int_or("output_dtype", 0).ok()? {
        0 => Some(DType::U8),
        code => DType::from_onnx(i32::try_from(code).ok()?),
    }
}

/// Whether a node asks for f32, or for what its scale is.
fn gives_floats(node: &Node) -> bool {
    let asked = node.attrs.int_or("output_dtype", 0);
    asked.is_ok_and(|asked| asked == 0 || asked == i64::from(DType::F32.onnx()))
}

fn compile_quantize(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    program("quantize", |call| {
        let inputs = inputs(call);
        let (x, scale) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
        let Some(asked) = asked(call.node) else { return Ok(None) };
        let dtype = at(&inputs, 2).map_or(asked, Tensor::dtype);
        let named = call.node.attrs.int_or("output_dtype", 0)?;
        let plain = named == 0 || dtype == asked;
        let (Some(shape), Some(factors), Some(zero)) =
            (spread(call, x.shape(), &scale), scales(&scale), zeros(at(&inputs, 2), dtype))
        else {
            return Ok(None);
        };
        if !CODES.contains(&dtype) || x.dtype() != DType::F32 || !plain || x.is_empty() {
            return Ok(None);
        }
        let form = Scales { scale: factors, zero: &zero, shape };
        if !is_spread(&form) {
            return Ok(None);
        }
        let source = x.as_slice::<f32>()?;
        let mut out = call.output(0, dtype, x.shape())?;
        match dtype {
            DType::U8 => quantize_linear::<u8>(isa(), source, &form, out.as_mut_slice()?),
            DType::I8 => quantize_linear::<i8>(isa(), source, &form, out.as_mut_slice()?),
            _ => return Ok(None),
        }
        one(out)
    })
}

fn compile_dequantize(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    program("dequantize", |call| {
        let inputs = inputs(call);
        let (x, scale) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
        let (Some(shape), Some(factors), Some(zero)) =
            (spread(call, x.shape(), &scale), scales(&scale), zeros(at(&inputs, 2), x.dtype()))
        else {
            return Ok(None);
        };
        if !matches!(x.dtype(), DType::U8 | DType::I8 | DType::I32)
            || x.is_empty()
            || !gives_floats(call.node)
        {
            return Ok(None);
        }
        let form = Scales { scale: factors, zero: &zero, shape };
        if !is_spread(&form) {
            return Ok(None);
        }
        let mut out = call.output(0, DType::F32, x.shape())?;
        let target = out.as_mut_slice::<f32>()?;
        match x.dtype() {
            DType::U8 => dequantize_linear(isa(), x.as_slice::<u8>()?, &form, target),
            DType::I8 => dequantize_linear(isa(), x.as_slice::<i8>()?, &form, target),
            DType::I32 => dequantize_linear(isa(), x.as_slice::<i32>()?, &form, target),
            _ => return Ok(None),
        }
        one(out)
    })
}

/// The range of the input, then its codes; outputs are codes, scale and zero point.
fn compile_dynamic(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    program("quantize", |call| {
        let x = call.tensor(0)?.clone();
        if x.dtype() != DType::F32 || x.is_empty() {
            return Ok(None);
        }
        let source = x.as_slice::<f32>()?;
        let mut range = [0.0; 2];
        reduce(isa(), Reduce::Min, source, [1, source.len(), 1], &mut range[..1]);
        reduce(isa(), Reduce::Max, source, [1, source.len(), 1], &mut range[1..]);
        if range.iter().any(|bound| !bound.is_finite()) {
            return Ok(None);
        }
        let (scale, zero) = dynamic_params(&range);
        let form =
            Scales { scale: &[scale], zero: &[i32::from(zero)], shape: [1, 1, source.len()] };
        let mut out = call.output(0, DType::U8, x.shape())?;
        quantize_linear::<u8>(isa(), source, &form, out.as_mut_slice()?);
        Ok(Some(smallvec![out.into(), Tensor::scalar(scale).into(), Tensor::scalar(zero).into()]))
    })
}

/// Inputs: a, b with scales and zero points, a bias of i32, scale and zero point of the output.
fn compile_gemm(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let flags = ["transA", "transB"].map(|name| node.attrs.flag_or(name, false));
    let [Ok(left), Ok(right)] = flags else { return None };
    let alpha = node.attrs.float_or("alpha", 1.0).ok()?;
    program("gemm int8", move |call| run_gemm(call, (left, right), alpha))
}

/// A matrix that may stand transposed.
fn turned(tensor: &Tensor, transposed: bool) -> Option<IntMat<'_>> {
    let &[rows, cols] = tensor.shape() else { return None };
    match transposed {
        _ if tensor.is_empty() => None,
        true => matrix(tensor, cols, rows, (1, cols)),
        false => matrix(tensor, rows, cols, (cols, 1)),
    }
}

fn run_gemm(call: &mut Call<'_>, (left, right): (bool, bool), alpha: f32) -> Outcome {
    let inputs = inputs(call);
    let (a, b) = (call.tensor(0)?.clone(), call.tensor(3)?.clone());
    let (Some(a), Some(b)) = (turned(&a, left), turned(&b, right)) else { return Ok(None) };
    let (m, n) = (a.rows(), b.cols());
    let scale = |index: usize| at(&inputs, index).and_then(scales).and_then(single);
    let (a_type, b_type) = (call.tensor(0)?.dtype(), call.tensor(3)?.dtype());
    let zero = |index, dtype| zeros(at(&inputs, index), dtype).as_deref().and_then(single);
    let (Some(of_a), Some(a_zero), Some(of_b), Some(b_zero)) =
        (scale(1), zero(2, a_type), at(&inputs, 4).and_then(scales), zeros(at(&inputs, 5), b_type))
    else {
        return Ok(None);
    };
    let bias = at(&inputs, 6).map(Tensor::as_slice::<i32>).transpose()?;
    let row = at(&inputs, 6).is_none_or(|bias| matches!(*bias.shape(), [c] | [1, c] if c == n));
    let fits = |len: usize| len == 1 || len == n;
    if a.cols() != b.rows() || !row || !fits(of_b.len()) || !fits(b_zero.len()) {
        return Ok(None);
    }
    let terms = IntTerms {
        a_zero: Per::All(a_zero),
        b_zero: single(&b_zero).map_or(Per::Col(&b_zero), Per::All),
        bias: bias.map_or(Per::All(0), Per::Col),
    };
    let mut factors: Vec<f32> = of_b.iter().map(|b| alpha * of_a * b).collect();
    let (y_scale, dtype) = match at(&inputs, 7) {
        None => (None, DType::F32),
        Some(_) => {
            let Some(scale) = scale(7) else { return Ok(None) };
            (Some(scale), at(&inputs, 8).map_or(a_type, Tensor::dtype))
        }
    };
    if let Some(scale) = y_scale {
        factors.iter_mut().for_each(|factor| *factor /= scale);
    }
    let factors = single(&factors).map_or(Per::Col(&factors), Per::All);
    let Some(y_zero) = zero(8, dtype).filter(|_| y_scale.is_none() || CODES.contains(&dtype))
    else {
        return Ok(None);
    };
    let mut out = call.output(0, dtype, &[m, n])?;
    let mut sink = match dtype {
        DType::F32 => IntOut::F32(out.as_mut_slice()?, factors, Per::All(0.0), Activation::None),
        DType::U8 => IntOut::U8(out.as_mut_slice()?, factors, y_zero),
        DType::I8 => IntOut::I8(out.as_mut_slice()?, factors, y_zero),
        _ => return Ok(None),
    };
    gemm_int8(isa(), IntLhs::View(a), IntRhs::View(b), &terms, &mut sink);
    one(out)
}
