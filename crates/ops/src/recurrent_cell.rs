//! One direction of a recurrent operator, over any way to multiply by its weights.
//!
//! Values of all gates of a batch item lie side by side: `gates[batch, gate, hidden]`. Items
//! whose sequence is over are left alone: their state is final and their outputs stay zero.

use std::ops::Range;

use crate::dense::product_transposed;
use crate::error::OpError;
use crate::real::Real;
use crate::recurrent_form::{Activation, Cell};

/// A weight matrix `[gates * hidden, k]`, however it is stored.
pub(crate) trait Weights<T> {
    /// `out[rows, units.len()] += x[rows, k] · weights[units]ᵀ`.
    fn multiply(&self, x: &[T], units: Range<usize>, out: &mut [T]);
}

/// Weights as floats.
pub(crate) struct Floats<'a, T> {
    pub(crate) values: &'a [T],
    pub(crate) k: usize,
}

impl<T: Real> Weights<T> for Floats<'_, T> {
    fn multiply(&self, x: &[T], units: Range<usize>, out: &mut [T]) {
        let rows = &self.values[units.start * self.k..units.end * self.k];
        product_transposed(x, rows, self.k, units.len(), out);
    }
}

/// Extents of a recurrent operator.
#[derive(Clone, Copy)]
pub(crate) struct Extents {
    pub(crate) steps: usize,
    pub(crate) batch: usize,
    pub(crate) input: usize,
    pub(crate) hidden: usize,
}

/// What one direction computes with.
pub(crate) struct Direction<'a, T> {
    pub(crate) cell: Cell,
    pub(crate) reversed: bool,
    pub(crate) activations: &'a [Activation],
    pub(crate) clip: T,
    pub(crate) weights: &'a dyn Weights<T>,
    pub(crate) recurrence: &'a dyn Weights<T>,
    /// `[2 * gates * hidden]`: of the weights, then of the recurrence; empty when all are 0.
    pub(crate) bias: &'a [T],
    /// `[3 * hidden]`: i, o, f; empty when all are 0.
    pub(crate) peephole: &'a [T],
    /// `[batch]`.
    pub(crate) lengths: &'a [usize],
    pub(crate) at: Extents,
}

/// The states of all batch items, `[batch, hidden]` each; `c` only matters to LSTM.
pub(crate) struct State<T> {
    pub(crate) h: Vec<T>,
    pub(crate) c: Vec<T>,
}

impl<T: Real> Direction<'_, T> {
    /// Runs over `x[steps, batch, input]` and calls `emit` with step, batch item and its output.
    pub(crate) fn run(
        &self,
        x: &[T],
        state: &mut State<T>,
        emit: &mut dyn FnMut(usize, usize, &[T]),
    ) -> Result<(), OpError> {
        let Extents { steps, batch, hidden, .. } = self.at;
        let units = self.cell.gates() * hidden;
        let mut inputs = crate::dense::zeros::<T>(&[steps, batch, units])?;
        self.weights.multiply(x, 0..units, &mut inputs);
        self.add_bias(&mut inputs, units);
        let mut gates = vec![T::default(); batch * units];
        for step in 0..steps {
            // Each item walks its own valid part; a reversed one from the end of that part.
            let time = |length: usize| if self.reversed { length - 1 - step } else { step };
            for (item, &length) in self.lengths.iter().enumerate() {
                if step < length {
                    let from = &inputs[(time(length) * batch + item) * units..][..units];
                    gates[item * units..][..units].copy_from_slice(from);
                }
            }
            let before = state.h.clone();
            match self.cell {
                Cell::Gru { .. } => self.gru(&mut gates, &before, state, step),
                _ => {
                    self.recurrence.multiply(&before, 0..units, &mut gates);
                    self.finish(&mut gates, state, step);
                }
            }
            for (item, &length) in self.lengths.iter().enumerate() {
                if step < length {
                    emit(time(length), item, &state.h[item * hidden..][..hidden]);
                }
            }
        }
        Ok(())
    }

    /// Adds both biases, but not that of GRU's reset product, which is added inside the product.
    fn add_bias(&self, inputs: &mut [T], units: usize) {
        if self.bias.is_empty() || units == 0 {
            return;
        }
        let (of_weights, of_recurrence) = self.bias.split_at(units);
        let both = match self.cell {
            Cell::Gru { linear_before_reset: true } => 2 * self.at.hidden,
            _ => units,
        };
        for row in inputs.chunks_exact_mut(units) {
            row.iter_mut().zip(of_weights).for_each(|(sum, bias)| *sum += *bias);
            row[..both].iter_mut().zip(of_recurrence).for_each(|(sum, bias)| *sum += *bias);
        }
    }

    fn activate(&self, which: usize, x: T) -> T {
        let bound = self.clip.wide();
        T::of(self.activations[which].apply(x.wide().clamp(-bound, bound)))
    }

    /// From the sums of the gates to the next state, of RNN and LSTM.
    fn finish(&self, gates: &mut [T], state: &mut State<T>, step: usize) {
        let hidden = self.at.hidden;
        let units = self.cell.gates() * hidden;
        for (item, &length) in self.lengths.iter().enumerate() {
            if step >= length {
                continue;
            }
            let row = &gates[item * units..][..units];
            let h = &mut state.h[item * hidden..][..hidden];
            if let Cell::Lstm { input_forget } = self.cell {
                let c = &mut state.c[item * hidden..][..hidden];
                self.lstm(row, h, c, input_forget);
            } else {
                h.iter_mut().zip(row).for_each(|(h, sum)| *h = self.activate(0, *sum));
            }
        }
    }

    fn lstm(&self, row: &[T], h: &mut [T], c: &mut [T], input_forget: bool) {
        let hidden = h.len();
        let peep = |gate: usize, unit: usize, cell: T| match self.peephole {
            [] => T::default(),
            values => values[gate * hidden + unit] * cell,
        };
        for unit in 0..hidden {
            let sum = |gate: usize| row[gate * hidden + unit];
            let input = self.activate(0, sum(0) + peep(0, unit, c[unit]));
            let forget = match input_forget {
                true => T::of(1.0 - input.wide()),
                false => self.activate(0, sum(2) + peep(2, unit, c[unit])),
            };
            c[unit] = forget * c[unit] + input * self.activate(1, sum(3));
            let output = self.activate(0, sum(1) + peep(1, unit, c[unit]));
            // The cell is not clipped: it is a state, not the sum of a gate (as onnxruntime does).
            h[unit] = output * T::of(self.activations[2].apply(c[unit].wide()));
        }
    }

    fn gru(&self, gates: &mut [T], before: &[T], state: &mut State<T>, step: usize) {
        let Extents { hidden, batch, .. } = self.at;
        let linear = self.cell == (Cell::Gru { linear_before_reset: true });
        let mut update = vec![T::default(); batch * 2 * hidden];
        self.recurrence.multiply(before, 0..2 * hidden, &mut update);
        for item in 0..batch {
            let sums = &mut gates[item * 3 * hidden..][..2 * hidden];
            for (sum, more) in sums.iter_mut().zip(&update[item * 2 * hidden..]) {
                *sum = self.activate(0, *sum + *more);
            }
        }
        let reset = |item: usize, unit: usize| gates[(item * 3 + 1) * hidden + unit];
        let mut fed = before.to_vec();
        let mut candidate = vec![T::default(); batch * hidden];
        if linear {
            if let [_, ..] = self.bias {
                let bias = &self.bias[5 * hidden..];
                candidate.chunks_exact_mut(hidden.max(1)).for_each(|row| row.copy_from_slice(bias));
            }
        } else {
            let scale = |(at, h): (usize, &mut T)| *h = *h * reset(at / hidden, at % hidden);
            fed.iter_mut().enumerate().for_each(scale);
        }
        self.recurrence.multiply(&fed, 2 * hidden..3 * hidden, &mut candidate);
        for item in (0..batch).filter(|&item| step < self.lengths[item]) {
            for unit in 0..hidden {
                let at = item * hidden + unit;
                let product =
                    if linear { reset(item, unit) * candidate[at] } else { candidate[at] };
                let new = self.activate(1, gates[(item * 3 + 2) * hidden + unit] + product);
                let keep = gates[item * 3 * hidden + unit];
                state.h[at] = T::of(1.0 - keep.wide()) * new + keep * before[at];
            }
        }
    }
}
