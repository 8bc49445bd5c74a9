//! ONNX's own test cases, run by `hetra conformance` and held against a floor.
//!
//! The floor (`tests/conformance-floor.toml`) is what the tree is known to pass; it only rises.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::fetch;
use crate::report::Row;
use crate::workspace::{Ended, Result, Workspace, last_line, read_text, run_limited};

/// Folders of cases, in the order they are run and listed.
pub(crate) const SUITES: [&str; 4] = ["node", "simple", "pytorch-operator", "pytorch-converted"];

/// Where the folders are in the wheel of the `onnx` package.
const DATA: &str = "onnx/backend/test/data";

/// The suite that runs on every device that is found.
pub(crate) const ON_DEVICES: &str = "node";

/// The longest a suite may run.
const SUITE_LIMIT: Duration = Duration::from_secs(900);

/// What `hetra conformance --json` writes.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Summary {
    /// Cases that passed.
    pub(crate) passed: usize,
    /// Cases that failed.
    pub(crate) failed: usize,
    /// Cases that were not run.
    pub(crate) skipped: usize,
    /// Every case.
    pub(crate) cases: Vec<Case>,
}

/// One case.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Case {
    /// Its folder's name.
    pub(crate) name: String,
    /// What came of it.
    pub(crate) status: Status,
    /// Why it did not pass.
    #[serde(default)]
    pub(crate) reason: Option<String>,
    /// Whether the kernels of the device did all of it.
    #[serde(default)]
    pub(crate) whole: bool,
}

/// What came of a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Every output was within its tolerance.
    #[default]
    Passed,
    /// It was run and an output was wrong, or it could not be run to its end.
    Failed,
    /// It was not run.
    Skipped,
}

/// The least that is accepted of one suite.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Floor {
    /// The fewest cases that pass.
    #[serde(default)]
    passed_min: usize,
    /// Whether no case may be skipped.
    #[serde(default)]
    all: bool,
    /// Cases that are known not to pass, with the reason.
    #[serde(default)]
    known: BTreeMap<String, String>,
    /// Those of them that pass by chance.
    #[serde(default)]
    random: BTreeSet<String>,
}

impl Floor {
    /// Whether a case is known not to pass.
    pub(crate) fn is_known(&self, case: &str) -> bool {
        self.known.contains_key(case)
    }

    /// Puts the known reasons in the place of what the run said, and failures in the place of
    /// passes by chance: both differ from run to run where a case is random.
    pub(crate) fn explain(&self, summary: &mut Summary) {
        let chance =
            |case: &&mut Case| case.status == Status::Passed && self.random.contains(&case.name);
        for case in summary.cases.iter_mut().filter(chance) {
            (case.status, case.whole) = (Status::Failed, false);
            summary.passed -= 1;
            summary.failed += 1;
        }
        for case in summary.cases.iter_mut().filter(|case| case.status != Status::Passed) {
            if let Some(reason) = self.known.get(&case.name) {
                case.reason = Some(reason.clone());
            }
        }
    }
}

/// Whether the cases are in the cache.
pub(crate) fn are_fetched(workspace: &Workspace) -> Result<bool> {
    let data = data(workspace)?;
    Ok(SUITES.iter().all(|suite| data.join(suite).is_dir()))
}

/// The folder of the suites, in the cache.
fn data(workspace: &Workspace) -> Result<PathBuf> {
    Ok(fetch::find("onnx")?.folder(&workspace.cache()).join(DATA))
}

/// Reads the floors; every suite has one and nothing else has.
pub(crate) fn floors(workspace: &Workspace) -> Result<BTreeMap<String, Floor>> {
    let path = workspace.root.join("tests").join("conformance-floor.toml");
    let floors: BTreeMap<String, Floor> = toml::from_str(&read_text(&path)?)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let named: BTreeSet<&str> = floors.keys().map(String::as_str).collect();
    if named != BTreeSet::from(SUITES) {
        return Err(format!("{}: wanted one table for each of {SUITES:?}", path.display()).into());
    }
    Ok(floors)
}

/// What came of a suite on a device when this very `hetra` last ran it, else what comes of it now.
pub(crate) fn known(
    workspace: &Workspace,
    hetra: &Path,
    device: &str,
    suite: &str,
) -> Result<Summary> {
    let json = result_of(workspace, device, suite)?;
    let written = |path: &Path| std::fs::metadata(path).and_then(|about| about.modified()).ok();
    let newer = written(&json).zip(written(hetra)).is_some_and(|(json, hetra)| json > hetra);
    match newer.then(|| read(workspace, &json, suite)) {
        Some(Ok(summary)) => Ok(summary),
        _ => run(workspace, hetra, device, suite),
    }
}

/// A device that was found.
pub(crate) struct Device {
    pub(crate) id: String,
    pub(crate) driver: String,
    /// Whether the processor plays it.
    pub(crate) software: bool,
}

/// The devices, beside the CPU, on which [`ON_DEVICES`] runs: the first that each driver finds.
pub(crate) fn devices(hetra: &Path) -> Result<Vec<Device>> {
    let output = Command::new(hetra).args(["devices", "--json"]).output()?;
    let found: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let mut devices: Vec<Device> = Vec::new();
    for device in found.as_array().into_iter().flatten().filter(|one| one["state"] == "found") {
        let info = &device["info"];
        let text = |name: &str| info[name].as_str().unwrap_or_default().to_owned();
        let (id, driver) = (text("id"), text("driver"));
        if driver != "cpu" && devices.iter().all(|known| known.driver != driver) {
            let software = info["software"] == true;
            devices.push(Device { id, driver, software });
        }
    }
    Ok(devices)
}

fn result_of(workspace: &Workspace, device: &str, suite: &str) -> Result<PathBuf> {
    let device = device.replace(':', "-");
    Ok(workspace.scratch()?.join(format!("conformance-{device}-{suite}.json")))
}

/// Runs one suite and returns what `hetra` wrote.
pub(crate) fn run(
    workspace: &Workspace,
    hetra: &Path,
    device: &str,
    suite: &str,
) -> Result<Summary> {
    let json = result_of(workspace, device, suite)?;
    let log = json.with_extension("log");
    // What an earlier run wrote must not pass for this one's result.
    if json.exists() {
        std::fs::remove_file(&json)?;
    }
    let mut command = Command::new(hetra);
    command.env("HETRA_STORE", "off").env("HETRA_KERNEL_CACHE", "off");
    command.arg("conformance").arg(data(workspace)?.join(suite)).args(["--device", device]);
    command.arg("--json").arg(&json).current_dir(&workspace.root);
    if let Ended::TimedOut = run_limited(&mut command, &log, SUITE_LIMIT)? {
        return Err(format!("{suite}: not done after {} s", SUITE_LIMIT.as_secs()).into());
    }
    // A failed case makes hetra exit with an error; the file says which.
    if !json.exists() {
        return Err(format!("{suite}: hetra wrote no result: {}", last_line(&log)).into());
    }
    read(workspace, &json, suite)
}

/// Reads what `hetra` wrote of a suite.
fn read(workspace: &Workspace, json: &Path, suite: &str) -> Result<Summary> {
    let text = read_text(json)?;
    let mut summary = parse(&text).map_err(|error| format!("{}: {error}", json.display()))?;
    if let Some(floor) = floors(workspace)?.get(suite) {
        floor.explain(&mut summary);
    }
    Ok(summary)
}

/// Reads a result and checks that its counts are those of its cases.
fn parse(text: &str) -> Result<Summary> {
    let summary: Summary = serde_json::from_str(text)?;
    let count = |status| summary.cases.iter().filter(|case| case.status == status).count();
    let counted = (count(Status::Passed), count(Status::Failed), count(Status::Skipped));
    let claimed = (summary.passed, summary.failed, summary.skipped);
    if counted != claimed {
        return Err(format!("says {claimed:?} but lists {counted:?} cases").into());
    }
    Ok(summary)
}

/// The row of a suite: its counts, a line for each failure, one for each reason of skips, and
/// one more failure where it is below its floor.
pub(crate) fn row(name: &str, summary: &Summary, floor: &Floor) -> Row {
    let mut row = Row::new(name);
    row.passed = summary.passed;
    let mut skips: BTreeMap<&str, usize> = BTreeMap::new();
    for case in &summary.cases {
        let reason = case.reason.as_deref().unwrap_or("no reason given");
        match case.status {
            Status::Passed => {}
            Status::Failed if !floor.known.contains_key(&case.name) => {
                row.fail(format!("{} failed: {reason}", case.name));
            }
            Status::Failed | Status::Skipped => {
                row.skipped += 1;
                *skips.entry(reason).or_default() += 1;
            }
        }
    }
    if summary.passed < floor.passed_min {
        row.fail(format!("{} passed, at least {} must", summary.passed, floor.passed_min));
    }
    let unknown =
        |case: &&Case| case.status == Status::Skipped && !floor.known.contains_key(&case.name);
    let unknown = summary.cases.iter().filter(unknown).count();
    if floor.all && (unknown > 0 || summary.passed == 0) {
        row.fail(format!("{} passed, {unknown} skipped: all must pass", summary.passed));
    }
    row.notes.extend(skips.iter().map(|(reason, count)| format!("{count} skipped: {reason}")));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = r#"{"passed": 1, "failed": 1, "skipped": 1, "cases": [
        {"name": "test_abs", "status": "passed", "ms": 1.2},
        {"name": "test_add", "status": "failed", "reason": "output 0", "ms": 1.2},
        {"name": "test_adam", "status": "skipped", "reason": "training", "ms": 0.0}]}"#;

    fn check(floor: Floor) -> Row {
        row("onnx node", &parse(RESULT).expect("the result is fine"), &floor)
    }

    #[test]
    fn a_row_counts_and_names() {
        let row = check(Floor { passed_min: 1, all: false, ..Floor::default() });
        assert_eq!((row.passed, row.failed, row.skipped), (1, 1, 1));
        assert_eq!(row.notes, ["test_add failed: output 0", "1 skipped: training"]);
    }

    #[test]
    fn a_known_failure_is_no_failure() {
        let known = [("test_add".to_string(), "it is random".to_string())].into();
        let floor = Floor { passed_min: 1, known, ..Floor::default() };
        let mut summary = parse(RESULT).expect("the result is fine");
        floor.explain(&mut summary);
        let row = row("onnx node", &summary, &floor);
        assert_eq!((row.passed, row.failed, row.skipped), (1, 0, 2));
        assert_eq!(row.notes[0], "1 skipped: it is random");
    }

    #[test]
    fn a_pass_by_chance_is_none() {
        let known = [("test_abs".to_string(), "it is random".to_string())].into();
        let random = ["test_abs".to_string(), "test_add".to_string()].into();
        let floor = Floor { known, random, ..Floor::default() };
        let mut summary = parse(RESULT).expect("the result is fine");
        floor.explain(&mut summary);
        assert_eq!((summary.passed, summary.failed, summary.skipped), (0, 2, 1));
        assert_eq!(summary.cases[0].reason.as_deref(), Some("it is random"));
    }

    #[test]
    fn below_the_floor_is_a_failure() {
        assert_eq!(check(Floor { passed_min: 2, all: false, ..Floor::default() }).failed, 2);
        assert_eq!(check(Floor { passed_min: 0, all: true, ..Floor::default() }).failed, 2);
    }

    #[test]
    fn counts_must_agree_with_the_cases() {
        let error = parse(&RESULT.replace("\"passed\": 1", "\"passed\": 2"));
        assert!(error.expect_err("refused").to_string().contains("lists"));
    }

    #[test]
    fn the_committed_floors_can_be_read() {
        let workspace = Workspace::find().expect("xtask is in a workspace");
        let floors = floors(&workspace).expect("tests/conformance-floor.toml is fine");
        assert!(floors["simple"].all);
        assert!(floors["node"].passed_min > 0);
    }
}
