//! What a graph takes on a device that is described and not there.
//!
//! A device is a [`Roofline`] of the figures of its [`hetra_machine::DeviceSpec`]; a graph is a
//! list of kernels, each a [`Demand`], after the passes have joined what any good runtime joins
//! ([`joined`]). [`Estimate`] says what they take together, how far off that may be, and in joules,
//! where the device's power is known. [`dollars_per_hour`] is what a device costs.
//!
//! Pure: no clock, no device, no file. Nothing here is measured, and whoever shows it says so.

mod demand;
mod estimate;
mod feature;
mod fit;
mod price;
mod roofline;

pub use demand::{Demand, Demands, demands, joined};
pub use estimate::{Estimate, estimate};
pub use feature::{KernelRow, kernel_rows};
pub use fit::{Fitted, Point, fit};
pub use price::{PRICED_YEARS, dollars_per_hour};
pub use roofline::{CostError, Roofline};
