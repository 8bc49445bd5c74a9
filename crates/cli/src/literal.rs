//! Inputs whose elements stand on the command line: `1,2,3`, `true,false`, `red,green`.

use anyhow::{Context, Result};
use hetra::{DType, Dim, Port, Tensor, Value};

use crate::usage::usage;

/// Whole numbers that an f64 holds without doubt: beyond it one may stand for its neighbour.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// What stands on the command line for a port; `None` when it is no list of elements, but perhaps
/// the name of a file. `said` are extents of symbolic dimensions.
pub(crate) fn literal(text: &str, port: &Port, said: &[(String, usize)]) -> Option<Result<Value>> {
    if port.ty.dtype() == Some(DType::String) {
        return Some(strings(text).and_then(|texts| {
            let shape = shape(port, texts.len(), said)?;
            Ok(Tensor::from_strings(&shape, texts)?.into())
        }));
    }
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let element = |part: &&str| part.parse::<f64>().is_ok() || matches!(*part, "true" | "false");
    parts.iter().all(element).then(|| numbers(&parts, port, said))
}

/// Strings: those between the commas, or a JSON list, which may hold commas too.
fn strings(text: &str) -> Result<Vec<String>> {
    if text.starts_with('[') {
        let texts = serde_json::from_str(text);
        return texts.map_err(|error| usage(format!("wanted a list of strings: {error}")));
    }
    Ok(text.split(',').map(str::to_string).collect())
}

fn numbers(parts: &[&str], port: &Port, said: &[(String, usize)]) -> Result<Value> {
    let dtype = port.ty.dtype().with_context(|| format!("{} takes no numbers", port.ty))?;
    let shape = shape(port, parts.len(), said)?;
    if dtype.is_int() || dtype == DType::Bool {
        let values = parts.iter().map(|part| whole(part, dtype)).collect::<Result<Vec<i64>>>()?;
        return Ok(hetra_tensor::from_i64(dtype, &shape, &values)?.into());
    }
    let read = |part: &&str| part.parse().map_err(|_| usage(format!("`{part}` is no {dtype}")));
    let values = parts.iter().map(read).collect::<Result<Vec<f64>>>()?;
    let tensor = hetra_tensor::from_f64(dtype, &shape, &values)?;
    // What is too large becomes infinite, or the largest there is.
    let top =
        hetra_tensor::from_f64(dtype, &[1], &[f64::MAX]).and_then(|t| hetra_tensor::to_f64(&t));
    let top = top?[0].min(f64::MAX);
    let stored = hetra_tensor::to_f64(&tensor)?;
    let lost = |(value, stored): (&f64, &f64)| {
        value.is_finite() && (!stored.is_finite() || value.abs() > top)
    };
    match values.iter().zip(&stored).position(lost) {
        Some(at) => Err(usage(format!("{} does not fit {dtype}", parts[at]))),
        None => Ok(tensor.into()),
    }
}

/// A whole number or a boolean, as the bits of an i64.
fn whole(part: &str, dtype: DType) -> Result<i64> {
    let value = match (part, dtype) {
        ("true", DType::Bool) => 1,
        ("false", DType::Bool) => 0,
        _ => integer(part).ok_or_else(|| usage(format!("`{part}` is no {dtype}")))?,
    };
    let (low, high) = dtype.int_range().unwrap_or((0, 1));
    if !(low..=high).contains(&value) {
        return Err(usage(format!("{part} does not fit {dtype}, which goes from {low} to {high}")));
    }
    // A u64 beyond the largest i64 keeps its bits.
    Ok(value as i64)
}

/// All digits count, unless the number is written as a float, such as `1e3`.
fn integer(part: &str) -> Option<i128> {
    let float = || part.parse::<f64>().ok().filter(|v| v.fract() == 0.0 && v.abs() <= WHOLE_MAX);
    part.parse().ok().or_else(|| float().map(|value| value as i128))
}

/// The shape of `count` elements: that of the port where it is known, else one row.
fn shape(port: &Port, count: usize, said: &[(String, usize)]) -> Result<Vec<usize>> {
    let dims = port.ty.dims();
    let known = |dim: &Dim| match dim {
        Dim::Sym(name) => said.iter().find(|(key, _)| **key == **name).map(|(_, extent)| *extent),
        dim => dim.known(),
    };
    let shape: Option<Vec<usize>> = dims.and_then(|dims| dims.iter().map(known).collect());
    let shape = match (shape, dims.map(<[Dim]>::len)) {
        (Some(shape), _) => shape,
        (None, Some(rank)) if rank > 0 => {
            let mut shape = vec![1; rank];
            shape[rank - 1] = count;
            shape
        }
        _ => vec![count],
    };
    let wanted = hetra_tensor::element_count(&shape)?;
    if wanted != count {
        let text = format!("{count} elements for {}, which takes {wanted} here", port.ty);
        return Err(usage(text));
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra::Type;

    fn read(text: &str, ty: Type) -> Result<Tensor, String> {
        let port = Port { name: "x".to_string(), ty, has_default: false };
        let value = literal(text, &port, &[("n".to_string(), 2)]).expect("elements");
        value.map(|v| v.as_tensor().unwrap().clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn elements_take_the_shape_of_the_input() {
        let shape = |text: &str, ty: Type| read(text, ty).unwrap().shape().to_vec();
        assert_eq!(shape("16000", Type::tensor(DType::I64, &[])), [0usize; 0]);
        assert_eq!(shape("1,2,3,4", Type::tensor(DType::F32, &[2, 2])), [2, 2]);
        assert_eq!(shape("1,2,3", Type::ranked(DType::F32, 2)), [1, 3]);
        let said = Type::shaped(DType::F32, vec![Dim::Sym("n".into()), 2.into()]);
        assert_eq!(shape("1,2,3,4", said), [2, 2]);
        assert!(read("1,2,3", Type::tensor(DType::F32, &[2])).is_err());
        assert!(read("1.5", Type::tensor(DType::I64, &[1])).is_err());
    }

    #[test]
    fn a_file_is_no_literal() {
        let port = |dtype| Port { name: "x".into(), ty: Type::unranked(dtype), has_default: false };
        assert!(literal("cat.jpg", &port(DType::F32), &[]).is_none());
        assert!(literal("cat", &port(DType::Bool), &[]).is_none());
    }

    #[test]
    fn whole_numbers_keep_all_digits_and_must_fit() {
        let row = |dtype| Type::ranked(dtype, 1);
        let one = read("9007199254740993,-9223372036854775808", row(DType::I64)).unwrap();
        assert_eq!(one, Tensor::vector(&[9_007_199_254_740_993i64, i64::MIN]));
        let one = read("18446744073709551615,1e3", row(DType::U64)).unwrap();
        assert_eq!(one, Tensor::vector(&[u64::MAX, 1000]));
        let bools = read("true,false,1,0", row(DType::Bool)).unwrap();
        assert_eq!(bools, Tensor::from_bools(&[4], &[true, false, true, false]).unwrap());
        for (text, dtype, wanted) in [
            ("300", DType::U8, "300 does not fit u8, which goes from 0 to 255"),
            ("1,-1", DType::U8, "-1 does not fit u8, which goes from 0 to 255"),
            ("8", DType::I4, "8 does not fit i4, which goes from -8 to 7"),
            ("2,0", DType::Bool, "2 does not fit bool, which goes from 0 to 1"),
            ("1e300", DType::I64, "`1e300` is no i64"),
            ("true", DType::I64, "`true` is no i64"),
            ("true", DType::F32, "`true` is no f32"),
            ("1e39", DType::F32, "1e39 does not fit f32"),
            ("0,70000", DType::F16, "70000 does not fit f16"),
            ("500", DType::F8E4M3FN, "500 does not fit f8e4m3fn"),
        ] {
            assert_eq!(read(text, row(dtype)), Err(wanted.to_string()), "{text} {dtype}");
        }
        assert!(read("inf,nan,-448", row(DType::F32)).is_ok());
        assert!(read("448", row(DType::F8E4M3FN)).is_ok());
    }

    #[test]
    fn strings_stand_between_commas_or_in_json() {
        let row = Type::ranked(DType::String, 1);
        let texts = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            Tensor::from_strings(&[texts.len()], texts)
        };
        assert_eq!(read("red,green", row.clone()).unwrap(), texts(&["red", "green"]).unwrap());
        assert_eq!(read(r#"["a,b"]"#, row.clone()).unwrap(), texts(&["a,b"]).unwrap());
        assert!(read("[1]", row).unwrap_err().contains("wanted a list of strings"));
    }
}
