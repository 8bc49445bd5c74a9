//! Attention operators of com.microsoft with their own projections, masks and caches:
//! Attention, QAttention and MultiHeadAttention.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::attention_core::{Attended, Heads, Mask, Scoring, Stage, attend, join, swap_heads};
use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dense::{expect_shape, floats, floats_opt, product, result, shape_of_rank, zeros};
use crate::error::OpError;
use crate::quant_form::{integers, scales, zero_points};
use crate::real::Real;
use crate::work::Work;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&ATTENTION, &QATTENTION];

static ATTENTION: OpDef = OpDef {
    name: "com.microsoft.Attention",
    doc: "Projects one input to queries, keys and values and lets them attend.",
    onnx: &[onnx("com.microsoft", "Attention", 1)],
    inputs: Arity::between(2, 7),
    outputs: Arity::between(1, 2),
    kind: Kind::Heavy,
    infer: |ctx| infer_packed(ctx, 4, ctx.dtype_opt(0)),
    work: packed_work,
    eval: eval_attention,
    ..OpDef::DEFAULT
};

static QATTENTION: OpDef = OpDef {
    name: "com.microsoft.QAttention",
    doc: "As com.microsoft.Attention, with a quantised input and quantised weights.",
    onnx: &[onnx("com.microsoft", "QAttention", 1)],
    inputs: Arity::between(5, 9),
    infer: |ctx| infer_packed(ctx, 8, ctx.dtype_opt(3)),
    eval: eval_qattention,
    ..ATTENTION
};

/// Number of heads.
pub(crate) fn head_count(node: &hetra_ir::Node) -> Result<usize, OpError> {
    let heads = *node.attrs.int("num_heads")?;
    usize::try_from(heads)
        .ok()
        .filter(|&heads| heads > 0)
        .ok_or_else(|| OpError::invalid(format!("num_heads {heads} is not positive")))
}

/// What the attributes of com.microsoft's attention operators say of heads and scores.
#[derive(Clone, Debug, PartialEq)]
pub struct MicrosoftAttentionForm {
    /// Heads.
    pub heads: usize,
    /// Query `i` does not see keys after its own (past ones come before).
    pub causal: bool,
    /// Added to the score of a key that is padding.
    pub filter: f32,
    /// Factor of the scores; one over the root of the width when there is none.
    pub scale: Option<f32>,
}

impl MicrosoftAttentionForm {
    /// Reads the attributes.
    ///
    /// # Errors
    /// An attribute of a wrong kind or value.
    pub fn of(node: &hetra_ir::Node) -> Result<MicrosoftAttentionForm, OpError> {
        Ok(MicrosoftAttentionForm {
            heads: head_count(node)?,
            causal: node.attrs.flag_or("unidirectional", false)?,
            filter: node.attrs.float_or("mask_filter_value", -10000.0)?,
            scale: Some(node.attrs.float_or("scale", 0.0)?).filter(|&scale| scale != 0.0),
        })
    }

    /// Widths of all heads of q, k and v together, whose columns stand side by side in the weights.
    ///
    /// # Errors
    /// When the node says others than fit into `total` columns.
    pub fn hidden_sizes(node: &hetra_ir::Node, total: usize) -> Result<[usize; 3], OpError> {
        hidden_sizes(node, total)
    }
}

fn hidden_sizes(node: &hetra_ir::Node, total: usize) -> Result<[usize; 3], OpError> {
    let fault = || OpError::input(1, "columns for q, k and v", total.to_string());
    let sizes = match node.attrs.ints_opt("qkv_hidden_sizes")?.filter(|sizes| !sizes.is_empty()) {
        None if total.is_multiple_of(3) => [total / 3; 3],
        None => return Err(fault()),
        Some(sizes) => {
            let sizes: Vec<usize> = sizes.iter().filter_map(|&s| usize::try_from(s).ok()).collect();
            <[usize; 3]>::try_from(sizes).map_err(|_| fault())?
        }
    };
    let sum = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
    let heads = head_count(node)?;
    let whole = sizes.iter().all(|size| size.is_multiple_of(heads));
    if sum != Some(total) || !whole || sizes[0] != sizes[1] || sizes[2] == 0 || sizes[0] == 0 {
        return Err(fault());
    }
    Ok(sizes)
}

/// What these operators do not do yet.
fn refuse(ctx: &EvalCtx<'_>) -> Result<(), OpError> {
    for name in ["do_rotary", "past_present_share_buffer"] {
        if ctx.attrs().flag_or(name, false)? {
            return Err(OpError::unsupported(format!("attribute `{name}`")));
        }
    }
    Ok(())
}

fn eval_attention(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    match ctx.tensor(0)?.dtype() {
        DType::F64 => attention_floats::<f64>(ctx),
        _ => attention_floats::<f32>(ctx),
    }
}

fn attention_floats<T: Real>(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    refuse(ctx)?;
    let (x, w) = (floats::<T>(ctx, 0)?, floats::<T>(ctx, 1)?);
    let [batch, length, inner] = shape_of_rank(&x, 0)?;
    let [rows, columns] = shape_of_rank(&w, 1)?;
    if rows != inner {
        return Err(OpError::input(1, format!("{inner} rows"), w.describe()));
    }
    let mut all = zeros::<T>(&[batch, length, columns])?;
    if let Some(bias) = floats_opt::<T>(ctx, 2)? {
        expect_shape(&bias, 2, &[columns])?;
        let bias = bias.as_slice::<T>()?;
        all.chunks_exact_mut(columns.max(1)).for_each(|row| row.copy_from_slice(bias));
    }
    product(x.as_slice::<T>()?, w.as_slice::<T>()?, inner, columns, &mut all);
    let inputs = Packed { mask: 3, past: 4, bias: Some(5), dtype: ctx.tensor(0)?.dtype() };
    finish_packed(ctx, &all, [batch, length, columns], &inputs)
}

fn eval_qattention(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    refuse(ctx)?;
    let (x, w) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let [batch, length, inner] = shape_of_rank(x, 0)?;
    let [rows, columns] = shape_of_rank(w, 1)?;
    if rows != inner {
        return Err(OpError::input(1, format!("{inner} rows"), w.describe()));
    }
    let of_x = scales(ctx, 3)?;
    let of_w = scales(ctx, 4)?;
    let x_zeros = zero_points(ctx, 6, Some(x.dtype()))?;
    let w_zeros = zero_points(ctx, 7, Some(w.dtype()))?;
    for (index, count) in [(4, of_w.len()), (7, w_zeros.len())] {
        if count > 1 && count != columns || index == 4 && count == 0 {
            return Err(OpError::input(index, format!("1 or {columns}"), count.to_string()));
        }
    }
    if of_x.len() != 1 || x_zeros.len() > 1 {
        return Err(OpError::input(3, "one scale and zero point", of_x.len().to_string()));
    }
    let at_column = |len: usize, column: usize| if len == 1 { 0 } else { column };
    let (mut left, mut right) = (integers(x, 0)?, integers(w, 1)?);
    let zero = x_zeros.first().map_or(0, |zero| *zero);
    left.as_mut_slice::<i32>()?.iter_mut().for_each(|code| *code -= zero);
    for (at, code) in right.as_mut_slice::<i32>()?.iter_mut().enumerate() {
        *code -= w_zeros.get(at_column(w_zeros.len(), at % columns)).map_or(0, |zero| *zero);
    }
    let mut sums = Tensor::zeros(DType::I32, &[batch, length, columns])?;
    let slots = sums.as_mut_slice::<i32>()?;
    crate::dense::product_int(left.as_slice()?, right.as_slice()?, inner, columns, slots);
    let bias = floats::<f32>(ctx, 2)?;
    expect_shape(&bias, 2, &[columns])?;
    let bias = bias.as_slice::<f32>()?;
    let real = |(at, &sum): (usize, &i32)| {
        let column = at % columns;
        sum as f32 * (of_x[0] * of_w[at_column(of_w.len(), column)]) + bias[column]
    };
    let all: Vec<f32> = slots.iter().enumerate().map(real).collect();
    let inputs = Packed { mask: 5, past: 8, bias: None, dtype: ctx.tensor(3)?.dtype() };
    finish_packed(ctx, &all, [batch, length, columns], &inputs)
}

/// Where the inputs of a packed attention stand, and the dtype of its outputs.
struct Packed {
    mask: usize,
    past: usize,
    bias: Option<usize>,
    dtype: DType,
}

/// From q, k and v side by side to the outputs.
fn finish_packed<T: Real>(
    ctx: &EvalCtx<'_>,
    all: &[T],
    [batch, length, columns]: [usize; 3],
    inputs: &Packed,
) -> Result<Vec<Value>, OpError> {
    let heads = head_count(ctx.node)?;
    let sizes = hidden_sizes(ctx.node, columns)?;
    let part = |start: usize, size: usize| {
        let rows = all.chunks_exact(columns);
        let taken: Vec<T> = rows.flat_map(|row| row[start..start + size].to_vec()).collect();
        swap_heads(&taken, [batch, length, heads, size / heads])
    };
    let q = part(0, sizes[0]);
    let (mut k, mut v) = (part(sizes[0], sizes[1]), part(sizes[0] + sizes[1], sizes[2]));
    let (width, v_width) = (sizes[0] / heads, sizes[2] / heads);
    let mut past_length = 0;
    if let Some(past) = floats_opt::<T>(ctx, inputs.past)? {
        past_length = shape_of_rank::<5>(&past, inputs.past)?[3];
        expect_shape(&past, inputs.past, &[2, batch, heads, past_length, width])?;
        if width != v_width {
            return Err(OpError::invalid("a past needs keys and values of one width"));
        }
        let (of_k, of_v) = past.as_slice::<T>()?.split_at(past.len() / 2);
        let rows = batch * heads;
        k = join(of_k, &k, rows, past_length * width, length * width);
        v = join(of_v, &v, rows, past_length * width, length * width);
    }
    let keys = past_length + length;
    let at = Heads { batch, heads, kv_heads: heads, queries: length, keys, width, v_width };
    let attended = attend_masked(
        ctx,
        [&q, &k, &v],
        at,
        &Masks { padding: Some(inputs.mask), bias: inputs.bias, past: past_length, tap: None },
    )?;
    let merged = swap_heads(&attended.values, [batch, heads, length, v_width]);
    let y = result(inputs.dtype, &[batch, length, sizes[2]], &merged)?;
    let mut outputs = vec![y.into()];
    if ctx.wants(1) {
        if width != v_width {
            return Err(OpError::invalid("a present needs keys and values of one width"));
        }
        k.extend_from_slice(&v);
        outputs.push(result(inputs.dtype, &[2, batch, heads, keys, width], &k)?.into());
    }
    Ok(outputs)
}

/// What masks the scores of these operators.
pub(crate) struct Masks {
    /// The input of a padding mask, in any of its forms.
    pub(crate) padding: Option<usize>,
    /// The input of a mask to add.
    pub(crate) bias: Option<usize>,
    /// Past keys.
    pub(crate) past: usize,
    pub(crate) tap: Option<Stage>,
}

/// [`attend`] under the masks and attributes that these operators share.
pub(crate) fn attend_masked<T: Real>(
    ctx: &EvalCtx<'_>,
    qkv: [&[T]; 3],
    at: Heads,
    masks: &Masks,
) -> Result<Attended<T>, OpError> {
    let form = MicrosoftAttentionForm::of(ctx.node)?;
    let filter = T::of(f64::from(form.filter));
    let padding = masks.padding.map(|index| Padding::of(ctx, index, at, masks.past)).transpose()?;
    let bias = masks.bias.and_then(|index| Some((index, ctx.tensor_opt(index)?)));
    let bias = bias.map(|(index, tensor)| Mask::<T>::new(tensor, index, at)).transpose()?;
    let lowest = T::of(f64::from(f32::MIN));
    let add = |item: usize, head: usize, query: usize, scores: &mut [T]| {
        for (key, score) in scores.iter_mut().enumerate() {
            if form.causal && key > masks.past + query {
                *score = lowest;
            } else if padding.as_ref().is_some_and(|padding| !padding.open(item, query, key)) {
                *score += filter;
            }
        }
        if let Some(bias) = &bias {
            bias.add(item, head, query, scores);
        }
    };
    let default = 1.0 / (at.width as f64).sqrt();
    let scoring = Scoring {
        scale: T::of(form.scale.map_or(default, f64::from)),
        softcap: T::default(),
        cap_first: true,
        bias: &add,
        tap: masks.tap,
    };
    attend(qkv, at, &scoring)
}

/// Which keys are no padding.
#[derive(Clone, Debug)]
pub enum Padding {
    /// All.
    None,
    /// The open range of keys of each batch item.
    Ranges(Vec<(i64, i64)>),
    /// A number for each item, query and key; open when over 0.
    Numbers {
        /// The numbers, those of keys side by side.
        values: Vec<i64>,
        /// The distance between items.
        by_item: usize,
        /// The distance between queries.
        by_query: usize,
        /// Where they begin.
        start: usize,
    },
}

impl Padding {
    /// Reads input `index` in any of its forms; `past` of the keys come from a cache.
    ///
    /// # Errors
    /// When it has the shape of none.
    pub fn of(ctx: &EvalCtx<'_>, index: usize, at: Heads, past: usize) -> Result<Padding, OpError> {
        let Some(values) = ctx.ints_opt(index)? else { return Ok(Padding::None) };
        let tensor = ctx.tensor(index)?;
        let (batch, queries, keys) = (at.batch, at.queries, at.keys);
        let count = values.len();
        match *tensor.shape() {
            // Ends; ends then starts; or ends and then offsets that only packed kernels need.
            [_] if count == batch || count == 3 * batch + 2 => {
                Ok(Padding::Ranges(values[..batch].iter().map(|&end| (0, end)).collect()))
            }
            [_] if count == 2 * batch => {
                let (ends, starts) = values.split_at(batch);
                let range = |(&start, &end)| (start, end);
                Ok(Padding::Ranges(starts.iter().zip(ends).map(range).collect()))
            }
            [b, k] if [b, k] == [batch, keys] => {
                Ok(Padding::Numbers { values, by_item: keys, by_query: 0, start: 0 })
            }
            [b, q, k] if [b, q, k] == [batch, queries, keys] => {
                let by_item = queries * keys;
                Ok(Padding::Numbers { values, by_item, by_query: keys, start: 0 })
            }
            // A square for the longest sequence: the queries stand after the past.
            [b, 1, m, n] if b == batch && m == n && keys <= n && past + queries <= m => {
                Ok(Padding::Numbers { values, by_item: m * n, by_query: n, start: past * n })
            }
            _ => {
                let wanted = format!("a mask of {batch} items, {queries} queries, {keys} keys");
                Err(OpError::input(index, wanted, tensor.describe()))
            }
        }
    }

    /// Whether a query of a batch item may see a key.
    pub fn open(&self, item: usize, query: usize, key: usize) -> bool {
        match self {
            Padding::None => true,
            Padding::Ranges(ranges) => {
                let (start, end) = ranges[item];
                (start..end).contains(&(key as i64))
            }
            Padding::Numbers { values, by_item, by_query, start } => {
                values[start + item * by_item + query * by_query + key] > 0
            }
        }
    }
}

fn infer_packed(
    ctx: &InferCtx<'_>,
    past: usize,
    dtype: Option<DType>,
) -> Result<Vec<Type>, OpError> {
    let heads = head_count(ctx.node)?;
    let Some(x) = ctx.dims(0) else {
        return Ok(vec![InferCtx::make(dtype, None); ctx.node.outputs.len().max(1)]);
    };
    let [batch, length, _] = x else {
        return Err(OpError::input(0, "3 axes", ctx.ty(0)?.to_string()));
    };
    let columns = ctx.dims(1).and_then(|dims| dims.get(1)?.known());
    let sizes = columns.map(|columns| hidden_sizes(ctx.node, columns)).transpose()?;
    let size = |at: usize| sizes.map_or(Dim::Unknown, |sizes| Dim::Known(sizes[at]));
    let y = vec![batch.clone(), length.clone(), size(2)];
    let before = match ctx.has(past) {
        false => Some(0),
        true => ctx.dims(past).and_then(|dims| dims.get(3)?.known()),
    };
    let keys = before.zip(length.known()).and_then(|(before, length)| before.checked_add(length));
    let keys = keys.map_or(Dim::Unknown, Dim::Known);
    let width = sizes.map_or(Dim::Unknown, |sizes| Dim::Known(sizes[0] / heads));
    let present = vec![Dim::Known(2), batch.clone(), Dim::Known(heads), keys, width];
    let mut types = vec![InferCtx::make(dtype, Some(y)), InferCtx::make(dtype, Some(present))];
    types.truncate(ctx.node.outputs.len().max(1));
    Ok(types)
}

fn packed_work(ctx: &InferCtx<'_>, _: &[Type]) -> Work {
    let shape = |index: usize| ctx.ty_opt(index).and_then(Type::known_shape);
    let (Some(x), Some(w)) = (shape(0), shape(1)) else { return Work::default() };
    let ([batch, length, inner], [_, columns]) = (&x[..], &w[..]) else { return Work::default() };
    let (rows, length) = (*batch as f64 * *length as f64, *length as f64);
    // Projections, then scores and sums over all widths together, two thirds of the columns.
    let columns = *columns as f64;
    Work::macs(rows * columns * *inner as f64 + rows * length * columns * 2.0 / 3.0)
}

#[cfg(test)]
mod tests {
    use crate::attention::ramp;
    use crate::case::{Case, check};
    use hetra_ir::Attr;
    use hetra_tensor::Tensor;

    fn case() -> Case {
        let case = Case::new("com.microsoft.Attention").tensor(&ramp(&[1, 2, 4], 0.3));
        let case = case.tensor(&ramp(&[4, 12], 0.2)).tensor(&ramp(&[12], 0.1));
        case.attr("num_heads", 2i64)
    }

    // The numbers are those of onnxruntime 1.32.
    #[test]
    fn as_onnxruntime() {
        let plain = case();
        check(&plain, 0, &[1, 2, 4], &PLAIN);
        let past = plain.with_input(4, &ramp(&[2, 1, 2, 1, 2], 0.4));
        let past = past.attr("unidirectional", 1i64).outputs(2);
        check(&past, 0, &[1, 2, 4], &PAST);
        check(&past, 1, &[2, 1, 2, 3, 2], &PRESENT);
        let mask = |shape: &[usize], values: &[i32]| {
            plain.with_input(3, &Tensor::from_slice(shape, values).unwrap())
        };
        check(&mask(&[1], &[1]), 0, &[1, 2, 4], &ENDS);
        check(&mask(&[5], &[1, 0, 2, 0, 2]), 0, &[1, 2, 4], &ENDS);
        check(&mask(&[1, 2], &[1, 0]), 0, &[1, 2, 4], &ENDS);
        check(&mask(&[2], &[2, 1]), 0, &[1, 2, 4], &STARTS);
        check(&mask(&[1, 2, 2], &[1, 0, 0, 1]), 0, &[1, 2, 4], &SQUARE);
        check(&mask(&[1, 1, 2, 2], &[1, 0, 0, 1]), 0, &[1, 2, 4], &SQUARE);
        let sizes = plain.with_input(1, &ramp(&[4, 10], 0.2)).with_input(2, &ramp(&[10], 0.1));
        let sizes = sizes.attr("qkv_hidden_sizes", Attr::Ints(vec![4, 4, 2]));
        check(&sizes, 0, &[1, 2, 2], &SIZES);
    }

    #[test]
    fn quantized_as_onnxruntime() {
        let x: Vec<u8> = (0..8).map(|at| at * 30).collect();
        let w: Vec<i8> = (0..48).map(|at| (at * 37 % 200 - 100) as i8).collect();
        let case = Case::new("com.microsoft.QAttention");
        let case = case.tensor(&Tensor::from_slice(&[1, 2, 4], &x).unwrap());
        let case = case.tensor(&Tensor::from_slice(&[4, 12], &w).unwrap());
        let case = case.tensor(&ramp(&[12], 0.1)).tensor(&Tensor::scalar(0.01f32));
        let case = case.tensor(&Tensor::scalar(0.02f32)).none();
        let case = case.tensor(&Tensor::scalar(100u8)).tensor(&Tensor::scalar(3i8));
        check(&case.attr("num_heads", 2i64), 0, &[1, 2, 4], &QUANTIZED);
    }

    #[test]
    fn faults() {
        let good = case();
        assert!(good.attr("num_heads", 0i64).eval().is_err());
        assert!(good.attr("num_heads", 3i64).eval().is_err());
        assert!(good.attr("qkv_hidden_sizes", vec![4i64, -4, 12]).eval().is_err());
        assert!(good.with_input(3, &Tensor::vector(&[1i32; 7])).eval().is_err());
        assert!(good.with_input(4, &ramp(&[2, 1, 2, 1, 3], 0.1)).eval().is_err());
        assert!(good.with_input(1, &ramp(&[4, 11], 0.1)).eval().is_err());
    }

    const PLAIN: [f64; 8] =
        [1.599659, -2.519428, -1.95874, 1.372018, -0.7999995, 1.499999, -0.8931304, 1.111811];
    const PAST: [f64; 8] =
        [0.3937735, 2.39533, -3.150331, 1.666182, -0.7999066, 1.500069, -0.8495099, 1.153117];
    const PRESENT: [f64; 24] = [
        -2.4, -0.4000001, 1.18, -3.54, -1.94, 2.52, 1.6, -1.6, 1.36, 0.5400002, 1.0, -0.7800002,
        0.3999999, 2.4, -0.8, 1.5, 1.6, -2.52, -0.8000001, 1.2, -3.22, 1.68, 1.94, 0.4200001,
    ];
    const ENDS: [f64; 8] = [-0.8, 1.5, -3.22, 1.68, -0.8, 1.5, -3.22, 1.68];
    const STARTS: [f64; 8] = [1.6, -2.52, 1.94, 0.4200001, 1.6, -2.52, 1.94, 0.4200001];
    const SQUARE: [f64; 8] = [-0.8, 1.5, -3.22, 1.68, 1.6, -2.52, 1.94, 0.4200001];
    const SIZES: [f64; 4] = [1.419772, -0.4558013, 1.303506, -0.1950691];
    const QUANTIZED: [f64; 8] =
        [-0.658636, -1.222828, 0.7148952, 2.246285, -1.154454, -1.002465, -0.5197705, 0.06746372];
}
