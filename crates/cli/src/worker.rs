//! The hidden half of `hetra conformance`: runs cases in a process of its own, one a line.
//!
//! It reads case folders from stdin and answers each with one line of JSON, so that a case that
//! crashes or hangs takes only this process with it.

use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use hetra::{RunOptions, Session, Tuned};
use serde::{Deserialize, Serialize};

use crate::{recorded, show};

/// Runs conformance cases that come on stdin
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(short, long, default_value = "cpu")]
    device: String,
}

/// What became of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Passed,
    Failed,
    Skipped,
}

/// One case and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) reason: String,
    pub(crate) ms: f64,
    /// Whether the kernels of the device did all of it.
    #[serde(default)]
    pub(crate) whole: bool,
}

/// Tolerances of the ONNX backend tests.
const RTOL: f64 = 1e-3;
const ATOL: f64 = 1e-7;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let verdict = judge(Path::new(&line?), &args.device);
        writeln!(out, "{}", serde_json::to_string(&verdict)?)?;
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn judge(folder: &Path, device: &str) -> Verdict {
    let started = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| case(folder, device)));
    let (status, reason, whole) = match result {
        Ok(Ok(whole)) => (Status::Passed, String::new(), whole),
        Ok(Err(error)) => (status_of(&error), show::explain(&error), false),
        Err(_) => (Status::Failed, "it panicked".to_string(), false),
    };
    let name = folder.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    Verdict { name, status, reason, ms: started.elapsed().as_secs_f64() * 1e3, whole }
}

/// A case whose operator Hetra does not have is skipped, not failed.
fn status_of(error: &anyhow::Error) -> Status {
    match error.chain().find_map(|cause| cause.downcast_ref::<hetra::Error>()) {
        Some(hetra::Error::Import(hetra_onnx::ImportError::UnknownOp { .. })) => Status::Skipped,
        _ => Status::Failed,
    }
}

/// Whether the device's kernels did all of a case, which agrees with what was recorded.
fn case(folder: &Path, device: &str) -> Result<bool> {
    let builder = Session::builder().model_file(folder.join("model.onnx")).device(device);
    // Cases are small, and many: to look for a store would take longer than to run.
    let session = builder.tuned(Tuned::Shipped).build().context("model.onnx")?;
    let strict = RunOptions { no_fallback: true, ..RunOptions::default() };
    let mut whole = session.stops().0.is_empty();
    for set in data_sets(folder)? {
        let inputs = recorded::inputs(&session, &set)?;
        let wanted = recorded::outputs(&session, &set)?;
        let outputs = session.run(inputs.clone())?;
        anyhow::ensure!(outputs.len() >= wanted.len(), "{} outputs", outputs.len());
        for ((name, got), want) in outputs.iter().zip(&wanted) {
            hetra_onnx::compare(got, want, RTOL, ATOL)
                .map_err(|reason| anyhow::anyhow!("output `{name}`: {reason}"))?;
        }
        // What only a run shows: that a kernel left these arguments to another.
        whole = whole && session.run_within(inputs, &strict).is_ok();
    }
    Ok(whole)
}

/// The `test_data_set_N` folders of a case, in order.
pub(crate) fn data_sets(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut sets = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if path.is_dir() && name.is_some_and(|name| name.starts_with("test_data_set_")) {
            sets.push(path);
        }
    }
    sets.sort();
    Ok(sets)
}
