//! Measures, places, checks, compares.

use std::collections::BTreeMap;
use std::time::Duration;

use hetra_exec::Seat;
use hetra_ir::{Graph, Type};
use hetra_place::{Budget, Candidate, Found, Goal, Line, Problem};
use hetra_tensor::Value;

use crate::error::Error;
use crate::placing::accept::{Certificate, Sample, compare};
use crate::placing::file::{Considered, PlanError, PlanFile, Refused};
use crate::placing::gate;
use crate::placing::measure::{Copying, Ready, copying, handing_over};
use crate::placing::pattern::matches;
use crate::placing::tasks::{Tasks, tasks};
use crate::placing::units::units;

/// The name of a plan over several devices.
pub(super) const MIX: &str = "mix";
/// A device that takes so many times longer for the whole model than the best one is not tried on
/// its parts.
const HOPELESS: f64 = 20.0;
/// Of what a part took with its copies so much is its own at least.
const OWN_MIN: f64 = 0.05;
/// A mix that is not expected to be faster by so much, in parts, is not tried.
const PROMISE_MIN: f64 = 0.01;
/// A second single device is measured beside the best one where it is at most so much slower.
const NEAR: f64 = 1.15;
/// How long the whole model is run on a device, and a task.
const WHOLE: Duration = Duration::from_millis(300);
const PART: Duration = Duration::from_millis(25);
/// Most runs that overlap: as many as a session allows unless told.
const TOGETHER_MAX: usize = 8;
/// Runs of one device that overlap, at least: it is measured with as many as the mix beside it.
const SINGLE_TOGETHER: usize = 2;
/// Seconds of runs that overlap, for one sample: what fills and drains a pipeline is little of it.
const STREAM_S: f64 = 0.3;
/// Runs behind each other that one sample of a comparison is the median of.
const RUNS_OF_ONE: usize = 3;
/// Steps of the search.
const STEPS: u64 = 200_000;

/// What is to be made small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlanGoal {
    /// The time of one run.
    #[default]
    Latency,
    /// The time between two results of runs that overlap.
    Throughput,
}

impl PlanGoal {
    pub(super) fn name(self) -> &'static str {
        match self {
            PlanGoal::Latency => "latency",
            PlanGoal::Throughput => "throughput",
        }
    }

    /// How many runs overlap, of a plan with so many parts: one in each part, and one that comes.
    fn together(self, parts: usize) -> usize {
        match self {
            PlanGoal::Latency => 1,
            PlanGoal::Throughput => (parts + 1).min(TOGETHER_MAX),
        }
    }
}

/// How to plan.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// What for.
    pub goal: PlanGoal,
    /// Most tasks, about.
    pub tasks_max: usize,
    /// Policies that may choose, by name; all of them where it is empty.
    pub policies: Vec<String>,
    /// Devices of nodes whose labels a pattern matches (`*` for any text), the first that does.
    pub pins: Vec<(String, String)>,
    /// Largest difference from the processor's outputs in f32, in parts of the largest magnitude of
    /// an output.
    pub max_error: f64,
    /// How long two plans are compared at least, where they do not take longer.
    pub compare: Duration,
    /// Seed of the search.
    pub seed: u64,
}

impl Default for PlanOptions {
    fn default() -> PlanOptions {
        PlanOptions {
            goal: PlanGoal::Latency,
            tasks_max: 12,
            policies: Vec::new(),
            pins: Vec::new(),
            max_error: 1e-2,
            compare: Duration::from_secs(1),
            seed: 1,
        }
    }
}

/// What is being done.
#[derive(Clone, Debug)]
pub struct PlanMoment {
    /// In words.
    pub what: String,
    /// How many steps are done.
    pub done: usize,
    /// Of how many.
    pub of: usize,
}

/// Plans a model (as it was imported) on devices for these inputs, in the order of the graph's.
/// The first device is the host's processor, whose results the others are held to.
///
/// # Errors
/// When the model does not run on the host, a device is given twice, or a pin cannot be kept.
pub fn plan(
    graph: &Graph,
    devices: &[Seat],
    inputs: &[Value],
    options: &PlanOptions,
    progress: &mut dyn FnMut(&PlanMoment),
) -> Result<PlanFile, Error> {
    for (index, device) in devices.iter().enumerate() {
        let id = &device.device.info().id;
        if devices[..index].iter().any(|other| other.device.info().id == *id) {
            return Err(PlanError::Twice(id.clone()).into());
        }
    }
    if devices.is_empty() {
        return Err(PlanError::NoDevices(Vec::new()).into());
    }
    let graph = hetra_pass::portable(graph);
    let mut planner = Planner {
        inputs: inputs.to_vec(),
        devices,
        options,
        progress,
        done: 0,
        of: devices.len(),
        refused: Vec::new(),
        considered: Vec::new(),
        graph,
    };
    planner.run()
}

pub(super) struct Planner<'a> {
    pub(super) graph: Graph,
    pub(super) inputs: Vec<Value>,
    pub(super) devices: &'a [Seat],
    pub(super) options: &'a PlanOptions,
    progress: &'a mut dyn FnMut(&PlanMoment),
    done: usize,
    of: usize,
    pub(super) refused: Vec<Refused>,
    pub(super) considered: Vec<Considered>,
}

/// The whole model on one device.
struct Single {
    device: usize,
    ready: Ready,
    seconds: f64,
}

/// What a task takes on a device, or why it does not do it.
pub(super) type Cost = Result<f64, String>;

impl Planner<'_> {
    pub(super) fn id(&self, device: usize) -> &str {
        &self.devices[device].device.info().id
    }

    fn say(&mut self, what: String) {
        (self.progress)(&PlanMoment { what, done: self.done, of: self.of });
        self.done += 1;
    }

    fn refuse(&mut self, name: &str, reason: String) {
        self.refused.push(Refused { name: name.to_string(), reason });
    }

    fn run(&mut self) -> Result<PlanFile, Error> {
        let host = std::slice::from_ref(&self.devices[0]);
        let wanted = Ready::whole(&self.graph, self.inputs.clone(), host)?.run()?;
        let pinned = self.pinned()?;
        let mut singles = self.singles(&wanted)?;
        singles.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        self.closer(&mut singles)?;
        let types: Vec<Type> = self.inputs.iter().map(Type::of).collect();
        let tasks = tasks(&self.graph, &types, self.options.tasks_max, &pinned)?;
        let lines = self.lines()?;
        let costs = self.costs(&tasks, &singles, &pinned, &lines)?;
        let problem = self.problem(&tasks, &costs, &lines);
        let best_single = singles
            .iter()
            .find(|single| pinned.iter().all(|p| p.is_none_or(|d| d == single.device)));
        let found = match self.place(&problem) {
            Ok(found) => Some(found),
            Err(error) if best_single.is_none() => return Err(error.into()),
            Err(error) => {
                self.refuse(MIX, error.to_string());
                None
            }
        };
        let mix = found.as_ref().and_then(|found| self.mix(&problem, found, best_single, &tasks));
        let mut certificate = None;
        let mut chosen = best_single.map(|single| vec![single.device; self.graph.nodes.len()]);
        if let Some(mix) = mix {
            let choice = choice_of(&tasks, &mix);
            self.predict(&problem, &singles);
            self.considered.push(Considered {
                name: MIX.to_string(),
                policy: Some(mix.policy.to_string()),
                predicted_s: mix.score,
                measured_s: None,
                error: None,
            });
            certificate = self.compare(&choice, best_single, &wanted).unwrap_or_else(|error| {
                self.refuse(MIX, error.to_string());
                None
            });
            let won = certificate.as_ref().is_some_and(|c: &Certificate| c.winner == MIX);
            if won || (chosen.is_none() && self.fits(&choice, &wanted).unwrap_or(false)) {
                chosen = Some(choice);
            }
        } else {
            self.predict(&problem, &singles);
        }
        let Some(chosen) = chosen else {
            let reasons = self.refused.iter().map(|r| format!("{}: {}", r.name, r.reason));
            return Err(PlanError::NoDevices(reasons.collect()).into());
        };
        Ok(self.file(&tasks, &costs, &chosen, found.as_ref(), certificate))
    }

    /// The device of each node that a pin names.
    fn pinned(&self) -> Result<Vec<Option<usize>>, PlanError> {
        let mut pinned = vec![None; self.graph.nodes.len()];
        for (pattern, id) in &self.options.pins {
            let fault = |reason: String| PlanError::Pin {
                pattern: pattern.clone(),
                device: id.clone(),
                reason,
            };
            let device = self.devices.iter().position(|device| device.device.info().id == *id);
            let ids: Vec<&str> = self.devices.iter().map(|d| d.device.info().id.as_str()).collect();
            let device = device.ok_or_else(|| {
                fault(format!("the plan has no such device; it has {}", ids.join(", ")))
            })?;
            let mut met = false;
            for (index, node) in self.graph.nodes.iter().enumerate() {
                let label = node.label(&self.graph);
                if matches(pattern, &label) || matches(pattern, &node.op) {
                    met = true;
                    pinned[index] = pinned[index].or(Some(device));
                }
            }
            if !met {
                let some: Vec<String> =
                    self.graph.nodes.iter().take(5).map(|node| node.label(&self.graph)).collect();
                let reason =
                    format!("no node or operator is called so; nodes are {}, ..", some.join(", "));
                return Err(fault(reason));
            }
        }
        Ok(pinned)
    }

    /// The whole model on each device that runs it and gives what the host gives.
    fn singles(&mut self, wanted: &[Value]) -> Result<Vec<Single>, Error> {
        let mut singles = Vec::new();
        for device in 0..self.devices.len() {
            let id = self.id(device).to_string();
            self.say(format!("the whole model on {id}"));
            let one = std::slice::from_ref(&self.devices[device]);
            let ready = match Ready::whole(&self.graph, self.inputs.clone(), one) {
                Ok(ready) => ready,
                Err(error) => {
                    self.refuse(&id, error.to_string());
                    continue;
                }
            };
            let error = match ready.run() {
                Ok(values) => gate::error(wanted, &values),
                Err(error) => {
                    self.refuse(&id, error.to_string());
                    continue;
                }
            };
            let timed = ready.sample(WHOLE).and_then(|sample| match self.options.goal {
                PlanGoal::Latency => Ok(sample.median),
                PlanGoal::Throughput => throughput(&ready, SINGLE_TOGETHER, sample.median),
            });
            let seconds = match timed {
                Ok(seconds) => seconds,
                Err(error) => {
                    self.refuse(&id, error.to_string());
                    continue;
                }
            };
            self.considered.push(Considered {
                name: id.clone(),
                policy: None,
                predicted_s: seconds,
                measured_s: Some(seconds),
                error: Some(error),
            });
            if error > self.options.max_error {
                let reason = self.differs(error);
                self.refuse(&id, reason);
                continue;
            }
            singles.push(Single { device, ready, seconds });
        }
        Ok(singles)
    }

    fn differs(&self, error: f64) -> String {
        let most = self.options.max_error;
        format!(
            "its outputs differ from the processor's in f32 by {error:.2e} of the largest; {most:.0e} is allowed"
        )
    }

    /// Runs the two best single devices in turn, where they are near each other, and puts the
    /// faster one first.
    fn closer(&mut self, singles: &mut [Single]) -> Result<(), Error> {
        let [first, second, ..] = &mut singles[..] else { return Ok(()) };
        if second.seconds > first.seconds * NEAR {
            return Ok(());
        }
        let (a, b) =
            (self.devices[first.device].device.info(), self.devices[second.device].device.info());
        let goal = self.options.goal;
        let (ready_a, ready_b) = (&first.ready, &second.ready);
        let (alone_a, alone_b) = (first.seconds, second.seconds);
        let pairs = compare(
            (&b.id, &mut || once(goal, ready_b, SINGLE_TOGETHER, alone_b)),
            (&a.id, &mut || once(goal, ready_a, SINGLE_TOGETHER, alone_a)),
            self.options.compare / 2,
        )?;
        first.seconds = pairs.single_s.median;
        second.seconds = pairs.plan_s.median;
        if pairs.ratio.median < 1.0 {
            singles.swap(0, 1);
        }
        Ok(())
    }

    /// What each task takes on each device: `costs[task][device]`.
    fn costs(
        &mut self,
        tasks: &Tasks,
        singles: &[Single],
        pinned: &[Option<usize>],
        lines: &[(Copying, Copying)],
    ) -> Result<Vec<Vec<Cost>>, Error> {
        self.of += tasks.all.len() * self.devices.len();
        let best = singles.first().map_or(f64::INFINITY, |single| single.seconds);
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
                let elsewhere = task
                    .nodes
                    .iter()
                    .find_map(|node| pinned[node.index()].filter(|&pin| pin != device));
                let whole = singles.iter().find(|single| single.device == device);
                let times = whole.map_or(0.0, |single| single.seconds / best);
                row.push(if let Some(pin) = elsewhere {
                    Err(format!("pinned to {}", self.id(pin)))
                } else if times > HOPELESS && device > 0 {
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
        (into, out): &(Copying, Copying),
        bytes: &[u64],
    ) -> Cost {
        let one = std::slice::from_ref(&self.devices[device]);
        let text = |error: Error| error.to_string();
        let ready = Ready::whole(&task.extract.graph, inputs.to_vec(), one).map_err(text)?;
        let error = gate::error(wanted, &ready.run().map_err(text)?);
        if error > self.options.max_error {
            return Err(self.differs(error));
        }
        let seconds = ready.sample(PART).map_err(text)?.median;
        // It ran with its copies; those are counted where they are made. On processors of its own
        // it was handed over, too.
        let seat = &self.devices[device];
        let held = seat.device.launcher().is_some();
        let handed = if seat.cores.is_empty() { 0.0 } else { into.latency_s + out.latency_s };
        let moved = |ids: &[hetra_ir::ValueId], line: &Copying| -> f64 {
            let copy =
                |id: &hetra_ir::ValueId| line.latency_s + line.byte_s * bytes[id.index()] as f64;
            if held { ids.iter().map(copy).sum() } else { 0.0 }
        };
        let copies = moved(&task.extract.inputs, into) + moved(&task.extract.outputs, out);
        let apart = if held { copies } else { handed };
        Ok((seconds - apart).max(OWN_MIN * seconds))
    }

    /// What copies take, and what it takes to hand a run over to another device and back.
    fn lines(&self) -> Result<Vec<(Copying, Copying)>, Error> {
        let line = |(index, seat): (usize, &Seat)| {
            // A device that fails at it fails at its tasks, too.
            let (mut into, mut out) = copying(seat.device.as_ref()).unwrap_or_default();
            if index > 0 {
                // What is not to be had by itself is found out in the model.
                let handed = handing_over(&self.devices[0], seat).unwrap_or(0.0);
                into.latency_s += handed;
                out.latency_s += handed;
            }
            Ok((into, out))
        };
        self.devices.iter().enumerate().map(line).collect()
    }

    /// The tasks with times in seconds; before them one that gives the inputs, behind them one that
    /// takes the outputs, both on the host.
    fn problem(&self, tasks: &Tasks, costs: &[Vec<Cost>], lines: &[(Copying, Copying)]) -> Problem {
        let (units, unit) = units(self.devices);
        let line =
            |copying: &Copying| Line { latency: copying.latency_s, per_byte: copying.byte_s };
        let device = |(index, seat): (usize, &Seat)| hetra_place::Device {
            name: seat.device.info().id.clone(),
            unit: unit[index],
            memory_max: seat
                .device
                .info()
                .memory_bytes
                .filter(|_| index > 0)
                .map(|bytes| bytes as f64),
            into: line(&lines[index].0),
            out: line(&lines[index].1),
            copies_occupy: true,
            rate: 0.0,
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

    fn goal(&self) -> Goal {
        match self.options.goal {
            PlanGoal::Latency => Goal::LATENCY,
            PlanGoal::Throughput => Goal::THROUGHPUT,
        }
    }

    fn place(&self, problem: &Problem) -> Result<Found, PlanError> {
        let wanted: Vec<&str> = self.options.policies.iter().map(String::as_str).collect();
        let budget = Budget { steps: STEPS, spent: None, seed: self.options.seed };
        Ok(hetra_place::place(problem, &self.goal(), &wanted, &budget)?)
    }

    /// The placement on several devices that promises to be faster than one: the best by its score,
    /// or, for runs that overlap, stages of a pipeline where these are measured to be faster.
    fn mix(
        &self,
        problem: &Problem,
        found: &Found,
        single: Option<&Single>,
        tasks: &Tasks,
    ) -> Option<Candidate> {
        let several = |candidate: &&Candidate| {
            // Borders stand on the host in any case.
            let of_tasks =
                candidate.placement.device.split_first().and_then(|(_, rest)| rest.split_last());
            of_tasks.is_some_and(|(_, rest)| rest.iter().any(|device| *device != rest[0]))
        };
        let alone = single.and_then(|single| self.alone(problem, single.device));
        let promises = |candidate: &&Candidate| {
            alone.is_none_or(|alone| candidate.score < alone * (1.0 - PROMISE_MIN))
        };
        let mixes = || found.candidates.iter().filter(several).filter(promises);
        let best = mixes().next()?;
        let staged = mixes().find(|candidate| candidate.policy == "pipeline");
        let staged = staged.filter(|staged| staged.placement.device != best.placement.device);
        let Some(staged) = staged else { return Some(best.clone()) };
        let time = |candidate: &Candidate| self.tried(&choice_of(tasks, candidate)).ok();
        let faster = match (time(best), time(staged)) {
            (Some(best), Some(staged)) => staged <= best,
            (best, _) => best.is_none(),
        };
        Some(if faster { staged } else { best }.clone())
    }

    /// Seconds of a placement, measured a few times.
    fn tried(&self, choice: &[usize]) -> Result<f64, Error> {
        let ready = Ready::placed(&self.graph, choice, self.inputs.clone(), self.devices)?;
        let alone = ready.sample(Duration::ZERO)?.median;
        let together = self.options.goal.together(ready.parts());
        let samples = (0..3).map(|_| once(self.options.goal, &ready, together, alone));
        Ok(Sample::of(samples.collect::<Result<_, _>>()?).median)
    }

    /// What is predicted where one device does all tasks; none where it does not do them.
    fn alone(&self, problem: &Problem, device: usize) -> Option<f64> {
        let count = problem.tasks.len();
        let mut on = vec![device; count];
        (on[0], on[count - 1]) = (0, 0);
        let placement = hetra_place::Placement { device: on, order: (0..count).collect() };
        let fits = hetra_place::fault(problem, &placement).is_none();
        fits.then(|| self.goal().score(&hetra_place::measure(problem, &placement)))
    }

    /// Writes down what the tasks promise for single devices.
    fn predict(&mut self, problem: &Problem, singles: &[Single]) {
        for single in singles {
            let predicted = self.alone(problem, single.device);
            let id = self.id(single.device).to_string();
            let known = self.considered.iter_mut().find(|considered| considered.name == id);
            if let (Some(known), Some(predicted)) = (known, predicted) {
                known.predicted_s = predicted;
            }
        }
    }

    /// Whether a placement computes what the host does.
    fn fits(&mut self, choice: &[usize], wanted: &[Value]) -> Result<bool, Error> {
        let ready = Ready::placed(&self.graph, choice, self.inputs.clone(), self.devices)?;
        Ok(gate::error(wanted, &ready.run()?) <= self.options.max_error)
    }

    /// Runs the mix beside the best single device; none where the mix is out of the question.
    fn compare(
        &mut self,
        choice: &[usize],
        single: Option<&Single>,
        wanted: &[Value],
    ) -> Result<Option<Certificate>, Error> {
        let ready = Ready::placed(&self.graph, choice, self.inputs.clone(), self.devices);
        let tried = ready.and_then(|ready| Ok((gate::error(wanted, &ready.run()?), ready)));
        let (error, ready) = match tried {
            Ok(tried) => tried,
            Err(error) => {
                self.refuse(MIX, error.to_string());
                return Ok(None);
            }
        };
        if let Some(mix) = self.considered.iter_mut().find(|considered| considered.name == MIX) {
            mix.error = Some(error);
        }
        if error > self.options.max_error {
            let reason = self.differs(error);
            self.refuse(MIX, reason);
            return Ok(None);
        }
        let Some(single) = single else { return Ok(None) };
        self.say(format!("the mix beside {}", self.id(single.device)));
        let goal = self.options.goal;
        let together = goal.together(ready.parts());
        let alone = ready.sample(Duration::ZERO)?.median;
        let certificate = compare(
            (MIX, &mut || once(goal, &ready, together, alone)),
            (self.id(single.device), &mut || {
                once(goal, &single.ready, together.max(SINGLE_TOGETHER), single.seconds)
            }),
            self.options.compare,
        )?;
        for (name, seconds) in [
            (MIX.to_string(), certificate.plan_s.median),
            (self.id(single.device).to_string(), certificate.single_s.median),
        ] {
            let known = self.considered.iter_mut().find(|considered| considered.name == name);
            known.into_iter().for_each(|known| known.measured_s = Some(seconds));
        }
        if certificate.winner != MIX {
            let ratio = certificate.ratio.median;
            self.refuse(
                MIX,
                format!("measured beside {} it takes {ratio:.3} times as long", certificate.single),
            );
        }
        Ok(Some(certificate))
    }
}

/// The device of each node, by a placement of tasks behind that of the inputs.
fn choice_of(tasks: &Tasks, candidate: &Candidate) -> Vec<usize> {
    tasks.of.iter().map(|&task| candidate.placement.device[task + 1]).collect()
}

/// One sample of what a goal asks for; `alone` is about the time of one run.
fn once(goal: PlanGoal, ready: &Ready, together: usize, alone: f64) -> Result<f64, Error> {
    match goal {
        PlanGoal::Latency => {
            // What ran before has other threads awake and other data in the caches.
            ready.run()?;
            let runs = (0..RUNS_OF_ONE).map(|_| ready.seconds());
            Ok(Sample::of(runs.collect::<Result<_, _>>()?).median)
        }
        PlanGoal::Throughput => throughput(ready, together, alone),
    }
}

/// Seconds between two results, of runs one behind the other, two or `together` at a time: the
/// least.
fn throughput(ready: &Ready, together: usize, alone: f64) -> Result<f64, Error> {
    let runs = ((STREAM_S / alone.max(1e-6)) as usize).clamp(8 * together, 512);
    let mut least = ready.overlapped(1, runs)?;
    for together in [SINGLE_TOGETHER, together] {
        least = least.min(ready.overlapped(together, runs)?);
    }
    Ok(least)
}
