//! Max and average pooling of NCHW planes.
//!
//! A plane is copied once with a border (of -infinity or 0) into the form of `image`, in which
//! each tap of a row of windows is contiguous for any stride; the window loop then has no bounds
//! checks. Averages divide by a count made of one table for rows and one for columns.

use super::conv::ConvShape;
use super::image::{Layout, SLACK, reach};
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::{Shared, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;

/// How windows are reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// The greatest number of the window; NaN is none, and -infinity stands for no number at all.
    Max,
    /// The mean of the window.
    Average {
        /// Whether the border counts in the divisor.
        count_include_pad: bool,
    },
}

/// A pooling.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// How windows are reduced.
    pub kind: PoolKind,
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Steps down and right; at least 1.
    pub stride: [usize; 2],
    /// Distances between taps; at least 1.
    pub dilation: [usize; 2],
    /// Border: top, left, bottom, right.
    pub pads: [usize; 4],
}

impl Pool {
    /// The windows as those of a convolution of one plane.
    pub fn window(&self) -> ConvShape {
        ConvShape {
            c: 1,
            m: 1,
            kh: self.kernel[0],
            kw: self.kernel[1],
            stride: self.stride,
            dilation: self.dilation,
            pads: self.pads,
            groups: 1,
        }
    }
}

/// Pools `planes` planes of `h` by `w` to `oh` by `ow`. The caller has chosen the output size, so
/// that rounding up is its business; windows may reach past the border. Panics if a slice is too
/// short, a stride is 0, or the windows are beyond any memory.
pub fn pool(
    isa: Isa,
    p: &Pool,
    x: &[f32],
    (planes, h, w): (usize, usize, usize),
    (oh, ow): (usize, usize),
    y: &mut [f32],
) {
    let outputs = count(&[planes, oh, ow]);
    assert!(x.len() >= count(&[planes, h, w]) && y.len() >= outputs, "slice too short");
    if outputs == 0 {
        return;
    }
    let layout = Layout::with_out(&p.window(), (h, w), (oh, ow)).expect("windows within memory");
    let taps = layout.taps();
    let border = if p.kind == PoolKind::Max { f32::NEG_INFINITY } else { 0.0 };
    let divisors = |axis: usize, n: usize, size: usize| -> Vec<f32> {
        (0..n).map(|o| divisor(p, axis, o, size)).collect()
    };
    let (count_y, mut count_x) = (divisors(0, oh, h), divisors(1, ow, w));
    count_x.resize(ow + 16, 1.0);
    let out = Shared::new(y);
    let work = h * w + oh * ow * (2 + taps.len() / 8);
    for_ranges(planes, (32 << 10) / work.max(1), |start, len| {
        let mut plane = lend(layout.plane + SLACK);
        for i in start..start + len {
            layout.fill(isa, &x[i * h * w..(i + 1) * h * w], border, &mut plane);
            // SAFETY: the planes are disjoint.
            let out = unsafe { out.slice(i * oh * ow, oh * ow) };
            let counts = (p.kind != PoolKind::Max).then_some((&count_y[..], &count_x[..]));
            let row_step = layout.row_step();
            isa.dispatch(Plane { plane: &plane, taps: &taps, ow, row_step, counts, out });
        }
    });
}

/// How many taps of output `o` along an axis count in a mean.
pub(crate) fn divisor(p: &Pool, axis: usize, o: usize, size: usize) -> f32 {
    let include = p.kind == PoolKind::Average { count_include_pad: true };
    let (before, after) = (p.pads[axis], p.pads[axis + 2]);
    let inside = |tap: &usize| {
        let at = o * p.stride[axis] + tap * p.dilation[axis];
        if include { at < before + size + after } else { (before..before + size).contains(&at) }
    };
    (0..p.kernel[axis]).filter(inside).count() as f32
}

struct Plane<'a> {
    plane: &'a [f32],
    taps: &'a [usize],
    ow: usize,
    row_step: usize,
    counts: Option<(&'a [f32], &'a [f32])>,
    out: &'a mut [f32],
}

impl Kernel for Plane<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let oh = self.out.len() / self.ow;
        let reach = reach(self.taps, (oh, self.row_step), self.ow, S::LANES);
        assert!(reach.is_some_and(|reach| reach <= self.plane.len()), "taps leave the plane");
        for y in 0..oh {
            let mut x = 0;
            while x < self.ow {
                let w = S::LANES.min(self.ow - x);
                // SAFETY: `y < oh` and `x < ow`, so the base, and the vector that is read from it
                // at any of the taps, end at `reach` or before, which is inside the plane.
                let base = unsafe { self.plane.as_ptr().add(y * self.row_step + x) };
                let v = match self.counts {
                    None => {
                        let mut acc = s.splat(f32::NEG_INFINITY);
                        for &t in self.taps {
                            // Where the load is NaN, `max` gives the second operand.
                            // SAFETY: as at the base.
                            acc = s.max(unsafe { s.load(base.add(t)) }, acc);
                        }
                        acc
                    }
                    Some((cy, cx)) => {
                        let mut acc = s.splat(0.0);
                        for &t in self.taps {
                            // SAFETY: as at the base.
                            acc = s.add(acc, unsafe { s.load(base.add(t)) });
                        }
                        s.div(acc, s.mul(s.splat(cy[y]), s.loads(&cx[x..])))
                    }
                };
                let at = y * self.ow + x;
                s.stores_tail(&mut self.out[at..at + w], v);
                x += S::LANES;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Rng, close};

    fn naive(
        p: &Pool,
        x: &[f32],
        (n, h, w): (usize, usize, usize),
        (oh, ow): (usize, usize),
    ) -> Vec<f32> {
        let mut out = Vec::new();
        for i in 0..n * oh * ow {
            let (plane, oy, ox) = (i / (oh * ow), i / ow % oh, i % ow);
            let (mut max, mut sum, mut count) = (f32::NEG_INFINITY, 0f64, 0);
            for t in 0..p.kernel[0] * p.kernel[1] {
                let py = oy * p.stride[0] + t / p.kernel[1] * p.dilation[0];
                let px = ox * p.stride[1] + t % p.kernel[1] * p.dilation[1];
                let (iy, ix) = (py.wrapping_sub(p.pads[0]), px.wrapping_sub(p.pads[1]));
                let inside = iy < h && ix < w;
                if inside {
                    let v = x[(plane * h + iy) * w + ix];
                    max = max.max(v);
                    sum += f64::from(v);
                }
                let padded = py < p.pads[0] + h + p.pads[2] && px < p.pads[1] + w + p.pads[3];
                let include = p.kind == PoolKind::Average { count_include_pad: true };
                count += usize::from(inside || (include && padded));
            }
            out.push(if p.kind == PoolKind::Max { max } else { (sum / count as f64) as f32 });
        }
        out
    }

    #[test]
    fn random_windows() {
        let mut rng = Rng::new(9);
        let kinds = [
            PoolKind::Max,
            PoolKind::Average { count_include_pad: true },
            PoolKind::Average { count_include_pad: false },
        ];
        for i in 0..240 {
            let kernel = [rng.range(1, 4), rng.range(1, 5)];
            let p = Pool {
                kind: kinds[i % 3],
                kernel,
                stride: [rng.range(1, 3), rng.range(1, 3)],
                dilation: [rng.range(1, 2), rng.range(1, 2)],
                pads: std::array::from_fn(|a| rng.below(kernel[a % 2])),
            };
            let (n, h, w) = (rng.range(1, 3), rng.range(1, 20), rng.range(1, 37));
            // Rounded up or down in turn.
            let out = |axis: usize, size: usize| {
                let reach = (p.kernel[axis] - 1) * p.dilation[axis] + 1;
                let free = (size + p.pads[axis] + p.pads[axis + 2]).checked_sub(reach)?;
                let up = if i % 2 == 0 { p.stride[axis] - 1 } else { 0 };
                Some((free + up) / p.stride[axis] + 1)
            };
            let (Some(oh), Some(ow)) = (out(0, h), out(1, w)) else { continue };
            let x = rng.vec(n * h * w);
            let want = naive(&p, &x, (n, h, w), (oh, ow));
            for isa in Isa::available() {
                let mut y = vec![0.0; want.len()];
                pool(isa, &p, &x, (n, h, w), (oh, ow), &mut y);
                close(&y, &want, 1e-5, &format!("{isa:?} {p:?} {h}x{w} -> {oh}x{ow}"));
            }
        }
    }
}
