//! What the host does in the place of a device.

use std::sync::{Arc, OnceLock};

use hetra_ir::Graph;
use hetra_ops::OpError;
use hetra_tensor::Value;

use crate::engine::{Engine, NoOuter};
use crate::lane::Lane;
use crate::run::RunContext;
use crate::trace::StepTime;

/// A part for the host, compiled when it is first needed.
pub(crate) struct Spare {
    graph: Arc<Graph>,
    host: Arc<Lane>,
    engine: OnceLock<Result<Engine, String>>,
}

impl Spare {
    pub(crate) fn new(graph: Arc<Graph>, host: Arc<Lane>) -> Spare {
        Spare { graph, host, engine: OnceLock::new() }
    }

    /// Where it runs.
    pub(crate) fn host(&self) -> &Arc<Lane> {
        &self.host
    }

    /// Runs it on this thread.
    ///
    /// # Errors
    /// That it does not compile, or what the node says that failed.
    pub(crate) fn run(
        &self,
        inputs: Vec<Value>,
        context: RunContext<'_>,
    ) -> Result<(Vec<Value>, Vec<StepTime>), OpError> {
        let engine = self.engine.get_or_init(|| {
            let host = self.host.device.clone();
            Engine::compile(self.graph.clone(), host).map_err(|error| error.to_string())
        });
        let engine = engine.as_ref().map_err(|reason| OpError::unsupported(reason.clone()))?;
        let outputs = engine.graph.outputs.clone();
        let (values, part) = engine.run_here(inputs, &outputs, &NoOuter, context)?;
        Ok((values, part.steps))
    }
}
