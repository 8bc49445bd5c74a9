//! Products of large matrices on devices whose items work on wide vectors, which are processors:
//! both operands are copied to panels that are read in order, and an item has a tile of the output
//! in vector registers.

use hetra_device::Schedule;
use hetra_kernel::{Lanes, kernel};
use hetra_tensor::DType;

use crate::activation::Activate;
use crate::context::{A, Gpu, Stop};
use crate::finish::Parts;
use crate::matmul::Product;
use crate::stored::Stored;
use crate::tuned::Dial;

/// Copies a matrix to panels of `WIDTH` lines each: for each step along `depth` their elements
/// there, zeros beyond the last line. Lines lie side by side where `SIDE` is 1.
#[kernel(group = [1, 16])]
fn panels<const WIDTH: usize, const SIDE: usize>(
    lines: u32,
    depth: u32,
    count: u32,
    line_step: u32,
    depth_step: u32,
    inner: u32,
    at_inner: u32,
    at_outer: u32,
    x: &[f32],
    y: &mut [f32],
) {
    let panel = global_id(0);
    let step = global_id(1);
    let batch = global_id(2);
    if step >= depth {
        return;
    }
    let first = panel * WIDTH;
    let start = (batch / inner) * at_outer + (batch % inner) * at_inner;
    let from = start + first * line_step + step * depth_step;
    let to = ((batch * count + panel) * depth + step) * WIDTH;
    let left = lines - first;
    if left >= WIDTH {
        for i in 0..WIDTH {
            y[to + i] = if SIDE == 1 { x[from + i] } else { x[from + i * line_step] };
        }
    } else {
        for i in 0..WIDTH {
            let mut value = 0.0;
            if i < left {
                value = x[from + i * line_step];
            }
            y[to + i] = value;
        }
    }
}

/// The product of panels of `ROWS` rows and of two vectors of columns.
#[kernel(group = [1, 1])]
fn tiles<const ROWS: usize>(
    m: u32,
    k: u32,
    rows: u32,
    columns: u32,
    step: u32,
    a: &[f32],
    b: &[Lanes<f32, 16>],
    y: &mut [Lanes<f32, 16>],
) {
    let tile = global_id(0);
    let panel = global_id(1);
    let batch = global_id(2);
    let a_at = (batch * rows + tile) * k * ROWS;
    let b_at = (batch * columns + panel) * k * 2;
    let mut low = [splat::<16>(0.0); ROWS];
    let mut high = [splat::<16>(0.0); ROWS];
    for p in 0..k {
        let left = b[b_at + p * 2];
        let right = b[b_at + p * 2 + 1];
        for i in 0..ROWS {
            let by = splat::<16>(a[a_at + p * ROWS + i]);
            low[i] = by.mul_add(left, low[i]);
            high[i] = by.mul_add(right, high[i]);
        }
    }
    for i in 0..ROWS {
        let row = tile * ROWS + i;
        if row < m {
            let at = (batch * m + row) * step + panel * 2;
            y[at] = low[i];
            // The last panel may have one vector only.
            if panel * 2 + 1 < step {
                y[at + 1] = high[i];
            }
        }
    }
}

/// Floats of a vector.
pub(crate) const LANES: usize = 16;

/// Below so many multiplications the copies cost more than they save.
const PRODUCTS_MIN: usize = 1 << 19;

/// Sums and the operands as panels take memory: at most as much of it.
const PANEL_BYTES_MAX: usize = 1 << 30;

/// How a product is done here.
pub(crate) struct Panels {
    /// Rows of a tile.
    tile: usize,
    /// Panels of rows and of columns.
    rows: usize,
    columns: usize,
    /// Columns of the sums, with those of padding.
    padded: usize,
}

impl Panels {
    /// The rows of a tile: their sums, two vectors for each row, had better stay in registers.
    /// `None` where items do not work on vectors, or the product is small or narrow.
    pub(crate) fn dial(gpu: &Gpu, by: &Product) -> Option<Dial> {
        let usual = match gpu.limits().lanes {
            16.. => 12,
            8..16 => 3,
            _ => return None,
        };
        Panels::by(gpu, by, usual)?;
        Some(Dial { name: "rows", choices: &[1, 2, 3, 4, 6, 8, 10, 12, 14], usual })
    }

    /// By a schedule.
    pub(crate) fn of(gpu: &Gpu, by: &Product, schedule: &Schedule) -> Option<Panels> {
        let rows = Panels::dial(gpu, by)?.of(schedule);
        Panels::by(gpu, by, rows)
    }

    fn by(gpu: &Gpu, by: &Product, tile: usize) -> Option<Panels> {
        let products = by.m.checked_mul(by.n)?.checked_mul(by.k)?.checked_mul(by.batch.0)?;
        if products < PRODUCTS_MIN || by.m < tile || by.n < 2 * LANES || by.k < 16 {
            return None;
        }
        let (rows, columns) = (by.m.div_ceil(tile), by.n.div_ceil(2 * LANES));
        let padded = by.n.next_multiple_of(LANES);
        let lines = rows * tile + columns * 2 * LANES;
        let floats = lines.checked_mul(by.k)?.checked_add(by.m.checked_mul(padded)?)?;
        let bytes = floats.checked_mul(by.batch.0)?.checked_mul(4)?;
        (bytes <= PANEL_BYTES_MAX.min(gpu.limits().part_max)).then_some(Panels {
            tile,
            rows,
            columns,
            padded,
        })
    }

    /// Whether the sums are the output as they are.
    fn is_plain(&self, by: &Product, act: Activate) -> bool {
        by.alpha == 1.0
            && by.beta == 0.0
            && act.is_none()
            && self.padded == by.n
            && by.n == by.whole
    }

    /// Writes the product to `out`.
    pub(crate) fn multiply(
        &self,
        gpu: &Gpu,
        act: Activate,
        by: &Product,
        [a, b, c]: [&Stored; 3],
        out: &Stored,
    ) -> Result<(), Stop> {
        let Panels { tile, rows, columns, padded } = self;
        let [(a_inner, b_inner), (a_outer, b_outer)] = by.steps;
        let left = Side { lines: by.m, width: *tile, count: *rows, steps: by.a };
        let right =
            Side { lines: by.n, width: 2 * LANES, count: *columns, steps: (by.b.1, by.b.0) };
        let left = left.pack(gpu, by, (a_inner, a_outer), a)?;
        let right = right.pack(gpu, by, (b_inner, b_outer), b)?;
        let plain = self.is_plain(by, act);
        let sums = match plain {
            true => out.clone(),
            false => gpu.room(DType::F32, &[by.batch.0, by.m, *padded])?,
        };
        let kernel = gpu.kernel(&format!("tiles {tile}"), || tiles::with(&[*tile as u32]))?;
        let args = [
            A::U(by.m),
            A::U(by.k),
            A::U(*rows),
            A::U(*columns),
            A::U(padded / LANES),
            A::M(&left),
            A::M(&right),
            A::M(&sums),
        ];
        gpu.launch(&kernel, [*rows, *columns, by.batch.0], &args)?;
        if plain {
            return Ok(());
        }
        let parts = Parts { count: 1, products: by.batch.0, m: by.m, n: by.n, row: *padded };
        parts.finish(gpu, by.tail(act), [&sums, c, out])
    }
}

/// An operand that is to be copied to panels.
struct Side {
    /// Rows of the left one, columns of the right one.
    lines: usize,
    width: usize,
    /// Panels.
    count: usize,
    /// From a line to the next, and along the sum.
    steps: (usize, usize),
}

impl Side {
    fn pack(
        &self,
        gpu: &Gpu,
        by: &Product,
        (inner, outer): (usize, usize),
        of: &Stored,
    ) -> Result<Stored, Stop> {
        let packed = gpu.room(DType::F32, &[by.batch.0, self.count * self.width, by.k])?;
        let side = usize::from(self.steps.0 == 1);
        let name = format!("panels {} {side}", self.width);
        let kernel = gpu.kernel(&name, || panels::with(&[self.width as u32, side as u32]))?;
        let args = [
            A::U(self.lines),
            A::U(by.k),
            A::U(self.count),
            A::U(self.steps.0),
            A::U(self.steps.1),
            A::U(by.batch.1),
            A::U(inner),
            A::U(outer),
            A::M(of),
            A::M(&packed),
        ];
        gpu.launch(&kernel, [self.count, by.k.div_ceil(16), by.batch.0], &args)?;
        Ok(packed)
    }
}
