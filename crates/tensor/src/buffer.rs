//! Aligned memory blocks, with a limit on what one block may take.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::MmapMut;

use crate::tensor::TensorError;

/// One cache line; blocks are made of these so that every block starts on a line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: `Line` is 64 plain bytes with no padding (size equals alignment), so all-zero bytes and
// any other bit pattern are valid values.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above; `repr(C)`, `Copy`, no padding, no invalid bit patterns, no pointers.
unsafe impl bytemuck::Pod for Line {}

/// Most bytes that one tensor may take: sizes come from files, so they need a limit.
static BYTES_MAX: AtomicUsize = AtomicUsize::new(8 << 30);

/// The current limit for one block, in bytes.
pub fn bytes_max() -> usize {
    BYTES_MAX.load(Ordering::Relaxed)
}

/// Sets the limit for one block, in bytes, for the whole process.
pub fn set_bytes_max(bytes: usize) {
    BYTES_MAX.store(bytes, Ordering::Relaxed);
}

/// Blocks of so many bytes are mapped: they come as zeros, on huge pages where the system gives
/// them, and go back to the system at once.
const MAPPED_BYTES_MIN: usize = 1 << 20;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// A block of memory that starts on a 64-byte boundary.
pub struct Buffer(Memory);

enum Memory {
    Heap(Box<[Line]>),
    /// The bytes of these that are the block's.
    Mapped(MmapMut, Range<usize>),
}

/// How far one block begins behind a huge page more than the one before it: blocks that all began
/// on one would lie in the same sets of the caches. A page and the golden part of one.
const STAGGER: usize = 4096 + 39 * 64;
const STAGGERS: usize = 16;

/// A mapping for a block, from just behind the start of a huge page; `None` where the system has
/// none.
fn mapped(bytes: usize) -> Option<Memory> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let behind = COUNT.fetch_add(1, Ordering::Relaxed) % STAGGERS * STAGGER;
    let len = bytes.checked_next_multiple_of(size_of::<Line>())?;
    let map = MmapMut::map_anon(len.checked_add(behind)?.checked_add(HUGE)?).ok()?;
    let page = map.as_ptr().align_offset(HUGE);
    let start = page + behind;
    // A last page that would be mostly empty stays small. That the advice is not taken is no
    // fault: the memory is there all the same.
    #[cfg(target_os = "linux")]
    let _ =
        map.advise_range(memmap2::Advice::HugePage, page, (behind + len + HUGE / 2) / HUGE * HUGE);
    Some(Memory::Mapped(map, start..start + len))
}

impl Buffer {
    /// A zeroed block of at least `bytes` bytes.
    ///
    /// # Errors
    /// `TooLarge` when `bytes` is over [`bytes_max`], `Memory` when the system has no such block.
    pub fn zeroed(bytes: usize) -> Result<Buffer, TensorError> {
        if bytes > bytes_max() {
            return Err(TensorError::TooLarge { bytes: bytes as u128 });
        }
        if bytes >= MAPPED_BYTES_MIN
            && let Some(memory) = mapped(bytes)
        {
            return Ok(Buffer(memory));
        }
        match bytemuck::allocation::try_zeroed_slice_box::<Line>(bytes.div_ceil(64)) {
            Ok(lines) => Ok(Buffer(Memory::Heap(lines))),
            Err(()) => Err(TensorError::Memory { bytes }),
        }
    }

    /// Bytes in the block, a multiple of 64.
    pub fn capacity(&self) -> usize {
        self.bytes().len()
    }

    /// All bytes of the block.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Memory::Heap(lines) => bytemuck::cast_slice(lines),
            Memory::Mapped(map, range) => &map[range.clone()],
        }
    }

    /// All bytes of the block, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Heap(lines) => bytemuck::cast_slice_mut(lines),
            Memory::Mapped(map, range) => &mut map[range.clone()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_limited() {
        let block = Buffer::zeroed(65).unwrap();
        assert_eq!(block.capacity(), 128);
        assert_eq!(block.bytes().as_ptr() as usize % 64, 0);
        for bytes in [MAPPED_BYTES_MIN - 1, MAPPED_BYTES_MIN, 3 * HUGE + 1] {
            let mut block = Buffer::zeroed(bytes).unwrap();
            assert_eq!(block.capacity(), bytes.next_multiple_of(64));
            assert_eq!(block.bytes().as_ptr() as usize % 64, 0);
            assert!(block.bytes().iter().all(|byte| *byte == 0));
            block.bytes_mut().fill(7);
            assert!(block.bytes().iter().all(|byte| *byte == 7));
        }
        assert!(matches!(Buffer::zeroed(usize::MAX / 2), Err(TensorError::TooLarge { .. })));
    }
}
