//! Options that say which model runs where, shared by the verbs that run one.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use hetra::{Session, limits};

use crate::inputs::Given;
use crate::show;
use crate::usage::{bytes, or_usage};

/// Which model, where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// The model, an ONNX file
    pub(crate) model: PathBuf,
    /// Device to run on (see `hetra devices`)
    #[arg(short, long, default_value = "cpu", value_name = "ID")]
    pub(crate) device: String,
    /// Host threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,
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

/// Parses `--threads`.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|threads| (1..=1024).contains(threads));
    threads.ok_or_else(|| "wanted a number from 1 to 1024".to_string())
}

impl Target {
    /// Sets the limits of this process, loads and compiles the model. Inputs with a default that
    /// `given` does not give are weights that the exporter listed as inputs: they become constants,
    /// and fold.
    pub(crate) fn open(&self, given: &Given<'_>) -> Result<Session> {
        if let Some(bytes) = self.max_bytes {
            limits::set_bytes_max(bytes);
        }
        if let Some(turns) = self.max_turns {
            limits::set_turns_max(turns);
        }
        let model = || self.model.display().to_string();
        let import = hetra_onnx::ImportOptions::default();
        let mut imported = hetra_onnx::import_file(&self.model, &import).with_context(model)?;
        imported.info.warnings.iter().for_each(|text| show::warn(text));
        given.fix_defaults(&mut imported.graph);
        let mut builder = Session::builder().model(imported).device(&self.device);
        if let Some(threads) = self.threads {
            builder = builder.threads(threads);
        }
        for pass in &self.no_pass {
            builder = builder.without_pass(pass);
        }
        builder.build().map_err(or_usage).with_context(model)
    }
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
    fn limits_are_set_from_the_options() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/digits.onnx");
        // Limits hold for the process: these are no hindrance to the tests beside this one.
        let (bytes, turns) = (limits::bytes_max() - 1, limits::turns_max() - 1);
        let (bytes_text, turns_text) = (bytes.to_string(), turns.to_string());
        let given = Given::Inputs { options: &[], arrays: Vec::new() };
        let line = ["hetra", model, "--max-bytes", &bytes_text, "--max-turns", &turns_text];
        Line::try_parse_from(line).unwrap().target.open(&given).unwrap();
        assert_eq!((limits::bytes_max(), limits::turns_max()), (bytes, turns));
        for flag in ["--max-bytes", "--max-turns"] {
            assert!(Line::try_parse_from(["hetra", model, flag, "0"]).is_err());
        }
    }
}
