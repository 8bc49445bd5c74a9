//! How far predictions are off of models of which nothing was measured, as JSON. `cargo xtask bench
//! predict` runs it: `predict DEVICE MODEL..`.
//!
//! Each model is measured on the device, whole and in parts. Then, family by family (the first word
//! of a file's name), what the device takes is predicted from what it took for all
//! other families.
#![allow(clippy::print_stdout, reason = "its output is its product")]
#![allow(clippy::print_stderr, reason = "progress goes to stderr")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use hetra::placing::{Correction, CostExample, Survey, Surveyed, practice, survey};
use hetra::{Graph, Seat, Value};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Parts of a model, about.
const PARTS: usize = 48;
/// Small networks that are learned from beside other models.
const PRACTICE: usize = 250;
/// One: where two processors are threads of one core, what two threads take is another every
/// minute.
const THREADS: usize = 1;
/// Extents that a model leaves open: one picture of three channels, or one row of so many.
const PICTURE: [usize; 4] = [1, 3, 320, 320];
const ROW: [usize; 2] = [1, 64];

fn inputs(graph: &Graph) -> Result<Vec<Value>> {
    let input = |&id: &hetra::ValueId| {
        let ty = graph.ty(id);
        let rank = ty.dims().map_or(0, <[_]>::len);
        let open = |axis: usize| match rank {
            4 => PICTURE[axis],
            _ => ROW[axis.min(1)],
        };
        hetra::made_up(ty, &open, u64::from(id.0)).ok_or("an input that is no tensor".into())
    };
    graph.inputs.iter().map(input).collect()
}

fn family(path: &Path) -> String {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let word = name.split(['_', '-', '.']).next().unwrap_or_default().to_string();
    match word.as_str() {
        // Of these several models are made of one.
        "light" => name.to_string(),
        _ => word,
    }
}

fn example(one: &Surveyed) -> Option<CostExample> {
    let example = CostExample { parts: one.parts.clone(), seconds: one.seconds };
    (!example.parts.is_empty() && example.seconds > 0.0).then_some(example)
}

fn predicted(learned: &Correction, one: &Surveyed) -> Option<f64> {
    (!one.parts.is_empty()).then(|| one.parts.iter().map(|part| learned.seconds(part)).sum())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (device, models) = arguments.split_first().ok_or("predict DEVICE MODEL..")?;
    let host: Seat = hetra::open("cpu", Some(THREADS))?.into();
    let seat: Seat = hetra::open(device, Some(THREADS))?.into();
    let practised: Vec<CostExample> =
        practice(&seat, PRACTICE, 1, &mut |_| {})?.iter().filter_map(example).collect();
    eprintln!("{} small networks", practised.len());
    let mut surveys: Vec<(String, String, Survey)> = Vec::new();
    for model in models {
        let path = Path::new(model);
        let mut graph = hetra::import_file(path, &Default::default())?.graph;
        graph.fix_defaults(|_| false);
        let surveyed =
            inputs(&graph).and_then(|inputs| Ok(survey(&graph, (&host, &seat), &inputs, PARTS)?));
        match surveyed {
            Ok(found) => {
                eprintln!(
                    "{model}: {:.3} ms, {} parts",
                    found.whole.seconds * 1e3,
                    found.tasks.len()
                );
                surveys.push((family(path), model.clone(), found));
            }
            Err(error) => eprintln!("{model}: left out: {error}"),
        }
    }
    let mut rows = Vec::new();
    let families: BTreeMap<&str, ()> =
        surveys.iter().map(|(family, ..)| (family.as_str(), ())).collect();
    for family in families.keys() {
        let others = surveys.iter().filter(|(other, ..)| other != family);
        let examples: Vec<CostExample> = others
            .flat_map(|(_, _, survey)| survey.tasks.iter().chain([&survey.whole]))
            .filter_map(example)
            .chain(practised.iter().cloned())
            .collect();
        let learned = Correction::fit(&examples)?.ok_or("too few examples")?;
        for (_, model, survey) in surveys.iter().filter(|(own, ..)| own == family) {
            let parts = survey.tasks.iter().map(|part| {
                json!({
                    "first": part.first, "nodes": part.nodes, "measured_s": part.seconds,
                    "kernels": part.parts.len().saturating_sub(1),
                    "predicted_s": predicted(&learned, part),
                })
            });
            rows.push(json!({
                "model": model, "family": family, "device": device,
                "measured_s": survey.whole.seconds,
                "predicted_s": predicted(&learned, &survey.whole),
                "sum_of_parts_s": survey.tasks.iter().map(|part| part.seconds).sum::<f64>(),
                "spread": learned.spread(),
                "parts": parts.collect::<Vec<_>>(),
            }));
        }
    }
    println!("{}", serde_json::to_string(&rows)?);
    Ok(())
}
