//! `hetra conformance`

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use console::style;
use regex::Regex;
use serde_json::json;

use crate::show;
use crate::usage::{or_usage, usage};
use crate::worker::{Status, Verdict, data_sets};

/// Run every ONNX backend-test case below a folder
///
/// A case is a folder with model.onnx and test_data_set_N folders. A case that crashes or hangs
/// fails alone. The last line is `N passed, M failed, K skipped`; a case is skipped when it uses
/// an operator that Hetra does not have. Exits 1 when a case fails.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra conformance onnx/backend/test/data/node
  hetra conformance onnx/backend/test/data/node --filter '^test_conv' --json verdicts.json")]
pub(crate) struct Args {
    /// Folder to search for cases
    dir: PathBuf,
    /// Device to run on
    #[arg(short, long, default_value = "cpu", value_name = "ID")]
    device: String,
    /// Write every case's verdict to a JSON file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only cases whose name matches this regular expression
    #[arg(long, value_name = "RE")]
    filter: Option<Regex>,
    /// Seconds that one case may take
    #[arg(long, default_value_t = 20, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400), allow_negative_numbers = true)]
    limit: u64,
}

/// Deepest folder that is searched.
const DEPTH_MAX: usize = 12;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // Before anything is read: a device that is not there is the caller's mistake.
    hetra::open(&args.device, None).map_err(or_usage)?;
    let mut cases = Vec::new();
    find_cases(&args.dir, 0, &mut cases).with_context(|| args.dir.display().to_string())?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    anyhow::ensure!(
        !cases.is_empty(),
        "{}: no folder with model.onnx and test_data_set_N",
        args.dir.display()
    );
    cases.retain(|path| args.filter.as_ref().is_none_or(|re| re.is_match(&name(path))));
    cases.sort();
    if cases.is_empty() {
        return Err(usage(format!("{}: --filter leaves no case", args.dir.display())));
    }
    let bar = show::progress(cases.len() as u64, "conformance");
    let queue = Mutex::new(VecDeque::from(cases));
    let verdicts = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut worker = None;
                while let Some(case) = lock(&queue).pop_front() {
                    let verdict = one(&mut worker, &case, args);
                    bar.set_message(verdict.name.clone());
                    bar.inc(1);
                    lock(&verdicts).push(verdict);
                }
                if let Some(worker) = worker {
                    worker.end();
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut verdicts = verdicts.into_inner().unwrap_or_else(PoisonError::into_inner);
    verdicts.sort_by(|a, b| a.name.cmp(&b.name));
    report(&verdicts, args)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find_cases(folder: &Path, depth: usize, cases: &mut Vec<PathBuf>) -> Result<()> {
    if folder.join("model.onnx").is_file() && !data_sets(folder)?.is_empty() {
        cases.push(folder.to_path_buf());
        return Ok(());
    }
    if depth >= DEPTH_MAX {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find_cases(&entry.path(), depth + 1, cases)?;
        }
    }
    Ok(())
}

fn report(verdicts: &[Verdict], args: &Args) -> Result<ExitCode> {
    let count = |status| verdicts.iter().filter(|v| v.status == status).count();
    let (passed, failed, skipped) =
        (count(Status::Passed), count(Status::Failed), count(Status::Skipped));
    for verdict in verdicts {
        let word = match verdict.status {
            Status::Passed => continue,
            Status::Failed => style("failed").red(),
            Status::Skipped => style("skipped").yellow(),
        };
        println!("{word} {}: {}", verdict.name, verdict.reason);
    }
    if let Some(path) = &args.json {
        let report = json!({
            "passed": passed, "failed": failed, "skipped": skipped, "cases": verdicts,
        });
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| path.display().to_string())?;
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A worker process and its answers.
struct Worker {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Worker {
    fn start(device: &str) -> Result<Worker> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["conformance-worker", "--device", device])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdin = child.stdin.take().context("a worker without stdin")?;
        let stdout = child.stdout.take().context("a worker without stdout")?;
        // One answer is under way at a time, so the channel never fills.
        let (sender, answers) = sync_channel(4);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Worker { child, stdin, answers })
    }

    fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs one case; a worker that died or hung is replaced for the next.
fn one(slot: &mut Option<Worker>, case: &Path, args: &Args) -> Verdict {
    let failed = |reason: String| Verdict {
        name: case.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        status: Status::Failed,
        reason,
        ms: 0.0,
        whole: false,
    };
    let mut worker = match slot.take().map_or_else(|| Worker::start(&args.device), Ok) {
        Ok(worker) => worker,
        Err(error) => return failed(format!("no worker: {error}")),
    };
    let asked = writeln!(worker.stdin, "{}", case.display()).and_then(|()| worker.stdin.flush());
    if asked.is_err() {
        worker.end();
        return failed("its process ended".to_string());
    }
    match worker.answers.recv_timeout(Duration::from_secs(args.limit)) {
        Ok(line) => {
            *slot = Some(worker);
            serde_json::from_str(&line).unwrap_or_else(|error| failed(error.to_string()))
        }
        Err(RecvTimeoutError::Timeout) => {
            worker.end();
            failed(format!("it took over {} s", args.limit))
        }
        Err(RecvTimeoutError::Disconnected) => {
            worker.end();
            failed("it crashed its process".to_string())
        }
    }
}
