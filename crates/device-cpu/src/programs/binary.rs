//! Arithmetic on two numbers with broadcasting, in place where the planner allows it.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_tensor::{DType, Tensor, broadcast};

use super::{Compile, Form, Outcome, program};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::broadcast::{Binary, binary, broadcast_strides};

pub(super) static OPS: &[(&str, Compile)] = &[
    ("Add", compile),
    ("Sub", compile),
    ("Mul", compile),
    ("Div", compile),
    ("Min", compile),
    ("Max", compile),
    ("PRelu", compile),
    ("Sum", compile),
];

/// Most elements that are written in place.
const IN_PLACE_MAX: usize = 32 << 10;

pub(super) fn takes(Form { node, .. }: &Form<'_>) -> bool {
    // An attribute that is left after import is one of the old forms of broadcasting.
    node.inputs.len() == 2 && node.attrs.0.is_empty()
}

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let op = match node.op.as_str() {
        "Add" | "Sum" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Min" => Binary::Min,
        "Max" => Binary::Max,
        "PRelu" => Binary::Prelu,
        _ => return None,
    };
    program("binary", &[0, 1], move |call| run(call, op))
}

fn run(call: &mut Call<'_>, op: Binary) -> Outcome {
    let (ta, tb) = (call.tensor(0)?, call.tensor(1)?);
    if ta.dtype() != DType::F32 || tb.dtype() != DType::F32 {
        return Ok(None);
    }
    let shape = broadcast(ta.shape(), tb.shape())?;
    for index in [0, 1] {
        let (mine, its) = (call.tensor(index)?, call.tensor(1 - index)?);
        let fits = mine.shape() == shape && (its.shape() == shape || its.len() == 1);
        // Above this size the threads of the other path win.
        if fits
            && mine.len() <= IN_PLACE_MAX
            && let Some(target) = call.take_in_place(index)
        {
            return over(call, op, target, index);
        }
    }
    let (a, b) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let (Some(sa), Some(sb)) =
        (broadcast_strides(a.shape(), &shape), broadcast_strides(b.shape(), &shape))
    else {
        return Ok(None);
    };
    let mut out = call.output(0, DType::F32, &shape)?;
    let (left, right) = ((a.as_slice()?, &sa[..]), (b.as_slice()?, &sb[..]));
    binary(isa(), op, Activation::None, &shape, left, right, out.as_mut_slice()?);
    Ok(Some(vec![out.into()]))
}

/// Writes over input `index`; the other input has its shape, or is one number. The kernel reads
/// and writes through separate slices, so the input is first copied piece by piece into a buffer
/// that stays in cache.
fn over(call: &mut Call<'_>, op: Binary, mut target: Tensor, index: usize) -> Outcome {
    const PIECE: usize = 4096;
    let other = call.tensor(1 - index)?.clone();
    let scalar = other.len() == 1;
    let its = other.as_slice::<f32>()?;
    let mut copy = [0.0f32; PIECE];
    for (piece, values) in target.as_mut_slice::<f32>()?.chunks_mut(PIECE).enumerate() {
        let len = values.len();
        copy[..len].copy_from_slice(values);
        let at = if scalar { 0..1 } else { piece * PIECE..piece * PIECE + len };
        let mine = (&copy[..len], &[1][..]);
        let its = (&its[at], if scalar { &[0][..] } else { &[1][..] });
        let (a, b) = if index == 0 { (mine, its) } else { (its, mine) };
        binary(isa(), op, Activation::None, &[len], a, b, values);
    }
    Ok(Some(vec![target.into()]))
}
