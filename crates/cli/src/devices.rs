//! `hetra devices`

use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{Cell, Color};
use hetra::{DriverState, Found};

use crate::{catalogue, show};

/// List devices: found, broken or missing, and what to install
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra devices
  hetra devices --catalogue
  hetra devices --json")]
pub(crate) struct Args {
    /// List devices that are described and need not be here, for `-d sim:ID`
    #[arg(long)]
    catalogue: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.catalogue {
        return catalogue::run(args.json);
    }
    let found = hetra::devices();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(ExitCode::SUCCESS);
    }
    print_table(&found);
    for found in found.iter().filter(|found| found.state == DriverState::Found) {
        print_details(&found.info);
    }
    Ok(ExitCode::SUCCESS)
}

/// What a device can do and what bounds it.
fn print_details(info: &hetra::DeviceInfo) {
    let mut lines = Vec::new();
    let mut line = |what: &'static str, text: String| {
        if !text.is_empty() {
            lines.push((what, text));
        }
    };
    line("driver", format!("{} {}", info.driver, info.version));
    if info.software {
        line("software", "yes: the processor plays the device; its speed is no GPU's".to_string());
    }
    line("dtypes", info.dtypes.join(" "));
    line(
        "subgroups",
        match info.subgroup {
            Some((least, most)) if least == most => format!("of {least}"),
            Some((least, most)) => format!("of {least} to {most}"),
            None => String::new(),
        },
    );
    let limit = |limit: &hetra::Limit| match limit.of.strip_prefix("bytes") {
        Some(of) => format!("{}{of}", show::bytes(limit.most)),
        None => format!("{} {}", limit.most, limit.of),
    };
    line("at most", info.limits.iter().map(limit).collect::<Vec<_>>().join(", "));
    line("has", info.features.join(", "));
    println!("\n{}", info.id);
    for (what, text) in lines {
        println!("  {what:<10}{text}");
    }
}

/// The devices of this machine as a table.
pub(crate) fn print_table(found: &[Found]) {
    let mut table =
        show::table(&["device", "state", "what", "threads, units", "memory", "kernels"], &[3, 4]);
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
            Cell::new(match found.info.threads {
                0 => String::new(),
                threads => threads.to_string(),
            }),
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
