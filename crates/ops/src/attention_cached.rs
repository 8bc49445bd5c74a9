//! MultiHeadAttention of com.microsoft, and what it shares with GroupQueryAttention.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::attention_core::{Heads, Stage, join, swap_heads};
use crate::attention_microsoft::{Masks, attend_masked, head_count};
use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dense::{expect_shape, floats, floats_opt, result, shape_of_rank};
use crate::error::OpError;
use crate::real::Real;
use crate::work::Work;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&MULTI_HEAD];

static MULTI_HEAD: OpDef = OpDef {
    name: "com.microsoft.MultiHeadAttention",
    doc: "Attention of queries to keys and values, packed or apart, with a cache.",
    onnx: &[onnx("com.microsoft", "MultiHeadAttention", 1)],
    inputs: Arity::between(1, 10),
    outputs: Arity::between(1, 4),
    kind: Kind::Heavy,
    infer: infer_multi_head,
    work: cached_work,
    eval: |ctx| match ctx.tensor(0)?.dtype() {
        DType::F64 => multi_head::<f64>(ctx),
        _ => multi_head::<f32>(ctx),
    },
    ..OpDef::DEFAULT
};

const PAST_KEY: usize = 6;

/// Heads by position: `[batch, heads, length, width]` and its values.
pub(crate) struct Part<T> {
    pub(crate) shape: [usize; 4],
    pub(crate) values: Vec<T>,
}

/// A `[batch, length, heads * width]` input, with the bias columns from `start` on.
pub(crate) fn flat<T: Real>(
    ctx: &EvalCtx<'_>,
    index: usize,
    heads: usize,
    bias: Option<(&[T], usize)>,
) -> Result<Part<T>, OpError> {
    let tensor = floats::<T>(ctx, index)?;
    let [batch, length, all] = shape_of_rank(&tensor, index)?;
    if !all.is_multiple_of(heads) || all == 0 {
        return Err(OpError::input(index, format!("{heads} heads"), tensor.describe()));
    }
    let mut values = tensor.as_slice::<T>()?.to_vec();
    if let Some((bias, start)) = bias {
        let fault = || OpError::input(3, "biases of q, k and v", bias.len().to_string());
        let columns = bias.get(start..start + all).ok_or_else(fault)?;
        for row in values.chunks_exact_mut(all) {
            row.iter_mut().zip(columns).for_each(|(value, bias)| *value += *bias);
        }
    }
    let width = all / heads;
    let values = swap_heads(&values, [batch, length, heads, width]);
    Ok(Part { shape: [batch, heads, length, width], values })
}

/// The `count` parts of a packed `[batch, length, heads, count, width]` input.
fn packed<T: Real>(
    ctx: &EvalCtx<'_>,
    index: usize,
    count: usize,
    bias: Option<(&[T], usize)>,
) -> Result<Vec<Part<T>>, OpError> {
    let tensor = floats::<T>(ctx, index)?;
    let [batch, length, heads, parts, width] = shape_of_rank(&tensor, index)?;
    expect_shape(&tensor, index, &[batch, length, heads, count, width])?;
    let values = tensor.as_slice::<T>()?;
    let all = heads * width;
    if all == 0 {
        return Err(OpError::input(index, "heads of some width", tensor.describe()));
    }
    let part = |part: usize| {
        let rows = values.chunks_exact(width).skip(part).step_by(parts);
        let mut taken: Vec<T> = rows.flatten().copied().collect();
        if let Some((bias, start)) = bias {
            let fault = || OpError::input(3, "biases of q, k and v", bias.len().to_string());
            let start = start + part * all;
            let columns = bias.get(start..start + all).ok_or_else(fault)?;
            for row in taken.chunks_exact_mut(all) {
                row.iter_mut().zip(columns).for_each(|(value, bias)| *value += *bias);
            }
        }
        let values = swap_heads(&taken, [batch, length, heads, width]);
        Ok(Part { shape: [batch, heads, length, width], values })
    };
    (0..count).map(part).collect()
}

/// q, k and v of a MultiHeadAttention in any of its forms.
fn parts<T: Real>(ctx: &EvalCtx<'_>, heads: usize) -> Result<[Part<T>; 3], OpError> {
    let bias = floats_opt::<T>(ctx, 3)?;
    let bias = bias.as_ref().map(Tensor::as_slice::<T>).transpose()?;
    let at = |start: usize| bias.map(|bias| (bias, start));
    let three = |parts: Vec<Part<T>>| {
        <[Part<T>; 3]>::try_from(parts).map_err(|_| OpError::invalid("wanted q, k and v"))
    };
    if ctx.tensor(0)?.rank() == 5 {
        return three(packed(ctx, 0, 3, at(0))?);
    }
    let q = flat(ctx, 0, heads, at(0))?;
    let hidden = q.shape[1] * q.shape[3];
    match ctx.tensor(1)?.rank() {
        5 => {
            let mut all = vec![q];
            all.extend(packed(ctx, 1, 2, at(hidden))?);
            three(all)
        }
        4 => {
            // Keys and values of another sequence, projected before: they take no bias.
            let whole = |index: usize| -> Result<Part<T>, OpError> {
                let tensor = floats::<T>(ctx, index)?;
                let shape = shape_of_rank(&tensor, index)?;
                Ok(Part { shape, values: tensor.as_slice::<T>()?.to_vec() })
            };
            Ok([q, whole(1)?, whole(2)?])
        }
        _ => {
            let k = flat(ctx, 1, heads, at(hidden))?;
            Ok([q, k, flat(ctx, 2, heads, at(2 * hidden))?])
        }
    }
}

fn append_past<T: Real>(
    ctx: &EvalCtx<'_>,
    index: usize,
    part: &mut Part<T>,
) -> Result<usize, OpError> {
    let Some(past) = floats_opt::<T>(ctx, index)? else { return Ok(0) };
    let [batch, heads, length, width] = part.shape;
    let before = shape_of_rank::<4>(&past, index)?[2];
    expect_shape(&past, index, &[batch, heads, before, width])?;
    let (old, new) = (before * width, length * width);
    part.values = join(past.as_slice()?, &part.values, batch * heads, old, new);
    part.shape[2] = before + length;
    Ok(before)
}

pub(crate) fn heads_of<T>(q: &Part<T>, k: &Part<T>, v: &Part<T>) -> Result<Heads, OpError> {
    let [batch, heads, queries, width] = q.shape;
    let [k_batch, kv_heads, keys, k_width] = k.shape;
    let fits = k_batch == batch && k_width == width && v.shape[..3] == k.shape[..3];
    if !fits || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        let got = format!("{:?}, {:?}, {:?}", q.shape, k.shape, v.shape);
        return Err(OpError::invalid(format!("queries, keys and values do not fit: {got}")));
    }
    Ok(Heads { batch, heads, kv_heads, queries, keys, width, v_width: v.shape[3] })
}

fn multi_head<T: Real>(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    if ctx.tensor_opt(8).is_some() || ctx.tensor_opt(9).is_some() {
        return Err(OpError::unsupported("a shared cache buffer or beams"));
    }
    let heads = head_count(ctx.node)?;
    let [q, mut k, mut v] = parts::<T>(ctx, heads)?;
    if k.shape[1] != heads || q.shape[1] != heads {
        return Err(OpError::input(1, format!("{heads} heads"), format!("{:?}", k.shape)));
    }
    let past = append_past(ctx, PAST_KEY, &mut k)?;
    append_past(ctx, PAST_KEY + 1, &mut v)?;
    let at = heads_of(&q, &k, &v)?;
    let tap = ctx.wants(3).then_some(Stage::Biased);
    let masks = Masks { padding: Some(4), bias: Some(5), past, tap };
    let attended = attend_masked(ctx, [&q.values, &k.values, &v.values], at, &masks)?;
    outputs(ctx, at, &attended.values, [k, v], &attended.tapped)
}

/// Lays out the outputs that both operators share.
pub(crate) fn outputs<T: Real>(
    ctx: &EvalCtx<'_>,
    at: Heads,
    values: &[T],
    [k, v]: [Part<T>; 2],
    tapped: &[T],
) -> Result<Vec<Value>, OpError> {
    let dtype = ctx.tensor(0)?.dtype();
    let merged = swap_heads(values, [at.batch, at.heads, at.queries, at.v_width]);
    let shape = [at.batch, at.queries, at.heads * at.v_width];
    let mut outputs = vec![result(dtype, &shape, &merged)?.into()];
    if ctx.node.outputs.len() > 1 {
        outputs.push(result(dtype, &k.shape, &k.values)?.into());
        outputs.push(result(dtype, &v.shape, &v.values)?.into());
    }
    if ctx.wants(3) {
        let shape = [at.batch, at.heads, at.queries, at.keys];
        outputs.push(result(dtype, &shape, tapped)?.into());
    }
    Ok(outputs)
}

fn known_product(a: &Dim, count: usize) -> Dim {
    a.known().and_then(|a| a.checked_mul(count)).map_or(Dim::Unknown, Dim::Known)
}

pub(crate) fn divided(dim: &Dim, count: usize) -> Dim {
    dim.known().map_or(Dim::Unknown, |extent| Dim::Known(extent / count))
}

/// Output types from batch, query length, heads, widths and key length.
pub(crate) fn cached_types(
    ctx: &InferCtx<'_>,
    [batch, length, keys]: [Dim; 3],
    [heads, kv_heads]: [usize; 2],
    [width, v_width]: [Dim; 2],
) -> Vec<Type> {
    let dtype = ctx.dtype_opt(0);
    let make = |dims: Vec<Dim>| InferCtx::make(dtype, Some(dims));
    let cache = |width: Dim| make(vec![batch.clone(), kv_heads.into(), keys.clone(), width]);
    let y = make(vec![batch.clone(), length.clone(), known_product(&v_width, heads)]);
    let scores = make(vec![batch.clone(), heads.into(), length, keys.clone()]);
    let mut types = vec![y, cache(width), cache(v_width), scores];
    types.truncate(ctx.node.outputs.len().max(1));
    types
}

fn infer_multi_head(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let heads = head_count(ctx.node)?;
    let unknown =
        || Ok(vec![InferCtx::make(ctx.dtype_opt(0), None); ctx.node.outputs.len().max(1)]);
    let Some(q) = ctx.dims(0) else { return unknown() };
    let (new, width, v_width) = match (q, ctx.dims(1), ctx.dims(2)) {
        ([_, length, _, _, width], ..) => (length, width.clone(), width.clone()),
        ([_, _, _], Some([_, length, _, _, width]), _) => (length, width.clone(), width.clone()),
        ([_, _, _], Some([_, _, length, width]), Some([_, _, _, v])) => {
            (length, width.clone(), v.clone())
        }
        ([_, _, all], Some([_, length, _]), Some([_, _, v])) => {
            (length, divided(all, heads), divided(v, heads))
        }
        ([_, _, _], ..) => return unknown(),
        _ => return Err(OpError::input(0, "3 or 5 axes", ctx.ty(0)?.to_string())),
    };
    let keys = match ctx.has(PAST_KEY) {
        false => new.clone(),
        true => {
            let before = ctx.dims(PAST_KEY).and_then(|dims| dims.get(2)?.known());
            let sum = before.zip(new.known()).and_then(|(a, b)| a.checked_add(b));
            sum.map_or(Dim::Unknown, Dim::Known)
        }
    };
    let extents = [q[0].clone(), q[1].clone(), keys];
    Ok(cached_types(ctx, extents, [heads, heads], [width, v_width]))
}

/// Scores and sums, taking as many keys as new ones where the cache is not known.
pub(crate) fn cached_work(ctx: &InferCtx<'_>, outputs: &[Type]) -> Work {
    let y = outputs.first().map_or(0.0, crate::work::elements);
    let cached = outputs.get(1).and_then(Type::dims).and_then(|dims| dims.get(2)?.known());
    let new = ctx.dims(1).or(ctx.dims(0)).and_then(|dims| dims.get(1)?.known());
    Work::macs(2.0 * y * cached.or(new).unwrap_or(0) as f64)
}

#[cfg(test)]
mod tests {
    use crate::attention::ramp;
    use crate::case::{Case, check};
    use hetra_tensor::Tensor;

    fn multi_head(keys: usize) -> Case {
        let case = Case::new("com.microsoft.MultiHeadAttention").tensor(&ramp(&[1, 2, 4], 0.3));
        let case = case.tensor(&ramp(&[1, keys, 4], 0.25)).tensor(&ramp(&[1, keys, 4], 0.2));
        case.attr("num_heads", 2i64)
    }

    // The numbers are those of onnxruntime 1.32.
    #[test]
    fn multi_head_as_onnxruntime() {
        let case = multi_head(3);
        check(&case.with_input(3, &ramp(&[12], 0.1)), 0, &[1, 2, 4], &BIASED);
        let mask = Tensor::from_slice(&[1, 3], &[1i32, 0, 1]).unwrap();
        check(&case.with_input(4, &mask), 0, &[1, 2, 4], &MASKED);
        check(&case.with_input(5, &ramp(&[1, 2, 2, 3], 0.3)), 0, &[1, 2, 4], &ADDED);
        let past = ramp(&[1, 2, 1, 2], 0.4);
        let cached = multi_head(2).with_input(6, &past).with_input(7, &past).outputs(3);
        let cached = cached.attr("unidirectional", 1i64);
        check(&cached, 0, &[1, 2, 4], &CAUSAL);
        check(&cached, 1, &[1, 2, 3, 2], &CACHE);
        let cross = case.with_input(1, &ramp(&[1, 2, 3, 2], 0.25));
        let cross = cross.with_input(2, &ramp(&[1, 2, 3, 2], 0.2));
        check(&cross.with_input(3, &ramp(&[12], 0.1)), 0, &[1, 2, 4], &CROSS);
    }

    /// Puts tensors `[1, l, 2 * 2]` together as `[1, l, 2, n, 2]`.
    fn pack(parts: &[Tensor], length: usize) -> Tensor {
        let rows = |head: usize| parts.iter().map(move |part| (part, head));
        let values: Vec<f32> = (0..length * 2)
            .flat_map(rows)
            .flat_map(|(part, row)| part.as_slice::<f32>().unwrap()[row * 2..][..2].to_vec())
            .collect();
        Tensor::from_slice(&[1, length, 2, parts.len(), 2], &values).unwrap()
    }

    #[test]
    fn packed_inputs_are_those_apart() {
        let (q, k, v) = (ramp(&[1, 2, 4], 0.3), ramp(&[1, 2, 4], 0.25), ramp(&[1, 2, 4], 0.2));
        let apart = multi_head(2).with_input(3, &ramp(&[12], 0.1)).eval().unwrap();
        let new = || Case::new("com.microsoft.MultiHeadAttention").attr("num_heads", 2i64);
        let two = new().tensor(&q).tensor(&pack(&[k.clone(), v.clone()], 2));
        assert_eq!(two.with_input(3, &ramp(&[12], 0.1)).eval().unwrap(), apart);
        let three = new().tensor(&pack(&[q, k, v], 2));
        assert_eq!(three.with_input(3, &ramp(&[12], 0.1)).eval().unwrap(), apart);
    }

    #[test]
    fn faults() {
        assert!(multi_head(3).attr("num_heads", 3i64).eval().is_err());
        let mask = Tensor::from_slice(&[1, 4], &[1i32; 4]).unwrap();
        assert!(multi_head(3).with_input(4, &mask).eval().is_err());
    }

    const BIASED: [f64; 8] =
        [-1.599012, -0.09901233, 1.38376, -0.9837605, -0.6701242, 0.8298758, 0.7152675, -0.3127633];
    const MASKED: [f64; 8] =
        [-1.118351, -0.1183513, 0.9, -0.7, -1.081649, -0.08164874, 0.902651, -0.697349];
    const ADDED: [f64; 8] = [
        -0.9868336, 0.01316636, 0.6463224, -0.5165147, -0.2020882, 0.7979118, -0.3338682, 0.5296708,
    ];
    const CAUSAL: [f64; 8] = [
        -2.117362,
        -0.3528936,
        1.387703,
        -1.387703,
        -0.009864444,
        1.035258,
        -0.08996496,
        0.2479789,
    ];
    const CACHE: [f64; 12] =
        [-2.4, -0.4000001, -1.5, -0.25, 0.25, 1.5, 1.6, -1.6, 1.0, -1.0, -0.5, 0.75];
    const CROSS: [f64; 8] = [
        -1.124388, -0.1684182, 0.9181233, -0.5566536, 0.01769008, 0.9275964, -0.3431638, 0.1402728,
    ];
}
