//! Where arrays are: a device, and what was compiled for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hetra_device::{Device, HostThreads};
use hetra_exec::Engine;

use crate::error::Error;

/// Most graphs that are kept compiled for a device.
const ENGINES_MAX: usize = 512;

/// Most memory that engines keep for their next runs, when another one is made.
const IDLE_BYTES_MAX: usize = 256 << 20;

/// A device of arrays.
pub(crate) struct Place {
    id: String,
    device: Arc<dyn Device>,
    engines: Mutex<Engines>,
}

/// Compiled graphs by what they do, and when each was last used.
#[derive(Default)]
struct Engines {
    clock: u64,
    all: HashMap<Vec<u8>, (Arc<Engine>, u64)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn places() -> &'static Mutex<HashMap<String, Arc<Place>>> {
    static PLACES: OnceLock<Mutex<HashMap<String, Arc<Place>>>> = OnceLock::new();
    PLACES.get_or_init(Mutex::default)
}

impl Place {
    /// The device of this id: opened at the first time, and the same one for the life of the
    /// process.
    pub(crate) fn named(id: &str) -> Result<Arc<Place>, Error> {
        let mut places = lock(places());
        if let Some(place) = places.get(id) {
            return Ok(place.clone());
        }
        let device = crate::open(id, HostThreads::default())?;
        // `wgpu` is `wgpu:0`: one device by either name.
        let own = device.info().id.clone();
        let place = places.get(&own).cloned().unwrap_or_else(|| {
            Arc::new(Place { id: own.clone(), device, engines: Mutex::default() })
        });
        places.insert(own, place.clone());
        places.insert(id.to_string(), place.clone());
        Ok(place)
    }

    /// The CPU.
    pub(crate) fn host() -> Result<Arc<Place>, Error> {
        static HOST: OnceLock<Arc<Place>> = OnceLock::new();
        if let Some(host) = HOST.get() {
            return Ok(host.clone());
        }
        let host = Place::named("cpu")?;
        Ok(HOST.get_or_init(|| host).clone())
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// What was compiled for this key, or what `make` gives now.
    pub(crate) fn engine(
        &self,
        key: Vec<u8>,
        make: impl FnOnce() -> Result<Engine, Error>,
    ) -> Result<Arc<Engine>, Error> {
        {
            let mut engines = lock(&self.engines);
            engines.clock += 1;
            let now = engines.clock;
            if let Some((engine, used)) = engines.all.get_mut(&key) {
                *used = now;
                return Ok(engine.clone());
            }
        }
        let made = Arc::new(make()?);
        let mut engines = lock(&self.engines);
        if engines.all.len() >= ENGINES_MAX {
            // The older half goes, so that this is rare.
            let mut times: Vec<u64> = engines.all.values().map(|(_, used)| *used).collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            engines.all.retain(|_, (_, used)| *used > middle);
        }
        let idle: usize = engines.all.values().map(|(engine, _)| engine.idle_bytes()).sum();
        if idle > IDLE_BYTES_MAX {
            engines.all.values().for_each(|(engine, _)| engine.forget_memories());
        }
        let now = engines.clock;
        engines.all.insert(key, (made.clone(), now));
        Ok(made)
    }
}
