//! A model compiled for a device.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use hetra_device::{Device, DeviceInfo, HostThreads, Peak, ScheduleTable, Support};
use hetra_exec::{Engine, ExecError, RunOptions, Trace};
use hetra_ir::{Graph, Node, NodeId, Type, ValueId, verify};
use hetra_onnx::{ImportOptions, Model, ModelInfo};
use hetra_pass::{Claim, Options, Report};
use hetra_plan::Plan;
use hetra_tensor::{Blob, Value};

use crate::error::Error;
use crate::outputs::Outputs;
use crate::pending::{Pending, pending};
use crate::precision::{self, Precision, PrecisionReport};
use crate::runs::{Gate, RUNS_MAX, Workers};
use crate::shared::{self, Origin, Recipe};
use crate::tuned::Tuned;

/// Name and type of an input or output.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Name in the model.
    pub name: String,
    /// Its type; extents may be symbols.
    pub ty: Type,
    /// An input that may be left out.
    pub has_default: bool,
}

enum Source {
    File(PathBuf),
    Bytes(Blob),
    Model(Box<Model>),
}

/// Collects what a session is made of.
#[derive(Default)]
pub struct Builder {
    source: Option<Source>,
    device: Option<Arc<dyn Device>>,
    device_id: Option<String>,
    threads: Option<usize>,
    pin: bool,
    passes_off: Vec<String>,
    runs_max: Option<usize>,
    fix_defaults: bool,
    precision: Precision,
    tuned: Tuned,
}

impl Builder {
    /// The ONNX file to load; external data is found beside it. Weights are read when they are
    /// needed, from the files mapped: those must stay as they are while the session lives, or be
    /// replaced by renaming. To write into one changes results, and to cut it short ends the process
    /// (SIGBUS). Files that other users may write are read at once instead.
    #[must_use]
    pub fn model_file(mut self, path: impl Into<PathBuf>) -> Builder {
        self.source = Some(Source::File(path.into()));
        self
    }

    /// The bytes of an ONNX model.
    #[must_use]
    pub fn model_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Builder {
        self.source = Some(Source::Bytes(bytes.into().into()));
        self
    }

    /// A graph built by hand; it is verified.
    #[must_use]
    pub fn graph(self, graph: Graph) -> Builder {
        self.model(Model { graph, info: ModelInfo::default() })
    }

    /// A model that is imported already; its graph is verified.
    #[must_use]
    pub fn model(mut self, model: Model) -> Builder {
        self.source = Some(Source::Model(Box::new(model)));
        self
    }

    /// Makes constants of the inputs that have a default. Some exporters list every weight as an
    /// input; a weight that a run may replace folds into nothing, so such models run faster this
    /// way. To keep some of the inputs: [`crate::import_file`], [`Graph::fix_defaults`], and
    /// [`Builder::model`].
    #[must_use]
    pub fn fix_defaults(mut self) -> Builder {
        self.fix_defaults = true;
        self
    }

    /// The device to run on, by id; `cpu` when not said.
    #[must_use]
    pub fn device(mut self, id: &str) -> Builder {
        self.device_id = Some(id.to_string());
        self
    }

    /// A device that is open already, in the place of [`Builder::device`] and
    /// [`Builder::threads`]: sessions that share it share its threads.
    #[must_use]
    pub fn on(mut self, device: Arc<dyn Device>) -> Builder {
        self.device = Some(device);
        self
    }

    /// Host threads; one for each core when not said.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Builder {
        self.threads = Some(threads);
        self
    }

    /// Keeps threads on their processors: workers from their first use on, and the thread that runs
    /// the model for the time of a run, each on one of its own. Less is moved between caches, and
    /// times vary less, where nothing else runs. Where the system does not allow it, threads run
    /// where it puts them, and [`Session::warning`] says so.
    #[must_use]
    pub fn pin(mut self) -> Builder {
        self.pin = true;
        self
    }

    /// Where the schedules are found that kernels work by; [`Tuned::Found`] when not said. A device
    /// of [`Builder::on`] has its own.
    #[must_use]
    pub fn tuned(mut self, tuned: Tuned) -> Builder {
        self.tuned = tuned;
        self
    }

    /// Most runs of the session at one time, 8 when not said. Further calls of [`Session::run`]
    /// wait for their turn; further runs of [`Session::run_async`] wait in a queue. Each run needs
    /// memory of its own for intermediate values.
    #[must_use]
    pub fn runs_max(mut self, runs: usize) -> Builder {
        self.runs_max = Some(runs);
        self
    }

    /// Switches a pass off, by its name in [`crate::PASSES`]; `all` for all of them.
    #[must_use]
    pub fn without_pass(mut self, name: &str) -> Builder {
        self.passes_off.push(name.to_string());
        self
    }

    /// How exactly to compute; [`Precision::F32`] when not said.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Builder {
        self.precision = precision;
        self
    }

    /// Imports, optimises and compiles; or, where a session lives that was made of the same file or
    /// bytes in the same way, shares its weights and programs. With [`Precision::Auto`] it also runs the model, some
    /// seconds long.
    ///
    /// # Errors
    /// When the model is malformed, or declares an output as another dtype than its nodes give, or
    /// the device refuses a node; names the output or node.
    pub fn build(self) -> Result<Session, Error> {
        let runs = self.runs_max.unwrap_or(RUNS_MAX);
        if runs == 0 {
            return Err(Error::NoRuns);
        }
        let off = passes_off(&self.passes_off)?;
        let source = self.source.ok_or(Error::NoModel)?;
        let threads = HostThreads { count: self.threads, pin: self.pin };
        let given = self.device.as_ref().map(|device| Arc::as_ptr(device).addr());
        let opened = match self.device {
            Some(_) if self.device_id.is_some() || threads != HostThreads::default() => {
                return Err(Error::TwoDevices);
            }
            Some(device) => {
                let warning = device.warning();
                crate::Opened { device, schedules: ScheduleTable::default(), warning }
            }
            None => {
                let id = self.device_id.as_deref().unwrap_or("cpu");
                crate::open_by(id, threads, &self.tuned)?
            }
        };
        let recipe = Recipe {
            device: opened.device.info().id.clone(),
            given,
            threads,
            schedules: opened.schedules,
            passes_off: off,
            fix_defaults: self.fix_defaults,
            bf16: matches!(self.precision, Precision::Bf16),
        };
        let origin = source.origin();
        let shared = origin.as_ref().and_then(|origin| shared::find(origin, &recipe));
        let session = match &shared {
            Some(other) => Session::beside(other, opened.device, opened.warning, runs),
            None => source.compile(opened.device, opened.warning, runs, &recipe)?,
        };
        if let Some(origin) =
            origin.and_then(|origin| origin.with_data(&session.model().data_files))
        {
            shared::offer(origin, recipe, &session.inner);
        }
        match &self.precision {
            Precision::Auto { .. } => session.with_precision(&self.precision),
            Precision::F32 | Precision::Bf16 => Ok(session),
        }
    }
}

impl Source {
    /// What other sessions of the same model are found by.
    fn origin(&self) -> Option<Origin> {
        match self {
            Source::File(path) => Origin::file(path),
            Source::Bytes(bytes) => Some(Origin::Bytes(bytes.clone())),
            Source::Model(_) => None,
        }
    }

    fn import(self) -> Result<Model, Error> {
        let import = ImportOptions::default();
        Ok(match self {
            Source::File(path) => hetra_onnx::import_file(&path, &import)?,
            Source::Bytes(bytes) => hetra_onnx::import_blob(bytes, &import)?,
            Source::Model(model) => {
                // Everything behind here relies on what an import promises.
                verify(&model.graph).map_err(Error::Graph)?;
                *model
            }
        })
    }

    fn compile(
        self,
        device: Arc<dyn Device>,
        warning: Option<String>,
        runs: usize,
        recipe: &Recipe,
    ) -> Result<Session, Error> {
        let Model { mut graph, info } = self.import()?;
        if recipe.fix_defaults {
            graph.fix_defaults(|_| false);
        }
        // What callers see is what the file says, whatever the passes do to the graph.
        let (inputs, mut outputs) = (ports(&graph, &graph.inputs), ports(&graph, &graph.outputs));
        for (port, ty) in outputs.iter_mut().zip(hetra_pass::output_types(&graph)?) {
            port.ty = ty;
        }
        let claims = |node: &Node, graph: &Graph| claim(device.as_ref(), node, graph);
        let options = Options { off: recipe.passes_off.clone(), claims: &claims };
        let (mut optimised, report) = hetra_pass::optimise(&graph, &options);
        // What it holds of constants would stand beside what is made of them.
        drop(graph);
        if recipe.bf16 {
            let products = hetra_pass::can_lower(&optimised, &claims);
            optimised = hetra_pass::lower(&optimised, &products.into_iter().collect());
        }
        let model = Compiled { info, warning, report, inputs, outputs, runs };
        Session::compile(optimised, device, model)
    }
}

/// How a device would run a node.
pub(crate) fn claim(device: &dyn Device, node: &Node, graph: &Graph) -> Claim {
    match device.supports(node, graph) {
        Support::Kernel => Claim::Kernel,
        Support::Reference => Claim::Reference,
        Support::No(_) => Claim::No,
    }
}

fn passes_off(names: &[String]) -> Result<BTreeSet<String>, Error> {
    let known = || hetra_pass::PASSES.iter().map(|pass| pass.name.to_string());
    let mut off = BTreeSet::new();
    for name in names {
        if name == "all" {
            off.extend(known());
        } else if known().any(|pass| pass == *name) {
            off.insert(name.clone());
        } else {
            let known = known().collect::<Vec<_>>().join(", ");
            return Err(Error::Pass { name: name.clone(), known });
        }
    }
    Ok(off)
}

pub(crate) struct Inner {
    engine: Engine,
    model: Compiled,
    gate: Gate,
    workers: Workers,
}

impl Drop for Inner {
    fn drop(&mut self) {
        shared::forget();
    }
}

/// What stays the same when a graph is compiled again to be computed more or less exactly.
#[derive(Clone)]
struct Compiled {
    info: ModelInfo,
    warning: Option<String>,
    report: Report,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    runs: usize,
}

fn ports(graph: &Graph, ids: &[hetra_ir::ValueId]) -> Vec<Port> {
    let port = |&id: &ValueId| Port {
        name: graph.value(id).name.clone(),
        ty: graph.ty(id).clone(),
        has_default: graph.constants.contains_key(&id),
    };
    ids.iter().map(port).collect()
}

/// Refuses inputs that give one symbol two extents: the passes take both axes for equal. Items of
/// a sequence are free, each stands for itself.
fn check_symbols(ports: &[Port], values: &[Option<Value>]) -> Result<(), Error> {
    let mut bound: Vec<(&str, usize, &str)> = Vec::new();
    for (port, value) in ports.iter().zip(values) {
        // A misfit is the engine's to tell.
        let value = value.as_ref().filter(|value| port.ty.misfit(value).is_none());
        let tensor = value.and_then(Value::as_tensor);
        let (Some(dims), Some(tensor)) = (port.ty.dims(), tensor) else { continue };
        for (dim, &got) in dims.iter().zip(tensor.shape()) {
            let Some(symbol) = dim.symbol() else { continue };
            match bound.iter().find(|(name, ..)| *name == symbol) {
                Some(&(_, wanted, other)) if wanted != got => {
                    let (input, other) = (port.name.clone(), other.to_string());
                    let symbol = symbol.to_string();
                    return Err(Error::Symbol { input, symbol, wanted, other, got });
                }
                Some(_) => {}
                None => bound.push((symbol, got, &port.name)),
            }
        }
    }
    Ok(())
}

/// A model compiled for a device. Clones share it; runs may overlap, up to [`Builder::runs_max`].
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
    precision: Option<Arc<PrecisionReport>>,
}

impl Session {
    /// Starts to describe a session.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn compile(graph: Graph, device: Arc<dyn Device>, model: Compiled) -> Result<Session, Error> {
        Ok(Session::of(Engine::compile(Arc::new(graph), device)?, model))
    }

    fn of(engine: Engine, model: Compiled) -> Session {
        let (gate, workers) = (Gate::new(model.runs), Workers::new(model.runs));
        Session { inner: Arc::new(Inner { engine, model, gate, workers }), precision: None }
    }

    /// A session of the graph and the programs of another one.
    fn beside(
        other: &Inner,
        device: Arc<dyn Device>,
        warning: Option<String>,
        runs: usize,
    ) -> Session {
        let model = Compiled { warning, runs, ..other.model.clone() };
        Session::of(other.engine.on(device), model)
    }

    /// Another session of the same model: it shares weights and programs, and has plans and memory of
    /// its own. To share also these, clone the session.
    #[must_use]
    pub fn another(&self) -> Session {
        let (device, model) = (self.raw_device().clone(), &self.inner.model);
        let other = Session::beside(&self.inner, device, model.warning.clone(), model.runs);
        Session { precision: self.precision.clone(), ..other }
    }

    pub(crate) fn with_report(&self, report: PrecisionReport) -> Session {
        Session { precision: Some(Arc::new(report)), ..self.clone() }
    }

    /// The same model on the same device, computed as exactly as this says. Where that needs inputs
    /// to be chosen, as for [`Precision::Auto`], this session says which there are.
    ///
    /// # Errors
    /// As [`Session::run`] for the runs of [`Precision::Auto`], and a budget or calibration inputs
    /// that are none.
    pub fn with_precision(&self, precision: &Precision) -> Result<Session, Error> {
        let base = match precision::lowered(self.graph()).is_empty() {
            true => self.clone(),
            false => self.lowered_by(&BTreeSet::new())?,
        };
        match precision {
            Precision::F32 => Ok(base),
            Precision::Bf16 => base.lowered_by(&precision::all(&base).into_iter().collect()),
            Precision::Auto { max_error, calibration } => {
                precision::choose(&base, *max_error, calibration)
            }
        }
    }

    /// Compiles the graph anew with the operands of just these nodes rounded.
    pub(crate) fn lowered_by(&self, nodes: &BTreeSet<NodeId>) -> Result<Session, Error> {
        let graph = hetra_pass::lower(self.graph(), nodes);
        Session::compile(graph, self.raw_device().clone(), self.inner.model.clone())
    }

    /// What [`Precision::Auto`] measured and chose; `None` for the others.
    pub fn precision(&self) -> Option<&PrecisionReport> {
        self.precision.as_deref()
    }

    /// The nodes of [`Session::graph`] that round their operands, by their labels.
    pub fn lowered(&self) -> Vec<String> {
        precision::lowered(self.graph())
    }

    /// The device itself.
    pub(crate) fn raw_device(&self) -> &Arc<dyn Device> {
        self.inner.engine.device()
    }

    /// The inputs, in order, as the model declares them.
    pub fn inputs(&self) -> Vec<Port> {
        self.inner.model.inputs.clone()
    }

    /// The outputs, in order: as the model declares them, and with what follows from its inputs.
    pub fn outputs(&self) -> Vec<Port> {
        self.inner.model.outputs.clone()
    }

    /// The optimised graph.
    pub fn graph(&self) -> &Graph {
        self.inner.engine.graph()
    }

    /// Who made the model, and for which opsets.
    pub fn model(&self) -> &ModelInfo {
        &self.inner.model.info
    }

    /// What was wrong when the session was built and did not keep it from running: a store of
    /// schedules that cannot be read, threads that cannot be pinned.
    pub fn warning(&self) -> Option<&str> {
        self.inner.model.warning.as_deref()
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// The device it runs on.
    pub fn device(&self) -> &DeviceInfo {
        self.inner.engine.device().info()
    }

    /// Measures what the device reaches at best, in about a quarter of a second; `None` where it
    /// cannot.
    pub fn peak(&self) -> Option<Peak> {
        self.inner.engine.device().peak()
    }

    /// What the passes did, and why patterns did not fire.
    pub fn passes(&self) -> &Report {
        &self.inner.model.report
    }

    /// The kernel of each node of [`Session::graph`].
    pub fn kernels(&self) -> Vec<&str> {
        self.inner.engine.kernels()
    }

    /// The plan for inputs of these types, in order.
    ///
    /// # Errors
    /// When the types contradict an operator; names the node.
    pub fn plan(&self, inputs: &[Type]) -> Result<Arc<Plan>, Error> {
        Ok(self.inner.engine.plan(inputs, &self.graph().outputs).map_err(ExecError::from)?)
    }

    /// Runs on named inputs (owned values; a clone of a tensor shares its memory) and gives all
    /// outputs.
    ///
    /// # Errors
    /// An input that is missing, unknown or of the wrong type, or the node that failed.
    pub fn run<N, V>(&self, inputs: impl IntoIterator<Item = (N, V)>) -> Result<Outputs, Error>
    where
        N: AsRef<str>,
        V: Into<Value>,
    {
        self.run_all(self.by_name(inputs)?)
    }

    /// As [`Session::run`], on views that the caller keeps: of slices, or of parts of tensors.
    /// Each is copied once; a view of a whole tensor is not copied at all.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), hetra::Error> {
    /// # let session = hetra::Session::builder().model_file("model.onnx").build()?;
    /// let pixels = vec![0.5f32; 64];
    /// let picture = hetra::TensorView::from_slice(&[1, 1, 8, 8], &pixels)?;
    /// let outputs = session.run_borrowed(&[("image", picture)])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_borrowed(
        &self,
        inputs: &[(&str, hetra_tensor::TensorView<'_>)],
    ) -> Result<Outputs, Error> {
        let mut owned = Vec::with_capacity(inputs.len());
        for (name, view) in inputs {
            owned.push((*name, view.to_tensor()?));
        }
        self.run(owned)
    }

    /// As [`Session::run`], giving only the named outputs, in this order. What only the others
    /// depend on is not computed.
    ///
    /// # Errors
    /// As [`Session::run`], and an output that the model does not have.
    pub fn run_for<N, V>(
        &self,
        inputs: impl IntoIterator<Item = (N, V)>,
        outputs: &[&str],
    ) -> Result<Outputs, Error>
    where
        N: AsRef<str>,
        V: Into<Value>,
    {
        let mut wanted = Vec::with_capacity(outputs.len());
        for name in outputs {
            let index = self.port_index("output", &self.graph().outputs, name)?;
            wanted.push(self.graph().outputs[index]);
        }
        self.run_values(self.by_name(inputs)?, &wanted, &RunOptions::default(), None)
    }

    /// As [`Session::run`], and tells what each step did.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn trace<N, V>(
        &self,
        inputs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<(Outputs, Trace), Error>
    where
        N: AsRef<str>,
        V: Into<Value>,
    {
        let mut trace = Trace::default();
        let (values, options) = (self.by_name(inputs)?, RunOptions::default());
        let outputs = self.run_values(values, &self.graph().outputs, &options, Some(&mut trace))?;
        Ok((outputs, trace))
    }

    /// As [`Session::run`], within what `options` allow: a deadline, or a handle to cancel with.
    ///
    /// # Errors
    /// As [`Session::run`], and [`ExecError::Stopped`] (in [`Error::Exec`]) for a run that was
    /// ended.
    pub fn run_within<N, V>(
        &self,
        inputs: impl IntoIterator<Item = (N, V)>,
        options: &RunOptions,
    ) -> Result<Outputs, Error>
    where
        N: AsRef<str>,
        V: Into<Value>,
    {
        self.run_values(self.by_name(inputs)?, &self.graph().outputs, options, None)
    }

    /// Starts a run in the background; await the result or wait for it. Never blocks: beyond
    /// [`Builder::runs_max`] runs wait in a queue.
    ///
    /// # Errors
    /// An input that is unknown, or a queue that is full: [`Error::Busy`]. Everything else comes
    /// with the result.
    pub fn run_async<N, V>(
        &self,
        inputs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Pending, Error>
    where
        N: AsRef<str>,
        V: Into<Value>,
    {
        let values = self.by_name(inputs)?;
        let (promise, handle) = pending();
        let session = self.clone();
        self.inner.workers.start(Box::new(move || promise.finish(session.run_all(values))))?;
        Ok(handle)
    }

    /// Runs `times` times on these inputs and throws the outputs away: plans are made, memory is
    /// allocated, caches are warm.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn warm_up<N, V>(
        &self,
        inputs: impl IntoIterator<Item = (N, V)>,
        times: usize,
    ) -> Result<(), Error>
    where
        N: AsRef<str>,
        V: Into<Value>,
    {
        let values = self.by_name(inputs)?;
        for _ in 0..times {
            self.run_all(values.clone())?;
        }
        Ok(())
    }

    fn by_name<N, V>(
        &self,
        inputs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Vec<Option<Value>>, Error>
    where
        N: AsRef<str>,
        V: Into<Value>,
    {
        let mut values = vec![None; self.graph().inputs.len()];
        for (name, value) in inputs {
            let index = self.port_index("input", &self.graph().inputs, name.as_ref())?;
            if values[index].replace(value.into()).is_some() {
                return Err(Error::Twice { name: name.as_ref().to_string() });
            }
        }
        Ok(values)
    }

    fn port_index(&self, what: &'static str, ids: &[ValueId], name: &str) -> Result<usize, Error> {
        let names = || ids.iter().map(|&id| self.graph().value(id).name.as_str());
        names().position(|known| known == name).ok_or_else(|| Error::name(what, name, names()))
    }

    fn run_all(&self, inputs: Vec<Option<Value>>) -> Result<Outputs, Error> {
        self.run_values(inputs, &self.graph().outputs, &RunOptions::default(), None)
    }

    fn run_values(
        &self,
        inputs: Vec<Option<Value>>,
        outputs: &[ValueId],
        options: &RunOptions,
        trace: Option<&mut Trace>,
    ) -> Result<Outputs, Error> {
        check_symbols(&self.inner.model.inputs, &inputs)?;
        let permit = self.inner.gate.enter();
        let values = self.inner.engine.run(inputs, outputs, options, trace)?;
        drop(permit);
        let graph = self.graph();
        let names = outputs.iter().map(|&id| graph.value(id).name.clone()).collect();
        Ok(Outputs { names, values })
    }
}
