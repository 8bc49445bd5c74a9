//! Aligned memory blocks, with a limit on what one block may take.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hetra_memory::Mapping;

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

/// Most bytes of mapped blocks that are kept for [`Buffer::used`], and most of one of them.
const FREE_BYTES_MAX: usize = 64 << 20;

/// Mapped blocks that nobody has any more, oldest first.
static FREE: Mutex<Vec<Mapping>> = Mutex::new(Vec::new());

fn free() -> MutexGuard<'static, Vec<Mapping>> {
    // A list of blocks is whole after a panic elsewhere.
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A block of memory that starts on a 64-byte boundary.
pub struct Buffer {
    memory: Memory,
    /// Whether it goes to `FREE` in the end.
    recycled: bool,
}

enum Memory {
    Heap(Box<[Line]>),
    Mapped(Mapping),
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
            && let Some(len) = bytes.checked_next_multiple_of(size_of::<Line>())
            && let Some(mapping) = Mapping::zeroed(len)
        {
            return Ok(Buffer { memory: Memory::Mapped(mapping), recycled: false });
        }
        match bytemuck::allocation::try_zeroed_slice_box::<Line>(bytes.div_ceil(64)) {
            Ok(lines) => Ok(Buffer { memory: Memory::Heap(lines), recycled: false }),
            Err(()) => Err(TensorError::Memory { bytes }),
        }
    }

    /// As [`Buffer::zeroed`], with whatever in it: a large one may have been another such block
    /// before. For results that come and go with the same sizes: to map a block and to clear its
    /// pages takes as long as to write it twice.
    ///
    /// # Errors
    /// As [`Buffer::zeroed`].
    pub fn used(bytes: usize) -> Result<Buffer, TensorError> {
        if bytes >= MAPPED_BYTES_MIN && bytes <= bytes_max() {
            let len = bytes.next_multiple_of(size_of::<Line>());
            let mut free = free();
            if let Some(at) = free.iter().rposition(|block| block.bytes().len() == len) {
                return Ok(Buffer { memory: Memory::Mapped(free.remove(at)), recycled: true });
            }
        }
        let mut block = Buffer::zeroed(bytes)?;
        block.recycled = true;
        Ok(block)
    }

    /// Bytes in the block, a multiple of 64.
    pub fn capacity(&self) -> usize {
        self.bytes().len()
    }

    /// All bytes of the block.
    pub fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(lines) => bytemuck::cast_slice(lines),
            Memory::Mapped(mapping) => mapping.bytes(),
        }
    }

    /// All bytes of the block, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Heap(lines) => bytemuck::cast_slice_mut(lines),
            Memory::Mapped(mapping) => mapping.bytes_mut(),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.recycled {
            return;
        }
        let memory = std::mem::replace(&mut self.memory, Memory::Heap(Box::default()));
        let Memory::Mapped(block) = memory else { return };
        if block.bytes().len() > FREE_BYTES_MAX {
            return;
        }
        let mut free = free();
        free.push(block);
        let mut bytes: usize = free.iter().map(|block| block.bytes().len()).sum();
        let mut old = Vec::new();
        while bytes > FREE_BYTES_MAX {
            let block = free.remove(0);
            bytes -= block.bytes().len();
            old.push(block);
        }
        drop(free);
        // The system takes them back, which takes a while.
        drop(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_used_again() {
        // A size that no other test has.
        let bytes = (5 << 20) + 64 * 77;
        let mut block = Buffer::used(bytes).unwrap();
        assert!(block.bytes().iter().all(|byte| *byte == 0));
        block.bytes_mut().fill(7);
        let place = block.bytes().as_ptr();
        drop(block);
        let again = Buffer::used(bytes).unwrap();
        assert_eq!((again.bytes().as_ptr(), again.bytes()[bytes - 1]), (place, 7));
        // Others are as they always were, and what is kept has a limit.
        assert!(Buffer::zeroed(bytes).unwrap().bytes().iter().all(|byte| *byte == 0));
        let blocks: Vec<Buffer> = (0..20).map(|_| Buffer::used(bytes).unwrap()).collect();
        drop(blocks);
        let kept: usize = free().iter().map(|block| block.bytes().len()).sum();
        assert!(kept <= FREE_BYTES_MAX, "{kept}");
        assert!(Buffer::used(usize::MAX).is_err());
    }

    #[test]
    fn blocks_are_aligned_and_limited() {
        let block = Buffer::zeroed(65).unwrap();
        assert_eq!(block.capacity(), 128);
        assert_eq!(block.bytes().as_ptr() as usize % 64, 0);
        for bytes in [MAPPED_BYTES_MIN - 1, MAPPED_BYTES_MIN, (6 << 20) + 1] {
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
