//! `hetra run`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use hetra::{Outputs, Session, Tensor, Trace, Value};
use hetra_tensor::to_f64;
use serde_json::json;

use crate::inputs::InputArgs;
use crate::session::Target;
use crate::{npy, show};

/// Run a model once and show its outputs
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    inputs: InputArgs,
    /// Write the outputs to a .npz file
    #[arg(short, long, value_name = "OUT.npz", value_parser = npz)]
    output: Option<PathBuf>,
    /// File with one class name a line: shows the top classes by name
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// How many classes to show
    #[arg(long, default_value_t = 5, value_name = "K")]
    top: usize,
    /// Show the time of each operator
    #[arg(long)]
    profile: bool,
    /// Write the times as Chrome trace-event JSON
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Show what each pass did, and why patterns did not fire
    #[arg(long)]
    explain_passes: bool,
    /// Show the plan: steps, memory slots, what is written in place
    #[arg(long)]
    explain_plan: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Parses `-o`.
fn npz(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let named = path.extension().is_some_and(|extension| extension == "npz");
    if named { Ok(path) } else { Err("wanted a name that ends in .npz".to_string()) }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let labels = args.labels.as_deref().map(read_labels).transpose()?;
    let session = args.target.open(&args.inputs.given())?;
    if args.explain_passes {
        eprintln!("{}", session.passes());
    }
    let inputs = args.inputs.load(&session)?;
    let model = || args.target.model.display().to_string();
    if args.explain_plan {
        let types: Vec<hetra::Type> = inputs.iter().map(|(_, v)| hetra::Type::of(v)).collect();
        let plan = session.plan(&types).with_context(model)?;
        eprintln!("{}", hetra_plan::print(&plan, session.graph()));
    }
    let (outputs, trace) = session.trace(inputs).with_context(model)?;
    if let Some(path) = &args.output {
        for (name, _) in outputs.iter().filter(|(_, value)| value.as_tensor().is_none()) {
            eprintln!("output `{name}` is no tensor and is left out of {}", path.display());
        }
        let tensors = outputs.iter().filter_map(|(name, v)| Some((name, v.as_tensor()?)));
        npy::write_archive(path, tensors).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.trace {
        std::fs::write(path, trace.to_chrome()).with_context(|| path.display().to_string())?;
    }
    if args.json {
        let rows: Vec<_> = outputs.iter().map(|(name, value)| summary_json(name, value)).collect();
        println!("{}", json!({"outputs": rows, "trace": trace}));
        return Ok(ExitCode::SUCCESS);
    }
    print_outputs(&outputs);
    print_classes(&outputs, labels.as_deref(), args.top);
    if args.profile {
        print_profile(&session, &trace);
    }
    Ok(ExitCode::SUCCESS)
}

fn read_labels(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.lines().map(|line| line.trim().to_string()).collect())
}

/// Smallest, largest and mean value; `None` for strings and empty tensors.
fn range(tensor: &Tensor) -> Option<(f64, f64, f64)> {
    let values = to_f64(tensor).ok()?;
    let first = *values.first()?;
    let (low, high) = values.iter().fold((first, first), |(l, h), &v| (l.min(v), h.max(v)));
    Some((low, high, values.iter().sum::<f64>() / values.len() as f64))
}

fn summary_json(name: &str, value: &Value) -> serde_json::Value {
    let range = value.as_tensor().and_then(range);
    json!({
        "name": name, "type": value.describe(),
        "min": range.map(|r| r.0), "max": range.map(|r| r.1), "mean": range.map(|r| r.2),
    })
}

fn print_outputs(outputs: &Outputs) {
    let mut table = show::table(&["output", "type", "min", "max", "mean"], &[2, 3, 4]);
    for (name, value) in outputs.iter() {
        let cells = match value.as_tensor().and_then(range) {
            Some((low, high, mean)) => {
                let float = value.as_tensor().is_some_and(|tensor| tensor.dtype().is_float());
                let exact = |v: f64| if float { show::number(v) } else { v.to_string() };
                [exact(low), exact(high), show::number(mean)]
            }
            None => ["-", "-", "-"].map(str::to_string),
        };
        let [low, high, mean] = cells;
        table.add_row([name.to_string(), value.describe(), low, high, mean]);
    }
    println!("{table}");
}

/// The scores of a classifier: a float output of one row.
fn scores(value: &Value) -> Option<Vec<f64>> {
    let tensor = value.as_tensor()?;
    let row = matches!(tensor.shape(), [1, classes] | [1, classes, 1, 1] if *classes > 1);
    (row && tensor.dtype().is_float()).then(|| to_f64(tensor).ok()).flatten()
}

fn print_classes(outputs: &Outputs, labels: Option<&[String]>, top: usize) {
    for (name, value) in outputs.iter() {
        let Some(scores) = scores(value).filter(|_| top > 0) else { continue };
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        show::heading(&format!("top classes of {name}"));
        for &class in order.iter().take(top) {
            let label = labels.and_then(|labels| labels.get(class)).map_or("", String::as_str);
            let line = format!("{class:6}  {:>12}  {label}", show::number(scores[class]));
            println!("{}", line.trim_end());
        }
    }
}

/// Time by operator and kernel.
pub(crate) fn print_profile(session: &Session, trace: &Trace) {
    let total: u64 = trace.steps.iter().map(|step| step.duration_ns).sum();
    show::heading(&format!(
        "{} on {}, {} threads: {} steps, {} measured, {} of slots",
        session.graph().name,
        session.device().id,
        session.device().threads,
        trace.steps.len(),
        show::millis(total as f64 / 1e6),
        show::bytes(trace.slot_bytes as u64),
    ));
    let mut table = show::table(&["op", "kernel", "runs", "time", "share", ""], &[2, 3, 4]);
    for (op, kernel, runs, ns) in trace.by_kernel().into_iter().take(24) {
        let share = ns as f64 / total.max(1) as f64;
        table.add_row([
            op,
            kernel,
            runs.to_string(),
            show::millis(ns as f64 / 1e6),
            format!("{:.1} %", share * 100.0),
            show::bar(share, 20),
        ]);
    }
    println!("{table}");
}
