//! Resizing and padding: along one axis after the other, each output place takes its weighted
//! places of the input.

use std::sync::{Arc, Mutex, PoisonError};

use hetra_ir::Node;
use hetra_kernel::{Scalar, kernel};
use hetra_ops::{ResizeForm, Sampling, resolve_axis};
use hetra_tensor::{DType, Shape};
use smallvec::{SmallVec, smallvec};

use crate::context::{A, Run, Stop};
use crate::program::Work;
use crate::stored::Stored;
use crate::table::{Form, Row};

pub(crate) const ROWS: &[Row] = &[
    Row {
        ops: &["Resize"],
        kernel: "resize",
        on_device: &[0],
        takes: |form: &Form<'_>| form.is_f32(0),
        compile: |_, _, node| compile(node, resize_axes),
    },
    Row {
        ops: &["Pad"],
        kernel: "pad",
        on_device: &[0],
        takes: |form: &Form<'_>| {
            let mode = form.node.attrs.str_or("mode", "constant");
            form.is_f32(0) && mode.is_ok_and(|mode| mode != "wrap")
        },
        compile: |_, _, node| compile(node, pad_axes),
    },
];

/// Stands for a place that is outside.
const OUTSIDE: u32 = u32::MAX;

/// Most places of an output along an axis: filters that reach farther are the host's.
const TAPS_MAX: usize = 64;

#[kernel(group = [64])]
fn resampled(
    n: u32,
    inner: u32,
    out_extent: u32,
    extent: u32,
    taps: u32,
    fill: f32,
    places: &[u32],
    weights: &[f32],
    x: &[f32],
    y: &mut [f32],
) {
    let i = global_id(0);
    if i >= n {
        return;
    }
    let rest = i % inner;
    let row = i / inner;
    let from = (row / out_extent) * extent;
    let first = (row % out_extent) * taps;
    let mut sum = 0.0;
    let mut inside = 0u32;
    for t in 0..taps {
        let place = places[first + t];
        if place < extent {
            let value = x[(from + place) * inner + rest];
            // One place alone is copied, with its sign.
            sum = if taps == 1 { value } else { sum + weights[first + t] * value };
            inside += 1;
        }
    }
    y[i] = if inside > 0 { sum } else { fill };
}

/// What becomes of one axis.
struct Axis {
    axis: usize,
    out: usize,
    taps: usize,
    places: Vec<u32>,
    weights: Vec<f32>,
    fill: f32,
}

/// An axis whose tables the device has.
struct Placed {
    axis: usize,
    out: usize,
    taps: usize,
    places: Stored,
    weights: Stored,
    fill: f32,
}

/// The tables for the last shape and numbers.
type Last = Mutex<Option<(Vec<i64>, Arc<Vec<Placed>>)>>;

fn compile(node: &Node, axes: fn(&Run<'_, '_>, &Node) -> Result<Vec<Axis>, Stop>) -> Option<Work> {
    let (node, last) = (node.clone(), Last::default());
    Some(Box::new(move |run| {
        let x = run.input(0)?;
        if x.dtype != DType::F32 || x.count() == 0 {
            return Err(Stop::Host);
        }
        let key = key(run, &x)?;
        let known = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let placed = match known.filter(|(of, _)| *of == key) {
            Some((_, placed)) => placed,
            None => {
                let axes = axes(run, &node)?;
                let placed = axes.into_iter().map(|axis| place(run, axis));
                let placed = Arc::new(placed.collect::<Result<Vec<_>, _>>()?);
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                *last = Some((key, placed.clone()));
                placed
            }
        };
        placed.iter().try_fold(x, |x, axis| apply(run, &x, axis)).map(|y| smallvec![y])
    }))
}

/// All that decides the tables: the shape, and what the other inputs say, as bits.
fn key(run: &Run<'_, '_>, x: &Stored) -> Result<Vec<i64>, Stop> {
    let mut key: Vec<i64> = x.shape.iter().map(|&extent| extent as i64).collect();
    for index in 1..run.call.inputs.len() {
        key.push(-1);
        if let Some(tensor) = run.on_host(index)? {
            key.extend(hetra_tensor::to_f64(tensor)?.into_iter().map(|v| v.to_bits() as i64));
        }
    }
    Ok(key)
}

fn place(run: &Run<'_, '_>, axis: Axis) -> Result<Placed, Stop> {
    let count = axis.places.len();
    let filled = |bytes: &[u8], scalar, dtype| -> Result<Stored, Stop> {
        let memory = run.gpu.filled(bytes).map_err(hetra_tensor::TensorError::from)?;
        Ok(Stored { memory, from: 0, scalar, dtype, shape: smallvec![count] })
    };
    let places: Vec<u8> = axis.places.iter().flat_map(|place| place.to_le_bytes()).collect();
    let weights: Vec<u8> = axis.weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    Ok(Placed {
        axis: axis.axis,
        out: axis.out,
        taps: axis.taps,
        places: filled(&places, Scalar::U32, DType::U32)?,
        weights: filled(&weights, Scalar::F32, DType::F32)?,
        fill: axis.fill,
    })
}

fn apply(run: &Run<'_, '_>, x: &Stored, by: &Placed) -> Result<Stored, Stop> {
    let mut shape: Shape = x.shape.clone();
    shape[by.axis] = by.out;
    let inner: usize = x.shape[by.axis + 1..].iter().product();
    let out = run.gpu.room(DType::F32, &shape)?;
    let n = out.count();
    if n == 0 {
        return Err(Stop::Host);
    }
    let kernel = run.gpu.kernel("resampled", || resampled::with(&[]))?;
    let sizes = [n, inner, by.out, x.shape[by.axis], by.taps].map(A::U);
    let mut args: SmallVec<[A<'_>; 12]> = sizes.into_iter().collect();
    args.extend([A::F(by.fill), A::M(&by.places), A::M(&by.weights), A::M(x), A::M(&out)]);
    run.gpu.line(&kernel, n, &args)?;
    drop(args);
    Ok(out)
}

fn resize_axes(run: &Run<'_, '_>, node: &Node) -> Result<Vec<Axis>, Stop> {
    let extents = run.shape(0)?.to_vec();
    let form = ResizeForm::resolve(&run.call.context())?;
    let fill = node.attrs.float_or("extrapolation_value", 0.0)?;
    let mut axes = Vec::new();
    for (axis, (&extent, &out)) in extents.iter().zip(&form.shape).enumerate() {
        let rows: Vec<Vec<(usize, f64)>> = match &form.sampling {
            Sampling::Empty => return Err(Stop::Host),
            Sampling::Places(places) => {
                let row =
                    |&place: &usize| if place == usize::MAX { vec![] } else { vec![(place, 1.0)] };
                places[axis].iter().map(row).collect()
            }
            // What is outside is filled when all axes are done.
            Sampling::Weights(taps) if taps[axis].rows.iter().any(Vec::is_empty) => {
                return Err(Stop::Host);
            }
            Sampling::Weights(taps) => taps[axis].rows.clone(),
        };
        let same = |(at, row): (usize, &Vec<(usize, f64)>)| row[..] == [(at, 1.0)];
        if extent == out && rows.iter().enumerate().all(same) {
            continue;
        }
        axes.push(table(axis, out, &rows, fill)?);
    }
    Ok(axes)
}

/// Rows of as many places as the longest has.
fn table(axis: usize, out: usize, rows: &[Vec<(usize, f64)>], fill: f32) -> Result<Axis, Stop> {
    let taps = rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
    if taps > TAPS_MAX || rows.len() != out {
        return Err(Stop::Host);
    }
    let (mut places, mut weights) = (Vec::new(), Vec::new());
    for row in rows {
        for tap in 0..taps {
            let (place, weight) = row.get(tap).copied().unwrap_or((usize::MAX, 0.0));
            places.push(u32::try_from(place).unwrap_or(OUTSIDE));
            weights.push(weight as f32);
        }
    }
    Ok(Axis { axis, out, taps, places, weights, fill })
}

fn pad_axes(run: &Run<'_, '_>, node: &Node) -> Result<Vec<Axis>, Stop> {
    let extents = run.shape(0)?.to_vec();
    let rank = extents.len();
    let pads = run.numbers(1)?.ok_or(Stop::Host)?;
    let chosen: Vec<usize> = match run.numbers(3)? {
        Some(axes) => axes.into_iter().map(|a| resolve_axis(a, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != chosen.len() * 2 {
        return Err(Stop::Host);
    }
    let fill = match run.on_host(2)? {
        Some(value) => *value.as_slice::<f32>()?.first().ok_or(Stop::Host)?,
        None => 0.0,
    };
    let mode = node.attrs.str_or("mode", "constant")?;
    let mut axes = Vec::new();
    for (index, &axis) in chosen.iter().enumerate() {
        let (before, after) = (pads[index], pads[index + chosen.len()]);
        if (before, after) == (0, 0) {
            continue;
        }
        // What a negative pad drops is not reflected.
        if mode != "constant" && (before < 0 || after < 0) {
            return Err(Stop::Host);
        }
        let extent = extents[axis] as i64;
        let out = extent.checked_add(before).and_then(|sum| sum.checked_add(after));
        let out = out.and_then(|out| usize::try_from(out).ok()).ok_or(Stop::Host)?;
        if out > u32::MAX as usize / 4 {
            return Err(Stop::Host);
        }
        let row = |at: usize| -> Option<Vec<(usize, f64)>> {
            let place = at as i64 - before;
            let inside = (0..extent).contains(&place);
            let place = match mode {
                _ if inside => place,
                "constant" => return Some(Vec::new()),
                "edge" => place.clamp(0, extent - 1),
                // Once over the edge; what goes back and forth is the host's.
                "reflect" => Some(if place < 0 { -place } else { 2 * (extent - 1) - place })
                    .filter(|place| (0..extent).contains(place))?,
                _ => return None,
            };
            Some(vec![(place as usize, 1.0)])
        };
        let rows = (0..out).map(row).collect::<Option<Vec<_>>>().ok_or(Stop::Host)?;
        axes.push(table(axis, out, &rows, fill)?);
    }
    Ok(axes)
}
