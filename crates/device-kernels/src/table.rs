//! Which operators there are kernels for.

use hetra_device::{Part, Schedule, Schedules, Space, Task};
use hetra_ir::{Graph, Node, Type};

use crate::context::Gpu;
use crate::program::Work;
use crate::{
    attention, conv, conv_transpose, elementwise, fill, matmul, movement, norm, pool, recurrent,
    reduce, resample, rows,
};

/// Operators that one file has kernels for.
pub(crate) struct Row {
    /// Their names.
    pub(crate) ops: &'static [&'static str],
    /// What traces call it.
    pub(crate) kernel: &'static str,
    /// Inputs that live on the device; constants among them are copied once.
    pub(crate) on_device: &'static [usize],
    /// Whether this form of the operator is among them, as far as its types are known.
    pub(crate) takes: fn(&Form<'_>) -> bool,
    /// What it does; `None` where it turns out to be something else.
    pub(crate) compile: fn(&Gpu, &Part<'_>, &Node) -> Option<Work>,
}

/// What can be tuned of the operators of a row.
pub(crate) struct Tuned {
    pub(crate) ops: &'static [&'static str],
    /// What there is to choose, where the sizes are known.
    pub(crate) tunes: fn(&Gpu, &Part<'_>, &Node) -> Option<(Task, Space)>,
    /// In the place of what the row says: by this schedule, which may leave everything open.
    pub(crate) compile: fn(&Gpu, &Part<'_>, &Node, &Schedule) -> Option<Work>,
}

static TUNED: &[Tuned] = &[conv::TUNED, matmul::TUNED];

fn tuned(op: &str) -> Option<&'static Tuned> {
    TUNED.iter().find(|tuned| tuned.ops.contains(&op))
}

/// A node with its graph.
pub(crate) struct Form<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) node: &'a Node,
    graph: &'a Graph,
    /// What is known of the values beyond the graph, by id.
    types: &'a [Type],
}

impl<'a> Form<'a> {
    /// A node of a body, whose values have their types.
    pub(crate) fn within(&self, node: &'a Node, body: &'a Graph) -> Form<'a> {
        Form { gpu: self.gpu, node, graph: body, types: &[] }
    }

    /// The type of an input, as far as it is known.
    pub(crate) fn ty(&self, index: usize) -> Type {
        let Some(value) = self.node.input(index) else { return Type::Unknown };
        let inferred = self.types.get(value.index()).filter(|ty| **ty != Type::Unknown);
        inferred.unwrap_or_else(|| self.graph.ty(value)).clone()
    }

    /// Whether an input is `f32`, or unknown.
    pub(crate) fn is_f32(&self, index: usize) -> bool {
        self.ty(index).dtype().is_none_or(|dtype| dtype == hetra_tensor::DType::F32)
    }

    /// Whether an input is `f16`.
    pub(crate) fn is_f16(&self, index: usize) -> bool {
        self.ty(index).dtype() == Some(hetra_tensor::DType::F16)
    }

    /// Whether an item may go along any axis of an input, as far as they are known.
    pub(crate) fn is_short(&self, index: usize) -> bool {
        let turns = self.gpu.limits().turns_max;
        self.ty(index).known_shape().is_none_or(|shape| shape.iter().all(|&axis| axis <= turns))
    }

    /// The number of axes of an input, if it is known.
    pub(crate) fn rank(&self, index: usize) -> Option<usize> {
        self.ty(index).dims().map(<[_]>::len)
    }
}

/// Every family: the only list of them.
static ROWS: &[&[Row]] = &[
    elementwise::ROWS,
    matmul::ROWS,
    conv::ROWS,
    conv_transpose::ROWS,
    pool::ROWS,
    rows::ROWS,
    reduce::ROWS,
    norm::ROWS,
    movement::ROWS,
    resample::ROWS,
    recurrent::ROWS,
    attention::ROWS,
    fill::ROWS,
];

/// Rows, by what traces call them, that work on what is larger than a kernel can be given part by
/// part.
pub(crate) const IN_PARTS: &[&str] = &["elementwise", "fused", "reduce"];

/// The operators that there are kernels for, of some form at least.
pub fn kernel_ops() -> impl Iterator<Item = &'static str> {
    ROWS.iter().copied().flatten().flat_map(|row| row.ops.iter().copied())
}

fn row(op: &str) -> Option<&'static Row> {
    ROWS.iter().copied().flatten().find(|row| row.ops.contains(&op))
}

/// Whether there is a kernel for a node.
pub(crate) fn claims(gpu: &Gpu, node: &Node, graph: &Graph) -> bool {
    row(&node.op).is_some_and(|row| (row.takes)(&Form { gpu, node, graph, types: &[] }))
}

/// The same, by all that is known when it is compiled.
pub(crate) fn claims_typed(gpu: &Gpu, part: &Part<'_>, node: &Node) -> bool {
    let form = Form { gpu, node, graph: part.graph, types: part.types };
    row(&node.op).is_some_and(|row| (row.takes)(&form))
}

/// What a node does on the device, by the schedule that is known for it.
pub(crate) fn compile(
    gpu: &Gpu,
    part: &Part<'_>,
    node: &Node,
    schedules: &Schedules,
) -> Option<(&'static Row, Work)> {
    let row = row(&node.op)?;
    let Some(tuned) = tuned(&node.op) else { return Some((row, (row.compile)(gpu, part, node)?)) };
    let known = match schedules.is_empty() {
        true => None,
        false => (tuned.tunes)(gpu, part, node),
    };
    let schedule = known.and_then(|(task, space)| schedules.find(&task, &space).cloned());
    Some((row, (tuned.compile)(gpu, part, node, &schedule.unwrap_or_default())?))
}

/// What is to be tuned of a node that there is a kernel for.
pub(crate) fn tunes(gpu: &Gpu, part: &Part<'_>, node: &Node) -> Option<(Task, Space)> {
    let tuned = tuned(&node.op).filter(|_| claims_typed(gpu, part, node))?;
    (tuned.tunes)(gpu, part, node)
}
