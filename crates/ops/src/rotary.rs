//! Rotary position embedding: pairs of features turned by an angle that grows with position.

use hetra_ir::{Node, Type};
use hetra_tensor::{DType, Value};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, OpDef, onnx};
use crate::dense::{floats, result, shape_of_rank};
use crate::error::OpError;
use crate::real::Real;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&ROTARY, &ROTARY_MICROSOFT];

static ROTARY: OpDef = OpDef {
    name: "RotaryEmbedding",
    doc: "Turns pairs of features by the angle of their position.",
    onnx: &[onnx("", "RotaryEmbedding", 23)],
    inputs: Arity::between(3, 4),
    infer: infer_rotary,
    eval: eval_rotary,
    ..OpDef::DEFAULT
};

static ROTARY_MICROSOFT: OpDef = OpDef {
    name: "com.microsoft.RotaryEmbedding",
    doc: "As RotaryEmbedding, with the positions before the tables.",
    onnx: &[onnx("com.microsoft", "RotaryEmbedding", 1)],
    inputs: Arity::exactly(4),
    ..ROTARY
};

/// Where the inputs stand.
struct Inputs {
    cos: usize,
    sin: usize,
    positions: usize,
}

impl Inputs {
    fn of(node: &Node) -> Inputs {
        match node.op.as_str() {
            "RotaryEmbedding" => Inputs { cos: 1, sin: 2, positions: 3 },
            _ => Inputs { cos: 2, sin: 3, positions: 1 },
        }
    }
}

/// How features pair up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Feature `i` with feature `i + half`.
    Halves,
    /// Feature `2i` with feature `2i + 1`.
    Neighbours,
}

/// Turns the first `2 * cos.len()` features of a row.
pub(crate) fn rotate<T: Real>(row: &mut [T], cos: &[T], sin: &[T], pairing: Pairing) {
    let half = cos.len();
    for (at, (&c, &s)) in cos.iter().zip(sin).enumerate() {
        let (i, j) = match pairing {
            Pairing::Halves => (at, at + half),
            Pairing::Neighbours => (2 * at, 2 * at + 1),
        };
        let (x, y) = (row[i], row[j]);
        row[i] = c * x + T::of(-1.0) * (s * y);
        row[j] = s * x + c * y;
    }
}

/// A rotary embedding with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotaryForm {
    /// Positions of a batch item.
    pub positions: usize,
    /// Heads of a position.
    pub heads: usize,
    /// Features of a head.
    pub width: usize,
    /// Whether the positions of a head stand side by side, not the heads of a position.
    pub heads_first: bool,
    /// Numbers in a line of the tables; twice as many features are turned.
    pub half: usize,
    /// How features pair up.
    pub pairing: Pairing,
    /// The inputs that hold cosines and sines.
    pub tables: [usize; 2],
    /// The line of the tables for each batch item and position.
    pub lines: Vec<usize>,
}

impl RotaryForm {
    /// Reads inputs and attributes, of either domain; the input is not empty.
    ///
    /// # Errors
    /// Arguments that do not fit together.
    pub fn of(ctx: &EvalCtx<'_>) -> Result<RotaryForm, OpError> {
        // `is_packed_batching` only tells a kernel how to find the tokens; onnxruntime's CPU kernel
        // reads `scale` and leaves it unused.
        let at = Inputs::of(ctx.node);
        let (cos, sin) = (ctx.tensor(at.cos)?, ctx.tensor(at.sin)?);
        let half =
            *cos.shape().last().ok_or_else(|| OpError::input(at.cos, "axes", cos.describe()))?;
        let layout = layout(ctx, half)?;
        let wanted = match ctx.attrs().int_or("rotary_embedding_dim", 0)? {
            0 => layout.width,
            dim => usize::try_from(dim).unwrap_or(usize::MAX),
        };
        if half.checked_mul(2) != Some(wanted) || wanted > layout.width {
            let wanted = format!("a last axis of half the {wanted} features to turn");
            return Err(OpError::input(at.cos, wanted, cos.describe()));
        }
        if sin.shape() != cos.shape() {
            return Err(OpError::input(at.sin, format!("{:?}", cos.shape()), sin.describe()));
        }
        let lines = table_lines(ctx, &at, cos, &layout)?;
        let pairing = match ctx.attrs().flag_or("interleaved", false)? {
            true => Pairing::Neighbours,
            false => Pairing::Halves,
        };
        let Layout { positions, heads, width, heads_first, .. } = layout;
        let tables = [at.cos, at.sin];
        Ok(RotaryForm { positions, heads, width, heads_first, half, pairing, tables, lines })
    }

    /// The line of the tables that turns a row of the input.
    pub fn line(&self, row: usize) -> usize {
        let RotaryForm { positions, heads, heads_first, .. } = *self;
        let position = if heads_first { row % positions } else { row / heads % positions };
        self.lines[row / (heads * positions) * positions + position]
    }
}

fn eval_rotary(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    match ctx.tensor(0)?.dtype() {
        DType::F64 => eval_floats::<f64>(ctx),
        _ => eval_floats::<f32>(ctx),
    }
}

/// Extents of the input: rows of `width` in order batch, then head or position.
struct Layout {
    batch: usize,
    positions: usize,
    heads: usize,
    width: usize,
    heads_first: bool,
}

fn eval_floats<T: Real>(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = floats::<T>(ctx, 0)?;
    if x.is_empty() {
        return Ok(vec![ctx.tensor(0)?.clone().into()]);
    }
    let form = RotaryForm::of(ctx)?;
    let [cos, sin] = form.tables;
    let (cos, sin) = (floats::<T>(ctx, cos)?, floats::<T>(ctx, sin)?);
    let (cos, sin) = (cos.as_slice::<T>()?, sin.as_slice::<T>()?);
    let mut out = x.as_slice::<T>()?.to_vec();
    for (row, features) in out.chunks_exact_mut(form.width).enumerate() {
        let line = form.line(row) * form.half;
        rotate(features, &cos[line..][..form.half], &sin[line..][..form.half], form.pairing);
    }
    Ok(vec![result(ctx.tensor(0)?.dtype(), x.shape(), &out)?.into()])
}

fn layout(ctx: &EvalCtx<'_>, half: usize) -> Result<Layout, OpError> {
    let x = ctx.tensor(0)?;
    if x.rank() == 4 {
        let [batch, heads, positions, width] = shape_of_rank(x, 0)?;
        return Ok(Layout { batch, positions, heads, width, heads_first: true });
    }
    let [batch, positions, all] = shape_of_rank::<3>(x, 0)?;
    let heads = match ctx.attrs().int_or("num_heads", 0)? {
        // Without it a head is as wide as the tables say.
        0 => all / half.saturating_mul(2).max(1),
        heads => usize::try_from(heads).unwrap_or(0),
    };
    if heads == 0 || !all.is_multiple_of(heads) {
        return Err(OpError::input(0, format!("a last axis of {heads} heads"), x.describe()));
    }
    Ok(Layout { batch, positions, heads, width: all / heads, heads_first: false })
}

/// The line of the tables for each batch item and position.
fn table_lines(
    ctx: &EvalCtx<'_>,
    at: &Inputs,
    table: &hetra_tensor::Tensor,
    layout: &Layout,
) -> Result<Vec<usize>, OpError> {
    let Layout { batch, positions, .. } = *layout;
    let Some(ids) = ctx.ints_opt(at.positions)? else {
        // Without positions the tables hold a line for each token.
        let [table_batch, table_positions, _] = shape_of_rank::<3>(table, at.cos)?;
        if [table_batch, table_positions] != [batch, positions] {
            let wanted = format!("{batch} by {positions} lines");
            return Err(OpError::input(at.cos, wanted, table.describe()));
        }
        return Ok((0..batch * positions).collect());
    };
    let [lines, _] = shape_of_rank::<2>(table, at.cos)?;
    let offset = ids.len() == 1 && (batch, positions) != (1, 1);
    if !offset && ids.len() != batch * positions {
        let wanted = format!("{batch} by {positions} positions");
        return Err(OpError::input(at.positions, wanted, ids.len().to_string()));
    }
    let id = |token: usize| match offset {
        true => ids[0].saturating_add((token % positions) as i64),
        false => ids[token],
    };
    let check = |id: i64| {
        let wanted = || format!("positions below {lines}");
        let line = usize::try_from(id).ok().filter(|&line| line < lines);
        line.ok_or_else(|| OpError::input(at.positions, wanted(), id.to_string()))
    };
    (0..batch * positions).map(|token| check(id(token))).collect()
}

fn infer_rotary(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    if ctx.rank(0).is_some_and(|rank| rank != 3 && rank != 4) {
        return Err(OpError::input(0, "3 or 4 axes", ctx.ty(0)?.to_string()));
    }
    crate::context::infer_same(ctx)
}

#[cfg(test)]
mod tests {
    use crate::case::{Case, check};
    use hetra_tensor::Tensor;

    #[test]
    fn a_quarter_turn() {
        let x = Tensor::from_slice(&[1, 2, 4], &[1f32, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]).unwrap();
        let cos = Tensor::from_slice(&[2, 2], &[1f32, 1.0, 0.0, 0.0]).unwrap();
        let sin = Tensor::from_slice(&[2, 2], &[0f32, 0.0, 1.0, 1.0]).unwrap();
        let ids = Tensor::from_slice(&[1, 2], &[1i64, 0]).unwrap();
        let case = Case::new("com.microsoft.RotaryEmbedding").tensor(&x).tensor(&ids);
        let case = case.tensor(&cos).tensor(&sin).attr("num_heads", 1i64);
        check(&case, 0, &[1, 2, 4], &[-3.0, -4.0, 1.0, 2.0, 1.0, 2.0, 3.0, 4.0]);
        let near = case.attr("interleaved", 1i64);
        check(&near, 0, &[1, 2, 4], &[-2.0, 1.0, -4.0, 3.0, 1.0, 2.0, 3.0, 4.0]);
        // One id is the position of the first token.
        let offset = case.with_input(1, &Tensor::vector(&[0i64]));
        check(&offset, 0, &[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, -3.0, -4.0, 1.0, 2.0]);
        assert!(case.with_input(1, &Tensor::vector(&[1i64])).eval().is_err());
        assert!(case.attr("num_heads", 3i64).eval().is_err());
    }
}
