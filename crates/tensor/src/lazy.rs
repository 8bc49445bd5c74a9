//! Bytes of a tensor that lie elsewhere, or are made when they are first asked for.
//!
//! A weight is read once, when a kernel packs it in its own order, and then hardly ever. So it need
//! not stay: the file has it, or it is made again from what is smaller. What was loaded stays as
//! long as anybody has the tensor; [`Lazy::again`] gives the same bytes not loaded.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use crate::blob::Blob;
use crate::buffer::Buffer;
use crate::tensor::{Tensor, TensorError};

/// Memory that is not the host's and holds the elements of a tensor: a device's.
pub trait Held: Send + Sync {
    /// Waits until the elements are there and copies the first bytes of them to the host.
    ///
    /// # Errors
    /// `Device` when what makes them has failed, or the device is gone.
    fn read(&self, into: &mut [u8]) -> Result<(), TensorError>;

    /// Itself, for the device that it is of.
    fn as_any(&self) -> &dyn Any;
}

/// Makes a tensor, the same one each time.
type Make = dyn Fn() -> Tensor + Send + Sync;

/// Where bytes come from.
#[derive(Clone)]
enum Origin {
    Blob(Blob),
    Made(Arc<Make>),
    Held(Arc<dyn Held>),
}

/// Bytes that are loaded when they are asked for.
pub(crate) struct Lazy {
    origin: Origin,
    len: usize,
    /// Bytes at which the elements must lie: a slice of them is one of numbers.
    align: usize,
    loaded: OnceLock<Arc<Buffer>>,
}

impl Lazy {
    pub(crate) fn of_blob(blob: Blob, align: usize) -> Lazy {
        let len = blob.bytes().len();
        Lazy { origin: Origin::Blob(blob), len, align, loaded: OnceLock::new() }
    }

    pub(crate) fn made(len: usize, make: impl Fn() -> Tensor + Send + Sync + 'static) -> Lazy {
        Lazy { origin: Origin::Made(Arc::new(make)), len, align: 1, loaded: OnceLock::new() }
    }

    pub(crate) fn held(len: usize, held: Arc<dyn Held>) -> Lazy {
        Lazy { origin: Origin::Held(held), len, align: 1, loaded: OnceLock::new() }
    }

    /// The memory elsewhere that has the bytes.
    pub(crate) fn holder(&self) -> Option<&Arc<dyn Held>> {
        match &self.origin {
            Origin::Held(held) => Some(held),
            Origin::Blob(_) | Origin::Made(_) => None,
        }
    }

    /// Copies what a device holds to the host, unless it is there already.
    pub(crate) fn fetch(&self) -> Result<(), TensorError> {
        let Origin::Held(held) = &self.origin else { return Ok(()) };
        if self.loaded.get().is_none() {
            let mut block = Buffer::zeroed(self.len)?;
            held.read(&mut block.bytes_mut()[..self.len])?;
            // Somebody else may have been faster, with the same bytes.
            let _ = self.loaded.set(Arc::new(block));
        }
        Ok(())
    }

    /// The bytes where they lie, at any address; `None` where they are yet to be made.
    pub(crate) fn raw(&self) -> Option<&[u8]> {
        match (&self.origin, self.loaded.get()) {
            (_, Some(block)) => Some(&block.bytes()[..self.len]),
            (Origin::Blob(blob), None) => Some(blob.bytes()),
            (Origin::Made(_) | Origin::Held(_), None) => None,
        }
    }

    /// The bytes, aligned for their elements; copied or made at the first call if need be.
    ///
    /// # Panics
    /// When there is no memory, as an allocation of the standard library, when what is made has
    /// another size than was said, and when a device fails that [`Lazy::fetch`] was not asked of.
    pub(crate) fn bytes(&self) -> &[u8] {
        if let Some(raw) = self.raw()
            && raw.as_ptr().addr().is_multiple_of(self.align)
        {
            return raw;
        }
        &self.loaded.get_or_init(|| self.load()).bytes()[..self.len]
    }

    fn load(&self) -> Arc<Buffer> {
        let copy = |bytes: &[u8]| {
            // The length was held against the limit when the tensor was made.
            let mut block = Buffer::zeroed(self.len).expect("no memory for a tensor of a model");
            block.bytes_mut()[..self.len].copy_from_slice(bytes);
            Arc::new(block)
        };
        match &self.origin {
            Origin::Made(make) => {
                let tensor = make();
                assert_eq!(tensor.byte_len(), self.len, "made of another size");
                match tensor.is_unique() {
                    true => tensor.into_buffer().expect("nobody else shares it"),
                    false => copy(tensor.bytes()),
                }
            }
            Origin::Held(held) => {
                let mut block = Buffer::zeroed(self.len).expect("no memory for a tensor");
                held.read(&mut block.bytes_mut()[..self.len]).expect("fetch before you read");
                Arc::new(block)
            }
            Origin::Blob(blob) => {
                let block = copy(blob.bytes());
                blob.release();
                block
            }
        }
    }

    /// Whether memory was taken for the bytes.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.get().is_some()
    }

    /// Sends pages of a mapped file out of memory.
    pub(crate) fn release(&self) {
        if let Origin::Blob(blob) = &self.origin {
            blob.release();
        }
    }

    /// The same bytes, not loaded. Pages of a mapped file go out of memory.
    pub(crate) fn again(&self) -> Lazy {
        self.release();
        let (origin, len, align) = (self.origin.clone(), self.len, self.align);
        Lazy { origin, len, align, loaded: OnceLock::new() }
    }
}
