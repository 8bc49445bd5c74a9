//! Pipelines: several models, and what stands between them, as one graph.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hetra::pipeline::{Gallery, Pipeline, runner};
use hetra::{DType, ExportOptions, Graph, GraphBuilder, Node, Session, Tensor};

/// A folder for the models of a test.
fn folder(test: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("hetra-pipeline-{test}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

fn save(graph: &Graph, path: &Path) {
    let bytes = hetra::export(graph, &ExportOptions::default()).expect("a model");
    std::fs::write(path, bytes).expect("a file");
}

/// The sums of the three channels of a picture, (1, 3): takes one picture at a time.
fn sums(side: usize) -> Graph {
    let mut b = GraphBuilder::new("sums");
    let dims = [1, 3, side, side].map(hetra::Dim::from);
    let x = b.input("x", DType::F32, dims.to_vec());
    let axes = b.constant("axes", Tensor::vector(&[2i64, 3]));
    let sum = Node::new("ReduceSum", &[x, axes], &[]).with("keepdims", 0i64);
    let y = b.node(sum, 1)[0];
    b.output(y);
    b.finish()
}

/// A picture whose left half is red and whose right half is blue.
fn picture(height: usize, width: usize) -> Tensor {
    let pixel = |at: usize| if at % width < width / 2 { [200u8, 0, 0] } else { [0, 0, 100] };
    let pixels: Vec<u8> = (0..height * width).flat_map(pixel).collect();
    Tensor::from_slice(&[height, width, 3], &pixels).expect("a picture")
}

fn session(pipeline: &Pipeline, galleries: &BTreeMap<String, Gallery>) -> Session {
    let graph = pipeline.graph(galleries, &runner).expect("a graph");
    Session::builder().graph(graph).build().expect("a session")
}

fn floats(outputs: &hetra::Outputs, name: &str) -> Vec<f32> {
    let value = outputs.get(name).expect("an output").as_tensor().expect("a tensor");
    value.as_slice::<f32>().expect("floats").to_vec()
}

#[test]
fn a_picture_is_brought_to_size_and_read() {
    let folder = folder("sums");
    save(&sums(4), &folder.join("sums.onnx"));
    let text = |what: &str, more: &str| {
        format!(
            "[[step]]\nname = \"small\"\ndo = \"{what}\"\nof = \"image\"\nsize = [4, 4]\n{more}\n\
             [[step]]\nname = \"sums\"\nmodel = \"sums.onnx\"\nof = \"small\"\n\
             [outputs]\nsums = \"sums\"\nfactor = \"small.factor\"\n"
        )
    };
    let run = |text: &str, height: usize, width: usize| {
        let session = session(&Pipeline::parse(text, &folder).unwrap(), &BTreeMap::new());
        let outputs = session.run([("image", picture(height, width))]).unwrap();
        (floats(&outputs, "sums"), floats(&outputs, "factor"))
    };
    // Half of the places are red, half blue.
    let (sums, factor) = run(&text("stretch", ""), 8, 16);
    assert_eq!((sums, factor), (vec![1600.0, 0.0, 800.0], vec![4.0, 2.0]));
    let (sums, _) = run(&text("stretch", "reverse = true\nscale = [1.0, 1.0, 0.5]"), 8, 16);
    assert_eq!(sums, [800.0, 0.0, 800.0]);
    // The lower half of what keeps its aspect is filled.
    let (sums, factor) = run(&text("letterbox", "fill = 10"), 8, 16);
    assert_eq!((sums, factor), (vec![880.0, 80.0, 480.0], vec![4.0, 4.0]));
    std::fs::remove_dir_all(folder).unwrap();
}

/// A model of pictures of 32 x 32 that sees nothing: a zero of three axes, whatever it is given.
fn blind(name: &str) -> (GraphBuilder, hetra::ValueId) {
    let mut b = GraphBuilder::new(name);
    let dims = [1, 3, 32, 32].map(hetra::Dim::from);
    let x = b.input("x", DType::F32, dims.to_vec());
    let zero = b.constant("zero", Tensor::scalar(0f32));
    let nothing = b.op("ReduceMax", &[x]);
    let nothing = b.op("Mul", &[nothing, zero]);
    let shape = b.constant("shape", Tensor::vector(&[1i64, 1, 1]));
    let nothing = b.op("Reshape", &[nothing, shape]);
    (b, nothing)
}

/// What YuNet gives for a picture of 32 x 32, as constants: faces at two places, one of them twice.
fn yunet() -> Graph {
    let (mut b, nothing) = blind("yunet");
    for what in ["cls", "obj", "bbox", "kps"] {
        for (stride, side) in [(8, 4usize), (16, 2), (32, 1)] {
            let width = match what {
                "bbox" => 4,
                "kps" => 10,
                _ => 1,
            };
            let mut numbers = vec![0f32; side * side * width];
            // Cells 5 and 6 of stride 8 see the same face, cell 3 of stride 16 another one.
            for (cell, score) in [(5, 0.9f32), (6, 0.8)].into_iter().filter(|_| stride == 8) {
                numbers[cell * width..][..width].fill(match what {
                    "cls" | "obj" => score,
                    _ => 0.0,
                });
                if what == "bbox" {
                    // From both, the middle at (12, 8), 8 x 16 pixels.
                    let middle = if cell == 5 { 0.5 } else { -0.5 };
                    numbers[cell * 4..][..4].copy_from_slice(&[middle, 0.0, 0.0, 2f32.ln()]);
                }
                if what == "kps" {
                    numbers[cell * 10..][..10].fill(0.25);
                }
            }
            if stride == 16 && what != "bbox" && what != "kps" {
                numbers[3] = 0.7;
            }
            let made =
                b.constant("c", Tensor::from_slice(&[1, side * side, width], &numbers).unwrap());
            let value = b.op("Add", &[made, nothing]);
            b.output(value);
        }
    }
    let mut graph = b.finish();
    let names = ["cls", "obj", "bbox", "kps"]
        .iter()
        .flat_map(|what| [8, 16, 32].map(|stride| format!("{what}_{stride}")));
    for (id, name) in graph.outputs.clone().into_iter().zip(names) {
        graph.values[id.index()].name = name;
    }
    graph
}

const FACES: &str = r#"
name = "faces"
[[step]]
name = "small"
do = "letterbox"
of = "image"
size = [32, 32]
[[step]]
name = "net"
model = "yunet.onnx"
of = "small"
[[step]]
name = "faces"
do = "yunet"
of = "net"
size = [32, 32]
factor = "small.factor"
[[step]]
name = "upright"
do = "align"
of = "image"
points = "faces.points"
size = [112, 112]
[[step]]
name = "numbers"
model = "sums.onnx"
of = "upright"
[[step]]
name = "who"
do = "match"
of = "numbers"
gallery = "people"
alike_min = 0.9
[outputs]
boxes = "faces.boxes"
scores = "faces.scores"
points = "faces.points"
numbers = "numbers"
names = "who.names"
alike = "who.alike"
"#;

#[test]
fn faces_are_found_turned_and_named() {
    let folder = folder("faces");
    save(&yunet(), &folder.join("yunet.onnx"));
    save(&sums(112), &folder.join("sums.onnx"));
    let pipeline = Pipeline::parse(FACES, &folder).unwrap();
    assert_eq!(pipeline.galleries()["who"], (folder.join("people"), "numbers".to_string()));
    let red = Gallery {
        names: vec!["green".to_string(), "red".to_string()],
        rows: vec![vec![0.0, 2.0, 0.0], vec![5.0, 0.0, 0.0]],
    };
    let galleries = BTreeMap::from([("who".to_string(), red)]);
    let session = session(&pipeline, &galleries);
    let outputs = session.run([("image", picture(64, 64))]).unwrap();
    // Twice the size of the model's picture; of the same face the better one is kept.
    let boxes = floats(&outputs, "boxes");
    assert_eq!(boxes.len(), 8, "{boxes:?}");
    let wanted = [16.0, 0.0, 32.0, 32.0];
    assert!(boxes.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 1e-3), "{boxes:?}");
    assert_eq!(floats(&outputs, "scores"), [0.9, 0.7]);
    // The points of the first: cell 5 begins at (8, 8), and a quarter of 8 more, doubled.
    assert_eq!(floats(&outputs, "points")[..4], [20.0; 4]);
    let value = outputs.get("names").unwrap().as_tensor().unwrap();
    assert_eq!(value.as_strings().unwrap(), ["red", "unknown"]);
    // Without a face there are no rows, and nothing fails.
    let strict =
        FACES.replace("size = [32, 32]\nfactor", "score_min = 0.95\nsize = [32, 32]\nfactor");
    let none = Pipeline::parse(&strict, &folder).unwrap();
    let outputs = self::session(&none, &galleries).run([("image", picture(64, 64))]).unwrap();
    assert!(floats(&outputs, "boxes").is_empty() && floats(&outputs, "numbers").is_empty());
    std::fs::remove_dir_all(folder).unwrap();
}

/// What YOLOX gives for a picture of 32 x 32, as constants: two classes, three sightings of two
/// objects.
fn yolox() -> Graph {
    let (mut b, nothing) = blind("yolox");
    let mut rows = vec![0f32; 21 * 7];
    // A middle half a cell from the prior; widths of e to the power of these, in cells.
    let mut see = |cell: usize, numbers: [f32; 7]| rows[cell * 7..][..7].copy_from_slice(&numbers);
    see(0, [0.5, 0.5, 0.0, 0.0, 0.9, 0.1, 1.0]);
    see(1, [-0.5, 0.5, 0.0, 0.0, 0.8, 0.1, 0.9]);
    see(19, [0.5, 0.5, 0.0, 0.0, 1.0, 0.6, 0.1]);
    let rows = b.constant("rows", Tensor::from_slice(&[1, 21, 7], &rows).unwrap());
    let rows = b.op("Add", &[rows, nothing]);
    b.output(rows);
    b.finish()
}

#[test]
fn objects_are_found_and_named() {
    let folder = folder("objects");
    save(&yolox(), &folder.join("yolox.onnx"));
    std::fs::write(folder.join("labels.txt"), "cup\ncat\n").unwrap();
    let text = "[[step]]\nname = \"small\"\ndo = \"letterbox\"\nof = \"image\"\nsize = [32, 32]\n\
        [[step]]\nname = \"net\"\nmodel = \"yolox.onnx\"\nof = \"small\"\n\
        [[step]]\nname = \"objects\"\ndo = \"yolox\"\nof = \"net\"\nsize = [32, 32]\n\
        factor = \"small.factor\"\nlabels = \"labels.txt\"\n";
    let session = session(&Pipeline::parse(text, &folder).unwrap(), &BTreeMap::new());
    let outputs = session.run([("image", picture(64, 64))]).unwrap();
    let value = outputs.get("names").unwrap().as_tensor().unwrap();
    assert_eq!(value.as_strings().unwrap(), ["cup", "cat"]);
    // The second row of cells of 16 has its prior at (16, 16): doubled.
    assert_eq!(floats(&outputs, "boxes"), [32.0, 32.0, 64.0, 64.0, 0.0, 0.0, 16.0, 16.0]);
    let scores = floats(&outputs, "scores");
    assert!((scores[0] - 0.6).abs() < 1e-6 && (scores[1] - 0.9).abs() < 1e-6, "{scores:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_pipeline_without_its_gallery_gives_the_numbers() {
    let folder = folder("without");
    save(&yunet(), &folder.join("yunet.onnx"));
    save(&sums(112), &folder.join("sums.onnx"));
    let pipeline = Pipeline::parse(FACES, &folder).unwrap().without(&["who"], &["numbers"]);
    let graph = pipeline.graph(&BTreeMap::new(), &runner).unwrap();
    let names: Vec<&str> = graph.outputs.iter().map(|&id| graph.value(id).name.as_str()).collect();
    assert_eq!(names, ["boxes", "numbers", "points", "scores"]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_wrong_is_named() {
    let folder = folder("wrong");
    save(&sums(4), &folder.join("sums.onnx"));
    let fault = |text: &str| -> String {
        let made =
            Pipeline::parse(text, &folder).and_then(|made| made.graph(&BTreeMap::new(), &runner));
        made.expect_err("a fault").to_string()
    };
    let small = "[[step]]\nname = \"small\"\ndo = \"stretch\"\nof = \"image\"\nsize = [4, 4]\n";
    let check = |text: &str, parts: &[&str]| {
        let said = fault(text);
        parts.iter().for_each(|part| assert!(said.contains(part), "{part}: {said}"));
    };
    check("step = 3", &["invalid type"]);
    check("[[step]]\ndo = \"stretch\"", &["step `1`", "`name` is missing"]);
    check(&small.replace("stretch", "strech"), &["there is no `strech`", "letterbox, stretch"]);
    check(&small.replace("image", "picture"), &["nothing makes `picture`; there are image"]);
    check(&small.replace("[4, 4]", "[4]"), &["`size`: wanted 2 numbers"]);
    check(&small.replace("[4, 4]", "[0, 4]"), &["`size`: wanted height and width"]);
    check(&small.replace("size = [4, 4]", ""), &["`size` is missing"]);
    check(&format!("{small}scale = [0, 1, 1]"), &["`scale`: 0 leaves nothing"]);
    check(&format!("{small}colour = 1"), &["it has no `colour`; it has", "fill"]);
    let model = |text: &str| format!("{small}[[step]]\nname = \"m\"\n{text}");
    check(&model("model = \"none.onnx\"\nof = \"small\""), &["no `none.onnx` in"]);
    check(&model("model = \"sums.onnx\""), &["input `x` of the model is not given"]);
    check(&model("model = \"sums.onnx\"\ninputs = { y = \"small\" }"), &["it has x"]);
    check(&model("model = \"sums.onnx\"\ndo = \"align\""), &["one of `do` and `model`"]);
    check(&format!("{small}[outputs]\na = \"smal\""), &["`smal`", "small.factor"]);
    std::fs::remove_dir_all(folder).unwrap();
}

/// A detector that takes brightness for how likely text is, and a reader for which dark columns are
/// the blank, bright ones `a`, and those between `b`.
fn reader() -> (Graph, Graph) {
    let bright = |b: &mut GraphBuilder, axes: &[i64], keep: i64| {
        let dims = vec![hetra::Dim::Sym("n".into()), 3usize.into()];
        let open = ["h", "w"].map(|name| hetra::Dim::Sym(name.into()));
        let x = b.input("x", DType::F32, [dims, open.to_vec()].concat());
        let axes = b.constant("axes", Tensor::vector(axes));
        let mean = Node::new("ReduceMean", &[x, axes], &[]).with("keepdims", keep);
        b.node(mean, 1)[0]
    };
    let mut detector = GraphBuilder::new("detector");
    let map = bright(&mut detector, &[1], 1);
    detector.output(map);
    let mut reader = GraphBuilder::new("reader");
    // (lines, columns) to how likely each of three letters is.
    let column = bright(&mut reader, &[1, 2], 0);
    let last = reader.constant("last", Tensor::vector(&[2i64]));
    let column = reader.op("Unsqueeze", &[column, last]);
    let levels = reader.constant("levels", Tensor::vector(&[0f32, 1.0, 0.5]));
    let apart = reader.op("Sub", &[column, levels]);
    let apart = reader.op("Abs", &[apart]);
    let one = reader.constant("one", Tensor::scalar(1f32));
    let likely = reader.op("Sub", &[one, apart]);
    reader.output(likely);
    (detector.finish(), reader.finish())
}

const TEXT: &str = r#"
[[step]]
name = "small"
do = "letterbox"
of = "image"
size = [32, 64]
scale = [0.00392156862, 0.00392156862, 0.00392156862]
[[step]]
name = "map"
model = "detector.onnx"
of = "small"
[[step]]
name = "found"
do = "db"
of = "map"
factor = "small.factor"
grow = 0
[[step]]
name = "lines"
do = "lines"
of = "image"
corners = "found.corners"
size = [8, 16]
width_max = 64
scale = [0.00392156862, 0.00392156862, 0.00392156862]
[[step]]
name = "letters"
model = "reader.onnx"
of = "lines"
[[step]]
name = "read"
do = "ctc"
of = "letters"
letters = "letters.txt"
[outputs]
boxes = "found.boxes"
corners = "found.corners"
lines = "lines"
texts = "read.texts"
"#;

/// Bars of a brightness each: left, top, right, bottom, brightness.
fn bars(all: &[(usize, usize, usize, usize, u8)]) -> Tensor {
    let (h, w) = (64, 128);
    let mut pixels = vec![0u8; h * w * 3];
    for &(left, top, right, bottom, bright) in all {
        for (y, x) in (top..bottom).flat_map(|y| (left..right).map(move |x| (y, x))) {
            pixels[(y * w + x) * 3..][..3].fill(bright);
        }
    }
    Tensor::from_slice(&[h, w, 3], &pixels).expect("a picture")
}

#[test]
fn lines_of_text_are_found_and_read() {
    let folder = folder("text");
    let (detector, reader) = reader();
    save(&detector, &folder.join("detector.onnx"));
    save(&reader, &folder.join("reader.onnx"));
    std::fs::write(folder.join("letters.txt"), "a\nb\n").unwrap();
    let session = session(&Pipeline::parse(TEXT, &folder).unwrap(), &BTreeMap::new());
    // A line of `ab` at the bottom left, one of `a` at the top right that is longer.
    let picture = bars(&[(8, 40, 24, 56, 255), (24, 40, 40, 56, 128), (48, 8, 112, 24, 255)]);
    let outputs = session.run([("image", picture)]).unwrap();
    assert_eq!(floats(&outputs, "boxes"), [48.0, 8.0, 112.0, 24.0, 8.0, 40.0, 40.0, 56.0]);
    let texts = outputs.get("texts").unwrap().as_tensor().unwrap();
    assert_eq!(texts.as_strings().unwrap(), ["a", "ab"]);
    // The longer line is four times as wide as it is high, which makes all of them 32 wide.
    let lines = outputs.get("lines").unwrap().as_tensor().unwrap();
    assert_eq!(lines.shape(), [2, 3, 8, 32]);
    let second = &lines.as_slice::<f32>().unwrap()[3 * 8 * 32..];
    assert!(second[16..32].iter().all(|&number| number == 0.0), "{second:?}");
    // A picture without any.
    let outputs = session.run([("image", bars(&[]))]).unwrap();
    assert_eq!(outputs.get("texts").unwrap().as_tensor().unwrap().shape(), [0]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_line_that_is_upside_down_is_turned() {
    let folder = folder("upright");
    // How likely 180 degrees are, of a line: how bright its last column is.
    let mut b = GraphBuilder::new("direction");
    let dims = ["n", "c", "h", "w"].map(|name| hetra::Dim::Sym(name.into()));
    let x = b.input("x", DType::F32, dims.to_vec());
    let bounds = [-1i64, i64::MAX, 3].map(|at| b.constant("at", Tensor::vector(&[at])));
    let last = b.op("Slice", &[x, bounds[0], bounds[1], bounds[2]]);
    let axes = b.constant("axes", Tensor::vector(&[1i64, 2]));
    let mean = Node::new("ReduceMean", &[last, axes], &[]).with("keepdims", 0i64);
    let turned = b.node(mean, 1)[0];
    let one = b.constant("one", Tensor::scalar(1f32));
    let right = b.op("Sub", &[one, turned]);
    let both = b.node(Node::new("Concat", &[right, turned], &[]).with("axis", 1i64), 1)[0];
    b.output(both);
    save(&b.finish(), &folder.join("direction.onnx"));
    let (detector, _) = reader();
    save(&detector, &folder.join("detector.onnx"));
    let found =
        TEXT[..TEXT.find("[[step]]\nname = \"letters\"").unwrap()].replace("width_max = 64", "");
    let text = format!(
        "{found}[[step]]\nname = \"direction\"\nmodel = \"direction.onnx\"\nof = \"lines\"\n\
         [[step]]\nname = \"turned\"\ndo = \"upright\"\ncorners = \"found.corners\"\n\
         of = \"direction\"\n[outputs]\ncorners = \"turned\"\nas_found = \"found.corners\"\n"
    );
    let session = session(&Pipeline::parse(&text, &folder).unwrap(), &BTreeMap::new());
    let picture = bars(&[(8, 8, 24, 24, 128), (24, 8, 40, 24, 255), (8, 40, 40, 56, 128)]);
    let outputs = session.run([("image", picture)]).unwrap();
    let (turned, found) = (floats(&outputs, "corners"), floats(&outputs, "as_found"));
    assert_eq!(found[..4], [8.0, 8.0, 40.0, 8.0]);
    assert_eq!(turned[..8], [40.0, 24.0, 8.0, 24.0, 8.0, 8.0, 40.0, 8.0]);
    assert_eq!(turned[8..], found[8..]);
    std::fs::remove_dir_all(folder).unwrap();
}
