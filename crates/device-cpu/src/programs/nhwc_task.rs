//! What can be tuned of a convolution with channels last: its form, and how that is cut.

use hetra_device::{Knob, Part, Schedule, Space, SpaceError, Task};
use hetra_ir::{Node, ValueId};
use hetra_ops::{Compute, FIRST_INPUT_PLAIN};
use hetra_tensor::DType;

use super::Schedules;
use super::conv::{activation, fixed_shape};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::isa;
use hetra_cpu_base::threads::threads;
use hetra_cpu_kernels::bf16::{Operands, operands};
use hetra_cpu_kernels::conv::ConvShape;
use hetra_cpu_kernels::nhwc::{by_planes, by_rows, reads_whole_rows};
use hetra_cpu_kernels::tiling::{Tiling, rows_apart, rows_max};
use hetra_cpu_kernels::winograd::{Square, pays, squares, takes};

/// How a convolution of one size is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// The Winograd form, or `None` for the direct one.
    pub(super) square: Option<Square>,
    pub(super) tiling: Tiling,
}

/// A convolution with constant weights, of images of one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ConvTask {
    pub(super) shape: ConvShape,
    /// Images, their height and their width.
    pub(super) size: (usize, usize, usize),
    /// Whether the images have their channels first.
    pub(super) planes: bool,
    pub(super) residual: bool,
    pub(super) act: Activation,
    pub(super) compute: Compute,
    /// How images are stored that are read and written.
    pub(super) stored: [DType; 2],
}

/// What products are made of, here.
pub(super) fn operands_of(compute: Compute) -> Operands {
    match compute {
        Compute::F32 => Operands::F32,
        Compute::Bf16 => operands(isa()),
    }
}

/// Outputs along an axis of a tile of a form: the choices of the knob `form`.
fn side(square: Option<Square>) -> i64 {
    match square {
        None => 1,
        Some(Square::Two) => 2,
        Some(Square::Four) => 4,
    }
}

/// Tasks that each thread gets of a depthwise convolution.
const DEPTHWISE_TASKS: usize = 8;

impl ConvTask {
    /// How it is done when nobody tuned.
    pub(super) fn usual(&self) -> Way {
        let (_, h, w) = self.size;
        let square =
            pays(&self.shape, operands_of(self.compute), h, w).filter(|_| self.has_forms());
        Way { square, tiling: self.usual_tiling() }
    }

    fn usual_tiling(&self) -> Tiling {
        let (s, usual) = (&self.shape, Tiling::default());
        if s.is_depthwise() {
            // Rows at the border take less time than others.
            return Tiling { tasks: DEPTHWISE_TASKS, ..usual };
        }
        let pixel = s.c * self.stored[0].bytes(1).unwrap_or(4);
        Tiling { mr: rows_apart(isa(), pixel.saturating_mul(s.stride[1])), ..usual }
    }

    /// How it is done by the schedule that is known for it.
    pub(super) fn way(&self, schedules: &Schedules) -> Way {
        if schedules.is_empty() {
            return self.usual();
        }
        let (Some(task), Ok(space)) = (self.task(), self.space()) else { return self.usual() };
        schedules.find(&task, &space).map_or(self.usual(), |schedule| self.by(schedule))
    }

    /// How it is done by a schedule of its space.
    fn by(&self, schedule: &Schedule) -> Way {
        let usual = self.usual();
        let size = |name, usual| {
            schedule.get(name).and_then(|value| usize::try_from(value).ok()).unwrap_or(usual)
        };
        let square = match schedule.get("form") {
            Some(1) => None,
            Some(2) => Some(Square::Two),
            Some(4) => Some(Square::Four),
            _ => usual.square,
        };
        let tiling = Tiling {
            mr: size("mr", usual.tiling.mr),
            block: size("block", usual.tiling.block),
            tasks: size("tasks", usual.tiling.tasks),
        };
        Way { square, tiling }
    }

    /// Whether there is a choice of forms.
    fn has_forms(&self) -> bool {
        takes(&self.shape) && !self.planes && !squares(operands_of(self.compute)).is_empty()
    }

    /// Whether a kernel of rows does it.
    fn is_by_rows(&self) -> bool {
        let (_, h, w) = self.size;
        let width = self.shape.out(h, w).map_or(0, |(_, width)| width);
        match self.compute {
            Compute::F32 => by_rows(isa(), &self.shape, width),
            Compute::Bf16 => by_planes(&self.shape),
        }
    }

    /// The knobs of the kernels that do it ([`Tiling`] says what they mean). `form` is the number
    /// of outputs along an axis of a Winograd tile, 1 for the direct sum: forms differ in rounding.
    fn space(&self) -> Result<Space, SpaceError> {
        let usual = self.usual_tiling();
        let most = rows_max(isa()) as i64;
        let mut knobs = Vec::new();
        if self.has_forms() {
            let squares = squares(operands_of(self.compute)).iter().map(|&square| Some(square));
            let sides: Vec<i64> = std::iter::once(None).chain(squares).map(side).collect();
            knobs.push(Knob::new("form", sides, side(self.usual().square))?);
        }
        if !self.shape.is_depthwise() && !self.is_by_rows() {
            let rows: Vec<i64> = ((most + 1) / 2..=most).collect();
            knobs.push(Knob::new("mr", rows, usual.mr as i64)?);
        }
        let blocks = &[12, 25, 50, 100, 200, 400][..];
        knobs.push(Knob::new("block", blocks, usual.block as i64)?);
        if threads() > 1 {
            knobs.push(Knob::new("tasks", &[1, 2, 3, 4, 6, 8][..], usual.tasks as i64)?);
        }
        Space::new(knobs)
    }

    /// Its name and features; `None` only where an activation has a number that makes none.
    fn task(&self) -> Option<Task> {
        let (s, (n, h, w), isa) = (&self.shape, self.size, isa());
        let [top, left, bottom, right] = s.pads;
        let dtype = match self.compute {
            Compute::F32 => "f32",
            Compute::Bf16 => "bf16",
        };
        let order = if self.planes { "planes" } else { "last" };
        let residual = if self.residual { " residual" } else { "" };
        // Bounds are free: kernels clamp what they store.
        let (act, clamps) = match self.act {
            Activation::None | Activation::Relu | Activation::Clip(..) => (String::new(), true),
            Activation::Scaled(curve, ..) => (format!(" scaled {curve:?}"), false),
            act => (format!(" {act:?}"), false),
        };
        let key = format!(
            "ConvLast {from} {dtype} {to} {n}x{h}x{w}x{c} {order} w{m}x{cg}x{kh}x{kw} s{sh}x{sw} d{dh}x{dw} \
             p{top},{left},{bottom},{right} g{groups}{residual}{act} t{threads} {isa:?}",
            from = self.stored[0],
            to = self.stored[1],
            c = s.c,
            m = s.m,
            cg = s.c / s.groups.max(1),
            kh = s.kh,
            kw = s.kw,
            sh = s.stride[0],
            sw = s.stride[1],
            dh = s.dilation[0],
            dw = s.dilation[1],
            groups = s.groups,
            threads = threads(),
        );
        let features = [
            ("n", n),
            ("h", h),
            ("w", w),
            ("c", s.c),
            ("m", s.m),
            ("kh", s.kh),
            ("kw", s.kw),
            ("stride", s.stride[1]),
            ("groups", s.groups),
            ("copies", usize::from(reads_whole_rows(s))),
            ("residual", usize::from(self.residual)),
            ("clamps", usize::from(clamps)),
            ("rounds", usize::from(self.compute != Compute::F32)),
            ("read_bits", 8 * self.stored[0].bytes(1).unwrap_or(0)),
            ("written_bits", 8 * self.stored[1].bytes(1).unwrap_or(0)),
            ("threads", threads()),
            ("rows", rows_max(isa)),
        ];
        let features = features.map(|(name, value)| (name.to_string(), value as f64));
        Task::new(key, features.to_vec()).ok()
    }
}

/// What is to be tuned of a convolution whose types are known.
pub(super) fn tunes(part: &Part<'_>, node: &Node) -> Option<(Task, Space)> {
    // Matrix registers have blocks of one size, and forms of their own.
    let task = task(part, node).filter(|task| operands_of(task.compute) != Operands::Tiles)?;
    Some((task.task()?, task.space().ok()?))
}

/// The task of a node, if its weights are constant and the size of its images is known.
pub(super) fn task(part: &Part<'_>, node: &Node) -> Option<ConvTask> {
    let constant = [1, 2]
        .into_iter()
        .all(|index| node.input(index).is_none() || part.constant(node, index).is_some());
    let shape = fixed_shape(part, node).filter(|_| constant)?;
    let planes = node.attrs.has(FIRST_INPUT_PLAIN);
    let image = part.types[node.input(0)?.index()].known_shape()?;
    let size = match (planes, image.as_slice()) {
        (false, &[n, h, w, _]) | (true, &[n, _, h, w]) => (n, h, w),
        (false, &[n, w, _]) | (true, &[n, _, w]) => (n, 1, w),
        _ => return None,
    };
    shape.out(size.1, size.2)?;
    let (residual, act) = (node.input(3).is_some(), activation(node)?);
    let compute = Compute::of(&node.attrs).ok()?;
    let stored = stored(part, node)?;
    Some(ConvTask { shape, size, planes, residual, act, compute, stored })
}

/// How the images are stored that a node reads and writes.
pub(super) fn stored(part: &Part<'_>, node: &Node) -> Option<[DType; 2]> {
    let dtype = |id: Option<ValueId>| part.types[id?.index()].dtype();
    Some([dtype(node.input(0))?, dtype(node.output(0))?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra_cpu_base::threads::with;

    fn conv() -> ConvTask {
        let shape = ConvShape {
            c: 64,
            m: 32,
            kh: 3,
            kw: 3,
            stride: [1, 1],
            dilation: [1, 1],
            pads: [1; 4],
            groups: 1,
        };
        let act = Activation::Relu;
        let (size, compute, stored) = ((1, 40, 40), Compute::F32, [DType::F32; 2]);
        ConvTask { shape, size, planes: false, residual: false, act, compute, stored }
    }

    #[test]
    fn the_default_of_a_space_is_what_is_done_untuned() {
        let base = conv();
        let depthwise = ConvShape { m: 64, groups: 64, ..base.shape };
        let cases = [
            base,
            ConvTask { size: (1, 3, 40), ..base },
            ConvTask { planes: true, shape: ConvShape { c: 3, ..base.shape }, ..base },
            ConvTask { shape: depthwise, ..base },
            ConvTask { compute: Compute::Bf16, ..base },
        ];
        for task in cases {
            let space = with(2, || task.space()).unwrap();
            let default = space.nth(space.default_point()).unwrap();
            let (by, usual) = (task.by(&default), task.usual());
            assert_eq!(by.square, usual.square, "{task:?}");
            let clamped = |tiling: Tiling| Tiling { mr: tiling.mr.min(rows_max(isa())), ..tiling };
            assert_eq!(clamped(by.tiling), clamped(usual.tiling), "{task:?}");
        }
    }

    #[test]
    fn a_schedule_is_taken_if_it_is_of_the_space() {
        let task = conv();
        let one = |text: &str| task.way(&Schedules::One(text.parse().unwrap()));
        let full = format!("form=2 mr={} block=50", rows_max(isa()));
        let way = with(1, || one(&full));
        assert_eq!((way.square, way.tiling.block), (Some(Square::Two), 50));
        assert_eq!(with(1, || one("form=3 mr=4 block=50")), task.usual());
        // With more threads there is a knob more.
        assert_eq!(with(2, || one(&full)), task.usual());
    }

    #[test]
    fn keys_tell_apart_what_takes_different_times() {
        let base = conv();
        let key = |task: ConvTask| task.task().unwrap().key().to_string();
        let others = [
            ConvTask { size: (2, 40, 40), ..base },
            ConvTask { residual: true, ..base },
            ConvTask { act: Activation::Silu, ..base },
            ConvTask { compute: Compute::Bf16, ..base },
            ConvTask { stored: [DType::BF16, DType::F32], ..base },
            ConvTask { stored: [DType::F32, DType::BF16], ..base },
            ConvTask { shape: ConvShape { pads: [0, 1, 1, 1], ..base.shape }, ..base },
        ];
        for other in others {
            assert_ne!(key(base), key(other));
        }
        assert_eq!(key(base), key(ConvTask { act: Activation::None, ..base }));
        assert_ne!(with(1, || key(base)), with(2, || key(base)));
    }
}
