//! Element by element functions of two arrays that are stored as bf16, under broadcasting.

use half::bf16;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::numbers::Numbers;
use hetra_cpu_base::scratch::Shared;
use hetra_cpu_base::simd::Simd;

use super::broadcast::{Axis, Binary, Operand, Row, Walk, by_op, merge, rows};

/// `out = op(a, b)` over `shape`, rounded; the output is contiguous. Panics if an operand is too
/// short for its strides.
pub fn binary_bf16(
    isa: Isa,
    op: Binary,
    shape: &[usize],
    (a, sa): Operand<'_, bf16>,
    (b, sb): Operand<'_, bf16>,
    out: &mut [bf16],
) {
    let axes = merge(shape, sa, sb);
    let lens = (a.len(), b.len(), out.len());
    let out = Shared::new(out);
    rows(&axes, lens, |axes, start, len| {
        // SAFETY: the ranges are disjoint.
        let out = unsafe { out.slice(start, len) };
        isa.dispatch_bf16(Stretch { op, axes, a, b, out, start });
    });
}

/// Outputs from `start` on.
struct Stretch<'a> {
    op: Binary,
    axes: &'a [Axis],
    a: &'a [bf16],
    b: &'a [bf16],
    out: &'a mut [bf16],
    start: usize,
}

impl Kernel for Stretch<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        by_op!(self, s);
    }
}

impl Stretch<'_> {
    #[inline(always)]
    fn all<S: Simd>(self, s: S, op: Binary) {
        let (start, len) = (self.start, self.out.len());
        let mut walk = Walk::new(self.axes, start, len);
        while let Some(row) = walk.next_row() {
            let out = &mut self.out[row.out - start..][..row.len];
            match (row.a.1, row.b.1) {
                (1, 1) => pair(s, op, (self.a, row.a.0), (self.b, row.b.0), out),
                _ => strided(s, op, &row, (self.a, self.b), out),
            }
        }
    }
}

/// Both from their places on.
#[inline(always)]
fn pair<S: Simd>(
    s: S,
    op: Binary,
    (a, at_a): (&[bf16], usize),
    (b, at_b): (&[bf16], usize),
    out: &mut [bf16],
) {
    let (a, b, wide) = (Numbers::Bf16(a), Numbers::Bf16(b), 2 * S::LANES);
    for (i, out) in out.chunks_mut(wide).enumerate() {
        let n = out.len();
        let (x, y) = (a.load(s, at_a + i * wide, n), b.load(s, at_b + i * wide, n));
        let words = s.bits(s.narrow_bf16(op.vector(s, x[0], y[0]), op.vector(s, x[1], y[1])));
        // SAFETY: there is room for `n` numbers.
        unsafe { s.store_bytes(out.as_mut_ptr().cast(), words, 2 * n) };
    }
}

/// Any strides, number by number.
#[inline(always)]
fn strided<S: Simd>(s: S, op: Binary, row: &Row, (a, b): (&[bf16], &[bf16]), out: &mut [bf16]) {
    for (i, out) in out.iter_mut().enumerate() {
        let (x, y) = (a[row.a.0 + i * row.a.1].to_f32(), b[row.b.0 + i * row.b.1].to_f32());
        *out = bf16::from_f32(s.to_array(op.vector(s, s.splat(x), s.splat(y)))[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::broadcast::{broadcast_strides, zip};
    use super::*;

    #[test]
    fn numbers_are_combined_as_floats_are() {
        let at = |i: usize| bf16::from_f32((i as f32 - 90.0) * 0.137);
        let shapes: [(&[usize], &[usize]); 10] = [
            (&[7], &[7]),
            (&[3, 1], &[1, 1]),
            (&[2, 3, 1], &[2, 1, 1]),
            (&[4, 33], &[1, 33]),
            (&[1, 32], &[2, 32]),
            (&[2, 3, 70], &[2, 3, 70]),
            (&[2, 3, 4, 40], &[2, 1, 1, 40]),
            (&[2, 1, 1, 9], &[2, 3, 4, 9]),
            (&[2, 1, 4, 17], &[1, 3, 4, 17]),
            (&[3, 1, 2, 1, 5], &[1, 4, 2, 3, 5]),
        ];
        for (sa, sb) in shapes {
            let shape: Vec<usize> = sa.iter().zip(sb).map(|(a, b)| *a.max(b)).collect();
            let len = |shape: &[usize]| shape.iter().product::<usize>();
            let a: Vec<bf16> = (0..len(sa)).map(at).collect();
            let b: Vec<bf16> = (0..len(sb)).map(|i| at(2 * i + 5)).collect();
            let [of_a, of_b] = [sa, sb].map(|from| broadcast_strides(from, &shape).unwrap());
            let (a, b) = ((&a[..], &of_a[..]), (&b[..], &of_b[..]));
            for isa in Isa::available() {
                for op in [Binary::Add, Binary::Mul] {
                    let mut want = vec![bf16::NAN; len(&shape)];
                    let mut out = want.clone();
                    binary_bf16(isa, op, &shape, a, b, &mut out);
                    zip(&shape, a, b, &mut want, |a: bf16, b: bf16| {
                        let (a, b) = (a.to_f32(), b.to_f32());
                        bf16::from_f32(if op == Binary::Add { a + b } else { a * b })
                    });
                    assert_eq!(out, want, "{isa:?} {op:?} {sa:?} {sb:?}");
                }
            }
        }
    }
}
