//! LSTM layers: one product for the inputs of all steps, then a launch for each step.

use hetra_device::{Part, Schedule};
use hetra_ir::Node;
use hetra_kernel::kernel;
use hetra_ops::{Activation, Cell, RecurrentForm};
use hetra_tensor::{DType, Shape};
use smallvec::smallvec;

use crate::activation::Activate;
use crate::context::{A, Gpu, LINE, Outcome, Run, Stop};
use crate::math::{sigmoid, tanh};
use crate::matmul::{Product, multiply};
use crate::program::Work;
use crate::table::{Form, Row};

/// Memories of `lstm_step`.
const BUFFERS: usize = 8;

pub(crate) const ROWS: &[Row] = &[Row {
    ops: &["LSTM"],
    kernel: "lstm",
    on_device: &[0, 1, 2, 3, 5, 6],
    takes: |form: &Form<'_>| {
        // Lengths of each sequence, and peepholes, are the host's.
        let plain = [4, 7].iter().all(|&index| form.node.input(index).is_none());
        let known = RecurrentForm::of(form.node).is_ok_and(|form| is_usual(&form));
        let floats = [0, 1, 2, 3, 5, 6].iter().all(|&index| form.is_f32(index));
        plain && known && floats && form.gpu.limits().buffers_max >= BUFFERS
    },
    compile,
}];

/// Whether it is the cell that nearly all models have.
fn is_usual(form: &RecurrentForm) -> bool {
    let usual = [Activation::Sigmoid, Activation::Tanh, Activation::Tanh];
    form.cell == Cell::Lstm { input_forget: false }
        && form.clip.is_infinite()
        && !form.batch_first
        && form.activations.iter().all(|functions| functions[..] == usual)
}

/// One step of all directions: an item has a hidden unit of a sequence. Gates are i, o, f, c.
#[kernel(group = [64])]
fn lstm_step(
    step: u32,
    steps: u32,
    hidden: u32,
    sequences: u32,
    directions: u32,
    backwards: u32,
    has_bias: u32,
    has_h: u32,
    has_c: u32,
    gates: &[f32],
    r: &[f32],
    bias: &[f32],
    first_h: &[f32],
    first_c: &[f32],
    y: &mut [f32],
    last_h: &mut [f32],
    c: &mut [f32],
) {
    let unit = global_id(0);
    if unit >= hidden {
        return;
    }
    let sequence = global_id(1);
    let direction = global_id(2);
    // Both directions have their own way through time.
    let back = (backwards >> direction) & 1;
    let time = if back == 1 { steps - 1 - step } else { step };
    let before = if back == 1 { time + 1 } else { time - 1 };
    let state = (direction * sequences + sequence) * hidden;
    let from = ((before * directions + direction) * sequences + sequence) * hidden;
    let given = ((direction * steps + time) * sequences + sequence) * 4 * hidden;
    let mut sums = [0.0; 4];
    for gate in 0..4 {
        sums[gate] = gates[given + gate * hidden + unit];
        if has_bias != 0 {
            let at = direction * 8 * hidden + gate * hidden + unit;
            sums[gate] += bias[at] + bias[at + 4 * hidden];
        }
    }
    if step > 0 || has_h != 0 {
        for k in 0..hidden {
            let value = if step > 0 { y[from + k] } else { first_h[state + k] };
            for gate in 0..4 {
                sums[gate] +=
                    value * r[(direction * 4 * hidden + gate * hidden + unit) * hidden + k];
            }
        }
    }
    let mut cell = 0.0;
    if step > 0 {
        cell = c[state + unit];
    } else if has_c != 0 {
        cell = first_c[state + unit];
    }
    let kept = sigmoid(sums[2]) * cell + sigmoid(sums[0]) * tanh(sums[3]);
    let out = sigmoid(sums[1]) * tanh(kept);
    c[state + unit] = kept;
    last_h[state + unit] = out;
    y[((time * directions + direction) * sequences + sequence) * hidden + unit] = out;
}

fn compile(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let form = RecurrentForm::of(node).ok()?;
    let outputs = node.outputs.len();
    Some(Box::new(move |run| lstm(run, &form, outputs)))
}

/// The product of the inputs of all steps and the weights of each direction.
fn of_inputs([m, n, k, directions]: [usize; 4], output: &Shape) -> Product {
    Product {
        m,
        n,
        k,
        a: (k, 1),
        b: (1, k),
        batch: (directions, directions),
        steps: [(0, n * k), (0, 0)],
        alpha: 1.0,
        beta: 0.0,
        c: (0, 0),
        whole: n,
        from: 0,
        output: output.clone(),
    }
}

fn lstm(run: &Run<'_, '_>, form: &RecurrentForm, outputs: usize) -> Outcome {
    let gpu = run.gpu;
    let (x, w, r) = (run.input(0)?, run.input(1)?, run.input(2)?);
    let (&[steps, sequences, inputs], &[directions, gates, own]) = (&x.shape[..], &w.shape[..])
    else {
        return Err(Stop::Host);
    };
    let hidden = gates / 4;
    let fits = gates == 4 * hidden
        && own == inputs
        && directions == form.reversed.len()
        && r.shape[..] == [directions, gates, hidden]
        && [&x, &w, &r].iter().all(|of| of.dtype == DType::F32);
    if !fits || [steps, sequences, inputs, hidden].contains(&0) {
        return Err(Stop::Host);
    }
    let state = [directions, sequences, hidden];
    let optional = |index: usize, shape: &[usize]| {
        let given = run.optional(index)?;
        match given.as_ref().is_none_or(|of| of.dtype == DType::F32 && of.shape[..] == *shape) {
            true => Ok(given),
            false => Err(Stop::Host),
        }
    };
    let bias = optional(3, &[directions, 2 * gates])?;
    let (first_h, first_c) = (optional(5, &state)?, optional(6, &state)?);
    let all = gpu.room(DType::F32, &[directions, steps * sequences, gates])?;
    let product = of_inputs([steps * sequences, gates, inputs, directions], &all.shape);
    multiply(gpu, (Activate::nothing(), &Schedule::new()), &product, [&x, &w, &x], &all)?;
    let y = gpu.room(DType::F32, &[steps, directions, sequences, hidden])?;
    let (h, c) = (gpu.room(DType::F32, &state)?, gpu.room(DType::F32, &state)?);
    let backwards = form.reversed.iter().rev().fold(0, |bits, &back| bits << 1 | usize::from(back));
    let kernel = gpu.kernel("lstm step", || lstm_step::with(&[]))?;
    for step in 0..steps {
        let args = [
            A::U(step),
            A::U(steps),
            A::U(hidden),
            A::U(sequences),
            A::U(directions),
            A::U(backwards),
            A::U(usize::from(bias.is_some())),
            A::U(usize::from(first_h.is_some())),
            A::U(usize::from(first_c.is_some())),
            A::M(&all),
            A::M(&r),
            A::M(bias.as_ref().unwrap_or(&r)),
            A::M(first_h.as_ref().unwrap_or(&r)),
            A::M(first_c.as_ref().unwrap_or(&r)),
            A::M(&y),
            A::M(&h),
            A::M(&c),
        ];
        let lines = hidden.div_ceil(LINE as usize);
        gpu.launch(&kernel, [lines, sequences, directions], &args)?;
    }
    let mut values = smallvec![y, h, c];
    values.truncate(outputs);
    Ok(values)
}
