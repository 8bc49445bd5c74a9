//! Differentiation: the gradient of a value by others, as nodes of the same graph.
//!
//! In reverse: from the result back, each node turns the gradients by its outputs into those by
//! its inputs, by the rule of its row ([`crate::OpDef::gradient`]); a value that several nodes
//! read sums what they give.

use std::collections::{BTreeSet, HashMap, HashSet};

use hetra_ir::{Graph, Node, NodeId, Type, ValueId};

use crate::def::{Arity, OpDef, onnx};
use crate::error::{NodeError, OpError};
use crate::table::find;
use crate::tape::Tape;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&GRADIENT];

static GRADIENT: OpDef = OpDef {
    name: "ai.onnx.preview.training.Gradient",
    doc: "The gradient of a value of the graph by others; import writes it out in operators.",
    onnx: &[onnx("ai.onnx.preview.training", "Gradient", 1)],
    inputs: Arity::at_least(1),
    outputs: Arity::at_least(1),
    eval: |_| Err(OpError::unsupported("it names values of a graph, and stands only in files")),
    ..OpDef::DEFAULT
};

/// What to differentiate.
#[derive(Clone, Copy, Debug)]
pub struct Gradient<'a> {
    /// The value to differentiate.
    pub y: ValueId,
    /// By these.
    pub xs: &'a [ValueId],
    /// What stays fixed; nothing is differentiated that lies before it.
    pub zs: &'a [ValueId],
    /// Where: what stands in the places of `xs`, then of `zs`.
    pub at: &'a [ValueId],
}

/// Adds the nodes that compute the gradient of the sum of the elements of `y` by each of `xs`.
/// The values that it returns have the shapes of `at`. Nodes that are needed at other values than
/// those that the graph has are copied. On failure the graph holds some unused nodes more.
///
/// # Errors
/// The node that has no rule, or the fault of the request, under the name of `y`.
pub fn gradient(graph: &mut Graph, of: &Gradient<'_>) -> Result<Vec<ValueId>, NodeError> {
    check(graph, of)?;
    let mut roots: Vec<ValueId> = of.xs.iter().chain(of.zs).copied().collect();
    let mut y = of.y;
    if roots != of.at {
        (roots, y) = substitute(graph, y, &roots, of.at);
    }
    let (xs, zs) = roots.split_at(of.xs.len());
    let path = between(graph, y, roots.iter().copied());
    let active = active(graph, &path, xs);
    let mut tape = Tape::new(std::mem::take(graph));
    let done = reverse(&mut tape, y, (xs, zs), &path, &active);
    *graph = tape.into_graph();
    done
}

fn check(graph: &Graph, of: &Gradient<'_>) -> Result<(), NodeError> {
    let fault = |message: String| NodeError {
        node: graph.value(of.y).name.clone(),
        op: GRADIENT.name.to_string(),
        source: OpError::invalid(message),
    };
    let (wanted, got) = (of.xs.len() + of.zs.len(), of.at.len());
    if wanted != got {
        return Err(fault(format!("{got} values for {wanted} variables")));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = of.xs.iter().chain(of.zs).find(|root| !seen.insert(**root)) {
        return Err(fault(format!("`{}` is named twice", graph.value(*twice).name)));
    }
    match captured(graph, of, &seen) {
        Some(other) => Err(fault(format!(
            "`{}` is of the graph around, as a variable is, and may depend on it",
            graph.value(other).name
        ))),
        None => Ok(()),
    }
}

/// A value of the graph around that `y` depends on, where one of `xs` is of that graph too: how
/// they hang together does not show here. What is named in `zs` stays fixed.
fn captured(graph: &Graph, of: &Gradient<'_>, roots: &HashSet<ValueId>) -> Option<ValueId> {
    let outer: HashSet<ValueId> = graph.captures.iter().map(|capture| capture.inner).collect();
    if !of.xs.iter().any(|x| outer.contains(x)) {
        return None;
    }
    let path = between(graph, of.y, roots.clone());
    let read = path.iter().flat_map(|id| graph.node(*id).uses());
    read.chain([of.y]).find(|id| outer.contains(id) && !roots.contains(id))
}

/// The nodes that `y` needs, but for what lies before `roots`.
fn between(
    graph: &Graph,
    y: ValueId,
    roots: impl IntoIterator<Item = ValueId>,
) -> BTreeSet<NodeId> {
    let producers = graph.producers();
    let mut seen: HashSet<ValueId> = roots.into_iter().collect();
    let mut path = BTreeSet::new();
    let mut open = vec![y];
    while let Some(value) = open.pop() {
        if !seen.insert(value) {
            continue;
        }
        if let Some(id) = producers[value.index()]
            && path.insert(id)
        {
            open.extend(graph.node(id).uses());
        }
    }
    path
}

/// The values that depend on `xs` along `path`.
fn active(graph: &Graph, path: &BTreeSet<NodeId>, xs: &[ValueId]) -> HashSet<ValueId> {
    let mut active: HashSet<ValueId> = xs.iter().copied().collect();
    for id in path {
        let node = graph.node(*id);
        if node.uses().any(|value| active.contains(&value)) && !is_flat(node) {
            active.extend(node.defs());
        }
    }
    active
}

/// Whether the rule of a node gives nothing: what follows from it is a constant, and may be of a
/// type that has no arithmetic.
fn is_flat(node: &Node) -> bool {
    let Some(rule) = find(&node.op).and_then(|def| def.gradient) else { return false };
    let (mut graph, mut node) = (Graph::default(), node.clone());
    for id in node.inputs.iter_mut().chain(&mut node.outputs).flatten() {
        *id = graph.add_value("", Type::Unknown);
    }
    graph.nodes.push(node);
    matches!(rule(&Tape::new(graph)), Ok(dxs) if dxs.is_empty())
}

/// Copies what computes `y` with `values` in the places of `roots`; returns the new roots, each a
/// value of its own, and the new `y`.
fn substitute(
    graph: &mut Graph,
    y: ValueId,
    roots: &[ValueId],
    values: &[ValueId],
) -> (Vec<ValueId>, ValueId) {
    let path = between(graph, y, roots.iter().copied());
    let mut map = HashMap::new();
    for (root, value) in roots.iter().zip(values) {
        copy(graph, Node::new("Identity", &[*value], &[*root]), &mut map);
    }
    for id in path {
        let mut node = graph.node(id).clone();
        if node.uses().any(|value| map.contains_key(&value)) {
            node.map_uses(|value| map.get(&value).copied().unwrap_or(value));
            copy(graph, node, &mut map);
        }
    }
    let moved = |value: &ValueId| map.get(value).copied().unwrap_or(*value);
    (roots.iter().map(moved).collect(), moved(&y))
}

/// Adds a node with outputs of its own, which `map` knows by the old ones from then on; but not
/// in the place of a root that the node gives beside what is needed.
fn copy(graph: &mut Graph, mut node: Node, map: &mut HashMap<ValueId, ValueId>) {
    node.name.clear();
    for output in node.outputs.iter_mut().flatten() {
        let fresh = graph.add_value("", Type::Unknown);
        map.entry(*output).or_insert(fresh);
        *output = fresh;
    }
    graph.nodes.push(node);
}

fn reverse(
    tape: &mut Tape,
    y: ValueId,
    (xs, zs): (&[ValueId], &[ValueId]),
    path: &BTreeSet<NodeId>,
    active: &HashSet<ValueId>,
) -> Result<Vec<ValueId>, NodeError> {
    let mut known: HashMap<ValueId, ValueId> = HashMap::new();
    known.insert(y, tape.var(y).fill(1.0).id());
    // They stand for themselves, even where a node of the path gives them.
    let roots: HashSet<ValueId> = xs.iter().chain(zs).copied().collect();
    for id in path.iter().rev() {
        tape.turn_to(id.index(), Vec::new());
        let node = tape.node();
        let inner = |id: &ValueId| !roots.contains(id);
        let dys = node.outputs.iter().map(|id| known.get(&id.filter(inner)?).copied());
        let dys: Vec<_> = dys.collect();
        let wanted = node.uses().any(|value| active.contains(&value));
        if !wanted || dys.iter().all(Option::is_none) {
            continue;
        }
        tape.turn_to(id.index(), dys);
        let dxs = by_inputs(tape, &node)?;
        for (input, dx) in node.inputs.iter().zip(dxs) {
            let (Some(input), Some(dx)) = (*input, dx) else { continue };
            if !active.contains(&input) {
                continue;
            }
            let sum = match known.get(&input) {
                Some(other) => (tape.var(*other) + tape.var(dx)).id(),
                None => dx,
            };
            known.insert(input, sum);
        }
    }
    let of = |x: &ValueId| known.get(x).copied().unwrap_or_else(|| tape.var(*x).fill(0.0).id());
    Ok(xs.iter().map(of).collect())
}

/// The gradients by the inputs of `node`, which the tape has turned to.
fn by_inputs(tape: &Tape, node: &Node) -> Result<Vec<Option<ValueId>>, NodeError> {
    let rule = find(&node.op).and_then(|def| def.gradient);
    let none = || OpError::unsupported("it is differentiated, and Hetra has no rule for that");
    let dxs = rule.ok_or_else(none).and_then(|rule| rule(tape));
    let dxs =
        dxs.map_err(|source| NodeError { node: tape.label(), op: node.op.clone(), source })?;
    Ok(dxs.into_iter().map(|dx| dx.map(|dx| dx.id())).collect())
}

#[cfg(test)]
mod tests {
    use hetra_ir::{Builder, Dim};
    use hetra_tensor::{DType, Tensor, Value, to_f64};

    use super::*;
    use crate::tape::op;
    use crate::{ALL_OPS, interpret};

    /// An operator with its inputs; the first `by` of them are differentiated by.
    struct Case {
        node: Node,
        outputs: usize,
        inputs: Vec<Tensor>,
        by: Vec<usize>,
    }

    fn reals(shape: &[usize], from: f64, to: f64) -> Tensor {
        let count = shape.iter().product::<usize>();
        // A walk over the range in an order that repeats nothing.
        let at = |i: usize| (i as f64 * 0.618_034 + 0.21).fract();
        let values: Vec<f64> = (0..count).map(|i| from + (to - from) * at(i)).collect();
        Tensor::from_slice(shape, &values).unwrap()
    }

    fn case(node: Node, inputs: &[Tensor]) -> Case {
        let by = (0..inputs.len()).filter(|at| inputs[*at].dtype() == DType::F64).collect();
        Case { node, outputs: 1, inputs: inputs.to_vec(), by }
    }

    fn ints(values: &[i64]) -> Tensor {
        Tensor::vector(values)
    }

    /// The sum of all outputs, each element with a weight of its own, and its gradient.
    fn graph_of(case: &Case, order: usize) -> Graph {
        let mut builder = Builder::new("case");
        let shape = |tensor: &Tensor| tensor.shape().iter().map(|&d| Dim::Known(d)).collect();
        let inputs: Vec<_> =
            case.inputs.iter().map(|t| builder.input("", t.dtype(), shape(t))).collect();
        let node = Node { inputs: inputs.iter().copied().map(Some).collect(), ..case.node.clone() };
        let mut ys = builder.node(node, case.outputs);
        let xs: Vec<_> = case.by.iter().map(|at| inputs[*at]).collect();
        let zs: Vec<_> = inputs.iter().copied().filter(|id| !xs.contains(id)).collect();
        let at = [xs.clone(), zs.clone()].concat();
        let mut graph = builder.finish();
        for left in (0..order).rev() {
            let y = weighted(&mut graph, &ys);
            let of = Gradient { y, xs: &xs, zs: &zs, at: &at };
            let dxs = gradient(&mut graph, &of).unwrap();
            if left == 0 {
                graph.outputs = [vec![y], dxs].concat();
            } else {
                ys = dxs;
            }
        }
        hetra_ir::verify(&graph).unwrap();
        graph
    }

    fn weighted(graph: &mut Graph, values: &[ValueId]) -> ValueId {
        let mut tape = Tape::new(std::mem::take(graph));
        tape.turn_to(0, Vec::new());
        let weigh = |value: &ValueId| {
            let y = tape.var(*value);
            let weights = (y.places().with("CastLike", y) * 0.7 + 1.0).apply("Sin") + 1.5;
            (y * weights).reduce("ReduceSum", y.axes_from(0)).flatten()
        };
        let sums: Vec<_> = values.iter().map(weigh).collect();
        let sum = tape.op(op("Sum"), &sums).id();
        *graph = tape.into_graph();
        sum
    }

    fn run(graph: &Graph, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let inputs = inputs.iter().cloned().map(Value::from).collect();
        let outputs = interpret(graph, inputs, &|_| None).unwrap();
        outputs.iter().map(|value| to_f64(value.as_tensor().unwrap()).unwrap()).collect()
    }

    fn check(case: &Case, order: usize) {
        let graph = graph_of(case, order);
        let exact = run(&graph, &case.inputs);
        let step = 1e-5;
        for (index, by) in case.by.iter().enumerate() {
            assert_eq!(exact[1 + index].len(), case.inputs[*by].len(), "{}", case.node.op);
            for (element, got) in exact[1 + index].iter().enumerate() {
                let moved = |step: f64| {
                    let mut inputs = case.inputs.clone();
                    inputs[*by].as_mut_slice::<f64>().unwrap()[element] += step;
                    run(&graph, &inputs)[0][0]
                };
                let slope = (moved(step) - moved(-step)) / (2.0 * step);
                let far = (got - slope).abs() / (1.0 + slope.abs());
                assert!(far < 1e-6, "{:?}, input {by}, {element}: {got}, not {slope}", case.node);
            }
        }
    }

    fn elementwise() -> Vec<Case> {
        let x = |from, to| reals(&[2, 5], from, to);
        let wide = [
            "Sin",
            "Cos",
            "Atan",
            "Sinh",
            "Cosh",
            "Tanh",
            "Asinh",
            "Erf",
            "Sigmoid",
            "Softplus",
            "Softsign",
            "Mish",
            "Exp",
            "Abs",
            "Neg",
            "Relu",
            "LeakyRelu",
            "Elu",
            "Celu",
            "Selu",
            "ThresholdedRelu",
            "HardSigmoid",
            "Swish",
            "Gelu",
            "Shrink",
            "com.microsoft.Gelu",
            "com.microsoft.QuickGelu",
            "com.microsoft.FastGelu",
            "Identity",
        ];
        let mut cases: Vec<_> = wide.iter().map(|name| case(op(name), &[x(-2.0, 3.0)])).collect();
        cases.push(case(op("HardSwish"), &[x(-5.0, 5.0)]));
        for name in ["Reciprocal", "Sqrt", "Log"] {
            cases.push(case(op(name), &[x(0.3, 4.0)]));
        }
        for name in ["Tan", "Asin", "Acos", "Atanh"] {
            cases.push(case(op(name), &[x(-0.9, 0.9)]));
        }
        cases.push(case(op("Acosh"), &[x(1.2, 4.0)]));
        cases.push(case(op("Gelu").with("approximate", "tanh"), &[x(-2.0, 3.0)]));
        let limits = [x(-2.0, 3.0), Tensor::scalar(-1.0f64), Tensor::scalar(1.0f64)];
        cases.push(case(op("Clip"), &limits));
        let crossed = [x(-2.0, 3.0), Tensor::scalar(1.0f64), Tensor::scalar(0.5f64)];
        cases.push(case(op("Clip"), &crossed));
        cases.push(case(op("Cast").with("to", 11i64), &[x(-2.0, 3.0)]));
        let like = Tensor::scalar(1.0f64);
        cases.push(Case { by: vec![0], ..case(op("CastLike"), &[x(-2.0, 3.0), like]) });
        let (row, column) = (reals(&[1, 5], 0.5, 2.0), reals(&[3, 1, 1], 0.4, 1.9));
        for name in ["Add", "Sub", "Mul", "Div", "Pow"] {
            cases.push(case(op(name), &[x(0.3, 2.0), row.clone()]));
            cases.push(case(op(name), &[row.clone(), column.clone()]));
        }
        cases.push(case(op("PRelu"), &[x(-2.0, 3.0), row.clone()]));
        let bias = reals(&[5], -1.0, 1.0);
        for name in ["com.microsoft.BiasGelu", "com.microsoft.FastGelu"] {
            cases.push(case(op(name), &[x(-2.0, 3.0), bias.clone()]));
        }
        for name in ["Sum", "Mean", "Max", "Min"] {
            cases.push(case(op(name), &[x(0.3, 2.1), row.clone(), column.clone()]));
        }
        let holds = Tensor::from_bools(&[2, 1], &[true, false]).unwrap();
        cases.push(case(op("Where"), &[holds, x(-1.0, 1.0), column]));
        cases
    }

    fn products() -> Vec<Case> {
        let mut cases = Vec::new();
        let shapes: [(&[usize], &[usize]); 6] = [
            (&[2, 3], &[3, 4]),
            (&[3], &[3]),
            (&[3], &[2, 3, 2]),
            (&[2, 2, 3], &[3]),
            (&[2, 1, 2, 3], &[3, 3, 2]),
            (&[4, 2, 3], &[3, 2]),
        ];
        for (a, b) in shapes {
            cases.push(case(op("MatMul"), &[reals(a, -1.0, 1.0), reals(b, -1.0, 2.0)]));
        }
        for (ta, tb) in [(0i64, 0i64), (0, 1), (1, 0), (1, 1)] {
            let a = reals(if ta == 1 { &[3, 2] } else { &[2, 3] }, -1.0, 1.0);
            let b = reals(if tb == 1 { &[4, 3] } else { &[3, 4] }, -1.0, 2.0);
            let node = |name| op(name).with("transA", ta).with("transB", tb).with("alpha", 0.5f32);
            let v = reals(&[3], -0.5, 1.0);
            for sides in [[&a, &b], [&v, &b], [&a, &v], [&v, &v]] {
                cases.push(case(node("com.microsoft.FusedMatMul"), &sides.map(Tensor::clone)));
            }
            let c = reals(&[4], -1.0, 1.0);
            cases.push(case(node("Gemm").with("beta", 2.0f32), &[a, b, c]));
        }
        cases
    }

    fn movements() -> Vec<Case> {
        let x = |shape: &[usize]| reals(shape, -2.0, 2.0);
        let (picks, pads) = (ints(&[2, 0, -1, 2]), ints(&[1, 0, 0, 2]));
        let two = |count, at| Tensor::from_slice(count, at).unwrap();
        let nearest = Tensor::scalar(0.0f64);
        let mut cases = vec![
            case(op("Reshape"), &[x(&[2, 6]), ints(&[3, -1])]),
            case(op("Flatten"), &[x(&[2, 3, 2])]),
            case(op("Squeeze"), &[x(&[2, 1, 3])]),
            case(op("Unsqueeze"), &[x(&[2, 3]), ints(&[1])]),
            case(op("Expand"), &[x(&[3, 1]), ints(&[2, 1, 4])]),
            case(op("Transpose"), &[x(&[2, 3])]),
            case(op("Transpose").with("perm", vec![2i64, 0, 1]), &[x(&[2, 3, 4])]),
            case(op("Concat").with("axis", -1i64), &[x(&[2, 1]), x(&[2, 3])]),
            case(op("Tile"), &[x(&[2, 2]), ints(&[2, 3])]),
            case(op("DepthToSpace").with("blocksize", 2i64), &[x(&[1, 4, 1, 2])]),
            case(op("SpaceToDepth").with("blocksize", 2i64), &[x(&[1, 1, 2, 4])]),
            case(
                op("ReverseSequence").with("batch_axis", 1i64).with("time_axis", 0i64),
                &[x(&[3, 2]), ints(&[2, 3])],
            ),
            case(op("Slice"), &[x(&[5, 2]), ints(&[4]), ints(&[0]), ints(&[0]), ints(&[-2])]),
            case(op("Gather").with("axis", 1i64), &[x(&[2, 3]), picks]),
            case(
                op("GatherElements").with("axis", 1i64),
                &[x(&[2, 3]), two(&[2, 2], &[0i64, 0, 2, 1])],
            ),
            case(op("GatherND"), &[x(&[2, 3]), two(&[2, 2], &[1i64, 2, 1, 2])]),
            case(
                op("Compress").with("axis", 0i64),
                &[x(&[3, 2]), Tensor::from_bools(&[3], &[true, false, true]).unwrap()],
            ),
            case(op("Pad"), &[x(&[3, 2]), pads.clone(), nearest]),
            case(op("Range"), &[0.3, 2.0, 0.4].map(Tensor::scalar::<f64>)),
            case(op("Pad").with("mode", "reflect"), &[x(&[3, 3]), pads]),
            case(op("Trilu"), &[x(&[3, 3])]),
            case(
                op("ScatterElements").with("reduction", "add"),
                &[x(&[3, 1]), two(&[2, 1], &[1i64, 1]), x(&[2, 1])],
            ),
            case(op("CumSum"), &[x(&[2, 4]), Tensor::scalar(1i64)]),
            case(op("CumSum").with("exclusive", 1i64), &[x(&[4]), Tensor::scalar(0i64)]),
            case(op("TopK"), &[x(&[2, 5]), ints(&[3])]),
            case(op("MaxPool").with("kernel_shape", vec![2i64, 2]), &[x(&[1, 2, 3, 4])]),
            case(op("GlobalAveragePool"), &[x(&[2, 2, 3])]),
            case(op("Dropout"), &[x(&[5])]),
            case(
                op("Dropout").with("seed", 7i64),
                &[x(&[9]), Tensor::scalar(0.4f32), Tensor::from_bools(&[], &[true]).unwrap()],
            ),
        ];
        let split = op("Split").with("axis", 1i64);
        cases.push(Case { outputs: 2, ..case(split, &[x(&[2, 5]), ints(&[2, 3])]) });
        cases
    }

    fn reductions() -> Vec<Case> {
        let mut cases = Vec::new();
        let names = ["Sum", "Mean", "Max", "Min", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"];
        for name in names.map(|name| format!("Reduce{name}")) {
            let x = reals(&[2, 3, 2], 0.2, 2.0);
            let flat = op(&name).with("keepdims", 0i64);
            cases.push(case(flat, &[x.clone(), ints(&[-2, 0])]));
            cases.push(case(op(&name), &[x.clone(), ints(&[1])]));
            cases.push(case(op(&name), &[x]));
        }
        for name in ["Softmax", "LogSoftmax"] {
            let x = reals(&[2, 3, 2], -2.0, 2.0);
            cases.push(case(op(name), std::slice::from_ref(&x)));
            cases.push(case(op(name).with("axis", 1i64), std::slice::from_ref(&x)));
            cases.push(case(Node { version: 11, ..op(name) }, &[x]));
        }
        let (x, scale) = (reals(&[2, 3, 2], -2.0, 2.0), reals(&[3, 2], 0.5, 1.5));
        let norm = |name: &str| op(name).with("axis", 1i64);
        cases.push(case(norm("LayerNormalization"), &[x.clone(), scale.clone(), scale.clone()]));
        cases.push(case(norm("RMSNormalization"), &[x.clone(), scale.clone()]));
        cases.push(case(norm("SimplifiedLayerNormalization"), &[x, scale]));
        cases
    }

    #[test]
    fn rules_agree_with_differences() {
        for cases in [elementwise(), products(), movements(), reductions()] {
            cases.iter().for_each(|case| check(case, 1));
        }
    }

    #[test]
    fn gradients_have_gradients() {
        let x = reals(&[2, 3], 0.4, 1.8);
        for name in ["Exp", "Sqrt", "Sigmoid", "Tanh", "Log", "Softmax", "ReduceL2"] {
            check(&case(op(name), std::slice::from_ref(&x)), 2);
        }
        check(&case(op("Mul"), &[x.clone(), reals(&[1, 3], 0.5, 1.0)]), 2);
        check(&case(op("MatMul"), &[x.clone(), reals(&[3, 2], 0.5, 1.0)]), 2);
        check(&case(op("Gather"), &[x, ints(&[0, 0])]), 2);
    }

    #[test]
    fn a_root_beside_what_is_needed_stands_for_itself() {
        // y = p * q of (p, q) = x: by p, and by x with p fixed; at the same place, then at p = 7.
        for (at, wanted) in
            [(None, [vec![2.0], vec![0.0, 1.0]]), (Some(7.0), [vec![2.0], vec![0.0, 7.0]])]
        {
            let mut builder = Builder::new("split");
            let x = builder.input("x", DType::F64, vec![Dim::Known(2)]);
            let halves = builder.node(Node::new("Split", &[x], &[]).with("num_outputs", 2i64), 2);
            let y = builder.node(Node::new("Mul", &[halves[0], halves[1]], &[]), 1)[0];
            let mut graph = builder.finish();
            let p = at.map_or(halves[0], |at| graph.add_constant("at", Tensor::vector(&[at])));
            let of = Gradient { y, xs: &[halves[0], x], zs: &[], at: &[p, x] };
            graph.outputs = gradient(&mut graph, &of).unwrap();
            assert_eq!(run(&graph, &[Tensor::vector(&[1.0, 2.0])]), wanted);
        }
    }

    #[test]
    fn means_of_more_than_the_dtype_counts_and_norms_of_nothing() {
        let slope = |name: &str, dtype, count: usize| {
            let mut builder = Builder::new("reduce");
            let x = builder.input("x", dtype, vec![Dim::Known(1), Dim::Known(1), count.into()]);
            let y = builder.op(name, &[x]);
            let mut graph = builder.finish();
            let of = Gradient { y, xs: &[x], zs: &[], at: &[x] };
            graph.outputs = gradient(&mut graph, &of).unwrap();
            run(&graph, &[Tensor::zeros(dtype, &[1, 1, count]).unwrap()])[0][0]
        };
        for name in ["ReduceMean", "GlobalAveragePool"] {
            assert_eq!(slope(name, DType::F16, 1 << 17), 0.5f64.powi(17), "{name}");
        }
        assert_eq!(slope("ReduceL2", DType::F32, 3), 0.0);
    }

    #[test]
    fn what_is_flat_passes_nothing_on() {
        // The mask is read twice, and there is no sum of booleans; Mod has no rule.
        let mut b = Builder::new("flat");
        let x = b.input("x", DType::F64, vec![Dim::Known(2)]);
        let two = b.constant("", Tensor::scalar(2.0f64));
        let mask = b.op("Greater", &[x, two]);
        let cast = op("Cast").with("to", 11i64);
        let mut as_real = |of, node: Node| b.node(Node { inputs: vec![Some(of)], ..node }, 1)[0];
        let masks = [as_real(mask, cast.clone()), as_real(mask, cast.clone())];
        let whole = as_real(x, op("Cast").with("to", 7i64));
        let whole = as_real(whole, cast);
        let floor = b.op("Floor", &[x]);
        let rest = b.node(Node::new("Mod", &[floor, two], &[]).with("fmod", 1i64), 1)[0];
        let parts = [masks[0], masks[1], whole, rest].map(|part| b.op("Mul", &[x, part]));
        let y = b.op("Sum", &parts);
        let mut graph = b.finish();
        let of = Gradient { y, xs: &[x], zs: &[], at: &[x] };
        graph.outputs = gradient(&mut graph, &of).unwrap();
        assert_eq!(run(&graph, &[Tensor::vector(&[1.5, 3.5])]), [[2.0, 6.0]]);
    }

    #[test]
    fn every_rule_has_a_case() {
        let cases = [elementwise(), products(), movements(), reductions()];
        let tried: HashSet<_> = cases.iter().flatten().map(|case| case.node.op.as_str()).collect();
        for def in ALL_OPS.iter().flat_map(|ops| ops.iter()) {
            let node = Node::new(def.name, &[ValueId(0); 3], &[ValueId(0)]);
            let rule = def.gradient.is_some() && !is_flat(&node);
            assert_eq!(rule, tried.contains(def.name), "{}", def.name);
        }
    }
}
