//! Slices of several tensors along an axis, as passes make it of chains of moves: a channel shuffle
//! is one such step.

use hetra_ir::{Dim, Type};
use hetra_tensor::{Tensor, Value};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::def::{Arity, Kind, OpDef};
use crate::error::OpError;
use crate::gather::{resolve_indices, take};
use crate::movement::{concat, infer_concat};
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&GATHER_CONCAT];

static GATHER_CONCAT: OpDef = OpDef {
    name: "hetra.GatherConcat",
    doc: "The slices at `indices` along `axis` of all inputs joined along it.",
    inputs: Arity::at_least(1),
    kind: Kind::Move,
    infer,
    work: none,
    eval,
    ..OpDef::DEFAULT
};

fn infer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let indices = ctx.attrs().ints("indices")?;
    let mut types = infer_concat(ctx)?;
    if let Some(ty) = types.first_mut()
        && let (Some(dtype), Some(dims)) = (ty.dtype(), ty.dims())
    {
        let mut dims = dims.to_vec();
        let axis = resolve_axis(*ctx.attrs().int("axis")?, dims.len())?;
        if let Some(extent) = dims[axis].known() {
            resolve_indices(indices, extent, 0)?;
        }
        dims[axis] = Dim::Known(indices.len());
        *ty = Type::shaped(dtype, dims);
    }
    Ok(types)
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensors: Vec<&Tensor> =
        (0..ctx.inputs.len()).map(|index| ctx.tensor(index)).collect::<Result<_, _>>()?;
    let axis = *ctx.node.attrs.int("axis")?;
    let joined = concat(&tensors, axis)?;
    let axis = resolve_axis(axis, joined.rank())?;
    let places = resolve_indices(ctx.node.attrs.ints("indices")?, joined.shape()[axis], 0)?;
    let mut shape = joined.shape().to_vec();
    shape[axis] = places.len();
    Ok(vec![take(&joined, axis, &places, &shape)?.into()])
}

#[cfg(test)]
mod tests {
    use crate::case::{iota, node, run};

    #[test]
    fn slices_of_all_inputs_are_joined() {
        let mut pick = node("hetra.GatherConcat", 2).with("axis", 1i64);
        pick.attrs.set("indices", vec![4i64, 0, -2]);
        let inputs = [iota(&[2, 2, 2]), iota(&[2, 3, 2])];
        let got = run(pick.clone(), &inputs).unwrap().remove(0);
        assert_eq!(got.shape(), [2, 3, 2]);
        let wanted = [4.0, 5.0, 0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 4.0, 5.0, 8.0, 9.0];
        assert_eq!(got.as_slice::<f32>().unwrap(), wanted);
        pick.attrs.set("indices", vec![5i64]);
        assert!(run(pick, &inputs).is_err());
    }
}
