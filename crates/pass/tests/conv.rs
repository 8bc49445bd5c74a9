//! Convolutions and what stands behind them.

mod check;

use check::{check, check_unclaimed, optimised};
use expect_test::expect;

#[test]
fn batchnorm_folds_into_weights() {
    check(
        "conv_batchnorm",
        r#"graph "g" (%x: f32[1,2,3,3]) {
            const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
            const %s = f32[2] [1.0, 2.0]
            const %b = f32[2] [0.5, -0.5]
            const %m = f32[2] [0.1, 0.2]
            const %v = f32[2] [1.0, 4.0]
            %c = Conv "conv1" (%x, %w)
            %n = BatchNormalization(%c, %s, %b, %m, %v) {epsilon = 0.0}
            %r = Relu(%n)
            return (%r)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,2,3,3]) {
              const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
              const %w.shift = f32[2] [0.4, -0.7]
              %r: f32[1,2,3,3] = com.microsoft.FusedConv "conv1" (%x, %w, %w.shift) {activation = "Relu"}
              return (%r)
            }
            conv_batchnorm: fused Conv + BatchNormalization at BatchNormalization -> n
        "#]],
    );
}

#[test]
fn batchnorm_folds_into_transposed_and_dense_weights() {
    check(
        "conv_batchnorm",
        r#"graph "g" (%x: f32[1,4,2,2], %a: f32[5,2]) {
            const %w = f32[4,2,1,1] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
            const %bias = f32[4] [1.0, 2.0, 3.0, 4.0]
            const %s = f32[4] [1.0, 2.0, 3.0, 4.0]
            const %m = f32[4] [0.1, 0.2, 0.3, 0.4]
            const %k = f32[2,4] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
            const %kt = f32[4,2] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
            %c = ConvTranspose(%x, %w, %bias) {group = 2}
            %y = BatchNormalization(%c, %s, %m, %m, %s)
            %d = MatMul(%a, %k)
            %z = BatchNormalization(%d, %s, %m, %m, %s)
            %e = Gemm(%a, %kt, %bias) {transB = 1}
            %u = BatchNormalization(%e, %s, %m, %m, %s)
            return (%y, %z, %u)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,4,2,2], %a: f32[5,2]) {
              const %w.scaled = f32[4,2,1,1] [0.999995, 2.8284202, 2.999985, 5.6568403, 8.660239, 11.999985, 12.124335, 15.99998]
              const %w.shift = f32[4] [0.9999955, 2.745578, 4.9765296, 7.599991]
              const %k.scaled = f32[2,4] [0.999995, 2.8284202, 5.1961436, 7.99999, 4.999975, 8.48526, 12.124335, 15.99998]
              const %k.shift = f32[4] [4.9999625e-7, -0.08284201, -0.21961439, -0.399999]
              const %kt.scaled = f32[4,2] [0.999995, 1.99999, 4.24263, 5.6568403, 8.660239, 10.392287, 13.999983, 15.99998]
              %y: f32[1,4,2,2] = ConvTranspose(%x, %w.scaled, %w.shift) {group = 2}
              %z: f32[5,4] = Gemm(%a, %k.scaled, %k.shift)
              %u: f32[5,4] = Gemm(%a, %kt.scaled, %w.shift) {transB = 1}
              return (%y, %z, %u)
            }
            conv_batchnorm: fused ConvTranspose + BatchNormalization at BatchNormalization -> y
            conv_batchnorm: fused MatMul + BatchNormalization at BatchNormalization -> z
            conv_batchnorm: fused Gemm + BatchNormalization at BatchNormalization -> u
        "#]],
    );
}

#[test]
fn constants_per_channel_fold_into_weights() {
    check(
        "conv_bias",
        r#"graph "g" (%x: f32[1,2,3,3]) {
            const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
            const %b = f32[2] [1.0, 2.0]
            const %c = f32[2,1,1] [10.0, 20.0]
            const %d = f32[1,2,1,1] [2.0, 4.0]
            const %row = f32[3] [1.0, 2.0, 3.0]
            %t = Conv "conv1" (%x, %w, %b)
            %u = Add(%c, %t)
            %v = Div(%u, %d)
            %y = Mul(%v, %row)
            return (%y)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,2,3,3]) {
              const %row = f32[3] [1.0, 2.0, 3.0]
              const %w.scaled = f32[2,2,1,1] [0.5, 1.0, 0.75, 1.0]
              const %w.shift = f32[2] [5.5, 5.5]
              %v: f32[1,2,3,3] = Conv "conv1" (%x, %w.scaled, %w.shift)
              %y: f32[1,2,3,3] = Mul(%v, %row)
              return (%y)
            }
            conv_bias: fused Conv + Add at Add -> u
            conv_bias: fused Conv + Div at Div -> v
            conv_bias: not: Mul -> y: Mul: the constant is not one number for each channel
        "#]],
    );
}

#[test]
fn residual_and_activation_join_the_convolution() {
    let text = r#"graph "g" (%x: f32[N,2,3,3]) {
            const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
            %a = Conv "conv1" (%x, %w) {strides = [1, 1]}
            %b = Relu(%a)
            %c = Conv "conv2" (%b, %w)
            %d = Add(%x, %c)
            %y = Relu(%d)
            return (%y)
        }"#;
    check(
        "conv_residual",
        text,
        expect![[r#"
        graph "g" (%x: f32[N,2,3,3]) {
          const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
          %b: f32[N,2,3,3] = com.microsoft.FusedConv "conv1" (%x, %w) {activation = "Relu", strides = [1, 1]}
          %y: f32[N,2,3,3] = com.microsoft.FusedConv "conv2" (%b, %w, _, %x) {activation = "Relu"}
          return (%y)
        }
        conv_residual: fused Conv + Add at Add -> d
    "#]],
    );
    check(
        "conv_activation",
        text,
        expect![[r#"
        graph "g" (%x: f32[N,2,3,3]) {
          const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
          %b: f32[N,2,3,3] = com.microsoft.FusedConv "conv1" (%x, %w) {activation = "Relu", strides = [1, 1]}
          %y: f32[N,2,3,3] = com.microsoft.FusedConv "conv2" (%b, %w, _, %x) {activation = "Relu"}
          return (%y)
        }
        conv_activation: fused Conv + Relu at Relu -> b
        conv_activation: fused com.microsoft.FusedConv + Relu at Relu -> y
    "#]],
    );
    check_unclaimed(text, "com.microsoft.FusedConv");
}

#[test]
fn near_misses_say_why() {
    check(
        "conv_activation",
        r#"graph "g" (%x: f32[1,2,3,3], %z: f32[1,2,1,3]) {
            const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
            %a = Conv "conv1" (%x, %w)
            %b = Relu(%a)
            %c = Abs(%a)
            %d = Conv "conv2" (%b, %w)
            %e = Sigmoid(%d)
            %f = Conv "conv3" (%b, %w)
            %g = Add "sum" (%f, %z)
            return (%c, %d, %e, %g)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,2,3,3], %z: f32[1,2,1,3]) {
              const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
              %a: f32[1,2,3,3] = Conv "conv1" (%x, %w)
              %b: f32[1,2,3,3] = Relu(%a)
              %c: f32[1,2,3,3] = Abs(%a)
              %d: f32[1,2,3,3] = Conv "conv2" (%b, %w)
              %e: f32[1,2,3,3] = Sigmoid(%d)
              %g: f32[1,2,3,3] = Add "sum" (%d, %z)
              return (%c, %d, %e, %g)
            }
            conv_activation: not: Relu -> b: Conv + Relu: `a` is used 2 times
            conv_activation: not: Sigmoid -> e: Conv + Sigmoid: `d` is a graph output
        "#]],
    );
    let (_, report) = optimised(
        r#"graph "g" (%x: f32[1,2,3,3], %z: f32[1,2,1,3]) {
            const %w = f32[2,2,1,1] [1.0, 2.0, 3.0, 4.0]
            %f = Conv "conv3" (%x, %w)
            %g = Add "sum" (%f, %z)
            return (%g)
        }"#,
    );
    expect![[r#"
        conv_residual: 0 rewrites
          not: sum: Conv + Add: the residual may have another shape
    "#]]
    .assert_eq(&report.to_string());
}

#[test]
fn every_activation_joins() {
    let graph = |op: &str| {
        format!(
            r#"graph "g" (%x: f32[1,1,3,3]) {{
                const %w = f32[1,1,1,1] [1.5]
                const %low = f32[] [-1.0]
                const %high = f32[] [2.0]
                %a = Conv(%x, %w)
                %y = {op}
                return (%y)
            }}"#
        )
    };
    for (op, attrs) in [
        ("LeakyRelu(%a) {alpha = 0.2}", "{activation = \"LeakyRelu\", activation_params = [0.2]}"),
        ("Sigmoid(%a)", "{activation = \"Sigmoid\"}"),
        ("Tanh(%a)", "{activation = \"Tanh\"}"),
        ("Clip(%a, %low, %high)", "{activation = \"Clip\", activation_params = [-1.0, 2.0]}"),
        ("Clip(%a, %low)", "{activation = \"Clip\", activation_params = [-1.0, inf]}"),
        (
            "HardSigmoid(%a) {alpha = 0.3}",
            "{activation = \"HardSigmoid\", activation_params = [0.3, 0.5]}",
        ),
        ("HardSwish(%a)", "{activation = \"HardSwish\"}"),
        ("Swish(%a)", "{activation = \"Silu\"}"),
        ("Gelu(%a)", "{activation = \"Gelu\"}"),
    ] {
        let (after, _) = optimised(&graph(op));
        let text = hetra_ir::print(&after);
        assert!(text.contains(&format!("FusedConv(%x, %w) {attrs}")), "{text}");
    }
}

#[test]
fn numbers_behind_an_activation_join_it() {
    check(
        "activation_scale",
        r#"graph "g" (%x: f32[1,1,3,3]) {
            const %w = f32[1,1,1,1] [1.5]
            const %two = f32[1] [2.0]
            const %one = f32[] [1.0]
            const %wide = f32[1,1,1,1,1] [1.0]
            %c = Conv(%x, %w)
            %r = HardSwish(%c)
            %m = Mul(%two, %r)
            %a = Add(%m, %one)
            %d = Div(%a, %two)
            %s = Sub(%one, %d)
            %far = Add(%s, %wide)
            return (%far)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[1,1,3,3]) {
              const %w = f32[1,1,1,1] [1.5]
              const %wide = f32[1,1,1,1,1] [1.0]
              %s: f32[1,1,3,3] = com.microsoft.FusedConv(%x, %w) {activation = "HardSwish", activation_scale = -1.0, activation_shift = 0.5}
              %far: f32[1,1,1,3,3] = Add(%s, %wide)
              return (%far)
            }
            activation_scale: fused com.microsoft.FusedConv + Mul at Mul -> m
            activation_scale: fused com.microsoft.FusedConv + Add at Add -> a
            activation_scale: fused com.microsoft.FusedConv + Div at Div -> d
            activation_scale: fused com.microsoft.FusedConv + Sub at Sub -> s
        "#]],
    );
}
