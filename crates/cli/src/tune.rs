//! `hetra tune`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hetra::{Moment, Session, Stand, TuneOptions, Tuned, TunedOp};
use hetra_tune::store::{Store, export, import, table_of_lines};
use hetra_tune::{Pairs, Rule, Verdict};
use serde_json::json;

use crate::inputs::{InputArgs, Inputs};
use crate::session::Target;
use crate::show;
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
goes on from there, as it does where the budget was too short. --precision int8 and auto are not
tuned.")]
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
        Some(path) if path.as_os_str() == "off" => {
            return Err(usage("--store: tuning writes into a store; ./off is a file of that name"));
        }
        Some(path) => path,
        None => return Err(usage("no store: HETRA_STORE is off; --store FILE names one")),
    };
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("Ctrl-C cannot be caught")?;
    if args.target.has_plan() {
        return Err(usage("tune: a plan's devices are tuned one by one, by --device"));
    }
    if args.target.calibrates() {
        return Err(usage("tune: --precision int8 and auto are not tuned: f32 or bf16"));
    }
    let given = args.inputs.given();
    let before = args.target.open(&given, Tuned::Shipped)?;
    if let Some(file) = &args.import {
        read_choices(&path, &before, file).with_context(|| file.display().to_string())?;
    }
    let inputs = args.inputs.load(&before)?;
    inputs.run(&before, &args.target.model)?;
    // Before what may take long.
    let export = args.export.as_deref().map(create).transpose()?;
    let ops = tune(args, &before, &inputs, &path)?;
    let changed = ops.iter().any(|op| op.seconds != op.default_seconds);
    let whole = match changed && !STOP.load(Ordering::Relaxed) {
        true => {
            let after = args.target.open(&given, Tuned::Store(path.clone()))?;
            Some(compare(&before, &after, &inputs, args.budget)?)
        }
        false => None,
    };
    let whole = whole.filter(|_| !STOP.load(Ordering::Relaxed));
    if let Some((name, file)) = export {
        write_choices(&path, &before, file).with_context(|| name.clone())?;
        eprintln!("what is tuned for this device is in {name}");
    }
    if args.json {
        print_json(args, &before, &path, &ops, whole);
    } else {
        print(args, &before, &path, &ops, whole);
    }
    let stopped = STOP.load(Ordering::Relaxed);
    if stopped {
        eprintln!("interrupted: the next call goes on from here");
    }
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

/// Runs of both sessions in turn.
fn compare(
    before: &Session,
    after: &Session,
    inputs: &Inputs,
    budget: Duration,
) -> Result<Verdict> {
    let limit = budget.mul_f64(COMPARE_PART).min(COMPARE_MAX);
    for session in [before, after] {
        session.warm_up(inputs.values.clone(), 2)?;
    }
    let time = |session: &Session| -> Result<f64> {
        let arguments = inputs.values.clone();
        let started = Instant::now();
        session.run(arguments)?;
        Ok(started.elapsed().as_secs_f64())
    };
    let until = Instant::now() + limit;
    let pairs = Pairs { least: PAIRS_MIN, most: PAIRS_MAX, until, stop: Some(&STOP) };
    let pairs = pairs.measure(&mut || time(before), &mut || time(after))?;
    Ok(Rule::default().judge(&pairs))
}

/// Takes over the choices of a file, and tells how many are for this device.
fn read_choices(store: &Path, session: &Session, file: &Path) -> Result<()> {
    let key = hetra::device_key(session.device());
    let text = std::fs::read_to_string(file)?;
    let own = table_of_lines(&text, &|device| *device == key)?.len();
    let all = import(&mut Store::open(store)?, &mut text.as_bytes())?;
    let name = file.display();
    eprintln!("{} in {name}, {own} of them for this device and version", show::plural(all, "task"));
    Ok(())
}

fn create(file: &Path) -> Result<(String, std::fs::File)> {
    let name = file.display().to_string();
    let created = std::fs::File::create(file).with_context(|| name.clone())?;
    Ok((name, created))
}

fn write_choices(store: &Path, session: &Session, file: std::fs::File) -> Result<()> {
    let mut out = std::io::BufWriter::new(file);
    if let Some(store) = Store::open_to_read(store)? {
        export(&store, &hetra::device_key(session.device()), &mut out)?;
    }
    Ok(std::io::Write::flush(&mut out)?)
}

/// How many times as fast one is as the other.
fn gain(before: f64, after: f64) -> String {
    format!("{:.2}x", before / after.max(1e-12))
}

fn stand(op: &TunedOp) -> String {
    let more = if op.finished { "" } else { ", not to the end" };
    match &op.stand {
        Stand::Tuned => format!("tuned{more}"),
        Stand::Known => format!("tuned before{more}"),
        Stand::Open => "not tuned".to_string(),
        Stand::Failed(reason) => format!("failed: {reason}"),
    }
}

fn print_json(
    args: &Args,
    session: &Session,
    store: &Path,
    ops: &[TunedOp],
    whole: Option<Verdict>,
) {
    let ms = |seconds: Option<f64>| seconds.map(|seconds| seconds * 1e3);
    let rows: Vec<_> = ops
        .iter()
        .map(|op| {
            json!({
                "task": op.task.key(), "op": op.op, "output": op.output, "node": op.node,
                "nodes": op.nodes, "share": op.share, "stand": stand(op), "trials": op.trials,
                "before_ms": ms(op.default_seconds), "after_ms": ms(op.seconds),
                "schedule": op.schedule, "finished": op.finished,
            })
        })
        .collect();
    let device = session.device();
    let report = json!({
        "model": args.target.model.display().to_string(), "device": device.id,
        "threads": device.threads, "store": store.display().to_string(),
        "interrupted": STOP.load(Ordering::Relaxed), "tasks": rows,
        "before_ms": ms(whole.as_ref().map(|whole| whole.default_seconds)),
        "after_ms": ms(whole.as_ref().map(|whole| whole.candidate_seconds)),
        "gain": whole.as_ref().map(|whole| 1.0 / whole.ratio),
        "spread": whole.map(|whole| whole.spread),
    });
    println!("{report}");
}

fn print(args: &Args, session: &Session, store: &Path, ops: &[TunedOp], whole: Option<Verdict>) {
    let device = session.device();
    let threads = show::workers(device);
    println!("{} on {} ({}){threads}", args.target.model.display(), device.id, device.name);
    if ops.is_empty() {
        println!("nothing in this model has schedules to tune on this device");
        return;
    }
    let header = [
        "node", "output", "nodes", "share", "before", "after", "gain", "trials", "schedule",
        "state",
    ];
    let mut table = show::table(&header, &[2, 3, 4, 5, 6, 7]);
    for op in ops {
        let millis = |seconds: Option<f64>| {
            seconds.map_or("-".to_string(), |seconds| show::millis(seconds * 1e3))
        };
        let gain = op.default_seconds.zip(op.seconds).map(|(before, after)| gain(before, after));
        table.add_row([
            show::short(&op.node),
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
    match whole {
        Some(whole) => {
            let millis = |seconds: f64| show::millis(seconds * 1e3);
            let (old, new) = (millis(whole.default_seconds), millis(whole.candidate_seconds));
            // Of pairs, whose noise both have: not of the medians.
            let (gain, spread) = (1.0 / whole.ratio, whole.spread * 100.0);
            println!(
                "the whole model: {old} before, {new} after ({gain:.2}x, spread {spread:.0} %)"
            );
        }
        None if !STOP.load(Ordering::Relaxed) => println!("every schedule stays the default"),
        None => {}
    }
    let open =
        ops.iter().filter(|op| !op.finished && !matches!(op.stand, Stand::Failed(_))).count();
    if open > 0 {
        println!("{} not searched to the end: run it again to go on", show::plural(open, "task"));
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
