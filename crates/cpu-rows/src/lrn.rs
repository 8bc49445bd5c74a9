//! Local response normalisation across channels.
//!
//! Vectors run along the plane, where all loads are contiguous; a stretch of it is short enough
//! that the neighbouring channels stay in the first cache level. Each window is summed anew: a
//! running sum would keep the rounding of numbers that have left it.

use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::math::{exp_v, log_v};
use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;

/// Columns of one stretch.
const STRETCH: usize = 128;
/// Numbers that a task makes.
const GRAIN: usize = 8 << 10;

/// `y = x / (bias + alpha · Σ x²)^beta`, the sum over `back` channels before and `ahead` after.
#[derive(Clone, Copy, Debug)]
pub struct Lrn {
    /// Images, channels, numbers in a plane.
    pub shape: [usize; 3],
    /// Channels before.
    pub back: usize,
    /// Channels after.
    pub ahead: usize,
    /// Factor of the sum.
    pub alpha: f32,
    /// The power.
    pub beta: f32,
    /// Added to the sum.
    pub bias: f32,
}

struct Stretch<'a> {
    p: &'a Lrn,
    x: &'a [f32],
    y: Shared<'a, f32>,
    /// Start of the image.
    image: usize,
    /// First column, and how many.
    first: usize,
    len: usize,
}

impl Kernel for Stretch<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.p;
        let [_, channels, plane] = p.shape;
        let (alpha, bias) = (s.splat(p.alpha), s.splat(p.bias));
        for c in 0..channels {
            let last = c.saturating_add(p.ahead).min(channels - 1);
            let mut j = self.first;
            while j < self.first + self.len {
                let w = S::LANES.min(self.first + self.len - j);
                let at = |channel: usize| self.image + channel * plane + j;
                let mut sum = s.splat(0.0);
                for other in c.saturating_sub(p.back)..=last {
                    let v = s.loads_tail(&self.x[at(other)..at(other) + w]);
                    sum = s.fma(v, v, sum);
                }
                let power = power(s, s.fma(alpha, sum, bias), p.beta);
                let v = s.div(s.loads_tail(&self.x[at(c)..at(c) + w]), power);
                // SAFETY: this task alone has these columns of this image, and the slice is gone
                // before the next one is made.
                s.stores_tail(unsafe { self.y.slice(at(c), w) }, v);
                j += w;
            }
        }
    }
}

/// `x^beta` for positive numbers; by roots for the power that models have.
#[inline(always)]
fn power<S: Simd>(s: S, x: S::F, beta: f32) -> S::F {
    if beta == 0.75 {
        let root = s.sqrt(x);
        return s.mul(root, s.sqrt(root));
    }
    exp_v(s, s.mul(s.splat(beta), log_v(s, x)))
}

/// Panics if a slice is too short.
pub fn lrn(isa: Isa, p: &Lrn, x: &[f32], y: &mut [f32]) {
    let [images, channels, plane] = p.shape;
    let total = count(&p.shape);
    assert!(x.len() >= total && y.len() >= total, "slice too short");
    if total == 0 {
        return;
    }
    let pieces = plane.div_ceil(STRETCH);
    let y = Shared::new(y);
    for_ranges(images * pieces, GRAIN / channels / STRETCH.min(plane), |start, n| {
        for piece in start..start + n {
            let (image, first) = (piece / pieces * channels * plane, piece % pieces * STRETCH);
            let len = STRETCH.min(plane - first);
            isa.dispatch(Stretch { p, x, y, image, first, len });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Rng, close};

    #[test]
    fn agrees_with_the_definition() {
        let mut rng = Rng::new(6);
        for t in 0..40 {
            let shape = [rng.range(1, 2), rng.range(1, 9), rng.range(1, 300)];
            let (back, ahead) = (rng.below(4), rng.below(4));
            let beta = [0.75, 0.5, 1.3][t % 3];
            let p = Lrn { shape, back, ahead, alpha: 0.2, beta, bias: 1.0 };
            let [n, c, plane] = shape;
            let x = rng.vec(n * c * plane);
            let mut want = Vec::new();
            for i in 0..n * c * plane {
                let (image, channel, j) = (i / plane / c, i / plane % c, i % plane);
                let window = channel.saturating_sub(back)..=(channel + ahead).min(c - 1);
                let at = |channel: usize| f64::from(x[(image * c + channel) * plane + j]);
                let sum: f64 = window.map(|channel| at(channel) * at(channel)).sum();
                want.push((f64::from(x[i]) / (1.0 + 0.2 * sum).powf(f64::from(beta))) as f32);
            }
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; want.len()];
                lrn(isa, &p, &x, &mut y);
                close(&y, &want, 1e-5, &format!("{isa:?} {p:?}"));
            }
        }
    }
}
