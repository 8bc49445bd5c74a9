//! Activations that fused operators apply to their result.

use hetra_ir::{Attr, Node};
use hetra_tensor::{Element, Tensor};

use crate::erf::erf;
use crate::error::OpError;
use crate::real::Real;

/// What a fused operator does to each element of its result.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the operators")]
pub enum FusedActivation {
    Relu,
    LeakyRelu {
        alpha: f32,
    },
    Sigmoid,
    Tanh,
    Clip {
        min: f32,
        max: f32,
    },
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    HardSwish,
    Silu,
    /// The exact form, by the error function.
    Gelu,
}

/// What a fused operator does to its result: `scale * activation(x) + shift`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epilogue {
    /// The activation, if there is one.
    pub activation: Option<FusedActivation>,
    /// Of the attribute `activation_scale`, which is ours.
    pub scale: f32,
    /// Of the attribute `activation_shift`, which is ours.
    pub shift: f32,
}

impl Epilogue {
    /// Reads the activation, its scale (1 when not given) and its shift (0 when not given).
    ///
    /// # Errors
    /// As [`FusedActivation::of`].
    pub fn of(node: &Node) -> Result<Epilogue, OpError> {
        Ok(Epilogue {
            activation: FusedActivation::of(node)?,
            scale: node.attrs.float_or("activation_scale", 1.0)?,
            shift: node.attrs.float_or("activation_shift", 0.0)?,
        })
    }

    /// Writes scale and shift into a node, so that [`Epilogue::of`] reads them.
    pub fn set_affine(node: &mut Node, scale: f32, shift: f32) {
        node.attrs.set("activation_scale", scale);
        node.attrs.set("activation_shift", shift);
    }

    /// Whether it scales or shifts.
    pub fn is_affine(&self) -> bool {
        self.scale != 1.0 || self.shift != 0.0
    }

    /// Whether it leaves the result as it is.
    pub fn is_nothing(&self) -> bool {
        self.activation.is_none() && !self.is_affine()
    }
}

impl FusedActivation {
    /// Reads `activation` and its parameters: `activation_params` (a list), or `activation_alpha`
    /// and `activation_beta`. `None` when the node has no activation.
    ///
    /// # Errors
    /// For a name that is not known.
    pub fn of(node: &Node) -> Result<Option<FusedActivation>, OpError> {
        let attrs = &node.attrs;
        let list = attrs.floats_opt("activation_params")?;
        let param = |index: usize, name: &str, default: f32| -> Result<f32, OpError> {
            match list.and_then(|list| list.get(index)) {
                Some(&value) => Ok(value),
                None => Ok(attrs.float_or(name, default)?),
            }
        };
        let first = |default| param(0, "activation_alpha", default);
        let second = |default| param(1, "activation_beta", default);
        Ok(Some(match attrs.str_or("activation", "")? {
            "" => return Ok(None),
            "Relu" => FusedActivation::Relu,
            "LeakyRelu" => FusedActivation::LeakyRelu { alpha: first(0.01)? },
            "Sigmoid" => FusedActivation::Sigmoid,
            "Tanh" => FusedActivation::Tanh,
            "Clip" => FusedActivation::Clip { min: first(f32::MIN)?, max: second(f32::MAX)? },
            "HardSigmoid" => {
                FusedActivation::HardSigmoid { alpha: first(0.2)?, beta: second(0.5)? }
            }
            "HardSwish" => FusedActivation::HardSwish,
            "Silu" => FusedActivation::Silu,
            "Gelu" => FusedActivation::Gelu,
            other => return Err(OpError::unsupported(format!("activation `{other}`"))),
        }))
    }

    /// Writes the activation into a node, so that [`FusedActivation::of`] reads it.
    pub fn set(self, node: &mut Node) {
        let (name, params) = match self {
            FusedActivation::Relu => ("Relu", vec![]),
            FusedActivation::LeakyRelu { alpha } => ("LeakyRelu", vec![alpha]),
            FusedActivation::Sigmoid => ("Sigmoid", vec![]),
            FusedActivation::Tanh => ("Tanh", vec![]),
            FusedActivation::Clip { min, max } => ("Clip", vec![min, max]),
            FusedActivation::HardSigmoid { alpha, beta } => ("HardSigmoid", vec![alpha, beta]),
            FusedActivation::HardSwish => ("HardSwish", vec![]),
            FusedActivation::Silu => ("Silu", vec![]),
            FusedActivation::Gelu => ("Gelu", vec![]),
        };
        node.attrs.set("activation", name);
        if !params.is_empty() {
            node.attrs.set("activation_params", Attr::Floats(params));
        }
    }

    /// The activation of one number.
    pub fn apply(self, x: f64) -> f64 {
        // Like `x.max(low).min(high)`, but NaN stays NaN.
        let clip = |x: f64, low: f64, high: f64| {
            let x = if x < low { low } else { x };
            if x > high { high } else { x }
        };
        match self {
            FusedActivation::Relu => clip(x, 0.0, f64::INFINITY),
            FusedActivation::LeakyRelu { alpha } => {
                if x < 0.0 {
                    f64::from(alpha) * x
                } else {
                    x
                }
            }
            FusedActivation::Sigmoid => sigmoid(x),
            FusedActivation::Tanh => x.tanh(),
            FusedActivation::Clip { min, max } => clip(x, f64::from(min), f64::from(max)),
            FusedActivation::HardSigmoid { alpha, beta } => {
                clip(f64::from(alpha) * x + f64::from(beta), 0.0, 1.0)
            }
            FusedActivation::HardSwish => x * clip(x / 6.0 + 0.5, 0.0, 1.0),
            FusedActivation::Silu => x * sigmoid(x),
            FusedActivation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        }
    }
}

/// Applies what a fused operator does to its result, in place.
pub(crate) fn conclude<T: Real + Element>(
    epilogue: Epilogue,
    tensor: &mut Tensor,
) -> Result<(), OpError> {
    if epilogue.is_nothing() {
        return Ok(());
    }
    let Epilogue { activation, scale, shift } = epilogue;
    for value in tensor.as_mut_slice::<T>()? {
        let x = value.wide();
        let y = activation.map_or(x, |activation| activation.apply(x));
        let y = if epilogue.is_affine() { f64::from(scale) * y + f64::from(shift) } else { y };
        *value = T::of(y);
    }
    Ok(())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let check = |activation: FusedActivation, x: f64, wanted: f64| {
            let got = activation.apply(x);
            assert!((got - wanted).abs() < 1e-12, "{activation:?} {x}: {got}");
        };
        check(FusedActivation::Relu, -1.0, 0.0);
        check(FusedActivation::LeakyRelu { alpha: 0.5 }, -1.0, -0.5);
        check(FusedActivation::Sigmoid, 0.0, 0.5);
        check(FusedActivation::Clip { min: 0.0, max: 6.0 }, 9.0, 6.0);
        check(FusedActivation::HardSwish, 3.0, 3.0);
        check(FusedActivation::Silu, 1.0, 0.731_058_578_630_004_9);
        check(FusedActivation::Gelu, 1.0, 0.841_344_746_068_542_9);
        check(FusedActivation::Gelu, -1.0, -0.158_655_253_931_457_07);
        check(FusedActivation::Gelu, 4.0, 3.999_873_315_033_151);
        assert!(FusedActivation::Relu.apply(f64::NAN).is_nan());
    }

    #[test]
    fn written_is_read() {
        let all = [
            FusedActivation::Relu,
            FusedActivation::LeakyRelu { alpha: 0.25 },
            FusedActivation::Clip { min: -1.0, max: 1.0 },
            FusedActivation::HardSigmoid { alpha: 0.1, beta: 0.2 },
            FusedActivation::Gelu,
        ];
        for activation in all {
            let mut node = Node::new("com.microsoft.FusedConv", &[], &[]);
            activation.set(&mut node);
            assert_eq!(FusedActivation::of(&node).unwrap(), Some(activation));
        }
        let mut node = Node::new("com.microsoft.FusedConv", &[], &[]);
        assert!(Epilogue::of(&node).unwrap().is_nothing());
        FusedActivation::Relu.set(&mut node);
        Epilogue::set_affine(&mut node, 2.0, -1.0);
        let epilogue = Epilogue::of(&node).unwrap();
        let wanted = Epilogue { activation: Some(FusedActivation::Relu), scale: 2.0, shift: -1.0 };
        assert_eq!(epilogue, wanted);
        let mut tensor = Tensor::vector(&[3.0f32, -3.0]);
        conclude::<f32>(epilogue, &mut tensor).unwrap();
        assert_eq!(tensor.as_slice::<f32>().unwrap(), [5.0, -1.0]);
        let node = Node::new("x", &[], &[]).with("activation", "Swoosh");
        assert!(FusedActivation::of(&node).is_err());
    }
}
