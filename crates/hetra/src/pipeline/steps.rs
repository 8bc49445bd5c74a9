//! The steps of pipelines.

use hetra_ir::{Dim, Graph};
use hetra_onnx::ImportOptions;

use crate::error::Error;
use crate::pipeline::batch::batched;
use crate::pipeline::file::PipelineError;
use crate::pipeline::{Joiner, Params, faces, pictures};

/// A kind of step: the one place that says what it is called and takes.
pub struct StepRow {
    /// What `do` takes.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub doc: &'static str,
    /// What it takes.
    pub takes: &'static str,
    /// What it gives: values `step.NAME`, or `step` alone.
    pub gives: &'static str,
    pub(crate) make: Make,
}

/// Adds a step to a graph.
pub(crate) type Make = fn(&mut Joiner<'_>, &Params<'_>) -> Result<(), PipelineError>;

/// All steps beside models.
pub static STEPS: &[&StepRow] =
    &[&pictures::LETTERBOX, &pictures::STRETCH, &faces::YUNET, &faces::ALIGN, &faces::MATCH];

/// A step that is a model: `model`, `of` or `inputs`, `each`.
pub(crate) fn model(joiner: &mut Joiner<'_>, params: &Params<'_>) -> Result<(), PipelineError> {
    let name = params.text("model")?;
    let mut files = joiner.folders.iter().map(|folder| folder.join(name));
    let file = files.find(|file| file.is_file()).ok_or_else(|| {
        let folders = joiner.folders.iter().map(|folder| format!("`{}`", folder.display()));
        params.fault(format!("no `{name}` in {}", folders.collect::<Vec<_>>().join(" or ")))
    })?;
    let fault =
        |error: Error| PipelineError::Model { step: params.step.clone(), source: Box::new(error) };
    let imported = hetra_onnx::import_file(&file, &ImportOptions::default());
    let mut graph = imported.map_err(|error| fault(error.into()))?.graph;
    graph.fix_defaults(|_| false);
    let inputs = inputs(joiner, params, &graph)?;
    let one =
        graph.ty(graph.inputs[0]).dims().and_then(|dims| dims.first()) == Some(&Dim::Known(1));
    let of_many = params.text_opt("of")?.is_some_and(|of| joiner.is_many(of));
    let each = params.flag("each")? || (one && inputs.len() == 1 && of_many);
    // All at one time, where that gives the same.
    let many = if each { batched(&graph) } else { None };
    let outputs = match (each, &many) {
        (true, None) => joiner.each(&params.step, &graph, inputs[0]),
        _ => joiner.splice(&params.step, many.as_ref().unwrap_or(&graph), &inputs),
    };
    for (&id, value) in graph.outputs.iter().zip(&outputs) {
        joiner.name(&params.step, &graph.value(id).name, *value);
    }
    if let [only] = outputs[..] {
        joiner.name(&params.step, "", only);
    }
    Ok(())
}

/// The values that a model reads, in the order of its inputs.
fn inputs(
    joiner: &Joiner<'_>,
    params: &Params<'_>,
    graph: &Graph,
) -> Result<Vec<hetra_ir::ValueId>, PipelineError> {
    let find = |name: &str| joiner.find(name).map_err(|reason| params.fault(reason));
    let named = params.names("inputs")?;
    let names: Vec<&str> = graph.inputs.iter().map(|&id| graph.value(id).name.as_str()).collect();
    if let Some(other) = named.keys().find(|name| !names.contains(&name.as_str())) {
        let reason = format!("the model has no input `{other}`; it has {}", names.join(", "));
        return Err(params.fault(reason));
    }
    let of = params.text_opt("of")?;
    let value = |name: &&str| match (named.get(*name), of) {
        (Some(value), _) => find(value),
        (None, Some(of)) if names.len() == 1 => find(of),
        _ => Err(params.fault(format!("input `{name}` of the model is not given"))),
    };
    names.iter().map(value).collect()
}
