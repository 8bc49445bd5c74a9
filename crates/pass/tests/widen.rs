//! Floats of 16 bits where the device has no kernel for them: text of graphs before and after.

mod check;

use check::check_by;
use expect_test::expect;
use hetra_ir::{Graph, Node};
use hetra_pass::Claim;
use hetra_tensor::DType;

/// A device that has kernels for f32, and moves and casts what it likes.
fn f32_only(node: &Node, graph: &Graph) -> Claim {
    let half = |dtype| matches!(dtype, Some(DType::F16 | DType::BF16));
    let halves = node.inputs.iter().flatten().any(|&id| half(graph.ty(id).dtype()));
    let any = ["Cast", "Concat", "Identity"].contains(&node.op.as_str());
    if halves && !any { Claim::Reference } else { Claim::Kernel }
}

#[test]
fn what_lies_between_stays_in_f32() {
    check_by(
        "widen",
        &f32_only,
        r#"graph "g" (%x: f16[2,2], %m: bool[2,2]) {
            const %w = f16[2,2] [1.0, 2.0, 3.0, 4.0]
            %a = MatMul(%x, %w)
            %b = Concat(%a, %w) {axis = 0}
            %c = Add(%a, %a)
            %d = Where(%m, %c, %x)
            %e = Cast(%c) {to = 7}
            %f = Sigmoid(%b)
            %g = Floor(%c)
            %h = Concat(%d, %w) {axis = 1}
            return (%f, %g, %h, %e)
        }"#,
        expect![[r#"
            graph "g" (%x#0: f16[2,2], %m: bool[2,2]) {
              const %w#2 = f16[2,2] [1.0, 2.0, 3.0, 4.0]
              const %w#3 = f32[2,2] [1.0, 2.0, 3.0, 4.0]
              %x#4: f32[2,2] = Cast(%x#0) {to = 1}
              %a: f32[2,2] = MatMul(%x#4, %w#3)
              %b: f32[4,2] = Concat(%a, %w#3) {axis = 0}
              %c#7: f32[2,2] = Add(%a, %a)
              %c#8: f16[2,2] = Cast(%c#7) {to = 10}
              %d#9: f32[2,2] = Where(%m, %c#7, %x#4)
              %d#10: f16[2,2] = Cast(%d#9) {to = 10}
              %e: i64[2,2] = Cast(%c#8) {to = 7}
              %f#12: f32[4,2] = Sigmoid(%b)
              %f#13: f16[4,2] = Cast(%f#12) {to = 10}
              %c#14: f32[2,2] = Cast(%c#8) {to = 1}
              %g#15: f32[2,2] = Floor(%c#14)
              %g#16: f16[2,2] = Cast(%g#15) {to = 10}
              %h: f16[2,4] = Concat(%d#10, %w#2) {axis = 1}
              return (%f#13, %g#16, %h, %e)
            }
            widen: f32 for MatMul -> a
            widen: f32 for Concat -> b
            widen: f32 for Add -> c
            widen: f32 for Where -> d
            widen: f32 for Sigmoid -> f
            widen: f32 for Floor -> g
        "#]],
    );
}

#[test]
fn what_has_kernels_of_its_own_stays_as_it_is() {
    check_by(
        "widen",
        &f32_only,
        r#"graph "g" (%x: f16[2,2], %y: f32[2,2]) {
            %a = Concat(%x, %x) {axis = 0}
            %b = Relu(%y)
            return (%a, %b)
        }"#,
        expect![[r#"
            graph "g" (%x: f16[2,2], %y: f32[2,2]) {
              %a: f16[4,2] = Concat(%x, %x) {axis = 0}
              %b: f32[2,2] = Relu(%y)
              return (%a, %b)
            }
        "#]],
    );
}

#[test]
fn a_node_that_would_be_another_one_stays() {
    check_by(
        "widen",
        &f32_only,
        r#"graph "g" (%x: bf16[2]) {
            %bits = BitCast(%x) {to = 4}
            %y = Exp(%x)
            return (%bits, %y)
        }"#,
        expect![[r#"
            graph "g" (%x#0: bf16[2]) {
              %bits: u16[2] = BitCast(%x#0) {to = 4}
              %x#2: f32[2] = Cast(%x#0) {to = 1}
              %y#3: f32[2] = Exp(%x#2)
              %y#4: bf16[2] = Cast(%y#3) {to = 16}
              return (%bits, %y#4)
            }
            widen: f32 for Exp -> y
        "#]],
    );
}
