//! A small digit classifier that is part of the program.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hetra::{Session, Tensor, Value};
use image::GrayImage;

use crate::usage::or_usage;
use crate::{devices, run, session, show};

/// The model, trained by tools/train_digits.py on scikit-learn's digits.
static MODEL: &[u8] = include_bytes!("../../assets/digits.onnx");
/// The held-out pictures with their labels.
static TEST_SET: &[u8] = include_bytes!("../../assets/digits_test.bin");
/// One picture of each digit.
static PICTURES: [&[u8]; 10] = [
    include_bytes!("../../assets/digit_0.png"),
    include_bytes!("../../assets/digit_1.png"),
    include_bytes!("../../assets/digit_2.png"),
    include_bytes!("../../assets/digit_3.png"),
    include_bytes!("../../assets/digit_4.png"),
    include_bytes!("../../assets/digit_5.png"),
    include_bytes!("../../assets/digit_6.png"),
    include_bytes!("../../assets/digit_7.png"),
    include_bytes!("../../assets/digit_8.png"),
    include_bytes!("../../assets/digit_9.png"),
];
const SIDE: usize = 8;
const PIXELS: usize = SIDE * SIDE;
const CLASSES: usize = 10;

/// How to run it.
#[derive(clap::Args)]
pub(crate) struct Digits {
    /// Device to run on
    #[arg(short, long, default_value = "cpu", value_name = "ID")]
    device: String,
    /// Host threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = session::threads, allow_negative_numbers = true)]
    threads: Option<usize>,
}

pub(crate) fn run(args: &Digits) -> Result<ExitCode> {
    let started = Instant::now();
    let mut builder = Session::builder().model_bytes(MODEL).device(&args.device);
    if let Some(threads) = args.threads {
        builder = builder.threads(threads);
    }
    let session = builder.build().map_err(or_usage)?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;

    show::heading("Devices of this machine");
    devices::print_table(&hetra::devices());
    show::heading("Graph, after the passes");
    print_graph(&session);
    show::heading("Pictures");
    classify_pictures(&session)?;
    show::heading("Plan for one picture");
    let batch = hetra::Type::tensor(hetra::DType::F32, &[1, 1, SIDE, SIDE]);
    let plan = session.plan(&[batch])?;
    print!("{}", hetra_plan::print(&plan, session.graph()));
    profile(&session)?;
    accuracy(&session, load_ms)?;
    println!("\nNext: {}", console::style("hetra run MODEL.onnx --profile").bold());
    Ok(ExitCode::SUCCESS)
}

fn print_graph(session: &Session) {
    let graph = session.graph();
    let kernels = session.kernels();
    let mut table = show::table(&["op", "output", "kernel", "weights"], &[3]);
    for (node, kernel) in graph.nodes.iter().zip(kernels) {
        let weights: usize =
            node.uses().filter_map(|id| graph.constants.get(&id)).map(Value::byte_len).sum();
        let output = node.defs().next().map_or(String::new(), |id| graph.value(id).name.clone());
        table.add_row([node.op.clone(), output, kernel.to_string(), show::bytes(weights as u64)]);
    }
    println!("{table}");
}

/// Probabilities of each row of logits.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|v| (v - top).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

fn top(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

fn classify(session: &Session, pixels: &[f32]) -> Result<Vec<Vec<f32>>> {
    let count = pixels.len() / PIXELS;
    let tensor = Tensor::from_slice(&[count, 1, SIDE, SIDE], pixels)?;
    let outputs = session.run([("image", tensor)])?;
    let logits = outputs[0].as_tensor().context("the model gives no tensor")?;
    let logits = logits.as_slice::<f32>()?;
    Ok(logits.chunks_exact(CLASSES).map(softmax).collect())
}

/// A picture as text: two pixels a character, by half blocks.
fn draw(pixels: &[f32]) -> Vec<String> {
    let shade = |v: f32| [' ', '░', '▒', '▓', '█'][((v * 4.0).round() as usize).min(4)];
    pixels
        .chunks_exact(SIDE)
        .map(|row| row.iter().flat_map(|&v| [shade(v), shade(v)]).collect())
        .collect()
}

fn load_picture(bytes: &[u8]) -> Result<Vec<f32>> {
    let picture: GrayImage = image::load_from_memory(bytes)?.to_luma8();
    let (width, height) = picture.dimensions();
    ensure!(width as usize >= SIDE && height as usize >= SIDE, "the picture is too small");
    let (step_x, step_y) = (width / SIDE as u32, height / SIDE as u32);
    let at = |x: usize, y: usize| {
        let pixel =
            picture.get_pixel(x as u32 * step_x + step_x / 2, y as u32 * step_y + step_y / 2);
        f32::from(pixel.0[0]) / 255.0
    };
    Ok((0..PIXELS).map(|index| at(index % SIDE, index / SIDE)).collect())
}

fn classify_pictures(session: &Session) -> Result<()> {
    let mut pixels = Vec::new();
    for picture in PICTURES {
        pixels.extend(load_picture(picture)?);
    }
    let answers = classify(session, &pixels)?;
    for half in [0..5, 5..10] {
        let drawn: Vec<Vec<String>> =
            half.clone().map(|i| draw(&pixels[i * PIXELS..(i + 1) * PIXELS])).collect();
        for line in 0..SIDE {
            let row: Vec<&str> = drawn.iter().map(|picture| picture[line].as_str()).collect();
            println!("  {}", row.join("  "));
        }
        let verdicts: Vec<String> = half
            .map(|i| {
                let best = top(&answers[i]);
                let mark = if best == i { "✓" } else { "✗" };
                format!("{:<16}", format!("  {best} {mark} {:5.1} %", answers[i][best] * 100.0))
            })
            .collect();
        println!("  {}\n", verdicts.join("  "));
    }
    Ok(())
}

fn profile(session: &Session) -> Result<()> {
    let picture = Tensor::from_slice(&[1, 1, SIDE, SIDE], &load_picture(PICTURES[3])?)?;
    session.warm_up([("image", picture.clone())], 20)?;
    let (_, trace) = session.trace([("image", picture)])?;
    run::print_profile(session, &trace);
    Ok(())
}

/// The held-out set: pixels in 0..1 and labels.
fn test_set() -> Result<(Vec<f32>, Vec<usize>)> {
    let body = TEST_SET.strip_prefix(b"HDIG1\n").context("not a digit set")?;
    let (head, body) = body.split_first_chunk::<4>().context("a cut digit set")?;
    let records = body.chunks_exact(PIXELS + 1);
    ensure!(records.len() == u32::from_le_bytes(*head) as usize, "a cut digit set");
    let mut pixels = Vec::with_capacity(records.len() * PIXELS);
    let mut labels = Vec::with_capacity(records.len());
    for record in records {
        pixels.extend(record[..PIXELS].iter().map(|&v| f32::from(v) / 16.0));
        labels.push(usize::from(record[PIXELS]));
    }
    Ok((pixels, labels))
}

fn accuracy(session: &Session, load_ms: f64) -> Result<()> {
    let (pixels, labels) = test_set()?;
    let started = Instant::now();
    let answers = classify(session, &pixels)?;
    let seconds = started.elapsed().as_secs_f64();
    let right = answers.iter().zip(&labels).filter(|(a, label)| top(a) == **label).count();
    show::heading("Held-out pictures");
    println!(
        "  {right} of {} right: {:.2} %, measured now",
        labels.len(),
        right as f64 / labels.len() as f64 * 100.0
    );
    println!(
        "  load {}, then {} for all {} in one batch ({} pictures/s)",
        show::millis(load_ms),
        show::millis(seconds * 1e3),
        labels.len(),
        show::count((labels.len() as f64 / seconds).round()),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_model_reads_the_held_out_digits() {
        let session = Session::builder().model_bytes(MODEL).threads(1).build().unwrap();
        let (pixels, labels) = test_set().unwrap();
        let answers = classify(&session, &pixels).unwrap();
        let right = answers.iter().zip(&labels).filter(|(a, label)| top(a) == **label).count();
        assert!(right * 100 >= labels.len() * 97, "{right} of {}", labels.len());
    }
}
