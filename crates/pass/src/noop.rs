//! Nodes that give back what they are given: `Identity(x) == x`, `x * 1 == x`, and the like.
//!
//! Only rewrites that are exact to the bit: `x + 0` is not for floats, as `-0 + 0` is `+0`.

use hetra_ir::{Dim, ValueId};

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static NOOP: Pass = Pass {
    name: "noop",
    doc: "Removes nodes that give back their input: Identity, Dropout at inference, casts and \
          reshapes to the same, x * 1.",
    run: |ed| ed.sweep(remove_noop),
};

fn remove_noop(ed: &mut Editor<'_>, at: usize) -> bool {
    let Some(same) = same_as(ed, at) else { return false };
    let (label, op) = (ed.label(at), ed.node(at).op.clone());
    let done = ed.bypass(at, same);
    if done {
        ed.note(format!("removed {op} at {label}"));
    }
    done
}

/// The input that the first output of a node always equals.
fn same_as(ed: &Editor<'_>, at: usize) -> Option<ValueId> {
    let node = ed.node(at);
    let x = node.input(0)?;
    let second = node.input(1);
    let same = match node.op.as_str() {
        "Identity" => true,
        "Dropout" => match node.input(2) {
            None => node.version >= 7 || node.attrs.int_or("is_test", 0).ok()? != 0,
            Some(training) => ed.constant(training)?.as_bools().ok()? == [0],
        },
        "Cast" => ed.dtype(x)?.onnx() as i64 == *node.attrs.int("to").ok()?,
        "CastLike" => ed.dtype(x)? == ed.dtype(second?)?,
        "Transpose" => match node.attrs.ints_opt("perm").ok()? {
            Some(perm) => perm.iter().copied().eq(0..perm.len() as i64),
            None => ed.rank(x)? < 2,
        },
        // None of these changes the order of elements, so equal shapes are enough.
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => same_shape(ed, x, node.output(0)?),
        // The only one whose output may have more elements: an axis that is not known may be 1.
        "Expand" => {
            let (before, after) = (ed.ty(x).dims()?, ed.ty(node.output(0)?).dims()?);
            before == after && !before.contains(&Dim::Unknown)
        }
        "Concat" | "Sum" | "Max" | "Min" | "Mean" => node.inputs.len() == 1,
        "Slice" => takes_all(ed, at)?,
        "Pad" => ed.ints(second?)?.iter().all(|&pad| pad == 0),
        "Mul" => return neutral(ed, at, 1.0, true),
        "Div" | "Pow" => return neutral(ed, at, 1.0, false),
        "Add" => return neutral(ed, at, -0.0, true),
        "Sub" => return neutral(ed, at, 0.0, false),
        _ => false,
    };
    same.then_some(x)
}

/// Whether two values have the same shape: all extents equal, but one may be unknown when the
/// others are not zero, as both hold as many elements.
pub(crate) fn same_shape(ed: &Editor<'_>, a: ValueId, b: ValueId) -> bool {
    let (Some(a), Some(b)) = (ed.ty(a).dims(), ed.ty(b).dims()) else { return false };
    let sure = |(p, q): &(&Dim, &Dim)| p == q && **p != Dim::Unknown;
    let unsure = a.iter().zip(b).filter(|pair| !sure(pair)).count();
    let open = a.iter().zip(b).find(|pair| !sure(pair));
    let opens_up = open.is_none_or(|(p, q)| p.known().is_none() || q.known().is_none());
    let no_zero = a.iter().chain(b).all(|dim| dim.known().is_none_or(|extent| extent > 0));
    let symbols = a.iter().zip(b).any(|(p, q)| p == q && matches!(p, Dim::Sym(_)));
    // With a symbol that might be 0, counts say nothing of the open axis.
    a.len() == b.len() && (unsure == 0 || (unsure == 1 && opens_up && no_zero && !symbols))
}

/// Whether a Slice takes everything, forwards.
fn takes_all(ed: &Editor<'_>, at: usize) -> Option<bool> {
    let node = ed.node(at);
    let forwards = match node.input(4) {
        Some(steps) => ed.ints(steps)?.iter().all(|&step| step == 1),
        None => true,
    };
    let from_start = ed.ints(node.input(1)?)?.iter().all(|&start| start == 0);
    let (before, after) = (ed.ty(node.input(0)?).dims()?, ed.ty(node.output(0)?).dims()?);
    let to_end = before == after && !before.contains(&Dim::Unknown);
    // An end of the largest integer is how exporters write "to the end".
    let ends = ed.ints(node.input(2)?)?;
    let open_end = ends.iter().all(|&end| end >= i64::from(i32::MAX));
    Some(forwards && from_start && (to_end || open_end))
}

/// The other operand, when one is a constant that changes nothing.
fn neutral(ed: &Editor<'_>, at: usize, number: f64, commutes: bool) -> Option<ValueId> {
    let node = ed.node(at);
    let (a, b) = (node.input(0)?, node.input(1)?);
    let is_neutral = |value: ValueId, beside: ValueId| {
        let tensor = ed.constant(value)?;
        let elements = hetra_tensor::to_f64(tensor).ok()?;
        // Integers have one zero.
        let exact = |x: &f64| match tensor.dtype().is_float() {
            true => x.to_bits() == number.to_bits(),
            false => *x == number,
        };
        let fits = match (tensor.len(), ed.rank(beside)) {
            (1, Some(rank)) => tensor.rank() <= rank,
            (1, None) => tensor.rank() == 0,
            _ => same_shape(ed, beside, node.output(0)?) && ed.ty(beside).known_shape().is_some(),
        };
        // Pow is computed in its own way for other dtypes of the exponent.
        let alike = node.op != "Pow" || ed.dtype(beside)? == tensor.dtype();
        (fits && alike && elements.iter().all(exact)).then_some(beside)
    };
    let first = is_neutral(b, a);
    if commutes { first.or_else(|| is_neutral(a, b)) } else { first }
}
