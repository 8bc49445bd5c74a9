//! Whether a plan computes what the processor does.

use hetra_tensor::Value;

use crate::budget::difference;

/// Outputs whose numbers are all smaller are compared as if the largest were this: of what is
/// nearly nothing throughout, runtimes keep no digits (a sigmoid far from its middle).
const SCALE_MIN: f64 = 1e-4;

/// The largest difference of an output from the wanted one, in parts of the largest magnitude of
/// that; infinite where dtype, shape or kind differ, or a number is none that should be one.
pub(crate) fn error(wanted: &[Value], got: &[Value]) -> f64 {
    if wanted.len() != got.len() {
        return f64::INFINITY;
    }
    wanted.iter().zip(got).map(|(wanted, got)| of_one(wanted, got)).fold(0.0, f64::max)
}

fn of_one(wanted: &Value, got: &Value) -> f64 {
    let exact = || if wanted == got { 0.0 } else { f64::INFINITY };
    let (Some(wanted_tensor), Some(got_tensor)) = (wanted.as_tensor(), got.as_tensor()) else {
        return exact();
    };
    // Codes of 8 bits stand for numbers; longer integers are places and counts.
    let dtype = wanted_tensor.dtype();
    if !dtype.is_float() && dtype.bits() > 8 {
        return exact();
    }
    match difference(got_tensor, wanted_tensor) {
        Some((worst, largest)) => worst / largest.max(SCALE_MIN),
        None => exact(),
    }
}

#[cfg(test)]
mod tests {
    use hetra_tensor::Tensor;

    use super::*;

    #[test]
    fn differences_are_parts_of_the_largest() {
        let of = |numbers: &[f32]| vec![Value::from(Tensor::vector(numbers))];
        assert_eq!(error(&of(&[1.0, -4.0]), &of(&[1.0, -4.0])), 0.0);
        assert_eq!(error(&of(&[1.0, -4.0]), &of(&[1.5, -4.0])), 0.125);
        assert!((error(&of(&[1e-9]), &of(&[2e-9])) - 1e-5).abs() < 1e-9);
        assert_eq!(error(&of(&[1.0]), &of(&[1.0, 2.0])), f64::INFINITY);
        assert_eq!(error(&of(&[f32::NAN, f32::INFINITY]), &of(&[f32::NAN, f32::INFINITY])), 0.0);
        assert_eq!(error(&of(&[1.0]), &of(&[f32::NAN])), f64::INFINITY);
        assert_eq!(error(&of(&[]), &[]), f64::INFINITY);
        let of = |numbers: &[i64]| vec![Value::from(Tensor::vector(numbers))];
        assert_eq!(error(&of(&[500, 7]), &of(&[500, 7])), 0.0);
        assert_eq!(error(&of(&[500, 7]), &of(&[501, 7])), f64::INFINITY);
    }
}
