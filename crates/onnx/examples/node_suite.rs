//! Runs the ONNX node test suite through the reference interpreter.
//!
//! `node_suite DIR [REGEX] [--round-trip]`: every case folder of DIR whose name matches is
//! imported, run on each of its data sets and compared with the outputs that ONNX gives. With
//! `--round-trip` the graph is exported and imported again first, and must stay the same.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use hetra_ir::{Graph, ValueId};
use hetra_onnx::{
    ExportOptions, ImportOptions, compare, export, import, import_file, same_graph, value_from_pb,
};
use hetra_ops::interpret;
use hetra_tensor::Value;

/// The tolerances of ONNX's own tests.
const RTOL: f64 = 1e-3;
const ATOL: f64 = 1e-7;
const CASE_SECONDS_MAX: u64 = 20;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let round_trip = words.iter().any(|word| word == "--round-trip");
    let words = words.iter().map(String::as_str).filter(|word| *word != "--round-trip");
    let words: Vec<&str> = words.collect();
    let (dir, pattern) = match words[..] {
        [dir] => (dir, ""),
        [dir, pattern] => (dir, pattern),
        _ => {
            println!("usage: node_suite DIR [REGEX] [--round-trip]");
            std::process::exit(2);
        }
    };
    let pattern = regex::Regex::new(pattern).unwrap_or_else(|error| {
        println!("{error}");
        std::process::exit(2)
    });
    // A panic is reported as the reason of the case.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut passed, mut failed) = (0, 0);
    for case in folders(Path::new(dir)) {
        let name = name_of(&case);
        if !pattern.is_match(&name) {
            continue;
        }
        match run_limited(case, round_trip) {
            Ok(()) => passed += 1,
            Err(reason) => {
                failed += 1;
                println!("FAIL {name}: {reason}");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    std::process::exit(i32::from(failed > 0));
}

/// The folders inside a folder, by name.
fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Runs a case in a thread of its own; one that takes too long is left behind.
fn run_limited(case: PathBuf, round_trip: bool) -> Result<(), String> {
    let (send, receive) = mpsc::channel();
    let body = move || {
        let result = catch_unwind(AssertUnwindSafe(|| run(&case, round_trip)));
        // Nobody listens any more when the case took too long.
        let _ = send.send(result.unwrap_or_else(|panic| Err(format!("PANIC {}", text_of(&panic)))));
    };
    let spawned = std::thread::Builder::new().stack_size(64 << 20).spawn(body);
    spawned.map_err(|error| error.to_string())?;
    receive
        .recv_timeout(Duration::from_secs(CASE_SECONDS_MAX))
        .unwrap_or_else(|_| Err(format!("no result within {CASE_SECONDS_MAX} s")))
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("").to_string()
}

fn run(case: &Path, round_trip: bool) -> Result<(), String> {
    let model = import_file(case.join("model.onnx"), &ImportOptions::default());
    let mut graph = model.map_err(|error| format!("import: {error}"))?.graph;
    if round_trip {
        let bytes = export(&graph, &ExportOptions::default());
        let bytes = bytes.map_err(|error| format!("export: {error}"))?;
        let again = import(&bytes, &ImportOptions::default());
        let again = again.map_err(|error| format!("import again: {error}"))?;
        same_graph(&graph, &again).map_err(|reason| format!("round trip: {reason}"))?;
        graph = again;
    }
    if let Err(faults) = hetra_ir::verify(&graph) {
        return Err(faults.first().map(|fault| format!("verify: {fault}")).unwrap_or_default());
    }
    let sets = folders(case).into_iter().filter(|path| name_of(path).starts_with("test_data_set_"));
    for set in sets {
        run_set(&graph, &set).map_err(|reason| format!("{}: {reason}", name_of(&set)))?;
    }
    Ok(())
}

fn run_set(graph: &Graph, set: &Path) -> Result<(), String> {
    let inputs = read_all(graph, &graph.inputs, set, "input")?;
    let want = read_all(graph, &graph.outputs, set, "output")?;
    let got = interpret(graph, inputs, &|_| None).map_err(|error| error.to_string())?;
    for (&id, (got, want)) in graph.outputs.iter().zip(got.iter().zip(&want)) {
        compare(got, want, RTOL, ATOL)
            .map_err(|reason| format!("output `{}`: {reason}", graph.value(id).name))?;
    }
    Ok(())
}

/// The values in `PREFIX_0.pb`, `PREFIX_1.pb`, .. for as many of `ids` as there are files.
fn read_all(
    graph: &Graph,
    ids: &[ValueId],
    set: &Path,
    prefix: &str,
) -> Result<Vec<Value>, String> {
    let files = (0..ids.len()).map(|index| set.join(format!("{prefix}_{index}.pb")));
    let files = files.take_while(|file| file.exists());
    let read = |(file, id): (PathBuf, &ValueId)| {
        let bytes = std::fs::read(&file).map_err(|error| error.to_string())?;
        let value = value_from_pb(&bytes, graph.ty(*id));
        value.map_err(|error| format!("{}: {error}", name_of(&file)))
    };
    files.zip(ids).map(read).collect()
}
