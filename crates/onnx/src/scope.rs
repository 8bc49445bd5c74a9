//! Names while a file is read: which value a name means, across bodies and functions.
//!
//! A *frame* is a graph that is being built: the model's, and inside it those of the bodies that
//! are being read. A *scope* is what one list of nodes can see. A body opens a frame and a scope
//! that sees its parent's names; an inlined function opens a scope that sees nothing but its
//! arguments, in the frame of its caller. A name that is found in an outer frame is captured
//! through every frame on the way in.

use std::collections::HashMap;
use std::rc::Rc;

use hetra_ir::{Capture, Graph, Type, ValueId};

use crate::proto::{AttributeProto, TypeProto};

/// Names in use, each with the number to try next when it is wanted again.
#[derive(Default)]
pub(crate) struct Taken(HashMap<String, usize>);

impl Taken {
    /// The name if it is free, else the name with a number.
    pub(crate) fn unique(&mut self, name: &str) -> String {
        let name = if name.is_empty() { "value" } else { name };
        let Some(next) = self.0.get(name).copied() else {
            self.0.insert(name.to_string(), 1);
            return name.to_string();
        };
        let free = |number: &usize| !self.0.contains_key(&format!("{name}_{number}"));
        let number = (next..).find(free).unwrap_or(next);
        let unique = format!("{name}_{number}");
        self.0.insert(name.to_string(), number + 1);
        self.0.insert(unique.clone(), 1);
        unique
    }
}

/// A graph that is being built.
pub(crate) struct Frame {
    pub(crate) graph: Graph,
    taken: Taken,
    captured: HashMap<ValueId, ValueId>,
}

impl Frame {
    pub(crate) fn new(name: &str) -> Frame {
        let graph = Graph { name: name.to_string(), ..Graph::default() };
        Frame { graph, taken: Taken::default(), captured: HashMap::new() }
    }

    /// Adds a value; its name gets a number where it is taken.
    pub(crate) fn add(&mut self, name: &str, ty: Type) -> ValueId {
        let name = self.taken.unique(name);
        self.graph.add_value(&name, ty)
    }

    /// Gives a value another name.
    pub(crate) fn rename(&mut self, id: ValueId, name: &str) {
        let name = self.taken.unique(name);
        self.graph.values[id.index()].name = name;
    }

    fn capture(&mut self, outer: ValueId, name: &str, ty: Type) -> ValueId {
        if let Some(inner) = self.captured.get(&outer) {
            return *inner;
        }
        let inner = self.add(name, ty);
        self.captured.insert(outer, inner);
        self.graph.captures.push(Capture { outer, inner });
        inner
    }
}

/// An attribute of a call, and the scope it was written in.
#[derive(Clone, Copy)]
pub(crate) struct Binding<'a> {
    pub(crate) proto: &'a AttributeProto,
    pub(crate) scope: usize,
}

/// What the nodes of a model or function share, its bodies included.
pub(crate) struct Context<'a> {
    /// Version by domain.
    pub(crate) opsets: HashMap<&'a str, u32>,
    /// The function's attributes; `None` in the model.
    pub(crate) bindings: Option<HashMap<&'a str, Binding<'a>>>,
    /// What the names of values and nodes start with.
    pub(crate) prefix: String,
}

/// What one list of nodes can see.
pub(crate) struct Scope<'a> {
    /// The frame its values stand in.
    pub(crate) frame: usize,
    /// The scope around; `None` for a model or function.
    pub(crate) parent: Option<usize>,
    /// Its own names; `None` for an argument that the call leaves out.
    pub(crate) names: HashMap<&'a str, Option<ValueId>>,
    /// Types that the file tells.
    pub(crate) types: HashMap<&'a str, &'a TypeProto>,
    pub(crate) context: Rc<Context<'a>>,
}

/// All frames and scopes that are open, innermost last.
#[derive(Default)]
pub(crate) struct Stack<'a> {
    pub(crate) frames: Vec<Frame>,
    pub(crate) scopes: Vec<Scope<'a>>,
}

impl<'a> Stack<'a> {
    /// The index of the innermost scope.
    pub(crate) fn top(&self) -> usize {
        self.scopes.len().saturating_sub(1)
    }

    pub(crate) fn scope(&mut self) -> &mut Scope<'a> {
        let top = self.top();
        &mut self.scopes[top]
    }

    pub(crate) fn frame(&mut self) -> &mut Frame {
        let top = self.frames.len().saturating_sub(1);
        &mut self.frames[top]
    }

    pub(crate) fn context(&self) -> Rc<Context<'a>> {
        Rc::clone(&self.scopes[self.top()].context)
    }

    /// What a name means in the innermost scope: `None` when it is defined nowhere, `Some(None)`
    /// when it is an argument that is left out.
    pub(crate) fn lookup(&mut self, name: &str) -> Option<Option<ValueId>> {
        let mut at = Some(self.top());
        while let Some(index) = at {
            let scope = &self.scopes[index];
            if let Some(found) = scope.names.get(name) {
                let (frame, found) = (scope.frame, *found);
                return Some(found.map(|id| self.carry_in(frame, id)));
            }
            at = scope.parent;
        }
        None
    }

    /// Captures a value of `frame` through every frame inside it.
    fn carry_in(&mut self, frame: usize, mut id: ValueId) -> ValueId {
        for inner in frame + 1..self.frames.len() {
            let value = self.frames[inner - 1].graph.value(id).clone();
            id = self.frames[inner].capture(id, &value.name, value.ty);
        }
        id
    }

    /// Defines a name of the innermost scope as a new value of the type that the file tells.
    /// `None` when the scope has that name.
    pub(crate) fn define(&mut self, name: &'a str) -> Option<ValueId> {
        let ty = self.told_type(name);
        let top = self.top();
        if self.scopes[top].names.contains_key(name) {
            return None;
        }
        let full = format!("{}{name}", self.scopes[top].context.prefix);
        let id = self.frame().add(&full, ty);
        self.scopes[top].names.insert(name, Some(id));
        Some(id)
    }

    /// The type that the file tells of a name of the innermost scope.
    pub(crate) fn told_type(&self, name: &str) -> Type {
        let scope = &self.scopes[self.top()];
        // A body may run with other extents each time: names of dims hold in the model only.
        let symbols = scope.frame == 0;
        scope.types.get(name).map_or(Type::Unknown, |ty| crate::types::from_proto(ty, symbols))
    }
}
