//! `quantize(op(dequantize(a), dequantize(b))) == qlinear_op(a, b)`: an operator between
//! dequantised inputs and a quantised output runs on the integers.

use hetra_ir::{Node, ValueId};
use hetra_ops::resolve_axis;
use hetra_tensor::{DType, Tensor};

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static QUANT: Pass = Pass {
    name: "quant",
    doc: "Makes QLinearConv, QLinearMatMul, QGemm, QLinearAdd and their like out of an operator \
          between DequantizeLinear and QuantizeLinear.",
    run: |ed| ed.sweep(quantise),
};

/// How far the scale of a bias may lie from the product of the scales, relatively.
const BIAS_SCALE_TOLERANCE: f64 = 1e-4;

/// Integers with one scale and one zero point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantised {
    /// The integers; for a quantiser, its output.
    pub(crate) codes: ValueId,
    pub(crate) dtype: DType,
    pub(crate) scale: f32,
    pub(crate) zero: i64,
}

/// Integers that a DequantizeLinear makes real, with constant parameters.
struct Dequantised {
    codes: ValueId,
    dtype: DType,
    scale: Tensor,
    zero: Option<Tensor>,
    axis: i64,
}

fn dequantised(ed: &Editor<'_>, real: ValueId) -> Option<Dequantised> {
    let at = ed.made_by(real, "DequantizeLinear")?;
    let node = ed.node(at);
    let codes = node.input(0)?;
    let scale = ed.constant(node.input(1)?)?.clone();
    let zero = match node.input(2) {
        Some(zero) => Some(ed.constant(zero)?.clone()),
        None => None,
    };
    let blocks = node.attrs.int_or("block_size", 0).ok()? != 0;
    let plain = scale.dtype() == DType::F32 && scale.rank() <= 1 && !blocks;
    let axis = node.attrs.int_or("axis", 1).ok()?;
    let dtype = ed.dtype(codes)?;
    let real = ed.dtype(real)? == DType::F32;
    (plain && real).then_some(Dequantised { codes, dtype, scale, zero, axis })
}

/// A dequantised value with one scale, of 8-bit integers.
pub(crate) fn single(ed: &Editor<'_>, real: ValueId) -> Option<Quantised> {
    let found = dequantised(ed, real)?;
    let zero = match &found.zero {
        Some(zero) if zero.len() == 1 => hetra_tensor::to_i64(zero).ok()?[0],
        Some(_) => return None,
        None => 0,
    };
    let fits = found.scale.len() == 1 && is_byte(found.dtype);
    let scale = *found.scale.as_slice::<f32>().ok()?.first()?;
    fits.then_some(Quantised { codes: found.codes, dtype: found.dtype, scale, zero })
}

fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::I8)
}

/// What a QuantizeLinear node makes, if it has one constant scale and makes 8-bit integers.
pub(crate) fn quantiser(ed: &Editor<'_>, at: usize) -> Option<Quantised> {
    if !ed.is(at, "QuantizeLinear") {
        return None;
    }
    let node = ed.node(at);
    let codes = node.output(0)?;
    let dtype = ed.dtype(codes).filter(|&dtype| is_byte(dtype))?;
    let scale = ed.constant(node.input(1)?)?;
    let scale = match scale.as_slice::<f32>().ok()? {
        [scale] => *scale,
        _ => return None,
    };
    let zero = match node.input(2) {
        None => 0,
        Some(zero) => match ed.ints(zero)?[..] {
            [zero] => zero,
            _ => return None,
        },
    };
    let real = ed.dtype(node.input(0)?)? == DType::F32;
    (real && node.attrs.int_or("block_size", 0).ok()? == 0).then_some(Quantised {
        codes,
        dtype,
        scale,
        zero,
    })
}

/// Adds scale and zero point as scalars.
fn params(ed: &mut Editor<'_>, of: Quantised) -> Option<[Option<ValueId>; 2]> {
    let zero = hetra_tensor::from_i64(of.dtype, &[], &[of.zero]).ok()?;
    let scale = ed.add_constant("scale", Tensor::scalar(of.scale));
    Some([Some(scale), Some(ed.add_constant("zero_point", zero))])
}

/// Codes, scale and zero point of each input in turn.
fn arguments(ed: &mut Editor<'_>, inputs: &[Quantised]) -> Option<Vec<Option<ValueId>>> {
    let mut arguments = Vec::new();
    for &input in inputs {
        arguments.push(Some(input.codes));
        arguments.extend(params(ed, input)?);
    }
    Some(arguments)
}

fn quantise(ed: &mut Editor<'_>, at: usize) -> bool {
    let Some(to) = quantiser(ed, at) else { return false };
    let Some(real) = ed.input(at, 0) else { return false };
    let Some(op) = ed.producer(real) else { return false };
    let node = ed.node(op).clone();
    let Some(row) = ROWS.iter().find(|row| row.op == node.op) else { return false };
    let what = format!("{} between DequantizeLinear and QuantizeLinear", node.op);
    let result = match ed.kept(real) {
        Some(why) => Err(why),
        None => (row.make)(ed, &node, to),
    };
    match result {
        Ok((inputs, extra)) => {
            let mut fused = Node { inputs, op: row.quantised.to_string(), ..node };
            fused.version = u32::MAX;
            for (name, value) in extra {
                fused.attrs.set(name, value);
            }
            ed.fuse(at, fused, &[op], &what)
        }
        Err(why) => {
            ed.miss(at, &format!("{what}: {why}"));
            false
        }
    }
}

/// Inputs of the quantised node, and attributes that are added to those of the float one.
type Made = Result<(Vec<Option<ValueId>>, Vec<(&'static str, i64)>), String>;

struct Row {
    op: &'static str,
    quantised: &'static str,
    make: fn(&mut Editor<'_>, &Node, Quantised) -> Made,
}

const ROWS: &[Row] = &[
    Row { op: "Conv", quantised: "QLinearConv", make: conv },
    Row { op: "MatMul", quantised: "QLinearMatMul", make: matmul },
    Row { op: "Gemm", quantised: "com.microsoft.QGemm", make: gemm },
    Row { op: "Add", quantised: "com.microsoft.QLinearAdd", make: alike },
    Row { op: "Mul", quantised: "com.microsoft.QLinearMul", make: alike },
    Row { op: "Sigmoid", quantised: "com.microsoft.QLinearSigmoid", make: alike },
    Row { op: "LeakyRelu", quantised: "com.microsoft.QLinearLeakyRelu", make: alike },
    Row { op: "AveragePool", quantised: "com.microsoft.QLinearAveragePool", make: alike },
    Row {
        op: "GlobalAveragePool",
        quantised: "com.microsoft.QLinearGlobalAveragePool",
        make: alike,
    },
    Row { op: "Concat", quantised: "com.microsoft.QLinearConcat", make: concat },
    Row { op: "Softmax", quantised: "com.microsoft.QLinearSoftmax", make: softmax },
];

fn singles(ed: &Editor<'_>, node: &Node) -> Result<Vec<Quantised>, String> {
    let one = |(index, input): (usize, &Option<ValueId>)| {
        let found = input.and_then(|real| single(ed, real));
        found.ok_or_else(|| format!("input {index} is not dequantised with one constant scale"))
    };
    node.inputs.iter().enumerate().map(one).collect()
}

fn no_room() -> String {
    "a zero point does not fit its dtype".to_string()
}

/// All inputs and the output of one dtype.
fn alike(ed: &mut Editor<'_>, node: &Node, to: Quantised) -> Made {
    let inputs = singles(ed, node)?;
    if inputs.iter().any(|input| input.dtype != to.dtype) {
        return Err("inputs and output are not of one dtype".to_string());
    }
    let mut arguments = arguments(ed, &inputs).ok_or_else(no_room)?;
    arguments.extend(params(ed, to).ok_or_else(no_room)?);
    Ok((arguments, vec![]))
}

fn concat(ed: &mut Editor<'_>, node: &Node, to: Quantised) -> Made {
    let (mut arguments, extra) = alike(ed, node, to)?;
    // The parameters of the output come first.
    arguments.rotate_right(2);
    Ok((arguments, extra))
}

fn softmax(ed: &mut Editor<'_>, node: &Node, to: Quantised) -> Made {
    if node.version < 13 {
        return Err("it is of an opset before 13".to_string());
    }
    let axis = node.attrs.int_or("axis", -1).map_err(|error| error.to_string())?;
    let (arguments, _) = alike(ed, node, to)?;
    Ok((arguments, vec![("axis", axis), ("opset", 13)]))
}

fn conv(ed: &mut Editor<'_>, node: &Node, to: Quantised) -> Made {
    let (x, weights, bias) = linear(ed, node, Some(0))?;
    let mut arguments = arguments(ed, &[x]).ok_or_else(no_room)?;
    arguments.extend(weights);
    arguments.extend(params(ed, to).ok_or_else(no_room)?);
    arguments.extend(bias.map(Some));
    Ok((arguments, vec![]))
}

fn matmul(ed: &mut Editor<'_>, node: &Node, to: Quantised) -> Made {
    let columns = node.input(1).and_then(|b| ed.rank(b)).filter(|&rank| rank == 2).map(|_| 1);
    let (a, b, _) = linear(ed, node, columns)?;
    let mut arguments = arguments(ed, &[a]).ok_or_else(no_room)?;
    arguments.extend(b);
    arguments.extend(params(ed, to).ok_or_else(no_room)?);
    Ok((arguments, vec![]))
}

fn gemm(ed: &mut Editor<'_>, node: &Node, to: Quantised) -> Made {
    let factor = |name: &str| node.attrs.float_or(name, 1.0).is_ok_and(|factor| factor == 1.0);
    if !factor("alpha") || !factor("beta") {
        return Err("alpha or beta is not 1".to_string());
    }
    let transposed = node.attrs.flag_or("transB", false).map_err(|error| error.to_string())?;
    let (a, b, bias) = linear(ed, node, Some(usize::from(!transposed)))?;
    let mut arguments = arguments(ed, &[a]).ok_or_else(no_room)?;
    arguments.extend(b);
    arguments.push(bias);
    arguments.extend(params(ed, to).ok_or_else(no_room)?);
    Ok((arguments, vec![]))
}

/// First input, arguments of the weights, and bias of a product. The weights may have a scale for
/// each output channel, which lies on `channel_axis`; the bias has their scales times the input's.
#[allow(clippy::type_complexity, reason = "three results that only this file uses")]
fn linear(
    ed: &mut Editor<'_>,
    node: &Node,
    channel_axis: Option<usize>,
) -> Result<(Quantised, [Option<ValueId>; 3], Option<ValueId>), String> {
    let of = |ed: &Editor<'_>, index: usize| node.input(index).and_then(|v| dequantised(ed, v));
    let x = node.input(0).and_then(|real| single(ed, real));
    let x = x.ok_or("its input is not dequantised with one constant scale")?;
    let weights = of(ed, 1).filter(|weights| is_byte(weights.dtype));
    let weights = weights.ok_or("its weights are not dequantised from 8 bits")?;
    let rank = node.input(1).and_then(|value| ed.rank(value)).unwrap_or(0);
    let axis = resolve_axis(weights.axis, rank).ok();
    if weights.scale.len() != 1 && (axis.is_none() || axis != channel_axis) {
        return Err("the scales of its weights are not those of output channels".to_string());
    }
    let bias = match node.input(2) {
        None => None,
        Some(_) => {
            let bias = of(ed, 2).filter(|bias| bias.dtype == DType::I32);
            let bias = bias.ok_or("its bias is not dequantised from i32")?;
            fits_bias(&x, &weights, &bias)?;
            Some(bias.codes)
        }
    };
    let scale = as_scalar(&weights.scale);
    let zero = match &weights.zero {
        Some(zero) => as_scalar(zero),
        None => Tensor::zeros(weights.dtype, scale.shape()).map_err(|error| error.to_string())?,
    };
    let scale = ed.add_constant("scale", scale);
    let zero = ed.add_constant("zero_point", zero);
    Ok((x, [Some(weights.codes), Some(scale), Some(zero)], bias))
}

/// One number as a scalar; more as they are.
fn as_scalar(tensor: &Tensor) -> Tensor {
    tensor.reshape(&[]).unwrap_or_else(|_| tensor.clone())
}

fn fits_bias(x: &Quantised, weights: &Dequantised, bias: &Dequantised) -> Result<(), String> {
    let numbers = |tensor: &Tensor| hetra_tensor::to_f64(tensor).unwrap_or_default();
    let (of_weights, of_bias) = (numbers(&weights.scale), numbers(&bias.scale));
    let no_zero = bias.zero.as_ref().is_none_or(|zero| numbers(zero).iter().all(|&z| z == 0.0));
    let pick = |list: &[f64], index: usize| list.get(index).or(list.first()).copied();
    let close = (0..of_weights.len().max(of_bias.len())).all(|channel| {
        match (pick(&of_weights, channel), pick(&of_bias, channel)) {
            (Some(w), Some(b)) => {
                let wanted = w * f64::from(x.scale);
                (b - wanted).abs() <= BIAS_SCALE_TOLERANCE * wanted.abs()
            }
            _ => false,
        }
    });
    match no_zero && close {
        true => Ok(()),
        false => Err("the scale of its bias is not that of its products".to_string()),
    }
}
