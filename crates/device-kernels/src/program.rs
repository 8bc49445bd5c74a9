//! What a node is compiled to.

use std::sync::Arc;

use hetra_device::{Call, Part, Program, Values};
use hetra_ir::{Node, Type, ValueId};
use hetra_ops::{Kind, OpError, find};
use hetra_tensor::{DType, Value};

use crate::context::{Gpu, Outcome, Run, Stop};
use crate::stored::Stored;
use crate::table::IN_PARTS;

/// What a node does on the device.
pub(crate) type Work = Box<dyn Fn(&Run<'_, '_>) -> Outcome + Send + Sync>;

/// A node on the device.
pub(crate) struct OnDevice {
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) work: Work,
    pub(crate) name: &'static str,
    pub(crate) constants: Vec<Option<Stored>>,
}

impl Program for OnDevice {
    fn run(&self, call: Call<'_>) -> Result<Values, OpError> {
        let in_parts = IN_PARTS.contains(&self.name);
        let run = Run { gpu: &self.gpu, call: &call, constants: &self.constants, in_parts };
        match (self.work)(&run) {
            Ok(stored) => {
                let values = stored.into_iter().map(|stored| stored.into_value(&self.gpu.launcher));
                Ok(values.collect::<Result<Values, _>>()?)
            }
            Err(Stop::Host) => {
                call.fell_back.set(true);
                call.inputs.iter().flatten().try_for_each(fetch)?;
                call.reference()
            }
            Err(Stop::Fault(error)) => Err(error),
        }
    }

    fn kernel(&self) -> &str {
        self.name
    }
}

/// A node on the host: what it reads is copied there first.
pub(crate) struct OnHost {
    pub(crate) program: Arc<dyn Program>,
    /// Whether the first input stays where it is: it gets another shape, or only its type is read.
    stays: bool,
    /// Whether it runs bodies, whose steps are the device's.
    control: bool,
    /// Whether it is the host's own: see [`computes_extents`].
    extents: bool,
    /// Does it where the device made those numbers, if there is a kernel.
    device: Option<OnDevice>,
}

impl OnHost {
    pub(crate) fn of(
        node: &Node,
        extents: bool,
        device: Option<OnDevice>,
        program: Arc<dyn Program>,
    ) -> OnHost {
        let kind = find(&node.op).map(|def| def.kind);
        let stays = kind == Some(Kind::View) || reads_a_type(node);
        OnHost { program, stays, control: kind == Some(Kind::Control), extents, device }
    }
}

impl Program for OnHost {
    fn run(&self, call: Call<'_>) -> Result<Values, OpError> {
        let held = |input: &Value| input.as_tensor().is_some_and(|t| t.holder().is_some());
        if self.extents && call.inputs.iter().flatten().any(held) {
            // Something on the device made them, after all.
            match &self.device {
                Some(device) => return device.run(call),
                None => call.fell_back.set(true),
            }
        }
        for input in call.inputs.iter().skip(usize::from(self.stays)).flatten() {
            fetch(input)?;
        }
        self.program.run(call)
    }

    fn kernel(&self) -> &str {
        match self.extents {
            true => "host",
            false => self.program.kernel(),
        }
    }

    fn falls_back(&self) -> bool {
        !self.stays && !self.control && !self.extents
    }

    fn by_host(&self) -> bool {
        // Which of the two it is shows when it runs; the kernel's name tells.
        !self.stays && !self.control && self.device.is_none()
    }

    fn in_place(&self, index: usize, types: &[Option<&Type>]) -> bool {
        self.program.in_place(index, types)
    }
}

/// Whether an operator is computed of the type of its only input, as a shape is.
pub(crate) fn reads_a_type(node: &Node) -> bool {
    node.inputs.len() == 1 && find(&node.op).is_some_and(|def| def.from_types.is_some())
}

/// Most elements of an extent, an index or a rate.
const EXTENTS_MAX: usize = 64;

/// Whether a node computes a few whole numbers of others: of extents and the like, which are the
/// host's as it decides by them what is launched.
pub(crate) fn computes_extents(node: &Node, ty: &dyn Fn(ValueId) -> Type) -> bool {
    let few = |id: ValueId| {
        let ty = ty(id);
        let whole = ty.dtype().is_some_and(DType::is_int);
        let count = ty.known_shape().map(|shape| shape.iter().product::<usize>());
        whole && count.is_some_and(|count| count <= EXTENTS_MAX)
    };
    let plain =
        find(&node.op).is_some_and(|def| matches!(def.kind, Kind::Elementwise | Kind::Reduce));
    plain && !node.inputs.is_empty() && node.inputs.iter().flatten().all(|&id| few(id))
}

/// Copies what a device holds of a value to the host.
fn fetch(value: &Value) -> Result<(), OpError> {
    if let Some(tensor) = value.as_tensor() {
        tensor.fetch()?;
    }
    for item in value.as_sequence().into_iter().flatten() {
        fetch(item)?;
    }
    Ok(())
}

/// Copies the constants of a node to the device, but for those that are read on the host.
pub(crate) fn constants(
    gpu: &Gpu,
    part: &Part<'_>,
    node: &Node,
    on: &[usize],
) -> Vec<Option<Stored>> {
    let constant = |index: usize| {
        let tensor = part.constant(node, index).filter(|_| on.contains(&index))?;
        // Weights that no kernel can be given whole are cut by whoever multiplies by them.
        let bytes = tensor.len().checked_mul(gpu.scalar(tensor.dtype())?.bytes())?;
        if bytes > gpu.limits().part_max {
            return None;
        }
        // What does not fit there is met again when the node runs.
        gpu.place(tensor).ok()
    };
    (0..node.inputs.len()).map(constant).collect()
}
