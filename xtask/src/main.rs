//! Project tasks: `cargo xtask tidy`, `fetch`, `test`, `docs` and `bench`.
//!
//! One program in Rust instead of shell scripts, so that the same command works on every
//! system that can build Hetra. Each command is one module with one `run` function; this file
//! only reads arguments and turns a result into an exit code.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program: its output is its product"
)]

mod bench;
mod docs;
mod fetch;
mod models;
mod python;
mod report;
mod suites;
mod test;
mod tidy;
mod workspace;

use std::ffi::OsString;
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
    /// Write docs/OPS.md and docs/CONFORMANCE.md from the built `hetra`, and
    /// docs/PERFORMANCE.md and docs/PLACEMENT.md from the committed figures.
    Docs {
        /// Change nothing; fail when a committed page differs.
        #[arg(long)]
        check: bool,
    },
    /// Compare Hetra with its peers; makes an environment with all of them.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
}

/// What to compare.
#[derive(Subcommand)]
enum Bench {
    /// Whole models on this machine's CPU. `-h` lists the options, which are `bench/cpu.py`'s.
    #[command(disable_help_flag = true)]
    Cpu {
        /// Options of `bench/cpu.py`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// The placement policies on published graphs. `-h` lists the options of `bench/place.py`.
    #[command(disable_help_flag = true)]
    Place {
        /// Options of `bench/place.py`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Described devices beside published results. `-h` lists the options of `bench/sim.py`.
    #[command(disable_help_flag = true)]
    Sim {
        /// Options of `bench/sim.py`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Plans on devices that fail. `-h` lists the options of `bench/faults.py`.
    #[command(disable_help_flag = true)]
    Faults {
        /// Options of `bench/faults.py`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Plans beside the best single device. `-h` lists the options of `bench/never.py`.
    #[command(disable_help_flag = true)]
    Never {
        /// Options of `bench/never.py`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Predictions of models of which nothing was measured. `-h` lists the options of
    /// `bench/predict.py`.
    #[command(disable_help_flag = true)]
    Predict {
        /// Options of `bench/predict.py`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
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
        Task::Bench { what: Bench::Cpu { args } } => bench::run(&workspace, args),
        Task::Bench { what: Bench::Place { args } } => bench::place(&workspace, args),
        Task::Bench { what: Bench::Sim { args } } => bench::sim(&workspace, args),
        Task::Bench { what: Bench::Faults { args } } => bench::faults(&workspace, args),
        Task::Bench { what: Bench::Never { args } } => bench::never(&workspace, args),
        Task::Bench { what: Bench::Predict { args } } => bench::predict(&workspace, args),
    }
}
