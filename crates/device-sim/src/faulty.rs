//! Any device, with faults on demand: what a plan does with them can then be tried.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hetra_device::{
    Call, Device, DeviceError, DeviceInfo, KernelArg, Launcher, Part, Peak, Program, Schedule,
    Space, Support, Task, Values,
};
use hetra_ir::{Graph, Node};
use hetra_kernel::Source;
use hetra_ops::OpError;
use hetra_tensor::Tensor;

use crate::faults::{Fate, Faults};

/// A device whose programs fail, hang, or take longer when they are told to. Its clock is the
/// wall's, from when it was made.
pub struct Faulty {
    info: DeviceInfo,
    device: Arc<dyn Device>,
    fate: Arc<Fate>,
    since: Instant,
}

impl Faulty {
    /// The device with these faults.
    pub fn new(device: Arc<dyn Device>, faults: Faults) -> Faulty {
        let id = device.info().id.clone();
        Faulty::named(&id, device, faults)
    }

    /// From now on goes wrong what these say, calls being counted anew; a device that was lost is
    /// there again.
    pub fn meet(&self, faults: Faults) {
        self.fate.begin(faults);
    }

    /// Calls since it was made, or last told what goes wrong.
    pub fn calls(&self) -> u64 {
        self.fate.calls()
    }

    /// The same under another id.
    pub fn named(id: &str, device: Arc<dyn Device>, faults: Faults) -> Faulty {
        let info = DeviceInfo { id: id.to_string(), ..device.info().clone() };
        Faulty { info, device, fate: Arc::new(Fate::new(faults)), since: Instant::now() }
    }

    fn with_fate(&self, program: Arc<dyn Program>) -> Arc<dyn Program> {
        let id = self.info.id.clone();
        Arc::new(Fated { program, fate: self.fate.clone(), id, since: self.since })
    }
}

impl Device for Faulty {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn supports(&self, node: &Node, graph: &Graph) -> Support {
        self.device.supports(node, graph)
    }

    fn compile(&self, part: &Part<'_>) -> Result<Arc<dyn Program>, DeviceError> {
        Ok(self.with_fate(self.device.compile(part)?))
    }

    fn tunes(&self, part: &Part<'_>) -> Option<(Task, Space)> {
        self.device.tunes(part)
    }

    fn compile_with(
        &self,
        part: &Part<'_>,
        schedule: &Schedule,
    ) -> Result<Arc<dyn Program>, DeviceError> {
        Ok(self.with_fate(self.device.compile_with(part, schedule)?))
    }

    fn peak(&self) -> Option<Peak> {
        self.device.peak()
    }

    fn warning(&self) -> Option<String> {
        self.device.warning()
    }

    fn host(&self) -> Option<&DeviceInfo> {
        self.device.host()
    }

    fn launcher(&self) -> Option<&Arc<dyn Launcher>> {
        self.device.launcher()
    }

    fn place(&self, tensor: &Tensor) -> Result<Option<Tensor>, DeviceError> {
        self.device.place(tensor)
    }

    fn run_kernel(
        &self,
        source: &Source,
        groups: [u32; 3],
        args: &[KernelArg<'_>],
    ) -> Result<Vec<Tensor>, DeviceError> {
        self.device.run_kernel(source, groups, args)
    }

    fn scope(&self, work: &mut (dyn FnMut() + Send)) {
        self.device.scope(work);
    }
}

struct Fated {
    program: Arc<dyn Program>,
    fate: Arc<Fate>,
    id: String,
    since: Instant,
}

impl Program for Fated {
    fn run(&self, call: Call<'_>) -> Result<Values, OpError> {
        let times = self.fate.until(self.since.elapsed()).times(&self.id)?;
        let begun = Instant::now();
        let values = self.program.run(call)?;
        let longer = begun.elapsed().as_secs_f64() * (times - 1.0);
        std::thread::sleep(Duration::try_from_secs_f64(longer).unwrap_or_default());
        Ok(values)
    }

    fn kernel(&self) -> &str {
        self.program.kernel()
    }

    fn falls_back(&self) -> bool {
        self.program.falls_back()
    }

    fn by_host(&self) -> bool {
        self.program.by_host()
    }

    fn in_place(&self, index: usize, types: &[Option<&hetra_ir::Type>]) -> bool {
        self.program.in_place(index, types)
    }
}
