//! A number with its source.

use serde::{Deserialize, Serialize};

/// A number of a device or link, and where it is from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// The number, in the unit that the field's name says, else in bytes, seconds, watts or
    /// operations per second; a multiply-add counts as two.
    pub value: f64,
    /// Who says so; `assumption: ..` where nobody does.
    pub source: String,
    /// When it was so, where that matters: of prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Whether it was measured on the device, or fitted to what was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub calibrated: bool,
}

impl Figure {
    /// A number that was measured now.
    pub fn measured(value: f64, source: &str) -> Figure {
        Figure { value, source: source.to_string(), date: None, calibrated: true }
    }
}
