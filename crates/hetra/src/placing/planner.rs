//! Measures, places, checks, compares: in this order.

use std::path::PathBuf;
use std::time::Duration;

use hetra_exec::Seat;
use hetra_ir::{Graph, Type};
use hetra_machine::Machine;
use hetra_place::Problem;
use hetra_tensor::Value;

use crate::error::Error;
use crate::placing::accept::Certificate;
use crate::placing::choose::{Promise, choice_of};
use crate::placing::costs::{Costing, Ledger};
use crate::placing::explain::Timed;
use crate::placing::file::{Considered, PlanError, PlanFile, Refused};
use crate::placing::gauge::Gauge;
use crate::placing::goal::{Figures, PlanBounds, PlanGoal};
use crate::placing::rules::{DEVICES_MAX, Rules};
use crate::placing::tasks::tasks;
use crate::placing::trial::Single;

/// The name of a plan over several devices.
pub(super) const MIX: &str = "mix";
/// What is taken may be worse by so much than what a device was measured to take by itself.
const WORSE: f64 = 0.95;
/// Most runs that overlap: as many as a session allows unless told.
const TOGETHER_MAX: usize = 8;

/// How to plan.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// What for.
    pub goal: PlanGoal,
    /// What the plan must keep to.
    pub bounds: PlanBounds,
    /// Whether plans are wanted of which none is better than another in every respect.
    pub frontier: bool,
    /// What devices that are there draw and cost, by their ids.
    pub machine: Option<Machine>,
    /// Nodes that must not be on a device: patterns of labels or operators, and its id.
    pub exclusions: Vec<(String, String)>,
    /// Most tasks, about.
    pub tasks_max: usize,
    /// Policies that may choose, by name; all of them where it is empty.
    pub policies: Vec<String>,
    /// Devices of nodes whose labels a pattern matches (`*` for any text), the first that does.
    pub pins: Vec<(String, String)>,
    /// Largest difference from the processor's outputs in f32, in parts of the largest magnitude of
    /// an output.
    pub max_error: f64,
    /// How costs of parts are found.
    pub costing: Costing,
    /// Where those are kept that were measured; nowhere, where this is none.
    pub store: Option<PathBuf>,
    /// How long two plans are compared at least, where they do not take longer.
    pub compare: Duration,
    /// Seed of the search.
    pub seed: u64,
}

impl Default for PlanOptions {
    fn default() -> PlanOptions {
        PlanOptions {
            goal: PlanGoal::LATENCY,
            bounds: PlanBounds::default(),
            frontier: false,
            machine: None,
            exclusions: Vec::new(),
            tasks_max: 12,
            policies: Vec::new(),
            pins: Vec::new(),
            max_error: 1e-2,
            costing: Costing::default(),
            store: None,
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
/// When the model does not run on the host, a device is given twice, a pin cannot be kept, what a
/// goal is about is not known of a device, or no plan keeps to the bounds.
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
    if devices.is_empty() || devices.len() > DEVICES_MAX {
        let reason = format!("{} devices; from 1 to {DEVICES_MAX} are placed on", devices.len());
        return Err(PlanError::NoDevices(vec![reason]).into());
    }
    options.bounds.check()?;
    let graph = hetra_pass::portable(graph);
    let ids: Vec<&str> = devices.iter().map(|device| device.device.info().id.as_str()).collect();
    let rules = Rules::of(&graph, &ids, &options.pins, &options.exclusions)?;
    let gauge = gauge(devices, options)?;
    let (ledger, fault) = Ledger::open(options.store.as_deref(), options.costing, devices);
    let mut planner = Planner {
        inputs: inputs.to_vec(),
        devices,
        options,
        rules,
        gauge,
        progress,
        done: 0,
        of: devices.len(),
        refused: Vec::new(),
        considered: Vec::new(),
        warnings: fault.into_iter().map(|fault| format!("no cost is kept: {fault}")).collect(),
        ledger,
        graph,
    };
    planner.run()
}

/// What measures; what it is to tell must be known of all devices.
fn gauge(devices: &[Seat], options: &PlanOptions) -> Result<Gauge, PlanError> {
    let PlanOptions { goal, bounds, machine, frontier, .. } = options;
    let energy = goal.energy > 0.0 || bounds.needs_energy();
    let cost = goal.cost > 0.0 || bounds.dollars.is_some();
    let asked = (energy || cost || *frontier, bounds.per_second.is_some());
    let gauge = Gauge::new(devices, machine.as_ref(), *goal, asked);
    for (index, seat) in devices.iter().enumerate() {
        let unknown = |what, field| PlanError::NoRate {
            goal: goal.name(),
            what,
            device: seat.device.info().id.clone(),
            field,
        };
        if energy && !gauge.knows_power(index) {
            return Err(unknown("power", "`power.max`"));
        }
        if cost && gauge.rates[index].dollars_s.is_none() {
            return Err(unknown("price", "`price.per_hour_usd` or `price.buy_usd`"));
        }
    }
    Ok(gauge)
}

pub(super) struct Planner<'a> {
    pub(super) graph: Graph,
    pub(super) inputs: Vec<Value>,
    pub(super) devices: &'a [Seat],
    pub(super) options: &'a PlanOptions,
    pub(super) rules: Rules,
    pub(super) gauge: Gauge,
    pub(super) ledger: Ledger,
    progress: &'a mut dyn FnMut(&PlanMoment),
    done: usize,
    pub(super) of: usize,
    pub(super) refused: Vec<Refused>,
    pub(super) considered: Vec<Considered>,
    pub(super) warnings: Vec<String>,
}

/// A number that a file can hold.
pub(super) fn finite(number: f64) -> Option<f64> {
    Some(number).filter(|number| number.is_finite())
}

/// What a task takes on a device, or why it does not do it.
pub(super) type Cost = Result<f64, String>;

impl Planner<'_> {
    pub(super) fn id(&self, device: usize) -> &str {
        &self.devices[device].device.info().id
    }

    pub(super) fn say(&mut self, what: String) {
        (self.progress)(&PlanMoment { what, done: self.done, of: self.of });
        self.done += 1;
    }

    pub(super) fn refuse(&mut self, name: &str, reason: String) {
        self.refused.push(Refused { name: name.to_string(), reason });
    }

    /// How many runs overlap, of a plan with so many parts: one in each part, and one that comes.
    pub(super) fn together(&self, parts: usize) -> usize {
        match self.gauge.streams {
            false => 1,
            true => (parts + 1).min(TOGETHER_MAX),
        }
    }

    fn run(&mut self) -> Result<PlanFile, Error> {
        let wanted = self.wanted()?;
        let (singles, host) = self.ranked(&wanted)?;
        let types: Vec<Type> = self.inputs.iter().map(Type::of).collect();
        let tasks = tasks(&self.graph, &types, self.options.tasks_max, self.rules.kinds())?;
        let (costs, sources, seams) = self.costs(&tasks, &singles)?;
        let lines = self.lines(&seams)?;
        let watts = self.watts(&singles);
        let problem = self.problem(&tasks, &costs, &lines, &watts);
        let best_single = singles.iter().find(|single| self.keeps(single));
        let placed = match self.place(&problem, &host) {
            Ok(placed) => Some(placed),
            Err(error) if best_single.is_none() && self.refused.is_empty() => {
                return Err(PlanError::from(error).into());
            }
            Err(error) => {
                self.refuse(MIX, error.to_string());
                None
            }
        };
        self.predict(&problem, &singles, &host);
        let mix = placed
            .as_ref()
            .and_then(|placed| self.mix(&problem, placed, best_single, &tasks, &host));
        let mut choice = best_single.map(|single| vec![single.device; self.graph.nodes.len()]);
        let mut certificate = None;
        if let Some(mix) = mix {
            let mixed = choice_of(&tasks, &mix.candidate);
            let (taken, found) = self.tried_beside(&mix, &mixed, best_single, &wanted, &host);
            choice = if taken { Some(mixed) } else { choice };
            let now = found.as_ref().map(|found| match taken {
                true => found.of_plan.median,
                false => found.of_single.median,
            });
            if let Some(other) = self.better_by_itself(&singles, best_single, now) {
                choice = Some(vec![other; self.graph.nodes.len()]);
                self.refuse(MIX, format!("{} was better by itself", self.id(other)));
            }
            certificate = found;
        }
        let choice = choice.ok_or_else(|| self.nothing(&singles))?;
        let timed = Timed { tasks, costs, sources, lines, watts };
        Ok(self.file(&timed, &choice, placed, certificate))
    }

    /// What single devices take, the best first, and what the host does.
    fn ranked(&mut self, wanted: &[Value]) -> Result<(Vec<Single>, Figures), Error> {
        let mut singles = self.singles(wanted)?;
        for single in &mut singles {
            if let Some(joules) = single.figures.joules {
                let of_all = joules / self.time(&single.figures);
                let learned = self.gauge.learn(single.device, &single.ready, of_all);
                single.watts = learned.unwrap_or(single.watts);
            }
        }
        let host = singles.iter().find(|single| single.device == 0);
        let host = host.map(|single| single.figures).unwrap_or_default();
        for single in &mut singles {
            single.score = self.options.goal.score(&single.figures, &host);
        }
        singles.sort_by(|a, b| a.score.total_cmp(&b.score));
        self.closer(&mut singles, &host)?;
        self.consider(&singles, &host);
        Ok((singles, host))
    }

    /// Considers a mix, and runs it beside the best single device.
    fn tried_beside(
        &mut self,
        mix: &Promise,
        choice: &[usize],
        single: Option<&Single>,
        wanted: &[Value],
        host: &Figures,
    ) -> (bool, Option<Certificate>) {
        self.considered.push(Considered {
            name: MIX.to_string(),
            policy: Some(mix.candidate.policy.to_string()),
            predicted: finite(mix.score),
            measured: None,
            figures: None,
            modelled: self.is_modelled(choice),
            error: None,
        });
        self.compare(choice, single, wanted, host).unwrap_or_else(|error| {
            self.refuse(MIX, error.to_string());
            (false, None)
        })
    }

    /// A device that took less by itself than what was compared takes now: one of those may have
    /// become slower since.
    fn better_by_itself(
        &self,
        singles: &[Single],
        best: Option<&Single>,
        now: Option<f64>,
    ) -> Option<usize> {
        let now = now?;
        let better = |single: &&Single| {
            let other = best.is_none_or(|best| best.device != single.device);
            other && single.score < now * WORSE && self.keeps(single)
        };
        let other = singles.iter().filter(better).min_by(|a, b| a.score.total_cmp(&b.score));
        other.map(|single| single.device)
    }

    /// The seconds that a plan's devices are powered and paid for.
    fn time(&self, figures: &Figures) -> f64 {
        match self.options.goal.overlaps() {
            true => figures.interval_s,
            false => figures.latency_s,
        }
    }

    /// Why no plan is left.
    fn nothing(&self, singles: &[Single]) -> PlanError {
        let overlaps = self.options.goal.overlaps();
        let past = |single: &Single| {
            let broken = self.options.bounds.broken(&single.figures, overlaps);
            (!broken.is_empty())
                .then(|| format!("{}: {}", self.id(single.device), broken.join(", ")))
        };
        let past: Vec<String> = singles.iter().filter_map(past).collect();
        let reasons = self.refused.iter().map(|r| format!("{}: {}", r.name, r.reason));
        match past.is_empty() {
            true => PlanError::NoDevices(reasons.collect()),
            false => PlanError::Bounds(past.into_iter().chain(reasons).collect()),
        }
    }

    /// Whether a single device may do all of it, within the bounds.
    fn keeps(&self, single: &Single) -> bool {
        let broken = self.options.bounds.broken(&single.figures, self.options.goal.overlaps());
        self.rules.allow_all(single.device) && broken.is_empty()
    }

    /// Whether a device of a plan is only described.
    pub(super) fn is_modelled(&self, choice: &[usize]) -> bool {
        choice.iter().any(|&device| self.devices[device].device.info().simulated.is_some())
    }

    /// Writes down what single devices took.
    fn consider(&mut self, singles: &[Single], host: &Figures) {
        for row in &mut self.considered {
            let score = row.figures.map(|figures| self.options.goal.score(&figures, host));
            let score = score.and_then(finite);
            (row.predicted, row.measured) = (score, score);
        }
        for single in singles {
            let id = self.id(single.device).to_string();
            if let Some(row) = self.considered.iter_mut().find(|row| row.name == id) {
                (row.predicted, row.measured) = (finite(single.score), finite(single.score));
            }
        }
    }

    /// Writes down what the tasks promise for single devices.
    fn predict(&mut self, problem: &Problem, singles: &[Single], host: &Figures) {
        for single in singles {
            let predicted = self.alone(problem, single.device);
            let id = self.id(single.device).to_string();
            let known = self.considered.iter_mut().find(|row| row.name == id);
            if let (Some(known), Some(predicted)) = (known, predicted) {
                known.predicted = finite(self.options.goal.score(&predicted, host));
            }
        }
    }
}
