//! Chains of transposes and reshapes.

mod check;

use check::check;
use expect_test::expect;

#[test]
fn transposes_compose_also_across_an_activation() {
    check(
        "layout",
        r#"graph "g" (%x: f32[2,3,4,5]) {
            %a = Transpose(%x) {perm = [0, 2, 3, 1]}
            %b = Relu(%a)
            %c = Transpose(%b) {perm = [0, 3, 1, 2]}
            %d = Abs(%c)
            %e = Transpose(%d) {perm = [1, 0, 2, 3]}
            %y = Transpose(%e) {perm = [3, 2, 1, 0]}
            return (%y)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[2,3,4,5]) {
              %v7: f32[2,3,4,5] = Relu(%x)
              %v8: f32[2,3,4,5] = Abs(%v7)
              %y: f32[5,4,2,3] = Transpose(%v8) {perm = [3, 2, 0, 1]}
              return (%y)
            }
            layout: fused Transpose + Relu + Transpose at Transpose -> c
            layout: fused Transpose + Abs + Transpose at Transpose -> e
            layout: fused Transpose + Transpose at Transpose -> y
        "#]],
    );
}

#[test]
fn reshapes_shorten() {
    check(
        "layout",
        r#"graph "g" (%x: f32[N,3,4]) {
            const %flat = i64[1] [-1]
            const %back = i64[2] [-1, 4]
            const %copy = i64[3] [0, 1, -1]
            const %axis = i64[1] [1]
            %a = Reshape(%x, %flat)
            %y = Reshape(%a, %back)
            %b = Unsqueeze(%x, %axis)
            %c = Squeeze(%b, %axis)
            %z = Relu(%c)
            %d = Reshape(%x, %back)
            %u = Reshape(%d, %copy)
            return (%y, %z, %u)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[N,3,4]) {
              const %back = i64[2] [-1, 4]
              const %copy = i64[3] [0, 1, -1]
              %y: f32[?,4] = Reshape(%x, %back)
              %z: f32[N,3,4] = Relu(%x)
              %u: f32[?,1,?] = Reshape(%y, %copy)
              return (%y, %z, %u)
            }
            layout: fused Reshape + Reshape at Reshape -> y
            layout: removed Unsqueeze + Squeeze at Squeeze -> c
        "#]],
    );
}
