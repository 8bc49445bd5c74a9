//! A part of a graph that one device does.

use hetra_ir::Type;
use hetra_tensor::Value;

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef};
use crate::error::OpError;
use crate::work::none;

/// The operator's name.
pub const PART: &str = "hetra.Part";
/// Its attribute that holds the nodes.
pub const PART_BODY: &str = "body";
/// Its attribute that names the device.
pub const PART_DEVICE: &str = "device";

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&ROW];

static ROW: OpDef = OpDef {
    name: PART,
    doc: "Runs `body` on `device`: its inputs are the node's, in order, and so are its outputs. A \
          placed graph is made of such nodes.",
    onnx: &[],
    inputs: Arity::at_least(0),
    outputs: Arity::at_least(1),
    kind: Kind::Control,
    infer,
    work: none,
    eval,
    ..OpDef::DEFAULT
};

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let inputs = (0..ctx.inputs.len()).map(|index| ctx.value(index).cloned());
    ctx.run_body(PART_BODY, inputs.collect::<Result<_, _>>()?)
}

fn infer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let types = (0..ctx.node.inputs.len()).map(|index| ctx.ty(index).cloned());
    (ctx.body)(ctx.attrs().graph(PART_BODY)?, &types.collect::<Result<Vec<Type>, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hetra_ir::Builder;
    use hetra_tensor::{DType, Tensor};

    use super::*;
    use crate::interpret;

    #[test]
    fn a_part_is_its_body() {
        let mut body = Builder::new("body");
        let x = body.input("x", DType::F32, vec![2usize.into()]);
        let sum = body.op("Add", &[x, x]);
        body.output(sum);
        let mut graph = Builder::new("graph");
        let x = graph.input("x", DType::F32, vec![2usize.into()]);
        let part = hetra_ir::Node::new(PART, &[x], &[]).with(PART_BODY, Arc::new(body.finish()));
        let out = graph.node(part.with(PART_DEVICE, "cpu"), 1)[0];
        graph.output(out);
        let x = Tensor::vector(&[1f32, 2.0]);
        let got = interpret(&graph.finish(), vec![x.into()], &|_| None).unwrap();
        assert_eq!(got, [Value::from(Tensor::vector(&[2f32, 4.0]))]);
    }
}
