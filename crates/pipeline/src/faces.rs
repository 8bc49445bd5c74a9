//! Faces: where they are, turned upright, whose they are.

use hetra_ir::{Node, ValueId};
use hetra_tensor::Tensor;

use crate::boxes::{STRIDES, corners, grid, kept, rows};
use crate::file::{PipelineError, floats};
use crate::pictures::warp;
use crate::steps::StepRow;
use crate::{Joiner, Params};

/// Reads YuNet.
pub(crate) static YUNET: StepRow = StepRow {
    name: "yunet",
    doc: "Faces in what YuNet gives (outputs cls_S, obj_S, bbox_S, kps_S for strides 8, 16, 32)",
    takes: "of, the step of the model; size = [height, width] of its input; factor, of the step that \
            made it; score_min (0.6), iou_max (0.3), most (100)",
    gives: ".boxes (left, top, right, bottom), .scores, .points (eyes, nose, corners of the mouth), \
            in pixels of the picture",
    make: yunet,
};

/// Turns faces upright.
pub(crate) static ALIGN: StepRow = StepRow {
    name: "align",
    doc: "Faces turned upright and cut out, by their five points",
    takes: "of, the picture; points; size = [height, width] (of 112 or a multiple); as all pictures: \
            mean, scale, reverse",
    gives: "one patch for each face",
    make: align,
};

/// Names faces.
pub(crate) static MATCH: StepRow = StepRow {
    name: "match",
    doc: "Whose numbers are most alike: the largest cosine, `unknown` below a least one",
    takes: "of, rows of numbers; gallery, a folder of pictures with a name each; alike_min (0.35)",
    gives: ".names, .alike",
    make: match_with,
};

fn yunet(joiner: &mut Joiner<'_>, params: &Params<'_>) -> Result<(), PipelineError> {
    let find =
        |joiner: &Joiner<'_>, name: &str| joiner.find(name).map_err(|reason| params.fault(reason));
    let of = params.text("of")?;
    let factor = find(joiner, params.text("factor")?)?;
    let (priors, strides) = grid(joiner, params)?;
    let all = |joiner: &mut Joiner<'_>, what: &str| -> Result<ValueId, PipelineError> {
        let parts = STRIDES.map(|stride| find(joiner, &format!("{of}.{what}_{stride}")));
        let parts: Vec<ValueId> = parts.into_iter().collect::<Result<_, _>>()?;
        Ok(joiner.node(Node::new("Concat", &parts, &[]).with("axis", 1i64)))
    };
    let (cls, obj) = (all(joiner, "cls")?, all(joiner, "obj")?);
    let (boxes, points) = (all(joiner, "bbox")?, all(joiner, "kps")?);
    let (zero, one) =
        (joiner.constant(Tensor::scalar(0f32)), joiner.constant(Tensor::scalar(1f32)));
    let [cls, obj] = [cls, obj].map(|score| joiner.op("Clip", &[score, zero, one]));
    let score = joiner.op("Mul", &[cls, obj]);
    let score = joiner.op("Sqrt", &[score]);
    let last = joiner.ints(&[2]);
    let score = joiner.op("Squeeze", &[score, last]);
    let boxes = corners(joiner, boxes, (priors, strides));
    // One class, of whose rows the last number is the place.
    let one = joiner.ints(&[1]);
    let scores = joiner.op("Unsqueeze", &[score, one]);
    let chosen = kept(joiner, params, boxes, scores)?;
    let last = joiner.constant(Tensor::scalar(2i64));
    let places = joiner.node(Node::new("Gather", &[chosen, last], &[]).with("axis", 1i64));
    let spread = Node::new("Concat", &[factor, factor], &[]).with("axis", 0i64);
    let twice = joiner.node(spread);
    let boxes = rows(joiner, boxes, places);
    let boxes = joiner.op("Mul", &[boxes, twice]);
    // Only of those that are kept: five points beside each other, all from the same prior.
    let pairs = joiner.ints(&[-1, 5, 2]);
    let points = rows(joiner, points, places);
    let points = joiner.op("Reshape", &[points, pairs]);
    let axis = joiner.ints(&[1]);
    let [priors, strides] = [priors, strides].map(|of| {
        let of = rows(joiner, of, places);
        joiner.op("Unsqueeze", &[of, axis])
    });
    let points = joiner.op("Mul", &[points, strides]);
    let points = joiner.op("Add", &[points, priors]);
    let points = joiner.op("Mul", &[points, factor]);
    let scores = rows(joiner, score, places);
    for (name, value) in [("boxes", boxes), ("scores", scores), ("points", points)] {
        joiner.name(params, name, value, true)?;
    }
    Ok(())
}

/// Eyes, nose and corners of the mouth of an upright face of 112 x 112 pixels, as ArcFace and what
/// is trained like it have it (Deng et al., 2019).
const UPRIGHT: [[f64; 2]; 5] = [
    [38.2946, 51.6963],
    [73.5318, 51.5014],
    [56.0252, 71.7366],
    [41.5493, 92.3655],
    [70.7299, 92.2041],
];
const UPRIGHT_SIDE: f64 = 112.0;

/// What five points are multiplied by to give the similarity (turn, zoom, shift) that brings the
/// upright points nearest to them, in squares: 10 x 6, from places of the patch to the picture's.
///
/// With the upright points q and their mean m, `a = sum p . (q - m) / s` and
/// `b = sum p x (q - m) / s` with `s = sum |q - m|^2` turn and zoom, and the mean of p less the
/// turned m shifts: all of it is linear in p.
fn similarity(zoom: f64) -> [f64; 60] {
    let points = UPRIGHT.map(|[x, y]| [x * zoom, y * zoom]);
    let mean = [0, 1].map(|axis| points.iter().map(|point| point[axis]).sum::<f64>() / 5.0);
    let apart = points.map(|[x, y]| [x - mean[0], y - mean[1]]);
    let square: f64 = apart.iter().map(|[x, y]| x * x + y * y).sum();
    let mut matrix = [0.0; 60];
    for (index, [x, y]) in apart.into_iter().enumerate() {
        // How a and b grow with the point's x and y.
        for (axis, (a, b)) in
            [(x / square, -y / square), (y / square, x / square)].into_iter().enumerate()
        {
            let row = &mut matrix[(index * 2 + axis) * 6..][..6];
            row[0] += a;
            row[1] -= b;
            row[2] -= a * mean[0] - b * mean[1];
            row[3] += b;
            row[4] += a;
            row[5] -= b * mean[0] + a * mean[1];
            row[if axis == 0 { 2 } else { 5 }] += 1.0 / 5.0;
        }
    }
    matrix
}

fn align(joiner: &mut Joiner<'_>, params: &Params<'_>) -> Result<(), PipelineError> {
    let find = |key: &str| -> Result<ValueId, PipelineError> {
        joiner.find(params.text(key)?).map_err(|reason| params.fault(reason))
    };
    let (of, points) = (find("of")?, find("points")?);
    let [h, w] = params.size()?;
    if h != w {
        return Err(params.fault(format!("`size`: {h} x {w} is no square")));
    }
    let rows = joiner.ints(&[-1, 10]);
    let points = joiner.op("Reshape", &[points, rows]);
    let matrix = joiner.constant(floats(&[10, 6], &similarity(w as f64 / UPRIGHT_SIDE))?);
    let maps = joiner.op("MatMul", &[points, matrix]);
    let shape = joiner.ints(&[-1, 2, 3]);
    let maps = joiner.op("Reshape", &[maps, shape]);
    let patches = warp(joiner, params, of, maps, [h, w])?;
    joiner.name(params, "", patches, true)
}

/// What faces are called that are like none.
const UNKNOWN: &str = "unknown";

fn match_with(joiner: &mut Joiner<'_>, params: &Params<'_>) -> Result<(), PipelineError> {
    let of = joiner.find(params.text("of")?).map_err(|reason| params.fault(reason))?;
    let least = params.number("alike_min", 0.35)?;
    params.text("gallery")?;
    let gallery = joiner.galleries.get(&params.step);
    let gallery = gallery.ok_or_else(|| params.fault("its gallery is not given".to_string()))?;
    let width = gallery.rows.first().map_or(0, Vec::len);
    if width == 0 || gallery.rows.iter().any(|row| row.len() != width) {
        return Err(params.fault("its gallery is empty, or rows differ in length".to_string()));
    }
    let count = gallery.rows.len();
    let mut columns = vec![0f64; width * count];
    for (index, row) in gallery.rows.iter().enumerate() {
        let norm =
            row.iter().map(|number| f64::from(number * number)).sum::<f64>().sqrt().max(1e-12);
        for (at, number) in row.iter().enumerate() {
            columns[at * count + index] = f64::from(*number) / norm;
        }
    }
    let mut names = gallery.names.clone();
    names.push(UNKNOWN.to_string());
    let names = Tensor::from_strings(&[count + 1], names);
    let names = names.map_err(|error| params.fault(error.to_string()))?;
    let (columns, names) =
        (joiner.constant(floats(&[width, count], &columns)?), joiner.constant(names));
    let norm = Node::new("LpNormalization", &[of], &[]).with("axis", 1i64).with("p", 2i64);
    let rows = joiner.node(norm);
    let alike = joiner.op("MatMul", &[rows, columns]);
    let axis = joiner.ints(&[1]);
    let most = Node::new("ReduceMax", &[alike, axis], &[]).with("keepdims", 0i64);
    let most = joiner.node(most);
    let best = Node::new("ArgMax", &[alike], &[]).with("axis", 1i64).with("keepdims", 0i64);
    let best = joiner.node(best);
    let least = joiner.constant(Tensor::scalar(least as f32));
    let is_alike = joiner.op("GreaterOrEqual", &[most, least]);
    let unknown = joiner.constant(Tensor::scalar(count as i64));
    let place = joiner.op("Where", &[is_alike, best, unknown]);
    let names = joiner.op("Gather", &[names, place]);
    joiner.name(params, "names", names, true)?;
    joiner.name(params, "alike", most, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_face_is_found_again() {
        // Zoomed by 2, turned by 90 degrees, shifted.
        let moved = |[x, y]: [f64; 2]| [-2.0 * y + 300.0, 2.0 * x + 40.0];
        let points: Vec<f64> = UPRIGHT.into_iter().flat_map(moved).collect();
        let matrix = similarity(1.0);
        let map: Vec<f64> = (0..6)
            .map(|column| (0..10).map(|row| points[row] * matrix[row * 6 + column]).sum())
            .collect();
        for (got, wanted) in map.iter().zip([0.0, -2.0, 300.0, 2.0, 0.0, 40.0]) {
            assert!((got - wanted).abs() < 1e-9, "{map:?}");
        }
    }
}
