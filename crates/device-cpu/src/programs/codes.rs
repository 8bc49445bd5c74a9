//! Elementwise arithmetic and joining of quantised tensors, on their codes.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::{OpError, QuantProduct, QuantSum};
use hetra_tensor::{DType, Tensor};

use super::conv::scratch_fits;
use super::extents::{Join, axis_of, product};
use super::quantised::{CODES, at, inputs, scales, single, zeros};
use super::{Compile, Form, Outcome, one, program};
use hetra_cpu_base::isa::isa;
use hetra_cpu_base::scratch::lend;
use hetra_cpu_kernels::codes::{CodeOp, ROWS_MAX, code_op, look_up, plane_means, row_means};
use hetra_cpu_kernels::layout::{Blocks, copy_blocks};
use hetra_cpu_kernels::quant::{Scales, dequantize_linear, multiply};
use hetra_cpu_rows::norm::softmax;

pub(super) static OPS: &[(&str, Compile)] = &[
    ("com.microsoft.QLinearAdd", |_, _| program("binary int8", |call| run(call, false))),
    ("com.microsoft.QLinearMul", |_, _| program("binary int8", |call| run(call, true))),
    ("com.microsoft.QLinearConcat", compile_concat),
    ("com.microsoft.QLinearGlobalAveragePool", |_, _| program("average int8", average)),
    ("hetra.QLinearGlobalAveragePoolLast", |_, _| {
        program("average int8 nhwc", |call| average_by(call, true))
    }),
    ("com.microsoft.QLinearSoftmax", compile_softmax),
    ("hetra.CodeTable", |_, _| program("table int8", entries)),
];

pub(super) fn takes(form: &Form<'_>) -> bool {
    let node = form.node;
    let codes = |index: usize| form.may_be(index, CODES);
    let shape = |index: usize| form.ty(node.input(index)).known_shape();
    match node.op.as_str() {
        "com.microsoft.QLinearConcat" => codes(2) && node.attrs.has("axis"),
        "hetra.CodeTable" => codes(0) && codes(1),
        "com.microsoft.QLinearSoftmax" => codes(0) && node.attrs.has("opset"),
        "com.microsoft.QLinearGlobalAveragePool" | "hetra.QLinearGlobalAveragePoolLast" => {
            codes(0) && node.attrs.flag_or("channels_last", false).is_ok_and(|last| !last)
        }
        _ => {
            let fits = |(a, b): (Vec<usize>, Vec<usize>)| {
                serves(&a, &b).is_some() || serves(&b, &a).is_some()
            };
            codes(0) && codes(3) && shape(0).zip(shape(3)).is_none_or(fits)
        }
    }
}

/// Inputs: codes, and what each of them becomes.
fn entries(call: &mut Call<'_>) -> Outcome {
    let (x, table) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let Ok(entries) = <&[u8; 256]>::try_from(table.bytes()) else { return Ok(None) };
    if !CODES.contains(&x.dtype()) || !CODES.contains(&table.dtype()) || table.rank() != 1 {
        return Ok(None);
    }
    let mut out = call.output(0, table.dtype(), x.shape())?;
    look_up(isa(), entries, x.bytes(), out.bytes_mut()?);
    one(out)
}

/// Scale and zero point, of codes of this type, at `index` and `index + 1`.
fn params(inputs: &[Option<Tensor>], index: usize, dtype: DType) -> Option<(f32, i32)> {
    let scale = at(inputs, index).and_then(scales).and_then(single)?;
    Some((scale, zeros(at(inputs, index + 1), dtype).as_deref().and_then(single)?))
}

fn run(call: &mut Call<'_>, product: bool) -> Outcome {
    let inputs = inputs(call);
    let dtype = call.tensor(0)?.dtype();
    let all = [1, 4, 6].map(|index| params(&inputs, index, dtype));
    let [Some(of_a), Some(of_b), Some(of_y)] = all else { return Ok(None) };
    let op = if product {
        let QuantProduct { factor, zeros } = QuantProduct::new(of_a, of_b, of_y);
        CodeOp::Product { factor, zeros }
    } else {
        let QuantSum { ratio_a, ratio_b, fixed } = QuantSum::new(of_a, of_b, of_y);
        CodeOp::Sum { ratio_a, ratio_b, fixed }
    };
    on_codes(call, op)
}

/// If `few` broadcasts to `many` by repeating stretches of codes: how long these are.
fn serves(few: &[usize], many: &[usize]) -> Option<usize> {
    let differs = |at: &usize| few[*at] != many[*at];
    let first = (0..few.len().min(many.len())).find(differs);
    if few.len() != many.len() {
        return None;
    }
    let Some(first) = first else { return Some(1) };
    // Axes that are repeated, then those that are as long in both.
    let same = (first..few.len()).rev().take_while(|at| few[*at] == many[*at]).count();
    let last = few.len() - same;
    few[first..last].iter().all(|&extent| extent == 1).then(|| product(&few[last..]))
}

fn on_codes(call: &mut Call<'_>, op: CodeOp) -> Outcome {
    let (a, b) = (call.tensor(0)?.clone(), call.tensor(3)?.clone());
    let swapped = a.len() < b.len();
    let (many, few) = if swapped { (&b, &a) } else { (&a, &b) };
    let codes = a.dtype() == b.dtype() && CODES.contains(&a.dtype());
    let Some(inner) = serves(few.shape(), many.shape()).filter(|_| codes && !many.is_empty())
    else {
        return Ok(None);
    };
    let mut out = call.output(0, a.dtype(), many.shape())?;
    match a.dtype() {
        DType::U8 => {
            let (many, few) = (many.as_slice::<u8>()?, few.as_slice::<u8>()?);
            code_op(isa(), op, many, (few, inner), swapped, out.as_mut_slice()?);
        }
        _ => {
            let (many, few) = (many.as_slice::<i8>()?, few.as_slice::<i8>()?);
            code_op(isa(), op, many, (few, inner), swapped, out.as_mut_slice()?);
        }
    }
    one(out)
}

/// Inputs: scale and zero point of the output, then a tensor, its scale and zero point each.
fn compile_concat(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let axis = *node.attrs.int("axis").ok()?;
    program("move int8", move |call| concat(call, axis))
}

/// What each code of a part becomes in the steps of the output.
fn table(from: (f32, i32), to: (f32, i32), dtype: DType) -> [u8; 256] {
    let signed = dtype == DType::I8;
    std::array::from_fn(|bits| {
        let code = if signed { i32::from(bits as u8 as i8) } else { bits as i32 };
        if from == to {
            return bits as u8;
        }
        let real = (code - from.1) as f32 * from.0;
        let code = ((real / to.0).round_ties_even() as i64).saturating_add(i64::from(to.1));
        if signed { code.clamp(-128, 127) as i8 as u8 } else { code.clamp(0, 255) as u8 }
    })
}

fn concat(call: &mut Call<'_>, axis: i64) -> Outcome {
    let inputs = inputs(call);
    let dtype = call.tensor(1)?.dtype();
    let Some(to) = params(&inputs, 0, dtype) else { return Ok(None) };
    let starts: Vec<usize> = (2..inputs.len()).step_by(3).collect();
    let parts: Vec<Tensor> =
        starts.iter().map(|&i| call.tensor(i).cloned()).collect::<Result<_, OpError>>()?;
    let Some(join) = Join::of(&parts, axis) else { return Ok(None) };
    if !CODES.contains(&dtype) || parts[0].dtype() != dtype {
        return Ok(None);
    }
    let Some(from) =
        starts.iter().map(|&i| params(&inputs, i + 1, dtype)).collect::<Option<Vec<_>>>()
    else {
        return Ok(None);
    };
    let mut out = call.output(0, dtype, &join.shape)?;
    let mut offset = 0;
    for (part, from) in parts.iter().zip(from) {
        let len = join.part(part);
        let blocks = Blocks { count: join.count, len, src: (0, len), dst: (offset, join.block()) };
        if from == to {
            copy_blocks::<u8>(part.bytes(), out.bytes_mut()?, &blocks);
        } else {
            let table = table(from, to, dtype);
            let codes: Vec<u8> = part.bytes().iter().map(|&code| table[code as usize]).collect();
            copy_blocks::<u8>(&codes, out.bytes_mut()?, &blocks);
        }
        offset += len;
    }
    one(out)
}

fn average(call: &mut Call<'_>) -> Outcome {
    average_by(call, false)
}

/// Means of planes, or of rows where the channels are last. Inputs: x, its scale and zero point,
/// those of the output.
fn average_by(call: &mut Call<'_>, last: bool) -> Outcome {
    let inputs = inputs(call);
    let x = call.tensor(0)?.clone();
    let (Some(from), Some(to)) = (params(&inputs, 1, x.dtype()), params(&inputs, 3, x.dtype()))
    else {
        return Ok(None);
    };
    let (batch, channels, spatial) = match (x.shape(), last) {
        ([batch, channels, spatial @ ..], false) => (*batch, *channels, spatial),
        ([batch, spatial @ .., channels], true) => (*batch, *channels, spatial),
        _ => return Ok(None),
    };
    let same = at(&inputs, 4).is_some_and(|zero| zero.dtype() == x.dtype());
    let codes = same && CODES.contains(&x.dtype());
    let each = product(spatial);
    let asked = call.node.attrs.flag_or("channels_last", false)?;
    if asked || !codes || spatial.is_empty() || x.is_empty() || (last && each > ROWS_MAX) {
        return Ok(None);
    }
    let mut shape = vec![1; x.rank()];
    (shape[0], shape[if last { x.rank() - 1 } else { 1 }]) = (batch, channels);
    // One factor for the mean and both scales, as in the reference.
    let factor = from.0 / (to.0 * each as f32);
    let mut out = call.output(0, x.dtype(), &shape)?;
    let size = [batch, each, channels];
    match (x.dtype(), last) {
        (DType::U8, false) => {
            plane_means::<u8>(isa(), x.as_slice()?, from.1, factor, to.1, out.as_mut_slice()?)
        }
        (_, false) => {
            plane_means::<i8>(isa(), x.as_slice()?, from.1, factor, to.1, out.as_mut_slice()?)
        }
        (DType::U8, true) => {
            let y = out.as_mut_slice()?;
            row_means::<u8>(isa(), x.as_slice()?, size, from.1, (factor, to.1), y)
        }
        (_, true) => {
            let y = out.as_mut_slice()?;
            row_means::<i8>(isa(), x.as_slice()?, size, from.1, (factor, to.1), y)
        }
    }
    one(out)
}

fn compile_softmax(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let axis = node.attrs.int_or("axis", -1).ok()?;
    let joined = *node.attrs.int("opset").ok()? < 13;
    program("softmax int8", move |call| softmax_codes(call, axis, joined))
}

/// `joined`: all axes from the named one on are one, as before opset 13.
fn softmax_codes(call: &mut Call<'_>, axis: i64, joined: bool) -> Outcome {
    let inputs = inputs(call);
    let x = call.tensor(0)?.clone();
    let (Some(from), Some(to)) = (params(&inputs, 1, x.dtype()), params(&inputs, 3, x.dtype()))
    else {
        return Ok(None);
    };
    let same = at(&inputs, 4).is_some_and(|zero| zero.dtype() == x.dtype());
    let codes = same && CODES.contains(&x.dtype());
    let Some(axis) = axis_of(axis, x.rank()).filter(|_| codes && !x.is_empty()) else {
        return Ok(None);
    };
    let after = &x.shape()[axis + 1..];
    let sizes = match joined {
        true => [product(&x.shape()[..axis]), product(&x.shape()[axis..]), 1],
        false => [product(&x.shape()[..axis]), x.shape()[axis], product(after)],
    };
    if !scratch_fits(&[2, x.len()]) {
        return Ok(None);
    }
    let mut reals = lend(x.len());
    let mut chances = lend(x.len());
    let spread = Scales { scale: &[from.0], zero: &[from.1], shape: [1, 1, x.len()] };
    match x.dtype() {
        DType::U8 => dequantize_linear::<u8>(isa(), x.as_slice()?, &spread, &mut reals),
        _ => dequantize_linear::<i8>(isa(), x.as_slice()?, &spread, &mut reals),
    }
    softmax(isa(), &reals, &mut chances, sizes, false);
    // A whole number of steps makes 1, as in the reference.
    let steps = (1.0 / to.0).floor();
    let mut out = call.output(0, x.dtype(), x.shape())?;
    match x.dtype() {
        DType::U8 => multiply::<u8>(isa(), &chances, steps, to.1, out.as_mut_slice()?),
        _ => multiply::<i8>(isa(), &chances, steps, to.1, out.as_mut_slice()?),
    }
    one(out)
}
