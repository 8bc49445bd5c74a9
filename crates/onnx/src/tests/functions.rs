//! Model-local functions.

use super::*;

fn with(graph: GraphProto, functions: Vec<FunctionProto>) -> ModelProto {
    ModelProto { functions, ..model(graph) }
}

#[test]
fn functions_are_inlined_through_calls_and_bodies() {
    // scale(x; by) = x * by; twice(x; by) = scale(scale(x; by); 3 unless told).
    let by = node("Constant: -> by").with(reference("value_float", attr_type::FLOAT, "by"));
    let mut scale = function("scale", "x", "y", vec![node("Mul: x by -> y"), by]);
    scale.attribute_proto.push(float("by", 3.0));
    let mut twice = function(
        "twice",
        "x",
        "y",
        vec![
            node("local.scale: x -> once").with(reference("by", attr_type::FLOAT, "by")),
            node("local.scale: once -> y"),
        ],
    );
    twice.attribute.push("by".to_string());
    let nodes = vec![
        node("local.twice: x -> a").with(float("by", 10.0)),
        // Not given here: the inner call falls back on the default of `scale`.
        node("local.twice: x -> b"),
        node("Add: a b -> y"),
    ];
    let proto = with(graph("x", "y", nodes), vec![scale, twice]);
    assert_eq!(run(&proto, &[&[1.0]]), [[39.0]]);
    let read = read(&proto).unwrap();
    let mut seen = std::collections::HashSet::new();
    assert!(read.values.iter().all(|value| seen.insert(&value.name)), "names are unique");
    assert!(read.find_value("a/once").is_some() && read.find_value("a").is_some());
}

#[test]
fn arguments_may_be_left_out_and_handed_through() {
    let pass = function("pass", "x unused", "x x", vec![]);
    let nodes =
        vec![node("local.pass: x _ -> a b"), node("local.pass: a -> c"), node("Add: b c -> y")];
    let read = read(&with(graph("x", "y", nodes), vec![pass])).unwrap();
    let ops: Vec<&str> = read.nodes.iter().map(|node| node.op.as_str()).collect();
    assert_eq!(ops, ["Identity", "Identity", "Identity", "Add"]);
}

#[test]
fn a_body_given_as_an_attribute_sees_the_caller() {
    let choose = node("If: c -> y")
        .with(reference("then_branch", attr_type::GRAPH, "then"))
        .with(body("else_branch", graph("", "r", vec![node("Add: x x -> r")])));
    let choose = function("choose", "c x", "y", vec![choose]);
    let then = graph("", "r", vec![node("Mul: k k -> r")]);
    let call = node("local.choose: yes x -> y").with(body("then", then));
    let mut proto = graph("x k", "y", vec![call]);
    let yes = |value| tensors::to_proto("yes", &Tensor::from_bools(&[], &[value]).unwrap());
    proto.initializer = vec![yes(true)];
    let mut proto = with(proto, vec![choose]);
    assert_eq!(run(&proto, &[&[1.0], &[4.0]]), [[16.0]]);
    proto.graph.as_mut().unwrap().initializer = vec![yes(false)];
    assert_eq!(run(&proto, &[&[1.0], &[4.0]]), [[2.0]]);
}

#[test]
fn a_function_sees_nothing_but_its_arguments() {
    let leak = function("leak", "a", "y", vec![node("Add: a x -> y")]);
    let proto = with(graph("x", "y", vec![node("local.leak: x -> y")]), vec![leak]);
    assert!(matches!(read(&proto), Err(ImportError::UnknownInput { input, .. }) if input == "x"));
}

#[test]
fn calls_that_do_not_end_are_refused() {
    let call = graph("x", "y", vec![node("local.f: x -> y")]);
    let f = function("f", "a", "b", vec![node("local.g: a -> b")]);
    let g = function("g", "a", "b", vec![node("local.f: a -> b")]);
    let fault = read(&with(call.clone(), vec![f.clone(), g]));
    assert_eq!(fault, Err(ImportError::FunctionCycle { function: "f".to_string() }));
    let fault = read(&with(call.clone(), vec![f.clone(), f.clone()]));
    assert_eq!(fault, Err(ImportError::DuplicateFunction("f".to_string())));
    // 2 calls in each of 40 functions: 2^40 nodes.
    let step = |level: usize| {
        let next = level + 1;
        let calls =
            vec![node(&format!("local.f{next}: a -> t")), node(&format!("local.f{next}: t -> b"))];
        function(&format!("f{level}"), "a", "b", calls)
    };
    let mut functions: Vec<FunctionProto> = (0..40).map(step).collect();
    functions.push(function("f40", "a", "b", vec![node("Add: a a -> b")]));
    let call = graph("x", "y", vec![node("local.f0: x -> y")]);
    assert!(matches!(read(&with(call, functions)), Err(ImportError::TooLarge { .. })));
    // 1 call in each of 100 functions: too deep to recurse.
    let step = |level: usize| {
        let name = format!("f{level}");
        function(&name, "a", "b", vec![node(&format!("local.f{}: a -> b", level + 1))])
    };
    let call = graph("x", "y", vec![node("local.f0: x -> y")]);
    let fault = read(&with(call, (0..100).map(step).collect()));
    assert!(matches!(fault, Err(ImportError::TooDeep { .. })));
}
