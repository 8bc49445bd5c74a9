//! `hetra pipeline`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use hetra::pipeline::{Gallery, Pipeline, STEPS};
use hetra::{Graph, Model, ModelInfo, Outputs, Precision, Session, Tensor};
use serde_json::json;

use crate::session::threads;
use crate::statistics::Statistics;
use crate::usage::{or_usage, usage};
use crate::{annotate, images, show};

/// Run several models, and what stands between them, as one graph: from pictures to results
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra pipeline face.toml people.jpg --draw drawn
  hetra pipeline face.toml pictures/ --jobs 2 --json
  hetra pipeline --list-steps

The file names steps; each reads what those before it made:
  [[step]]
  name = \"small\"
  do = \"letterbox\"
  of = \"image\"
  size = [320, 320]
  [[step]]
  name = \"net\"
  model = \"yunet.onnx\"
  of = \"small\"
  [outputs]
  boxes = \"faces.boxes\"
`hetra plan`, `bench` and `inspect` take such a file in the place of a model.")]
pub(crate) struct Args {
    /// The pipeline, a TOML file
    #[arg(required_unless_present = "list_steps")]
    file: Option<PathBuf>,
    /// Pictures (PNG, JPEG), or folders of them
    pictures: Vec<PathBuf>,
    /// Where models are that are not beside the file
    #[arg(long, value_name = "FOLDER")]
    models: Option<PathBuf>,
    /// Device to run on (see `hetra devices`)
    #[arg(short, long, default_value = "cpu", value_name = "ID")]
    device: String,
    /// A plan of `hetra plan FILE.toml`, which says which devices do what
    #[arg(long, value_name = "FILE", conflicts_with_all = ["device", "threads"])]
    plan: Option<PathBuf>,
    /// How exactly to compute: `bf16` rounds the operands of products and convolutions by constant
    /// weights, wherever there is a kernel for it
    #[arg(long, value_enum, default_value_t = Rounding::F32, conflicts_with = "plan")]
    precision: Rounding,
    /// Host threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    threads: Option<usize>,
    /// Pictures that are worked on at one time: while one is decoded, another one runs
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = jobs)]
    jobs: usize,
    /// Work through all pictures so many times, and tell how long that takes
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = repeats)]
    repeat: usize,
    /// Write pictures with boxes, points and names into this folder (outputs `boxes`, `points`,
    /// `names`, `scores`)
    #[arg(long, value_name = "FOLDER")]
    draw: Option<PathBuf>,
    /// List what steps do
    #[arg(long)]
    list_steps: bool,
    /// Print JSON, alone on stdout
    #[arg(long)]
    json: bool,
}

/// Most pictures at one time, and most rounds.
const JOBS_MAX: usize = 64;
const REPEAT_MAX: usize = 1_000_000;

fn jobs(text: &str) -> Result<usize, String> {
    up_to(text, JOBS_MAX)
}

fn repeats(text: &str) -> Result<usize, String> {
    up_to(text, REPEAT_MAX)
}

fn up_to(text: &str, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("wanted a number from 1 to {most}"))
}

/// `--precision`.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Rounding {
    /// Nothing is rounded
    F32,
    /// bf16 operands, f32 sums
    Bf16,
}

/// A picture that was worked through.
struct Done {
    path: PathBuf,
    outputs: Outputs,
    decode_ms: f64,
    run_ms: f64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.list_steps {
        let mut table = show::table(&["do", "what", "takes", "gives"], &[]);
        for row in STEPS {
            table.add_row([row.name, row.doc, row.takes, row.gives]);
        }
        println!("{table}");
        return Ok(ExitCode::SUCCESS);
    }
    let file = args.file.as_deref().ok_or_else(|| usage("no pipeline"))?;
    let pictures = pictures(&args.pictures)?;
    ensure!(!pictures.is_empty(), usage("no picture"));
    let begun = Instant::now();
    let session = session(args, file)?;
    let load_ms = begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    let (done, faults) = work(&session, &pictures, args)?;
    ensure!(!done.is_empty(), "{}", faults.join("; "));
    let per_second = done.len() as f64 / begun.elapsed().as_secs_f64();
    if let Some(folder) = &args.draw {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let mut drawn = Vec::new();
        for done in done.iter().take(pictures.len()) {
            annotate::draw(&done.path, &done.outputs, folder, &mut drawn)?;
        }
    }
    let first = &done[..done.len().min(pictures.len() - faults.len())];
    let times = Times::of(&done);
    let code = if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    faults.iter().for_each(|fault| show::warn(fault));
    if args.json {
        let results: Vec<_> = first.iter().map(Done::json).collect();
        println!(
            "{}",
            json!({
                "pipeline": file.display().to_string(), "device": session.device().id,
                "load_ms": load_ms, "jobs": args.jobs, "pictures": results,
                "per_second": per_second, "run_is_modelled": session.is_simulated(),
                "total": times.both, "decode": times.decode,
                "run": times.run, "faults": faults,
            })
        );
        return Ok(code);
    }
    for done in first {
        println!("{}", done.path.display());
        annotate::print(&done.outputs);
    }
    println!("{} on {}", file.display(), show::on(&session));
    if session.is_simulated() {
        println!("a device is only described: the times of runs are modelled");
    }
    times.print();
    println!("load {}, {per_second:.1} pictures a second", show::millis(load_ms));
    Ok(code)
}

/// The session that the command line asks for.
fn session(args: &Args, file: &Path) -> Result<Session> {
    let mut pipeline = Pipeline::read(file)?;
    if let Some(folder) = &args.models {
        pipeline = pipeline.models(folder);
    }
    let mut builder = Session::builder().graph(joined(&pipeline)?);
    builder = match &args.plan {
        Some(file) => builder.plan(crate::session::read_plan(file)?),
        None => builder.device(&args.device),
    };
    if let Some(threads) = args.threads {
        builder = builder.threads(threads);
    }
    if args.precision == Rounding::Bf16 {
        builder = builder.precision(Precision::Bf16);
    }
    builder.build().map_err(or_usage)
}

/// How long pictures took.
struct Times {
    decode: Option<Statistics>,
    run: Option<Statistics>,
    both: Option<Statistics>,
}

impl Times {
    fn of(done: &[Done]) -> Times {
        let statistics = |of: fn(&Done) -> f64| Statistics::of(done.iter().map(of).collect());
        Times {
            decode: statistics(|done| done.decode_ms),
            run: statistics(|done| done.run_ms),
            both: statistics(|done| done.decode_ms + done.run_ms),
        }
    }

    fn print(&self) {
        let head = ["what", "median", "p90", "p99", "most", "pictures"];
        let mut table = show::table(&head, &[1, 2, 3, 4, 5]);
        for (what, statistics) in
            [("decode", &self.decode), ("run", &self.run), ("both", &self.both)]
        {
            if let Some(s) = statistics {
                let [a, b, c, d] = [s.median_ms, s.p90_ms, s.p99_ms, s.max_ms].map(show::millis);
                table.add_row([what.to_string(), a, b, c, d, s.samples.to_string()]);
            }
        }
        println!("{table}");
    }
}

impl Done {
    fn json(&self) -> serde_json::Value {
        let outputs = self.outputs.iter().map(|(name, value)| {
            (name.to_string(), value.as_tensor().map_or(json!(null), annotate::json_of))
        });
        json!({
            "picture": self.path.display().to_string(),
            "outputs": outputs.collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// The files, those of folders in the order of their names.
fn pictures(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in given {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
        let mut files: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
                ["png", "jpg", "jpeg"].contains(&ending.as_str())
            })
            .collect();
        files.sort();
        ensure!(!files.is_empty(), "{}: no PNG or JPEG in it", path.display());
        all.extend(files);
    }
    Ok(all)
}

/// The graph of a file, as a model.
pub(crate) fn import(file: &Path) -> Result<Model> {
    Ok(Model { graph: joined(&Pipeline::read(file)?)?, info: ModelInfo::default() })
}

/// The graph of a pipeline with its galleries.
fn joined(pipeline: &Pipeline) -> Result<Graph> {
    Ok(pipeline.graph(&galleries(pipeline)?)?)
}

/// What the pictures of galleries look like to the models: the file's name is the name.
fn galleries(pipeline: &Pipeline) -> Result<BTreeMap<String, Gallery>> {
    let mut galleries = BTreeMap::new();
    for (step, (folder, of)) in pipeline.galleries() {
        let others: Vec<String> = pipeline.galleries().into_keys().collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        let graph = pipeline.without(&others, &[&of]).graph(&BTreeMap::new())?;
        let session = Session::builder().graph(graph).build()?;
        let mut gallery = Gallery::default();
        for path in pictures(std::slice::from_ref(&folder))? {
            let name = || path.display().to_string();
            let outputs = session.run([("image", images::pixels(&path).with_context(name)?)])?;
            let rows = outputs.get(&of).and_then(|value| value.as_tensor());
            let rows = rows.ok_or_else(|| anyhow!("`{of}` is no tensor"))?;
            if rows.shape().first().is_none_or(|&count| count == 0) {
                show::warn(&format!("{}: nothing found in it; it is left out", name()));
                continue;
            }
            let width = rows.len() / rows.shape()[0];
            gallery.rows.push(rows.as_slice::<f32>()?[..width].to_vec());
            gallery.names.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        }
        ensure!(!gallery.rows.is_empty(), "{}: none of its pictures can be used", folder.display());
        galleries.insert(step, gallery);
    }
    Ok(galleries)
}

/// Works through the pictures, some at one time, in their order; what cannot be used is left out,
/// with the reason.
fn work(session: &Session, pictures: &[PathBuf], args: &Args) -> Result<(Vec<Done>, Vec<String>)> {
    // Once, so that what is made when it is first needed is not timed; a bad one is told below.
    if args.repeat > 1 {
        let _ = one(session, &pictures[0]);
    }
    let count = pictures.len() * args.repeat;
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let path = &pictures[index % pictures.len()];
            let made = one(session, path);
            let made =
                made.map_err(|error| format!("{}: {}", path.display(), show::explain(&error)));
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, made));
        }
    };
    std::thread::scope(|scope| {
        (1..args.jobs.min(count)).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let mut all = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    all.sort_by_key(|(index, _)| *index);
    let (mut done, mut faults) = (Vec::new(), Vec::new());
    for (index, made) in all {
        match made {
            Ok(made) => done.push(made),
            Err(fault) if index < pictures.len() => faults.push(fault),
            Err(_) => {}
        }
    }
    Ok((done, faults))
}

fn one(session: &Session, path: &Path) -> Result<Done> {
    let begun = Instant::now();
    let image: Tensor = images::pixels(path)?;
    let decode_ms = begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    let (outputs, run_ms) = match session.is_simulated() {
        false => {
            let outputs = session.run([("image", image)])?;
            (outputs, begun.elapsed().as_secs_f64() * 1e3)
        }
        true => {
            let (outputs, trace) = session.trace([("image", image)])?;
            (outputs, trace.simulated.map_or(0.0, |simulated| simulated.total_s * 1e3))
        }
    };
    Ok(Done { path: path.to_path_buf(), outputs, decode_ms, run_ms })
}
