//! What can be wrong with a kernel, or with a call of it.

use crate::types::Type;

/// Why a kernel cannot be built or run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum KernelError {
    #[error("kernel `{name}` is too large")]
    TooLarge { name: String },
    #[error("kernel `{name}`: axis {axis}, wanted 0, 1 or 2")]
    Axis { name: String, axis: u32 },
    #[error("kernel `{name}`: helper functions call each other without an end")]
    Recursion { name: String },
    #[error("kernel `{name}`: {reason}")]
    Invalid { name: String, reason: String },
    #[error("kernel `{name}` wants {wanted} constants ({names}), got {got}")]
    Constants { name: String, names: String, wanted: usize, got: usize },
    #[error("kernel `{name}` wants {wanted} arguments, got {got}")]
    Arguments { name: String, wanted: usize, got: usize },
    #[error("kernel `{name}`, argument `{param}`: wanted {wanted}, got {got}")]
    Argument { name: String, param: String, wanted: String, got: String },
    #[error("kernel `{name}`, argument `{param}`: {bytes} bytes are no whole number of {element}")]
    Bytes { name: String, param: String, bytes: usize, element: Type },
    #[error("kernel `{name}`: a grid of {groups:?} groups is too large")]
    Grid { name: String, groups: [u32; 3] },
    #[error("kernel `{name}`: index {index} of `{memory}`, which has {len} elements")]
    OutOfBounds { name: String, memory: String, index: u32, len: usize },
    #[error("kernel `{name}`: items of a group do not reach the same barrier")]
    Divergent { name: String },
    #[error(
        "kernel `{name}`: two items use element {index} of `{memory}` without a barrier, and one writes"
    )]
    Race { name: String, memory: String, index: u32 },
    #[error("kernel `{name}`: an item took more than {limit} steps")]
    Steps { name: String, limit: u64 },
    #[error("kernel `{name}`: {target} has no {what}")]
    Target { name: String, target: &'static str, what: String },
}
