//! Functions of one number, in place where the planner allows it.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_tensor::DType;

use super::{Compile, Form, Outcome, program};
use crate::kernels::activation::Activation;
use crate::kernels::isa::isa;
use crate::kernels::math::{Func, map, map_in_place};

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
    ("com.microsoft.FastGelu", unary),
    ("Swish", unary),
    ("Relu", unary),
    ("LeakyRelu", unary),
    ("HardSwish", unary),
    ("HardSigmoid", unary),
    ("Clip", clip),
];

/// The kernel's function for a node.
fn function(node: &Node) -> Option<Func> {
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
            _ => Func::Gelu,
        },
        "com.microsoft.FastGelu" => Func::GeluTanh,
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

pub(super) fn takes(Form { node, .. }: &Form<'_>) -> bool {
    // FastGelu may add a bias first; the kernel does not.
    node.op != "com.microsoft.FastGelu" || node.input(1).is_none()
}

fn unary(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let function = function(node)?;
    program("map", &[0], move |call| apply(call, function))
}

/// Applies a function to input 0.
fn apply(call: &mut Call<'_>, function: Func) -> Outcome {
    if call.tensor(0)?.dtype() != DType::F32 {
        return Ok(None);
    }
    if let Some(mut tensor) = call.take_in_place(0) {
        map_in_place(isa(), function, tensor.as_mut_slice()?);
        return Ok(Some(vec![tensor.into()]));
    }
    let x = call.tensor(0)?.clone();
    let mut out = call.output(0, DType::F32, x.shape())?;
    map(isa(), function, x.as_slice()?, out.as_mut_slice()?);
    Ok(Some(vec![out.into()]))
}

/// Clip's bounds are inputs: read at each run, they are scalars.
fn clip(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    program("clip", &[0], |call| {
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
