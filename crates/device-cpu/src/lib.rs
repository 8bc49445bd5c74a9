//! The CPU device of Hetra.
//!
//! [`kernels`] holds the fast loops over plain slices. Each one takes the instruction set to use
//! as its first argument, so that a test can run all of them on one machine.

mod device;
pub mod kernels;
mod programs;

pub use device::{CpuDevice, CpuDriver};
