//! What the passes did, and what they nearly did.

use std::fmt;

/// What one pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassReport {
    /// Name of the pass.
    pub pass: &'static str,
    /// A line for each rewrite.
    pub rewrites: Vec<String>,
    /// A line for each pattern that began to match and did not: what stood in the way.
    pub misses: Vec<String>,
}

/// What all passes did, in the order in which they first ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One for each pass that ran.
    pub passes: Vec<PassReport>,
}

/// Most lines kept of one kind for one pass: a report is for people.
const LINES_MAX: usize = 10_000;

impl Report {
    /// What this pass did.
    pub fn pass(&self, name: &str) -> Option<&PassReport> {
        self.passes.iter().find(|report| report.pass == name)
    }

    /// Number of rewrites of this pass.
    pub fn count(&self, name: &str) -> usize {
        self.pass(name).map_or(0, |report| report.rewrites.len())
    }

    /// Number of rewrites of all passes.
    pub fn total(&self) -> usize {
        self.passes.iter().map(|report| report.rewrites.len()).sum()
    }

    pub(crate) fn of(&mut self, name: &'static str) -> &mut PassReport {
        let found = self.passes.iter().position(|report| report.pass == name);
        let index = found.unwrap_or_else(|| {
            self.passes.push(PassReport { pass: name, ..PassReport::default() });
            self.passes.len() - 1
        });
        &mut self.passes[index]
    }

    pub(crate) fn rewrote(&mut self, pass: &'static str, line: String) {
        let lines = &mut self.of(pass).rewrites;
        if lines.len() < LINES_MAX {
            lines.push(line);
        }
    }

    pub(crate) fn missed(&mut self, pass: &'static str, line: String) {
        let lines = &mut self.of(pass).misses;
        if lines.len() < LINES_MAX && !lines.contains(&line) {
            lines.push(line);
        }
    }
}

/// A paragraph for each pass: its rewrites, then its near misses.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for report in &self.passes {
            if report.rewrites.is_empty() && report.misses.is_empty() {
                continue;
            }
            let count = report.rewrites.len();
            let plural = if count == 1 { "" } else { "s" };
            writeln!(f, "{}: {count} rewrite{plural}", report.pass)?;
            for line in &report.rewrites {
                writeln!(f, "  {line}")?;
            }
            for line in &report.misses {
                writeln!(f, "  not: {line}")?;
            }
        }
        Ok(())
    }
}
