//! What is wrong with the command line, as opposed to what goes wrong at work: exit code 2, not 1.

use std::fmt;

use hetra::group::GroupError;
use hetra::placing::PlanError;
use hetra::{DeviceError, TensorError};
use hetra_ops::OpError;

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
        | hetra::Error::Plan(PlanError::Pin { .. } | PlanError::Twice(_))
        | hetra::Error::Group(
            GroupError::Members(_)
            | GroupError::Devices(_)
            | GroupError::Twice(_)
            | GroupError::DeviceTwice(_)
            | GroupError::Described(_)
            | GroupError::Cores(_)
            | GroupError::Weight { .. },
        )
        | hetra::Error::Device(DeviceError::NoDevice { .. } | DeviceError::Setting { .. }) => {
            usage(error.to_string())
        }
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

/// Parses a number of things of which there has to be one.
pub(crate) fn some(text: &str) -> Result<usize, String> {
    count(text)
        .ok()
        .filter(|&count| count > 0)
        .ok_or("wanted a whole number, 1 or more".to_string())
}

/// Parses a tolerance.
pub(crate) fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value < 0.0 => Err("must not be negative".to_string()),
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("wanted a number, 0 or more".to_string()),
    }
}

/// Parses a number of bytes, at least 1: `500000`, `512MiB`, `2GiB`.
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: Option<usize> = match text[digits.len()..].trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let count = unit.and_then(|unit| digits.parse::<usize>().ok()?.checked_mul(unit));
    count.filter(|count| *count > 0).ok_or_else(|| {
        "wanted bytes, 1 or more, such as 500000, or with a unit: KiB, MiB, GiB or TiB".to_string()
    })
}

/// Whether a tensor was over the limit that `--max-bytes` sets.
pub(crate) fn is_over_bytes(error: &anyhow::Error) -> bool {
    fn op(error: &OpError) -> bool {
        match error {
            OpError::Tensor(TensorError::TooLarge { .. }) => true,
            OpError::Body(body) => op(&body.source),
            _ => false,
        }
    }
    error.chain().any(|cause| {
        cause.downcast_ref::<OpError>().is_some_and(op)
            || matches!(cause.downcast_ref(), Some(TensorError::TooLarge { .. }))
            || matches!(
                cause.downcast_ref(),
                Some(hetra::Error::Tensor(TensorError::TooLarge { .. }))
            )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, wanted) in [("7", 7), ("7B", 7), ("1KiB", 1024), ("2 GiB", 2 << 30)] {
            assert_eq!(bytes(text), Ok(wanted), "{text}");
        }
        for bad in ["", "0", "GiB", "-1", "1GB", "1.5GiB", "99999999TiB", "1xGiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
