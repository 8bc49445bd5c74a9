//! The activations of fused operators as arguments of kernels (`math::activate`).

use hetra_ir::Node;
use hetra_kernel::{E, Trace};
use hetra_ops::{Epilogue, FusedActivation};

use crate::context::A;
use crate::math;

/// What a kernel is told of an epilogue.
#[derive(Clone, Copy)]
pub(crate) struct Activate {
    code: usize,
    a: f32,
    b: f32,
    scale: f32,
    shift: f32,
}

impl Activate {
    /// That of a node; `None` where it is not understood.
    pub(crate) fn of(node: &Node) -> Option<Activate> {
        let epilogue = Epilogue::of(node).ok()?;
        let (code, a, b) = match epilogue.activation {
            None => (0, 0.0, 0.0),
            Some(FusedActivation::Relu) => (1, 0.0, 0.0),
            Some(FusedActivation::LeakyRelu { alpha }) => (1, alpha, 0.0),
            Some(FusedActivation::Sigmoid) => (2, 0.0, 0.0),
            Some(FusedActivation::Tanh) => (3, 0.0, 0.0),
            Some(FusedActivation::Clip { min, max }) => (4, min, max),
            Some(FusedActivation::HardSigmoid { alpha, beta }) => (5, alpha, beta),
            Some(FusedActivation::HardSwish) => (6, 0.0, 0.0),
            Some(FusedActivation::Silu) => (7, 0.0, 0.0),
            Some(FusedActivation::Gelu) => (8, 0.0, 0.0),
        };
        Some(Activate { code, a, b, scale: epilogue.scale, shift: epilogue.shift })
    }

    /// That of an operator that has none.
    pub(crate) fn nothing() -> Activate {
        Activate { code: 0, a: 0.0, b: 0.0, scale: 1.0, shift: 0.0 }
    }

    /// Which function it is, as `math::activate` takes it.
    pub(crate) fn code(self) -> usize {
        self.code
    }

    /// Whether it changes nothing.
    pub(crate) fn is_none(self) -> bool {
        self.code == 0 && self.scale == 1.0 && self.shift == 0.0
    }

    /// Writes it down, as constants.
    pub(crate) fn apply(self, t: &Trace, x: E<f32>) -> E<f32> {
        let code = t.lit(self.code as u32);
        let [a, b, scale, shift] = [self.a, self.b, self.scale, self.shift].map(|n| t.lit(n));
        math::activate::trace(t, &[], t.bind(x), code, a, b, scale, shift)
    }

    /// The arguments of a kernel.
    pub(crate) fn args<'a>(self) -> [A<'a>; 5] {
        [A::U(self.code), A::F(self.a), A::F(self.b), A::F(self.scale), A::F(self.shift)]
    }
}
