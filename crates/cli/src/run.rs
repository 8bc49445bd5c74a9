//! `hetra run`

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use hetra::{DType, Outputs, Session, Tensor, Trace, Value};
use hetra_tensor::to_f64;
use serde::Serialize;
use serde_json::json;

use crate::classes::{self, Class, ClassArgs};
use crate::inputs::{InputArgs, Inputs};
use crate::session::{Target, TunedArgs};
use crate::{npy, show, usage, values};

/// Run a model once and show its outputs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra run model.onnx                       random inputs
  hetra run model.onnx -i x.npy -o out.npz
  hetra run model.onnx -i ids=1,2,3 -i mask=ones:1x3
  hetra run model.onnx -i cat.jpg --labels classes.txt \\
      --preprocess resize=256,crop=224x224,mean=0.485:0.456:0.406,std=0.229:0.224:0.225
  hetra run model.onnx --data test_data_set_0 --warmup 5 --profile")]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    schedules: TunedArgs,
    #[command(flatten)]
    inputs: InputArgs,
    /// Write the outputs to a .npz file
    #[arg(short, long, value_name = "OUT.npz", value_parser = npz)]
    output: Option<PathBuf>,
    #[command(flatten)]
    classes: ClassArgs,
    /// Outputs of at most N elements are shown with their values
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = usage::count,
          allow_negative_numbers = true)]
    values: usize,
    /// Show the time of each operator
    #[arg(long)]
    profile: bool,
    /// Runs before the one that is shown: the first run makes plans and allocates memory
    #[arg(long, value_name = "N", default_value_t = 0)]
    warmup: usize,
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
    let labels = args.classes.labels()?;
    let model = &args.target.model;
    let session = args.target.open(&args.inputs.given(), args.schedules.tuned())?;
    if args.explain_passes {
        eprintln!("{}", session.passes());
    }
    let inputs = args.inputs.load(&session)?;
    let session = args.target.settle_precision(session, &inputs.values, &inputs.random())?;
    if args.explain_plan {
        let types: Vec<hetra::Type> =
            inputs.values.iter().map(|(_, v)| hetra::Type::of(v)).collect();
        let plan = session.plan(&types).map_err(|error| inputs.explain(model, error))?;
        eprintln!("{}", hetra_plan::print(&plan, session.graph()));
    }
    for _ in 0..args.warmup {
        inputs.trace(&session, model)?;
    }
    let (outputs, trace) = inputs.trace(&session, model)?;
    if let Some(path) = &args.output {
        for (name, _) in outputs.iter().filter(|(_, value)| value.as_tensor().is_none()) {
            show::warn(&format!("{}: output `{name}` is no tensor, left out", path.display()));
        }
        // An output may be listed twice; an archive has each name once.
        let mut names = BTreeSet::new();
        let once = outputs.iter().filter(|(name, _)| names.insert(*name));
        let tensors = once.filter_map(|(name, value)| Some((name, value.as_tensor()?)));
        npy::write_archive(path, tensors).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.trace {
        std::fs::write(path, trace.to_chrome()).with_context(|| path.display().to_string())?;
    }
    let classes = args.classes.of(&outputs, labels.as_ref());
    if args.json {
        let rows: Vec<_> = outputs
            .iter()
            .zip(&classes)
            .map(|((name, v), top)| summary_json(name, v, top, args.values))
            .collect();
        let inputs = inputs_json(&inputs);
        let precision = args.target.precision_json(&session);
        let report = json!({
            "inputs": inputs, "outputs": rows, "trace": trace, "precision": precision,
        });
        println!("{report}");
        return Ok(ExitCode::SUCCESS);
    }
    print_inputs(&inputs);
    print_outputs(&outputs, args.values);
    for ((name, _), classes) in outputs.iter().zip(&classes) {
        classes.iter().for_each(|classes| classes::print(name, classes));
    }
    if args.profile {
        print_profile(&session, &trace);
    }
    Ok(ExitCode::SUCCESS)
}

fn inputs_json(inputs: &Inputs) -> Vec<serde_json::Value> {
    let rows = inputs.values.iter().zip(&inputs.sources);
    rows.map(|((name, value), source)| {
        let ty = value.describe();
        json!({"name": name, "type": ty, "source": source})
    })
    .collect()
}

fn print_inputs(inputs: &Inputs) {
    if inputs.values.is_empty() {
        return;
    }
    let mut table = show::table(&["input", "type", "from"], &[]);
    for ((name, value), source) in inputs.values.iter().zip(&inputs.sources) {
        table.add_row([name.clone(), value.describe(), source.clone()]);
    }
    println!("{table}\n");
}

/// An element, exact; in JSON, NaN and infinities are null.
#[derive(Serialize)]
#[serde(untagged)]
enum Element {
    Float(f64),
    Whole(i128),
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Float(value) => f.write_str(&show::number(*value)),
            Element::Whole(value) => write!(f, "{value}"),
        }
    }
}

/// What a tensor's elements lie between.
struct Range {
    low: Element,
    high: Element,
    mean: f64,
}

/// `None` for strings and empty tensors.
fn range(tensor: &Tensor) -> Option<Range> {
    let values = to_f64(tensor).ok()?;
    let first = *values.first()?;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let (low, high) = match tensor.dtype() {
        dtype if dtype.is_float() => {
            let (low, high) =
                values.iter().fold((first, first), |(l, h), v| (l.min(*v), h.max(*v)));
            (Element::Float(low), Element::Float(high))
        }
        dtype => {
            let wide = dtype == DType::U64;
            let exact = |v: i64| if wide { i128::from(v as u64) } else { i128::from(v) };
            let values = || hetra_tensor::to_i64(tensor).map(|v| v.into_iter().map(exact));
            (Element::Whole(values().ok()?.min()?), Element::Whole(values().ok()?.max()?))
        }
    };
    Some(Range { low, high, mean })
}

fn summary_json(
    name: &str,
    value: &Value,
    top: &Option<Vec<Class>>,
    values_max: usize,
) -> serde_json::Value {
    let range = value.as_tensor().and_then(range);
    let mut row = json!({
        "name": name, "type": value.describe(),
        "min": range.as_ref().map(|r| &r.low), "max": range.as_ref().map(|r| &r.high),
        "mean": range.as_ref().map(|r| r.mean),
    });
    if let Some(elements) = values::elements(value, values_max) {
        row["values"] = elements;
    }
    if let Some(top) = top {
        row["top"] = json!(top);
    }
    row
}

fn print_outputs(outputs: &Outputs, values_max: usize) {
    let mut table = show::table(&["output", "type", "min", "max", "mean"], &[2, 3, 4]);
    for (name, value) in outputs.iter() {
        let cells = match value.as_tensor().and_then(range) {
            Some(Range { low, high, mean }) => {
                [low.to_string(), high.to_string(), show::number(mean)]
            }
            None => ["-", "-", "-"].map(str::to_string),
        };
        let [low, high, mean] = cells;
        table.add_row([name.to_string(), value.describe(), low, high, mean]);
    }
    println!("{table}");
    let values = |(name, value)| Some((name, values::elements(value, values_max)?));
    let small: Vec<(&str, serde_json::Value)> = outputs.iter().filter_map(values).collect();
    if !small.is_empty() {
        println!();
    }
    small.iter().for_each(|(name, elements)| println!("{name} = {elements}"));
}

/// Time by operator and kernel.
pub(crate) fn print_profile(session: &Session, trace: &Trace) {
    let total: u64 = trace.steps.iter().map(|step| step.duration_ns).sum();
    show::heading(&format!(
        "{} on {}: {}, {} measured, {} of slots",
        session.graph().name,
        show::on(session),
        show::plural(trace.steps.len(), "step"),
        show::millis(total as f64 / 1e6),
        show::bytes(trace.slot_bytes as u64),
    ));
    let mut table = show::table(&["op", "kernel", "runs", "time", "share", ""], &[2, 3, 4]);
    let bar_width = if show::is_narrow() { 0 } else { 20 };
    for (op, kernel, runs, ns) in trace.by_kernel().into_iter().take(24) {
        let share = ns as f64 / total.max(1) as f64;
        table.add_row([
            op,
            kernel,
            runs.to_string(),
            show::millis(ns as f64 / 1e6),
            format!("{:.1} %", share * 100.0),
            show::bar(share, bar_width),
        ]);
    }
    println!("{table}");
    if trace.turns_left_out > 0 {
        let turns = show::plural(trace.turns_left_out, "turn");
        println!("{turns} of bodies count for the step around: there were too many to list");
    }
}
