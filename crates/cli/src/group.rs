//! `hetra group`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use hetra::group::{APART, Group, TOGETHER, Tried};
use hetra::{DType, Dim, Graph, Session, Value};

use crate::session::threads;
use crate::usage::{or_usage, usage};
use crate::{images, model, plan, show};

/// Plan several models of one process together: which device each gets, and whose turn it is
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra group detect.onnx read.onnx -d cpu,ort
  hetra group detect.onnx read.onnx --weight read=4 --json

In a round each model runs as often as its weight says, all at one time. Assignments that promise the
shortest round are measured, with the models that the processor does beside each other or in turns;
the best is run beside every model by itself on its best device, round by round, and taken where it
wins. In Rust: `Session::group()`, whose `run` keeps to what was planned.")]
pub(crate) struct Args {
    /// The models: ONNX files, or pipelines
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Devices (see `hetra devices`), with commas between them [default: all that are found]
    #[arg(short, long, value_name = "IDS", value_delimiter = ',')]
    device: Vec<String>,
    /// How often a model runs in a round, by the name of its file without its ending (repeatable)
    #[arg(long, value_name = "NAME=N", value_parser = weight)]
    weight: Vec<(String, u32)>,
    /// A picture that a pipeline is tried with (repeatable)
    #[arg(short, long, value_name = "NAME=PICTURE", value_parser = input)]
    input: Vec<(String, PathBuf)>,
    /// Host threads of each device that takes a number [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    threads: Option<usize>,
    /// Print JSON, alone on stdout
    #[arg(long)]
    json: bool,
}

fn input(text: &str) -> Result<(String, PathBuf), String> {
    let split = text.split_once('=').map(|(name, file)| (name.to_string(), file.into()));
    split.ok_or_else(|| "wanted NAME=PICTURE, such as face=people.jpg".to_string())
}

fn weight(text: &str) -> Result<(String, u32), String> {
    let split =
        text.rsplit_once('=').and_then(|(name, n)| Some((name.to_string(), n.parse().ok()?)));
    split.ok_or_else(|| "wanted NAME=N, such as read=4".to_string())
}

/// How long plans are compared at least.
const COMPARE: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut names: Vec<String> = Vec::new();
    for path in &args.models {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let free = |count: usize| if count == 1 { stem.clone() } else { format!("{stem}-{count}") };
        names.extend((1..).map(free).find(|name| !names.contains(name)));
    }
    let told = args.weight.iter().map(|(name, _)| name);
    let mut told = told.chain(args.input.iter().map(|(name, _)| name));
    let twice = |at: usize| args.weight[..at].iter().any(|(name, _)| *name == args.weight[at].0);
    if let Some(at) = (0..args.weight.len()).find(|&at| twice(at)) {
        return Err(usage(format!("`--weight` of {} is given twice", args.weight[at].0)));
    }
    if let Some(name) = told.find(|name| !names.contains(name)) {
        return Err(usage(format!("no model is called `{name}`; there are {}", names.join(", "))));
    }
    let mut builder = Session::group().compare(COMPARE);
    for (path, name) in args.models.iter().zip(&names) {
        let mut imported = model::import(path, &hetra_onnx::ImportOptions::default())
            .with_context(|| path.display().to_string())?;
        imported.info.warnings.iter().for_each(|text| show::warn(text));
        imported.graph.fix_defaults(|_| false);
        let weight = args.weight.iter().find(|(other, _)| other == name).map_or(1, |(_, n)| *n);
        let picture = args.input.iter().find(|(other, _)| other == name).map(|(_, file)| file);
        let inputs = tried(name, &imported.graph, picture.map(PathBuf::as_path))?;
        builder = builder.model(name, imported).weight(weight);
        if let Some(inputs) = inputs {
            builder = builder.inputs(inputs);
        }
    }
    for seat in plan::devices(&args.device, args.threads)? {
        builder = builder.device(seat);
    }
    let bar = show::progress(0, "plan");
    let group = builder.build();
    bar.finish_and_clear();
    let group = group.map_err(or_usage)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(group.report())?),
        false => print(&group),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a model is tried with, where a picture is given; else numbers are made up for it.
fn tried(
    name: &str,
    graph: &Graph,
    picture: Option<&Path>,
) -> Result<Option<Vec<(String, Value)>>> {
    let first = graph.inputs.first().map(|&id| (graph.value(id).name.clone(), graph.ty(id)));
    let open = |dims: &[Dim]| dims.iter().any(|dim| dim.known().is_none());
    let Some((input, ty)) = first else { return Ok(None) };
    let is_picture = ty.dtype() == Some(DType::U8) && ty.dims().is_some_and(|dims| dims.len() == 3);
    match picture {
        Some(file) if is_picture => {
            let pixels = images::pixels(file).with_context(|| file.display().to_string())?;
            Ok(Some(vec![(input, pixels.into())]))
        }
        Some(_) => Err(usage(format!("`{name}` takes no picture as it is: no pipeline"))),
        None if is_picture => {
            Err(usage(format!("`{name}` is tried with a picture: --input {name}=PICTURE")))
        }
        None => {
            if ty.dims().is_some_and(open) {
                show::note(&format!("{name}: open extents of `{input}` are 1 in what is tried"));
            }
            Ok(None)
        }
    }
}

fn print(group: &Group) {
    let report = group.report();
    let millis = |seconds: f64| show::millis(seconds * 1e3);
    let mut table = show::table(&["model", "runs", "device", "alone there", "best alone"], &[1, 3]);
    for member in &report.members {
        let there = member.alone_s.get(&member.device).copied().unwrap_or(0.0);
        table.add_row([
            member.name.clone(),
            member.weight.to_string(),
            member.device.clone(),
            millis(there),
            member.best_alone.clone(),
        ]);
    }
    println!("{table}");
    for member in &report.members {
        for (device, reason) in &member.left {
            println!("not used: {device} for {}: {reason}", member.name);
        }
    }
    let how = |turns: bool| if turns { "in turns" } else { "beside each other" };
    let mut table = show::table(&["devices", "how", "a round takes", "expected"], &[2, 3]);
    for Tried { devices, turns, predicted_s, round_s } in &report.tried {
        let devices = devices.join(", ");
        let cells = [millis(round_s.median), millis(*predicted_s)];
        let [round, busiest] = cells;
        table.add_row([devices, how(*turns).to_string(), round, busiest]);
    }
    println!("{table}");
    match &report.certificate {
        None => println!("each by itself on its best device, beside each other, is the best"),
        Some(found) => println!(
            "{TOGETHER} {}, {APART} {}: {:.3} of it ({:.3} to {:.3}), over {} pairs of rounds; taken: {}, {}",
            millis(found.of_plan.median),
            millis(found.of_single.median),
            found.ratio.median,
            found.ratio.lower,
            found.ratio.upper,
            found.pairs,
            found.winner,
            how(report.turns)
        ),
    }
}
