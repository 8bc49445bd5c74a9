//! One step of an optimiser on any number of tensors: Adagrad, Adam, Momentum.
//!
//! Inputs are R (learning rate), T (step number), then groups of equal length: all tensors, all
//! gradients, and the states; outputs are the new tensors and the new states, in groups too.

use hetra_ir::Type;
use hetra_tensor::{Tensor, Value, from_f64, to_f64};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, OpDef, onnx};
use crate::error::OpError;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&ADAGRAD, &ADAM, &MOMENTUM];

const DOMAIN: &str = "ai.onnx.preview.training";

static ADAGRAD: OpDef = OpDef {
    name: "ai.onnx.preview.training.Adagrad",
    doc: "One step of Adagrad.",
    onnx: &[onnx(DOMAIN, "Adagrad", 1)],
    inputs: Arity::at_least(5),
    outputs: Arity::at_least(2),
    infer: |ctx| infer_step(ctx, 1),
    eval: eval_adagrad,
    ..OpDef::DEFAULT
};

static ADAM: OpDef = OpDef {
    name: "ai.onnx.preview.training.Adam",
    doc: "One step of Adam.",
    onnx: &[onnx(DOMAIN, "Adam", 1)],
    inputs: Arity::at_least(6),
    outputs: Arity::at_least(3),
    infer: |ctx| infer_step(ctx, 2),
    eval: eval_adam,
    ..OpDef::DEFAULT
};

static MOMENTUM: OpDef = OpDef {
    name: "ai.onnx.preview.training.Momentum",
    doc: "One step of gradient descent with momentum, plain or Nesterov's.",
    onnx: &[onnx(DOMAIN, "Momentum", 1)],
    inputs: Arity::at_least(5),
    outputs: Arity::at_least(2),
    infer: |ctx| infer_step(ctx, 1),
    eval: eval_momentum,
    ..OpDef::DEFAULT
};

/// Tensors per group, when a tensor has `states` states.
fn group(inputs: usize, states: usize) -> Result<usize, OpError> {
    let rest = inputs.saturating_sub(2);
    match rest % (2 + states) {
        0 if rest > 0 => Ok(rest / (2 + states)),
        _ => Err(OpError::invalid(format!("{inputs} inputs do not make whole groups"))),
    }
}

fn infer_step(ctx: &InferCtx<'_>, states: usize) -> Result<Vec<Type>, OpError> {
    let count = group(ctx.len(), states)?;
    let tensors = 2..2 + count;
    // The gradients stand between the tensors and the states.
    let states = 2 + 2 * count..2 + (2 + states) * count;
    tensors.chain(states).map(|index| ctx.ty(index).cloned()).collect()
}

fn param(ctx: &EvalCtx<'_>, name: &str, default: f32) -> Result<f64, OpError> {
    Ok(f64::from(ctx.attrs().float_or(name, default)?))
}

fn number(ctx: &EvalCtx<'_>, index: usize) -> Result<f64, OpError> {
    match ctx.reals(index)?[..] {
        [number] => Ok(number),
        _ => Err(OpError::input(index, "one number", ctx.tensor(index)?.describe())),
    }
}

/// Runs `step` on each element: it is given x, its gradient with regularisation, and the states
/// (of which there are at most 2), and returns the new x and states.
fn run(
    ctx: &EvalCtx<'_>,
    states: usize,
    step: impl Fn(f64, f64, [f64; 2]) -> (f64, [f64; 2]),
) -> Result<Vec<Value>, OpError> {
    let regular = param(ctx, "norm_coefficient", 0.0)?;
    let count = group(ctx.inputs.len(), states)?;
    let mut outputs: Vec<Vec<Value>> = vec![Vec::new(); 1 + states];
    for first in 2..2 + count {
        let x = ctx.tensor(first)?;
        let like = |index: usize| {
            let tensor = ctx.tensor(index)?;
            match tensor.shape() == x.shape() {
                true => Ok(to_f64(tensor)?),
                false => Err(OpError::input(index, x.describe(), tensor.describe())),
            }
        };
        let mut values = to_f64(x)?;
        let gradient = like(first + count)?;
        let mut state: Vec<Vec<f64>> =
            (0..states).map(|k| like(first + (2 + k) * count)).collect::<Result<_, _>>()?;
        for (index, x) in values.iter_mut().enumerate() {
            let old = std::array::from_fn(|k| state.get(k).map_or(0.0, |state| state[index]));
            let new;
            (*x, new) = step(*x, regular * *x + gradient[index], old);
            state.iter_mut().zip(new).for_each(|(state, new)| state[index] = new);
        }
        let tensor = |values: &[f64]| -> Result<Value, OpError> {
            Ok(Tensor::into(from_f64(x.dtype(), x.shape(), values)?))
        };
        outputs[0].push(tensor(&values)?);
        for (slot, state) in outputs[1..].iter_mut().zip(&state) {
            slot.push(tensor(state)?);
        }
    }
    Ok(outputs.into_iter().flatten().collect())
}

fn eval_adagrad(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (decay, epsilon) = (param(ctx, "decay_factor", 0.0)?, param(ctx, "epsilon", 1e-6)?);
    let rate = number(ctx, 0)? / (1.0 + number(ctx, 1)? * decay);
    run(ctx, 1, |x, gradient, [squares, _]| {
        let squares = squares + gradient * gradient;
        (x - rate * gradient / (squares.sqrt() + epsilon), [squares, 0.0])
    })
}

fn eval_adam(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (alpha, beta) = (param(ctx, "alpha", 0.9)?, param(ctx, "beta", 0.999)?);
    let (epsilon, post) = (param(ctx, "epsilon", 1e-6)?, param(ctx, "norm_coefficient_post", 0.0)?);
    let (rate, step) = (number(ctx, 0)?, number(ctx, 1)?);
    // The averages begin at 0: the first steps make up for it.
    let rate = match step > 0.0 {
        true => rate * (1.0 - beta.powf(step)).sqrt() / (1.0 - alpha.powf(step)),
        false => rate,
    };
    run(ctx, 2, |x, gradient, [mean, squares]| {
        let mean = alpha * mean + (1.0 - alpha) * gradient;
        let squares = beta * squares + (1.0 - beta) * gradient * gradient;
        let x = x - rate * mean / (squares.sqrt() + epsilon);
        ((1.0 - post) * x, [mean, squares])
    })
}

fn eval_momentum(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let alpha = f64::from(*ctx.attrs().float("alpha")?);
    let (rate, step) = (number(ctx, 0)?, number(ctx, 1)?);
    let beta = if step > 0.0 { f64::from(*ctx.attrs().float("beta")?) } else { 1.0 };
    let nesterov = match ctx.attrs().str("mode")?.as_str() {
        "nesterov" => true,
        "standard" => false,
        other => return Err(OpError::invalid(format!("`mode` is `{other}`"))),
    };
    run(ctx, 1, |x, gradient, [momentum, _]| {
        let momentum = alpha * momentum + beta * gradient;
        let direction = if nesterov { gradient + alpha * momentum } else { momentum };
        (x - rate * direction, [momentum, 0.0])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    #[test]
    fn groups_stay_in_order() {
        let number = |x: f32| Tensor::vector(&[x]);
        let mut case = Case::new("ai.onnx.preview.training.Momentum").outputs(4);
        for x in [0.5, 1.0] {
            case = case.tensor(&Tensor::scalar(x as f32));
        }
        // Two tensors, their gradients, their momenta.
        for x in [1.0, 2.0, 10.0, 20.0, 100.0, 200.0] {
            case = case.tensor(&number(x));
        }
        let case = case.attr("alpha", 0.5f32).attr("beta", 2f32).attr("mode", "standard");
        let wanted = [1.0 - 35.0, 2.0 - 70.0, 70.0, 140.0];
        for (index, wanted) in wanted.into_iter().enumerate() {
            check(&case, index, &[1], &[wanted]);
        }
        assert!(case.with_input(8, &number(1.0)).eval().is_err());
        assert!(case.with_input(4, &Tensor::vector(&[1f32, 2.0])).eval().is_err());
    }
}
