//! `hetra tune`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hetra::{Moment, Session, Stand, TuneOptions, Tuned, TunedOp};
use hetra_tune::Pairs;
use hetra_tune::store::{Store, export, import};
use serde_json::json;

use crate::inputs::{InputArgs, Inputs};
use crate::session::Target;
use crate::show;
use crate::statistics::Statistics;
use crate::usage::usage;

/// Measure which schedules run a model fastest here, and keep them for later runs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra tune model.onnx
  hetra tune model.onnx --budget 10m --threads 4 --dim batch=8
  hetra bench model.onnx --untuned           as it was before

What is found holds for this device, these shapes and this number of threads; `run`, `bench` and
every session find it by themselves. Ctrl-C ends it early: measurements are kept, and the next call
goes on from there.")]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    inputs: InputArgs,
    /// How long to measure, such as 500ms, 60s, 10m or 1h; operators get parts of it by the time
    /// that they take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    budget: Duration,
    /// The file to keep everything in [default: HETRA_STORE, or hetra/schedules.sqlite in the cache
    /// folder]
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// Forget what was measured, and tune again what is tuned already
    #[arg(long)]
    fresh: bool,
    /// First take over what --export wrote on a machine like this one
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,
    /// Write all that is tuned for this device to a file, as lines of JSON
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Print JSON, alone on stdout
    #[arg(long)]
    json: bool,
}

/// Longest budget: a day.
const BUDGET_MAX: Duration = Duration::from_secs(86_400);
/// The part of the budget that comparing the whole model takes, its most, and its fewest and most
/// pairs.
const COMPARE_PART: f64 = 0.1;
const COMPARE_MAX: Duration = Duration::from_secs(5);
const PAIRS_MIN: usize = 5;
const PAIRS_MAX: usize = 10_000;

/// Exit code of what was interrupted, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

/// Set by the first Ctrl-C; the second ends the process.
static STOP: AtomicBool = AtomicBool::new(false);

/// Parses `--budget`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Some(1e-3),
        "" | "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let seconds = unit.and_then(|unit| Some(digits.parse::<f64>().ok()? * unit));
    let most = BUDGET_MAX.as_secs_f64();
    match seconds {
        Some(seconds) if (0.0..=most).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("wanted a time of at most a day, such as 500ms, 60s, 10m or 1h".to_string()),
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = match args.store.clone().or_else(hetra::store_path) {
        Some(path) => path,
        None => return Err(usage("no store: HETRA_STORE is off; --store FILE names one")),
    };
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("Ctrl-C cannot be caught")?;
    if args.target.calibrates() {
        return Err(usage("tune: --precision int8 and auto are not tuned: f32 or bf16"));
    }
    if let Some(file) = &args.import {
        read_choices(&path, file)?;
    }
    let given = args.inputs.given();
    let before = args.target.open(&given, Tuned::Shipped)?;
    let inputs = args.inputs.load(&before)?;
    inputs.run(&before, &args.target.model)?;
    let ops = tune(args, &before, &inputs, &path)?;
    let whole = match STOP.load(Ordering::Relaxed) {
        true => None,
        false => {
            let after = args.target.open(&given, Tuned::Store(path.clone()))?;
            Some(compare(&before, &after, &inputs, args.budget)?)
        }
    };
    let whole = whole.filter(|_| !STOP.load(Ordering::Relaxed));
    if let Some(file) = &args.export {
        write_choices(&path, &before, file)?;
    }
    if args.json {
        print_json(args, &before, &path, &ops, whole);
    } else {
        print(args, &before, &path, &ops, whole);
    }
    let stopped = STOP.load(Ordering::Relaxed);
    Ok(if stopped { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

fn tune(args: &Args, session: &Session, inputs: &Inputs, store: &Path) -> Result<Vec<TunedOp>> {
    let bar = show::progress(args.budget.as_secs().max(1), "tune");
    let options = TuneOptions { store, budget: args.budget, fresh: args.fresh, stop: &STOP };
    let ops = hetra::tune(session, &inputs.values, &options, &mut |moment: &Moment<'_>| {
        bar.set_position(moment.elapsed.as_secs().min(args.budget.as_secs()));
        let gain = gain(moment.default_seconds, moment.best_seconds);
        bar.set_message(format!(
            "task {}/{} {}: best {} ({gain}) of {}",
            moment.task.0 + 1,
            moment.task.1,
            moment.op,
            show::millis(moment.best_seconds * 1e3),
            show::plural(moment.trials, "trial"),
        ));
    });
    bar.finish_and_clear();
    ops.map_err(|error| match error {
        // Not of the model, nor of its inputs.
        hetra::Error::Store(error) => error.into(),
        error => inputs.explain(&args.target.model, error),
    })
}

/// Milliseconds of both sessions, medians of runs in turn.
fn compare(
    before: &Session,
    after: &Session,
    inputs: &Inputs,
    budget: Duration,
) -> Result<(f64, f64)> {
    let limit = budget.mul_f64(COMPARE_PART).min(COMPARE_MAX);
    for session in [before, after] {
        session.warm_up(inputs.values.clone(), 2)?;
    }
    let time = |session: &Session| -> Result<f64> {
        let arguments = inputs.values.clone();
        let started = Instant::now();
        session.run(arguments)?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    };
    let until = Instant::now() + limit;
    let pairs = Pairs { least: PAIRS_MIN, most: PAIRS_MAX, until, stop: Some(&STOP) };
    let pairs = pairs.measure(&mut || time(before), &mut || time(after))?;
    let (old, new) = pairs.into_iter().unzip();
    let median = |samples| Statistics::of(samples).map_or(0.0, |s| s.median_ms);
    Ok((median(old), median(new)))
}

fn read_choices(store: &Path, file: &Path) -> Result<()> {
    let name = || file.display().to_string();
    let lines = std::fs::File::open(file).with_context(name)?;
    import(&mut Store::open(store)?, &mut std::io::BufReader::new(lines)).with_context(name)?;
    Ok(())
}

fn write_choices(store: &Path, session: &Session, file: &Path) -> Result<()> {
    let name = || file.display().to_string();
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).with_context(name)?);
    if let Some(store) = Store::open_to_read(store)? {
        export(&store, &hetra::device_key(session.device()), &mut out).with_context(name)?;
    }
    std::io::Write::flush(&mut out).with_context(name)
}

/// How many times as fast one is as the other.
fn gain(before: f64, after: f64) -> String {
    format!("{:.2}x", before / after.max(1e-12))
}

fn stand(op: &TunedOp) -> String {
    match &op.stand {
        Stand::Tuned => "tuned".to_string(),
        Stand::Known => "tuned before".to_string(),
        Stand::Open => "open".to_string(),
        Stand::Failed(reason) => format!("failed: {reason}"),
    }
}

fn print_json(
    args: &Args,
    session: &Session,
    store: &Path,
    ops: &[TunedOp],
    whole: Option<(f64, f64)>,
) {
    let ms = |seconds: Option<f64>| seconds.map(|seconds| seconds * 1e3);
    let rows: Vec<_> = ops
        .iter()
        .map(|op| {
            json!({
                "task": op.task.key(), "op": op.op, "output": op.output, "node": op.node,
                "nodes": op.nodes, "share": op.share, "stand": stand(op), "trials": op.trials,
                "before_ms": ms(op.default_seconds), "after_ms": ms(op.seconds),
                "schedule": op.schedule,
            })
        })
        .collect();
    let device = session.device();
    let report = json!({
        "model": args.target.model.display().to_string(), "device": device.id,
        "threads": device.threads, "store": store.display().to_string(),
        "interrupted": whole.is_none(), "tasks": rows,
        "before_ms": whole.map(|(before, _)| before), "after_ms": whole.map(|(_, after)| after),
    });
    println!("{report}");
}

fn print(args: &Args, session: &Session, store: &Path, ops: &[TunedOp], whole: Option<(f64, f64)>) {
    let device = session.device();
    let threads = show::plural(device.threads, "thread");
    println!("{} on {} ({}), {threads}", args.target.model.display(), device.id, device.name);
    if ops.is_empty() {
        println!("nothing in this model has schedules to tune on this device");
        return;
    }
    let header =
        ["op", "output", "nodes", "share", "before", "after", "gain", "trials", "schedule", ""];
    let mut table = show::table(&header, &[2, 3, 4, 5, 6, 7]);
    for op in ops {
        let millis = |seconds: Option<f64>| {
            seconds.map_or("-".to_string(), |seconds| show::millis(seconds * 1e3))
        };
        let gain = op.default_seconds.zip(op.seconds).map(|(before, after)| gain(before, after));
        table.add_row([
            op.op.clone(),
            op.output.clone(),
            op.nodes.to_string(),
            format!("{:.1} %", op.share * 100.0),
            millis(op.default_seconds),
            millis(op.seconds),
            gain.unwrap_or("-".to_string()),
            op.trials.to_string(),
            op.schedule.as_ref().map_or("-".to_string(), ToString::to_string),
            stand(op),
        ]);
    }
    println!("{table}");
    if let Some((before, after)) = whole {
        let (old, new) = (show::millis(before), show::millis(after));
        println!("the whole model: {old} before, {new} after ({})", gain(before, after));
    }
    println!("kept in {}", store.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_have_units() {
        let seconds = |text| duration(text).map(|budget| budget.as_secs_f64());
        for (text, wanted) in
            [("60s", 60.0), ("1.5m", 90.0), ("500ms", 0.5), ("7", 7.0), ("1h", 3600.0), ("0s", 0.0)]
        {
            assert_eq!(seconds(text), Ok(wanted), "{text}");
        }
        for bad in ["", "s", "-1s", "25h", "1d", "NaN", "inf", "1 s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
