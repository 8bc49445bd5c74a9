//! What ran, what passed, and what did not and why: the last page of `cargo xtask test`.

use std::fmt::Write;

/// Failures and skips listed for each row.
const DETAILS_MAX: usize = 20;

/// What came of one suite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// The suite's name.
    pub(crate) name: String,
    /// Cases that passed.
    pub(crate) passed: usize,
    /// Cases that failed.
    pub(crate) failed: usize,
    /// Cases that were not run, or not to their end.
    pub(crate) skipped: usize,
    /// A line for each failure, and the reasons of the skips.
    pub(crate) notes: Vec<String>,
}

impl Row {
    /// A suite without results yet.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// A suite that did not run at all; counted as one skip.
    pub(crate) fn skipped(name: &str, why: &str) -> Self {
        Self { skipped: 1, notes: vec![format!("not run: {why}")], ..Self::new(name) }
    }

    /// Adds one failure.
    pub(crate) fn fail(&mut self, why: String) {
        self.failed += 1;
        self.notes.push(why);
    }
}

/// The table, the notes below it, and the last line `N passed, M failed, K skipped`.
pub(crate) fn render(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("suite".len());
    let mut page =
        format!("{:width$}  {:>7} {:>7} {:>7}\n", "suite", "passed", "failed", "skipped");
    for Row { name, passed, failed, skipped, .. } in rows {
        let _ = writeln!(page, "{name:width$}  {passed:>7} {failed:>7} {skipped:>7}");
    }
    for row in rows.iter().filter(|row| !row.notes.is_empty()) {
        let _ = writeln!(page, "\n{}:", row.name);
        for note in row.notes.iter().take(DETAILS_MAX) {
            let _ = writeln!(page, "  {note}");
        }
        if row.notes.len() > DETAILS_MAX {
            let _ = writeln!(page, "  and {} more", row.notes.len() - DETAILS_MAX);
        }
    }
    let sum = |of: fn(&Row) -> usize| rows.iter().map(of).sum::<usize>();
    let (passed, failed, skipped) =
        (sum(|row| row.passed), sum(|row| row.failed), sum(|row| row.skipped));
    let _ = write!(page, "\n{passed} passed, {failed} failed, {skipped} skipped");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_sum() {
        let mut row = Row { passed: 3, ..Row::new("unit tests") };
        row.fail("a::b failed".into());
        let page = render(&[row, Row::skipped("models", "no folder")]);
        assert_eq!(page.lines().last(), Some("3 passed, 1 failed, 1 skipped"));
        assert!(page.contains("unit tests        3       1       0"), "{page}");
        assert!(page.contains("  a::b failed"), "{page}");
        assert!(page.contains("  not run: no folder"), "{page}");
    }

    #[test]
    fn long_lists_are_cut() {
        let mut row = Row::new("a");
        (0..25).for_each(|index| row.fail(format!("case {index}")));
        let page = render(&[row]);
        assert!(page.contains("case 19") && !page.contains("case 20"), "{page}");
        assert!(page.contains("and 5 more"), "{page}");
    }
}
