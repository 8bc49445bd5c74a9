//! What the processor reaches at best: the measure that kernels are held against.

use std::time::Instant;

use super::isa::{Isa, Kernel};
use super::scratch::{AlignedBuf, Shared};
use super::simd::Simd;
use super::threads::{for_each, threads};

/// Sums that do not wait for each other: enough to hide the latency of a multiply-add on two ports,
/// and few enough for 16 registers.
const SUMS: usize = 12;
/// Steps of one round: about 30 µs.
const STEPS: usize = 4 << 10;
/// Rounds; the best one counts.
const ROUNDS: usize = 200;
/// Floats of each of two arrays for the bandwidth: 64 MiB, more than most caches.
const FLOATS: usize = 16 << 20;
/// Copies of the arrays; the best one counts.
const COPIES: usize = 5;

struct Sums(f32);

impl Kernel for Sums {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (a, b) = (s.splat(self.0), s.splat(1.0 - self.0));
        let mut sums = [s.splat(0.0); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = s.fma(*sum, a, b);
            }
        }
        let mut out = [0.0; 16];
        let all = sums.into_iter().fold(s.splat(0.0), |all, sum| s.add(all, sum));
        s.stores_tail(&mut out[..S::LANES], all);
        out[0]
    }
}

/// Operations on f32 per second (a multiply-add is two) that all threads of this call reach
/// together with the vectors of `isa`, measured in some milliseconds.
pub fn flops(isa: Isa) -> f64 {
    let lanes = match isa {
        Isa::Portable => 4,
        Isa::Avx2 => 8,
        Isa::Avx512 => 16,
    };
    let round = || {
        let begun = Instant::now();
        for_each(threads(), true, |_| {
            std::hint::black_box(isa.dispatch(Sums(std::hint::black_box(0.5))));
        });
        begun.elapsed().as_secs_f64()
    };
    let best = (0..ROUNDS).map(|_| round()).fold(f64::MAX, f64::min);
    (threads() * STEPS * SUMS * lanes * 2) as f64 / best
}

/// Bytes per second that all threads of this call read and write together when they copy arrays
/// that no cache holds; measured in about a tenth of a second.
pub fn bandwidth() -> f64 {
    let from = AlignedBuf::zeroed(FLOATS);
    let mut to = AlignedBuf::zeroed(FLOATS);
    let (parts, out) = (4 * threads(), Shared::new(to.as_mut_slice()));
    let size = FLOATS / parts;
    let round = || {
        let begun = Instant::now();
        for_each(parts, true, |part| {
            // SAFETY: each part is written by one task, and is inside.
            let out = unsafe { out.slice(part * size, size) };
            out.copy_from_slice(&from.as_slice()[part * size..][..size]);
        });
        begun.elapsed().as_secs_f64()
    };
    let best = (0..COPIES).map(|_| round()).fold(f64::MAX, f64::min);
    (2 * parts * size * size_of::<f32>()) as f64 / best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::with;

    #[test]
    fn wider_vectors_reach_more() {
        let measured: Vec<f64> =
            Isa::available().into_iter().map(|isa| with(1, || flops(isa))).collect();
        // The machine may be busy: what must hold is far from what is measured.
        assert!(measured.iter().all(|&flops| flops > 1e8), "{measured:?}");
        assert!(with(1, bandwidth) > 1e8);
    }
}
