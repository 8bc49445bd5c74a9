//! Several models in one process, planned together.
//!
//! Models that each take what is best for themselves fight for it: two that want all processors,
//! or the same device, wait for each other in no order. A group is planned by *rounds*, in each of
//! which every model runs as often as its weight says, all at one time: models are assigned to
//! devices so that the busiest is busy the shortest, and whether those that the processor does take
//! turns (each with all of it) or run beside each other (each with a part of it) is measured. Like
//! a plan of one model, it is never worse: the winner has won, in pairs, against every model by
//! itself on its best device.

mod choose;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hetra_exec::{Seat, Turns};
use hetra_onnx::Model;
use hetra_tensor::Value;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::outputs::Outputs;
use crate::placing::{Certificate, Sample, compare, gate_error, on_host};
use crate::session::Session;

use choose::{Assignment, Load, assignments};

/// Most models of a group, and devices.
pub const MEMBERS_MAX: usize = 16;
const DEVICES_MAX: usize = 8;
/// Most runs of a model in a round.
const WEIGHT_MAX: u32 = 1000;
/// Assignments that are measured.
const TRIED_MAX: usize = 4;
/// How long a model is run on a device by itself.
const ALONE: Duration = Duration::from_millis(200);
/// A device that takes so many times longer for a model than its best one is not assigned to it.
const HOPELESS: f64 = 8.0;

/// A model of a group.
struct Member {
    name: String,
    model: Model,
    weight: u32,
    inputs: Option<Vec<(String, Value)>>,
}

/// Collects what a group is made of.
pub struct GroupBuilder {
    members: Vec<Member>,
    seats: Vec<Seat>,
    compare: Duration,
}

impl Default for GroupBuilder {
    fn default() -> GroupBuilder {
        GroupBuilder { members: Vec::new(), seats: Vec::new(), compare: Duration::from_secs(1) }
    }
}

/// What is wrong with a group.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum GroupError {
    #[error("{0} models; from 1 to {MEMBERS_MAX} are planned together")]
    Members(usize),
    #[error("{0} devices; from 1 to {DEVICES_MAX} are planned on")]
    Devices(usize),
    #[error("two models are called `{0}`")]
    Twice(String),
    #[error("there is no model `{name}`; there are {known}")]
    NoMember { name: String, known: String },
    #[error("`{name}`: {weight} runs in a round; wanted 1 to {WEIGHT_MAX}")]
    Weight { name: String, weight: u32 },
    #[error("`{name}`: no device runs it: {reasons}")]
    NoDevice { name: String, reasons: String },
    #[error("`{name}`: input `{input}` has no numbers to try it with: give some")]
    NoInput { name: String, input: String },
    #[error("device {0} is given twice")]
    DeviceTwice(String),
    #[error("device {0} is only described: models that run together are measured, not modelled")]
    Described(String),
    #[error("device {0} is kept to processors of its own: a group has all of them")]
    Cores(String),
}

impl GroupBuilder {
    /// A model, which is run once in a round.
    #[must_use]
    pub fn model(mut self, name: &str, model: Model) -> GroupBuilder {
        self.members.push(Member { name: name.to_string(), model, weight: 1, inputs: None });
        self
    }

    /// How often the model that was given last is run in a round.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> GroupBuilder {
        self.members.iter_mut().last().into_iter().for_each(|member| member.weight = weight);
        self
    }

    /// What the model that was given last is tried with; else it is tried with numbers that mean
    /// nothing, open extents being 1.
    #[must_use]
    pub fn inputs(mut self, inputs: Vec<(String, Value)>) -> GroupBuilder {
        let last = self.members.iter_mut().last();
        last.into_iter().for_each(|member| member.inputs = Some(inputs.clone()));
        self
    }

    /// A device; the processor is the only one where none is given. What the first one gives for a
    /// model in f32 all others are held to.
    #[must_use]
    pub fn device(mut self, seat: impl Into<Seat>) -> GroupBuilder {
        self.seats.push(seat.into());
        self
    }

    /// How long plans are compared at least.
    #[must_use]
    pub fn compare(mut self, length: Duration) -> GroupBuilder {
        self.compare = length;
        self
    }

    /// Measures, assigns, compares.
    ///
    /// # Errors
    /// When a name stands twice, no device runs a model, or a run fails.
    pub fn build(self) -> Result<Group, Error> {
        let GroupBuilder { members, mut seats, compare } = self;
        if seats.is_empty() {
            seats.push(crate::open("cpu", None)?.into());
        }
        check(&members, &seats)?;
        Planner { members, seats, length: compare }.plan()
    }
}

fn check(members: &[Member], seats: &[Seat]) -> Result<(), GroupError> {
    if !(1..=MEMBERS_MAX).contains(&members.len()) {
        return Err(GroupError::Members(members.len()));
    }
    if !(1..=DEVICES_MAX).contains(&seats.len()) {
        return Err(GroupError::Devices(seats.len()));
    }
    for (index, seat) in seats.iter().enumerate() {
        let info = seat.device.info();
        let id = || info.id.clone();
        if seats[..index].iter().any(|other| other.device.info().id == info.id) {
            return Err(GroupError::DeviceTwice(id()));
        }
        if info.simulated.is_some() {
            return Err(GroupError::Described(id()));
        }
        if !seat.cores.is_empty() {
            return Err(GroupError::Cores(id()));
        }
    }
    for (index, member) in members.iter().enumerate() {
        let Member { name, weight, .. } = member;
        if members[..index].iter().any(|other| other.name == *name) {
            return Err(GroupError::Twice(name.clone()));
        }
        if !(1..=WEIGHT_MAX).contains(weight) {
            return Err(GroupError::Weight { name: name.clone(), weight: *weight });
        }
    }
    Ok(())
}

/// A model of a group, as it was planned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// What it is called.
    pub name: String,
    /// How often it runs in a round.
    pub weight: u32,
    /// The device that it runs on.
    pub device: String,
    /// The device on which it is the fastest by itself.
    pub best_alone: String,
    /// Seconds of a run by itself, on each device that may do it.
    pub alone_s: BTreeMap<String, f64>,
    /// Why other devices do not.
    pub left: BTreeMap<String, String>,
}

/// An assignment that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// The device of each model.
    pub devices: Vec<String>,
    /// Whether models that the host's processor does take turns.
    pub turns: bool,
    /// Seconds of a round that the busiest device was expected to be busy.
    pub predicted_s: f64,
    /// Seconds of a round.
    pub round_s: Sample,
}

/// How a group was planned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// The models.
    pub members: Vec<Planned>,
    /// Whether models that the host's processor does take turns.
    pub turns: bool,
    /// What was measured, the best first.
    pub tried: Vec<Tried>,
    /// The winner beside every model by itself on its best device, rounds in turn; none where these
    /// are the same.
    pub certificate: Option<Certificate>,
}

/// What every model by itself on its best device is called.
pub const APART: &str = "each by itself";
/// What an assignment is called beside it.
pub const TOGETHER: &str = "together";

/// Several models that share devices.
pub struct Group {
    names: Vec<String>,
    sessions: Vec<Arc<Session>>,
    /// Of each model the queue that its runs stand in, if any.
    queue: Vec<Option<Arc<Turns>>>,
    report: GroupReport,
}

impl Group {
    /// The models, in the order in which they were given.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How it was planned.
    pub fn report(&self) -> &GroupReport {
        &self.report
    }

    /// The session of a model. Runs that are begun there do not wait for their turn.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn session(&self, name: &str) -> Result<&Session, GroupError> {
        Ok(&self.sessions[self.find(name)?])
    }

    /// Runs a model, when it is its turn.
    ///
    /// # Errors
    /// When there is no such model, and as [`Session::run`].
    pub fn run<N, V>(
        &self,
        name: &str,
        inputs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Outputs, Error>
    where
        N: AsRef<str>,
        V: Into<Value>,
    {
        let index = self.find(name)?;
        let _turn = self.queue[index].as_ref().map(|queue| queue.wait());
        self.sessions[index].run(inputs)
    }

    fn find(&self, name: &str) -> Result<usize, GroupError> {
        self.names.iter().position(|other| other == name).ok_or_else(|| GroupError::NoMember {
            name: name.to_string(),
            known: self.names.join(", "),
        })
    }
}

/// Models that are ready on devices of theirs.
struct Ready<'a> {
    sessions: Vec<Arc<Session>>,
    queue: Vec<Option<Arc<Turns>>>,
    inputs: &'a [Vec<(String, Value)>],
    weights: Vec<u32>,
}

impl Ready<'_> {
    /// Seconds of a round: all models begin at one time, and it ends with the last run.
    fn round(&self) -> Result<f64, Error> {
        let begun = Instant::now();
        let fault: Mutex<Option<Error>> = Mutex::new(None);
        let work = |index: usize| {
            for _ in 0..self.weights[index] {
                let _turn = self.queue[index].as_ref().map(|queue| queue.wait());
                let inputs = self.inputs[index].iter().map(|(name, value)| (name, value.clone()));
                if let Err(error) = self.sessions[index].run(inputs) {
                    fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            let work = &work;
            (1..self.sessions.len()).for_each(|index| drop(scope.spawn(move || work(index))));
            work(0);
        });
        let seconds = begun.elapsed().as_secs_f64();
        match fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(seconds),
        }
    }
}

/// Plans a group.
struct Planner {
    members: Vec<Member>,
    seats: Vec<Seat>,
    length: Duration,
}

/// A model that is ready on a device, and what a run of it takes there.
struct Alone {
    session: Arc<Session>,
    seconds: f64,
}

/// By model and device, and, by model, why devices do not.
type AllAlone = (Vec<Vec<Option<Alone>>>, Vec<BTreeMap<String, String>>);

/// What is known of models by themselves.
struct Known<'a> {
    /// By model and device; none where a device does not run it.
    alone: Vec<Vec<Option<Alone>>>,
    /// Why devices do not, by model.
    left: Vec<BTreeMap<String, String>>,
    /// The best device of each model.
    best: Vec<usize>,
    weights: Vec<u32>,
    /// Whether the host's processor does the work of a device.
    host: Vec<bool>,
    inputs: &'a [Vec<(String, Value)>],
}

impl Known<'_> {
    /// Seconds of models on devices.
    fn loads(&self) -> Vec<Vec<Option<f64>>> {
        let row = |row: &Vec<Option<Alone>>| {
            row.iter().map(|alone| Some(alone.as_ref()?.seconds)).collect()
        };
        self.alone.iter().map(row).collect()
    }

    fn ready(&self, assignment: &[usize], turns: bool) -> Ready<'_> {
        let session = |(&device, row): (&usize, &Vec<Option<Alone>>)| {
            Some(row[device].as_ref()?.session.clone())
        };
        Ready {
            sessions: assignment.iter().zip(&self.alone).filter_map(session).collect(),
            queue: queues(assignment, &self.host, turns),
            inputs: self.inputs,
            weights: self.weights.clone(),
        }
    }
}

impl Planner {
    fn id(&self, device: usize) -> &str {
        &self.seats[device].device.info().id
    }

    fn plan(self) -> Result<Group, Error> {
        let inputs = self.members.iter().map(sample_inputs).collect::<Result<Vec<_>, _>>()?;
        let (alone, left) = self.alone(&inputs)?;
        let known = Known {
            left,
            best: alone.iter().map(|row| best(row)).collect(),
            weights: self.weights(&alone),
            host: self.seats.iter().map(|seat| on_host(seat.device.info())).collect(),
            inputs: &inputs,
            alone,
        };
        let tried = self.tried(&known)?;
        let best = &known.best;
        let (mut chosen, mut certificate) = ((best.clone(), false), None);
        if let Some((first, device)) = tried.first()
            && (device != best || first.turns)
        {
            let (together, apart) = (known.ready(device, first.turns), known.ready(best, false));
            let found = compare(
                (TOGETHER, &mut || together.round()),
                (APART, &mut || apart.round()),
                self.length,
            )?;
            if found.winner == TOGETHER {
                chosen = (device.clone(), first.turns);
            }
            certificate = Some(found);
        }
        let (device, turns) = chosen;
        let members = (0..self.members.len()).map(|index| self.planned(&known, index, &device));
        let report = GroupReport {
            members: members.collect(),
            turns,
            tried: tried.into_iter().map(|(row, _)| row).collect(),
            certificate,
        };
        let Ready { sessions, queue, .. } = known.ready(&device, turns);
        let names = self.members.iter().map(|member| member.name.clone()).collect();
        Ok(Group { names, sessions, queue, report })
    }

    /// How often models run in the rounds that are measured.
    fn weights(&self, alone: &[Vec<Option<Alone>>]) -> Vec<u32> {
        let least = |row: &Vec<Option<Alone>>| {
            let seconds = row.iter().flatten().map(|alone| alone.seconds);
            seconds.fold(f64::INFINITY, f64::min)
        };
        let round = self.members.iter().zip(alone);
        let round: f64 = round.map(|(member, row)| f64::from(member.weight) * least(row)).sum();
        let scale = (ROUND_MAX_S / round).min(1.0);
        let weight = |member: &Member| (f64::from(member.weight) * scale).round().max(1.0) as u32;
        self.members.iter().map(weight).collect()
    }

    /// Rounds of the assignments that promise the most, the shortest first, each with its devices.
    fn tried(&self, known: &Known<'_>) -> Result<Vec<(Tried, Vec<usize>)>, Error> {
        let seconds = known.loads();
        let load = Load { seconds: &seconds, weights: &known.weights, host: &known.host };
        let mut tried: Vec<(Tried, Vec<usize>)> = Vec::new();
        for Assignment { device, busiest_s } in assignments(&load, TRIED_MAX, &known.best) {
            let sharing = device.iter().filter(|&&device| known.host[device]).count() > 1;
            for turns in [false, true].into_iter().filter(|&turns| sharing || !turns) {
                let round_s = rounds(&known.ready(&device, turns), self.length / 4)?;
                let devices = device.iter().map(|&device| self.id(device).to_string()).collect();
                let row = Tried { devices, turns, predicted_s: busiest_s, round_s };
                tried.push((row, device.clone()));
            }
        }
        tried.sort_by(|a, b| a.0.round_s.median.total_cmp(&b.0.round_s.median));
        Ok(tried)
    }

    fn planned(&self, known: &Known<'_>, index: usize, device: &[usize]) -> Planned {
        let Member { name, weight, .. } = &self.members[index];
        let alone =
            |at: usize| Some((self.id(at).to_string(), known.alone[index][at].as_ref()?.seconds));
        Planned {
            name: name.clone(),
            weight: *weight,
            device: self.id(device[index]).to_string(),
            best_alone: self.id(known.best[index]).to_string(),
            alone_s: (0..self.seats.len()).filter_map(alone).collect(),
            left: known.left[index].clone(),
        }
    }

    /// Every model by itself on every device; none where a device does not run it, and why.
    fn alone(&self, inputs: &[Vec<(String, Value)>]) -> Result<AllAlone, Error> {
        let (mut all, mut left) = (Vec::new(), Vec::new());
        for (member, inputs) in self.members.iter().zip(inputs) {
            let (mut reasons, mut wanted) = (BTreeMap::new(), None);
            let mut row = Vec::new();
            for device in 0..self.seats.len() {
                let found = self.one(member, device, inputs, &mut wanted);
                let found = found.map_err(|reason| {
                    reasons.insert(self.id(device).to_string(), reason);
                });
                row.push(found.ok());
            }
            // What nobody will be assigned to need not stay.
            let seconds = |alone: &Option<Alone>| alone.as_ref().map(|alone| alone.seconds);
            let least = row.iter().filter_map(seconds).fold(f64::INFINITY, f64::min);
            for (device, alone) in row.iter_mut().enumerate() {
                if let Some(times) = seconds(alone).map(|seconds| seconds / least)
                    && times > HOPELESS
                {
                    *alone = None;
                    let reason = format!("it takes {times:.0} times as long as the best one");
                    reasons.insert(self.id(device).to_string(), reason);
                }
            }
            if row.iter().all(Option::is_none) {
                let reasons = reasons.iter().map(|(id, reason)| format!("{id}: {reason}"));
                let (name, reasons) = (member.name.clone(), reasons.collect::<Vec<_>>().join("; "));
                return Err(GroupError::NoDevice { name, reasons }.into());
            }
            all.push(row);
            left.push(reasons);
        }
        Ok((all, left))
    }

    /// A model by itself; `wanted` is what the first device gave.
    fn one(
        &self,
        member: &Member,
        device: usize,
        inputs: &[(String, Value)],
        wanted: &mut Option<Vec<Value>>,
    ) -> Result<Alone, String> {
        let text = |error: Error| error.to_string();
        let device = self.seats[device].device.clone();
        let session = Session::builder().model(member.model.clone()).on(device).build();
        let session = Arc::new(session.map_err(text)?);
        let outputs = session.run(inputs.to_vec()).map_err(text)?;
        let got: Vec<Value> = outputs.iter().map(|(_, value)| value.clone()).collect();
        let error = gate_error(wanted.get_or_insert_with(|| got.clone()), &got);
        if error > ERROR_MAX {
            return Err(format!(
                "its outputs differ from the first device's by {error:.2e} of the largest; {ERROR_MAX:.0e} is allowed"
            ));
        }
        let inputs = vec![inputs.to_vec()];
        let ready =
            Ready { sessions: vec![session], queue: vec![None], inputs: &inputs, weights: vec![1] };
        let seconds = rounds(&ready, ALONE).map_err(text)?.median;
        Ok(Alone { session: ready.sessions[0].clone(), seconds })
    }
}

/// Largest difference from the first device's outputs, in parts of the largest magnitude.
const ERROR_MAX: f64 = 1e-2;
/// Rounds are measured with fewer runs of each model, in proportion, where they would be longer.
const ROUND_MAX_S: f64 = 1.0;

/// The device that takes the least.
fn best(row: &[Option<Alone>]) -> usize {
    let seconds = |at: &usize| row[*at].as_ref().map_or(f64::INFINITY, |alone| alone.seconds);
    (0..row.len()).min_by(|a, b| seconds(a).total_cmp(&seconds(b))).unwrap_or(0)
}

/// A queue for all models that the host's processor does, where they take turns.
fn queues(assignment: &[usize], host: &[bool], turns: bool) -> Vec<Option<Arc<Turns>>> {
    let queue = Arc::new(Turns::default());
    let of = |&device: &usize| (turns && host[device]).then(|| queue.clone());
    assignment.iter().map(of).collect()
}

/// Fewest rounds that count, and those before them that do not.
const ROUNDS_MIN: usize = 5;
const WARM_UPS: usize = 2;

/// Rounds for so long.
fn rounds(ready: &Ready<'_>, length: Duration) -> Result<Sample, Error> {
    for _ in 0..WARM_UPS {
        ready.round()?;
    }
    let (begun, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < ROUNDS_MIN || begun.elapsed() < length {
        seconds.push(ready.round()?);
    }
    Ok(Sample::of(seconds))
}

/// What a model is tried with: what was given, or numbers that mean nothing.
fn sample_inputs(member: &Member) -> Result<Vec<(String, Value)>, Error> {
    if let Some(inputs) = &member.inputs {
        return Ok(inputs.clone());
    }
    let graph = &member.model.graph;
    let needed = graph.inputs.iter().filter(|id| !graph.constants.contains_key(id));
    let input = |&id: &hetra_ir::ValueId| {
        let (name, ty) = (graph.value(id).name.clone(), graph.ty(id));
        let none = || GroupError::NoInput { name: member.name.clone(), input: name.clone() };
        let value = crate::made_up(ty, &|_| 1, u64::from(id.0)).ok_or_else(none)?;
        Ok((name, value))
    };
    needed.map(input).collect()
}
