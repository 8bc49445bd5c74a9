//! What `#[hetra::kernel]` gives.

use std::sync::Arc;

use crate::error::KernelError;
use crate::ir::Kernel;
use crate::launch::{Arg, run_native};
use crate::native::Native;

/// A kernel in both forms: what every device can be given, and what rustc made of it for the host.
#[derive(Clone)]
pub struct Source {
    kernel: Result<Arc<Kernel>, KernelError>,
    native: Native,
}

impl Source {
    /// What the macro calls.
    pub fn new(kernel: Result<Kernel, KernelError>, native: Native) -> Source {
        Source { kernel: kernel.map(Arc::new), native }
    }

    /// What every device can be given.
    ///
    /// # Errors
    /// When the kernel is refused, such as for too much shared memory.
    pub fn kernel(&self) -> Result<&Arc<Kernel>, KernelError> {
        self.kernel.as_ref().map_err(KernelError::clone)
    }

    /// What rustc made of it.
    pub fn native(&self) -> Native {
        self.native
    }

    /// Runs it on the host, one group after the other.
    ///
    /// # Errors
    /// As [`run_native`].
    pub fn run(&self, groups: [u32; 3], args: &mut [Arg<'_>]) -> Result<(), KernelError> {
        run_native(self.kernel()?, self.native, groups, args, |count, group| {
            (0..count).for_each(group);
        })
    }
}

/// As many constants as a kernel has.
///
/// # Errors
/// `Constants` when there are more or fewer.
pub fn constants<const N: usize>(
    name: &str,
    names: &str,
    given: &[u32],
) -> Result<[u32; N], KernelError> {
    given.try_into().map_err(|_| KernelError::Constants {
        name: name.to_string(),
        names: names.to_string(),
        wanted: N,
        got: given.len(),
    })
}
