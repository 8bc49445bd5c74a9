//! A described device.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hetra_device::{
    Call, Device, DeviceError, DeviceInfo, Modelled, Part, Program, Support, Values,
};
use hetra_ir::{Dim, Graph, Node, TensorType, Type};
use hetra_machine::DeviceSpec;
use hetra_ops::{OpError, PART, PART_BODY};
use hetra_tensor::{TensorError, Value};

use crate::driver::Host;
use crate::faults::Fate;
use crate::options::Options;

/// What a part of a graph takes on a device, by a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Seconds.
    pub seconds: f64,
    /// Joules of the device; none where its power is not known.
    pub joules: Option<f64>,
    /// The most bytes of its memory that are taken at one time.
    pub memory: f64,
}

/// A graph, modelled on a device.
pub trait Model: Send + Sync {
    /// For inputs of these types.
    ///
    /// # Errors
    /// When they contradict an operator.
    fn at(&self, inputs: &[Type]) -> Result<Figures, String>;
}

/// A graph that the host computes.
pub trait Numbers: Send + Sync {
    /// Its outputs.
    ///
    /// # Errors
    /// The node that fails.
    fn run(&self, inputs: Vec<Value>) -> Result<Vec<Value>, OpError>;
}

/// Most sets of types whose figures a part keeps.
const KEPT_MAX: usize = 16;

pub(crate) struct SimDevice {
    pub(crate) info: DeviceInfo,
    pub(crate) spec: Arc<DeviceSpec>,
    pub(crate) options: Options,
    pub(crate) host: &'static dyn Host,
    pub(crate) fate: Arc<Fate>,
}

impl SimDevice {
    fn failed(&self, reason: String) -> DeviceError {
        DeviceError::Failed { device: self.info.id.clone(), reason }
    }
}

fn body(node: &Node) -> Option<&Arc<Graph>> {
    node.attrs.graph(PART_BODY).ok().filter(|_| node.op == PART)
}

/// The same type with 1 for each extent that is open.
fn at_least(mut ty: Type) -> Type {
    if let Type::Tensor(TensorType { shape: Some(dims), .. }) = &mut ty {
        let open = |dim: &&mut Dim| dim.known().is_none();
        dims.iter_mut().filter(open).for_each(|dim| *dim = 1usize.into());
    }
    ty
}

impl Device for SimDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn supports(&self, node: &Node, _: &Graph) -> Support {
        let Some(body) = body(node) else {
            return Support::No(format!("it takes parts of a graph ({PART}), not nodes"));
        };
        let mut border = body.inputs.iter().chain(&body.outputs).map(|&id| body.value(id));
        let no_tensor = |ty: &Type| matches!(ty, Type::Sequence(_) | Type::Optional(_));
        match border.find(|value| no_tensor(&value.ty)) {
            Some(value) => Support::No(format!("`{}` is {}, no tensor", value.name, value.ty)),
            None => Support::Kernel,
        }
    }

    fn compile(&self, part: &Part<'_>) -> Result<Arc<dyn Program>, DeviceError> {
        let node = part.nodes.first().map(|&id| part.graph.node(id));
        let (node, body) = node
            .and_then(|node| Some((node, body(node)?)))
            .ok_or_else(|| self.failed("it takes one part of a graph at a time".to_string()))?;
        let (options, spec) = (&self.options, &self.spec);
        let number = options.number.as_deref();
        let own = self.info.dtypes.first().map_or("f32", |number| number.as_str());
        let rounded = options.round.unwrap_or(own != "f32").then_some(own);
        let failed = |reason: String| self.failed(reason);
        let program = SimProgram {
            id: self.info.id.clone(),
            kernel: format!("modelled {}", self.info.dtypes.join(" ")),
            model: self.host.model(body, spec, number).map_err(failed)?,
            numbers: self.host.numbers(body, rounded).map_err(failed)?,
            memory: self.info.memory_bytes,
            fate: self.fate.clone(),
            kept: Mutex::default(),
        };
        let types: Vec<Type> =
            node.uses().filter_map(|id| part.types.get(id.index()).cloned()).collect();
        // What is open is one at least: a device that has no memory for that has none for more.
        let types: Vec<Type> = types.into_iter().map(at_least).collect();
        if types.len() == body.inputs.len() && types.iter().all(|ty| ty.known_shape().is_some()) {
            program.figures(types)?;
        }
        Ok(Arc::new(program))
    }
}

/// A part on a described device.
struct SimProgram {
    id: String,
    kernel: String,
    model: Box<dyn Model>,
    numbers: Box<dyn Numbers>,
    memory: Option<u64>,
    fate: Arc<Fate>,
    kept: Mutex<Vec<(Vec<Type>, Figures)>>,
}

impl SimProgram {
    /// What it takes for inputs of these types.
    ///
    /// # Errors
    /// When they contradict an operator, or the device has no memory for it.
    fn figures(&self, types: Vec<Type>) -> Result<Figures, DeviceError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, figures)) = kept.iter().find(|(known, _)| *known == types) {
            return Ok(*figures);
        }
        let device = self.id.clone();
        let figures = self.model.at(&types);
        let figures =
            figures.map_err(|reason| DeviceError::Failed { device: device.clone(), reason })?;
        if let Some(most) = self.memory.filter(|&most| figures.memory > most as f64) {
            let (bytes, at_most) = (figures.memory as usize, format!("; it has {most}"));
            return Err(DeviceError::Memory { device, bytes, at_most });
        }
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push((types, figures));
        Ok(figures)
    }
}

impl Program for SimProgram {
    fn run(&self, call: Call<'_>) -> Result<Values, OpError> {
        let inputs: Vec<Value> = call.inputs.iter().flatten().cloned().collect();
        // What another device holds is fetched here, where that can fail.
        inputs.iter().filter_map(Value::as_tensor).try_for_each(|tensor| tensor.fetch())?;
        let figures = self.figures(inputs.iter().map(Type::of).collect());
        let Figures { seconds, joules, .. } =
            figures.map_err(|error| OpError::Tensor(TensorError::from(error)))?;
        let length = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let times = self.fate.after(length).times(&self.id)?;
        let joules = joules.map(|joules| joules * times);
        call.modelled.set(Some(Modelled { seconds: seconds * times, joules }));
        Ok(self.numbers.run(inputs)?.into_iter().collect())
    }

    fn kernel(&self) -> &str {
        &self.kernel
    }
}
