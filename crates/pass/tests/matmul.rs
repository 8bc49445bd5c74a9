//! Products of matrices and what stands around them.

mod check;

use check::{check, check_reference, check_unclaimed, optimised};
use expect_test::expect;

#[test]
fn transposes_and_factors_of_operands() {
    check(
        "matmul_operands",
        r#"graph "g" (%a: f32[2,5,4], %b: f32[2,3,5], %c: f32[3,4]) {
            const %s = f32[] [0.5]
            %bt = Transpose(%b) {perm = [0, 2, 1]}
            %at = Transpose(%a) {perm = [0, 2, 1]}
            %as = Mul(%at, %s)
            %y = MatMul "scores" (%as, %bt)
            %ct = Transpose(%c)
            %z = Gemm(%c, %ct)
            return (%y, %z)
        }"#,
        expect![[r#"
            graph "g" (%a: f32[2,5,4], %b: f32[2,3,5], %c: f32[3,4]) {
              %y: f32[2,4,3] = com.microsoft.FusedMatMul "scores" (%a, %b) {alpha = 0.5, transA = 1, transB = 1}
              %z: f32[3,3] = Gemm(%c, %c) {transB = 1}
              return (%y, %z)
            }
            matmul_operands: fused Mul + Transpose + Transpose + MatMul at scores
            matmul_operands: fused Transpose + Gemm at Gemm -> z
        "#]],
    );
}

#[test]
fn a_factor_behind_becomes_alpha() {
    check(
        "matmul_scale",
        r#"graph "g" (%a: f32[2,3,4], %b: f32[4,5]) {
            const %s = f32[] [8.0]
            %m = MatMul(%a, %b)
            %y = Div(%m, %s)
            return (%y)
        }"#,
        expect![[r#"
            graph "g" (%a: f32[2,3,4], %b: f32[4,5]) {
              %y: f32[2,3,5] = com.microsoft.FusedMatMul(%a, %b) {alpha = 0.125}
              return (%y)
            }
            matmul_scale: fused MatMul + Div at Div -> y
        "#]],
    );
}

#[test]
fn bias_and_activation() {
    let text = r#"graph "g" (%a: f32[2,3,2], %w: f32[2,2], %p: f32[3,2]) {
            const %b = f32[2] [1.0, 2.0]
            const %wide = f32[1,1,2] [1.0, 2.0]
            %m = MatMul "dense" (%a, %w)
            %n = Add(%b, %m)
            %y = Gelu(%n)
            %g = Gemm(%p, %w, %b)
            %z = Relu(%g)
            %h = MatMul(%p, %w)
            %u = Add "stretched" (%h, %wide)
            return (%y, %z, %u)
        }"#;
    check(
        "matmul_bias",
        text,
        expect![[r#"
            graph "g" (%a: f32[2,3,2], %w: f32[2,2], %p: f32[3,2]) {
              const %b = f32[2] [1.0, 2.0]
              const %wide = f32[1,1,2] [1.0, 2.0]
              %y: f32[2,3,2] = com.microsoft.FusedMatMul "dense" (%a, %w, %b) {activation = "Gelu"}
              %z: f32[3,2] = com.microsoft.FusedGemm(%p, %w, %b) {activation = "Relu"}
              %h: f32[3,2] = MatMul(%p, %w)
              %u: f32[1,3,2] = Add "stretched" (%h, %wide)
              return (%y, %z, %u)
            }
            matmul_bias: fused MatMul + Add at Add -> n
            matmul_bias: not: stretched: MatMul + Add: the bias may have another shape
        "#]],
    );
    check(
        "matmul_activation",
        text,
        expect![[r#"
            graph "g" (%a: f32[2,3,2], %w: f32[2,2], %p: f32[3,2]) {
              const %b = f32[2] [1.0, 2.0]
              const %wide = f32[1,1,2] [1.0, 2.0]
              %y: f32[2,3,2] = com.microsoft.FusedMatMul "dense" (%a, %w, %b) {activation = "Gelu"}
              %z: f32[3,2] = com.microsoft.FusedGemm(%p, %w, %b) {activation = "Relu"}
              %h: f32[3,2] = MatMul(%p, %w)
              %u: f32[1,3,2] = Add "stretched" (%h, %wide)
              return (%y, %z, %u)
            }
            matmul_activation: fused com.microsoft.FusedMatMul + Gelu at Gelu -> y
            matmul_activation: fused Gemm + Relu at Relu -> z
        "#]],
    );
    check_unclaimed(text, "com.microsoft.FusedMatMul");
    check_reference(text, "com.microsoft.FusedMatMul");
    check_unclaimed(text, "com.microsoft.FusedGemm");
}

#[test]
fn constant_weights_take_the_bias_of_a_gemm() {
    check(
        "conv_bias",
        r#"graph "g" (%a: f32[3,2], %t: f32[2,3,2]) {
            const %w = f32[2,2] [1.0, 2.0, 3.0, 4.0]
            const %b = f32[2] [1.0, 2.0]
            const %s = f32[2] [3.0, 4.0]
            %m = MatMul(%a, %w)
            %n = Mul(%m, %s)
            %y = Add(%n, %b)
            %k = MatMul(%t, %w)
            %z = Mul(%k, %s)
            return (%y, %z)
        }"#,
        expect![[r#"
            graph "g" (%a: f32[3,2], %t: f32[2,3,2]) {
              const %w.scaled = f32[2,2] [3.0, 8.0, 9.0, 16.0]
              const %w.scaled.shift = f32[2] [1.0, 2.0]
              %y: f32[3,2] = Gemm(%a, %w.scaled, %w.scaled.shift)
              %z: f32[2,3,2] = MatMul(%t, %w.scaled)
              return (%y, %z)
            }
            conv_bias: fused MatMul + Mul at Mul -> n
            conv_bias: fused MatMul + Add at Add -> y
            conv_bias: fused MatMul + Mul at Mul -> z
        "#]],
    );
}

#[test]
fn one_hot_rows_are_looked_up() {
    check(
        "one_hot",
        r#"graph "g" (%i: i32[n,1]) {
            const %count = i32[1,3] [0, 1, 2]
            const %w = f32[3,2] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
            const %b = f32[2] [0.5, -0.5]
            %e = Equal(%i, %count)
            %c = Cast(%e) {to = 1}
            %m = MatMul "embed" (%c, %w)
            %y = Add(%m, %b)
            return (%y)
        }"#,
        expect![[r#"
            graph "g" (%i: i32[n,1]) {
              const %v9 = i32[] [-1]
              const %v10 = i32[] [3]
              const %v11 = i64[1] [-1]
              const %v14 = f32[4,2] [1.5, 1.5, 3.5, 3.5, 5.5, 5.5, 0.5, -0.5]
              %v12: i32[n,1] = Clip(%i, %v9, %v10)
              %v13: i32[n] = Squeeze(%v12, %v11)
              %y: f32[n,2] = Gather "embed" (%v14, %v13)
              return (%y)
            }
            one_hot: fused a product with one-hot rows at embed
            one_hot: fused Gather + Add at Add -> y
        "#]],
    );
}

/// As XLA's exporters spell it, with an open batch.
#[test]
fn one_hot_rows_that_were_broadcast_are_looked_up() {
    check(
        "one_hot",
        r#"graph "g" (%bytes: i32[n,4]) {
            const %as = i64[3] [-1, 4, 1]
            const %count = i32[1,1,3] [0, 1, 2]
            const %w = f32[3,2] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
            const %b = f32[1,1,2] [0.5, -0.5]
            const %zero = i64[1] [0]
            const %one = i64[1] [1]
            const %inner = i32[1] [4]
            const %rows = i32[1] [3]
            %i = Reshape(%bytes, %as)
            %s = Shape(%bytes)
            %s32 = Cast(%s) {to = 6}
            %n = Slice(%s32, %zero, %one, %zero)
            %to = Concat(%n, %inner, %rows) {axis = 0}
            %to64 = Cast(%to) {to = 7}
            %wide = Expand(%i, %to64)
            %e = Equal(%wide, %count)
            %c = Cast(%e) {to = 1}
            %m = MatMul "embed" (%c, %w)
            %y = Add(%m, %b)
            return (%y)
        }"#,
        expect![[r#"
            graph "g" (%bytes: i32[n,4]) {
              const %as = i64[3] [-1, 4, 1]
              const %v21 = i32[] [-1]
              const %v22 = i32[] [3]
              const %v23 = i64[1] [-1]
              const %v26 = f32[4,2] [1.5, 1.5, 3.5, 3.5, 5.5, 5.5, 0.5, -0.5]
              %i: i32[n,4,1] = Reshape(%bytes, %as)
              %v24: i32[n,4,1] = Clip(%i, %v21, %v22)
              %v25: i32[n,4] = Squeeze(%v24, %v23)
              %y: f32[n,4,2] = Gather "embed" (%v26, %v25)
              return (%y)
            }
            one_hot: fused a product with one-hot rows at embed
            one_hot: fused Gather + Add at Add -> y
        "#]],
    );
}

/// An extent of which nothing is known may be one that rows are repeated to.
#[test]
fn one_hot_rows_of_unknown_extent_stay() {
    let (after, _) = optimised(
        r#"graph "g" (%i: i32[?,1], %o: f32[?,1]) {
            const %count = i32[1,3] [0, 1, 2]
            const %w = f32[3,2] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
            %to = Shape(%o)
            %wide = Expand(%i, %to)
            %e = Equal(%wide, %count)
            %c = Cast(%e) {to = 1}
            %m = MatMul "embed" (%c, %w)
            return (%m)
        }"#,
    );
    let text = hetra_ir::print(&after);
    assert!(text.contains("MatMul \"embed\""), "{text}");
}
