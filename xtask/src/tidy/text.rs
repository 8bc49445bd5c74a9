//! Rules for every text file: words that mark unfinished work, paths of one machine, names of
//! package registries; and the size of any file.
//!
//! The banned strings are joined at compile time from two halves, so that this file does not
//! contain them.

use super::Finding;
use super::scan::{is_word, words};

/// Words that mark unfinished work, banned in every text file.
const WORDS: [&str; 3] = [concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];

/// Calls and attributes banned in Rust files, comments included.
const CALLS: [&str; 4] = [
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("dbg", "!"),
    concat!("#[", "ignore"),
];

/// Folders of one machine.
const MACHINE_PATHS: [&str; 3] =
    [concat!("/wor", "k/"), concat!("/roo", "t/"), concat!("/far", "m/")];

/// Hosts of package registries: where packages come from is the user's configuration.
const REGISTRIES: [&str; 5] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("files.", "pythonhosted"),
    concat!("registry.", "npmjs"),
    concat!("deb.", "debian"),
];

/// The largest file.
const BLOB_BYTES_MAX: usize = 100 * 1024;

/// The largest model that a crate carries among its assets.
const MODEL_BYTES_MAX: usize = 200 * 1024;

/// Written by cargo, in the root and in any crate that is a workspace of its own; not ours to
/// word or to shorten.
fn is_lock_file(path: &str) -> bool {
    path == "Cargo.lock" || path.ends_with("/Cargo.lock")
}

/// Checks one text file.
pub(crate) fn check(path: &str, source: &str) -> Vec<Finding> {
    if is_lock_file(path) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in source.lines().enumerate() {
        let mut add = |rule, message| findings.push(Finding::new(path, index + 1, rule, message));
        for word in WORDS.into_iter().filter(|word| words(line, word).next().is_some()) {
            add("word", format!("`{word}`: finish it or open an issue"));
        }
        if path.ends_with(".rs") {
            for call in CALLS.into_iter().filter(|call| has_call(line, call)) {
                add("call", format!("`{call}` is banned"));
            }
        }
        for folder in MACHINE_PATHS.into_iter().filter(|folder| has_path(line, folder)) {
            add("path", format!("`{folder}` is a path of one machine"));
        }
        for host in REGISTRIES.into_iter().filter(|host| line.contains(host)) {
            add("registry", format!("`{host}` is a registry's host: leave it to configuration"));
        }
    }
    findings
}

/// Whether a call stands in the line with no word character before it.
fn has_call(line: &str, call: &str) -> bool {
    line.match_indices(call).any(|(at, _)| !line[..at].ends_with(is_word))
}

/// Whether an absolute path starts with `folder` in the line. A folder of that name further
/// down a path, as in `a/b` + `folder`, is fine.
fn has_path(line: &str, folder: &str) -> bool {
    let continues = |c: char| is_word(c) || matches!(c, '.' | '-' | '*' | '}' | ')' | '>' | '~');
    line.match_indices(folder).any(|(at, _)| !line[..at].ends_with(continues))
}

/// A file that is too large to commit.
pub(crate) fn blob(path: &str, bytes: usize) -> Option<Finding> {
    let is_asset = path.starts_with("crates/") && path.split('/').nth(2) == Some("assets");
    let max = match path {
        _ if is_lock_file(path) => return None,
        _ if is_asset && path.ends_with(".onnx") => MODEL_BYTES_MAX,
        _ => BLOB_BYTES_MAX,
    };
    (bytes > max).then(|| {
        let message = format!("{bytes} bytes, at most {max}: fetch it or make it smaller");
        Finding::new(path, 1, "blob", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules that a line breaks in the file `path`.
    fn found(path: &str, line: &str) -> Vec<&'static str> {
        check(path, line).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn unfinished_work_is_found() {
        for word in WORDS {
            assert_eq!(found("docs/a.md", &format!("a {word}: b")), ["word"]);
            assert_eq!(found("docs/a.md", &format!("a{word}b")), [] as [&str; 0]);
        }
    }

    #[test]
    fn calls_are_banned_in_rust_only() {
        for call in CALLS {
            assert_eq!(found("a.rs", &format!("    {call}(1)")), ["call"]);
            assert_eq!(found("a.md", &format!("never {call}")), [] as [&str; 0]);
        }
        assert_eq!(found("a.rs", "my_todo!(1)"), [] as [&str; 0]);
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        for folder in MACHINE_PATHS {
            assert_eq!(found("a.toml", &format!("path = \"{folder}a\"")), ["path"]);
            assert_eq!(found("a.toml", &format!("cd {folder}a")), ["path"]);
            assert_eq!(found("a.toml", &format!("path = \"../a{folder}b\"")), [] as [&str; 0]);
        }
    }

    #[test]
    fn registries_are_found_but_in_the_lock_file() {
        for host in REGISTRIES {
            assert_eq!(found("README.md", &format!("see https://{host}/a")), ["registry"]);
            for lock in ["Cargo.lock", "a/b/Cargo.lock"] {
                assert_eq!(found(lock, &format!("see https://{host}/a")), [] as [&str; 0]);
            }
        }
    }

    #[test]
    fn large_files_are_found() {
        assert!(blob("docs/a.png", BLOB_BYTES_MAX).is_none());
        assert!(blob("docs/a.png", BLOB_BYTES_MAX + 1).is_some());
        assert!(blob("Cargo.lock", 10 * BLOB_BYTES_MAX).is_none());
        assert!(blob("crates/cli/assets/a.onnx", MODEL_BYTES_MAX).is_none());
        assert!(blob("crates/cli/assets/a.onnx", MODEL_BYTES_MAX + 1).is_some());
        assert!(blob("crates/cli/src/a.onnx", MODEL_BYTES_MAX).is_some());
    }
}
