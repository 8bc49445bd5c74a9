//! Models: `hetra.InferenceSession` and what it is made of.

use std::collections::HashMap;
use std::time::Instant;

use hetra::array::Device;
use hetra::{Array, Session, Value};
use pyo3::exceptions::{PyKeyError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::array::PyArray;
use crate::convert::{array_of, numpy_name};
use crate::error::{of_array, of_session};

/// A model compiled for a device.
#[pyclass(name = "Session", module = "hetra._core", frozen)]
pub(crate) struct PySession(Session);

/// Name, dtype and extents of an input or output.
type Port = (String, Option<String>, Option<Vec<Extent>>);

#[derive(IntoPyObject)]
enum Extent {
    Known(usize),
    Symbol(String),
    Unknown(Option<usize>),
}

fn port(port: &hetra::Port) -> Port {
    let dtype = port
        .ty
        .dtype()
        .map(|dtype| numpy_name(dtype).map_or_else(|| dtype.to_string(), str::to_string));
    let extent = |dim: &hetra::Dim| match (dim.known(), dim.symbol()) {
        (Some(extent), _) => Extent::Known(extent),
        (None, Some(symbol)) => Extent::Symbol(symbol.to_string()),
        (None, None) => Extent::Unknown(None),
    };
    (port.name.clone(), dtype, port.ty.dims().map(|dims| dims.iter().map(extent).collect()))
}

/// Operator, kernel, device, nanoseconds from the start of the run, nanoseconds.
type TracedStep = (String, String, String, u64, u64);

/// What a dictionary of arrays by name holds, on the host.
fn tensors(py: Python<'_>, feed: &Bound<'_, PyDict>) -> PyResult<Vec<(String, Value)>> {
    let mut inputs: Vec<(String, Value)> = Vec::with_capacity(feed.len());
    for (name, value) in feed {
        let array = array_of(&value)?;
        let tensor = py.detach(|| array.to_host()).map_err(of_array)?;
        inputs.push((name.extract()?, tensor.into()));
    }
    Ok(inputs)
}

fn arrays(values: impl IntoIterator<Item = Value>) -> PyResult<Vec<Option<PyArray>>> {
    let host = Device::host().map_err(of_array)?;
    let array = |value| match value {
        Value::Tensor(tensor) => Ok(Some(PyArray::new(Array::from_tensor(tensor, &host)))),
        other => {
            let text = format!("an output is {}: no array", other.describe());
            Err(PyTypeError::new_err(text))
        }
    };
    values.into_iter().map(array).collect()
}

impl PySession {
    /// These names, or those of all outputs.
    fn names(&self, names: Option<Vec<String>>) -> Vec<String> {
        let all = || self.0.outputs().iter().map(|port| port.name.clone()).collect();
        names.unwrap_or_else(all)
    }
}

#[pymethods]
impl PySession {
    /// Loads a model from a path or from bytes.
    #[new]
    #[pyo3(signature = (model, device="cpu", threads=None, no_fallback=false))]
    fn new(
        py: Python<'_>,
        model: &Bound<'_, PyAny>,
        device: &str,
        threads: Option<usize>,
        no_fallback: bool,
    ) -> PyResult<PySession> {
        let mut builder = Session::builder().device(device);
        if let Some(threads) = threads {
            builder = builder.threads(threads);
        }
        if no_fallback {
            builder = builder.no_fallback();
        }
        builder = match model.extract::<Vec<u8>>() {
            Ok(bytes) if model.is_instance_of::<pyo3::types::PyBytes>() => {
                builder.model_bytes(bytes)
            }
            _ => builder.model_file(model.extract::<std::path::PathBuf>()?),
        };
        py.detach(|| builder.build()).map(PySession).map_err(of_session)
    }

    fn inputs(&self) -> Vec<Port> {
        self.0.inputs().iter().filter(|port| !port.has_default).map(port).collect()
    }

    /// Inputs that have a default.
    fn defaults(&self) -> Vec<Port> {
        self.0.inputs().iter().filter(|port| port.has_default).map(port).collect()
    }

    fn outputs(&self) -> Vec<Port> {
        self.0.outputs().iter().map(port).collect()
    }

    /// The id of the device.
    fn device(&self) -> String {
        self.0.device().id.clone()
    }

    /// What the file says of the model, by ONNX Runtime's names.
    fn model<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let info = self.0.model();
        let row = PyDict::new(py);
        row.set_item("producer_name", &info.producer)?;
        row.set_item("domain", &info.domain)?;
        row.set_item("version", info.model_version)?;
        row.set_item("description", &info.doc)?;
        row.set_item("graph_name", &self.0.graph().name)?;
        row.set_item(
            "custom_metadata_map",
            info.metadata.iter().cloned().collect::<HashMap<_, _>>(),
        )?;
        Ok(row)
    }

    /// Runs on inputs by name; gives the outputs of these names, or all, as arrays.
    fn run(
        &self,
        py: Python<'_>,
        names: Option<Vec<String>>,
        feed: &Bound<'_, PyDict>,
    ) -> PyResult<Vec<Option<PyArray>>> {
        let inputs = tensors(py, feed)?;
        let names = self.names(names);
        let outputs = py.detach(|| {
            let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
            self.0.run_for(inputs, &wanted)
        });
        arrays(outputs.map_err(of_session)?.into_values())
    }

    /// As `run`, with the steps of the run: operator, kernel, device, nanoseconds from its start,
    /// nanoseconds.
    fn run_traced(
        &self,
        py: Python<'_>,
        names: Option<Vec<String>>,
        feed: &Bound<'_, PyDict>,
    ) -> PyResult<(Vec<Option<PyArray>>, Vec<TracedStep>)> {
        let names = self.names(names);
        let has = |name: &String| self.0.outputs().iter().any(|port| port.name == *name);
        if !names.iter().all(has) {
            // Says so before the model runs.
            return Ok((self.run(py, Some(names), feed)?, Vec::new()));
        }
        let inputs = tensors(py, feed)?;
        let traced = py.detach(|| self.0.trace(inputs));
        let (outputs, trace) = traced.map_err(of_session)?;
        let wanted = names.iter().map(|name| {
            let value = outputs.get(name).cloned();
            value.ok_or_else(|| PyKeyError::new_err(format!("there is no output `{name}`")))
        });
        let wanted = wanted.collect::<PyResult<Vec<Value>>>()?;
        let steps = trace
            .steps
            .into_iter()
            .map(|step| (step.op, step.kernel, step.device, step.start_ns, step.duration_ns));
        Ok((arrays(wanted)?, steps.collect()))
    }

    /// Runs so often, and gives the seconds of each run.
    fn times(&self, py: Python<'_>, feed: &Bound<'_, PyDict>, runs: usize) -> PyResult<Vec<f64>> {
        let mut seconds = Vec::with_capacity(runs.min(1 << 16));
        for _ in 0..runs {
            let start = Instant::now();
            self.run(py, None, feed)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }
}
