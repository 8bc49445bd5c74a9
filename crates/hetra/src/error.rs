//! What can go wrong with a session.

use hetra_device::DeviceError;
use hetra_exec::ExecError;
use hetra_ir::{VerifyError, nearest};
use hetra_onnx::ImportError;
use hetra_pass::OutputError;
use hetra_tensor::TensorError;
use hetra_tune::store::StoreError;

use crate::group::GroupError;
use crate::placing::PlanError;

/// Why a session could not be built or run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no model was given")]
    NoModel,
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("the graph is malformed: {}", list(.0))]
    Graph(Vec<VerifyError>),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("the model has no {what} `{name}`; it has {known}{}", hint(.nearest.as_deref()))]
    Name { what: &'static str, name: String, known: String, nearest: Option<String> },
    #[error("input `{name}` is given twice")]
    Twice { name: String },
    #[error("input `{input}`: wanted {symbol} = {wanted}, as in input `{other}`, got {got}")]
    Symbol { input: String, symbol: String, wanted: usize, other: String, got: usize },
    #[error("there is no pass `{name}`; there are {known}")]
    Pass { name: String, known: String },
    #[error("{waiting} runs wait in the background already; wait for one of them")]
    Busy { waiting: usize },
    #[error("no thread for runs in the background: {0}")]
    Thread(std::io::Error),
    #[error("the session may make no runs at all: wanted at least 1 at one time")]
    NoRuns,
    #[error("a device that is open is given: it has its id and its threads already")]
    TwoDevices,
    #[error("the largest error is {0}: wanted a number from 0 on")]
    MaxError(f64),
    #[error("no calibration inputs: the error of a precision is measured on some")]
    NoCalibration,
    #[error("calibration inputs {index}: `{value}` is not finite, so that it has no codes")]
    NotFinite { value: String, index: usize },
    #[error("the session does not keep what int8 needs: build it as quantisable")]
    NotQuantisable,
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error("a plan says which devices there are: no other one is given beside it")]
    PlanAndDevice,
    #[error("the run was lost: its thread ended early")]
    Lost,
}

fn list(errors: &[VerifyError]) -> String {
    errors.iter().map(VerifyError::to_string).collect::<Vec<_>>().join("; ")
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or(String::new(), |name| format!("; did you mean `{name}`?"))
}

impl Error {
    /// A name that is none of `known`.
    pub(crate) fn name<'a>(
        what: &'static str,
        name: &str,
        known: impl Iterator<Item = &'a str> + Clone,
    ) -> Error {
        let nearest = nearest(name, known.clone()).map(str::to_string);
        let known = known.collect::<Vec<_>>().join(", ");
        Error::Name { what, name: name.to_string(), known, nearest }
    }
}
