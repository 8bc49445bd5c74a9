//! Boxes that detectors give.

use hetra_ir::{Node, ValueId};
use hetra_tensor::Tensor;

use crate::pipeline::file::PipelineError;
use crate::pipeline::{Joiner, Params};

/// Of boxes (1, n, 4) with corners and scores (1, n), those that are kept: their places, in the
/// order of their scores. `score_min`, `iou_max` and `most` are the step's.
pub(super) fn kept(
    joiner: &mut Joiner<'_>,
    params: &Params<'_>,
    boxes: ValueId,
    scores: ValueId,
) -> Result<ValueId, PipelineError> {
    let most = params.number("most", 100.0)?;
    if !(1.0..=100_000.0).contains(&most) {
        return Err(params.fault(format!("`most`: {most} is not from 1 to 100000")));
    }
    let part = |key: &str, other: f64| {
        let value = params.number(key, other)?;
        let fault = || params.fault(format!("`{key}`: {value} is not from 0 to 1"));
        if (0.0..=1.0).contains(&value) { Ok(value as f32) } else { Err(fault()) }
    };
    let (score_min, iou_max) = (part("score_min", 0.5)?, part("iou_max", 0.45)?);
    let one = joiner.ints(&[1]);
    let scores = joiner.op("Unsqueeze", &[scores, one]);
    let most = joiner.ints(&[most as i64]);
    let iou = joiner.constant(Tensor::vector(&[iou_max]));
    let score = joiner.constant(Tensor::vector(&[score_min]));
    let chosen = joiner.op("NonMaxSuppression", &[boxes, scores, most, iou, score]);
    // Batch, class, place.
    let last = joiner.constant(Tensor::scalar(2i64));
    Ok(joiner.node(Node::new("Gather", &[chosen, last], &[]).with("axis", 1i64)))
}

/// Rows of (1, n, ..) at places, without the first axis.
pub(super) fn rows(joiner: &mut Joiner<'_>, of: ValueId, places: ValueId) -> ValueId {
    let first = joiner.ints(&[0]);
    let bare = joiner.op("Squeeze", &[of, first]);
    joiner.op("Gather", &[bare, places])
}
