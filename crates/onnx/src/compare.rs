//! Compares a result with the one that is wanted.

use hetra_tensor::{DType, Tensor, Value, to_f64};

/// Compares `got` with `want`: shapes, dtypes, integers and strings exactly, floats within
/// `atol + rtol * |want|` (NaN equals NaN, infinities equal themselves), item by item in
/// sequences and optionals. Returns the largest absolute difference.
///
/// # Errors
/// A sentence on the first difference.
pub fn compare(got: &Value, want: &Value, rtol: f64, atol: f64) -> Result<f64, String> {
    match (got, want) {
        (Value::Tensor(got), Value::Tensor(want)) => tensors(got, want, rtol, atol),
        (Value::Sequence(got), Value::Sequence(want)) => {
            if got.len() != want.len() {
                return Err(format!("{} items, wanted {}", got.len(), want.len()));
            }
            got.iter().zip(want).enumerate().try_fold(0.0, |worst: f64, (index, (got, want))| {
                let error = compare(got, want, rtol, atol);
                Ok(worst.max(error.map_err(|reason| format!("item {index}: {reason}"))?))
            })
        }
        (Value::Optional(None), Value::Optional(None)) => Ok(0.0),
        (Value::Optional(Some(got)), Value::Optional(Some(want))) => compare(got, want, rtol, atol),
        _ => Err(format!("got {}, wanted {}", got.describe(), want.describe())),
    }
}

fn tensors(got: &Tensor, want: &Tensor, rtol: f64, atol: f64) -> Result<f64, String> {
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        return Err(format!("got {}, wanted {}", got.describe(), want.describe()));
    }
    match got.dtype() {
        DType::String => {
            let texts = |tensor: &Tensor| -> Vec<String> {
                tensor.as_strings().map(<[String]>::to_vec).unwrap_or_default()
            };
            exact(&texts(got), &texts(want))
        }
        DType::C64 => floats(&parts32(got), &parts32(want), rtol, atol),
        DType::C128 => floats(&parts64(got), &parts64(want), rtol, atol),
        dtype if dtype.is_float() => {
            let read = |tensor| to_f64(tensor).map_err(|error| error.to_string());
            floats(&read(got)?, &read(want)?, rtol, atol)
        }
        // Integers and booleans.
        _ => {
            let read = |tensor| hetra_tensor::to_i64(tensor).map_err(|error| error.to_string());
            exact(&read(got)?, &read(want)?)
        }
    }
}

fn parts32(tensor: &Tensor) -> Vec<f64> {
    let parts = tensor.bytes().as_chunks::<4>().0.iter();
    parts.map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
}

fn parts64(tensor: &Tensor) -> Vec<f64> {
    tensor.bytes().as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

fn exact<T: PartialEq + std::fmt::Debug>(got: &[T], want: &[T]) -> Result<f64, String> {
    match got.iter().zip(want).position(|(got, want)| got != want) {
        None => Ok(0.0),
        Some(at) => Err(format!("element {at} is {:?}, wanted {:?}", got[at], want[at])),
    }
}

fn floats(got: &[f64], want: &[f64], rtol: f64, atol: f64) -> Result<f64, String> {
    let mut worst = 0f64;
    let mut wrong: Option<usize> = None;
    let mut count = 0;
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        if got == want || got.is_nan() && want.is_nan() {
            continue;
        }
        let error = (got - want).abs();
        // False for NaN and infinities, too.
        if error.is_finite() && error <= atol + rtol * want.abs() {
            worst = worst.max(error);
        } else {
            count += 1;
            wrong.get_or_insert(at);
        }
    }
    match wrong {
        None => Ok(worst),
        Some(at) => Err(format!(
            "element {at} is {}, wanted {} ({count} of {} are wrong)",
            got[at],
            want[at],
            got.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_have_a_tolerance_and_nothing_else_has() {
        let value = |values: &[f32]| Value::from(Tensor::vector(values));
        let nan = f32::NAN;
        assert_eq!(compare(&value(&[1.0, nan]), &value(&[1.0, nan]), 0.0, 0.0), Ok(0.0));
        assert!(compare(&value(&[1.0005]), &value(&[1.0]), 1e-3, 0.0).is_ok());
        assert!(compare(&value(&[1.01]), &value(&[1.0]), 1e-3, 0.0).is_err());
        assert!(compare(&value(&[f32::INFINITY]), &value(&[1.0]), 1e-3, 0.0).is_err());
        assert!(compare(&value(&[1.0]), &value(&[f32::INFINITY]), 1e-3, 0.0).is_err());
        assert!(compare(&value(&[1.0]), &Tensor::scalar(1f32).into(), 1.0, 1.0).is_err());
        assert!(
            compare(&Tensor::scalar(1i32).into(), &Tensor::scalar(2i32).into(), 9.0, 9.0).is_err()
        );
        let list = |items: &[f32]| Value::Sequence(vec![value(items)]);
        assert!(compare(&list(&[1.0]), &list(&[1.0]), 0.0, 0.0).is_ok());
        assert!(compare(&list(&[1.0]), &list(&[2.0]), 0.0, 0.0).is_err());
        assert!(compare(&Value::Optional(None), &list(&[2.0]), 0.0, 0.0).is_err());
    }
}
