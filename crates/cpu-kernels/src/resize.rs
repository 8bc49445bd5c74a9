//! Nearest and linear resizing of NCHW planes from tables.
//!
//! The caller turns its coordinate rule into one table per axis; all rules then share these loops.
//! Linear: two input rows are blended with vectors, once per output row, and the result is blended
//! along the row. Planes are shared among threads.

use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::{Shared, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;

/// Where one output coordinate comes from: `x[lo] (1 - t) + x[hi] t`, or `x[lo]` when `t` is 0,
/// whatever `x[hi]` is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tap {
    /// The first neighbour.
    pub lo: usize,
    /// The second neighbour.
    pub hi: usize,
    /// Weight of the second.
    pub t: f32,
}

/// Numbers that a task makes.
const GRAIN: usize = 8 << 10;

/// `y[p, i, j] = x[p, rows[i], cols[j]]` for each plane. Panics if a table leaves the plane.
pub fn nearest<T: Copy + Send + Sync>(
    x: &[T],
    (planes, h, w): (usize, usize, usize),
    rows: &[usize],
    cols: &[usize],
    y: &mut [T],
) {
    let (oh, ow) = (rows.len(), cols.len());
    let outputs = count(&[planes, oh, ow]);
    assert!(x.len() >= count(&[planes, h, w]) && y.len() >= outputs, "slice too short");
    assert!(rows.iter().all(|r| *r < h) && cols.iter().all(|c| *c < w), "table leaves the plane");
    if outputs == 0 {
        return;
    }
    // Doubling is so common that it has its own loop.
    let double = ow / 2 == w && ow % 2 == 0 && cols.iter().enumerate().all(|(j, c)| *c == j / 2);
    let y = Shared::new(y);
    for_ranges(planes, GRAIN / (oh * ow), |start, len| {
        for p in start..start + len {
            // SAFETY: each plane has its own output, and one is gone before the next is made.
            let plane = unsafe { y.slice(p * oh * ow, oh * ow) };
            for (i, r) in rows.iter().enumerate() {
                if i > 0 && rows[i - 1] == *r {
                    plane.copy_within((i - 1) * ow..i * ow, i * ow);
                    continue;
                }
                let d = &mut plane[i * ow..(i + 1) * ow];
                let src = &x[(p * h + r) * w..][..w];
                if double {
                    d.chunks_exact_mut(2).zip(src).for_each(|(d, s)| d.fill(*s));
                } else {
                    d.iter_mut().zip(cols).for_each(|(d, c)| *d = src[*c]);
                }
            }
        }
    });
}

/// `y[p, i, j, k] = x[p, rows[i], cols[j], k]`, for pixels of `inner` elements. Panics if a table
/// leaves the plane.
pub fn nearest_pixels<T: Copy + Send + Sync>(
    x: &[T],
    (planes, h, w, inner): (usize, usize, usize, usize),
    rows: &[usize],
    cols: &[usize],
    y: &mut [T],
) {
    let (oh, line) = (rows.len(), count(&[cols.len(), inner]));
    let outputs = count(&[planes, oh, line]);
    assert!(x.len() >= count(&[planes, h, w, inner]) && y.len() >= outputs, "slice too short");
    assert!(rows.iter().all(|r| *r < h) && cols.iter().all(|c| *c < w), "table leaves the plane");
    if outputs == 0 {
        return;
    }
    let y = Shared::new(y);
    for_ranges(planes * oh, GRAIN / line, |start, len| {
        for row in start..start + len {
            let from = &x[(row / oh * h + rows[row % oh]) * w * inner..][..w * inner];
            // SAFETY: each row of the output is one task's.
            let to = unsafe { y.slice(row * line, line) };
            for (to, col) in to.chunks_exact_mut(inner).zip(cols) {
                to.copy_from_slice(&from[col * inner..(col + 1) * inner]);
            }
        }
    });
}

/// Linear interpolation along both axes. Panics if a table leaves the plane.
pub fn linear(
    isa: Isa,
    x: &[f32],
    (planes, h, w): (usize, usize, usize),
    rows: &[Tap],
    cols: &[Tap],
    y: &mut [f32],
) {
    let (oh, ow) = (rows.len(), cols.len());
    let outputs = count(&[planes, oh, ow]);
    assert!(x.len() >= count(&[planes, h, w]) && y.len() >= outputs, "slice too short");
    let inside = |taps: &[Tap], n: usize| taps.iter().all(|t| t.lo < n && t.hi < n);
    assert!(inside(rows, h) && inside(cols, w), "table leaves the plane");
    if outputs == 0 {
        return;
    }
    let y = Shared::new(y);
    for_ranges(planes, GRAIN / (oh * ow), |start, len| {
        for p in start..start + len {
            // SAFETY: each plane has its own output.
            let y = unsafe { y.slice(p * oh * ow, oh * ow) };
            isa.dispatch(Linear { x: &x[p * h * w..(p + 1) * h * w], w, rows, cols, y });
        }
    });
}

struct Linear<'a> {
    x: &'a [f32],
    w: usize,
    rows: &'a [Tap],
    cols: &'a [Tap],
    y: &'a mut [f32],
}

impl Kernel for Linear<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let w = self.w;
        let mut mixed = lend(w);
        let mut last = None;
        for (tap, out) in self.rows.iter().zip(self.y.chunks_exact_mut(self.cols.len())) {
            if last != Some(*tap) {
                let (a, b) = (&self.x[tap.lo * w..][..w], &self.x[tap.hi * w..][..w]);
                let (keep, t) = (s.splat(1.0 - tap.t), s.splat(tap.t));
                for (d, (a, b)) in
                    mixed.chunks_mut(S::LANES).zip(a.chunks(S::LANES).zip(b.chunks(S::LANES)))
                {
                    let (a, b) = (s.loads_tail(a), s.loads_tail(b));
                    let mixed = if tap.t == 0.0 { a } else { s.fma(b, t, s.mul(a, keep)) };
                    s.stores_tail(d, mixed);
                }
                last = Some(*tap);
            }
            for (d, c) in out.iter_mut().zip(self.cols) {
                let (a, b) = (mixed[c.lo], mixed[c.hi]);
                *d = if c.t == 0.0 { a } else { a * (1.0 - c.t) + b * c.t };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Rng, close};

    #[test]
    fn pixels_are_planes_with_their_channels_last() {
        let (rows, cols, inner) = ([0, 0, 2, 1], [1, 1, 0, 1, 1], 3);
        let x: Vec<u16> = (0..2 * 3 * 2 * 3).collect();
        let mut y = vec![0; 2 * 4 * 5 * 3];
        nearest_pixels(&x, (2, 3, 2, inner), &rows, &cols, &mut y);
        for (at, &got) in y.iter().enumerate() {
            let (k, j, i, p) = (at % 3, at / 3 % 5, at / 15 % 4, at / 60);
            assert_eq!(got, x[((p * 3 + rows[i]) * 2 + cols[j]) * inner + k]);
        }
    }

    #[test]
    fn agrees_with_the_formula() {
        let mut rng = Rng::new(2);
        for _ in 0..40 {
            let (n, h, w) = (rng.range(1, 3), rng.range(1, 9), rng.range(1, 40));
            let (oh, ow) =
                (rng.range(1, 20), if rng.below(2) == 0 { 2 * w } else { rng.range(1, 50) });
            let x = rng.vec(n * h * w);
            let rows: Vec<Tap> = (0..oh)
                .map(|_| Tap { lo: rng.below(h), hi: rng.below(h), t: rng.f32().abs() })
                .collect();
            let cols: Vec<Tap> = (0..ow)
                .map(|_| Tap { lo: rng.below(w), hi: rng.below(w), t: rng.f32().abs() })
                .collect();
            let at = |p: usize, i: usize, j: usize| x[(p * h + i) * w + j];
            let mut want = Vec::new();
            for p in 0..n {
                for r in &rows {
                    for c in &cols {
                        let top = at(p, r.lo, c.lo) * (1.0 - c.t) + at(p, r.lo, c.hi) * c.t;
                        let low = at(p, r.hi, c.lo) * (1.0 - c.t) + at(p, r.hi, c.hi) * c.t;
                        want.push(top * (1.0 - r.t) + low * r.t);
                    }
                }
            }
            for isa in Isa::available() {
                let mut y = vec![0.0; want.len()];
                linear(isa, &x, (n, h, w), &rows, &cols, &mut y);
                close(&y, &want, 1e-5, "linear");
            }
            let rows: Vec<usize> = (0..oh).map(|i| i * h / oh).collect();
            let cols: Vec<usize> = (0..ow).map(|j| j * w / ow).collect();
            let mut y = vec![0.0; n * oh * ow];
            nearest(&x, (n, h, w), &rows, &cols, &mut y);
            for (i, v) in y.iter().enumerate() {
                assert_eq!(*v, at(i / (oh * ow), rows[i / ow % oh], cols[i % ow]));
            }
        }
    }
}
