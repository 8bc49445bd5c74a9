//! What Prometheus reads: Triton's names where Triton has one, so that dashboards fit.

use std::fmt::Write;

use crate::core::Core;
use crate::wire::{ModelStatistics, Took};

/// A number of each model, and how to get it: nothing else names it.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&ModelStatistics) -> u64,
}

const fn counter(
    name: &'static str,
    help: &'static str,
    value: fn(&ModelStatistics) -> u64,
) -> Metric {
    Metric { name, kind: "counter", help, value }
}

fn us(took: Took) -> u64 {
    took.ns / 1000
}

static METRICS: &[Metric] = &[
    counter("nv_inference_request_success", "Requests that were answered.", |one| {
        one.inference_stats.success.count
    }),
    counter("nv_inference_request_failure", "Requests whose run failed.", |one| {
        one.inference_stats.fail.count
    }),
    counter("nv_inference_count", "Rows that were run.", |one| one.inference_count),
    counter("nv_inference_exec_count", "Runs; a batch is one.", |one| one.execution_count),
    counter("nv_inference_request_duration_us", "Time of answered requests.", |one| {
        us(one.inference_stats.success)
    }),
    counter("nv_inference_queue_duration_us", "Time that they waited.", |one| {
        us(one.inference_stats.queue)
    }),
    counter("nv_inference_compute_input_duration_us", "Time for putting inputs together.", |one| {
        us(one.inference_stats.compute_input)
    }),
    counter("nv_inference_compute_infer_duration_us", "Time in the model.", |one| {
        us(one.inference_stats.compute_infer)
    }),
    counter("nv_inference_compute_output_duration_us", "Time for parting outputs.", |one| {
        us(one.inference_stats.compute_output)
    }),
];

/// All metrics in Prometheus' text form.
pub(crate) fn text(core: &Core) -> String {
    let models = core.repository.loaded();
    let told: Vec<_> = models.iter().map(|one| one.stats().told(&one.name, one.version)).collect();
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, values: Vec<u64>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (model, value) in models.iter().zip(values) {
            let name_of = escaped(&model.name);
            let version = model.version;
            let _ = writeln!(text, "{name}{{model=\"{name_of}\",version=\"{version}\"}} {value}");
        }
    };
    for row in METRICS {
        metric(row.name, row.kind, row.help, told.iter().map(row.value).collect());
    }
    let waiting = models.iter().map(|one| one.waiting() as u64).collect();
    metric("nv_inference_pending_request_count", "gauge", "Requests that wait.", waiting);
    let shed = models.iter().map(|one| one.stats().shed).collect();
    let help = "Requests that were not taken, or not in time.";
    metric("hetra_requests_shed", "counter", help, shed);
    text
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
