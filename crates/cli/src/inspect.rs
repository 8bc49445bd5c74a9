//! `hetra inspect`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use hetra_ir::{Graph, NodeId, Type, ValueId};
use hetra_onnx::{ImportError, ImportOptions};
use hetra_ops::find;
use hetra_tensor::Value;
use serde_json::json;

use crate::generate::{self, Extents};
use crate::on_device::OnDevice;
use crate::show;
use crate::usage::usage;

/// Show a model: inputs, outputs, operators, multiply-adds, parameters, memory
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra inspect model.onnx
  hetra inspect model.onnx --dim batch=8 --shape image=8x3x224x224
  hetra inspect model.onnx --device wgpu     which nodes its kernels do not do
  hetra inspect model.onnx --text | less")]
pub(crate) struct Args {
    /// The model, an ONNX file
    model: PathBuf,
    /// Extent of a symbolic dimension [default: 1]
    #[arg(long, value_name = "NAME=N", value_parser = generate::dim)]
    dim: Vec<(String, usize)>,
    /// Shape of an input, such as x=1x3x224x224
    #[arg(long, value_name = "NAME=SHAPE", value_parser = shape)]
    shape: Vec<(String, Vec<usize>)>,
    /// Say which nodes the kernels of a device do not do (see `hetra devices`)
    #[arg(short, long, value_name = "ID", conflicts_with_all = ["text", "weights"])]
    device: Option<String>,
    /// Print the graph in its text form; of large constants only the type
    #[arg(long, conflicts_with = "json")]
    text: bool,
    /// Print the text form with every constant in full, so that it parses
    #[arg(long, conflicts_with = "json")]
    weights: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is counted for one operator.
#[derive(Default)]
struct Row {
    count: usize,
    macs: f64,
    supported: bool,
}

struct Report {
    rows: BTreeMap<String, Row>,
    parameters: u64,
    parameter_bytes: u64,
    macs: Option<f64>,
    /// Weights plus memory slots of the plan; `None` when shapes stay open.
    peak_bytes: Option<u64>,
    unsupported: Vec<String>,
    open: Option<String>,
    /// Phrases for extents that nobody said.
    guessed: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let options = ImportOptions { allow_unknown_ops: true, ..Default::default() };
    let path = || args.model.display().to_string();
    let read = |options| crate::model::import(&args.model, &options);
    let model = match read(options) {
        Err(error) if matches!(error.downcast_ref(), Some(ImportError::TooNew { .. })) => {
            show::warn(&show::explain(&error));
            read(ImportOptions { allow_newer: true, ..options })
        }
        other => other,
    };
    let mut model = model?;
    model.info.warnings.iter().for_each(|text| show::warn(text));
    if args.text || args.weights {
        let print = if args.weights { hetra_ir::print } else { hetra_ir::outline };
        print!("{}", print(&model.graph));
        return Ok(ExitCode::SUCCESS);
    }
    let types = hetra_pass::output_types(&model.graph).with_context(path)?;
    for (id, ty) in model.graph.outputs.clone().into_iter().zip(types) {
        model.graph.values[id.index()].ty = ty;
    }
    let graph = &model.graph;
    generate::check_dims(&args.dim, graph.inputs.iter().map(|&id| graph.ty(id)))?;
    let (types, guessed) = input_types(graph, args)?;
    let report = examine(graph, &types, guessed);
    let unsupported = !report.unsupported.is_empty();
    let on_device = match &args.device {
        // There is no session of a model that Hetra does not run at all.
        Some(device) if !unsupported => {
            let mut fixed = read(options)?;
            for (id, ty) in fixed.graph.inputs.clone().into_iter().zip(&types) {
                fixed.graph.values[id.index()].ty = ty.clone();
            }
            // As `run` has them where nobody gives them.
            fixed.graph.fix_defaults(|_| false);
            match OnDevice::of(fixed, device) {
                // What was guessed may fit together in no way: then by what is known without.
                Err(_) if !report.guessed.is_empty() => {
                    let mut open = read(options)?;
                    open.graph.fix_defaults(|_| false);
                    Some(OnDevice::of(open, device)?)
                }
                told => Some(told?),
            }
        }
        _ => None,
    };
    if args.json {
        let mut report = to_json(&model, &report, args);
        if let Some(on_device) = &on_device {
            report["device"] = on_device.json();
        }
        println!("{report}");
    } else {
        print_report(&model, &report, args);
        if let Some(on_device) = &on_device {
            on_device.print();
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Parses `--shape`.
fn shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let (name, shape) = text.rsplit_once('=').ok_or("wanted NAME=SHAPE")?;
    Ok((name.to_string(), generate::parse_shape(shape)?))
}

/// Types of the inputs with the open extents replaced, and what was guessed for it.
fn input_types(graph: &Graph, args: &Args) -> Result<(Vec<Type>, Vec<String>)> {
    let name = |id: ValueId| graph.value(id).name.as_str();
    if let Some((odd, _)) =
        args.shape.iter().find(|(given, _)| !graph.inputs.iter().any(|&id| name(id) == given))
    {
        return Err(usage(format!("--shape {odd}=..: the model has no such input")));
    }
    let shape = |id: ValueId| args.shape.iter().find(|(given, _)| given == name(id));
    let mut extents = Extents::new(&args.dim);
    for &id in &graph.inputs {
        let Some((name, shape)) = shape(id) else { continue };
        let ty = graph.ty(id);
        if !ty.as_tensor().is_some_and(|ty| ty.allows(shape)) {
            return Err(usage(format!("--shape {name}=..: input `{name}` is {ty}")));
        }
        extents.bind(name, ty, shape)?;
    }
    let mut types = Vec::with_capacity(graph.inputs.len());
    for &id in &graph.inputs {
        let ty = graph.ty(id);
        types.push(match (ty.dtype(), shape(id), ty.dims()) {
            (Some(dtype), Some((_, shape)), _) => Type::tensor(dtype, shape),
            (Some(dtype), None, Some(dims)) => {
                let option = format!("--shape {}=SHAPE", name(id));
                Type::tensor(dtype, &extents.of(name(id), dims, &option))
            }
            _ => ty.clone(),
        });
    }
    Ok((types, extents.guessed))
}

/// The CPU decides at run time what it writes in place; without it nothing is.
struct NoHints;

impl hetra_plan::Hints for NoHints {
    fn in_place(&self, _: NodeId, _: usize, _: &[Option<&Type>]) -> bool {
        false
    }
}

fn examine(graph: &Graph, types: &[Type], guessed: Vec<String>) -> Report {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    count(graph, &mut rows);
    let mut report = Report {
        parameters: 0,
        parameter_bytes: 0,
        macs: None,
        peak_bytes: None,
        unsupported: rows.iter().filter(|(_, r)| !r.supported).map(|(op, _)| op.clone()).collect(),
        open: None,
        guessed,
        rows,
    };
    weights(graph, &mut report);
    if !report.unsupported.is_empty() {
        report.open = Some("some operators are not known".to_string());
        return report;
    }
    match hetra_plan::build(graph, types, &[], &graph.outputs, &NoHints) {
        Ok(plan) => {
            // What has a plan has types, and so work.
            let work = hetra_pass::work(graph, types).unwrap_or_default();
            for (op, work) in &work {
                if let Some(row) = report.rows.get_mut(op) {
                    row.macs += work.macs;
                }
            }
            report.macs = Some(work.iter().map(|(_, work)| work.macs).sum());
            report.peak_bytes = Some(report.parameter_bytes + plan.slot_bytes() as u64);
        }
        Err(error) => report.open = Some(error.to_string()),
    }
    report
}

fn count(graph: &Graph, rows: &mut BTreeMap<String, Row>) {
    for node in &graph.nodes {
        let row = rows.entry(node.op.clone()).or_default();
        row.count += 1;
        row.supported = find(&node.op).is_some();
        node.attrs.graphs().for_each(|(_, body)| count(body, rows));
    }
}

fn weights(graph: &Graph, report: &mut Report) {
    for tensor in graph.constants.values().filter_map(Value::as_tensor) {
        report.parameters += tensor.len() as u64;
        report.parameter_bytes += tensor.byte_len() as u64;
    }
    for node in &graph.nodes {
        node.attrs.graphs().for_each(|(_, body)| weights(body, report));
    }
}

/// Inputs with a default that are listed one by one; exporters that list every weight have more.
const DEFAULTS_LISTED_MAX: usize = 8;

fn port_json(graph: &Graph, id: ValueId) -> serde_json::Value {
    let mut port = json!({"name": graph.value(id).name, "type": graph.ty(id).to_string()});
    if graph.constants.contains_key(&id) && graph.inputs.contains(&id) {
        port["default"] = json!(true);
    }
    port
}

fn to_json(model: &hetra_onnx::Model, report: &Report, args: &Args) -> serde_json::Value {
    let graph = &model.graph;
    let ports =
        |ids: &[ValueId]| -> Vec<_> { ids.iter().map(|&id| port_json(graph, id)).collect() };
    let ops: BTreeMap<_, _> = report
        .rows
        .iter()
        .map(|(op, row)| (op, json!({"count": row.count, "macs": row.macs})))
        .collect();
    json!({
        "model": args.model.display().to_string(),
        "producer": model.info.producer, "ir_version": model.info.ir_version,
        "opsets": model.info.opsets,
        "inputs": ports(&graph.inputs),
        "outputs": ports(&graph.outputs),
        "ops": ops, "parameters": report.parameters, "parameter_bytes": report.parameter_bytes,
        "macs": report.macs, "peak_bytes": report.peak_bytes,
        "unsupported": report.unsupported, "open": report.open,
        "guessed": report.guessed,
    })
}

fn print_ports(graph: &Graph) {
    let mut table = show::table(&["", "name", "type"], &[]);
    let has_default = |id: &&ValueId| graph.constants.contains_key(*id);
    let defaults = graph.inputs.iter().filter(has_default).count();
    let mut row = |side: &str, id: ValueId| {
        table.add_row([side.to_string(), graph.value(id).name.clone(), graph.ty(id).to_string()]);
    };
    graph.inputs.iter().filter(|id| !has_default(id)).for_each(|&id| row("input", id));
    if defaults <= DEFAULTS_LISTED_MAX {
        graph.inputs.iter().filter(has_default).for_each(|&id| row("default", id));
    }
    graph.outputs.iter().for_each(|&id| row("output", id));
    println!("{table}");
    if defaults > DEFAULTS_LISTED_MAX {
        println!(" and {defaults} inputs with a default: weights that are listed as inputs");
    }
    println!();
}

fn print_report(model: &hetra_onnx::Model, report: &Report, args: &Args) {
    let (graph, info) = (&model.graph, &model.info);
    let opsets: Vec<String> = info
        .opsets
        .iter()
        .map(|(domain, version)| {
            format!("{} {version}", if domain.is_empty() { "ai.onnx" } else { domain })
        })
        .collect();
    let producer = format!("{} {}", info.producer, info.producer_version);
    let producer = match producer.trim() {
        "" => String::new(),
        name => format!("{name}, "),
    };
    let opsets = opsets.join(", ");
    // A pipeline has none.
    let version = match info.ir_version {
        0 => String::new(),
        version => format!("IR {version}, "),
    };
    println!("{}: {producer}{version}{opsets}\n", args.model.display());
    print_ports(graph);
    let mut table = show::table(&["op", "count", "multiply-adds"], &[1, 2]);
    let mut rows: Vec<_> = report.rows.iter().collect();
    rows.sort_by(|a, b| b.1.macs.total_cmp(&a.1.macs).then(b.1.count.cmp(&a.1.count)));
    for (op, row) in rows {
        let name = if row.supported { op.clone() } else { format!("{op} (not supported)") };
        let macs = if row.macs > 0.0 { show::count(row.macs) } else { "-".to_string() };
        table.add_row([name, row.count.to_string(), macs]);
    }
    println!("{table}\n");
    let or_open = |text: Option<String>| text.unwrap_or_else(|| "unavailable".to_string());
    println!("parameters     {}", show::count(report.parameters as f64));
    println!("weights        {}", show::bytes(report.parameter_bytes));
    let bodies = graph.nodes.iter().any(|node| node.attrs.graphs().next().is_some());
    let outside = if bodies { " (each body once)" } else { "" };
    let macs = report.macs.map(|macs| format!("{}{outside}", show::count(macs)));
    println!("multiply-adds  {}", or_open(macs));
    let peak = report.peak_bytes.map(|peak| format!("{} (modelled)", show::bytes(peak)));
    println!("peak memory    {}", or_open(peak));
    if let Some(reason) = &report.open {
        println!("unavailable    {reason}");
    }
    if !report.guessed.is_empty() {
        println!("guessed        {}", report.guessed.join(", "));
    }
    if !report.unsupported.is_empty() {
        println!("not supported  {}", report.unsupported.join(", "));
    }
}
