//! Passes that make a graph smaller: fold, branch, dead code, cse, noop.

mod check;

use check::{check, graph, optimised};
use expect_test::expect;
use hetra_ir::print;
use hetra_pass::{Options, compact, optimise};

#[test]
fn constants_fold_and_shapes_follow_from_types() {
    check(
        "fold",
        r#"graph "g" (%x: f32[2,N,4]) {
            const %a = f32[2] [1.0, 2.0]
            const %i = i64[] [0]
            const %axis = i64[1] [0]
            const %open = i64[1] [-1]
            %b = Add(%a, %a)
            %c = Mul(%b, %b)
            %s = Shape(%x) {end = 1}
            %d = Gather(%s, %i)
            %e = Unsqueeze(%d, %axis)
            %four = Shape(%c)
            %shape = Concat(%e, %four, %open) {axis = 0}
            %y = Reshape(%x, %shape)
            return (%y, %c)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[2,N,4]) {
              const %b = f32[2] [2.0, 4.0]
              const %shape = i64[3] [2, 2, -1]
              %c: f32[2] = Mul(%b, %b)
              %y: f32[2,2,?] = Reshape(%x, %shape)
              return (%y, %c)
            }
            fold: folded Add at Add -> b
            fold: folded Shape at Shape -> s
            fold: folded Gather at Gather -> d
            fold: folded Unsqueeze at Unsqueeze -> e
            fold: folded Shape at Shape -> four
            fold: folded Concat at Concat -> shape
        "#]],
    );
}

#[test]
fn made_weights_are_folded_and_huge_ones_are_not() {
    let check = |extent: usize| {
        optimised(&format!(
            r#"graph "g" (%x: f32[{extent},1]) {{
                const %shape = i64[2] [{extent}, 1]
                %w = ConstantOfShape(%shape)
                %y = Add(%x, %w)
                return (%y)
            }}"#,
        ))
    };
    let (after, _) = check(4096);
    assert!(after.nodes.iter().all(|node| node.op != "ConstantOfShape"));
    let (after, report) = check((1 << 24) + 1);
    assert!(after.nodes.iter().any(|node| node.op == "ConstantOfShape"));
    assert!(report.pass("fold").unwrap().misses[0].contains("would add 67108868 bytes"));
}

#[test]
fn an_input_with_a_default_is_no_constant() {
    let (after, _) = optimised(
        r#"graph "g" (%x: f32[2], %w: f32[2]) {
            default %w = f32[2] [1.0, 1.0]
            %b = Add(%w, %w)
            %y = Mul(%x, %b)
            return (%y)
        }"#,
    );
    assert_eq!(after.nodes.len(), 2);
}

#[test]
fn dead_nodes_outputs_and_constants_go() {
    check(
        "dead_code",
        r#"graph "g" (%x: f32[2]) {
            const %w = f32[2] [1.0, 2.0]
            %a = Add(%x, %w)
            %b = Relu(%a)
            %y = Abs(%x)
            return (%y)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[2]) {
              %y: f32[2] = Abs(%x)
              return (%y)
            }
            dead_code: removed Relu -> b: nothing reads it
            dead_code: removed Add -> a: nothing reads it
            dead_code: removed 1 constants: nothing reads them
        "#]],
    );
}

#[test]
fn equal_nodes_and_constants_merge() {
    check(
        "cse",
        r#"graph "g" (%x: f32[2]) {
            const %w = f32[2] [1.0, 2.0]
            const %v = f32[2] [1.0, 2.0]
            const %u = f32[2] [1.0, 3.0]
            %a = Add(%x, %w)
            %b = Add(%x, %v)
            %c = Add(%x, %u)
            %d = LeakyRelu(%a) {alpha = 0.1}
            %e = LeakyRelu(%b) {alpha = 0.2}
            %y = Sum(%d, %e, %b, %c)
            return (%y)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[2]) {
              const %w = f32[2] [1.0, 2.0]
              const %u = f32[2] [1.0, 3.0]
              %a: f32[2] = Add(%x, %w)
              %c: f32[2] = Add(%x, %u)
              %d: f32[2] = LeakyRelu(%a) {alpha = 0.1}
              %e: f32[2] = LeakyRelu(%a) {alpha = 0.2}
              %y: f32[2] = Sum(%d, %e, %a, %c)
              return (%y)
            }
            cse: merged 1 equal constants
            cse: merged Add -> b into Add -> a
        "#]],
    );
}

#[test]
fn what_gives_back_its_input_goes() {
    check(
        "noop",
        r#"graph "g" (%x: f32[2,3], %i: i64[2]) {
            const %one = f32[1] [1.0]
            const %ones = f32[3] [1.0, 1.0, 1.0]
            const %zero = f32[] [0.0]
            const %minus = f32[] [-0.0]
            const %none = i64[] [0]
            const %shape = i64[2] [-1, 3]
            %a = Identity(%x)
            %b = Mul(%one, %a)
            %c = Div(%b, %ones)
            %d = Cast(%c) {to = 1}
            %e = Transpose(%d) {perm = [0, 1]}
            %f = Reshape(%e, %shape)
            %g = Add(%f, %minus)
            %h = Relu(%g)
            %y = Identity(%h)
            %kept = Add(%x, %zero)
            %j = Add(%i, %none)
            %z = Identity(%j)
            return (%y, %kept, %z)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[2,3], %i: i64[2]) {
              const %zero = f32[] [0.0]
              %y: f32[2,3] = Relu(%x)
              %kept: f32[2,3] = Add(%x, %zero)
              %z: i64[2] = Identity(%i)
              return (%y, %kept, %z)
            }
            noop: removed Identity at Identity -> a
            noop: removed Mul at Mul -> b
            noop: removed Div at Div -> c
            noop: removed Cast at Cast -> d
            noop: removed Transpose at Transpose -> e
            noop: removed Reshape at Reshape -> f
            noop: removed Add at Add -> g
            noop: removed Identity at Identity -> y
            noop: removed Add at Add -> j
        "#]],
    );
}

#[test]
fn decided_branches_are_inlined() {
    check(
        "branch",
        r#"graph "g" (%x: f32[2], %c: bool[]) {
            const %yes = bool[] [true]
            const %w = f32[2] [1.0, 2.0]
            %a = If(%yes) {else_branch = graph "e" () captures (%p = %x) {
                %q = Neg(%p)
                return (%q)
            }, then_branch = graph "t" () captures (%p = %x, %w = %w) {
                const %k = f32[2] [5.0, 6.0]
                %r = Add(%p, %w)
                %q = Mul(%r, %k)
                return (%q)
            }}
            %b = If(%c) {else_branch = graph "e" () captures (%a = %a) {
                %q = Neg(%a)
                return (%q)
            }, then_branch = graph "t" () captures (%w = %w, %a = %a) {
                %r = Add(%w, %w)
                %q = Mul(%r, %a)
                return (%q)
            }}
            return (%b)
        }"#,
        expect![[r#"
            graph "g" (%x: f32[2], %c: bool[]) {
              const %w = f32[2] [1.0, 2.0]
              const %k = f32[2] [5.0, 6.0]
              %r: f32[2] = Add(%x, %w)
              %q: f32[2] = Mul(%r, %k)
              %b: f32[2] = If(%c) {else_branch = graph "e" () captures (%a: f32[2] = %q) {
                %q: f32[2] = Neg(%a)
                return (%q)
              }, then_branch = graph "t" () captures (%a: f32[2] = %q) {
                const %r = f32[2] [2.0, 4.0]
                %q: f32[2] = Mul(%r, %a)
                return (%q)
              }}
              return (%b)
            }
            branch: gave the bodies of If -> a 1 constants
            branch: gave the bodies of If -> b 1 constants
            branch: inlined `then_branch` of If -> a
        "#]],
    );
}

#[test]
fn all_passes_off_changes_nothing() {
    let before = graph(
        r#"graph "g" (%x: f32[2]) {
            %a = Identity(%x)
            %y = Relu(%a)
            return (%y)
        }"#,
    );
    let off = hetra_pass::PASSES.iter().map(|pass| pass.name.to_string()).collect();
    let (after, report) = optimise(&before, &Options { off, ..Options::default() });
    assert_eq!(after, before);
    assert_eq!(report.total(), 0);
}

#[test]
fn compact_gives_ids_in_order_of_definition() {
    let mut before = graph(
        r#"graph "g" (%x#5: f32[2]) {
            value %lost#0
            value %lost2#2
            const %w#1 = f32[] [1.0]
            %y#3 = Mul(%x, %w)
            %z#4 = Relu(%y)
            return (%z)
        }"#,
    );
    before.values[4].name = "z".into();
    let after = compact(&before);
    assert!(!print(&after).contains('#'), "{}", print(&after));
    assert_eq!(after.values.len(), 4);
}

#[test]
fn outputs_keep_what_the_file_says_of_them() {
    let (after, _) = optimised(
        r#"graph "g" (%x: f32[N,4], %s: i64[2]) {
            %a = Identity(%x)
            %b = Relu(%a)
            %y: f32[M,?] = Concat(%b, %b) {axis = 0}
            return (%y)
        }"#,
    );
    assert!(print(&after).contains("%y: f32[M,4] = Concat(%b, %b)"), "{}", print(&after));
}

#[test]
fn an_expand_may_make_more_of_an_axis_that_is_not_known() {
    let before = graph(
        r#"graph "g" (%x: f32[n,3], %z: f32[4,3]) {
            const %shape = i64[2] [4, 3]
            %y = Expand(%x, %shape)
            %a = Relu(%z)
            %b = Expand(%a, %shape)
            return (%y, %b)
        }"#,
    );
    let (after, _) = optimise(&before, &Options::default());
    let left: Vec<_> = after.nodes.iter().map(|node| node.op.as_str()).collect();
    assert_eq!(left, ["Expand", "Relu"]);
}
