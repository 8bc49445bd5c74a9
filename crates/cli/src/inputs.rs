//! Where a model's inputs come from: files, folders, pictures or a generator.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hetra::{DType, Dim, Graph, Port, Session, Tensor, Type, Value};

use crate::images::{self, Preprocess};
use crate::npy;

/// Options that give inputs.
#[derive(Args, Clone, Debug)]
pub(crate) struct InputArgs {
    /// An input: NAME=FILE (.npy .npz .pb .png .jpg) or NAME=random|ones|zeros[:SHAPE]; without
    /// NAME= it is the first input that is still open. The rest is random
    #[arg(short, long = "input", value_name = "NAME=FILE")]
    input: Vec<String>,
    /// Folder with input_N.pb (ONNX test layout)
    #[arg(long, value_name = "DIR", conflicts_with = "input")]
    data: Option<PathBuf>,
    #[arg(long, value_name = "STEPS", help = images::HELP)]
    preprocess: Option<Preprocess>,
    /// Extent of a symbolic dimension of generated inputs [default: 1]
    #[arg(long, value_name = "NAME=N", value_parser = dim)]
    dim: Vec<(String, usize)>,
    /// Seed of random inputs
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

impl InputArgs {
    /// What these options give.
    pub(crate) fn given(&self) -> Given<'_> {
        if let Some(folder) = &self.data {
            return Given::Folder(folder);
        }
        let mut names = Vec::new();
        for text in &self.input {
            let (name, source) = text.split_once('=').unwrap_or(("", text));
            names.push(name.to_string());
            // What is wrong with an archive is told when it is read.
            if source.ends_with(".npz") {
                names.extend(npy::names(Path::new(source)).unwrap_or_default());
            }
        }
        Given::Names(names)
    }

    /// Inputs for every port of a session, by name.
    pub(crate) fn load(&self, session: &Session) -> Result<Vec<(String, Value)>> {
        check_dims(&self.dim, session.inputs().iter().map(|port| &port.ty))?;
        if let Some(folder) = &self.data {
            return from_folder(session, folder);
        }
        let ports = session.inputs();
        let mut values: Vec<Option<Value>> = vec![None; ports.len()];
        for text in &self.input {
            for (index, value) in self.one(text, &ports, &values)? {
                values[index] = Some(value);
            }
        }
        let mut inputs = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let value = match values[index].take() {
                Some(value) => value,
                None if port.has_default => continue,
                None => generate("random", port, self.seed.wrapping_add(index as u64), &self.dim)?,
            };
            inputs.push((port.name.clone(), value));
        }
        Ok(inputs)
    }

    fn one(
        &self,
        text: &str,
        ports: &[Port],
        given: &[Option<Value>],
    ) -> Result<Vec<(usize, Value)>> {
        let named = text.split_once('=').and_then(|(name, rest)| {
            Some((ports.iter().position(|port| port.name == name)?, rest))
        });
        let (index, source) = match named {
            Some(found) => found,
            None if text.contains('=') && !Path::new(text).exists() => {
                let known: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
                bail!("-i {text}: the model has no such input; its inputs: {}", known.join(", "));
            }
            None => {
                let open = given.iter().position(Option::is_none);
                (open.with_context(|| format!("-i {text}: every input is given"))?, text)
            }
        };
        let port = &ports[index];
        let kind = source.split(':').next().unwrap_or_default();
        if matches!(kind, "random" | "ones" | "zeros") {
            let seed = self.seed.wrapping_add(index as u64);
            let value = generate(source, port, seed, &self.dim);
            return Ok(vec![(index, value.with_context(|| format!("-i {text}"))?)]);
        }
        let path = Path::new(source);
        let context = || format!("input `{}` from {}", port.name, path.display());
        if path.extension().is_some_and(|ext| ext == "npz") {
            return archive(path, ports, index).with_context(context);
        }
        let value = self.file(path, port).with_context(context)?;
        Ok(vec![(index, value)])
    }

    fn file(&self, path: &Path, port: &Port) -> Result<Value> {
        let extension = path.extension().and_then(|ext| ext.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "npy" => Ok(npy::read(&std::fs::read(path)?)?.into()),
            "pb" => Ok(hetra_onnx::value_from_pb(&std::fs::read(path)?, &port.ty)?),
            "png" | "jpg" | "jpeg" => {
                let spec = self.preprocess.clone().unwrap_or_default();
                Ok(images::load(path, &spec, &port.ty)?.into())
            }
            _ => bail!(
                "wanted a .npy, .npz, .pb, .png or .jpg file, or random, ones or zeros[:SHAPE]"
            ),
        }
    }
}

/// Arrays of an archive go to the inputs of their names; a lone array goes to input `index`.
fn archive(path: &Path, ports: &[Port], index: usize) -> Result<Vec<(usize, Value)>> {
    let arrays = npy::read_archive(path)?;
    let mut found = Vec::new();
    let alone = arrays.len() == 1;
    for (name, tensor) in arrays {
        match ports.iter().position(|port| port.name == name) {
            Some(place) => found.push((place, tensor.into())),
            None if alone => found.push((index, tensor.into())),
            None => bail!("the model has no input `{name}`"),
        }
    }
    Ok(found)
}

/// What the command line gives, known before the model is.
pub(crate) enum Given<'a> {
    /// Inputs of these names.
    Names(Vec<String>),
    /// A folder with `input_N.pb`.
    Folder(&'a Path),
}

impl Given<'_> {
    /// Makes constants of the inputs with a default that are not given.
    pub(crate) fn fix_defaults(&self, graph: &mut Graph) {
        match self {
            Given::Names(names) => {
                graph.fix_defaults(|name| names.iter().any(|given| given == name))
            }
            Given::Folder(folder) => {
                let open = graph.inputs.iter().filter(|id| !graph.constants.contains_key(id));
                if !numbered(folder, "input", open.count()).exists() {
                    graph.fix_defaults(|_| false);
                }
            }
        }
    }
}

/// Inputs from `input_N.pb` in a folder, in the order of the model's inputs without default.
pub(crate) fn from_folder(session: &Session, folder: &Path) -> Result<Vec<(String, Value)>> {
    ensure!(folder.is_dir(), "{}: no such folder", folder.display());
    let ports = session.inputs();
    let open: Vec<&Port> = ports.iter().filter(|port| !port.has_default).collect();
    let count = (0..ports.len()).take_while(|n| numbered(folder, "input", *n).exists()).count();
    let wanted: Vec<&Port> = if count > open.len() { ports.iter().collect() } else { open };
    let types: Vec<Type> = wanted.iter().map(|port| port.ty.clone()).collect();
    let values = read_numbered(folder, "input", &types)?;
    ensure!(
        values.len() == wanted.len() || count > 0 || wanted.is_empty(),
        "{}: no input_0.pb",
        folder.display()
    );
    Ok(wanted.iter().map(|port| port.name.clone()).zip(values).collect())
}

fn numbered(folder: &Path, stem: &str, index: usize) -> PathBuf {
    folder.join(format!("{stem}_{index}.pb"))
}

/// Values from `STEM_N.pb` for N from 0 to the first that is missing.
pub(crate) fn read_numbered(folder: &Path, stem: &str, types: &[Type]) -> Result<Vec<Value>> {
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
pub(crate) fn recorded_outputs(session: &Session, folder: &Path) -> Result<Vec<Value>> {
    let types: Vec<Type> = session.outputs().into_iter().map(|port| port.ty).collect();
    let values = read_numbered(folder, "output", &types)?;
    let more = usize::from(numbered(folder, "output", types.len()).exists());
    ensure!(
        values.len() + more == types.len(),
        "{}: the model has {} outputs, output_N.pb are there for {}",
        folder.display(),
        types.len(),
        if more > 0 { "more".to_string() } else { values.len().to_string() }
    );
    Ok(values)
}

/// A small counter-based generator (splitmix64): inputs are the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// A generated input: `KIND[:SHAPE]`, SHAPE as `1x3x224x224`. Floats are in 0..1, integers 0 or 1.
fn generate(kind: &str, port: &Port, seed: u64, dims: &[(String, usize)]) -> Result<Value> {
    let (kind, shape) = match kind.split_once(':') {
        Some((kind, text)) => (kind, Some(parse_shape(text)?)),
        None => (kind, None),
    };
    let dtype = port.ty.dtype().with_context(|| {
        format!("input `{}` is {}: give it with -i or --data", port.name, port.ty)
    })?;
    let shape = match shape {
        Some(shape) => shape,
        None => default_shape(port, dims)?,
    };
    let count = hetra_tensor::element_count(&shape)?;
    if dtype == DType::String {
        return Ok(Tensor::from_strings(&shape, vec![String::new(); count])?.into());
    }
    let mut random = Random(seed);
    let value = |random: &mut Random| match kind {
        "ones" => 1.0,
        "zeros" => 0.0,
        _ if dtype.is_float() => (random.next() >> 40) as f64 / (1u64 << 24) as f64,
        _ => (random.next() >> 63) as f64,
    };
    let values: Vec<f64> = (0..count).map(|_| value(&mut random)).collect();
    Ok(hetra_tensor::from_f64(dtype, &shape, &values)?.into())
}

fn parse_shape(text: &str) -> Result<Vec<usize>> {
    let parts = text.split('x').filter(|part| !part.is_empty());
    let extent = |part: &str| part.parse().map_err(|_| anyhow::anyhow!("`{text}` is not a shape"));
    parts.map(extent).collect()
}

/// Parses `--dim`.
pub(crate) fn dim(text: &str) -> Result<(String, usize), String> {
    let parts = text.rsplit_once('=').and_then(|(name, n)| Some((name, n.parse().ok()?)));
    parts.map(|(name, n)| (name.to_string(), n)).ok_or_else(|| "wanted NAME=N".to_string())
}

/// Refuses `--dim` for a name that no input has.
pub(crate) fn check_dims<'a>(
    dims: &[(String, usize)],
    types: impl Iterator<Item = &'a Type>,
) -> Result<()> {
    let mut names = std::collections::BTreeSet::new();
    for dim in types.filter_map(Type::dims).flatten() {
        if let Dim::Sym(name) = dim {
            names.insert(name.to_string());
        }
    }
    for (name, extent) in dims {
        let known = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "none" } else { &known };
        ensure!(
            names.contains(name),
            "--dim {name}={extent}: no input has such a dimension; there are: {known}"
        );
    }
    Ok(())
}

fn default_shape(port: &Port, dims: &[(String, usize)]) -> Result<Vec<usize>> {
    let known = port.ty.dims().with_context(|| {
        format!("input `{}` has no rank: give -i {}=random:SHAPE", port.name, port.name)
    })?;
    let extent = |dim: &Dim| match dim {
        Dim::Sym(name) => dims.iter().find(|(key, _)| key == &**name).map_or(1, |(_, n)| *n),
        dim => dim.known().unwrap_or(1),
    };
    Ok(known.iter().map(extent).collect())
}
