//! Discrete Fourier transforms of many lines, in f64 and so as exact as the definition's sums.

use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::threads::{for_each, threads};

/// Points of all transforms below which one thread does them (about 50 µs).
const PAR_MIN: usize = 4 << 10;

/// How transforms of one length are done; n log n steps for any length.
#[derive(Clone)]
pub struct Plan {
    fft: Arc<dyn Fft<f64>>,
    inverse: bool,
}

impl Plan {
    /// For transforms of `length` points, or for their inverse. Panics if there are none.
    pub fn new(length: usize, inverse: bool) -> Self {
        assert!(length > 0, "a transform of no points");
        let mut planner = FftPlanner::new();
        let fft = match inverse {
            true => planner.plan_fft_inverse(length),
            false => planner.plan_fft_forward(length),
        };
        Plan { fft, inverse }
    }

    /// Points.
    pub fn length(&self) -> usize {
        self.fft.len()
    }

    /// Whether it is the inverse.
    pub fn inverse(&self) -> bool {
        self.inverse
    }

    /// Transforms `blocks` blocks of `inner` lines. `load` writes the points of a line (block,
    /// place in the block) over zeros; the first `bins` results go to `out`,
    /// `[blocks, bins, inner, 2]`. Panics if there are fewer results or `out` is too short.
    pub fn run(
        &self,
        [blocks, bins, inner]: [usize; 3],
        load: impl Fn(usize, usize, &mut [Complex<f64>]) + Sync + Send,
        out: &mut [f32],
    ) {
        let length = self.length();
        let size = count(&[bins, inner, 2]);
        assert!(bins <= length && out.len() >= count(&[blocks, size]), "output too short");
        let factor = if self.inverse { 1.0 / length as f64 } else { 1.0 };
        let parallel = blocks > 1 && threads() > 1 && count(&[blocks, inner, length]) > PAR_MIN;
        // As many tasks as keep all threads busy: each has buffers of its own.
        let tasks = if parallel { blocks.min(4 * threads()) } else { 1 };
        let out = Shared::new(out);
        for_each(tasks, parallel, |task| {
            let zero = Complex { re: 0.0, im: 0.0 };
            let mut line = vec![zero; length];
            let mut scratch = vec![zero; self.fft.get_inplace_scratch_len()];
            for block in task * blocks / tasks..(task + 1) * blocks / tasks {
                // SAFETY: each block is one task's alone, and has its own part of the output.
                let out = unsafe { out.slice(block * size, size) };
                for place in 0..inner {
                    line.fill(zero);
                    load(block, place, &mut line);
                    self.fft.process_with_scratch(&mut line, &mut scratch);
                    for (bin, result) in line[..bins].iter().enumerate() {
                        let at = (bin * inner + place) * 2;
                        out[at] = (result.re * factor) as f32;
                        out[at + 1] = (result.im * factor) as f32;
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Rng;

    #[test]
    fn agrees_with_the_definition() {
        let mut rng = Rng::new(9);
        for (blocks, length, bins, inner) in
            [(1, 1, 1, 1), (2, 8, 8, 1), (3, 15, 8, 2), (5, 1009, 20, 1), (9, 600, 301, 2)]
        {
            let x = rng.vec(blocks * inner * length * 2);
            let point = |block: usize, place: usize, i: usize| {
                let at = ((block * inner + place) * length + i) * 2;
                Complex { re: f64::from(x[at]), im: f64::from(x[at + 1]) }
            };
            for inverse in [false, true] {
                let mut out = vec![f32::NAN; blocks * bins * inner * 2];
                let load = |block: usize, place: usize, line: &mut [Complex<f64>]| {
                    line.iter_mut().enumerate().for_each(|(i, p)| *p = point(block, place, i));
                };
                Plan::new(length, inverse).run([blocks, bins, inner], load, &mut out);
                let (sign, factor) = if inverse { (1.0, 1.0 / length as f64) } else { (-1.0, 1.0) };
                for (at, got) in out.chunks_exact(2).enumerate() {
                    let (place, bin) = (at % inner, at / inner % bins);
                    let mut sum = Complex { re: 0.0, im: 0.0 };
                    for i in 0..length {
                        let turn = (i * bin % length) as f64 / length as f64;
                        let angle = sign * 2.0 * std::f64::consts::PI * turn;
                        sum += point(at / inner / bins, place, i) * Complex::cis(angle);
                    }
                    let wanted = [(sum.re * factor) as f32, (sum.im * factor) as f32];
                    for (got, wanted) in got.iter().zip(wanted) {
                        assert!((got - wanted).abs() < 1e-5, "{length} at {at}: {got}, {wanted}");
                    }
                }
            }
        }
    }
}
