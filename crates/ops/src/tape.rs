//! What a rule of differentiation is written with: [`Tape`], the node and its surroundings, and
//! [`Var`], a value with arithmetic, each step of which adds a node to the graph.
//!
//! Rules know neither shapes nor ranks: where they matter, the graph asks for them (`Shape`, and
//! what follows from it), and folding answers once they are known.

use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Sub};

use hetra_ir::{Attrs, Graph, Node, Type, ValueId};
use hetra_tensor::{Tensor, Value};

use crate::error::OpError;

/// What a rule gives: for each input the gradient of the node's outputs by it, times theirs;
/// `None` where there is none (an index, a shape).
pub type Gradients<'a> = Result<Vec<Option<Var<'a>>>, OpError>;

/// A rule: see [`crate::OpDef::gradient`].
pub type GradientFn = for<'a> fn(&'a Tape) -> Gradients<'a>;

/// One node of a graph, seen from behind.
pub struct Tape {
    graph: RefCell<Graph>,
    at: usize,
    /// The gradients by its outputs that are known.
    dys: Vec<Option<ValueId>>,
}

/// A value of the graph that a [`Tape`] writes.
#[derive(Clone, Copy)]
pub struct Var<'a> {
    tape: &'a Tape,
    id: ValueId,
}

impl Tape {
    pub(crate) fn new(graph: Graph) -> Tape {
        Tape { graph: RefCell::new(graph), at: 0, dys: Vec::new() }
    }

    pub(crate) fn into_graph(self) -> Graph {
        self.graph.into_inner()
    }

    /// Turns to the node at `at`, with these gradients by its outputs.
    pub(crate) fn turn_to(&mut self, at: usize, dys: Vec<Option<ValueId>>) {
        (self.at, self.dys) = (at, dys);
    }

    pub(crate) fn var(&self, id: ValueId) -> Var<'_> {
        Var { tape: self, id }
    }

    /// What users know the node by.
    pub(crate) fn label(&self) -> String {
        let graph = self.graph.borrow();
        graph.nodes[self.at].label(&graph)
    }

    /// A copy of the node.
    pub(crate) fn node(&self) -> Node {
        self.graph.borrow().nodes[self.at].clone()
    }

    /// The node's attributes.
    pub(crate) fn attrs(&self) -> Attrs {
        self.graph.borrow().nodes[self.at].attrs.clone()
    }

    /// The input at `index`.
    pub(crate) fn x(&self, index: usize) -> Result<Var<'_>, OpError> {
        self.x_opt(index).ok_or(OpError::MissingInput { index })
    }

    pub(crate) fn x_opt(&self, index: usize) -> Option<Var<'_>> {
        Some(self.var(self.graph.borrow().nodes[self.at].input(index)?))
    }

    /// All inputs.
    pub(crate) fn xs(&self) -> Vec<Option<Var<'_>>> {
        let inputs = self.graph.borrow().nodes[self.at].inputs.clone();
        inputs.into_iter().map(|id| Some(self.var(id?))).collect()
    }

    /// How many outputs the node has.
    pub(crate) fn outputs(&self) -> usize {
        self.graph.borrow().nodes[self.at].outputs.len()
    }

    /// The output at `index`, which the node gives from now on if it did not.
    pub(crate) fn y(&self, index: usize) -> Var<'_> {
        let mut graph = self.graph.borrow_mut();
        let id = graph.nodes[self.at].output(index).unwrap_or_else(|| {
            let id = graph.add_value("", Type::Unknown);
            let outputs = &mut graph.nodes[self.at].outputs;
            outputs.resize(outputs.len().max(index + 1), None);
            outputs[index] = Some(id);
            id
        });
        self.var(id)
    }

    /// The gradient by the output at `index`; zeros where nothing depends on it.
    pub(crate) fn dy(&self, index: usize) -> Var<'_> {
        match self.dys.get(index).copied().flatten() {
            Some(id) => self.var(id),
            None => self.y(index).fill(0.0),
        }
    }

    /// Whether anything depends on the output at `index`.
    pub(crate) fn has_dy(&self, index: usize) -> bool {
        self.dys.get(index).copied().flatten().is_some()
    }

    /// Adds a node: its operator and attributes are those of `node`.
    pub(crate) fn call(
        &self,
        node: Node,
        inputs: &[Option<Var<'_>>],
        outputs: usize,
    ) -> Vec<Var<'_>> {
        let mut graph = self.graph.borrow_mut();
        let ids: Vec<_> = (0..outputs).map(|_| graph.add_value("", Type::Unknown)).collect();
        graph.nodes.push(Node {
            name: String::new(),
            inputs: inputs.iter().map(|var| var.map(|var| var.id)).collect(),
            outputs: ids.iter().copied().map(Some).collect(),
            ..node
        });
        ids.into_iter().map(|id| self.var(id)).collect()
    }

    /// Adds a node with one output, whose inputs are all given.
    pub(crate) fn op(&self, node: Node, inputs: &[Var<'_>]) -> Var<'_> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.call(node, &inputs, 1)[0]
    }

    pub(crate) fn constant(&self, value: impl Into<Value>) -> Var<'_> {
        let id = self.graph.borrow_mut().add_constant("", value);
        self.var(id)
    }

    pub(crate) fn ints(&self, ints: &[i64]) -> Var<'_> {
        self.constant(Tensor::vector(ints))
    }

    pub(crate) fn concat(&self, parts: &[Var<'_>]) -> Var<'_> {
        self.op(op("Concat").with("axis", 0i64), parts)
    }

    /// The rule of a function of one number, from its derivative as a function of x and y.
    pub(crate) fn unary<'a>(
        &'a self,
        derivative: impl FnOnce(Var<'a>, Var<'a>) -> Var<'a>,
    ) -> Gradients<'a> {
        Ok(vec![Some(self.dy(0) * derivative(self.x(0)?, self.y(0)))])
    }

    /// The rule of a function of two numbers with broadcasting, from its two derivatives as a
    /// function of both and y.
    pub(crate) fn binary<'a>(
        &'a self,
        derivatives: impl FnOnce(Var<'a>, Var<'a>, Var<'a>) -> (Var<'a>, Var<'a>),
    ) -> Gradients<'a> {
        let (a, b, dy) = (self.x(0)?, self.x(1)?, self.dy(0));
        let (da, db) = derivatives(a, b, self.y(0));
        Ok(vec![Some((dy * da).sum_to(a)), Some((dy * db).sum_to(b))])
    }

    /// The rule of an operator that copies elements of its first input to places that the other
    /// inputs and the attributes tell: the places of the elements are moved as they are, and what
    /// came from a place is summed there.
    pub(crate) fn moved(&self) -> Gradients<'_> {
        let x = self.x(0)?;
        let mut inputs = self.xs();
        inputs[0] = Some(x.places());
        let from = self.call(self.node(), &inputs, 1)[0];
        Ok(vec![Some(self.dy(0).scatter_to(from, x))])
    }

    /// The rule of what only shows its first input under another shape.
    pub(crate) fn view(&self) -> Gradients<'_> {
        Ok(vec![Some(self.dy(0).reshape_as(self.x(0)?))])
    }
}

/// The rule of what is flat wherever it has a derivative: rounding, comparisons, shapes, indices.
pub(crate) fn flat(_: &Tape) -> Gradients<'_> {
    Ok(Vec::new())
}

/// A node to be: the operator, without arguments.
pub(crate) fn op(name: &str) -> Node {
    Node::new(name, &[], &[])
}

impl<'a> Var<'a> {
    pub(crate) fn tape(self) -> &'a Tape {
        self.tape
    }

    pub(crate) fn id(self) -> ValueId {
        self.id
    }

    /// A function of this.
    pub(crate) fn apply(self, name: &str) -> Var<'a> {
        self.tape.op(op(name), &[self])
    }

    /// A function of this and another.
    pub(crate) fn with(self, name: &str, other: Var<'a>) -> Var<'a> {
        self.tape.op(op(name), &[self, other])
    }

    /// A number of the dtype of this.
    pub(crate) fn number(self, number: f64) -> Var<'a> {
        self.tape.constant(Tensor::scalar(number)).with("CastLike", self)
    }

    /// A tensor of the shape and dtype of this, full of one number.
    pub(crate) fn fill(self, number: f64) -> Var<'a> {
        self.number(number).with("Expand", self.shape())
    }

    pub(crate) fn above(self, limit: f64) -> Var<'a> {
        self.with("Greater", self.number(limit))
    }

    pub(crate) fn below(self, limit: f64) -> Var<'a> {
        self.with("Less", self.number(limit))
    }

    /// Where this holds, one value, and elsewhere the other.
    pub(crate) fn choose(self, yes: Var<'a>, no: Var<'a>) -> Var<'a> {
        self.tape.op(op("Where"), &[self, yes, no])
    }

    /// This where `holds`, else 0; whatever is elsewhere, NaN too, is lost.
    pub(crate) fn only(self, holds: Var<'a>) -> Var<'a> {
        holds.choose(self, self.number(0.0))
    }

    pub(crate) fn shape(self) -> Var<'a> {
        self.apply("Shape")
    }

    /// The number of elements, an integer.
    pub(crate) fn size(self) -> Var<'a> {
        self.apply("Size")
    }

    /// The share of one of `many` elements in one of this, in the dtype of this, which need not
    /// hold the numbers themselves.
    pub(crate) fn share_of(self, many: Var<'a>) -> Var<'a> {
        let real = self.tape.constant(Tensor::scalar(0.0f64));
        let count = |x: Var<'a>| x.size().with("CastLike", real);
        (count(self) / count(many)).with("CastLike", self)
    }

    /// One axis.
    pub(crate) fn flatten(self) -> Var<'a> {
        self.with("Reshape", self.tape.ints(&[-1]))
    }

    pub(crate) fn reshape(self, shape: Var<'a>) -> Var<'a> {
        self.tape.op(op("Reshape").with("allowzero", 1i64), &[self, shape])
    }

    /// This under the shape of another of equally many elements.
    pub(crate) fn reshape_as(self, other: Var<'a>) -> Var<'a> {
        self.reshape(other.shape())
    }

    /// The sum over what broadcasting has repeated: of the shape of `x`, which broadcasts to this.
    pub(crate) fn sum_to(self, x: Var<'a>) -> Var<'a> {
        let (wide, narrow) = (self.shape(), x.shape());
        let ones = op("ConstantOfShape").with("value", Tensor::vector(&[1i64]));
        let ones = self.tape.op(ones, &[(wide.size() - narrow.size()).flatten()]);
        let same = self.tape.concat(&[ones, narrow]).with("Equal", wide);
        let axes = same.apply("Not").apply("NonZero").flatten();
        self.reduce("ReduceSum", axes).reshape(narrow)
    }

    /// Reduced along axes, which stay with extent 1; along none when the list is empty.
    pub(crate) fn reduce(self, name: &str, axes: Var<'a>) -> Var<'a> {
        let node = op(name).with("keepdims", 1i64).with("noop_with_empty_axes", 1i64);
        self.tape.op(node, &[self, axes])
    }

    /// The axes from `first` (which counts from the end when it is negative) to the last.
    pub(crate) fn axes_from(self, first: i64) -> Var<'a> {
        let rank = self.shape().size();
        let start = self.tape.constant(Tensor::scalar(first));
        let start = if first < 0 { start + rank } else { start };
        self.tape.op(op("Range"), &[start, rank, self.tape.constant(Tensor::scalar(1i64))])
    }

    /// The place of each element of this, counted through all axes, in its shape.
    pub(crate) fn places(self) -> Var<'a> {
        let number = |number: i64| self.tape.constant(Tensor::scalar(number));
        self.tape.op(op("Range"), &[number(0), self.size(), number(1)]).reshape_as(self)
    }

    /// Zeros of the shape of `x`, with each element of this added at its place in `places`; a
    /// place beyond the last is nowhere.
    pub(crate) fn scatter_to(self, places: Var<'a>, x: Var<'a>) -> Var<'a> {
        let tape = self.tape;
        let size = x.size().flatten();
        let room = size + tape.ints(&[1]);
        let zeros = self.number(0.0).with("Expand", room);
        let node = op("ScatterElements").with("axis", 0i64).with("reduction", "add");
        let sums = tape.op(node, &[zeros, places.flatten(), self.flatten()]);
        tape.op(op("Slice"), &[sums, tape.ints(&[0]), size]).reshape_as(x)
    }

    /// This matrix times another, either transposed, as far as its leading axes broadcast.
    pub(crate) fn matmul(self, other: Var<'a>, transpose: (bool, bool)) -> Var<'a> {
        let node = op("com.microsoft.FusedMatMul")
            .with("transA", i64::from(transpose.0))
            .with("transB", i64::from(transpose.1));
        self.tape.op(node, &[self, other])
    }
}

macro_rules! arithmetic {
    ($($trait:ident $method:ident $op:literal;)*) => {$(
        impl<'a> $trait for Var<'a> {
            type Output = Var<'a>;
            fn $method(self, other: Var<'a>) -> Var<'a> {
                self.with($op, other)
            }
        }
        impl<'a> $trait<f64> for Var<'a> {
            type Output = Var<'a>;
            fn $method(self, other: f64) -> Var<'a> {
                self.with($op, self.number(other))
            }
        }
        impl<'a> $trait<Var<'a>> for f64 {
            type Output = Var<'a>;
            fn $method(self, other: Var<'a>) -> Var<'a> {
                other.number(self).with($op, other)
            }
        }
    )*};
}

arithmetic! {
    Add add "Add";
    Sub sub "Sub";
    Mul mul "Mul";
    Div div "Div";
}

impl<'a> Neg for Var<'a> {
    type Output = Var<'a>;
    fn neg(self) -> Var<'a> {
        self.apply("Neg")
    }
}
