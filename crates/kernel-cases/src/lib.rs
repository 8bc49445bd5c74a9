//! Kernels that every device must run alike.
//!
//! `generated.rs` comes from the build script: 200 random kernels. A case runs as rustc compiled
//! it, by the interpreter, and on a device; all must give the same, but for the last digits of
//! functions that round.

mod launches;
mod run;

/// What the build script wrote.
#[allow(
    unused_parens,
    unused_variables,
    unused_mut,
    unused_assignments,
    clippy::all,
    clippy::pedantic,
    reason = "random programs"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/generated.rs"));

    /// The kernels, in order.
    pub(crate) fn all() -> Vec<hetra_kernel::Source> {
        sources()
    }
}

pub use launches::{
    check_clock, check_exhaustion, check_faults, check_generated, check_language, check_spans,
    opened,
};
pub use run::{Case, Outputs, cases, interpreted, native, on, same};
