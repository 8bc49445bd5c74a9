//! Sequences of tensors: SequenceConstruct, SequenceEmpty, SequenceAt, SequenceInsert,
//! SequenceErase, SequenceLength, SequenceMap, SplitToSequence, ConcatFromSequence.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::control::meet;
use crate::convert::dtype_attr_opt;
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dims::{check_ints, extent};
use crate::error::OpError;
use crate::gather::resolve_index;
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[
    &CONSTRUCT,
    &EMPTY,
    &AT,
    &INSERT,
    &ERASE,
    &LENGTH,
    &MAP,
    &SPLIT_TO_SEQUENCE,
    &CONCAT_FROM_SEQUENCE,
];

const SEQUENCE: OpDef = OpDef { work: none, ..OpDef::DEFAULT };

static CONSTRUCT: OpDef = OpDef {
    name: "SequenceConstruct",
    doc: "A sequence of the inputs.",
    onnx: &[onnx("", "SequenceConstruct", 11)],
    inputs: Arity::at_least(1),
    infer: |ctx| {
        let mut item = ctx.ty(0)?.clone();
        for index in 1..ctx.len() {
            item = meet(&item, ctx.ty(index)?);
        }
        Ok(vec![Type::Sequence(Box::new(item))])
    },
    eval: |ctx| {
        let dtype = ctx.tensor(0)?.dtype();
        let mut items = Vec::with_capacity(ctx.inputs.len());
        for index in 0..ctx.inputs.len() {
            items.push(item_of(ctx, index, Some(dtype))?);
        }
        Ok(vec![Value::Sequence(items)])
    },
    ..SEQUENCE
};

static EMPTY: OpDef = OpDef {
    name: "SequenceEmpty",
    doc: "A sequence without items, of tensors of type `dtype`.",
    onnx: &[onnx("", "SequenceEmpty", 11)],
    inputs: Arity::exactly(0),
    infer: |ctx| {
        let dtype = dtype_attr_opt(ctx.attrs(), "dtype")?.unwrap_or(DType::F32);
        Ok(vec![Type::Sequence(Box::new(Type::unranked(dtype)))])
    },
    eval: |_| Ok(vec![Value::Sequence(vec![])]),
    ..SEQUENCE
};

static AT: OpDef = OpDef {
    name: "SequenceAt",
    doc: "The item at an index, counted from either end.",
    onnx: &[onnx("", "SequenceAt", 11)],
    inputs: Arity::exactly(2),
    infer: |ctx| {
        check_ints(ctx, 1)?;
        Ok(vec![item_type(ctx)?])
    },
    eval: |ctx| {
        let items = ctx.sequence(0)?;
        let index = resolve_index(ctx.int(1)?, items.len(), 1)?;
        Ok(vec![items[index].clone()])
    },
    ..SEQUENCE
};

static INSERT: OpDef = OpDef {
    name: "SequenceInsert",
    doc: "The sequence with an item more, before an index or at the end.",
    onnx: &[onnx("", "SequenceInsert", 11)],
    inputs: Arity::between(2, 3),
    infer: |ctx| {
        check_ints(ctx, 2)?;
        Ok(vec![Type::Sequence(Box::new(meet(&item_type(ctx)?, ctx.ty(1)?)))])
    },
    eval: |ctx| {
        let items = ctx.sequence(0)?;
        let item = item_of(ctx, 1, items.first().and_then(Value::dtype))?;
        let index = match ctx.value_opt(2) {
            // The end itself is a valid place.
            Some(_) => match ctx.int(2)? {
                end if end == items.len() as i64 => items.len(),
                index => resolve_index(index, items.len(), 2)?,
            },
            None => items.len(),
        };
        let mut longer = Vec::with_capacity(items.len() + 1);
        longer.extend_from_slice(&items[..index]);
        longer.push(item);
        longer.extend_from_slice(&items[index..]);
        Ok(vec![Value::Sequence(longer)])
    },
    ..SEQUENCE
};

static ERASE: OpDef = OpDef {
    name: "SequenceErase",
    doc: "The sequence without the item at an index, or the last one.",
    onnx: &[onnx("", "SequenceErase", 11)],
    inputs: Arity::between(1, 2),
    infer: |ctx| {
        check_ints(ctx, 1)?;
        Ok(vec![Type::Sequence(Box::new(item_type(ctx)?))])
    },
    eval: |ctx| {
        let mut items = ctx.sequence(0)?.to_vec();
        let index = if ctx.value_opt(1).is_some() { ctx.int(1)? } else { -1 };
        items.remove(resolve_index(index, items.len(), 1)?);
        Ok(vec![Value::Sequence(items)])
    },
    ..SEQUENCE
};

static LENGTH: OpDef = OpDef {
    name: "SequenceLength",
    doc: "The number of items.",
    onnx: &[onnx("", "SequenceLength", 11)],
    infer: |ctx| {
        item_type(ctx)?;
        Ok(vec![Type::tensor(DType::I64, &[])])
    },
    eval: |ctx| Ok(vec![Tensor::scalar(ctx.sequence(0)?.len() as i64).into()]),
    ..SEQUENCE
};

static MAP: OpDef = OpDef {
    name: "SequenceMap",
    doc: "Runs a body for each item of sequences of one length; tensors are the same in each turn.",
    onnx: &[onnx("", "SequenceMap", 17)],
    inputs: Arity::at_least(1),
    outputs: Arity::at_least(1),
    kind: Kind::Control,
    infer: |ctx| {
        let item = |index: usize| match ctx.ty_opt(index) {
            Some(Type::Sequence(item)) => (**item).clone(),
            Some(ty) if index > 0 => ty.clone(),
            _ => Type::Unknown,
        };
        let inputs: Vec<Type> = (0..ctx.len()).map(item).collect();
        let types = (ctx.body)(ctx.attrs().graph("body")?, &inputs)?;
        Ok(types.into_iter().map(|ty| Type::Sequence(Box::new(ty))).collect())
    },
    eval: eval_map,
    ..SEQUENCE
};

static SPLIT_TO_SEQUENCE: OpDef = OpDef {
    name: "SplitToSequence",
    doc: "Cuts a tensor along an axis into parts of given extents, of one extent, or of 1.",
    onnx: &[onnx("", "SplitToSequence", 11)],
    inputs: Arity::between(1, 2),
    infer: infer_split,
    eval: eval_split,
    ..SEQUENCE
};

static CONCAT_FROM_SEQUENCE: OpDef = OpDef {
    name: "ConcatFromSequence",
    doc: "Joins the items along an axis, or along a new one.",
    onnx: &[onnx("", "ConcatFromSequence", 11)],
    infer: infer_concat,
    eval: |ctx| {
        let axis = *ctx.attrs().int("axis")?;
        let tensors: Option<Vec<Tensor>> =
            ctx.sequence(0)?.iter().map(|item| item.as_tensor().cloned()).collect();
        let tensors =
            tensors.ok_or_else(|| OpError::input(0, "items that are tensors", "others"))?;
        if tensors.is_empty() {
            return Err(OpError::input(0, "one item or more", "none"));
        }
        Ok(vec![if ctx.attrs().flag_or("new_axis", false)? {
            crate::control::stack(&tensors, axis, &Type::Unknown)?.into()
        } else {
            crate::movement::concat(&tensors.iter().collect::<Vec<_>>(), axis)?.into()
        }])
    },
    ..SEQUENCE
};

/// The input at `index` as an item of a sequence of `dtype`.
fn item_of(ctx: &EvalCtx<'_>, index: usize, dtype: Option<DType>) -> Result<Value, OpError> {
    let tensor = ctx.tensor(index)?;
    match dtype {
        Some(dtype) if dtype != tensor.dtype() => {
            Err(OpError::input(index, dtype.name(), tensor.describe()))
        }
        _ => Ok(Value::Tensor(tensor.clone())),
    }
}

/// The type of the items of the first input.
fn item_type(ctx: &InferCtx<'_>) -> Result<Type, OpError> {
    let mut ty = ctx.ty(0)?;
    if let Type::Optional(inner) = ty {
        ty = inner;
    }
    match ty {
        Type::Sequence(item) => Ok((**item).clone()),
        Type::Unknown => Ok(Type::Unknown),
        other => Err(OpError::input(0, "a sequence", other.to_string())),
    }
}

fn eval_map(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let body = ctx.attrs().graph("body")?;
    let turns = ctx.sequence(0)?.len();
    let mut columns = vec![Vec::with_capacity(turns); body.outputs.len()];
    for turn in 0..turns {
        let mut inputs = Vec::with_capacity(ctx.inputs.len());
        for index in 0..ctx.inputs.len() {
            inputs.push(match ctx.value(index)? {
                Value::Sequence(items) => items.get(turn).cloned().ok_or_else(|| {
                    OpError::input(index, format!("{turns} items"), items.len().to_string())
                })?,
                other => other.clone(),
            });
        }
        let outputs = ctx.runner.run(body, inputs, ctx.outer)?;
        columns.iter_mut().zip(outputs).for_each(|(column, value)| column.push(value));
    }
    Ok(columns.into_iter().map(Value::Sequence).collect())
}

fn infer_split(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    let mut dims = ctx.dims(0).map(<[Dim]>::to_vec);
    if let Some(dims) = &mut dims {
        let axis = resolve_axis(ctx.attrs().int_or("axis", 0)?, dims.len())?;
        if !ctx.has(1) && !ctx.attrs().flag_or("keepdims", true)? {
            dims.remove(axis);
        } else if !ctx.has(1) {
            dims[axis] = Dim::Known(1);
        } else {
            let extents = match (ctx.known_ints(1), ctx.rank(1), dims[axis].known()) {
                (Some(part), Some(0), Some(all)) => equal_parts(&part, all)?,
                (Some(parts), Some(1), _) => part_extents(&parts)?,
                _ => vec![],
            };
            dims[axis] = match extents.split_first() {
                Some((first, rest)) if rest.iter().all(|extent| extent == first) => {
                    Dim::Known(*first)
                }
                _ => Dim::Unknown,
            };
        }
    }
    Ok(vec![Type::Sequence(Box::new(InferCtx::make(ctx.dtype_opt(0), dims)))])
}

fn part_extents(parts: &[i64]) -> Result<Vec<usize>, OpError> {
    parts.iter().map(|&part| extent(part, 1)).collect()
}

/// Parts of the one extent given, the last one holding the rest.
fn equal_parts(part: &[i64], all: usize) -> Result<Vec<usize>, OpError> {
    let fault = || OpError::input(1, "an extent from 1 up", format!("{part:?}"));
    let &[one] = part else { return Err(fault()) };
    let part = usize::try_from(one).ok().filter(|&part| part > 0).ok_or_else(fault)?;
    check_parts(all.div_ceil(part))?;
    Ok((0..all.div_ceil(part)).map(|at| part.min(all - at * part)).collect())
}

/// Most items that a split makes: an axis of a tensor without elements may be of any extent.
const PARTS_MAX: usize = 1 << 24;

fn check_parts(count: usize) -> Result<(), OpError> {
    match count <= PARTS_MAX {
        true => Ok(()),
        false => Err(OpError::input(0, format!("at most {PARTS_MAX} parts"), count.to_string())),
    }
}

fn eval_split(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    let axis = resolve_axis(ctx.attrs().int_or("axis", 0)?, tensor.rank())?;
    let all = tensor.shape()[axis];
    let extents = match ctx.tensor_opt(1) {
        None => {
            check_parts(all)?;
            vec![1; all]
        }
        Some(parts) if parts.rank() == 0 => equal_parts(&ctx.ints(1)?, all)?,
        Some(_) => part_extents(&ctx.ints(1)?)?,
    };
    if extents.iter().try_fold(0usize, |sum, &part| sum.checked_add(part)) != Some(all) {
        return Err(OpError::input(
            1,
            format!("extents that add up to {all}"),
            format!("{extents:?}"),
        ));
    }
    let mut parts = crate::movement::split(tensor, axis, &extents)?;
    if ctx.value_opt(1).is_none() && !ctx.attrs().flag_or("keepdims", true)? {
        let mut shape = tensor.shape().to_vec();
        shape.remove(axis);
        for part in &mut parts {
            *part = part.reshape(&shape)?;
        }
    }
    Ok(vec![Value::Sequence(parts.into_iter().map(Value::Tensor).collect())])
}

fn infer_concat(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let axis = *ctx.attrs().int("axis")?;
    let new = ctx.attrs().flag_or("new_axis", false)?;
    let item = item_type(ctx)?;
    let mut dims = item.dims().map(<[Dim]>::to_vec);
    if let Some(dims) = &mut dims {
        if new {
            dims.insert(resolve_axis(axis, dims.len() + 1)?, Dim::Unknown);
        } else {
            let axis = resolve_axis(axis, dims.len())?;
            dims[axis] = Dim::Unknown;
        }
    }
    Ok(vec![InferCtx::make(item.dtype(), dims)])
}
