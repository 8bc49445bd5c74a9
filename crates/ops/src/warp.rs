//! Pictures into what models read: affine maps, sampled, normalised.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef};
use crate::error::OpError;
use crate::work::{Work, elements};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&WARP];

static WARP: OpDef = OpDef {
    name: "hetra.Warp",
    doc: "Patches of a picture (u8, height, width, 3 channels), each by an affine map of its own from \
          places of the patch to places of the picture, sampled bilinearly: (v - mean) * scale. \
          Height and width of patches are the attribute `size`, or the third input where there is one.",
    inputs: Arity::between(2, 3),
    kind: Kind::Heavy,
    infer,
    work: |_, outputs| Work::ops(12.0 * outputs.iter().map(elements).sum::<f64>()),
    eval,
    ..OpDef::DEFAULT
};

/// How a node makes its patches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarpForm {
    /// Height and width of a patch, where no input says it.
    pub size: [usize; 2],
    /// What each channel of the output has taken from it, and is then multiplied by.
    pub mean: [f32; 3],
    /// See `mean`.
    pub scale: [f32; 3],
    /// Whether channels are in the opposite order in the output.
    pub reverse: bool,
    /// What stands outside of the picture, before it is normalised.
    pub fill: f32,
}

/// Most places along a side of a patch.
const SIDE_MAX: i64 = 1 << 14;

impl WarpForm {
    /// Reads the attributes `size` (height, width), `mean`, `scale`, `reverse` and `fill`.
    ///
    /// # Errors
    /// A size that is none, or lists of another length.
    pub fn of(attrs: &hetra_ir::Attrs) -> Result<WarpForm, OpError> {
        let size = WarpForm::sides(attrs.ints("size")?)?;
        let three = |name: &'static str, other: f32| match attrs.has(name) {
            false => Ok([other; 3]),
            true => <[f32; 3]>::try_from(attrs.floats(name)?.as_slice())
                .map_err(|_| OpError::invalid(format!("{name}: wanted one for each channel"))),
        };
        Ok(WarpForm {
            size,
            mean: three("mean", 0.0)?,
            scale: three("scale", 1.0)?,
            reverse: attrs.int_or("reverse", 0)? != 0,
            fill: attrs.float_or("fill", 0.0)?,
        })
    }

    /// Height and width of patches, of what a node says.
    ///
    /// # Errors
    /// What is none, or more than a picture has.
    pub fn sides(size: &[i64]) -> Result<[usize; 2], OpError> {
        match size {
            [h, w] if (1..=SIDE_MAX).contains(h) && (1..=SIDE_MAX).contains(w) => {
                Ok([*h as usize, *w as usize])
            }
            size => Err(OpError::invalid(format!("size {size:?}: wanted height and width"))),
        }
    }

    /// The channel of the picture that an output channel shows.
    pub fn channel(&self, output: usize) -> usize {
        if self.reverse { 2 - output } else { output }
    }
}

/// # Errors
/// When a picture or maps have other shapes.
fn check(picture: &[Dim], maps: &[Dim]) -> Result<(), OpError> {
    let is = |dim: Option<&Dim>, wanted: usize| {
        dim.is_some_and(|dim| dim.known().is_none_or(|extent| extent == wanted))
    };
    if picture.len() != 3 || !is(picture.last(), 3) {
        return Err(OpError::input(0, "a picture [height, width, 3]", format!("{picture:?}")));
    }
    if maps.len() != 3 || !is(maps.get(1), 2) || !is(maps.get(2), 3) {
        return Err(OpError::input(1, "affine maps [count, 2, 3]", format!("{maps:?}")));
    }
    Ok(())
}

fn infer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let form = WarpForm::of(ctx.attrs())?;
    if let (Some(picture), Some(maps)) = (ctx.dims(0), ctx.dims(1)) {
        check(picture, maps)?;
    }
    let count = ctx.dims(1).and_then(|dims| dims.first().cloned()).unwrap_or(Dim::Unknown);
    let [h, w]: [Dim; 2] = match (ctx.has(2), ctx.known_ints(2)) {
        (false, _) => form.size.map(Dim::from),
        (true, Some(size)) => WarpForm::sides(&size)?.map(Dim::from),
        (true, None) => [Dim::Unknown, Dim::Unknown],
    };
    Ok(vec![Type::shaped(DType::F32, vec![count, 3usize.into(), h, w])])
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let form = WarpForm::of(&ctx.node.attrs)?;
    let (picture, maps) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let dims = |tensor: &Tensor| -> Vec<Dim> { tensor.shape().iter().map(|&e| e.into()).collect() };
    check(&dims(picture), &dims(maps))?;
    let [h, w] = ctx.ints_opt(2)?.map_or(Ok(form.size), |size| WarpForm::sides(&size))?;
    let count = maps.shape()[0];
    let (height, width) = (picture.shape()[0], picture.shape()[1]);
    let (pixels, maps) = (picture.as_slice::<u8>()?, maps.as_slice::<f32>()?);
    let mut out = Tensor::zeros(DType::F32, &[count, 3, h, w])?;
    let numbers = out.as_mut_slice::<f32>()?;
    for (index, number) in numbers.iter_mut().enumerate() {
        let (x, y) = (index % w, index / w % h);
        let (channel, patch) = (index / (w * h) % 3, index / (w * h * 3));
        let map = &maps[patch * 6..][..6];
        let at =
            |row: usize| map[row * 3] * x as f32 + map[row * 3 + 1] * y as f32 + map[row * 3 + 2];
        let value = sampled(pixels, (height, width), (at(0), at(1)), form.channel(channel));
        let value = value.unwrap_or(form.fill);
        *number = (value - form.mean[channel]) * form.scale[channel];
    }
    Ok(vec![out.into()])
}

/// A channel of a picture between its pixels; none outside, which begins half a pixel from the
/// middle of the outermost ones.
fn sampled(
    pixels: &[u8],
    (height, width): (usize, usize),
    (x, y): (f32, f32),
    channel: usize,
) -> Option<f32> {
    let inside = |at: f32, extent: usize| extent > 0 && at >= -0.5 && at <= extent as f32 - 0.5;
    if !inside(x, width) || !inside(y, height) {
        return None;
    }
    let clamped = |at: f32, extent: usize| at.clamp(0.0, (extent - 1) as f32);
    let (x, y) = (clamped(x, width), clamped(y, height));
    let (left, top) = (x as usize, y as usize);
    let (right, bottom) = ((left + 1).min(width - 1), (top + 1).min(height - 1));
    let (dx, dy) = (x - left as f32, y - top as f32);
    let at = |row: usize, column: usize| f32::from(pixels[(row * width + column) * 3 + channel]);
    let down = |column: usize| at(top, column) + (at(bottom, column) - at(top, column)) * dy;
    Some(down(left) + (down(right) - down(left)) * dx)
}

#[cfg(test)]
mod tests {
    use hetra_ir::Attr;

    use super::*;
    use crate::case::{node, run};

    fn picture() -> Tensor {
        // Two rows of two pixels; channels apart by 100.
        let pixels: Vec<u8> = vec![0, 100, 200, 10, 110, 210, 20, 120, 220, 30, 130, 230];
        Tensor::from_slice(&[2, 2, 3], &pixels).unwrap()
    }

    fn warp(size: [i64; 2], map: [f32; 6]) -> (hetra_ir::Node, Vec<Option<Tensor>>) {
        let node = node("hetra.Warp", 2).with("size", size.to_vec());
        (node, vec![Some(picture()), Some(Tensor::from_slice(&[1, 2, 3], &map).unwrap())])
    }

    fn numbers((node, inputs): (hetra_ir::Node, Vec<Option<Tensor>>)) -> Vec<f32> {
        run(node, &inputs).unwrap()[0].as_slice::<f32>().unwrap().to_vec()
    }

    #[test]
    fn pixels_are_read_between_and_outside() {
        let same = warp([2, 2], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(numbers(same)[..4], [0.0, 10.0, 20.0, 30.0]);
        let middle = warp([1, 1], [1.0, 0.0, 0.5, 0.0, 1.0, 0.5]);
        assert_eq!(numbers(middle), [15.0, 115.0, 215.0]);
        // Half a pixel further is still the picture's, a whole one is not.
        let edge = warp([1, 3], [1.0, 0.0, -1.0, 0.0, 1.0, -0.5]);
        assert_eq!(numbers(edge)[..3], [0.0, 0.0, 10.0]);
        let (mut outside, inputs) = warp([1, 1], [1.0, 0.0, 5.0, 0.0, 1.0, 0.0]);
        outside.attrs.set("fill", 7.0f32);
        assert_eq!(numbers((outside, inputs)), [7.0; 3]);
    }

    #[test]
    fn an_empty_picture_has_only_what_is_outside() {
        let (node, mut inputs) = warp([1, 2], [1.0, 0.0, -0.5, 0.0, 1.0, -0.5]);
        inputs[0] = Some(Tensor::from_slice::<u8>(&[0, 2, 3], &[]).unwrap());
        assert_eq!(numbers((node.with("fill", 3.0f32), inputs)), [3.0; 6]);
    }

    #[test]
    fn channels_are_turned_and_normalised() {
        let (mut node, inputs) = warp([1, 1], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        node.attrs.set("reverse", 1i64);
        node.attrs.set("mean", Attr::Floats(vec![100.0, 50.0, 0.0]));
        node.attrs.set("scale", Attr::Floats(vec![0.5, 1.0, 2.0]));
        assert_eq!(numbers((node, inputs)), [50.0, 50.0, 0.0]);
    }

    #[test]
    fn the_size_may_be_an_input() {
        let (node, mut inputs) = warp([1, 1], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        inputs.push(Some(Tensor::vector(&[2i64, 2])));
        assert_eq!(numbers((node.clone(), inputs.clone()))[..4], [0.0, 10.0, 20.0, 30.0]);
        inputs[2] = Some(Tensor::vector(&[2i64, 1 << 20]));
        assert!(run(node, &inputs).is_err());
    }

    #[test]
    fn other_shapes_are_refused() {
        let (node, mut inputs) = warp([1, 1], [0.0; 6]);
        inputs[1] = Some(Tensor::from_slice(&[2, 3], &[0f32; 6]).unwrap());
        assert!(run(node.clone(), &inputs).is_err());
        assert!(run(node.with("size", vec![0i64, 1]), &inputs).is_err());
    }
}
