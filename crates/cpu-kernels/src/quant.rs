//! Quantise and dequantise arrays, with one scale or one per index of an axis.
//!
//! Numbers are divided (not multiplied by a rounded reciprocal), rounded to even, shifted by the
//! zero point and clamped, a vector at a time.

use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::Shared;
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;

/// Numbers that a task takes.
const GRAIN: usize = 16 << 10;

/// Scales and zero points along the middle axis of `[outer, axis, inner]`. One entry serves all.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// One scale, or one for each index of the axis.
    pub scale: &'a [f32],
    /// The zero points, as many as scales; empty means zero.
    pub zero: &'a [i32],
    /// The shape.
    pub shape: [usize; 3],
}

impl Scales<'_> {
    /// The scale and zero point of entry `i` of the axis.
    fn at(&self, i: usize) -> (f32, i32) {
        let pick = |n: usize| if n == 1 { 0 } else { i };
        let zero = if self.zero.is_empty() { 0 } else { self.zero[pick(self.zero.len())] };
        (self.scale[pick(self.scale.len())], zero)
    }

    /// Calls `f(start, len, scale, zero)` for stretches of equal scale, in parallel.
    fn each(&self, have: usize, f: impl Fn(usize, usize, f32, i32) + Sync + Send) {
        let [outer, axis, inner] = self.shape;
        let total = outer * axis * inner;
        assert!(have >= total, "slice too short");
        if total == 0 {
            return;
        }
        let (n, z) = (self.scale.len(), self.zero.len());
        assert!((n == 1 || n >= axis) && (z <= 1 || z >= axis), "one scale for each index");
        if n == 1 && z <= 1 {
            let (scale, zero) = self.at(0);
            for_ranges(total, GRAIN, |start, len| f(start, len, scale, zero));
        } else {
            for_ranges(outer * axis, GRAIN / inner, |start, len| {
                for r in start..start + len {
                    let (scale, zero) = self.at(r % axis);
                    f(r * inner, inner, scale, zero);
                }
            });
        }
    }
}

/// Codes that kernels read as whole numbers.
pub trait Code: Copy + Send + Sync + Into<i32> {
    /// Up to a vector of codes, widened; missing lanes are zero.
    fn loads<S: Simd>(s: S, x: &[Self]) -> S::I;
}

/// An 8-bit result.
pub trait Byte: Code {
    /// Least and greatest number.
    const RANGE: (i32, i32);
    /// Writes the low byte of as many lanes as there is room for.
    fn stores<S: Simd>(s: S, y: &mut [Self], v: S::I);
}

impl Code for i32 {
    #[inline(always)]
    fn loads<S: Simd>(s: S, x: &[i32]) -> S::I {
        if x.len() >= S::LANES {
            // SAFETY: the slice holds a whole vector.
            return unsafe { s.iload(x.as_ptr()) };
        }
        let mut whole = [0; 16];
        whole[..x.len()].copy_from_slice(x);
        // SAFETY: a vector has at most sixteen lanes.
        unsafe { s.iload(whole.as_ptr()) }
    }
}

impl Code for u8 {
    #[inline(always)]
    fn loads<S: Simd>(s: S, x: &[u8]) -> S::I {
        // SAFETY: no more bytes are read than the slice has.
        unsafe { s.load_u8(x.as_ptr(), x.len().min(S::LANES)) }
    }
}

impl Byte for u8 {
    const RANGE: (i32, i32) = (0, 255);
    #[inline(always)]
    fn stores<S: Simd>(s: S, y: &mut [u8], v: S::I) {
        // SAFETY: no more bytes are written than the slice has.
        unsafe { s.store_u8(y.as_mut_ptr(), v, y.len().min(S::LANES)) }
    }
}

impl Code for i8 {
    #[inline(always)]
    fn loads<S: Simd>(s: S, x: &[i8]) -> S::I {
        // SAFETY: no more bytes are read than the slice has.
        unsafe { s.load_i8(x.as_ptr(), x.len().min(S::LANES)) }
    }
}

impl Byte for i8 {
    const RANGE: (i32, i32) = (-128, 127);
    #[inline(always)]
    fn stores<S: Simd>(s: S, y: &mut [i8], v: S::I) {
        // SAFETY: no more bytes are written than the slice has.
        unsafe { s.store_u8(y.as_mut_ptr().cast(), v, y.len().min(S::LANES)) }
    }
}

/// By a factor where `DIVIDE` does not hold.
struct Quantize<'a, T, const DIVIDE: bool>(&'a [f32], &'a mut [T], f32, i32);

impl<T: Byte, const DIVIDE: bool> Kernel for Quantize<'_, T, DIVIDE> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Quantize(x, y, scale, zero) = self;
        let scale = s.splat(scale);
        let limit = |v: i32| s.splat((v - zero) as f32);
        let (lo, hi) = (limit(T::RANGE.0), limit(T::RANGE.1));
        for (x, y) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
            // Clamped before the conversion, which rounds: the limits are whole numbers.
            let x = s.loads_tail(x);
            let v = if DIVIDE { s.div(x, scale) } else { s.mul(x, scale) };
            let v = s.to_int(s.min(hi, s.max(lo, v)));
            T::stores(s, y, s.iadd(v, s.isplat(zero)));
        }
    }
}

/// `y = saturate(round(x / scale) + zero)`, ties to even.
pub fn quantize_linear<T: Byte>(isa: Isa, x: &[f32], p: &Scales<'_>, y: &mut [T]) {
    let have = x.len().min(y.len());
    let y = Shared::new(y);
    p.each(have, |start, len, scale, zero| {
        // SAFETY: the stretches are disjoint.
        let y = unsafe { y.slice(start, len) };
        isa.dispatch(Quantize::<T, true>(&x[start..start + len], y, scale, zero));
    });
}

/// `y = saturate(round(x factor) + zero)`, ties to even.
pub fn multiply<T: Byte>(isa: Isa, x: &[f32], factor: f32, zero: i32, y: &mut [T]) {
    assert!(y.len() <= x.len(), "input too short");
    let n = y.len();
    let out = Shared::new(y);
    for_ranges(n, GRAIN, |start, len| {
        // SAFETY: the ranges are disjoint.
        let y = unsafe { out.slice(start, len) };
        isa.dispatch(Quantize::<T, false>(&x[start..start + len], y, factor, zero));
    });
}

struct Dequantize<'a, T>(&'a [T], &'a mut [f32], f32, i32);

impl<T: Code> Kernel for Dequantize<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Dequantize(x, y, scale, zero) = self;
        let (scale, zero) = (s.splat(scale), s.isplat(zero));
        for (x, y) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
            let v = s.mul(s.to_float(s.isub(T::loads(s, x), zero)), scale);
            s.stores_tail(y, v);
        }
    }
}

/// `y = (x - zero) * scale` for u8, i8 or i32.
pub fn dequantize_linear<T: Code>(isa: Isa, x: &[T], p: &Scales<'_>, y: &mut [f32]) {
    let have = x.len().min(y.len());
    let y = Shared::new(y);
    p.each(have, |start, len, scale, zero| {
        // SAFETY: the stretches are disjoint.
        let y = unsafe { y.slice(start, len) };
        isa.dispatch(Dequantize(&x[start..start + len], y, scale, zero));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Rng;

    #[test]
    fn exact_both_ways() {
        let mut rng = Rng::new(8);
        for shape in [[1, 1, 1], [2, 3, 5], [1, 1, 100_003], [3, 7, 1], [2, 4, 33], [0, 1, 2]] {
            let n = shape.iter().product();
            let x: Vec<f32> = rng.vec(n).iter().map(|v| v * 40.0).collect();
            let scale: Vec<f32> = (0..shape[1]).map(|i| 0.25 / (i + 1) as f32).collect();
            let zero: Vec<i32> = (0..shape[1]).map(|i| i as i32 * 9).collect();
            for p in [
                Scales { scale: &scale, zero: &zero, shape },
                Scales { scale: &scale[..1], zero: &[], shape },
            ] {
                for isa in Isa::available() {
                    let (mut u, mut i) = (vec![0u8; n], vec![0i8; n]);
                    quantize_linear(isa, &x, &p, &mut u);
                    quantize_linear(isa, &x, &p, &mut i);
                    let (mut du, mut di) = (vec![0.0; n], vec![0.0; n]);
                    dequantize_linear(isa, &u, &p, &mut du);
                    dequantize_linear(isa, &i, &p, &mut di);
                    for k in 0..n {
                        let (s, z) = p.at(k / shape[2] % shape[1]);
                        let q = (x[k] / s).round_ties_even() + z as f32;
                        assert_eq!(f32::from(u[k]), q.clamp(0.0, 255.0));
                        assert_eq!(f32::from(i[k]), q.clamp(-128.0, 127.0));
                        assert_eq!(du[k], (i32::from(u[k]) - z) as f32 * s);
                        assert_eq!(di[k], (i32::from(i[k]) - z) as f32 * s);
                    }
                }
            }
        }
    }
}
