//! Activation functions that other kernels apply before they store their result.

use super::isa::{Isa, Kernel};
use super::math;
use super::simd::Simd;

/// A function of one number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// `x`.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, lo), hi)`.
    Clip(f32, f32),
    /// `x` where positive, else `a x`.
    LeakyRelu(f32),
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x clip(x / 6 + 1 / 2, 0, 1)`.
    HardSwish,
    /// `clip(a x + b, 0, 1)`.
    HardSigmoid(f32, f32),
    /// `x sigmoid(x)`.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
    /// `x (1 + erf(x / √2)) / 2`.
    Gelu,
    /// `a f(x) + b`.
    Scaled(Curve, f32, f32),
}

/// Functions whose result may be scaled before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// As [`Activation::Relu`].
    Relu,
    /// As [`Activation::Sigmoid`].
    Sigmoid,
    /// As [`Activation::HardSwish`].
    HardSwish,
    /// As [`Activation::Silu`].
    Silu,
    /// As [`Activation::Tanh`].
    Tanh,
    /// As [`Activation::Gelu`].
    Gelu,
}

impl Curve {
    /// Every curve.
    pub const ALL: [Curve; 6] =
        [Curve::Relu, Curve::Sigmoid, Curve::HardSwish, Curve::Silu, Curve::Tanh, Curve::Gelu];

    /// The function that it is.
    #[inline(always)]
    pub fn activation(self) -> Activation {
        match self {
            Curve::Relu => Activation::Relu,
            Curve::Sigmoid => Activation::Sigmoid,
            Curve::HardSwish => Activation::HardSwish,
            Curve::Silu => Activation::Silu,
            Curve::Tanh => Activation::Tanh,
            Curve::Gelu => Activation::Gelu,
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S, x: S::F) -> S::F {
        let zero = s.splat(0.0);
        match self {
            Curve::Relu => s.max(zero, x),
            Curve::Sigmoid => math::sigmoid_v(s, x),
            Curve::HardSwish => {
                let g = s.fma(x, s.splat(1.0 / 6.0), s.splat(0.5));
                s.mul(x, s.min(s.splat(1.0), s.max(zero, g)))
            }
            Curve::Silu => math::silu_v(s, x),
            Curve::Tanh => math::tanh_v(s, x),
            Curve::Gelu => math::gelu_v(s, x),
        }
    }
}

impl Activation {
    /// The bounds of an activation that only clamps; the matrix kernels apply these in registers.
    pub fn clamp(self) -> Option<(f32, f32)> {
        match self {
            Activation::None => Some((f32::NEG_INFINITY, f32::INFINITY)),
            Activation::Relu => Some((0.0, f32::INFINITY)),
            Activation::Clip(lo, hi) => Some((lo, hi)),
            _ => None,
        }
    }

    /// Applies the function to one vector.
    #[inline(always)]
    pub fn vector<S: Simd>(self, s: S, x: S::F) -> S::F {
        let zero = s.splat(0.0);
        match self {
            Activation::None => x,
            Activation::Clip(lo, hi) => s.min(s.splat(hi), s.max(s.splat(lo), x)),
            Activation::LeakyRelu(a) => s.select(s.lt(x, zero), s.mul(s.splat(a), x), x),
            Activation::HardSigmoid(a, b) => {
                let g = s.fma(x, s.splat(a), s.splat(b));
                s.min(s.splat(1.0), s.max(zero, g))
            }
            Activation::Relu => Curve::Relu.vector(s, x),
            Activation::Sigmoid => Curve::Sigmoid.vector(s, x),
            Activation::HardSwish => Curve::HardSwish.vector(s, x),
            Activation::Silu => Curve::Silu.vector(s, x),
            Activation::Tanh => Curve::Tanh.vector(s, x),
            Activation::Gelu => Curve::Gelu.vector(s, x),
            Activation::Scaled(f, a, b) => s.fma(f.vector(s, x), s.splat(a), s.splat(b)),
        }
    }

    /// Applies the function in place.
    #[inline(always)]
    pub fn slice<S: Simd>(self, s: S, x: &mut [f32]) {
        // Those that models are full of get loops of their own, which keep their numbers in
        // registers; the last one asks for each vector which function it is.
        match self {
            Activation::HardSwish => Activation::HardSwish.each(s, x),
            Activation::Silu => Activation::Silu.each(s, x),
            Activation::Gelu => Activation::Gelu.each(s, x),
            Activation::Scaled(Curve::HardSwish, a, b) => {
                Activation::Scaled(Curve::HardSwish, a, b).each(s, x);
            }
            other => other.each(s, x),
        }
    }

    #[inline(always)]
    fn each<S: Simd>(self, s: S, x: &mut [f32]) {
        let mut chunks = x.chunks_exact_mut(S::LANES);
        for c in &mut chunks {
            let v = self.vector(s, s.loads(c));
            s.stores(c, v);
        }
        let tail = chunks.into_remainder();
        if !tail.is_empty() {
            let v = self.vector(s, s.loads_tail(tail));
            s.stores_tail(tail, v);
        }
    }
}

struct InPlace<'a>(Activation, &'a mut [f32]);

impl Kernel for InPlace<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.slice(s, self.1);
    }
}

/// Applies `act` to each number of `x` on this thread. Never inlined: one copy of the vector
/// functions serves all kernels that end with an activation.
#[inline(never)]
pub fn apply(isa: Isa, act: Activation, x: &mut [f32]) {
    if act != Activation::None {
        isa.dispatch(InPlace(act, x));
    }
}
