//! How figures and tables look.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, TableComponent};

/// A terminal that claims to be narrower is none: pseudo-terminals of build servers are 0 wide.
const COLUMNS_MIN: u16 = 40;

/// The width of the terminal, where stdout is one.
fn columns() -> Option<u16> {
    let columns = console::Term::stdout().size_checked().map(|(_, columns)| columns);
    columns.filter(|columns| *columns >= COLUMNS_MIN)
}

/// Whether wide tables would have to break words.
pub(crate) fn is_narrow() -> bool {
    columns().is_some_and(|columns| columns < 96)
}

/// A table with a bold header and a line below it; columns whose index is in `right` are
/// right-aligned. Colours belong to cells (`Cell::fg`): escapes in a cell's text would be counted
/// in its width.
pub(crate) fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_style(TableComponent::HeaderLines, '─');
    table.set_style(TableComponent::MiddleHeaderIntersections, '─');
    if let Some(columns) = columns() {
        table.set_width(columns);
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    if !console::colors_enabled() {
        table.force_no_tty();
    }
    table.set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Something that is not wrong, on stderr.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// How long ago something was, in the largest unit.
pub(crate) fn since(then: std::time::SystemTime) -> String {
    let seconds = then.elapsed().unwrap_or_default().as_secs();
    let units = [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let (length, unit) = units.into_iter().find(|(s, _)| seconds >= *s).unwrap_or((1, "second"));
    plural((seconds / length) as usize, unit)
}

/// A warning, on stderr.
pub(crate) fn warn(text: &str) {
    eprintln!("{} {text}", console::style("warning:").yellow().bold().for_stderr());
}

/// Longest names of nodes that a table shows whole.
const NAME_MAX: usize = 32;

/// The end of a long name: its beginning is what all nodes of a part share.
pub(crate) fn short(name: &str) -> String {
    let length = name.chars().count();
    match length > NAME_MAX {
        true => format!("…{}", name.chars().skip(length - NAME_MAX + 1).collect::<String>()),
        false => name.to_string(),
    }
}

/// What a device computes by, behind a comma: threads of the host, or its own units, where it says
/// how many.
pub(crate) fn workers(device: &hetra::DeviceInfo) -> String {
    match (device.threads, device.driver.as_str()) {
        (0, _) => String::new(),
        (threads, "cpu") => format!(", {}", plural(threads, "thread")),
        (units, _) => format!(", {}", plural(units, "compute unit")),
    }
}

/// What a session runs on: its device, or those of its parts.
pub(crate) fn on(session: &hetra::Session) -> String {
    match &session.devices()[..] {
        [device] => {
            let kernels = match device.kernels.as_str() {
                "" => String::new(),
                kernels => format!(", {kernels} kernels"),
            };
            format!("{} ({}{kernels}){}", device.id, device.name, workers(device))
        }
        several => several.iter().map(|device| device.id.as_str()).collect::<Vec<_>>().join(" + "),
    }
}

/// A number of things: `1 thread`, `2 threads`.
pub(crate) fn plural(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// A heading above a section of output.
pub(crate) fn heading(text: &str) {
    println!("\n{}", console::style(text).bold().cyan());
}

/// An error with its causes in one line; what the text beside it says already is left out.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if parts.last().is_some_and(|last| last.contains(&cause)) {
            continue;
        }
        if parts.last().is_some_and(|last| cause.contains(last.as_str())) {
            parts.pop();
        }
        parts.push(cause);
    }
    parts.join(": ")
}

/// Bytes with a binary unit.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A count with a decimal suffix, such as `1.2 M`.
pub(crate) fn count(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e3 => format!("{:.1} k", v / 1e3),
        v => format!("{v}"),
    }
}

/// Milliseconds with a sensible number of digits.
pub(crate) fn millis(ms: f64) -> String {
    match ms {
        v if v >= 10_000.0 => format!("{:.2} s", v / 1e3),
        v if v >= 100.0 => format!("{v:.0} ms"),
        v if v >= 1.0 => format!("{v:.2} ms"),
        v => format!("{:.1} µs", v * 1e3),
    }
}

/// A number that is neither too long nor too short.
pub(crate) fn number(value: f64) -> String {
    if value != 0.0 && (value.abs() < 1e-3 || value.abs() >= 1e6) {
        format!("{value:.4e}")
    } else {
        format!("{value:.5}")
    }
}

/// A number with all its digits, and no more: most are f32.
pub(crate) fn exact(value: f64) -> String {
    let narrow = value as f32;
    if f64::from(narrow) == value { narrow.to_string() } else { value.to_string() }
}

/// A bar of `width` cells, filled to `share` (0 to 1).
pub(crate) fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let partial = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    let mut bar = "█".repeat(eighths / 8);
    bar.push_str(partial);
    let used = eighths.div_ceil(8);
    bar.push_str(&" ".repeat(width - used));
    bar
}

/// A progress bar on stderr; hidden when stderr is not a terminal.
pub(crate) fn progress(length: u64, what: &str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(length);
    let template = "{prefix} {bar:32.cyan/dim} {pos}/{len} {elapsed} {wide_msg}";
    if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar.set_prefix(what.to_string());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_things_once() {
        let error = anyhow::anyhow!("no such file").context("cannot read `a`: no such file");
        assert_eq!(explain(&error.context("a")), "cannot read `a`: no such file");
        let error = anyhow::anyhow!("no such file").context("input `x`");
        assert_eq!(explain(&error), "input `x`: no such file");
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(count(1_234_567.0), "1.23 M");
        assert_eq!(millis(0.0125), "12.5 µs");
        assert_eq!(millis(12_500.0), "12.50 s");
        assert_eq!(bar(0.5, 4).chars().count(), 4);
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(bar(0.0, 4), "    ");
    }
}
