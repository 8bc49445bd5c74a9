//! Writes a kernel down: the typed face of the IR.
//!
//! `#[hetra::kernel]` turns a Rust function into calls of these methods, so that rustc infers and
//! checks the types of the kernel as it does those of the function; kernels that are made at run
//! time are written with the same calls. A [`E`] is a value that will be there when the kernel
//! runs; it is an index and can be copied, and reading it twice is evaluating it twice, so
//! [`Trace::bind`] what is not trivial.

mod arithmetic;

use std::cell::RefCell;
use std::marker::PhantomData;

use crate::error::KernelError;
use crate::function::{Group, Integer, Number};
use crate::ir::{
    Access, Array, ArrayId, Atomic, Block, Expr, ExprId, Id, Kernel, Op, Param, ParamId, ParamKind,
    Place, Space, Stmt, VarId,
};
use crate::scalar::fold;
use crate::types::{Element, Lanes, Literal, Type, Word};

/// Most expressions of a kernel.
const EXPRS_MAX: usize = 1 << 18;

/// Most calls of helpers inside each other.
const CALLS_MAX: usize = 64;

/// A kernel that is being written.
pub struct Trace {
    state: RefCell<State>,
}

struct State {
    kernel: Kernel,
    /// The blocks that are open, the innermost last.
    blocks: Vec<Block>,
    calls: usize,
    error: Option<KernelError>,
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident($id:ty)) => {
        $(#[$doc])*
        pub struct $name<T>(pub(crate) $id, PhantomData<fn() -> T>);

        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<T> Copy for $name<T> {}
        impl<T> $name<T> {
            fn new(id: $id) -> Self {
                $name(id, PhantomData)
            }
        }
    };
}

handle!(
    /// A value of type `T` in the kernel.
    E(ExprId)
);
handle!(
    /// A variable that changes.
    Var(VarId)
);
handle!(
    /// A buffer that is read.
    Input(ParamId)
);
handle!(
    /// A buffer that is read and written.
    Output(ParamId)
);
handle!(
    /// A buffer that is changed atomically.
    AtomicBuffer(ParamId)
);
handle!(
    /// An array with one index.
    Row(ArrayId)
);
handle!(
    /// An array with two indices.
    Grid(ArrayId)
);

/// Memory that is read by one index.
pub trait At {
    /// Of its elements.
    type Element: Element;
    /// The element there.
    fn place(self, index: ExprId) -> Place;
}

/// Memory that is written by one index.
pub trait AtMut: At {}

impl<T: Element> At for Input<T> {
    type Element = T;
    fn place(self, index: ExprId) -> Place {
        Place::Buffer(self.0, index)
    }
}

impl<T: Element> At for Output<T> {
    type Element = T;
    fn place(self, index: ExprId) -> Place {
        Place::Buffer(self.0, index)
    }
}

impl<T: Element> At for Row<T> {
    type Element = T;
    fn place(self, index: ExprId) -> Place {
        Place::Array(self.0, vec![index])
    }
}

impl<T: Element> AtMut for Output<T> {}
impl<T: Element> AtMut for Row<T> {}

/// A buffer, whatever is done with it.
pub trait Buffer {
    /// Which parameter.
    fn param(self) -> ParamId;
}

macro_rules! buffer {
    ($($name:ident)*) => {$(
        impl<T> Buffer for $name<T> {
            fn param(self) -> ParamId {
                self.0
            }
        }
    )*};
}

buffer!(Input Output AtomicBuffer);

/// What `==` compares.
pub trait Compared: Word {}
impl<T: Number> Compared for T {}

impl Trace {
    /// A kernel of this name, with nothing in it, for groups of so many items.
    pub fn new(name: &str, group: [u32; 3]) -> Trace {
        let kernel = Kernel {
            name: name.to_string(),
            group,
            params: Vec::new(),
            arrays: Vec::new(),
            vars: Vec::new(),
            exprs: Vec::new(),
            body: Vec::new(),
        };
        let state = State { kernel, blocks: vec![Vec::new()], calls: 0, error: None };
        Trace { state: RefCell::new(state) }
    }

    /// The kernel.
    ///
    /// # Errors
    /// When it is too large, or [`Kernel::verify`] refuses it.
    pub fn finish(self) -> Result<Kernel, KernelError> {
        let state = self.state.into_inner();
        if let Some(error) = state.error {
            return Err(error);
        }
        let mut kernel = state.kernel;
        kernel.body = state.blocks.into_iter().next().unwrap_or_default();
        kernel.verify()?;
        Ok(kernel)
    }

    fn param<T>(&self, name: &str, kind: ParamKind, make: impl FnOnce(ParamId) -> T) -> T {
        let params = &mut self.state.borrow_mut().kernel.params;
        params.push(Param { name: name.to_string(), kind });
        make(ParamId(params.len() as u32 - 1))
    }

    fn buffer<T: Element>(&self, name: &str, access: Access) -> ParamId {
        self.param(name, ParamKind::Buffer { element: T::TYPE, access }, |id| id)
    }

    /// A parameter that is a number.
    pub fn value<T: Word>(&self, name: &str) -> E<T> {
        let id = self.param(name, ParamKind::Value(T::SCALAR), |id| id);
        self.typed(Op::Value(id))
    }

    /// A parameter that is a buffer to read.
    pub fn input<T: Element>(&self, name: &str) -> Input<T> {
        Input::new(self.buffer::<T>(name, Access::Read))
    }

    /// A parameter that is a buffer to read and write.
    pub fn output<T: Element>(&self, name: &str) -> Output<T> {
        Output::new(self.buffer::<T>(name, Access::Write))
    }

    /// A parameter that is a buffer of cells.
    pub fn cells<T: Integer>(&self, name: &str) -> AtomicBuffer<T> {
        AtomicBuffer::new(self.buffer::<T>(name, Access::Atomic))
    }

    fn array<T: Element>(&self, space: Space, extents: &[u32]) -> ArrayId {
        let arrays = &mut self.state.borrow_mut().kernel.arrays;
        arrays.push(Array { space, element: T::TYPE, extents: extents.to_vec() });
        ArrayId(arrays.len() as u32 - 1)
    }

    /// An array with one index.
    pub fn row<T: Element>(&self, space: Space, extent: u32) -> Row<T> {
        Row::new(self.array::<T>(space, &[extent]))
    }

    /// An array with two indices.
    pub fn grid<T: Element>(&self, space: Space, rows: u32, columns: u32) -> Grid<T> {
        Grid::new(self.array::<T>(space, &[rows, columns]))
    }

    /// An array of the item with one index, filled with a value.
    pub fn private_row<T: Element>(&self, extent: u32, value: E<T>) -> Row<T> {
        let (row, value) = (self.row(Space::Private, extent), self.once(value));
        self.for_(self.int(0u32), self.int(extent), self.int(1), |i| self.store(row, i, value));
        row
    }

    /// An array of the item with two indices, filled with a value.
    pub fn private_grid<T: Element>(&self, rows: u32, columns: u32, value: E<T>) -> Grid<T> {
        let (grid, value) = (self.grid(Space::Private, rows, columns), self.once(value));
        self.for_(self.int(0u32), self.int(rows), self.int(1), |i| {
            self.for_(self.int(0u32), self.int(columns), self.int(1), |j| {
                self.store2(grid, i, j, value);
            });
        });
        grid
    }

    pub(crate) fn expr(&self, ty: Type, op: Op) -> ExprId {
        let state = &mut *self.state.borrow_mut();
        let exprs = &mut state.kernel.exprs;
        if exprs.len() >= EXPRS_MAX {
            state.error.get_or_insert(KernelError::TooLarge { name: state.kernel.name.clone() });
            return ExprId(0);
        }
        // Constants are computed here: what WGSL evaluates of constants must not overflow.
        let op = fold(exprs, ty, &op).map_or(op, Op::Literal);
        exprs.push(Expr { ty, op });
        ExprId(exprs.len() as u32 - 1)
    }

    fn typed<T: Element>(&self, op: Op) -> E<T> {
        E::new(self.expr(T::TYPE, op))
    }

    fn push(&self, stmt: Stmt) {
        let mut state = self.state.borrow_mut();
        let error = state.error.is_some();
        if let Some(block) = state.blocks.last_mut().filter(|_| !error) {
            block.push(stmt);
        }
    }

    /// Writes what `body` does into a block of its own.
    fn block<R>(&self, body: impl FnOnce() -> R) -> (Block, R) {
        self.state.borrow_mut().blocks.push(Vec::new());
        let result = body();
        (self.state.borrow_mut().blocks.pop().unwrap_or_default(), result)
    }

    fn new_var(&self, ty: Type) -> VarId {
        let vars = &mut self.state.borrow_mut().kernel.vars;
        vars.push(ty);
        VarId(vars.len() as u32 - 1)
    }

    /// Evaluates a value here and gives what it was.
    pub fn bind<T: Element>(&self, value: E<T>) -> E<T> {
        let id = self.new_var(T::TYPE);
        self.push(Stmt::Let(id, value.0));
        self.typed(Op::Var(id))
    }

    /// A variable that holds this at first.
    pub fn var<T: Element>(&self, value: E<T>) -> Var<T> {
        let id = self.new_var(T::TYPE);
        self.push(Stmt::Let(id, value.0));
        Var::new(id)
    }

    /// What a variable holds.
    pub fn get<T: Element>(&self, var: Var<T>) -> E<T> {
        self.typed(Op::Var(var.0))
    }

    /// Gives a variable another value.
    pub fn set<T: Element>(&self, var: Var<T>, value: E<T>) {
        self.push(Stmt::Set(var.0, value.0));
    }

    /// A constant.
    pub fn lit<T: Word>(&self, value: T) -> E<T> {
        self.typed(Op::Literal(Literal::new(value)))
    }

    /// A whole constant, whose kind is what it is used as.
    pub fn int<T: Integer>(&self, value: T) -> E<T> {
        self.lit(value)
    }

    /// Elements of a buffer.
    pub fn len(&self, buffer: impl Buffer) -> E<u32> {
        self.typed(Op::Len(buffer.param()))
    }

    /// An element.
    pub fn at<M: At>(&self, memory: M, index: E<u32>) -> E<M::Element> {
        self.typed(Op::Load(memory.place(index.0)))
    }

    /// Writes an element.
    pub fn store<M: AtMut>(&self, memory: M, index: E<u32>, value: E<M::Element>) {
        self.push(Stmt::Store(memory.place(index.0), value.0));
    }

    /// So many elements from an index on, as a vector.
    pub fn vector<M: At, const N: usize>(&self, memory: M, index: E<u32>) -> E<Lanes<M::Element, N>>
    where
        Lanes<M::Element, N>: Element,
    {
        // Some languages write the index for each lane, and refuse constants that are outside.
        let index = self.bind(index);
        self.typed(Op::Load(Place::Span(Box::new(memory.place(index.0)), N as u8)))
    }

    /// Writes a vector's lanes to so many elements from an index on.
    pub fn set_vector<M: AtMut, const N: usize>(
        &self,
        memory: M,
        index: E<u32>,
        value: E<Lanes<M::Element, N>>,
    ) where
        Lanes<M::Element, N>: Element,
    {
        let (index, value) = (self.bind(index), self.once(value));
        let place = Place::Span(Box::new(memory.place(index.0)), N as u8);
        self.push(Stmt::Store(place, value.0));
    }

    /// An element by two indices.
    pub fn at2<T: Element>(&self, grid: Grid<T>, row: E<u32>, column: E<u32>) -> E<T> {
        self.typed(Op::Load(Place::Array(grid.0, vec![row.0, column.0])))
    }

    /// Writes an element by two indices.
    pub fn store2<T: Element>(&self, grid: Grid<T>, row: E<u32>, column: E<u32>, value: E<T>) {
        self.push(Stmt::Store(Place::Array(grid.0, vec![row.0, column.0]), value.0));
    }

    fn atomic<T: Integer>(
        &self,
        op: Atomic,
        cells: AtomicBuffer<T>,
        index: E<u32>,
        value: E<T>,
    ) -> E<T> {
        let old = self.new_var(T::TYPE);
        let place = Place::Buffer(cells.0, index.0);
        self.push(Stmt::Atomic { op, place, value: value.0, old });
        self.typed(Op::Var(old))
    }
}

macro_rules! atomics {
    ($($name:ident $op:ident;)*) => {
        impl Trace {$(
            /// Changes a cell, and gives what it was.
            pub fn $name<T: Integer>(
                &self,
                cells: AtomicBuffer<T>,
                index: E<u32>,
                value: E<T>,
            ) -> E<T> {
                self.atomic(Atomic::$op, cells, index, value)
            }
        )*}
    };
}

atomics! {
    fetch_add Add;
    fetch_min Min;
    fetch_max Max;
    fetch_and And;
    fetch_or Or;
    fetch_xor Xor;
    swap Exchange;
}

/// Where an item stands, what groups do together, and the order of things.
impl Trace {
    fn id(&self, id: Id, axis: u32) -> E<u32> {
        if axis > 2 {
            let mut state = self.state.borrow_mut();
            let name = state.kernel.name.clone();
            state.error.get_or_insert(KernelError::Axis { name, axis });
        }
        self.typed(Op::Id(id, axis.min(2) as u8))
    }

    /// Where the item stands in the grid, along axis 0, 1 or 2.
    pub fn global_id(&self, axis: u32) -> E<u32> {
        self.id(Id::Global, axis)
    }

    /// Where the item stands in its group.
    pub fn local_id(&self, axis: u32) -> E<u32> {
        self.id(Id::Local, axis)
    }

    /// Where its group stands in the grid.
    pub fn group_id(&self, axis: u32) -> E<u32> {
        self.id(Id::Group, axis)
    }

    /// Groups of the grid.
    pub fn group_count(&self, axis: u32) -> E<u32> {
        self.id(Id::Groups, axis)
    }

    /// Items of a group.
    pub fn group_size(&self, axis: u32) -> E<u32> {
        let size = self.state.borrow().kernel.group.get(axis as usize).copied().unwrap_or(1);
        self.lit(size)
    }

    /// Waits until all items of the group are here.
    pub fn barrier(&self) {
        self.push(Stmt::Barrier);
    }

    /// The sum over the subgroup.
    pub fn subgroup_add<T: Number>(&self, value: E<T>) -> E<T> {
        let value = self.typed(Op::Group(Group::Add, value.0));
        self.bind(value)
    }

    /// The least of the subgroup.
    pub fn subgroup_min<T: Number>(&self, value: E<T>) -> E<T> {
        let value = self.typed(Op::Group(Group::Min, value.0));
        self.bind(value)
    }

    /// The greatest of the subgroup.
    pub fn subgroup_max<T: Number>(&self, value: E<T>) -> E<T> {
        let value = self.typed(Op::Group(Group::Max, value.0));
        self.bind(value)
    }

    /// One of two ways.
    pub fn if_(&self, condition: E<bool>, yes: impl FnOnce(), no: impl FnOnce()) {
        match self.known(condition) {
            Some(true) => return yes(),
            Some(false) => return no(),
            None => {}
        }
        let (yes, ()) = self.block(yes);
        let (no, ()) = self.block(no);
        self.push(Stmt::If(condition.0, yes, no));
    }

    /// A value by one of two ways.
    pub fn choose<T: Element>(
        &self,
        condition: E<bool>,
        yes: impl FnOnce() -> E<T>,
        no: impl FnOnce() -> E<T>,
    ) -> E<T> {
        match self.known(condition) {
            Some(true) => return yes(),
            Some(false) => return no(),
            None => {}
        }
        let condition = self.bind(condition);
        let zero = self.zero(T::TYPE);
        let var = self.var(E::<T>::new(zero));
        self.if_(condition, || self.set(var, yes()), || self.set(var, no()));
        self.get(var)
    }

    /// What a condition is, where it is a constant: then there is one way only.
    fn known(&self, condition: E<bool>) -> Option<bool> {
        let state = self.state.borrow();
        match state.kernel.exprs.get(condition.0.0 as usize).map(|expr| &expr.op) {
            Some(Op::Literal(literal)) => Some(literal.bits != 0),
            _ => None,
        }
    }

    fn zero(&self, ty: Type) -> ExprId {
        let literal = Op::Literal(Literal { scalar: ty.scalar, bits: 0 });
        let scalar = self.expr(Type::scalar(ty.scalar), literal);
        if ty.lanes == 1 { scalar } else { self.expr(ty, Op::Splat(scalar)) }
    }

    /// From a number up to another one, by steps.
    pub fn for_<T: Integer>(&self, from: E<T>, to: E<T>, step: E<T>, body: impl FnOnce(E<T>)) {
        let (to, step) = (self.once(to), self.step(step));
        let var = self.new_var(T::TYPE);
        let value = self.typed(Op::Var(var));
        let (body, ()) = self.block(|| body(value));
        self.push(Stmt::For { var, from: from.0, to: to.0, step: step.0, body });
    }

    /// A step, at least one.
    fn step<T: Integer>(&self, step: E<T>) -> E<T> {
        let literal = {
            let state = self.state.borrow();
            match state.kernel.exprs.get(step.0.0 as usize).map(|expr| &expr.op) {
                Some(Op::Literal(literal)) => Some(T::from_word(literal.bits)),
                _ => None,
            }
        };
        let one = T::from_word(1);
        match literal {
            Some(literal) => self.lit(Number::greater(literal, one)),
            None => self.once(self.max(step, self.lit(one))),
        }
    }

    /// A value that is what it is now whenever it is read: a variable where it may change.
    pub fn once<T: Element>(&self, value: E<T>) -> E<T> {
        let constant = {
            let state = self.state.borrow();
            let op = state.kernel.exprs.get(value.0.0 as usize).map(|expr| &expr.op);
            matches!(op, Some(Op::Literal(_) | Op::Value(_) | Op::Len(_) | Op::Id(..)))
        };
        if constant { value } else { self.bind(value) }
    }

    /// As long as the condition, which is evaluated anew each time, holds.
    pub fn while_(&self, condition: impl FnOnce() -> E<bool>, body: impl FnOnce()) {
        self.loop_(|| {
            let go_on = condition();
            self.if_(go_on, || {}, || self.break_());
            body();
        });
    }

    /// Until a break.
    pub fn loop_(&self, body: impl FnOnce()) {
        let (body, ()) = self.block(body);
        self.push(Stmt::Loop(body));
    }

    /// Leaves the innermost loop.
    pub fn break_(&self) {
        self.push(Stmt::Break);
    }

    /// Goes on with the next turn of the innermost loop.
    pub fn continue_(&self) {
        self.push(Stmt::Continue);
    }

    /// Ends the item.
    pub fn return_(&self) {
        self.push(Stmt::Return);
    }

    /// Begins a call of a helper; false when there are too many inside each other.
    pub fn enter(&self) -> bool {
        let mut state = self.state.borrow_mut();
        state.calls += 1;
        if state.calls > CALLS_MAX {
            let name = state.kernel.name.clone();
            state.error.get_or_insert(KernelError::Recursion { name });
        }
        state.error.is_none()
    }

    /// Ends a call of a helper.
    pub fn leave(&self) {
        self.state.borrow_mut().calls -= 1;
    }

    /// A value that is not used: what a refused call gives.
    pub fn nothing<T: Element>(&self) -> E<T> {
        E::new(self.zero(T::TYPE))
    }
}
