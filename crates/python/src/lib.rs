//! What of the Python package `hetra` is in Rust: arrays, sessions, devices. The names that users
//! call are in `python/hetra`; there each is a line that ends here.

mod array;
mod convert;
mod dlpack;
mod error;
mod functions;
mod operators;
mod session;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::array::PyArray;
    #[pymodule_export]
    use super::error::{DeviceError, ModelError};
    #[pymodule_export]
    use super::functions::{
        arange, binary, clip, concat, cumulative, default_device, devices, einsum, eval, extreme,
        eye, from_dlpack, full, is_in, linspace, matmul, names, nonzero, open_device, power_of,
        random_draw, reduce, scalar_dtype, search_sorted, select, set_default_device, set_prober,
        sort, stack, synchronize, take, take_along, tell_devices, tensordot, traced_run, unary,
        unique, variance, vecdot,
    };
    #[pymodule_export]
    use super::session::PySession;
}
