//! What things take, measured.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hetra_device::{Device, Wire};
use hetra_exec::{Engine, RunOptions, Seat, Simulated, Trace};
use hetra_ir::{Builder, Graph};
use hetra_tensor::{DType, Tensor, Value};

use crate::error::Error;
use crate::placing::accept::Sample;
use crate::placing::build;
use crate::placing::file::PlanStep;

/// Runs before the first that counts.
const WARM_UPS: usize = 2;
/// Fewest and most runs that count.
const RUNS_MIN: usize = 5;
const RUNS_MAX: usize = 300;

/// Most steps of a time line.
const STEPS_MAX: usize = 2000;

/// A graph that is ready to run, with its inputs.
pub(crate) struct Ready {
    engine: Engine,
    inputs: Vec<Value>,
}

impl Ready {
    /// Compiles a graph whole for the first seat that is given.
    pub(crate) fn whole(graph: &Graph, inputs: Vec<Value>, seats: &[Seat]) -> Result<Ready, Error> {
        Ready::placed(graph, &vec![0; graph.nodes.len()], inputs, seats)
    }

    /// Compiles a graph for several seats.
    pub(crate) fn placed(
        graph: &Graph,
        choice: &[usize],
        inputs: Vec<Value>,
        seats: &[Seat],
    ) -> Result<Ready, Error> {
        let (engine, _) = build::compile(graph, choice, seats)?;
        Ok(Ready { engine, inputs })
    }

    /// How many steps it has that are parts for a device.
    pub(crate) fn parts(&self) -> usize {
        let nodes = self.engine.graph().nodes.iter();
        nodes.filter(|node| node.op == hetra_ops::PART).count()
    }

    /// Whether a device of it is only described.
    pub(crate) fn is_simulated(&self) -> bool {
        self.engine.is_simulated()
    }

    /// Whether all of them are: no run differs from another then.
    fn is_all_simulated(&self) -> bool {
        self.engine.devices().iter().all(|info| info.simulated.is_some())
    }

    /// The steps of one run, of the median of a few.
    pub(crate) fn timeline(&self) -> Result<Vec<PlanStep>, Error> {
        let mut runs = Vec::new();
        for _ in 0..if self.is_all_simulated() { 1 } else { RUNS_MIN } {
            let mut trace = Trace::default();
            let inputs = self.inputs.iter().cloned().map(Some).collect();
            let outputs = &self.engine.graph().outputs;
            self.engine.run(inputs, outputs, &RunOptions::default(), Some(&mut trace))?;
            let simulated = trace.simulated.as_ref().map(|simulated| simulated.total_s);
            runs.push((simulated.unwrap_or(trace.total_ns as f64 * 1e-9), trace));
        }
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (_, trace) = runs.swap_remove(runs.len() / 2);
        let step = |step: &hetra_exec::StepTime| PlanStep {
            device: step.device.clone(),
            name: if step.op == hetra_ops::PART { step.kernel.clone() } else { step.node.clone() },
            start_s: step.start_ns as f64 * 1e-9,
            seconds: step.duration_ns as f64 * 1e-9,
            modelled: step.modelled.is_some(),
        };
        Ok(trace.steps.iter().take(STEPS_MAX).map(step).collect())
    }

    /// What one run takes, device by device.
    pub(crate) fn spent(&self) -> Result<Spent, Error> {
        let mut trace = Trace::default();
        let inputs = self.inputs.iter().cloned().map(Some).collect();
        let outputs = &self.engine.graph().outputs;
        self.engine.run(inputs, outputs, &RunOptions::default(), Some(&mut trace))?;
        if let Some(simulated) = trace.simulated {
            let Simulated { total_s, busiest_s, joules, link_joules, busy_s } = simulated;
            return Ok(Spent { total_s, busiest_s, joules, link_joules, busy_s });
        }
        let mut busy_s = BTreeMap::new();
        // Its own device has what no part has.
        let single = self.engine.devices();
        let single = single.first().filter(|_| single.len() == 1).map(|info| info.id.clone());
        for step in &trace.steps {
            let device = single.clone().unwrap_or_else(|| step.device.clone());
            *busy_s.entry(device).or_default() += step.duration_ns as f64 * 1e-9;
        }
        let busiest_s = busy_s.values().copied().fold(0.0, f64::max);
        let total_s = trace.total_ns as f64 * 1e-9;
        let (joules, link_joules) = (BTreeMap::new(), BTreeMap::new());
        Ok(Spent { total_s, busiest_s, joules, link_joules, busy_s })
    }

    /// One run.
    pub(crate) fn run(&self) -> Result<Vec<Value>, Error> {
        let inputs = self.inputs.iter().cloned().map(Some).collect();
        let outputs = &self.engine.graph().outputs;
        Ok(self.engine.run(inputs, outputs, &RunOptions::default(), None)?)
    }

    /// Seconds of one run; as it would go, where a device is only described.
    pub(crate) fn seconds(&self) -> Result<f64, Error> {
        if self.is_simulated() {
            return Ok(self.spent()?.total_s);
        }
        let begun = Instant::now();
        self.run()?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Seconds of runs for so long, after some that do not count.
    pub(crate) fn sample(&self, length: Duration) -> Result<Sample, Error> {
        if self.is_all_simulated() {
            return Ok(Sample::of(vec![self.seconds()?]));
        }
        self.sampled(length, &|| self.seconds())
    }

    fn sampled(
        &self,
        length: Duration,
        seconds: &dyn Fn() -> Result<f64, Error>,
    ) -> Result<Sample, Error> {
        for _ in 0..WARM_UPS {
            seconds()?;
        }
        let begun = Instant::now();
        let mut all = Vec::new();
        while all.len() < RUNS_MAX && (all.len() < RUNS_MIN || begun.elapsed() < length) {
            all.push(seconds()?);
        }
        Ok(Sample::of(all))
    }

    /// The same with inputs and outputs in the device's memory, where it has one of its own: as a
    /// part is run between others there.
    pub(crate) fn sample_there(
        &self,
        device: &dyn Device,
        length: Duration,
    ) -> Result<Sample, Error> {
        let Some(launcher) = device.launcher() else { return self.sample(length) };
        let place = |value: &Value| -> Result<Option<Value>, Error> {
            let held = value.as_tensor().map(|tensor| device.place(tensor)).transpose()?.flatten();
            Ok(Some(held.map_or_else(|| value.clone(), Value::from)))
        };
        let inputs: Vec<_> = self.inputs.iter().map(place).collect::<Result<_, _>>()?;
        let options = RunOptions { on_device: true, ..RunOptions::default() };
        self.sampled(length, &|| {
            let begun = Instant::now();
            self.engine.run(inputs.clone(), &self.engine.graph().outputs, &options, None)?;
            launcher.wait()?;
            Ok(begun.elapsed().as_secs_f64())
        })
    }

    /// Seconds between two results while `together` runs overlap, over `runs` of them.
    pub(crate) fn overlapped(&self, together: usize, runs: usize) -> Result<f64, Error> {
        if self.is_simulated() {
            return Ok(match together {
                1 => self.seconds()?,
                _ => self.spent()?.busiest_s,
            });
        }
        let begun = Instant::now();
        let next = std::sync::atomic::AtomicUsize::new(0);
        let work = || -> Result<(), Error> {
            while next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < runs {
                self.run()?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..together).map(|_| scope.spawn(work)).collect();
            let own = work();
            let joined = others.into_iter().map(|other| other.join().unwrap_or(Err(Error::Lost)));
            joined.fold(own, |all, one| all.and(one))
        })?;
        Ok(begun.elapsed().as_secs_f64() / runs as f64)
    }
}

/// What a run takes, device by device.
#[derive(Clone, Debug)]
pub(crate) struct Spent {
    pub(crate) total_s: f64,
    /// What the busiest device, or direction of a link, is busy.
    pub(crate) busiest_s: f64,
    /// Of devices that are only described.
    pub(crate) joules: BTreeMap<String, f64>,
    /// Of copies over their links.
    pub(crate) link_joules: BTreeMap<String, f64>,
    pub(crate) busy_s: BTreeMap<String, f64>,
}

/// The line through what a small and a large copy took: bytes, and seconds.
fn line(small: (usize, f64), large: (usize, f64)) -> Wire {
    let byte_s = ((large.1 - small.1) / (large.0 - small.0) as f64).max(0.0);
    Wire { latency_s: (small.1 - byte_s * small.0 as f64).max(0.0), byte_s }
}

/// Bytes of the two copies that a line is measured by, and how often.
const SMALL: usize = 4 << 10;
const LARGE: usize = 4 << 20;
const COPIES: usize = 9;

/// What copies into a device's memory take, and out of it; nothing where it works in the host's.
pub(crate) fn copying(device: &dyn Device) -> Result<(Wire, Wire), Error> {
    if let Some(wires) = device.info().simulated {
        return Ok((wires.into, wires.out));
    }
    let mut into = Vec::new();
    let mut out = Vec::new();
    for bytes in [SMALL, LARGE] {
        let (mut in_s, mut out_s) = (Vec::new(), Vec::new());
        for _ in 0..COPIES {
            let tensor = Tensor::zeros(DType::F32, &[bytes / 4])?;
            let begun = Instant::now();
            let Some(held) = device.place(&tensor)? else {
                return Ok(Default::default());
            };
            if let Some(launcher) = device.launcher() {
                launcher.wait()?;
            }
            in_s.push(begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            held.fetch()?;
            out_s.push(begun.elapsed().as_secs_f64());
        }
        into.push((bytes, Sample::of(in_s).median));
        out.push((bytes, Sample::of(out_s).median));
    }
    Ok((line(into[0], into[1]), line(out[0], out[1])))
}

/// Runs that a hand-over is measured by.
const HANDED: usize = 60;
/// How long the operator is run on the device by itself.
const THERE: Duration = Duration::from_millis(10);

/// Seconds to hand a run over from the host to a device, or back, beside what a part takes there by
/// itself: of a small operator on the device between two on the host, what is left beside the three
/// where they are alone. Copies of a few bytes are in it.
///
/// # Errors
/// When the device does not run it.
pub(crate) fn handing_over(host: &Seat, other: &Seat) -> Result<f64, Error> {
    let graph = |count: usize| {
        let mut b = Builder::new("hand over");
        let x = b.input("x", DType::F32, vec![16usize.into()]);
        let chain = (0..count).fold(x, |value, _| b.op("Abs", &[value]));
        b.output(chain);
        b.finish()
    };
    let x = || vec![Value::from(Tensor::vector(&[0.5f32; 16]))];
    let seats = [host.clone(), other.clone()];
    let mixed = Ready::placed(&graph(3), &[0, 1, 0], x(), &seats)?;
    let time = |ready: &Ready| -> Result<f64, Error> {
        for _ in 0..WARM_UPS {
            ready.run()?;
        }
        let seconds = (0..HANDED).map(|_| ready.seconds());
        Ok(Sample::of(seconds.collect::<Result<_, _>>()?).median)
    };
    let ends = time(&Ready::whole(&graph(2), x(), &seats)?)?;
    let there = Ready::whole(&graph(1), x(), std::slice::from_ref(other))?;
    let there = there.sample_there(other.device.as_ref(), THERE)?.median;
    Ok(((time(&mixed)? - ends - there) / 2.0).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_fitted() {
        let wire = line((100, 1.1e-6), (1100, 2.1e-6));
        assert!((wire.byte_s - 1e-9).abs() < 1e-15 && (wire.latency_s - 1e-6).abs() < 1e-12);
        let odd = line((100, 2.0), (1100, 1.0));
        assert_eq!((odd.byte_s, odd.latency_s), (0.0, 2.0));
    }
}
