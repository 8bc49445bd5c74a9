//! What the processor reaches at best: the measure that kernels are held against.

use std::time::Instant;

use super::amx;
use super::isa::{Isa, Kernel, with_bf16};
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

/// Sums of products of f32 numbers, or of pairs of bf16 numbers.
struct Sums<const PAIRS: bool>(f32);

impl<const PAIRS: bool> Kernel for Sums<PAIRS> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let a = s.splat(self.0);
        let mut sums = [s.splat(0.0); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = if PAIRS { s.dot_bf16(a, a, *sum) } else { s.fma(*sum, a, a) };
            }
        }
        let all = sums.into_iter().fold(s.splat(0.0), |all, sum| s.add(all, sum));
        s.hsum(all)
    }
}

/// Sums of products of bytes, and how many multiply-adds an instruction makes in a lane.
struct ByteSums(i32);

impl Kernel for ByteSums {
    type Output = (f32, usize);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, usize) {
        let a = s.isplat(self.0);
        let mut sums = [s.isplat(0); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = s.dot(a, a, *sum);
            }
        }
        let all = sums.into_iter().fold(s.isplat(0), |all, sum| s.iadd(all, sum));
        (s.hsum(s.to_float(all)), S::KG)
    }
}

/// Operations per second that all threads of this call reach together by a kernel that makes `each`
/// multiply-adds in a lane, of which there are so many in a vector.
fn rate(lanes: usize, each: usize, kernel: impl Fn() + Sync + Send) -> f64 {
    let round = || {
        let begun = Instant::now();
        for_each(threads(), true, |_| kernel());
        begun.elapsed().as_secs_f64()
    };
    let best = (0..ROUNDS).map(|_| round()).fold(f64::MAX, f64::min);
    (threads() * STEPS * SUMS * lanes * each * 2) as f64 / best
}

/// Operations on f32 per second (a multiply-add is two) that all threads of this call reach
/// together with the vectors of `isa`, measured in some milliseconds.
pub fn flops(isa: Isa) -> f64 {
    rate(isa.lanes(), 1, || {
        std::hint::black_box(isa.dispatch(Sums::<false>(std::hint::black_box(0.5))));
    })
}

/// The same on bf16 by the instructions for it; `None` where there are none, or matrix registers,
/// which are faster.
pub fn bf16_flops(isa: Isa) -> Option<f64> {
    let run = || with_bf16(Sums::<true>(std::hint::black_box(f32::from_bits(0x3f00_3f00))));
    if isa != Isa::Avx512 || amx::available() {
        return None;
    }
    run()?;
    Some(rate(isa.lanes(), 2, || {
        std::hint::black_box(run());
    }))
}

/// The same on bytes whose products are summed as i32.
pub fn byte_ops(isa: Isa) -> f64 {
    let run = || isa.dispatch(ByteSums(std::hint::black_box(0x0101_0101)));
    let (_, each) = run();
    rate(isa.lanes(), each, || {
        std::hint::black_box(run());
    })
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
        let others: Vec<f64> = Isa::available()
            .into_iter()
            .flat_map(|isa| with(1, || [bf16_flops(isa), Some(byte_ops(isa))]))
            .flatten()
            .collect();
        assert!(others.iter().all(|&ops| ops > 1e8), "{others:?}");
        assert!(with(1, bandwidth) > 1e8);
    }
}
