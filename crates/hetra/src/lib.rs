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
//!
//! A model need not come from a file as it is: [`import_file`] gives its [`Graph`] to look at or
//! change, a [`GraphBuilder`] makes one, [`export`] writes one.
//!
//! ```
//! use hetra::{DType, Dim, GraphBuilder, ImportOptions, Node, Session, Tensor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut builder = GraphBuilder::new("halve");
//! let x = builder.input("x", DType::F32, vec![Dim::Sym("n".into())]);
//! let half = builder.constant("half", Tensor::scalar(0.5f32));
//! let y = builder.op("Mul", &[x, half]);
//! let z = builder.node(Node::new("Softmax", &[y], &[]).with("axis", 0i64), 1)[0];
//! builder.output(z);
//! let bytes = hetra::export(&builder.finish(), &hetra::ExportOptions::default())?;
//!
//! let mut model = hetra::import_model(&bytes, &ImportOptions::default())?;
//! model.graph.fix_defaults(|name| name == "x");
//! let session = Session::builder().model(model).build()?;
//! let outputs = session.run([("x", Tensor::vector(&[0f32, 0.0]))])?;
//! assert_eq!(outputs[0].as_tensor(), Some(&Tensor::vector(&[0.5f32, 0.5])));
//! # Ok(())
//! # }
//! ```

pub mod array;
mod budget;
mod builder;
mod calibrate;
mod described;
mod error;
pub mod group;
mod int8;
mod made_up;
mod outputs;
mod parts;
mod pending;
pub mod pipeline;
pub mod placing;
mod precision;
pub mod probe;
mod runs;
mod session;
mod shared;
mod tune;
mod tuned;

pub use array::{Array, ArrayError};
pub use builder::Builder;
pub use calibrate::{CALIBRATE_STEPS, CalibrateMoment, Calibrated, calibrate};
pub use error::Error;
pub use hetra_device::{
    Device, DeviceError, DeviceInfo, DriverState, Found, HostThreads, Limit, Peak, Support,
    cache_folder, is_required,
};
pub use hetra_device_kernels::kernel_ops;
pub use hetra_device_sim::{Faults, Faulty};
pub use hetra_exec::{
    Cancel, Event, ExecError, RunOptions, Seat, Simulated, StepTime, Stop, Trace,
};
pub use hetra_ir::{
    Attr, Attrs, Builder as GraphBuilder, Dim, Graph, Node, NodeId, TensorType, Type, ValueId,
};
pub use hetra_kernel::{Lanes, Source, f16, kernel, kernel_fn};
pub use hetra_machine::{Anchor, DeviceSpec, Figure, LinkSpec, Machine, MachineError, catalogue};
pub use hetra_onnx::{
    ExportError, ExportOptions, ImportError, ImportOptions, Model, ModelInfo, export, import_file,
    import_model,
};
pub use hetra_pass::{Claim, Options as PassOptions, PASSES, Report as PassReport};
pub use hetra_place::POLICIES;
pub use hetra_tensor::{DType, Element, Tensor, TensorError, TensorView, Value};
pub use made_up::made_up;
pub use outputs::Outputs;
pub use pending::Pending;
pub use precision::{Inputs, Int8Report, Precision, PrecisionReport, Verdict};
pub use session::{Port, Session};
pub use tune::{Moment, Stand, TuneOptions, TunedOp, tune};
pub use tuned::{Tuned, device_key, store_path};

/// Limits on what a model may ask for. They hold for the whole process and every session in it,
/// since a tensor is made where no session is known; set them before the first session is built.
pub mod limits {
    pub use hetra_ops::{set_turns_max, turns_max};
    pub use hetra_tensor::{bytes_max, set_bytes_max};
}

use hetra_device::Driver;

/// Every driver that is linked in: the only list of them.
pub static DRIVERS: &[&dyn Driver] = &[
    &hetra_device_cpu::CpuDriver,
    &hetra_device_wgpu::WgpuDriver,
    &hetra_device_opencl::OpenClDriver,
    &hetra_device_openvino::OpenVinoDriver { export: for_delegates },
    &hetra_device_ort::OrtDriver { export: for_delegates },
    &hetra_device_sim::SimDriver { host: &described::Described },
    &hetra_device_sim::FaultDriver { open: described::inner },
];

/// The operator set that other runtimes are told, unless a graph has operators of a later one: one
/// that older versions of theirs know, too.
const DELEGATE_OPSET: u32 = 21;

/// A graph as other runtimes read it.
fn for_delegates(graph: &Graph) -> Result<Vec<u8>, String> {
    let opset = hetra_onnx::opset_of(graph).max(DELEGATE_OPSET);
    let options = ExportOptions { opset, ..ExportOptions::default() };
    export(graph, &options).map_err(|error| error.to_string())
}

/// What each driver found on this machine; asked in processes of their own where there is a command
/// for that ([`probe::set_prober`]).
pub fn devices() -> Vec<Found> {
    probe::devices()
}

/// Opens a device by its id, such as `cpu`, with so many host threads. It works by what was
/// tuned for it ([`Tuned::Found`]); a store that cannot be read counts for nothing.
///
/// # Errors
/// When no driver has such a device; the error lists those that were found.
pub fn open(
    id: &str,
    threads: impl Into<HostThreads>,
) -> Result<std::sync::Arc<dyn Device>, Error> {
    open_tuned(id, threads, &Tuned::Found).map(|(device, _)| device)
}

/// As [`open`], by the schedules that are found there. Says what is wrong with the store.
///
/// # Errors
/// As [`open`].
pub fn open_tuned(
    id: &str,
    threads: impl Into<HostThreads>,
    tuned: &Tuned,
) -> Result<(std::sync::Arc<dyn Device>, Option<String>), Error> {
    let opened = open_by(id, threads.into(), tuned)?;
    Ok((opened.device, opened.warning))
}

/// A device, and what it was opened with.
pub(crate) struct Opened {
    pub(crate) device: std::sync::Arc<dyn Device>,
    pub(crate) schedules: hetra_device::ScheduleTable,
    pub(crate) warning: Option<String>,
}

pub(crate) fn open_by(id: &str, threads: HostThreads, tuned: &Tuned) -> Result<Opened, Error> {
    let Some(driver) = DRIVERS.iter().find(|driver| driver.opens(id)) else {
        let found = devices().into_iter().filter(|found| found.state == DriverState::Found);
        let found = found.map(|found| found.info.id).collect::<Vec<_>>().join(", ");
        return Err(DeviceError::NoDevice { id: id.to_string(), found }.into());
    };
    let found = probe::found(&[driver]);
    // The driver's name alone is the first; a part of a device is described as the whole is.
    let this = found.iter().find(|found| found.info.id == id).or(found.first());
    if let Some(Found { state, hint, .. }) = this
        // What is wrong with the processor's settings is said when it is opened.
        && (*state == DriverState::Missing
            || *state == DriverState::Broken && driver.name() != "cpu")
    {
        return Err(DeviceError::Failed { device: id.to_string(), reason: hint.clone() }.into());
    }
    let (table, fault) = this.map_or_else(Default::default, |found| {
        tuned::table(&DeviceInfo { id: id.to_string(), ..found.info.clone() }, tuned)
    });
    let fault = fault.map(|fault| format!("what was tuned is not used: {fault}"));
    let device = driver.open(id, threads, table.clone())?;
    let all: Vec<String> = fault.into_iter().chain(device.warning()).collect();
    let warning = (!all.is_empty()).then(|| all.join("; "));
    Ok(Opened { device, schedules: table, warning })
}
