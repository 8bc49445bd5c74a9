//! What the parts of a model, and all of it, take on a device: what predictions are held against.

use std::path::Path;

use hetra_exec::Seat;
use hetra_ir::{Graph, Type};
use hetra_tensor::Value;
use hetra_tune::CostPart;

use crate::error::Error;
use crate::placing::accept::Sample;
use crate::placing::corpus::network;
use crate::placing::costs::{Costing, Ledger, part_key, parts_of};
use crate::placing::measure::Ready;
use crate::placing::tasks::tasks;
use crate::placing::trial::{PART, is_fixed};

/// A part of a model, or all of it.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// The label of its first node.
    pub first: String,
    /// How many nodes.
    pub nodes: usize,
    /// What it is known by: its operators and shapes.
    pub key: String,
    /// Its kernels, as a correction of costs sees them; none where shapes depend on a run.
    pub parts: Vec<CostPart>,
    /// Seconds of a run, the median; inputs and outputs are in the device's memory, where it has
    /// one of its own.
    pub seconds: f64,
}

/// All of a model, and its parts.
#[derive(Clone, Debug)]
pub struct Survey {
    /// All of it.
    pub whole: Surveyed,
    /// In about as many parts as were asked for; those that a device does not do are left out.
    pub tasks: Vec<Surveyed>,
}

/// Measures a model (as it was imported) and its parts on a device, for these inputs; `host` makes
/// what parts read.
///
/// # Errors
/// When the device does not run it.
pub fn survey(
    graph: &Graph,
    (host, seat): (&Seat, &Seat),
    inputs: &[Value],
    tasks_max: usize,
) -> Result<Survey, Error> {
    let graph = hetra_pass::portable(graph);
    let one = std::slice::from_ref(seat);
    let types: Vec<Type> = inputs.iter().map(Type::of).collect();
    let ready = Ready::whole(&graph, inputs.to_vec(), one)?;
    let whole = Surveyed {
        first: graph.name.clone(),
        nodes: graph.nodes.len(),
        key: part_key(&graph, &types),
        parts: parts_of(&graph, &types),
        seconds: f64::INFINITY,
    };
    let mut all = vec![(ready, whole)];
    let cut = tasks(&graph, &types, tasks_max, Vec::new())?;
    let given = graph.inputs.iter().copied().zip(inputs.iter().cloned());
    let mut env: std::collections::BTreeMap<_, _> =
        graph.constants.iter().map(|(id, value)| (*id, value.clone())).chain(given).collect();
    for task in &cut.all {
        let read = task.extract.inputs.iter().filter_map(|id| env.get(id).cloned());
        let inputs: Vec<Value> = read.collect();
        let own = Ready::whole(&task.extract.graph, inputs.clone(), std::slice::from_ref(host))?;
        env.extend(task.extract.outputs.iter().copied().zip(own.run()?));
        let types: Vec<Type> = inputs.iter().map(Type::of).collect();
        // What a device does not do by itself it may do within the whole.
        let Ok(ready) = Ready::whole(&task.extract.graph, inputs, one) else { continue };
        let surveyed = Surveyed {
            first: graph.node(task.nodes[0]).label(&graph),
            nodes: task.nodes.len(),
            key: part_key(&task.extract.graph, &types),
            parts: match is_fixed(task, &cut.types, &graph) {
                true => parts_of(&task.extract.graph, &types),
                false => Vec::new(),
            },
            seconds: f64::INFINITY,
        };
        all.push((ready, surveyed));
    }
    let mut tasks = timed(all, seat)?;
    let whole = tasks.remove(0);
    Ok(Survey { whole, tasks })
}

/// How often all are timed, one behind the other: what else the machine does for a while slows one
/// round of them, and the least counts.
const ROUNDS: usize = 3;

fn timed(mut all: Vec<(Ready, Surveyed)>, seat: &Seat) -> Result<Vec<Surveyed>, Error> {
    for _ in 0..ROUNDS {
        for (ready, surveyed) in &mut all {
            let sample = ready.sample_there(seat.device.as_ref(), PART)?;
            surveyed.seconds = surveyed.seconds.min(sample.median);
        }
    }
    Ok(all.into_iter().map(|(_, surveyed)| surveyed).collect())
}

/// Measures small networks of random sizes on a device, to learn from; `progress` is told how many
/// are done. Those that the device does not run are left out.
///
/// # Errors
/// When a network cannot be made, or a run fails.
pub fn practice(
    seat: &Seat,
    count: usize,
    seed: u64,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Surveyed>, Error> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut all = Vec::new();
    for begun in (0..count).step_by(TOGETHER) {
        // Some at a time: all of them would take the memory of all.
        let mut some = Vec::new();
        for _ in 0..TOGETHER.min(count - begun) {
            let graph = network(&mut rng)?;
            some.extend(practised(&graph, seat).ok());
        }
        all.extend(timed(some, seat)?);
        progress((begun + TOGETHER).min(count));
    }
    Ok(all)
}

/// Networks that are there at one time.
const TOGETHER: usize = 16;

fn practised(graph: &Graph, seat: &Seat) -> Result<(Ready, Surveyed), Error> {
    let types: Vec<Type> = graph.inputs.iter().map(|&id| graph.ty(id).clone()).collect();
    let inputs = crate::calibrate::inputs(graph);
    let surveyed = Surveyed {
        first: graph.name.clone(),
        nodes: graph.nodes.len(),
        key: part_key(graph, &types),
        parts: parts_of(graph, &types),
        seconds: f64::INFINITY,
    };
    Ok((Ready::whole(graph, inputs, std::slice::from_ref(seat))?, surveyed))
}

/// Keeps what was measured in a store, to predict from.
///
/// # Errors
/// When the store cannot be used.
pub fn keep_costs(store: &Path, seat: &Seat, all: Vec<Surveyed>) -> Result<(), Error> {
    let seats = std::slice::from_ref(seat);
    let (ledger, fault) = Ledger::open(Some(store), Costing::Measure, seats);
    if let Some(fault) = fault {
        return Err(fault.into());
    }
    for Surveyed { key, parts, seconds, .. } in all {
        let sample = Sample { lower: seconds, median: seconds, upper: seconds };
        ledger.keep(0, &key, parts, &sample)?;
    }
    Ok(())
}
