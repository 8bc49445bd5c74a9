//! Launches on one device: gathered, and submitted together.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hetra_device::{
    Compiled, DeviceError, DeviceInfo, Launch, LaunchArg, LaunchLimits, Launcher, Pending, Pool,
    Queue,
};
use hetra_kernel::{
    Access, FAULT_WORDS, GROUP_ITEMS_MAX, Kernel, Options, SHARED_BYTES_MAX, Target, Words, entry,
    words,
};
use hetra_tensor::Held;
use wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindGroupLayoutDescriptor,
    BindGroupLayoutEntry, BindingResource, BindingType, Buffer, BufferBinding, BufferBindingType,
    BufferDescriptor, BufferUsages, ComputePipeline, ComputePipelineDescriptor, DeviceDescriptor,
    ErrorFilter, ExperimentalFeatures, MapMode, MemoryHints, PipelineCompilationOptions,
    PipelineLayoutDescriptor, PollType, ShaderModuleDescriptor, ShaderRuntimeChecks, ShaderSource,
    ShaderStages, Trace,
};

use crate::clock::{Clock, TICKS_BYTES, ticks};
use crate::find::{Adapter, wanted};
use crate::memory::Memory;
use crate::pipelines::Pipelines;

/// Most bytes of memory that a device keeps for the next who asks.
const POOL_BYTES_MAX: usize = 1 << 30;

/// After so many launches they are submitted, so that the device begins.
const GATHERED_MAX: usize = 128;

/// Bytes of a block of arguments.
const ARGUMENTS_BYTES: usize = 64 << 10;

/// One device, opened.
pub struct Wgpu {
    info: DeviceInfo,
    shared: Arc<Shared>,
}

/// What memory and the device have in common.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) device: wgpu::Device,
    queue: wgpu::Queue,
    pub(crate) pool: Pool<Buffer>,
    staging: Pool<Buffer>,
    pub(crate) limits: LaunchLimits,
    /// Most groups along an axis of one dispatch.
    groups_max: u32,
    /// Where arguments may begin.
    alignment: usize,
    state: Mutex<State>,
    /// What the driver made of pipelines, this time and before.
    pipelines: Pipelines,
    /// Why the device is gone, and what went wrong that nobody asked about.
    lost: Arc<OnceLock<String>>,
    faults: Arc<Mutex<Option<String>>>,
}

struct State {
    compiled: Compiled<Arc<ComputePipeline>>,
    /// Dispatches that are not submitted yet.
    gathered: Vec<Dispatch>,
    /// The arguments of those, and the block that they will be in.
    arguments: Vec<u8>,
    block: Option<Buffer>,
    /// Blocks that were submitted and may be used again: the queue keeps the order.
    blocks: Vec<Buffer>,
    /// Checked launches whose faults nobody has looked at yet.
    pending: Vec<Pending<Memory>>,
    clock: Clock,
}

struct Dispatch {
    pipeline: Arc<ComputePipeline>,
    bindings: BindGroup,
    groups: [u32; 3],
}

impl Wgpu {
    pub(crate) fn new(found: Adapter) -> Result<Wgpu, DeviceError> {
        let name = found.info.id.clone();
        let features = found.adapter.features() & wanted();
        let limits = found.adapter.limits();
        let opened = pollster::block_on(found.adapter.request_device(&DeviceDescriptor {
            label: None,
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: ExperimentalFeatures::disabled(),
            memory_hints: MemoryHints::Performance,
            trace: Trace::Off,
        }));
        let (device, queue) = opened.map_err(|error| DeviceError::Failed {
            device: name.clone(),
            reason: error.to_string(),
        })?;
        let (lost, faults) = (Arc::new(OnceLock::new()), Arc::new(Mutex::new(None)));
        listen(&device, &lost, &faults);
        let launch = LaunchLimits {
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            // WGSL has vectors of four at most.
            lanes: 1,
            cheap_barriers: found.adapter.get_info().device_type != wgpu::DeviceType::Cpu,
            units: units(found.adapter.get_info().device_type),
            // `LP_MAX_TGSI_LOOP_ITERATIONS` of Mesa is 65,535.
            turns_max: match found.adapter.get_info().device_type {
                wgpu::DeviceType::Cpu => 60_000,
                _ => usize::MAX,
            },
            bytes_max: usize::try_from(limits.max_buffer_size).unwrap_or(usize::MAX) & !255,
            part_max: usize::try_from(
                limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
            )
            .unwrap_or(usize::MAX)
                & !255,
            part_align: limits.min_storage_buffer_offset_alignment.max(4) as usize,
            // One more is taken by the faults of checked kernels.
            buffers_max: limits.max_storage_buffers_per_shader_stage.saturating_sub(1) as usize,
            group_items_max: limits.max_compute_invocations_per_workgroup.min(GROUP_ITEMS_MAX),
            shared_bytes_max: (limits.max_compute_workgroup_storage_size as usize)
                .min(SHARED_BYTES_MAX),
        };
        let state = State {
            compiled: Compiled::new(Target::Wgsl),
            gathered: Vec::new(),
            arguments: Vec::new(),
            block: None,
            blocks: Vec::new(),
            pending: Vec::new(),
            clock: Clock::new(&device, &queue),
        };
        let about = &found.info;
        let about = format!("wgpu {} {} {}", about.name, about.revision, about.version);
        let pipelines = Pipelines::new(&device, &about);
        let shared = Shared {
            name,
            device,
            queue,
            pool: Pool::new(POOL_BYTES_MAX),
            staging: Pool::new(POOL_BYTES_MAX / 4),
            limits: launch,
            groups_max: limits.max_compute_workgroups_per_dimension,
            alignment: limits.min_uniform_buffer_offset_alignment.max(16) as usize,
            state: Mutex::new(state),
            pipelines,
            lost,
            faults,
        };
        Ok(Wgpu { info: found.info, shared: Arc::new(shared) })
    }

    /// What it says of itself.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }
}

/// Errors that no scope catches are kept for who waits next: without a handler wgpu would end the
/// process.
fn listen(
    device: &wgpu::Device,
    lost: &Arc<OnceLock<String>>,
    faults: &Arc<Mutex<Option<String>>>,
) {
    let lost = lost.clone();
    device.set_device_lost_callback(move |reason, message| {
        let _ = lost.set(format!("{reason:?}: {message}"));
    });
    let faults = faults.clone();
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        let mut first = faults.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error.to_string());
    }));
}

impl Shared {
    /// A state stays usable after a panic elsewhere: its entries are whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, reason: impl Into<String>) -> DeviceError {
        DeviceError::Failed { device: self.name.clone(), reason: reason.into() }
    }

    /// Whether the device is still there.
    pub(crate) fn check_lost(&self) -> Result<(), DeviceError> {
        match self.lost.get() {
            None => Ok(()),
            Some(reason) => {
                Err(DeviceError::Lost { device: self.name.clone(), reason: reason.clone() })
            }
        }
    }

    /// Whether something went wrong that nobody asked about.
    fn check_faults(&self) -> Result<(), DeviceError> {
        self.check_lost()?;
        // It stays: what was launched with it is gone, and nobody may read what is there instead.
        match &*self.faults.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(fault) => Err(self.failed(fault.clone())),
        }
    }

    /// This device's memory behind what was handed in.
    fn memory<'m>(self: &Arc<Self>, held: &'m dyn Held) -> Result<&'m Memory, DeviceError> {
        let memory = held.as_any().downcast_ref::<Memory>().filter(|memory| memory.is_of(self));
        memory.ok_or_else(|| DeviceError::Foreign { device: self.name.clone() })
    }

    fn options(&self, checked: bool) -> Options {
        Options { checked, f16: self.limits.f16, subgroups: self.limits.subgroups }
    }

    /// Hands over what was gathered.
    fn submit(&self, state: &mut State) {
        if state.gathered.is_empty() {
            return;
        }
        if let Some(block) = state.block.take() {
            self.queue.write_buffer(&block, 0, &state.arguments);
            state.blocks.push(block);
        }
        state.arguments.clear();
        let mut encoder =
            self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let watch = state.clock.start(&self.device);
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: watch.as_ref().map(|set| wgpu::ComputePassTimestampWrites {
                    query_set: set,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                }),
            });
            for dispatch in &state.gathered {
                let [x, y, z] = dispatch.groups;
                pass.set_pipeline(&dispatch.pipeline);
                pass.set_bind_group(0, &dispatch.bindings, &[]);
                pass.dispatch_workgroups(x, y, z);
            }
        }
        if let Some(set) = &watch {
            state.clock.stop(&self.device, set, &mut encoder);
        }
        state.gathered.clear();
        self.queue.submit([encoder.finish()]);
    }

    /// Waits for what was launched and copies bytes to the host.
    pub(crate) fn read(
        self: &Arc<Self>,
        memory: &Memory,
        into: &mut [u8],
    ) -> Result<(), DeviceError> {
        self.copy(memory, into)?;
        self.check_faults()?;
        let pending = std::mem::take(&mut self.lock().pending);
        Pending::look(pending, |memory, into| self.copy(memory, into))
    }

    fn copy(&self, memory: &Memory, into: &mut [u8]) -> Result<(), DeviceError> {
        self.check_lost()?;
        if into.len() > memory.size() {
            return Err(self.failed(format!("{} bytes of {}", into.len(), memory.size())));
        }
        if into.is_empty() {
            return Ok(());
        }
        self.submit(&mut self.lock());
        self.copy_out(memory.buffer(), into)
    }

    /// Waits for what was submitted and copies the first bytes of a buffer to the host.
    fn copy_out(&self, buffer: &Buffer, into: &mut [u8]) -> Result<(), DeviceError> {
        let size = Pool::<Buffer>::size(into.len());
        let staging = self.staging.take(size).unwrap_or_else(|| {
            self.device.create_buffer(&BufferDescriptor {
                label: None,
                size: size as u64,
                usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        let bytes = into.len().next_multiple_of(4) as u64;
        let mut encoder =
            self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, bytes);
        self.queue.submit([encoder.finish()]);
        let (send, receive) = std::sync::mpsc::channel();
        staging.slice(..bytes).map_async(MapMode::Read, move |mapped| {
            // Nobody waits any more when the device was lost.
            let _ = send.send(mapped);
        });
        self.poll()?;
        // Another thread's poll may have taken the callback, and call it a moment later.
        let mapped = receive.recv().map_err(|_| "memory was not mapped".to_string());
        if let Err(reason) = mapped.and_then(|mapped| mapped.map_err(|error| error.to_string())) {
            return Err(self.check_lost().err().unwrap_or_else(|| self.failed(reason)));
        }
        let mapped = staging.slice(..bytes).get_mapped_range();
        let view = mapped.map_err(|error| self.failed(error.to_string()))?;
        into.copy_from_slice(&view[..into.len()]);
        drop(view);
        staging.unmap();
        self.staging.give(size, staging);
        Ok(())
    }

    fn poll(&self) -> Result<(), DeviceError> {
        let polled = self.device.poll(PollType::wait_indefinitely());
        self.check_lost()?;
        polled.map(|_| ()).map_err(|error| self.failed(error.to_string()))
    }

    fn write(&self, memory: &Memory, bytes: &[u8]) -> Result<(), DeviceError> {
        self.check_lost()?;
        if bytes.len() > memory.size() {
            return Err(self.failed(format!("{} bytes of {}", bytes.len(), memory.size())));
        }
        if memory.launched.load(Ordering::Relaxed) {
            // Writes come before what is submitted after them.
            self.submit(&mut self.lock());
        }
        let whole = bytes.len() / 4 * 4;
        if whole > 0 {
            self.queue.write_buffer(memory.buffer(), 0, &bytes[..whole]);
        }
        if whole < bytes.len() {
            let mut word = [0; 4];
            word[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.queue.write_buffer(memory.buffer(), whole as u64, &word);
        }
        Ok(())
    }

    fn compile(
        &self,
        kernel: &Kernel,
        text: &str,
        checked: bool,
    ) -> Result<Arc<ComputePipeline>, DeviceError> {
        let scopes = [ErrorFilter::OutOfMemory, ErrorFilter::Internal, ErrorFilter::Validation]
            .map(|filter| self.device.push_error_scope(filter));
        let descriptor = ShaderModuleDescriptor {
            label: Some(&kernel.name),
            source: ShaderSource::Wgsl(text.into()),
        };
        let checks = ShaderRuntimeChecks {
            bounds_checks: checked,
            // What bounds loops keeps drivers from unrolling them.
            force_loop_bounding: !kernel.ends(),
            ..ShaderRuntimeChecks::checked()
        };
        // SAFETY: where bounds are not checked the kernel stays inside its buffers, by the contract
        // of `Launch::unchecked`; loops that are not bounded count to an end (`Kernel::ends`);
        // divisions are guarded.
        let module = unsafe { self.device.create_shader_module_trusted(descriptor, checks) };
        let entries = layout(kernel, checked);
        let bindings = self.device.create_bind_group_layout(&BindGroupLayoutDescriptor {
            label: None,
            entries: &entries,
        });
        let pipelines = self.device.create_pipeline_layout(&PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&bindings)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&ComputePipelineDescriptor {
            label: Some(&kernel.name),
            layout: Some(&pipelines),
            module: &module,
            entry_point: Some(&entry(kernel)),
            compilation_options: PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..PipelineCompilationOptions::default()
            },
            cache: self.pipelines.cache(),
        });
        self.pipelines.made();
        // Scopes end in the opposite order.
        let faults: Vec<_> =
            scopes.into_iter().rev().filter_map(|scope| pollster::block_on(scope.pop())).collect();
        match faults.into_iter().next() {
            None => Ok(Arc::new(pipeline)),
            Some(error) => {
                Err(self.failed(format!("kernel `{}` does not compile: {error}", kernel.name)))
            }
        }
    }

    /// Gathers the dispatches of a launch: more than one where an axis has too many groups.
    fn gather(
        self: &Arc<Self>,
        state: &mut State,
        pipeline: &Arc<ComputePipeline>,
        launch: &Launch<'_>,
        faults: Option<&Memory>,
    ) -> Result<(), DeviceError> {
        let most = self.groups_max;
        let steps = |axis: usize| (0..launch.groups[axis]).step_by(most as usize);
        for z in steps(2) {
            for y in steps(1) {
                for x in steps(0) {
                    let base = [x, y, z];
                    let groups = [0, 1, 2].map(|axis| (launch.groups[axis] - base[axis]).min(most));
                    let arguments = arguments(launch, base);
                    let bindings = self.bind(state, pipeline, launch, &arguments, faults)?;
                    state.gathered.push(Dispatch { pipeline: pipeline.clone(), bindings, groups });
                    if state.gathered.len() >= GATHERED_MAX {
                        self.submit(state);
                    }
                }
            }
        }
        Ok(())
    }

    fn bind(
        self: &Arc<Self>,
        state: &mut State,
        pipeline: &ComputePipeline,
        launch: &Launch<'_>,
        arguments: &[u8],
        faults: Option<&Memory>,
    ) -> Result<BindGroup, DeviceError> {
        let mut at = state.arguments.len().next_multiple_of(self.alignment);
        if at + arguments.len() > ARGUMENTS_BYTES {
            self.submit(state);
            at = 0;
        }
        state.arguments.resize(at, 0);
        state.arguments.extend_from_slice(arguments);
        let State { block, blocks, .. } = state;
        let block = block.get_or_insert_with(|| {
            blocks.pop().unwrap_or_else(|| {
                self.device.create_buffer(&BufferDescriptor {
                    label: None,
                    size: ARGUMENTS_BYTES as u64,
                    usage: BufferUsages::UNIFORM | BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            })
        });
        let mut resources = Vec::with_capacity(launch.args.len() + 2);
        let part = |buffer, offset: usize, bytes: usize| {
            let size = std::num::NonZeroU64::new((bytes as u64).next_multiple_of(4).max(4));
            BindingResource::Buffer(BufferBinding { buffer, offset: offset as u64, size })
        };
        for arg in launch.args {
            if let LaunchArg::Memory { memory, from, bytes, .. } = arg {
                let memory = self.memory(&***memory)?;
                memory.launched.store(true, Ordering::Relaxed);
                resources.push(part(memory.buffer(), *from, *bytes));
            }
        }
        resources.push(part(block, at, arguments.len()));
        if let Some(faults) = faults {
            resources.push(part(faults.buffer(), 0, FAULT_WORDS * 4));
        }
        let entries: Vec<BindGroupEntry<'_>> = resources
            .into_iter()
            .zip(0..)
            .map(|(resource, binding)| BindGroupEntry { binding, resource })
            .collect();
        Ok(self.device.create_bind_group(&BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        }))
    }
}

/// The bindings of a kernel: its buffers, its arguments, its faults.
fn layout(kernel: &Kernel, checked: bool) -> Vec<BindGroupLayoutEntry> {
    let storage = |read_only| BufferBindingType::Storage { read_only };
    let mut kinds: Vec<BufferBindingType> =
        kernel.buffers().map(|(_, _, access)| storage(access == Access::Read)).collect();
    kinds.push(BufferBindingType::Uniform);
    if checked {
        kinds.push(storage(false));
    }
    let entry = |(ty, binding)| BindGroupLayoutEntry {
        binding,
        visibility: ShaderStages::COMPUTE,
        ty: BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    kinds.into_iter().zip(0..).map(entry).collect()
}

/// The words of a launch's uniform buffer.
fn arguments(launch: &Launch<'_>, base: [u32; 3]) -> Vec<u8> {
    let Words { base: at_base, groups: at_groups, params, len } = words(launch.kernel);
    let mut all = vec![0u32; len];
    all[at_base..at_base + 3].copy_from_slice(&base);
    all[at_groups..at_groups + 3].copy_from_slice(&launch.groups);
    for (index, (kind, arg)) in launch.pairs().enumerate() {
        all[params + index] = match (kind, arg) {
            (_, LaunchArg::Value(literal)) => literal.bits,
            (hetra_kernel::ParamKind::Buffer { element, .. }, LaunchArg::Memory { bytes, .. }) => {
                (bytes / element.bytes()) as u32
            }
            _ => 0,
        };
    }
    all.into_iter().flat_map(u32::to_le_bytes).collect()
}

impl Drop for Wgpu {
    fn drop(&mut self) {
        // Memory keeps what it is of alive, and so would what nobody looks at any more.
        self.shared.lock().pending.clear();
        self.shared.pipelines.keep();
    }
}

impl Queue for Wgpu {
    type Memory = Memory;

    fn start(&self, launch: &Launch<'_>) -> Result<Option<Pending<Memory>>, DeviceError> {
        let shared = &self.shared;
        shared.check_lost()?;
        let given = launch.check(&shared.limits)?;
        for arg in launch.args {
            if let LaunchArg::Memory { memory, from, bytes, .. } = arg
                && shared.memory(&***memory)?.size() < from.saturating_add(*bytes)
            {
                return Err(shared.failed(format!("{bytes} bytes of a smaller memory")));
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
        let compile = |text: &str| shared.compile(launch.kernel, text, launch.is_checked());
        let options = shared.options(launch.is_checked());
        let pipeline = state.compiled.get(launch.kernel, options, compile)?.clone();
        shared.gather(state, &pipeline, launch, faults.as_ref())?;
        Ok(faults.map(|faults| Pending { kernel: launch.kernel.clone(), given, faults }))
    }

    fn finish(&self) -> Result<(), DeviceError> {
        self.shared.submit(&mut self.shared.lock());
        self.shared.poll()?;
        self.shared.pipelines.idle();
        self.shared.check_faults()
    }

    fn copy(&self, memory: &Memory, into: &mut [u8]) -> Result<(), DeviceError> {
        self.shared.copy(memory, into)
    }

    fn pending<R>(&self, change: impl FnOnce(&mut Vec<Pending<Memory>>) -> R) -> R {
        change(&mut self.shared.lock().pending)
    }
}

impl Launcher for Wgpu {
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
        let taken = self.shared.lock().clock.take();
        let Some((buffers, period)) = taken else { return Ok(None) };
        let mut all = 0;
        for buffer in buffers {
            let mut bytes = [0; TICKS_BYTES];
            self.shared.copy_out(&buffer, &mut bytes)?;
            all += ticks(bytes);
        }
        Ok(Some((all as f64 * period) as u64))
    }
}

/// Processors of a GPU: drivers of WGPU do not say, so what is usual of its kind.
fn units(kind: wgpu::DeviceType) -> usize {
    match kind {
        wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu => 96,
        wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::Other => 16,
        wgpu::DeviceType::Cpu => 1,
    }
}

#[cfg(test)]
mod tests {
    use hetra_kernel_cases::opened;

    use super::*;

    #[test]
    fn a_device_that_is_lost_says_so_and_another_goes_on() {
        let devices = opened("wgpu", crate::open("wgpu")).zip(opened("wgpu", crate::open("wgpu")));
        let Some((device, other)) = devices else { return };
        let memory = device.alloc(64).unwrap();
        device.write(&*memory, &[1; 64]).unwrap();
        device.shared.device.destroy();
        let lost = |what: &str, result: Result<(), DeviceError>| {
            assert!(matches!(result, Err(DeviceError::Lost { .. })), "{what}: {result:?}");
        };
        lost("wait", device.wait());
        lost("alloc", device.alloc(64).map(drop));
        lost("write", device.write(&*memory, &[1; 64]));
        let error = memory.read(&mut [0; 64]).unwrap_err().to_string();
        assert!(error.contains("lost"), "{error}");
        let memory = other.alloc(64).unwrap();
        other.write(&*memory, &[1; 64]).unwrap();
        let mut bytes = [0; 64];
        memory.read(&mut bytes).unwrap();
        assert_eq!(bytes, [1; 64]);
    }
}
