//! Convolution: packs constant weights once, and once more for each padding that `auto_pad` makes.

use std::sync::{Arc, Mutex, PoisonError};

use hetra_device::{Call, Part, Program};
use hetra_ir::{Attrs, Node};
use hetra_ops::{Compute, ConvGeometry, Epilogue, OpError};
use hetra_tensor::{DType, Tensor};

use super::extents::pair;
use super::{Compile, Form, Outcome, conv_volume, one, program};
use hetra_cpu_base::activation::{Activation, Curve};
use hetra_cpu_base::isa::isa;
use hetra_cpu_kernels::conv::plane_len;
use hetra_cpu_kernels::conv::{ConvShape, PackedConv};

pub(super) static OPS: &[(&str, Compile)] =
    &[("Conv", compile), ("com.microsoft.FusedConv", compile)];

/// Most paddings that stay packed for one node.
const PACKINGS_MAX: usize = 8;

/// The kernel's form of an activation.
pub(super) fn activation(node: &Node) -> Option<Activation> {
    use hetra_ops::FusedActivation as Op;
    let epilogue = Epilogue::of(node).ok()?;
    let plain = match epilogue.activation {
        None => Activation::None,
        Some(Op::Relu) => Activation::Relu,
        Some(Op::LeakyRelu { alpha }) => Activation::LeakyRelu(alpha),
        Some(Op::Sigmoid) => Activation::Sigmoid,
        Some(Op::Tanh) => Activation::Tanh,
        Some(Op::Clip { min, max }) => Activation::Clip(min, max),
        Some(Op::HardSigmoid { alpha, beta }) => Activation::HardSigmoid(alpha, beta),
        Some(Op::HardSwish) => Activation::HardSwish,
        Some(Op::Silu) => Activation::Silu,
        Some(Op::Gelu) => Activation::Gelu,
    };
    if !epilogue.is_affine() {
        return Some(plain);
    }
    let curve = Curve::ALL.into_iter().find(|curve| curve.activation() == plain)?;
    Some(Activation::Scaled(curve, epilogue.scale, epilogue.shift))
}

/// Weights in the order of a kernel.
pub(super) trait Packing: Sized + Send + Sync + 'static {
    /// The shape they were packed for.
    fn shape(&self) -> &ConvShape;
    /// Packs them; the caller has checked that the sizes fit. Families take only nodes whose
    /// `compute` their kernels have.
    fn pack(
        shape: ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
        act: Activation,
        compute: Compute,
    ) -> Self;
}

impl Packing for PackedConv {
    fn shape(&self) -> &ConvShape {
        PackedConv::shape(self)
    }

    fn pack(
        shape: ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
        act: Activation,
        _: Compute,
    ) -> Self {
        PackedConv::new(isa(), shape, weights, bias, act)
    }
}

/// Weights with every packing made so far.
pub(super) struct Packed<K> {
    packings: Mutex<Vec<Arc<K>>>,
    act: Activation,
    pub(super) compute: Compute,
    /// Whether packings are kept: else each call packs anew.
    pub(super) constant: bool,
}

pub(super) fn takes(form: &Form<'_>) -> bool {
    // One to three spatial axes.
    let ranks = |index: usize| form.rank(index).is_none_or(|rank| (3..=5).contains(&rank));
    let f32 = Compute::of(&form.node.attrs).is_ok_and(|compute| compute == Compute::F32);
    f32 && activation(form.node).is_some() && ranks(0) && ranks(1)
}

fn compile(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let weights = node.input(1).map(|id| &part.types[id.index()]);
    if weights.and_then(|ty| ty.dims()).is_some_and(|dims| dims.len() == 5) {
        return conv_volume::compile(part, node);
    }
    let packed = Packed::<PackedConv>::of(part, node)?;
    program(&kernel_name(part, node), move |call| packed.run(call))
}

/// What products are called in profiles: by more than their name if operands are rounded.
pub(super) fn rounding_name(name: &str, compute: Compute) -> String {
    if compute == Compute::Bf16 { format!("{name} bf16") } else { name.to_string() }
}

/// What a convolution is called in profiles.
pub(super) fn kernel_name(part: &Part<'_>, node: &Node) -> String {
    let weights = node.input(1).map(|id| &part.types[id.index()]);
    let shape = weights.and_then(|ty| ty.known_shape());
    match shape.as_deref() {
        Some([_, 1, rest @ ..]) if depthwise(node) => format!("depthwise {}", join(rest)),
        Some([_, _, rest @ ..]) => format!("conv {}", join(rest)),
        _ => "conv".to_string(),
    }
}

fn depthwise(node: &Node) -> bool {
    node.attrs.int_or("group", 1).is_ok_and(|group| group > 1)
}

pub(super) fn join(kernel: &[usize]) -> String {
    kernel.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// The shape of a convolution whose padding does not depend on the size of its input.
pub(super) fn fixed_shape(part: &Part<'_>, node: &Node) -> Option<ConvShape> {
    let weights = part.constant(node, 1).filter(|w| w.dtype() == DType::F32)?;
    fixed_by(node, weights.shape())
}

/// The same of a convolution with weights of this shape.
pub(super) fn fixed_by(node: &Node, weights: &[usize]) -> Option<ConvShape> {
    let auto = node.attrs.str_or("auto_pad", "NOTSET").ok()?;
    if auto != "NOTSET" || !(3..=4).contains(&weights.len()) {
        return None;
    }
    // Any input large enough for the kernel resolves the same padding.
    let mut input = vec![1 << 20; weights.len()];
    let group = usize::try_from(node.attrs.int_or("group", 1).ok()?).ok()?;
    input[0] = 1;
    input[1] = weights[1].checked_mul(group)?;
    ConvGeometry::resolve(&node.attrs, &input, weights).ok().and_then(|g| shape_of(&g))
}

/// The kernel's form of a 1-D or 2-D convolution.
pub(super) fn shape_of(g: &ConvGeometry) -> Option<ConvShape> {
    let w = &g.window;
    let kernel = pair(&w.kernel, 1)?;
    let (begin, end) = (pair(&w.pads_begin, 0)?, pair(&w.pads_end, 0)?);
    Some(ConvShape {
        c: g.channels_in,
        m: g.channels_out,
        kh: kernel[0],
        kw: kernel[1],
        stride: pair(&w.strides, 1)?,
        dilation: pair(&w.dilations, 1)?,
        pads: [begin[0], begin[1], end[0], end[1]],
        groups: g.groups,
    })
}

/// Most bytes of scratch that a kernel may ask for: borders and kernels come from files. Beyond it
/// the reference runs, which needs none.
const SCRATCH_BYTES_MAX: usize = 1 << 30;
/// Largest stride and most taps of a window that the kernels take.
const WINDOW_MAX: usize = 1 << 16;

/// Whether floats of these extents, all together, stay within the limit for scratch.
pub(super) fn scratch_fits(extents: &[usize]) -> bool {
    let count = extents.iter().try_fold(4usize, |product, &extent| product.checked_mul(extent));
    count.is_some_and(|bytes| bytes <= SCRATCH_BYTES_MAX)
}

/// Whether the copies of `channels` planes from which outputs of this size are made fit, and the
/// window is one that kernels take.
pub(super) fn window_fits(s: &ConvShape, channels: usize, out: (usize, usize)) -> bool {
    // For each tap there is an offset, too.
    let each = |plane: usize| plane.max(2 * s.kh.saturating_mul(s.kw).min(WINDOW_MAX));
    plane_len(s, out).is_some_and(|plane| scratch_fits(&[channels.max(1), each(plane)]))
        && window_taken(s)
}

/// Whether the window is one that kernels take.
pub(super) fn window_taken(s: &ConvShape) -> bool {
    s.kh.checked_mul(s.kw).is_some_and(|taps| taps <= WINDOW_MAX)
        && s.stride.iter().all(|&step| step <= WINDOW_MAX)
}

/// Whether a kernel may run this convolution on an image of `h` by `w`.
pub(super) fn fits(s: &ConvShape, h: usize, w: usize) -> bool {
    s.out(h, w).is_some_and(|out| window_fits(s, s.c / s.groups.max(1), out))
}

/// Whether a kernel makes the output that the operator says. They differ only for empty ones,
/// which the reference does, as it does images that are empty themselves.
pub(super) fn makes(geometry: &ConvGeometry, out: Option<(usize, usize)>) -> bool {
    let wanted = pair(&geometry.output, 1);
    let image = geometry.channels_in > 0 && !geometry.input.contains(&0);
    image && out.is_some_and(|(h, w)| h > 0 && w > 0 && wanted == Some([h, w]))
}

impl<K: Packing> Packed<K> {
    /// The weights of a convolution, packed now if they are constant and nothing but the size of
    /// the image is open.
    pub(super) fn of(part: &Part<'_>, node: &Node) -> Option<Self> {
        let packed = Packed::open(part, node)?;
        packed.prepare(part, node)?;
        Some(packed)
    }

    /// The weights of a convolution, packed when they are first used.
    pub(super) fn open(part: &Part<'_>, node: &Node) -> Option<Self> {
        let constant = [1, 2]
            .into_iter()
            .all(|index| node.input(index).is_none() || part.constant(node, index).is_some());
        let (act, compute) = (activation(node)?, Compute::of(&node.attrs).ok()?);
        Some(Packed { packings: Mutex::default(), compute, act, constant })
    }

    /// Packs what is constant, if nothing but the size of the image is open; `None` where the
    /// kernel cannot take it.
    pub(super) fn prepare(&self, part: &Part<'_>, node: &Node) -> Option<()> {
        if self.constant
            && let Some(shape) = fixed_shape(part, node)
        {
            let weights = part.constant(node, 1)?;
            self.pack(&shape, weights, part.constant(node, 2)).ok()?;
        }
        Some(())
    }

    /// The packing for this shape.
    pub(super) fn pack(
        &self,
        shape: &ConvShape,
        weights: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Arc<K>, OpError> {
        let packings = || self.packings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = packings().iter().find(|p| p.shape() == shape) {
            return Ok(found.clone());
        }
        let bias = bias.map(Tensor::as_slice::<f32>).transpose()?;
        if let Some(bias) = bias.filter(|bias| bias.len() != shape.m) {
            return Err(OpError::input(2, format!("{} numbers", shape.m), bias.len().to_string()));
        }
        // The packing is kept, so what is read for it need not be.
        let own = weights.unloaded().filter(|_| self.constant);
        let weights = own.as_ref().unwrap_or(weights).as_slice::<f32>()?;
        // Packing is parallel: a thread that waits in it may take up another run, which comes here
        // again. So the lock is not held meanwhile; at worst the same is packed twice.
        let packed = Arc::new(K::pack(*shape, weights, bias, self.act, self.compute));
        own.iter().for_each(Tensor::release);
        if self.constant {
            let mut packings = packings();
            if packings.len() >= PACKINGS_MAX {
                packings.remove(0);
            }
            packings.push(packed.clone());
        }
        Ok(packed)
    }

    /// How many packings are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.packings.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Packed<PackedConv> {
    fn run(&self, call: &mut Call<'_>) -> Outcome {
        let (x, w) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
        let bias = call.tensor_opt(2).cloned();
        let residual = call.tensor_opt(3).cloned();
        let floats = [Some(&x), Some(&w), bias.as_ref(), residual.as_ref()];
        if floats.into_iter().flatten().any(|t| t.dtype() != DType::F32) {
            return Ok(None);
        }
        let geometry = ConvGeometry::resolve(attrs(call), x.shape(), w.shape())?;
        let Some(shape) = shape_of(&geometry) else { return Ok(None) };
        if bias.as_ref().is_some_and(|bias| bias.len() != shape.m) {
            return Ok(None);
        }
        let output = geometry.output_shape();
        if residual.as_ref().is_some_and(|z| *z.shape() != *output) {
            return Ok(None);
        }
        let Some([h, w_in]) = pair(&geometry.input, 1) else { return Ok(None) };
        if !fits(&shape, h, w_in) || !makes(&geometry, shape.out(h, w_in)) {
            return Ok(None);
        }
        let packed = self.pack(&shape, &w, bias.as_ref())?;
        let mut out = call.output(0, DType::F32, &output)?;
        let residual = residual.as_ref().map(Tensor::as_slice::<f32>).transpose()?;
        let size = (geometry.batch, h, w_in);
        packed.run(x.as_slice()?, size, residual, out.as_mut_slice()?);
        one(out)
    }
}

pub(super) fn attrs<'a>(call: &Call<'a>) -> &'a Attrs {
    &call.node.attrs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows are copied as whole phases: a step of 65536 makes 65536 numbers of a column of one.
    #[test]
    fn copies_much_larger_than_their_image_are_refused() {
        let column = ConvShape {
            c: 1,
            m: 1,
            kh: 1,
            kw: 1,
            stride: [1, 1 << 16],
            dilation: [1, 1],
            pads: [0; 4],
            groups: 1,
        };
        assert!(fits(&column, 1 << 10, 1));
        assert!(!fits(&column, 1 << 20, 1));
        let far = ConvShape { kh: 255, kw: 255, dilation: [257, 257], ..column };
        assert!(!window_fits(&far, 1, (1, 1)));
    }
}
