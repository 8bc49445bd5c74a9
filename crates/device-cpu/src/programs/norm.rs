//! Softmax and the normalisations.

use std::sync::Arc;

use hetra_device::{Call, Part, Program, Values};
use hetra_ir::Node;
use hetra_ops::{LayerNormForm, LrnForm, SoftmaxForm};
use hetra_tensor::{DType, Tensor};
use smallvec::smallvec;

use super::{Compile, Form, Outcome, one, program};
use hetra_cpu_base::isa::isa;
use hetra_cpu_rows::lrn::{Lrn, lrn};
use hetra_cpu_rows::norm::{GroupNorm, LayerNorm, channel_affine, group_norm, layer_norm, softmax};

pub(super) static OPS: &[(&str, Compile)] = &[
    ("Softmax", compile_softmax),
    ("LogSoftmax", compile_softmax),
    ("LayerNormalization", compile_layer_norm),
    ("RMSNormalization", compile_layer_norm),
    ("SimplifiedLayerNormalization", compile_layer_norm),
    ("com.microsoft.SkipLayerNormalization", compile_skip),
    ("com.microsoft.SkipSimplifiedLayerNormalization", compile_skip),
    ("GroupNormalization", compile_group),
    ("InstanceNormalization", compile_instance),
    ("BatchNormalization", compile_batch),
    ("LRN", compile_lrn),
];

/// Whether scale and bias of a LayerNormalization are rows, as far as shapes are known.
fn scales_rows(form: &Form<'_>) -> bool {
    let shape = |index: usize| form.ty(form.node.input(index)).known_shape();
    let Some(x) = shape(0) else { return true };
    let norm = LayerNormForm::resolve(&form.node.attrs, &x);
    norm.is_ok_and(|norm| [1, 2].into_iter().filter_map(shape).all(|own| norm.is_row(&x, &own)))
}

pub(super) fn takes(form: &Form<'_>) -> bool {
    let node = form.node;
    let flag = |name: &str, default: bool| node.attrs.flag_or(name, default).unwrap_or(!default);
    match node.op.as_str() {
        // The statistics as outputs are the reference's business.
        "LayerNormalization" | "SimplifiedLayerNormalization" => {
            node.outputs.iter().skip(1).all(Option::is_none) && scales_rows(form)
        }
        "com.microsoft.SkipLayerNormalization"
        | "com.microsoft.SkipSimplifiedLayerNormalization" => {
            node.output(1).is_none() && node.output(2).is_none()
        }
        "BatchNormalization" => {
            node.outputs.len() == 1 && !flag("training_mode", false) && flag("spatial", true)
        }
        _ => true,
    }
}

fn compile_softmax(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let log = node.op == "LogSoftmax";
    program("softmax", move |call| {
        let x = call.tensor(0)?.clone();
        if x.dtype() != DType::F32 {
            return Ok(None);
        }
        let form = SoftmaxForm::resolve(call.node, x.shape())?;
        let mut out = call.output(0, DType::F32, x.shape())?;
        let sizes = [form.outer, form.length, form.inner];
        softmax(isa(), x.as_slice()?, out.as_mut_slice()?, sizes, log);
        one(out)
    })
}

/// Whether all given tensors are f32.
fn floats(tensors: &[Option<&Tensor>]) -> bool {
    tensors.iter().flatten().all(|tensor| tensor.dtype() == DType::F32)
}

fn compile_layer_norm(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let rms = node.op != "LayerNormalization";
    program("layer norm", move |call| {
        let (x, scale) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
        let bias = call.tensor_opt(2).cloned();
        if !floats(&[Some(&x), Some(&scale), bias.as_ref()]) {
            return Ok(None);
        }
        let form = LayerNormForm::resolve(&call.node.attrs, x.shape())?;
        let fits = |tensor: &Tensor| form.is_row(x.shape(), tensor.shape());
        if x.is_empty() || !fits(&scale) || !bias.as_ref().is_none_or(fits) {
            return Ok(None);
        }
        let mut out = call.output(0, DType::F32, x.shape())?;
        let norm = LayerNorm {
            cols: form.length,
            eps: form.epsilon,
            scale: scale.as_slice()?,
            bias: bias.as_ref().map(Tensor::as_slice).transpose()?,
            rms,
            skip: None,
            skip_bias: None,
        };
        layer_norm(isa(), &norm, x.as_slice()?, out.as_mut_slice()?, None);
        one(out)
    })
}

/// Inputs: x, skip, scale, bias (not in the simplified form), bias of the sum. Outputs: the result
/// and, fourth, the sum.
fn compile_skip(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let rms = node.op == "com.microsoft.SkipSimplifiedLayerNormalization";
    program("layer norm", move |call| run_skip(call, rms))
}

fn run_skip(call: &mut Call<'_>, rms: bool) -> Outcome {
    let (x, skip) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let scale = call.tensor(2)?.clone();
    let further = |index: usize| call.tensor_opt(index).cloned();
    let (bias, skip_bias) = if rms { (None, further(3)) } else { (further(3), further(4)) };
    let all = [Some(&x), Some(&skip), Some(&scale), bias.as_ref(), skip_bias.as_ref()];
    let cols = x.shape().last().copied().unwrap_or(0);
    let row = |tensor: &Tensor| tensor.len() == cols;
    let fits = skip.shape() == x.shape() && row(&scale) && bias.as_ref().is_none_or(row);
    if !floats(&all) || x.is_empty() || !fits || !skip_bias.as_ref().is_none_or(row) {
        return Ok(None);
    }
    let eps = call.node.attrs.float_or("epsilon", 1e-12)?;
    let mut out = call.output(0, DType::F32, x.shape())?;
    let mut sum = match call.node.output(3) {
        Some(_) => Some(call.output(3, DType::F32, x.shape())?),
        None => None,
    };
    let norm = LayerNorm {
        cols,
        eps,
        scale: scale.as_slice()?,
        bias: bias.as_ref().map(Tensor::as_slice).transpose()?,
        rms,
        skip: Some(skip.as_slice()?),
        skip_bias: skip_bias.as_ref().map(Tensor::as_slice).transpose()?,
    };
    let sum_out = sum.as_mut().map(Tensor::as_mut_slice).transpose()?;
    layer_norm(isa(), &norm, x.as_slice()?, out.as_mut_slice()?, sum_out);
    let mut values: Values = smallvec![out.into()];
    if let Some(sum) = sum {
        // Outputs 1 and 2 are not wanted; they hold their places.
        values.extend([
            Tensor::zeros(DType::F32, &[0])?.into(),
            Tensor::zeros(DType::F32, &[0])?.into(),
        ]);
        values.push(sum.into());
    }
    Ok(Some(values))
}

/// Batch, channels and elements of a plane of an (N, C, ..) tensor with one factor a channel.
fn planes(x: &Tensor, per_channel: &[&Tensor]) -> Option<[usize; 3]> {
    let [n, c, spatial @ ..] = x.shape() else { return None };
    let fits = per_channel.iter().all(|tensor| tensor.shape() == [*c]);
    (fits && !x.is_empty()).then(|| [*n, *c, spatial.iter().product()])
}

fn compile_instance(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let eps = node.attrs.float_or("epsilon", 1e-5).ok()?;
    program("group norm", move |call| run_group(call, None, eps))
}

fn compile_group(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let eps = node.attrs.float_or("epsilon", 1e-5).ok()?;
    let groups = usize::try_from(*node.attrs.int("num_groups").ok()?).ok()?;
    program("group norm", move |call| run_group(call, Some(groups), eps))
}

/// `groups` of channels with common statistics; by default each channel is one.
fn run_group(call: &mut Call<'_>, groups: Option<usize>, eps: f32) -> Outcome {
    let x = call.tensor(0)?.clone();
    let (scale, bias) = (call.tensor(1)?.clone(), call.tensor(2)?.clone());
    if !floats(&[Some(&x), Some(&scale), Some(&bias)]) {
        return Ok(None);
    }
    let Some(shape) = planes(&x, &[&scale, &bias]) else { return Ok(None) };
    let groups = groups.unwrap_or(shape[1]);
    if groups == 0 || !shape[1].is_multiple_of(groups) {
        return Ok(None);
    }
    let mut out = call.output(0, DType::F32, x.shape())?;
    let (scale, bias) = (scale.as_slice()?, bias.as_slice()?);
    let norm = GroupNorm { shape, groups, eps, scale, bias };
    group_norm(isa(), &norm, x.as_slice()?, out.as_mut_slice()?);
    one(out)
}

fn compile_lrn(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let form = LrnForm::of(&node.attrs).ok()?;
    // The kernel raises positive numbers to a power.
    if !(form.bias > 0.0 && form.alpha >= 0.0) {
        return None;
    }
    program("lrn", move |call| {
        let x = call.tensor(0)?.clone();
        let Some(shape) = planes(&x, &[]) else { return Ok(None) };
        if x.dtype() != DType::F32 {
            return Ok(None);
        }
        let mut out = call.output(0, DType::F32, x.shape())?;
        let LrnForm { back, forward, alpha, beta, bias } = form;
        let norm = Lrn { shape, back, ahead: forward, alpha: alpha as f32, beta, bias };
        lrn(isa(), &norm, x.as_slice()?, out.as_mut_slice()?);
        one(out)
    })
}

fn compile_batch(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let eps = f64::from(node.attrs.float_or("epsilon", 1e-5).ok()?);
    program("affine", move |call| {
        let x = call.tensor(0)?.clone();
        let rest: Vec<Tensor> =
            (1..5).map(|index| call.tensor(index).cloned()).collect::<Result<_, _>>()?;
        let [scale, bias, mean, variance] = rest.as_slice() else { return Ok(None) };
        if !floats(&[Some(&x), Some(scale), Some(bias), Some(mean), Some(variance)]) {
            return Ok(None);
        }
        let Some(shape) = planes(&x, &[scale, bias, mean, variance]) else { return Ok(None) };
        let (scale, bias) = (scale.as_slice::<f32>()?, bias.as_slice::<f32>()?);
        let (mean, variance) = (mean.as_slice::<f32>()?, variance.as_slice::<f32>()?);
        let factor = |c: usize| f64::from(scale[c]) / (f64::from(variance[c]) + eps).sqrt();
        let factors: Vec<f32> = (0..shape[1]).map(|c| factor(c) as f32).collect();
        let shifts: Vec<f32> = (0..shape[1])
            .map(|c| (f64::from(bias[c]) - f64::from(mean[c]) * factor(c)) as f32)
            .collect();
        let mut out = call.output(0, DType::F32, x.shape())?;
        channel_affine(isa(), shape, &factors, &shifts, x.as_slice()?, out.as_mut_slice()?);
        one(out)
    })
}
