//! Float graphs that are quantised by the ranges of their values.

mod check;

use std::collections::BTreeSet;

use check::graph;
use expect_test::{Expect, expect};
use hetra_ir::{Graph, NodeId, outline, verify};
use hetra_ops::interpret;
use hetra_pass::{
    Claim, Options, Range, Ranges, can_quantise, float_form, observed, optimise, quantise,
};
use hetra_tensor::{Tensor, Value};

/// Ranges of all values that are asked for.
fn ranges(graph: &Graph, low: f32, high: f32) -> Ranges {
    let all: BTreeSet<NodeId> = can_quantise(graph).into_iter().collect();
    observed(graph, &all).into_iter().map(|id| (id, Range { low, high })).collect()
}

fn shown(graph: &Graph) -> String {
    verify(graph).unwrap_or_else(|errors| panic!("{errors:?}"));
    outline(graph)
}

/// All products are quantised, with this range for every value: the graph then, and what the passes
/// make of it for a device without kernels for channels last.
fn check(text: &str, (low, high): (f32, f32), pairs: Expect, fused: Expect) -> Graph {
    let claims = |node: &hetra_ir::Node, _: &Graph| match node.op.starts_with("hetra.") {
        true => Claim::Reference,
        false => Claim::Kernel,
    };
    let options = Options { claims: &claims, ..Options::default() };
    let form = float_form(&graph(text), &options);
    let all: BTreeSet<NodeId> = can_quantise(&form).into_iter().collect();
    let quantised = quantise(&form, &all, &ranges(&form, low, high));
    pairs.assert_eq(&shown(&quantised));
    let (after, _) = optimise(&quantised, &options);
    fused.assert_eq(&shown(&after));
    after
}

fn floats(graph: &Graph, input: Tensor) -> Vec<f32> {
    let outputs = interpret(graph, vec![Value::Tensor(input)], &|_| None).expect("a run");
    outputs[0].as_tensor().expect("a tensor").as_slice::<f32>().expect("f32").to_vec()
}

const CONVS: &str = r#"graph "g" (%x: f32[1,1,2,2]) {
    const %w = f32[2,1,1,1] [1, -0.5]
    const %b = f32[2] [0.25, 0]
    const %v = f32[1,2,1,1] [0.5, 0.5]
    const %shape = i64[2] [1, 4]
    %c = Conv "first" (%x, %w, %b)
    %r = Relu(%c)
    %d = Conv "second" (%r, %v)
    %y = Reshape(%d, %shape)
    return (%y)
}"#;

#[test]
fn convolutions_meet_in_codes() {
    let after = check(
        CONVS,
        (-1.0, 1.55),
        expect![[r#"
        graph "g" (%x: f32[1,1,2,2]) {
          const %w = f32[2,1,1,1] [1.0, -0.5]
          const %b = f32[2] [0.25, 0.0]
          const %v = f32[1,2,1,1] [0.5, 0.5]
          const %shape = i64[2] [1, 4]
          const %scale#11 = f32[] [0.01]
          const %zero_point#12 = u8[] [100]
          const %w.codes = i8[2,1,1,1] [127, -127]
          const %scale#14 = f32[2] [0.007874016, 0.003937008]
          const %b.codes#16 = i32[2] [3175, 0]
          const %scale#17 = f32[2] [7.874016e-5, 3.937008e-5]
          const %scale#21 = f32[] [0.0060784314]
          const %zero_point#22 = u8[] [0]
          const %v.codes = i8[1,2,1,1] [127, 127]
          const %scale#24 = f32[1] [0.003937008]
          const %scale#28 = f32[] [0.01]
          const %zero_point#29 = u8[] [100]
          %x.codes#10: u8[1,1,2,2] = QuantizeLinear(%x, %scale#11, %zero_point#12)
          %x.rounded#9: f32[1,1,2,2] = DequantizeLinear(%x.codes, %scale#11, %zero_point#12)
          %w.rounded#15: f32[2,1,1,1] = DequantizeLinear(%w.codes, %scale#14) {axis = 0}
          %b.rounded#18: f32[2] = DequantizeLinear(%b.codes, %scale#17) {axis = 0}
          %c#5: f32[1,2,2,2] = Conv "first" (%x.rounded, %w.rounded, %b.rounded)
          %r: f32[1,2,2,2] = Relu(%c)
          %r.codes#20: u8[1,2,2,2] = QuantizeLinear(%r, %scale#21, %zero_point#22)
          %r.rounded#19: f32[1,2,2,2] = DequantizeLinear(%r.codes, %scale#21, %zero_point#22)
          %v.rounded#25: f32[1,2,1,1] = DequantizeLinear(%v.codes, %scale#24) {axis = 0}
          %d#7: f32[1,1,2,2] = Conv "second" (%r.rounded, %v.rounded)
          %d.codes#27: u8[1,1,2,2] = QuantizeLinear(%d, %scale#28, %zero_point#29)
          %d.rounded#26: f32[1,1,2,2] = DequantizeLinear(%d.codes, %scale#28, %zero_point#29)
          %y#8: f32[1,4] = Reshape(%d.rounded, %shape)
          return (%y)
        }
    "#]],
        expect![[r#"
        graph "g" (%x: f32[1,1,2,2]) {
          const %shape = i64[2] [1, 4]
          const %scale#2 = f32[] [0.01]
          const %zero_point#3 = u8[] [100]
          const %w.codes = i8[2,1,1,1] [127, -127]
          const %b.codes = i32[2] [3175, 0]
          const %v.codes = i8[1,2,1,1] [127, 127]
          const %scale#7 = f32[2] [0.007874016, 0.003937008]
          const %zero_point#8 = i8[2] [0, 0]
          const %scale#9 = f32[] [0.0060784314]
          const %zero_point#10 = u8[] [0]
          const %scale#11 = f32[] [0.003937008]
          const %zero_point#12 = i8[] [0]
          %x.codes: u8[1,1,2,2] = QuantizeLinear(%x, %scale#2, %zero_point#3)
          %r.codes: u8[1,2,2,2] = QLinearConv "first" (%x.codes, %scale#2, %zero_point#3, %w.codes, %scale#7, %zero_point#8, %scale#9, %zero_point#10, %b.codes)
          %d.codes: u8[1,1,2,2] = QLinearConv "second" (%r.codes, %scale#9, %zero_point#10, %v.codes, %scale#11, %zero_point#12, %scale#2, %zero_point#3)
          %d.rounded: f32[1,1,2,2] = DequantizeLinear(%d.codes, %scale#2, %zero_point#3)
          %y: f32[1,4] = Reshape(%d.rounded, %shape)
          return (%y)
        }
    "#]],
    );
    let x = Tensor::from_slice(&[1, 1, 2, 2], &[-1.0f32, -0.5, 0.5, 1.0]).unwrap();
    let (got, wanted) = (floats(&after, x.clone()), floats(&graph(CONVS), x));
    for (a, b) in got.iter().zip(&wanted) {
        // A step is 0.01, and each of three roundings is off by half of one at most.
        assert!((a - b).abs() <= 0.015, "{got:?} {wanted:?}");
    }
    assert_ne!(got, wanted);
}

#[test]
fn what_lies_between_products_is_carried() {
    let text = r#"graph "g" (%x: f32[2,4], %z: f32[2,4]) {
        const %w = f32[4,4] [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
        const %two = f32[] [2]
        %a = MatMul "a" (%x, %w)
        %b = MatMul "b" (%z, %w)
        %s = Add(%a, %b)
        %h = HardSwish(%s)
        %t = Transpose(%h) {perm = [1, 0]}
        %u = Transpose(%t) {perm = [1, 0]}
        %c = MatMul "c" (%h, %w)
        %e = Exp(%c)
        %m = Mul(%e, %two)
        return (%m, %h)
    }"#;
    check(
        text,
        (-1.0, 1.55),
        expect![[r#"
            graph "g" (%x: f32[2,4], %z: f32[2,4]) {
              const %w = f32[4,4] ..
              const %two = f32[] [2.0]
              const %scale#13 = f32[] [0.01]
              const %zero_point#14 = u8[] [100]
              const %scale#17 = f32[] [0.01]
              const %zero_point#18 = u8[] [100]
              const %w.codes#19 = i8[4,4] ..
              const %scale#20 = f32[4] [0.007874016, 0.007874016, 0.007874016, 0.007874016]
              const %scale#24 = f32[] [0.01]
              const %zero_point#25 = u8[] [100]
              const %w.codes#26 = i8[4,4] ..
              const %scale#27 = f32[4] [0.007874016, 0.007874016, 0.007874016, 0.007874016]
              const %scale#31 = f32[] [0.01]
              const %zero_point#32 = u8[] [100]
              const %scale#35 = f32[] [0.009882698]
              const %zero_point#36 = u8[] [98]
              const %scale#39 = f32[] [0.01]
              const %zero_point#40 = u8[] [100]
              const %w.codes#41 = i8[4,4] ..
              const %scale#42 = f32[4] [0.007874016, 0.007874016, 0.007874016, 0.007874016]
              const %scale#46 = f32[] [0.01]
              const %zero_point#47 = u8[] [100]
              %x.codes#12: u8[2,4] = QuantizeLinear(%x, %scale#13, %zero_point#14)
              %x.rounded#11: f32[2,4] = DequantizeLinear(%x.codes, %scale#13, %zero_point#14)
              %z.codes#16: u8[2,4] = QuantizeLinear(%z, %scale#17, %zero_point#18)
              %z.rounded#15: f32[2,4] = DequantizeLinear(%z.codes, %scale#17, %zero_point#18)
              %w.rounded#21: f32[4,4] = DequantizeLinear(%w.codes#19, %scale#20) {axis = 1}
              %a#4: f32[2,4] = MatMul "a" (%x.rounded, %w.rounded#21)
              %a.codes#23: u8[2,4] = QuantizeLinear(%a, %scale#24, %zero_point#25)
              %a.rounded#22: f32[2,4] = DequantizeLinear(%a.codes, %scale#24, %zero_point#25)
              %w.rounded#28: f32[4,4] = DequantizeLinear(%w.codes#26, %scale#27) {axis = 1}
              %b#5: f32[2,4] = MatMul "b" (%z.rounded, %w.rounded#28)
              %b.codes#30: u8[2,4] = QuantizeLinear(%b, %scale#31, %zero_point#32)
              %b.rounded#29: f32[2,4] = DequantizeLinear(%b.codes, %scale#31, %zero_point#32)
              %s#6: f32[2,4] = Add(%a.rounded, %b.rounded)
              %s.codes#34: u8[2,4] = QuantizeLinear(%s, %scale#35, %zero_point#36)
              %s.rounded#33: f32[2,4] = DequantizeLinear(%s.codes, %scale#35, %zero_point#36)
              %h.rounded#37: f32[2,4] = HardSwish(%s.rounded)
              %h.codes: u8[2,4] = QuantizeLinear(%h.rounded, %scale#39, %zero_point#40)
              %h#7: f32[2,4] = DequantizeLinear(%h.codes, %scale#39, %zero_point#40)
              %w.rounded#43: f32[4,4] = DequantizeLinear(%w.codes#41, %scale#42) {axis = 1}
              %c#8: f32[2,4] = MatMul "c" (%h, %w.rounded#43)
              %c.codes#45: u8[2,4] = QuantizeLinear(%c, %scale#46, %zero_point#47)
              %c.rounded#44: f32[2,4] = DequantizeLinear(%c.codes, %scale#46, %zero_point#47)
              %e#9: f32[2,4] = Exp(%c.rounded)
              %m: f32[2,4] = Mul(%e, %two)
              return (%m, %h)
            }
        "#]],
        expect![[r#"
            graph "g" (%x: f32[2,4], %z: f32[2,4]) {
              const %two = f32[] [2.0]
              const %scale#3 = f32[] [0.01]
              const %zero_point#4 = u8[] [100]
              const %w.codes = i8[4,4] ..
              const %scale#6 = f32[] [0.009882698]
              const %zero_point#7 = u8[] [98]
              const %scale#8 = f32[4] [0.007874016, 0.007874016, 0.007874016, 0.007874016]
              const %zero_point#9 = i8[4] [0, 0, 0, 0]
              %x.codes: u8[2,4] = QuantizeLinear(%x, %scale#3, %zero_point#4)
              %z.codes: u8[2,4] = QuantizeLinear(%z, %scale#3, %zero_point#4)
              %a.codes: u8[2,4] = QLinearMatMul "a" (%x.codes, %scale#3, %zero_point#4, %w.codes, %scale#8, %zero_point#9, %scale#3, %zero_point#4)
              %b.codes: u8[2,4] = QLinearMatMul "b" (%z.codes, %scale#3, %zero_point#4, %w.codes, %scale#8, %zero_point#9, %scale#3, %zero_point#4)
              %s.codes: u8[2,4] = com.microsoft.QLinearAdd(%a.codes, %scale#3, %zero_point#4, %b.codes, %scale#3, %zero_point#4, %scale#6, %zero_point#7)
              %s.rounded: f32[2,4] = DequantizeLinear(%s.codes, %scale#6, %zero_point#7)
              %h.rounded: f32[2,4] = HardSwish(%s.rounded)
              %h.codes: u8[2,4] = QuantizeLinear(%h.rounded, %scale#3, %zero_point#4)
              %h: f32[2,4] = DequantizeLinear(%h.codes, %scale#3, %zero_point#4)
              %c.codes: u8[2,4] = QLinearMatMul "c" (%h.codes, %scale#3, %zero_point#4, %w.codes, %scale#8, %zero_point#9, %scale#3, %zero_point#4)
              %c.rounded: f32[2,4] = DequantizeLinear(%c.codes, %scale#3, %zero_point#4)
              %e: f32[2,4] = Exp(%c.rounded)
              %m: f32[2,4] = Mul(%e, %two)
              return (%m, %h)
            }
        "#]],
    );
}

#[test]
fn no_codes_are_wasted_where_a_function_is_flat() {
    let text = |function: &str| {
        format!(
            r#"graph "g" (%x: f32[2,4]) {{
                const %w = f32[4,4] [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
                %a = MatMul(%x, %w)
                %f = {function}(%a)
                %b = MatMul(%f, %w)
                return (%b)
            }}"#
        )
    };
    // The scale of what goes into the function, for codes from -10 to 10.
    let scale = |function: &str| {
        let form = float_form(&graph(&text(function)), &Options::default());
        let all = can_quantise(&form).into_iter().collect();
        let quantised = quantise(&form, &all, &ranges(&form, -10.0, 10.0));
        let a = form.nodes[0].output(0).unwrap();
        let reads =
            |node: &&hetra_ir::Node| node.op == "QuantizeLinear" && node.input(0) == Some(a);
        let node = quantised.nodes.iter().find(reads).unwrap();
        let scale = quantised.constant(node.input(1).unwrap()).unwrap();
        scale.as_slice::<f32>().unwrap()[0]
    };
    // HardSwish is 0 up to -3; its own step, 20/255, lets it start a little later.
    assert!((scale("HardSwish") * 255.0 - 12.9).abs() < 0.1, "{}", scale("HardSwish"));
    assert!((scale("LeakyRelu") * 255.0 - 20.0).abs() < 4.0, "{}", scale("LeakyRelu"));
    assert!((scale("Neg") * 255.0 - 20.0).abs() < 0.1, "{}", scale("Neg"));
}

#[test]
fn only_what_is_asked_for_and_known_is_quantised() {
    let form = float_form(&graph(CONVS), &Options::default());
    let all = can_quantise(&form);
    assert_eq!(all.len(), 2);
    let ops = |nodes: &[NodeId], ranges: &Ranges| {
        let quantised = quantise(&form, &nodes.iter().copied().collect(), ranges);
        verify(&quantised).unwrap_or_else(|errors| panic!("{errors:?}"));
        let (after, _) = optimise(&quantised, &Options::default());
        after.nodes.iter().filter(|node| node.op.contains("QLinear")).count()
    };
    let known = ranges(&form, -1.0, 1.0);
    assert_eq!(ops(&all, &known), 2);
    assert_eq!(ops(&all[1..], &known), 1);
    assert_eq!(ops(&[], &known), 0);
    assert_eq!(ops(&all, &Ranges::new()), 0);
    for odd in [f32::NAN, f32::INFINITY] {
        // The value between them.
        let mut ranges = known.clone();
        let between = form.node(all[1]).input(0).unwrap();
        ranges.insert(between, Range { low: 0.0, high: odd });
        assert_eq!(ops(&all, &ranges), 0);
    }
}

#[test]
fn other_products_are_left_alone() {
    let text = r#"graph "g" (%x: f32[1,2,3], %n: f32[1,2,2,2]) {
        const %w = f32[3,3] [1, 0, 0, 0, 1, 0, 0, 0, nan]
        const %k = f32[1,2,1,1] [1, 1]
        %a = MatMul(%x, %w)
        %t = Transpose(%x) {perm = [0, 2, 1]}
        %b = MatMul(%x, %t)
        %c = Conv(%n, %k) {auto_pad = "SAME_UPPER"}
        return (%a, %b, %c)
    }"#;
    assert!(can_quantise(&graph(text)).is_empty());
}

#[test]
fn codes_reach_over_a_range_and_hold_zero() {
    let params = |low, high| Range { low, high }.params();
    assert_eq!(params(0.0, 2.55), Some((0.01, 0)));
    assert_eq!(params(-1.28, 1.27), Some((0.01, 128)));
    assert_eq!(params(1.0, 2.55), Some((0.01, 0)));
    assert_eq!(params(-2.55, -1.0), Some((0.01, 255)));
    assert_eq!(params(0.0, 0.0), Some((1.0, 0)));
    assert!(params(0.0, f32::MIN_POSITIVE).is_some_and(|(scale, _)| scale.is_normal()));
    assert!(
        params(f32::MIN, f32::MAX).is_some_and(|(scale, zero)| scale.is_finite() && zero == 128)
    );
    for (low, high) in [(f32::NAN, 1.0), (0.0, f32::INFINITY), (1.0, 0.0)] {
        assert_eq!(params(low, high), None);
    }
    let nan = Range { low: f32::NAN, high: f32::NAN };
    let one = Range { low: 0.0, high: 1.0 };
    assert!([nan.joined(one), one.joined(nan)].iter().all(|range| range.params().is_none()));
    assert_eq!(one.joined(Range { low: -1.0, high: 0.5 }), Range { low: -1.0, high: 1.0 });
}
