//! Slices of several arrays along an axis, joined along it.

use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::numbers::Number;
use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;

/// Elements that a task moves.
const GRAIN: usize = 16 << 10;

/// A slice: which array, and its place along the axis there.
pub type Pick = (usize, usize);

/// The arrays that are read, each `[outer, extent, inner]`, with its extent.
#[derive(Clone, Copy, Debug)]
pub struct Arrays<'a, T> {
    /// The arrays and their extents.
    pub parts: &'a [(&'a [T], usize)],
    /// The extent before the axis, and the one behind it.
    pub sizes: (usize, usize),
}

impl<T> Arrays<'_, T> {
    fn check(&self, picks: &[Pick], y: &[T]) {
        let (outer, inner) = self.sizes;
        let whole = |&(x, extent): &(&[T], usize)| x.len() >= count(&[outer, extent, inner]);
        assert!(self.parts.iter().all(whole), "slice too short");
        let inside = |&(part, at): &Pick| self.parts.get(part).is_some_and(|part| at < part.1);
        assert!(picks.iter().all(inside), "a slice that is not there");
        assert!(y.len() >= count(&[outer, picks.len(), inner]), "output too short");
    }
}

/// `y[o][i][..] = part[o][at][..]` for slice `i` being `(part, at)`. Panics if one is outside, or a
/// slice too short.
pub fn gather_concat<T: bytemuck::Pod + Send + Sync>(
    arrays: &Arrays<'_, T>,
    picks: &[Pick],
    y: &mut [T],
) {
    arrays.check(picks, y);
    let (outer, inner) = arrays.sizes;
    let row = count(&[picks.len(), inner]);
    if row == 0 || outer == 0 {
        return;
    }
    let y = Shared::new(y);
    for_ranges(outer, GRAIN / row, |start, len| {
        for o in start..start + len {
            // SAFETY: the rows are disjoint.
            let y = unsafe { y.slice(o * row, row) };
            if inner == 1 {
                for (y, &(part, at)) in y.iter_mut().zip(picks) {
                    let (x, extent) = arrays.parts[part];
                    *y = x[o * extent + at];
                }
                continue;
            }
            for (y, &(part, at)) in y.chunks_exact_mut(inner).zip(picks) {
                let (x, extent) = arrays.parts[part];
                y.copy_from_slice(&x[(o * extent + at) * inner..][..inner]);
            }
        }
    });
}

/// Vectors that one of the output is picked from, at most: more are slower than single elements.
const WINDOWS_MAX: usize = 4;

/// Neighbouring elements of an array, of which some are picked.
struct Window {
    part: usize,
    at: usize,
    /// Elements that are read.
    len: usize,
    /// For each lane of the output the lane of what was picked before or, from `lanes` on, of this.
    lanes: [i32; 16],
}

/// Which windows make the vectors of a row.
struct Row {
    windows: Vec<Window>,
    /// Of each vector how many windows, and how many elements: at most `lanes`.
    vectors: Vec<(usize, usize)>,
    lanes: usize,
}

impl Row {
    /// `None` where the slices of a vector lie too far apart.
    fn new<T>(arrays: &Arrays<'_, T>, picks: &[Pick], lanes: usize) -> Option<Row> {
        let mut row = Row { windows: Vec::new(), vectors: Vec::new(), lanes };
        for picks in picks.chunks(lanes) {
            let first = row.windows.len();
            let mut left: Vec<usize> = (0..picks.len()).collect();
            while let Some(&next) = left.first() {
                if row.windows.len() - first == WINDOWS_MAX {
                    return None;
                }
                let part = picks[next].0;
                let of_part = left.iter().filter(|&&i| picks[i].0 == part);
                let at = of_part.map(|&i| picks[i].1).min()?;
                let len = lanes.min(arrays.parts[part].1 - at);
                let keep = |lane: usize| i32::try_from(lane).unwrap_or(0);
                let mut window = Window { part, at, len, lanes: std::array::from_fn(keep) };
                left.retain(|&i| {
                    let inside = picks[i].0 == part && (at..at + len).contains(&picks[i].1);
                    if inside {
                        window.lanes[i] = keep(lanes + picks[i].1 - at);
                    }
                    !inside
                });
                row.windows.push(window);
            }
            row.vectors.push((row.windows.len() - first, picks.len()));
        }
        Some(row)
    }
}

/// As `gather_concat` with `inner == 1`, by vectors of which lanes are picked; false, and nothing
/// is done, where the slices lie too far apart for that.
pub fn pick_concat<T: Number>(
    isa: Isa,
    arrays: &Arrays<'_, T>,
    picks: &[Pick],
    y: &mut [T],
) -> bool {
    arrays.check(picks, y);
    let (outer, inner) = arrays.sizes;
    let Some(row) = Row::new(arrays, picks, isa.lanes()).filter(|_| inner == 1) else {
        return false;
    };
    let y = Shared::new(y);
    for_ranges(outer, GRAIN / picks.len().max(1), |start, len| {
        // SAFETY: the rows are disjoint.
        let y = unsafe { y.slice(start * picks.len(), len * picks.len()) };
        T::dispatch(isa, Picks { arrays: *arrays, row: &row, start, width: picks.len(), y });
    });
    true
}

struct Picks<'a, T> {
    arrays: Arrays<'a, T>,
    row: &'a Row,
    /// The first row, and the elements of one.
    start: usize,
    width: usize,
    y: &'a mut [T],
}

impl<T: Number> Kernel for Picks<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.row.lanes == S::LANES, "picked for another instruction set");
        for (i, mut y) in self.y.chunks_exact_mut(self.width.max(1)).enumerate() {
            let mut windows = self.row.windows.iter();
            for &(count, width) in &self.row.vectors {
                let mut sum = s.splat(0.0);
                for window in windows.by_ref().take(count) {
                    let (x, extent) = self.arrays.parts[window.part];
                    let x = &x[(self.start + i) * extent + window.at..][..window.len];
                    // SAFETY: so many numbers were cut out, no more than a vector has; there are 16
                    // places of lanes, and at most as many lanes.
                    unsafe {
                        let v = T::load_n(s, x.as_ptr(), window.len);
                        sum = s.pick(sum, v, s.iload(window.lanes.as_ptr()));
                    }
                }
                let (to, rest) = y.split_at_mut(width);
                // SAFETY: so many numbers were cut out, no more than a vector has.
                unsafe { T::store_n(s, to.as_mut_ptr(), sum, width) };
                y = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Rng;
    use half::bf16;

    fn check<T: Number + PartialEq + std::fmt::Debug>(of: impl Fn(f32) -> T) {
        let mut rng = Rng::new(3);
        for case in 0..200 {
            let (outer, inner) =
                (1 + rng.below(5), if case % 2 == 0 { 1 } else { 1 + rng.below(5) });
            let extents = [1 + rng.below(70), 1 + rng.below(70)];
            let xs = extents
                .map(|n| -> Vec<T> { rng.vec(outer * n * inner).into_iter().map(&of).collect() });
            let parts = [(&xs[0][..], extents[0]), (&xs[1][..], extents[1])];
            let arrays = Arrays { parts: &parts, sizes: (outer, inner) };
            // In turn from both, every second one, or any.
            let picks: Vec<Pick> = match case % 6 {
                0 => (0..2 * extents[0].min(extents[1])).map(|i| (i % 2, i / 2)).collect(),
                2 => (0..2)
                    .flat_map(|part| (0..extents[part]).step_by(2).map(move |at| (part, at)))
                    .collect(),
                _ => (0..rng.below(90))
                    .map(|_| {
                        let part = rng.below(2);
                        (part, rng.below(extents[part]))
                    })
                    .collect(),
            };
            let mut want = Vec::new();
            for o in 0..outer {
                for &(part, at) in &picks {
                    let first = (o * extents[part] + at) * inner;
                    want.extend_from_slice(&xs[part][first..first + inner]);
                }
            }
            let mut y = vec![of(f32::NAN); want.len()];
            gather_concat(&arrays, &picks, &mut y);
            assert_eq!(y, want, "{case}");
            for isa in Isa::available() {
                let mut y = vec![of(f32::NAN); want.len()];
                let done = pick_concat(isa, &arrays, &picks, &mut y);
                assert!(!done || y == want, "{isa:?} {case}");
                assert!(done || case % 6 != 0 && case % 6 != 2, "{isa:?} {case}: not by vectors");
            }
        }
    }

    #[test]
    fn slices_are_joined_in_any_order() {
        check(|x| x);
        check(bf16::from_f32);
    }
}
