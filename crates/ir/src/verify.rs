//! Checks what every graph promises, so that nothing behind it needs to.

use std::collections::HashMap;
use std::fmt;

use crate::graph::{Graph, Node, ValueId};

/// Most levels of bodies within bodies.
pub const DEPTH_MAX: usize = 32;

/// Most faults that are reported.
const FAULTS_MAX: usize = 100;

/// Where in a graph a value is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A formal input, by index.
    Input(usize),
    /// A graph output, by index.
    Output(usize),
    /// A capture, by index.
    Capture(usize),
    /// A constant.
    Constant,
    /// Input `index` of a node.
    NodeInput {
        /// Its index in `Graph::nodes`.
        node: usize,
        /// Its name, or its operator and first output.
        label: String,
        /// Which input.
        index: usize,
    },
    /// Output `index` of a node.
    NodeOutput {
        /// Its index in `Graph::nodes`.
        node: usize,
        /// Its name, or its operator and first output.
        label: String,
        /// Which output.
        index: usize,
    },
    /// Capture `index` of a body of a node, as seen from the graph around.
    BodyCapture {
        /// Its index in `Graph::nodes`.
        node: usize,
        /// Its name, or its operator and first output.
        label: String,
        /// The attribute that holds the body.
        attr: String,
        /// Which capture.
        index: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Input(index) => write!(f, "graph input {index}"),
            Place::Output(index) => write!(f, "graph output {index}"),
            Place::Capture(index) => write!(f, "capture {index}"),
            Place::Constant => f.write_str("a constant"),
            Place::NodeInput { label, index, .. } => write!(f, "node `{label}`, input {index}"),
            Place::NodeOutput { label, index, .. } => write!(f, "node `{label}`, output {index}"),
            Place::BodyCapture { label, attr, index, .. } => {
                write!(f, "node `{label}`, capture {index} of `{attr}`")
            }
        }
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum VerifyFault {
    #[error("{place}: there is no value {id}")]
    OutOfRange { place: Place, id: u32 },
    #[error("{place}: `{name}` (value {id}) is defined before")]
    DefinedTwice { place: Place, id: u32, name: String },
    #[error("{place}: `{name}` (value {id}) is not defined above")]
    Undefined { place: Place, id: u32, name: String },
    #[error("{place}: value {id} has no name")]
    NoName { place: Place, id: u32 },
    #[error("{place}: the name `{name}` is taken by value {other}")]
    SharedName { place: Place, name: String, other: u32 },
    #[error("{place}: there is no graph around to capture from")]
    NothingAround { place: Place },
    #[error("bodies are nested more than {DEPTH_MAX} deep")]
    TooDeep,
}

/// A broken promise, and the graph that breaks it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("graph `{graph}`: {fault}")]
pub struct VerifyError {
    /// Names of the graph and, for a body, of the graphs and nodes around: `main/if1.then_branch`.
    pub graph: String,
    /// What is wrong.
    pub fault: VerifyFault,
}

/// Checks a graph and its bodies: ids are in range, each value is defined once and before it is
/// used, outputs and captures are defined, inputs and outputs have names of their own.
///
/// # Errors
/// The broken promises, up to a limit.
pub fn verify(graph: &Graph) -> Result<(), Vec<VerifyError>> {
    let mut errors = Vec::new();
    let mut check = Check::new(graph, graph.name.clone(), &mut errors);
    for index in 0..graph.captures.len() {
        check.fault(VerifyFault::NothingAround { place: Place::Capture(index) });
    }
    check.run(0);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

struct Check<'a> {
    graph: &'a Graph,
    path: String,
    defined: Vec<bool>,
    errors: &'a mut Vec<VerifyError>,
}

impl<'a> Check<'a> {
    fn new(graph: &'a Graph, path: String, errors: &'a mut Vec<VerifyError>) -> Check<'a> {
        Check { graph, path, defined: vec![false; graph.values.len()], errors }
    }

    fn fault(&mut self, fault: VerifyFault) {
        if self.errors.len() < FAULTS_MAX {
            self.errors.push(VerifyError { graph: self.path.clone(), fault });
        }
    }

    fn define(&mut self, id: ValueId, place: impl FnOnce() -> Place) {
        let before = self.defined.get_mut(id.index()).map(|slot| std::mem::replace(slot, true));
        match before {
            Some(false) => {}
            Some(true) => {
                let name = self.graph.value(id).name.clone();
                self.fault(VerifyFault::DefinedTwice { place: place(), id: id.0, name });
            }
            None => self.fault(VerifyFault::OutOfRange { place: place(), id: id.0 }),
        }
    }

    fn read(&mut self, id: ValueId, place: impl FnOnce() -> Place) {
        match self.defined.get(id.index()) {
            Some(true) => {}
            Some(false) => {
                let name = self.graph.value(id).name.clone();
                self.fault(VerifyFault::Undefined { place: place(), id: id.0, name });
            }
            None => self.fault(VerifyFault::OutOfRange { place: place(), id: id.0 }),
        }
    }

    fn run(&mut self, depth: usize) {
        let graph = self.graph;
        for (index, &id) in graph.inputs.iter().enumerate() {
            self.define(id, || Place::Input(index));
        }
        for (index, capture) in graph.captures.iter().enumerate() {
            self.define(capture.inner, || Place::Capture(index));
        }
        for &id in graph.constants.keys() {
            // An input that has a default is defined by being an input.
            if !graph.inputs.contains(&id) {
                self.define(id, || Place::Constant);
            }
        }
        for (index, node) in graph.nodes.iter().enumerate() {
            self.node(index, node, depth);
        }
        for (index, &id) in graph.outputs.iter().enumerate() {
            self.read(id, || Place::Output(index));
        }
        self.names();
    }

    fn node(&mut self, at: usize, node: &Node, depth: usize) {
        let label = || match node.name.is_empty() {
            // `Node::label` looks the output up, which may be out of range here.
            true => format!("{} (number {at})", node.op),
            false => node.name.clone(),
        };
        for (index, id) in node.inputs.iter().enumerate() {
            if let Some(id) = *id {
                self.read(id, || Place::NodeInput { node: at, label: label(), index });
            }
        }
        for (attr, body) in node.attrs.graphs() {
            for (index, capture) in body.captures.iter().enumerate() {
                let attr = || attr.to_string();
                self.read(capture.outer, || Place::BodyCapture {
                    node: at,
                    label: label(),
                    attr: attr(),
                    index,
                });
            }
            if depth + 1 >= DEPTH_MAX {
                self.fault(VerifyFault::TooDeep);
                continue;
            }
            let path = format!("{}/{}.{attr}", self.path, label());
            Check::new(body, path, self.errors).run(depth + 1);
        }
        for (index, id) in node.outputs.iter().enumerate() {
            if let Some(id) = *id {
                self.define(id, || Place::NodeOutput { node: at, label: label(), index });
            }
        }
    }

    /// Each input and output has a name that no other of them has.
    fn names(&mut self) {
        let graph = self.graph;
        let inputs = graph.inputs.iter().enumerate().map(|(index, &id)| (Place::Input(index), id));
        let outputs = graph.outputs.iter().enumerate();
        let outputs = outputs.map(|(index, &id)| (Place::Output(index), id));
        let mut taken: HashMap<&str, ValueId> = HashMap::new();
        for (place, id) in inputs.chain(outputs) {
            let Some(value) = graph.values.get(id.index()) else { continue };
            if value.name.is_empty() {
                self.fault(VerifyFault::NoName { place, id: id.0 });
                continue;
            }
            let other = *taken.entry(&value.name).or_insert(id);
            // The same value may be given out twice, and an input may be an output.
            if other != id {
                let name = value.name.clone();
                self.fault(VerifyFault::SharedName { place, name, other: other.0 });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Capture, Type};
    use expect_test::{Expect, expect};
    use hetra_tensor::DType;
    use std::sync::Arc;

    fn check(graph: &Graph, expect: Expect) {
        let errors = verify(graph).err().unwrap_or_default();
        let lines: Vec<String> = errors.iter().map(VerifyError::to_string).collect();
        expect.assert_eq(&lines.join("\n"));
    }

    fn chain() -> Graph {
        let mut b = Builder::new("main");
        let x = b.input("x", DType::F32, vec![]);
        let y = b.op("Relu", &[x]);
        let z = b.op("Abs", &[y]);
        b.output(z);
        b.finish()
    }

    #[test]
    fn order_range_and_single_definition() {
        check(&chain(), expect![""]);
        let mut graph = chain();
        graph.nodes.swap(0, 1);
        graph.nodes[1].inputs.push(Some(ValueId(77)));
        graph.nodes[1].outputs.push(Some(ValueId(0)));
        graph.outputs.push(ValueId(9));
        graph.captures.push(Capture { outer: ValueId(0), inner: ValueId(0) });
        check(
            &graph,
            expect![[r#"
                graph `main`: capture 0: there is no graph around to capture from
                graph `main`: capture 0: `x` (value 0) is defined before
                graph `main`: node `Abs (number 0)`, input 0: `v1` (value 1) is not defined above
                graph `main`: node `Relu (number 1)`, input 1: there is no value 77
                graph `main`: node `Relu (number 1)`, output 1: `x` (value 0) is defined before
                graph `main`: graph output 1: there is no value 9"#]],
        );
    }

    #[test]
    fn names_of_inputs_and_outputs() {
        let mut graph = chain();
        let extra = graph.add_value("x", Type::Unknown);
        graph.inputs.push(extra);
        graph.values[2].name.clear();
        check(
            &graph,
            expect![[r#"
                graph `main`: graph input 1: the name `x` is taken by value 0
                graph `main`: graph output 0: value 2 has no name"#]],
        );
    }

    #[test]
    fn captures_and_depth() {
        let mut body = Graph::default();
        let inner = body.add_value("x", Type::Unknown);
        body.captures.push(Capture { outer: ValueId(2), inner });
        body.outputs.push(inner);
        let mut graph = chain();
        graph.nodes[0].attrs.set("then_branch", Arc::new(body));
        check(
            &graph,
            expect![["graph `main`: node `Relu (number 0)`, capture 0 of `then_branch`: \
                 `v2` (value 2) is not defined above"]],
        );
        let mut deep = Graph::default();
        for _ in 0..=DEPTH_MAX {
            let mut around = Graph::default();
            let mut node = Node::new("If", &[], &[]);
            node.attrs.set("g", Arc::new(std::mem::take(&mut deep)));
            around.nodes.push(node);
            deep = around;
        }
        let errors = verify(&deep).unwrap_err();
        assert_eq!(errors[0].fault, VerifyFault::TooDeep);
    }
}
