//! Devices that take a whole graph, as an ONNX file: other runtimes.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hetra_ir::{Graph, Node, Type};
use hetra_ops::{OpError, PART, PART_BODY};
use hetra_tensor::{DType, Tensor, Value};

use crate::{
    Call, Device, DeviceError, DeviceInfo, DriverState, Found, Part, Program, Support, Values,
};

/// Writes a graph as an ONNX file; this floor knows no file format, so it is given.
pub type Export = fn(&Graph) -> Result<Vec<u8>, String>;

/// Another runtime that runs ONNX files.
pub trait Delegate: Send + Sync {
    /// What it runs on; `takes_parts` is set.
    fn info(&self) -> &DeviceInfo;

    /// Whether it cannot hold such tensors, or would not keep their digits; and why.
    fn refuses(&self, dtype: DType) -> Option<String>;

    /// Makes ready to run a file.
    ///
    /// # Errors
    /// What the runtime says against it.
    fn load(&self, onnx: Vec<u8>, names: Names) -> Result<Box<dyn Loaded>, DeviceError>;
}

/// The names of a file's inputs and outputs, in order.
#[derive(Clone, Debug)]
pub struct Names {
    /// Of inputs.
    pub inputs: Vec<String>,
    /// Of outputs.
    pub outputs: Vec<String>,
}

/// A file that is ready to run.
pub trait Loaded: Send + Sync {
    /// Runs on tensors in the order of the file's inputs. `given` is for each output memory that it
    /// is written to, where the caller knows its shape; that tensor is nobody else's.
    ///
    /// # Errors
    /// What the runtime says.
    fn run(&self, inputs: &[&Tensor], given: Vec<Option<Tensor>>) -> Result<Vec<Tensor>, OpError>;
}

/// Makes 1 of every true byte, as tensors of booleans have it; another runtime may write others.
pub fn normalise(tensor: &mut Tensor) {
    if tensor.dtype() == DType::Bool
        && let Ok(bytes) = tensor.bytes_mut()
    {
        bytes.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
    }
}

/// A device that hands parts on to a delegate.
pub struct DelegateDevice<D> {
    delegate: D,
    export: Export,
}

impl<D: Delegate> DelegateDevice<D> {
    /// The device.
    pub fn new(delegate: D, export: Export) -> DelegateDevice<D> {
        DelegateDevice { delegate, export }
    }

    fn body<'a>(&self, node: &'a Node) -> Option<&'a Arc<Graph>> {
        node.attrs.graph(PART_BODY).ok().filter(|_| node.op == PART)
    }

    /// Why the delegate does not take a graph: a dtype in it, or an operator of ours.
    fn reason(&self, graph: &Graph) -> Option<String> {
        let border = graph.inputs.iter().chain(&graph.outputs);
        for value in border.map(|&id| graph.value(id)) {
            if matches!(value.ty, Type::Sequence(_) | Type::Optional(_)) {
                return Some(format!("`{}` is {}, no tensor", value.name, value.ty));
            }
        }
        let mut graphs = vec![graph];
        while let Some(graph) = graphs.pop() {
            let typed = graph.values.iter().filter_map(|value| Some((value, value.ty.dtype()?)));
            for (value, dtype) in typed {
                if let Some(reason) = self.delegate.refuses(dtype) {
                    return Some(format!("`{}`: {reason}", value.name));
                }
            }
            for node in &graph.nodes {
                if node.op.starts_with("hetra.") {
                    let label = node.label(graph);
                    return Some(format!("node `{label}`: {} is no operator of ONNX", node.op));
                }
                graphs.extend(node.attrs.graphs().map(|(_, body)| &**body));
            }
        }
        None
    }
}

impl<D: Delegate> Device for DelegateDevice<D> {
    fn info(&self) -> &DeviceInfo {
        self.delegate.info()
    }

    fn supports(&self, node: &Node, _: &Graph) -> Support {
        match self.body(node) {
            None => Support::No(format!("it takes parts of a graph ({PART}), not nodes")),
            Some(body) => self.reason(body).map_or(Support::Kernel, Support::No),
        }
    }

    fn compile(&self, part: &Part<'_>) -> Result<Arc<dyn Program>, DeviceError> {
        let failed = |reason: String| DeviceError::Failed {
            device: self.delegate.info().id.clone(),
            reason,
        };
        let node = part.nodes.first().map(|&id| part.graph.node(id));
        let (node, body) = node
            .and_then(|node| Some((node, self.body(node)?)))
            .ok_or_else(|| failed("it takes one part of a graph at a time".to_string()))?;
        let arity = (node.inputs.len(), node.outputs.len());
        if arity != (body.inputs.len(), body.outputs.len()) {
            return Err(failed("the part and its body have other inputs or outputs".to_string()));
        }
        let name = |id: &hetra_ir::ValueId| body.value(*id).name.clone();
        let names = Names {
            inputs: body.inputs.iter().map(name).collect(),
            outputs: body.outputs.iter().map(name).collect(),
        };
        let onnx = (self.export)(body).map_err(failed)?;
        let shape = |id: &hetra_ir::ValueId| {
            let ty = part.types.get(id.index())?;
            ty.dtype().zip(ty.known_shape())
        };
        let shapes = node.outputs.iter().map(|id| id.as_ref().and_then(shape)).collect();
        let loaded = self.delegate.load(onnx, names)?;
        Ok(Arc::new(Whole { loaded, shapes, kernel: self.delegate.info().driver.clone() }))
    }
}

/// A part that is ready to run.
struct Whole {
    loaded: Box<dyn Loaded>,
    /// Of outputs, where they are the same for all inputs.
    shapes: Vec<Option<(DType, Vec<usize>)>>,
    kernel: String,
}

impl Program for Whole {
    fn run(&self, mut call: Call<'_>) -> Result<Values, OpError> {
        let mut given = Vec::with_capacity(self.shapes.len());
        for (index, shape) in self.shapes.iter().enumerate() {
            let room = shape.as_ref().map(|(dtype, shape)| call.output(index, *dtype, shape));
            given.push(room.transpose()?);
        }
        let inputs = (0..call.inputs.len()).map(|index| call.tensor(index));
        let inputs: Vec<&Tensor> = inputs.collect::<Result<_, _>>()?;
        // What another device holds is fetched here, where that can fail.
        inputs.iter().try_for_each(|tensor| tensor.fetch())?;
        let outputs = self.loaded.run(&inputs, given)?;
        Ok(outputs.into_iter().map(Value::from).collect())
    }

    fn kernel(&self) -> &str {
        &self.kernel
    }
}

/// Why there is no library of a runtime.
#[derive(Clone, Debug)]
pub enum NoLibrary {
    /// It is not installed.
    Missing,
    /// It is there and does not work, and why.
    Broken(String),
}

impl NoLibrary {
    /// The driver's line in `hetra devices`; `install` says how to get the library.
    pub fn found(self, driver: &str, install: &str) -> Found {
        let (state, hint) = match self {
            NoLibrary::Missing => (DriverState::Missing, install.to_string()),
            NoLibrary::Broken(reason) => (DriverState::Broken, reason),
        };
        Found { info: DeviceInfo::of_driver(driver), state, hint }
    }

    /// Why a device of it cannot be opened.
    pub fn refuse(self, id: &str) -> DeviceError {
        let reason = match self {
            NoLibrary::Missing => "its library is not here".to_string(),
            NoLibrary::Broken(reason) => reason,
        };
        DeviceError::Failed { device: id.to_string(), reason }
    }
}

/// Where a shared library is: what the environment variable says; else the newest file whose name
/// begins so in a folder of a Python package that is installed; else in the system's folders.
pub fn find_library(variable: &str, package: &[&str], prefix: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return Some(PathBuf::from(path));
    }
    let inside: PathBuf = package.iter().collect();
    let mut folders: VecDeque<PathBuf> =
        python_folders().into_iter().map(|folder| folder.join(&inside)).collect();
    let paths = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&paths));
    folders.extend(SYSTEM_FOLDERS.iter().map(PathBuf::from));
    folders.iter().find_map(|folder| newest(folder, prefix))
}

const SYSTEM_FOLDERS: [&str; 6] = [
    "/usr/local/lib",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/opt/intel/openvino/runtime/lib/intel64",
];

/// Where Python packages are: on `PYTHONPATH`, in the environment that is active, the user's, the
/// system's.
fn python_folders() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let path = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let prefixes = [variable("VIRTUAL_ENV"), variable("CONDA_PREFIX")];
    let home = variable("HOME").map(|home| home.join(".local"));
    let system = ["/usr/local", "/usr"].map(|path| Some(PathBuf::from(path)));
    for prefix in prefixes.into_iter().chain([home]).chain(system).flatten() {
        for version in entries(&prefix.join("lib"), "python3") {
            folders.push(version.join("site-packages"));
            folders.push(version.join("dist-packages"));
        }
    }
    folders
}

/// The entries of a folder whose names begin so, the last name first.
fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(found) = std::fs::read_dir(folder) else { return Vec::new() };
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    let mut found: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).filter(named).collect();
    found.sort();
    found.reverse();
    found
}

fn newest(folder: &Path, prefix: &str) -> Option<PathBuf> {
    entries(folder, prefix).into_iter().find(|path| path.is_file())
}
