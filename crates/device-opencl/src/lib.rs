//! Devices behind OpenCL: GPUs, CPUs and FPGAs with a runtime of their vendor.
//!
//! The library is loaded when the first device is looked for, so that one binary runs with and
//! without it. Kernels come as data and are written in OpenCL C by `hetra-kernel`.
//!
//! A device is `opencl:N`, the N-th of all platforms; where it can be divided, `opencl:N.M` is the
//! M-th of its compute units, with a queue of its own.

mod clock;
mod copies;
mod driver;
mod find;
mod launcher;
mod memory;
mod pinned;

pub use driver::OpenClDriver;
pub use find::{OpenClDevice, all, open};
pub use launcher::OpenCl;
