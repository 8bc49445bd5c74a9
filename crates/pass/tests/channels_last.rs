//! Channels last: text of graphs before and after.

mod check;

use check::check_last;
use expect_test::expect;

#[test]
fn a_chain_of_convolutions_is_turned_at_its_ends_only() {
    check_last(
        "channels_last",
        r#"graph "g" (%x: f32[1,2,5,5]) {
            const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
            const %s = f32[2,1,1] [0.5, 2.0]
            %a = Conv "a" (%x, %w)
            %b = Abs(%a)
            %c = Mul(%b, %s)
            %d = MaxPool "pool" (%c) {kernel_shape = [2, 2]}
            %e = Conv "e" (%d, %w)
            %f = GlobalAveragePool "mean" (%e)
            %g = Flatten(%f)
            return (%g, %d)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,2,5,5]) {
              const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
              const %s.last = f32[1,1,1,2] [0.5, 2.0]
              const %shape = i64[2] [1, 2]
              %v10: f32[1,5,5,2] = hetra.ConvLast "a" (%x, %w) {first_input_plain = 1}
              %v11: f32[1,5,5,2] = Abs(%v10)
              %v13: f32[1,5,5,2] = Mul(%v11, %s.last)
              %v14: f32[1,4,4,2] = hetra.MaxPoolLast "pool" (%v13) {kernel_shape = [2, 2]}
              %v16: f32[1,4,4,2] = hetra.ConvLast "e" (%v14, %w)
              %v18: f32[1,1,1,2] = hetra.GlobalAveragePoolLast "mean" (%v16)
              %d: f32[1,2,4,4] = Transpose(%v14) {perm = [0, 3, 1, 2]}
              %g: f32[1,2] = Reshape(%v18, %shape)
              return (%g, %d)
            }
            channels_last: channels last at a
            channels_last: channels last at pool
            channels_last: channels last at e
            channels_last: channels last at mean
        "#]],
    );
}

#[test]
fn a_normalisation_of_constants_is_a_product_and_a_sum() {
    check_last(
        "channels_last",
        r#"graph "g" (%x: f32[1,2,5,5], %m: f32[2]) {
            const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
            const %s = f32[2] [1.0, 2.0]
            const %b = f32[2] [0.5, -0.5]
            const %v = f32[2] [1.0, 4.0]
            %a = Conv "a" (%x, %w)
            %p = MaxPool "pool" (%a) {kernel_shape = [2, 2]}
            %n = BatchNormalization "n" (%p, %s, %b, %b, %v) {epsilon = 0.0}
            %c = Conv "c" (%n, %w)
            %q = MaxPool "other" (%c) {kernel_shape = [2, 2]}
            %o = BatchNormalization "open" (%q, %s, %b, %m, %v)
            return (%o)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,2,5,5], %m: f32[2]) {
              const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
              const %s = f32[2] [1.0, 2.0]
              const %b = f32[2] [0.5, -0.5]
              const %v = f32[2] [1.0, 4.0]
              const %scale = f32[1,1,1,2] [1.0, 1.0]
              const %shift = f32[1,1,1,2] [0.0, 0.0]
              %v12: f32[1,5,5,2] = hetra.ConvLast "a" (%x, %w) {first_input_plain = 1}
              %v13: f32[1,4,4,2] = hetra.MaxPoolLast "pool" (%v12) {kernel_shape = [2, 2]}
              %v18: f32[1,4,4,2] = Mul(%v13, %scale)
              %v17: f32[1,4,4,2] = Add "n" (%v18, %shift)
              %v19: f32[1,4,4,2] = hetra.ConvLast "c" (%v17, %w)
              %v21: f32[1,3,3,2] = hetra.MaxPoolLast "other" (%v19) {kernel_shape = [2, 2]}
              %q: f32[1,2,3,3] = Transpose(%v21) {perm = [0, 3, 1, 2]}
              %o: f32[1,2,3,3] = BatchNormalization "open" (%q, %s, %b, %m, %v)
              return (%o)
            }
            channels_last: channels last at a
            channels_last: channels last at pool
            channels_last: channels last at c
            channels_last: channels last at other
        "#]],
    );
}

#[test]
fn axes_are_renamed() {
    check_last(
        "channels_last",
        r#"graph "g" (%x: f32[1,4,4,6]) {
            const %w = f32[4,4,1,1] [-5.0, 2.0, -2.0, 5.0, 1.0, -3.0, 4.0, 0.0, -4.0, 3.0, -1.0, -5.0, 2.0, -2.0, 5.0, 1.0]
            const %from = i64[1] [1]
            const %to = i64[1] [3]
            const %axis = i64[1] [1]
            const %spatial = i64[2] [2, 3]
            const %pads = i64[8] [0, 0, 1, 2, 0, 0, 3, 4]
            %a = Conv "a" (%x, %w)
            %b = Slice(%a, %from, %to, %axis)
            %c, %d = Split(%a) {axis = 1, num_outputs = 2}
            %e = Concat(%b, %c, %d) {axis = -3}
            %f = Pad(%e, %pads)
            %g = Softmax(%f) {axis = 1}
            %h = ReduceMax(%g, %spatial) {keepdims = 0}
            %i = ReduceSum(%g, %axis)
            return (%h, %i)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,4,4,6]) {
              const %w = f32[4,4,1,1] ..
              const %from = i64[1] [1]
              const %to = i64[1] [3]
              const %axes#4 = i64[1] [3]
              const %pads = i64[8] [0, 1, 2, 0, 0, 3, 4, 0]
              const %axes#6 = i64[2] [1, 2]
              const %axes#7 = i64[1] [3]
              const %shape = i64[4] [1, 1, 8, 12]
              %v16: f32[1,4,6,4] = hetra.ConvLast "a" (%x, %w) {first_input_plain = 1}
              %v19: f32[1,4,6,2] = Slice(%v16, %from, %to, %to)
              %v21: f32[1,4,6,2], %v22: f32[1,4,6,2] = Split(%v16) {axis = 3, num_outputs = 2}
              %v26: f32[1,4,6,6] = Concat(%v19, %v21, %v22) {axis = 3}
              %v29: f32[1,8,12,6] = Pad(%v26, %pads)
              %v31: f32[1,8,12,6] = Softmax(%v29) {axis = 3}
              %h: f32[1,6] = ReduceMax(%v31, %axes#6) {keepdims = 0}
              %v36: f32[1,8,12,1] = ReduceSum(%v31, %to) {keepdims = 1}
              %i: f32[1,1,8,12] = Reshape(%v36, %shape)
              return (%h, %i)
            }
            channels_last: channels last at a
        "#]],
    );
}

#[test]
fn channels_are_shuffled_by_one_transpose() {
    check_last(
        "channels_last",
        r#"graph "g" (%x: f32[1,4,3,5]) {
            const %w = f32[4,4,1,1] [-5.0, 2.0, -2.0, 5.0, 1.0, -3.0, 4.0, 0.0, -4.0, 3.0, -1.0, -5.0, 2.0, -2.0, 5.0, 1.0]
            const %groups = i64[5] [1, 2, 2, 3, 5]
            const %whole = i64[4] [1, 4, 3, 5]
            %a = Conv "a" (%x, %w)
            %b = Reshape(%a, %groups)
            %c = Transpose(%b) {perm = [0, 2, 1, 3, 4]}
            %d = Reshape(%c, %whole)
            %e = Conv "e" (%d, %w)
            %f = Transpose(%e) {perm = [0, 2, 3, 1]}
            return (%f)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,4,3,5]) {
              const %w = f32[4,4,1,1] ..
              const %shape#2 = i64[5] [1, 3, 5, 2, 2]
              const %shape#3 = i64[4] [1, 3, 5, 4]
              %v10: f32[1,3,5,4] = hetra.ConvLast "a" (%x, %w) {first_input_plain = 1}
              %v12: f32[1,3,5,2,2] = Reshape(%v10, %shape#2)
              %v13: f32[1,3,5,2,2] = Transpose(%v12) {perm = [0, 1, 2, 4, 3]}
              %v15: f32[1,3,5,4] = Reshape(%v13, %shape#3)
              %f: f32[1,3,5,4] = hetra.ConvLast "e" (%v15, %w)
              return (%f)
            }
            channels_last: channels last at a
            channels_last: channels last at e
        "#]],
    );
}

#[test]
fn open_extents_and_what_needs_the_order_of_onnx() {
    check_last(
        "channels_last",
        r#"graph "g" (%x: f32[n,2,h,w]) {
            const %k = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
            const %flat = i64[3] [0, 2, -1]
            const %axis = i64[] [3]
            %a = Conv "a" (%x, %k)
            %s = Shape(%a)
            %b = Reshape(%a, %flat)
            %c = CumSum(%a, %axis)
            return (%s, %b, %c)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[n,2,h,w]) {
              const %k = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
              const %flat = i64[3] [0, 2, -1]
              const %axis = i64[] [3]
              const %order = i64[4] [0, 3, 1, 2]
              %v8: f32[n,h,w,2] = hetra.ConvLast "a" (%x, %k) {first_input_plain = 1}
              %v9: i64[4] = Shape(%v8)
              %s: i64[4] = Gather(%v9, %order)
              %a: f32[n,2,h,w] = Transpose(%v8) {perm = [0, 3, 1, 2]}
              %b: f32[n,2,?] = Reshape(%a, %flat)
              %c: f32[n,2,h,w] = CumSum(%a, %axis)
              return (%s, %b, %c)
            }
            channels_last: channels last at a
        "#]],
    );
}

/// Before version 13 it is of all channels and pixels together.
#[test]
fn an_old_softmax_is_not_of_one_axis() {
    check_last(
        "channels_last",
        r#"graph "g" (%x: f32[1,4,2,2]) {
            const %w = f32[4,4,1,1] [-5.0, 2.0, -2.0, 5.0, 1.0, -3.0, 4.0, 0.0, -4.0, 3.0, -1.0, -5.0, 2.0, -2.0, 5.0, 1.0]
            %a = Conv "a" (%x, %w)
            %b = Softmax[v11](%a) {axis = 1}
            %c = Conv "c" (%b, %w)
            return (%c)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,4,2,2]) {
              const %w = f32[4,4,1,1] ..
              %v5: f32[1,2,2,4] = hetra.ConvLast "a" (%x, %w) {first_input_plain = 1}
              %a: f32[1,4,2,2] = Transpose(%v5) {perm = [0, 3, 1, 2]}
              %b: f32[1,4,2,2] = Softmax[v11](%a) {axis = 1}
              %v6: f32[1,2,2,4] = hetra.ConvLast "c" (%b, %w) {first_input_plain = 1}
              %c: f32[1,4,2,2] = Transpose(%v6) {perm = [0, 3, 1, 2]}
              return (%c)
            }
            channels_last: channels last at a
            channels_last: channels last at c
        "#]],
    );
}
