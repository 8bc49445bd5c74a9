//! What runs over rows and gives as many numbers: softmax, sums so far, the response of channels.
//! An item has a row, or a group has one (`rows_shared.rs`): element `i` of it is at
//! `(outer * length + i) * inner + rest`.

use hetra_device::Part;
use hetra_ir::Node;
use hetra_kernel::kernel;
use hetra_ops::{LrnForm, SoftmaxForm, resolve_axis};
use hetra_tensor::DType;
use smallvec::smallvec;

use crate::context::{A, Gpu, Outcome, Run, Stop};
use crate::elementwise::operate;
use crate::program::Work;
use crate::reduce::{Way, over_axes};
use crate::rows_shared;
use crate::stored::Stored;
use crate::table::{Form, Row};

pub(crate) const ROWS: &[Row] = &[
    Row {
        ops: &["Softmax", "LogSoftmax"],
        kernel: "softmax",
        on_device: &[0],
        takes: |form: &Form<'_>| form.is_f32(0),
        compile: compile_softmax,
    },
    Row {
        ops: &["LRN"],
        kernel: "lrn",
        on_device: &[0],
        takes: |form: &Form<'_>| form.is_f32(0) && LrnForm::of(&form.node.attrs).is_ok(),
        compile: compile_lrn,
    },
    Row {
        ops: &["CumSum"],
        kernel: "sums so far",
        on_device: &[0],
        takes: |form: &Form<'_>| form.is_f32(0) && form.is_short(0),
        compile: compile_sums,
    },
];

#[kernel(group = [64])]
fn softmax(rows: u32, length: u32, inner: u32, log: u32, x: &[f32], y: &mut [f32]) {
    let row = global_id(0);
    if row >= rows {
        return;
    }
    let from = (row / inner) * length * inner + row % inner;
    let mut greatest = x[from];
    for i in 0..length {
        greatest = greatest.max(x[from + i * inner]);
    }
    let mut sum = 0.0;
    for block in (0..length).step_by(64) {
        let mut part = 0.0;
        let end = (length - block).min(64);
        for i in 0..end {
            part += (x[from + (block + i) * inner] - greatest).exp();
        }
        sum += part;
    }
    if log != 0 {
        let below = sum.ln();
        for i in 0..length {
            y[from + i * inner] = (x[from + i * inner] - greatest) - below;
        }
        return;
    }
    let factor = 1.0 / sum;
    for i in 0..length {
        y[from + i * inner] = (x[from + i * inner] - greatest).exp() * factor;
    }
}

/// Longest rows that an item does by itself.
pub(crate) const ROW_MAX: usize = 1 << 12;

/// The elements that these extents have.
pub(crate) fn product(extents: &[usize]) -> usize {
    extents.iter().product()
}

/// Room for a result; what is empty, or of another dtype, is the host's.
pub(crate) fn rows_of(run: &Run<'_, '_>, x: &Stored, shape: &[usize]) -> Result<Stored, Stop> {
    if x.dtype != DType::F32 || x.count() == 0 {
        return Err(Stop::Host);
    }
    run.gpu.room(DType::F32, shape)
}

fn compile_softmax(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let node = node.clone();
    Some(Box::new(move |run| {
        let x = run.input(0)?;
        let SoftmaxForm { outer, length, inner } = SoftmaxForm::resolve(&node, &x.shape)?;
        let (rows, log) = (outer * inner, usize::from(node.op == "LogSoftmax"));
        if length > ROW_MAX && !rows_shared::pays(run.gpu.limits(), rows, length, inner) {
            return long_softmax(run, &x, [outer, length, inner], log != 0);
        }
        let out = rows_of(run, &x, &x.shape)?;
        let args = [A::U(rows), A::U(length), A::U(inner), A::U(log), A::M(&x), A::M(&out)];
        if rows_shared::pays(run.gpu.limits(), rows, length, inner) {
            let kernel = run
                .gpu
                .kernel("softmax shared", || rows_shared::softmax::with(&rows_shared::CONSTANTS))?;
            run.gpu.launch(&kernel, [rows, 1, 1], &args[1..])?;
        } else {
            let kernel = run.gpu.kernel("softmax", || softmax::with(&[]))?;
            run.gpu.line(&kernel, rows, &args)?;
        }
        Ok(smallvec![out.clone()])
    }))
}

/// Softmax of rows that are long for an item: by reductions in parts.
fn long_softmax(run: &Run<'_, '_>, x: &Stored, sizes: [usize; 3], log: bool) -> Outcome {
    let rows = x.reshaped(&sizes);
    let over = |of: &Stored, way: Way| over_axes(run, of, &[false, true, false], way);
    let result = if log {
        operate(run.gpu, "Sub", &[&rows, &over(&rows, Way::LogSumExp)?])?
    } else {
        let off = operate(run.gpu, "Sub", &[&rows, &over(&rows, Way::Greatest)?])?;
        let all = operate(run.gpu, "Exp", &[&off])?;
        operate(run.gpu, "Div", &[&all, &over(&all, Way::Sum)?])?
    };
    Ok(smallvec![result.reshaped(&x.shape)])
}

#[kernel(group = [64])]
fn local_response(
    n: u32,
    channels: u32,
    plane: u32,
    before: u32,
    size: u32,
    alpha: f32,
    beta: f32,
    bias: f32,
    x: &[f32],
    y: &mut [f32],
) {
    let i = global_id(0);
    if i >= n {
        return;
    }
    let place = i % plane;
    let channel = (i / plane) % channels;
    let image = i / (plane * channels);
    let mut squares = 0.0;
    for k in 0..size {
        // What lies before the first channel wraps and is beyond the last one.
        let other = channel + k - before;
        if other < channels {
            let value = x[(image * channels + other) * plane + place];
            squares += value * value;
        }
    }
    let base = bias + alpha * squares;
    let mut divisor = 1.0;
    if beta == 0.75 {
        // The usual power costs less so.
        let root = base.sqrt();
        divisor = root * root.sqrt();
    } else {
        divisor = base.powf(beta);
    }
    y[i] = x[i] / divisor;
}

fn compile_lrn(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let form = LrnForm::of(&node.attrs).ok()?;
    Some(Box::new(move |run| {
        let x = run.input(0)?;
        if x.shape.len() < 2 {
            return Err(Stop::Host);
        }
        let out = rows_of(run, &x, &x.shape)?;
        let kernel = run.gpu.kernel("local_response", || local_response::with(&[]))?;
        let (count, back) = (x.count(), form.back.min(x.shape[1]));
        let args = [
            A::U(count),
            A::U(x.shape[1]),
            A::U(product(&x.shape[2..])),
            A::U(back),
            A::U(back + form.forward.min(x.shape[1]) + 1),
            A::F(form.alpha as f32),
            A::F(form.beta),
            A::F(form.bias),
            A::M(&x),
            A::M(&out),
        ];
        run.gpu.line(&kernel, count, &args)?;
        Ok(smallvec![out.clone()])
    }))
}

/// The sum of a row up to each element, in or without it.
#[kernel(group = [64])]
fn sums_so_far(
    rows: u32,
    length: u32,
    inner: u32,
    exclusive: u32,
    reverse: u32,
    x: &[f32],
    y: &mut [f32],
) {
    let row = global_id(0);
    if row >= rows {
        return;
    }
    let from = (row / inner) * length * inner + row % inner;
    let mut sum = 0.0;
    for i in 0..length {
        let place = if reverse != 0 { length - 1 - i } else { i };
        let at = from + place * inner;
        let before = sum;
        sum += x[at];
        y[at] = if exclusive != 0 { before } else { sum };
    }
}

fn compile_sums(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let exclusive = node.attrs.flag_or("exclusive", false).ok()?;
    let reverse = node.attrs.flag_or("reverse", false).ok()?;
    Some(Box::new(move |run| {
        let (x, axis) = (run.input(0)?, run.numbers(1)?.ok_or(Stop::Host)?);
        let &[axis] = &axis[..] else { return Err(Stop::Host) };
        let axis = resolve_axis(axis, x.shape.len())?;
        let out = rows_of(run, &x, &x.shape)?;
        let (length, inner) = (x.shape[axis], product(&x.shape[axis + 1..]));
        if length > run.gpu.limits().turns_max {
            return Err(Stop::Host);
        }
        let rows = x.count() / length;
        let kernel = run.gpu.kernel("sums_so_far", || sums_so_far::with(&[]))?;
        let sizes = [rows, length, inner, usize::from(exclusive), usize::from(reverse)].map(A::U);
        let args: Vec<A<'_>> = sizes.into_iter().chain([A::M(&x), A::M(&out)]).collect();
        run.gpu.line(&kernel, rows, &args)?;
        Ok(smallvec![out.clone()])
    }))
}
