//! What launchers keep: compiled kernels, and checked launches that nobody has looked at yet.

use std::collections::HashMap;
use std::sync::Arc;

use hetra_kernel::{FAULT_WORDS, Given, Kernel, Options, Target, emit, fault};

use crate::{DeviceError, Launch};

/// Most kernels that are kept.
const KERNELS_MAX: usize = 4096;

/// Compiled kernels: by the kernel itself, and by its text, for the same one made anew.
pub struct Compiled<T> {
    target: Target,
    /// By the address of the kernel, which is kept with it, and by whether it is checked; the
    /// number is a place in `all`.
    kernels: HashMap<(usize, bool), (Arc<Kernel>, usize)>,
    texts: HashMap<String, usize>,
    all: Vec<T>,
}

impl<T> Compiled<T> {
    /// Nothing yet, for this language.
    pub fn new(target: Target) -> Compiled<T> {
        Compiled { target, kernels: HashMap::new(), texts: HashMap::new(), all: Vec::new() }
    }

    /// What was compiled of a kernel; `compile` makes it of the kernel's text at the first time.
    ///
    /// # Errors
    /// When the kernel cannot be had in this language, and those of `compile`.
    pub fn get(
        &mut self,
        kernel: &Arc<Kernel>,
        options: Options,
        compile: impl FnOnce(&str) -> Result<T, DeviceError>,
    ) -> Result<&T, DeviceError> {
        let key = (Arc::as_ptr(kernel).addr(), options.checked);
        if let Some((_, place)) = self.kernels.get(&key) {
            return Ok(&self.all[*place]);
        }
        let text = emit(kernel, self.target, options)?;
        let place = match self.texts.get(&text) {
            Some(place) => *place,
            None => {
                let made = compile(&text)?;
                if self.all.len() >= KERNELS_MAX {
                    *self = Compiled::new(self.target);
                }
                self.all.push(made);
                self.texts.insert(text, self.all.len() - 1);
                self.all.len() - 1
            }
        };
        if self.kernels.len() >= KERNELS_MAX {
            self.kernels.clear();
        }
        self.kernels.insert(key, (kernel.clone(), place));
        Ok(&self.all[place])
    }
}

/// Most checked launches that are not looked at: each has memory.
const PENDING_MAX: usize = 1024;

/// A queue of launches, as launchers have one behind them; what they do with checked launches is
/// the same for all.
pub trait Queue {
    /// Memory of the device.
    type Memory;

    /// Launches a kernel; gives what takes the faults of a checked one.
    ///
    /// # Errors
    /// As [`crate::Launcher::launch`].
    fn start(&self, launch: &Launch<'_>) -> Result<Option<Pending<Self::Memory>>, DeviceError>;

    /// Waits until all that was launched is done.
    ///
    /// # Errors
    /// `Lost`.
    fn finish(&self) -> Result<(), DeviceError>;

    /// Copies memory to the host.
    ///
    /// # Errors
    /// `Lost`.
    fn copy(&self, memory: &Self::Memory, into: &mut [u8]) -> Result<(), DeviceError>;

    /// Calls `change` with the launches that nobody has looked at.
    fn pending<R>(&self, change: impl FnOnce(&mut Vec<Pending<Self::Memory>>) -> R) -> R;

    /// [`crate::Launcher::launch`].
    ///
    /// # Errors
    /// As there.
    fn launch_later(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        let Some(started) = self.start(launch)? else { return Ok(()) };
        let count = self.pending(|pending| {
            pending.push(started);
            pending.len()
        });
        if count >= PENDING_MAX { self.wait_for_all() } else { Ok(()) }
    }

    /// [`crate::Launcher::run`].
    ///
    /// # Errors
    /// As there.
    fn launch_now(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        let started = self.start(launch)?;
        self.finish()?;
        Pending::look(started.into_iter().collect(), |memory, into| self.copy(memory, into))
    }

    /// [`crate::Launcher::wait`].
    ///
    /// # Errors
    /// As there.
    fn wait_for_all(&self) -> Result<(), DeviceError> {
        self.finish()?;
        self.look_at_faults()
    }

    /// The first fault of launches that are done.
    ///
    /// # Errors
    /// That fault.
    fn look_at_faults(&self) -> Result<(), DeviceError> {
        Pending::look(self.pending(std::mem::take), |memory, into| self.copy(memory, into))
    }
}

/// A checked launch: what was given, and the memory that takes faults.
pub struct Pending<M> {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// Its arguments.
    pub given: Vec<Given>,
    /// The memory, of [`FAULT_WORDS`] words.
    pub faults: M,
}

impl<M> Pending<M> {
    /// The first fault of launches that are done; `read` copies memory to the host.
    ///
    /// # Errors
    /// That fault, and those of `read`.
    pub fn look(
        all: Vec<Pending<M>>,
        mut read: impl FnMut(&M, &mut [u8]) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let mut first = Ok(());
        for Pending { kernel, given, faults } in all {
            let mut bytes = [0u8; FAULT_WORDS * 4];
            read(&faults, &mut bytes)?;
            let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| bytes[i * 4 + j]));
            if let Some(found) = fault([word(0), word(1)])
                && first.is_ok()
            {
                first = Err(DeviceError::Kernel(kernel.fault(found, &given)));
            }
        }
        first
    }
}
