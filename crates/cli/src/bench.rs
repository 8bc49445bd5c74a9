//! `hetra bench`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use hetra::Session;
use serde_json::json;

use crate::inputs::{InputArgs, Inputs};
use crate::profile::{self, Profile};
use crate::session::{Target, TunedArgs};
use crate::show;
use crate::statistics::Statistics;
use crate::together::{self, Together};
use crate::usage::{count, some};

/// Time a model: load, first inference and steady state apart
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra bench model.onnx
  hetra bench model.onnx -t 10 --threads 4 --dim batch=8
  hetra bench model.onnx --threads 1 --profile
  hetra bench model.onnx -i cat.png --precision auto --max-error 1e-2
  hetra bench model.onnx --json | jq .steady.median_ms")]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    schedules: TunedArgs,
    #[command(flatten)]
    inputs: InputArgs,
    /// Seconds to measure the steady state (0: only load and first inference)
    #[arg(short = 't', long = "time", default_value_t = 3.0, value_name = "SECONDS",
          value_parser = seconds, allow_negative_numbers = true)]
    seconds: f64,
    /// Inferences before the steady state is measured
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = count,
          allow_negative_numbers = true)]
    warmup: usize,
    /// Most inferences to measure; the time is still a limit
    #[arg(long, value_name = "N", value_parser = some, allow_negative_numbers = true)]
    iterations: Option<usize>,
    /// Show each step with its time, its operations and bytes per second, and how near that is to
    /// what the device reaches at best
    #[arg(long)]
    profile: bool,
    /// Measure also so many sessions of the model at one time, each in a thread of its own, beside
    /// one after the other
    #[arg(long, value_name = "N", value_parser = sessions, allow_negative_numbers = true)]
    sessions: Option<usize>,
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

/// Most sessions at one time.
const SESSIONS_MAX: usize = 64;

fn sessions(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=SESSIONS_MAX).contains(count));
    count.ok_or_else(|| format!("wanted a number from 1 to {SESSIONS_MAX}"))
}

/// The most memory that this process had resident so far, in MiB (VmHWM of Linux), where the system
/// tells.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Spread above which the machine was probably busy with other things.
const SPREAD_MAX: f64 = 0.3;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = &args.target.model;
    let start_mib = peak_mib();
    let started = Instant::now();
    let session = args.target.open(&args.inputs.given(), args.schedules.tuned())?;
    let load_ms = ms(started);
    let inputs = args.inputs.load(&session)?;
    let session = args.target.settle_precision(session, &inputs.values, &inputs.random())?;
    let started = Instant::now();
    inputs.run(&session, path)?;
    let first_ms = ms(started);
    let first_mib = peak_mib();
    let steady = steady(args, &session, &inputs)?;
    let end_mib = peak_mib();
    let profile = match args.profile {
        true => {
            let trace = || inputs.trace(&session, path).map(|(_, trace)| trace);
            Some(profile::measure(&session, args.seconds, trace)?)
        }
        false => None,
    };
    let together = match args.sessions {
        Some(count) => Some(together::measure(&session, &inputs.values, count, args.seconds)?),
        None => None,
    };
    let model = path.display().to_string();
    let device = session.device();
    let devices: Vec<&str> = session.devices().iter().map(|device| device.id.as_str()).collect();
    if args.json {
        let report = json!({
            "model": model, "device": device.id, "threads": device.threads, "devices": devices,
            "steady_is_modelled": session.is_simulated(),
            "load_ms": load_ms, "first_ms": first_ms, "steady": steady,
            "memory_mib": {"start": start_mib, "first": first_mib, "end": end_mib},
            "profile": profile, "together": together, "precision": args.target.precision_json(&session),
        });
        println!("{report}");
    } else {
        println!("{model} on {}", show::on(&session));
        for ((name, value), source) in inputs.values.iter().zip(&inputs.sources) {
            println!("input {name}: {} from {source}", value.describe());
        }
        println!("load {}, first inference {}", show::millis(load_ms), show::millis(first_ms));
        if session.is_simulated() {
            println!(
                "a device is only described: the times in the table are modelled, all others are of \
                 the host that computes for it"
            );
        }
        if let (Some(start), Some(first), Some(end)) = (start_mib, first_mib, end_mib) {
            let (first, end) = (first - start, end - start);
            println!("memory {first:.1} MiB after the first inference, {end:.1} MiB at the end");
        }
        steady.iter().for_each(print_table);
        profile.iter().for_each(Profile::print);
        together.iter().for_each(Together::print);
    }
    for (device, times) in session.failing() {
        show::warn(&format!("{device} fails ({times} times by now): the host does its parts"));
    }
    if let Some(spread) = steady.map(|steady| steady.spread).filter(|spread| *spread > SPREAD_MAX) {
        show::warn(&format!(
            "the samples vary by {:.0} %: something else ran, or try a longer -t or fewer --threads",
            spread * 100.0
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures the steady state, after the warm-up; nothing when there is no time for it.
fn steady(args: &Args, session: &Session, inputs: &Inputs) -> Result<Option<Statistics>> {
    let mut samples = Vec::new();
    if args.seconds > 0.0 {
        session.warm_up(inputs.values.clone(), args.warmup)?;
        let limit = Duration::from_secs_f64(args.seconds);
        let most = args.iterations.unwrap_or(SAMPLES_MAX).min(SAMPLES_MAX);
        let begun = Instant::now();
        while begun.elapsed() < limit && samples.len() < most {
            let arguments = inputs.values.clone();
            if session.is_simulated() {
                let (_, trace) = session.trace(arguments)?;
                samples.extend(trace.simulated.map(|simulated| simulated.total_s * 1e3));
                continue;
            }
            let started = Instant::now();
            let outputs = session.run(arguments)?;
            samples.push(ms(started));
            drop(outputs);
        }
    }
    Ok(Statistics::of(samples))
}

fn print_table(s: &Statistics) {
    let mut table = show::table(
        &["min", "median", "mean", "p90", "p95", "p99", "samples", "spread", "per second"],
        &[0, 1, 2, 3, 4, 5, 6, 7, 8],
    );
    let mut row: Vec<String> = [s.min_ms, s.median_ms, s.mean_ms, s.p90_ms, s.p95_ms, s.p99_ms]
        .iter()
        .map(|&value| show::millis(value))
        .collect();
    row.push(s.samples.to_string());
    row.push(format!("{:.1} %", s.spread * 100.0));
    row.push(format!("{:.1}", 1e3 / s.mean_ms));
    table.add_row(row);
    println!("{table}");
}
