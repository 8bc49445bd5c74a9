//! The CPU device of Hetra.
//!
//! Programs bind the forms of operators to the loops of [`hetra_cpu_kernels`].

mod device;
mod programs;

pub use device::{CpuDevice, CpuDriver};
