//! Quantised operators.

mod check;

use check::{check, check_reference, check_unclaimed};
use expect_test::expect;

#[test]
fn conv_with_relu_runs_on_integers() {
    let text = r#"graph "g" (%x: u8[1,2,3,3]) {
            const %xs = f32[] [0.1]
            const %xz = u8[] [128]
            const %w = i8[2,2,1,1] [1, -2, 3, 4]
            const %ws = f32[2] [0.5, 0.25]
            const %wz = i8[2] [0, 0]
            const %b = i32[2] [10, -20]
            const %bs = f32[2] [0.05, 0.025]
            const %ys = f32[1] [0.2]
            const %yz = u8[1] [0]
            %xr = DequantizeLinear(%x, %xs, %xz)
            %wr = DequantizeLinear(%w, %ws, %wz) {axis = 0}
            %br = DequantizeLinear(%b, %bs) {axis = 0}
            %c = Conv "conv1" (%xr, %wr, %br)
            %r = Relu(%c)
            %y = QuantizeLinear(%r, %ys, %yz)
            return (%y)
        }"#;
    check(
        "quant",
        text,
        expect![[r#"
        graph "g" (%x: u8[1,2,3,3]) {
          const %w = i8[2,2,1,1] [1, -2, 3, 4]
          const %b = i32[2] [10, -20]
          const %scale#3 = f32[2] [0.5, 0.25]
          const %zero_point#4 = i8[2] [0, 0]
          const %scale#5 = f32[] [0.1]
          const %zero_point#6 = u8[] [128]
          const %scale#7 = f32[] [0.2]
          const %zero_point#8 = u8[] [0]
          %y: u8[1,2,3,3] = QLinearConv "conv1" (%x, %scale#5, %zero_point#6, %w, %scale#3, %zero_point#4, %scale#7, %zero_point#8, %b)
          return (%y)
        }
        quant: fused Conv between DequantizeLinear and QuantizeLinear at QuantizeLinear -> y
    "#]],
    );
    check(
        "quant_move",
        text,
        expect![[r#"
        graph "g" (%x: u8[1,2,3,3]) {
          const %w = i8[2,2,1,1] [1, -2, 3, 4]
          const %b = i32[2] [10, -20]
          const %scale#3 = f32[2] [0.5, 0.25]
          const %zero_point#4 = i8[2] [0, 0]
          const %scale#5 = f32[] [0.1]
          const %zero_point#6 = u8[] [128]
          const %scale#7 = f32[] [0.2]
          const %zero_point#8 = u8[] [0]
          %y: u8[1,2,3,3] = QLinearConv "conv1" (%x, %scale#5, %zero_point#6, %w, %scale#3, %zero_point#4, %scale#7, %zero_point#8, %b)
          return (%y)
        }
        quant_move: fused Relu + QuantizeLinear at QuantizeLinear -> y
    "#]],
    );
    check_unclaimed(text, "QLinearConv");
    check_reference(text, "QLinearConv");
}

#[test]
fn products_on_integers() {
    check(
        "quant",
        r#"graph "g" (%a: u8[3,2], %b: i8[2,2]) {
            const %s = f32[] [0.1]
            const %z = u8[] [100]
            const %bz = i8[] [3]
            const %w = i8[2,2] [1, -2, 3, 4]
            const %ws = f32[2] [0.5, 0.25]
            const %c = i32[2] [10, -20]
            const %cs = f32[2] [0.05, 0.025]
            const %ys = f32[] [0.4]
            %ar = DequantizeLinear(%a, %s, %z)
            %br = DequantizeLinear(%b, %s, %bz)
            %wr = DequantizeLinear(%w, %ws) {axis = 1}
            %cr = DequantizeLinear(%c, %cs) {axis = 0}
            %m = MatMul(%ar, %br)
            %y = QuantizeLinear(%m, %ys, %z)
            %n = MatMul(%ar, %wr)
            %u = QuantizeLinear(%n, %ys, %z)
            %g = Gemm(%ar, %wr, %cr)
            %v = QuantizeLinear(%g, %ys, %z)
            return (%y, %u, %v)
        }"#,
        expect![[r#"
            graph "g" (%a: u8[3,2], %b: i8[2,2]) {
              const %w = i8[2,2] [1, -2, 3, 4]
              const %c = i32[2] [10, -20]
              const %scale#4 = f32[] [0.1]
              const %zero_point#5 = i8[] [3]
              const %zero_point#6 = u8[] [100]
              const %scale#7 = f32[] [0.4]
              const %scale#8 = f32[2] [0.5, 0.25]
              const %zero_point#9 = i8[2] [0, 0]
              %y: u8[3,2] = QLinearMatMul(%a, %scale#4, %zero_point#6, %b, %scale#4, %zero_point#5, %scale#7, %zero_point#6)
              %u: u8[3,2] = QLinearMatMul(%a, %scale#4, %zero_point#6, %w, %scale#8, %zero_point#9, %scale#7, %zero_point#6)
              %v: u8[3,2] = com.microsoft.QGemm(%a, %scale#4, %zero_point#6, %w, %scale#8, %zero_point#9, %c, %scale#7, %zero_point#6)
              return (%y, %u, %v)
            }
            quant: fused MatMul between DequantizeLinear and QuantizeLinear at QuantizeLinear -> y
            quant: fused MatMul between DequantizeLinear and QuantizeLinear at QuantizeLinear -> u
            quant: fused Gemm between DequantizeLinear and QuantizeLinear at QuantizeLinear -> v
        "#]],
    );
}

#[test]
fn the_smaller_operators() {
    check(
        "quant",
        r#"graph "g" (%a: u8[1,2,2,2], %b: u8[1,2,2,2]) {
            const %s = f32[] [0.1]
            const %t = f32[] [0.05]
            const %z = u8[] [100]
            %ar = DequantizeLinear(%a, %s, %z)
            %br = DequantizeLinear(%b, %t)
            %m = Add(%ar, %br)
            %y1 = QuantizeLinear(%m, %s, %z)
            %n = Mul(%ar, %br)
            %y2 = QuantizeLinear(%n, %s, %z)
            %o = Sigmoid(%ar)
            %y3 = QuantizeLinear(%o, %t)
            %p = Concat(%ar, %br) {axis = 1}
            %y4 = QuantizeLinear(%p, %s, %z)
            %q = GlobalAveragePool(%ar)
            %y5 = QuantizeLinear(%q, %s, %z)
            %r = Softmax(%ar) {axis = 1}
            %y6 = QuantizeLinear(%r, %t)
            %l = LeakyRelu(%ar) {alpha = 0.2}
            %y7 = QuantizeLinear(%l, %s, %z)
            %k = AveragePool(%ar) {kernel_shape = [2, 2]}
            %y8 = QuantizeLinear(%k, %s, %z)
            return (%y1, %y2, %y3, %y4, %y5, %y6, %y7, %y8)
        }"#,
        expect![[r#"
            graph "g" (%a: u8[1,2,2,2], %b: u8[1,2,2,2]) {
              const %scale#2 = f32[] [0.1]
              const %zero_point#3 = u8[] [100]
              const %scale#4 = f32[] [0.05]
              const %zero_point#5 = u8[] [0]
              %y1: u8[1,2,2,2] = com.microsoft.QLinearAdd(%a, %scale#2, %zero_point#3, %b, %scale#4, %zero_point#5, %scale#2, %zero_point#3)
              %y2: u8[1,2,2,2] = com.microsoft.QLinearMul(%a, %scale#2, %zero_point#3, %b, %scale#4, %zero_point#5, %scale#2, %zero_point#3)
              %y3: u8[1,2,2,2] = com.microsoft.QLinearSigmoid(%a, %scale#2, %zero_point#3, %scale#4, %zero_point#5)
              %y4: u8[1,4,2,2] = com.microsoft.QLinearConcat(%scale#2, %zero_point#3, %a, %scale#2, %zero_point#3, %b, %scale#4, %zero_point#5) {axis = 1}
              %y5: u8[1,2,1,1] = com.microsoft.QLinearGlobalAveragePool(%a, %scale#2, %zero_point#3, %scale#2, %zero_point#3)
              %y6: u8[1,2,2,2] = com.microsoft.QLinearSoftmax(%a, %scale#2, %zero_point#3, %scale#4, %zero_point#5) {axis = 1, opset = 13}
              %y7: u8[1,2,2,2] = com.microsoft.QLinearLeakyRelu(%a, %scale#2, %zero_point#3, %scale#2, %zero_point#3) {alpha = 0.2}
              %y8: u8[1,2,1,1] = com.microsoft.QLinearAveragePool(%a, %scale#2, %zero_point#3, %scale#2, %zero_point#3) {kernel_shape = [2, 2]}
              return (
                %y1,
                %y2,
                %y3,
                %y4,
                %y5,
                %y6,
                %y7,
                %y8,
              )
            }
            quant: fused Add between DequantizeLinear and QuantizeLinear at QuantizeLinear -> y1
            quant: fused Mul between DequantizeLinear and QuantizeLinear at QuantizeLinear -> y2
            quant: fused Sigmoid between DequantizeLinear and QuantizeLinear at QuantizeLinear -> y3
            quant: fused Concat between DequantizeLinear and QuantizeLinear at QuantizeLinear -> y4
            quant: fused GlobalAveragePool between DequantizeLinear and QuantizeLinear at QuantizeLinear -> y5
            quant: fused Softmax between DequantizeLinear and QuantizeLinear at QuantizeLinear -> y6
            quant: fused LeakyRelu between DequantizeLinear and QuantizeLinear at QuantizeLinear -> y7
            quant: fused AveragePool between DequantizeLinear and QuantizeLinear at QuantizeLinear -> y8
        "#]],
    );
}

#[test]
fn movers_run_on_integers_and_idle_clips_go() {
    check(
        "quant_move",
        r#"graph "g" (%x: i8[1,2,4,4], %f: f32[4]) {
            const %s = f32[] [0.1]
            const %z = i8[] [-128]
            const %shape = i64[2] [2, 4]
            const %low = f32[] [0.0]
            const %six = f32[] [6.0]
            const %far = f32[] [30.0]
            %xr = DequantizeLinear(%x, %s, %z)
            %p = MaxPool(%xr) {kernel_shape = [2, 2], strides = [2, 2]}
            %r = Reshape(%p, %shape)
            %y = QuantizeLinear(%r, %s, %z)
            %a = Clip(%f, %low, %six)
            %u = QuantizeLinear(%a, %s, %z)
            %b = Clip(%f, %low, %far)
            %v = QuantizeLinear(%b, %s, %z)
            return (%y, %u, %v)
        }"#,
        expect![[r#"
            graph "g" (%x: i8[1,2,4,4], %f: f32[4]) {
              const %s = f32[] [0.1]
              const %z = i8[] [-128]
              const %shape = i64[2] [2, 4]
              const %low = f32[] [0.0]
              const %six = f32[] [6.0]
              %v16: i8[1,2,2,2] = MaxPool(%x) {kernel_shape = [2, 2], strides = [2, 2]}
              %y: i8[2,4] = Reshape(%v16, %shape)
              %a: f32[4] = Clip(%f, %low, %six)
              %u: i8[4] = QuantizeLinear(%a, %s, %z)
              %v: i8[4] = QuantizeLinear(%f, %s, %z)
              return (%y, %u, %v)
            }
            quant_move: fused Clip + QuantizeLinear at QuantizeLinear -> v
            quant_move: fused DequantizeLinear behind MaxPool at MaxPool -> p
            quant_move: fused DequantizeLinear behind Reshape at Reshape -> r
            quant_move: removed DequantizeLinear + QuantizeLinear at QuantizeLinear -> y
            quant_move: not: QuantizeLinear -> u: Clip + QuantizeLinear: the quantised range goes beyond the clip
        "#]],
    );
}

#[test]
fn near_misses_say_why() {
    check(
        "quant",
        r#"graph "g" (%x: u8[1,2,3,3]) {
            const %xs = f32[] [0.1]
            const %xz = u8[] [128]
            const %w = i8[2,2,1,1] [1, -2, 3, 4]
            const %ws = f32[2] [0.5, 0.25]
            const %b = f32[2] [1.0, 2.0]
            const %ys = f32[] [0.2]
            %xr = DequantizeLinear(%x, %xs, %xz)
            %wr = DequantizeLinear(%w, %ws) {axis = 0}
            %c = Conv "conv1" (%xr, %wr, %b)
            %y = QuantizeLinear(%c, %ys, %xz)
            return (%y)
        }"#,
        expect![[r#"
            graph "g" (%x: u8[1,2,3,3]) {
              const %xs = f32[] [0.1]
              const %xz = u8[] [128]
              const %b = f32[2] [1.0, 2.0]
              const %ys = f32[] [0.2]
              const %wr = f32[2,2,1,1] [0.5, -1.0, 0.75, 1.0]
              %xr: f32[1,2,3,3] = DequantizeLinear(%x, %xs, %xz)
              %c: f32[1,2,3,3] = Conv "conv1" (%xr, %wr, %b)
              %y: u8[1,2,3,3] = QuantizeLinear(%c, %ys, %xz)
              return (%y)
            }
            quant: not: QuantizeLinear -> y: Conv between DequantizeLinear and QuantizeLinear: its bias is not dequantised from i32
            quant: not: QuantizeLinear -> y: Conv between DequantizeLinear and QuantizeLinear: its weights are not dequantised from 8 bits
        "#]],
    );
}
