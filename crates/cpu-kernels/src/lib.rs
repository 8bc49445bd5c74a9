//! Fast CPU kernels over slices: one generic loop each, compiled for three instruction sets. Those
//! over single elements and rows are in `hetra-cpu-rows`.
//!
//! Each file holds one family of kernels. What they are written with is `hetra-cpu-base`.
//! Kernels split work only over outputs (so that the result does not depend on the number of
//! threads), and stay on one thread below about 5 microseconds of work.

pub mod attention;
pub mod bf16;
pub mod codes;
pub mod conv;
pub mod conv_transpose;
pub mod conv_volume;
mod depthwise;
pub mod elements;
pub mod gemm;
mod gemm_micro;
mod gemm_pack;
mod gemv;
mod image;
pub mod int8;
pub mod int8_conv;
mod int8_pack;
pub mod layout;
pub mod nbits;
pub mod nhwc;
mod nhwc_depthwise;
mod nhwc_depthwise_bf16;
pub mod nhwc_int8;
mod nhwc_int8_depthwise;
mod nhwc_int8_micro;
mod nhwc_micro;
mod nhwc_pack;
mod nhwc_planes;
pub mod nhwc_pool;
mod nhwc_rows;
mod nhwc_store;
mod nhwc_strips;
mod nhwc_tiles;
pub mod pool;
pub mod quant;
pub mod resize;
pub mod rnn;
mod tiles;
pub mod tiling;
mod transpose;
pub mod winograd;
mod winograd_tiles;
mod winograd_transform;

#[cfg(test)]
#[path = "reference_tests.rs"]
mod reference;
