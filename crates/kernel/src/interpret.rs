//! The plain reference: runs a kernel's IR, all items of a group in step, and checks what no
//! device checks: that no two items use an element at once, and that all reach each barrier.

use crate::error::KernelError;
use crate::function::{Binary, Group};
use crate::ir::{Access, Atomic, ExprId, Id, Kernel, Op, ParamKind, Place, Space, Stmt, VarId};
use crate::launch::{Arg, Given};
use crate::scalar::{binary, call, cast, compare, unary};
use crate::types::{Literal, Scalar, Type};

/// How the interpreter runs.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Items of a subgroup.
    pub subgroup: usize,
    /// Most turns of loops that a group takes.
    pub steps: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { subgroup: 4, steps: 1 << 24 }
    }
}

/// Runs a kernel on the host's memory.
///
/// # Errors
/// As [`Kernel::check_call`]; when an index is out of bounds, items use an element at once without
/// a barrier between them and one writes, not all reach a barrier, or loops do not end.
pub fn interpret(
    kernel: &Kernel,
    groups: [u32; 3],
    args: &mut [Arg<'_>],
    limits: Limits,
) -> Result<(), KernelError> {
    let given: Vec<Given> = args.iter().map(Arg::given).collect();
    kernel.check_call(groups, &given)?;
    let mut memory: Vec<Memory> = kernel
        .params
        .iter()
        .zip(args.iter())
        .map(|(param, arg)| Memory::new(param.kind, arg))
        .collect();
    for z in 0..groups[2] {
        for y in 0..groups[1] {
            for x in 0..groups[0] {
                let mut run = Run::new(kernel, groups, [x, y, z], &mut memory, limits);
                let mut active = vec![true; run.items];
                run.block(&kernel.body, &mut active)?;
            }
        }
    }
    for (arg, memory) in args.iter_mut().zip(&memory) {
        if let Arg::Write(scalar, bytes) = arg {
            let size = scalar.bytes();
            for (bytes, word) in bytes.chunks_exact_mut(size).zip(&memory.words) {
                bytes.copy_from_slice(&word.to_le_bytes()[..size]);
            }
        }
    }
    Ok(())
}

/// Who used an element last.
#[derive(Clone, Copy, Default)]
struct Mark {
    writer: Option<Visit>,
    reader: Option<Visit>,
    /// Another item has read it since the last barrier as well.
    many: bool,
    /// Items of more than one group have read it.
    foreign: bool,
}

/// An item at a time: between the same barriers of one group, items are at once.
#[derive(Clone, Copy, PartialEq)]
struct Visit {
    group: [u32; 3],
    item: usize,
    phase: u32,
}

impl Visit {
    /// Whether another item may do this at the same time.
    fn at_once(self, other: Visit) -> bool {
        if self.group != other.group {
            return true;
        }
        self.item != other.item && self.phase == other.phase
    }
}

/// Memory as words, one a scalar.
struct Memory {
    words: Vec<u32>,
    marks: Vec<Mark>,
    atomic: bool,
}

impl Memory {
    fn new(kind: ParamKind, arg: &Arg<'_>) -> Memory {
        let (scalar, bytes) = match arg {
            Arg::Value(literal) => {
                return Memory { words: vec![literal.bits], marks: Vec::new(), atomic: false };
            }
            Arg::Read(scalar, bytes) => (*scalar, *bytes),
            Arg::Write(scalar, bytes) => (*scalar, &**bytes),
        };
        let words = bytes
            .chunks_exact(scalar.bytes())
            .map(|bytes| {
                let mut word = [0; 4];
                word[..bytes.len()].copy_from_slice(bytes);
                u32::from_le_bytes(word)
            })
            .collect::<Vec<u32>>();
        let atomic = matches!(kind, ParamKind::Buffer { access: Access::Atomic, .. });
        Memory { marks: vec![Mark::default(); words.len()], words, atomic }
    }

    fn zeroed(words: usize) -> Memory {
        Memory { words: vec![0; words], marks: vec![Mark::default(); words], atomic: false }
    }

    /// Notes that an element is read; false when that is a race.
    fn read(&mut self, at: usize, visit: Visit) -> bool {
        let mark = &mut self.marks[at];
        if mark.writer.is_some_and(|writer| writer.at_once(visit)) {
            return self.atomic;
        }
        if let Some(reader) = mark.reader {
            let now = reader.group == visit.group && reader.phase == visit.phase;
            mark.many = now && (mark.many || reader.item != visit.item);
            mark.foreign |= reader.group != visit.group;
        }
        mark.reader = Some(visit);
        true
    }

    /// Notes that an element is written; false when that is a race.
    fn write(&mut self, at: usize, visit: Visit) -> bool {
        let mark = &mut self.marks[at];
        let written = mark.writer.is_some_and(|writer| writer.at_once(visit));
        let read = mark.reader.is_some_and(|reader| {
            let now = reader.group == visit.group && reader.phase == visit.phase;
            reader.at_once(visit) || mark.foreign || mark.many && now
        });
        if !self.atomic && (written || read) {
            return false;
        }
        *mark = Mark { writer: Some(visit), ..Mark::default() };
        true
    }
}

struct Run<'a> {
    kernel: &'a Kernel,
    groups: [u32; 3],
    group: [u32; 3],
    items: usize,
    /// Words of each variable: of item 0 all lanes, of item 1 ..
    vars: Vec<Vec<u32>>,
    memory: &'a mut [Memory],
    /// Of the group, or of all items one after the other.
    arrays: Vec<Memory>,
    /// Barriers so far.
    phase: u32,
    /// Items that have ended.
    ended: Vec<bool>,
    limits: Limits,
    steps: u64,
}

/// Items that have left the innermost loop, or this turn of it.
struct Turn {
    left: Vec<bool>,
    over: Vec<bool>,
}

type Done = Result<(), KernelError>;

impl<'a> Run<'a> {
    fn new(
        kernel: &'a Kernel,
        groups: [u32; 3],
        group: [u32; 3],
        memory: &'a mut [Memory],
        limits: Limits,
    ) -> Run<'a> {
        let items = kernel.group_items() as usize;
        let vars = kernel.vars.iter().map(|ty| vec![0; items * usize::from(ty.lanes)]).collect();
        let arrays = kernel
            .arrays
            .iter()
            .map(|array| {
                let words = array.elements() * usize::from(array.element.lanes);
                Memory::zeroed(if array.space == Space::Shared { words } else { words * items })
            })
            .collect();
        let ended = vec![false; items];
        Run {
            kernel,
            groups,
            group,
            items,
            vars,
            memory,
            arrays,
            phase: 0,
            ended,
            limits,
            steps: 0,
        }
    }

    fn block(&mut self, block: &[Stmt], active: &mut [bool]) -> Done {
        let mut turn = Turn { left: vec![false; self.items], over: vec![false; self.items] };
        self.stmts(block, active, &mut turn)
    }

    /// Runs statements by the active items; those that leave are not active any more.
    fn stmts(&mut self, block: &[Stmt], active: &mut [bool], turn: &mut Turn) -> Done {
        for stmt in block {
            if !active.contains(&true) {
                return Ok(());
            }
            self.stmt(stmt, active, turn)?;
            for (item, active) in active.iter_mut().enumerate() {
                *active &= !(self.ended[item] || turn.left[item] || turn.over[item]);
            }
        }
        Ok(())
    }

    fn stmt(&mut self, stmt: &Stmt, active: &mut [bool], turn: &mut Turn) -> Done {
        match stmt {
            Stmt::Let(var, value) | Stmt::Set(var, value) => {
                let value = self.eval(*value, active)?;
                self.assign(*var, &value, active);
            }
            Stmt::Store(place, value) => {
                let value = self.eval(*value, active)?;
                self.store(place, &value, active)?;
            }
            Stmt::Atomic { op, place, value, old } => {
                self.atomic(*op, place, *value, *old, active)?;
            }
            Stmt::If(condition, yes, no) => {
                let holds = self.eval(*condition, active)?;
                let split = |wanted: bool| {
                    (0..self.items).map(|i| active[i] && (holds[i] != 0) == wanted).collect()
                };
                let (mut then, mut otherwise): (Vec<bool>, Vec<bool>) = (split(true), split(false));
                self.stmts(yes, &mut then, turn)?;
                self.stmts(no, &mut otherwise, turn)?;
            }
            Stmt::For { var, from, to, step, body } => {
                let from = self.eval(*from, active)?;
                self.assign(*var, &from, active);
                self.for_(*var, *to, *step, body, active)?;
            }
            Stmt::Loop(body) => {
                self.loop_(active, |run, active, turn| run.stmts(body, active, turn))?
            }
            Stmt::Break => mark(&mut turn.left, active),
            Stmt::Continue => mark(&mut turn.over, active),
            Stmt::Return => mark(&mut self.ended, active),
            Stmt::Barrier => {
                if active.contains(&false) {
                    return Err(KernelError::Divergent { name: self.kernel.name.clone() });
                }
                self.phase += 1;
            }
        }
        Ok(())
    }

    /// Turns of a loop until all active items have left it.
    fn loop_(
        &mut self,
        active: &[bool],
        mut body: impl FnMut(&mut Self, &mut [bool], &mut Turn) -> Done,
    ) -> Done {
        let mut turn = Turn { left: vec![false; self.items], over: vec![false; self.items] };
        loop {
            turn.over.fill(false);
            let mut inside: Vec<bool> = (0..self.items)
                .map(|item| active[item] && !turn.left[item] && !self.ended[item])
                .collect();
            if !inside.contains(&true) {
                return Ok(());
            }
            self.steps += 1;
            if self.steps > self.limits.steps {
                let (name, limit) = (self.kernel.name.clone(), self.limits.steps);
                return Err(KernelError::Steps { name, limit });
            }
            body(self, &mut inside, &mut turn)?;
        }
    }

    fn for_(
        &mut self,
        var: VarId,
        to: ExprId,
        step: ExprId,
        body: &[Stmt],
        active: &[bool],
    ) -> Done {
        let (to, step) = (self.eval(to, active)?, self.eval(step, active)?);
        let signed = self.kernel.var(var).scalar == Scalar::I32;
        let below = |a: u32, b: u32| if signed { (a as i32) < b as i32 } else { a < b };
        self.loop_(active, |run, inside, turn| {
            for item in 0..run.items {
                if inside[item] && !below(run.vars[var.0 as usize][item], to[item]) {
                    turn.left[item] = true;
                    inside[item] = false;
                }
            }
            run.stmts(body, inside, turn)?;
            for (item, at) in run.vars[var.0 as usize].iter_mut().enumerate() {
                let next = at.wrapping_add(step[item]);
                // Beyond the greatest number there is no next one.
                turn.left[item] |= !below(*at, next);
                *at = next;
            }
            Ok(())
        })
    }

    fn assign(&mut self, var: VarId, value: &[u32], active: &[bool]) {
        let lanes = usize::from(self.kernel.var(var).lanes);
        let words = &mut self.vars[var.0 as usize];
        for item in (0..self.items).filter(|&item| active[item]) {
            let range = item * lanes..(item + 1) * lanes;
            words[range.clone()].copy_from_slice(&value[range]);
        }
    }

    /// The first word of an element for an item.
    fn locate(
        &mut self,
        place: &Place,
        item: usize,
        indices: &[Vec<u32>],
    ) -> Result<usize, KernelError> {
        let lanes = usize::from(self.kernel.element(place).lanes);
        let (index, len, base) = match place {
            Place::Buffer(param, _) => {
                let len = self.memory[param.0 as usize].words.len() / lanes;
                (u64::from(indices[0][item]), len, 0)
            }
            Place::Span(first, _) => {
                let at = self.locate(first, item, indices)?;
                let len = match &**first {
                    Place::Array(id, _) => self.kernel.array(*id).extents.last().copied(),
                    _ => u32::try_from(self.memory(first).words.len()).ok(),
                };
                let (last, len) = (indices.last().map_or(0, |index| index[item]), len.unwrap_or(0));
                if len - last >= lanes as u32 {
                    return Ok(at);
                }
                let (name, memory) =
                    (self.kernel.name.clone(), self.kernel.memory_name(place.memory()));
                return Err(KernelError::OutOfBounds {
                    name,
                    memory,
                    index: len,
                    len: len as usize,
                });
            }
            Place::Array(id, _) => {
                let array = self.kernel.array(*id);
                let mut flat = 0u64;
                let mut outside = false;
                for (index, &extent) in indices.iter().zip(&array.extents) {
                    outside |= index[item] >= extent;
                    flat = flat * u64::from(extent) + u64::from(index[item]);
                }
                let base = if array.space == Space::Private { item * array.elements() } else { 0 };
                let flat = if outside { u64::MAX } else { flat };
                (flat, array.elements(), base)
            }
        };
        if index >= len as u64 {
            let (name, memory) =
                (self.kernel.name.clone(), self.kernel.memory_name(place.memory()));
            let index = indices.last().map_or(0, |index| index[item]);
            return Err(KernelError::OutOfBounds { name, memory, index, len });
        }
        Ok((base + index as usize) * lanes)
    }

    fn indices(&mut self, place: &Place, active: &[bool]) -> Result<Vec<Vec<u32>>, KernelError> {
        place.indices().iter().map(|&index| self.eval(index, active)).collect()
    }

    fn memory(&mut self, place: &Place) -> &mut Memory {
        match place {
            Place::Buffer(param, _) => &mut self.memory[param.0 as usize],
            Place::Span(first, _) => self.memory(first),
            Place::Array(array, _) => &mut self.arrays[array.0 as usize],
        }
    }

    /// Notes that an item uses an element, or all that a vector is made of.
    fn visit(&mut self, place: &Place, at: usize, item: usize, writes: bool) -> Done {
        let visit = Visit { group: self.group, item, phase: self.phase };
        let lanes = usize::from(self.kernel.element(place).lanes);
        let memory = self.memory(place);
        let mut note =
            |word| if writes { memory.write(word, visit) } else { memory.read(word, visit) };
        // Also those of a vector: a buffer may be read by vectors and written by their parts.
        let Some(word) = (at..at + lanes).find(|&word| !note(word)) else { return Ok(()) };
        let index = if matches!(place, Place::Span(..)) { word } else { word / lanes };
        let (name, memory) = (self.kernel.name.clone(), self.kernel.memory_name(place.memory()));
        Err(KernelError::Race { name, memory, index: index as u32 })
    }

    fn load(&mut self, place: &Place, active: &[bool]) -> Result<Vec<u32>, KernelError> {
        let lanes = usize::from(self.kernel.element(place).lanes);
        let indices = self.indices(place, active)?;
        let mut value = vec![0; self.items * lanes];
        for item in (0..self.items).filter(|&item| active[item]) {
            let at = self.locate(place, item, &indices)?;
            self.visit(place, at, item, false)?;
            let words = &self.memory(place).words[at..at + lanes];
            value[item * lanes..(item + 1) * lanes].copy_from_slice(words);
        }
        Ok(value)
    }

    fn store(&mut self, place: &Place, value: &[u32], active: &[bool]) -> Done {
        let lanes = usize::from(self.kernel.element(place).lanes);
        let indices = self.indices(place, active)?;
        for item in (0..self.items).filter(|&item| active[item]) {
            let at = self.locate(place, item, &indices)?;
            self.visit(place, at, item, true)?;
            let words = &value[item * lanes..(item + 1) * lanes];
            self.memory(place).words[at..at + lanes].copy_from_slice(words);
        }
        Ok(())
    }

    fn atomic(
        &mut self,
        op: Atomic,
        place: &Place,
        value: ExprId,
        old: VarId,
        active: &[bool],
    ) -> Done {
        let scalar = self.kernel.element(place).scalar;
        let (value, indices) = (self.eval(value, active)?, self.indices(place, active)?);
        for item in (0..self.items).filter(|&item| active[item]) {
            let at = self.locate(place, item, &indices)?;
            let word = &mut self.memory(place).words[at];
            let was = *word;
            *word = match op {
                Atomic::Add => binary(Binary::Add, scalar, was, value[item]),
                Atomic::Min => binary(Binary::Min, scalar, was, value[item]),
                Atomic::Max => binary(Binary::Max, scalar, was, value[item]),
                Atomic::And => was & value[item],
                Atomic::Or => was | value[item],
                Atomic::Xor => was ^ value[item],
                Atomic::Exchange => value[item],
            };
            self.vars[old.0 as usize][item] = was;
        }
        Ok(())
    }

    fn id(&self, id: Id, axis: usize, item: usize) -> u32 {
        let size = self.kernel.group;
        let [width, height, _] = size.map(|extent| extent as usize);
        let local = [item % width, item / width % height, item / (width * height)][axis] as u32;
        match id {
            Id::Local => local,
            Id::Group => self.group[axis],
            Id::Groups => self.groups[axis],
            Id::Global => self.group[axis] * size[axis] + local,
        }
    }

    /// The value of an expression for the active items; anything for the others.
    fn eval(&mut self, id: ExprId, active: &[bool]) -> Result<Vec<u32>, KernelError> {
        let kernel = self.kernel;
        let expr = kernel.expr(id);
        let (items, lanes) = (self.items, usize::from(expr.ty.lanes));
        let all = |bits: u32| vec![bits; items * lanes];
        Ok(match &expr.op {
            Op::Literal(Literal { bits, .. }) => all(*bits),
            Op::Var(var) => self.vars[var.0 as usize].clone(),
            Op::Value(param) => all(self.memory[param.0 as usize].words[0]),
            Op::Len(param) => {
                let element = kernel.element(&Place::Buffer(*param, id));
                let words = self.memory[param.0 as usize].words.len();
                all((words / usize::from(element.lanes)) as u32)
            }
            Op::Id(which, axis) => {
                (0..items).map(|item| self.id(*which, usize::from(*axis), item)).collect()
            }
            Op::Load(place) => self.load(place, active)?,
            Op::And(a, b) | Op::Or(a, b) => {
                let and = matches!(expr.op, Op::And(..));
                let mut a = self.eval(*a, active)?;
                let more: Vec<bool> = (0..items).map(|i| active[i] && (a[i] != 0) == and).collect();
                if more.contains(&true) {
                    let b = self.eval(*b, &more)?;
                    (0..items).filter(|&i| more[i]).for_each(|i| a[i] = b[i]);
                }
                a
            }
            Op::Select(condition, yes, no) => {
                let condition = self.eval(*condition, active)?;
                let (yes, no) = (self.eval(*yes, active)?, self.eval(*no, active)?);
                let pick = |i: usize| if condition[i / lanes] != 0 { yes[i] } else { no[i] };
                (0..items * lanes).map(pick).collect()
            }
            Op::Group(op, value) => {
                let value = self.eval(*value, active)?;
                self.subgroups(*op, expr.ty.scalar, &value, active)
            }
            _ => self.compute(&expr.op, expr.ty, active)?,
        })
    }

    /// What is computed of operands lane by lane.
    fn compute(&mut self, op: &Op, ty: Type, active: &[bool]) -> Result<Vec<u32>, KernelError> {
        let lanes = usize::from(ty.lanes);
        Ok(match op {
            Op::Unary(op, a) => {
                let a = self.eval(*a, active)?;
                a.into_iter().map(|a| unary(*op, ty.scalar, a)).collect()
            }
            Op::Binary(op, a, b) => {
                let (a, b) = (self.eval(*a, active)?, self.eval(*b, active)?);
                a.into_iter().zip(b).map(|(a, b)| binary(*op, ty.scalar, a, b)).collect()
            }
            Op::Compare(op, a, b) => {
                let scalar = self.kernel.type_of(*a).scalar;
                let (a, b) = (self.eval(*a, active)?, self.eval(*b, active)?);
                a.into_iter().zip(b).map(|(a, b)| compare(*op, scalar, a, b)).collect()
            }
            Op::Cast(a) => {
                let from = self.kernel.type_of(*a).scalar;
                self.eval(*a, active)?.into_iter().map(|a| cast(from, ty.scalar, a)).collect()
            }
            Op::Bits(a) => self.eval(*a, active)?,
            Op::Call(function, operands) => {
                let operands: Vec<Vec<u32>> =
                    operands.iter().map(|&a| self.eval(a, active)).collect::<Result<_, _>>()?;
                let count = operands.first().map_or(0, Vec::len);
                (0..count).map(|i| call(*function, ty.scalar, &operands, i)).collect()
            }
            Op::Splat(a) => {
                let a = self.eval(*a, active)?;
                a.into_iter().flat_map(|a| std::iter::repeat_n(a, lanes)).collect()
            }
            Op::Lane(a, lane) => {
                let from = usize::from(self.kernel.type_of(*a).lanes);
                let a = self.eval(*a, active)?;
                a.chunks_exact(from).map(|lanes| lanes[usize::from(*lane)]).collect()
            }
            Op::Lanes(values) => {
                let values: Vec<Vec<u32>> =
                    values.iter().map(|&a| self.eval(a, active)).collect::<Result<_, _>>()?;
                (0..self.items).flat_map(|item| values.iter().map(move |v| v[item])).collect()
            }
            _ => Vec::new(),
        })
    }

    fn subgroups(&self, op: Group, scalar: Scalar, value: &[u32], active: &[bool]) -> Vec<u32> {
        let op = match op {
            Group::Add => Binary::Add,
            Group::Min => Binary::Min,
            Group::Max => Binary::Max,
        };
        let mut result = vec![0; self.items];
        let size = self.limits.subgroup.max(1);
        for first in (0..self.items).step_by(size) {
            let members = first..(first + size).min(self.items);
            let there = members.clone().filter(|&item| active[item]).map(|item| value[item]);
            let total = there.reduce(|a, b| binary(op, scalar, a, b)).unwrap_or(0);
            result[members].fill(total);
        }
        result
    }
}

fn mark(marks: &mut [bool], active: &[bool]) {
    marks.iter_mut().zip(active).for_each(|(mark, active)| *mark |= active);
}
