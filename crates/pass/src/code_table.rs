//! `quantize(f(dequantize(x))) == table[x]`: what is computed from one 8-bit code, and from
//! constants, is one of 256 numbers. The reference computes them all beforehand.

use std::collections::HashMap;

use hetra_ir::{Node, ValueId};
use hetra_ops::{EvalCtx, Interpreter, Kind, find};
use hetra_tensor::{DType, Tensor, Value};

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static CODE_TABLE: Pass = Pass {
    name: "code_table",
    doc: "Looks up in a table what is computed element by element from one 8-bit code, as HardSwish \
          between DequantizeLinear and QuantizeLinear.",
    run: |ed| ed.sweep(tabulate),
};

/// Most nodes that one table stands for.
const NODES_MAX: usize = 16;

/// Operators on codes that work element by element.
const CODEWISE: &[&str] = &[
    "com.microsoft.QLinearAdd",
    "com.microsoft.QLinearMul",
    "com.microsoft.QLinearSigmoid",
    "com.microsoft.QLinearLeakyRelu",
    "hetra.CodeTable",
    "DequantizeLinear",
    "QuantizeLinear",
];

fn is_code(ed: &Editor<'_>, id: ValueId) -> bool {
    matches!(ed.dtype(id), Some(DType::U8 | DType::I8))
}

/// A constant that serves all elements of a tensor of `rank` axes, or a table.
fn is_parameter(ed: &Editor<'_>, node: &Node, index: usize, rank: usize) -> bool {
    let constant = node.input(index).and_then(|id| ed.constant(id));
    constant.is_some_and(|tensor| {
        let table = node.op == "hetra.CodeTable" && index == 1;
        table || (tensor.len() == 1 && tensor.rank() <= rank)
    })
}

/// Whether a node works element by element on values that are not constant.
fn is_elementwise(ed: &Editor<'_>, node: &Node, rank: usize) -> bool {
    let def = find(&node.op).filter(|def| def.pure && node.outputs.len() == 1);
    let listed = CODEWISE.contains(&node.op.as_str());
    let kind = def.is_some_and(|def| listed || def.kind == Kind::Elementwise);
    let blocks = node.attrs.int_or("block_size", 0).is_ok_and(|size| size == 0);
    let fits = |index: usize| {
        let Some(id) = node.input(index) else { return true };
        is_parameter(ed, node, index, rank)
            || (ed.constant(id).is_none() && ed.rank(id) == Some(rank))
    };
    kind && blocks && (0..node.inputs.len()).all(fits)
}

/// The codes from which a value is computed, and the nodes on the way in order.
fn origin(ed: &Editor<'_>, at: usize) -> Option<(ValueId, Vec<usize>)> {
    let rank = ed.rank(ed.sole_output(at)?)?;
    let (mut nodes, mut open, mut root) = (vec![at], vec![at], None);
    while let Some(at) = open.pop() {
        let node = ed.node(at);
        for index in 0..node.inputs.len() {
            let Some(id) = node.input(index) else { continue };
            if is_parameter(ed, node, index, rank) || root == Some(id) {
                continue;
            }
            match ed.producer(id).filter(|&from| is_elementwise(ed, ed.node(from), rank)) {
                Some(from) if nodes.contains(&from) => {}
                Some(from) if nodes.len() < NODES_MAX => {
                    nodes.push(from);
                    open.push(from);
                }
                _ if root.is_none() && is_code(ed, id) => root = Some(id),
                _ => return None,
            }
        }
    }
    nodes.sort_unstable();
    Some((root?, nodes))
}

/// What the nodes make of every code.
fn entries(ed: &Editor<'_>, root: ValueId, nodes: &[usize]) -> Option<Tensor> {
    let mut codes = Tensor::zeros(ed.dtype(root)?, &[256]).ok()?;
    let bytes = codes.bytes_mut().ok()?;
    bytes.iter_mut().enumerate().for_each(|(code, byte)| *byte = code as u8);
    let mut values: HashMap<ValueId, Value> = HashMap::from([(root, codes.into())]);
    for &at in nodes {
        let node = ed.node(at);
        let value = |id: &Option<ValueId>| match id {
            None => Some(None),
            Some(id) => {
                let constant = || ed.constant(*id).cloned().map(Value::from);
                values.get(id).cloned().or_else(constant).map(Some)
            }
        };
        let inputs: Vec<Option<Value>> = node.inputs.iter().map(value).collect::<Option<_>>()?;
        let ctx = EvalCtx { node, inputs: &inputs, outer: &|_| None, runner: &Interpreter };
        let made = (find(&node.op)?.eval)(&ctx).ok()?.into_iter().next()?;
        values.insert(node.output(0)?, made);
    }
    let last = ed.node(*nodes.last()?).output(0)?;
    let table = values.get(&last)?.as_tensor()?.reshape(&[256]).ok()?;
    matches!(table.dtype(), DType::U8 | DType::I8).then_some(table)
}

fn tabulate(ed: &mut Editor<'_>, at: usize) -> bool {
    let node = ed.node(at);
    let Some(y) = ed.sole_output(at).filter(|&y| is_code(ed, y)) else { return false };
    let (Some(rank), false) = (ed.rank(y), node.op == "hetra.CodeTable") else { return false };
    if !is_elementwise(ed, node, rank) {
        return false;
    }
    let Some((root, nodes)) = origin(ed, at) else { return false };
    // Nodes stand in execution order, so that this one is the last.
    if ed.rank(root) != Some(rank) || nodes.last() != Some(&at) {
        return false;
    }
    let Some(table) = entries(ed, root, &nodes) else { return false };
    let what = format!("{} of one code", node.op);
    let name = node.name.clone();
    let table = ed.add_constant("table", table);
    let made = Node { name, ..Node::new("hetra.CodeTable", &[root, table], &[y]) };
    if let Some(why) = ed.unclaimed(&made, &[at]) {
        ed.miss(at, &format!("{what}: {why}"));
        return false;
    }
    let label = ed.label(at);
    ed.set(at, made);
    ed.note(format!("table for {what} at {label}"));
    true
}
