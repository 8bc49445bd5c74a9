//! Operators that files spell out in arithmetic: activations, normalisations, attention.

mod check;

use check::{check, check_reference, check_unclaimed, optimised};
use expect_test::expect;
use hetra_ir::print;

/// A graph over `%x: f32[2,3]` whose lines end in `%y`.
fn over_x(lines: &str) -> String {
    format!(
        r#"graph "g" (%x: f32[2,3]) {{
            const %half = f32[] [0.5]
            const %one = f32[] [1.0]
            const %two = f32[] [2.0]
            const %three = f32[1] [3.0]
            const %zero = f32[] [0.0]
            const %six = f32[] [6.0]
            const %sqrt2 = f32[] [1.4142135]
            const %cubic = f32[] [0.044715]
            const %root = f32[] [0.7978846]
            {lines}
            return (%y)
        }}"#
    )
}

#[test]
fn a_square_is_a_product() {
    let check = |line: &str, expect| check("spelling", &over_x(line), expect);
    check(
        "%y = Pow(%x, %two)",
        expect![[r#"
            graph "g" (%x: f32[2,3]) {
              %y: f32[2,3] = Mul(%x, %x)
              return (%y)
            }
            spelling: fused Pow of 2 at Pow -> y
        "#]],
    );
    // Another exponent, and one that is no constant.
    for line in ["%y = Pow(%x, %three)", "%y = Pow(%two, %x)"] {
        let (after, report) = optimised(&over_x(line));
        assert!(report.pass("spelling").is_some_and(|own| own.rewrites.is_empty()), "{report}");
        assert_eq!(after.nodes[0].op, "Pow");
    }
}

#[test]
fn activations_in_every_spelling() {
    for (lines, wanted) in [
        ("%s = Sigmoid(%x) %y = Mul(%s, %x)", "%y: f32[2,3] = Swish(%x)\n"),
        (
            "%a = Mul(%two, %x) %s = Sigmoid(%a) %y = Mul(%x, %s)",
            "%y: f32[2,3] = Swish(%x) {alpha = 2.0}\n",
        ),
        (
            "%a = Add(%x, %three) %b = Clip(%a, %zero, %six) %c = Mul(%x, %b) %y = Div(%c, %six)",
            "%y: f32[2,3] = HardSwish(%x)\n",
        ),
        (
            "%a = Add(%three, %x) %b = Clip(%a, %zero, %six) %c = Div(%b, %six) %y = Mul(%x, %c)",
            "%y: f32[2,3] = HardSwish(%x)\n",
        ),
        (
            "%a = HardSigmoid(%x) {alpha = 0.16666667, beta = 0.5} %y = Mul(%x, %a)",
            "%y: f32[2,3] = HardSwish(%x)\n",
        ),
        (
            "%a = Div(%x, %sqrt2) %b = Erf(%a) %c = Add(%b, %one) %d = Mul(%x, %c) %y = Mul(%d, %half)",
            "%y: f32[2,3] = Gelu(%x)\n",
        ),
        (
            "%a = Div(%x, %sqrt2) %b = Erf(%a) %c = Add(%one, %b) %d = Mul(%half, %x) %y = Mul(%d, %c)",
            "%y: f32[2,3] = Gelu(%x)\n",
        ),
        (
            "%a = Div(%x, %sqrt2) %b = Erf(%a) %c = Add(%b, %one) %d = Div(%c, %two) %y = Mul(%x, %d)",
            "%y: f32[2,3] = Gelu(%x)\n",
        ),
        (
            "%a = Pow(%x, %three) %b = Mul(%a, %cubic) %c = Add(%x, %b) %d = Mul(%c, %root)
             %e = Tanh(%d) %f = Add(%e, %one) %g = Mul(%x, %f) %y = Mul(%g, %half)",
            "%y: f32[2,3] = Gelu(%x) {approximate = \"tanh\"}\n",
        ),
        (
            "%a = Mul(%x, %x) %b = Mul(%a, %cubic) %c = Add(%b, %one) %d = Mul(%x, %root)
             %e = Mul(%d, %c) %f = Tanh(%e) %g = Add(%f, %one) %h = Mul(%half, %x)
             %y = Mul(%h, %g)",
            "%y: f32[2,3] = Gelu(%x) {approximate = \"tanh\"}\n",
        ),
    ] {
        let (after, _) = optimised(&over_x(lines));
        let text = print(&after);
        assert!(text.contains(wanted) && after.nodes.len() == 1, "{lines}\n{text}");
    }
}

#[test]
fn other_activations_stay() {
    for lines in [
        "%a = HardSigmoid(%x) {alpha = 0.2, beta = 0.5} %y = Mul(%x, %a)",
        "%a = Add(%x, %three) %b = Clip(%a, %zero, %six) %c = Mul(%x, %b) %y = Div(%c, %three)",
        "%a = Div(%x, %half) %b = Erf(%a) %c = Add(%b, %one) %d = Mul(%x, %c) %y = Mul(%d, %half)",
    ] {
        let (after, report) = optimised(&over_x(lines));
        assert_eq!(report.count("activation"), 0, "{}", print(&after));
    }
    let text = over_x("%s = Sigmoid(%x) %u = Mul(%s, %x) %y = Sub(%u, %s)");
    check(
        "activation",
        &text,
        expect![[r#"
        graph "g" (%x: f32[2,3]) {
          %s: f32[2,3] = Sigmoid(%x)
          %u: f32[2,3] = Mul(%s, %x)
          %y: f32[2,3] = Sub(%u, %s)
          return (%y)
        }
        activation: not: Mul -> u: x * Sigmoid(x): `s` is also used by Sub -> y
    "#]],
    );
    check_unclaimed(&over_x("%s = Sigmoid(%x) %y = Mul(%s, %x)"), "Swish");
}

#[test]
fn layer_normalisation_and_the_sum_before_it() {
    let text = r#"graph "g" (%a: f32[N,2,4], %b: f32[N,2,4]) {
            const %axes = i64[1] [-1]
            const %two = f32[] [2.0]
            const %epsilon = f32[] [1e-5]
            const %scale = f32[4] [1.0, 2.0, 3.0, 4.0]
            const %bias = f32[4] [4.0, 3.0, 2.0, 1.0]
            %x = Add(%a, %b)
            %m = ReduceMean(%x, %axes)
            %d = Sub(%x, %m)
            %p = Pow(%d, %two)
            %v = ReduceMean(%p, %axes)
            %e = Add(%v, %epsilon)
            %s = Sqrt(%e)
            %n = Div(%d, %s)
            %t = Mul(%n, %scale)
            %y = Add "norm" (%t, %bias)
            %z = Abs(%x)
            return (%y, %z)
        }"#;
    check(
        "layer_norm",
        text,
        expect![[r#"
        graph "g" (%a: f32[N,2,4], %b: f32[N,2,4]) {
          const %scale = f32[4] [1.0, 2.0, 3.0, 4.0]
          const %bias = f32[4] [4.0, 3.0, 2.0, 1.0]
          %y: f32[N,2,4], _, _, %x: f32[N,2,4] = com.microsoft.SkipLayerNormalization "norm" (%a, %b, %scale, %bias) {epsilon = 1e-5}
          %z: f32[N,2,4] = Abs(%x)
          return (%y, %z)
        }
        layer_norm: fused LayerNormalization at norm
    "#]],
    );
    check(
        "skip_layer_norm",
        text,
        expect![[r#"
        graph "g" (%a: f32[N,2,4], %b: f32[N,2,4]) {
          const %scale = f32[4] [1.0, 2.0, 3.0, 4.0]
          const %bias = f32[4] [4.0, 3.0, 2.0, 1.0]
          %y: f32[N,2,4], _, _, %x: f32[N,2,4] = com.microsoft.SkipLayerNormalization "norm" (%a, %b, %scale, %bias) {epsilon = 1e-5}
          %z: f32[N,2,4] = Abs(%x)
          return (%y, %z)
        }
        skip_layer_norm: fused Add + LayerNormalization at norm
    "#]],
    );
    check_unclaimed(text, "LayerNormalization");
    check_unclaimed(text, "com.microsoft.SkipLayerNormalization");
    check_reference(text, "com.microsoft.SkipLayerNormalization");
}

#[test]
fn root_mean_square_without_a_scale() {
    check(
        "layer_norm",
        r#"graph "g" (%x: f32[2,4]) {
            const %axes = i64[1] [1]
            const %one = f32[] [1.0]
            const %epsilon = f32[] [1e-6]
            %p = Mul(%x, %x)
            %v = ReduceMean(%p, %axes)
            %e = Add(%v, %epsilon)
            %s = Sqrt(%e)
            %r = Div(%one, %s)
            %y = Mul(%x, %r)
            return (%y)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[2,4]) {
              const %ones = f32[4] [1.0, 1.0, 1.0, 1.0]
              %y: f32[2,4] = RMSNormalization(%x, %ones) {axis = -1, epsilon = 1e-6}
              return (%y)
            }
            layer_norm: fused RMSNormalization at Mul -> y
        "#]],
    );
}

#[test]
fn means_over_other_axes_stay() {
    check(
        "layer_norm",
        r#"graph "g" (%x: f32[2,4]) {
            const %axes = i64[1] [0]
            const %epsilon = f32[] [1e-6]
            %p = Mul(%x, %x)
            %v = ReduceMean(%p, %axes)
            %e = Add(%v, %epsilon)
            %s = Sqrt(%e)
            %y = Div(%x, %s)
            return (%y)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[2,4]) {
              const %axes = i64[1] [0]
              const %epsilon = f32[] [1e-6]
              %p: f32[2,4] = Mul(%x, %x)
              %v: f32[1,4] = ReduceMean(%p, %axes)
              %e: f32[1,4] = Add(%v, %epsilon)
              %s: f32[1,4] = Sqrt(%e)
              %y: f32[2,4] = Div(%x, %s)
              return (%y)
            }
            layer_norm: not: Div -> y: RMSNormalization: its means are not over the last axes
        "#]],
    );
}

#[test]
fn attention_with_a_mask() {
    let text = r#"graph "g" (%q: f32[B,2,3,4], %k: f32[B,5,2,4], %v: f32[B,2,5,4], %m: f32[B,1,1,5]) {
            const %root = f32[] [2.0]
            %kt = Transpose(%k) {perm = [0, 2, 3, 1]}
            %s = MatMul(%q, %kt)
            %t = Div(%s, %root)
            %u = Add(%t, %m)
            %p = Softmax(%u) {axis = -1}
            %y = MatMul "attend" (%p, %v)
            return (%y)
        }"#;
    check(
        "attention",
        text,
        expect![[r#"
        graph "g" (%q: f32[B,2,3,4], %k: f32[B,5,2,4], %v: f32[B,2,5,4], %m: f32[B,1,1,5]) {
          %v11: f32[B,2,5,4] = Transpose(%k) {perm = [0, 2, 1, 3]}
          %y: f32[B,2,3,4] = Attention "attend" (%q, %v11, %v, %m) {scale = 0.5}
          return (%y)
        }
        attention: fused attention at attend
    "#]],
    );
    check_unclaimed(text, "Attention");
    check_reference(text, "Attention");
}

#[test]
fn attention_that_would_stretch_stays() {
    check(
        "attention",
        r#"graph "g" (%q: f32[2,2,3,4], %k: f32[1,2,5,4], %v: f32[2,2,5,4]) {
            %kt = Transpose(%k) {perm = [0, 1, 3, 2]}
            %s = MatMul(%q, %kt)
            %p = Softmax(%s)
            %y = MatMul(%p, %v)
            return (%y)
        }"#,
        expect![[r#"
            graph "g" (%q: f32[2,2,3,4], %k: f32[1,2,5,4], %v: f32[2,2,5,4]) {
              %s: f32[2,2,3,5] = com.microsoft.FusedMatMul(%q, %k) {transB = 1}
              %p: f32[2,2,3,5] = Softmax(%s)
              %y: f32[2,2,3,4] = MatMul(%p, %v)
              return (%y)
            }
            attention: not: MatMul -> y: attention: batches and heads may differ
        "#]],
    );
}
