//! Tests on models that are written by hand, message by message.

mod bodies;
mod broken;
mod files;
mod functions;
mod gradient;
mod graphs;

use hetra_ir::Graph;
use hetra_ops::interpret;
use hetra_tensor::{Tensor, Value};
use prost::Message;
use prost::bytes::Bytes;

use crate::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    ValueInfoProto, attr_type,
};
use crate::{ImportError, ImportOptions, import, tensors, types};

fn names(text: &str) -> Vec<String> {
    text.split_whitespace().map(|name| if name == "_" { "" } else { name }.to_string()).collect()
}

/// `Op: a b -> c d`; `_` is a name left out.
fn node(text: &str) -> NodeProto {
    let (op, rest) = text.split_once(':').unwrap();
    let (input, output) = rest.split_once("->").unwrap();
    let (domain, op_type) = op.rsplit_once('.').unwrap_or(("", op));
    NodeProto {
        input: names(input),
        output: names(output),
        op_type: op_type.to_string(),
        domain: domain.to_string(),
        ..NodeProto::default()
    }
}

impl NodeProto {
    fn with(mut self, attribute: AttributeProto) -> NodeProto {
        self.attribute.push(attribute);
        self
    }
}

fn attribute(name: &str, kind: i32) -> AttributeProto {
    AttributeProto { name: name.to_string(), r#type: kind, ..AttributeProto::default() }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, attr_type::FLOAT) }
}

fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(graph), ..attribute(name, attr_type::GRAPH) }
}

/// An attribute of a node in a function that takes its value from the call.
fn reference(name: &str, kind: i32, to: &str) -> AttributeProto {
    AttributeProto { ref_attr_name: to.to_string(), ..attribute(name, kind) }
}

fn constant(name: &str, values: &[f32]) -> crate::proto::TensorProto {
    tensors::to_proto(name, &Tensor::vector(values))
}

fn value(name: &str) -> ValueInfoProto {
    let ty = hetra_ir::Type::ranked(hetra_tensor::DType::F32, 1);
    ValueInfoProto { name: name.to_string(), r#type: types::to_proto(&ty) }
}

/// A graph from lists of names and nodes; inputs and outputs are `f32[?]`.
fn graph(input: &str, output: &str, node: Vec<NodeProto>) -> GraphProto {
    GraphProto {
        name: "g".to_string(),
        node,
        input: names(input).iter().map(|name| value(name)).collect(),
        output: names(output).iter().map(|name| value(name)).collect(),
        ..GraphProto::default()
    }
}

fn function(name: &str, input: &str, output: &str, node: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.to_string(),
        domain: "local".to_string(),
        input: names(input),
        output: names(output),
        node,
        opset_import: opset(21),
        ..FunctionProto::default()
    }
}

fn opset(version: i64) -> Vec<OperatorSetIdProto> {
    vec![
        OperatorSetIdProto { domain: String::new(), version: Some(version) },
        OperatorSetIdProto { domain: "local".to_string(), version: Some(1) },
    ]
}

fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(10),
        opset_import: opset(21),
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn read(model: &ModelProto) -> Result<Graph, ImportError> {
    let graph = import(&model.encode_to_vec(), &ImportOptions::default())?;
    assert_eq!(hetra_ir::verify(&graph), Ok(()));
    Ok(graph)
}

/// Imports and runs a model whose values are `f32` vectors.
fn run(model: &ModelProto, inputs: &[&[f32]]) -> Vec<Vec<f32>> {
    let graph = read(model).unwrap();
    let inputs = inputs.iter().map(|values| Tensor::vector(values).into()).collect();
    run_graph(&graph, inputs)
}

fn run_graph(graph: &Graph, inputs: Vec<Value>) -> Vec<Vec<f32>> {
    let outputs = interpret(graph, inputs, &|_| None).unwrap();
    let floats = |value: &Value| value.as_tensor().unwrap().as_slice::<f32>().unwrap().to_vec();
    outputs.iter().map(floats).collect()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
