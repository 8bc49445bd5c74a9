//! A plan as a file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::placing::accept::Certificate;
use crate::placing::costs::CostSource;
use crate::placing::goal::Figures;

/// The form of the file.
pub(crate) const FORMAT: u32 = 2;
/// Most bytes of a plan's file.
const BYTES_MAX: usize = 64 << 20;

/// Where the nodes of a model run, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// The form of the file: 2.
    pub format: u32,
    /// What it was made for, as `sha256` of the graph and its weights.
    pub model: String,
    /// What was to be made small: `latency`, `throughput`, `energy`, `cost`, or a weighted sum.
    pub goal: String,
    /// The types of the inputs that it was measured with, by name.
    pub inputs: BTreeMap<String, String>,
    /// The devices that parts stand on; the host's first.
    pub devices: Vec<PlanDevice>,
    /// Which nodes stand where. Each node is in one of them.
    pub parts: Vec<PlanPart>,
    /// The name of the plan that was chosen: a device's id, or `mix`.
    pub chosen: String,
    /// Seconds that a run of the chosen plan was expected to take, from what its tasks took.
    pub predicted_s: f64,
    /// Everything that was considered, the best prediction first.
    pub considered: Vec<Considered>,
    /// What was left out, and why.
    pub refused: Vec<Refused>,
    /// What did not keep a plan from being made.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Of devices of which costs were learned: half of those that were held out were off by more,
    /// in parts.
    #[serde(default)]
    pub learned_spread: BTreeMap<String, f64>,
    /// The tasks that were placed, with what each takes on each device.
    pub tasks: Vec<PlanTask>,
    /// Plans none of which is better than another in every respect, by what tasks took; empty where
    /// they were not asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frontier: Vec<Frontier>,
    /// What no placement of these tasks is below; none where no policy placed them.
    pub bound: Option<Bounded>,
    /// One run of the chosen plan, step by step: the median of a few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<PlanStep>,
    /// The measurement that the choice rests on; none where there was one plan only.
    pub certificate: Option<Certificate>,
}

/// A device of a plan, as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanDevice {
    /// What `--device` takes.
    pub id: String,
    /// What it is.
    pub name: String,
    /// The version of its driver.
    pub version: String,
    /// Host threads that it was opened with; 0 is its own choice.
    pub threads: usize,
    /// Whether the host's processor plays it.
    pub software: bool,
    /// Processors of the host that it keeps to; none where it may use all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<usize>,
}

/// Nodes that one device does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanPart {
    /// The device's id.
    pub device: String,
    /// The nodes, by their places in the graph: pairs of the first and the one behind the last.
    pub nodes: Vec<(u32, u32)>,
    /// The label of the first node.
    pub first: String,
    /// The label of the last node.
    pub last: String,
    /// Why it is there.
    pub cause: String,
    /// Seconds that its nodes take there, by what their tasks took; none where they were not timed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_s: Option<f64>,
    /// Joules of that, where the device's power is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// What is brought from other devices for it.
    #[serde(default)]
    pub copies_in: Copies,
    /// What it makes for other devices.
    #[serde(default)]
    pub copies_out: Copies,
    /// The next best device that does all of it, and what that takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextBest>,
    /// Devices that might do it better, if they did all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<Blocked>,
}

/// Values that cross from one device to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copies {
    /// How many.
    pub values: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Seconds, as copies were measured or a link is described.
    pub seconds: f64,
}

/// What another device takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextBest {
    /// The device.
    pub device: String,
    /// Seconds.
    pub seconds: f64,
}

/// What keeps a part from a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocked {
    /// The device.
    pub device: String,
    /// The task that it does not do, by its first node.
    pub by: String,
    /// Why not.
    pub reason: String,
    /// Seconds that it would save if it did, in proportion to what it takes for the other tasks.
    pub gain_s: f64,
}

/// A step of a run of the chosen plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanStep {
    /// The device.
    pub device: String,
    /// The first node, or what the step is called.
    pub name: String,
    /// Seconds from the start of the run.
    pub start_s: f64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Whether its device is only described.
    #[serde(default)]
    pub modelled: bool,
}

/// A plan that was considered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Considered {
    /// A device's id, or `mix`.
    pub name: String,
    /// The policy that found it; none for a single device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What the goal makes small, by what the tasks took: seconds, joules, dollars, or parts of
    /// what the host takes. None where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<f64>,
    /// The same of whole runs, the median; none where it was not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// What whole runs took in each respect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
    /// Whether a device of it is only described, so that what whole runs took is modelled.
    #[serde(default)]
    pub modelled: bool,
    /// The largest difference of an output from the processor's in f32, in parts of the output's
    /// largest magnitude.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
}

/// One of the plans of which none is better than another in every respect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frontier {
    /// Its devices.
    pub devices: Vec<String>,
    /// What it takes, by what the tasks took.
    pub figures: Figures,
}

/// A device or a plan that was left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// A device's id, or `mix`.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Some nodes, and what they take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanTask {
    /// The label of the first node.
    pub first: String,
    /// How many nodes.
    pub nodes: usize,
    /// Operations of them, a multiply-add counted as two.
    pub ops: f64,
    /// Bytes of the values that they give to others.
    pub out_bytes: u64,
    /// Seconds on each device that does it.
    pub seconds: BTreeMap<String, f64>,
    /// Where these come from.
    #[serde(default)]
    pub from: BTreeMap<String, CostSource>,
    /// Why other devices do not.
    pub left: Vec<Left>,
    /// Where it was placed.
    pub device: String,
    /// The tasks whose values it reads, and how many bytes; an input of the model is read of none.
    #[serde(default)]
    pub reads: Vec<(usize, u64)>,
}

/// Why a device does not do a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// The device.
    pub device: String,
    /// Why.
    pub reason: String,
}

/// A bound of the prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounded {
    /// In the unit of the goal.
    pub score: f64,
    /// What says so: `path`, `work` or `exact`.
    pub by: String,
}

/// Why a plan is not taken.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum PlanError {
    #[error("the plan is not readable: {0}")]
    Syntax(String),
    #[error("the plan has form {got}; this program reads form {wanted}")]
    Format { got: u32, wanted: u32 },
    #[error("the plan was made for another model ({got}; this one is {wanted}): plan it again")]
    Model { got: String, wanted: String },
    #[error("the plan is stale: {device} was {was}, and is {is} now: plan it again")]
    Device { device: String, was: String, is: String },
    #[error(
        "the plan places node {node} {times} times; each has one place (the model has {nodes})"
    )]
    Nodes { node: u32, times: usize, nodes: usize },
    #[error("the plan names device {device} for a part and not among its devices ({known})")]
    Unknown { device: String, known: String },
    #[error("the plan's devices are malformed: {0}")]
    Devices(String),
    #[error("there is nothing to place on: {}", .0.join("; "))]
    NoDevices(Vec<String>),
    #[error("`{0}` stands twice among the devices")]
    Twice(String),
    #[error(
        "{goal}: the {what} of {device} is not known; a machine file says it (`--machine FILE` with \
         {field} of [device.\"{device}\"])"
    )]
    NoRate { goal: String, what: &'static str, device: String, field: &'static str },
    #[error("{0} is no bound that a plan can keep: wanted a positive number")]
    Bound(f64),
    #[error("no plan keeps to the bounds; the nearest: {}", .0.join("; "))]
    Bounds(Vec<String>),
    #[error("{option} {pattern}={device}: {reason}")]
    Pin { option: &'static str, pattern: String, device: String, reason: String },
    #[error(transparent)]
    Place(#[from] hetra_place::PlaceError),
}

impl PlanFile {
    /// Reads a plan.
    ///
    /// # Errors
    /// What is no plan, or one of another form.
    pub fn parse(text: &str) -> Result<PlanFile, PlanError> {
        if text.len() > BYTES_MAX {
            let reason = format!("{} bytes; {BYTES_MAX} at most", text.len());
            return Err(PlanError::Syntax(reason));
        }
        // The form first: another one may have other fields.
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let syntax = |error: serde_json::Error| PlanError::Syntax(error.to_string());
        let form: Form = serde_json::from_str(text).map_err(syntax)?;
        if form.format != FORMAT {
            return Err(PlanError::Format { got: form.format, wanted: FORMAT });
        }
        let plan: PlanFile = serde_json::from_str(text).map_err(syntax)?;
        plan.check()?;
        Ok(plan)
    }

    /// # Errors
    /// Places that nothing is at.
    fn check(&self) -> Result<(), PlanError> {
        let reads = |task: &PlanTask| task.reads.iter().all(|(from, _)| *from < self.tasks.len());
        if let Some(task) = self.tasks.iter().find(|task| !reads(task)) {
            return Err(PlanError::Syntax(format!(
                "task `{}` reads of one that is none",
                task.first
            )));
        }
        let ranges = |part: &PlanPart| part.nodes.iter().all(|(from, to)| from < to);
        match self.parts.iter().find(|part| !ranges(part)) {
            Some(part) => {
                Err(PlanError::Syntax(format!("part `{}` has nodes that end first", part.first)))
            }
            None => Ok(()),
        }
    }

    /// The text of the file.
    pub fn print(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The device of each node of a graph with so many.
    pub(crate) fn choice(&self, nodes: usize) -> Result<Vec<usize>, PlanError> {
        let mut choice: Vec<Option<usize>> = vec![None; nodes];
        for part in &self.parts {
            let device = self.devices.iter().position(|device| device.id == part.device);
            let device = device.ok_or_else(|| PlanError::Unknown {
                device: part.device.clone(),
                known: self.devices.iter().map(|d| d.id.as_str()).collect::<Vec<_>>().join(", "),
            })?;
            for &(from, to) in &part.nodes {
                let fault = |node: u32, times: usize| PlanError::Nodes { node, times, nodes };
                if from >= to || to as usize > nodes {
                    return Err(fault(to.max(1) - 1, 1));
                }
                for node in from..to {
                    if choice[node as usize].replace(device).is_some() {
                        return Err(fault(node, 2));
                    }
                }
            }
        }
        let missing = choice.iter().position(Option::is_none);
        if let Some(node) = missing {
            return Err(PlanError::Nodes { node: node as u32, times: 0, nodes });
        }
        Ok(choice.into_iter().flatten().collect())
    }
}

/// Places as pairs of a first one and the one behind the last.
pub(crate) fn ranges(places: impl Iterator<Item = usize>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for place in places.map(|place| place as u32) {
        match ranges.last_mut() {
            Some((_, to)) if *to == place => *to += 1,
            _ => ranges.push((place, place + 1)),
        }
    }
    ranges
}

#[cfg(test)]
pub(super) fn sample(parts: Vec<(&str, Vec<(u32, u32)>)>) -> PlanFile {
    let device = |id: &str| PlanDevice {
        id: id.to_string(),
        name: String::new(),
        version: String::new(),
        threads: 0,
        software: false,
        cores: Vec::new(),
    };
    let part = |(device, nodes): (&str, Vec<(u32, u32)>)| PlanPart {
        device: device.to_string(),
        nodes,
        first: String::new(),
        last: String::new(),
        cause: String::new(),
        predicted_s: Some(0.5),
        joules: None,
        copies_in: Copies::default(),
        copies_out: Copies::default(),
        next: None,
        blocked: Vec::new(),
    };
    PlanFile {
        format: FORMAT,
        model: String::new(),
        goal: "latency".to_string(),
        inputs: BTreeMap::new(),
        devices: vec![device("cpu"), device("ort")],
        parts: parts.into_iter().map(part).collect(),
        chosen: "mix".to_string(),
        predicted_s: 1.0,
        considered: Vec::new(),
        refused: Vec::new(),
        warnings: Vec::new(),
        learned_spread: BTreeMap::new(),
        tasks: Vec::new(),
        frontier: Vec::new(),
        timeline: Vec::new(),
        bound: Some(Bounded { score: 0.5, by: "path".to_string() }),
        certificate: None,
    }
}

#[cfg(test)]
mod tests {
    use super::sample as plan;
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_is_written() {
        let plan = plan(vec![("cpu", vec![(0, 2)]), ("ort", vec![(2, 3)])]);
        assert_eq!(PlanFile::parse(&plan.print()).unwrap(), plan);
        assert_eq!(plan.choice(3).unwrap(), [0, 0, 1]);
        assert_eq!(ranges([0, 1, 3].into_iter()), [(0, 2), (3, 4)]);
    }

    #[test]
    fn broken_plans_say_what_is_wrong() {
        let fault = |parts, nodes| plan(parts).choice(nodes).unwrap_err().to_string();
        let twice = fault(vec![("cpu", vec![(0, 2)]), ("ort", vec![(1, 2)])], 2);
        assert!(twice.contains("node 1 2 times"), "{twice}");
        let never = fault(vec![("cpu", vec![(0, 1)])], 2);
        assert!(never.contains("node 1 0 times"), "{never}");
        assert!(fault(vec![("cpu", vec![(0, 9)])], 2).contains("the model has 2"));
        assert!(fault(vec![("gpu", vec![(0, 1)])], 1).contains("device gpu"));
        let text = plan(vec![]).print();
        let error = |text: &str| PlanFile::parse(text).unwrap_err().to_string();
        assert!(error(&text.replace("\"format\": 2", "\"format\": 7")).contains("form 7"));
        assert!(error(&text.replace("\"goal\"", "\"gaol\"")).contains("unknown field `gaol`"));
        assert!(error("{").contains("not readable"));
    }
}
