//! Bytes to a session, and one run on zeros.

#![no_main]

use std::sync::{Arc, LazyLock};

use hetra::{DType, Device, Port, Session, Tensor, Type};
use hetra_onnx::ImportOptions;
use libfuzzer_sys::fuzz_target;

/// Most scalar operations of a run: slow is not broken.
const WORK_MAX: f64 = 1e8;

static CPU: LazyLock<Arc<dyn Device>> =
    LazyLock::new(|| hetra::open("cpu", Some(1)).expect("the CPU"));

fuzz_target!(|bytes: &[u8]| {
    hetra_tensor::set_bytes_max(64 << 20);
    hetra_ops::set_turns_max(1000);
    let Ok(graph) = hetra_onnx::import(bytes, &ImportOptions::default()) else { return };
    let Ok(session) = Session::builder().graph(graph).on(CPU.clone()).build() else { return };
    let ports = session.inputs();
    let given: Vec<(String, Tensor)> = ports.iter().filter_map(zeros).collect();
    let types: Vec<Type> = ports
        .iter()
        .map(|port| {
            let value = given.iter().find(|(name, _)| *name == port.name);
            value.map_or(port.ty.clone(), |(_, value)| Type::tensor(value.dtype(), value.shape()))
        })
        .collect();
    let Ok(inferred) = hetra_pass::infer(session.graph(), &types, &[]) else { return };
    let work = hetra_pass::work(session.graph(), &inferred.types, &inferred.known);
    if work.iter().map(|work| work.ops).sum::<f64>() <= WORK_MAX {
        let _ = session.run(given);
    }
});

fn zeros(port: &Port) -> Option<(String, Tensor)> {
    if port.has_default {
        return None;
    }
    let dims = port.ty.dims().unwrap_or_default();
    let shape: Vec<usize> = dims.iter().map(|dim| dim.known().unwrap_or(2)).collect();
    let tensor = Tensor::zeros(port.ty.dtype().unwrap_or(DType::F32), &shape).ok()?;
    (tensor.byte_len() <= 4 << 20).then(|| (port.name.clone(), tensor))
}
