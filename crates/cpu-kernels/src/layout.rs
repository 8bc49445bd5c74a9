//! Moving numbers without changing them: transpose, strided copy, blocks, padding, gathering.
//!
//! The functions are generic over the element, of which only the size matters: callers view their
//! data as `u8`, `u16`, `u32` or `u64`.

use hetra_cpu_base::Axes;
use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::threads::for_ranges;
use smallvec::smallvec;

pub use super::transpose::transpose;

/// Elements that a task moves.
pub(crate) const GRAIN: usize = 16 << 10;

/// What can be moved: plain numbers.
pub trait Item: bytemuck::Pod + Send + Sync + Default {}
impl<T: bytemuck::Pod + Send + Sync + Default> Item for T {}

/// Row-major strides.
pub(crate) fn strides_of(shape: &[usize]) -> Axes {
    let mut out: Axes = smallvec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i];
    }
    out
}

/// Longest copy, in bytes, that is not left to memcpy, whose call costs as much as it moves.
const SHORT: usize = 256;

/// Most elements of blocks that are copied by a loop of their own: to find out how each is to be
/// copied takes longer than to do it.
const SMALL: usize = 8;

#[inline(always)]
pub(crate) fn copy<T: Item>(src: &[T], dst: &mut [T]) {
    let bytes = size_of_val(src);
    assert!(src.len() == dst.len(), "a copy of another length");
    if bytes > SHORT {
        dst.copy_from_slice(src);
    } else {
        // SAFETY: both slices have that many bytes, and a unique one overlaps no other.
        unsafe { copy_short(src.as_ptr().cast(), dst.as_mut_ptr().cast(), bytes) };
    }
}

/// Copies in pieces of a fixed size, the last of which overlaps the one before it.
///
/// # Safety
/// `src` must be readable and `dst` writable for `n` bytes, and they must not overlap.
#[inline(always)]
unsafe fn copy_short(src: *const u8, dst: *mut u8, n: usize) {
    macro_rules! pieces {
        ($size:literal) => {
            if n >= $size {
                let piece = |at: usize| {
                    // SAFETY: `at + $size <= n` in both calls below.
                    unsafe { dst.add(at).copy_from_nonoverlapping(src.add(at), $size) }
                };
                (0..n / $size).for_each(|i| piece(i * $size));
                return piece(n - $size);
            }
        };
    }
    pieces!(16);
    pieces!(8);
    pieces!(4);
    pieces!(2);
    pieces!(1);
}

/// A position in arrays of the same sizes, each with strides of its own.
pub(crate) struct Odometer<const N: usize> {
    index: Axes,
    pub(crate) offsets: [isize; N],
}

impl<const N: usize> Odometer<N> {
    pub(crate) fn new(axes: &[(usize, [isize; N])], mut at: usize) -> Self {
        let mut index: Axes = smallvec![0; axes.len()];
        let mut offsets = [0; N];
        for (i, (size, steps)) in axes.iter().enumerate().rev() {
            index[i] = at % size;
            at /= size;
            (0..N).for_each(|k| offsets[k] += index[i] as isize * steps[k]);
        }
        Odometer { index, offsets }
    }

    #[inline]
    pub(crate) fn step(&mut self, axes: &[(usize, [isize; N])]) {
        for (i, (size, steps)) in axes.iter().enumerate().rev() {
            self.index[i] += 1;
            (0..N).for_each(|k| self.offsets[k] += steps[k]);
            if self.index[i] < *size {
                return;
            }
            self.index[i] = 0;
            (0..N).for_each(|k| self.offsets[k] -= steps[k] * *size as isize);
        }
    }
}

/// Drops axes of size one and merges axes that are walked as one; never empty.
pub(crate) fn merged(axes: impl Iterator<Item = (usize, isize)>) -> Axes<(usize, [isize; 1])> {
    let mut out: Axes<(usize, [isize; 1])> = Axes::new();
    for (size, step) in axes.filter(|axis| axis.0 != 1) {
        match out.last_mut() {
            Some(o) if o.1[0] == step * size as isize => *o = (o.0 * size, [step]),
            _ => out.push((size, [step])),
        }
    }
    if out.is_empty() {
        out.push((1, [1]));
    }
    out
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
    let axes = merged(shape.iter().copied().zip(strides.iter().copied()));
    let (&(inner, [step]), outer) = axes.split_last().expect("merged gives at least one axis");
    if let (1, &[(rows, [apart])]) = (step, outer)
        && let Ok(apart) = usize::try_from(apart)
    {
        let (src, dst) = ((offset, apart), (0, inner));
        return copy_blocks(x, y, &Blocks { count: rows, len: inner, src, dst });
    }
    let pieces = inner.div_ceil(GRAIN);
    let y = Shared::new(y);
    for_ranges(total / inner * pieces, GRAIN * pieces / inner, |start, len| {
        let mut at = Odometer::new(outer, start / pieces);
        for task in start..start + len {
            let first = task % pieces * GRAIN;
            let len = GRAIN.min(inner - first);
            // SAFETY: the pieces of all rows are disjoint.
            let row = unsafe { y.slice(task / pieces * inner + first, len) };
            let from = offset as isize + at.offsets[0] + first as isize * step;
            match step {
                1 => copy(&x[from as usize..][..len], row),
                0 => row.fill(x[from as usize]),
                2.. => {
                    let x = &x[from as usize..][..(len - 1) * step as usize + 1];
                    let every = x.iter().step_by(step as usize);
                    row.iter_mut().zip(every).for_each(|(d, s)| *d = *s);
                }
                _ => {
                    for (i, d) in row.iter_mut().enumerate() {
                        *d = x[(from + i as isize * step) as usize];
                    }
                }
            }
            if first + len == inner {
                at.step(outer);
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
    if b.len <= SMALL {
        return for_ranges(b.count, GRAIN / b.len, |start, n| {
            let b = Blocks {
                count: n,
                src: (b.src.0 + start * b.src.1, b.src.1),
                dst: (b.dst.0 + start * b.dst.1, b.dst.1),
                ..*b
            };
            // SAFETY: blocks of the ones that were checked above; tasks have different ones.
            unsafe { copy_small(x, y, &b) };
        });
    }
    let pieces = b.len.div_ceil(GRAIN);
    for_ranges(b.count * pieces, GRAIN * pieces / b.len, |start, n| {
        for task in start..start + n {
            let (i, first) = (task / pieces, task % pieces * GRAIN);
            let len = GRAIN.min(b.len - first);
            let at = b.src.0 + i * b.src.1 + first;
            // SAFETY: the blocks do not overlap, checked above, and their places do not wrap; the
            // pieces of one are disjoint.
            let d = unsafe { y.slice(b.dst.0 + i * b.dst.1 + first, len) };
            copy(&x[at..at + len], d);
        }
    });
}

/// # Safety
/// The blocks must lie inside `x` and `y` and not overlap, and nothing else may use those of `y`.
unsafe fn copy_small<T: Item>(x: &[T], y: Shared<'_, T>, b: &Blocks) {
    macro_rules! lengths {
        ($($len:literal)+) => {
            match b.len {
                $($len => {
                    let dst = y.rows(b.dst.0, (b.count, b.dst.1), b.len);
                    for i in 0..b.count {
                        // SAFETY: block `i < count` of both, which are inside.
                        unsafe {
                            let from = x.as_ptr().add(b.src.0 + i * b.src.1).cast::<[T; $len]>();
                            let to = dst.add(i * b.dst.1).cast::<[T; $len]>();
                            to.write(from.read());
                        }
                    }
                })+
                _ => unreachable!("longer blocks are copied by others"),
            }
        };
    }
    lengths!(1 2 3 4 5 6 7 8);
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
        copy_strided(&x, 5, &[2, 2], &[0, 1], &mut y);
        assert_eq!(y, [5, 6, 5, 6]);
        copy_strided(&x, 5, &[1, 2, 2], &[0, 40, 3], &mut y);
        assert_eq!(y, [5, 8, 45, 48]);
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

    #[test]
    fn copies_of_every_length() {
        for len in (0..300).chain([GRAIN - 1, GRAIN, 2 * GRAIN + 1]) {
            let x: Vec<u8> = (0..2 * len + 3).map(|i| i as u8).collect();
            let mut y = vec![255; 2 * len + 5];
            // Two blocks, with a gap before, between and after them.
            let b = Blocks { count: 2, len, src: (1, len + 1), dst: (1, len + 2) };
            copy_blocks(&x, &mut y, &b);
            let mut want = vec![255; 2 * len + 5];
            if len > 0 {
                want[1..1 + len].copy_from_slice(&x[1..1 + len]);
                want[len + 3..2 * len + 3].copy_from_slice(&x[len + 2..2 * len + 2]);
            }
            assert!(y == want, "{len}");
            for step in [-2isize, 0, 1, 2, 3] {
                let x: Vec<u16> = (0..3 * len + 1).map(|i| i as u16).collect();
                let offset = if step < 0 { 2 * len } else { 0 };
                let mut y = vec![0; 2 * len];
                copy_strided(&x, offset, &[2, len], &[1, step], &mut y);
                for (i, y) in y.iter().enumerate() {
                    let at = (offset + i / len) as isize + (i % len) as isize * step;
                    assert_eq!(*y, x[at as usize], "{len} {step}");
                }
            }
        }
    }
}
