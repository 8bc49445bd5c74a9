//! Einsum: operands meet two at a time, as matrix products where something is summed and as
//! broadcasting products where nothing is.
//!
//! Axes of extent 1 are dropped first, which leaves nothing of broadcasting. What only one of two
//! operands has, and nothing needs further, is summed before they meet. The other labels are of
//! four kinds: kept and in both (the batch), kept and in one (rows or columns), summed and in both.
//! An operand whose rows or columns do not lie at one distance is transposed. Diagonals are left
//! to the reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::{Dim, Node};
use hetra_ops::{EinsumForm, OpError};
use hetra_tensor::{DType, Tensor, TensorError, strides_of};

use super::extents::product;
use super::matmul::offsets;
use super::movement::tensors;
use super::{Compile, Form, Outcome, one, program};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::gemm::{Batch, Epilogue, gemm_batch};
use hetra_cpu_kernels::layout::transpose;
use hetra_cpu_rows::broadcast::{Binary, binary};
use hetra_cpu_rows::norm::{Reduce, reduce};

pub(super) static OPS: &[(&str, Compile)] = &[("Einsum", compile)];

/// Multiply-adds of one matrix product below which the reference is as fast, if there are many.
const PRODUCT_MIN: usize = 16;

pub(super) fn takes(form: &Form<'_>) -> bool {
    let inputs = form.node.inputs.iter();
    let ranks: Option<Vec<usize>> =
        inputs.map(|id| form.ty(*id).dims().map(<[Dim]>::len)).collect();
    // What is open is seen at run time.
    ranks.is_none_or(|ranks| {
        let equation = EinsumForm::of(&form.node.attrs, &ranks);
        equation.is_ok_and(|equation| equation.operands.iter().all(|labels| no_diagonal(labels)))
    })
}

fn no_diagonal(labels: &[u32]) -> bool {
    (1..labels.len()).all(|at| !labels[..at].contains(&labels[at]))
}

fn compile(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    program("einsum", run)
}

/// A dense tensor with a label for each axis; no extent is 1.
#[derive(Clone)]
struct Term {
    labels: Vec<u32>,
    extents: Vec<usize>,
    values: Tensor,
}

/// The extent of each label; `None` when axes disagree, which the reference reports.
fn extents_of(form: &EinsumForm, tensors: &[Tensor]) -> Option<BTreeMap<u32, usize>> {
    let mut extents = BTreeMap::new();
    for (labels, tensor) in form.operands.iter().zip(tensors) {
        for (&label, &extent) in labels.iter().zip(tensor.shape()) {
            let known = extents.entry(label).or_insert(1);
            if *known != extent && *known != 1 && extent != 1 {
                return None;
            }
            *known = extent.max(*known);
        }
    }
    Some(extents)
}

fn run(call: &mut Call<'_>) -> Outcome {
    let tensors = tensors(call)?;
    if tensors.iter().any(|tensor| tensor.dtype() != DType::F32 || tensor.is_empty()) {
        return Ok(None);
    }
    let ranks: Vec<usize> = tensors.iter().map(Tensor::rank).collect();
    let form = EinsumForm::of(&call.node.attrs, &ranks)?;
    let Some(extents) = extents_of(&form, &tensors) else { return Ok(None) };
    if !form.operands.iter().all(|labels| no_diagonal(labels)) {
        return Ok(None);
    }
    let shape: Vec<usize> = form.output.iter().map(|label| extents[label]).collect();
    let wanted: Vec<u32> =
        form.output.iter().copied().filter(|label| extents[label] != 1).collect();
    let terms: Vec<Term> = form.operands.iter().zip(&tensors).map(Term::new).collect();
    let mut out = |extents: &[usize]| call.output(0, DType::F32, extents);
    let Some(result) = contract_all(terms, &wanted, &mut out)? else { return Ok(None) };
    one(result.values.reshape(&shape)?)
}

/// Makes a tensor of some extents.
type Make<'a, 'b> = &'a mut (dyn FnMut(&[usize]) -> Result<Tensor, TensorError> + 'b);

/// The terms contracted from left to right, with the axes as wanted. Only what is returned may be
/// in the tensor that `out` makes.
fn contract_all(
    terms: Vec<Term>,
    wanted: &[u32],
    out: Make<'_, '_>,
) -> Result<Option<Term>, OpError> {
    let labels: Vec<Vec<u32>> = terms.iter().map(|term| term.labels.clone()).collect();
    let mut terms = terms.into_iter();
    let Some(mut left) = terms.next() else { return Ok(None) };
    for (index, right) in terms.enumerate() {
        let later = &labels[index + 2..];
        let needed = |label: &u32| {
            wanted.contains(label) || later.iter().any(|labels| labels.contains(label))
        };
        let a = left.summed(|label| needed(label) || right.labels.contains(label))?;
        let b = right.summed(|label| needed(label) || a.labels.contains(label))?;
        let kept: Vec<u32> = if later.is_empty() {
            wanted.to_vec()
        } else {
            let fresh = b.labels.iter().filter(|label| !a.labels.contains(label));
            a.labels.iter().chain(fresh).copied().filter(|label| needed(label)).collect()
        };
        let step = Step::of(&a, &b, &kept);
        let target: Option<Make<'_, '_>> = match later.is_empty() && step.order() == wanted {
            true => Some(&mut *out),
            false => None,
        };
        let Some(product) = step.run(target)? else { return Ok(None) };
        left = product;
    }
    let left = left.summed(|label| wanted.contains(label))?;
    Ok(Some(left.arranged(wanted, Some(out))?))
}

impl Term {
    fn new((labels, tensor): (&Vec<u32>, &Tensor)) -> Term {
        let axes = labels.iter().zip(tensor.shape()).filter(|(_, extent)| **extent != 1);
        let (labels, extents) = axes.map(|(label, extent)| (*label, *extent)).unzip();
        Term { labels, extents, values: tensor.clone() }
    }

    fn place(&self, label: u32) -> Option<usize> {
        self.labels.iter().position(|own| *own == label)
    }

    fn extents_of(&self, labels: &[u32]) -> Vec<usize> {
        let extent = |label: &u32| self.place(*label).map_or(1, |axis| self.extents[axis]);
        labels.iter().map(extent).collect()
    }

    /// The distance between neighbours along each label; 0 where the term has no such axis.
    fn steps(&self, labels: &[u32]) -> Vec<usize> {
        let strides = strides_of(&self.extents);
        labels.iter().map(|label| self.place(*label).map_or(0, |axis| strides[axis])).collect()
    }

    /// The distance between neighbours along axes taken as one, if there is one distance.
    fn step(&self, labels: &[u32]) -> Option<usize> {
        let (steps, extents) = (self.steps(labels), self.extents_of(labels));
        let even = (1..labels.len()).all(|at| steps[at - 1] == steps[at] * extents[at]);
        even.then(|| steps.last().copied().unwrap_or(1))
    }

    /// The same with the axes in another order, which is of the same labels.
    fn arranged(self, order: &[u32], make: Option<Make<'_, '_>>) -> Result<Term, OpError> {
        if self.labels == order {
            return Ok(self);
        }
        let perm: Vec<usize> = order.iter().filter_map(|label| self.place(*label)).collect();
        let extents = self.extents_of(order);
        let mut values = made(make, &extents)?;
        let source = self.values.as_slice::<f32>()?;
        transpose(source, &self.extents, &perm, values.as_mut_slice::<f32>()?);
        Ok(Term { labels: order.to_vec(), extents, values })
    }

    /// Sums the axes that nothing needs.
    fn summed(self, needed: impl Fn(&u32) -> bool) -> Result<Term, OpError> {
        let (kept, gone): (Vec<u32>, Vec<u32>) = self.labels.iter().partition(|l| needed(l));
        let Some(first) = gone.first().and_then(|label| self.place(*label)) else {
            return Ok(self);
        };
        let last = first + gone.len();
        let (term, at) = match self.labels.get(first..last) == Some(&gone) {
            true => (self, first),
            false => (self.arranged(&[&kept[..], &gone].concat(), None)?, kept.len()),
        };
        let (outer, rest) = term.extents.split_at(at);
        let (axis, inner) = rest.split_at(gone.len());
        let extents = [outer, inner].concat();
        let mut values = made(None, &extents)?;
        let sizes = [product(outer), product(axis), product(inner)];
        let source = term.values.as_slice::<f32>()?;
        reduce(isa(), Reduce::Sum, source, sizes, values.as_mut_slice()?);
        Ok(Term { labels: kept, extents, values })
    }
}

fn made(make: Option<Make<'_, '_>>, extents: &[usize]) -> Result<Tensor, TensorError> {
    match make {
        Some(make) => make(extents),
        None => Tensor::zeros(DType::F32, extents),
    }
}

/// Two terms that meet: what each label is to them.
struct Step<'a> {
    a: &'a Term,
    b: &'a Term,
    kept: &'a [u32],
    batch: Vec<u32>,
    rows: Vec<u32>,
    columns: Vec<u32>,
    summed: Vec<u32>,
}

impl<'a> Step<'a> {
    fn of(a: &'a Term, b: &'a Term, kept: &'a [u32]) -> Step<'a> {
        // The columns are what lies closest in the result.
        let last = kept.iter().rfind(|label| a.labels.contains(label) != b.labels.contains(label));
        let (a, b) = match last {
            Some(label) if a.labels.contains(label) => (b, a),
            _ => (a, b),
        };
        let of = |in_a: bool, in_b: bool| -> Vec<u32> {
            let own =
                |label: &u32| a.labels.contains(label) == in_a && b.labels.contains(label) == in_b;
            kept.iter().copied().filter(own).collect()
        };
        let summed = a.labels.iter().copied().filter(|label| !kept.contains(label)).collect();
        let (batch, rows, columns) = (of(true, true), of(true, false), of(false, true));
        Step { a, b, kept, batch, rows, columns, summed }
    }

    fn outer(&self) -> bool {
        self.summed.is_empty()
    }

    /// The labels of the result.
    fn order(&self) -> Vec<u32> {
        match self.outer() {
            true => self.kept.to_vec(),
            false => [&self.batch[..], &self.rows, &self.columns].concat(),
        }
    }

    fn extents(&self, labels: &[u32]) -> Vec<usize> {
        let pairs = self.a.extents_of(labels).into_iter().zip(self.b.extents_of(labels));
        pairs.map(|(a, b)| a.max(b)).collect()
    }

    fn run(self, make: Option<Make<'_, '_>>) -> Result<Option<Term>, OpError> {
        let [m, n, k] =
            [&self.rows, &self.columns, &self.summed].map(|group| product(&self.extents(group)));
        let count = product(&self.extents(&self.batch));
        if !self.outer() && count > 1 && m.saturating_mul(n).saturating_mul(k) < PRODUCT_MIN {
            return Ok(None);
        }
        let labels = self.order();
        let extents = self.extents(&labels);
        let mut values = made(make, &extents)?;
        let target = values.as_mut_slice::<f32>()?;
        if self.outer() {
            let (sa, sb) = (self.a.steps(&labels), self.b.steps(&labels));
            let (a, b) =
                ((self.a.values.as_slice()?, &sa[..]), (self.b.values.as_slice()?, &sb[..]));
            binary(isa(), Binary::Mul, Activation::None, &extents, a, b, target);
            return Ok(Some(Term { labels, extents, values }));
        }
        let (a, a_strides) = self.matrices(self.a, [&self.rows, &self.summed])?;
        let (b, b_strides) = self.matrices(self.b, [&self.summed, &self.columns])?;
        let starts = |term: &Term| offsets(&self.extents(&self.batch), &term.steps(&self.batch));
        let (a_offsets, b_offsets) = (&starts(&a)[..], &starts(&b)[..]);
        let batch = Batch { m, n, k, a_strides, b_strides, a_offsets, b_offsets };
        let (a, b) = (a.values.as_slice()?, b.values.as_slice()?);
        gemm_batch(isa(), &batch, a, b, target, &Epilogue::default());
        Ok(Some(Term { labels, extents, values }))
    }

    /// A term as matrices, one for each index of the batch, with their row and column stride.
    fn matrices(
        &self,
        term: &Term,
        [rows, columns]: [&[u32]; 2],
    ) -> Result<(Term, (usize, usize)), OpError> {
        let term = term.clone();
        if let (Some(row), Some(column)) = (term.step(rows), term.step(columns)) {
            return Ok((term, (row, column)));
        }
        let order = [&self.batch[..], rows, columns].concat();
        let term = term.arranged(&order, None)?;
        let width = product(&term.extents_of(columns));
        Ok((term, (width, 1)))
    }
}

#[cfg(test)]
mod tests {
    use hetra_device::conformance::{Case, Outcome, check};
    use hetra_tensor::from_f64;

    use super::*;
    use crate::CpuDevice;

    /// Whether a kernel ran; panics if it differs from the reference.
    fn fast(equation: &str, shapes: &[&[usize]]) -> bool {
        let input = |shape: &&[usize]| {
            let values: Vec<f64> =
                (0..product(shape)).map(|at| (at * 7 % 11) as f64 - 4.0).collect();
            (Some(from_f64(DType::F32, shape, &values).unwrap()), false)
        };
        let node = Node::new("Einsum", &[], &[]).with("equation", equation);
        let case = Case::new(equation, node, shapes.iter().map(input).collect(), 1);
        match check(&CpuDevice::new(Some(1)).unwrap(), &case, 1e-6) {
            Outcome::Passed { kernel, .. } => kernel != "reference",
            other => panic!("{equation}: {other:?}"),
        }
    }

    #[test]
    fn kernels_run_where_no_diagonal_stands() {
        for (equation, shapes) in [
            ("bhqd,bhkd->bhqk", &[&[2, 3, 5, 4][..], &[2, 3, 6, 4]][..]),
            ("bhqk,bkhd->bqhd", &[&[2, 3, 5, 6], &[2, 6, 3, 4]]),
            ("bhqd,bhkd->bhqk", &[&[2, 3, 5, 4], &[1, 3, 6, 4]]),
            ("ijk,kjl->il", &[&[2, 3, 4], &[4, 3, 5]]),
            ("ij,jk->ki", &[&[3, 4], &[4, 5]]),
            ("i,j", &[&[3], &[4]]),
            ("ij,ij->ij", &[&[3, 4], &[1, 4]]),
            ("ij,j->", &[&[3, 4], &[4]]),
            ("ij,k->k", &[&[3, 4], &[5]]),
            ("...ij,...jk", &[&[2, 3, 4, 5], &[3, 5, 4]]),
            ("ab,bc,cd->ad", &[&[2, 3], &[3, 4], &[4, 5]]),
            ("abc->ca", &[&[2, 3, 4]]),
            ("abc->b", &[&[2, 3, 4]]),
            ("->", &[&[]]),
            (",ab->ab", &[&[], &[2, 3]]),
        ] {
            assert!(fast(equation, shapes), "{equation}");
        }
        for (equation, shapes) in [
            ("ii->i", &[&[3, 3][..]][..]),
            ("bi,bi->b", &[&[9, 2], &[9, 2]]),
            ("ij,jk->ik", &[&[0, 4], &[4, 5]]),
            ("ij,jk->ik", &[&[2, 4], &[3, 5]]),
        ] {
            assert!(!fast(equation, shapes), "{equation}");
        }
    }
}
