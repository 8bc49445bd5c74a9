//! Devices that are not there.
//!
//! `sim:h100-sxm` is an entry of the catalogue as a device: it takes parts of a graph, the host
//! computes their results, and what they take is what a model says of the description. Its clock is
//! a virtual one, moved on by each part. [`Faulty`] is any device with faults on demand, of which a
//! described device has its own.
//!
//! Neither how graphs are computed nor how they are modelled is known here: both are given
//! ([`SimDriver`]).

mod device;
mod driver;
mod faults;
mod faulty;
mod options;

pub use device::{Figures, Model, Numbers};
pub use driver::{FaultDriver, Host, Open, SimDriver, described};
pub use faults::Faults;
pub use faulty::Faulty;
