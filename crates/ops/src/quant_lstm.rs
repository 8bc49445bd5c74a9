//! DynamicQuantizeLSTM of com.microsoft: weights of 8 bits, inputs quantised as they come.

use std::ops::Range;

use hetra_tensor::{Tensor, Value};

use crate::context::EvalCtx;
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dense::{expect_shape, product_int};
use crate::error::OpError;
use crate::quant_form::{integers, scales, zero_points};
use crate::quant_matmul::dynamic_centred;
use crate::recurrent::{extents, infer_recurrent, recurrent_work, run_directions};
use crate::recurrent_cell::Weights;
use crate::recurrent_form::RecurrentForm;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&LSTM];

static LSTM: OpDef = OpDef {
    name: "com.microsoft.DynamicQuantizeLSTM",
    doc: "LSTM with 8-bit weights, whose inputs and states are quantised before each product.",
    onnx: &[onnx("com.microsoft", "DynamicQuantizeLSTM", 1)],
    inputs: Arity::exactly(12),
    outputs: Arity::between(0, 3),
    kind: Kind::Heavy,
    infer: infer_recurrent,
    work: recurrent_work,
    eval: eval_lstm,
    ..OpDef::DEFAULT
};

/// Weights `[k, units]` less their zero points.
struct Codes {
    values: Vec<i32>,
    units: usize,
    k: usize,
    /// One for all units, or one for each.
    scales: Vec<f32>,
}

impl Weights<f32> for Codes {
    fn multiply(&self, x: &[f32], units: Range<usize>, out: &mut [f32]) {
        let (codes, scale) = dynamic_centred(x);
        let rows = codes.len() / self.k.max(1);
        let mut sums = vec![0i32; rows * self.units];
        product_int(&codes, &self.values, self.k, self.units, &mut sums);
        let width = units.len();
        for (row, slots) in out.chunks_exact_mut(width).enumerate() {
            for (unit, slot) in units.clone().zip(slots) {
                let of_weight = self.scales[if self.scales.len() == 1 { 0 } else { unit }];
                *slot += sums[row * self.units + unit] as f32 * (scale * of_weight);
            }
        }
    }
}

/// The weights of each direction at `index`, with scale and zero point at `scale` and after.
fn weights(
    ctx: &EvalCtx<'_>,
    index: usize,
    scale: usize,
    [directions, k, units]: [usize; 3],
) -> Result<Vec<Codes>, OpError> {
    let tensor = ctx.tensor(index)?;
    expect_shape(tensor, index, &[directions, k, units])?;
    let codes = integers(tensor, index)?;
    let all_scales = scales(ctx, scale)?;
    let all_zeros = zero_points(ctx, scale + 1, Some(tensor.dtype()))?;
    let each = |at: usize, count: usize| {
        let wanted = format!("{directions} or {} of them", directions * units);
        let fault = || OpError::input(at, wanted, count.to_string());
        let each = count / directions;
        (each * directions == count && (each == 1 || each == units))
            .then_some(each)
            .ok_or_else(fault)
    };
    let scales_each = each(scale, all_scales.len())?;
    let zeros_each = each(scale + 1, all_zeros.len())?;
    let codes = codes.as_slice::<i32>()?;
    let direction = |d: usize| {
        let zeros = &all_zeros[d * zeros_each..][..zeros_each];
        let mut values = codes[d * k * units..][..k * units].to_vec();
        for (at, code) in values.iter_mut().enumerate() {
            *code -= zeros[if zeros_each == 1 { 0 } else { at % units }];
        }
        Codes { values, units, k, scales: all_scales[d * scales_each..][..scales_each].to_vec() }
    };
    Ok((0..directions).map(direction).collect())
}

fn eval_lstm(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let form = RecurrentForm::of(ctx.node)?;
    let x: &Tensor = ctx.tensor(0)?;
    let at = extents(&form, x, ctx.tensor(2)?)?;
    let (directions, units) = (form.reversed.len(), form.cell.gates() * at.hidden);
    let w = weights(ctx, 1, 8, [directions, at.input, units])?;
    let r = weights(ctx, 2, 10, [directions, at.hidden, units])?;
    let matrices: Vec<(&dyn Weights<f32>, &dyn Weights<f32>)> =
        w.iter().zip(&r).map(|(w, r)| (w as _, r as _)).collect();
    run_directions(ctx, &form, at, &matrices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    // The numbers are those of onnxruntime 1.32.
    #[test]
    fn as_onnxruntime() {
        let x = Tensor::from_slice(&[2, 1, 2], &[0.5f32, -1.0, 2.0, 0.25]).unwrap();
        let codes =
            |count: i32| (0..count).map(|at| (at * 37 % 200 - 100) as i8).collect::<Vec<_>>();
        let w = Tensor::from_slice(&[1, 2, 8], &codes(16)).unwrap();
        let case = Case::new("com.microsoft.DynamicQuantizeLSTM").tensor(&x).tensor(&w).tensor(&w);
        let case = case.none().none().none().none().none();
        let case = case.tensor(&Tensor::vector(&[0.01f32])).tensor(&Tensor::vector(&[3i8]));
        let case = case.tensor(&Tensor::vector(&[0.02f32])).tensor(&Tensor::vector(&[0i8]));
        let case = case.attr("hidden_size", 2i64).outputs(3);
        check(&case, 0, &[2, 1, 1, 2], &Y);
        check(&case, 2, &[1, 1, 2], &C);
        let bad = case.with_input(8, &Tensor::vector(&[0.01f32; 3]));
        assert!(bad.eval().is_err());
    }

    const Y: [f64; 4] = [-0.059529446, -0.15732169, -0.08742791, -0.17731506];
    const C: [f64; 2] = [-0.25259676, -0.33403155];
}
