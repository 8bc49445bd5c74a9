//! A model compiled for a device.

use std::collections::BTreeSet;
use std::sync::Arc;

use hetra_device::{Device, DeviceInfo, Peak};
use hetra_exec::{Engine, ExecError, RunOptions, Stop, Trace};
use hetra_ir::{Graph, Node, NodeId, Type, ValueId};
use hetra_onnx::ModelInfo;
use hetra_pass::{Options, Report};
use hetra_plan::Plan;
use hetra_tensor::Value;

use crate::builder::{Builder, claim};
use crate::error::Error;
use crate::group::GroupBuilder;
use crate::int8::{self, Unfused};
use crate::outputs::Outputs;
use crate::pending::{Pending, pending};
use crate::precision::{self, Inputs, Precision, PrecisionReport};
use crate::runs::{Gate, Workers};
use crate::shared;

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
pub(crate) struct Compiled {
    pub(crate) info: ModelInfo,
    pub(crate) warning: Option<String>,
    pub(crate) report: Report,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    pub(crate) runs: usize,
    pub(crate) unfused: Option<Arc<Unfused>>,
}

pub(crate) fn ports(graph: &Graph, ids: &[hetra_ir::ValueId]) -> Vec<Port> {
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
    /// Whether it was quantised here.
    int8: bool,
    precision: Option<Arc<PrecisionReport>>,
    /// Whether steps without a kernel are errors.
    pub(crate) no_fallback: bool,
}

impl Session {
    /// Offers what the session is made of to others of the same model.
    pub(crate) fn share(&self, origin: shared::Origin, recipe: shared::Recipe) {
        shared::offer(origin, recipe, &self.inner);
    }

    /// Starts to describe a session.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Collects several models that are to share devices.
    pub fn group() -> GroupBuilder {
        GroupBuilder::default()
    }

    pub(crate) fn compile(
        graph: Graph,
        device: Arc<dyn Device>,
        model: Compiled,
    ) -> Result<Session, Error> {
        Ok(Session::of(Engine::compile(Arc::new(graph), device)?, model))
    }

    pub(crate) fn of(engine: Engine, model: Compiled) -> Session {
        let (gate, workers) = (Gate::new(model.runs), Workers::new(model.runs));
        let inner = Arc::new(Inner { engine, model, gate, workers });
        Session { inner, int8: false, precision: None, no_fallback: false }
    }

    /// A session of the graph and the programs of another one.
    pub(crate) fn beside(
        other: &Inner,
        device: Arc<dyn Device>,
        warning: Option<String>,
        runs: usize,
    ) -> Session {
        let model = Compiled { warning, runs, ..other.model.clone() };
        Session::of(other.engine.on(device), model)
    }

    /// Another session of the same model: it shares weights and programs, and has plans and memory
    /// of its own. To share also these, clone the session.
    #[must_use]
    pub fn another(&self) -> Session {
        let (device, model) = (self.raw_device().clone(), &self.inner.model);
        let other = Session::beside(&self.inner, device, model.warning.clone(), model.runs);
        let precision = self.precision.clone();
        Session { int8: self.int8, precision, no_fallback: self.no_fallback, ..other }
    }

    pub(crate) fn with_report(&self, report: PrecisionReport) -> Session {
        Session { precision: Some(Arc::new(report)), ..self.clone() }
    }

    /// The same model on the same device, computed as exactly as this says. Where that needs inputs
    /// to be chosen, as for [`Precision::Auto`], this session says which there are.
    ///
    /// # Errors
    /// As [`Session::run`] for the runs of [`Precision::Int8`] and [`Precision::Auto`]; a budget or
    /// calibration inputs that are none; for [`Precision::Int8`] a session that is not
    /// [`Builder::quantisable`], and a value between products that is no finite number.
    pub fn with_precision(&self, precision: &Precision) -> Result<Session, Error> {
        let base = self.in_f32()?;
        match precision {
            Precision::F32 => Ok(base),
            Precision::Int8 { calibration } => precision::int8(&base, calibration),
            Precision::Bf16 => base.lowered_by(&precision::all(&base).into_iter().collect()),
            Precision::Auto { max_error, calibration } => {
                precision::choose(&base, *max_error, calibration)
            }
        }
    }

    fn in_f32(&self) -> Result<Session, Error> {
        match self.unfused().filter(|_| self.int8) {
            Some(Unfused { graph, off }) => {
                let device = self.raw_device();
                let claims = |node: &Node, graph: &Graph| claim(device.as_ref(), node, graph);
                let options = Options { off: off.clone(), claims: &claims };
                let (graph, report) = hetra_pass::optimise(graph, &options);
                Ok(Session { int8: false, ..self.compiled_as(graph, report)? })
            }
            None if precision::lowered(self.graph()).is_empty() => {
                Ok(Session { precision: None, ..self.clone() })
            }
            None => self.lowered_by(&BTreeSet::new()),
        }
    }

    pub(crate) fn unfused(&self) -> Option<&Unfused> {
        self.inner.model.unfused.as_deref()
    }

    /// The same model by another graph, which may be quantised.
    pub(crate) fn compiled_as(&self, graph: Graph, report: Report) -> Result<Session, Error> {
        let model = Compiled { report, ..self.inner.model.clone() };
        let session = Session::compile(graph, self.raw_device().clone(), model)?;
        Ok(Session { int8: true, no_fallback: self.no_fallback, ..session })
    }

    /// A run that gives any values of the graph.
    pub(crate) fn run_for_values(
        &self,
        inputs: &Inputs,
        values: &[ValueId],
    ) -> Result<Vec<Value>, Error> {
        let inputs = self.by_name(inputs.iter().cloned())?;
        Ok(self.run_values(inputs, values, &RunOptions::default(), None)?.values)
    }

    /// Compiles the graph anew with the operands of just these nodes rounded.
    pub(crate) fn lowered_by(&self, nodes: &BTreeSet<NodeId>) -> Result<Session, Error> {
        let device = self.raw_device();
        let claims = |node: &Node, graph: &Graph| claim(device.as_ref(), node, graph);
        let graph = hetra_pass::lower(self.graph(), nodes, &claims);
        let model = self.inner.model.clone();
        let session = Session::compile(graph, self.raw_device().clone(), model)?;
        Ok(Session { int8: self.int8, no_fallback: self.no_fallback, ..session })
    }

    /// What [`Precision::Auto`] measured and chose; `None` for the others.
    pub fn precision(&self) -> Option<&PrecisionReport> {
        self.precision.as_deref()
    }

    /// The nodes of [`Session::graph`] that round their operands, by their labels.
    pub fn lowered(&self) -> Vec<String> {
        precision::lowered(self.graph())
    }

    /// The products of [`Session::graph`] that work on 8-bit integers, by their labels; those of
    /// a model that came quantised, too.
    pub fn quantised(&self) -> Vec<String> {
        int8::quantised(self.graph())
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

    /// The devices that parts of the model are placed on; the one device of a model that is not
    /// placed.
    pub fn devices(&self) -> Vec<&DeviceInfo> {
        self.inner.engine.devices()
    }

    /// Whether a device of it is only described: what runs take is modelled then, and told by
    /// [`Trace::simulated`]; the host computes for it.
    pub fn is_simulated(&self) -> bool {
        self.inner.engine.is_simulated()
    }

    /// Devices that have failed and not done what they should since, and how often. What they fail
    /// at, or hang in, the host does ([`Trace::events`]); they are left alone for a while, longer
    /// each time, and tried again.
    pub fn failing(&self) -> Vec<(String, u32)> {
        self.inner.engine.failing()
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

    /// The nodes that the device's kernels do not do, those of bodies included, and how many nodes
    /// there are. [`crate::Builder::no_fallback`] refuses a run that meets one.
    pub fn stops(&self) -> (Vec<Stop>, usize) {
        self.inner.engine.stops()
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
        let strict = RunOptions { no_fallback: true, ..options.clone() };
        let options = if self.no_fallback { &strict } else { options };
        let values = self.inner.engine.run(inputs, outputs, options, trace)?;
        drop(permit);
        let graph = self.graph();
        let names = outputs.iter().map(|&id| graph.value(id).name.clone()).collect();
        Ok(Outputs { names, values })
    }
}
