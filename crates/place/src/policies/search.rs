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
    Some(Annealing::new(table, goal, start, budget.seed).run(budget))
}
