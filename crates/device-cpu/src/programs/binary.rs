//! Arithmetic on two numbers with broadcasting, in place where the planner allows it.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::{Dim, Node, Type};
use hetra_tensor::{DType, Tensor, broadcast};

use super::{Compile, Form, Outcome, one, program_over};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_rows::broadcast::{Binary, binary, broadcast_strides};
use hetra_cpu_rows::broadcast_bf16::binary_bf16;

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

/// Most elements that are written in place: above, the threads of the other path win.
const IN_PLACE_MAX: usize = 32 << 10;

pub(super) fn takes(form: &Form<'_>) -> bool {
    let node = form.node;
    let low = |index: usize| form.ty(node.input(index)).dtype() == Some(DType::BF16);
    let dtypes = match low(0) && low(1) {
        true => matches!(node.op.as_str(), "Add" | "Mul") && rows(form),
        false => form.may_be(0, &[DType::F32]),
    };
    // An attribute that is left after import is one of the old forms of broadcasting.
    dtypes && node.inputs.len() == 2 && node.attrs.0.is_empty()
}

/// Whether both inputs have as many axes, and as many columns.
fn rows(form: &Form<'_>) -> bool {
    let dims = |index: usize| form.ty(form.node.input(index)).dims();
    let (Some(a), Some(b)) = (dims(0), dims(1)) else { return false };
    let columns = |dims: &[Dim]| dims.last().and_then(Dim::known);
    a.len() == b.len() && columns(a).is_some() && columns(a) == columns(b)
}

/// The kernel's function for an operator.
pub(super) fn op_of(op: &str) -> Option<Binary> {
    Some(match op {
        "Add" | "Sum" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Min" => Binary::Min,
        "Max" => Binary::Max,
        "PRelu" => Binary::Prelu,
        _ => return None,
    })
}

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let op = op_of(&node.op)?;
    program_over("binary", in_place, move |call| run(call, op))
}

/// Whether the output is written over input `index`: the other one has its shape, or is one number.
fn in_place(index: usize, types: &[Option<&Type>]) -> bool {
    let of = |index: usize| {
        let ty = types.get(index).copied().flatten()?;
        (ty.dtype() == Some(DType::F32)).then(|| ty.known_shape()).flatten()
    };
    let (Some(mine), Some(its)) = (of(index), of(1 - index)) else { return false };
    let len = |shape: &[usize]| shape.iter().product::<usize>();
    let fits = its == mine || len(&its) == 1 && its.len() <= mine.len();
    fits && len(&mine) <= IN_PLACE_MAX
}

fn run(call: &mut Call<'_>, op: Binary) -> Outcome {
    let dtype = call.tensor(0)?.dtype();
    if call.tensor(1)?.dtype() != dtype || !matches!(dtype, DType::F32 | DType::BF16) {
        return Ok(None);
    }
    for index in [0, 1] {
        if let Some(target) = call.take_in_place(index) {
            return over(call, op, target, index);
        }
    }
    let (a, b) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let shape = broadcast(a.shape(), b.shape())?;
    let (Some(sa), Some(sb)) =
        (broadcast_strides(a.shape(), &shape), broadcast_strides(b.shape(), &shape))
    else {
        return Ok(None);
    };
    let mut out = call.output(0, dtype, &shape)?;
    if dtype == DType::BF16 {
        let (left, right) = ((a.as_slice()?, &sa[..]), (b.as_slice()?, &sb[..]));
        binary_bf16(isa(), op, &shape, left, right, out.as_mut_slice()?);
    } else {
        let (left, right) = ((a.as_slice()?, &sa[..]), (b.as_slice()?, &sb[..]));
        binary(isa(), op, Activation::None, &shape, left, right, out.as_mut_slice()?);
    }
    one(out)
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
    one(target)
}
