//! Rules that need more than one file: no file that nothing compiles, no crate that is too large.

use std::collections::BTreeMap;

use super::Finding;
use super::scan::{mask, words};

/// Most lines with code of one crate, without its tests.
const CRATE_LINES_MAX: usize = 10_000;

/// Folders whose files cargo finds itself.
const FOUND_BY_CARGO: [&str; 6] =
    ["tests", "examples", "benches", "bin", "fuzz_targets", "fuzzers"];

/// Checks all Rust files of the tree, by path.
pub(crate) fn check(sources: &BTreeMap<String, String>) -> Vec<Finding> {
    let mut findings = dead_files(sources);
    findings.extend(crate_sizes(sources));
    findings
}

/// Files that no `mod` names.
fn dead_files(sources: &BTreeMap<String, String>) -> Vec<Finding> {
    let dead = sources.keys().filter(|path| !is_root(path) && !is_named(path, sources));
    dead.map(|path| {
        let message = "no `mod` names this file, so nothing compiles it: remove it";
        Finding::new(path, 1, "dead-file", message)
    })
    .collect()
}

fn is_root(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    let (file, folder) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let main = matches!(file, "lib.rs" | "main.rs") && folder == "src";
    let above = parts.next().unwrap_or_default();
    let program = file == "main.rs" && FOUND_BY_CARGO.contains(&above);
    main || program || file == "build.rs" || (file != "mod.rs" && FOUND_BY_CARGO.contains(&folder))
}

/// Whether a file beside this one, or the module that the folder belongs to, declares it.
fn is_named(path: &str, sources: &BTreeMap<String, String>) -> bool {
    let module = path.strip_suffix("/mod.rs").unwrap_or(path);
    let Some((folder, file)) = module.rsplit_once('/') else { return true };
    let name = file.strip_suffix(".rs").unwrap_or(file);
    let owner = format!("{folder}.rs");
    let beside = |other: &str| other.rsplit_once('/').is_some_and(|(place, _)| place == folder);
    sources
        .iter()
        .filter(|(other, _)| *other != path && (**other == owner || beside(other)))
        .any(|(_, source)| declares(source, name))
}

fn declares(source: &str, name: &str) -> bool {
    let masked = mask(source);
    let named = words(&masked, "mod").any(|at| {
        let rest = masked[at + 3..].trim_start();
        rest.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with(';'))
    });
    named || source.contains(&format!("#[path = \"{name}.rs\"]"))
}

/// Crates with more code than one mind holds.
fn crate_sizes(sources: &BTreeMap<String, String>) -> Vec<Finding> {
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    for (path, source) in sources {
        let mut parts = path.split('/');
        let (Some("crates"), Some(name), Some("src")) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if !is_test(path) {
            *lines.entry(name).or_default() += code_lines(source);
        }
    }
    let large = lines.into_iter().filter(|(_, lines)| *lines > CRATE_LINES_MAX);
    large
        .map(|(name, lines)| {
            let message =
                format!("{lines} lines of code in `{name}`, at most {CRATE_LINES_MAX}: split it");
            Finding::new(&format!("crates/{name}/Cargo.toml"), 1, "crate-lines", message)
        })
        .collect()
}

fn is_test(path: &str) -> bool {
    let stems = path.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
    stems.into_iter().any(|stem| stem == "tests" || stem.ends_with("_tests"))
}

/// Lines that are neither blank nor comment, up to the tests at the foot of the file.
fn code_lines(source: &str) -> usize {
    let masked = mask(source);
    let foot = masked.find("#[cfg(test)]\nmod tests {").unwrap_or(masked.len());
    masked[..foot].lines().filter(|line| !line.trim().is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<(String, &'static str)> {
        let own = |(path, source): &(&str, &str)| ((*path).to_owned(), (*source).to_owned());
        let findings = check(&files.iter().map(own).collect());
        findings.into_iter().map(|finding| (finding.file, finding.rule)).collect()
    }

    #[test]
    fn every_file_has_its_mod() {
        let alive = [
            ("crates/a/src/lib.rs", "mod b;\nmod c;\n"),
            ("crates/a/src/b.rs", "mod d;\n#[cfg(test)]\n#[path = \"b_tests.rs\"]\nmod tests;\n"),
            ("crates/a/src/b/d.rs", ""),
            ("crates/a/src/b_tests.rs", ""),
            ("crates/a/src/c/mod.rs", "mod e;\n"),
            ("crates/a/src/c/e.rs", ""),
            ("crates/a/tests/t.rs", "mod check;\n"),
            ("crates/a/tests/check/mod.rs", ""),
            ("crates/a/examples/x.rs", ""),
            ("crates/a/build.rs", ""),
        ];
        assert_eq!(found(&alive), []);
        for (dead, but) in [
            ("crates/a/src/old.rs", "// mod old;\n"),
            ("crates/a/src/b/old.rs", "mod older;\n"),
            ("crates/a/tests/old/mod.rs", ""),
        ] {
            let mut files = alive.to_vec();
            files.extend([(dead, ""), ("crates/a/src/main.rs", but)]);
            assert_eq!(found(&files), [(dead.to_owned(), "dead-file")]);
        }
    }

    #[test]
    fn crates_are_small_without_tests_and_comments() {
        let code = "f();\n".repeat(CRATE_LINES_MAX);
        let tail = format!("// why\n\n#[cfg(test)]\nmod tests {{\n{code}}}\n");
        let root = format!("{code}{tail}");
        assert_eq!(found(&[("crates/a/src/lib.rs", &root)]), []);
        let more = ("crates/a/src/main.rs", "f();\n");
        let wanted = [("crates/a/Cargo.toml".to_owned(), "crate-lines")];
        assert_eq!(found(&[("crates/a/src/lib.rs", &root), more]), wanted);
    }
}
