//! Look-ups in the place of what is computed from one code, and quantised images with their
//! channels last.

mod check;

use check::{check_last, check_reference, check_unclaimed};
use expect_test::expect;

const HARD_SWISH: &str = r#"graph "g" (%x: u8[2,3]) {
    const %xs = f32[] [0.05]
    const %xz = u8[] [100]
    const %hs = f32[] [0.004]
    const %hz = u8[] [0]
    const %ys = f32[1] [0.04]
    const %yz = u8[1] [12]
    %a = DequantizeLinear(%x, %xs, %xz)
    %b = HardSigmoid(%a) {alpha = 0.16666667, beta = 0.5}
    %c = QuantizeLinear(%b, %hs, %hz)
    %y = com.microsoft.QLinearMul "swish" (%x, %xs, %xz, %c, %hs, %hz, %ys, %yz)
    return (%y)
}"#;

#[test]
fn one_code_is_looked_up() {
    check_last(
        "code_table",
        HARD_SWISH,
        expect![[r#"
        graph "g" (%x: u8[2,3]) {
          const %table = u8[256] ..
          %y: u8[2,3] = hetra.CodeTable "swish" (%x, %table)
          return (%y)
        }
        code_table: table for QuantizeLinear of one code at QuantizeLinear -> c
        code_table: table for com.microsoft.QLinearMul of one code at swish
    "#]],
    );
    check_unclaimed(HARD_SWISH, "hetra.CodeTable");
    check_reference(HARD_SWISH, "hetra.CodeTable");
}

#[test]
fn two_codes_are_not() {
    check_last(
        "code_table",
        r#"graph "g" (%x: u8[2,3], %z: u8[2,3], %v: u8[3]) {
            const %s = f32[] [0.05]
            const %q = u8[] [100]
            %a = com.microsoft.QLinearAdd(%x, %s, %q, %z, %s, %q, %s, %q)
            %b = com.microsoft.QLinearMul(%x, %s, %q, %v, %s, %q, %s, %q)
            %c = com.microsoft.QLinearMul(%x, %s, %q, %q, %s, %q, %s, %q)
            return (%a, %b, %c)
        }"#,
        expect![[r#"
            graph "g" (%x: u8[2,3], %z: u8[2,3], %v: u8[3]) {
              const %s = f32[] [0.05]
              const %q = u8[] [100]
              const %table = u8[256] ..
              %a: u8[2,3] = com.microsoft.QLinearAdd(%x, %s, %q, %z, %s, %q, %s, %q)
              %b: u8[2,3] = com.microsoft.QLinearMul(%x, %s, %q, %v, %s, %q, %s, %q)
              %c: u8[2,3] = hetra.CodeTable(%x, %table)
              return (%a, %b, %c)
            }
            code_table: table for com.microsoft.QLinearMul of one code at com.microsoft.QLinearMul -> c
        "#]],
    );
}

#[test]
fn quantised_images_are_turned() {
    check_last(
        "channels_last",
        r#"graph "g" (%x: u8[1,2,3,3]) {
            const %s = f32[] [0.1]
            const %z = u8[] [128]
            const %w = i8[2,2,1,1] [1, -2, 3, 4]
            const %wz = i8[] [0]
            %a = QLinearConv "a" (%x, %s, %z, %w, %s, %wz, %s, %z)
            %b = QLinearConv "b" (%a, %s, %z, %w, %s, %wz, %s, %z)
            %c = com.microsoft.QLinearAdd(%a, %s, %z, %b, %s, %z, %s, %z)
            %d = com.microsoft.QLinearConcat(%s, %z, %c, %s, %z, %a, %s, %z) {axis = 1}
            %e = com.microsoft.QLinearSigmoid(%d, %s, %z, %s, %z)
            %f = com.microsoft.QLinearGlobalAveragePool(%e, %s, %z, %s, %z)
            %g = com.microsoft.QLinearMul(%e, %s, %z, %f, %s, %z, %s, %z)
            return (%g)
        }"#,
        expect![[r#"
            graph "g" (%x: u8[1,2,3,3]) {
              const %s = f32[] [0.1]
              const %z = u8[] [128]
              const %w = i8[2,2,1,1] [1, -2, 3, 4]
              const %wz = i8[] [0]
              const %table = u8[256] ..
              %v13: u8[1,3,3,2] = hetra.QLinearConvLast "a" (%x, %s, %z, %w, %s, %wz, %s, %z) {first_input_plain = 1}
              %v14: u8[1,3,3,2] = hetra.QLinearConvLast "b" (%v13, %s, %z, %w, %s, %wz, %s, %z)
              %v16: u8[1,3,3,2] = com.microsoft.QLinearAdd(%v13, %s, %z, %v14, %s, %z, %s, %z)
              %v19: u8[1,3,3,4] = com.microsoft.QLinearConcat(%s, %z, %v16, %s, %z, %v13, %s, %z) {axis = 3}
              %v21: u8[1,3,3,4] = hetra.CodeTable(%v19, %table)
              %v22: u8[1,1,1,4] = hetra.QLinearGlobalAveragePoolLast(%v21, %s, %z, %s, %z)
              %v24: u8[1,3,3,4] = com.microsoft.QLinearMul(%v21, %s, %z, %v22, %s, %z, %s, %z)
              %g: u8[1,4,3,3] = Transpose(%v24) {perm = [0, 3, 1, 2]}
              return (%g)
            }
            channels_last: channels last at a
            channels_last: channels last at b
            channels_last: channels last at com.microsoft.QLinearGlobalAveragePool -> f
        "#]],
    );
}
