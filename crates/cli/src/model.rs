//! The model that a command line names: an ONNX file, or a pipeline.

use std::path::Path;

use anyhow::{Context, Result};
use hetra::{ImportOptions, Model};

use crate::pipeline;

/// Imports a model; a TOML file is a pipeline, whose graph is the model.
pub(crate) fn import(path: &Path, options: &ImportOptions) -> Result<Model> {
    let name = || path.display().to_string();
    match path.extension().is_some_and(|ending| ending == "toml") {
        true => pipeline::import(path).with_context(name),
        false => hetra::import_file(path, options).with_context(name),
    }
}
