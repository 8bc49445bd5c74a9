//! Plain loops that the tests compare with, and their random inputs.

use hetra_cpu_base::activation::{Activation, Curve};

/// A small deterministic generator (xorshift).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    pub(crate) fn range(&mut self, lo: usize, hi: usize) -> usize {
        lo + self.below(hi - lo + 1)
    }
    pub(crate) fn f32(&mut self) -> f32 {
        (self.next() % 20_001) as f32 / 10_000.0 - 1.0
    }
    pub(crate) fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }
    pub(crate) fn u8s(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
    pub(crate) fn i8s(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| self.next() as i8).collect()
    }
}

/// The activation in f64.
pub(crate) fn act64(a: Activation, x: f64) -> f64 {
    match a {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Clip(lo, hi) => x.max(f64::from(lo)).min(f64::from(hi)),
        Activation::LeakyRelu(k) => {
            if x < 0.0 {
                f64::from(k) * x
            } else {
                x
            }
        }
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Activation::HardSigmoid(k, b) => (f64::from(k) * x + f64::from(b)).clamp(0.0, 1.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
        Activation::Scaled(f, a, b) => f64::from(a) * act64(f.activation(), x) + f64::from(b),
    }
}

/// All activations, for tests.
pub(crate) const ACTS: [Activation; 12] = [
    Activation::None,
    Activation::Relu,
    Activation::Clip(-0.5, 0.75),
    Activation::LeakyRelu(0.1),
    Activation::Sigmoid,
    Activation::HardSwish,
    Activation::HardSigmoid(0.2, 0.5),
    Activation::Silu,
    Activation::Tanh,
    Activation::Gelu,
    Activation::Scaled(Curve::HardSwish, 0.25, -1.5),
    Activation::Scaled(Curve::Relu, -2.0, 0.5),
];

/// Panics unless all numbers agree to `tol` (absolute, and relative above 1).
pub(crate) fn close(got: &[f32], want: &[f32], tol: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let same = g == w || (g.is_nan() && w.is_nan());
        assert!(same || (g - w).abs() <= tol * w.abs().max(1.0), "{what}: [{i}] {g} not {w}");
    }
}
