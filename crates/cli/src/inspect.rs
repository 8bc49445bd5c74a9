//! `hetra inspect`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use hetra_ir::{Graph, NodeId, Type, ValueId};
use hetra_ops::{Work, find};
use hetra_tensor::Value;
use serde_json::json;

use crate::{inputs, show};

/// Show a model: inputs, outputs, operators, multiply-adds, parameters, memory
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model, an ONNX file
    model: PathBuf,
    /// Extent of a symbolic dimension [default: 1]
    #[arg(long, value_name = "NAME=N", value_parser = inputs::dim)]
    dim: Vec<(String, usize)>,
    /// Print the graph in its text form
    #[arg(long, conflicts_with = "json")]
    text: bool,
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
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let options = hetra_onnx::ImportOptions { allow_unknown_ops: true, ..Default::default() };
    let model = hetra_onnx::import_file(&args.model, &options)
        .with_context(|| args.model.display().to_string())?;
    if args.text {
        print!("{}", hetra_ir::print(&model.graph));
        return Ok(ExitCode::SUCCESS);
    }
    let graph = &model.graph;
    inputs::check_dims(&args.dim, graph.inputs.iter().map(|&id| graph.ty(id)))?;
    let report = examine(graph, &args.dim);
    if args.json {
        println!("{}", to_json(&model, &report, args));
    } else {
        print_report(&model, &report, args);
    }
    Ok(ExitCode::SUCCESS)
}

/// Types of the inputs with the symbols replaced.
fn input_types(graph: &Graph, dims: &[(String, usize)]) -> Vec<Type> {
    let extents: BTreeMap<&str, usize> = dims.iter().map(|(name, n)| (&**name, *n)).collect();
    let fix = |&id: &ValueId| {
        let ty = graph.ty(id);
        let (Some(dtype), Some(known)) = (ty.dtype(), ty.dims()) else { return ty.clone() };
        let extent = |dim: &hetra::Dim| match dim {
            hetra::Dim::Known(extent) => *extent,
            hetra::Dim::Sym(name) => extents.get(&**name).copied().unwrap_or(1),
            hetra::Dim::Unknown => 1,
        };
        Type::tensor(dtype, &known.iter().map(extent).collect::<Vec<_>>())
    };
    graph.inputs.iter().map(fix).collect()
}

/// The CPU decides at run time what it writes in place; without it nothing is.
struct NoHints;

impl hetra_plan::Hints for NoHints {
    fn in_place(&self, _: NodeId, _: usize) -> bool {
        false
    }
}

fn examine(graph: &Graph, dims: &[(String, usize)]) -> Report {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    count(graph, &mut rows);
    let mut report = Report {
        parameters: 0,
        parameter_bytes: 0,
        macs: None,
        peak_bytes: None,
        unsupported: rows.iter().filter(|(_, r)| !r.supported).map(|(op, _)| op.clone()).collect(),
        open: None,
        rows,
    };
    weights(graph, &mut report);
    if !report.unsupported.is_empty() {
        report.open = Some("some operators are not known".to_string());
        return report;
    }
    let types = input_types(graph, dims);
    match hetra_plan::build(graph, &types, &[], &graph.outputs, &NoHints) {
        Ok(plan) => {
            let work: Vec<Work> = hetra_pass::work(graph, &plan.types, &plan.known);
            for (node, work) in graph.nodes.iter().zip(&work) {
                if let Some(row) = report.rows.get_mut(&node.op) {
                    row.macs += work.macs;
                }
            }
            report.macs = Some(work.iter().map(|work| work.macs).sum());
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

fn ports(graph: &Graph, ids: &[ValueId]) -> Vec<(String, String)> {
    ids.iter().map(|&id| (graph.value(id).name.clone(), graph.ty(id).to_string())).collect()
}

fn to_json(model: &hetra_onnx::Model, report: &Report, args: &Args) -> serde_json::Value {
    let graph = &model.graph;
    let port = |(name, ty): (String, String)| json!({"name": name, "type": ty});
    let ops: BTreeMap<_, _> = report
        .rows
        .iter()
        .map(|(op, row)| (op, json!({"count": row.count, "macs": row.macs})))
        .collect();
    json!({
        "model": args.model.display().to_string(),
        "producer": model.info.producer, "ir_version": model.info.ir_version,
        "opsets": model.info.opsets,
        "inputs": ports(graph, &graph.inputs).into_iter().map(port).collect::<Vec<_>>(),
        "outputs": ports(graph, &graph.outputs).into_iter().map(port).collect::<Vec<_>>(),
        "ops": ops, "parameters": report.parameters, "parameter_bytes": report.parameter_bytes,
        "macs": report.macs, "peak_bytes": report.peak_bytes,
        "unsupported": report.unsupported, "open": report.open,
    })
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
    println!("{}: {producer}IR {}, {opsets}\n", args.model.display(), info.ir_version);
    let mut table = show::table(&["", "name", "type"], &[]);
    for (side, ids) in [("input", &graph.inputs), ("output", &graph.outputs)] {
        for (name, ty) in ports(graph, ids) {
            table.add_row([side.to_string(), name, ty]);
        }
    }
    println!("{table}\n");
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
    println!("multiply-adds  {}", or_open(report.macs.map(show::count)));
    let peak = report.peak_bytes.map(|peak| format!("{} (modelled)", show::bytes(peak)));
    println!("peak memory    {}", or_open(peak));
    if let Some(reason) = &report.open {
        println!("unavailable    {reason}");
    }
    if !report.unsupported.is_empty() {
        println!("not supported  {}", report.unsupported.join(", "));
    }
}
