//! Aligned buffers, lent from a small per-thread store, and slices that tasks share.

use std::cell::RefCell;
use std::marker::PhantomData;

use crate::pages::Block;

/// A cache line of floats; the unit that gives buffers their alignment.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Line([f32; 16]);

/// A float buffer that starts on a cache line, so that full vectors never straddle two lines. Large
/// ones lie on huge pages.
#[derive(Default)]
pub struct AlignedBuf {
    memory: Memory,
    len: usize,
}

enum Memory {
    Heap(Box<[Line]>),
    Pages(Block),
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::Heap(Box::default())
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} floats", self.len)
    }
}

/// Of what stays, fewer bytes are left to the heap.
const STAYING_MIN: usize = 32 << 10;

/// Of what is lent, fewer bytes are left to the heap.
const LENT_MIN: usize = 1 << 20;

impl AlignedBuf {
    /// `len` zeros, which stay: weights.
    pub fn zeroed(len: usize) -> Self {
        AlignedBuf::with(len, |bytes| match bytes {
            STAYING_MIN.. => Block::zeroed(bytes),
            _ => None,
        })
    }

    /// `len` zeros, which come and go.
    fn to_lend(len: usize) -> Self {
        AlignedBuf::with(len, |bytes| match bytes {
            LENT_MIN.. => Block::alone(bytes),
            _ => None,
        })
    }

    fn with(len: usize, pages: impl Fn(usize) -> Option<Block>) -> Self {
        // Where there are no pages, the heap has none either, and ends the process as it does for
        // any other allocation.
        let heap = || Memory::Heap(vec![Line([0.0; 16]); len.div_ceil(16)].into());
        let bytes = count(&[len.next_multiple_of(16), size_of::<f32>()]);
        AlignedBuf { memory: pages(bytes).map_or_else(heap, Memory::Pages), len }
    }

    /// How many floats there is memory for.
    fn capacity(&self) -> usize {
        match &self.memory {
            Memory::Heap(lines) => lines.len() * 16,
            Memory::Pages(block) => block.bytes().len() / size_of::<f32>(),
        }
    }

    /// The floats.
    pub fn as_slice(&self) -> &[f32] {
        let all: &[f32] = match &self.memory {
            // SAFETY: `Line` is sixteen floats without padding, all of them written when it was
            // made.
            Memory::Heap(lines) => unsafe {
                std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 16)
            },
            Memory::Pages(block) => bytemuck::cast_slice(block.bytes()),
        };
        &all[..self.len]
    }
    /// The floats, writable.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        let all: &mut [f32] = match &mut self.memory {
            // SAFETY: as in `as_slice`, and the borrow is unique.
            Memory::Heap(lines) => unsafe {
                std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16)
            },
            Memory::Pages(block) => bytemuck::cast_slice_mut(block.bytes_mut()),
        };
        &mut all[..self.len]
    }
    /// The same memory as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.as_slice())
    }
    /// The same memory as writable bytes.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self.as_mut_slice())
    }
}

/// Buffers that a thread keeps for reuse; more are dropped.
const KEPT_MAX: usize = 6;
/// Floats of all of them (64 MiB), so that one big call does not pin its memory.
const KEPT_LEN_MAX: usize = 16 << 20;

thread_local! {
    static KEPT: RefCell<Vec<AlignedBuf>> = const { RefCell::new(Vec::new()) };
}

/// A buffer on loan; it goes back to the thread's store when dropped.
#[derive(Debug)]
pub struct Lent(AlignedBuf);

/// Lends a buffer of `len` floats with unspecified contents. A guard, not a closure: a closure
/// would be compiled without the target features of the kernel that calls this.
pub fn lend(len: usize) -> Lent {
    let mut buf = KEPT.with(|kept| {
        let mut kept = kept.borrow_mut();
        // The shortest one that is long enough, else the longest one, which makes room.
        let key = |buf: &AlignedBuf| match buf.capacity() {
            long if long >= len => (false, long),
            short => (true, usize::MAX - short),
        };
        let best = (0..kept.len()).min_by_key(|&i| key(&kept[i]));
        best.map(|i| kept.swap_remove(i)).unwrap_or_default()
    });
    if buf.capacity() < len {
        // Not before the old one is gone: there is memory for one of them.
        drop(std::mem::take(&mut buf));
        buf = AlignedBuf::to_lend(len);
    }
    buf.len = len;
    Lent(buf)
}

impl std::ops::Deref for Lent {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        self.0.as_slice()
    }
}

impl std::ops::DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.0.as_mut_slice()
    }
}

impl Lent {
    /// The same memory as bytes.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
    /// The same memory as writable bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buf = std::mem::take(&mut self.0);
        // The store may be gone already while the thread ends.
        let _gone = KEPT.try_with(|k| {
            let mut kept = k.borrow_mut();
            let all = kept.iter().map(AlignedBuf::capacity).sum::<usize>() + buf.capacity();
            if kept.len() < KEPT_MAX && all <= KEPT_LEN_MAX {
                kept.push(buf);
            }
        });
    }
}

/// A slice that is borrowed for as long as any copy of this lives, and of which tasks write
/// disjoint parts.
#[derive(Debug)]
pub struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

// SAFETY: it stands for a `&mut [T]`, which may be sent. Elements are reached by unsafe functions
// only, whose callers promise that no two of them use the same one.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above; a shared reference to it gives no more than a copy of it does.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// All of `x`, which stays borrowed as long as a copy of this lives.
    pub fn new(x: &'a mut [T]) -> Self {
        Shared { start: x.as_mut_ptr(), len: x.len(), slice: PhantomData }
    }

    /// The `len` elements from `at`. Panics if they are not inside.
    pub fn part(self, at: usize, len: usize) -> Self {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "part outside its slice");
        // SAFETY: at most one past the end of the slice, by the assertion.
        Shared { start: unsafe { self.start.add(at) }, len, slice: PhantomData }
    }

    /// A pointer to `rows` rows of `cols` elements, `step` apart, the first one at `at`. Panics if
    /// they are not inside. Writing through it needs what `slice` needs.
    #[inline(always)]
    pub fn rows(self, at: usize, (rows, step): (usize, usize), cols: usize) -> *mut T {
        let last = rows.saturating_sub(1).checked_mul(step).and_then(|last| last.checked_add(at));
        let end = last.and_then(|last| last.checked_add(cols));
        assert!(end.is_some_and(|end| end <= self.len), "rows outside their slice");
        // SAFETY: `at` is at most `end`, which is inside the slice or at its end.
        unsafe { self.start.add(at) }
    }

    /// The `len` elements from `start`. Panics if they are not inside.
    ///
    /// # Safety
    /// While the result lives, nothing else may use these elements: no other task, and no other
    /// result of this function.
    pub unsafe fn slice(self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "outside its slice");
        // SAFETY: inside the slice by the assertion, and the slice is borrowed for `'a`; the caller
        // promises that no other reference to these elements is alive.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// Product of extents. Panics when it is beyond any memory, so that what is derived from it cannot
/// wrap; an extent of 0 makes it 0 whatever the others are.
pub fn count(extents: &[usize]) -> usize {
    if extents.contains(&0) {
        return 0;
    }
    let product = extents.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    product.expect("extents of an array in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_as_long_as_asked() {
        let mut first = lend(40);
        first.fill(1.0);
        drop(first);
        assert_eq!(lend(17).len(), 17);
        assert_eq!(lend(100).len(), 100);
    }

    #[test]
    fn products_of_extents_do_not_wrap() {
        assert_eq!(count(&[3, 4]), 12);
        assert_eq!(count(&[usize::MAX, 0, usize::MAX]), 0);
        assert!(std::panic::catch_unwind(|| count(&[1 << 40, 1 << 40])).is_err());
    }

    #[test]
    fn parts_stay_inside() {
        let panics = |f: &dyn Fn(Shared<'_, f32>)| {
            let f = std::panic::AssertUnwindSafe(|| f(Shared::new(&mut [0.0; 8])));
            std::panic::catch_unwind(f).is_err()
        };
        assert!(!panics(&|x| {
            x.part(3, 5).rows(0, (2, 3), 2);
        }));
        assert!(panics(&|x| {
            x.part(4, 5);
        }));
        assert!(panics(&|x| {
            x.part(4, usize::MAX);
        }));
        assert!(panics(&|x| {
            x.part(4, 4).rows(0, (2, 3), 2);
        }));
        assert!(panics(&|x| {
            x.rows(0, (3, usize::MAX / 2 + 1), 1);
        }));
        // SAFETY: nothing else uses the slice.
        assert!(panics(&|x| unsafe {
            x.slice(8, 1);
        }));
    }
}
