//! GroupQueryAttention of com.microsoft: rotary positions, a cache, causal attention.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::{GroupQueryForm, OpError, Pairing};
use hetra_tensor::{DType, Tensor, Value, to_i64};

use super::heads::{Scores, Side, attend_to, fit, made, past_of};
use super::quantised::{at, inputs};
use super::{Compile, Form, Outcome, program};
use hetra_cpu_base::scratch::lend;
use hetra_cpu_rows::rotary::{Rotary, rotate};

pub(super) static OPS: &[(&str, Compile)] = &[("com.microsoft.GroupQueryAttention", compile)];

pub(super) fn takes(Form { node, .. }: &Form<'_>) -> bool {
    let rare = node.input(10).is_some() || node.output(3).is_some();
    let plain = |form: GroupQueryForm| form.softcap == 0.0;
    !rare && GroupQueryForm::of(node).is_ok_and(plain)
}

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let form = GroupQueryForm::of(node).ok()?;
    program("attention", move |call| run(call, &form))
}

/// q, k and v, which may stand side by side in the first input.
fn sides<'a>(inputs: &'a [Option<Tensor>], form: &GroupQueryForm) -> Option<[Side<'a>; 3]> {
    let (heads, kv_heads, x) = (form.heads, form.kv_heads, at(inputs, 0)?);
    if let Some(k) = at(inputs, 1) {
        let v = Side::by_tokens(at(inputs, 2)?, kv_heads)?;
        return Some([Side::by_tokens(x, heads)?, Side::by_tokens(k, kv_heads)?, v]);
    }
    let all = Side::by_tokens(x, heads + 2 * kv_heads)?;
    let shape = x.shape().try_into().ok()?;
    let part = |first: usize, heads: usize| {
        Side::columns(all.values(), shape, (first * all.width, heads * all.width), heads)
    };
    Some([part(0, heads)?, part(heads, kv_heads)?, part(heads + kv_heads, kv_heads)?])
}

fn run(call: &mut Call<'_>, form: &GroupQueryForm) -> Outcome {
    let inputs = inputs(call);
    let Some([q, k, v]) = sides(&inputs, form) else { return Ok(None) };
    if !fit(&[q, k, v]) || k.tokens != q.tokens {
        return Ok(None);
    }
    let (spans, total) = form.spans(&call.context(), q.batch, q.tokens)?;
    // The kernel's causal mask lets the last query see all keys: no query is padding, then.
    let plain = |&(first, end): &(usize, usize)| {
        let whole = !form.causal || end.checked_sub(first) == Some(q.tokens);
        end > 0 && whole && form.window.is_none_or(|window| end <= window)
    };
    if !spans.iter().all(plain) {
        return Ok(None);
    }
    let mut rooms = [q, k].map(|side| lend(form.rotary.map_or(0, |_| side.len())));
    let [q_room, k_room] = &mut rooms;
    let (Some(q), Some(k)) =
        (turned(q, (form, &spans), &inputs, q_room), turned(k, (form, &spans), &inputs, k_room))
    else {
        return Ok(None);
    };
    let Some(keys) = cache(call, 1, &k, at(&inputs, 3), (&spans, total))? else { return Ok(None) };
    let Some(values) = cache(call, 2, &v, at(&inputs, 4), (&spans, total))? else {
        return Ok(None);
    };
    let (Some(k), Some(v)) = (Side::by_heads(&keys), Side::by_heads(&values)) else {
        return Ok(None);
    };
    let shape = [q.batch, q.tokens, q.heads * v.width];
    let mut out = call.output(0, DType::F32, &shape)?;
    let target = out.as_mut_slice::<f32>()?;
    let scores = Scores { scale: form.scale, causal: form.causal, mask: None };
    if k.tokens != v.tokens {
        return Ok(None);
    }
    match spans.first() {
        Some(&(_, end)) if spans.iter().all(|span| span.1 == end) => {
            attend_to([q, k.until(end), v.until(end)], &scores, true, target);
        }
        _ => {
            let each = target.len() / q.batch;
            for ((item, &(_, end)), target) in
                spans.iter().enumerate().zip(target.chunks_exact_mut(each))
            {
                let [q, k, v] = [q, k, v].map(|side| side.item(item));
                attend_to([q, k.until(end), v.until(end)], &scores, true, target);
            }
        }
    }
    let present = [keys, values].into_iter().filter(|_| call.node.outputs.len() > 1);
    Ok(Some(std::iter::once(out).chain(present).map(Value::from).collect()))
}

/// A side with each row turned by its position, in `room`, if the node turns them. `None` where
/// the reference has something to say.
fn turned<'a>(
    side: Side<'a>,
    (form, spans): (&GroupQueryForm, &[(usize, usize)]),
    inputs: &[Option<Tensor>],
    room: &'a mut [f32],
) -> Option<Side<'a>> {
    let Some(pairing) = form.rotary else { return Some(side) };
    let (cos, sin) = (at(inputs, 7)?, at(inputs, 8)?);
    let &[lines, half] = cos.shape() else { return None };
    let Side { batch, heads, tokens, width, .. } = side;
    if sin.shape() != cos.shape() || half.checked_mul(2).is_none_or(|turned| turned > width) {
        return None;
    }
    let ids = at(inputs, 9).map(to_i64).transpose().ok()?;
    let mut places = Vec::with_capacity(batch * tokens);
    for (item, token) in (0..batch).flat_map(|item| (0..tokens).map(move |token| (item, token))) {
        let given = ids.as_ref().and_then(|ids| ids.get(item * tokens + token));
        let line = match given {
            Some(&id) => Some(usize::try_from(id).ok().filter(|line| *line < lines)?),
            // Padding may run past the tables; what stands there is never read.
            None => Some(spans[item].0 + token).filter(|line| *line < lines),
        };
        places.push(line);
    }
    let p = Rotary {
        width,
        half,
        neighbours: pairing == Pairing::Neighbours,
        cos: cos.as_slice::<f32>().ok()?,
        sin: sin.as_slice::<f32>().ok()?,
    };
    let place = |row: usize| {
        let (token, head, item) = (row % tokens, row / tokens % heads, row / tokens / heads);
        (side.start(item, head, token), places[item * tokens + token])
    };
    rotate(&p, batch * heads * tokens, side.values(), place, room);
    Some(Side::dense(room, [batch, heads, tokens, width]))
}

/// The cache as output `index`: rows of the past, with the new ones of each item from its own
/// place on. `None` when the past does not fit.
fn cache(
    call: &mut Call<'_>,
    index: usize,
    new: &Side<'_>,
    past: Option<&Tensor>,
    (spans, total): (&[(usize, usize)], usize),
) -> Result<Option<Tensor>, OpError> {
    let Side { batch, heads, tokens, width, .. } = *new;
    let Some((before, old)) = past_of(past, &[], new) else { return Ok(None) };
    let shape = [batch, heads, before.max(total), width];
    if spans.iter().any(|&(first, _)| first.saturating_add(tokens) > shape[2]) {
        return Ok(None);
    }
    let mut all = made(call, index, &shape)?;
    let each = shape[2] * width;
    for (row, target) in all.as_mut_slice::<f32>()?.chunks_exact_mut(each).enumerate() {
        let (item, head) = (row / heads, row % heads);
        let (kept, rest) = target.split_at_mut(before * width);
        kept.copy_from_slice(&old[row * before * width..][..before * width]);
        rest.fill(0.0);
        let target = target[spans[item].0 * width..].chunks_exact_mut(width);
        for (token, target) in target.take(tokens).enumerate() {
            let from = new.start(item, head, token);
            target.copy_from_slice(&new.values()[from..][..width]);
        }
    }
    Ok(Some(all))
}
