//! Sessions of placed graphs.

use std::sync::Arc;
use std::time::Duration;

use hetra_device::{Device, DeviceInfo, HostThreads};
use hetra_exec::{Engine, Seat};
use hetra_ir::{Graph, Node};
use hetra_ops::{PART, PART_BODY, PART_DEVICE};
use hetra_pass::{Options, PART_SPARE, Report};

use crate::builder::claim;
use crate::error::Error;
use crate::placing::file::{PlanDevice, PlanError, PlanFile};
use crate::placing::fingerprint;
use crate::tuned::Tuned;

/// Compiles a graph for several devices, `choice` being that of each node. What each device runs by
/// our kernels is optimised for it; other runtimes get their parts as they are. On one device of
/// ours, without processors of its own, there is no part, but the graph itself.
pub(crate) fn compile(
    graph: &Graph,
    choice: &[usize],
    seats: &[Seat],
) -> Result<(Engine, Report), Error> {
    let first = choice.first().copied().unwrap_or(0);
    let Seat { device, cores } = &seats[first];
    let one = choice.iter().all(|&seat| seat == first);
    // Another device than the host's gets a part, which the host does where that one fails.
    if one && first == 0 && cores.is_empty() && !device.info().takes_parts {
        let (optimised, report) = optimised(graph, device.as_ref());
        return Ok((Engine::compile(Arc::new(optimised), device.clone())?, report));
    }
    let ids: Vec<&str> = seats.iter().map(|seat| seat.device.info().id.as_str()).collect();
    let mut placed = hetra_pass::cut(graph, choice, &ids);
    let mut report = Report::default();
    for node in placed.nodes.iter_mut().filter(|node| node.op == PART) {
        let id = node.attrs.str_or(PART_DEVICE, "").unwrap_or_default();
        let device = seats.iter().map(|seat| &seat.device).find(|device| device.info().id == id);
        // The host does what another device fails at.
        if id != ids[0]
            && let Ok(body) = node.attrs.graph(PART_BODY)
        {
            let spare = optimised(body, seats[0].device.as_ref()).0;
            node.attrs.set(PART_SPARE, Arc::new(spare));
        }
        let Some(device) = device.filter(|device| !device.info().takes_parts) else { continue };
        let Ok(body) = node.attrs.graph(PART_BODY) else { continue };
        let (optimised, of_part) = optimised(body, device.as_ref());
        report = of_part;
        node.attrs.set(PART_BODY, Arc::new(optimised));
    }
    Ok((Engine::compile_on(Arc::new(placed), seats.to_vec())?, report))
}

fn optimised(graph: &Graph, device: &dyn Device) -> (Graph, Report) {
    let claims = |node: &Node, graph: &Graph| claim(device, node, graph);
    hetra_pass::optimise(graph, &Options { off: Default::default(), claims: &claims })
}

/// A device is given up on that takes so many times as long for a part as the whole plan should,
/// and not before so long a time.
const PATIENCE: f64 = 20.0;
const PATIENCE_MIN: Duration = Duration::from_secs(1);
const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// A plan of runs that are shorter than this is not watched for devices that hang: to hand it to
/// another thread would take longer than it saves.
const WATCHED_MIN_S: f64 = 1e-3;

/// How long a device may take for a part of a plan; without limit where runs are short, or where
/// inputs may be larger than those that it was measured with.
pub(crate) fn patience(plan: &PlanFile, graph: &Graph) -> Option<Duration> {
    let chosen = plan.considered.iter().find(|row| row.name == plan.chosen);
    // What a described device takes is no time of the host, which computes for it.
    if chosen.is_some_and(|row| row.modelled) {
        return None;
    }
    let figures = chosen.and_then(|row| row.figures).unwrap_or_default();
    let seconds = figures.latency_s.max(plan.predicted_s);
    let fixed = graph.inputs.iter().all(|&id| graph.ty(id).known_shape().is_some());
    if !fixed || seconds < WATCHED_MIN_S {
        return None;
    }
    let limit = Duration::try_from_secs_f64(seconds * PATIENCE).unwrap_or(PATIENCE_MAX);
    Some(limit.clamp(PATIENCE_MIN, PATIENCE_MAX))
}

/// Devices that are open already, as a plan wants them.
///
/// # Errors
/// One that is missing, or not what it was.
pub(crate) fn seated(plan: &PlanFile, seats: Vec<Seat>) -> Result<Vec<Seat>, Error> {
    let find = |device: &PlanDevice| {
        let seat = seats.iter().find(|seat| seat.device.info().id == device.id);
        let seat = seat.ok_or_else(|| {
            PlanError::Devices(format!("`{}` is not among those that are given", device.id))
        })?;
        check(device, seat.device.info())?;
        Ok(Seat { device: seat.device.clone(), cores: device.cores.clone() })
    };
    checked(plan.devices.iter().map(find).collect::<Result<_, Error>>()?)
}

/// # Errors
/// Seats of which one is there twice, or the first of which is no host.
fn checked(seats: Vec<Seat>) -> Result<Vec<Seat>, Error> {
    for (index, seat) in seats.iter().enumerate() {
        let id = &seat.device.info().id;
        if seats[..index].iter().any(|other| other.device.info().id == *id) {
            return Err(PlanError::Devices(format!("`{id}` stands there twice")).into());
        }
    }
    // The first runs what no part has, and what other devices fail at.
    match seats.first() {
        Some(host) if !host.device.info().takes_parts => Ok(seats),
        Some(_) => Err(PlanError::Devices("the first takes parts only".to_string()).into()),
        None => Err(PlanError::Devices("there is none".to_string()).into()),
    }
}

/// Opens the devices of a plan, if they are what they were.
pub(crate) fn open(plan: &PlanFile, pin: bool) -> Result<Vec<Seat>, Error> {
    let mut opened: Vec<Seat> = Vec::new();
    for (index, device) in plan.devices.iter().enumerate() {
        if plan.devices[..index].iter().any(|other| other.id == device.id) {
            return Err(PlanError::Devices(format!("`{}` stands there twice", device.id)).into());
        }
        let count = (device.threads > 0).then_some(device.threads);
        let threads = HostThreads { count, pin };
        let found = crate::open_by(&device.id, threads, &Tuned::Found)?.device;
        check(device, found.info())?;
        opened.push(Seat { device: found, cores: device.cores.clone() });
    }
    checked(opened)
}

fn check(was: &PlanDevice, is: &DeviceInfo) -> Result<(), PlanError> {
    let text = |name: &str, version: &str| format!("{name}, version {version}");
    if (was.name.as_str(), was.version.as_str()) != (is.name.as_str(), is.version.as_str()) {
        let (was_text, is) = (text(&was.name, &was.version), text(&is.name, &is.version));
        return Err(PlanError::Device { device: was.id.clone(), was: was_text, is });
    }
    Ok(())
}

/// Checks that a plan is one for this graph, and gives the device of each node.
pub(crate) fn choice(plan: &PlanFile, graph: &Graph) -> Result<Vec<usize>, PlanError> {
    let wanted = fingerprint::of(graph);
    if plan.model != wanted {
        return Err(PlanError::Model { got: plan.model.clone(), wanted });
    }
    plan.choice(graph.nodes.len())
}
