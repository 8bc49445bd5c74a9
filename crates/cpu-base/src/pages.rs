//! Memory for what stays, on huge pages where the system gives them.
//!
//! Weights are read from end to end by every run and written once. Blocks of some size are cut from
//! chunks of whole huge pages, one after the other; a chunk goes back to the system with the last
//! block of it.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hetra_memory::{HUGE, Mapping};

/// Bytes of a chunk that blocks share.
const CHUNK: usize = 2 * HUGE;

/// Blocks of more than a quarter of a chunk have one to themselves, so that little of each is left.
const SHARED_MAX: usize = CHUNK / 4;

/// Blocks start on a line of the cache.
const LINE: usize = 64;

/// Memory of the process, zeros at first.
struct Chunk {
    /// Owns what is below; nobody reads or writes through it.
    _map: Mapping,
    /// On a line of the cache.
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a chunk is an address and a length; its bytes are reached by blocks only.
unsafe impl Send for Chunk {}
// SAFETY: as above: nothing of a chunk changes after it was made.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// `None` where the system has no memory of this size.
    fn new(len: usize) -> Option<Chunk> {
        let mut map = Mapping::zeroed(len)?;
        let start = NonNull::new(map.bytes_mut().as_mut_ptr())?;
        Some(Chunk { _map: map, start, len })
    }
}

/// Bytes that nobody else has, zeros at first.
pub(crate) struct Block {
    chunk: Arc<Chunk>,
    at: usize,
    len: usize,
}

/// The chunk that blocks are cut from, and where the next one begins.
static CURRENT: Mutex<(Weak<Chunk>, usize)> = Mutex::new((Weak::new(), 0));

impl Block {
    /// `None` where the system has no memory of this size.
    pub(crate) fn zeroed(len: usize) -> Option<Block> {
        if len > SHARED_MAX {
            return Block::alone(len);
        }
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let room = |chunk: &Arc<Chunk>| chunk.len - current.1 >= len;
        let (chunk, at) = match current.0.upgrade().filter(room) {
            Some(chunk) => (chunk, current.1),
            None => (Arc::new(Chunk::new(CHUNK)?), 0),
        };
        *current = (Arc::downgrade(&chunk), (at + len).next_multiple_of(LINE));
        Some(Block { chunk, at, len })
    }

    /// The same, in a chunk of its own: for what comes and goes.
    pub(crate) fn alone(len: usize) -> Option<Block> {
        Some(Block { chunk: Arc::new(Chunk::new(len)?), at: 0, len })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `at + len` is inside the chunk, which lives as long as this and was zeroed by the
        // system. No other block has any of these bytes: each begins where the last one ended, or
        // in a chunk of its own, and a chunk whose last block is gone is never cut again.
        unsafe { std::slice::from_raw_parts(self.chunk.start.as_ptr().add(self.at), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.start.as_ptr().add(self.at), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_zeros_on_lines_and_apart() {
        let sizes = [1, 64, 65, 100_000, SHARED_MAX, SHARED_MAX - 1, SHARED_MAX + 1, 3 * HUGE + 5];
        let mut blocks: Vec<Block> = Vec::new();
        for round in 0..3u8 {
            for &size in &sizes {
                let mut block = Block::zeroed(size).unwrap();
                assert!(block.bytes().len() == size && block.bytes().iter().all(|&byte| byte == 0));
                assert_eq!(block.bytes().as_ptr() as usize % LINE, 0);
                block.bytes_mut().fill(blocks.len() as u8 + 1);
                blocks.push(block);
            }
            // Some of a chunk go; what is left stays, and nothing new lies there.
            blocks.swap_remove(usize::from(round));
        }
        let mut spans: Vec<(usize, usize)> =
            blocks.iter().map(|b| (b.bytes().as_ptr() as usize, b.bytes().len())).collect();
        spans.sort_unstable();
        assert!(spans.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        assert!(blocks.iter().all(|b| b.bytes().iter().all(|&byte| byte == b.bytes()[0])));
    }

    #[test]
    fn what_no_memory_has_is_refused() {
        assert!(Block::zeroed(usize::MAX - HUGE).is_none());
        assert!(Block::zeroed(usize::MAX).is_none());
    }
}
