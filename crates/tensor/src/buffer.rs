//! Aligned memory blocks, with a limit on what one block may take.

use std::sync::atomic::{AtomicUsize, Ordering};

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

/// A block of memory that starts on a 64-byte boundary.
pub struct Buffer(Memory);

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
            return Ok(Buffer(Memory::Mapped(mapping)));
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
            Memory::Mapped(mapping) => mapping.bytes(),
        }
    }

    /// All bytes of the block, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Heap(lines) => bytemuck::cast_slice_mut(lines),
            Memory::Mapped(mapping) => mapping.bytes_mut(),
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
