//! Memory of the host that does not move, for copies to and from devices with memory of their own:
//! from other memory a driver copies twice, or page by page.

use std::slice;

use hetra_device::Pool;
use opencl3::command_queue::{CommandQueue, enqueue_unmap_mem_object};
use opencl3::context::Context;
use opencl3::memory::{
    Buffer, CL_MAP_READ, CL_MAP_WRITE, CL_MEM_ALLOC_HOST_PTR, CL_MEM_READ_WRITE, ClMem,
};
use opencl3::types::{CL_TRUE, cl_command_queue, cl_mem};

/// Bytes of a block: copies are cut into as many as they need.
pub(crate) const BLOCK_BYTES: usize = 4 << 20;

/// Blocks that are kept.
const KEPT_BYTES_MAX: usize = 8 * BLOCK_BYTES;

/// A block of such memory, mapped as long as it lives.
pub(crate) struct Block {
    /// Owns what `data` points to.
    buffer: Buffer<u8>,
    data: *mut u8,
    /// Outlives all blocks: both are of one device, which drops the blocks first.
    queue: cl_command_queue,
}

// SAFETY: the memory behind the pointer belongs to this block alone, and handles of OpenCL may be
// used by any thread.
unsafe impl Send for Block {}

impl Block {
    fn new(context: &Context, queue: &CommandQueue) -> opencl3::Result<Block> {
        let flags = CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR;
        // SAFETY: the driver allocates; a null pointer is what it wants then.
        let buffer =
            unsafe { Buffer::<u8>::create(context, flags, BLOCK_BYTES, std::ptr::null_mut())? };
        let mut data: cl_mem = std::ptr::null_mut();
        // SAFETY: the whole buffer is mapped, and stays so until it is dropped; nothing on the
        // device uses it.
        unsafe {
            let (all, flags) = (BLOCK_BYTES, CL_MAP_READ | CL_MAP_WRITE);
            queue.enqueue_map_buffer(&buffer, CL_TRUE, flags, 0, all, &mut data, &[])?;
        }
        Ok(Block { buffer, data: data.cast(), queue: queue.get() })
    }

    /// Its bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has that many bytes, holds what was in them (any bytes are bytes),
        // lives as long as `self`, and is borrowed mutably with it.
        unsafe { slice::from_raw_parts_mut(self.data, BLOCK_BYTES) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the pointer is that of this buffer's mapping, which ends here, and the queue is
        // alive (see the field). A driver that refuses keeps the memory until the context goes.
        unsafe {
            let _ = enqueue_unmap_mem_object(
                self.queue,
                self.buffer.get(),
                self.data.cast(),
                0,
                std::ptr::null(),
            );
        }
    }
}

/// Blocks for the next who asks.
pub(crate) struct Blocks {
    pool: Pool<Block>,
}

impl Blocks {
    pub(crate) fn new() -> Blocks {
        Blocks { pool: Pool::new(KEPT_BYTES_MAX) }
    }

    /// One that was used before, or a new one.
    pub(crate) fn take(&self, context: &Context, queue: &CommandQueue) -> opencl3::Result<Block> {
        self.pool.take(BLOCK_BYTES).map_or_else(|| Block::new(context, queue), Ok)
    }

    /// Back from its user.
    pub(crate) fn give(&self, block: Block) {
        self.pool.give(BLOCK_BYTES, block);
    }
}
