//! Models and inputs that nobody should give us: each is an error that names its place, none is
//! a panic, and none fills the memory or runs for ever.

#![allow(clippy::result_large_err, reason = "the error is that of the session")]

use crate::places;
use crate::set_limits;
use crate::watch::Watch;
use crate::wire::{Field, int, message, model, node, text, value};
use hetra::{DType, Error, Session, Tensor, Value};
use hetra_ir::{Dim, Graph};

fn build(bytes: Vec<u8>) -> Result<Session, Error> {
    Session::builder().model_bytes(bytes).threads(1).build()
}

/// The message of a file that must be refused.
#[track_caller]
fn refused(bytes: Vec<u8>) -> String {
    set_limits();
    build(bytes).err().expect("the file is refused").to_string()
}

/// y = relu(x + x), in two nodes.
fn small() -> Vec<u8> {
    model(vec![
        node("twice Add: x x -> z", vec![]),
        node("clip Relu: z -> y", vec![]),
        value(11, "x", &[2, 3]),
        value(12, "y", &[2, 3]),
    ])
}

fn zeros(session: &Session) -> Vec<(String, Tensor)> {
    let zero = |port: hetra::Port| {
        let dims = port.ty.dims().unwrap_or_default();
        let shape: Vec<usize> = dims.iter().map(|dim| dim.known().unwrap_or(2)).collect();
        let dtype = port.ty.dtype().unwrap_or(DType::F32);
        Some((port.name, Tensor::zeros(dtype, &shape).ok()?))
    };
    session.inputs().into_iter().filter_map(zero).collect()
}

/// Builds and runs what may be broken in any way; a panic is a fault.
fn survives(watch: &Watch, bytes: Vec<u8>) -> Result<(), String> {
    watch.run(bytes.clone(), move || {
        if let Ok(session) = build(bytes) {
            let _ = session.run(zeros(&session));
        }
    })
}

#[test]
fn a_file_that_ends_early_is_an_error_or_a_smaller_model() {
    set_limits();
    let watch = Watch::new("cut");
    let whole = small();
    for length in 0..whole.len() {
        survives(&watch, whole[..length].to_vec()).expect("no panic");
    }
    // The real model: everywhere in what is not weights, and here and there in the weights.
    let digits = std::fs::read(places::digits()).expect("the model of the checkout");
    let structured = (0..600).chain((600..digits.len()).step_by(2003));
    for length in structured.chain(digits.len() - 300..digits.len()) {
        survives(&watch, digits[..length].to_vec()).expect("no panic");
    }
    assert!(build(digits).is_ok());
}

#[test]
fn a_flipped_bit_never_panics() {
    set_limits();
    let watch = Watch::new("flip");
    let whole = small();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        survives(&watch, bytes).expect("no panic");
    }
    let digits = std::fs::read(places::digits()).expect("the model of the checkout");
    for bit in (0..800 * 8).step_by(11) {
        let mut bytes = digits.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        survives(&watch, bytes).expect("no panic");
    }
}

#[test]
fn broken_graphs_name_the_node() {
    set_limits();
    let ends = || vec![value(11, "x", &[2, 3]), value(12, "y", &[2, 3])];
    let check = |nodes: Vec<Field>, parts: &[&str]| {
        let session = build(model(nodes.into_iter().chain(ends()).collect()));
        let message = session.err().unwrap_or_else(|| panic!("{parts:?} is built")).to_string();
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    };
    check(vec![node("a Add: x q -> y", vec![])], &["`a`", "`q`"]);
    check(vec![node("a Add: x x -> z", vec![])], &["`y`"]);
    check(vec![node("a Add: y x -> y", vec![])], &["`a`", "cycle"]);
    let two = vec![node("a Add: y x -> z", vec![]), node("b Add: z x -> y", vec![])];
    check(two, &["cycle"]);
    let twice = vec![node("a Add: x x -> y", vec![]), node("b Mul: x x -> y", vec![])];
    check(twice, &["`y`", "twice"]);
    check(vec![node("a Warp: x -> y", vec![])], &["`a`", "`Warp`"]);
    check(vec![node("a Add: x -> y", vec![])], &["`a`", "Add", "1 input,"]);
    check(vec![node("a Relu: x -> y z", vec![])], &["`a`", "Relu", "2 outputs"]);
    let perm = |axes: &[i64]| {
        let axes = axes.iter().map(|&axis| int(8, axis));
        let fields = [text(1, "perm"), int(20, 7)].into_iter().chain(axes).collect();
        vec![message(5, fields)]
    };
    check(vec![node("a Transpose: x -> y", perm(&[0, 7]))], &["a", "Transpose"]);
    check(vec![node("a Transpose: x -> y", perm(&[0, 0]))], &["a", "Transpose"]);
    check(vec![node("a MatMul: x x -> y", vec![])], &["a", "MatMul"]);
    check(vec![node("a MaxPool: x -> y", vec![])], &["a", "MaxPool", "`kernel_shape`"]);
    let body = message(5, vec![text(1, "body"), int(20, 5), message(6, vec![])]);
    check(vec![node("a Loop: x -> y", vec![body])], &["a", "Loop"]);
    assert!(refused(vec![]).contains("no graph"));
    assert!(refused(b"PK\x03\x04 not a model".to_vec()).contains("not an ONNX file"));
}

#[test]
fn endless_nesting_is_refused() {
    set_limits();
    let mut body = vec![node("a Identity: x -> y", vec![]), text(2, "b")];
    body.push(message(12, vec![text(1, "y")]));
    for _ in 0..200 {
        let branch =
            |name: &str| message(5, vec![text(1, name), int(20, 5), message(6, body.clone())]);
        let choose = node("a If: c -> y", vec![branch("then_branch")]);
        body = vec![choose, text(2, "b"), message(12, vec![text(1, "y")])];
    }
    body.extend([value(11, "x", &[1]), value(11, "c", &[1])]);
    let watch = Watch::new("nest");
    let bytes = model(body);
    watch.run(bytes.clone(), || assert!(build(bytes.clone()).is_err())).expect("no panic");
}

/// An f32 weight `w` of 4 elements that lies in another file.
fn external(location: &str, offset: &str, length: &str) -> Vec<u8> {
    let entry = |key: &str, value: &str| message(13, vec![text(1, key), text(2, value)]);
    let mut weight = vec![int(1, 4), int(2, 1), text(8, "w"), int(14, 1)];
    weight.extend([entry("location", location), entry("offset", offset), entry("length", length)]);
    model(vec![
        node("sum Add: x w -> y", vec![]),
        message(5, weight),
        value(11, "x", &[4]),
        value(12, "y", &[4]),
    ])
}

#[test]
fn external_data_stays_in_the_models_folder() {
    set_limits();
    let folder = std::env::temp_dir().join(format!("hetra-external-{}", std::process::id()));
    let inner = folder.join("model");
    std::fs::create_dir_all(&inner).expect("a folder");
    let weights: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|w| w.to_le_bytes()).collect();
    std::fs::write(inner.join("w.bin"), &weights).expect("a file");
    std::fs::write(folder.join("secret.bin"), &weights).expect("a file");
    let open = |location: &str, offset: &str, length: &str| {
        let path = inner.join("model.onnx");
        std::fs::write(&path, external(location, offset, length)).expect("a file");
        Session::builder().model_file(path).threads(1).build()
    };
    let session = open("w.bin", "0", "16").expect("all is well");
    let outputs = session.run(zeros(&session)).expect("a run");
    assert_eq!(outputs[0], Value::from(Tensor::vector(&[1f32, 2.0, 3.0, 4.0])));
    #[cfg(unix)]
    let _ = std::os::unix::fs::symlink(folder.join("secret.bin"), inner.join("link.bin"));
    let secret = folder.join("secret.bin").display().to_string();
    for (location, offset, length) in [
        ("none.bin", "0", "16"),
        ("../secret.bin", "0", "16"),
        ("./../secret.bin", "0", "16"),
        ("a/../../secret.bin", "0", "16"),
        ("..\\secret.bin", "0", "16"),
        (&secret, "0", "16"),
        ("/etc/passwd", "0", "16"),
        ("link.bin", "0", "16"),
        (".", "0", "16"),
        ("", "0", "16"),
        ("w.bin", "8", "16"),
        ("w.bin", "17", "16"),
        ("w.bin", "0", "8"),
        ("w.bin", "-1", "16"),
        ("w.bin", "18446744073709551615", "16"),
        ("w.bin", "0", "999999999999999999"),
        ("w.bin", "zero", "16"),
    ] {
        let message = open(location, offset, length).err();
        let message = message.unwrap_or_else(|| panic!("`{location}` {offset} {length} is read"));
        assert!(message.to_string().contains("`w`"), "{location}: {message}");
    }
    // Bytes alone have no folder.
    assert!(refused(external("w.bin", "0", "16")).contains("`w`"));
    std::fs::remove_dir_all(&folder).expect("our own folder");
}

/// Parses a graph, which must fail to build or to run; the fault names node `bad`.
fn fails(source: &str) {
    set_limits();
    let graph = hetra_ir::parse(source).unwrap_or_else(|fault| panic!("{fault} in {source}"));
    let watch = Watch::new("fails");
    for passes in [true, false] {
        let message = watch.run(source.as_bytes().to_vec(), || outcome(&graph, passes));
        let message = message.unwrap_or_else(|panic| panic!("{panic} in {source}"));
        assert!(message.contains("bad"), "the fault does not name the node: {message} in {source}");
    }
}

fn outcome(graph: &Graph, passes: bool) -> String {
    let mut builder = Session::builder().graph(graph.clone()).threads(2);
    if !passes {
        builder = builder.without_pass("all");
    }
    let session = match builder.build() {
        Ok(session) => session,
        Err(error) => return error.to_string(),
    };
    match session.run(zeros(&session)) {
        Ok(outputs) => {
            let got: Vec<String> = outputs.iter().map(|(_, value)| value.describe()).collect();
            format!("it ran and gave {}", got.join(", "))
        }
        Err(error) => error.to_string(),
    }
}

/// A graph of one node named `bad`, on an f32 input `x` and constants.
fn one(x: &str, constants: &[(&str, &str)], call: &str) -> String {
    let constants: String =
        constants.iter().map(|(name, value)| format!("const %{name} = {value}\n")).collect();
    let (op, rest) = call.split_once('(').expect("arguments");
    format!("graph \"g\" (%x: {x}) {{\n{constants}%y = {op} \"bad\" ({rest}\nreturn (%y)\n}}")
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let huge = "i64[2] [1099511627776, 1099511627776]";
    let large = "i64[2] [1099511627776, 2]";
    for shape in [huge, large, "i64[1] [9223372036854775807]", "i64[1] [-9223372036854775808]"] {
        fails(&one("f32[1]", &[("s", shape)], "ConstantOfShape(%s)"));
    }
    for shape in [huge, large] {
        fails(&one("f32[1,1]", &[("s", shape)], "Expand(%x, %s)"));
        fails(&one("f32[1,1]", &[("s", shape)], "Tile(%x, %s)"));
        fails(&one("f32[1,1]", &[("s", shape)], "Reshape(%x, %s)"));
        fails(&one("f32[1,1]", &[("s", shape)], "CenterCropPad(%x, %s)"));
    }
    let pads = "i64[4] [0, 1099511627776, 0, 1099511627776]";
    fails(&one("f32[1,1]", &[("p", pads)], "Pad(%x, %p)"));
    let pads = "i64[4] [0, 9223372036854775807, 0, 9223372036854775807]";
    fails(&one("f32[1,1]", &[("p", pads)], "Pad(%x, %p)"));
    for scales in ["[1.0, 1.0, 1e9, 1e9]", "[1.0, 1.0, inf, 1.0]", "[1.0, 1.0, nan, 1.0]"] {
        let scales = format!("f32[4] {scales}");
        fails(&one("f32[1,1,4,4]", &[("s", &scales)], "Resize(%x, _, %s)"));
    }
    let sizes = "i64[4] [1, 1, 4611686018427387904, 4]";
    fails(&one("f32[1,1,4,4]", &[("s", sizes)], "Resize(%x, _, _, %s) {mode = \"linear\"}"));
    let range = |start: &str, limit: &str, delta: &str| {
        let numbers = [("a", start), ("b", limit), ("d", delta)];
        fails(&one("f32[1]", &numbers, "Range(%a, %b, %d)"));
    };
    range("f32[] [0.0]", "f32[] [inf]", "f32[] [1.0]");
    range("f32[] [0.0]", "f32[] [1.0]", "f32[] [0.0]");
    range("f32[] [0.0]", "f32[] [1e30]", "f32[] [1e-30]");
    range("i64[] [0]", "i64[] [9223372036854775807]", "i64[] [1]");
    range("i64[] [-9223372036854775808]", "i64[] [9223372036854775807]", "i64[] [1]");
    fails(&one(
        "i64[1]",
        &[("d", "i64[] [1099511627776]"), ("v", "f32[2] [0.0, 1.0]")],
        "OneHot(%x, %d, %v)",
    ));
    fails(&one("f32[1]", &[("s", "i64[] [4611686018427387904]")], "HannWindow(%s)"));
    fails(&one("f32[1,1,4,4]", &[], "DepthToSpace(%x) {blocksize = 4611686018427387904}"));
    fails(&one(
        "f32[1,1,4,4]",
        &[("w", "f32[1,1,1,1] [1.0]")],
        "ConvTranspose(%x, %w) {strides = [1099511627776, 1099511627776]}",
    ));
    fails(&one(
        "f32[1,1,4,4]",
        &[("w", "f32[1,1,1,1] [1.0]")],
        "Conv(%x, %w) {pads = [0, 1099511627776, 0, 1099511627776]}",
    ));
    fails(&one("f32[4]", &[("a", "i64[1] [9223372036854775807]")], "Unsqueeze(%x, %a)"));
}

#[test]
fn a_shape_that_only_a_run_tells_is_limited_too() {
    set_limits();
    let mut b = hetra_ir::Builder::new("g");
    let shape = b.input("shape", DType::I64, vec![Dim::Known(2)]);
    let y = b.node(
        hetra_ir::Node {
            name: "bad".to_string(),
            ..hetra_ir::Node::new("ConstantOfShape", &[shape], &[])
        },
        1,
    );
    b.output(y[0]);
    let session = Session::builder().graph(b.finish()).build().expect("a session");
    for extents in [[1i64 << 40, 1 << 40], [1 << 30, 4], [-1, 4], [i64::MAX, i64::MAX]] {
        let error = session.run([("shape", Tensor::vector(&extents))]).err();
        let error = error.unwrap_or_else(|| panic!("{extents:?} ran")).to_string();
        assert!(error.contains("bad"), "{error}");
    }
    let outputs = session.run([("shape", Tensor::vector(&[0i64, 1 << 40]))]).expect("no elements");
    assert_eq!(outputs[0].describe(), "f32[0,1099511627776]");
}

/// A loop without a condition; its body is given.
fn turns(body: &str) -> String {
    let call = format!(
        "Loop(%t, _, %x) {{body = graph \"b\" (%i: i64[], %go: bool[], %v: f32[1]) {{\n{body}\n}}}}"
    );
    one("f32[1]", &[("t", "i64[] [9223372036854775807]")], &call)
}

#[test]
fn loops_without_an_end_are_stopped() {
    // By the limit on turns ..
    fails(&turns("%w = Add(%v, %v)\nreturn (%go, %w)"));
    // .. and, when each turn is larger than the last, by that on memory.
    fails(&turns("%w = Concat(%v, %v) {axis = 0}\nreturn (%go, %w)"));
    let condition = turns("%w = Add(%v, %v)\nreturn (%go, %w)")
        .replace("(%t, _,", "(_, %c,")
        .replace("const %t", "const %c = bool[] [true]\nconst %t");
    fails(&condition);
}

/// A loop in a loop, `depth` deep, each of one turn, that carries a value of changing shape: what
/// is inferred of the innermost must not be asked for again and again by each one around it.
fn nested_loops(depth: usize) -> String {
    let mut body = "%w = Concat(%v, %v) {axis = 0}".to_string();
    for _ in 0..depth {
        body = format!(
            "const %t = i64[] [1]\n%w = Loop(%t, _, %v) {{body = graph \"b\" (%i: i64[], %go: bool[], \
             %v: f32[..]) {{\n{body}\nreturn (%go, %w)\n}}}}"
        );
    }
    format!("graph \"g\" (%v: f32[1]) {{\n{body}\nreturn (%w)\n}}")
}

#[test]
fn nested_loops_do_not_take_for_ever() {
    set_limits();
    let watch = Watch::new("loops");
    for depth in [1, 4, 8, 16] {
        let source = nested_loops(depth);
        let graph = hetra_ir::parse(&source).expect("a graph");
        let ran = watch.run(source.into_bytes(), || {
            let session = Session::builder().graph(graph.clone()).threads(1).build();
            session.and_then(|session| session.run([("v", Tensor::vector(&[1f32]))]))
        });
        let outputs = ran.expect("no panic").unwrap_or_else(|error| panic!("{depth}: {error}"));
        assert_eq!(outputs[0].describe(), "f32[2]");
    }
}

#[test]
fn wrong_ranks_are_told() {
    for (x, call) in [
        ("f32[2]", "Conv(%x, %w)"),
        ("f32[2,2]", "MaxPool(%x) {kernel_shape = [2, 2]}"),
        ("f32[2]", "GlobalAveragePool(%x)"),
        ("f32[2]", "Gemm(%x, %w)"),
        ("f32[]", "MatMul(%x, %w)"),
        ("f32[2,3]", "MatMul(%x, %w)"),
        ("f32[2,3]", "Add(%x, %v)"),
        ("f32[2,3]", "Concat(%x, %v) {axis = 0}"),
        ("f32[2,3]", "Concat(%x, %x) {axis = 2}"),
        ("f32[2,3]", "Softmax(%x) {axis = 2}"),
        ("f32[2,3]", "Softmax(%x) {axis = -3}"),
        ("f32[2,3]", "Transpose(%x) {perm = [0]}"),
        ("f32[2,3]", "Transpose(%x) {perm = [0, 1, 2]}"),
        ("f32[2,3]", "Transpose(%x) {perm = [-3, 0]}"),
        ("f32[2,3]", "Gather(%x, %x)"),
        ("f32[2,3]", "Flatten(%x) {axis = 3}"),
        ("f32[2,3]", "LSTM(%x, %w, %w) {hidden_size = 2}"),
        ("f32[2,3]", "BatchNormalization(%x, %w, %w, %w, %w)"),
        ("f32[2,3]", "Split(%x) {num_outputs = 0}"),
        ("f32[2,3]", "Where(%x, %x, %x)"),
        ("f32[2,3]", "QuantizeLinear(%x, %v) {axis = 9}"),
        ("f32[2,3]", "Einsum(%x) {equation = \"ijk->i\"}"),
        ("f32[2,3]", "SpaceToDepth(%x) {blocksize = 2}"),
        ("f32[2,3]", "DepthToSpace(%x) {blocksize = 0}"),
    ] {
        let constants = [
            (
                "w",
                "f32[4,4] 0x0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f",
            ),
            ("v", "f32[5] [1.0, 1.0, 1.0, 1.0, 1.0]"),
        ];
        fails(&one(x, &constants, call));
    }
}
