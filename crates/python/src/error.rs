//! Errors as Python has them, with the texts that Hetra has everywhere.

use hetra::ArrayError;
use hetra::array::Class;
use pyo3::exceptions::{
    PyIndexError, PyMemoryError, PyOverflowError, PyRuntimeError, PyTypeError, PyValueError,
};
use pyo3::{PyErr, create_exception};

create_exception!(hetra, DeviceError, PyRuntimeError, "A device is missing, or failed.");
create_exception!(hetra, ModelError, PyRuntimeError, "A model cannot be loaded or run.");

/// An error of arrays.
pub(crate) fn of_array(error: ArrayError) -> PyErr {
    let text = error.to_string();
    match error.class() {
        Class::Type => PyTypeError::new_err(text),
        Class::Index => PyIndexError::new_err(text),
        Class::Memory => PyMemoryError::new_err(text),
        Class::Range => PyOverflowError::new_err(text),
        Class::Value => PyValueError::new_err(text),
        Class::Run => DeviceError::new_err(text),
    }
}

/// An error of a session.
pub(crate) fn of_session(error: hetra::Error) -> PyErr {
    let text = error.to_string();
    match error {
        hetra::Error::Name { .. } | hetra::Error::Symbol { .. } | hetra::Error::Pass { .. } => {
            PyValueError::new_err(text)
        }
        hetra::Error::Device(_) => DeviceError::new_err(text),
        _ => ModelError::new_err(text),
    }
}
