//! Memory that was given back, kept for the next who asks.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Blocks by their size in bytes. Devices whose work is done in order may use a block again before
/// the last work on it is done.
pub struct Pool<T> {
    free: Mutex<Free<T>>,
    bytes_max: usize,
}

struct Free<T> {
    blocks: BTreeMap<usize, Vec<T>>,
    bytes: usize,
}

impl<T> Pool<T> {
    /// A pool that keeps at most so many bytes.
    pub fn new(bytes_max: usize) -> Pool<T> {
        Pool { free: Mutex::new(Free { blocks: BTreeMap::new(), bytes: 0 }), bytes_max }
    }

    /// The size of the block for so many bytes: at most an eighth more, so that blocks fit again.
    pub fn size(bytes: usize) -> usize {
        let step = (bytes.max(1).next_power_of_two() / 8).max(256);
        bytes.max(1).checked_next_multiple_of(step).unwrap_or(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Free<T>> {
        // A pool stays usable after a panic elsewhere: its entries are whole.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of exactly this size, if there is one.
    pub fn take(&self, size: usize) -> Option<T> {
        let free = &mut *self.lock();
        let block = free.blocks.get_mut(&size)?.pop()?;
        free.bytes -= size;
        Some(block)
    }

    /// Gives a block back. The pool drops it if it has enough; says whether it kept it.
    pub fn give(&self, size: usize, block: T) -> bool {
        let free = &mut *self.lock();
        let kept = free.bytes.saturating_add(size) <= self.bytes_max;
        if kept {
            free.bytes += size;
            free.blocks.entry(size).or_default().push(block);
        }
        kept
    }

    /// Drops everything: there is no other memory. Says how many bytes it had.
    pub fn clear(&self) -> usize {
        let free = &mut *self.lock();
        free.blocks.clear();
        std::mem::take(&mut free.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_do_not_pile_up() {
        let pool = Pool::new(1000);
        pool.give(256, 'a');
        pool.give(512, 'b');
        pool.give(512, 'c');
        assert_eq!((pool.take(512), pool.take(512), pool.take(256)), (Some('b'), None, Some('a')));
        pool.give(256, 'd');
        pool.clear();
        assert_eq!(pool.take(256), None);
    }

    #[test]
    fn sizes_waste_little() {
        for bytes in [0, 1, 255, 256, 257, 1000, 4097, 1 << 20, (1 << 20) + 1, 123_456_789] {
            let size = Pool::<()>::size(bytes);
            assert!(size >= bytes && size <= bytes + (bytes / 4).max(256), "{bytes} {size}");
            assert_eq!(Pool::<()>::size(size), size);
        }
    }
}
