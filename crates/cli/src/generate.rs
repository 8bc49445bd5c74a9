//! Inputs that no file holds: random or constant; and the extents of what is generated.

use anyhow::Result;
use hetra::{DType, Dim, Port, Tensor, Type, Value};

use crate::usage::usage;

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

/// A symbolic dimension whose extent an input tells.
struct Bound {
    symbol: String,
    extent: usize,
    input: String,
}

/// What `--dim` and the inputs that are given say of extents, and what had to be guessed.
pub(crate) struct Extents<'a> {
    pub(crate) said: &'a [(String, usize)],
    bound: Vec<Bound>,
    /// A phrase for each guess, with the option that replaces it.
    pub(crate) guessed: Vec<String>,
}

impl<'a> Extents<'a> {
    pub(crate) fn new(said: &'a [(String, usize)]) -> Extents<'a> {
        Extents { said, bound: Vec::new(), guessed: Vec::new() }
    }

    fn said(&self, symbol: &str) -> Option<usize> {
        self.said.iter().find(|(key, _)| key == symbol).map(|(_, extent)| *extent)
    }

    /// Takes the extents of an input that is given: they are those of the same symbols elsewhere.
    ///
    /// # Errors
    /// A symbol that has another extent already.
    pub(crate) fn bind(&mut self, name: &str, ty: &Type, shape: &[usize]) -> Result<()> {
        // What does not fit its input is told by the run.
        let dims = ty.dims().filter(|dims| dims.len() == shape.len()).unwrap_or_default();
        for (dim, &extent) in dims.iter().zip(shape) {
            let Some(symbol) = dim.symbol() else { continue };
            let bound = self.bound.iter().find(|bound| bound.symbol == symbol);
            let other = match (self.said(symbol), bound) {
                (Some(said), _) if said != extent => format!("--dim {symbol}={said}"),
                (None, Some(Bound { extent: bound, input, .. })) if *bound != extent => {
                    format!("{symbol} = {bound} in input `{input}`")
                }
                _ => {
                    let (symbol, input) = (symbol.to_string(), name.to_string());
                    self.bound.push(Bound { symbol, extent, input });
                    continue;
                }
            };
            let text = format!("input `{name}` has {symbol} = {extent}, which contradicts {other}");
            return Err(usage(text));
        }
        Ok(())
    }

    /// The extents of an input; 1 where neither the model, the other inputs nor the command line
    /// says more. `option` is how a whole shape is given, such as `-i x=random:SHAPE`.
    pub(crate) fn of(&mut self, name: &str, dims: &[Dim], option: &str) -> Vec<usize> {
        dims.iter().map(|dim| self.extent(name, dim, option)).collect()
    }

    fn extent(&mut self, name: &str, dim: &Dim, option: &str) -> usize {
        let said = match dim {
            Dim::Known(extent) => Some(*extent),
            Dim::Sym(symbol) => self.said(symbol),
            Dim::Unknown => None,
        };
        let bound = |symbol: &str| self.bound.iter().find(|bound| bound.symbol == symbol);
        let symbol = dim.symbol();
        if let Some(extent) = said.or_else(|| Some(bound(symbol?)?.extent)) {
            return extent;
        }
        let phrase = match symbol {
            Some(symbol) => {
                format!("`{symbol}` = 1 (--dim {})", shell_word(&format!("{symbol}=N")))
            }
            None => format!("open axes of `{name}` = 1 ({option})"),
        };
        if !self.guessed.contains(&phrase) {
            self.guessed.push(phrase);
        }
        1
    }
}

/// A word as a shell takes it: quoted where it has letters that a shell reads.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-.:/=+,@%".contains(c);
    if word.chars().all(plain) { word.to_string() } else { format!("'{word}'") }
}

/// What stands below an error that a guess may have caused; empty without guesses.
pub(crate) fn hint(guessed: &[String]) -> Option<String> {
    let list = guessed.join(", ");
    (!guessed.is_empty()).then(|| format!("a guess may be wrong: {list}"))
}

/// Parses `--dim`.
pub(crate) fn dim(text: &str) -> Result<(String, usize), String> {
    let parts = text.rsplit_once('=').and_then(|(name, n)| Some((name, n.parse().ok()?)));
    parts.map(|(name, n)| (name.to_string(), n)).ok_or_else(|| "wanted NAME=N".to_string())
}

/// Parses `1x3x224x224`; nothing is the shape of one number.
pub(crate) fn parse_shape(text: &str) -> Result<Vec<usize>, String> {
    let parts = text.split('x').filter(|part| !part.is_empty());
    let extent = |part: &str| part.parse().map_err(|_| format!("`{text}` is not a shape"));
    parts.map(extent).collect()
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
    if let Some((name, extent)) = dims.iter().find(|(name, _)| !names.contains(name)) {
        let known = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "none" } else { &known };
        return Err(usage(format!(
            "--dim {name}={extent}: no input has such a dimension; there are: {known}"
        )));
    }
    Ok(())
}

/// What `random`, `ones` or `zeros` stand for, with the shape behind the colon.
pub(crate) struct Kind {
    name: String,
    shape: Option<Vec<usize>>,
}

impl Kind {
    pub(crate) fn random() -> Kind {
        Kind { name: "random".to_string(), shape: None }
    }

    /// Parses `KIND[:SHAPE]`, SHAPE as `1x3x224x224`; `None` when it is something else.
    pub(crate) fn parse(text: &str) -> Option<Result<Kind>> {
        let (name, shape) = match text.split_once(':') {
            Some((name, shape)) => (name, Some(parse_shape(shape))),
            None => (text, None),
        };
        let name = matches!(name, "random" | "ones" | "zeros").then(|| name.to_string())?;
        Some(shape.transpose().map(|shape| Kind { name, shape }).map_err(usage))
    }

    pub(crate) fn shape(&self) -> Option<&[usize]> {
        self.shape.as_deref()
    }

    /// Where the input comes from, for people.
    pub(crate) fn source(&self, seed: u64) -> String {
        let seeded = self.name == "random";
        if seeded { format!("random, seed {seed}") } else { self.name.clone() }
    }
}

/// A generated input. Random floats are in 0..1, random integers 0 or 1.
pub(crate) fn generate(
    kind: &Kind,
    port: &Port,
    seed: u64,
    extents: &mut Extents<'_>,
) -> Result<Value> {
    let (name, kind_name) = (&port.name, &kind.name);
    let missing = || usage(format!("input `{name}` is {}: give it with -i or --data", port.ty));
    let dtype = port.ty.dtype().ok_or_else(missing)?;
    let option = || format!("-i {name}={kind_name}:SHAPE");
    let shape = match (&kind.shape, port.ty.dims()) {
        (Some(shape), _) => shape.clone(),
        (None, Some(dims)) => extents.of(name, dims, &option()),
        (None, None) => {
            return Err(usage(format!("input `{name}` has no rank: give {}", option())));
        }
    };
    // The memory limit comes before the work.
    let mut tensor = Tensor::zeros(dtype, &shape)?;
    if kind_name != "zeros" && dtype != DType::String {
        let mut random = Random(seed);
        fill(&mut tensor, || match kind_name.as_str() {
            "ones" => 1.0,
            _ if dtype.is_float() => (random.next() >> 40) as f64 / (1u64 << 24) as f64,
            _ => (random.next() >> 63) as f64,
        })?;
    }
    Ok(tensor.into())
}

/// Elements that are made at a time; a multiple of 8, so that packed ones end with a byte.
const CHUNK: usize = 4096;

/// Fills a tensor piece by piece: as f64 it would be several times as large.
fn fill(tensor: &mut Tensor, mut value: impl FnMut() -> f64) -> Result<()> {
    let (dtype, count) = (tensor.dtype(), tensor.len());
    let target = tensor.bytes_mut()?;
    for start in (0..count).step_by(CHUNK) {
        let values: Vec<f64> = (start..count.min(start + CHUNK)).map(|_| value()).collect();
        let piece = hetra_tensor::from_f64(dtype, &[values.len()], &values)?;
        // No overflow: the tensor has all these bits.
        let at = start / 8 * dtype.bits();
        target[at..at + piece.byte_len()].copy_from_slice(piece.bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ty: Type) -> Port {
        Port { name: "x".to_string(), ty, has_default: false }
    }

    #[test]
    fn guesses_are_told_once_with_their_option() {
        let said = [("n".to_string(), 4)];
        let mut extents = Extents::new(&said);
        let dims = [
            Dim::Sym("n".into()),
            Dim::Sym("m".into()),
            Dim::Unknown,
            Dim::from(7),
            Dim::Sym("m".into()),
        ];
        assert_eq!(extents.of("x", &dims, "-i x=random:SHAPE"), [4, 1, 1, 7, 1]);
        let wanted = ["`m` = 1 (--dim m=N)", "open axes of `x` = 1 (-i x=random:SHAPE)"];
        assert_eq!(extents.guessed, wanted);
        // A shell would read `?`, and it is the name of nothing.
        extents.of("y", &[Dim::Sym("?".into()), Dim::Sym("a*".into())], "-i y=random:SHAPE");
        let wanted = ["open axes of `y` = 1 (-i y=random:SHAPE)", "`a*` = 1 (--dim 'a*=N')"];
        assert_eq!(extents.guessed[2..], wanted);
        assert!(hint(&extents.guessed).is_some_and(|text| text.contains("--dim m=N")));
        assert_eq!(hint(&[]), None);
    }

    #[test]
    fn an_input_that_is_given_tells_the_extents_of_its_symbols() {
        let ty = |name: &str| Type::shaped(DType::F32, vec![Dim::Sym(name.into()), 4.into()]);
        let said = [("k".to_string(), 5)];
        let mut extents = Extents::new(&said);
        extents.bind("a", &ty("n"), &[3, 4]).unwrap();
        extents.bind("b", &ty("n"), &[3, 4]).unwrap();
        // Ranks that differ are the business of the run.
        extents.bind("c", &ty("n"), &[7]).unwrap();
        assert_eq!(extents.of("d", ty("n").dims().unwrap(), ""), [3, 4]);
        assert!(extents.guessed.is_empty());
        let fault = extents.bind("e", &ty("n"), &[1, 4]).unwrap_err().to_string();
        assert_eq!(fault, "input `e` has n = 1, which contradicts n = 3 in input `a`");
        let fault = extents.bind("f", &ty("k"), &[1, 4]).unwrap_err().to_string();
        assert_eq!(fault, "input `f` has k = 1, which contradicts --dim k=5");
    }

    #[test]
    fn pieces_are_put_together() {
        for dtype in [DType::F32, DType::I4, DType::Bool, DType::F16, DType::I2] {
            let mut port = port(Type::tensor(dtype, &[CHUNK + 3]));
            let make = |kind: &str| {
                let kind = Kind::parse(kind).unwrap().unwrap();
                let value = generate(&kind, &port, 1, &mut Extents::new(&[])).unwrap();
                hetra_tensor::to_f64(value.as_tensor().unwrap()).unwrap()
            };
            assert_eq!(make("ones"), vec![1.0; CHUNK + 3], "{dtype}");
            assert_eq!(make("zeros"), vec![0.0; CHUNK + 3], "{dtype}");
            let random = make("random");
            assert!(random[CHUNK..] != random[..3] || dtype != DType::F32, "{dtype}");
            // What the limit refuses is not begun.
            port.ty = Type::tensor(dtype, &[1 << 60]);
            for kind in ["ones", "random", "random:9999999999x9999999"] {
                let kind = Kind::parse(kind).unwrap().unwrap();
                let fault = generate(&kind, &port, 1, &mut Extents::new(&[])).unwrap_err();
                assert!(fault.to_string().contains("over the limit"), "{fault}");
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_numbers() {
        let port = port(Type::tensor(DType::F32, &[8]));
        let random = |seed| generate(&Kind::random(), &port, seed, &mut Extents::new(&[])).unwrap();
        assert_eq!(random(1), random(1));
        assert_ne!(random(1), random(2));
    }
}
