//! EmbedLayerNormalization: the sum of word, position and segment embeddings, normalised.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::error::OpError;
use crate::layer_norm::{Style, norm_work, normalise};
use crate::real::{Real, elements_as, narrow, with_real};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&EMBED_LAYER];

static EMBED_LAYER: OpDef = OpDef {
    name: "com.microsoft.EmbedLayerNormalization",
    doc: "LayerNormalization of the sum of word, position and segment embeddings.",
    onnx: &[onnx("com.microsoft", "EmbedLayerNormalization", 1)],
    // ids, segment ids, word / position / segment tables, scale, bias, mask, position ids
    inputs: Arity::between(7, 9),
    outputs: Arity::between(1, 3),
    kind: Kind::Heavy,
    infer: infer_embed,
    work: norm_work,
    eval: |ctx| with_real!(2, ctx.tensor(2)?.dtype(), T => eval_embed::<T>(ctx)),
    ..OpDef::DEFAULT
};

/// An EmbedLayerNormalization with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedForm {
    /// Batch, tokens of an item, and numbers of a token.
    pub shape: [usize; 3],
    /// What is summed, in order: the input that holds a table, and its row for each token.
    pub tables: Vec<(usize, Vec<usize>)>,
    /// How many places of each item the mask lets through; 0 without a mask.
    pub lengths: Vec<i32>,
    /// Added to the variance.
    pub epsilon: f32,
}

impl EmbedForm {
    /// Reads inputs and attributes.
    ///
    /// # Errors
    /// Arguments that do not fit together, and ids that are no rows.
    pub fn of(ctx: &EvalCtx<'_>) -> Result<EmbedForm, OpError> {
        let (ids, words) = (ctx.tensor(0)?, ctx.tensor(2)?);
        let &[batch, length] = ids.shape() else {
            return Err(OpError::input(0, "(batch, sequence)", ids.describe()));
        };
        let hidden =
            *words.shape().last().ok_or_else(|| OpError::input(2, "a matrix", "a scalar"))?;
        let tokens = ids.len();
        let mut tables = vec![(2, rows_of(ctx, 2, ctx.ints(0)?, hidden)?)];
        let positions = match ctx.ints_opt(8)? {
            // One row of positions may serve the whole batch.
            Some(positions) if positions.len() == length || positions.len() == tokens => positions,
            Some(positions) => {
                let got = format!("{}", positions.len());
                return Err(OpError::input(8, format!("{tokens} positions"), got));
            }
            None => (0..length as i64).collect(),
        };
        let positions = positions.into_iter().cycle().take(tokens).collect();
        tables.push((3, rows_of(ctx, 3, positions, hidden)?));
        if let Some(segments) = ctx.ints_opt(1)?
            && ctx.tensor_opt(4).is_some()
        {
            if segments.len() != tokens {
                let got = format!("{}", segments.len());
                return Err(OpError::input(1, format!("{tokens} segments"), got));
            }
            tables.push((4, rows_of(ctx, 4, segments, hidden)?));
        }
        for index in [5, 6] {
            let tensor = ctx.tensor(index)?;
            if tensor.len() != hidden {
                return Err(OpError::input(index, format!("{hidden} numbers"), tensor.describe()));
            }
        }
        Ok(EmbedForm {
            shape: [batch, length, hidden],
            tables,
            lengths: mask_lengths(ctx, batch, length)?,
            epsilon: ctx.attrs().float_or("epsilon", 1e-12)?,
        })
    }
}

/// Rows of the table at `index` that ids name.
fn rows_of(
    ctx: &EvalCtx<'_>,
    index: usize,
    ids: Vec<i64>,
    hidden: usize,
) -> Result<Vec<usize>, OpError> {
    let tensor = ctx.tensor(index)?;
    let &[rows, width] = tensor.shape() else {
        return Err(OpError::input(index, "a matrix", tensor.describe()));
    };
    if width != hidden {
        return Err(OpError::input(index, format!("{hidden} columns"), tensor.describe()));
    }
    let row = |id: i64| {
        let row = usize::try_from(id).ok().filter(|&row| row < rows);
        row.ok_or_else(|| OpError::input(index, format!("row {id}"), tensor.describe()))
    };
    ids.into_iter().map(row).collect()
}

fn eval_embed<T: Real>(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let form = EmbedForm::of(ctx)?;
    let [batch, _, hidden] = form.shape;
    let mut sums = Tensor::zeros(T::DTYPE, &form.shape)?;
    for (index, rows) in &form.tables {
        let table = elements_as::<T>(*index, ctx.tensor(*index)?)?;
        for (sum, &row) in sums.as_mut_slice::<T>()?.chunks_exact_mut(hidden.max(1)).zip(rows) {
            let source = &table[row * hidden..(row + 1) * hidden];
            sum.iter_mut().zip(source).for_each(|(value, &more)| *value = value.plus(more));
        }
    }
    let (scale, bias) =
        (elements_as::<T>(5, ctx.tensor(5)?)?, elements_as::<T>(6, ctx.tensor(6)?)?);
    let settings = (hidden, form.epsilon, Style::MEAN);
    let rows = sums.as_slice::<T>()?;
    let out = normalise::<T>(&form.shape, rows, settings, Some(&scale), Some(&bias))?.out;
    let dtype = ctx.tensor(2)?.dtype();
    let mut outputs: Vec<Value> = vec![
        narrow(out, dtype)?.into(),
        Tensor::from_slice(&[batch], &form.lengths)?.into(),
        narrow(sums, dtype)?.into(),
    ];
    outputs.truncate(ctx.node.outputs.len().max(1));
    Ok(outputs)
}

/// How many places of each item the mask lets through.
fn mask_lengths(ctx: &EvalCtx<'_>, batch: usize, length: usize) -> Result<Vec<i32>, OpError> {
    let mut lengths = vec![0i32; batch];
    if let Some(mask) = ctx.ints_opt(7)? {
        if Some(mask.len()) != batch.checked_mul(length) {
            let wanted = format!("{batch} by {length} integers");
            return Err(OpError::input(7, wanted, format!("{}", mask.len())));
        }
        for (slot, row) in lengths.iter_mut().zip(mask.chunks(length.max(1))) {
            *slot = row.iter().filter(|&&open| open == 1).count() as i32;
        }
    }
    Ok(lengths)
}

fn infer_embed(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(2);
    let (batch, length) = match ctx.dims(0) {
        None => (Dim::Unknown, Dim::Unknown),
        Some([batch, length]) => (batch.clone(), length.clone()),
        Some(dims) => {
            return Err(OpError::input(0, "(batch, sequence)", format!("rank {}", dims.len())));
        }
    };
    let hidden = ctx.dims(2).and_then(|dims| dims.last()).cloned().unwrap_or(Dim::Unknown);
    let sum = InferCtx::make(dtype, Some(vec![batch.clone(), length, hidden]));
    let mut types = vec![sum.clone(), Type::shaped(DType::I32, vec![batch]), sum];
    types.truncate(ctx.node.outputs.len().max(1));
    Ok(types)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{floats, iota, node, run};

    #[test]
    fn sums_tables_and_counts_the_mask() {
        let ids = |values: &[i32]| Some(Tensor::from_slice(&[1, 2], values).unwrap());
        let mut inputs = vec![
            ids(&[1, 0]),
            ids(&[0, 0]),
            iota(&[2, 2]),
            iota(&[2, 2]),
            floats(&[1, 2], &[0.0, 5.0]),
            floats(&[2], &[1.0, 1.0]),
            floats(&[2], &[0.0, 1.0]),
            ids(&[1, 0]),
        ];
        let op = || node("com.microsoft.EmbedLayerNormalization", 3);
        let y = run(op(), &inputs).unwrap();
        assert_eq!(y[2].as_slice::<f32>().unwrap(), [2.0, 9.0, 2.0, 9.0]);
        assert_eq!(y[1].as_slice::<i32>().unwrap(), [1]);
        assert_eq!(y[0].as_slice::<f32>().unwrap(), [-1.0, 2.0, -1.0, 2.0]);
        inputs[0] = ids(&[1, 2]);
        assert!(run(op(), &inputs).is_err());
    }
}
