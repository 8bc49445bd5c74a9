//! Lines of text: where they are, cut out, read.

use hetra_ir::{Node, ValueId};
use hetra_tensor::{DType, Tensor};

use crate::file::PipelineError;
use crate::pictures::warp_to;
use crate::steps::StepRow;
use crate::{Joiner, Params};

/// Reads a detector of text.
pub(crate) static DB: StepRow = StepRow {
    name: "db",
    doc: "Lines of text in a map of probabilities (differentiable binarization, as PP-OCR's)",
    takes: "of, the map; factor, of the step that made the picture; threshold (0.3), score_min (0.5), \
            grow (1.6), most (1000)",
    gives: ".corners (four, clockwise from where reading begins, in pixels of the picture), .boxes \
            (left, top, right, bottom), .scores",
    make: db,
};

/// Cuts lines out.
pub(crate) static LINES: StepRow = StepRow {
    name: "lines",
    doc: "Lines of text cut out of a picture, upright, all of one height; what a line does not fill \
          on the right is 0",
    takes: "of, the picture; corners; size = [height, width]; width_max, where longer lines make all \
            of them wider; as all pictures: mean, scale, reverse",
    gives: "one patch for each line",
    make: lines,
};

/// Turns lines around.
pub(crate) static UPRIGHT: StepRow = StepRow {
    name: "upright",
    doc: "Corners of lines, begun at the opposite one where a classifier says that a line is upside \
          down",
    takes: "corners; of, rows of how likely 0 and 180 degrees are; score_min (0.9)",
    gives: "the corners",
    make: upright,
};

/// Spells.
pub(crate) static CTC: StepRow = StepRow {
    name: "ctc",
    doc: "What lines say, by how likely each letter is in each column; the first is the blank",
    takes: "of, the model's output (lines, columns, letters); letters, a file with one in each line \
            (else what the model's metadata says: `character`); score_min (0), below which a line says \
            nothing",
    gives: ".texts, .scores",
    make: ctc,
};

/// Most bytes of a file of letters.
const LETTERS_MAX: u64 = 1 << 22;

fn find(joiner: &Joiner<'_>, params: &Params<'_>, key: &str) -> Result<ValueId, PipelineError> {
    joiner.find(params.text(key)?).map_err(|reason| params.fault(reason))
}

fn db(joiner: &mut Joiner<'_>, params: &Params<'_>) -> Result<(), PipelineError> {
    let (of, factor) = (find(joiner, params, "of")?, find(joiner, params, "factor")?);
    let most = params.number("most", 1000.0)?;
    if !(1.0..=65_536.0).contains(&most) {
        return Err(params.fault(format!("`most`: {most} is not from 1 to 65536")));
    }
    let node = Node::new("hetra.LineBoxes", &[of], &[])
        .with("threshold", params.part("threshold", 0.3)? as f32)
        .with("score_min", params.part("score_min", 0.5)? as f32)
        .with("grow", params.number("grow", 1.6)? as f32)
        .with("most", most as i64);
    let found = joiner.nodes(node, 2);
    let corners = joiner.op("Mul", &[found[0], factor]);
    let axis = joiner.ints(&[1]);
    let ends = ["ReduceMin", "ReduceMax"]
        .map(|op| joiner.node(Node::new(op, &[corners, axis], &[]).with("keepdims", 0i64)));
    let boxes = joiner.node(Node::new("Concat", &ends, &[]).with("axis", 1i64));
    for (name, value) in [("corners", corners), ("boxes", boxes), ("scores", found[1])] {
        joiner.name(params, name, value, true)?;
    }
    Ok(())
}

/// A corner of each line, (n, 2).
fn corner(joiner: &mut Joiner<'_>, corners: ValueId, at: i64) -> ValueId {
    let at = joiner.constant(Tensor::scalar(at));
    joiner.node(Node::new("Gather", &[corners, at], &[]).with("axis", 1i64))
}

fn scalar(joiner: &mut Joiner<'_>, number: f64) -> ValueId {
    joiner.constant(Tensor::scalar(number as f32))
}

fn cast(joiner: &mut Joiner<'_>, value: ValueId, to: DType) -> ValueId {
    joiner.node(Node::new("Cast", &[value], &[]).with("to", i64::from(to.onnx())))
}

/// Pixels that the width of patches is a multiple of: of fewer shapes more is prepared.
const WIDER: f64 = 32.0;

fn lines(joiner: &mut Joiner<'_>, params: &Params<'_>) -> Result<(), PipelineError> {
    let (of, corners) = (find(joiner, params, "of")?, find(joiner, params, "corners")?);
    let [height, width] = params.size()?;
    let most = params.number("width_max", width as f64)?;
    if !(width as f64..=16_384.0).contains(&most) {
        return Err(params.fault(format!("`width_max`: {most} is not from {width} to 16384")));
    }
    let begin = corner(joiner, corners, 0);
    let (across, down) = {
        let (right, below) = (corner(joiner, corners, 1), corner(joiner, corners, 3));
        (joiner.op("Sub", &[right, begin]), joiner.op("Sub", &[below, begin]))
    };
    let axis = joiner.ints(&[1]);
    let [long, high] = [across, down].map(|side| joiner.op("ReduceL2", &[side, axis]));
    // How wide a line is at this height: (n, 1).
    let h = scalar(joiner, height as f64);
    let wide = joiner.op("Mul", &[long, h]);
    let tiny = scalar(joiner, 1e-3);
    let high = joiner.op("Max", &[high, tiny]);
    let wide = joiner.op("Div", &[wide, high]);
    let wide = joiner.op("Ceil", &[wide]);
    let (one, limit) = (scalar(joiner, 1.0), scalar(joiner, most));
    let wide = joiner.op("Clip", &[wide, one, limit]);
    let maps = maps(joiner, begin, (across, wide), (down, h));
    let size = match most > width as f64 {
        false => joiner.ints(&[height as i64, width as i64]),
        true => size(joiner, wide, (height, width)),
    };
    let patches = warp_to(joiner, params, (of, maps), [height, width], size)?;
    // What is right of a line is not its own.
    let last = joiner.constant(Tensor::scalar(1i64));
    let width = joiner.node(Node::new("Gather", &[size, last], &[]).with("axis", 0i64));
    let (from, by) = (joiner.constant(Tensor::scalar(0i64)), last);
    let places = joiner.op("Range", &[from, width, by]);
    let places = cast(joiner, places, DType::F32);
    let inside = joiner.op("Less", &[places, wide]);
    let axes = joiner.ints(&[1, 2]);
    let inside = joiner.op("Unsqueeze", &[inside, axes]);
    let nothing = scalar(joiner, 0.0);
    let patches = joiner.op("Where", &[inside, patches, nothing]);
    joiner.name(params, "", patches, true)
}

/// From places of a patch to places of the picture: `begin + (x + 1/2) across / wide +
/// (y + 1/2) down / high - 1/2`, as the middle of a pixel is half a pixel from where it begins.
fn maps(
    joiner: &mut Joiner<'_>,
    begin: ValueId,
    (across, wide): (ValueId, ValueId),
    (down, high): (ValueId, ValueId),
) -> ValueId {
    let x = joiner.op("Div", &[across, wide]);
    let y = joiner.op("Div", &[down, high]);
    let half = scalar(joiner, 0.5);
    let sum = joiner.op("Add", &[x, y]);
    let sum = joiner.op("Mul", &[sum, half]);
    let shift = joiner.op("Add", &[begin, sum]);
    let shift = joiner.op("Sub", &[shift, half]);
    let last = joiner.ints(&[2]);
    let columns = [x, y, shift].map(|column| joiner.op("Unsqueeze", &[column, last]));
    joiner.node(Node::new("Concat", &columns, &[]).with("axis", 2i64))
}

/// Height and width of patches that hold the longest line.
fn size(joiner: &mut Joiner<'_>, wide: ValueId, (height, width): (usize, usize)) -> ValueId {
    let flat = joiner.ints(&[-1]);
    let all = joiner.op("Reshape", &[wide, flat]);
    let least = joiner.constant(Tensor::vector(&[width as f32]));
    let all = joiner.node(Node::new("Concat", &[least, all], &[]).with("axis", 0i64));
    let axis = joiner.ints(&[0]);
    let longest = joiner.op("ReduceMax", &[all, axis]);
    let wider = scalar(joiner, WIDER);
    let steps = joiner.op("Div", &[longest, wider]);
    let steps = joiner.op("Ceil", &[steps]);
    let longest = joiner.op("Mul", &[steps, wider]);
    let longest = cast(joiner, longest, DType::I64);
    let height = joiner.ints(&[height as i64]);
    joiner.node(Node::new("Concat", &[height, longest], &[]).with("axis", 0i64))
}

fn upright(joiner: &mut Joiner<'_>, params: &Params<'_>) -> Result<(), PipelineError> {
    let (of, corners) = (find(joiner, params, "of")?, find(joiner, params, "corners")?);
    let least = params.part("score_min", 0.9)?;
    let likely = corner(joiner, of, 1);
    let least = scalar(joiner, least);
    let turned = joiner.op("Greater", &[likely, least]);
    let axes = joiner.ints(&[1, 2]);
    let turned = joiner.op("Unsqueeze", &[turned, axes]);
    let opposite = joiner.ints(&[2, 3, 0, 1]);
    let opposite = joiner.node(Node::new("Gather", &[corners, opposite], &[]).with("axis", 1i64));
    let corners = joiner.op("Where", &[turned, opposite, corners]);
    joiner.name(params, "", corners, true)
}

fn ctc(joiner: &mut Joiner<'_>, params: &Params<'_>) -> Result<(), PipelineError> {
    let of = find(joiner, params, "of")?;
    let letters = letters(joiner, params)?;
    let least = params.part("score_min", 0.0)?;
    let last = |node: Node| node.with("axis", -1i64).with("keepdims", 0i64);
    let places = joiner.node(last(Node::new("ArgMax", &[of], &[])));
    let axis = joiner.ints(&[-1]);
    let sure = Node::new("ReduceMax", &[of, axis], &[]).with("keepdims", 0i64);
    let sure = joiner.node(sure);
    let read = joiner.nodes(Node::new("hetra.CtcText", &[places, sure, letters], &[]), 2);
    let nothing = Tensor::from_strings(&[1], vec![String::new()]);
    let nothing = joiner.constant(nothing.map_err(|error| params.fault(error.to_string()))?);
    let least = scalar(joiner, least);
    let is_sure = joiner.op("GreaterOrEqual", &[read[1], least]);
    let texts = joiner.op("Where", &[is_sure, read[0], nothing]);
    joiner.name(params, "texts", texts, true)?;
    joiner.name(params, "scores", read[1], true)
}

/// What the metadata of PP-OCR's models call their letters.
const CHARACTER: &str = "character";

/// The letters, with the blank before them and a space behind them.
fn letters(joiner: &mut Joiner<'_>, params: &Params<'_>) -> Result<ValueId, PipelineError> {
    let text = match params.text_opt("letters")? {
        Some(name) => {
            let path = joiner.file(params, name)?;
            let fault = |reason: String| params.fault(format!("{}: {reason}", path.display()));
            let size = std::fs::metadata(&path).map_err(|error| fault(error.to_string()))?.len();
            if size > LETTERS_MAX {
                return Err(fault(format!("{size} bytes; {LETTERS_MAX} at most")));
            }
            std::fs::read_to_string(&path).map_err(|error| fault(error.to_string()))?
        }
        None => joiner.metadata(params.text("of")?, CHARACTER).ok_or_else(|| {
            params.fault(format!("the model has no `{CHARACTER}`: `letters` names a file of them"))
        })?,
    };
    let inner = text.split('\n').map(|letter| letter.trim_end_matches('\r').to_string());
    let mut letters: Vec<String> = std::iter::once(String::new()).chain(inner).collect();
    // The last line ends, too.
    if letters.last().is_some_and(String::is_empty) {
        letters.pop();
    }
    letters.push(" ".to_string());
    let tensor = Tensor::from_strings(&[letters.len()], letters);
    Ok(joiner.constant(tensor.map_err(|error| params.fault(error.to_string()))?))
}
