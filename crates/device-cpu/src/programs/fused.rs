//! Elementwise operators that the passes put into one node, and a reduction behind them.

use std::collections::BTreeSet;
use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::{Graph, Node, ValueId};
use hetra_ops::resolve_axis;
use hetra_tensor::{DType, Shape, Tensor, to_i64};

use super::{Compile, Form, Outcome, binary, one, pointwise, program, reduce};
use hetra_cpu_base::isa::isa;
use hetra_cpu_rows::fused::{Fused, Source, Step};
use hetra_cpu_rows::norm::Reduce;

pub(super) static OPS: &[(&str, Compile)] = &[("hetra.Fused", compile)];

pub(super) fn takes(form: &Form<'_>) -> bool {
    Body::of(form.node).is_some()
}

/// What a body does.
struct Body {
    steps: Vec<Step>,
    /// The shape of the elements.
    shape: Shape,
    /// Which inputs are one number.
    numbers: Vec<bool>,
    reduction: Option<Reduction>,
}

struct Reduction {
    op: Reduce,
    /// How many elements become one.
    axis: usize,
    /// The shape of the result.
    shape: Shape,
}

impl Body {
    /// `None` for a body that holds something else.
    fn of(node: &Node) -> Option<Body> {
        let body = node.attrs.graph("body").ok()?;
        let shapes: Vec<Vec<usize>> =
            body.inputs.iter().map(|&id| body.ty(id).known_shape()).collect::<Option<_>>()?;
        let numbers: Vec<bool> = shapes.iter().map(|shape| shape.iter().all(|&e| e == 1)).collect();
        let whole = shapes.iter().zip(&numbers).find(|(_, number)| !**number);
        let shape: Shape = whole?.0.as_slice().into();
        let whole = |(shape_of, number): (&Vec<usize>, &bool)| *number || shape_of[..] == shape[..];
        let floats = body.inputs.iter().all(|&id| body.ty(id).dtype() == Some(DType::F32));
        if !floats || !shapes.iter().zip(&numbers).all(whole) {
            return None;
        }
        let [output] = body.outputs[..] else { return None };
        let mut found = Body { steps: vec![], shape, numbers, reduction: None };
        let mut made: Vec<ValueId> = Vec::new();
        for (at, node) in body.nodes.iter().enumerate() {
            let last = at + 1 == body.nodes.len();
            if let Some(op) = reduce::op_of(&node.op).filter(|_| last && at > 0) {
                found.reduction = Some(found.reduction(body, node, op)?);
                let before = node.input(0)? == *made.last()?;
                return (before && node.output(0) == Some(output)).then_some(found);
            }
            let source = |id: ValueId| found.source(body, &made, id);
            let step = match (pointwise::function(node), binary::op_of(&node.op), &node.inputs[..])
            {
                (Some(function), _, [Some(x)]) => Step::Map(function, source(*x)?),
                (_, Some(op), [Some(a), Some(b)]) if node.attrs.0.is_empty() => {
                    Step::Pair(op, source(*a)?, source(*b)?)
                }
                _ => return None,
            };
            found.steps.push(step);
            made.push(node.output(0)?);
        }
        (made.last() == Some(&output)).then_some(found)
    }

    fn source(&self, body: &Graph, made: &[ValueId], id: ValueId) -> Option<Source> {
        if let Some(step) = made.iter().position(|&value| value == id) {
            return Some(Source::Step(step));
        }
        let input = body.inputs.iter().position(|&value| value == id)?;
        Some(if self.numbers[input] { Source::Number(input) } else { Source::Input(input) })
    }

    /// Along the last axes, or along all.
    fn reduction(&self, body: &Graph, node: &Node, op: Reduce) -> Option<Reduction> {
        let rank = self.shape.len();
        let keep = node.attrs.flag_or("keepdims", true).ok()?;
        let listed = match node.input(1) {
            Some(axes) => to_i64(body.constant(axes)?).ok()?,
            None => Vec::new(),
        };
        let noop = node.attrs.flag_or("noop_with_empty_axes", false).ok()?;
        let axes: Option<BTreeSet<usize>> =
            listed.iter().map(|&axis| resolve_axis(axis, rank).ok()).collect();
        let axes = axes?;
        let first = match axes.first() {
            None if noop => return None,
            None => 0,
            Some(&first) => first,
        };
        // The last ones, all of them.
        if !axes.is_empty() && axes.len() != rank - first {
            return None;
        }
        let mut shape: Shape = self.shape[..first].into();
        shape.resize(if keep { rank } else { first }, 1);
        Some(Reduction { op, axis: self.shape[first..].iter().product(), shape })
    }
}

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let Body { steps, shape, numbers, reduction } = Body::of(node)?;
    let fused = Fused::new(steps)?;
    program("fused", move |call| run(call, &fused, &shape, &numbers, reduction.as_ref()))
}

fn run(
    call: &mut Call<'_>,
    fused: &Fused,
    shape: &[usize],
    numbers: &[bool],
    reduction: Option<&Reduction>,
) -> Outcome {
    let mut tensors: Vec<Tensor> = Vec::with_capacity(numbers.len());
    for (index, &number) in numbers.iter().enumerate() {
        let tensor = call.tensor(index)?;
        let fits = if number { tensor.len() == 1 } else { tensor.shape() == shape };
        if !fits || tensor.dtype() != DType::F32 {
            return Ok(None);
        }
        tensors.push(tensor.clone());
    }
    let inputs: Vec<&[f32]> = tensors.iter().map(Tensor::as_slice).collect::<Result<_, _>>()?;
    let target = reduction.map_or(shape, |reduction| &reduction.shape);
    let mut out = call.output(0, DType::F32, target)?;
    match reduction {
        None => fused.map(isa(), &inputs, out.as_mut_slice()?),
        Some(Reduction { op, axis, .. }) => {
            fused.reduce(isa(), *op, &inputs, *axis, out.as_mut_slice()?);
        }
    }
    one(out)
}
