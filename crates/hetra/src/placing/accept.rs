//! Plans beside each other: the measured winner.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Fewest and most pairs of a comparison.
const PAIRS_MIN: usize = 9;
const PAIRS_MAX: usize = 400;
/// A mix must be so much faster than one device to be taken, in parts: what is simpler wins a draw.
const GAIN_MIN: f64 = 0.02;

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
    /// Seconds of the plan.
    pub plan_s: Sample,
    /// Seconds of the single device.
    pub single_s: Sample,
    /// Time of the plan over that of the device, pair by pair.
    pub ratio: Sample,
    /// Which is taken: the plan where it is faster in the median by 2 % and in three pairs of four.
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
        numbers.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * numbers.len().saturating_sub(1) as f64;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            let number = |at: usize| numbers.get(at).copied().unwrap_or(0.0);
            number(below) + (number(above) - number(below)) * place.fract()
        };
        Sample { lower: at(0.25), median: at(0.5), upper: at(0.75) }
    }
}

/// Runs two plans in turn, so long or at least so often; each gives the seconds of a run.
pub(crate) fn compare(
    (plan, run_plan): (&str, &mut dyn FnMut() -> Result<f64, Error>),
    (single, run_single): (&str, &mut dyn FnMut() -> Result<f64, Error>),
    length: Duration,
) -> Result<Certificate, Error> {
    let begun = Instant::now();
    let (mut plans, mut singles) = (Vec::new(), Vec::new());
    while plans.len() < PAIRS_MAX && (plans.len() < PAIRS_MIN || begun.elapsed() < length) {
        // Neither is always the one behind the other.
        if plans.len() % 2 == 0 {
            plans.push(run_plan()?);
            singles.push(run_single()?);
        } else {
            singles.push(run_single()?);
            plans.push(run_plan()?);
        }
    }
    Ok(judge(plan, single, &plans, &singles))
}

fn judge(plan: &str, single: &str, plans: &[f64], singles: &[f64]) -> Certificate {
    let pairs = plans.iter().zip(singles);
    let ratio = Sample::of(pairs.map(|(plan, single)| plan / single).collect());
    let wins = ratio.median < 1.0 - GAIN_MIN && ratio.upper < 1.0;
    Certificate {
        plan: plan.to_string(),
        single: single.to_string(),
        pairs: plans.len(),
        plan_s: Sample::of(plans.to_vec()),
        single_s: Sample::of(singles.to_vec()),
        ratio,
        winner: if wins { plan } else { single }.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_clearly_faster_is_not_taken() {
        let ones = vec![1.0; 20];
        let winner = |plans: &[f64]| judge("mix", "cpu", plans, &ones).winner;
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
