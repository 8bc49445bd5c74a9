//! The device.

use std::sync::Arc;

use hetra_device::{Device, DeviceError, DeviceInfo, Launcher, Part, Program, Support};
use hetra_ir::{Graph, Node};
use hetra_ops::{Kind, OpError, find};
use hetra_tensor::Tensor;

use crate::context::{Gpu, Stop};
use crate::program::{OnDevice, OnHost, constants};
use crate::stored::Stored;
use crate::table;

/// Everything that can launch kernels, as a device for models.
pub struct KernelDevice {
    info: DeviceInfo,
    gpu: Arc<Gpu>,
    /// Does what there are no kernels for.
    host: Arc<dyn Device>,
}

impl KernelDevice {
    /// A device of what launches its kernels, and of the host that does the rest.
    pub fn new(
        info: DeviceInfo,
        launcher: Arc<dyn Launcher>,
        host: Arc<dyn Device>,
    ) -> KernelDevice {
        KernelDevice { info, gpu: Arc::new(Gpu::new(launcher, false)), host }
    }

    /// The same device, which checks every index of its own kernels, too: for tests.
    #[must_use]
    pub fn checked(self) -> KernelDevice {
        let launcher = self.gpu.launcher.clone();
        KernelDevice { gpu: Arc::new(Gpu::new(launcher, true)), ..self }
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
            Some(def) if def.kind == Kind::View => Support::Kernel,
            Some(_) => Support::Reference,
        }
    }

    fn compile(&self, part: &Part<'_>) -> Result<Arc<dyn Program>, DeviceError> {
        let node = self.node(part)?;
        // The host's program of a node that has a kernel would keep packed weights for nothing:
        // what only a run shows to be another form is left to the reference.
        let claimed = table::claims_typed(&self.gpu, part, node);
        let compiled = claimed.then(|| table::compile(&self.gpu, part, node)).flatten();
        let Some((row, work)) = compiled else {
            return Ok(Arc::new(OnHost::of(node, self.host.compile(part)?)));
        };
        let constants = constants(&self.gpu, part, node, row.on_device);
        let (gpu, name) = (self.gpu.clone(), row.kernel);
        Ok(Arc::new(OnDevice { gpu, work, name, constants }))
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

    fn scope(&self, work: &mut (dyn FnMut() + Send)) {
        self.host.scope(work);
    }
}
