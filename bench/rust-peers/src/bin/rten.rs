//! One model in rten: weights packed while loading, its own thread pool.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use rten::{ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::prelude::*;
use rust_peers::{Array, Failure, Task, finish};

fn main() -> ExitCode {
    finish(run)
}

fn run() -> Result<(), Failure> {
    let task = Task::read()?;
    let feed = task.feed()?;
    let values = feed.iter().map(value).collect::<Result<Vec<Value>, _>>()?;

    let started = Instant::now();
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(&task.model)?;
    let pool = Arc::new(ThreadPool::with_num_threads(task.threads));
    let mut options = RunOptions::default();
    options.thread_pool = Some(pool);
    let ids = feed.iter().map(|x| model.node_id(&x.name)).collect::<Result<Vec<NodeId>, _>>()?;
    let infer = || {
        let inputs: Vec<(NodeId, ValueOrView)> =
            ids.iter().copied().zip(values.iter().map(ValueOrView::from)).collect();
        Ok(model.run(inputs, model.output_ids(), Some(options.clone()))?)
    };
    let describe = |outputs: &Vec<Value>| {
        let name = |id| model.node_info(id).and_then(|info| info.name()).unwrap_or_default();
        outputs.iter().zip(model.output_ids()).map(|(value, id)| array(name(*id), value)).collect()
    };
    task.time(started, infer, describe)
}

/// An input. rten has no 64-bit integers and no booleans: both are its `i32`.
fn value(x: &Array) -> Result<Value, Failure> {
    let narrow = |wide: i64| i32::try_from(wide).map_err(|_| format!("{wide} is more than i32"));
    let shape = x.shape.as_slice();
    Ok(match x.dtype.as_str() {
        "float32" => Value::from_shape(shape, x.numbers(f32::from_le_bytes))?,
        "int32" => Value::from_shape(shape, x.numbers(i32::from_le_bytes))?,
        "int64" => {
            let wide = x.numbers(i64::from_le_bytes).into_iter();
            Value::from_shape(shape, wide.map(narrow).collect::<Result<Vec<i32>, _>>()?)?
        }
        "bool" => Value::from_shape(shape, x.numbers(|[byte]: [u8; 1]| i32::from(byte)))?,
        "uint8" => Value::from_shape(shape, x.bytes.clone())?,
        "int8" => Value::from_shape(shape, x.numbers(i8::from_le_bytes))?,
        other => return Err(format!("input {}: no way to feed {other}", x.name).into()),
    })
}

/// An output.
fn array(name: &str, value: &Value) -> Result<Array, Failure> {
    Ok(match value {
        Value::FloatTensor(t) => {
            Array::new(name, "float32", t.shape(), t.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        Value::Int32Tensor(t) => {
            Array::new(name, "int32", t.shape(), t.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        Value::UInt8Tensor(t) => Array::new(name, "uint8", t.shape(), t.iter().copied().collect()),
        Value::Int8Tensor(t) => {
            Array::new(name, "int8", t.shape(), t.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        other => return Err(format!("output {name}: no way to write {other:?}").into()),
    })
}
