//! The command as a user meets it: what stands on which stream, and the exit code.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Exit code, stdout and stderr of one call.
fn hetra(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hetra"))
        .args(args)
        .env("NO_COLOR", "1")
        .output()
        .expect("the command starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn digits() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/assets/digits.onnx").to_string()
}

fn picture() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/assets/digit_3.png").to_string()
}

/// A folder of one test.
fn folder(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&path).expect("a folder");
    path
}

/// The JSON that a call prints, alone on stdout.
fn json(args: &[&str]) -> serde_json::Value {
    let (code, out, err) = hetra(args);
    assert_eq!(code, 0, "{args:?}: {err}");
    serde_json::from_str(&out).expect("JSON alone on stdout")
}

#[test]
fn a_wrong_command_line_is_2_and_a_failure_is_1() {
    let model = digits();
    let model = model.as_str();
    let usage: &[(&[&str], &str)] = &[
        (&["run", model, "-i", "nope=ones"], "no such input"),
        (&["run", model, "-i", "ones", "-i", "ones"], "every input is given"),
        (&["run", model, "-i", "image=ones", "-i", "image=zeros"], "given twice"),
        (&["run", model, "-i", "image=random:axb"], "is not a shape"),
        (&["run", model, "-i", "image=a.txt"], "wanted a .npy"),
        (&["run", model, "--preprocess", "crop=8x8"], "no input is a picture"),
        (&["run", model, "--dim", "nope=2"], "no input has such a dimension"),
        (&["run", model, "--dim", "batch"], "wanted NAME=N"),
        (&["run", model, "--device", "tpu"], "there is no device `tpu`"),
        (&["run", model, "--no-pass", "nope"], "there is no pass `nope`"),
        (&["run", model, "--top", "-1"], "wanted a whole number"),
        (&["bench", model, "--warmup", "-1"], "wanted a whole number"),
        (&["demo", "--device", "tpu"], "there is no device `tpu`"),
        (&["inspect", model, "--shape", "nope=1"], "the model has no such input"),
        (&["inspect", model, "--dim", "nope=1"], "no input has such a dimension"),
        (&["compare", model, "--data", ".", "--atol", "-1"], "must not be negative"),
        (&["conformance", ".", "--device", "tpu"], "there is no device `tpu`"),
        (&["frobnicate"], "unrecognized"),
    ];
    let failures: &[(&[&str], &str)] = &[
        (&["run", "nope.onnx"], "nope.onnx"),
        (&["run", model, "-i", "nope.npy"], "No such file"),
        (&["run", model, "-i", "image=random:1x1x8x9"], "wanted f32[batch,1,8,8]"),
        (&["run", model, "-i", "image=1,2"], "got f32[1,1,1,2]"),
        (&["compare", model, "--data", "nope"], "no such folder"),
        (&["conformance", "nope"], "nope"),
    ];
    for (wanted, calls) in [(2, usage), (1, failures)] {
        for (args, text) in calls {
            let (code, out, err) = hetra(args);
            assert_eq!(code, wanted, "{args:?}: {err}");
            assert!(err.contains(text), "{args:?}: {err}");
            assert_eq!(out, "", "{args:?}");
        }
    }
}

#[test]
fn top_classes_have_labels_in_json_too() {
    let labels = folder("labels").join("labels.txt");
    fs::write(&labels, "zero\none\ntwo\nthree\n").expect("a file");
    let (model, picture, labels) = (digits(), picture(), labels.display().to_string());
    let args = ["run", &model, "-i", &picture, "--labels", &labels, "--top", "2"];
    let (code, out, err) = hetra(&args);
    assert_eq!(code, 0, "{err}");
    assert!(out.lines().any(|line| line.starts_with("     3 ") && line.ends_with(" three")));
    assert!(err.contains("4 labels, `logits` has 10 classes"), "{err}");
    let report = json(&[&args[..], &["--json"]].concat());
    let top = &report["outputs"][0]["top"];
    assert_eq!((&top[0]["class"], &top[0]["label"]), (&3.into(), &"three".into()));
    assert_eq!(top.as_array().map(Vec::len), Some(2));
}

#[test]
fn bench_prints_one_object() {
    let model = digits();
    let report = json(&["bench", &model, "--iterations", "3", "--warmup", "1", "--json"]);
    assert_eq!(report["steady"]["samples"], 3);
    for key in ["model", "device", "threads", "load_ms", "first_ms"] {
        assert!(!report[key].is_null(), "{key}");
    }
    for key in ["min_ms", "median_ms", "mean_ms", "p90_ms", "p95_ms", "p99_ms"] {
        assert!(report["steady"][key].as_f64().is_some_and(|ms| ms > 0.0), "{key}");
    }
}

#[test]
fn outputs_go_to_an_archive_that_is_an_input() {
    let archive = folder("arrays").join("out.npz").display().to_string();
    let (code, out, err) = hetra(&["run", &digits(), "-i", &picture(), "-o", &archive]);
    assert!(code == 0 && out.contains("digit_3.png"), "{out}{err}");
    // A lone array is taken whatever its name; this one has the wrong shape for a picture.
    let (code, _, err) = hetra(&["run", &digits(), "-i", &archive]);
    assert!(code == 1 && err.contains("got f32[1,10]"), "{err}");
}

#[test]
fn the_text_form_leaves_large_constants_out_unless_asked() {
    let model = digits();
    let (_, outline, _) = hetra(&["inspect", &model, "--text"]);
    let (_, whole, _) = hetra(&["inspect", &model, "--weights"]);
    assert!(outline.contains("Conv") && outline.len() * 10 < whole.len());
}

#[test]
fn inspect_says_what_it_guessed() {
    let model = digits();
    let report = json(&["inspect", &model, "--json"]);
    let guessed = report["guessed"].as_array().expect("a list");
    assert!(guessed.iter().all(|text| text.as_str().is_some_and(|text| text.contains("--dim"))));
    assert!(!guessed.is_empty(), "the batch of the digits is open");
    let report = json(&["inspect", &model, "--shape", "image=3x1x8x8", "--json"]);
    assert_eq!(report["guessed"].as_array().map(Vec::len), Some(0));
}

#[test]
fn devices_tell_their_kernels_apart_from_their_features() {
    let report = json(&["devices", "--json"]);
    let info = &report[0]["info"];
    let sets = info["kernel_sets"].as_array().expect("a list");
    assert!(sets.contains(&info["kernels"]), "{info}");
    assert!(hetra(&["devices"]).1.contains("kernels"));
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, out, _) = hetra(&["completions", shell]);
        assert!(code == 0 && out.contains("inspect"), "{shell}");
    }
}
