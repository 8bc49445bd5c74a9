//! What a device is: the traits every device implements, the null device to copy from, and the
//! conformance suite that any device runs.
//!
//! A [`Driver`] finds devices; a [`Device`] says what it supports and compiles a [`Part`] of a
//! graph into a [`Program`]; a program runs on host tensors. Devices with memory of their own
//! will extend [`Call`]; nothing in the interface is there ahead of its first user.
//!
//! How a kernel does its work is data, too: a [`Schedule`] out of the [`Space`] that the kernel
//! declares, looked up in a [`ScheduleTable`] by the key of a [`Task`].
//!
//! The crate knows nothing of cost or placement, nor of how schedules are found.

mod cache;
mod call;
mod compiled;
pub mod conformance;
mod delegate;
mod info;
mod kernel_call;
mod launch;
mod null;
mod pool;
mod random;
mod schedule;
mod schedules;
mod space;

pub use cache::{KernelCache, cache_folder};
pub use call::{Call, DeviceError, Modelled, Part, Program, Room, Values};
pub use compiled::{Compiled, Pending, Queue};
pub use delegate::{
    Delegate, DelegateDevice, Export, Loaded, Names, NoLibrary, find_library, normalise,
};
pub use info::{DeviceInfo, DriverState, Found, Limit, Peak, Wire, Wires};
pub use kernel_call::{KernelArg, no_memory, run_on_host, scalar_of};
pub use launch::{Launch, LaunchArg, LaunchLimits, Launcher};
pub use null::NullDevice;
pub use pool::Pool;
pub use random::Random;
pub use schedule::{Schedule, ScheduleError, ScheduleTable, Task};
pub use schedules::Schedules;
pub use space::{Knob, Space, SpaceError};

use hetra_ir::{Graph, Node};
use hetra_kernel::Source;
use hetra_tensor::Tensor;
use std::sync::Arc;

/// Whether a device can run a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// By a kernel of its own.
    Kernel,
    /// By the reference on the host's processor: correct, not fast.
    Reference,
    /// Not at all, and why.
    No(String),
}

/// Something that runs parts of a graph.
pub trait Device: Send + Sync {
    /// Identity, version, limits.
    fn info(&self) -> &DeviceInfo;

    /// Whether and how it would run this node.
    fn supports(&self, node: &Node, graph: &Graph) -> Support;

    /// Prepares a part to run: packs weights, builds kernels. Shapes may still be open.
    ///
    /// # Errors
    /// When it does not support the part, or runs out of a resource.
    fn compile(&self, part: &Part<'_>) -> Result<Arc<dyn Program>, DeviceError>;

    /// What can be tuned of a part whose types are known, and which schedules there are; `None`
    /// where nothing can.
    fn tunes(&self, part: &Part<'_>) -> Option<(Task, Space)> {
        let _ = part;
        None
    }

    /// As `compile`, by this schedule in the place of the one that the device knows. What it does
    /// not name, or what is not of the space, is the device's to choose.
    ///
    /// # Errors
    /// As `compile`.
    fn compile_with(
        &self,
        part: &Part<'_>,
        schedule: &Schedule,
    ) -> Result<Arc<dyn Program>, DeviceError> {
        let _ = schedule;
        self.compile(part)
    }

    /// Measures what the device reaches at best, in about a quarter of a second; `None` where it
    /// cannot.
    fn peak(&self) -> Option<Peak> {
        None
    }

    /// Why something that was asked for at opening is not done, where it is not: threads that the
    /// system does not pin.
    fn warning(&self) -> Option<String> {
        None
    }

    /// The device that does what this one has no kernels for, if it is another.
    fn host(&self) -> Option<&DeviceInfo> {
        None
    }

    /// What runs kernels that others write; `None` where the device takes no kernels.
    fn launcher(&self) -> Option<&Arc<dyn Launcher>> {
        None
    }

    /// The same tensor in the device's own memory; `None` where it has none, or holds no such
    /// elements, or has no room, or has it there already.
    ///
    /// # Errors
    /// `Lost` when the device is gone.
    fn place(&self, tensor: &Tensor) -> Result<Option<Tensor>, DeviceError> {
        let _ = tensor;
        Ok(None)
    }

    /// Runs a kernel that a user wrote, with every index checked, and waits for it. Gives what it
    /// wrote: a tensor for each argument that is `Write` or `Update`, in order.
    ///
    /// # Errors
    /// `Kernel` for arguments that do not fit, for what the device cannot do, and for an index out
    /// of bounds; `Memory`, `Lost`.
    fn run_kernel(
        &self,
        source: &Source,
        groups: [u32; 3],
        args: &[KernelArg<'_>],
    ) -> Result<Vec<Tensor>, DeviceError> {
        run_on_host(source, groups, args, |count, group| (0..count).for_each(group))
    }

    /// Runs `work` where the device's threads are at hand. Programs run inside.
    fn scope(&self, work: &mut (dyn FnMut() + Send)) {
        work();
    }
}

/// The threads of the host that a device works with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostThreads {
    /// How many; `None` is the device's choice.
    pub count: Option<usize>,
    /// Whether each stays on a processor of its own, where the system allows it.
    pub pin: bool,
}

impl From<Option<usize>> for HostThreads {
    fn from(count: Option<usize>) -> HostThreads {
        HostThreads { count, pin: false }
    }
}

/// Whether the environment says that a driver's devices are here (`HETRA_REQUIRE_DEVICES`, names
/// with spaces between them): a test that does not find one then fails instead of leaving it out.
pub fn is_required(driver: &str) -> bool {
    let required = std::env::var("HETRA_REQUIRE_DEVICES").unwrap_or_default();
    required.split_whitespace().any(|name| name == driver)
}

/// Finds the devices of one kind.
pub trait Driver: Send + Sync {
    /// Such as `cpu`.
    fn name(&self) -> &'static str;

    /// What is there: devices, or why there is none and what to install.
    fn discover(&self) -> Vec<Found>;

    /// Whether an id is one of this driver's, found or not.
    fn opens(&self, id: &str) -> bool {
        id == self.name()
    }

    /// Opens the device of this id with these host threads, to work by
    /// these schedules. Tasks that the table lacks are done as the device sees fit.
    ///
    /// # Errors
    /// When there is no such device or it cannot be opened.
    fn open(
        &self,
        id: &str,
        threads: HostThreads,
        schedules: ScheduleTable,
    ) -> Result<Arc<dyn Device>, DeviceError>;
}
