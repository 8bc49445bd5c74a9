//! Functions of one complex number. At zeros, infinities and NaN they give what C99 (annex G) and
//! the Python array API say, which the textbook formulas do not.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, LN_2, PI};

pub(crate) type Complex = num_complex::Complex64;

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

fn complex(re: f64, im: f64) -> Complex {
    Complex::new(re, im)
}

/// Both parts times a real number: infinite ones do not make the other NaN.
pub(crate) fn scaled(z: Complex, by: f64) -> Complex {
    complex(z.re * by, z.im * by)
}

/// i z.
pub(crate) fn turned(z: Complex) -> Complex {
    complex(-z.im, z.re)
}

/// -i z.
pub(crate) fn turned_back(z: Complex) -> Complex {
    complex(z.im, -z.re)
}

pub(crate) fn sign(z: Complex) -> Complex {
    let size = z.re.hypot(z.im);
    if size == 0.0 { complex(0.0, 0.0) } else { complex(z.re / size, z.im / size) }
}

/// By scaling with the larger part of the divisor (Smith, "Algorithm 116", 1962).
pub(crate) fn divide(a: Complex, b: Complex) -> Complex {
    if b.re == 0.0 && b.im == 0.0 {
        return complex(a.re / b.re.abs(), a.im / b.re.abs());
    }
    if b.re.abs() >= b.im.abs() {
        let ratio = b.im / b.re;
        let size = b.re + b.im * ratio;
        complex((a.re + a.im * ratio) / size, (a.im - a.re * ratio) / size)
    } else {
        let ratio = b.re / b.im;
        let size = b.re * ratio + b.im;
        complex((a.re * ratio + a.im) / size, (a.im * ratio - a.re) / size)
    }
}

pub(crate) fn pow(x: Complex, y: Complex) -> Complex {
    if y.im == 0.0 && y.re.fract() == 0.0 && y.re.abs() <= 64.0 {
        return x.powi(y.re as i32);
    }
    if x.re == 0.0 && x.im == 0.0 {
        return if y.re > 0.0 { complex(0.0, 0.0) } else { complex(NAN, NAN) };
    }
    exp(y * log(x))
}

pub(crate) fn sqrt(z: Complex) -> Complex {
    let (x, y) = (z.re, z.im);
    if y.is_infinite() {
        return complex(INF, y);
    }
    if x.is_infinite() {
        let rest = if y.is_nan() { NAN } else { 0.0 };
        let high = if y.is_nan() { INF } else { INF.copysign(y) };
        return if x > 0.0 {
            complex(INF, if y.is_nan() { NAN } else { 0f64.copysign(y) })
        } else {
            complex(rest, high)
        };
    }
    if x == 0.0 && y == 0.0 {
        return complex(0.0, y);
    }
    if x.is_nan() || y.is_nan() {
        return complex(NAN, NAN);
    }
    let root = ((x.abs() / 2.0) + (x / 2.0).hypot(y / 2.0)).sqrt();
    let other = y.abs() / (2.0 * root);
    if x >= 0.0 { complex(root, other.copysign(y)) } else { complex(other, root.copysign(y)) }
}

/// `size` at the angle `y`, where zeros of the angle stay zeros.
fn polar(size: f64, y: f64) -> Complex {
    if y == 0.0 {
        return complex(size, y);
    }
    let (sin, cos) = y.sin_cos();
    complex(size * cos, size * sin)
}

pub(crate) fn exp(z: Complex) -> Complex {
    let (x, y) = (z.re, z.im);
    match x {
        _ if y.is_finite() => polar(x.exp(), y),
        f64::NEG_INFINITY => complex(0.0, 0.0),
        f64::INFINITY => complex(INF, NAN),
        _ => complex(NAN, NAN),
    }
}

pub(crate) fn exp_m1(z: Complex) -> Complex {
    let (x, y) = (z.re, z.im);
    if !x.is_finite() || !y.is_finite() {
        let all = exp(z);
        return complex(if x == -INF { -1.0 } else { all.re - 1.0 }, all.im);
    }
    if y == 0.0 {
        // Of either zero it is 0.
        return complex(x.exp_m1() + 0.0, y);
    }
    let half = (y / 2.0).sin();
    complex(x.exp_m1() * y.cos() - 2.0 * half * half, x.exp() * y.sin())
}

pub(crate) fn log(z: Complex) -> Complex {
    let angle = z.im.atan2(z.re);
    let size = z.re.hypot(z.im);
    if size > 0.5 && size < 2.0 {
        // Near 1 the logarithm of the magnitude is small: of its square less 1.
        let (large, small) = (z.re.abs().max(z.im.abs()), z.re.abs().min(z.im.abs()));
        return complex(((large - 1.0) * (large + 1.0) + small * small).ln_1p() / 2.0, angle);
    }
    if size.is_infinite() && z.re.is_finite() && z.im.is_finite() {
        return complex((z.re / 2.0).hypot(z.im / 2.0).ln() + LN_2, angle);
    }
    complex(size.ln(), angle)
}

pub(crate) fn log1p(z: Complex) -> Complex {
    let (x, y) = (z.re, z.im);
    if x.is_finite() && y.is_finite() && x.abs() < 0.5 && y.abs() < 0.5 {
        // |1 + z|^2 = 1 + x (2 + x) + y^2.
        return complex((x * (2.0 + x) + y * y).ln_1p() / 2.0, y.atan2(1.0 + x));
    }
    log(complex(1.0 + x, y))
}

pub(crate) fn sin(z: Complex) -> Complex {
    turned_back(sinh(turned(z)))
}

pub(crate) fn sinh(z: Complex) -> Complex {
    let (x, y) = (z.re, z.im);
    if y == 0.0 {
        return complex(x.sinh(), y);
    }
    if !y.is_finite() {
        return match x {
            _ if x == 0.0 => complex(x, NAN),
            _ if x.is_infinite() => complex(x, NAN),
            _ => complex(NAN, NAN),
        };
    }
    let (sin, cos) = y.sin_cos();
    if x.abs() > 700.0 && x.is_finite() {
        // exp(x) / 2 without overflow on the way.
        let half = (x.abs() / 2.0).exp();
        return complex(half * cos / 2.0 * half * x.signum(), half * sin / 2.0 * half);
    }
    complex(x.sinh() * cos, x.cosh() * sin)
}

pub(crate) fn cosh(z: Complex) -> Complex {
    let (x, y) = (z.re, z.im);
    if y == 0.0 {
        return complex(x.cosh(), if x.is_nan() { y } else { y * 1f64.copysign(x) });
    }
    if !y.is_finite() {
        return match x {
            _ if x == 0.0 => complex(NAN, 0.0),
            _ if x.is_infinite() => complex(INF, NAN),
            _ => complex(NAN, NAN),
        };
    }
    let (sin, cos) = y.sin_cos();
    if x == 0.0 {
        return complex(cos, 0f64.copysign(x) * sin);
    }
    if x.abs() > 700.0 && x.is_finite() {
        let half = (x.abs() / 2.0).exp();
        return complex(half * cos / 2.0 * half, half * sin / 2.0 * half * x.signum());
    }
    complex(x.cosh() * cos, x.sinh() * sin)
}

pub(crate) fn tanh(z: Complex) -> Complex {
    let (x, y) = (z.re, z.im);
    if x.is_infinite() || x.abs() > 350.0 && y.is_finite() {
        return complex(1f64.copysign(x), 0f64.copysign(y));
    }
    if y == 0.0 {
        return complex(x.tanh(), y);
    }
    if x.is_nan() || !y.is_finite() {
        return complex(if x == 0.0 { x } else { NAN }, NAN);
    }
    // (sinh x cosh x + i sin y cos y) / (sinh^2 x + cos^2 y)
    let (sin, cos) = y.sin_cos();
    let (sinh, cosh) = (x.sinh(), x.cosh());
    let size = sinh * sinh + cos * cos;
    complex(sinh * cosh / size, sin * cos / size)
}

/// Beyond this a square overflows.
const LARGE: f64 = 1e150;

/// By square roots that lose nothing near their branch points (Kahan, "Branch cuts for complex
/// elementary functions", 1987).
pub(crate) fn asinh(z: Complex) -> Complex {
    let (x, y) = (z.re, z.im);
    if x.is_finite() && y.is_finite() {
        if x.abs().max(y.abs()) > LARGE {
            let large = log(complex(x.abs(), y.abs())) + LN_2;
            return complex(large.re.copysign(x), large.im.copysign(y));
        }
        let (a, b) = (sqrt(complex(1.0 + y, -x)), sqrt(complex(1.0 - y, x)));
        return complex((a.conj() * b).im.asinh(), y.atan2((a * b).re));
    }
    let (re, im) = match (x, y) {
        _ if x.is_infinite() && y.is_infinite() => (INF, FRAC_PI_4),
        _ if x.is_infinite() => (INF, if y.is_nan() { NAN } else { 0.0 }),
        _ if y.is_infinite() && x.is_nan() => (INF, NAN),
        _ if y.is_infinite() => (INF, FRAC_PI_2),
        _ if x.is_nan() && y == 0.0 => (NAN, 0.0),
        _ => (NAN, NAN),
    };
    complex(re.copysign(x), if im.is_nan() { im } else { im.copysign(y) })
}

pub(crate) fn acos(z: Complex) -> Complex {
    let (x, y) = (z.re, z.im);
    if x.is_finite() && y.is_finite() {
        if x.abs().max(y.abs()) > LARGE {
            let large = log(complex(x, y.abs()));
            return complex(large.im, -(large.re + LN_2).copysign(y));
        }
        let (a, b) = (sqrt(complex(1.0 - x, -y)), sqrt(complex(1.0 + x, y)));
        return complex(2.0 * a.re.atan2(b.re), (b.conj() * a).im.asinh());
    }
    let down = |size: f64| if y.is_nan() { size } else { -size.copysign(y) };
    match (x, y) {
        _ if x.is_infinite() && y.is_infinite() => {
            complex(if x > 0.0 { FRAC_PI_4 } else { 3.0 * FRAC_PI_4 }, down(INF))
        }
        _ if x.is_infinite() && y.is_nan() => complex(NAN, INF),
        _ if x.is_infinite() => complex(if x > 0.0 { 0.0 } else { PI }, down(INF)),
        _ if y.is_infinite() => complex(if x.is_nan() { NAN } else { FRAC_PI_2 }, down(INF)),
        _ if x == 0.0 => complex(FRAC_PI_2, NAN),
        _ => complex(NAN, NAN),
    }
}

pub(crate) fn acosh(z: Complex) -> Complex {
    let (x, y) = (z.re, z.im);
    if x == 0.0 && y.is_nan() {
        return complex(NAN, FRAC_PI_2);
    }
    // acosh(z) = i acos(z) or -i acos(z), whichever is to the right.
    let other = acos(z);
    if x.is_infinite() && y.is_nan() {
        return complex(INF, NAN);
    }
    let (re, im) = (other.im.abs(), other.re);
    complex(re, if im.is_nan() || y.is_nan() { NAN } else { im.copysign(y) })
}

pub(crate) fn atanh(z: Complex) -> Complex {
    let (x, y) = (z.re, z.im);
    if x.is_nan() || y.is_nan() || x.is_infinite() || y.is_infinite() {
        return match (x, y) {
            _ if y.is_infinite() => complex(0f64.copysign(x), FRAC_PI_2.copysign(y)),
            _ if x.is_infinite() && y.is_nan() => complex(0f64.copysign(x), NAN),
            _ if x.is_infinite() => complex(0f64.copysign(x), FRAC_PI_2.copysign(y)),
            _ if x == 0.0 => complex(x, NAN),
            _ => complex(NAN, NAN),
        };
    }
    if y == 0.0 && x.abs() == 1.0 {
        return complex(INF.copysign(x), y);
    }
    if x.abs().max(y.abs()) > LARGE {
        return complex(0f64.copysign(x), FRAC_PI_2.copysign(y));
    }
    // Re = log1p(4x / ((1 - x)^2 + y^2)) / 4, Im = atan2(2y, (1 - x)(1 + x) - y^2) / 2.
    let (a, b) = (x.abs(), y);
    let re = (4.0 * a / ((1.0 - a) * (1.0 - a) + b * b)).ln_1p() / 4.0;
    let im = (2.0 * b).atan2((1.0 - a) * (1.0 + a) - b * b) / 2.0;
    complex(re.copysign(x), if y == 0.0 && a < 1.0 { y } else { im })
}
