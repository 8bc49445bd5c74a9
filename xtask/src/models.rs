//! Whole models against their recorded outputs, run by `hetra compare`.
//!
//! The models are large and not part of the checkout: the folder is `HETRA_SHARED`, or `shared`
//! beside the workspace, and holds `models/manifest.json`. Without it the suite is skipped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::report::Row;
use crate::workspace::{Ended, Result, Workspace, last_line, read_text, run_limited};

/// The suite's name in the report.
const NAME: &str = "models against goldens";

/// How far an output may be off: relative, then absolute.
const TOLERANCE: [&str; 4] = ["--rtol", "1e-3", "--atol", "1e-4"];

/// The longest a model may run.
const MODEL_LIMIT: Duration = Duration::from_secs(120);

/// One model of the manifest.
#[derive(Debug, Deserialize)]
struct Model {
    /// The ONNX file, below the manifest's folder.
    file: PathBuf,
    /// The folder of its recorded inputs and outputs, below the manifest's folder.
    golden: Option<PathBuf>,
}

/// Compares every model that is there with its golden.
pub(crate) fn run(workspace: &Workspace, hetra: &Path) -> Result<Row> {
    let folder = workspace.shared().join("models");
    let manifest = folder.join("manifest.json");
    if !manifest.is_file() {
        let why = "no shared/models beside the checkout (HETRA_SHARED names another folder)";
        return Ok(Row::skipped(NAME, why));
    }
    let models = parse(&read_text(&manifest)?)
        .map_err(|error| format!("{}: {error}", manifest.display()))?;
    let mut row = Row::new(NAME);
    let log = workspace.scratch()?.join("compare.log");
    for model in &models {
        let name = model.file.display();
        let (file, golden) = (folder.join(&model.file), model.golden.as_ref());
        let Some(golden) = golden.map(|golden| folder.join(golden)).filter(|path| path.is_dir())
        else {
            row.skipped += 1;
            row.notes.push(format!("{name} skipped: no golden"));
            continue;
        };
        let mut command = Command::new(hetra);
        command.env("HETRA_STORE", "off").env("HETRA_KERNEL_CACHE", "off");
        command.arg("compare").arg(file).arg("--data").arg(golden).args(TOLERANCE);
        match run_limited(&mut command, &log, MODEL_LIMIT)? {
            Ended::Exited(true) => row.passed += 1,
            Ended::Exited(false) => row.fail(format!("{name} failed: {}", last_line(&log))),
            Ended::TimedOut => {
                row.fail(format!("{name} failed: not done after {} s", MODEL_LIMIT.as_secs()));
            }
        }
    }
    Ok(row)
}

/// Reads the manifest; a list without a model would pass as a success.
fn parse(text: &str) -> Result<Vec<Model>> {
    let models: Vec<Model> = serde_json::from_str(text)?;
    if models.is_empty() {
        return Err("lists no model".into());
    }
    Ok(models)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_files_and_goldens() {
        let text =
            r#"[{"file": "a/b.onnx", "golden": "golden/a", "opset": 9}, {"file": "c.onnx"}]"#;
        let models = parse(text).expect("the manifest is fine");
        assert_eq!(models[0].file, Path::new("a/b.onnx"));
        assert_eq!(models[0].golden.as_deref(), Some(Path::new("golden/a")));
        assert_eq!(models[1].golden, None);
        assert!(parse("[]").is_err());
    }
}
