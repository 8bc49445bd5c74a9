//! Objects: where they are, and of which class.

use hetra_ir::{Node, ValueId};
use hetra_tensor::Tensor;

use crate::boxes::{corners, grid, kept, rows};
use crate::file::PipelineError;
use crate::steps::StepRow;
use crate::{Joiner, Params};

/// Reads YOLOX.
pub(crate) static YOLOX: StepRow = StepRow {
    name: "yolox",
    doc: "Objects in what YOLOX gives: rows of a box, how sure it is of one, and of each class",
    takes: "of, the rows; size = [height, width] of the model's input; factor, of the step that made \
            it; labels, a file with a name in each line; score_min (0.5), iou_max (0.45), most (100, of \
            each class)",
    gives: ".boxes (left, top, right, bottom, in pixels of the picture), .scores, .classes; .names \
            where there are labels",
    make: yolox,
};

/// Numbers of a row before those of the classes.
const BEFORE: i64 = 5;
/// Most bytes of a file of labels.
const LABELS_MAX: u64 = 1 << 20;

fn yolox(joiner: &mut Joiner<'_>, params: &Params<'_>) -> Result<(), PipelineError> {
    let find = |joiner: &Joiner<'_>, key: &str| {
        joiner.find(params.text(key)?).map_err(|reason| params.fault(reason))
    };
    let (of, factor) = (find(joiner, "of")?, find(joiner, "factor")?);
    let (priors, strides) = grid(joiner, params)?;
    let part = |joiner: &mut Joiner<'_>, from: i64, to: i64| {
        let bounds = [from, to, 2].map(|bound| joiner.ints(&[bound]));
        joiner.op("Slice", &[of, bounds[0], bounds[1], bounds[2]])
    };
    let boxes = part(joiner, 0, 4);
    let sure = part(joiner, 4, BEFORE);
    let classes = part(joiner, BEFORE, i64::MAX);
    // Middles are in strides from the prior here, as widths and heights are.
    let boxes = corners(joiner, boxes, (priors, strides));
    let scores = joiner.op("Mul", &[classes, sure]);
    // (1, classes, rows).
    let order = Node::new("Transpose", &[scores], &[]).with("perm", vec![0i64, 2, 1]);
    let scores = joiner.node(order);
    let chosen = kept(joiner, params, boxes, scores)?;
    let column = |joiner: &mut Joiner<'_>, at: i64| {
        let at = joiner.constant(Tensor::scalar(at));
        joiner.node(Node::new("Gather", &[chosen, at], &[]).with("axis", 1i64))
    };
    let (class, place) = (column(joiner, 1), column(joiner, 2));
    let twice = Node::new("Concat", &[factor, factor], &[]).with("axis", 0i64);
    let twice = joiner.node(twice);
    let boxes = rows(joiner, boxes, place);
    let boxes = joiner.op("Mul", &[boxes, twice]);
    let scores = joiner.op("GatherND", &[scores, chosen]);
    joiner.name(params, "boxes", boxes, true)?;
    joiner.name(params, "scores", scores, true)?;
    joiner.name(params, "classes", class, true)?;
    if let Some(labels) = labels(joiner, params)? {
        let names = joiner.op("Gather", &[labels, class]);
        joiner.name(params, "names", names, true)?;
    }
    Ok(())
}

/// The lines of the file of labels, as a constant; none where there is no such file.
fn labels(joiner: &mut Joiner<'_>, params: &Params<'_>) -> Result<Option<ValueId>, PipelineError> {
    let Some(name) = params.text_opt("labels")? else { return Ok(None) };
    let path = joiner.file(params, name)?;
    let fault = |reason: String| params.fault(format!("{}: {reason}", path.display()));
    let size = std::fs::metadata(&path).map_err(|error| fault(error.to_string()))?.len();
    if size > LABELS_MAX {
        return Err(fault(format!("{size} bytes; {LABELS_MAX} at most")));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| fault(error.to_string()))?;
    let lines: Vec<String> = text.lines().map(|line| line.trim().to_string()).collect();
    let tensor = Tensor::from_strings(&[lines.len()], lines);
    let tensor = tensor.map_err(|error| fault(error.to_string()))?;
    Ok(Some(joiner.constant(tensor)))
}
