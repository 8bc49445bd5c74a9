//! Cases of sums of products.

use std::collections::BTreeMap;

use super::Case;
use super::random::{Random, live, node};

/// Products of two and more operands, outer products, sums, transposes, broadcasting, diagonals.
const EQUATIONS: &[&str] = &[
    "bhqd,bhkd->bhqk",
    "bhqk,bkhd->bqhd",
    "bqhd,bkhd->bhqk",
    "ij,jk->ki",
    "ij,kj",
    "b...i,b...i->b...",
    "...ij,...jk->...ik",
    "ijk,l->iljk",
    "abc,cd,dea->be",
    "ab,bc,de->ace",
    "abc->ca",
    "abcd->bd",
    "aab,bc->ac",
];

/// One case of each equation.
pub(super) fn einsums(random: &Random, cases: &mut Vec<Case>) {
    for equation in EQUATIONS {
        let mut extents = BTreeMap::new();
        let terms = equation.split("->").next().unwrap_or_default().split(',');
        let operands = terms.map(|term| {
            let mut shape = Vec::new();
            for label in term.replace("...", ".").chars() {
                let extent = *extents.entry(label).or_insert_with(|| random.pick(&[1, 3, 4, 19]));
                // Hidden axes broadcast.
                shape.push(if label == '.' { random.pick(&[1, extent]) } else { extent });
            }
            live(random.floats(&shape))
        });
        let operands = operands.collect();
        let einsum = node("Einsum").with("equation", *equation);
        cases.push(Case::new(equation, einsum, operands, 1));
    }
}
