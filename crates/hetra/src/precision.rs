//! How exactly a session computes: what is rounded, and what that costs and gains.

use std::collections::{BTreeMap, BTreeSet};

use hetra_ir::{Graph, Node, NodeId};
use hetra_ops::Compute;
use hetra_tensor::Value;
use hetra_tune::Rule;

use crate::budget::{Cases, GAIN, ROUNDS_TIME, Search, error_on, in_turns, rounds, times_ns};
use crate::builder::claim;
use crate::error::Error;
use crate::int8::Calibrated;
use crate::outputs::Outputs;
use crate::parts;
use crate::session::Session;

/// Named inputs of one run.
pub type Inputs = Vec<(String, Value)>;

/// How exactly a session computes. With f32 and bf16, sums are f32: what is rounded are the
/// operands of products and convolutions by constant weights, and, with matrix registers, images
/// between convolutions.
#[derive(Clone, Debug, Default)]
pub enum Precision {
    /// Nothing is rounded. Results are the same to the bit for any number of threads, by the same
    /// schedules: tuning is for a number of threads, and may choose another form of a convolution.
    #[default]
    F32,
    /// Operands are rounded to bf16 wherever there is a kernel for it, whether that is faster on
    /// this machine or not; where the processor has matrix registers, images between convolutions
    /// are stored so, too.
    Bf16,
    /// Products and convolutions by constant weights are done on 8-bit integers wherever there is
    /// a kernel for it, and so is what lies between them. Their scales come from the least and the
    /// largest elements that each value has on `calibration`: inputs that give larger ones are
    /// clipped. The session must be [`crate::Builder::quantisable`].
    Int8 {
        /// Inputs like those to come.
        calibration: Vec<Inputs>,
    },
    /// Parts of the model are done as with [`Precision::Int8`], and operands of other products are
    /// rounded to bf16, where that is measured to be faster, as far as the outputs for all of
    /// `calibration` keep within `max_error` (see [`PrecisionReport::error`]) of those of f32.
    /// [`Session::precision`] tells what came of it. Integers are tried where the session is
    /// [`crate::Builder::quantisable`].
    Auto {
        /// The largest error that is allowed, such as 0.01.
        max_error: f64,
        /// Inputs to measure with: the more they are like those to come, the more the error says.
        calibration: Vec<Inputs>,
    },
}

/// What became of one of the precisions that [`Precision::Auto`] tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Some nodes are computed so.
    Lowered,
    /// The model has no node that could.
    NoProducts,
    /// No node, or no part of the model, is faster so on this machine.
    NoneFaster,
    /// The error of every set of nodes that was tried is too large.
    OverBudget,
    /// The model as a whole is no faster.
    NotFaster,
}

impl Verdict {
    /// A few words for people, about a precision of this name.
    pub fn text(self, name: &str) -> String {
        match self {
            Verdict::Lowered => format!("{name} is used"),
            Verdict::NoProducts => format!("no {name}: no product is left that could use it"),
            Verdict::NoneFaster => format!("no {name}: nothing is faster so on this machine"),
            Verdict::OverBudget => format!("no {name}: the error is over the budget"),
            Verdict::NotFaster => format!("no {name}: the model as a whole is no faster so"),
        }
    }
}

/// What came of integers.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8Report {
    /// What became of it.
    pub verdict: Verdict,
    /// The error with all products on integers, where it was measured.
    pub error_of_all: Option<f64>,
    /// Products that there are integer kernels for.
    pub products: usize,
    /// Parts of the model that were timed one by one, or 1 where the whole was.
    pub parts: usize,
    /// Of those, parts that are faster so.
    pub faster: usize,
    /// The products on integers, by their names.
    pub quantised: Vec<String>,
    /// Sets of products whose error was measured.
    pub trials: usize,
    /// As [`PrecisionReport::times_ns`], for integers alone.
    pub times_ns: Option<(u64, u64)>,
}

/// What [`Precision::Auto`] or [`Precision::Int8`] measured and chose. Where no other precision is
/// named, bf16 is meant.
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionReport {
    /// What became of it.
    pub verdict: Verdict,
    /// The error that was allowed; infinite for [`Precision::Int8`].
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
    /// What came of integers; `None` where the session is not [`crate::Builder::quantisable`].
    pub int8: Option<Int8Report>,
}

impl PrecisionReport {
    fn new(max_error: f64, calibration: usize) -> PrecisionReport {
        PrecisionReport {
            verdict: Verdict::NoProducts,
            max_error,
            error: 0.0,
            error_of_all: None,
            calibration,
            products: 0,
            faster: 0,
            lowered: Vec::new(),
            trials: 0,
            times_ns: None,
            int8: None,
        }
    }
}

/// What each node has to gain: what gains nothing had better not cost accuracy.
const NODE_GAIN: Rule = Rule { margin: 0.03, ..GAIN };

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

/// The session of [`Precision::Int8`], from one that computes in f32.
pub(crate) fn int8(f32: &Session, calibration: &[Inputs]) -> Result<Session, Error> {
    let first = calibration.first().ok_or(Error::NoCalibration)?;
    let unfused = f32.unfused().ok_or(Error::NotQuantisable)?;
    let calibrated = Calibrated::of(f32, unfused, calibration.iter())?;
    if let Some((value, index)) = calibrated.odd.first() {
        return Err(Error::NotFinite { value: value.clone(), index: *index });
    }
    let all = calibrated.products.iter().copied().collect();
    let chosen = calibrated.session(&all)?;
    let wanted = outputs(f32, calibration)?;
    let error = error_on(&chosen, &calibration.iter().zip(&wanted).collect())?;
    let verdict = if all.is_empty() { Verdict::NoProducts } else { Verdict::Lowered };
    let times = times_ns(&in_turns(ROUNDS_TIME, (f32, &chosen), first)?);
    let int8 = Int8Report {
        verdict,
        error_of_all: Some(error),
        products: calibrated.products.len(),
        parts: 1,
        faster: 1,
        quantised: calibrated.names(&all).into_iter().collect(),
        trials: 1,
        times_ns: Some(times),
    };
    let report = PrecisionReport {
        error,
        times_ns: Some(times),
        int8: Some(int8),
        ..PrecisionReport::new(f64::INFINITY, calibration.len())
    };
    Ok(chosen.with_report(report))
}

fn outputs(session: &Session, calibration: &[Inputs]) -> Result<Vec<Outputs>, Error> {
    calibration.iter().map(|inputs| session.run(inputs.clone())).collect()
}

/// The session of [`Precision::Auto`], from one that computes in f32: first integers, then bf16
/// for what is left.
pub(crate) fn choose(
    f32: &Session,
    max_error: f64,
    calibration: &[Inputs],
) -> Result<Session, Error> {
    if !(max_error >= 0.0 && max_error.is_finite()) {
        return Err(Error::MaxError(max_error));
    }
    let first = calibration.first().ok_or(Error::NoCalibration)?;
    let wanted = outputs(f32, calibration)?;
    let cases: Cases<'_> = calibration.iter().zip(&wanted).collect();
    let mut report = PrecisionReport::new(max_error, calibration.len());
    let mut base = f32.clone();
    if let Some(unfused) = f32.unfused() {
        let (chosen, int8) = parts::choose(f32, unfused, &cases, max_error)?;
        if let Some((session, error)) = chosen {
            (base, report.error, report.times_ns) = (session, error, int8.times_ns);
        }
        report.int8 = Some(int8);
    }
    let Some((chosen, error)) = bf16(&base, &cases, &mut report)? else {
        return Ok(base.with_report(report));
    };
    let verdict = in_turns(ROUNDS_TIME, (&base, &chosen), first)?;
    let times = times_ns(&verdict);
    // Where integers were chosen, these are not the times of f32.
    report.times_ns = report.times_ns.or(Some(times));
    report.verdict = Verdict::NotFaster;
    if !verdict.wins {
        return Ok(base.with_report(report));
    }
    if report.times_ns != Some(times) {
        report.times_ns = Some(times_ns(&in_turns(ROUNDS_TIME, (f32, &chosen), first)?));
    }
    report.verdict = Verdict::Lowered;
    (report.error, report.lowered) = (error, lowered(chosen.graph()));
    Ok(chosen.with_report(report))
}

/// Of the products that `base` leaves in f32, those that are faster with bf16, as far as they keep
/// within the budget: the session, and its error.
fn bf16(
    base: &Session,
    cases: &Cases<'_>,
    report: &mut PrecisionReport,
) -> Result<Option<(Session, f64)>, Error> {
    let products = all(base);
    report.products = products.len();
    let (Some((first, _)), false) = (cases.first(), products.is_empty()) else { return Ok(None) };
    let low = base.lowered_by(&products.iter().copied().collect())?;
    let faster = faster(base, &low, first, &products)?;
    drop(low);
    report.faster = faster.len();
    report.verdict = Verdict::NoneFaster;
    if faster.is_empty() {
        return Ok(None);
    }
    let make = |nodes: &BTreeSet<NodeId>| base.lowered_by(nodes);
    let mut search = Search::new(&make, cases, report.max_error);
    search.fit(&faster)?;
    report.trials = search.trials;
    report.error_of_all = search.error_of_all;
    report.verdict = Verdict::OverBudget;
    Ok(search.best)
}

/// Of `nodes`, those that take clearly less time in `low` than in `base`, the ones that gain most
/// first.
fn faster(
    base: &Session,
    low: &Session,
    inputs: &Inputs,
    nodes: &[NodeId],
) -> Result<Vec<NodeId>, Error> {
    // Nanoseconds of each step, by its node.
    let steps = |session: &Session| -> Result<BTreeMap<usize, u64>, Error> {
        let (_, trace) = session.trace(inputs.clone())?;
        Ok(trace.steps.into_iter().map(|step| (step.index, step.duration_ns)).collect())
    };
    // The first runs make plans and allocate memory.
    steps(base)?;
    steps(low)?;
    let pairs = rounds(ROUNDS_TIME).measure(&mut || steps(base), &mut || steps(low))?;
    let gain = |&id: &NodeId| {
        let of = |times: &BTreeMap<usize, u64>| Some(*times.get(&id.index())? as f64);
        let own: Option<Vec<(f64, f64)>> =
            pairs.iter().map(|(f32, bf16)| of(f32).zip(of(bf16))).collect();
        let verdict = NODE_GAIN.judge(&own?);
        let gain = (verdict.default_seconds - verdict.candidate_seconds) as u64;
        verdict.wins.then_some((gain, id))
    };
    let mut gains: Vec<(u64, NodeId)> = nodes.iter().filter_map(gain).collect();
    gains.sort_by_key(|&(gain, id)| (std::cmp::Reverse(gain), id));
    Ok(gains.into_iter().map(|(_, id)| id).collect())
}
