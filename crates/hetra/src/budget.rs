//! Measures errors and times, and looks for what keeps within a budget.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hetra_ir::NodeId;
use hetra_tensor::{Tensor, Value, to_f64};
use hetra_tune::{Pairs, Rule, Verdict};

use crate::error::Error;
use crate::outputs::Outputs;
use crate::precision::Inputs;
use crate::session::Session;

/// Most sets of nodes whose error is measured: each compiles the model anew.
const TRIALS_MAX: usize = 24;
/// Pairs of runs that are timed, at most and at least, and the time after which no more begin.
const ROUNDS_MAX: usize = 21;
const ROUNDS_MIN: usize = 5;
pub(crate) const ROUNDS_TIME: Duration = Duration::from_secs(4);

/// The model as a whole has to gain this share of its time at least.
pub(crate) const GAIN: Rule = Rule { margin: 0.01, chance: 0.05 };

/// Runs that are made in turns, so that what else goes on in the machine meets both. No more begin
/// after `time_max`.
pub(crate) fn rounds(time_max: Duration) -> Pairs<'static> {
    let until = Instant::now() + time_max;
    Pairs { least: ROUNDS_MIN, most: ROUNDS_MAX, until, stop: None }
}

/// Whether the second session is the faster one on these inputs.
pub(crate) fn in_turns(
    time_max: Duration,
    (first, second): (&Session, &Session),
    inputs: &Inputs,
) -> Result<Verdict, Error> {
    let time = |session: &Session| -> Result<f64, Error> {
        let inputs = inputs.clone();
        let begun = Instant::now();
        session.run(inputs)?;
        Ok(begun.elapsed().as_secs_f64())
    };
    // Plans and memory.
    time(first)?;
    time(second)?;
    let pairs = rounds(time_max).measure(&mut || time(first), &mut || time(second))?;
    Ok(GAIN.judge(&pairs))
}

/// Median nanoseconds of both.
pub(crate) fn times_ns(verdict: &Verdict) -> (u64, u64) {
    let ns = |seconds: f64| (seconds * 1e9) as u64;
    (ns(verdict.default_seconds), ns(verdict.candidate_seconds))
}

/// Inputs, and what f32 gives.
pub(crate) type Cases<'a> = Vec<(&'a Inputs, &'a Outputs)>;

/// Looks for nodes that together keep within the budget: all of them, else as much of each half as
/// fits beside what fits already. What it holds has been measured as a whole.
pub(crate) struct Search<'a> {
    /// The session that computes these nodes less exactly, and no others.
    make: &'a dyn Fn(&BTreeSet<NodeId>) -> Result<Session, Error>,
    cases: &'a Cases<'a>,
    max_error: f64,
    pub(crate) trials: usize,
    pub(crate) error_of_all: Option<f64>,
    pub(crate) kept: BTreeSet<NodeId>,
    pub(crate) best: Option<(Session, f64)>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(
        make: &'a dyn Fn(&BTreeSet<NodeId>) -> Result<Session, Error>,
        cases: &'a Cases<'a>,
        max_error: f64,
    ) -> Search<'a> {
        let (trials, error_of_all, kept, best) = (0, None, BTreeSet::new(), None);
        Search { make, cases, max_error, trials, error_of_all, kept, best }
    }

    /// Takes as many of the nodes as fit, the first ones first.
    pub(crate) fn fit(&mut self, nodes: &[NodeId]) -> Result<(), Error> {
        if nodes.is_empty() || self.trials >= TRIALS_MAX {
            return Ok(());
        }
        self.trials += 1;
        let tried: BTreeSet<NodeId> = self.kept.iter().chain(nodes).copied().collect();
        let session = (self.make)(&tried)?;
        let error = error_on(&session, self.cases)?;
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
}

/// The largest error on these inputs, see [`crate::PrecisionReport::error`].
pub(crate) fn error_on(session: &Session, cases: &Cases<'_>) -> Result<f64, Error> {
    let mut worst = 0.0f64;
    for (inputs, wanted) in cases {
        let got = session.run(inputs.to_vec())?;
        let errors = got.iter().zip(wanted.iter()).map(|((_, a), (_, b))| error(a, b));
        worst = errors.fold(worst, f64::max);
    }
    Ok(worst)
}

/// How far a value is from the wanted one, see [`crate::PrecisionReport::error`].
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
    match difference(got, wanted).filter(|_| got.dtype().is_float()) {
        Some((0.0, _)) => 0.0,
        Some((worst, largest)) => worst / largest,
        None if got == wanted => 0.0,
        None => f64::INFINITY,
    }
}

/// The largest difference of two tensors, and the largest finite magnitude of the wanted one.
/// Infinities and NaN are right where both have them; else the difference is infinite. `None` where
/// dtype or shape differ, or the elements are no numbers.
pub(crate) fn difference(got: &Tensor, wanted: &Tensor) -> Option<(f64, f64)> {
    if got.dtype() != wanted.dtype() || got.shape() != wanted.shape() {
        return None;
    }
    let (a, b) = (to_f64(got).ok()?, to_f64(wanted).ok()?);
    let largest = b.iter().filter(|v| v.is_finite()).fold(0.0f64, |most, v| most.max(v.abs()));
    let apart = |(x, y): (&f64, &f64)| {
        let same = x == y || (x.is_nan() && y.is_nan());
        let apart = if same { 0.0 } else { (x - y).abs() };
        if apart.is_nan() { f64::INFINITY } else { apart }
    };
    Some((a.iter().zip(&b).map(apart).fold(0.0, f64::max), largest))
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
