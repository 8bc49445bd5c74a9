//! The file of a pipeline.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hetra_ir::Graph;
use hetra_tensor::Tensor;
use serde::Deserialize;

use crate::batch::Runner;
use crate::join::Joiner;
use crate::steps::{STEPS, model};

/// Most bytes of a file, and most steps.
const BYTES_MAX: u64 = 1 << 20;
const STEPS_MAX: usize = 256;

/// What is wrong with a pipeline.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum PipelineError {
    #[error("{file}: {reason}")]
    File { file: String, reason: String },
    #[error("step `{step}`: {reason}")]
    Step { step: String, reason: String },
    #[error("step `{step}`: {source}")]
    Model { step: String, source: hetra_onnx::ImportError },
    #[error("output `{output}` is to be `{value}`, which no step makes; there are {known}")]
    Output { output: String, value: String, known: String },
}

/// Names and what each of them looks like to a model: what a step `match` compares with.
#[derive(Clone, Debug, Default)]
pub struct Gallery {
    /// Who.
    pub names: Vec<String>,
    /// A row of numbers for each.
    pub rows: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    name: String,
    step: Vec<toml::Table>,
    #[serde(default)]
    outputs: BTreeMap<String, String>,
}

/// A pipeline as its file says it.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// What it is called.
    pub name: String,
    steps: Vec<toml::Table>,
    outputs: BTreeMap<String, String>,
    folder: PathBuf,
    models: Option<PathBuf>,
}

impl Pipeline {
    /// Looks for models that are not beside the file in this folder.
    #[must_use]
    pub fn models(mut self, folder: &Path) -> Pipeline {
        self.models = Some(folder.to_path_buf());
        self
    }

    /// Reads a file; models and galleries that it names are looked for beside it.
    ///
    /// # Errors
    /// What cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Pipeline, PipelineError> {
        let fault =
            |reason: String| PipelineError::File { file: path.display().to_string(), reason };
        let size = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?.len();
        if size > BYTES_MAX {
            return Err(fault(format!("{size} bytes; {BYTES_MAX} at most")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Pipeline::parse(&text, &folder).map_err(|error| match error {
            PipelineError::File { reason, .. } => fault(reason),
            error => error,
        })
    }

    /// Reads the text of a file that lies in a folder.
    ///
    /// # Errors
    /// What is none.
    pub fn parse(text: &str, folder: &Path) -> Result<Pipeline, PipelineError> {
        let fault = |reason: String| PipelineError::File { file: "pipeline".to_string(), reason };
        let raw: Raw = toml::from_str(text).map_err(|error| fault(error.to_string()))?;
        if raw.step.len() > STEPS_MAX {
            return Err(fault(format!("{} steps; {STEPS_MAX} at most", raw.step.len())));
        }
        let folder = folder.to_path_buf();
        Ok(Pipeline { name: raw.name, steps: raw.step, outputs: raw.outputs, folder, models: None })
    }

    /// The folders that steps `match` compare with and the values that they compare, by step.
    pub fn galleries(&self) -> BTreeMap<String, (PathBuf, String)> {
        let of = |step: &toml::Table| {
            let text = |key: &str| step.get(key).and_then(toml::Value::as_str);
            let (name, folder, of) = (text("name")?, text("gallery")?, text("of")?);
            Some((name.to_string(), (self.folder.join(folder), of.to_string())))
        };
        self.steps.iter().filter_map(of).collect()
    }

    /// The same without some steps and what needs them; its outputs are what is left of them, and
    /// `more`, values by name.
    #[must_use]
    pub fn without(&self, steps: &[&str], more: &[&str]) -> Pipeline {
        let mut left: BTreeSet<String> = steps.iter().map(|step| step.to_string()).collect();
        let mut kept = Vec::new();
        for step in &self.steps {
            let name = step.get("name").and_then(toml::Value::as_str).unwrap_or_default();
            let reads_left = texts(step).any(|text| left.contains(owner(&text)));
            if left.contains(name) || reads_left {
                left.insert(name.to_string());
            } else {
                kept.push(step.clone());
            }
        }
        let mut outputs = self.outputs.clone();
        outputs.retain(|_, value| !left.contains(owner(value)));
        outputs.extend(more.iter().map(|value| (value.to_string(), value.to_string())));
        Pipeline { steps: kept, outputs, ..self.clone() }
    }

    /// The graph: its input is `image` (u8, height, width, 3 channels, red first); its outputs are
    /// those that the file names, else what the last step makes.
    ///
    /// `runner` tries whether a model that takes one at a time gives the same for many.
    ///
    /// # Errors
    /// A step that is none or lacks something, a model that cannot be read, a value that nobody
    /// makes.
    pub fn graph(
        &self,
        galleries: &BTreeMap<String, Gallery>,
        runner: Runner<'_>,
    ) -> Result<Graph, PipelineError> {
        let mut joiner = Joiner::new(&self.name, galleries, runner);
        joiner.folders =
            [Some(self.folder.clone()), self.models.clone()].into_iter().flatten().collect();
        for (index, table) in self.steps.iter().enumerate() {
            let name = table.get("name").and_then(toml::Value::as_str).unwrap_or_default();
            let step = if name.is_empty() { format!("{}", index + 1) } else { name.to_string() };
            let params = Params { step, table, used: RefCell::default() };
            params.text("name")?;
            match (params.text_opt("do")?, table.contains_key("model")) {
                (None, true) => model(&mut joiner, &params)?,
                (Some(what), false) => {
                    let row = STEPS.iter().find(|row| row.name == what).ok_or_else(|| {
                        let known: Vec<&str> = STEPS.iter().map(|row| row.name).collect();
                        params
                            .fault(format!("there is no `{what}`; there are {}", known.join(", ")))
                    })?;
                    (row.make)(&mut joiner, &params)?;
                }
                _ => return Err(params.fault("wanted one of `do` and `model`".to_string())),
            }
            params.all_used()?;
        }
        joiner.finish(&self.outputs)
    }
}

/// The step that a value is of: `faces` of `faces.boxes`.
fn owner(value: &str) -> &str {
    value.split_once('.').map_or(value, |(step, _)| step)
}

/// What in a step may be values of other steps.
fn texts(step: &toml::Table) -> impl Iterator<Item = String> + '_ {
    let other = |key: &str| ["name", "do", "model", "gallery", "labels", "letters"].contains(&key);
    step.iter().filter(move |(key, _)| !other(key)).flat_map(|(_, value)| match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Table(table) => {
            table.values().filter_map(|value| value.as_str().map(str::to_string)).collect()
        }
        _ => Vec::new(),
    })
}

/// What a step is told.
pub(crate) struct Params<'a> {
    pub(crate) step: String,
    table: &'a toml::Table,
    used: RefCell<BTreeSet<String>>,
}

impl Params<'_> {
    pub(crate) fn fault(&self, reason: String) -> PipelineError {
        PipelineError::Step { step: self.step.clone(), reason }
    }

    fn get(&self, key: &str) -> Option<&toml::Value> {
        self.used.borrow_mut().insert(key.to_string());
        self.table.get(key)
    }

    /// # Errors
    /// A key that nobody asked for.
    fn all_used(&self) -> Result<(), PipelineError> {
        let used = self.used.borrow();
        match self.table.keys().find(|key| !used.contains(*key)) {
            Some(key) => {
                let known: Vec<&str> = used.iter().map(String::as_str).collect();
                Err(self.fault(format!("it has no `{key}`; it has {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn text_opt(&self, key: &str) -> Result<Option<&str>, PipelineError> {
        let wanted = || self.fault(format!("`{key}`: wanted a text"));
        self.get(key).map(|value| value.as_str().ok_or_else(wanted)).transpose()
    }

    pub(crate) fn text(&self, key: &str) -> Result<&str, PipelineError> {
        self.text_opt(key)?.ok_or_else(|| self.fault(format!("`{key}` is missing")))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, PipelineError> {
        let wanted = || self.fault(format!("`{key}`: wanted true or false"));
        self.get(key).map_or(Ok(false), |value| value.as_bool().ok_or_else(wanted))
    }

    pub(crate) fn number(&self, key: &str, other: f64) -> Result<f64, PipelineError> {
        let wanted = || self.fault(format!("`{key}`: wanted a number"));
        self.get(key).map_or(Ok(other), |value| as_number(value).ok_or_else(wanted))
    }

    /// A number from 0 to 1.
    pub(crate) fn part(&self, key: &str, other: f64) -> Result<f64, PipelineError> {
        let value = self.number(key, other)?;
        let fault = || self.fault(format!("`{key}`: {value} is not from 0 to 1"));
        if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(fault()) }
    }

    pub(crate) fn numbers<const N: usize>(
        &self,
        key: &str,
    ) -> Result<Option<[f64; N]>, PipelineError> {
        let wanted = || self.fault(format!("`{key}`: wanted {N} numbers"));
        let Some(value) = self.get(key) else { return Ok(None) };
        let all: Option<Vec<f64>> =
            value.as_array().and_then(|list| list.iter().map(as_number).collect());
        let all = all.and_then(|all| <[f64; N]>::try_from(all).ok());
        all.map(Some).ok_or_else(wanted)
    }

    /// Height and width.
    pub(crate) fn size(&self) -> Result<[usize; 2], PipelineError> {
        let wanted = || self.fault("`size`: wanted height and width, from 1 to 16384".to_string());
        let missing = || self.fault("`size` is missing: height and width".to_string());
        let [h, w] = self.numbers::<2>("size")?.ok_or_else(missing)?;
        let side = |side: f64| (1.0..=16384.0).contains(&side) && side.fract() == 0.0;
        if side(h) && side(w) { Ok([h as usize, w as usize]) } else { Err(wanted()) }
    }

    /// Texts by name: the inputs of a model.
    pub(crate) fn names(&self, key: &str) -> Result<BTreeMap<String, String>, PipelineError> {
        let wanted = || self.fault(format!("`{key}`: wanted texts by name"));
        let Some(value) = self.get(key) else { return Ok(BTreeMap::new()) };
        let table = value.as_table().ok_or_else(wanted)?;
        let pair = |(name, value): (&String, &toml::Value)| {
            Some((name.clone(), value.as_str()?.to_string()))
        };
        table.iter().map(pair).collect::<Option<_>>().ok_or_else(wanted)
    }
}

fn as_number(value: &toml::Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|number| number as f64))
}

/// Numbers as a constant.
pub(crate) fn floats(shape: &[usize], numbers: &[f64]) -> Result<Tensor, PipelineError> {
    let numbers: Vec<f32> = numbers.iter().map(|&number| number as f32).collect();
    Tensor::from_slice(shape, &numbers).map_err(|error| PipelineError::Step {
        step: "constant".to_string(),
        reason: error.to_string(),
    })
}
