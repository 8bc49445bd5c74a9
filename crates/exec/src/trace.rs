//! What a run did, and when.

use serde::Serialize;

/// One step of a run.
#[derive(Clone, Debug, Serialize)]
pub struct StepTime {
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
    /// Nanoseconds from the start of the run.
    pub start_ns: u64,
    /// Nanoseconds that it took, measured.
    pub duration_ns: u64,
}

/// One run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trace {
    /// Steps in the order they ran.
    pub steps: Vec<StepTime>,
    /// Nanoseconds spent on making the plan; 0 when it was cached.
    pub plan_ns: u64,
    /// Nanoseconds of the whole run, measured.
    pub total_ns: u64,
    /// Bytes of the plan's memory slots.
    pub slot_bytes: usize,
}

impl Trace {
    /// The trace as Chrome's trace-event JSON (load it in a trace viewer).
    pub fn to_chrome(&self) -> String {
        let micros = |ns: u64| ns as f64 / 1e3;
        let events: Vec<serde_json::Value> = self
            .steps
            .iter()
            .map(|step| {
                serde_json::json!({
                    "name": step.op, "cat": step.device, "ph": "X", "pid": 1, "tid": 1,
                    "ts": micros(step.start_ns), "dur": micros(step.duration_ns),
                    "args": {
                        "node": step.node, "kernel": step.kernel, "output": step.output,
                    },
                })
            })
            .collect();
        serde_json::json!({ "traceEvents": events, "displayTimeUnit": "ms" }).to_string()
    }

    /// Time by operator and kernel: (operator, kernel, runs, nanoseconds), longest first.
    pub fn by_kernel(&self) -> Vec<(String, String, usize, u64)> {
        let mut sums = std::collections::BTreeMap::<(&str, &str), (usize, u64)>::new();
        for step in &self.steps {
            let entry = sums.entry((&step.op, &step.kernel)).or_default();
            entry.0 += 1;
            entry.1 += step.duration_ns;
        }
        let mut rows: Vec<_> = sums
            .into_iter()
            .map(|((op, kernel), (runs, ns))| (op.to_string(), kernel.to_string(), runs, ns))
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.3));
        rows
    }
}
