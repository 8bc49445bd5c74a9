//! How much arithmetic an operator does: the input of every cost estimate.

use hetra_ir::Type;

use crate::context::InferCtx;

/// Arithmetic of one node; bytes follow from the types.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Scalar operations (a multiply-add counts as two).
    pub ops: f64,
    /// Multiply-adds among them, as model tables count them; 0 for other operators.
    pub macs: f64,
}

impl Work {
    /// `macs` multiply-adds.
    pub fn macs(macs: f64) -> Work {
        Work { ops: 2.0 * macs, macs }
    }

    /// `ops` operations that are not counted as multiply-adds.
    pub fn ops(ops: f64) -> Work {
        Work { ops, macs: 0.0 }
    }
}

/// Elements of a type; 0 when its shape is not known.
pub(crate) fn elements(ty: &Type) -> f64 {
    ty.known_shape().map_or(0.0, |shape| shape.iter().map(|&extent| extent as f64).product())
}

/// One operation per output element.
pub(crate) fn per_output_element(_: &InferCtx<'_>, outputs: &[Type]) -> Work {
    Work::ops(outputs.iter().map(elements).sum())
}

/// One operation per input element.
pub(crate) fn per_input_element(ctx: &InferCtx<'_>, _: &[Type]) -> Work {
    Work::ops(ctx.inputs.iter().flatten().map(elements).sum())
}

/// No arithmetic: only moves or renames.
pub(crate) fn none(_: &InferCtx<'_>, _: &[Type]) -> Work {
    Work::default()
}
