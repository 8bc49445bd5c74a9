//! Narrow convolutions side by side are one, whose channels are split:
//! `conv(x, w1), conv(x, w2) == split(conv(x, [w1; w2]))`, and the same for convolutions of each
//! channel by itself behind a split. Detectors end in such heads.
//!
//! A kernel works on whole vectors of output channels, so that a convolution to one channel takes
//! as long as one to eight or sixteen, and reads its image all the same.

use hetra_ir::{Attrs, Dim, Node, Type, ValueId};
use hetra_tensor::{DType, Tensor};

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static SIBLINGS: Pass = Pass {
    name: "siblings",
    doc: "Does convolutions of one image to few channels, and those of single channels behind a \
          Split, as one.",
    run: |ed| {
        ed.sweep(beside);
        ed.sweep(behind);
    },
};

/// Fewer output channels do not fill a vector of the widest kernels.
const CHANNELS_MIN: usize = 16;

/// Fewer products in a sum are no more than what it takes to split the results.
const TERMS_MIN: usize = 16;

const CONVS: &[&str] = &["Conv", "com.microsoft.FusedConv"];

/// A convolution with constant weights and nothing but an activation behind its bias.
struct Conv {
    at: usize,
    y: ValueId,
    weights: Tensor,
    bias: Option<Tensor>,
    groups: usize,
    /// All but the number of groups.
    attrs: Attrs,
}

impl Conv {
    fn of(ed: &Editor<'_>, at: usize) -> Option<Conv> {
        let node = ed.node(at);
        if !CONVS.iter().any(|op| ed.is(at, op)) || node.input(3).is_some() {
            return None;
        }
        let y = ed.sole_output(at)?;
        let weights = ed.constant(node.input(1)?)?.clone();
        let bias = match node.input(2) {
            Some(bias) => Some(ed.constant(bias)?.clone()),
            None => None,
        };
        let channels = *weights.shape().first()?;
        let plain = |bias: &Tensor| bias.shape() == [channels] && bias.dtype() == DType::F32;
        // Without weights nothing bounds what a file says of channels.
        let known = weights.dtype() == DType::F32 && !weights.is_empty();
        let fits = known && bias.as_ref().is_none_or(plain);
        let groups = usize::try_from(node.attrs.int_or("group", 1).ok()?).ok()?;
        let ranks = ed.rank(y) == Some(weights.rank()) && weights.rank() > 2;
        let mut attrs = node.attrs.clone();
        drop(attrs.take("group"));
        (fits && ranks).then_some(Conv { at, y, weights, bias, groups, attrs })
    }

    fn channels(&self) -> usize {
        self.weights.shape()[0]
    }

    fn is_narrow(&self) -> bool {
        self.channels() < CHANNELS_MIN
    }

    /// Whether each channel of the output is of one of the input.
    fn is_depthwise(&self) -> bool {
        self.groups == self.channels() && self.weights.shape()[1] == 1
    }

    /// Whether one convolution can do both.
    fn goes_with(&self, other: &Conv, ed: &Editor<'_>) -> bool {
        self.attrs == other.attrs
            && self.weights.shape()[1..] == other.weights.shape()[1..]
            && ed.node(self.at).op == ed.node(other.at).op
            && ed.node(self.at).version == ed.node(other.at).version
    }
}

/// Does the convolutions of an image, one of which is the node at `at`, as one.
fn beside(ed: &mut Editor<'_>, at: usize) -> bool {
    let suits = |conv: &Conv| {
        let terms: usize = conv.weights.shape()[1..].iter().product();
        conv.groups == 1 && conv.is_narrow() && terms >= TERMS_MIN
    };
    let Some(first) = Conv::of(ed, at).filter(suits) else { return false };
    let Some(x) = ed.input(at, 0) else { return false };
    let others = ed.users(x).iter().filter(|&&user| user != at && ed.input(user, 0) == Some(x));
    let others = others.filter_map(|&user| Conv::of(ed, user)).filter(suits);
    let mut all: Vec<Conv> = others.filter(|other| first.goes_with(other, ed)).collect();
    all.push(first);
    all.sort_by_key(|conv| conv.at);
    // A node that reads the value twice is its user twice.
    all.dedup_by_key(|conv| conv.at);
    // Their first one stands for all, so that they are tried once.
    all.len() > 1 && all[0].at == at && saves(&all) && join(ed, x, &all, 1)
}

/// Puts one convolution before a split in the place of one behind each of its parts.
fn behind(ed: &mut Editor<'_>, at: usize) -> bool {
    if !ed.is(at, "Split") {
        return false;
    }
    let Some(x) = ed.input(at, 0) else { return false };
    let second = ed.node(at).attrs.int_or("axis", 0).is_ok_and(|axis| axis == 1);
    let part = |part: &Option<ValueId>| {
        let conv = Conv::of(ed, ed.only_user((*part)?)?)?;
        let whole = ed.input(conv.at, 0) == *part && conv.is_depthwise();
        whole.then_some(conv)
    };
    let parts: Option<Vec<Conv>> = ed.node(at).outputs.iter().map(part).collect();
    let Some(all) = parts.filter(|parts| second && parts.len() > 1) else { return false };
    if !saves(&all) || !all.iter().all(|conv| conv.goes_with(&all[0], ed)) {
        return false;
    }
    let groups = all.iter().map(Conv::channels).sum();
    join(ed, x, &all, groups)
}

/// Whether their channels fill fewer vectors together than apart.
fn saves(all: &[Conv]) -> bool {
    let apart: usize = all.iter().map(|conv| conv.channels().div_ceil(CHANNELS_MIN)).sum();
    let channels: usize = all.iter().map(Conv::channels).sum();
    channels.div_ceil(CHANNELS_MIN) < apart
}

/// One convolution of `x` and a split in the place of all these.
fn join(ed: &mut Editor<'_>, x: ValueId, all: &[Conv], groups: usize) -> bool {
    let (first, last) = (&all[0], all[all.len() - 1].at);
    let channels: usize = all.iter().map(Conv::channels).sum();
    let Some(ty) = ed.ty(first.y).as_tensor().cloned() else { return false };
    let Some(mut dims) = ty.shape else { return false };
    dims[1] = Dim::Known(channels);
    let name = ed.graph().value(first.y).name.clone();
    let mut shape = first.weights.shape().to_vec();
    shape[0] = channels;
    let weights = all.iter().map(|conv| (conv.weights.len(), Some(&conv.weights)));
    let biases = all.iter().map(|conv| (conv.channels(), conv.bias.as_ref()));
    let both = stacked(&shape, weights).zip(stacked(&[channels], biases));
    let Some((weights, bias)) = both else { return false };
    let w = ed.add_constant(&format!("{name}.weights"), weights);
    let b = ed.add_constant(&format!("{name}.bias"), bias);
    let y = ed.value(&format!("{name}.all"), Type::shaped(ty.dtype, dims));
    let mut conv = ed.node(first.at).clone();
    (conv.inputs, conv.outputs) = (vec![Some(x), Some(w), Some(b)], vec![Some(y)]);
    conv.attrs = first.attrs.clone();
    if groups > 1 {
        conv.attrs.set("group", groups as i64);
    }
    let lengths: Vec<i64> = all.iter().map(|conv| conv.channels() as i64).collect();
    let lengths = ed.add_constant(&format!("{name}.channels"), Tensor::vector(&lengths));
    let outputs: Vec<ValueId> = all.iter().map(|conv| conv.y).collect();
    let split = Node::new("Split", &[y, lengths], &outputs).with("axis", 1i64);
    let replaced: Vec<usize> = all.iter().map(|conv| conv.at).collect();
    let label = ed.label(first.at);
    let refused = ed.unclaimed(&conv, &replaced).or_else(|| ed.unclaimed(&split, &replaced));
    if let Some(why) = refused {
        ed.miss(first.at, &format!("{} narrow convolutions: {why}", all.len()));
        return false;
    }
    replaced.iter().for_each(|&at| ed.remove(at));
    // Behind the last of them, so that all that feeds them is there.
    ed.insert(last, conv);
    ed.insert(last, split);
    ed.note(format!("joined {} narrow convolutions at {label}", all.len()));
    true
}

/// Tensors one after the other, each of so many numbers; zeros where there is none.
fn stacked<'a>(
    shape: &[usize],
    parts: impl Iterator<Item = (usize, Option<&'a Tensor>)>,
) -> Option<Tensor> {
    let mut whole = Tensor::zeros(DType::F32, shape).ok()?;
    let mut rest = whole.as_mut_slice::<f32>().ok()?;
    for (len, part) in parts {
        let (here, behind) = rest.split_at_mut(len);
        if let Some(part) = part {
            here.copy_from_slice(part.as_slice::<f32>().ok()?);
        }
        rest = behind;
    }
    Some(whole)
}
