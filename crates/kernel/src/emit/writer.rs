//! The walk over a kernel that all languages share.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::iter::StepBy;
use std::ops::Range;

use super::Options;
use crate::function::{Binary, Compare, Function, Group, Unary};
use crate::ir::{
    Array, ArrayId, Atomic, ExprId, Id, Kernel, Op, Param, ParamId, ParamKind, Place, Space, Stmt,
    VarId, each_stmt,
};
use crate::native::ARRAYS_FROM;
use crate::types::{Literal, Scalar, Type};

/// How a language writes numbers and what is computed of them. Operands are texts that bind as
/// tightly as a name.
pub(super) trait Numbers {
    /// The name of a type.
    fn ty(&self, ty: Type) -> String;
    /// A constant.
    fn literal(&self, literal: Literal) -> String;
    /// A function of one operand.
    fn unary(&self, op: Unary, ty: Type, a: &str) -> String;
    /// A function of two. Divisors are not the literal zero, and shifts by a literal below 32.
    fn binary(&self, op: Binary, ty: Type, a: &str, b: &str) -> String;
    /// A mathematical function.
    fn call(&self, function: Function, ty: Type, operands: &[String]) -> String;
    /// The number in another kind.
    fn cast(&self, from: Type, to: Type, a: &str) -> String;
    /// The same bits as another kind.
    fn bits(&self, from: Type, to: Type, a: &str) -> String;
    /// One of two values.
    fn select(&self, condition: &str, yes: &str, no: &str) -> String;
    /// A vector of scalars: one for all lanes, or one for each.
    fn vector(&self, ty: Type, scalars: &[String]) -> String;
    /// One lane.
    fn lane(&self, a: &str, lane: u8) -> String;
}

/// How it writes memory.
pub(super) trait Storage: Numbers {
    /// An array of an item.
    fn array(&self, array: &Array, name: &str) -> String;
    /// An atomic change of a buffer's element, as a value.
    fn atomic(&self, op: Atomic, scalar: Scalar, element: &str, value: &str) -> String;
    /// An index, checked: itself, or 0 and a fault.
    fn checked(&self, index: &str, len: &str, memory: u32) -> String;
    /// Whether so many elements from an index on are there: false and a fault where not all are.
    fn inside(&self, index: &str, lanes: u8, len: &str, memory: u32) -> String;
    /// Elements of a buffer of scalars from an index on, as a vector.
    fn load_span(&self, ty: Type, memory: &str, index: &str) -> String {
        let lanes = (0..ty.lanes).map(|lane| format!("{memory}[{index} + {lane}u]"));
        self.vector(ty, &lanes.collect::<Vec<_>>())
    }
    /// The statements that write a vector to them.
    fn store_span(&self, ty: Type, memory: &str, index: &str, value: &str) -> String {
        let lanes = (0..ty.lanes)
            .map(|lane| format!("{memory}[{index} + {lane}u] = {};", self.lane(value, lane)));
        lanes.collect::<Vec<_>>().join(" ")
    }
}

/// How it writes what a kernel does with its place and its order.
pub(super) trait Dialect: Storage {
    /// Where an item stands.
    fn id(&self, id: Id, axis: u8, size: u32) -> String;
    /// Over the subgroup.
    fn group(&self, op: Group, ty: Type, a: &str) -> String;
    /// A parameter that is a number.
    fn value(&self, kernel: &Kernel, param: ParamId) -> String;
    /// Elements of a buffer.
    fn len(&self, kernel: &Kernel, param: ParamId) -> String;
    /// A variable with its first value; `fixed` where it has no other.
    fn declare(&self, ty: Type, name: &str, value: &str, fixed: bool) -> String;
    /// A barrier.
    fn barrier(&self) -> &'static str;
    /// What begins a loop without an end.
    fn loop_head(&self) -> &'static str;
    /// How a short loop is unrolled.
    fn unroll(&self) -> Unroll;
}

/// How a target comes to a loop without jumps.
pub(super) enum Unroll {
    /// Its compiler does it where this stands before the loop.
    Hint(&'static str),
    /// There is no such thing: each turn is written.
    Text,
}

/// Writes the body of a kernel.
pub(super) struct Writer<'a> {
    kernel: &'a Kernel,
    dialect: &'a dyn Dialect,
    options: Options,
    text: String,
    indent: usize,
    /// Variables that are given another value.
    changed: HashSet<VarId>,
    /// Terms of each expression.
    sizes: Vec<usize>,
    temporaries: usize,
}

/// Most turns of a loop that is unrolled.
const UNROLLED_MAX: u32 = 32;

/// Most statements that a loop comes to where each turn is written.
const WRITTEN_MAX: usize = 400;

/// Terms of an expression that count as a statement.
const TERMS: usize = 16;

/// Whether a turn of the loop that has this body may be left before its end.
fn jumps(body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Break | Stmt::Continue => true,
        Stmt::If(_, yes, no) => jumps(yes) || jumps(no),
        // Those of a loop inside are its own.
        _ => false,
    })
}

/// The body of a kernel: declarations of arrays that are an item's own, and the statements.
pub(super) fn body(kernel: &Kernel, dialect: &dyn Dialect, options: Options) -> String {
    let mut changed = HashSet::new();
    each_stmt(&kernel.body, &mut |stmt| {
        if let Stmt::Set(var, _) | Stmt::Atomic { old: var, .. } = stmt {
            changed.insert(*var);
        }
    });
    let mut sizes: Vec<usize> = Vec::with_capacity(kernel.exprs.len());
    for expr in &kernel.exprs {
        // Operands are earlier ones.
        let operands = expr.op.operands();
        sizes.push(operands.iter().fold(1, |all, id| all.saturating_add(sizes[id.0 as usize])));
    }
    let (text, indent, temporaries) = (String::new(), 1, 0);
    let mut writer = Writer { kernel, dialect, options, text, indent, changed, sizes, temporaries };
    for (index, array) in kernel.arrays.iter().enumerate() {
        if array.space == Space::Private {
            let declared = dialect.array(array, &array_name(ArrayId(index as u32)));
            writer.line(&declared);
        }
    }
    writer.block(&kernel.body);
    writer.text
}

/// The name of the entry point.
pub(super) fn entry_name(kernel: &Kernel) -> String {
    format!("k_{}", kernel.name)
}

/// The name of a parameter.
pub(super) fn param_name(param: &Param) -> String {
    format!("p_{}", param.name)
}

/// The name of an array.
pub(super) fn array_name(array: ArrayId) -> String {
    format!("a{}", array.0)
}

/// The kinds of the variables, expressions and memory that vectors are made of.
pub(super) fn vectors(kernel: &Kernel) -> BTreeSet<Type> {
    let exprs = kernel.exprs.iter().map(|expr| expr.ty);
    exprs.chain(kernel.buffers().map(|(_, element, _)| element)).filter(|ty| ty.lanes > 1).collect()
}

fn var_name(var: VarId) -> String {
    format!("v{}", var.0)
}

impl Writer<'_> {
    fn line(&mut self, line: &str) {
        let indent = self.indent * 4;
        // Writing into a string does not fail.
        let _ = writeln!(self.text, "{:indent$}{line}", "");
    }

    fn block(&mut self, block: &[Stmt]) {
        block.iter().for_each(|stmt| self.stmt(stmt));
    }

    fn nested(&mut self, block: &[Stmt]) {
        self.indent += 1;
        self.block(block);
        self.indent -= 1;
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Let(var, value) => {
                let (value, ty) = (self.expr(*value), self.kernel.var(*var));
                let fixed = !self.changed.contains(var);
                let declared = self.dialect.declare(ty, &var_name(*var), &value, fixed);
                self.line(&declared);
            }
            Stmt::Set(var, value) => {
                let value = self.expr(*value);
                self.line(&format!("{} = {value};", var_name(*var)));
            }
            Stmt::Store(place, value) => self.store(place, *value),
            Stmt::Atomic { op, place, value, old } => self.atomic(*op, place, *value, *old),
            Stmt::If(condition, yes, no) => self.branch(*condition, yes, no),
            Stmt::For { var, from, to, step, body } => {
                match self.written_turns(*var, [*from, *to, *step], body).0 {
                    Some(turns) => turns.for_each(|turn| self.turn(*var, turn, body)),
                    None => self.for_(*var, [*from, *to, *step], body),
                }
            }
            Stmt::Loop(body) => {
                self.line(&format!("{} {{", self.dialect.loop_head()));
                self.nested(body);
                self.line("}");
            }
            Stmt::Break => self.line("break;"),
            Stmt::Continue => self.line("continue;"),
            Stmt::Return => self.line("return;"),
            Stmt::Barrier => self.line(self.dialect.barrier()),
        }
    }

    fn branch(&mut self, condition: ExprId, yes: &[Stmt], no: &[Stmt]) {
        let condition = self.expr(condition);
        if yes.is_empty() {
            self.line(&format!("if (!({condition})) {{"));
            self.nested(no);
            return self.line("}");
        }
        self.line(&format!("if ({condition}) {{"));
        self.nested(yes);
        if !no.is_empty() {
            self.line("} else {");
            self.nested(no);
        }
        self.line("}");
    }

    fn for_(&mut self, var: VarId, [from, to, step]: [ExprId; 3], body: &[Stmt]) {
        let ty = self.kernel.var(var);
        let one = matches!(
            self.kernel.expr(step).op,
            Op::Literal(Literal { bits: 1, scalar: Scalar::I32 | Scalar::U32 })
        );
        let ends = [from, to];
        let [from, to, step] = [from, to, step].map(|id| self.expr(id));
        let name = var_name(var);
        let next = self.dialect.binary(Binary::Add, ty, &name, &step);
        let next = if one {
            next
        } else {
            // The number never passes the end, so that it does not wrap.
            let left = self.dialect.binary(Binary::Sub, ty, &to, &name);
            let unsigned = |text: &str| self.dialect.bits(ty, ty.of(Scalar::U32), text);
            let more = format!("({} > {})", unsigned(&left), unsigned(&step));
            self.dialect.select(&more, &next, &to)
        };
        // Else what arrays of a function hold would not be in registers.
        if self.is_short(ends)
            && let Unroll::Hint(hint) = self.dialect.unroll()
        {
            self.line(hint);
        }
        let declared = self.dialect.declare(ty, &name, &from, false);
        self.line(&format!("for ({declared} {name} < {to}; {name} = {next}) {{"));
        self.nested(body);
        self.line("}");
    }

    /// Whether a loop has few turns, as many as its text says.
    fn is_short(&self, ends: [ExprId; 2]) -> bool {
        let [from, to] = ends.map(|id| match self.kernel.expr(id).op {
            Op::Literal(Literal { bits, scalar: Scalar::I32 | Scalar::U32 }) => Some(bits),
            _ => None,
        });
        from.zip(to).is_some_and(|(from, to)| to.wrapping_sub(from) <= UNROLLED_MAX)
    }

    /// What a loop counts where each of its turns is written, and what it comes to.
    fn written_turns(
        &self,
        var: VarId,
        ends: [ExprId; 3],
        body: &[Stmt],
    ) -> (Option<StepBy<Range<u32>>>, usize) {
        let one = self.cost(body).saturating_add(1);
        let turns = self.turns(var, ends).filter(|_| !jumps(body));
        let all = turns.as_ref().map_or(usize::MAX, |turns| turns.len().saturating_mul(one));
        if all <= WRITTEN_MAX { (turns, all) } else { (None, one) }
    }

    /// What a loop counts, where its text says so and the target does not unroll by itself.
    fn turns(&self, var: VarId, ends: [ExprId; 3]) -> Option<StepBy<Range<u32>>> {
        let [from, to, step] = ends.map(|id| match self.kernel.expr(id).op {
            Op::Literal(Literal { bits, scalar: Scalar::I32 | Scalar::U32 }) => Some(bits),
            _ => None,
        });
        // Above it a signed number is below zero.
        let most = i32::MAX as u32;
        let (from, to) = (from.filter(|&at| at <= most)?, to.filter(|&at| at <= most)?);
        let step = step.filter(|&by| by > 0)?;
        let turns = to.saturating_sub(from).div_ceil(step);
        let written = matches!(self.dialect.unroll(), Unroll::Text)
            && turns <= UNROLLED_MAX
            && !self.changed.contains(&var);
        written.then(|| (from..to).step_by(step as usize))
    }

    /// What a block comes to: its statements, long ones more than once.
    fn cost(&self, block: &[Stmt]) -> usize {
        let size = |id: &ExprId| self.sizes[id.0 as usize];
        let place = |place: &Place| place.indices().iter().map(size).fold(0, usize::saturating_add);
        let of = |stmt: &Stmt| match stmt {
            Stmt::Let(_, value) | Stmt::Set(_, value) => size(value) / TERMS,
            Stmt::Store(to, value) | Stmt::Atomic { place: to, value, .. } => {
                size(value).saturating_add(place(to)) / TERMS
            }
            Stmt::If(condition, yes, no) => (size(condition) / TERMS)
                .saturating_add(self.cost(yes))
                .saturating_add(self.cost(no)),
            Stmt::Loop(body) => self.cost(body),
            Stmt::For { var, from, to, step, body } => {
                self.written_turns(*var, [*from, *to, *step], body).1
            }
            _ => 0,
        };
        block.iter().fold(0, |all, stmt| all.saturating_add(1).saturating_add(of(stmt)))
    }

    /// A turn of a loop that is written out.
    fn turn(&mut self, var: VarId, count: u32, body: &[Stmt]) {
        let ty = self.kernel.var(var);
        let value = self.dialect.literal(Literal { bits: count, scalar: ty.scalar });
        self.line("{");
        self.indent += 1;
        // As a variable: what is computed of a constant would be refused where it divides by zero,
        // also where it is never run.
        let declared = self.dialect.declare(ty, &var_name(var), &value, false);
        self.line(&declared);
        self.block(body);
        self.indent -= 1;
        self.line("}");
    }

    fn is_bool(&self, place: &Place) -> bool {
        self.kernel.element(place).scalar == Scalar::Bool
    }

    /// Writes a vector to elements of a buffer of scalars.
    fn store_span(&mut self, place: &Place, value: ExprId) {
        let (ty, memory, value) =
            (self.kernel.element(place), self.memory(place), self.expr(value));
        let (bounds, number) = self.bounds(place);
        for (index, len) in bounds {
            let stored = self.dialect.store_span(ty, &memory, &index, &value);
            if self.options.checked {
                let inside = self.dialect.inside(&index, ty.lanes, &len, number);
                self.line(&format!("if ({inside}) {{ {stored} }}"));
            } else {
                self.line(&stored);
            }
        }
    }

    /// Reads a vector of them; zeros where they are not all there.
    fn load_span(&self, place: &Place, ty: Type) -> String {
        let (bounds, number) = self.bounds(place);
        let loads = bounds.iter().map(|(index, len)| {
            let loaded = self.dialect.load_span(ty, &self.memory(place), index);
            if !self.options.checked {
                return loaded;
            }
            let zero = self.dialect.literal(Literal { scalar: ty.scalar, bits: 0 });
            let inside = self.dialect.inside(index, ty.lanes, len, number);
            self.dialect.select(&inside, &loaded, &self.dialect.vector(ty, &[zero]))
        });
        loads.collect()
    }

    fn store(&mut self, place: &Place, value: ExprId) {
        if matches!(place, Place::Span(..)) {
            return self.store_span(place, value);
        }
        let mut value = self.expr(value);
        if self.is_bool(place) {
            value = self.dialect.cast(Type::BOOL, Type::U32, &value);
        }
        if !self.options.checked {
            let element = self.element(place, false);
            return self.line(&format!("{element} = {value};"));
        }
        // Evaluated before the index is looked at, as everywhere.
        let ty = self.kernel.element(place);
        let ty = if ty.scalar == Scalar::Bool { Type::U32 } else { ty };
        let name = self.temporary();
        let declared = self.dialect.declare(ty, &name, &value, true);
        self.line("{");
        self.indent += 1;
        self.line(&declared);
        let (tests, element) = self.once(place);
        self.line(&format!("if ({tests}) {{ {element} = {name}; }}"));
        self.indent -= 1;
        self.line("}");
    }

    fn temporary(&mut self) -> String {
        self.temporaries += 1;
        format!("h_t{}", self.temporaries)
    }

    fn atomic(&mut self, op: Atomic, place: &Place, value: ExprId, old: VarId) {
        let value = self.expr(value);
        let ty = self.kernel.element(place);
        let element = self.element(place, false);
        let change = self.dialect.atomic(op, ty.scalar, &element, &value);
        let name = var_name(old);
        if !self.options.checked {
            let declared = self.dialect.declare(ty, &name, &change, true);
            return self.line(&declared);
        }
        let zero = self.dialect.literal(Literal { scalar: ty.scalar, bits: 0 });
        let declared = self.dialect.declare(ty, &name, &zero, false);
        self.line(&declared);
        let value = self.bound(ty, value);
        let (tests, element) = self.once(place);
        let change = self.dialect.atomic(op, ty.scalar, &element, &value);
        self.line(&format!("if ({tests}) {{ {name} = {change}; }}"));
    }

    /// Each index of a place, with the number that it stays below.
    fn bounds(&self, place: &Place) -> (Vec<(String, String)>, u32) {
        match place {
            Place::Span(first, _) => self.bounds(first),
            Place::Buffer(param, index) => {
                let len = self.dialect.len(self.kernel, *param);
                (vec![(self.expr(*index), len)], param.0)
            }
            Place::Array(id, indices) => {
                let extents = &self.kernel.array(*id).extents;
                let bounds = indices.iter().zip(extents).map(|(&index, &extent)| {
                    (self.expr(index), self.dialect.literal(Literal::new(extent)))
                });
                (bounds.collect(), ARRAYS_FROM + id.0)
            }
        }
    }

    /// A name for a value that is evaluated here.
    fn bound(&mut self, ty: Type, value: String) -> String {
        let name = self.temporary();
        let declared = self.dialect.declare(ty, &name, &value, true);
        self.line(&declared);
        name
    }

    /// Whether all indices are inside, and the element; each index is evaluated once, before: what
    /// is tested is what is used, whatever other items write meanwhile.
    fn once(&mut self, place: &Place) -> (String, String) {
        let (bounds, memory) = self.bounds(place);
        let (mut tests, mut indices) = (Vec::new(), String::new());
        for (index, len) in bounds {
            let index = self.bound(Type::U32, index);
            tests.push(self.dialect.inside(&index, 1, &len, memory));
            indices.push_str(&format!("[{index}]"));
        }
        (tests.join(" && "), format!("{}{indices}", self.memory(place)))
    }

    /// The name of memory.
    fn memory(&self, place: &Place) -> String {
        match place {
            Place::Buffer(param, _) => param_name(self.kernel.param(*param)),
            Place::Span(first, _) => self.memory(first),
            Place::Array(array, _) => array_name(*array),
        }
    }

    /// An element, as it is read or written.
    fn element(&self, place: &Place, checked: bool) -> String {
        let (bounds, memory) = self.bounds(place);
        let indices = bounds.iter().map(|(index, len)| {
            let index =
                if checked { self.dialect.checked(index, len, memory) } else { index.clone() };
            format!("[{index}]")
        });
        format!("{}{}", self.memory(place), indices.collect::<String>())
    }

    fn expr(&self, id: ExprId) -> String {
        let expr = self.kernel.expr(id);
        let (ty, dialect) = (expr.ty, self.dialect);
        match &expr.op {
            Op::Literal(literal) => dialect.literal(*literal),
            Op::Var(var) => var_name(*var),
            Op::Value(param) => dialect.value(self.kernel, *param),
            Op::Len(param) => dialect.len(self.kernel, *param),
            Op::Id(id, axis) => dialect.id(*id, *axis, self.kernel.group[usize::from(*axis)]),
            Op::Unary(op, a) => dialect.unary(*op, ty, &self.expr(*a)),
            Op::Binary(op, a, b) => self.binary(*op, ty, *a, *b),
            // Some compilers take `!=` to be false for what is no number.
            Op::Compare(Compare::Ne, a, b) => {
                format!("(!({} == {}))", self.expr(*a), self.expr(*b))
            }
            Op::Compare(op, a, b) => {
                format!("({} {} {})", self.expr(*a), op.sign(), self.expr(*b))
            }
            Op::And(a, b) => format!("({} && {})", self.expr(*a), self.expr(*b)),
            Op::Or(a, b) => format!("({} || {})", self.expr(*a), self.expr(*b)),
            Op::Select(condition, yes, no) => {
                dialect.select(&self.expr(*condition), &self.expr(*yes), &self.expr(*no))
            }
            Op::Cast(a) if self.kernel.type_of(*a) == ty => self.expr(*a),
            Op::Cast(a) => dialect.cast(self.kernel.type_of(*a), ty, &self.expr(*a)),
            Op::Bits(a) => dialect.bits(self.kernel.type_of(*a), ty, &self.expr(*a)),
            Op::Call(function, operands) => {
                let operands: Vec<String> = operands.iter().map(|&a| self.expr(a)).collect();
                dialect.call(*function, ty, &operands)
            }
            Op::Load(place @ Place::Span(..)) => self.load_span(place, ty),
            Op::Load(place) => {
                let element = self.element(place, self.options.checked);
                if ty.scalar == Scalar::Bool { format!("({element} != 0u)") } else { element }
            }
            Op::Splat(a) => dialect.vector(ty, &[self.expr(*a)]),
            Op::Lanes(values) => {
                let values: Vec<String> = values.iter().map(|&a| self.expr(a)).collect();
                dialect.vector(ty, &values)
            }
            Op::Lane(a, _) if self.kernel.type_of(*a).lanes == 1 => self.expr(*a),
            Op::Lane(a, lane) => dialect.lane(&self.expr(*a), *lane),
            Op::Group(op, a) if self.options.subgroups => dialect.group(*op, ty, &self.expr(*a)),
            Op::Group(_, a) => self.expr(*a),
        }
    }

    fn binary(&self, op: Binary, ty: Type, a: ExprId, b: ExprId) -> String {
        let text = self.expr(a);
        if let Op::Literal(literal) = self.kernel.expr(b).op
            && ty.scalar.is_integer()
        {
            let other = |bits: u32| self.dialect.literal(Literal { bits, ..literal });
            match op {
                Binary::Div if literal.bits == 0 => return text,
                Binary::Rem if literal.bits == 0 => return other(0),
                Binary::Shl | Binary::Shr => {
                    return self.dialect.binary(op, ty, &text, &other(literal.bits & 31));
                }
                _ => {}
            }
        }
        self.dialect.binary(op, ty, &text, &self.expr(b))
    }
}

/// Whether a parameter is memory.
pub(super) fn is_buffer(param: &Param) -> bool {
    matches!(param.kind, ParamKind::Buffer { .. })
}
