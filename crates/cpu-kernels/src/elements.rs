//! Taking single elements by index.

use std::sync::atomic::{AtomicBool, Ordering};

use super::layout::{Item, strides_of};
use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::threads::for_ranges;

/// Elements that a task takes.
const GRAIN: usize = 8 << 10;

/// Each element of `y`, of the shape of the indices, is that of `x` at its own place, but at the
/// index given for it along `axis`; negative ones count from the end. Says whether all indices are
/// inside; if not, `y` holds anything. Panics if shapes and slices do not fit.
pub fn gather_elements<T: Item>(
    (x, shape): (&[T], &[usize]),
    axis: usize,
    (indices, extents): (&[i64], &[usize]),
    y: &mut [T],
) -> bool {
    let rank = shape.len();
    assert!(axis < rank && extents.len() == rank, "indices of another rank");
    let inside = (0..rank).all(|at| at == axis || extents[at] <= shape[at]);
    let total = count(extents);
    assert!(inside && x.len() >= count(shape), "indices beyond the data");
    assert!(indices.len() >= total && y.len() >= total, "slice too short");
    if total == 0 {
        return true;
    }
    let mut steps = strides_of(shape);
    let step = std::mem::replace(&mut steps[axis], 0);
    let (row, along) = (extents[rank - 1], steps[rank - 1]);
    let (y, fault) = (Shared::new(y), AtomicBool::new(false));
    for_ranges(total / row, GRAIN / row, |start, len| {
        for r in start..start + len {
            let (mut rest, mut from) = (r, 0);
            for at in (0..rank - 1).rev() {
                from += rest % extents[at] * steps[at];
                rest /= extents[at];
            }
            // SAFETY: the rows are disjoint.
            let y = unsafe { y.slice(r * row, row) };
            for ((i, y), &index) in y.iter_mut().enumerate().zip(&indices[r * row..]) {
                // A negative one that is still negative is beyond any extent.
                let index = if index < 0 { index + shape[axis] as i64 } else { index } as usize;
                if index >= shape[axis] {
                    fault.store(true, Ordering::Relaxed);
                    return;
                }
                *y = x[from + i * along + index * step];
            }
        }
    });
    !fault.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn along_each_axis() {
        let x: Vec<u32> = (0..12).collect();
        let taken = |axis: usize, indices: &[i64], extents: &[usize]| {
            let mut y = vec![99; indices.len()];
            gather_elements((&x, &[2, 3, 2]), axis, (indices, extents), &mut y).then_some(y)
        };
        assert_eq!(taken(2, &[1, 0, -1, -2], &[1, 2, 2]), Some(vec![1, 0, 3, 2]));
        assert_eq!(taken(1, &[2, 0, 1, -1], &[2, 1, 2]), Some(vec![4, 1, 8, 11]));
        assert_eq!(taken(0, &[1, 0, -1], &[1, 3, 1]), Some(vec![6, 2, 10]));
        assert_eq!(taken(0, &[], &[0, 3, 1]), Some(vec![]));
        assert_eq!(taken(2, &[2], &[1, 1, 1]), None);
        assert_eq!(taken(2, &[-3], &[1, 1, 1]), None);
        assert_eq!(taken(2, &[i64::MIN], &[1, 1, 1]), None);
    }
}
