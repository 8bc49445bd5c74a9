//! The table of all passes, in the order in which they run: the only place that lists them.

use crate::optimise::Pass;

/// Every pass, in order. Quantised forms are found before constants are folded: folding would
/// turn integer weights into floats.
pub static PASSES: &[&Pass] = &[
    &crate::noop::NOOP,
    &crate::widen::WIDEN,
    &crate::quant_move::QUANT_MOVE,
    &crate::quant::QUANT,
    &crate::code_table::CODE_TABLE,
    &crate::fold::FOLD,
    &crate::branch::BRANCH,
    &crate::dead::DEAD_CODE,
    &crate::cse::CSE,
    &crate::layout::LAYOUT,
    &crate::spelling::SPELLING,
    &crate::one_hot::ONE_HOT,
    &crate::activation::ACTIVATION,
    &crate::norm::LAYER_NORM,
    &crate::attention::ATTENTION,
    &crate::pad::PAD,
    &crate::space_to_depth::SPACE_TO_DEPTH,
    &crate::channels::CONV_BATCHNORM,
    &crate::channels::CONV_BIAS,
    &crate::conv::CONV_RESIDUAL,
    &crate::conv::CONV_ACTIVATION,
    &crate::matmul::MATMUL_OPERANDS,
    &crate::matmul::MATMUL_SCALE,
    &crate::matmul::MATMUL_BIAS,
    &crate::matmul::MATMUL_ACTIVATION,
    &crate::scale::ACTIVATION_SCALE,
    &crate::norm::SKIP_LAYER_NORM,
    &crate::siblings::SIBLINGS,
    &crate::shuffle::SHUFFLE,
    &crate::channels_last::CHANNELS_LAST,
    &crate::fuse::FUSE,
];

/// Of these, the ones that run once, when the others find nothing more: they know only the forms
/// of before. After each of them the passes of [`TIDYING`] run.
pub(crate) static FINAL: &[&Pass] = &[
    &crate::siblings::SIBLINGS,
    &crate::shuffle::SHUFFLE,
    &crate::channels_last::CHANNELS_LAST,
    &crate::fuse::FUSE,
];

/// The passes that remove what others have made superfluous.
pub(crate) static TIDYING: &[&Pass] =
    &[&crate::fold::FOLD, &crate::dead::DEAD_CODE, &crate::cse::CSE];

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
