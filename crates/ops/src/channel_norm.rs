//! Normalisation by channel (axis 1): BatchNormalization, InstanceNormalization,
//! GroupNormalization, and the older LRN, LpNormalization and MeanVarianceNormalization.

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{Tensor, Value, element_count, from_f64, to_f64};

use crate::context::{EvalCtx, InferCtx, infer_same, resolve_axis};
use crate::conv::float_dtype;
use crate::def::{Arity, Kind, OpDef, Upgrade, onnx};
use crate::error::OpError;
use crate::layer_norm::{Style, norm_work, normalise};
use crate::real::{Real, at_least_rank, elements_as, narrow, with_real};
use crate::reduce::{reduced_axes, rows_along};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&BATCH, &INSTANCE, &GROUP, &LRN, &LP, &MEAN_VARIANCE];

const NORM: OpDef =
    OpDef { kind: Kind::Reduce, infer: infer_floats, work: norm_work, ..OpDef::DEFAULT };

static BATCH: OpDef = OpDef {
    name: "BatchNormalization",
    doc: "Normalises each channel by given statistics, or in training by those of the batch.",
    onnx: &[onnx("", "BatchNormalization", 15)],
    inputs: Arity::exactly(5),
    // Before opset 14 there were five outputs; the last two are the statistics of the batch.
    outputs: Arity::between(1, 5),
    kind: Kind::Elementwise,
    upgrade: Some(upgrade_batch),
    infer: infer_batch,
    eval: |ctx| with_real!(0, ctx.tensor(0)?.dtype(), T => eval_batch::<T>(ctx)),
    ..NORM
};

static INSTANCE: OpDef = OpDef {
    name: "InstanceNormalization",
    doc: "Normalises each channel of each instance, then scales and shifts it.",
    onnx: &[onnx("", "InstanceNormalization", 22)],
    inputs: Arity::exactly(3),
    upgrade: Some(|up: &mut Upgrade<'_>| {
        up.node.attrs.take("consumed_inputs");
        Ok(())
    }),
    eval: |ctx| with_real!(0, ctx.tensor(0)?.dtype(), T => eval_groups::<T>(ctx, None)),
    ..NORM
};

static GROUP: OpDef = OpDef {
    name: "GroupNormalization",
    doc: "Normalises each group of channels; scale and bias are by channel (by group in opset 18).",
    onnx: &[onnx("", "GroupNormalization", 21)],
    inputs: Arity::exactly(3),
    eval: |ctx| {
        let groups = *ctx.attrs().int("num_groups")?;
        with_real!(0, ctx.tensor(0)?.dtype(), T => eval_groups::<T>(ctx, Some(groups)))
    },
    ..NORM
};

static LRN: OpDef = OpDef {
    name: "LRN",
    doc: "Divides by a power of the squares of neighbouring channels.",
    onnx: &[onnx("", "LRN", 13)],
    eval: eval_lrn,
    ..NORM
};

static LP: OpDef = OpDef {
    name: "LpNormalization",
    doc: "Divides by the L1 or L2 norm along an axis; a zero norm gives NaN.",
    onnx: &[onnx("", "LpNormalization", 22)],
    eval: eval_lp,
    ..NORM
};

static MEAN_VARIANCE: OpDef = OpDef {
    name: "MeanVarianceNormalization",
    doc: "Zero mean and unit variance over axes.",
    onnx: &[onnx("", "MeanVarianceNormalization", 13)],
    eval: eval_mean_variance,
    ..NORM
};

/// Before opset 14, training was asked for by wanting the further outputs.
fn upgrade_batch(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    let version = up.node.version;
    up.node.attrs.take("consumed_inputs");
    up.node.attrs.take("is_test");
    if version >= 9 || up.node.attrs.int_or("spatial", 1)? != 0 {
        up.node.attrs.take("spatial");
    }
    if version < 14 && up.node.outputs.iter().skip(1).any(Option::is_some) {
        up.node.attrs.set("training_mode", 1);
    }
    Ok(())
}

/// x is seen as (batch, channels, inner); without `spatial` each place is a channel.
fn eval_batch<T: Real>(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    at_least_rank(0, x.rank(), 1)?;
    let spatial = ctx.attrs().flag_or("spatial", true)?;
    let batch = x.shape()[0];
    let channels = match x.shape() {
        [_] => 1,
        [_, channels, ..] if spatial => *channels,
        [_, rest @ ..] => element_count(rest)?,
        [] => 1,
    };
    let inner = x.len().checked_div(element_count(&[batch, channels])?).unwrap_or(0);
    let vectors = (1..5)
        .map(|index| {
            let tensor = ctx.tensor(index)?;
            if tensor.len() != channels {
                return Err(OpError::input(
                    index,
                    format!("{channels} numbers"),
                    tensor.describe(),
                ));
            }
            Ok(to_f64(tensor)?)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let values = elements_as::<T>(0, x)?;
    let training = ctx.attrs().flag_or("training_mode", false)?;
    let (mean, variance) = match training {
        true => batch_statistics(&values, batch, channels, inner),
        false => (vectors[2].clone(), vectors[3].clone()),
    };
    let epsilon = f64::from(ctx.attrs().float_or("epsilon", 1e-5)?);
    let mut out = Tensor::zeros(T::DTYPE, x.shape())?;
    let planes = out.as_mut_slice::<T>()?.chunks_mut(inner.max(1));
    for (index, (target, source)) in planes.zip(values.chunks(inner.max(1))).enumerate() {
        let channel = index % channels;
        let factor = vectors[0][channel] / (variance[channel] + epsilon).sqrt();
        let (centre, shift) = (mean[channel], vectors[1][channel]);
        for (slot, value) in target.iter_mut().zip(source) {
            *slot = T::of((value.wide() - centre) * factor + shift);
        }
    }
    let mut outputs: Vec<Value> = vec![narrow(out, x.dtype())?.into()];
    if ctx.node.outputs.len() > 1 {
        let momentum = f64::from(ctx.attrs().float_or("momentum", 0.9)?);
        let (dtype, shape) = (ctx.tensor(3)?.dtype(), ctx.tensor(3)?.shape());
        let blend = |old: &[f64], new: &[f64]| -> Vec<f64> {
            old.iter().zip(new).map(|(o, n)| o * momentum + n * (1.0 - momentum)).collect()
        };
        let running = [blend(&vectors[2], &mean), blend(&vectors[3], &variance), mean, variance];
        for values in running.iter().take(ctx.node.outputs.len() - 1) {
            outputs.push(from_f64(dtype, shape, values)?.into());
        }
    }
    Ok(outputs)
}

/// Mean and population variance of each channel.
fn batch_statistics<T: Real>(
    values: &[T],
    batch: usize,
    channels: usize,
    inner: usize,
) -> (Vec<f64>, Vec<f64>) {
    let total = (batch * inner) as f64;
    let planes = |channel: usize| {
        let starts = (0..batch).map(move |image| (image * channels + channel) * inner);
        starts.flat_map(|start| &values[start..start + inner])
    };
    let statistics = |channel: usize| {
        let mean = planes(channel).map(|value| value.wide()).sum::<f64>() / total;
        let square = |value: &T| (value.wide() - mean) * (value.wide() - mean);
        (mean, planes(channel).map(square).sum::<f64>() / total)
    };
    (0..channels).map(statistics).unzip()
}

/// Normalises (batch, groups, rest); `None` makes each channel a group.
fn eval_groups<T: Real>(ctx: &EvalCtx<'_>, groups: Option<i64>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    at_least_rank(0, x.rank(), 2)?;
    let channels = x.shape()[1];
    let groups = match groups {
        None => channels,
        Some(groups) => usize::try_from(groups)
            .ok()
            .filter(|&groups| groups > 0 && channels.is_multiple_of(groups))
            .ok_or_else(|| OpError::invalid(format!("{channels} channels in {groups} groups")))?,
    };
    // Before opset 21 scale and bias had one number for each group.
    let by_group = ctx.node.op == GROUP.name && ctx.node.version < 21;
    if x.is_empty() {
        return Ok(vec![x.clone().into()]);
    }
    let inner = element_count(&x.shape()[2..])?;
    let length = channels / groups * inner;
    let affine = |index: usize| -> Result<Vec<f64>, OpError> {
        let tensor = ctx.tensor(index)?;
        let values = to_f64(tensor)?;
        if by_group && values.len() == groups {
            let repeat = channels / groups;
            return Ok(values.iter().flat_map(|&v| std::iter::repeat_n(v, repeat)).collect());
        }
        if values.len() != channels {
            return Err(OpError::input(index, format!("{channels} numbers"), tensor.describe()));
        }
        Ok(values)
    };
    let (scale, bias) = (affine(1)?, affine(2)?);
    let epsilon = ctx.attrs().float_or("epsilon", 1e-5)?;
    let values = elements_as::<T>(0, x)?;
    let settings = (length, epsilon, Style::MEAN);
    let mut out = normalise::<T>(x.shape(), &values, settings, None, None)?.out;
    for (index, plane) in out.as_mut_slice::<T>()?.chunks_mut(inner).enumerate() {
        let (factor, shift) = (scale[index % channels], bias[index % channels]);
        plane.iter_mut().for_each(|slot| *slot = T::of(slot.wide() * factor + shift));
    }
    Ok(vec![narrow(out, x.dtype())?.into()])
}

/// What the attributes of an LRN say: y = x / (bias + alpha * sum of squares)^beta, over channels
/// about each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LrnForm {
    /// Channels before each that count.
    pub back: usize,
    /// Channels after each that count.
    pub forward: usize,
    /// Factor of the sum: the attribute over the size of the window.
    pub alpha: f64,
    /// The power.
    pub beta: f32,
    /// Added to the sum.
    pub bias: f32,
}

impl LrnForm {
    /// Reads the attributes.
    ///
    /// # Errors
    /// An attribute of a wrong kind or value.
    pub fn of(attrs: &Attrs) -> Result<LrnForm, OpError> {
        let size = *attrs.int("size")?;
        let span = usize::try_from(size)
            .ok()
            .filter(|&size| size > 0)
            .ok_or_else(|| OpError::invalid(format!("size is {size}")))?;
        // The window reaches (size - 1) / 2 channels back, and the rest of `size` forward.
        Ok(LrnForm {
            back: (span - 1) / 2,
            forward: span / 2,
            alpha: f64::from(attrs.float_or("alpha", 1e-4)?) / span as f64,
            beta: attrs.float_or("beta", 0.75)?,
            bias: attrs.float_or("bias", 1.0)?,
        })
    }
}

fn eval_lrn(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    float_input(x)?;
    at_least_rank(0, x.rank(), 2)?;
    let LrnForm { back, forward, alpha, beta, bias } = LrnForm::of(ctx.attrs())?;
    if x.is_empty() {
        return Ok(vec![x.clone().into()]);
    }
    let (channels, inner) = (x.shape()[1], element_count(&x.shape()[2..])?);
    let values = to_f64(x)?;
    let mut out = vec![0f64; values.len()];
    let image = channels * inner;
    let mut sums = vec![0f64; inner];
    for index in 0..x.len() / inner {
        let (start, channel) = (index / channels * image, index % channels);
        sums.fill(0.0);
        let last = channel.saturating_add(forward).min(channels - 1);
        for other in channel.saturating_sub(back)..=last {
            let plane = &values[start + other * inner..start + (other + 1) * inner];
            sums.iter_mut().zip(plane).for_each(|(sum, value)| *sum += value * value);
        }
        let at = index * inner;
        for (offset, sum) in sums.iter().enumerate() {
            let divisor = (f64::from(bias) + alpha * sum).powf(f64::from(beta));
            out[at + offset] = values[at + offset] / divisor;
        }
    }
    Ok(vec![from_f64(x.dtype(), x.shape(), &out)?.into()])
}

fn float_input(x: &Tensor) -> Result<(), OpError> {
    if x.dtype().is_float() {
        return Ok(());
    }
    Err(OpError::input(0, "floats", x.describe()))
}

fn eval_lp(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    float_input(x)?;
    let axis = resolve_axis(ctx.attrs().int_or("axis", -1)?, x.rank())?;
    let order = ctx.attrs().int_or("p", 2)?;
    if order != 1 && order != 2 {
        return Err(OpError::invalid(format!("p is {order}, wanted 1 or 2")));
    }
    if x.is_empty() {
        return Ok(vec![x.clone().into()]);
    }
    let inner = element_count(&x.shape()[axis + 1..])?;
    let length = x.shape()[axis];
    let mut values = to_f64(x)?;
    let block = length * inner;
    for (index, rest) in (0..values.len() / block).flat_map(|b| (0..inner).map(move |r| (b, r))) {
        let places = || (0..length).map(|at| index * block + at * inner + rest);
        let norm = match order {
            1 => places().map(|at| values[at].abs()).sum::<f64>(),
            _ => places().map(|at| values[at] * values[at]).sum::<f64>().sqrt(),
        };
        places().for_each(|at| values[at] /= norm);
    }
    Ok(vec![from_f64(x.dtype(), x.shape(), &values)?.into()])
}

fn eval_mean_variance(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    float_input(x)?;
    let axes = ctx.attrs().ints_opt("axes")?.map_or(&[0, 2, 3][..], Vec::as_slice);
    let axes = reduced_axes(Some(axes), false, x.rank())?;
    let (laid, length) = rows_along(x, &axes)?;
    let mut values = to_f64(&laid)?;
    for row in values.chunks_mut(length.max(1)) {
        let mean = row.iter().sum::<f64>() / length as f64;
        row.iter_mut().for_each(|value| *value -= mean);
        let variance = row.iter().map(|value| value * value).sum::<f64>() / length as f64;
        // The specification writes (X - EX) / sqrt(E(X - EX)^2) with 1e-9 against division by 0.
        let deviation = variance.sqrt() + 1e-9;
        row.iter_mut().for_each(|value| *value /= deviation);
    }
    let laid = from_f64(x.dtype(), laid.shape(), &values)?;
    let order: Vec<usize> =
        (0..x.rank()).filter(|axis| !axes.contains(axis)).chain(axes.iter().copied()).collect();
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(place, &axis)| back[axis] = place);
    // `rows_along` has moved the axes only where that changes anything; so does the way back.
    let laid = match order.is_sorted() {
        true => laid,
        false => laid.view().permute(&back)?.to_tensor()?,
    };
    Ok(vec![laid.into()])
}

fn infer_floats(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    float_dtype(ctx)?;
    infer_same(ctx)
}

fn infer_batch(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    float_dtype(ctx)?;
    let statistic = ctx.ty(3)?.clone();
    let mut types = vec![ctx.ty(0)?.clone()];
    if let (Some([_, channel, ..]), true) = (ctx.dims(0), ctx.attrs().flag_or("spatial", true)?)
        && let (Dim::Known(channels), Some([Dim::Known(given)])) = (channel, ctx.dims(3))
        && channels != given
    {
        return Err(OpError::input(3, format!("{channels} numbers"), format!("{given}")));
    }
    types.resize(ctx.node.outputs.len().max(1), statistic);
    Ok(types)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{floats, iota, node, run};

    fn near(got: &Tensor, wanted: &[f32]) {
        for (got, wanted) in got.as_slice::<f32>().unwrap().iter().zip(wanted) {
            assert!((got - wanted).abs() < 1e-4, "{got}, wanted {wanted}");
        }
        assert_eq!(got.len(), wanted.len());
    }

    #[test]
    fn batch_normalization_both_ways() {
        let v = |a: f32, b: f32| floats(&[2], &[a, b]);
        let inputs = [iota(&[2, 2, 1]), v(1.0, 2.0), v(0.0, 1.0), v(0.0, 1.0), v(1.0, 4.0)];
        let y = run(node("BatchNormalization", 1), &inputs).unwrap();
        near(&y[0], &[0.0, 1.0, 2.0, 3.0]);
        let training = node("BatchNormalization", 3).with("training_mode", 1);
        let y = run(training, &inputs).unwrap();
        near(&y[0], &[-1.0, -1.0, 1.0, 3.0]);
        near(&y[1], &[0.1, 1.1]);
        near(&y[2], &[1.0, 3.7]);
        let short = [iota(&[2, 3]), v(1.0, 1.0), v(1.0, 1.0), v(1.0, 1.0), v(1.0, 1.0)];
        assert!(run(node("BatchNormalization", 1), &short).is_err());
    }

    #[test]
    fn groups_of_channels() {
        let mut old = node("GroupNormalization", 1).with("num_groups", 2);
        let inputs = [iota(&[1, 4, 1]), floats(&[2], &[1.0, 2.0]), floats(&[2], &[0.0, 1.0])];
        assert!(run(old.clone(), &inputs).is_err(), "opset 21 wants channels");
        old.version = 18;
        near(&run(old, &inputs).unwrap()[0], &[-1.0, 1.0, -1.0, 3.0]);
        let inputs = [iota(&[1, 1, 2]), floats(&[1], &[2.0]), floats(&[1], &[1.0])];
        near(&run(node("InstanceNormalization", 1), &inputs).unwrap()[0], &[-1.0, 3.0]);
        let wrong = node("GroupNormalization", 1).with("num_groups", 3);
        assert!(run(wrong, &[iota(&[1, 4]), iota(&[4]), iota(&[4])]).is_err());
    }

    #[test]
    fn older_normalizations() {
        let x = floats(&[1, 2, 2], &[3.0, 0.0, 4.0, 0.0]);
        let y = run(node("LpNormalization", 1).with("axis", 1), std::slice::from_ref(&x)).unwrap();
        let got = y[0].as_slice::<f32>().unwrap();
        assert!(got[0] == 0.6 && got[2] == 0.8 && got[1].is_nan() && got[3].is_nan(), "{got:?}");
        let lrn = node("LRN", 1).with("size", 3).with("alpha", 3.0f32).with("beta", 1.0f32);
        near(&run(lrn, std::slice::from_ref(&x)).unwrap()[0], &[3.0 / 26.0, 0.0, 4.0 / 26.0, 0.0]);
        let mvn = node("MeanVarianceNormalization", 1).with("axes", vec![1]);
        near(&run(mvn, &[x]).unwrap()[0], &[-1.0, 0.0, 1.0, 0.0]);
        assert!(run(node("LRN", 1).with("size", 0), &[iota(&[1, 1])]).is_err());
    }
}
