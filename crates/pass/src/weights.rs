//! Products by constant weights, and the codes of these weights.

use hetra_ir::{Graph, Node, ValueId};
use hetra_tensor::{DType, Tensor};

use crate::quantise::{SCALE_MIN, constant};

/// A product or convolution of f32 by constant weights and with a constant bias.
pub(crate) struct Linear<'a> {
    pub(crate) weights: &'a Tensor,
    /// One element for each output channel.
    pub(crate) bias: Option<&'a Tensor>,
    /// The axis of the weights that output channels lie on.
    pub(crate) axis: usize,
}

impl<'a> Linear<'a> {
    /// What a node is of the form of, if it can be quantised: weights and bias are finite.
    pub(crate) fn of(graph: &'a Graph, node: &Node) -> Option<Linear<'a>> {
        let f32 = |id: ValueId| graph.ty(id).dtype() == Some(DType::F32);
        let weights = constant(graph, node.input(1)?).filter(|w| !w.is_empty())?;
        let rank = graph.ty(node.input(0)?).dims().map(<[_]>::len);
        let flag = |name: &str| node.attrs.flag_or(name, false).ok();
        let one = |name: &str| node.attrs.float_or(name, 1.0).is_ok_and(|factor| factor == 1.0);
        let axis = match node.op.as_str() {
            "Conv" if (3..=4).contains(&weights.rank()) => {
                let pads = node.attrs.str_or("auto_pad", "NOTSET").ok()?;
                (pads == "NOTSET").then_some(0)?
            }
            "MatMul" if weights.rank() == 2 && rank? >= 2 => 1,
            "Gemm" if weights.rank() == 2 => {
                let plain = one("alpha") && one("beta") && !flag("transA")?;
                plain.then_some(usize::from(!flag("transB")?))?
            }
            _ => return None,
        };
        let bias = match node.input(2) {
            Some(bias) => Some(constant(graph, bias)?),
            None => None,
        };
        let channels = weights.shape()[axis];
        // A Gemm may have one bias for all.
        let fits = bias
            .is_none_or(|bias| bias.len() == channels && bias.shape().last() == Some(&channels));
        let finite =
            |t: &Tensor| t.as_slice::<f32>().is_ok_and(|v| v.iter().all(|v| v.is_finite()));
        let floats = f32(node.input(0)?) && finite(weights) && bias.is_none_or(finite);
        (fits && floats).then_some(Linear { weights, bias, axis })
    }
}

/// Codes and their scales.
type Coded = (Tensor, Tensor);

/// What weights and bias become.
pub(crate) struct Codes {
    /// i8, and one scale for each output channel.
    pub(crate) weights: Coded,
    /// i32, with the scales of the weights times that of the input.
    pub(crate) bias: Option<Coded>,
}

/// Largest code of a bias: sums of products come on top of it.
const BIAS_MAX: f64 = (1u32 << 30) as f64;

/// Quantises weights symmetrically: zero is 0, so that no sum over the input is needed. Where the
/// bias of a channel would not fit beside its weights, the scale is as much larger.
pub(crate) fn codes(linear: &Linear<'_>, x_scale: f32) -> Option<Codes> {
    let weights = linear.weights.as_slice::<f32>().ok()?;
    let bias = linear.bias.map(Tensor::as_slice::<f32>).transpose().ok()?;
    let shape = linear.weights.shape();
    let channels = shape[linear.axis];
    let inner: usize = shape[linear.axis + 1..].iter().product();
    let channel = |index: usize| index / inner % channels;
    let mut largest = vec![0f64; channels];
    for (index, &weight) in weights.iter().enumerate() {
        let most = &mut largest[channel(index)];
        *most = most.max(f64::from(weight).abs());
    }
    let x_scale = f64::from(x_scale);
    let scale = |(at, &most): (usize, &f64)| {
        let bias = bias.map_or(0.0, |bias| f64::from(bias[at]).abs());
        (most / 127.0).max(bias / x_scale / BIAS_MAX).max(SCALE_MIN) as f32
    };
    let scales: Vec<f32> = largest.iter().enumerate().map(scale).collect();
    let of_bias: Vec<f32> = scales.iter().map(|&w| (f64::from(w) * x_scale) as f32).collect();
    if !scales.iter().chain(&of_bias).all(|scale| scale.is_normal()) {
        return None;
    }
    let code = |(index, &weight): (usize, &f32)| {
        let code = (f64::from(weight) / f64::from(scales[channel(index)])).round_ties_even();
        code.clamp(-127.0, 127.0) as i8
    };
    let codes: Vec<i8> = weights.iter().enumerate().map(code).collect();
    let weights = (Tensor::from_slice(shape, &codes).ok()?, Tensor::vector(&scales));
    let bias = bias.map(|bias| {
        let code = |(&real, &scale): (&f32, &f32)| {
            (f64::from(real) / f64::from(scale)).round_ties_even() as i32
        };
        let codes: Vec<i32> = bias.iter().zip(&of_bias).map(code).collect();
        (Tensor::vector(&codes), Tensor::vector(&of_bias))
    });
    Some(Codes { weights, bias })
}
