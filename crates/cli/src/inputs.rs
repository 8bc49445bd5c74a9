//! Where a model's inputs come from: files, folders, pictures, numbers or a generator.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use hetra::{Graph, Outputs, Port, Session, Trace, Value};

use crate::generate::{self, Extents, generate};
use crate::images::{self, Preprocess};
use crate::usage::usage;
use crate::{npy, recorded, show};

/// Options that give inputs.
#[derive(Args, Clone, Debug)]
pub(crate) struct InputArgs {
    /// An input: NAME=FILE (.npy .npz .pb .png .jpg), NAME=random|ones|zeros[:SHAPE] or NAME=1,2,3;
    /// without NAME= it is the first input that is still open. The rest is random
    #[arg(short, long = "input", value_name = "NAME=FILE")]
    input: Vec<String>,
    /// Folder with input_N.pb (ONNX test layout)
    #[arg(long, value_name = "DIR", conflicts_with_all = ["input", "dim", "preprocess"])]
    data: Option<PathBuf>,
    #[arg(long, value_name = "STEPS", help = images::HELP)]
    preprocess: Option<Preprocess>,
    /// Extent of a symbolic dimension of generated inputs [default: 1]
    #[arg(long, value_name = "NAME=N", value_parser = generate::dim)]
    dim: Vec<(String, usize)>,
    /// Seed of random inputs
    #[arg(long, default_value_t = 1, value_name = "N", allow_negative_numbers = true)]
    seed: u64,
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
            Given::Names(names) => graph.fix_defaults(|name| names.iter().any(|n| n == name)),
            Given::Folder(folder) if recorded::gives_defaults(folder, graph) => {}
            Given::Folder(_) => graph.fix_defaults(|_| false),
        }
    }
}

/// The inputs of one run.
pub(crate) struct Inputs {
    pub(crate) values: Vec<(String, Value)>,
    /// Where each comes from, for people.
    pub(crate) sources: Vec<String>,
    /// Phrases for what was guessed.
    guessed: Vec<String>,
}

impl Inputs {
    /// An error of a run on these inputs; says which guesses may be its cause.
    pub(crate) fn explain(&self, model: &Path, error: hetra::Error) -> anyhow::Error {
        let error = anyhow::Error::from(error).context(model.display().to_string());
        match generate::hint(&self.guessed) {
            Some(hint) => anyhow::anyhow!("{}\nhint: {hint}", show::explain(&error)),
            None => error,
        }
    }

    /// Runs a session on these inputs, which stay.
    pub(crate) fn run(&self, session: &Session, model: &Path) -> Result<Outputs> {
        session.run(self.values.clone()).map_err(|error| self.explain(model, error))
    }

    /// As [`Inputs::run`], with the time of each step.
    pub(crate) fn trace(&self, session: &Session, model: &Path) -> Result<(Outputs, Trace)> {
        session.trace(self.values.clone()).map_err(|error| self.explain(model, error))
    }
}

/// What is found while the options are read.
struct Found<'a> {
    ports: &'a [Port],
    extents: Extents<'a>,
    /// Value and source of each port.
    given: Vec<Option<(Value, String)>>,
    /// Arrays that no input has the name of, with their archives.
    strangers: Vec<(String, String)>,
    pictures: usize,
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
    pub(crate) fn load(&self, session: &Session) -> Result<Inputs> {
        let ports = session.inputs();
        generate::check_dims(&self.dim, ports.iter().map(|port| &port.ty))?;
        if let Some(folder) = &self.data {
            let values = recorded::inputs(session, folder)?;
            let sources = vec![folder.display().to_string(); values.len()];
            return Ok(Inputs { values, sources, guessed: Vec::new() });
        }
        let mut found = Found {
            ports: &ports,
            extents: Extents::new(&self.dim),
            given: vec![None; ports.len()],
            strangers: Vec::new(),
            pictures: 0,
        };
        for text in &self.input {
            self.one(text, &mut found)?;
        }
        if self.preprocess.is_some() && found.pictures == 0 {
            return Err(usage("--preprocess: no input is a picture"));
        }
        found.check_strangers()?;
        let mut inputs = Inputs { values: Vec::new(), sources: Vec::new(), guessed: Vec::new() };
        for (index, port) in ports.iter().enumerate() {
            let (value, source) = match found.given[index].take() {
                Some(given) => given,
                None if port.has_default => continue,
                None => self.generated("random", index, &mut found)?,
            };
            inputs.values.push((port.name.clone(), value));
            inputs.sources.push(source);
        }
        inputs.guessed = found.extents.guessed;
        Ok(inputs)
    }

    fn generated(&self, text: &str, index: usize, found: &mut Found) -> Result<(Value, String)> {
        let seed = self.seed.wrapping_add(index as u64);
        let value = generate(text, &found.ports[index], seed, &mut found.extents)?;
        let kind = text.split(':').next().unwrap_or(text);
        let seed = if kind == "random" { format!(", seed {}", self.seed) } else { String::new() };
        Ok((value, format!("{kind}{seed}")))
    }

    /// Reads one `-i`.
    fn one(&self, text: &str, found: &mut Found) -> Result<()> {
        let named = text.split_once('=').and_then(|(name, rest)| {
            Some((found.ports.iter().position(|port| port.name == name)?, rest))
        });
        let (index, source) = match named {
            Some(place) => place,
            None if text.contains('=') && !Path::new(text).exists() => {
                let known: Vec<&str> = found.ports.iter().map(|port| &*port.name).collect();
                return Err(usage(format!(
                    "-i {text}: the model has no such input; its inputs: {}",
                    known.join(", ")
                )));
            }
            None => {
                let open = found.given.iter().position(Option::is_none);
                (open.ok_or_else(|| usage(format!("-i {text}: every input is given")))?, text)
            }
        };
        let port = &found.ports[index];
        if found.given[index].is_some() {
            return Err(usage(format!("-i {text}: input `{}` is given twice", port.name)));
        }
        let path = Path::new(source);
        let kind = source.split(':').next().unwrap_or_default();
        if matches!(kind, "random" | "ones" | "zeros") {
            let value = self.generated(source, index, found);
            found.given[index] = Some(value.with_context(|| format!("-i {text}"))?);
            return Ok(());
        }
        if let Some(values) = generate::numbers(source).filter(|_| !path.exists()) {
            let value = generate::literal(&values, port).with_context(|| format!("-i {text}"))?;
            found.given[index] = Some((value, source.to_string()));
            return Ok(());
        }
        let context = || format!("input `{}` from {}", port.name, path.display());
        if path.extension().is_some_and(|extension| extension == "npz") {
            return found.archive(path, index).with_context(context);
        }
        let value = self.file(path, port, found).with_context(context)?;
        found.given[index] = Some((value, path.display().to_string()));
        Ok(())
    }

    fn file(&self, path: &Path, port: &Port, found: &mut Found) -> Result<Value> {
        let extension = path.extension().and_then(|ext| ext.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "npy" => Ok(npy::read(&std::fs::read(path)?)?.into()),
            "pb" => Ok(hetra_onnx::value_from_pb(&std::fs::read(path)?, &port.ty)?),
            "png" | "jpg" | "jpeg" => {
                found.pictures += 1;
                let picture = images::load(path, self.preprocess.as_ref(), &port.ty)?;
                if picture.kept_size {
                    let [height, width] = picture.size;
                    found.extents.guessed.push(format!(
                        "`{}` takes any size, and the picture kept its {height}x{width} \
                         (--preprocess resize=HxW)",
                        port.name
                    ));
                }
                Ok(picture.tensor.into())
            }
            _ => Err(usage(
                "wanted a .npy, .npz, .pb, .png or .jpg file, numbers, or random, ones or \
                 zeros[:SHAPE]",
            )),
        }
    }
}

impl Found<'_> {
    /// Arrays of an archive go to the inputs of their names; a lone array goes to input `index`.
    fn archive(&mut self, path: &Path, index: usize) -> Result<()> {
        let arrays = npy::read_archive(path)?;
        let source = path.display().to_string();
        let alone = arrays.len() == 1;
        for (name, tensor) in arrays {
            let named = self.ports.iter().position(|port| port.name == name);
            let Some(place) = named.or(alone.then_some(index)) else {
                self.strangers.push((name, source.clone()));
                continue;
            };
            if self.given[place].is_some() {
                return Err(usage(format!("input `{}` is given twice", self.ports[place].name)));
            }
            self.given[place] = Some((tensor.into(), source.clone()));
        }
        Ok(())
    }

    /// An archive may hold more than the model takes, as long as nothing that the model needs is
    /// left open: else the odd name is probably the missing input's.
    fn check_strangers(&self) -> Result<()> {
        let open = |index: usize| self.given[index].is_none() && !self.ports[index].has_default;
        let open = (0..self.ports.len()).find(|&index| open(index));
        for (name, source) in &self.strangers {
            let text = format!("{source}: the model has no input `{name}`");
            match open {
                Some(open) => {
                    let missing = &self.ports[open].name;
                    return Err(usage(format!("{text}, and its input `{missing}` is not given")));
                }
                None => show::warn(&format!("{text}: the array is left out")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra::{DType, Tensor, Type};

    #[test]
    fn an_archive_may_hold_more_only_when_nothing_is_missing() {
        let port = |name: &str| Port {
            name: name.to_string(),
            ty: Type::tensor(DType::F32, &[1]),
            has_default: false,
        };
        let path = std::env::temp_dir().join(format!("hetra-inputs-{}.npz", std::process::id()));
        let one = Tensor::vector(&[1.0f32]);
        npy::write_archive(&path, [("a", &one), ("b", &one), ("c", &one)].into_iter()).unwrap();
        let read = |names: &[&str]| {
            let ports: Vec<Port> = names.iter().map(|name| port(name)).collect();
            let mut found = Found {
                ports: &ports,
                extents: Extents::new(&[]),
                given: vec![None; ports.len()],
                strangers: Vec::new(),
                pictures: 0,
            };
            found.archive(&path, 0).unwrap();
            (found.strangers.len(), found.check_strangers().map_err(|error| error.to_string()))
        };
        assert_eq!(read(&["a", "b", "c"]), (0, Ok(())));
        assert_eq!(read(&["a", "b"]), (1, Ok(())));
        let (strangers, told) = read(&["a", "b", "d"]);
        assert_eq!(strangers, 1);
        assert!(told.unwrap_err().contains("no input `c`, and its input `d` is not given"));
        std::fs::remove_file(&path).unwrap();
    }
}
