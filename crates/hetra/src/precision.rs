//! How exactly a session computes: what is rounded, and what that costs and gains.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hetra_ir::{Graph, Node, NodeId};
use hetra_ops::Compute;
use hetra_tensor::{Tensor, Value, to_f64};

use crate::error::Error;
use crate::outputs::Outputs;
use crate::session::{Session, claim};

/// Named inputs of one run.
pub type Inputs = Vec<(String, Value)>;

/// How exactly a session computes. Values between nodes are f32 in any case, and so are sums: what
/// is rounded are the operands of products and convolutions by constant weights.
#[derive(Clone, Debug, Default)]
pub enum Precision {
    /// Nothing is rounded. Results are the same to the bit for any number of threads.
    #[default]
    F32,
    /// Operands are rounded to bf16 wherever there is a kernel for it, whether that is faster on
    /// this machine or not.
    Bf16,
    /// Operands are rounded to bf16 where that is measured to be faster, as far as the outputs for
    /// all of `calibration` keep within `max_error` (see [`PrecisionReport::error`]) of those of
    /// f32. [`Session::precision`] tells what came of it.
    Auto {
        /// The largest error that is allowed, such as 0.01.
        max_error: f64,
        /// Inputs to measure with: the more they are like those to come, the more the error says.
        calibration: Vec<Inputs>,
    },
}

/// What became of [`Precision::Auto`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Some nodes round their operands.
    Lowered,
    /// The model has no node that could.
    NoProducts,
    /// No node is faster with rounded operands on this machine.
    NoneFaster,
    /// The error of every set of nodes that was tried is too large.
    OverBudget,
    /// The model as a whole is no faster.
    NotFaster,
}

impl Verdict {
    /// One sentence for people.
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Lowered => "operands are rounded to bf16 where that is faster",
            Verdict::NoProducts => "f32 is kept: no product of the model can round its operands",
            Verdict::NoneFaster => "f32 is kept: no product is faster with bf16 on this machine",
            Verdict::OverBudget => "f32 is kept: the error with bf16 is over the budget",
            Verdict::NotFaster => "f32 is kept: the model as a whole is no faster with bf16",
        }
    }
}

/// What [`Precision::Auto`] measured and chose.
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionReport {
    /// What became of it.
    pub verdict: Verdict,
    /// The error that was allowed.
    pub max_error: f64,
    /// The error of what was chosen: for each output the largest absolute difference from f32,
    /// divided by the largest absolute value that f32 gives; of all outputs and calibration inputs
    /// the largest. Outputs that are no floats must be equal, else the error is infinite.
    pub error: f64,
    /// The error with all nodes lowered that are faster so, where it was measured.
    pub error_of_all: Option<f64>,
    /// Sets of calibration inputs.
    pub calibration: usize,
    /// Nodes that could round their operands.
    pub products: usize,
    /// Of those, nodes that are faster so.
    pub faster: usize,
    /// The nodes that round their operands, by their labels.
    pub lowered: Vec<String>,
    /// Sets of nodes that were tried.
    pub trials: usize,
    /// Median nanoseconds of a run on the first calibration inputs with f32, and with what was
    /// chosen or last refused, measured in turns; `None` where it did not come to that.
    pub times_ns: Option<(u64, u64)>,
}

/// Most sets of nodes whose error is measured: each compiles the model anew.
const TRIALS_MAX: usize = 24;
/// Pairs of runs that are timed, at most and at least, and the time after which no more begin.
const ROUNDS_MAX: usize = 21;
const ROUNDS_MIN: usize = 3;
const ROUNDS_TIME: Duration = Duration::from_secs(4);
/// The model as a whole has to gain this share of its time at least: less may be chance.
const GAIN_MIN: f64 = 0.01;
/// So does each node: what gains nothing had better not cost accuracy.
const NODE_GAIN_MIN: f64 = 0.03;

/// Every node that can round its operands.
pub(crate) fn all(session: &Session) -> Vec<NodeId> {
    let device = session.raw_device();
    hetra_pass::can_lower(session.graph(), &|node, graph| claim(device.as_ref(), node, graph))
}

/// The labels of the nodes that round their operands.
pub(crate) fn lowered(graph: &Graph) -> Vec<String> {
    let rounds = |node: &&Node| Compute::of(&node.attrs).is_ok_and(|c| c != Compute::F32);
    graph.nodes.iter().filter(rounds).map(|node| node.label(graph)).collect()
}

/// The session of [`Precision::Auto`], from one that computes in f32.
pub(crate) fn choose(
    base: &Session,
    max_error: f64,
    calibration: &[Inputs],
) -> Result<Session, Error> {
    if !(max_error >= 0.0 && max_error.is_finite()) {
        return Err(Error::MaxError(max_error));
    }
    let first = calibration.first().ok_or(Error::NoCalibration)?;
    let products = all(base);
    let mut report = PrecisionReport {
        verdict: Verdict::NoProducts,
        max_error,
        error: 0.0,
        error_of_all: None,
        calibration: calibration.len(),
        products: products.len(),
        faster: 0,
        lowered: Vec::new(),
        trials: 0,
        times_ns: None,
    };
    if products.is_empty() {
        return Ok(base.with_report(report));
    }
    let low = base.lowered_by(&products.iter().copied().collect())?;
    let faster = faster(base, &low, first, &products)?;
    drop(low);
    report.faster = faster.len();
    report.verdict = Verdict::NoneFaster;
    if faster.is_empty() {
        return Ok(base.with_report(report));
    }
    let wanted = calibration.iter().map(|inputs| base.run(inputs.clone()));
    let wanted: Vec<Outputs> = wanted.collect::<Result<_, _>>()?;
    let mut search = Search {
        base,
        cases: calibration.iter().zip(&wanted).collect(),
        max_error,
        trials: 0,
        error_of_all: None,
        kept: BTreeSet::new(),
        best: None,
    };
    search.fit(&faster)?;
    report.trials = search.trials;
    report.error_of_all = search.error_of_all;
    report.verdict = Verdict::OverBudget;
    let Some((chosen, error)) = search.best else { return Ok(base.with_report(report)) };
    let times = in_turns(|| base.run(first.clone()), || chosen.run(first.clone()))?;
    report.times_ns = Some(times);
    report.verdict = Verdict::NotFaster;
    if times.1 as f64 > times.0 as f64 * (1.0 - GAIN_MIN) {
        return Ok(base.with_report(report));
    }
    report.verdict = Verdict::Lowered;
    (report.error, report.lowered) = (error, lowered(chosen.graph()));
    Ok(chosen.with_report(report))
}

/// Of `nodes`, those that take clearly less time in `low` than in `base`, the ones that gain most
/// first.
fn faster(
    base: &Session,
    low: &Session,
    inputs: &Inputs,
    nodes: &[NodeId],
) -> Result<Vec<NodeId>, Error> {
    let mut times: BTreeMap<String, [Vec<u64>; 2]> = BTreeMap::new();
    let begun = Instant::now();
    for round in 0..=ROUNDS_MAX {
        for (index, session) in [base, low].into_iter().enumerate() {
            let (_, trace) = session.trace(inputs.clone())?;
            // The first runs make plans and allocate memory.
            for step in trace.steps.into_iter().filter(|_| round > 0) {
                times.entry(step.node).or_default()[index].push(step.duration_ns);
            }
        }
        if round >= ROUNDS_MIN && begun.elapsed() > ROUNDS_TIME {
            break;
        }
    }
    let gain = |&id: &NodeId| {
        let label = base.graph().node(id).label(base.graph());
        let [f32, bf16] = times.remove(&label)?.map(median);
        let gain = f32?.checked_sub(bf16?)?;
        (gain as f64 > f32? as f64 * NODE_GAIN_MIN).then_some((gain, id))
    };
    let mut gains: Vec<(u64, NodeId)> = nodes.iter().filter_map(gain).collect();
    gains.sort_by_key(|&(gain, id)| (std::cmp::Reverse(gain), id));
    Ok(gains.into_iter().map(|(_, id)| id).collect())
}

fn median(mut samples: Vec<u64>) -> Option<u64> {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied()
}

/// Median nanoseconds of two runs that are made in turns, so that what else goes on in the machine
/// meets both.
fn in_turns(
    mut first: impl FnMut() -> Result<Outputs, Error>,
    mut second: impl FnMut() -> Result<Outputs, Error>,
) -> Result<(u64, u64), Error> {
    fn time(run: &mut dyn FnMut() -> Result<Outputs, Error>) -> Result<u64, Error> {
        let begun = Instant::now();
        run()?;
        Ok(begun.elapsed().as_nanos() as u64)
    }
    time(&mut first)?;
    time(&mut second)?;
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while one.len() < ROUNDS_MIN || (one.len() < ROUNDS_MAX && begun.elapsed() < ROUNDS_TIME) {
        one.push(time(&mut first)?);
        two.push(time(&mut second)?);
    }
    Ok((median(one).unwrap_or(0), median(two).unwrap_or(0)))
}

/// Looks for nodes that together keep within the budget: all of them, else as much of each half as
/// fits beside what fits already. What it holds has been measured as a whole.
struct Search<'a> {
    base: &'a Session,
    /// Inputs, and what f32 gives.
    cases: Vec<(&'a Inputs, &'a Outputs)>,
    max_error: f64,
    trials: usize,
    error_of_all: Option<f64>,
    kept: BTreeSet<NodeId>,
    best: Option<(Session, f64)>,
}

impl Search<'_> {
    fn fit(&mut self, nodes: &[NodeId]) -> Result<(), Error> {
        if nodes.is_empty() || self.trials >= TRIALS_MAX {
            return Ok(());
        }
        self.trials += 1;
        let tried: BTreeSet<NodeId> = self.kept.iter().chain(nodes).copied().collect();
        let session = self.base.lowered_by(&tried)?;
        let error = self.error(&session)?;
        self.error_of_all.get_or_insert(error);
        if error <= self.max_error {
            (self.kept, self.best) = (tried, Some((session, error)));
        } else if nodes.len() > 1 {
            // Its memory is not needed while others are tried.
            drop(session);
            let (more, less) = nodes.split_at(nodes.len() / 2);
            self.fit(more)?;
            self.fit(less)?;
        }
        Ok(())
    }

    fn error(&self, session: &Session) -> Result<f64, Error> {
        let mut worst = 0.0f64;
        for (inputs, wanted) in &self.cases {
            let got = session.run(inputs.to_vec())?;
            let errors = got.iter().zip(wanted.iter()).map(|((_, a), (_, b))| error(a, b));
            worst = errors.fold(worst, f64::max);
        }
        Ok(worst)
    }
}

/// How far a value is from the wanted one, see [`PrecisionReport::error`].
fn error(got: &Value, wanted: &Value) -> f64 {
    match (got, wanted) {
        (Value::Sequence(a), Value::Sequence(b)) if a.len() == b.len() => {
            a.iter().zip(b).map(|(a, b)| error(a, b)).fold(0.0, f64::max)
        }
        (Value::Optional(None), Value::Optional(None)) => 0.0,
        _ => match (got.as_tensor(), wanted.as_tensor()) {
            (Some(a), Some(b)) => tensor_error(a, b),
            _ => f64::INFINITY,
        },
    }
}

fn tensor_error(got: &Tensor, wanted: &Tensor) -> f64 {
    let same_type = got.dtype() == wanted.dtype() && got.shape() == wanted.shape();
    if !same_type || !got.dtype().is_float() {
        return if got == wanted { 0.0 } else { f64::INFINITY };
    }
    let (Ok(a), Ok(b)) = (to_f64(got), to_f64(wanted)) else { return f64::INFINITY };
    let largest = b.iter().filter(|v| v.is_finite()).fold(0.0f64, |most, v| most.max(v.abs()));
    let difference = |(x, y): (&f64, &f64)| {
        let same = x == y || (x.is_nan() && y.is_nan());
        let difference = if same { 0.0 } else { (x - y).abs() };
        if difference.is_nan() { f64::INFINITY } else { difference }
    };
    match a.iter().zip(&b).map(difference).fold(0.0, f64::max) {
        0.0 => 0.0,
        difference => difference / largest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_largest_value() {
        let value = |x: &[f32]| Value::Tensor(Tensor::vector(x));
        let check = |got: &[f32], wanted: &[f32], error_wanted: f64| {
            assert_eq!(error(&value(got), &value(wanted)), error_wanted, "{got:?} {wanted:?}");
        };
        check(&[1.0, 2.5], &[1.0, 2.0], 0.25);
        check(&[-4.0, 0.0], &[-4.0, 1.0], 0.25);
        check(&[0.0, 0.0], &[0.0, -0.0], 0.0);
        check(&[1.0], &[0.0], f64::INFINITY);
        check(&[f32::NAN, 1.0], &[f32::NAN, 1.0], 0.0);
        check(&[f32::NAN, 1.0], &[0.0, 1.0], f64::INFINITY);
        check(&[f32::INFINITY, 1.0], &[f32::INFINITY, 1.0], 0.0);
        check(&[1.0, 1.0], &[1.0], f64::INFINITY);
        let codes = |x: &[i64]| Value::Tensor(Tensor::vector(x));
        assert_eq!(error(&codes(&[3]), &codes(&[3])), 0.0);
        assert_eq!(error(&codes(&[3]), &codes(&[4])), f64::INFINITY);
    }
}
