//! Resize of two axes: nearest for any element, with axes behind them that stay as they are, linear
//! for f32 and the last two.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::{ResizeForm, Sampling, Taps};
use hetra_tensor::{DType, Tensor};

use super::extents::product;
use super::movement::{self, by_width, items, items_mut};
use super::{Compile, Form, LastShape, Outcome, one, only_first_varies, program};
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::resize::{Tap, linear, nearest, nearest_pixels};

pub(super) static OPS: &[(&str, Compile)] = &[("Resize", compile)];

pub(super) fn takes(form: &Form<'_>) -> bool {
    match form.node.attrs.str_or("mode", "nearest") {
        Ok("linear") => form.may_be(0, &[DType::F32]),
        Ok("nearest") => movement::takes(form),
        _ => false,
    }
}

fn compile(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let last = only_first_varies(part, node).then(LastShape::new);
    program("resize", move |call| run(call, last.as_ref()))
}

/// Planes, height and width of a tensor whose planes are its last two axes; a vector is one row.
fn planes(shape: &[usize]) -> Option<(usize, usize, usize)> {
    match shape {
        [] => None,
        [w] => Some((1, 1, *w)),
        [outer @ .., h, w] => Some((product(outer), *h, *w)),
    }
}

fn run(call: &mut Call<'_>, last: Option<&LastShape<ResizeForm>>) -> Outcome {
    let x = call.tensor(0)?.clone();
    let form = match last.and_then(|last| last.get(x.shape())) {
        Some(form) => form,
        None => {
            let form = ResizeForm::resolve(&call.context())?;
            match last {
                Some(last) => last.set(x.shape(), form),
                None => Arc::new(form),
            }
        }
    };
    match &form.sampling {
        Sampling::Empty => Ok(None),
        Sampling::Places(places) => run_nearest(call, &x, &form.shape, places),
        Sampling::Weights(taps) => run_linear(call, &x, &form.shape, taps),
    }
}

/// The tables of the last two axes, if the axes before them stay as they are.
fn tables<A>(all: &[A], kept: impl Fn(usize) -> bool) -> Option<(Option<&A>, &A)> {
    let (cols, outer) = all.split_last()?;
    let (rows, outer) = match outer.split_last() {
        Some((rows, outer)) => (Some(rows), outer),
        None => (None, outer),
    };
    (0..outer.len()).all(kept).then_some((rows, cols))
}

fn run_nearest(call: &mut Call<'_>, x: &Tensor, shape: &[usize], places: &[Vec<usize>]) -> Outcome {
    let kept = |axis: usize| {
        places[axis].len() == x.shape()[axis]
            && places[axis].iter().enumerate().all(|(at, &place)| at == place)
    };
    // Channels that are last stay together.
    let moved = (0..places.len()).rev().find(|&axis| !kept(axis)).map_or(0, |last| last + 1);
    let pixels = moved.max(1).min(places.len());
    let inner = product(&x.shape()[pixels..]);
    let (size, tables) = (planes(&x.shape()[..pixels]), tables(&places[..pixels], kept));
    let (Some(sizes), Some((rows, cols))) = (size, tables) else {
        return Ok(None);
    };
    let rows = rows.map_or(&[0][..], Vec::as_slice);
    // A place outside is the reference's business.
    let inside = |table: &[usize], extent: usize| table.iter().all(|&place| place < extent);
    if !inside(rows, sizes.1) || !inside(cols, sizes.2) {
        return Ok(None);
    }
    by_width!(x.dtype(), T => {
        let mut out = call.output(0, x.dtype(), shape)?;
        if inner == 1 {
            nearest::<T>(items(x), sizes, rows, cols, items_mut(&mut out)?);
        } else {
            let (n, h, w) = sizes;
            nearest_pixels::<T>(items(x), (n, h, w, inner), rows, cols, items_mut(&mut out)?);
        }
        one(out)
    })
}

/// Two neighbours at most, whose weights add up to one; `None` for wider filters and where a place
/// is outside.
fn taps_of(taps: &Taps) -> Option<Vec<Tap>> {
    let whole = |sum: f64| (sum - 1.0).abs() < 1e-9;
    let tap = |row: &Vec<(usize, f64)>| match row[..] {
        [(lo, weight)] => whole(weight).then_some(Tap { lo, hi: lo, t: 0.0 }),
        [(lo, keep), (hi, t)] => whole(keep + t).then_some(Tap { lo, hi, t: t as f32 }),
        _ => None,
    };
    taps.rows.iter().map(tap).collect()
}

fn run_linear(call: &mut Call<'_>, x: &Tensor, shape: &[usize], taps: &[Taps]) -> Outcome {
    let kept = |axis: usize| taps[axis].is_identity(x.shape()[axis]);
    let (Some(sizes), Some((rows, cols))) = (planes(x.shape()), tables(taps, kept)) else {
        return Ok(None);
    };
    let single = || Some(vec![Tap { lo: 0, hi: 0, t: 0.0 }]);
    let (Some(rows), Some(cols)) = (rows.map_or_else(single, taps_of), taps_of(cols)) else {
        return Ok(None);
    };
    if x.dtype() != DType::F32 {
        return Ok(None);
    }
    let mut out = call.output(0, DType::F32, shape)?;
    linear(isa(), x.as_slice()?, sizes, &rows, &cols, out.as_mut_slice()?);
    one(out)
}
