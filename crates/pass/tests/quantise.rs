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
fn quantised(text: &str, (low, high): (f32, f32)) -> [Graph; 2] {
    let claims = |node: &hetra_ir::Node, _: &Graph| match node.op.starts_with("hetra.") {
        true => Claim::Reference,
        false => Claim::Kernel,
    };
    let options = Options { claims: &claims, ..Options::default() };
    let form = float_form(&graph(text), &options);
    let all: BTreeSet<NodeId> = can_quantise(&form).into_iter().collect();
    let pairs = quantise(&form, &all, &ranges(&form, low, high));
    let (fused, _) = optimise(&pairs, &options);
    [pairs, fused]
}

fn check(graph: &Graph, expect: Expect) {
    expect.assert_eq(&shown(graph));
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
    let [pairs, after] = quantised(CONVS, (-1.0, 1.55));
    check(
        &pairs,
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
    );
    check(
        &after,
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
        const %v = f32[2,2] [1, 0, 0, 1]
        const %two = f32[] [2]
        %a = MatMul "a" (%x, %w)
        %b = MatMul "b" (%z, %w)
        %s = Add(%a, %b)
        %h = HardSwish(%s)
        %t = Transpose(%h) {perm = [1, 0]}
        %c = MatMul "c" (%t, %v)
        %e = Exp(%c)
        %m = Mul(%e, %two)
        return (%m, %h)
    }"#;
    let [_, after] = quantised(text, (-1.0, 1.55));
    check(
        &after,
        expect![[r#"
        graph "g" (%x: f32[2,4], %z: f32[2,4]) {
          const %two = f32[] [2.0]
          const %scale#3 = f32[] [0.01]
          const %zero_point#4 = u8[] [100]
          const %w.codes = i8[4,4] ..
          const %scale#6 = f32[] [0.009990225]
          const %v.codes = i8[2,2] [127, 0, 0, 127]
          const %scale#8 = f32[4] [0.007874016, 0.007874016, 0.007874016, 0.007874016]
          const %zero_point#9 = i8[4] [0, 0, 0, 0]
          const %scale#10 = f32[2] [0.007874016, 0.007874016]
          const %zero_point#11 = i8[2] [0, 0]
          %x.codes: u8[2,4] = QuantizeLinear(%x, %scale#3, %zero_point#4)
          %z.codes: u8[2,4] = QuantizeLinear(%z, %scale#3, %zero_point#4)
          %a.codes: u8[2,4] = QLinearMatMul "a" (%x.codes, %scale#3, %zero_point#4, %w.codes, %scale#8, %zero_point#9, %scale#3, %zero_point#4)
          %b.codes: u8[2,4] = QLinearMatMul "b" (%z.codes, %scale#3, %zero_point#4, %w.codes, %scale#8, %zero_point#9, %scale#3, %zero_point#4)
          %s.codes: u8[2,4] = com.microsoft.QLinearAdd(%a.codes, %scale#3, %zero_point#4, %b.codes, %scale#3, %zero_point#4, %scale#6, %zero_point#4)
          %s.rounded: f32[2,4] = DequantizeLinear(%s.codes, %scale#6, %zero_point#4)
          %h.rounded: f32[2,4] = HardSwish(%s.rounded)
          %h.codes: u8[2,4] = QuantizeLinear(%h.rounded, %scale#3, %zero_point#4)
          %h: f32[2,4] = DequantizeLinear(%h.codes, %scale#3, %zero_point#4)
          %v54: u8[4,2] = Transpose(%h.codes) {perm = [1, 0]}
          %c.codes: u8[4,2] = QLinearMatMul "c" (%v54, %scale#3, %zero_point#4, %v.codes, %scale#10, %zero_point#11, %scale#3, %zero_point#4)
          %c.rounded: f32[4,2] = DequantizeLinear(%c.codes, %scale#3, %zero_point#4)
          %e: f32[4,2] = Exp(%c.rounded)
          %m: f32[4,2] = Mul(%e, %two)
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
    // HardSwish is 0 up to -3.
    let width = scale("HardSwish") * 255.0;
    assert!((12.9..13.05).contains(&width), "{width}");
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
