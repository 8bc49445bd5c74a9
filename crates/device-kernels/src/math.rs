//! Functions that the targets do not have, or have with other edges than operators want.

use hetra_kernel::kernel_fn;

/// Whether `x` is no number; drivers may take it that none is, so its bits are looked at.
#[kernel_fn]
pub(crate) fn is_nan(x: f32) -> bool {
    (x.to_bits() & 0x7fff_ffff) > 0x7f80_0000
}

/// `1 / (1 + exp(-x))`.
#[kernel_fn]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `x` kept between two numbers; one that is none stays none, also where drivers make comparisons
/// to minima and maxima, which drop it.
#[kernel_fn]
pub(crate) fn between(x: f32, low: f32, high: f32) -> f32 {
    let above = if x < low { low } else { x };
    let kept = if above > high { high } else { above };
    if is_nan(x) { x } else { kept }
}

/// `x`, below zero times `alpha`.
#[kernel_fn]
pub(crate) fn leaky(x: f32, alpha: f32) -> f32 {
    // Of minus infinity, too, nothing is nothing.
    let below = if alpha == 0.0 { 0.0 } else { alpha * x };
    let y = if x < 0.0 { below } else { x };
    // Of what is no number, too: see `between`.
    if is_nan(x) { x } else { y }
}

/// `x * max(0, min(1, x / 6 + 1 / 2))`.
#[kernel_fn]
pub(crate) fn hard_swish(x: f32) -> f32 {
    x * between(0.16666667 * x + 0.5, 0.0, 1.0)
}

/// The hyperbolic tangent; some drivers compute it by exponentials that overflow, and have few
/// digits near zero: the series has all of them.
#[kernel_fn]
pub(crate) fn tanh(x: f32) -> f32 {
    let kept = between(x, -10.0, 10.0);
    let square = kept * kept;
    let series = kept * (1.0 - square * (0.33333333 - square * 0.13333333));
    let near = if square < 0.0025 { series } else { kept.tanh() };
    // From here on it is one, which not every driver reaches.
    if x > 9.1 {
        1.0
    } else if x < -9.1 {
        -1.0
    } else {
        near
    }
}

/// The error function, to 2e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
#[kernel_fn]
pub(crate) fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t
        + 0.254829592)
        * t;
    let y = 1.0 - p * (-a * a).exp();
    // Near zero the difference above has few digits: the series has all of them.
    let small = a * (1.1283791671 - 0.3761263890 * a * a);
    let size = if a < 0.02 { small } else { y };
    if x < 0.0 { -size } else { size }
}

/// `ln(1 + exp(x))`.
#[kernel_fn]
pub(crate) fn softplus(x: f32) -> f32 {
    let e = (-x.abs()).exp();
    // The logarithm of nearly one has few digits: the series has all of them.
    let series = e * (1.0 - e * (0.5 - e * (0.33333333 - e * 0.25)));
    let log = if e < 0.03 { series } else { (1.0 + e).ln() };
    let above = if x < 0.0 { 0.0 } else { x };
    above + log
}

/// The exact Gaussian error linear unit.
#[kernel_fn]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * 0.70710678))
}

/// The Gaussian error linear unit by a hyperbolic tangent.
#[kernel_fn]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh(0.7978845608 * (x + 0.044715 * x * x * x)))
}

/// What a fused operator does to its result: `scale * activation(x) + shift`. `code` is one of
/// `activation.rs`.
#[kernel_fn]
pub(crate) fn activate(x: f32, code: u32, a: f32, b: f32, scale: f32, shift: f32) -> f32 {
    let mut y = x;
    if code == 1 {
        y = leaky(x, a);
    } else if code == 2 {
        y = sigmoid(x);
    } else if code == 3 {
        y = tanh(x);
    } else if code == 4 {
        y = between(x, a, b);
    } else if code == 5 {
        y = between(a * x + b, 0.0, 1.0);
    } else if code == 6 {
        y = hard_swish(x);
    } else if code == 7 {
        y = x * sigmoid(x);
    } else if code == 8 {
        y = gelu(x);
    }
    scale * y + shift
}

/// The sine of what is left of `x` beyond `quarters` times pi / 2, a quarter turn further where
/// `ahead` is 1. Constants of the Cephes library (S. Moshier).
#[kernel_fn]
pub(crate) fn sine_of(x: f32, ahead: u32) -> f32 {
    let quarters = (x * 0.63661977 + 0.5).floor();
    // In three parts, of which the first two have few digits: their products are exact.
    let r = ((x - quarters * 1.5703125) - quarters * 4.8375130e-4) - quarters * 7.5497899e-8;
    let z = r * r;
    let sine = ((-1.9515296e-4 * z + 8.3321609e-3) * z - 1.6666655e-1) * z * r + r;
    let cosine = ((2.4433157e-5 * z - 1.3887316e-3) * z + 4.1666646e-2) * z * z - 0.5 * z + 1.0;
    let turn = (quarters as i32 as u32 + ahead) % 4;
    let size = if turn % 2 == 1 { cosine } else { sine };
    if turn >= 2 { -size } else { size }
}

/// The sine: drivers may have few digits (Vulkan asks for eleven bits, and for none beyond pi).
#[kernel_fn]
pub(crate) fn sin(x: f32) -> f32 {
    if x.abs() < 8192.0 { sine_of(x, 0) } else { x.sin() }
}

/// The cosine.
#[kernel_fn]
pub(crate) fn cos(x: f32) -> f32 {
    if x.abs() < 8192.0 { sine_of(x, 1) } else { x.cos() }
}

/// The tangent.
#[kernel_fn]
pub(crate) fn tan(x: f32) -> f32 {
    sin(x) / cos(x)
}

/// The arc tangent: drivers may leave out digits (Vulkan asks for 4096 ulp). Constants of the
/// Cephes library (S. Moshier).
#[kernel_fn]
pub(crate) fn atan(x: f32) -> f32 {
    let a = x.abs();
    let middle = a > 0.41421357 && a <= 2.4142137;
    let far = a > 2.4142137;
    let base = if far {
        1.5707964
    } else if middle {
        0.78539819
    } else {
        0.0
    };
    let turned = if far {
        -1.0 / a
    } else if middle {
        (a - 1.0) / (a + 1.0)
    } else {
        a
    };
    let z = turned * turned;
    let p = ((0.0805374450 * z - 0.138776856) * z + 0.199777106) * z - 0.333329492;
    let size = base + (p * z * turned + turned);
    if x < 0.0 {
        -size
    } else if is_nan(x) {
        x
    } else {
        size
    }
}

/// The arc sine of up to a half, by Cephes' polynomial.
#[kernel_fn]
pub(crate) fn asin_small(x: f32) -> f32 {
    let z = x * x;
    let p = (((0.0421631990 * z + 0.0241813110) * z + 0.0454700260) * z + 0.0749530027) * z
        + 0.166667524;
    p * z * x + x
}

/// The arc sine.
#[kernel_fn]
pub(crate) fn asin(x: f32) -> f32 {
    let a = x.abs();
    let edge = ((1.0 - a) * 0.5).sqrt();
    let size = if a > 0.5 { 1.5707964 - 2.0 * asin_small(edge) } else { asin_small(a) };
    if x < 0.0 { -size } else { size }
}

/// The arc cosine.
#[kernel_fn]
pub(crate) fn acos(x: f32) -> f32 {
    let a = x.abs();
    let edge = 2.0 * asin_small(((1.0 - a) * 0.5).sqrt());
    if a <= 0.5 {
        1.5707964 - asin_small(x)
    } else if x < 0.0 {
        3.1415927 - edge
    } else {
        edge
    }
}

/// `exp(x) - 1`, with its digits near zero.
#[kernel_fn]
pub(crate) fn exp_minus_one(x: f32) -> f32 {
    let series = x * (1.0 + x * (0.5 + x * (0.16666667 + x * 0.041666667)));
    if x.abs() < 0.1 { series } else { x.exp() - 1.0 }
}

/// `x` to the power of `y`, for bases of any sign: WGSL knows only positive ones.
#[kernel_fn]
pub(crate) fn power(x: f32, y: f32) -> f32 {
    let size = x.abs().powf(y);
    let half = y * 0.5;
    let odd = half != half.floor();
    let whole = y == y.floor();
    let none = is_nan(x) || is_nan(y);
    if y == 0.0 || x == 1.0 {
        1.0
    } else if none {
        x + y
    } else if x >= 0.0 {
        size
    } else if whole {
        if odd { -size } else { size }
    } else {
        // No real number: NaN, which no literal says.
        x.sqrt()
    }
}

/// What division by `y` leaves of `x`, with the sign of `y`.
#[kernel_fn]
pub(crate) fn modulo(x: f32, y: f32) -> f32 {
    x - y * (x / y).floor()
}

/// The number of 16 bits that is nearest, with ties to even, for devices that hold them in 32.
#[kernel_fn]
pub(crate) fn to_half(x: f32) -> f32 {
    let bits = x.to_bits();
    let size = bits & 0x7fff_ffff;
    let rounded = (size + 0xfff + ((size >> 13) & 1)) & 0xffff_e000;
    // From 65536 on they are infinite; below 2^-14 they are multiples of 2^-24.
    let kept = if rounded >= 0x4780_0000 { 0x7f80_0000 } else { rounded };
    let small = (x.abs() * 16777216.0).round_ties_even() * 5.9604645e-8;
    let least = small.to_bits();
    let whole = if size < 0x3880_0000 { least } else { kept };
    let near = f32::from_bits(whole | (bits & 0x8000_0000));
    if is_nan(x) { x } else { near }
}

/// `ln(1 + x)`, with its digits near zero.
#[kernel_fn]
pub(crate) fn log_one_plus(x: f32) -> f32 {
    let tail = 0.2 - x * (0.16666667 - x * 0.14285714);
    let series = x * (1.0 - x * (0.5 - x * (0.33333333 - x * (0.25 - x * tail))));
    if x.abs() < 0.1 { series } else { (1.0 + x).ln() }
}

/// The inverse hyperbolic sine; of large numbers, whose squares overflow, `ln(2 x)`.
#[kernel_fn]
pub(crate) fn asinh(x: f32) -> f32 {
    let a = x.abs();
    let near = log_one_plus(a + a * a / (1.0 + (1.0 + a * a).sqrt()));
    let size = if a > 1e9 { a.ln() + 0.6931472 } else { near };
    copy_sign(size, x)
}

/// The inverse hyperbolic cosine, of numbers from 1.
#[kernel_fn]
pub(crate) fn acosh(x: f32) -> f32 {
    let above = x - 1.0;
    let near = log_one_plus(above + (above * (above + 2.0)).sqrt());
    if x > 1e9 {
        x.ln() + 0.6931472
    } else if x < 1.0 {
        // No real number: NaN, which no literal says.
        above.sqrt()
    } else {
        near
    }
}

/// The inverse hyperbolic tangent, of numbers from -1 to 1.
#[kernel_fn]
pub(crate) fn atanh(x: f32) -> f32 {
    let a = x.abs();
    let size = 0.5 * log_one_plus(2.0 * a / (1.0 - a));
    copy_sign(size, x)
}

/// `sqrt(x * x + y * y)`, without overflow on the way.
#[kernel_fn]
pub(crate) fn hypot(x: f32, y: f32) -> f32 {
    let a = x.abs();
    let b = y.abs();
    let high = if a > b { a } else { b };
    let low = if a > b { b } else { a };
    let ratio = low / high;
    let size = high * (1.0 + ratio * ratio).sqrt();
    // Of infinity and anything, infinity; of nothing, nothing.
    let infinite = a > 3.4028235e38 || b > 3.4028235e38;
    let none = is_nan(x) || is_nan(y);
    if infinite {
        f32::INFINITY
    } else if none {
        x + y
    } else if high == 0.0 {
        high
    } else {
        size
    }
}

/// The magnitude of `x` with the sign of `y`.
#[kernel_fn]
pub(crate) fn copy_sign(x: f32, y: f32) -> f32 {
    f32::from_bits((x.to_bits() & 0x7fff_ffff) | (y.to_bits() & 0x8000_0000))
}

/// The angle of the point (`x`, `y`), from -pi to pi.
#[kernel_fn]
pub(crate) fn atan2(y: f32, x: f32) -> f32 {
    let a = y.abs();
    let b = x.abs();
    let high = if a > b { a } else { b };
    let low = if a > b { b } else { a };
    // Both may be infinite, or nothing.
    let ratio = if a == b { 1.0 } else { low / high };
    let slope = if high == 0.0 { 0.0 } else { ratio };
    let first = atan(slope);
    let turned = if a > b { 1.5707964 - first } else { first };
    let left = x.to_bits() >> 31 == 1;
    let angle = if left { 3.1415927 - turned } else { turned };
    let none = is_nan(x) || is_nan(y);
    if none { x + y } else { copy_sign(angle, y) }
}

/// `ln(exp(x) + exp(y))`, without overflow on the way.
#[kernel_fn]
pub(crate) fn log_add_exp(x: f32, y: f32) -> f32 {
    let high = if x > y { x } else { y };
    let low = if x > y { y } else { x };
    let sum = high + log_one_plus((low - high).exp());
    // Equal infinities have no difference.
    if x == y { x + 0.6931472 } else { sum }
}

/// What division by `y` leaves of `x`, with the sign of `y`; by nothing it is nothing.
#[kernel_fn]
pub(crate) fn modulo_int(x: i32, y: i32) -> i32 {
    let rest = x % y;
    let other = rest != 0 && (rest ^ y) < 0;
    let whole = if other { rest + y } else { rest };
    if y == 0 { 0 } else { whole }
}

/// The quotient rounded towards minus infinity; by nothing it is nothing.
#[kernel_fn]
pub(crate) fn floor_divide(x: i32, y: i32) -> i32 {
    let whole = x / y;
    let rest = x - whole * y;
    let other = rest != 0 && (rest ^ y) < 0;
    let down = if other { whole - 1 } else { whole };
    if y == 0 { 0 } else { down }
}
