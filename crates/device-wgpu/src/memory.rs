//! Memory of a device.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hetra_device::{DeviceError, Pool};
use hetra_tensor::{Held, TensorError};
use wgpu::{Buffer, BufferDescriptor, BufferUsages, ErrorFilter};

use crate::launcher::Shared;

/// A block of a device's memory. Goes back to the pool when nobody has it.
pub struct Memory {
    /// There until it is dropped.
    buffer: Option<Buffer>,
    size: usize,
    /// Whether something was launched that may use it.
    pub(crate) launched: AtomicBool,
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
        let size = Pool::<Buffer>::size(bytes).min(most);
        let (buffer, old) = match shared.pool.take(size) {
            Some(buffer) => (buffer, true),
            None => {
                let made = allocate(shared, size).or_else(|_| {
                    // What is kept for later may be what is missing now.
                    shared.pool.clear();
                    allocate(shared, size)
                });
                (made?, false)
            }
        };
        // What was launched before may still use an old block.
        let launched = AtomicBool::new(old);
        Ok(Memory { buffer: Some(buffer), size, launched, shared: shared.clone() })
    }

    /// The buffer.
    pub(crate) fn buffer(&self) -> &Buffer {
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

fn allocate(shared: &Shared, size: usize) -> Result<Buffer, DeviceError> {
    shared.check_lost()?;
    let scopes = [ErrorFilter::OutOfMemory, ErrorFilter::Validation]
        .map(|filter| shared.device.push_error_scope(filter));
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let buffer = shared.device.create_buffer(&BufferDescriptor {
        label: None,
        size: size as u64,
        usage,
        mapped_at_creation: false,
    });
    // Scopes end in the opposite order.
    let faults: Vec<_> =
        scopes.into_iter().rev().filter_map(|scope| pollster::block_on(scope.pop())).collect();
    match faults.first() {
        None => Ok(buffer),
        Some(_) => Err(DeviceError::Memory {
            device: shared.name.clone(),
            bytes: size,
            at_most: String::new(),
        }),
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.shared.pool.give(self.size, buffer);
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
