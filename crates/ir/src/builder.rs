//! Builds graphs by hand: for tests, passes and examples.

use hetra_tensor::{DType, Value};

use crate::graph::{Graph, Node, ValueId};
use crate::types::{Dim, Type};

/// Builds a graph from inputs to outputs.
#[derive(Debug, Default)]
pub struct Builder {
    graph: Graph,
}

impl Builder {
    /// An empty graph.
    pub fn new(name: &str) -> Builder {
        Builder { graph: Graph { name: name.to_string(), ..Graph::default() } }
    }

    /// Adds an input.
    pub fn input(&mut self, name: &str, dtype: DType, shape: Vec<Dim>) -> ValueId {
        let id = self.graph.add_value(name, Type::shaped(dtype, shape));
        self.graph.inputs.push(id);
        id
    }

    /// Adds a constant.
    pub fn constant(&mut self, name: &str, value: impl Into<Value>) -> ValueId {
        self.graph.add_constant(name, value)
    }

    /// Adds a node with one output and returns the output.
    pub fn op(&mut self, op: &str, inputs: &[ValueId]) -> ValueId {
        self.node(Node::new(op, inputs, &[]), 1)[0]
    }

    /// Adds a node with `outputs` new outputs and returns them.
    pub fn node(&mut self, mut node: Node, outputs: usize) -> Vec<ValueId> {
        let ids: Vec<ValueId> =
            (0..outputs).map(|_| self.graph.add_value("", Type::Unknown)).collect();
        node.outputs = ids.iter().copied().map(Some).collect();
        self.graph.nodes.push(node);
        ids
    }

    /// Marks a value as an output.
    pub fn output(&mut self, value: ValueId) {
        self.graph.outputs.push(value);
    }

    /// The finished graph.
    pub fn finish(self) -> Graph {
        self.graph
    }
}
