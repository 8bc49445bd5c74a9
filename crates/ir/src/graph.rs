//! Graph, node, value: vectors and typed ids.

use std::collections::BTreeMap;

use hetra_tensor::Value;

use crate::attr::{Attr, Attrs};
use crate::types::Type;

/// Names a value of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Names a node of one graph: its index in `Graph::nodes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl ValueId {
    /// The index in `Graph::values`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    /// The index in `Graph::nodes`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Name and type of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueInfo {
    /// Unique in its graph; what users know the value by.
    pub name: String,
    /// What is known of its type.
    pub ty: Type,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What users know the node by; may be empty.
    pub name: String,
    /// The operator: `Conv` for ai.onnx, `com.microsoft.FusedConv` for another domain.
    pub op: String,
    /// The opset version of the operator's domain that the node was written for; after import
    /// the form of the arguments is that of the newest version (see `OpDef::upgrade`), and the
    /// number only selects between meanings that no form can express.
    pub version: u32,
    /// Constant arguments.
    pub attrs: Attrs,
    /// Inputs; `None` where an optional one is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs; `None` where an optional one is not wanted.
    pub outputs: Vec<Option<ValueId>>,
}

/// A value that a subgraph takes from the graph around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capture {
    /// Its id in the graph around.
    pub outer: ValueId,
    /// Its id inside.
    pub inner: ValueId,
}

/// A model, or the body of a control-flow node.
///
/// Invariants (checked by `verify`): each value is defined once, by an input, a capture, a
/// constant or one node output; nodes stand after the nodes that feed them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// What users know the graph by.
    pub name: String,
    /// All values, by `ValueId`.
    pub values: Vec<ValueInfo>,
    /// All nodes, by `NodeId`, in execution order.
    pub nodes: Vec<Node>,
    /// Formal inputs, in order.
    pub inputs: Vec<ValueId>,
    /// Outputs, in order.
    pub outputs: Vec<ValueId>,
    /// What a body takes from outside; empty at the top.
    pub captures: Vec<Capture>,
    /// Values that are known: weights and constants. An input that stands here has a default.
    pub constants: BTreeMap<ValueId, Value>,
}

impl Node {
    /// A node without name or attributes, of the newest version.
    pub fn new(op: &str, inputs: &[ValueId], outputs: &[ValueId]) -> Node {
        Node {
            name: String::new(),
            op: op.to_string(),
            version: u32::MAX,
            attrs: Attrs::default(),
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: outputs.iter().copied().map(Some).collect(),
        }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: &str, attr: impl Into<Attr>) -> Node {
        self.attrs.set(name, attr);
        self
    }

    /// The input at `index`, if it is given.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// The output at `index`, if it is wanted.
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }

    /// Every value of its graph that the node reads: inputs and what its bodies capture.
    pub fn uses(&self) -> impl Iterator<Item = ValueId> + '_ {
        let captured = self.attrs.graphs().flat_map(|(_, graph)| &graph.captures);
        self.inputs.iter().flatten().copied().chain(captured.map(|capture| capture.outer))
    }

    /// Every value that the node defines.
    pub fn defs(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.outputs.iter().flatten().copied()
    }

    /// Renames what the node reads (inputs and captures).
    pub fn map_uses(&mut self, map: impl Fn(ValueId) -> ValueId) {
        for input in self.inputs.iter_mut().flatten() {
            *input = map(*input);
        }
        for attr in self.attrs.0.values_mut() {
            let graphs = match attr {
                Attr::Graph(graph) => std::slice::from_mut(graph),
                Attr::Graphs(graphs) => graphs.as_mut_slice(),
                _ => continue,
            };
            for graph in graphs {
                if graph.captures.iter().any(|capture| map(capture.outer) != capture.outer) {
                    for capture in &mut std::sync::Arc::make_mut(graph).captures {
                        capture.outer = map(capture.outer);
                    }
                }
            }
        }
    }

    /// The name, or the operator and the first output when it has none.
    pub fn label(&self, graph: &Graph) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        match self.defs().next() {
            Some(value) => format!("{} -> {}", self.op, graph.value(value).name),
            None => self.op.clone(),
        }
    }
}

impl Graph {
    /// Name and type of a value.
    pub fn value(&self, id: ValueId) -> &ValueInfo {
        &self.values[id.index()]
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &Type {
        &self.values[id.index()].ty
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// All nodes with their ids, in execution order.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(index, node)| (NodeId(index as u32), node))
    }

    /// Adds a value; a name that is taken or empty gets a number.
    pub fn add_value(&mut self, name: &str, ty: Type) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        let name = if name.is_empty() { format!("v{}", id.0) } else { name.to_string() };
        self.values.push(ValueInfo { name, ty });
        id
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: &str, value: impl Into<Value>) -> ValueId {
        let value = value.into();
        let id = self.add_value(name, Type::of(&value));
        self.constants.insert(id, value);
        id
    }

    /// Makes constants of the inputs that have a default, but for those whose name `keep` wants:
    /// nobody can give them any more, and they fold.
    pub fn fix_defaults(&mut self, keep: impl Fn(&str) -> bool) {
        let Graph { inputs, constants, values, .. } = self;
        inputs.retain(|id| match constants.get(id) {
            Some(value) if !keep(&values[id.index()].name) => {
                values[id.index()].ty = Type::of(value);
                false
            }
            _ => true,
        });
    }

    /// The constant tensor behind a value, if it is one.
    pub fn constant(&self, id: ValueId) -> Option<&hetra_tensor::Tensor> {
        self.constants.get(&id).and_then(Value::as_tensor)
    }

    /// The node that defines each value, by `ValueId`.
    pub fn producers(&self) -> Vec<Option<NodeId>> {
        let mut producers = vec![None; self.values.len()];
        for (id, node) in self.nodes() {
            for value in node.defs() {
                producers[value.index()] = Some(id);
            }
        }
        producers
    }

    /// How often each value is read, by `ValueId`; a graph output counts as one read.
    pub fn use_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.values.len()];
        let reads = self.nodes.iter().flat_map(Node::uses).chain(self.outputs.iter().copied());
        reads.for_each(|value| counts[value.index()] += 1);
        counts
    }

    /// The value of this name.
    pub fn find_value(&self, name: &str) -> Option<ValueId> {
        let index = self.values.iter().position(|value| value.name == name)?;
        Some(ValueId(index as u32))
    }
}
