//! Discrete Fourier transforms: DFT, STFT.
//!
//! The sum is taken as it is written, in f64, with the n roots of unity from a table.

use std::f64::consts::PI;

use hetra_ir::{Dim, Type};
use hetra_tensor::{Tensor, Value, element_count, from_f64, to_f64};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::def::{Arity, Kind, OpDef, Upgrade, onnx};
use crate::error::OpError;
use crate::work::{Work, elements};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&DFT, &STFT];

/// Multiply-adds of one node above this are refused: minutes of work for a plain sum.
const MACS_MAX: u128 = 1 << 38;

static DFT: OpDef = OpDef {
    name: "DFT",
    doc: "Discrete Fourier transform along an axis; the last axis holds real and imaginary parts.",
    onnx: &[onnx("", "DFT", 20)],
    inputs: Arity::between(1, 3),
    kind: Kind::Heavy,
    upgrade: Some(|up: &mut Upgrade<'_>| {
        if up.node.version < 20 {
            let axis = up.node.attrs.int_or("axis", 1)?;
            up.node.attrs.set("axis", axis);
            up.attr_to_input("axis", 2)?;
        }
        Ok(())
    }),
    infer: infer_dft,
    work: transform_work,
    eval: eval_dft,
    ..OpDef::DEFAULT
};

static STFT: OpDef = OpDef {
    name: "STFT",
    doc: "Discrete Fourier transforms of overlapping frames of a signal.",
    onnx: &[onnx("", "STFT", 17)],
    inputs: Arity::between(2, 4),
    kind: Kind::Heavy,
    infer: infer_stft,
    work: transform_work,
    eval: eval_stft,
    ..OpDef::DEFAULT
};

/// A transform of `length` points, of which the first `bins` results are wanted.
struct Transform {
    length: usize,
    bins: usize,
    /// The roots of unity exp(-2 pi i k / length), conjugated for the inverse.
    roots: Vec<(f64, f64)>,
    /// 1, or 1 / length for the inverse.
    factor: f64,
}

impl Transform {
    fn new(length: usize, bins: usize, inverse: bool, times: usize) -> Result<Self, OpError> {
        let macs = (length as u128).saturating_mul(bins as u128).saturating_mul(times as u128);
        if macs > MACS_MAX {
            return Err(OpError::unsupported(format!("{times} transforms of {length} points")));
        }
        let sign = if inverse { 1.0 } else { -1.0 };
        let root = |k: usize| {
            let angle = 2.0 * PI * k as f64 / length as f64;
            (angle.cos(), sign * angle.sin())
        };
        let factor = if inverse { 1.0 / length as f64 } else { 1.0 };
        Ok(Transform { length, bins, roots: (0..length).map(root).collect(), factor })
    }

    /// Transforms `signal`, zeros after its end, and hands out each bin.
    fn run(&self, signal: &[(f64, f64)], mut put: impl FnMut(usize, f64, f64)) {
        for bin in 0..self.bins {
            let (mut re, mut im, mut turn) = (0.0, 0.0, 0);
            for &(x, y) in signal.iter().take(self.length) {
                let (c, s) = self.roots[turn];
                re += x * c - y * s;
                im += x * s + y * c;
                turn += bin;
                if turn >= self.length {
                    turn -= self.length;
                }
            }
            put(bin, re * self.factor, im * self.factor);
        }
    }
}

fn bins(length: usize, onesided: bool) -> usize {
    if onesided { length / 2 + 1 } else { length }
}

/// The last axis holds 1 (real) or 2 (complex) numbers.
fn parts_of(tensor: &Tensor) -> Result<usize, OpError> {
    if !tensor.dtype().is_float() {
        return Err(OpError::input(0, "floats", tensor.describe()));
    }
    match tensor.shape().last() {
        Some(&parts @ (1 | 2)) if tensor.rank() >= 2 => Ok(parts),
        _ => Err(OpError::input(0, "a last axis of 1 or 2", tensor.describe())),
    }
}

fn positive(index: usize, value: i64) -> Result<usize, OpError> {
    usize::try_from(value)
        .ok()
        .filter(|&value| value > 0)
        .ok_or_else(|| OpError::input(index, "a positive integer", format!("{value}")))
}

fn no_onesided_complex(onesided: bool, parts: usize) -> Result<(), OpError> {
    if onesided && parts == 2 {
        return Err(OpError::invalid("a one-sided transform wants a real signal"));
    }
    Ok(())
}

/// A DFT with its arguments: lines of `signal` points, `inner` apart, each a new line of `bins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DftForm {
    /// The product of the extents before the axis.
    pub outer: usize,
    /// Points that are given.
    pub signal: usize,
    /// The product of the extents between the axis and the last one.
    pub inner: usize,
    /// Numbers of a given point: 1 (real) or 2 (complex).
    pub parts: usize,
    /// Points of the transform: the signal is cut, or zeros come after it.
    pub length: usize,
    /// The first results, which are wanted.
    pub bins: usize,
    /// From the results back to the points.
    pub inverse: bool,
    /// The shape of the output; its last axis holds real and imaginary part.
    pub shape: Vec<usize>,
}

impl DftForm {
    /// Reads inputs and attributes of a DFT.
    ///
    /// # Errors
    /// Arguments that do not fit together.
    pub fn of(ctx: &EvalCtx<'_>) -> Result<DftForm, OpError> {
        let x = ctx.tensor(0)?;
        let parts = parts_of(x)?;
        let axis = match ctx.tensor_opt(2) {
            Some(_) => ctx.int(2)?,
            None => -2,
        };
        let axis = signal_axis(axis, x.rank())?;
        let length = match ctx.tensor_opt(1) {
            Some(_) => positive(1, ctx.int(1)?)?,
            None => positive(0, x.shape()[axis] as i64)?,
        };
        let onesided = ctx.attrs().flag_or("onesided", false)?;
        let inverse = ctx.attrs().flag_or("inverse", false)?;
        no_onesided_complex(onesided && !inverse, parts)?;
        let bins = bins(length, onesided);
        let mut shape = x.shape().to_vec();
        shape[axis] = bins;
        shape[x.rank() - 1] = 2;
        let outer = element_count(&x.shape()[..axis])?;
        let inner = element_count(&x.shape()[axis + 1..x.rank() - 1])?;
        Ok(DftForm { outer, signal: x.shape()[axis], inner, parts, length, bins, inverse, shape })
    }
}

fn eval_dft(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let form = DftForm::of(ctx)?;
    let DftForm { outer, inner, parts, .. } = form;
    // Checks the size against the memory limit.
    let empty = Tensor::zeros(x.dtype(), &form.shape)?;
    let total = empty.len();
    if total == 0 {
        return Ok(vec![empty.into()]);
    }
    let times = outer.saturating_mul(inner);
    let transform = Transform::new(form.length, form.bins, form.inverse, times)?;
    let values = to_f64(x)?;
    let mut out = vec![0f64; total];
    let mut signal = Vec::with_capacity(form.signal);
    for block in 0..outer {
        for rest in 0..inner {
            signal.clear();
            signal.extend((0..form.signal).map(|index| {
                let at = ((block * form.signal + index) * inner + rest) * parts;
                (values[at], if parts == 2 { values[at + 1] } else { 0.0 })
            }));
            transform.run(&signal, |bin, re, im| {
                let at = ((block * form.bins + bin) * inner + rest) * 2;
                (out[at], out[at + 1]) = (re, im);
            });
        }
    }
    Ok(vec![from_f64(x.dtype(), &form.shape, &out)?.into()])
}

/// The axis of a DFT: any but the last.
fn signal_axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let resolved = resolve_axis(axis, rank)?;
    if resolved + 1 == rank {
        return Err(OpError::input(2, "an axis before the last", format!("{axis}")));
    }
    Ok(resolved)
}

/// Length, step and number of the frames of an STFT.
struct Frames {
    length: usize,
    step: usize,
    count: usize,
}

fn frames_of(
    signal: usize,
    step: i64,
    length: Option<i64>,
    window: Option<usize>,
) -> Result<Frames, OpError> {
    let step = positive(1, step)?;
    let length = match (length, window) {
        (Some(length), _) => positive(3, length)?,
        (None, Some(window)) => positive(2, window as i64)?,
        (None, None) => positive(0, signal as i64)?,
    };
    if window.is_some_and(|window| window > length) {
        return Err(OpError::input(2, format!("at most {length} numbers"), format!("{window:?}")));
    }
    let room = signal.checked_sub(length).ok_or_else(|| {
        OpError::input(3, format!("a frame in a signal of {signal}"), format!("{length}"))
    })?;
    Ok(Frames { length, step, count: room / step + 1 })
}

/// An STFT with its arguments: frame `i` begins at point `i * step` of its signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StftForm {
    /// Signals.
    pub batch: usize,
    /// Points of a signal.
    pub signal: usize,
    /// Numbers of a point: 1 (real) or 2 (complex).
    pub parts: usize,
    /// Frames of a signal.
    pub frames: usize,
    /// Points from one frame to the next.
    pub step: usize,
    /// Points of a frame; the window may be shorter, and is 0 from there on.
    pub length: usize,
    /// The first results of a frame, which are wanted.
    pub bins: usize,
    /// The shape of the output; its last axis holds real and imaginary part.
    pub shape: Vec<usize>,
}

impl StftForm {
    /// Reads inputs and attributes of an STFT.
    ///
    /// # Errors
    /// Arguments that do not fit together.
    pub fn of(ctx: &EvalCtx<'_>) -> Result<StftForm, OpError> {
        let x = ctx.tensor(0)?;
        let parts = parts_of(x)?;
        let &[batch, signal, _] = x.shape() else {
            return Err(OpError::input(0, "(batch, signal, parts)", x.describe()));
        };
        let window = ctx.tensor_opt(2).map(Tensor::len);
        let length = ctx.tensor_opt(3).map(|_| ctx.int(3)).transpose()?;
        let Frames { length, step, count: frames } =
            frames_of(signal, ctx.int(1)?, length, window)?;
        let onesided = ctx.attrs().flag_or("onesided", true)?;
        no_onesided_complex(onesided, parts)?;
        let bins = bins(length, onesided);
        let shape = vec![batch, frames, bins, 2];
        Ok(StftForm { batch, signal, parts, frames, step, length, bins, shape })
    }
}

fn eval_stft(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let form = StftForm::of(ctx)?;
    let StftForm { batch, frames, parts, .. } = form;
    let window = ctx.tensor_opt(2).map(to_f64).transpose()?;
    let empty = Tensor::zeros(x.dtype(), &form.shape)?;
    let total = empty.len();
    if total == 0 {
        return Ok(vec![empty.into()]);
    }
    let transform = Transform::new(form.length, form.bins, false, batch.saturating_mul(frames))?;
    let values = to_f64(x)?;
    let mut out = Vec::with_capacity(total);
    let mut frame = Vec::with_capacity(form.length);
    for image in 0..batch {
        for index in 0..frames {
            frame.clear();
            frame.extend((0..form.length).map(|offset| {
                let at = (image * form.signal + index * form.step + offset) * parts;
                // Past the end of a short window the weight is 0.
                let weight = match &window {
                    Some(window) => window.get(offset).copied().unwrap_or(0.0),
                    None => 1.0,
                };
                let im = if parts == 2 { values[at + 1] } else { 0.0 };
                (values[at] * weight, im * weight)
            }));
            transform.run(&frame, |_, re, im| out.extend([re, im]));
        }
    }
    Ok(vec![from_f64(x.dtype(), &form.shape, &out)?.into()])
}

fn infer_dft(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(0);
    let Some(dims) = ctx.dims(0) else { return Ok(vec![InferCtx::make(dtype, None)]) };
    let rank = dims.len();
    if rank < 2 {
        return Err(OpError::input(0, "at least 2 axes", format!("{rank}")));
    }
    let onesided = ctx.attrs().flag_or("onesided", false)?;
    let axis = match ctx.known_ints(2).as_deref() {
        Some([axis]) => Some(signal_axis(*axis, rank)?),
        Some(_) => return Err(OpError::input(2, "one integer", "several")),
        None if ctx.has(2) => None,
        None => Some(rank - 2),
    };
    let mut out = match axis {
        // Any axis may change.
        None => vec![Dim::Unknown; rank],
        Some(axis) => {
            let mut out = dims.to_vec();
            let given = match ctx.known_ints(1).as_deref() {
                Some([length]) => Some(Dim::Known(positive(1, *length)?)),
                _ if ctx.has(1) => None,
                _ => Some(dims[axis].clone()),
            };
            out[axis] = match given {
                Some(Dim::Known(length)) => Dim::Known(bins(length, onesided)),
                Some(dim) if !onesided => dim,
                _ => Dim::Unknown,
            };
            out
        }
    };
    out[rank - 1] = Dim::Known(2);
    Ok(vec![InferCtx::make(dtype, Some(out))])
}

fn infer_stft(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(0);
    let onesided = ctx.attrs().flag_or("onesided", true)?;
    let one = |index: usize| match ctx.known_ints(index).as_deref() {
        Some([value]) => Some(*value),
        _ => None,
    };
    let dims = ctx.dims(0);
    if let Some(dims) = dims
        && dims.len() != 3
    {
        return Err(OpError::input(0, "3 axes", format!("{}", dims.len())));
    }
    let batch = dims.map_or(Dim::Unknown, |dims| dims[0].clone());
    let signal = dims.and_then(|dims| dims[1].known());
    let window = ctx.dims(2).and_then(|dims| dims.first()).and_then(Dim::known);
    let decided = (one(3).is_some() || !ctx.has(3)) && (window.is_some() || !ctx.has(2));
    let mut out = vec![batch, Dim::Unknown, Dim::Unknown, Dim::Known(2)];
    if let (Some(signal), Some(step), true) = (signal, one(1), decided) {
        let frames = frames_of(signal, step, one(3), window)?;
        out[1] = Dim::Known(frames.count);
        out[2] = Dim::Known(bins(frames.length, onesided));
    }
    Ok(vec![InferCtx::make(dtype, Some(out))])
}

/// As a fast transform does it: 5 n log n for each transform of n points.
fn transform_work(_: &InferCtx<'_>, outputs: &[Type]) -> Work {
    let points = outputs.first().map_or(0.0, elements) / 2.0;
    Work::ops(5.0 * points * points.max(2.0).log2())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{floats, iota, node, run};

    fn near(got: &Tensor, wanted: &[f32]) {
        for (got, wanted) in got.as_slice::<f32>().unwrap().iter().zip(wanted) {
            assert!((got - wanted).abs() < 1e-5, "{got}, wanted {wanted}");
        }
        assert_eq!(got.len(), wanted.len());
    }

    #[test]
    fn there_and_back() {
        let x = floats(&[1, 4, 1], &[1.0, 2.0, 0.0, -1.0]);
        let y = run(node("DFT", 1), std::slice::from_ref(&x)).unwrap().remove(0);
        near(&y, &[2.0, 0.0, 1.0, -3.0, 0.0, 0.0, 1.0, 3.0]);
        let back = node("DFT", 1).with("inverse", 1);
        let y = run(back, &[Some(y)]).unwrap().remove(0);
        near(&y, &[1.0, 0.0, 2.0, 0.0, 0.0, 0.0, -1.0, 0.0]);
        let half = node("DFT", 1).with("onesided", 1);
        let longer = Some(Tensor::scalar(3i64));
        let y = run(half, &[x.clone(), longer, Some(Tensor::scalar(1i64))]).unwrap().remove(0);
        near(&y, &[3.0, 0.0, 0.0, -3f32.sqrt()]);
        assert!(run(node("DFT", 1), &[x.clone(), Some(Tensor::scalar(-1i64))]).is_err());
        assert!(run(node("DFT", 1), &[x, None, Some(Tensor::scalar(2i64))]).is_err());
    }

    #[test]
    fn frames() {
        let step = Some(Tensor::scalar(2i64));
        let x = floats(&[1, 5, 1], &[1.0, 2.0, 3.0, 4.0, 5.0]);
        let length = Some(Tensor::scalar(2i64));
        let inputs = [x.clone(), step.clone(), None, length];
        let y = run(node("STFT", 1), &inputs).unwrap().remove(0);
        assert_eq!(y.shape(), [1, 2, 2, 2]);
        near(&y, &[3.0, 0.0, -1.0, 0.0, 7.0, 0.0, -1.0, 0.0]);
        let window = floats(&[2], &[1.0, 0.5]);
        let y = run(node("STFT", 1), &[x.clone(), step.clone(), window]).unwrap().remove(0);
        near(&y, &[2.0, 0.0, 0.0, 0.0, 5.0, 0.0, 1.0, 0.0]);
        let long = Some(Tensor::scalar(9i64));
        assert!(run(node("STFT", 1), &[x.clone(), step, None, long]).is_err());
        assert!(run(node("STFT", 1), &[x, Some(Tensor::scalar(0i64))]).is_err());
        assert!(run(node("STFT", 1), &[iota(&[1, 4]), Some(Tensor::scalar(1i64))]).is_err());
    }
}
