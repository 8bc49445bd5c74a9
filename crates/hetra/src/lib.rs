//! One model, every chip.
//!
//! ```no_run
//! use hetra::{Session, Tensor};
//!
//! # fn main() -> Result<(), hetra::Error> {
//! let session = Session::builder().model_file("model.onnx").threads(2).build()?;
//! let picture = Tensor::from_slice(&[1, 1, 8, 8], &[0.5f32; 64])?;
//! let outputs = session.run([("image", picture)])?;
//! println!("{:?}", outputs[0]);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Session`] is compiled once and shared freely between threads; inputs of other shapes get
//! plans of their own behind the scenes. [`Session::trace`] tells what a run did.

mod error;
mod outputs;
mod pending;
mod runs;
mod session;

pub use error::Error;
pub use hetra_device::{Device, DeviceError, DeviceInfo, DriverState, Found, Support};
pub use hetra_exec::{Cancel, ExecError, RunOptions, StepTime, Trace};
pub use hetra_ir::{Dim, Graph, Node, Type};
pub use hetra_onnx::{Model, ModelInfo};
pub use hetra_pass::{Claim, Options as PassOptions, PASSES, Report as PassReport};
pub use hetra_tensor::{DType, Tensor, TensorError, TensorView, Value};
pub use outputs::Outputs;
pub use pending::Pending;
pub use session::{Builder, Port, Session};

/// Limits on what a model may ask for. They hold for the whole process and every session in it,
/// since a tensor is made where no session is known; set them before the first session is built.
pub mod limits {
    pub use hetra_ops::{set_turns_max, turns_max};
    pub use hetra_tensor::{bytes_max, set_bytes_max};
}

use hetra_device::Driver;

/// Every driver that is linked in: the only list of them.
pub static DRIVERS: &[&dyn Driver] = &[&hetra_device_cpu::CpuDriver];

/// What each driver found on this machine.
pub fn devices() -> Vec<Found> {
    DRIVERS.iter().flat_map(|driver| driver.discover()).collect()
}

/// Opens a device by its id, such as `cpu`, with a number of host threads.
///
/// # Errors
/// When no driver has such a device; the error lists those that were found.
pub fn open(id: &str, threads: Option<usize>) -> Result<std::sync::Arc<dyn Device>, Error> {
    let mut found = Vec::new();
    for driver in DRIVERS {
        for device in driver.discover() {
            if device.info.id == id {
                return Ok(driver.open(id, threads)?);
            }
            found.push(device.info.id);
        }
    }
    let found = found.join(", ");
    Err(hetra_device::DeviceError::NoDevice { id: id.to_string(), found }.into())
}
