//! Sums and products of matrices that are stored as bf16.

use half::bf16;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::numbers::Numbers;
use hetra_cpu_base::scratch::Shared;
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;

/// What is done to a matrix of bf16 and one of the same size or one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Sums.
    Add,
    /// Products.
    Mul,
}

/// Numbers of a task, about.
const GRAIN: usize = 64 << 10;

impl Rows {
    /// `out[i] = a[i] op b[i % columns]`, rounded. Panics if `a` is no whole number of rows, or
    /// another slice has another length.
    pub fn run(self, isa: Isa, a: &[bf16], b: &[bf16], columns: usize, out: &mut [bf16]) {
        assert!(columns > 0 && a.len().is_multiple_of(columns));
        assert!(b.len() == columns && out.len() == a.len(), "matrices of other sizes");
        let out = Shared::new(out);
        if columns == a.len() {
            for_ranges(a.len(), GRAIN, |at, len| {
                // SAFETY: tasks have different parts.
                let out = unsafe { out.slice(at, len) };
                let (a, b) = (&a[at..at + len], &b[at..at + len]);
                isa.dispatch_bf16(RowsTask { op: self, a, b, out });
            });
            return;
        }
        for_ranges(a.len() / columns, GRAIN / columns, |row, rows| {
            let (at, len) = (row * columns, rows * columns);
            // SAFETY: as above.
            let out = unsafe { out.slice(at, len) };
            isa.dispatch_bf16(RowsTask { op: self, a: &a[at..at + len], b, out });
        });
    }
}

struct RowsTask<'a> {
    op: Rows,
    a: &'a [bf16],
    b: &'a [bf16],
    out: &'a mut [bf16],
}

impl Kernel for RowsTask<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (wide, columns) = (2 * S::LANES, self.b.len());
        let (a, b) = (Numbers::Bf16(self.a), Numbers::Bf16(self.b));
        for (row, out) in self.out.chunks_exact_mut(columns).enumerate() {
            let out: &mut [u16] = bytemuck::cast_slice_mut(out);
            for (i, out) in out.chunks_mut(wide).enumerate() {
                let (at, n) = (i * wide, out.len());
                let (x, y) = (a.load(s, row * columns + at, n), b.load(s, at, n));
                let v = match self.op {
                    Rows::Add => [s.add(x[0], y[0]), s.add(x[1], y[1])],
                    Rows::Mul => [s.mul(x[0], y[0]), s.mul(x[1], y[1])],
                };
                let words = s.bits(s.narrow_bf16(v[0], v[1]));
                // SAFETY: there is room for `n` numbers.
                unsafe { s.store_bytes(out.as_mut_ptr().cast(), words, 2 * n) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_added_and_multiplied_as_numbers_are() {
        let at = |i: usize| bf16::from_f32((i as f32 - 90.0) * 0.137);
        for (rows, columns) in [(1, 7), (3, 1), (4, 33), (2, 32), (5, 70)] {
            let a: Vec<bf16> = (0..rows * columns).map(at).collect();
            let b: Vec<bf16> = (0..columns).map(|i| at(2 * i + 5)).collect();
            for isa in Isa::available() {
                for op in [Rows::Add, Rows::Mul] {
                    let mut out = vec![bf16::NAN; a.len()];
                    op.run(isa, &a, &b, columns, &mut out);
                    for (i, (out, a)) in out.iter().zip(&a).enumerate() {
                        let (a, b) = (a.to_f32(), b[i % columns].to_f32());
                        let want = if op == Rows::Add { a + b } else { a * b };
                        assert_eq!(*out, bf16::from_f32(want), "{isa:?} {op:?} {i}");
                    }
                }
            }
        }
    }
}
