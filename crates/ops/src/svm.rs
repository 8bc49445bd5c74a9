//! Support vector machines of ai.onnx.ml: SVMRegressor and SVMClassifier.
//!
//! A row is compared with each support vector by a kernel; a score is a weighted sum of what came
//! out. A classifier has a score for each pair of classes, and each pair votes for one of them.

use hetra_ir::{Attrs, Type};
use hetra_tensor::{DType, Tensor, Value, from_f64};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, OpDef, onnx};
use crate::error::OpError;
use crate::linear::{infer_rows, matrix};
use crate::scores::{Labels, Transform};
use crate::trees::reals;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&REGRESSOR, &CLASSIFIER];

const DOMAIN: &str = "ai.onnx.ml";

static REGRESSOR: OpDef = OpDef {
    name: "ai.onnx.ml.SVMRegressor",
    doc: "A value for each row of a matrix from its likeness to support vectors, or whether it is \
          like them (`one_class`).",
    onnx: &[onnx(DOMAIN, "SVMRegressor", 1)],
    infer: |ctx| Ok(vec![infer_rows(ctx, DType::F32, Some(1))?]),
    eval: eval_regressor,
    ..OpDef::DEFAULT
};

static CLASSIFIER: OpDef = OpDef {
    name: "ai.onnx.ml.SVMClassifier",
    doc: "Classes, and their scores, from the likeness of the rows of a matrix to support vectors.",
    onnx: &[onnx(DOMAIN, "SVMClassifier", 1)],
    outputs: Arity::exactly(2),
    infer: infer_classifier,
    eval: eval_classifier,
    ..OpDef::DEFAULT
};

/// How alike a row and a support vector are.
#[derive(Clone, Copy)]
enum Kernel {
    Linear,
    Poly { gamma: f64, add: f64, degree: f64 },
    Rbf { gamma: f64 },
    Sigmoid { gamma: f64, add: f64 },
}

impl Kernel {
    fn of(attrs: &Attrs) -> Result<Kernel, OpError> {
        let (gamma, add, degree) = match reals(attrs, "kernel_params")?[..] {
            [] => (0.0, 0.0, 0.0),
            [gamma, add, degree] => (gamma, add, degree),
            _ => return Err(OpError::invalid("`kernel_params` are not three")),
        };
        match attrs.str_or("kernel_type", "LINEAR")? {
            "LINEAR" => Ok(Kernel::Linear),
            "POLY" => Ok(Kernel::Poly { gamma, add, degree }),
            "RBF" => Ok(Kernel::Rbf { gamma }),
            "SIGMOID" => Ok(Kernel::Sigmoid { gamma, add }),
            other => Err(OpError::invalid(format!("`kernel_type` is `{other}`"))),
        }
    }

    fn apply(self, x: &[f64], vector: &[f64]) -> f64 {
        let dot = || x.iter().zip(vector).map(|(x, v)| x * v).sum::<f64>();
        match self {
            Kernel::Linear => dot(),
            Kernel::Poly { gamma, add, degree } => (gamma * dot() + add).powf(degree),
            Kernel::Rbf { gamma } => {
                let apart: f64 = x.iter().zip(vector).map(|(x, v)| (x - v) * (x - v)).sum();
                (-gamma * apart).exp()
            }
            Kernel::Sigmoid { gamma, add } => (gamma * dot() + add).tanh(),
        }
    }
}

/// Support vectors, one after another.
struct Vectors {
    kernel: Kernel,
    values: Vec<f64>,
    features: usize,
    count: usize,
}

impl Vectors {
    /// `count` support vectors for rows of `features`.
    fn new(attrs: &Attrs, count: usize, features: usize) -> Result<Vectors, OpError> {
        let (kernel, values) = (Kernel::of(attrs)?, reals(attrs, "support_vectors")?);
        if count.checked_mul(features) != Some(values.len()) {
            let wanted = format!("features that {count} support vectors have");
            return Err(OpError::input(0, wanted, format!("{features}")));
        }
        Ok(Vectors { kernel, values, features, count })
    }

    /// How alike a row is to each.
    fn likeness(&self, x: &[f64]) -> Vec<f64> {
        let vector = |at: usize| &self.values[at * self.features..][..self.features];
        (0..self.count).map(|at| self.kernel.apply(x, vector(at))).collect()
    }
}

/// A list of exactly `count` numbers.
fn exactly(attrs: &Attrs, name: &str, count: Option<usize>) -> Result<Vec<f64>, OpError> {
    let list = reals(attrs, name)?;
    match Some(list.len()) == count {
        true => Ok(list),
        false => Err(OpError::invalid(format!("`{name}` has {} entries", list.len()))),
    }
}

/// The row at an index, of rows of so many features; also where there are none.
fn row(values: &[f64], features: usize, at: usize) -> &[f64] {
    &values[at * features..][..features]
}

fn weigh(weights: &[f64], values: &[f64]) -> f64 {
    weights.iter().zip(values).map(|(weight, value)| weight * value).sum()
}

fn eval_regressor(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (attrs, (rows, features, values)) = (ctx.attrs(), matrix(ctx.tensor(0)?)?);
    let transform = Transform::from_name(attrs.str_or("post_transform", "NONE")?)?;
    let supports = usize::try_from(attrs.int_or("n_supports", 0)?)
        .map_err(|_| OpError::invalid("`n_supports` is negative"))?;
    // Without support vectors the coefficients are those of the features.
    let vectors = match supports {
        0 => None,
        count => Some(Vectors::new(attrs, count, features)?),
    };
    let terms = if supports == 0 { features } else { supports };
    let weights = exactly(attrs, "coefficients", Some(terms))?;
    let rho = exactly(attrs, "rho", Some(1))?[0];
    let one_class = attrs.flag_or("one_class", false)?;
    // Within the memory limit: rows without features are as many as one likes.
    let mut out = Tensor::zeros(DType::F64, &[rows, 1])?;
    for (at, out) in out.as_mut_slice::<f64>()?.iter_mut().enumerate() {
        let x = row(&values, features, at);
        let sum = match &vectors {
            Some(vectors) => weigh(&weights, &vectors.likeness(x)),
            None => weigh(&weights, x),
        };
        let mut score = [sum + rho];
        match one_class {
            true => score[0] = if score[0] > 0.0 { 1.0 } else { -1.0 },
            false => transform.apply(&mut score),
        }
        *out = score[0];
    }
    Ok(vec![from_f64(DType::F32, &[rows, 1], out.as_slice::<f64>()?)?.into()])
}

/// The pairs of so many classes; `None` where there are too many to count.
fn pairs(classes: usize) -> Option<usize> {
    classes.checked_mul(classes.saturating_sub(1)).map(|twice| twice / 2)
}

/// The classes, how many vectors each has (none has any where coefficients are those of the
/// features), and whether scores are probabilities.
struct Classes {
    labels: Labels,
    vectors: Vec<usize>,
    probable: bool,
}

impl Classes {
    fn of(attrs: &Attrs) -> Result<Classes, OpError> {
        let labels = Labels::new(attrs, "classlabels_ints")?;
        if labels.len() < 2 {
            return Err(OpError::invalid("the classifier has one class"));
        }
        let given = attrs.ints_opt("vectors_per_class")?.map_or(&[][..], Vec::as_slice);
        let vectors: Option<Vec<usize>> =
            given.iter().map(|&count| usize::try_from(count).ok()).collect();
        let vectors = vectors.filter(|list| list.is_empty() || list.len() == labels.len());
        let vectors = vectors.ok_or_else(|| OpError::invalid("`vectors_per_class` is wrong"))?;
        let probable = !reals(attrs, "prob_a")?.is_empty();
        Ok(Classes { labels, vectors, probable })
    }

    /// Scores of a row.
    fn columns(&self) -> Option<usize> {
        match self.labels.len() {
            classes if self.vectors.is_empty() || self.probable => Some(classes),
            2 => Some(2),
            classes => pairs(classes),
        }
    }
}

fn infer_classifier(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let classes = Classes::of(ctx.attrs())?;
    let scores = match classes.columns() {
        Some(columns) => infer_rows(ctx, DType::F32, Some(columns))?,
        None => Type::ranked(DType::F32, 2),
    };
    let mut types = vec![infer_rows(ctx, classes.labels.dtype(), None)?, scores];
    types.truncate(ctx.node.outputs.len());
    Ok(types)
}

/// Probabilities from the score of each pair, as libsvm finds them.
struct Platt {
    a: Vec<f64>,
    b: Vec<f64>,
}

/// Rounds after which the probabilities are taken as they are.
const ROUNDS_MAX: usize = 100;

impl Platt {
    fn probabilities(&self, scores: &[f64], classes: usize) -> Vec<f64> {
        // r[i][j]: how probable class i is if it is i or j.
        let mut r = vec![0.0; classes * classes];
        let mut pair = 0;
        for i in 0..classes {
            for j in i + 1..classes {
                let likely = crate::unary::sigmoid(-(scores[pair] * self.a[pair] + self.b[pair]));
                r[i * classes + j] = likely.clamp(1e-7, 1.0 - 1e-7);
                r[j * classes + i] = 1.0 - r[i * classes + j];
                pair += 1;
            }
        }
        coupled(&r, classes)
    }
}

/// The probabilities p of the classes that agree best with those of their pairs: the least p'Qp
/// (Wu, Lin and Weng 2004, their second method).
fn coupled(r: &[f64], classes: usize) -> Vec<f64> {
    let mut q = vec![0.0; classes * classes];
    for i in 0..classes {
        for j in (0..classes).filter(|&j| j != i) {
            let (to, from) = (r[j * classes + i], r[i * classes + j]);
            q[i * classes + i] += to * to;
            q[i * classes + j] = -to * from;
        }
    }
    let mut p = vec![1.0 / classes as f64; classes];
    for _ in 0..ROUNDS_MAX {
        let mut qp: Vec<f64> = (0..classes).map(|i| weigh(row(&q, classes, i), &p)).collect();
        let mut pqp = weigh(&p, &qp);
        if qp.iter().all(|x| (x - pqp).abs() < 0.005 / classes as f64) {
            break;
        }
        for i in 0..classes {
            let own = q[i * classes + i];
            let step = (pqp - qp[i]) / own;
            p[i] += step;
            pqp = (pqp + step * (step * own + 2.0 * qp[i])) / ((1.0 + step) * (1.0 + step));
            for j in 0..classes {
                qp[j] = (qp[j] + step * q[i * classes + j]) / (1.0 + step);
                p[j] /= 1.0 + step;
            }
        }
    }
    p
}

/// A score for each pair of classes, first against second.
fn pair_scores(vectors: &[usize], weights: &[f64], rho: &[f64], likeness: &[f64]) -> Vec<f64> {
    let starts: Vec<usize> =
        vectors.iter().scan(0, |sum, &count| Some(std::mem::replace(sum, *sum + count))).collect();
    let of = |weights_of: usize, class: usize| {
        let range = starts[class]..starts[class] + vectors[class];
        weigh(&row(weights, likeness.len(), weights_of)[range.clone()], &likeness[range])
    };
    let mut scores = Vec::with_capacity(rho.len());
    for first in 0..vectors.len() {
        for second in first + 1..vectors.len() {
            // The vectors of a class have a row of weights for each other class.
            let sum = of(second - 1, first) + of(first, second);
            scores.push(sum + rho[scores.len()]);
        }
    }
    scores
}

/// The votes that each class gets.
fn votes(scores: &[f64], classes: usize) -> Vec<f64> {
    let mut votes = vec![0.0; classes];
    let mut pair = 0;
    for first in 0..classes {
        for second in first + 1..classes {
            votes[if scores[pair] > 0.0 { first } else { second }] += 1.0;
            pair += 1;
        }
    }
    votes
}

/// The two scores of a machine of two classes that has one, as onnxruntime gives them.
fn two_of(transform: Transform, score: f64) -> [f64; 2] {
    let mut both = [-score, score];
    match transform {
        Transform::Softmax | Transform::SoftmaxZero => return [1.0 - score, score],
        Transform::Probit => both.reverse(),
        Transform::None | Transform::Logistic => {}
    }
    transform.apply(&mut both);
    both
}

/// What makes scores of a row.
enum Model {
    /// Coefficients of the features for each class, and what is added to all.
    Linear(Vec<f64>, f64),
    Machine(Machine),
}

struct Machine {
    vectors: Vectors,
    /// How many vectors each class has.
    shares: Vec<usize>,
    weights: Vec<f64>,
    rho: Vec<f64>,
    platt: Option<Platt>,
}

impl Model {
    fn of(attrs: &Attrs, classes: Classes, features: usize) -> Result<Model, OpError> {
        let count = classes.labels.len();
        if classes.vectors.is_empty() {
            let weights = exactly(attrs, "coefficients", count.checked_mul(features))?;
            // Of several, the first is added, as in onnxruntime.
            let rho = reals(attrs, "rho")?.first().copied();
            let rho = rho.ok_or_else(|| OpError::invalid("`rho` has no entry"))?;
            return Ok(Model::Linear(weights, rho));
        }
        let total = classes.vectors.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
        let total = total.ok_or_else(|| OpError::invalid("`vectors_per_class` is too large"))?;
        let platt = |list| exactly(attrs, list, pairs(count));
        Ok(Model::Machine(Machine {
            vectors: Vectors::new(attrs, total, features)?,
            weights: exactly(attrs, "coefficients", total.checked_mul(count - 1))?,
            rho: exactly(attrs, "rho", pairs(count))?,
            platt: match classes.probable {
                true => Some(Platt { a: platt("prob_a")?, b: platt("prob_b")? }),
                false => None,
            },
            shares: classes.vectors,
        }))
    }

    /// What decides about the class of a row, one number for each class, and its scores.
    fn scores(&self, x: &[f64], transform: Transform) -> (Vec<f64>, Vec<f64>) {
        let (ranks, mut scores) = match self {
            Model::Linear(weights, rho) => {
                let classes = weights.len() / x.len().max(1);
                let score = |class| weigh(row(weights, x.len(), class), x) + rho;
                let scores: Vec<f64> = (0..classes).map(score).collect();
                (scores.clone(), scores)
            }
            Model::Machine(machine) => {
                let likeness = machine.vectors.likeness(x);
                let scores =
                    pair_scores(&machine.shares, &machine.weights, &machine.rho, &likeness);
                let classes = machine.shares.len();
                let ranks = votes(&scores, classes);
                match (&machine.platt, scores.as_slice()) {
                    (Some(platt), scores) => (ranks, platt.probabilities(scores, classes)),
                    (None, &[score]) => return (ranks, two_of(transform, score).to_vec()),
                    (None, _) => (ranks, scores),
                }
            }
        };
        transform.apply(&mut scores);
        (ranks, scores)
    }
}

fn eval_classifier(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (attrs, (rows, features, values)) = (ctx.attrs(), matrix(ctx.tensor(0)?)?);
    let transform = Transform::from_name(attrs.str_or("post_transform", "NONE")?)?;
    let classes = Classes::of(attrs)?;
    let labels = Labels::new(attrs, "classlabels_ints")?;
    let columns = classes.columns().ok_or_else(|| OpError::invalid("too many classes"))?;
    if features == 0 {
        return Err(OpError::input(0, "features", "none"));
    }
    let model = Model::of(attrs, classes, features)?;
    // Within the memory limit, and so are the ranks: there are no more classes than columns.
    let mut out = Tensor::zeros(DType::F64, &[rows, columns])?;
    let mut ranks = Vec::with_capacity(rows * labels.len());
    for (at, slots) in out.as_mut_slice::<f64>()?.chunks_exact_mut(columns).enumerate() {
        let (rank, scores) = model.scores(row(&values, features, at), transform);
        slots.copy_from_slice(&scores);
        ranks.extend(rank);
    }
    let labels = labels.of_rows(&ranks, labels.len())?;
    let scores = from_f64(DType::F32, &[rows, columns], out.as_slice::<f64>()?)?;
    Ok(vec![labels.into(), scores.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    /// Rows, support vectors and weights. What is wanted of them is what onnxruntime 1.32 gives.
    fn machine(op: &str, kernel: &str) -> Case {
        let x = Tensor::from_slice(&[3, 2], &[1f32, 2.0, -3.0, 0.5, 0.2, -1.0]).unwrap();
        Case::new(&format!("ai.onnx.ml.{op}"))
            .tensor(&x)
            .attr("support_vectors", vec![1f32, 0.0, 0.0, 1.0, -1.0, 1.0, 2.0, -1.0])
            .attr("coefficients", vec![1f32, 0.5, -0.7, -0.3])
            .attr("kernel_params", vec![0.5f32, 0.25, 2.0])
            .attr("kernel_type", kernel)
            .attr("rho", vec![0.1f32])
    }

    #[test]
    fn values() {
        let regressor = |kernel| machine("SVMRegressor", kernel).attr("n_supports", 4i64);
        let cases = [
            ("LINEAR", [1.4, -3.15, 0.22], [1.0, -1.0, 1.0]),
            ("POLY", [1.03125, -3.7125, -0.10275], [1.0, -1.0, -1.0]),
            ("RBF", [0.359_794_14, 0.021_594_43, 0.501_277_39], [1.0, 1.0, 1.0]),
            ("SIGMOID", [0.641_211_03, -0.893_527_93, 0.327_444_17], [1.0, -1.0, 1.0]),
        ];
        for (kernel, wanted, sides) in cases {
            check(&regressor(kernel), 0, &[3, 1], &wanted);
            check(&regressor(kernel).attr("one_class", 1i64), 0, &[3, 1], &sides);
        }
        let linear = machine("SVMRegressor", "LINEAR").attr("coefficients", vec![1f32, 0.5]);
        check(&linear, 0, &[3, 1], &[2.1, -2.65, -0.2]);
        for odd in [
            regressor("CUBIC"),
            regressor("RBF").attr("kernel_params", vec![1f32]),
            regressor("RBF").attr("n_supports", 3i64),
            regressor("RBF").attr("n_supports", -1i64),
            regressor("RBF").attr("n_supports", i64::MAX),
            regressor("RBF").attr("rho", Vec::<f32>::new()),
            regressor("RBF").attr("coefficients", vec![1f32; 3]),
            linear
                .attr("coefficients", Vec::<f32>::new())
                .with_input(0, &Tensor::zeros(DType::F32, &[1 << 50, 0]).unwrap()),
        ] {
            assert!(odd.eval().is_err());
        }
    }

    fn two() -> Case {
        let case = machine("SVMClassifier", "LINEAR").attr("vectors_per_class", vec![2i64, 2]);
        case.attr("classlabels_ints", vec![4i64, 9]).outputs(2)
    }

    #[test]
    fn two_classes() {
        check(&two(), 0, &[3], &[4.0, 9.0, 4.0]);
        check(&two(), 1, &[3, 2], &[-1.4, 1.4, 3.15, -3.15, -0.22, 0.22]);
        let with = |transform: &str| two().attr("post_transform", transform);
        let logistic = [0.197_816, 0.802_184, 0.958_909, 0.041_091, 0.445_221, 0.554_779];
        check(&with("LOGISTIC"), 1, &[3, 2], &logistic);
        check(&with("SOFTMAX"), 1, &[3, 2], &[-0.4, 1.4, 4.15, -3.15, 0.78, 0.22]);
        let sure = two().attr("prob_a", vec![-1.3f32]).attr("prob_b", vec![0.2f32]);
        let wanted = [0.834_795, 0.165_205, 0.013_451, 0.986_549, 0.521_485, 0.478_515];
        check(&sure, 1, &[3, 2], &wanted);
        check(&sure, 0, &[3], &[4.0, 9.0, 4.0]);
        let wanted = [0.661_411, 0.338_589, 0.274_263, 0.725_737, 0.510_741, 0.489_259];
        check(&sure.attr("post_transform", "SOFTMAX"), 1, &[3, 2], &wanted);
        assert!(sure.attr("prob_b", vec![0f32; 2]).eval().is_err());
    }

    fn three(kernel: &str) -> Case {
        machine("SVMClassifier", kernel)
            .attr("coefficients", vec![1f32, 0.5, -0.7, -0.3, 0.2, -0.4, 0.6, -0.9])
            .attr("rho", vec![0.1f32, -0.2, 0.3])
            .attr("vectors_per_class", vec![2i64, 1, 1])
            .attr("classlabels_ints", vec![4i64, 9, 7])
            .outputs(2)
    }

    #[test]
    fn three_classes() {
        let wanted = [1.4, -0.8, 0.9, -5.1, 0.95, 8.25, 0.64, -0.18, -1.68];
        check(&three("LINEAR"), 0, &[3], &[4.0, 9.0, 7.0]);
        check(&three("LINEAR"), 1, &[3, 3], &wanted);
        let sure = |kernel| {
            let case = three(kernel).attr("prob_a", vec![-1.3f32, -0.8, 0.4]);
            case.attr("prob_b", vec![0.2f32, 0.1, -0.3])
        };
        // The votes decide, not the probabilities.
        check(&sure("LINEAR"), 0, &[3], &[4.0, 9.0, 7.0]);
        let wanted = [
            0.333_313, 0.203_642, 0.463_046, 0.256_908, 0.209_905, 0.533_187, 0.393_392, 0.339_133,
            0.267_475,
        ];
        check(&sure("LINEAR"), 1, &[3, 3], &wanted);
        let wanted = [
            0.332_500, 0.240_339, 0.427_161, 0.093_407, 0.815_376, 0.091_217, 0.290_602, 0.388_917,
            0.320_481,
        ];
        check(&sure("POLY"), 1, &[3, 3], &wanted);
        for odd in [
            three("RBF").attr("vectors_per_class", vec![2i64, 2]),
            three("RBF").attr("vectors_per_class", vec![2i64, i64::MAX, i64::MAX]),
            three("RBF").attr("vectors_per_class", vec![2i64, 3, -1]),
            three("RBF").attr("rho", vec![0f32; 2]),
            three("RBF").attr("classlabels_ints", vec![4i64]),
        ] {
            assert!(odd.eval().is_err());
        }
    }

    #[test]
    fn classes_without_vectors_are_linear() {
        let linear = three("LINEAR").attr("vectors_per_class", Vec::<i64>::new());
        let linear = linear.attr("coefficients", vec![1f32, 0.5, -0.7, -0.3, 0.2, -0.4]);
        check(&linear, 0, &[3], &[4.0, 9.0, 7.0]);
        check(&linear, 1, &[3, 3], &[2.1, -1.2, -0.5, -2.65, 2.05, -0.7, -0.2, 0.26, 0.54]);
        let none = Tensor::zeros(DType::F32, &[3, 0]).unwrap();
        assert!(linear.with_input(0, &none).eval().is_err());
    }
}
