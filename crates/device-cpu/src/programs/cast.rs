//! Elements as another dtype, for the pairs that have a direct loop.

use std::sync::Arc;

use hetra_device::{Part, Program};
use hetra_ir::Node;
use hetra_tensor::{DType, cast_into, casts_directly};

use super::{Compile, Form, one, program};

pub(super) static OPS: &[(&str, Compile)] = &[("Cast", compile)];

fn target(node: &Node) -> Option<DType> {
    DType::from_onnx(i32::try_from(*node.attrs.int("to").ok()?).ok()?)
}

pub(super) fn takes(form: &Form<'_>) -> bool {
    let from = form.ty(form.node.input(0)).dtype();
    // The same dtype costs the reference nothing.
    from.zip(target(form.node)).is_some_and(|(from, to)| casts_directly(from, to))
}

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let to = target(node)?;
    program("cast", move |call| {
        let x = call.tensor(0)?.clone();
        let mut out = call.output(0, to, x.shape())?;
        match cast_into(&x, &mut out)? {
            true => one(out),
            false => Ok(None),
        }
    })
}
