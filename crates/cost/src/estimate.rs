//! What a graph takes together.

use crate::demand::Demands;
use crate::roofline::Roofline;

/// How far off an estimate is in half of all cases, in parts of it, for devices that are calibrated
/// and others: docs/SIMULATION.md has the comparison with published results.
const SPREAD: f64 = 0.22;
const SPREAD_UNCALIBRATED: f64 = 0.36;

/// What a graph takes on a device, modelled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Seconds.
    pub seconds: f64,
    /// Joules of the device; none where its power is not known.
    pub joules: Option<f64>,
    /// The estimate is off by less in half of all cases, in parts of it.
    pub spread: f64,
    /// The most bytes of the device's memory that are taken at one time.
    pub memory: f64,
}

/// Kernels one after the other.
pub fn estimate(demands: &Demands, roofline: &Roofline) -> Estimate {
    let (mut seconds, mut busy) = (0.0, 0.0);
    for demand in &demands.kernels {
        let (whole, part) = roofline.seconds(demand);
        seconds += whole;
        busy += part;
    }
    Estimate {
        seconds,
        joules: roofline.joules(seconds, busy),
        spread: if roofline.calibrated { SPREAD } else { SPREAD_UNCALIBRATED },
        memory: demands.memory,
    }
}

#[cfg(test)]
mod tests {
    use hetra_machine::catalogue;

    use super::*;
    use crate::demand::Demand;

    #[test]
    fn kernels_add_up() {
        let roofline = Roofline::of(catalogue().device("h100-sxm").unwrap(), None).unwrap();
        let kernel = Demand { products: 1e9, others: 1e3, bytes: 1e6 };
        let of =
            |count| estimate(&Demands { kernels: vec![kernel; count], memory: 7.0 }, &roofline);
        let (one, three) = (of(1), of(3));
        assert!((three.seconds / one.seconds - 3.0).abs() < 1e-9);
        assert!((three.joules.unwrap() / one.joules.unwrap() - 3.0).abs() < 1e-9);
        assert_eq!((one.memory, one.spread, of(0).seconds), (7.0, SPREAD, 0.0));
    }
}
