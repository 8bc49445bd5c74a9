//! Rules for manifests: each crate inherits the workspace's lints and has a root file.

use super::Finding;
use crate::workspace::{Metadata, Workspace};

/// Checks one `Cargo.toml`. A manifest that is a workspace only has no lints to inherit.
pub(crate) fn check(path: &str, source: &str) -> Vec<Finding> {
    let table: toml::Table = match source.parse() {
        Ok(table) => table,
        Err(error) => {
            return vec![Finding::new(path, 1, "manifest", format!("cannot be read: {error}"))];
        }
    };
    let inherits = table
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(toml::Value::as_bool)
        .unwrap_or(false);
    // The fuzz crate is a workspace of its own, as cargo-fuzz needs it; it has none to inherit.
    if !table.contains_key("package") || table.contains_key("workspace") || inherits {
        return Vec::new();
    }
    vec![Finding::new(path, 1, "lints", "does not inherit: add `[lints]` `workspace = true`")]
}

/// Packages without `src/lib.rs` and `src/main.rs`; that those start with `//!` is a rule of
/// every Rust file.
pub(crate) fn roots(workspace: &Workspace, metadata: &Metadata) -> Vec<Finding> {
    let missing = |manifest: &std::path::Path| {
        let folder = manifest.parent()?;
        let has = |name: &str| folder.join("src").join(name).is_file();
        (!has("lib.rs") && !has("main.rs")).then_some(())
    };
    metadata
        .packages
        .iter()
        .filter(|package| missing(&package.manifest_path).is_some())
        .map(|package| {
            let path = &package.manifest_path;
            let path = path.strip_prefix(&workspace.root).unwrap_or(path).display().to_string();
            let message = format!("`{}` has neither src/lib.rs nor src/main.rs", package.name);
            Finding::new(&path.replace('\\', "/"), 1, "root", message)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(source: &str) -> Vec<&'static str> {
        check("crates/a/Cargo.toml", source).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn lints_are_inherited() {
        assert_eq!(rules("[package]\nname = \"a\"\n"), ["lints"]);
        assert_eq!(rules("[package]\nname = \"a\"\n[lints]\nworkspace = false\n"), ["lints"]);
        assert!(rules("[package]\nname = \"a\"\n[lints]\nworkspace = true\n").is_empty());
        assert!(rules("[workspace]\nmembers = []\n").is_empty());
        assert!(rules("[package]\nname = \"a\"\n[workspace]\n").is_empty());
    }

    #[test]
    fn a_broken_manifest_is_a_finding() {
        assert_eq!(rules("[package"), ["manifest"]);
    }
}
