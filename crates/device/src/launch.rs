//! Kernels on a device, and the memory that they work on.

use std::sync::Arc;

use hetra_kernel::{Given, Kernel, KernelError, Literal, Native, ParamKind, Scalar, Source};
use hetra_tensor::Held;

use crate::DeviceError;

/// Runs kernels in the order in which they are launched, and has memory for them.
///
/// Everything but [`Launcher::wait`] and reading may return before the device has done it. Memory
/// is given back when nobody has it any more; it is used again for what is launched later.
pub trait Launcher: Send + Sync {
    /// What it can do.
    fn limits(&self) -> &LaunchLimits;

    /// Memory of at least so many bytes, a multiple of four; it may hold old data.
    ///
    /// # Errors
    /// `Memory` when there is none, `Lost` when the device is gone.
    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Held>, DeviceError>;

    /// Writes the first bytes of memory, after what was launched before.
    ///
    /// # Errors
    /// `Foreign`, `Lost`.
    fn write(&self, memory: &dyn Held, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Launches a kernel.
    ///
    /// # Errors
    /// `Kernel` when arguments do not fit or the kernel cannot be had here, `Foreign`, `Lost`.
    fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError>;

    /// Launches a kernel and waits for it. What goes wrong in it is told here, and to nobody else.
    ///
    /// # Errors
    /// As [`Launcher::launch`], and `Kernel` with the first index out of bounds.
    fn run(&self, launch: &Launch<'_>) -> Result<(), DeviceError>;

    /// Waits until all that was launched is done.
    ///
    /// # Errors
    /// `Lost`, and `Kernel` with the first index out of bounds of a checked launch since the last
    /// time.
    fn wait(&self) -> Result<(), DeviceError>;

    /// Whether somebody wants the times of kernels from now on. Those who want them are counted:
    /// each says so once, and once that it does not any more.
    fn time_kernels(&self, on: bool) {
        let _ = on;
    }

    /// Nanoseconds that kernels took by the device's own clock, of those that are done and were
    /// launched since the last call, whoever launched them. `None` where it has no clock, where not
    /// just one wants times (whose they were is not known), and where they were too many.
    ///
    /// # Errors
    /// `Lost`.
    fn kernel_ns(&self) -> Result<Option<u64>, DeviceError> {
        Ok(None)
    }
}

/// What a launcher can do.
#[derive(Clone, Debug)]
pub struct LaunchLimits {
    /// Whether kernels may use `f16`.
    pub f16: bool,
    /// Whether items of a subgroup can work together; else each is one by itself.
    pub subgroups: bool,
    /// How many floats an item had better work on at a time: on processors as many as a vector
    /// register has, else 1.
    pub lanes: u32,
    /// Whether items of a group wait for each other at little cost: on GPUs, where they run at
    /// once.
    pub cheap_barriers: bool,
    /// Processors of the device, each of which has room for several groups; a guess where its
    /// driver does not say.
    pub units: usize,
    /// Most turns of all loops of an item: Mesa's lavapipe ends loops beyond, and says nothing.
    pub turns_max: usize,
    /// Most bytes of one memory.
    pub bytes_max: usize,
    /// Most bytes of it that a kernel can be given at once.
    pub part_max: usize,
    /// Where such a part may begin: at multiples of so many bytes; 0 where only at the beginning.
    pub part_align: usize,
    /// Most memories of one kernel.
    pub buffers_max: usize,
    /// Most items of a group.
    pub group_items_max: u32,
    /// Most bytes of shared memory.
    pub shared_bytes_max: usize,
}

/// One launch.
pub struct Launch<'a> {
    /// The kernel. What is compiled of it is kept for this very one: keep it, too.
    pub kernel: &'a Arc<Kernel>,
    /// What rustc made of it, for devices that are the host.
    pub native: Option<Native>,
    /// Groups along each axis.
    pub groups: [u32; 3],
    /// Arguments, in order.
    pub args: &'a [LaunchArg<'a>],
    /// Whether indices are checked.
    checked: bool,
}

/// An argument.
#[derive(Clone, Copy)]
pub enum LaunchArg<'a> {
    /// A number.
    Value(Literal),
    /// A part of a device's memory.
    Memory {
        /// The memory.
        memory: &'a Arc<dyn Held>,
        /// Of what it is, where that is known.
        scalar: Option<Scalar>,
        /// Its first byte: a multiple of [`LaunchLimits::part_align`].
        from: usize,
        /// How many bytes.
        bytes: usize,
    },
}

impl<'a> Launch<'a> {
    /// A checked launch of what `#[kernel]` gave.
    ///
    /// # Errors
    /// When the kernel is refused.
    pub fn of(
        source: &'a Source,
        groups: [u32; 3],
        args: &'a [LaunchArg<'a>],
    ) -> Result<Launch<'a>, KernelError> {
        let native = Some(source.native());
        Ok(Launch { native, ..Launch::new(source.kernel()?, groups, args) })
    }

    /// A checked launch of a kernel that is data only.
    pub fn new(kernel: &'a Arc<Kernel>, groups: [u32; 3], args: &'a [LaunchArg<'a>]) -> Launch<'a> {
        Launch { kernel, native: None, groups, args, checked: true }
    }

    /// The same launch, whose indices nobody checks.
    ///
    /// # Safety
    /// With these arguments, every index of the kernel is inside the memory that it is of: else it
    /// reads and writes anywhere, in the host's memory where that is the device's.
    #[must_use]
    pub unsafe fn unchecked(self) -> Launch<'a> {
        Launch { checked: false, ..self }
    }

    /// Whether indices are checked.
    pub fn is_checked(&self) -> bool {
        self.checked
    }

    /// Checks the arguments, their kinds and sizes, that what is written is given once, and that
    /// the device can do what the kernel asks for.
    ///
    /// # Errors
    /// With the parameter, what it takes and what it was given.
    pub fn check(&self, limits: &LaunchLimits) -> Result<Vec<Given>, KernelError> {
        self.check_limits(limits)?;
        let given = self.args.iter().map(|arg| match arg {
            LaunchArg::Value(literal) => Given::Value(literal.scalar),
            LaunchArg::Memory { scalar, bytes, .. } => {
                Given::Memory { scalar: *scalar, writable: true, bytes: *bytes }
            }
        });
        let given: Vec<Given> = given.collect();
        self.kernel.check_call(self.groups, &given)?;
        for (id, _, access) in self.kernel.buffers() {
            if access != hetra_kernel::Access::Read && self.times_given(id.index()) > 1 {
                return Err(KernelError::Argument {
                    name: self.kernel.name.clone(),
                    param: self.kernel.param(id).name.clone(),
                    wanted: "memory that no other argument is".to_string(),
                    got: "memory that is given twice".to_string(),
                });
            }
        }
        Ok(given)
    }

    /// Refuses what the device cannot do, before the driver does.
    fn check_limits(&self, limits: &LaunchLimits) -> Result<(), KernelError> {
        let kernel = self.kernel;
        let apart = |from: usize| match limits.part_align {
            0 => from != 0,
            align => !from.is_multiple_of(align),
        };
        let refuse = |what: String| {
            Err(KernelError::Target { name: kernel.name.clone(), target: "this device", what })
        };
        if kernel.group_items() > limits.group_items_max {
            return refuse(format!("groups of {} items", kernel.group_items()));
        }
        if kernel.shared_bytes() > limits.shared_bytes_max {
            return refuse(format!("{} bytes of shared memory", kernel.shared_bytes()));
        }
        for arg in self.args {
            match arg {
                LaunchArg::Memory { from, .. } if apart(*from) => {
                    return refuse(format!("memory from byte {from} on"));
                }
                LaunchArg::Memory { bytes, .. } if *bytes > limits.part_max => {
                    return refuse(format!("{bytes} bytes of memory at once"));
                }
                _ => {}
            }
        }
        let buffers = kernel.buffers().count();
        if buffers > limits.buffers_max {
            return refuse(format!("{buffers} buffers for a kernel"));
        }
        Ok(())
    }

    /// How many arguments are the memory that the one at `index` is.
    fn times_given(&self, index: usize) -> usize {
        let memory = |arg: &LaunchArg<'a>| match arg {
            // Of what is behind it: one memory may be handed in by several handles.
            LaunchArg::Memory { memory, .. } => {
                Some(std::ptr::from_ref(memory.as_any()).cast::<()>())
            }
            LaunchArg::Value(_) => None,
        };
        let wanted = self.args.get(index).and_then(memory);
        self.args.iter().filter(|arg| memory(arg) == wanted).count()
    }

    /// Parameters and arguments, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (ParamKind, &LaunchArg<'a>)> {
        self.kernel.params.iter().map(|param| param.kind).zip(self.args)
    }
}
