//! The models that lie beside the checkout, where they do, against their recorded outputs.

#![allow(clippy::print_stderr, reason = "a test that is skipped says so, and what it compared")]
#![allow(clippy::neg_cmp_op_on_partial_ord, reason = "NaN must fail")]

mod places;

use std::path::Path;

use hetra::{Port, Session, Value};
use serde_json::Value as Json;

/// An element may be off by this share of what is wanted ..
const RTOL: f64 = 1e-3;
/// .. plus this share of the largest magnitude of its output ..
const ATOL: f64 = 1e-4;
/// .. which counts as at least this: the sigmoids of two right answers differ by 1e-7 near zero.
const RANGE_MIN: f64 = 1e-2;

/// Where a model is quantised (`int8/..`), a rounding that falls the other way moves a result by
/// a step of its scale, and every layer after it. ONNX Runtime's own answers to one such model,
/// with its optimisations and without, are up to 8 steps apart.
const STEPS_MAX: f64 = 8.0;
/// .. on average over the output.
const STEPS_MEAN_MAX: f64 = 2.5;

#[test]
fn shared_models_give_their_recorded_outputs() {
    let folder = places::shared().join("models");
    let Ok(text) = std::fs::read_to_string(folder.join("manifest.json")) else {
        eprintln!("SKIPPED: no manifest.json in {} (HETRA_SHARED)", folder.display());
        return;
    };
    let manifest: Json = serde_json::from_str(&text).expect("manifest.json");
    let models = manifest.as_array().expect("a list");
    assert!(!models.is_empty(), "the manifest lists no model");
    let device = hetra::open("cpu", Some(2)).expect("the CPU");
    let mut faults = Vec::new();
    for model in models {
        let file = model["file"].as_str().expect("a file");
        let Some(golden) = model["golden"].as_str() else {
            eprintln!("SKIPPED: {file} has no golden");
            continue;
        };
        let session = Session::builder().model_file(folder.join(file)).on(device.clone()).build();
        let result = session
            .map_err(|error| error.to_string())
            .and_then(|session| check(&session, &folder.join(golden), file.starts_with("int8/")));
        match result {
            Ok(share) => eprintln!("{file}: {:.1} % of the tolerance", share * 100.0),
            Err(reason) => faults.push(format!("{file}: {reason}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Runs a session on recorded inputs; the largest error as a share of what is tolerated.
fn check(session: &Session, golden: &Path, quantised: bool) -> Result<f64, String> {
    let open: Vec<Port> = session.inputs().into_iter().filter(|port| !port.has_default).collect();
    let inputs = read(golden, "input", &open)?;
    if inputs.len() != open.len() {
        return Err(format!("{} recorded inputs for {}", inputs.len(), open.len()));
    }
    let names = open.iter().map(|port| port.name.clone());
    let outputs = session.run(names.zip(inputs)).map_err(|error| error.to_string())?;
    let wanted = read(golden, "output", &session.outputs())?;
    if wanted.len() != outputs.len() {
        return Err(format!("{} recorded outputs for {}", wanted.len(), outputs.len()));
    }
    let mut worst: f64 = 0.0;
    for ((name, got), want) in outputs.iter().zip(&wanted) {
        let share = deviation(got, want, quantised);
        worst = worst.max(share.map_err(|why| format!("output `{name}`: {why}"))?);
    }
    Ok(worst)
}

fn read(golden: &Path, stem: &str, ports: &[Port]) -> Result<Vec<Value>, String> {
    let one = |(index, port): (usize, &Port)| {
        let path = golden.join(format!("{stem}_{index}.pb"));
        let bytes = std::fs::read(&path).map_err(|why| format!("{}: {why}", path.display()))?;
        hetra_onnx::value_from_pb(&bytes, &port.ty).map_err(|why| why.to_string())
    };
    ports.iter().enumerate().map(one).collect()
}

fn deviation(got: &Value, want: &Value, quantised: bool) -> Result<f64, String> {
    let (Some(got), Some(want)) = (got.as_tensor(), want.as_tensor()) else {
        return Err(format!("got {}, wanted {}", got.describe(), want.describe()));
    };
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        return Err(format!("got {}, wanted {}", got.describe(), want.describe()));
    }
    let (Ok(got), Ok(want)) = (hetra_tensor::to_f64(got), hetra_tensor::to_f64(want)) else {
        return Err("no numbers".to_string());
    };
    if quantised {
        return in_steps(&got, &want);
    }
    let range = want.iter().fold(RANGE_MIN, |range, value| range.max(value.abs()));
    let mut worst: f64 = 0.0;
    for (index, (x, y)) in got.iter().zip(&want).enumerate() {
        let share = (x - y).abs() / (ATOL * range + RTOL * y.abs()).max(f64::MIN_POSITIVE);
        // Written so that NaN fails.
        if !(share <= 1.0) {
            return Err(format!("element {index}: got {x}, wanted {y}"));
        }
        worst = worst.max(share);
    }
    Ok(worst)
}

/// The largest error of a quantised output, as a share of what is tolerated.
fn in_steps(got: &[f64], want: &[f64]) -> Result<f64, String> {
    let mut levels = want.to_vec();
    levels.sort_by(f64::total_cmp);
    let gaps = levels.windows(2).map(|pair| pair[1] - pair[0]);
    let step = gaps.filter(|gap| *gap > 1e-6).fold(f64::INFINITY, f64::min);
    let errors: Vec<f64> = got.iter().zip(want).map(|(x, y)| (x - y).abs() / step).collect();
    let worst = errors.iter().fold(0.0f64, |worst, error| worst.max(*error));
    let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
    // Written so that NaN, which the maximum passes over, fails by the mean.
    match worst <= STEPS_MAX && mean <= STEPS_MEAN_MAX {
        true => Ok((worst / STEPS_MAX).max(mean / STEPS_MEAN_MAX)),
        false => Err(format!("{worst:.1} steps of {step} off, {mean:.1} on average")),
    }
}
