//! The Gradient operator.

use super::*;

fn text(name: &str, text: &str) -> AttributeProto {
    AttributeProto {
        s: Some(Bytes::copy_from_slice(text.as_bytes())),
        ..attribute(name, attr_type::STRING)
    }
}

fn list(name: &str, texts: &str) -> AttributeProto {
    let bytes = |text: String| Bytes::from(text.into_bytes());
    AttributeProto {
        strings: names(texts).into_iter().map(bytes).collect(),
        ..attribute(name, attr_type::STRINGS)
    }
}

fn gradient(text_form: &str, xs: &str, zs: &str, y: &str) -> NodeProto {
    let node = node(&format!("ai.onnx.preview.training.Gradient: {text_form}"));
    let node = node.with(list("xs", xs)).with(text("y", y));
    if zs.is_empty() { node } else { node.with(list("zs", zs)) }
}

#[test]
fn a_gradient_is_written_out_and_may_be_of_a_gradient() {
    // y = a * a * b, dy/da = 2ab, d2y/da2 = 2b.
    let nodes = vec![
        node("Mul: a a -> s"),
        node("Mul: s b -> y"),
        gradient("a b -> da db", "a b", "", "y"),
        gradient("a b -> dada", "a", "b", "da"),
    ];
    let proto = model(graph("a b", "y da db dada", nodes));
    assert_eq!(run(&proto, &[&[3.0], &[5.0]]), [[45.0], [30.0], [9.0], [10.0]]);
    let read = read(&proto).unwrap();
    let mut seen = std::collections::HashSet::new();
    assert!(read.values.iter().all(|value| seen.insert(&value.name)), "names are unique");
}

#[test]
fn a_gradient_at_other_values_copies_what_it_needs() {
    let nodes = vec![
        // Before what it names.
        gradient("c b -> d", "a", "b", "y"),
        node("Mul: a b -> s"),
        node("Mul: s a -> y"),
        node("Add: a b -> c"),
    ];
    let proto = model(graph("a b", "d y", nodes));
    // At a = 3 + 5: d = 2 * 8 * 5; y itself stays.
    assert_eq!(run(&proto, &[&[3.0], &[5.0]]), [[80.0], [45.0]]);
}

#[test]
fn inner_values_end_the_path_and_the_independent_have_none() {
    let nodes = vec![
        node("Mul: a a -> s"),
        node("Mul: s a -> y"),
        gradient("s b -> ds db", "s b", "", "y"),
    ];
    let proto = model(graph("a b", "ds db", nodes));
    assert_eq!(run(&proto, &[&[3.0], &[5.0]]), [[3.0], [0.0]]);
}

#[test]
fn a_body_does_not_differentiate_through_the_graph_around() {
    // In the body y = w * x, and outside of it w = x * x.
    let with = |form: &str, zs: &str, y: &str| {
        let then = graph("", "d", vec![node("Mul: w x -> y"), gradient(form, "x", zs, y)]);
        let other = graph("", "e", vec![node("Add: x x -> e")]);
        let choice = node("If: yes -> r").with(body("then_branch", then));
        let nodes = vec![node("Mul: x x -> w"), choice.with(body("else_branch", other))];
        let mut proto = graph("x", "r", nodes);
        proto.initializer =
            vec![tensors::to_proto("yes", &Tensor::from_bools(&[], &[true]).unwrap())];
        model(proto)
    };
    for y in ["y", "w"] {
        let fault = read(&with("x -> d", "", y)).unwrap_err().to_string();
        assert!(fault.contains("`w` is of the graph around"), "{fault}");
    }
    assert_eq!(run(&with("x w -> d", "w", "y"), &[&[3.0]]), [[9.0]]);
}

#[test]
fn a_gradient_by_many_arguments_is_one_of_many_nodes() {
    let with = |count: usize| {
        let mut sum = node("Sum: -> y");
        sum.input = vec!["a".to_string(); count];
        read(&model(graph("a", "d", vec![sum, gradient("a -> d", "a", "", "y")])))
    };
    assert!(with(4).is_ok());
    assert!(with(1 << 18).unwrap_err().to_string().contains("so many nodes"));
}

#[test]
fn what_cannot_be_differentiated_is_named() {
    let with = |gradient: NodeProto| {
        let nodes = vec![node("Det: a -> s"), node("Mul: s b -> y"), gradient];
        read(&model(graph("a b", "d", nodes)))
    };
    let fault = with(gradient("a b -> d", "a", "b", "y")).unwrap_err().to_string();
    assert!(
        fault.contains("-> s") && fault.contains("Det") && fault.contains("no rule"),
        "{fault}"
    );
    // The path ends before it.
    assert!(with(gradient("b a -> d", "b", "a", "y")).is_ok());
    for (form, xs, zs, y, wanted) in [
        ("a b -> d", "a", "b", "none", "`none` is defined nowhere"),
        ("a b -> d", "a", "", "y", "2 values for 1 variables"),
        ("a a -> d", "a a", "", "y", "named twice"),
        ("a b -> d e", "a", "b", "y", "2 outputs of 1"),
        ("a _ -> d", "a", "b", "y", "input 1 is missing"),
    ] {
        let fault = with(gradient(form, xs, zs, y)).unwrap_err().to_string();
        assert!(fault.contains(wanted), "{fault}, wanted {wanted}");
    }
}
