//! The Gradient operator of the training domain, which names values of the graph around it: it is
//! written out in other operators where it stands.

use hetra_ir::{Attrs, Node, ValueId};
use hetra_ops::{Gradient, OpError, gradient};

use crate::error::ImportError;
use crate::proto::NodeProto;
use crate::reader::{Reader, label};

/// The domain and the name.
pub(crate) const GRADIENT: (&str, &str) = ("ai.onnx.preview.training", "Gradient");

/// Nodes that the gradient of a node comes to at most for each of its arguments, about.
const GROWTH: usize = 16;

/// Whether a node is a Gradient.
pub(crate) fn is_gradient(node: &NodeProto) -> bool {
    (node.domain.as_str(), node.op_type.as_str()) == GRADIENT
}

/// The names that a Gradient reads besides its inputs; none of another node.
pub(crate) fn named(node: &NodeProto) -> impl Iterator<Item = &str> {
    let attributes = node.attribute.iter().filter(move |attribute| {
        is_gradient(node) && ["xs", "zs", "y"].contains(&attribute.name.as_str())
    });
    let texts = attributes.flat_map(|attribute| attribute.strings.iter().chain(&attribute.s));
    texts.filter_map(|text| std::str::from_utf8(text).ok())
}

impl<'a> Reader<'a> {
    /// Writes out the Gradient that `proto` is.
    pub(crate) fn gradient(
        &mut self,
        proto: &'a NodeProto,
        attrs: &Attrs,
        inputs: &[Option<ValueId>],
    ) -> Result<(), ImportError> {
        let fault = |source: OpError| {
            let (node, op) = (label(proto), proto.op_type.clone());
            ImportError::Op { node, op, source }
        };
        let list = |name: &str| attrs.strs_opt(name).map_err(|error| fault(error.into()));
        let xs = self.values(proto, list("xs")?.map_or(&[], Vec::as_slice))?;
        let zs = self.values(proto, list("zs")?.map_or(&[], Vec::as_slice))?;
        let y = attrs.str("y").map_err(|error| fault(error.into()))?;
        let y = self.values(proto, std::slice::from_ref(y))?[0];
        let missing = |index| fault(OpError::MissingInput { index });
        let at = inputs.iter().enumerate().map(|(index, id)| id.ok_or_else(|| missing(index)));
        let at = at.collect::<Result<Vec<_>, _>>()?;
        if proto.output.len() > xs.len() {
            let message = format!("{} outputs of {} variables", proto.output.len(), xs.len());
            return Err(fault(OpError::invalid(message)));
        }
        let graph = &self.stack.frame().graph;
        // A gradient of a gradient grows like a power.
        let arguments = graph.nodes.iter().map(|node| node.inputs.len() + node.outputs.len());
        let growth = arguments.sum::<usize>().saturating_mul(GROWTH);
        if !self.grow(growth) {
            return Err(fault(OpError::unsupported("the gradient of a graph of so many nodes")));
        }
        let frame = self.stack.frame();
        let before = frame.graph.values.len();
        let dxs = gradient(&mut frame.graph, &Gradient { y, xs: &xs, zs: &zs, at: &at });
        let dxs = dxs.map_err(|error| ImportError::Op {
            node: error.node,
            op: error.op,
            source: error.source,
        })?;
        self.name_all(before, &label(proto));
        for (name, dx) in proto.output.iter().zip(dxs) {
            if !name.is_empty() {
                let output = self.define(name, &label(proto))?;
                let node = Node::new("Identity", &[dx], &[output]);
                self.stack.frame().graph.nodes.push(node);
            }
        }
        Ok(())
    }

    /// Gives the values from `first` on names that begin with `base` and are free.
    fn name_all(&mut self, first: usize, base: &str) {
        let base = format!("{}{base}/gradient", self.stack.context().prefix);
        let frame = self.stack.frame();
        for index in first..frame.graph.values.len() {
            frame.rename(ValueId(u32::try_from(index).unwrap_or(u32::MAX)), &base);
        }
    }

    fn values(&mut self, node: &NodeProto, names: &[String]) -> Result<Vec<ValueId>, ImportError> {
        let unknown = |name: &str| ImportError::UnknownInput {
            node: label(node),
            op: node.op_type.clone(),
            input: name.to_string(),
        };
        let value = |name: &String| self.stack.lookup(name).flatten().ok_or_else(|| unknown(name));
        names.iter().map(value).collect()
    }
}
