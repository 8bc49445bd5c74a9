//! Boxes that detectors give.

use hetra_ir::{Node, ValueId};
use hetra_tensor::Tensor;

use crate::file::{PipelineError, floats};
use crate::{Joiner, Params};

/// Of boxes (1, n, 4) with corners and scores (1, classes, n), those that are kept, class by class:
/// rows of batch, class and place. `score_min`, `iou_max` and `most` are the step's.
pub(crate) fn kept(
    joiner: &mut Joiner<'_>,
    params: &Params<'_>,
    boxes: ValueId,
    scores: ValueId,
) -> Result<ValueId, PipelineError> {
    let most = params.number("most", 100.0)?;
    if !(1.0..=100_000.0).contains(&most) {
        return Err(params.fault(format!("`most`: {most} is not from 1 to 100000")));
    }
    let (score_min, iou_max) = (params.part("score_min", 0.5)?, params.part("iou_max", 0.45)?);
    let most = joiner.ints(&[most as i64]);
    let iou = joiner.constant(Tensor::vector(&[iou_max as f32]));
    let score = joiner.constant(Tensor::vector(&[score_min as f32]));
    Ok(joiner.op("NonMaxSuppression", &[boxes, scores, most, iou, score]))
}

/// Rows of (1, n, ..) at places, without the first axis.
pub(crate) fn rows(joiner: &mut Joiner<'_>, of: ValueId, places: ValueId) -> ValueId {
    let first = joiner.ints(&[0]);
    let bare = joiner.op("Squeeze", &[of, first]);
    joiner.op("Gather", &[bare, places])
}

/// Strides of the maps that these detectors read.
pub(crate) const STRIDES: [usize; 3] = [8, 16, 32];

/// Where each row of such a detector is in the picture of the model, (1, n, 2), and its stride,
/// (1, n, 1); `size` is the step's.
pub(crate) fn grid(
    joiner: &mut Joiner<'_>,
    params: &Params<'_>,
) -> Result<(ValueId, ValueId), PipelineError> {
    let [h, w] = params.size()?;
    let (mut priors, mut strides) = (Vec::new(), Vec::new());
    for stride in STRIDES {
        if h % stride != 0 || w % stride != 0 {
            return Err(params.fault(format!("`size`: {h} x {w} is no multiple of {stride}")));
        }
        for place in 0..(h / stride) * (w / stride) {
            let (row, column) = (place / (w / stride), place % (w / stride));
            priors.extend([(column * stride) as f64, (row * stride) as f64]);
            strides.push(stride as f64);
        }
    }
    let count = strides.len();
    let priors = joiner.constant(floats(&[1, count, 2], &priors)?);
    Ok((priors, joiner.constant(floats(&[1, count, 1], &strides)?)))
}

/// Boxes with corners, of a middle beside the prior and logarithms of width and height, both in
/// strides.
pub(crate) fn corners(
    joiner: &mut Joiner<'_>,
    boxes: ValueId,
    (priors, strides): (ValueId, ValueId),
) -> ValueId {
    let halves = Node::new("Split", &[boxes], &[]).with("axis", 2i64).with("num_outputs", 2i64);
    let halves = joiner.nodes(halves, 2);
    let middle = joiner.op("Mul", &[halves[0], strides]);
    let middle = joiner.op("Add", &[middle, priors]);
    let extent = joiner.op("Exp", &[halves[1]]);
    let extent = joiner.op("Mul", &[extent, strides]);
    let half = joiner.constant(Tensor::scalar(0.5f32));
    let half = joiner.op("Mul", &[extent, half]);
    let (low, high) = (joiner.op("Sub", &[middle, half]), joiner.op("Add", &[middle, half]));
    joiner.node(Node::new("Concat", &[low, high], &[]).with("axis", 2i64))
}
