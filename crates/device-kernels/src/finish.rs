//! The end of a product whose sums another kernel made, maybe in parts.

use hetra_kernel::kernel;

use crate::context::{A, Gpu, Stop};
use crate::math::activate;
use crate::stored::Stored;

/// An item has one sum.
#[kernel(group = [64])]
fn finish(
    count: u32,
    m: u32,
    n: u32,
    padded: u32,
    parts: u32,
    part: u32,
    alpha: f32,
    beta: f32,
    c_row: u32,
    c_col: u32,
    whole: u32,
    from_column: u32,
    code: u32,
    act_a: f32,
    act_b: f32,
    scale: f32,
    shift: f32,
    sums: &[f32],
    c: &[f32],
    y: &mut [f32],
) {
    let at = global_id(0);
    if at >= count {
        return;
    }
    let row = at / n;
    let column = at % n;
    let mut sum = 0.0;
    for i in 0..parts {
        sum += sums[i * part + row * padded + column];
    }
    sum *= alpha;
    if beta != 0.0 {
        sum += beta * c[(row % m) * c_row + (from_column + column) * c_col];
    }
    y[row * whole + from_column + column] = activate(sum, code, act_a, act_b, scale, shift);
}

/// Sums as they lie in memory: so many parts of so many products.
pub(crate) struct Parts {
    pub(crate) count: usize,
    pub(crate) products: usize,
    pub(crate) m: usize,
    pub(crate) n: usize,
    /// Elements from a row to the next.
    pub(crate) row: usize,
}

impl Parts {
    /// Adds the parts up and does to the sums what `tail` says (`Product::tail`).
    pub(crate) fn finish<'a>(
        &self,
        gpu: &Gpu,
        tail: impl Iterator<Item = A<'a>>,
        [sums, c, out]: [&'a Stored; 3],
    ) -> Result<(), Stop> {
        let Parts { count: parts, products, m, n, row } = *self;
        let (count, part) = (products * m * n, products * m * row);
        let kernel = gpu.kernel("finish", || finish::with(&[]))?;
        let own = [count, m, n, row, parts, part].map(A::U);
        let memories = [A::M(sums), A::M(c), A::M(out)];
        let args: Vec<A<'_>> = own.into_iter().chain(tail).chain(memories).collect();
        gpu.line(&kernel, count, &args)
    }
}
