//! What runs over rows: reductions, softmax, normalisations. An item has a row, or a group has one
//! (`rows_shared.rs`): element `i` of it
//! is at `(outer * length + i) * inner + rest`.

use hetra_device::Part;
use hetra_ir::Node;
use hetra_kernel::kernel;
use hetra_ops::{LayerNormForm, LrnForm, SoftmaxForm, resolve_axis};
use hetra_tensor::{DType, Shape};
use smallvec::smallvec;

use crate::context::{A, Gpu, Outcome, Run, Stop};
use crate::math::is_nan;
use crate::movement::permuted;
use crate::program::Work;
use crate::rows_shared;
use crate::stored::Stored;
use crate::table::{Form, Row};

pub(crate) const ROWS: &[Row] = &[
    Row {
        ops: &[
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceSumSquare",
            "GlobalAveragePool",
            "GlobalMaxPool",
        ],
        kernel: "reduce",
        on_device: &[0],
        takes: |form: &Form<'_>| form.is_f32(0),
        compile: compile_reduce,
    },
    Row {
        ops: &["Softmax", "LogSoftmax"],
        kernel: "softmax",
        on_device: &[0],
        takes: |form: &Form<'_>| form.is_f32(0),
        compile: compile_softmax,
    },
    Row {
        ops: &["LayerNormalization"],
        kernel: "layer norm",
        on_device: &[0, 1, 2],
        takes: |form: &Form<'_>| {
            let one = form.node.output(1).is_none() && form.node.output(2).is_none();
            one && (0..3).all(|index| form.is_f32(index))
        },
        compile: compile_layer_norm,
    },
    Row {
        ops: &["LRN"],
        kernel: "lrn",
        on_device: &[0],
        takes: |form: &Form<'_>| form.is_f32(0) && LrnForm::of(&form.node.attrs).is_ok(),
        compile: compile_lrn,
    },
];

/// Most elements of a row that is reduced.
const LENGTH_MAX: usize = 1 << 16;

#[kernel(group = [64])]
fn reduced(rows: u32, length: u32, inner: u32, way: u32, factor: f32, x: &[f32], y: &mut [f32]) {
    let row = global_id(0);
    if row >= rows {
        return;
    }
    let mut at = (row / inner) * length * inner + row % inner;
    let first = x[at];
    // 0: sum, 1: greatest, 2: least, 3: product, 4: of sizes, 5: of squares, 6: greatest number.
    let mut result = 0.0;
    if way == 1 || way == 2 {
        result = first;
    }
    if way == 3 {
        result = 1.0;
    }
    if way == 6 {
        result = f32::NEG_INFINITY;
    }
    for _ in 0..length {
        let value = x[at];
        at += inner;
        if way == 0 {
            result += value;
        } else if way == 1 {
            // A number that is none wins.
            let wins = value > result || is_nan(value);
            result = if wins { value } else { result };
        } else if way == 2 {
            let wins = value < result || is_nan(value);
            result = if wins { value } else { result };
        } else if way == 3 {
            result *= value;
        } else if way == 4 {
            result += value.abs();
        } else if way == 5 {
            result += value * value;
        } else {
            result = if value > result { value } else { result };
        }
    }
    y[row] = result * factor;
}

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
    for i in 0..length {
        sum += (x[from + i * inner] - greatest).exp();
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

#[kernel(group = [64])]
fn layer_norm(
    rows: u32,
    length: u32,
    epsilon: f32,
    has_bias: u32,
    x: &[f32],
    scale: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let row = global_id(0);
    if row >= rows {
        return;
    }
    let from = row * length;
    let mut sum = 0.0;
    for i in 0..length {
        sum += x[from + i];
    }
    let mean = sum / (length as f32);
    let mut squares = 0.0;
    for i in 0..length {
        let off = x[from + i] - mean;
        squares += off * off;
    }
    let factor = 1.0 / (squares / (length as f32) + epsilon).sqrt();
    for i in 0..length {
        let mut value = (x[from + i] - mean) * factor * scale[i];
        if has_bias != 0 {
            value += bias[i];
        }
        y[from + i] = value;
    }
}

fn product(extents: &[usize]) -> usize {
    extents.iter().product()
}

fn compile_reduce(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let keep = node.attrs.flag_or("keepdims", true).ok()?;
    let noop = node.attrs.flag_or("noop_with_empty_axes", false).ok()?;
    let node = node.clone();
    Some(Box::new(move |run| reduce(run, &node, keep, noop)))
}

fn reduce(run: &Run<'_, '_>, node: &Node, keep: bool, noop: bool) -> Outcome {
    let x = run.input(0)?;
    let full = x.shape.clone();
    let rank = full.len();
    let mut chosen = vec![false; rank];
    match (node.op.as_str(), run.numbers(1)?) {
        ("GlobalAveragePool" | "GlobalMaxPool", _) => chosen[2.min(rank)..].fill(true),
        (_, Some(axes)) if !axes.is_empty() => {
            for axis in axes {
                chosen[resolve_axis(axis, rank)?] = true;
            }
        }
        _ => chosen.fill(!noop),
    }
    let wide = |axis: &usize| chosen[*axis] && x.shape[*axis] != 1;
    let (first, last) = ((0..rank).find(wide), (0..rank).rev().find(wide));
    let (first, last) = first.zip(last).unwrap_or((rank, rank));
    // Where axes between them stay, the chosen ones move to the end.
    let apart = first < rank && (first..=last).any(|a| !chosen[a] && x.shape[a] != 1);
    let (x, [outer, length, inner]) = if apart {
        let chosen = &chosen;
        let order = |wanted: bool| (0..rank).filter(move |&axis| chosen[axis] == wanted);
        let perm: Vec<usize> = order(false).chain(order(true)).collect();
        let extent = |wanted: bool| order(wanted).map(|axis| x.shape[axis]).product::<usize>();
        (permuted(run, &x, &perm)?, [extent(false), extent(true), 1])
    } else {
        let end = if first < rank { last + 1 } else { rank };
        let parts = [&x.shape[..first], &x.shape[first..end], &x.shape[end..]].map(product);
        (x.clone(), parts)
    };
    let extents = full.iter().zip(&chosen).filter_map(|(&extent, &chosen)| match chosen {
        true => keep.then_some(1),
        false => Some(extent),
    });
    let shape: Shape = extents.collect();
    let (way, factor) = match node.op.as_str() {
        "ReduceMean" | "GlobalAveragePool" => (0, 1.0 / length as f32),
        "ReduceMax" => (1, 1.0),
        "GlobalMaxPool" => (6, 1.0),
        "ReduceMin" => (2, 1.0),
        "ReduceProd" => (3, 1.0),
        "ReduceL1" => (4, 1.0),
        "ReduceSumSquare" => (5, 1.0),
        _ => (0, 1.0),
    };
    let rows = outer * inner;
    let together = rows_shared::pays(run.gpu.limits(), rows, length, inner);
    // An item adds up no more: longer rows take another order, and another kernel.
    let items = if together { rows_shared::GROUP } else { 1 };
    if length > LENGTH_MAX * items {
        return Err(Stop::Host);
    }
    let out = rows_of(run, &x, &shape)?;
    let args =
        [A::U(rows), A::U(length), A::U(inner), A::U(way), A::F(factor), A::M(&x), A::M(&out)];
    if together {
        let kernel = run
            .gpu
            .kernel("reduced shared", || rows_shared::reduced::with(&rows_shared::CONSTANTS))?;
        run.gpu.launch(&kernel, [rows, 1, 1], &args[1..])?;
    } else {
        let kernel = run.gpu.kernel("reduced", || reduced::with(&[]))?;
        run.gpu.line(&kernel, rows, &args)?;
    }
    Ok(smallvec![out.clone()])
}

/// Room for a result; what is empty, or of another dtype, is the host's.
fn rows_of(run: &Run<'_, '_>, x: &Stored, shape: &[usize]) -> Result<Stored, Stop> {
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
        let out = rows_of(run, &x, &x.shape)?;
        let (rows, log) = (outer * inner, usize::from(node.op == "LogSoftmax"));
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

fn compile_layer_norm(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let node = node.clone();
    Some(Box::new(move |run| {
        let (x, scale, bias) = (run.input(0)?, run.input(1)?, run.optional(2)?);
        let form = LayerNormForm::resolve(&node.attrs, &x.shape)?;
        let fits = |of: &Stored| form.is_row(&x.shape, &of.shape);
        let floats = |of: &Stored| of.dtype == DType::F32;
        let floats = floats(&scale) && bias.as_ref().is_none_or(floats);
        if !floats || !fits(&scale) || !bias.as_ref().is_none_or(fits) {
            return Err(Stop::Host);
        }
        let out = rows_of(run, &x, &x.shape)?;
        let args = [
            A::U(form.rows),
            A::U(form.length),
            A::F(form.epsilon),
            A::U(usize::from(bias.is_some())),
            A::M(&x),
            A::M(&scale),
            A::M(bias.as_ref().unwrap_or(&scale)),
            A::M(&out),
        ];
        if rows_shared::pays(run.gpu.limits(), form.rows, form.length, 1) {
            let make = || rows_shared::layer_norm::with(&rows_shared::CONSTANTS);
            let kernel = run.gpu.kernel("layer_norm shared", make)?;
            run.gpu.launch(&kernel, [form.rows, 1, 1], &args[1..])?;
        } else {
            let kernel = run.gpu.kernel("layer_norm", || layer_norm::with(&[]))?;
            run.gpu.line(&kernel, form.rows, &args)?;
        }
        Ok(smallvec![out.clone()])
    }))
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
