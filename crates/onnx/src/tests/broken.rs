//! Files that are wrong: each is an error that says where, never a panic.

use hetra_tensor::DType;
use proptest::prelude::*;

use super::*;
use crate::TensorFault;
use crate::proto::TensorProto;

/// A model with something of everything.
fn sample() -> Vec<u8> {
    let then = graph("", "r", vec![node("Add: a w -> r")]);
    let choose = node("If: yes -> y")
        .with(body("then_branch", then.clone()))
        .with(body("else_branch", then));
    let scale = node("Constant: -> by").with(reference("value_float", attr_type::FLOAT, "by"));
    let scale = function("scale", "x", "y", vec![scale, node("Mul: x by -> y")]);
    let mut proto =
        graph("x", "y", vec![node("local.scale: x -> a").with(float("by", 2.0)), choose]);
    let yes = tensors::to_proto("yes", &Tensor::from_bools(&[], &[true]).unwrap());
    proto.initializer = vec![yes, constant("w", &[1.0])];
    ModelProto { functions: vec![scale], ..model(proto) }.encode_to_vec()
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_an_error_or_a_smaller_model() {
    let whole = sample();
    assert!(import(&whole, &ImportOptions::default()).is_ok());
    for length in 0..whole.len() {
        let _ = import(&whole[..length], &ImportOptions::default());
    }
    assert_eq!(import(&[], &ImportOptions::default()), Err(ImportError::NoGraph));
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = sample();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(graph) = import(&bytes, &ImportOptions::default()) {
            prop_assert_eq!(hetra_ir::verify(&graph), Ok(()));
        }
    }
}

#[test]
fn faults_name_their_place() {
    let read_nodes =
        |nodes: Vec<NodeProto>| read(&model(graph("x", "y", nodes))).unwrap_err().to_string();
    let cases = [
        (vec![node("Add: x z -> y")], "node `Add -> y` (Add): its input `z` is defined nowhere"),
        (vec![node("Add: x x -> z")], "output `y` of graph `g` is defined nowhere"),
        (
            vec![node("Add: x x -> y"), node("Mul: x x -> y")],
            "`y` is defined twice, at node `Mul -> y`",
        ),
        (
            vec![node("Add: x x -> x"), node("Add: x x -> y")],
            "node `Add -> x` (Add) needs its own result: the graph has a cycle",
        ),
        (
            vec![node("Add: y x -> z"), node("Add: z x -> y")],
            "node `Add -> z` (Add) needs its own result: the graph has a cycle",
        ),
        (vec![node("Add: x -> y")], "node `Add -> y` (Add): it has 1 input, wanted 2"),
        (vec![node("Nope: x -> y")], "node `Nope -> y`: no operator `Nope` of ai.onnx"),
        (
            vec![node("Reul: x -> y")],
            "node `Reul -> y`: no operator `Reul` of ai.onnx; did you mean `Relu`?",
        ),
        (
            vec![node("com.microsoft.nchwc.Conv: x -> y")],
            "node `com.microsoft.nchwc.Conv -> y`: no operator `Conv` of com.microsoft.nchwc: the \
             file was optimised for one processor; save it with ONNX Runtime's optimisations at \
             the level `extended` at most",
        ),
        (
            vec![node("Constant: -> y")],
            "node `Constant -> y` (Constant): attribute `value`: a constant has exactly one attribute",
        ),
        (
            vec![node("Add: x x -> y").with(float("a", 1.0)).with(float("a", 1.0))],
            "`a` is defined twice, at node `Add -> y`",
        ),
        (
            vec![node("Add: x x -> y").with(reference("a", attr_type::INT, "b"))],
            "node `Add -> y` (Add): attribute `a`: it refers to a function, but stands in none",
        ),
    ];
    for (nodes, wanted) in cases {
        assert_eq!(read_nodes(nodes), wanted);
    }
}

#[test]
fn files_from_the_future_are_refused_unless_allowed() {
    let relu = || model(graph("x", "y", vec![node("Relu: x -> y")]));
    let set = |domain: &str, version| OperatorSetIdProto {
        domain: domain.to_string(),
        version: Some(version),
    };
    let with = |set| {
        let mut proto = relu();
        proto.opset_import.push(set);
        proto
    };
    let newest = i64::from(hetra_ops::newest_version(""));
    assert!(newest >= crate::OPSET.into(), "what is written can be read");
    let old = ModelProto { ir_version: Some(13), opset_import: vec![set("", newest)], ..relu() };
    assert!(read(&old).is_ok());
    let mut called = with(set("x", 99));
    called.functions = vec![function("f", "x", "y", vec![node("Relu: x -> y")])];
    called.functions[0].opset_import = vec![set("", 99)];
    called.graph = Some(graph("x", "y", vec![node("local.f: x -> y")]));
    let opset = format!("opset of ai.onnx 99, and the newest that Hetra knows is {newest}");
    let cases = [
        (ModelProto { opset_import: vec![set("ai.onnx", 99)], ..relu() }, opset.as_str()),
        (with(set("ai.onnx.ml", 99)), "opset of ai.onnx.ml 99, and the newest"),
        (ModelProto { ir_version: Some(99), ..relu() }, "version of the file format 99, and"),
        (called, opset.as_str()),
    ];
    for (proto, wanted) in cases {
        let fault = read(&proto).unwrap_err().to_string();
        assert!(fault.starts_with(&format!("the file wants {wanted}")), "{fault}");
        let options = ImportOptions { allow_newer: true, ..ImportOptions::default() };
        assert!(import(&proto.encode_to_vec(), &options).is_ok(), "{wanted}");
    }
}

#[test]
fn names_are_given_once() {
    let mut twice = graph("x x", "x", vec![]);
    assert!(matches!(read(&model(twice.clone())), Err(ImportError::Duplicate { .. })));
    twice.input.pop();
    twice.initializer = vec![constant("w", &[1.0]), constant("w", &[1.0])];
    assert!(matches!(read(&model(twice.clone())), Err(ImportError::Duplicate { .. })));
    twice.initializer = vec![constant("x", &[1.0]), constant("x", &[1.0])];
    assert!(matches!(read(&model(twice.clone())), Err(ImportError::Duplicate { .. })));
    twice.initializer = vec![constant("", &[1.0])];
    assert!(matches!(read(&model(twice)), Err(ImportError::NoName { .. })));
}

#[test]
fn tensors_are_checked() {
    let read = |proto: TensorProto| match crate::tensor_from_bytes(&proto.encode_to_vec()) {
        Err(ImportError::Tensor { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    let tensor = |dims: &[i64], code: i32| TensorProto {
        dims: dims.to_vec(),
        data_type: code,
        ..TensorProto::default()
    };
    let float = DType::F32.onnx();
    assert_eq!(read(tensor(&[1], 99)), TensorFault::DType(99));
    assert_eq!(read(tensor(&[-1], float)), TensorFault::Extent(-1));
    assert!(matches!(read(tensor(&[1; 65], float)), TensorFault::Rank { .. }));
    assert!(matches!(read(tensor(&[1 << 40, 1 << 40], float)), TensorFault::Tensor(_)));
    assert!(matches!(read(tensor(&[i64::MAX], float)), TensorFault::Tensor(_)));
    assert!(matches!(read(tensor(&[2], float)), TensorFault::Tensor(_)), "too few elements");
    let text = TensorProto { string_data: vec![Bytes::from_static(&[0xff])], ..tensor(&[1], 8) };
    assert_eq!(read(text), TensorFault::Text);
}

#[test]
fn sparse_tensors_cannot_fill_the_memory() {
    let huge = |name: &str| crate::proto::SparseTensorProto {
        values: Some(constant(name, &[])),
        indices: None,
        dims: vec![1 << 30],
    };
    let mut proto = graph("", "a", vec![]);
    proto.sparse_initializer = vec![huge("a"), huge("b"), huge("c")];
    let Err(ImportError::Tensor { tensor, .. }) = read(&model(proto)) else { panic!("4 GiB each") };
    assert_eq!(tensor, "c");
}
