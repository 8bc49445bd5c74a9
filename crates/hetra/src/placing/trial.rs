//! Runs the model: on each device, in tasks, and as a mix beside the best device.

use std::collections::BTreeMap;
use std::time::Duration;

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
use crate::placing::seams::within;
use crate::placing::tasks::{Task, Tasks};

/// A device that takes so many times longer for the whole model than the best one is not tried on
/// its parts.
const HOPELESS: f64 = 20.0;
/// Of what a task took by itself so much is taken within a part, too.
pub(super) const OWN_MIN: f64 = 0.05;
/// So many more runs must be as slow before a device counts as that.
const GLIMPSE: usize = 2;
/// Single devices are measured beside the best one that seem at most so many times as slow: as much
/// as processors that are threads of one core may make of it.
const NEAR: f64 = 2.0;
/// How long the whole model is run on a device, and a task.
pub(super) const WHOLE: Duration = Duration::from_millis(300);
pub(super) const PART: Duration = Duration::from_millis(25);

/// Costs of tasks by device, where they come from, and what a part takes beside them.
type Costs = (Vec<Vec<Cost>>, Vec<Vec<CostSource>>, Vec<f64>);

/// What is known of a task on a device before it is run there.
pub(super) enum Found {
    /// What it takes.
    Known(f64, CostSource),
    /// Why it is not done there.
    Left(String),
    /// Nothing: it is measured.
    Open,
}

/// What a task is known by, and its kernels.
pub(super) struct TaskForm {
    pub(super) key: String,
    pub(super) parts: Vec<CostPart>,
}

impl TaskForm {
    /// None where what it does depends on more than the types of its inputs.
    pub(super) fn of(task: &Task, types: &[Type], graph: &hetra_ir::Graph) -> Option<TaskForm> {
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
    pub(super) ready: Ready,
    pub(super) figures: Figures,
    /// By the goal.
    pub(super) score: f64,
    /// Watts beside those of idling, while it works; 0 where they are not known.
    pub(super) watts: f64,
}

impl Planner<'_> {
    /// What the host gives in f32, which all others are held to.
    pub(super) fn wanted(&self) -> Result<Vec<Value>, Error> {
        let host = std::slice::from_ref(&self.devices[0]);
        Ready::whole(&self.graph, self.inputs.clone(), host)?.run()
    }

    /// The whole model on each device that runs it and gives what the host gives.
    pub(super) fn singles(&mut self, wanted: &[Value]) -> Result<Vec<Single>, Error> {
        let mut singles: Vec<Single> = Vec::new();
        for device in 0..self.devices.len() {
            let id = self.id(device).to_string();
            self.say(format!("the whole model on {id}"));
            let seconds = singles.iter().map(|single| single.figures.latency_s);
            let best_s = seconds.fold(f64::INFINITY, f64::min);
            match self.single(device, wanted, best_s) {
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

    /// The whole model on a device, and its error; others take at least `best_s`. Its score is for
    /// those to say that know what the host takes.
    fn single(&self, device: usize, wanted: &[Value], best_s: f64) -> Result<(Single, f64), Error> {
        let one = std::slice::from_ref(&self.devices[device]);
        let ready = Ready::whole(&self.graph, self.inputs.clone(), one)?;
        let error = gate::error(wanted, &ready.run()?);
        // What is far behind where time alone counts is not run again and again to know how far.
        if self.only_fast() && device > 0 {
            let mut seconds = ready.seconds()?;
            let mut more = GLIMPSE;
            while seconds > HOPELESS * best_s && more > 0 {
                (seconds, more) = (seconds.min(ready.seconds()?), more - 1);
            }
            if seconds > HOPELESS * best_s {
                let (latency_s, interval_s) = (seconds, seconds);
                let figures = Figures { latency_s, interval_s, joules: None, dollars: None };
                let score = f64::INFINITY;
                return Ok((Single { device, ready, figures, score, watts: 0.0 }, error));
            }
        }
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

    /// Whether time alone is sought: what is slow may be frugal or cheap.
    fn only_fast(&self) -> bool {
        self.options.goal.is_time() && !self.options.frontier && !self.gauge.counts
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

    /// Runs the best single device and others that are not far behind in turn, and puts the best
    /// one first: what else the machine does may have slowed one of them for a while.
    pub(super) fn closer(&self, singles: &mut [Single], host: &Figures) -> Result<(), Error> {
        for other in 1..singles.len() {
            let (first, second) = (&singles[0], &singles[other]);
            if second.score > first.score * NEAR {
                break;
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
            singles[0].score = pairs.of_single.median;
            singles[other].score = pairs.of_plan.median;
            if pairs.ratio.median < 1.0 {
                singles.swap(0, other);
            }
        }
        if let Some((_, rest)) = singles.split_first_mut() {
            rest.sort_by(|a, b| a.score.total_cmp(&b.score));
        }
        Ok(())
    }

    /// What each task takes on each device within a part, `costs[task][device]`, where that comes
    /// from, and what parts take there beside their work.
    pub(super) fn costs(&mut self, tasks: &Tasks, singles: &[Single]) -> Result<Costs, Error> {
        // What a task is known by is of use only where something is kept.
        let keeps = (0..self.devices.len()).any(|device| self.ledger.keeps(device));
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
                let form = forms[index].as_ref();
                let (cost, source) = self.found(task, found, device, ran.as_ref(), form);
                own.push(cost);
                from.push(source);
            }
            costs.push(own);
            sources.push(from);
        }
        let seams = self.seams(tasks, (&costs, &sources), &env);
        for (task, row) in costs.iter_mut().enumerate() {
            for (device, cost) in row.iter_mut().enumerate() {
                let within = |alone: f64| within((task, device), seams[device], alone);
                *cost = std::mem::replace(cost, Err(String::new())).map(within);
            }
        }
        Ok((costs, sources, seams))
    }

    /// What a task takes on a device: as it is known, or by running it.
    pub(super) fn found(
        &mut self,
        task: &Task,
        found: Found,
        device: usize,
        ran: Option<&(Vec<Value>, Vec<Value>)>,
        form: Option<&TaskForm>,
    ) -> (Cost, CostSource) {
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
                (self.cost(task, device, (inputs, wanted), form), source)
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
        let only_fast = self.only_fast();
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

    /// What a task takes by itself, its inputs and outputs being where the device has them.
    fn cost(
        &self,
        task: &Task,
        device: usize,
        (inputs, wanted): (&[Value], &[Value]),
        form: Option<&TaskForm>,
    ) -> Cost {
        let text = |error: Error| error.to_string();
        let ready = self.right(task, device, inputs, wanted)?;
        if ready.is_simulated() {
            return Ok(ready.spent().map_err(text)?.busy_s.values().sum());
        }
        let sample = ready.sample_there(self.devices[device].device.as_ref(), PART);
        let sample = sample.map_err(text)?;
        if let Some(form) = form {
            // What cannot be written is measured again next time.
            let _ = self.ledger.keep(device, &form.key, form.parts.clone(), &sample);
        }
        Ok(sample.median)
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
