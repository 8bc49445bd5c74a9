//! Where the time of a model goes, step by step, and how near each step is to what the device can.

use anyhow::Result;
use hetra::{DType, Peak, Session, Trace};
use serde::Serialize;

use crate::show;
use crate::statistics::Statistics;

/// Most traced runs.
const RUNS_MAX: usize = 200;

/// One step over several runs.
#[derive(Serialize)]
pub(crate) struct Row {
    node: String,
    op: String,
    kernel: String,
    output: String,
    median_ms: f64,
    min_ms: f64,
    /// Of its kernels by the device's own clock; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_ms: Option<f64>,
    ops: f64,
    bytes: u64,
    gflop_s: f64,
    gbyte_s: f64,
    /// Of the operations on its kind of numbers, or of the bytes, per second that the device
    /// reaches at best, the larger.
    of_peak: Option<f64>,
}

/// Steps in the order they ran.
#[derive(Serialize)]
pub(crate) struct Profile {
    /// Operations and bytes per second that the device reached on its own, measured beside.
    peak: Option<Peak>,
    runs: usize,
    steps: Vec<Row>,
}

/// Runs with traces until `seconds` are over, and at least once.
pub(crate) fn measure(
    session: &Session,
    seconds: f64,
    mut trace: impl FnMut() -> Result<Trace>,
) -> Result<Profile> {
    let peak = session.peak();
    let begun = std::time::Instant::now();
    let mut traces = vec![trace()?];
    while traces.len() < RUNS_MAX && begun.elapsed().as_secs_f64() < seconds {
        traces.push(trace()?);
    }
    Ok(Profile { peak, runs: traces.len(), steps: rows(&traces, peak) })
}

fn rows(traces: &[Trace], peak: Option<Peak>) -> Vec<Row> {
    let of_step = |(index, step): (usize, &hetra::StepTime)| {
        // A run whose data takes another way may have other steps.
        let same = traces.iter().filter_map(|trace| trace.steps.get(index));
        let times = same.filter(|other| other.node == step.node);
        let times: Vec<&hetra::StepTime> = times.collect();
        let ms = times.iter().map(|other| other.duration_ns as f64 / 1e6).collect();
        let statistics = Statistics::of(ms)?;
        let kernels = times.iter().filter_map(|other| Some(other.kernel_ns? as f64 / 1e6));
        let kernel_ms = Statistics::of(kernels.collect()).map(|kernels| kernels.median_ms);
        let seconds = statistics.median_ms.max(1e-6) / 1e3;
        let (ops, bytes) = (step.ops / seconds, step.bytes as f64 / seconds);
        Some(Row {
            node: step.node.clone(),
            op: step.op.clone(),
            kernel: step.kernel.clone(),
            output: step.output.clone(),
            median_ms: statistics.median_ms,
            min_ms: statistics.min_ms,
            kernel_ms,
            ops: step.ops,
            bytes: step.bytes,
            gflop_s: ops / 1e9,
            gbyte_s: bytes / 1e9,
            of_peak: peak.map(|peak| {
                let most = match step.numbers {
                    DType::BF16 => peak.bf16_ops,
                    DType::U8 => peak.byte_ops,
                    _ => Some(peak.ops),
                };
                most.map_or(0.0, |most| ops / most).max(bytes / peak.bytes)
            }),
        })
    };
    traces
        .first()
        .map_or(Vec::new(), |first| first.steps.iter().enumerate().filter_map(of_step).collect())
}

impl Profile {
    pub(crate) fn print(&self) {
        let total: f64 = self.steps.iter().map(|row| row.median_ms).sum();
        let peak = self.peak.map_or("unavailable".to_string(), |peak| {
            let ops = [("f32", Some(peak.ops)), ("bf16", peak.bf16_ops), ("int8", peak.byte_ops)];
            let ops: Vec<String> = ops
                .into_iter()
                .filter_map(|(name, ops)| Some(format!("{name} {:.0}", ops? / 1e9)))
                .collect();
            format!("{} GFLOP/s and {:.1} GB/s", ops.join(", "), peak.bytes / 1e9)
        });
        show::heading(&format!(
            "{}, medians of {}; peak of this device, measured: {peak}",
            show::plural(self.steps.len(), "step"),
            show::plural(self.runs, "run"),
        ));
        // By the clock of the device, where it has one: the rest is what it costs to ask for it.
        let clock = self.steps.iter().any(|row| row.kernel_ms.is_some());
        let mut header = vec!["#", "node", "op", "kernel", "output", "time"];
        header.extend(clock.then_some("kernels"));
        header.extend(["share", "GFLOP/s", "GB/s", "of peak"]);
        let numbers: Vec<usize> = std::iter::once(0).chain(5..header.len()).collect();
        let mut table = show::table(&header, &numbers);
        for (index, row) in self.steps.iter().enumerate() {
            let figure = |value: f64| if value > 0.0 { format!("{value:.1}") } else { "-".into() };
            let kernels = row.kernel_ms.map_or("-".into(), show::millis);
            let mut cells = vec![
                index.to_string(),
                show::short(&row.node),
                row.op.clone(),
                row.kernel.clone(),
                row.output.clone(),
                show::millis(row.median_ms),
            ];
            cells.extend(clock.then_some(kernels));
            cells.extend([
                format!("{:.1} %", row.median_ms / total.max(1e-9) * 100.0),
                figure(row.gflop_s),
                figure(row.gbyte_s),
                row.of_peak.map_or("-".into(), |share| format!("{:.0} %", share * 100.0)),
            ]);
            table.add_row(cells);
        }
        println!("{table}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_from_the_median_and_names_are_cut_in_front() {
        let step = |ns: u64| hetra::StepTime {
            index: 0,
            numbers: DType::F32,
            node: "conv".into(),
            op: "Conv".into(),
            device: "cpu".into(),
            kernel: "k".into(),
            output: "f32[1]".into(),
            ops: 4e6,
            bytes: 1_000_000,
            start_ns: 0,
            duration_ns: ns,
            kernel_ns: Some(ns / 2),
            modelled: None,
            inner: Vec::new(),
        };
        let trace = |ns| Trace { steps: vec![step(ns)], ..Trace::default() };
        let traces = [trace(1_000_000), trace(2_000_000), trace(9_000_000)];
        let peak = Peak { ops: 8e9, bf16_ops: None, byte_ops: None, bytes: 1e9 };
        let rows = rows(&traces, Some(peak));
        assert_eq!((rows[0].median_ms, rows[0].min_ms), (2.0, 1.0));
        assert!((rows[0].gflop_s - 2.0).abs() < 1e-9 && (rows[0].gbyte_s - 0.5).abs() < 1e-9);
        assert_eq!((rows[0].of_peak, rows[0].kernel_ms), (Some(0.5), Some(1.0)));
        assert_eq!(show::short("abc"), "abc");
        assert_eq!(show::short(&"x".repeat(40)).chars().count(), 32);
    }
}
