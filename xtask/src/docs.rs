//! `cargo xtask docs`: the pages that are generated from what was built.
//!
//! `docs/OPS.md` is what `hetra docs-ops` prints; `docs/CONFORMANCE.md` is what came of ONNX's
//! own cases. Times are left out, so that the pages change only when an answer does; those are
//! in `docs/PERFORMANCE.md`, which is made from figures that are committed beside it.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::bench;
use crate::suites::{self, SUITES, Status, Summary};
use crate::workspace::{Result, Workspace, flag};

/// The longest reason that is shown, in characters.
const REASON_CHARS_MAX: usize = 240;

/// Writes the pages, or compares them; false when one is not what it should be.
pub(crate) fn run(workspace: &Workspace, check: bool) -> Result<bool> {
    let hetra = workspace.build_hetra()?;
    let mut good = put(workspace, "OPS.md", &ops(&hetra)?, check)?;
    good &= bench::pages(workspace, check)?;
    if suites::are_fetched(workspace)? {
        let mut summaries = Vec::new();
        for suite in SUITES {
            summaries.push((suite, suites::known(workspace, &hetra, "cpu", suite)?));
        }
        let root = workspace.root.display().to_string();
        let page = conformance(&summaries, &root) + &on_devices(workspace, &hetra, &root)?;
        good &= put(workspace, "CONFORMANCE.md", &page, check)?;
    } else {
        let required = !check || flag("CI") || flag("HETRA_REQUIRE_FETCH");
        eprintln!("docs: CONFORMANCE.md skipped: run `cargo xtask fetch` for the cases");
        good &= !required;
    }
    Ok(good)
}

/// Writes a page, or compares it with what is there.
fn put(workspace: &Workspace, name: &str, page: &str, check: bool) -> Result<bool> {
    let folder = workspace.root.join("docs");
    let path = folder.join(name);
    let old = fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    if old == page {
        println!("docs: docs/{name} is up to date");
        return Ok(true);
    }
    if check {
        let lines = old.lines().zip(page.lines()).take_while(|(old, new)| old == new).count();
        println!("docs: docs/{name} differs from line {}: run `cargo xtask docs`", lines + 1);
        return Ok(false);
    }
    fs::create_dir_all(folder)?;
    fs::write(&path, page)?;
    println!("docs: docs/{name} written");
    Ok(true)
}

/// Where the part of the page about devices begins.
const DEVICES: &str = "\n## On devices\n";

/// The drivers that the part about devices is of.
const DRIVERS: [&str; 2] = ["wgpu", "opencl"];

/// The part of the page about devices; where not all of them are here, it stays as it is.
fn on_devices(workspace: &Workspace, hetra: &Path, root: &str) -> Result<String> {
    // What is said of them holds for software devices.
    let mut devices = suites::devices(hetra)?;
    devices.retain(|device| device.software);
    let here = |driver: &&str| devices.iter().any(|device| device.driver == **driver);
    if !DRIVERS.iter().all(here) {
        println!("docs: devices in docs/CONFORMANCE.md are left as they are: not all are here");
        let old = fs::read_to_string(workspace.root.join("docs").join("CONFORMANCE.md"))?;
        return Ok(old.find(DEVICES).map_or("", |at| &old[at..]).replace("\r\n", "\n"));
    }
    let mut summaries = Vec::new();
    for device in devices {
        let summary = suites::known(workspace, hetra, &device.id, suites::ON_DEVICES)?;
        summaries.push((device.id, summary));
    }
    let known = &suites::floors(workspace)?[suites::ON_DEVICES];
    Ok(device_part(&summaries, |name| known.is_known(name), root))
}

fn device_part(
    summaries: &[(String, Summary)],
    known: impl Fn(&str) -> bool,
    root: &str,
) -> String {
    let mut part = format!(
        "{DEVICES}\n\
         The cases of `node` on the devices of CI, which are software: Mesa's lavapipe behind wgpu,\n\
         PoCL behind OpenCL. What a device has no kernel for, the host does; `by kernels alone` are\n\
         the cases that pass with `--no-fallback` and have no body that falls back.\n\n\
         | device | passed | failed | skipped | by kernels alone |\n|---|---:|---:|---:|---:|\n"
    );
    for (id, summary) in summaries {
        let whole = summary.cases.iter().filter(|case| case.whole).count();
        let Summary { passed, failed, skipped, .. } = summary;
        let _ = writeln!(part, "| {id} | {passed} | {failed} | {skipped} | {whole} |");
    }
    let own = |(id, summary): &(String, Summary)| {
        let cases = summary.cases.iter().filter(|case| case.status != Status::Passed);
        let cases = cases.filter(|case| !known(&case.name));
        let line = |case: &suites::Case| {
            let reason = cell(case.reason.as_deref().unwrap_or(""), root);
            format!("| {id} | `{}` | {reason} |\n", case.name)
        };
        cases.map(line).collect::<String>()
    };
    let lines: String = summaries.iter().map(own).collect();
    match lines.is_empty() {
        true => part + "\nNo case fails on a device that passes on the CPU.\n",
        false => {
            let head = "\nCases that pass on the CPU only:\n\n| device | case | reason |\n";
            part + head + "|---|---|---|\n" + &lines
        }
    }
}

/// The page of operators, as `hetra` prints it.
fn ops(hetra: &Path) -> Result<String> {
    let output = Command::new(hetra).arg("docs-ops").output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("hetra docs-ops failed: {}", said.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?.replace("\r\n", "\n"))
}

/// The page of conformance. `root` is cut out of reasons: they must not name this machine.
fn conformance(summaries: &[(&str, Summary)], root: &str) -> String {
    let mut page = String::from(
        "# ONNX conformance\n\n\
         Generated by `cargo xtask docs`; do not edit. These are the cases of ONNX's own backend\n\
         test suite, of the version pinned in `crates/fetch/wheels.toml`. A case passes when every output\n\
         has the recorded type, shape and, within tolerance, values.\n\n\
         | folder | passed | failed | skipped |\n|---|---:|---:|---:|\n",
    );
    for (suite, Summary { passed, failed, skipped, .. }) in summaries {
        let _ = writeln!(page, "| {suite} | {passed} | {failed} | {skipped} |");
    }
    page.push_str("\n## Cases that do not pass\n");
    let mut none = true;
    for (suite, summary) in summaries {
        let mut cases: Vec<_> =
            summary.cases.iter().filter(|case| case.status != Status::Passed).collect();
        if cases.is_empty() {
            continue;
        }
        none = false;
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        let _ = writeln!(page, "\n### {suite}\n\n| case | result | reason |\n|---|---|---|");
        for case in cases {
            let result = if case.status == Status::Failed { "failed" } else { "skipped" };
            let reason = cell(case.reason.as_deref().unwrap_or(""), root);
            let _ = writeln!(page, "| `{}` | {result} | {reason} |", case.name);
        }
    }
    if none {
        page.push_str("\nNone.\n");
    }
    page
}

/// A reason as one cell of a table.
fn cell(reason: &str, root: &str) -> String {
    let one_line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let local = if root.is_empty() { one_line } else { one_line.replace(root, ".") };
    let short: String = local.chars().take(REASON_CHARS_MAX).collect();
    short.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suites::Case;

    #[test]
    fn the_page_lists_what_does_not_pass() {
        let case = |name: &str, status, reason: &str| Case {
            name: name.into(),
            status,
            reason: Some(reason.into()),
            whole: true,
        };
        let cases = vec![
            case("test_b", Status::Skipped, "a | b\nof /r/x"),
            case("test_a", Status::Failed, "off"),
            case("test_c", Status::Passed, ""),
        ];
        let node = Summary { passed: 1, failed: 1, skipped: 1, cases };
        let page = conformance(&[("node", node), ("simple", Summary::default())], "/r");
        assert!(page.contains("| node | 1 | 1 | 1 |\n| simple | 0 | 0 | 0 |\n"), "{page}");
        let list = "| `test_a` | failed | off |\n| `test_b` | skipped | a \\| b of ./x |\n";
        assert!(page.ends_with(list), "{page}");
    }

    #[test]
    fn devices_are_told_apart_from_the_cpu() {
        let case = |name: &str, status| Case { name: name.into(), status, ..Case::default() };
        let cases = vec![
            Case { whole: true, ..case("test_a", Status::Passed) },
            case("test_b", Status::Passed),
            case("test_c", Status::Failed),
        ];
        let summary = Summary { passed: 2, failed: 1, skipped: 0, cases };
        let part = |known: &str| {
            device_part(&[("wgpu:0".into(), summary.clone())], |name| name == known, "")
        };
        assert!(part("test_c").contains("| wgpu:0 | 2 | 1 | 0 | 1 |\n\nNo case fails"));
        assert!(part("").ends_with("| wgpu:0 | `test_c` |  |\n"));
    }

    #[test]
    fn a_page_without_failures_says_so() {
        assert!(conformance(&[("node", Summary::default())], "").ends_with("\nNone.\n"));
    }
}
