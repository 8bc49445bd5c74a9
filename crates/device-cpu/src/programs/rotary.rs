//! Rotary embeddings, of ai.onnx and com.microsoft.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::{Pairing, RotaryForm};
use hetra_tensor::DType;

use super::{Compile, Outcome, one, program};
use hetra_cpu_rows::rotary::{Rotary, rotate};

pub(super) static OPS: &[(&str, Compile)] =
    &[("RotaryEmbedding", compile), ("com.microsoft.RotaryEmbedding", compile)];

fn compile(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    program("rotary", run)
}

fn run(call: &mut Call<'_>) -> Outcome {
    let x = call.tensor(0)?.clone();
    if x.is_empty() {
        return Ok(None);
    }
    let form = RotaryForm::of(&call.context())?;
    let (cos, sin) = (call.tensor(form.tables[0])?.clone(), call.tensor(form.tables[1])?.clone());
    if [&x, &cos, &sin].iter().any(|tensor| tensor.dtype() != DType::F32) {
        return Ok(None);
    }
    let mut out = call.output(0, DType::F32, x.shape())?;
    let p = Rotary {
        width: form.width,
        half: form.half,
        neighbours: form.pairing == Pairing::Neighbours,
        cos: cos.as_slice()?,
        sin: sin.as_slice()?,
    };
    let place = |row: usize| (row * form.width, Some(form.line(row)));
    rotate(&p, x.len() / form.width, x.as_slice()?, place, out.as_mut_slice()?);
    one(out)
}
