//! Sampling at free coordinates: GridSample, AffineGrid.

use hetra_ir::{Attr, Dim, Type};
use hetra_tensor::{Value, strides_of};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, OpDef, Upgrade, onnx};
use crate::dims::{check_ints, count_of, extent, shape_from};
use crate::elements::{float_buffer, volume};
use crate::error::OpError;
use crate::work::{Work, elements};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&GRID_SAMPLE, &AFFINE_GRID];

static GRID_SAMPLE: OpDef = OpDef {
    name: "GridSample",
    doc: "Samples each channel at the coordinates of a grid, from -1 to 1 on each axis.",
    onnx: &[onnx("", "GridSample", 22)],
    inputs: Arity::exactly(2),
    upgrade: Some(upgrade),
    infer: infer_grid_sample,
    work: |ctx, outputs| {
        let rank = ctx.rank(0).unwrap_or(4).saturating_sub(2) as f64;
        let per_axis: f64 = match ctx.attrs().str_or("mode", "linear") {
            Ok("nearest") => 1.0,
            Ok("cubic") => 4.0,
            _ => 2.0,
        };
        Work::ops(2.0 * per_axis.powf(rank) * outputs.iter().map(elements).sum::<f64>())
    },
    eval: eval_grid_sample,
    ..OpDef::DEFAULT
};

static AFFINE_GRID: OpDef = OpDef {
    name: "AffineGrid",
    doc: "The grid of GridSample that an affine map makes of a regular one.",
    onnx: &[onnx("", "AffineGrid", 20)],
    inputs: Arity::exactly(2),
    infer: infer_affine_grid,
    eval: eval_affine_grid,
    ..OpDef::DEFAULT
};

/// Opset 16 named the modes of two dimensions.
fn upgrade(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    if let Some(Attr::Str(mode)) = up.node.attrs.0.get_mut("mode") {
        match mode.as_str() {
            "bilinear" => *mode = "linear".to_string(),
            "bicubic" => *mode = "cubic".to_string(),
            _ => {}
        }
    }
    Ok(())
}

fn infer_grid_sample(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(0);
    let (data, grid) = match (ctx.dims(0), ctx.dims(1)) {
        (Some(data), Some(grid)) => (data, grid),
        (Some(one), None) | (None, Some(one)) => {
            return Ok(vec![InferCtx::make(dtype, Some(vec![Dim::Unknown; one.len()]))]);
        }
        (None, None) => return Ok(vec![InferCtx::make(dtype, None)]),
    };
    let fault = || OpError::input(1, "a grid that fits the data", format!("{grid:?} for {data:?}"));
    if data.len() < 3 || data.len() > SPACE_MAX + 2 || grid.len() != data.len() {
        return Err(fault());
    }
    let (coordinates, batch) = (grid.last().and_then(Dim::known), (&data[0], &grid[0]));
    let differ = matches!(batch, (Dim::Known(a), Dim::Known(b)) if a != b);
    if differ || coordinates.is_some_and(|count| count != data.len() - 2) {
        return Err(fault());
    }
    let dims = [&data[..2], &grid[1..grid.len() - 1]].concat();
    Ok(vec![InferCtx::make(dtype, Some(dims))])
}

/// Most axes of space: the samples of a cubic mode are 4 to this power.
const SPACE_MAX: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// How coordinates become places of an axis.
#[derive(Clone, Copy)]
struct Sampler {
    mode: Mode,
    padding: Padding,
    align_corners: bool,
}

/// At most this many places of an axis take part in one sample.
const TAPS_MAX: usize = 4;

/// The places of an axis around a coordinate with their weights.
#[derive(Clone, Copy, Default)]
struct Taps {
    count: usize,
    place: [usize; TAPS_MAX],
    weight: [f64; TAPS_MAX],
}

impl Taps {
    fn push(&mut self, place: usize, weight: f64) {
        self.place[self.count] = place;
        self.weight[self.count] = weight;
        self.count += 1;
    }
}

impl Sampler {
    fn of(attrs: &hetra_ir::Attrs) -> Result<Sampler, OpError> {
        let mode = match attrs.str_or("mode", "linear")? {
            "nearest" => Mode::Nearest,
            "linear" | "bilinear" => Mode::Linear,
            "cubic" | "bicubic" => Mode::Cubic,
            other => return Err(OpError::invalid(format!("`mode` is `{other}`"))),
        };
        let padding = match attrs.str_or("padding_mode", "zeros")? {
            "zeros" => Padding::Zeros,
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            other => return Err(OpError::invalid(format!("`padding_mode` is `{other}`"))),
        };
        Ok(Sampler { mode, padding, align_corners: attrs.flag_or("align_corners", false)? })
    }

    /// The ends of an axis, where reflection turns.
    fn borders(self, extent: usize) -> (f64, f64) {
        match self.align_corners {
            true => (0.0, extent as f64 - 1.0),
            false => (-0.5, extent as f64 - 0.5),
        }
    }

    /// Places and weights for a coordinate of a grid on an axis of `extent` places, not 0.
    fn taps(self, coordinate: f64, extent: usize) -> Taps {
        let size = extent as f64;
        let mut at = match self.align_corners {
            true => (coordinate + 1.0) / 2.0 * (size - 1.0),
            false => ((coordinate + 1.0) * size - 1.0) / 2.0,
        };
        // Ties of the nearest mode are decided in f32, as the data that was measured against.
        at = f64::from(at as f32);
        if self.mode == Mode::Nearest {
            at = at.round_ties_even();
        }
        let (low, high) = self.borders(extent);
        if !(low..=high).contains(&at) {
            match self.padding {
                Padding::Zeros => {}
                // The cubic mode looks beyond the edge from where the coordinate is.
                Padding::Border if self.mode == Mode::Cubic => {}
                Padding::Border => at = at.clamp(0.0, size - 1.0),
                Padding::Reflection => at = reflect(at, low, high),
            }
        }
        let mut taps = Taps::default();
        if !at.is_finite() {
            return taps;
        }
        let floor = at.floor();
        let part = at - floor;
        let weights: &[f64] = match self.mode {
            Mode::Nearest => &[1.0],
            Mode::Linear => &[1.0 - part, part],
            Mode::Cubic => &cubic(part),
        };
        let first = if self.mode == Mode::Cubic { floor - 1.0 } else { floor };
        for (step, &weight) in weights.iter().enumerate() {
            if let Some(place) = self.place(first + step as f64, extent) {
                taps.push(place, weight);
            }
        }
        taps
    }

    /// A whole coordinate as a place; `None` where there is nothing.
    fn place(self, at: f64, extent: usize) -> Option<usize> {
        let last = extent as f64 - 1.0;
        if (0.0..=last).contains(&at) {
            return Some(at as usize);
        }
        match self.padding {
            Padding::Zeros => None,
            Padding::Border => Some(at.clamp(0.0, last) as usize),
            Padding::Reflection => {
                let (low, high) = self.borders(extent);
                Some(reflect(at, low, high).clamp(0.0, last) as usize)
            }
        }
    }
}

/// Turns back at both ends until the value lies between them.
fn reflect(at: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let turned = (at - low).rem_euclid(2.0 * range);
    low + turned.min(2.0 * range - turned)
}

/// Weights of the four places around one that lies `x` after the second.
fn cubic(x: f64) -> [f64; 4] {
    let a = -0.75;
    let near = |x: f64| ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
    [far(x + 1.0), near(x), near(1.0 - x), far(2.0 - x)]
}

fn eval_grid_sample(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (data, grid) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let shape = shape_from(ctx, infer_grid_sample)?;
    let sampler = Sampler::of(ctx.attrs())?;
    let space = &data.shape()[2..];
    let (values, coordinates) = (hetra_tensor::to_f64(data)?, hetra_tensor::to_f64(grid)?);
    let mut out = float_buffer(&shape)?;
    if out.is_empty() || data.is_empty() {
        return Ok(vec![hetra_tensor::from_f64(data.dtype(), &shape, &out)?.into()]);
    }
    let (channels, rank) = (shape[1], space.len());
    let strides = strides_of(space);
    let channel_size: usize = volume(space);
    let samples: usize = volume(&shape[2..]);
    let mut axes = vec![Taps::default(); rank];
    for (sample, coordinates) in coordinates.chunks_exact(rank).enumerate() {
        // Coordinates stand innermost axis first.
        for (axis, taps) in axes.iter_mut().enumerate() {
            *taps = sampler.taps(coordinates[rank - 1 - axis], space[axis]);
        }
        if axes.iter().any(|taps| taps.count == 0) {
            continue;
        }
        let (batch, place) = (sample / samples, sample % samples);
        each_tap(&axes, &strides, |offset, weight| {
            for channel in 0..channels {
                let plane = batch * channels + channel;
                out[plane * samples + place] += weight * values[plane * channel_size + offset];
            }
        });
    }
    if data.dtype().is_int() {
        out.iter_mut().for_each(|value| *value = value.trunc());
    }
    Ok(vec![hetra_tensor::from_f64(data.dtype(), &shape, &out)?.into()])
}

/// Calls `visit` with the offset and the weight of each combination of places; each axis has one.
fn each_tap(axes: &[Taps], strides: &[usize], mut visit: impl FnMut(usize, f64)) {
    let combinations: usize = axes.iter().map(|taps| taps.count).product();
    for mut combination in 0..combinations {
        let (mut offset, mut weight) = (0, 1.0);
        for (taps, stride) in axes.iter().zip(strides) {
            let at = combination % taps.count;
            combination /= taps.count;
            offset += taps.place[at] * stride;
            weight *= taps.weight[at];
        }
        visit(offset, weight);
    }
}

fn infer_affine_grid(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    let dtype = ctx.dtype_opt(0);
    let sizes = match ctx.known_ints(1) {
        Some(sizes) => sizes
            .into_iter()
            .map(|size| extent(size, 1).map(Dim::Known))
            .collect::<Result<Vec<_>, _>>()?,
        None => match count_of(ctx, 1)? {
            Some(count @ 4..=5) => vec![Dim::Unknown; count],
            _ => return Ok(vec![InferCtx::make(dtype, None)]),
        },
    };
    let space = match sizes.len() {
        4 | 5 => sizes.len() - 2,
        count => return Err(OpError::input(1, "4 or 5 extents", count.to_string())),
    };
    let wanted = [sizes[0].clone(), space.into(), (space + 1).into()];
    if let Some(theta) = ctx.dims(0) {
        let differ =
            |(a, b): (&Dim, &Dim)| matches!((a, b), (Dim::Known(a), Dim::Known(b)) if a != b);
        if theta.len() != 3 || theta.iter().zip(&wanted).any(differ) {
            return Err(OpError::input(0, format!("dims {wanted:?}"), ctx.ty(0)?.to_string()));
        }
    }
    let mut dims = vec![sizes[0].clone()];
    dims.extend_from_slice(&sizes[2..]);
    dims.push(space.into());
    Ok(vec![InferCtx::make(dtype, Some(dims))])
}

fn eval_affine_grid(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let theta = ctx.tensor(0)?;
    let shape = shape_from(ctx, infer_affine_grid)?;
    let align_corners = ctx.attrs().flag_or("align_corners", false)?;
    let maps = hetra_tensor::to_f64(theta)?;
    let space = &shape[1..shape.len() - 1];
    let rank = space.len();
    let mut out = float_buffer(&shape)?;
    let mut slots = out.iter_mut();
    let regular = |at: usize, extent: usize| match align_corners {
        true if extent == 1 => -1.0,
        true => 2.0 * at as f64 / (extent as f64 - 1.0) - 1.0,
        false => (2.0 * at as f64 + 1.0) / extent as f64 - 1.0,
    };
    let places: usize = volume(space);
    let strides = strides_of(space);
    for map in maps.chunks_exact(rank * (rank + 1)) {
        for place in 0..places {
            for row in map.chunks_exact(rank + 1) {
                // The first column is for the innermost axis.
                let mut sum = row[rank];
                for (column, weight) in row[..rank].iter().enumerate() {
                    let axis = rank - 1 - column;
                    sum += weight * regular(place / strides[axis] % space[axis], space[axis]);
                }
                if let Some(slot) = slots.next() {
                    *slot = sum;
                }
            }
        }
    }
    Ok(vec![hetra_tensor::from_f64(theta.dtype(), &shape, &out)?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflection_turns_at_both_ends() {
        let check = |at, wanted| assert_eq!(reflect(at, 0.0, 3.0), wanted, "{at}");
        check(-1.0, 1.0);
        check(4.0, 2.0);
        check(7.0, 1.0);
        check(-4.0, 2.0);
        assert_eq!(reflect(5.0, 0.0, 0.0), 0.0);
    }

    #[test]
    fn cubic_weights_add_up() {
        for x in [0.0, 0.25, 0.5, 0.9] {
            assert!((cubic(x).iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        assert_eq!(cubic(0.0), [0.0, 1.0, 0.0, 0.0]);
    }
}
