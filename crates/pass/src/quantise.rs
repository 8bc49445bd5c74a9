//! Quantises a float model by the ranges that its values are known to have.
//!
//! `op(x) ~ dequantize(quantize(op(dequantize(quantize(x)))))`: pairs of QuantizeLinear and
//! DequantizeLinear go round products by constant weights and round what lies between them, in the
//! form in which quantised models come. Making integer operators of it is left to
//! [`crate::PASSES`].
//!
//! No pass of those: they keep what a graph computes, up to rounding in f32. Which products are
//! quantised is for the caller to say, who knows what an error may cost.
//!
//! Values between products have u8 codes with one scale and one zero point; weights have i8 codes
//! from -127 to 127, with a scale for each output channel.

use std::collections::{BTreeMap, BTreeSet};

use hetra_ir::{Graph, Node, NodeId, Type, ValueId};
use hetra_ops::{EvalCtx, Interpreter, Kind, find};
use hetra_tensor::{DType, Tensor, Value, to_f64};

use crate::optimise::{Options, optimise};
use crate::quant_move::MOVES;
use crate::weights::{Linear, codes};

/// Passes that join a product with what stands behind it: integer operators are found without.
const JOINING: &[&str] = &[
    "attention",
    "conv_residual",
    "conv_activation",
    "matmul_operands",
    "matmul_scale",
    "matmul_bias",
    "matmul_activation",
    "skip_layer_norm",
    "shuffle",
    "channels_last",
];

/// The least and the largest element that a value was seen to have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The least element.
    pub low: f32,
    /// The largest element.
    pub high: f32,
}

impl Range {
    /// The range of both; NaN stays NaN.
    #[must_use]
    pub fn joined(self, other: Range) -> Range {
        let pick = |a: f32, b: f32, first: bool| if first || a.is_nan() { a } else { b };
        Range {
            low: pick(self.low, other.low, self.low < other.low),
            high: pick(self.high, other.high, self.high > other.high),
        }
    }

    /// Scale and zero point of u8 codes that reach from `low` to `high`, and hold 0 exactly: it is
    /// what images are padded with. `None` where an end is no finite number.
    pub fn params(self) -> Option<(f32, u8)> {
        if !(self.low.is_finite() && self.high.is_finite() && self.low <= self.high) {
            return None;
        }
        let (low, high) = (f64::from(self.low).min(0.0), f64::from(self.high).max(0.0));
        if high == low {
            // Zero in every run.
            return Some((1.0, 0));
        }
        let scale = ((high - low) / 255.0).max(SCALE_MIN) as f32;
        Some((scale, (-low / f64::from(scale)).round_ties_even().clamp(0.0, 255.0) as u8))
    }
}

/// The least scale: products of two of them are normal numbers yet.
pub(crate) const SCALE_MIN: f64 = 1e-15;

/// The ranges of values.
pub type Ranges = BTreeMap<ValueId, Range>;

/// A graph cleaned up by the passes, but with each product by itself: what [`quantise`] takes.
/// Products have names that no other node has.
pub fn float_form(graph: &Graph, options: &Options<'_>) -> Graph {
    let mut options = options.clone();
    options.off.extend(JOINING.iter().map(|pass| pass.to_string()));
    let (mut graph, _) = optimise(graph, &options);
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        let output = node.output(0).map_or("", |y| &graph.value(y).name);
        let first = if node.name.is_empty() { output.to_string() } else { node.name.clone() };
        let again = |count: usize| format!("{first}#{count}");
        let mut name = first.clone();
        for count in 2.. {
            if taken.insert(name.clone()) {
                break;
            }
            name = again(count);
        }
        if Linear::of(&graph, &graph.nodes[at]).is_some() {
            graph.nodes[at].name = name;
        }
    }
    graph
}

/// Nodes of a graph, bodies aside, that [`quantise`] can quantise: products and convolutions of
/// f32 by constant weights.
pub fn can_quantise(graph: &Graph) -> Vec<NodeId> {
    let fits = |(id, node)| Linear::of(graph, node).is_some().then_some(id);
    graph.nodes().filter_map(fits).collect()
}

/// The values whose ranges [`quantise`] needs for any of these nodes.
pub fn observed(graph: &Graph, nodes: &BTreeSet<NodeId>) -> Vec<ValueId> {
    Layout::of(graph, nodes, &|_| true).coded.into_iter().collect()
}

/// The same graph with these nodes between quantised values, and with them the operators that lie
/// between such nodes. A node stays as it is where the range of its input or output is missing or
/// not finite.
pub fn quantise(graph: &Graph, nodes: &BTreeSet<NodeId>, ranges: &Ranges) -> Graph {
    let known = |id: ValueId| ranges.get(&id).is_some_and(|range| range.params().is_some());
    let layout = Layout::of(graph, nodes, &known);
    Writer::new(graph, &layout, ranges).write()
}

/// What becomes of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    /// It stays in f32.
    Float,
    /// A product that is quantised.
    Product,
    /// An operator between quantised values, on their codes.
    Carried,
    /// A Relu or Clip that is done by the end of the codes of the node before.
    Saturates,
}

/// Which nodes work on codes, and which values have them.
struct Layout<'a> {
    graph: &'a Graph,
    users: Vec<Vec<usize>>,
    roles: Vec<Role>,
    coded: BTreeSet<ValueId>,
}

impl<'a> Layout<'a> {
    /// `known` tells the values whose range is known. With fewer nodes, no more values are coded.
    fn of(graph: &'a Graph, nodes: &BTreeSet<NodeId>, known: &dyn Fn(ValueId) -> bool) -> Self {
        let mut users = vec![Vec::new(); graph.values.len()];
        for (at, node) in graph.nodes.iter().enumerate() {
            node.uses().for_each(|value| users[value.index()].push(at));
        }
        let roles = vec![Role::Float; graph.nodes.len()];
        let mut layout = Layout { graph, users, roles, coded: BTreeSet::new() };
        for at in 0..graph.nodes.len() {
            let node = &graph.nodes[at];
            if layout.roles[at] != Role::Float {
                continue;
            }
            let product = nodes.contains(&NodeId(at as u32)) && Linear::of(graph, node).is_some();
            let role = if product { Role::Product } else { Role::Carried };
            let Some((y, clip)) = layout.end(at) else { continue };
            let x = node.input(0).filter(|&x| known(x));
            let fits = known(y) && if product { x.is_some() } else { layout.carries(node) };
            if fits {
                layout.roles[at] = role;
                layout.coded.extend(x.filter(|_| product));
                layout.coded.insert(y);
                clip.into_iter().for_each(|clip| layout.roles[clip] = Role::Saturates);
            }
        }
        layout.drop_loose_ends();
        layout
    }

    /// The value that a node gives behind the clip that its codes make, and the node of the clip.
    fn end(&self, at: usize) -> Option<(ValueId, Option<usize>)> {
        let node = &self.graph.nodes[at];
        let y = node.output(0).filter(|_| node.defs().count() == 1)?;
        let sums = ["Conv", "MatMul", "Gemm", "Add", "Mul"].contains(&node.op.as_str());
        if let [clip] = self.users[y.index()][..]
            && sums
            && !self.graph.outputs.contains(&y)
            && self.starts_at_zero(clip)
        {
            return Some((self.graph.nodes[clip].output(0)?, Some(clip)));
        }
        Some((y, None))
    }

    /// Whether a node is a Relu, or a Clip from 0 on: codes of what it gives end where it does.
    fn starts_at_zero(&self, at: usize) -> bool {
        let node = &self.graph.nodes[at];
        let constant = |index| self.constant(node, index).and_then(|t| to_f64(t).ok());
        match node.op.as_str() {
            "Relu" => true,
            "Clip" => {
                let high = node.input(2).is_none() || constant(2).is_some_and(|h| h.len() == 1);
                high && constant(1).is_some_and(|low| low == [0.0])
            }
            _ => false,
        }
    }

    fn constant(&self, node: &Node, index: usize) -> Option<&'a Tensor> {
        constant(self.graph, node.input(index)?)
    }

    /// Whether an operator can work on the codes of its inputs.
    fn carries(&self, node: &Node) -> bool {
        let reals = node.uses().filter(|&id| constant(self.graph, id).is_none());
        let reals: BTreeSet<ValueId> = reals.collect();
        let coded = reals.iter().all(|id| self.coded.contains(id)) && !reals.is_empty();
        let float = |id: ValueId| self.graph.ty(id).dtype() == Some(DType::F32);
        let one =
            node.defs().count() == 1 && node.defs().all(float) && reals.iter().all(|&id| float(id));
        let rank = |id: ValueId| self.graph.ty(id).dims().map(<[_]>::len);
        let single =
            |id: &ValueId| constant(self.graph, *id).is_none_or(|tensor| tensor.len() == 1);
        let def = find(&node.op).filter(|def| def.pure && def.kind == Kind::Elementwise);
        let ranks = || node.defs().all(|y| reals.iter().all(|&x| rank(x) == rank(y)));
        coded
            && one
            && match node.op.as_str() {
                "Concat" => reals.len() == node.inputs.len(),
                "GlobalAveragePool" => true,
                "Add" | "Mul" if reals.len() == 2 => ranks(),
                // Codes keep their scale. MaxPool moves them, too, but its kernels are for floats.
                op if MOVES.contains(&op) => node.input(0).is_some_and(|x| reals.contains(&x)),
                _ => {
                    def.is_some()
                        && reals.len() == 1
                        && node.uses().all(|id| single(&id))
                        && ranks()
                }
            }
    }

    /// The part of the range of a value in which the one function that reads it tells numbers
    /// apart: HardSwish is the same for all below -3, and codes for them were wasted.
    fn told_apart(&self, value: ValueId, range: Range, ranges: &Ranges) -> Range {
        let narrowed = || {
            let &[user] = &self.users[value.index()][..] else { return None };
            let node = &self.graph.nodes[user];
            let function = find(&node.op).filter(|def| def.kind == Kind::Elementwise)?;
            let alone = node.uses().filter(|&id| constant(self.graph, id).is_none()).count() == 1;
            if self.roles[user] != Role::Carried || !alone || self.graph.outputs.contains(&value) {
                return None;
            }
            let (step, _) = ranges.get(&node.output(0)?)?.params()?;
            let inputs = sampled(self.graph, node, value, range)?;
            let ctx = EvalCtx { node, inputs: &inputs, outer: &|_| None, runner: &Interpreter };
            let results = to_f64((function.eval)(&ctx).ok()?.first()?.as_tensor()?).ok()?;
            let (first, last) = (flat(results.iter(), step), flat(results.iter().rev(), step));
            let (low, high) = (sample(range, first), sample(range, SAMPLES - 1 - last));
            (results.len() == SAMPLES && low < high).then_some(Range { low, high })
        };
        narrowed().unwrap_or(range)
    }

    /// What no operator on codes reads had better stay as exact as it is.
    fn drop_loose_ends(&mut self) {
        for at in (0..self.roles.len()).rev() {
            let end = self.end(at).filter(|_| self.roles[at] == Role::Carried);
            let Some((y, clip)) = end else { continue };
            let reads = |&user: &usize| matches!(self.roles[user], Role::Product | Role::Carried);
            if !self.users[y.index()].iter().any(reads) {
                self.coded.remove(&y);
                clip.into_iter().chain([at]).for_each(|at| self.roles[at] = Role::Float);
            }
        }
    }
}

/// Numbers of a range by which a function is judged.
const SAMPLES: usize = 1024;

fn sample(range: Range, index: usize) -> f32 {
    let share = index as f64 / (SAMPLES - 1) as f64;
    (f64::from(range.low) * (1.0 - share) + f64::from(range.high) * share) as f32
}

/// Inputs of a function of one value: numbers all over its range, and constants.
fn sampled(graph: &Graph, node: &Node, value: ValueId, range: Range) -> Option<Vec<Option<Value>>> {
    let samples: Vec<f32> = (0..SAMPLES).map(|index| sample(range, index)).collect();
    let input = |id: &Option<ValueId>| match id {
        None => Some(None),
        Some(id) if *id == value => Some(Some(Tensor::vector(&samples).into())),
        Some(id) => Some(Some(constant(graph, *id)?.clone().into())),
    };
    node.inputs.iter().map(input).collect()
}

/// How many of the results can be left out: up to there, all are as good as equal to the next. Half
/// a step would do for one element; for all of them at once it is a bias.
fn flat<'a>(results: impl Iterator<Item = &'a f64>, step: f32) -> usize {
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    let near = f64::from(step) / 16.0;
    let mut end = 0;
    for (index, &result) in results.enumerate() {
        (least, most) = (least.min(result), most.max(result));
        // Not so for NaN, either.
        if result - least <= near && most - result <= near {
            end = index;
        }
    }
    end
}

/// A tensor that is the same in each run.
pub(crate) fn constant(graph: &Graph, id: ValueId) -> Option<&Tensor> {
    graph.constant(id).filter(|_| !graph.inputs.contains(&id))
}

/// Writes the graph with the pairs in it.
struct Writer<'a> {
    layout: &'a Layout<'a>,
    ranges: &'a Ranges,
    out: Graph,
    /// Of coded values: scale and zero point of the codes, and the value behind the pair.
    pairs: BTreeMap<ValueId, ((f32, u8), ValueId)>,
    /// Values that are rounded for all that read them, since what made them works on codes.
    made: BTreeSet<ValueId>,
}

impl<'a> Writer<'a> {
    fn new(graph: &Graph, layout: &'a Layout<'a>, ranges: &'a Ranges) -> Self {
        let out = Graph { nodes: Vec::new(), ..graph.clone() };
        Writer { layout, ranges, out, pairs: BTreeMap::new(), made: BTreeSet::new() }
    }

    fn write(mut self) -> Graph {
        let graph = self.layout.graph;
        for &input in &graph.inputs {
            self.pair(input, None, Role::Float);
        }
        for (at, node) in graph.nodes.iter().enumerate() {
            let role = self.layout.roles[at];
            let mut node = node.clone();
            let on_codes = matches!(role, Role::Product | Role::Carried);
            let (pairs, made) = (&self.pairs, &self.made);
            node.map_uses(|id| match pairs.get(&id) {
                Some((_, rounded)) if on_codes || made.contains(&id) => *rounded,
                _ => id,
            });
            let linear = Linear::of(graph, &graph.nodes[at]).filter(|_| role == Role::Product);
            if let Some(linear) = linear {
                self.weights(&mut node, &linear, graph.nodes[at].input(0));
            }
            self.out.nodes.push(node);
            for y in graph.nodes[at].defs() {
                self.pair(y, Some(at), role);
            }
        }
        self.out
    }

    /// Puts a pair behind a value that is there by now, if it is coded.
    fn pair(&mut self, value: ValueId, maker: Option<usize>, role: Role) {
        let graph = self.layout.graph;
        if !self.layout.coded.contains(&value) {
            return;
        }
        let moved =
            maker.map(|at| &graph.nodes[at]).filter(|node| MOVES.contains(&node.op.as_str()));
        let from = moved.filter(|_| role == Role::Carried).and_then(|node| node.input(0));
        let same = from.and_then(|x| self.pairs.get(&x)).map(|(params, _)| *params);
        let own = || {
            let range = *self.ranges.get(&value)?;
            // What a clip gives starts at zero, and so do the codes that stand for it.
            let low = if role == Role::Saturates { range.low.max(0.0) } else { range.low };
            self.layout.told_apart(value, Range { low, ..range }, self.ranges).params()
        };
        let Some((scale, zero)) = same.or_else(own) else { return };
        let info = graph.value(value).clone();
        let mut real = value;
        let mut rounded = self.out.add_value(&format!("{}.rounded", info.name), info.ty.clone());
        if role != Role::Float {
            self.made.insert(value);
            // An output of the graph keeps its name.
            if graph.outputs.contains(&value) {
                (real, rounded) = (rounded, value);
                let maker = self.out.nodes.last_mut().map(|node| &mut node.outputs);
                maker.into_iter().flatten().for_each(|y| *y = y.map(|_| real));
            }
        }
        let codes = match info.ty.dims() {
            Some(dims) => Type::shaped(DType::U8, dims.to_vec()),
            None => Type::unranked(DType::U8),
        };
        let codes = self.out.add_value(&format!("{}.codes", info.name), codes);
        let scale_id = self.out.add_constant("scale", Tensor::scalar(scale));
        let zero_id = self.out.add_constant("zero_point", Tensor::scalar(zero));
        let quantise = Node::new("QuantizeLinear", &[real, scale_id, zero_id], &[codes]);
        let back = Node::new("DequantizeLinear", &[codes, scale_id, zero_id], &[rounded]);
        self.out.nodes.extend([quantise, back]);
        self.pairs.insert(value, ((scale, zero), rounded));
    }

    /// Quantises the weights and the bias of a node that is about to be written.
    fn weights(&mut self, node: &mut Node, linear: &Linear<'_>, x: Option<ValueId>) {
        let Some(((x_scale, _), _)) = x.and_then(|x| self.pairs.get(&x)) else { return };
        let Some(made) = codes(linear, *x_scale) else { return };
        let parts = [(1, Some(made.weights), linear.axis), (2, made.bias, 0)];
        for (index, made, axis) in parts {
            let (Some((codes, scales)), Some(old)) = (made, node.input(index)) else { continue };
            let name = self.out.value(old).name.clone();
            let shape = codes.shape().to_vec();
            let codes = self.out.add_constant(&format!("{name}.codes"), codes);
            let scales = self.out.add_constant("scale", scales);
            let rounded =
                self.out.add_value(&format!("{name}.rounded"), Type::tensor(DType::F32, &shape));
            self.out.nodes.push(
                Node::new("DequantizeLinear", &[codes, scales], &[rounded])
                    .with("axis", axis as i64),
            );
            node.inputs[index] = Some(rounded);
        }
    }
}
