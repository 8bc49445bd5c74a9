//! GPUs of any vendor: Vulkan, Metal or Direct3D 12 through wgpu, whichever the system has.
//!
//! Kernels come as data and are written in WGSL by `hetra-kernel`. What is launched is gathered and
//! handed over in one submission when somebody reads or waits. A device is `wgpu:N`, the N-th
//! adapter of the system, real ones before software.

mod clock;
mod driver;
mod find;
mod launcher;
mod memory;
mod pipelines;

pub use driver::WgpuDriver;
pub use find::{Adapter, all, open};
pub use launcher::Wgpu;
