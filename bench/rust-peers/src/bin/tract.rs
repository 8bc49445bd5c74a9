//! One model in tract: typed and optimised for the very shapes of its inputs.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use rust_peers::{Array, Failure, Task, finish};
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

/// numpy's names of the types that go in and out.
const TYPES: [(&str, DatumType); 8] = [
    ("float32", DatumType::F32),
    ("float64", DatumType::F64),
    ("int64", DatumType::I64),
    ("int32", DatumType::I32),
    ("int8", DatumType::I8),
    ("uint8", DatumType::U8),
    ("bool", DatumType::Bool),
    ("float16", DatumType::F16),
];

fn main() -> ExitCode {
    finish(run)
}

fn run() -> Result<(), Failure> {
    let task = Task::read()?;
    let feed = task.feed()?;
    let values = feed.iter().map(value).collect::<Result<TVec<TValue>, _>>()?;

    let started = Instant::now();
    if task.threads > 1 {
        set_default_executor(Executor::multithread(task.threads));
    }
    // Symbols of a file (a batch of any size) would contradict the extents set below.
    let reader = onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let mut model = reader.model_for_path(&task.model)?;
    // Inputs by name: a graph may list weights among its inputs, or order them otherwise.
    let names: Vec<&str> = feed.iter().map(|x| x.name.as_str()).collect();
    model = model.with_input_names(&names)?;
    for (index, x) in values.iter().enumerate() {
        let fact = InferenceFact::dt_shape(x.datum_type(), x.shape());
        model = model.with_input_fact(index, fact)?;
    }
    let outputs: Vec<String> = model
        .output_outlets()?
        .iter()
        .map(|o| model.outlet_label(*o).unwrap_or_default().into())
        .collect();
    let plan = model.into_optimized()?.into_runnable()?;
    let infer = || Ok(plan.run(values.clone())?);
    let describe = |found: &TVec<TValue>| {
        found.iter().zip(&outputs).map(|(value, name)| array(name, value)).collect()
    };
    task.time(started, infer, describe)
}

/// An input.
fn value(x: &Array) -> Result<TValue, Failure> {
    let (_, kind) = TYPES
        .into_iter()
        .find(|(name, _)| *name == x.dtype)
        .ok_or_else(|| format!("input {}: no way to feed {}", x.name, x.dtype))?;
    let mut tensor = Tensor::zero_dt(kind, &x.shape)?;
    let room = tensor.as_bytes_mut();
    if room.len() != x.bytes.len() {
        return Err(
            format!("input {}: {} bytes, wanted {}", x.name, x.bytes.len(), room.len()).into()
        );
    }
    room.copy_from_slice(&x.bytes);
    Ok(tensor.into_tvalue())
}

/// An output. What tract keeps as quantised numbers or symbols, a caller reads as numbers.
fn array(name: &str, value: &TValue) -> Result<Array, Failure> {
    let kind = match value.datum_type().unquantized() {
        DatumType::TDim => DatumType::I64,
        kind => kind,
    };
    let (dtype, _) = TYPES
        .into_iter()
        .find(|(_, known)| *known == kind)
        .ok_or_else(|| format!("output {name}: no way to write {kind:?}"))?;
    let plain: Arc<Tensor> = match value.datum_type() {
        DatumType::TDim => value.cast_to_dt(kind)?.into_owned().into_arc_tensor(),
        _ => value.clone().into_arc_tensor(),
    };
    Ok(Array::new(name, dtype, plain.shape(), plain.as_bytes().to_vec()))
}
