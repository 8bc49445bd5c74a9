//! Attention of ai.onnx, on tensors by heads or by tokens, with a past or without.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::{Dim, Node};
use hetra_ops::AttentionForm;
use hetra_tensor::Tensor;

use super::heads::{Cache, Scores, Side, attend, mask_of};
use super::quantised::{at, inputs};
use super::{Compile, Form, Outcome, program};

pub(super) static OPS: &[(&str, Compile)] = &[("Attention", compile)];

pub(super) fn takes(form: &Form<'_>) -> bool {
    let node = form.node;
    let tokens = |index: usize| match form.ty(node.input(index)).dims() {
        Some([.., tokens, _]) => tokens.clone(),
        _ => Dim::Unknown,
    };
    // A causal mask counts from the first query in the operator and from the last one in the
    // kernel: they agree for as many queries as keys. What is open is seen at run time.
    let square = match (tokens(0), tokens(1)) {
        (Dim::Known(queries), Dim::Known(keys)) => queries == keys,
        _ => true,
    };
    let plain = |form: AttentionForm| form.softcap == 0.0 && (!form.causal || square);
    // Lengths without padding and the scores are the reference's business.
    let rare = node.input(6).is_some() || node.output(3).is_some();
    !rare && AttentionForm::of(&node.attrs).is_ok_and(plain)
}

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let form = AttentionForm::of(&node.attrs).ok()?;
    program("attention", move |call| run(call, &form))
}

fn side(tensor: Option<&Tensor>, heads: Option<usize>) -> Option<Side<'_>> {
    let tensor = tensor?;
    match tensor.rank() {
        4 => Side::by_heads(tensor),
        _ => Side::by_tokens(tensor, heads?),
    }
}

fn run(call: &mut Call<'_>, form: &AttentionForm) -> Outcome {
    let inputs = inputs(call);
    let given = |index: usize| at(&inputs, index);
    let (Some(q), Some(new_k), Some(new_v)) =
        (side(given(0), form.heads), side(given(1), form.kv_heads), side(given(2), form.kv_heads))
    else {
        return Ok(None);
    };
    if form.causal && new_k.tokens != q.tokens {
        return Ok(None);
    }
    let new = [new_k, new_v];
    let Some(cache) = Cache::of(call, new, [given(4), given(5)])? else { return Ok(None) };
    let Some([k, v]) = cache.sides(new) else { return Ok(None) };
    let mut room = Vec::new();
    let mask = match given(3) {
        None => None,
        Some(mask) => match mask_of(mask, &[q.batch, q.heads, q.tokens, k.tokens], &mut room) {
            None => return Ok(None),
            mask => mask,
        },
    };
    let merged = given(0).is_some_and(|q| q.rank() == 3);
    let scores = Scores { scale: form.scale, causal: form.causal, mask };
    let Some(out) = attend(call, [q, k, v], &scores, merged)? else { return Ok(None) };
    Ok(Some(cache.outputs(call, out)))
}
