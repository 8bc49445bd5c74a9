//! `hetra devices`

use std::process::ExitCode;

use anyhow::Result;
use console::style;
use hetra::DriverState;

use crate::show;

/// List devices: found, broken or missing, and what to install
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(&hetra::devices())?);
    } else {
        print_table();
    }
    Ok(ExitCode::SUCCESS)
}

/// The devices of this machine as a table.
pub(crate) fn print_table() {
    let mut table =
        show::table(&["device", "state", "what", "threads", "memory", "features"], &[3, 4]);
    for found in hetra::devices() {
        let state = match found.state {
            DriverState::Found => style("found").green(),
            DriverState::Broken => style("broken").red(),
            DriverState::Missing => style("missing").yellow(),
        };
        let what = if found.hint.is_empty() { found.info.name.clone() } else { found.hint.clone() };
        table.add_row([
            found.info.id.clone(),
            state.to_string(),
            what,
            found.info.threads.to_string(),
            found.info.memory_bytes.map_or("unavailable".to_string(), show::bytes),
            found.info.features.join(" "),
        ]);
    }
    println!("{table}");
}
