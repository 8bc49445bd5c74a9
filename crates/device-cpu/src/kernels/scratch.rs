//! Aligned buffers, lent from a small per-thread store, and helpers for splitting work.

use std::cell::RefCell;

/// A cache line of floats; the unit that gives buffers their alignment.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Line([f32; 16]);

/// A float buffer that starts on a cache line, so that full vectors never straddle two lines.
#[derive(Clone, Debug, Default)]
pub struct AlignedBuf {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBuf {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        AlignedBuf { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }
    /// Makes the length `len`; elements past the old length are unspecified numbers.
    pub fn resize(&mut self, len: usize) {
        if len > self.lines.len() * 16 {
            self.lines.resize(len.div_ceil(16), Line([0.0; 16]));
        }
        self.len = len;
    }
    /// The floats.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `Line` is sixteen floats without padding, and `len <= 16 * lines.len()`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
    /// The floats, writable.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_slice`, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
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
/// A kept buffer is at most this long (64 MiB), so that one big call does not pin its memory.
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
    let mut buf = KEPT.with(|k| k.borrow_mut().pop()).unwrap_or_default();
    buf.resize(len);
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
        self.0.as_bytes()
    }
    /// The same memory as writable bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buf = std::mem::take(&mut self.0);
        // The store may be gone already while the thread ends.
        let _gone = KEPT.try_with(|k| {
            let mut kept = k.borrow_mut();
            if kept.len() < KEPT_MAX && buf.lines.len() * 16 <= KEPT_LEN_MAX {
                kept.push(buf);
            }
        });
    }
}

/// A pointer that tasks share to write disjoint parts of one output.
#[derive(Debug)]
pub(crate) struct Shared<T>(*mut T, usize);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: the holders write disjoint ranges only; each use states why.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(x: &mut [T]) -> Self {
        Shared(x.as_mut_ptr(), x.len())
    }
    /// The `len` elements from `at`. Panics if they are not inside.
    pub(crate) fn part(self, at: usize, len: usize) -> Self {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.1));
        // SAFETY: inside the slice by the assertion.
        Shared(unsafe { self.0.add(at) }, len)
    }
    /// # Safety
    /// `offset` must not be past the end.
    #[inline(always)]
    pub(crate) unsafe fn at(self, offset: usize) -> *mut T {
        debug_assert!(offset <= self.1);
        // SAFETY: the caller promises that `offset` is inside the slice or at its end.
        unsafe { self.0.add(offset) }
    }
    /// # Safety
    /// No other task may use this range meanwhile.
    pub(crate) unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.1));
        // SAFETY: inside the slice by the assertion; the caller promises that it is not shared.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Threads of the current pool.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads()
}

/// Runs `f(i)` for each `i < n`, in parallel if `parallel` holds and there is more than one.
pub(crate) fn for_each(n: usize, parallel: bool, f: impl Fn(usize) + Sync + Send) {
    use rayon::prelude::*;
    if parallel && n > 1 && threads() > 1 {
        (0..n).into_par_iter().for_each(f);
    } else {
        (0..n).for_each(f);
    }
}

/// Runs `f(start, len)` over `0..n` cut into pieces of about `grain`.
pub(crate) fn for_ranges(n: usize, grain: usize, f: impl Fn(usize, usize) + Sync + Send) {
    let grain = grain.max(1);
    for_each(n.div_ceil(grain), true, |i| {
        let start = i * grain;
        f(start, grain.min(n - start));
    });
}
