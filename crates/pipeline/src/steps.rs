//! The steps of pipelines.

use std::collections::BTreeSet;

use hetra_ir::{Dim, Graph};
use hetra_onnx::ImportOptions;

use crate::batch::batched;
use crate::file::PipelineError;
use crate::{Joiner, Params, faces, lines, objects, pictures};

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
pub static STEPS: &[&StepRow] = &[
    &pictures::LETTERBOX,
    &pictures::STRETCH,
    &faces::YUNET,
    &faces::ALIGN,
    &faces::MATCH,
    &objects::YOLOX,
    &lines::DB,
    &lines::UPRIGHT,
    &lines::LINES,
    &lines::CTC,
];

/// A step that is a model: `model`, `of` or `inputs`, `each`.
pub(crate) fn model(joiner: &mut Joiner<'_>, params: &Params<'_>) -> Result<(), PipelineError> {
    let file = joiner.file(params, params.text("model")?)?;
    let fault = |source| PipelineError::Model { step: params.step.clone(), source };
    let imported = hetra_onnx::import_file(&file, &ImportOptions::default());
    let imported = imported.map_err(fault)?;
    joiner.say(&params.step, imported.info.metadata);
    let mut graph = imported.graph;
    graph.fix_defaults(|_| false);
    leave_unread(&mut graph);
    if graph.inputs.is_empty() {
        return Err(params.fault("the model has no input".to_string()));
    }
    let (inputs, of_many) = inputs(joiner, params, &graph)?;
    let one =
        graph.ty(graph.inputs[0]).dims().and_then(|dims| dims.first()) == Some(&Dim::Known(1));
    let asked = params.flag("each")?;
    if asked && inputs.len() > 1 {
        return Err(params.fault("`each`: the model has more than one input".to_string()));
    }
    let each = asked || (one && inputs.len() == 1 && of_many);
    // All at one time, where that gives the same.
    let many = if each { batched(&graph, joiner.runner) } else { None };
    let outputs = match (each, &many) {
        (true, None) => joiner.each(&params.step, &graph, inputs[0]),
        _ => joiner.splice(&params.step, many.as_ref().unwrap_or(&graph), &inputs),
    };
    for (&id, value) in graph.outputs.iter().zip(&outputs) {
        joiner.name(params, &graph.value(id).name, *value, of_many || each)?;
    }
    if let [only] = outputs[..] {
        joiner.name(params, "", only, of_many || each)?;
    }
    Ok(())
}

/// Inputs that nobody reads need no value: exporters leave some behind.
fn leave_unread(graph: &mut Graph) {
    let mut read: BTreeSet<hetra_ir::ValueId> =
        graph.nodes.iter().flat_map(hetra_ir::Node::uses).collect();
    read.extend(graph.outputs.iter().copied());
    graph.inputs.retain(|id| read.contains(id));
}

/// The values that a model reads, in the order of its inputs, and whether the first is made for
/// each of many.
fn inputs(
    joiner: &Joiner<'_>,
    params: &Params<'_>,
    graph: &Graph,
) -> Result<(Vec<hetra_ir::ValueId>, bool), PipelineError> {
    let find = |name: &str| joiner.find(name).map_err(|reason| params.fault(reason));
    let named = params.names("inputs")?;
    let names: Vec<&str> = graph.inputs.iter().map(|&id| graph.value(id).name.as_str()).collect();
    if let Some(other) = named.keys().find(|name| !names.contains(&name.as_str())) {
        let reason = format!("the model has no input `{other}`; it has {}", names.join(", "));
        return Err(params.fault(reason));
    }
    let of = params.text_opt("of")?;
    let read = |name: &&str| match (named.get(*name), of) {
        (Some(value), _) => Ok(value.clone()),
        (None, Some(of)) if names.len() == 1 => Ok(of.to_string()),
        _ => Err(params.fault(format!("input `{name}` of the model is not given"))),
    };
    let read: Vec<String> = names.iter().map(read).collect::<Result<_, _>>()?;
    let many = read.first().is_some_and(|first| joiner.is_many(first));
    Ok((read.iter().map(|value| find(value)).collect::<Result<_, _>>()?, many))
}
