//! Operators as kernels: a device for everything that runs kernels.
//!
//! A driver that can launch kernels and has memory for them ([`hetra_device::Launcher`]) becomes a
//! [`KernelDevice`]. Its operators are written once, in the kernel language, a file for each
//! family; what they leave the host does, by the device that it is given.
//!
//! Values stay on the device: a program gives tensors whose elements the device holds, and nothing
//! waits until somebody reads them.

mod activation;
mod attention;
mod context;
mod conv;
mod conv_lanes;
mod conv_shared;
mod conv_transpose;
mod conv_way;
mod cut;
mod device;
mod elementwise;
mod expression;
mod fill;
mod finish;
mod math;
mod matmul;
mod movement;
mod norm;
mod panels;
mod pool;
mod product;
mod program;
mod recurrent;
mod reduce;
mod resample;
mod rows;
mod rows_shared;
mod stored;
mod table;
mod tuned;

pub use device::KernelDevice;
pub use table::kernel_ops;

/// Operators that may be left to the host although they are claimed, as only the run shows: indices
/// that are out of range, a scale for each row, a bias for each product, places outside an image.
pub const OPEN: &[&str] = &["Gather", "LayerNormalization", "Resize", "com.microsoft.FusedMatMul"];
