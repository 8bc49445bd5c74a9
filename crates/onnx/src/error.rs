//! What can be wrong with an ONNX file.

use hetra_ir::nearest;
use hetra_ops::{ALL_OPS, OpError};
use hetra_tensor::TensorError;

/// Why a file is refused. Every variant names what it is about.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum ImportError {
    #[error("cannot read `{path}`: {reason}")]
    Io { path: String, reason: String },
    #[error("not an ONNX file: {0}")]
    Decode(String),
    #[error("the file holds no graph")]
    NoGraph,
    #[error("tensor `{tensor}`: {source}")]
    Tensor { tensor: String, source: TensorFault },
    #[error("`{name}` is defined twice{}", at_node(.node))]
    Duplicate { name: String, node: String },
    #[error("an input, initialiser or attribute without a name{}", at_node(.node))]
    NoName { node: String },
    #[error("node `{node}` ({op}): its input `{input}` is defined nowhere")]
    UnknownInput { node: String, op: String, input: String },
    #[error("output `{output}` of graph `{graph}` is defined nowhere")]
    UnknownOutput { graph: String, output: String },
    #[error("node `{node}` ({op}) needs its own result: the graph has a cycle")]
    Cycle { node: String, op: String },
    #[error("node `{node}`: no operator `{op}` of {}{}", title(.domain), hint(.domain, .op))]
    UnknownOp { node: String, op: String, domain: String, version: u32 },
    #[error("node `{node}` ({op}): the file imports no opset for {}", title(.domain))]
    NoOpset { node: String, op: String, domain: String },
    #[error("opset {version} of domain `{domain}` is no version")]
    OpsetVersion { domain: String, version: i64 },
    #[error("the file wants {what} {got}, and the newest that Hetra knows is {newest}")]
    TooNew { what: String, got: i64, newest: i64 },
    #[error("node `{node}` ({op}): attribute `{attribute}`: {reason}")]
    Attribute { node: String, op: String, attribute: String, reason: String },
    #[error("node `{node}` ({op}): {source}")]
    Op { node: String, op: String, source: OpError },
    #[error("node `{node}` ({op}): it has {}, wanted {wanted}", counted(*.got, .what))]
    Arity { node: String, op: String, what: &'static str, wanted: String, got: usize },
    #[error("function `{function}` calls itself")]
    FunctionCycle { function: String },
    #[error("graphs and functions are nested more than {max} deep at `{name}`")]
    TooDeep { name: String, max: usize },
    #[error("function `{0}` is defined twice")]
    DuplicateFunction(String),
    #[error("the model grows too large where function `{function}` is called")]
    TooLarge { function: String },
}

fn at_node(node: &str) -> String {
    if node.is_empty() { String::new() } else { format!(", at node `{node}`") }
}

/// A domain by the name that people know.
pub(crate) fn title(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

/// `1 input`, `2 inputs`; `what` is of many.
fn counted(count: usize, what: &str) -> String {
    let one = what.strip_suffix('s').filter(|_| count == 1);
    format!("{count} {}", one.unwrap_or(what))
}

/// What to do about an operator that there is not.
fn hint(domain: &str, op: &str) -> String {
    if domain == "com.microsoft.nchwc" {
        return ": the file was optimised for one processor; save it with ONNX Runtime's \
                optimisations at the level `extended` at most"
            .to_string();
    }
    let names = ALL_OPS.iter().copied().flatten().flat_map(|def| def.onnx);
    let names = names.filter(|name| name.domain == domain).map(|name| name.name);
    nearest(op, names).map_or(String::new(), |name| format!("; did you mean `{name}`?"))
}

/// What can be wrong with a tensor in a file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum TensorFault {
    #[error("{0} is no data type")]
    DType(i32),
    #[error("{0} is no extent of an axis")]
    Extent(i64),
    #[error("{rank} axes, over the limit of {max}")]
    Rank { rank: usize, max: usize },
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("a string is not UTF-8")]
    Text,
    #[error("external data in `{location}`: {reason}")]
    External { location: String, reason: String },
    #[error("sparse form: {0}")]
    Sparse(&'static str),
    #[error("{0} is a kind of element that Hetra does not read")]
    Element(i32),
}
