//! Queries, keys and values as views by batch, head and token, whatever their layout, and the
//! attention of such views.

use hetra_device::{Call, Values};
use hetra_ops::OpError;
use hetra_tensor::{DType, Tensor, TensorError, Value};

use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::attention::{Attention, HeadStrides, Mask, attention};
use hetra_cpu_kernels::layout::{Blocks, copy_blocks};
use hetra_cpu_rows::broadcast::{Binary, binary, broadcast_strides};

/// One of queries, keys and values.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    /// From the first number of the first head on.
    values: &'a [f32],
    strides: HeadStrides,
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) tokens: usize,
    pub(super) width: usize,
}

impl<'a> Side<'a> {
    /// Numbers `[batch, heads, tokens, width]`.
    pub(super) fn dense(values: &'a [f32], [batch, heads, tokens, width]: [usize; 4]) -> Self {
        let (token, head) = (width, tokens * width);
        let strides = HeadStrides { batch: heads * head, head, token };
        Side { values, strides, batch, heads, tokens, width }
    }

    /// A tensor `[batch, heads, tokens, width]` that is not empty.
    pub(super) fn by_heads(tensor: &'a Tensor) -> Option<Side<'a>> {
        Some(Side::dense(floats(tensor)?, tensor.shape().try_into().ok()?))
    }

    /// A tensor `[batch, tokens, heads * width]` that is not empty.
    pub(super) fn by_tokens(tensor: &'a Tensor, heads: usize) -> Option<Side<'a>> {
        let &[batch, tokens, columns] = tensor.shape() else { return None };
        Side::columns(floats(tensor)?, [batch, tokens, columns], (0, columns), heads)
    }

    /// The `size` columns from `start` of rows `[batch, tokens, columns]`, as heads.
    pub(super) fn columns(
        values: &'a [f32],
        [batch, tokens, columns]: [usize; 3],
        (start, size): (usize, usize),
        heads: usize,
    ) -> Option<Side<'a>> {
        let width = size.checked_div(heads).filter(|width| width * heads == size)?;
        let strides = HeadStrides { batch: tokens * columns, head: width, token: columns };
        Some(Side { values: values.get(start..)?, strides, batch, heads, tokens, width })
    }

    /// Part `index` of a tensor `[batch, tokens, heads, parts, width]` that is not empty.
    pub(super) fn packed(tensor: &'a Tensor, index: usize, parts: usize) -> Option<Side<'a>> {
        let &[batch, tokens, heads, count, width] = tensor.shape() else { return None };
        if count != parts {
            return None;
        }
        let (head, values) = (parts * width, floats(tensor)?.get(index * width..)?);
        let strides = HeadStrides { batch: tokens * heads * head, head, token: heads * head };
        Some(Side { values, strides, batch, heads, tokens, width })
    }

    /// One item of the batch.
    pub(super) fn item(&self, index: usize) -> Side<'a> {
        Side { values: &self.values[index * self.strides.batch..], batch: 1, ..*self }
    }

    /// The first `tokens` tokens.
    pub(super) fn until(self, tokens: usize) -> Side<'a> {
        Side { tokens, ..self }
    }

    /// Its numbers, and where those of a head of a token of an item start.
    pub(super) fn values(&self) -> &'a [f32] {
        self.values
    }

    pub(super) fn start(&self, item: usize, head: usize, token: usize) -> usize {
        let s = self.strides;
        item * s.batch + head * s.head + token * s.token
    }

    pub(super) fn len(&self) -> usize {
        self.batch * self.heads * self.tokens * self.width
    }

    /// With a number added to each column of each head, in `room` for as many numbers as it has.
    /// `None` when there are not as many numbers as columns.
    pub(super) fn biased(self, bias: &[f32], room: &'a mut [f32]) -> Option<Side<'a>> {
        let Side { values, strides: s, batch, heads, tokens, width } = self;
        if bias.len() != heads * width {
            return None;
        }
        let shape = [batch, tokens, heads, width];
        let (own, its) = ([s.batch, s.token, s.head, 1], [0, 0, width, 1]);
        let (own, its) = ((values, &own[..]), (bias, &its[..]));
        binary(isa(), Binary::Add, Activation::None, &shape, own, its, room);
        Side::columns(room, [batch, tokens, heads * width], (0, heads * width), heads)
    }

    /// Writes `past`, `[batch, heads, before, width]`, and then these to
    /// `target[batch, heads, before + tokens, width]`.
    pub(super) fn join(&self, past: &[f32], before: usize, target: &mut [f32]) {
        let Side { values, strides, batch, heads, tokens, width } = *self;
        let (old, all) = (before * width, (before + tokens) * width);
        let rows = batch * heads;
        let kept = Blocks { count: rows, len: old, src: (0, old), dst: (0, all) };
        copy_blocks(past, target, &kept);
        for row in 0..rows {
            let first = row / heads * strides.batch + row % heads * strides.head;
            let (src, dst) = ((first, strides.token), (row * all + old, width));
            copy_blocks(values, target, &Blocks { count: tokens, len: width, src, dst });
        }
    }
}

fn floats(tensor: &Tensor) -> Option<&[f32]> {
    tensor.as_slice::<f32>().ok().filter(|values| !values.is_empty())
}

/// Keys and values with those of the past before them, where there is a past or the node gives
/// them out as outputs 1 and 2.
pub(super) struct Cache(Option<[Tensor; 2]>);

impl Cache {
    /// `None` when the past does not fit: the reference says so.
    pub(super) fn of(
        call: &mut Call<'_>,
        [k, v]: [Side<'_>; 2],
        [past_k, past_v]: [Option<&Tensor>; 2],
    ) -> Result<Option<Cache>, OpError> {
        if past_k.is_none() && past_v.is_none() && call.node.outputs.len() < 2 {
            return Ok(Some(Cache(None)));
        }
        let Some(k) = with_past(call, 1, &k, past_k)? else { return Ok(None) };
        let Some(v) = with_past(call, 2, &v, past_v)? else { return Ok(None) };
        Ok(Some(Cache(Some([k, v]))))
    }

    /// All keys and values; `new` are those without a past.
    pub(super) fn sides<'a>(&'a self, new: [Side<'a>; 2]) -> Option<[Side<'a>; 2]> {
        match &self.0 {
            None => Some(new),
            Some([k, v]) => Some([Side::by_heads(k)?, Side::by_heads(v)?]),
        }
    }

    /// The outputs of the node of which `first` is the first one.
    pub(super) fn outputs(self, call: &Call<'_>, first: Tensor) -> Values {
        let present = self.0.filter(|_| call.node.outputs.len() > 1);
        std::iter::once(first).chain(present.into_iter().flatten()).map(Value::from).collect()
    }
}

/// Keys or values after those of the past, as output `index`.
fn with_past(
    call: &mut Call<'_>,
    index: usize,
    new: &Side<'_>,
    past: Option<&Tensor>,
) -> Result<Option<Tensor>, OpError> {
    let Some((before, old)) = past_of(past, &[], new) else { return Ok(None) };
    let Some(tokens) = before.checked_add(new.tokens) else { return Ok(None) };
    let mut all = made(call, index, &[new.batch, new.heads, tokens, new.width])?;
    new.join(old, before, all.as_mut_slice::<f32>()?);
    Ok(Some(all))
}

/// The tokens of a past `[lead.., batch, heads, tokens, width]` and its numbers; none without one.
/// `None` when it does not fit: the reference says so.
pub(super) fn past_of<'a>(
    past: Option<&'a Tensor>,
    lead: &[usize],
    new: &Side<'_>,
) -> Option<(usize, &'a [f32])> {
    let Some(past) = past else { return Some((0, &[])) };
    let &[batch, heads, tokens, width] = past.shape().strip_prefix(lead)? else { return None };
    let fits = [batch, heads, width] == [new.batch, new.heads, new.width];
    Some((tokens, past.as_slice::<f32>().ok().filter(|_| fits)?))
}

/// A tensor for output `index`, or one of its own where the node has no such output.
pub(super) fn made(
    call: &mut Call<'_>,
    index: usize,
    shape: &[usize],
) -> Result<Tensor, TensorError> {
    match call.node.output(index) {
        Some(_) => call.output(index, DType::F32, shape),
        None => Tensor::zeros(DType::F32, shape),
    }
}

/// A mask that broadcasts to the scores `[batch, heads, queries, keys]`; `room` is for the numbers
/// of one of booleans. `None` for other forms, and where the last axis is not that of all keys: a
/// short mask closes the others.
pub(super) fn mask_of<'a>(
    mask: &'a Tensor,
    scores: &[usize; 4],
    room: &'a mut Vec<f32>,
) -> Option<Mask<'a>> {
    if mask.is_empty() || mask.shape().last() != scores.last() {
        return None;
    }
    let strides = broadcast_strides(mask.shape(), scores)?.as_slice().try_into().ok()?;
    let data = match mask.dtype() {
        DType::F32 => mask.as_slice::<f32>().ok()?,
        DType::Bool => {
            let open = |&bit: &u8| if bit == 0 { f32::NEG_INFINITY } else { 0.0 };
            room.extend(mask.as_bools().ok()?.iter().map(open));
            room
        }
        _ => return None,
    };
    Some(Mask { data, strides })
}

/// How scores come about.
pub(super) struct Scores<'a> {
    pub(super) scale: Option<f32>,
    /// The last query sees all keys, the one before all but one.
    pub(super) causal: bool,
    pub(super) mask: Option<Mask<'a>>,
}

/// Whether queries, keys and values are those of one attention.
pub(super) fn fit([q, k, v]: &[Side<'_>; 3]) -> bool {
    [k.batch, v.batch] == [q.batch; 2]
        && k.width == q.width
        && [v.heads, v.tokens] == [k.heads, k.tokens]
        && k.heads > 0
        && q.heads.is_multiple_of(k.heads)
}

/// Output 0 of an attention: `[batch, heads, queries, width]` or, merged,
/// `[batch, queries, heads * width]`. `None` when the sides do not fit: the reference says so.
pub(super) fn attend(
    call: &mut Call<'_>,
    sides: [Side<'_>; 3],
    scores: &Scores<'_>,
    merged: bool,
) -> Result<Option<Tensor>, OpError> {
    if !fit(&sides) {
        return Ok(None);
    }
    let [q, _, v] = &sides;
    let mut out = match merged {
        true => call.output(0, DType::F32, &[q.batch, q.tokens, q.heads * v.width])?,
        false => call.output(0, DType::F32, &[q.batch, q.heads, q.tokens, v.width])?,
    };
    attend_to(sides, scores, merged, out.as_mut_slice()?);
    Ok(Some(out))
}

/// As `attend`, to a slice; the sides fit.
pub(super) fn attend_to(
    [q, k, v]: [Side<'_>; 3],
    scores: &Scores<'_>,
    merged: bool,
    out: &mut [f32],
) {
    let (batch, heads, queries, width) = (q.batch, q.heads, q.tokens, v.width);
    let (head, token) = if merged { (width, heads * width) } else { (queries * width, width) };
    let strides = HeadStrides { batch: heads * queries * width, head, token };
    let work = Attention {
        batch,
        heads,
        kv_heads: k.heads,
        queries,
        keys: k.tokens,
        dim: q.width,
        v_dim: width,
        scale: scores.scale.unwrap_or(1.0 / (q.width as f32).sqrt()),
        causal: scores.causal,
        mask: scores.mask,
    };
    let [q, k, v] = [q, k, v].map(|side| (side.values, side.strides));
    attention(isa(), &work, q, k, v, out, strides);
}
