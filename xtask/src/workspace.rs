//! Where things are, and how other programs are started.
//!
//! Every path the tasks use is decided here: the workspace root, the download cache
//! (`HETRA_CACHE`), the optional folder of large models (`HETRA_SHARED`), cargo's target folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use serde::Deserialize;

/// A result whose error is a sentence for the person who ran the task.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Folders of the root that hold no source.
const GENERATED: [&str; 3] = [".git", ".cache", "target"];

/// The checkout this program was built from.
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
}

/// The part of `cargo metadata` that the tasks read.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    /// The workspace's own packages.
    pub(crate) packages: Vec<Package>,
    /// Where cargo puts what it builds.
    pub(crate) target_directory: PathBuf,
}

/// One package of the workspace.
#[derive(Deserialize)]
pub(crate) struct Package {
    /// The package's name.
    pub(crate) name: String,
    /// Its `Cargo.toml`.
    pub(crate) manifest_path: PathBuf,
    /// What it depends on.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One line of a package's dependency tables.
#[derive(Deserialize)]
pub(crate) struct Dependency {
    /// The dependency's folder, when it is a crate of this workspace.
    pub(crate) path: Option<PathBuf>,
    /// `None`, `dev` or `build`.
    pub(crate) kind: Option<String>,
}

/// How a program that was given a deadline ended.
pub(crate) enum Ended {
    /// It exited; true for exit code 0.
    Exited(bool),
    /// It ran past its limit and was killed.
    TimedOut,
}

impl Workspace {
    /// The workspace of the running `cargo xtask`, or the one this program was built in.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().ok_or("xtask has no parent folder")?.to_path_buf();
        if !root.join("Cargo.toml").is_file() {
            return Err(format!("{} holds no Cargo.toml", root.display()).into());
        }
        Ok(Self { root })
    }

    /// The download cache: `HETRA_CACHE`, else `.cache/fetch` in the workspace.
    pub(crate) fn cache(&self) -> PathBuf {
        env::var_os("HETRA_CACHE")
            .map_or_else(|| self.root.join(".cache").join("fetch"), PathBuf::from)
    }

    /// The folder of large models that is not part of the checkout: `HETRA_SHARED`, else
    /// `shared` beside the workspace. It need not exist.
    pub(crate) fn shared(&self) -> PathBuf {
        env::var_os("HETRA_SHARED")
            .map_or_else(|| self.root.join("..").join("shared"), PathBuf::from)
    }

    /// A cargo command that runs in the workspace.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(args).current_dir(&self.root);
        command
    }

    /// What cargo knows about the workspace. Needs no network.
    pub(crate) fn metadata(&self) -> Result<Metadata> {
        let args = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
        let output = self.cargo(&args).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("cargo metadata failed:\n{said}").into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// A folder for logs and results under cargo's target folder; made when missing.
    pub(crate) fn scratch(&self) -> Result<PathBuf> {
        let folder = self.metadata()?.target_directory.join("xtask");
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Builds the `hetra` program in release and returns its path.
    pub(crate) fn build_hetra(&self) -> Result<PathBuf> {
        // Together: alone, each would want other features of what both are made of, and all of it
        // compiled twice.
        let both = ["build", "--release", "--package", "hetra-cli", "--package", "hetra-python"];
        let status = self.cargo(&both).status()?;
        if !status.success() {
            return Err("cargo build --release of hetra-cli and hetra-python failed".into());
        }
        let name = format!("hetra{}", env::consts::EXE_SUFFIX);
        Ok(self.metadata()?.target_directory.join("release").join(name))
    }

    /// Paths of the tracked files and of those git does not ignore, relative to the root, with
    /// forward slashes, sorted. Files that are gone from the disk are left out. Without git, as
    /// in a source archive, every file outside [`GENERATED`].
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let output = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(&self.root)
            .output();
        let listed = match output {
            Ok(output) if output.status.success() => String::from_utf8(output.stdout)?,
            _ => String::new(),
        };
        let mut files: Vec<String> = listed
            .split('\0')
            .filter(|path| !path.is_empty() && self.root.join(path).is_file())
            .map(str::to_owned)
            .collect();
        if files.is_empty() {
            walk(&self.root, "", &mut files)?;
        }
        files.sort();
        files.dedup();
        Ok(files)
    }
}

/// Adds the files of `folder` to `files`, each with `prefix` before its path.
fn walk(folder: &Path, prefix: &str, files: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().display());
        let kind = entry.file_type()?;
        if kind.is_dir() && !GENERATED.contains(&path.as_str()) {
            walk(&entry.path(), &format!("{path}/"), files)?;
        } else if kind.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// Runs `command` with its output in the file `log`, and kills it past `limit`.
pub(crate) fn run_limited(command: &mut Command, log: &Path, limit: Duration) -> Result<Ended> {
    let out = File::create(log)?;
    let mut child =
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn().map_err(
            |error| format!("{} did not start: {error}", command.get_program().display()),
        )?;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ended::Exited(status.success()));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(Ended::TimedOut);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The last line of a log that is not empty, shortened; for a one-line reason.
pub(crate) fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no output");
    line.trim().chars().take(160).collect()
}

/// Whether an environment variable is set to something other than nothing, `0` or `false`.
pub(crate) fn flag(name: &str) -> bool {
    env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// Reads a text file; the error names it.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path)
        .map_err(|error: io::Error| format!("{}: {error}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_without_git() {
        let workspace = Workspace::find().expect("xtask is in a workspace");
        let mut files = Vec::new();
        walk(&workspace.root.join("xtask"), "xtask/", &mut files).expect("the folder can be read");
        assert!(files.iter().any(|path| path == "xtask/src/workspace.rs"), "{files:?}");
        let listed = workspace.files().expect("the tree can be read");
        assert!(listed.iter().any(|path| path == "xtask/src/workspace.rs"), "{listed:?}");
    }

    #[test]
    fn a_program_past_its_limit_is_killed() {
        let log = env::temp_dir().join(format!("hetra-xtask-limit-{}", std::process::id()));
        let run = |args: &[&str], limit| {
            run_limited(Command::new("git").args(args), &log, limit).expect("git starts")
        };
        assert!(matches!(run(&["--version"], Duration::from_secs(60)), Ended::Exited(true)));
        assert!(last_line(&log).contains("version"));
        assert!(matches!(run(&["no-such-verb"], Duration::from_secs(60)), Ended::Exited(false)));
        assert!(matches!(
            run(&["--version"], Duration::ZERO),
            Ended::TimedOut | Ended::Exited(true)
        ));
        fs::remove_file(&log).expect("the log goes");
    }
}
