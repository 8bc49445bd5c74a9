//! What a run did, and when.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Instant;

use hetra_device::Modelled;
use hetra_tensor::DType;
use serde::{Serialize, Serializer};

use crate::simulated::Simulated;

/// Most steps of bodies in one trace, give or take those of one turn: a loop may make millions.
const BODY_STEPS_MAX: usize = 1 << 16;

/// One step of a run.
#[derive(Clone, Debug, Serialize)]
pub struct StepTime {
    /// Its place among the nodes of its graph: names may be those of several.
    #[serde(skip)]
    pub index: usize,
    /// Node name, or its operator and first output.
    pub node: String,
    /// Operator.
    pub op: String,
    /// Device that ran it.
    pub device: String,
    /// Kernel that ran, such as `gemm avx512` or `reference`.
    pub kernel: String,
    /// Type of the first output.
    pub output: String,
    /// Scalar operations, a multiply-add counted as two; 0 where a shape is not known beforehand.
    pub ops: f64,
    /// What it multiplies: f32, bf16, or 8-bit integers.
    #[serde(serialize_with = "as_text")]
    pub numbers: DType,
    /// Bytes that it reads and writes, as far as shapes are known beforehand: those of its inputs
    /// and outputs, of what it moves as many as it writes, and none for a view.
    pub bytes: u64,
    /// Nanoseconds from the start of the run.
    pub start_ns: u64,
    /// Nanoseconds that it took, measured.
    pub duration_ns: u64,
    /// Nanoseconds of its kernels by the device's own clock, measured; `None` where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_ns: Option<u64>,
    /// What it takes on a device that is only described; start and duration are modelled then, and
    /// so is the start of every other step of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modelled: Option<Modelled>,
    /// Steps of its bodies, turn after turn, in the order they ran.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inner: Vec<StepTime>,
}

fn as_text<S: Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(dtype)
}

impl StepTime {
    /// Nanoseconds that are not those of steps inside.
    pub fn own_ns(&self) -> u64 {
        let inner = self.inner.iter().map(|step| step.duration_ns).sum();
        self.duration_ns.saturating_sub(inner)
    }
}

/// Something that befell a device in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Nanoseconds from the start of the run.
    pub at_ns: u64,
    /// The device.
    pub device: String,
    /// The part, by its node.
    pub node: String,
    /// What it was, and what was done: `failed (..): the host does it`.
    pub what: String,
}

/// One run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trace {
    /// What befell devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// Steps in the order they ran.
    pub steps: Vec<StepTime>,
    /// Turns of bodies whose steps are left out, since there were too many: their time is in the
    /// step around.
    pub turns_left_out: usize,
    /// Nanoseconds spent on making the plan; 0 when it was cached.
    pub plan_ns: u64,
    /// Nanoseconds of the whole run, measured.
    pub total_ns: u64,
    /// Bytes of the plan's memory slots.
    pub slot_bytes: usize,
    /// How the run would go, where devices of it are only described.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated: Option<Simulated>,
}

impl Trace {
    /// All steps, each before those inside it.
    fn all(&self) -> Vec<&StepTime> {
        let mut all = Vec::new();
        let mut next: Vec<&StepTime> = self.steps.iter().rev().collect();
        while let Some(step) = next.pop() {
            all.push(step);
            next.extend(step.inner.iter().rev());
        }
        all
    }

    /// The trace as Chrome's trace-event JSON (load it in a trace viewer): a line for each device.
    pub fn to_chrome(&self) -> String {
        let micros = |ns: u64| ns as f64 / 1e3;
        let mut devices: Vec<&str> = Vec::new();
        for step in self.all() {
            if !devices.contains(&step.device.as_str()) {
                devices.push(&step.device);
            }
        }
        let line = |device: &str| devices.iter().position(|known| *known == device).unwrap_or(0);
        let names = devices.iter().enumerate().map(|(tid, device)| {
            serde_json::json!({
                "name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": {"name": device},
            })
        });
        let befell = self.events.iter().map(|event| {
            serde_json::json!({
                "name": event.what, "cat": event.device, "ph": "i", "s": "p", "pid": 1,
                "tid": line(&event.device), "ts": micros(event.at_ns), "args": {"node": event.node},
            })
        });
        let events: Vec<serde_json::Value> = self
            .all()
            .into_iter()
            .map(|step| {
                serde_json::json!({
                    "name": step.op, "cat": step.device, "ph": "X", "pid": 1,
                    "tid": line(&step.device),
                    "ts": micros(step.start_ns), "dur": micros(step.duration_ns),
                    "args": {
                        "node": step.node, "kernel": step.kernel, "output": step.output,
                        "kernel_us": step.kernel_ns.map(micros),
                    },
                })
            })
            .chain(names)
            .chain(befell)
            .collect();
        serde_json::json!({ "traceEvents": events, "displayTimeUnit": "ms" }).to_string()
    }

    /// Time by operator and kernel: (operator, kernel, runs, nanoseconds), longest first. Steps of
    /// bodies count for themselves, and not for the step around.
    pub fn by_kernel(&self) -> Vec<(String, String, usize, u64)> {
        let mut sums = BTreeMap::<(&str, &str), (usize, u64)>::new();
        for step in self.all() {
            let entry = sums.entry((&step.op, &step.kernel)).or_default();
            entry.0 += 1;
            entry.1 += step.own_ns();
        }
        let mut rows: Vec<_> = sums
            .into_iter()
            .map(|((op, kernel), (runs, ns))| (op.to_string(), kernel.to_string(), runs, ns))
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.3));
        rows
    }
}

/// The clock of one run, and how much may yet be written down.
pub(crate) struct Recorder {
    started: Instant,
    room: Cell<usize>,
    turns_left_out: Cell<usize>,
    events: RefCell<Vec<Event>>,
}

/// What came of one run of a graph, beside its values.
pub(crate) struct Recorded {
    /// Empty where no times were wanted.
    pub(crate) steps: Vec<StepTime>,
    pub(crate) plan_ns: u64,
    pub(crate) slot_bytes: usize,
    pub(crate) simulated: Option<Simulated>,
}

impl Recorder {
    pub(crate) fn start() -> Recorder {
        let (room, turns_left_out) = (Cell::new(BODY_STEPS_MAX), Cell::new(0));
        Recorder { started: Instant::now(), room, turns_left_out, events: RefCell::default() }
    }

    /// Another one by the same clock, for a thread beside; each has half of the room.
    pub(crate) fn beside(&self) -> Recorder {
        let half = self.room.get() / 2;
        self.room.update(|room| room - half);
        Recorder {
            started: self.started,
            room: Cell::new(half),
            turns_left_out: Cell::new(0),
            events: RefCell::default(),
        }
    }

    /// Writes down that the host does what a device did not.
    pub(crate) fn event(&self, device: &str, node: String, what: &str) {
        let event = Event {
            at_ns: self.now_ns(),
            device: device.to_string(),
            node,
            what: format!("{what}: the host does it"),
        };
        self.events.borrow_mut().push(event);
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Whether the steps of one turn of a body are to be written down.
    pub(crate) fn begin_body(&self) -> bool {
        let room = self.room.get() > 0;
        self.turns_left_out.update(|turns| turns + usize::from(!room));
        room
    }

    /// Takes the room for the steps of one turn.
    pub(crate) fn end_body(&self, steps: usize) {
        self.room.update(|room| room.saturating_sub(steps));
    }

    /// The trace of the run that ends now.
    pub(crate) fn trace(&self, top: Recorded) -> Trace {
        Trace {
            events: self.events.take(),
            steps: top.steps,
            turns_left_out: self.turns_left_out.get(),
            plan_ns: top.plan_ns,
            total_ns: self.now_ns(),
            slot_bytes: top.slot_bytes,
            simulated: top.simulated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(op: &str, duration_ns: u64, inner: Vec<StepTime>) -> StepTime {
        let text = |text: &str| text.to_string();
        StepTime {
            index: 0,
            numbers: DType::F32,
            node: text("n"),
            op: text(op),
            device: text("cpu"),
            kernel: text("k"),
            output: text("f32[]"),
            ops: 0.0,
            bytes: 0,
            start_ns: 0,
            duration_ns,
            kernel_ns: None,
            modelled: None,
            inner,
        }
    }

    #[test]
    fn the_time_of_a_body_is_counted_once() {
        let turns = vec![step("Add", 10, vec![]), step("If", 50, vec![step("Add", 30, vec![])])];
        let steps = vec![step("Loop", 100, turns), step("Add", 5, vec![])];
        let trace = Trace { steps, ..Trace::default() };
        let row = |op: &str, runs, ns| (op.to_string(), "k".to_string(), runs, ns);
        let wanted = [row("Add", 3, 45), row("Loop", 1, 40), row("If", 1, 20)];
        assert_eq!(trace.by_kernel(), wanted);
        assert_eq!(trace.to_chrome().matches("\"ph\":\"X\"").count(), 5);
        assert_eq!(trace.to_chrome().matches("thread_name").count(), 1);
    }

    #[test]
    fn a_recorder_has_room_for_so_much() {
        let recorder = Recorder::start();
        assert!(recorder.begin_body());
        recorder.end_body(BODY_STEPS_MAX - 1);
        assert!(recorder.begin_body());
        recorder.end_body(7);
        assert!(!recorder.begin_body() && !recorder.begin_body());
        let top = Recorded { steps: Vec::new(), plan_ns: 0, slot_bytes: 0, simulated: None };
        assert_eq!(recorder.trace(top).turns_left_out, 2);
    }
}
