//! The CPU as a device: finds a kernel for each node, or runs the reference.

use std::sync::{Arc, OnceLock};

use hetra_device::{
    Call, Device, DeviceError, DeviceInfo, Driver, DriverState, Found, HostThreads, KernelArg,
    Part, Peak, Program, Schedule, ScheduleTable, Space, Support, Task, Values, run_on_host,
};
use hetra_ir::{Graph, Node};
use hetra_kernel::Source;
use hetra_ops::{Kind, OpError, find};
use hetra_tensor::{Shape, Tensor, Value};
use smallvec::smallvec;

use crate::programs::{self, LastShape, Schedules, only_first_varies};
use hetra_cpu_base::isa::{self, Isa, isa};
use hetra_cpu_base::peak::{bandwidth, bf16_flops, byte_ops, flops};
use hetra_cpu_base::pin;
use hetra_cpu_base::threads::{self, THREADS_MAX, processors};

/// Finds the one CPU of this machine.
pub struct CpuDriver;

impl Driver for CpuDriver {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn discover(&self) -> Vec<Found> {
        let info = describe(processors());
        let (state, hint) = match setting() {
            Ok(()) => (DriverState::Found, String::new()),
            Err(error) => (DriverState::Broken, error.to_string()),
        };
        vec![Found { info, state, hint }]
    }

    fn open(
        &self,
        id: &str,
        threads: HostThreads,
        schedules: ScheduleTable,
    ) -> Result<Arc<dyn Device>, DeviceError> {
        if id != "cpu" {
            return Err(DeviceError::NoDevice { id: id.to_string(), found: "cpu".to_string() });
        }
        let device = CpuDevice::new(threads.count)?.with_schedules(schedules);
        Ok(Arc::new(CpuDevice { pin: threads.pin, ..device }))
    }
}

/// Whether the environment asks for kernels that there are.
fn setting() -> Result<(), DeviceError> {
    let choices = || isa::NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let fault = |value| DeviceError::Setting { name: "HETRA_CPU", value, choices: choices() };
    isa::asked().map(|_| ()).map_err(fault)
}

fn describe(threads: usize) -> DeviceInfo {
    DeviceInfo {
        id: "cpu".to_string(),
        name: model_name(),
        revision: revision(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        memory_bytes: memory_bytes(),
        threads,
        kernels: set_name(isa()),
        kernel_sets: Isa::available().into_iter().map(set_name).collect(),
        features: features(),
        dtypes: hetra_tensor::DType::all().map(|dtype| dtype.name().to_string()).collect(),
        ..DeviceInfo::of_driver("cpu")
    }
}

fn set_name(isa: Isa) -> String {
    format!("{isa:?}").to_lowercase()
}

/// What the processor can do, of what kernels ask for.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<String> {
    let abilities = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    let there = abilities.into_iter().filter(|(_, there)| *there);
    there.map(|(name, _)| name.to_string()).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<String> {
    Vec::new()
}

/// What the system says of its processors: the same at all times, and slow to read.
fn cpuinfo() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

fn field_of(text: &str, field: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(field))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// The numbers that tell processors of one name apart: several generations are called the same.
fn revision() -> String {
    let fields =
        ["cpu family", "model\t", "stepping", "CPU implementer", "CPU part", "CPU revision"];
    let found = fields.iter().filter_map(|field| field_of(cpuinfo(), field));
    found.collect::<Vec<_>>().join("-")
}

fn model_name() -> String {
    field_of(cpuinfo(), "model name")
        .unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH))
}

fn memory_bytes() -> Option<u64> {
    let text = field_of(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")?;
    let kibibytes: u64 = text.split_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The CPU of this machine, with a number of threads.
pub struct CpuDevice {
    info: DeviceInfo,
    schedules: Arc<ScheduleTable>,
    /// Whether its threads stay on their processors.
    pin: bool,
}

impl CpuDevice {
    /// A device of `threads` threads (`None`: one for each core the process may use).
    ///
    /// # Errors
    /// When the number is 0 or too large, or `HETRA_CPU` names no kernels.
    pub fn new(threads: Option<usize>) -> Result<CpuDevice, DeviceError> {
        setting()?;
        let threads = threads.unwrap_or_else(processors);
        let failed = |reason: String| DeviceError::Failed { device: "cpu".to_string(), reason };
        if threads == 0 || threads > THREADS_MAX {
            return Err(failed(format!("{threads} threads: wanted 1 to {THREADS_MAX}")));
        }
        Ok(CpuDevice { info: describe(threads), schedules: Arc::default(), pin: false })
    }

    /// The same device, which works by these schedules where they have one for a task.
    #[must_use]
    pub fn with_schedules(self, schedules: ScheduleTable) -> CpuDevice {
        CpuDevice { schedules: Arc::new(schedules), ..self }
    }

    /// The one node of a part, which this device compiles alone.
    fn node<'a>(&self, part: &Part<'a>) -> Result<&'a Node, DeviceError> {
        match *part.nodes {
            [id] => Ok(part.graph.node(id)),
            _ => Err(DeviceError::Failed {
                device: self.info.id.clone(),
                reason: format!("takes one node at a time, got {}", part.nodes.len()),
            }),
        }
    }

    fn compile_by(
        &self,
        part: &Part<'_>,
        schedules: &Schedules,
    ) -> Result<Arc<dyn Program>, DeviceError> {
        let node = self.node(part)?;
        let def = find(&node.op).ok_or_else(|| DeviceError::Unsupported {
            device: self.info.id.clone(),
            node: node.label(part.graph),
            op: node.op.clone(),
            reason: "unknown operator".to_string(),
        })?;
        let compile = || programs::compile(part, node, schedules);
        if let Some(program) = threads::with(self.info.threads, compile) {
            return Ok(program);
        }
        if let Some(view) = View::of(part, node).filter(|_| def.kind == Kind::View) {
            return Ok(Arc::new(view));
        }
        let name = match def.kind {
            Kind::View => "view",
            Kind::Control => "bodies",
            _ => REFERENCE,
        };
        Ok(Arc::new(Reference { name }))
    }
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn supports(&self, node: &Node, graph: &Graph) -> Support {
        match find(&node.op) {
            None => Support::No("unknown operator".to_string()),
            Some(_) if programs::claims(node, graph) => Support::Kernel,
            Some(_) => Support::Reference,
        }
    }

    fn compile(&self, part: &Part<'_>) -> Result<Arc<dyn Program>, DeviceError> {
        self.compile_by(part, &Schedules::Table(self.schedules.clone()))
    }

    fn tunes(&self, part: &Part<'_>) -> Option<(Task, Space)> {
        let node = self.node(part).ok()?;
        threads::with(self.info.threads, || programs::tunes(part, node))
    }

    fn compile_with(
        &self,
        part: &Part<'_>,
        schedule: &Schedule,
    ) -> Result<Arc<dyn Program>, DeviceError> {
        self.compile_by(part, &Schedules::One(schedule.clone()))
    }

    fn peak(&self) -> Option<Peak> {
        threads::with(self.info.threads, || {
            Some(Peak {
                ops: flops(isa()),
                bf16_ops: bf16_flops(isa()),
                byte_ops: Some(byte_ops(isa())),
                bytes: bandwidth(),
            })
        })
    }

    fn run_kernel(
        &self,
        source: &Source,
        groups: [u32; 3],
        args: &[KernelArg<'_>],
    ) -> Result<Vec<Tensor>, DeviceError> {
        let mut result = Ok(Vec::new());
        self.scope(&mut || {
            result = run_on_host(source, groups, args, |count, group| {
                threads::for_each(count, true, group);
            });
        });
        result
    }

    fn scope(&self, work: &mut (dyn FnMut() + Send)) {
        match self.pin {
            true => threads::with_pinned(self.info.threads, work),
            false => threads::with(self.info.threads, work),
        }
    }

    fn warning(&self) -> Option<String> {
        let refused = self.pin.then(|| pin::check().err()).flatten()?;
        Some(format!("threads are not pinned: {refused}"))
    }
}

/// Gives the first input another shape, which follows from that of the input alone.
struct View {
    last: LastShape<Shape>,
}

impl View {
    fn of(part: &Part<'_>, node: &Node) -> Option<View> {
        let follows = only_first_varies(part, node) && node.outputs.len() == 1;
        follows.then(|| View { last: LastShape::new() })
    }
}

impl Program for View {
    fn run(&self, call: Call<'_>) -> Result<Values, OpError> {
        let x = call.tensor_opt(0);
        if let Some((x, to)) = x.and_then(|x| Some((x, self.last.get(x.shape())?))) {
            return Ok(smallvec![x.reshape(&to)?.into()]);
        }
        let values = call.reference()?;
        let y = values.first().and_then(Value::as_tensor);
        if let Some((x, y)) = x.zip(y).filter(|(x, y)| x.shares_storage(y)) {
            self.last.set(x.shape(), y.shape().into());
        }
        Ok(values)
    }

    fn kernel(&self) -> &'static str {
        "view"
    }
}

/// The kernel of what has none.
const REFERENCE: &str = "reference";

/// Runs a node by its operator's reference.
struct Reference {
    name: &'static str,
}

impl Program for Reference {
    fn run(&self, call: Call<'_>) -> Result<Values, OpError> {
        call.reference()
    }

    fn kernel(&self) -> &str {
        self.name
    }

    fn falls_back(&self) -> bool {
        self.name == REFERENCE
    }
}
