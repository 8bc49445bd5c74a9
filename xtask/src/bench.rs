//! `cargo xtask bench cpu`: Hetra beside its peers, each at its pinned version. `bench place`: the
//! placement policies on published graphs. `bench sim`: described devices beside published results.
//! `bench faults`: plans on devices that fail. `bench predict`: models of which nothing was
//! measured. `bench never`: plans beside the best single device.
//!
//! This module gets what the comparison needs — a Python environment, the peers in Rust, `hetra`
//! itself — and `bench/cpu.py` compares. All of it is under cargo's target folder, made once and
//! again when what it is made from changes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::python::{self, step, system_python};
use crate::report::Row;
use crate::test;
use crate::workspace::{Result, Workspace};

/// The suite's name in the report of `cargo xtask test`.
const NAME: &str = "tests of bench";

/// Arguments of `bench/cpu.py` that measure nothing, so nothing need be built for them.
const NO_RUN: [&str; 3] = ["--render-only", "--help", "-h"];

/// Runs the comparison with the arguments of `bench/cpu.py`; false when it failed.
pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> Result<bool> {
    let given = |name: &str| {
        let text = |arg: &OsString| arg.to_string_lossy().into_owned();
        args.iter().map(text).any(|arg| arg == name || arg.starts_with(&format!("{name}=")))
    };
    if NO_RUN.iter().any(|name| given(name)) {
        let status = script(workspace, &system_python().ok_or("no python3")?, "cpu.py")
            .args(args)
            .status()?;
        return Ok(status.success());
    }
    let mut command = script(workspace, &environment(workspace)?, "cpu.py");
    command.args(args);
    if !given("--rust-peers") {
        command.arg("--rust-peers").arg(build_peers(workspace)?);
    }
    if !given("--hetra") {
        command.arg("--hetra").arg(workspace.build_hetra()?);
    }
    Ok(command.status()?.success())
}

/// Runs the placement policies on the workloads in the shared folder, with the arguments of
/// `bench/place.py`; false when it failed.
pub(crate) fn place(workspace: &Workspace, args: &[OsString]) -> Result<bool> {
    let graphs = shared(workspace, &["data", "placement", "dnn-partitioning"])?;
    let mut command = with_example(workspace, "hetra-place", "placebench", "place.py")?;
    Ok(command.arg("--graphs").arg(graphs).args(args).status()?.success())
}

/// Compares described devices with published results, with the arguments of `bench/sim.py`; false
/// when it failed.
pub(crate) fn sim(workspace: &Workspace, args: &[OsString]) -> Result<bool> {
    let mut command = with_example(workspace, "hetra-cost", "anchors", "sim.py")?;
    Ok(command.args(args).status()?.success())
}

/// Runs plans on devices that fail, with the arguments of `bench/faults.py`; false when it failed.
pub(crate) fn faults(workspace: &Workspace, args: &[OsString]) -> Result<bool> {
    let model = shared(workspace, &["models", "face_det", "yunet_n_320_320.onnx"])?;
    let mut command = with_example(workspace, "hetra", "faults", "faults.py")?;
    command.envs(test::runtimes(workspace)?);
    Ok(command.arg("--model").arg(model).args(args).status()?.success())
}

/// Predicts models of which nothing was measured, with the arguments of `bench/predict.py`; false
/// when it failed.
pub(crate) fn predict(workspace: &Workspace, args: &[OsString]) -> Result<bool> {
    let models = shared(workspace, &["models"])?;
    let mut command = with_example(workspace, "hetra", "predict", "predict.py")?;
    command.envs(test::runtimes(workspace)?);
    Ok(command.arg("--models").arg(models).args(args).status()?.success())
}

/// Runs plans beside the best single device, with the arguments of `bench/never.py`; false when it
/// failed.
pub(crate) fn never(workspace: &Workspace, args: &[OsString]) -> Result<bool> {
    let models = shared(workspace, &["models"])?;
    let python = system_python().ok_or("no python3")?;
    let mut command = script(workspace, &python, "never.py");
    command.arg("--hetra").arg(workspace.build_hetra()?).envs(test::runtimes(workspace)?);
    Ok(command.arg("--models").arg(models).args(args).status()?.success())
}

/// Something in the shared folder.
fn shared(workspace: &Workspace, parts: &[&str]) -> Result<PathBuf> {
    let path = parts.iter().fold(workspace.shared(), |path, part| path.join(part));
    match path.exists() {
        true => Ok(path),
        false => Err(format!("there is no {}: set HETRA_SHARED", path.display()).into()),
    }
}

/// A script of `bench/`, told where the built example of a package is.
fn with_example(
    workspace: &Workspace,
    package: &str,
    example: &str,
    program: &str,
) -> Result<Command> {
    let python = system_python().ok_or("no python3")?;
    step(&mut workspace.cargo(&["build", "--release", "-p", package, "--example", example]))?;
    let built = workspace.metadata()?.target_directory.join("release").join("examples");
    let mut command = script(workspace, &python, program);
    command.arg("--program").arg(built.join(example));
    Ok(command)
}

/// Figures in `docs/`, and the scripts that write their pages.
const PAGES: [(&str, &str); 6] = [
    ("performance.json", "cpu.py"),
    ("placement.json", "place.py"),
    ("simulation.json", "sim.py"),
    ("faults.json", "faults.py"),
    ("prediction.json", "predict.py"),
    ("never.json", "never.py"),
];

/// Writes the pages of [`PAGES`] and their charts again from the figures, or compares them; false
/// when they differ. Without figures or without Python there is nothing to do.
pub(crate) fn pages(workspace: &Workspace, check: bool) -> Result<bool> {
    let mut same = true;
    for (name, program) in PAGES {
        let figures = workspace.root.join("docs").join(name);
        let (true, Some(python)) = (figures.is_file(), system_python()) else {
            eprintln!("docs: pages of docs/{name} skipped: it is not there, or no python3");
            continue;
        };
        let mut command = script(workspace, &python, program);
        command.arg("--render-only").arg(figures);
        if check {
            command.arg("--check");
        }
        same &= command.status()?.success();
    }
    Ok(same)
}

/// Runs the unit tests of `bench/` with whatever Python is there; they need no package.
pub(crate) fn test(workspace: &Workspace) -> Result<Row> {
    let Some(python) = system_python() else {
        return Ok(Row::skipped(NAME, "no python3"));
    };
    let output = Command::new(python)
        .args(["-m", "unittest", "discover", "-s", "bench"])
        .current_dir(&workspace.root)
        .stdin(Stdio::null())
        .output()?;
    Ok(counted(output.status.success(), &String::from_utf8_lossy(&output.stderr)))
}

/// The row of what `unittest` wrote. No test at all is a failure.
fn counted(succeeded: bool, said: &str) -> Row {
    let mut row = Row::new(NAME);
    let ran = said.lines().find_map(|line| line.strip_prefix("Ran ")?.split(' ').next());
    let ran: usize = ran.and_then(|count| count.parse().ok()).unwrap_or(0);
    for line in
        said.lines().filter(|line| line.starts_with("FAIL: ") || line.starts_with("ERROR: "))
    {
        row.fail(line.to_owned());
    }
    row.passed = ran.saturating_sub(row.failed);
    if row.failed == 0 && (!succeeded || ran == 0) {
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        row.fail(last.unwrap_or("python said nothing").to_owned());
    }
    row
}

/// A program of `bench/`, to be run by `python`.
fn script(workspace: &Workspace, python: &Path, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(workspace.root.join("bench").join(name)).current_dir(&workspace.root);
    command
}

/// The Python of an environment with the packages of `bench/requirements.txt`.
fn environment(workspace: &Workspace) -> Result<PathBuf> {
    let wanted = workspace.root.join("bench").join("requirements.txt");
    python::environment(workspace, "bench-python", &wanted)
}

/// Builds rten's and tract's programs and returns their folder; cargo itself knows when there is
/// nothing to do.
fn build_peers(workspace: &Workspace) -> Result<PathBuf> {
    let manifest = workspace.root.join("bench").join("rust-peers").join("Cargo.toml");
    let target = workspace.metadata()?.target_directory.join("rust-peers");
    let mut command = workspace.cargo(&["build", "--release", "--locked", "--manifest-path"]);
    step(command.arg(manifest).arg("--target-dir").arg(&target))?;
    Ok(target.join("release"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unittest_is_counted() {
        let row = counted(true, "...\n------\nRan 3 tests in 0.010s\n\nOK\n");
        assert_eq!((row.passed, row.failed), (3, 0));
        let row = counted(false, "FAIL: test_a (x.Y.test_a)\nRan 3 tests in 0.010s\n\nFAILED\n");
        assert_eq!((row.passed, row.failed), (2, 1));
        assert_eq!(row.notes, ["FAIL: test_a (x.Y.test_a)"]);
    }

    #[test]
    fn no_test_is_a_failure() {
        assert_eq!(counted(true, "Ran 0 tests in 0.000s\n\nOK\n").failed, 1);
        assert_eq!(
            counted(false, "No module named unittest\n").notes,
            ["No module named unittest"]
        );
    }
}
