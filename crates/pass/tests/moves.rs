//! What moves elements before a convolution or between two: text of graphs before and after.

mod check;

use check::{check, check_last, check_unclaimed};
use expect_test::expect;

/// A shuffle of channels by two groups, as most exporters write it, between joins and halves.
const SHUFFLED: &str = r#"graph "g" (%x: f32[2,3,2,2], %z: f32[2,3,2,2]) {
    const %groups = i64[5] [2, 2, 3, 2, 2]
    const %whole = i64[4] [2, 6, 2, 2]
    %a = Abs(%x)
    %b = Neg(%z)
    %c = Concat(%a, %b) {axis = 1}
    %d = Reshape(%c, %groups)
    %e = Transpose(%d) {perm = [0, 2, 1, 3, 4]}
    %f = Reshape(%e, %whole)
    %g, %h = Split "halves" (%f) {axis = 1, num_outputs = 2}
    %i = Relu(%g)
    return (%i, %h)
}"#;

#[test]
fn shuffled_channels_are_picked_in_one_step() {
    check_last(
        "shuffle",
        SHUFFLED,
        expect![[r#"
        graph "g" (%x: f32[2,3,2,2], %z: f32[2,3,2,2]) {
          %a: f32[2,3,2,2] = Abs(%x)
          %b: f32[2,3,2,2] = Neg(%z)
          %h: f32[2,3,2,2] = hetra.GatherConcat "halves" (%a, %b) {axis = 1, indices = [4, 2, 5]}
          %g: f32[2,3,2,2] = hetra.GatherConcat "halves" (%a, %b) {axis = 1, indices = [0, 3, 1]}
          %i: f32[2,3,2,2] = Relu(%g)
          return (%i, %h)
        }
        shuffle: one step for 5 that pick channels at halves
    "#]],
    );
    check_unclaimed(SHUFFLED, "hetra.GatherConcat");
}

#[test]
fn halves_of_pixels_are_no_channels() {
    check_last(
        "shuffle",
        r#"graph "g" (%x: f32[1,4,2,2]) {
            const %pairs = i64[3] [8, 2, 1]
            const %whole = i64[4] [1, 4, 2, 2]
            %a = Abs(%x)
            %b = Reshape(%a, %pairs)
            %c = Transpose(%b) {perm = [1, 0, 2]}
            %d = Reshape(%c, %whole)
            %e = Transpose(%d) {perm = [0, 1, 3, 2]}
            %f = Relu(%e)
            return (%f)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,4,2,2]) {
              const %pairs = i64[3] [8, 2, 1]
              const %whole = i64[4] [1, 4, 2, 2]
              %a: f32[1,4,2,2] = Abs(%x)
              %b: f32[8,2,1] = Reshape(%a, %pairs)
              %c: f32[2,8,1] = Transpose(%b) {perm = [1, 0, 2]}
              %d: f32[1,4,2,2] = Reshape(%c, %whole)
              %e: f32[1,4,2,2] = Transpose(%d) {perm = [0, 1, 3, 2]}
              %f: f32[1,4,2,2] = Relu(%e)
              return (%f)
            }
        "#]],
    );
}

#[test]
fn no_channels_are_picked_from_nothing() {
    let graph = check::graph(
        r#"graph "g" (%x: f32[1,4,2,2]) {
            const %groups = i64[5] [1, 2, 2, 2, 2]
            const %whole = i64[4] [1, 4, 2, 2]
            const %four = i64[1] [4]
            const %one = i64[1] [1]
            %a = Abs(%x)
            %b = Reshape(%a, %groups)
            %c = Transpose(%b) {perm = [0, 2, 1, 3, 4]}
            %d = Reshape(%c, %whole)
            %e = Slice(%d, %four, %four, %one)
            %f = Relu(%e)
            return (%f)
        }"#,
    );
    let (after, _) = hetra_pass::optimise(&graph, &hetra_pass::Options::default());
    hetra_ir::verify(&after).unwrap();
    assert!(after.nodes.iter().all(|node| !node.inputs.is_empty()));
}

#[test]
fn zeros_around_an_image_are_pads() {
    check(
        "pad",
        r#"graph "g" (%x: f32[1,2,4,5]) {
            const %w = f32[1,2,2,2] [1.0, 2.0, -1.0, 0.5, 3.0, -2.0, 1.0, 0.25]
            const %around = i64[8] [0, 0, 1, 2, 0, 0, 0, 1]
            const %wide = i64[2] [1, 0]
            const %axes = i64[1] [-1]
            const %beyond = i64[8] [0, 0, 1, 1, 0, 0, 0, 0]
            const %more = i64[8] [0, 0, 0, 1, 0, 0, 0, 0]
            const %left = i64[8] [0, 0, 0, 2, 0, 0, 0, 0]
            const %channels = i64[8] [0, 1, 0, 0, 0, 0, 0, 0]
            const %one = f32[] [1.0]
            %a = Pad(%x, %around)
            %b = Conv "conv" (%a, %w) {pads = [1, 0, 0, 0]}
            %c = Pad(%x, %wide, _, %axes)
            %d = AveragePool "mean" (%c) {kernel_shape = [2, 2]}
            %e = Pad(%x, %around, %one)
            %f = Conv "ones" (%e, %w)
            %g = Pad(%x, %channels)
            %h = AveragePool "channels" (%g) {kernel_shape = [2, 2]}
            %i = Pad(%x, %beyond)
            %j = AveragePool "beyond" (%i) {ceil_mode = 1, kernel_shape = [2, 2], strides = [2, 2]}
            %k = Pad(%x, %more)
            %l = AveragePool "uncounted" (%k) {kernel_shape = [2, 2], pads = [1, 1, 1, 1]}
            %m = Pad(%x, %left)
            %n = Conv "kept" (%m, %w)
            return (%b, %d, %f, %h, %j, %l, %n, %m)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,2,4,5]) {
              const %w = f32[1,2,2,2] [1.0, 2.0, -1.0, 0.5, 3.0, -2.0, 1.0, 0.25]
              const %around = i64[8] [0, 0, 1, 2, 0, 0, 0, 1]
              const %beyond = i64[8] [0, 0, 1, 1, 0, 0, 0, 0]
              const %more = i64[8] [0, 0, 0, 1, 0, 0, 0, 0]
              const %left = i64[8] [0, 0, 0, 2, 0, 0, 0, 0]
              const %channels = i64[8] [0, 1, 0, 0, 0, 0, 0, 0]
              const %one = f32[] [1.0]
              %b: f32[1,1,5,7] = Conv "conv" (%x, %w) {pads = [2, 2, 0, 1]}
              %d: f32[1,2,3,5] = AveragePool "mean" (%x) {count_include_pad = 1, kernel_shape = [2, 2], pads = [0, 1, 0, 0]}
              %e: f32[1,2,5,8] = Pad(%x, %around, %one)
              %f: f32[1,1,4,7] = Conv "ones" (%e, %w)
              %g: f32[1,3,4,5] = Pad(%x, %channels)
              %h: f32[1,3,3,4] = AveragePool "channels" (%g) {kernel_shape = [2, 2]}
              %i: f32[1,2,5,6] = Pad(%x, %beyond)
              %j: f32[1,2,3,3] = AveragePool "beyond" (%i) {ceil_mode = 1, kernel_shape = [2, 2], strides = [2, 2]}
              %k: f32[1,2,4,6] = Pad(%x, %more)
              %l: f32[1,2,5,7] = AveragePool "uncounted" (%k) {kernel_shape = [2, 2], pads = [1, 1, 1, 1]}
              %m: f32[1,2,4,7] = Pad(%x, %left)
              %n: f32[1,1,3,6] = Conv "kept" (%m, %w)
              return (
                %b,
                %d,
                %f,
                %h,
                %j,
                %l,
                %n,
                %m,
              )
            }
            pad: fused Pad + Conv at conv
            pad: fused Pad + AveragePool at mean
            pad: not: kept: Pad + Conv: `m` is a graph output
        "#]],
    );
}

#[test]
fn blocks_of_pixels_are_windows() {
    check(
        "space_to_depth",
        r#"graph "g" (%x: f32[1,2,4,6]) {
            const %w = f32[1,8,1,3] [1.0, 2.0, -1.0, 0.5, 3.0, -2.0, 1.0, 0.25, 1.0, 2.0, -1.0, 0.5, 3.0, -2.0, 1.0, 0.25, 1.0, 2.0, -1.0, 0.5, 3.0, -2.0, 1.0, 0.25]
            const %zero = i64[1] [0]
            const %one = i64[1] [1]
            const %two = i64[1] [2]
            const %three = i64[1] [3]
            const %far = i64[1] [9223372036854775807]
            %even = Slice(%x, %zero, %far, %two, %two)
            %odd = Slice(%x, %one, %far, %two, %two)
            %a = Slice(%even, %zero, %far, %three, %two)
            %b = Slice(%odd, %zero, %far, %three, %two)
            %c = Slice(%even, %one, %far, %three, %two)
            %d = Slice(%odd, %one, %far, %three, %two)
            %e = Concat(%a, %b, %c, %d) {axis = 1}
            %f = Conv "focus" (%e, %w) {pads = [0, 1, 0, 1], strides = [1, 2]}
            %g = SpaceToDepth(%x) {blocksize = 2}
            %h = Conv "blocks" (%g, %w)
            %i = Concat(%a, %b, %c, %c) {axis = 1}
            %j = Conv "twice" (%i, %w)
            return (%f, %h, %j)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,2,4,6]) {
              const %w = f32[1,8,1,3] ..
              const %zero = i64[1] [0]
              const %one = i64[1] [1]
              const %two = i64[1] [2]
              const %three = i64[1] [3]
              const %far = i64[1] [9223372036854775807]
              const %w.blocks#7 = f32[1,2,2,6] ..
              const %w.blocks#8 = f32[1,2,2,6] ..
              %even: f32[1,2,2,6] = Slice(%x, %zero, %far, %two, %two)
              %odd: f32[1,2,2,6] = Slice(%x, %one, %far, %two, %two)
              %a: f32[1,2,2,3] = Slice(%even, %zero, %far, %three, %two)
              %b: f32[1,2,2,3] = Slice(%odd, %zero, %far, %three, %two)
              %c: f32[1,2,2,3] = Slice(%even, %one, %far, %three, %two)
              %f: f32[1,1,2,2] = Conv "focus" (%x, %w.blocks#7) {kernel_shape = [2, 6], pads = [0, 2, 0, 2], strides = [2, 4]}
              %h: f32[1,1,2,1] = Conv "blocks" (%x, %w.blocks#8) {kernel_shape = [2, 6], pads = [0, 0, 0, 0], strides = [2, 2]}
              %i: f32[1,8,2,3] = Concat(%a, %b, %c, %c) {axis = 1}
              %j: f32[1,1,2,1] = Conv "twice" (%i, %w)
              return (%f, %h, %j)
            }
            space_to_depth: fused Concat + Conv at focus
            space_to_depth: fused SpaceToDepth + Conv at blocks
        "#]],
    );
}
