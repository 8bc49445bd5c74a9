//! Normalisation over the last axes: LayerNormalization, RMSNormalization and their fused forms.
//!
//! Rows are normalised with statistics in f64; `stash_type` only chooses the dtype in which the
//! statistics are handed out.

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{DType, Tensor, Value, element_count};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::error::OpError;
use crate::real::{Real, elements_as, narrow, with_real};
use crate::tape::{Gradients, Tape, Var};
use crate::work::{Work, elements};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&LAYER, &RMS, &SIMPLIFIED, &SKIP_LAYER, &SKIP_SIMPLIFIED];

const NORM: OpDef = OpDef {
    inputs: Arity::between(2, 3),
    outputs: Arity::between(1, 3),
    kind: Kind::Reduce,
    infer: infer_norm,
    work: norm_work,
    eval: |ctx| with_real!(0, ctx.tensor(0)?.dtype(), T => eval_norm::<T>(ctx, Style::MEAN)),
    gradient: Some(|tape| norm_gradient(tape, true)),
    ..OpDef::DEFAULT
};

static LAYER: OpDef = OpDef {
    name: "LayerNormalization",
    doc: "Zero mean and unit variance over the last axes, then scale and bias.",
    onnx: &[onnx("", "LayerNormalization", 17), onnx("com.microsoft", "LayerNormalization", 1)],
    ..NORM
};

static RMS: OpDef = OpDef {
    name: "RMSNormalization",
    doc: "Unit mean square over the last axes, then scale.",
    onnx: &[onnx("", "RMSNormalization", 23)],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    infer: |ctx| Ok(infer_norm(ctx)?.into_iter().take(1).collect()),
    eval: |ctx| with_real!(0, ctx.tensor(0)?.dtype(), T => eval_norm::<T>(ctx, Style::ROOT)),
    gradient: Some(|tape| norm_gradient(tape, false)),
    ..NORM
};

static SIMPLIFIED: OpDef = OpDef {
    name: "SimplifiedLayerNormalization",
    doc: "RMSNormalization that also gives the inverse root mean square.",
    onnx: &[
        onnx("", "SimplifiedLayerNormalization", 1),
        onnx("com.microsoft", "SimplifiedLayerNormalization", 1),
    ],
    inputs: Arity::exactly(2),
    outputs: Arity::between(1, 2),
    infer: |ctx| Ok(infer_norm(ctx)?.into_iter().take(2).collect()),
    eval: |ctx| with_real!(0, ctx.tensor(0)?.dtype(), T => eval_norm::<T>(ctx, Style::ROOT)),
    gradient: Some(|tape| norm_gradient(tape, false)),
    ..NORM
};

/// Rows are x times `inverse`, from which `centred` ones first lost their mean; by the chain rule
/// the gradient loses its mean, and its part along the row, in turn.
fn norm_gradient<'a>(tape: &'a Tape, centred: bool) -> Gradients<'a> {
    if tape.has_dy(1) || tape.has_dy(2) {
        return Err(OpError::unsupported("the gradient of the statistics"));
    }
    let (x, scale, dy, attrs) = (tape.x(0)?, tape.x(1)?, tape.dy(0), tape.attrs());
    let axes = x.axes_from(attrs.int_or("axis", -1)?);
    let mean = |x: Var<'a>| x.reduce("ReduceMean", axes);
    let x = if centred { x - mean(x) } else { x };
    let epsilon = f64::from(attrs.float_or("epsilon", 1e-5)?);
    let inverse = 1.0 / (mean(x * x) + epsilon).apply("Sqrt");
    let (row, slope) = (x * inverse, dy * scale);
    let rest = slope - row * mean(slope * row);
    let rest = if centred { rest - mean(slope) } else { rest };
    let bias = tape.x_opt(2).map(|bias| dy.sum_to(bias));
    Ok(vec![Some(rest * inverse), Some((dy * row).sum_to(scale)), bias])
}

const SKIP: OpDef =
    OpDef { outputs: Arity::between(1, 4), infer: infer_skip, gradient: None, ..NORM };

static SKIP_LAYER: OpDef = OpDef {
    name: "com.microsoft.SkipLayerNormalization",
    doc: "LayerNormalization of the sum of input, skip connection and bias.",
    onnx: &[onnx("com.microsoft", "SkipLayerNormalization", 1)],
    inputs: Arity::between(3, 5),
    eval: |ctx| with_real!(0, ctx.tensor(0)?.dtype(), T => eval_skip::<T>(ctx, Style::MEAN)),
    ..SKIP
};

static SKIP_SIMPLIFIED: OpDef = OpDef {
    name: "com.microsoft.SkipSimplifiedLayerNormalization",
    doc: "RMSNormalization of the sum of input, skip connection and bias.",
    onnx: &[onnx("com.microsoft", "SkipSimplifiedLayerNormalization", 1)],
    inputs: Arity::between(3, 4),
    eval: |ctx| with_real!(0, ctx.tensor(0)?.dtype(), T => eval_skip::<T>(ctx, Style::ROOT)),
    ..SKIP
};

/// What is subtracted before the division.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Style {
    /// Whether the mean is (else the root mean square is the divisor).
    centred: bool,
}

impl Style {
    pub(crate) const MEAN: Style = Style { centred: true };
    const ROOT: Style = Style { centred: false };
}

/// What a normalisation over the last axes runs over, resolved once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNormForm {
    /// The first normalised axis.
    pub axis: usize,
    /// Number of rows.
    pub rows: usize,
    /// Elements of one row.
    pub length: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

impl LayerNormForm {
    /// Reads the attributes of a node whose input has this shape.
    ///
    /// # Errors
    /// When the axis is out of range.
    pub fn resolve(attrs: &Attrs, shape: &[usize]) -> Result<LayerNormForm, OpError> {
        let axis = resolve_axis(attrs.int_or("axis", -1)?, shape.len())?;
        let (rows, length) = (element_count(&shape[..axis])?, element_count(&shape[axis..])?);
        Ok(LayerNormForm { axis, rows, length, epsilon: attrs.float_or("epsilon", 1e-5)? })
    }

    /// Whether a scale or bias of shape `of` holds one number for each element of a row of an
    /// input of shape `x`. Else it has to broadcast to the input, and may be another for each row.
    pub fn is_row(&self, x: &[usize], of: &[usize]) -> bool {
        let first = of.iter().position(|&extent| extent != 1).unwrap_or(of.len());
        let kept = &of[first..];
        kept.len() <= x.len() - self.axis
            && element_count(kept).is_ok_and(|count| count == self.length)
    }
}

/// Normalised rows and their statistics.
pub(crate) struct Normalised {
    pub(crate) out: Tensor,
    means: Vec<f64>,
    inverse_deviations: Vec<f64>,
}

/// Normalises rows of `length`; `scale` and `bias` hold one factor for each element of `x`, or of
/// a row, repeated for all rows.
pub(crate) fn normalise<T: Real>(
    shape: &[usize],
    x: &[T],
    (length, epsilon, style): (usize, f32, Style),
    scale: Option<&[T]>,
    bias: Option<&[T]>,
) -> Result<Normalised, OpError> {
    let mut out = Tensor::zeros(T::DTYPE, shape)?;
    let rows = x.len().checked_div(length).unwrap_or(0);
    let mut means = Vec::with_capacity(rows);
    let mut inverse_deviations = Vec::with_capacity(rows);
    let target = out.as_mut_slice::<T>()?;
    for (index, row) in x.chunks_exact(length.max(1)).enumerate() {
        let mean = row.iter().map(|value| value.wide()).sum::<f64>() / length as f64;
        let centre = if style.centred { mean } else { 0.0 };
        let square = |value: &T| (value.wide() - centre) * (value.wide() - centre);
        let variance = row.iter().map(square).sum::<f64>() / length as f64;
        let factor = 1.0 / (variance + f64::from(epsilon)).sqrt();
        let start = index * length;
        for (at, value) in row.iter().enumerate() {
            let mut result = (value.wide() - centre) * factor;
            if let Some(scale) = scale {
                result *= scale[(start + at) % scale.len()].wide();
            }
            if let Some(bias) = bias {
                result += bias[(start + at) % bias.len()].wide();
            }
            target[start + at] = T::of(result);
        }
        means.push(mean);
        inverse_deviations.push(factor);
    }
    Ok(Normalised { out, means, inverse_deviations })
}

/// Scale or bias at an input: one number for each element of a row, or of the whole tensor.
fn affine<T: Real>(
    ctx: &EvalCtx<'_>,
    index: usize,
    shape: &[usize],
    form: &LayerNormForm,
) -> Result<Option<Vec<T>>, OpError> {
    let Some(tensor) = ctx.tensor_opt(index) else { return Ok(None) };
    let values = elements_as::<T>(index, tensor)?;
    if form.is_row(shape, tensor.shape()) {
        return Ok(Some(values.into_owned()));
    }
    let plain = Tensor::from_slice(tensor.shape(), &values)?;
    let fault = |_| OpError::input(index, format!("broadcast to {shape:?}"), tensor.describe());
    Ok(Some(plain.view().broadcast_to(shape).map_err(fault)?.to_vec::<T>()?))
}

fn eval_norm<T: Real>(ctx: &EvalCtx<'_>, style: Style) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let form = LayerNormForm::resolve(ctx.attrs(), x.shape())?;
    let scale = affine::<T>(ctx, 1, x.shape(), &form)?;
    let bias = affine::<T>(ctx, 2, x.shape(), &form)?;
    let values = elements_as::<T>(0, x)?;
    let settings = (form.length, form.epsilon, style);
    let result = normalise(x.shape(), &values, settings, scale.as_deref(), bias.as_deref())?;
    // The scale of RMSNormalization decides the dtype of its result.
    let dtype = if style.centred { x.dtype() } else { ctx.tensor(1)?.dtype() };
    let mut outputs: Vec<Value> = vec![narrow(result.out, dtype)?.into()];
    let stash = stash_dtype(ctx.attrs())?;
    let mut shape = x.shape()[..form.axis].to_vec();
    shape.resize(x.rank(), 1);
    // There may be many rows without elements: the memory limit is checked first.
    Tensor::zeros(stash, &shape)?;
    let statistic = |mut values: Vec<f64>| -> Result<Value, OpError> {
        // Rows of no elements have no statistics.
        values.resize(form.rows, f64::NAN);
        Ok(hetra_tensor::from_f64(stash, &shape, &values)?.into())
    };
    if style.centred {
        outputs.push(statistic(result.means)?);
    }
    outputs.push(statistic(result.inverse_deviations)?);
    outputs.truncate(ctx.node.outputs.len().max(1));
    Ok(outputs)
}

fn stash_dtype(attrs: &Attrs) -> Result<DType, OpError> {
    let code = attrs.int_or("stash_type", 1)?;
    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx);
    dtype
        .filter(|dtype| dtype.is_float())
        .ok_or_else(|| OpError::invalid(format!("stash_type {code} is not a float type")))
}

/// Input, skip, scale, then bias of the norm (not in the simplified form), then bias of the sum.
fn eval_skip<T: Real>(ctx: &EvalCtx<'_>, style: Style) -> Result<Vec<Value>, OpError> {
    let (x, skip) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let length = *x.shape().last().ok_or_else(|| OpError::input(0, "an axis", x.describe()))?;
    let mut sum = elements_as::<T>(0, x)?.into_owned();
    let plain = Tensor::from_slice(skip.shape(), &elements_as::<T>(1, skip)?)?;
    let fault = |_| OpError::input(1, format!("broadcast to {:?}", x.shape()), skip.describe());
    let spread = plain.view().broadcast_to(x.shape()).map_err(fault)?.to_vec::<T>()?;
    sum.iter_mut().zip(spread).for_each(|(value, more)| *value = value.plus(more));
    let vector = |index: usize| -> Result<Option<Vec<T>>, OpError> {
        let Some(tensor) = ctx.tensor_opt(index) else { return Ok(None) };
        if tensor.len() != length {
            return Err(OpError::input(index, format!("{length} numbers"), tensor.describe()));
        }
        Ok(Some(elements_as::<T>(index, tensor)?.into_owned()))
    };
    let (scale, beta) = (vector(2)?, if style.centred { vector(3)? } else { None });
    if let Some(bias) = vector(if style.centred { 4 } else { 3 })? {
        let cycle = bias.iter().cycle();
        sum.iter_mut().zip(cycle).for_each(|(value, &more)| *value = value.plus(more));
    }
    let epsilon = ctx.attrs().float_or("epsilon", 1e-12)?;
    let settings = (length, epsilon, style);
    let result = normalise(x.shape(), &sum, settings, scale.as_deref(), beta.as_deref())?;
    let mut shape = x.shape().to_vec();
    shape[x.rank() - 1] = 1;
    let rows = Tensor::zeros(DType::F32, &shape)?.len();
    let statistic = |mut values: Vec<f64>| -> Result<Value, OpError> {
        values.resize(rows, f64::NAN);
        Ok(hetra_tensor::from_f64(DType::F32, &shape, &values)?.into())
    };
    let sum = narrow(Tensor::from_slice(x.shape(), &sum)?, x.dtype())?;
    let mut outputs: Vec<Value> = vec![
        narrow(result.out, x.dtype())?.into(),
        statistic(result.means)?,
        statistic(result.inverse_deviations)?,
        sum.into(),
    ];
    outputs.truncate(ctx.node.outputs.len().max(1));
    Ok(outputs)
}

/// Output, mean and inverse deviation; the forms without mean have the latter second.
fn infer_norm(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = crate::conv::float_dtype(ctx)?;
    let stash = stash_dtype(ctx.attrs())?;
    let dims = ctx.dims(0);
    let statistics = match dims {
        None => None,
        Some(dims) => {
            let axis = resolve_axis(ctx.attrs().int_or("axis", -1)?, dims.len())?;
            let mut kept = dims[..axis].to_vec();
            kept.resize(dims.len(), Dim::Known(1));
            Some(kept)
        }
    };
    // The scale of RMSNormalization decides the dtype of its result.
    let is_layer = ctx.node.op == LAYER.name;
    let dtype = if is_layer { dtype } else { ctx.dtype_opt(1) };
    let statistic = InferCtx::make(Some(stash), statistics);
    let mut types = vec![InferCtx::make(dtype, dims.map(<[Dim]>::to_vec))];
    types.extend([statistic.clone(), statistic]);
    types.truncate(ctx.node.outputs.len().max(1));
    Ok(types)
}

fn infer_skip(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = crate::conv::float_dtype(ctx)?;
    let same = InferCtx::make(dtype, ctx.dims(0).map(<[Dim]>::to_vec));
    let statistics = ctx.dims(0).map(|dims| {
        let mut kept = dims.to_vec();
        kept.pop();
        kept.push(Dim::Known(1));
        kept
    });
    let statistic = InferCtx::make(Some(DType::F32), statistics);
    let mut types = vec![same.clone(), statistic.clone(), statistic, same];
    types.truncate(ctx.node.outputs.len().max(1));
    Ok(types)
}

/// Two passes of statistics, one of scaling.
pub(crate) fn norm_work(_: &InferCtx<'_>, outputs: &[Type]) -> Work {
    Work::ops(7.0 * outputs.first().map_or(0.0, elements))
}

#[cfg(test)]
mod tests {
    use crate::case::{floats, iota, node, run};

    #[test]
    fn layer_normalization_gives_statistics() {
        let layer = node("LayerNormalization", 3).with("axis", 1);
        let inputs = [iota(&[2, 2, 2]), floats(&[2], &[1.0, 2.0]), floats(&[1], &[0.5])];
        let y = run(layer, &inputs).unwrap();
        assert_eq!(y[1].as_slice::<f32>().unwrap(), [1.5, 5.5]);
        assert_eq!(y[2].shape(), [2, 1, 1]);
        let first = y[0].as_slice::<f32>().unwrap();
        assert!((first[0] - (0.5 - 1.341_635_4)).abs() < 1e-5, "{first:?}");
        assert!((first[3] - (0.5 + 2.683_271)).abs() < 1e-5, "{first:?}");
    }

    #[test]
    fn root_mean_square_and_skip() {
        let inputs = [floats(&[1, 2], &[3.0, 4.0]), floats(&[2], &[1.0, 2.0])];
        let y = run(node("RMSNormalization", 1).with("epsilon", 0.0f32), &inputs).unwrap();
        let root = 12.5f32.sqrt();
        assert_eq!(y[0].as_slice::<f32>().unwrap(), [3.0 / root, 8.0 / root]);
        let y = run(node("SimplifiedLayerNormalization", 2), &inputs).unwrap();
        assert_eq!(y[1].shape(), [1, 1]);
        let inputs = [
            floats(&[2, 1, 2], &[1.0, 2.0, 1.0, 2.0]),
            floats(&[1, 2], &[1.0, 1.0]),
            floats(&[2], &[1.0, 1.0]),
            floats(&[2], &[1.0, 1.0]),
        ];
        let skip = node("com.microsoft.SkipSimplifiedLayerNormalization", 4);
        let y = run(skip, &inputs).unwrap();
        assert_eq!(y[3].as_slice::<f32>().unwrap(), [3.0, 4.0, 3.0, 4.0]);
        let root = 12.5f32.sqrt();
        assert!((y[0].as_slice::<f32>().unwrap()[0] - 3.0 / root).abs() < 1e-6);
    }

    #[test]
    fn wrong_arguments_are_errors() {
        let layer = || node("LayerNormalization", 1);
        assert!(run(layer(), &[iota(&[2, 3]), iota(&[2])]).is_err());
        assert!(run(layer(), &[iota(&[]), iota(&[1])]).is_err());
        assert!(run(layer().with("stash_type", 8), &[iota(&[1, 2]), iota(&[2])]).is_err());
        assert!(run(layer(), &[iota(&[2, 0]), iota(&[0])]).unwrap()[0].is_empty());
        let skip = node("com.microsoft.SkipLayerNormalization", 1);
        assert!(run(skip, &[iota(&[2, 3]), iota(&[2]), iota(&[3])]).is_err());
    }
}
