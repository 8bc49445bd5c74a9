//! Kernels as rows of numbers: what a learned correction of the roofline goes by.

use hetra_ir::{Graph, Node, Type, ValueId};
use hetra_ops::{Kind, NodeError, find};
use hetra_pass::infer;

use crate::demand::{Demand, bytes, demand_of, is_computed};
use crate::roofline::Roofline;

/// A kernel, for a device.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelRow {
    /// Seconds by the roofline.
    pub guess: f64,
    /// What is known of it, always as many numbers.
    pub features: Vec<f64>,
}

/// What a kernel is: a number each, 1 where it is that.
const CLASSES: [&str; 13] = [
    "run",
    "pointwise",
    "convolution",
    "grouped",
    "product",
    "attention",
    "elementwise",
    "reduce",
    "move",
    "pool",
    "recurrent",
    "quantized",
    "other",
];
/// Extents of an output that are told, from the last one backwards.
const EXTENTS: usize = 3;

/// Kernels of a graph that is [`crate::joined`], and, first, what it takes to begin a run.
///
/// # Errors
/// The first node whose arguments contradict its operator.
pub fn kernel_rows(
    graph: &Graph,
    inputs: &[Type],
    roofline: &Roofline,
) -> Result<Vec<KernelRow>, NodeError> {
    let inferred = infer(graph, inputs, &[])?;
    let bits = roofline.bits;
    let size = |id: ValueId| bytes(&inferred.types[id.index()], bits) as f64;
    let is_constant = |id: &ValueId| graph.constants.contains_key(id);
    let borders = graph.inputs.iter().chain(&graph.outputs).map(|&id| size(id)).sum::<f64>();
    let run =
        Shape { class: 0, ends: borders, count: graph.nodes.len() as f64, ..Shape::default() };
    let launch = roofline.seconds(&Demand::default()).0.max(1e-7);
    let mut rows =
        vec![KernelRow { guess: launch, features: run.features(&Demand::default(), launch) }];
    for node in graph.nodes.iter().filter(|node| is_computed(node, &inferred)) {
        let demand = demand_of(graph, node, &inferred, bits);
        let guess = roofline.seconds(&demand).0.max(1e-9);
        let weights: f64 = node.uses().filter(is_constant).map(size).sum();
        let shape = Shape {
            weights,
            ends: node.uses().filter(|id| !is_constant(id)).map(size).sum(),
            out: node.defs().map(size).sum(),
            count: node.uses().count() as f64,
            ..shape(graph, node, &inferred.types)
        };
        rows.push(KernelRow { guess, features: shape.features(&demand, guess) });
    }
    Ok(rows)
}

/// What features are made of beside the demand.
#[derive(Default)]
struct Shape {
    class: usize,
    /// Bytes of constants, of what else is read, and of what is written.
    weights: f64,
    ends: f64,
    out: f64,
    /// Inputs.
    count: f64,
    /// Of the output, the last one first.
    extents: [f64; EXTENTS],
    /// Of products: what is summed over; places of a window; groups; steps.
    inner: f64,
    window: f64,
    groups: f64,
    stride: f64,
    /// Attributes, which what is joined to a kernel has more of.
    attributes: f64,
}

impl Shape {
    fn features(&self, demand: &Demand, guess: f64) -> Vec<f64> {
        let ln = |number: f64| (1.0 + number).ln();
        let mut all: Vec<f64> =
            (0..CLASSES.len()).map(|class| f64::from(u8::from(class == self.class))).collect();
        all.extend([demand.products, demand.others, demand.bytes].map(ln));
        all.extend([self.weights, self.ends, self.out, self.count].map(ln));
        all.extend(self.extents.map(ln));
        all.extend([self.inner, self.window, self.groups, self.stride].map(ln));
        all.extend([
            self.attributes,
            guess.ln(),
            ln(demand.products / demand.bytes.max(1.0)),
            ln(demand.others / demand.bytes.max(1.0)),
        ]);
        all
    }
}

fn class(name: &str) -> usize {
    CLASSES.iter().position(|class| *class == name).unwrap_or(CLASSES.len() - 1)
}

fn shape(graph: &Graph, node: &Node, types: &[Type]) -> Shape {
    let dims = |id: Option<ValueId>| -> Vec<f64> {
        let shape = id.and_then(|id| types[id.index()].known_shape()).unwrap_or_default();
        shape.iter().map(|&extent| extent as f64).collect()
    };
    let output = dims(node.output(0));
    let mut extents = [0.0; EXTENTS];
    for (extent, of) in extents.iter_mut().zip(output.iter().rev()) {
        *extent = *of;
    }
    let attributes = node.attrs.0.len() as f64;
    let shape = Shape { extents, attributes, ..Shape::default() };
    let bare = node.op.rsplit('.').next().unwrap_or_default();
    let constant = |at: usize| node.input(at).filter(|id| graph.constants.contains_key(id));
    let weights = (0..node.inputs.len()).filter_map(constant).map(|id| dims(Some(id)));
    let weights = weights.max_by(|a, b| a.iter().product::<f64>().total_cmp(&b.iter().product()));
    let has = |part: &str| bare.contains(part);
    if has("Conv") {
        let weights = weights.unwrap_or_else(|| dims(node.input(1)));
        let window: f64 = weights.iter().skip(2).product();
        let groups = node.attrs.int_or("group", 1).unwrap_or(1) as f64;
        let stride = node.attrs.ints("strides").ok().and_then(|all| all.first().copied());
        let what = match (groups > 1.0, window > 1.0) {
            (true, _) => "grouped",
            (false, true) => "convolution",
            (false, false) => "pointwise",
        };
        let inner = weights.get(1).copied().unwrap_or(0.0);
        let class = if has("Integer") || has("QLinear") { class("quantized") } else { class(what) };
        return Shape { class, inner, window, groups, stride: stride.unwrap_or(1) as f64, ..shape };
    }
    let kind = find(&node.op).map(|def| def.kind);
    let what = match kind {
        _ if has("Attention") => "attention",
        _ if has("QLinear") || has("Integer") || has("Quantize") => "quantized",
        _ if has("MatMul") || has("Gemm") || has("Einsum") => "product",
        _ if has("Pool") => "pool",
        _ if has("LSTM") || has("GRU") || has("RNN") || kind == Some(Kind::Control) => "recurrent",
        Some(Kind::Elementwise) => "elementwise",
        Some(Kind::Reduce) => "reduce",
        Some(Kind::Move) => "move",
        _ => "other",
    };
    let inner = match what {
        "product" | "attention" => dims(node.input(0)).last().copied().unwrap_or(0.0),
        _ => 0.0,
    };
    Shape { class: class(what), inner, ..shape }
}

#[cfg(test)]
mod tests {
    use hetra_machine::catalogue;

    use super::*;

    #[test]
    fn kernels_have_rows_of_one_length() {
        let graph = hetra_ir::parse(
            "graph \"g\" (%x: f32[2,3], %w: f32[3,4]) {
               %y = MatMul(%x, %w)
               %f = Flatten(%y) {axis = 1}
               %z = Relu(%f)
               %s = ReduceSum(%z)
               return (%s)
             }",
        );
        let graph = graph.unwrap();
        let types: Vec<Type> = graph.inputs.iter().map(|&id| graph.ty(id).clone()).collect();
        let roofline = Roofline::of(catalogue().device("h100-sxm").unwrap(), None).unwrap();
        let rows = kernel_rows(&graph, &types, &roofline).unwrap();
        // The run, the product, the activation, the sum: a view is none.
        let class = |row: &KernelRow| row.features.iter().position(|&number| number == 1.0);
        let classes: Vec<&str> = rows.iter().map(|row| CLASSES[class(row).unwrap()]).collect();
        assert_eq!(classes, ["run", "product", "elementwise", "reduce"]);
        assert!(
            rows.iter().all(|row| row.guess > 0.0 && row.features.len() == rows[0].features.len())
        );
        assert!(rows.iter().flat_map(|row| &row.features).all(|number| number.is_finite()));
    }
}
