//! A product with one-hot rows looks rows up: `cast(i == [0, 1, ..]) x W + b == (W + b)[i]`, which
//! is how embeddings are exported by frameworks that have no operator for them.

use hetra_ir::{Node, Type, ValueId};
use hetra_tensor::{DType, Tensor, from_f64, to_f64};

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static ONE_HOT: Pass = Pass {
    name: "one_hot",
    doc: "Makes a Gather of a product with rows that are one-hot, and adds what is added to it to the \
          table.",
    run: |ed| ed.sweep(|ed, at| one_hot(ed, at) || biased(ed, at)),
};

/// Most numbers of a table that is made here: it stands beside the weights if others read these.
const TABLE_MAX: usize = 4 << 20;

fn one_hot(ed: &mut Editor<'_>, at: usize) -> bool {
    let Some((index, table)) = look_up(ed, at) else { return false };
    let (Some(dtype), Some(dims)) = (ed.dtype(index), ed.ty(index).dims().map(<[_]>::to_vec))
    else {
        return false;
    };
    // The last row of the table is that of numbers that equal none: -1 from below, and `rows`.
    let rows = table.shape()[0] - 1;
    let scalar = |value: f64| from_f64(dtype, &[], &[value]);
    let (Ok(low), Ok(high)) = (scalar(-1.0), scalar(rows as f64)) else { return false };
    let label = ed.node(at).name.clone();
    let Some(weights) = ed.input(at, 1) else { return false };
    if ed.unclaimed(&Node::new("Gather", &[weights, index], &[]), &[at]).is_some() {
        return false;
    }
    let table = ed.add_constant("", table);
    let (low, high) = (ed.add_constant("", low), ed.add_constant("", high));
    let axes = ed.add_constant("", Tensor::vector(&[-1i64]));
    let clipped = ed.value("", ed.ty(index).clone());
    let flat = ed.value("", Type::shaped(dtype, dims[..dims.len() - 1].to_vec()));
    let mut gather = Node::new("Gather", &[table, flat], &[]);
    gather.name = label;
    gather.outputs = vec![ed.node(at).output(0)];
    ed.insert(at, Node::new("Clip", &[index, low, high], &[clipped]));
    ed.insert(at, Node::new("Squeeze", &[clipped, axes], &[flat]));
    ed.fuse(at, gather, &[], "a product with one-hot rows")
}

/// What a product looks up: numbers `[.., 1]`, and the rows, behind which stands what it gives for
/// numbers that have no row.
fn look_up(ed: &Editor<'_>, at: usize) -> Option<(ValueId, Tensor)> {
    let node = ed.node(at);
    let product = ed.is(at, "MatMul") || ed.is(at, "com.microsoft.FusedMatMul");
    if !product || !node.attrs.0.is_empty() {
        return None;
    }
    let cast = ed.made_by(node.input(0)?, "Cast")?;
    let equal = ed.made_by(ed.input(cast, 0)?, "Equal")?;
    let (a, b) = (ed.input(equal, 0)?, ed.input(equal, 1)?);
    let weights = ed.constant(node.input(1)?).filter(|w| w.rank() == 2)?;
    let (rows, columns) = (weights.shape()[0], weights.shape()[1]);
    if rows == 0 || columns == 0 || weights.len() > TABLE_MAX {
        return None;
    }
    let index = match (counts(ed, b, rows), counts(ed, a, rows)) {
        (true, _) => a,
        (_, true) => b,
        _ => return None,
    };
    // What was broadcast to be compared need not be.
    let index = ed
        .made_by(index, "Expand")
        .and_then(|expand| ed.input(expand, 0))
        .filter(|&inner| last_is(ed, inner, 1))
        .unwrap_or(index);
    let whole = matches!(ed.dtype(index)?, DType::I32 | DType::I64) && last_is(ed, index, 1);
    let (dims, hot) = (ed.ty(index).dims()?, ed.ty(ed.node(equal).output(0)?).dims()?);
    let (outer, hot_outer) = (dims.split_last()?.1, hot.split_last()?.1);
    // What nothing is known of is no evidence that nothing was repeated.
    let told = outer.iter().all(|dim| dim.known().is_some() || dim.symbol().is_some());
    let same = told && outer == hot_outer;
    if !whole || !same || !ed.is_float(node.input(0)?) || weights.dtype() != DType::F32 {
        return None;
    }
    let mut table = to_f64(weights).ok()?;
    // Zero times what is no number is no number.
    if table.iter().any(|value| !value.is_finite()) {
        return None;
    }
    table.extend(std::iter::repeat_n(0.0, columns));
    if let Some(bias) = node.input(2) {
        if ed.rank(bias)? > hot.len() {
            return None;
        }
        add_row(ed, bias, columns, &mut table)?;
    }
    Some((index, from_f64(DType::F32, &[rows + 1, columns], &table).ok()?))
}

/// Adds a constant of so many numbers to each row.
fn add_row(ed: &Editor<'_>, bias: ValueId, columns: usize, table: &mut [f64]) -> Option<()> {
    // One number for each column, whatever axes of one it has before them.
    let row = |bias: &&Tensor| bias.len() == columns && bias.shape().last() == Some(&columns);
    let bias = to_f64(ed.constant(bias).filter(row)?).ok()?;
    let rows = table.chunks_exact_mut(columns.max(1));
    rows.for_each(|row| row.iter_mut().zip(&bias).for_each(|(value, more)| *value += more));
    Some(())
}

/// `t[i] + b == (t + b)[i]` for rows of a constant table.
fn biased(ed: &mut Editor<'_>, at: usize) -> bool {
    let Some((gather, table)) = biased_table(ed, at) else { return false };
    let mut node = ed.node(gather).clone();
    node.inputs[0] = Some(ed.add_constant("", table));
    ed.fuse(at, node, &[gather], "Gather + Add")
}

fn biased_table(ed: &Editor<'_>, at: usize) -> Option<(usize, Tensor)> {
    if !ed.is(at, "Add") {
        return None;
    }
    let (a, b) = (ed.input(at, 0)?, ed.input(at, 1)?);
    let (looked, bias) = if ed.constant(b).is_some() { (a, b) } else { (b, a) };
    let gather = ed.made_by(looked, "Gather").filter(|_| ed.kept(looked).is_none())?;
    let table = ed.constant(ed.input(gather, 0)?).filter(|table| table.rank() == 2)?;
    let rows = ed.node(gather).attrs.int_or("axis", 0).ok()? == 0;
    // More axes may come from the bias.
    if !rows
        || table.len() > TABLE_MAX
        || table.dtype() != DType::F32
        || ed.rank(bias)? > ed.rank(looked)?
    {
        return None;
    }
    let mut sums = to_f64(table).ok()?;
    add_row(ed, bias, table.shape()[1], &mut sums)?;
    Some((gather, from_f64(DType::F32, table.shape(), &sums).ok()?))
}

/// Whether a value is a constant that counts 0, 1, .., `n - 1` along its last axis.
fn counts(ed: &Editor<'_>, value: ValueId, n: usize) -> bool {
    let Some(tensor) = ed.constant(value).filter(|tensor| tensor.shape().last() == Some(&n)) else {
        return false;
    };
    let Ok(values) = to_f64(tensor) else { return false };
    values.iter().enumerate().all(|(at, &value)| value == (at % n) as f64)
}

fn last_is(ed: &Editor<'_>, value: ValueId, extent: usize) -> bool {
    let last = ed.ty(value).dims().and_then(<[_]>::last);
    last.and_then(hetra_ir::Dim::known) == Some(extent)
}
