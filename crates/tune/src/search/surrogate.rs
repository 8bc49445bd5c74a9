//! The learned model that ranks candidates: boosted trees on the logarithm of time.
//!
//! Times are taken relative to that of the task's default, so that what is learned from one task
//! holds for another. What other tasks teach is learned once; what the task itself adds, the
//! difference, is learned anew after each batch.
//!
//! A few models learn from different rows and columns. Where they disagree little is known, and a
//! candidate is worth a measurement for that: it is ranked by the mean less [`OPTIMISM`] deviations
//! (a lower confidence bound; Cox and John, "A statistical method for global optimization", 1992).

use std::collections::BTreeMap;

use hetra_device::{Schedule, Space, Task};

use super::Row;
use crate::boost::{Model, Params};

/// Most rows of other tasks that are learned from.
const FOREIGN_ROWS_MAX: usize = 4096;

/// Models that are asked.
const MODELS: u64 = 4;

/// Deviations of the models that a candidate is credited with. Tried on `product(100, 100, 512)` of
/// `tests.rs`, with 1 % of noise: credited with none, 9 of 24 searches converged without a schedule
/// within 5 % of the best; with 1, 7 of 24; with 2 (and 100 trees where there were 60), none of 32.
const OPTIMISM: f64 = 2.0;

/// What is known of a task before it is measured, and what measurements add.
pub(super) struct Surrogate {
    /// From other tasks: knobs, then features of the task.
    foreign: Option<Model>,
    features: Vec<f64>,
    /// From this task: knobs only, the rest being the same for all.
    own: Vec<Model>,
    seed: u64,
}

impl Surrogate {
    /// A model that knows what the rows of other tasks of the same kernel say: those with the same
    /// knobs and the same features.
    pub(super) fn new(space: &Space, task: &Task, prior: &[Row], seed: u64) -> Surrogate {
        let features = task.features().iter().map(|(_, value)| *value).collect();
        let foreign = foreign(space, task, prior, seed);
        Surrogate { foreign, features, own: Vec::new(), seed }
    }

    /// Whether it can tell points apart.
    pub(super) fn knows(&self) -> bool {
        self.foreign.is_some()
    }

    /// Learns the measurements of this task: points and logarithms of their time over that of the
    /// default.
    pub(super) fn learn(&mut self, space: &Space, known: &[(u64, f64)]) {
        let mut values = Vec::new();
        let mut targets = Vec::new();
        for &(point, target) in known {
            let knobs = numbers(&space.values(point));
            targets.push(target - self.of_others(&knobs));
            values.extend(knobs);
        }
        let columns = space.knobs().len();
        let fit = |model| {
            let params = Params {
                trees: 100,
                learning_rate: 0.15,
                depth_max: 4,
                leaves_max: 12,
                child_rows_min: 1,
                lambda: 0.5,
                rows_part: 0.8,
                columns_part: 0.8,
                seed: self.seed.wrapping_add(model),
                ..Params::default()
            };
            Model::fit(&values, columns, &targets, &params).ok()
        };
        // Nothing to learn from (no knobs, no rows) is no model, and every candidate as good.
        self.own = (0..MODELS).filter_map(fit).collect();
    }

    /// The logarithm of the time at a point over that of the default, as small as the models let
    /// one hope.
    pub(super) fn predict(&self, space: &Space, point: u64) -> f64 {
        let knobs = numbers(&space.values(point));
        let (mut sum, mut squares) = (0.0, 0.0);
        for model in &self.own {
            let said = model.predict(&knobs);
            sum += said;
            squares += said * said;
        }
        let count = self.own.len().max(1) as f64;
        let mean = sum / count;
        // Rounding may leave a little less than nothing.
        let variance = (squares / count - mean * mean).max(0.0);
        self.of_others(&knobs) + mean - OPTIMISM * variance.sqrt()
    }

    fn of_others(&self, knobs: &[f64]) -> f64 {
        let Some(model) = &self.foreign else { return 0.0 };
        model.predict(&[knobs, &self.features].concat())
    }
}

fn numbers(values: &[i64]) -> Vec<f64> {
    values.iter().map(|&value| value as f64).collect()
}

/// A row of another task: its knobs, itself, the logarithm of its time.
type Taught<'a> = (Vec<f64>, &'a Row, f64);

/// A model of all other tasks of this kernel; `None` when there is none.
fn foreign(space: &Space, task: &Task, prior: &[Row], seed: u64) -> Option<Model> {
    let names = |task: &Task| task.features().iter().map(|(name, _)| name.clone()).collect();
    let wanted: Vec<String> = names(task);
    let knobs = |schedule: &Schedule| -> Option<Vec<f64>> {
        let get = |knob: &hetra_device::Knob| Some(schedule.get(knob.name())? as f64);
        let all: Option<Vec<f64>> = space.knobs().iter().map(get).collect();
        all.filter(|all| all.len() == schedule.len())
    };
    let mut tasks: BTreeMap<&str, Vec<Taught<'_>>> = BTreeMap::new();
    for row in prior.iter().filter(|row| row.task.key() != task.key()).take(FOREIGN_ROWS_MAX) {
        let Some(seconds) = row.seconds.filter(|seconds| seconds.is_finite() && *seconds > 0.0)
        else {
            continue;
        };
        let same: Vec<String> = names(&row.task);
        let Some(knobs) = knobs(&row.schedule).filter(|_| same == wanted) else { continue };
        tasks.entry(row.task.key()).or_default().push((knobs, row, seconds.ln()));
    }
    let default = space.nth(space.default_point())?;
    let (mut values, mut targets) = (Vec::new(), Vec::new());
    for rows in tasks.values() {
        // Where the default was not measured, the mean stands for it.
        let mean = rows.iter().map(|(.., log)| log).sum::<f64>() / rows.len() as f64;
        let base = rows.iter().find(|(_, row, _)| row.schedule == default);
        let base = base.map_or(mean, |(.., log)| *log);
        for (knobs, row, log) in rows {
            values.extend_from_slice(knobs);
            values.extend(row.task.features().iter().map(|(_, value)| *value));
            targets.push(log - base);
        }
    }
    let columns = space.knobs().len() + wanted.len();
    let params = Params { trees: 150, leaves_max: 24, rows_part: 0.8, seed, ..Params::default() };
    Model::fit(&values, columns, &targets, &params).ok()
}
