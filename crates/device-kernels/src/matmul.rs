//! Products of matrices: their forms, and how they are cut.

use std::sync::Arc;

use hetra_device::{LaunchLimits, Part, Schedule, Space, Task};
use hetra_ir::Node;
use hetra_kernel::{Kernel, Scalar};
use hetra_ops::{Compute, GemmForm, MatMulForm, Operand};
use hetra_tensor::{Axes, DType};
use smallvec::{SmallVec, smallvec};

use crate::activation::Activate;
use crate::context::{A, Gpu, Outcome, Run, Stop};
use crate::cut::{Cut, PARTS, SUMS, Shape};
use crate::finish::Parts;
use crate::panels::Panels;
use crate::product::{product, product_shared};
use crate::program::Work;
use crate::stored::{Stored, floats};
use crate::table::{Form, Row, Tuned};
use crate::tuned::{Dial, task};

pub(crate) const ROWS: &[Row] = &[Row {
    ops: &["MatMul", "com.microsoft.FusedMatMul", "Gemm", "com.microsoft.FusedGemm"],
    kernel: "matmul",
    on_device: &[0, 1, 2],
    takes: |form: &Form<'_>| {
        let f32 = Compute::of(&form.node.attrs).is_ok_and(|compute| compute == Compute::F32);
        let ty = |index| form.ty(index).dtype().is_none_or(|dtype| dtype == DType::F32);
        f32 && Activate::of(form.node).is_some() && (0..3).all(ty)
    },
    compile: |gpu, part, node| compile(gpu, part, node, &Schedule::new()),
}];

pub(crate) const TUNED: Tuned = Tuned { ops: ROWS[0].ops, tunes, compile };

/// One product, or many of the same extents.
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Steps from a row to the next and from a column to the next.
    pub(crate) a: (usize, usize),
    pub(crate) b: (usize, usize),
    /// Products, and those of the inner axis.
    pub(crate) batch: (usize, usize),
    /// Steps of both operands along the inner and the outer axis.
    pub(crate) steps: [(usize, usize); 2],
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) c: (usize, usize),
    /// Columns of the output, of which these are `n` from the one of `from` on.
    pub(crate) whole: usize,
    pub(crate) from: usize,
    pub(crate) output: Axes,
}

impl Product {
    fn shape(&self) -> Shape {
        let padded = self.deep().into_iter().filter(|&deep| deep).count();
        Shape { m: self.m, n: self.n, k: self.k, products: self.batch.0, padded }
    }

    /// Of which operands steps along the sum lie side by side in memory.
    fn deep(&self) -> [bool; 2] {
        [self.a.1 == 1, self.b.0 == 1 && self.b.1 != 1]
    }

    /// What is done to its sums, as kernels take it: factors, steps of what is added, columns of
    /// the output, activation.
    pub(crate) fn tail<'a>(&self, act: Activate) -> impl Iterator<Item = A<'a>> {
        let own = [A::F(self.alpha), A::F(self.beta), A::U(self.c.0), A::U(self.c.1)];
        let columns = [A::U(self.whole), A::U(self.from)];
        own.into_iter().chain(columns).chain(act.args())
    }
}

/// The product of a node whose operands have these shapes.
fn product_of(node: &Node, a: &[usize], b: &[usize], c: Option<&[usize]>) -> Result<Product, Stop> {
    if node.op.ends_with("Gemm") { gemm(node, a, b, c) } else { matmul(node, a, b, c) }
}

fn tunes(gpu: &Gpu, part: &Part<'_>, node: &Node) -> Option<(Task, Space)> {
    let shape = |index: usize| part.types[node.input(index)?.index()].known_shape();
    let c = node.input(2).map(|_| shape(2));
    let c = match &c {
        Some(shape) => Some(shape.as_deref()?),
        None => None,
    };
    let by = product_of(node, &shape(0)?, &shape(1)?, c).ok()?;
    let sizes = [
        ("m", by.m),
        ("n", by.n),
        ("k", by.k),
        ("batch", by.batch.0),
        ("a", usize::from(by.a.1 == 1)),
        ("b", usize::from(by.b.1 == 1)),
    ];
    if let Some(rows) = Panels::dial(gpu, &by) {
        return task("MatMul", &sizes, &[&rows]);
    }
    let Dials { shared, rows, columns, side, parts } = Dials::of(gpu, &by);
    match gpu.limits().cheap_barriers {
        true => task("MatMul", &sizes, &[&shared, &rows, &columns, &side, &parts]),
        false => task("MatMul", &sizes, &[&rows, &columns, &side]),
    }
}

fn compile(gpu: &Gpu, part: &Part<'_>, node: &Node, schedule: &Schedule) -> Option<Work> {
    let (act, node, schedule) = (Activate::of(node)?, node.clone(), schedule.clone());
    if let Some(blocks) = Blocks::of(gpu, part, &node) {
        return Some(Box::new(move |run| blocks.multiply(run, &node, (act, &schedule))));
    }
    Some(Box::new(move |run| {
        let (a, b, c) = (run.input(0)?, run.input(1)?, run.optional(2)?);
        if [Some(&a), Some(&b), c.as_ref()].into_iter().flatten().any(|of| of.dtype != DType::F32) {
            return Err(Stop::Host);
        }
        let product = product_of(&node, &a.shape, &b.shape, c.as_ref().map(|c| &c.shape[..]))?;
        let out = run.gpu.room(DType::F32, &product.output)?;
        let operands = [&a, &b, c.as_ref().unwrap_or(&a)];
        multiply(run.gpu, (act, &schedule), &product, operands, &out)?;
        Ok(smallvec![out])
    }))
}

/// Weights that are too large for one memory of the device, as blocks of columns.
struct Blocks {
    shape: [usize; 2],
    /// Whether a row of memory is a column.
    turned: bool,
    /// The first column of each, and how many.
    blocks: Vec<(usize, usize, Stored)>,
}

impl Blocks {
    /// `None` where the weights fit, are no constant, or not even one column fits.
    fn of(gpu: &Gpu, part: &Part<'_>, node: &Node) -> Option<Blocks> {
        let weights = part.constant(node, 1)?;
        let (&[rows, columns], DType::F32) = (weights.shape(), weights.dtype()) else {
            return None;
        };
        let most = gpu.limits().part_max / size_of::<f32>();
        if weights.len() <= most {
            return None;
        }
        let turned = node.attrs.flag_or("transB", false).ok()?;
        let (k, n) = if turned { (columns, rows) } else { (rows, columns) };
        let width = Some(most / k.max(1)).filter(|&width| width > 0)?;
        let values = weights.as_slice::<f32>().ok()?;
        let block = |from: usize| {
            let count = width.min(n - from);
            let part: Vec<f32> = match turned {
                true => values[from * k..(from + count) * k].to_vec(),
                false => {
                    values.chunks(n).flat_map(|row| &row[from..from + count]).copied().collect()
                }
            };
            let memory = gpu.filled(&floats(&part, Scalar::F32)).ok()?;
            let (scalar, dtype, shape) = (Scalar::F32, DType::F32, smallvec![part.len()]);
            Some((from, count, Stored { memory, from: 0, scalar, dtype, shape }))
        };
        let blocks = (0..n).step_by(width).map(block).collect::<Option<_>>()?;
        Some(Blocks { shape: [rows, columns], turned, blocks })
    }

    fn multiply(&self, run: &Run<'_, '_>, node: &Node, by: (Activate, &Schedule)) -> Outcome {
        let (a, c) = (run.input(0)?, run.optional(2)?);
        if [Some(&a), c.as_ref()].into_iter().flatten().any(|of| of.dtype != DType::F32) {
            return Err(Stop::Host);
        }
        let whole = product_of(node, &a.shape, &self.shape, c.as_ref().map(|c| &c.shape[..]))?;
        let out = run.gpu.room(DType::F32, &whole.output)?;
        for (from, n, weights) in &self.blocks {
            let b = if self.turned { (1, whole.k) } else { (*n, 1) };
            let output = whole.output.clone();
            let block = Product { n: *n, b, from: *from, output, ..whole };
            multiply(run.gpu, by, &block, [&a, weights, c.as_ref().unwrap_or(&a)], &out)?;
        }
        Ok(smallvec![out])
    }
}

/// The knobs of products of floats one by one.
struct Dials {
    shared: Dial,
    rows: Dial,
    columns: Dial,
    side: Dial,
    parts: Dial,
}

/// Most products that are added up one after another.
const SUM_MAX: usize = 1 << 14;

/// Items that a processor of a GPU had better have where each reads memory by itself.
const UNIT_ITEMS: usize = 512;

impl Dials {
    fn of(gpu: &Gpu, by: &Product) -> Dials {
        let limits = gpu.limits();
        let worth = limits.cheap_barriers && by.m >= 8 && by.n >= 16 && by.k >= 16;
        let cut = if worth { gpu.cut(by.shape()) } else { None };
        let shared = cut.is_some();
        let usual = cut.unwrap_or_else(|| Dials::plain(limits, by));
        let dial = |name, choices, usual| Dial { name, choices, usual };
        Dials {
            shared: dial("shared", &[0, 1], usize::from(shared)),
            rows: dial("rows", SUMS, usual.rows),
            columns: dial("columns", SUMS, usual.columns),
            side: dial("side", &[4, 8, 16], usual.side),
            parts: dial("parts", PARTS, usual.parts),
        }
    }

    /// Where each item reads memory by itself.
    fn plain(limits: &LaunchLimits, by: &Product) -> Cut {
        // Rows that are not there are computed, too.
        let rows = by.m.next_power_of_two().min(4);
        let side = 8;
        if !limits.cheap_barriers {
            return Cut { rows, columns: 4, side, parts: 1 };
        }
        let items = by.m.div_ceil(rows) * by.n * by.batch.0;
        let wanted = (limits.units * UNIT_ITEMS / items.max(1)).next_power_of_two();
        let most = (by.k / 64).max(1).next_power_of_two();
        Cut { rows, columns: 1, side, parts: wanted.min(most).min(16) }
    }
}

fn gemm(node: &Node, a: &[usize], b: &[usize], c: Option<&[usize]>) -> Result<Product, Stop> {
    let form = GemmForm::resolve(&node.attrs, a, b)?;
    let GemmForm { m, n, k, trans_a, trans_b, alpha, beta } = form;
    let c_steps = match c {
        None | Some([] | [1] | [1, 1]) => (0, 0),
        Some([of] | [1, of]) if *of == n => (0, 1),
        Some([of, 1]) if *of == m => (1, 0),
        Some([rows, columns]) if (*rows, *columns) == (m, n) => (n, 1),
        _ => return Err(Stop::Host),
    };
    Ok(Product {
        m,
        n,
        k,
        a: if trans_a { (1, m) } else { (k, 1) },
        b: if trans_b { (1, k) } else { (n, 1) },
        batch: (1, 1),
        steps: [(0, 0); 2],
        alpha,
        beta: if c.is_some() { beta } else { 0.0 },
        c: c_steps,
        whole: n,
        from: 0,
        output: smallvec![m, n],
    })
}

fn matmul(node: &Node, a: &[usize], b: &[usize], c: Option<&[usize]>) -> Result<Product, Stop> {
    let form = MatMulForm::resolve(&node.attrs, a, b)?;
    let axes = batches(&form.batch, &form.a, &form.b);
    let (inner, outer) = match &axes[..] {
        [] => ((1, 0, 0), (1, 0, 0)),
        [one] => (*one, (1, 0, 0)),
        [inner, outer] => (*inner, *outer),
        _ => return Err(Stop::Host),
    };
    // A fused bias belongs to columns.
    let bias = match c {
        None => 0.0,
        Some(c) if c.last() == Some(&form.n) && c.iter().product::<usize>() == form.n => 1.0,
        Some(_) => return Err(Stop::Host),
    };
    Ok(Product {
        m: form.m,
        n: form.n,
        k: form.k,
        a: (form.a.row_stride, form.a.col_stride),
        b: (form.b.row_stride, form.b.col_stride),
        batch: (inner.0 * outer.0, inner.0),
        steps: [(inner.1, inner.2), (outer.1, outer.2)],
        alpha: form.alpha,
        beta: bias,
        c: (0, 1),
        whole: form.n,
        from: 0,
        output: form.output,
    })
}

/// The batch axes, innermost first, those that are one as one: extent and both steps.
fn batches(extents: &[usize], a: &Operand, b: &Operand) -> SmallVec<[(usize, usize, usize); 4]> {
    let mut axes: SmallVec<[(usize, usize, usize); 4]> = SmallVec::new();
    for axis in (0..extents.len()).rev().filter(|&axis| extents[axis] != 1) {
        let (a, b) = (a.batch_strides[axis], b.batch_strides[axis]);
        match axes.last_mut() {
            Some((extent, inner_a, inner_b))
                if a == *inner_a * *extent && b == *inner_b * *extent =>
            {
                *extent *= extents[axis];
            }
            _ => axes.push((extents[axis], a, b)),
        }
    }
    axes
}

pub(crate) fn multiply(
    gpu: &Gpu,
    (act, schedule): (Activate, &Schedule),
    by: &Product,
    [a, b, c]: [&Stored; 3],
    out: &Stored,
) -> Result<(), Stop> {
    if out.count() == 0 || by.k == 0 {
        return Err(Stop::Host);
    }
    let panels = if by.k <= SUM_MAX { Panels::of(gpu, by, schedule) } else { None };
    if let Some(panels) = panels {
        return panels.multiply(gpu, act, by, [a, b, c], out);
    }
    let dials = Dials::of(gpu, by);
    let [rows, columns, side, parts] =
        [&dials.rows, &dials.columns, &dials.side, &dials.parts].map(|dial| dial.of(schedule));
    let side = if side * side > gpu.limits().group_items_max as usize { 4 } else { side };
    // Long sums keep their digits in parts, which are added up in turn.
    let parts = parts.max(by.k.div_ceil(SUM_MAX)).min(1 << 12);
    // Without room for the parts, sums are not cut.
    let partial = match parts {
        1 => None,
        _ => match gpu.room(DType::F32, &[parts, by.batch.0, by.m, by.n]) {
            Err(Stop::Host) => None,
            room => Some(room?),
        },
    };
    let parts = if partial.is_some() { parts } else { 1 };
    if by.k / parts > gpu.limits().turns_max {
        return Err(Stop::Host);
    }
    let cut = Cut { rows, columns, side, parts };
    let [(a_inner, b_inner), (a_outer, b_outer)] = by.steps;
    let mut args: SmallVec<[A<'_>; 32]> = smallvec![
        A::U(by.m),
        A::U(by.n),
        A::U(by.k),
        A::U(by.batch.0),
        A::U(cut.steps(by.k)),
        A::U(by.a.0),
        A::U(by.a.1),
        A::U(by.b.0),
        A::U(by.b.1),
        A::U(by.batch.1),
        A::U(a_inner),
        A::U(b_inner),
        A::U(a_outer),
        A::U(b_outer),
    ];
    match &partial {
        // The sums as they are.
        Some(_) => {
            let none = [A::F(1.0), A::F(0.0), A::U(0), A::U(0), A::U(by.n), A::U(0)];
            args.extend(none.into_iter().chain(Activate::nothing().args()));
        }
        None => args.extend(by.tail(act)),
    }
    args.extend([A::M(a), A::M(b), A::M(c), A::M(partial.as_ref().unwrap_or(out))]);
    let limits = gpu.limits();
    let shared = limits.cheap_barriers
        && dials.shared.of(schedule) == 1
        && cut.fits(limits, by.shape().padded);
    let (kernel, groups) =
        if shared { shared_kernel(gpu, by, cut)? } else { kernel(gpu, by, cut)? };
    gpu.launch(&kernel, groups, &args)?;
    drop(args);
    let Some(sums) = &partial else { return Ok(()) };
    let of = Parts { count: parts, products: by.batch.0, m: by.m, n: by.n, row: by.n };
    of.finish(gpu, by.tail(act), [sums, c, out])
}

/// The kernel whose items share memory, and its groups.
fn shared_kernel(gpu: &Gpu, by: &Product, cut: Cut) -> Result<(Arc<Kernel>, [usize; 3]), Stop> {
    let deep = by.deep().map(u32::from);
    let own = cut.constants();
    let [.., rows, columns, _, _, _, _] = own;
    // Items that are neighbours store a column: with one element more they do not collide.
    let padded = [rows + deep[0], columns + deep[1]];
    let own: SmallVec<[u32; 13]> = own.into_iter().chain(padded).chain(deep).collect();
    let make = || product_shared::with(&own);
    Ok((gpu.kernel(&format!("product shared {own:?}"), make)?, cut.groups(by.shape())))
}

/// The kernel whose items read memory each by itself, and its groups.
fn kernel(gpu: &Gpu, by: &Product, cut: Cut) -> Result<(Arc<Kernel>, [usize; 3]), Stop> {
    let Cut { rows, columns, side, parts } = cut;
    // A group has one row of items where there are no more.
    let [x, y] = if by.m <= rows { [side * side, 1] } else { [side, side] };
    let own = [rows, columns, x, y].map(|n| n as u32);
    let groups = [by.n.div_ceil(x * columns), by.m.div_ceil(y * rows), by.batch.0 * parts];
    Ok((gpu.kernel(&format!("product {own:?}"), || product::with(&own))?, groups))
}
