//! Scaled dot-product attention on slices: what all attention operators share.

use hetra_tensor::{DType, Tensor};

use crate::dense::{dot, swap_outer, zeros};
use crate::error::OpError;
use crate::real::Real;

/// Extents of one attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Independent sequences.
    pub batch: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Query positions.
    pub queries: usize,
    /// Key positions, past ones included.
    pub keys: usize,
    /// Width of a query or key.
    pub width: usize,
    /// Width of a value.
    pub v_width: usize,
}

impl Heads {
    /// Multiply-adds of both products.
    pub fn macs(&self) -> f64 {
        let pairs = [self.batch, self.heads, self.queries, self.keys];
        let widths = self.width as f64 + self.v_width as f64;
        pairs.iter().map(|&extent| extent as f64).product::<f64>() * widths
    }
}

/// A stage of the scores on their way to weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Product,
    Biased,
    Capped,
    Softmax,
}

/// Adds to the scores of one query: batch, head, query, `[keys]`.
pub(crate) type Bias<'a, T> = &'a dyn Fn(usize, usize, usize, &mut [T]);

/// How scores come about.
pub(crate) struct Scoring<'a, T> {
    pub(crate) scale: T,
    /// 0 for none.
    pub(crate) softcap: T,
    /// The cap comes before the bias, so that a closed key stays closed (com.microsoft), and not
    /// after it (ai.onnx).
    pub(crate) cap_first: bool,
    pub(crate) bias: Bias<'a, T>,
    /// The stage to hand out as `[batch, heads, queries, keys]`.
    pub(crate) tap: Option<Stage>,
}

/// The outputs of [`attend`].
pub(crate) struct Attended<T> {
    /// `[batch, heads, queries, v_width]`.
    pub(crate) values: Vec<T>,
    /// What was tapped; else empty.
    pub(crate) tapped: Vec<T>,
}

/// Attention of `q[batch, heads, queries, width]` to `k[batch, kv_heads, keys, width]` and
/// `v[batch, kv_heads, keys, v_width]`. The caller has checked sizes and that heads divide.
pub(crate) fn attend<T: Real>(
    [q, k, v]: [&[T]; 3],
    at: Heads,
    scoring: &Scoring<'_, T>,
) -> Result<Attended<T>, OpError> {
    let Heads { batch, heads, kv_heads, queries, keys, width, v_width } = at;
    let mut values = zeros::<T>(&[batch, heads, queries, v_width])?;
    let tapped_shape = [batch, heads, queries, keys];
    let mut tapped = if scoring.tap.is_some() { zeros(&tapped_shape)? } else { Vec::new() };
    let mut scores = zeros::<T>(&[keys])?;
    for row in 0..batch * heads * queries {
        let (item, head, query) = (row / queries / heads, row / queries % heads, row % queries);
        let kv = item * kv_heads + head / (heads / kv_heads.max(1)).max(1);
        let mut tap = |stage: Stage, scores: &[T]| {
            if scoring.tap == Some(stage) {
                tapped[row * keys..][..keys].copy_from_slice(scores);
            }
        };
        let one = &q[row * width..][..width];
        for (key, score) in scores.iter_mut().enumerate() {
            *score = dot(one, &k[(kv * keys + key) * width..][..width]) * scoring.scale;
        }
        tap(Stage::Product, &scores);
        if scoring.cap_first {
            bound(&mut scores, scoring.softcap);
        }
        (scoring.bias)(item, head, query, &mut scores);
        tap(Stage::Biased, &scores);
        if !scoring.cap_first {
            bound(&mut scores, scoring.softcap);
        }
        tap(Stage::Capped, &scores);
        softmax(&mut scores);
        tap(Stage::Softmax, &scores);
        let out = &mut values[row * v_width..][..v_width];
        for (key, &weight) in scores.iter().enumerate() {
            let line = &v[(kv * keys + key) * v_width..][..v_width];
            out.iter_mut().zip(line).for_each(|(sum, value)| *sum += weight * *value);
        }
    }
    Ok(Attended { values, tapped })
}

/// Bounds scores smoothly; a cap of 0 leaves them.
fn bound<T: Real>(scores: &mut [T], cap: T) {
    let cap = cap.wide();
    if cap > 0.0 {
        scores.iter_mut().for_each(|s| *s = T::of(cap * (s.wide() / cap).tanh()));
    }
}

/// Softmax in place. When every score is minus infinity the query sees no key, and all weights
/// are 0, not the NaN of the Softmax operator: so ONNX's Attention since its errata.
pub(crate) fn softmax<T: Real>(scores: &mut [T]) {
    if scores.iter().all(|score| score.wide() == f64::NEG_INFINITY) {
        scores.fill(T::of(0.0));
        return;
    }
    let largest = scores.iter().map(|s| s.wide()).fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        let value = (score.wide() - largest).exp();
        sum += value;
        *score = T::of(value);
    }
    scores.iter_mut().for_each(|score| *score = T::of(score.wide() / sum));
}

/// `[batch, length, heads, width]` to `[batch, heads, length, width]`; with `heads` and `length`
/// exchanged it is its own inverse.
pub(crate) fn swap_heads<T: Copy>(
    values: &[T],
    [batch, length, heads, width]: [usize; 4],
) -> Vec<T> {
    let each = length * heads * width;
    let item = |at: usize| swap_outer(&values[at * each..][..each], [length, heads, width]);
    (0..batch).flat_map(item).collect()
}

/// `past[rows, p, width]` and `new[rows, n, width]` joined along the middle axis.
pub(crate) fn join<T: Copy>(
    past: &[T],
    new: &[T],
    rows: usize,
    p_size: usize,
    n_size: usize,
) -> Vec<T> {
    let mut out = Vec::with_capacity(past.len() + new.len());
    for row in 0..rows {
        out.extend_from_slice(&past[row * p_size..][..p_size]);
        out.extend_from_slice(&new[row * n_size..][..n_size]);
    }
    out
}

/// A mask that broadcasts to `[batch, heads, queries, keys]`, as numbers to add.
pub(crate) struct Mask<T> {
    values: Vec<T>,
    /// Steps of batch, head and query; 0 where the mask broadcasts.
    strides: [usize; 3],
    /// Extent of the last axis. Keys past it are masked out.
    keys: usize,
}

impl<T: Real> Mask<T> {
    /// From a boolean mask (true takes part) or one to add.
    pub(crate) fn new(tensor: &Tensor, index: usize, at: Heads) -> Result<Mask<T>, OpError> {
        let extents = [at.batch, at.heads, at.queries];
        let fault = || {
            let wanted = format!("a mask for {extents:?} and {} keys", at.keys);
            OpError::input(index, wanted, tensor.describe())
        };
        let shape = tensor.shape();
        let (&keys, outer) = shape.split_last().ok_or_else(fault)?;
        if outer.len() > 3 || keys > at.keys {
            return Err(fault());
        }
        let mut strides = [0; 3];
        let mut step = keys;
        for (axis, &extent) in outer.iter().enumerate().rev() {
            let place = axis + 3 - outer.len();
            if extent == extents[place] {
                strides[place] = step;
            } else if extent != 1 {
                return Err(fault());
            }
            step = step.saturating_mul(extent);
        }
        let values = if tensor.dtype() == DType::Bool {
            let open = |&bit: &u8| T::of(if bit == 0 { f64::NEG_INFINITY } else { 0.0 });
            tensor.as_bools()?.iter().map(open).collect()
        } else if tensor.dtype().is_float() {
            hetra_tensor::to_f64(tensor)?.into_iter().map(T::of).collect()
        } else {
            return Err(fault());
        };
        Ok(Mask { values, strides, keys })
    }

    /// Adds the mask to the scores of one query.
    pub(crate) fn add(&self, item: usize, head: usize, query: usize, scores: &mut [T]) {
        let [by_item, by_head, by_query] = self.strides;
        let start = item * by_item + head * by_head + query * by_query;
        let row = &self.values[start..][..self.keys];
        scores.iter_mut().zip(row).for_each(|(score, bias)| *score += *bias);
        let lowest = T::of(f64::NEG_INFINITY);
        scores[self.keys..].iter_mut().for_each(|score| *score += lowest);
    }
}

/// Masks out the keys from `first` on.
pub(crate) fn close_from<T: Real>(scores: &mut [T], first: usize) {
    let lowest = T::of(f64::NEG_INFINITY);
    scores.iter_mut().skip(first).for_each(|score| *score = lowest);
}
