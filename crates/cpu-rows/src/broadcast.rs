//! Element by element functions of two arrays under broadcasting.
//!
//! Idea: merge axes that both arrays walk in step, so that equal shapes become one long row,
//! `[N,C,1,1]` becomes rows against one number and a trailing vector becomes rows against a row.
//! The inner loop then has one of four forms (vector or number on each side); a rare fifth takes
//! any stride. Rows, or pieces of a long row, are shared among threads.

use hetra_cpu_base::Axes;
use hetra_cpu_base::activation::{self, Activation};
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::Shared;
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;
use smallvec::smallvec;

/// Outputs below which one thread does it all, and the piece of a task above.
const GRAIN: usize = 16 << 10;

/// Strides, in elements, with which an array of shape `from` is read under shape `to`: zero where
/// it is repeated. `None` if `from` does not broadcast to `to`.
pub fn broadcast_strides(from: &[usize], to: &[usize]) -> Option<Axes> {
    let lead = to.len().checked_sub(from.len())?;
    let mut strides: Axes = smallvec![0; to.len()];
    let mut step = 1;
    for i in (0..from.len()).rev() {
        if from[i] != 1 && from[i] != to[lead + i] {
            return None;
        }
        if from[i] != 1 {
            strides[lead + i] = step;
        }
        step *= from[i];
    }
    Some(strides)
}

/// One merged axis: size, and the two strides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axis {
    size: usize,
    a: usize,
    b: usize,
}

/// Drops axes of size 1 and merges axes that both arrays walk in step; never empty.
pub(crate) fn merge(shape: &[usize], a: &[usize], b: &[usize]) -> Axes<Axis> {
    assert!(shape.len() == a.len() && shape.len() == b.len(), "one stride for each axis");
    let mut out: Axes<Axis> = Axes::new();
    for i in 0..shape.len() {
        let axis = Axis { size: shape[i], a: a[i], b: b[i] };
        if axis.size == 1 {
            continue;
        }
        match out.last_mut() {
            Some(o) if o.a == axis.a * axis.size && o.b == axis.b * axis.size => {
                *o = Axis { size: o.size * axis.size, ..axis };
            }
            _ => out.push(axis),
        }
    }
    if out.is_empty() {
        out.push(Axis { size: 1, a: 0, b: 0 });
    }
    out
}

/// A stretch of outputs whose inputs have one stride each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) out: usize,
    pub(crate) len: usize,
    /// Where it begins in each operand, and the stride there.
    pub(crate) a: (usize, usize),
    pub(crate) b: (usize, usize),
}

/// Calls `f` for every stretch, in parallel; checks first that no read leaves its slice.
pub(crate) fn rows(
    axes: &[Axis],
    (a_len, b_len, out_len): (usize, usize, usize),
    f: impl Fn(&[Axis], usize, usize) + Sync + Send,
) {
    let total: usize = axes.iter().map(|x| x.size).product();
    if total == 0 {
        return;
    }
    let last = |g: fn(&Axis) -> usize| axes.iter().map(|x| (x.size - 1) * g(x)).sum::<usize>();
    assert!(last(|x| x.a) < a_len && last(|x| x.b) < b_len, "operand too short");
    assert!(total <= out_len, "output too short");
    let inner = axes[axes.len() - 1].size;
    let grain = if total <= 2 * GRAIN {
        total
    } else if inner >= GRAIN {
        GRAIN
    } else {
        GRAIN / inner * inner
    };
    for_ranges(total, grain, |start, len| f(axes, start, len));
}

/// Walks a range of outputs row by row. Not a function that takes a closure: that closure would be
/// compiled without the target features of the kernel around it.
pub(crate) struct Walk<'a> {
    inner: Axis,
    outer: &'a [Axis],
    index: Axes,
    a: usize,
    b: usize,
    x: usize,
    pos: usize,
    end: usize,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(axes: &'a [Axis], start: usize, len: usize) -> Self {
        let (inner, outer) = axes.split_last().expect("merge never returns an empty list");
        let mut index: Axes = smallvec![0; outer.len()];
        let mut rest = start / inner.size;
        let (mut a, mut b) = (0, 0);
        for (i, axis) in outer.iter().enumerate().rev() {
            index[i] = rest % axis.size;
            rest /= axis.size;
            a += index[i] * axis.a;
            b += index[i] * axis.b;
        }
        let x = start % inner.size;
        Walk { inner: *inner, outer, index, a, b, x, pos: start, end: start + len }
    }

    #[inline]
    pub(crate) fn next_row(&mut self) -> Option<Row> {
        if self.pos == self.end {
            return None;
        }
        let (inner, x) = (self.inner, self.x);
        let len = (inner.size - x).min(self.end - self.pos);
        let row = Row {
            out: self.pos,
            len,
            a: (self.a + x * inner.a, inner.a),
            b: (self.b + x * inner.b, inner.b),
        };
        self.pos += len;
        self.x = 0;
        for (i, axis) in self.outer.iter().enumerate().rev() {
            self.index[i] += 1;
            self.a += axis.a;
            self.b += axis.b;
            if self.index[i] < axis.size {
                break;
            }
            self.index[i] = 0;
            self.a -= axis.a * axis.size;
            self.b -= axis.b * axis.size;
        }
        Some(row)
    }
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`.
    Div,
    /// The lesser; NaN if either is NaN.
    Min,
    /// The greater; NaN if either is NaN.
    Max,
    /// `a` where not negative, else `a * b`.
    Prelu,
}

impl Binary {
    #[inline(always)]
    pub(crate) fn vector<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F {
        match self {
            Binary::Add => s.add(a, b),
            Binary::Sub => s.sub(a, b),
            Binary::Mul => s.mul(a, b),
            Binary::Div => s.div(a, b),
            Binary::Min => s.min_nan(a, b),
            Binary::Max => s.max_nan(a, b),
            Binary::Prelu => s.select(s.lt(a, s.splat(0.0)), s.mul(a, b), a),
        }
    }
}

/// Runs `all` of a kernel for its operation, which the compiler then knows, so that its `match`
/// leaves the loop.
macro_rules! by_op {
    ($kernel:expr, $s:expr) => {
        by_op!(@ $kernel, $s, Add Sub Mul Div Min Max Prelu)
    };
    (@ $kernel:expr, $s:expr, $($op:ident)+) => {
        match $kernel.op { $(Binary::$op => $kernel.all($s, Binary::$op),)+ }
    };
}
pub(crate) use by_op;

struct Stretch<'a> {
    op: Binary,
    act: Activation,
    axes: &'a [Axis],
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
    start: usize,
}

impl Kernel for Stretch<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        by_op!(self, s);
    }
}

impl Stretch<'_> {
    #[inline(always)]
    fn all<S: Simd>(self, s: S, op: Binary) {
        let (a, b, act, start) = (self.a, self.b, self.act, self.start);
        let len = self.out.len();
        let out = self.out;
        let mut walk = Walk::new(self.axes, start, len);
        while let Some(r) = walk.next_row() {
            let dst = &mut out[r.out - start..r.out - start + r.len];
            let (ar, br) = (&a[r.a.0..], &b[r.b.0..]);
            match (r.a.1, r.b.1) {
                (1, 1) => pair(s, op, ar, br, dst),
                (1, 0) => left(s, op, ar, br[0], dst),
                (0, 1) => right(s, op, ar[0], br, dst),
                (sa, sb) => strided(s, op, (ar, sa), (br, sb), dst),
            }
            if act != Activation::None {
                activation::apply(S::ISA, act, dst);
            }
        }
    }
}

#[inline(always)]
fn pair<S: Simd>(s: S, op: Binary, a: &[f32], b: &[f32], d: &mut [f32]) {
    let n = d.len();
    let (a, b) = (&a[..n], &b[..n]);
    let mut i = 0;
    while i + S::LANES <= n {
        s.stores(&mut d[i..], op.vector(s, s.loads(&a[i..]), s.loads(&b[i..])));
        i += S::LANES;
    }
    if i < n {
        s.stores_tail(&mut d[i..], op.vector(s, s.loads_tail(&a[i..]), s.loads_tail(&b[i..])));
    }
}

#[inline(always)]
fn left<S: Simd>(s: S, op: Binary, a: &[f32], b: f32, d: &mut [f32]) {
    let (n, b) = (d.len(), s.splat(b));
    let a = &a[..n];
    let mut i = 0;
    while i + S::LANES <= n {
        s.stores(&mut d[i..], op.vector(s, s.loads(&a[i..]), b));
        i += S::LANES;
    }
    if i < n {
        s.stores_tail(&mut d[i..], op.vector(s, s.loads_tail(&a[i..]), b));
    }
}

#[inline(always)]
fn right<S: Simd>(s: S, op: Binary, a: f32, b: &[f32], d: &mut [f32]) {
    let (n, a) = (d.len(), s.splat(a));
    let b = &b[..n];
    let mut i = 0;
    while i + S::LANES <= n {
        s.stores(&mut d[i..], op.vector(s, a, s.loads(&b[i..])));
        i += S::LANES;
    }
    if i < n {
        s.stores_tail(&mut d[i..], op.vector(s, a, s.loads_tail(&b[i..])));
    }
}

/// Any strides: gathers a vector of each side number by number.
#[inline(always)]
fn strided<S: Simd>(
    s: S,
    op: Binary,
    (a, sa): (&[f32], usize),
    (b, sb): (&[f32], usize),
    d: &mut [f32],
) {
    let mut at = 0;
    for d in d.chunks_mut(S::LANES) {
        let (mut x, mut y) = ([0.0; 16], [0.0; 16]);
        for i in 0..d.len() {
            x[i] = a[(at + i) * sa];
            y[i] = b[(at + i) * sb];
        }
        at += d.len();
        let v = op.vector(s, s.loads(&x), s.loads(&y));
        s.stores_tail(d, v);
    }
}

/// An array and the stride, in elements, of each axis of the output's shape in it.
pub type Operand<'a, T> = (&'a [T], &'a [usize]);

/// `out = act(op(a, b))` over `shape`; the output is contiguous. Panics if an operand is too
/// short for its strides.
pub fn binary(
    isa: Isa,
    op: Binary,
    act: Activation,
    shape: &[usize],
    (a, sa): Operand<'_, f32>,
    (b, sb): Operand<'_, f32>,
    out: &mut [f32],
) {
    let axes = merge(shape, sa, sb);
    let lens = (a.len(), b.len(), out.len());
    let out = Shared::new(out);
    rows(&axes, lens, |axes, start, len| {
        // SAFETY: the ranges are disjoint.
        let out = unsafe { out.slice(start, len) };
        isa.dispatch(Stretch { op, act, axes, a, b, out, start });
    });
}

/// `out = f(a, b)` over `shape` for any element types: the path for integers, truth values and
/// functions without a vector form. The closure is inlined into the loops.
pub fn zip<A, B, C>(
    shape: &[usize],
    (a, sa): Operand<'_, A>,
    (b, sb): Operand<'_, B>,
    out: &mut [C],
    f: impl Fn(A, B) -> C + Sync + Send,
) where
    A: Copy + Sync,
    B: Copy + Sync,
    C: Send,
{
    let axes = merge(shape, sa, sb);
    let lens = (a.len(), b.len(), out.len());
    let out = Shared::new(out);
    rows(&axes, lens, |axes, start, len| {
        // SAFETY: the ranges are disjoint.
        let out = unsafe { out.slice(start, len) };
        let mut walk = Walk::new(axes, start, len);
        while let Some(r) = walk.next_row() {
            let dst = &mut out[r.out - start..r.out - start + r.len];
            let (ar, br) = (&a[r.a.0..], &b[r.b.0..]);
            match (r.a.1, r.b.1) {
                (1, 1) => {
                    dst.iter_mut().zip(ar.iter().zip(br)).for_each(|(d, (&x, &y))| *d = f(x, y))
                }
                (1, 0) => dst.iter_mut().zip(ar).for_each(|(d, &x)| *d = f(x, br[0])),
                (0, 1) => dst.iter_mut().zip(br).for_each(|(d, &y)| *d = f(ar[0], y)),
                (sa, sb) => {
                    dst.iter_mut().enumerate().for_each(|(i, d)| *d = f(ar[i * sa], br[i * sb]));
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Rng, close};

    fn scalar(op: Binary, a: f32, b: f32) -> f32 {
        match op {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Min if a.is_nan() || b.is_nan() => f32::NAN,
            Binary::Max if a.is_nan() || b.is_nan() => f32::NAN,
            Binary::Min => a.min(b),
            Binary::Max => a.max(b),
            Binary::Prelu => {
                if a < 0.0 {
                    a * b
                } else {
                    a
                }
            }
        }
    }

    fn check(to: &[usize], fa: &[usize], fb: &[usize], op: Binary, act: Activation) {
        let mut rng = Rng::new(to.len() as u64 + fa.len() as u64 * 7);
        let size = |s: &[usize]| s.iter().product::<usize>();
        let (a, mut b) = (rng.vec(size(fa)), rng.vec(size(fb)));
        b.iter_mut().step_by(7).for_each(|v| *v = if op == Binary::Div { 0.5 } else { f32::NAN });
        let sa = broadcast_strides(fa, to).expect("broadcasts");
        let sb = broadcast_strides(fb, to).expect("broadcasts");
        let mut want = Vec::new();
        for i in 0..size(to) {
            let (mut rest, mut ia, mut ib) = (i, 0, 0);
            for d in (0..to.len()).rev() {
                ia += rest % to[d] * sa[d];
                ib += rest % to[d] * sb[d];
                rest /= to[d];
            }
            let v = scalar(op, a[ia], b[ib]);
            want.push(if act == Activation::Relu && v < 0.0 { 0.0 } else { v });
        }
        for isa in Isa::available() {
            let mut out = vec![0.0; want.len()];
            binary(isa, op, act, to, (&a, &sa), (&b, &sb), &mut out);
            close(&out, &want, 1e-6, &format!("{isa:?} {op:?} {fa:?} {fb:?}"));
        }
        let mut out = vec![0.0; want.len()];
        zip(to, (&a, &sa), (&b, &sb), &mut out, |x, y| {
            let v = scalar(op, x, y);
            if act == Activation::Relu && v < 0.0 { 0.0 } else { v }
        });
        close(&out, &want, 0.0, "zip");
    }

    #[test]
    fn agrees_with_index_arithmetic() {
        use Binary::*;
        for op in [Add, Sub, Mul, Div, Min, Max, Prelu] {
            for act in [Activation::None, Activation::Relu] {
                check(&[2, 3, 5, 7], &[2, 3, 5, 7], &[2, 3, 5, 7], op, act);
                check(&[2, 3, 5, 7], &[2, 3, 5, 7], &[3, 1, 1], op, act);
                check(&[2, 3, 5, 7], &[7], &[2, 3, 5, 7], op, act);
                check(&[2, 3, 5, 7], &[2, 1, 5, 1], &[3, 1, 7], op, act);
                check(&[4, 19], &[4, 19], &[], op, act);
                check(&[], &[], &[], op, act);
                check(&[3, 0, 2], &[3, 0, 2], &[2], op, act);
                check(&[1, 1, 33], &[1], &[33], op, act);
                check(&[5, 33], &[5, 1], &[33], op, act);
            }
        }
        check(&[3, 200, 301], &[3, 200, 301], &[200, 1], Add, Activation::Relu);
        check(&[200_001], &[200_001], &[1], Mul, Activation::None);
        assert_eq!(broadcast_strides(&[3], &[4]), None);
        assert_eq!(broadcast_strides(&[2, 3], &[3]), None);
    }
}
