//! `cargo xtask fetch`: everything that is pinned.

use std::io::{self, IsTerminal};
use std::time::Duration;

use hetra_fetch::{FetchError, Pins, Wheel, is_complete, pins};
use indicatif::{ProgressBar, ProgressStyle};

use crate::workspace::{Result, Workspace};

/// A wheel that could not be had.
pub(crate) struct Missing {
    /// `name-version`.
    pub(crate) label: String,
    /// What does not run without it.
    pub(crate) used_by: String,
    /// Why.
    pub(crate) why: String,
}

/// The pin of a package that the tasks themselves know.
pub(crate) fn find(name: &str) -> Result<&'static Wheel> {
    pins().find(name).ok_or_else(|| format!("crates/fetch/wheels.toml pins no `{name}`").into())
}

/// Fetches everything and prints what is missing; false when anything is.
pub(crate) fn run(workspace: &Workspace, offline: bool) -> Result<bool> {
    let missing = fetch(workspace, offline)?;
    explain(&missing);
    Ok(missing.is_empty())
}

/// Prints what is missing, what that stops, and what to do.
pub(crate) fn explain(missing: &[Missing]) {
    for Missing { label, used_by, why } in missing {
        eprintln!("fetch: {label} is missing\n  why:     {why}\n  skipped: {used_by}");
    }
    if !missing.is_empty() {
        eprintln!(
            "  retry:   `cargo xtask fetch` with a network; pip's own configuration (index,\n\
             \x20          proxy, certificates) is used; HETRA_CACHE names another cache folder"
        );
    }
}

/// The wheels that are not complete in the cache.
pub(crate) fn incomplete(workspace: &Workspace) -> Result<Vec<Missing>> {
    let cache = workspace.cache();
    let wheels = pins().wheels.iter().filter(|wheel| !is_complete(wheel, &cache));
    let why = || "not in the cache, and fetching was not asked for".to_owned();
    Ok(wheels.map(|wheel| missing(wheel, why())).collect())
}

/// Fetches what is not in the cache yet. Returns the wheels that could not be had.
pub(crate) fn fetch(workspace: &Workspace, offline: bool) -> Result<Vec<Missing>> {
    let cache = workspace.cache();
    std::fs::create_dir_all(&cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    let bar = progress(pins());
    let (mut lacking, mut unreachable) = (Vec::new(), false);
    for wheel in &pins().wheels {
        bar.set_message(wheel.label());
        if is_complete(wheel, &cache) {
            say(&bar, &format!("fetch: {} is in the cache", wheel.label()));
        } else {
            // One wait is enough to know that there is no network.
            let at = |what: &str| bar.set_message(format!("{}: {what}", wheel.label()));
            match hetra_fetch::fetch(wheel, &cache, offline || unreachable, &at) {
                Ok(count) => {
                    say(&bar, &format!("fetch: {}: {count} files unpacked", wheel.label()));
                }
                Err(error) => {
                    unreachable |= matches!(error, FetchError::NoNetwork);
                    lacking.push(missing(wheel, error.to_string()));
                }
            }
        }
        bar.inc(wheel.bytes);
    }
    bar.finish_and_clear();
    Ok(lacking)
}

/// What is said of a wheel that could not be had.
fn missing(wheel: &Wheel, why: String) -> Missing {
    Missing { label: wheel.label(), used_by: wheel.used_by.clone(), why }
}

/// A bar over the bytes of all wheels, with a spinner for the step at hand.
fn progress(pins: &Pins) -> ProgressBar {
    let bar = ProgressBar::new(pins.wheels.iter().map(|wheel| wheel.bytes).sum());
    let shape = "{spinner} {bar:24} {bytes}/{total_bytes} {elapsed} {wide_msg}";
    if let Ok(style) = ProgressStyle::with_template(shape) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Prints a line above the bar, or just prints it where there is no terminal.
fn say(bar: &ProgressBar, line: &str) {
    if io::stderr().is_terminal() {
        bar.println(line);
    } else {
        println!("{line}");
    }
}
