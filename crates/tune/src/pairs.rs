//! Whether one way is faster than another: measured in turn, pair by pair.
//!
//! The fastest of many single measurements owes part of its lead to luck, and a machine that
//! others use drifts. So the two are measured side by side, the order turned each time, and the
//! candidate has to win most pairs, more than a coin would, and by a margin in the median.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// How many pairs are measured.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// As many, unless `stop` is set.
    pub least: usize,
    /// No more.
    pub most: usize,
    /// Between the two, until then.
    pub until: Instant,
    /// May be set at any time: no pair begins but the first.
    pub stop: Option<&'a AtomicBool>,
}

impl Pairs<'_> {
    /// Measures two ways in turn. Gives what both said of each pair, the first way's first.
    ///
    /// # Errors
    /// The first error of a measurement.
    pub fn measure<T, E>(
        &self,
        first: &mut dyn FnMut() -> Result<T, E>,
        second: &mut dyn FnMut() -> Result<T, E>,
    ) -> Result<Vec<(T, T)>, E> {
        let mut pairs = Vec::new();
        while pairs.len() < self.least || (pairs.len() < self.most && Instant::now() < self.until) {
            let stopped = self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
            // One pair at least, so that there are times to tell.
            if stopped && !pairs.is_empty() {
                break;
            }
            // Whatever the first of a pair does to the second (caches, clocks) happens to both.
            pairs.push(if pairs.len().is_multiple_of(2) {
                let one = first()?;
                (one, second()?)
            } else {
                let other = second()?;
                (first()?, other)
            });
        }
        Ok(pairs)
    }
}

/// When a candidate wins.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What part of the time the candidate has to save in the median of the pairs.
    pub margin: f64,
    /// How likely two schedules that are equally fast may be to look as if the candidate won.
    pub chance: f64,
}

impl Default for Rule {
    /// Of nine pairs the candidate wins eight or nine, and it saves 2 %.
    fn default() -> Rule {
        Rule { margin: 0.02, chance: 0.05 }
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

    /// What pairs of seconds say that were measured in turn, those of the default first; at least
    /// one. Of fewer than five no candidate wins, by the usual chance.
    pub fn judge(&self, pairs: &[(f64, f64)]) -> Verdict {
        let faster = pairs.iter().filter(|(old, new)| new < old).count();
        let mut ratios: Vec<f64> = pairs.iter().map(|(old, new)| new / old).collect();
        let (mut defaults, mut candidates): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
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
    /// Pairs that were measured.
    pub pairs: usize,
    /// Pairs in which the candidate was the faster one.
    pub faster: usize,
}

/// A quantile of some numbers, between the two nearest where it falls between; at least one.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = part * (values.len() - 1) as f64;
    let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra_device::Random;
    use std::time::Duration;

    /// Judges two ways that take so many seconds, with a noise of this deviation, on a machine that
    /// gets slower by 1 % a measurement.
    fn check(seconds: [f64; 2], noise: f64, seed: u64) -> Verdict {
        let random = std::cell::RefCell::new((Random::new(seed), 1.0));
        let time = |own: f64| {
            let (random, drift) = &mut *random.borrow_mut();
            *drift *= 1.01;
            let normal = (0..12).map(|_| random.unit()).sum::<f64>() - 6.0;
            Ok::<f64, String>(own * *drift * (noise * normal).exp())
        };
        let pairs = Pairs { least: 9, most: 9, until: Instant::now(), stop: None };
        let [first, second] = seconds;
        let pairs = pairs.measure(&mut || time(first), &mut || time(second)).unwrap();
        Rule::default().judge(&pairs)
    }

    #[test]
    fn wins_are_those_of_the_sign_test() {
        let needed = |pairs| Rule::default().wins_needed(pairs);
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
    fn as_many_pairs_as_there_is_time_for_in_turn() {
        let order = std::cell::RefCell::new(String::new());
        let pairs = |least, most, until, stop| {
            order.borrow_mut().clear();
            let one = |name: char| {
                order.borrow_mut().push(name);
                Ok::<char, String>(name)
            };
            let pairs = Pairs { least, most, until, stop };
            let pairs = pairs.measure(&mut || one('a'), &mut || one('b')).unwrap();
            assert!(pairs.iter().all(|pair| *pair == ('a', 'b')));
            pairs.len()
        };
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1000));
        assert_eq!(pairs(3, 9, now, None), 3);
        assert_eq!(*order.borrow(), "abbaab");
        assert_eq!(pairs(3, 9, later, None), 9);
        assert_eq!(pairs(3, 9, later, Some(&AtomicBool::new(true))), 1);
        let pairs = Pairs { least: 2, most: 2, until: now, stop: None };
        let fault = pairs.measure::<f64, _>(&mut || Ok(1.0), &mut || Err("no kernel"));
        assert_eq!(fault.unwrap_err(), "no kernel");
    }
}
