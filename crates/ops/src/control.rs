//! Control flow: If, Loop, Scan.

use hetra_ir::{Dim, Type};
use hetra_tensor::{Tensor, Value};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::error::OpError;
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&IF];

static IF: OpDef = OpDef {
    name: "If",
    doc: "Runs one of two bodies.",
    onnx: &[onnx("", "If", 25)],
    outputs: Arity::at_least(1),
    kind: Kind::Control,
    infer: infer_if,
    work: none,
    eval: eval_if,
    ..OpDef::DEFAULT
};

fn eval_if(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let taken = condition(ctx.tensor(0)?)?;
    ctx.run_body(if taken { "then_branch" } else { "else_branch" }, vec![])
}

fn condition(tensor: &Tensor) -> Result<bool, OpError> {
    match tensor.as_bools()? {
        [one] => Ok(*one != 0),
        _ => Err(OpError::input(0, "one boolean", tensor.describe())),
    }
}

/// What both branches agree on; the shape where they do not is unknown.
fn infer_if(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let then = (ctx.body)(ctx.attrs().graph("then_branch")?, &[])?;
    let other = (ctx.body)(ctx.attrs().graph("else_branch")?, &[])?;
    if then.len() != other.len() || then.len() != ctx.node.outputs.len() {
        return Err(OpError::invalid("its branches give different numbers of outputs"));
    }
    Ok(then.iter().zip(&other).map(|(a, b)| meet(a, b)).collect())
}

/// What two types have in common.
pub(crate) fn meet(a: &Type, b: &Type) -> Type {
    match (a, b) {
        (Type::Tensor(x), Type::Tensor(y)) if x.dtype == y.dtype => {
            let dims = match (&x.shape, &y.shape) {
                (Some(p), Some(q)) if p.len() == q.len() => Some(
                    p.iter().zip(q).map(|(m, n)| if m == n { m.clone() } else { Dim::Unknown }),
                ),
                _ => None,
            };
            InferCtx::make(Some(x.dtype), dims.map(Iterator::collect))
        }
        (Type::Sequence(x), Type::Sequence(y)) => Type::Sequence(Box::new(meet(x, y))),
        (Type::Optional(x), Type::Optional(y)) => Type::Optional(Box::new(meet(x, y))),
        _ => Type::Unknown,
    }
}
