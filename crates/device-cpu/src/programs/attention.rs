//! Attention without past keys on (batch, heads, tokens, width) tensors.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::AttentionForm;
use hetra_tensor::{DType, Tensor};

use super::{Compile, Form, Outcome, program};
use crate::kernels::attention::{Attention, HeadStrides, Mask, attention};
use crate::kernels::broadcast::broadcast_strides;
use crate::kernels::isa::isa;

pub(super) static OPS: &[(&str, Compile)] = &[("Attention", compile)];

pub(super) fn takes(Form { node, .. }: &Form<'_>) -> bool {
    let cached = (4..7).any(|index| node.input(index).is_some());
    let more = (1..4).any(|index| node.output(index).is_some());
    // A causal mask counts from the first query in the operator and from the last one in the
    // kernel: they agree only for as many queries as keys, which is not known here.
    let plain = |form: AttentionForm| form.softcap == 0.0 && !form.causal;
    !cached && !more && AttentionForm::of(&node.attrs).is_ok_and(plain)
}

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let form = AttentionForm::of(&node.attrs).ok()?;
    program("attention", &[], move |call| run(call, &form))
}

/// Strides of a dense tensor with the tokens in place 2.
fn dense(shape: &[usize]) -> HeadStrides {
    let (tokens, width) = (shape[2], shape[3]);
    HeadStrides { batch: shape[1] * tokens * width, head: tokens * width, token: width }
}

fn run(call: &mut Call<'_>, form: &AttentionForm) -> Outcome {
    let (q, k) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let (v, mask) = (call.tensor(2)?.clone(), call.tensor_opt(3).cloned());
    let floats = [Some(&q), Some(&k), Some(&v), mask.as_ref()];
    let plain = floats.into_iter().flatten().all(|t| t.dtype() == DType::F32 && !t.is_empty());
    let (&[batch, heads, queries, dim], &[kb, kv_heads, keys, kd], &[vb, vh, vk, v_dim]) =
        (q.shape(), k.shape(), v.shape())
    else {
        return Ok(None);
    };
    let fits = kb == batch && vb == batch && kd == dim && vh == kv_heads && vk == keys;
    if !plain || !fits || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Ok(None);
    }
    let scores = [batch, heads, queries, keys];
    let strides = match &mask {
        None => None,
        // A mask of fewer keys closes the others: the last axis does not broadcast.
        Some(mask) if mask.shape().last() != Some(&keys) => return Ok(None),
        Some(mask) => match broadcast_strides(mask.shape(), &scores) {
            Some(strides) => Some([strides[0], strides[1], strides[2], strides[3]]),
            None => return Ok(None),
        },
    };
    let data = mask.as_ref().map(Tensor::as_slice::<f32>).transpose()?;
    let shape = [batch, heads, queries, v_dim];
    let mut out = call.output(0, DType::F32, &shape)?;
    let work = Attention {
        batch,
        heads,
        kv_heads,
        queries,
        keys,
        dim,
        v_dim,
        scale: form.scale.unwrap_or(1.0 / (dim as f32).sqrt()),
        causal: false,
        mask: data.zip(strides).map(|(data, strides)| Mask { data, strides }),
    };
    let (qs, ks, vs) = (q.as_slice()?, k.as_slice()?, v.as_slice()?);
    let operands = ((qs, dense(q.shape())), (ks, dense(k.shape())), (vs, dense(v.shape())));
    attention(isa(), &work, operands.0, operands.1, operands.2, out.as_mut_slice()?, dense(&shape));
    Ok(Some(vec![out.into()]))
}
