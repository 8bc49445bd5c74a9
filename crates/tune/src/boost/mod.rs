//! Gradient-boosted regression trees on histograms, squared error.
//!
//! Trees are added one by one, each fitted to what those before it leave over (Friedman, "Greedy
//! function approximation: a gradient boosting machine", 2001). A tree is grown from histograms of
//! the binned columns; gains and leaves have an L2 penalty (Chen and Guestrin, "XGBoost: a scalable
//! tree boosting system", 2016, equations 6 and 7, with every second derivative 1). The same rows,
//! parameters and seed give the same model. `tests/xgboost.rs` holds it against xgboost.

mod bins;
mod tree;

use hetra_device::Random;

use bins::Bins;
use tree::{Tree, grow};

/// Most rows that are fitted.
pub const ROWS_MAX: usize = 1 << 24;

/// Most columns.
pub const COLUMNS_MAX: usize = 1 << 12;

/// Most trees of a model.
pub const TREES_MAX: usize = 10_000;

/// How a model is fitted.
#[derive(Clone, Debug)]
pub struct Params {
    /// Trees; fewer where stopping ends it. At most [`TREES_MAX`].
    pub trees: usize,
    /// What part of a tree's answer is added, in 0..=1.
    pub learning_rate: f64,
    /// Most splits between the root and a leaf.
    pub depth_max: usize,
    /// Most leaves of a tree. Those with the largest gains are split first.
    pub leaves_max: usize,
    /// Fewest rows of a leaf, at least 1.
    pub child_rows_min: usize,
    /// L2 penalty on the values of leaves: 0 or more.
    pub lambda: f64,
    /// Most bins of a column, 2..=256.
    pub bins_max: usize,
    /// What part of the rows each tree sees, in 0..=1, chosen anew for each.
    pub rows_part: f64,
    /// What part of the columns each tree sees, in 0..=1, at least one column.
    pub columns_part: f64,
    /// When to stop early; `None`: never.
    pub stopping: Option<Stopping>,
    /// Fixes every choice that is left to chance.
    pub seed: u64,
}

impl Default for Params {
    fn default() -> Params {
        Params {
            trees: 100,
            learning_rate: 0.1,
            depth_max: 6,
            leaves_max: 64,
            child_rows_min: 1,
            lambda: 1.0,
            bins_max: 256,
            rows_part: 1.0,
            columns_part: 1.0,
            stopping: None,
            seed: 0,
        }
    }
}

/// Early stopping: some rows are held out, and the model ends with the tree after which its error
/// on them was least.
#[derive(Clone, Copy, Debug)]
pub struct Stopping {
    /// What part of the rows is held out, in 0..1.
    pub held_out: f64,
    /// How many trees may bring nothing.
    pub patience: usize,
}

/// Why no model was fitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum BoostError {
    #[error("{values} values and {targets} targets do not make rows of {columns} columns")]
    Shape { values: usize, targets: usize, columns: usize },
    #[error("wanted 1 to {ROWS_MAX} rows of 1 to {COLUMNS_MAX} columns")]
    Size,
    #[error("a value or target is not finite")]
    Finite,
    #[error("parameter {name} is out of its range")]
    Param { name: &'static str },
}

/// A fitted model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    columns: usize,
    /// The mean of the targets: what no tree has to say.
    base: f64,
    trees: Vec<Tree>,
}

impl Model {
    /// Fits a model. `values` are the rows, one after another, each of `columns` numbers;
    /// `targets` has a number for each row.
    ///
    /// # Errors
    /// When shapes contradict each other, there are too many rows or none, a number is not
    /// finite, or a parameter is out of range.
    pub fn fit(
        values: &[f64],
        columns: usize,
        targets: &[f64],
        params: &Params,
    ) -> Result<Model, BoostError> {
        check(values, columns, targets, params)?;
        let mut random = Random::new(params.seed);
        let (train, held) = split(targets.len(), params, &mut random);
        let bins = Bins::new(values, columns, params.bins_max);
        let base = train.iter().map(|&row| targets[row]).sum::<f64>() / train.len() as f64;
        let mut model = Model { columns, base, trees: Vec::new() };
        // What is left over of each target, held-out rows included.
        let mut rest: Vec<f64> = targets.iter().map(|target| target - base).collect();
        let mut least = (squares(&rest, &held), 0);
        let patience = params.stopping.map_or(usize::MAX, |stopping| stopping.patience);
        for _ in 0..params.trees {
            let rows = sample(&train, params.rows_part, &mut random);
            let all: Vec<usize> = (0..columns).collect();
            let chosen = sample(&all, params.columns_part, &mut random);
            let tree = grow(&bins, &rest, rows, &chosen, params);
            for (row, rest) in rest.iter_mut().enumerate() {
                *rest -= tree.of_bins(&bins, row);
            }
            model.trees.push(tree);
            let error = squares(&rest, &held);
            if error < least.0 {
                least = (error, model.trees.len());
            } else if !held.is_empty() && model.trees.len() - least.1 >= patience {
                break;
            }
        }
        if !held.is_empty() {
            model.trees.truncate(least.1);
        }
        Ok(model)
    }

    /// What the model says of one row.
    ///
    /// # Panics
    /// When the row has another number of columns than the model was fitted with.
    pub fn predict(&self, row: &[f64]) -> f64 {
        assert_eq!(row.len(), self.columns, "the columns of a row");
        self.base + self.trees.iter().map(|tree| tree.of_row(row)).sum::<f64>()
    }

    /// How many trees it has.
    pub fn trees(&self) -> usize {
        self.trees.len()
    }
}

fn check(values: &[f64], columns: usize, targets: &[f64], p: &Params) -> Result<(), BoostError> {
    let rows = targets.len();
    if !(1..=ROWS_MAX).contains(&rows) || !(1..=COLUMNS_MAX).contains(&columns) {
        return Err(BoostError::Size);
    }
    if rows * columns != values.len() {
        return Err(BoostError::Shape { values: values.len(), targets: rows, columns });
    }
    if values.iter().chain(targets).any(|value| !value.is_finite()) {
        return Err(BoostError::Finite);
    }
    let part = |value: f64| (0.0..=1.0).contains(&value);
    let held = p.stopping.is_none_or(|stopping| (0.0..1.0).contains(&stopping.held_out));
    let ranges = [
        ("trees", p.trees <= TREES_MAX),
        ("learning_rate", part(p.learning_rate)),
        ("leaves_max", p.leaves_max >= 1),
        ("child_rows_min", p.child_rows_min >= 1),
        ("lambda", p.lambda.is_finite() && p.lambda >= 0.0),
        ("bins_max", (2..=256).contains(&p.bins_max)),
        ("rows_part", part(p.rows_part)),
        ("columns_part", part(p.columns_part)),
        ("stopping.held_out", held),
    ];
    let wrong = ranges.into_iter().find(|(_, fine)| !fine);
    wrong.map_or(Ok(()), |(name, _)| Err(BoostError::Param { name }))
}

/// Rows to learn from, at least one, and rows that are held out.
fn split(rows: usize, params: &Params, random: &mut Random) -> (Vec<usize>, Vec<usize>) {
    let mut all: Vec<usize> = (0..rows).collect();
    let Some(stopping) = params.stopping else { return (all, Vec::new()) };
    random.shuffle(&mut all);
    let held = ((rows as f64 * stopping.held_out) as usize).min(rows - 1);
    let mut train = all.split_off(held);
    train.sort_unstable();
    (train, all)
}

/// A part of a list, in its order: at least one element, without drawing one twice.
fn sample(list: &[usize], part: f64, random: &mut Random) -> Vec<usize> {
    let wanted = ((list.len() as f64 * part).round() as usize).clamp(1, list.len());
    if wanted == list.len() {
        return list.to_vec();
    }
    // Each element is taken with the probability that is left to fill the rest (Knuth, volume 2,
    // algorithm S).
    let mut taken = Vec::with_capacity(wanted);
    for (index, &element) in list.iter().enumerate() {
        if random.index(list.len() - index) < wanted - taken.len() {
            taken.push(element);
        }
    }
    taken
}

fn squares(rest: &[f64], rows: &[usize]) -> f64 {
    rows.iter().map(|&row| rest[row] * rest[row]).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Friedman's first function with noise of deviation 1, ten columns of which five matter
    /// ("Multivariate adaptive regression splines", 1991, equation 61).
    fn friedman(rows: usize, seed: u64) -> (Vec<f64>, Vec<f64>) {
        let mut random = Random::new(seed);
        let values: Vec<f64> = (0..rows * 10).map(|_| random.unit()).collect();
        let target = |x: &[f64]| {
            // Twelve uniform numbers have variance 1 together.
            let noise = (0..12).map(|_| random.unit()).sum::<f64>() - 6.0;
            let bend = 20.0 * (x[2] - 0.5).powi(2);
            10.0 * (std::f64::consts::PI * x[0] * x[1]).sin()
                + bend
                + 10.0 * x[3]
                + 5.0 * x[4]
                + noise
        };
        let targets = values.chunks(10).map(target).collect();
        (values, targets)
    }

    fn rmse(model: &Model, values: &[f64], targets: &[f64]) -> f64 {
        let rows = values.chunks(values.len() / targets.len());
        let squares = rows.zip(targets).map(|(row, y)| (model.predict(row) - y).powi(2));
        (squares.sum::<f64>() / targets.len() as f64).sqrt()
    }

    #[test]
    fn it_learns_friedmans_function() {
        let (values, targets) = friedman(800, 1);
        let (fresh, truth) = friedman(400, 2);
        let params = Params { depth_max: 4, trees: 200, ..Params::default() };
        let model = Model::fit(&values, 10, &targets, &params).unwrap();
        // The noise alone is 1; the mean would be wrong by 4.9.
        let error = rmse(&model, &fresh, &truth);
        assert!((1.0..1.6).contains(&error), "{error}");
        // A sample of rows and columns learns about as well.
        let params = Params { rows_part: 0.7, columns_part: 0.7, seed: 5, ..params };
        let sampled = Model::fit(&values, 10, &targets, &params).unwrap();
        let error = rmse(&sampled, &fresh, &truth);
        assert!((1.0..1.6).contains(&error), "{error}");
        assert_ne!(sampled, model);
    }

    #[test]
    fn a_seed_gives_the_same_model() {
        let (values, targets) = friedman(200, 3);
        let fit = |seed| {
            let params = Params { trees: 20, rows_part: 0.5, seed, ..Params::default() };
            Model::fit(&values, 10, &targets, &params).unwrap()
        };
        assert_eq!(fit(1), fit(1));
        assert_ne!(fit(1), fit(2));
    }

    #[test]
    fn it_stops_when_held_out_rows_gain_nothing() {
        // Noise alone: any tree is one too many.
        let mut random = Random::new(4);
        let mut numbers = |count: usize| (0..count).map(|_| random.unit()).collect::<Vec<f64>>();
        let (values, targets) = (numbers(1500), numbers(300));
        let stopping = Some(Stopping { held_out: 0.25, patience: 10 });
        let params = Params { trees: 500, stopping, ..Params::default() };
        let noise = Model::fit(&values, 5, &targets, &params).unwrap();
        assert!(noise.trees() < 20, "{}", noise.trees());
        // Where there is something to learn, it goes on, and does better than without an end.
        let (values, targets) = friedman(400, 5);
        let (fresh, truth) = friedman(400, 6);
        let params = Params { learning_rate: 0.3, depth_max: 8, ..params };
        let stopped = Model::fit(&values, 10, &targets, &params).unwrap();
        assert!((10..200).contains(&stopped.trees()), "{}", stopped.trees());
        assert!(rmse(&stopped, &fresh, &truth) < 2.6);
    }

    #[test]
    fn small_data_has_exact_answers() {
        // One split, no penalty: the means of the two sides.
        let params =
            Params { trees: 1, learning_rate: 1.0, lambda: 0.0, depth_max: 1, ..Params::default() };
        let model = Model::fit(&[1.0, 2.0, 3.0, 4.0], 1, &[1.0, 3.0, 10.0, 12.0], &params).unwrap();
        assert_eq!([0.0, 2.5, 2.6, 9.0].map(|x| model.predict(&[x])), [2.0, 2.0, 11.0, 11.0]);
        // With one: sum over (rows + lambda), about the mean of all, which is 6.5.
        let params = Params { lambda: 2.0, ..params };
        let model = Model::fit(&[1.0, 2.0, 3.0, 4.0], 1, &[1.0, 3.0, 10.0, 12.0], &params).unwrap();
        assert_eq!([1.0, 4.0].map(|x| model.predict(&[x])), [6.5 - 9.0 / 4.0, 6.5 + 9.0 / 4.0]);
        // No split that leaves 3 rows on both sides.
        let params = Params { child_rows_min: 3, ..params };
        let model = Model::fit(&[1.0, 2.0, 3.0, 4.0], 1, &[1.0, 3.0, 10.0, 12.0], &params).unwrap();
        assert_eq!(model.predict(&[1.0]), 6.5);
        // One row, or columns that say nothing.
        let model = Model::fit(&[1.0], 1, &[5.0], &Params::default()).unwrap();
        assert_eq!(model.predict(&[7.0]), 5.0);
        let model = Model::fit(&[1.0, 1.0], 1, &[4.0, 6.0], &Params::default()).unwrap();
        assert_eq!(model.predict(&[1.0]), 5.0);
    }

    #[test]
    fn the_leaves_with_the_largest_gains_come_first() {
        // Two far groups, one of which has structure inside: three leaves are spent on that.
        let values = [0.0, 1.0, 2.0, 3.0];
        let params = Params {
            trees: 1,
            learning_rate: 1.0,
            lambda: 0.0,
            leaves_max: 3,
            ..Params::default()
        };
        let model = Model::fit(&values, 1, &[0.0, 1.0, 100.0, 110.0], &params).unwrap();
        assert_eq!(values.map(|x| model.predict(&[x])), [0.5, 0.5, 100.0, 110.0]);
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let fit = |values: &[f64], columns, targets: &[f64], params: &Params| {
            Model::fit(values, columns, targets, params).unwrap_err()
        };
        let fine = Params::default();
        assert_eq!(fit(&[], 1, &[], &fine), BoostError::Size);
        assert_eq!(fit(&[], 0, &[1.0], &fine), BoostError::Size);
        let shape = BoostError::Shape { values: 3, targets: 2, columns: 2 };
        assert_eq!(fit(&[1.0; 3], 2, &[1.0; 2], &fine), shape);
        assert_eq!(fit(&[f64::NAN], 1, &[1.0], &fine), BoostError::Finite);
        assert_eq!(fit(&[1.0], 1, &[f64::INFINITY], &fine), BoostError::Finite);
        let stopping = |held_out| Some(Stopping { held_out, patience: 1 });
        for (name, params) in [
            ("trees", Params { trees: TREES_MAX + 1, ..fine.clone() }),
            ("learning_rate", Params { learning_rate: f64::NAN, ..fine.clone() }),
            ("leaves_max", Params { leaves_max: 0, ..fine.clone() }),
            ("lambda", Params { lambda: -1.0, ..fine.clone() }),
            ("bins_max", Params { bins_max: 257, ..fine.clone() }),
            ("rows_part", Params { rows_part: 1.1, ..fine.clone() }),
            ("stopping.held_out", Params { stopping: stopping(1.0), ..fine.clone() }),
        ] {
            assert_eq!(fit(&[1.0], 1, &[1.0], &params), BoostError::Param { name });
        }
    }
}
