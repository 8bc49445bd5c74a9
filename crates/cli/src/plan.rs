//! `hetra plan`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use hetra::placing::{
    self, Costing, GOALS, PlanBounds, PlanFile, PlanGoal, PlanMoment, PlanOptions,
};
use hetra::{DriverState, ExportOptions, HostThreads, Machine, Seat, Session, Value};

use crate::inputs::InputArgs;
use crate::plan_show;
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
  hetra plan model.onnx --report plan.html        a page with a time line and the graph
  hetra plan model.onnx -d cpu,sim:l4,sim:h100-sxm --goal latency=1,cost=1 --machine box.toml
  hetra plan model.onnx -d cpu,sim:jetson-agx-orin --goal energy --max-latency 10ms --pareto
  hetra plan --list-policies

Each device runs the whole model first; what gives other results than the processor in f32, beyond
--max-error, is not used. Then tasks of the model are timed on each device, policies choose, and the
best mix is run beside the best single device, pair by pair. The measured winner is the plan. Devices
that are only described (`sim:ID`, see `hetra devices --catalogue`) are modelled, and marked so.")]
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
    /// What is to be made small: latency, throughput, energy or cost, or a weighted sum of parts of
    /// what the host takes, such as latency=1,energy=0.5
    #[arg(long, default_value = "latency", value_name = "GOAL", value_parser = PlanGoal::parse)]
    goal: PlanGoal,
    #[command(flatten)]
    bounds: BoundArgs,
    /// Show the plans of which none is better than another in every respect: latency, throughput,
    /// energy, cost
    #[arg(long)]
    pareto: bool,
    /// A machine file that says what devices draw and cost: [device.cpu] power.max,
    /// price.per_hour_usd and so on
    #[arg(long, value_name = "FILE")]
    machine: Option<PathBuf>,
    /// Policies that may choose, with commas between them (see --list-policies) [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    policy: Vec<String>,
    /// Keep nodes on a device: `*` in the name of a node or operator stands for any text; the first
    /// that fits holds (repeatable)
    #[arg(long, value_name = "PATTERN=ID", value_parser = pin)]
    pin: Vec<(String, String)>,
    /// Keep nodes away from a device (repeatable; patterns as with --pin)
    #[arg(long, value_name = "PATTERN=ID", value_parser = pin)]
    exclude: Vec<(String, String)>,
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
    /// Write a copy of the model whose nodes say where they are placed: `layer_ann`, which ONNX
    /// Runtime reads
    #[arg(long, value_name = "FILE")]
    annotate: Option<PathBuf>,
    /// Write a picture or a page of the plan; the ending says which: .html (with a time line),
    /// .svg, or .dot for Graphviz (repeatable)
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,
    /// Show what each task takes on each device, and why others do not do it
    #[arg(long)]
    explain: bool,
    /// Measure anew, though the same was planned before and is kept
    #[arg(long)]
    fresh: bool,
    /// Take what is known of tasks, else what was learned from others (`hetra calibrate --learn`);
    /// of a device of which nothing was learned, tasks are measured. Plans are measured as ever
    #[arg(long, conflicts_with = "fresh")]
    predict: bool,
    /// List the policies, and the goals
    #[arg(long)]
    list_policies: bool,
    /// Print the plan as JSON, alone on stdout
    #[arg(long)]
    json: bool,
}

/// What a plan must keep to.
#[derive(clap::Args)]
struct BoundArgs {
    /// Longest time of a run by itself, such as 10ms
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_latency: Option<f64>,
    /// Fewest runs in a second, when they overlap
    #[arg(long, value_name = "N", value_parser = rate)]
    min_throughput: Option<f64>,
    /// Most power, in the mean over a run, such as 15W
    #[arg(long, value_name = "WATTS", value_parser = watts)]
    max_power: Option<f64>,
    /// Most energy of a run, such as 0.2J
    #[arg(long, value_name = "JOULES", value_parser = joules)]
    max_energy: Option<f64>,
    /// Most dollars of a run
    #[arg(long, value_name = "USD", value_parser = rate)]
    max_cost: Option<f64>,
}

impl BoundArgs {
    fn bounds(&self) -> PlanBounds {
        PlanBounds {
            latency_s: self.max_latency,
            per_second: self.min_throughput,
            watts: self.max_power,
            joules: self.max_energy,
            dollars: self.max_cost,
        }
    }
}

/// A positive number with a unit, of which each has its scale.
fn with_unit(text: &str, units: &[(&str, f64)], example: &str) -> Result<f64, String> {
    let of = |(unit, scale): &(&str, f64)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        (number.is_finite() && number > 0.0).then_some(number * scale)
    };
    let found = units.iter().find_map(of);
    found.ok_or_else(|| format!("wanted a positive number such as {example}"))
}

fn duration(text: &str) -> Result<f64, String> {
    with_unit(text, &[("ms", 1e-3), ("us", 1e-6), ("s", 1.0)], "10ms")
}

fn watts(text: &str) -> Result<f64, String> {
    with_unit(text, &[("mW", 1e-3), ("kW", 1e3), ("W", 1.0), ("", 1.0)], "15W")
}

fn joules(text: &str) -> Result<f64, String> {
    with_unit(text, &[("mJ", 1e-3), ("kJ", 1e3), ("J", 1.0), ("", 1.0)], "0.2J")
}

fn rate(text: &str) -> Result<f64, String> {
    with_unit(text, &[("", 1.0)], "0.5")
}

fn pin(text: &str) -> Result<(String, String), String> {
    // What stands behind a question mark are options of a device.
    // So do faults.
    let faulty = text.find("=faulty:");
    let end = text.find('?').unwrap_or(text.len());
    let at = faulty.or_else(|| text[..end].rfind('='));
    let split = at.map(|at| (&text[..at], &text[at + 1..]));
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
        list();
        return Ok(ExitCode::SUCCESS);
    }
    let path = args.model.as_deref().ok_or_else(|| usage("no model"))?;
    check_policies(&args.policy)?;
    args.report.iter().try_for_each(|file| drawing(file).map(drop))?;
    let files = args.output.iter().chain(&args.annotate).chain(&args.report);
    for file in files {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            return Err(usage(format!(
                "{}: there is no folder {}",
                file.display(),
                folder.display()
            )));
        }
    }
    let import = hetra_onnx::ImportOptions::default();
    let model = || path.display().to_string();
    let mut imported = crate::model::import(path, &import)?;
    imported.info.warnings.iter().for_each(|text| show::warn(text));
    args.inputs.given().fix_defaults(&mut imported.graph);
    let machine = args.machine.as_deref().map(Machine::read).transpose();
    let machine = machine.map_err(|error| usage(error.to_string()))?;
    let devices = devices(&args.device, args.threads)?;
    // It says what the inputs are called and of what type they are.
    let session = Session::builder().model(imported.clone()).on(devices[0].device.clone()).build();
    let session = session.map_err(or_usage).with_context(model)?;
    let inputs = args.inputs.load(&session)?;
    drop(session);
    let ordered = ordered(&imported.graph, &inputs.values)?;
    let options = options(args, machine);
    let plan = planned(args, &imported.graph, &devices, &ordered, &options).with_context(model)?;
    if let Some(file) = &args.output {
        std::fs::write(file, plan.print()).with_context(|| file.display().to_string())?;
    }
    if let Some(file) = &args.annotate {
        annotate(&imported, &plan, file)?;
    }
    for file in &args.report {
        report(path, &plan, file)?;
    }
    if args.json {
        println!("{}", plan.print());
    } else {
        plan_show::print(path, &plan, args.explain);
    }
    Ok(ExitCode::SUCCESS)
}

fn options(args: &Args, machine: Option<Machine>) -> PlanOptions {
    PlanOptions {
        goal: args.goal,
        bounds: args.bounds.bounds(),
        frontier: args.pareto,
        machine,
        exclusions: args.exclude.clone(),
        tasks_max: args.tasks,
        policies: args.policy.clone(),
        pins: args.pin.clone(),
        max_error: args.max_error,
        seed: args.search_seed,
        costing: match (args.fresh, args.predict) {
            (true, _) => Costing::Measure,
            (_, true) => Costing::Predict,
            _ => Costing::Known,
        },
        store: hetra::store_path(),
        compare: Duration::from_secs(1),
    }
}

/// The plan that was kept, or a new one.
fn planned(
    args: &Args,
    graph: &hetra::Graph,
    devices: &[Seat],
    inputs: &[Value],
    options: &PlanOptions,
) -> Result<PlanFile> {
    let folder = placing::plans_folder();
    let key = placing::plan_key(graph, devices, inputs, options);
    let kept = folder.as_deref().filter(|_| !args.fresh);
    if let Some((plan, made)) = kept.and_then(|folder| placing::kept_plan(folder, &key)) {
        show::note(&format!("planned {} ago; --fresh measures anew", show::since(made)));
        return Ok(plan);
    }
    let bar = show::progress(devices.len() as u64, "plan");
    let mut progress = |moment: &PlanMoment| {
        bar.set_length(moment.of as u64);
        bar.set_position(moment.done as u64);
        bar.set_message(moment.what.clone());
    };
    let plan = placing::plan(graph, devices, inputs, options, &mut progress);
    bar.finish_and_clear();
    let plan = plan.map_err(or_usage)?;
    folder.iter().for_each(|folder| placing::keep_plan(folder, &key, &plan));
    Ok(plan)
}

fn list() {
    let mut table = show::table(&["policy", "how it chooses"], &[]);
    for policy in hetra::POLICIES {
        table.add_row([policy.name, policy.doc]);
    }
    println!("{table}");
    let mut table = show::table(&["goal", "what is made small"], &[]);
    for (name, doc) in GOALS {
        table.add_row([name, doc]);
    }
    println!("\n{table}");
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
pub(crate) fn devices(device: &[String], threads: Option<usize>) -> Result<Vec<Seat>> {
    let mut ids: Vec<String> = match device.is_empty() {
        false => device.to_vec(),
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
        let count = threads.or((!cores.is_empty()).then_some(cores.len()));
        let device = match hetra::open(id, HostThreads { count, pin: false }) {
            Ok(device) => device,
            // It was not asked for.
            Err(error) if device.is_empty() && id != "cpu" => {
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
    // What stands behind a question mark may hold any sign.
    let query = text.find('?').unwrap_or(text.len());
    let at = text.rfind('@').filter(|&at| at < query || text[at + 1..].parse::<u32>().is_ok());
    let Some((id, cores)) = at.map(|at| (&text[..at], &text[at + 1..])) else {
        return Ok((text, Vec::new()));
    };
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

/// What a file with such an ending holds.
type Draw = fn(&PlanFile, &str) -> String;
const REPORTS: [(&str, Draw); 3] = [
    ("html", |plan, model| plan.to_html(model)),
    ("svg", |plan, _| plan.to_svg()),
    ("dot", |plan, _| plan.to_dot()),
];

/// The endings of reports, checked before anything is measured.
fn drawing(file: &Path) -> Result<Draw> {
    let ending = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let found = REPORTS.iter().find(|(known, _)| *known == ending);
    let known = || REPORTS.map(|(known, _)| format!(".{known}")).join(", ");
    let fault = || usage(format!("--report {}: wanted {}", file.display(), known()));
    found.map(|(_, draw)| *draw).ok_or_else(fault)
}

fn report(model: &Path, plan: &PlanFile, file: &Path) -> Result<()> {
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    let text = drawing(file)?(plan, &name);
    std::fs::write(file, text).with_context(|| file.display().to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_have_units() {
        assert_eq!(duration("10ms"), Ok(0.01));
        assert_eq!((duration("2s"), watts("15W"), joules("5mJ")), (Ok(2.0), Ok(15.0), Ok(0.005)));
        assert_eq!((watts("15"), rate("3")), (Ok(15.0), Ok(3.0)));
        for text in ["10", "-1ms", "xms", "0ms", "infs"] {
            assert!(duration(text).unwrap_err().contains("10ms"), "{text}");
        }
    }

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
        let faulty = ("Relu".to_string(), "faulty:fail_every=10:openvino".to_string());
        assert_eq!(pin("Relu=faulty:fail_every=10:openvino"), Ok(faulty));
        assert_eq!(seat("sim:x?machine=a@b.toml"), Ok(("sim:x?machine=a@b.toml", vec![])));
        assert_eq!(seat("ort:qnn?a=b@1"), Ok(("ort:qnn?a=b", vec![1])));
    }
}
