//! Runs the model: on each device, in tasks, and as a mix beside the best device.

use std::collections::BTreeMap;
use std::time::Duration;

use hetra_device::Wire;
use hetra_ir::Type;
use hetra_tensor::Value;
use hetra_tune::CostPart;

use crate::error::Error;
use crate::placing::accept::{Certificate, compare};
use crate::placing::costs::{CostSource, Costing, part_key, parts_of};
use crate::placing::file::Considered;
use crate::placing::gate;
use crate::placing::gauge::SINGLE_TOGETHER;
use crate::placing::goal::Figures;
use crate::placing::measure::Ready;
use crate::placing::planner::{Cost, MIX, Planner, finite};
use crate::placing::tasks::{Task, Tasks};

/// A device that takes so many times longer for the whole model than the best one is not tried on
/// its parts.
const HOPELESS: f64 = 20.0;
/// Of what a part took with its copies so much is its own at least.
pub(super) const OWN_MIN: f64 = 0.05;
/// A second single device is measured beside the best one where it is at most so much worse.
const NEAR: f64 = 1.15;
/// How long the whole model is run on a device, and a task.
pub(super) const WHOLE: Duration = Duration::from_millis(300);
pub(super) const PART: Duration = Duration::from_millis(25);

/// Costs of tasks by device, and where they come from.
type Costs = (Vec<Vec<Cost>>, Vec<Vec<CostSource>>);

/// What is known of a task on a device before it is run there.
enum Found {
    /// What it takes.
    Known(f64, CostSource),
    /// Why it is not done there.
    Left(String),
    /// Nothing: it is measured.
    Open,
}

/// What a task is known by, and its kernels.
struct TaskForm {
    key: String,
    parts: Vec<CostPart>,
}

impl TaskForm {
    /// None where what it does depends on more than the types of its inputs.
    fn of(task: &Task, types: &[Type], graph: &hetra_ir::Graph) -> Option<TaskForm> {
        if !is_fixed(task, types, graph) {
            return None;
        }
        let inputs: Vec<Type> =
            task.extract.inputs.iter().map(|id| types[id.index()].clone()).collect();
        let graph = &task.extract.graph;
        Some(TaskForm { key: part_key(graph, &inputs), parts: parts_of(graph, &inputs) })
    }
}

/// Whether all shapes in a task are known before a run, and no node has bodies that run as often as
/// values say.
pub(super) fn is_fixed(task: &Task, types: &[Type], graph: &hetra_ir::Graph) -> bool {
    task.nodes.iter().all(|&node| {
        let node = graph.node(node);
        let known = |id: hetra_ir::ValueId| types[id.index()].known_shape().is_some();
        let bodies =
            hetra_ops::find(&node.op).is_some_and(|def| def.kind == hetra_ops::Kind::Control);
        !bodies && node.uses().chain(node.defs()).all(known)
    })
}

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

    /// What each task takes on each device, `costs[task][device]`, and where that comes from.
    pub(super) fn costs(
        &mut self,
        tasks: &Tasks,
        singles: &[Single],
        lines: &[(Wire, Wire)],
    ) -> Result<Costs, Error> {
        // What a task is known by is of use only where something is kept.
        let keeps = (0..lines.len()).any(|device| self.ledger.keeps(device));
        let form = |task: &Task| {
            let form = || TaskForm::of(task, &tasks.types, &self.graph);
            keeps.then(form).flatten()
        };
        let forms: Vec<Option<TaskForm>> = tasks.all.iter().map(form).collect();
        if self.options.costing == Costing::Predict {
            self.say("learns what parts take".to_string());
            self.of += 1;
        }
        let found = self.known(tasks, &forms, singles);
        let is_run = |device: usize, found: &Found| match found {
            Found::Open => true,
            // Whether it does it, and rightly, is found out each time.
            Found::Known(..) => device > 0,
            Found::Left(_) => false,
        };
        let runs = |row: &Vec<Found>| row.iter().enumerate().any(|(at, found)| is_run(at, found));
        self.of += found.iter().flatten().filter(|found| matches!(found, Found::Open)).count();
        let (mut env, mut costs, mut sources) = (self.given(), Vec::new(), Vec::new());
        // What comes behind the last one that is run is not needed by others.
        let last = found.iter().rposition(runs);
        for (index, (task, row)) in tasks.all.iter().zip(found).enumerate() {
            let ran = match last.is_some_and(|last| index <= last) {
                true => Some(self.ran(task, &mut env)?),
                false => None,
            };
            let (mut own, mut from) = (Vec::new(), Vec::new());
            for (device, found) in row.into_iter().enumerate() {
                let at = (device, &lines[device]);
                let form = forms[index].as_ref();
                let (cost, source) = self.found(task, found, at, ran.as_ref(), (form, tasks));
                own.push(cost);
                from.push(source);
            }
            costs.push(own);
            sources.push(from);
        }
        Ok((costs, sources))
    }

    /// What a task takes on a device: as it is known, or by running it.
    fn found(
        &mut self,
        task: &Task,
        found: Found,
        at: (usize, &(Wire, Wire)),
        ran: Option<&(Vec<Value>, Vec<Value>)>,
        (form, tasks): (Option<&TaskForm>, &Tasks),
    ) -> (Cost, CostSource) {
        let device = at.0;
        match (found, ran) {
            (Found::Left(reason), _) => (Err(reason), CostSource::Measured),
            (Found::Known(seconds, source), Some((inputs, wanted))) if device > 0 => {
                let right = self.right(task, device, inputs, wanted);
                (right.map(|_| seconds), source)
            }
            (Found::Known(seconds, source), _) => (Ok(seconds), source),
            (Found::Open, None) => (Err("it is not run".to_string()), CostSource::Measured),
            (Found::Open, Some((inputs, wanted))) => {
                let first = self.graph.node(task.nodes[0]).label(&self.graph);
                let more = task.nodes.len() - 1;
                self.say(format!("{first} and {more} more on {}", self.id(device)));
                let source = match self.is_modelled(&[device]) {
                    true => CostSource::Modelled,
                    false => CostSource::Measured,
                };
                (self.cost(task, at, (inputs, wanted), (form, &tasks.bytes)), source)
            }
        }
    }

    /// A task that is ready on a device and gives there what it should.
    fn right(
        &self,
        task: &Task,
        device: usize,
        inputs: &[Value],
        wanted: &[Value],
    ) -> Result<Ready, String> {
        let one = std::slice::from_ref(&self.devices[device]);
        let text = |error: Error| error.to_string();
        let ready = Ready::whole(&task.extract.graph, inputs.to_vec(), one).map_err(text)?;
        let error = gate::error(wanted, &ready.run().map_err(text)?);
        if error > self.options.max_error { Err(self.differs(error)) } else { Ok(ready) }
    }

    /// What a task reads, and what the host makes of it.
    fn ran(
        &self,
        task: &Task,
        env: &mut BTreeMap<hetra_ir::ValueId, Value>,
    ) -> Result<(Vec<Value>, Vec<Value>), Error> {
        let inputs: Vec<Value> =
            task.extract.inputs.iter().filter_map(|id| env.get(id).cloned()).collect();
        let host = std::slice::from_ref(&self.devices[0]);
        let wanted = Ready::whole(&task.extract.graph, inputs.clone(), host)?.run()?;
        env.extend(task.extract.outputs.iter().copied().zip(wanted.iter().cloned()));
        Ok((inputs, wanted))
    }

    /// What is known of tasks before any of them is run.
    fn known(
        &self,
        tasks: &Tasks,
        forms: &[Option<TaskForm>],
        singles: &[Single],
    ) -> Vec<Vec<Found>> {
        // What is slow may be frugal or cheap.
        let only_fast = self.options.goal.is_time() && !self.options.frontier;
        let seconds = |single: &Single| single.figures.latency_s;
        let best = singles.iter().map(seconds).fold(f64::INFINITY, f64::min);
        let of = |(task, form): (&Task, &Option<TaskForm>)| {
            let may = |device: usize| {
                task.nodes.iter().all(|node| self.rules.allows(node.index(), device))
            };
            let choice = (0..self.devices.len()).filter(|&device| may(device)).count() > 1;
            let found = |device: usize| {
                let whole = singles.iter().find(|single| single.device == device);
                let times = whole.map_or(0.0, |single| seconds(single) / best);
                if !may(device) {
                    return Found::Left("it is kept away from there".to_string());
                }
                if times > HOPELESS && device > 0 && choice && only_fast {
                    return Found::Left(format!(
                        "it takes {times:.0} times as long for the whole model"
                    ));
                }
                let known = form
                    .as_ref()
                    .and_then(|form| self.ledger.known(device, &form.key, &form.parts));
                known.map_or(Found::Open, |(seconds, source)| Found::Known(seconds, source))
            };
            (0..self.devices.len()).map(found).collect()
        };
        tasks.all.iter().zip(forms).map(of).collect()
    }

    /// The inputs and the defaults of the graph.
    fn given(&self) -> BTreeMap<hetra_ir::ValueId, Value> {
        let inputs = self.graph.inputs.iter().copied().zip(self.inputs.iter().cloned());
        self.graph.constants.iter().map(|(id, value)| (*id, value.clone())).chain(inputs).collect()
    }

    fn cost(
        &self,
        task: &Task,
        (device, (into, out)): (usize, &(Wire, Wire)),
        (inputs, wanted): (&[Value], &[Value]),
        (form, bytes): (Option<&TaskForm>, &[u64]),
    ) -> Cost {
        let text = |error: Error| error.to_string();
        let ready = self.right(task, device, inputs, wanted)?;
        if ready.is_simulated() {
            return Ok(ready.spent().map_err(text)?.busy_s.values().sum());
        }
        let sample = ready.sample(PART).map_err(text)?;
        let seconds = sample.median;
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
        let own = (seconds - apart).max(OWN_MIN * seconds);
        if let Some(form) = form {
            let sample = sample.times(own / seconds);
            // What cannot be written is measured again next time.
            let _ = self.ledger.keep(device, &form.key, form.parts.clone(), &sample);
        }
        Ok(own)
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
