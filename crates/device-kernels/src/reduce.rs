//! Reductions: what makes one number of the elements of rows. An item has a row, or a group has one
//! (`rows_shared.rs`): element `i` of it is at `(outer * length + i) * inner + rest`.

use hetra_device::{LaunchLimits, Part};
use hetra_ir::Node;
use hetra_kernel::kernel;
use hetra_ops::resolve_axis;
use hetra_tensor::{DType, Shape, Tensor};
use smallvec::smallvec;

use crate::context::{A, Gpu, LINE, Outcome, Run, Stop};
use crate::elementwise::operate;
use crate::math::is_nan;
use crate::movement::permuted;
use crate::program::Work;
use crate::rows::{product, rows_of};
use crate::rows_shared::{
    self, count_of, first_of, merged, neutral, nothing, size_of, taken, term_of, unit_of, whole_of,
};
use crate::stored::Stored;
use crate::table::{Form, Row};

pub(crate) const ROWS: &[Row] = &[
    Row {
        ops: &[
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "GlobalAveragePool",
            "GlobalMaxPool",
        ],
        kernel: "reduce",
        on_device: &[0],
        takes: |form: &Form<'_>| form.is_f32(0),
        compile: compile_reduce,
    },
    Row {
        ops: &["ArgMax", "ArgMin"],
        kernel: "arg reduce",
        on_device: &[0],
        takes: |form: &Form<'_>| form.is_f32(0) && form.is_short(0),
        compile: compile_arg,
    },
];

/// One number for each part of a row. No more than 64 elements are added up one after another:
/// their sums are added up in turn, so that long rows keep their digits.
#[kernel(group = [64])]
fn reduced(
    n: u32,
    length: u32,
    inner: u32,
    parts: u32,
    lanes: u32,
    each: u32,
    way: u32,
    factor: f32,
    x: &[f32],
    y: &mut [f32],
) {
    let g = global_id(0);
    if g >= n {
        return;
    }
    let count = count_of((g / inner) % parts, length, lanes, each);
    let mut at = first_of(g, length, inner, parts, lanes, each);
    let step = lanes * inner;
    let mut result = neutral(way);
    for block in (0..count).step_by(64) {
        let mut part = neutral(way);
        let end = (count - block).min(64);
        for _ in 0..end {
            let value = x[at];
            at += step;
            part = merged(way, part, taken(way, value));
        }
        result = merged(way, result, part);
    }
    y[g] = result * factor;
}

/// The root of the sum of squares, or the logarithm of the sum of exponentials, of each part: its
/// elements are brought near one by the greatest of them, so that nothing overflows on the way.
#[kernel(group = [64])]
fn scaled(
    n: u32,
    length: u32,
    inner: u32,
    parts: u32,
    lanes: u32,
    each: u32,
    log: u32,
    x: &[f32],
    y: &mut [f32],
) {
    let g = global_id(0);
    if g >= n {
        return;
    }
    let count = count_of((g / inner) % parts, length, lanes, each);
    let from = first_of(g, length, inner, parts, lanes, each);
    let step = lanes * inner;
    let mut greatest = nothing(log);
    for i in 0..count {
        greatest = greatest.max(size_of(log, x[from + i * step]));
    }
    let unit = unit_of(log, greatest);
    let mut sum = 0.0;
    for block in (0..count).step_by(64) {
        let mut part = 0.0;
        let end = (count - block).min(64);
        for i in 0..end {
            part += term_of(log, x[from + (block + i) * step], unit);
        }
        sum += part;
    }
    y[g] = whole_of(log, unit, sum);
}

/// The place of the greatest element of a row, or of the least: the first of equal ones, or the
/// last. What is no number is beyond any.
#[kernel(group = [64])]
fn extreme(rows: u32, length: u32, inner: u32, least: u32, last: u32, x: &[f32], y: &mut [i32]) {
    let row = global_id(0);
    if row >= rows {
        return;
    }
    let from = (row / inner) * length * inner + row % inner;
    let mut best = x[from];
    let mut place = 0;
    for i in 1..length {
        let value = x[from + i * inner];
        let beyond = if least != 0 { value < best } else { value > best };
        let none = is_nan(value);
        let had_none = is_nan(best);
        let equal = value == best || (none && had_none);
        let taken = (beyond && !had_none) || (none && !had_none) || (equal && last != 0);
        if taken {
            best = value;
            place = i;
        }
    }
    y[row] = place as i32;
}

fn compile_reduce(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let keep = node.attrs.flag_or("keepdims", true).ok()?;
    let noop = node.attrs.flag_or("noop_with_empty_axes", false).ok()?;
    let node = node.clone();
    Some(Box::new(move |run| reduce(run, &node, keep, noop)))
}

fn reduce(run: &Run<'_, '_>, node: &Node, keep: bool, noop: bool) -> Outcome {
    let x = run.input(0)?;
    let rank = x.shape.len();
    let mut chosen = vec![false; rank];
    match (node.op.as_str(), run.numbers(1)?) {
        ("GlobalAveragePool" | "GlobalMaxPool", _) => chosen[2.min(rank)..].fill(true),
        (_, Some(axes)) if !axes.is_empty() => {
            for axis in axes {
                chosen[resolve_axis(axis, rank)?] = true;
            }
        }
        _ => chosen.fill(!noop),
    }
    let way = match node.op.as_str() {
        "ReduceMean" | "GlobalAveragePool" => Way::Mean,
        "ReduceMax" => Way::Greatest,
        "GlobalMaxPool" => Way::GreatestNumber,
        "ReduceMin" => Way::Least,
        "ReduceProd" => Way::Product,
        "ReduceL1" => Way::Sizes,
        "ReduceL2" => Way::Norm,
        "ReduceSumSquare" => Way::Squares,
        "ReduceLogSumExp" => Way::LogSumExp,
        _ => Way::Sum,
    };
    let mut out = over_axes(run, &x, &chosen, way)?;
    if node.op == "ReduceLogSum" {
        out = operate(run.gpu, "Log", &[&out])?;
    }
    let kept = out.shape.iter().zip(&chosen).filter(|(_, chosen)| keep || !**chosen);
    let shape: Shape = kept.map(|(&extent, _)| extent).collect();
    Ok(smallvec![out.reshaped(&shape)])
}

/// What is made of the elements of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The sum.
    Sum,
    /// The mean.
    Mean,
    /// The greatest; what is no number is beyond any.
    Greatest,
    /// The greatest, where what is no number is left out.
    GreatestNumber,
    /// The least.
    Least,
    /// The product.
    Product,
    /// The sum of magnitudes.
    Sizes,
    /// The sum of squares.
    Squares,
    /// The mean of squares.
    MeanSquare,
    /// The root of the sum of squares.
    Norm,
    /// The logarithm of the sum of exponentials.
    LogSumExp,
}

impl Way {
    /// What `reduced` knows it by.
    fn code(self) -> usize {
        match self {
            Way::Greatest => 1,
            Way::Least => 2,
            Way::Product => 3,
            Way::Sizes => 4,
            Way::Squares | Way::MeanSquare => 5,
            Way::GreatestNumber => 6,
            Way::Sum | Way::Mean | Way::Norm | Way::LogSumExp => 0,
        }
    }
}

impl Way {
    /// What is made of a part of a row.
    fn of_parts(self) -> Way {
        match self {
            Way::Mean => Way::Sum,
            Way::MeanSquare => Way::Squares,
            other => other,
        }
    }

    /// What is made of the results of all parts.
    fn of_results(self) -> Way {
        match self {
            Way::Sizes | Way::Squares => Way::Sum,
            Way::MeanSquare => Way::Mean,
            other => other,
        }
    }
}

/// One number in the place of the chosen axes, whose extents are 1 in the result.
pub(crate) fn over_axes(
    run: &Run<'_, '_>,
    x: &Stored,
    chosen: &[bool],
    way: Way,
) -> Result<Stored, Stop> {
    let rank = chosen.len();
    let shape: Shape = (0..rank).map(|axis| if chosen[axis] { 1 } else { x.shape[axis] }).collect();
    let wide = |axis: &usize| chosen[*axis] && x.shape[*axis] != 1;
    let (first, last) = ((0..rank).find(wide), (0..rank).rev().find(wide));
    let (first, last) = first.zip(last).unwrap_or((rank, rank));
    // Where axes between them stay, the chosen ones move to the end.
    let apart = first < rank && (first..=last).any(|a| !chosen[a] && x.shape[a] != 1);
    let (x, sizes) = if apart {
        let order = |wanted: bool| (0..rank).filter(move |&axis| chosen[axis] == wanted);
        let perm: Vec<usize> = order(false).chain(order(true)).collect();
        let extent = |wanted: bool| order(wanted).map(|axis| x.shape[axis]).product::<usize>();
        (permuted(run, x, &perm)?, [extent(false), extent(true), 1])
    } else {
        let end = if first < rank { last + 1 } else { rank };
        let parts = [&x.shape[..first], &x.shape[first..end], &x.shape[end..]].map(product);
        (x.clone(), parts)
    };
    if sizes[0] * sizes[2] == 1 && x.bytes() > run.gpu.limits().part_max {
        return Ok(over_all(run, &x, way)?.reshaped(&shape));
    }
    let out = rows_of(run, &x, &shape)?;
    over_rows(run, (&x, &out), sizes, way)?;
    Ok(out)
}

/// One number for all elements, of which there are more than a kernel can be given at once.
fn over_all(run: &Run<'_, '_>, x: &Stored, way: Way) -> Result<Stored, Stop> {
    let op = match way {
        Way::Greatest | Way::GreatestNumber => "Max",
        Way::Least => "Min",
        Way::Product => "Mul",
        Way::Norm => "hetra.Hypot",
        Way::LogSumExp => "hetra.LogAddExp",
        Way::Sum | Way::Mean | Way::Sizes | Way::Squares | Way::MeanSquare => "Add",
    };
    let elements = run.gpu.part_elements();
    if elements == 0 {
        return Err(Stop::Host);
    }
    let mut all: Option<Stored> = None;
    for first in (0..x.count()).step_by(elements) {
        let count = elements.min(x.count() - first);
        let part = x.part(first, count);
        let own = rows_of(run, &part, &[1])?;
        over_rows(run, (&part, &own), [1, count, 1], way.of_parts())?;
        all = Some(match all {
            Some(all) => operate(run.gpu, op, &[&all, &own])?,
            None => own,
        });
    }
    let all = all.ok_or(Stop::Host)?;
    match way {
        Way::Mean | Way::MeanSquare => {
            let factor = run.gpu.place(&Tensor::scalar(1.0 / x.count() as f32))?;
            operate(run.gpu, "Mul", &[&all, &factor])
        }
        _ => Ok(all),
    }
}

/// One number for each row: of long rows first one for each part of them.
fn over_rows(
    run: &Run<'_, '_>,
    (x, out): (&Stored, &Stored),
    [outer, length, inner]: [usize; 3],
    way: Way,
) -> Result<(), Stop> {
    let mut way = way;
    let (mut from, mut left) = (x.clone(), length);
    loop {
        let parts = Parts::of(run.gpu.limits(), outer * inner, left, inner);
        if parts.count == 1 {
            return launch(run, (&from, out), [outer, left, inner], &parts, (way, length));
        }
        let partial = run.gpu.room(DType::F32, &[outer, parts.count, inner])?;
        let first = way.of_parts();
        launch(run, (&from, &partial), [outer, left, inner], &parts, (first, length))?;
        way = way.of_results();
        (from, left) = (partial, parts.count);
    }
}

/// How a row is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    count: usize,
    lanes: usize,
    each: usize,
    /// Whether a group does each.
    together: bool,
}

/// Elements that a group adds up, of longer rows.
const GROUP_ELEMENTS: usize = 1 << 14;

/// Elements that an item adds up, of longer rows.
const ITEM_ELEMENTS: usize = 1 << 8;

impl Parts {
    fn of(limits: &LaunchLimits, rows: usize, length: usize, inner: usize) -> Parts {
        let whole = |together| Parts { count: 1, lanes: 1, each: length, together };
        if rows_shared::pays(limits, rows, length, inner) {
            let count = length.div_ceil(GROUP_ELEMENTS);
            // The last one is as good for little more.
            return match length <= 2 * GROUP_ELEMENTS {
                true => whole(true),
                false => Parts { count, lanes: 1, each: GROUP_ELEMENTS, together: true },
            };
        }
        // Neighbours read neighbours anyway where elements of other rows lie between.
        let lanes = if inner == 1 { LINE as usize } else { 1 };
        let chunk = lanes * ITEM_ELEMENTS;
        match length <= chunk.max(1 << 12) {
            true => whole(false),
            false => Parts {
                count: length.div_ceil(chunk) * lanes,
                lanes,
                each: ITEM_ELEMENTS,
                together: false,
            },
        }
    }
}

/// One number for each part of each row; `length` is of whole rows.
fn launch(
    run: &Run<'_, '_>,
    (x, out): (&Stored, &Stored),
    [outer, extent, inner]: [usize; 3],
    parts: &Parts,
    (way, length): (Way, usize),
) -> Result<(), Stop> {
    let factor = match way {
        Way::Mean | Way::MeanSquare => 1.0 / length as f32,
        _ => 1.0,
    };
    let n = outer * inner * parts.count;
    let sizes = [n, extent, inner, parts.count, parts.lanes, parts.each];
    let mut args: Vec<A<'_>> = sizes.map(A::U).into();
    let (x, out) = (A::M(x), A::M(out));
    let constants = &rows_shared::CONSTANTS;
    let kernel = if matches!(way, Way::Norm | Way::LogSumExp) {
        args.extend([A::U(usize::from(way == Way::LogSumExp)), x, out]);
        match parts.together {
            true => run.gpu.kernel("scaled shared", || rows_shared::scaled::with(constants))?,
            false => run.gpu.kernel("scaled", || scaled::with(&[]))?,
        }
    } else {
        args.extend([A::U(way.code()), A::F(factor), x, out]);
        match parts.together {
            true => run.gpu.kernel("reduced shared", || rows_shared::reduced::with(constants))?,
            false => run.gpu.kernel("reduced", || reduced::with(&[]))?,
        }
    };
    match parts.together {
        true => run.gpu.launch(&kernel, [n, 1, 1], &args[1..]),
        false => run.gpu.line(&kernel, n, &args),
    }
}

fn compile_arg(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let keep = node.attrs.flag_or("keepdims", true).ok()?;
    let last = node.attrs.flag_or("select_last_index", false).ok()?;
    let axis = node.attrs.int_or("axis", 0).ok()?;
    let least = node.op == "ArgMin";
    Some(Box::new(move |run| {
        let x = run.input(0)?;
        let axis = resolve_axis(axis, x.shape.len())?;
        if x.dtype != DType::F32 || x.count() == 0 {
            return Err(Stop::Host);
        }
        let (length, inner) = (x.shape[axis], product(&x.shape[axis + 1..]));
        if length > run.gpu.limits().turns_max {
            return Err(Stop::Host);
        }
        let mut shape: Shape = x.shape.clone();
        match keep {
            true => shape[axis] = 1,
            false => drop(shape.remove(axis)),
        }
        let out = run.gpu.room(DType::I64, &shape)?;
        let rows = out.count();
        let kernel = run.gpu.kernel("extreme", || extreme::with(&[]))?;
        let sizes = [rows, length, inner, usize::from(least), usize::from(last)].map(A::U);
        let args: Vec<A<'_>> = sizes.into_iter().chain([A::M(&x), A::M(&out)]).collect();
        run.gpu.line(&kernel, rows, &args)?;
        Ok(smallvec![out.clone()])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::tests::limits;

    #[test]
    fn long_rows_are_cut_until_one_number_is_left() {
        for cheap_barriers in [false, true] {
            let limits = LaunchLimits { cheap_barriers, ..limits() };
            for (rows, length, inner) in
                [(1, 16 << 20, 1), (3, 65_537, 1), (8, 70_000, 8), (1, 1 << 31, 1), (5, 4096, 1)]
            {
                let (mut left, mut launches) = (length, 1);
                loop {
                    let parts = Parts::of(&limits, rows, left, inner);
                    let Parts { count, lanes, each, .. } = parts;
                    assert!(count * each >= left && count % lanes == 0, "{parts:?} of {left}");
                    if count == 1 {
                        break;
                    }
                    assert!(count < left / 2, "{parts:?} of {left}");
                    (left, launches) = (count, launches + 1);
                }
                assert!(launches <= 4, "{launches} of {length}");
            }
        }
    }
}
