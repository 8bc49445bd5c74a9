//! The greatest or least numbers of each line, in order.
//!
//! A number and its place become one integer that is the less, the better the number: rank above,
//! place below, so that of equal numbers the first is the best. Candidates that are better than
//! the worst of the best so far go to a short list, which is halved by selection when it is full:
//! most numbers of a long line cost one comparison.

use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::threads::for_ranges;

/// Numbers that a task looks at.
const GRAIN: usize = 8 << 10;

/// Candidates that are kept beside the best, at least.
const SPARE: usize = 64;

/// Lines of `axis` numbers, `inner` apart, in `outer` blocks; the best `count` are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Top {
    /// Blocks.
    pub outer: usize,
    /// Numbers of a line; below 2^32.
    pub axis: usize,
    /// Lines of a block.
    pub inner: usize,
    /// How many are wanted: 1 to `axis`.
    pub count: usize,
    /// The greatest ones, or the least.
    pub largest: bool,
}

/// The order of a number: NaN is above all others and equal to itself, zeros are equal.
#[inline(always)]
fn rank(x: f32) -> u32 {
    if x.is_nan() {
        return u32::MAX;
    }
    // Of a negative zero this makes the other one.
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// Writes the best numbers of each line and their places, best first; of equal ones the first in
/// the line. Panics if a slice is too short or there are fewer numbers than are wanted.
pub fn top(p: &Top, x: &[f32], values: &mut [f32], places: &mut [i64]) {
    let Top { outer, axis, inner, count: k, largest } = *p;
    let size = count(&[k, inner]);
    let outputs = count(&[outer, size]);
    assert!(0 < k && k <= axis && u32::try_from(axis).is_ok(), "as many as wanted");
    assert!(x.len() >= count(&[outer, axis, inner]), "input too short");
    assert!(values.len() >= outputs && places.len() >= outputs, "output too short");
    let (values, places) = (Shared::new(values), Shared::new(places));
    let flip = if largest { u32::MAX } else { 0 };
    for_ranges(outer, GRAIN / (axis * inner).max(1), |start, len| {
        let mut best = Vec::with_capacity(2 * k + SPARE);
        for block in start..start + len {
            let x = &x[block * axis * inner..][..axis * inner];
            // SAFETY: each block has its own part of both outputs.
            let (values, places) =
                unsafe { (values.slice(block * size, size), places.slice(block * size, size)) };
            for line in 0..inner {
                let numbers = x[line..].iter().step_by(inner).enumerate();
                select(
                    numbers.map(|(at, x)| u64::from(rank(*x) ^ flip) << 32 | at as u64),
                    k,
                    &mut best,
                );
                for (i, key) in best.iter().enumerate() {
                    let at = (key & u64::from(u32::MAX)) as usize;
                    values[i * inner + line] = x[at * inner + line];
                    places[i * inner + line] = at as i64;
                }
            }
        }
    });
}

/// The `k` least keys in order.
#[inline(always)]
fn select(keys: impl Iterator<Item = u64>, k: usize, best: &mut Vec<u64>) {
    best.clear();
    let (full, mut worst) = (2 * k + SPARE, u64::MAX);
    for key in keys {
        if key < worst {
            best.push(key);
            if best.len() == full {
                worst = *best.select_nth_unstable(k - 1).1;
                best.truncate(k);
            }
        }
    }
    if best.len() > k {
        best.select_nth_unstable(k - 1);
        best.truncate(k);
    }
    best.sort_unstable();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Rng;

    #[test]
    fn ranks_are_in_order() {
        let order = [f32::NEG_INFINITY, -2.0, -1e-40, 0.0, 1e-40, 2.0, f32::INFINITY, f32::NAN];
        assert!(order.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
        assert_eq!(rank(0.0), rank(-0.0));
        assert_eq!(rank(f32::NAN), rank(-f32::NAN));
    }

    #[test]
    fn agrees_with_sorting() {
        let mut rng = Rng::new(3);
        for t in 0..60 {
            let (outer, inner) = (rng.range(1, 3), rng.range(1, 3));
            let axis = if t % 3 == 0 { rng.range(500, 2000) } else { rng.range(1, 30) };
            let (k, largest) = (rng.range(1, axis.min(100)), t % 2 == 0);
            // Few different numbers, so that many are equal.
            let x: Vec<f32> =
                (0..outer * axis * inner).map(|_| rng.below(40) as f32 - 20.0).collect();
            let size = outer * k * inner;
            let (mut values, mut places) = (vec![f32::NAN; size], vec![-1; size]);
            let p = Top { outer, axis, inner, count: k, largest };
            top(&p, &x, &mut values, &mut places);
            for (block, line) in (0..outer).flat_map(|b| (0..inner).map(move |l| (b, l))) {
                let number = |at: usize| x[(block * axis + at) * inner + line];
                let mut order: Vec<usize> = (0..axis).collect();
                order.sort_by(|&a, &b| {
                    let by_number = number(a).total_cmp(&number(b));
                    if largest { by_number.reverse() } else { by_number }
                });
                for (i, &at) in order[..k].iter().enumerate() {
                    let to = (block * k + i) * inner + line;
                    assert_eq!((values[to], places[to]), (number(at), at as i64), "{p:?} {i}");
                }
            }
        }
    }
}
