//! Moving numbers without changing them: transpose, strided copy, blocks, padding, gathering.
//!
//! The functions are generic over the element, of which only the size matters: callers view their
//! data as `u8`, `u16`, `u32` or `u64`. Transposes first drop axes of size one and merge axes that
//! stay together. If the last axis stays last, rows are copied whole; else two axes trade places,
//! in blocks of 16 by 16 that pass through registers, so that both sides touch whole cache lines.

use super::scratch::{Shared, count};
use super::threads::for_ranges;

/// Elements that a task moves.
const GRAIN: usize = 16 << 10;

/// What can be moved: plain numbers.
pub trait Item: Copy + Send + Sync + Default {}
impl<T: Copy + Send + Sync + Default> Item for T {}

/// Row-major strides.
fn strides_of(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i];
    }
    out
}

/// The same transpose with fewer axes: the sizes and input strides of the output's axes.
fn simplify(shape: &[usize], perm: &[usize]) -> Vec<(usize, usize)> {
    let strides = strides_of(shape);
    let mut out: Vec<(usize, usize)> = Vec::new();
    for &p in perm {
        let (size, step) = (shape[p], strides[p]);
        if size == 1 {
            continue;
        }
        match out.last_mut() {
            Some(o) if o.1 == step * size => *o = (o.0 * size, step),
            _ => out.push((size, step)),
        }
    }
    if out.is_empty() {
        out.push((1, 1));
    }
    out
}

/// `y[i_perm] = x[i]`: axis `k` of the output is axis `perm[k]` of the input. Panics if `perm` is
/// not a permutation of the axes or a slice is too short.
pub fn transpose<T: Item>(x: &[T], shape: &[usize], perm: &[usize], y: &mut [T]) {
    let mut seen = vec![false; shape.len()];
    perm.iter().for_each(|&p| seen[p] = true);
    assert!(perm.len() == shape.len() && seen.iter().all(|s| *s), "not a permutation");
    let total = count(shape);
    assert!(x.len() >= total && y.len() >= total, "slice too short");
    if total == 0 {
        return;
    }
    let axes = simplify(shape, perm);
    let (inner, outer) = axes.split_last().expect("simplify never returns an empty list");
    let y = Shared::new(y);
    if inner.1 == 1 {
        let rows = total / inner.0;
        for_ranges(rows, GRAIN / inner.0, |start, len| {
            let mut at = Odometer::new(outer, start);
            for r in start..start + len {
                // SAFETY: the rows are disjoint.
                let row = unsafe { y.slice(r * inner.0, inner.0) };
                copy(&x[at.offset..at.offset + inner.0], row);
                at.step(outer);
            }
        });
        return;
    }
    // The input's last axis has stride 1 and sits at `q` in the output.
    let q = outer.iter().position(|a| a.1 == 1).unwrap_or(0);
    swap(x, &axes, q, y, total);
}

/// Short copies as a loop: a call to memcpy would cost more than it moves.
#[inline(always)]
fn copy<T: Copy>(src: &[T], dst: &mut [T]) {
    if src.len() <= 8 {
        src.iter().zip(dst).for_each(|(s, d)| *d = *s);
    } else {
        dst[..src.len()].copy_from_slice(src);
    }
}

/// Transposes the planes of the output's last axis and its axis `q`.
fn swap<T: Item>(x: &[T], axes: &[(usize, usize)], q: usize, y: Shared<'_, T>, total: usize) {
    let n = axes.len() - 1;
    let (rows, row_step) = axes[n];
    let (cols, _) = axes[q];
    let out_strides = strides_of(&axes.iter().map(|a| a.0).collect::<Vec<_>>());
    let others: Vec<usize> = (0..n).filter(|&i| i != q).collect();
    let from: Vec<_> = others.iter().map(|&i| axes[i]).collect();
    let to: Vec<_> = others.iter().map(|&i| (axes[i].0, out_strides[i])).collect();
    let planes = total / (rows * cols);
    let strips = cols.div_ceil(16);
    for_ranges(planes * strips, GRAIN / (rows * 16), |start, len| {
        for t in start..start + len {
            let (p, c0) = (t / strips, t % strips * 16);
            let (src, dst) = (Odometer::new(&from, p).offset, Odometer::new(&to, p).offset);
            let plane = Plane { x, src, row_step, y, dst, col_step: out_strides[q] };
            for r0 in (0..rows).step_by(16) {
                plane.block(r0, c0, 16.min(rows - r0), 16.min(cols - c0));
            }
        }
    });
}

/// Two axes that trade places.
struct Plane<'a, T> {
    x: &'a [T],
    src: usize,
    row_step: usize,
    y: Shared<'a, T>,
    dst: usize,
    col_step: usize,
}

impl<T: Item> Plane<'_, T> {
    #[inline]
    fn block(&self, r0: usize, c0: usize, rows: usize, cols: usize) {
        let from = self.src + r0 * self.row_step + c0;
        let to = self.dst + c0 * self.col_step + r0;
        let mut tile = [[T::default(); 16]; 16];
        if rows == 16 && cols == 16 {
            for (r, line) in tile.iter_mut().enumerate() {
                line.copy_from_slice(&self.x[from + r * self.row_step..][..16]);
            }
            for c in 0..16 {
                let column = tile.map(|line| line[c]);
                // SAFETY: columns c0..c0+16 of rows r0..r0+16 of this plane are this block's alone,
                // and `d` is gone before the next one is made.
                let d = unsafe { self.y.slice(to + c * self.col_step, 16) };
                d.copy_from_slice(&column);
            }
            return;
        }
        for c in 0..cols {
            // SAFETY: as above.
            let d = unsafe { self.y.slice(to + c * self.col_step, rows) };
            for (r, d) in d.iter_mut().enumerate() {
                *d = self.x[from + r * self.row_step + c];
            }
        }
    }
}

/// A position in an array of given sizes and strides.
struct Odometer {
    index: Vec<usize>,
    offset: usize,
}

impl Odometer {
    fn new(axes: &[(usize, usize)], mut at: usize) -> Self {
        let mut index = vec![0; axes.len()];
        let mut offset = 0;
        for (i, (size, step)) in axes.iter().enumerate().rev() {
            index[i] = at % size;
            at /= size;
            offset += index[i] * step;
        }
        Odometer { index, offset }
    }

    #[inline]
    fn step(&mut self, axes: &[(usize, usize)]) {
        for (i, (size, step)) in axes.iter().enumerate().rev() {
            self.index[i] += 1;
            self.offset += step;
            if self.index[i] < *size {
                return;
            }
            self.index[i] = 0;
            self.offset -= step * size;
        }
    }
}

/// Copies the elements of `x` at `offset + Σ i_k strides[k]` to a contiguous `y` of `shape`:
/// slices with any step, broadcasts (stride 0), reversed axes (negative strides). Panics if an
/// index leaves `x`.
pub fn copy_strided<T: Item>(
    x: &[T],
    offset: usize,
    shape: &[usize],
    strides: &[isize],
    y: &mut [T],
) {
    assert_eq!(shape.len(), strides.len(), "one stride for each axis");
    let total = count(shape);
    assert!(y.len() >= total, "output too short");
    if total == 0 {
        return;
    }
    let (rows, inner, step) = match (shape.last(), strides.last()) {
        (Some(&n), Some(&s)) => (total / n, n, s),
        _ => (1, 1, 1),
    };
    let outer = shape.len().saturating_sub(1);
    let y = Shared::new(y);
    for_ranges(rows, GRAIN / inner, |start, len| {
        for r in start..start + len {
            let (mut rest, mut at) = (r, offset as isize);
            for i in (0..outer).rev() {
                at += (rest % shape[i]) as isize * strides[i];
                rest /= shape[i];
            }
            // SAFETY: the rows are disjoint.
            let row = unsafe { y.slice(r * inner, inner) };
            match step {
                1 => copy(&x[at as usize..][..inner], row),
                0 => row.fill(x[at as usize]),
                _ => {
                    for (i, d) in row.iter_mut().enumerate() {
                        *d = x[(at + i as isize * step) as usize];
                    }
                }
            }
        }
    });
}

/// Equally spaced blocks, for concatenation and splitting.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// How many blocks.
    pub count: usize,
    /// Elements of a block.
    pub len: usize,
    /// First block in the source, and the distance between blocks there.
    pub src: (usize, usize),
    /// First block in the destination, and the distance there; at least `len`.
    pub dst: (usize, usize),
}

/// Copies blocks. To concatenate along an axis, call it once for each input with
/// `len = axis · inner` of that input and `dst = (inner · before, inner · total)`. Panics if blocks
/// overlap in the destination or leave a slice.
pub fn copy_blocks<T: Item>(x: &[T], y: &mut [T], b: &Blocks) {
    if b.count == 0 || b.len == 0 {
        return;
    }
    assert!(b.count == 1 || b.dst.1 >= b.len, "blocks overlap");
    let inside = |(first, step): (usize, usize), have: usize| {
        let last = (b.count - 1).checked_mul(step).and_then(|last| last.checked_add(first));
        last.and_then(|last| last.checked_add(b.len)).is_some_and(|end| end <= have)
    };
    assert!(inside(b.src, x.len()) && inside(b.dst, y.len()), "blocks outside their slices");
    let y = Shared::new(y);
    for_ranges(b.count, GRAIN / b.len, |start, n| {
        for i in start..start + n {
            let at = b.src.0 + i * b.src.1;
            // SAFETY: the blocks do not overlap, checked above, and their places do not wrap.
            let d = unsafe { y.slice(b.dst.0 + i * b.dst.1, b.len) };
            copy(&x[at..at + b.len], d);
        }
    });
}

/// Pads with `value`. `before[k]` elements are added in front of axis `k` (removed if negative);
/// `out_shape` says what follows.
pub fn pad<T: Item>(
    x: &[T],
    shape: &[usize],
    before: &[isize],
    out_shape: &[usize],
    value: T,
    y: &mut [T],
) {
    let n = shape.len();
    assert!(before.len() == n && out_shape.len() == n, "one entry for each axis");
    let (total, have) = (count(out_shape), count(shape));
    assert!(x.len() >= have && y.len() >= total, "slice too short");
    if total == 0 {
        return;
    }
    if n == 0 {
        y[0] = x[0];
        return;
    }
    let (inner, width) = (out_shape[n - 1], shape[n - 1]);
    let strides = strides_of(shape);
    // The part of a row that comes from the input.
    let lo = before[n - 1].clamp(0, inner as isize) as usize;
    let hi = (before[n - 1] + width as isize).clamp(lo as isize, inner as isize) as usize;
    let y = Shared::new(y);
    for_ranges(total / inner, GRAIN / inner, |start, len| {
        for r in start..start + len {
            // SAFETY: the rows are disjoint.
            let row = unsafe { y.slice(r * inner, inner) };
            let (mut rest, mut at, mut inside) = (r, 0, true);
            for i in (0..n - 1).rev() {
                let k = (rest % out_shape[i]) as isize - before[i];
                rest /= out_shape[i];
                inside &= (0..shape[i] as isize).contains(&k);
                at += k.max(0) as usize * strides[i];
            }
            if inside && hi > lo {
                let first = at + (lo as isize - before[n - 1]) as usize;
                row[..lo].fill(value);
                copy(&x[first..first + hi - lo], &mut row[lo..hi]);
                row[hi..].fill(value);
            } else {
                row.fill(value);
            }
        }
    });
}

/// Picks slices of the middle axis of `[outer, axis, inner]`: `y` is `[outer, indices, inner]`.
/// Panics on an index past the axis; the caller has resolved negative ones.
pub fn gather<T: Item>(x: &[T], [outer, axis, inner]: [usize; 3], indices: &[usize], y: &mut [T]) {
    let n = indices.len();
    let outputs = count(&[outer, n, inner]);
    assert!(x.len() >= count(&[outer, axis, inner]) && y.len() >= outputs, "slice too short");
    assert!(indices.iter().all(|i| *i < axis), "index past the axis");
    if outputs == 0 {
        return;
    }
    let y = Shared::new(y);
    for_ranges(outer * n, GRAIN / inner, |start, len| {
        for r in start..start + len {
            let at = (r / n * axis + indices[r % n]) * inner;
            // SAFETY: the rows are disjoint.
            copy(&x[at..at + inner], unsafe { y.slice(r * inner, inner) });
        }
    });
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
        let mut y = vec![T::default(); total];
        transpose(&x, shape, perm, &mut y);
        let strides = strides_of(shape);
        let to: Vec<usize> = perm.iter().map(|&p| shape[p]).collect();
        for (i, v) in y.iter().enumerate() {
            let (mut rest, mut at) = (i, 0);
            for k in (0..to.len()).rev() {
                at += rest % to[k] * strides[perm[k]];
                rest /= to[k];
            }
            assert_eq!(*v, x[at], "{shape:?} {perm:?} at {i}");
        }
    }

    #[test]
    fn transposes() {
        let mut rng = Rng::new(1);
        for _ in 0..150 {
            let n = rng.range(0, 5);
            let shape: Vec<usize> = (0..n).map(|_| [1, 2, 3, 16, 17, 5][rng.below(6)]).collect();
            let mut perm: Vec<usize> = (0..n).collect();
            for i in (1..n).rev() {
                perm.swap(i, rng.below(i + 1));
            }
            check(&shape, &perm, |v| v as u8);
            check(&shape, &perm, |v| v as u16);
            check(&shape, &perm, |v| v as u32);
            check(&shape, &perm, |v| v);
        }
        check(&[300, 700], &[1, 0], |v| v as u32);
        check(&[3, 0, 2], &[2, 0, 1], |v| v as u32);
    }

    #[test]
    fn slices_blocks_pads_and_gathers() {
        let x: Vec<u32> = (0..60).collect();
        let mut y = [0; 8];
        // x as [3,4,5], sliced [2:0:-1, ::2, 4:0:-3] plus the first two of each.
        copy_strided(&x, 44, &[2, 2, 2], &[-20, 10, -3], &mut y);
        assert_eq!(y, [44, 41, 54, 51, 24, 21, 34, 31]);
        let mut y = [0; 4];
        copy_strided(&x, 7, &[2, 2], &[1, 0], &mut y);
        assert_eq!(y, [7, 7, 8, 8]);
        let mut y = [0; 10];
        copy_blocks(&x, &mut y, &Blocks { count: 2, len: 3, src: (0, 3), dst: (1, 5) });
        assert_eq!(y, [0, 0, 1, 2, 0, 0, 3, 4, 5, 0]);
        let mut y = [0; 12];
        pad(&x[..6], &[2, 3], &[1, -1], &[3, 4], 9, &mut y);
        assert_eq!(y, [9, 9, 9, 9, 1, 2, 9, 9, 4, 5, 9, 9]);
        let mut y = [0; 6];
        pad(&[1, 2], &[2], &[-5], &[6], 3, &mut y);
        assert_eq!(y, [3; 6]);
        let mut y = [0; 8];
        gather(&x, [2, 3, 2], &[2, 0], &mut y);
        assert_eq!(y, [4, 5, 0, 1, 10, 11, 6, 7]);
    }
}
