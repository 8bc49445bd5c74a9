//! The row that defines an operator.

use hetra_ir::{Attr, Node, Type};
use hetra_tensor::{Tensor, Value};

use crate::context::{EvalCtx, InferCtx};
use crate::error::OpError;
use crate::tape::GradientFn;
use crate::work::Work;

/// A name that ONNX files use for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnnxName {
    /// Empty for ai.onnx.
    pub domain: &'static str,
    /// Name within the domain.
    pub name: &'static str,
    /// The newest version of the operator in its domain that this row implements.
    pub version: u32,
}

/// A row of `OpDef::onnx`.
pub const fn onnx(domain: &'static str, name: &'static str, version: u32) -> OnnxName {
    OnnxName { domain, name, version }
}

/// How many inputs or outputs there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arity {
    /// At least this many.
    pub min: usize,
    /// At most this many.
    pub max: usize,
}

impl Arity {
    /// Exactly `count`.
    pub const fn exactly(count: usize) -> Arity {
        Arity { min: count, max: count }
    }

    /// From `min` to `max`.
    pub const fn between(min: usize, max: usize) -> Arity {
        Arity { min, max }
    }

    /// `min` or more.
    pub const fn at_least(min: usize) -> Arity {
        Arity { min, max: usize::MAX }
    }
}

/// What generic code may do with an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Each output element depends on the input elements at the same (broadcast) place only.
    Elementwise,
    /// The output is the first input under another shape or type: no work, no copy.
    View,
    /// Moves elements without computing (transpose, gather, concat, ..).
    Move,
    /// Reduces along axes.
    Reduce,
    /// Worth a kernel of its own on each device.
    Heavy,
    /// Runs subgraphs.
    Control,
    /// Anything else: the reference runs.
    Opaque,
}

/// Turns a node of an older version into the newest form.
pub type UpgradeFn = fn(&mut Upgrade<'_>) -> Result<(), OpError>;

/// One operator.
pub struct OpDef {
    /// Our name, unique: the ONNX name, with its domain and a dot unless ai.onnx.
    pub name: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// The ONNX names that this row implements, the first being the one written on export.
    pub onnx: &'static [OnnxName],
    /// Number of inputs.
    pub inputs: Arity,
    /// Number of outputs.
    pub outputs: Arity,
    /// What generic code may do with it.
    pub kind: Kind,
    /// The result depends on its arguments only (not on a random state): may be folded, merged.
    pub pure: bool,
    /// Turns a node of an older version into the newest form, at import. `node.version` is the
    /// opset version of the file.
    pub upgrade: Option<UpgradeFn>,
    /// Types of the outputs, from types and known values of the inputs. Unknown extents are fine;
    /// a wrong one is not: the planner relies on it.
    pub infer: fn(&InferCtx<'_>) -> Result<Vec<Type>, OpError>,
    /// The value of the output where the types of the inputs alone tell it (Shape, Size).
    pub from_types: Option<fn(&InferCtx<'_>) -> Option<Tensor>>,
    /// Arithmetic operations, from the types of inputs and outputs.
    pub work: fn(&InferCtx<'_>, &[Type]) -> Work,
    /// The plain reference.
    pub eval: fn(&EvalCtx<'_>) -> Result<Vec<Value>, OpError>,
    /// How to differentiate it, where Hetra can.
    pub gradient: Option<GradientFn>,
}

/// Most rows are made by changing a few fields of this one:
/// `OpDef { name: "Abs", .., ..OpDef::DEFAULT }`.
impl OpDef {
    /// An opaque pure operator of one input and one output.
    pub const DEFAULT: OpDef = OpDef {
        name: "",
        doc: "",
        onnx: &[],
        inputs: Arity::exactly(1),
        outputs: Arity::exactly(1),
        kind: Kind::Opaque,
        pure: true,
        upgrade: None,
        infer: crate::context::infer_unknown,
        from_types: None,
        work: crate::work::per_output_element,
        eval: |_| Err(OpError::unsupported("no reference")),
        gradient: None,
    };
}

/// Edits a node while it is imported.
pub struct Upgrade<'a> {
    /// The node; `version` is the opset version of the file.
    pub node: &'a mut Node,
    /// Adds a constant to the graph and returns its id.
    pub constant: &'a mut dyn FnMut(Tensor) -> hetra_ir::ValueId,
}

impl Upgrade<'_> {
    /// Moves an attribute that became an input: when `attr` is there, input `index` is set to a
    /// constant made from it (integers as i64 vector, one integer as i64 scalar, floats alike).
    ///
    /// # Errors
    /// When the attribute has no tensor form.
    pub fn attr_to_input(&mut self, attr: &str, index: usize) -> Result<(), OpError> {
        let Some(value) = self.node.attrs.take(attr) else { return Ok(()) };
        let tensor = match value {
            Attr::Ints(values) => Tensor::vector(&values),
            Attr::Int(value) => Tensor::scalar(value),
            Attr::Floats(values) => Tensor::vector(&values),
            Attr::Float(value) => Tensor::scalar(value),
            Attr::Tensor(tensor) => tensor,
            _ => return Err(OpError::invalid(format!("attribute `{attr}` is of a wrong kind"))),
        };
        let id = (self.constant)(tensor);
        if self.node.inputs.len() <= index {
            self.node.inputs.resize(index + 1, None);
        }
        self.node.inputs[index] = Some(id);
        Ok(())
    }
}
