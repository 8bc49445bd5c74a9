//! The null device: the skeleton to copy when you add a device.
//!
//! It claims the operators that only rename their input ([`Kind::View`]) and runs them by the
//! reference; it refuses everything else with a reason. Replace `supports` by what your hardware
//! can do and `compile` by what builds a program for it, then run the conformance suite until it
//! is green (docs/add-a-device.md).

use std::sync::Arc;

use hetra_ir::{Graph, Node};
use hetra_ops::{Kind, OpError, find};

use crate::{Call, Device, DeviceError, DeviceInfo, Part, Program, Support, Values};

/// A device that runs views only.
pub struct NullDevice {
    info: DeviceInfo,
}

impl Default for NullDevice {
    fn default() -> NullDevice {
        NullDevice {
            info: DeviceInfo {
                name: "runs views only; a skeleton to copy".to_string(),
                version: env!("CARGO_PKG_VERSION").to_string(),
                threads: 1,
                ..DeviceInfo::of_driver("null")
            },
        }
    }
}

impl Device for NullDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn supports(&self, node: &Node, _: &Graph) -> Support {
        match find(&node.op) {
            Some(def) if def.kind == Kind::View => Support::Reference,
            Some(_) => Support::No("the null device only runs views".to_string()),
            None => Support::No("unknown operator".to_string()),
        }
    }

    fn compile(&self, part: &Part<'_>) -> Result<Arc<dyn Program>, DeviceError> {
        for &id in part.nodes {
            let node = part.graph.node(id);
            if let Support::No(reason) = self.supports(node, part.graph) {
                return Err(DeviceError::Unsupported {
                    device: self.info.id.clone(),
                    node: node.label(part.graph),
                    op: node.op.clone(),
                    reason,
                });
            }
        }
        Ok(Arc::new(View))
    }
}

struct View;

impl Program for View {
    fn run(&self, call: Call<'_>) -> Result<Values, OpError> {
        call.reference()
    }

    fn kernel(&self) -> &str {
        "view"
    }
}
