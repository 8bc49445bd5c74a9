//! Calls of model-local functions, which are inlined.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use hetra_ir::{Node, ValueId};

use crate::error::ImportError;
use crate::import::opsets;
use crate::proto::{FunctionProto, NodeProto};
use crate::reader::{Reader, label};
use crate::scope::{Binding, Context, Scope};

impl<'a> Reader<'a> {
    /// Inlines `function` where `node` calls it.
    pub(crate) fn call(
        &mut self,
        node: &'a NodeProto,
        key: (&'a str, &'a str, &'a str),
        function: &'a FunctionProto,
        inputs: &[Option<ValueId>],
    ) -> Result<(), ImportError> {
        if self.calls.contains(&key) {
            return Err(ImportError::FunctionCycle { function: function.name.clone() });
        }
        self.check_depth(&function.name)?;
        check_counts(node, function)?;
        let arguments = function.input.len() + function.attribute_proto.len();
        self.charge(arguments + function.opset_import.len() + self.stack.context().opsets.len())?;
        let context = self.context_of(node, function)?;
        let before = self.stack.frame().graph.values.len();
        let given = inputs.iter().copied().chain(std::iter::repeat(None));
        self.stack.scopes.push(Scope {
            frame: self.stack.frames.len() - 1,
            parent: None,
            names: function.input.iter().map(String::as_str).zip(given).collect(),
            types: HashMap::new(),
            context: Rc::new(context),
        });
        self.calls.push(key);
        self.nodes(&function.node)?;
        let mut results = Vec::with_capacity(node.output.len());
        for (name, wanted) in function.output.iter().zip(&node.output) {
            if wanted.is_empty() {
                continue;
            }
            let unknown = || ImportError::UnknownOutput {
                graph: function.name.clone(),
                output: name.clone(),
            };
            let id = self.stack.lookup(name).flatten().ok_or_else(unknown)?;
            results.push((wanted.as_str(), id));
        }
        self.calls.pop();
        self.stack.scopes.pop();
        self.give_back(node, results, before)
    }

    /// Binds the results of a call to the caller's names. `before`: how many values there were.
    fn give_back(
        &mut self,
        node: &NodeProto,
        results: Vec<(&'a str, ValueId)>,
        before: usize,
    ) -> Result<(), ImportError> {
        let mut bound = HashSet::new();
        for (name, id) in results {
            let duplicate = || ImportError::Duplicate { name: name.to_string(), node: label(node) };
            if id.index() < before || !bound.insert(id) {
                // The value has a name already (an argument handed through): copy it.
                let copy = self.stack.define(name).ok_or_else(duplicate)?;
                self.stack.frame().graph.nodes.push(Node::new("Identity", &[id], &[copy]));
                continue;
            }
            let ty = self.stack.told_type(name);
            let full = format!("{}{name}", self.stack.context().prefix);
            if self.stack.scope().names.insert(name, Some(id)).is_some() {
                return Err(duplicate());
            }
            let frame = self.stack.frame();
            frame.rename(id, &full);
            let value = &mut frame.graph.values[id.index()];
            if value.ty == hetra_ir::Type::Unknown {
                value.ty = ty;
            }
        }
        Ok(())
    }

    /// What the nodes of the called function share: its opsets and the attributes of the call.
    fn context_of(
        &self,
        node: &'a NodeProto,
        function: &'a FunctionProto,
    ) -> Result<Context<'a>, ImportError> {
        let caller = self.stack.context();
        let mut versions = caller.opsets.clone();
        versions.extend(opsets(&function.opset_import, self.options)?);
        let mut bindings = HashMap::new();
        // A default is written in the function; the scope of its bodies is the call's own, which
        // is the next one to be opened.
        let scope = self.stack.scopes.len();
        let defaults = function.attribute_proto.iter();
        bindings.extend(defaults.map(|proto| (proto.name.as_str(), Binding { proto, scope })));
        for proto in &node.attribute {
            if let Some(binding) = self.binding(node, proto)? {
                bindings.insert(proto.name.as_str(), binding);
            }
        }
        let prefix = format!("{}{}/", caller.prefix, call_name(node));
        Ok(Context { opsets: versions, bindings: Some(bindings), prefix })
    }
}

/// What the inner names of a call start with.
fn call_name(node: &NodeProto) -> &str {
    let output = node.output.iter().find(|output| !output.is_empty());
    match node.name.as_str() {
        "" => output.map_or(node.op_type.as_str(), String::as_str),
        name => name,
    }
}

fn check_counts(node: &NodeProto, function: &FunctionProto) -> Result<(), ImportError> {
    let sides = [
        ("inputs", node.input.len(), function.input.len()),
        ("outputs", node.output.len(), function.output.len()),
    ];
    for (what, got, max) in sides {
        if got > max {
            let wanted = format!("at most {max}");
            let (node, op) = (label(node), node.op_type.clone());
            return Err(ImportError::Arity { node, op, what, wanted, got });
        }
    }
    Ok(())
}
