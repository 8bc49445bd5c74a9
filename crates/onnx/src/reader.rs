//! Reads graphs: the model's, and inside it bodies and functions.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use hetra_ir::{Attr, Attrs, Graph, Node, Type, ValueId};
use hetra_ops::{OpDef, Upgrade, find_onnx, schemas};
use hetra_tensor::{Blob, Tensor, TensorError, bytes_max};

use crate::error::ImportError;
use crate::gradient::is_gradient;
use crate::import::{ImportOptions, VERSIONED, domain_of, op_name};
use crate::proto::{
    AttributeProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, TensorProto,
};
use crate::scope::{Context, Frame, Scope, Stack};
use crate::sort::order;
use crate::tensors::{Origin, dense_bytes, named, sparse, tensor};

/// Most levels of graphs and functions, one in another: reading recurses on them. Of graphs alone
/// there may be `hetra_ir::DEPTH_MAX`.
pub(crate) const DEPTH_MAX: usize = 64;

/// Most nodes, arguments and attribute words that inlined functions may come to: calls of calls
/// grow like a power of their number.
const INLINED_MAX: usize = 1 << 22;

/// Most warnings of one import.
const WARNINGS_MAX: usize = 16;

/// Domain, name and overload of a function.
type FunctionKey<'a> = (&'a str, &'a str, &'a str);

/// The state of one import.
pub(crate) struct Reader<'a> {
    pub(crate) options: &'a ImportOptions<'a>,
    /// The bytes of the file.
    file: Option<&'a Blob>,
    pub(crate) functions: HashMap<FunctionKey<'a>, &'a FunctionProto>,
    pub(crate) stack: Stack<'a>,
    /// The functions that are being inlined, outermost first.
    pub(crate) calls: Vec<FunctionKey<'a>>,
    /// What may yet be inlined.
    inlined_left: usize,
    /// Tensors inside functions, by the address of their message: each call shares them.
    tensors: HashMap<*const TensorProto, Tensor>,
    /// Bytes that dense forms of sparse tensors may yet take: few bytes can ask for many.
    dense_left: usize,
    ir_version: i64,
    pub(crate) warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        functions: &'a [FunctionProto],
        options: &'a ImportOptions<'a>,
        file: Option<&'a Blob>,
        ir_version: i64,
    ) -> Result<Reader<'a>, ImportError> {
        let mut by_key = HashMap::new();
        for function in functions {
            let domain = domain_of(&function.domain);
            let key = (domain, function.name.as_str(), function.overload.as_str());
            if by_key.insert(key, function).is_some() {
                return Err(ImportError::DuplicateFunction(function.name.clone()));
            }
        }
        Ok(Reader {
            options,
            file,
            functions: by_key,
            stack: Stack::default(),
            calls: Vec::new(),
            inlined_left: INLINED_MAX,
            tensors: HashMap::new(),
            dense_left: bytes_max(),
            ir_version,
            warnings: Vec::new(),
        })
    }

    /// Reads the model's graph.
    pub(crate) fn model(
        &mut self,
        proto: &'a GraphProto,
        opsets: HashMap<&'a str, u32>,
    ) -> Result<Graph, ImportError> {
        let context = Context { opsets, bindings: None, prefix: String::new() };
        self.graph(proto, None, Rc::new(context))
    }

    /// Reads a graph into a frame of its own; `parent` is the scope that it sees.
    pub(crate) fn graph(
        &mut self,
        proto: &'a GraphProto,
        parent: Option<usize>,
        context: Rc<Context<'a>>,
    ) -> Result<Graph, ImportError> {
        self.check_depth(&proto.name)?;
        if !self.calls.is_empty() {
            let values = proto.input.len() + proto.output.len() + proto.value_info.len();
            self.charge(values + proto.initializer.len() + proto.sparse_initializer.len())?;
        }
        self.stack.frames.push(Frame::new(&proto.name));
        let told = proto.value_info.iter().chain(&proto.output).chain(&proto.input);
        let told = told.filter_map(|info| Some((info.name.as_str(), info.r#type.as_ref()?)));
        self.stack.scopes.push(Scope {
            frame: self.stack.frames.len() - 1,
            parent,
            names: HashMap::new(),
            types: told.collect(),
            context,
        });
        self.inputs(proto)?;
        self.initialisers(proto)?;
        self.nodes(&proto.node)?;
        self.outputs(proto)?;
        self.stack.scopes.pop();
        Ok(self.stack.frames.pop().map(|frame| frame.graph).unwrap_or_default())
    }

    /// # Errors
    /// When one more level is one too many.
    pub(crate) fn check_depth(&self, name: &str) -> Result<(), ImportError> {
        let frames = self.stack.frames.len();
        for (depth, max) in [(frames, hetra_ir::DEPTH_MAX), (frames + self.calls.len(), DEPTH_MAX)]
        {
            if depth >= max {
                return Err(ImportError::TooDeep { name: name.to_string(), max });
            }
        }
        Ok(())
    }

    fn inputs(&mut self, proto: &'a GraphProto) -> Result<(), ImportError> {
        for input in &proto.input {
            let id = self.define(&input.name, "")?;
            self.stack.frame().graph.inputs.push(id);
        }
        Ok(())
    }

    pub(crate) fn define(&mut self, name: &'a str, node: &str) -> Result<ValueId, ImportError> {
        if name.is_empty() {
            return Err(ImportError::NoName { node: node.to_string() });
        }
        self.stack.define(name).ok_or_else(|| ImportError::Duplicate {
            name: name.to_string(),
            node: node.to_string(),
        })
    }

    fn initialisers(&mut self, proto: &'a GraphProto) -> Result<(), ImportError> {
        let inputs: HashSet<&str> = proto.input.iter().map(|input| input.name.as_str()).collect();
        for dense in &proto.initializer {
            let value = self.tensor(dense)?;
            self.initialiser(&dense.name, value, &inputs)?;
        }
        // All of them before the first takes its memory.
        proto.sparse_initializer.iter().try_for_each(|message| self.charge_dense(message))?;
        for message in &proto.sparse_initializer {
            let value = self.sparse(message)?;
            let name = message.values.as_ref().map_or("", |values| values.name.as_str());
            self.initialiser(name, value, &inputs)?;
        }
        if self.ir_version < 4 && self.stack.frames.len() == 1 {
            // Every initialiser had to be listed as an input, and was none.
            self.stack.frame().graph.fix_defaults(|_| false);
        }
        Ok(())
    }

    fn initialiser(
        &mut self,
        name: &'a str,
        value: Tensor,
        inputs: &HashSet<&str>,
    ) -> Result<(), ImportError> {
        // An initialiser with the name of an input is the input's default.
        let given = match inputs.contains(name) {
            true => self.stack.scope().names.get(name).copied().flatten(),
            false => None,
        };
        let id = match given {
            Some(id) => id,
            None => {
                let id = self.define(name, "")?;
                let ty = Type::tensor(value.dtype(), value.shape());
                self.stack.frame().graph.values[id.index()].ty = ty;
                id
            }
        };
        match self.stack.frame().graph.constants.insert(id, value.into()) {
            None => Ok(()),
            Some(_) => Err(ImportError::Duplicate { name: name.to_string(), node: String::new() }),
        }
    }

    fn origin(&self) -> Origin<'a> {
        Origin { external: self.options.external, file: self.file }
    }

    pub(crate) fn tensor(&mut self, proto: &'a TensorProto) -> Result<Tensor, ImportError> {
        let origin = self.origin();
        let read = || tensor(proto, origin).map_err(|source| named(&proto.name, source));
        if self.calls.is_empty() {
            return read();
        }
        let key = std::ptr::from_ref(proto);
        if let Some(tensor) = self.tensors.get(&key) {
            return Ok(tensor.clone());
        }
        let tensor = read()?;
        self.tensors.insert(key, tensor.clone());
        Ok(tensor)
    }

    pub(crate) fn sparse(&mut self, proto: &'a SparseTensorProto) -> Result<Tensor, ImportError> {
        let values = proto.values.as_ref();
        let key = values.map(std::ptr::from_ref);
        if let Some(tensor) = key.and_then(|key| self.tensors.get(&key)) {
            return Ok(tensor.clone());
        }
        let name = values.map_or("", |values| values.name.as_str());
        let tensor = sparse(proto, self.origin()).map_err(|source| named(name, source))?;
        if let Some(key) = key.filter(|_| !self.calls.is_empty()) {
            self.tensors.insert(key, tensor.clone());
        }
        Ok(tensor)
    }

    /// Takes the dense form of a sparse tensor from what such forms may yet take.
    pub(crate) fn charge_dense(&mut self, proto: &SparseTensorProto) -> Result<(), ImportError> {
        let name = proto.values.as_ref().map_or("", |values| values.name.as_str());
        let bytes = dense_bytes(proto).map_err(|source| named(name, source))?;
        self.dense_left = self.dense_left.checked_sub(bytes).ok_or_else(|| {
            let bytes = u128::try_from(bytes).unwrap_or(u128::MAX);
            named(name, TensorError::TooLarge { bytes }.into())
        })?;
        Ok(())
    }

    /// Reads nodes into the innermost scope.
    pub(crate) fn nodes(&mut self, nodes: &'a [NodeProto]) -> Result<(), ImportError> {
        let order = order(nodes).map_err(|index| ImportError::Cycle {
            node: label(&nodes[index]),
            op: nodes[index].op_type.clone(),
        })?;
        for index in order {
            self.node(&nodes[index])?;
        }
        Ok(())
    }

    fn outputs(&mut self, proto: &'a GraphProto) -> Result<(), ImportError> {
        for output in &proto.output {
            let unknown = || ImportError::UnknownOutput {
                graph: proto.name.clone(),
                output: output.name.clone(),
            };
            let id = self.stack.lookup(&output.name).flatten().ok_or_else(unknown)?;
            let ty = self.stack.told_type(&output.name);
            let graph = &mut self.stack.frame().graph;
            if *graph.ty(id) == Type::Unknown {
                graph.values[id.index()].ty = ty;
            }
            graph.outputs.push(id);
        }
        Ok(())
    }

    fn node(&mut self, proto: &'a NodeProto) -> Result<(), ImportError> {
        let domain = domain_of(&proto.domain);
        let mut inputs = Vec::with_capacity(proto.input.len());
        for name in &proto.input {
            inputs.push(self.input(proto, name)?);
        }
        if !self.calls.is_empty() {
            self.charge(weight(proto, &self.stack.context().prefix))?;
        }
        let key = (domain, proto.op_type.as_str(), proto.overload.as_str());
        if let Some(function) = self.functions.get(&key) {
            return self.call(proto, key, function, &inputs);
        }
        let attrs = self.attributes(proto)?;
        if domain.is_empty() && proto.op_type == "Constant" {
            return self.constant(proto, attrs);
        }
        if is_gradient(proto) {
            return self.gradient(proto, &attrs, &inputs);
        }
        let (op, known) = op_name(domain, &proto.op_type);
        let version = self.version(proto, domain)?;
        if !known && !self.options.allow_unknown_ops {
            return Err(ImportError::UnknownOp {
                node: label(proto),
                op: proto.op_type.clone(),
                domain: domain.to_string(),
                version,
            });
        }
        let name = match proto.name.is_empty() {
            true => String::new(),
            false => format!("{}{}", self.stack.context().prefix, proto.name),
        };
        let mut node = Node { name, op, version, attrs, inputs, outputs: Vec::new() };
        let def = find_onnx(domain, &proto.op_type);
        if let Some(def) = def {
            self.check_schema(proto, def, version);
            self.upgrade(proto, def, &mut node)?;
        }
        for output in &proto.output {
            let wanted = (!output.is_empty()).then(|| self.define(output, &label(proto)));
            node.outputs.push(wanted.transpose()?);
        }
        if let Some(def) = def {
            check_arity(proto, def, &node)?;
        }
        self.stack.frame().graph.nodes.push(node);
        Ok(())
    }

    /// Warns of what the definition of a node's operator does not have. Of ONNX's own domains only:
    /// other definitions change without a version, and ours go beyond some of them.
    fn check_schema(&mut self, proto: &NodeProto, def: &OpDef, version: u32) {
        let key = (domain_of(&proto.domain), proto.op_type.as_str());
        if !VERSIONED.contains(&key.0) {
            return;
        }
        let schema = schemas().get(&key);
        let row = def.onnx.iter().find(|row| (row.domain, row.name) == key);
        let since = schema.map(|schema| schema.since).or(row.map(|row| row.version));
        if let Some(since) = since.filter(|since| *since > version) {
            self.warn(proto, &format!("opset {version} has no such operator, {since} has"));
        }
        for attribute in &proto.attribute {
            if schema.is_some_and(|schema| !schema.attributes.contains(&attribute.name.as_str())) {
                self.warn(proto, &format!("it has no attribute `{}`", attribute.name));
            }
        }
    }

    fn warn(&mut self, proto: &NodeProto, what: &str) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(format!("node `{}` ({}): {what}", label(proto), proto.op_type));
            self.warnings.dedup();
        }
    }

    fn input(&mut self, node: &NodeProto, name: &str) -> Result<Option<ValueId>, ImportError> {
        if name.is_empty() {
            return Ok(None);
        }
        self.stack.lookup(name).ok_or_else(|| ImportError::UnknownInput {
            node: label(node),
            op: node.op_type.clone(),
            input: name.to_string(),
        })
    }

    /// Takes a weight from what may yet be inlined.
    pub(crate) fn charge(&mut self, weight: usize) -> Result<(), ImportError> {
        self.inlined_left = self.inlined_left.checked_sub(weight).ok_or_else(|| {
            let function = self.calls.last().map_or("", |(_, name, _)| *name);
            ImportError::TooLarge { function: function.to_string() }
        })?;
        Ok(())
    }

    /// Whether the model may grow by so many nodes; takes them from what it may yet grow by.
    pub(crate) fn grow(&mut self, nodes: usize) -> bool {
        let left = self.inlined_left.checked_sub(nodes);
        self.inlined_left = left.unwrap_or(self.inlined_left);
        left.is_some()
    }

    fn version(&self, node: &NodeProto, domain: &str) -> Result<u32, ImportError> {
        match self.stack.context().opsets.get(domain) {
            Some(version) => Ok(*version),
            // Some exporters forget the domains of their contributed operators.
            None if !domain.is_empty() => Ok(1),
            None => Err(ImportError::NoOpset {
                node: label(node),
                op: node.op_type.clone(),
                domain: domain.to_string(),
            }),
        }
    }

    /// Turns a `Constant` node into a constant of the graph.
    fn constant(&mut self, proto: &'a NodeProto, attrs: Attrs) -> Result<(), ImportError> {
        let fault = |attribute: &str, reason: &str| ImportError::Attribute {
            node: label(proto),
            op: proto.op_type.clone(),
            attribute: attribute.to_string(),
            reason: reason.to_string(),
        };
        let mut attrs = attrs.0.into_iter();
        let (Some((name, attr)), None) = (attrs.next(), attrs.next()) else {
            return Err(fault("value", "a constant has exactly one attribute"));
        };
        let texts = |shape: &[usize], texts: Vec<String>| {
            Tensor::from_strings(shape, texts).map_err(|error| fault(&name, &error.to_string()))
        };
        let value = match attr {
            Attr::Tensor(tensor) => tensor,
            Attr::Int(value) => Tensor::scalar(value),
            Attr::Float(value) => Tensor::scalar(value),
            Attr::Ints(values) => Tensor::vector(&values),
            Attr::Floats(values) => Tensor::vector(&values),
            Attr::Str(text) => texts(&[], vec![text])?,
            Attr::Strs(values) => texts(&[values.len()], values)?,
            _ => return Err(fault(&name, "it has no tensor form")),
        };
        let [output] = proto.output.as_slice() else {
            return Err(ImportError::Arity {
                node: label(proto),
                op: proto.op_type.clone(),
                what: "outputs",
                wanted: "1".to_string(),
                got: proto.output.len(),
            });
        };
        let id = self.define(output, &label(proto))?;
        let graph = &mut self.stack.frame().graph;
        graph.values[id.index()].ty = Type::tensor(value.dtype(), value.shape());
        graph.constants.insert(id, value.into());
        Ok(())
    }

    /// Brings a node into the newest form.
    fn upgrade(
        &mut self,
        proto: &NodeProto,
        def: &OpDef,
        node: &mut Node,
    ) -> Result<(), ImportError> {
        let Some(upgrade) = def.upgrade else { return Ok(()) };
        let base = match node.name.is_empty() {
            true => proto.output.first().map_or("", String::as_str),
            false => node.name.as_str(),
        };
        let base = format!("{base}/constant");
        let frame = self.stack.frame();
        let mut constant = |value: Tensor| {
            let id = frame.add(&base, Type::tensor(value.dtype(), value.shape()));
            frame.graph.constants.insert(id, value.into());
            id
        };
        upgrade(&mut Upgrade { node, constant: &mut constant }).map_err(|source| ImportError::Op {
            node: label(proto),
            op: proto.op_type.clone(),
            source,
        })
    }

    /// Reads a body that is written in `scope`.
    pub(crate) fn body(
        &mut self,
        proto: &'a GraphProto,
        scope: usize,
    ) -> Result<Arc<Graph>, ImportError> {
        let context = Rc::clone(&self.stack.scopes[scope].context);
        self.graph(proto, Some(scope), context).map(Arc::new)
    }
}

/// What a node of a function weighs each time it is inlined, in words.
fn weight(node: &NodeProto, prefix: &str) -> usize {
    let words = |attribute: &AttributeProto| {
        let text = attribute.s.iter().chain(&attribute.strings).map(|text| text.len() / 8 + 1);
        1 + attribute.ints.len() + attribute.floats.len() + text.sum::<usize>()
    };
    let names = (1 + node.output.len()) * (1 + prefix.len() / 8);
    node.input.len() + names + node.attribute.iter().map(words).sum::<usize>()
}

fn check_arity(proto: &NodeProto, def: &OpDef, node: &Node) -> Result<(), ImportError> {
    let sides =
        [("inputs", def.inputs, node.inputs.len()), ("outputs", def.outputs, node.outputs.len())];
    for (what, arity, got) in sides {
        if got < arity.min || got > arity.max {
            let wanted = match arity.max {
                usize::MAX => format!("{} or more", arity.min),
                max if max == arity.min => max.to_string(),
                max => format!("{} to {max}", arity.min),
            };
            let (node, op) = (label(proto), proto.op_type.clone());
            return Err(ImportError::Arity { node, op, what, wanted, got });
        }
    }
    Ok(())
}

/// What users know a node by, as [`Node::label`] has it: its name, or its operator and first
/// output.
pub(crate) fn label(node: &NodeProto) -> String {
    if !node.name.is_empty() {
        return node.name.clone();
    }
    let output = node.output.iter().find(|output| !output.is_empty());
    let (op, _) = op_name(domain_of(&node.domain), &node.op_type);
    output.map_or_else(|| op.clone(), |output| format!("{op} -> {output}"))
}
