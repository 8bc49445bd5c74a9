//! Inputs that no file holds: random, constant, or numbers of the command line.

use anyhow::{Context, Result};
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

/// What `--dim` said, and what had to be guessed.
pub(crate) struct Extents<'a> {
    pub(crate) said: &'a [(String, usize)],
    /// A phrase for each guess, with the option that replaces it.
    pub(crate) guessed: Vec<String>,
}

impl<'a> Extents<'a> {
    pub(crate) fn new(said: &'a [(String, usize)]) -> Extents<'a> {
        Extents { said, guessed: Vec::new() }
    }

    /// The extents of an input; 1 where neither the model nor the command line says more.
    /// `option` is how a whole shape is given, such as `-i x=random:SHAPE`.
    pub(crate) fn of(&mut self, name: &str, dims: &[Dim], option: &str) -> Vec<usize> {
        let mut guess = |phrase: String| {
            if !self.guessed.contains(&phrase) {
                self.guessed.push(phrase);
            }
            1
        };
        let extent = |dim: &Dim| match dim {
            Dim::Known(extent) => *extent,
            Dim::Sym(symbol) => match self.said.iter().find(|(key, _)| **key == **symbol) {
                Some((_, extent)) => *extent,
                None => guess(format!("`{symbol}` = 1 (--dim {symbol}=N)")),
            },
            Dim::Unknown => guess(format!("open axes of `{name}` = 1 ({option})")),
        };
        dims.iter().map(extent).collect()
    }
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

/// A generated input: `KIND[:SHAPE]`, SHAPE as `1x3x224x224`. Floats are in 0..1, integers 0 or 1.
pub(crate) fn generate(
    text: &str,
    port: &Port,
    seed: u64,
    extents: &mut Extents<'_>,
) -> Result<Value> {
    let (kind, shape) = match text.split_once(':') {
        Some((kind, shape)) => (kind, Some(parse_shape(shape).map_err(usage)?)),
        None => (text, None),
    };
    let name = &port.name;
    let missing = || usage(format!("input `{name}` is {}: give it with -i or --data", port.ty));
    let dtype = port.ty.dtype().ok_or_else(missing)?;
    let shape = match (shape, port.ty.dims()) {
        (Some(shape), _) => shape,
        (None, Some(dims)) => extents.of(name, dims, &format!("-i {name}={kind}:SHAPE")),
        (None, None) => {
            return Err(usage(format!("input `{name}` has no rank: give -i {name}={kind}:SHAPE")));
        }
    };
    let count = hetra_tensor::element_count(&shape)?;
    if dtype == DType::String {
        return Ok(Tensor::from_strings(&shape, vec![String::new(); count])?.into());
    }
    let mut random = Random(seed);
    let mut value = || match kind {
        "ones" => 1.0,
        "zeros" => 0.0,
        _ if dtype.is_float() => (random.next() >> 40) as f64 / (1u64 << 24) as f64,
        _ => (random.next() >> 63) as f64,
    };
    let values: Vec<f64> = (0..count).map(|_| value()).collect();
    Ok(hetra_tensor::from_f64(dtype, &shape, &values)?.into())
}

/// Numbers as they stand on the command line, `16000` or `1,2,3`; `None` when they are none.
pub(crate) fn numbers(text: &str) -> Option<Vec<f64>> {
    text.split(',').map(|part| part.trim().parse().ok()).collect()
}

/// Numbers for an input: in its shape where that is known and fits, else in one row.
pub(crate) fn literal(values: &[f64], port: &Port) -> Result<Value> {
    let dims = port.ty.dims();
    let known: Option<Vec<usize>> = dims.and_then(|dims| dims.iter().map(Dim::known).collect());
    let shape = match (known, dims.map(<[Dim]>::len)) {
        (Some(shape), _) => shape,
        (None, Some(rank)) if rank > 0 => {
            let mut shape = vec![1; rank];
            shape[rank - 1] = values.len();
            shape
        }
        _ => vec![values.len()],
    };
    let count = hetra_tensor::element_count(&shape)?;
    if count != values.len() {
        let text = format!("{} numbers for {}, which has {count}", values.len(), port.ty);
        return Err(usage(text));
    }
    let dtype = port.ty.dtype().with_context(|| format!("{} takes no numbers", port.ty))?;
    // Beyond this a double may stand for its neighbour.
    let whole = |value: &f64| value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0;
    if dtype.is_int() && !values.iter().all(whole) {
        return Err(usage(format!("{} takes whole numbers up to 2^53 here", port.ty)));
    }
    Ok(hetra_tensor::from_f64(dtype, &shape, values)?.into())
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
        assert!(hint(&extents.guessed).is_some_and(|text| text.contains("--dim m=N")));
        assert_eq!(hint(&[]), None);
    }

    #[test]
    fn numbers_take_the_shape_of_the_input() {
        let shape = |text: &str, ty: Type| {
            let value = literal(&numbers(text).unwrap(), &port(ty));
            value.map(|value| value.as_tensor().unwrap().shape().to_vec())
        };
        assert_eq!(shape("16000", Type::tensor(DType::I64, &[])).unwrap(), [0usize; 0]);
        assert_eq!(shape("1,2,3,4", Type::tensor(DType::F32, &[2, 2])).unwrap(), [2, 2]);
        assert_eq!(shape("1,2,3", Type::ranked(DType::F32, 2)).unwrap(), [1, 3]);
        assert!(shape("1,2,3", Type::tensor(DType::F32, &[2])).is_err());
        assert!(shape("1.5", Type::tensor(DType::I64, &[1])).is_err());
        assert_eq!(numbers("cat.jpg"), None);
    }

    #[test]
    fn a_seed_gives_the_same_numbers() {
        let port = port(Type::tensor(DType::F32, &[8]));
        let random = |seed| generate("random", &port, seed, &mut Extents::new(&[])).unwrap();
        assert_eq!(random(1), random(1));
        assert_ne!(random(1), random(2));
    }
}
