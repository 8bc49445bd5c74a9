//! The text form: snapshots, faults, and that print and parse are inverse on random graphs.

use std::sync::Arc;

use expect_test::{Expect, expect};
use hetra_ir::{
    Attr, Builder, Capture, Dim, Graph, Node, Type, ValueId, outline, parse, print, verify,
};
use hetra_tensor::{DType, Tensor, Value};
use proptest::prelude::*;

fn check(graph: &Graph, expect: Expect) {
    let text = print(graph);
    expect.assert_eq(&text);
    assert_eq!(&parse(&text).unwrap(), graph);
}

fn check_fault(text: &str, expect: Expect) {
    expect.assert_eq(&parse(text).unwrap_err().to_string());
}

fn small() -> Graph {
    let mut b = Builder::new("tiny");
    let x = b.input("x", DType::F32, vec![Dim::Sym("N".into()), 3.into()]);
    let w = b.constant("w", Tensor::vector(&[1.0f32, -0.0, f32::NAN]));
    let node = Node {
        name: "a \"node\"".into(),
        version: 22,
        ..Node::new("Conv", &[x, w], &[]).with("group", 1).with("pads", vec![0i64, 0])
    };
    let y = b.node(node, 1)[0];
    let mut relu = Node::new("com.microsoft.FusedConv", &[y], &[]).with("activation", "Relu\n");
    relu.inputs.extend([None, Some(w)]);
    let z = b.node(relu.with("alpha", 0.1f32).with("none", Vec::<i64>::new()), 1)[0];
    b.output(z);
    b.finish()
}

#[test]
fn a_small_graph() {
    check(
        &small(),
        expect![[r#"
            graph "tiny" (%x: f32[N,3]) {
              const %w = f32[3] [1.0, -0.0, nan(0x7fc00000)]
              %v2 = Conv[v22] "a \"node\"" (%x, %w) {group = 1, pads = [0, 0]}
              %v3 = com.microsoft.FusedConv(%v2, _, %w) {activation = "Relu\n", alpha = 0.1, none = ints[]}
              return (%v3)
            }
        "#]],
    );
}

#[test]
fn bodies_constants_and_odd_names() {
    let mut body = Graph { name: "then".into(), ..Graph::default() };
    let inner = body.add_value("in side", Type::Unknown);
    body.captures.push(Capture { outer: ValueId(0), inner });
    body.outputs.push(inner);
    let mut b = Builder::new("");
    let x = b.input("x:0", DType::Bool, vec![Dim::Unknown, Dim::Sym("a b".into())]);
    let strings = Tensor::from_strings(&[2], vec!["é\u{1}".into(), "%".into()]).unwrap();
    let sequence = Value::Sequence(vec![strings.into(), Value::Optional(None)]);
    b.constant("s", Value::Optional(Some(Box::new(sequence))));
    b.constant("big", Tensor::vector(&[257u16; 9]));
    b.constant("big", Tensor::from_bytes(DType::F8E5M2, &[2], &[1, 2]).unwrap());
    let ty = Type::Sequence(Box::new(Type::Optional(Box::new(Type::unranked(DType::I4)))));
    let node = Node::new("If", &[x], &[]).with("then_branch", Arc::new(body)).with("t", ty);
    let y = b.node(node.with("a b", Tensor::scalar(3i64)), 1)[0];
    b.output(y);
    let mut graph = b.finish();
    graph.add_value("lost", Type::Unknown);
    check(
        &graph,
        expect![[r#"
            graph "" (%"x:0": bool[?,"a b"]) {
              const %s = some(seq[string[2] ["é\u{1}", "%"], none])
              const %big#2 = u16[9] 0x010101010101010101010101010101010101
              const %big#3 = f8e5m2[2] 0x0102
              value %lost#5
              %v4#4 = If(%"x:0") {"a b" = tensor i64[] [3], t = type seq<opt<i4[..]>>, then_branch = graph "then" () captures (%"in side" = %"x:0") {
                return (%"in side")
              }}
              return (%v4)
            }
        "#]],
    );
    assert!(outline(&graph).contains("const %big#2 = u16[9] ..\n"));
}

#[test]
fn faults_name_their_place() {
    check_fault("graph \"g\" (%x: f33[1]) {", expect!["line 1, column 16: `f33` is not a dtype"]);
    check_fault("graph \"g\" () {\n  // é\n  %y = é", expect!["line 3, column 8: expected a name"]);
    check_fault(
        "graph \"g\" (%x) {\n  %y = Relu(%z)\n  return (%y)\n}",
        expect!["line 2, column 15: `%z` is not defined above"],
    );
    check_fault("graph \"g\" (%x, %x) {", expect!["line 1, column 18: `%x` is defined twice"]);
    check_fault(
        "graph \"g\" () { const %c = f32[2] [1.0] return () }",
        expect!["line 1, column 33: shape [2] holds 2 elements, got 1"],
    );
    check_fault(
        "graph \"g\" (%x#7) { return () }",
        expect!["line 1, column 31: 1 values, but none has id 0"],
    );
    let deep = format!("graph \"g\" (%x: {}", "seq<".repeat(100_000));
    assert!(parse(&deep).unwrap_err().message.contains("too deep"));
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]", "[a-zA-Z0-9_./-]{0,6}", any::<String>()]
}

fn dim() -> impl Strategy<Value = Dim> {
    prop_oneof![
        any::<usize>().prop_map(Dim::Known),
        name().prop_map(|name| Dim::Sym(name.into())),
        Just(Dim::Unknown)
    ]
}

fn dtype() -> impl Strategy<Value = DType> {
    proptest::sample::select(DType::all().collect::<Vec<_>>())
}

fn ty() -> impl Strategy<Value = Type> {
    let leaf = prop_oneof![
        Just(Type::Unknown),
        dtype().prop_map(Type::unranked),
        (dtype(), prop::collection::vec(dim(), 0..4)).prop_map(|(d, dims)| Type::shaped(d, dims)),
    ];
    leaf.prop_recursive(3, 4, 1, |inner| {
        prop_oneof![
            inner.clone().prop_map(|ty| Type::Sequence(Box::new(ty))),
            inner.prop_map(|ty| Type::Optional(Box::new(ty)))
        ]
    })
}

/// Any bits at all, so that NaN payloads and padding bits are covered.
fn tensor() -> impl Strategy<Value = Tensor> {
    let shape = prop::collection::vec(0usize..4, 0..3);
    (dtype(), shape).prop_flat_map(|(dtype, shape)| {
        let count = shape.iter().product::<usize>();
        let texts = if dtype == DType::String { count } else { 0 };
        let bytes = prop::collection::vec(any::<u8>(), dtype.bytes(count).unwrap());
        (bytes, prop::collection::vec(name(), texts)).prop_map(move |(bytes, texts)| match dtype {
            DType::String => Tensor::from_strings(&shape, texts).unwrap(),
            _ => Tensor::from_bytes(dtype, &shape, &bytes).unwrap(),
        })
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![tensor().prop_map(Value::Tensor), Just(Value::Optional(None))];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Sequence),
            inner.prop_map(|value| Value::Optional(Some(Box::new(value))))
        ]
    })
}

fn float() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(f32::from_bits).prop_filter("NaN is not equal to itself", |x| !x.is_nan())
}

fn attr(body: BoxedStrategy<Graph>) -> impl Strategy<Value = Attr> {
    let bodies = prop::collection::vec(body.clone().prop_map(Arc::new), 0..2);
    prop_oneof![
        any::<i64>().prop_map(Attr::Int),
        float().prop_map(Attr::Float),
        name().prop_map(Attr::Str),
        tensor().prop_map(Attr::Tensor),
        ty().prop_map(Attr::Type),
        prop::collection::vec(any::<i64>(), 0..4).prop_map(Attr::Ints),
        prop::collection::vec(float(), 0..4).prop_map(Attr::Floats),
        prop::collection::vec(name(), 0..4).prop_map(Attr::Strs),
        prop::collection::vec(tensor(), 0..3).prop_map(Attr::Tensors),
        body.prop_map(|body| Attr::Graph(Arc::new(body))),
        bodies.prop_map(Attr::Graphs),
    ]
}

/// One node before its ids are chosen: numbers that pick among the values defined so far.
type Draft = (String, String, u32, Vec<(String, Attr)>, Vec<Option<usize>>, usize);

fn draft(body: BoxedStrategy<Graph>) -> impl Strategy<Value = Draft> {
    (
        name(),
        name(),
        prop_oneof![Just(u32::MAX), 1u32..30],
        prop::collection::vec((name(), attr(body)), 0..4),
        prop::collection::vec(prop::option::of(any::<usize>()), 0..4),
        0usize..3,
    )
}

fn graph_of(body: BoxedStrategy<Graph>) -> BoxedStrategy<Graph> {
    let values = prop::collection::vec((name(), ty()), 1..12);
    let constants = prop::collection::vec(value(), 0..3);
    let drafts = prop::collection::vec(draft(body), 0..4);
    (name(), values, constants, drafts, any::<u64>())
        .prop_map(|(name, values, constants, drafts, seed)| {
            assemble(name, values, constants, drafts, seed)
        })
        .boxed()
}

/// Gives out ids in an order that `seed` shuffles.
fn assemble(
    name: String,
    values: Vec<(String, Type)>,
    constants: Vec<Value>,
    drafts: Vec<Draft>,
    mut seed: u64,
) -> Graph {
    let mut graph = Graph { name, ..Graph::default() };
    for (index, (name, ty)) in values.into_iter().enumerate() {
        let id = graph.add_value(&name, ty);
        graph.values[index].name = name;
        assert_eq!(id.index(), index);
    }
    let mut left: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
    let shuffle = seed.is_multiple_of(2);
    let mut fresh = move || {
        if left.is_empty() {
            return None;
        }
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        Some(left.remove(if shuffle { (seed >> 33) as usize % left.len() } else { 0 }))
    };
    let mut defined: Vec<ValueId> = fresh().into_iter().collect();
    graph.inputs = defined.clone();
    for value in constants {
        let Some(id) = fresh() else { break };
        graph.constants.insert(id, value);
        defined.push(id);
    }
    for (name, op, version, attrs, inputs, outputs) in drafts {
        let pick = |input: Option<usize>| input.map(|index| defined[index % defined.len()]);
        let mut node = Node::new(&op, &[], &[]);
        node.name = name;
        node.version = version;
        for (name, attr) in attrs {
            node.attrs.set(&name, attr);
        }
        let outer = defined[defined.len() / 2];
        node.map_uses(|_| outer);
        node.inputs = inputs.into_iter().map(pick).collect();
        node.outputs = (0..outputs).map(|_| fresh()).collect();
        defined.extend(node.defs());
        graph.nodes.push(node);
    }
    graph.outputs = defined.iter().rev().take(2).copied().collect();
    graph
}

/// A body: one of its values is captured rather than an input.
fn capturing(mut graph: Graph) -> Graph {
    let inner = graph.inputs.remove(0);
    graph.captures.push(Capture { outer: ValueId(0), inner });
    graph
}

fn graph() -> BoxedStrategy<Graph> {
    let leaf = Just(Graph::default()).boxed();
    let inner = graph_of(leaf).prop_map(capturing).boxed();
    graph_of(inner)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn print_and_parse_are_inverse(graph in graph()) {
        let text = print(&graph);
        let back = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(&back, &graph, "{}", text);
    }

    #[test]
    fn no_text_panics(
        text in any::<String>(),
        graph in graph(),
        at in any::<prop::sample::Index>(),
    ) {
        let _ = parse(&text);
        let whole = print(&graph);
        let mut cut = at.index(whole.len());
        while !whole.is_char_boundary(cut) {
            cut -= 1;
        }
        let _ = parse(&format!("{}{text}{}", &whole[..cut], &whole[cut..]));
        let _ = verify(&graph);
    }
}
