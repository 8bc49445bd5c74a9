//! Narrow convolutions side by side: text of graphs before and after.

mod check;

use check::{check, check_last, check_unclaimed, optimised};
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

/// Each pair differs from one that is joined in one thing.
#[test]
fn others_stay_apart() {
    let numbers = |count: usize| {
        let all: Vec<String> = (0..count).map(|i| format!("{}.5", i % 7)).collect();
        all.join(", ")
    };
    let text = |weights: &str, count: usize, one: &str, two: &str| {
        let (w, v) = (numbers(count), numbers(count).replace("0.5", "1.5"));
        format!(
            r#"graph "g" (%x: f32[1,16,4,4], %z: f32[1,1,4,4], %y: f32[1,32,4,4]) {{
                const %w = f32[{weights}] [{w}]
                const %v = f32[{weights}] [{v}]
                %a = {one}
                %b = {two}
                return (%a, %b)
            }}"#
        )
    };
    let fused = "com.microsoft.FusedConv";
    let few = "1,16,1,1";
    let relu = format!("{fused}(%x, %w) {{activation = \"Relu\"}}");
    let tanh = format!("{fused}(%x, %v) {{activation = \"Tanh\"}}");
    let leaky = |alpha: f32| {
        let of = if alpha == 0.1 { "%w" } else { "%v" };
        format!("{fused}(%x, {of}) {{activation = \"LeakyRelu\", activation_params = [{alpha:?}]}}")
    };
    let summed = format!("{fused}(%x, %w, _, %z) {{activation = \"Relu\"}}");
    let also = format!("{fused}(%x, %v, _, %z) {{activation = \"Relu\"}}");
    let plain = ["Conv(%x, %w)", "Conv(%x, %v)"];
    let grouped = ["Conv(%y, %w) {group = 2}", "Conv(%y, %v) {group = 2}"];
    let padded = "Conv(%x, %v) {pads = [1, 1, 1, 1]}";
    let joined = |text: &str| {
        let (_, report) = optimised(text);
        report.pass("siblings").is_some_and(|own| !own.rewrites.is_empty())
    };
    assert!(joined(&text(few, 16, plain[0], plain[1])));
    assert!(joined(&text("8,16,1,1", 128, plain[0], plain[1])));
    let check = |weights: &str, count: usize, one: &str, two: &str| {
        assert!(!joined(&text(weights, count, one, two)), "{one} and {two} with {weights}");
    };
    check(few, 16, plain[0], padded);
    check("16,16,1,1", 256, plain[0], plain[1]);
    check("9,16,1,1", 144, plain[0], plain[1]);
    check("2,16,1,1", 32, grouped[0], grouped[1]);
    check(few, 16, &relu, &tanh);
    check(few, 16, &leaky(0.1), &leaky(0.2));
    check(few, 16, &summed, &also);
    check("1,1,1,1", 1, "Conv(%z, %w)", "Conv(%z, %v)");
    assert!(joined(&text(few, 16, &leaky(0.1), &leaky(0.1).replace("%w", "%v"))));
}

/// Weights of no elements bound nothing.
#[test]
fn weights_of_nothing_are_left_alone() {
    let before = check::graph(
        r#"graph "g" (%x: f32[..]) {
            const %w = f32[1,1,0] []
            const %v = f32[1099511627776,1,0] []
            %p, %q = Split(%x) {axis = 1, num_outputs = 2}
            %a = Conv(%p, %w)
            %b = Conv(%q, %v) {group = 1099511627776}
            return (%a, %b)
        }"#,
    );
    let (_, report) = hetra_pass::optimise(&before, &hetra_pass::Options::default());
    assert!(report.pass("siblings").is_some_and(|own| own.rewrites.is_empty()));
}
