//! `hetra devices`

use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{Cell, Color};
use hetra::{DriverState, Found};

use crate::show;

/// List devices: found, broken or missing, and what to install
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra devices
  hetra devices --json")]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(&hetra::devices())?);
    } else {
        let found = hetra::devices();
        print_table(&found);
        for info in found.iter().map(|found| &found.info).filter(|info| !info.features.is_empty()) {
            println!("\n{} has {}", info.id, info.features.join(", "));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The devices of this machine as a table.
pub(crate) fn print_table(found: &[Found]) {
    let mut table =
        show::table(&["device", "state", "what", "threads", "memory", "kernels"], &[3, 4]);
    for found in found {
        let state = match found.state {
            DriverState::Found => Cell::new("found").fg(Color::Green),
            DriverState::Broken => Cell::new("broken").fg(Color::Red),
            DriverState::Missing => Cell::new("missing").fg(Color::Yellow),
        };
        let what = if found.hint.is_empty() { found.info.name.clone() } else { found.hint.clone() };
        table.add_row([
            Cell::new(&found.info.id),
            state,
            Cell::new(what),
            Cell::new(found.info.threads),
            Cell::new(found.info.memory_bytes.map_or("unavailable".to_string(), show::bytes)),
            Cell::new(kernels(&found.info)),
        ]);
    }
    println!("{table}");
}

/// The kernels in use, and what else there was to choose from.
fn kernels(info: &hetra::DeviceInfo) -> String {
    match info.kernel_sets.len() {
        0 | 1 => info.kernels.clone(),
        _ => format!("{} (of {})", info.kernels, info.kernel_sets.join(", ")),
    }
}
