//! Attributes of nodes.

use hetra_ir::{Attr, Attrs};
use prost::bytes::Bytes;

use crate::error::ImportError;
use crate::proto::{AttributeProto, NodeProto, attr_type};
use crate::reader::{Reader, label};
use crate::scope::Binding;
use crate::types;

impl<'a> Reader<'a> {
    /// The attributes of a node of the innermost scope.
    pub(crate) fn attributes(&mut self, node: &'a NodeProto) -> Result<Attrs, ImportError> {
        let mut attrs = Attrs::default();
        for proto in &node.attribute {
            if proto.name.is_empty() {
                return Err(ImportError::NoName { node: label(node) });
            }
            let Some(binding) = self.binding(node, proto)? else { continue };
            let attr = self.attribute(node, binding)?;
            if attrs.0.insert(proto.name.clone(), attr).is_some() {
                let (name, node) = (proto.name.clone(), label(node));
                return Err(ImportError::Duplicate { name, node });
            }
        }
        Ok(attrs)
    }

    /// The message that holds the value of an attribute: its own, or that of the call when it
    /// refers to an attribute of the function; `None` when the call does not give it.
    pub(crate) fn binding(
        &self,
        node: &NodeProto,
        proto: &'a AttributeProto,
    ) -> Result<Option<Binding<'a>>, ImportError> {
        if proto.ref_attr_name.is_empty() {
            return Ok(Some(Binding { proto, scope: self.stack.top() }));
        }
        match &self.stack.context().bindings {
            Some(bindings) => Ok(bindings.get(proto.ref_attr_name.as_str()).copied()),
            None => Err(fault(node, proto, "it refers to a function, but stands in none")),
        }
    }

    fn attribute(
        &mut self,
        node: &NodeProto,
        Binding { proto, scope }: Binding<'a>,
    ) -> Result<Attr, ImportError> {
        let missing = || fault(node, proto, "it has no value");
        let text = |bytes: &Bytes| {
            String::from_utf8(bytes.to_vec()).map_err(|_| fault(node, proto, "it is not UTF-8"))
        };
        Ok(match kind_of(proto) {
            // A value of 0 may be left out.
            attr_type::FLOAT => Attr::Float(proto.f.unwrap_or(0.0)),
            attr_type::INT => Attr::Int(proto.i.unwrap_or(0)),
            attr_type::STRING => Attr::Str(text(&proto.s.clone().unwrap_or_default())?),
            attr_type::TENSOR => Attr::Tensor(self.tensor(proto.t.as_ref().ok_or_else(missing)?)?),
            attr_type::GRAPH => {
                Attr::Graph(self.body(proto.g.as_ref().ok_or_else(missing)?, scope)?)
            }
            attr_type::FLOATS => Attr::Floats(proto.floats.clone()),
            attr_type::INTS => Attr::Ints(proto.ints.clone()),
            attr_type::STRINGS => {
                Attr::Strs(proto.strings.iter().map(text).collect::<Result<_, _>>()?)
            }
            attr_type::TENSORS => {
                let tensors = proto.tensors.iter().map(|tensor| self.tensor(tensor));
                Attr::Tensors(tensors.collect::<Result<_, _>>()?)
            }
            attr_type::GRAPHS => {
                let bodies = proto.graphs.iter().map(|body| self.body(body, scope));
                Attr::Graphs(bodies.collect::<Result<_, _>>()?)
            }
            attr_type::SPARSE_TENSOR => {
                let sparse = proto.sparse_tensor.as_ref().ok_or_else(missing)?;
                self.charge_dense(sparse)?;
                Attr::Tensor(self.sparse(sparse)?)
            }
            attr_type::SPARSE_TENSORS => {
                proto.sparse_tensors.iter().try_for_each(|sparse| self.charge_dense(sparse))?;
                let tensors = proto.sparse_tensors.iter().map(|sparse| self.sparse(sparse));
                Attr::Tensors(tensors.collect::<Result<_, _>>()?)
            }
            attr_type::TYPE_PROTO => {
                Attr::Type(types::from_proto(proto.tp.as_ref().ok_or_else(missing)?, false))
            }
            0 => return Err(missing()),
            _ => return Err(fault(node, proto, "its kind is not supported")),
        })
    }
}

fn fault(node: &NodeProto, proto: &AttributeProto, reason: &str) -> ImportError {
    ImportError::Attribute {
        node: label(node),
        op: node.op_type.clone(),
        attribute: proto.name.clone(),
        reason: reason.to_string(),
    }
}

/// The kind of an attribute; the oldest files do not tell it, but what is there does.
fn kind_of(proto: &AttributeProto) -> i32 {
    if proto.r#type != 0 {
        return proto.r#type;
    }
    let given = [
        (proto.f.is_some(), attr_type::FLOAT),
        (proto.i.is_some(), attr_type::INT),
        (proto.s.is_some(), attr_type::STRING),
        (proto.t.is_some(), attr_type::TENSOR),
        (proto.g.is_some(), attr_type::GRAPH),
        (!proto.floats.is_empty(), attr_type::FLOATS),
        (!proto.ints.is_empty(), attr_type::INTS),
        (!proto.strings.is_empty(), attr_type::STRINGS),
        (!proto.tensors.is_empty(), attr_type::TENSORS),
        (!proto.graphs.is_empty(), attr_type::GRAPHS),
        (proto.sparse_tensor.is_some(), attr_type::SPARSE_TENSOR),
        (!proto.sparse_tensors.is_empty(), attr_type::SPARSE_TENSORS),
        (proto.tp.is_some(), attr_type::TYPE_PROTO),
    ];
    given.iter().find(|(given, _)| *given).map_or(0, |(_, kind)| *kind)
}
