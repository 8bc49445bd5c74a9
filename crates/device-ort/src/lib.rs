//! Parts of a graph by ONNX Runtime, through any of its execution providers.
//!
//! The library is found at run time: `HETRA_ORT_LIB` names its file (`libonnxruntime.so..`), else
//! it is looked for in the Python package `onnxruntime` and in the system's folders. One library is
//! loaded in a process. Devices are `ort` (its own kernels on the processor) and `ort:NAME` for
//! each other provider that the library has, such as `ort:qnn`; of a provider's options those after
//! a question mark are handed on: `ort:qnn?backend_path=libQnnHtp.so`. Providers other than the
//! processor's were never run by us.

mod delegate;
mod driver;
mod library;
mod run;

pub use driver::OrtDriver;
