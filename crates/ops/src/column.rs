//! Col2Im: sums sliding blocks, laid out as columns, back into an image.

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{Value, element_count, strides_of};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, OpDef, onnx};
use crate::dims::{check_ints, count_of, dims_of_rank, extent, map_dim, shape_from};
use crate::elements::{float_buffer, volume};
use crate::error::OpError;
use crate::work::per_input_element;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&COL2IM];

static COL2IM: OpDef = OpDef {
    name: "Col2Im",
    doc: "Adds the blocks that the columns hold, where they slid over the image.",
    onnx: &[onnx("", "Col2Im", 18)],
    inputs: Arity::exactly(3),
    infer,
    work: per_input_element,
    eval,
    ..OpDef::DEFAULT
};

/// Image and block extents from the inputs at 1 and 2.
fn extents(values: &[i64], index: usize) -> Result<Vec<usize>, OpError> {
    values.iter().map(|&value| extent(value, index)).collect()
}

fn infer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    (1..3).try_for_each(|index| check_ints(ctx, index))?;
    let columns = dims_of_rank(ctx, 0, 3)?;
    let batch = columns.map_or(Dim::Unknown, |dims| dims[0].clone());
    let channels = match (columns.map(|dims| &dims[1]), ctx.known_ints(2)) {
        (Some(rows), Some(block)) => {
            let size = element_count(&extents(&block, 2)?)?;
            map_dim(rows, |rows| match rows.checked_rem(size) {
                Some(0) => Ok(rows / size),
                _ => Err(OpError::input(0, format!("rows for blocks of {size}"), rows.to_string())),
            })?
        }
        _ => Dim::Unknown,
    };
    let space = match ctx.known_ints(1) {
        Some(image) => Some(extents(&image, 1)?.into_iter().map(Dim::Known).collect()),
        None => count_of(ctx, 1)?.filter(|&rank| rank <= 64).map(|rank| vec![Dim::Unknown; rank]),
    };
    let dims = space.map(|space: Vec<Dim>| [vec![batch, channels], space].concat());
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), dims)])
}

/// One axis of the sliding blocks.
struct Slide {
    image: usize,
    block: usize,
    dilation: usize,
    stride: usize,
    before: usize,
    /// Places of the block.
    steps: usize,
}

fn slides(attrs: &Attrs, image: &[usize], block: &[usize]) -> Result<Vec<Slide>, OpError> {
    let rank = image.len();
    let list = |name: &str, count: usize, default: i64, least: i64| {
        let values = attrs.ints_opt(name)?.cloned().unwrap_or_else(|| vec![default; count]);
        if values.len() != count || values.iter().any(|&v| v < least || v > i64::from(i32::MAX)) {
            return Err(OpError::invalid(format!("`{name}` is {values:?}")));
        }
        Ok(values.into_iter().map(|value| value as usize).collect::<Vec<_>>())
    };
    let (dilations, strides) = (list("dilations", rank, 1, 1)?, list("strides", rank, 1, 1)?);
    let pads = list("pads", rank * 2, 0, 0)?;
    if block.len() != rank || block.contains(&0) {
        return Err(OpError::input(2, format!("{rank} extents from 1 up"), format!("{block:?}")));
    }
    let slide = |at: usize| {
        let (image, block, dilation) = (image[at], block[at], dilations[at]);
        let width = (block - 1).saturating_mul(dilation).saturating_add(1);
        let padded = image.saturating_add(pads[at] + pads[rank + at]);
        let steps = padded.checked_sub(width).map_or(0, |rest| rest / strides[at] + 1);
        Slide { image, block, dilation, stride: strides[at], before: pads[at], steps }
    };
    Ok((0..rank).map(slide).collect())
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let columns = ctx.tensor(0)?;
    let shape = shape_from(ctx, infer)?;
    let (image, block) = (extents(&ctx.ints(1)?, 1)?, extents(&ctx.ints(2)?, 2)?);
    let slides = slides(ctx.attrs(), &image, &block)?;
    let steps = element_count(&slides.iter().map(|slide| slide.steps).collect::<Vec<_>>())?;
    let block_size = element_count(&block)?;
    if columns.shape()[2] != steps {
        return Err(OpError::input(0, format!("{steps} columns"), columns.describe()));
    }
    let values = hetra_tensor::to_f64(columns)?;
    let mut out = float_buffer(&shape)?;
    let plane: usize = volume(&image);
    if !out.is_empty() && steps > 0 {
        let per_channel = block_size * steps;
        let mut steps_at = vec![0usize; slides.len()];
        for (slots, values) in out.chunks_exact_mut(plane).zip(values.chunks_exact(per_channel)) {
            for (place, row) in values.chunks_exact(steps).enumerate() {
                add_row(&slides, place, row, &mut steps_at, slots);
            }
        }
    }
    Ok(vec![hetra_tensor::from_f64(columns.dtype(), &shape, &out)?.into()])
}

/// Adds the values that place `place` of the block had at each step.
fn add_row(slides: &[Slide], place: usize, row: &[f64], steps: &mut [usize], image: &mut [f64]) {
    let blocks: Vec<usize> = slides.iter().map(|slide| slide.block).collect();
    let images: Vec<usize> = slides.iter().map(|slide| slide.image).collect();
    let (block_strides, image_strides) = (strides_of(&blocks), strides_of(&images));
    steps.fill(0);
    for value in row {
        let mut at = Some(0);
        for (axis, slide) in slides.iter().enumerate() {
            let inside = place / block_strides[axis] % slide.block;
            let padded = steps[axis] * slide.stride + inside * slide.dilation;
            let index = padded.checked_sub(slide.before).filter(|&index| index < slide.image);
            at = at.zip(index).map(|(sum, index)| sum + index * image_strides[axis]);
        }
        if let Some(at) = at {
            image[at] += value;
        }
        for axis in (0..slides.len()).rev() {
            steps[axis] += 1;
            if steps[axis] < slides[axis].steps {
                break;
            }
            steps[axis] = 0;
        }
    }
}
