//! The device.

use std::sync::Arc;

use hetra_device::{
    Device, DeviceError, DeviceInfo, KernelArg, Launch, LaunchArg, Launcher, Part, Program,
    Schedule, ScheduleTable, Schedules, Space, Support, Task, no_memory, scalar_of,
};
use hetra_ir::{Graph, Node};
use hetra_kernel::Source;
use hetra_ops::{Kind, OpError, find};
use hetra_tensor::{Tensor, Value};

use crate::context::{Gpu, Stop};
use crate::program::{OnDevice, OnHost, computes_extents, constants, reads_a_type};
use crate::stored::Stored;
use crate::table;

/// Everything that can launch kernels, as a device for models.
pub struct KernelDevice {
    info: DeviceInfo,
    gpu: Arc<Gpu>,
    /// Does what there are no kernels for.
    host: Arc<dyn Device>,
    schedules: Schedules,
}

impl KernelDevice {
    /// A device of what launches its kernels, and of the host that does the rest; it works by these
    /// schedules.
    pub fn new(
        info: DeviceInfo,
        launcher: Arc<dyn Launcher>,
        host: Arc<dyn Device>,
        schedules: ScheduleTable,
    ) -> KernelDevice {
        let gpu = Arc::new(Gpu::new(launcher, false));
        KernelDevice { info, gpu, host, schedules: schedules.into() }
    }

    /// The same device, which checks every index of its own kernels, too: for tests.
    #[must_use]
    pub fn checked(self) -> KernelDevice {
        let launcher = self.gpu.launcher.clone();
        KernelDevice { gpu: Arc::new(Gpu::new(launcher, true)), ..self }
    }

    fn compile_by(
        &self,
        part: &Part<'_>,
        schedules: &Schedules,
    ) -> Result<Arc<dyn Program>, DeviceError> {
        let node = self.node(part)?;
        // The host's program of a node that has a kernel would keep packed weights for nothing:
        // what only a run shows to be another form is left to the reference.
        let claimed = table::claims_typed(&self.gpu, part, node);
        let compiled = claimed.then(|| table::compile(&self.gpu, part, node, schedules)).flatten();
        let extents = computes_extents(node, &|id| part.types[id.index()].clone());
        let device = compiled.map(|(row, work)| {
            let constants = constants(&self.gpu, part, node, row.on_device);
            OnDevice { gpu: self.gpu.clone(), work, name: row.kernel, constants }
        });
        Ok(match device {
            Some(device) if !extents => Arc::new(device),
            device => Arc::new(OnHost::of(node, extents, device, self.host.compile(part)?)),
        })
    }

    fn node<'a>(&self, part: &Part<'a>) -> Result<&'a Node, DeviceError> {
        match *part.nodes {
            [id] => Ok(part.graph.node(id)),
            _ => Err(DeviceError::Failed {
                device: self.info.id.clone(),
                reason: format!("takes one node at a time, got {}", part.nodes.len()),
            }),
        }
    }
}

impl Device for KernelDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn supports(&self, node: &Node, graph: &Graph) -> Support {
        match find(&node.op) {
            None => Support::No("unknown operator".to_string()),
            Some(_) if table::claims(&self.gpu, node, graph) => Support::Kernel,
            Some(def) if def.kind == Kind::View || reads_a_type(node) => Support::Kernel,
            Some(_) if computes_extents(node, &|id| graph.ty(id).clone()) => Support::Kernel,
            Some(_) => Support::Reference,
        }
    }

    fn compile(&self, part: &Part<'_>) -> Result<Arc<dyn Program>, DeviceError> {
        self.compile_by(part, &self.schedules)
    }

    fn tunes(&self, part: &Part<'_>) -> Option<(Task, Space)> {
        table::tunes(&self.gpu, part, self.node(part).ok()?)
    }

    fn compile_with(
        &self,
        part: &Part<'_>,
        schedule: &Schedule,
    ) -> Result<Arc<dyn Program>, DeviceError> {
        self.compile_by(part, &Schedules::One(schedule.clone()))
    }

    fn host(&self) -> Option<&DeviceInfo> {
        Some(self.host.info())
    }

    fn launcher(&self) -> Option<&Arc<dyn Launcher>> {
        Some(&self.gpu.launcher)
    }

    fn place(&self, tensor: &Tensor) -> Result<Option<Tensor>, DeviceError> {
        if Stored::of(tensor, &self.gpu.launcher).is_some() {
            return Ok(None);
        }
        let failed = |error: OpError| DeviceError::Failed {
            device: self.info.id.clone(),
            reason: error.to_string(),
        };
        match self.gpu.place(tensor) {
            Ok(stored) => {
                let value = stored.into_value(&self.gpu.launcher);
                let value = value.map_err(|error| failed(error.into()))?;
                Ok(value.as_tensor().cloned())
            }
            Err(Stop::Host) => Ok(None),
            Err(Stop::Fault(error)) => Err(failed(error)),
        }
    }

    fn run_kernel(
        &self,
        source: &Source,
        groups: [u32; 3],
        args: &[KernelArg<'_>],
    ) -> Result<Vec<Tensor>, DeviceError> {
        let gpu = &self.gpu;
        let failed = |reason: String| DeviceError::Failed { device: self.info.id.clone(), reason };
        let mut memories: Vec<Option<(Stored, bool)>> = Vec::with_capacity(args.len());
        for (index, arg) in args.iter().enumerate() {
            let dtype = match arg {
                KernelArg::Value(_) => {
                    memories.push(None);
                    continue;
                }
                KernelArg::Read(tensor) | KernelArg::Update(tensor) => tensor.dtype(),
                KernelArg::Write(dtype, _) => *dtype,
            };
            // Kernels of users see elements as they are, or not at all.
            let held = scalar_of(dtype).filter(|&scalar| gpu.scalar(dtype) == Some(scalar));
            held.ok_or_else(|| no_memory(source, index, dtype))?;
            let stored = match arg {
                KernelArg::Read(tensor) => gpu.place(tensor),
                KernelArg::Write(dtype, shape) => {
                    Tensor::zeros(*dtype, shape).map_err(Stop::from).and_then(|new| gpu.place(&new))
                }
                KernelArg::Update(tensor) => {
                    // By the host, so that it is another one.
                    let copied = tensor.fetch().and_then(|()| {
                        Tensor::from_bytes(tensor.dtype(), tensor.shape(), tensor.bytes())
                    });
                    copied.map_err(Stop::from).and_then(|copy| gpu.place(&copy))
                }
                KernelArg::Value(_) => continue,
            };
            let stored = stored.map_err(|stop| match stop {
                Stop::Host => failed(format!("there is no room for argument {index}")),
                Stop::Fault(error) => failed(error.to_string()),
            })?;
            memories.push(Some((stored, !matches!(arg, KernelArg::Read(_)))));
        }
        let given = args.iter().zip(&memories).filter_map(|(arg, memory)| match (arg, memory) {
            (KernelArg::Value(literal), _) => Some(LaunchArg::Value(*literal)),
            (_, Some((stored, _))) => Some(LaunchArg::Memory {
                memory: &stored.memory,
                scalar: Some(stored.scalar),
                from: 0,
                bytes: stored.bytes(),
            }),
            (_, None) => None,
        });
        let given: Vec<LaunchArg<'_>> = given.collect();
        gpu.launcher.run(&Launch::of(source, groups, &given)?)?;
        drop(given);
        let written = memories.into_iter().flatten().filter(|(_, written)| *written);
        let results = written.map(|(stored, _)| {
            let value = stored.into_value(&gpu.launcher).map_err(|error| failed(error.to_string()));
            value.and_then(|value| match value {
                Value::Tensor(tensor) => Ok(tensor),
                other => Err(failed(format!("a kernel gave a {}", other.describe()))),
            })
        });
        results.collect()
    }

    fn scope(&self, work: &mut (dyn FnMut() + Send)) {
        self.host.scope(work);
    }
}
