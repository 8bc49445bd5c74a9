//! The Attention operator of ai.onnx.

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{DType, Value};

use crate::attention_core::{
    Attended, Heads, Mask, Scoring, Stage, attend, close_from, join, swap_heads,
};
use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dense::{expect_shape, floats, floats_opt, result, shape_of_rank};
use crate::error::OpError;
use crate::real::Real;
use crate::work::Work;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&ATTENTION];

static ATTENTION: OpDef = OpDef {
    name: "Attention",
    doc: "Scaled dot-product attention with masks, grouped heads and a cache of keys and values.",
    onnx: &[onnx("", "Attention", 24)],
    inputs: Arity::between(3, 7),
    outputs: Arity::between(1, 4),
    kind: Kind::Heavy,
    infer: infer_attention,
    work: attention_work,
    eval: eval_attention,
    ..OpDef::DEFAULT
};

const MASK: usize = 3;
const PAST_KEY: usize = 4;
const PAST_VALUE: usize = 5;
const VALID_KEYS: usize = 6;

/// What the attributes of an ai.onnx Attention say.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionForm {
    /// Heads of 3-D queries.
    pub heads: Option<usize>,
    /// Heads of 3-D keys and values.
    pub kv_heads: Option<usize>,
    /// Query `i` does not see keys after its own (past ones come before).
    pub causal: bool,
    /// Factor of the scores; one over the root of the width when there is none.
    pub scale: Option<f32>,
    /// Bound of the scores, 0 for none.
    pub softcap: f32,
    /// The stage of the scores that the fourth output shows, 0 to 3.
    pub score_output: usize,
}

impl AttentionForm {
    /// Reads the attributes.
    ///
    /// # Errors
    /// An attribute of a wrong kind or value.
    pub fn of(attrs: &Attrs) -> Result<AttentionForm, OpError> {
        let count = |name: &str| match attrs.int_opt(name)? {
            None => Ok(None),
            Some(&value) => usize::try_from(value)
                .ok()
                .filter(|&count| count > 0)
                .map(Some)
                .ok_or_else(|| OpError::invalid(format!("{name} {value} is not positive"))),
        };
        let score_output = match attrs.int_or("qk_matmul_output_mode", 0)? {
            mode @ 0..=3 => mode as usize,
            mode => return Err(OpError::invalid(format!("qk_matmul_output_mode {mode}"))),
        };
        // `softmax_precision` asks for at least that much; we always compute in 32 bits or more.
        Ok(AttentionForm {
            heads: count("q_num_heads")?,
            kv_heads: count("kv_num_heads")?,
            causal: attrs.flag_or("is_causal", false)?,
            scale: attrs.float_opt("scale")?.copied(),
            softcap: attrs.float_or("softcap", 0.0)?,
            score_output,
        })
    }
}

fn eval_attention(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let wide = ctx.tensor(0)?.dtype() == DType::F64 || ctx.tensor(2)?.dtype() == DType::F64;
    if wide { eval_floats::<f64>(ctx) } else { eval_floats::<f32>(ctx) }
}

/// One of q, k, v as `[batch, heads, length, width]`.
fn by_heads<T: Real>(
    ctx: &EvalCtx<'_>,
    index: usize,
    heads: Option<usize>,
) -> Result<(Vec<T>, [usize; 4]), OpError> {
    let tensor = floats::<T>(ctx, index)?;
    let values = tensor.as_slice::<T>()?;
    if tensor.rank() == 4 {
        let shape = shape_of_rank::<4>(&tensor, index)?;
        return Ok((values.to_vec(), shape));
    }
    let [batch, length, all] = shape_of_rank::<3>(&tensor, index)?;
    let heads = heads.ok_or_else(|| OpError::invalid("3-D inputs need the numbers of heads"))?;
    if !all.is_multiple_of(heads) {
        let wanted = format!("a last axis of {heads} heads");
        return Err(OpError::input(index, wanted, tensor.describe()));
    }
    let width = all / heads;
    Ok((swap_heads(values, [batch, length, heads, width]), [batch, heads, length, width]))
}

/// Joins the past to keys or values; `shape` grows.
fn with_past<T: Real>(
    ctx: &EvalCtx<'_>,
    index: usize,
    values: Vec<T>,
    shape: &mut [usize; 4],
) -> Result<Vec<T>, OpError> {
    let Some(past) = floats_opt::<T>(ctx, index)? else { return Ok(values) };
    let [batch, heads, new, width] = *shape;
    let before = shape_of_rank::<4>(&past, index)?[2];
    expect_shape(&past, index, &[batch, heads, before, width])?;
    shape[2] = before + new;
    let rows = batch * heads;
    Ok(join(past.as_slice::<T>()?, &values, rows, before * width, new * width))
}

fn eval_floats<T: Real>(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let form = AttentionForm::of(ctx.attrs())?;
    let (q, q_shape) = by_heads::<T>(ctx, 0, form.heads)?;
    let (k, mut k_shape) = by_heads::<T>(ctx, 1, form.kv_heads)?;
    let (v, mut v_shape) = by_heads::<T>(ctx, 2, form.kv_heads)?;
    let new_keys = k_shape[2];
    let k = with_past(ctx, PAST_KEY, k, &mut k_shape)?;
    let v = with_past(ctx, PAST_VALUE, v, &mut v_shape)?;
    let at = extents(q_shape, k_shape, v_shape)?;
    let mask = ctx.tensor_opt(MASK).map(|tensor| Mask::new(tensor, MASK, at)).transpose()?;
    let valid = valid_keys(ctx, at)?;
    let past = at.keys - new_keys;
    // Keys before the first query: those of the past or, when the caller keeps the cache, the
    // valid ones that are not the queries' own. A query with none of them sees nothing.
    let first_unseen = |query: usize, valid: Option<usize>| match valid {
        Some(valid) if past == 0 => (valid + query + 1).saturating_sub(at.queries),
        _ => past + query + 1,
    };
    let bias = |item: usize, head: usize, query: usize, scores: &mut [T]| {
        if let Some(mask) = &mask {
            mask.add(item, head, query, scores);
        }
        if form.causal {
            close_from(scores, first_unseen(query, valid.as_ref().map(|valid| valid[item])));
        }
        if let Some(valid) = &valid {
            close_from(scores, valid[item]);
        }
    };
    let stages = [Stage::Product, Stage::Biased, Stage::Capped, Stage::Softmax];
    let default_scale = 1.0 / (at.width as f64).sqrt();
    let scoring = Scoring {
        scale: T::of(form.scale.map_or(default_scale, f64::from)),
        softcap: T::of(f64::from(form.softcap)),
        cap_first: false,
        bias: &bias,
        tap: ctx.wants(3).then(|| stages[form.score_output]),
    };
    let Attended { values, tapped } = attend([&q, &k, &v], at, &scoring)?;
    let (dtype, v_dtype) = (ctx.tensor(0)?.dtype(), ctx.tensor(2)?.dtype());
    let y = if ctx.tensor(0)?.rank() == 3 {
        let merged = swap_heads(&values, [at.batch, at.heads, at.queries, at.v_width]);
        result(dtype, &[at.batch, at.queries, at.heads * at.v_width], &merged)?
    } else {
        result(dtype, &[at.batch, at.heads, at.queries, at.v_width], &values)?
    };
    let mut outputs = vec![y];
    if ctx.node.outputs.len() > 1 {
        outputs.push(result(dtype, &k_shape, &k)?);
        outputs.push(result(v_dtype, &v_shape, &v)?);
    }
    if ctx.wants(3) {
        outputs.push(result(dtype, &[at.batch, at.heads, at.queries, at.keys], &tapped)?);
    }
    Ok(outputs.into_iter().map(Value::from).collect())
}

fn extents(q: [usize; 4], k: [usize; 4], v: [usize; 4]) -> Result<Heads, OpError> {
    let [batch, heads, queries, width] = q;
    if [k[0], k[3]] != [batch, width] {
        return Err(OpError::input(1, format!("batch {batch}, width {width}"), format!("{k:?}")));
    }
    if v[..3] != k[..3] {
        return Err(OpError::input(2, format!("{:?} as the keys", &k[..3]), format!("{v:?}")));
    }
    if k[1] == 0 || !heads.is_multiple_of(k[1]) {
        return Err(OpError::input(1, format!("a divisor of {heads} heads"), k[1].to_string()));
    }
    let (kv_heads, keys, v_width) = (k[1], k[2], v[3]);
    Ok(Heads { batch, heads, kv_heads, queries, keys, width, v_width })
}

/// Number of keys of each batch item that are no padding.
fn valid_keys(ctx: &EvalCtx<'_>, at: Heads) -> Result<Option<Vec<usize>>, OpError> {
    let Some(given) = ctx.ints_opt(VALID_KEYS)? else { return Ok(None) };
    if given.len() != at.batch {
        let wanted = format!("{} lengths", at.batch);
        return Err(OpError::input(VALID_KEYS, wanted, given.len().to_string()));
    }
    Ok(Some(given.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect()))
}

/// Dims as `[batch, heads, length, width]`, of a 3-D or 4-D input.
fn dims_by_heads(
    ctx: &InferCtx<'_>,
    index: usize,
    heads: Option<usize>,
) -> Result<Option<[Dim; 4]>, OpError> {
    match ctx.dims(index) {
        None => Ok(None),
        Some([b, n, s, h]) => Ok(Some([b.clone(), n.clone(), s.clone(), h.clone()])),
        Some([b, s, all]) => {
            let heads =
                heads.ok_or_else(|| OpError::invalid("3-D inputs need the numbers of heads"))?;
            let width = all.known().map_or(Dim::Unknown, |all| Dim::Known(all / heads));
            Ok(Some([b.clone(), Dim::Known(heads), s.clone(), width]))
        }
        Some(_) => Err(OpError::input(index, "3 or 4 axes", ctx.ty(index)?.to_string())),
    }
}

/// The extent of two joined axes.
fn sum(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (Dim::Known(a), Dim::Known(b)) => a.checked_add(*b).map_or(Dim::Unknown, Dim::Known),
        (Dim::Known(0), other) | (other, Dim::Known(0)) => other.clone(),
        _ => Dim::Unknown,
    }
}

fn infer_attention(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let form = AttentionForm::of(ctx.attrs())?;
    let q = dims_by_heads(ctx, 0, form.heads)?;
    let mut k = dims_by_heads(ctx, 1, form.kv_heads)?;
    let mut v = dims_by_heads(ctx, 2, form.kv_heads)?;
    for (dims, past) in [(&mut k, PAST_KEY), (&mut v, PAST_VALUE)] {
        if let Some(dims) = dims
            && ctx.has(past)
        {
            let before = ctx.dims(past).and_then(|past| past.get(2));
            dims[2] = before.map_or(Dim::Unknown, |before| sum(before, &dims[2]));
        }
    }
    let width = v.as_ref().map_or(Dim::Unknown, |v| v[3].clone());
    let y = q.as_ref().map(|[b, n, s, _]| {
        if ctx.rank(0) == Some(4) {
            return vec![b.clone(), n.clone(), s.clone(), width];
        }
        let all = n.known().zip(width.known()).and_then(|(n, w)| n.checked_mul(w));
        vec![b.clone(), s.clone(), all.map_or(Dim::Unknown, Dim::Known)]
    });
    let scores = q.as_ref().map(|[b, n, s, _]| {
        let keys = k.as_ref().map_or(Dim::Unknown, |k| k[2].clone());
        vec![b.clone(), n.clone(), s.clone(), keys]
    });
    let (dtype, v_dtype) = (ctx.dtype_opt(0), ctx.dtype_opt(2));
    let mut types = vec![InferCtx::make(dtype, y)];
    types.push(InferCtx::make(dtype, k.map(|k| k.to_vec())));
    types.push(InferCtx::make(v_dtype, v.map(|v| v.to_vec())));
    types.push(InferCtx::make(dtype, scores));
    types.truncate(ctx.node.outputs.len().max(1));
    Ok(types)
}

fn attention_work(ctx: &InferCtx<'_>, _: &[Type]) -> Work {
    let known = |index: usize, heads: Option<usize>| {
        let dims = dims_by_heads(ctx, index, heads).ok()??;
        Some(dims.map(|dim| dim.known().unwrap_or(0)))
    };
    let macs = || {
        let form = AttentionForm::of(ctx.attrs()).ok()?;
        let (q, k) = (known(0, form.heads)?, known(1, form.kv_heads)?);
        let v = known(2, form.kv_heads)?;
        let past = ctx.dims(PAST_KEY).and_then(|dims| dims.get(2)?.known()).unwrap_or(0);
        let [batch, heads, queries, width] = q;
        let at = Heads {
            batch,
            heads,
            kv_heads: k[1],
            queries,
            keys: k[2] + past,
            width,
            v_width: v[3],
        };
        Some(at.macs())
    };
    macs().map_or_else(Work::default, Work::macs)
}

/// A tensor of a row, for tests of the operators built on this one.
#[cfg(test)]
pub(crate) fn ramp(shape: &[usize], step: f32) -> hetra_tensor::Tensor {
    let count: usize = shape.iter().product();
    // A small period keeps values near 0 and makes neighbours differ.
    let values: Vec<f32> =
        (0..count).map(|at| ((at * 5) % 13) as f32 * step - 6.0 * step).collect();
    hetra_tensor::Tensor::from_slice(shape, &values).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};
    use hetra_tensor::Tensor;

    #[test]
    fn one_key_gives_its_value() {
        let q = ramp(&[1, 2, 3, 4], 0.3);
        let k = ramp(&[1, 1, 1, 4], 0.2);
        let v = ramp(&[1, 1, 1, 2], 0.1);
        let case = Case::new("Attention").tensor(&q).tensor(&k).tensor(&v).outputs(4);
        check(&case, 0, &[1, 2, 3, 2], &[-0.6, -0.1].repeat(6));
        check(&case.attr("qk_matmul_output_mode", 3i64), 3, &[1, 2, 3, 1], &[1.0; 6]);
    }

    #[test]
    fn causal_sees_the_past() {
        let q = ramp(&[1, 1, 2, 1], 0.0);
        let v = Tensor::from_slice(&[1, 1, 2, 1], &[3f32, 5.0]).unwrap();
        let past = Tensor::from_slice(&[1, 1, 1, 1], &[1f32]).unwrap();
        let case = Case::new("Attention").tensor(&q).tensor(&q).tensor(&v).none();
        let case = case.tensor(&past).tensor(&past).attr("is_causal", 1i64).outputs(3);
        check(&case, 0, &[1, 1, 2, 1], &[2.0, 3.0]);
        check(&case, 2, &[1, 1, 3, 1], &[1.0, 3.0, 5.0]);
    }

    #[test]
    fn valid_lengths_and_short_masks() {
        let q = ramp(&[2, 1, 1, 1], 0.0);
        let v = Tensor::from_slice(&[2, 1, 3, 1], &[1f32, 3.0, 8.0, 1.0, 3.0, 8.0]).unwrap();
        let k = ramp(&[2, 1, 3, 1], 0.0);
        let case = Case::new("Attention").tensor(&q).tensor(&k).tensor(&v);
        let short = Tensor::from_bools(&[1, 2], &[true, true]).unwrap();
        check(&case.with_input(MASK, &short), 0, &[2, 1, 1, 1], &[2.0, 2.0]);
        let valid = case.with_input(VALID_KEYS, &Tensor::vector(&[1i64, 3]));
        check(&valid, 0, &[2, 1, 1, 1], &[1.0, 4.0]);
    }

    #[test]
    fn causal_ends_at_the_last_valid_key() {
        let q = ramp(&[2, 1, 2, 1], 0.0);
        let v = Tensor::from_slice(&[2, 1, 3, 1], &[1f32, 3.0, 8.0, 1.0, 3.0, 8.0]).unwrap();
        let k = ramp(&[2, 1, 3, 1], 0.0);
        let case = Case::new("Attention").tensor(&q).tensor(&k).tensor(&v).outputs(4);
        let case = case.with_input(VALID_KEYS, &Tensor::vector(&[1i64, 3]));
        let case = case.attr("is_causal", 1i64).attr("qk_matmul_output_mode", 3i64);
        // The first query of the first item stands before all keys.
        check(&case, 0, &[2, 1, 2, 1], &[0.0, 1.0, 2.0, 4.0]);
        let third = 1.0 / 3.0;
        let weights = [[0.0; 3], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [third; 3]].concat();
        check(&case, 3, &[2, 1, 2, 3], &weights);
    }

    #[test]
    fn a_query_that_sees_no_key_gives_zeros() {
        let q = ramp(&[1, 1, 2, 2], 0.3);
        let v = ramp(&[1, 1, 3, 2], 0.1);
        let case = Case::new("Attention").tensor(&q).tensor(&v).tensor(&v).outputs(4);
        let case = case.attr("qk_matmul_output_mode", 3i64);
        let mask = Tensor::from_bools(&[2, 3], &[false, false, false, true, false, false]);
        let case = case.with_input(MASK, &mask.unwrap());
        check(&case, 0, &[1, 1, 2, 2], &[0.0, 0.0, -0.6, -0.1]);
        check(&case, 3, &[1, 1, 2, 3], &[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn shapes_are_checked() {
        let q = ramp(&[1, 2, 8], 0.1);
        let case = Case::new("Attention").tensor(&q).tensor(&q).tensor(&q);
        assert!(case.eval().is_err(), "heads are missing");
        let case = case.attr("q_num_heads", 2i64);
        assert!(case.attr("kv_num_heads", 0i64).eval().is_err());
        assert!(case.attr("kv_num_heads", 3i64).eval().is_err());
        let case = case.attr("kv_num_heads", 2i64);
        assert!(case.eval().is_ok());
        let mask = Tensor::from_bools(&[3, 3], &[true; 9]).unwrap();
        assert!(case.with_input(MASK, &mask).eval().is_err());
        assert!(case.with_input(PAST_KEY, &q).eval().is_err());
    }
}
