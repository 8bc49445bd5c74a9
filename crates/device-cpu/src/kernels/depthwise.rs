//! Convolution with one input channel per group.
//!
//! A plane is copied once into the padded form of `image`, then each output vector sums its taps
//! from contiguous loads, in two sums so that multiply-adds overlap. Kernels of 9 and 25 taps
//! are compiled with their loops unrolled.

use super::activation::{self, Activation};
use super::conv::ConvShape;
use super::image::{Layout, SLACK};
use super::isa::{Isa, Kernel};
use super::scratch::{Shared, for_ranges, lend};
use super::simd::Simd;

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
    for_ranges(n * c, (256 << 10) / per_plane, |start, len| {
        let mut plane = lend(layout.plane + SLACK);
        for p in start..start + len {
            layout.fill(&x[p * h * w..(p + 1) * h * w], 0.0, &mut plane);
            for q in 0..mult {
                let o = p * mult + q;
                let channel = o % d.shape.m;
                let weights = &d.weights[channel * taps.len()..(channel + 1) * taps.len()];
                // SAFETY: each input plane has its own output planes.
                let out = unsafe { out.slice(o * size, size) };
                isa.dispatch(Plane {
                    plane: &plane,
                    taps: &taps,
                    weights,
                    bias: d.bias.map_or(0.0, |b| b[channel]),
                    residual: d.residual.map(|r| &r[o * size..(o + 1) * size]),
                    act: d.act,
                    ow: layout.ow,
                    row_step: layout.row_step(),
                    out,
                });
            }
        }
    });
}

struct Plane<'a> {
    plane: &'a [f32],
    taps: &'a [usize],
    weights: &'a [f32],
    bias: f32,
    residual: Option<&'a [f32]>,
    act: Activation,
    ow: usize,
    row_step: usize,
    out: &'a mut [f32],
}

impl Kernel for Plane<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.taps.len() {
            9 => self.rows::<S, 9>(s),
            25 => self.rows::<S, 25>(s),
            _ => self.rows::<S, 0>(s),
        }
    }
}

impl Plane<'_> {
    /// `T` taps, or any number if `T` is zero.
    #[inline(always)]
    fn rows<S: Simd, const T: usize>(self, s: S) {
        let n = if T == 0 { self.taps.len() } else { T };
        let (taps, weights) = (&self.taps[..n], &self.weights[..n]);
        let oh = self.out.len() / self.ow;
        let reach = taps.iter().max().unwrap_or(&0) + (oh - 1) * self.row_step + self.ow;
        assert!(reach + S::LANES <= self.plane.len());
        let (lo, hi) = self.act.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        for y in 0..oh {
            let mut x = 0;
            while x < self.ow {
                let w = S::LANES.min(self.ow - x);
                let at = y * self.ow + x;
                // SAFETY: loads end within `reach` plus one vector, checked above; the `w` output
                // columns from `x` are in row `y`.
                unsafe {
                    let base = self.plane.as_ptr().add(y * self.row_step + x);
                    let mut acc = [s.splat(self.bias), s.splat(0.0)];
                    for t in 0..n {
                        let v = s.load(base.add(taps[t]));
                        acc[t & 1] = s.fma(s.splat(weights[t]), v, acc[t & 1]);
                    }
                    let mut v = s.add(acc[0], acc[1]);
                    if let Some(r) = self.residual {
                        v = s.add(v, s.load_n(r.as_ptr().add(at), w));
                    }
                    v = s.min(s.splat(hi), s.max(s.splat(lo), v));
                    s.store_n(self.out.as_mut_ptr().add(at), v, w);
                }
                x += S::LANES;
            }
        }
        if self.act.clamp().is_none() {
            activation::apply(S::ISA, self.act, self.out);
        }
    }
}
