//! Scaled dot product attention without the score matrix.
//!
//! For each head and block of 64 queries, keys and values go by in blocks of 128: scores of one
//! block are made by the matrix kernel, each row keeps its running maximum and sum, and what has
//! been summed so far is rescaled when the maximum grows. Memory is one small block per task
//! instead of `queries · keys`. Key blocks that a causal mask hides entirely are skipped. With few
//! queries (decoding) each key and value row is read once, by dot products.

use super::gemm::{Epilogue, Lhs, Mat, PackedB, Rhs, gemm};
use super::gemv::dot;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::math::exp_v;
use hetra_cpu_base::scratch::{Shared, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::{for_each, threads};

/// Queries and keys in a block.
const Q_BLOCK: usize = 64;
const K_BLOCK: usize = 128;
/// Up to so many queries are done by dot products.
const FEW: usize = 4;

/// Distances, in numbers, between batches, heads and tokens; a head's own numbers are contiguous.
#[derive(Clone, Copy, Debug)]
pub struct HeadStrides {
    /// Between batches.
    pub batch: usize,
    /// Between heads.
    pub head: usize,
    /// Between tokens.
    pub token: usize,
}

/// Numbers added to the scores, under any broadcast.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The numbers.
    pub data: &'a [f32],
    /// Strides of batch, head, query and key; zero where it is repeated.
    pub strides: [usize; 4],
}

/// Sizes and options of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Batches.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads` (query heads in a row share one).
    pub kv_heads: usize,
    /// Queries.
    pub queries: usize,
    /// Keys and values.
    pub keys: usize,
    /// Numbers of a query or key.
    pub dim: usize,
    /// Numbers of a value.
    pub v_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Query `i` sees keys `0 ..= i + keys - queries` only (the last query sees all).
    pub causal: bool,
    /// Added to the scores.
    pub mask: Option<Mask<'a>>,
}

/// An operand and its strides.
pub type Operand<'a> = (&'a [f32], HeadStrides);

struct Job<'a> {
    isa: Isa,
    p: &'a Attention<'a>,
    q: Operand<'a>,
    k: Operand<'a>,
    v: Operand<'a>,
    out: Shared<'a, f32>,
    o: HeadStrides,
}

/// `out = softmax(scale q kᵀ + mask) v` for each head. A query that sees no key gives zeros.
/// Panics if strides leave a slice or outputs of tokens overlap.
pub fn attention(
    isa: Isa,
    p: &Attention<'_>,
    q: Operand<'_>,
    k: Operand<'_>,
    v: Operand<'_>,
    out: &mut [f32],
    o: HeadStrides,
) {
    if count(&[p.batch, p.heads, p.queries, p.v_dim]) == 0 {
        return;
    }
    let heads = p.batch * p.heads;
    check(p, q, k, v, out.len(), o);
    let job = Job { isa, p, q, k, v, out: Shared::new(out), o };
    let widths = p.dim.saturating_add(p.v_dim);
    let work = (heads * p.queries).saturating_mul(p.keys).saturating_mul(widths);
    let parallel = work > 256 << 10;
    for_each(heads, parallel, |h| {
        let (b, h) = (h / p.heads, h % p.heads);
        if p.queries <= FEW || p.keys == 0 {
            isa.dispatch(Few { job: &job, b, h });
        } else {
            job.head(b, h, parallel && heads < 2 * threads());
        }
    });
}

/// Sizes are not zero, apart from keys and width. What is checked here does not wrap later.
fn check(
    p: &Attention<'_>,
    q: Operand<'_>,
    k: Operand<'_>,
    v: Operand<'_>,
    out: usize,
    o: HeadStrides,
) {
    assert!(p.kv_heads > 0 && p.heads.is_multiple_of(p.kv_heads), "query heads share kv heads");
    // Whether the last of what the strides reach, and `dim` numbers from there on, are there.
    let fits = |axes: &[(usize, usize)], dim: usize, have: usize| {
        let last = axes.iter().try_fold(dim, |last, (extent, stride)| {
            last.checked_add((extent - 1).checked_mul(*stride)?)
        });
        last.is_some_and(|last| last <= have)
    };
    let inside = |s: HeadStrides, heads: usize, tokens: usize, dim: usize, have: usize| {
        let axes = [(p.batch, s.batch), (heads, s.head), (tokens, s.token)];
        tokens == 0 || dim == 0 || fits(&axes, dim, have)
    };
    assert!(inside(q.1, p.heads, p.queries, p.dim, q.0.len()), "q outside its slice");
    assert!(inside(k.1, p.kv_heads, p.keys, p.dim, k.0.len()), "k outside its slice");
    assert!(inside(v.1, p.kv_heads, p.keys, p.v_dim, v.0.len()), "v outside its slice");
    assert!(inside(o, p.heads, p.queries, p.v_dim, out), "output outside its slice");
    // Sorted by stride, each axis must step over all that the ones below it cover.
    let mut axes = [(o.batch, p.batch), (o.head, p.heads), (o.token, p.queries)];
    axes.sort_unstable();
    let mut covered = p.v_dim;
    for (stride, n) in axes.into_iter().filter(|a| a.1 > 1) {
        assert!(stride >= covered, "outputs overlap");
        covered += stride * (n - 1);
    }
    if let (Some(m), true) = (p.mask, p.keys > 0) {
        let [sb, sh, sq, sk] = m.strides;
        let axes = [(p.batch, sb), (p.heads, sh), (p.queries, sq), (p.keys, sk)];
        assert!(fits(&axes, 1, m.data.len()), "mask outside its slice");
    }
}

impl Job<'_> {
    fn at(&self, s: HeadStrides, b: usize, h: usize, t: usize) -> usize {
        b * s.batch + h * s.head + t * s.token
    }

    /// Keys that query `i` sees.
    fn seen(&self, i: usize) -> usize {
        let p = self.p;
        if p.causal { (i + 1 + p.keys).saturating_sub(p.queries).min(p.keys) } else { p.keys }
    }

    /// Writes the mask of one query over some keys onto the scores.
    #[inline(always)]
    fn mask_row(&self, (b, h, i, j0): (usize, usize, usize, usize), row: &mut [f32]) {
        if let Some(m) = &self.p.mask {
            let [sb, sh, sq, sk] = m.strides;
            let at = b * sb + h * sh + i * sq + j0 * sk;
            if sk == 1 {
                row.iter_mut().zip(&m.data[at..]).for_each(|(d, v)| *d += v);
            } else {
                row.iter_mut().enumerate().for_each(|(j, d)| *d += m.data[at + j * sk]);
            }
        }
        let seen = self.seen(i).saturating_sub(j0).min(row.len());
        row[seen..].fill(f32::NEG_INFINITY);
    }

    /// One head: packs its keys and values once, then walks the query blocks.
    fn head(&self, b: usize, h: usize, parallel: bool) {
        let p = self.p;
        let kv = h / (p.heads / p.kv_heads);
        let blocks = p.keys.div_ceil(K_BLOCK);
        let packed: Vec<(PackedB, PackedB)> = (0..blocks)
            .map(|t| {
                let (j0, n) = (t * K_BLOCK, K_BLOCK.min(p.keys - t * K_BLOCK));
                let k = &self.k.0[self.at(self.k.1, b, kv, j0).min(self.k.0.len())..];
                let v = &self.v.0[self.at(self.v.1, b, kv, j0)..];
                let k = Mat::strided(k, p.dim, n, 1, self.k.1.token);
                let v = Mat::strided(v, n, p.v_dim, self.v.1.token, 1);
                (PackedB::new(self.isa, k), PackedB::new(self.isa, v))
            })
            .collect();
        for_each(p.queries.div_ceil(Q_BLOCK), parallel, |t| self.block(&packed, b, h, t * Q_BLOCK));
    }

    fn block(&self, packed: &[(PackedB, PackedB)], b: usize, h: usize, i0: usize) {
        let p = self.p;
        let rows = Q_BLOCK.min(p.queries - i0);
        let q = &self.q.0[self.at(self.q.1, b, h, i0).min(self.q.0.len())..];
        let q = Mat::strided(q, rows, p.dim, self.q.1.token, 1);
        let (mut scores, mut sum) = (lend(rows * K_BLOCK), lend(rows * p.v_dim));
        sum.fill(0.0);
        let mut state = [(f32::NEG_INFINITY, 0f32); Q_BLOCK];
        // The last query of the block sees most.
        let end = self.seen(i0 + rows - 1).div_ceil(K_BLOCK);
        for (t, (k, v)) in packed[..end].iter().enumerate() {
            let n = k.cols();
            let ep = Epilogue { alpha: p.scale, ..Epilogue::default() };
            gemm(self.isa, Lhs::View(q), Rhs::Packed(k), &mut scores, n, &ep);
            for (i, row) in scores[..rows * n].chunks_exact_mut(n).enumerate() {
                self.mask_row((b, h, i0 + i, t * K_BLOCK), row);
            }
            self.isa.dispatch(Fold {
                scores: &mut scores[..rows * n],
                keys: n,
                sum: &mut sum,
                v_dim: p.v_dim,
                state: &mut state,
            });
            let ep = Epilogue { accumulate: true, ..Epilogue::default() };
            let weights = Lhs::View(Mat::new(&scores, rows, n));
            gemm(self.isa, weights, Rhs::Packed(v), &mut sum, p.v_dim, &ep);
        }
        for (i, row) in sum.chunks_exact(p.v_dim).enumerate() {
            // SAFETY: outputs of tokens do not overlap (`check`), this block of this head alone has
            // these, and one is gone before the next is made.
            let d = unsafe { self.out.slice(self.at(self.o, b, h, i0 + i), p.v_dim) };
            let total = state[i].1;
            let scale = if total > 0.0 || total.is_nan() { 1.0 / total } else { 0.0 };
            d.iter_mut().zip(row).for_each(|(d, v)| *d = v * scale);
        }
    }
}

/// Turns a block of scores into weights and moves the running maximum and sum of each row.
struct Fold<'a> {
    scores: &'a mut [f32],
    keys: usize,
    sum: &'a mut [f32],
    v_dim: usize,
    state: &'a mut [(f32, f32); Q_BLOCK],
}

impl Kernel for Fold<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.scores.chunks_exact_mut(self.keys);
        let sums = self.sum.chunks_exact_mut(self.v_dim);
        for ((row, sum), state) in rows.zip(sums).zip(self.state) {
            let back = weights(s, row, state);
            if back != 1.0 {
                sum.iter_mut().for_each(|v| *v *= back);
            }
        }
    }
}

/// `row = e^(row - max)`; returns the factor for what was summed under the old maximum.
#[inline(always)]
fn weights<S: Simd>(s: S, row: &mut [f32], (max, total): &mut (f32, f32)) -> f32 {
    let mut top = s.splat(*max);
    for c in row.chunks(S::LANES) {
        let last = c.len() < S::LANES;
        // Missing lanes would be zero, so short ends go one by one.
        if last {
            c.iter().for_each(|v| top = s.max_nan(top, s.splat(*v)));
        } else {
            top = s.max_nan(top, s.loads(c));
        }
    }
    let new = s.hmax(top);
    if new == f32::NEG_INFINITY {
        row.fill(0.0);
        return 1.0;
    }
    let shift = s.splat(new);
    let mut acc = s.splat(0.0);
    let mut tail = 0.0;
    for c in row.chunks_mut(S::LANES) {
        let e = exp_v(s, s.sub(s.loads_tail(c), shift));
        s.stores_tail(c, e);
        if c.len() < S::LANES {
            tail = c.iter().sum();
        } else {
            acc = s.add(acc, e);
        }
    }
    let back = if *max == f32::NEG_INFINITY { 0.0 } else { (*max - new).exp() };
    *total = *total * back + s.hsum(acc) + tail;
    *max = new;
    back
}

/// All queries of a head, one by one.
struct Few<'a> {
    job: &'a Job<'a>,
    b: usize,
    h: usize,
}

impl Kernel for Few<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (job, b, h) = (self.job, self.b, self.h);
        let p = job.p;
        let kv = h / (p.heads / p.kv_heads);
        let mut scores = lend(p.keys);
        for i in 0..p.queries {
            let seen = job.seen(i);
            let at = job.at(job.q.1, b, h, i);
            let q = if p.dim == 0 { &[][..] } else { &job.q.0[at..at + p.dim] };
            for (j, d) in scores[..seen].iter_mut().enumerate() {
                let at = job.at(job.k.1, b, kv, j);
                let k = if p.dim == 0 { &[][..] } else { &job.k.0[at..at + p.dim] };
                *d = dot(s, q, k) * p.scale;
            }
            job.mask_row((b, h, i, 0), &mut scores[..seen]);
            let mut state = (f32::NEG_INFINITY, 0.0);
            weights(s, &mut scores[..seen], &mut state);
            // SAFETY: outputs of tokens do not overlap (`check`), this task alone has this head,
            // and one is gone before the next is made.
            let out = unsafe { job.out.slice(job.at(job.o, b, h, i), p.v_dim) };
            out.fill(0.0);
            let scale = if state.1 > 0.0 || state.1.is_nan() { 1.0 / state.1 } else { 0.0 };
            for (j, w) in scores[..seen].iter().enumerate() {
                let at = job.at(job.v.1, b, kv, j);
                let (w, v) = (s.splat(w * scale), &job.v.0[at..at + p.v_dim]);
                for (d, v) in out.chunks_mut(S::LANES).zip(v.chunks(S::LANES)) {
                    let sum = s.fma(w, s.loads_tail(v), s.loads_tail(d));
                    s.stores_tail(d, sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Rng, close};

    fn strides(bnsh: bool, heads: usize, tokens: usize, dim: usize) -> HeadStrides {
        let batch = heads * tokens * dim;
        if bnsh {
            HeadStrides { batch, head: tokens * dim, token: dim }
        } else {
            HeadStrides { batch, head: dim, token: heads * dim }
        }
    }

    fn naive(
        p: &Attention<'_>,
        q: Operand<'_>,
        k: Operand<'_>,
        v: Operand<'_>,
        o: HeadStrides,
    ) -> Vec<f32> {
        let mut out = vec![0.0; p.batch * p.heads * p.queries * p.v_dim];
        let at =
            |s: HeadStrides, b: usize, h: usize, t: usize| b * s.batch + h * s.head + t * s.token;
        for (b, h) in (0..p.batch).flat_map(|b| (0..p.heads).map(move |h| (b, h))) {
            let kv = h / (p.heads / p.kv_heads);
            for i in 0..p.queries {
                let scores: Vec<f64> = (0..p.keys)
                    .map(|j| {
                        if p.causal && j + p.queries > i + p.keys {
                            return f64::NEG_INFINITY;
                        }
                        let (x, y) = (at(q.1, b, h, i), at(k.1, b, kv, j));
                        let d: f64 =
                            (0..p.dim).map(|c| f64::from(q.0[x + c]) * f64::from(k.0[y + c])).sum();
                        let m = p.mask.map_or(0.0, |m| {
                            let [sb, sh, sq, sk] = m.strides;
                            m.data[b * sb + h * sh + i * sq + j * sk]
                        });
                        d * f64::from(p.scale) + f64::from(m)
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let w: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = w.iter().sum();
                for c in 0..p.v_dim {
                    let sum: f64 =
                        (0..p.keys).map(|j| w[j] * f64::from(v.0[at(v.1, b, kv, j) + c])).sum();
                    let zero = max == f64::NEG_INFINITY;
                    out[at(o, b, h, i) + c] = if zero { 0.0 } else { (sum / total) as f32 };
                }
            }
        }
        out
    }

    #[test]
    fn agrees_with_the_definition() {
        let mut rng = Rng::new(4);
        for t in 0..60 {
            let (kv_heads, share) = (rng.range(1, 2), rng.range(1, 3));
            let (queries, keys) = match t % 4 {
                0 => (rng.range(1, 4), rng.range(1, 150)),
                1 => (rng.range(60, 140), rng.range(120, 300)),
                _ => (rng.range(1, 20), rng.range(1, 40)),
            };
            let (batch, heads) = (rng.range(1, 2), kv_heads * share);
            let mut mask = rng.vec(heads * queries * keys);
            mask.iter_mut().step_by(5).for_each(|v| *v = f32::NEG_INFINITY);
            // The first query of the first head sees nothing at all.
            mask[..keys].fill(f32::NEG_INFINITY);
            let p = Attention {
                batch,
                heads,
                kv_heads,
                queries,
                keys,
                dim: rng.range(1, 40),
                v_dim: rng.range(1, 40),
                scale: 0.3,
                causal: t % 3 == 0,
                mask: (t % 2 == 0)
                    .then_some(Mask { data: &mask, strides: [0, queries * keys, keys, 1] }),
            };
            let bnsh = t % 5 < 2;
            let (sq, sk) =
                (strides(bnsh, heads, queries, p.dim), strides(bnsh, kv_heads, keys, p.dim));
            let (sv, so) =
                (strides(!bnsh, kv_heads, keys, p.v_dim), strides(bnsh, heads, queries, p.v_dim));
            let q = rng.vec(batch * heads * queries * p.dim);
            let k = rng.vec(batch * kv_heads * keys * p.dim);
            let v = rng.vec(batch * kv_heads * keys * p.v_dim);
            let (q, k, v) = ((&q[..], sq), (&k[..], sk), (&v[..], sv));
            let want = naive(&p, q, k, v, so);
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; want.len()];
                attention(isa, &p, q, k, v, &mut out, so);
                close(&out, &want, 2e-5, &format!("{isa:?} {:?}", Attention { mask: None, ..p }));
            }
        }
    }
}
