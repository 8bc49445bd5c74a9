//! Copies between the host's memory and a device's.

use std::sync::Arc;

use hetra_device::{DeviceError, Pending};
use opencl3::error_codes::ClError;
use opencl3::event::Event;
use opencl3::memory::ClMem;
use opencl3::types::{CL_FALSE, CL_TRUE};

use crate::launcher::Shared;
use crate::memory::Memory;
use crate::pinned::{BLOCK_BYTES, Block, Blocks};

/// Fewer bytes are copied at once.
const PINNED_BYTES_MIN: usize = 64 << 10;

impl Shared {
    /// Waits for what was launched and copies bytes to the host.
    pub(crate) fn read(
        self: &Arc<Self>,
        memory: &Memory,
        into: &mut [u8],
    ) -> Result<(), DeviceError> {
        self.copy(memory, into)?;
        let pending = std::mem::take(&mut self.lock().pending);
        Pending::look(pending, |memory, into| self.copy(memory, into))
    }

    pub(crate) fn copy(&self, memory: &Memory, into: &mut [u8]) -> Result<(), DeviceError> {
        if into.len() > memory.size() {
            let reason = format!("{} bytes of {}", into.len(), memory.size());
            return Err(DeviceError::Failed { device: self.name.clone(), reason });
        }
        if into.is_empty() {
            return Ok(());
        }
        // Without room for blocks it goes the other way.
        if let Some(blocks) = self.pinned.as_ref().filter(|_| into.len() >= PINNED_BYTES_MIN)
            && let Some(two) = self.blocks(blocks)
        {
            return self.copy_pinned((blocks, two), memory, into);
        }
        // SAFETY: the call returns when it has copied (CL_TRUE), the slice is that long, and the
        // buffer is at least as long (checked above).
        let read =
            unsafe { self.queue.enqueue_read_buffer(memory.buffer(), CL_TRUE, 0, into, &[]) };
        read.map(|_| ()).map_err(|error| self.fault("clEnqueueReadBuffer", &error, into.len()))
    }

    pub(crate) fn write(&self, memory: &Memory, bytes: &[u8]) -> Result<(), DeviceError> {
        if bytes.len() > memory.size() {
            let reason = format!("{} bytes of {}", bytes.len(), memory.size());
            return Err(DeviceError::Failed { device: self.name.clone(), reason });
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(blocks) = self.pinned.as_ref().filter(|_| bytes.len() >= PINNED_BYTES_MIN)
            && let Some(two) = self.blocks(blocks)
        {
            return self.write_pinned((blocks, two), memory, bytes);
        }
        // SAFETY: the call returns when it has copied (CL_TRUE), the slice is that long, and the
        // buffer is at least as long (checked above).
        let written = unsafe {
            opencl3::command_queue::enqueue_write_buffer(
                self.queue.get(),
                memory.buffer().get(),
                CL_TRUE,
                0,
                bytes.len(),
                bytes.as_ptr().cast_mut().cast(),
                0,
                std::ptr::null(),
            )
        };
        match written {
            // SAFETY: an event that was just made and that nobody else has.
            Ok(event) => unsafe { opencl3::event::release_event(event) }
                .map_err(|code| self.fault("clReleaseEvent", &ClError(code), 0)),
            Err(code) => Err(self.fault("clEnqueueWriteBuffer", &ClError(code), bytes.len())),
        }
    }

    /// Two blocks, so that the device copies to one while the host copies from the other; `None`
    /// where there is no room.
    fn blocks(&self, blocks: &Blocks) -> Option<[Block; 2]> {
        let one = || blocks.take(&self.context, &self.queue).ok();
        Some([one()?, one()?])
    }

    fn copy_pinned(
        &self,
        (blocks, mut two): (&Blocks, [Block; 2]),
        memory: &Memory,
        into: &mut [u8],
    ) -> Result<(), DeviceError> {
        let fault = |error| self.fault("clEnqueueReadBuffer", &error, BLOCK_BYTES);
        let mut under_way: Option<(Event, &mut [u8], usize)> = None;
        let mut result = Ok(());
        for (turn, part) in into.chunks_mut(BLOCK_BYTES).enumerate() {
            let bytes = &mut two[turn % 2].bytes()[..part.len()];
            // SAFETY: the block is not touched before the event has come (below), also where
            // something fails (`give_back`), and the buffer is at least as long (checked before).
            let read = unsafe {
                let at = turn * BLOCK_BYTES;
                self.queue.enqueue_read_buffer(memory.buffer(), CL_FALSE, at, bytes, &[])
            };
            let before = match read {
                Ok(event) => under_way.replace((event, part, turn)),
                Err(error) => {
                    result = Err(fault(error));
                    break;
                }
            };
            if let Some((event, part, turn)) = before {
                result = result.and(event.wait().map_err(fault));
                part.copy_from_slice(&two[turn % 2].bytes()[..part.len()]);
            }
        }
        if let Some((event, part, turn)) = under_way {
            result = result.and(event.wait().map_err(fault));
            part.copy_from_slice(&two[turn % 2].bytes()[..part.len()]);
        }
        self.give_back(blocks, two, result)
    }

    fn write_pinned(
        &self,
        (blocks, mut two): (&Blocks, [Block; 2]),
        memory: &Memory,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let fault = |error| self.fault("clEnqueueWriteBuffer", &error, BLOCK_BYTES);
        let mut events: [Option<Event>; 2] = [None, None];
        let mut result = Ok(());
        for (turn, part) in bytes.chunks(BLOCK_BYTES).enumerate() {
            if let Some(event) = events[turn % 2].take() {
                result = result.and(event.wait().map_err(fault));
            }
            let block = &mut two[turn % 2].bytes()[..part.len()];
            block.copy_from_slice(part);
            // SAFETY: the block is not touched before the event has come (above, `give_back`), and
            // the buffer is at least as long as all parts (checked before).
            let written = unsafe {
                let buffer = memory.buffer().get();
                let (at, len) = (turn * BLOCK_BYTES, part.len());
                opencl3::command_queue::enqueue_write_buffer(
                    self.queue.get(),
                    buffer,
                    CL_FALSE,
                    at,
                    len,
                    block.as_ptr().cast_mut().cast(),
                    0,
                    std::ptr::null(),
                )
            };
            match written {
                Ok(event) => events[turn % 2] = Some(Event::new(event)),
                Err(code) => {
                    result = Err(fault(ClError(code)));
                    break;
                }
            }
        }
        self.give_back(blocks, two, result)
    }

    /// Waits until nothing uses the blocks any more.
    fn give_back(
        &self,
        blocks: &Blocks,
        two: [Block; 2],
        result: Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let done = self.queue.finish();
        for block in two {
            match done {
                Ok(()) => blocks.give(block),
                // Something may yet write to it: it stays as it is.
                Err(_) => std::mem::forget(block),
            }
        }
        result.and(done.map_err(|error| self.fault("clFinish", &error, 0)))
    }
}
