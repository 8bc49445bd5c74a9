//! How a run would go, of whose devices some are only described: steps one after the other on each
//! device, each when what it reads is there, copies beside what is computed.

use std::collections::BTreeMap;

use hetra_device::{DeviceInfo, Wires};
use hetra_ir::{NodeId, ValueId};
use hetra_plan::Plan;
use hetra_tensor::element_count;
use serde::Serialize;

use crate::engine::Engine;
use crate::trace::StepTime;

/// What comes of a run of whose devices some are only described: modelled, not measured, but for
/// the steps of devices that are there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulated {
    /// Seconds from the inputs to the last output, both in the host's memory.
    pub total_s: f64,
    /// Seconds that what is busiest is busy, a device or one direction of a link: the time between
    /// two results of runs that overlap is no less.
    pub busiest_s: f64,
    /// Joules of each device that is described and whose power is known, for its steps.
    pub joules: BTreeMap<String, f64>,
    /// Joules of copies over the link of each device, where a description says what they take.
    pub link_joules: BTreeMap<String, f64>,
    /// Seconds that each device works.
    pub busy_s: BTreeMap<String, f64>,
}

/// Where a value is, and from when on.
#[derive(Clone, Copy)]
struct At<'a> {
    device: &'a str,
    seconds: f64,
}

/// Sets the times of steps to those that they would have; nothing where all devices are there.
pub(crate) fn simulate(engine: &Engine, plan: &Plan, steps: &mut [StepTime]) -> Option<Simulated> {
    if !engine.is_simulated() {
        return None;
    }
    // A described device alone is no host: what it reads and gives is in a host's memory all the
    // same.
    let own = engine.device.info();
    let host = if own.simulated.is_some() { "" } else { own.id.as_str() };
    let wires = |id: &str| {
        let infos = engine.lanes.iter().flatten().map(|lane| lane.device.info());
        let info: Option<&DeviceInfo> = infos.into_iter().find(|info| info.id == id);
        info.and_then(|info| info.simulated).unwrap_or_default()
    };
    let mut links = Links {
        wires: &wires,
        host,
        taken: BTreeMap::new(),
        copied: BTreeMap::new(),
        joules: BTreeMap::new(),
    };
    let graph = &engine.graph;
    let bytes = |id: ValueId| {
        let ty = &plan.types[id.index()];
        let elements = ty.known_shape().and_then(|shape| element_count(&shape).ok());
        elements.zip(ty.dtype()).and_then(|(count, dtype)| dtype.bytes(count)).unwrap_or(0) as f64
    };
    let mut values: BTreeMap<_, At<'_>> =
        graph.inputs.iter().map(|&id| (id, At { device: host, seconds: 0.0 })).collect();
    let mut free: BTreeMap<&str, f64> = BTreeMap::new();
    let (mut busy, mut joules) = (BTreeMap::<String, f64>::new(), BTreeMap::new());
    for step in steps {
        let node = graph.node(NodeId(step.index as u32));
        // By its own device, or the host in the place of it.
        let device = engine.lanes.get(step.index).and_then(Option::as_ref);
        let device = device.map_or(host, |lane| lane.device.info().id.as_str());
        let device = if step.device == host { host } else { device };
        let there = node.uses().filter_map(|id| Some((id, *values.get(&id)?)));
        let there: Vec<(ValueId, At<'_>)> = there.collect();
        let there = there.into_iter().map(|(id, at)| links.copy(id, at, device, bytes(id)));
        let ready = there.fold(free.get(device).copied().unwrap_or(0.0), f64::max);
        let seconds = step.modelled.map_or(step.duration_ns as f64 * 1e-9, |m| m.seconds);
        *busy.entry(device.to_string()).or_default() += seconds;
        if let Some(spent) = step.modelled.and_then(|modelled| modelled.joules) {
            *joules.entry(device.to_string()).or_default() += spent;
        }
        free.insert(device, ready + seconds);
        values.extend(node.defs().map(|id| (id, At { device, seconds: ready + seconds })));
        (step.start_ns, step.duration_ns) = ((ready * 1e9) as u64, (seconds * 1e9) as u64);
    }
    let outputs = plan.outputs.iter().filter_map(|&id| Some((id, *values.get(&id)?)));
    let outputs = outputs.map(|(id, at)| links.copy(id, at, host, bytes(id)));
    let total_s = outputs.fold(0.0, f64::max);
    let copies = links.taken.values().map(|(_, all)| *all);
    let busiest_s = busy.values().copied().chain(copies).fold(0.0, f64::max);
    Some(Simulated { total_s, busiest_s, joules, link_joules: links.joules, busy_s: busy })
}

/// The links of devices to the host's memory, each direction by itself, or both as one: copies wait
/// for each other there.
struct Links<'a> {
    wires: &'a dyn Fn(&str) -> Wires,
    host: &'a str,
    /// Until when a direction of a device's link is taken, and for how long in all.
    taken: BTreeMap<(String, bool), (f64, f64)>,
    /// When a value is in the memory of a device that did not make it.
    copied: BTreeMap<(ValueId, String), f64>,
    /// Of the copies over each device's link.
    joules: BTreeMap<String, f64>,
}

impl Links<'_> {
    /// When a value is in the memory of a device.
    fn copy(&mut self, id: ValueId, from: At<'_>, to: &str, bytes: f64) -> f64 {
        if from.device == to {
            return from.seconds;
        }
        if let Some(&seconds) = self.copied.get(&(id, to.to_string())) {
            return seconds;
        }
        let mut at = from.seconds;
        if from.device != self.host {
            at = match self.copied.get(&(id, self.host.to_string())) {
                Some(&seconds) => seconds,
                None => self.take(from.device, false, at, bytes),
            };
            self.copied.insert((id, self.host.to_string()), at);
        }
        if to != self.host {
            at = self.take(to, true, at, bytes);
            self.copied.insert((id, to.to_string()), at);
        }
        at
    }

    /// When a copy is done that may begin at `from`.
    fn take(&mut self, device: &str, into: bool, from: f64, bytes: f64) -> f64 {
        let wires = (self.wires)(device);
        let seconds = if into { wires.into } else { wires.out }.seconds(bytes);
        if wires.byte_j > 0.0 {
            *self.joules.entry(device.to_string()).or_default() += bytes * wires.byte_j;
        }
        let direction = into || wires.half_duplex;
        let (until, all) = self.taken.entry((device.to_string(), direction)).or_default();
        *until = until.max(from) + seconds;
        *all += seconds;
        *until
    }
}
