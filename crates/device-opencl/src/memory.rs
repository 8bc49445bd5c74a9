//! Memory of a device.

use std::any::Any;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hetra_device::{DeviceError, Pool};
use hetra_tensor::{Held, TensorError};
use opencl3::context::Context;
use opencl3::memory::{Buffer, CL_MEM_READ_WRITE};

use crate::launcher::Shared;

/// A block of a device's memory. Goes back to the pool when nobody has it.
pub struct Memory {
    /// There until it is dropped.
    buffer: Option<Buffer<u8>>,
    size: usize,
    shared: Arc<Shared>,
}

impl Memory {
    /// A block from the pool, or a new one.
    pub(crate) fn new(shared: &Arc<Shared>, bytes: usize) -> Result<Memory, DeviceError> {
        let most = shared.limits.bytes_max;
        if bytes > most {
            let at_most = format!(", at most {most} at once");
            return Err(DeviceError::Memory { device: shared.name.clone(), bytes, at_most });
        }
        let size = Pool::<Buffer<u8>>::size(bytes).min(most);
        let buffer = match shared.pool.take(size) {
            Some(pooled) => pooled,
            None => Memory::make(shared, size)?,
        };
        Ok(Memory { buffer: Some(buffer), size, shared: shared.clone() })
    }

    /// A new block, for which what is kept for later is given up where it has to be. Drivers may
    /// only find out when a block is first used that there is no memory for it, and end the
    /// process: what the device has is counted here.
    fn make(shared: &Arc<Shared>, size: usize) -> Result<Buffer<u8>, DeviceError> {
        let clear = || shared.made.fetch_sub(shared.pool.clear(), Ordering::Relaxed);
        let reserve = || {
            let more = |made: usize| made.checked_add(size).filter(|all| *all <= shared.bytes);
            shared.made.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        };
        if reserve().is_err() {
            clear();
            reserve().map_err(|_| {
                let at_most = format!(", of {} that it has", shared.bytes);
                DeviceError::Memory { device: shared.name.clone(), bytes: size, at_most }
            })?;
        }
        let made = allocate(&shared.context, size).or_else(|_| {
            clear();
            allocate(&shared.context, size)
        });
        made.map_err(|error| {
            shared.made.fetch_sub(size, Ordering::Relaxed);
            shared.fault("clCreateBuffer", &error, size)
        })
    }

    /// The buffer.
    pub(crate) fn buffer(&self) -> &Buffer<u8> {
        self.buffer.as_ref().expect("there until it is dropped")
    }

    /// Whether it is memory of this device.
    pub(crate) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// Bytes of it.
    pub(crate) fn size(&self) -> usize {
        self.size
    }
}

fn allocate(context: &Context, size: usize) -> opencl3::Result<Buffer<u8>> {
    // SAFETY: without CL_MEM_USE_HOST_PTR and CL_MEM_COPY_HOST_PTR the pointer is not used, and may
    // be null.
    unsafe { Buffer::create(context, CL_MEM_READ_WRITE, size, null_mut()) }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take()
            && !self.shared.pool.give(self.size, buffer)
        {
            self.shared.made.fetch_sub(self.size, Ordering::Relaxed);
        }
    }
}

impl Held for Memory {
    fn read(&self, into: &mut [u8]) -> Result<(), TensorError> {
        self.shared.read(self, into).map_err(TensorError::from)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
