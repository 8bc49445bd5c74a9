//! Affine maps of output channels go into the weights:
//! `s * conv(x, w, b) + t == conv(x, s * w, s * b + t)`, and the same for Gemm and MatMul.

use hetra_ir::{Node, ValueId};
use hetra_tensor::{DType, Tensor, TensorError, from_f64, to_f64};

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static CONV_BATCHNORM: Pass = Pass {
    name: "conv_batchnorm",
    doc: "Folds a BatchNormalization of constants into the weights and bias of the Conv, \
          ConvTranspose, Gemm or MatMul before it.",
    run: |ed| ed.sweep(batchnorm),
};

pub(crate) static CONV_BIAS: Pass = Pass {
    name: "conv_bias",
    doc: "Folds a sum, difference, product or quotient with a constant per channel into the \
          weights and bias before it.",
    run: |ed| ed.sweep(affine),
};

/// `y = scale * x + shift`, for each output channel.
pub(crate) struct Affine {
    pub(crate) scale: Vec<f64>,
    pub(crate) shift: Vec<f64>,
}

/// Weights of fewer bytes are scaled at once. Larger ones are when they are read, and again should
/// they be read again: they need not be kept beside what a kernel packs of them.
const DEFERRED_BYTES_MIN: usize = 64 << 10;

/// A node whose weights are constant and that has nothing but a bias behind its sum.
struct Linear {
    at: usize,
    weights: Tensor,
    bias: Option<Tensor>,
    kind: Kind,
    channels: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Weights `[out, in / groups, ..]`.
    Conv,
    /// Weights `[in, out / groups, ..]`.
    Transposed { groups: usize },
    /// Weights `[in, out]`, or `[out, in]`.
    Matrix { transposed: bool },
}

/// The node that makes a value, if it is linear in constant weights; else why not.
fn linear(ed: &Editor<'_>, value: ValueId) -> Option<Result<Linear, String>> {
    let at = ed.producer(value)?;
    let node = ed.node(at);
    let is_conv = matches!(node.op.as_str(), "Conv" | "com.microsoft.FusedConv" | "ConvTranspose");
    if !is_conv && !matches!(node.op.as_str(), "Gemm" | "MatMul") {
        return None;
    }
    if node.attrs.has("activation") || (is_conv && node.input(3).is_some()) {
        return None;
    }
    if let Some(why) = ed.kept(value) {
        return Some(Err(why));
    }
    let constant = |index: usize| ed.constant(node.input(index)?).cloned();
    let Some(weights) = constant(1) else {
        let open = node.input(1).is_some_and(|id| ed.has_default(id));
        let why =
            if open { "a run may replace its weights" } else { "its weights are not constant" };
        return Some(Err(why.into()));
    };
    let bias = constant(2);
    if node.input(2).is_some() && bias.is_none() {
        return Some(Err("its bias is not constant".into()));
    }
    if !matches!(weights.dtype(), DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        return None;
    }
    let (kind, channels) = shape_of(node, &weights)?;
    // Other forms of the bias of a Gemm, and its factors, are left alone.
    let plain = |tensor: &Tensor| tensor.shape() == [channels];
    let factor = |name: &str| node.attrs.float_or(name, 1.0).is_ok_and(|factor| factor == 1.0);
    if !bias.as_ref().is_none_or(plain) || !factor("alpha") || !factor("beta") {
        return Some(Err("its bias is not one number for each channel".into()));
    }
    Some(Ok(Linear { at, weights, bias, kind, channels }))
}

fn shape_of(node: &Node, weights: &Tensor) -> Option<(Kind, usize)> {
    let shape = weights.shape();
    let transposed = node.attrs.flag_or("transB", false).ok()?;
    match (node.op.as_str(), shape) {
        ("ConvTranspose", [inputs, outputs, ..]) => {
            let groups = usize::try_from(node.attrs.int_or("group", 1).ok()?).ok()?;
            let fits = groups > 0 && inputs % groups == 0;
            fits.then(|| (Kind::Transposed { groups }, outputs * groups))
        }
        ("Gemm" | "MatMul", &[_, n]) if !transposed => Some((Kind::Matrix { transposed }, n)),
        ("Gemm", &[n, _]) => Some((Kind::Matrix { transposed }, n)),
        ("Gemm" | "MatMul", _) => None,
        (_, [channels, _, _, ..]) => Some((Kind::Conv, *channels)),
        _ => None,
    }
}

/// `batchnorm(x) = (x - mean) / sqrt(var + epsilon) * scale + bias`.
fn batchnorm(ed: &mut Editor<'_>, at: usize) -> bool {
    if !ed.is(at, "BatchNormalization") || ed.sole_output(at).is_none() {
        return false;
    }
    let node = ed.node(at);
    let Some(found) = node.input(0).and_then(|x| linear(ed, x)) else { return false };
    let result = found.and_then(|linear| {
        let affine = normalisation(ed, at)?;
        // The channels of a batch of vectors are their last axis; of MatMul, only for matrices.
        let matrix = matches!(linear.kind, Kind::Matrix { .. });
        let on_last = !matrix || node.output(0).and_then(|y| ed.rank(y)) == Some(2);
        if affine.scale.len() != linear.channels || !on_last {
            return Err("its parameters do not fit the channels".into());
        }
        Ok((linear, affine))
    });
    finish(ed, at, "BatchNormalization", result)
}

/// What a BatchNormalization of constants does to each channel; else why it is none.
pub(crate) fn normalisation(ed: &Editor<'_>, at: usize) -> Result<Affine, String> {
    let node = ed.node(at);
    let epsilon = node.attrs.float_or("epsilon", 1e-5).unwrap_or(1e-5);
    let training = node.attrs.flag_or("training_mode", false).unwrap_or(true);
    let numbers = |index: usize| ed.reals(node.input(index)?);
    let params = (numbers(1), numbers(2), numbers(3), numbers(4));
    let (Some(scale), Some(bias), Some(mean), Some(var)) = params else {
        return Err("its parameters are not constant".into());
    };
    let channels = scale.len();
    if training || [bias.len(), mean.len(), var.len()] != [channels; 3] {
        return Err("its parameters do not fit the channels".into());
    }
    let inverse = |channel: usize| 1.0 / (var[channel] + f64::from(epsilon)).sqrt();
    let scale: Vec<f64> = scale.iter().enumerate().map(|(c, s)| s * inverse(c)).collect();
    let shift = (0..channels).map(|c| bias[c] - mean[c] * scale[c]).collect();
    Ok(Affine { scale, shift })
}

fn affine(ed: &mut Editor<'_>, at: usize) -> bool {
    let op = ed.node(at).op.clone();
    let (Some(a), Some(b)) = (ed.input(at, 0), ed.input(at, 1)) else { return false };
    let commutes = matches!(op.as_str(), "Add" | "Mul");
    if !commutes && !matches!(op.as_str(), "Sub" | "Div") {
        return false;
    }
    let (x, constant) = match (ed.constant(a), ed.constant(b)) {
        (None, Some(_)) => (a, b),
        (Some(_), None) if commutes => (b, a),
        _ => return false,
    };
    let Some(found) = linear(ed, x) else { return false };
    let result = found.and_then(|linear| {
        let per_channel = per_channel(ed, &linear, x, constant);
        let values = per_channel.ok_or("the constant is not one number for each channel")?;
        let ones = || vec![1.0; linear.channels];
        let zeros = || vec![0.0; linear.channels];
        let mapped = |f: fn(&f64) -> f64| values.iter().map(f).collect();
        let affine = match op.as_str() {
            "Add" => Affine { scale: ones(), shift: values },
            "Sub" => Affine { scale: ones(), shift: mapped(|x| -x) },
            "Mul" => Affine { scale: values, shift: zeros() },
            _ => Affine { scale: mapped(|x| 1.0 / x), shift: zeros() },
        };
        let finite = affine.scale.iter().all(|scale| scale.is_finite());
        if finite { Ok((linear, affine)) } else { Err("a factor is not finite".into()) }
    });
    finish(ed, at, &op, result)
}

/// A constant as one number for each channel of `x`, if it broadcasts along all other axes.
fn per_channel(
    ed: &Editor<'_>,
    linear: &Linear,
    x: ValueId,
    constant: ValueId,
) -> Option<Vec<f64>> {
    let tensor = ed.constant(constant)?;
    let values = to_f64(tensor).ok()?;
    let (rank, axis) = match linear.kind {
        Kind::Matrix { .. } => (ed.rank(x)?, ed.rank(x)?.checked_sub(1)?),
        _ => (linear.weights.rank(), 1),
    };
    // Axes of the constant are aligned at the right.
    let lead = rank.checked_sub(tensor.rank())?;
    let only_channels =
        tensor.shape().iter().enumerate().all(|(i, &extent)| extent == 1 || lead + i == axis);
    match values.len() {
        1 => Some(vec![values[0]; linear.channels]),
        count if only_channels && count == linear.channels => Some(values),
        _ => None,
    }
}

/// Writes the map into the weights, or says why not.
fn finish(
    ed: &mut Editor<'_>,
    at: usize,
    what: &str,
    result: Result<(Linear, Affine), String>,
) -> bool {
    let (linear, affine) = match result {
        Ok(found) => found,
        Err(why) => {
            ed.miss(at, &format!("{what}: {why}"));
            return false;
        }
    };
    let mut node = ed.node(linear.at).clone();
    let what = format!("{} + {what}", node.op);
    // A MatMul of matrices has no bias, a Gemm does.
    let shifts = affine.shift.iter().any(|&shift| shift != 0.0);
    if node.op == "MatMul" && shifts {
        let matrices = node.input(0).and_then(|x| ed.rank(x)) == Some(2);
        if !matrices {
            // `matmul_bias` takes the constant as it is.
            return false;
        }
        node.op = "Gemm".to_string();
    }
    let Some((weights, bias)) = scaled(&linear, &affine) else { return false };
    let Some(base) = node.input(1).map(|weights| ed.graph().value(weights).name.clone()) else {
        return false;
    };
    if affine.scale.iter().any(|&scale| scale != 1.0) {
        node.inputs[1] = Some(ed.add_constant(&format!("{base}.scaled"), weights));
    }
    if shifts || linear.bias.is_some() {
        node.inputs.resize(node.inputs.len().max(3), None);
        node.inputs[2] = Some(ed.add_constant(&format!("{base}.shift"), bias));
    }
    ed.fuse(at, node, &[linear.at], &what)
}

fn scaled(linear: &Linear, affine: &Affine) -> Option<(Tensor, Tensor)> {
    let Linear { weights, channels, kind, .. } = linear;
    let (dtype, shape) = (weights.dtype(), weights.shape());
    let mut bias = match &linear.bias {
        Some(bias) => to_f64(bias).ok()?,
        None => vec![0.0; *channels],
    };
    for (channel, bias) in bias.iter_mut().enumerate() {
        *bias = *bias * affine.scale[channel] + affine.shift[channel];
    }
    let bias = from_f64(dtype, &[*channels], &bias).ok()?;
    if weights.byte_len() < DEFERRED_BYTES_MIN {
        return Some((scaled_weights(weights, *kind, &affine.scale).ok()?, bias));
    }
    let (source, kind, scale) = (weights.clone(), *kind, affine.scale.clone());
    let make = move || {
        // What is read for this is not kept.
        let own = source.unloaded();
        let scaled = scaled_weights(own.as_ref().unwrap_or(&source), kind, &scale);
        scaled.expect("a float dtype, and memory for a tensor of the model")
    };
    Some((Tensor::made(dtype, shape, make).ok()?, bias))
}

/// The weights times the scale of their channel, in f64 and rounded once.
fn scaled_weights(weights: &Tensor, kind: Kind, scale: &[f64]) -> Result<Tensor, TensorError> {
    if weights.dtype() == DType::F32 {
        let mut scaled = weights.clone();
        let shape = weights.shape();
        by_channel(scaled.as_mut_slice::<f32>()?, shape, kind, scale, |value, scale| {
            *value = (f64::from(*value) * scale) as f32;
        });
        return Ok(scaled);
    }
    let mut values = to_f64(weights)?;
    by_channel(&mut values, weights.shape(), kind, scale, |value, scale| *value *= scale);
    from_f64(weights.dtype(), weights.shape(), &values)
}

/// Calls `f` for each weight with the scale of its channel.
fn by_channel<T>(
    values: &mut [T],
    shape: &[usize],
    kind: Kind,
    scale: &[f64],
    f: impl Fn(&mut T, f64),
) {
    let (rows, second) = (shape[0], shape[1]);
    let inner: usize = shape.iter().skip(2).product();
    if values.is_empty() {
        return;
    }
    for (row, values) in values.chunks_exact_mut(second * inner).enumerate() {
        match kind {
            Kind::Conv | Kind::Matrix { transposed: true } => {
                values.iter_mut().for_each(|value| f(value, scale[row]));
            }
            Kind::Matrix { transposed: false } => {
                values.iter_mut().zip(scale).for_each(|(value, &scale)| f(value, scale));
            }
            Kind::Transposed { groups } => {
                let first = row / (rows / groups) * second;
                for (values, &scale) in values.chunks_exact_mut(inner).zip(&scale[first..]) {
                    values.iter_mut().for_each(|value| f(value, scale));
                }
            }
        }
    }
}
