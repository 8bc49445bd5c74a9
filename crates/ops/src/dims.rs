//! Arithmetic on symbolic shapes, and evaluation by inference: with every input known, `infer`
//! gives the very shape that `eval` needs, so that a shape rule is written once.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::error::OpError;

/// The product of extents, where it is known or one symbol.
pub(crate) fn product(dims: &[Dim]) -> Dim {
    if dims.contains(&Dim::Known(0)) {
        return Dim::Known(0);
    }
    let others: Vec<&Dim> = dims.iter().filter(|dim| **dim != Dim::Known(1)).collect();
    match others[..] {
        [] => Dim::Known(1),
        [one] => one.clone(),
        _ => {
            let known: Option<Vec<usize>> = dims.iter().map(Dim::known).collect();
            known
                .and_then(|extents| hetra_tensor::element_count(&extents).ok())
                .map_or(Dim::Unknown, Dim::Known)
        }
    }
}

/// The extent that `f` makes of a known one; unknown otherwise.
pub(crate) fn map_dim(
    dim: &Dim,
    f: impl FnOnce(usize) -> Result<usize, OpError>,
) -> Result<Dim, OpError> {
    Ok(match dim {
        Dim::Known(extent) => Dim::Known(f(*extent)?),
        _ => Dim::Unknown,
    })
}

/// A size from outside, as an extent.
pub(crate) fn extent(value: i64, index: usize) -> Result<usize, OpError> {
    usize::try_from(value)
        .map_err(|_| OpError::input(index, "extents from 0 up", value.to_string()))
}

/// Axes counted from either end as indices below `rank`, in their order.
///
/// # Errors
/// When one is out of range or stands twice.
pub(crate) fn resolve_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
    let mut seen = vec![false; rank];
    let mut resolved = Vec::with_capacity(axes.len());
    for &axis in axes {
        let at = resolve_axis(axis, rank)?;
        if std::mem::replace(&mut seen[at], true) {
            return Err(OpError::invalid(format!("axis {axis} stands twice")));
        }
        resolved.push(at);
    }
    Ok(resolved)
}

/// What `infer` says when all inputs are there; given the row's, the types of the outputs.
pub(crate) fn types_from<T>(
    ctx: &EvalCtx<'_>,
    infer: impl FnOnce(&InferCtx<'_>) -> Result<T, OpError>,
) -> Result<T, OpError> {
    let types: Vec<Option<Type>> = ctx.inputs.iter().map(|v| v.as_ref().map(Type::of)).collect();
    let known: Vec<Option<Tensor>> =
        ctx.inputs.iter().map(|v| v.as_ref().and_then(|v| v.as_tensor().cloned())).collect();
    let body = |_: &hetra_ir::Graph, _: &[Type]| Err(OpError::unsupported("a body here"));
    infer(&InferCtx { node: ctx.node, inputs: &types, known: &known, body: &body })
}

/// The shape of the first output, by `infer`.
pub(crate) fn shape_from(
    ctx: &EvalCtx<'_>,
    infer: fn(&InferCtx<'_>) -> Result<Vec<Type>, OpError>,
) -> Result<Vec<usize>, OpError> {
    let types = types_from(ctx, infer)?;
    types
        .first()
        .and_then(Type::known_shape)
        .ok_or_else(|| OpError::invalid("its shape is unclear"))
}

/// The dims of the input at `index`, which must have `rank` of them; `None` when not known.
pub(crate) fn dims_of_rank<'a>(
    ctx: &InferCtx<'a>,
    index: usize,
    rank: usize,
) -> Result<Option<&'a [Dim]>, OpError> {
    match ctx.dims(index) {
        Some(dims) if dims.len() != rank => {
            let got = ctx.ty(index)?.to_string();
            Err(OpError::input(index, format!("a tensor of rank {rank}"), got))
        }
        dims => Ok(dims),
    }
}

/// Ranks beyond this are a mistake in a model, not worth a vector of unknowns.
const RANK_MAX: usize = 4096;

/// The number of integers in the shape-like input at `index`, from its type.
pub(crate) fn count_of(ctx: &InferCtx<'_>, index: usize) -> Result<Option<usize>, OpError> {
    match ctx.dims(index) {
        Some([dim]) => Ok(dim.known().filter(|&count| count <= RANK_MAX)),
        Some([]) | None => Ok(None),
        Some(_) => Err(OpError::input(index, "a vector", ctx.ty(index)?.to_string())),
    }
}

/// The type of the first input with unknown extents, if its rank is known.
pub(crate) fn same_rank(ctx: &InferCtx<'_>) -> Type {
    let dims = ctx.rank(0).map(|rank| vec![Dim::Unknown; rank]);
    InferCtx::make(ctx.dtype_opt(0), dims)
}

/// The tensor at `index` must be of integers.
pub(crate) fn check_ints(ctx: &InferCtx<'_>, index: usize) -> Result<(), OpError> {
    match ctx.dtype_opt(index) {
        Some(dtype) if !dtype.is_int() => Err(OpError::input(index, "integers", dtype.name())),
        _ => Ok(()),
    }
}

/// The tensor at `index` must be of the dtype of the first input, where both are known.
pub(crate) fn check_same_dtype(ctx: &InferCtx<'_>, index: usize) -> Result<(), OpError> {
    match (ctx.dtype_opt(0), ctx.dtype_opt(index)) {
        (Some(a), Some(b)) if a != b => Err(OpError::input(index, a.name(), b.name())),
        _ => Ok(()),
    }
}

/// The tensor at `index` must be of this dtype, where it is known.
pub(crate) fn check_dtype(ctx: &InferCtx<'_>, index: usize, dtype: DType) -> Result<(), OpError> {
    match ctx.dtype_opt(index) {
        Some(got) if got != dtype => Err(OpError::input(index, dtype.name(), got.name())),
        _ => Ok(()),
    }
}
