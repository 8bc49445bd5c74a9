//! Fast CPU kernels over slices: one generic loop each, compiled for three instruction sets.
//!
//! Layout: [`isa`] picks the instruction set, [`simd`] is the vector vocabulary, [`scratch`] lends
//! aligned buffers, [`threads`] runs tasks, [`peak`] measures what
//! there is to reach; the other files hold one family of kernels each.
//! Kernels split work only over outputs (so that the result does not depend on the number of
//! threads), and stay on one thread below about 5 microseconds of work.

pub mod activation;
pub mod arg;
pub mod attention;
pub mod bf16;
pub mod broadcast;
pub mod codes;
pub mod conv;
pub mod conv_transpose;
pub mod conv_volume;
mod depthwise;
pub mod elements;
pub mod embed;
pub mod fourier;
pub mod gemm;
mod gemm_micro;
mod gemm_pack;
mod gemv;
mod image;
pub mod int8;
pub mod int8_conv;
mod int8_pack;
pub mod isa;
pub mod layout;
pub mod lrn;
pub mod math;
pub mod nbits;
pub mod nhwc;
mod nhwc_depthwise;
pub mod nhwc_int8;
mod nhwc_int8_depthwise;
mod nhwc_int8_micro;
mod nhwc_micro;
pub mod nhwc_pool;
mod nhwc_strips;
pub mod norm;
pub mod peak;
pub mod pool;
pub mod quant;
pub mod resize;
pub mod rnn;
pub mod rotary;
pub mod scratch;
pub mod simd;
pub mod threads;
pub mod tiling;
pub mod top;
mod transpose;
mod trigonometry;
pub mod winograd;
mod winograd_transform;

#[cfg(test)]
#[path = "reference_tests.rs"]
mod reference;
