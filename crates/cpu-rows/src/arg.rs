//! Where the extreme number lies along an axis.
//!
//! Across an inner axis, vectors of candidates and of their indices go down the rows together. A
//! single row is first reduced to its extreme, whose place is then looked for.

use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::{Shared, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;

/// Which of the numbers is wanted. NaN is more extreme than any number.
#[derive(Clone, Copy, Debug)]
pub struct Extreme {
    /// The least, not the greatest.
    pub least: bool,
    /// Of equal ones the last, not the first.
    pub last: bool,
}

/// Longest axis: places are counted in f32, which is exact so far.
pub const AXIS_MAX: usize = 1 << 24;

/// Numbers that a task reads.
const GRAIN: usize = 16 << 10;
/// Columns that are worked on together.
const WIDTH: usize = 256;

/// Indices along the middle axis of `x`, seen as `[outer, axis, inner]`, of its extremes. Panics
/// if the axis is empty, or longer than [`AXIS_MAX`], or a slice is too short.
pub fn arg_extreme(
    isa: Isa,
    pick: Extreme,
    x: &[f32],
    [outer, axis, inner]: [usize; 3],
    y: &mut [i64],
) {
    assert!(x.len() >= outer * axis * inner && y.len() >= outer * inner, "slice too short");
    assert!(axis > 0 && axis <= AXIS_MAX, "an empty axis, or one too long");
    let pieces = inner.div_ceil(WIDTH);
    let out = Shared::new(y);
    for_ranges(outer * pieces, GRAIN / (axis * inner.min(WIDTH)).max(1), |start, len| {
        for p in start..start + len {
            let (o, j) = (p / pieces, p % pieces * WIDTH);
            let width = WIDTH.min(inner - j);
            // SAFETY: the pieces are disjoint.
            let y = unsafe { out.slice(o * inner + j, width) };
            let x = &x[o * axis * inner + j..][..(axis - 1) * inner + width];
            if inner == 1 {
                y[0] = isa.dispatch(Row { pick, x }) as i64;
            } else {
                isa.dispatch(Across { pick, x, inner, y });
            }
        }
    });
}

/// Whether `a` is taken over the best one so far, as in the reference.
#[inline(always)]
fn taken<S: Simd>(s: S, pick: Extreme, a: S::F, best: S::F) -> S::M {
    let one = s.splat(1.0);
    let (low, high) = if pick.least { (a, best) } else { (best, a) };
    let beats = s.lt(low, high);
    // Equal numbers, neither less than the other, count for the last one.
    let other = s.lt(high, low);
    let nan = s.select(s.is_nan(a), one, s.splat(0.0));
    let best_nan = s.select(s.is_nan(best), one, s.splat(0.0));
    let zero = s.splat(0.0);
    let tie = if pick.last { s.select(other, zero, one) } else { s.select(beats, one, zero) };
    // With a NaN on either side: the new one wins if it is NaN and the old one is not, or last.
    let over = if pick.last { nan } else { s.sub(nan, s.mul(nan, best_nan)) };
    let any_nan = s.lt(zero, s.add(nan, best_nan));
    s.lt(zero, s.select(any_nan, over, tie))
}

struct Across<'a> {
    pick: Extreme,
    x: &'a [f32],
    inner: usize,
    y: &'a mut [i64],
}

impl Kernel for Across<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut places = lend(self.y.len().next_multiple_of(16));
        for (j, place) in (0..self.y.len()).step_by(S::LANES).zip(places.chunks_mut(S::LANES)) {
            let w = S::LANES.min(self.y.len() - j);
            let mut best = s.loads_tail(&self.x[j..j + w]);
            let mut at = s.splat(0.0);
            for (k, row) in self.x.chunks(self.inner).enumerate().skip(1) {
                let v = s.loads_tail(&row[j..j + w]);
                let m = taken(s, self.pick, v, best);
                best = s.select(m, v, best);
                at = s.select(m, s.splat(k as f32), at);
            }
            s.stores_tail(place, at);
        }
        // Whole numbers below 2^24 are exact in f32.
        self.y.iter_mut().zip(&places[..]).for_each(|(y, at)| *y = *at as i64);
    }
}

struct Row<'a> {
    pick: Extreme,
    x: &'a [f32],
}

impl Kernel for Row<'_> {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let Row { pick, x } = self;
        let mut best = s.splat(x[0]);
        for part in x.chunks_exact(S::LANES) {
            let v = s.loads(part);
            best = if pick.least { s.min_nan(v, best) } else { s.max_nan(v, best) };
        }
        let mut best = if pick.least { s.hmin(best) } else { s.hmax(best) };
        for v in x.chunks_exact(S::LANES).remainder() {
            let better = if pick.least { *v < best } else { *v > best };
            best = if better || v.is_nan() { *v } else { best };
        }
        let is = |v: &f32| *v == best || (v.is_nan() && best.is_nan());
        let place = if pick.last { x.iter().rposition(is) } else { x.iter().position(is) };
        place.expect("the extreme is one of the numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Rng;

    fn plain(pick: Extreme, row: &[f32]) -> i64 {
        let mut best = 0;
        for (k, v) in row.iter().enumerate().skip(1) {
            let b = row[best];
            let better = if pick.least { *v < b } else { *v > b };
            let nan = v.is_nan() && (pick.last || !b.is_nan());
            if better || (pick.last && *v == b) || nan {
                best = k;
            }
        }
        best as i64
    }

    #[test]
    fn every_choice_with_ties_and_nan() {
        let mut rng = Rng::new(3);
        for [outer, axis, inner] in [[1, 1, 1], [3, 7, 1], [2, 100, 1], [2, 5, 3], [1, 9, 300]] {
            let n = outer * axis * inner;
            let x: Vec<f32> = (0..n)
                .map(|_| if rng.below(20) == 0 { f32::NAN } else { rng.below(6) as f32 - 3.0 })
                .collect();
            for (least, last) in [(false, false), (false, true), (true, false), (true, true)] {
                let pick = Extreme { least, last };
                for isa in Isa::available() {
                    let mut y = vec![-1; outer * inner];
                    arg_extreme(isa, pick, &x, [outer, axis, inner], &mut y);
                    for (i, y) in y.iter().enumerate() {
                        let (o, j) = (i / inner, i % inner);
                        let row: Vec<f32> =
                            (0..axis).map(|k| x[(o * axis + k) * inner + j]).collect();
                        assert_eq!(*y, plain(pick, &row), "{isa:?} {pick:?} {row:?}");
                    }
                }
            }
        }
    }
}
