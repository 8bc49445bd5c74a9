//! GroupQueryAttention of com.microsoft: causal attention over a cache, with rotary positions.

use hetra_ir::{Dim, Node, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::attention_cached::{Part, cached_types, cached_work, divided, flat, heads_of, outputs};
use crate::attention_core::{Heads, Mask, Scoring, attend, close_from};
use crate::attention_microsoft::head_count;
use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dense::{expect_shape, floats, floats_opt, shape_of_rank, zeros};
use crate::error::OpError;
use crate::real::Real;
use crate::rotary::{Pairing, rotate};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&GROUP_QUERY];

static GROUP_QUERY: OpDef = OpDef {
    name: "com.microsoft.GroupQueryAttention",
    doc: "Causal attention whose heads share keys and values, with a cache and rotary positions.",
    onnx: &[onnx("com.microsoft", "GroupQueryAttention", 1)],
    inputs: Arity::between(7, 16),
    outputs: Arity::between(1, 4),
    kind: Kind::Heavy,
    infer: infer_group_query,
    work: cached_work,
    eval: |ctx| match ctx.tensor(0)?.dtype() {
        DType::F64 => group_query::<f64>(ctx),
        _ => group_query::<f32>(ctx),
    },
    ..OpDef::DEFAULT
};

/// What the attributes of a GroupQueryAttention say.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupQueryForm {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// A query sees this many keys up to its own, at most.
    pub window: Option<usize>,
    /// A query does not see keys after its own.
    pub causal: bool,
    /// How features pair up that are turned by their position, if they are.
    pub rotary: Option<Pairing>,
    /// Factor of the scores; one over the root of the width when there is none.
    pub scale: Option<f32>,
    /// Bound of the scores, 0 for none.
    pub softcap: f32,
}

impl GroupQueryForm {
    /// Reads the attributes.
    ///
    /// # Errors
    /// An attribute of a wrong kind or value, or one that is not supported.
    pub fn of(node: &Node) -> Result<GroupQueryForm, OpError> {
        let attrs = &node.attrs;
        let heads = head_count(node)?;
        let kv_heads = usize::try_from(*attrs.int("kv_num_heads")?).unwrap_or(0);
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(OpError::invalid(format!("{heads} heads share {kv_heads}")));
        }
        for name in ["k_quant_type", "v_quant_type"] {
            if attrs.str_or(name, "NONE")? != "NONE" {
                return Err(OpError::unsupported("a quantised cache"));
            }
        }
        let rare = attrs.int_or("smooth_softmax", -1)? > 0
            || attrs.flag_or("qk_output", false)?
            || attrs.flag_or("sliding_window_cache", false)?;
        if rare || node.inputs.iter().skip(11).any(Option::is_some) {
            return Err(OpError::unsupported("smooth softmax, score output or later inputs"));
        }
        let interleaved = attrs.flag_or("rotary_interleaved", false)?;
        let pairing = if interleaved { Pairing::Neighbours } else { Pairing::Halves };
        Ok(GroupQueryForm {
            heads,
            kv_heads,
            window: usize::try_from(attrs.int_or("local_window_size", -1)?).ok(),
            causal: attrs.flag_or("causal", true)?,
            rotary: attrs.flag_or("do_rotary", false)?.then_some(pairing),
            scale: Some(attrs.float_or("scale", 0.0)?).filter(|&scale| scale != 0.0),
            softcap: attrs.float_or("softcap", 0.0)?,
        })
    }

    /// For each batch item the place of its first new key in the cache, and the end of its keys;
    /// and the keys of the longest one.
    ///
    /// # Errors
    /// When inputs 5 and 6 do not say so for `batch` items of `length` new keys.
    pub fn spans(
        &self,
        ctx: &EvalCtx<'_>,
        batch: usize,
        length: usize,
    ) -> Result<(Vec<(usize, usize)>, usize), OpError> {
        let total = usize::try_from(ctx.int(6)?)
            .map_err(|_| OpError::input(6, "a length", "a negative number"))?;
        let last = ctx.ints(5)?;
        // `seqlens_k` is the length less one; a prompt starts its cache anew.
        let first = |&last: &i64| {
            let ends = usize::try_from(last.saturating_add(1)).ok().filter(|&end| end <= total)?;
            if length == total { Some((0, ends)) } else { Some((ends.checked_sub(length)?, ends)) }
        };
        let spans: Option<Vec<(usize, usize)>> = last.iter().map(first).collect();
        let spans = spans.filter(|spans| spans.len() == batch).ok_or_else(|| {
            let wanted = format!("{batch} lengths of {length} to {total}");
            OpError::input(5, wanted, format!("{last:?}"))
        })?;
        Ok((spans, total))
    }
}

/// q, k and v, which may stand side by side in the first input.
fn group_parts<T: Real>(
    ctx: &EvalCtx<'_>,
    group: &GroupQueryForm,
) -> Result<[Part<T>; 3], OpError> {
    if ctx.tensor_opt(1).is_some() {
        let q = flat(ctx, 0, group.heads, None)?;
        return Ok([q, flat(ctx, 1, group.kv_heads, None)?, flat(ctx, 2, group.kv_heads, None)?]);
    }
    let all = group.heads + 2 * group.kv_heads;
    let Part { shape: [batch, _, length, width], values } = flat::<T>(ctx, 0, all, None)?;
    let each = length * width;
    let take = |first: usize, heads: usize| {
        let items = values.chunks_exact((all * each).max(1));
        let taken = items.flat_map(|item| item[first * each..(first + heads) * each].to_vec());
        Part { shape: [batch, heads, length, width], values: taken.collect() }
    };
    let q = take(0, group.heads);
    Ok([q, take(group.heads, group.kv_heads), take(all - group.kv_heads, group.kv_heads)])
}

/// Turns each row by the position `first[item] + at`.
fn turn<T: Real>(
    ctx: &EvalCtx<'_>,
    part: &mut Part<T>,
    firsts: &[usize],
    pairing: Pairing,
) -> Result<(), OpError> {
    let (cos, sin) = (floats::<T>(ctx, 7)?, floats::<T>(ctx, 8)?);
    let [lines, half] = shape_of_rank(&cos, 7)?;
    expect_shape(&sin, 8, &[lines, half])?;
    let [_, heads, length, width] = part.shape;
    if half.checked_mul(2).is_none_or(|turned| turned > width) {
        return Err(OpError::input(7, format!("at most {} columns", width / 2), cos.describe()));
    }
    let ids = ctx.ints_opt(9)?;
    let (cos, sin) = (cos.as_slice::<T>()?, sin.as_slice::<T>()?);
    for (row, features) in part.values.chunks_exact_mut(width).enumerate() {
        let (item, at) = (row / (heads * length), row % length);
        let given = ids.as_ref().and_then(|ids| ids.get(item * length + at));
        let line = match given {
            Some(&id) => usize::try_from(id).unwrap_or(usize::MAX),
            None => firsts[item] + at,
        };
        if line >= lines {
            // Padding may run past the tables; what stands there is never read.
            if given.is_none() {
                continue;
            }
            return Err(OpError::input(9, format!("positions below {lines}"), line.to_string()));
        }
        rotate(features, &cos[line * half..][..half], &sin[line * half..][..half], pairing);
    }
    Ok(())
}

/// The cache: past rows, with the new ones of each item written from its own position on.
fn cache<T: Real>(
    ctx: &EvalCtx<'_>,
    index: usize,
    new: &Part<T>,
    firsts: &[usize],
    total: usize,
) -> Result<Part<T>, OpError> {
    let [batch, heads, length, width] = new.shape;
    let past = floats_opt::<T>(ctx, index)?;
    let before = past.as_ref().map_or(Ok(0), |p| shape_of_rank::<4>(p, index).map(|s| s[2]))?;
    let shape = [batch, heads, before.max(total), width];
    let mut values = zeros::<T>(&shape)?;
    if let Some(past) = &past {
        expect_shape(past, index, &[batch, heads, before, width])?;
    }
    let past = past.as_ref().map(Tensor::as_slice::<T>).transpose()?.unwrap_or(&[]);
    for row in 0..batch * heads {
        let target = &mut values[row * shape[2] * width..][..shape[2] * width];
        target[..before * width].copy_from_slice(&past[row * before * width..][..before * width]);
        let first = firsts[row / heads];
        let count = length.min(shape[2].saturating_sub(first));
        target[first * width..][..count * width]
            .copy_from_slice(&new.values[row * length * width..][..count * width]);
    }
    Ok(Part { shape, values })
}

fn group_query<T: Real>(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let group = GroupQueryForm::of(ctx.node)?;
    let [mut q, mut k, v] = group_parts::<T>(ctx, &group)?;
    let [batch, _, length, _] = q.shape;
    heads_of(&q, &k, &v)?;
    let (spans, total) = group.spans(ctx, batch, length)?;
    let firsts: Vec<usize> = spans.iter().map(|span| span.0).collect();
    if let Some(pairing) = group.rotary {
        turn(ctx, &mut q, &firsts, pairing)?;
        turn(ctx, &mut k, &firsts, pairing)?;
    }
    let (k, v) = (cache(ctx, 3, &k, &firsts, total)?, cache(ctx, 4, &v, &firsts, total)?);
    let at = heads_of(&q, &k, &v)?;
    let over = Heads { keys: total, ..at };
    let bias = ctx.tensor_opt(10).map(|tensor| Mask::<T>::new(tensor, 10, over)).transpose()?;
    let mask = |item: usize, head: usize, query: usize, scores: &mut [T]| {
        if let Some(bias) = &bias {
            bias.add(item, head, query, &mut scores[..total]);
        }
        let (first, end) = spans[item];
        // A padded query sees what the first key lets it; its result is not read.
        let place = first + query;
        close_from(scores, if group.causal { (place + 1).min(end.max(1)) } else { end.max(1) });
        if let Some(window) = group.window
            && place < end
        {
            let closed = (place + 1).saturating_sub(window);
            scores[..closed].fill(T::of(f64::NEG_INFINITY));
        }
    };
    let default = 1.0 / (at.width as f64).sqrt();
    let scoring = Scoring {
        scale: T::of(group.scale.map_or(default, f64::from)),
        softcap: T::of(f64::from(group.softcap)),
        cap_first: true,
        bias: &mask,
        tap: None,
    };
    let attended = attend([&q.values, &k.values, &v.values], at, &scoring)?;
    outputs(ctx, at, &attended.values, [k, v], &[])
}

fn infer_group_query(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let group = GroupQueryForm::of(ctx.node)?;
    let Some([batch, length, all]) = ctx.dims(0) else {
        return Ok(vec![InferCtx::make(ctx.dtype_opt(0), None); ctx.node.outputs.len().max(1)]);
    };
    let side_by_side = !ctx.has(1);
    let count = group.heads + if side_by_side { 2 * group.kv_heads } else { 0 };
    let width = divided(all, count);
    let v_width = match (side_by_side, ctx.dims(2)) {
        (true, _) => width.clone(),
        (false, Some([_, _, v])) => divided(v, group.kv_heads),
        _ => Dim::Unknown,
    };
    let before = match ctx.has(3) {
        true => ctx.dims(3).and_then(|dims| dims.get(2)?.known()),
        false => Some(0),
    };
    let total = ctx.known_ints(6).and_then(|ints| usize::try_from(*ints.first()?).ok());
    let keys = before.zip(total).map_or(Dim::Unknown, |(a, b)| Dim::Known(a.max(b)));
    let extents = [batch.clone(), length.clone(), keys];
    Ok(cached_types(ctx, extents, [group.heads, group.kv_heads], [width, v_width]))
}

#[cfg(test)]
mod tests {
    use crate::attention::ramp;
    use crate::case::{Case, check};
    use hetra_tensor::Tensor;

    fn group(last: i32, total: i32) -> Case {
        let case = Case::new("com.microsoft.GroupQueryAttention").tensor(&ramp(&[1, 1, 32], 0.3));
        let case = case.tensor(&ramp(&[1, 1, 16], 0.25)).tensor(&ramp(&[1, 1, 16], 0.2));
        let past = ramp(&[1, 1, 3, 16], 0.4);
        let case = case.tensor(&past).tensor(&past).tensor(&Tensor::vector(&[last]));
        let case = case.tensor(&Tensor::scalar(total));
        case.attr("num_heads", 2i64).attr("kv_num_heads", 1i64).outputs(3)
    }

    #[test]
    fn group_query_as_onnxruntime() {
        check(&group(3, 4), 0, &[1, 1, 32], &GROUP);
        let (cos, sin) = (ramp(&[8, 8], 0.1), ramp(&[8, 8], 0.07));
        let turned =
            |case: &Case| case.with_input(7, &cos).with_input(8, &sin).attr("do_rotary", 1i64);
        let window = turned(&group(3, 4)).attr("local_window_size", 2i64);
        check(&window, 0, &[1, 1, 32], &WINDOW);
        let parts = [ramp(&[1, 2, 32], 0.3), ramp(&[1, 2, 16], 0.25), ramp(&[1, 2, 16], 0.2)];
        let row = |at: usize| {
            let part = move |part: &Tensor| {
                let width = part.len() / 2;
                part.as_slice::<f32>().unwrap()[at * width..][..width].to_vec()
            };
            parts.iter().flat_map(part).collect::<Vec<f32>>()
        };
        let all = Tensor::from_slice(&[1, 2, 64], &[row(0), row(1)].concat()).unwrap();
        let prompt = Case::new("com.microsoft.GroupQueryAttention").tensor(&all);
        let prompt = prompt.none().none().none().none().tensor(&Tensor::vector(&[1i32]));
        let prompt = turned(&prompt.tensor(&Tensor::scalar(2i32)).outputs(3));
        let prompt = prompt.attr("num_heads", 2i64).attr("kv_num_heads", 1i64);
        let prompt = prompt.attr("softcap", 0.5f32);
        check(&prompt, 0, &[1, 2, 32], &PROMPT);
        check(&prompt, 1, &[1, 1, 2, 16], &PROMPT_CACHE);
    }

    #[test]
    fn faults() {
        assert!(group(4, 4).eval().is_err(), "longer than the total");
        assert!(group(-1, 4).eval().is_err(), "no room for the new key");
        assert!(group(3, -4).eval().is_err());
        assert!(group(3, 4).attr("kv_num_heads", 3i64).eval().is_err());
    }

    const GROUP: [f64; 32] = [
        -2.31255,
        -0.3782148,
        1.55549,
        -1.538816,
        0.3955191,
        2.274244,
        -0.7650817,
        1.168624,
        -1.925682,
        0.008652163,
        1.887377,
        -1.151949,
        0.7823861,
        -2.31255,
        -0.3782148,
        1.55549,
        -1.606048,
        0.3896757,
        2.377321,
        -0.8077586,
        1.187965,
        -1.935566,
        -0.009469076,
        1.978176,
        -1.206903,
        0.7888205,
        -2.334711,
        -0.4086139,
        1.58711,
        -1.606048,
        0.3896757,
        2.377321,
    ];
    const WINDOW: [f64; 32] = [
        -1.077275,
        0.2295384,
        -0.05907688,
        -0.5545495,
        0.7522637,
        0.4636484,
        -0.03182425,
        -0.3204395,
        -0.8159121,
        0.490901,
        0.2022857,
        -0.2931868,
        1.013626,
        -1.077275,
        0.2295384,
        -0.05907688,
        -1.04252,
        0.3511804,
        -0.3023609,
        -0.4850398,
        0.9086605,
        0.2551192,
        0.07244033,
        -0.5811011,
        -0.7637798,
        0.6299204,
        -0.02362092,
        -0.2062997,
        1.187401,
        -1.04252,
        0.3511804,
        -0.3023609,
    ];
    const PROMPT: [f64; 64] = [
        -1.2,
        -0.2,
        0.8,
        -0.8000001,
        0.2,
        1.2,
        -0.4,
        0.6,
        -1.0,
        -2.980232e-08,
        1.0,
        -0.6,
        0.4,
        -1.2,
        -0.2,
        0.8,
        -1.2,
        -0.2,
        0.8,
        -0.8000001,
        0.2,
        1.2,
        -0.4,
        0.6,
        -1.0,
        -2.980232e-08,
        1.0,
        -0.6,
        0.4,
        -1.2,
        -0.2,
        0.8,
        -0.9812709,
        0.01872913,
        1.018729,
        -0.5812709,
        0.4187291,
        -0.003010333,
        -0.1812709,
        0.8187292,
        -0.7812709,
        0.2187291,
        -0.2030104,
        -0.3812709,
        0.6187291,
        -0.9812709,
        0.01872913,
        1.018729,
        -0.998659,
        0.001341101,
        1.001341,
        -0.5986589,
        0.4013411,
        0.09262383,
        -0.1986589,
        0.8013411,
        -0.7986589,
        0.2013411,
        -0.1073762,
        -0.3986589,
        0.6013411,
        -0.998659,
        0.001341101,
        1.001341,
    ];
    const PROMPT_CACHE: [f64; 32] = [
        0.375,
        0.025,
        0.05000001,
        0.19,
        -0.009999996,
        1.53,
        0.06500001,
        0.01500001,
        1.38,
        0.0175,
        0.78,
        0.58,
        0.06749999,
        -0.27,
        0.12,
        0.4575,
        0.2375,
        3.72529e-09,
        1.275,
        0.0975,
        0.01000001,
        0.33,
        0.0175,
        0.08000001,
        0.725,
        -1.117587e-08,
        -0.225,
        0.18,
        0.305,
        1.125,
        -0.025,
        0.9499999,
    ];
}
