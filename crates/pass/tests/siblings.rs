//! Narrow convolutions side by side: text of graphs before and after.

mod check;

use check::{check, check_last, check_unclaimed};
use expect_test::expect;

const HEADS: &str = r#"graph "heads" (%x: f32[1,16,4,5]) {
    const %w1 = f32[1,16,1,1] [1.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 0.0, 1.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 0.0]
    const %w2 = f32[2,16,1,1] [0.5, -1.0, 2.0, 1.0, 1.0, -1.0, 0.5, 3.0, 2.0, -2.0, 1.0, 0.5, 1.0, -1.0, 2.0, 0.0, 2.0, -1.0, 1.0, 1.5, 1.5, -1.0, 2.0, 0.0, 1.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 1.0]
    const %b2 = f32[2] [0.5, -1.0]
    const %d1 = f32[1,1,1,3] [1.0, -2.0, 3.0]
    const %d2 = f32[2,1,1,3] [1.0, 0.5, -1.0, 2.0, 1.0, 3.0]
    const %c1 = f32[1] [2.0]
    const %c2 = f32[2] [0.5, 1.5]
    %a = Conv "score" (%x, %w1)
    %b = Conv "box" (%x, %w2, %b2)
    %c = Conv "score2" (%a, %d1, %c1) {pads = [0, 1, 0, 1]}
    %d = Conv "box2" (%b, %d2, %c2) {group = 2, pads = [0, 1, 0, 1]}
    %e = Abs(%c)
    return (%e, %d)
}"#;

#[test]
fn heads_of_few_channels_are_one_and_so_is_what_follows_channel_by_channel() {
    check(
        "siblings",
        HEADS,
        expect![[r#"
            graph "heads" (%x: f32[1,16,4,5]) {
              const %a.weights = f32[3,16,1,1] ..
              const %a.bias = f32[3] [0.0, 0.5, -1.0]
              const %c.weights = f32[3,1,1,3] ..
              const %c.bias = f32[3] [2.0, 0.5, 1.5]
              const %c.channels = i64[2] [1, 2]
              %a.all: f32[1,3,4,5] = Conv "score" (%x, %a.weights, %a.bias)
              %c.all: f32[1,3,4,5] = Conv "score2" (%a.all, %c.weights, %c.bias) {group = 3, pads = [0, 1, 0, 1]}
              %c: f32[1,1,4,5], %d: f32[1,2,4,5] = Split(%c.all, %c.channels) {axis = 1}
              %e: f32[1,1,4,5] = Abs(%c)
              return (%e, %d)
            }
            siblings: joined 2 narrow convolutions at score
            siblings: joined 2 narrow convolutions at score2
        "#]],
    );
    check_last(
        "siblings",
        HEADS,
        expect![[r#"
            graph "heads" (%x: f32[1,16,4,5]) {
              const %a.weights = f32[3,16,1,1] ..
              const %a.bias = f32[3] [0.0, 0.5, -1.0]
              const %c.weights = f32[3,1,1,3] ..
              const %c.bias = f32[3] [2.0, 0.5, 1.5]
              const %c.channels = i64[2] [1, 2]
              const %shape = i64[4] [1, 1, 4, 5]
              %v21: f32[1,4,5,3] = hetra.ConvLast "score" (%x, %a.weights, %a.bias) {first_input_plain = 1}
              %v22: f32[1,4,5,3] = hetra.ConvLast "score2" (%v21, %c.weights, %c.bias) {group = 3, pads = [0, 1, 0, 1]}
              %v25: f32[1,4,5,1], %v26: f32[1,4,5,2] = Split(%v22, %c.channels) {axis = 3}
              %v27: f32[1,4,5,1] = Abs(%v25)
              %e: f32[1,1,4,5] = Reshape(%v27, %shape)
              %d: f32[1,2,4,5] = Transpose(%v26) {perm = [0, 3, 1, 2]}
              return (%e, %d)
            }
            siblings: joined 2 narrow convolutions at score
            siblings: joined 2 narrow convolutions at score2
        "#]],
    );
    check_unclaimed(HEADS, "Split");
}

/// Outputs of the graph and values with other readers are parts of the split.
#[test]
fn what_is_read_elsewhere_stays_there() {
    check(
        "siblings",
        r#"graph "g" (%x: f32[n,16,4]) {
            const %w1 = f32[1,16,1] [1.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 0.0, 1.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 0.0]
            const %w2 = f32[1,16,1] [2.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 0.0, 1.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 0.0]
            const %d = f32[1,1,1] [2.0]
            %a = Conv "a" (%x, %w1)
            %b = Conv "b" (%x, %w2)
            %c = Relu(%a)
            %d1 = Conv "d" (%b, %d)
            %e = Add(%b, %d1)
            return (%a, %c, %e)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[n,16,4]) {
              const %d = f32[1,1,1] [2.0]
              const %a.weights = f32[2,16,1] ..
              const %a.bias = f32[2] [0.0, 0.0]
              const %a.channels = i64[2] [1, 1]
              %a.all: f32[n,2,4] = Conv "a" (%x, %a.weights, %a.bias)
              %a: f32[n,1,4], %b: f32[n,1,4] = Split(%a.all, %a.channels) {axis = 1}
              %c: f32[n,1,4] = Relu(%a)
              %e: f32[n,1,4] = com.microsoft.FusedConv "d" (%b, %d, _, %b)
              return (%a, %c, %e)
            }
            siblings: joined 2 narrow convolutions at a
        "#]],
    );
}

/// Other windows, other activations, wide ones, groups, weights that are not constant, and sums of
/// few terms.
#[test]
fn others_stay_apart() {
    check(
        "siblings",
        r#"graph "g" (%x: f32[1,16,4,4], %w: f32[1,16,1,1], %z: f32[1,2,4,4]) {
            const %w1 = f32[1,16,1,1] [1.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 0.0, 1.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 0.0]
            const %w2 = f32[1,16,1,1] [2.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 0.0, 1.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 0.0]
            const %w3 = f32[2,8,1,1] [3.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 0.0, 1.0, -2.0, 3.0, 0.5, 1.5, -1.0, 2.0, 0.0]
            const %few1 = f32[1,2,1,1] [1.0, 2.0]
            const %few2 = f32[1,2,1,1] [2.0, 3.0]
            %a = Conv "a" (%x, %w1)
            %b = Conv "b" (%x, %w2) {pads = [1, 1, 1, 1]}
            %c = Conv "c" (%x, %w2)
            %d = Relu(%c)
            %e = Conv "e" (%x, %w3) {group = 2}
            %f = Conv "f" (%x, %w)
            %g = Conv "g" (%z, %few1)
            %h = Conv "h" (%z, %few2)
            return (%a, %b, %d, %e, %f, %g, %h)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,16,4,4], %w: f32[1,16,1,1], %z: f32[1,2,4,4]) {
              const %w1 = f32[1,16,1,1] ..
              const %w2 = f32[1,16,1,1] ..
              const %w3 = f32[2,8,1,1] ..
              const %few1 = f32[1,2,1,1] [1.0, 2.0]
              const %few2 = f32[1,2,1,1] [2.0, 3.0]
              %a: f32[1,1,4,4] = Conv "a" (%x, %w1)
              %b: f32[1,1,6,6] = Conv "b" (%x, %w2) {pads = [1, 1, 1, 1]}
              %d: f32[1,1,4,4] = com.microsoft.FusedConv "c" (%x, %w2) {activation = "Relu"}
              %e: f32[1,2,4,4] = Conv "e" (%x, %w3) {group = 2}
              %f: f32[1,1,4,4] = Conv "f" (%x, %w)
              %g: f32[1,1,4,4] = Conv "g" (%z, %few1)
              %h: f32[1,1,4,4] = Conv "h" (%z, %few2)
              return (
                %a,
                %b,
                %d,
                %e,
                %f,
                %g,
                %h,
              )
            }
        "#]],
    );
}
