//! `cargo xtask tidy`: the tree keeps its own rules.
//!
//! Each rule is a function from text to findings, so it is tested on small strings. A rule
//! already broken may sit in `xtask/tidy-allow.txt`, one `rule path` a line; that list may only
//! shrink: an entry that suppresses nothing is itself a finding, and [`ALLOWED_MAX`] is lowered
//! with it.

mod floors;
mod manifests;
mod rust;
mod scan;
mod text;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::workspace::{Result, Workspace, read_text};

/// Where the list of rules already broken is.
const ALLOW_FILE: &str = "xtask/tidy-allow.txt";

/// The most entries the list may hold. It only goes down.
const ALLOWED_MAX: usize = 2;

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Path from the root, with forward slashes.
    pub(crate) file: String,
    /// Line from 1.
    pub(crate) line: usize,
    /// The rule's short name, as written in the allow list.
    pub(crate) rule: &'static str,
    /// What is wrong and what is wanted.
    pub(crate) message: String,
}

impl Finding {
    /// A finding in `file` at `line`.
    fn new(file: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, rule, message: message.into() }
    }
}

/// Prints what is wrong; false when anything is.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let findings = check(workspace)?;
    for finding in &findings {
        println!("{}:{}: {} [{}]", finding.file, finding.line, finding.message, finding.rule);
    }
    if findings.is_empty() {
        println!("tidy: nothing to say");
    } else {
        let plural = if findings.len() == 1 { "" } else { "s" };
        println!("tidy: {} finding{plural}", findings.len());
    }
    Ok(findings.is_empty())
}

/// Every finding of the workspace that the allow list does not cover, sorted.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut sources = BTreeMap::new();
    for path in workspace.files()? {
        let bytes = fs::read(workspace.root.join(&path))?;
        findings.extend(text::blob(&path, bytes.len()));
        // A file that is not UTF-8 is a blob: only its size is ours to judge.
        if let Ok(source) = std::str::from_utf8(&bytes) {
            findings.extend(text::check(&path, source));
            if path.ends_with(".rs") {
                findings.extend(rust::check(&path, source));
                sources.insert(path.clone(), source.to_owned());
            }
            if path.ends_with("Cargo.toml") {
                findings.extend(manifests::check(&path, source));
            }
        }
    }
    findings.extend(tree::check(&sources));
    let metadata = workspace.metadata()?;
    findings.extend(floors::check(&floors::read(workspace, &metadata)?));
    findings.extend(manifests::roots(workspace, &metadata));
    let allowed = read_text(&workspace.root.join(ALLOW_FILE))?;
    let mut findings = ratchet(findings, &allowed, ALLOWED_MAX);
    findings.sort();
    Ok(findings)
}

/// Removes the findings that `allowed` lists and adds one for each entry without effect.
fn ratchet(findings: Vec<Finding>, allowed: &str, max: usize) -> Vec<Finding> {
    let entries: Vec<(usize, &str)> = allowed
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let listed: BTreeSet<&str> = entries.iter().map(|(_, entry)| *entry).collect();
    let key = |finding: &Finding| format!("{} {}", finding.rule, finding.file);
    let found: BTreeSet<String> = findings.iter().map(key).collect();
    let mut kept: Vec<Finding> =
        findings.into_iter().filter(|finding| !listed.contains(key(finding).as_str())).collect();
    for (line, entry) in &entries {
        if !found.contains(*entry) {
            let message = format!("`{entry}` no longer applies: remove the entry");
            kept.push(Finding::new(ALLOW_FILE, *line, "allow-list", message));
        }
    }
    if entries.len() > max {
        let message = format!("{} entries, at most {max}: the list only shrinks", entries.len());
        kept.push(Finding::new(ALLOW_FILE, 1, "allow-list", message));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_is_tidy() {
        let workspace = Workspace::find().expect("xtask is in a workspace");
        let findings = check(&workspace).expect("the tree can be read");
        let lines: Vec<String> = findings
            .iter()
            .map(|finding| format!("{}:{}: {}", finding.file, finding.line, finding.message))
            .collect();
        assert!(findings.is_empty(), "{} findings\n{}", lines.len(), lines.join("\n"));
    }

    #[test]
    fn an_entry_covers_its_rule_in_its_file_only() {
        let findings = || {
            vec![Finding::new("a.rs", 1, "width", "wide"), Finding::new("b.rs", 2, "width", "wide")]
        };
        assert_eq!(ratchet(findings(), "# why\nwidth a.rs\n", 1), findings()[1..]);
        assert_eq!(ratchet(findings(), "", 0), findings());
    }

    #[test]
    fn an_entry_without_effect_is_a_finding() {
        let kept = ratchet(Vec::new(), "width a.rs\n", 1);
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].file.as_str(), kept[0].line), (ALLOW_FILE, 1));
    }

    #[test]
    fn the_list_does_not_grow() {
        let findings = vec![Finding::new("a.rs", 1, "width", "wide")];
        let kept = ratchet(findings, "width a.rs\n", 0);
        assert_eq!(kept.len(), 1);
        assert!(kept[0].message.contains("only shrinks"));
    }
}
