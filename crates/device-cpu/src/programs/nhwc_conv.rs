//! The forms of a convolution with channels last: direct, or Winograd where it is faster for the
//! size of the image. Only the form that a size asks for is packed.

use hetra_device::Part;
use hetra_ir::Node;
use hetra_ops::{FIRST_INPUT_PLAIN, OpError};
use hetra_tensor::Tensor;

use super::conv::{Packed, Packing, fixed_shape};
use hetra_cpu_kernels::activation::Activation;
use hetra_cpu_kernels::conv::ConvShape;
use hetra_cpu_kernels::isa::isa;
use hetra_cpu_kernels::nhwc::PackedNhwc;
use hetra_cpu_kernels::winograd::{PackedWinograd, Square, pays, takes};

impl Packing for PackedNhwc {
    fn shape(&self) -> &ConvShape {
        PackedNhwc::shape(self)
    }

    fn pack(shape: ConvShape, weights: &[f32], bias: Option<&[f32]>, act: Activation) -> Self {
        PackedNhwc::new(isa(), shape, weights, bias, act)
    }
}

/// Weights for tiles of 2 by 2 or of 4 by 4 outputs.
struct Tiled<const SIDE: usize>(PackedWinograd);

impl<const SIDE: usize> Packing for Tiled<SIDE> {
    fn shape(&self) -> &ConvShape {
        self.0.shape()
    }

    fn pack(shape: ConvShape, weights: &[f32], bias: Option<&[f32]>, act: Activation) -> Self {
        const { assert!(SIDE == 2 || SIDE == 4, "no such tiles") };
        let square = if SIDE == 2 { Square::Two } else { Square::Four };
        Tiled(PackedWinograd::new(isa(), square, shape, weights, bias, act))
    }
}

/// The images of one call: the batch, the height and the width.
pub(super) struct Images<'a> {
    pub(super) x: &'a [f32],
    /// Whether `x` has its channels first.
    pub(super) planes: bool,
    pub(super) size: (usize, usize, usize),
    pub(super) residual: Option<&'a [f32]>,
}

/// A convolution in all forms that were asked for so far.
pub(super) struct Forms {
    direct: Packed<PackedNhwc>,
    two: Packed<Tiled<2>>,
    four: Packed<Tiled<4>>,
}

impl Forms {
    /// Packs constant weights, if the form is known.
    pub(super) fn of(part: &Part<'_>, node: &Node) -> Option<Self> {
        let forms = Forms {
            direct: Packed::open(part, node)?,
            two: Packed::open(part, node)?,
            four: Packed::open(part, node)?,
        };
        let Some(shape) = fixed_shape(part, node) else { return Some(forms) };
        if node.attrs.has(FIRST_INPUT_PLAIN) {
            forms.direct.prepare(part, node)?;
            return Some(forms);
        }
        let image = image(part, node);
        match image.and_then(|(h, w)| pays(&shape, h, w)) {
            // Which form it will be is not known yet.
            None if image.is_none() && takes(&shape) => {}
            None => forms.direct.prepare(part, node)?,
            Some(Square::Two) => forms.two.prepare(part, node)?,
            Some(Square::Four) => forms.four.prepare(part, node)?,
        }
        Some(forms)
    }

    /// The caller has checked that the kernel fits the images and `out` the result.
    pub(super) fn run(
        &self,
        shape: &ConvShape,
        (weights, bias): (&Tensor, Option<&Tensor>),
        images: &Images<'_>,
        out: &mut [f32],
    ) -> Result<(), OpError> {
        let &Images { x, planes, size, residual } = images;
        match pays(shape, size.1, size.2) {
            _ if planes => {
                self.direct.pack(shape, weights, bias)?.run_planes(x, size, residual, out);
            }
            None => self.direct.pack(shape, weights, bias)?.run(x, size, residual, out),
            Some(Square::Two) => self.two.pack(shape, weights, bias)?.0.run(x, size, residual, out),
            Some(Square::Four) => {
                self.four.pack(shape, weights, bias)?.0.run(x, size, residual, out);
            }
        }
        Ok(())
    }
}

/// Height and width of the images, if they are known.
fn image(part: &Part<'_>, node: &Node) -> Option<(usize, usize)> {
    match *part.types[node.input(0)?.index()].known_shape()? {
        [_, h, w, _] => Some((h, w)),
        [_, w, _] => Some((1, w)),
        _ => None,
    }
}
