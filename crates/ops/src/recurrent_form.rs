//! The constant part of recurrent operators, resolved once: cell, directions, activations.

use hetra_ir::{Attrs, Node};

use crate::error::OpError;

/// Which recurrent cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// One gate.
    Rnn,
    /// Gates z, r, h in the weights.
    Gru {
        /// The reset gate acts after the matrix product (and its bias), not before.
        linear_before_reset: bool,
    },
    /// Gates i, o, f, c in the weights.
    Lstm {
        /// The forget gate is one minus the input gate.
        input_forget: bool,
    },
}

impl Cell {
    /// Gates that the weight matrices hold.
    pub fn gates(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru { .. } => 3,
            Cell::Lstm { .. } => 4,
        }
    }

    fn defaults(self) -> &'static [&'static str] {
        match self {
            Cell::Rnn => &["Tanh"],
            Cell::Gru { .. } => &["Sigmoid", "Tanh"],
            Cell::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// A function on gate values, with its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "each name is the ONNX operator of that name")]
pub enum Activation {
    Relu,
    Tanh,
    Sigmoid,
    Affine { alpha: f32, beta: f32 },
    LeakyRelu { alpha: f32 },
    ThresholdedRelu { alpha: f32 },
    ScaledTanh { alpha: f32, beta: f32 },
    HardSigmoid { alpha: f32, beta: f32 },
    Elu { alpha: f32 },
    Softsign,
    Softplus,
}

impl Activation {
    /// The function's value.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            // As the operator: what is no number stays.
            Activation::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Affine { alpha, beta } => f64::from(alpha) * x + f64::from(beta),
            Activation::LeakyRelu { alpha } => {
                if x >= 0.0 {
                    x
                } else {
                    f64::from(alpha) * x
                }
            }
            Activation::ThresholdedRelu { alpha } => {
                if x >= f64::from(alpha) {
                    x
                } else {
                    0.0
                }
            }
            Activation::ScaledTanh { alpha, beta } => {
                f64::from(alpha) * (f64::from(beta) * x).tanh()
            }
            Activation::HardSigmoid { alpha, beta } => {
                (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
            }
            Activation::Elu { alpha } => {
                if x >= 0.0 {
                    x
                } else {
                    f64::from(alpha) * x.exp_m1()
                }
            }
            Activation::Softsign => x / (1.0 + x.abs()),
            // Written so that a large x does not overflow.
            Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        }
    }

    /// Takes its parameters from the front of the two lists: a function without a parameter
    /// takes none, and when a list is used up the ONNX operator's default holds.
    fn parse(name: &str, lists: &mut [std::slice::Iter<'_, f32>; 2]) -> Result<Self, OpError> {
        let [alphas, betas] = lists;
        let mut alpha = |default| alphas.next().copied().unwrap_or(default);
        let mut beta = |default| betas.next().copied().unwrap_or(default);
        Ok(match name.to_ascii_lowercase().as_str() {
            "relu" => Activation::Relu,
            "tanh" => Activation::Tanh,
            "sigmoid" => Activation::Sigmoid,
            "affine" => Activation::Affine { alpha: alpha(1.0), beta: beta(0.0) },
            "leakyrelu" => Activation::LeakyRelu { alpha: alpha(0.01) },
            "thresholdedrelu" => Activation::ThresholdedRelu { alpha: alpha(1.0) },
            "scaledtanh" => Activation::ScaledTanh { alpha: alpha(1.0), beta: beta(1.0) },
            "hardsigmoid" => Activation::HardSigmoid { alpha: alpha(0.2), beta: beta(0.5) },
            "elu" => Activation::Elu { alpha: alpha(1.0) },
            "softsign" => Activation::Softsign,
            "softplus" => Activation::Softplus,
            _ => return Err(OpError::invalid(format!("`{name}` is not an activation"))),
        })
    }
}

/// What the attributes of an LSTM, GRU or RNN say.
#[derive(Clone, Debug, PartialEq)]
pub struct RecurrentForm {
    /// The cell.
    pub cell: Cell,
    /// For each direction, whether time runs backwards.
    pub reversed: Vec<bool>,
    /// For each direction, the functions in the order of the attribute (f, g, h).
    pub activations: Vec<Vec<Activation>>,
    /// The bound of every activation's input; infinite when there is none.
    pub clip: f32,
    /// The batch is the first axis of X, Y and the states.
    pub batch_first: bool,
    /// The attribute, if it is there.
    pub hidden_size: Option<usize>,
}

impl RecurrentForm {
    /// Reads the attributes of a recurrent node.
    ///
    /// # Errors
    /// An attribute of a wrong kind or value.
    pub fn of(node: &Node) -> Result<RecurrentForm, OpError> {
        let attrs = &node.attrs;
        let cell = match node.op.as_str() {
            "RNN" => Cell::Rnn,
            "GRU" => {
                Cell::Gru { linear_before_reset: attrs.flag_or("linear_before_reset", false)? }
            }
            _ => Cell::Lstm { input_forget: attrs.flag_or("input_forget", false)? },
        };
        let reversed = match attrs.str_or("direction", "forward")? {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            other => return Err(OpError::invalid(format!("`{other}` is not a direction"))),
        };
        let batch_first = match attrs.int_or("layout", 0)? {
            0 => false,
            1 => true,
            other => return Err(OpError::invalid(format!("layout {other} is neither 0 nor 1"))),
        };
        let hidden_size = match attrs.int_opt("hidden_size")? {
            None => None,
            Some(&size) => Some(
                usize::try_from(size)
                    .map_err(|_| OpError::invalid(format!("hidden_size {size} is negative")))?,
            ),
        };
        let clip = match attrs.float_or("clip", 0.0)? {
            bound if bound > 0.0 => bound,
            _ => f32::INFINITY,
        };
        let activations = activations(attrs, cell, reversed.len())?;
        Ok(RecurrentForm { cell, reversed, activations, clip, batch_first, hidden_size })
    }
}

fn activations(
    attrs: &Attrs,
    cell: Cell,
    directions: usize,
) -> Result<Vec<Vec<Activation>>, OpError> {
    let per_direction = cell.defaults().len();
    let names: Vec<&str> = match attrs.strs_opt("activations")? {
        Some(names) => names.iter().map(String::as_str).collect(),
        None => cell.defaults().repeat(directions),
    };
    if names.len() != per_direction * directions {
        let (wanted, got) = (per_direction * directions, names.len());
        return Err(OpError::invalid(format!("wanted {wanted} activations, got {got}")));
    }
    let list = |name| Ok::<_, OpError>(attrs.floats_opt(name)?.map_or(&[][..], Vec::as_slice));
    let mut lists = [list("activation_alpha")?.iter(), list("activation_beta")?.iter()];
    let parsed: Vec<Activation> =
        names.iter().map(|name| Activation::parse(name, &mut lists)).collect::<Result<_, _>>()?;
    Ok(parsed.chunks(per_direction).map(<[Activation]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra_ir::Attr;

    fn form(names: &[&str], alpha: &[f32], beta: &[f32]) -> Result<RecurrentForm, OpError> {
        let strs: Vec<String> = names.iter().map(|name| (*name).to_string()).collect();
        let node = Node::new("LSTM", &[], &[])
            .with("activations", Attr::Strs(strs))
            .with("activation_alpha", alpha.to_vec())
            .with("activation_beta", beta.to_vec());
        RecurrentForm::of(&node)
    }

    #[test]
    fn relu_keeps_what_is_no_number() {
        let values = [-1.0, 2.0, f64::NAN].map(|x| Activation::Relu.apply(x));
        assert_eq!(values[..2], [0.0, 2.0]);
        assert!(values[2].is_nan());
    }

    #[test]
    fn parameters_go_to_the_functions_that_take_them() {
        let parsed = form(&["hardsigmoid", "Tanh", "Affine"], &[0.3, 2.0], &[0.1]).unwrap();
        let wanted = vec![
            Activation::HardSigmoid { alpha: 0.3, beta: 0.1 },
            Activation::Tanh,
            Activation::Affine { alpha: 2.0, beta: 0.0 },
        ];
        assert_eq!(parsed.activations, [wanted]);
        assert!(form(&["Tanh"], &[], &[]).is_err());
        assert!(form(&["Tanh", "Gelu", "Tanh"], &[], &[]).is_err());
    }

    #[test]
    fn activations_at_some_points() {
        let check = |function: Activation, wanted: [f64; 3]| {
            for (x, y) in [-2.0, 0.0, 2.0].into_iter().zip(wanted) {
                assert!((function.apply(x) - y).abs() < 1e-6, "{function:?} of {x}");
            }
        };
        check(Activation::Relu, [0.0, 0.0, 2.0]);
        check(Activation::Sigmoid, [0.1192029, 0.5, 0.8807971]);
        check(Activation::LeakyRelu { alpha: 0.1 }, [-0.2, 0.0, 2.0]);
        check(Activation::ThresholdedRelu { alpha: 1.0 }, [0.0, 0.0, 2.0]);
        check(Activation::ScaledTanh { alpha: 2.0, beta: 0.5 }, [-1.5231884, 0.0, 1.5231884]);
        check(Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }, [0.1, 0.5, 0.9]);
        check(Activation::Elu { alpha: 1.0 }, [-0.8646647, 0.0, 2.0]);
        check(Activation::Softsign, [-2.0 / 3.0, 0.0, 2.0 / 3.0]);
        check(Activation::Softplus, [0.126928, std::f64::consts::LN_2, 2.126928]);
    }
}
