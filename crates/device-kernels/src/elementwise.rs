//! What depends on the elements at one place: a kernel is generated for each operator and for how
//! its operands broadcast.

use std::sync::Arc;

use hetra_device::Part;
use hetra_ir::Node;
use hetra_kernel::{E, Kernel, KernelError, Scalar, Trace};
use hetra_tensor::{DType, Shape, broadcast, strides_of};
use smallvec::{SmallVec, smallvec};

use crate::context::{A, Gpu, LINE, Outcome, Run, Stop};
use crate::expression::{Val, apply, result_dtype, takes, takes_dtypes};
use crate::math;
use crate::program::Work;
use crate::stored::Stored;
use crate::table::{Form, Row};

pub(crate) const ROWS: &[Row] = &[
    Row {
        ops: crate::expression::OPS,
        kernel: "elementwise",
        on_device: &[0, 1, 2, 3, 4, 5, 6, 7],
        takes: |form: &Form<'_>| takes(form),
        compile,
    },
    Row {
        ops: &[FUSED],
        kernel: "fused",
        on_device: &[0, 1, 2, 3, 4, 5, 6, 7],
        takes: takes_body,
        compile,
    },
];

/// Elementwise operators that the passes put into one node.
const FUSED: &str = "hetra.Fused";

/// Whether there is an expression for every node of a body.
fn takes_body(form: &Form<'_>) -> bool {
    let Ok(body) = form.node.attrs.graph("body") else { return false };
    let inner = |node: &Node| takes(&form.within(node, body));
    let few = form.node.inputs.len() <= OPERANDS_MAX && body.outputs.len() == 1;
    let floats = (0..form.node.inputs.len()).all(|index| form.is_f32(index));
    few && floats
        && body.captures.is_empty()
        && body.constants.is_empty()
        && body.nodes.iter().all(inner)
}

/// The expression of a node, or of all nodes of a body.
fn expression(t: &Trace, node: &Node, given: &[Option<Val>], dtype: DType) -> Option<Val> {
    if node.op != FUSED {
        return apply(t, node, given, dtype);
    }
    let body = node.attrs.graph("body").ok()?;
    let mut values: Vec<Option<Val>> = vec![None; body.values.len()];
    for (id, value) in body.inputs.iter().zip(given) {
        values[id.index()] = *value;
    }
    for node in &body.nodes {
        let own = node.inputs.iter().map(|input| input.and_then(|id| values[id.index()]));
        let value = apply(t, node, &own.collect::<Vec<_>>(), dtype)?;
        // Written out once, however often it is read.
        values[node.output(0)?.index()] = Some(value.bound(t));
    }
    values[body.outputs.first()?.index()]
}

/// Most operands: a kernel has so many buffers for certain.
pub(crate) const OPERANDS_MAX: usize = 7;

/// Most parameters of a kernel.
const PARAMS_MAX: usize = 64;

/// Most axes that are left when those that can be one are.
const AXES_MAX: usize = 8;

fn compile(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let node = node.clone();
    Some(Box::new(move |run| run_node(&node, run)))
}

fn run_node(node: &Node, run: &Run<'_, '_>) -> Outcome {
    let mut operands: SmallVec<[Option<Stored>; 4]> = SmallVec::new();
    for index in 0..node.inputs.len() {
        operands.push(run.optional(index)?);
    }
    Ok(smallvec![elementwise(run.gpu, node, &operands)?])
}

/// What an operator without attributes gives of operands that are all there.
pub(crate) fn operate(gpu: &Gpu, op: &str, operands: &[&Stored]) -> Result<Stored, Stop> {
    let operands: SmallVec<[Option<Stored>; 4]> =
        operands.iter().map(|&operand| Some(operand.clone())).collect();
    let mut node = Node::new(op, &[], &[]);
    node.inputs.resize(operands.len(), None);
    elementwise(gpu, &node, &operands)
}

/// What an operator gives of operands that the device holds.
pub(crate) fn elementwise(
    gpu: &Gpu,
    node: &Node,
    operands: &[Option<Stored>],
) -> Result<Stored, Stop> {
    let views = views(node, operands)?;
    let there: SmallVec<[&Stored; 4]> = views.iter().flatten().collect();
    if there.is_empty() || there.len() > OPERANDS_MAX {
        return Err(Stop::Host);
    }
    let mut shape: Shape = Shape::new();
    for operand in &there {
        shape = broadcast(&shape, &operand.shape)?;
    }
    // These broadcast one way only, or not at all.
    let one_way = ["PRelu", "com.microsoft.BiasGelu", "com.microsoft.FastGelu", "Clip"];
    let keeps = one_way.contains(&node.op.as_str()) || node.op.ends_with("Linear");
    let channels = there[0].shape.get(1).copied().unwrap_or(1);
    let belong = |of: &&Stored| of.shape.iter().product::<usize>() == channels;
    let normal = node.op != "BatchNormalization"
        || (there[1..].iter().all(belong) && shape == there[0].shape && there[0].shape.len() > 1);
    let buffers = there.len() < gpu.limits().buffers_max;
    if !normal || !buffers || keeps && shape != there[0].shape {
        return Err(Stop::Host);
    }
    let dtypes: SmallVec<[DType; 4]> = there.iter().map(|operand| operand.dtype).collect();
    let fits = match node.op == FUSED {
        true => dtypes.iter().all(|&dtype| dtype == DType::F32),
        false => takes_dtypes(gpu, node, &dtypes),
    };
    if !fits {
        return Err(Stop::Host);
    }
    let dtype = result_dtype(node, &dtypes).ok_or(Stop::Host)?;
    let shapes: SmallVec<[&[usize]; 4]> = there.iter().map(|operand| &operand.shape[..]).collect();
    let axes = merged(&shape, &shapes);
    let params = 2 + there.len() + axes.len() * (1 + there.len());
    if axes.len() > AXES_MAX || params > PARAMS_MAX {
        return Err(Stop::Host);
    }
    let bytes = shape.iter().product::<usize>().saturating_mul(size_of::<u32>());
    let large = there.iter().map(|of| of.bytes()).fold(bytes, usize::max);
    if axes.len() > 1 && large > gpu.limits().part_max {
        return Err(Stop::Host);
    }
    let present: u32 =
        views.iter().enumerate().map(|(i, view)| u32::from(view.is_some()) << i).sum();
    let form = Forms { node, scalars: there.iter().map(|o| o.scalar).collect(), dtype, present };
    let out = gpu.room(dtype, &shape)?;
    launch(gpu, &form, &there, &axes, &out)?;
    Ok(out)
}

/// The operands in shapes that broadcast: what belongs to channels has axes behind it.
fn views(node: &Node, operands: &[Option<Stored>]) -> Result<SmallVec<[Option<Stored>; 4]>, Stop> {
    let rank = operands.first().and_then(Option::as_ref).map_or(0, |x| x.shape.len());
    let channel = match node.op.as_str() {
        "BatchNormalization" => 1,
        "QuantizeLinear" | "DequantizeLinear" => {
            if node.attrs.int_or("block_size", 0)? != 0 {
                return Err(Stop::Host);
            }
            let axis = node.attrs.int_or("axis", 1)?;
            usize::try_from(if axis < 0 { axis + rank as i64 } else { axis })
                .map_err(|_| Stop::Host)?
        }
        _ => return Ok(operands.iter().cloned().collect()),
    };
    let view = |(index, operand): (usize, &Option<Stored>)| {
        let operand = operand.clone()?;
        if index == 0 || operand.shape.len() != 1 || operand.count() == 1 || channel >= rank {
            return Some(operand);
        }
        let mut shape: Shape = smallvec![1; rank - channel];
        shape[0] = operand.count();
        Some(operand.reshaped(&shape))
    };
    Ok(operands.iter().enumerate().map(view).collect())
}

/// What a kernel is generated for.
struct Forms<'a> {
    node: &'a Node,
    scalars: SmallVec<[Scalar; 4]>,
    dtype: DType,
    /// Which inputs are there, as bits.
    present: u32,
}

/// An axis: its extent, and the step of each operand.
type Axis = (usize, SmallVec<[usize; 4]>);

/// The axes of a broadcast, innermost first, those that are one in all operands as one.
fn merged(shape: &[usize], operands: &[&[usize]]) -> SmallVec<[Axis; 4]> {
    let strides: SmallVec<[Shape; 4]> = operands.iter().map(|of| strides_of(of)).collect();
    let mut axes: SmallVec<[Axis; 4]> = SmallVec::new();
    for axis in (0..shape.len()).rev().filter(|&axis| shape[axis] != 1) {
        let step = |operand: usize| {
            let extents = operands[operand];
            let own = (axis + extents.len()).checked_sub(shape.len());
            own.map_or(0, |own| if extents[own] == 1 { 0 } else { strides[operand][own] })
        };
        let steps: SmallVec<[usize; 4]> = (0..operands.len()).map(step).collect();
        match axes.last_mut() {
            Some((extent, inner)) if (0..steps.len()).all(|i| steps[i] == inner[i] * *extent) => {
                *extent *= shape[axis];
            }
            _ => axes.push((shape[axis], steps)),
        }
    }
    if axes.is_empty() {
        axes.push((1, smallvec![0; operands.len()]));
    }
    axes
}

fn launch(
    gpu: &Gpu,
    form: &Forms<'_>,
    operands: &[&Stored],
    axes: &[Axis],
    out: &Stored,
) -> Result<(), Stop> {
    // Along one axis an operand moves with the output or stays: no index is computed.
    let steps: SmallVec<[usize; 4]> = axes[0].1.clone();
    let plain = axes.len() == 1 && steps.iter().all(|&step| step <= 1);
    let Forms { node, scalars, dtype, present } = form;
    let ways = if plain { format!("{steps:?}") } else { axes.len().to_string() };
    let key = format!("{} {:?} {scalars:?} {dtype} {present} {ways}", node.op, node.attrs);
    let kernel = gpu.kernel(&key, || {
        generate(form, if plain { Some(&steps) } else { None }, axes.len(), out.scalar)
    })?;
    let all = operands.iter().copied().chain([out]);
    if plain && all.clone().any(|of| of.bytes() > gpu.limits().part_max) {
        return in_parts(gpu, &kernel, (operands, &steps), out);
    }
    let count = out.count();
    let mut args: SmallVec<[A<'_>; 32]> = smallvec![A::U(count)];
    if !plain {
        for (extent, steps) in axes {
            args.push(A::U(*extent));
            args.extend(steps.iter().map(|&step| A::U(step)));
        }
    }
    args.extend(operands.iter().map(|operand| A::M(operand)));
    args.push(A::M(out));
    gpu.line(&kernel, count, &args)
}

/// Along one axis, so much of it at a time as a kernel can be given.
fn in_parts(
    gpu: &Gpu,
    kernel: &Arc<Kernel>,
    (operands, steps): (&[&Stored], &[usize]),
    out: &Stored,
) -> Result<(), Stop> {
    let elements = gpu.part_elements();
    if elements == 0 {
        return Err(Stop::Host);
    }
    for first in (0..out.count()).step_by(elements) {
        let count = elements.min(out.count() - first);
        let part = |of: &Stored, step: usize| match step {
            0 => of.clone(),
            _ => of.part(first, count),
        };
        let parts: SmallVec<[Stored; 4]> =
            operands.iter().zip(steps).map(|(of, &step)| part(of, step)).collect();
        let target = part(out, 1);
        let mut args: SmallVec<[A<'_>; 32]> = smallvec![A::U(count)];
        args.extend(parts.iter().map(A::M));
        args.push(A::M(&target));
        gpu.line(kernel, count, &args)?;
    }
    Ok(())
}

/// Writes the kernel. `steps`: of each operand along the one axis; `None` where they are
/// arguments.
fn generate(
    form: &Forms<'_>,
    steps: Option<&[usize]>,
    axes: usize,
    out: Scalar,
) -> Result<Kernel, KernelError> {
    let trace = Trace::new("elementwise", [LINE, 1, 1]);
    let t = &trace;
    let operands = form.scalars.len();
    let n = t.value::<u32>("n");
    let mut extents: Vec<(E<u32>, Vec<E<u32>>)> = Vec::new();
    if steps.is_none() {
        for axis in 0..axes {
            let extent = t.value::<u32>(&format!("e{axis}"));
            let step = |operand| t.value::<u32>(&format!("s{operand}_{axis}"));
            extents.push((extent, (0..operands).map(step).collect()));
        }
    }
    let i = t.bind(t.global_id(0));
    let at = |operand: usize| match steps {
        Some(steps) if steps[operand] == 0 => t.int(0u32),
        Some(_) => i,
        None => {
            let (mut rest, mut offset) = (i, None);
            for (axis, (extent, steps)) in extents.iter().enumerate() {
                let last = axis + 1 == extents.len();
                let place = if last { rest } else { t.rem(rest, *extent) };
                let part = t.mul(place, steps[operand]);
                offset = Some(offset.map_or(part, |offset| t.add(offset, part)));
                if !last {
                    rest = t.bind(t.div(rest, *extent));
                }
            }
            offset.unwrap_or(i)
        }
    };
    // Buffers are declared in order, then everything happens inside the branch.
    let loads: Vec<Load> = (0..operands)
        .map(|operand| Load::declare(t, &format!("x{operand}"), form.scalars[operand]))
        .collect();
    let store = Store::declare(t, "y", out);
    let mut done = None;
    t.if_(
        t.lt(i, n),
        || {
            let values = loads.iter().enumerate().map(|(k, load)| load.value(t, at(k)));
            let mut values = values.collect::<Vec<Val>>().into_iter();
            let given: Vec<Option<Val>> = (0..form.node.inputs.len())
                .map(|index| (form.present >> index & 1 == 1).then(|| values.next()).flatten())
                .collect();
            done = expression(t, form.node, &given, form.dtype);
            if let Some(value) = done {
                let held = form.dtype == DType::F16 && out == Scalar::F32;
                store.put(t, i, if held { halved(t, value) } else { value });
            }
        },
        || {},
    );
    if done.is_none() {
        let reason = format!("operator {} has no expression for these operands", form.node.op);
        return Err(KernelError::Invalid { name: "elementwise".to_string(), reason });
    }
    trace.finish()
}

/// A number of 16 bits, as a device has it that holds those in 32.
fn halved(t: &Trace, value: Val) -> Val {
    let x = value.float(t);
    Val::F(math::to_half::trace(t, &[], t.bind(x)))
}

/// A buffer that is read, of any scalar.
pub(crate) enum Load {
    F32(hetra_kernel::Input<f32>),
    F16(hetra_kernel::Input<hetra_kernel::f16>),
    I32(hetra_kernel::Input<i32>),
    U32(hetra_kernel::Input<u32>),
    Bool(hetra_kernel::Input<bool>),
}

impl Load {
    pub(crate) fn declare(t: &Trace, name: &str, scalar: Scalar) -> Load {
        match scalar {
            Scalar::F32 => Load::F32(t.input(name)),
            Scalar::F16 => Load::F16(t.input(name)),
            Scalar::I32 => Load::I32(t.input(name)),
            Scalar::U32 => Load::U32(t.input(name)),
            Scalar::Bool => Load::Bool(t.input(name)),
        }
    }

    /// The element there; floats of any size as `f32`.
    pub(crate) fn value(&self, t: &Trace, at: E<u32>) -> Val {
        match self {
            Load::F32(x) => Val::F(t.bind(t.at(*x, at))),
            Load::F16(x) => Val::F(t.bind(t.cast(t.at(*x, at)))),
            Load::I32(x) => Val::I(t.bind(t.at(*x, at))),
            Load::U32(x) => Val::U(t.bind(t.at(*x, at))),
            Load::Bool(x) => Val::B(t.bind(t.at(*x, at))),
        }
    }
}

/// A buffer that is written, of any scalar.
pub(crate) enum Store {
    F32(hetra_kernel::Output<f32>),
    F16(hetra_kernel::Output<hetra_kernel::f16>),
    I32(hetra_kernel::Output<i32>),
    U32(hetra_kernel::Output<u32>),
    Bool(hetra_kernel::Output<bool>),
}

impl Store {
    pub(crate) fn declare(t: &Trace, name: &str, scalar: Scalar) -> Store {
        match scalar {
            Scalar::F32 => Store::F32(t.output(name)),
            Scalar::F16 => Store::F16(t.output(name)),
            Scalar::I32 => Store::I32(t.output(name)),
            Scalar::U32 => Store::U32(t.output(name)),
            Scalar::Bool => Store::Bool(t.output(name)),
        }
    }

    /// Writes an element, which is of the buffer's kind.
    pub(crate) fn put(&self, t: &Trace, at: E<u32>, value: Val) {
        match self {
            Store::F32(y) => t.store(*y, at, value.float(t)),
            Store::F16(y) => t.store(*y, at, t.cast(value.float(t))),
            Store::I32(y) => t.store(*y, at, value.int(t)),
            Store::U32(y) => t.store(*y, at, value.uint(t)),
            Store::Bool(y) => t.store(*y, at, value.truth(t)),
        }
    }
}
