//! Runs the policies on the graphs of a folder with the DNN placement workloads of Tarnawski et
//! al. (2020), and prints what they come to as JSON. `cargo xtask bench place` runs it.
#![allow(clippy::print_stdout, reason = "its output is its product")]

use std::path::Path;
use std::time::Instant;

use hetra_place::{Budget, Device, Goal, Line, Problem, Task, Unit, Value, fault, measure, place};
use serde::Deserialize;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(rename = "maxSizePerFPGA")]
    size_max: f64,
    #[serde(rename = "maxFPGAs")]
    accelerators: usize,
    #[serde(rename = "maxCPUs")]
    cpus: usize,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    id: u32,
    supported_on_fpga: serde_json::Value,
    cpu_latency: f64,
    fpga_latency: f64,
    color_class: Option<u32>,
    size: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edge {
    source_id: u32,
    dest_id: u32,
    cost: f64,
}

/// Nodes in an order in which each stands behind those it depends on, as they stand else.
fn sorted(file: &File) -> Result<Vec<usize>> {
    let at = |id: u32| {
        let found = file.nodes.iter().position(|node| node.id == id);
        found.ok_or_else(|| format!("an edge names node {id}, which is not there"))
    };
    let mut waits = vec![0; file.nodes.len()];
    let mut readers = vec![Vec::new(); file.nodes.len()];
    for edge in &file.edges {
        let (from, to) = (at(edge.source_id)?, at(edge.dest_id)?);
        waits[to] += 1;
        readers[from].push(to);
    }
    let mut ready: std::collections::BTreeSet<usize> =
        (0..waits.len()).filter(|&node| waits[node] == 0).collect();
    let mut order = Vec::new();
    while let Some(node) = ready.pop_first() {
        order.push(node);
        for &reader in &readers[node] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    if order.len() != file.nodes.len() {
        return Err("the graph has a cycle".into());
    }
    Ok(order)
}

fn problem(file: &File, colours: bool) -> Result<Problem> {
    let order = sorted(file)?;
    let place = |id: u32| order.iter().position(|&node| file.nodes[node].id == id).expect("known");
    let line = Line { latency: 0.0, per_byte: 1.0 };
    let accelerator = |index: usize| Device {
        name: format!("acc{index}"),
        unit: 1 + index,
        memory_max: Some(file.size_max),
        into: line,
        out: line,
        copies_occupy: true,
        half_duplex: false,
        rate: 0.0,
    };
    let cpu = Device {
        name: "cpu".to_string(),
        unit: 0,
        memory_max: None,
        into: Line::default(),
        out: Line::default(),
        copies_occupy: true,
        half_duplex: false,
        rate: 0.0,
    };
    let unit = |name: String, slots: usize| Unit { name, slots };
    let mut units = vec![unit("cpu".to_string(), file.cpus)];
    units.extend((0..file.accelerators).map(|index| unit(format!("acc{index}"), 1)));
    let mut devices = vec![cpu];
    devices.extend((0..file.accelerators).map(accelerator));
    let task = |&index: &usize| {
        let node = &file.nodes[index];
        let yes = node.supported_on_fpga != false && node.supported_on_fpga != 0;
        let mut times = vec![Some(node.cpu_latency)];
        times.extend((0..file.accelerators).map(|_| yes.then_some(node.fpga_latency)));
        let group = node.color_class.filter(|_| colours);
        Task { name: node.id.to_string(), times, memory: node.size, group }
    };
    let mut values: Vec<Value> = Vec::new();
    for edge in &file.edges {
        let (from, to) = (place(edge.source_id), place(edge.dest_id));
        match values.iter_mut().find(|value| value.from == from && value.bytes == edge.cost) {
            Some(value) if value.to.contains(&to) => {}
            Some(value) => value.to.push(to),
            None => values.push(Value { from, to: vec![to], bytes: edge.cost }),
        }
    }
    Ok(Problem { units, devices, tasks: order.iter().map(task).collect(), values })
}

/// One run of all policies on one graph.
#[derive(serde::Serialize)]
struct Row {
    goal: &'static str,
    grain: &'static str,
    graph: String,
    tasks: usize,
    accelerators: usize,
    cpus: usize,
    groups: bool,
    seconds: f64,
    seed: u64,
    scores: std::collections::BTreeMap<&'static str, f64>,
    bound: f64,
    bound_by: &'static str,
}

fn row(
    path: &Path,
    goal: (&'static str, Goal),
    groups: bool,
    seconds: f64,
    seed: u64,
) -> Result<Row> {
    let text = std::fs::read_to_string(path)?;
    let file: File = serde_json::from_str(&text)?;
    let problem = problem(&file, groups)?;
    let begun = Instant::now();
    let spent = || begun.elapsed().as_secs_f64() / seconds;
    let budget = Budget { steps: u64::MAX, spent: Some(&spent), seed };
    let found = place(&problem, &goal.1, &[], &budget)?;
    for candidate in &found.candidates {
        assert_eq!(fault(&problem, &candidate.placement), None, "{}", candidate.policy);
        let metrics = measure(&problem, &candidate.placement);
        assert_eq!(goal.1.score(&metrics), candidate.score, "{}", candidate.policy);
    }
    let layers = path.components().any(|part| part.as_os_str() == "LayerGraphs");
    Ok(Row {
        goal: goal.0,
        grain: if layers { "layers" } else { "operators" },
        graph: path.file_stem().unwrap_or_default().display().to_string(),
        tasks: file.nodes.len(),
        accelerators: file.accelerators,
        cpus: file.cpus,
        groups,
        seconds,
        seed,
        scores: found.candidates.iter().map(|found| (found.policy, found.score)).collect(),
        bound: found.bound.score,
        bound_by: found.bound.by,
    })
}

/// Arguments: the folder; what the name of a run must hold; then seconds of search and seeds, as
/// pairs with a colon between them. Prints a line of JSON for each run.
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, filter, runs @ ..] = &args[..] else {
        return Err("wanted a folder, a filter and runs".into());
    };
    for goal in [("latency", Goal::LATENCY), ("throughput", Goal::THROUGHPUT)] {
        for grain in ["LayerGraphs", "OperatorGraphs"] {
            let folder = Path::new(folder).join(format!("{}-inputs", goal.0)).join(grain);
            let entries = std::fs::read_dir(&folder)
                .map_err(|error| format!("{}: {error}", folder.display()))?;
            let paths = entries.map(|entry| entry.map(|entry| entry.path()));
            let mut files: Vec<_> = paths.collect::<std::io::Result<_>>()?;
            files.sort();
            for path in files.iter().filter(|path| path.display().to_string().contains(filter)) {
                // Nodes of a colour belong together; latency graphs of layers have no two alike.
                let both = goal.0 == "latency" && grain == "OperatorGraphs";
                for groups in [true, false].into_iter().take(1 + usize::from(both)) {
                    for run in runs {
                        let (seconds, seed) = run.split_once(':').ok_or("wanted seconds:seed")?;
                        let seconds = seconds.parse()?;
                        let row = row(path, goal, groups, seconds, seed.parse()?)
                            .map_err(|error| format!("{}: {error}", path.display()))?;
                        println!("{}", serde_json::to_string(&row)?);
                    }
                }
            }
        }
    }
    Ok(())
}
