//! Rules for Rust files: sizes, the file's own doc, where `unsafe` may stand, names of modules.

use super::Finding;
use super::scan::{FILLER, functions, line_of, mask, traits, words};

/// The longest file, tests included.
const FILE_LINES_MAX: usize = 700;

/// The longest function body.
const FUNCTION_LINES_MAX: usize = 70;

/// The longest body of a kernel: its functions take no arrays, neither of registers nor of memory
/// that a group shares, so that what works on those cannot be split.
const KERNEL_LINES_MAX: usize = 130;

/// Most methods of one trait.
const TRAIT_METHODS_MAX: usize = 12;

/// The widest line, in characters.
const COLUMNS_MAX: usize = 100;

/// The widest line where a string literal stands, which cannot always be broken.
const COLUMNS_MAX_WITH_STRING: usize = 120;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "common", "helper", "helpers", "manager", "misc"];

/// Checks one Rust file.
pub(crate) fn check(path: &str, source: &str) -> Vec<Finding> {
    let masked = mask(source);
    let mut findings = Vec::new();
    if !source.starts_with("//!") {
        let message = "starts with no `//!`: say what the file does and what it leaves to others";
        findings.push(Finding::new(path, 1, "file-doc", message));
    }
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX {
        let message = format!("{lines} lines, at most {FILE_LINES_MAX}: split the file");
        findings.push(Finding::new(path, lines, "file-lines", message));
    }
    for function in functions(&masked) {
        let most = if function.kernel { KERNEL_LINES_MAX } else { FUNCTION_LINES_MAX };
        if function.lines > most {
            let message = format!(
                "`{}` has {} lines, at most {most}: split it",
                function.name, function.lines
            );
            findings.push(Finding::new(path, function.line, "function-lines", message));
        }
    }
    for found in traits(&masked) {
        if found.methods > TRAIT_METHODS_MAX {
            let message = format!(
                "`{}` has {} methods, at most {TRAIT_METHODS_MAX}: an interface is small",
                found.name, found.methods
            );
            findings.push(Finding::new(path, found.line, "trait-methods", message));
        }
    }
    widths(path, source, &masked, &mut findings);
    placement_of_unsafe(path, &masked, &mut findings);
    names(path, &masked, &mut findings);
    findings
}

/// Lines that are too wide. A URL has no limit, nor has a literal that goes on past the edge:
/// a snapshot's lines are as long as they are. Code after a literal has the wider limit.
fn widths(path: &str, source: &str, masked: &str, findings: &mut Vec<Finding>) {
    for (index, (line, code)) in source.lines().zip(masked.lines()).enumerate() {
        let columns = line.chars().count();
        let max = if code.contains('"') { COLUMNS_MAX_WITH_STRING } else { COLUMNS_MAX };
        let in_literal = code.chars().nth(COLUMNS_MAX) == Some(FILLER);
        if columns > max && !in_literal && !line.contains("://") {
            let message = format!("{columns} columns, at most {max}");
            findings.push(Finding::new(path, index + 1, "width", message));
        }
    }
}

/// The crates in which `unsafe` may stand: those that touch raw memory or a device.
fn may_be_unsafe(path: &str) -> bool {
    let Some(folder) = path.strip_prefix("crates/").and_then(|rest| rest.split('/').next()) else {
        return false;
    };
    let device = folder.starts_with("device-") && folder != "device-cpu";
    device
        || matches!(
            folder,
            "tensor" | "kernel" | "device" | "cpu-base" | "cpu-kernels" | "cpu-rows" | "python"
        )
}

/// `unsafe` outside the crates that may have it.
fn placement_of_unsafe(path: &str, masked: &str, findings: &mut Vec<Finding>) {
    if may_be_unsafe(path) {
        return;
    }
    for at in words(masked, "unsafe") {
        let message = "`unsafe` belongs in tensor, kernel, cpu-*, python, device and devices but the CPU only";
        findings.push(Finding::new(path, line_of(masked, at), "unsafe", message));
    }
}

/// Files, folders and inline modules with a name that says nothing.
fn names(path: &str, masked: &str, findings: &mut Vec<Finding>) {
    let stems = path.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
    for stem in stems.filter(|stem| EMPTY_NAMES.contains(stem)) {
        let message = format!("`{stem}` says nothing about what is inside: name the subject");
        findings.push(Finding::new(path, 1, "name", message));
    }
    for at in words(masked, "mod") {
        let rest = masked[at + 3..].trim_start();
        let Some(name) = EMPTY_NAMES.into_iter().find(|name| words(rest, name).next() == Some(0))
        else {
            continue;
        };
        let message = format!("`mod {name}` says nothing about what is inside: name the subject");
        findings.push(Finding::new(path, line_of(masked, at), "name", message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines and rules found in `source` as `path`.
    fn found(path: &str, source: &str) -> Vec<(usize, &'static str)> {
        check(path, source).into_iter().map(|finding| (finding.line, finding.rule)).collect()
    }

    #[test]
    fn a_plain_file_is_fine() {
        assert_eq!(found("crates/ir/src/lib.rs", "//! Doc.\n\nfn f() {}\n"), []);
    }

    #[test]
    fn a_file_says_what_it_is() {
        assert_eq!(found("crates/ir/src/a.rs", "fn f() {}\n"), [(1, "file-doc")]);
    }

    #[test]
    fn files_and_functions_are_short() {
        let file = format!("//! Doc.\n{}", "// x\n".repeat(700));
        assert_eq!(found("crates/ir/src/a.rs", &file), [(701, "file-lines")]);
        let function = |lines| format!("//! Doc.\nfn f() {{\n{}}}\n", "    g();\n".repeat(lines));
        assert_eq!(found("crates/ir/src/a.rs", &function(70)), []);
        assert_eq!(found("crates/ir/src/a.rs", &function(71)), [(2, "function-lines")]);
        let kernel = |lines| function(lines).replace("fn f", "#[kernel(group = [64])]\nfn f");
        assert_eq!(found("crates/ir/src/a.rs", &kernel(130)), []);
        assert_eq!(found("crates/ir/src/a.rs", &kernel(131)), [(3, "function-lines")]);
        let part = kernel(71).replace("#[kernel(group = [64])]", "#[kernel_fn]");
        assert_eq!(found("crates/ir/src/a.rs", &part), [(3, "function-lines")]);
        let after = format!("{}{}", kernel(130), function(71).replace("//! Doc.\n", ""));
        assert_eq!(found("crates/ir/src/a.rs", &after), [(135, "function-lines")]);
    }

    #[test]
    fn interfaces_are_small() {
        let file = |methods: usize| {
            let declared = "    fn f(x: fn(u8));\n".repeat(methods - 1);
            format!(
                "//! Doc.\npub trait T: Send {{\n{declared}    fn g() {{ fn inner() {{}} }}\n}}\n"
            )
        };
        assert_eq!(found("crates/ir/src/a.rs", &file(12)), []);
        assert_eq!(found("crates/ir/src/a.rs", &file(13)), [(2, "trait-methods")]);
    }

    #[test]
    fn lines_are_narrow_but_for_urls() {
        let line = |start: &str, columns: usize| {
            let fill = "x".repeat(columns - start.len());
            format!("//! Doc.\n{start}{fill}\n")
        };
        assert_eq!(found("a.rs", &line("// ", 100)), []);
        assert_eq!(found("a.rs", &line("// ", 101)), [(2, "width")]);
        assert_eq!(found("a.rs", &line("// \"\"", 101)), [(2, "width")]);
        assert_eq!(found("a.rs", &line("\"\".", 120)), []);
        assert_eq!(found("a.rs", &line("\"\".", 121)), [(2, "width")]);
        assert_eq!(found("a.rs", &line("r\"", 200)), []);
        assert_eq!(found("a.rs", &line("// https://", 200)), []);
    }

    #[test]
    fn unsafe_stands_in_few_crates() {
        let source = "//! Doc.\n// unsafe\nfn f() { unsafe { g() } }\n";
        assert_eq!(found("crates/onnx/src/a.rs", source), [(3, "unsafe")]);
        assert_eq!(found("crates/plan/src/a.rs", source), [(3, "unsafe")]);
        assert_eq!(found("crates/device/src/a.rs", source), []);
        assert_eq!(found("crates/tensor/src/a.rs", source), []);
        assert_eq!(found("crates/cpu-kernels/src/a.rs", source), []);
        assert_eq!(found("crates/device-wgpu/src/a.rs", source), []);
        assert_eq!(found("crates/device-cpu/src/a.rs", source), [(3, "unsafe")]);
        assert_eq!(found("crates/onnx/src/a.rs", "//! D.\n#![forbid(unsafe_code)]\n"), []);
    }

    #[test]
    fn modules_are_named_for_their_subject() {
        assert_eq!(found("crates/ir/src/misc.rs", "//! Doc.\n"), [(1, "name")]);
        assert_eq!(found("crates/ir/tests/common/mod.rs", "//! Doc.\n"), [(1, "name")]);
        assert_eq!(found("crates/ir/src/a.rs", "//! Doc.\nmod utils {}\n"), [(2, "name")]);
        assert_eq!(found("crates/ir/src/a.rs", "//! Doc.\nmod utilisation;\n"), []);
    }
}
