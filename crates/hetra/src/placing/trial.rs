//! Runs the model: on each device, in tasks, and as a mix beside the best device.

use std::collections::BTreeMap;
use std::time::Duration;

use hetra_device::Wire;
use hetra_tensor::Value;

use crate::error::Error;
use crate::placing::accept::{Certificate, compare};
use crate::placing::file::Considered;
use crate::placing::gate;
use crate::placing::gauge::SINGLE_TOGETHER;
use crate::placing::goal::Figures;
use crate::placing::measure::Ready;
use crate::placing::planner::{Cost, MIX, Planner, finite};
use crate::placing::tasks::Tasks;

/// A device that takes so many times longer for the whole model than the best one is not tried on
/// its parts.
const HOPELESS: f64 = 20.0;
/// Of what a part took with its copies so much is its own at least.
const OWN_MIN: f64 = 0.05;
/// A second single device is measured beside the best one where it is at most so much worse.
const NEAR: f64 = 1.15;
/// How long the whole model is run on a device, and a task.
const WHOLE: Duration = Duration::from_millis(300);
const PART: Duration = Duration::from_millis(25);

/// The whole model on one device.
pub(super) struct Single {
    pub(super) device: usize,
    ready: Ready,
    pub(super) figures: Figures,
    /// By the goal.
    pub(super) score: f64,
    /// Watts beside those of idling, while it works; 0 where they are not known.
    watts: f64,
}

impl Planner<'_> {
    /// What the host gives in f32, which all others are held to.
    pub(super) fn wanted(&self) -> Result<Vec<Value>, Error> {
        let host = std::slice::from_ref(&self.devices[0]);
        Ready::whole(&self.graph, self.inputs.clone(), host)?.run()
    }

    /// The whole model on each device that runs it and gives what the host gives.
    pub(super) fn singles(&mut self, wanted: &[Value]) -> Result<Vec<Single>, Error> {
        let mut singles = Vec::new();
        for device in 0..self.devices.len() {
            let id = self.id(device).to_string();
            self.say(format!("the whole model on {id}"));
            match self.single(device, wanted) {
                Ok((single, error)) => {
                    self.considered.push(Considered {
                        name: id.clone(),
                        policy: None,
                        predicted: None,
                        measured: None,
                        figures: Some(single.figures),
                        modelled: self.is_modelled(&[device]),
                        error: Some(error).filter(|error| error.is_finite()),
                    });
                    match error > self.options.max_error {
                        true => self.refuse(&id, self.differs(error)),
                        false => singles.push(single),
                    }
                }
                Err(error) => self.refuse(&id, error.to_string()),
            }
        }
        Ok(singles)
    }

    /// The whole model on a device, and its error. Its score is for those to say that know what the
    /// host takes.
    fn single(&self, device: usize, wanted: &[Value]) -> Result<(Single, f64), Error> {
        let one = std::slice::from_ref(&self.devices[device]);
        let ready = Ready::whole(&self.graph, self.inputs.clone(), one)?;
        let error = gate::error(wanted, &ready.run()?);
        let alone = ready.sample(WHOLE)?.median;
        let figures = self.gauge.figures(&ready, SINGLE_TOGETHER, alone)?;
        let spent = ready.spent()?;
        let idle_max = self.gauge.rates[device].watts;
        let busy = spent.busy_s.get(self.id(device)).copied().unwrap_or(spent.total_s);
        let watts = match (spent.joules.get(self.id(device)), idle_max) {
            (Some(joules), Some((idle, _))) if busy > 0.0 => (joules / busy - idle).max(0.0),
            (_, Some((idle, max))) => max - idle,
            _ => 0.0,
        };
        Ok((Single { device, ready, figures, score: f64::INFINITY, watts }, error))
    }

    /// Watts of each device while it works, beside those of idling.
    pub(super) fn watts(&self, singles: &[Single]) -> Vec<f64> {
        let of = |device: usize| {
            let single = singles.iter().find(|single| single.device == device);
            let rated = self.gauge.rates[device].watts.map_or(0.0, |(idle, max)| max - idle);
            single.map_or(rated, |single| single.watts)
        };
        (0..self.devices.len()).map(of).collect()
    }

    pub(super) fn differs(&self, error: f64) -> String {
        let most = self.options.max_error;
        format!(
            "its outputs differ from the processor's in f32 by {error:.2e} of the largest; {most:.0e} is allowed"
        )
    }

    /// Runs the two best single devices in turn, where they are near each other, and puts the
    /// better one first.
    pub(super) fn closer(&self, singles: &mut [Single], host: &Figures) -> Result<(), Error> {
        let [first, second, ..] = &mut singles[..] else { return Ok(()) };
        if second.score > first.score * NEAR {
            return Ok(());
        }
        let score = |single: &Single| {
            let alone = single.figures.latency_s;
            self.gauge.score(&single.ready, SINGLE_TOGETHER, alone, host)
        };
        let pairs = compare(
            (self.id(second.device), &mut || score(second)),
            (self.id(first.device), &mut || score(first)),
            self.options.compare / 2,
        )?;
        first.score = pairs.of_single.median;
        second.score = pairs.of_plan.median;
        if pairs.ratio.median < 1.0 {
            singles.swap(0, 1);
        }
        Ok(())
    }

    /// What each task takes on each device: `costs[task][device]`.
    pub(super) fn costs(
        &mut self,
        tasks: &Tasks,
        singles: &[Single],
        lines: &[(Wire, Wire)],
    ) -> Result<Vec<Vec<Cost>>, Error> {
        self.of += tasks.all.len() * self.devices.len();
        // What is slow may be frugal or cheap.
        let only_fast = self.options.goal.is_time() && !self.options.frontier;
        let seconds = |single: &Single| single.figures.latency_s;
        let best = singles.iter().map(seconds).fold(f64::INFINITY, f64::min);
        let mut env = self.given();
        let mut costs = Vec::new();
        for task in &tasks.all {
            let inputs: Vec<Value> =
                task.extract.inputs.iter().filter_map(|id| env.get(id).cloned()).collect();
            let host = std::slice::from_ref(&self.devices[0]);
            let own = Ready::whole(&task.extract.graph, inputs.clone(), host)?;
            let wanted = own.run()?;
            env.extend(task.extract.outputs.iter().copied().zip(wanted.iter().cloned()));
            let mut row = Vec::new();
            for (device, line) in lines.iter().enumerate() {
                let id = self.id(device).to_string();
                let first = self.graph.node(task.nodes[0]).label(&self.graph);
                self.say(format!("{first} and {} more on {id}", task.nodes.len() - 1));
                let may = |device: usize| {
                    task.nodes.iter().all(|node| self.rules.allows(node.index(), device))
                };
                let choice = (0..lines.len()).filter(|&device| may(device)).count() > 1;
                let whole = singles.iter().find(|single| single.device == device);
                let times = whole.map_or(0.0, |single| seconds(single) / best);
                row.push(if !may(device) {
                    Err("it is kept away from there".to_string())
                } else if times > HOPELESS && device > 0 && choice && only_fast {
                    Err(format!("it takes {times:.0} times as long for the whole model"))
                } else {
                    self.cost(task, device, &inputs, &wanted, line, &tasks.bytes)
                });
            }
            costs.push(row);
        }
        Ok(costs)
    }

    /// The inputs and the defaults of the graph.
    fn given(&self) -> BTreeMap<hetra_ir::ValueId, Value> {
        let inputs = self.graph.inputs.iter().copied().zip(self.inputs.iter().cloned());
        self.graph.constants.iter().map(|(id, value)| (*id, value.clone())).chain(inputs).collect()
    }

    fn cost(
        &self,
        task: &crate::placing::tasks::Task,
        device: usize,
        inputs: &[Value],
        wanted: &[Value],
        (into, out): &(Wire, Wire),
        bytes: &[u64],
    ) -> Cost {
        let one = std::slice::from_ref(&self.devices[device]);
        let text = |error: Error| error.to_string();
        let ready = Ready::whole(&task.extract.graph, inputs.to_vec(), one).map_err(text)?;
        let error = gate::error(wanted, &ready.run().map_err(text)?);
        if error > self.options.max_error {
            return Err(self.differs(error));
        }
        if ready.is_simulated() {
            return Ok(ready.spent().map_err(text)?.busy_s.values().sum());
        }
        let seconds = ready.sample(PART).map_err(text)?.median;
        // It ran with its copies; those are counted where they are made. On processors of its own
        // it was handed over, too.
        let seat = &self.devices[device];
        let held = seat.device.launcher().is_some();
        let handed = if seat.cores.is_empty() { 0.0 } else { into.latency_s + out.latency_s };
        let moved = |ids: &[hetra_ir::ValueId], line: &Wire| -> f64 {
            let copy = |id: &hetra_ir::ValueId| line.seconds(bytes[id.index()] as f64);
            if held { ids.iter().map(copy).sum() } else { 0.0 }
        };
        let copies = moved(&task.extract.inputs, into) + moved(&task.extract.outputs, out);
        let apart = if held { copies } else { handed };
        Ok((seconds - apart).max(OWN_MIN * seconds))
    }

    /// Runs the mix beside the best single device; whether the mix is taken, and how it went.
    pub(super) fn compare(
        &mut self,
        choice: &[usize],
        single: Option<&Single>,
        wanted: &[Value],
        host: &Figures,
    ) -> Result<(bool, Option<Certificate>), Error> {
        let ready = Ready::placed(&self.graph, choice, self.inputs.clone(), self.devices)?;
        let error = gate::error(wanted, &ready.run()?);
        let together = self.together(ready.parts());
        let alone = ready.sample(Duration::ZERO)?.median;
        let figures = self.gauge.figures(&ready, together, alone)?;
        let score = self.options.goal.score(&figures, host);
        if let Some(mix) = self.considered.iter_mut().find(|row| row.name == MIX) {
            let error = Some(error).filter(|error| error.is_finite());
            (mix.error, mix.figures, mix.measured) = (error, Some(figures), finite(score));
        }
        if error > self.options.max_error {
            let reason = self.differs(error);
            self.refuse(MIX, reason);
            return Ok((false, None));
        }
        let broken = self.options.bounds.broken(&figures, self.options.goal.overlaps());
        if !broken.is_empty() {
            self.refuse(MIX, broken.join(", "));
            return Ok((false, None));
        }
        let Some(single) = single else { return Ok((true, None)) };
        let id = self.id(single.device).to_string();
        self.say(format!("the mix beside {id}"));
        let gauge = &self.gauge;
        let mut certificate = compare(
            (MIX, &mut || gauge.score(&ready, together, alone, host)),
            (&id, &mut || {
                let alone = single.figures.latency_s;
                gauge.score(&single.ready, together.max(SINGLE_TOGETHER), alone, host)
            }),
            self.options.compare,
        )?;
        certificate.unit = self.options.goal.unit().to_string();
        certificate.modelled = self.is_modelled(choice) || self.is_modelled(&[single.device]);
        for (name, score) in
            [(MIX, certificate.of_plan.median), (id.as_str(), certificate.of_single.median)]
        {
            let known = self.considered.iter_mut().find(|row| row.name == name);
            known.into_iter().for_each(|known| known.measured = finite(score));
        }
        let won = certificate.winner == MIX;
        if !won {
            let ratio = certificate.ratio.median;
            let what = if self.options.goal.is_time() { "takes" } else { "comes to" };
            let how = if certificate.modelled { "modelled" } else { "measured" };
            let single = &certificate.single;
            let reason = format!("{how} beside {single} it {what} {ratio:.3} times as much");
            self.refuse(MIX, reason);
        }
        Ok((won, Some(certificate)))
    }
}
