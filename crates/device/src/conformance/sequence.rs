//! Cases of operators that run over sequences.

use super::Case;
use super::random::{Random, live, node};

/// Queries of four axes, with masks that broadcast, close keys, and close all keys of a query.
pub(super) fn attentions(random: &Random, cases: &mut Vec<Case>) {
    for (mask_heads, mask_queries) in [(false, false), (false, true), (true, true)] {
        let (batch, kv_heads, share) =
            (random.pick(&[1, 2]), random.pick(&[1, 3]), random.pick(&[1, 2]));
        let (queries, keys) = (random.pick(&[1, 4, 7, 70]), random.pick(&[1, 5, 130]));
        let (width, v_width) = (random.pick(&[1, 8, 19]), random.pick(&[1, 8, 33]));
        let heads = kv_heads * share;
        let q = random.floats(&[batch, heads, queries, width]);
        let k = random.floats(&[batch, kv_heads, keys, width]);
        let v = random.floats(&[batch, kv_heads, keys, v_width]);
        let extent = |kept: bool, extent: usize| if kept { extent } else { 1 };
        let shape = [1, extent(mask_heads, heads), extent(mask_queries, queries), keys];
        let mut mask = random.floats(&shape);
        if let Ok(values) = mask.as_mut_slice::<f32>() {
            values.iter_mut().step_by(3).for_each(|value| *value = f32::NEG_INFINITY);
            values[..keys].fill(f32::NEG_INFINITY);
        }
        let attention = node("Attention").with("scale", 0.4f32);
        cases.push(Case::new(
            "Attention",
            attention,
            vec![live(q), live(k), live(v), live(mask)],
            1,
        ));
    }
}
