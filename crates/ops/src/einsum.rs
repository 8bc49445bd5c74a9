//! Einsum: sums of products over named axes.
//!
//! The equation is read once into labels, a number for each axis. Operands are contracted from
//! left to right, two at a time; a label is summed as soon as nothing further needs it.

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{DType, Tensor, Value, element_count, strides_of};

use crate::context::{EvalCtx, InferCtx, broadcast_dim};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dispatch::dispatch;
use crate::error::OpError;
use crate::real::{Ring, elements_as, narrow, with_real};
use crate::window::advance;
use crate::work::{Work, elements};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&EINSUM];

static EINSUM: OpDef = OpDef {
    name: "Einsum",
    doc: "Sums of products over axes named by an equation.",
    onnx: &[onnx("", "Einsum", 12)],
    inputs: Arity::at_least(1),
    kind: Kind::Heavy,
    infer: infer_einsum,
    work: einsum_work,
    eval: eval_einsum,
    ..OpDef::DEFAULT
};

/// Names an axis: a letter, or a number from 1000 on for axes that `...` stands for, counted from
/// the right so that operands of different ranks broadcast.
type Label = u32;

const ELLIPSIS: Label = 1000;

/// The equation of an Einsum, applied to operands of known ranks. Axes with the same number are
/// walked together; those that the output lacks are summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EinsumForm {
    /// A label for each axis of each operand.
    pub operands: Vec<Vec<u32>>,
    /// A label for each axis of the output: each once, and all of them from some operand.
    pub output: Vec<u32>,
}

impl EinsumForm {
    /// Reads the equation.
    ///
    /// # Errors
    /// When it is malformed, or the operands are of other ranks.
    pub fn of(attrs: &Attrs, ranks: &[usize]) -> Result<EinsumForm, OpError> {
        EinsumForm::parse(attrs.str("equation")?, ranks)
    }

    fn parse(text: &str, ranks: &[usize]) -> Result<EinsumForm, OpError> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            return Err(OpError::invalid(format!(
                "equation `{text}` has {} operands, the node {}",
                terms.len(),
                ranks.len()
            )));
        }
        let mut operands = Vec::new();
        let mut widest = 0;
        for (index, (term, &rank)) in terms.iter().zip(ranks).enumerate() {
            let letters = term.chars().filter(|c| c.is_ascii_alphabetic()).count();
            let hidden =
                rank.checked_sub(letters).filter(|&hidden| hidden == 0 || term.contains("..."));
            let hidden = hidden.ok_or_else(|| {
                OpError::input(index, format!("`{term}`"), format!("rank {rank}"))
            })?;
            widest = widest.max(hidden);
            operands.push(labels(term, hidden)?);
        }
        let output = match right {
            Some(right) => labels(right, if right.contains("...") { widest } else { 0 })?,
            None => implicit_output(&operands, widest),
        };
        let known = |label: &Label| operands.iter().any(|operand| operand.contains(label));
        let repeated = (1..output.len()).any(|at| output[..at].contains(&output[at]));
        if repeated || !output.iter().all(known) {
            return Err(OpError::invalid(format!("equation `{text}` has no such output")));
        }
        Ok(EinsumForm { operands, output })
    }
}

/// The labels of one term; `...` stands for `hidden` axes.
fn labels(term: &str, hidden: usize) -> Result<Vec<Label>, OpError> {
    let fault = || OpError::invalid(format!("term `{term}` of an equation"));
    let mut labels = Vec::new();
    let mut rest = term;
    let mut seen = false;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("...") {
            if std::mem::replace(&mut seen, true) {
                return Err(fault());
            }
            labels.extend((0..hidden as Label).rev().map(|from_right| ELLIPSIS + from_right));
            rest = after;
        } else if first.is_ascii_alphabetic() {
            labels.push(first.into());
            rest = &rest[1..];
        } else {
            return Err(fault());
        }
    }
    Ok(labels)
}

/// Hidden axes, then the labels that stand once, in alphabetical order.
fn implicit_output(operands: &[Vec<Label>], widest: usize) -> Vec<Label> {
    let mut output: Vec<Label> = (0..widest as Label).rev().map(|n| ELLIPSIS + n).collect();
    let all = || operands.iter().flatten().copied();
    let mut once: Vec<Label> = all()
        .filter(|&label| label < ELLIPSIS && all().filter(|&other| other == label).count() == 1)
        .collect();
    once.sort_unstable();
    output.extend(once);
    output
}

/// A dense tensor with a label for each axis.
struct Term<T> {
    labels: Vec<Label>,
    extents: Vec<usize>,
    values: Vec<T>,
}

impl<T> Term<T> {
    /// Step of each label: the sum over its axes (a repeated label walks the diagonal).
    fn steps(&self, labels: &[Label]) -> Vec<usize> {
        let strides = strides_of(&self.extents);
        let step = |label: &Label| {
            let axes = self.labels.iter().zip(self.extents.iter().zip(&strides));
            axes.filter(|(own, (extent, _))| *own == label && **extent != 1)
                .map(|(_, (_, stride))| stride)
                .sum()
        };
        labels.iter().map(step).collect()
    }
}

/// The extents of labels over some terms.
///
/// A label whose axes disagree is a fault unless the smaller extent is 1.
fn extents_of<T>(terms: &[&Term<T>], labels: &[Label]) -> Result<Vec<usize>, OpError> {
    let extent = |&label: &Label| {
        let axes = terms.iter().flat_map(|term| term.labels.iter().zip(&term.extents));
        let mut own = axes.filter(|(other, _)| **other == label).map(|(_, &extent)| extent);
        own.try_fold(1, |known, extent| match (known, extent) {
            (1, extent) => Ok(extent),
            (known, extent) if extent == known || extent == 1 => Ok(known),
            (known, extent) => {
                Err(OpError::invalid(format!("one label, extents {known} and {extent}")))
            }
        })
    };
    labels.iter().map(extent).collect()
}

/// Sums the product of two terms over every label that is not kept.
fn contract<T: Ring>(a: &Term<T>, b: &Term<T>, kept: &[Label]) -> Result<Term<T>, OpError> {
    let mut summed: Vec<Label> = Vec::new();
    for &label in a.labels.iter().chain(&b.labels) {
        if !kept.contains(&label) && !summed.contains(&label) {
            summed.push(label);
        }
    }
    let outer = extents_of(&[a, b], kept)?;
    let inner = extents_of(&[a, b], &summed)?;
    let (a_outer, b_outer) = (a.steps(kept), b.steps(kept));
    let (a_inner, b_inner) = (a.steps(&summed), b.steps(&summed));
    let mut out = Tensor::zeros(T::DTYPE, &outer)?;
    // The last summed label is a loop of its own.
    let (row, rest) = inner.split_last().map_or((1, &[][..]), |(row, rest)| (*row, rest));
    let step = |steps: &[usize]| steps.last().copied().unwrap_or(0);
    let (a_step, b_step) = (step(&a_inner), step(&b_inner));
    let dot = |at: &[usize], steps: &[usize]| -> usize {
        at.iter().zip(steps).map(|(index, step)| index * step).sum()
    };
    let terms = element_count(&inner)?;
    let mut at = vec![0; kept.len()];
    let mut walk = vec![0; rest.len()];
    if terms > 0 {
        for slot in out.as_mut_slice::<T>()? {
            let (a_start, b_start) = (dot(&at, &a_outer), dot(&at, &b_outer));
            walk.fill(0);
            loop {
                let a_row = a_start + dot(&walk, &a_inner);
                let b_row = b_start + dot(&walk, &b_inner);
                for index in 0..row {
                    let (x, y) =
                        (a.values[a_row + index * a_step], b.values[b_row + index * b_step]);
                    *slot = slot.add_mul(x, y);
                }
                if !advance(&mut walk, rest) {
                    break;
                }
            }
            advance(&mut at, &outer);
        }
    }
    let values = out.as_slice::<T>()?.to_vec();
    Ok(Term { labels: kept.to_vec(), extents: outer, values })
}

fn sum_of_products<T: Ring>(
    equation: &EinsumForm,
    terms: Vec<Term<T>>,
    one: T,
) -> Result<Tensor, OpError> {
    let mut left = Term { labels: vec![], extents: vec![], values: vec![one] };
    for (index, term) in terms.iter().enumerate() {
        let later = &equation.operands[index + 1..];
        let kept = match later.is_empty() {
            true => equation.output.clone(),
            false => {
                let needed = |label: &Label| {
                    equation.output.contains(label) || later.iter().any(|l| l.contains(label))
                };
                let mut kept: Vec<Label> =
                    left.labels.iter().chain(&term.labels).copied().filter(needed).collect();
                let mut seen = Vec::new();
                kept.retain(|label| {
                    let fresh = !seen.contains(label);
                    seen.push(*label);
                    fresh
                });
                kept
            }
        };
        left = contract(&left, term, &kept)?;
    }
    Ok(Tensor::from_slice(&left.extents, &left.values)?)
}

fn eval_einsum(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let tensors =
        (0..ctx.inputs.len()).map(|index| ctx.tensor(index)).collect::<Result<Vec<_>, _>>()?;
    let ranks: Vec<usize> = tensors.iter().map(|tensor| tensor.rank()).collect();
    let equation = EinsumForm::of(ctx.attrs(), &ranks)?;
    let dtype = ctx.tensor(0)?.dtype();
    if let Some(index) = tensors.iter().position(|tensor| tensor.dtype() != dtype) {
        return Err(OpError::input(index, dtype.name(), tensors[index].describe()));
    }
    let result = if dtype.is_float() {
        with_real!(0, dtype, T => {
            let terms = tensors.iter().zip(&equation.operands).enumerate();
            let terms = terms.map(|(index, (tensor, labels))| {
                let values = elements_as::<T>(index, tensor)?.into_owned();
                Ok(Term { labels: labels.clone(), extents: tensor.shape().to_vec(), values })
            });
            let terms = terms.collect::<Result<Vec<_>, OpError>>()?;
            narrow(sum_of_products::<T>(&equation, terms, 1.0)?, dtype)
        })?
    } else {
        dispatch!(dtype, T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
            let terms = tensors.iter().zip(&equation.operands).map(|(tensor, labels)| {
                let values = tensor.as_slice::<T>()?.to_vec();
                Ok(Term { labels: labels.clone(), extents: tensor.shape().to_vec(), values })
            });
            let terms = terms.collect::<Result<Vec<_>, OpError>>()?;
            sum_of_products::<T>(&equation, terms, 1)
        })?
    };
    Ok(vec![result.into()])
}

fn infer_einsum(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype: Option<DType> = (0..ctx.len()).find_map(|index| ctx.dtype_opt(index));
    let operands: Option<Vec<&[Dim]>> = (0..ctx.len()).map(|index| ctx.dims(index)).collect();
    let Some(operands) = operands else { return Ok(vec![InferCtx::make(dtype, None)]) };
    let ranks: Vec<usize> = operands.iter().map(|dims| dims.len()).collect();
    let equation = EinsumForm::of(ctx.attrs(), &ranks)?;
    let extent = |label: &Label| {
        let axes = equation.operands.iter().zip(&operands);
        let mut axes = axes.flat_map(|(labels, dims)| labels.iter().zip(dims.iter()));
        axes.try_fold(Dim::Known(1), |known, (own, dim)| match own == label {
            true => broadcast_dim(&known, dim),
            false => Ok(known),
        })
    };
    // Those that are summed have to agree, too.
    equation.operands.iter().flatten().try_for_each(|label| extent(label).map(drop))?;
    let dims = equation.output.iter().map(extent).collect::<Result<_, _>>()?;
    Ok(vec![InferCtx::make(dtype, Some(dims))])
}

/// One multiply-add for each output element and summed index, as if all operands met at once.
fn einsum_work(ctx: &InferCtx<'_>, outputs: &[Type]) -> Work {
    let shapes: Option<Vec<Vec<usize>>> =
        (0..ctx.len()).map(|index| ctx.ty_opt(index)?.known_shape()).collect();
    let Some(shapes) = shapes else { return Work::default() };
    let ranks: Vec<usize> = shapes.iter().map(Vec::len).collect();
    let Ok(equation) = EinsumForm::of(ctx.attrs(), &ranks) else { return Work::default() };
    let mut seen = equation.output.clone();
    let mut terms = outputs.first().map_or(0.0, elements);
    for (labels, shape) in equation.operands.iter().zip(&shapes) {
        for (&label, &extent) in labels.iter().zip(shape) {
            if !seen.contains(&label) {
                seen.push(label);
                terms *= extent as f64;
            }
        }
    }
    Work::macs(terms)
}

#[cfg(test)]
mod tests {
    use crate::case::{iota, node, run};

    #[test]
    fn equations() {
        let check = |text: &str, shapes: &[&[usize]], shape: &[usize], wanted: &[f32]| {
            let inputs: Vec<_> = shapes.iter().map(|shape| iota(shape)).collect();
            let y = run(node("Einsum", 1).with("equation", text), &inputs).unwrap();
            assert_eq!(y[0].shape(), shape, "{text}");
            assert_eq!(y[0].as_slice::<f32>().unwrap(), wanted, "{text}");
        };
        check("ij->ji", &[&[2, 2]], &[2, 2], &[0.0, 2.0, 1.0, 3.0]);
        check("ii", &[&[2, 2]], &[], &[3.0]);
        check("...ii ->...i", &[&[2, 2, 2]], &[2, 2], &[0.0, 3.0, 4.0, 7.0]);
        check("ij,jk", &[&[2, 2], &[2, 2]], &[2, 2], &[2.0, 3.0, 6.0, 11.0]);
        check("...i,...i->...", &[&[2, 2], &[2]], &[2], &[1.0, 3.0]);
        check("a,b,ab->", &[&[2], &[2], &[2, 2]], &[], &[3.0]);
        check("b...,...->b...", &[&[1, 2], &[2]], &[1, 2], &[0.0, 1.0]);
        check("ba->", &[&[0, 2]], &[], &[0.0]);
        check("->", &[&[]], &[], &[0.0]);
    }

    #[test]
    fn wrong_equations_are_errors() {
        let check = |text: &str, shapes: &[&[usize]]| {
            let inputs: Vec<_> = shapes.iter().map(|shape| iota(shape)).collect();
            assert!(run(node("Einsum", 1).with("equation", text), &inputs).is_err(), "{text}");
        };
        check("ij->k", &[&[2, 2]]);
        check("ij->ii", &[&[2, 2]]);
        check("ij", &[&[2]]);
        check("i,i", &[&[2]]);
        check("i,i->", &[&[2], &[3]]);
        check("i..j", &[&[2, 2]]);
        check("......", &[&[2, 2]]);
        check("ñ", &[&[2]]);
    }
}
