//! Resize, and Upsample as an older form of it.
//!
//! Every mode is separable: an axis has, for each output place, weights over input places
//! (`resize_axis`). Interpolation applies them axis by axis; the nearest mode only picks.

use hetra_ir::{Attr, Attrs, Dim, Node, Type};
use hetra_tensor::{Tensor, Value};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, OpDef, Upgrade, onnx};
use crate::dims::{check_ints, extent, resolve_axes, same_rank, shape_from, types_from};
use crate::elements::{float_buffer, volume};
use crate::error::OpError;
use crate::pick::{OUTSIDE, check_size, pick};
use crate::resize_axis::{Axis, Coordinates, Filter, Nearest, Taps};
use crate::work::{Work, elements};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&RESIZE];

static RESIZE: OpDef = OpDef {
    name: "Resize",
    doc: "Samples a tensor at another resolution: nearest, linear or cubic.",
    onnx: &[onnx("", "Resize", 19), onnx("", "Upsample", 10)],
    inputs: Arity::between(2, 4),
    upgrade: Some(upgrade),
    infer,
    work: |ctx, outputs| {
        let taps = match ctx.attrs().str_or("mode", "nearest") {
            Ok("nearest") => return Work::default(),
            Ok("cubic") => 16.0,
            _ => 4.0,
        };
        Work::ops(2.0 * taps * outputs.iter().map(elements).sum::<f64>())
    },
    eval,
    ..OpDef::DEFAULT
};

/// Upsample ended at opset 9 and Resize begins at 10, so the version tells which of them it is.
fn upgrade(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    if up.node.version > 10 {
        return Ok(());
    }
    if let (Some(Attr::Float(height)), Some(Attr::Float(width))) =
        (up.node.attrs.take("height_scale"), up.node.attrs.take("width_scale"))
    {
        up.node.attrs.set("scales", vec![1.0, 1.0, height, width]);
    }
    up.attr_to_input("scales", 1)?;
    if up.node.inputs.len() == 2 {
        up.node.inputs.insert(1, None);
    }
    if let Some(Attr::Str(mode)) = up.node.attrs.0.get_mut("mode")
        && mode == "bilinear"
    {
        *mode = "linear".to_string();
    }
    up.node.attrs.set("coordinate_transformation_mode", "asymmetric");
    up.node.attrs.set("nearest_mode", "floor");
    Ok(())
}

/// The output extents and the scale of each axis.
struct Geometry {
    dims: Vec<Dim>,
    scales: Vec<f64>,
}

/// From scales or sizes; `None` when neither is known yet.
fn geometry(ctx: &InferCtx<'_>, input: &[Dim]) -> Result<Option<Geometry>, OpError> {
    let rank = input.len();
    let axes = match ctx.attrs().ints_opt("axes")? {
        Some(axes) => resolve_axes(axes, rank)?,
        None => (0..rank).collect(),
    };
    let mut result = Geometry { dims: input.to_vec(), scales: vec![1.0; rank] };
    let count = |index: usize, got: usize| match got == axes.len() {
        true => Ok(()),
        false => Err(OpError::input(index, format!("{} numbers", axes.len()), got.to_string())),
    };
    let is_empty = |index: usize| ctx.dims(index).is_some_and(|dims| dims.contains(&0.into()));
    if ctx.has(3) && !is_empty(3) {
        let Some(sizes) = ctx.known_ints(3) else { return Ok(None) };
        count(3, sizes.len())?;
        for (&axis, &size) in axes.iter().zip(&sizes) {
            result.dims[axis] = Dim::Known(extent(size, 3)?);
        }
        let known: Option<Vec<f64>> = axes
            .iter()
            .map(|&at| Some(result.dims[at].known()? as f64 / input[at].known()? as f64))
            .collect();
        return match known {
            Some(scales) => keep_aspect(ctx.attrs(), input, &axes, scales, result).map(Some),
            None if ctx.attrs().str_or("keep_aspect_ratio_policy", "stretch")? == "stretch" => {
                Ok(Some(result))
            }
            None => Ok(None),
        };
    }
    let Some(scales) = ctx.known(2) else { return Ok(None) };
    let scales = hetra_tensor::to_f64(scales)?;
    count(2, scales.len())?;
    for (&axis, &scale) in axes.iter().zip(&scales) {
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(OpError::input(2, "scales over 0", scale.to_string()));
        }
        result.scales[axis] = scale;
        result.dims[axis] = match &input[axis] {
            // In f32, as ONNX's own inference: 5 times 1.4 is meant to be 7.
            Dim::Known(extent) => Dim::Known(to_extent(f64::from(*extent as f32 * scale as f32))?),
            dim if scale == 1.0 => dim.clone(),
            _ => Dim::Unknown,
        };
    }
    Ok(Some(result))
}

/// The integer part, which must be a sensible extent.
fn to_extent(value: f64) -> Result<usize, OpError> {
    match (0.0..1e15).contains(&value) {
        true => Ok(value as usize),
        false => Err(OpError::invalid(format!("an output extent of {value}"))),
    }
}

/// Scales that follow from sizes, by the policy on the aspect ratio.
fn keep_aspect(
    attrs: &Attrs,
    input: &[Dim],
    axes: &[usize],
    scales: Vec<f64>,
    mut result: Geometry,
) -> Result<Geometry, OpError> {
    let one = match attrs.str_or("keep_aspect_ratio_policy", "stretch")? {
        "stretch" => None,
        "not_larger" => scales.iter().copied().reduce(f64::min),
        "not_smaller" => scales.iter().copied().reduce(f64::max),
        other => return Err(OpError::invalid(format!("`keep_aspect_ratio_policy` is `{other}`"))),
    };
    for (&axis, &scale) in axes.iter().zip(&scales) {
        result.scales[axis] = one.unwrap_or(scale);
        if let (Some(one), Some(extent)) = (one, input[axis].known()) {
            result.dims[axis] = Dim::Known(to_extent((one * extent as f64 + 0.5).floor())?);
        }
    }
    Ok(result)
}

fn infer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 3)?;
    let Some(input) = ctx.dims(0) else { return Ok(vec![same_rank(ctx)]) };
    let dims = match geometry(ctx, input)? {
        Some(geometry) => geometry.dims,
        None => {
            let touched = ctx.attrs().ints_opt("axes")?;
            let touched = touched.map(|axes| resolve_axes(axes, input.len())).transpose()?;
            let mut dims = input.to_vec();
            for (axis, dim) in dims.iter_mut().enumerate() {
                if touched.as_ref().is_none_or(|axes| axes.contains(&axis)) {
                    *dim = Dim::Unknown;
                }
            }
            dims
        }
    };
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), Some(dims))])
}

/// The region of interest on each axis, as fractions of it.
fn rois(ctx: &EvalCtx<'_>, rank: usize) -> Result<Vec<(f64, f64)>, OpError> {
    let axes = match ctx.attrs().ints_opt("axes")? {
        Some(axes) => resolve_axes(axes, rank)?,
        None => (0..rank).collect(),
    };
    let values = ctx.reals(1)?;
    if values.len() != axes.len() * 2 {
        let wanted = format!("{} numbers", axes.len() * 2);
        return Err(OpError::input(1, wanted, values.len().to_string()));
    }
    let mut rois = vec![(0.0, 1.0); rank];
    for (at, &axis) in axes.iter().enumerate() {
        rois[axis] = (values[at], values[axes.len() + at]);
    }
    Ok(rois)
}

/// Scales and extents of each axis.
fn axes_of(ctx: &EvalCtx<'_>, coordinates: Coordinates) -> Result<Vec<Axis>, OpError> {
    let tensor = ctx.tensor(0)?;
    let shape = shape_from(ctx, infer)?;
    let geometry = types_from(ctx, |infer| geometry(infer, infer.dims(0).unwrap_or_default()))?;
    let geometry = geometry.ok_or(OpError::MissingInput { index: 2 })?;
    let rois = match coordinates {
        Coordinates::TfCropAndResize => rois(ctx, tensor.rank())?,
        _ => vec![(0.0, 1.0); tensor.rank()],
    };
    let axis = |at: usize| Axis {
        input: tensor.shape()[at],
        output: shape[at],
        scale: geometry.scales[at],
        roi: rois[at],
    };
    Ok((0..tensor.rank()).map(axis).collect())
}

/// How the outputs of a Resize come from its input.
#[derive(Clone, Debug, PartialEq)]
pub enum Sampling {
    /// There are no outputs.
    Empty,
    /// For each axis, the input place of each output place; `usize::MAX` where it is outside.
    Places(Vec<Vec<usize>>),
    /// For each axis, the weights of each output place.
    Weights(Vec<Taps>),
}

/// What a Resize does to its input, resolved once.
#[derive(Clone, Debug, PartialEq)]
pub struct ResizeForm {
    /// Shape of the output.
    pub shape: Vec<usize>,
    /// Where its elements come from; axes are independent of each other.
    pub sampling: Sampling,
}

impl ResizeForm {
    /// Reads attributes and inputs.
    ///
    /// # Errors
    /// Attributes or inputs that do not fit together, an output beyond the limit on memory.
    pub fn resolve(ctx: &EvalCtx<'_>) -> Result<ResizeForm, OpError> {
        let (tensor, attrs) = (ctx.tensor(0)?, ctx.attrs());
        let coordinates = Coordinates::of(attrs)?;
        let axes = axes_of(ctx, coordinates)?;
        let shape: Vec<usize> = axes.iter().map(|axis| axis.output).collect();
        if !check_size(tensor, &shape)? {
            return Ok(ResizeForm { shape, sampling: Sampling::Empty });
        }
        if tensor.is_empty() {
            return Err(OpError::input(0, "elements", tensor.describe()));
        }
        let antialias = attrs.flag_or("antialias", false)?;
        let exclude = attrs.flag_or("exclude_outside", false)?;
        let filter = match attrs.str_or("mode", "nearest")? {
            "nearest" => {
                let sampling = Sampling::Places(nearest_places(ctx.node, &axes, coordinates)?);
                return Ok(ResizeForm { shape, sampling });
            }
            "linear" => Filter::Linear,
            "cubic" => Filter::Cubic(f64::from(attrs.float_or("cubic_coeff_a", -0.75)?)),
            mode => return Err(OpError::invalid(format!("`mode` is `{mode}`"))),
        };
        let taps = |axis: &Axis| Taps::of(axis, coordinates, filter, antialias, exclude);
        Ok(ResizeForm { shape, sampling: Sampling::Weights(axes.iter().map(taps).collect()) })
    }
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    let ResizeForm { shape, sampling } = ResizeForm::resolve(ctx)?;
    let outside = f64::from(ctx.attrs().float_or("extrapolation_value", 0.0)?);
    let out = match sampling {
        Sampling::Empty => Tensor::zeros(tensor.dtype(), &shape)?,
        Sampling::Places(places) => {
            let fill = places.iter().flatten().any(|&place| place == OUTSIDE);
            let fill = fill.then(|| hetra_tensor::from_f64(tensor.dtype(), &[], &[outside]));
            pick(tensor, &places, fill.transpose()?.as_ref())?
        }
        Sampling::Weights(taps) => interpolate(tensor, &shape, &taps, outside)?,
    };
    Ok(vec![out.into()])
}

/// Weighted sums along each axis in turn.
fn interpolate(
    tensor: &Tensor,
    shape: &[usize],
    taps: &[Taps],
    outside: f64,
) -> Result<Tensor, OpError> {
    let mut values = hetra_tensor::to_f64(tensor)?;
    let mut now = tensor.shape().to_vec();
    // Axes that shrink come first, so that nothing on the way is larger than both ends.
    let mut order: Vec<usize> = (0..shape.len()).collect();
    let growth = |at: &usize| shape[*at] as f64 / tensor.shape()[*at] as f64;
    order.sort_by(|a, b| growth(a).total_cmp(&growth(b)));
    for at in order {
        if !taps[at].is_identity(tensor.shape()[at]) {
            values = apply(&values, &mut now, at, &taps[at])?;
        }
    }
    for (at, taps) in taps.iter().enumerate() {
        fill_outside(&mut values, shape, at, taps, outside);
    }
    if tensor.dtype().is_int() {
        values.iter_mut().for_each(|value| *value = value.round_ties_even());
    }
    Ok(hetra_tensor::from_f64(tensor.dtype(), shape, &values)?)
}

fn nearest_places(
    node: &Node,
    axes: &[Axis],
    coordinates: Coordinates,
) -> Result<Vec<Vec<usize>>, OpError> {
    let nearest = Nearest::of(&node.attrs)?;
    let places = |axis: &Axis| {
        // Opset 10 rounded up where it made things smaller.
        let nearest = if node.version == 10 && axis.scale < 1.0 { Nearest::Ceil } else { nearest };
        axis.nearest(coordinates, nearest)
    };
    Ok(axes.iter().map(places).collect())
}

/// One axis of `shape` replaced by weighted sums along it.
fn apply(
    values: &[f64],
    shape: &mut [usize],
    axis: usize,
    taps: &Taps,
) -> Result<Vec<f64>, OpError> {
    let inner: usize = volume(&shape[axis + 1..]);
    let extent = std::mem::replace(&mut shape[axis], taps.rows.len());
    let mut out = float_buffer(shape)?;
    for (row, slots) in out.chunks_exact_mut(inner).enumerate() {
        let (block, at) = (row / taps.rows.len(), row % taps.rows.len());
        for &(place, weight) in &taps.rows[at] {
            let from = (block * extent + place) * inner;
            let source = &values[from..from + inner];
            slots.iter_mut().zip(source).for_each(|(slot, value)| *slot += weight * value);
        }
    }
    Ok(out)
}

/// The extrapolation value where the coordinate on this axis is not in the input.
fn fill_outside(values: &mut [f64], shape: &[usize], axis: usize, taps: &Taps, outside: f64) {
    if taps.rows.iter().all(|row| !row.is_empty()) {
        return;
    }
    let inner: usize = volume(&shape[axis + 1..]);
    for (row, slots) in values.chunks_exact_mut(inner).enumerate() {
        if taps.rows[row % taps.rows.len()].is_empty() {
            slots.fill(outside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    fn line() -> Case {
        let data = Tensor::from_slice(&[1, 4], &[1f32, 2.0, 3.0, 4.0]).unwrap();
        Case::new("Resize").tensor(&data).none()
    }

    #[test]
    fn scales_sizes_and_policies() {
        let sizes =
            |height: i64, width: i64| line().none().tensor(&Tensor::vector(&[height, width]));
        check(&sizes(1, 2), 0, &[1, 2], &[1.0, 3.0]);
        check(&sizes(1, 2).attr("mode", "linear"), 0, &[1, 2], &[1.5, 3.5]);
        let kept = sizes(2, 2).attr("keep_aspect_ratio_policy", "not_smaller");
        check(
            &kept.attr("axes", vec![0, 1]),
            0,
            &[2, 8],
            &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0],
        );
        check(&sizes(0, 2), 0, &[0, 2], &[]);
        assert!(sizes(-1, 2).eval().is_err());
        let scales = |width: f32| line().tensor(&Tensor::vector(&[1f32, width]));
        check(&scales(0.5), 0, &[1, 2], &[1.0, 3.0]);
        assert!(scales(0.0).eval().is_err());
        assert!(scales(f32::INFINITY).eval().is_err());
        assert!(scales(1e30).eval().is_err());
        assert!(line().eval().is_err());
    }
}
