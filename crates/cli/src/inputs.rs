//! Where a model's inputs come from: files, folders, pictures, numbers or a generator.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use hetra::{DType, Graph, Outputs, Port, Session, Trace, Value};

use crate::generate::{self, Extents, Kind, generate};
use crate::images::{self, Preprocess};
use crate::literal::literal;
use crate::usage::usage;
use crate::{npy, recorded, show};

/// Options that give inputs.
#[derive(Args, Clone, Debug)]
pub(crate) struct InputArgs {
    /// An input: NAME=FILE (.npy .npz .pb .png .jpg), NAME=random|ones|zeros[:SHAPE], NAME=1,2,3,
    /// NAME=true,false or, for strings, NAME=a,b or NAME='["a","b"]'; without NAME= it is the first
    /// input that is still open. The rest is random
    #[arg(short, long = "input", value_name = "NAME=FILE")]
    input: Vec<String>,
    /// Folder with input_N.pb (ONNX test layout)
    #[arg(long, value_name = "DIR", conflicts_with_all = ["input", "dim", "preprocess"])]
    data: Option<PathBuf>,
    #[arg(long, value_name = "STEPS", help = images::HELP)]
    preprocess: Option<Preprocess>,
    /// Extent of a symbolic dimension of generated inputs [default: that of the inputs that are
    /// given, else 1]
    #[arg(long, value_name = "NAME=N", value_parser = generate::dim)]
    dim: Vec<(String, usize)>,
    /// Seed of random inputs
    #[arg(long, default_value_t = 1, value_name = "N", allow_negative_numbers = true)]
    seed: u64,
}

/// What the command line gives, known before the model is.
pub(crate) enum Given<'a> {
    /// Each `-i`, and the names of arrays in archives.
    Inputs { options: &'a [String], arrays: Vec<String> },
    /// A folder with `input_N.pb`.
    Folder(&'a Path),
}

impl Given<'_> {
    /// Makes constants of the inputs with a default that are not given.
    pub(crate) fn fix_defaults(&self, graph: &mut Graph) {
        match self {
            Given::Inputs { options, arrays } => {
                let names: Vec<String> = names(graph).map(str::to_string).collect();
                let ports = || names.iter().map(String::as_str);
                let given = options.iter().filter_map(|text| named(text, ports()));
                let given: Vec<&str> = given.map(|(index, _)| names[index].as_str()).collect();
                graph.fix_defaults(|name| {
                    given.contains(&name) || arrays.iter().any(|array| array == name)
                });
            }
            Given::Folder(folder) if recorded::gives_defaults(folder, graph) => {}
            Given::Folder(_) => graph.fix_defaults(|_| false),
        }
    }
}

fn names(graph: &Graph) -> impl Iterator<Item = &str> {
    graph.inputs.iter().map(|&id| graph.value(id).name.as_str())
}

/// Which input `NAME=SOURCE` names, and the source: names may have a `=`, too, and the longest
/// that fits is meant.
fn named<'a>(text: &'a str, names: impl Iterator<Item = &'a str>) -> Option<(usize, &'a str)> {
    let source = |name: &str| text.strip_prefix(name)?.strip_prefix('=');
    let fits = names.enumerate().filter_map(|(at, name)| Some((name.len(), at, source(name)?)));
    fits.max_by_key(|(length, ..)| *length).map(|(_, at, source)| (at, source))
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

    /// The names of those that are random.
    pub(crate) fn random(&self) -> Vec<&str> {
        let rows = self.values.iter().zip(&self.sources);
        let random = rows.filter(|(_, source)| source.starts_with("random, seed"));
        random.map(|((name, _), _)| name.as_str()).collect()
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

/// What an option gives.
enum Entry {
    /// A value and where it comes from.
    Value(Value, String),
    /// What is generated once all the others are known, and the option.
    Kind(Kind, String),
}

/// What is found while the options are read.
struct Found<'a> {
    ports: &'a [Port],
    extents: Extents<'a>,
    /// What is given for each port.
    given: Vec<Option<Entry>>,
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
        let mut arrays = Vec::new();
        for text in self.input.iter().filter(|text| extension(Path::new(text)) == "npz") {
            // What is wrong with an archive is told when it is read.
            let starts = text.match_indices('=').map(|(at, _)| at + 1).chain([0]);
            let read = |start: usize| npy::names(Path::new(&text[start..])).ok();
            arrays.extend(starts.filter_map(read).flatten());
        }
        Given::Inputs { options: &self.input, arrays }
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
            given: ports.iter().map(|_| None).collect(),
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
        found.bind()?;
        let mut inputs = Inputs { values: Vec::new(), sources: Vec::new(), guessed: Vec::new() };
        for (index, port) in ports.iter().enumerate() {
            let (value, source) = match found.given[index].take() {
                Some(Entry::Value(value, source)) => (value, source),
                Some(Entry::Kind(kind, text)) => self
                    .generated(&kind, index, &mut found)
                    .with_context(|| format!("-i {text}"))?,
                None if port.has_default => continue,
                None => {
                    let name = &port.name;
                    let value = self.generated(&Kind::random(), index, &mut found);
                    let value = value.with_context(|| format!("input `{name}`"))?;
                    if port.ty.dtype().is_some_and(DType::is_int) {
                        let guess = format!("`{name}` is 0 or 1 at random (-i {name}=..)");
                        found.extents.guessed.push(guess);
                    }
                    value
                }
            };
            inputs.values.push((port.name.clone(), value));
            inputs.sources.push(source);
        }
        inputs.guessed = found.extents.guessed;
        Ok(inputs)
    }

    fn generated(&self, kind: &Kind, index: usize, found: &mut Found) -> Result<(Value, String)> {
        let seed = self.seed.wrapping_add(index as u64);
        let value = generate(kind, &found.ports[index], seed, &mut found.extents)?;
        Ok((value, kind.source(self.seed)))
    }

    /// Reads one `-i`.
    fn one(&self, text: &str, found: &mut Found) -> Result<()> {
        let names = found.ports.iter().map(|port| port.name.as_str());
        let (index, source) = match named(text, names) {
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
        if let Some(kind) = Kind::parse(source) {
            let kind = kind.with_context(|| format!("-i {text}"))?;
            found.given[index] = Some(Entry::Kind(kind, text.to_string()));
            return Ok(());
        }
        if !is_file(path)
            && let Some(value) = literal(source, port, &self.dim)
        {
            let value = value.with_context(|| format!("-i {text}"))?;
            found.given[index] = Some(Entry::Value(value, source.to_string()));
            return Ok(());
        }
        let context = || format!("input `{}` from {}", port.name, path.display());
        if extension(path) == "npz" {
            return found.archive(path, index).with_context(context);
        }
        let value = self.file(path, port, found).with_context(context)?;
        found.given[index] = Some(Entry::Value(value, path.display().to_string()));
        Ok(())
    }

    fn file(&self, path: &Path, port: &Port, found: &mut Found) -> Result<Value> {
        match extension(path).as_str() {
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
                "wanted a .npy, .npz, .pb, .png or .jpg file, elements such as 1,2,3, or random, \
                 ones or zeros[:SHAPE]",
            )),
        }
    }
}

/// The extension in small letters.
fn extension(path: &Path) -> String {
    path.extension().map_or(String::new(), |text| text.to_string_lossy().to_ascii_lowercase())
}

/// A file that is there, or one that by its name is meant to be.
fn is_file(path: &Path) -> bool {
    let known = ["npy", "npz", "pb", "png", "jpg", "jpeg"];
    path.exists() || known.contains(&extension(path).as_str())
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
            self.given[place] = Some(Entry::Value(tensor.into(), source.clone()));
        }
        Ok(())
    }

    /// Takes the extents of all that is given, before anything is generated.
    fn bind(&mut self) -> Result<()> {
        for (port, entry) in self.ports.iter().zip(&self.given) {
            let shape = match entry {
                Some(Entry::Value(Value::Tensor(tensor), _)) => Some(tensor.shape()),
                Some(Entry::Kind(kind, _)) => kind.shape(),
                _ => None,
            };
            if let Some(shape) = shape {
                self.extents.bind(&port.name, &port.ty, shape)?;
            }
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
    use hetra::{Tensor, Type};

    #[test]
    fn names_may_have_an_equals_sign() {
        let check = |text, wanted| assert_eq!(named(text, ["a", "a=b"].into_iter()), wanted);
        check("a=1,2", Some((0, "1,2")));
        check("a=b=1,2", Some((1, "1,2")));
        check("a=b", Some((0, "b")));
        check("b=1", None);
    }

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
                given: ports.iter().map(|_| None).collect(),
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
