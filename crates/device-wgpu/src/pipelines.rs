//! What a driver made of pipelines, kept on disk from one process to the next.

use std::sync::atomic::{AtomicU32, Ordering};

use hetra_device::KernelCache;
use wgpu::{Device, Features, PipelineCache, PipelineCacheDescriptor};

/// After so many new pipelines they are kept when the device has nothing to do, so that they are
/// also where the process ends without a word.
const NEW_MAX: u32 = 8;

/// Larger data is left, and begun anew: it only grows.
const DATA_BYTES_MAX: usize = 32 << 20;

/// The key of all pipelines of a device.
const KEY: &str = "pipelines";

/// The pipelines of a device.
pub(crate) struct Pipelines {
    /// `None` where the driver has no such thing.
    cache: Option<PipelineCache>,
    disk: KernelCache,
    /// Made since they were last kept.
    new: AtomicU32,
}

impl Pipelines {
    /// Those that were kept for a device that says this of itself and its driver.
    pub(crate) fn new(device: &Device, about: &str) -> Pipelines {
        let disk = KernelCache::of(about);
        let cache = device.features().contains(Features::PIPELINE_CACHE).then(|| {
            let data = disk.get(KEY).filter(|data| data.len() <= DATA_BYTES_MAX);
            // SAFETY: the data is what `PipelineCache::get_data` gave for a device and driver of
            // the same name and version: the cache compares that, and a sum over the bytes, and
            // gives nothing else. What another driver made all the same is refused by wgpu's own
            // check of its header, and made anew (`fallback`).
            unsafe {
                device.create_pipeline_cache(&PipelineCacheDescriptor {
                    label: None,
                    data: data.as_deref(),
                    fallback: true,
                })
            }
        });
        Pipelines { cache, disk, new: AtomicU32::new(0) }
    }

    /// For the next pipeline.
    pub(crate) fn cache(&self) -> Option<&PipelineCache> {
        self.cache.as_ref()
    }

    /// A pipeline was made.
    pub(crate) fn made(&self) {
        self.new.fetch_add(1, Ordering::Relaxed);
    }

    /// Nobody waits for a while.
    pub(crate) fn idle(&self) {
        if self.new.load(Ordering::Relaxed) >= NEW_MAX {
            self.keep();
        }
    }

    /// Keeps what is new.
    pub(crate) fn keep(&self) {
        let some = self.new.swap(0, Ordering::Relaxed) > 0;
        let data = self.cache.as_ref().filter(|_| some).and_then(PipelineCache::get_data);
        if let Some(data) = data {
            self.disk.put(KEY, &data);
        }
    }
}
