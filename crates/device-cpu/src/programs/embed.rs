//! EmbedLayerNormalization: sums of rows, then a layer norm.

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::EmbedForm;
use hetra_tensor::{DType, Tensor};

use super::heads::made;
use super::quantised::{at, inputs};
use super::{Compile, Form, Outcome, program};
use hetra_cpu_base::isa::isa;
use hetra_cpu_rows::embed::{Table, sum_rows};
use hetra_cpu_rows::norm::{LayerNorm, layer_norm};

pub(super) static OPS: &[(&str, Compile)] = &[("com.microsoft.EmbedLayerNormalization", compile)];

pub(super) fn takes(form: &Form<'_>) -> bool {
    form.ty(form.node.input(2)).dtype().is_none_or(|dtype| dtype == DType::F32)
}

fn compile(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    program("layer norm", run)
}

fn run(call: &mut Call<'_>) -> Outcome {
    let inputs = inputs(call);
    let form = EmbedForm::of(&call.context())?;
    let floats = |index: usize| at(&inputs, index).and_then(|t| t.as_slice::<f32>().ok());
    let tables: Option<Vec<Table<'_>>> =
        form.tables.iter().map(|(index, rows)| Some((floats(*index)?, &rows[..]))).collect();
    let (Some(tables), Some(scale), Some(bias)) = (tables, floats(5), floats(6)) else {
        return Ok(None);
    };
    let [batch, _, cols] = form.shape;
    let mut out = call.output(0, DType::F32, &form.shape)?;
    let mut sums = made(call, 2, &form.shape)?;
    sum_rows(&tables, cols, sums.as_mut_slice()?);
    let norm = LayerNorm {
        cols,
        eps: form.epsilon,
        scale,
        bias: Some(bias),
        rms: false,
        skip: None,
        skip_bias: None,
    };
    layer_norm(isa(), &norm, sums.as_slice()?, out.as_mut_slice()?, None);
    let mut outputs = vec![out, Tensor::from_slice(&[batch], &form.lengths)?, sums];
    outputs.truncate(call.node.outputs.len().max(1));
    Ok(Some(outputs.into_iter().map(Into::into).collect()))
}
