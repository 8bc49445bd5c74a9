//! Vector sine, cosine and inverse tangent.
//!
//! As in `math`: the argument is reduced to a short interval, where one polynomial serves. Its
//! coefficients are Chebyshev fits that we computed with 40 digits (`chebyfit` of mpmath).

use std::f32::consts::{FRAC_2_PI, FRAC_PI_2, FRAC_PI_4};

use super::math::poly;
use super::simd::Simd;

/// π/2 in four parts; the first three have so few bits that a whole number below 2^13 times each
/// is exact.
const HALF_PI: [f32; 4] = [1.570_312_5, 4.837_513e-4, 7.549_533_6e-8, 2.563_344e-12];
/// Above this the reduction loses digits, and single lanes are computed by the standard library.
const REDUCED_MAX: f32 = 12_000.0;

/// Sine of `x + quarters π/2`.
#[inline(always)]
fn shifted_sin<S: Simd>(s: S, x: S::F, quarters: i32) -> S::F {
    let n = s.round(s.mul(x, s.splat(FRAC_2_PI)));
    let mut r = x;
    for part in HALF_PI {
        r = s.fma(n, s.splat(-part), r);
    }
    let n = s.iadd(s.to_int(n), s.isplat(quarters));
    let z = s.mul(r, r);
    let sin = poly(s, z, [-0.166_666_65, 0.008_332_748, -1.958_789e-4]);
    let sin = s.fma(s.mul(r, z), sin, r);
    let cos = poly(s, z, [0.041_666_664, -0.001_388_830_3, 2.454_794_2e-5]);
    let cos = s.fma(s.mul(z, z), cos, s.fma(s.splat(-0.5), z, s.splat(1.0)));
    // Odd quarters take the cosine; the upper two of four change the sign.
    let odd = s.to_float(s.iand(n, s.isplat(1)));
    let v = s.select(s.lt(s.splat(0.5), odd), cos, sin);
    let sign = s.shl::<30>(s.iand(n, s.isplat(2)));
    s.of_bits(s.iadd(s.bits(v), sign))
}

/// `slow` for the lanes that are too large for the reduction.
#[inline(always)]
fn reduced<S: Simd>(s: S, x: S::F, quarters: i32, slow: fn(f32) -> f32) -> S::F {
    let fast = shifted_sin(s, x, quarters);
    let large = s.lt(s.splat(REDUCED_MAX), s.abs(x));
    if s.any(large) {
        // Only the large ones, so that no result depends on its neighbours.
        return s.select(large, s.loads(&s.to_array(x).map(slow)), fast);
    }
    fast
}

/// Sine.
#[inline(always)]
pub(crate) fn sin_v<S: Simd>(s: S, x: S::F) -> S::F {
    // -0 stays -0, which the reduction loses.
    let v = reduced(s, x, 0, f32::sin);
    s.select(s.lt(s.splat(0.0), s.abs(x)), v, x)
}

/// Cosine.
#[inline(always)]
pub(crate) fn cos_v<S: Simd>(s: S, x: S::F) -> S::F {
    reduced(s, x, 1, f32::cos)
}

/// Inverse tangent.
#[inline(always)]
pub(crate) fn atan_v<S: Simd>(s: S, x: S::F) -> S::F {
    let (a, one) = (s.abs(x), s.splat(1.0));
    // tan(3π/8) and tan(π/8): above the one 1/x, between both (x-1)/(x+1).
    let (high, middle) = (s.lt(s.splat(2.414_213_7), a), s.lt(s.splat(0.414_213_57), a));
    let num = s.select(high, s.splat(-1.0), s.select(middle, s.sub(a, one), a));
    let den = s.select(high, a, s.select(middle, s.add(a, one), one));
    let base = s.select(high, s.splat(FRAC_PI_2), s.splat(FRAC_PI_4));
    let base = s.select(middle, base, s.splat(0.0));
    let t = s.div(num, den);
    let z = s.mul(t, t);
    let p = poly(s, z, [-0.333_333_3, 0.199_995_4, -0.142_639_56, 0.107_437_31, -0.064_519_28]);
    let small = s.fma(s.mul(t, z), p, t);
    s.copysign(s.add(base, small), x)
}
