//! `hetra plan`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use hetra::placing::{
    self, Certificate, Considered, PlanFile, PlanGoal, PlanMoment, PlanOptions, PlanTask,
};
use hetra::{DriverState, ExportOptions, HostThreads, Seat, Session, Value};

use crate::inputs::InputArgs;
use crate::session::threads;
use crate::show;
use crate::usage::{or_usage, tolerance, usage};

/// Measure what parts of a model take on each device, and place them: never worse than one device
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra plan model.onnx -d cpu,ort,openvino -o plan.json
  hetra bench model.onnx --plan plan.json
  hetra plan model.onnx --goal throughput --explain
  hetra plan model.onnx --pin 'encoder*=cpu' --pin 'Softmax=cpu'
  hetra plan model.onnx --annotate placed.onnx    node metadata `layer_ann`, for ONNX Runtime
  hetra plan --list-policies

Each device runs the whole model first; what gives other results than the processor in f32, beyond
--max-error, is not used. Then tasks of the model are timed on each device, policies choose, and the
best mix is run beside the best single device, pair by pair. The measured winner is the plan.")]
pub(crate) struct Args {
    /// The model, an ONNX file
    #[arg(required_unless_present = "list_policies")]
    model: Option<PathBuf>,
    /// Devices to place on (see `hetra devices`), with commas between them; `cpu` is always there,
    /// since the others are held to its results. ID@0 or ID@0-1 keeps what a device does on the
    /// host to these processors [default: all that are found]
    #[arg(short, long, value_name = "IDS", value_delimiter = ',')]
    device: Vec<String>,
    /// Host threads of each device that takes a number [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    threads: Option<usize>,
    /// What is to be made small
    #[arg(long, value_enum, default_value_t = GoalArg::Latency)]
    goal: GoalArg,
    /// Policies that may choose, with commas between them (see --list-policies) [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    policy: Vec<String>,
    /// Keep nodes on a device: `*` in the name of a node or operator stands for any text; the first
    /// that fits holds (repeatable)
    #[arg(long, value_name = "PATTERN=ID", value_parser = pin)]
    pin: Vec<(String, String)>,
    /// Most tasks that the model is placed by, about
    #[arg(long, default_value_t = 12, value_name = "N", value_parser = tasks)]
    tasks: usize,
    /// Largest difference from the processor's outputs in f32 that a plan may have: of each output
    /// the largest difference divided by its largest magnitude
    #[arg(long, default_value_t = 1e-2, value_name = "E", value_parser = tolerance,
          allow_negative_numbers = true)]
    max_error: f64,
    /// Seed of the search
    #[arg(long = "search-seed", default_value_t = 1, value_name = "N")]
    search_seed: u64,
    #[command(flatten)]
    inputs: InputArgs,
    /// Write the plan to a file, for --plan of `run`, `bench` and `compare`
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write a copy of the model whose nodes say where they are placed (`layer_ann`)
    #[arg(long, value_name = "FILE")]
    annotate: Option<PathBuf>,
    /// Show what each task takes on each device, and why others do not do it
    #[arg(long)]
    explain: bool,
    /// List the policies
    #[arg(long)]
    list_policies: bool,
    /// Print the plan as JSON, alone on stdout
    #[arg(long)]
    json: bool,
}

/// `--goal`.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum GoalArg {
    /// The time of one run
    Latency,
    /// The time between two results, when runs overlap
    Throughput,
}

fn pin(text: &str) -> Result<(String, String), String> {
    // What stands behind a question mark are options of a device.
    let end = text.find('?').unwrap_or(text.len());
    let split = text[..end].rfind('=').map(|at| (&text[..at], &text[at + 1..]));
    match split {
        Some((pattern, id)) if !pattern.is_empty() && !id.is_empty() => {
            Ok((pattern.to_string(), id.to_string()))
        }
        _ => Err("wanted PATTERN=ID, such as 'encoder*=cpu'".to_string()),
    }
}

fn tasks(text: &str) -> Result<usize, String> {
    let tasks = text.parse().ok().filter(|tasks| (1..=64).contains(tasks));
    tasks.ok_or_else(|| "wanted a number from 1 to 64".to_string())
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.list_policies {
        let mut table = show::table(&["policy", "how it chooses"], &[]);
        for policy in hetra::POLICIES {
            table.add_row([policy.name, policy.doc]);
        }
        println!("{table}");
        return Ok(ExitCode::SUCCESS);
    }
    let path = args.model.as_deref().ok_or_else(|| usage("no model"))?;
    check_policies(&args.policy)?;
    let import = hetra_onnx::ImportOptions::default();
    let model = || path.display().to_string();
    let mut imported = hetra_onnx::import_file(path, &import).with_context(model)?;
    imported.info.warnings.iter().for_each(|text| show::warn(text));
    args.inputs.given().fix_defaults(&mut imported.graph);
    let devices = devices(args)?;
    // It says what the inputs are called and of what type they are.
    let session = Session::builder().model(imported.clone()).on(devices[0].device.clone()).build();
    let session = session.map_err(or_usage).with_context(model)?;
    let inputs = args.inputs.load(&session)?;
    drop(session);
    let ordered = ordered(&imported.graph, &inputs.values)?;
    let bar = show::progress(devices.len() as u64, "plan");
    let mut progress = |moment: &PlanMoment| {
        bar.set_length(moment.of as u64);
        bar.set_position(moment.done as u64);
        bar.set_message(moment.what.clone());
    };
    let options = PlanOptions {
        goal: match args.goal {
            GoalArg::Latency => PlanGoal::Latency,
            GoalArg::Throughput => PlanGoal::Throughput,
        },
        tasks_max: args.tasks,
        policies: args.policy.clone(),
        pins: args.pin.clone(),
        max_error: args.max_error,
        seed: args.search_seed,
        compare: Duration::from_secs(1),
    };
    let plan = placing::plan(&imported.graph, &devices, &ordered, &options, &mut progress);
    bar.finish_and_clear();
    let plan = plan.map_err(or_usage).with_context(model)?;
    if let Some(file) = &args.output {
        std::fs::write(file, plan.print()).with_context(|| file.display().to_string())?;
    }
    if let Some(file) = &args.annotate {
        annotate(&imported, &plan, file)?;
    }
    if args.json {
        println!("{}", plan.print());
    } else {
        print(path, &plan, args.explain);
    }
    Ok(ExitCode::SUCCESS)
}

fn check_policies(names: &[String]) -> Result<()> {
    let known: Vec<&str> = hetra::POLICIES.iter().map(|policy| policy.name).collect();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => {
            Err(usage(format!("--policy: there is no `{name}`; there are {}", known.join(", "))))
        }
        None => Ok(()),
    }
}

/// The devices, the processor first.
fn devices(args: &Args) -> Result<Vec<Seat>> {
    let mut ids: Vec<String> = match args.device.is_empty() {
        false => args.device.clone(),
        true => {
            let found = hetra::devices().into_iter();
            let found = found.filter(|found| found.state == DriverState::Found);
            found.map(|found| found.info.id).collect()
        }
    };
    let is_cpu = |id: &String| id == "cpu" || id.starts_with("cpu@");
    let cpu = ids.iter().position(is_cpu).map(|at| ids.remove(at));
    ids.insert(0, cpu.unwrap_or_else(|| "cpu".to_string()));
    let mut opened = Vec::new();
    for id in ids {
        let (id, cores) = seat(&id).map_err(usage)?;
        // As many threads as there are processors for them.
        let count = args.threads.or((!cores.is_empty()).then_some(cores.len()));
        let device = match hetra::open(id, HostThreads { count, pin: false }) {
            Ok(device) => device,
            // It was not asked for.
            Err(error) if args.device.is_empty() && id != "cpu" => {
                show::warn(&format!("{id} is left out: {error}"));
                continue;
            }
            Err(error) => return Err(or_usage(error)),
        };
        device.warning().into_iter().for_each(|text| show::warn(&text));
        opened.push(Seat { device, cores });
    }
    Ok(opened)
}

/// Most processors that a device may be kept to.
const CORES_MAX: usize = 1024;

/// `ID`, `ID@0` or `ID@0-1`.
fn seat(text: &str) -> Result<(&str, Vec<usize>), String> {
    let Some((id, cores)) = text.rsplit_once('@') else { return Ok((text, Vec::new())) };
    let fault = || format!("`{text}`: wanted ID@CORE or ID@FIRST-LAST, such as cpu@0-1");
    let (first, last) = cores.split_once('-').unwrap_or((cores, cores));
    let number = |text: &str| text.parse().ok().filter(|&core: &usize| core < CORES_MAX);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((id, (first..=last).collect())),
        _ => Err(fault()),
    }
}

/// Values in the order of the graph's inputs.
fn ordered(graph: &hetra::Graph, values: &[(String, Value)]) -> Result<Vec<Value>> {
    let value = |&id: &hetra::ValueId| {
        let name = &graph.value(id).name;
        let given = values.iter().find(|(given, _)| given == name).map(|(_, value)| value.clone());
        let given = given.or_else(|| graph.constants.get(&id).cloned());
        given.with_context(|| format!("input `{name}` is not given"))
    };
    graph.inputs.iter().map(value).collect()
}

/// Writes the model with the device of each node.
fn annotate(model: &hetra::Model, plan: &PlanFile, file: &Path) -> Result<()> {
    let graph = placing::placed_graph(&model.graph);
    let device = |node: hetra::NodeId| {
        let at = node.0;
        let holds = |part: &&placing::PlanPart| {
            part.nodes.iter().any(|&(from, to)| (from..to).contains(&at))
        };
        let part = plan.parts.iter().find(holds);
        part.map(|part| ("layer_ann".to_string(), part.device.clone())).into_iter().collect()
    };
    let options = ExportOptions {
        info: Some(&model.info),
        node_metadata: Some(&device),
        ..Default::default()
    };
    let bytes = hetra::export(&graph, &options)?;
    std::fs::write(file, bytes).with_context(|| file.display().to_string())
}

fn millis(seconds: f64) -> String {
    show::millis(seconds * 1e3)
}

fn print(path: &Path, plan: &PlanFile, explain: bool) {
    println!("{} for {}: {}", path.display(), plan.goal, chosen(plan));
    let mut table = show::table(&["plan", "by", "predicted", "measured", "error"], &[2, 3, 4]);
    for row in &plan.considered {
        let Considered { name, policy, predicted_s, measured_s, error } = row;
        let mark = if *name == plan.chosen { "* " } else { "  " };
        table.add_row([
            format!("{mark}{name}"),
            policy.clone().unwrap_or_else(|| "itself".to_string()),
            millis(*predicted_s),
            measured_s.map_or("not run".to_string(), millis),
            error.map_or(String::new(), |error| format!("{error:.1e}")),
        ]);
    }
    println!("\n{table}");
    if plan.parts.len() > 1 {
        let mut table = show::table(&["part", "device", "nodes", "from", "to", "because"], &[0, 2]);
        for (index, part) in plan.parts.iter().enumerate() {
            let nodes: u32 = part.nodes.iter().map(|(from, to)| to - from).sum();
            table.add_row([
                index.to_string(),
                part.device.clone(),
                nodes.to_string(),
                show::short(&part.first),
                show::short(&part.last),
                part.cause.clone(),
            ]);
        }
        println!("\n{table}");
    }
    if explain {
        print_tasks(plan);
    }
    for refused in &plan.refused {
        println!("not used: {}: {}", refused.name, refused.reason);
    }
    if let Some(bound) = &plan.bound {
        let (seconds, by) = (millis(bound.seconds), &bound.by);
        println!("by what the tasks took, no placement is below {seconds} ({by})");
    }
    plan.certificate.iter().for_each(|certificate| println!("{}", sentence(certificate)));
}

/// What was chosen, in words.
fn chosen(plan: &PlanFile) -> String {
    let used: std::collections::BTreeSet<&str> =
        plan.parts.iter().map(|part| part.device.as_str()).collect();
    let used: Vec<&str> = used.into_iter().collect();
    match used.len() {
        1 => format!("all of it on {}", used[0]),
        _ => format!("{} parts on {}", plan.parts.len(), used.join(", ")),
    }
}

fn sentence(certificate: &Certificate) -> String {
    let Certificate { plan, single, pairs, plan_s, single_s, ratio, faster, winner } = certificate;
    format!(
        "measured in {pairs} pairs, {faster} of them won: {plan} {}, {single} {}, ratio {:.3} \
         ({:.3} to {:.3}): {winner}",
        millis(plan_s.median),
        millis(single_s.median),
        ratio.median,
        ratio.lower,
        ratio.upper
    )
}

fn print_tasks(plan: &PlanFile) {
    let mut devices: Vec<&str> = Vec::new();
    for task in &plan.tasks {
        let left = task.left.iter().map(|left| left.device.as_str());
        for device in task.seconds.keys().map(String::as_str).chain(left) {
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
    }
    devices.sort_unstable();
    let head: Vec<&str> = ["task", "nodes"].into_iter().chain(devices.iter().copied()).collect();
    let numbers: Vec<usize> = (1..head.len()).collect();
    let mut table = show::table(&head, &numbers);
    for task in &plan.tasks {
        let cell = |device: &&str| match task.seconds.get(*device) {
            Some(&seconds) if task.device == **device => format!("* {}", millis(seconds)),
            Some(&seconds) => millis(seconds),
            None => "-".to_string(),
        };
        let cells = devices.iter().map(cell);
        let row = [show::short(&task.first), task.nodes.to_string()].into_iter().chain(cells);
        table.add_row(row.collect::<Vec<_>>());
    }
    println!("\n{table}");
    let reason = |task: &PlanTask| {
        let first = show::short(&task.first);
        let left = task.left.iter();
        left.map(|left| format!("  {first} on {}: {}", left.device, left.reason))
            .collect::<Vec<_>>()
    };
    let mut reasons: Vec<String> = plan.tasks.iter().flat_map(reason).collect();
    reasons.dedup();
    reasons.iter().for_each(|reason| println!("{reason}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_and_pins_are_read() {
        assert_eq!(seat("cpu"), Ok(("cpu", vec![])));
        assert_eq!(seat("cpu@1"), Ok(("cpu", vec![1])));
        assert_eq!(seat("opencl:0.1@0-2"), Ok(("opencl:0.1", vec![0, 1, 2])));
        ["cpu@", "cpu@x", "cpu@2-1", "cpu@0-9999999"]
            .iter()
            .for_each(|t| assert!(seat(t).is_err()));
        assert_eq!(pin("a=b=cpu"), Ok(("a=b".to_string(), "cpu".to_string())));
        let options = ("a".to_string(), "ort:qnn?b=c".to_string());
        assert_eq!(pin("a=ort:qnn?b=c"), Ok(options));
        assert!(pin("cpu").is_err() && pin("=cpu").is_err());
    }
}
