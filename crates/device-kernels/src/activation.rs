//! The activations of fused operators as arguments of kernels (`math::activate`).

use hetra_ir::Node;
use hetra_ops::{Epilogue, FusedActivation};

use crate::context::A;

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
            Some(FusedActivation::LeakyRelu { alpha }) => (2, alpha, 0.0),
            Some(FusedActivation::Sigmoid) => (3, 0.0, 0.0),
            Some(FusedActivation::Tanh) => (4, 0.0, 0.0),
            Some(FusedActivation::Clip { min, max }) => (5, min, max),
            Some(FusedActivation::HardSigmoid { alpha, beta }) => (6, alpha, beta),
            Some(FusedActivation::HardSwish) => (7, 0.0, 0.0),
            Some(FusedActivation::Silu) => (8, 0.0, 0.0),
            Some(FusedActivation::Gelu) => (9, 0.0, 0.0),
        };
        Some(Activate { code, a, b, scale: epilogue.scale, shift: epilogue.shift })
    }

    /// The arguments of a kernel.
    pub(crate) fn args<'a>(self) -> [A<'a>; 5] {
        [A::U(self.code), A::F(self.a), A::F(self.b), A::F(self.scale), A::F(self.shift)]
    }
}
