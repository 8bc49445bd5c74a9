//! Attention operators of com.microsoft: Attention and QAttention, which project one input, and
//! MultiHeadAttention.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::{Heads, MicrosoftAttentionForm, OpError, Padding};
use hetra_tensor::{DType, Shape, Tensor, broadcast};
use smallvec::smallvec;

use super::conv::scratch_fits;
use super::extents::product;
use super::heads::{Cache, Scores, Side, attend, made, mask_of, past_of};
use super::quantised::{at, inputs, matrix, pack, scales, single, zeros};
use super::{Compile, Form, Outcome, matmul, program};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_base::scratch::lend;
use hetra_cpu_kernels::attention::Mask;
use hetra_cpu_kernels::gemm::{Bias, Epilogue, Lhs, Mat, PackedB, Rhs, gemm};
use hetra_cpu_kernels::int8::{IntLhs, IntOut, IntRhs, IntTerms, PackedIntB, Per, gemm_int8};
use hetra_cpu_rows::broadcast::{Binary, binary, broadcast_strides};

pub(super) static OPS: &[(&str, Compile)] = &[
    ("com.microsoft.Attention", compile_projected),
    ("com.microsoft.QAttention", compile_quantised),
    ("com.microsoft.MultiHeadAttention", compile_heads),
];

pub(super) fn takes(form: &Form<'_>) -> bool {
    let node = form.node;
    let plain = |flag: &str| node.attrs.flag_or(flag, false).is_ok_and(|set| !set);
    let float =
        |index: usize| form.ty(node.input(index)).dtype().is_none_or(|dtype| dtype == DType::F32);
    let more = match node.op.as_str() {
        // Scores, and caches that are written in place.
        "com.microsoft.MultiHeadAttention" => {
            float(0) && ![8, 9].iter().any(|&i| node.input(i).is_some()) && node.output(3).is_none()
        }
        "com.microsoft.QAttention" => float(3) && form.part.constant(node, 1).is_some(),
        _ => float(0) && node.input(6).is_none(),
    };
    more && plain("do_rotary")
        && plain("past_present_share_buffer")
        && MicrosoftAttentionForm::of(node).is_ok()
}

/// Where the inputs of the attention itself stand.
struct Places {
    padding: usize,
    bias: Option<usize>,
    past: usize,
}

/// The lowest number that a mask may add beside a causal one. The operator gives a key that the
/// causal mask hides a finite score: a query of which all other keys are lower would see it.
const BESIDE_CAUSAL_MIN: f32 = -1e30;

/// The mask that two inputs make together; `room` is for its numbers. The outer `None` says that
/// the reference has to run.
fn mask_at<'a>(
    call: &Call<'_>,
    form: &MicrosoftAttentionForm,
    (padding, bias): (usize, Option<&'a Tensor>),
    (extents, past): (Heads, usize),
    room: &'a mut Vec<f32>,
) -> Result<Option<Option<Mask<'a>>>, OpError> {
    let Heads { batch, heads, queries, keys, .. } = extents;
    let scores = [batch, heads, queries, keys];
    let padding = Padding::of(&call.context(), padding, extents, past)?;
    let mask = match (&padding, bias) {
        (Padding::None, None) => return Ok(Some(None)),
        (Padding::None, Some(bias)) => mask_of(bias, &scores, room),
        _ => padded(&padding, bias, (form.filter, &scores), room),
    };
    let low = |mask: &Mask<'_>| mask.data.iter().any(|&number| number < BESIDE_CAUSAL_MIN);
    Ok(mask.filter(|mask| !form.causal || !low(mask)).map(Some))
}

/// A mask of padding, with another one added.
fn padded<'a>(
    padding: &Padding,
    bias: Option<&Tensor>,
    (filter, scores): (f32, &[usize; 4]),
    room: &'a mut Vec<f32>,
) -> Option<Mask<'a>> {
    let &[batch, _, queries, keys] = scores;
    let rows = match padding {
        Padding::Numbers { by_query: 1.., .. } => queries,
        _ => 1,
    };
    let mut shape: Shape = smallvec![batch, 1, rows, keys];
    if !scratch_fits(&shape) {
        return None;
    }
    for (item, query) in (0..batch).flat_map(|item| (0..rows).map(move |query| (item, query))) {
        let number = |key| if padding.open(item, query, key) { 0.0 } else { filter };
        room.extend((0..keys).map(number));
    }
    if let Some(bias) = bias {
        let values = bias.as_slice::<f32>().ok().filter(|_| bias.shape().last() == Some(&keys))?;
        let both = broadcast(&shape, bias.shape()).ok().filter(|both| scratch_fits(both))?;
        let (own, its) =
            (broadcast_strides(&shape, &both)?, broadcast_strides(bias.shape(), &both)?);
        let mut sum = vec![0.0; product(&both)];
        let (own, its) = ((&room[..], &own[..]), (values, &its[..]));
        binary(isa(), Binary::Add, Activation::None, &both, own, its, &mut sum);
        (*room, shape) = (sum, both);
    }
    let strides = broadcast_strides(&shape, scores)?.as_slice().try_into().ok()?;
    Some(Mask { data: room, strides })
}

fn extents(q: &Side<'_>, k: &Side<'_>, v: &Side<'_>) -> Heads {
    Heads {
        batch: q.batch,
        heads: q.heads,
        kv_heads: k.heads,
        queries: q.tokens,
        keys: k.tokens,
        width: q.width,
        v_width: v.width,
    }
}

fn compile_projected(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let form = MicrosoftAttentionForm::of(node).ok()?;
    let packed = part.constant(node, 1).and_then(|weights| matmul::pack(weights, false));
    program("attention", move |call| run_projected(call, &form, packed.as_ref()))
}

/// Batch, tokens, terms and columns of the projection of an input by weights.
fn projection(x: &Tensor, w: &Tensor) -> Option<[usize; 4]> {
    let (&[batch, tokens, k], &[rows, columns]) = (x.shape(), w.shape()) else { return None };
    let plain = rows == k && !x.is_empty() && !w.is_empty();
    (plain && scratch_fits(&[batch, tokens, columns])).then_some([batch, tokens, k, columns])
}

fn run_projected(
    call: &mut Call<'_>,
    form: &MicrosoftAttentionForm,
    packed: Option<&PackedB>,
) -> Outcome {
    let inputs = inputs(call);
    let (x, w) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let Some([batch, tokens, k, columns]) = projection(&x, &w) else { return Ok(None) };
    let bias = at(&inputs, 2);
    let floats = [Some(&x), Some(&w), bias];
    if floats.into_iter().flatten().any(|tensor| tensor.dtype() != DType::F32) {
        return Ok(None);
    }
    let bias = match bias {
        None => Bias::None,
        Some(bias) if bias.shape() == [columns] => Bias::Col(bias.as_slice()?),
        Some(_) => return Ok(None),
    };
    let mut all = lend(batch * tokens * columns);
    let left = Lhs::View(Mat::new(x.as_slice()?, batch * tokens, k));
    let right = match packed {
        Some(packed) => Rhs::Packed(packed),
        None => Rhs::View(Mat::new(w.as_slice()?, k, columns)),
    };
    gemm(isa(), left, right, &mut all, columns, &Epilogue { bias, ..Epilogue::default() });
    let places = Places { padding: 3, bias: Some(5), past: 4 };
    attend_projected(call, &inputs, form, (&all, [batch, tokens, columns]), &places)
}

fn compile_quantised(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let form = MicrosoftAttentionForm::of(node).ok()?;
    let packed = pack(part, node, 1)?;
    program("attention int8", move |call| run_quantised(call, &form, &packed))
}

fn run_quantised(
    call: &mut Call<'_>,
    form: &MicrosoftAttentionForm,
    packed: &PackedIntB,
) -> Outcome {
    let inputs = inputs(call);
    let (x, w) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let Some([batch, tokens, k, columns]) = projection(&x, &w) else { return Ok(None) };
    let factors = |index: usize| at(&inputs, index).and_then(scales);
    let (Some(of_x), Some(of_w), Some(bias)) =
        (factors(3).and_then(single), factors(4), factors(2))
    else {
        return Ok(None);
    };
    let zero = |index: usize, dtype| zeros(at(&inputs, index), dtype);
    let (Some(a_zero), Some(b_zero), Some(left)) = (
        zero(6, x.dtype()).as_deref().and_then(single),
        zero(7, w.dtype()),
        matrix(&x, batch * tokens, k, (k, 1)),
    ) else {
        return Ok(None);
    };
    let fits = |len: usize| len == 1 || len == columns;
    if bias.len() != columns || !fits(of_w.len()) || !fits(b_zero.len()) {
        return Ok(None);
    }
    let factors: Vec<f32> = of_w.iter().map(|of_w| of_x * of_w).collect();
    let factors = single(&factors).map_or(Per::Col(&factors), Per::All);
    let terms = IntTerms {
        a_zero: Per::All(a_zero),
        b_zero: single(&b_zero).map_or(Per::Col(&b_zero), Per::All),
        ..IntTerms::default()
    };
    let mut all = lend(batch * tokens * columns);
    let mut sink = IntOut::F32(&mut all, factors, Per::Col(bias), Activation::None);
    gemm_int8(isa(), IntLhs::View(left), IntRhs::Packed(packed), &terms, &mut sink);
    let places = Places { padding: 5, bias: None, past: 8 };
    attend_projected(call, &inputs, form, (&all, [batch, tokens, columns]), &places)
}

/// From q, k and v side by side in `[batch, tokens, columns]` to the outputs.
fn attend_projected(
    call: &mut Call<'_>,
    inputs: &[Option<Tensor>],
    form: &MicrosoftAttentionForm,
    (all, shape): (&[f32], [usize; 3]),
    places: &Places,
) -> Outcome {
    let [q_size, k_size, v_size] = MicrosoftAttentionForm::hidden_sizes(call.node, shape[2])?;
    let part = |start: usize, size: usize| Side::columns(all, shape, (start, size), form.heads);
    let (Some(q), Some(k), Some(v)) =
        (part(0, q_size), part(q_size, k_size), part(q_size + k_size, v_size))
    else {
        return Ok(None);
    };
    let past = at(inputs, places.past);
    let mut present = None;
    if past.is_some() || call.node.output(1).is_some() {
        present = joined(call, past, [k, v])?;
        if present.is_none() {
            return Ok(None);
        }
    }
    let (k, v) = match &present {
        None => (k, v),
        Some(both) => {
            let (of_k, of_v) = both.as_slice::<f32>()?.split_at(both.len() / 2);
            let shape = [k.batch, k.heads, both.shape()[3], k.width];
            (Side::dense(of_k, shape), Side::dense(of_v, shape))
        }
    };
    let at = (extents(&q, &k, &v), k.tokens - q.tokens);
    let bias = places.bias.and_then(|index| inputs.get(index)?.as_ref());
    let mut room = Vec::new();
    let Some(mask) = mask_at(call, form, (places.padding, bias), at, &mut room)? else {
        return Ok(None);
    };
    let scores = Scores { scale: form.scale, causal: form.causal, mask };
    let Some(out) = attend(call, [q, k, v], &scores, true)? else { return Ok(None) };
    let present = present.filter(|_| call.node.output(1).is_some());
    Ok(Some([Some(out), present].into_iter().flatten().map(Into::into).collect()))
}

/// Keys and values after those of the past, `[2, batch, heads, tokens, width]`.
fn joined(
    call: &mut Call<'_>,
    past: Option<&Tensor>,
    [k, v]: [Side<'_>; 2],
) -> Result<Option<Tensor>, OpError> {
    if k.width != v.width {
        return Ok(None);
    }
    let Some((before, old)) = past_of(past, &[2], &k) else { return Ok(None) };
    let Some(tokens) = before.checked_add(k.tokens) else { return Ok(None) };
    let mut both = made(call, 1, &[2, k.batch, k.heads, tokens, k.width])?;
    let half = both.len() / 2;
    let (of_k, of_v) = both.as_mut_slice::<f32>()?.split_at_mut(half);
    let (old_k, old_v) = old.split_at(old.len() / 2);
    k.join(old_k, before, of_k);
    v.join(old_v, before, of_v);
    Ok(Some(both))
}

fn compile_heads(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let form = MicrosoftAttentionForm::of(node).ok()?;
    program("attention", move |call| run_heads(call, &form))
}

/// q, k and v of a MultiHeadAttention in any of its forms.
fn sides(inputs: &[Option<Tensor>], heads: usize) -> Option<[Side<'_>; 3]> {
    let q = at(inputs, 0)?;
    if q.rank() == 5 {
        let part = |index: usize| Side::packed(q, index, 3);
        return Some([part(0)?, part(1)?, part(2)?]);
    }
    let (q, k) = (Side::by_tokens(q, heads)?, at(inputs, 1)?);
    Some(match k.rank() {
        5 => [q, Side::packed(k, 0, 2)?, Side::packed(k, 1, 2)?],
        4 => [q, Side::by_heads(k)?, Side::by_heads(at(inputs, 2)?)?],
        _ => [q, Side::by_tokens(k, heads)?, Side::by_tokens(at(inputs, 2)?, heads)?],
    })
}

fn run_heads(call: &mut Call<'_>, form: &MicrosoftAttentionForm) -> Outcome {
    let inputs = inputs(call);
    let given = |index: usize| at(&inputs, index);
    let Some([q, k, v]) = sides(&inputs, form.heads) else { return Ok(None) };
    let queries = q.tokens;
    let whole = [q.heads, k.heads] == [form.heads; 2] && (!form.causal || k.tokens == queries);
    let bias = match given(3).map(Tensor::as_slice::<f32>) {
        None => None,
        Some(Ok(bias)) => Some(bias),
        Some(Err(_)) => return Ok(None),
    };
    // Keys and values of another sequence, projected before, take no bias.
    let of_keys = bias.filter(|_| given(1).is_none_or(|k| k.rank() != 4));
    let room = |bias: Option<&[f32]>, side: &Side<'_>| lend(bias.map_or(0, |_| side.len()));
    let (mut q_room, mut k_room, mut v_room) =
        (room(bias, &q), room(of_keys, &k), room(of_keys, &v));
    let hidden = q.heads * q.width;
    let (Some(q), Some(k), Some(v)) = (
        biased(q, bias, 0, &mut q_room),
        biased(k, of_keys, hidden, &mut k_room),
        biased(v, of_keys, 2 * hidden, &mut v_room),
    ) else {
        return Ok(None);
    };
    let (new, past) = ([k, v], [given(6), given(7)]);
    let Some(cache) = Cache::of(call, new, past)?.filter(|_| whole) else { return Ok(None) };
    let Some([k, v]) = cache.sides(new) else { return Ok(None) };
    let at = (extents(&q, &k, &v), k.tokens - new[0].tokens);
    let mut room = Vec::new();
    let Some(mask) = mask_at(call, form, (4, given(5)), at, &mut room)? else { return Ok(None) };
    let scores = Scores { scale: form.scale, causal: form.causal, mask };
    let Some(out) = attend(call, [q, k, v], &scores, true)? else { return Ok(None) };
    Ok(Some(cache.outputs(call, out)))
}

/// A side with its columns of a bias added, from `start` on.
fn biased<'a>(
    side: Side<'a>,
    bias: Option<&[f32]>,
    start: usize,
    room: &'a mut [f32],
) -> Option<Side<'a>> {
    let Some(bias) = bias else { return Some(side) };
    side.biased(bias.get(start..)?.get(..side.heads * side.width)?, room)
}
