//! Blocks of pixels that become channels before a convolution are windows of a larger one:
//! `conv(space_to_depth(x, b), w) == conv(x, v)` with steps `b` times as long, where `v` has the
//! weights of a block's pixels side by side. So images are not cut apart and joined, and the
//! products are the same.

use hetra_ir::{Attr, Dim, Node, ValueId};
use hetra_tensor::{DType, Tensor, from_f64, to_f64};

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static SPACE_TO_DEPTH: Pass = Pass {
    name: "space_to_depth",
    doc: "Joins a Conv and the SpaceToDepth before it, or the slices with steps that spell one.",
    run: |ed| ed.sweep(join),
};

/// Most numbers that weights may become.
const WEIGHTS_MAX: usize = 1 << 24;

/// Pixels of a block, as channels in the order of `places`.
struct Blocks {
    x: ValueId,
    /// Height and width of a block.
    size: [usize; 2],
    /// Which pixel of the block each run of channels is of.
    places: Vec<[usize; 2]>,
}

fn join(ed: &mut Editor<'_>, at: usize) -> bool {
    let op = ed.node(at).op.clone();
    if op != "Conv" && op != "com.microsoft.FusedConv" {
        return false;
    }
    let Some(image) = ed.input(at, 0) else { return false };
    let Some(maker) = ed.producer(image) else { return false };
    let Some(blocks) = joined(ed, maker).or_else(|| moved(ed, maker)) else { return false };
    let Some((node, weights)) = larger(ed, at, &blocks) else { return false };
    let what = format!("{} + {op}", ed.node(maker).op);
    if let Some(why) = ed.kept(image) {
        ed.miss(at, &format!("{what}: {why}"));
        return false;
    }
    let name = ed.input(at, 1).map_or(String::new(), |id| ed.graph().value(id).name.clone());
    let weights = ed.add_constant(&format!("{name}.blocks"), weights);
    let mut inputs = node.inputs.clone();
    (inputs[0], inputs[1]) = (Some(blocks.x), Some(weights));
    ed.fuse(at, Node { inputs, ..node }, &[maker], &what)
}

/// A SpaceToDepth.
fn moved(ed: &Editor<'_>, at: usize) -> Option<Blocks> {
    if !ed.is(at, "SpaceToDepth") {
        return None;
    }
    let block = usize::try_from(*ed.node(at).attrs.int("blocksize").ok()?).ok()?;
    if !(1..=16).contains(&block) {
        return None;
    }
    let places = (0..block * block).map(|i| [i / block, i % block]).collect();
    Some(Blocks { x: ed.input(at, 0)?, size: [block; 2], places })
}

/// A Concat along the channels of all the pixels of blocks, each a Slice, or one of another.
fn joined(ed: &Editor<'_>, at: usize) -> Option<Blocks> {
    if !ed.is(at, "Concat") {
        return None;
    }
    let axis = *ed.node(at).attrs.int("axis").ok()?;
    let parts: Vec<Part> = ed.node(at).uses().map(|part| steps(ed, part)).collect::<Option<_>>()?;
    let &Part { x, size, .. } = parts.first()?;
    let places: Vec<[usize; 2]> = parts.iter().map(|part| part.place).collect();
    let one = parts.iter().all(|part| (part.x, part.size) == (x, size));
    let mut all = places.clone();
    all.sort_unstable();
    let every = all.into_iter().eq((0..size[0]).flat_map(|y| (0..size[1]).map(move |x| [y, x])));
    let channels = axis == 1 || axis == -3;
    (one && every && channels && ed.rank(x)? == 4).then_some(Blocks { x, size, places })
}

/// What is left of an image by slices with steps.
#[derive(Clone, Copy)]
struct Part {
    x: ValueId,
    /// The steps along height and width.
    size: [usize; 2],
    /// Where they begin.
    place: [usize; 2],
}

/// Most slices behind each other.
const SLICES_MAX: usize = 2;

fn steps(ed: &Editor<'_>, value: ValueId) -> Option<Part> {
    let mut part = Part { x: value, size: [1; 2], place: [0; 2] };
    for _ in 0..SLICES_MAX {
        let Some(slice) = ed.made_by(part.x, "Slice") else { break };
        let node = ed.node(slice);
        let [starts, ends] = [1, 2].map(|i| node.input(i).and_then(|id| ed.ints(id)));
        let (starts, ends) = (starts?, ends?);
        let axes = match node.input(3) {
            Some(axes) => ed.ints(axes)?,
            None => (0..starts.len() as i64).collect(),
        };
        let steps = node.input(4).map_or(Some(vec![1; starts.len()]), |steps| ed.ints(steps))?;
        let x = node.input(0)?;
        if ed.rank(x)? != 4 || [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return None;
        }
        for (i, &axis) in axes.iter().enumerate() {
            let (step, start) = (usize::try_from(steps[i]).ok()?, usize::try_from(starts[i]).ok()?);
            let axis = hetra_ops::resolve_axis(axis, 4).ok()?.checked_sub(2)?;
            let far = match &ed.ty(x).dims()?[axis + 2] {
                Dim::Known(extent) => ends[i] >= *extent as i64,
                _ => ends[i] >= i64::from(i32::MAX),
            };
            // One step for each axis, and the whole axis.
            if !far || start >= step || step > 16 || part.size[axis] != 1 {
                return None;
            }
            (part.size[axis], part.place[axis]) = (step, start);
        }
        part.x = x;
    }
    (part.size != [1; 2]).then_some(part)
}

/// The convolution of the image that blocks are of, with its weights.
fn larger(ed: &Editor<'_>, at: usize, blocks: &Blocks) -> Option<(Node, Tensor)> {
    let mut node = ed.node(at).clone();
    let weights = ed.constant(node.input(1)?).filter(|w| w.dtype() == DType::F32)?;
    let &[m, channels, kh, kw] = weights.shape() else { return None };
    let parts = blocks.places.len();
    let ints = |name: &str, usual: &[i64]| {
        Some(node.attrs.ints_opt(name).ok()?.cloned().unwrap_or(usual.to_vec()))
    };
    let plain = node.attrs.int_or("group", 1).ok()? == 1
        && ints("dilations", &[1, 1])? == [1, 1]
        && ["NOTSET", ""].contains(&node.attrs.str_or("auto_pad", "NOTSET").ok()?);
    let (strides, pads) = (ints("strides", &[1; 2])?, ints("pads", &[0; 4])?);
    let numbers = weights.len();
    if !plain || channels % parts != 0 || strides.len() != 2 || pads.len() != 4 {
        return None;
    }
    if numbers == 0 || numbers > WEIGHTS_MAX {
        return None;
    }
    let (c, [bh, bw]) = (channels / parts, blocks.size);
    let (high, wide) = (kh * bh, kw * bw);
    let from = to_f64(weights).ok()?;
    let mut to = vec![0.0; numbers];
    for (i, &value) in from.iter().enumerate() {
        let (x, y, channel, output) =
            (i % kw, i / kw % kh, i / (kw * kh) % channels, i / (kw * kh * channels));
        let [dy, dx] = blocks.places[channel / c];
        let row = (output * c + channel % c) * high + y * bh + dy;
        to[row * wide + x * bw + dx] = value;
    }
    let by = |values: &[i64]| {
        let longer =
            values.iter().enumerate().map(|(i, v)| v.checked_mul(blocks.size[i % 2] as i64));
        longer.collect::<Option<Vec<i64>>>()
    };
    let (strides, pads) = (by(&strides)?, by(&pads)?);
    node.attrs.set("strides", Attr::Ints(strides));
    node.attrs.set("pads", Attr::Ints(pads));
    node.attrs.set("kernel_shape", Attr::Ints(vec![high as i64, wide as i64]));
    Some((node, from_f64(DType::F32, &[m, c, high, wide], &to).ok()?))
}
