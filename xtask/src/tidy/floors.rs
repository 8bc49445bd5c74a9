//! The floors: which crate may depend on which.
//!
//! A crate depends only on lower floors, or on crates left of it on its own floor. Floors 3
//! (hardware) and 4 (deciding) never see each other, except in tests; they meet on floor 5.

use super::Finding;
use crate::workspace::{Metadata, Result, Workspace};

/// Folders under `crates/`, by floor, each floor from left to right.
const FLOORS: [&[&str]; 8] = [
    &["fetch", "memory", "tensor"],
    &["ir", "kernel-macros", "kernel", "machine"],
    &["ops"],
    &[
        "cpu-base",
        "cpu-kernels",
        "cpu-rows",
        "device",
        "kernel-cases",
        "device-kernels",
        "device-cpu",
        "device-wgpu",
        "device-opencl",
        "device-openvino",
        "device-ort",
        "device-sim",
        "device-fpga",
        "device-cuda",
    ],
    &["onnx", "pass", "cost", "place", "plan", "pipeline"],
    &["exec", "tune"],
    &["hetra", "serve"],
    &["cli", "python"],
];

/// The floor of the devices.
const HARDWARE: usize = 3;

/// The floor of the decisions.
const DECIDING: usize = 4;

/// One crate of ours that uses another.
#[derive(Debug)]
pub(crate) struct Uses {
    /// The folder of the crate.
    pub(crate) user: String,
    /// The folder of the crate it depends on; `None` states only that the crate exists.
    pub(crate) used: Option<String>,
    /// True for a dev-dependency.
    pub(crate) in_tests: bool,
}

/// Reads who uses whom from cargo's metadata. `xtask` stands on no floor.
pub(crate) fn read(workspace: &Workspace, metadata: &Metadata) -> Result<Vec<Uses>> {
    let crates = workspace.root.join("crates");
    let mut all = Vec::new();
    for package in &metadata.packages {
        let folder = package.manifest_path.parent().ok_or("a manifest without a folder")?;
        let Ok(user) = folder.strip_prefix(&crates) else { continue };
        let user = user.display().to_string();
        all.push(Uses { user: user.clone(), used: None, in_tests: false });
        for dependency in &package.dependencies {
            let Some(path) = &dependency.path else { continue };
            let used = path.strip_prefix(&crates).unwrap_or(path).display().to_string();
            let in_tests = dependency.kind.as_deref() == Some("dev");
            all.push(Uses { user: user.clone(), used: Some(used), in_tests });
        }
    }
    Ok(all)
}

/// Checks who uses whom.
pub(crate) fn check(all: &[Uses]) -> Vec<Finding> {
    let finding = |uses: &Uses| {
        let message = refuse(uses)?;
        let file = format!("crates/{}/Cargo.toml", uses.user);
        Some(Finding::new(&file, 1, "floor", message))
    };
    all.iter().filter_map(finding).collect()
}

/// Floor and place on it, both from 0.
fn place(folder: &str) -> Option<(usize, usize)> {
    FLOORS.iter().enumerate().find_map(|(floor, crates)| {
        crates.iter().position(|name| *name == folder).map(|column| (floor, column))
    })
}

/// Why a dependency is not allowed; `None` when it is.
fn refuse(uses: &Uses) -> Option<String> {
    let unknown = |folder: &str| format!("`{folder}` stands on no floor: add it to FLOORS");
    let Some(user) = place(&uses.user) else { return Some(unknown(&uses.user)) };
    let used_name = uses.used.as_deref()?;
    let Some(used) = place(used_name) else { return Some(unknown(used_name)) };
    let meets = matches!((user.0, used.0), (HARDWARE, DECIDING) | (DECIDING, HARDWARE));
    if meets {
        return (!uses.in_tests)
            .then(|| format!("depends on `{used_name}`: floors 3 and 4 never see each other"));
    }
    (used >= user).then(|| {
        format!(
            "floor {} depends on `{used_name}` of floor {}: only lower floors, or to its left",
            user.0, used.0
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message for `user` using `used`, empty when allowed.
    fn said(user: &str, used: &str, in_tests: bool) -> String {
        let uses = Uses { user: user.into(), used: Some(used.into()), in_tests };
        check(&[uses]).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn lower_floors_and_left_neighbours_are_allowed() {
        for (user, used) in [
            ("ir", "tensor"),
            ("plan", "pass"),
            ("exec", "device"),
            ("exec", "plan"),
            ("serve", "hetra"),
            ("cli", "hetra"),
        ] {
            assert_eq!(said(user, used, false), "", "{user} -> {used}");
        }
    }

    #[test]
    fn higher_floors_and_right_neighbours_are_not() {
        for (user, used) in
            [("tensor", "ir"), ("pass", "plan"), ("ops", "exec"), ("hetra", "serve"), ("ir", "ir")]
        {
            assert!(said(user, used, false).contains("only lower floors"), "{user} -> {used}");
            assert!(said(user, used, true).contains("only lower floors"), "{user} -> {used}");
        }
    }

    #[test]
    fn hardware_and_deciding_meet_in_tests_only() {
        for (user, used) in [("device-cpu", "plan"), ("place", "device")] {
            assert!(said(user, used, false).contains("never see each other"), "{user} -> {used}");
            assert_eq!(said(user, used, true), "", "{user} -> {used}");
        }
    }

    #[test]
    fn every_crate_stands_on_a_floor() {
        assert!(said("novel", "tensor", false).contains("`novel` stands on no floor"));
        assert!(said("ir", "novel", false).contains("`novel` stands on no floor"));
        let alone = Uses { user: "novel".into(), used: None, in_tests: false };
        assert_eq!(check(&[alone]).len(), 1);
    }
}
