//! Launches on one device, in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hetra_device::{
    Compiled, DeviceError, DeviceInfo, KernelCache, Launch, LaunchArg, LaunchLimits, Launcher,
    Pending, Pool, Queue,
};
use hetra_kernel::{
    FAULT_WORDS, GROUP_ITEMS_MAX, Kernel, Options, SHARED_BYTES_MAX, Scalar, Target, entry,
};
use hetra_tensor::Held;
use opencl3::command_queue::{CL_QUEUE_PROFILING_ENABLE, CommandQueue};
use opencl3::context::Context;
use opencl3::device::{CL_DEVICE_TYPE_CPU, CL_DEVICE_TYPE_GPU, Device, SubDevice};
use opencl3::error_codes::{
    CL_DEVICE_NOT_AVAILABLE, CL_INVALID_BUFFER_SIZE, CL_MEM_OBJECT_ALLOCATION_FAILURE,
    CL_OUT_OF_HOST_MEMORY, CL_OUT_OF_RESOURCES, ClError,
};
use opencl3::event::Event;
use opencl3::memory::{Buffer, ClMem};
use opencl3::program::Program;
use opencl3::types::{cl_device_id, cl_device_type, cl_uint};

use crate::clock::Clock;
use crate::find::Chosen;
use crate::memory::Memory;
use crate::pinned::Blocks;

/// Most bytes of memory that a device keeps for the next who asks.
const POOL_BYTES_MAX: usize = 1 << 30;

/// One device, opened.
pub struct OpenCl {
    info: DeviceInfo,
    shared: Arc<Shared>,
    /// Lives as long as its context.
    _division: Option<SubDevice>,
}

/// What memory and the device have in common.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) context: Context,
    /// Where the device has memory of its own. Dropped before the queue.
    pub(crate) pinned: Option<Blocks>,
    pub(crate) queue: CommandQueue,
    pub(crate) pool: Pool<Buffer<u8>>,
    /// Bytes of the device's memory.
    pub(crate) bytes: usize,
    /// Bytes of all blocks of this process on the device, those in pools among them.
    pub(crate) made: Arc<AtomicUsize>,
    pub(crate) limits: LaunchLimits,
    /// What was compiled before, by any process.
    cache: KernelCache,
    state: Mutex<State>,
}

pub(crate) struct State {
    compiled: Compiled<opencl3::kernel::Kernel>,
    /// Checked launches whose faults nobody has looked at yet.
    pub(crate) pending: Vec<Pending<Memory>>,
    clock: Clock,
}

/// Whether a device is of a kind.
fn is(device: &Device, kind: cl_device_type) -> bool {
    device.dev_type().is_ok_and(|own| own & kind != 0)
}

/// How many floats an item had better work on at a time: of GPUs, many items have one each.
fn lanes(device: &Device) -> u32 {
    match device.native_vector_width_float() {
        Ok(width) if is(device, CL_DEVICE_TYPE_CPU) => width.max(1),
        _ => 1,
    }
}

/// Bytes of blocks by device, which parts of it and whoever else opens it share.
static MADE: Mutex<BTreeMap<usize, Arc<AtomicUsize>>> = Mutex::new(BTreeMap::new());

fn made_on(device: cl_device_id) -> Arc<AtomicUsize> {
    let mut all = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    all.entry(device.addr()).or_default().clone()
}

impl OpenCl {
    pub(crate) fn new(chosen: Chosen) -> Result<OpenCl, DeviceError> {
        let (found, division) = match chosen {
            Chosen::Whole(device) => (device, None),
            Chosen::Division(device, division) => (device, Some(division)),
        };
        let name = found.info.id.clone();
        let failed = |what: &str, error: ClError| DeviceError::Failed {
            device: name.clone(),
            reason: format!("{what}: {error}"),
        };
        let device = Device::new(division.as_ref().map_or(found.id, SubDevice::id));
        let context = Context::from_device(&device).map_err(|e| failed("clCreateContext", e))?;
        let queue =
            CommandQueue::create_default_with_properties(&context, CL_QUEUE_PROFILING_ENABLE, 0)
                .map_err(|error| failed("clCreateCommandQueueWithProperties", error))?;
        let has = |feature: &str| found.info.features.iter().any(|has| has == feature);
        let bytes = |bytes: Result<u64, ClError>| {
            bytes.map_or(0, |b| usize::try_from(b).unwrap_or(usize::MAX))
        };
        let limits = LaunchLimits {
            f16: has("f16"),
            subgroups: false,
            lanes: lanes(&device),
            cheap_barriers: is(&device, CL_DEVICE_TYPE_GPU),
            units: device.max_compute_units().map_or(1, |units| units as usize),
            turns_max: usize::MAX,
            bytes_max: bytes(device.max_mem_alloc_size()),
            part_max: bytes(device.max_mem_alloc_size()),
            part_align: 0,
            buffers_max: 32,
            group_items_max: device
                .max_work_group_size()
                .map_or(1, |items| items.min(GROUP_ITEMS_MAX as usize) as u32),
            shared_bytes_max: bytes(device.local_mem_size()).min(SHARED_BYTES_MAX),
        };
        let pool = Pool::new(POOL_BYTES_MAX);
        let state = Mutex::new(State {
            compiled: Compiled::new(Target::OpenCl),
            pending: Vec::new(),
            clock: Clock::default(),
        });
        let about = &found.info;
        let cache =
            KernelCache::of(&format!("opencl {} {} {}", about.name, about.revision, about.version));
        // What is deprecated about it is its name only.
        let own = device.host_unified_memory().is_ok_and(|unified| !unified);
        let pinned = own.then(Blocks::new);
        let (bytes, made) = (bytes(device.global_mem_size()), made_on(found.id));
        let shared =
            Shared { name, context, pinned, queue, pool, bytes, made, limits, cache, state };
        Ok(OpenCl { info: found.info, shared: Arc::new(shared), _division: division })
    }

    /// What it says of itself.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The same device, which copies as those do that have memory of their own: through memory of
    /// the host that does not move.
    #[must_use]
    pub fn with_pinned_copies(mut self) -> OpenCl {
        // Nobody else has it yet, or it stays as it is.
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.pinned = Some(Blocks::new());
        }
        self
    }
}

impl Shared {
    /// A state stays usable after a panic elsewhere: its entries are whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an error of OpenCL means. `bytes`: of the memory that was asked for.
    pub(crate) fn fault(&self, what: &str, error: &ClError, bytes: usize) -> DeviceError {
        let device = self.name.clone();
        match error.0 {
            CL_MEM_OBJECT_ALLOCATION_FAILURE
            | CL_OUT_OF_RESOURCES
            | CL_OUT_OF_HOST_MEMORY
            | CL_INVALID_BUFFER_SIZE => {
                DeviceError::Memory { device, bytes, at_most: String::new() }
            }
            CL_DEVICE_NOT_AVAILABLE => DeviceError::Lost { device, reason: error.to_string() },
            _ => DeviceError::Failed { device, reason: format!("{what}: {error}") },
        }
    }

    /// This device's memory behind what was handed in.
    fn memory<'m>(self: &Arc<Self>, held: &'m dyn Held) -> Result<&'m Memory, DeviceError> {
        let memory = held.as_any().downcast_ref::<Memory>().filter(|memory| memory.is_of(self));
        memory.ok_or_else(|| DeviceError::Foreign { device: self.name.clone() })
    }

    fn compile(&self, kernel: &Kernel, text: &str) -> Result<opencl3::kernel::Kernel, DeviceError> {
        let name = entry(kernel);
        // A binary that the driver does not take any more, or that lacks the kernel, is made again.
        let kept = self.cache.get(text).and_then(|binary| {
            let program = Program::create_and_build_from_binary(&self.context, &[&binary], "-w");
            opencl3::kernel::Kernel::create(&program.ok()?, &name).ok()
        });
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let built = Program::create_and_build_from_source(&self.context, text, "-w");
        let program = built.map_err(|log| DeviceError::Failed {
            device: self.name.clone(),
            reason: format!("kernel `{}` does not compile: {log}", kernel.name),
        })?;
        if let Some(binary) = program.get_binaries().unwrap_or_default().first() {
            self.cache.put(text, binary);
        }
        opencl3::kernel::Kernel::create(&program, &name)
            .map_err(|error| self.fault("clCreateKernel", &error, 0))
    }

    /// Sets arguments and puts the kernel into the queue.
    fn enqueue(
        self: &Arc<Self>,
        kernel: &opencl3::kernel::Kernel,
        launch: &Launch<'_>,
        faults: Option<&Memory>,
    ) -> Result<Event, DeviceError> {
        let set = |result: opencl3::Result<()>| {
            result.map_err(|error| self.fault("clSetKernelArg", &error, 0))
        };
        let mut index: cl_uint = 0;
        let mut next = || {
            index += 1;
            index - 1
        };
        for arg in launch.args {
            // SAFETY: the emitted kernel has the parameters of the launch in this order, and the
            // check of the launch says that each argument is of its parameter's kind.
            set(unsafe {
                match arg {
                    LaunchArg::Value(literal) if literal.scalar == Scalar::F16 => {
                        kernel.set_arg(next(), &(literal.bits as u16))
                    }
                    LaunchArg::Value(literal) => kernel.set_arg(next(), &literal.bits),
                    LaunchArg::Memory { memory, .. } => {
                        kernel.set_arg(next(), &self.memory(&***memory)?.buffer().get())
                    }
                }
            })?;
        }
        for (id, element, _) in launch.kernel.buffers() {
            let LaunchArg::Memory { bytes, .. } = launch.args[id.index()] else { continue };
            let len = (bytes / element.bytes()) as u32;
            // SAFETY: after the parameters come the lengths of the buffers, as `uint`.
            set(unsafe { kernel.set_arg(next(), &len) })?;
        }
        if let Some(faults) = faults {
            // SAFETY: the last parameter of a checked kernel is the buffer of faults.
            set(unsafe { kernel.set_arg(next(), &faults.buffer().get()) })?;
        }
        let local = launch.kernel.group.map(|size| size as usize);
        let global = [0, 1, 2].map(|axis| launch.groups[axis] as usize * local[axis]);
        // SAFETY: all arguments are set (above); the kernel is either checked or, by the contract
        // of `Launch::unchecked`, known to stay inside its buffers.
        let queued = unsafe {
            self.queue.enqueue_nd_range_kernel(
                kernel.get(),
                3,
                std::ptr::null(),
                global.as_ptr(),
                local.as_ptr(),
                &[],
            )
        };
        queued.map_err(|error| self.fault("clEnqueueNDRangeKernel", &error, 0))
    }
}

impl Drop for OpenCl {
    fn drop(&mut self) {
        // Memory keeps what it is of alive, and so would what nobody looks at any more.
        self.shared.lock().pending.clear();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.made.fetch_sub(self.pool.clear(), Ordering::Relaxed);
    }
}

impl Queue for OpenCl {
    type Memory = Memory;

    fn start(&self, launch: &Launch<'_>) -> Result<Option<Pending<Memory>>, DeviceError> {
        let shared = &self.shared;
        let given = launch.check(&shared.limits)?;
        for arg in launch.args {
            if let LaunchArg::Memory { memory, bytes, .. } = arg
                && shared.memory(&***memory)?.size() < *bytes
            {
                let reason = format!("{bytes} bytes of a smaller memory");
                return Err(DeviceError::Failed { device: shared.name.clone(), reason });
            }
        }
        if launch.groups.contains(&0) {
            return Ok(None);
        }
        let faults = match launch.is_checked() {
            true => {
                let faults = Memory::new(shared, FAULT_WORDS * 4)?;
                shared.write(&faults, &[0; FAULT_WORDS * 4])?;
                Some(faults)
            }
            false => None,
        };
        let mut guard = shared.lock();
        let state = &mut *guard;
        let LaunchLimits { f16, subgroups, .. } = shared.limits;
        let options = Options { checked: launch.is_checked(), f16, subgroups };
        let compile = |text: &str| shared.compile(launch.kernel, text);
        let kernel = state.compiled.get(launch.kernel, options, compile)?;
        let event = shared.enqueue(kernel, launch, faults.as_ref())?;
        state.clock.take(event);
        Ok(faults.map(|faults| Pending { kernel: launch.kernel.clone(), given, faults }))
    }

    fn finish(&self) -> Result<(), DeviceError> {
        let done = self.shared.queue.finish();
        done.map_err(|error| self.shared.fault("clFinish", &error, 0))
    }

    fn copy(&self, memory: &Memory, into: &mut [u8]) -> Result<(), DeviceError> {
        self.shared.copy(memory, into)
    }

    fn pending<R>(&self, change: impl FnOnce(&mut Vec<Pending<Memory>>) -> R) -> R {
        change(&mut self.shared.lock().pending)
    }
}

impl Launcher for OpenCl {
    fn limits(&self) -> &LaunchLimits {
        &self.shared.limits
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Held>, DeviceError> {
        Ok(Arc::new(Memory::new(&self.shared, bytes)?))
    }

    fn write(&self, memory: &dyn Held, bytes: &[u8]) -> Result<(), DeviceError> {
        self.shared.write(self.shared.memory(memory)?, bytes)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        self.launch_later(launch)
    }

    fn run(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        self.launch_now(launch)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.wait_for_all()
    }

    fn time_kernels(&self, on: bool) {
        self.shared.lock().clock.want(on);
    }

    fn kernel_ns(&self) -> Result<Option<u64>, DeviceError> {
        self.finish()?;
        Ok(self.shared.lock().clock.ns())
    }
}
