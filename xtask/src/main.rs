//! Project tasks: `cargo xtask tidy`, `fetch`, `test` and `docs`.
//!
//! One program in Rust instead of shell scripts, so that the same command works on every
//! system that can build Hetra. Each command is one module with one `run` function; this file
//! only reads arguments and turns a result into an exit code.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program: its output is its product"
)]

mod docs;
mod fetch;
mod models;
mod report;
mod suites;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use workspace::{Result, Workspace};

/// Project tasks of Hetra.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

/// What to do.
#[derive(Subcommand)]
enum Task {
    /// Check the tree: floors, sizes, banned words, blobs, lints. Also runs as a test.
    Tidy,
    /// Download, verify and unpack the pinned models and conformance cases.
    Fetch {
        /// Use only what is already in the cache.
        #[arg(long)]
        offline: bool,
    },
    /// Run every test: unit tests, ONNX conformance, models against their goldens.
    Test {
        /// Do not download; run with what the cache holds.
        #[arg(long)]
        no_fetch: bool,
    },
    /// Write docs/OPS.md and docs/CONFORMANCE.md from the built `hetra`.
    Docs {
        /// Change nothing; fail when a committed page differs.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one task; `Ok(false)` is a task that worked and found something wrong.
fn run(task: &Task) -> Result<bool> {
    let workspace = Workspace::find()?;
    match task {
        Task::Tidy => tidy::run(&workspace),
        Task::Fetch { offline } => fetch::run(&workspace, *offline),
        Task::Test { no_fetch } => test::run(&workspace, *no_fetch),
        Task::Docs { check } => docs::run(&workspace, *check),
    }
}
