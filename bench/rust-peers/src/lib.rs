//! What the two peers share: the task from `bench/cpu.py`, the clock, and the answers.
//!
//! Tensors cross the border as raw little-endian numbers, row-major, one file each, with a list
//! (`tensors.json`) of their names, types and shapes: neither side needs a format's parser.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs};

use serde::{Deserialize, Serialize};

/// The share of the window that an engine may settle for before it is timed.
const WARM_UP_SHARE: f64 = 0.1;

/// The list of a folder of tensors.
const LIST: &str = "tensors.json";

/// Any error; a sentence for the person who runs the comparison.
pub type Failure = Box<dyn Error>;

/// What to run; one JSON argument.
#[derive(Deserialize)]
pub struct Task {
    /// The ONNX file.
    pub model: PathBuf,
    /// The folder of the inputs.
    feed: PathBuf,
    /// Where the outputs go, if anywhere.
    out: Option<PathBuf>,
    /// Threads that the engine may use, the caller's among them.
    pub threads: usize,
    /// How long the steady state is timed.
    seconds: f64,
}

/// A tensor's description, and its numbers.
#[derive(Deserialize, Serialize)]
pub struct Array {
    /// The name in the graph.
    pub name: String,
    /// As numpy writes it: `float32`, `int64` and so on.
    pub dtype: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// The file of its numbers, beside the list.
    file: String,
    /// Little-endian, row-major.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

impl Array {
    /// A tensor to be written.
    pub fn new(name: &str, dtype: &str, shape: &[usize], bytes: Vec<u8>) -> Self {
        let (name, dtype) = (name.to_owned(), dtype.to_owned());
        Self { name, dtype, shape: shape.to_vec(), file: String::new(), bytes }
    }

    /// The numbers, each made of `N` bytes by `number`.
    pub fn numbers<T, const N: usize>(&self, number: fn([u8; N]) -> T) -> Vec<T> {
        let (parts, _) = self.bytes.as_chunks::<N>();
        parts.iter().map(|part| number(*part)).collect()
    }
}

/// Milliseconds of the steady state, under the names that `hetra bench --json` uses.
#[derive(Serialize)]
struct Steady {
    min_ms: f64,
    median_ms: f64,
    samples: usize,
}

/// What is printed.
#[derive(Serialize)]
struct Answer {
    load_ms: f64,
    first_ms: f64,
    steady: Steady,
}

impl Task {
    /// The task on the command line.
    pub fn read() -> Result<Self, Failure> {
        let text = env::args().nth(1).ok_or("wanted one argument, a task in JSON")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The inputs, in the graph's order.
    pub fn feed(&self) -> Result<Vec<Array>, Failure> {
        let mut arrays: Vec<Array> =
            serde_json::from_str(&fs::read_to_string(self.feed.join(LIST))?)?;
        for array in &mut arrays {
            array.bytes = fs::read(self.feed.join(&array.file))?;
        }
        Ok(arrays)
    }

    /// Runs `infer` once, then for the window, and prints the times. `started` is when loading
    /// began. `describe` turns the last outputs into arrays, where they are wanted.
    pub fn time<Outputs>(
        &self,
        started: Instant,
        mut infer: impl FnMut() -> Result<Outputs, Failure>,
        describe: impl FnOnce(&Outputs) -> Result<Vec<Array>, Failure>,
    ) -> Result<(), Failure> {
        let load = started.elapsed();
        let clock = Instant::now();
        let mut outputs = infer()?;
        let first = clock.elapsed();
        let window = Duration::from_secs_f64(self.seconds);
        let clock = Instant::now();
        while clock.elapsed() < window.mul_f64(WARM_UP_SHARE) {
            outputs = infer()?;
        }
        let mut samples = Vec::new();
        let clock = Instant::now();
        while samples.is_empty() || clock.elapsed() < window {
            let began = Instant::now();
            outputs = infer()?;
            samples.push(milliseconds(began.elapsed()));
        }
        if let Some(folder) = &self.out {
            write(folder, describe(&outputs)?)?;
        }
        let (load_ms, first_ms) = (milliseconds(load), milliseconds(first));
        let answer = Answer { load_ms, first_ms, steady: steady(samples) };
        println!("{}", serde_json::to_string(&answer)?);
        Ok(())
    }
}

/// Runs a peer's program; a failure is one line with all its causes, for the page shows it.
pub fn finish(run: fn() -> Result<(), Failure>) -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line += &format!(": {cause}");
        source = cause.source();
    }
    eprintln!("{line}");
    ExitCode::FAILURE
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The figures of at least one sample.
fn steady(mut samples: Vec<f64>) -> Steady {
    samples.sort_by(f64::total_cmp);
    let (count, middle) = (samples.len(), samples.len() / 2);
    let median_ms = if count % 2 == 1 {
        samples[middle]
    } else {
        (samples[middle - 1] + samples[middle]) / 2.0
    };
    Steady { min_ms: samples[0], median_ms, samples: count }
}

/// Writes the arrays and their list.
fn write(folder: &Path, mut arrays: Vec<Array>) -> Result<(), Failure> {
    for (index, array) in arrays.iter_mut().enumerate() {
        array.file = format!("{index}.bin");
        fs::write(folder.join(&array.file), &array.bytes)?;
    }
    fs::write(folder.join(LIST), serde_json::to_string(&arrays)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(steady(vec![3.0, 1.0, 2.0]).median_ms, 2.0);
        let even = steady(vec![4.0, 1.0, 2.0, 3.0]);
        assert_eq!((even.min_ms, even.median_ms, even.samples), (1.0, 2.5, 4));
    }

    #[test]
    fn numbers_are_little_endian() {
        let array = Array::new("x", "int32", &[2], vec![1, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(array.numbers(i32::from_le_bytes), [1, 256]);
    }
}
