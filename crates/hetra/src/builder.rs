//! What a session is made of, and how.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hetra_device::{Device, HostThreads, ScheduleTable, Support};
use hetra_exec::Seat;
use hetra_ir::{Graph, Node, verify};
use hetra_onnx::{ImportOptions, Model, ModelInfo};
use hetra_pass::{Claim, Options, Report};
use hetra_tensor::Blob;

use crate::error::Error;
use crate::int8::Unfused;
use crate::placing::{self, PlanFile};
use crate::precision::Precision;
use crate::runs::RUNS_MAX;
use crate::session::{Compiled, Port, Session, ports};
use crate::shared::{self, Origin, Recipe};
use crate::tuned::Tuned;

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
    quantisable: bool,
    no_fallback: bool,
    tuned: Tuned,
    plan: Option<Box<PlanFile>>,
    seats: Option<Vec<Seat>>,
    watched: Option<Duration>,
}

impl Builder {
    /// The ONNX file to load; external data is found beside it. Weights are read when they are
    /// needed, from the files mapped: those must stay as they are while the session lives, or be
    /// replaced by renaming. To write into one changes results, and to cut it short ends the
    /// process (SIGBUS). Files that other users may write are read at once instead.
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

    /// The devices and the places of nodes that [`crate::placing::plan`] chose, in the place of
    /// [`Builder::device`] and [`Builder::threads`]. A plan for another model, or for devices that
    /// are not what they were, is refused.
    #[must_use]
    pub fn plan(mut self, plan: PlanFile) -> Builder {
        self.plan = Some(Box::new(plan));
        self
    }

    /// The devices of [`Builder::plan`], open already: sessions that share them share their
    /// threads.
    #[must_use]
    pub fn seats(mut self, seats: Vec<Seat>) -> Builder {
        self.seats = Some(seats);
        self
    }

    /// A device of [`Builder::plan`] that takes longer for a part is given up on, and the host does
    /// the part; when not said, twenty times what a whole run should take, one second at least, and
    /// not at all where runs take less than a millisecond. To watch takes some microseconds a part.
    #[must_use]
    pub fn watched(mut self, limit: Duration) -> Builder {
        self.watched = Some(limit);
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

    /// Makes every step that the device has no kernel for an error, which names the node, where
    /// else the host or a reference would run it.
    #[must_use]
    pub fn no_fallback(mut self) -> Builder {
        self.no_fallback = true;
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

    /// Keeps the model as it was before the passes, so that [`Session::with_precision`] can
    /// quantise it. A session that is built with [`Precision::Int8`] or [`Precision::Auto`] keeps
    /// it in any case.
    #[must_use]
    pub fn quantisable(mut self) -> Builder {
        self.quantisable = true;
        self
    }

    /// Imports, optimises and compiles; or, where a session lives that was made of the same file
    /// (without external data) or bytes in the same way, shares its weights and programs. With
    /// [`Precision::Int8`] and [`Precision::Auto`] it also runs the model, some seconds long.
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
        if let Some(plan) = self.plan {
            if self.device.is_some() || self.device_id.is_some() || self.threads.is_some() {
                return Err(Error::PlanAndDevice);
            }
            let seats = match self.seats {
                Some(seats) => placing::seated(&plan, seats)?,
                None => placing::open(&plan, self.pin)?,
            };
            let mut session =
                source.by_plan(&plan, &seats, (self.fix_defaults, self.watched), runs)?;
            session.no_fallback = self.no_fallback;
            return Ok(session);
        }
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
        let calibrates = matches!(self.precision, Precision::Int8 { .. } | Precision::Auto { .. });
        let recipe = Recipe {
            device: opened.device.info().id.clone(),
            given,
            threads,
            schedules: opened.schedules,
            passes_off: off,
            fix_defaults: self.fix_defaults,
            bf16: matches!(self.precision, Precision::Bf16),
            quantisable: self.quantisable || calibrates,
        };
        let origin = source.origin();
        let shared = origin.as_ref().and_then(|origin| shared::find(origin, &recipe));
        let (mut session, origin) = match shared {
            Some((other, found)) => {
                (Session::beside(&other, opened.device, opened.warning, runs), Some(found))
            }
            None => (source.compile(opened.device, opened.warning, runs, &recipe)?, origin),
        };
        if let Some(origin) = origin.and_then(|origin| origin.alone(&session.model().data_files)) {
            session.share(origin, recipe);
        }
        session.no_fallback = self.no_fallback;
        if calibrates { session.with_precision(&self.precision) } else { Ok(session) }
    }
}

/// A model as callers see it: what the file says, whatever the passes do to the graph.
struct Declared {
    graph: Graph,
    info: ModelInfo,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
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

    fn declared(self, fix_defaults: bool) -> Result<Declared, Error> {
        let Model { mut graph, info } = self.import()?;
        if fix_defaults {
            graph.fix_defaults(|_| false);
        }
        let (inputs, mut outputs) = (ports(&graph, &graph.inputs), ports(&graph, &graph.outputs));
        for (port, ty) in outputs.iter_mut().zip(hetra_pass::output_types(&graph)?) {
            port.ty = ty;
        }
        Ok(Declared { graph, info, inputs, outputs })
    }

    fn by_plan(
        self,
        plan: &PlanFile,
        seats: &[Seat],
        (fix_defaults, watched): (bool, Option<Duration>),
        runs: usize,
    ) -> Result<Session, Error> {
        let Declared { graph, info, inputs, outputs } = self.declared(fix_defaults)?;
        let graph = hetra_pass::portable(&graph);
        let choice = placing::choice(plan, &graph)?;
        let (engine, report) = placing::compile(&graph, &choice, seats)?;
        let engine = match watched.or_else(|| placing::patience(plan, &graph)) {
            Some(limit) => engine.giving_up_after(limit),
            None => engine,
        };
        let warning = seats.iter().find_map(|seat| seat.device.warning());
        let model = Compiled { info, warning, report, inputs, outputs, runs, unfused: None };
        Ok(Session::of(engine, model))
    }

    fn compile(
        self,
        device: Arc<dyn Device>,
        warning: Option<String>,
        runs: usize,
        recipe: &Recipe,
    ) -> Result<Session, Error> {
        let Declared { graph, info, inputs, outputs } = self.declared(recipe.fix_defaults)?;
        if device.info().takes_parts {
            // It does with the graph as it sees fit, and gets it as it is.
            let graph = hetra_pass::whole(&hetra_pass::portable(&graph), &device.info().id);
            let (report, unfused) = (Report::default(), None);
            let model = Compiled { info, warning, report, inputs, outputs, runs, unfused };
            return Session::compile(graph, device, model);
        }
        let claims = |node: &Node, graph: &Graph| claim(device.as_ref(), node, graph);
        let options = Options { off: recipe.passes_off.clone(), claims: &claims };
        let (mut optimised, report) = hetra_pass::optimise(&graph, &options);
        // What it holds of constants would stand beside what is made of them, unless it is asked
        // for.
        let unfused = recipe.quantisable.then(|| Arc::new(Unfused { graph, off: options.off }));
        if recipe.bf16 {
            let products = hetra_pass::can_lower(&optimised, &claims);
            let products = products.into_iter().collect();
            optimised = hetra_pass::lower(&optimised, &products, &claims);
        }
        let model = Compiled { info, warning, report, inputs, outputs, runs, unfused };
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
