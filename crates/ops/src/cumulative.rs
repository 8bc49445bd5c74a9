//! Running sums and products along an axis (CumSum, CumProd), and Det.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value, from_f64, from_i64, to_f64, to_i64};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::def::{Arity, OpDef, onnx};
use crate::elementwise::{Accepts, infer_number};
use crate::error::OpError;
use crate::work::Work;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&CUM_SUM, &CUM_PROD, &DET];

const CUMULATIVE: OpDef =
    OpDef { inputs: Arity::exactly(2), infer: infer_cumulative, ..OpDef::DEFAULT };

static CUM_SUM: OpDef = OpDef {
    name: "CumSum",
    doc: "Sums of all elements so far along an axis; integers wrap.",
    onnx: &[onnx("", "CumSum", 14)],
    eval: |ctx| cumulate(ctx, (0.0, |x, y| x + y), (0, i64::wrapping_add)),
    gradient: Some(|tape| {
        let reverse = !tape.attrs().flag_or("reverse", false)?;
        let node = tape.node().with("reverse", i64::from(reverse));
        Ok(vec![Some(tape.op(node, &[tape.dy(0), tape.x(1)?])), None])
    }),
    ..CUMULATIVE
};

static CUM_PROD: OpDef = OpDef {
    name: "CumProd",
    doc: "Products of all elements so far along an axis; integers wrap.",
    onnx: &[onnx("", "CumProd", 26)],
    eval: |ctx| cumulate(ctx, (1.0, |x, y| x * y), (1, i64::wrapping_mul)),
    ..CUMULATIVE
};

static DET: OpDef = OpDef {
    name: "Det",
    doc: "Determinants of the matrices in the last two axes.",
    onnx: &[onnx("", "Det", 22)],
    infer: infer_det,
    work: |ctx, outputs| {
        let side = ctx.dims(0).and_then(|dims| dims.last()?.known()).unwrap_or(0) as f64;
        Work::macs(outputs.iter().map(crate::work::elements).sum::<f64>() * side.powi(3) / 3.0)
    },
    eval: eval_det,
    ..OpDef::DEFAULT
};

fn axis_of(ints: &[i64], rank: usize) -> Result<usize, OpError> {
    match ints {
        [axis] => resolve_axis(*axis, rank),
        _ => Err(OpError::input(1, "one axis", format!("{} of them", ints.len()))),
    }
}

fn infer_cumulative(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    Accepts::Ints.check(ctx, 1)?;
    if let (Some(axis), Some(rank)) = (ctx.known_ints(1), ctx.rank(0)) {
        axis_of(&axis, rank)?;
    }
    infer_number(ctx)
}

fn cumulate(
    ctx: &EvalCtx<'_>,
    float: (f64, fn(f64, f64) -> f64),
    int: (i64, fn(i64, i64) -> i64),
) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    Accepts::Numbers.check_tensor(0, x)?;
    let lines = Lines {
        axis: axis_of(&ctx.ints(1)?, x.rank())?,
        exclusive: ctx.attrs().flag_or("exclusive", false)?,
        reverse: ctx.attrs().flag_or("reverse", false)?,
    };
    let tensor = if x.dtype().is_float() {
        let mut values = to_f64(x)?;
        lines.run(x.shape(), &mut values, float);
        from_f64(x.dtype(), x.shape(), &values)?
    } else {
        let mut values = to_i64(x)?;
        lines.run(x.shape(), &mut values, int);
        from_i64(x.dtype(), x.shape(), &values)?
    };
    Ok(vec![tensor.into()])
}

/// How the elements of an axis are gone through.
struct Lines {
    axis: usize,
    exclusive: bool,
    reverse: bool,
}

impl Lines {
    fn run<T: Copy>(&self, shape: &[usize], values: &mut [T], (start, step): (T, fn(T, T) -> T)) {
        let extent = shape[self.axis];
        let inner: usize = shape[self.axis + 1..].iter().product();
        // Empty tensors have no block.
        for block in values.chunks_exact_mut((extent * inner).max(1)) {
            let mut so_far = vec![start; inner];
            for at in 0..extent {
                let row = if self.reverse { extent - 1 - at } else { at };
                let row = &mut block[row * inner..(row + 1) * inner];
                for (value, so_far) in row.iter_mut().zip(&mut so_far) {
                    let before = *so_far;
                    *so_far = step(before, *value);
                    *value = if self.exclusive { before } else { *so_far };
                }
            }
        }
    }
}

fn infer_det(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    Accepts::Floats.check(ctx, 0)?;
    let dims = match ctx.dims(0) {
        None => None,
        Some([batch @ .., rows, columns]) => {
            if let (Dim::Known(rows), Dim::Known(columns)) = (rows, columns)
                && rows != columns
            {
                return Err(OpError::input(0, "square matrices", format!("{rows} by {columns}")));
            }
            Some(batch.to_vec())
        }
        Some(_) => return Err(OpError::input(0, "matrices", "a lower rank")),
    };
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), dims)])
}

fn eval_det(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    Accepts::Floats.check_tensor(0, x)?;
    let (batch, side) = match x.shape() {
        [batch @ .., rows, columns] if rows == columns => (batch, *rows),
        _ => return Err(OpError::input(0, "square matrices", x.describe())),
    };
    let mut out = Tensor::zeros(DType::F64, batch)?;
    let slots = out.as_mut_slice::<f64>()?;
    // The determinant of nothing is the empty product.
    slots.fill(1.0);
    let mut values = to_f64(x)?;
    for (slot, matrix) in slots.iter_mut().zip(values.chunks_exact_mut((side * side).max(1))) {
        *slot = det(matrix, side);
    }
    Ok(vec![from_f64(x.dtype(), batch, out.as_slice::<f64>()?)?.into()])
}

/// Gauss elimination with the largest pivot of each column, over the matrix.
fn det(matrix: &mut [f64], side: usize) -> f64 {
    let mut product = 1.0;
    for column in 0..side {
        let size = |row: usize| matrix[row * side + column].abs();
        let pivot = (column..side).fold(column, |a, b| if size(b) > size(a) { b } else { a });
        if pivot != column {
            (0..side).for_each(|k| matrix.swap(pivot * side + k, column * side + k));
            product = -product;
        }
        let top = matrix[column * side + column];
        product *= top;
        if top == 0.0 {
            return product;
        }
        for row in column + 1..side {
            let factor = matrix[row * side + column] / top;
            for k in column..side {
                matrix[row * side + k] -= factor * matrix[column * side + k];
            }
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    #[test]
    fn running_sums() {
        let x = Tensor::from_slice(&[2, 3], &[1i32, 2, 3, 4, 5, 6]).unwrap();
        let axis = |axis: i64| Case::new("CumSum").tensor(&x).tensor(&Tensor::scalar(axis));
        check(&axis(0), 0, &[2, 3], &[1.0, 2.0, 3.0, 5.0, 7.0, 9.0]);
        check(&axis(-1).attr("exclusive", 1i64), 0, &[2, 3], &[0.0, 1.0, 3.0, 0.0, 4.0, 9.0]);
        check(&axis(1).attr("reverse", 1i64), 0, &[2, 3], &[6.0, 5.0, 3.0, 15.0, 11.0, 6.0]);
        assert!(axis(2).eval().is_err());
        let product = Case::new("CumProd").tensor(&x).tensor(&Tensor::scalar(1i64));
        check(&product, 0, &[2, 3], &[1.0, 2.0, 6.0, 4.0, 20.0, 120.0]);
        let empty = Tensor::zeros(DType::F32, &[2, 0]).unwrap();
        check(&axis(0).with_input(0, &empty), 0, &[2, 0], &[]);
    }

    #[test]
    fn determinants() {
        let values = [0f32, 1.0, 2.0, 3.0, 1.0, 2.0, 2.0, 4.0];
        let x = Tensor::from_slice(&[2, 2, 2], &values).unwrap();
        check(&Case::new("Det").tensor(&x), 0, &[2], &[-2.0, 0.0]);
        let none = Tensor::zeros(DType::F32, &[0, 0]).unwrap();
        check(&Case::new("Det").tensor(&none), 0, &[], &[1.0]);
        assert!(Case::new("Det").tensor(&x.reshape(&[2, 4]).unwrap()).eval().is_err());
    }
}
