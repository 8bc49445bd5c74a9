//! Products with weights of 4 or 8 bits in blocks.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::NBitsForm;
use hetra_tensor::{DType, Tensor};

use super::{Compile, Form, Outcome, one, program};
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::nbits::{BLOCK_MAX, NBits, matmul_nbits};

pub(super) static OPS: &[(&str, Compile)] = &[("com.microsoft.MatMulNBits", compile)];

pub(super) fn takes(form: &Form<'_>) -> bool {
    let node = form.node;
    let blocks = |form: NBitsForm| {
        let even = form.block.is_multiple_of(2) && form.block <= BLOCK_MAX;
        matches!(form.bits, 4 | 8) && even
    };
    // Weights in another order than that of their blocks, and zero points between codes, are the
    // reference's business.
    let plain = node.input(4).is_none() && form.may_be(3, &[DType::U8]);
    plain && NBitsForm::of(&node.attrs).is_ok_and(blocks)
}

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let form = NBitsForm::of(&node.attrs).ok()?;
    program("gemm nbits", move |call| run(call, &form))
}

fn run(call: &mut Call<'_>, form: &NBitsForm) -> Outcome {
    let (a, packed, scales) =
        (call.tensor(0)?.clone(), call.tensor(1)?.clone(), call.tensor(2)?.clone());
    let (zeros, bias) = (call.tensor_opt(3).cloned(), call.tensor_opt(5).cloned());
    let floats = [Some(&a), Some(&scales), bias.as_ref()];
    let floats = floats.into_iter().flatten().all(|tensor| tensor.dtype() == DType::F32);
    let codes = [Some(&packed), zeros.as_ref()];
    let codes = codes.into_iter().flatten().all(|tensor| tensor.dtype() == DType::U8);
    let sizes = a.shape().last() == Some(&form.k)
        && packed.len() == form.n * form.blocks * form.block_bytes()
        && scales.len() == form.n * form.blocks
        && zeros.as_ref().is_none_or(|zeros| zeros.len() == form.n * form.zero_bytes())
        && bias.as_ref().is_none_or(|bias| bias.shape() == [form.n]);
    if !floats || !codes || !sizes || a.is_empty() {
        return Ok(None);
    }
    let mut shape = a.shape().to_vec();
    shape.pop();
    shape.push(form.n);
    let mut out = call.output(0, DType::F32, &shape)?;
    let weights = NBits {
        bits: form.bits,
        n: form.n,
        k: form.k,
        block: form.block,
        data: packed.as_slice()?,
        scales: scales.as_slice()?,
        zeros: zeros.as_ref().map(Tensor::as_slice).transpose()?,
    };
    let bias = bias.as_ref().map(Tensor::as_slice).transpose()?;
    matmul_nbits(isa(), a.as_slice()?, a.len() / form.k, &weights, bias, out.as_mut_slice()?);
    one(out)
}
