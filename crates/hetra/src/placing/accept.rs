//! Plans beside each other: the measured winner.

use std::time::{Duration, Instant};

use hetra_tune::{Pairs, Rule, quantile};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Fewest and most pairs of a comparison.
const PAIRS_MIN: usize = 9;
const PAIRS_MAX: usize = 400;

/// How a comparison of two plans went. They ran in turn, pair by pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The plan that was expected to win.
    pub plan: String,
    /// The best single device.
    pub single: String,
    /// Pairs of runs.
    pub pairs: usize,
    /// In what: `s`, `J`, `USD`, or `of the host's`.
    pub unit: String,
    /// Whether a device of either is only described, so that this is modelled, not measured.
    #[serde(default)]
    pub modelled: bool,
    /// What the plan took.
    pub of_plan: Sample,
    /// What the single device took.
    pub of_single: Sample,
    /// What the plan took over what the device did, pair by pair.
    pub ratio: Sample,
    /// Pairs in which the plan was the faster one.
    pub faster: usize,
    /// Which is taken: the plan where it is faster in the median by 2 % and in more pairs than a
    /// coin would come to with a chance of 5 %.
    pub winner: String,
}

/// Where samples lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// A quarter of them is below.
    pub lower: f64,
    /// Half of them are below.
    pub median: f64,
    /// A quarter of them is above.
    pub upper: f64,
}

impl Sample {
    /// Of some numbers; zeros of none.
    pub(crate) fn of(mut numbers: Vec<f64>) -> Sample {
        let mut at = |part| if numbers.is_empty() { 0.0 } else { quantile(&mut numbers, part) };
        Sample { lower: at(0.25), median: at(0.5), upper: at(0.75) }
    }
}

/// Runs two plans in turn, so long or at least so often; each gives what a run takes, in seconds
/// unless the certificate is told otherwise.
pub(crate) fn compare(
    (plan, run_plan): (&str, &mut dyn FnMut() -> Result<f64, Error>),
    (single, run_single): (&str, &mut dyn FnMut() -> Result<f64, Error>),
    length: Duration,
) -> Result<Certificate, Error> {
    let until = Instant::now() + length;
    let pairs = Pairs { least: PAIRS_MIN, most: PAIRS_MAX, until, stop: None };
    Ok(judge(plan, single, &pairs.measure(run_single, run_plan)?))
}

/// What pairs of seconds say, those of the single device first.
fn judge(plan: &str, single: &str, pairs: &[(f64, f64)]) -> Certificate {
    let verdict = Rule::default().judge(pairs);
    let sample = |of: &dyn Fn(&(f64, f64)) -> f64| Sample::of(pairs.iter().map(of).collect());
    Certificate {
        plan: plan.to_string(),
        single: single.to_string(),
        pairs: pairs.len(),
        unit: "s".to_string(),
        modelled: false,
        of_plan: sample(&|pair| pair.1),
        of_single: sample(&|pair| pair.0),
        ratio: sample(&|pair| pair.1 / pair.0),
        faster: verdict.faster,
        winner: if verdict.wins { plan } else { single }.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_clearly_faster_is_not_taken() {
        let winner = |plans: &[f64]| {
            let pairs: Vec<(f64, f64)> = plans.iter().map(|&plan| (1.0, plan)).collect();
            judge("mix", "cpu", &pairs).winner
        };
        assert_eq!(winner(&[0.9; 20]), "mix");
        assert_eq!(winner(&[0.99; 20]), "cpu");
        assert_eq!(winner(&[1.5; 20]), "cpu");
        // Faster in the median, and often slower.
        let mixed: Vec<f64> = (0..20).map(|at| if at % 3 == 0 { 1.4 } else { 0.8 }).collect();
        assert_eq!(winner(&mixed), "cpu");
    }

    #[test]
    fn quarters_of_a_sample() {
        let sample = Sample::of(vec![4.0, 1.0, 3.0, 2.0, 5.0]);
        assert_eq!((sample.lower, sample.median, sample.upper), (2.0, 3.0, 4.0));
        assert_eq!(Sample::of(vec![1.0, 2.0]).median, 1.5);
    }
}
