//! The forms of a convolution with channels last: direct, or Winograd where it is faster for the
//! size of the image, as a schedule says or as is reckoned. Only the form that a size asks for is
//! packed.

use std::sync::{Mutex, PoisonError};

use hetra_device::Part;
use hetra_ir::Node;
use hetra_ops::{Compute, FIRST_INPUT_PLAIN, OpError};
use hetra_tensor::{DType, Tensor};

use super::Schedules;
use super::conv::{Packed, Packing, activation, fixed_shape};
use super::nhwc_task::{self, ConvTask, Way};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_base::numbers::{Numbers, NumbersOut};
use hetra_cpu_kernels::conv::ConvShape;
use hetra_cpu_kernels::nhwc::PackedNhwc;
use hetra_cpu_kernels::winograd::{PackedWinograd, Square, takes};

impl Packing for PackedNhwc {
    fn shape(&self) -> &ConvShape {
        PackedNhwc::shape(self)
    }

    fn pack(
        shape: ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
        act: Activation,
        compute: Compute,
    ) -> Self {
        match compute {
            Compute::F32 => PackedNhwc::new(isa(), shape, weights, bias, act),
            Compute::Bf16 => PackedNhwc::bf16(isa(), shape, weights, bias, act),
        }
    }
}

/// Weights for tiles of 2 by 2 or of 4 by 4 outputs.
struct Tiled<const SIDE: usize>(PackedWinograd);

impl<const SIDE: usize> Packing for Tiled<SIDE> {
    fn shape(&self) -> &ConvShape {
        self.0.shape()
    }

    fn pack(
        shape: ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
        act: Activation,
        compute: Compute,
    ) -> Self {
        const { assert!(SIDE == 2 || SIDE == 4, "no such tiles") };
        let square = if SIDE == 2 { Square::Two } else { Square::Four };
        let operands = nhwc_task::operands_of(compute);
        Tiled(PackedWinograd::new(isa(), operands, square, shape, weights, bias, act))
    }
}

/// The images of one call: the batch, the height and the width.
pub(super) struct Images<'a> {
    pub(super) x: Numbers<'a>,
    /// Whether `x` has its channels first.
    pub(super) planes: bool,
    pub(super) size: (usize, usize, usize),
    pub(super) residual: Option<Numbers<'a>>,
}

/// A convolution in all forms that were asked for so far.
pub(super) struct Forms {
    direct: Packed<PackedNhwc>,
    two: Packed<Tiled<2>>,
    four: Packed<Tiled<4>>,
    act: Activation,
    schedules: Schedules,
    /// How sizes are done that were seen so far.
    ways: Mutex<Vec<(ConvTask, Way)>>,
}

/// Most sizes whose way is remembered.
const WAYS_MAX: usize = 8;

impl Forms {
    /// Packs constant weights, if the form is known.
    pub(super) fn of(part: &Part<'_>, node: &Node, schedules: &Schedules) -> Option<Self> {
        let forms = Forms {
            direct: Packed::open(part, node)?,
            two: Packed::open(part, node)?,
            four: Packed::open(part, node)?,
            act: activation(node)?,
            schedules: schedules.clone(),
            ways: Mutex::default(),
        };
        let Some(shape) = fixed_shape(part, node) else { return Some(forms) };
        if node.attrs.has(FIRST_INPUT_PLAIN) {
            forms.direct.prepare(part, node)?;
            return Some(forms);
        }
        // A batch that is open is as likely one image as any.
        let task = nhwc_task::task(part, node).or_else(|| {
            let (h, w) = image(part, node)?;
            let residual = node.input(3).is_some();
            let (act, compute) = (forms.act, forms.direct.compute);
            let (size, planes) = ((1, h, w), false);
            let stored = nhwc_task::stored(part, node).unwrap_or([DType::F32; 2]);
            Some(ConvTask { shape, size, planes, residual, act, compute, stored })
        });
        match task.map(|task| forms.way(task).square) {
            // Which form it will be is not known yet.
            None if takes(&shape) => {}
            None | Some(None) => forms.direct.prepare(part, node)?,
            Some(Some(Square::Two)) => forms.two.prepare(part, node)?,
            Some(Some(Square::Four)) => forms.four.prepare(part, node)?,
        }
        Some(forms)
    }

    /// How images of this size are convolved. To transform weights for one call never pays.
    fn way(&self, task: ConvTask) -> Way {
        if !self.direct.constant {
            return Way { square: None, ..task.usual() };
        }
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, way)) = ways.iter().find(|(seen, _)| *seen == task) {
            return *way;
        }
        let way = task.way(&self.schedules);
        if ways.len() >= WAYS_MAX {
            ways.remove(0);
        }
        ways.push((task, way));
        way
    }

    /// The caller has checked that the kernel fits the images and `out` the result.
    pub(super) fn run(
        &self,
        shape: &ConvShape,
        (weights, bias): (&Tensor, Option<&Tensor>),
        images: &Images<'_>,
        out: NumbersOut<'_>,
    ) -> Result<(), OpError> {
        let &Images { x, planes, size, residual } = images;
        let (shape, act, compute) = (*shape, self.act, self.direct.compute);
        let adds = residual.is_some();
        let dtype = |bf16| if bf16 { DType::BF16 } else { DType::F32 };
        let to_bf16 = matches!(out, NumbersOut::Bf16(_));
        let stored = [dtype(matches!(x, Numbers::Bf16(_))), dtype(to_bf16)];
        let task = ConvTask { shape, size, planes, residual: adds, act, compute, stored };
        let Way { square, tiling } = self.way(task);
        match square.filter(|_| !planes) {
            Some(Square::Two) => {
                let two = self.two.pack(&shape, weights, bias)?;
                two.0.run(tiling, x, size, residual, out);
            }
            Some(Square::Four) => {
                let four = self.four.pack(&shape, weights, bias)?;
                four.0.run(tiling, x, size, residual, out);
            }
            None => {
                let direct = self.direct.pack(&shape, weights, bias)?;
                direct.run_from(tiling, (x, planes), size, residual, out);
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

#[cfg(test)]
mod tests {
    use super::*;
    use hetra_ir::{Attr, Dim, Graph, NodeId, Type};
    use hetra_tensor::DType;

    /// A convolution of 64 channels by 64 of an image, whose size may be open.
    fn forms(height: Dim) -> (Forms, Tensor) {
        let weights: Vec<f32> = (0..64 * 64 * 9).map(|i| (i % 7) as f32 - 3.0).collect();
        let weights = Tensor::from_slice(&[64, 64, 3, 3], &weights).unwrap();
        let mut graph = Graph::default();
        let dims = vec![Dim::Known(1), height, Dim::Known(10), Dim::Known(64)];
        let x = graph.add_value("x", Type::shaped(DType::F32, dims));
        let w = graph.add_constant("w", weights.clone());
        let y = graph.add_value("y", Type::Unknown);
        let node = Node::new("hetra.ConvLast", &[x, w], &[y]);
        let node = node.with("pads", Attr::Ints(vec![1; 4]));
        graph.nodes.push(node.clone());
        let types: Vec<Type> = graph.values.iter().map(|value| value.ty.clone()).collect();
        let part = Part { graph: &graph, nodes: &[NodeId(0)], types: &types };
        (Forms::of(&part, &node, &Schedules::default()).unwrap(), weights)
    }

    fn kept(forms: &Forms) -> [usize; 3] {
        [forms.direct.kept(), forms.two.kept(), forms.four.kept()]
    }

    #[test]
    fn only_the_form_of_the_size_is_packed() {
        assert_eq!(kept(&forms(Dim::Known(3)).0), [1, 0, 0]);
        assert_eq!(kept(&forms(Dim::Known(10)).0), [0, 1, 0]);
        assert_eq!(kept(&forms(Dim::Known(40)).0), [0, 0, 1]);
        assert_eq!(kept(&forms(Dim::Unknown).0), [0; 3]);
    }

    #[test]
    fn an_open_size_is_packed_when_it_is_seen() {
        let (forms, weights) = forms(Dim::Unknown);
        let shape = ConvShape {
            c: 64,
            m: 64,
            kh: 3,
            kw: 3,
            stride: [1, 1],
            dilation: [1, 1],
            pads: [1; 4],
            groups: 1,
        };
        let image: Vec<f32> = (0..40 * 10 * 64).map(|i| (i % 5) as f32 - 2.0).collect();
        let run = |height: usize| {
            let mut out = vec![f32::NAN; height * 10 * 64];
            let (x, size) = (Numbers::F32(&image), (1, height, 10));
            let images = Images { x, planes: false, size, residual: None };
            let sink = NumbersOut::F32(&mut out);
            forms.run(&shape, (&weights, None), &images, sink).unwrap();
            out
        };
        let outs = [3, 10, 40].map(run);
        assert_eq!(kept(&forms), [1, 1, 1]);
        // Rows that see no border below are the same in all.
        for out in &outs[1..] {
            for (i, (got, want)) in out.iter().zip(&outs[0]).take(2 * 10 * 64).enumerate() {
                assert!((got - want).abs() < 1e-2, "{i}: {got} not {want}");
            }
        }
    }
}
