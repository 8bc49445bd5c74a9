//! Vector exp, log, tanh, sigmoid, erf and what is made of them.
//!
//! Idea: reduce the argument to a short interval, evaluate one polynomial with fused multiply-add,
//! undo the reduction with bit operations; no tables, no branches. The polynomials are Taylor
//! series or near-minimax fits that we computed (`chebyfit` of mpmath with 30 digits, or weighted
//! least squares on Chebyshev nodes).
//!
//! The test at the foot holds these bounds against f64, in units in the last place, wherever the
//! result is a normal number: exp 1.2, log 1.5, tanh 2.5, sigmoid and (from -87.33 on, it is 0
//! below) silu 2.5, erf 2.5, sine 2 (absolute 2e-7 away from 0), inverse tangent 3 with AVX2 and
//! AVX-512; the portable level, whose multiply-add rounds twice, may be one more.

use super::isa::{Isa, Kernel};
use super::scratch::Shared;
use super::simd::Simd;
use super::threads::for_ranges;
use super::trigonometry;

/// `c[0] + c[1] x + ...` by Horner's rule.
#[inline(always)]
pub fn poly<S: Simd, const N: usize>(s: S, x: S::F, c: [f32; N]) -> S::F {
    let mut acc = s.splat(c[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        acc = s.fma(acc, x, s.splat(c[i]));
    }
    acc
}

/// (e^r - 1 - r) / r² for |r| up to half of ln 2.
const EXP: [f32; 5] = [0.5, 0.166_665_18, 0.041_666_206, 0.008_368_883, 0.001_395_048_1];

/// e^x. Overflows to infinity, underflows through the subnormal numbers to 0.
#[inline(always)]
pub fn exp_v<S: Simd>(s: S, x: S::F) -> S::F {
    let (t, n) = exp_parts(s, x);
    s.scale(s.add(s.splat(1.0), t), n)
}

/// `t` and a whole `n` with `e^x = (1 + t) 2^n`; `n` is 0 near 0.
#[inline(always)]
fn exp_parts<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    // Beyond these bounds the result is 0 or infinity anyway; inside, the exponent halves fit.
    let x = s.min(s.splat(90.0), s.max(s.splat(-105.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts: the first has few bits, so that n times it is exact without fma too.
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let q = poly(s, r, EXP);
    (s.fma(s.mul(r, r), q, r), n)
}

/// `e^x - 1`, exact near 0, too.
#[inline(always)]
fn exp_m1_v<S: Simd>(s: S, x: S::F) -> S::F {
    let (t, n) = exp_parts(s, x);
    let one = s.splat(1.0);
    s.add(s.scale(t, n), s.sub(s.scale(one, n), one))
}

/// Natural logarithm; -infinity at 0, NaN below.
#[inline(always)]
pub fn log_v<S: Simd>(s: S, x: S::F) -> S::F {
    let tiny = s.lt(x, s.splat(f32::MIN_POSITIVE));
    // Subnormal numbers are scaled into the normal range first.
    let y = s.select(tiny, s.mul(x, s.splat(8_388_608.0)), x);
    let bits = s.bits(y);
    // The exponent for a mantissa in [√½, √2).
    let e = s.sar::<23>(s.isub(bits, s.isplat(0x3f35_04f3)));
    let m = s.of_bits(s.isub(bits, s.shl::<23>(e)));
    let e = s.add(s.to_float(e), s.select(tiny, s.splat(-23.0), s.splat(0.0)));
    // log m = 2 atanh((m-1)/(m+1)), written so that the big term f is exact.
    let f = s.sub(m, s.splat(1.0));
    let t = s.div(f, s.add(s.splat(2.0), f));
    let t2 = s.mul(t, t);
    let r = s.mul(t2, poly(s, t2, [2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0, 2.0 / 11.0]));
    let h = s.mul(s.splat(0.5), s.mul(f, f));
    // f - (h - t (h + r)) equals 2 t + t r.
    let low = s.fma(e, s.splat(-2.121_944_4e-4), s.mul(t, s.add(h, r)));
    let v = s.add(s.sub(f, s.sub(h, low)), s.splat(0.0));
    let v = s.fma(e, s.splat(0.693_359_4), v);
    let zero = s.splat(0.0);
    let v = s.select(s.lt(s.splat(f32::MAX), x), x, v);
    let v = s.select(s.lt(x, zero), s.splat(f32::NAN), v);
    let not_zero = s.lt(zero, s.abs(x));
    let v = s.select(not_zero, v, s.splat(f32::NEG_INFINITY));
    s.select(s.is_nan(x), x, v)
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh_v<S: Simd>(s: S, x: S::F) -> S::F {
    let a = s.abs(x);
    let z = s.mul(x, x);
    let p = poly(
        s,
        z,
        [-0.333_333_33, 0.133_333, -0.053_958_46, 0.021_762_503, -0.008_323_187, 0.002_269_501_7],
    );
    let small = s.fma(s.mul(x, z), p, x);
    // Far out the result is 1 whatever e is.
    let e = exp_neg_v(s, s.max(s.splat(-NORMAL), s.mul(s.splat(-2.0), a)));
    let one = s.splat(1.0);
    let big = s.fma(s.splat(-2.0), s.recip(s.add(e, one)), one);
    let big = s.copysign(big, x);
    // The fit ends at x² = 0.4; NaN takes the polynomial and stays NaN.
    s.select(s.lt(s.splat(0.39), z), big, small)
}

/// The exponents for which e^x and e^-x are both normal numbers reach to both sides this far.
const NORMAL: f32 = 87.33;

/// e^-x for `x` in -87.33..=87.33, where it is a normal number; anything for NaN.
#[inline(always)]
fn exp_neg_v<S: Simd>(s: S, x: S::F) -> S::F {
    // A sum this large has no bits behind the point: it is rounded, and ends with the integer.
    let magic = s.splat(12_582_912.0);
    let t = s.fma(x, s.splat(-std::f32::consts::LOG2_E), magic);
    let n = s.sub(t, magic);
    // The remainder with its sign turned, x + n ln 2, by ln 2 in two parts as in `exp_v`.
    let r = s.fma(n, s.splat(0.693_359_4), x);
    let r = s.fma(n, s.splat(-2.121_944_4e-4), r);
    let [a, b, c, d, e] = EXP;
    let q = poly(s, r, [-a, b, -c, d, -e]);
    let p = s.sub(s.splat(1.0), s.fma(s.mul(r, r), q, r));
    s.of_bits(s.iadd(s.bits(p), s.shl::<23>(s.bits(t))))
}

/// y / (1 + e^-x), or 0 where x is so far below 0 that the quotient of 1 is no normal number.
/// `y` is NaN where `x` is.
#[inline(always)]
fn times_sigmoid_v<S: Simd>(s: S, y: S::F, x: S::F) -> S::F {
    let (low, high) = (s.splat(-NORMAL), s.splat(NORMAL));
    let e = exp_neg_v(s, s.min(high, s.max(low, x)));
    let y = s.select(s.lt(x, low), s.splat(0.0), y);
    s.mul(y, s.recip(s.add(s.splat(1.0), e)))
}

/// 1 / (1 + e^-x); 0 where that is below the normal numbers.
#[inline(always)]
pub fn sigmoid_v<S: Simd>(s: S, x: S::F) -> S::F {
    // Not left to the sum: its bits may be read as an exponent.
    s.select(s.is_nan(x), x, times_sigmoid_v(s, s.splat(1.0), x))
}

/// x / (1 + e^-x); 0 where x is below -87.33.
#[inline(always)]
pub fn silu_v<S: Simd>(s: S, x: S::F) -> S::F {
    times_sigmoid_v(s, x, x)
}

/// The error function.
#[inline(always)]
pub fn erf_v<S: Simd>(s: S, x: S::F) -> S::F {
    let a = s.abs(x);
    let z = s.mul(x, x);
    let p = poly(
        s,
        z,
        [
            std::f32::consts::FRAC_2_SQRT_PI,
            -0.376_126_38,
            0.112_837_83,
            -0.026_865_43,
            0.005_221_032,
            -8.484_081e-4,
            1.126_595_9e-4,
            -9.667_044e-6,
        ],
    );
    let small = s.mul(x, p);
    // Above 0.95: 1 - e^-q, with q a fit of -log erfc; erf is 1 from 4 on.
    let b = s.min(s.splat(4.1), a);
    let q = poly(
        s,
        b,
        [
            -0.000_399_866_4,
            1.130_612_1,
            0.631_055_26,
            0.110_963_3,
            -0.027_049_633,
            0.005_048_070_4,
            -6.823_637e-4,
            6.190_031e-5,
            -3.302_251e-6,
            7.583_6e-8,
        ],
    );
    let big = s.copysign(s.sub(s.splat(1.0), exp_neg_v(s, q)), x);
    s.select(s.lt(s.splat(0.95), a), big, small)
}

/// x (1 + erf(x / √2)) / 2.
#[inline(always)]
pub fn gelu_v<S: Simd>(s: S, x: S::F) -> S::F {
    let e = erf_v(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
    s.mul(s.mul(s.splat(0.5), x), s.add(s.splat(1.0), e))
}

/// x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, as x sigmoid(2 ·).
#[inline(always)]
pub fn gelu_tanh_v<S: Simd>(s: S, x: S::F) -> S::F {
    let c = s.fma(s.mul(x, x), s.splat(0.044_715), s.splat(1.0));
    let u = s.mul(s.mul(x, s.splat(1.595_769)), c);
    times_sigmoid_v(s, x, u)
}

/// A vectorised function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Func {
    /// e^x.
    Exp,
    /// Natural logarithm.
    Log,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// The error function.
    Erf,
    /// x (1 + erf(x / √2)) / 2.
    Gelu,
    /// The tanh form of gelu.
    GeluTanh,
    /// x sigmoid(x).
    Silu,
    /// x sigmoid(a x).
    Swish(f32),
    /// x tanh(log(1 + e^x)).
    Mish,
    /// log(1 + e^x).
    Softplus,
    /// x where positive, else a (e^x - 1).
    Elu(f32),
    /// Square root.
    Sqrt,
    /// 1 / √x.
    Rsqrt,
    /// 1 / x.
    Reciprocal,
    /// |x|.
    Abs,
    /// -x.
    Neg,
    /// x².
    Square,
    /// Nearest integer, ties to even.
    Round,
    /// Greatest integer not above.
    Floor,
    /// Least integer not below.
    Ceil,
    /// x / (1 + |x|).
    Softsign,
    /// x where above a or no number, else 0.
    Threshold(f32),
    /// x³.
    Cube,
    /// Sine of radians.
    Sin,
    /// Cosine of radians.
    Cos,
    /// Inverse tangent in radians.
    Atan,
    /// Any [`Activation`](super::activation::Activation).
    Act(super::activation::Activation),
}

/// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|).
#[inline(always)]
fn softplus_v<S: Simd>(s: S, x: S::F) -> S::F {
    let zero = s.splat(0.0);
    let e = exp_v(s, s.sub(zero, s.abs(x)));
    let one = s.splat(1.0);
    // log1p by the ratio e / ((1+e)-1), which cancels the rounding of 1+e.
    let u = s.add(one, e);
    let d = s.sub(u, one);
    let l = s.div(s.mul(log_v(s, u), e), d);
    let l = s.select(s.lt(zero, d), l, e);
    s.add(s.max(zero, x), l)
}

impl Func {
    #[inline(always)]
    fn vector<S: Simd>(self, s: S, x: S::F) -> S::F {
        let zero = s.splat(0.0);
        let one = s.splat(1.0);
        match self {
            Func::Exp => exp_v(s, x),
            Func::Log => log_v(s, x),
            Func::Tanh => tanh_v(s, x),
            Func::Sigmoid => sigmoid_v(s, x),
            Func::Erf => erf_v(s, x),
            Func::Gelu => gelu_v(s, x),
            Func::GeluTanh => gelu_tanh_v(s, x),
            Func::Silu => silu_v(s, x),
            Func::Swish(a) => times_sigmoid_v(s, x, s.mul(s.splat(a), x)),
            Func::Mish => s.mul(x, tanh_v(s, softplus_v(s, x))),
            Func::Softplus => softplus_v(s, x),
            Func::Elu(a) => {
                let neg = s.mul(s.splat(a), exp_m1_v(s, x));
                s.select(s.lt(x, zero), neg, x)
            }
            Func::Sqrt => s.sqrt(x),
            Func::Rsqrt => s.div(one, s.sqrt(x)),
            Func::Reciprocal => s.div(one, x),
            Func::Abs => s.abs(x),
            Func::Neg => s.of_bits(s.iadd(s.bits(x), s.isplat(i32::MIN))),
            Func::Square => s.mul(x, x),
            Func::Round => s.round(x),
            Func::Floor => floor_v(s, x),
            Func::Ceil => {
                let minus = s.splat(-1.0);
                s.mul(minus, floor_v(s, s.mul(minus, x)))
            }
            Func::Softsign => s.div(x, s.add(one, s.abs(x))),
            Func::Threshold(a) => s.select(s.is_nan(x), x, s.select(s.lt(s.splat(a), x), x, zero)),
            Func::Cube => s.mul(s.mul(x, x), x),
            Func::Sin => trigonometry::sin_v(s, x),
            Func::Cos => trigonometry::cos_v(s, x),
            Func::Atan => trigonometry::atan_v(s, x),
            Func::Act(a) => a.vector(s, x),
        }
    }
}

#[inline(always)]
fn floor_v<S: Simd>(s: S, x: S::F) -> S::F {
    let r = s.round(x);
    s.select(s.lt(x, r), s.sub(r, s.splat(1.0)), r)
}

struct Map<'a> {
    f: Func,
    x: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl Kernel for Map<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.y.len();
        let dst = self.y.as_mut_ptr();
        let src = match self.x {
            Some(x) => {
                assert_eq!(x.len(), n);
                x.as_ptr()
            }
            // The same pointer: one of a second borrow would be dead after the first write.
            None => dst.cast_const(),
        };
        let mut i = 0;
        while i < n {
            let w = S::LANES.min(n - i);
            // SAFETY: `i + w <= n`, the length of both slices. In place, `src` is `dst`,
            // and each lane is read before it is written.
            unsafe {
                if w == S::LANES {
                    s.store(dst.add(i), self.f.vector(s, s.load(src.add(i))));
                } else {
                    s.store_n(dst.add(i), self.f.vector(s, s.load_n(src.add(i), w)), w);
                }
            }
            i += w;
        }
    }
}

/// Numbers below which a map stays on one thread, and the piece that a task takes above it.
const MAP_GRAIN: usize = 8 << 10;

/// `y[i] = f(x[i])`, in parallel for long slices.
pub fn map(isa: Isa, f: Func, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    let n = y.len();
    let out = Shared::new(y);
    let grain = if n > 2 * MAP_GRAIN { MAP_GRAIN } else { n };
    for_ranges(n, grain, |start, len| {
        // SAFETY: the ranges are disjoint.
        let y = unsafe { out.slice(start, len) };
        isa.dispatch(Map { f, x: Some(&x[start..start + len]), y });
    });
}

/// `x[i] = f(x[i])`, in parallel for long slices.
pub fn map_in_place(isa: Isa, f: Func, x: &mut [f32]) {
    let n = x.len();
    let out = Shared::new(x);
    let grain = if n > 2 * MAP_GRAIN { MAP_GRAIN } else { n };
    for_ranges(n, grain, |start, len| {
        // SAFETY: the ranges are disjoint.
        let y = unsafe { out.slice(start, len) };
        isa.dispatch(Map { f, x: None, y });
    });
}

struct AddRow<'a>(&'a [f32], &'a [f32], &'a mut [f32]);

impl Kernel for AddRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AddRow(a, b, y) = self;
        let parts = a.chunks(S::LANES).zip(b.chunks(S::LANES)).zip(y.chunks_mut(S::LANES));
        for ((a, b), y) in parts {
            s.stores_tail(y, s.add(s.loads_tail(a), s.loads_tail(b)));
        }
    }
}

/// `y[i, j] = f(x[i, j] + row[j])`. Panics if `row` is empty or a length does not fit.
pub fn map_rows(isa: Isa, f: Func, x: &[f32], row: &[f32], y: &mut [f32]) {
    let cols = row.len();
    assert!(x.len() == y.len() && x.len().is_multiple_of(cols), "rows of another length");
    let out = Shared::new(y);
    for_ranges(x.len() / cols, MAP_GRAIN / cols, |start, len| {
        for r in start..start + len {
            // SAFETY: the rows are disjoint.
            let y = unsafe { out.slice(r * cols, cols) };
            isa.dispatch(AddRow(&x[r * cols..(r + 1) * cols], row, y));
            isa.dispatch(Map { f, x: None, y });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulps(got: f32, want: f64) -> f64 {
        let w = want as f32;
        let ulp = f64::from(f32::from_bits(w.abs().to_bits() + 1)) - f64::from(w.abs());
        (f64::from(got) - want).abs() / ulp
    }

    fn worst(isa: Isa, f: Func, lo: f32, hi: f32, exact: impl Fn(f64) -> f64) -> f64 {
        let n = 200_003;
        let x: Vec<f32> = (0..n).map(|i| lo + (hi - lo) * i as f32 / (n - 1) as f32).collect();
        let mut y = vec![0.0; n];
        map(isa, f, &x, &mut y);
        let each = x.iter().zip(&y).map(|(&x, &y)| {
            assert!(!y.is_nan(), "{isa:?} {f:?}: {x} gives no number");
            ulps(y, exact(f64::from(x)))
        });
        each.fold(0.0, f64::max)
    }

    #[test]
    fn errors_stay_within_the_stated_ulps() {
        for isa in Isa::available() {
            let extra = if isa == Isa::Portable { 1.0 } else { 0.0 };
            let check = |f, lo, hi, exact: fn(f64) -> f64, limit: f64| {
                let e = worst(isa, f, lo, hi, exact);
                assert!(e <= limit + extra, "{isa:?} {f:?}: {e} ulp on {lo}..{hi}");
            };
            check(Func::Exp, -87.0, 88.7, f64::exp, 1.2);
            check(Func::Exp, -1.0, 1.0, f64::exp, 1.2);
            check(Func::Log, 1e-3, 4.0, f64::ln, 1.5);
            check(Func::Log, 1.0, 1e6, f64::ln, 1.5);
            check(Func::Tanh, -9.5, 9.5, f64::tanh, 2.5);
            check(Func::Tanh, -0.7, 0.7, f64::tanh, 2.5);
            check(Func::Silu, -87.3, 88.0, |x| x / (1.0 + (-x).exp()), 2.5);
            check(Func::Silu, -2.0, 2.0, |x| x / (1.0 + (-x).exp()), 2.5);
            check(Func::Sigmoid, -87.3, 88.0, |x| 1.0 / (1.0 + (-x).exp()), 2.5);
            check(Func::Sigmoid, -2.0, 2.0, |x| 1.0 / (1.0 + (-x).exp()), 2.5);
            check(Func::Erf, -4.5, 4.5, libm::erf, 2.5);
            check(Func::Erf, -1.1, 1.1, libm::erf, 2.5);
            check(Func::Sin, -0.7, 0.7, f64::sin, 2.0);
            check(Func::Elu(1.0), -20.0, -1e-8, f64::exp_m1, 2.5);
            check(Func::Elu(1.0), -1e-3, -1e-8, f64::exp_m1, 2.5);
            check(Func::Atan, -0.5, 0.5, f64::atan, 3.0);
            check(Func::Atan, -1e3, 1e3, f64::atan, 3.0);
        }
    }

    #[test]
    fn special_values() {
        for isa in Isa::available() {
            let f = |f, x: f32| {
                let mut v = [x];
                map_in_place(isa, f, &mut v);
                v[0]
            };
            assert_eq!(f(Func::Exp, f32::INFINITY), f32::INFINITY);
            assert_eq!(f(Func::Exp, f32::NEG_INFINITY), 0.0);
            assert!(f(Func::Exp, f32::NAN).is_nan() && f(Func::Tanh, f32::NAN).is_nan());
            assert!(f(Func::Erf, f32::NAN).is_nan() && f(Func::Sigmoid, f32::NAN).is_nan());
            assert_eq!(f(Func::Log, 0.0), f32::NEG_INFINITY);
            assert_eq!(f(Func::Log, f32::INFINITY), f32::INFINITY);
            assert!(f(Func::Log, -1.0).is_nan() && f(Func::Log, f32::NAN).is_nan());
            assert!((f(Func::Log, 1e-42) - 1e-42f32.ln()).abs() < 1e-4);
            assert_eq!(f(Func::Tanh, f32::INFINITY), 1.0);
            assert_eq!(f(Func::Erf, f32::NEG_INFINITY), -1.0);
            assert_eq!(f(Func::Sigmoid, f32::NEG_INFINITY), 0.0);
            assert_eq!(f(Func::Sigmoid, f32::INFINITY), 1.0);
            let odd = f32::from_bits(0x7fc0_0123);
            assert!(
                [Func::Sigmoid, Func::Silu, Func::GeluTanh].iter().all(|&g| f(g, odd).is_nan())
            );
            assert_eq!(f(Func::Silu, f32::INFINITY), f32::INFINITY);
            assert_eq!((f(Func::Silu, -1e30), f(Func::GeluTanh, -1e9)), (0.0, 0.0));
            assert!(f(Func::Act(crate::activation::Activation::Relu), f32::NAN).is_nan());
            assert_eq!(f(Func::Floor, -1.5), -2.0);
            assert_eq!(f(Func::Ceil, -1.5), -1.0);
            assert_eq!(f(Func::Round, 2.5), 2.0);
        }
    }

    /// Near their zeros the absolute error counts.
    #[test]
    fn angles_of_any_size() {
        for isa in Isa::available() {
            for i in -4000..4000 {
                let x = (i as f32).powi(3) * 1e-6;
                let mut v = [x, x];
                map_in_place(isa, Func::Sin, &mut v[..1]);
                map_in_place(isa, Func::Cos, &mut v[1..]);
                let d = f64::from(x);
                for (got, want) in [(v[0], d.sin()), (v[1], d.cos())] {
                    assert!((f64::from(got) - want).abs() < 2e-7, "{isa:?} {x}: {got} {want}");
                }
            }
            let f = |f, x: f32| {
                let mut v = [x];
                map_in_place(isa, f, &mut v);
                v[0]
            };
            assert!(f(Func::Sin, -0.0).is_sign_negative() && f(Func::Cos, f32::NAN).is_nan());
            assert!(f(Func::Sin, f32::INFINITY).is_nan() && f(Func::Atan, f32::NAN).is_nan());
            assert_eq!(f(Func::Atan, f32::NEG_INFINITY), -std::f32::consts::FRAC_PI_2);
        }
    }

    #[test]
    fn made_of_functions() {
        for isa in Isa::available() {
            for i in -60..60 {
                let x = i as f32 * 0.1;
                let d = f64::from(x);
                let sp = d.exp().ln_1p();
                let cases = [
                    (Func::Gelu, 0.5 * d * (1.0 + libm::erf(d / 2f64.sqrt()))),
                    (
                        Func::GeluTanh,
                        0.5 * d * (1.0 + (0.797_884_560_8 * (d + 0.044_715 * d * d * d)).tanh()),
                    ),
                    (Func::Softplus, sp),
                    (Func::Mish, d * sp.tanh()),
                    (Func::Elu(0.5), if d < 0.0 { 0.5 * (d.exp() - 1.0) } else { d }),
                    (Func::Silu, d / (1.0 + (-d).exp())),
                ];
                for (f, want) in cases {
                    let mut v = [x];
                    map_in_place(isa, f, &mut v);
                    let err = (f64::from(v[0]) - want).abs();
                    assert!(err <= 1e-6 * want.abs().max(0.5), "{f:?} {x}: {} {want}", v[0]);
                }
            }
        }
    }
}
