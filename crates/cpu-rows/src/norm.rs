//! Softmax, layer and group normalisation, and reductions over one axis.
//!
//! A row is read as often as it must be and stays in the first cache level between the passes.
//! Where the reduced axis is not the last, vectors run across the inner axis instead, so that all
//! loads are contiguous. Long sums are flushed to f64 every 4096 numbers: the error does not grow
//! with the length.

use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::math::exp_v;
use hetra_cpu_base::scratch::{Shared, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;

/// Numbers that a task takes.
const GRAIN: usize = 8 << 10;
/// Numbers summed in f32 before the sum moves to f64.
const FLUSH: usize = 4096;

/// What a row is reduced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Sum.
    Sum,
    /// Sum divided by the count.
    Mean,
    /// Greatest; NaN if any is NaN.
    Max,
    /// Greatest; NaN is no number, and of no numbers it is -infinity.
    MaxNumber,
    /// Least; NaN if any is NaN.
    Min,
    /// Sum of squares.
    SumSquare,
    /// Sum of absolute values.
    SumAbs,
}

impl Reduce {
    #[inline(always)]
    fn start(self) -> f32 {
        match self {
            Reduce::Max | Reduce::MaxNumber => f32::NEG_INFINITY,
            Reduce::Min => f32::INFINITY,
            _ => 0.0,
        }
    }
    #[inline(always)]
    fn step<S: Simd>(self, s: S, acc: S::F, x: S::F) -> S::F {
        match self {
            Reduce::Sum | Reduce::Mean => s.add(acc, x),
            Reduce::Max => s.max_nan(acc, x),
            // `max` gives its second operand when one is NaN.
            Reduce::MaxNumber => s.max(x, acc),
            Reduce::Min => s.min_nan(acc, x),
            Reduce::SumSquare => s.fma(x, x, acc),
            Reduce::SumAbs => s.add(acc, s.abs(x)),
        }
    }
    #[inline(always)]
    fn join<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F {
        match self {
            Reduce::Max | Reduce::MaxNumber | Reduce::Min => self.step(s, a, b),
            _ => s.add(a, b),
        }
    }
}

/// Reduces contiguous numbers. `shift` is subtracted from each first (for variances).
#[inline(always)]
fn row<S: Simd>(s: S, op: Reduce, x: &[f32], shift: f32) -> f32 {
    let (init, minus) = (s.splat(op.start()), s.splat(shift));
    let (mut total, mut first) = (0f64, true);
    for block in x.chunks(FLUSH) {
        let mut acc = [init; 4];
        let mut quads = block.chunks_exact(4 * S::LANES);
        for q in &mut quads {
            for (i, a) in acc.iter_mut().enumerate() {
                *a = op.step(s, *a, s.sub(s.loads(&q[i * S::LANES..]), minus));
            }
        }
        let mut ones = quads.remainder().chunks_exact(S::LANES);
        for v in &mut ones {
            acc[0] = op.step(s, acc[0], s.sub(s.loads(v), minus));
        }
        let v = op.join(s, op.join(s, acc[0], acc[1]), op.join(s, acc[2], acc[3]));
        let mut v = match op {
            Reduce::Max | Reduce::MaxNumber => s.hmax(v),
            Reduce::Min => s.hmin(v),
            _ => s.hsum(v),
        };
        for &x in ones.remainder() {
            let x = x - shift;
            v = match op {
                Reduce::Sum | Reduce::Mean => v + x,
                Reduce::SumSquare => v + x * x,
                Reduce::SumAbs => v + x.abs(),
                Reduce::Max => {
                    if x > v || x.is_nan() {
                        x
                    } else {
                        v
                    }
                }
                Reduce::MaxNumber => {
                    if x > v {
                        x
                    } else {
                        v
                    }
                }
                Reduce::Min => {
                    if x < v || x.is_nan() {
                        x
                    } else {
                        v
                    }
                }
            };
        }
        total = match op {
            Reduce::Max | Reduce::MaxNumber | Reduce::Min if first => f64::from(v),
            Reduce::MaxNumber => total.max(f64::from(v)),
            Reduce::Max if f64::from(v) > total || v.is_nan() => f64::from(v),
            Reduce::Min if f64::from(v) < total || v.is_nan() => f64::from(v),
            Reduce::Max | Reduce::Min => total,
            _ => total + f64::from(v),
        };
        first = false;
    }
    match op {
        _ if first => op.start(),
        Reduce::Mean => (total / x.len() as f64) as f32,
        _ => total as f32,
    }
}

struct Rows<'a> {
    op: Reduce,
    x: &'a [f32],
    y: &'a mut [f32],
    axis: usize,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        macro_rules! each {
            ($($op:ident)+) => { match self.op { $(Reduce::$op => {
                for (i, y) in self.y.iter_mut().enumerate() {
                    *y = row(s, Reduce::$op, &self.x[i * self.axis..(i + 1) * self.axis], 0.0);
                }
            })+ } };
        }
        each!(Sum Mean Max MaxNumber Min SumSquare SumAbs);
    }
}

/// A stretch of the inner axis, reduced over a whole axis before it.
struct Across<'a> {
    op: Reduce,
    x: &'a [f32],
    y: &'a mut [f32],
    axis: usize,
    inner: usize,
}

impl Kernel for Across<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.y.len();
        let mut j = 0;
        while j < n {
            let w = S::LANES.min(n - j);
            let mut total = s.splat(self.op.start());
            // Blocks keep the error of long sums down.
            for a0 in (0..self.axis).step_by(256) {
                let mut acc = s.splat(self.op.start());
                for a in a0..(a0 + 256).min(self.axis) {
                    let v = s.loads_tail(&self.x[a * self.inner + j..a * self.inner + j + w]);
                    acc = self.op.step(s, acc, v);
                }
                total = self.op.join(s, total, acc);
            }
            if self.op == Reduce::Mean {
                total = s.div(total, s.splat(self.axis as f32));
            }
            s.stores_tail(&mut self.y[j..j + w], total);
            j += w;
        }
    }
}

/// Reduces the middle axis of `x`, seen as `[outer, axis, inner]`, to `y`, `[outer, inner]`. An
/// empty axis gives the neutral element (NaN for the mean across an inner axis).
pub fn reduce(isa: Isa, op: Reduce, x: &[f32], [outer, axis, inner]: [usize; 3], y: &mut [f32]) {
    let (inputs, outputs) = (count(&[outer, axis, inner]), count(&[outer, inner]));
    assert!(x.len() >= inputs && y.len() >= outputs, "slice too short");
    if outputs == 0 {
        return;
    }
    let out = Shared::new(y);
    if inner == 1 {
        for_ranges(outer, GRAIN / axis.max(1), |start, len| {
            // SAFETY: the ranges are disjoint.
            let y = unsafe { out.slice(start, len) };
            isa.dispatch(Rows { op, x: &x[start * axis..(start + len) * axis], y, axis });
        });
        return;
    }
    let piece = (GRAIN / axis.max(1)).next_multiple_of(64).clamp(64, inner.max(64));
    let pieces = inner.div_ceil(piece);
    let group = GRAIN / (axis * piece).max(1);
    for_ranges(outer * pieces, group, |start, len| {
        for p in start..start + len {
            let (o, j) = (p / pieces, p % pieces * piece);
            // SAFETY: the pieces are disjoint.
            let y = unsafe { out.slice(o * inner + j, piece.min(inner - j)) };
            let from = (o * axis * inner + j).min(x.len());
            isa.dispatch(Across { op, x: &x[from..], y, axis, inner });
        }
    });
}

struct SoftmaxRows<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    axis: usize,
    log: bool,
}

impl Kernel for SoftmaxRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, y) in self.x.chunks_exact(self.axis).zip(self.y.chunks_exact_mut(self.axis)) {
            softmax_row(s, x, y, self.log);
        }
    }
}

#[inline(always)]
fn softmax_row<S: Simd>(s: S, x: &[f32], y: &mut [f32], log: bool) {
    let max = row(s, Reduce::Max, x, 0.0);
    let (m, n) = (s.splat(max), x.len());
    let mut sum = s.splat(0.0);
    let mut i = 0;
    while i + S::LANES <= n {
        let e = exp_v(s, s.sub(s.loads(&x[i..]), m));
        sum = s.add(sum, e);
        s.stores(&mut y[i..], e);
        i += S::LANES;
    }
    let mut total = s.hsum(sum);
    if i < n {
        let e = s.to_array(exp_v(s, s.sub(s.loads_tail(&x[i..]), m)));
        total += e[..n - i].iter().sum::<f32>();
        y[i..].copy_from_slice(&e[..n - i]);
    }
    if log {
        let back = max + total.ln();
        // `x - max - ln` in this order: the first difference is exact near the maximum.
        let ln = if back.is_finite() { total.ln() } else { back };
        y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - max) - ln);
    } else {
        let scale = 1.0 / total;
        y.iter_mut().for_each(|y| *y *= scale);
    }
}

/// Rows of fewer numbers than this are turned, so that a vector has one number of each of many.
const TURNED_MAX: usize = 32;
/// Rows that are turned together.
const TURNED: usize = 64;

/// Softmax of short rows, many at a time.
fn softmax_short(isa: Isa, x: &[f32], y: &mut [f32], axis: usize, log: bool) {
    let mut columns = lend(2 * axis * TURNED);
    let (from, to) = columns.split_at_mut(axis * TURNED);
    for (x, y) in x.chunks(axis * TURNED).zip(y.chunks_mut(axis * TURNED)) {
        let inner = x.len() / axis;
        for (j, row) in x.chunks_exact(axis).enumerate() {
            row.iter().enumerate().for_each(|(a, &v)| from[a * inner + j] = v);
        }
        let (x, turned) = (&from[..axis * inner], Shared::new(&mut *to));
        isa.dispatch(SoftmaxAcross { x, y: turned, at: 0, len: inner, axis, inner, log });
        for (j, row) in y.chunks_exact_mut(axis).enumerate() {
            row.iter_mut().enumerate().for_each(|(a, v)| *v = to[a * inner + j]);
        }
    }
}

struct SoftmaxAcross<'a> {
    x: &'a [f32],
    y: Shared<'a, f32>,
    at: usize,
    len: usize,
    axis: usize,
    inner: usize,
    log: bool,
}

impl Kernel for SoftmaxAcross<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut j = 0;
        while j < self.len {
            let w = S::LANES.min(self.len - j);
            let at = |a: usize| self.at + a * self.inner + j;
            let mut max = s.splat(f32::NEG_INFINITY);
            for a in 0..self.axis {
                max = s.max_nan(max, s.loads_tail(&self.x[at(a)..at(a) + w]));
            }
            let mut sum = s.splat(0.0);
            for a in 0..self.axis {
                let e = exp_v(s, s.sub(s.loads_tail(&self.x[at(a)..at(a) + w]), max));
                sum = s.add(sum, e);
            }
            let scale = s.div(s.splat(1.0), sum);
            let ln = hetra_cpu_base::math::log_v(s, sum);
            for a in 0..self.axis {
                let d = s.sub(s.loads_tail(&self.x[at(a)..at(a) + w]), max);
                let v = if self.log { s.sub(d, ln) } else { s.mul(exp_v(s, d), scale) };
                // SAFETY: these `w` inner columns of this outer index belong to this task alone,
                // and the slice is gone before the next one is made.
                s.stores_tail(unsafe { self.y.slice(at(a), w) }, v);
            }
            j += w;
        }
    }
}

/// Softmax (or its logarithm) over the middle axis of `[outer, axis, inner]`.
pub fn softmax(isa: Isa, x: &[f32], y: &mut [f32], [outer, axis, inner]: [usize; 3], log: bool) {
    let n = count(&[outer, axis, inner]);
    assert!(x.len() >= n && y.len() >= n, "slice too short");
    if n == 0 {
        return;
    }
    let out = Shared::new(y);
    if inner == 1 {
        let short = axis < TURNED_MAX && outer > 1;
        let grain = GRAIN / 2 / axis;
        for_ranges(
            outer,
            if short { grain.next_multiple_of(TURNED) } else { grain },
            |start, len| {
                let (at, size) = (start * axis, len * axis);
                // SAFETY: the ranges are disjoint.
                let y = unsafe { out.slice(at, size) };
                match short {
                    true => softmax_short(isa, &x[at..at + size], y, axis, log),
                    false => isa.dispatch(SoftmaxRows { x: &x[at..at + size], y, axis, log }),
                }
            },
        );
        return;
    }
    let pieces = inner.div_ceil(64);
    for_ranges(outer * pieces, GRAIN / 2 / (axis * 64), |start, len| {
        for p in start..start + len {
            let (o, j) = (p / pieces, p % pieces * 64);
            let (at, len) = (o * axis * inner + j, 64.min(inner - j));
            isa.dispatch(SoftmaxAcross { x, y: out, at, len, axis, inner, log });
        }
    });
}

/// A normalisation of rows: layer norm, or RMS norm if `rms`.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// Length of a row.
    pub cols: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Factor of each column.
    pub scale: &'a [f32],
    /// Summand of each column.
    pub bias: Option<&'a [f32]>,
    /// Divide by the root mean square without subtracting the mean.
    pub rms: bool,
    /// Array added to the input first (a residual connection).
    pub skip: Option<&'a [f32]>,
    /// Row added to the input first.
    pub skip_bias: Option<&'a [f32]>,
}

struct NormRows<'a> {
    p: &'a LayerNorm<'a>,
    x: &'a [f32],
    skip: Option<&'a [f32]>,
    y: &'a mut [f32],
    sum: Option<&'a mut [f32]>,
}

impl Kernel for NormRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let n = self.p.cols;
        for (i, (x, y)) in self.x.chunks_exact(n).zip(self.y.chunks_exact_mut(n)).enumerate() {
            let row = i * n..(i + 1) * n;
            match self.skip {
                // The sum waits in the output row, which is overwritten below.
                Some(k) => y
                    .iter_mut()
                    .zip(x.iter().zip(&k[row.clone()]))
                    .for_each(|(y, (a, b))| *y = a + b),
                None => y.copy_from_slice(x),
            }
            if let Some(b) = self.p.skip_bias {
                y.iter_mut().zip(b).for_each(|(y, b)| *y += b);
            }
            if let Some(sum) = &mut self.sum {
                sum[row].copy_from_slice(y);
            }
            norm_row(s, self.p, y);
        }
    }
}

#[inline(always)]
fn norm_row<S: Simd>(s: S, p: &LayerNorm<'_>, y: &mut [f32]) {
    let n = y.len();
    let mean = if p.rms { 0.0 } else { row(s, Reduce::Mean, y, 0.0) };
    let var = row(s, Reduce::SumSquare, y, mean) / n as f32;
    let inv = s.splat(1.0 / (var + p.eps).sqrt());
    let mean = s.splat(mean);
    let mut i = 0;
    while i < n {
        let w = S::LANES.min(n - i);
        let x = s.mul(s.sub(s.loads_tail(&y[i..]), mean), inv);
        let scale = s.loads_tail(&p.scale[i..i + w]);
        let v = match p.bias {
            Some(b) => s.fma(x, scale, s.loads_tail(&b[i..i + w])),
            None => s.mul(x, scale),
        };
        s.stores_tail(&mut y[i..i + w], v);
        i += w;
    }
}

/// Normalises each row of `x`; `sum_out`, if given, receives what was normalised (`x` + skip).
pub fn layer_norm(
    isa: Isa,
    p: &LayerNorm<'_>,
    x: &[f32],
    y: &mut [f32],
    sum_out: Option<&mut [f32]>,
) {
    let n = p.cols;
    if n == 0 || x.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(n) && y.len() == x.len(), "not whole rows");
    assert!(p.scale.len() == n && p.bias.is_none_or(|b| b.len() == n), "scale or bias size");
    assert!(p.skip.is_none_or(|k| k.len() == x.len()), "skip size");
    assert!(sum_out.as_ref().is_none_or(|k| k.len() == x.len()), "sum size");
    let out = Shared::new(y);
    let sums = sum_out.map(Shared::new);
    for_ranges(x.len() / n, GRAIN / n, |start, len| {
        let (at, size) = (start * n, len * n);
        // SAFETY: the ranges are disjoint, here and in the sums.
        let (y, sum) = unsafe { (out.slice(at, size), sums.map(|k| k.slice(at, size))) };
        let skip = p.skip.map(|k| &k[at..at + size]);
        isa.dispatch(NormRows { p, x: &x[at..at + size], skip, y, sum });
    });
}

/// A normalisation over blocks of channels. Instance norm has as many groups as channels.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// Images, channels, numbers in a plane.
    pub shape: [usize; 3],
    /// Groups of channels; divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Factor of each channel.
    pub scale: &'a [f32],
    /// Summand of each channel.
    pub bias: &'a [f32],
}

struct Group<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    plane: usize,
    eps: f32,
    scale: &'a [f32],
    bias: &'a [f32],
}

impl Kernel for Group<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mean = row(s, Reduce::Mean, self.x, 0.0);
        let var = row(s, Reduce::SumSquare, self.x, mean) / self.x.len() as f32;
        let inv = 1.0 / (var + self.eps).sqrt();
        let planes = self.x.chunks_exact(self.plane).zip(self.y.chunks_exact_mut(self.plane));
        for (c, (x, y)) in planes.enumerate() {
            let a = inv * self.scale[c];
            line(s, x, y, a, mean, self.bias[c]);
        }
    }
}

/// `y = a (x - shift) + b`.
#[inline(always)]
fn line<S: Simd>(s: S, x: &[f32], y: &mut [f32], a: f32, shift: f32, b: f32) {
    let (a, shift, b) = (s.splat(a), s.splat(shift), s.splat(b));
    for (x, y) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
        s.stores_tail(y, s.fma(s.sub(s.loads_tail(x), shift), a, b));
    }
}

/// Normalises each group of channels of each image.
pub fn group_norm(isa: Isa, p: &GroupNorm<'_>, x: &[f32], y: &mut [f32]) {
    let [n, c, plane] = p.shape;
    let total = count(&p.shape);
    if total == 0 {
        return;
    }
    assert!(p.groups > 0 && c.is_multiple_of(p.groups), "groups do not divide the channels");
    assert!(p.scale.len() >= c && p.bias.len() >= c, "scale or bias size");
    assert!(x.len() >= total && y.len() >= total, "slice too short");
    let each = c / p.groups;
    let size = each * plane;
    let out = Shared::new(y);
    for_ranges(n * p.groups, GRAIN / size, |start, len| {
        for g in start..start + len {
            let c0 = g % p.groups * each;
            // SAFETY: the groups are disjoint.
            let y = unsafe { out.slice(g * size, size) };
            isa.dispatch(Group {
                x: &x[g * size..(g + 1) * size],
                y,
                plane,
                eps: p.eps,
                scale: &p.scale[c0..c0 + each],
                bias: &p.bias[c0..c0 + each],
            });
        }
    });
}

struct Affine<'a>(&'a [f32], &'a mut [f32], f32, f32);

impl Kernel for Affine<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        line(s, self.0, self.1, self.2, 0.0, self.3);
    }
}

/// `y = x scale[c] + shift[c]` over `[n, channels, plane]`: batch norm with folded statistics.
pub fn channel_affine(
    isa: Isa,
    [n, c, plane]: [usize; 3],
    scale: &[f32],
    shift: &[f32],
    x: &[f32],
    y: &mut [f32],
) {
    let total = count(&[n, c, plane]);
    assert!(x.len() >= total && y.len() >= total, "slice too short");
    if total == 0 {
        return;
    }
    assert!(scale.len() >= c && shift.len() >= c, "scale or shift size");
    let out = Shared::new(y);
    for_ranges(n * c, GRAIN / plane.max(1), |start, len| {
        for p in start..start + len {
            let at = p * plane;
            // SAFETY: the planes are disjoint.
            let y = unsafe { out.slice(at, plane) };
            isa.dispatch(Affine(&x[at..at + plane], y, scale[p % c], shift[p % c]));
        }
    });
}

#[cfg(test)]
#[path = "norm_tests.rs"]
mod tests;
