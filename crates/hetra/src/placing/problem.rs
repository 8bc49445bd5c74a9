//! The tasks of a model on its devices, as policies see them.

use std::collections::BTreeMap;

use hetra_device::Wire;
use hetra_exec::Seat;
use hetra_machine::NUMBERS;
use hetra_place::{Line, Problem};

use crate::error::Error;
use crate::placing::measure::{copying, handing_over};
use crate::placing::planner::{Cost, Planner};
use crate::placing::tasks::Tasks;
use crate::placing::units::units;

impl Planner<'_> {
    /// What copies take, what it takes to hand a run over to another device and back, and what a
    /// part takes there beside its work.
    pub(super) fn lines(&self, seams: &[f64]) -> Result<Vec<(Wire, Wire)>, Error> {
        let line = |(index, seat): (usize, &Seat)| {
            // A device that fails at it fails at its tasks, too.
            let (mut into, mut out) = copying(seat.device.as_ref()).unwrap_or_default();
            if index > 0 && seat.device.info().simulated.is_none() {
                // What is not to be had by itself is found out in the model. Small copies are in
                // it, and what another part of the host takes.
                if let Ok(handed) = handing_over(&self.devices[0], seat) {
                    let each = handed.max((into.latency_s + out.latency_s) / 2.0);
                    (into.latency_s, out.latency_s) = (each, each);
                }
                into.latency_s += seams[index];
            }
            Ok((into, out))
        };
        self.devices.iter().enumerate().map(line).collect()
    }

    /// The tasks with times in seconds; before them one that gives the inputs, behind them one that
    /// takes the outputs, both on the host.
    pub(super) fn problem(
        &self,
        tasks: &Tasks,
        costs: &[Vec<Cost>],
        lines: &[(Wire, Wire)],
        watts: &[f64],
    ) -> Problem {
        let (units, unit) = units(self.devices);
        let line = |copying: &Wire| Line { latency: copying.latency_s, per_byte: copying.byte_s };
        let device = |(index, seat): (usize, &Seat)| hetra_place::Device {
            name: seat.device.info().id.clone(),
            unit: unit[index],
            memory_max: seat
                .device
                .info()
                .memory_bytes
                .filter(|_| index > 0)
                .map(|bytes| bytes as f64 * held(seat)),
            into: line(&lines[index].0),
            out: line(&lines[index].1),
            copies_occupy: seat.device.info().simulated.is_none(),
            half_duplex: seat.device.info().simulated.is_some_and(|wires| wires.half_duplex),
            rate: watts[index],
        };
        let devices = self.devices.iter().enumerate().map(device).collect();
        let border = |name: &str| hetra_place::Task {
            name: name.to_string(),
            times: (0..self.devices.len()).map(|device| (device == 0).then_some(0.0)).collect(),
            memory: 0.0,
            group: None,
        };
        let mut all = vec![border("inputs")];
        for (task, costs) in tasks.all.iter().zip(costs) {
            let constants = task.extract.graph.constants.values();
            all.push(hetra_place::Task {
                name: self.graph.node(task.nodes[0]).label(&self.graph),
                times: costs.iter().map(|cost| cost.as_ref().ok().copied()).collect(),
                memory: constants.map(|value| value.byte_len() as f64).sum(),
                group: None,
            });
        }
        all.push(border("outputs"));
        Problem { units, devices, values: self.values(tasks, all.len() - 1), tasks: all }
    }

    /// Who reads what: inputs are made by the first task, outputs are read by the last one.
    fn values(&self, tasks: &Tasks, last: usize) -> Vec<hetra_place::Value> {
        let mut maker: BTreeMap<hetra_ir::ValueId, usize> =
            self.graph.inputs.iter().map(|&id| (id, 0)).collect();
        for (index, task) in tasks.all.iter().enumerate() {
            maker.extend(task.extract.outputs.iter().map(|&id| (id, index + 1)));
        }
        let value = |(&id, &from): (&hetra_ir::ValueId, &usize)| {
            let reads = |(_, task): &(usize, &crate::placing::tasks::Task)| {
                task.extract.inputs.contains(&id)
            };
            let readers = tasks.all.iter().enumerate().filter(reads).map(|(at, _)| at + 1);
            let mut to: Vec<usize> = readers.collect();
            to.extend(self.graph.outputs.contains(&id).then_some(last));
            let bytes = tasks.bytes[id.index()] as f64;
            hetra_place::Value { from, to, bytes }
        };
        maker.iter().map(value).collect()
    }
}

/// How many bytes of our weights a device holds in one of its own: a described one holds floats in
/// the bits of the number that it multiplies.
fn held(seat: &Seat) -> f64 {
    let info = seat.device.info();
    let number = info.dtypes.first().filter(|_| info.simulated.is_some());
    let bits = number.and_then(|number| NUMBERS.iter().find(|(name, _)| name == number));
    bits.map_or(1.0, |(_, bits)| 32.0 / f64::from(*bits))
}
