//! The elements of small values.

use hetra::{DType, Tensor, Value};
use serde_json::json;

/// The elements of a value that has at most `max` of them, nested by shape; `None` for a larger
/// one and for complex numbers. NaN and infinities are strings, since JSON has no such numbers.
pub(crate) fn elements(value: &Value, max: usize) -> Option<serde_json::Value> {
    match value {
        Value::Tensor(tensor) if tensor.len() <= max => {
            Some(nest(tensor.shape(), &mut flat(tensor)?.into_iter()))
        }
        Value::Tensor(_) => None,
        Value::Optional(None) => Some(json!(null)),
        Value::Optional(Some(inner)) => elements(inner, max),
        Value::Sequence(items) if count(value) <= max => {
            items.iter().map(|item| elements(item, max)).collect()
        }
        Value::Sequence(_) => None,
    }
}

fn count(value: &Value) -> usize {
    match value {
        Value::Tensor(tensor) => tensor.len(),
        Value::Optional(inner) => inner.as_ref().map_or(0, |inner| count(inner)),
        Value::Sequence(items) => items.iter().map(count).sum::<usize>().max(items.len()),
    }
}

fn flat(tensor: &Tensor) -> Option<Vec<serde_json::Value>> {
    let dtype = tensor.dtype();
    if let Ok(texts) = tensor.as_strings() {
        return Some(texts.iter().map(|text| json!(text)).collect());
    }
    if dtype.is_float() {
        let float = |value: f64| match value.is_finite() {
            true => json!(shortest(value, dtype)),
            false => json!(value.to_string()),
        };
        return Some(hetra_tensor::to_f64(tensor).ok()?.into_iter().map(float).collect());
    }
    let whole = |value: i64| match dtype {
        DType::Bool => json!(value != 0),
        DType::U64 => json!(value as u64),
        _ => json!(value),
    };
    Some(hetra_tensor::to_i64(tensor).ok()?.into_iter().map(whole).collect())
}

/// The f64 of as few digits as tell the number among those of its dtype: 0.1, where the f32 is
/// 0.10000000149.
fn shortest(value: f64, dtype: DType) -> f64 {
    if dtype == DType::F64 { value } else { (value as f32).to_string().parse().unwrap_or(value) }
}

fn nest(shape: &[usize], flat: &mut impl Iterator<Item = serde_json::Value>) -> serde_json::Value {
    match shape {
        [] => flat.next().unwrap_or_default(),
        // Without elements there is nothing to nest: the other extents may be any number.
        _ if shape.contains(&0) => json!([]),
        [extent, rest @ ..] => (0..*extent).map(|_| nest(rest, flat)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_exact_and_nested() {
        let check = |value: Value, wanted: &str| {
            let text = elements(&value, 4).map(|found| found.to_string());
            assert_eq!(text.as_deref().unwrap_or("none"), wanted);
        };
        let floats = [0.1f32, -2.0, f32::NAN, f32::INFINITY];
        let matrix = Tensor::from_slice(&[2, 2], &floats).unwrap();
        check(matrix.clone().into(), r#"[[0.1,-2.0],["NaN","inf"]]"#);
        check(Tensor::scalar(9_007_199_254_740_993i64).into(), "9007199254740993");
        check(Tensor::vector(&[u64::MAX]).into(), "[18446744073709551615]");
        check(Tensor::from_bools(&[2], &[true, false]).unwrap().into(), "[true,false]");
        let texts = ["a", "ü"].map(str::to_string).to_vec();
        let texts = Value::from(Tensor::from_strings(&[2], texts).unwrap());
        check(texts.clone(), r#"["a","ü"]"#);
        check(Tensor::vector(&[1f32; 5]).into(), "none");
        check(Tensor::zeros(DType::F32, &[1 << 40, 0]).unwrap().into(), "[]");
        check(Value::Sequence(vec![texts.clone(), texts.clone()]), r#"[["a","ü"],["a","ü"]]"#);
        check(Value::Sequence(vec![matrix.into(), texts]), "none");
        check(Value::Optional(None), "null");
    }
}
