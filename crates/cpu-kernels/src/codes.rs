//! Sums and products of 8-bit codes, vectorised.
//!
//! Against a plain loop: the loop is compiled for the instruction set, so that widening, rounding
//! and the fused multiply-add are one instruction each instead of a call into the maths library.

use super::isa::{Isa, Kernel};
use super::quant::{Byte, Code, multiply};
use super::scratch::Shared;
use super::simd::Simd;
use super::threads::for_ranges;

/// Numbers that a task makes.
const GRAIN: usize = 16 << 10;

/// A function of two codes, rounded (ties to even) and saturated.
#[derive(Clone, Copy, Debug)]
pub enum CodeOp {
    /// `b ratio_b + (a ratio_a + fixed)`, both by fused multiply-add.
    Sum {
        /// Factor of the first code.
        ratio_a: f32,
        /// Factor of the second code.
        ratio_b: f32,
        /// The sum of two codes of 0.
        fixed: f32,
    },
    /// `(a - za) (b - zb) factor + zy`.
    Product {
        /// Factor of the product.
        factor: f32,
        /// za, zb, zy.
        zeros: [f32; 3],
    },
}

impl CodeOp {
    #[inline(always)]
    fn vector<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F {
        match self {
            CodeOp::Sum { ratio_a, ratio_b, fixed } => {
                s.fma(b, s.splat(ratio_b), s.fma(a, s.splat(ratio_a), s.splat(fixed)))
            }
            CodeOp::Product { factor, zeros: [za, zb, zy] } => {
                let product = s.mul(s.sub(a, s.splat(za)), s.sub(b, s.splat(zb)));
                s.add(s.mul(product, s.splat(factor)), s.splat(zy))
            }
        }
    }
}

struct Rows<'a, T> {
    op: CodeOp,
    a: &'a [T],
    b: &'a [T],
    y: &'a mut [T],
    /// Index of the first output in the whole.
    start: usize,
    /// Outputs that one code of b serves.
    repeat: usize,
    /// The operands changed places.
    swapped: bool,
}

impl<T: Byte> Kernel for Rows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (lo, hi) = (s.splat(T::RANGE.0 as f32), s.splat(T::RANGE.1 as f32));
        let mut done = 0;
        while done < self.y.len() {
            let at = self.start + done;
            // A piece stays within what one code of b serves, unless each output has its own.
            let within = if self.repeat == 1 { usize::MAX } else { self.repeat - at % self.repeat };
            let n = S::LANES.min(self.y.len() - done).min(within);
            let a = s.to_float(T::loads(s, &self.a[at..at + n]));
            let b = if self.repeat == 1 {
                s.to_float(T::loads(s, &self.b[at..at + n]))
            } else {
                let code: i32 = self.b[at / self.repeat].into();
                s.splat(code as f32)
            };
            let (a, b) = if self.swapped { (b, a) } else { (a, b) };
            let v = s.min(hi, s.max(lo, self.op.vector(s, a, b)));
            T::stores(s, &mut self.y[done..done + n], s.to_int(v));
            done += n;
        }
    }
}

/// `y = op(a, b)` where each code of `b` serves `a.len() / b.len()` neighbours of `a`; `swapped`:
/// `y = op(b, a)`. Panics if the lengths do not divide or `y` is too short.
pub fn code_op<T: Byte>(isa: Isa, op: CodeOp, a: &[T], b: &[T], swapped: bool, y: &mut [T]) {
    if a.is_empty() {
        return;
    }
    assert!(!b.is_empty() && a.len().is_multiple_of(b.len()), "lengths that do not divide");
    assert!(y.len() >= a.len(), "output too short");
    let repeat = a.len() / b.len();
    let out = Shared::new(y);
    for_ranges(a.len(), GRAIN, |start, len| {
        // SAFETY: the ranges are disjoint.
        let y = unsafe { out.slice(start, len) };
        isa.dispatch(Rows { op, a, b, y, start, repeat, swapped });
    });
}

struct Sum<'a, T>(&'a [T]);

impl<T: Code> Kernel for Sum<'_, T> {
    type Output = i64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> i64 {
        let mut sum = 0;
        // So many codes cannot overflow a lane.
        for part in self.0.chunks(1 << 20) {
            let mut acc = s.isplat(0);
            for codes in part.chunks(S::LANES) {
                acc = s.iadd(acc, T::loads(s, codes));
            }
            let mut lanes = [0i32; 16];
            // SAFETY: a vector has at most sixteen lanes.
            unsafe { s.istore(lanes.as_mut_ptr(), acc) };
            sum += lanes.iter().map(|&v| i64::from(v)).sum::<i64>();
        }
        sum
    }
}

/// `y[p] = saturate(round((Σ x - n zero) factor) + to)` over the `n` codes of plane `p`; there are
/// as many planes as outputs. Panics if they are not of one length.
pub fn plane_means<T: Byte>(isa: Isa, x: &[T], zero: i32, factor: f32, to: i32, y: &mut [T]) {
    let planes = y.len();
    assert!(x.len().is_multiple_of(planes.max(1)), "planes of different lengths");
    let each = x.len() / planes.max(1);
    let out = Shared::new(y);
    for_ranges(planes, GRAIN / each.max(1), |start, len| {
        let mut means = [0.0f32; 64];
        for at in (start..start + len).step_by(means.len()) {
            let count = means.len().min(start + len - at);
            for (p, mean) in (at..at + count).zip(&mut means) {
                let sum = isa.dispatch(Sum(&x[p * each..(p + 1) * each]));
                *mean = (sum - i64::from(zero) * each as i64) as f32;
            }
            // SAFETY: the ranges are disjoint.
            let y = unsafe { out.slice(at, count) };
            multiply(isa, &means[..count], factor, to, y);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(op: CodeOp, a: f32, b: f32) -> f32 {
        match op {
            CodeOp::Sum { ratio_a, ratio_b, fixed } => {
                b.mul_add(ratio_b, a.mul_add(ratio_a, fixed))
            }
            CodeOp::Product { factor, zeros: [za, zb, zy] } => ((a - za) * (b - zb)) * factor + zy,
        }
    }

    #[test]
    fn every_pair_of_codes_is_exact_on_every_instruction_set() {
        let sum = CodeOp::Sum { ratio_a: 0.849, ratio_b: 0.5227, fixed: -42.3 };
        let product = CodeOp::Product { factor: 0.0123, zeros: [100.0, 3.0, 77.0] };
        let a: Vec<u8> = (0..=255).flat_map(|v| [v; 256]).collect();
        let b: Vec<u8> = (0..256).flat_map(|_| 0..=255).collect();
        let few: Vec<u8> = (0..=255).collect();
        for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Portable) {
            for op in [sum, product] {
                for swapped in [false, true] {
                    for other in [&b, &few] {
                        let mut y = vec![0u8; a.len()];
                        code_op(isa, op, &a, other, swapped, &mut y);
                        let repeat = a.len() / other.len();
                        for (i, got) in y.iter().enumerate() {
                            let (p, q) = (f32::from(a[i]), f32::from(other[i / repeat]));
                            let (p, q) = if swapped { (q, p) } else { (p, q) };
                            assert_eq!(*got, plain(op, p, q).round_ties_even() as u8);
                        }
                    }
                }
            }
        }
    }
}
