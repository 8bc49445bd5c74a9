//! The reference interpreter: runs a graph node by node through `eval`.

use std::sync::Arc;

use hetra_ir::{Graph, Node, ValueId};
use hetra_tensor::Value;

use crate::context::{EvalCtx, Outer, Runner};
use crate::error::{NodeError, OpError};
use crate::table::find;

/// Runs bodies by [`interpret`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Interpreter;

impl Runner for Interpreter {
    fn run(
        &self,
        body: &Arc<Graph>,
        inputs: Vec<Value>,
        outer: Outer<'_>,
    ) -> Result<Vec<Value>, OpError> {
        Ok(interpret(body, inputs, outer)?)
    }
}

/// Runs `graph` on its formal inputs through the reference of each operator.
///
/// # Errors
/// The first node that fails, or a missing input.
pub fn interpret(
    graph: &Graph,
    inputs: Vec<Value>,
    outer: Outer<'_>,
) -> Result<Vec<Value>, NodeError> {
    let mut env: Vec<Option<Value>> = vec![None; graph.values.len()];
    for (id, value) in &graph.constants {
        env[id.index()] = Some(value.clone());
    }
    for (&id, value) in graph.inputs.iter().zip(inputs) {
        env[id.index()] = Some(value);
    }
    for capture in &graph.captures {
        env[capture.inner.index()] = outer(capture.outer);
    }
    let mut left = graph.use_counts();
    for node in &graph.nodes {
        let outputs = eval_node(graph, node, &env)?;
        for (id, value) in node.outputs.iter().zip(outputs) {
            if let Some(id) = id {
                env[id.index()] = Some(value);
            }
        }
        for id in node.uses() {
            left[id.index()] -= 1;
            if left[id.index()] == 0 {
                env[id.index()] = None;
            }
        }
    }
    let missing = |id: ValueId| NodeError {
        node: graph.value(id).name.clone(),
        op: "output".to_string(),
        source: OpError::invalid("no value"),
    };
    graph.outputs.iter().map(|&id| env[id.index()].clone().ok_or_else(|| missing(id))).collect()
}

fn eval_node(graph: &Graph, node: &Node, env: &[Option<Value>]) -> Result<Vec<Value>, NodeError> {
    let fault = |source| NodeError { node: node.label(graph), op: node.op.clone(), source };
    let def = find(&node.op).ok_or_else(|| fault(OpError::unsupported("unknown operator")))?;
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for (index, input) in node.inputs.iter().enumerate() {
        let value = input.map(|id| env[id.index()].clone());
        if value == Some(None) {
            return Err(fault(OpError::MissingInput { index }));
        }
        inputs.push(value.flatten());
    }
    let outer = |id: ValueId| env.get(id.index()).cloned().flatten();
    let ctx = EvalCtx { node, inputs: &inputs, outer: &outer, runner: &Interpreter };
    (def.eval)(&ctx).map_err(fault)
}
