//! The text form of a graph, to print, diff and paste into a test.
//!
//! ```text
//! graph "tiny" (%x: f32[N,3]) {
//!   const %w = f32[3] [1.0, 2.0, 3.0]
//!   %y: f32[N,3] = Mul[v14] "scale" (%x, %w)
//!   %z = LeakyRelu(%y) {alpha = 0.1}
//!   return (%z)
//! }
//! ```
//!
//! [`print`] and [`crate::parse`] are inverse on graphs that verify. Ids count up in the order of
//! definition (inputs, captures, constants, undefined values, node outputs); where a graph departs
//! from that, or a name is taken twice, the id stands behind the name: `%y#12`. A version that is
//! left out is the newest. What a body captures is written `%inner = %outer`; when the graph
//! around is not printed with it, the outer value is known by its id only: `%inner = ^12`.

use std::collections::HashMap;
use std::fmt::Write;

use hetra_tensor::{DType, Tensor, Value, from_i64, to_i64};

use crate::attr::Attr;
use crate::graph::{Graph, Node, ValueId};
use crate::types::{Dim, Type};

/// Constants up to this many elements are written as numbers, larger ones as bytes.
const INLINE_ELEMENTS_MAX: usize = 8;

/// Lists of inputs and captures up to this length stand on one line.
const INLINE_LIST_MAX: usize = 4;

/// The text form, exact: [`crate::parse`] gives the same graph back.
pub fn print(graph: &Graph) -> String {
    Printer { text: String::new(), indent: 0, whole: true }.run(graph)
}

/// The text form for people: large constants are left out (`f32[64,3,7,7] ..`), so it does not
/// parse.
pub fn outline(graph: &Graph) -> String {
    Printer { text: String::new(), indent: 0, whole: false }.run(graph)
}

/// A string in double quotes, with escapes.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether a value's name needs no quotes.
pub(crate) fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')
}

/// Whether the name of an operator, attribute or axis may hold this without quotes.
pub(crate) fn is_word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.')
}

fn word(text: &str) -> String {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if starts && text.chars().all(is_word_char) { text.to_string() } else { quoted(text) }
}

/// A type, with the names of axes quoted where they need it.
fn type_text(ty: &Type) -> String {
    match ty {
        Type::Unknown => "_".to_string(),
        Type::Sequence(item) => format!("seq<{}>", type_text(item)),
        Type::Optional(item) => format!("opt<{}>", type_text(item)),
        Type::Tensor(tensor) => match &tensor.shape {
            None => format!("{}[..]", tensor.dtype),
            Some(dims) => {
                let dims: Vec<String> = dims.iter().map(dim_text).collect();
                format!("{}[{}]", tensor.dtype, dims.join(","))
            }
        },
    }
}

fn dim_text(dim: &Dim) -> String {
    match dim {
        Dim::Known(extent) => extent.to_string(),
        Dim::Sym(name) => word(name),
        Dim::Unknown => "?".to_string(),
    }
}

/// What the printer knows of one graph: the names that are taken twice, and the id that the next
/// definition has if the ids count up.
struct Scope<'a> {
    graph: &'a Graph,
    shared: HashMap<&'a str, bool>,
    next: u32,
}

impl<'a> Scope<'a> {
    fn new(graph: &'a Graph) -> Scope<'a> {
        let mut shared = HashMap::new();
        for value in &graph.values {
            shared.entry(value.name.as_str()).and_modify(|twice| *twice = true).or_insert(false);
        }
        Scope { graph, shared, next: 0 }
    }

    fn name(&self, id: ValueId, with_id: bool) -> String {
        let Some(value) = self.graph.values.get(id.index()) else { return format!("^{}", id.0) };
        let bare = !value.name.is_empty() && value.name.chars().all(is_name_char);
        let name = if bare { value.name.clone() } else { quoted(&value.name) };
        if with_id || self.shared.get(value.name.as_str()) == Some(&true) {
            format!("%{name}#{}", id.0)
        } else {
            format!("%{name}")
        }
    }

    fn reference(&self, id: Option<ValueId>) -> String {
        id.map_or("_".to_string(), |id| self.name(id, false))
    }

    /// Name, without type, at the place of definition.
    fn define(&mut self, id: ValueId) -> String {
        let text = self.name(id, id.0 != self.next);
        self.next = id.0.wrapping_add(1);
        text
    }

    fn define_typed(&mut self, id: ValueId) -> String {
        let name = self.define(id);
        match self.graph.values.get(id.index()).map(|value| &value.ty) {
            None | Some(Type::Unknown) => name,
            Some(ty) => format!("{name}: {}", type_text(ty)),
        }
    }
}

struct Printer {
    text: String,
    indent: usize,
    /// Large constants too.
    whole: bool,
}

impl Printer {
    fn run(mut self, graph: &Graph) -> String {
        self.graph(graph, None);
        self.text.push('\n');
        self.text
    }

    fn line(&mut self, text: &str) {
        self.text.push('\n');
        self.text.push_str(&"  ".repeat(self.indent));
        self.text.push_str(text);
    }

    fn graph(&mut self, graph: &Graph, outer: Option<&Scope<'_>>) {
        let mut scope = Scope::new(graph);
        let _ = write!(self.text, "graph {} ", quoted(&graph.name));
        let inputs: Vec<String> = graph.inputs.iter().map(|&id| scope.define_typed(id)).collect();
        self.list(&inputs);
        if !graph.captures.is_empty() {
            self.text.push_str(" captures ");
            let captures: Vec<String> = graph
                .captures
                .iter()
                .map(|capture| {
                    let inner = scope.define_typed(capture.inner);
                    let outer = outer.map(|outer| outer.name(capture.outer, false));
                    let outer = outer.unwrap_or_else(|| format!("^{}", capture.outer.0));
                    format!("{inner} = {outer}")
                })
                .collect();
            self.list(&captures);
        }
        self.text.push_str(" {");
        self.indent += 1;
        for (&id, value) in &graph.constants {
            self.constant(&mut scope, id, value);
        }
        for id in undefined(graph) {
            let value = scope.define_typed(id);
            self.line(&format!("value {value}"));
        }
        for node in &graph.nodes {
            self.node(&mut scope, node);
        }
        let outputs: Vec<String> = graph.outputs.iter().map(|&id| scope.name(id, false)).collect();
        self.line("return ");
        self.list(&outputs);
        self.indent -= 1;
        self.line("}");
    }

    fn list(&mut self, items: &[String]) {
        if items.len() <= INLINE_LIST_MAX {
            let _ = write!(self.text, "({})", items.join(", "));
            return;
        }
        self.text.push('(');
        self.indent += 1;
        for item in items {
            self.line(&format!("{item},"));
        }
        self.indent -= 1;
        self.line(")");
    }

    fn constant(&mut self, scope: &mut Scope<'_>, id: ValueId, value: &Value) {
        let text = if scope.graph.inputs.contains(&id) {
            format!("default {}", scope.name(id, false))
        } else if scope.graph.values.get(id.index()).is_some_and(|v| v.ty == Type::of(value)) {
            format!("const {}", scope.define(id))
        } else {
            // `_` says that the type is not known, which for a constant is the exception.
            let ty = scope.graph.values.get(id.index()).map_or("_".into(), |v| type_text(&v.ty));
            format!("const {}: {ty}", scope.define(id))
        };
        self.line(&text);
        self.text.push_str(" = ");
        self.value(value);
    }

    fn node(&mut self, scope: &mut Scope<'_>, node: &Node) {
        let outputs: Vec<String> = node
            .outputs
            .iter()
            .map(|output| output.map_or("_".to_string(), |id| scope.define_typed(id)))
            .collect();
        let mut text = if outputs.is_empty() { "()".to_string() } else { outputs.join(", ") };
        let _ = write!(text, " = {}", word(&node.op));
        if node.version != u32::MAX {
            let _ = write!(text, "[v{}]", node.version);
        }
        if !node.name.is_empty() {
            let _ = write!(text, " {} ", quoted(&node.name));
        }
        let inputs: Vec<String> = node.inputs.iter().map(|&id| scope.reference(id)).collect();
        let _ = write!(text, "({})", inputs.join(", "));
        self.line(&text);
        if node.attrs.0.is_empty() {
            return;
        }
        self.text.push_str(" {");
        for (index, (name, attr)) in node.attrs.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let _ = write!(self.text, "{comma}{} = ", word(name));
            self.attr(scope, attr);
        }
        self.text.push('}');
    }

    fn attr(&mut self, scope: &Scope<'_>, attr: &Attr) {
        match attr {
            Attr::Int(int) => {
                let _ = write!(self.text, "{int}");
            }
            Attr::Float(float) => self.text.push_str(&f32_text(*float)),
            Attr::Str(text) => self.text.push_str(&quoted(text)),
            Attr::Tensor(tensor) => {
                self.text.push_str("tensor ");
                self.tensor(tensor);
            }
            Attr::Graph(graph) => self.graph(graph, Some(scope)),
            Attr::Type(ty) => {
                let _ = write!(self.text, "type {}", type_text(ty));
            }
            // The kind of an empty list cannot be read off its items.
            Attr::Ints(items) => {
                self.items("ints", items, |p, item| p.text.push_str(&item.to_string()))
            }
            Attr::Floats(items) => {
                self.items("floats", items, |p, item| p.text.push_str(&f32_text(*item)))
            }
            Attr::Strs(items) => {
                self.items("strs", items, |p, item| p.text.push_str(&quoted(item)))
            }
            Attr::Tensors(items) => self.items("tensors", items, |p, item| {
                p.text.push_str("tensor ");
                p.tensor(item);
            }),
            Attr::Graphs(items) => {
                self.items("graphs", items, |p, item| p.graph(item, Some(scope)))
            }
        }
    }

    fn items<T>(&mut self, kind: &str, items: &[T], write: impl Fn(&mut Printer, &T)) {
        if items.is_empty() {
            self.text.push_str(kind);
        }
        self.text.push('[');
        for (index, item) in items.iter().enumerate() {
            self.text.push_str(if index > 0 { ", " } else { "" });
            write(self, item);
        }
        self.text.push(']');
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Tensor(tensor) => self.tensor(tensor),
            Value::Sequence(items) => {
                self.text.push_str("seq");
                self.items("", items, Printer::value);
            }
            Value::Optional(None) => self.text.push_str("none"),
            Value::Optional(Some(inner)) => {
                self.text.push_str("some(");
                self.value(inner);
                self.text.push(')');
            }
        }
    }

    fn tensor(&mut self, tensor: &Tensor) {
        let _ = write!(self.text, "{} ", tensor.describe());
        let inline = tensor.len() <= INLINE_ELEMENTS_MAX || tensor.dtype() == DType::String;
        match numbers(tensor).filter(|_| inline) {
            Some(numbers) => {
                let _ = write!(self.text, "[{}]", numbers.join(", "));
            }
            None if self.whole => {
                self.text.push_str("0x");
                for byte in tensor.bytes() {
                    let _ = write!(self.text, "{byte:02x}");
                }
            }
            None => self.text.push_str(".."),
        }
    }
}

/// Values that nothing defines, such as those of nodes that a pass took out.
fn undefined(graph: &Graph) -> Vec<ValueId> {
    let mut defined = vec![false; graph.values.len()];
    let given = graph.inputs.iter().copied().chain(graph.constants.keys().copied());
    let given = given.chain(graph.captures.iter().map(|capture| capture.inner));
    for id in given.chain(graph.nodes.iter().flat_map(Node::defs)) {
        if let Some(slot) = defined.get_mut(id.index()) {
            *slot = true;
        }
    }
    let ids = (0..graph.values.len() as u32).map(ValueId);
    ids.filter(|id| !defined[id.index()]).collect()
}

/// The elements as text, if that is exact for this dtype and these bits.
fn numbers(tensor: &Tensor) -> Option<Vec<String>> {
    let dtype = tensor.dtype();
    let texts = match dtype {
        DType::String => tensor.as_strings().ok()?.iter().map(|text| quoted(text)).collect(),
        DType::Bool => tensor.as_bools().ok()?.iter().map(|b| (*b != 0).to_string()).collect(),
        DType::F32 => tensor.as_slice::<f32>().ok()?.iter().map(|&x| f32_text(x)).collect(),
        DType::F64 => {
            let text = |x: &f64| match x.is_nan() {
                true => format!("nan(0x{:x})", x.to_bits()),
                false => format!("{x:?}"),
            };
            tensor.as_slice::<f64>().ok()?.iter().map(text).collect()
        }
        DType::F16 | DType::BF16 => half_texts(tensor)?,
        DType::U64 => tensor.as_slice::<u64>().ok()?.iter().map(u64::to_string).collect(),
        // Packed integers may hold bits behind the last element, which numbers would lose.
        _ if dtype.is_int() => {
            let ints = to_i64(tensor).ok()?;
            let back = from_i64(dtype, tensor.shape(), &ints).ok()?;
            (back == *tensor).then(|| ints.iter().map(i64::to_string).collect())?
        }
        _ => return None,
    };
    Some(texts)
}

/// f16 and bf16 are written as the f32 of the same value.
fn half_texts(tensor: &Tensor) -> Option<Vec<String>> {
    let wide = hetra_tensor::to_f64(tensor).ok()?;
    let bits = tensor.bytes().chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let text = |(value, bits): (f64, u16)| match value.is_nan() {
        true => format!("nan(0x{bits:x})"),
        false => f32_text(value as f32),
    };
    Some(wide.into_iter().zip(bits).map(text).collect())
}

/// The shortest text that reads back as the same bits.
fn f32_text(value: f32) -> String {
    match value.is_nan() {
        true => format!("nan(0x{:x})", value.to_bits()),
        false => format!("{value:?}"),
    }
}
