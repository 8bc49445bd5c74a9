//! Plain graphs: constants, order, names, versions, export.

use hetra_ir::{Builder, Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use super::*;
use crate::proto::{SparseTensorProto, TensorProto};
use crate::{ExportOptions, export, import_model, same_graph};

#[test]
fn nodes_out_of_order_are_sorted() {
    let nodes = vec![node("Add: a x -> y"), node("Add: x x -> a")];
    assert_eq!(run(&model(graph("x", "y", nodes)), &[&[1.0, 2.0]]), [[3.0, 6.0]]);
}

#[test]
fn constants_come_from_initialisers_and_nodes() {
    let nodes = vec![
        node("Constant: -> c").with(float("value_float", 10.0)),
        node("Add: x w -> a"),
        node("Add: a c -> b"),
        node("Add: b s -> y"),
    ];
    let mut proto = graph("x", "y", nodes);
    proto.initializer.push(constant("w", &[1.0, 2.0]));
    proto.sparse_initializer.push(SparseTensorProto {
        values: Some(constant("s", &[100.0])),
        indices: Some(tensors::to_proto("", &Tensor::vector(&[1i64]))),
        dims: vec![2],
    });
    assert_eq!(run(&model(proto.clone()), &[&[0.0, 0.0]]), [[11.0, 112.0]]);
    // The same place as coordinates.
    let indices = Tensor::from_slice(&[1, 1], &[1i64]).unwrap();
    proto.sparse_initializer[0].indices = Some(tensors::to_proto("", &indices));
    assert_eq!(run(&model(proto.clone()), &[&[0.0, 0.0]]), [[11.0, 112.0]]);
    let indices = Tensor::from_slice(&[1, 1], &[2i64]).unwrap();
    proto.sparse_initializer[0].indices = Some(tensors::to_proto("", &indices));
    assert!(
        matches!(read(&model(proto)), Err(ImportError::Tensor { tensor, .. }) if tensor == "s")
    );
}

#[test]
fn every_form_of_a_constant_node_is_read() {
    let text =
        AttributeProto { s: Some(bytes("a")), ..attribute("value_string", attr_type::STRING) };
    let texts = AttributeProto {
        strings: vec![bytes("a"), bytes("b")],
        ..attribute("value_strings", attr_type::STRINGS)
    };
    let int = AttributeProto { i: Some(3), ..attribute("value_int", attr_type::INT) };
    let ints = AttributeProto { ints: vec![3, 4], ..attribute("value_ints", attr_type::INTS) };
    // Files of the oldest version do not tell the kind.
    let untold = AttributeProto { r#type: 0, ..ints.clone() };
    let cases = [
        (text, Tensor::from_strings(&[], vec!["a".to_string()]).unwrap()),
        (texts, Tensor::from_strings(&[2], vec!["a".to_string(), "b".to_string()]).unwrap()),
        (int, Tensor::scalar(3i64)),
        (ints, Tensor::vector(&[3i64, 4])),
        (untold, Tensor::vector(&[3i64, 4])),
    ];
    for (attribute, wanted) in cases {
        let graph = graph("", "c", vec![node("Constant: -> c").with(attribute)]);
        let graph = read(&model(graph)).unwrap();
        assert_eq!(graph.constants[&graph.outputs[0]], Value::Tensor(wanted));
        assert!(graph.nodes.is_empty());
    }
}

#[test]
fn an_initialiser_of_an_input_is_its_default_from_ir_version_4_on() {
    let mut proto = graph("x w", "y", vec![node("Add: x w -> y")]);
    proto.initializer.push(constant("w", &[1.0]));
    let mut proto = model(proto);
    assert_eq!(read(&proto).unwrap().inputs.len(), 2);
    assert_eq!(run(&proto, &[&[1.0]]), [[2.0]]);
    assert_eq!(run(&proto, &[&[1.0], &[5.0]]), [[6.0]]);
    let mut fixed = read(&proto).unwrap();
    fixed.fix_defaults(|name| name == "w");
    assert_eq!(fixed.inputs.len(), 2);
    fixed.fix_defaults(|_| false);
    assert_eq!((fixed.inputs.len(), fixed.constants.len()), (1, 1));
    proto.ir_version = Some(3);
    assert_eq!(read(&proto).unwrap().inputs.len(), 1);
}

#[test]
fn the_oldest_files_mean_the_first_operator_set() {
    let mut proto = model(graph("x", "y", vec![node("Add: x x -> y")]));
    proto.opset_import.clear();
    assert!(matches!(read(&proto), Err(ImportError::NoOpset { .. })));
    proto.ir_version = Some(2);
    assert_eq!(read(&proto).unwrap().nodes[0].version, 1);
}

#[test]
fn typed_fields_hold_narrow_elements() {
    let read = |dtype: DType, numbers: &[i32], count: i64| {
        let proto = TensorProto {
            dims: vec![count],
            data_type: dtype.onnx(),
            int32_data: numbers.to_vec(),
            ..TensorProto::default()
        };
        crate::tensor_from_bytes(&proto.encode_to_vec()).unwrap().1
    };
    assert_eq!(read(DType::I8, &[-1, 2], 2), Tensor::vector(&[-1i8, 2]));
    assert_eq!(read(DType::U16, &[65535], 1), Tensor::vector(&[65535u16]));
    assert_eq!(read(DType::F16, &[0x3c00], 1).bytes(), [0x00, 0x3c]);
    assert_eq!(read(DType::Bool, &[1, 0], 2), Tensor::from_bools(&[2], &[true, false]).unwrap());
    // Two elements in a byte; what is left over is cleared.
    assert_eq!(read(DType::I4, &[0x21, 0xf3], 3).bytes(), [0x21, 0x03]);
}

#[test]
fn tensors_come_back_from_their_bytes() {
    let texts = Tensor::from_strings(&[2], vec!["a".to_string(), String::new()]).unwrap();
    for tensor in
        [Tensor::vector(&[1.5f32, -0.0]), Tensor::zeros(DType::I4, &[0, 3]).unwrap(), texts]
    {
        let bytes = crate::tensor_to_bytes("name", &tensor);
        assert_eq!(crate::tensor_from_bytes(&bytes).unwrap(), ("name".to_string(), tensor));
    }
}

#[test]
fn facts_of_the_file_are_kept() {
    let mut proto = model(graph("x", "y", vec![node("Add: x x -> y")]));
    proto.producer_name = "someone".to_string();
    let read = import_model(&proto.encode_to_vec(), &ImportOptions::default()).unwrap();
    assert_eq!(read.info.producer, "someone");
    assert_eq!(read.info.opsets[""], 21);
    assert_eq!(read.graph.value(read.graph.outputs[0]).name, "y");
}

#[test]
fn what_the_definition_of_a_node_does_not_have_is_told() {
    let warnings = |nodes: Vec<NodeProto>, version| {
        let proto = ModelProto { opset_import: opset(version), ..model(graph("x", "y", nodes)) };
        import_model(&proto.encode_to_vec(), &ImportOptions::default()).unwrap().info.warnings
    };
    let relu = |name: &str| node("Relu: x -> y").with(float(name, 1.0));
    assert_eq!(
        warnings(vec![relu("axes")], 21),
        ["node `Relu -> y` (Relu): it has no attribute `axes`"]
    );
    // An attribute of the first version only.
    assert!(warnings(vec![relu("consumed_inputs")], 21).is_empty());
    let early = warnings(vec![node("Gelu: x -> y")], 19);
    assert_eq!(early, ["node `Gelu -> y` (Gelu): opset 19 has no such operator, 20 has"]);
    assert!(warnings(vec![node("Gelu: x -> y")], 20).is_empty());
    let early = warnings(vec![node("CumProd: x x -> y")], 23);
    assert_eq!(early, ["node `CumProd -> y` (CumProd): opset 23 has no such operator, 26 has"]);
    // A file cannot fill the memory with them.
    let name = |at: usize| if at == 99 { "y".to_string() } else { format!("v{at}") };
    let from = |at: usize| if at == 0 { "x".to_string() } else { name(at - 1) };
    let many = (0..100)
        .map(|at| node(&format!("Relu: {} -> {}", from(at), name(at))).with(float("axes", 1.0)));
    assert_eq!(warnings(many.collect(), 21).len(), 16);
}

#[test]
fn unknown_operators_may_stay() {
    let proto = model(graph("x", "y", vec![node("some.where.Thing: x -> y")])).encode_to_vec();
    let refused = import(&proto, &ImportOptions::default()).unwrap_err();
    assert_eq!(
        refused,
        ImportError::UnknownOp {
            node: "some.where.Thing -> y".to_string(),
            op: "Thing".to_string(),
            domain: "some.where".to_string(),
            version: 1
        }
    );
    let options = ImportOptions { allow_unknown_ops: true, ..ImportOptions::default() };
    assert_eq!(import(&proto, &options).unwrap().nodes[0].op, "some.where.Thing");
}

#[test]
fn a_built_graph_comes_back_from_a_file() {
    let mut builder = Builder::new("built");
    let dims = vec![Dim::Sym("n".into()), Dim::Known(2)];
    let x = builder.input("x", DType::F32, dims);
    let w = builder.constant("x", Tensor::vector(&[1f32, 2.0]));
    let sum = builder.op("Add", &[x, w]);
    let twice = builder.op("Mul", &[sum, sum]);
    builder.output(twice);
    builder.output(sum);
    let graph = builder.finish();
    let bytes = export(&graph, &ExportOptions::default()).unwrap();
    let again = import(&bytes, &ImportOptions::default()).unwrap();
    same_graph(&graph, &again).unwrap();
    assert_eq!(again.ty(again.inputs[0]), graph.ty(x), "the names of dims are kept at the top");
    assert!(same_graph(&graph, &Builder::new("other").finish()).is_err());
}

#[test]
fn sequences_are_written_as_the_nodes_that_make_them() {
    let mut graph = hetra_ir::Graph::default();
    let items = Value::Sequence(vec![Tensor::scalar(1f32).into()]);
    let list = graph.add_constant("list", items);
    let empty = graph.add_constant("empty", Value::Sequence(Vec::new()));
    graph.values[empty.index()].ty = Type::Sequence(Box::new(Type::unranked(DType::F32)));
    graph.outputs = vec![list, empty];
    let bytes = export(&graph, &ExportOptions::default()).unwrap();
    let options = ImportOptions { allow_unknown_ops: true, ..ImportOptions::default() };
    let again = import(&bytes, &options).unwrap();
    let ops: Vec<&str> = again.nodes.iter().map(|node| node.op.as_str()).collect();
    assert_eq!(ops, ["SequenceConstruct", "SequenceEmpty"]);
}

#[test]
fn images_with_channels_last_are_written_as_onnx_has_them() {
    let text = r#"graph "g" (%x: f32[1,3,4,2]) {
        const %w = f32[3,2,1,1] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        %a: f32[1,3,4,3] = hetra.ConvLast(%x, %w)
        %y: f32[1,2,3,3] = hetra.MaxPoolLast(%a) {kernel_shape = [2, 2]}
        return (%y)
    }"#;
    let graph = hetra_ir::parse(text).unwrap();
    let bytes = crate::export(&graph, &crate::ExportOptions::default()).unwrap();
    let read = import(&bytes, &ImportOptions::default()).unwrap();
    let ops: Vec<&str> = read.nodes.iter().map(|node| node.op.as_str()).collect();
    let turned = ["Transpose", "com.microsoft.FusedConv", "Transpose"];
    assert_eq!(ops, [turned, ["Transpose", "MaxPool", "Transpose"]].concat());
    let values: Vec<f32> = (0..24_u8).map(|i| f32::from(i * 7 % 11)).collect();
    let x = Tensor::from_slice(&[1, 3, 4, 2], &values).unwrap();
    let run = |graph| hetra_ops::interpret(graph, vec![x.clone().into()], &|_| None).unwrap();
    assert_eq!(run(&graph), run(&read));
}

#[test]
fn tables_of_codes_are_written_as_gathers() {
    let table: Vec<u8> = (0..=255).map(|code: u8| code.wrapping_mul(77)).collect();
    for dtype in [DType::U8, DType::I8] {
        let mut graph = hetra_ir::Graph::default();
        let x = graph.add_value("x", Type::tensor(dtype, &[256]));
        let entries = graph.add_value("table", Type::tensor(DType::U8, &[256]));
        let y = graph.add_value("y", Type::tensor(DType::U8, &[256]));
        graph.inputs = vec![x];
        graph.outputs = vec![y];
        let constant = Tensor::from_slice(&[256], &table).unwrap();
        graph.constants.insert(entries, constant.into());
        graph.nodes.push(hetra_ir::Node::new("hetra.CodeTable", &[x, entries], &[y]));
        let bytes = crate::export(&graph, &crate::ExportOptions::default()).unwrap();
        let read = import(&bytes, &ImportOptions::default()).unwrap();
        let ops: Vec<&str> = read.nodes.iter().map(|node| node.op.as_str()).collect();
        assert_eq!(ops, ["Cast", "Gather"]);
        let mut codes = Tensor::zeros(dtype, &[256]).unwrap();
        let every = codes.bytes_mut().unwrap().iter_mut();
        every.zip(0..=255).for_each(|(byte, code)| *byte = code);
        let run =
            |graph| hetra_ops::interpret(graph, vec![codes.clone().into()], &|_| None).unwrap();
        assert_eq!(run(&graph), run(&read));
    }
}

#[test]
fn slices_of_several_tensors_are_written_as_gathers() {
    let text = r#"graph "g" (%x: f32[2,2,3], %z: f32[2,1,3]) {
        %y: f32[2,4,3] = hetra.GatherConcat "pick" (%x, %z) {axis = 1, indices = [2, 0, 1, 2]}
        return (%y)
    }"#;
    let graph = hetra_ir::parse(text).unwrap();
    let bytes = crate::export(&graph, &crate::ExportOptions::default()).unwrap();
    let read = import(&bytes, &ImportOptions::default()).unwrap();
    let values: Vec<f32> = (0..18_u8).map(f32::from).collect();
    let x = Tensor::from_slice(&[2, 2, 3], &values[..12]).unwrap();
    let z = Tensor::from_slice(&[2, 1, 3], &values[12..]).unwrap();
    let run = |graph| {
        let inputs = vec![x.clone().into(), z.clone().into()];
        hetra_ops::interpret(graph, inputs, &|_| None).unwrap()
    };
    assert_eq!(run(&graph), run(&read));
}

#[test]
fn how_exactly_to_compute_is_not_written() {
    let text = r#"graph "g" (%x: f32[2,2]) {
        const %w = f32[2,2] [1.0, 2.0, 3.0, 4.0]
        %y: f32[2,2] = MatMul(%x, %w) {compute = "bf16"}
        return (%y)
    }"#;
    let graph = hetra_ir::parse(text).unwrap();
    assert!(graph.nodes[0].attrs.has("compute"));
    let bytes = export(&graph, &ExportOptions::default()).unwrap();
    let read = import(&bytes, &ImportOptions::default()).unwrap();
    assert!(read.nodes[0].attrs.0.is_empty(), "{:?}", read.nodes[0].attrs);
}
