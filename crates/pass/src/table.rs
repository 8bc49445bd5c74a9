//! The table of all passes, in the order in which they run: the only place that lists them.

use crate::optimise::Pass;

/// Every pass, in order. Quantised forms are found before constants are folded: folding would
/// turn integer weights into floats.
pub static PASSES: &[&Pass] = &[
    &crate::noop::NOOP,
    &crate::fold::FOLD,
    &crate::branch::BRANCH,
    &crate::dead::DEAD_CODE,
    &crate::cse::CSE,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_documented() {
        let names: std::collections::BTreeSet<_> = PASSES.iter().map(|pass| pass.name).collect();
        assert_eq!(names.len(), PASSES.len());
        assert!(PASSES.iter().all(|pass| pass.doc.ends_with('.')));
    }
}
