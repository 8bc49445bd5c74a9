//! Whether a schedule replaces another: measured in turn, pair by pair.
//!
//! The fastest of many single measurements owes part of its lead to luck, and a machine that
//! others use drifts. So the two are measured side by side, the order turned each time, and the
//! candidate has to win most pairs, more than a coin would, and by a margin in the median.

use std::sync::atomic::{AtomicBool, Ordering};

use hetra_device::Schedule;

use crate::search::Outcome;

/// Most pairs.
const PAIRS_MAX: usize = 1000;

/// When a candidate wins.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Pairs that are measured, 1 to 1000; at least 5, or no candidate can win.
    pub pairs: usize,
    /// What part of the time the candidate has to save in the median of the pairs.
    pub margin: f64,
    /// How likely two schedules that are equally fast may be to look as if the candidate won.
    pub chance: f64,
}

impl Default for Rule {
    /// Nine pairs of which the candidate wins eight or nine, and saves 2 %.
    fn default() -> Rule {
        Rule { pairs: 9, margin: 0.02, chance: 0.05 }
    }
}

impl Rule {
    /// How many pairs the candidate has to win: the least number that a coin reaches with at most
    /// the given chance (the one-sided sign test). More than there are pairs where none will do.
    fn wins_needed(&self, pairs: usize) -> usize {
        // P(at least k of n), summed from k = n down; a term is C(n, k) / 2^n.
        let (mut term, mut tail) = (0.5f64.powi(pairs as i32), 0.0);
        let mut needed = pairs + 1;
        for wins in (0..=pairs).rev() {
            tail += term;
            if tail > self.chance {
                break;
            }
            needed = wins;
            term *= wins as f64 / (pairs - wins + 1) as f64;
        }
        needed
    }

    /// What pairs of seconds say that were measured in turn; at least one. `pairs` of the rule does
    /// not matter: as many are judged as there are.
    pub fn judge(&self, defaults: &[f64], candidates: &[f64]) -> Verdict {
        let pairs = defaults.iter().zip(candidates);
        let faster = pairs.clone().filter(|(old, new)| new < old).count();
        let mut ratios: Vec<f64> = pairs.map(|(old, new)| new / old).collect();
        let (mut defaults, mut candidates) = (defaults.to_vec(), candidates.to_vec());
        let ratio = quantile(&mut ratios, 0.5);
        let spread = |times: &mut [f64]| {
            (quantile(times, 0.75) - quantile(times, 0.25)) / quantile(times, 0.5)
        };
        let needed = self.wins_needed(ratios.len());
        Verdict {
            wins: faster >= needed && ratio <= 1.0 - self.margin,
            ratio,
            spread: spread(&mut defaults).max(spread(&mut candidates)),
            default_seconds: quantile(&mut defaults, 0.5),
            candidate_seconds: quantile(&mut candidates, 0.5),
            pairs: ratios.len(),
            faster,
        }
    }
}

/// What the pairs said.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Whether the candidate replaces the default.
    pub wins: bool,
    /// The median over the pairs of the candidate's time divided by the default's.
    pub ratio: f64,
    /// Median seconds of the default.
    pub default_seconds: f64,
    /// Median seconds of the candidate.
    pub candidate_seconds: f64,
    /// How far apart times of one schedule lie: the larger of the two ranges between the first and
    /// the third quartile, divided by its median.
    pub spread: f64,
    /// Pairs that were measured; fewer than asked where it was lost before, or stopped.
    pub pairs: usize,
    /// Pairs in which the candidate was the faster one.
    pub faster: usize,
}

/// Measures `candidate` and `default` in turn and says whether the candidate wins. It ends early
/// when the candidate cannot win any more, or when `stop` is set (it has then not won).
///
/// # Errors
/// The first error of `measure`.
pub fn confirm<E>(
    default: &Schedule,
    candidate: &Schedule,
    rule: Rule,
    stop: &AtomicBool,
    measure: &mut dyn FnMut(&Schedule) -> Result<f64, E>,
) -> Result<Verdict, E> {
    let pairs = rule.pairs.clamp(1, PAIRS_MAX);
    let needed = rule.wins_needed(pairs);
    let (mut defaults, mut candidates) = (Vec::new(), Vec::new());
    let mut faster = 0;
    // One pair at least, so that there are times to tell.
    while defaults.len() < pairs && faster + (pairs - defaults.len()) >= needed.min(pairs) {
        if stop.load(Ordering::Relaxed) && !defaults.is_empty() {
            break;
        }
        // Whatever the first of a pair does to the second (caches, clocks) happens to both.
        let turned = defaults.len() % 2 == 1;
        let first = measure(if turned { candidate } else { default })?;
        let second = measure(if turned { default } else { candidate })?;
        let (old, new) = if turned { (second, first) } else { (first, second) };
        defaults.push(old);
        candidates.push(new);
        faster += usize::from(new < old);
    }
    let mut verdict = rule.judge(&defaults, &candidates);
    verdict.wins &= verdict.pairs == pairs;
    Ok(verdict)
}

/// Confirms the fastest schedules of a search, one after another, `tries` at most, until one wins.
/// Returns the winner, or the default where none does, and the last verdict (`None` where the
/// default was the fastest already).
///
/// # Errors
/// The first error of `measure`.
pub fn settle<E>(
    outcome: &Outcome,
    tries: usize,
    rule: Rule,
    stop: &AtomicBool,
    measure: &mut dyn FnMut(&Schedule) -> Result<f64, E>,
) -> Result<(Schedule, Option<Verdict>), E> {
    let (default, seconds) = &outcome.default;
    // What was slower in the search does not get a second chance to be lucky.
    let better = outcome.ranked.iter().filter(|(_, other)| other < seconds).take(tries);
    let mut last = None;
    for (candidate, _) in better {
        let verdict = confirm(default, candidate, rule, stop, measure)?;
        if verdict.wins {
            return Ok((candidate.clone(), Some(verdict)));
        }
        last = Some(verdict);
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok((default.clone(), last))
}

/// A quantile of some numbers, between the two nearest where it falls between; at least one.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = part * (values.len() - 1) as f64;
    let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::End;
    use hetra_device::Random;

    fn schedule(value: i64) -> Schedule {
        Schedule::new().with("mr", value).unwrap()
    }

    /// Confirms mr=2 against mr=1 with these seconds, a noise of this deviation, and a machine
    /// that gets slower by 1 % a measurement.
    fn check(seconds: [f64; 2], noise: f64, seed: u64) -> Verdict {
        let mut random = Random::new(seed);
        let mut drift = 1.0;
        let mut measure = |schedule: &Schedule| {
            drift *= 1.01;
            let normal = (0..12).map(|_| random.unit()).sum::<f64>() - 6.0;
            let own = seconds[usize::from(schedule.get("mr") == Some(2))];
            Ok::<f64, String>(own * drift * (noise * normal).exp())
        };
        let stop = AtomicBool::new(false);
        confirm(&schedule(1), &schedule(2), Rule::default(), &stop, &mut measure).unwrap()
    }

    #[test]
    fn wins_are_those_of_the_sign_test() {
        let needed = |pairs| Rule { pairs, ..Rule::default() }.wins_needed(pairs);
        assert_eq!([5, 6, 7, 8, 9, 11, 15].map(needed), [5, 6, 7, 7, 8, 9, 12]);
        // Four of four happen to one coin in 16.
        assert_eq!(needed(4), 5);
        assert!((515..560).contains(&needed(1000)), "{}", needed(1000));
    }

    #[test]
    fn only_a_faster_candidate_wins() {
        let wins =
            |seconds, noise| (0..200).filter(|&seed| check(seconds, noise, seed).wins).count();
        assert!(wins([1.0, 0.85], 0.03) >= 195);
        assert!(wins([1.0, 1.0], 0.03) <= 8);
        // Faster, but not by the margin.
        assert_eq!(wins([1.0, 0.99], 0.0), 0);
        assert_eq!(wins([1.0, 1.2], 0.1), 0);
        let verdict = check([1.0, 0.8], 0.0, 1);
        assert!((verdict.ratio - 0.8).abs() < 0.02, "{verdict:?}");
        assert_eq!((verdict.pairs, verdict.faster), (9, 9));
        assert!(verdict.spread < 0.15 && verdict.spread > 0.0, "{verdict:?}");
    }

    #[test]
    fn what_is_lost_is_not_measured_to_the_end() {
        let verdict = check([1.0, 1.5], 0.0, 1);
        assert_eq!((verdict.wins, verdict.pairs, verdict.faster), (false, 2, 0));
    }

    #[test]
    fn a_flag_or_an_error_ends_it() {
        let stop = AtomicBool::new(true);
        let mut fast =
            |schedule: &Schedule| Ok::<f64, String>(1.0 / schedule.get("mr").unwrap_or(1) as f64);
        let verdict = confirm(&schedule(1), &schedule(2), Rule::default(), &stop, &mut fast);
        let verdict = verdict.unwrap();
        assert_eq!((verdict.wins, verdict.pairs, verdict.ratio), (false, 1, 0.5));
        let mut broken = |_: &Schedule| Err::<f64, String>("no kernel".to_string());
        let stop = AtomicBool::new(false);
        let fault = confirm(&schedule(1), &schedule(2), Rule::default(), &stop, &mut broken);
        assert_eq!(fault.unwrap_err(), "no kernel");
    }

    #[test]
    fn the_next_fastest_may_win_where_the_fastest_was_lucky() {
        // In the search mr=3 looked best; in truth it is as fast as the default.
        let ranked =
            vec![(schedule(3), 0.5), (schedule(2), 0.7), (schedule(1), 1.0), (schedule(4), 2.0)];
        let outcome = Outcome {
            default: (schedule(1), 1.0),
            best: (schedule(3), 0.5),
            trials: Vec::new(),
            ranked,
            end: End::Exhausted,
        };
        let truth = |s: &Schedule| if s.get("mr") == Some(2) { 0.7 } else { 1.0 };
        let mut measure = |s: &Schedule| Ok::<f64, String>(truth(s));
        let stop = AtomicBool::new(false);
        let mut settled =
            |tries| settle(&outcome, tries, Rule::default(), &stop, &mut measure).unwrap();
        let (winner, verdict) = settled(3);
        assert_eq!((winner, verdict.map(|verdict| verdict.wins)), (schedule(2), Some(true)));
        let (winner, verdict) = settled(1);
        assert_eq!((winner, verdict.map(|verdict| verdict.wins)), (schedule(1), Some(false)));
        assert_eq!(settled(0), (schedule(1), None));
    }
}
