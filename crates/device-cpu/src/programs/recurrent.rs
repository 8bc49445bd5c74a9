//! LSTM, GRU and RNN layers: one product for the inputs of all steps, then step by step.

use std::sync::Arc;

use hetra_device::{Call, Part, Program, Values};
use hetra_ir::Node;
use hetra_ops::{Activation as Op, Cell, OpError, RecurrentForm};
use hetra_tensor::{DType, Tensor, to_i64};
use smallvec::smallvec;

use super::conv::scratch_fits;
use super::{Compile, Form, Outcome, program};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_base::scratch::lend;
use hetra_cpu_kernels::gemm::{Bias, Epilogue, Lhs, Mat, PackedB, Rhs, gemm};
use hetra_cpu_kernels::rnn::{Gru, Lstm, gru_step, lstm_step, rnn_step};

pub(super) static OPS: &[(&str, Compile)] =
    &[("LSTM", compile), ("GRU", compile), ("RNN", compile)];

/// The weights of one direction.
struct Weights {
    /// `Wᵀ`, input by gates.
    w: PackedB,
    /// `Rᵀ`, hidden by gates; that of a GRU without the hidden gate.
    r: PackedB,
    /// The hidden gate of a GRU.
    r_hidden: Option<PackedB>,
}

pub(super) fn takes(Form { node, .. }: &Form<'_>) -> bool {
    RecurrentForm::of(node).is_ok_and(|form| is_usual(&form))
}

/// The functions that the kernels have, nothing bounded or coupled, time first.
fn is_usual(form: &RecurrentForm) -> bool {
    let functions = form.activations.iter().all(|functions| match form.cell {
        Cell::Rnn => matches!(functions[..], [Op::Tanh | Op::Relu]),
        Cell::Gru { .. } => functions[..] == [Op::Sigmoid, Op::Tanh],
        Cell::Lstm { .. } => functions[..] == [Op::Sigmoid, Op::Tanh, Op::Tanh],
    });
    let coupled = matches!(form.cell, Cell::Lstm { input_forget: true });
    functions && !coupled && form.clip.is_infinite() && !form.batch_first
}

fn compile(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let form = RecurrentForm::of(node).ok()?;
    let constants = (part.constant(node, 1), part.constant(node, 2));
    let packed = match constants {
        (Some(w), Some(r)) => Some(pack(&form, w, r)?),
        _ => None,
    };
    let name = node.op.to_lowercase();
    program(&name, move |call| run(call, &form, packed.as_deref()))
}

/// Packs the weights of each direction; `None` where the reference has to say what is wrong.
fn pack(form: &RecurrentForm, w: &Tensor, r: &Tensor) -> Option<Vec<Weights>> {
    let (&[directions, units, input], &[rd, ru, hidden]) = (w.shape(), r.shape()) else {
        return None;
    };
    let fits = directions == form.reversed.len()
        && (rd, ru) == (directions, units)
        && form.hidden_size.is_none_or(|size| size == hidden)
        && form.cell.gates().checked_mul(hidden) == Some(units);
    if !fits || w.is_empty() || r.is_empty() {
        return None;
    }
    let (w, r) = (w.as_slice::<f32>().ok()?, r.as_slice::<f32>().ok()?);
    // Rows of the stored matrices are gates: their transpose is what the products take.
    let turned =
        |rows: &[f32], k: usize| PackedB::new(isa(), Mat::transposed(rows, k, rows.len() / k));
    let one = |(w, r): (&[f32], &[f32])| match form.cell {
        Cell::Gru { .. } => {
            let (first, last) = r.split_at(2 * hidden * hidden);
            let r_hidden = Some(turned(last, hidden));
            Weights { w: turned(w, input), r: turned(first, hidden), r_hidden }
        }
        _ => Weights { w: turned(w, input), r: turned(r, hidden), r_hidden: None },
    };
    let all = w.chunks_exact(units * input).zip(r.chunks_exact(units * hidden));
    Some(all.map(one).collect())
}

/// Extents, and what one direction takes besides its weights.
#[derive(Clone, Copy)]
struct Layer<'a> {
    cell: Cell,
    act: Activation,
    reversed: bool,
    steps: usize,
    batch: usize,
    hidden: usize,
    /// Gates times hidden.
    units: usize,
    /// `[steps, batch, input]`.
    x: &'a [f32],
    /// Of the weights, then of the recurrence, `[2 units]`.
    bias: Option<&'a [f32]>,
    /// `[3 hidden]`.
    peephole: Option<&'a [f32]>,
    /// Steps of each item.
    lengths: &'a [usize],
}

/// The optional inputs of a layer.
struct Arguments {
    bias: Option<Tensor>,
    h: Option<Tensor>,
    c: Option<Tensor>,
    peephole: Option<Tensor>,
    lengths: Vec<usize>,
}

impl Arguments {
    /// `None` where one is not as it must be: the reference says so.
    fn of(
        call: &Call<'_>,
        is_lstm: bool,
        [steps, directions, batch, hidden]: [usize; 4],
        units: usize,
    ) -> Option<Arguments> {
        let given = |index: usize, shape: &[usize]| match call.tensor_opt(index) {
            Some(tensor) if tensor.dtype() == DType::F32 && tensor.shape() == shape => {
                Some(Some(tensor.clone()))
            }
            Some(_) => None,
            None => Some(None),
        };
        let of_lstm =
            |index: usize, shape: &[usize]| if is_lstm { given(index, shape) } else { Some(None) };
        Some(Arguments {
            bias: given(3, &[directions, 2 * units])?,
            h: given(5, &[directions, batch, hidden])?,
            c: of_lstm(6, &[directions, batch, hidden])?,
            peephole: of_lstm(7, &[directions, 3 * hidden])?,
            lengths: lengths(call, steps, batch)?,
        })
    }
}

/// Steps of each batch item; `None` when they are not of 0 to `steps`.
fn lengths(call: &Call<'_>, steps: usize, batch: usize) -> Option<Vec<usize>> {
    let Some(tensor) = call.tensor_opt(4) else { return Some(vec![steps; batch]) };
    let inside = |length: i64| usize::try_from(length).ok().filter(|&length| length <= steps);
    let lengths: Vec<usize> =
        to_i64(tensor).ok()?.into_iter().map(inside).collect::<Option<_>>()?;
    (lengths.len() == batch).then_some(lengths)
}

/// An output that starts as a state, or as zeros.
fn state(
    call: &mut Call<'_>,
    index: usize,
    shape: &[usize],
    from: Option<&Tensor>,
) -> Result<Tensor, OpError> {
    let mut out = call.output(index, DType::F32, shape)?;
    match from {
        Some(from) => out.as_mut_slice::<f32>()?.copy_from_slice(from.as_slice()?),
        None => out.as_mut_slice::<f32>()?.fill(0.0),
    }
    Ok(out)
}

fn run(call: &mut Call<'_>, form: &RecurrentForm, packed: Option<&[Weights]>) -> Outcome {
    let x = call.tensor(0)?.clone();
    let fresh = match packed {
        Some(_) => None,
        None => pack(form, call.tensor(1)?, call.tensor(2)?),
    };
    let Some(weights) = packed.or(fresh.as_deref()) else { return Ok(None) };
    let (&[steps, batch, input], directions) = (x.shape(), weights.len()) else {
        return Ok(None);
    };
    let (units, hidden) = (weights[0].w.cols(), weights[0].r.rows());
    let fits = input == weights[0].w.rows() && scratch_fits(&[steps, batch, units]);
    if x.dtype() != DType::F32 || x.is_empty() || !fits {
        return Ok(None);
    }
    let is_lstm = matches!(form.cell, Cell::Lstm { .. });
    let extents = [steps, directions, batch, hidden];
    let Some(given) = Arguments::of(call, is_lstm, extents, units) else { return Ok(None) };
    let mut y = state(call, 0, &extents, None)?;
    let mut h = state(call, 1, &extents[1..], given.h.as_ref())?;
    let mut c = state(call, 2, &extents[1..], given.c.as_ref())?;
    let bias = given.bias.as_ref().map(Tensor::as_slice::<f32>).transpose()?;
    let peephole = given.peephole.as_ref().map(Tensor::as_slice::<f32>).transpose()?;
    let targets = y.as_mut_slice::<f32>()?;
    let states = h.as_mut_slice::<f32>()?.chunks_exact_mut(batch * hidden);
    let cells = c.as_mut_slice::<f32>()?.chunks_exact_mut(batch * hidden);
    for (d, (h, c)) in states.zip(cells).enumerate() {
        let relu = form.activations[d][0] == Op::Relu;
        let layer = Layer {
            cell: form.cell,
            act: if relu { Activation::Relu } else { Activation::Tanh },
            reversed: form.reversed[d],
            steps,
            batch,
            hidden,
            units,
            x: x.as_slice()?,
            bias: bias.map(|bias| &bias[d * 2 * units..][..2 * units]),
            peephole: peephole.map(|values| &values[d * 3 * hidden..][..3 * hidden]),
            lengths: &given.lengths,
        };
        layer.run(&weights[d], h, c, |time, item, values| {
            let at = ((time * directions + d) * batch + item) * hidden;
            targets[at..at + hidden].copy_from_slice(values);
        });
    }
    let mut values: Values = smallvec![y.into(), h.into()];
    values.extend(is_lstm.then(|| c.into()));
    Ok(Some(values))
}

impl Layer<'_> {
    /// Goes from the first states to the last ones; `emit` takes time, item and state of a step.
    fn run(
        &self,
        weights: &Weights,
        h: &mut [f32],
        c: &mut [f32],
        mut emit: impl FnMut(usize, usize, &[f32]),
    ) {
        let (batch, hidden, units) = (self.batch, self.hidden, self.units);
        let rows = self.steps * batch;
        let (mut sums, mut gates) = (lend(rows * units), lend(batch * units));
        let bias = self.summed_bias();
        let ep = Epilogue { bias: Bias::Col(&bias), ..Epilogue::default() };
        let x = Lhs::View(Mat::new(self.x, rows, self.x.len() / rows));
        gemm(isa(), x, Rhs::Packed(&weights.w), &mut sums, units, &ep);
        gates.fill(0.0);
        for step in 0..self.lengths.iter().copied().max().unwrap_or(0) {
            // Each item walks its own valid part; a reversed one from the end of that part.
            let time = |length: usize| if self.reversed { length - 1 - step } else { step };
            for (item, &length) in self.lengths.iter().enumerate().filter(|(_, l)| step < **l) {
                let from = &sums[(time(length) * batch + item) * units..][..units];
                gates[item * units..][..units].copy_from_slice(from);
            }
            let over = self.lengths.iter().any(|&length| step >= length);
            let before = over.then(|| (h.to_vec(), c.to_vec()));
            self.step(weights, &mut gates, h, c);
            for (item, &length) in self.lengths.iter().enumerate() {
                let state = item * hidden..(item + 1) * hidden;
                match &before {
                    // The sequence was over: its states are final.
                    Some((old_h, old_c)) if step >= length => {
                        h[state.clone()].copy_from_slice(&old_h[state.clone()]);
                        c[state.clone()].copy_from_slice(&old_c[state]);
                    }
                    _ => emit(time(length), item, &h[state]),
                }
            }
        }
        for (item, _) in self.lengths.iter().enumerate().filter(|(_, length)| **length == 0) {
            // An empty sequence has no last state: it is 0, as in the reference.
            h[item * hidden..][..hidden].fill(0.0);
            c[item * hidden..][..hidden].fill(0.0);
        }
    }

    /// The hidden gate's bias of the recurrence, where it is added before the reset.
    fn inner_bias(&self) -> Option<&[f32]> {
        let linear = self.cell == (Cell::Gru { linear_before_reset: true });
        self.bias.filter(|_| linear).map(|bias| &bias[self.units + 2 * self.hidden..])
    }

    /// Both biases in one, but for the one that is added later.
    fn summed_bias(&self) -> Vec<f32> {
        let Some(bias) = self.bias else { return vec![0.0; self.units] };
        let (first, second) = bias.split_at(self.units);
        let both = self.units - self.inner_bias().map_or(0, <[f32]>::len);
        let mut sum = first.to_vec();
        sum[..both].iter_mut().zip(second).for_each(|(sum, more)| *sum += more);
        sum
    }

    fn step(&self, weights: &Weights, gates: &mut [f32], h: &mut [f32], c: &mut [f32]) {
        let hidden = self.hidden;
        match (self.cell, &weights.r_hidden) {
            (Cell::Gru { linear_before_reset }, Some(r_h)) => {
                let bias_h = self.inner_bias();
                let p = Gru { hidden, r_zr: &weights.r, r_h, bias_h, linear_before_reset };
                gru_step(isa(), &p, gates, h);
            }
            (Cell::Lstm { .. }, _) => {
                let p = Lstm { hidden, r: &weights.r, peephole: self.peephole };
                lstm_step(isa(), &p, gates, h, c);
            }
            _ => rnn_step(isa(), &weights.r, self.act, gates, h),
        }
    }
}
