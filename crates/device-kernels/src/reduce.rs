//! Reductions: what makes one number of the elements of rows. An item has a row, or a group has one
//! (`rows_shared.rs`): element `i` of it is at `(outer * length + i) * inner + rest`.

use hetra_device::Part;
use hetra_ir::Node;
use hetra_kernel::kernel;
use hetra_ops::resolve_axis;
use hetra_tensor::{DType, Shape};
use smallvec::smallvec;

use crate::context::{A, Gpu, Outcome, Run, Stop};
use crate::elementwise::operate;
use crate::math::{between, is_nan};
use crate::movement::permuted;
use crate::program::Work;
use crate::rows::{product, rows_of};
use crate::rows_shared;
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
        takes: |form: &Form<'_>| form.is_f32(0),
        compile: compile_arg,
    },
];

/// Most elements of a row that is reduced.
const LENGTH_MAX: usize = 1 << 16;

#[kernel(group = [64])]
fn reduced(rows: u32, length: u32, inner: u32, way: u32, factor: f32, x: &[f32], y: &mut [f32]) {
    let row = global_id(0);
    if row >= rows {
        return;
    }
    let mut at = (row / inner) * length * inner + row % inner;
    let first = x[at];
    // 0: sum, 1: greatest, 2: least, 3: product, 4: of sizes, 5: of squares, 6: greatest number.
    let mut result = 0.0;
    if way == 1 || way == 2 {
        result = first;
    }
    if way == 3 {
        result = 1.0;
    }
    if way == 6 {
        result = f32::NEG_INFINITY;
    }
    for _ in 0..length {
        let value = x[at];
        at += inner;
        if way == 0 {
            result += value;
        } else if way == 1 {
            // A number that is none wins.
            let wins = value > result || is_nan(value);
            result = if wins { value } else { result };
        } else if way == 2 {
            let wins = value < result || is_nan(value);
            result = if wins { value } else { result };
        } else if way == 3 {
            result *= value;
        } else if way == 4 {
            result += value.abs();
        } else if way == 5 {
            result += value * value;
        } else {
            result = if value > result { value } else { result };
        }
    }
    y[row] = result * factor;
}

/// The root of the sum of squares, or the logarithm of the sum of exponentials, of a row: its
/// elements are brought near one by the greatest of them, so that nothing overflows on the way.
#[kernel(group = [64])]
fn scaled(rows: u32, length: u32, inner: u32, log: u32, x: &[f32], y: &mut [f32]) {
    let row = global_id(0);
    if row >= rows {
        return;
    }
    let from = (row / inner) * length * inner + row % inner;
    let mut greatest = if log != 0 { x[from] } else { 0.0 };
    for i in 0..length {
        let value = x[from + i * inner];
        greatest = if log != 0 { greatest.max(value) } else { greatest.max(value.abs()) };
    }
    // Neither nothing nor infinite.
    let least = if log != 0 { f32::MIN } else { 1e-30 };
    let most = if log != 0 { f32::MAX } else { 1e30 };
    let unit = between(greatest, least, most);
    let mut sum = 0.0;
    for i in 0..length {
        let value = x[from + i * inner];
        if log != 0 {
            sum += (value - unit).exp();
        } else {
            sum += (value / unit) * (value / unit);
        }
    }
    y[row] = if log != 0 { unit + sum.ln() } else { unit * sum.sqrt() };
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
    let out = rows_of(run, &x, &shape)?;
    over_rows(run, (&x, &out), sizes, way)?;
    Ok(out)
}

/// One number for each row.
fn over_rows(
    run: &Run<'_, '_>,
    (x, out): (&Stored, &Stored),
    [outer, length, inner]: [usize; 3],
    way: Way,
) -> Result<(), Stop> {
    let rows = outer * inner;
    let together = rows_shared::pays(run.gpu.limits(), rows, length, inner);
    // An item adds up no more: longer rows take another order, and another kernel.
    let items = if together { rows_shared::GROUP } else { 1 };
    if length > LENGTH_MAX * items {
        return Err(Stop::Host);
    }
    let factor = match way {
        Way::Mean | Way::MeanSquare => 1.0 / length as f32,
        _ => 1.0,
    };
    let mut args: Vec<A<'_>> = [rows, length, inner].map(A::U).into();
    let (x, out) = (A::M(x), A::M(out));
    let constants = &rows_shared::CONSTANTS;
    let kernel = if matches!(way, Way::Norm | Way::LogSumExp) {
        args.extend([A::U(usize::from(way == Way::LogSumExp)), x, out]);
        match together {
            true => run.gpu.kernel("scaled shared", || rows_shared::scaled::with(constants))?,
            false => run.gpu.kernel("scaled", || scaled::with(&[]))?,
        }
    } else {
        args.extend([A::U(way.code()), A::F(factor), x, out]);
        match together {
            true => run.gpu.kernel("reduced shared", || rows_shared::reduced::with(constants))?,
            false => run.gpu.kernel("reduced", || reduced::with(&[]))?,
        }
    };
    match together {
        true => run.gpu.launch(&kernel, [rows, 1, 1], &args[1..]),
        false => run.gpu.line(&kernel, rows, &args),
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
