//! Transposes of any number of axes.
//!
//! Axes of size one are dropped and axes that stay together are merged. If the last axis stays
//! last, its runs are copied whole. Else the input's last axis trades places with another one: that
//! is a transpose of matrices, done in squares of one register a side, which lie in blocks of one
//! cache line a side, so that both sides touch whole lines. Matrices with fewer rows or columns
//! than a register has elements (colours, channels that are shuffled) are woven from their rows.

use super::layout::{GRAIN, Item, Odometer, copy, merged, strides_of};
use hetra_cpu_base::Axes;
use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::threads::for_ranges;
use smallvec::smallvec;

/// Bytes of a register, and of a cache line.
const REGISTER: usize = 16;
const LINE: usize = 64;

/// `y[i_perm] = x[i]`: axis `k` of the output is axis `perm[k]` of the input. Panics if `perm` is
/// not a permutation of the axes or a slice is too short.
pub fn transpose<T: Item>(x: &[T], shape: &[usize], perm: &[usize], y: &mut [T]) {
    let mut seen: Axes<bool> = smallvec![false; shape.len()];
    perm.iter().for_each(|&p| seen[p] = true);
    assert!(perm.len() == shape.len() && seen.iter().all(|s| *s), "not a permutation");
    let total = count(shape);
    assert!(x.len() >= total && y.len() >= total, "slice too short");
    if total == 0 {
        return;
    }
    let strides = strides_of(shape);
    let axes = merged(perm.iter().map(|&p| (shape[p], strides[p] as isize)));
    let (&(inner, [step]), outer) = axes.split_last().expect("merged gives at least one axis");
    let y = Shared::new(y);
    if outer.is_empty() {
        for_ranges(total, GRAIN, |start, len| {
            // SAFETY: the ranges are disjoint.
            copy(&x[start..start + len], unsafe { y.slice(start, len) });
        });
    } else if step == 1 {
        for_ranges(total / inner, GRAIN / inner, |start, len| {
            let mut at = Odometer::new(outer, start);
            for r in start..start + len {
                let from = at.offsets[0] as usize;
                // SAFETY: the rows are disjoint.
                copy(&x[from..from + inner], unsafe { y.slice(r * inner, inner) });
                at.step(outer);
            }
        });
    } else {
        swap(x, &axes, y);
    }
}

/// Transposes the matrices of the output's last axis and of that which was the input's last one.
fn swap<T: Item>(x: &[T], axes: &[(usize, [isize; 1])], y: Shared<'_, T>) {
    let steps = strides_of(&axes.iter().map(|axis| axis.0).collect::<Axes>());
    let n = axes.len() - 1;
    let q = axes.iter().position(|axis| axis.1 == [1]).expect("some axis was the input's last");
    let rows = Axis { size: axes[n].0, step: axes[n].1[0] as usize };
    let cols = Axis { size: axes[q].0, step: steps[q] };
    let others: Axes<_> = (0..n)
        .filter(|&i| i != q)
        .map(|i| (axes[i].0, [axes[i].1[0], steps[i] as isize]))
        .collect();
    let matrices: usize = others.iter().map(|other| other.0).product();
    // A large matrix is cut along its longer side, into whole cache lines.
    let (long, short) = (rows.size.max(cols.size), rows.size.min(cols.size));
    let piece = (GRAIN / short).max(1).next_multiple_of(LINE);
    let pieces = (long / piece).max(1);
    for_ranges(matrices * pieces, GRAIN * pieces / (long * short), |start, len| {
        let mut at = Odometer::new(&others, start / pieces);
        for task in start..start + len {
            let p = task % pieces;
            let size = if p + 1 == pieces { long - p * piece } else { piece };
            let [mut from, mut to] = at.offsets.map(|offset| offset as usize);
            let (mut rows, mut cols) = (rows, cols);
            if rows.size > cols.size {
                (from, to, rows.size) = (from + p * piece * rows.step, to + p * piece, size);
            } else {
                (from, to, cols.size) = (from + p * piece, to + p * piece * cols.step, size);
            }
            let x = &x[from..from + (rows.size - 1) * rows.step + cols.size];
            let y = y.rows(to, (cols.size, cols.step), rows.size);
            // SAFETY: `x` reaches from the first to the last element that is read, and `rows`
            // checked the same of `y`. No two tasks write the same element: their matrices or
            // their parts of one matrix are different ones, and a transpose has one place for each.
            unsafe { matrix(x.as_ptr(), rows, y, cols) };
            if p + 1 == pieces {
                at.step(&others);
            }
        }
    });
}

/// `y[c * rows + r] = x[r * step + c]` for `c < width`, on this thread. Panics if a slice is too
/// short.
pub(crate) fn interleave<T: Item>(
    x: &[T],
    (rows, step): (usize, usize),
    width: usize,
    y: &mut [T],
) {
    if rows == 0 || width == 0 {
        return;
    }
    let end = step.checked_mul(rows - 1).and_then(|last| last.checked_add(width));
    assert!(end.is_some_and(|end| end <= x.len()) && count(&[rows, width]) <= y.len());
    let (rows, cols) = (Axis { size: rows, step }, Axis { size: width, step: rows });
    // SAFETY: both sides were checked from the first to the last element, and `y` is borrowed by
    // this call alone.
    unsafe { matrix(x.as_ptr(), rows, y.as_mut_ptr(), cols) };
}

/// The rows of a matrix, as they lie in the input, or its columns, as they lie in the output.
#[derive(Clone, Copy)]
struct Axis {
    size: usize,
    step: usize,
}

/// `y[c * cols.step + r] = x[r * rows.step + c]`.
///
/// # Safety
/// All these places must be readable or writable, and nothing else may use those of `y`.
unsafe fn matrix<T: Item>(x: *const T, rows: Axis, y: *mut T, cols: Axis) {
    let (lanes, line) = (REGISTER / size_of::<T>(), LINE / size_of::<T>());
    if rows.size < lanes || cols.size < lanes {
        // SAFETY: as the caller promises.
        return unsafe { narrow(x, rows, y, cols) };
    }
    for c0 in (0..cols.size).step_by(line) {
        for r0 in (0..rows.size).step_by(line) {
            for c in (c0..cols.size.min(c0 + line)).step_by(lanes) {
                for r in (r0..rows.size.min(r0 + line)).step_by(lanes) {
                    // The last square of a side is moved back over what is done already.
                    let (r, c) = (r.min(rows.size - lanes), c.min(cols.size - lanes));
                    // SAFETY: a square of `lanes` a side, all of it within rows and columns.
                    unsafe {
                        let (x, y) = (x.add(r * rows.step + c), y.add(c * cols.step + r));
                        square(x, rows.step, y, cols.step);
                    }
                }
            }
        }
    }
}

/// Transposes one register's elements a side.
///
/// # Safety
/// `REGISTER` bytes must be readable at every `row_step` elements of `x`, and writable at every
/// `col_step` of `y`, as many times as they are elements.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn square<T: Item>(x: *const T, row_step: usize, y: *mut T, col_step: usize) {
    use std::arch::x86_64::*;
    let lanes = REGISTER / size_of::<T>();
    // SAFETY: SSE2 is part of x86-64; the places are the caller's promise.
    unsafe {
        let mut v = [_mm_setzero_si128(); REGISTER];
        for (r, v) in v.iter_mut().enumerate().take(lanes) {
            *v = _mm_loadu_si128(x.add(r * row_step).cast());
        }
        // With the numbers of row and column written one after the other, a round turns the bits of
        // both by one place: the first bit of the row goes behind those of the column, and the
        // first bit of the column behind those of the row. After all bits they have changed places.
        for _ in 0..lanes.ilog2() {
            let old = v;
            for i in 0..lanes / 2 {
                let (a, b) = (old[i], old[i + lanes / 2]);
                (v[2 * i], v[2 * i + 1]) = match size_of::<T>() {
                    1 => (_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)),
                    2 => (_mm_unpacklo_epi16(a, b), _mm_unpackhi_epi16(a, b)),
                    4 => (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b)),
                    _ => (_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b)),
                };
            }
        }
        for (c, v) in v.iter().enumerate().take(lanes) {
            _mm_storeu_si128(y.add(c * col_step).cast(), *v);
        }
    }
}

/// As above.
///
/// # Safety
/// As above.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn square<T: Item>(x: *const T, row_step: usize, y: *mut T, col_step: usize) {
    let lanes = REGISTER / size_of::<T>();
    for c in 0..lanes {
        for r in 0..lanes {
            // SAFETY: the places are the caller's promise.
            unsafe { *y.add(c * col_step + r) = *x.add(r * row_step + c) };
        }
    }
}

/// A matrix of few rows or few columns.
///
/// # Safety
/// As for `matrix`.
unsafe fn narrow<T: Item>(x: *const T, rows: Axis, y: *mut T, cols: Axis) {
    let (long, short) = (rows.size.max(cols.size), rows.size.min(cols.size));
    // SAFETY: without gaps between rows or columns, the caller's places are these slices.
    unsafe {
        if short == rows.size && cols.step == short {
            let y = std::slice::from_raw_parts_mut(y, long * short);
            match short {
                2 => return weave(x, rows.step, y.as_chunks_mut::<2>().0),
                3 => return weave(x, rows.step, y.as_chunks_mut::<3>().0),
                4 => return weave(x, rows.step, y.as_chunks_mut::<4>().0),
                _ => (),
            }
        } else if short == cols.size && rows.step == short {
            let x = std::slice::from_raw_parts(x, long * short);
            match short {
                2 => return unweave(x.as_chunks::<2>().0, y, cols.step),
                3 => return unweave(x.as_chunks::<3>().0, y, cols.step),
                4 => return unweave(x.as_chunks::<4>().0, y, cols.step),
                _ => (),
            }
        }
    }
    for c in 0..cols.size {
        for r in 0..rows.size {
            // SAFETY: as the caller promises.
            unsafe { *y.add(c * cols.step + r) = *x.add(r * rows.step + c) };
        }
    }
}

/// Makes each `y` of an element of every row.
///
/// # Safety
/// `N` rows of `x`, `step` apart, must be readable for as many elements as `y` has.
unsafe fn weave<T: Item, const N: usize>(x: *const T, step: usize, y: &mut [[T; N]]) {
    // SAFETY: as the caller promises.
    let rows =
        std::array::from_fn(|r| unsafe { std::slice::from_raw_parts(x.add(r * step), y.len()) });
    one_of_each::<T, N>(rows, y);
}

/// Apart, so that the compiler knows the slices for different ones.
#[inline(never)]
fn one_of_each<T: Item, const N: usize>(rows: [&[T]; N], y: &mut [[T; N]]) {
    let rows = rows.map(|row| &row[..y.len()]);
    for (i, y) in y.iter_mut().enumerate() {
        *y = std::array::from_fn(|r| rows[r][i]);
    }
}

/// Deals the elements of each `x` out to `N` rows.
///
/// # Safety
/// `N` rows of `y`, `step >= x.len()` apart, must be writable for as many elements as `x` has, and
/// nothing else may use them.
unsafe fn unweave<T: Item, const N: usize>(x: &[[T; N]], y: *mut T, step: usize) {
    for r in 0..N {
        // SAFETY: as the caller promises.
        let row = unsafe { std::slice::from_raw_parts_mut(y.add(r * step), x.len()) };
        row.iter_mut().zip(x).for_each(|(y, x)| *y = x[r]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Rng;

    fn check<T: Item + PartialEq + std::fmt::Debug>(
        shape: &[usize],
        perm: &[usize],
        f: fn(u64) -> T,
    ) {
        let mut rng = Rng::new(7);
        let total = shape.iter().product();
        let x: Vec<T> = (0..total).map(|_| f(rng.next())).collect();
        // What lies behind the output stays as it is.
        let mut y = vec![T::default(); total + 40];
        transpose(&x, shape, perm, &mut y);
        assert!(y[total..].iter().all(|v| *v == T::default()), "{shape:?} {perm:?} behind the end");
        let strides = strides_of(shape);
        let to: Vec<usize> = perm.iter().map(|&p| shape[p]).collect();
        for (i, v) in y[..total].iter().enumerate() {
            let (mut rest, mut at) = (i, 0);
            for k in (0..to.len()).rev() {
                at += rest % to[k] * strides[perm[k]];
                rest /= to[k];
            }
            assert_eq!(*v, x[at], "{shape:?} {perm:?} at {i}");
        }
    }

    fn every_width(shape: &[usize], perm: &[usize]) {
        check(shape, perm, |v| v as u8);
        check(shape, perm, |v| v as u16);
        check(shape, perm, |v| v as u32);
        check(shape, perm, |v| v);
    }

    #[test]
    fn any_permutation() {
        let mut rng = Rng::new(1);
        for _ in 0..150 {
            let n = rng.range(0, 5);
            let shape: Vec<usize> = (0..n).map(|_| [1, 2, 3, 16, 17, 5][rng.below(6)]).collect();
            let mut perm: Vec<usize> = (0..n).collect();
            for i in (1..n).rev() {
                perm.swap(i, rng.below(i + 1));
            }
            every_width(&shape, &perm);
        }
        every_width(&[3, 0, 2], &[2, 0, 1]);
        every_width(&[40_000], &[0]);
    }

    #[test]
    fn matrices_that_are_cut_and_that_are_narrow() {
        for rows in [2, 3, 4, 7, 8, 15, 16, 17, 58, 65, 300] {
            for cols in [2, 3, 5, 16, 31, 64, 131, 700] {
                every_width(&[rows, cols], &[1, 0]);
                every_width(&[3, rows, cols], &[0, 2, 1]);
                every_width(&[rows, 2, cols], &[2, 1, 0]);
            }
        }
        for few in [3, 4, 6] {
            every_width(&[20_011, few], &[1, 0]);
            every_width(&[few, 20_011], &[1, 0]);
        }
        every_width(&[331, 257], &[1, 0]);
    }
}
