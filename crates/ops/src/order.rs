//! By order of the values: TopK, Unique.

use std::cmp::Ordering;

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::context::{EvalCtx, InferCtx, resolve_axis};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dims::{check_ints, extent, shape_from};
use crate::elements::{assemble, volume};
use crate::error::OpError;
use crate::tape::op;
use crate::work::per_input_element;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&TOP_K, &UNIQUE];

static TOP_K: OpDef = OpDef {
    name: "TopK",
    doc: "The `k` largest or smallest elements along an axis with their indices; of equal ones the \
          first, NaN being above all numbers.",
    onnx: &[onnx("", "TopK", 24)],
    inputs: Arity::exactly(2),
    outputs: Arity::between(1, 2),
    kind: Kind::Opaque,
    upgrade: Some(|up| up.attr_to_input("k", 1)),
    infer: infer_top_k,
    work: per_input_element,
    eval: eval_top_k,
    gradient: Some(|tape| {
        let x = tape.x(0)?;
        let node = op("ScatterElements").with("axis", tape.attrs().int_or("axis", -1)?);
        Ok(vec![Some(tape.op(node, &[x.fill(0.0), tape.y(1), tape.dy(0)])), None])
    }),
    ..OpDef::DEFAULT
};

static UNIQUE: OpDef = OpDef {
    name: "Unique",
    doc: "The different elements, or slices of an axis: first places, map back and counts.",
    onnx: &[onnx("", "Unique", 11)],
    outputs: Arity::between(1, 4),
    infer: infer_unique,
    work: per_input_element,
    eval: eval_unique,
    ..OpDef::DEFAULT
};

/// Elements in a form that compares.
enum Keys<'a> {
    Floats(Vec<f64>),
    Ints(Vec<i64>),
    Unsigned(Vec<u64>),
    Texts(&'a [String]),
}

impl Keys<'_> {
    fn of(tensor: &Tensor) -> Result<Keys<'_>, OpError> {
        Ok(match tensor.dtype() {
            DType::String => Keys::Texts(tensor.as_strings()?),
            DType::U64 => Keys::Unsigned(tensor.as_slice::<u64>()?.to_vec()),
            dtype if dtype.is_float() => Keys::Floats(hetra_tensor::to_f64(tensor)?),
            _ => Keys::Ints(hetra_tensor::to_i64(tensor)?),
        })
    }

    /// A total order; NaN is above all numbers and equal to itself.
    #[inline]
    fn compare(&self, a: usize, b: usize) -> Ordering {
        match self {
            Keys::Floats(values) => {
                let (x, y) = (values[a], values[b]);
                x.partial_cmp(&y).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()))
            }
            Keys::Ints(values) => values[a].cmp(&values[b]),
            Keys::Unsigned(values) => values[a].cmp(&values[b]),
            Keys::Texts(values) => values[a].cmp(&values[b]),
        }
    }
}

fn infer_top_k(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    check_ints(ctx, 1)?;
    let mut dims = ctx.dims(0).map(<[Dim]>::to_vec);
    let count = match ctx.known_ints(1) {
        Some(count) => match count[..] {
            [count] => Dim::Known(extent(count, 1)?),
            _ => return Err(OpError::input(1, "one count", format!("{count:?}"))),
        },
        None => Dim::Unknown,
    };
    if let Some(dims) = &mut dims {
        let axis = resolve_axis(ctx.attrs().int_or("axis", -1)?, dims.len())?;
        if let (Dim::Known(count), Dim::Known(extent)) = (&count, &dims[axis])
            && count > extent
        {
            return Err(OpError::input(1, format!("at most {extent}"), count.to_string()));
        }
        dims[axis] = count;
    }
    let indices = InferCtx::make(Some(DType::I64), dims.clone());
    let types = vec![InferCtx::make(ctx.dtype_opt(0), dims), indices];
    Ok(types.into_iter().take(ctx.node.outputs.len()).collect())
}

fn eval_top_k(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    let shape = shape_from(ctx, infer_top_k)?;
    let axis = resolve_axis(ctx.attrs().int_or("axis", -1)?, tensor.rank())?;
    let largest = ctx.attrs().flag_or("largest", true)?;
    let (extent, count) = (tensor.shape()[axis], shape[axis]);
    let outer: usize = volume(&shape[..axis]);
    let inner: usize = volume(&shape[axis + 1..]);
    let keys = Keys::of(tensor)?;
    let mut indices = Tensor::zeros(DType::I64, &shape)?;
    let found = indices.as_mut_slice::<i64>()?;
    let mut order: Vec<usize> = Vec::new();
    let lanes = if found.is_empty() { 0 } else { outer * inner };
    for lane in 0..lanes {
        let (row, column) = (lane / inner, lane % inner);
        let place = |at: usize| (row * extent + at) * inner + column;
        let best_first = |a: &usize, b: &usize| {
            let order = keys.compare(place(*a), place(*b));
            let order = if largest { order.reverse() } else { order };
            order.then(a.cmp(b))
        };
        order.clear();
        order.extend(0..extent);
        if count < extent {
            order.select_nth_unstable_by(count, best_first);
            order.truncate(count);
        }
        order.sort_unstable_by(best_first);
        for (at, &index) in order.iter().enumerate() {
            found[(row * count + at) * inner + column] = index as i64;
        }
    }
    let values = assemble(tensor.dtype(), &shape, &[tensor], |runs| {
        for (to, &index) in found.iter().enumerate() {
            let (row, column) = (to / (count * inner), to % inner);
            runs.copy(0, (row * extent + index as usize) * inner + column, to, 1);
        }
    })?;
    Ok(vec![values.into(), indices.into()])
}

fn infer_unique(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let axis = ctx.attrs().int_opt("axis")?;
    let dims = match (axis, ctx.dims(0)) {
        (None, _) => Some(vec![Dim::Unknown]),
        (Some(_), None) => None,
        (Some(&axis), Some(dims)) => {
            let mut dims = dims.to_vec();
            let axis = resolve_axis(axis, dims.len())?;
            dims[axis] = Dim::Unknown;
            Some(dims)
        }
    };
    let vector = Type::ranked(DType::I64, 1);
    let first = InferCtx::make(ctx.dtype_opt(0), dims);
    let types = vec![first, vector.clone(), vector.clone(), vector];
    Ok(types.into_iter().take(ctx.node.outputs.len()).collect())
}

/// Equal things found: for each group its first member and size, for each member its group.
struct Groups {
    first: Vec<usize>,
    group_of: Vec<usize>,
    size: Vec<i64>,
}

/// Groups of equal ones among `0..count`, by value, or by first member when not `sorted`.
fn group(count: usize, sorted: bool, compare: impl Fn(usize, usize) -> Ordering) -> Groups {
    let mut order: Vec<usize> = (0..count).collect();
    // Stable, so that the first of equal ones stays the first.
    order.sort_by(|&a, &b| compare(a, b));
    let mut groups = Groups { first: vec![], group_of: vec![0; count], size: vec![] };
    for &item in &order {
        match groups.first.last() {
            Some(&first) if compare(first, item).is_eq() => {}
            _ => {
                groups.first.push(item);
                groups.size.push(0);
            }
        }
        let last = groups.first.len() - 1;
        groups.group_of[item] = last;
        groups.size[last] += 1;
    }
    if sorted {
        return groups;
    }
    let mut by_first: Vec<usize> = (0..groups.first.len()).collect();
    by_first.sort_by_key(|&at| groups.first[at]);
    let mut place = vec![0; by_first.len()];
    by_first.iter().enumerate().for_each(|(to, &from)| place[from] = to);
    Groups {
        first: by_first.iter().map(|&at| groups.first[at]).collect(),
        size: by_first.iter().map(|&at| groups.size[at]).collect(),
        group_of: groups.group_of.iter().map(|&at| place[at]).collect(),
    }
}

fn eval_unique(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensor = ctx.tensor(0)?;
    let (tensor, axis) = match ctx.attrs().int_opt("axis")? {
        Some(&axis) => (tensor.clone(), resolve_axis(axis, tensor.rank())?),
        None => (tensor.reshape(&[tensor.len()])?, 0),
    };
    let sorted = ctx.attrs().flag_or("sorted", true)?;
    let extent = tensor.shape()[axis];
    let outer: usize = volume(&tensor.shape()[..axis]);
    let inner: usize = volume(&tensor.shape()[axis + 1..]);
    if tensor.is_empty() && extent > 0 {
        return Err(OpError::input(0, "slices with elements", tensor.describe()));
    }
    let keys = Keys::of(&tensor)?;
    let compare = |a: usize, b: usize| {
        let places = (0..outer)
            .flat_map(|row| (0..inner).map(move |column| (row * extent * inner + column, inner)));
        places
            .map(|(base, stride)| keys.compare(base + a * stride, base + b * stride))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    };
    let groups = group(extent, sorted, compare);
    let mut shape = tensor.shape().to_vec();
    shape[axis] = groups.first.len();
    let values = assemble(tensor.dtype(), &shape, &[&tensor], |runs| {
        for row in 0..outer {
            for (at, &from) in groups.first.iter().enumerate() {
                let to = (row * groups.first.len() + at) * inner;
                runs.copy(0, (row * extent + from) * inner, to, inner);
            }
        }
    })?;
    let ints = |values: &[usize]| {
        Value::from(Tensor::vector(&values.iter().map(|&at| at as i64).collect::<Vec<_>>()))
    };
    let counts = Tensor::vector(&groups.size).into();
    Ok(vec![values.into(), ints(&groups.first), ints(&groups.group_of), counts])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_first_members() {
        let items = [3, 1, 3, 2, 1];
        let by_value = group(5, true, |a, b| items[a].cmp(&items[b]));
        assert_eq!(by_value.first, [1, 3, 0]);
        assert_eq!(by_value.group_of, [2, 0, 2, 1, 0]);
        assert_eq!(by_value.size, [2, 1, 2]);
        let by_place = group(5, false, |a, b| items[a].cmp(&items[b]));
        assert_eq!(by_place.first, [0, 1, 3]);
        assert_eq!(by_place.group_of, [0, 1, 0, 2, 1]);
        assert_eq!(by_place.size, [2, 2, 1]);
    }

    #[test]
    fn nan_is_above_all() {
        let tensor = Tensor::vector(&[1.0f32, f32::NAN, f32::INFINITY]);
        let keys = Keys::of(&tensor).unwrap();
        assert_eq!(keys.compare(1, 2), Ordering::Greater);
        assert_eq!(keys.compare(1, 1), Ordering::Equal);
        assert_eq!(keys.compare(0, 2), Ordering::Less);
    }
}
