//! The search from what the rules found.

use crate::anneal::{Annealing, Budget};
use crate::goal::Goal;
use crate::schedule::Placement;
use crate::table::Table;

/// The best of what annealing makes of the best start.
pub(crate) fn search(
    table: &Table<'_>,
    goal: &Goal,
    starts: &[&Placement],
    budget: &Budget<'_>,
) -> Option<Placement> {
    let start = starts.first()?;
    if table.tasks() == 0 {
        return Some((*start).clone());
    }
    let found = Annealing::new(table, goal, start, budget.seed).run(budget);
    // It evens out what is not busiest, too, and may have paid for that.
    let score = |placement: &Placement| goal.score(&crate::measure(table.problem, placement));
    Some(if score(&found) <= score(start) { found } else { (*start).clone() })
}
