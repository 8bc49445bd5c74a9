//! Losses of classification: NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss.

use hetra_ir::{Dim, Type};
use hetra_tensor::{Tensor, Value, element_count, from_f64, to_f64};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::error::OpError;
use crate::real::at_least_rank;
use crate::softmax::log_softmax;
use crate::work::per_input_element;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&NEGATIVE_LOG_LIKELIHOOD, &SOFTMAX_CROSS_ENTROPY];

const LOSS: OpDef = OpDef {
    inputs: Arity::between(2, 3),
    kind: Kind::Reduce,
    infer: infer_loss,
    work: per_input_element,
    ..OpDef::DEFAULT
};

static NEGATIVE_LOG_LIKELIHOOD: OpDef = OpDef {
    name: "NegativeLogLikelihoodLoss",
    doc: "Negated, weighted log-probability of the target class, reduced.",
    onnx: &[onnx("", "NegativeLogLikelihoodLoss", 22)],
    eval: |ctx| {
        let scores = Scores::of(ctx)?;
        let values = to_f64(ctx.tensor(0)?)?;
        Ok(vec![likelihood_loss(ctx, &scores, &values)?.into()])
    },
    ..LOSS
};

static SOFTMAX_CROSS_ENTROPY: OpDef = OpDef {
    name: "SoftmaxCrossEntropyLoss",
    doc: "NegativeLogLikelihoodLoss of the LogSoftmax of scores, which is the second output.",
    onnx: &[onnx("", "SoftmaxCrossEntropyLoss", 13)],
    outputs: Arity::between(1, 2),
    eval: eval_cross_entropy,
    ..LOSS
};

/// Scores are seen as (batch, classes, inner); there is a target for each (batch, inner).
struct Scores {
    classes: usize,
    inner: usize,
}

impl Scores {
    fn of(ctx: &EvalCtx<'_>) -> Result<Scores, OpError> {
        let (scores, target) = (ctx.tensor(0)?, ctx.tensor(1)?);
        if !scores.dtype().is_float() {
            return Err(OpError::input(0, "floats", scores.describe()));
        }
        at_least_rank(0, scores.rank(), 2)?;
        let shape = scores.shape();
        if target.shape().len() + 1 != shape.len()
            || target.shape()[0] != shape[0]
            || target.shape()[1..] != shape[2..]
        {
            let wanted = format!("the shape of {} without its classes", scores.describe());
            return Err(OpError::input(1, wanted, target.describe()));
        }
        Ok(Scores { classes: shape[1], inner: element_count(&shape[2..])? })
    }

    /// Where the score of `class` lies for target `sample`.
    fn place(&self, sample: usize, class: usize) -> usize {
        let (image, rest) = (sample / self.inner, sample % self.inner);
        (image * self.classes + class) * self.inner + rest
    }
}

fn likelihood_loss(
    ctx: &EvalCtx<'_>,
    scores: &Scores,
    log_probabilities: &[f64],
) -> Result<Tensor, OpError> {
    let weights = match ctx.tensor_opt(2) {
        None => None,
        Some(weights) if weights.len() == scores.classes => Some(to_f64(weights)?),
        Some(weights) => {
            let wanted = format!("{} numbers", scores.classes);
            return Err(OpError::input(2, wanted, weights.describe()));
        }
    };
    let ignored = ctx.attrs().int_opt("ignore_index")?.copied();
    let targets = ctx.ints(1)?;
    let mut losses = vec![0f64; targets.len()];
    let mut total_weight = 0.0;
    for (sample, &target) in targets.iter().enumerate() {
        if Some(target) == ignored {
            continue;
        }
        let class = usize::try_from(target).ok().filter(|&class| class < scores.classes);
        let class = class.ok_or_else(|| {
            OpError::input(1, format!("classes below {}", scores.classes), format!("{target}"))
        })?;
        let weight = weights.as_ref().map_or(1.0, |weights| weights[class]);
        losses[sample] = -log_probabilities[scores.place(sample, class)] * weight;
        total_weight += weight;
    }
    let dtype = ctx.tensor(0)?.dtype();
    let sum = losses.iter().sum::<f64>();
    match reduction(ctx.attrs())? {
        Reduction::None => Ok(from_f64(dtype, ctx.tensor(1)?.shape(), &losses)?),
        Reduction::Sum => Ok(from_f64(dtype, &[], &[sum])?),
        Reduction::Mean => Ok(from_f64(dtype, &[], &[sum / total_weight])?),
    }
}

fn eval_cross_entropy(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let scores = Scores::of(ctx)?;
    let tensor = ctx.tensor(0)?;
    let mut values = to_f64(tensor)?;
    // Without samples there may be any number of classes: no row is made for them.
    let samples = ctx.tensor(1)?.len();
    let mut row = vec![0f64; if samples == 0 { 0 } else { scores.classes }];
    for sample in 0..samples {
        for (class, slot) in row.iter_mut().enumerate() {
            *slot = values[scores.place(sample, class)];
        }
        log_softmax(&mut row);
        for (class, &value) in row.iter().enumerate() {
            values[scores.place(sample, class)] = value;
        }
    }
    let mut outputs: Vec<Value> = vec![likelihood_loss(ctx, &scores, &values)?.into()];
    if ctx.node.outputs.len() > 1 {
        outputs.push(from_f64(tensor.dtype(), tensor.shape(), &values)?.into());
    }
    Ok(outputs)
}

enum Reduction {
    None,
    Sum,
    Mean,
}

fn reduction(attrs: &hetra_ir::Attrs) -> Result<Reduction, OpError> {
    match attrs.str_or("reduction", "mean")? {
        "none" => Ok(Reduction::None),
        "sum" => Ok(Reduction::Sum),
        "mean" => Ok(Reduction::Mean),
        other => Err(OpError::invalid(format!("reduction `{other}` is not known"))),
    }
}

fn infer_loss(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(0);
    if let Some(rank) = ctx.rank(0) {
        at_least_rank(0, rank, 2)?;
    }
    let dims = match reduction(ctx.attrs())? {
        Reduction::None => match (ctx.dims(1), ctx.dims(0)) {
            (Some(targets), _) => Some(targets.to_vec()),
            (None, Some(scores)) => Some([&scores[..1], &scores[2..]].concat()),
            (None, None) => None,
        },
        _ => Some(vec![]),
    };
    let log_probabilities = InferCtx::make(dtype, ctx.dims(0).map(<[Dim]>::to_vec));
    let mut types = vec![InferCtx::make(dtype, dims), log_probabilities];
    types.truncate(ctx.node.outputs.len().max(1));
    Ok(types)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{floats, iota, node, run};

    #[test]
    fn reductions_weights_and_ignored_targets() {
        let scores = floats(&[1, 2, 3], &[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]);
        let targets = Some(Tensor::from_slice(&[1, 3], &[0i64, 1, 9]).unwrap());
        let check = |reduction: &str, wanted: &[f32]| {
            let node = node("NegativeLogLikelihoodLoss", 1)
                .with("ignore_index", 9)
                .with("reduction", reduction);
            let inputs = [scores.clone(), targets.clone(), floats(&[2], &[1.0, 3.0])];
            let y = run(node, &inputs).unwrap();
            assert_eq!(y[0].as_slice::<f32>().unwrap(), wanted);
        };
        check("none", &[1.0, 15.0, 0.0]);
        check("sum", &[16.0]);
        check("mean", &[4.0]);
        let strict = node("NegativeLogLikelihoodLoss", 1);
        assert!(run(strict, &[scores.clone(), targets.clone()]).is_err());
        let cross = node("SoftmaxCrossEntropyLoss", 2).with("ignore_index", 9);
        let y = run(cross, &[floats(&[1, 2, 3], &[0.0; 6]), targets]).unwrap();
        assert!((y[0].as_slice::<f32>().unwrap()[0] - std::f32::consts::LN_2).abs() < 1e-6);
        assert_eq!(y[1].shape(), [1, 2, 3]);
        let op = node("SoftmaxCrossEntropyLoss", 1);
        assert!(run(op, &[iota(&[2, 2]), Some(Tensor::vector(&[0i64]))]).is_err());
    }
}
