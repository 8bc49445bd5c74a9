//! Kernels as source text: WGSL, OpenCL C, CUDA C.
//!
//! One walk (`writer.rs`) writes statements and puts expressions together; a `Dialect` says how its
//! language writes each thing. Parameters are called `p_NAME`, variables `v0`, arrays `a0`; what
//! the emitters add begins with `h_`.

mod cuda;
mod opencl;
mod wgsl;
mod writer;

pub use wgsl::{Words, words};

use crate::error::KernelError;
use crate::ir::Kernel;
use crate::types::Scalar;

/// What a kernel is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// WebGPU's language.
    Wgsl,
    /// OpenCL C 1.2.
    OpenCl,
    /// CUDA C++ as NVRTC takes it.
    Cuda,
}

/// How it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// Indices are checked: the first one out of bounds is recorded in one more buffer, what is
    /// read there is the first element, and what is written there is not.
    pub checked: bool,
    /// The device has `f16`.
    pub f16: bool,
    /// The device has subgroups.
    pub subgroups: bool,
}

/// The name of the entry point in all languages: that of the kernel may mean something there.
pub fn entry(kernel: &Kernel) -> String {
    writer::entry_name(kernel)
}

/// A kernel as text, with the entry point [`entry`].
///
/// WGSL: group 0 has the buffers in order at bindings 0, 1, .., then a uniform buffer ([`words`]),
/// then, if checked, the buffer of faults. OpenCL C and CUDA C: parameters in order, then the
/// number of elements of each buffer as a `u32`, then, if checked, the buffer of faults. That
/// buffer has [`FAULT_WORDS`] words, zero at first.
///
/// # Errors
/// `Invalid` as [`Kernel::verify`], and what the target does not have.
pub fn emit(kernel: &Kernel, target: Target, options: Options) -> Result<String, KernelError> {
    kernel.verify()?;
    if kernel.uses(Scalar::F16) && !options.f16 && target != Target::Cuda {
        return Err(lacks(kernel, target, "f16 here"));
    }
    match target {
        Target::Wgsl => wgsl::emit(kernel, options),
        Target::OpenCl => Ok(opencl::emit(kernel, options)),
        Target::Cuda => Ok(cuda::emit(kernel, options)),
    }
}

/// Words of the buffer of faults: the memory counted from 1, and the index.
pub const FAULT_WORDS: usize = 2;

/// What a device recorded; `None` when nothing was out of bounds.
pub fn fault(words: [u32; FAULT_WORDS]) -> Option<(u32, u32)> {
    (words[0] != 0).then(|| (words[0] - 1, words[1]))
}

impl Target {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Wgsl => "WGSL",
            Target::OpenCl => "OpenCL C",
            Target::Cuda => "CUDA C",
        }
    }
}

fn lacks(kernel: &Kernel, target: Target, what: &str) -> KernelError {
    KernelError::Target { name: kernel.name.clone(), target: target.name(), what: what.to_string() }
}
