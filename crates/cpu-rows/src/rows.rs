//! Sums and products of matrices that are stored as bf16.

use half::bf16;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::numbers::Numbers;
use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;

/// What is done to two arrays of bf16 whose last axes are equal.
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
    /// `out = a op b`, rounded, each an array and its shape: of one rank, with broadcasting along
    /// all axes but the last. Panics if shapes do not fit, or a slice has another length than its
    /// shape says.
    pub fn run(
        self,
        isa: Isa,
        (a, sa): (&[bf16], &[usize]),
        (b, sb): (&[bf16], &[usize]),
        out: &mut [bf16],
    ) {
        let rank = sa.len();
        assert!(rank == sb.len() && sa.last() == sb.last(), "rows of other lengths");
        let fits = |(a, b): (&usize, &usize)| a == b || *a == 1 || *b == 1;
        assert!(sa.iter().zip(sb).all(fits), "shapes that do not meet");
        let shape: Vec<usize> =
            sa.iter().zip(sb).map(|(&a, &b)| if a == 1 { b } else { a }).collect();
        let lens = [sa, sb, &shape[..]].map(count);
        assert!([a.len(), b.len(), out.len()] == lens, "slices of other lengths");
        if out.is_empty() {
            return;
        }
        // From the back: axes that are equal, then those along which only one of both repeats.
        let equal = (0..rank).rev().take_while(|&i| sa[i] == sb[i]).last().unwrap_or(rank);
        let one = |s: &[usize], i: usize| s[i] == 1;
        let repeats = |s: &[usize]| (0..equal).rev().take_while(|&i| one(s, i)).last();
        let (of_a, of_b) = (repeats(sa).unwrap_or(equal), repeats(sb).unwrap_or(equal));
        let outer = of_a.min(of_b);
        let columns = count(&shape[equal..]);
        let len = count(&shape[outer..]);
        let size = |s: &[usize]| count(&s[outer..]);
        for (i, out) in out.chunks_exact_mut(len).enumerate() {
            let part = |s: &[usize]| place(i, &shape[..outer], &s[..outer]) * size(s);
            let a = &a[part(sa)..][..size(sa)];
            let b = &b[part(sb)..][..size(sb)];
            let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
            self.matrix(isa, long, short, columns, out);
        }
    }

    /// `out[i] = a[i] op b[i % columns]`, rounded. Panics if `a` is no whole number of rows, or
    /// another slice has another length.
    fn matrix(self, isa: Isa, a: &[bf16], b: &[bf16], columns: usize, out: &mut [bf16]) {
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

/// Where element `i` of an array of this `shape` lies in one of shape `from`, which is repeated
/// along the axes of extent 1.
fn place(mut i: usize, shape: &[usize], from: &[usize]) -> usize {
    let (mut place, mut step) = (0, 1);
    for (&extent, &own) in shape.iter().zip(from).rev() {
        if own != 1 {
            place += i % extent * step;
        }
        i /= extent;
        step *= own;
    }
    place
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
        let shapes: [(&[usize], &[usize]); 9] = [
            (&[7], &[7]),
            (&[3, 1], &[1, 1]),
            (&[4, 33], &[1, 33]),
            (&[1, 32], &[2, 32]),
            (&[2, 3, 70], &[2, 3, 70]),
            (&[2, 3, 4, 40], &[2, 1, 1, 40]),
            (&[2, 1, 1, 9], &[2, 3, 4, 9]),
            (&[2, 1, 4, 17], &[1, 3, 4, 17]),
            (&[3, 1, 2, 1, 5], &[1, 4, 2, 3, 5]),
        ];
        for (sa, sb) in shapes {
            let a: Vec<bf16> = (0..count(sa)).map(at).collect();
            let b: Vec<bf16> = (0..count(sb)).map(|i| at(2 * i + 5)).collect();
            let shape: Vec<usize> = sa.iter().zip(sb).map(|(a, b)| *a.max(b)).collect();
            for isa in Isa::available() {
                for op in [Rows::Add, Rows::Mul] {
                    let mut out = vec![bf16::NAN; count(&shape)];
                    op.run(isa, (&a, sa), (&b, sb), &mut out);
                    for (i, out) in out.iter().enumerate() {
                        let (a, b) = (a[place(i, &shape, sa)], b[place(i, &shape, sb)]);
                        let (a, b) = (a.to_f32(), b.to_f32());
                        let want = if op == Rows::Add { a + b } else { a * b };
                        assert_eq!(*out, bf16::from_f32(want), "{isa:?} {op:?} {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn places_are_those_of_broadcasting() {
        let places = |from: &[usize]| (0..6).map(|i| place(i, &[2, 3], from)).collect::<Vec<_>>();
        assert_eq!(places(&[2, 3]), [0, 1, 2, 3, 4, 5]);
        assert_eq!(places(&[1, 3]), [0, 1, 2, 0, 1, 2]);
        assert_eq!(places(&[2, 1]), [0, 0, 0, 1, 1, 1]);
        assert_eq!(places(&[1, 1]), [0; 6]);
    }
}
