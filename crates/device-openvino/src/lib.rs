//! Parts of a graph by OpenVINO: Intel's processors, GPUs and NPUs.
//!
//! The library is found at run time: `HETRA_OPENVINO_LIB` names its file (`libopenvino_c.so..`),
//! else it is looked for in the Python package `openvino` and in the system's folders. One library
//! is loaded in a process. Devices are `openvino` (its CPU plugin), `openvino:gpu`, `openvino:npu`,
//! as it says that there are. Nothing here was ever run on an NPU or GPU by us.
//!
//! It computes in f32: its own choice would be bf16 where the processor has that. Integers of 64
//! bits are computed in 32 by it, so inputs that do not fit are an error; what is f64 is refused.

mod call;
mod delegate;
mod driver;
mod library;

pub use driver::OpenVinoDriver;
