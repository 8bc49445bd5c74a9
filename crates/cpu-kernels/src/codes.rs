//! Sums and products of 8-bit codes, vectorised.
//!
//! Against a plain loop: the loop is compiled for the instruction set, so that widening, rounding
//! and the fused multiply-add are one instruction each instead of a call into the maths library.

use super::quant::{Byte, Code, multiply};
use hetra_cpu_base::isa::{Isa, Kernel, detected};
use hetra_cpu_base::scratch::Shared;
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;

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
    /// How often a stretch of b serves, and how many codes it has.
    repeat: usize,
    inner: usize,
    /// The operands changed places.
    swapped: bool,
}

impl<T: Byte> Kernel for Rows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut done = 0;
        while done < self.y.len() {
            let at = self.start + done;
            // A run stays within what one stretch of b serves, unless each output has its own.
            let (within, from) = match (self.repeat, self.inner) {
                (1, _) => (usize::MAX, at),
                (repeat, 1) => (repeat - at % repeat, at / repeat),
                (repeat, inner) => (inner - at % inner, at / (repeat * inner) * inner + at % inner),
            };
            let n = (self.y.len() - done).min(within);
            let (a, y) = (&self.a[at..at + n], &mut self.y[done..done + n]);
            let pair = Pair { op: self.op, swapped: self.swapped };
            if self.repeat == 1 || self.inner > 1 {
                let b = &self.b[from..from + n];
                let (a_whole, b_whole) = (a.chunks_exact(S::LANES), b.chunks_exact(S::LANES));
                let rest = (a_whole.remainder(), b_whole.remainder());
                let mut whole = y.chunks_exact_mut(S::LANES);
                for ((a, b), y) in a_whole.zip(b_whole).zip(whole.by_ref()) {
                    pair.write(s, T::loads(s, a), T::loads(s, b), y);
                }
                let y = whole.into_remainder();
                pair.write(s, T::loads(s, rest.0), T::loads(s, rest.1), y);
            } else {
                let b = s.isplat(self.b[from].into());
                for (a, y) in a.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
                    pair.write(s, T::loads(s, a), b, y);
                }
            }
            done += n;
        }
    }
}

/// What is done with a vector of codes of both operands.
#[derive(Clone, Copy)]
struct Pair {
    op: CodeOp,
    swapped: bool,
}

impl Pair {
    #[inline(always)]
    fn write<S: Simd, T: Byte>(self, s: S, a: S::I, b: S::I, y: &mut [T]) {
        let (a, b) = if self.swapped { (b, a) } else { (a, b) };
        let v = self.op.vector(s, s.to_float(a), s.to_float(b));
        // Limited while they are floats, so that the conversion cannot wrap.
        let (lo, hi) = (s.splat(T::RANGE.0 as f32), s.splat(T::RANGE.1 as f32));
        T::stores(s, y, s.to_int(s.min(hi, s.max(lo, v))));
    }
}

/// `y = op(a, b)` where each stretch of `inner` codes of `b` serves `a.len() / b.len()` of `a` that
/// follow each other; `swapped`: `y = op(b, a)`. Panics if the lengths do not divide or `y` is too
/// short.
pub fn code_op<T: Byte>(
    isa: Isa,
    op: CodeOp,
    a: &[T],
    (b, inner): (&[T], usize),
    swapped: bool,
    y: &mut [T],
) {
    if a.is_empty() {
        return;
    }
    let divide = !b.is_empty() && a.len().is_multiple_of(b.len());
    assert!(divide && inner > 0 && b.len().is_multiple_of(inner), "lengths that do not divide");
    assert!(y.len() >= a.len(), "output too short");
    let repeat = a.len() / b.len();
    let out = Shared::new(y);
    for_ranges(a.len(), GRAIN, |start, len| {
        // SAFETY: the ranges are disjoint.
        let y = unsafe { out.slice(start, len) };
        isa.dispatch(Rows { op, a, b, y, start, repeat, inner, swapped });
    });
}

/// `y[i] = table[x[i]]`. Panics if `y` is not as long as `x`.
pub fn look_up(isa: Isa, table: &[u8; 256], x: &[u8], y: &mut [u8]) {
    assert_eq!(x.len(), y.len(), "one output for each code");
    let out = Shared::new(y);
    for_ranges(x.len(), 4 * GRAIN, |start, len| {
        // SAFETY: the ranges are disjoint.
        let (x, y) = (&x[start..start + len], unsafe { out.slice(start, len) });
        #[cfg(target_arch = "x86_64")]
        if isa.min(detected()) == Isa::Avx512 && is_x86_feature_detected!("avx512vbmi") {
            // SAFETY: the machine has what AVX-512 means here, and the table instructions.
            return unsafe { look_up_vbmi(table, x, y) };
        }
        let _ = isa;
        for (y, &code) in y.iter_mut().zip(x) {
            *y = table[usize::from(code)];
        }
    });
}

/// The table in four registers: two look-ups of 128 entries, of which the top bit takes one.
///
/// # Safety
/// The machine must have AVX-512 F, BW and VBMI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn look_up_vbmi(table: &[u8; 256], x: &[u8], y: &mut [u8]) {
    use std::arch::x86_64::*;
    // SAFETY: the table has four times 64 bytes; the codes are read and written by chunks of at
    // most 64, as far as the mask goes.
    unsafe {
        let part = |i: usize| _mm512_loadu_si512(table.as_ptr().add(64 * i).cast());
        let (a, b, c, d) = (part(0), part(1), part(2), part(3));
        for (x, y) in x.chunks(64).zip(y.chunks_mut(64)) {
            let mask = if x.len() == 64 { !0 } else { (1u64 << x.len()) - 1 };
            let codes = _mm512_maskz_loadu_epi8(mask, x.as_ptr().cast());
            let low = _mm512_permutex2var_epi8(a, codes, b);
            let high = _mm512_permutex2var_epi8(c, codes, d);
            let found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), low, high);
            _mm512_mask_storeu_epi8(y.as_mut_ptr().cast(), mask, found);
        }
    }
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

struct Columns<'a, T> {
    x: &'a [T],
    /// Codes from one row to the next.
    step: usize,
    fixed: i32,
    means: &'a mut [f32],
}

impl<T: Code> Kernel for Columns<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.means.len();
        for (i, means) in self.means.chunks_mut(S::LANES).enumerate() {
            let at = i * S::LANES;
            let mut acc = s.isplat(self.fixed);
            for row in self.x.chunks(self.step) {
                acc = s.iadd(acc, T::loads(s, &row[at..(at + S::LANES).min(n)]));
            }
            s.stores_tail(means, s.to_float(acc));
        }
    }
}

/// As `plane_means` of `[batch, rows, c]`, over the rows. Panics if lengths do not fit, or sums of
/// so many rows are beyond 32 bits.
pub fn row_means<T: Byte>(
    isa: Isa,
    x: &[T],
    [batch, rows, c]: [usize; 3],
    zero: i32,
    (factor, to): (f32, i32),
    y: &mut [T],
) {
    assert!(x.len() == batch * rows * c && y.len() == batch * c, "lengths do not fit");
    assert!(rows <= ROWS_MAX, "more rows than sums have room for");
    // Columns of one task.
    const WIDE: usize = 64;
    let parts = c.div_ceil(WIDE);
    let out = Shared::new(y);
    for_ranges(batch * parts, GRAIN / (rows * WIDE).max(1), |start, len| {
        for p in start..start + len {
            let (image, c0) = (p / parts, p % parts * WIDE);
            let n = WIDE.min(c - c0);
            let mut means = [0.0f32; WIDE];
            let x = &x[image * rows * c..(image + 1) * rows * c];
            let fixed = -(zero * rows as i32);
            let x = x.get(c0..).unwrap_or_default();
            isa.dispatch(Columns { x, step: c, fixed, means: &mut means[..n] });
            // SAFETY: the columns are disjoint.
            let y = unsafe { out.slice(image * c + c0, n) };
            multiply(isa, &means[..n], factor, to, y);
        }
    });
}

/// Rows of codes whose sums fit in 32 bits.
pub const ROWS_MAX: usize = 1 << 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_looked_up() {
        let table: [u8; 256] = std::array::from_fn(|i| (i * 167 + 13) as u8);
        for len in [0, 1, 63, 64, 65, 1000, 70_001] {
            let x: Vec<u8> = (0..len).map(|i| (i * 31 % 256) as u8).collect();
            for isa in Isa::available() {
                let mut y = vec![0; len];
                look_up(isa, &table, &x, &mut y);
                assert!(x.iter().zip(&y).all(|(x, y)| *y == table[usize::from(*x)]), "{len}");
            }
        }
    }

    #[test]
    fn means_of_rows_are_those_of_planes() {
        for (batch, rows, c) in [(1, 49, 200), (2, 1, 3), (3, 17, 64), (1, 5, 130)] {
            let x: Vec<i8> = (0..batch * rows * c).map(|i| (i * 89 % 256) as u8 as i8).collect();
            let place = |i: usize| (i / (rows * c) * rows + i % rows) * c + i / rows % c;
            let planes: Vec<i8> = (0..x.len()).map(|i| x[place(i)]).collect();
            let mut want = vec![0i8; batch * c];
            for isa in Isa::available() {
                plane_means(isa, &planes, -5, 0.7 / rows as f32, 3, &mut want);
                let mut got = vec![0i8; batch * c];
                row_means(isa, &x, [batch, rows, c], -5, (0.7 / rows as f32, 3), &mut got);
                assert_eq!(got, want, "{isa:?} {batch} {rows} {c}");
            }
        }
    }

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
                    for (other, inner) in [(&b, 1), (&few, 1), (&few, 256), (&few, 32)] {
                        let mut y = vec![0u8; a.len()];
                        code_op(isa, op, &a, (other, inner), swapped, &mut y);
                        let repeat = a.len() / other.len();
                        for (i, got) in y.iter().enumerate() {
                            let from = i / (repeat * inner) * inner + i % inner;
                            let (p, q) = (f32::from(a[i]), f32::from(other[from]));
                            let (p, q) = if swapped { (q, p) } else { (p, q) };
                            assert_eq!(*got, plain(op, p, q).round_ties_even() as u8);
                        }
                    }
                }
            }
        }
    }
}
