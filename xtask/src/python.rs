//! Python: environments with pinned packages, and the package `hetra` built and tested in one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::report::Row;
use crate::workspace::{Result, Workspace, flag, read_text};

/// The suite's name in the report of `cargo xtask test`.
const NAME: &str = "python package";

/// The Python on the path.
pub(crate) fn system_python() -> Option<PathBuf> {
    let works = |name: &&str| {
        let mut command = Command::new(name);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    ["python3", "python"].into_iter().find(works).map(PathBuf::from)
}

/// The Python of an environment in this folder of the scratch space, with the packages that a file
/// pins, made where it is missing or where that file has changed.
pub(crate) fn environment(workspace: &Workspace, name: &str, wanted: &Path) -> Result<PathBuf> {
    let folder = workspace.scratch()?.join(name);
    let scripts = if cfg!(windows) { "Scripts" } else { "bin" };
    let python = folder.join(scripts).join(format!("python{}", env::consts::EXE_SUFFIX));
    // Written last, so that an environment half made is made again.
    let stamp = folder.join("requirements.txt");
    let text = read_text(wanted)?;
    if fs::read_to_string(&stamp).is_ok_and(|old| old == text) {
        return Ok(python);
    }
    println!("python: making an environment in {}", folder.display());
    let base = system_python().ok_or("no python3 was found")?;
    step(Command::new(base).args(["-m", "venv", "--clear"]).arg(&folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    step(Command::new(&python).args(pip).arg(wanted))?;
    fs::write(stamp, text)?;
    Ok(python)
}

/// Runs the tests of the package.
pub(crate) fn test(workspace: &Workspace) -> Result<Row> {
    let package = workspace.root.join("crates").join("python");
    let set = || Ok(("PYTHONPATH", assemble(workspace, &package)?));
    suite(workspace, NAME, &package.join("tests"), set)
}

/// Runs the tests of the server by clients that others wrote.
pub(crate) fn clients(workspace: &Workspace, hetra: &Path) -> Result<Row> {
    let tests = workspace.root.join("crates").join("serve").join("tests").join("clients");
    suite(workspace, "clients of the server", &tests, || Ok(("HETRA_COMMAND", hetra.to_path_buf())))
}

/// Runs the tests of a folder, which pins what they need, with a variable set. Without a network
/// for that it is a skip, or a failure where `CI` or `HETRA_REQUIRE_FETCH` is set.
fn suite(
    workspace: &Workspace,
    name: &'static str,
    tests: &Path,
    set: impl FnOnce() -> Result<(&'static str, PathBuf)>,
) -> Result<Row> {
    println!("test: {name}");
    let folder = name.replace(' ', "-");
    let python = match environment(workspace, &folder, &tests.join("requirements.txt")) {
        Ok(python) => python,
        Err(error) if flag("CI") || flag("HETRA_REQUIRE_FETCH") => {
            let mut row = Row::new(name);
            row.fail(format!("no environment: {error}"));
            return Ok(row);
        }
        Err(error) => return Ok(Row::skipped(name, &format!("no environment: {error}"))),
    };
    let mut row = Row::new(name);
    match set().and_then(|set| pytest(&python, tests, set)) {
        Ok((succeeded, said)) => counted(&mut row, succeeded, &said),
        Err(error) => row.fail(error.to_string()),
    }
    Ok(row)
}

/// Puts the package together as a wheel has it: what `build_hetra` compiled, beside what is in
/// Python. (maturin makes the same, of a build of its own.)
fn assemble(workspace: &Workspace, package: &Path) -> Result<PathBuf> {
    let folder = workspace.scratch()?.join("python-wheel");
    if folder.is_dir() {
        fs::remove_dir_all(&folder)?;
    }
    let target = folder.join("hetra");
    fs::create_dir_all(&target)?;
    for entry in fs::read_dir(package.join("python").join("hetra"))? {
        let path = entry?.path();
        let known = ["py", "pyi", "typed"];
        let extension = path.extension().and_then(|extension| extension.to_str());
        if let (true, Some(name)) =
            (extension.is_some_and(|e| known.contains(&e)), path.file_name())
        {
            fs::copy(&path, target.join(name))?;
        }
    }
    let release = workspace.metadata()?.target_directory.join("release");
    let (prefix, suffix) = (env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    let module = if cfg!(windows) { "_core.pyd" } else { "_core.abi3.so" };
    fs::copy(release.join(format!("{prefix}_core{suffix}")), target.join(module))?;
    Ok(folder)
}

/// Runs the tests of a folder.
fn pytest(python: &Path, tests: &Path, set: (&str, PathBuf)) -> Result<(bool, String)> {
    let mut command = Command::new(python);
    command.args(["-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider"]);
    let output = command
        .arg(tests)
        .current_dir(tests.parent().unwrap_or(tests))
        .env("HETRA_STORE", "off")
        .env("HETRA_KERNEL_CACHE", "off")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env(set.0, set.1)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{said}");
    Ok((output.status.success(), said))
}

/// Adds what pytest said. No test at all is a failure.
fn counted(row: &mut Row, succeeded: bool, said: &str) {
    for line in
        said.lines().filter(|line| line.starts_with("FAILED ") || line.starts_with("ERROR "))
    {
        row.fail(line.to_owned());
    }
    let skips = said.lines().filter(|line| line.starts_with("SKIPPED "));
    row.notes.extend(skips.map(str::to_owned));
    let last = said.lines().rev().find(|line| line.contains(" passed") || line.contains(" failed"));
    let number = |what: &str| {
        let before = last?.split(&format!(" {what}")).next()?;
        before.rsplit([' ', '=']).next()?.parse::<usize>().ok()
    };
    row.passed += number("passed").unwrap_or(0);
    row.skipped += number("skipped").unwrap_or(0);
    if row.failed == 0 && (!succeeded || row.passed == 0) {
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        row.fail(last.unwrap_or("pytest said nothing").to_owned());
    }
}

/// Runs a step that must succeed.
pub(crate) fn step(command: &mut Command) -> Result<()> {
    let name = command.get_program().display().to_string();
    let status = command.status().map_err(|error| format!("{name} did not start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name} failed: {status}").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(succeeded: bool, said: &str) -> Row {
        let mut row = Row::new(NAME);
        counted(&mut row, succeeded, said);
        row
    }

    #[test]
    fn pytest_is_counted() {
        let said = "....s\nSKIPPED [1] a.py:3: could not import\n40 passed, 1 skipped in 2.00s\n";
        let good = row(true, said);
        assert_eq!((good.passed, good.failed, good.skipped), (40, 0, 1));
        assert_eq!(good.notes, ["SKIPPED [1] a.py:3: could not import"]);
        let bad = row(false, "F.\nFAILED a.py::b - assert 1\n1 failed, 3 passed in 0.10s\n");
        assert_eq!((bad.passed, bad.failed), (3, 1));
        assert_eq!(row(true, "no tests ran in 0.01s\n").failed, 1);
        assert_eq!(row(false, "").notes, ["pytest said nothing"]);
    }
}
