//! From scores to classes, as the classifiers of ai.onnx.ml do it.

use hetra_ir::Attrs;
use hetra_tensor::{DType, Tensor};

use crate::error::OpError;
use crate::unary::sigmoid;

/// What is done to a row of scores at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transform {
    /// Nothing.
    None,
    /// exp(x) over the sum of all.
    Softmax,
    /// 1 / (1 + exp(-x)).
    Logistic,
    /// Softmax in which a score of 0 stays 0.
    SoftmaxZero,
    /// The quantile of the normal distribution.
    Probit,
}

impl Transform {
    pub(crate) fn from_name(name: &str) -> Result<Transform, OpError> {
        match name {
            "NONE" => Ok(Transform::None),
            "SOFTMAX" => Ok(Transform::Softmax),
            "LOGISTIC" => Ok(Transform::Logistic),
            "SOFTMAX_ZERO" => Ok(Transform::SoftmaxZero),
            "PROBIT" => Ok(Transform::Probit),
            other => Err(OpError::invalid(format!("`post_transform` is `{other}`"))),
        }
    }

    pub(crate) fn from_number(number: i64) -> Result<Transform, OpError> {
        match number {
            0 => Ok(Transform::None),
            1 => Ok(Transform::Softmax),
            2 => Ok(Transform::Logistic),
            3 => Ok(Transform::SoftmaxZero),
            4 => Ok(Transform::Probit),
            other => Err(OpError::invalid(format!("`post_transform` is {other}"))),
        }
    }

    /// Scores go in as probabilities (of two classes, one is 1 minus the other); else as logits.
    pub(crate) fn keeps_scale(self) -> bool {
        matches!(self, Transform::None | Transform::Probit)
    }

    /// Changes a row of scores.
    pub(crate) fn apply(self, row: &mut [f64]) {
        match self {
            Transform::None => {}
            Transform::Logistic => row.iter_mut().for_each(|x| *x = sigmoid(*x)),
            Transform::Probit => row.iter_mut().for_each(|x| *x = probit(*x)),
            Transform::Softmax | Transform::SoftmaxZero => {
                let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let zero = |x: f64| self == Transform::SoftmaxZero && x.abs() <= 1e-7;
                let shift = |x: f64| if zero(x) { x * (-top).exp() } else { (x - top).exp() };
                row.iter_mut().for_each(|x| *x = shift(*x));
                let total: f64 = row.iter().sum();
                let share = |x: f64| if total == 0.0 { 0.5 } else { x / total };
                row.iter_mut().for_each(|x| *x = share(*x));
            }
        }
    }
}

/// The quantile of the normal distribution, by Winitzki's formula for the inverse of erf (which
/// is what ONNX's runtimes use: 3 digits).
fn probit(p: f64) -> f64 {
    let x = 2.0 * p - 1.0;
    let rest = (1.0 - x) * (1.0 + x);
    if rest == 0.0 {
        return 0.0;
    }
    let log = rest.ln();
    let half = 2.0 / (std::f64::consts::PI * 0.147) + 0.5 * log;
    let root = (-half + (half * half - log / 0.147).sqrt()).sqrt();
    std::f64::consts::SQRT_2 * root.copysign(x)
}

/// The names of classes.
pub(crate) enum Labels {
    /// Numbers.
    Ints(Vec<i64>),
    /// Texts.
    Texts(Vec<String>),
}

impl Labels {
    /// From `classlabels_strings` or the attribute named `ints`.
    pub(crate) fn new(attrs: &Attrs, ints: &str) -> Result<Labels, OpError> {
        match (attrs.ints_opt(ints)?, attrs.strs_opt("classlabels_strings")?) {
            (Some(ints), _) if !ints.is_empty() => Ok(Labels::Ints(ints.clone())),
            (_, Some(texts)) if !texts.is_empty() => Ok(Labels::Texts(texts.clone())),
            _ => Err(OpError::invalid("the classifier has no classes")),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Labels::Ints(ints) => ints.len(),
            Labels::Texts(texts) => texts.len(),
        }
    }

    pub(crate) fn dtype(&self) -> DType {
        match self {
            Labels::Ints(_) => DType::I64,
            Labels::Texts(_) => DType::String,
        }
    }

    /// The label of the largest score of each row. One label alone names the second of two
    /// classes; the first is 0 or the empty text.
    pub(crate) fn of_rows(&self, scores: &[f64], classes: usize) -> Result<Tensor, OpError> {
        let best = |row: &[f64]| {
            (1..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best })
        };
        let best: Vec<usize> = scores.chunks_exact(classes.max(1)).map(best).collect();
        let rows = best.len();
        // With one label, place 1 is the label and place 0 none.
        let place = |at: usize| if self.len() == 1 { at.checked_sub(1) } else { Some(at) };
        match self {
            Labels::Ints(ints) => {
                let label = |at| place(at).and_then(|at| ints.get(at)).copied().unwrap_or(0);
                let labels: Vec<i64> = best.into_iter().map(label).collect();
                Ok(Tensor::from_slice(&[rows], &labels)?)
            }
            Labels::Texts(texts) => {
                let label =
                    |at| place(at).and_then(|at| texts.get(at)).cloned().unwrap_or_default();
                Ok(Tensor::from_strings(&[rows], best.into_iter().map(label).collect())?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms() {
        let check = |transform: Transform, row: &[f64], wanted: &[f64]| {
            let mut row = row.to_vec();
            transform.apply(&mut row);
            assert!(row.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-3), "{row:?}");
        };
        check(Transform::Softmax, &[0.0, 0.0], &[0.5, 0.5]);
        check(Transform::Softmax, &[1e5, 0.0], &[1.0, 0.0]);
        check(Transform::SoftmaxZero, &[0.0, 2.0], &[0.0, 1.0]);
        check(Transform::Logistic, &[0.0, -1e9], &[0.5, 0.0]);
        check(Transform::Probit, &[0.5, 0.975, 0.025], &[0.0, 1.96, -1.96]);
    }

    #[test]
    fn one_label_names_the_second_class() {
        let labels = Labels::Ints(vec![1]).of_rows(&[0.2, 0.8, 0.8, 0.2], 2).unwrap();
        assert_eq!(labels.as_slice::<i64>().unwrap(), [1, 0]);
        assert!(Labels::Ints(vec![1]).of_rows(&[], 2).unwrap().is_empty());
    }
}
