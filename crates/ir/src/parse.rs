//! Reads the text form that [`crate::print`] writes.
//!
//! A recursive descent over the bytes of the text; every fault names its line and column. Text
//! comes from people, so nesting and sizes have limits and nothing panics.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hetra_tensor::{DType, Value};

use crate::attr::{Attr, Attrs};
use crate::graph::{Capture, Graph, Node, ValueId, ValueInfo};
use crate::text::{is_name_char, is_word_char};
use crate::types::{Dim, TensorType, Type};
use crate::verify::DEPTH_MAX;

mod literal;

/// Where and why a text is not a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

type Parsed<T> = Result<T, ParseError>;

/// Reads a graph; `//` begins a comment.
///
/// # Errors
/// The first place that does not read as the text form says.
pub fn parse(text: &str) -> Parsed<Graph> {
    let mut parser = Parser { text, at: 0, depth: 0, scopes: Vec::new() };
    let graph = parser.graph()?;
    parser.space();
    match parser.rest().is_empty() {
        true => Ok(graph),
        false => parser.fault("text goes on behind the graph"),
    }
}

/// The values of a graph that have been read so far.
#[derive(Default)]
struct Scope {
    values: BTreeMap<u32, ValueInfo>,
    by_name: HashMap<String, u32>,
    next: u32,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    scopes: Vec<Scope>,
}

/// A name and, where it stands, an id.
struct Named {
    name: String,
    id: Option<u32>,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fault<T>(&self, message: impl Into<String>) -> Parsed<T> {
        let before = &self.text[..self.at];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        Err(ParseError { line, column, message: message.into() })
    }

    /// Skips white space and comments.
    fn space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// Takes `token` if it stands next.
    fn take(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        match self.take(token) {
            true => Ok(()),
            false => self.fault(format!("expected `{token}`")),
        }
    }

    /// Takes a keyword that no further letter follows.
    fn keyword(&mut self, word: &str) -> bool {
        self.space();
        let behind = self.rest().strip_prefix(word);
        behind.is_some_and(|behind| !behind.starts_with(is_word_char)) && self.take(word)
    }

    /// Takes characters as long as they fit; no space is skipped before.
    fn while_char(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !fits(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Items between `open` and `close`, commas between them; one may end the list.
    fn list<T>(
        &mut self,
        open: &str,
        close: &str,
        item: impl Fn(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(item(self)?);
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(items)
    }

    /// Runs a rule that may contain itself, down to a limit.
    fn nested<T>(&mut self, rule: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        // A graph, its attribute list and a value inside each take a level.
        if self.depth >= 2 * DEPTH_MAX {
            return self.fault("nested too deep");
        }
        self.depth += 1;
        let result = rule(self);
        self.depth -= 1;
        result
    }

    fn graph(&mut self) -> Parsed<Graph> {
        if !self.keyword("graph") {
            return self.fault("expected `graph`");
        }
        self.scopes.push(Scope::default());
        let result = self.nested(Self::graph_parts);
        let scope = self.scopes.pop().unwrap_or_default();
        let mut graph = result?;
        let count = scope.values.len();
        if let Some((wrong, _)) =
            scope.values.keys().enumerate().find(|(i, id)| *i != **id as usize)
        {
            return self.fault(format!("{count} values, but none has id {wrong}"));
        }
        graph.values = scope.values.into_values().collect();
        Ok(graph)
    }

    fn graph_parts(&mut self) -> Parsed<Graph> {
        let name = self.string()?;
        let inputs = self.list("(", ")", Self::define)?;
        let captures = match self.keyword("captures") {
            true => self.list("(", ")", Self::capture)?,
            false => Vec::new(),
        };
        let mut graph = Graph { name, inputs, captures, ..Graph::default() };
        self.expect("{")?;
        loop {
            if self.keyword("const") {
                let (id, value) = self.constant()?;
                graph.constants.insert(id, value);
            } else if self.keyword("default") {
                let id = self.reference()?;
                self.expect("=")?;
                let value = self.value()?;
                graph.constants.insert(id, value);
            } else if self.keyword("value") {
                self.define()?;
            } else if self.keyword("return") {
                break;
            } else {
                let node = self.node()?;
                graph.nodes.push(node);
            }
        }
        graph.outputs = self.list("(", ")", Self::reference)?;
        self.expect("}")?;
        Ok(graph)
    }

    fn capture(&mut self) -> Parsed<Capture> {
        let inner = self.define()?;
        self.expect("=")?;
        if self.take("^") {
            return Ok(Capture { outer: ValueId(self.number("an id")?), inner });
        }
        let Some(own) = self.scopes.pop() else { return self.fault("expected `^` and an id") };
        let outer = match self.scopes.is_empty() {
            true => self.fault("there is no graph around: expected `^` and an id"),
            false => self.reference(),
        };
        self.scopes.push(own);
        Ok(Capture { outer: outer?, inner })
    }

    fn constant(&mut self) -> Parsed<(ValueId, Value)> {
        let named = self.named()?;
        let ty = if self.take(":") { Some(self.ty()?) } else { None };
        self.expect("=")?;
        let value = self.value()?;
        let ty = ty.unwrap_or_else(|| Type::of(&value));
        Ok((self.declare(named, ty)?, value))
    }

    fn node(&mut self) -> Parsed<Node> {
        let mut outputs = Vec::new();
        if self.take("(") {
            self.expect(")")?;
        } else {
            loop {
                outputs.push(if self.keyword("_") { None } else { Some(self.define()?) });
                if !self.take(",") {
                    break;
                }
            }
        }
        self.expect("=")?;
        let op = self.word()?;
        let version = match self.take("[v") {
            true => {
                let version = self.number("a version")?;
                self.expect("]")?;
                version
            }
            false => u32::MAX,
        };
        self.space();
        let name = if self.rest().starts_with('"') { self.string()? } else { String::new() };
        let inputs = self
            .list("(", ")", |p| if p.keyword("_") { Ok(None) } else { p.reference().map(Some) })?;
        self.space();
        let attrs = match self.rest().starts_with('{') {
            true => self.list("{", "}", Self::attr)?,
            false => Vec::new(),
        };
        let attrs = Attrs(attrs.into_iter().collect());
        Ok(Node { name, op, version, attrs, inputs, outputs })
    }

    fn attr(&mut self) -> Parsed<(String, Attr)> {
        let name = self.word()?;
        self.expect("=")?;
        let attr = self.nested(Self::attr_value)?;
        Ok((name, attr))
    }

    /// One attribute. The first item of a list tells its kind; a word does when it is empty.
    fn attr_value(&mut self) -> Parsed<Attr> {
        for (word, empty) in [
            ("ints", Attr::Ints(vec![])),
            ("floats", Attr::Floats(vec![])),
            ("strs", Attr::Strs(vec![])),
            ("tensors", Attr::Tensors(vec![])),
            ("graphs", Attr::Graphs(vec![])),
        ] {
            if self.keyword(word) {
                self.expect("[")?;
                self.expect("]")?;
                return Ok(empty);
            }
        }
        self.space();
        if !self.rest().starts_with('[') {
            return self.attr_item();
        }
        let items = self.list("[", "]", Self::attr_item)?;
        match attr_list(items) {
            Some(attr) => Ok(attr),
            None => self.fault("a list of items of one kind, and not empty, is wanted"),
        }
    }

    fn attr_item(&mut self) -> Parsed<Attr> {
        self.space();
        if self.keyword("tensor") {
            return Ok(Attr::Tensor(self.tensor()?));
        }
        if self.keyword("type") {
            return Ok(Attr::Type(self.ty()?));
        }
        let rest = self.rest();
        if rest.starts_with("graph") {
            return Ok(Attr::Graph(Arc::new(self.graph()?)));
        }
        if rest.starts_with('"') {
            return Ok(Attr::Str(self.string()?));
        }
        self.number_attr()
    }

    fn word(&mut self) -> Parsed<String> {
        self.space();
        if self.rest().starts_with('"') {
            return self.string();
        }
        let word = self.while_char(is_word_char);
        match word.is_empty() {
            true => self.fault("expected a name"),
            false => Ok(word.to_string()),
        }
    }

    fn named(&mut self) -> Parsed<Named> {
        self.expect("%")?;
        let name = match self.rest().starts_with('"') {
            true => self.string()?,
            false => self.while_char(is_name_char).to_string(),
        };
        let id = match self.rest().starts_with('#') {
            true => {
                self.at += 1;
                Some(self.number("an id")?)
            }
            false => None,
        };
        Ok(Named { name, id })
    }

    fn define(&mut self) -> Parsed<ValueId> {
        let named = self.named()?;
        let ty = if self.take(":") { self.ty()? } else { Type::Unknown };
        self.declare(named, ty)
    }

    fn declare(&mut self, named: Named, ty: Type) -> Parsed<ValueId> {
        let Some(scope) = self.scopes.last_mut() else { return self.fault("no graph") };
        let id = named.id.unwrap_or(scope.next);
        if scope.values.contains_key(&id) {
            return self.fault(format!("id {id} (`%{}`) is defined twice", named.name));
        }
        let taken = scope.by_name.insert(named.name.clone(), id);
        if taken.is_some() && named.id.is_none() {
            return self.fault(format!("`%{}` is defined twice", named.name));
        }
        scope.next = id.wrapping_add(1);
        scope.values.insert(id, ValueInfo { name: named.name, ty });
        Ok(ValueId(id))
    }

    fn reference(&mut self) -> Parsed<ValueId> {
        let named = self.named()?;
        let Some(scope) = self.scopes.last() else { return self.fault("no graph") };
        let id = named.id.or_else(|| scope.by_name.get(&named.name).copied());
        let found = id.filter(|id| scope.values.get(id).is_some_and(|v| v.name == named.name));
        match found {
            Some(id) => Ok(ValueId(id)),
            None => self.fault(format!("`%{}` is not defined above", named.name)),
        }
    }

    fn ty(&mut self) -> Parsed<Type> {
        if self.keyword("_") {
            return Ok(Type::Unknown);
        }
        if self.take("seq<") {
            let item = self.nested(Self::ty)?;
            self.expect(">")?;
            return Ok(Type::Sequence(Box::new(item)));
        }
        if self.take("opt<") {
            let item = self.nested(Self::ty)?;
            self.expect(">")?;
            return Ok(Type::Optional(Box::new(item)));
        }
        let dtype = self.dtype()?;
        if self.take("[..]") {
            return Ok(Type::unranked(dtype));
        }
        let dims = self.list("[", "]", Self::dim)?;
        Ok(Type::Tensor(TensorType { dtype, shape: Some(dims) }))
    }

    fn dtype(&mut self) -> Parsed<DType> {
        self.space();
        let start = self.at;
        match self.while_char(is_word_char).parse() {
            Ok(dtype) => Ok(dtype),
            Err(message) => {
                self.at = start;
                self.fault(message)
            }
        }
    }

    fn dim(&mut self) -> Parsed<Dim> {
        if self.take("?") {
            return Ok(Dim::Unknown);
        }
        if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(Dim::Known(self.number("an extent")?));
        }
        Ok(Dim::Sym(self.word()?.into()))
    }
}

/// A list attribute from items of one kind.
fn attr_list(items: Vec<Attr>) -> Option<Attr> {
    macro_rules! all {
        ($($kind:ident => $list:ident),*) => {
            match items.first()? {
                $(Attr::$kind(_) => {
                    let item = |attr| match attr {
                        Attr::$kind(item) => Some(item),
                        _ => None,
                    };
                    items.into_iter().map(item).collect::<Option<Vec<_>>>().map(Attr::$list)
                })*
                _ => None,
            }
        };
    }
    all!(Int => Ints, Float => Floats, Str => Strs, Tensor => Tensors, Graph => Graphs)
}
