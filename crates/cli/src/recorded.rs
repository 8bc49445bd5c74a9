//! Recorded inputs and outputs: folders in the layout of ONNX's test cases.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use hetra::{Graph, Port, Session, Type, Value};

use crate::show;

/// Inputs from `input_N.pb` in a folder, in the order of the model's inputs without default.
pub(crate) fn inputs(session: &Session, folder: &Path) -> Result<Vec<(String, Value)>> {
    ensure!(folder.is_dir(), "{}: no such folder", folder.display());
    let ports = session.inputs();
    let open: Vec<&Port> = ports.iter().filter(|port| !port.has_default).collect();
    let count = (0..ports.len()).take_while(|n| numbered(folder, "input", *n).exists()).count();
    let wanted: Vec<&Port> = if count > open.len() { ports.iter().collect() } else { open };
    let types: Vec<Type> = wanted.iter().map(|port| port.ty.clone()).collect();
    let values = read_numbered(folder, "input", &types)?;
    let more = goes_beyond(folder, "input", ports.len());
    ensure!(
        !more,
        "{}: the model has {}, input_N.pb are there for more",
        folder.display(),
        show::plural(ports.len(), "input")
    );
    ensure!(
        values.len() == wanted.len() || count > 0 || wanted.is_empty(),
        "{}: no input_0.pb",
        folder.display()
    );
    Ok(wanted.iter().map(|port| port.name.clone()).zip(values).collect())
}

/// Whether the folder has an input for more than those of `graph` that have no default.
pub(crate) fn gives_defaults(folder: &Path, graph: &Graph) -> bool {
    let open = graph.inputs.iter().filter(|id| !graph.constants.contains_key(id));
    numbered(folder, "input", open.count()).exists()
}

fn numbered(folder: &Path, stem: &str, index: usize) -> PathBuf {
    folder.join(format!("{stem}_{index}.pb"))
}

/// Whether there are more records than `count`. One file may fill up a hole in the numbers, which
/// would hide what stands behind it: so two are looked for.
fn goes_beyond(folder: &Path, stem: &str, count: usize) -> bool {
    (count..count + 2).any(|index| numbered(folder, stem, index).exists())
}

/// Values from `STEM_N.pb` for N from 0 to the first that is missing.
fn read_numbered(folder: &Path, stem: &str, types: &[Type]) -> Result<Vec<Value>> {
    let mut values = Vec::new();
    for (index, ty) in types.iter().enumerate() {
        let path = numbered(folder, stem, index);
        if !path.exists() {
            break;
        }
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let value = hetra_onnx::value_from_pb(&bytes, ty);
        values.push(value.with_context(|| path.display().to_string())?);
    }
    Ok(values)
}

/// Recorded outputs of a session: one for each output, no more and no fewer, so that a missing
/// record never passes for a right answer.
pub(crate) fn outputs(session: &Session, folder: &Path) -> Result<Vec<Value>> {
    let types: Vec<Type> = session.outputs().into_iter().map(|port| port.ty).collect();
    let values = read_numbered(folder, "output", &types)?;
    let more = goes_beyond(folder, "output", types.len());
    ensure!(
        !more && values.len() == types.len(),
        "{}: the model has {}, output_N.pb are there for {}",
        folder.display(),
        show::plural(types.len(), "output"),
        if more { "more".to_string() } else { values.len().to_string() }
    );
    Ok(values)
}
