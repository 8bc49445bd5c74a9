//! `hetra pipeline`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use hetra::pipeline::{Gallery, Pipeline, STEPS, runner};
use hetra::{Graph, Model, ModelInfo, Outputs, Precision, Session, Tensor};
use serde_json::json;

use crate::session::threads;
use crate::statistics::Statistics;
use crate::usage::{or_usage, usage};
use crate::{annotate, images, show, streamed};

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
    #[command(flatten)]
    how: How,
    /// List what steps do
    #[arg(long)]
    list_steps: bool,
}

/// What to run a pipeline on, and how.
#[derive(clap::Args, Clone)]
pub(crate) struct How {
    /// Pictures (PNG, JPEG), or folders of them; `-` for a stream of them on standard input
    pub(crate) pictures: Vec<PathBuf>,
    /// Where models are that are not beside the file
    #[arg(long, value_name = "FOLDER")]
    pub(crate) models: Option<PathBuf>,
    /// Pictures of what a step `match` names, one of each, called as it is
    #[arg(long, value_name = "FOLDER")]
    pub(crate) gallery: Option<PathBuf>,
    /// Device to run on (see `hetra devices`)
    #[arg(short, long, default_value = "cpu", value_name = "ID")]
    pub(crate) device: String,
    /// A plan of `hetra plan FILE.toml`, which says which devices do what
    #[arg(long, value_name = "FILE", conflicts_with_all = ["device", "threads"])]
    pub(crate) plan: Option<PathBuf>,
    /// How exactly to compute: `bf16` rounds the operands of products and convolutions by constant
    /// weights, wherever there is a kernel for it
    #[arg(long, value_enum, default_value_t = Rounding::F32, conflicts_with = "plan")]
    pub(crate) precision: Rounding,
    /// Host threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,
    /// Pictures that are worked on at one time: while one is decoded, another one runs
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = jobs)]
    pub(crate) jobs: usize,
    /// Work through all pictures so many times, and tell how long that takes
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = repeats)]
    pub(crate) repeat: usize,
    /// Write pictures with boxes, points and names into this folder (outputs `boxes`, `points`,
    /// `names`, `scores`)
    #[arg(long, value_name = "FOLDER")]
    pub(crate) draw: Option<PathBuf>,
    /// Print JSON, alone on stdout; of a stream a line for each picture
    #[arg(long)]
    pub(crate) json: bool,
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
pub(crate) enum Rounding {
    /// Nothing is rounded
    F32,
    /// bf16 operands, f32 sums
    Bf16,
}

/// A picture that was worked through.
pub(crate) struct Done {
    pub(crate) name: String,
    pub(crate) outputs: Outputs,
    pub(crate) took: Took,
}

/// How long a picture took.
#[derive(Clone, Copy)]
pub(crate) struct Took {
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
    check(&args.how)?;
    let mut pipeline = Pipeline::read(file)?;
    if let Some(folder) = &args.how.models {
        pipeline = pipeline.models(folder);
    }
    run_on(&pipeline, &file.display().to_string(), &args.how)
}

/// What stands for a stream of pictures.
const STREAM: &str = "-";

fn is_stream(args: &How) -> bool {
    args.pictures.iter().any(|path| path.as_os_str() == STREAM)
}

/// # Errors
/// No picture, or a stream with what it cannot be with.
fn check(args: &How) -> Result<()> {
    ensure!(!args.pictures.is_empty(), usage("no picture"));
    if is_stream(args) {
        ensure!(args.pictures.len() == 1, usage("a stream is read alone"));
        ensure!(args.repeat == 1, usage("a stream is read once: no --repeat"));
    }
    if let Some(folder) = args.draw.as_deref().and_then(|folder| folder.canonicalize().ok()) {
        ensure!(folder.is_dir(), usage(format!("{}: no folder", folder.display())));
        let within = |path: &PathBuf| {
            let own = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
            let own = own.map(|own| if own.as_os_str().is_empty() { Path::new(".") } else { own });
            own.and_then(|own| own.canonicalize().ok()).is_some_and(|own| own == folder)
        };
        let same = args.pictures.iter().any(within);
        ensure!(!same, usage("--draw: pictures that are read lie there; take another folder"));
    }
    Ok(())
}

/// Runs a pipeline, which is called `label`, on pictures.
pub(crate) fn run_on(pipeline: &Pipeline, label: &str, args: &How) -> Result<ExitCode> {
    check(args)?;
    let begun = Instant::now();
    if is_stream(args) {
        let session = session(pipeline, args)?;
        return streamed::run(&session, label, args);
    }
    let pictures = pictures(&args.pictures)?;
    let session = session(pipeline, args)?;
    let load_ms = begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    let (done, faults) = work(&session, &pictures, args)?;
    ensure!(!done.is_empty(), "{}", faults.join("; "));
    let per_second = done.len() as f64 / begun.elapsed().as_secs_f64();
    if let Some(folder) = &args.draw {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let mut drawn = Vec::new();
        for done in done.iter().take(pictures.len()) {
            let picture = image::open(&done.name).with_context(|| done.name.clone())?.to_rgb8();
            annotate::draw(picture, Path::new(&done.name), &done.outputs, folder, &mut drawn)?;
        }
    }
    let first = &done[..done.len().min(pictures.len() - faults.len())];
    let times = Times::of(done.iter().map(|done| done.took));
    let code = if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    faults.iter().for_each(|fault| show::warn(fault));
    if args.json {
        let results: Vec<_> = first.iter().map(Done::json).collect();
        println!(
            "{}",
            json!({
                "pipeline": label, "device": session.device().id,
                "load_ms": load_ms, "jobs": args.jobs, "pictures": results,
                "per_second": per_second, "run_is_modelled": session.is_simulated(),
                "total": times.both, "decode": times.decode,
                "run": times.run, "faults": faults,
            })
        );
        return Ok(code);
    }
    for done in first {
        println!("{}", done.name);
        annotate::print(&done.outputs);
    }
    println!("{label} on {}", show::on(&session));
    if session.is_simulated() {
        println!("a device is only described: the times of runs are modelled");
    }
    times.print();
    println!("load {}, {per_second:.1} pictures a second", show::millis(load_ms));
    Ok(code)
}

/// The session that the command line asks for.
fn session(pipeline: &Pipeline, args: &How) -> Result<Session> {
    let mut builder = Session::builder().graph(joined(pipeline, args.gallery.as_deref())?);
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
    let built = builder.build().map_err(or_usage);
    built.with_context(|| match args.plan.is_none() && args.device != "cpu" {
        true => format!(
            "not on {0} alone; a plan gives it what it does: hetra plan FILE.toml -d cpu,{0}",
            args.device
        ),
        false => "the pipeline".to_string(),
    })
}

/// How long pictures took.
pub(crate) struct Times {
    decode: Option<Statistics>,
    run: Option<Statistics>,
    both: Option<Statistics>,
}

impl Times {
    pub(crate) fn of(all: impl Iterator<Item = Took>) -> Times {
        let all: Vec<Took> = all.collect();
        let statistics = |of: fn(&Took) -> f64| Statistics::of(all.iter().map(of).collect());
        Times {
            decode: statistics(|took| took.decode_ms),
            run: statistics(|took| took.run_ms),
            both: statistics(|took| took.decode_ms + took.run_ms),
        }
    }

    pub(crate) fn print(&self) {
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
    pub(crate) fn json(&self) -> serde_json::Value {
        let outputs = self.outputs.iter().map(|(name, value)| {
            (name.to_string(), value.as_tensor().map_or(json!(null), annotate::json_of))
        });
        json!({
            "picture": self.name,
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
    Ok(Model { graph: joined(&Pipeline::read(file)?, None)?, info: ModelInfo::default() })
}

/// The graph of a pipeline with its galleries; without the steps whose galleries are not there.
fn joined(pipeline: &Pipeline, gallery: Option<&Path>) -> Result<Graph> {
    let mut folders = pipeline.galleries();
    if let Some(folder) = gallery {
        ensure!(!folders.is_empty(), usage("`--gallery`: no step of the pipeline is a `match`"));
        ensure!(folder.is_dir(), "{}: no folder", folder.display());
        folders.values_mut().for_each(|(path, _)| *path = folder.to_path_buf());
    }
    let mut lacking = Vec::new();
    folders.retain(|step, (folder, _)| {
        let there = folder.is_dir();
        if !there {
            let folder = folder.display();
            show::note(&format!("no folder `{folder}`: without step `{step}` (see --gallery)"));
            lacking.push(step.clone());
        }
        there
    });
    let lacking: Vec<&str> = lacking.iter().map(String::as_str).collect();
    let pipeline = pipeline.without(&lacking, &[]);
    Ok(pipeline.graph(&galleries(&pipeline, &folders)?, &runner)?)
}

/// What the pictures of galleries look like to the models: the file's name is the name.
fn galleries(
    pipeline: &Pipeline,
    folders: &BTreeMap<String, (PathBuf, String)>,
) -> Result<BTreeMap<String, Gallery>> {
    let mut galleries = BTreeMap::new();
    for (step, (folder, of)) in folders {
        let others: Vec<&str> = folders.keys().map(String::as_str).collect();
        let graph = pipeline.without(&others, &[of]).graph(&BTreeMap::new(), &runner)?;
        let session = Session::builder().graph(graph).build()?;
        let mut gallery = Gallery::default();
        for path in pictures(std::slice::from_ref(folder))? {
            let name = || path.display().to_string();
            let outputs = session.run([("image", images::pixels(&path).with_context(name)?)])?;
            let rows = outputs.get(of).and_then(|value| value.as_tensor());
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
        galleries.insert(step.clone(), gallery);
    }
    Ok(galleries)
}

/// Works through the pictures, some at one time, in their order; what cannot be used is left out,
/// with the reason.
fn work(session: &Session, pictures: &[PathBuf], args: &How) -> Result<(Vec<Done>, Vec<String>)> {
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
    on_image(session, path.display().to_string(), image, decode_ms)
}

pub(crate) fn on_image(
    session: &Session,
    name: String,
    image: Tensor,
    decode_ms: f64,
) -> Result<Done> {
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
    Ok(Done { name, outputs, took: Took { decode_ms, run_ms } })
}
