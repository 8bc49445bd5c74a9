//! Operators of the elements at one place, done together: values between them need no memory.

use hetra_ir::Type;

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, OpDef};
use crate::error::OpError;
use crate::work::Work;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&FUSED];

static FUSED: OpDef = OpDef {
    name: "hetra.Fused",
    doc: "A `body` of elementwise operators of arrays of one shape and of single numbers, at most \
          one reduction being behind them.",
    inputs: Arity::at_least(1),
    infer,
    work,
    eval,
    ..OpDef::DEFAULT
};

fn infer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let types: Option<Vec<Type>> = (0..ctx.len()).map(|index| ctx.ty_opt(index).cloned()).collect();
    let types = types.ok_or(OpError::MissingInput { index: 0 })?;
    let outputs = (ctx.body)(ctx.attrs().graph("body")?, &types)?;
    match outputs.len() {
        1 => Ok(outputs),
        count => Err(OpError::invalid(format!("its body gives {count} outputs, wanted 1"))),
    }
}

fn work(ctx: &InferCtx<'_>, _: &[Type]) -> Work {
    let count = (0..ctx.len()).filter_map(|index| ctx.ty_opt(index)).map(crate::work::elements);
    let nodes = ctx.attrs().graph("body").map_or(1, |body| body.nodes.len());
    Work::ops(count.fold(0.0, f64::max) * nodes as f64)
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<hetra_tensor::Value>, OpError> {
    let inputs: Option<Vec<_>> = ctx.inputs.iter().cloned().collect();
    let inputs = inputs.ok_or(OpError::MissingInput { index: 0 })?;
    let outputs = ctx.run_body("body", inputs)?;
    match outputs.len() {
        1 => Ok(outputs),
        count => Err(OpError::invalid(format!("its body gives {count} outputs, wanted 1"))),
    }
}

#[cfg(test)]
mod tests {
    use hetra_ir::{Builder, Dim};
    use hetra_tensor::{DType, Tensor};
    use std::sync::Arc;

    use crate::case::{node, outputs};

    #[test]
    fn the_body_is_what_it_does() {
        let mut body = Builder::new("body");
        let x = body.input("x", DType::F32, vec![Dim::Unknown]);
        let y = body.input("y", DType::F32, vec![]);
        let product = body.op("Mul", &[x, y]);
        let sum = body.op("Add", &[product, x]);
        body.output(sum);
        let fused = node("hetra.Fused", 1).with("body", Arc::new(body.finish()));
        let inputs = [Tensor::vector(&[1f32, 2.0]), Tensor::scalar(3f32)];
        let def = crate::find("hetra.Fused").unwrap();
        let values: Vec<_> = inputs.iter().map(|tensor| Some(tensor.clone().into())).collect();
        let runner = &crate::Interpreter;
        let ctx = crate::EvalCtx { node: &fused, inputs: &values, outer: &|_| None, runner };
        let got = (def.eval)(&ctx).unwrap();
        assert_eq!(got[0].as_tensor(), Some(&Tensor::vector(&[4f32, 8.0])));
        // Without its body it is nothing.
        assert!(outputs(&node("hetra.Fused", 1), &inputs).is_err());
    }
}
