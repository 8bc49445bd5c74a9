//! What it takes to begin and to end a part, beside its work.
//!
//! A task that is run by itself takes more than it takes within a longer part: the part is begun,
//! and what it reads and writes is brought into the order that the outside wants, where its
//! kernels have another. Two tasks behind each other that are run as one save that once: what they
//! take less is found for some pairs of them. (A time for each byte beside it was tried: what is
//! fitted to so few pairs follows their noise, and sums of tasks were further off.)

use std::collections::BTreeMap;

use hetra_ir::ValueId;
use hetra_pass::{extract, leaving};
use hetra_tensor::Value;

use crate::placing::accept::Sample;
use crate::placing::costs::CostSource;
use crate::placing::planner::{Cost, Planner};
use crate::placing::tasks::{Task, Tasks};
use crate::placing::trial::{Found, OWN_MIN, TaskForm};

/// Most pairs that are run.
const PAIRS: usize = 6;

impl Planner<'_> {
    /// Seconds that a part takes on each device beside its work, by the costs of tasks that are run
    /// by themselves; `env` has the values that are known.
    pub(super) fn seams(
        &mut self,
        tasks: &Tasks,
        (costs, sources): (&[Vec<Cost>], &[Vec<CostSource>]),
        env: &BTreeMap<ValueId, Value>,
    ) -> Vec<f64> {
        let mut saved = vec![Vec::new(); self.devices.len()];
        for pair in pairs(tasks, costs) {
            let both = self.joined(tasks, pair);
            let form = TaskForm::of(&both, &tasks.types, &self.graph);
            for (device, saved) in saved.iter_mut().enumerate() {
                let [first, second] = [0, 1].map(|more| costs[pair + more][device].as_ref());
                let (Ok(first), Ok(second)) = (first, second) else { continue };
                // Of guesses the difference says nothing.
                let timed = [CostSource::Measured, CostSource::Kept];
                if !(0..2).all(|more| timed.contains(&sources[pair + more][device])) {
                    continue;
                }
                let kept = form
                    .as_ref()
                    .and_then(|form| self.ledger.known(device, &form.key, &form.parts))
                    .filter(|(_, source)| *source == CostSource::Kept);
                let known = kept.map(|(seconds, source)| Found::Known(seconds, source));
                let ran = both_values(&both, env);
                // What it gives was looked at in its halves.
                let ran = ran.as_ref().filter(|_| known.is_none());
                let found = known.unwrap_or(Found::Open);
                self.of += usize::from(ran.is_some());
                if let (Ok(seconds), _) = self.found(&both, found, device, ran, form.as_ref()) {
                    saved.push(first + second - seconds);
                }
            }
        }
        saved.into_iter().map(|saved| Sample::of(saved).median.max(0.0)).collect()
    }

    /// A task and the one behind it as one.
    fn joined(&self, tasks: &Tasks, first: usize) -> Task {
        let one = |&task: &usize| if task == first + 1 { first } else { task };
        let of: Vec<usize> = tasks.of.iter().map(one).collect();
        let two = [first, first + 1].map(|at| &tasks.all[at]);
        let mut nodes = two.map(|task| task.nodes.clone()).concat();
        nodes.sort_unstable();
        let extract = extract(&self.graph, &nodes, &leaving(&self.graph, &of));
        Task { nodes, extract, ops: two.iter().map(|task| task.ops).sum() }
    }
}

/// What a task takes within a part, of what it takes by itself: some of it in any case. The first
/// part on the host begins a run, which takes what it takes.
pub(super) fn within((task, device): (usize, usize), seam_s: f64, alone_s: f64) -> f64 {
    let seam_s = if (task, device) == (0, 0) { 0.0 } else { seam_s };
    (alone_s - seam_s).max(OWN_MIN * alone_s)
}

/// The first tasks of the pairs that are run: the shortest, by what they take on the host.
fn pairs(tasks: &Tasks, costs: &[Vec<Cost>]) -> Vec<usize> {
    let passes = |&first: &usize| {
        let [maker, reader] = [first, first + 1].map(|at| &tasks.all[at].extract);
        maker.outputs.iter().any(|id| reader.inputs.contains(id))
    };
    let of = |at: usize| costs[at][0].as_ref().copied().unwrap_or(f64::INFINITY);
    let mut all: Vec<usize> = (0..tasks.all.len().saturating_sub(1)).filter(passes).collect();
    all.sort_by(|&a, &b| (of(a) + of(a + 1)).total_cmp(&(of(b) + of(b + 1))));
    all.truncate(PAIRS);
    all
}

/// What a task reads and gives, where all of it is known.
fn both_values(task: &Task, env: &BTreeMap<ValueId, Value>) -> Option<(Vec<Value>, Vec<Value>)> {
    let values = |ids: &[ValueId]| -> Option<Vec<Value>> {
        ids.iter().map(|id| env.get(id).cloned()).collect()
    };
    Some((values(&task.extract.inputs)?, values(&task.extract.outputs)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_left_of_what_is_short() {
        assert_eq!(within((1, 0), 1e-5, 5e-5), 4e-5);
        assert_eq!(within((0, 0), 1e-5, 5e-5), 5e-5);
        assert_eq!(within((0, 1), 1e-5, 5e-5), 4e-5);
        assert_eq!(within((3, 1), 1.0, 2e-5), 2e-5 * OWN_MIN);
    }
}
