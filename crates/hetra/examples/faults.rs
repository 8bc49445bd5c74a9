//! Runs plans on devices that fail, hang and get lost at every step, and prints what became of the
//! runs, as JSON. `cargo xtask bench faults` runs it: `faults MODEL RUNS DEVICE..`.
#![allow(clippy::print_stdout, reason = "its output is its product")]
#![allow(clippy::print_stderr, reason = "progress goes to stderr")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetra::placing::{self, PlanFile, PlanOptions};
use hetra::{Faults, Faulty, Graph, RunOptions, Seat, Session, Value};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// When a run must have ended. A call that hangs does so for longer.
const DEADLINE: Duration = Duration::from_millis(400);
/// A device is given up on after so long, or half of what is left of the deadline.
const HANG_FOR: Duration = Duration::from_millis(600);
/// How long a device that failed is left alone at first, and a little.
const REST: Duration = Duration::from_millis(130);
/// Parts of the plan, every other one on the device.
const PARTS: usize = 6;

/// What goes wrong, as it stands in ids.
const KINDS: [&str; 3] = ["fail_at", "hang_at", "lose_at"];

/// What became of the runs of one kind on one device.
#[derive(Default)]
struct Tally {
    runs: usize,
    answered: usize,
    /// Refused before the deadline with an error that names a node or a device.
    refused: usize,
    late: usize,
    wrong: usize,
    /// What a run took beside what it takes when all is well.
    recovery_ms: Vec<f64>,
}

/// A plan whose parts stand on the host and on a device in turn.
fn plan(graph: &Graph, seats: &[Seat], inputs: &[Value]) -> Result<PlanFile> {
    let placed = placing::placed_graph(graph);
    let (count, ids) = (placed.nodes.len(), [0, 1].map(|at| seats[at].device.info().id.clone()));
    let pin = |(index, node): (usize, &hetra::Node)| {
        let part = index * PARTS / count.max(1);
        (node.label(&placed), ids[part % 2].clone())
    };
    let options = PlanOptions {
        pins: placed.nodes.iter().enumerate().map(pin).collect(),
        compare: Duration::from_millis(10),
        ..PlanOptions::default()
    };
    Ok(placing::plan(graph, seats, inputs, &options, &mut |_| {})?)
}

fn random(graph: &Graph) -> Result<Vec<(String, Value)>> {
    let input = |&id: &hetra::ValueId| {
        let value = hetra::made_up(graph.ty(id), &|_| 1, u64::from(id.0));
        Ok((graph.value(id).name.clone(), value.ok_or("an input that is no tensor")?))
    };
    graph.inputs.iter().map(input).collect()
}

/// The largest difference, in parts of the largest magnitude.
fn off(got: &hetra::Outputs, wanted: &hetra::Outputs) -> f64 {
    let of = |at: usize| {
        let numbers = |outputs: &hetra::Outputs| -> Option<Vec<f32>> {
            Some(outputs[at].as_tensor()?.as_slice::<f32>().ok()?.to_vec())
        };
        let (Some(got), Some(wanted)) = (numbers(got), numbers(wanted)) else { return 0.0 };
        let largest = wanted.iter().fold(1e-4f32, |most, number| most.max(number.abs()));
        let pairs = got.iter().zip(&wanted);
        let most = pairs.map(|(got, wanted)| (got - wanted).abs()).fold(0f32, f32::max);
        f64::from(most / largest)
    };
    (0..wanted.len()).map(of).fold(0.0, f64::max)
}

/// A session on a device with faults, and what tells it to have some.
struct Bench {
    session: Session,
    faulty: Arc<Faulty>,
    inputs: Vec<(String, Value)>,
    wanted: hetra::Outputs,
    /// Calls of the device in one run.
    calls: usize,
    normal_ms: f64,
}

impl Bench {
    fn new(graph: &Graph, id: &str) -> Result<Bench> {
        let inputs = random(graph)?;
        let values: Vec<Value> = inputs.iter().map(|(_, value)| value.clone()).collect();
        let host: Seat = hetra::open("cpu", None)?.into();
        let faulty = Arc::new(Faulty::new(hetra::open(id, None)?, Faults::default()));
        let seats = vec![host, Seat::from(faulty.clone() as Arc<dyn hetra::Device>)];
        let plan = plan(graph, &seats, &values)?;
        let session = Session::builder()
            .graph(graph.clone())
            .plan(plan)
            .seats(seats)
            .watched(Duration::from_millis(250))
            .build()?;
        let host = Session::builder().graph(graph.clone()).build()?;
        let wanted = host.run(inputs.clone())?;
        faulty.meet(Faults::default());
        session.run(inputs.clone())?;
        let calls = faulty.calls() as usize;
        let mut bench = Bench { session, faulty, inputs, wanted, calls, normal_ms: 0.0 };
        let mut times: Vec<f64> = Vec::new();
        for _ in 0..30 {
            let begun = Instant::now();
            bench.session.run(bench.inputs.clone())?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        bench.normal_ms = times[times.len() / 2];
        Ok(bench)
    }

    /// One run in which something goes wrong in a call of the device.
    fn strike(&self, kind: &str, call: usize, tally: &mut Tally) -> Result<()> {
        let hang = HANG_FOR.as_millis();
        self.faulty.meet(Faults::parse(&format!("{kind}={call}&hang_for={hang}ms"))?);
        let begun = Instant::now();
        let options = RunOptions { deadline: Some(begun + DEADLINE), ..RunOptions::default() };
        let ran = self.session.run_within(self.inputs.clone(), &options);
        let took = begun.elapsed();
        tally.runs += 1;
        match ran {
            Ok(outputs) => {
                tally.answered += 1;
                tally.wrong += usize::from(off(&outputs, &self.wanted) > 1e-2);
                tally.recovery_ms.push((took.as_secs_f64() * 1e3 - self.normal_ms).max(0.0));
            }
            Err(error) => {
                eprintln!("refused: {error}");
                tally.refused += 1;
            }
        }
        tally.late += usize::from(took > DEADLINE);
        self.faulty.meet(Faults::default());
        Ok(())
    }

    /// Runs until the device does its parts again; false where it does not in time.
    fn recovers(&self, hung: bool) -> Result<bool> {
        let begun = Instant::now();
        let limit = if hung { HANG_FOR * 3 } else { REST * 20 };
        while begun.elapsed() < limit {
            std::thread::sleep(REST / 4);
            self.session.run(self.inputs.clone())?;
            // Calls are counted anew since all is well again.
            if self.session.failing().is_empty() && self.faulty.calls() > 0 {
                return Ok(true);
            }
        }
        eprintln!("not admitted again in {limit:?}: {:?}", self.session.failing());
        Ok(false)
    }
}

/// What this process holds: threads, and KiB of memory.
fn held() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    };
    (field("Threads:").unwrap_or(0), field("VmRSS:").unwrap_or(0))
}

fn quantile(numbers: &mut [f64], part: f64) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let at = (numbers.len().saturating_sub(1) as f64 * part).round() as usize;
    numbers.get(at).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(runs)) = (args.next(), args.next()) else {
        return Err("faults MODEL RUNS DEVICE..".into());
    };
    let (runs, devices): (usize, Vec<String>) = (runs.parse()?, args.collect());
    let graph = hetra::import_file(std::path::Path::new(&model), &Default::default())?.graph;
    let each = runs.div_ceil(devices.len().max(1) * KINDS.len());
    let mut rows = Vec::new();
    for device in &devices {
        let bench = Bench::new(&graph, device)?;
        for kind in KINDS {
            let (mut tally, mut back) = (Tally::default(), 0);
            // The first one takes what is made when it is first needed.
            bench.strike(kind, 1, &mut Tally::default())?;
            bench.recovers(kind == "hang_at")?;
            let before = held();
            for run in 0..each {
                bench.strike(kind, 1 + run % bench.calls, &mut tally)?;
                back += usize::from(bench.recovers(kind == "hang_at")?);
            }
            let after = held();
            eprintln!("{device} {kind}: {} runs, {} answered", tally.runs, tally.answered);
            let times = &mut tally.recovery_ms;
            rows.push(format!(
                "  {{\"device\": {device:?}, \"kind\": \"{}\", \"positions\": {}, \"runs\": {}, \
                 \"answered\": {}, \"refused\": {}, \"late\": {}, \"wrong\": {}, \
                 \"admitted_again\": {back}, \"normal_ms\": {:.3}, \"recovery_p50_ms\": {:.3}, \
                 \"recovery_p99_ms\": {:.3}, \"threads\": [{}, {}], \"kib\": [{}, {}]}}",
                kind.trim_end_matches("_at"),
                bench.calls,
                tally.runs,
                tally.answered,
                tally.refused,
                tally.late,
                tally.wrong,
                bench.normal_ms,
                quantile(times, 0.5),
                quantile(times, 0.99),
                before.0,
                after.0,
                before.1,
                after.1
            ));
        }
    }
    println!("[\n{}\n]", rows.join(",\n"));
    Ok(())
}
