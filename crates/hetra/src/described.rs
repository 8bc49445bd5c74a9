//! What computes, and what models, in the place of devices that are only described.

use std::sync::{Arc, OnceLock};

use hetra_cost::{Roofline, demands, estimate, joined};
use hetra_device::{Device, DeviceError, HostThreads};
use hetra_device_sim::{Figures, Host, Model, Numbers};
use hetra_exec::{Engine, ExecError, RunOptions};
use hetra_ir::{Graph, Node, Type};
use hetra_machine::DeviceSpec;
use hetra_ops::OpError;
use hetra_pass::Options;
use hetra_tensor::Value;

use crate::builder::claim;
use crate::error::Error;
use crate::tuned::Tuned;

/// The host's processor computes, a roofline models.
pub(crate) struct Described;

/// The processor that computes for all of them.
static PROCESSOR: OnceLock<Result<Arc<dyn Device>, String>> = OnceLock::new();

fn processor() -> Result<&'static Arc<dyn Device>, String> {
    let opened = PROCESSOR.get_or_init(|| {
        let opened = crate::open_by("cpu", HostThreads::default(), &Tuned::Found);
        opened.map(|opened| opened.device).map_err(|error| error.to_string())
    });
    opened.as_ref().map_err(Clone::clone)
}

/// Opens the device that has faults on demand.
pub(crate) fn inner(id: &str, threads: HostThreads) -> Result<Arc<dyn Device>, DeviceError> {
    match crate::open_by(id, threads, &Tuned::Found) {
        Ok(opened) => Ok(opened.device),
        Err(Error::Device(error)) => Err(error),
        Err(error) => {
            Err(DeviceError::Failed { device: id.to_string(), reason: error.to_string() })
        }
    }
}

impl Host for Described {
    fn numbers(&self, graph: &Graph, rounded: Option<&str>) -> Result<Box<dyn Numbers>, String> {
        let device = processor()?;
        let claims = |node: &Node, graph: &Graph| claim(device.as_ref(), node, graph);
        let options = Options { claims: &claims, ..Options::default() };
        let rounded = rounded.map(|number| hetra_pass::rounded(graph, number)).transpose()?;
        let graph = hetra_pass::optimise(rounded.as_ref().unwrap_or(graph), &options).0;
        let engine = Engine::compile(Arc::new(graph), device.clone());
        Ok(Box::new(Computed(engine.map_err(|error| error.to_string())?)))
    }

    fn model(
        &self,
        graph: &Graph,
        spec: &DeviceSpec,
        number: Option<&str>,
    ) -> Result<Box<dyn Model>, String> {
        let roofline = Roofline::of(spec, number).map_err(|error| error.to_string())?;
        Ok(Box::new(Modelled { graph: joined(graph), roofline }))
    }

    fn number(&self, spec: &DeviceSpec, number: Option<&str>) -> Result<(String, f64), String> {
        let roofline = Roofline::of(spec, number).map_err(|error| error.to_string())?;
        let spread = estimate(&hetra_cost::Demands::default(), &roofline).spread;
        Ok((roofline.number, spread))
    }
}

struct Computed(Engine);

impl Numbers for Computed {
    fn run(&self, inputs: Vec<Value>) -> Result<Vec<Value>, OpError> {
        let inputs = inputs.into_iter().map(Some).collect();
        let outputs = &self.0.graph().outputs;
        self.0.run(inputs, outputs, &RunOptions::default(), None).map_err(|error| match error {
            ExecError::Node(error) | ExecError::Stopped(error) => error.source,
            error => OpError::invalid(error.to_string()),
        })
    }
}

struct Modelled {
    graph: Graph,
    roofline: Roofline,
}

impl Model for Modelled {
    fn at(&self, inputs: &[Type]) -> Result<Figures, String> {
        let demands = demands(&self.graph, inputs, self.roofline.bits);
        let found = estimate(&demands.map_err(|error| error.to_string())?, &self.roofline);
        Ok(Figures { seconds: found.seconds, joules: found.joules, memory: found.memory })
    }
}
