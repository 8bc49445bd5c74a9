//! Functions of one number, in place where the planner allows it.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::{Node, Type};
use hetra_tensor::DType;

use super::{Compile, Form, Outcome, one, program, program_over};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_base::math::{Func, map, map_in_place, map_rows};

pub(super) static OPS: &[(&str, Compile)] = &[
    ("Exp", unary),
    ("Log", unary),
    ("Tanh", unary),
    ("Sigmoid", unary),
    ("Erf", unary),
    ("Sqrt", unary),
    ("Reciprocal", unary),
    ("Abs", unary),
    ("Neg", unary),
    ("Round", unary),
    ("Floor", unary),
    ("Ceil", unary),
    ("Softplus", unary),
    ("Mish", unary),
    ("Elu", unary),
    ("Gelu", unary),
    ("Sin", unary),
    ("Cos", unary),
    ("Atan", unary),
    ("Softsign", unary),
    ("ThresholdedRelu", unary),
    ("com.microsoft.QuickGelu", unary),
    ("com.microsoft.BiasGelu", with_bias),
    ("com.microsoft.FastGelu", with_bias),
    ("Pow", power),
    ("Swish", unary),
    ("Relu", unary),
    ("LeakyRelu", unary),
    ("HardSwish", unary),
    ("HardSigmoid", unary),
    ("Clip", clip),
];

/// The kernel's function for a node.
pub(super) fn function(node: &Node) -> Option<Func> {
    let float = |name: &str, default: f32| node.attrs.float_or(name, default).ok();
    Some(match node.op.as_str() {
        "Exp" => Func::Exp,
        "Log" => Func::Log,
        "Tanh" => Func::Tanh,
        "Sigmoid" => Func::Sigmoid,
        "Erf" => Func::Erf,
        "Sqrt" => Func::Sqrt,
        "Reciprocal" => Func::Reciprocal,
        "Abs" => Func::Abs,
        "Neg" => Func::Neg,
        "Round" => Func::Round,
        "Floor" => Func::Floor,
        "Ceil" => Func::Ceil,
        "Softplus" => Func::Softplus,
        "Mish" => Func::Mish,
        "Elu" => Func::Elu(float("alpha", 1.0)?),
        "Gelu" => match node.attrs.str_or("approximate", "none").ok()? {
            "tanh" => Func::GeluTanh,
            "none" => Func::Gelu,
            _ => return None,
        },
        "com.microsoft.FastGelu" => Func::GeluTanh,
        "com.microsoft.BiasGelu" => Func::Gelu,
        "com.microsoft.QuickGelu" => Func::Swish(float("alpha", 1.702)?),
        "Sin" => Func::Sin,
        "Cos" => Func::Cos,
        "Atan" => Func::Atan,
        "Softsign" => Func::Softsign,
        "ThresholdedRelu" => Func::Threshold(float("alpha", 1.0)?),
        "Swish" => Func::Swish(float("alpha", 1.0)?),
        "Relu" => Func::Act(Activation::Relu),
        "LeakyRelu" => Func::Act(Activation::LeakyRelu(float("alpha", 0.01)?)),
        "HardSwish" => Func::Act(Activation::HardSwish),
        "HardSigmoid" => {
            Func::Act(Activation::HardSigmoid(float("alpha", 0.2)?, float("beta", 0.5)?))
        }
        _ => return None,
    })
}

pub(super) fn takes(form: &Form<'_>) -> bool {
    let Form { part, node, .. } = form;
    match node.op.as_str() {
        "Pow" => product(part, node).is_some(),
        // A bias is a row.
        "com.microsoft.BiasGelu" | "com.microsoft.FastGelu" => {
            form.rank(1).is_none_or(|rank| rank == 1) && form.rank(0) != Some(0)
        }
        _ => true,
    }
}

/// Whether the output is written over input `index`: the one that functions are of.
fn in_place(index: usize, types: &[Option<&Type>]) -> bool {
    let ty = types.get(index).copied().flatten();
    index == 0 && ty.and_then(Type::dtype) == Some(DType::F32)
}

fn unary(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let function = function(node)?;
    program_over("map", in_place, move |call| apply(call, function))
}

/// A function of input 0 plus, if there is an input 1, a row.
fn with_bias(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let function = function(node)?;
    if node.input(1).is_none() {
        return unary(part, node);
    }
    program("map", move |call| {
        let (x, bias) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
        let floats = x.dtype() == DType::F32 && bias.dtype() == DType::F32;
        let fits = bias.rank() == 1 && x.shape().last() == bias.shape().first();
        if !floats || !fits || x.is_empty() {
            return Ok(None);
        }
        let mut out = call.output(0, DType::F32, x.shape())?;
        map_rows(isa(), function, x.as_slice()?, bias.as_slice()?, out.as_mut_slice()?);
        one(out)
    })
}

/// The function that a power with this constant exponent is, if it is a product.
fn product(part: &Part<'_>, node: &Node) -> Option<Func> {
    let exponent = part.constant(node, 1).filter(|exponent| exponent.rank() == 0)?;
    match exponent.as_slice::<f32>() {
        Ok(&[2.0]) => Some(Func::Square),
        Ok(&[3.0]) => Some(Func::Cube),
        _ => None,
    }
}

fn power(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let function = product(part, node)?;
    program_over("map", in_place, move |call| apply(call, function))
}

/// Applies a function to input 0.
fn apply(call: &mut Call<'_>, function: Func) -> Outcome {
    if call.tensor(0)?.dtype() != DType::F32 {
        return Ok(None);
    }
    if let Some(mut tensor) = call.take_in_place(0) {
        map_in_place(isa(), function, tensor.as_mut_slice()?);
        return one(tensor);
    }
    let x = call.tensor(0)?.clone();
    let mut out = call.output(0, DType::F32, x.shape())?;
    map(isa(), function, x.as_slice()?, out.as_mut_slice()?);
    one(out)
}

/// Clip's bounds are inputs: read at each run, they are scalars.
fn clip(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    program_over("clip", in_place, |call| {
        let mut bounds = [f32::NEG_INFINITY, f32::INFINITY];
        for (index, bound) in bounds.iter_mut().enumerate() {
            if let Some(tensor) = call.tensor_opt(index + 1) {
                match tensor.as_slice::<f32>() {
                    Ok(&[value]) if !value.is_nan() => *bound = value,
                    _ => return Ok(None),
                }
            }
        }
        apply(call, Func::Act(Activation::Clip(bounds[0], bounds[1])))
    })
}
