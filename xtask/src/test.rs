//! `cargo xtask test`: everything that is tested, in one command, with one table at its end.
//!
//! What cannot run (no network, no shared models) is listed as skipped with its reason; with
//! `CI` or `HETRA_REQUIRE_FETCH` set, a failed download is an error instead.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, thread};

use crate::bench;
use crate::fetch;
use crate::models;
use crate::python;
use crate::report::{self, Row};
use crate::suites::{self, SUITES};
use crate::workspace::{Result, Workspace, flag};

/// Runs everything and prints the table; false when anything failed.
pub(crate) fn run(workspace: &Workspace, no_fetch: bool) -> Result<bool> {
    environment(workspace);
    let mut rows = Vec::new();
    rows.extend(fetched(workspace, no_fetch)?);
    rows.push(cargo_test(workspace)?);
    rows.push(bench::test(workspace)?);
    match workspace.build_hetra() {
        Ok(hetra) => {
            rows.push(devices(workspace, &hetra)?);
            rows.extend(conformance(workspace, &hetra)?);
            println!("test: models against goldens");
            rows.push(models::run(workspace, &hetra)?);
            rows.push(python::test(workspace)?);
            rows.push(python::clients(workspace, &hetra)?);
        }
        Err(error) => {
            let mut row = Row::new("build of hetra");
            row.fail(error.to_string());
            rows.push(row);
        }
    }
    println!("\n{}", report::render(&rows));
    Ok(rows.iter().all(|row| row.failed == 0))
}

/// Prints what the results depend on.
fn environment(workspace: &Workspace) {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    println!("system:  {} {}, {cpus} CPUs", env::consts::OS, env::consts::ARCH);
    println!("vectors: {}", vectors());
    println!("rustc:   {}", first_line(Command::new("rustc").arg("--version")));
    println!("python:  {}", first_line(Command::new("python3").arg("--version")));
    let commit = first_line(
        Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(&workspace.root),
    );
    println!("commit:  {commit}");
    println!("cache:   {}", workspace.cache().display());
    let shared = workspace.shared().join("models");
    let state = if shared.is_dir() { "" } else { " (not there)" };
    println!("models:  {}{state}", shared.display());
}

/// The vector instructions that the CPU kernels choose between.
fn vectors() -> String {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found = [("portable", true)];
    let names: Vec<&str> =
        found.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

/// The first line a program prints, or that it did not run.
fn first_line(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let Ok(output) = output else { return "not found".to_owned() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// Fetches, and says what is missing. A row only where something is.
fn fetched(workspace: &Workspace, no_fetch: bool) -> Result<Option<Row>> {
    let missing =
        if no_fetch { fetch::incomplete(workspace)? } else { fetch::fetch(workspace, false)? };
    fetch::explain(&missing);
    if missing.is_empty() {
        return Ok(None);
    }
    let required = flag("CI") || flag("HETRA_REQUIRE_FETCH");
    let mut row = Row::new("fetched files");
    for wheel in missing {
        let note = format!("{}: {}; without it: {}", wheel.label, wheel.why, wheel.used_by);
        if required {
            row.fail(note);
        } else {
            row.skipped += 1;
            row.notes.push(note);
        }
    }
    Ok(Some(row))
}

/// Runs `cargo test --workspace`, shows what it prints, and counts.
fn cargo_test(workspace: &Workspace) -> Result<Row> {
    println!("test: cargo test --workspace");
    let mut child = workspace
        .cargo(&["test", "--workspace", "--no-fail-fast"])
        // What somebody tuned on this machine is no part of what is tested.
        .env("HETRA_STORE", "off")
        .env("HETRA_KERNEL_CACHE", "off")
        .envs(runtimes(workspace)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut row = Row::new("cargo test");
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            count(&mut row, &line);
        }
    }
    // A test that does not compile, or a process that dies, leaves no count behind.
    if !child.wait()?.success() && row.failed == 0 {
        row.fail("cargo test failed before it could count".to_owned());
    }
    Ok(row)
}

/// Libraries of other runtimes that parts of a model can be given to: the variable that names each,
/// the wheel it is in, and its place there.
const RUNTIMES: [(&str, &str, &str); 2] = [
    ("HETRA_ORT_LIB", "onnxruntime", "onnxruntime/capi/libonnxruntime.so.1.32.0"),
    ("HETRA_OPENVINO_LIB", "openvino", "openvino/libs/libopenvino_c.so.2641"),
];

/// What tells Hetra where the fetched libraries are; what is told already stays, and one that is
/// not fetched is looked for as ever.
pub(crate) fn runtimes(workspace: &Workspace) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut found = Vec::new();
    for (variable, wheel, member) in RUNTIMES {
        let folder = fetch::find(wheel)?.folder(&workspace.cache());
        let path = folder.join(member);
        if env::var_os(variable).is_none() && path.is_file() {
            found.push((variable, path));
        }
    }
    Ok(found)
}

/// Adds what a line of `cargo test` says to the row.
fn count(row: &mut Row, line: &str) {
    if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
    {
        row.fail(format!("{name} failed"));
    }
    let Some(counts) = line.strip_prefix("test result: ") else { return };
    let number = |what: &str| {
        let before = counts.split(&format!(" {what}")).next()?;
        before.rsplit(' ').next()?.parse::<usize>().ok()
    };
    row.passed += number("passed").unwrap_or(0);
    row.skipped += number("ignored").unwrap_or(0);
}

/// Which drivers were there for the tests of devices. One that is not is a skip, with what to
/// install, or a failure where `HETRA_REQUIRE_DEVICES` names it.
fn devices(workspace: &Workspace, hetra: &Path) -> Result<Row> {
    let mut command = Command::new(hetra);
    command.args(["devices", "--json"]).envs(runtimes(workspace)?);
    let output = command.output()?;
    let found: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let required = env::var("HETRA_REQUIRE_DEVICES").unwrap_or_default();
    let mut row = Row::new("devices");
    for device in found.as_array().into_iter().flatten() {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (driver, hint) = (text(&device["info"]["driver"]), text(&device["hint"]));
        if device["state"] == "found" {
            row.passed += 1;
        } else if required.split_whitespace().any(|name| name == driver) {
            row.fail(format!("{driver} is required: {hint}"));
        } else {
            row.skipped += 1;
            row.notes.push(format!("no tests on {driver}: {hint}"));
        }
    }
    Ok(row)
}

/// Runs ONNX's own cases, or says why not.
fn conformance(workspace: &Workspace, hetra: &Path) -> Result<Vec<Row>> {
    if !suites::are_fetched(workspace)? {
        let why = "the cases are not in the cache: run `cargo xtask fetch`";
        return Ok(vec![Row::skipped("onnx conformance", why)]);
    }
    let floors = suites::floors(workspace)?;
    let mut rows = Vec::new();
    let all = SUITES.iter().map(|suite| ("cpu".to_owned(), *suite));
    let devices = suites::devices(hetra)?;
    for (device, suite) in
        all.chain(devices.into_iter().map(|device| (device.id, suites::ON_DEVICES)))
    {
        let name = match device == "cpu" {
            true => format!("onnx {suite}"),
            false => format!("onnx {suite} on {device}"),
        };
        println!("test: {name}");
        rows.push(match suites::run(workspace, hetra, &device, suite) {
            Ok(summary) => suites::row(&name, &summary, &floors[suite]),
            Err(error) => {
                let mut row = Row::new(&name);
                row.fail(error.to_string());
                row
            }
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_test_is_counted() {
        let mut row = Row::new("cargo test");
        for line in [
            "running 4 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out",
            "test result: ok. 10 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            count(&mut row, line);
        }
        assert_eq!((row.passed, row.failed, row.skipped), (12, 1, 1));
        assert_eq!(row.notes, ["a::c failed"]);
    }
}
