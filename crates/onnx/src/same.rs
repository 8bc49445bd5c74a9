//! Whether two graphs mean the same, whatever their values and nodes are called.

use std::collections::HashMap;

use hetra_ir::{Attr, Graph, Node, Type, ValueId};
use hetra_tensor::Value;

/// Compares two graphs up to names, ids, opset versions and constants that nobody reads: nodes
/// must stand in the same order.
///
/// # Errors
/// A sentence on the first difference.
pub fn same_graph(a: &Graph, b: &Graph) -> Result<(), String> {
    Pair { a, b, outer: None, ids: HashMap::new() }.compare()
}

/// Picks one of the two graphs.
type Side = for<'a> fn(&Pair<'a>) -> &'a Graph;

/// Two graphs, and which value of `a` is which of `b`.
struct Pair<'a> {
    a: &'a Graph,
    b: &'a Graph,
    /// The graphs around, when these are bodies.
    outer: Option<&'a Pair<'a>>,
    ids: HashMap<ValueId, ValueId>,
}

impl<'a> Pair<'a> {
    fn compare(mut self) -> Result<(), String> {
        if self.a.inputs.len() != self.b.inputs.len() {
            return Err(format!("{} and {} inputs", self.a.inputs.len(), self.b.inputs.len()));
        }
        for (&a, &b) in self.a.inputs.iter().zip(&self.b.inputs) {
            self.ids.insert(a, b);
            self.types(a, b)?;
            if self.a.constants.get(&a) != self.b.constants.get(&b) {
                return Err(format!("input `{}` has another default", self.a.value(a).name));
            }
        }
        for capture in &self.a.captures {
            let twin = self.outer.and_then(|outer| outer.ids.get(&capture.outer));
            let found = self.b.captures.iter().find(|other| Some(&other.outer) == twin);
            if let Some(other) = found {
                self.ids.insert(capture.inner, other.inner);
            }
        }
        if self.a.nodes.len() != self.b.nodes.len() {
            return Err(format!("{} and {} nodes", self.a.nodes.len(), self.b.nodes.len()));
        }
        for (a, b) in self.a.nodes.iter().zip(&self.b.nodes) {
            self.nodes(a, b).map_err(|reason| format!("node `{}`: {reason}", a.label(self.a)))?;
        }
        let outputs = |graph: &Graph| graph.outputs.iter().copied().map(Some).collect::<Vec<_>>();
        self.all_read(&outputs(self.a), &outputs(self.b))
    }

    fn nodes(&mut self, a: &Node, b: &Node) -> Result<(), String> {
        if a.op != b.op {
            return Err(format!("{} became {}", a.op, b.op));
        }
        let trim = |ids: &[Option<ValueId>]| {
            let used = ids.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            ids[..used].to_vec()
        };
        self.all_read(&trim(&a.inputs), &trim(&b.inputs))?;
        if a.attrs.0.keys().ne(b.attrs.0.keys()) {
            return Err("other attributes".to_string());
        }
        for ((name, a), b) in a.attrs.0.iter().zip(b.attrs.0.values()) {
            self.attrs(a, b).map_err(|reason| format!("attribute `{name}`: {reason}"))?;
        }
        if a.outputs.len() != b.outputs.len() {
            return Err("other outputs".to_string());
        }
        for (a, b) in a.outputs.iter().zip(&b.outputs) {
            match (a, b) {
                (Some(a), Some(b)) => {
                    self.ids.insert(*a, *b);
                    self.types(*a, *b)?;
                }
                (None, None) => {}
                _ => return Err("another output is left out".to_string()),
            }
        }
        Ok(())
    }

    fn attrs(&self, a: &Attr, b: &Attr) -> Result<(), String> {
        let body = |a, b| Pair { a, b, outer: Some(self), ids: HashMap::new() }.compare();
        match (a, b) {
            (Attr::Graph(a), Attr::Graph(b)) => body(a, b),
            (Attr::Graphs(a), Attr::Graphs(b)) if a.len() == b.len() => {
                a.iter().zip(b).try_for_each(|(a, b)| body(a, b))
            }
            (Attr::Float(a), Attr::Float(b)) if a.to_bits() == b.to_bits() => Ok(()),
            (Attr::Type(a), Attr::Type(b)) if erased(a) == erased(b) => Ok(()),
            _ if a == b => Ok(()),
            _ => Err(format!("{a:?} became {b:?}")),
        }
    }

    fn all_read(&mut self, a: &[Option<ValueId>], b: &[Option<ValueId>]) -> Result<(), String> {
        if a.len() != b.len() {
            return Err(format!("{} and {} values", a.len(), b.len()));
        }
        a.iter().zip(b).try_for_each(|(a, b)| match (a, b) {
            (Some(a), Some(b)) => self.read(*a, *b),
            (None, None) => Ok(()),
            _ => Err("another input is left out".to_string()),
        })
    }

    fn read(&mut self, a: ValueId, b: ValueId) -> Result<(), String> {
        let name = &self.a.value(a).name;
        match self.ids.get(&a) {
            Some(twin) if *twin == b => Ok(()),
            Some(_) => Err(format!("`{name}` became another value")),
            // Constants meet where they are read first.
            None => match (self.constant(a, |pair| pair.a), self.constant(b, |pair| pair.b)) {
                (Some(x), Some(y)) if x == y => {
                    self.ids.insert(a, b);
                    Ok(())
                }
                _ => Err(format!("`{name}` became another value")),
            },
        }
    }

    /// The constant behind a value of one side, captured ones included.
    fn constant(&self, id: ValueId, side: Side) -> Option<&'a Value> {
        side(self).constants.get(&id).or_else(|| {
            let capture = side(self).captures.iter().find(|capture| capture.inner == id)?;
            self.outer?.constant(capture.outer, side)
        })
    }

    fn types(&self, a: ValueId, b: ValueId) -> Result<(), String> {
        let (x, y) = (self.a.ty(a), self.b.ty(b));
        match x == y || erased(x) == erased(y) {
            true => Ok(()),
            false => Err(format!("`{}` is a {x} and became a {y}", self.a.value(a).name)),
        }
    }
}

/// A type without the names of its dims, which a file does not keep in bodies.
fn erased(ty: &Type) -> String {
    match ty {
        Type::Tensor(tensor) => {
            let known = |dim: &hetra_ir::Dim| dim.known();
            let dims = tensor.shape.as_ref().map(|dims| dims.iter().map(known).collect::<Vec<_>>());
            format!("{} {dims:?}", tensor.dtype)
        }
        Type::Sequence(item) => format!("seq {}", erased(item)),
        Type::Optional(item) => format!("opt {}", erased(item)),
        Type::Unknown => String::new(),
    }
}
