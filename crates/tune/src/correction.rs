//! What a simple model of costs is off by, learned from what was measured.
//!
//! What takes time is made of parts (the kernels of a graph), of each of which a simple model has a
//! guess. Measured is only their sum. A model of trees ([`Model`]) learns the logarithm of what
//! each part takes over its guess: what is measured of a sum is split among its parts in proportion
//! to what is thought of them so far, and what they are then said to take is fitted, some times
//! over (backfitting; Breiman and Friedman, 1985).

use crate::boost::{BoostError, Model, Params};

/// A part: a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct CostPart {
    /// Seconds, as the simple model says: more than 0.
    pub guess: f64,
    /// What else is known of it: as many numbers for each part.
    pub features: Vec<f64>,
}

/// Parts that were measured together.
#[derive(Clone, Debug, PartialEq)]
pub struct CostExample {
    /// What it is made of, at least one.
    pub parts: Vec<CostPart>,
    /// Seconds of all of them: more than 0.
    pub seconds: f64,
}

/// What was learned.
#[derive(Clone, Debug)]
pub struct Correction {
    model: Model,
    /// Half of what was held out is off by more, in parts.
    spread: f64,
}

/// Rounds of splitting and fitting.
const ROUNDS: usize = 12;
/// What is split off of a sum for a part that has so little of it says nothing of the part.
const SHARE_MIN: f64 = 0.01;
/// A part takes at most so many times its guess, or at least that part of it.
const TIMES_MAX: f64 = 1e3;
/// The newest of so many examples is held out to find the spread: those of other models than most.
const HELD: usize = 5;
/// Most parts that are learned from.
const PARTS_MAX: usize = 15_000;
/// Fewest examples that are learned from.
pub const EXAMPLES_MIN: usize = 20;
/// Most examples that are learned from: the last ones.
pub const EXAMPLES_MAX: usize = 20_000;

impl Correction {
    /// Learns from examples, those of one device; none where there are too few.
    ///
    /// # Errors
    /// Parts with another number of features, and numbers that are not finite.
    pub fn fit(examples: &[CostExample]) -> Result<Option<Correction>, BoostError> {
        let mut parts = 0;
        let fits = |example: &&CostExample| {
            parts += example.parts.len();
            parts <= PARTS_MAX
        };
        let count = examples.iter().rev().take(EXAMPLES_MAX).take_while(fits).count();
        let examples = &examples[examples.len() - count..];
        if examples.len() < EXAMPLES_MIN {
            return Ok(None);
        }
        let (older, newest) = examples.split_at(examples.len() - examples.len() / HELD);
        let model = learn(older)?;
        let error = |example: &CostExample| {
            (sum(&model, &example.parts) / example.seconds).ln().abs().exp() - 1.0
        };
        let mut off: Vec<f64> = newest.iter().map(error).collect();
        off.sort_by(f64::total_cmp);
        Ok(Some(Correction { model: learn(examples)?, spread: off[off.len() / 2] }))
    }

    /// Seconds of a part.
    pub fn seconds(&self, part: &CostPart) -> f64 {
        part.guess * times(&self.model, part)
    }

    /// Half of what was held out is off by more, in parts.
    pub fn spread(&self) -> f64 {
        self.spread
    }
}

fn times(model: &Model, part: &CostPart) -> f64 {
    model.predict(&part.features).exp().clamp(1.0 / TIMES_MAX, TIMES_MAX)
}

fn sum(model: &Model, parts: &[CostPart]) -> f64 {
    parts.iter().map(|part| part.guess * times(model, part)).sum()
}

fn learn(examples: &[CostExample]) -> Result<Model, BoostError> {
    let columns = examples.iter().flat_map(|e| &e.parts).map(|part| part.features.len()).next();
    let columns = columns.unwrap_or(0);
    // Before anything is known all parts are off alike.
    let ratio = |example: &CostExample| {
        (example.seconds / example.parts.iter().map(|part| part.guess).sum::<f64>()).ln()
    };
    let mut thought: Vec<Vec<f64>> =
        examples.iter().map(|example| vec![ratio(example); example.parts.len()]).collect();
    let mut model = None;
    for round in 0..ROUNDS {
        let (mut values, mut targets) = (Vec::new(), Vec::new());
        for (example, thought) in examples.iter().zip(&thought) {
            let takes = |(part, ln): (&CostPart, &f64)| part.guess * ln.exp();
            let total: f64 = example.parts.iter().zip(thought).map(takes).sum();
            let left = (example.seconds / total).ln();
            for (part, ln) in example.parts.iter().zip(thought) {
                if takes((part, ln)) / total >= SHARE_MIN {
                    values.extend(&part.features);
                    targets.push((ln + left).clamp(-TIMES_MAX.ln(), TIMES_MAX.ln()));
                }
            }
        }
        let last = round + 1 == ROUNDS;
        let fitted = Model::fit(&values, columns, &targets, &params(last))?;
        for (example, thought) in examples.iter().zip(&mut thought) {
            for (part, ln) in example.parts.iter().zip(thought) {
                *ln = times(&fitted, part).ln();
            }
        }
        model = Some(fitted);
    }
    model.ok_or(BoostError::Size)
}

/// Shallow trees, many of them in the end: there are some thousand parts at most.
fn params(last: bool) -> Params {
    Params {
        trees: if last { 400 } else { 150 },
        learning_rate: if last { 0.06 } else { 0.12 },
        depth_max: 5,
        leaves_max: 24,
        child_rows_min: 3,
        lambda: 1.0,
        rows_part: 0.8,
        columns_part: 0.8,
        ..Params::default()
    }
}

#[cfg(test)]
mod tests {
    use hetra_device::Random;

    use super::*;

    /// Parts of two kinds: one takes twice its guess, one a third and the more the larger it is.
    fn example(random: &mut Random, parts: usize) -> CostExample {
        let mut seconds = 0.0;
        let mut part = || {
            let (kind, size) = (random.below(2) as f64, random.unit() * 10.0);
            let guess = 1e-4 * (1.0 + random.unit());
            let times = if kind == 0.0 { 2.0 } else { 0.33 * (1.0 + size / 5.0) };
            seconds += guess * times;
            CostPart { guess, features: vec![kind, size] }
        };
        let parts: Vec<CostPart> = (0..parts).map(|_| part()).collect();
        CostExample { parts, seconds }
    }

    #[test]
    fn what_sums_are_made_of_is_learned() {
        let mut random = Random::new(1);
        let examples: Vec<CostExample> = (0..300)
            .map(|_| {
                let parts = 1 + random.index(6);
                example(&mut random, parts)
            })
            .collect();
        let learned = Correction::fit(&examples).unwrap().unwrap();
        assert!(learned.spread() < 0.08, "{}", learned.spread());
        for (kind, size, wanted) in [(0.0, 3.0, 2.0), (1.0, 1.0, 0.396), (1.0, 9.0, 0.924)] {
            let part = CostPart { guess: 1.5e-4, features: vec![kind, size] };
            let times = learned.seconds(&part) / part.guess;
            assert!((times / wanted - 1.0).abs() < 0.1, "{kind} {size}: {times}");
        }
    }

    #[test]
    fn a_few_examples_teach_nothing() {
        let mut random = Random::new(2);
        let examples: Vec<CostExample> =
            (0..EXAMPLES_MIN - 1).map(|_| example(&mut random, 2)).collect();
        assert!(Correction::fit(&examples).unwrap().is_none());
    }

    #[test]
    fn rows_of_other_lengths_are_refused() {
        let mut random = Random::new(3);
        let mut examples: Vec<CostExample> = (0..40).map(|_| example(&mut random, 2)).collect();
        examples[7].parts[0].features.push(1.0);
        assert!(Correction::fit(&examples).is_err());
    }
}
