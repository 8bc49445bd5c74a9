//! Convolution with one input channel per group.
//!
//! A plane is copied once into the padded form of `image`, then each output vector sums its taps
//! from contiguous loads, in two sums so that multiply-adds overlap. Most loads are of vectors that
//! cross a cache line and cost twice as much as a multiply-add; so kernels of 3x3 and 5x5 taps,
//! whose rows the next outputs below need again, are summed for four rows of outputs at a time.

use super::conv::ConvShape;
use super::image::{self, Layout, SLACK};
use hetra_cpu_base::activation::{self, Activation};
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::{Shared, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;

/// Rows of outputs that are summed together.
const ROWS: usize = 4;
/// The largest side of a kernel for which they are.
const K_MAX: usize = 5;

pub(crate) struct Depthwise<'a> {
    pub(crate) shape: &'a ConvShape,
    pub(crate) weights: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) act: Activation,
    pub(crate) residual: Option<&'a [f32]>,
}

pub(crate) fn run(
    isa: Isa,
    d: &Depthwise<'_>,
    layout: &Layout,
    x: &[f32],
    (n, h, w): (usize, usize, usize),
    out: &mut [f32],
) {
    let c = d.shape.c;
    let size = layout.oh * layout.ow;
    let mult = d.shape.m / c.max(1);
    let taps = layout.taps();
    let out = Shared::new(out);
    // About 50 µs of work for each task.
    let per_plane = (h * w + mult * size * (4 + taps.len() / 8)).max(1);
    for_ranges(n * c, (64 << 10) / per_plane, |start, len| {
        let mut plane = lend(layout.plane + SLACK);
        for p in start..start + len {
            layout.fill(isa, &x[p * h * w..(p + 1) * h * w], 0.0, &mut plane);
            for q in 0..mult {
                let o = p * mult + q;
                let channel = o % d.shape.m;
                let weights = &d.weights[channel * taps.len()..(channel + 1) * taps.len()];
                // SAFETY: each input plane has its own output planes.
                let out = unsafe { out.slice(o * size, size) };
                let floats = Floats {
                    residual: d.residual.map(|r| &r[o * size..(o + 1) * size]),
                    act: d.act,
                    out,
                };
                let bias = d.bias.map_or(0.0, |b| b[channel]);
                isa.dispatch(Plane {
                    plane: &plane,
                    taps: &taps,
                    layout,
                    weights,
                    bias,
                    out: floats,
                });
            }
        }
    });
}

/// What becomes of the sums of a plane.
pub(crate) trait Finish {
    /// Whether sums of several rows at a time are worth it: `put` needs few registers.
    const SEVERAL: bool;
    /// Length of the output plane.
    fn len(&self) -> usize;
    /// Takes the `w` sums from output `at` on; `at + w <= len()`.
    fn put<S: Simd>(&mut self, s: S, at: usize, w: usize, sums: S::F);
    /// All sums were put.
    fn end<S: Simd>(&mut self, s: S);
}

struct Floats<'a> {
    residual: Option<&'a [f32]>,
    act: Activation,
    out: &'a mut [f32],
}

impl Finish for Floats<'_> {
    const SEVERAL: bool = true;
    fn len(&self) -> usize {
        self.out.len()
    }
    #[inline(always)]
    fn put<S: Simd>(&mut self, s: S, at: usize, w: usize, mut sums: S::F) {
        let (lo, hi) = self.act.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        if let Some(r) = self.residual {
            sums = s.add(sums, s.loads_tail(&r[at..at + w]));
        }
        sums = s.min(s.splat(hi), s.max(s.splat(lo), sums));
        s.stores_tail(&mut self.out[at..at + w], sums);
    }
    #[inline(always)]
    fn end<S: Simd>(&mut self, _: S) {
        if self.act.clamp().is_none() {
            activation::apply(S::ISA, self.act, self.out);
        }
    }
}

/// One output plane from one padded plane.
pub(crate) struct Plane<'a, F> {
    pub(crate) plane: &'a [f32],
    pub(crate) taps: &'a [usize],
    pub(crate) layout: &'a Layout,
    /// One for each tap.
    pub(crate) weights: &'a [f32],
    pub(crate) bias: f32,
    pub(crate) out: F,
}

impl<F: Finish> Kernel for Plane<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.taps.len() {
            9 => self.rows::<S, 3>(s),
            25 => self.rows::<S, 5>(s),
            _ => self.rows::<S, 0>(s),
        }
    }
}

impl<F: Finish> Plane<'_, F> {
    /// `K` times `K` taps, or any number if `K` is zero.
    #[inline(always)]
    fn rows<S: Simd, const K: usize>(mut self, s: S) {
        let n = if K == 0 { self.taps.len() } else { K * K };
        let (taps, weights) = (&self.taps[..n], &self.weights[..n]);
        let (oh, ow, row_step) = (self.layout.oh, self.layout.ow, self.layout.row_step());
        if oh * ow == 0 {
            return;
        }
        let reach = image::reach(taps, (oh, row_step), ow, S::LANES);
        assert!(reach.is_some_and(|reach| reach <= self.plane.len()));
        assert!(self.out.len() >= oh * ow);
        let mut y = 0;
        if F::SEVERAL && K > 0 && (K..n).all(|t| taps[t] == taps[t - K] + row_step) {
            while y + ROWS <= oh {
                // SAFETY: `reach` covers the taps of all rows up to `oh`, and this is of the next
                // `ROWS` of them.
                unsafe { self.four::<S, K>(s, y) };
                y += ROWS;
            }
        }
        for y in y..oh {
            let mut x = 0;
            while x < ow {
                // SAFETY: `base` and the loads, which end within `reach`, are inside the plane, as
                // checked above.
                let sums = unsafe {
                    let base = self.plane.as_ptr().add(y * row_step + x);
                    let mut acc = [s.splat(self.bias), s.splat(0.0)];
                    for t in 0..n {
                        let v = s.load(base.add(taps[t]));
                        acc[t & 1] = s.fma(s.splat(weights[t]), v, acc[t & 1]);
                    }
                    s.add(acc[0], acc[1])
                };
                self.out.put(s, y * ow + x, S::LANES.min(ow - x), sums);
                x += S::LANES;
            }
        }
        self.out.end(s);
    }

    /// The outputs of `ROWS` rows from `y` on, where each row of taps is one row of the plane below
    /// the one before.
    ///
    /// # Safety
    /// Whole vectors from each output of these rows on, at each tap, must be inside the plane.
    #[inline(always)]
    unsafe fn four<S: Simd, const K: usize>(&mut self, s: S, y: usize) {
        let (ow, row_step) = (self.layout.ow, self.layout.row_step());
        let (taps, weights) = (&self.taps[..K * K], &self.weights[..K * K]);
        let mut x = 0;
        while x < ow {
            let mut acc = [s.splat(self.bias); ROWS];
            for j in 0..K {
                let mut v = [s.splat(0.0); ROWS + K_MAX - 1];
                for (r, v) in v[..ROWS + K - 1].iter_mut().enumerate() {
                    // SAFETY: row `r` is of the first tap of the first output for `r == 0`, and of
                    // the last tap of the last one at most; the caller promises both.
                    *v = unsafe {
                        s.load(self.plane.as_ptr().add((y + r) * row_step + x + taps[j]))
                    };
                }
                for i in 0..K {
                    let w = s.splat(weights[i * K + j]);
                    for (o, acc) in acc.iter_mut().enumerate() {
                        *acc = s.fma(w, v[i + o], *acc);
                    }
                }
            }
            for (o, acc) in acc.into_iter().enumerate() {
                self.out.put(s, (y + o) * ow + x, S::LANES.min(ow - x), acc);
            }
            x += S::LANES;
        }
    }
}
