//! A model compiled for a device.

use std::path::PathBuf;
use std::sync::Arc;

use hetra_device::{Device, DeviceError, DeviceInfo, Support};
use hetra_exec::{Engine, ExecError, Trace};
use hetra_ir::{Graph, Type};
use hetra_onnx::{ImportError, ImportOptions, ModelInfo};
use hetra_pass::{Options, Report};
use hetra_plan::Plan;
use hetra_tensor::{TensorError, Value};

use crate::outputs::Outputs;
use crate::pending::{Pending, pending};

/// Why a session could not be built or run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum Error {
    #[error("no model was given")]
    NoModel,
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("the model has no {what} `{name}`; it has {known}")]
    Name { what: &'static str, name: String, known: String },
    #[error("there is no pass `{name}`; there are {known}")]
    Pass { name: String, known: String },
    #[error("the run was lost: its thread ended early")]
    Lost,
}

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
    Bytes(Vec<u8>),
    Graph(Graph),
}

/// Collects what a session is made of.
#[derive(Default)]
pub struct Builder {
    source: Option<Source>,
    device: Option<Arc<dyn Device>>,
    device_id: Option<String>,
    threads: Option<usize>,
    passes_off: Vec<String>,
}

impl Builder {
    /// The ONNX file to load; external data is found beside it.
    #[must_use]
    pub fn model_file(mut self, path: impl Into<PathBuf>) -> Builder {
        self.source = Some(Source::File(path.into()));
        self
    }

    /// The bytes of an ONNX model.
    #[must_use]
    pub fn model_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Builder {
        self.source = Some(Source::Bytes(bytes.into()));
        self
    }

    /// A graph built by hand.
    #[must_use]
    pub fn graph(mut self, graph: Graph) -> Builder {
        self.source = Some(Source::Graph(graph));
        self
    }

    /// The device to run on, by id; `cpu` when not said.
    #[must_use]
    pub fn device(mut self, id: &str) -> Builder {
        self.device_id = Some(id.to_string());
        self
    }

    /// A device that is open already: sessions that share it share its threads.
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

    /// Switches a pass off, by its name in [`crate::PASSES`]; `all` for all of them.
    #[must_use]
    pub fn without_pass(mut self, name: &str) -> Builder {
        self.passes_off.push(name.to_string());
        self
    }

    /// Imports, optimises and compiles.
    ///
    /// # Errors
    /// When the model is malformed, or the device refuses a node; names the node.
    pub fn build(self) -> Result<Session, Error> {
        let (graph, info) = match self.source.ok_or(Error::NoModel)? {
            Source::File(path) => {
                let model = hetra_onnx::import_file(&path, &ImportOptions::default())?;
                (model.graph, model.info)
            }
            Source::Bytes(bytes) => {
                let model = hetra_onnx::import_model(&bytes, &ImportOptions::default())?;
                (model.graph, model.info)
            }
            Source::Graph(graph) => (graph, ModelInfo::default()),
        };
        // What callers see is what the file declares, whatever the passes do to the graph.
        let (inputs, outputs) = (ports(&graph, &graph.inputs), ports(&graph, &graph.outputs));
        let device = match self.device {
            Some(device) => device,
            None => crate::open(self.device_id.as_deref().unwrap_or("cpu"), self.threads)?,
        };
        let off = passes_off(&self.passes_off)?;
        let claims = |node: &hetra_ir::Node, graph: &Graph| {
            !matches!(device.supports(node, graph), Support::No(_))
        };
        let options = Options { off, claims: &claims };
        let (graph, report) = hetra_pass::optimise(&graph, &options);
        let engine = Engine::compile(Arc::new(graph), device)?;
        Ok(Session { inner: Arc::new(Inner { engine, info, report, inputs, outputs }) })
    }
}

fn passes_off(names: &[String]) -> Result<std::collections::BTreeSet<String>, Error> {
    let known = || hetra_pass::PASSES.iter().map(|pass| pass.name.to_string());
    let mut off = std::collections::BTreeSet::new();
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

struct Inner {
    engine: Engine,
    info: ModelInfo,
    report: Report,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

fn ports(graph: &Graph, ids: &[hetra_ir::ValueId]) -> Vec<Port> {
    let port = |&id: &hetra_ir::ValueId| Port {
        name: graph.value(id).name.clone(),
        ty: graph.ty(id).clone(),
        has_default: graph.constants.contains_key(&id),
    };
    ids.iter().map(port).collect()
}

/// A model compiled for a device. Clones share it; runs may overlap.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

impl Session {
    /// Starts to describe a session.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The inputs, in order, as the model declares them.
    pub fn inputs(&self) -> Vec<Port> {
        self.inner.inputs.clone()
    }

    /// The outputs, in order, as the model declares them.
    pub fn outputs(&self) -> Vec<Port> {
        self.inner.outputs.clone()
    }

    /// The optimised graph.
    pub fn graph(&self) -> &Graph {
        self.inner.engine.graph()
    }

    /// Who made the model, and for which opsets.
    pub fn model(&self) -> &ModelInfo {
        &self.inner.info
    }

    /// The device it runs on.
    pub fn device(&self) -> &DeviceInfo {
        self.inner.engine.device().info()
    }

    /// What the passes did, and why patterns did not fire.
    pub fn passes(&self) -> &Report {
        &self.inner.report
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
        Ok(self.inner.engine.plan(inputs).map_err(ExecError::from)?)
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
        self.run_values(self.by_name(inputs)?, None)
    }

    /// As [`Session::run`], on views that the caller keeps; each is copied once.
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

    /// As [`Session::run`], giving only the named outputs, in this order.
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
        for name in outputs {
            self.port_index("output", &self.graph().outputs, name)?;
        }
        let all = self.run(inputs)?;
        let values = outputs.iter().filter_map(|name| all.get(name).cloned()).collect();
        Ok(Outputs { names: outputs.iter().map(ToString::to_string).collect(), values })
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
        let outputs = self.run_values(self.by_name(inputs)?, Some(&mut trace))?;
        Ok((outputs, trace))
    }

    /// Starts a run in the background; await the result or wait for it.
    ///
    /// # Errors
    /// An input that is unknown. Everything else comes with the result.
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
        std::thread::Builder::new()
            .name("hetra-run".to_string())
            .spawn(move || promise.finish(session.run_values(values, None)))
            .map_err(|_| Error::Lost)?;
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
            self.run_values(values.clone(), None)?;
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
            values[index] = Some(value.into());
        }
        Ok(values)
    }

    fn port_index(
        &self,
        what: &'static str,
        ids: &[hetra_ir::ValueId],
        name: &str,
    ) -> Result<usize, Error> {
        let names = || ids.iter().map(|&id| self.graph().value(id).name.as_str());
        names().position(|known| known == name).ok_or_else(|| Error::Name {
            what,
            name: name.to_string(),
            known: names().collect::<Vec<_>>().join(", "),
        })
    }

    fn run_values(
        &self,
        inputs: Vec<Option<Value>>,
        trace: Option<&mut Trace>,
    ) -> Result<Outputs, Error> {
        let values = self.inner.engine.run(inputs, trace)?;
        let graph = self.graph();
        let names = graph.outputs.iter().map(|&id| graph.value(id).name.clone()).collect();
        Ok(Outputs { names, values })
    }
}
