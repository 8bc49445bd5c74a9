//! Options that say which model runs where, shared by the verbs that run one.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use hetra::Session;

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
}

/// Parses `--threads`.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|threads| (1..=1024).contains(threads));
    threads.ok_or_else(|| "wanted a number from 1 to 1024".to_string())
}

impl Target {
    /// Loads and compiles the model.
    pub(crate) fn open(&self) -> Result<Session> {
        let mut builder = Session::builder().model_file(&self.model).device(&self.device);
        if let Some(threads) = self.threads {
            builder = builder.threads(threads);
        }
        for pass in &self.no_pass {
            builder = builder.without_pass(pass);
        }
        builder.build().with_context(|| self.model.display().to_string())
    }
}
