//! Pictures into what models read.

use hetra_ir::{Attr, Node, ValueId};
use hetra_tensor::DType;

use crate::file::{PipelineError, floats};
use crate::steps::StepRow;
use crate::{Joiner, Params};

/// Keeps the aspect.
pub(crate) static LETTERBOX: StepRow = StepRow {
    name: "letterbox",
    doc: "A picture at the size of a model, its aspect kept, the rest filled on the right and below",
    takes: "of, size = [height, width], fill, and as all pictures: mean, scale (three numbers, of \
            values from 0 to 255), reverse (blue first)",
    gives: "the picture; .factor, what its places are multiplied by to be those of `of`",
    make: |joiner, params| fit(joiner, params, true),
};

/// Changes the aspect.
pub(crate) static STRETCH: StepRow = StepRow {
    name: "stretch",
    doc: "A picture at the size of a model, its aspect changed",
    takes: "of, size = [height, width], and as all pictures: mean, scale, reverse",
    gives: "the picture; .factor, what its places are multiplied by to be those of `of`",
    make: |joiner, params| fit(joiner, params, false),
};

fn fit(joiner: &mut Joiner<'_>, params: &Params<'_>, keep: bool) -> Result<(), PipelineError> {
    let of = joiner.find(params.text("of")?).map_err(|reason| params.fault(reason))?;
    let [h, w] = params.size()?;
    // Pixels of the picture for each of the model, across and down.
    let shape = joiner.op("Shape", &[of]);
    let places = joiner.ints(&[1, 0]);
    let shape = joiner.op("Gather", &[shape, places]);
    let to = i64::from(DType::F32.onnx());
    let shape = joiner.node(Node::new("Cast", &[shape], &[]).with("to", to));
    let size = joiner.constant(floats(&[2], &[w as f64, h as f64])?);
    let mut factor = joiner.op("Div", &[shape, size]);
    if keep {
        let larger = Node::new("ReduceMax", &[factor], &[]).with("keepdims", 1i64);
        let larger = joiner.node(larger);
        let twice = joiner.ints(&[2]);
        factor = joiner.op("Expand", &[larger, twice]);
    }
    // The middle of a pixel is half a pixel from where it begins.
    let spread = joiner
        .constant(floats(&[2, 6], &[1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.5])?);
    let map = joiner.op("MatMul", &[factor, spread]);
    let half = joiner.constant(floats(&[6], &[0.0, 0.0, 0.5, 0.0, 0.0, 0.5])?);
    let map = joiner.op("Sub", &[map, half]);
    let shape = joiner.ints(&[1, 2, 3]);
    let maps = joiner.op("Reshape", &[map, shape]);
    let picture = warp(joiner, params, of, maps, [h, w])?;
    joiner.name(params, "", picture, false)?;
    joiner.name(params, "factor", factor, false)
}

/// Patches of a picture as a step wants them: `mean`, `scale`, `reverse`, `fill`.
pub(crate) fn warp(
    joiner: &mut Joiner<'_>,
    params: &Params<'_>,
    of: ValueId,
    maps: ValueId,
    size: [usize; 2],
) -> Result<ValueId, PipelineError> {
    let node = Node::new("hetra.Warp", &[of, maps], &[]);
    warp_by(joiner, params, node, size)
}

/// The same at a size that a value says; `least` is what it is at least.
pub(crate) fn warp_to(
    joiner: &mut Joiner<'_>,
    params: &Params<'_>,
    (of, maps): (ValueId, ValueId),
    least: [usize; 2],
    size: ValueId,
) -> Result<ValueId, PipelineError> {
    let node = Node::new("hetra.Warp", &[of, maps, size], &[]);
    warp_by(joiner, params, node, least)
}

fn warp_by(
    joiner: &mut Joiner<'_>,
    params: &Params<'_>,
    node: Node,
    [h, w]: [usize; 2],
) -> Result<ValueId, PipelineError> {
    let mut node = node
        .with("size", vec![h as i64, w as i64])
        .with("reverse", i64::from(params.flag("reverse")?))
        .with("fill", params.number("fill", 0.0)? as f32);
    for key in ["mean", "scale"] {
        if let Some(three) = params.numbers::<3>(key)? {
            if key == "scale" && three.contains(&0.0) {
                return Err(params.fault("`scale`: 0 leaves nothing of a channel".to_string()));
            }
            node.attrs.set(key, Attr::Floats(three.iter().map(|&number| number as f32).collect()));
        }
    }
    Ok(joiner.node(node))
}
