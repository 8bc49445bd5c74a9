//! What is wrong with the command line, as opposed to what goes wrong at work: exit code 2, not 1.

use std::fmt;

use hetra::DeviceError;

/// The command line asks for what is not there, or for nonsense.
#[derive(Debug)]
struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// An error of the command line.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

/// The command line's error in one of a library's; others stay what they are.
pub(crate) fn or_usage(error: hetra::Error) -> anyhow::Error {
    match &error {
        hetra::Error::Name { .. }
        | hetra::Error::Pass { .. }
        | hetra::Error::Device(DeviceError::NoDevice { .. }) => usage(error.to_string()),
        _ => error.into(),
    }
}

/// Whether the command line is at fault.
pub(crate) fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Usage>())
}

/// Parses a number of things.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "wanted a whole number, 0 or more".to_string())
}

/// Parses a tolerance.
pub(crate) fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value < 0.0 => Err("must not be negative".to_string()),
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("wanted a number, 0 or more".to_string()),
    }
}
