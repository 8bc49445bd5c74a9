//! The top classes of a classifier's outputs, with their labels.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hetra::{Outputs, Value};
use hetra_tensor::to_f64;
use serde::Serialize;

use crate::show;
use crate::usage;

/// Options that say how classes are shown.
#[derive(clap::Args)]
pub(crate) struct ClassArgs {
    /// File with one class name a line: shows the top classes by name
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// How many classes to show
    #[arg(long, default_value_t = 5, value_name = "K", value_parser = usage::count,
          allow_negative_numbers = true)]
    top: usize,
}

/// One class of an output.
#[derive(Serialize)]
pub(crate) struct Class {
    pub(crate) class: usize,
    pub(crate) score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<String>,
}

/// The scores of a classifier: a float output of one row.
fn scores(value: &Value) -> Option<Vec<f64>> {
    let tensor = value.as_tensor()?;
    let row = matches!(tensor.shape(), [1, classes] | [1, classes, 1, 1] if *classes > 1);
    (row && tensor.dtype().is_float()).then(|| to_f64(tensor).ok()).flatten()
}

/// Names of classes, with the file that has them.
pub(crate) struct Labels {
    file: PathBuf,
    names: Vec<String>,
}

impl ClassArgs {
    /// Reads the labels; called early, so that a wrong file is told before the work.
    pub(crate) fn labels(&self) -> Result<Option<Labels>> {
        self.labels.as_deref().map(read_labels).transpose()
    }

    /// The top classes of each output; `None` for an output that is no row of scores. Warns when
    /// labels and classes do not match.
    pub(crate) fn of(&self, outputs: &Outputs, labels: Option<&Labels>) -> Vec<Option<Vec<Class>>> {
        let rows: Vec<_> = outputs.iter().map(|(name, v)| (name, scores(v))).collect();
        if let Some(labels) = labels {
            mismatch(&rows, labels).iter().for_each(|text| show::warn(text));
        }
        let label = |class: usize| labels?.names.get(class).cloned();
        let top = |scores: Vec<f64>| {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let class = |class| Class { class, score: scores[class], label: label(class) };
            order.into_iter().take(self.top).map(class).collect()
        };
        rows.into_iter().map(|(_, scores)| scores.map(top)).collect()
    }
}

fn read_labels(path: &Path) -> Result<Labels> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let names = text.trim_end().lines().map(|line| line.trim().to_string()).collect();
    Ok(Labels { file: path.to_path_buf(), names })
}

/// What is odd about labels for these outputs.
fn mismatch(rows: &[(&str, Option<Vec<f64>>)], labels: &Labels) -> Vec<String> {
    let (file, count) = (labels.file.display(), labels.names.len());
    let mut warnings = Vec::new();
    for (name, scores) in rows {
        if let Some(classes) = scores.as_ref().map(Vec::len).filter(|classes| *classes != count) {
            let lines = show::plural(count, "label");
            warnings.push(format!("{file} has {lines}, `{name}` has {classes} classes"));
        }
    }
    if rows.iter().all(|(_, scores)| scores.is_none()) {
        warnings.push(format!("{file}: no output is one row of scores, so there is none to label"));
    }
    warnings
}

/// Prints the top classes of one output.
pub(crate) fn print(name: &str, classes: &[Class]) {
    if classes.is_empty() {
        return;
    }
    show::heading(&format!("top classes of {name}"));
    for Class { class, score, label } in classes {
        let label = label.as_deref().unwrap_or_default();
        let line = format!("{class:6}  {:>12}  {label}", show::number(*score));
        println!("{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_do_not_match_are_told() {
        let names = ["a", "b"].map(str::to_string).to_vec();
        let labels = Labels { file: PathBuf::from("l.txt"), names };
        assert!(mismatch(&[("y", Some(vec![0.0; 2]))], &labels).is_empty());
        let found = mismatch(&[("y", Some(vec![0.0; 3])), ("z", None)], &labels);
        assert_eq!(found, ["l.txt has 2 labels, `y` has 3 classes"]);
        assert!(mismatch(&[("z", None)], &labels)[0].contains("no output is one row"));
    }
}
