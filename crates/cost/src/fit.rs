//! Fits the figures of a roofline to what was measured.

use crate::demand::Demands;

/// A graph that was timed.
#[derive(Clone, Debug)]
pub struct Point {
    /// What its kernels ask for.
    pub demands: Demands,
    /// Seconds.
    pub seconds: f64,
}

/// Figures of a roofline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fitted {
    /// Seconds to begin a kernel.
    pub launch_s: f64,
    /// Of the operations per second, and of the bytes per second, what kernels reach.
    pub compute: f64,
    /// See `compute`.
    pub memory: f64,
    /// How far it is off in half of the points, in parts.
    pub error: f64,
}

/// Steps of the search: each halves what is tried beside the best so far.
const ROUNDS: usize = 12;

/// The start and the two efficiencies with the least sum of absolute logarithms of predicted over
/// measured, found by trying steps in each direction; `launch_s` is where the start begins.
pub fn fit(points: &[Point], launch_s: f64, ops_s: f64, bytes_s: f64) -> Fitted {
    let predicted = |[launch, compute, memory]: [f64; 3], point: &Point| -> f64 {
        let kernel = |demand: &crate::demand::Demand| {
            let computes = (demand.products + demand.others) / (ops_s * compute);
            launch + computes.max(demand.bytes / (bytes_s * memory))
        };
        point.demands.kernels.iter().map(kernel).sum()
    };
    let errors = |at: [f64; 3]| {
        points.iter().map(move |point| (predicted(at, point).max(1e-12) / point.seconds).ln().abs())
    };
    let loss = |at: [f64; 3]| errors(at).sum::<f64>();
    let mut best = [launch_s, 0.5, 0.5];
    let mut least = loss(best);
    let mut step = 2f64;
    for _ in 0..ROUNDS {
        let mut moved = true;
        while moved {
            moved = false;
            for axis in 0..3 {
                for factor in [step, 1.0 / step] {
                    let mut next = best;
                    let most = if axis == 0 { f64::INFINITY } else { 1.0 };
                    next[axis] = (next[axis] * factor).clamp(1e-9, most);
                    let found = loss(next);
                    if found < least * (1.0 - 1e-9) {
                        (best, least, moved) = (next, found, true);
                    }
                }
            }
        }
        step = step.sqrt();
    }
    let mut all: Vec<f64> = errors(best).map(|error| error.exp() - 1.0).collect();
    all.sort_by(f64::total_cmp);
    let error = all.get(all.len() / 2).copied().unwrap_or(0.0);
    Fitted { launch_s: best[0], compute: best[1], memory: best[2], error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demand::Demand;

    #[test]
    fn what_made_the_points_is_found() {
        let (ops_s, bytes_s) = (1e12, 1e11);
        let point = |products: f64, bytes: f64| {
            let demand = Demand { products, others: 0.0, bytes };
            let seconds = 3e-6 + (products / (ops_s * 0.6)).max(bytes / (bytes_s * 0.8));
            Point { demands: Demands { kernels: vec![demand], memory: 0.0 }, seconds }
        };
        let sizes = [1e3, 1e5, 1e6, 1e7, 1e9];
        let points: Vec<Point> =
            sizes.iter().flat_map(|&size| [point(size, 1e2), point(1e2, size)]).collect();
        let found = fit(&points, 1e-6, ops_s, bytes_s);
        let near = |got: f64, wanted: f64| assert!((got / wanted - 1.0).abs() < 0.02, "{found:?}");
        near(found.launch_s, 3e-6);
        near(found.compute, 0.6);
        near(found.memory, 0.8);
        assert!(found.error < 0.02);
    }
}
