//! Graphs joined to one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use hetra_ir::{Attr, Capture, Dim, Graph, Node, Type, ValueId};
use hetra_tensor::{DType, Tensor, Value};

use crate::file::{Gallery, PipelineError};
use crate::{Params, Runner};

/// A graph that grows step by step.
pub(crate) struct Joiner<'a> {
    graph: Graph,
    /// What steps made, by name.
    values: BTreeMap<String, ValueId>,
    /// Where models are looked for.
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) galleries: &'a BTreeMap<String, Gallery>,
    /// Runs models.
    pub(crate) runner: Runner<'a>,
    last: Option<String>,
    /// What the files of models say about them, by step.
    metadata: BTreeMap<String, Vec<(String, String)>>,
    /// The names of values that are made for each of many.
    many: std::collections::BTreeSet<String>,
}

/// The input of every pipeline.
const IMAGE: &str = "image";

impl Joiner<'_> {
    pub(crate) fn new<'a>(
        name: &str,
        galleries: &'a BTreeMap<String, Gallery>,
        runner: Runner<'a>,
    ) -> Joiner<'a> {
        let mut graph = Graph { name: name.to_string(), ..Graph::default() };
        let dims = vec![Dim::Sym("height".into()), Dim::Sym("width".into()), 3usize.into()];
        let image = graph.add_value(IMAGE, Type::shaped(DType::U8, dims));
        graph.inputs.push(image);
        let values = BTreeMap::from([(IMAGE.to_string(), image)]);
        Joiner {
            graph,
            values,
            folders: Vec::new(),
            galleries,
            runner,
            last: None,
            metadata: BTreeMap::new(),
            many: Default::default(),
        }
    }

    /// Where a file is that a step names.
    ///
    /// # Errors
    /// When it is in none of the folders.
    pub(crate) fn file(&self, params: &Params<'_>, name: &str) -> Result<PathBuf, PipelineError> {
        let mut files = self.folders.iter().map(|folder| folder.join(name));
        files.find(|file| file.is_file()).ok_or_else(|| {
            let shown = |folder: &PathBuf| match folder.as_os_str().is_empty() {
                true => "this folder".to_string(),
                false => format!("`{}`", folder.display()),
            };
            let folders = self.folders.iter().map(shown).collect::<Vec<_>>().join(" or ");
            params.fault(format!(
                "no `{name}` in {folders}; `hetra pipeline --models FOLDER` looks elsewhere, too"
            ))
        })
    }

    /// What a step before made.
    pub(crate) fn find(&self, name: &str) -> Result<ValueId, String> {
        self.values.get(name).copied().ok_or_else(|| {
            let known: Vec<&str> = self.values.keys().map(String::as_str).collect();
            format!("nothing makes `{name}`; there are {}", known.join(", "))
        })
    }

    /// Calls a value of a step by a name, `step` alone or `step.name`; `many` says whether there is
    /// one for each of many along its first axis.
    ///
    /// # Errors
    /// A name that is taken.
    pub(crate) fn name(
        &mut self,
        params: &Params<'_>,
        name: &str,
        id: ValueId,
        many: bool,
    ) -> Result<(), PipelineError> {
        let step = &params.step;
        let full = if name.is_empty() { step.clone() } else { format!("{step}.{name}") };
        if self.values.insert(full.clone(), id).is_some() {
            return Err(params.fault(format!("`{full}` is made twice")));
        }
        if many {
            self.many.insert(full);
        }
        self.last = Some(step.clone());
        Ok(())
    }

    /// Whether a value has one for each of many along its first axis.
    pub(crate) fn is_many(&self, name: &str) -> bool {
        self.many.contains(name)
    }

    /// Keeps what the file of a step's model says about it.
    pub(crate) fn say(&mut self, step: &str, metadata: Vec<(String, String)>) {
        self.metadata.insert(step.to_string(), metadata);
    }

    /// What the file of the model says that makes a value.
    pub(crate) fn metadata(&self, value: &str, key: &str) -> Option<String> {
        let of = |step: &str| self.metadata.get(step);
        let said = of(value).or_else(|| of(value.rsplit_once('.')?.0))?;
        said.iter().find(|(name, _)| name == key).map(|(_, text)| text.clone())
    }

    pub(crate) fn constant(&mut self, value: Tensor) -> ValueId {
        self.graph.add_constant("", Value::from(value))
    }

    /// Whole numbers as a constant.
    pub(crate) fn ints(&mut self, numbers: &[i64]) -> ValueId {
        self.constant(Tensor::vector(numbers))
    }

    pub(crate) fn op(&mut self, op: &str, inputs: &[ValueId]) -> ValueId {
        self.node(Node::new(op, inputs, &[]))
    }

    /// Adds a node with one output.
    pub(crate) fn node(&mut self, node: Node) -> ValueId {
        self.nodes(node, 1)[0]
    }

    pub(crate) fn nodes(&mut self, mut node: Node, outputs: usize) -> Vec<ValueId> {
        let made: Vec<ValueId> =
            (0..outputs).map(|_| self.graph.add_value("", Type::Unknown)).collect();
        node.outputs = made.iter().copied().map(Some).collect();
        self.graph.nodes.push(node);
        made
    }

    /// Puts a model into the graph, its values under the name of a step; gives its outputs.
    pub(crate) fn splice(&mut self, step: &str, model: &Graph, inputs: &[ValueId]) -> Vec<ValueId> {
        splice(&mut self.graph, step, model, inputs)
    }

    /// Runs a model that takes one at a time for each of many, and stacks what it gives.
    pub(crate) fn each(&mut self, step: &str, model: &Graph, input: ValueId) -> Vec<ValueId> {
        let mut body = Graph { name: step.to_string(), ..Graph::default() };
        let ty = model.ty(model.inputs[0]);
        let slice = body.add_value("slice", one_of(ty));
        body.inputs.push(slice);
        let first = body.add_constant("first", Value::from(Tensor::vector(&[0i64])));
        let whole = body.add_value("whole", ty.clone());
        body.nodes.push(Node::new("Unsqueeze", &[slice, first], &[whole]));
        // Where there is none to run it for, what it would give is known by the types alone.
        let types = hetra_pass::output_types(model);
        let types = types.unwrap_or_else(|_| vec![Type::Unknown; model.outputs.len()]);
        for (output, ty) in splice(&mut body, "", model, &[whole]).into_iter().zip(&types) {
            let bare = body.add_value("", one_of(ty));
            body.nodes.push(Node::new("Squeeze", &[output, first], &[bare]));
            body.outputs.push(bare);
        }
        let count = body.outputs.len();
        let scan = Node::new("Scan", &[input], &[])
            .with("num_scan_inputs", 1i64)
            .with("body", Attr::Graph(Arc::new(body)));
        self.nodes(scan, count)
    }

    /// The graph with these outputs, by name; with all that the last step made where none is named.
    pub(crate) fn finish(
        mut self,
        outputs: &BTreeMap<String, String>,
    ) -> Result<Graph, PipelineError> {
        let wanted = if outputs.is_empty() { self.last_step() } else { outputs.clone() };
        for (output, value) in &wanted {
            let id = self.values.get(value).copied().ok_or_else(|| {
                let known: Vec<&str> = self.values.keys().map(String::as_str).collect();
                PipelineError::Output {
                    output: output.clone(),
                    value: value.clone(),
                    known: known.join(", "),
                }
            })?;
            // Under the name that is asked for, whatever else it is called.
            let named = self.graph.add_value(output, Type::Unknown);
            self.graph.nodes.push(Node::new("Identity", &[id], &[named]));
            self.graph.outputs.push(named);
        }
        Ok(self.graph)
    }

    fn last_step(&self) -> BTreeMap<String, String> {
        let last = self.last.clone().unwrap_or_default();
        let of_last = |name: &&String| {
            **name == last || name.strip_prefix(&last).is_some_and(|rest| rest.starts_with('.'))
        };
        let named = |name: &String| {
            let rest = name.strip_prefix(&last).and_then(|rest| rest.strip_prefix('.'));
            (rest.unwrap_or(name).to_string(), name.clone())
        };
        self.values.keys().filter(of_last).map(named).collect()
    }
}

/// The type of one of many.
fn one_of(ty: &Type) -> Type {
    match (ty.dtype(), ty.dims()) {
        (Some(dtype), Some([_, dims @ ..])) => Type::shaped(dtype, dims.to_vec()),
        _ => Type::Unknown,
    }
}

/// Adds what a model does to a graph, on these inputs; the names of its values begin with `prefix`.
fn splice(graph: &mut Graph, prefix: &str, model: &Graph, inputs: &[ValueId]) -> Vec<ValueId> {
    let mut map: BTreeMap<ValueId, ValueId> =
        model.inputs.iter().copied().zip(inputs.iter().copied()).collect();
    let name =
        |name: &str| if prefix.is_empty() { name.to_string() } else { format!("{prefix}/{name}") };
    for (index, info) in model.values.iter().enumerate() {
        let id = ValueId(index as u32);
        map.entry(id).or_insert_with(|| graph.add_value(&name(&info.name), info.ty.clone()));
    }
    for (id, value) in model.constants.iter().filter(|(id, _)| !model.inputs.contains(id)) {
        graph.constants.insert(map[id], value.clone());
    }
    for node in &model.nodes {
        let mut node = node.clone();
        node.name = if node.name.is_empty() { String::new() } else { name(&node.name) };
        node.map_uses(|id| map[&id]);
        node.outputs.iter_mut().flatten().for_each(|output| *output = map[output]);
        graph.nodes.push(node);
    }
    debug_assert!(model.captures.iter().all(|Capture { .. }| false), "a model captures nothing");
    model.outputs.iter().map(|id| map[id]).collect()
}
