//! The process that a driver is asked in for its devices: some crash, or hang, when they are asked.

use std::process::ExitCode;

use anyhow::Result;

use crate::usage::usage;

/// Prints what a driver finds, as JSON
#[derive(clap::Args)]
pub(crate) struct Args {
    driver: String,
}

/// The other process.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match hetra::probe::tell(&args.driver) {
        true => Ok(ExitCode::SUCCESS),
        false => Err(usage(format!("there is no driver `{}`", args.driver))),
    }
}

/// From now on drivers are asked by this command.
pub(crate) fn by_this_program() {
    if let Ok(program) = std::env::current_exe() {
        hetra::probe::set_prober([program.into(), "probe-driver".into()]);
    }
}
