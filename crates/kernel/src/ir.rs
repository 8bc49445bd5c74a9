//! What a kernel is: plain data, typed, with structured control flow.
//!
//! Expressions lie in one list and refer to earlier ones by index. They have no effect, so where
//! one is evaluated does not matter except for what it reads; a value that must be read at a
//! certain point is bound there by [`Stmt::Let`]. Statements run in order.

use std::collections::HashSet;

use crate::function::{Binary, Compare, Function, Group, Unary};
use crate::types::{Literal, Scalar, Type};

/// Index of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExprId(pub(crate) u32);

/// Index of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VarId(pub(crate) u32);

/// Index of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub(crate) u32);

impl ParamId {
    /// Its place among the parameters.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Index of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArrayId(pub(crate) u32);

/// A kernel for fixed constants: what one work item does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Its name, an identifier.
    pub name: String,
    /// Work items of a group, along each axis.
    pub group: [u32; 3],
    /// What it is called with, in order.
    pub params: Vec<Param>,
    /// Arrays of a group or of an item.
    pub arrays: Vec<Array>,
    /// Types of the variables.
    pub vars: Vec<Type>,
    /// Expressions, each after those it refers to.
    pub exprs: Vec<Expr>,
    /// What an item does.
    pub body: Block,
}

/// Statements, in order.
pub type Block = Vec<Stmt>;

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Param {
    /// Its name in the source.
    pub name: String,
    /// What it takes.
    pub kind: ParamKind,
}

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamKind {
    /// One number for all items.
    Value(Scalar),
    /// Memory of the device.
    Buffer {
        /// Type of its elements.
        element: Type,
        /// What the kernel does with it.
        access: Access,
    },
}

impl ParamKind {
    /// Whether it is memory that is only read.
    pub fn is_read(self) -> bool {
        matches!(self, ParamKind::Buffer { access: Access::Read, .. })
    }
}

/// What a kernel does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads only: `&[T]`.
    Read,
    /// Reads and writes, each element by one item at a time: `&mut [T]`.
    Write,
    /// Atomic operations only: `&[Atomic<T>]`.
    Atomic,
}

/// Memory that all items of a group share, or that each has for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Array {
    /// Whose it is.
    pub space: Space,
    /// Type of its elements.
    pub element: Type,
    /// Extents, one or two, the last one innermost.
    pub extents: Vec<u32>,
}

/// Whose an array is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// One for the items of a group. Holds anything at first.
    Shared,
    /// One for each item. Holds zeros at first.
    Private,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expr {
    /// Its type.
    pub ty: Type,
    /// How it comes about.
    pub op: Op,
}

/// How a value comes about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// A constant.
    Literal(Literal),
    /// What a variable holds now.
    Var(VarId),
    /// A parameter that is a number.
    Value(ParamId),
    /// Elements of a buffer.
    Len(ParamId),
    /// Where this item stands, along an axis.
    Id(Id, u8),
    /// One operand.
    Unary(Unary, ExprId),
    /// Two operands of one type.
    Binary(Binary, ExprId, ExprId),
    /// Two scalars of one type, compared.
    Compare(Compare, ExprId, ExprId),
    /// Both true; the second is not evaluated where the first is false.
    And(ExprId, ExprId),
    /// One true; the second is not evaluated where the first is true.
    Or(ExprId, ExprId),
    /// The second where the first is true, else the third; both may be evaluated.
    Select(ExprId, ExprId, ExprId),
    /// The number in another kind, as Rust's `as`: to integers towards zero and saturating.
    Cast(ExprId),
    /// The same bits as another kind of 32 bits.
    Bits(ExprId),
    /// A mathematical function, lane by lane.
    Call(Function, Vec<ExprId>),
    /// An element of memory.
    Load(Place),
    /// A scalar in all lanes.
    Splat(ExprId),
    /// One lane of a vector.
    Lane(ExprId, u8),
    /// A vector of these scalars.
    Lanes(Vec<ExprId>),
    /// Over the items of a subgroup.
    Group(Group, ExprId),
}

/// Where a work item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Id {
    /// In the whole grid.
    Global,
    /// In its group.
    Local,
    /// Its group in the grid.
    Group,
    /// How many groups there are.
    Groups,
}

/// An element of memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Of a buffer.
    Buffer(ParamId, ExprId),
    /// Of an array, by one index for each extent.
    Array(ArrayId, Vec<ExprId>),
    /// So many scalars from a place on, as a vector.
    Span(Box<Place>, u8),
}

/// One step of an item.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stmt {
    /// Gives a variable its first value.
    Let(VarId, ExprId),
    /// Gives it another one.
    Set(VarId, ExprId),
    /// Writes an element.
    Store(Place, ExprId),
    /// Changes an element that other items may change, too, and keeps what it was.
    Atomic {
        /// How.
        op: Atomic,
        /// Which element.
        place: Place,
        /// With what.
        value: ExprId,
        /// Takes what it was.
        old: VarId,
    },
    /// One of two ways.
    If(ExprId, Block, Block),
    /// From a number up to another one, which is not reached, by steps.
    For {
        /// Takes the number.
        var: VarId,
        /// The first.
        from: ExprId,
        /// The first that is not reached; read once.
        to: ExprId,
        /// The step, greater than zero; read once.
        step: ExprId,
        /// What is done each time.
        body: Block,
    },
    /// Until a break.
    Loop(Block),
    /// Leaves the innermost loop.
    Break,
    /// Goes on with the next turn of the innermost loop.
    Continue,
    /// Ends the item.
    Return,
    /// Waits until all items of the group are here; what they wrote is seen by all of them.
    Barrier,
}

/// How an element is changed atomically.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Atomic {
    /// The sum.
    Add,
    /// The lesser.
    Min,
    /// The greater.
    Max,
    /// The bits of both.
    And,
    /// The bits of either.
    Or,
    /// The bits of one only.
    Xor,
    /// The new value.
    Exchange,
}

impl Kernel {
    /// Whether all its loops count to an end, whatever the arguments are: whole numbers, by a step
    /// that is not zero, to a bound that stays, by counters that nothing else changes.
    pub fn ends(&self) -> bool {
        let (mut ends, mut fixed, mut changed) = (true, Vec::new(), HashSet::new());
        each_stmt(&self.body, &mut |stmt| match stmt {
            Stmt::Loop(_) => ends = false,
            Stmt::For { var, to, step, .. } => {
                let ty = self.var(*var);
                let whole = ty.lanes == 1 && matches!(ty.scalar, Scalar::I32 | Scalar::U32);
                let by = &self.expr(*step).op;
                ends &= whole && matches!(by, Op::Literal(Literal { bits: 1.., .. }));
                fixed.push(*var);
                match self.expr(*to).op {
                    Op::Literal(_) | Op::Value(_) | Op::Len(_) | Op::Id(..) => {}
                    Op::Var(bound) => fixed.push(bound),
                    _ => ends = false,
                }
            }
            Stmt::Set(var, _) | Stmt::Atomic { old: var, .. } => {
                changed.insert(*var);
            }
            _ => {}
        });
        ends && !fixed.iter().any(|var| changed.contains(var))
    }

    /// The expression.
    pub fn expr(&self, id: ExprId) -> &Expr {
        &self.exprs[id.0 as usize]
    }

    /// The type of an expression.
    pub fn type_of(&self, id: ExprId) -> Type {
        self.expr(id).ty
    }

    /// The parameter.
    pub fn param(&self, id: ParamId) -> &Param {
        &self.params[id.0 as usize]
    }

    /// The array.
    pub fn array(&self, id: ArrayId) -> &Array {
        &self.arrays[id.0 as usize]
    }

    /// The type of a variable.
    pub fn var(&self, id: VarId) -> Type {
        self.vars[id.0 as usize]
    }

    /// The type of the elements of a place.
    pub fn element(&self, place: &Place) -> Type {
        match place {
            Place::Buffer(param, _) => match self.param(*param).kind {
                ParamKind::Buffer { element, .. } => element,
                ParamKind::Value(scalar) => Type::scalar(scalar),
            },
            Place::Array(array, _) => self.array(*array).element,
            Place::Span(first, lanes) => Type { lanes: *lanes, ..self.element(first) },
        }
    }

    /// Parameters that are buffers, in order.
    pub fn buffers(&self) -> impl Iterator<Item = (ParamId, Type, Access)> {
        self.params.iter().enumerate().filter_map(|(index, param)| match param.kind {
            ParamKind::Buffer { element, access } => Some((ParamId(index as u32), element, access)),
            ParamKind::Value(_) => None,
        })
    }

    /// Parameters that are numbers, in order.
    pub fn values(&self) -> impl Iterator<Item = (ParamId, Scalar)> {
        self.params.iter().enumerate().filter_map(|(index, param)| match param.kind {
            ParamKind::Value(scalar) => Some((ParamId(index as u32), scalar)),
            ParamKind::Buffer { .. } => None,
        })
    }

    /// Work items of a group.
    pub fn group_items(&self) -> u32 {
        self.group.iter().product()
    }

    /// Bytes of shared memory that a group takes.
    pub fn shared_bytes(&self) -> usize {
        let shared = self.arrays.iter().filter(|array| array.space == Space::Shared);
        shared.map(|array| array.elements() * array.element.bytes()).sum()
    }

    /// Whether a scalar kind occurs anywhere.
    pub fn uses(&self, scalar: Scalar) -> bool {
        self.exprs.iter().any(|expr| expr.ty.scalar == scalar)
            || self.buffers().any(|(_, element, _)| element.scalar == scalar)
            || self.arrays.iter().any(|array| array.element.scalar == scalar)
            || self.values().any(|(_, value)| value == scalar)
    }
}

impl Op {
    /// The expressions that it is made of.
    pub fn operands(&self) -> Vec<ExprId> {
        match self {
            Op::Literal(_) | Op::Var(_) | Op::Value(_) | Op::Len(_) | Op::Id(..) => Vec::new(),
            Op::Unary(_, a)
            | Op::Cast(a)
            | Op::Bits(a)
            | Op::Splat(a)
            | Op::Lane(a, _)
            | Op::Group(_, a) => vec![*a],
            Op::Binary(_, a, b) | Op::Compare(_, a, b) | Op::And(a, b) | Op::Or(a, b) => {
                vec![*a, *b]
            }
            Op::Select(a, b, c) => vec![*a, *b, *c],
            Op::Call(_, all) | Op::Lanes(all) => all.clone(),
            Op::Load(place) => place.indices().to_vec(),
        }
    }
}

impl Place {
    /// One for each extent.
    pub fn indices(&self) -> &[ExprId] {
        match self {
            Place::Buffer(_, index) => std::slice::from_ref(index),
            Place::Array(_, indices) => indices,
            Place::Span(first, _) => first.indices(),
        }
    }

    /// The memory that it is of, as a number.
    pub(crate) fn memory(&self) -> u32 {
        match self {
            Place::Buffer(param, _) => Kernel::memory_of(*param),
            Place::Array(array, _) => crate::native::ARRAYS_FROM + array.0,
            Place::Span(first, _) => first.memory(),
        }
    }
}

impl Array {
    /// Elements of it.
    pub fn elements(&self) -> usize {
        self.extents.iter().map(|&extent| extent as usize).product()
    }
}

/// Calls `visit` on every statement, outer ones first.
pub fn each_stmt<'a>(block: &'a [Stmt], visit: &mut dyn FnMut(&'a Stmt)) {
    for stmt in block {
        visit(stmt);
        match stmt {
            Stmt::If(_, yes, no) => {
                each_stmt(yes, visit);
                each_stmt(no, visit);
            }
            Stmt::For { body, .. } | Stmt::Loop(body) => each_stmt(body, visit),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::Binary;

    /// A loop to `to` by `step`, with one statement more inside.
    fn counting(to: Op, step: Op, inside: impl Fn(VarId, VarId, ExprId) -> Option<Stmt>) -> bool {
        let ty = Type { scalar: Scalar::U32, lanes: 1 };
        let (name, group) = ("counting".to_string(), [1; 3]);
        let (params, arrays, vars) = (Vec::new(), Vec::new(), vec![ty; 2]);
        let (exprs, body) = (Vec::new(), Vec::new());
        let mut kernel = Kernel { name, group, params, arrays, vars, exprs, body };
        let mut expr = |op| {
            kernel.exprs.push(Expr { op, ty });
            ExprId(kernel.exprs.len() as u32 - 1)
        };
        let zero = expr(Op::Literal(Literal { bits: 0, scalar: Scalar::U32 }));
        let (to, step) = (expr(to), expr(step));
        let (bound, counter) = (VarId(0), VarId(1));
        let now = expr(Op::Var(bound));
        let more = expr(Op::Binary(Binary::Add, now, step));
        let body = inside(bound, counter, more).into_iter().collect();
        kernel.body =
            vec![Stmt::Let(bound, zero), Stmt::For { var: counter, from: zero, to, step, body }];
        kernel.ends()
    }

    #[test]
    fn loops_end_whose_bound_and_counter_stay() {
        let number = |bits| Op::Literal(Literal { bits, scalar: Scalar::U32 });
        let bound = || Op::Var(VarId(0));
        assert!(counting(number(9), number(2), |_, _, _| None));
        assert!(counting(bound(), number(1), |_, _, _| None));
        assert!(!counting(number(9), number(0), |_, _, _| None));
        assert!(!counting(bound(), bound(), |_, _, _| None));
        assert!(!counting(bound(), number(1), |bound, _, more| Some(Stmt::Set(bound, more))));
        assert!(!counting(number(9), number(1), |_, own, more| Some(Stmt::Set(own, more))));
        assert!(!counting(number(9), number(1), |_, _, _| Some(Stmt::Loop(Vec::new()))));
    }
}
