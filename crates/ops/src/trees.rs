//! Decision trees of ai.onnx.ml: TreeEnsemble and its older forms TreeEnsembleRegressor and
//! TreeEnsembleClassifier. All become one [`Forest`].

use std::collections::{HashMap, HashSet};

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{DType, Tensor, Value, from_f64, to_f64, to_i64};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, OpDef, onnx};
use crate::elementwise::Accepts;
use crate::error::OpError;
use crate::scores::{Labels, Transform};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&ENSEMBLE, &REGRESSOR, &CLASSIFIER];

const DOMAIN: &str = "ai.onnx.ml";

static ENSEMBLE: OpDef = OpDef {
    name: "ai.onnx.ml.TreeEnsemble",
    doc: "Weights that the trees of a forest give to the rows of a matrix.",
    onnx: &[onnx(DOMAIN, "TreeEnsemble", 5)],
    infer: |ctx| infer_scores(ctx, count(ctx.attrs(), "n_targets", 1)?, None),
    eval: eval_ensemble,
    ..OpDef::DEFAULT
};

static REGRESSOR: OpDef = OpDef {
    name: "ai.onnx.ml.TreeEnsembleRegressor",
    doc: "Values that a forest gives to the rows of a matrix.",
    onnx: &[onnx(DOMAIN, "TreeEnsembleRegressor", 5)],
    infer: |ctx| infer_scores(ctx, count(ctx.attrs(), "n_targets", 1)?, Some(DType::F32)),
    eval: eval_regressor,
    ..OpDef::DEFAULT
};

static CLASSIFIER: OpDef = OpDef {
    name: "ai.onnx.ml.TreeEnsembleClassifier",
    doc: "Classes, and their scores, that a forest gives to the rows of a matrix.",
    onnx: &[onnx(DOMAIN, "TreeEnsembleClassifier", 5)],
    outputs: Arity::exactly(2),
    infer: infer_classifier,
    eval: eval_classifier,
    ..OpDef::DEFAULT
};

/// Where a branch leads.
#[derive(Clone, Copy)]
enum Step {
    Node(usize),
    Leaf(usize),
}

/// The question of a node.
enum Test {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
    Above(f64),
    Is(f64),
    IsNot(f64),
    OneOf(Vec<f64>),
}

impl Test {
    fn holds(&self, x: f64) -> bool {
        match self {
            Test::AtMost(split) => x <= *split,
            Test::Below(split) => x < *split,
            Test::AtLeast(split) => x >= *split,
            Test::Above(split) => x > *split,
            Test::Is(split) => x == *split,
            Test::IsNot(split) => x != *split,
            Test::OneOf(members) => members.contains(&x),
        }
    }
}

struct Branch {
    test: Test,
    feature: usize,
    /// Where a missing value (NaN) goes.
    missing: bool,
    yes: Step,
    no: Step,
}

/// Trees, and for each leaf what it adds to which targets.
struct Forest {
    branches: Vec<Branch>,
    leaves: Vec<Vec<(usize, f64)>>,
    roots: Vec<Step>,
}

/// How the trees' answers become one.
#[derive(Clone, Copy, PartialEq)]
enum Aggregate {
    Average,
    Sum,
    Min,
    Max,
}

impl Forest {
    /// The leaf that a row reaches from a root.
    fn leaf(&self, row: &[f64], root: Step) -> Result<&[(usize, f64)], OpError> {
        let mut step = root;
        // A path without a circle meets no branch twice.
        for _ in 0..=self.branches.len() {
            let at = match step {
                Step::Leaf(leaf) => {
                    let found = self.leaves.get(leaf).map(Vec::as_slice);
                    return found.ok_or_else(|| OpError::invalid("a branch to no leaf"));
                }
                Step::Node(at) => at,
            };
            let branch =
                self.branches.get(at).ok_or_else(|| OpError::invalid("a branch to no node"))?;
            let x = row.get(branch.feature).copied().ok_or_else(|| {
                OpError::input(0, format!("{} features", branch.feature + 1), "fewer")
            })?;
            let yes = if x.is_nan() { branch.missing } else { branch.test.holds(x) };
            step = if yes { branch.yes } else { branch.no };
        }
        Err(OpError::invalid("a tree has a circle"))
    }

    /// The targets of one row; those that no leaf names are 0 or the neutral extreme.
    fn score(&self, row: &[f64], how: Aggregate, slots: &mut [f64]) -> Result<(), OpError> {
        slots.fill(match how {
            Aggregate::Sum | Aggregate::Average => 0.0,
            Aggregate::Min => f64::from(f32::MAX),
            Aggregate::Max => f64::from(f32::MIN),
        });
        for root in &self.roots {
            for &(target, weight) in self.leaf(row, *root)? {
                let slot = slots
                    .get_mut(target)
                    .ok_or_else(|| OpError::invalid(format!("there is no target {target}")))?;
                *slot = match how {
                    Aggregate::Sum | Aggregate::Average => *slot + weight,
                    Aggregate::Min => slot.min(weight),
                    Aggregate::Max => slot.max(weight),
                };
            }
        }
        if how == Aggregate::Average && !self.roots.is_empty() {
            slots.iter_mut().for_each(|slot| *slot /= self.roots.len() as f64);
        }
        Ok(())
    }

    /// The targets of all rows.
    fn scores(&self, x: &Tensor, how: Aggregate, targets: usize) -> Result<Vec<f64>, OpError> {
        let &[rows, features] = x.shape() else {
            return Err(OpError::input(0, "a matrix", x.describe()));
        };
        // Checks the size.
        let mut out = Tensor::zeros(DType::F64, &[rows, targets])?;
        let values = to_f64(x)?;
        let slots = out.as_mut_slice::<f64>()?.chunks_exact_mut(targets.max(1));
        for (index, slots) in slots.enumerate() {
            self.score(&values[index * features..(index + 1) * features], how, slots)?;
        }
        Ok(out.as_slice::<f64>()?.to_vec())
    }
}

fn index(value: i64) -> Result<usize, OpError> {
    usize::try_from(value).map_err(|_| OpError::invalid(format!("{value} is not a place")))
}

fn count(attrs: &Attrs, name: &str, default: i64) -> Result<usize, OpError> {
    index(attrs.int_or(name, default)?)
}

/// The i-th entry of a list that must be as long as the others.
fn at<T: Clone>(list: &[T], i: usize, name: &str) -> Result<T, OpError> {
    list.get(i).cloned().ok_or_else(|| OpError::invalid(format!("`{name}` is too short")))
}

/// Floats, in either of the two forms that they may have.
pub(crate) fn reals(attrs: &Attrs, name: &str) -> Result<Vec<f64>, OpError> {
    if let Some(tensor) = attrs.tensor_opt(&format!("{name}_as_tensor"))? {
        return Ok(to_f64(tensor)?);
    }
    let floats = attrs.floats_opt(name)?;
    Ok(floats.into_iter().flatten().map(|&x| f64::from(x)).collect())
}

impl Forest {
    /// The form of version 5: branches and leaves in lists of their own.
    fn of_ensemble(attrs: &Attrs) -> Result<Forest, OpError> {
        let modes = to_i64(attrs.tensor("nodes_modes")?)?;
        let splits = to_f64(attrs.tensor("nodes_splits")?)?;
        let features = attrs.ints("nodes_featureids")?;
        let missing = attrs.ints_opt("nodes_missing_value_tracks_true")?;
        let step = |kind: &str, i: usize| -> Result<Step, OpError> {
            let (ids, leafs) = (format!("nodes_{kind}nodeids"), format!("nodes_{kind}leafs"));
            let to = index(at(attrs.ints(&ids)?, i, &ids)?)?;
            let leaf = at(attrs.ints(&leafs)?, i, &leafs)? != 0;
            Ok(if leaf { Step::Leaf(to) } else { Step::Node(to) })
        };
        // Sets stand one after the other in the order of their nodes, each closed by NaN.
        let members = match attrs.tensor_opt("membership_values")? {
            Some(tensor) => to_f64(tensor)?,
            None => vec![],
        };
        let mut sets = members.split(|member| member.is_nan());
        let mut branches = Vec::with_capacity(modes.len());
        for (i, mode) in modes.iter().enumerate() {
            let split = at(&splits, i, "nodes_splits")?;
            let test = match mode {
                0 => Test::AtMost(split),
                1 => Test::Below(split),
                2 => Test::AtLeast(split),
                3 => Test::Above(split),
                4 => Test::Is(split),
                5 => Test::IsNot(split),
                6 => Test::OneOf(sets.next().unwrap_or_default().to_vec()),
                other => return Err(OpError::invalid(format!("there is no mode {other}"))),
            };
            let missing = missing.and_then(|list| list.get(i)).is_some_and(|&flag| flag != 0);
            let feature = index(at(features, i, "nodes_featureids")?)?;
            let (yes, no) = (step("true", i)?, step("false", i)?);
            branches.push(Branch { test, feature, missing, yes, no });
        }
        let weights = to_f64(attrs.tensor("leaf_weights")?)?;
        let targets = attrs.ints("leaf_targetids")?;
        let leaf = |(i, &weight): (usize, &f64)| {
            Ok(vec![(index(at(targets, i, "leaf_targetids")?)?, weight)])
        };
        let leaves = weights.iter().enumerate().map(leaf).collect::<Result<_, OpError>>()?;
        let root = |&root: &i64| -> Result<Step, OpError> {
            // A tree of one leaf is a node with that leaf for both answers.
            Ok(Step::Node(index(root)?))
        };
        let roots = attrs.ints("tree_roots")?.iter().map(root).collect::<Result<_, _>>()?;
        Ok(Forest { branches, leaves, roots })
    }

    /// The older form: nodes named by tree and number, leaves among them. `kind` is `target` or
    /// `class`.
    fn of_nodes(attrs: &Attrs, kind: &str) -> Result<Forest, OpError> {
        let modes = attrs.strs("nodes_modes")?;
        let (trees, numbers) = (attrs.ints("nodes_treeids")?, attrs.ints("nodes_nodeids")?);
        let (yes, no) = (attrs.ints("nodes_truenodeids")?, attrs.ints("nodes_falsenodeids")?);
        let features = attrs.ints("nodes_featureids")?;
        let splits = reals(attrs, "nodes_values")?;
        let missing = attrs.ints_opt("nodes_missing_value_tracks_true")?;
        if trees.len() != modes.len() || numbers.len() != modes.len() {
            return Err(OpError::invalid("the lists of nodes differ in length"));
        }
        let names = trees.iter().copied().zip(numbers.iter().copied());
        let places: HashMap<(i64, i64), usize> = names.zip(0..).collect();
        let is_leaf = |i: usize| modes[i] == "LEAF";
        let step = |place: usize| match is_leaf(place) {
            true => Step::Leaf(place),
            false => Step::Node(place),
        };
        let mut branches = Vec::with_capacity(modes.len());
        for (i, mode) in modes.iter().enumerate() {
            let to = |list: &[i64], name: &str| -> Result<Step, OpError> {
                if is_leaf(i) {
                    return Ok(Step::Leaf(i));
                }
                let place = places.get(&(trees[i], at(list, i, name)?));
                Ok(step(*place.ok_or_else(|| OpError::invalid("a branch to no node"))?))
            };
            let (yes, no) = (to(yes, "nodes_truenodeids")?, to(no, "nodes_falsenodeids")?);
            let missing = missing.and_then(|list| list.get(i)).is_some_and(|&flag| flag != 0);
            let (split, feature) = match is_leaf(i) {
                true => (0.0, 0),
                false => {
                    let feature = index(at(features, i, "nodes_featureids")?)?;
                    (at(&splits, i, "nodes_values")?, feature)
                }
            };
            let test = match mode.as_str() {
                "BRANCH_LEQ" | "LEAF" => Test::AtMost(split),
                "BRANCH_LT" => Test::Below(split),
                "BRANCH_GTE" => Test::AtLeast(split),
                "BRANCH_GT" => Test::Above(split),
                "BRANCH_EQ" => Test::Is(split),
                "BRANCH_NEQ" => Test::IsNot(split),
                other => return Err(OpError::invalid(format!("there is no mode `{other}`"))),
            };
            branches.push(Branch { test, feature, missing, yes, no });
        }
        // The first node of a tree is its root.
        let mut seen = HashSet::new();
        let roots = (0..trees.len()).filter(|&i| seen.insert(trees[i])).map(step).collect();
        let leaves = leaf_weights(attrs, kind, &places)?;
        Ok(Forest { branches, leaves, roots })
    }
}

/// For each node of the older form, what it adds to which targets.
fn leaf_weights(
    attrs: &Attrs,
    kind: &str,
    places: &HashMap<(i64, i64), usize>,
) -> Result<Vec<Vec<(usize, f64)>>, OpError> {
    let name = |what: &str| format!("{kind}_{what}");
    let trees = attrs.ints(&name("treeids"))?;
    let nodes = attrs.ints(&name("nodeids"))?;
    let ids = attrs.ints(&name("ids"))?;
    let weights = reals(attrs, &name("weights"))?;
    let mut leaves = vec![Vec::new(); places.len()];
    for (i, &weight) in weights.iter().enumerate() {
        let node = (at(trees, i, &name("treeids"))?, at(nodes, i, &name("nodeids"))?);
        let target = index(at(ids, i, &name("ids"))?)?;
        let place = places.get(&node).and_then(|&place| leaves.get_mut(place));
        place.ok_or_else(|| OpError::invalid("a weight of no node"))?.push((target, weight));
    }
    Ok(leaves)
}

/// A matrix of scores of the rows of a matrix.
fn infer_scores(
    ctx: &InferCtx<'_>,
    targets: usize,
    dtype: Option<DType>,
) -> Result<Vec<Type>, OpError> {
    Accepts::Numbers.check(ctx, 0)?;
    let rows = match ctx.dims(0) {
        None => Dim::Unknown,
        Some([rows, _]) => rows.clone(),
        Some(_) => return Err(OpError::input(0, "a matrix", "another rank")),
    };
    let dims = vec![rows, Dim::Known(targets)];
    Ok(vec![InferCtx::make(dtype.or(ctx.dtype_opt(0)), Some(dims))])
}

fn eval_ensemble(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (x, attrs) = (ctx.tensor(0)?, ctx.attrs());
    Accepts::Numbers.check_tensor(0, x)?;
    let how = match attrs.int_or("aggregate_function", 1)? {
        0 => Aggregate::Average,
        1 => Aggregate::Sum,
        2 => Aggregate::Min,
        3 => Aggregate::Max,
        other => return Err(OpError::invalid(format!("`aggregate_function` is {other}"))),
    };
    let transform = Transform::from_number(attrs.int_or("post_transform", 0)?)?;
    let targets = count(attrs, "n_targets", 1)?;
    let mut scores = Forest::of_ensemble(attrs)?.scores(x, how, targets)?;
    scores.chunks_exact_mut(targets.max(1)).for_each(|row| transform.apply(row));
    Ok(vec![from_f64(x.dtype(), &[x.shape()[0], targets], &scores)?.into()])
}

fn eval_regressor(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (x, attrs) = (ctx.tensor(0)?, ctx.attrs());
    Accepts::Numbers.check_tensor(0, x)?;
    let how = match attrs.str_or("aggregate_function", "SUM")? {
        "AVERAGE" => Aggregate::Average,
        "SUM" => Aggregate::Sum,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => return Err(OpError::invalid(format!("`aggregate_function` is `{other}`"))),
    };
    let transform = Transform::from_name(attrs.str_or("post_transform", "NONE")?)?;
    let targets = count(attrs, "n_targets", 1)?;
    let base = base_values(attrs, targets)?;
    let mut scores = Forest::of_nodes(attrs, "target")?.scores(x, how, targets)?;
    for row in scores.chunks_exact_mut(targets.max(1)) {
        row.iter_mut().zip(&base).for_each(|(slot, base)| *slot += base);
        transform.apply(row);
    }
    Ok(vec![from_f64(DType::F32, &[x.shape()[0], targets], &scores)?.into()])
}

/// What is added to each target: nothing, one number for all, or one each.
fn base_values(attrs: &Attrs, targets: usize) -> Result<Vec<f64>, OpError> {
    let base = reals(attrs, "base_values")?;
    match base.len() {
        0 => Ok(vec![0.0; targets]),
        1 => Ok(vec![base[0]; targets]),
        len if len == targets => Ok(base),
        len => Err(OpError::invalid(format!("{len} base values for {targets} targets"))),
    }
}

fn infer_classifier(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let labels = Labels::new(ctx.attrs(), "classlabels_int64s")?;
    let scores = infer_scores(ctx, labels.len().max(2), Some(DType::F32))?;
    let rows = scores[0].dims().and_then(|dims| dims.first().cloned()).unwrap_or(Dim::Unknown);
    let mut types = vec![Type::shaped(labels.dtype(), vec![rows])];
    types.extend(scores);
    types.truncate(ctx.node.outputs.len());
    Ok(types)
}

fn eval_classifier(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (x, attrs) = (ctx.tensor(0)?, ctx.attrs());
    Accepts::Numbers.check_tensor(0, x)?;
    let labels = Labels::new(attrs, "classlabels_int64s")?;
    let transform = Transform::from_name(attrs.str_or("post_transform", "NONE")?)?;
    let classes = labels.len().max(2);
    let base = base_values(attrs, labels.len())?;
    // Two classes of which only one has weights: the other gets the rest.
    let ids: HashSet<i64> = attrs.ints("class_ids")?.iter().copied().collect();
    let only = if ids.len() == 1 { ids.iter().next().copied() } else { None };
    let mut scores = Forest::of_nodes(attrs, "class")?.scores(x, Aggregate::Sum, classes)?;
    for row in scores.chunks_exact_mut(classes) {
        row.iter_mut().zip(&base).for_each(|(slot, base)| *slot += base);
        if let (Some(only), 2) = (only, classes) {
            let score = row[usize::from(only == 1 && labels.len() == 2)];
            let rest = if transform.keeps_scale() { 1.0 - score } else { -score };
            (row[0], row[1]) = (rest, score);
        }
        transform.apply(row);
    }
    let mut outputs = vec![
        labels.of_rows(&scores, classes)?.into(),
        from_f64(DType::F32, &[x.shape()[0], classes], &scores)?.into(),
    ];
    outputs.truncate(ctx.node.outputs.len().max(1));
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    /// x0 <= 1 ? (x1 < 5 ? leaf 3 : leaf 4) : leaf 2.
    fn tree(kind: &str) -> Case {
        let case = Case::new(kind)
            .attr("nodes_treeids", vec![0i64; 5])
            .attr("nodes_nodeids", vec![0i64, 1, 2, 3, 4])
            .attr("nodes_modes", strings(&["BRANCH_LEQ", "BRANCH_LT", "LEAF", "LEAF", "LEAF"]))
            .attr("nodes_values", vec![1f32, 5.0, 0.0, 0.0, 0.0])
            .attr("nodes_featureids", vec![0i64, 1, 0, 0, 0])
            .attr("nodes_truenodeids", vec![1i64, 3, 0, 0, 0])
            .attr("nodes_falsenodeids", vec![2i64, 4, 0, 0, 0]);
        let x = [0f32, 0.0, 0.0, 9.0, 2.0, 0.0, f32::NAN, 0.0];
        case.tensor(&Tensor::from_slice(&[4, 2], &x).unwrap())
    }

    fn regressor() -> Case {
        tree("ai.onnx.ml.TreeEnsembleRegressor")
            .attr("target_treeids", vec![0i64; 3])
            .attr("target_nodeids", vec![2i64, 3, 4])
            .attr("target_ids", vec![0i64; 3])
            .attr("target_weights", vec![20f32, 30.0, 40.0])
            .attr("n_targets", 1i64)
    }

    #[test]
    fn regression() {
        check(&regressor(), 0, &[4, 1], &[30.0, 40.0, 20.0, 20.0]);
        let based = regressor().attr("base_values", vec![0.5f32]);
        let based = based.attr("nodes_missing_value_tracks_true", vec![1i64, 0, 0, 0, 0]);
        check(&based, 0, &[4, 1], &[30.5, 40.5, 20.5, 30.5]);
    }

    #[test]
    fn classification() {
        let case = tree("ai.onnx.ml.TreeEnsembleClassifier")
            .attr("class_treeids", vec![0i64; 3])
            .attr("class_nodeids", vec![2i64, 3, 4])
            .attr("class_ids", vec![0i64, 1, 2])
            .attr("class_weights", vec![1f32; 3])
            .attr("classlabels_int64s", vec![5i64, 6, 7])
            .outputs(2);
        check(&case, 0, &[4], &[6.0, 7.0, 5.0, 5.0]);
        let binary =
            case.attr("class_ids", vec![0i64; 3]).attr("classlabels_int64s", vec![0i64, 1]);
        let binary = binary.attr("class_weights", vec![0.25f32, 0.75, 0.5]);
        let scores = [0.25, 0.75, 0.5, 0.5, 0.75, 0.25, 0.75, 0.25];
        check(&binary, 1, &[4, 2], &scores);
        check(&binary, 0, &[4], &[1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn broken_trees_are_errors() {
        let broken = |name: &str, value: Vec<i64>| {
            assert!(regressor().attr(name, value).eval().is_err(), "{name}");
        };
        broken("nodes_truenodeids", vec![0, 3, 0, 0, 0]);
        broken("nodes_truenodeids", vec![9, 3, 0, 0, 0]);
        broken("nodes_featureids", vec![7, 1, 0, 0, 0]);
        broken("nodes_featureids", vec![-7, 1, 0, 0, 0]);
        broken("nodes_featureids", vec![0]);
        broken("target_ids", vec![1, 1, 1]);
        broken("target_nodeids", vec![2, 3, 44]);
        assert!(regressor().attr("n_targets", -1i64).eval().is_err());
    }
}
