//! Recurrent layers: LSTM, GRU, RNN.

use std::ops::Range;

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dense::{expect_shape, floats, floats_opt, result, shape_of_rank, swap_outer_if, zeros};
use crate::error::OpError;
use crate::real::Real;
use crate::recurrent_cell::{Direction, Extents, Floats, State, Weights};
use crate::recurrent_form::{Cell, RecurrentForm};
use crate::work::Work;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&LSTM, &GRU, &RNN];

const RECURRENT: OpDef = OpDef {
    inputs: Arity::between(3, 6),
    outputs: Arity::between(0, 2),
    kind: Kind::Heavy,
    upgrade: Some(|up| {
        // Opset 1 asked for outputs by an attribute; today the outputs themselves tell.
        up.node.attrs.take("output_sequence");
        Ok(())
    }),
    infer: infer_recurrent,
    work: recurrent_work,
    eval: eval_recurrent,
    ..OpDef::DEFAULT
};

static LSTM: OpDef = OpDef {
    name: "LSTM",
    doc: "A layer of long short-term memory over whole sequences.",
    onnx: &[onnx("", "LSTM", 22)],
    inputs: Arity::between(3, 8),
    outputs: Arity::between(0, 3),
    ..RECURRENT
};

static GRU: OpDef = OpDef {
    name: "GRU",
    doc: "A layer of gated recurrent units over whole sequences.",
    onnx: &[onnx("", "GRU", 22)],
    ..RECURRENT
};

static RNN: OpDef = OpDef {
    name: "RNN",
    doc: "A layer of plain recurrent units over whole sequences.",
    onnx: &[onnx("", "RNN", 22)],
    ..RECURRENT
};

const X: usize = 0;
const W: usize = 1;
const R: usize = 2;
const BIAS: usize = 3;
const LENGTHS: usize = 4;
const INITIAL_H: usize = 5;
const INITIAL_C: usize = 6;
const PEEPHOLE: usize = 7;

fn eval_recurrent(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    match ctx.tensor(X)?.dtype() {
        DType::F64 => eval_floats::<f64>(ctx),
        _ => eval_floats::<f32>(ctx),
    }
}

fn eval_floats<T: Real>(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let form = RecurrentForm::of(ctx.node)?;
    let (w, r) = (floats::<T>(ctx, W)?, floats::<T>(ctx, R)?);
    let at = extents(&form, ctx.tensor(X)?, ctx.tensor(R)?)?;
    let (directions, units) = (form.reversed.len(), form.cell.gates() * at.hidden);
    expect_shape(&w, W, &[directions, units, at.input])?;
    expect_shape(&r, R, &[directions, units, at.hidden])?;
    let split = |tensor: &Tensor, k: usize| -> Result<Vec<Vec<T>>, OpError> {
        let values = tensor.as_slice::<T>()?;
        Ok((0..directions).map(|d| values[d * units * k..][..units * k].to_vec()).collect())
    };
    let (w, r) = (split(&w, at.input)?, split(&r, at.hidden)?);
    let w: Vec<Floats<'_, T>> = w.iter().map(|v| Floats { values: v, k: at.input }).collect();
    let r: Vec<Floats<'_, T>> = r.iter().map(|v| Floats { values: v, k: at.hidden }).collect();
    let matrices: Vec<(&dyn Weights<T>, &dyn Weights<T>)> =
        w.iter().zip(&r).map(|(w, r)| (w as &dyn Weights<T>, r as &dyn Weights<T>)).collect();
    run_directions(ctx, &form, at, &matrices)
}

/// The extents, from X and the recurrence (whose last axis is the hidden size, or which is
/// `[directions, hidden, ..]` in the quantised form).
pub(crate) fn extents(form: &RecurrentForm, x: &Tensor, r: &Tensor) -> Result<Extents, OpError> {
    let [first, second, input] = shape_of_rank(x, X)?;
    let (steps, batch) = if form.batch_first { (second, first) } else { (first, second) };
    let [_, rows, columns] = shape_of_rank(r, R)?;
    let hidden = rows.min(columns);
    if hidden == 0 {
        return Err(OpError::input(R, "at least one hidden unit", r.describe()));
    }
    if form.hidden_size.is_some_and(|size| size != hidden) {
        return Err(OpError::input(R, "a last axis of the hidden size", r.describe()));
    }
    Ok(Extents { steps, batch, input, hidden })
}

/// Where things lie in the outputs and states.
struct Places {
    batch_first: bool,
    directions: usize,
    at: Extents,
}

impl Places {
    fn state_shape(&self) -> [usize; 3] {
        let Extents { batch, hidden, .. } = self.at;
        match self.batch_first {
            true => [batch, self.directions, hidden],
            false => [self.directions, batch, hidden],
        }
    }

    fn y_shape(&self) -> [usize; 4] {
        let Extents { steps, batch, hidden, .. } = self.at;
        match self.batch_first {
            true => [batch, steps, self.directions, hidden],
            false => [steps, self.directions, batch, hidden],
        }
    }

    fn state(&self, direction: usize, item: usize) -> Range<usize> {
        let start = match self.batch_first {
            true => (item * self.directions + direction) * self.at.hidden,
            false => (direction * self.at.batch + item) * self.at.hidden,
        };
        start..start + self.at.hidden
    }

    fn y(&self, time: usize, direction: usize, item: usize) -> Range<usize> {
        let Extents { steps, batch, hidden, .. } = self.at;
        let start = match self.batch_first {
            true => ((item * steps + time) * self.directions + direction) * hidden,
            false => ((time * self.directions + direction) * batch + item) * hidden,
        };
        start..start + hidden
    }
}

/// Runs all directions and lays out the outputs; `matrices` are weights and recurrence of each.
pub(crate) fn run_directions<T: Real>(
    ctx: &EvalCtx<'_>,
    form: &RecurrentForm,
    at: Extents,
    matrices: &[(&dyn Weights<T>, &dyn Weights<T>)],
) -> Result<Vec<Value>, OpError> {
    let Extents { steps, batch, input, hidden } = at;
    let places = Places { batch_first: form.batch_first, directions: form.reversed.len(), at };
    let units = form.cell.gates() * hidden;
    let x = floats::<T>(ctx, X)?;
    let x = swap_outer_if(form.batch_first, x.as_slice::<T>()?, [batch, steps, input]);
    let bias = optional::<T>(ctx, Some(BIAS), places.directions, 2 * units)?;
    let is_lstm = matches!(form.cell, Cell::Lstm { .. });
    let peephole = optional::<T>(ctx, is_lstm.then_some(PEEPHOLE), places.directions, 3 * hidden)?;
    let mut y = zeros::<T>(&places.y_shape())?;
    let mut h = initial::<T>(ctx, Some(INITIAL_H), &places.state_shape())?;
    let mut c = initial::<T>(ctx, is_lstm.then_some(INITIAL_C), &places.state_shape())?;
    let lengths = lengths(ctx, at)?;
    for (d, &(weights, recurrence)) in matrices.iter().enumerate() {
        let take =
            |from: &[T]| (0..batch).flat_map(|item| from[places.state(d, item)].to_vec()).collect();
        let mut state = State { h: take(&h), c: take(&c) };
        let direction = Direction {
            cell: form.cell,
            reversed: form.reversed[d],
            activations: &form.activations[d],
            clip: T::of(f64::from(form.clip)),
            weights,
            recurrence,
            bias: bias.get(d * 2 * units..(d + 1) * 2 * units).unwrap_or(&[]),
            peephole: peephole.get(d * 3 * hidden..(d + 1) * 3 * hidden).unwrap_or(&[]),
            lengths: &lengths,
            at,
        };
        direction.run(&x, &mut state, &mut |time, item, values| {
            y[places.y(time, d, item)].copy_from_slice(values);
        })?;
        for (item, &length) in lengths.iter().enumerate() {
            for (all, one) in [(&mut h, &mut state.h), (&mut c, &mut state.c)] {
                let from = &mut one[item * hidden..][..hidden];
                if length == 0 {
                    // An empty sequence has no last state: it is 0, as in onnxruntime.
                    from.fill(T::default());
                }
                all[places.state(d, item)].copy_from_slice(from);
            }
        }
    }
    let dtype = ctx.tensor(X)?.dtype();
    let mut outputs = vec![result(dtype, &places.y_shape(), &y)?.into()];
    for state in if is_lstm { vec![&h, &c] } else { vec![&h] } {
        outputs.push(result(dtype, &places.state_shape(), state)?.into());
    }
    Ok(outputs)
}

/// An input of each direction's numbers; empty when it is not given.
fn optional<T: Real>(
    ctx: &EvalCtx<'_>,
    index: Option<usize>,
    directions: usize,
    each: usize,
) -> Result<Vec<T>, OpError> {
    let Some(index) = index else { return Ok(Vec::new()) };
    let Some(tensor) = floats_opt::<T>(ctx, index)? else { return Ok(Vec::new()) };
    expect_shape(&tensor, index, &[directions, each])?;
    Ok(tensor.as_slice::<T>()?.to_vec())
}

/// The state to start with; zeros when it is not given.
fn initial<T: Real>(
    ctx: &EvalCtx<'_>,
    index: Option<usize>,
    shape: &[usize; 3],
) -> Result<Vec<T>, OpError> {
    let Some(index) = index else { return zeros(shape) };
    let Some(tensor) = floats_opt::<T>(ctx, index)? else { return zeros(shape) };
    expect_shape(&tensor, index, shape)?;
    Ok(tensor.as_slice::<T>()?.to_vec())
}

fn lengths(ctx: &EvalCtx<'_>, at: Extents) -> Result<Vec<usize>, OpError> {
    let Some(given) = ctx.ints_opt(LENGTHS)? else { return Ok(vec![at.steps; at.batch]) };
    let lengths: Vec<usize> = given
        .iter()
        .filter_map(|&length| usize::try_from(length).ok().filter(|&l| l <= at.steps))
        .collect();
    if lengths.len() != given.len() || lengths.len() != at.batch {
        let wanted = format!("{} lengths of 0 to {}", at.batch, at.steps);
        return Err(OpError::input(LENGTHS, wanted, format!("{given:?}")));
    }
    Ok(lengths)
}

pub(crate) fn infer_recurrent(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let form = RecurrentForm::of(ctx.node)?;
    for index in [X, W, R] {
        if ctx.rank(index).is_some_and(|rank| rank != 3) {
            return Err(OpError::input(index, "3 axes", ctx.ty(index)?.to_string()));
        }
    }
    let Some(x) = ctx.dims(X) else {
        let dtype = ctx.dtype_opt(X);
        let rank = |rank| InferCtx::make(dtype, Some(vec![Dim::Unknown; rank]));
        return Ok(vec![rank(4), rank(3), rank(3)]);
    };
    let (steps, batch) = match form.batch_first {
        true => (x[1].clone(), x[0].clone()),
        false => (x[0].clone(), x[1].clone()),
    };
    let of_recurrence = || {
        let dims = ctx.dims(R)?;
        dims[1].known().zip(dims[2].known()).map(|(rows, columns)| rows.min(columns))
    };
    let hidden = form.hidden_size.or_else(of_recurrence).map_or(Dim::Unknown, Dim::Known);
    let directions = Dim::Known(form.reversed.len());
    let (y, state) = match form.batch_first {
        true => (
            vec![batch.clone(), steps, directions.clone(), hidden.clone()],
            vec![batch, directions, hidden],
        ),
        false => (
            vec![steps, directions.clone(), batch.clone(), hidden.clone()],
            vec![directions, batch, hidden],
        ),
    };
    let dtype = ctx.dtype_opt(X);
    let state = InferCtx::make(dtype, Some(state));
    let mut types = vec![InferCtx::make(dtype, Some(y)), state.clone()];
    if matches!(form.cell, Cell::Lstm { .. }) {
        types.push(state);
    }
    Ok(types)
}

/// Each step of each item multiplies by both matrices once.
pub(crate) fn recurrent_work(ctx: &InferCtx<'_>, _: &[Type]) -> Work {
    let shape = |index: usize| ctx.ty_opt(index).and_then(Type::known_shape);
    let (Some(x), Some(w), Some(r)) = (shape(X), shape(W), shape(R)) else {
        return Work::default();
    };
    let product = |extents: &[usize]| extents.iter().map(|&e| e as f64).product::<f64>();
    let rows = product(&x[..x.len().min(2)]);
    Work::macs(rows * (product(&w) + product(&r)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};
    use hetra_ir::Attr;

    fn filled(shape: &[usize], value: f32) -> Tensor {
        let count = shape.iter().product();
        Tensor::from_slice(shape, &vec![value; count]).unwrap()
    }

    // The numbers are those of onnxruntime 1.2x.
    #[test]
    fn lengths_stop_and_clear() {
        let x = filled(&[3, 2, 1], 1.0);
        let lens = Tensor::vector(&[0i32, 2]);
        let (h0, c0) = (filled(&[1, 2, 1], 0.7), filled(&[1, 2, 1], 0.6));
        let lstm = Case::new("LSTM").tensor(&x).tensor(&filled(&[1, 4, 1], 0.2));
        let lstm = lstm.tensor(&filled(&[1, 4, 1], 0.1)).none().tensor(&lens);
        let lstm = lstm.tensor(&h0).tensor(&c0).outputs(3);
        check(&lstm, 0, &[3, 1, 2, 1], &[0.0, 0.25747284, 0.0, 0.20935898, 0.0, 0.0]);
        check(&lstm, 1, &[1, 2, 1], &[0.0, 0.20935898]);
        check(&lstm, 2, &[1, 2, 1], &[0.0, 0.39587116]);
        let gru = Case::new("GRU").tensor(&x).tensor(&filled(&[1, 3, 1], 0.2));
        let gru = gru.tensor(&filled(&[1, 3, 1], 0.1)).none().tensor(&lens).tensor(&h0).outputs(2);
        check(&gru, 0, &[3, 1, 2, 1], &[0.0, 0.49878868, 0.0, 0.37854463, 0.0, 0.0]);
        let rnn = Case::new("RNN").tensor(&x).tensor(&filled(&[1, 1, 1], 0.2));
        let rnn = rnn.tensor(&filled(&[1, 1, 1], 0.1)).none().tensor(&lens).tensor(&h0).outputs(2);
        check(&rnn, 0, &[3, 1, 2, 1], &[0.0, 0.2636249, 0.0, 0.22257388, 0.0, 0.0]);
        let long = rnn.with_input(LENGTHS, &Tensor::vector(&[4i32, -1]));
        assert!(long.eval().is_err());
    }

    #[test]
    fn clip_bounds_gates_but_not_the_cell() {
        let lstm = Case::new("LSTM").tensor(&filled(&[3, 1, 1], 3.0));
        let lstm = lstm.tensor(&filled(&[1, 4, 1], 2.0)).tensor(&filled(&[1, 4, 1], 0.0));
        let lstm = lstm.attr("clip", 0.5f32).outputs(3);
        check(&lstm, 0, &[3, 1, 1, 1], &[0.1742697, 0.27109864, 0.32450032]);
    }

    #[test]
    fn layout_1_is_layout_0_with_axes_swapped() {
        let values: Vec<f32> = (0..12).map(|v| v as f32 * 0.1 - 0.5).collect();
        let w: Vec<f32> = (0..32).map(|v| ((v * 7) % 11) as f32 * 0.1 - 0.5).collect();
        let x = Tensor::from_slice(&[3, 2, 2], &values).unwrap();
        let w = Tensor::from_slice(&[2, 8, 2], &w).unwrap();
        let case = |x: &Tensor, layout: i64| {
            let case = Case::new("LSTM").tensor(x).tensor(&w).tensor(&w).outputs(3);
            case.attr("direction", Attr::from("bidirectional")).attr("layout", layout)
        };
        let plain = case(&x, 0).eval().unwrap();
        let turned = x.view().permute(&[1, 0, 2]).unwrap().to_tensor().unwrap();
        let other = case(&turned, 1).eval().unwrap();
        let y = plain[0].as_tensor().unwrap().view().permute(&[2, 0, 1, 3]).unwrap();
        assert_eq!(Value::from(y.to_tensor().unwrap()), other[0]);
        let state = plain[2].as_tensor().unwrap().view().permute(&[1, 0, 2]).unwrap();
        assert_eq!(Value::from(state.to_tensor().unwrap()), other[2]);
    }

    #[test]
    fn shapes_are_checked() {
        let x = filled(&[3, 2, 1], 1.0);
        let w = filled(&[1, 4, 1], 1.0);
        let good = Case::new("LSTM").tensor(&x).tensor(&w).tensor(&w).outputs(1);
        assert!(good.eval().is_ok());
        assert!(good.with_input(W, &filled(&[1, 3, 1], 1.0)).eval().is_err());
        assert!(good.with_input(X, &filled(&[3, 2], 1.0)).eval().is_err());
        assert!(good.attr("hidden_size", 2i64).eval().is_err());
        let empty = good.with_input(X, &filled(&[0, 2, 1], 1.0));
        check(&empty, 0, &[0, 1, 2, 1], &[]);
    }
}
