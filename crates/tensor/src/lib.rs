//! Host tensors: dtype, shape, storage, strided views, and the casts between dtypes.
//!
//! A [`Tensor`] is a dense, row-major block of memory that is shared by reference counting:
//! a clone costs nothing, a reshape shares the block, and a write to a shared block copies it
//! first. A [`TensorView`] borrows one with any strides. [`Value`] is what flows along an edge
//! of a graph: a tensor, a sequence or an optional.
//!
//! This crate knows no operation beyond access and casts; arithmetic lives in `hetra-ops`.

mod blob;
mod buffer;
mod cast;
mod dtype;
mod float8;
mod lazy;
mod shape;
mod tensor;
mod value;
mod view;

pub use blob::Blob;
pub use buffer::{Buffer, bytes_max, set_bytes_max};
pub use cast::{Rounding, cast, cast_into, casts_directly, from_f64, from_i64, to_f64, to_i64};
pub use dtype::{DType, Element};
pub use float8::{decode_narrow, encode_narrow};
pub use hetra_memory::Axes;
pub use lazy::Held;
pub use shape::{Shape, broadcast, element_count, strides_of};
pub use tensor::{Tensor, TensorError};
pub use value::Value;
pub use view::TensorView;
