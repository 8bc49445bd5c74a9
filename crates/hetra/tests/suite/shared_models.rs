//! The models that lie beside the checkout, where they do, against their recorded outputs.

#![allow(clippy::print_stderr, reason = "a test that is skipped says so, and what it compared")]
#![allow(clippy::neg_cmp_op_on_partial_ord, reason = "NaN must fail")]

use std::path::Path;
use std::sync::Arc;

use crate::places;
use hetra::{Device, Port, Session, Value};
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
const STEPS: Steps = Steps { most: 8.0, mean: 2.5 };

/// Steps that results may be off: at the worst place, and on average over the output.
struct Steps {
    most: f64,
    mean: f64,
}

#[test]
fn shared_models_give_their_recorded_outputs() {
    let device = hetra::open("cpu", Some(2)).expect("the CPU");
    check_all(&device, &STEPS);
}

/// Floats that lie between codes fall on either side of a half where they are added up in another
/// order; codes that follow are then a step off here and there, more at the worst place.
const DEVICE_STEPS: Steps = Steps { most: 16.0, ..STEPS };

/// Models of floats by the kernels of each device alone, quantised ones with what the host has to
/// do of them.
#[test]
fn shared_models_run_on_devices() {
    for id in ["wgpu", "opencl"] {
        match hetra::open(id, Some(2)) {
            Ok(device) => check_all(&device, &DEVICE_STEPS),
            Err(error) if hetra::is_required(id) => panic!("{error}"),
            Err(error) => eprintln!("SKIPPED: {id}: {error}"),
        }
    }
}

/// Every model of the manifest on a device.
fn check_all(device: &Arc<dyn Device>, steps: &Steps) {
    let folder = places::shared().join("models");
    let Ok(text) = std::fs::read_to_string(folder.join("manifest.json")) else {
        eprintln!("SKIPPED: no manifest.json in {} (HETRA_SHARED)", folder.display());
        return;
    };
    let manifest: Json = serde_json::from_str(&text).expect("manifest.json");
    let models = manifest.as_array().expect("a list");
    assert!(!models.is_empty(), "the manifest lists no model");
    let mut faults = Vec::new();
    for model in models {
        let file = model["file"].as_str().expect("a file");
        let Some(golden) = model["golden"].as_str() else {
            eprintln!("SKIPPED: {file} has no golden");
            continue;
        };
        let quantised = file.starts_with("int8/");
        let path = folder.join(file);
        let result = session(&path, device, quantised)
            .and_then(|session| check(&session, &folder.join(golden), quantised.then_some(steps)))
            .and_then(|share| with_other_weights(&path, device).map(|()| share));
        match result {
            Ok(share) => eprintln!("{file}: {:.1} % of the tolerance", share * 100.0),
            Err(reason) => faults.push(format!("{file}: {reason}")),
        }
    }
    assert!(faults.is_empty(), "{}: {}", device.info().id, faults.join("\n"));
}

fn session(path: &Path, device: &Arc<dyn Device>, fallback: bool) -> Result<Session, String> {
    let builder = Session::builder().model_file(path).on(device.clone());
    // On the processor the reference does what is small.
    let strict = !fallback && device.info().driver != "cpu";
    let builder = if strict { builder.no_fallback() } else { builder };
    builder.build().map_err(|error| error.to_string())
}

/// Some models are filled with one number, so that all of their outputs are equal whatever is
/// wrong: with others in its place, a device gives what the processor does.
fn with_other_weights(path: &Path, device: &Arc<dyn Device>) -> Result<(), String> {
    if device.info().driver == "cpu" {
        return Ok(());
    }
    let mut model = hetra::import_file(path, &hetra::ImportOptions::default())
        .map_err(|error| error.to_string())?;
    if !fill(&mut model.graph) {
        return Ok(());
    }
    let cpu = hetra::open("cpu", Some(2)).map_err(|error| error.to_string())?;
    let mut results = Vec::new();
    for device in [&cpu, device] {
        let builder = Session::builder().model(model.clone()).on(device.clone());
        let session = builder.build().map_err(|error| error.to_string())?;
        let port = session.inputs().into_iter().find(|port| !port.has_default).ok_or("no input")?;
        let shape = port.ty.known_shape().ok_or("an open input")?;
        let image = numbers(&shape, 1.0, 99).ok_or("an image")?;
        let outputs = session.run([(port.name, image)]).map_err(|error| error.to_string())?;
        results.push(outputs.into_values());
    }
    let [want, got] = &results[..] else { return Err("two results".to_string()) };
    let shares = got.iter().zip(want).map(|(got, want)| deviation(got, want, None));
    shares.collect::<Result<Vec<f64>, _>>().map(drop)
}

/// Puts numbers that differ in the place of weights that a node makes of one. Whether there were
/// any.
fn fill(graph: &mut hetra::Graph) -> bool {
    let weights = |node: &hetra::Node| {
        let shape = graph.constants.get(&node.input(0)?)?.as_tensor()?;
        let shape = hetra_tensor::to_i64(shape).ok()?;
        let shape: Vec<usize> = shape.into_iter().map(|extent| extent as usize).collect();
        // Those of one axis are factors, or variances.
        let terms: usize = shape.iter().skip(1).product();
        let range = if shape.len() < 2 { 0.1 } else { (6.0 / terms as f32).sqrt() };
        let mut tensor = numbers(&shape, range, shape.iter().sum())?;
        if shape.len() < 2 {
            tensor.as_mut_slice::<f32>().ok()?.iter_mut().for_each(|value| *value += 1.0);
        }
        Some((node.output(0)?, tensor))
    };
    let made = graph.nodes.iter().filter(|node| node.op == "ConstantOfShape");
    let made: Vec<_> = made.filter_map(weights).collect();
    let any = !made.is_empty();
    for (id, tensor) in made {
        graph.nodes.retain(|node| node.output(0) != Some(id));
        graph.constants.insert(id, tensor.into());
    }
    any
}

/// Numbers from `-range` to `range` that look like chance.
fn numbers(shape: &[usize], range: f32, seed: usize) -> Option<hetra::Tensor> {
    let mut state = seed as u32 | 1;
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * range
        })
        .collect();
    hetra::Tensor::from_slice(shape, &values).ok()
}

/// Runs a session on recorded inputs; the largest error as a share of what is tolerated.
fn check(session: &Session, golden: &Path, quantised: Option<&Steps>) -> Result<f64, String> {
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

fn deviation(got: &Value, want: &Value, quantised: Option<&Steps>) -> Result<f64, String> {
    let (Some(got), Some(want)) = (got.as_tensor(), want.as_tensor()) else {
        return Err(format!("got {}, wanted {}", got.describe(), want.describe()));
    };
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        return Err(format!("got {}, wanted {}", got.describe(), want.describe()));
    }
    let (Ok(got), Ok(want)) = (hetra_tensor::to_f64(got), hetra_tensor::to_f64(want)) else {
        return Err("no numbers".to_string());
    };
    if let Some(steps) = quantised {
        return in_steps(&got, &want, steps);
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
fn in_steps(got: &[f64], want: &[f64], steps: &Steps) -> Result<f64, String> {
    let mut levels = want.to_vec();
    levels.sort_by(f64::total_cmp);
    let gaps = levels.windows(2).map(|pair| pair[1] - pair[0]);
    let step = gaps.filter(|gap| *gap > 1e-6).fold(f64::INFINITY, f64::min);
    let errors: Vec<f64> = got.iter().zip(want).map(|(x, y)| (x - y).abs() / step).collect();
    let worst = errors.iter().fold(0.0f64, |worst, error| worst.max(*error));
    let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
    // Written so that NaN, which the maximum passes over, fails by the mean.
    match worst <= steps.most && mean <= steps.mean {
        true => Ok((worst / steps.most).max(mean / steps.mean)),
        false => Err(format!("{worst:.1} steps of {step} off, {mean:.1} on average")),
    }
}
