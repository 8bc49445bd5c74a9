//! Recurrent layers: one product for the inputs of all steps, then a launch for each step (two
//! where a gate acts before the product of the state).

use hetra_device::{Part, Schedule};
use hetra_ir::Node;
use hetra_kernel::{kernel, kernel_fn};
use hetra_ops::{Activation, Cell, RecurrentForm};
use hetra_tensor::{DType, Shape};
use smallvec::{SmallVec, smallvec};

use crate::activation::Activate;
use crate::context::{A, Gpu, LINE, Outcome, Run, Stop};
use crate::math::{leaky, sigmoid, tanh};
use crate::matmul::{Product, multiply};
use crate::program::Work;
use crate::stored::Stored;
use crate::table::{Form, Row};

/// Most memories of a step.
const BUFFERS: usize = 8;

pub(crate) const ROWS: &[Row] = &[Row {
    ops: &["LSTM", "GRU", "RNN"],
    kernel: "recurrent",
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
    use Activation::{Relu, Sigmoid, Tanh};
    let usual = |functions: &[Activation]| match form.cell {
        Cell::Lstm { input_forget } => !input_forget && *functions == [Sigmoid, Tanh, Tanh],
        Cell::Gru { .. } => *functions == [Sigmoid, Tanh],
        Cell::Rnn => *functions == [Tanh] || *functions == [Relu],
    };
    // All directions by the same functions.
    let first = form.activations.first();
    form.clip.is_infinite()
        && !form.batch_first
        && form.activations.iter().all(|own| usual(own) && Some(own) == first)
}

/// The place in time of a step: both directions have their own way through it. (Of what was before
/// the first one nothing is read.)
#[kernel_fn]
fn time_of(step: u32, steps: u32, backwards: u32, direction: u32) -> u32 {
    let back = (backwards >> direction) & 1;
    if back == 1 { steps - 1 - step } else { step }
}

/// Which state of all that a layer gives it is.
#[kernel_fn]
fn place_of(time: u32, directions: u32, direction: u32, sequences: u32, sequence: u32) -> u32 {
    (time * directions + direction) * sequences + sequence
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
    let time = time_of(step, steps, backwards, direction);
    let before = time_of(step - 1, steps, backwards, direction);
    let state = (direction * sequences + sequence) * hidden;
    let from = place_of(before, directions, direction, sequences, sequence) * hidden;
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
    y[place_of(time, directions, direction, sequences, sequence) * hidden + unit] = out;
}

/// One step of all directions of a layer of one gate: `relu` or the hyperbolic tangent.
#[kernel(group = [64])]
fn rnn_step(
    step: u32,
    steps: u32,
    hidden: u32,
    sequences: u32,
    directions: u32,
    backwards: u32,
    has_bias: u32,
    has_h: u32,
    relu: u32,
    gates: &[f32],
    r: &[f32],
    bias: &[f32],
    first_h: &[f32],
    y: &mut [f32],
    last_h: &mut [f32],
) {
    let unit = global_id(0);
    if unit >= hidden {
        return;
    }
    let sequence = global_id(1);
    let direction = global_id(2);
    let time = time_of(step, steps, backwards, direction);
    let before = time_of(step - 1, steps, backwards, direction);
    let state = (direction * sequences + sequence) * hidden;
    let from = place_of(before, directions, direction, sequences, sequence) * hidden;
    let mut sum = gates[((direction * steps + time) * sequences + sequence) * hidden + unit];
    if has_bias != 0 {
        let at = direction * 2 * hidden + unit;
        sum += bias[at] + bias[at + hidden];
    }
    if step > 0 || has_h != 0 {
        for k in 0..hidden {
            let value = if step > 0 { y[from + k] } else { first_h[state + k] };
            sum += value * r[(direction * hidden + unit) * hidden + k];
        }
    }
    let out = if relu != 0 { leaky(sum, 0.0) } else { tanh(sum) };
    last_h[state + unit] = out;
    y[place_of(time, directions, direction, sequences, sequence) * hidden + unit] = out;
}

/// One step of all directions of a gated layer. Gates are z, r, h. Where the reset gate acts before
/// the product of the state (`linear` is 0) this gives the gates, by `PART` 0, and what it leaves
/// of the state; then, by `PART` 1, the new state.
#[kernel(group = [64])]
fn gru_step<const PART: usize>(
    step: u32,
    steps: u32,
    hidden: u32,
    sequences: u32,
    directions: u32,
    backwards: u32,
    has_bias: u32,
    has_h: u32,
    linear: u32,
    gates: &[f32],
    r: &[f32],
    bias: &[f32],
    first_h: &[f32],
    y: &mut [f32],
    last_h: &mut [f32],
    update: &mut [f32],
    left: &mut [f32],
) {
    let unit = global_id(0);
    if unit >= hidden {
        return;
    }
    let sequence = global_id(1);
    let direction = global_id(2);
    let time = time_of(step, steps, backwards, direction);
    let before = time_of(step - 1, steps, backwards, direction);
    let state = (direction * sequences + sequence) * hidden;
    let from = place_of(before, directions, direction, sequences, sequence) * hidden;
    let given = ((direction * steps + time) * sequences + sequence) * 3 * hidden;
    let there = step > 0 || has_h != 0;
    let mut own = 0.0;
    if step > 0 {
        own = y[from + unit];
    } else if has_h != 0 {
        own = first_h[state + unit];
    }
    let bias_at = direction * 6 * hidden + unit;
    // Of the candidate what comes of the state stands by itself.
    let mut sums = [0.0; 4];
    for gate in 0..3 {
        sums[gate] = gates[given + gate * hidden + unit];
        if has_bias != 0 {
            sums[gate] += bias[bias_at + gate * hidden];
        }
    }
    if has_bias != 0 {
        sums[0] += bias[bias_at + 3 * hidden];
        sums[1] += bias[bias_at + 4 * hidden];
        sums[3] = bias[bias_at + 5 * hidden];
    }
    let row = (direction * 3 * hidden + unit) * hidden;
    let gate_rows = hidden * hidden;
    if PART == 0 {
        if there {
            for k in 0..hidden {
                let value = if step > 0 { y[from + k] } else { first_h[state + k] };
                sums[0] += value * r[row + k];
                sums[1] += value * r[row + gate_rows + k];
                if linear != 0 {
                    sums[3] += value * r[row + 2 * gate_rows + k];
                }
            }
        }
        let z = sigmoid(sums[0]);
        let reset = sigmoid(sums[1]);
        if linear == 0 {
            update[state + unit] = z;
            left[state + unit] = reset * own;
            return;
        }
        let out = (1.0 - z) * tanh(sums[2] + reset * sums[3]) + z * own;
        last_h[state + unit] = out;
        y[place_of(time, directions, direction, sequences, sequence) * hidden + unit] = out;
    } else {
        for k in 0..hidden {
            sums[3] += left[state + k] * r[row + 2 * gate_rows + k];
        }
        let z = update[state + unit];
        let out = (1.0 - z) * tanh(sums[2] + sums[3]) + z * own;
        last_h[state + unit] = out;
        y[place_of(time, directions, direction, sequences, sequence) * hidden + unit] = out;
    }
}

fn compile(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let form = RecurrentForm::of(node).ok()?;
    let outputs = node.outputs.len();
    Some(Box::new(move |run| layer(run, &form, outputs)))
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

/// What the operands say of a layer.
struct Layer {
    steps: usize,
    sequences: usize,
    inputs: usize,
    directions: usize,
    gates: usize,
    hidden: usize,
}

impl Layer {
    /// `None` where they do not belong together.
    fn of(form: &RecurrentForm, [x, w, r]: [&Stored; 3]) -> Option<Layer> {
        let (&[steps, sequences, inputs], &[directions, gates, own]) = (&x.shape[..], &w.shape[..])
        else {
            return None;
        };
        let hidden = gates / form.cell.gates();
        let fits = gates == form.cell.gates() * hidden
            && own == inputs
            && directions == form.reversed.len()
            && r.shape[..] == [directions, gates, hidden]
            && [x, w, r].iter().all(|of| of.dtype == DType::F32)
            && ![steps, sequences, inputs, hidden].contains(&0);
        fits.then_some(Layer { steps, sequences, inputs, directions, gates, hidden })
    }
}

fn layer(run: &Run<'_, '_>, form: &RecurrentForm, outputs: usize) -> Outcome {
    let gpu = run.gpu;
    let (x, w, r) = (run.input(0)?, run.input(1)?, run.input(2)?);
    let Layer { steps, sequences, inputs, directions, gates, hidden } =
        Layer::of(form, [&x, &w, &r]).ok_or(Stop::Host)?;
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
    let there = |of: &Option<Stored>| A::U(usize::from(of.is_some()));
    let flag = |flag: bool| A::U(usize::from(flag));
    let or = |of: &'_ Option<Stored>| of.as_ref().unwrap_or(&r).clone();
    let (bias_or, h_or, c_or) = (or(&bias), or(&first_h), or(&first_c));
    let sizes = [steps, hidden, sequences, directions, backwards].map(A::U);
    let mut args: Vec<A<'_>> = [A::U(0)].into_iter().chain(sizes).collect();
    args.extend([there(&bias), there(&first_h)]);
    let mut kernels = Vec::new();
    let left = match form.cell {
        Cell::Lstm { .. } => {
            kernels.push(gpu.kernel("lstm step", || lstm_step::with(&[]))?);
            args.push(there(&first_c));
            None
        }
        Cell::Gru { linear_before_reset: linear } => {
            kernels.push(gpu.kernel("gru step", || gru_step::with(&[0]))?);
            if !linear {
                kernels.push(gpu.kernel("gru step 1", || gru_step::with(&[1]))?);
            }
            args.push(flag(linear));
            Some(gpu.room(DType::F32, &state)?)
        }
        Cell::Rnn => {
            kernels.push(gpu.kernel("rnn step", || rnn_step::with(&[]))?);
            args.push(flag(form.activations.iter().any(|own| own[..] == [Activation::Relu])));
            None
        }
    };
    args.extend([A::M(&all), A::M(&r), A::M(&bias_or), A::M(&h_or)]);
    match (&left, form.cell) {
        (Some(left), _) => args.extend([A::M(&y), A::M(&h), A::M(&c), A::M(left)]),
        (None, Cell::Rnn) => args.extend([A::M(&y), A::M(&h)]),
        (None, _) => args.extend([A::M(&c_or), A::M(&y), A::M(&h), A::M(&c)]),
    }
    for step in 0..steps {
        args[0] = A::U(step);
        for kernel in &kernels {
            let lines = hidden.div_ceil(LINE as usize);
            gpu.launch(kernel, [lines, sequences, directions], &args)?;
        }
    }
    let mut values: SmallVec<[Stored; 1]> = smallvec![y.clone(), h.clone()];
    if matches!(form.cell, Cell::Lstm { .. }) {
        values.push(c.clone());
    }
    values.truncate(outputs);
    Ok(values)
}
