//! How far two tensors are apart.

use hetra_tensor::{Tensor, Value, to_f64};

/// The difference of one output.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Difference {
    /// Largest absolute difference.
    pub(crate) max_abs: f64,
    /// Largest difference as a share of what is tolerated there; over 1 fails.
    pub(crate) worst: f64,
    /// Elements past tolerance.
    pub(crate) over: usize,
    /// Elements.
    pub(crate) count: usize,
    /// Flat index of the worst element, what was got and what was wanted.
    pub(crate) at: Option<(usize, f64, f64)>,
}

/// Compares tensor to tensor: an element may differ by `atol * scale + rtol * |wanted|`, where
/// `scale` is the largest finite magnitude of the wanted output, and at least 1. NaN equals NaN.
///
/// # Errors
/// When dtype, shape or strings differ.
pub(crate) fn difference(
    got: &Value,
    want: &Value,
    rtol: f64,
    atol: f64,
) -> Result<Difference, String> {
    match (got, want) {
        (Value::Sequence(a), Value::Sequence(b)) if a.len() == b.len() => {
            let mut total = Difference::default();
            for (x, y) in a.iter().zip(b) {
                let one = difference(x, y, rtol, atol)?;
                total.over += one.over;
                total.count += one.count;
                total.max_abs = total.max_abs.max(one.max_abs);
                if one.worst >= total.worst {
                    (total.worst, total.at) = (one.worst, one.at);
                }
            }
            Ok(total)
        }
        (Value::Optional(None), Value::Optional(None)) => Ok(Difference::default()),
        _ => match (got.as_tensor(), want.as_tensor()) {
            (Some(a), Some(b)) => tensors(a, b, rtol, atol),
            _ => Err(format!("got {}, wanted {}", got.describe(), want.describe())),
        },
    }
}

fn tensors(got: &Tensor, want: &Tensor, rtol: f64, atol: f64) -> Result<Difference, String> {
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        return Err(format!("got {}, wanted {}", got.describe(), want.describe()));
    }
    let (Ok(a), Ok(b)) = (to_f64(got), to_f64(want)) else {
        return if got == want {
            Ok(Difference { count: got.len(), ..Difference::default() })
        } else {
            Err("the values differ".to_string())
        };
    };
    let scale = b.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
    let mut result = Difference { count: a.len(), ..Difference::default() };
    for (index, (&x, &y)) in a.iter().zip(&b).enumerate() {
        if x == y || (x.is_nan() && y.is_nan()) {
            continue;
        }
        let error = (x - y).abs();
        let share = error / (atol * scale + rtol * y.abs());
        let share = if share.is_nan() { f64::INFINITY } else { share };
        result.max_abs = result.max_abs.max(if error.is_nan() { f64::INFINITY } else { error });
        result.over += usize::from(share > 1.0);
        if share > result.worst || result.at.is_none() {
            result.worst = share;
            result.at = Some((index, x, y));
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerance_follows_the_range() {
        let want = Value::Tensor(Tensor::vector(&[100.0f32, 0.0, f32::NAN]));
        let near = Value::Tensor(Tensor::vector(&[100.0f32, 0.005, f32::NAN]));
        let far = Value::Tensor(Tensor::vector(&[100.0f32, 0.05, 0.0]));
        assert_eq!(difference(&near, &want, 0.0, 1e-4).unwrap().over, 0);
        assert_eq!(difference(&far, &want, 0.0, 1e-4).unwrap().over, 2);
        let other = Value::Tensor(Tensor::vector(&[1i32]));
        assert!(difference(&other, &want, 1.0, 1.0).is_err());
    }
}
