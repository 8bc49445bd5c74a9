//! Options that say which model runs where, shared by the verbs that run one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use hetra::placing::PlanFile;
use hetra::{Int8Report, Precision, PrecisionReport, Session, Tuned, Value, Verdict, limits};
use serde_json::json;

use crate::inputs::Given;
use crate::show;
use crate::usage::{bytes, or_usage, tolerance, usage};

/// Which model, where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// The model, an ONNX file
    pub(crate) model: PathBuf,
    /// Device to run on (see `hetra devices`)
    #[arg(short, long, default_value = "cpu", value_name = "ID")]
    pub(crate) device: String,
    /// A plan of `hetra plan`, which says which devices do what
    #[arg(long, value_name = "FILE", conflicts_with_all = ["device", "threads", "precision",
          "no_pass"])]
    plan: Option<PathBuf>,
    /// Host threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,
    /// Keep each thread on a processor of its own
    #[arg(long)]
    pin: bool,
    /// Refuse steps that the device has no kernel for, instead of running them on the host or by a
    /// reference
    #[arg(long)]
    no_fallback: bool,
    /// How exactly to compute: `bf16` rounds the operands of products and convolutions by constant
    /// weights, `int8` quantises them and what lies between, with scales for the inputs of this
    /// command, `auto` does either only where that is faster and the outputs keep within
    /// --max-error of those of f32, measured on the inputs of this command
    #[arg(long, value_name = "PRECISION", default_value = "f32")]
    pub(crate) precision: Exactness,
    /// Largest error that --precision auto may make: of each output the largest difference from
    /// f32, divided by its largest magnitude [default: 0.01]
    #[arg(long, value_name = "E", value_parser = tolerance, allow_negative_numbers = true)]
    max_error: Option<f64>,
    /// Switch a pass off (repeatable; `all` for every one)
    #[arg(long, value_name = "PASS")]
    pub(crate) no_pass: Vec<String>,
    /// Most bytes of one tensor, such as 500000 or 2GiB; what asks for more is refused [default:
    /// 8GiB]
    #[arg(long, value_name = "N", value_parser = bytes)]
    max_bytes: Option<usize>,
    /// Most turns of one loop; a loop that wants more is ended [default: 100000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    max_turns: Option<i64>,
}

/// Which schedules a run works by.
#[derive(Args, Clone, Debug)]
pub(crate) struct TunedArgs {
    /// Leave out what `hetra tune` found for this device
    #[arg(long)]
    untuned: bool,
}

impl TunedArgs {
    pub(crate) fn tuned(&self) -> Tuned {
        if self.untuned { Tuned::Shipped } else { Tuned::Found }
    }
}

/// The error that `--precision auto` may make when `--max-error` is not given.
const MAX_ERROR: f64 = 1e-2;

/// `--precision`.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exactness {
    /// Nothing is rounded; by the same schedules the same to the bit for any number of threads
    F32,
    /// bf16 operands, f32 sums
    Bf16,
    /// 8-bit integers, with scales that fit the inputs of the command
    Int8,
    /// int8 and bf16 where that is faster and keeps within the budget
    Auto,
}

impl Exactness {
    fn name(self) -> &'static str {
        match self {
            Exactness::F32 => "f32",
            Exactness::Bf16 => "bf16",
            Exactness::Int8 => "int8",
            Exactness::Auto => "auto",
        }
    }
}

/// Parses `--threads`.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|threads| (1..=1024).contains(threads));
    threads.ok_or_else(|| "wanted a number from 1 to 1024".to_string())
}

impl Target {
    /// Whether a plan says which devices do what.
    pub(crate) fn has_plan(&self) -> bool {
        self.plan.is_some()
    }

    /// Whether the precision is chosen by the inputs of the command.
    pub(crate) fn calibrates(&self) -> bool {
        matches!(self.precision, Exactness::Int8 | Exactness::Auto)
    }

    /// Sets the limits of this process, loads and compiles the model. Inputs with a default that
    /// `given` does not give are weights that the exporter listed as inputs: they become constants,
    /// and fold.
    pub(crate) fn open(&self, given: &Given<'_>, tuned: Tuned) -> Result<Session> {
        if let Some(bytes) = self.max_bytes {
            limits::set_bytes_max(bytes);
        }
        if let Some(turns) = self.max_turns {
            limits::set_turns_max(turns);
        }
        let model = || self.model.display().to_string();
        let import = hetra_onnx::ImportOptions::default();
        let mut imported = crate::model::import(&self.model, &import)?;
        imported.info.warnings.iter().for_each(|text| show::warn(text));
        given.fix_defaults(&mut imported.graph);
        let mut builder = Session::builder().model(imported).tuned(tuned);
        builder = match &self.plan {
            Some(file) => builder.plan(read_plan(file)?),
            None => builder.device(&self.device),
        };
        if let Some(threads) = self.threads {
            builder = builder.threads(threads);
        }
        if self.pin {
            builder = builder.pin();
        }
        if self.no_fallback {
            builder = builder.no_fallback();
        }
        for pass in &self.no_pass {
            builder = builder.without_pass(pass);
        }
        if self.max_error.is_some() && self.precision != Exactness::Auto {
            return Err(usage("--max-error: only --precision auto has a budget"));
        }
        builder = match self.precision {
            Exactness::F32 => builder,
            Exactness::Bf16 => builder.precision(Precision::Bf16),
            Exactness::Int8 | Exactness::Auto => builder.quantisable(),
        };
        let session = builder.build().map_err(or_usage).with_context(model)?;
        session.warning().into_iter().for_each(show::warn);
        if self.precision == Exactness::Bf16 && session.lowered().is_empty() {
            show::warn(&format!(
                "--precision bf16: {} has no such kernel for any node of this model: it runs in f32",
                session.device().id
            ));
        }
        Ok(session)
    }

    /// Chooses how exactly the session computes where `--precision int8` or `auto` asks for it, by
    /// the inputs of this command, and tells what came of it on stderr. `random` are the names of
    /// inputs that were generated.
    pub(crate) fn settle_precision(
        &self,
        session: Session,
        inputs: &[(String, Value)],
        random: &[&str],
    ) -> Result<Session> {
        let calibration = vec![inputs.to_vec()];
        let precision = match self.precision {
            Exactness::F32 | Exactness::Bf16 => return Ok(session),
            Exactness::Int8 => Precision::Int8 { calibration },
            Exactness::Auto => {
                Precision::Auto { max_error: self.max_error.unwrap_or(MAX_ERROR), calibration }
            }
        };
        if !random.is_empty() {
            show::warn(&format!(
                "--precision {} measures its scales and its error on random inputs ({}), which \
                 tell little: give real ones by -i or --data",
                self.precision.name(),
                random.join(", ")
            ));
        }
        let session =
            session.with_precision(&precision).with_context(|| self.model.display().to_string())?;
        session.precision().into_iter().for_each(|report| eprintln!("{}", sentence(report)));
        Ok(session)
    }

    /// How exactly the session computes, for JSON.
    pub(crate) fn precision_json(&self, session: &Session) -> serde_json::Value {
        let asked = self.precision.name();
        let (lowered, quantised) = (session.lowered(), session.quantised());
        let Some(report) = session.precision() else {
            return json!({"asked": asked, "lowered": lowered, "quantised": quantised});
        };
        // JSON has no infinity.
        let finite = |error: f64| Some(error).filter(|error| error.is_finite());
        json!({
            "asked": asked, "lowered": lowered, "quantised": quantised,
            "verdict": report.verdict.text("bf16"),
            "max_error": finite(report.max_error), "error": finite(report.error),
            "error_of_all": report.error_of_all.and_then(finite),
            "products": report.products, "faster": report.faster, "trials": report.trials,
            "f32_ms": report.times_ns.map(|(f32, _)| ms(f32)),
            "tried_ms": report.times_ns.map(|(_, tried)| ms(tried)),
            "int8": report.int8.as_ref().map(|int8| json!({
                "verdict": int8.verdict.text("int8"), "quantised": int8.quantised,
                "error_of_all": int8.error_of_all.and_then(finite),
                "products": int8.products, "parts": int8.parts, "faster": int8.faster,
                "trials": int8.trials,
                "f32_ms": int8.times_ns.map(|(f32, _)| ms(f32)),
                "tried_ms": int8.times_ns.map(|(_, tried)| ms(tried)),
            })),
        })
    }
}

pub(crate) fn read_plan(file: &Path) -> Result<PlanFile> {
    let name = || file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(name)?;
    PlanFile::parse(&text).with_context(name)
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// What became of `--precision int8` or `auto`, for people.
fn sentence(report: &PrecisionReport) -> String {
    let budget = report.max_error;
    let allowed = |error: f64| match budget.is_finite() {
        true => format!("error {error:.1e} of {budget:.1e} allowed"),
        false => format!("error {error:.1e}"),
    };
    let mut parts: Vec<String> =
        report.int8.iter().map(|int8| of_int8(int8, &allowed, budget.is_finite())).collect();
    // With int8 alone, bf16 was no question.
    if budget.is_finite() {
        parts.push(of_bf16(report, &allowed));
    }
    let uses = [report.int8.as_ref().map(|int8| int8.verdict), Some(report.verdict)];
    if uses.contains(&Some(Verdict::Lowered)) {
        parts.push(allowed(report.error));
    }
    parts.extend(report.times_ns.map(times));
    format!("precision: {}", parts.join("; "))
}

fn times((f32, tried): (u64, u64)) -> String {
    format!("{} a run, f32 {}", show::millis(ms(tried)), show::millis(ms(f32)))
}

fn of_int8(int8: &Int8Report, allowed: &dyn Fn(f64) -> String, auto: bool) -> String {
    let mut text = int8.verdict.text("int8");
    if int8.products > 0 {
        let products = show::plural(int8.products, "product");
        text += &format!(" ({} of {products}", int8.quantised.len());
        if int8.parts > 1 {
            text += &format!(", {} of {} faster so", int8.faster, show::plural(int8.parts, "part"));
        }
        text += ")";
    }
    if auto && let Some(error) = int8.error_of_all {
        text += &format!(", with all of them {}", allowed(error));
    }
    let refused = int8.verdict != Verdict::Lowered;
    int8.times_ns
        .filter(|_| refused)
        .into_iter()
        .for_each(|ns| text += &format!(", {}", times(ns)));
    text
}

fn of_bf16(report: &PrecisionReport, allowed: &dyn Fn(f64) -> String) -> String {
    let mut text = report.verdict.text("bf16");
    if report.products > 0 {
        let products = show::plural(report.products, "product");
        let (count, faster) = (report.lowered.len(), report.faster);
        text += &format!(" ({count} of {products}, {faster} faster so)");
    }
    if report.verdict == Verdict::OverBudget
        && let Some(error) = report.error_of_all
    {
        text += &format!(", with all of them {}", allowed(error));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        target: Target,
    }

    #[test]
    fn a_budget_is_for_auto_only() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/digits.onnx");
        let line = |more: &[&str]| {
            Line::try_parse_from([&["hetra", model], more].concat()).map(|line| line.target)
        };
        let given = Given::Inputs { options: &[], arrays: Vec::new() };
        let open = |more: &[&str]| line(more).unwrap().open(&given, hetra::Tuned::Shipped);
        assert!(open(&["--max-error", "0.1"]).is_err());
        assert!(open(&["--max-error", "0.1", "--precision", "auto"]).is_ok());
        assert!(line(&["--precision", "int4"]).is_err());
        let low = line(&["--precision", "bf16"]).unwrap();
        let session = low.open(&given, hetra::Tuned::Shipped).unwrap();
        let json = low.precision_json(&session);
        assert_eq!(json["asked"], "bf16");
        assert!(!json["lowered"].as_array().unwrap().is_empty());
    }

    #[test]
    fn what_is_chosen_is_told() {
        let mut report = PrecisionReport {
            verdict: Verdict::Lowered,
            max_error: 0.01,
            error: 0.002,
            error_of_all: Some(0.03),
            calibration: 1,
            products: 5,
            faster: 3,
            lowered: vec!["a".into(), "b".into()],
            trials: 4,
            times_ns: Some((2_000_000, 1_500_000)),
            int8: None,
        };
        let check = |report: &PrecisionReport, parts: &[&str]| {
            let text = sentence(report);
            parts.iter().for_each(|part| assert!(text.contains(part), "{part}: {text}"));
        };
        let lines = ["2 of 5 products, 3 faster so", "2.0e-3 of 1.0e-2", "1.50 ms a run, f32 2.00"];
        check(&report, &lines);
        (report.verdict, report.times_ns) = (Verdict::OverBudget, None);
        report.lowered.clear();
        check(&report, &["no bf16", "with all of them error 3.0e-2"]);
        let mut int8 = Int8Report {
            verdict: Verdict::Lowered,
            error_of_all: Some(0.07),
            products: 9,
            parts: 8,
            faster: 6,
            quantised: vec!["a".into(), "b".into()],
            trials: 12,
            times_ns: Some((4_000_000, 2_500_000)),
        };
        report.int8 = Some(int8.clone());
        check(&report, &["int8 is used (2 of 9 products, 6 of 8 parts", "7.0e-2 of", "2.0e-3 of"]);
        int8.verdict = Verdict::NotFaster;
        int8.quantised.clear();
        report.int8 = Some(int8);
        check(&report, &["no int8", "(0 of 9", "2.50 ms a run, f32 4.00"]);
        assert!(!sentence(&report).contains("2.0e-3 of"), "{}", sentence(&report));
    }

    #[test]
    fn limits_are_set_from_the_options() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/digits.onnx");
        // Limits hold for the process: these are no hindrance to the tests beside this one.
        let (bytes, turns) = (limits::bytes_max() - 1, limits::turns_max() - 1);
        let (bytes_text, turns_text) = (bytes.to_string(), turns.to_string());
        let given = Given::Inputs { options: &[], arrays: Vec::new() };
        let line = ["hetra", model, "--max-bytes", &bytes_text, "--max-turns", &turns_text];
        Line::try_parse_from(line).unwrap().target.open(&given, Tuned::Shipped).unwrap();
        assert_eq!((limits::bytes_max(), limits::turns_max()), (bytes, turns));
        for flag in ["--max-bytes", "--max-turns"] {
            assert!(Line::try_parse_from(["hetra", model, flag, "0"]).is_err());
        }
    }
}
