//! Matrix products: packs a constant right operand once.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::{Dim, Node};
use hetra_ops::{Compute, GemmForm, MatMulForm};
use hetra_tensor::{DType, Tensor};
use smallvec::{SmallVec, smallvec};

use super::conv::{activation, rounding_name, scratch_fits};
use super::extents::product;
use super::{Compile, Form, Outcome, one, program};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::gemm::{Batch, Bias, Epilogue, Lhs, Mat, PackedB, Rhs, gemm, gemm_batch};

pub(super) static OPS: &[(&str, Compile)] = &[
    ("MatMul", compile_matmul),
    ("com.microsoft.FusedMatMul", compile_matmul),
    ("Gemm", compile_gemm),
    ("com.microsoft.FusedGemm", compile_gemm),
];

/// A constant matrix: k by n, stored transposed or not.
pub(super) fn pack(tensor: &Tensor, transposed: bool) -> Option<PackedB> {
    pack_for(tensor, transposed, Compute::F32)
}

/// Whether a packed matrix is not much larger than it is: a narrow one is filled up to the width of
/// a panel.
fn panels_fit((rows, cols): (usize, usize), transposed: bool) -> bool {
    let (k, n) = if transposed { (cols, rows) } else { (rows, cols) };
    let panel = PackedB::columns(isa(), 1);
    n >= panel || scratch_fits(&[k, panel])
}

fn pack_for(tensor: &Tensor, transposed: bool, compute: Compute) -> Option<PackedB> {
    let (&[rows, cols], data) = (tensor.shape(), tensor.as_slice::<f32>().ok()?) else {
        return None;
    };
    if data.is_empty() || !panels_fit((rows, cols), transposed) {
        return None;
    }
    let mat =
        if transposed { Mat::transposed(data, cols, rows) } else { Mat::new(data, rows, cols) };
    Some(match compute {
        Compute::F32 => PackedB::new(isa(), mat),
        Compute::Bf16 => PackedB::bf16(isa(), mat),
    })
}

pub(super) fn takes(form: &Form<'_>) -> bool {
    let node = form.node;
    let rounded = match Compute::of(&node.attrs) {
        Ok(Compute::F32) => true,
        // Only what is packed is rounded, for a matrix of rows.
        Ok(Compute::Bf16) if form.rank(0) == Some(1) => false,
        Ok(Compute::Bf16) => form
            .part
            .constant(node, 1)
            .is_some_and(|b| b.rank() == 2 && b.dtype() == DType::F32 && !b.is_empty()),
        Err(_) => false,
    };
    rounded && activation(node).is_some() && (node.input(2).is_none() || takes_bias(form))
}

/// The kernel adds one row to all others, or as many numbers as there are outputs. What is open is
/// seen at run time.
fn takes_bias(form: &Form<'_>) -> bool {
    let node = form.node;
    let plain = !node.op.ends_with("Gemm")
        || node.attrs.float_or("beta", 1.0).is_ok_and(|beta| beta == 1.0);
    let Some(bias) = form.ty(node.input(2)).dims() else { return plain };
    let open = Dim::Unknown;
    let may_be = |a: &Dim, b: &Dim| a == b || [a, b].contains(&&open);
    let output = form.ty(node.output(0)).dims();
    let columns = output.and_then(<[Dim]>::last).unwrap_or(&open);
    let row = bias.split_last().is_some_and(|(last, ones)| {
        let short = output.is_none_or(|output| bias.len() <= output.len());
        short && may_be(last, columns) && ones.iter().all(|one| may_be(one, &Dim::Known(1)))
    });
    let same = output.is_none_or(|output| {
        output.len() == bias.len() && output.iter().zip(bias).all(|(a, b)| may_be(a, b))
    });
    plain && (row || same)
}

fn compile_matmul(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let act = activation(node)?;
    let plain = |flag: &str| node.attrs.flag_or(flag, false).is_ok_and(|flag| !flag);
    let turned = node.attrs.flag_or("transB", false).ok()?;
    let weights = part.constant(node, 1).filter(|_| plain("transBatchB"));
    let compute = Compute::of(&node.attrs).ok()?;
    let packed = weights.and_then(|weights| pack_for(weights, turned, compute));
    let name = rounding_name("gemm", compute);
    program(&name, move |call| run_matmul(call, packed.as_ref(), (act, compute)))
}

/// What is added to a product of `n` columns: a row for all of its rows, or a number for each of
/// its elements with the distance of rows.
type Summand<'a> = (Bias<'a>, Option<(&'a [f32], usize)>);

/// `None` for other broadcasts to the output.
fn summand<'a>(tensor: Option<&'a Tensor>, output: &[usize], n: usize) -> Option<Summand<'a>> {
    let Some(tensor) = tensor else { return Some((Bias::None, None)) };
    let values = tensor.as_slice::<f32>().ok()?;
    let row = matches!(tensor.shape(), [ones @ .., last] if *last == n && product(ones) == 1);
    if row && tensor.rank() <= output.len() {
        return Some((Bias::Col(values), None));
    }
    (tensor.shape() == output).then_some((Bias::None, Some((values, n))))
}

fn run_matmul(
    call: &mut Call<'_>,
    packed: Option<&PackedB>,
    (act, compute): (Activation, Compute),
) -> Outcome {
    let (a, b) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let bias = call.tensor_opt(2).cloned();
    let floats = [Some(&a), Some(&b), bias.as_ref()];
    if floats.into_iter().flatten().any(|t| t.dtype() != DType::F32) {
        return Ok(None);
    }
    let form = MatMulForm::resolve(&call.node.attrs, a.shape(), b.shape())?;
    let Some((bias, residual)) = summand(bias.as_ref(), &form.output, form.n) else {
        return Ok(None);
    };
    if a.is_empty() || b.is_empty() {
        return Ok(None);
    }
    let ep = Epilogue { alpha: form.alpha, bias, residual, act, ..Epilogue::default() };
    let left = a.as_slice::<f32>()?;
    let rows = form.batch.iter().product::<usize>() * form.m;
    // Rows of the left operand in one run of memory make one tall matrix.
    let dense =
        form.a.col_stride == 1 && form.a.row_stride == form.k && left.len() == rows * form.k;
    let shared = b.rank() <= 2;
    let packed = packed.filter(|packed| packed.rows() == form.k && packed.cols() == form.n);
    if compute != Compute::F32 && !(dense && shared && packed.is_some()) {
        return Ok(None);
    }
    let mut out = call.output(0, DType::F32, &form.output)?;
    let c = out.as_mut_slice::<f32>()?;
    if dense && shared {
        let rhs = match packed {
            Some(packed) => Rhs::Packed(packed),
            None => {
                let (rs, cs) = (form.b.row_stride, form.b.col_stride);
                Rhs::View(Mat::strided(b.as_slice()?, form.k, form.n, rs, cs))
            }
        };
        gemm(isa(), Lhs::View(Mat::new(left, rows, form.k)), rhs, c, form.n, &ep);
    } else {
        let batch = Batch {
            m: form.m,
            n: form.n,
            k: form.k,
            a_strides: (form.a.row_stride, form.a.col_stride),
            b_strides: (form.b.row_stride, form.b.col_stride),
            a_offsets: &offsets(&form.batch, &form.a.batch_strides),
            b_offsets: &offsets(&form.batch, &form.b.batch_strides),
        };
        gemm_batch(isa(), &batch, left, b.as_slice()?, c, &ep);
    }
    one(out)
}

/// As many as a layer has heads are not on the heap.
type Offsets = SmallVec<[usize; 16]>;

/// Start of each matrix of a batch, in row-major order of the batch axes.
pub(super) fn offsets(batch: &[usize], strides: &[usize]) -> Offsets {
    let mut all: Offsets = smallvec![0];
    for (&extent, &stride) in batch.iter().zip(strides) {
        all = all
            .iter()
            .flat_map(|&base| (0..extent).map(move |index| base + index * stride))
            .collect();
    }
    all
}

fn compile_gemm(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let act = activation(node)?;
    let turned = node.attrs.flag_or("transB", false).ok()?;
    let compute = Compute::of(&node.attrs).ok()?;
    let weights = part.constant(node, 1);
    let packed = weights.and_then(|weights| pack_for(weights, turned, compute));
    if compute != Compute::F32 && packed.is_none() {
        return None;
    }
    let name = rounding_name("gemm", compute);
    program(&name, move |call| run_gemm(call, packed.as_ref(), act))
}

fn run_gemm(call: &mut Call<'_>, packed: Option<&PackedB>, act: Activation) -> Outcome {
    let (a, b) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let c_in = call.tensor_opt(2).cloned();
    let floats = [Some(&a), Some(&b), c_in.as_ref()];
    if floats.into_iter().flatten().any(|t| t.dtype() != DType::F32) || a.is_empty() || b.is_empty()
    {
        return Ok(None);
    }
    let form = GemmForm::resolve(&call.node.attrs, a.shape(), b.shape())?;
    if c_in.is_some() && form.beta != 1.0 {
        return Ok(None);
    }
    let Some((bias, residual)) = summand(c_in.as_ref(), &[form.m, form.n], form.n) else {
        return Ok(None);
    };
    let mut out = call.output(0, DType::F32, &[form.m, form.n])?;
    let left = a.as_slice::<f32>()?;
    let left = if form.trans_a {
        Mat::transposed(left, form.m, form.k)
    } else {
        Mat::new(left, form.m, form.k)
    };
    let rhs = match packed {
        Some(packed) => Rhs::Packed(packed),
        None if form.trans_b => Rhs::View(Mat::transposed(b.as_slice()?, form.k, form.n)),
        None => Rhs::View(Mat::new(b.as_slice()?, form.k, form.n)),
    };
    let ep = Epilogue { alpha: form.alpha, bias, residual, act, ..Epilogue::default() };
    gemm(isa(), Lhs::View(left), rhs, out.as_mut_slice()?, form.n, &ep);
    one(out)
}
