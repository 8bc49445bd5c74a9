//! Fast CPU kernels over elements and rows: sums, norms, softmax, the largest, transforms.
//!
//! Each file holds one family of kernels. What they are written with is `hetra-cpu-base`; products,
//! convolutions and what moves images are in `hetra-cpu-kernels`. Kernels split work only over
//! outputs (so that the result does not depend on the number of threads), and stay on one thread
//! below about 5 microseconds of work.

pub mod arg;
pub mod broadcast;
pub mod broadcast_bf16;
pub mod embed;
pub mod fourier;
pub mod fused;
pub mod gather_concat;
pub mod lrn;
pub mod norm;
pub mod rotary;
pub mod top;
pub mod warp;

#[cfg(test)]
#[path = "../../cpu-kernels/src/reference_tests.rs"]
#[expect(dead_code, reason = "what other crates test with, too")]
mod reference;
