//! `hetra bench`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::inputs::InputArgs;
use crate::session::Target;
use crate::show;
use crate::statistics::Statistics;

/// Time a model: load, first inference and steady state apart
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    inputs: InputArgs,
    /// Seconds to measure the steady state (0: only load and first inference)
    #[arg(short = 't', long = "time", default_value_t = 3.0, value_name = "SECONDS",
          value_parser = seconds, allow_negative_numbers = true)]
    seconds: f64,
    /// Inferences before the steady state is measured
    #[arg(long, default_value_t = 5, value_name = "N")]
    warmup: usize,
    /// Print JSON, alone on stdout
    #[arg(long)]
    json: bool,
}

/// Most samples that are kept: memory must not grow with time.
const SAMPLES_MAX: usize = 1_000_000;

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|s| (0.0..=86_400.0).contains(s));
    seconds.ok_or_else(|| "wanted seconds from 0 to 86400".to_string())
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    let session = args.target.open(&args.inputs.given())?;
    let load_ms = ms(started);
    let inputs = args.inputs.load(&session)?;
    let started = Instant::now();
    session.run(inputs.clone()).with_context(|| args.target.model.display().to_string())?;
    let first_ms = ms(started);
    let mut samples = Vec::new();
    if args.seconds > 0.0 {
        session.warm_up(inputs.clone(), args.warmup)?;
        let limit = Duration::from_secs_f64(args.seconds);
        let begun = Instant::now();
        while begun.elapsed() < limit && samples.len() < SAMPLES_MAX {
            let arguments = inputs.clone();
            let started = Instant::now();
            let outputs = session.run(arguments)?;
            samples.push(ms(started));
            drop(outputs);
        }
    }
    let steady = Statistics::of(samples);
    let model = args.target.model.display().to_string();
    let (device, threads) = (session.device().id.clone(), session.device().threads);
    if args.json {
        let report = json!({
            "model": model, "device": device, "threads": threads,
            "load_ms": load_ms, "first_ms": first_ms, "steady": steady,
        });
        println!("{report}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{model} on {device}, {threads} threads");
    let s = &steady;
    if s.samples == 0 {
        println!("load {}, first {}", show::millis(load_ms), show::millis(first_ms));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = show::table(
        &["load", "first", "min", "median", "mean", "p90", "p95", "p99", "samples", "spread"],
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    );
    let mut row: Vec<String> =
        [load_ms, first_ms, s.min_ms, s.median_ms, s.mean_ms, s.p90_ms, s.p95_ms, s.p99_ms]
            .iter()
            .map(|&value| show::millis(value))
            .collect();
    row.push(s.samples.to_string());
    row.push(format!("{:.1} %", s.spread * 100.0));
    table.add_row(row);
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}
