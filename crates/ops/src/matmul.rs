//! Products of matrices: MatMul, Gemm and their fused forms.

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{Axes, DType, Shape, Tensor, broadcast, element_count, strides_of};

use crate::compute::Compute;
use crate::context::{EvalCtx, InferCtx, broadcast_dims};
use crate::def::{Arity, Kind, OpDef, Upgrade, onnx};
use crate::dispatch::dispatch;
use crate::error::OpError;
use crate::fused_activation::{Epilogue, conclude};
use crate::real::{Ring, elements_as, narrow, with_real};
use crate::tape::{Gradients, Tape, Var, op};
use crate::work::{Work, elements};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&MATMUL, &FUSED_MATMUL, &GEMM, &FUSED_GEMM];

static MATMUL: OpDef = OpDef {
    name: "MatMul",
    doc: "Product of matrices in the last two axes, with the axes before them broadcast.",
    onnx: &[onnx("", "MatMul", 13)],
    inputs: Arity::exactly(2),
    kind: Kind::Heavy,
    infer: infer_matmul,
    work: matmul_work,
    eval: |ctx| Ok(vec![eval_matmul(ctx)?.into()]),
    gradient: Some(product_gradient),
    ..OpDef::DEFAULT
};

static FUSED_MATMUL: OpDef = OpDef {
    name: "com.microsoft.FusedMatMul",
    doc: "MatMul of transposed operands, times `alpha`, plus a bias, then an activation.",
    onnx: &[onnx("com.microsoft", "FusedMatMul", 1)],
    inputs: Arity::between(2, 3),
    ..MATMUL
};

/// A vector as a matrix, of one row or of one column.
fn as_matrix(x: Var<'_>, row: bool) -> Var<'_> {
    let (shape, tape) = (x.shape(), x.tape());
    let two = tape.constant(Tensor::scalar(2i64));
    let zero = tape.constant(Tensor::scalar(0i64));
    let missing = (two - shape.size()).with("Max", zero).flatten();
    let ones = tape.op(op("ConstantOfShape").with("value", Tensor::vector(&[1i64])), &[missing]);
    x.reshape(tape.concat(&if row { [ones, shape] } else { [shape, ones] }))
}

/// Each operand's gradient is the product of that of the result with the other operand.
fn product_gradient(tape: &Tape) -> Gradients<'_> {
    let attrs = tape.attrs();
    let flag = |name: &str| attrs.flag_or(name, false);
    let fused = !Epilogue::of(&tape.node())?.is_nothing();
    if fused || tape.x_opt(2).is_some() || flag("transBatchA")? || flag("transBatchB")? {
        return Err(OpError::unsupported("the gradient of a fused product"));
    }
    let (a, b) = (tape.x(0)?, tape.x(1)?);
    let (ta, tb) = (flag("transA")?, flag("transB")?);
    // A vector is a row on the left and a column on the right, turned or not.
    let (left, right) = (as_matrix(a, !ta), as_matrix(b, tb));
    // The result of matrices, whose shape vectors have lost.
    let dy = tape.dy(0) * f64::from(attrs.float_or("alpha", 1.0)?);
    let dy = dy.reshape_as(left.matmul(right, (ta, tb)));
    let da = if ta { right.matmul(dy, (tb, true)) } else { dy.matmul(right, (false, !tb)) };
    let db = if tb { dy.matmul(left, (true, ta)) } else { left.matmul(dy, (!ta, false)) };
    Ok(vec![Some(da.sum_to(left).reshape_as(a)), Some(db.sum_to(right).reshape_as(b))])
}

fn gemm_gradient(tape: &Tape) -> Gradients<'_> {
    let (a, b, dy, attrs) = (tape.x(0)?, tape.x(1)?, tape.dy(0), tape.attrs());
    let (ta, tb) = (attrs.flag_or("transA", false)?, attrs.flag_or("transB", false)?);
    let alpha = f64::from(attrs.float_or("alpha", 1.0)?);
    let beta = f64::from(attrs.float_or("beta", 1.0)?);
    let da = if ta { b.matmul(dy, (tb, true)) } else { dy.matmul(b, (false, !tb)) };
    let db = if tb { dy.matmul(a, (true, ta)) } else { a.matmul(dy, (!ta, false)) };
    let dc = tape.x_opt(2).map(|c| (dy * beta).sum_to(c));
    Ok(vec![Some(da * alpha), Some(db * alpha), dc])
}

static GEMM: OpDef = OpDef {
    name: "Gemm",
    doc: "alpha * A * B + beta * C of two matrices, either of them transposed.",
    onnx: &[onnx("", "Gemm", 13)],
    inputs: Arity::between(2, 3),
    kind: Kind::Heavy,
    upgrade: Some(|up: &mut Upgrade<'_>| {
        // Before opset 7 broadcasting of C was asked for; it is always allowed now.
        up.node.attrs.take("broadcast");
        Ok(())
    }),
    infer: infer_gemm,
    work: gemm_work,
    eval: |ctx| Ok(vec![eval_gemm(ctx)?.into()]),
    gradient: Some(gemm_gradient),
    ..OpDef::DEFAULT
};

static FUSED_GEMM: OpDef = OpDef {
    name: "com.microsoft.FusedGemm",
    doc: "Gemm, then an activation.",
    onnx: &[onnx("com.microsoft", "FusedGemm", 1)],
    gradient: None,
    ..GEMM
};

/// One operand of a product: where its elements lie, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Step along each batch axis of the output; 0 where broadcast.
    pub batch_strides: Axes,
    /// Step from one row to the next.
    pub row_stride: usize,
    /// Step from one column to the next.
    pub col_stride: usize,
}

/// A batched product of matrices, resolved once: (m, k) times (k, n) for each batch index.
#[derive(Clone, Debug, PartialEq)]
pub struct MatMulForm {
    /// Extents of the batch axes.
    pub batch: Axes,
    /// Rows of the output.
    pub m: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Columns of the output.
    pub n: usize,
    /// The left operand.
    pub a: Operand,
    /// The right operand.
    pub b: Operand,
    /// Shape of the output (a vector operand gives no axis).
    pub output: Shape,
    /// Factor of the product.
    pub alpha: f32,
}

/// Which axes of an operand are exchanged.
#[derive(Clone, Copy)]
struct Turn {
    /// The first axis becomes the last but one, before `last`.
    batch: bool,
    /// The last two axes are exchanged.
    last: bool,
}

impl Turn {
    fn of(attrs: &Attrs, batch: &str, last: &str) -> Result<Turn, OpError> {
        Ok(Turn { batch: attrs.flag_or(batch, false)?, last: attrs.flag_or(last, false)? })
    }

    /// Turns what is known of each axis. Vectors have nothing to turn.
    fn apply<A>(self, axes: &mut [A]) {
        let rank = axes.len();
        if rank < 2 {
            return;
        }
        if self.batch {
            axes[..rank - 1].rotate_left(1);
        }
        if self.last {
            axes.swap(rank - 2, rank - 1);
        }
    }
}

fn turns(attrs: &Attrs) -> Result<(Turn, Turn), OpError> {
    Ok((Turn::of(attrs, "transBatchA", "transA")?, Turn::of(attrs, "transBatchB", "transB")?))
}

impl MatMulForm {
    /// Reads a MatMul or FusedMatMul whose operands have these shapes.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn resolve(attrs: &Attrs, a: &[usize], b: &[usize]) -> Result<MatMulForm, OpError> {
        let (turn_a, turn_b) = turns(attrs)?;
        let with_strides = |shape: &[usize], turn: Turn| {
            let mut axes: Axes<_> = shape.iter().copied().zip(strides_of(shape)).collect();
            turn.apply(&mut axes);
            axes
        };
        let (mut left, mut right) = (with_strides(a, turn_a), with_strides(b, turn_b));
        if a.is_empty() || b.is_empty() {
            let index = usize::from(!a.is_empty());
            return Err(OpError::input(index, "at least one axis", "a scalar"));
        }
        if a.len() == 1 {
            left.insert(0, (1, 0));
        }
        if b.len() == 1 {
            right.push((1, 0));
        }
        let (left, rows) = left.split_at(left.len() - 2);
        let (right, right_rows) = right.split_at(right.len() - 2);
        let (m, k, n) = (rows[0].0, rows[1].0, right_rows[1].0);
        if right_rows[0].0 != k {
            return Err(OpError::input(1, format!("{k} rows"), format!("shape {b:?}")));
        }
        let extents = |axes: &[(usize, usize)]| axes.iter().map(|axis| axis.0).collect::<Axes>();
        let batch = broadcast(&extents(left), &extents(right))?;
        let operand = |axes: &[(usize, usize)], last: &[(usize, usize)]| {
            let lead = batch.len() - axes.len();
            let stride = |axis: &(usize, usize)| if axis.0 == 1 { 0 } else { axis.1 };
            let strides = std::iter::repeat_n(0, lead).chain(axes.iter().map(stride));
            Operand {
                batch_strides: strides.collect(),
                row_stride: last[0].1,
                col_stride: last[1].1,
            }
        };
        let (a_operand, b_operand) = (operand(left, rows), operand(right, right_rows));
        let mut output = batch.clone();
        output.extend((a.len() > 1).then_some(m));
        output.extend((b.len() > 1).then_some(n));
        let alpha = attrs.float_or("alpha", 1.0)?;
        Ok(MatMulForm { batch, m, k, n, a: a_operand, b: b_operand, output, alpha })
    }
}

/// One Gemm, resolved once.
#[derive(Clone, Debug, PartialEq)]
pub struct GemmForm {
    /// Rows of the output.
    pub m: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Columns of the output.
    pub n: usize,
    /// A is stored (k, m).
    pub trans_a: bool,
    /// B is stored (n, k).
    pub trans_b: bool,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of C.
    pub beta: f32,
}

impl GemmForm {
    /// Reads a Gemm whose operands have these shapes.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn resolve(attrs: &Attrs, a: &[usize], b: &[usize]) -> Result<GemmForm, OpError> {
        let (&[a0, a1], &[b0, b1]) = (a, b) else {
            let (index, shape) = if a.len() == 2 { (1, b) } else { (0, a) };
            return Err(OpError::input(index, "a matrix", format!("shape {shape:?}")));
        };
        let trans_a = attrs.flag_or("transA", false)?;
        let trans_b = attrs.flag_or("transB", false)?;
        let (m, k) = if trans_a { (a1, a0) } else { (a0, a1) };
        let (rows, n) = if trans_b { (b1, b0) } else { (b0, b1) };
        if rows != k {
            return Err(OpError::input(1, format!("{k} terms"), format!("shape {b:?}")));
        }
        let (alpha, beta) = (attrs.float_or("alpha", 1.0)?, attrs.float_or("beta", 1.0)?);
        Ok(GemmForm { m, k, n, trans_a, trans_b, alpha, beta })
    }
}

/// Rows of B that are used together, so that they stay in cache for all rows of A.
const K_BLOCK: usize = 64;

/// One (m, k) by (k, n) product added to `out`, row by row of B.
pub(crate) fn multiply<T: Ring>(
    (m, k, n): (usize, usize, usize),
    (a, a_row, a_col): (&[T], usize, usize),
    (b, b_row, b_col): (&[T], usize, usize),
    out: &mut [T],
) {
    if m == 0 || k == 0 || n == 0 {
        return;
    }
    let packed: Vec<T>;
    let (b, b_row) = if b_col == 1 || n == 1 {
        (b, b_row)
    } else {
        let rows = (0..k).flat_map(|p| (0..n).map(move |j| b[p * b_row + j * b_col]));
        packed = rows.collect();
        (packed.as_slice(), n)
    };
    for block in (0..k).step_by(K_BLOCK) {
        for (i, row) in out.chunks_exact_mut(n).take(m).enumerate() {
            for p in block..k.min(block + K_BLOCK) {
                let factor = a[i * a_row + p * a_col];
                for (sum, &value) in row.iter_mut().zip(&b[p * b_row..p * b_row + n]) {
                    *sum = sum.add_mul(factor, value);
                }
            }
        }
    }
}

fn batched<T: Ring>(form: &MatMulForm, a: &[T], b: &[T]) -> Result<Tensor, OpError> {
    let mut out = Tensor::zeros(T::DTYPE, &form.output)?;
    let plane = element_count(&[form.m, form.n])?;
    if out.is_empty() || form.k == 0 {
        return Ok(out);
    }
    for (index, part) in out.as_mut_slice::<T>()?.chunks_exact_mut(plane).enumerate() {
        let (mut rest, mut at_a, mut at_b) = (index, 0, 0);
        for (axis, &extent) in form.batch.iter().enumerate().rev() {
            at_a += rest % extent * form.a.batch_strides[axis];
            at_b += rest % extent * form.b.batch_strides[axis];
            rest /= extent;
        }
        let left = (&a[at_a..], form.a.row_stride, form.a.col_stride);
        let right = (&b[at_b..], form.b.row_stride, form.b.col_stride);
        multiply((form.m, form.k, form.n), left, right, part);
        if form.alpha != 1.0 {
            part.iter_mut().for_each(|value| *value = value.scaled(f64::from(form.alpha)));
        }
    }
    Ok(out)
}

/// Adds `factor * bias`, broadcast to the shape of `out`.
fn add_bias<T: Ring>(
    out: &mut Tensor,
    bias: &Tensor,
    values: &[T],
    factor: f32,
) -> Result<(), OpError> {
    let values = Tensor::from_slice(bias.shape(), values)?;
    let fault = |_| OpError::input(2, format!("broadcast to {:?}", out.shape()), bias.describe());
    let spread = values.view().broadcast_to(out.shape()).map_err(fault)?.to_vec::<T>()?;
    let sums = out.as_mut_slice::<T>()?.iter_mut().zip(spread);
    // C times 0 is none, whatever is in it, as in every BLAS: C may be memory that nobody has set.
    if factor != 0.0 {
        sums.for_each(|(sum, value)| *sum = sum.plus(value.scaled(f64::from(factor))));
    }
    Ok(())
}

fn eval_matmul(ctx: &EvalCtx<'_>) -> Result<Tensor, OpError> {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let form = MatMulForm::resolve(ctx.attrs(), a.shape(), b.shape())?;
    finish(ctx, &form, 1.0)
}

fn eval_gemm(ctx: &EvalCtx<'_>) -> Result<Tensor, OpError> {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let gemm = GemmForm::resolve(ctx.attrs(), a.shape(), b.shape())?;
    let form = MatMulForm::resolve(ctx.attrs(), a.shape(), b.shape())?;
    finish(ctx, &form, gemm.beta)
}

/// The product, plus `beta` times input 2, then the activation of the node.
fn finish(ctx: &EvalCtx<'_>, form: &MatMulForm, beta: f32) -> Result<Tensor, OpError> {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let dtype = a.dtype();
    for index in 1..3 {
        if let Some(other) = ctx.tensor_opt(index)
            && other.dtype() != dtype
        {
            return Err(OpError::input(index, dtype.name(), other.describe()));
        }
    }
    if dtype.is_float() {
        let compute = Compute::of(ctx.attrs())?;
        return with_real!(0, dtype, T => {
            let (left, right) = (compute.operand::<T>(0, a)?, compute.operand::<T>(1, b)?);
            let mut out = batched::<T>(form, &left, &right)?;
            if let Some(bias) = ctx.tensor_opt(2) {
                add_bias::<T>(&mut out, bias, &elements_as::<T>(2, bias)?, beta)?;
            }
            conclude::<T>(Epilogue::of(ctx.node)?, &mut out)?;
            narrow(out, dtype)
        });
    }
    dispatch!(dtype, T in [i32, i64, u32, u64, i8, u8, i16, u16] => {
        let mut out = batched::<T>(form, a.as_slice::<T>()?, b.as_slice::<T>()?)?;
        if let Some(bias) = ctx.tensor_opt(2) {
            add_bias::<T>(&mut out, bias, bias.as_slice::<T>()?, beta)?;
        }
        Ok(out)
    })
}

fn infer_matmul(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = number_dtype(ctx)?;
    let (Some(a), Some(b)) = (ctx.dims(0), ctx.dims(1)) else {
        return Ok(vec![InferCtx::make(dtype, None)]);
    };
    let (turn_a, turn_b) = turns(ctx.attrs())?;
    Ok(vec![InferCtx::make(dtype, Some(matmul_dims((a, turn_a), (b, turn_b))?))])
}

fn matmul_dims(
    (a, turn_a): (&[Dim], Turn),
    (b, turn_b): (&[Dim], Turn),
) -> Result<Vec<Dim>, OpError> {
    for (index, dims) in [a, b].iter().enumerate() {
        if dims.is_empty() {
            return Err(OpError::input(index, "at least one axis", "a scalar"));
        }
    }
    let (mut left, mut right) = (a.to_vec(), b.to_vec());
    turn_a.apply(&mut left);
    turn_b.apply(&mut right);
    if a.len() == 1 {
        left.insert(0, Dim::Known(1));
    }
    if b.len() == 1 {
        right.push(Dim::Known(1));
    }
    let (rows, right_rows) = (left.split_off(left.len() - 2), right.split_off(right.len() - 2));
    same_extent(1, &rows[1], &right_rows[0])?;
    let mut dims = broadcast_dims(Some(&left), Some(&right))?.unwrap_or_default();
    dims.extend((a.len() > 1).then(|| rows[0].clone()));
    dims.extend((b.len() > 1).then(|| right_rows[1].clone()));
    Ok(dims)
}

/// Two extents that must be equal, where both are known.
fn same_extent(index: usize, wanted: &Dim, got: &Dim) -> Result<(), OpError> {
    match (wanted, got) {
        (Dim::Known(x), Dim::Known(y)) if x != y => {
            Err(OpError::input(index, format!("{x} terms"), format!("{y}")))
        }
        _ => Ok(()),
    }
}

fn infer_gemm(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = number_dtype(ctx)?;
    let attrs = ctx.attrs();
    let side = |index: usize, transposed: bool| -> Result<[Dim; 2], OpError> {
        match ctx.dims(index) {
            None => Ok([Dim::Unknown, Dim::Unknown]),
            Some([first, second]) if transposed => Ok([second.clone(), first.clone()]),
            Some([first, second]) => Ok([first.clone(), second.clone()]),
            Some(dims) => Err(OpError::input(index, "a matrix", format!("rank {}", dims.len()))),
        }
    };
    let [m, k] = side(0, attrs.flag_or("transA", false)?)?;
    let [rows, n] = side(1, attrs.flag_or("transB", false)?)?;
    same_extent(1, &k, &rows)?;
    Ok(vec![InferCtx::make(dtype, Some(vec![m, n]))])
}

/// The common dtype of the operands.
fn number_dtype(ctx: &InferCtx<'_>) -> Result<Option<DType>, OpError> {
    let dtype = ctx.dtype_opt(0).or(ctx.dtype_opt(1));
    if let (Some(wanted), Some(got)) = (dtype, ctx.dtype_opt(1))
        && wanted != got
    {
        return Err(OpError::input(1, wanted.name(), got.name()));
    }
    match dtype {
        Some(dtype) if !dtype.is_float() && !dtype.is_int() => {
            Err(OpError::input(0, "numbers", dtype.name()))
        }
        _ => Ok(dtype),
    }
}

fn matmul_work(ctx: &InferCtx<'_>, outputs: &[Type]) -> Work {
    let shapes =
        (ctx.ty_opt(0).and_then(Type::known_shape), ctx.ty_opt(1).and_then(Type::known_shape));
    let (Some(a), Some(b)) = shapes else { return Work::default() };
    let terms = MatMulForm::resolve(ctx.attrs(), &a, &b).map_or(0, |form| form.k);
    Work::macs(outputs.first().map_or(0.0, elements) * terms as f64)
}

fn gemm_work(ctx: &InferCtx<'_>, outputs: &[Type]) -> Work {
    matmul_work(ctx, outputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{floats, iota, node, run};

    #[test]
    fn matmul_broadcasts_batches_and_takes_vectors() {
        let check = |a: &[usize], b: &[usize], shape: &[usize], sum: f32| {
            let y = run(node("MatMul", 1), &[iota(a), iota(b)]).unwrap().remove(0);
            assert_eq!(y.shape(), shape);
            assert_eq!(y.as_slice::<f32>().unwrap().iter().sum::<f32>(), sum);
        };
        check(&[3], &[3], &[], 5.0);
        check(&[3], &[2, 3, 2], &[2, 2], 82.0);
        check(&[2, 3], &[3], &[2], 19.0);
        check(&[1, 2, 3], &[2, 3, 1], &[2, 2, 1], 83.0);
        check(&[2, 0], &[0, 2], &[2, 2], 0.0);
        check(&[0, 2, 3], &[3, 4], &[0, 2, 4], 0.0);
    }

    #[test]
    fn integers_wrap_and_halves_round_once() {
        let a = Some(Tensor::from_slice(&[1, 2], &[i32::MAX, 1]).unwrap());
        let b = Some(Tensor::from_slice(&[2, 1], &[2i32, 7]).unwrap());
        let y = run(node("MatMul", 1), &[a, b]).unwrap().remove(0);
        assert_eq!(y.as_slice::<i32>().unwrap(), [5]);
        let half = |t: Option<Tensor>| Some(narrow(t.unwrap(), DType::BF16).unwrap());
        let inputs = [half(floats(&[1, 2], &[256.0, 1.0])), half(floats(&[2, 1], &[1.0, 1.0]))];
        let y = run(node("MatMul", 1), &inputs).unwrap().remove(0);
        assert_eq!(hetra_tensor::to_f64(&y).unwrap(), [256.0]);
    }

    #[test]
    fn fused_matmul_turns_operands() {
        let check = |node: hetra_ir::Node, a: &[usize], b: &[usize], wanted: &[f32]| {
            let y = run(node, &[iota(a), iota(b)]).unwrap().remove(0);
            assert_eq!(y.as_slice::<f32>().unwrap(), wanted);
        };
        let op = || node("com.microsoft.FusedMatMul", 1);
        let turned = op().with("transB", 1).with("alpha", 0.5f32);
        check(turned, &[1, 2], &[2, 2], &[0.5, 1.5]);
        check(op().with("transBatchA", 1), &[1, 2, 2], &[2, 2, 1], &[1.0, 13.0]);
        check(op().with("transBatchA", 1).with("transA", 1), &[2, 1, 2], &[2, 1], &[2.0, 3.0]);
        let biased = op().with("activation", "Relu");
        let inputs = [iota(&[2, 2]), iota(&[2, 2]), floats(&[2], &[-4.0, 1.0])];
        let y = run(biased, &inputs).unwrap().remove(0);
        assert_eq!(y.as_slice::<f32>().unwrap(), [0.0, 4.0, 2.0, 12.0]);
    }

    #[test]
    fn gemm_takes_all_attributes() {
        let all = node("Gemm", 1)
            .with("transA", 1)
            .with("transB", 1)
            .with("alpha", 2.0f32)
            .with("beta", 0.5f32);
        let nan = [iota(&[2, 1]), iota(&[3, 2]), floats(&[1, 1], &[f32::NAN])];
        let y = run(all.clone().with("beta", 0.0f32), &nan).unwrap().remove(0);
        assert_eq!(y.as_slice::<f32>().unwrap(), [2.0, 6.0, 10.0]);
        let inputs = [iota(&[2, 1]), iota(&[3, 2]), floats(&[1, 1], &[4.0])];
        let y = run(all.clone(), &inputs).unwrap().remove(0);
        assert_eq!(y.as_slice::<f32>().unwrap(), [4.0, 8.0, 12.0]);
        assert!(run(all.clone(), &[iota(&[2, 1]), iota(&[3, 3])]).is_err());
        assert!(run(all.clone(), &[iota(&[2]), iota(&[3, 2])]).is_err());
        assert!(run(all, &[iota(&[2, 1]), iota(&[3, 2]), iota(&[2])]).is_err());
        assert!(run(node("MatMul", 1), &[iota(&[]), iota(&[1])]).is_err());
        assert!(run(node("MatMul", 1), &[iota(&[2]), iota(&[3, 1])]).is_err());
    }
}
