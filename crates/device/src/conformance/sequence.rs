//! Cases of operators that run over sequences.

use hetra_tensor::Tensor;

use super::Case;
use super::random::{Argument, Random, live, node, weight};

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

/// Layers in every direction, with and without each optional input.
pub(super) fn recurrent(random: &Random, cases: &mut Vec<Case>) {
    for (op, gates, outputs) in [("LSTM", 4, 3), ("GRU", 3, 2), ("RNN", 1, 2)] {
        for (direction, directions) in [("forward", 1), ("reverse", 1), ("bidirectional", 2)] {
            let (steps, batch) = (random.pick(&[1, 2, 5]), random.pick(&[1, 3]));
            let (input, hidden) = (random.pick(&[1, 4, 19]), random.pick(&[1, 5, 16, 33]));
            let units = gates * hidden;
            let mut layer = node(op).with("direction", direction);
            layer.attrs.set("hidden_size", hidden as i64);
            if op == "GRU" {
                layer.attrs.set("linear_before_reset", random.below(2) as i64);
            }
            let mut x = small(random, &[steps, batch, input]);
            if let (Ok([first, ..]), "RNN") = (x.as_mut_slice::<f32>(), op) {
                let functions = (0..directions).map(|_| random.pick(&["Relu", "Tanh"]).to_string());
                layer.attrs.set("activations", functions.collect::<Vec<_>>());
                *first = random.pick(&[f32::NAN, 0.5]);
            }
            let maybe = |argument: Argument| match random.below(2) {
                0 => (None, false),
                _ => argument,
            };
            let w = small(random, &[directions, units, input]);
            let r = small(random, &[directions, units, hidden]);
            let matrix = |tensor| if random.below(4) == 0 { live(tensor) } else { weight(tensor) };
            let lengths: Vec<i32> = (0..batch).map(|_| random.below(steps + 1) as i32).collect();
            let state = || live(random.floats(&[directions, batch, hidden]));
            let mut arguments = vec![
                live(x),
                matrix(w),
                matrix(r),
                maybe(weight(random.floats(&[directions, 2 * units]))),
                maybe(live(Tensor::vector(&lengths))),
                maybe(state()),
            ];
            if op == "LSTM" {
                arguments.push(maybe(state()));
                arguments.push(maybe(weight(random.floats(&[directions, 3 * hidden]))));
            }
            cases.push(Case::new(op, layer, arguments, outputs));
        }
    }
}

/// Small numbers: gates that are almost shut leave an output of rounding errors.
fn small(random: &Random, shape: &[usize]) -> Tensor {
    let mut tensor = random.floats(shape);
    if let Ok(values) = tensor.as_mut_slice::<f32>() {
        values.iter_mut().for_each(|value| *value *= 0.3);
    }
    tensor
}
