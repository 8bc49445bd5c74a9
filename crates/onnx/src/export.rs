//! Graphs to ONNX bytes.

use std::collections::{BTreeMap, HashMap, HashSet};

use hetra_ir::{Attr, Graph, Node, NodeId, Type, ValueId};
use hetra_ops::{
    ALL_OPS, ChannelsLast, Compute, OnnxName, channels_first_perm, channels_last_perm, find,
    schemas, stored,
};
use hetra_tensor::{DType, Tensor, Value};
use prost::Message;
use prost::bytes::Bytes;

use crate::import::ModelInfo;
use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    ValueInfoProto, attr_type,
};
use crate::scope::Taken;
use crate::{tensors, types};

/// The newest operator set of ai.onnx that graphs are in the form of.
pub const OPSET: u32 = 25;

/// The newest version of the file format that Hetra knows.
pub(crate) const IR_VERSION: i64 = 13;

/// Why a graph has no ONNX form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum ExportError {
    #[error("node `{node}`: operator `{op}` has no ONNX name")]
    Op { node: String, op: String },
    #[error("node `{node}`: {op} had another meaning in version {version}, and has no newer form")]
    OldMeaning { node: String, op: String, version: u32 },
    #[error("input `{input}` has no known type")]
    Untyped { input: String },
    #[error("constant `{name}` has no ONNX form: {reason}")]
    Constant { name: String, reason: &'static str },
    #[error("the model takes {bytes} bytes, over the 2 GiB that the format can hold")]
    TooLarge { bytes: usize },
}

/// Operators whose meaning changed in a version so that no newer form has the older meaning: the
/// first version of the meaning of today, and the first output that it concerns.
const CHANGED: &[(&str, u32, usize)] = &[("Scan", 9, 0), ("Dropout", 10, 1)];

/// What to write beside the graph.
#[derive(Clone, Copy)]
pub struct ExportOptions<'a> {
    /// The operator set of ai.onnx that is declared. A lower one than [`OPSET`] is for readers
    /// that know no higher one; nodes are written in the newest form all the same.
    pub opset: u32,
    /// Facts to keep from the file that the graph came from.
    pub info: Option<&'a ModelInfo>,
    /// Metadata to write with a node of the top graph, as keys and values.
    pub node_metadata: Option<&'a dyn Fn(NodeId) -> Vec<(String, String)>>,
}

impl Default for ExportOptions<'_> {
    fn default() -> Self {
        ExportOptions { opset: OPSET, info: None, node_metadata: None }
    }
}

/// The least operator set of ai.onnx that has all operators of a graph.
pub fn opset_of(graph: &Graph) -> u32 {
    let node = |node: &hetra_ir::Node| {
        let since = schemas().get(&("", node.op.as_str())).map_or(1, |schema| schema.since);
        node.attrs.graphs().map(|(_, body)| opset_of(body)).fold(since, u32::max)
    };
    graph.nodes.iter().map(node).max().unwrap_or(1)
}

/// Writes a graph as an ONNX file.
///
/// # Errors
/// What of the graph has no ONNX form.
pub fn export(graph: &Graph, options: &ExportOptions<'_>) -> Result<Vec<u8>, ExportError> {
    let mut writer = Writer { options, taken: Taken::default(), domains: BTreeMap::new() };
    writer.domains.insert("", options.opset);
    let untyped = graph.inputs.iter().find(|id| *graph.ty(**id) == Type::Unknown);
    if let Some(id) = untyped {
        return Err(ExportError::Untyped { input: graph.value(*id).name.clone() });
    }
    let graph = writer.graph(graph, None)?;
    let none = ModelInfo::default();
    let info = options.info.unwrap_or(&none);
    let opset_import = writer.domains.iter().map(|(domain, version)| OperatorSetIdProto {
        domain: domain.to_string(),
        version: Some(i64::from(*version)),
    });
    let model = ModelProto {
        ir_version: Some(ir_version(options.opset)),
        opset_import: opset_import.collect(),
        producer_name: "hetra".to_string(),
        producer_version: env!("CARGO_PKG_VERSION").to_string(),
        domain: info.domain.clone(),
        model_version: info.model_version,
        doc_string: info.doc.clone(),
        graph: Some(graph),
        metadata_props: entries(info.metadata.clone()),
        functions: Vec::new(),
    };
    let bytes = model.encoded_len();
    if i32::try_from(bytes).is_err() {
        return Err(ExportError::TooLarge { bytes });
    }
    Ok(model.encode_to_vec())
}

/// The version of the file format that came with an operator set: readers that know only the set
/// refuse a later one.
fn ir_version(opset: u32) -> i64 {
    match opset {
        0..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        _ => IR_VERSION,
    }
}

fn entries(pairs: Vec<(String, String)>) -> Vec<StringStringEntryProto> {
    pairs.into_iter().map(|(key, value)| StringStringEntryProto { key, value }).collect()
}

/// The names of the values of one graph in the file.
type Names = HashMap<ValueId, String>;

/// The name of an argument; empty if it is left out.
fn name_of(names: &Names, id: Option<ValueId>) -> String {
    id.and_then(|id| names.get(&id)).cloned().unwrap_or_default()
}

struct Writer<'a> {
    options: &'a ExportOptions<'a>,
    /// Names in use: ONNX wants them unique across a graph and its bodies.
    taken: Taken,
    /// Domains in use, with their versions.
    domains: BTreeMap<&'static str, u32>,
}

impl Writer<'_> {
    /// The message of a graph; `outer` are the names around it when it is a body.
    fn graph(&mut self, graph: &Graph, outer: Option<&Names>) -> Result<GraphProto, ExportError> {
        let mut names = self.names(graph, outer);
        let mut proto = GraphProto {
            name: if graph.name.is_empty() { "graph".to_string() } else { graph.name.clone() },
            ..GraphProto::default()
        };
        proto.input = graph.inputs.iter().map(|id| value_info(graph, *id, &names)).collect();
        for (id, value) in &graph.constants {
            self.constant(&mut proto, &names[id], value, graph.ty(*id))?;
        }
        for (id, node) in graph.nodes() {
            let metadata = self.options.node_metadata.filter(|_| outer.is_none());
            let form = ChannelsLast::named(&node.op);
            let first = form.map(|form| form.channels_first(node));
            if node.op == "hetra.CodeTable" {
                self.table(node, &names, &mut proto);
                continue;
            }
            if node.op == "hetra.GatherConcat" {
                self.gather_concat(node, &names, &mut proto);
                continue;
            }
            let mut message = self.node(graph, first.as_ref().unwrap_or(node), &names)?;
            message.metadata_props = metadata.map_or(Vec::new(), |metadata| entries(metadata(id)));
            match form {
                Some(form) => self.between_transposes(form, graph, node, message, &mut proto)?,
                None => proto.node.push(message),
            }
        }
        self.outputs(graph, &mut names, &mut proto);
        let outputs: HashSet<ValueId> = graph.outputs.iter().copied().collect();
        let told = graph.nodes.iter().flat_map(Node::defs);
        let told = told.filter(|id| !outputs.contains(id) && *graph.ty(*id) != Type::Unknown);
        // Images that a device stores as bf16 are f32 in the model: they are not told.
        let stores = graph.nodes.iter().any(|node| stored(&node.attrs).is_ok_and(|s| s.is_some()));
        let told = told.filter(|id| !stores || graph.ty(*id).dtype() != Some(DType::BF16));
        proto.value_info = told.map(|id| value_info(graph, id, &names)).collect();
        Ok(proto)
    }

    /// Names inputs and outputs first, so that these keep theirs.
    fn names(&mut self, graph: &Graph, outer: Option<&Names>) -> Names {
        let mut names = Names::new();
        for capture in &graph.captures {
            let name = outer.and_then(|outer| outer.get(&capture.outer));
            names.insert(capture.inner, name.cloned().unwrap_or_default());
        }
        let defined = graph.nodes.iter().flat_map(Node::defs);
        let all = graph.inputs.iter().chain(&graph.outputs).chain(graph.constants.keys());
        for id in all.copied().chain(defined) {
            names.entry(id).or_insert_with(|| self.taken.unique(&graph.value(id).name));
        }
        names
    }

    /// Lists the outputs. What a body hands through from outside, and what a graph gives out
    /// twice, takes a copy: ONNX has outputs by names that the graph defines once.
    fn outputs(&mut self, graph: &Graph, names: &mut Names, proto: &mut GraphProto) {
        let captured: HashSet<ValueId> = graph.captures.iter().map(|c| c.inner).collect();
        let mut listed = HashSet::new();
        for &id in &graph.outputs {
            let mut info = value_info(graph, id, names);
            if captured.contains(&id) || !listed.insert(id) {
                let name = self.taken.unique(&info.name);
                proto.node.push(NodeProto {
                    input: vec![std::mem::replace(&mut info.name, name.clone())],
                    output: vec![name],
                    op_type: "Identity".to_string(),
                    ..NodeProto::default()
                });
            }
            proto.output.push(info);
        }
    }

    /// Writes a constant as an initialiser; sequences and optionals as nodes that make them.
    fn constant(
        &mut self,
        proto: &mut GraphProto,
        name: &str,
        value: &Value,
        ty: &Type,
    ) -> Result<(), ExportError> {
        let fault = |reason| ExportError::Constant { name: name.to_string(), reason };
        let mut node = NodeProto { output: vec![name.to_string()], ..NodeProto::default() };
        match value {
            Value::Tensor(tensor) => {
                proto.initializer.push(tensors::to_proto(name, tensor));
                return Ok(());
            }
            Value::Sequence(items) if items.is_empty() => {
                node.op_type = "SequenceEmpty".to_string();
                let Type::Sequence(item) = ty else { return Err(fault("its type is unknown")) };
                let code = item.dtype().ok_or_else(|| fault("its items have no known dtype"))?;
                node.attribute.push(int_attribute("dtype", i64::from(code.onnx())));
            }
            Value::Sequence(items) => {
                node.op_type = "SequenceConstruct".to_string();
                for item in items {
                    let item_name = self.taken.unique(&format!("{name}/item"));
                    self.constant(proto, &item_name, item, &Type::of(item))?;
                    node.input.push(item_name);
                }
            }
            Value::Optional(inner) => {
                node.op_type = "Optional".to_string();
                if let Some(inner) = inner {
                    let inner_name = self.taken.unique(&format!("{name}/inner"));
                    self.constant(proto, &inner_name, inner, &Type::of(inner))?;
                    node.input.push(inner_name);
                } else {
                    let Type::Optional(item) = ty else { return Err(fault("its type is unknown")) };
                    node.attribute.push(AttributeProto {
                        name: "type".to_string(),
                        r#type: attr_type::TYPE_PROTO,
                        tp: Some(
                            types::to_proto(item).ok_or_else(|| fault("its type is unknown"))?,
                        ),
                        ..AttributeProto::default()
                    });
                }
            }
        }
        proto.node.push(node);
        Ok(())
    }

    /// Notes the domains of operators that are written in the place of others.
    fn uses(&mut self, ops: &[&str]) {
        for row in ops.iter().filter_map(|op| find(op)?.onnx.first()) {
            self.domains.entry(row.domain).or_insert_with(|| newest(row));
        }
    }

    /// Writes a look-up in a table of 256 entries as a Gather: for signed codes, an index below
    /// zero counts from the end, which is where a table by unsigned numbers has them.
    fn table(&mut self, node: &Node, names: &Names, proto: &mut GraphProto) {
        let name = |id| name_of(names, id);
        let x = name(node.input(0));
        let index = self.taken.unique(&format!("{x}/index"));
        self.uses(&["Cast", "Gather"]);
        proto.node.push(NodeProto {
            input: vec![x],
            output: vec![index.clone()],
            op_type: "Cast".to_string(),
            attribute: vec![int_attribute("to", i64::from(DType::I32.onnx()))],
            ..NodeProto::default()
        });
        proto.node.push(NodeProto {
            input: vec![name(node.input(1)), index],
            output: vec![name(node.output(0))],
            name: node.name.clone(),
            op_type: "Gather".to_string(),
            ..NodeProto::default()
        });
    }

    /// Writes slices of several tensors as a Gather of what a Concat joins.
    fn gather_concat(&mut self, node: &Node, names: &Names, proto: &mut GraphProto) {
        let name = |id| name_of(names, id);
        let y = name(node.output(0));
        let [joined, indices] = ["joined", "indices"].map(|part| format!("{y}/{part}"));
        let [joined, indices] = [joined, indices].map(|name| self.taken.unique(&name));
        self.uses(&["Concat", "Constant", "Gather"]);
        let axis = int_attribute("axis", node.attrs.int_or("axis", 0).unwrap_or(0));
        let places = AttributeProto {
            name: "value_ints".to_string(),
            r#type: attr_type::INTS,
            ints: node.attrs.ints("indices").cloned().unwrap_or_default(),
            ..AttributeProto::default()
        };
        let message = |op: &str, input: Vec<String>, output: String, attribute| NodeProto {
            input,
            output: vec![output],
            op_type: op.to_string(),
            attribute: vec![attribute],
            ..NodeProto::default()
        };
        let parts = node.inputs.iter().map(|&id| name(id)).collect();
        proto.node.push(message("Concat", parts, joined.clone(), axis.clone()));
        proto.node.push(message("Constant", vec![], indices.clone(), places));
        let gather = message("Gather", vec![joined, indices], y, axis);
        proto.node.push(NodeProto { name: node.name.clone(), ..gather });
    }

    /// Writes an operator on images with channels last as the one that it stands for, which wants
    /// them first.
    fn between_transposes(
        &mut self,
        form: &ChannelsLast,
        graph: &Graph,
        node: &Node,
        mut message: NodeProto,
        proto: &mut GraphProto,
    ) -> Result<(), ExportError> {
        let rank = node.input(0).and_then(|x| graph.ty(x).dims()).map(<[_]>::len);
        let fault = || ExportError::Op { node: node.label(graph), op: node.op.clone() };
        let rank = rank.ok_or_else(fault)?;
        let transpose = |from: String, to: String, perm: Vec<usize>| NodeProto {
            input: vec![from],
            output: vec![to],
            op_type: "Transpose".to_string(),
            attribute: vec![AttributeProto {
                name: "perm".to_string(),
                r#type: attr_type::INTS,
                ints: perm.into_iter().filter_map(|axis| i64::try_from(axis).ok()).collect(),
                ..AttributeProto::default()
            }],
            ..NodeProto::default()
        };
        for index in form.images(node) {
            let Some(name) = message.input.get_mut(index).filter(|name| !name.is_empty()) else {
                continue;
            };
            let first = self.taken.unique(&format!("{name}/first"));
            let last = std::mem::replace(name, first.clone());
            proto.node.push(transpose(last, first, channels_first_perm(rank)));
        }
        let mut after = Vec::new();
        for name in &mut message.output {
            let first = self.taken.unique(&format!("{name}/first"));
            let last = std::mem::replace(name, first.clone());
            after.push(transpose(first, last, channels_last_perm(rank)));
        }
        proto.node.push(message);
        proto.node.extend(after);
        Ok(())
    }

    fn node(
        &mut self,
        graph: &Graph,
        node: &Node,
        names: &Names,
    ) -> Result<NodeProto, ExportError> {
        let fault = || ExportError::Op { node: node.label(graph), op: node.op.clone() };
        let mut changed = CHANGED.iter().filter(|(op, first, output)| {
            *op == node.op && node.version < *first && node.outputs.len() > *output
        });
        if changed.next().is_some() {
            let (node, op, version) = (node.label(graph), node.op.clone(), node.version);
            return Err(ExportError::OldMeaning { node, op, version });
        }
        let row = find(&node.op).and_then(|def| def.onnx.first()).ok_or_else(fault)?;
        self.domains.entry(row.domain).or_insert_with(|| newest(row));
        let name = |id: &Option<ValueId>| name_of(names, *id);
        let mut input: Vec<String> = node.inputs.iter().map(name).collect();
        while input.last().is_some_and(String::is_empty) {
            input.pop();
        }
        let mut attribute = Vec::with_capacity(node.attrs.0.len());
        // How exactly a device computes is no part of what the model means.
        for (name, attr) in node.attrs.0.iter().filter(|(name, _)| *name != Compute::ATTR) {
            attribute.push(self.attribute(name, attr, names)?);
        }
        Ok(NodeProto {
            input,
            output: node.outputs.iter().map(name).collect(),
            name: node.name.clone(),
            op_type: row.name.to_string(),
            domain: row.domain.to_string(),
            attribute,
            ..NodeProto::default()
        })
    }

    fn attribute(
        &mut self,
        name: &str,
        attr: &Attr,
        names: &Names,
    ) -> Result<AttributeProto, ExportError> {
        let mut proto = AttributeProto { name: name.to_string(), ..AttributeProto::default() };
        let text = |text: &String| Bytes::copy_from_slice(text.as_bytes());
        let tensor = |tensor: &Tensor| tensors::to_proto("", tensor);
        proto.r#type = match attr {
            Attr::Int(value) => {
                proto.i = Some(*value);
                attr_type::INT
            }
            Attr::Float(value) => {
                proto.f = Some(*value);
                attr_type::FLOAT
            }
            Attr::Str(value) => {
                proto.s = Some(text(value));
                attr_type::STRING
            }
            Attr::Tensor(value) => {
                proto.t = Some(tensor(value));
                attr_type::TENSOR
            }
            Attr::Graph(body) => {
                proto.g = Some(self.graph(body, Some(names))?);
                attr_type::GRAPH
            }
            Attr::Type(ty) => {
                proto.tp = types::to_proto(ty);
                attr_type::TYPE_PROTO
            }
            Attr::Ints(values) => {
                proto.ints.clone_from(values);
                attr_type::INTS
            }
            Attr::Floats(values) => {
                proto.floats.clone_from(values);
                attr_type::FLOATS
            }
            Attr::Strs(values) => {
                proto.strings = values.iter().map(text).collect();
                attr_type::STRINGS
            }
            Attr::Tensors(values) => {
                proto.tensors = values.iter().map(tensor).collect();
                attr_type::TENSORS
            }
            Attr::Graphs(bodies) => {
                let bodies = bodies.iter().map(|body| self.graph(body, Some(names)));
                proto.graphs = bodies.collect::<Result<_, _>>()?;
                attr_type::GRAPHS
            }
        };
        Ok(proto)
    }
}

fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        r#type: attr_type::INT,
        i: Some(value),
        ..AttributeProto::default()
    }
}

/// The version of a domain that holds every operator of it that we know.
fn newest(row: &OnnxName) -> u32 {
    let rows = ALL_OPS.iter().copied().flatten().flat_map(|def| def.onnx);
    let versions = rows.filter(|other| other.domain == row.domain).map(|other| other.version);
    versions.max().unwrap_or(row.version)
}

fn value_info(graph: &Graph, id: ValueId, names: &Names) -> ValueInfoProto {
    let name = names.get(&id).cloned().unwrap_or_default();
    ValueInfoProto { name, r#type: types::to_proto(graph.ty(id)) }
}
